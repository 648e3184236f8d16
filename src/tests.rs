//! What one rolled-back transaction can show: the control plane's answers and what it leaves in the
//! catalogs. What needs a commit or a second session is in `tests/client`.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use pgrx::prelude::*;
    use pgrx::spi;

    fn text(sql: &str) -> Option<String> {
        Spi::get_one(sql).unwrap()
    }

    fn boolean(sql: &str) -> Option<bool> {
        Spi::get_one(sql).unwrap()
    }

    #[pg_test]
    fn the_trigger_is_what_the_documents_say() {
        Spi::run("SELECT aimq.create_queue('Emails', channel => 'it''s', event => 'e')").unwrap();
        assert_eq!(
            text("SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'aimq_realtime'")
                .unwrap(),
            "CREATE TRIGGER aimq_realtime BEFORE INSERT ON pgmq.q_emails FOR EACH ROW \
             EXECUTE FUNCTION aimq.realtime_trigger('it''s', 'e', 'Emails')"
        );
    }

    #[pg_test]
    fn a_statement_sees_what_an_earlier_one_of_its_transaction_did() {
        Spi::run("SELECT pgmq.create('a')").unwrap();
        assert_eq!(boolean("SELECT aimq.enable_realtime('a')"), Some(true));
        assert_eq!(boolean("SELECT aimq.enable_realtime('a')"), Some(false));
        assert_eq!(boolean("SELECT aimq.disable_realtime('a')"), Some(true));
        assert_eq!(boolean("SELECT aimq.disable_realtime('a')"), Some(false));
        assert_eq!(boolean("SELECT aimq.enable_realtime('a')"), Some(true));
    }

    #[pg_test]
    fn every_function_and_view_and_its_columns_are_described() {
        let bare = text(
            "SELECT string_agg(what, ', ') FROM (
                 SELECT p.proname || '()' FROM pg_proc p
                  WHERE p.pronamespace = 'aimq'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
                 UNION ALL
                 SELECT c.relname || '.' || coalesce(a.attname, '')
                   FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
                  WHERE c.relnamespace = 'aimq'::regnamespace
                    AND (coalesce(obj_description(c.oid, 'pg_class'), obj_description(c.reltype, 'pg_type')) IS NULL
                         OR col_description(c.oid, a.attnum) IS NULL)
             ) bare (what)",
        );
        assert_eq!(bare, None);
    }

    #[pg_test]
    fn the_functions_run_as_their_caller_with_a_path_of_their_own() {
        // Those that run no SQL; and those that call pgmq's functions, and so the triggers of users, who expect the
        // caller's path. (A procedure with a path of its own could not commit.)
        let odd = text(
            "SELECT string_agg(proname, ', ') FROM pg_proc
              WHERE pronamespace = 'aimq'::regnamespace
                AND (prosecdef
                     OR 'search_path=pg_catalog, pg_temp' <> ALL (coalesce(proconfig, '{}'))
                        AND proname NOT IN ('realtime_trigger', 'event_trigger', '_sleep', '_doze', '_is_called', '_leave',
                                            'read', 'read_for', 'wait', 'wait_for'))",
        );
        assert_eq!(odd, None);
    }

    #[pg_test]
    fn settings_have_their_defaults() {
        Spi::run("LOAD 'aimq'").unwrap();
        assert_eq!(text("SHOW aimq.enabled").as_deref(), Some("on"));
    }

    #[pg_test]
    fn a_mistyped_setting_is_refused() {
        Spi::run("LOAD 'aimq'").unwrap();
        let refused = PgTryBuilder::new(|| Spi::run("SET aimq.enabeld = off").is_err())
            .catch_others(|_| true)
            .execute();
        // PostgreSQL 14 knows no reserved prefixes: it only warns of those that are there already.
        assert_eq!(refused, cfg!(not(feature = "pg14")));
    }

    #[pg_test]
    fn a_library_that_notifies_leaves_room_in_the_queue() {
        // The decision itself; that the enqueue goes on is shown by tests/client/tests/overload.rs.
        assert!(crate::delivery::has_room(0.0));
        assert!(crate::delivery::has_room(0.74));
        assert!(!crate::delivery::has_room(0.75));
        assert!(!crate::delivery::has_room(1.0));
    }

    #[pg_test]
    fn queue_names_that_look_like_sql_are_names() {
        let name = "x (vt) FOR EACH ROW \"; drop";
        let quoted = spi::quote_literal(name.replace(';', ","));
        Spi::run(&format!("SELECT aimq.create_queue({quoted})")).unwrap();
        assert_eq!(boolean("SELECT realtime FROM aimq.queues"), Some(true));
    }
}
