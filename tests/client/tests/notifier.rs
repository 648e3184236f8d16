//! Delivery by the notifier, on a server that has aimq preloaded, and, from PostgreSQL 17 on, on one
//! that has not. `aimq.delivery` is `auto`.

use std::time::{Duration, Instant};

use aimq_client_tests::*;
use postgres::Client;

fn counter(client: &mut Client, name: &str) -> i64 {
    value(client, &format!("SELECT {name} FROM aimq.notifiers WHERE database = current_database()"))
}

#[test]
fn the_first_enable_starts_a_notifier_and_a_send_wakes() {
    let (_database, mut client, mut listener) = started(&["a"]);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.wait_for_count("a", 1), (1, 1));
    let own: i32 = pid(&mut client);
    assert_ne!(own, notifier_pid(&mut client));
    // It counts after it has sent.
    wait_until("the counters to be right", || {
        value::<String>(
            &mut client,
            "SELECT concat_ws(' ', notifications, transactions, messages, coalesced) FROM aimq.stats WHERE queue = 'a'",
        ) == "1 1 1 0"
    });
}

/// They all want an entry at the same moment, which only one at a time can take: when the others went without, this
/// failed about one time in ten.
#[test]
fn queues_of_several_databases_become_realtime_at_once() {
    let databases: Vec<_> = (0..4).map(|_| Database::new()).collect();
    let start = std::sync::Barrier::new(databases.len());
    std::thread::scope(|threads| {
        for database in &databases {
            threads.spawn(|| {
                let mut client = database.connect();
                run(&mut client, "BEGIN");
                run(&mut client, "SELECT aimq.create_queue('a')");
                start.wait();
                run(&mut client, "COMMIT");
                wait_until_settled(&mut client, 1);
            });
        }
    });
}

#[test]
fn the_notifier_is_to_be_seen_in_pg_stat_activity() {
    let (_database, mut client, _listener) = started(&["a"]);
    let pid = notifier_pid(&mut client);
    let event = if major() >= 17 { "AimqNotifierMain" } else { "Extension" };
    wait_until("it to sleep", || {
        let seen: String = value(
            &mut client,
            &format!(
                "SELECT concat_ws(',', backend_type, application_name, state, wait_event_type, wait_event)
                   FROM pg_stat_activity WHERE pid = {pid}"
            ),
        );
        seen == format!("aimq notifier,aimq notifier,idle,Extension,{event}")
    });
    let launchers: i64 = value(
        &mut client,
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'aimq launcher' AND datname IS NULL",
    );
    assert_eq!(launchers, 1);
}

#[test]
fn a_rolled_back_enqueue_wakes_nobody() {
    let (_database, mut client, mut listener) = started(&["a", "b"]);
    run(&mut client, "BEGIN; SELECT pgmq.send('a', '{}'); ROLLBACK");
    run(
        &mut client,
        "BEGIN; SELECT pgmq.send('b', '{}'); SAVEPOINT s; SELECT pgmq.send('a', '{}'); ROLLBACK TO s; COMMIT",
    );
    // The notifier takes all marks at once: what is not in here was not marked.
    let payload = listener.wait_for_one();
    assert_eq!(payload, r#"{"event":"job_enqueued","queues":{"b":{"count":1}}}"#);
}

/// The last check of a commit comes after its first callbacks, so nothing may be marked in these.
#[test]
fn what_fails_to_be_serialized_wakes_nobody() {
    let (database, mut client, mut listener) = started(&["a", "b"]);
    run(&mut client, "CREATE TABLE seats AS SELECT 1 AS seat");
    let mut other = database.connect();
    for session in [&mut client, &mut other] {
        run(session, "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT * FROM seats");
    }
    for session in [&mut client, &mut other] {
        run(session, "INSERT INTO seats VALUES (2)");
    }
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    run(&mut other, "COMMIT");
    assert_eq!(failure(&mut client, "COMMIT").code().code(), "40001");
    run(&mut client, "SELECT pgmq.send('b', '{}')");
    assert_eq!(listener.wait_for_one(), r#"{"event":"job_enqueued","queues":{"b":{"count":1}}}"#);
}

#[test]
fn a_burst_of_transactions_becomes_few_notifications_with_exact_counts() {
    let (database, mut client, mut listener) = started(&["a", "b"]);
    let begun = Instant::now();
    let producers: Vec<_> = (0..4)
        .map(|_| {
            let mut producer = database.connect();
            std::thread::spawn(move || {
                for _ in 0..250 {
                    run(&mut producer, "SELECT pgmq.send('a', '{}')");
                }
            })
        })
        .collect();
    producers.into_iter().for_each(|producer| producer.join().expect("a producer"));
    let (sum, notifications) = listener.wait_for_count("a", 1000);
    // The interval is 10 ms; one more at the beginning, and one at the end.
    let most = begun.elapsed().as_millis() / 10 + 2;
    assert_eq!(sum, 1000);
    assert!((notifications as u128) <= most, "{notifications} notifications, at most {most}");
    wait_until("the counters to be right", || {
        value::<String>(
            &mut client,
            "SELECT concat_ws(' ', transactions, messages, notifications + coalesced) FROM aimq.stats WHERE queue = 'a'",
        ) == "1000 1000 1000"
    });
    assert_eq!(
        value::<i64>(&mut client, "SELECT transactions FROM aimq.stats WHERE queue = 'b'"),
        0
    );
}

#[test]
fn one_transaction_with_many_queues_becomes_one_notification() {
    let (_database, mut client, mut listener) = started(&["a", "b", "c"]);
    run(
        &mut client,
        "BEGIN; SELECT pgmq.send('a', '{}') FROM generate_series(1, 3); SELECT pgmq.send_batch('c', ARRAY['{}', '{}']::jsonb[]); COMMIT",
    );
    let payload: serde_json::Value = serde_json::from_str(&listener.wait_for_one()).expect("JSON");
    assert_eq!(payload["queues"], serde_json::json!({"a": {"count": 3}, "c": {"count": 2}}));
}

#[test]
fn channels_do_not_wait_for_each_other() {
    let (database, mut client, mut listener) = started(&["a"]);
    run(&mut client, "SELECT aimq.create_queue('other', channel => 'other')");
    wait_until_settled(&mut client, 2);
    let mut other = database.listen("other");
    for _ in 0..20 {
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        run(&mut client, "SELECT pgmq.send('other', '{}')");
    }
    assert_eq!(listener.wait_for_count("a", 20).0, 20);
    assert_eq!(other.wait_for_count("other", 20).0, 20);
}

#[test]
fn a_delayed_message_wakes_when_it_can_be_read_and_not_before() {
    let (_database, mut client, mut listener) = started(&["a", "b"]);
    run(&mut client, "SELECT pgmq.send('a', '{}', clock_timestamp() + interval '300 ms')");
    run(&mut client, "SELECT pgmq.send('b', '{}')");
    let first = listener.wait_for_one();
    assert!(!first.contains("\"a\""), "too early: {first}");
    listener.wait_for_count("a", 1);
    let readable: bool = boolean(&mut client, "SELECT count(*) = 1 FROM pgmq.read('a', 10, 1)");
    assert!(readable, "woken before the message could be read");
}

#[test]
fn an_earlier_deadline_overtakes_a_later_one() {
    let (_database, mut client, mut listener) = started(&["a", "b"]);
    run(&mut client, "SELECT pgmq.send('a', '{}', 3600)");
    run(&mut client, "SELECT pgmq.send('a', '{}', clock_timestamp() + interval '2 s')");
    run(&mut client, "SELECT pgmq.send('b', '{}', clock_timestamp() + interval '200 ms')");
    let first = listener.wait_for_one();
    assert!(first.contains("\"b\""), "{first}");
    listener.wait_for_count("a", 1);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM pgmq.read('a', 10, 9)"), 1);
}

#[test]
fn a_session_can_choose_the_transaction() {
    let (database, mut client, mut listener) = started(&["a"]);
    let mut producer = database.connect();
    run(&mut producer, "SET aimq.delivery = transaction");
    run(&mut producer, "SELECT pgmq.send('a', '{}')");
    assert_eq!(listener.counts(), one([("a", 1)]));
    assert_eq!(value::<i64>(&mut client, "SELECT transactions FROM aimq.stats"), 0);
}

#[test]
fn delivery_by_the_notifier_alone_waits_for_it_to_start() {
    let database = Database::new();
    let mut listener = database.listen(CHANNEL);
    let mut client = database.connect();
    run(&mut client, "SET aimq.delivery = notifier");
    run(&mut client, "BEGIN; SELECT aimq.create_queue('a'); SELECT pgmq.send('a', '{}'); COMMIT");
    listener.wait_for_count("a", 1);
}

#[test]
fn an_enable_that_is_rolled_back_starts_nothing() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "BEGIN; SELECT aimq.create_queue('a'); ROLLBACK");
    run(&mut client, "BEGIN; SAVEPOINT s; SELECT aimq.create_queue('a'); ROLLBACK TO s; COMMIT");
    // Another database's notifier was asked for later, and is there.
    let (_other, _, _) = started(&["a"]);
    assert_eq!(notifier_state(&mut client), "absent");
    // The counterproof.
    run(&mut client, "BEGIN; SAVEPOINT s; SELECT aimq.create_queue('a'); RELEASE s; COMMIT");
    wait_until_running(&mut client);
}

#[test]
fn a_trigger_made_by_hand_counts_too() {
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT pgmq.create('a')");
    // As pg_restore does it. Where aimq is not preloaded, a session must have loaded it.
    run(&mut client, "SELECT * FROM aimq.stats");
    run(
        &mut client,
        "CREATE TRIGGER aimq_realtime BEFORE INSERT ON pgmq.q_a FOR EACH ROW
         EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', 'job_enqueued', 'a')",
    );
    if is_preloaded() {
        wait_until_running(&mut client);
    } else {
        // Else the first enqueue asks for the notifier, and notifies itself.
        let mut listener = database.listen(CHANNEL);
        let mut producer = database.connect();
        run(&mut producer, "SELECT pgmq.send('a', '{}')");
        listener.wait_for_count("a", 1);
        wait_until_running(&mut client);
    }
}

#[test]
fn the_notifier_leaves_with_the_last_realtime_queue_and_comes_back() {
    let (_database, mut client, mut listener) = started(&["a", "b"]);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
    run(&mut client, "SELECT aimq.disable_realtime('a')");
    run(&mut client, "SELECT pgmq.drop_queue('b')");
    wait_until("it to leave", || notifier_state(&mut client) == "none");
    run(&mut client, "SELECT aimq.enable_realtime('a')");
    wait_until_running(&mut client);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
}

#[test]
fn the_notifier_leaves_with_the_extension() {
    let (_database, mut client, _listener) = started(&["a"]);
    let pid = notifier_pid(&mut client);
    run(&mut client, "DROP EXTENSION aimq CASCADE");
    wait_until("it to leave", || {
        value::<i64>(
            &mut client,
            &format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"),
        ) == 0
    });
}

#[test]
fn a_prepared_transaction_wakes_when_another_session_commits_it() {
    let (database, mut client, mut listener) = started(&["a", "b"]);
    for (end, wakes) in [("ROLLBACK", false), ("COMMIT", true)] {
        let (mut producer, heard) = database.connect_hearing();
        run(&mut producer, "BEGIN; SELECT pgmq.send('a', '{}')");
        let gid = format!("{}_{end}", database.name);
        run(&mut producer, &format!("PREPARE TRANSACTION '{gid}'"));
        assert!(heard.warnings().is_empty(), "the wake-up is not left out");
        drop(producer);
        // A session that knows nothing of aimq.
        run(&mut database.connect(), &format!("{end} PREPARED '{gid}'"));
        if wakes {
            listener.wait_for_count("a", 1);
        } else {
            run(&mut client, "SELECT pgmq.send('b', '{}')");
            let payload = listener.wait_for_one();
            assert!(!payload.contains("\"a\""), "rolled back: {payload}");
            run(&mut client, "SELECT pgmq.purge_queue('b')");
        }
    }
}

#[test]
fn a_queue_that_is_made_in_a_prepared_transaction_wakes_too() {
    let database = Database::new();
    let mut listener = database.listen(CHANNEL);
    let mut client = database.connect();
    let gid = &database.name;
    run(&mut client, "BEGIN; SELECT aimq.create_queue('a'); SELECT pgmq.send('a', '{}')");
    run(&mut client, &format!("PREPARE TRANSACTION '{gid}'"));
    run(&mut client, &format!("COMMIT PREPARED '{gid}'"));
    listener.wait_for_count("a", 1);
}

#[test]
fn databases_are_dropped_renamed_and_copied_as_if_there_were_no_notifier() {
    let (database, mut client, listener) = started(&["a"]);
    drop(listener);
    let name = database.name.clone();
    notifier_pid(&mut client);
    drop(client);
    let other = Database::empty();
    let mut elsewhere = other.connect();
    let soon = |client: &mut Client, sql: &str| {
        // A session of ours may still be on its way out; Postgres itself waits for 5 s.
        let begun = Instant::now();
        run(client, sql);
        assert!(begun.elapsed() < Duration::from_secs(4), "{sql} took {:?}", begun.elapsed());
    };
    soon(&mut elsewhere, &format!("CREATE DATABASE {name}_copy TEMPLATE {name}"));
    wait_until_running(&mut database.connect());
    soon(&mut elsewhere, &format!("ALTER DATABASE {name} RENAME TO {name}_new"));
    soon(&mut elsewhere, &format!("ALTER DATABASE {name}_new RENAME TO {name}"));
    wait_until_running(&mut database.connect());
    soon(&mut elsewhere, &format!("DROP DATABASE {name}_copy"));
    soon(&mut elsewhere, &format!("DROP DATABASE {name}"));
    run(&mut elsewhere, &format!("CREATE DATABASE {name} TEMPLATE aimq_template"));
}

#[test]
fn a_copy_of_a_database_wakes_its_own_listeners() {
    let (database, client, listener) = started(&["a"]);
    drop((client, listener));
    let copy = Database::copy_of(&database);
    let mut listener = copy.listen(CHANNEL);
    let mut client = copy.connect();
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
    wait_until_running(&mut client);
}

#[test]
fn a_locked_queue_does_not_keep_the_others_waiting() {
    let (database, mut client, mut listener) = started(&["a", "b"]);
    let pid = notifier_pid(&mut client);
    let mut holder = database.connect();
    run(&mut holder, "BEGIN");
    run(&mut holder, "LOCK TABLE pgmq.q_a");
    run(&mut client, &format!("SELECT pg_terminate_backend({pid})"));
    wait_until("another process", || notifier_pid(&mut client) != pid);
    run(&mut client, "SELECT pgmq.send('b', '{}')");
    listener.wait_for_count("b", 1);
    run(&mut holder, "COMMIT");
}

#[test]
fn a_table_whose_owner_is_kept_from_its_rows_is_announced_all_the_same() {
    let (database, mut client, mut listener) = started(&["a"]);
    let pid = notifier_pid(&mut client);
    let owner = database.role("owner");
    run(
        &mut client,
        &format!(
            "GRANT USAGE ON SCHEMA pgmq TO {owner}; ALTER TABLE pgmq.q_a OWNER TO {owner};
             ALTER TABLE pgmq.q_a ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
        ),
    );
    run(&mut client, "SET aimq.enabled = off");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    run(&mut client, &format!("SELECT pg_terminate_backend({pid})"));
    listener.wait_for_count("a", 1);
}

#[test]
fn a_delayed_message_beside_a_visible_one_has_its_own_wake_up() {
    let (_database, mut client, mut listener) = started(&["a"]);
    let delayed = "SELECT pgmq.send('a', '{}', clock_timestamp() + interval '500 ms')";
    run(&mut client, &format!("BEGIN; SELECT pgmq.send('a', '{{}}'); {delayed}; COMMIT"));
    listener.wait_for_count("a", 1);
    run(&mut client, "SELECT pgmq.pop('a')");
    wait_until("a wake-up for a message that can be read", || {
        listener.wait_for_count("a", 1);
        value::<i64>(&mut client, "SELECT count(*) FROM pgmq.read('a', 10, 1)") == 1
    });
}

#[test]
fn a_trigger_that_nobody_can_be_told_of_does_not_silence_the_others() {
    let (_database, mut client, mut listener) = started(&["a"]);
    run(
        &mut client,
        "CREATE TABLE pgmq.mine (vt timestamptz); INSERT INTO pgmq.mine VALUES (now())",
    );
    for channel in ["", &"x".repeat(64)] {
        run(
            &mut client,
            &format!(
                "CREATE OR REPLACE TRIGGER mine BEFORE INSERT ON pgmq.mine FOR EACH ROW
                 EXECUTE FUNCTION aimq.realtime_trigger('{channel}', 'e', 'mine')"
            ),
        );
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        listener.wait_for_count("a", 1);
    }
    assert_eq!(counter(&mut client, "errors"), 0);
}

/// Nor does it take room, or is looked at, what is no queue's table: anybody may attach a trigger to his own.
#[test]
fn a_trigger_elsewhere_takes_no_room() {
    let (_database, mut client, mut listener) = started(&["a"]);
    run(
        &mut client,
        "CREATE TABLE mine (vt timestamptz); INSERT INTO mine VALUES (now());
         CREATE TRIGGER mine BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION aimq.realtime_trigger('c', 'e', 'mine')",
    );
    run(&mut client, "SELECT aimq.create_queue('b')");
    wait_until_settled(&mut client, 2);
    let queues = "SELECT queue FROM aimq._queue_counters() ORDER BY 1";
    assert_eq!(names(&mut client, queues), ["a", "b"]);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
}

#[test]
fn a_trigger_that_is_enabled_again_brings_the_notifier_back() {
    let (_database, mut client, mut listener) = started(&["a"]);
    run(&mut client, "ALTER TABLE pgmq.q_a DISABLE TRIGGER USER");
    wait_until("the notifier to leave", || notifier_state(&mut client) == "none");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    run(&mut client, "ALTER TABLE pgmq.q_a ENABLE TRIGGER USER");
    listener.wait_for_count("a", 1);
}

#[test]
fn the_owner_of_a_database_drops_it_by_force() {
    let (database, mut client, listener) = started(&["a"]);
    drop(listener);
    let owner = database.role("owner");
    let name = &database.name;
    run(&mut client, &format!("ALTER ROLE {owner} CREATEDB"));
    run(&mut client, &format!("ALTER DATABASE {name} OWNER TO {owner}"));
    let pid = notifier_pid(&mut client);
    run(&mut client, &format!("SELECT pg_terminate_backend({pid})"));
    wait_until("a notifier that knows the owner", || notifier_pid(&mut client) != pid);
    drop(client);
    let other = Database::empty();
    run(&mut other.connect_as(&owner), &format!("DROP DATABASE {name} WITH (FORCE)"));
    run(&mut other.connect(), &format!("CREATE DATABASE {name} TEMPLATE aimq_template"));
}

#[test]
fn reindexing_a_queue_does_not_keep_the_others_waiting() {
    let (database, mut client, mut listener) = started(&["a", "b"]);
    let pid = notifier_pid(&mut client);
    let mut holder = database.connect();
    run(&mut holder, "BEGIN");
    run(&mut holder, "REINDEX TABLE pgmq.q_a");
    run(&mut client, &format!("SELECT pg_terminate_backend({pid})"));
    wait_until("another process", || notifier_pid(&mut client) != pid);
    run(&mut client, "SELECT pgmq.send('b', '{}')");
    listener.wait_for_count("b", 1);
    run(&mut holder, "COMMIT");
}
