//! What is refused, with its SQLSTATE, its message and its hint.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::tests::{refusal, refuses, run, triggers};

    #[pg_test]
    fn events_that_there_are_not_are_refused() {
        run("SELECT pgmq.create('a')");
        refuses(
            "SELECT aimq.enable_realtime('a', events => '{job_enqueued,job_lost}')",
            "22023 events has no value \"job_lost\"",
            "job_started, job_archived, job_deleted",
        );
    }

    #[pg_test]
    fn events_without_the_enqueue_are_refused() {
        run("SELECT pgmq.create('a')");
        for events in ["{}", "{job_started}"] {
            refuses(
                &format!("SELECT aimq.enable_realtime('a', events => '{events}')"),
                "22023 events must contain job_enqueued",
                "Add job_enqueued",
            );
        }
    }

    #[pg_test]
    fn an_event_of_later_names_no_enqueue() {
        run("SELECT pgmq.create('a')");
        refuses(
            "SELECT aimq.enable_realtime('a', event => 'job_archived')",
            "42602 event must not be \"job_archived\"",
            "another name",
        );
    }

    #[pg_test]
    fn a_null_among_events_is_refused() {
        run("SELECT pgmq.create('a')");
        refuses(
            "SELECT aimq.enable_realtime('a', events => '{job_enqueued,NULL}')",
            "22004 events must not be null",
            "Leave events out",
        );
        refuses(
            "SELECT aimq.enable_realtime('a', events => NULL)",
            "22004 events must not be null",
            "Leave events out",
        );
    }

    #[pg_test]
    fn ids_are_wanted_or_not() {
        run("SELECT pgmq.create('a')");
        refuses(
            "SELECT aimq.enable_realtime('a', ids => NULL)",
            "22004 ids must not be null",
            "Leave ids out",
        );
    }

    #[pg_test]
    fn a_sink_that_there_is_not_is_refused() {
        run("SELECT pgmq.create('a')");
        for (sink, said) in [
            ("'kafka'", "22023 sink has no value \"kafka\""),
            ("''", "42602 sink must not be empty"),
            ("NULL", "22004 sink must not be null"),
        ] {
            refuses(&format!("SELECT aimq.enable_realtime('a', sink => {sink})"), said, "");
        }
    }

    #[pg_test]
    fn a_broadcast_that_has_no_room_is_refused() {
        run("SELECT pgmq.create('a')");
        refuses(
            "SELECT aimq.enable_realtime('a', event => repeat('e', 300), sink => 'both')",
            "54000 channel, event and queue are too long together to be broadcast",
            "shorter",
        );
        assert_eq!(triggers("pgmq.q_a"), "");
    }

    #[pg_test]
    fn a_refusal_names_the_argument_for_all_queues_too() {
        refuses(
            "SELECT aimq.enable_realtime_all(sink => 'x')",
            "22023 sink has no value \"x\"",
            "notify, supabase, both",
        );
        refuses(
            "SELECT aimq.enable_realtime_all(NULL)",
            "22004 channel must not be null",
            "default",
        );
        refuses(
            "SELECT aimq.enable_realtime_all(events => '{job_deleted}')",
            "22023 events must contain job_enqueued",
            "",
        );
    }

    #[pg_test]
    fn nothing_is_taken_over_where_the_queue_notifies_elsewhere() {
        run("SELECT aimq.create_queue('a', 'true', 'mine'); SELECT pgmq.enable_notify_insert('a')");
        refuses(
            "SELECT aimq.adopt_pgmq_notify('a')",
            "55000 queue \"a\" is realtime elsewhere",
            "pgmq.disable_notify_insert('a')",
        );
    }

    #[pg_test]
    fn a_name_with_its_prefix_says_what_was_meant() {
        run("SELECT pgmq.create('Mails')");
        for sql in ["aimq.enable_realtime", "aimq.disable_realtime", "aimq.adopt_pgmq_notify"] {
            refuses(
                &format!("SELECT {sql}('pgmq.q_mails')"),
                "42704 queue \"pgmq.q_mails\" does not exist",
                "'Mails'",
            );
        }
    }

    #[pg_test]
    fn a_recheck_of_nothing_is_refused() {
        refuses(
            "SELECT aimq.recheck('none')",
            "42P01 queue \"none\" has no table",
            "aimq.create_queue('none')",
        );
        refuses("SELECT aimq.recheck('')", "42602 queue must not be empty", "Name the queue");
    }

    #[pg_test]
    fn a_read_says_what_it_wants() {
        run("SELECT aimq.create_queue('a')");
        for (call, said) in [
            ("aimq.read(NULL, 30)", "22004 queue must not be null"),
            ("aimq.read('', 30)", "42602 queue must not be empty"),
            ("aimq.read('a', NULL)", "22004 vt must not be null"),
            ("aimq.read('a', 30, NULL)", "22004 qty must not be null"),
            ("aimq.read('a', 30, 0)", "22023 qty must be at least 1"),
            ("aimq.read('a', 30, max_wait => NULL)", "22004 max_wait must not be null"),
            ("aimq.read('a', 30, conditional => NULL)", "22004 conditional must not be null"),
            ("aimq.wait(NULL)", "22004 queues must not be null"),
            ("aimq.wait(ARRAY['a', ''])", "42602 queues must not be empty"),
            ("aimq.wait('{}')", "42602 queues must not be empty"),
            ("aimq.wait('{a,NULL}')", "22004 queues must not be null"),
            ("aimq.wait('{a}', NULL)", "22004 max_wait must not be null"),
        ] {
            refuses(&format!("SELECT * FROM {call}"), said, "");
        }
    }

    #[pg_test]
    fn procedures_are_not_for_a_transaction() {
        run("SELECT aimq.create_queue('a')");
        for call in ["aimq.read_for('a', 30)", "aimq.wait_for('{a}')"] {
            let (said, hint) = refusal(&format!("CALL {call}"));
            assert!(said.starts_with("25001 aimq."), "{said}");
            assert!(hint.contains("autocommit"), "{hint}");
        }
    }

    #[pg_test]
    fn trigger_functions_are_no_functions() {
        for function in ["realtime_trigger", "event_trigger"] {
            refuses(
                &format!("SELECT aimq.{function}()"),
                "39P01 a trigger function of aimq was not called as a trigger",
                "aimq.enable_realtime",
            );
        }
        for function in ["ddl_trigger", "archive_trigger"] {
            let (said, _) = refusal(&format!("SELECT aimq.{function}()"));
            assert!(said.starts_with("39P03 ") || said.starts_with("39P01 "), "{said}");
        }
    }
}
