-- pgmq's queues and the triggers on their tables.

-- The one place that knows how pgmq names a queue's table: `q_` and the queue's name, in lower case
-- (pgmq.format_table_name); the cast cuts it where Postgres cuts identifiers.
CREATE FUNCTION aimq._table(queue text) RETURNS name
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$ SELECT lower('q_' || queue)::name $$;
COMMENT ON FUNCTION aimq._table(text) IS 'The name of a queue''s table. Internal';

-- A function under the view, since a function runs with the privileges of who asks, and a view before
-- PostgreSQL 15 with those of its owner.
CREATE FUNCTION aimq._queues() RETURNS TABLE (
        queue text, partitioned boolean, unlogged boolean, realtime boolean, channel text, event text,
        created_at timestamptz, relation oid, relation_name name
    )
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT m.queue_name::text,
           m.is_partitioned,
           m.is_unlogged,
           t.oid IS NOT NULL,
           convert_from(substring(t.tgargs, 1, channel.length), getdatabaseencoding()),
           convert_from(substring(t.tgargs, channel.length + 2, event.length), getdatabaseencoding()),
           m.created_at,
           c.oid,
           q.name
      FROM pgmq.meta m
     CROSS JOIN LATERAL aimq._table(m.queue_name::text) q (name)
      LEFT JOIN pg_class c
             ON c.relnamespace = 'pgmq'::regnamespace
            AND c.relname = q.name
      LEFT JOIN pg_trigger t
             ON t.tgrelid = c.oid
            AND t.tgname = 'aimq_realtime'
            AND t.tgfoid = 'aimq.realtime_trigger()'::regprocedure
            AND t.tgenabled <> 'D'
            -- As aimq.enable_realtime attaches it: BEFORE INSERT FOR EACH ROW, three arguments.
            AND t.tgtype = 7 AND t.tgqual IS NULL AND t.tgnargs = 3
      -- tgargs holds the arguments one after the other, each with a NUL byte behind it.
      LEFT JOIN LATERAL (
            SELECT position(decode('00', 'hex') IN t.tgargs) - 1 AS length
           ) channel ON true
      LEFT JOIN LATERAL (
            SELECT position(decode('00', 'hex') IN substring(t.tgargs, channel.length + 2)) - 1 AS length
           ) event ON true
$$;
COMMENT ON FUNCTION aimq._queues() IS 'What the view aimq.queues shows, and more. Internal';

CREATE VIEW aimq.queues AS
    SELECT queue, partitioned, unlogged, realtime, channel, event FROM aimq._queues();
COMMENT ON VIEW aimq.queues IS 'Every queue of pgmq, and whether its workers are woken';
COMMENT ON COLUMN aimq.queues.queue IS 'The name as pgmq.meta has it';
COMMENT ON COLUMN aimq.queues.partitioned IS 'Made by pgmq.create_partitioned';
COMMENT ON COLUMN aimq.queues.unlogged IS 'Made by pgmq.create_unlogged';
COMMENT ON COLUMN aimq.queues.realtime IS 'Whether the queue''s table carries the trigger aimq_realtime, and it is not disabled';
COMMENT ON COLUMN aimq.queues.channel IS 'The channel that workers LISTEN on; null if not realtime';
COMMENT ON COLUMN aimq.queues.event IS 'The event that payloads name; null if not realtime';
