//! Messages that become readable later: delayed, read and not finished, moved by hand. No worker polls. On
//! a server that has aimq preloaded, and, from PostgreSQL 17 on, on one that has not.

use std::time::{Duration, Instant};

use aimq_client_tests::*;
use postgres::Client;

fn send(client: &mut Client, listener: &mut Listener) -> i64 {
    let id = value(client, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
    id
}

/// Reads a message of the queue `a`, if one can be read.
fn read(client: &mut Client, vt: u32) -> Option<i64> {
    let rows = client.query("SELECT msg_id FROM pgmq.read('a', $1, 1)", &[&vt.cast_signed()]);
    rows.expect("read").first().map(|row| row.get(0))
}

/// Nothing is said of `a` before a message that is sent to `b` now can be read, which is in a while.
fn assert_nothing_of_a(client: &mut Client, listener: &mut Listener, millis: u32) {
    let sql = format!("SELECT pgmq.send('b', '{{}}', clock_timestamp() + interval '{millis} ms')");
    run(client, &sql);
    let heard = listener.wait_for_one();
    assert_eq!(heard, r#"{"event":"job_enqueued","queues":{"b":{"count":1}}}"#);
    run(client, "SELECT pgmq.purge_queue('b')");
}

#[test]
fn a_message_whose_worker_died_is_announced_when_its_timeout_ends() {
    let (database, mut client, mut listener) = started(&["a"]);
    let id = send(&mut client, &mut listener);
    let mut worker = database.connect();
    assert_eq!(read(&mut worker, 1), Some(id));
    let was_read = Instant::now();
    drop(worker);
    listener.wait_for_count("a", 1);
    assert!(was_read.elapsed() > Duration::from_millis(900), "too early");
    assert_eq!(read(&mut client, 10), Some(id), "woken before the message could be read");
}

#[test]
fn a_message_that_is_finished_in_time_is_not_announced() {
    for finish in ["archive", "delete"] {
        // A queue of its own: a look because of the first read may find what was enqueued after it.
        let (_database, mut client, mut listener) = started(&["a", "b"]);
        let id = send(&mut client, &mut listener);
        assert_eq!(read(&mut client, 1), Some(id));
        run(&mut client, &format!("SELECT pgmq.{finish}('a', {id}::bigint)"));
        assert_nothing_of_a(&mut client, &mut listener, 1500);
    }
}

#[test]
fn of_several_messages_the_one_that_is_left_is_announced() {
    let (_database, mut client, mut listener) = started(&["a"]);
    run(&mut client, "SELECT pgmq.send_batch('a', ARRAY['{}', '{}', '{}']::jsonb[])");
    listener.wait_for_count("a", 3);
    let ids: Vec<i64> = (0..3).filter_map(|_| read(&mut client, 1)).collect();
    run(&mut client, &format!("SELECT pgmq.archive('a', ARRAY[{}, {}])", ids[0], ids[2]));
    listener.wait_for_count("a", 1);
    assert_eq!(read(&mut client, 10), Some(ids[1]));
}

#[test]
fn reading_what_is_there_announces_nothing() {
    let (_database, mut client, mut listener) = started(&["a", "b"]);
    run(&mut client, "SELECT pgmq.send('a', '{}') FROM generate_series(1, 6)");
    listener.wait_for_count("a", 6);
    for _ in 0..5 {
        assert!(read(&mut client, 3600).is_some());
    }
    // One can still be read, as it could before.
    assert_nothing_of_a(&mut client, &mut listener, 400);
}

/// Two messages of the queue `a`, and both as an argument.
fn two(client: &mut Client, listener: &mut Listener) -> (i64, String) {
    let ids: Vec<i64> = (0..2).map(|_| send(client, listener)).collect();
    (ids[0], format!("ARRAY[{}, {}]", ids[0], ids[1]))
}

#[test]
fn set_vt_to_now_wakes() {
    let (_database, mut client, mut listener) = started(&["a"]);
    let (first, both) = two(&mut client, &mut listener);
    for step in [
        format!("pgmq.set_vt('a', {first}, 0)"),
        format!("pgmq.set_vt('a', {both}, 0)"),
        format!("pgmq.set_vt('a', {first}, now() - interval '1 day')"),
    ] {
        run(&mut client, &format!("SELECT pgmq.set_vt('a', {both}, 3600)"));
        run(&mut client, &format!("SELECT {step}"));
        listener.wait_for_count("a", 1);
        assert!(read(&mut client, 3600).is_some(), "{step}");
    }
}

#[test]
fn set_vt_moves_the_wake_up() {
    let (_database, mut client, mut listener) = started(&["a", "b"]);
    let (_, both) = two(&mut client, &mut listener);
    run(&mut client, &format!("SELECT pgmq.set_vt('a', {both}, 3600)"));
    let soon = format!("pgmq.set_vt('a', {both}, clock_timestamp() + interval '200 ms')");
    run(&mut client, &format!("SELECT {soon}"));
    listener.wait_for_count("a", 1);
    assert!(read(&mut client, 3600).is_some(), "woken too early");
    run(&mut client, &format!("SELECT pgmq.set_vt('a', {both}, 3600)"));
    assert_nothing_of_a(&mut client, &mut listener, 300);
}

#[test]
fn a_plain_update_moves_the_wake_up() {
    let (_database, mut client, mut listener) = started(&["a"]);
    send(&mut client, &mut listener);
    for vt in ["clock_timestamp() + interval '200 ms'", "now() - interval '1 year'", "'-infinity'"]
    {
        run(&mut client, "UPDATE pgmq.q_a SET vt = 'infinity'");
        run(&mut client, &format!("UPDATE pgmq.q_a SET vt = {vt}"));
        listener.wait_for_count("a", 1);
        let readable = "SELECT count(*) FROM pgmq.q_a WHERE vt <= clock_timestamp()";
        assert_eq!(value::<i64>(&mut client, readable), 1, "{vt}");
    }
}

/// It sets what a read sets, to the beginning of its transaction.
#[test]
fn a_retry_by_hand_wakes() {
    let (_database, mut client, mut listener) = started(&["a"]);
    send(&mut client, &mut listener);
    assert!(read(&mut client, 3600).is_some());
    run(&mut client, "BEGIN");
    run(&mut client, "UPDATE pgmq.q_a SET vt = now(), read_ct = 0");
    run(&mut client, "COMMIT");
    listener.wait_for_count("a", 1);
}

#[test]
fn a_queue_whose_first_trigger_is_disabled_is_left_alone() {
    let (_database, mut client, mut listener) = started(&["a", "b"]);
    (0..3).for_each(|_| _ = send(&mut client, &mut listener));
    run(&mut client, "ALTER TABLE pgmq.q_a DISABLE TRIGGER aimq_realtime");
    // What the notifier knew before is over.
    wait_until("the notifier to know", || {
        boolean(&mut client, "SELECT count(*) = 1 FROM aimq._queue_counters()")
    });
    for _ in 0..2 {
        assert!(read(&mut client, 3600).is_some());
        assert_nothing_of_a(&mut client, &mut listener, 200);
    }
}

#[test]
fn a_far_deadline_does_not_hide_a_near_one() {
    let (_database, mut client, mut listener) = started(&["a"]);
    for vt in [
        "'infinity'",
        "'294000-01-01'",
        "now() + interval '200 years'",
        "now() + interval '30 days'",
    ] {
        run(&mut client, &format!("SELECT pgmq.send('a', '{{}}', ({vt})::timestamptz)"));
    }
    let near = "SELECT pgmq.send('a', '{}', clock_timestamp() + interval '200 ms')";
    let id: i64 = value(&mut client, near);
    listener.wait_for_count("a", 1);
    assert_eq!(read(&mut client, 10), Some(id));
}

#[test]
fn what_is_read_in_a_transaction_that_fails_is_announced_again() {
    let (database, mut client, mut listener) = started(&["a"]);
    let id = send(&mut client, &mut listener);
    let ends: [fn(&Database, Client); 4] = [
        |_, mut worker| run(&mut worker, "ROLLBACK"),
        |_, worker| drop(worker),
        |_, mut worker| {
            // A worker whose queries are made of text: it ends in the middle of one.
            failure(&mut worker, "SELECT 1 / 0");
        },
        |database, mut worker| {
            let pid = pid(&mut worker);
            run(&mut database.connect(), &format!("SELECT pg_terminate_backend({pid})"));
        },
    ];
    for end in ends {
        let mut worker = database.connect();
        run(&mut worker, "BEGIN");
        assert_eq!(read(&mut worker, 3600), Some(id));
        assert_eq!(read(&mut client, 3600), None, "somebody else has it");
        end(&database, worker);
        listener.wait_for_count("a", 1);
    }
    for take in ["read('a', 3600, 1)", "pop('a')"] {
        for sql in [
            format!("BEGIN; SAVEPOINT s; SELECT pgmq.{take}; ROLLBACK TO s; COMMIT"),
            format!("BEGIN; SELECT pgmq.{take}; ROLLBACK"),
            format!("BEGIN; SAVEPOINT s; SELECT pgmq.{take}; RELEASE s; ROLLBACK"),
        ] {
            run(&mut client, &sql);
            listener.wait_for_count("a", 1);
        }
    }
    assert_eq!(read(&mut client, 3600), Some(id));
}

/// All of pgmq's ways to read, each with a visibility timeout that ends.
#[test]
fn every_way_to_read_is_followed() {
    let (_database, mut client, mut listener) = started(&["a"]);
    send(&mut client, &mut listener);
    let ways: Vec<String> = names(
        &mut client,
        "SELECT DISTINCT proname::text FROM pg_proc
          WHERE pronamespace = 'pgmq'::regnamespace AND proname ~ '^read' ORDER BY 1",
    );
    assert!(ways.len() >= 2, "{ways:?}");
    for way in ways {
        let sql = format!("SELECT count(*) FROM pgmq.{way}('a', 1, 1)");
        assert_eq!(value::<i64>(&mut client, &sql), 1, "{way}");
        listener.wait_for_count("a", 1);
    }
}

#[test]
fn a_queue_that_has_the_first_trigger_only_gets_the_second() {
    let (_database, mut client, mut listener) = started(&["a"]);
    let both = "SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1";
    assert_eq!(names(&mut client, both), ["aimq_realtime", "aimq_realtime_vt"]);
    // As an earlier version made it.
    run(&mut client, "DROP TRIGGER aimq_realtime_vt ON pgmq.q_a");
    assert!(boolean(&mut client, "SELECT realtime FROM aimq.queues"));
    send(&mut client, &mut listener);
    assert!(boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert!(!boolean(&mut client, "SELECT aimq.enable_realtime('a')"));
    assert_eq!(names(&mut client, both), ["aimq_realtime", "aimq_realtime_vt"]);
    assert!(read(&mut client, 1).is_some());
    listener.wait_for_count("a", 1);
    assert!(boolean(&mut client, "SELECT aimq.disable_realtime('a')"));
    assert_eq!(names(&mut client, both), [""; 0]);
}

#[test]
fn a_prepared_read_is_followed() {
    let (database, mut client, mut listener) = started(&["a"]);
    send(&mut client, &mut listener);
    let mut worker = database.connect();
    run(&mut worker, "BEGIN; SELECT pgmq.read('a', 1, 1)");
    run(&mut worker, &format!("PREPARE TRANSACTION '{}'", database.name));
    drop(worker);
    run(&mut database.connect(), &format!("COMMIT PREPARED '{}'", database.name));
    listener.wait_for_count("a", 1);
}

/// A session may block until there is something to read. So a notifier, if there is one, follows the times, no matter
/// who notifies.
#[test]
fn time_is_followed_where_the_transaction_notifies_too() {
    let (_database, mut client, mut listener) = started(&["a"]);
    let id = send(&mut client, &mut listener);
    run(&mut client, "SET aimq.delivery = transaction");
    assert_eq!(read(&mut client, 1), Some(id));
    listener.wait_for_count("a", 1);
    assert_eq!(read(&mut client, 10), Some(id), "woken before the message could be read");
}

#[test]
fn a_thousand_deadlines_are_all_met() {
    let (_database, mut client, mut listener) = started(&["a"]);
    run(
        &mut client,
        "SELECT pgmq.send('a', '{}', clock_timestamp() + random() * interval '1500 ms')
           FROM generate_series(1, 1000)",
    );
    let mut left: i64 = 1000;
    while left > 0 {
        listener.wait_for_count("a", 1);
        left -= value::<i64>(&mut client, "SELECT count(*) FROM pgmq.pop('a', 1000)");
    }
}

/// Row security does not bind one, forced or not.
#[test]
fn forced_row_security_keeps_nothing_of_a_superuser_from_being_found() {
    let (_database, mut client, mut listener) = started(&["a"]);
    run(
        &mut client,
        "ALTER TABLE pgmq.q_a ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; SELECT pgmq.send('a', '{}')",
    );
    listener.wait_for_count("a", 1);
    // A worker that dies: long before the backstop, a wake-up comes when the message can be read.
    run(&mut client, "SELECT pgmq.read('a', 1, 1)");
    let readable = "SELECT count(*) FROM pgmq.q_a WHERE vt <= clock_timestamp()";
    wait_until("a wake-up for a message that can be read", || {
        listener.wait_for_count("a", 1);
        value::<i64>(&mut client, readable) == 1
    });
}
