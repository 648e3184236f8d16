-- What keeps wake-ups from workers, or will: one row for each problem, none where all is well. Reads catalogs and counters,
-- and no queue's table.
CREATE FUNCTION aimq.doctor() RETURNS TABLE (severity text, subject text, problem text, hint text)
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH queues AS (SELECT * FROM aimq._queues()),
    notifier AS (SELECT * FROM aimq.notifiers WHERE database = current_database()),
    -- Triggers of the queues' tables, and of those of archived messages.
    triggers AS (
        SELECT q.queue, q.realtime, t.*
          FROM queues q JOIN pg_trigger t ON t.tgrelid IN (q.relation, q.archive) AND NOT t.tgisinternal
    ),
    broadcast AS (
        SELECT q.queue, b.* FROM queues q CROSS JOIN LATERAL aimq._broadcast(q.relation) b WHERE q.sink <> 'notify'
    ),
    settings AS (
        SELECT coalesce('role ' || r.rolname, 'database ' || d.datname, 'all roles') AS subject,
               split_part(setting, '=', 1) AS name, split_part(setting, '=', 2) AS value,
               format('Run ALTER %s RESET %s, if that is not meant.',
                      CASE WHEN r.rolname IS NULL AND d.datname IS NULL THEN 'ROLE ALL'
                           WHEN r.rolname IS NULL THEN format('DATABASE %I', d.datname)
                           WHEN d.datname IS NULL THEN format('ROLE %I', r.rolname)
                           ELSE format('ROLE %I IN DATABASE %I', r.rolname, d.datname) END,
                      split_part(setting, '=', 1)) AS hint
          FROM pg_db_role_setting s
         CROSS JOIN unnest(s.setconfig) setting
          LEFT JOIN pg_roles r ON r.oid = s.setrole
          LEFT JOIN pg_database d ON d.oid = s.setdatabase
         WHERE (s.setdatabase = 0 OR d.datname = current_database())
           AND (setting ^@ 'aimq.enabled=' OR setting ^@ 'aimq.delivery=')
           AND NOT (setting ~* '^aimq.enabled=(on|true|yes|1)$' OR setting = 'aimq.delivery=auto')
         UNION ALL
        SELECT CASE WHEN source IN ('client', 'session') THEN 'this session' ELSE 'server' END, name, setting,
               format('It comes from the %s. Reset it there, if that is not meant.', source)
          FROM pg_settings
         WHERE name IN ('aimq.enabled', 'aimq.delivery') AND setting <> boot_val
           AND source IN ('configuration file', 'command line', 'environment variable', 'client', 'session')
    )
    SELECT 'error', q.queue, 'the queue has no table',
           format('Create it with SELECT aimq.create_queue(%1$L). If it was renamed, give it back its name; if it was dropped and the queue is to be gone too, run SELECT pgmq.create(%1$L), pgmq.drop_queue(%1$L).', q.queue)
      FROM queues q WHERE q.relation IS NULL
    UNION ALL
    SELECT 'error', queue, format('the trigger %s is disabled', tgname),
           format('Run ALTER TABLE %s ENABLE TRIGGER %I, which keeps what it says.', tgrelid::regclass, tgname)
      FROM triggers
     WHERE tgenabled = 'D'
       AND tgfoid IN ('aimq.realtime_trigger()'::regprocedure, 'aimq.event_trigger()'::regprocedure)
    UNION ALL
    SELECT 'error', q.queue, 'the trigger aimq_realtime is missing, and others of aimq''s are there: nobody is woken for what is enqueued',
           format('Run SELECT aimq.enable_realtime(%L), with the channel of its workers.', q.queue)
      FROM queues q
     WHERE EXISTS (SELECT FROM triggers t WHERE t.queue = q.queue AND t.tgname ^@ 'aimq_realtime_')
       AND NOT EXISTS (SELECT FROM triggers t WHERE t.queue = q.queue AND t.tgname = 'aimq_realtime')
    UNION ALL
    SELECT 'warning', q.queue, 'nobody is woken for messages that become readable later: the trigger aimq_realtime_vt is missing, which a former release did not have',
           format('Run SELECT aimq.enable_realtime(%L), with the channel of its workers.', q.queue)
      FROM queues q
     WHERE q.realtime AND NOT EXISTS (SELECT FROM triggers t WHERE t.queue = q.queue AND t.tgname = 'aimq_realtime_vt')
    UNION ALL
    SELECT 'warning', q.queue, 'the table has no index on vt: each look of the notifier reads all of it',
           format('Run CREATE INDEX ON pgmq.%I (vt).', q.relation_name)
      FROM queues q
     WHERE q.realtime
       AND NOT EXISTS (
            SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
             WHERE i.indrelid = q.relation AND i.indisvalid AND i.indpred IS NULL AND a.attname = 'vt')
    UNION ALL
    SELECT 'warning', queue, 'pgmq''s own trigger notifies: it drops wake-ups, or has producers wait for each other',
           CASE WHEN realtime THEN format('Once nobody listens to that any more, run SELECT pgmq.disable_notify_insert(%L).', queue)
                ELSE format('Run SELECT aimq.adopt_pgmq_notify(%L), which serves its listeners.', queue) END
      FROM triggers WHERE tgname = 'trigger_notify_queue_insert_listeners' AND tgenabled <> 'D'
    UNION ALL
    SELECT 'warning', queue, format('AIMQ''s former trigger %s broadcasts each message within the enqueue', tgname),
           format('Run the migration of docs/adoption.md; or, once nobody listens to that any more, DROP TRIGGER %I ON %s.',
                  tgname, tgrelid::regclass)
      FROM triggers
     WHERE tgfoid = to_regprocedure('aimq.pgmq_notify_job_enqueued()') AND tgenabled <> 'D'
    UNION ALL
    SELECT 'error', queue, 'it is to be broadcast, and there is no function realtime.send(jsonb, text, text, boolean)',
           'Enable Supabase Realtime in this database, or choose the sink "notify".'
      FROM broadcast WHERE NOT is_there
    UNION ALL
    SELECT 'error', queue, 'it is to be broadcast, and the owner of its table may not call realtime.send',
           'Grant the owner USAGE on the schema realtime and EXECUTE on the function.'
      FROM broadcast WHERE is_there AND NOT is_allowed
    UNION ALL
    SELECT 'error', queue, 'it is to be broadcast, and realtime.send belongs neither to a superuser nor to the owner of the database, or to the latter while the queue''s table is a superuser''s',
           'Find out whose function that is: the notifier does not call a stranger''s.'
      FROM broadcast WHERE is_there AND NOT is_trusted
    UNION ALL
    -- What goes on to fail is tried at least each 5 s.
    SELECT CASE WHEN last_failed_broadcast > now() - interval '10 seconds' THEN 'error' ELSE 'warning' END, queue,
           format('%s broadcasts failed, the last one of %s, and %s did not; each was or will be tried again',
                  failed_broadcasts, last_failed_broadcast, broadcasts),
           'The server''s log has the messages.'
      FROM aimq.stats WHERE last_failed_broadcast > now() - interval '1 hour'
    UNION ALL
    SELECT 'error', queue, 'it is not broadcast: no notifier runs for this database', 'See the subject notifier.'
      FROM broadcast WHERE NOT EXISTS (SELECT FROM notifier WHERE state IN ('running', 'starting'))
    UNION ALL
    SELECT 'warning', 'notifier', format('none runs for this database%s: transactions notify themselves, and nobody is woken for messages that become readable later',
                                         (SELECT ' (' || state || ')' FROM notifier WHERE state <> 'none')),
           CASE WHEN (SELECT state FROM notifier) = 'no slot' THEN 'Raise max_worker_processes and restart the server.'
                WHEN aimq._is_preloaded() THEN
                    'It begins with the next enqueue or blocking call. If it does not, there may be no slot for it: raise max_worker_processes and restart the server.'
                WHEN current_setting('server_version_num')::integer >= 170000 THEN
                    'It begins with the next enqueue or blocking call. For one that is there after each restart, add aimq to shared_preload_libraries and restart the server; see also max_worker_processes.'
                ELSE 'Add aimq to shared_preload_libraries and restart the server; see also max_worker_processes.' END
     WHERE EXISTS (SELECT FROM queues WHERE realtime)
       AND NOT EXISTS (SELECT FROM notifier WHERE state IN ('running', 'starting'))
    UNION ALL
    SELECT CASE WHEN last_error_at > now() - interval '10 seconds' THEN 'error' ELSE 'warning' END, 'notifier',
           format('%s failures, the last one of %s with SQLSTATE %s; each was tried again', errors, last_error_at, last_error),
           'The server''s log has the messages.'
      FROM notifier WHERE errors > 0 AND last_error_at > now() - interval '1 hour'
    UNION ALL
    SELECT 'warning', 'NOTIFY', format('its queue is full to %s %%; at 75 %% no notification of ours is added', round((100 * usage)::numeric)),
           'Look for a session that listens and stays idle in a transaction.'
      FROM pg_notification_queue_usage() usage WHERE usage >= 0.25
    UNION ALL
    SELECT 'warning', subject,
           format(CASE name WHEN 'aimq.enabled' THEN 'it has %s=%s: what is enqueued there wakes nobody'
                  ELSE 'it has %s=%s: not the default, by which a notifier takes over where there is one' END, name, value),
           hint
      FROM settings
$$;
COMMENT ON FUNCTION aimq.doctor() IS
    'What keeps wake-ups from workers, or will: a row for each problem, none where all is well. Needs SELECT on pgmq.meta';
