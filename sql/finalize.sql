COMMENT ON FUNCTION aimq._check_pgmq() IS 'Fails unless pgmq is recent enough. Internal';

-- Privileges. Everything in this schema runs with the privileges of its caller and asks for privileges on
-- pgmq's own tables, so nobody gains anything by being allowed to call it. Producers need none of these grants:
-- Postgres checks EXECUTE on a trigger's function when the trigger is made, not when it fires.
GRANT USAGE ON SCHEMA aimq TO PUBLIC;
GRANT SELECT ON aimq.queues, aimq.stats, aimq.notifiers TO PUBLIC;

-- Where the default privileges give PUBLIC no EXECUTE, a grant on the public function or view has to suffice. So the
-- inner functions that those use are granted by name. None of them shows or does what its caller may not see or do
-- (docs/privileges.md). CREATE TRIGGER asks for the right to call the trigger's function.
DO $$
DECLARE
    inner_one regprocedure;
BEGIN
    FOR inner_one IN
        SELECT oid FROM pg_catalog.pg_proc
         WHERE pronamespace OPERATOR(pg_catalog.=) 'aimq'::pg_catalog.regnamespace::pg_catalog.oid
           AND (pg_catalog.left(proname::pg_catalog.text, 1) OPERATOR(pg_catalog.=) '_'
                OR proname OPERATOR(pg_catalog.=) ANY ('{realtime_trigger,event_trigger}'::pg_catalog.name[]))
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON ROUTINE %s TO PUBLIC', inner_one);
    END LOOP;
END
$$;
-- pgmq lets pg_monitor read its list of queues. A revoke from PUBLIC leaves it these.
GRANT USAGE ON SCHEMA aimq TO pg_monitor;
GRANT SELECT ON aimq.queues, aimq.stats, aimq.notifiers, aimq.waiters TO pg_monitor;
GRANT EXECUTE ON FUNCTION aimq.doctor() TO pg_monitor;

COMMENT ON FUNCTION aimq._check_sight() IS 'Fails, 42501, where the caller may not know which queues there are. Internal';
COMMENT ON FUNCTION aimq._queue_counters() IS 'What aimq.stats shows. Internal';
COMMENT ON FUNCTION aimq._is_preloaded() IS 'Whether the launcher of notifiers comes with the server. Internal';
COMMENT ON FUNCTION aimq._kinds() IS 'The triggers of a realtime queue''s tables. Internal';
COMMENT ON FUNCTION aimq._sink(text) IS 'Where the news of a queue goes, by its triggers'' options. Internal';
COMMENT ON FUNCTION aimq._with_ids(text) IS 'Whether notifications tell which messages, by the triggers'' options. Internal';
COMMENT ON FUNCTION aimq._has_room() IS 'Whether one more queue of this database would get a slot. Internal';
COMMENT ON FUNCTION aimq._has_place() IS 'Whether one more session can block without polling. Internal';
COMMENT ON FUNCTION aimq._notifiers() IS 'What aimq.notifiers shows. Internal';

COMMENT ON FUNCTION aimq.realtime_trigger() IS
    'The function of the triggers on the tables of realtime queues. Attached by aimq.enable_realtime; takes channel, event, queue and, if any, options';
COMMENT ON FUNCTION aimq.event_trigger() IS
    'The function of the triggers that tell what happens to messages later. Attached by aimq.enable_realtime; takes channel, event, queue and, if any, options';
COMMENT ON FUNCTION aimq.ddl_trigger() IS
    'The function of the event trigger aimq_ddl: tells the watcher what may have changed, where aimq is not preloaded';
COMMENT ON FUNCTION aimq.archive_trigger() IS
    'The function of the event trigger aimq_archive: where a table of archived messages is replaced by another of the same name, it gives the new one the trigger that tells of archiving. Needs TRIGGER on the new table; without it, it does nothing';
COMMENT ON FUNCTION aimq.enable_realtime(text, text, text, text, text[], boolean) IS
    'Makes a queue realtime, or changes what it tells, and where. True if something changed. Raises a NOTICE where a channel that is new for the queue needs quotes in LISTEN, and where sessions that LISTEN hear nothing of it. Needs TRIGGER on the queue''s table; takes SHARE ROW EXCLUSIVE on it until commit if something changes, else no lock stronger than a read';
COMMENT ON FUNCTION aimq.disable_realtime(text) IS
    'Makes a queue not realtime. True if it was. Needs ownership of the queue''s table; takes ACCESS EXCLUSIVE on it until commit if the queue was realtime';
COMMENT ON FUNCTION aimq.create_queue(text, boolean, text, text, text, text[], boolean) IS
    'pgmq.create and, unless realtime is false, aimq.enable_realtime in one step';
COMMENT ON FUNCTION aimq.enable_realtime_all(text, text, text, text[], boolean) IS
    'aimq.enable_realtime for every queue; returns those that changed';
COMMENT ON FUNCTION aimq.disable_realtime_all() IS
    'aimq.disable_realtime for every queue, and for every other table that has triggers of aimq; returns the queues that changed, by the names that the triggers say';
COMMENT ON FUNCTION aimq.recheck(text) IS
    'Has a queue''s table looked at, or all of them, for messages that came in while no trigger fired, as by replication. Needs SELECT on the queue''s table, or on pgmq.meta for all';
COMMENT ON FUNCTION aimq.adopt_pgmq_notify(text) IS
    'Makes a queue realtime that pgmq announces (pgmq.enable_notify_insert), on the channel that its listeners wait on, and drops pgmq''s trigger. True if there was one. Needs ownership of the queue''s table; takes ACCESS EXCLUSIVE on it until commit if there was one';
COMMENT ON FUNCTION aimq.adopt_pgmq_notify_all() IS
    'aimq.adopt_pgmq_notify for every queue; returns those that were announced by pgmq';
COMMENT ON FUNCTION aimq._has_notifier() IS 'Whether a notifier can run for this session''s queues. Internal';

GRANT SELECT ON aimq.waiters TO PUBLIC;
COMMENT ON FUNCTION aimq.read(text, integer, integer, interval, jsonb) IS
    'What pgmq.read returns, at once or as soon as there is something; no rows when max_wait is over. Sleeps without polling where there is a notifier. Needs what pgmq.read needs; 25006 at once on a standby and in a read-only transaction';
COMMENT ON FUNCTION aimq.wait(text[], interval) IS
    'The queues that have a message which can be read, at once or as soon as there is one; an empty array when max_wait is over. Needs SELECT on the queues'' tables';
COMMENT ON PROCEDURE aimq.wait_for(text[], interval, text[]) IS
    'As aimq.wait, but holds no snapshot while it sleeps, so vacuum is not kept back. Not in a transaction block';
COMMENT ON PROCEDURE aimq.read_for(text, integer, integer, interval, jsonb, jsonb) IS
    'As aimq.read, but holds no snapshot while it sleeps, so vacuum is not kept back. The messages as an array of objects: fewer than qty where they have more than 256 MB together. Not in a transaction block; 25006 where nothing can be written';
COMMENT ON FUNCTION aimq._check_wait(text, text[], integer, boolean, boolean, boolean) IS 'Fails where a wait could never end. Internal';
COMMENT ON FUNCTION aimq._check_commit(text) IS 'Fails in a transaction block. Internal';
COMMENT ON FUNCTION aimq._ready(text[], boolean) IS 'The queues that have a message which can be read now. Internal';
COMMENT ON FUNCTION aimq._arm(text[], integer, double precision, boolean) IS 'Has this session called when there is something to read. Internal';
COMMENT ON FUNCTION aimq._sleep() IS 'Sleeps until this session is called. Internal';
COMMENT ON PROCEDURE aimq._doze() IS 'aimq._sleep for a procedure that has committed. Internal';
COMMENT ON FUNCTION aimq._is_called() IS 'What the last sleep came to. Internal';
COMMENT ON FUNCTION aimq._leave() IS 'This session does not wait any more. Internal';
COMMENT ON FUNCTION aimq._leave_rest() IS 'This session does not wait any more, and leaves more to read. Internal';
COMMENT ON FUNCTION aimq._waiters() IS 'What aimq.waiters shows. Internal';
