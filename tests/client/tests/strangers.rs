//! A role that has only a login can attach aimq's functions to its own tables, with the arguments of others' triggers.
//! A queue is known by its table, and only those in pgmq's schema count: so nobody is told anything, and no slot is
//! taken.

use std::collections::BTreeMap;

use aimq_client_tests::*;
use postgres::Client;

/// What the slots hold, except when: text for each.
fn slots(client: &mut Client) -> Vec<String> {
    names(
        client,
        "SELECT concat_ws(' ', queue, channel, event, options, transactions, messages)
           FROM aimq._queue_counters() ORDER BY 1",
    )
}

/// A database with the queues `a` and `b`, of which `a` tells which messages there are, and a stranger's session.
fn with_stranger() -> (Database, Client, Listener, Client) {
    let (database, mut client, listener) = started(&["b"]);
    run(&mut client, "SELECT aimq.create_queue('a', ids => true, channel => 'ids')");
    wait_until_settled(&mut client, 2);
    let stranger = database.role("stranger");
    let stranger = database.connect_as(&stranger);
    (database, client, listener, stranger)
}

/// What a stranger may attach, each with the arguments of others. The last row is one like `a`'s own.
const TRIGGERS: [(&str, &str); 5] = [
    ("BEFORE INSERT", "aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'b')"),
    ("BEFORE INSERT", "aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'b', 'ids')"),
    ("BEFORE INSERT", "aimq.event_trigger('aimq:jobs', 'job_enqueued', 'b', 'ids')"),
    ("BEFORE DELETE", "aimq.event_trigger('ids', 'job_deleted', 'a', 'ids')"),
    ("BEFORE INSERT", "aimq.realtime_trigger('ids', 'job_enqueued', 'a', 'ids')"),
];

/// What he then does with the table.
const USES: [&str; 3] = [
    "INSERT INTO {} (msg_id, vt, message, read_ct) OVERRIDING SYSTEM VALUE
     VALUES (9000000000000000, now(), '{\"x\": 1}', 1)",
    "UPDATE {} SET vt = now() + interval '100 ms', read_ct = 2",
    "DELETE FROM {}",
];

/// Does all that on a table, which is `{}` in what `make` says.
fn attach_and_use(session: &mut Client, table: &str, make: &str) {
    for (at, (when, function)) in TRIGGERS.iter().enumerate() {
        run(session, &make.replace("{}", table));
        let create = format!(
            "CREATE TRIGGER x{at} {when} ON {table} FOR EACH ROW EXECUTE FUNCTION {function}"
        );
        run(session, &create);
        for sql in USES {
            run(session, &sql.replace("{}", table));
        }
        run(session, &format!("BEGIN; {}; ROLLBACK", USES[0].replace("{}", table)));
        run(session, &format!("DROP TABLE {table}"));
    }
}

const COLUMNS: &str = "(msg_id bigint, vt timestamptz, message jsonb, read_ct int)";

/// Nobody was told anything, and the slots are what they were. `b` is enqueued to as the counterproof: what was marked
/// before it, is said with it or before.
#[track_caller]
fn assert_unheard(client: &mut Client, listeners: &mut [&mut Listener], before: &[String]) {
    assert_eq!(slots(client), before);
    let id: i64 = value(client, "SELECT pgmq.send('a', '{}')");
    run(client, "SELECT pgmq.send('b', '{}')");
    let [jobs, ids] = listeners else { panic!("two listeners") };
    assert_eq!(jobs.wait_for_one(), r#"{"event":"job_enqueued","queues":{"b":{"count":1}}}"#);
    // The ids are those of the queue's own messages.
    let told: serde_json::Value = serde_json::from_str(&ids.wait_for_one()).expect("JSON");
    assert_eq!(told["queues"], serde_json::json!({"a": {"count": 1, "ids": [id]}}), "{told}");
    assert_eq!(ids.raw(), [""; 0]);
    assert_eq!(jobs.raw(), [""; 0]);
}

#[test]
fn strangers_temporary_tables_are_nobodys_queue() {
    let (database, mut client, mut jobs, mut stranger) = with_stranger();
    let mut ids = database.listen("ids");
    let before = slots(&mut client);
    attach_and_use(&mut stranger, "t", &format!("CREATE TEMP TABLE {{}} {COLUMNS}"));
    assert_unheard(&mut client, &mut [&mut jobs, &mut ids], &before);
}

/// Also where he takes the schema's and the table's names, as far as he can, and for partitions of his.
#[test]
fn strangers_tables_in_schemas_of_their_own_are_nobodys_queue() {
    let (database, mut client, mut jobs, mut stranger) = with_stranger();
    let role: String = value(&mut stranger, "SELECT current_user::text");
    run(&mut client, &format!("CREATE SCHEMA mine AUTHORIZATION {role}"));
    let mut ids = database.listen("ids");
    let before = slots(&mut client);
    attach_and_use(&mut stranger, "mine.q_a", &format!("CREATE TABLE {{}} {COLUMNS}"));
    attach_and_use(
        &mut stranger,
        "mine.q_b",
        &format!(
            "CREATE TABLE {{}} {COLUMNS} PARTITION BY RANGE (msg_id);
             CREATE TABLE mine.part PARTITION OF {{}} DEFAULT"
        ),
    );
    assert_unheard(&mut client, &mut [&mut jobs, &mut ids], &before);
}

/// Nor are tables that are made like a queue's.
#[test]
fn strangers_copies_of_a_queues_table_are_nobodys_queue() {
    let (database, mut client, mut jobs, mut stranger) = with_stranger();
    let role: String = value(&mut stranger, "SELECT current_user::text");
    run(
        &mut client,
        &format!(
            "CREATE SCHEMA mine AUTHORIZATION {role}; GRANT USAGE ON SCHEMA pgmq TO {role}; GRANT SELECT ON pgmq.q_a TO {role}"
        ),
    );
    let mut ids = database.listen("ids");
    let before = slots(&mut client);
    attach_and_use(&mut stranger, "mine.t", "CREATE TABLE {} (LIKE pgmq.q_a INCLUDING ALL)");
    assert_unheard(&mut client, &mut [&mut jobs, &mut ids], &before);
}

/// As many triggers as there are slots and more: another queue still gets its slot, and its delayed message wakes.
#[test]
fn strangers_triggers_use_up_no_slots() {
    let (_database, mut client, mut jobs, mut stranger) = with_stranger();
    let before = slots(&mut client);
    run(&mut stranger, &format!("CREATE TEMP TABLE t {COLUMNS}"));
    for at in 0..200 {
        let (when, function) =
            ("BEFORE INSERT", format!("aimq.realtime_trigger('c{at}', 'job_enqueued', 'q{at}')"));
        run(
            &mut stranger,
            &format!("CREATE TRIGGER x{at} {when} ON t FOR EACH ROW EXECUTE FUNCTION {function}"),
        );
    }
    run(
        &mut stranger,
        "INSERT INTO t SELECT n, now() + interval '1 s' FROM generate_series(1, 10) n",
    );
    run(&mut stranger, "BEGIN; INSERT INTO t VALUES (1, now()); ROLLBACK");
    assert_eq!(slots(&mut client), before);
    run(&mut client, "SELECT aimq.create_queue('late')");
    wait_until_settled(&mut client, 3);
    run(&mut client, "SELECT pgmq.send('late', '{}', clock_timestamp() + interval '300 ms')");
    jobs.wait_for_count("late", 1);
    let named: BTreeMap<_, _> = jobs.counts().into_iter().flatten().collect();
    assert!(named.is_empty(), "{named:?}");
}

/// A table that is moved out of pgmq's schema is no queue's, and is one again when it comes back: also for sessions
/// that have enqueued before.
#[test]
fn strangers_is_what_is_moved_out_of_pgmqs_schema() {
    let (database, mut client, mut jobs) = started(&["a", "b"]);
    let mut producer = database.connect();
    let mut insert = |client: &mut Client, schema: &str| {
        let sql =
            format!("INSERT INTO {schema}.q_a (vt, message) VALUES (clock_timestamp(), '{{}}')");
        for session in [client, &mut producer] {
            run(session, &sql);
        }
    };
    insert(&mut client, "pgmq");
    jobs.wait_for_count("a", 2);
    // A schema's name is not what counts, and there may be another one of that name.
    for (out, back) in [
        (
            "CREATE SCHEMA elsewhere; ALTER TABLE pgmq.q_a SET SCHEMA elsewhere",
            "ALTER TABLE elsewhere.q_a SET SCHEMA pgmq",
        ),
        (
            "ALTER TABLE pgmq.q_a SET SCHEMA elsewhere",
            "ALTER TABLE elsewhere.q_a SET SCHEMA pgmq; DROP SCHEMA elsewhere",
        ),
    ] {
        wait_until_settled(&mut client, 2);
        run(&mut client, out);
        wait_until("its slot to be given back", || {
            names(&mut client, "SELECT queue FROM aimq._queue_counters()") == ["b"]
        });
        // What a look has announced before does not count.
        jobs.raw();
        insert(&mut client, "elsewhere");
        run(&mut client, "SELECT pgmq.send('b', '{}')");
        let payload = jobs.wait_for_one();
        assert_eq!(payload, r#"{"event":"job_enqueued","queues":{"b":{"count":1}}}"#);
        run(&mut client, "SELECT pgmq.purge_queue('b')");
        let all = names(&mut client, "SELECT queue FROM aimq._queue_counters()");
        assert_eq!(all, ["b"]);
        run(&mut client, back);
        // What came meanwhile is found, unless the next enqueue is first.
        jobs.wait_for_count("a", 1);
        wait_until_settled(&mut client, 2);
        insert(&mut client, "pgmq");
        jobs.wait_for_count("a", 1);
    }
}
