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
