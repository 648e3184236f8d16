//! Errors of others that aimq's functions pass on, and calls where nothing can be read. On the servers of waiting.rs.

use std::time::{Duration, Instant};

use aimq_client_tests::blocking::*;
use aimq_client_tests::supabase::ordinary_owner;
use aimq_client_tests::*;
use postgres::Client;
use postgres::error::DbError;

/// `public.refuse()` raises an error as PostgREST's users do, and so does an event trigger for the command of that tag.
const REFUSE: &str = "
    CREATE FUNCTION public.refuse() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        RAISE SQLSTATE 'PT403' USING MESSAGE = 'not today', DETAIL = 'it is closed', HINT = 'come tomorrow',
              SCHEMA = 's', TABLE = 't', COLUMN = 'c', CONSTRAINT = 'n', DATATYPE = 'd';
    END $$;
    CREATE FUNCTION public.refuse_command() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.refuse();
    END $$;";

/// The error is that of `public.refuse()`, whole; what was inside is in its context.
#[track_caller]
fn assert_whole(error: &DbError, inside: &[&str]) {
    assert_eq!(error.code().code(), "PT403", "{error:?}");
    assert_eq!(error.message(), "not today");
    assert_eq!(error.detail(), Some("it is closed"));
    assert_eq!(error.hint(), Some("come tomorrow"));
    let names =
        [error.schema(), error.table(), error.column(), error.constraint(), error.datatype()];
    assert_eq!(names, ["s", "t", "c", "n", "d"].map(Some));
    let context = error.where_().unwrap_or_default();
    for line in [&["refuse() line 2 at RAISE"][..], inside].concat() {
        assert_eq!(context.matches(line).count(), 1, "{line:?} in {context:?}");
    }
}

/// A role that reads the queue `a`, each row of which is refused.
fn refused(database: &Database, client: &mut Client) -> Client {
    let role = database.role("worker");
    run(client, REFUSE);
    run(
        client,
        &format!(
            "SELECT pgmq.send('a', '{{}}');
             GRANT USAGE ON SCHEMA pgmq TO {role}; GRANT SELECT, UPDATE, DELETE ON pgmq.q_a TO {role};
             ALTER TABLE pgmq.q_a ENABLE ROW LEVEL SECURITY;
             CREATE POLICY refuse ON pgmq.q_a USING (public.refuse())"
        ),
    );
    database.connect_as(&role)
}

#[test]
fn what_a_policy_raises_reaches_who_reads() {
    let (database, mut client, _listener) = started(&["a"]);
    let mut worker = refused(&database, &mut client);
    for (sql, function) in [
        ("SELECT aimq.read('a', 30)", "PL/pgSQL function aimq.read("),
        ("SELECT aimq.wait('{a}')", "PL/pgSQL function aimq.wait("),
        ("CALL aimq.read_for('a', 30)", "PL/pgSQL function aimq.read_for("),
        ("CALL aimq.wait_for('{a}')", "PL/pgSQL function aimq.wait_for("),
    ] {
        assert_whole(
            &failure(&mut worker, sql),
            &["SQL statement \"SELECT xmax FROM pgmq.q_a", function],
        );
    }
    // What is caught in there is not told later.
    let caught = "DO $$ BEGIN PERFORM aimq.read('a', 30); EXCEPTION WHEN SQLSTATE 'PT403' THEN PERFORM 1 / 0; END $$";
    let error = failure(&mut worker, caught);
    assert_eq!((error.code().code(), error.message()), ("22012", "division by zero"));
    assert_eq!(failure(&mut worker, "SELECT aimq.read('b', 30)").code().code(), "42P01");
}

/// One call of ours within another's: each level's context is told once.
#[test]
fn an_error_passes_through_two_calls() {
    let (database, mut client, _listener) = started(&["a"]);
    run(&mut client, "SELECT aimq.create_queue('b')");
    let mut worker = refused(&database, &mut client);
    run(
        &mut client,
        "SELECT pgmq.send('b', '{}');
         CREATE FUNCTION public.look() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             RETURN cardinality(aimq._ready('{a}', true)) > 0;
         END $$;
         GRANT SELECT, UPDATE, DELETE ON pgmq.q_b TO PUBLIC;
         ALTER TABLE pgmq.q_b ENABLE ROW LEVEL SECURITY;
         CREATE POLICY look ON pgmq.q_b USING (public.look())",
    );
    let error = failure(&mut worker, "SELECT aimq.read('b', 30)");
    assert_whole(
        &error,
        &[
            "\"SELECT xmax FROM pgmq.q_a",
            "look() line",
            "\"SELECT xmax FROM pgmq.q_b",
            "aimq.read(",
        ],
    );
}

#[test]
fn what_an_event_trigger_raises_reaches_who_changes_a_queue() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT pgmq.create('a'), aimq.create_queue('b'), pgmq.create('c')");
    run(&mut client, REFUSE);
    run(&mut client, "SELECT pgmq.enable_notify_insert('c')");
    let refuse = |client: &mut Client, tag: &str| {
        run(
            client,
            &format!(
                "DROP EVENT TRIGGER IF EXISTS refuse;
                 CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('{tag}')
                 EXECUTE FUNCTION public.refuse_command()"
            ),
        );
    };
    for (tag, sql) in [
        ("CREATE TRIGGER", "SELECT aimq.enable_realtime('a')"),
        ("CREATE TRIGGER", "SELECT aimq.enable_realtime_all()"),
        ("DROP TRIGGER", "SELECT aimq.disable_realtime('b')"),
        ("DROP TRIGGER", "SELECT aimq.disable_realtime_all()"),
        ("DROP TRIGGER", "SELECT aimq.adopt_pgmq_notify('c')"),
        ("CREATE TABLE", "SELECT aimq.create_queue('d')"),
    ] {
        refuse(&mut client, tag);
        assert_whole(&failure(&mut client, sql), &["refuse_command() line"]);
    }
    // As all is afterwards.
    run(&mut client, "DROP EVENT TRIGGER refuse");
    assert!(boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
}

/// What is raised with the library's own words stays so, and what is told by the way is told once.
#[test]
fn notices_and_errors_of_ours_are_as_they_were() {
    let database = Database::new();
    let (mut client, heard) = database.connect_hearing();
    run(
        &mut client,
        "SELECT pgmq.create('a');
         CREATE FUNCTION public.say() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE NOTICE USING MESSAGE = 'heard', ERRCODE = 'PT200';
             BEGIN RAISE SQLSTATE 'PT403'; EXCEPTION WHEN SQLSTATE 'PT403' THEN NULL; END;
         END $$;
         CREATE EVENT TRIGGER say ON ddl_command_start WHEN TAG IN ('CREATE TRIGGER') EXECUTE FUNCTION public.say()",
    );
    heard.notices();
    run(&mut client, "SELECT aimq.enable_realtime('a')");
    let notices = heard.notices();
    let told: Vec<_> = notices.iter().filter(|it| it.message() == "heard").collect();
    // A trigger for inserts, and one for what changes.
    assert_eq!(told.len(), 2, "{notices:?}");
    assert!(told.iter().all(|it| it.code().code() == "PT200"));
    assert_eq!(failure(&mut client, "SELECT aimq.enable_realtime('b')").code().code(), "42704");
}

/// What the notifier meets is not its caller's, but the views say it.
#[test]
fn what_a_broadcast_raises_is_in_the_views() {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE SCHEMA realtime;
         CREATE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)
         RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE 'PT503'; END $$",
    );
    ordinary_owner(&database, &mut client);
    run(&mut client, "SELECT aimq.create_queue('a', sink => 'supabase')");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    let sql = "SELECT coalesce((SELECT last_error FROM aimq.notifiers
                                 WHERE database = current_database()), 'none')";
    wait_until("a failure", || value::<String>(&mut client, sql) != "none");
    assert_eq!(value::<String>(&mut client, sql), "PT503");
}

/// What can't be read fails at once, as with pgmq.read; to look is allowed.
#[test]
fn a_session_that_may_only_read_is_told_so_at_once() {
    let (_database, mut client, _listener) = started(&["a"]);
    run(&mut client, "SET default_transaction_read_only = on; SET statement_timeout = '25 s'");
    let begun = Instant::now();
    for sql in [
        "SELECT aimq.read('a', 30, max_wait => '1 hour')",
        "CALL aimq.read_for('a', 30, max_wait => '1 hour')",
    ] {
        let error = failure(&mut client, sql);
        assert_eq!(error.code().code(), "25006", "{error:?}");
        assert!(error.hint().expect("a hint").contains("default_transaction_read_only"));
    }
    run(&mut client, "BEGIN READ ONLY");
    assert_eq!(failure(&mut client, "SELECT aimq.read('a', 30)").code().code(), "25006");
    run(&mut client, "ROLLBACK");
    assert_eq!(names(&mut client, "SELECT unnest(aimq.wait('{a}', '0 s'))"), [""; 0]);
    run(&mut client, "CALL aimq.wait_for('{a}', '0 s')");
    // Well before a wait would end.
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// The messages of a queue, none of which has been read.
const UNREAD: &str = "SELECT count(*) FROM pgmq.q_a WHERE read_ct = 0";

/// Calls aimq.read_for for up to `count` messages. How many it returns.
fn read_for(client: &mut Client, count: u32) -> i32 {
    run(
        client,
        &format!(
            "DO $$ DECLARE found jsonb; BEGIN
                 CALL aimq.read_for('a', 60, {count}, '0 s', '{{}}', found);
                 PERFORM set_config('test.found', jsonb_array_length(found)::text, false);
             END $$"
        ),
    );
    value(client, "SELECT current_setting('test.found')::integer")
}

#[test]
fn more_than_a_jsonb_holds_is_returned_in_parts() {
    let (_database, mut client, _listener) = started(&["a"]);
    run(
        &mut client,
        "INSERT INTO pgmq.q_a (vt, message)
         SELECT now(), jsonb_build_object('x', repeat('x', 100000000)) FROM generate_series(1, 3)",
    );
    assert_eq!(read_for(&mut client, 3), 1);
    // What was not returned was not read.
    assert_eq!(value::<i64>(&mut client, UNREAD), 2);
    assert_eq!(read_for(&mut client, 2), 2);
    assert_eq!(value::<i64>(&mut client, UNREAD), 0);
    assert_eq!(read_for(&mut client, 2), 0);
    assert_clean(&mut client);
}
