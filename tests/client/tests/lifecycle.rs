//! What becomes of a realtime queue when tables, extensions and databases come and go.

use std::process::{Command, Stdio};

use aimq_client_tests::*;
use postgres::Client;

fn queues(client: &mut Client) -> Vec<String> {
    names(
        client,
        "SELECT concat_ws(' ', queue, partitioned, unlogged, realtime, channel, event) FROM aimq.queues ORDER BY queue",
    )
}

#[test]
fn dropping_a_queue_takes_its_trigger_along() {
    let database = Database::new();
    let mut client = database.connect();
    let mut listener = database.listen(CHANNEL);
    run(
        &mut client,
        "SELECT aimq.create_queue('a'), aimq.create_queue('b'); SELECT pgmq.drop_queue('a')",
    );
    assert_eq!(queues(&mut client), ["b f f t aimq:jobs job_enqueued"]);
    // A table that goes in the transaction that enqueued: the hint is sent, the worker finds nothing.
    run(&mut client, "BEGIN; SELECT pgmq.send('b', '{}'); DROP TABLE pgmq.q_b; COMMIT");
    assert_eq!(listener.counts(), one([("b", 1)]));
    assert_eq!(queues(&mut client), ["b f f f"]);
    assert_eq!(failure(&mut client, "SELECT aimq.enable_realtime('b')").code().code(), "42P01");
    // The queue is made anew: realtime is asked for anew.
    run(&mut client, "SELECT pgmq.create('a'); SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.raw(), [""; 0]);
}

#[test]
fn a_renamed_queue_table_keeps_waking_under_the_name_it_was_given() {
    let database = Database::new();
    let mut client = database.connect();
    let mut listener = database.listen(CHANNEL);
    run(&mut client, "SELECT aimq.create_queue('Old'); ALTER TABLE pgmq.q_old RENAME TO q_new");
    run(&mut client, "INSERT INTO pgmq.q_new (vt) VALUES (now())");
    assert_eq!(listener.counts(), one([("Old", 1)]));
    // Once pgmq knows the new name, enabling corrects it in place.
    run(&mut client, "UPDATE pgmq.meta SET queue_name = 'New'");
    assert_eq!(queues(&mut client), ["New f f t aimq:jobs job_enqueued"]);
    assert!(value::<bool>(&mut client, "SELECT aimq.enable_realtime('new')"));
    run(&mut client, "SELECT pgmq.send('new', '{}')");
    assert_eq!(listener.counts(), one([("New", 1)]));
}

#[test]
fn unlogged_queues_wake() {
    let database = Database::new();
    let mut client = database.connect();
    let mut listener = database.listen(CHANNEL);
    run(
        &mut client,
        "SELECT pgmq.create_unlogged('a'); SELECT aimq.enable_realtime('a'); SELECT pgmq.send('a', '{}')",
    );
    assert_eq!(listener.counts(), one([("a", 1)]));
    assert_eq!(queues(&mut client), ["a f t t aimq:jobs job_enqueued"]);
}

/// A real partitioned queue, made by pgmq with pg_partman.
#[test]
fn partitioned_queues_wake_under_their_own_name() {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman;
         SELECT pgmq.create_partitioned('Parts', '100', '1000')",
    );
    let mut listener = database.listen(CHANNEL);
    assert!(value::<bool>(&mut client, "SELECT aimq.enable_realtime('parts')"));
    assert!(!value::<bool>(&mut client, "SELECT aimq.enable_realtime('parts')"));
    assert_eq!(queues(&mut client), ["Parts t f t aimq:jobs job_enqueued"]);

    // 250 messages lie in three partitions: one name, one count.
    run(&mut client, "SELECT pgmq.send_batch('parts', array_fill('{}'::jsonb, '{250}'))");
    let partitions: i64 = value(&mut client, "SELECT count(DISTINCT tableoid) FROM pgmq.q_parts");
    assert_eq!(partitions, 3);
    assert_eq!(listener.counts(), one([("Parts", 250)]));

    // Straight into a partition, and into one that is made later.
    let partition: String = value(
        &mut client,
        "SELECT tableoid::regclass::text FROM pgmq.q_parts ORDER BY msg_id LIMIT 1",
    );
    run(&mut client, &format!("INSERT INTO {partition} (msg_id, vt) VALUES (99, now())"));
    assert_eq!(listener.counts(), one([("Parts", 1)]));
    run(&mut client, "SELECT partman.run_maintenance('pgmq.q_parts')");
    let newest: i64 = value(
        &mut client,
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'pgmq.q_parts'::regclass",
    );
    assert!(newest > 5, "maintenance made partitions: {newest}");
    run(
        &mut client,
        "SELECT setval(pg_get_serial_sequence('pgmq.q_parts', 'msg_id'), 610); SELECT pgmq.send('parts', '{}')",
    );
    assert_eq!(listener.counts(), one([("Parts", 1)]));

    // A blocking call leaves it to pgmq.read to find the first of them.
    let read = "SELECT count(*) FROM aimq.read('parts', 60, 10, '60 s')";
    assert_eq!(value::<i64>(&mut client, read), 10);
    assert_eq!(names(&mut client, "SELECT unnest(aimq.wait('{parts}', '60 s'))"), ["parts"]);

    // Changing and detaching reach every partition.
    assert!(value::<bool>(&mut client, "SELECT aimq.enable_realtime('parts', event => 'x')"));
    run(&mut client, "SELECT pgmq.send('parts', '{}')");
    assert_eq!(listener.payloads()[0].event, "x");
    assert!(value::<bool>(&mut client, "SELECT aimq.disable_realtime('parts')"));
    run(&mut client, "SELECT pgmq.send('parts', '{}')");
    assert_eq!(listener.raw(), [""; 0]);
    assert_eq!(
        value::<i64>(&mut client, "SELECT count(*) FROM pg_trigger WHERE tgname = 'aimq_realtime'"),
        0
    );
}

#[test]
fn dump_and_restore_keep_realtime() {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "SELECT aimq.create_queue('MixedCase'), aimq.create_queue('it has \"quotes\"', channel => 'a \"channel\" of ''ours''');
         SELECT pgmq.create('plain'); SELECT pgmq.send('mixedcase', '{}')",
    );
    let before = queues(&mut client);
    let restored = Database::empty();
    let mut dump =
        program("pg_dump").arg(&database.name).stdout(Stdio::piped()).spawn().expect("pg_dump");
    let output = dump.stdout.take().expect("a pipe");
    let restore = psql(&restored).stdin(output).stdout(Stdio::null()).output().expect("psql");
    assert!(dump.wait().expect("pg_dump").success());
    assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));

    let mut client = restored.connect();
    assert_eq!(queues(&mut client), before);
    let mut listener = restored.listen(CHANNEL);
    run(&mut client, "SELECT pgmq.send('mixedcase', '{}'), pgmq.send('plain', '{}')");
    assert_eq!(listener.counts(), one([("MixedCase", 1)]));
    assert!(!value::<bool>(&mut client, "SELECT aimq.enable_realtime('mixedcase')"));
    // Restoring wakes nobody: triggers are made after the data.
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM pgmq.q_mixedcase"), 2);
}

fn psql(database: &Database) -> Command {
    let mut psql = program("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &database.name]);
    psql
}

#[test]
fn the_extension_goes_when_nothing_needs_it_or_by_cascade() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('a'); SELECT pgmq.send('a', '{}')");
    let error = failure(&mut client, "DROP EXTENSION aimq");
    assert_eq!(error.code().code(), "2BP01");
    assert!(value::<bool>(&mut client, "SELECT realtime FROM aimq.queues"), "nothing changed");

    run(&mut client, "DROP EXTENSION aimq CASCADE");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(
        value::<i64>(&mut client, "SELECT count(*) FROM pg_trigger WHERE tgname = 'aimq_realtime'"),
        0
    );
    run(
        &mut client,
        "CREATE EXTENSION aimq; SELECT aimq.enable_realtime_all(); SELECT aimq.disable_realtime_all(); DROP EXTENSION aimq",
    );

    // A transaction that enqueued and dropped the extension still tells.
    run(&mut client, "CREATE EXTENSION aimq; SELECT aimq.enable_realtime('a')");
    let mut listener = database.listen(CHANNEL);
    run(&mut client, "BEGIN; SELECT pgmq.send('a', '{}'); DROP EXTENSION aimq CASCADE; COMMIT");
    assert_eq!(listener.counts(), one([("a", 1)]));
}

#[test]
fn dropping_pgmq_needs_cascade_and_takes_aimq_along() {
    let database = Database::new();
    let mut client = database.connect();
    assert_eq!(failure(&mut client, "DROP EXTENSION pgmq").code().code(), "2BP01");
    run(&mut client, "DROP EXTENSION pgmq CASCADE");
    assert_eq!(
        value::<i64>(
            &mut client,
            "SELECT count(*) FROM pg_extension WHERE extname IN ('aimq', 'pgmq')"
        ),
        0
    );
}

#[test]
fn without_pgmq_or_with_one_too_old_it_says_so() {
    let database = Database::empty();
    let mut client = database.connect();
    let error = failure(&mut client, "CREATE EXTENSION aimq");
    assert_eq!(error.message(), "required extension \"pgmq\" is not installed");
    assert!(error.hint().is_some_and(|hint| hint.contains("CASCADE")));

    // The stand-in for an old pgmq has its version and nothing else.
    run(&mut client, "CREATE EXTENSION pgmq VERSION '1.5.2'");
    let error = failure(&mut client, "CREATE EXTENSION aimq");
    assert_eq!((error.code().code(), error.message()), ("0A000", "pgmq 1.5.2 is too old for aimq"));
    assert!(error.hint().is_some_and(|hint| hint.contains("ALTER EXTENSION pgmq UPDATE")));
    assert_eq!(
        value::<i64>(&mut client, "SELECT count(*) FROM pg_extension WHERE extname = 'aimq'"),
        0
    );

    // pgmq's row removed behind Postgres' back: the functions say what is missing.
    run(&mut client, "DROP EXTENSION pgmq; CREATE EXTENSION aimq CASCADE; SELECT pgmq.create('a')");
    run(&mut client, "BEGIN; DELETE FROM pg_extension WHERE extname = 'pgmq'");
    let error = failure(&mut client, "SELECT aimq.enable_realtime('a')");
    assert_eq!((error.code().code(), error.message()), ("55000", "aimq needs the extension pgmq"));
    assert!(error.hint().is_some_and(|hint| hint.contains("CREATE EXTENSION pgmq")));
    run(&mut client, "ROLLBACK");
}

#[test]
fn the_schema_may_be_there_before_with_other_things_in_it() {
    let database = Database::empty();
    let mut client = database.connect();
    run(
        &mut client,
        "CREATE SCHEMA aimq; CREATE FUNCTION aimq.notify_job_enqueued() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    );
    run(&mut client, "CREATE EXTENSION aimq CASCADE; SELECT aimq.create_queue('a')");
    assert_eq!(queues(&mut client), ["a f f t aimq:jobs job_enqueued"]);
}

#[test]
fn a_database_that_is_not_utf8_works_for_ascii_and_says_check_all_for_the_rest() {
    let database = Database::empty();
    let latin = format!("{}_latin1", database.name);
    run(
        &mut database.connect(),
        &format!("CREATE DATABASE {latin} TEMPLATE template0 ENCODING latin1 LOCALE 'C'"),
    );
    let latin = Database { name: latin };
    let mut client = latin.connect();
    run(
        &mut client,
        "CREATE EXTENSION aimq CASCADE; SELECT aimq.create_queue('a'); SELECT pgmq.create('é')",
    );
    // The control plane is for UTF-8; the trigger itself is not particular.
    run(
        &mut client,
        "CREATE TRIGGER aimq_realtime BEFORE INSERT ON pgmq.q_é FOR EACH ROW
         EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'é')",
    );
    let mut listener = latin.listen(CHANNEL);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.counts(), one([("a", 1)]));
    run(&mut client, "SELECT pgmq.send('é', '{}')");
    assert_eq!(listener.raw(), [r#"{"event":"job_enqueued"}"#]);
}
