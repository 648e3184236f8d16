-- What keeps wake-ups from workers, or will: one row for each problem, none where all is well. It reads catalogs and
-- counters, but no queue's table. A hint that can be followed as it stands says "run", then statements, each with its
-- semicolon. Where there are several ways, all but the first one begin with "Or".
CREATE FUNCTION aimq.doctor() RETURNS TABLE (severity text, subject text, problem text, hint text)
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH queues AS (SELECT * FROM aimq._queues()),
    kinds AS (SELECT * FROM aimq._kinds()),
    notifier AS (SELECT * FROM aimq.notifiers WHERE database = current_database()),
    counters AS (SELECT * FROM aimq._queue_counters()),
    stuck AS (SELECT 'For another process in its place, run SELECT pg_terminate_backend(%1$s); One that was stopped ends only when it goes on: kill -CONT %1$s on the server''s machine.' AS stuck),
    -- Triggers of the queues' tables, and of those of archived messages.
    triggers AS (
        SELECT q.queue, q.realtime, t.*, t.tgfoid = ANY (ARRAY(SELECT DISTINCT function FROM kinds)) AS is_ours
          FROM queues q JOIN pg_trigger t ON t.tgrelid IN (q.relation, q.archive) AND NOT t.tgisinternal
    ),
    -- The trigger that tells of archived messages is on their table, and its news is broadcast as the owner of that
    -- table.
    broadcast AS (
        SELECT q.queue, format('pgmq.%I', c.relname) AS "table", quote_ident(r.rolname) AS owner, b.*,
               aimq._call(q.queue, q.channel, q.event, CASE WHEN q.ids THEN 'ids' ELSE '' END, q.events[2:]) || ';' AS without
          FROM queues q
          JOIN pg_class c ON c.oid = q.relation OR c.oid = q.archive AND 'job_archived' = ANY (q.events)
          JOIN pg_roles r ON r.oid = c.relowner
         CROSS JOIN LATERAL aimq._broadcast(c.oid) b
         WHERE q.sink <> 'notify'
    ),
    owners AS (
        SELECT q.queue, format('pgmq.%I', c.relname) AS "table", quote_ident(r.rolname) AS owner,
               has_schema_privilege(r.oid, 'pgmq', 'USAGE') AS may_use, has_table_privilege(r.oid, c.oid, 'SELECT') AS may_read,
               c.relrowsecurity AND c.relforcerowsecurity AND NOT (r.rolsuper OR r.rolbypassrls) AS is_bound
          FROM queues q JOIN pg_class c ON c.oid = q.relation JOIN pg_roles r ON r.oid = c.relowner
         WHERE q.realtime
    ),
    named AS (SELECT * FROM aimq._attached()),
    astray AS (SELECT * FROM named WHERE is_pgmqs AND NOT relation = ANY (SELECT aimq._listed())),
    -- How a queue is enabled again as it was: by what the triggers of its own tables say, or else the triggers of
    -- tables in pgmq's schema that name it. Triggers elsewhere may have been written by anybody.
    told AS (
        SELECT q.queue, true AS is_own, a.channel, a.event, a.options, a.events
          FROM named a JOIN queues q ON q.relation = a.relation
         UNION ALL
        SELECT q.queue, true, a.channel, a.event, a.options, a.events
          FROM named a JOIN queues q ON q.archive = a.relation
         UNION ALL
        SELECT a.queue, false, a.channel, a.event, a.options, a.events FROM astray a
    ),
    said AS (
        SELECT queue,
               aimq._call(queue,
                          (array_agg(channel ORDER BY is_own DESC, event IS NULL))[1],
                          (array_agg(event ORDER BY is_own DESC) FILTER (WHERE event IS NOT NULL))[1],
                          (array_agg(options ORDER BY is_own DESC, event IS NULL))[1],
                          array_remove(array_agg(DISTINCT e.name), NULL)) AS call
          FROM told LEFT JOIN LATERAL unnest(events) e (name) ON true
         GROUP BY queue
    ),
    -- Queues whose table was renamed or moved with its triggers. A stranger's table is not proposed: he may have other
    -- triggers on it.
    lost AS (
        SELECT DISTINCT ON (q.queue) q.queue, a.relation,
               format(CASE WHEN is_pgmqs THEN 'ALTER TABLE %s RENAME TO %I;' ELSE 'ALTER TABLE %s SET SCHEMA pgmq;' END,
                      a."table", q.relation_name) AS mend
          FROM queues q JOIN named a ON a.queue = q.queue AND a.has_own AND a.is_trusted
         WHERE q.relation IS NULL AND (a.is_pgmqs OR a.relation_name = q.relation_name)
           AND NOT EXISTS (SELECT FROM queues o WHERE o.relation = a.relation)
         ORDER BY q.queue, a.realtime DESC, a.is_pgmqs DESC, a.relation
    ),
    settings AS (
        SELECT coalesce('role ' || r.rolname, 'database ' || d.datname, 'all roles') AS subject, name, value,
               format('If that is not meant, run ALTER %s RESET %s;',
                      CASE WHEN r.rolname IS NULL AND d.datname IS NULL THEN 'ROLE ALL'
                           WHEN r.rolname IS NULL THEN format('DATABASE %I', d.datname)
                           WHEN d.datname IS NULL THEN format('ROLE %I', r.rolname)
                           ELSE format('ROLE %I IN DATABASE %I', r.rolname, d.datname) END, name) AS hint
          FROM pg_db_role_setting s
         CROSS JOIN unnest(s.setconfig) setting
         CROSS JOIN LATERAL (SELECT split_part(setting, '=', 1) AS name, split_part(setting, '=', 2) AS value) v
          LEFT JOIN pg_roles r ON r.oid = s.setrole
          LEFT JOIN pg_database d ON d.oid = s.setdatabase
         WHERE (s.setdatabase = 0 OR d.datname = current_database())
           AND (name = 'aimq.enabled' AND value !~* '^(on|t|tr|tru|true|y|ye|yes|1)$' OR name = 'aimq.delivery' AND lower(value) <> 'auto'
                OR name = 'session_replication_role' AND lower(value) = 'replica')
         UNION ALL
        SELECT CASE WHEN source IN ('client', 'session') THEN 'this session' ELSE 'server' END, name, setting,
               CASE WHEN source IN ('client', 'session') THEN format('If that is not meant, run SET %s = %L;', name, boot_val)
                    WHEN source <> 'configuration file' THEN
                        format('It comes from the %s. Start the server without it, if it is not meant.', source)
                    -- Another file is read before postgresql.auto.conf, so ALTER SYSTEM wins over it.
                    ELSE format('If that is not meant, run ALTER SYSTEM %s; SELECT pg_reload_conf();',
                                CASE WHEN sourcefile LIKE '%postgresql.auto.conf' THEN format('RESET %s', name)
                                     ELSE format('SET %s = %L', name, boot_val) END) END
          FROM pg_settings
         WHERE (name IN ('aimq.enabled', 'aimq.delivery') AND setting <> boot_val
                OR name = 'session_replication_role' AND setting = 'replica')
           AND source IN ('configuration file', 'command line', 'environment variable', 'client', 'session')
    )
    SELECT 'error', q.queue, 'the queue has no table',
           'Run ' || coalesce(
               l.mend,
               -- Made as it was, where anything tells how it was.
               CASE WHEN partitioned THEN format('SELECT pgmq.create_partitioned(%L);', q.queue)
                    WHEN unlogged THEN format('SELECT pgmq.create_unlogged(%L);', q.queue)
                    WHEN s.call IS NOT NULL THEN format('SELECT pgmq.create(%L);', q.queue)
                    ELSE format('SELECT aimq.create_queue(%L);', q.queue) END
               || coalesce(' ' || s.call || ';', CASE WHEN partitioned OR unlogged THEN format(' SELECT aimq.enable_realtime(%L);', q.queue) ELSE '' END))
           || format(' Or, if the queue is to be gone, run SELECT pgmq.create(%1$L); SELECT pgmq.drop_queue(%1$L);', q.queue)
      FROM queues q LEFT JOIN lost l USING (queue) LEFT JOIN said s USING (queue) WHERE q.relation IS NULL
    UNION ALL
    SELECT CASE tgenabled WHEN 'D' THEN 'error' ELSE 'warning' END, queue,
           format(CASE tgenabled WHEN 'D' THEN 'the trigger %s is disabled' ELSE 'the trigger %s fires only for what is replicated' END, tgname),
           format(CASE tgenabled WHEN 'D' THEN 'Run ALTER TABLE %s ENABLE TRIGGER %I;' ELSE 'If that is not meant, run ALTER TABLE %s ENABLE TRIGGER %I;' END,
                  tgrelid::regclass, tgname)
      FROM triggers
     WHERE tgenabled IN ('D', 'R')
       AND is_ours
    UNION ALL
    -- A trigger of another name fires beside ours, or fails each statement. One of our names in another shape does
    -- nothing, or fails.
    SELECT 'error', t.queue, format('the trigger %s is not as aimq attaches it', t.tgname),
           format('Run DROP TRIGGER %I ON %s; %s;', t.tgname, t.tgrelid::regclass, coalesce(s.call, aimq._call(t.queue, NULL, NULL, '', '{}')))
      FROM triggers t LEFT JOIN said s USING (queue)
     WHERE t.is_ours
       AND (t.tgqual IS NOT NULL OR t.tgnargs NOT IN (3, 4)
            -- Those that tell of events are as good in the shapes of earlier releases.
            OR NOT EXISTS (SELECT FROM kinds k
                            WHERE k.name::name = t.tgname AND (k.event IS NOT NULL OR k.tgtype = t.tgtype)))
    UNION ALL
    SELECT 'error', q.queue, 'the trigger aimq_realtime is missing, and other triggers of aimq are there: nobody is woken for what is enqueued',
           format('Run %s;', s.call)
      FROM queues q JOIN said s USING (queue)
     WHERE EXISTS (SELECT FROM triggers t WHERE t.queue = q.queue AND t.tgname ^@ 'aimq_realtime_')
       AND NOT EXISTS (SELECT FROM triggers t WHERE t.queue = q.queue AND t.tgname = 'aimq_realtime')
    UNION ALL
    -- A queue's table was renamed, and pgmq has made another one.
    SELECT CASE WHEN is_silent THEN 'error' ELSE 'warning' END, q.queue,
           format(CASE WHEN is_silent THEN 'nobody is woken for what is enqueued to %2$s: its triggers are on %1$s'
                  ELSE 'its workers are woken for %1$s as well, which is not its table: the triggers there name it' END,
                  a."table", format('pgmq.%I', q.relation_name)),
           CASE WHEN is_silent THEN format('Run %s; Or, where %s is no queue any more, or nobody is to be woken, run %s;', s.call, a."table", a.drops)
           ELSE format('If that is not meant, run %s;', a.drops) END
      FROM astray a
      JOIN queues q ON q.relation_name = aimq._table(a.queue) AND q.relation IS NOT NULL
      JOIN said s ON s.queue = a.queue
     CROSS JOIN LATERAL (SELECT a.realtime AND NOT q.realtime AS is_silent) t
     WHERE a.fires
    UNION ALL
    SELECT 'error', q.queue, format('its triggers name another queue, "%s": its workers are not told of it', a.queue),
           format('Run %s;', s.call)
      FROM named a JOIN queues q ON q.relation = a.relation JOIN said s ON s.queue = q.queue
     WHERE a.realtime AND a.queue <> q.queue AND q.relation_name <> aimq._table(a.queue)
    UNION ALL
    -- As after a restore of the schema alone. pgmq's own functions for one queue still work.
    SELECT 'warning', a.queue,
           format('pgmq does not list it, and %s has triggers of aimq''s: the functions for all queues leave it out', string_agg(a."table", ', ' ORDER BY a."table")),
           coalesce(min(format('Run INSERT INTO pgmq.meta (queue_name, is_partitioned, is_unlogged) VALUES (%L, %L, %L); Or, if it is to be no queue, run ',
                               a.queue, a.partitioned, a.unlogged)) FILTER (WHERE a.relation_name = aimq._table(a.queue)),
                    'If that is not meant, run ')
           || string_agg(a.drops, '; ' ORDER BY a."table") || ';'
      FROM astray a
     WHERE NOT EXISTS (SELECT FROM queues q WHERE q.relation_name = aimq._table(a.queue))
     GROUP BY a.queue
    UNION ALL
    SELECT 'warning', queue,
           format('nobody is woken for %s: its trigger %s is aimq''s, and the table is not in the schema pgmq', "table", triggers),
           format('If that is not meant, run %s;', drops)
      FROM named n WHERE NOT is_pgmqs AND fires AND NOT EXISTS (SELECT FROM lost l WHERE l.relation = n.relation)
    UNION ALL
    SELECT 'error', queue,
           format('%s, the owner of %s, has no %s: as that role the notifier cannot look when messages can be read', owner, "table",
                  CASE WHEN may_use THEN 'SELECT on the table' ELSE 'USAGE on the schema pgmq' END),
           format(CASE WHEN may_use THEN 'Run GRANT SELECT ON %2$s TO %1$s;' ELSE 'Run GRANT USAGE ON SCHEMA pgmq TO %1$s;' END,
                  owner, "table")
      FROM owners WHERE NOT (may_use AND may_read)
    UNION ALL
    -- Left out where the owner sees all rows in spite of row security.
    SELECT 'warning', queue,
           format('%s is bound by the row security of %s, its own table: the notifier, which looks as that role, cannot know what can be read', owner, "table"),
           format('If the owner need not be bound, run ALTER TABLE %s NO FORCE ROW LEVEL SECURITY; Or give the table to a role with BYPASSRLS.', "table")
      FROM owners WHERE is_bound
    UNION ALL
    -- The likeliest slip. A database without any realtime queue has no such row.
    SELECT 'info', queue, 'it is not realtime, while others are: nobody is woken for it',
           format('If workers are to be woken for it, run SELECT aimq.enable_realtime(%L);', queue)
      FROM queues q
     WHERE NOT realtime AND relation IS NOT NULL AND EXISTS (SELECT FROM queues WHERE realtime)
       AND NOT EXISTS (SELECT FROM triggers t
                        WHERE t.queue = q.queue
                          AND (t.is_ours
                               OR t.tgname = 'trigger_notify_queue_insert_listeners' AND t.tgenabled <> 'D'))
       AND NOT EXISTS (SELECT FROM astray a WHERE q.relation_name = aimq._table(a.queue) AND a.fires)
    UNION ALL
    SELECT 'warning', q.queue, 'nobody is woken for messages that become readable later: the trigger aimq_realtime_vt is missing, as in a queue that an earlier release made realtime',
           format('Run %s;', s.call)
      FROM queues q JOIN said s USING (queue)
     WHERE q.realtime AND NOT EXISTS (SELECT FROM triggers t WHERE t.queue = q.queue AND t.tgname = 'aimq_realtime_vt')
    UNION ALL
    SELECT 'warning', q.queue, 'the table has no index on vt: each look of the notifier reads all of it',
           format('Run CREATE INDEX ON pgmq.%I (vt);', q.relation_name)
      FROM queues q
     WHERE q.realtime
       AND NOT EXISTS (
            SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
             WHERE i.indrelid = q.relation AND i.indisvalid AND i.indpred IS NULL AND a.attname = 'vt')
    UNION ALL
    SELECT 'warning', queue, 'pgmq''s own trigger notifies: it drops wake-ups, or has producers wait for each other',
           CASE WHEN realtime THEN format('Once nobody listens to that any more, run SELECT pgmq.disable_notify_insert(%L);', queue)
                ELSE format('To have aimq serve its listeners, run SELECT aimq.adopt_pgmq_notify(%L);', queue) END
      FROM triggers WHERE tgname = 'trigger_notify_queue_insert_listeners' AND tgenabled <> 'D'
    UNION ALL
    SELECT 'warning', queue, format('AIMQ''s former trigger %s broadcasts each message within the enqueue', tgname),
           format('The migration of docs/adoption.md replaces it. Once nobody listens to that any more, run DROP TRIGGER %I ON %s;',
                  tgname, tgrelid::regclass)
      FROM triggers
     WHERE tgfoid = to_regprocedure('aimq.pgmq_notify_job_enqueued()') AND tgenabled <> 'D'
    UNION ALL
    SELECT DISTINCT 'error', queue, 'it is to be broadcast, and there is no function realtime.send(jsonb, text, text, boolean)',
           'Enable Supabase Realtime in this database. Or, without broadcasts, run ' || without
      FROM broadcast WHERE NOT is_there
    UNION ALL
    SELECT 'error', queue, format('it is to be broadcast, and %s belongs to a superuser: nothing is broadcast as one', "table"),
           format('Give it to a role that is no superuser, has USAGE on the schemas pgmq and realtime, and may call realtime.send: ALTER TABLE %s OWNER TO that role. Or, without broadcasts, run %s',
                  "table", without)
      FROM broadcast WHERE is_superusers
    UNION ALL
    SELECT 'error', queue, format('it is to be broadcast, and %s, the owner of %s, may not call realtime.send', owner, "table"),
           format('Run GRANT USAGE ON SCHEMA realtime TO %1$s; GRANT EXECUTE ON FUNCTION realtime.send(jsonb, text, text, boolean) TO %1$s;', owner)
      FROM broadcast WHERE is_there AND NOT is_allowed
    UNION ALL
    SELECT DISTINCT 'error', queue, 'it is to be broadcast, and realtime.send belongs neither to a superuser nor to the owner of the database',
           'The notifier does not call the function of anybody else: find out who owns it, and what it does. Or, without broadcasts, run ' || without
      FROM broadcast WHERE is_there AND NOT is_trusted
    UNION ALL
    -- A broadcast that keeps failing is tried at least each 5 s, and a look at least each minute. An older failure is
    -- over.
    SELECT CASE WHEN last_failed_broadcast > now() - interval '10 seconds' THEN 'error' ELSE 'warning' END, queue,
           format('%s broadcasts failed, the last one of %s, and %s did not; each was or will be tried again',
                  failed_broadcasts, last_failed_broadcast, broadcasts),
           'The server''s log has the messages.'
      FROM aimq.stats WHERE last_failed_broadcast > now() - interval '65 seconds'
    UNION ALL
    SELECT DISTINCT 'error', queue, 'it is not broadcast: no notifier runs for this database', 'See the subject notifier.'
      FROM broadcast WHERE NOT pg_is_in_recovery() AND NOT EXISTS (SELECT FROM notifier WHERE state IN ('running', 'starting', 'not responding'))
    UNION ALL
    SELECT 'warning', 'notifier', format('none runs for this database%s: transactions notify themselves, and nobody is woken for messages that become readable later%s',
                                         (SELECT ' (' || state || ')' FROM notifier WHERE state <> 'none'),
                                         CASE WHEN current_setting('server_version_num')::integer < 170000 AND NOT aimq._is_preloaded()
                                              THEN '. This is the slow mode: before PostgreSQL 17 there is no other without preloading' END),
           CASE WHEN (SELECT state FROM notifier) = 'no slot' OR current_setting('max_worker_processes')::integer = 0 THEN
                    format('Run ALTER SYSTEM SET max_worker_processes = %s; and restart the server. A standby needs it first.',
                           current_setting('max_worker_processes')::integer + 8)
                WHEN aimq._is_preloaded() OR current_setting('server_version_num')::integer >= 170000 THEN
                    'It begins with the next enqueue or blocking call. For one at once, run SELECT aimq.recheck();'
                    || CASE WHEN NOT aimq._is_preloaded() THEN
                           ' For one that is there after each restart, add aimq to shared_preload_libraries and restart the server.' ELSE '' END
                -- A user who may not see the setting gets no statement.
                ELSE coalesce(
                    (SELECT format('Run ALTER SYSTEM SET shared_preload_libraries = %s; and restart the server.',
                                   string_agg(quote_literal(btrim(library, ' "')), ', ' ORDER BY number))
                       FROM pg_settings s
                      CROSS JOIN LATERAL unnest(string_to_array(concat_ws(',', nullif(s.setting, ''), 'aimq'), ',')) WITH ORDINALITY l (library, number)
                      WHERE s.name = 'shared_preload_libraries'),
                    'Add aimq to shared_preload_libraries and restart the server.') END
     WHERE EXISTS (SELECT FROM queues WHERE realtime) AND NOT pg_is_in_recovery()
       AND NOT EXISTS (SELECT FROM notifier WHERE state IN ('running', 'starting', 'not responding'))
    UNION ALL
    SELECT 'error', 'notifier', format('the notifier, process %s, does not respond: transactions notify themselves, and nothing is broadcast', pid),
           format(stuck, pid)
      FROM notifier, stuck WHERE state = 'not responding'
    UNION ALL
    SELECT 'error', 'notifier', format('the watcher, process %s, does not respond: sessions that block look for themselves, and nobody is woken for messages that become readable later', watcher_pid),
           format(stuck, watcher_pid)
      FROM notifier, stuck WHERE watcher_state = 'not responding'
    UNION ALL
    -- The watcher has heard of it, and there was no slot; while there is one, it is about to take it.
    SELECT 'warning', q.queue, 'no slot in the shared memory: the queue has no counters, transactions announce what is enqueued themselves, sessions that block poll, and other times are followed by looks at its table',
           CASE WHEN is_long THEN
                    format('Its channel, event and name are too long for a slot, together. Choose shorter ones; for those that are the default, run %s;',
                           aimq._call(q.queue, NULL, NULL, q.options, q.events[2:]))
                ELSE format('If it is to have one, run ALTER SYSTEM SET aimq.max_queues = %s; and restart the server.',
                            least(greatest(current_setting('aimq.max_queues')::integer, (SELECT count(*) FROM queues WHERE realtime)) * 2,
                                  (SELECT max_val::integer FROM pg_settings WHERE name = 'aimq.max_queues'))) END
      FROM queues q
     -- KEY_MAX_BYTES: the table, then each argument with its NUL byte.
     CROSS JOIN LATERAL (
            SELECT 4 + octet_length(q.channel) + octet_length(q.event) + octet_length(q.queue) + 3
                   + coalesce(octet_length(nullif(q.options, '')) + 1, 0) > 264 AS is_long
           ) l
     WHERE q.realtime AND (is_long OR NOT (SELECT aimq._has_room()))
       AND EXISTS (SELECT FROM notifier WHERE state = 'running')
       AND NOT EXISTS (SELECT FROM counters c
                        WHERE c.queue = q.queue AND c.channel = q.channel AND c.event = q.event AND c.options = q.options)
    UNION ALL
    SELECT CASE WHEN last_error_at > now() - interval '10 seconds' THEN 'error' ELSE 'warning' END, 'notifier',
           format('%s failures, the last one of %s with SQLSTATE %s; each was tried again', errors, last_error_at, last_error),
           'The server''s log has the messages.'
      FROM notifier WHERE errors > 0 AND last_error_at > now() - interval '65 seconds'
    UNION ALL
    SELECT 'warning', 'NOTIFY', format('its queue is full to %s %%; at 75 %% no notification of ours is added', round((100 * usage)::numeric)),
           -- Postgres does not show which session it is.
           coalesce((SELECT format('It waits for a session that listens and whose transaction goes on, which the server''s log names. If that is process %1$s, whose transaction is the oldest, run SELECT pg_terminate_backend(%1$s);', pid)
                       FROM pg_stat_activity
                      WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
                      ORDER BY xact_start LIMIT 1),
                    'Look for a session that listens and whose transaction goes on: the server''s log names it.')
      FROM pg_notification_queue_usage() usage WHERE usage >= 0.25
    UNION ALL
    SELECT 'warning', subject,
           format(CASE name WHEN 'aimq.enabled' THEN 'it has %s=%s: what is enqueued there wakes nobody'
                  WHEN 'aimq.delivery' THEN 'it has %s=%s: not the default, by which a notifier takes over where there is one'
                  ELSE 'it has %s=%s: no trigger fires there, so what is enqueued there wakes nobody' END, name, value),
           hint
      FROM settings
    UNION ALL
    -- The event trigger aimq_ddl is for sessions that have not loaded the library.
    SELECT 'warning', evtname::text,
           format('this event trigger does not fire: %s',
                  CASE WHEN evtfoid = to_regproc('aimq.ddl_trigger') THEN 'what DDL changes is not noticed, and messages may stay unannounced'
                       ELSE 'where a table of archived messages is replaced, archiving is told as job_deleted' END),
           format('Run ALTER EVENT TRIGGER %I ENABLE ALWAYS;', evtname)
      FROM pg_event_trigger
     WHERE evtenabled IN ('D', 'R') AND evtfoid IN (to_regproc('aimq.ddl_trigger'), to_regproc('aimq.archive_trigger'))
       AND EXISTS (SELECT FROM queues WHERE realtime) AND NOT (evtfoid = to_regproc('aimq.ddl_trigger') AND aimq._is_preloaded())
    UNION ALL
    SELECT * FROM aimq._doctor_server(EXISTS (SELECT FROM queues WHERE realtime))
$$;
COMMENT ON FUNCTION aimq.doctor() IS
    'What keeps wake-ups from workers, or will: a row for each problem, none where all is well. severity is error where wake-ups or broadcasts are missing now, warning where they will or may be, info where that may be meant. Needs SELECT on pgmq.meta; only pg_monitor sees what other roles'' sessions and the worker slots do. Takes no lock stronger than a read';
