//! What the extension puts into the catalogs: triggers, functions, views, settings.

use aimq_client_tests::*;
use postgres::Client;

#[test]
fn the_trigger_is_what_the_documents_say() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('Emails', channel => 'it''s', event => 'e')");
    assert_eq!(
        names(
            &mut client,
            "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'aimq_realtime'"
        ),
        ["CREATE TRIGGER aimq_realtime BEFORE INSERT ON pgmq.q_emails FOR EACH ROW \
          EXECUTE FUNCTION aimq.realtime_trigger('it''s', 'e', 'Emails')"]
    );
}

#[test]
fn queue_names_that_look_like_sql_are_names() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('x (vt) FOR EACH ROW \", drop')");
    assert!(boolean(&mut client, "SELECT realtime FROM aimq.queues"));
}

#[test]
fn every_function_and_view_and_its_columns_are_described() {
    let database = Database::new();
    let bare = names(
        &mut database.connect(),
        "SELECT p.proname || '()' FROM pg_proc p
          WHERE p.pronamespace = 'aimq'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
         UNION ALL
         SELECT c.relname || '.' || coalesce(a.attname, '')
           FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
          WHERE c.relnamespace = 'aimq'::regnamespace
            AND (coalesce(obj_description(c.oid, 'pg_class'), obj_description(c.reltype, 'pg_type')) IS NULL
                 OR col_description(c.oid, a.attnum) IS NULL)",
    );
    assert_eq!(bare, [""; 0]);
}

/// But those that run no SQL; and those that call pgmq's functions, and so the triggers of users, who expect the
/// caller's path. (A procedure with a path of its own could not commit.)
#[test]
fn the_functions_run_as_their_caller_with_a_path_of_their_own() {
    let database = Database::new();
    let odd = names(
        &mut database.connect(),
        "SELECT proname::text FROM pg_proc
          WHERE pronamespace = 'aimq'::regnamespace
            AND (prosecdef
                 OR 'search_path=pg_catalog, pg_temp' <> ALL (coalesce(proconfig, '{}'))
                    AND proname NOT IN ('realtime_trigger', 'event_trigger', 'ddl_trigger', '_sleep', '_doze', '_is_called', '_leave',
                                        'read', 'read_for', 'wait', 'wait_for'))",
    );
    assert_eq!(odd, [""; 0]);
}

#[test]
fn settings_have_their_defaults_and_a_mistyped_one_is_refused() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "LOAD 'aimq'");
    assert_eq!(
        names(
            &mut client,
            "SELECT name || ' ' || boot_val FROM pg_settings WHERE name ^@ 'aimq.' ORDER BY 1"
        ),
        [
            "aimq.delivery auto",
            "aimq.enabled on",
            "aimq.max_queues 1024",
            "aimq.max_waiters 1024",
            "aimq.notify_interval 10"
        ]
    );
    // PostgreSQL 14 knows no reserved prefixes: it only warns of those that are there already.
    let refused = client.batch_execute("SET aimq.enabeld = off").is_err();
    assert_eq!(refused, major() > 14);
}

/// What a call for one queue costs does not grow with the queues that there are: it reads no list of them.
#[test]
fn calls_for_one_queue_read_no_others() {
    const OTHERS: i64 = 3000;
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        &format!(
            "SELECT pgmq.create('a'), pgmq.create('b');
             INSERT INTO pgmq.meta (queue_name, is_partitioned, is_unlogged)
             SELECT 'other_' || n, false, false FROM generate_series(1, {OTHERS}) n;
             ANALYZE pgmq.meta"
        ),
    );
    run(&mut client, "SELECT pgmq.enable_notify_insert('b')");
    // One that is spelt otherwise is looked for among all, so this sees whether rows are counted.
    for (call, reads_all) in [
        ("aimq.enable_realtime('a')", false),
        ("aimq.enable_realtime('a')", false),
        ("aimq.enable_realtime('A', ids => true)", true),
        ("aimq.read('a', 30, 1, '1 ms')", false),
        ("aimq.recheck('a')", false),
        ("aimq.disable_realtime('a')", false),
        ("aimq.create_queue('c')", false),
        ("aimq.create_queue('c', ids => true)", false),
        ("aimq.adopt_pgmq_notify('b')", false),
    ] {
        run(&mut client, "BEGIN");
        let before = rows_read(&mut client);
        run(&mut client, &format!("SELECT {call}"));
        let read = rows_read(&mut client) - before;
        run(&mut client, "COMMIT");
        println!("{call}: {read} rows");
        assert_eq!(read > OTHERS / 2, reads_all, "{call} read {read} rows");
    }
}

/// How many rows the session has read of these tables by looking at all of them, as far as it has not told the server
/// yet.
fn rows_read(client: &mut Client) -> i64 {
    value(
        client,
        "SELECT sum(pg_stat_get_xact_tuples_returned(oid))::bigint
           FROM unnest(ARRAY['pgmq.meta', 'pg_class', 'pg_trigger', 'pg_proc']::regclass[]) oid",
    )
}

/// Tables that were renamed, moved, swapped, or restored without pgmq's list of queues.
#[test]
fn the_views_show_tables_that_pgmq_does_not_list() {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "SELECT aimq.create_queue('a', channel => 'A', ids => true),
                aimq.create_queue('b', events => '{job_enqueued,job_archived,job_started}'), aimq.create_queue('c');
         DELETE FROM pgmq.meta WHERE queue_name = 'a';
         ALTER TABLE pgmq.q_b RENAME TO \"q Old\"; ALTER TABLE pgmq.a_b RENAME TO a_old; SELECT pgmq.create('b');
         CREATE SCHEMA other; ALTER TABLE pgmq.q_c SET SCHEMA other; SELECT pgmq.drop_queue('c')",
    );
    let shown = names(
        &mut client,
        "SELECT concat_ws(' ', queue, realtime, channel, event, sink, events, ids, \"table\", listed)
           FROM aimq.queues ORDER BY \"table\"",
    );
    assert_eq!(
        shown,
        [
            "b t aimq:jobs job_enqueued notify {job_enqueued,job_started} f pgmq.\"q Old\" f",
            "b f aimq:jobs notify {job_archived} f pgmq.a_old f",
            "a t A job_enqueued notify {job_enqueued} t pgmq.q_a f",
            "b f pgmq.q_b t",
            "c f t",
        ]
    );
    assert_eq!(names(&mut client, "SELECT queue || channel FROM aimq.stats"), ["aA"]);
    // This drops what is shown.
    run(&mut client, "SELECT aimq.disable_realtime_all()");
    assert_eq!(
        names(&mut client, "SELECT \"table\" FROM aimq.queues WHERE \"table\" IS NOT NULL"),
        ["pgmq.q_b"]
    );
    run(&mut client, "DROP EXTENSION aimq");
}
