//! Which of the sessions that block are called, and when. On a server that has aimq preloaded, and, from PostgreSQL 17
//! on, on one that has not.

use std::time::{Duration, Instant};

use aimq_client_tests::blocking::*;
use aimq_client_tests::servers::kill;
use aimq_client_tests::*;
use postgres::Client;

/// The session that the message is for wakes; the others sleep on.
#[test]
fn each_message_wakes_one_and_the_longest_waiter_first() {
    let (database, mut client, _listener) = started(&["a"]);
    let mut blocked: Vec<_> = (0..4).map(|_| block(&database, READ)).collect();
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(blocked.remove(0).read(), [id]);
    // As many as there are messages, and no more. It is not said which ones: one may look by chance.
    run(&mut client, "SELECT pgmq.send('a', '{}') FROM generate_series(1, 2)");
    wait_until("two to read", || blocked.iter().filter(|it| it.thread.is_finished()).count() == 2);
    let (ended, asleep): (Vec<_>, Vec<_>) =
        blocked.into_iter().partition(|it| it.thread.is_finished());
    ended.into_iter().for_each(|session| assert_eq!(session.read().len(), 1));
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    asleep.into_iter().for_each(|session| assert_eq!(session.read().len(), 1));
    assert_clean(&mut client);
}

#[test]
fn messages_that_become_readable_later_wake() {
    let (database, mut client, _listener) = started(&["a"]);
    let soon = "clock_timestamp() + interval '300 ms'";
    // A delay.
    let blocked = block(&database, READ);
    let id: i64 = value(&mut client, &format!("SELECT pgmq.send('a', '{{}}', {soon})"));
    assert_eq!(blocked.read(), [id]);
    // Moved by hand, to later and to now.
    for vt in [soon, "clock_timestamp()"] {
        let blocked = block(&database, READ);
        run(&mut client, &format!("SELECT pgmq.set_vt('a', {id}, {vt})"));
        assert_eq!(blocked.read(), [id], "{vt}");
    }
    // A worker that died over it.
    run(&mut client, &format!("SELECT pgmq.set_vt('a', {id}, 0)"));
    let mut worker = database.connect();
    assert_eq!(value::<i64>(&mut worker, "SELECT msg_id FROM aimq.read('a', 1)"), id);
    let blocked = block(&database, READ);
    drop(worker);
    assert_eq!(blocked.read(), [id]);
}

#[test]
fn what_a_transaction_that_fails_had_read_wakes() {
    let (database, mut client, _listener) = started(&["a"]);
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
    for read in ["aimq.read('a', 3600)", "pgmq.pop('a')"] {
        run(&mut client, &format!("BEGIN; SELECT {read}"));
        let blocked = block(&database, READ);
        let begun = Instant::now();
        run(&mut client, "ROLLBACK");
        assert_eq!(blocked.read(), [id], "{read}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{read}: {:?}", begun.elapsed());
        run(&mut client, &format!("SELECT pgmq.set_vt('a', {id}, 0)"));
    }
}

/// The first in line is stopped, so that it has not yet seen the call when it is told to go.
#[test]
fn a_session_that_goes_passes_its_turn_on() {
    let (database, mut client, _listener) = started(&["a"]);
    // A session that is terminated may be gone before it can say so.
    for (end, codes) in [
        ("pg_cancel_backend", &["57014"][..]),
        ("pg_terminate_backend", &["57P01", "connection closed"]),
    ] {
        let first = block(&database, READ);
        let second = block(&database, READ);
        let calls: i64 = value(&mut client, "SELECT calls FROM aimq.stats");
        kill("STOP", first.pid);
        let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
        wait_until("the call", || {
            value::<i64>(&mut client, "SELECT calls FROM aimq.stats") == calls + 1
        });
        assert!(!second.thread.is_finished(), "called too");
        run(&mut client, &format!("SELECT {end}({})", first.pid));
        kill("CONT", first.pid);
        let error = first.end().expect_err(end);
        assert!(codes.contains(&error.as_str()), "{error}");
        assert_eq!(second.read(), [id]);
        assert_clean(&mut client);
    }
}

#[test]
fn one_that_wants_something_else_is_no_obstacle() {
    let (database, mut client, _listener) = started(&["a"]);
    let sql = "SELECT msg_id FROM aimq.read('a', 60, max_wait => '60 s', conditional => '{\"kind\": \"x\"}')";
    let picky = block(&database, sql);
    let other = block(&database, READ);
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{\"kind\": \"y\"}')");
    assert_eq!(other.read(), [id]);
    wait_until("it to sleep on", || waits(&mut client, picky.pid));
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{\"kind\": \"x\"}')");
    assert_eq!(picky.read(), [id]);
}

/// A session that is called for a message that it has no right to read does not keep it from those that have.
#[test]
fn one_that_may_not_read_is_no_obstacle() {
    let (database, mut client, _listener) = started(&["a"]);
    let role = database.role("monitor");
    run(
        &mut client,
        &format!("GRANT USAGE ON SCHEMA pgmq TO {role}; GRANT SELECT ON pgmq.q_a TO {role}"),
    );
    let monitor = {
        let mut session = database.connect_as(&role);
        let process = pid(&mut session);
        let thread = std::thread::spawn(move || {
            value::<Vec<String>>(&mut session, "SELECT aimq.wait('{a}', '60 s')")
        });
        wait_until("it to block", || waits(&mut client, process));
        thread
    };
    let worker = block(&database, READ);
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(worker.read(), [id]);
    run(&mut client, "SELECT pg_cancel_backend(pid) FROM aimq.waiters");
    let _ = monitor.join();
}

#[test]
fn a_producer_that_notifies_itself_wakes_too() {
    let (database, mut client, _listener) = started(&["a"]);
    let blocked = block(&database, READ);
    run(&mut client, "SET aimq.delivery = transaction");
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(blocked.read(), [id]);
    // And what such a session delays, reads, and gives back.
    let blocked = block(&database, READ);
    let soon = "SELECT pgmq.send('a', '{}', clock_timestamp() + interval '300 ms')";
    let id: i64 = value(&mut client, soon);
    assert_eq!(blocked.read(), [id]);
    for (read, end) in [("1", "COMMIT"), ("3600", "ROLLBACK")] {
        run(&mut client, &format!("SELECT pgmq.set_vt('a', {id}, 0)"));
        run(&mut client, &format!("BEGIN; SELECT pgmq.read('a', {read}, 1)"));
        let blocked = block(&database, READ);
        run(&mut client, end);
        assert_eq!(blocked.read(), [id], "{end}");
    }
}

/// As many are called as there are messages; and for each look because of what was read, at most every 100 ms,
/// one more, if it finds the message before the session that was called has it.
#[test]
fn no_more_are_called_than_there_are_messages() {
    const MESSAGES: i64 = 50;
    let (database, mut client, _listener) = started(&["a"]);
    let sql = "WITH m AS (SELECT msg_id FROM aimq.read('a', 60, 1, '60 s'))
               SELECT msg_id FROM m WHERE pgmq.archive('a', msg_id)";
    let mut blocked: Vec<_> = (0..10).map(|_| block(&database, sql)).collect();
    let begun = Instant::now();
    for sent in 1..=MESSAGES {
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        wait_until("it to be finished", || finished(&mut client) == sent);
        let at = blocked.iter().position(|it| it.thread.is_finished());
        if let Some(at) = at {
            blocked.remove(at).read();
            blocked.push(block(&database, sql));
        }
    }
    let calls: i64 = value(&mut client, "SELECT calls FROM aimq.stats");
    let looks = i64::try_from(begun.elapsed().as_millis() / 100).expect("seconds") + 1;
    // One may come by chance, and not be called.
    assert!(calls >= MESSAGES / 2, "{calls} calls of {MESSAGES}");
    assert!(calls <= MESSAGES + looks, "{calls} calls of {MESSAGES}, and {looks} looks");
    run(&mut client, "SELECT pg_cancel_backend(pid) FROM aimq.waiters");
    blocked.into_iter().for_each(|session| drop(session.end()));
}

fn finished(client: &mut Client) -> i64 {
    value(client, "SELECT count(*) FROM pgmq.a_a")
}

/// It holds no lock that DDL waits for, with the producers behind it.
#[test]
fn ddl_does_not_wait_for_a_session_that_sleeps() {
    let (database, mut client, _listener) = started(&["a"]);
    let blocked = [
        block(&database, READ),
        block(&database, "SELECT cardinality(aimq.wait('{a}', '60 s'))::bigint"),
    ];
    run(&mut client, "SET lock_timeout = '5 s'");
    run(&mut client, "BEGIN; LOCK TABLE pgmq.q_a IN ACCESS EXCLUSIVE MODE; COMMIT");
    run(&mut client, "SELECT pgmq.send('a', '{}') FROM generate_series(1, 2)");
    for session in blocked {
        assert_eq!(session.read().len(), 1);
    }
}

/// A session that may not read a queue can't keep others from being called.
#[test]
fn a_place_is_only_for_who_may_read() {
    let (database, mut client, _listener) = started(&["a"]);
    let mut thief = database.connect_as(&database.role("thief"));
    run(&mut thief, "BEGIN; SELECT aimq._arm('{a}', 1000000, 1e9, false)");
    assert_eq!(waiters(&mut client), 0);
    let blocked = block(&database, READ);
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(blocked.read(), [id]);
}

/// It wakes and looks at the queue's triggers just when they are changed, and may still see the old ones.
#[test]
fn it_follows_a_queue_whose_setting_changes() {
    let (database, mut client, _listener) = started(&["a"]);
    for round in 0..30 {
        let blocked = block(&database, READ);
        let change = format!("SELECT aimq.enable_realtime('a', channel => 'channel {round}')");
        run(&mut client, &change);
        wait_until("the notifier to know", || {
            let known = "SELECT array_agg(channel) FROM aimq._queue_counters()";
            value::<Vec<String>>(&mut client, known) == [format!("channel {round}")]
        });
        let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
        assert_eq!(blocked.read(), [id]);
    }
    // And one that is not realtime any more: then it polls.
    let blocked = block(&database, READ);
    run(&mut client, "SELECT aimq.disable_realtime('a')");
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(blocked.read(), [id]);
}

#[test]
fn a_notifier_that_ends_strands_nobody() {
    let (database, mut client, _listener) = started(&["a"]);
    for _ in 0..3 {
        let blocked = block(&database, READ);
        run(
            &mut client,
            "SELECT pg_terminate_backend(pid) FROM aimq.notifiers WHERE database = current_database()",
        );
        let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
        assert_eq!(blocked.read(), [id]);
        wait_until_running(&mut client);
    }
}
