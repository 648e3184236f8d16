//! What views and the doctor say, and to which roles.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    use crate::tests::{ask, refusal, run};

    fn as_nobody(work: impl FnOnce()) {
        run("CREATE ROLE aimq_nobody; SET LOCAL ROLE aimq_nobody");
        work();
        run("RESET ROLE");
    }

    #[pg_test]
    fn views_tell_a_role_with_nothing_what_it_lacks() {
        run("SELECT aimq.create_queue('a')");
        run("CREATE ROLE aimq_nobody");
        let lacks = "42501 permission denied to see the queues";
        for view in ["aimq.queues", "aimq.stats", "aimq.doctor()"] {
            let (said, hint) = {
                refusal("SELECT 1");
                run("SET LOCAL ROLE aimq_nobody");
                let of = Spi::get_one::<String>(&format!(
                    "SELECT coalesce(said, '') || '|' || coalesce(hint, '') FROM pg_temp.refusal('SELECT count(*) FROM {view}')"
                ));
                run("RESET ROLE");
                let of = of.expect("a refusal").unwrap_or_default();
                let (said, hint) = of.split_once('|').expect("two");
                (said.to_owned(), hint.to_owned())
            };
            assert_eq!(said, lacks, "{view}");
            assert!(hint.contains("GRANT USAGE ON SCHEMA pgmq TO \"aimq_nobody\""), "{hint}");
        }
    }

    #[pg_test]
    fn counters_and_waiters_show_a_role_with_nothing_no_row() {
        run("SELECT aimq.create_queue('a'); SELECT pgmq.send('a', '{}')");
        as_nobody(|| {
            assert_eq!(ask("SELECT count(*) FROM aimq._queue_counters()").as_deref(), Some("0"));
            assert_eq!(ask("SELECT count(*) FROM aimq.waiters").as_deref(), Some("0"));
        });
    }

    #[pg_test]
    fn an_inner_function_shows_no_more_than_the_catalogs() {
        run("SELECT aimq.create_queue('a')");
        as_nobody(|| {
            let shown = "SELECT string_agg(queue, ' ') FROM aimq._attached()";
            assert_eq!(ask(shown).as_deref(), Some("a"), "as pg_trigger shows it to everybody");
        });
    }

    #[pg_test]
    fn a_queue_is_shown_in_the_transaction_that_makes_it_realtime() {
        run("SELECT aimq.create_queue('My q', channel => 'C', event => 'e', sink => 'both', ids => true,
                                      events => '{job_deleted,job_enqueued,job_started}')");
        let shown = "SELECT concat_ws(' ', queue, partitioned, unlogged, realtime, channel, event, sink, events, ids, \"table\", listed)
                       FROM aimq.queues";
        assert_eq!(
            ask(shown).as_deref(),
            Some("My q f f t C e both {e,job_started,job_deleted} t pgmq.\"q_my q\" t")
        );
    }

    #[pg_test]
    fn a_trigger_with_a_condition_is_not_aimqs() {
        run("SELECT pgmq.create('a');
             CREATE TRIGGER aimq_realtime BEFORE INSERT ON pgmq.q_a FOR EACH ROW WHEN (NEW.read_ct > 1)
             EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'a')");
        assert_eq!(ask("SELECT realtime FROM aimq.queues").as_deref(), Some("false"));
        assert_eq!(ask("aimq.enable_realtime('a')").as_deref(), Some("true"));
        assert_eq!(ask("SELECT realtime FROM aimq.queues").as_deref(), Some("true"));
    }

    #[pg_test]
    fn the_doctors_call_says_what_triggers_say() {
        for (queue, rest) in [
            ("a", ""),
            ("It is", ", channel => 'A b'"),
            ("a", ", event => 'o''clock', sink => 'supabase', ids => true"),
            (
                "a",
                ", channel => E'back\\\\slash', events => '{job_enqueued,job_archived,job_deleted}'",
            ),
        ] {
            let call = format!("SELECT aimq.enable_realtime('{queue}'{rest})");
            run(&format!("SELECT pgmq.create('{queue}'); {call}"));
            let said = "SELECT aimq._call(queue, min(channel), min(event), min(options), array_agg(e ORDER BY e) FILTER (WHERE e IS NOT NULL))
                          FROM aimq._attached() LEFT JOIN unnest(events) e ON true GROUP BY queue";
            assert_eq!(ask(said), Some(call));
            run(&format!("SELECT pgmq.drop_queue('{queue}')"));
        }
    }

    #[pg_test]
    fn the_doctor_sees_what_is_not_committed() {
        run("SELECT aimq.create_queue('a'); ALTER TABLE pgmq.q_a DISABLE TRIGGER aimq_realtime");
        let hint = "SELECT hint FROM aimq.doctor() WHERE subject = 'a'";
        assert_eq!(
            ask(hint).as_deref(),
            Some("Run ALTER TABLE pgmq.q_a ENABLE TRIGGER aimq_realtime;")
        );
        run("ALTER TABLE pgmq.q_a ENABLE TRIGGER aimq_realtime");
        assert_eq!(ask(hint), None);
    }

    #[pg_test]
    fn settings_of_this_session_are_told() {
        run("SET LOCAL aimq.enabled = off");
        let told = "SELECT problem FROM aimq.doctor() WHERE subject = 'this session'";
        assert_eq!(
            ask(told).as_deref(),
            Some("it has aimq.enabled=off: what is enqueued there wakes nobody")
        );
    }

    #[pg_test]
    fn counters_begin_with_nothing() {
        run("SELECT aimq.create_queue('a')");
        let counters = "SELECT transactions + messages + notifications + coalesced + calls + broadcasts FROM aimq.stats";
        assert_eq!(ask(counters).as_deref(), Some("0"));
    }
}
