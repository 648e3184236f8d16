-- The part of aimq.doctor() that is about the server and not about one queue.
CREATE FUNCTION aimq._doctor_server(has_realtime boolean)
    RETURNS TABLE (severity text, subject text, problem text, hint text)
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH activity AS (SELECT pid, backend_type, state, wait_event FROM pg_stat_activity),
    -- The processes that have a slot of max_worker_processes, and show themselves. Workers of parallel queries come and
    -- go: the slots are wanted for them.
    workers AS (
        SELECT count(*) FILTER (WHERE backend_type ^@ 'aimq ') AS ours, count(*) AS taken,
               current_setting('max_worker_processes')::integer AS slots
          FROM activity
         WHERE backend_type NOT IN ('client backend', 'parallel worker', 'autovacuum launcher', 'autovacuum worker',
                                    'background writer', 'checkpointer', 'walwriter', 'walsender', 'walreceiver',
                                    'walsummarizer', 'startup', 'archiver', 'logger', 'slotsync worker', 'io worker',
                                    'standalone backend')
    )
    SELECT 'info', 'server', 'it is a standby: nobody is woken here before it is promoted',
           'Have workers listen on the primary.'
     WHERE has_realtime AND pg_is_in_recovery()
    UNION ALL
    -- An idle session has nothing to write but notifications. If it waits in a write, its client has no room for them.
    SELECT 'warning', 'NOTIFY',
           format('the session of process %s listens, and its client does not take what it is sent: that keeps the queue of all notifications from being emptied', pid),
           format('If its client hangs, run SELECT pg_terminate_backend(%s); A client that works on its jobs has to read the connection that listens meanwhile.', pid)
      FROM activity WHERE backend_type = 'client backend' AND state = 'idle' AND wait_event = 'ClientWrite'
    UNION ALL
    SELECT 'warning', 'server',
           format('of %s worker slots %s are taken, %s of them by aimq: parallel queries and logical replication get %s',
                  slots, taken, ours, CASE WHEN taken >= slots THEN 'none' ELSE 'one' END),
           format('Run ALTER SYSTEM SET max_worker_processes = %s; and restart the server. A standby needs it first.', taken + 8)
      FROM workers WHERE ours > 0 AND slots - taken < 2
    UNION ALL
    SELECT 'warning', 'server',
           format('all %s places for sessions that block in aimq.read and aimq.wait are taken, by this database''s and others'': a session that blocks now polls', most),
           format('Run ALTER SYSTEM SET aimq.max_waiters = %s; and restart the server.',
                  least(2 * most, (SELECT max_val::integer FROM pg_settings WHERE name = 'aimq.max_waiters')))
      FROM (SELECT current_setting('aimq.max_waiters')::integer AS most) setting WHERE NOT aimq._has_place()
$$;
COMMENT ON FUNCTION aimq._doctor_server(boolean) IS 'What aimq.doctor shows of the server. Internal';
