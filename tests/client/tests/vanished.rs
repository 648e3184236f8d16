//! What a session waits for in a blocking call goes away, or does not tell any more. On a server that has aimq
//! preloaded, and, from PostgreSQL 17 on, on one that has not. What is done to the tables is done in sessions that know
//! nothing of aimq.

use std::time::Instant;

use aimq_client_tests::blocking::*;
use aimq_client_tests::unseen::SOON;
use aimq_client_tests::*;

const WAIT: &str = "SELECT cardinality(aimq.wait('{a}', '60 s'))::bigint";

/// Each blocking call fails soon, because there is no such table.
#[track_caller]
fn assert_ended(what: &str) {
    let (database, _client, _listener) = started(&["a"]);
    let calls = [block(&database, READ), block(&database, WAIT)];
    run(&mut database.connect(), what);
    let deadline = Instant::now() + SOON;
    let came = calls.map(|call| call.ends_by(deadline));
    let gone = Some(Err("42P01".to_owned()));
    assert_eq!(came, [gone.clone(), gone], "{what}");
}

/// Each blocking call polls from then on, so it has a message of which nobody tells.
#[track_caller]
fn assert_polls(what: &str) {
    let (database, _client, _listener) = started(&["a"]);
    let calls = [block(&database, WAIT), block(&database, READ)];
    run(&mut database.connect(), what);
    run(&mut database.connect(), "INSERT INTO pgmq.q_a (vt, message) VALUES (now(), '{}')");
    // A session that waits sees it before the other has read it, or not at all.
    let deadline = Instant::now() + SOON;
    let [wait, read] = calls.map(|call| call.ends_by(deadline));
    assert_eq!(read, Some(Ok(vec![1])), "{what}; the other: {wait:?}");
}

#[test]
fn vanished_queue() {
    assert_ended("SELECT pgmq.drop_queue('a')");
}

#[test]
fn vanished_table() {
    assert_ended("DROP TABLE pgmq.q_a");
}

#[test]
fn vanished_name() {
    assert_ended("ALTER TABLE pgmq.q_a RENAME TO q_b");
}

#[test]
fn vanished_from_the_schema() {
    assert_ended("ALTER TABLE pgmq.q_a SET SCHEMA public");
}

#[test]
fn vanished_trigger_disabled() {
    assert_polls("ALTER TABLE pgmq.q_a DISABLE TRIGGER USER");
}

#[test]
fn vanished_trigger_for_replicas_only() {
    assert_polls("ALTER TABLE pgmq.q_a ENABLE REPLICA TRIGGER aimq_realtime");
}

#[test]
fn vanished_trigger_dropped() {
    assert_polls("DROP TRIGGER aimq_realtime ON pgmq.q_a");
}

/// The call ends with an error, or goes on by polling.
#[test]
fn vanished_extension() {
    let (database, _client, _listener) = started(&["a"]);
    let call = block(&database, READ);
    run(&mut database.connect(), "DROP EXTENSION aimq CASCADE");
    run(&mut database.connect(), "SELECT pgmq.send('a', '{}')");
    let came = call.ends_by(Instant::now() + SOON);
    assert!(came.is_some(), "it still waits");
}
