-- pgmq's queues and the triggers on their tables. What a trigger of a realtime queue is, and what its options mean, is
-- said by src/catalog/triggers.rs and core/src/options.rs alone: aimq._kinds(), aimq._sink() and aimq._with_ids() pass
-- it on.

-- For the planner: as many as there are, and not a thousand.
ALTER FUNCTION aimq._kinds() ROWS 6;

-- The one place that knows how pgmq names a queue's table: `q_` and the queue's name, in lower case
-- (pgmq.format_table_name); the cast cuts it where Postgres cuts identifiers.
CREATE FUNCTION aimq._table(queue text) RETURNS name
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$ SELECT lower('q_' || queue)::name $$;
COMMENT ON FUNCTION aimq._table(text) IS 'The name of a queue''s table. Internal';

-- The same for the table of archived messages.
CREATE FUNCTION aimq._archive(queue text) RETURNS name
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$ SELECT lower('a_' || queue)::name $$;
COMMENT ON FUNCTION aimq._archive(text) IS 'The name of the table of a queue''s archived messages. Internal';

-- Supabase's function for broadcasts; null if there is none. It is looked up by its names, because to_regprocedure
-- raises an error where the caller may not look into the schema.
CREATE FUNCTION aimq._realtime_send() RETURNS oid
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname = 'realtime' AND p.proname = 'send' AND p.prokind = 'f'
       AND p.proargtypes = '3802 25 25 16'::oidvector -- jsonb, text, text, boolean
$$;
COMMENT ON FUNCTION aimq._realtime_send() IS 'Supabase''s function for broadcasts, if there is one. Internal';

-- Whether the notifier calls that function for this table of a queue. It does so as the table's owner, but never as a
-- superuser, and it calls no function of a stranger. The notifier itself trusts no function of a schema, so
-- src/notifier/worker/sinks.rs asks the same once more.
CREATE FUNCTION aimq._broadcast(relation oid, OUT is_there boolean, OUT is_superusers boolean, OUT is_trusted boolean,
                                OUT is_allowed boolean)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.oid IS NOT NULL,
           o.rolsuper,
           f.rolsuper OR p.proowner = d.datdba,
           has_schema_privilege(o.oid, p.pronamespace, 'USAGE') AND has_function_privilege(o.oid, p.oid, 'EXECUTE')
      FROM pg_class c
      JOIN pg_roles o ON o.oid = c.relowner
      JOIN pg_database d ON d.datname = current_database()
      LEFT JOIN pg_proc p ON p.oid = aimq._realtime_send()
      LEFT JOIN pg_roles f ON f.oid = p.proowner
     WHERE c.oid = relation
$$;
COMMENT ON FUNCTION aimq._broadcast(oid) IS 'Whether the notifier calls Supabase''s function for a queue''s table. Internal';

-- A function under the view: a function runs with the privileges of its caller, but a view before PostgreSQL 15 runs
-- with those of its owner. The function is in PL/pgSQL, so that the privileges are checked before the query: otherwise
-- the error would show the whole query.
CREATE FUNCTION aimq._queues() RETURNS TABLE (
        queue text, partitioned boolean, unlogged boolean, realtime boolean, channel text, event text,
        sink text, events text[], ids boolean, options text,
        created_at timestamptz, relation oid, relation_name name, archive oid, archive_name name
    )
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    own record;
BEGIN
    PERFORM aimq._check_sight();
    SELECT k.name::name AS name, k.function, k.tgtype INTO own FROM aimq._kinds() k WHERE k.number = 1;
    RETURN QUERY
    SELECT m.queue_name::text,
           m.is_partitioned,
           m.is_unlogged,
           t.oid IS NOT NULL,
           convert_from(substring(t.tgargs, 1, channel.length), getdatabaseencoding()),
           convert_from(substring(t.tgargs, channel.length + 2, event.length), getdatabaseencoding()),
           CASE WHEN t.oid IS NOT NULL THEN aimq._sink(options.text) END,
           CASE WHEN t.oid IS NOT NULL THEN ARRAY[
               convert_from(substring(t.tgargs, channel.length + 2, event.length), getdatabaseencoding())
           ] || later.events END,
           CASE WHEN t.oid IS NOT NULL THEN aimq._with_ids(options.text) END,
           options.text,
           m.created_at,
           c.oid,
           q.name,
           a.oid,
           archived.name
      FROM pgmq.meta m
     CROSS JOIN LATERAL aimq._table(m.queue_name::text) q (name)
     CROSS JOIN LATERAL aimq._archive(m.queue_name::text) archived (name)
      LEFT JOIN pg_class c
             ON c.relnamespace = 'pgmq'::regnamespace
            AND c.relname = q.name
      LEFT JOIN pg_class a
             ON a.relnamespace = 'pgmq'::regnamespace
            AND a.relname = archived.name
      LEFT JOIN pg_trigger t
             ON t.tgrelid = c.oid
            AND t.tgname = own.name
            AND t.tgfoid = own.function
            AND t.tgenabled <> 'D'
            -- As aimq.enable_realtime attaches it, with three arguments or four.
            AND t.tgtype = own.tgtype AND t.tgqual IS NULL AND t.tgnargs IN (3, 4)
      -- tgargs holds the arguments one after the other, each with a NUL byte behind it.
      LEFT JOIN LATERAL (
            SELECT position(decode('00', 'hex') IN t.tgargs) - 1 AS length
           ) channel ON true
      LEFT JOIN LATERAL (
            SELECT position(decode('00', 'hex') IN substring(t.tgargs, channel.length + 2)) - 1 AS length
           ) event ON true
      LEFT JOIN LATERAL (
            SELECT substring(t.tgargs, channel.length + event.length + 3) AS bytes
           ) rest ON true
      LEFT JOIN LATERAL (
            SELECT coalesce(convert_from(substring(rest.bytes, queue.length + 2, length(rest.bytes) - queue.length - 2),
                                         getdatabaseencoding()), '') AS text
              FROM (SELECT position(decode('00', 'hex') IN rest.bytes) - 1 AS length) queue
             WHERE t.tgnargs = 4
             UNION ALL
            SELECT '' WHERE t.tgnargs = 3
           ) options ON true
      LEFT JOIN LATERAL (
            SELECT coalesce(array_agg(kind.event ORDER BY kind.place), '{}') AS events
              FROM aimq._kinds() kind
              JOIN pg_trigger e
                ON e.tgname = kind.name::name
               AND e.tgrelid = CASE WHEN kind.of_archive THEN a.oid ELSE c.oid END
               AND e.tgfoid = kind.function
               AND e.tgenabled <> 'D' AND e.tgqual IS NULL
             WHERE kind.place IS NOT NULL
           ) later ON true;
END
$$;
COMMENT ON FUNCTION aimq._queues() IS 'What the view aimq.queues shows, and more. Internal';

-- The call that makes a queue tell what its triggers of aimq say now. It names only the arguments that are not the
-- default.
CREATE FUNCTION aimq._call(queue text, channel text, event text, options text, events text[]) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('SELECT aimq.enable_realtime(%s)', concat_ws(', ',
               quote_literal(queue),
               'channel => ' || quote_literal(nullif(channel, 'aimq:jobs')),
               'event => ' || quote_literal(nullif(event, 'job_enqueued')),
               'sink => ' || quote_literal(nullif(aimq._sink(options), 'notify')),
               CASE WHEN cardinality(events) > 0 THEN
                   format('events => %L', ARRAY['job_enqueued'] || events)
               END,
               CASE WHEN aimq._with_ids(options) THEN 'ids => true' END))
$$;
COMMENT ON FUNCTION aimq._call(text, text, text, text, text[]) IS 'The call of aimq.enable_realtime for what triggers say. Internal';

-- Every table that carries triggers of aimq, and the queue that those triggers name: a row for each pair. Partitions
-- have copies of the triggers, which are left out; temporary tables are left out too. A trigger's arguments stand one
-- after the other, each with a NUL byte behind it: channel, event, queue, options. Anybody may make such triggers on
-- his own tables outside of pgmq's schema. So is_trusted says that the table is in that schema, or belongs to a
-- superuser or to pgmq's owner.
CREATE FUNCTION aimq._attached() RETURNS TABLE (
        relation oid, relation_name name, "table" text, is_pgmqs boolean, is_trusted boolean, partitioned boolean, unlogged boolean,
        queue text, realtime boolean, has_own boolean, fires boolean, channel text, event text, options text, events text[],
        triggers text, drops text
    )
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH kinds AS MATERIALIZED (SELECT * FROM aimq._kinds()),
    ours AS MATERIALIZED (
        -- No queue's trigger has arguments that are longer than a payload.
        SELECT tgrelid, tgname, tgenabled <> 'D' AS fires, tgargs,
               tgfoid = ANY (ARRAY(SELECT DISTINCT function FROM kinds WHERE event IS NOT NULL)) AS is_event,
               -- What makes a queue realtime.
               tgfoid = (SELECT function FROM kinds WHERE number = 1)
               AND tgtype = (SELECT tgtype FROM kinds WHERE number = 1)
               AND tgqual IS NULL AS is_own
          FROM pg_trigger
         WHERE tgfoid = ANY (ARRAY(SELECT DISTINCT function FROM kinds))
           AND NOT tgisinternal AND tgparentid = 0 AND tgnargs IN (3, 4) AND octet_length(tgargs) <= 8192
    ),
    pgmqs AS (
        SELECT nspowner AS owner FROM pg_namespace WHERE nspname = 'pgmq'
         UNION ALL
        SELECT c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'pgmq' AND c.relname = 'meta'
    ),
    -- Many triggers have the same arguments.
    arguments AS (
        SELECT tgargs, said.texts
          FROM (SELECT DISTINCT tgargs FROM ours) o
         CROSS JOIN LATERAL (
                -- By default the result has the collation of an encoding's name. With that one, lower() leaves capitals
                -- beyond ASCII as they are.
                SELECT array_agg(convert_from(decode(argument, 'hex'), getdatabaseencoding()) COLLATE "default") AS texts
                  FROM unnest(string_to_array(regexp_replace(encode(tgargs, 'hex'), '..', E'\\& ', 'g'), '00 ')) argument
               ) said
    )
    SELECT c.oid, c.relname, format('%I.%I', n.nspname, c.relname), n.nspname = 'pgmq',
           n.nspname = 'pgmq' OR r.rolsuper OR c.relowner = ANY (ARRAY(SELECT owner FROM pgmqs)),
           c.relkind = 'p', c.relpersistence = 'u',
           a.texts[3],
           bool_or(t.is_own AND t.fires),
           bool_or(NOT t.is_event),
           bool_or(t.fires),
           min(a.texts[1]),
           min(a.texts[2]) FILTER (WHERE NOT t.is_event),
           coalesce(min(a.texts[4]), ''),
           array_remove(ARRAY[
               max(a.texts[2]) FILTER (WHERE t.is_event AND a.texts[2] = 'job_started'),
               max(a.texts[2]) FILTER (WHERE t.is_event AND a.texts[2] = 'job_archived'),
               max(a.texts[2]) FILTER (WHERE t.is_event AND a.texts[2] = 'job_deleted')
           ], NULL),
           string_agg(quote_ident(t.tgname), ', ' ORDER BY t.tgname),
           string_agg(format('DROP TRIGGER %I ON %I.%I', t.tgname, n.nspname, c.relname), '; ' ORDER BY t.tgname)
      FROM ours t
      JOIN arguments a USING (tgargs)
      JOIN pg_class c ON c.oid = t.tgrelid AND c.relpersistence <> 't'
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_roles r ON r.oid = c.relowner
     GROUP BY c.oid, n.nspname, r.rolsuper, a.texts[3]
$$;
COMMENT ON FUNCTION aimq._attached() IS 'The tables with triggers of aimq, and what those triggers say. Internal';

-- The tables of the queues that pgmq lists. A table of pgmq's schema with triggers of aimq that is not among them was
-- renamed, swapped, or restored without that list.
CREATE FUNCTION aimq._listed() RETURNS SETOF oid
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.relation FROM aimq._queues() q CROSS JOIN LATERAL (VALUES (q.relation), (q.archive)) t (relation)
     WHERE t.relation IS NOT NULL
$$;
COMMENT ON FUNCTION aimq._listed() IS 'The tables of the queues that pgmq lists. Internal';

CREATE VIEW aimq.queues AS
    SELECT queue, partitioned, unlogged, realtime, channel, event, sink, events, ids,
           CASE WHEN relation IS NOT NULL THEN pg_catalog.format('pgmq.%I', relation_name) END AS "table", true AS listed
      FROM aimq._queues()
    UNION ALL
    SELECT queue, partitioned, unlogged, realtime, channel, event,
           aimq._sink(options),
           pg_catalog.array_remove(pg_catalog.array_prepend(event, events), NULL),
           aimq._with_ids(options),
           "table", false
      FROM aimq._attached()
     WHERE is_pgmqs AND NOT relation OPERATOR(pg_catalog.=) ANY (SELECT aimq._listed());
COMMENT ON VIEW aimq.queues IS 'Every queue of pgmq, and whether its workers are woken; and every other table in pgmq''s schema that carries triggers of aimq';
COMMENT ON COLUMN aimq.queues.queue IS 'The name as pgmq.meta has it';
COMMENT ON COLUMN aimq.queues.partitioned IS 'Made by pgmq.create_partitioned';
COMMENT ON COLUMN aimq.queues.unlogged IS 'Made by pgmq.create_unlogged';
COMMENT ON COLUMN aimq.queues.realtime IS 'Whether the queue''s table carries the trigger aimq_realtime, and it is not disabled';
COMMENT ON COLUMN aimq.queues.channel IS 'The channel that workers LISTEN on; null if not realtime';
COMMENT ON COLUMN aimq.queues.sink IS 'Where the news goes: notify, supabase or both; null if not realtime';
COMMENT ON COLUMN aimq.queues.events IS 'What is told: the event of the enqueue first; null if not realtime';
COMMENT ON COLUMN aimq.queues.ids IS 'Whether notifications tell which messages; null if not realtime';
COMMENT ON COLUMN aimq.queues.event IS 'The event that payloads name; null if not realtime';
COMMENT ON COLUMN aimq.queues."table" IS 'Its table; null if there is none';
COMMENT ON COLUMN aimq.queues.listed IS 'Whether pgmq lists it. Where not, the table was renamed, swapped or restored alone, and queue is what its triggers say';
