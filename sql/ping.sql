-- Is anybody really listening? A session that has gone deaf looks as any other in pg_stat_activity: ask the worker
-- itself.
CREATE FUNCTION aimq.ping(reply_to text, channel text DEFAULT 'aimq:jobs') RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (octet_length($1) BETWEEN 1 AND 63) IS NOT TRUE OR (octet_length($2) BETWEEN 1 AND 63) IS NOT TRUE THEN
        RAISE SQLSTATE '42602' USING
            MESSAGE = 'reply_to and channel must be channels',
            DETAIL = 'A channel has 1 to 63 bytes.',
            HINT = 'Name the channel on which you listen as reply_to, and the one of the workers as channel.';
    END IF;
    PERFORM pg_notify($2, json_build_object('event', 'ping', 'reply_to', $1)::text);
END
$$;
COMMENT ON FUNCTION aimq.ping(text, text) IS
    'Asks the workers that listen on a channel to answer on the channel reply_to, where the caller listens. Sent at commit';
