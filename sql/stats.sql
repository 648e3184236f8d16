-- What the notifier does: counters in shared memory, since the server started.
--
-- A view has no search_path of its own: it means what its names meant when it was made. So each name is qualified. The
-- schema aimq may have been there before the extension, with something of its owner's in it.

CREATE VIEW aimq.notifiers AS
    SELECT d.datname AS database, n.pid, n.state, n.started_at, n.starts, n.wake_ups,
           n.notifications, n.errors, n.last_error, n.last_error_at,
           n.watcher_pid, n.watcher_state, n.watcher_wake_ups
      FROM aimq._notifiers() n
      JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) n.database;
COMMENT ON VIEW aimq.notifiers IS 'The notifiers of all databases, since the server started';
COMMENT ON COLUMN aimq.notifiers.database IS 'The database';
COMMENT ON COLUMN aimq.notifiers.pid IS 'The notifier''s process; null where there is none';
COMMENT ON COLUMN aimq.notifiers.state IS 'running; not responding: it was woken and has not shown itself since, so transactions notify themselves; starting; down: about to be started again; no slot: max_worker_processes is used up; none: nothing to do';
COMMENT ON COLUMN aimq.notifiers.started_at IS 'When the process started';
COMMENT ON COLUMN aimq.notifiers.starts IS 'How often a notifier was started';
COMMENT ON COLUMN aimq.notifiers.wake_ups IS 'How often it woke up; does not grow while there is nothing to do';
COMMENT ON COLUMN aimq.notifiers.notifications IS 'Notifications sent';
COMMENT ON COLUMN aimq.notifiers.errors IS 'Failures; each was tried again';
COMMENT ON COLUMN aimq.notifiers.last_error IS 'The SQLSTATE of the last failure';
COMMENT ON COLUMN aimq.notifiers.last_error_at IS 'When that was';
COMMENT ON COLUMN aimq.notifiers.watcher_pid IS 'The process that keeps the times and calls those who block; null where there is none';
COMMENT ON COLUMN aimq.notifiers.watcher_state IS 'As state, of that process. Where it has no slot, the notifier does its work as well';
COMMENT ON COLUMN aimq.notifiers.watcher_wake_ups IS 'How often it woke up; does not grow while there is nothing to do';

CREATE VIEW aimq.stats AS
    SELECT q.queue, q.channel,
           coalesce(pg_catalog.sum(c.transactions), 0)::bigint AS transactions,
           coalesce(pg_catalog.sum(c.messages), 0)::bigint AS messages,
           coalesce(pg_catalog.sum(c.notifications), 0)::bigint AS notifications,
           coalesce(pg_catalog.sum(c.coalesced), 0)::bigint AS coalesced,
           pg_catalog.max(c.last_wake_up) AS last_wake_up,
           n.pid AS notifier_pid,
           coalesce(n.state, 'none') AS notifier_state,
           n.started_at AS notifier_started_at,
           coalesce(n.errors, 0) AS notifier_errors,
           coalesce(pg_catalog.sum(c.calls), 0)::bigint AS calls,
           coalesce(pg_catalog.sum(c.broadcasts), 0)::bigint AS broadcasts,
           coalesce(pg_catalog.sum(c.failed_broadcasts), 0)::bigint AS failed_broadcasts,
           pg_catalog.max(c.last_failed_broadcast) AS last_failed_broadcast
      FROM (
            SELECT queue, channel, event, options FROM aimq._queues() WHERE realtime
             UNION
            -- The queues that pgmq does not list. For those that it lists, the counters are shown above.
            SELECT queue, channel, event, options FROM aimq._attached() a
             WHERE realtime AND is_pgmqs AND NOT relation OPERATOR(pg_catalog.=) ANY (SELECT aimq._listed())
               AND NOT EXISTS (SELECT FROM aimq._queues() q WHERE q.queue OPERATOR(pg_catalog.=) a.queue)
           ) q
      LEFT JOIN aimq._queue_counters() c
             ON c.queue OPERATOR(pg_catalog.=) q.queue AND c.channel OPERATOR(pg_catalog.=) q.channel
            AND c.event OPERATOR(pg_catalog.=) q.event AND c.options OPERATOR(pg_catalog.=) q.options
      LEFT JOIN aimq.notifiers n ON n.database OPERATOR(pg_catalog.=) pg_catalog.current_database()
     GROUP BY q.queue, q.channel, n.pid, n.state, n.started_at, n.errors;
COMMENT ON VIEW aimq.stats IS 'What this database''s notifier did for each realtime queue, since the server started';
COMMENT ON COLUMN aimq.stats.queue IS 'The name as pgmq.meta has it';
COMMENT ON COLUMN aimq.stats.channel IS 'The channel that workers LISTEN on';
COMMENT ON COLUMN aimq.stats.transactions IS 'Transactions that enqueued and left the wake-up to the notifier';
COMMENT ON COLUMN aimq.stats.messages IS 'Messages that they enqueued';
COMMENT ON COLUMN aimq.stats.notifications IS 'Notifications that named the queue';
COMMENT ON COLUMN aimq.stats.coalesced IS 'Transactions that shared a notification with an earlier one';
COMMENT ON COLUMN aimq.stats.last_wake_up IS 'When the last notification was sent';
COMMENT ON COLUMN aimq.stats.notifier_pid IS 'The notifier''s process; null where there is none';
COMMENT ON COLUMN aimq.stats.notifier_state IS 'As in aimq.notifiers';
COMMENT ON COLUMN aimq.stats.notifier_started_at IS 'When the notifier started';
COMMENT ON COLUMN aimq.stats.notifier_errors IS 'Failures of the notifier; each was tried again';
COMMENT ON COLUMN aimq.stats.broadcasts IS 'Calls of realtime.send that told of what was enqueued';
COMMENT ON COLUMN aimq.stats.failed_broadcasts IS 'Calls of realtime.send that failed; each was or will be tried again';
COMMENT ON COLUMN aimq.stats.last_failed_broadcast IS 'When one failed last';
COMMENT ON COLUMN aimq.stats.calls IS 'Sessions that blocked in aimq.read or aimq.wait and were called to read';
