//! Messages that get into a queue's table while its trigger does not fire, with a notifier running. On a server that
//! has aimq preloaded, and, from PostgreSQL 17 on, on one that has not. What is done to the tables is done in sessions
//! that know nothing of aimq, unless they call it.

use std::process::Stdio;

use aimq_client_tests::unseen::*;
use aimq_client_tests::*;

/// In a session of its own.
fn run_in(database: &Database, sql: &str) {
    run(&mut database.connect(), sql);
}

/// Each step in a session of its own.
fn run_each(database: &Database, steps: &[&str]) {
    steps.iter().for_each(|sql| run_in(database, sql));
}

/// Nobody can insert while it is off: the transaction holds a lock. So what its own transaction inserts is all that is
/// missed.
#[test]
fn gap_realtime_off_and_on_in_one_transaction() {
    assert_learned(&ALL_WAYS, with_a, |database, rows| {
        let insert = rows.insert_into("pgmq.q_a");
        run_in(
            database,
            &format!(
                "BEGIN; SELECT aimq.disable_realtime('a'); {insert}; SELECT aimq.enable_realtime('a'); COMMIT"
            ),
        );
    });
}

#[test]
fn gap_triggers_disabled_in_one_transaction() {
    assert_learned(&ALL_WAYS, with_a, |database, rows| {
        let insert = rows.insert_into("pgmq.q_a");
        run_in(
            database,
            &format!(
                "BEGIN; ALTER TABLE pgmq.q_a DISABLE TRIGGER USER; {insert};
                 ALTER TABLE pgmq.q_a ENABLE TRIGGER USER; COMMIT"
            ),
        );
    });
}

/// Between two savepoints, of which the outer one is released.
#[test]
fn gap_one_trigger_disabled_within_a_savepoint() {
    assert_learned(&ALL_WAYS, with_a, |database, rows| {
        let insert = rows.insert_into("pgmq.q_a");
        run_in(
            database,
            &format!(
                "BEGIN; SAVEPOINT s; ALTER TABLE pgmq.q_a DISABLE TRIGGER aimq_realtime; {insert}; RELEASE s;
                 SAVEPOINT s; ALTER TABLE pgmq.q_a ENABLE TRIGGER aimq_realtime; RELEASE s; COMMIT"
            ),
        );
    });
}

#[test]
fn gap_triggers_disabled_in_three_transactions() {
    assert_learned(&ALL_WAYS, with_a, |database, rows| {
        run_each(
            database,
            &[
                "ALTER TABLE pgmq.q_a DISABLE TRIGGER USER",
                &rows.insert_into("pgmq.q_a"),
                "ALTER TABLE pgmq.q_a ENABLE TRIGGER USER",
            ],
        );
    });
}

/// A trigger that fires for replicas only is off for everybody else.
#[test]
fn gap_triggers_for_replicas_only() {
    assert_learned(&ALL_WAYS, with_a, |database, rows| {
        let insert = rows.insert_into("pgmq.q_a");
        run_in(
            database,
            &format!(
                "BEGIN; ALTER TABLE pgmq.q_a ENABLE REPLICA TRIGGER aimq_realtime; {insert};
                 ALTER TABLE pgmq.q_a ENABLE TRIGGER aimq_realtime; COMMIT"
            ),
        );
    });
}

/// As a script for moving to another version of a schema does it.
#[test]
fn gap_triggers_dropped_and_made_by_hand() {
    assert_learned(&ALL_WAYS, with_a, |database, rows| {
        let made: Vec<String> = names(
            &mut database.connect(),
            "SELECT pg_get_triggerdef(oid) FROM pg_trigger
              WHERE tgrelid = 'pgmq.q_a'::regclass AND NOT tgisinternal ORDER BY tgname",
        );
        assert_eq!(made.len(), 2, "{made:?}");
        let insert = rows.insert_into("pgmq.q_a");
        run_in(
            database,
            &format!(
                "BEGIN; DROP TRIGGER aimq_realtime ON pgmq.q_a; DROP TRIGGER aimq_realtime_vt ON pgmq.q_a; {insert};
                 {}; COMMIT",
                made.join("; ")
            ),
        );
    });
}

/// The table has other files afterwards, and its triggers are as they were.
#[test]
fn gap_rewrite_of_the_table() {
    assert_learned(&ALL_WAYS, with_a, |database, rows| {
        let insert = rows.insert_into("pgmq.q_a");
        run_in(
            database,
            &format!(
                "BEGIN; ALTER TABLE pgmq.q_a DISABLE TRIGGER USER;
                 ALTER TABLE pgmq.q_a ALTER COLUMN message TYPE json USING message::json; {insert};
                 ALTER TABLE pgmq.q_a ALTER COLUMN message TYPE jsonb USING message::jsonb;
                 ALTER TABLE pgmq.q_a ENABLE TRIGGER USER; COMMIT"
            ),
        );
    });
}

/// The real programs.
#[test]
fn gap_restore_of_data_only() {
    assert_learned(&ALL_WAYS, with_a, |database, rows| {
        let source = Database::new();
        let create = format!("SELECT pgmq.create('a'); {}", rows.insert_into("pgmq.q_a"));
        run_in(&source, &create);
        let dump = ["--format=custom", "--data-only", "--table=pgmq.q_a", &source.name];
        let mut dump =
            program("pg_dump").args(dump).stdout(Stdio::piped()).spawn().expect("pg_dump");
        let restore =
            ["--data-only", "--disable-triggers", "--single-transaction", "-d", &database.name];
        let restore = program("pg_restore")
            .args(restore)
            .stdin(dump.stdout.take().expect("a pipe"))
            .output()
            .expect("pg_restore");
        assert!(dump.wait().expect("pg_dump").success());
        assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    });
}

/// A real partitioned queue, made by pgmq with pg_partman.
fn with_partitions() -> Database {
    let database = Database::new();
    let mut client = database.connect();
    create_partitioned(&mut client, "a");
    run(&mut client, "SELECT aimq.enable_realtime('a')");
    wait_until_settled(&mut client, 1);
    database
}

#[test]
fn partman_gap_attached_partition() {
    assert_learned(&ALL_WAYS, with_partitions, |database, rows| {
        run_in(database, "CREATE TABLE public.more (LIKE pgmq.q_a INCLUDING DEFAULTS)");
        let vt = rows.vt();
        run_in(
            database,
            &format!(
                "INSERT INTO public.more (msg_id, vt, message) VALUES (100000, {vt}, '{{}}');
                 ALTER TABLE pgmq.q_a ATTACH PARTITION public.more FOR VALUES FROM (100000) TO (100100)"
            ),
        );
    });
}

#[test]
fn partman_gap_trigger_of_one_partition_disabled() {
    assert_learned(&ALL_WAYS, with_partitions, |database, rows| {
        let partition: String = value(
            &mut database.connect(),
            "SELECT inhrelid::regclass::text FROM pg_inherits
              WHERE inhparent = 'pgmq.q_a'::regclass
                AND pg_get_expr((SELECT relpartbound FROM pg_class WHERE oid = inhrelid), inhrelid)
                    LIKE '% FROM (''0'') %'",
        );
        let insert = rows.insert_into("pgmq.q_a");
        run_in(
            database,
            &format!(
                "BEGIN; ALTER TABLE {partition} DISABLE TRIGGER USER; {insert};
                 ALTER TABLE {partition} ENABLE TRIGGER USER; COMMIT"
            ),
        );
    });
}

/// Plain inheritance: what is in the child is read with the queue.
#[test]
fn gap_child_by_inheritance() {
    assert_learned(&ALL_WAYS, with_a, |database, rows| {
        run_in(database, "CREATE TABLE public.child (LIKE pgmq.q_a INCLUDING DEFAULTS)");
        let vt = rows.vt();
        run_in(
            database,
            &format!(
                "INSERT INTO public.child (msg_id, vt, message) VALUES (100000, {vt}, '{{}}');
                 ALTER TABLE public.child INHERIT pgmq.q_a"
            ),
        );
    });
}

#[test]
fn gap_extension_dropped_and_made_again() {
    assert_learned(&LISTENER_WAYS, with_a, |database, rows| {
        let insert = rows.insert_into("pgmq.q_a");
        run_in(
            database,
            &format!(
                "BEGIN; DROP EXTENSION aimq CASCADE; {insert}; CREATE EXTENSION aimq;
                 SELECT aimq.enable_realtime('a'); COMMIT"
            ),
        );
    });
}

/// A queue's table that was moved out of pgmq's schema comes back with what was put into it meanwhile. Where aimq is
/// not preloaded and no notifier runs, nobody but the session that does it can ask for one, so it has to have loaded
/// aimq.
fn come_from_another_schema(database: &Database, rows: Rows) {
    let mut client = database.connect();
    run(&mut client, "SET session_replication_role = replica");
    run(&mut client, &rows.insert_into("old.q_a"));
    let mut client = database.connect();
    if !is_preloaded() {
        run(&mut client, "SELECT * FROM aimq.stats");
    }
    run(&mut client, "ALTER TABLE old.q_a SET SCHEMA pgmq");
}

/// A database whose queue `a` is out of pgmq's schema, so that the queues in it are `others`.
fn moved_out(others: &[&str]) -> Database {
    let (database, mut client, _) = started(&[&["a"], others].concat());
    run(&mut client, "CREATE SCHEMA old; ALTER TABLE pgmq.q_a SET SCHEMA old");
    database
}

#[test]
fn gap_table_from_another_schema_is_the_first_queue() {
    let make = || {
        let database = moved_out(&[]);
        let mut client = database.connect();
        wait_until("the notifier to leave", || notifier_state(&mut client) == "none");
        database
    };
    assert_learned(&LISTENER_WAYS, make, come_from_another_schema);
}

#[test]
fn gap_table_from_another_schema_is_one_more_queue() {
    assert_learned(&LISTENER_WAYS, || moved_out(&["b"]), come_from_another_schema);
}

/// It is no queue's table while it is elsewhere.
#[test]
fn gap_table_in_another_schema_for_one_transaction() {
    assert_learned(&ALL_WAYS, with_a, |database, rows| {
        let insert = rows.insert_into("old.q_a");
        run_in(
            database,
            &format!(
                "BEGIN; CREATE SCHEMA old; ALTER TABLE pgmq.q_a SET SCHEMA old; {insert};
                 ALTER TABLE old.q_a SET SCHEMA pgmq; COMMIT"
            ),
        );
    });
}

/// The trigger on the queue's table that tells of what is read, not the one that tells of what comes.
#[test]
fn gap_message_read_while_the_second_trigger_is_off() {
    assert_learned(&[ALL_WAYS[1], ALL_WAYS[3]], with_a, |database, _| {
        run_in(database, "SET aimq.enabled = off; INSERT INTO pgmq.q_a (vt) VALUES (now())");
        run_in(
            database,
            &format!(
                "BEGIN; ALTER TABLE pgmq.q_a DISABLE TRIGGER aimq_realtime_vt;
                 SELECT pgmq.read('a', {}, 1);
                 ALTER TABLE pgmq.q_a ENABLE TRIGGER aimq_realtime_vt; COMMIT",
                DELAY.as_secs()
            ),
        );
    });
}

/// Nothing can be known of what a session with this setting does: the user who sets it says so afterwards.
fn unfired(database: &Database, rows: Rows, recheck: &str) {
    let mut client = database.connect();
    run(&mut client, "SET session_replication_role = replica");
    run(&mut client, &rows.insert_into("pgmq.q_a"));
    run(&mut client, "RESET session_replication_role");
    run(&mut client, recheck);
}

#[test]
fn gap_recheck_of_one_queue() {
    assert_learned(&ALL_WAYS, with_a, |database, rows| {
        unfired(database, rows, "SELECT aimq.recheck('a')");
    });
}

#[test]
fn gap_recheck_of_all_queues() {
    assert_learned(&ALL_WAYS, with_a, |database, rows| {
        unfired(database, rows, "SELECT aimq.recheck()");
    });
}

#[test]
fn gap_recheck_needs_the_right_to_read() {
    let (database, mut client, _listener) = started(&["a"]);
    let role = database.role("stranger");
    let mut stranger = database.connect_as(&role);
    let recheck = "SELECT aimq.recheck('a')";
    assert_eq!(failure(&mut stranger, recheck).code().code(), "42501");
    run(&mut client, &format!("GRANT USAGE ON SCHEMA pgmq TO {role}"));
    assert_eq!(failure(&mut stranger, recheck).code().code(), "42501");
    run(&mut client, &format!("GRANT SELECT ON pgmq.q_a TO {role}"));
    run(&mut stranger, recheck);
}

/// The trigger goes with the table, so the queue that takes its name is silent.
#[test]
fn gap_doctor_tells_of_a_queue_whose_trigger_went_with_its_former_table() {
    let (_database, mut client, _listener) = started(&["a", "b"]);
    let told = "SELECT count(*) FROM aimq.doctor() WHERE subject = 'a' AND problem || hint LIKE '%q_a_old%'";
    assert_eq!(value::<i64>(&mut client, told), 0);
    run(&mut client, "ALTER TABLE pgmq.q_a RENAME TO q_a_old");
    run(&mut client, "SELECT pgmq.create('a')");
    let all = names(&mut client, "SELECT d::text FROM aimq.doctor() d");
    assert_eq!(value::<i64>(&mut client, told), 1, "{all:#?}");
}
