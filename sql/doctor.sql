-- What keeps wake-ups from workers, or will: one row for each problem, none where all is well. Reads catalogs and counters,
-- and no queue's table.
CREATE FUNCTION aimq.doctor() RETURNS TABLE (severity text, subject text, problem text, hint text)
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH queues AS (SELECT * FROM aimq._queues()),
    notifier AS (SELECT * FROM aimq.notifiers WHERE database = current_database()),
    counters AS (SELECT * FROM aimq._queue_counters()),
    stuck AS (SELECT 'Find out what keeps process %1$s: it may be stopped. SELECT pg_terminate_backend(%1$s) has another one started, as soon as this one ends.' AS stuck),
    -- Triggers of the queues' tables, and of those of archived messages.
    triggers AS (
        SELECT q.queue, q.realtime, t.*
          FROM queues q JOIN pg_trigger t ON t.tgrelid IN (q.relation, q.archive) AND NOT t.tgisinternal
    ),
    -- What tells of archived messages is on their table, and is broadcast as the owner of that.
    broadcast AS (
        SELECT q.queue, format('pgmq.%I', c.relname) AS "table", quote_ident(r.rolname) AS owner, b.*
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
    -- The tables with triggers of aimq's that fire, whatever the schema and the names, and the queue that those name. A
    -- trigger's arguments stand one after the other, each with a NUL byte behind it. Partitions have copies.
    named AS (
        SELECT t.tgrelid AS relation, c.relname, format('%I.%I', n.nspname, c.relname) AS "table",
               n.nspname = 'pgmq' AS is_pgmqs, arguments[3] AS queue,
               bool_or(is_own) AS has_own,
               min(arguments[1]) FILTER (WHERE is_own) AS channel,
               min(arguments[2]) FILTER (WHERE is_own) AS event,
               string_agg(quote_ident(t.tgname), ', ' ORDER BY t.tgname) AS triggers,
               string_agg(format('DROP TRIGGER %I ON %I.%I', t.tgname, n.nspname, c.relname), '; ' ORDER BY t.tgname) AS drops
          FROM pg_trigger t
          JOIN pg_class c ON c.oid = t.tgrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL (
                -- BEFORE INSERT FOR EACH ROW.
                SELECT t.tgfoid = 'aimq.realtime_trigger()'::regprocedure AND t.tgtype = 7 AS is_own
               ) o
         CROSS JOIN LATERAL (
                SELECT array_agg(convert_from(decode(argument, 'hex'), getdatabaseencoding())) AS arguments
                  FROM unnest(string_to_array(regexp_replace(encode(t.tgargs, 'hex'), '..', E'\\& ', 'g'), '00 ')) argument
               ) a
         WHERE t.tgfoid IN ('aimq.realtime_trigger()'::regprocedure, 'aimq.event_trigger()'::regprocedure)
           AND t.tgenabled <> 'D' AND t.tgparentid = 0 AND t.tgnargs IN (3, 4)
         GROUP BY t.tgrelid, c.relname, n.nspname, arguments[3]
    ),
    -- Of the tables in pgmq's schema, those whose triggers name a queue that has another table.
    astray AS (SELECT * FROM named WHERE is_pgmqs AND relname NOT IN (aimq._table(queue), aimq._archive(queue))),
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
    -- A queue's table was renamed, and pgmq has made another one.
    SELECT CASE WHEN is_silent THEN 'error' ELSE 'warning' END, q.queue,
           format(CASE WHEN is_silent THEN 'nobody is woken for what is enqueued to %2$s: its triggers are on %1$s'
                  ELSE 'its workers are woken for %1$s as well, which is not its table: the triggers there name it' END,
                  a."table", format('pgmq.%I', q.relation_name)),
           CASE WHEN is_silent THEN
                format('Run SELECT aimq.enable_realtime(%L, channel => %L, event => %L), with sink, events and ids as they were. Where %s is no queue any more, or nobody is to be woken: %s.',
                       q.queue, a.channel, a.event, a."table", a.drops)
           ELSE format('Run %s, if that is not meant.', a.drops) END
      FROM astray a
      JOIN queues q ON q.relation_name = aimq._table(a.queue) AND q.relation IS NOT NULL
     CROSS JOIN LATERAL (SELECT a.has_own AND NOT q.realtime AS is_silent) s
    UNION ALL
    SELECT 'error', q.queue, format('its triggers name another queue, "%s": its workers are not told of it', a.queue),
           format('Run SELECT aimq.enable_realtime(%L, channel => %L, event => %L), with sink, events and ids as they were.',
                  q.queue, a.channel, a.event)
      FROM astray a JOIN queues q ON q.relation = a.relation
     WHERE a.has_own
    UNION ALL
    SELECT 'warning', queue,
           format('nobody is woken for %s: its trigger %s is aimq''s, and the table is not in the schema pgmq', "table", triggers),
           format('Run %s, if that is not meant.', drops)
      FROM named WHERE NOT is_pgmqs
    UNION ALL
    SELECT 'error', queue,
           format('%s, the owner of %s, has no %s: as that role the notifier cannot look when messages can be read', owner, "table",
                  CASE WHEN may_use THEN 'SELECT on the table' ELSE 'USAGE on the schema pgmq' END),
           format(CASE WHEN may_use THEN 'Run GRANT SELECT ON %2$s TO %1$s.' ELSE 'Run GRANT USAGE ON SCHEMA pgmq TO %1$s.' END,
                  owner, "table")
      FROM owners WHERE NOT (may_use AND may_read)
    UNION ALL
    -- Not where the owner sees all rows in spite of it.
    SELECT 'warning', queue,
           format('%s is bound by the row security of %s, its own table: the notifier, which looks as that role, cannot know what can be read', owner, "table"),
           format('Run ALTER TABLE %s NO FORCE ROW LEVEL SECURITY, if the owner need not be bound. Else give the table to a role with BYPASSRLS.', "table")
      FROM owners WHERE is_bound
    UNION ALL
    -- The likeliest slip; a database without any queue of ours has none.
    SELECT 'info', queue, 'it is not realtime, while others are: nobody is woken for it',
           format('Run SELECT aimq.enable_realtime(%L), if workers are to be woken for it.', queue)
      FROM queues q
     WHERE NOT realtime AND relation IS NOT NULL AND EXISTS (SELECT FROM queues WHERE realtime)
       AND NOT EXISTS (SELECT FROM triggers t
                        WHERE t.queue = q.queue
                          AND (t.tgfoid IN ('aimq.realtime_trigger()'::regprocedure, 'aimq.event_trigger()'::regprocedure)
                               OR t.tgname = 'trigger_notify_queue_insert_listeners' AND t.tgenabled <> 'D'))
       AND NOT EXISTS (SELECT FROM astray a WHERE q.relation_name = aimq._table(a.queue))
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
    SELECT DISTINCT 'error', queue, 'it is to be broadcast, and there is no function realtime.send(jsonb, text, text, boolean)',
           'Enable Supabase Realtime in this database, or choose the sink "notify".'
      FROM broadcast WHERE NOT is_there
    UNION ALL
    SELECT 'error', queue, format('it is to be broadcast, and %s belongs to a superuser: nothing is broadcast as one', "table"),
           format('Give it to a role that is no superuser, has USAGE on the schemas pgmq and realtime, and may call realtime.send: ALTER TABLE %s OWNER TO that role.', "table")
      FROM broadcast WHERE is_superusers
    UNION ALL
    SELECT 'error', queue, format('it is to be broadcast, and %s, the owner of %s, may not call realtime.send', owner, "table"),
           format('Run GRANT USAGE ON SCHEMA realtime TO %1$s; GRANT EXECUTE ON FUNCTION realtime.send(jsonb, text, text, boolean) TO %1$s.', owner)
      FROM broadcast WHERE is_there AND NOT is_allowed
    UNION ALL
    SELECT DISTINCT 'error', queue, 'it is to be broadcast, and realtime.send belongs neither to a superuser nor to the owner of the database',
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
    SELECT DISTINCT 'error', queue, 'it is not broadcast: no notifier runs for this database', 'See the subject notifier.'
      FROM broadcast WHERE NOT pg_is_in_recovery() AND NOT EXISTS (SELECT FROM notifier WHERE state IN ('running', 'starting', 'not responding'))
    UNION ALL
    SELECT 'warning', 'notifier', format('none runs for this database%s: transactions notify themselves, and nobody is woken for messages that become readable later%s',
                                         (SELECT ' (' || state || ')' FROM notifier WHERE state <> 'none'),
                                         CASE WHEN current_setting('server_version_num')::integer < 170000 AND NOT aimq._is_preloaded()
                                              THEN '. This is the slow mode: before PostgreSQL 17 there is no other without preloading' END),
           CASE WHEN (SELECT state FROM notifier) = 'no slot' THEN 'Raise max_worker_processes and restart the server.'
                WHEN aimq._is_preloaded() THEN
                    'It begins with the next enqueue or blocking call. If it does not, there may be no slot for it: raise max_worker_processes and restart the server.'
                WHEN current_setting('server_version_num')::integer >= 170000 THEN
                    'It begins with the next enqueue or blocking call. For one that is there after each restart, add aimq to shared_preload_libraries and restart the server; see also max_worker_processes.'
                ELSE 'Add aimq to shared_preload_libraries and restart the server; see also max_worker_processes.' END
     WHERE EXISTS (SELECT FROM queues WHERE realtime) AND NOT pg_is_in_recovery()
       AND NOT EXISTS (SELECT FROM notifier WHERE state IN ('running', 'starting', 'not responding'))
    UNION ALL
    SELECT 'error', 'notifier', format('the notifier, process %s, does not respond: transactions notify themselves, and nothing is broadcast', pid),
           format(stuck, pid)
      FROM notifier, stuck WHERE state = 'not responding'
    UNION ALL
    SELECT 'error', 'notifier', format('the watcher, process %s, does not respond: those who block look for themselves, and nobody is woken for messages that become readable later', watcher_pid),
           format(stuck, watcher_pid)
      FROM notifier, stuck WHERE watcher_state = 'not responding'
    UNION ALL
    -- The watcher has heard of it, and there was no slot; while there is one, it is about to take it.
    SELECT 'warning', q.queue, 'no slot in the shared memory: the queue has no counters, transactions announce what is enqueued themselves, who blocks polls, and other times are followed by looks at its table',
           CASE WHEN is_long THEN 'Its channel, event and name are too long for a slot, together: choose shorter ones.'
                ELSE format('Consider raising aimq.max_queues, which is %s, and restart the server.', current_setting('aimq.max_queues')) END
      FROM queues q
     -- KEY_MAX_BYTES: the table, then each argument with its NUL byte.
     CROSS JOIN LATERAL (
            SELECT 4 + octet_length(q.channel) + octet_length(q.event) + octet_length(q.queue) + 3
                   + coalesce(octet_length(nullif(q.options, '')) + 1, 0) > 264 AS is_long
           ) l
     WHERE q.realtime AND (is_long OR NOT aimq._has_room())
       AND EXISTS (SELECT FROM notifier WHERE state = 'running')
       AND NOT EXISTS (SELECT FROM counters c
                        WHERE c.queue = q.queue AND c.channel = q.channel AND c.event = q.event AND c.options = q.options)
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
    UNION ALL
    SELECT * FROM aimq._doctor_server(EXISTS (SELECT FROM queues WHERE realtime))
$$;
COMMENT ON FUNCTION aimq.doctor() IS
    'What keeps wake-ups from workers, or will: a row for each problem, none where all is well. severity is error where wake-ups or broadcasts are missing now, warning where they will or may be, info where that may be meant. Needs SELECT on pgmq.meta; what other roles'' sessions and the worker slots are up to, only pg_monitor sees. Takes no lock stronger than a read';
