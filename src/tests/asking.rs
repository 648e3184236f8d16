//! Rust that asks a server.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use std::ffi::CStr;

    use aimq_core::options::Options;
    use pgrx::pg_sys;
    use pgrx::prelude::*;

    use crate::catalog::pgmq;
    use crate::catalog::triggers::{self, Setting, TRIGGERS};
    use crate::pg::text;
    use crate::settings;
    use crate::tests::{ask, oid, refusal, refuses, run};

    #[pg_test]
    fn names_need_quotes_where_postgres_says_so() {
        for name in ["jobs", "Jobs", "a b", "a:b", "1a", "select", ""] {
            let quoted: String = Spi::get_one_with_args("SELECT quote_ident($1)", &[name.into()])
                .expect("a name")
                .expect("a name");
            assert_eq!(text::needs_quotes(name), quoted != name, "{name}");
        }
    }

    #[pg_test]
    fn literals_say_the_same_whatever_the_settings() {
        for setting in ["on", "off"] {
            run(&format!("SET LOCAL standard_conforming_strings = {setting}"));
            for text in ["it's", "a\\b", "\\'; DROP", "é\n"] {
                assert_eq!(ask(&text::quote_literal(text)).as_deref(), Some(text));
            }
        }
    }

    #[pg_test]
    fn rust_and_sql_name_the_same_table() {
        for queue in ["a", "Emails", "with space", "ÄÖ", "\"q", &"n".repeat(70)] {
            let name: String = Spi::get_one_with_args(
                "SELECT format('pgmq.%I', aimq._table($1))",
                &[queue.into()],
            )
            .expect("a name")
            .expect("a name");
            assert_eq!(pgmq::table_of(queue).quoted(), name, "{queue}");
        }
    }

    #[pg_test]
    fn a_table_that_is_not_there_has_no_triggers() {
        assert!(triggers::attached(pg_sys::InvalidOid, &TRIGGERS).is_none());
        assert!(triggers::ours(pg_sys::InvalidOid).is_empty());
    }

    #[pg_test]
    fn the_relation_cache_says_what_the_triggers_say() {
        run("SELECT aimq.create_queue('a', channel => 'C', ids => true)");
        let all = triggers::attached(oid("pgmq.q_a"), &TRIGGERS).expect("the table");
        let options = Options { ids: true, ..Options::default() };
        let setting = Setting::new("C", "job_enqueued", "a", options);
        let said: Vec<_> =
            all.iter().map(|it| it.as_ref().map(|it| (it.setting.as_ref(), it.enabled))).collect();
        assert_eq!(
            said,
            [Some((Some(&setting), b'O')), Some((Some(&setting), b'O')), None, None, None, None]
        );
    }

    #[pg_test]
    fn triggers_of_any_name_are_found() {
        run("CREATE TABLE public.jobs (vt timestamptz);
             CREATE TRIGGER mine BEFORE INSERT ON public.jobs FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger('c', 'e', 'q')");
        assert_eq!(triggers::ours(oid("public.jobs")), [(b"mine".to_vec(), b"q".to_vec())]);
        let has = |name: &CStr| {
            triggers::has_trigger(oid("public.jobs"), name, c"aimq", c"realtime_trigger")
        };
        assert!(has(c"mine") && !has(c"other"));
        run("ALTER TABLE public.jobs DISABLE TRIGGER mine");
        assert!(!has(c"mine"));
    }

    #[pg_test]
    fn settings_follow_the_session() {
        assert!(settings::enabled());
        run("SET LOCAL aimq.enabled = off; SET LOCAL aimq.delivery = notifier");
        assert!(!settings::enabled());
        assert_eq!(settings::delivery(), settings::Delivery::Notifier);
    }

    #[pg_test]
    fn a_savepoint_takes_settings_back() {
        run("DO $$ BEGIN
                 SET LOCAL aimq.enabled = off;
                 RAISE 'no';
             EXCEPTION WHEN raise_exception THEN NULL;
             END $$");
        assert!(settings::enabled());
    }

    #[pg_test]
    fn a_mistyped_value_is_refused_by_postgres() {
        refuses(
            "SET aimq.delivery = 'pigeon'",
            "22023 invalid value for parameter \"aimq.delivery\": \"pigeon\"",
            "auto, transaction, notifier",
        );
        let (said, _) = refusal("SET aimq.max_queues = 7");
        assert_eq!(
            said,
            "55P02 parameter \"aimq.max_queues\" cannot be changed without restarting the server"
        );
    }

    #[pg_test]
    fn the_version_of_pgmq_is_recent_enough() {
        assert!(pgmq::check_version().is_ok());
        assert!(pgmq::may_see_queues());
        assert!(pgmq::list_of_queues().is_some_and(|list| list.is_there()));
    }
}
