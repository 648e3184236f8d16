//! The blocking calls as statements: `aimq.read`, `aimq.wait`, and the procedures. On the same servers as waiting.rs.

use std::time::{Duration, Instant};

use aimq_client_tests::blocking::*;
use aimq_client_tests::*;
use postgres::{Client, SimpleQueryMessage};

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

/// What the slots and places in shared memory hold: as the views, for roles that may read the queues' names.
#[test]
fn who_may_not_know_the_queues_is_told_of_none() {
    let (database, mut client, _listener) = started(&["a"]);
    let _blocked = block(&database, READ);
    let role = database.role("user");
    let mut user = database.connect_as(&role);
    let told = |user: &mut Client| {
        let count = |from: &str| format!("(SELECT count(*) FROM {from})");
        let all = ["aimq._queue_counters()", "aimq._waiters()", "aimq.waiters"].map(count);
        value::<String>(user, &format!("SELECT concat_ws(' ', {})", all.join(", ")))
    };
    let grants = [
        "GRANT SELECT ON pgmq.q_a TO",
        "GRANT USAGE ON SCHEMA pgmq TO",
        "REVOKE USAGE ON SCHEMA pgmq FROM",
        "GRANT SELECT ON pgmq.meta TO",
    ];
    for grant in grants {
        assert_eq!(told(&mut user), "0 0 0", "before {grant}");
        // Postgres' own word, as ever; and which notifiers there are is no secret.
        assert_eq!(failure(&mut user, "SELECT * FROM aimq.stats").code().code(), "42501");
        assert_eq!(notifier_state(&mut user), "running");
        run(&mut client, &format!("{grant} {role}"));
    }
    assert_eq!(told(&mut user), "0 0 0", "without USAGE");
    run(&mut client, &format!("GRANT USAGE ON SCHEMA pgmq TO {role}"));
    assert_eq!(told(&mut user), "1 1 1");
    assert_eq!(value::<i64>(&mut user, "SELECT count(*) FROM aimq.stats"), 1);
    // A superuser may. When he acts as a role that may not, he does not.
    run(&mut client, &format!("REVOKE ALL ON pgmq.meta FROM {role}"));
    assert_eq!(told(&mut client), "1 1 1");
    run(&mut client, &format!("SET ROLE {role}"));
    assert_eq!(told(&mut client), "0 0 0");
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

/// What nobody is called for is found at the end.
#[test]
fn it_looks_once_more_when_its_time_is_over() {
    let (database, mut client, _listener) = started(&["a"]);
    run(&mut client, "SET aimq.enabled = off");
    for sql in [
        "SELECT msg_id FROM aimq.read('a', 60, 1, '300 ms')",
        "SELECT cardinality(aimq.wait('{a}', '300 ms'))::bigint",
    ] {
        let blocked = block(&database, sql);
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        assert_eq!(blocked.read(), [1], "{sql}");
        run(&mut client, "TRUNCATE pgmq.q_a RESTART IDENTITY");
    }
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

/// A message that somebody is just reading is none that can be read: who then reads by himself would find nothing, and
/// call again and again.
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
        assert_eq!(error.code().code(), "25001", "{call}");
        assert!(error.hint().is_some_and(|hint| hint.contains("autocommit")), "{call}");
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
fn stand_in_an_update_of_pgmq_leaves_aimq_alone() {
    let (_database, mut client, _listener) = started(&["a"]);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    run(&mut client, "ALTER EXTENSION pgmq UPDATE TO '1.99.0'");
    assert!(boolean(&mut client, "SELECT realtime FROM aimq.queues"));
    // What it returns there has no last_read_at.
    assert_eq!(value::<i64>(&mut client, "SELECT msg_id FROM aimq.read('a', 1)"), 7);
    assert!(boolean(&mut client, "SELECT last_read_at IS NULL FROM aimq.read('a', 1)"));
}

/// A role that may call `pgmq.read` may block, and no other may.
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
