//! What happens to a realtime queue when tables, extensions and databases come and go.

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
    // The queue is made again, so realtime is asked for again.
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
fn partman_partitioned_queues_wake_under_their_own_name() {
    let database = Database::new();
    let mut client = database.connect();
    create_partitioned(&mut client, "Parts");
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
fn stand_in_without_pgmq_or_with_one_too_old_it_says_so() {
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

/// How many triggers of aimq there are, on any table.
fn triggers(client: &mut Client) -> i64 {
    value(
        client,
        "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgfoid::regproc::text ^@ 'aimq.'",
    )
}

const ARCHIVED: &str = "SELECT aimq.enable_realtime('a', events => '{job_enqueued,job_archived}')";

/// aimq finds what it attached again, and drops it, whatever happened to the table and to pgmq's list.
#[test]
fn triggers_are_found_again_wherever_their_tables_are() {
    for gone in [
        "ALTER TABLE pgmq.q_a RENAME TO elsewhere; SELECT pgmq.create('a')",
        "ALTER TABLE pgmq.q_a RENAME TO elsewhere; DELETE FROM pgmq.meta",
        // A restore of the schema alone.
        "DELETE FROM pgmq.meta",
        "CREATE SCHEMA other; ALTER TABLE pgmq.q_a SET SCHEMA other",
        "CREATE SCHEMA other; ALTER TABLE pgmq.a_a SET SCHEMA other",
        "ALTER TABLE pgmq.a_a RENAME TO a_old; ALTER TABLE pgmq.q_a RENAME TO q_new;
         UPDATE pgmq.meta SET queue_name = 'new'",
        "CREATE TABLE of_somebody (msg_id bigint, vt timestamptz);
         CREATE TRIGGER mine BEFORE INSERT ON of_somebody FOR EACH ROW
         EXECUTE FUNCTION aimq.realtime_trigger('c', 'e', 'a')",
    ] {
        let database = Database::new();
        let mut client = database.connect();
        run(&mut client, "SELECT aimq.create_queue('a')");
        run(&mut client, ARCHIVED);
        run(&mut client, gone);
        assert!(triggers(&mut client) > 0, "{gone}");
        let queues = names(&mut client, "SELECT aimq.disable_realtime_all()");
        // As pgmq knows the queue, or as its triggers name it.
        assert!(queues.iter().any(|queue| queue == "a" || queue == "new"), "{gone}: {queues:?}");
        assert_eq!(triggers(&mut client), 0, "{gone}");
        assert_eq!(names(&mut client, "SELECT aimq.disable_realtime_all()"), [""; 0]);
        run(&mut client, "DROP EXTENSION aimq");
    }
}

/// An archive that was put aside under a name that begins as its own did: one call for the queue is enough.
#[test]
fn an_archive_that_was_put_aside_is_a_part_of_its_queue() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('a'); SELECT aimq.create_queue('a_old')");
    run(&mut client, ARCHIVED);
    let others = triggers(&mut client);
    run(&mut client, "ALTER TABLE pgmq.a_a RENAME TO a_a_2025; SELECT pgmq.create('a')");
    assert_eq!(triggers(&mut client), others + 1, "the new one has it too");
    assert!(boolean(&mut client, "SELECT aimq.disable_realtime('a')"));
    assert!(!boolean(&mut client, "SELECT aimq.disable_realtime('a')"));
    // Those of the queue whose name begins as this one's does.
    assert_eq!(triggers(&mut client), 2);
    assert!(boolean(&mut client, "SELECT realtime FROM aimq.queues WHERE queue = 'a_old'"));
    run(&mut client, "SELECT aimq.disable_realtime('a_old'); DROP EXTENSION aimq");
}

/// Whose table it is, its triggers are: they keep nobody from what is his.
#[test]
fn nobody_takes_triggers_off_strangers_tables() {
    let database = Database::new();
    let mut client = database.connect();
    let role = database.role("stranger");
    run(
        &mut client,
        &format!(
            "SELECT aimq.create_queue('a'); ALTER TABLE pgmq.q_a RENAME TO q_a_old; SELECT pgmq.create('a');
             GRANT USAGE ON SCHEMA pgmq TO {role}; GRANT SELECT ON pgmq.meta TO {role};
             ALTER TABLE pgmq.q_a OWNER TO {role}; ALTER TABLE pgmq.a_a OWNER TO {role}"
        ),
    );
    let (mut stranger, heard) = database.connect_hearing();
    run(&mut stranger, &format!("SET ROLE {role}"));
    for call in ["aimq.disable_realtime('a')", "aimq.disable_realtime_all()"] {
        run(&mut stranger, "SELECT aimq.enable_realtime('a')");
        run(&mut stranger, &format!("SELECT {call}"));
        let warnings = heard.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(warnings[0].code().code(), "42501");
        assert!(warnings[0].detail().is_some_and(|it| it.contains("pgmq.q_a_old")), "{warnings:?}");
        assert_eq!(triggers(&mut client), 2, "{call}");
    }
}

/// A table that is a queue's today is left alone, whatever its triggers name.
#[test]
fn a_queue_of_today_keeps_its_triggers() {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "SELECT aimq.create_queue('s');
         ALTER TABLE pgmq.q_s RENAME TO q_s_new; ALTER TABLE pgmq.a_s RENAME TO a_s_new;
         UPDATE pgmq.meta SET queue_name = 's_new'; SELECT pgmq.create('s')",
    );
    assert!(!boolean(&mut client, "SELECT aimq.disable_realtime('s')"));
    assert!(boolean(&mut client, "SELECT realtime FROM aimq.queues WHERE queue = 's_new'"));
}

#[test]
fn tables_of_any_name_that_begins_as_the_queues_are_found() {
    let database = Database::new();
    let mut client = database.connect();
    for (queue, table) in [
        ("n1", "q_n1~old"),
        ("n1", "q_n1é"),
        ("n1", "q_n1\"x y"),
        ("n1_é", "q_n1_é_old"),
        ("n~", "q_n~2"),
    ] {
        run(
            &mut client,
            &format!(
                "SELECT aimq.create_queue('{queue}');
                 ALTER TABLE pgmq.\"q_{queue}\" RENAME TO {table}; SELECT pgmq.create('{queue}')",
                table = quoted(table)
            ),
        );
        assert!(
            boolean(&mut client, &format!("SELECT aimq.disable_realtime('{queue}')")),
            "{table}"
        );
        assert_eq!(triggers(&mut client), 0, "{table}");
        run(&mut client, &format!("DROP TABLE pgmq.{}", quoted(table)));
    }
    // Those that name no queue name none.
    run(
        &mut client,
        "CREATE TABLE few (msg_id bigint, vt timestamptz);
         CREATE TRIGGER none BEFORE INSERT ON few FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger();
         CREATE TRIGGER many BEFORE INSERT ON few FOR EACH ROW
         EXECUTE FUNCTION aimq.realtime_trigger('c', 'e', 'five', 'ids', 'more')",
    );
    assert_eq!(names(&mut client, "SELECT aimq.disable_realtime_all()"), ["five"]);
    assert_eq!(triggers(&mut client), 0);
}

/// Tables are known by their OIDs: one that is renamed while it is waited for is still found, and no other is
/// hit.
#[test]
fn a_table_that_is_being_renamed_is_the_one_that_is_meant() {
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "SELECT aimq.create_queue('a'); ALTER TABLE pgmq.q_a RENAME TO q_a_old; SELECT pgmq.create('a');
         SELECT aimq.create_queue('victim')",
    );
    run(
        &mut client,
        "BEGIN; ALTER TABLE pgmq.q_a_old RENAME TO q_tmp; ALTER TABLE pgmq.q_victim RENAME TO q_a_old",
    );
    let mut other = database.connect();
    let pid = value(&mut other, "SELECT pg_backend_pid()");
    let call = std::thread::spawn(move || boolean(&mut other, "SELECT aimq.disable_realtime('a')"));
    wait_until_blocked(&database, pid);
    run(&mut client, "COMMIT");
    assert!(call.join().expect("a call"));
    let left = "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE tgfoid::regproc::text ^@ 'aimq.'";
    assert_eq!(names(&mut client, left), ["pgmq.q_a_old"]);
    // Nobody takes off the same twice.
    assert!(!boolean(&mut client, "SELECT aimq.disable_realtime('a')"));
}
