-- Is anybody really listening? A session that has gone deaf looks as any other in pg_stat_activity: ask the worker itself.
CREATE FUNCTION aimq.ping(reply_to text, channel text DEFAULT 'aimq:jobs') RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$ SELECT pg_notify($2, json_build_object('event', 'ping', 'reply_to', $1)::text) $$;
COMMENT ON FUNCTION aimq.ping(text, text) IS
    'Asks the workers that listen on a channel to answer on the channel reply_to, where the caller listens. Sent at commit';
