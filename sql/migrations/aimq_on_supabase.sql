-- Brings a database of AIMQ (the Python package `aimq`, on Supabase) over to this extension: the functions by which
-- AIMQ manages its queues, and the queues that AIMQ's own triggers announce. What changes: docs/adoption.md.
--
-- Plain SQL, to be applied once, in one transaction, and harmless when applied again: as a migration of Supabase's, or
--
--     PGOPTIONS='-c lock_timeout=500ms' psql -1 -v ON_ERROR_STOP=1 -f aimq_on_supabase.sql
--
-- As the owner of the queues' tables, or a superuser. CREATE EXTENSION wants a superuser; where that is somebody else,
-- they create the extension first. All queues that are carried over are locked until the end: without a lock_timeout,
-- this may wait for somebody's long transaction, and producers queue up behind it. With one, it fails instead, nothing
-- has changed, and it can be tried again.
--
-- Who may call the functions: service_role and postgres. For others too, say so before, in the same session:
--
--     SET aimq_migration.grant_to = 'authenticated';   -- roles, by commas

-- AIMQ has a schema of this name, with its trigger's function in it. Neither is in the way.
CREATE EXTENSION IF NOT EXISTS aimq CASCADE;

-- Where there is none, AIMQ or Supabase ("Expose Queues via PostgREST") has not been there: they bring what AIMQ's
-- workers need besides (send, send_batch, read, pop, archive, delete), which is left as it is.
--
-- The owner of a schema may drop each function in it and put another one there, which service_role would then call. The
-- owner of a function may do the same with that. A role with CREATE can add a function that fits a call better.
DO $$
DECLARE
    path text := pg_catalog.current_setting('search_path');
    stranger text;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    IF to_regnamespace('pgmq_public') IS NULL THEN
        CREATE SCHEMA pgmq_public;
    END IF;
    SELECT string_agg(DISTINCT what, ', ') INTO stranger
      FROM (
            SELECT n.nspowner AS role, format('its owner %s', n.nspowner::regrole) AS what
              FROM pg_namespace n WHERE n.nspname = 'pgmq_public'
             UNION ALL
            SELECT a.grantee, CASE a.grantee WHEN 0 THEN 'PUBLIC may create in it' ELSE format('%s may create in it', a.grantee::regrole) END
              FROM pg_namespace n, aclexplode(n.nspacl) a
             WHERE n.nspname = 'pgmq_public' AND a.privilege_type = 'CREATE'
             UNION ALL
            SELECT p.proowner, format('%s owns %s', p.proowner::regrole, p.oid::regprocedure)
              FROM pg_proc p
             WHERE p.pronamespace = 'pgmq_public'::regnamespace
               AND p.proname IN ('create_queue', 'list_queues', 'enable_queue_realtime', 'disable_queue_realtime')
           ) found
     WHERE NOT EXISTS (
            SELECT FROM pg_roles r
             WHERE r.oid = found.role
               AND (r.rolsuper OR r.rolname = current_user
                    OR r.oid = (SELECT datdba FROM pg_database WHERE datname = current_database())
                    OR r.oid = (SELECT relowner FROM pg_class WHERE oid = 'pgmq.meta'::regclass)
                    OR r.oid = (SELECT nspowner FROM pg_namespace WHERE nspname = 'pgmq'))
           );
    IF stranger IS NOT NULL THEN
        RAISE EXCEPTION 'the schema pgmq_public is in the hands of a role that owns neither pgmq nor the database: %', stranger
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'That role could put functions of its own in the place of these. Find out what it is and what it has put there. '
                         'Then give the schema, or the function, to the owner of pgmq.meta (ALTER SCHEMA pgmq_public OWNER TO ...), '
                         'take the right away (REVOKE CREATE ON SCHEMA pgmq_public FROM ...), and apply this again.';
    END IF;
    PERFORM set_config('search_path', path, true);
END
$$;

-- These are SECURITY DEFINER, because service_role owns no queue, and only owners may create and drop what belongs to
-- one. The path is pinned, so that no caller can put something else in the place of what they call.

-- Listeners of another kind (aimq.enable_realtime with a sink, events or ids) still hear all that they heard before.
CREATE OR REPLACE FUNCTION pgmq_public.enable_queue_realtime(
    queue_name text,
    channel_name text DEFAULT 'aimq:jobs',
    event_name text DEFAULT 'job_enqueued'
) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before aimq.queues;
BEGIN
    SELECT * INTO before
      FROM aimq.queues q
     WHERE q.listed AND q.realtime AND aimq._table(q.queue) = aimq._table(enable_queue_realtime.queue_name);
    PERFORM aimq.enable_realtime(
        queue_name, channel_name, event_name,
        sink => CASE WHEN before.sink IN ('notify', 'both') THEN 'both' ELSE 'supabase' END,
        events => ARRAY['job_enqueued'] || before.events[2:],
        ids => coalesce(before.ids, false)
    );
    RETURN jsonb_build_object('success', true, 'queue_name', queue_name, 'realtime_enabled', true,
                              'channel', channel_name, 'event', event_name);
EXCEPTION WHEN OTHERS THEN
    RETURN jsonb_build_object('success', false, 'error', SQLERRM);
END
$$;

CREATE OR REPLACE FUNCTION pgmq_public.create_queue(
    queue_name text,
    with_realtime boolean DEFAULT true,
    channel_name text DEFAULT 'aimq:jobs',
    event_name text DEFAULT 'job_enqueued'
) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    answer jsonb;
BEGIN
    PERFORM aimq.create_queue(queue_name, realtime => false);
    IF with_realtime THEN
        answer := pgmq_public.enable_queue_realtime(queue_name, channel_name, event_name);
        IF NOT (answer -> 'success')::boolean THEN
            -- The error also undoes the queue.
            RAISE EXCEPTION '%', answer ->> 'error';
        END IF;
        RETURN answer;
    END IF;
    -- One that was realtime before stays so.
    RETURN jsonb_build_object('success', true, 'queue_name', queue_name, 'channel', channel_name, 'event', event_name,
                              'realtime_enabled', EXISTS (
                                  SELECT FROM aimq.queues q
                                   WHERE q.listed AND q.realtime AND aimq._table(q.queue) = aimq._table(create_queue.queue_name)));
EXCEPTION WHEN OTHERS THEN
    RETURN jsonb_build_object('success', false, 'error', SQLERRM);
END
$$;

CREATE OR REPLACE FUNCTION pgmq_public.disable_queue_realtime(queue_name text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    was_realtime boolean;
BEGIN
    was_realtime := aimq.disable_realtime(queue_name);
    RETURN jsonb_build_object(
        'success', true, 'queue_name', queue_name,
        'message', format(CASE WHEN was_realtime THEN 'queue %I is not realtime any more'
                               ELSE 'queue %I was not realtime' END, queue_name)
    );
EXCEPTION WHEN OTHERS THEN
    RETURN jsonb_build_object('success', false, 'error', SQLERRM);
END
$$;

-- Nothing is caught as a whole: AIMQ takes an answer without queues for "there are none".
CREATE OR REPLACE FUNCTION pgmq_public.list_queues() RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    queue record;
    metrics record;
    queues jsonb := '[]';
BEGIN
    FOR queue IN SELECT q.queue AS name, q.realtime FROM aimq.queues q WHERE q.listed ORDER BY q.queue LOOP
        BEGIN
            SELECT * INTO metrics FROM pgmq.metrics(queue.name);
        EXCEPTION WHEN undefined_table THEN
            CONTINUE;   -- dropped since, or pgmq.meta names a queue that has no table
        END;
        queues := queues || jsonb_build_object(
            'queue_name', queue.name,
            'realtime_enabled', queue.realtime,
            'queue_length', metrics.queue_length,
            'newest_msg_age_sec', metrics.newest_msg_age_sec,
            'oldest_msg_age_sec', metrics.oldest_msg_age_sec,
            'total_messages', metrics.total_messages,
            'scrape_time', metrics.scrape_time
        );
    END LOOP;
    RETURN jsonb_build_object('success', true, 'queues', queues);
END
$$;

COMMENT ON FUNCTION pgmq_public.create_queue(text, boolean, text, text) IS
    'For AIMQ: creates a queue of pgmq and, unless with_realtime is false, has aimq broadcast what is enqueued';
COMMENT ON FUNCTION pgmq_public.enable_queue_realtime(text, text, text) IS
    'For AIMQ: has aimq broadcast what is enqueued to a queue';
COMMENT ON FUNCTION pgmq_public.disable_queue_realtime(text) IS
    'For AIMQ: aimq tells nobody any more what is enqueued to a queue';
COMMENT ON FUNCTION pgmq_public.list_queues() IS
    'For AIMQ: every queue of pgmq with its length, and whether it is realtime';

-- Who may call them, and as which role they run. AIMQ's own functions may be called by every user who is logged in. But
-- only a server should be able to drop a trigger, or to fill the disk with queues.
DO $$
DECLARE
    path text := pg_catalog.current_setting('search_path');
    owner regrole;
    of_superuser boolean;
    function regprocedure;
    role name;
BEGIN
    -- Also for what is called here: no function of anybody else may run as the role that applies this.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    -- The owner of pgmq's tables may do all of this. On Supabase, he has fewer rights than the superuser who may be
    -- applying this.
    owner := (SELECT relowner FROM pg_class WHERE oid = 'pgmq.meta'::regclass);
    of_superuser := (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
    FOREACH function IN ARRAY ARRAY[
        'pgmq_public.create_queue(text, boolean, text, text)', 'pgmq_public.list_queues()',
        'pgmq_public.enable_queue_realtime(text, text, text)', 'pgmq_public.disable_queue_realtime(text)']::regprocedure[]
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function);
        -- The roles that it was granted to: by Supabase's defaults, or when this was applied before.
        FOR role IN
            SELECT DISTINCT r.rolname
              FROM pg_proc p, aclexplode(p.proacl) a, pg_roles r
             WHERE p.oid = function AND r.oid = a.grantee AND a.grantee <> p.proowner
        LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %I CASCADE', function, role);
        END LOOP;
        FOR role IN
            SELECT rolname FROM pg_roles WHERE rolname IN ('service_role', 'postgres')
             UNION SELECT btrim(one)::name
                     FROM unnest(string_to_array(current_setting('aimq_migration.grant_to', true), ',')) one
                    WHERE btrim(one) <> ''
        LOOP
            EXECUTE format('GRANT USAGE ON SCHEMA pgmq_public TO %I', role);
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', function, role);
        END LOOP;
        IF of_superuser AND has_schema_privilege(owner, 'pgmq', 'CREATE') THEN
            EXECUTE format('ALTER FUNCTION %s OWNER TO %s', function, owner);
            -- One of them calls another.
            EXECUTE format('GRANT USAGE ON SCHEMA pgmq_public TO %s', owner);
        END IF;
    END LOOP;
    -- What a superuser owns is not broadcast. Where AIMQ has been, new queues were announced until now.
    SELECT p.proowner INTO owner
      FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner
     WHERE p.oid = 'pgmq_public.create_queue(text, boolean, text, text)'::regprocedure AND r.rolsuper;
    IF FOUND AND to_regprocedure('aimq.pgmq_notify_job_enqueued()') IS NOT NULL THEN
        RAISE EXCEPTION 'nobody would be woken: queues of pgmq_public.create_queue would belong to %, a superuser, and nothing is broadcast as one', owner
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Give pgmq.meta to a role that is no superuser, may create in the schema pgmq, and may call '
                         'realtime.send: ALTER TABLE pgmq.meta OWNER TO ...; GRANT USAGE, CREATE ON SCHEMA pgmq TO ...; and apply '
                         'this again.';
    END IF;
    PERFORM set_config('search_path', path, true);
END
$$;

-- The queues that AIMQ's triggers announce. The old trigger announced what commits before the lock. The new one
-- announces what comes after the transaction. There is nothing in between.
DO $$
DECLARE
    path text := pg_catalog.current_setting('search_path');
    tables text;
    one record;
    now_is aimq.queues;
    send record;
    answer jsonb;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    CREATE TEMPORARY VIEW aimq_migration_triggers AS
        SELECT c.oid AS relation, c.relname, c.relowner, t.tgname, substr(c.relname, 3) AS queue,
               convert_from(substring(t.tgargs, 1, channel.length), getdatabaseencoding()) AS channel,
               convert_from(substring(t.tgargs, channel.length + 2, event.length), getdatabaseencoding()) AS event
          FROM pg_trigger t
          JOIN pg_class c ON c.oid = t.tgrelid
          -- tgargs holds the arguments one after the other, each with a NUL byte behind it.
         CROSS JOIN LATERAL (SELECT position('\x00'::bytea IN t.tgargs) - 1 AS length) channel
         CROSS JOIN LATERAL (
                SELECT position('\x00'::bytea IN substring(t.tgargs, channel.length + 2)) - 1 AS length
               ) event
         WHERE t.tgfoid = to_regprocedure('aimq.pgmq_notify_job_enqueued()')
           -- As AIMQ attaches it: AFTER INSERT FOR EACH ROW, three arguments. One that was disabled announces nothing.
           AND t.tgtype = 5 AND t.tgqual IS NULL AND t.tgnargs = 3 AND t.tgenabled <> 'D' AND t.tgparentid = 0
           AND c.relnamespace = 'pgmq'::regnamespace
           AND EXISTS (SELECT FROM aimq.queues q WHERE q.listed AND aimq._table(q.queue) = c.relname);

    SELECT string_agg(DISTINCT format('pgmq.%I', relname), ', ' ORDER BY format('pgmq.%I', relname)) INTO tables
      FROM aimq_migration_triggers;
    IF tables IS NOT NULL THEN
        IF NOT aimq._has_notifier() THEN
            RAISE EXCEPTION 'nobody would be woken: aimq has no notifier on this server'
                USING ERRCODE = 'object_not_in_prerequisite_state',
                      HINT = 'Add aimq to shared_preload_libraries, restart the server, and apply this again.';
        END IF;
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', tables);
    END IF;

    FOR one IN
        -- AIMQ's own name for it first, should there be several.
        SELECT * FROM aimq_migration_triggers ORDER BY relname, tgname <> 'aimq_notify_' || queue, tgname
    LOOP
        SELECT * INTO now_is FROM aimq.queues q WHERE q.listed AND q.realtime AND aimq._table(q.queue) = one.relname;
        IF (now_is.channel, now_is.event) <> (one.channel, one.event) THEN
            -- A queue has one channel. The old trigger still wakes those who listen on another one.
            RAISE WARNING 'trigger % of pgmq.% stays: queue % is realtime on channel %, event %', one.tgname, one.relname,
                    one.queue, now_is.channel, now_is.event
                USING HINT = format('When nobody listens on channel %s, event %s any more: DROP TRIGGER %I ON pgmq.%I',
                                    one.channel, one.event, one.tgname, one.relname);
            CONTINUE;
        END IF;
        -- AIMQ's trigger calls realtime.send as its function's owner. The notifier does so as the owner of the queue's
        -- table, but not as a superuser, and calls no function of a stranger.
        SELECT * INTO send FROM aimq._broadcast(one.relation);
        IF send.is_superusers THEN
            RAISE EXCEPTION 'nobody would be woken: % belongs to a superuser, and nothing is broadcast as one',
                    format('pgmq.%I', one.relname)
                USING ERRCODE = 'insufficient_privilege',
                      HINT = format('Give it to a role that is no superuser, has USAGE on the schemas pgmq and realtime, and may '
                                    'call realtime.send: ALTER TABLE pgmq.%I OWNER TO ...; and apply this again.', one.relname);
        END IF;
        IF NOT send.is_trusted THEN
            RAISE EXCEPTION 'nobody would be woken: realtime.send belongs neither to a superuser nor to the owner of the database'
                USING ERRCODE = 'insufficient_privilege',
                      HINT = 'The notifier does not call the function of anybody else. Find out who owns it, give it to one of the two, '
                             'and apply this again.';
        END IF;
        IF NOT send.is_allowed THEN
            RAISE EXCEPTION 'nobody would be woken: the owner of pgmq.% may not call realtime.send', one.relname
                USING ERRCODE = 'insufficient_privilege',
                      HINT = format('GRANT USAGE ON SCHEMA realtime TO %1$s; '
                                    'GRANT EXECUTE ON FUNCTION realtime.send(jsonb, text, text, boolean) TO %1$s; '
                                    'and apply this again.', one.relowner::regrole);
        END IF;
        answer := pgmq_public.enable_queue_realtime(one.queue, one.channel, one.event);
        IF NOT (answer -> 'success')::boolean THEN
            RAISE EXCEPTION 'queue %: %', one.queue, answer ->> 'error';
        END IF;
        EXECUTE format('DROP TRIGGER %I ON pgmq.%I', one.tgname, one.relname);
    END LOOP;
    DROP VIEW aimq_migration_triggers;
    PERFORM set_config('search_path', path, true);
END
$$;

-- The function of AIMQ's triggers stays. Without a trigger it does nothing; but a session that is just attaching one
-- holds no lock on it, and with a function that has gone every enqueue to that queue would fail. Applying this file
-- again takes that queue along. Later, by hand: DROP FUNCTION aimq.pgmq_notify_job_enqueued(), which Postgres refuses
-- while it is used.
