-- Fails, with a hint, for a pgmq that is too old.
SELECT aimq._check_pgmq();
COMMENT ON FUNCTION aimq._check_pgmq() IS 'Fails unless pgmq is recent enough. Internal';

-- Privileges. Everything in this schema runs with the privileges of its caller and asks for those of
-- pgmq's own tables, so that nothing is gained by being allowed to call it. Producers need none of it:
-- Postgres checks EXECUTE on a trigger's function when the trigger is made, not when it fires.
GRANT USAGE ON SCHEMA aimq TO PUBLIC;
GRANT SELECT ON aimq.queues, aimq.stats, aimq.notifiers TO PUBLIC;

COMMENT ON FUNCTION aimq._queue_counters() IS 'What aimq.stats shows. Internal';
COMMENT ON FUNCTION aimq._notifiers() IS 'What aimq.notifiers shows. Internal';

COMMENT ON FUNCTION aimq.realtime_trigger() IS
    'The function of the triggers on the tables of realtime queues. Attached by aimq.enable_realtime; takes channel, event, queue';
COMMENT ON FUNCTION aimq.enable_realtime(text, text, text) IS
    'Makes a queue realtime, or changes its channel or event. True if something changed. Needs TRIGGER on the queue''s table; takes SHARE ROW EXCLUSIVE on it until commit if something changes, else no lock stronger than a read';
COMMENT ON FUNCTION aimq.disable_realtime(text) IS
    'Makes a queue not realtime. True if it was. Needs ownership of the queue''s table; takes ACCESS EXCLUSIVE on it until commit if the queue was realtime';
COMMENT ON FUNCTION aimq.create_queue(text, boolean, text, text) IS
    'pgmq.create and, unless realtime is false, aimq.enable_realtime in one step';
COMMENT ON FUNCTION aimq.enable_realtime_all(text, text) IS
    'aimq.enable_realtime for every queue; returns those that changed';
COMMENT ON FUNCTION aimq.disable_realtime_all() IS
    'aimq.disable_realtime for every queue; returns those that changed';
