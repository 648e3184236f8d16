//! Blocking calls: `aimq.read`, `aimq.wait`, `aimq.wait_for`. On a server that has aimq preloaded, and, from
//! PostgreSQL 17 on, on one that has not.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aimq_client_tests::servers::kill;
use aimq_client_tests::*;
use postgres::{Client, SimpleQueryMessage};

/// A session that blocks, in a thread of its own.
struct Blocked {
    pid: i32,
    thread: JoinHandle<Result<Vec<i64>, String>>,
}

impl Blocked {
    /// What it read. `Err` is the SQLSTATE.
    fn end(self) -> Result<Vec<i64>, String> {
        self.thread.join().expect("a session that blocks")
    }

    fn read(self) -> Vec<i64> {
        self.end().expect("a read")
    }
}

const READ: &str = "SELECT msg_id FROM aimq.read('a', 60, 1, '60 s')";

/// Starts a session that blocks, and waits until it does.
fn block(database: &Database, sql: &str) -> Blocked {
    let mut client = database.connect();
    let pid = pid(&mut client);
    let sql = sql.to_owned();
    let thread = std::thread::spawn(move || match client.query(&sql, &[]) {
        Ok(rows) => Ok(rows.iter().map(|row| row.get(0)).collect()),
        Err(error) => Err(error.code().map_or(error.to_string(), |code| code.code().to_owned())),
    });
    wait_until("a session to block", || waits(&mut database.connect(), pid));
    Blocked { pid, thread }
}

/// Whether a session sleeps in a call of ours.
fn waits(client: &mut Client, pid: i32) -> bool {
    let event = if major() >= 17 { "AimqWait" } else { "Extension" };
    boolean(
        client,
        &format!(
            "SELECT EXISTS (SELECT FROM aimq.waiters w JOIN pg_stat_activity a USING (pid)
                             WHERE pid = {pid} AND a.wait_event = '{event}')"
        ),
    )
}

fn waiters(client: &mut Client) -> i64 {
    value(client, "SELECT count(*) FROM aimq.waiters")
}

/// Nobody waits, and nothing of it is left.
fn assert_clean(client: &mut Client) {
    wait_until("the waiters to be gone", || waiters(client) == 0);
}

#[test]
fn what_is_there_is_returned_at_once() {
    let (_database, mut client, _listener) = started(&["a"]);
    run(&mut client, "SELECT pgmq.send('a', '{\"n\": 1}'), pgmq.send('a', '{\"n\": 2}')");
    let rows = client
        .query("SELECT msg_id, read_ct, message->>'n' FROM aimq.read('a', 30, 5)", &[])
        .expect("read");
    let found: Vec<(i64, i32, &str)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(found, [(1, 1, "1"), (2, 1, "2")]);
    assert_eq!(waiters(&mut client), 0);
}

#[test]
fn a_session_blocks_until_there_is_a_message() {
    let (database, mut client, _listener) = started(&["a"]);
    let blocked = block(&database, READ);
    let seen = client
        .query_one(
            "SELECT role::text, application_name, queues, now() - since < '10 s' FROM aimq.waiters WHERE pid = $1",
            &[&blocked.pid],
        )
        .expect("a waiter");
    assert_eq!(seen.get::<_, &str>(0), "postgres");
    assert_eq!(seen.get::<_, &str>(1), "aimq-client-tests");
    assert_eq!(seen.get::<_, Vec<String>>(2), ["a"]);
    assert!(seen.get::<_, bool>(3));
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(blocked.read(), [id]);
    assert_clean(&mut client);
}

#[test]
fn its_time_is_over() {
    let (_database, mut client, _listener) = started(&["a"]);
    for (wait, least) in [("300 ms", 300), ("0", 0), ("-1 s", 0)] {
        let begun = Instant::now();
        let sql = format!("SELECT msg_id FROM aimq.read('a', 30, max_wait => '{wait}')");
        assert!(client.query(&sql, &[]).expect("read").is_empty());
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(least), "{wait}: {took:?}");
        assert!(took < Duration::from_millis(least) + Duration::from_secs(10), "{wait}: {took:?}");
        assert_eq!(waiters(&mut client), 0);
    }
}

/// One for whom the message is, the others sleep on.
#[test]
fn each_message_wakes_one_and_the_longest_waiter_first() {
    let (database, mut client, _listener) = started(&["a"]);
    let mut blocked: Vec<_> = (0..4).map(|_| block(&database, READ)).collect();
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(blocked.remove(0).read(), [id]);
    // As many as there are messages, and no more. Which of them is not said: one may look by chance.
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
    // Whoever is terminated may be gone before he can say so.
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
fn a_statement_timeout_ends_it() {
    let (database, mut client, _listener) = started(&["a"]);
    let mut session = database.connect();
    run(&mut session, "SET statement_timeout = '200 ms'");
    assert_eq!(failure(&mut session, READ).code().code(), "57014");
    assert_clean(&mut client);
    // The same session blocks again.
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(value::<i64>(&mut session, READ), id);
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

#[test]
fn the_queues_that_are_ready() {
    let (database, mut client, _listener) = started(&["a", "b", "c"]);
    let ready = |client: &mut Client, wait: &str| -> Vec<String> {
        value(client, &format!("SELECT aimq.wait('{{a,b,c}}', '{wait}')"))
    };
    assert_eq!(ready(&mut client, "100 ms"), [""; 0]);
    let sql = "SELECT cardinality(aimq.wait('{a,b}', '60 s'))::bigint";
    let blocked = block(&database, sql);
    assert_eq!(
        names(&mut client, "SELECT unnest(queues) FROM aimq.waiters ORDER BY 1"),
        ["a", "b"]
    );
    run(&mut client, "SELECT pgmq.send('c', '{}')");
    assert!(waits(&mut client, blocked.pid), "not its queue");
    run(&mut client, "SELECT pgmq.send('b', '{}')");
    assert_eq!(blocked.read(), [1]);
    assert_eq!(ready(&mut client, "60 s"), ["b", "c"]);
    assert_clean(&mut client);
}

/// A message that somebody is just reading is none that can be read: who then reads by himself would find nothing, and call
/// again and again.
#[test]
fn a_message_that_is_being_read_is_not_ready() {
    let (database, mut client, _listener) = started(&["a"]);
    for (held, end) in [("pgmq.read('a', 60, 1)", "ROLLBACK"), ("pgmq.pop('a')", "ROLLBACK")] {
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        run(&mut client, &format!("BEGIN; SELECT {held}"));
        let mut other = database.connect();
        let ready: Vec<String> = value(&mut other, "SELECT aimq.wait('{a}', '100 ms')");
        assert!(ready.is_empty(), "{held}");
        let blocked = block(&database, "SELECT cardinality(aimq.wait('{a}', '60 s'))::bigint");
        run(&mut client, end);
        assert_eq!(blocked.read(), [1], "{held}");
        run(&mut client, "SELECT pgmq.purge_queue('a')");
    }
}

/// Whoever is called for a message that he has no right to read does not keep it from those who have.
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

/// A look walks the index on vt, also where the statistics are of when the queue was empty.
#[test]
fn a_look_reads_no_more_than_it_needs() {
    let (_database, mut client, _listener) = started(&["a"]);
    run(&mut client, "VACUUM ANALYZE pgmq.q_a");
    run(&mut client, "SELECT aimq._ready('{a}', false), aimq._ready('{a}', true)");
    run(&mut client, "SELECT pgmq.send('a', '{}', 60) FROM generate_series(1, 1000)");
    let scans = |client: &mut Client| -> (i64, i64) {
        let sql = "SELECT seq_scan, idx_scan FROM pg_stat_xact_user_tables WHERE relid = 'pgmq.q_a'::regclass";
        let row = client.query_one(sql, &[]).expect("statistics");
        (row.get(0), row.get(1))
    };
    // What is not yet reported, so in one transaction.
    run(&mut client, "BEGIN");
    let before = scans(&mut client);
    run(&mut client, "SELECT aimq._ready('{a}', false), aimq._ready('{a}', true)");
    assert_eq!(scans(&mut client), (before.0, before.1 + 2));
}

/// Vacuum is not kept back by a session that sleeps in a procedure; it is by one in a function.
#[test]
fn the_procedures_hold_no_snapshot() {
    let (database, mut client, _listener) = started(&["a"]);
    let has_snapshot = |client: &mut Client, pid: i32| {
        let sql = "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = $1";
        client.query_one(sql, &[&pid]).expect("a session").get::<_, bool>(0)
    };
    let function = block(&database, "SELECT cardinality(aimq.wait('{a}', '60 s'))::bigint");
    let calls = ["CALL aimq.wait_for('{a}', '60 s')", "CALL aimq.read_for('a', 60, 2, '60 s')"]
        .map(|sql| {
            let mut session = database.connect();
            let pid = pid(&mut session);
            let thread = std::thread::spawn(move || {
                let messages = session.simple_query(sql).expect("call");
                messages.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                    _ => None,
                })
            });
            wait_until("it to sleep", || waits(&mut client, pid));
            assert!(!has_snapshot(&mut client, pid), "{sql}");
            thread
        });
    assert!(has_snapshot(&mut client, function.pid));
    run(&mut client, "SELECT pgmq.send('a', '{\"n\": 1}') FROM generate_series(1, 4)");
    let [waited, read] = calls.map(|call| call.join().expect("a session").expect("a row"));
    assert_eq!(waited, "{a}");
    let read: serde_json::Value = serde_json::from_str(&read).expect("JSON");
    let read = read.as_array().expect("an array");
    assert!((1..=2).contains(&read.len()), "{read:?}");
    assert!(read.iter().all(|it| it["msg_id"].is_i64() && it["message"]["n"] == 1), "{read:?}");
    assert_eq!(function.read(), [1]);
    assert_clean(&mut client);
    run(&mut client, "SELECT pgmq.purge_queue('a')");
    for (call, nothing) in
        [("wait_for('{a}', '100 ms')", "{}"), ("read_for('a', 60, max_wait => '100 ms')", "[]")]
    {
        let rows = client.simple_query(&format!("CALL aimq.{call}")).expect("call");
        let found = rows.iter().find_map(|it| match it {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(found, Some(nothing), "{call}");
        let error = failure(&mut client, &format!("BEGIN; CALL aimq.{call}"));
        assert_eq!(error.code().code(), "2D000", "{call}");
        run(&mut client, "ROLLBACK");
    }
    assert_clean(&mut client);
}

#[test]
fn a_transaction_that_would_never_see_it_is_told() {
    let (_database, mut client, _listener) = started(&["a"]);
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for call in ["aimq.read('a', 1)", "aimq.wait('{a}')"] {
            let error =
                failure(&mut client, &format!("BEGIN ISOLATION LEVEL {level}; SELECT {call}"));
            assert_eq!(error.code().code(), "25000", "{call}");
            assert!(error.hint().is_some_and(|hint| hint.contains("READ COMMITTED")));
            run(&mut client, "ROLLBACK");
        }
    }
    for call in [
        "aimq.read(NULL, 1)",
        "aimq.read('a', NULL)",
        "aimq.read('a', 1, 1, '1 s', NULL)",
        "aimq.read('a', 1, NULL)",
        "aimq.read('a', 1, 1, NULL)",
        "aimq.wait(NULL)",
        "aimq.wait('{a,NULL}')",
    ] {
        assert_eq!(
            failure(&mut client, &format!("SELECT {call}")).code().code(),
            "22004",
            "{call}"
        );
    }
    assert_eq!(failure(&mut client, "SELECT aimq.wait('{}')").code().code(), "42602");
    assert_eq!(failure(&mut client, "SELECT aimq.read('a', 1, 0)").code().code(), "22023");
    let error = failure(&mut client, "SELECT aimq.read('nowhere', 1)");
    assert_eq!(error.code().code(), "42P01");
    assert!(error.hint().is_some_and(|hint| hint.contains("aimq.create_queue('nowhere')")));
    assert_eq!(failure(&mut client, "SELECT aimq.wait('{nowhere}')").code().code(), "42P01");
}

#[test]
fn a_transaction_sees_what_it_has_enqueued_itself() {
    let (_database, mut client, _listener) = started(&["a"]);
    run(&mut client, "BEGIN; SELECT pgmq.send('a', '{}')");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM aimq.read('a', 1)"), 1);
    run(&mut client, "ROLLBACK");
    assert_eq!(waiters(&mut client), 0);
}

#[test]
fn a_queue_that_is_not_realtime_is_polled_and_that_is_said_once() {
    let (database, mut client, _listener) = started(&["a"]);
    run(&mut client, "SELECT pgmq.create('plain')");
    let (mut session, heard) = database.connect_hearing();
    let sleeps = pid(&mut session);
    let thread = std::thread::spawn(move || {
        for _ in 0..2 {
            let sql = "SELECT count(*) FROM aimq.read('plain', 60, 1, '60 s')";
            assert_eq!(value::<i64>(&mut session, sql), 1);
        }
    });
    for _ in 0..2 {
        wait_until("it to sleep", || {
            boolean(
                &mut client,
                &format!(
                    "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = {sleeps} AND wait_event_type = 'Extension'"
                ),
            )
        });
        run(&mut client, "SELECT pgmq.send('plain', '{}')");
        wait_until("it to be read", || {
            value::<i64>(&mut client, "SELECT count(*) FROM pgmq.q_plain WHERE read_ct = 0") == 0
        });
    }
    thread.join().expect("a session");
    let notices = heard.notices();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].hint().is_some_and(|hint| hint.contains("aimq.enable_realtime('plain')")));
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

/// As many are called as there are messages, and few more.
#[test]
fn no_more_are_called_than_there_are_messages() {
    const MESSAGES: i64 = 50;
    let (database, mut client, _listener) = started(&["a"]);
    let sql = "WITH m AS (SELECT msg_id FROM aimq.read('a', 60, 1, '60 s'))
               SELECT msg_id FROM m WHERE pgmq.archive('a', msg_id)";
    let mut blocked: Vec<_> = (0..10).map(|_| block(&database, sql)).collect();
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
    // One may come by chance, and not be called.
    assert!((MESSAGES / 2..=MESSAGES + 5).contains(&calls), "{calls} calls of {MESSAGES}");
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

/// Not even if it waits within a block that catches errors, or other things are done in its transaction.
#[test]
fn it_waits_within_other_code() {
    let (database, mut client, _listener) = started(&["a", "b"]);
    run(
        &mut client,
        "CREATE FUNCTION wrapped() RETURNS SETOF bigint LANGUAGE plpgsql AS $$
         BEGIN
             INSERT INTO noted VALUES (1);
             BEGIN
                 RETURN QUERY SELECT msg_id FROM aimq.read('a', 60, 1, '60 s');
             EXCEPTION WHEN query_canceled THEN
                 RETURN QUERY SELECT -1::bigint;
             END;
         END $$;
         CREATE TABLE noted (n int)",
    );
    let blocked = block(&database, "SELECT * FROM wrapped()");
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(blocked.read(), [id]);
    let cancelled = block(&database, "SELECT * FROM wrapped()");
    run(&mut client, &format!("SELECT pg_cancel_backend({})", cancelled.pid));
    assert_eq!(cancelled.read(), [-1]);
    assert_clean(&mut client);
    // A call within a call: by a trigger that fires when the outer one reads.
    run(
        &mut client,
        "CREATE FUNCTION nested() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM aimq.read('b', 1, 1, '60 s'); RETURN NEW; END $$;
         CREATE TRIGGER nested BEFORE UPDATE ON pgmq.q_a FOR EACH ROW EXECUTE FUNCTION nested()",
    );
    let outer = block(&database, READ);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(outer.end(), Err("55000".to_owned()));
    assert_clean(&mut client);
}

/// A stand-in for an update of pgmq, which drops the type that pgmq.read returns, as the one from 1.9 to 1.10 does.
#[test]
fn an_update_of_pgmq_leaves_aimq_alone() {
    let (_database, mut client, _listener) = started(&["a"]);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    run(&mut client, "ALTER EXTENSION pgmq UPDATE TO '1.99.0'");
    assert!(boolean(&mut client, "SELECT realtime FROM aimq.queues"));
    // What it returns there has no last_read_at.
    assert_eq!(value::<i64>(&mut client, "SELECT msg_id FROM aimq.read('a', 1)"), 7);
    assert!(boolean(&mut client, "SELECT last_read_at IS NULL FROM aimq.read('a', 1)"));
}

/// Whoever may not read a queue can't keep others from being called.
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

/// Whoever may call `pgmq.read` may block, and nobody else.
#[test]
fn privileges_are_those_of_pgmq_read() {
    let (database, mut client, _listener) = started(&["a"]);
    let role = database.role("worker");
    let mut worker = database.connect_as(&role);
    assert_eq!(failure(&mut worker, "SELECT aimq.read('a', 1)").code().code(), "42501");
    run(
        &mut client,
        &format!(
            "GRANT USAGE ON SCHEMA pgmq TO {role}; GRANT SELECT, UPDATE ON pgmq.q_a TO {role}"
        ),
    );
    assert_eq!(value::<i64>(&mut worker, "SELECT count(*) FROM pgmq.read('a', 1, 1)"), 0);
    let process = pid(&mut worker);
    let thread = std::thread::spawn(move || value::<i64>(&mut worker, READ));
    wait_until("it to block", || waits(&mut client, process));
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(thread.join().expect("a session"), id);
}
