//! What `aimq.doctor()` finds.

use aimq_client_tests::*;
use postgres::Client;

fn problems(client: &mut Client) -> Vec<String> {
    names(
        client,
        "SELECT concat_ws(' ', severity, subject || ':', problem) FROM aimq.doctor() ORDER BY 1",
    )
}

/// The one problem that there is.
#[track_caller]
fn only(client: &mut Client, what: &str) {
    let found = problems(client);
    assert!(found.len() == 1 && found[0].contains(what), "{what}: {found:?}");
    let hint: String = value(client, "SELECT hint FROM aimq.doctor()");
    assert!(!hint.is_empty());
}

#[test]
fn all_is_well() {
    let (_database, mut client, _listener) = started(&["a", "B c"]);
    run(&mut client, "SELECT pgmq.create('plain')");
    assert!(problems(&mut client).is_empty(), "{:?}", problems(&mut client));
}

#[test]
fn each_problem_is_found() {
    let (database, mut client, _listener) = started(&["a", "b"]);
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
        ("DROP TRIGGER aimq_realtime_vt ON pgmq.q_a", "former release", "SELECT aimq.enable_realtime('a')"),
        ("ALTER TABLE pgmq.q_a RENAME TO q_gone", "error a: the queue has no table", "ALTER TABLE pgmq.q_gone RENAME TO q_a"),
        ("DROP TABLE pgmq.q_b", "error b: the queue has no table", "SELECT pgmq.create('b'), pgmq.drop_queue('b')"),
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
    assert_eq!(hint, format!("Run {reset}, if that is not meant."));
    run(&mut client, &reset);
    assert!(problems(&mut client).is_empty());
}

#[test]
fn broadcasts_that_fail_are_found() {
    let (database, mut client, _listener) = started(&["a"]);
    let owner = database.role("owner");
    run(
        &mut client,
        "CREATE SCHEMA realtime;
         CREATE FUNCTION realtime.send(jsonb, text, text, boolean) RETURNS void LANGUAGE sql AS 'SELECT 1/0'",
    );
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

/// On a server of its own, for it concerns all of them.
#[test]
fn what_turns_it_off_for_the_whole_server_is_found() {
    use aimq_client_tests::servers::*;
    let (_alone, cluster) = server(&["aimq.delivery=notifier"]);
    only(&mut connect(&cluster), "warning server: it has aimq.delivery=notifier");
}
