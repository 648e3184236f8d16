//! SQL that is written by hand and Rust say the same of what a realtime trigger is.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use aimq_core::options::Options;
    use aimq_core::payload::event;
    use pgrx::prelude::*;

    use crate::catalog::triggers::TRIGGERS;
    use crate::tests::{ask, run};

    /// What matches in the bodies of functions that are written in SQL, and in the views.
    fn in_bodies(pattern: &str) -> Vec<String> {
        let sql = format!(
            "SELECT string_agg(DISTINCT found[1], ' ')
               FROM (SELECT prosrc FROM pg_proc p JOIN pg_language l ON l.oid = prolang
                      WHERE pronamespace = 'aimq'::regnamespace AND lanname IN ('sql', 'plpgsql')
                      UNION ALL
                     SELECT pg_get_viewdef(oid) FROM pg_class
                      WHERE relnamespace = 'aimq'::regnamespace AND relkind = 'v') b (body)
              CROSS JOIN regexp_matches(body, '{pattern}', 'g') found"
        );
        ask(&sql).unwrap_or_default().split(' ').map(str::to_owned).collect()
    }

    #[pg_test]
    fn triggers_are_made_as_the_kinds_say() {
        run(
            "SELECT aimq.create_queue('a', events => '{job_enqueued,job_started,job_archived,job_deleted}')",
        );
        let others = "SELECT string_agg(k.name, ' ')
                        FROM aimq._kinds() k
                        LEFT JOIN pg_trigger t
                               ON t.tgname = k.name::name AND t.tgfoid = k.function AND t.tgtype = k.tgtype
                              AND t.tgrelid = CASE WHEN k.of_archive THEN 'pgmq.a_a' ELSE 'pgmq.q_a' END::regclass
                       WHERE t.oid IS NULL";
        assert_eq!(ask(others), None);
        assert_eq!(ask("SELECT count(*) FROM aimq._kinds()"), Some(TRIGGERS.len().to_string()));
    }

    #[pg_test]
    fn sql_by_hand_names_triggers_that_there_are() {
        let named = in_bodies("aimq_realtime[a-z_]*");
        assert!(named.iter().any(|it| it == TRIGGERS[0].name), "{named:?}");
        for name in named {
            let is_it = |it: &str| it == name || name.ends_with('_') && it.starts_with(&name);
            assert!(TRIGGERS.iter().any(|kind| is_it(kind.name)), "{name}");
        }
        assert_eq!(in_bodies("(tgtype *[=<>]+ *[0-9]+|tgtype IN *[(]|tgtype.{0,30}int2)"), [""]);
        assert_eq!(in_bodies("(aimq[.](realtime|event)_trigger)"), [""]);
    }

    #[pg_test]
    fn sql_by_hand_names_events_that_there_are() {
        let mut named = in_bodies("(job_[a-z]+)");
        named.sort();
        let all = event::ALL.iter().map(|it| it.to_str().expect("ASCII"));
        let mut all: Vec<_> = all.chain(["job_enqueued"]).collect();
        all.sort_unstable();
        assert_eq!(named, all);
        for event in event::ALL {
            let event = event.to_str().expect("ASCII");
            let is_shown = format!(
                "SELECT prosrc ~ '= ''{event}''' FROM pg_proc WHERE oid = 'aimq._attached'::regproc"
            );
            assert_eq!(ask(&is_shown).as_deref(), Some("true"), "{event}");
        }
    }

    #[pg_test]
    fn options_are_read_as_they_are_written() {
        for (notifies, broadcasts, sink) in
            [(true, false, "notify"), (false, true, "supabase"), (true, true, "both")]
        {
            for ids in [false, true] {
                let options = Options { notifies, broadcasts, ids }.text();
                let read = format!(
                    "SELECT concat_ws(' ', aimq._sink('{options}'), aimq._with_ids('{options}'))"
                );
                let ids = if ids { "t" } else { "f" };
                assert_eq!(ask(&read), Some(format!("{sink} {ids}")), "{options}");
            }
        }
        assert_eq!(ask("SELECT aimq._sink(NULL)"), None);
    }
}
