//! What `aimq.doctor()` finds.

use std::time::{Duration, Instant};

use aimq_client_tests::doctor::*;
use aimq_client_tests::supabase::ordinary_owner;
use aimq_client_tests::*;
use postgres::Client;

/// The one problem that there is.
#[track_caller]
fn only(client: &mut Client, what: &str) {
    // A process that has just started, or had no processor for a while, is no fault that was injected.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = problems(client);
        if found.len() == 1 && found[0].contains(what) {
            break;
        }
        assert!(Instant::now() < deadline, "{what}: {found:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let hint: String = value(client, "SELECT hint FROM aimq.doctor()");
    assert!(!hint.is_empty());
}

/// Does what the one hint says.
#[track_caller]
fn follow_only(client: &mut Client) {
    let hint: String = value(client, "SELECT hint FROM aimq.doctor()");
    follow(client, &hint);
}

#[test]
fn all_is_well() {
    let (_database, mut client, _listener) = started(&["a", "B c"]);
    assert!(problems(&mut client).is_empty(), "{:?}", problems(&mut client));
}

/// Which may be meant.
#[test]
fn a_queue_that_is_not_realtime_is_found() {
    let (_database, mut client, _listener) = started(&["a"]);
    run(&mut client, "SELECT pgmq.create('plain')");
    only(&mut client, "info plain: it is not realtime, while others are");
    follow_only(&mut client);
    wait_until("all to be well", || problems(&mut client).is_empty());
    // Where no queue is, that is meant.
    run(&mut client, "SELECT aimq.disable_realtime_all()");
    assert!(problems(&mut client).is_empty(), "{:?}", problems(&mut client));
}

#[test]
fn each_problem_is_found() {
    let (database, mut client, _listener) = started(&["a", "b"]);
    let owner = database.role("owner");
    let usage = format!("GRANT USAGE ON SCHEMA pgmq TO {owner}");
    run(&mut client, &format!("{usage}; ALTER TABLE pgmq.q_a OWNER TO {owner}"));
    for (how, what, mend) in [
        ("ALTER TABLE pgmq.q_a DISABLE TRIGGER aimq_realtime_vt", "is disabled", "SELECT aimq.enable_realtime('a')"),
        ("ALTER TABLE pgmq.q_a DISABLE TRIGGER aimq_realtime", "error a: the trigger aimq_realtime is disabled", "ALTER TABLE pgmq.q_a ENABLE TRIGGER aimq_realtime"),
        (
            "SELECT aimq.enable_realtime('a', events => '{job_enqueued,job_archived}');
             ALTER TABLE pgmq.a_a DISABLE TRIGGER aimq_realtime_archived",
            "error a: the trigger aimq_realtime_archived is disabled",
            "ALTER TABLE pgmq.a_a ENABLE TRIGGER aimq_realtime_archived; SELECT aimq.enable_realtime('a')",
        ),
        ("SET aimq.enabled = off", "warning this session: it has aimq.enabled=off: what is enqueued there wakes nobody", "RESET aimq.enabled"),
        ("DROP TRIGGER aimq_realtime ON pgmq.q_a", "the trigger aimq_realtime is missing", "SELECT aimq.enable_realtime('a')"),
        ("DROP TRIGGER aimq_realtime_vt ON pgmq.q_a", "earlier release", "SELECT aimq.enable_realtime('a')"),
        ("ALTER TABLE pgmq.q_a RENAME TO q_gone", "error a: the queue has no table", "ALTER TABLE pgmq.q_gone RENAME TO q_a"),
        ("DROP TABLE pgmq.q_b", "error b: the queue has no table", "SELECT pgmq.create('b'), pgmq.drop_queue('b')"),
        (
            "ALTER TABLE pgmq.q_a ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            "is bound by the row security of pgmq.q_a, its own table",
            "ALTER TABLE pgmq.q_a NO FORCE ROW LEVEL SECURITY",
        ),
        ("DROP INDEX pgmq.q_a_vt_idx", "no index on vt", "CREATE INDEX ON pgmq.q_a (vt)"),
        ("SELECT pgmq.enable_notify_insert('a')", "pgmq's own trigger", "SELECT pgmq.disable_notify_insert('a')"),
        (
            "CREATE FUNCTION aimq.pgmq_notify_job_enqueued() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER aimq_notify_a AFTER INSERT ON pgmq.q_a FOR EACH ROW EXECUTE FUNCTION aimq.pgmq_notify_job_enqueued()",
            "former trigger aimq_notify_a",
            "DROP TRIGGER aimq_notify_a ON pgmq.q_a",
        ),
        ("SELECT aimq.enable_realtime('a', sink => 'both')", "there is no function realtime.send", "SELECT aimq.enable_realtime('a')"),
    ] {
        run(&mut client, how);
        only(&mut client, what);
        run(&mut client, mend);
        // The notifier may have ended meanwhile.
        wait_until("all to be well", || problems(&mut client).is_empty());
    }
    let name = &database.name;
    run(&mut client, &format!("ALTER DATABASE {name} SET aimq.enabled = off"));
    only(&mut client, &format!("database {name}: it has aimq.enabled=off"));
    let reset = format!("ALTER DATABASE {name} RESET aimq.enabled");
    let hint: String = value(&mut client, "SELECT hint FROM aimq.doctor()");
    assert_eq!(hint, format!("If that is not meant, run {reset};"));
    run(&mut client, &reset);
    assert!(problems(&mut client).is_empty());
}

#[test]
fn broadcasts_that_fail_are_found() {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE SCHEMA realtime;
         CREATE FUNCTION realtime.send(jsonb, text, text, boolean) RETURNS void LANGUAGE sql AS 'SELECT 1/0'",
    );
    ordinary_owner(&database, &mut client);
    let owner = database.role("other");
    run(&mut client, "SELECT aimq.create_queue('a')");
    wait_until_settled(&mut client, 1);
    run(&mut client, "SELECT aimq.enable_realtime('a', sink => 'both')");
    assert!(problems(&mut client).is_empty());
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    wait_until("the failure to be found", || {
        let found = problems(&mut client);
        let has = |what: &str| found.iter().any(|it| it.starts_with("error") && it.contains(what));
        has("broadcasts failed") && has("SQLSTATE 22012")
    });
    // One that fails is no other's problem.
    run(&mut client, "SELECT aimq.create_queue('b', sink => 'both')");
    assert!(!problems(&mut client).iter().any(|it| it.contains(" b: ")));
    run(
        &mut client,
        &format!("GRANT USAGE ON SCHEMA pgmq TO {owner}; ALTER TABLE pgmq.q_a OWNER TO {owner}"),
    );
    let found = problems(&mut client);
    assert!(found.iter().any(|it| it.contains("may not call realtime.send")), "{found:?}");
    let hint = hint_of(&mut client, "may not call");
    follow(&mut client, &hint);
    let found = problems(&mut client);
    assert!(!found.iter().any(|it| it.contains("may not call realtime.send")), "{found:?}");
    run(&mut client, "ALTER TABLE pgmq.q_b OWNER TO postgres");
    let found = problems(&mut client);
    let row = "error b: it is to be broadcast, and pgmq.q_b belongs to a superuser: nothing is broadcast as one";
    assert!(found.iter().any(|it| it == row), "{found:?}");
}

/// pgmq makes the new queue beside the table that still has the triggers.
#[test]
fn triggers_that_stayed_on_another_table_are_found() {
    let (database, mut client, _listener) = started(&["b"]);
    run(
        &mut client,
        "SELECT aimq.create_queue('It s', channel => 'c', event => 'e', sink => 'notify', ids => true)",
    );
    wait_until_settled(&mut client, 2);
    assert!(problems(&mut client).is_empty(), "{:?}", problems(&mut client));
    run(&mut client, "ALTER TABLE pgmq.\"q_it s\" RENAME TO q_old; SELECT pgmq.create('It s')");
    only(
        &mut client,
        "error It s: nobody is woken for what is enqueued to pgmq.\"q_it s\": its triggers are on pgmq.q_old",
    );
    let hint: String = value(&mut client, "SELECT hint FROM aimq.doctor()");
    assert_eq!(
        hint,
        "Run SELECT aimq.enable_realtime('It s', channel => 'c', event => 'e', ids => true); \
         Or, where pgmq.q_old is no queue any more, or nobody is to be woken, run \
         DROP TRIGGER aimq_realtime ON pgmq.q_old; DROP TRIGGER aimq_realtime_vt ON pgmq.q_old;"
    );
    // Its workers are woken again, and still for the other table as well.
    run(
        &mut client,
        "SELECT aimq.enable_realtime('It s', channel => 'c', event => 'e', ids => true)",
    );
    let found = problems(&mut client);
    let row = "warning It s: its workers are woken for pgmq.q_old as well, which is not its table: the triggers there name it";
    assert!(found.iter().any(|it| it == row), "{found:?}");
    run(
        &mut client,
        "DROP TRIGGER aimq_realtime ON pgmq.q_old; DROP TRIGGER aimq_realtime_vt ON pgmq.q_old;
         CREATE INDEX ON pgmq.\"q_it s\" (vt)",
    );
    wait_until("all to be well", || problems(&mut client).is_empty());

    // A queue under a new name, whose workers are told the old one; and an archive that was swapped.
    run(
        &mut client,
        "ALTER TABLE pgmq.q_b RENAME TO q_c; ALTER TABLE pgmq.a_b RENAME TO a_c;
         UPDATE pgmq.meta SET queue_name = 'c' WHERE queue_name = 'b'",
    );
    only(
        &mut client,
        "error c: its triggers name another queue, \"b\": its workers are not told of it",
    );
    follow_only(&mut client);
    assert!(problems(&mut client).is_empty(), "{:?}", problems(&mut client));
    run(&mut client, "SELECT aimq.enable_realtime('c', events => '{job_enqueued,job_archived}')");
    run(&mut client, "ALTER TABLE pgmq.a_c RENAME TO a_old; SELECT pgmq.create('c')");
    only(&mut client, "warning c: its workers are woken for pgmq.a_old as well");
    drop(database);
}

/// Of partitions there are copies of the triggers, and partitions may be anywhere.
#[test]
fn triggers_outside_of_pgmqs_schema_are_found() {
    let (database, mut client, _listener) = started(&["a"]);
    run(
        &mut client,
        "CREATE SCHEMA other; CREATE TABLE other.jobs (msg_id bigint, vt timestamptz);
         CREATE TRIGGER mine BEFORE INSERT ON other.jobs FOR EACH ROW
         EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'a')",
    );
    only(
        &mut client,
        "warning a: nobody is woken for other.jobs: its trigger mine is aimq's, and the table is not in the schema pgmq",
    );
    follow_only(&mut client);
    assert!(problems(&mut client).is_empty(), "{:?}", problems(&mut client));
    // A queue's table that was put aside: that the queue has none then, is said, and how to put it back.
    run(&mut client, "ALTER TABLE pgmq.q_a SET SCHEMA other");
    only(&mut client, "error a: the queue has no table");
    let hint = hint_of(&mut client, "error a: ");
    assert!(hint.starts_with("Run ALTER TABLE other.q_a SET SCHEMA pgmq; Or, "), "{hint}");
    run(&mut client, "ALTER TABLE other.q_a SET SCHEMA pgmq");
    run(
        &mut client,
        "CREATE TABLE pgmq.q_p (msg_id bigint, read_ct int, vt timestamptz) PARTITION BY RANGE (msg_id);
         CREATE INDEX ON pgmq.q_p (vt); INSERT INTO pgmq.meta (queue_name, is_partitioned, is_unlogged) VALUES ('p', true, false);
         SELECT aimq.enable_realtime('p');
         CREATE TABLE other.p1 PARTITION OF pgmq.q_p DEFAULT",
    );
    wait_until("all to be well", || problems(&mut client).is_empty());
    drop(database);
}

/// The notifier looks at a table as its owner.
#[test]
fn owners_who_may_not_look_at_their_queues_are_found() {
    let (database, mut client, _listener) = started(&["a", "b"]);
    let owner = database.role("owner");
    run(&mut client, &format!("ALTER TABLE pgmq.q_a OWNER TO {owner}"));
    let found = problems(&mut client);
    let row = format!(
        "error a: {owner}, the owner of pgmq.q_a, has no USAGE on the schema pgmq: as that role the notifier cannot look when messages can be read"
    );
    assert!(found.contains(&row), "{found:?}");
    let hint = hint_of(&mut client, "error a: ");
    assert_eq!(hint, format!("Run GRANT USAGE ON SCHEMA pgmq TO {owner};"));
    follow(&mut client, &hint);
    run(&mut client, &format!("REVOKE SELECT ON pgmq.q_a FROM {owner}"));
    let found = problems(&mut client);
    assert!(found.iter().any(|it| it.contains("has no SELECT on the table")), "{found:?}");
    let hint = hint_of(&mut client, "error a: ");
    assert_eq!(hint, format!("Run GRANT SELECT ON pgmq.q_a TO {owner};"));
    follow(&mut client, &hint);
    let found = problems(&mut client);
    assert!(!found.iter().any(|it| it.contains(" a: ")), "{found:?}");
    // Nobody looks at a queue that is not realtime.
    run(
        &mut client,
        &format!("SELECT aimq.disable_realtime('a'); REVOKE SELECT ON pgmq.q_a FROM {owner}"),
    );
    let found = problems(&mut client);
    assert!(!found.iter().any(|it| it.starts_with("error a: ")), "{found:?}");
}

#[test]
fn a_notifier_that_is_missing_is_found() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SET aimq.delivery = transaction; SELECT aimq.create_queue('a')");
    run(&mut client, "RESET aimq.delivery");
    only(&mut client, "warning notifier: none runs for this database: ");
    let hint: String = value(&mut client, "SELECT hint FROM aimq.doctor()");
    assert!(hint.starts_with("It begins with the next enqueue"), "{hint}");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    wait_until("all to be well", || problems(&mut client).is_empty());
}

/// On a server of its own, because it concerns all databases.
#[test]
fn what_turns_it_off_for_the_whole_server_is_found() {
    use aimq_client_tests::servers::*;
    let (_alone, cluster) = server(&["aimq.delivery=notifier"]);
    only(&mut connect(&cluster), "warning server: it has aimq.delivery=notifier");
}

#[test]
fn what_a_hint_says_first_is_found() {
    let of = |hint| way(hint).map(|way| (way.statements, way.restarts, way.command));
    let all = |it: &[&str]| it.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        of("Run SELECT f('a;''b'); GRANT x TO y; Or, if not, run DROP z;"),
        Some((all(&["SELECT f('a;''b')", "GRANT x TO y"]), false, None))
    );
    assert_eq!(
        of("If so, run ALTER SYSTEM SET a = 1; and restart the server."),
        Some((all(&["ALTER SYSTEM SET a = 1"]), true, None))
    );
    assert_eq!(
        of("For another, run SELECT f(7); One that was stopped goes on by kill -CONT 7 there."),
        Some((all(&["SELECT f(7)"]), false, Some("kill -CONT 7".to_owned())))
    );
    assert_eq!(of("The server's log has the messages."), None);
}
