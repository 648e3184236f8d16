//! What concerns the whole server, its NOTIFY queue and the lock of the sessions that notify, is in a binary of
//! its own: no other tests run then, and these take turns.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aimq_client_tests::programs::memory_of;
use aimq_client_tests::*;
use postgres::Client;

fn alone() -> MutexGuard<'static, ()> {
    static SERVER: Mutex<()> = Mutex::new(());
    SERVER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, commits that don't say otherwise wait for a standby that does not exist.
struct Standby<'a>(&'a Database);

impl<'a> Standby<'a> {
    fn missing(database: &'a Database) -> Self {
        Self::name(database, "nobody");
        Self(database)
    }

    fn name(database: &Database, name: &str) {
        let mut client = database.connect();
        run(&mut client, &format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"));
        run(&mut client, "SELECT pg_reload_conf()");
        wait_until("the setting to arrive", || {
            value::<String>(&mut client, "SELECT current_setting('synchronous_standby_names')")
                == name
        });
    }
}

impl Drop for Standby<'_> {
    fn drop(&mut self) {
        Self::name(self.0, "");
    }
}

/// Transactions that notify commit one at a time. Here one hangs in its commit, waiting for a standby
/// that does not exist, and keeps the lock.
#[test]
fn a_lock_timeout_does_not_fail_an_enqueue_that_waits_for_another_to_commit() {
    let _alone = alone();
    let database = Database::new();
    let mut client = database.connect();
    run(&mut client, "SELECT aimq.create_queue('a')");
    run(&mut client, "SET synchronous_commit = off");
    let nobody = Standby::missing(&database);
    let enqueue = |lock_timeout: &str, commit: &str| {
        let mut producer = database.connect();
        run(&mut producer, &format!("SET synchronous_commit = {commit}"));
        run(&mut producer, &format!("SET lock_timeout = {lock_timeout}"));
        let process = pid(&mut producer);
        let thread = std::thread::spawn(move || {
            run(&mut producer, "SELECT pgmq.send('a', '{}')");
            // It was suspended for that commit only.
            value::<String>(&mut producer, "SELECT current_setting('lock_timeout')")
        });
        (process, thread)
    };
    let (hanging, first) = enqueue("0", "on");
    wait_until("the first to hang in its commit", || {
        client
            .query_one("SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'", &[&hanging])
            .expect("query")
            .get(0)
    });
    let (waiting, second) = enqueue("20", "off");
    wait_until_blocked(&database, waiting);
    wait_until("ten times the lock_timeout to pass", || {
        client
            .query_one("SELECT clock_timestamp() - query_start > '200 ms' FROM pg_stat_activity WHERE pid = $1", &[&waiting])
            .expect("query")
            .get(0)
    });
    drop(nobody);
    assert_eq!(first.join().expect("the first enqueue"), "0");
    assert_eq!(second.join().expect("the second enqueue"), "20ms");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM pgmq.q_a"), 2);
}

/// A FATAL while the transaction is being prepared.
#[test]
fn a_session_that_is_terminated_while_it_prepares_goes_cleanly() {
    let _alone = alone();
    let database = Database::new();
    let mut client = database.connect();
    run(
        &mut client,
        "SELECT aimq.create_queue('a');
         CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS
           'BEGIN RETURN CASE WHEN pg_terminate_backend(pg_backend_pid()) THEN NULL::pgmq.q_a END; END';
         CREATE CONSTRAINT TRIGGER die AFTER INSERT ON pgmq.q_a DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION die()",
    );
    let mut victim = database.connect();
    let process = pid(&mut victim);
    run(&mut victim, "BEGIN; SELECT pgmq.send('a', '{}')");
    // The signal is served when our WARNING is sent, at the latest.
    victim.batch_execute("PREPARE TRANSACTION 'never'").expect_err("terminated");
    wait_until("the session to be gone", || {
        client
            .query_one("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1", &[&process])
            .expect("query")
            .get(0)
    });
    let left = client
        .query_one("SELECT count(*) FROM pg_locks WHERE pid = $1", &[&process])
        .expect("query");
    assert_eq!(left.get::<_, i64>(0), 0, "locks are left");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM pg_prepared_xacts"), 0);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM pgmq.q_a"), 0);
    // The server has not been restarted by a crash: this session is still the same.
    run(&mut client, "SELECT 1");
}

/// From PostgreSQL 17 on the size of the NOTIFY queue can be set, and `make test` sets the smallest:
/// before, it takes 8 GB to fill.
#[test]
fn from_17_enqueues_go_on_when_the_notify_queue_is_nearly_full() {
    let _alone = alone();
    let database = Database::new();
    let (mut producer, heard) = database.connect_hearing();
    producer.batch_execute("SELECT aimq.create_queue('a')").expect("queue");

    // A listener that is idle in a transaction keeps the queue from being emptied.
    let mut stuck = database.connect();
    run(&mut stuck, "LISTEN x");
    run(&mut stuck, "BEGIN; SELECT 1");
    let mut filler = database.connect();
    let mut fill_to = |usage: f64| {
        wait_until("the NOTIFY queue to fill", || {
            run(&mut filler, "SELECT pg_notify('x', repeat('x', 7000))");
            value::<f64>(&mut filler, "SELECT pg_notification_queue_usage()") >= usage
        });
    };
    fill_to(0.6);
    producer.batch_execute("SELECT pgmq.send('a', '{}')").expect("send");
    assert!(heard.warnings().is_empty(), "there is room");
    // The rest is left for sessions that notify themselves.
    fill_to(0.75);

    let mut other = database.connect();
    for _ in 0..300 {
        producer.batch_execute("SELECT pgmq.send('a', '{}')").expect("the enqueue goes on");
        other.batch_execute("SELECT pgmq.send('a', '{}')").expect("the enqueue goes on");
    }
    let warnings = heard.warnings();
    assert_eq!(warnings.len(), 1, "rate-limited: {warnings:?}");
    assert_eq!(warnings[0].code().code(), "53400");
    assert!(warnings[0].hint().is_some_and(|hint| hint.contains("pg_stat_activity")));
    assert_eq!(value::<i64>(&mut producer, "SELECT count(*) FROM pgmq.q_a"), 601);

    // Once the listener goes on, so do the notifications.
    run(&mut stuck, "COMMIT");
    drop(stuck);
    let mut listener = database.listen(CHANNEL);
    wait_until("the NOTIFY queue to be emptied", || {
        value::<f64>(&mut filler, "SELECT pg_notification_queue_usage()") < 0.1
    });
    producer.batch_execute("SELECT pgmq.send('a', '{}')").expect("send");
    assert_eq!(listener.counts(), one([("a", 1)]));
}

/// Limits the memory of a session, to so many bytes more than it has; `None` for no limit. As the server's user, who
/// alone may do that.
fn limit_memory(by: &mut Client, pid: i32, more: Option<u64>) {
    let limit = match more {
        None => "unlimited".to_owned(),
        Some(more) => (memory_of(pid, "VmSize") * 1024 + more).to_string(),
    };
    let program = format!("cat && prlimit --pid={pid} --as={limit}:");
    run(by, &format!("COPY (SELECT 1) TO PROGRAM '{program}'"));
}

/// Rust ends a process in which an allocation fails, and Postgres takes that for a crash of the server.
///
/// A route that takes as much memory as nothing else in the session can only be made by hand.
#[test]
fn memory_that_runs_out_fails_a_statement_or_a_commit_and_not_the_server() {
    const MB: u64 = 1 << 20;
    const EVENT: u64 = 64 * MB;
    let _alone = alone();
    let database = Database::new();
    let mut client = database.connect();
    let mut other = database.connect();
    let pid = pid(&mut client);
    let event = "e".repeat(EVENT as usize);
    run(&mut client, "SET log_min_error_statement = panic; CREATE TABLE pgmq.t (vt timestamptz)");
    run(
        &mut client,
        &format!(
            "CREATE TRIGGER t BEFORE INSERT ON pgmq.t FOR EACH ROW
             EXECUTE FUNCTION aimq.realtime_trigger('aimq:jobs', '{event}', 'a')"
        ),
    );
    drop(event);
    // From here on the session knows the trigger and its arguments.
    run(
        &mut client,
        "SET aimq.enabled = off; INSERT INTO pgmq.t VALUES (now()); SET aimq.enabled = on",
    );

    // Postgres makes a copy of the arguments for the statement, and there is room for that copy, but for no other.
    limit_memory(&mut other, pid, Some(EVENT + EVENT / 2));
    for _ in 0..3 {
        let error = failure(&mut client, "INSERT INTO pgmq.t VALUES (now())");
        assert_eq!(error.code().code(), "53200", "{error:?}");
        assert_eq!(error.message(), "aimq is out of memory");
        assert!(error.detail().is_some() && error.hint().is_some(), "{error:?}");
    }
    // So it is with a savepoint, and what was there before is there after it.
    run(&mut client, "BEGIN; SAVEPOINT a");
    assert_eq!(failure(&mut client, "INSERT INTO pgmq.t VALUES (now())").code().code(), "53200");
    run(&mut client, "ROLLBACK TO a");
    limit_memory(&mut other, pid, None);
    run(&mut client, "INSERT INTO pgmq.t VALUES (now())");

    // The row is noted, and what is to be said of it takes as much again.
    limit_memory(&mut other, pid, Some(EVENT / 2));
    let error = failure(&mut client, "COMMIT");
    assert_eq!((error.code().code(), error.message()), ("53200", "aimq is out of memory"));
    limit_memory(&mut other, pid, None);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM pgmq.t"), 1);

    let mut listener = database.listen(CHANNEL);
    run(&mut client, "INSERT INTO pgmq.t VALUES (now())");
    assert_eq!(listener.raw(), [""], "what can't be parsed means: check all your queues");
    // The server has not been restarted by a crash: this session is still the same.
    run(&mut other, "SELECT 1");
}
