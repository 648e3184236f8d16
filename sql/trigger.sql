-- A schema aimq may have been there before: AIMQ (the Python package) makes one. Its owner, and who may create in it,
-- could put functions there that a call of aimq's fits better than aimq's own, and superusers call aimq's.
DO $$
DECLARE
    strangers pg_catalog.text;
BEGIN
    SELECT pg_catalog.string_agg(DISTINCT found.role::pg_catalog.regrole::pg_catalog.text, ', ') INTO strangers
      FROM pg_catalog.pg_namespace n
     CROSS JOIN LATERAL (
            SELECT n.nspowner AS role
             UNION ALL
            SELECT a.grantee FROM pg_catalog.aclexplode(n.nspacl) a WHERE a.privilege_type OPERATOR(pg_catalog.=) 'CREATE'
           ) found
     WHERE n.nspname OPERATOR(pg_catalog.=) 'aimq'
       AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_roles r
             WHERE r.oid OPERATOR(pg_catalog.=) found.role
               AND (r.rolsuper OR r.rolname OPERATOR(pg_catalog.=) current_user
                    OR EXISTS (SELECT FROM pg_catalog.pg_database d
                                WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
                                  AND d.datdba OPERATOR(pg_catalog.=) r.oid)
                    OR EXISTS (SELECT FROM pg_catalog.pg_namespace p
                                WHERE p.nspname OPERATOR(pg_catalog.=) 'pgmq' AND p.nspowner OPERATOR(pg_catalog.=) r.oid)
                    OR EXISTS (SELECT FROM pg_catalog.pg_class c
                                WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('pgmq.meta')::pg_catalog.oid
                                  AND c.relowner OPERATOR(pg_catalog.=) r.oid))
           );
    IF strangers IS NOT NULL THEN
        RAISE EXCEPTION 'the schema aimq is in the hands of a role that owns neither pgmq nor the database: %', strangers
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'That role could have others call functions of its own for those of aimq. "-" is PUBLIC.',
                  HINT = 'See what is in the schema. Then run ALTER SCHEMA aimq OWNER TO a role that you trust, REVOKE CREATE ON SCHEMA '
                         'aimq FROM all others, and create the extension again.';
    END IF;
END
$$;

-- The trigger functions. Written by hand: they are raw version-1 functions, so that their errors carry
-- their own SQLSTATE. The second tells of the events of a job, and is no event trigger of PostgreSQL's: those are below.
CREATE FUNCTION aimq.realtime_trigger() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'aimq_realtime_trigger';
CREATE FUNCTION aimq.event_trigger() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'aimq_event_trigger';

-- Where the library is loaded, the hook on utility statements tells of DDL (src/ddl.rs). This event trigger
-- tells the same in sessions that have not loaded it: where aimq is not preloaded. It fires at ddl_command_start,
-- because DROP EXTENSION takes the trigger along.
CREATE FUNCTION aimq.ddl_trigger() RETURNS event_trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'aimq_ddl_trigger';
CREATE EVENT TRIGGER aimq_ddl ON ddl_command_start
    WHEN TAG IN (
        'ALTER TABLE', 'ALTER TRIGGER', 'ALTER SCHEMA', 'CREATE TRIGGER', 'DROP TABLE', 'DROP TRIGGER', 'DROP SCHEMA',
        'DROP FUNCTION', 'DROP EXTENSION', 'DROP OWNED', 'GRANT',
        'CREATE SUBSCRIPTION', 'ALTER SUBSCRIPTION', 'DROP SUBSCRIPTION'
    )
    EXECUTE FUNCTION aimq.ddl_trigger();
ALTER EVENT TRIGGER aimq_ddl ENABLE ALWAYS;

-- Where the table of archived messages is replaced by another of the same name, this event trigger gives the new table
-- the trigger that the old one had (src/api/archive.rs).
CREATE FUNCTION aimq.archive_trigger() RETURNS event_trigger
    LANGUAGE c
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'aimq_archive_trigger';
CREATE EVENT TRIGGER aimq_archive ON ddl_command_end
    WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE')
    EXECUTE FUNCTION aimq.archive_trigger();
