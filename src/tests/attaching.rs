//! What attaching and detaching leave in the catalogs.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::tests::{ask, run, triggers};

    #[pg_test]
    fn a_trigger_is_changed_in_place() {
        run("SELECT aimq.create_queue('a')");
        let ids = "SELECT array_agg(oid ORDER BY oid) FROM pg_trigger WHERE tgrelid = 'pgmq.q_a'::regclass";
        let before = ask(ids);
        assert_eq!(ask("aimq.enable_realtime('a', 'other', ids => true)").as_deref(), Some("true"));
        assert_eq!(ask(ids), before, "at no moment there is none");
    }

    #[pg_test]
    fn each_event_has_its_triggers() {
        run("SELECT aimq.create_queue('a')");
        let own = "aimq_realtime aimq_realtime_vt";
        assert_eq!(triggers("pgmq.q_a"), own);
        for (event, of_queue, of_archive) in [
            ("job_started", "aimq_realtime aimq_realtime_started aimq_realtime_vt", ""),
            ("job_archived", own, "aimq_realtime_archived"),
            (
                "job_deleted",
                "aimq_realtime aimq_realtime_deleted aimq_realtime_purged aimq_realtime_vt",
                "",
            ),
        ] {
            run(&format!("SELECT aimq.enable_realtime('a', events => '{{job_enqueued,{event}}}')"));
            assert_eq!(
                (&*triggers("pgmq.q_a"), &*triggers("pgmq.a_a")),
                (of_queue, of_archive),
                "{event}"
            );
        }
    }

    #[pg_test]
    fn fewer_events_take_triggers_off() {
        run(
            "SELECT aimq.create_queue('a', events => '{job_enqueued,job_started,job_archived,job_deleted}')",
        );
        run("SELECT aimq.enable_realtime('a')");
        assert_eq!(triggers("pgmq.q_a"), "aimq_realtime aimq_realtime_vt");
        assert_eq!(triggers("pgmq.a_a"), "");
    }

    #[pg_test]
    fn the_order_of_events_is_no_change() {
        run("SELECT aimq.create_queue('a', events => '{job_deleted,job_enqueued,job_started}')");
        let again = "aimq.enable_realtime('a', events => '{job_started,job_enqueued,job_deleted,job_started}')";
        assert_eq!(ask(again).as_deref(), Some("false"));
    }

    #[pg_test]
    fn a_queue_of_replicas_stays_one() {
        run("SELECT aimq.create_queue('a')");
        for trigger in ["aimq_realtime", "aimq_realtime_vt"] {
            run(&format!("ALTER TABLE pgmq.q_a ENABLE ALWAYS TRIGGER {trigger}"));
        }
        run("SELECT aimq.enable_realtime('a', 'other', events => '{job_enqueued,job_started}')");
        let how = "SELECT string_agg(DISTINCT tgenabled::text, '') FROM pg_trigger WHERE tgname LIKE 'aimq_realtime%'";
        assert_eq!(ask(how).as_deref(), Some("A"));
    }

    #[pg_test]
    fn a_subtransaction_that_fails_leaves_no_trigger() {
        run("SELECT pgmq.create('a')");
        run("DO $$ BEGIN
                 PERFORM aimq.enable_realtime('a');
                 RAISE 'no';
             EXCEPTION WHEN raise_exception THEN NULL;
             END $$");
        assert_eq!(triggers("pgmq.q_a"), "");
        assert_eq!(ask("aimq.enable_realtime('a')").as_deref(), Some("true"));
    }

    #[pg_test]
    fn a_queue_that_is_made_again_is_not_realtime() {
        run("SELECT aimq.create_queue('a'); SELECT pgmq.drop_queue('a'); SELECT pgmq.create('a')");
        assert_eq!(ask("SELECT realtime FROM aimq.queues").as_deref(), Some("false"));
    }

    #[pg_test]
    fn all_that_change_are_returned_by_the_names_of_their_tables() {
        run(
            "SELECT pgmq.create(q) FROM unnest(ARRAY['b', 'C', 'a']) q; SELECT aimq.enable_realtime('b')",
        );
        assert_eq!(
            ask("SELECT array_agg(q) FROM aimq.enable_realtime_all() q").as_deref(),
            Some("{a,C}")
        );
        assert_eq!(ask("SELECT array_agg(q) FROM aimq.enable_realtime_all() q"), None);
        assert_eq!(
            ask("SELECT array_agg(q) FROM aimq.disable_realtime_all() q").as_deref(),
            Some("{a,b,C}")
        );
    }

    #[pg_test]
    fn taking_over_keeps_pgmqs_channel() {
        run("SELECT pgmq.create('a'); SELECT pgmq.enable_notify_insert('a')");
        assert_eq!(ask("aimq.adopt_pgmq_notify('a')").as_deref(), Some("true"));
        assert_eq!(ask("SELECT channel FROM aimq.queues").as_deref(), Some("pgmq.q_a.INSERT"));
        assert_eq!(triggers("pgmq.q_a"), "aimq_realtime aimq_realtime_vt");
        assert_eq!(ask("aimq.adopt_pgmq_notify('a')").as_deref(), Some("false"));
    }

    #[pg_test]
    fn an_archive_that_is_replaced_gets_the_trigger() {
        run("SELECT aimq.create_queue('a', events => '{job_enqueued,job_archived}')");
        run("ALTER TABLE pgmq.a_a RENAME TO a_a_old; CREATE TABLE pgmq.a_a (LIKE pgmq.a_a_old)");
        assert_eq!(triggers("pgmq.a_a"), "aimq_realtime_archived");
    }

    #[pg_test]
    fn a_partition_has_copies_and_counts_for_none() {
        run("CREATE TABLE pgmq.q_p (msg_id bigint, read_ct int, vt timestamptz) PARTITION BY RANGE (msg_id);
             INSERT INTO pgmq.meta (queue_name, is_partitioned, is_unlogged) VALUES ('p', true, false);
             SELECT aimq.enable_realtime('p');
             CREATE TABLE pgmq.q_p_1 PARTITION OF pgmq.q_p DEFAULT");
        assert_eq!(triggers("pgmq.q_p_1"), "aimq_realtime");
        assert_eq!(
            ask("SELECT string_agg(\"table\", ' ') FROM aimq._attached()").as_deref(),
            Some("pgmq.q_p")
        );
    }
}
