//! Where there are not enough background worker slots for a notifier and a watcher in each database, the notifier does
//! the watcher's work. Each test has a server of its own. Of its slots, one is for Postgres' own launcher of logical
//! replication, and one for ours.

use std::time::{Duration, Instant};

use aimq_client_tests::blocking::*;
use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use postgres::Client;

/// How soon what is due is announced, or read. On an idle machine some milliseconds.
const SOON: Duration = Duration::from_secs(3);

fn states(client: &mut Client) -> String {
    value(
        client,
        "SELECT concat_ws(', ', state, watcher_state) FROM aimq.notifiers WHERE database = current_database()",
    )
}

#[track_caller]
fn wait_for_states(client: &mut Client, states_wanted: &str) {
    wait_until(states_wanted, || states(client) == states_wanted);
}

/// What a watcher is there for, in the database of a session: sessions that block are called, and times are kept.
#[track_caller]
fn assert_served(cluster: &Cluster, database: &str) {
    let connect = || cluster.connect(database).expect("connect");
    let (mut client, mut listener) = (connect(), Listener::over(connect(), CHANNEL));
    let read = "SELECT msg_id FROM aimq.read('a', 600, 1, '60 s')";
    for millis in [0, 300] {
        let blocked = block_over(connect(), &mut client, read);
        let due = Instant::now() + Duration::from_millis(millis);
        let send =
            format!("SELECT pgmq.send('a', '{{}}', clock_timestamp() + interval '{millis} ms')");
        let id: i64 = value(&mut client, &send);
        assert_eq!(
            blocked.ends_by(due + SOON),
            Some(Ok(vec![id])),
            "{database}: after {millis} ms"
        );
        let late = Instant::now().duration_since(due);
        println!("{database}, {millis} ms: returned {late:?} after it was due");
        listener.wait_for_count("a", 1);
    }
    // Nobody blocks: a delayed message, and one whose worker has died.
    for sql in [
        "SELECT pgmq.send('a', '{}', 1)",
        "SELECT pgmq.send('a', '{}'); SELECT pgmq.read('a', 1, 1)",
    ] {
        let begun = Instant::now();
        run(&mut client, sql);
        wait_until("a message that can be read", || {
            listener.wait_for_count("a", 1);
            value::<i64>(&mut client, "SELECT count(*) FROM pgmq.read('a', 600, 9)") == 1
        });
        assert!(begun.elapsed() < SOON + Duration::from_secs(1), "{sql}: {:?}", begun.elapsed());
    }
}

#[test]
fn crowded_notifier_does_the_watchers_work() {
    let (_alone, cluster) = server(&["max_worker_processes=3"]);
    let mut client = connect(&cluster);
    wait_for_states(&mut client, "running, no slot");
    assert_served(&cluster, "postgres");
    assert_eq!(states(&mut client), "running, no slot");
    let pids = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'aimq %'";
    assert_eq!(value::<i64>(&mut client, pids), 2, "the launcher and the notifier");
    // What cannot be changed without a restart is told in the log, once.
    let log = log_of(&cluster);
    assert_eq!(log.matches("aimq found no background worker slot for a watcher").count(), 1);
}

/// A notifier is worth more than a watcher.
#[test]
fn crowded_notifier_gets_the_slot_of_a_watcher_which_comes_back() {
    let (_alone, cluster) = server(&["max_worker_processes=4"]);
    let mut client = connect(&cluster);
    wait_for_states(&mut client, "running, running");
    // Somebody blocks meanwhile, and is not forgotten.
    let read = "SELECT msg_id FROM aimq.read('a', 600, 1, '60 s')";
    let blocked = block_over(connect(&cluster), &mut client, read);
    run(&mut client, "CREATE DATABASE other");
    let mut other = cluster.connect("other").expect("connect");
    run(&mut other, "CREATE EXTENSION aimq CASCADE");
    run(&mut other, "SELECT aimq.create_queue('a')");
    wait_for_states(&mut other, "running, no slot");
    wait_for_states(&mut client, "running, no slot");
    let id: i64 = value(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(blocked.ends_by(Instant::now() + SOON), Some(Ok(vec![id])));
    for database in ["postgres", "other"] {
        assert_served(&cluster, database);
    }
    assert_eq!(states(&mut client), "running, no slot");
    assert_eq!(states(&mut other), "running, no slot");
    run(&mut other, "SELECT aimq.disable_realtime('a')");
    wait_for_states(&mut client, "running, running");
    assert_served(&cluster, "postgres");
}

/// While it waits in NOTIFY's line behind a stranger that hangs, the sessions that block are still called, and hear of
/// delayed messages.
#[test]
fn crowded_notifier_in_line_keeps_no_reader_waiting() {
    let (_alone, cluster) = server(&[
        "max_worker_processes=3",
        "synchronous_standby_names=nobody",
        "synchronous_commit=local",
    ]);
    let mut client = connect(&cluster);
    run(&mut client, "SELECT aimq.create_queue('b')");
    wait_for_states(&mut client, "running, no slot");
    let mut listener = listen(&cluster);
    let mut stranger = connect(&cluster);
    let hangs = pid(&mut stranger);
    let hang = std::thread::spawn(move || {
        run(&mut stranger, "SET synchronous_commit = on; CREATE TABLE t (); NOTIFY others");
    });
    let is = |who: &str, event: &str| {
        format!(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE {who} AND '{event}' IN (wait_event, wait_event_type))"
        )
    };
    wait_until("the stranger to hang", || {
        boolean(&mut client, &is(&format!("pid = {hangs}"), "SyncRep"))
    });
    run(&mut client, "SELECT pgmq.send('b', '{}')");
    wait_until("the notifier to wait", || {
        boolean(&mut client, &is("backend_type = 'aimq notifier'", "Lock"))
    });
    let read = "SELECT msg_id FROM aimq.read('a', 600, 1, '60 s')";
    for round in 0..6 {
        let blocked = block_over(connect(&cluster), &mut client, read);
        let millis = (round % 2) * 300;
        let due = Instant::now() + Duration::from_millis(millis);
        let send = if millis == 0 {
            "SELECT pgmq.send('a', '{}')".to_owned()
        } else {
            format!("SELECT pgmq.send('a', '{{}}', clock_timestamp() + interval '{millis} ms')")
        };
        let id: i64 = value(&mut client, &send);
        assert_eq!(blocked.ends_by(due + SOON), Some(Ok(vec![id])), "after {millis} ms");
        let late = Instant::now().duration_since(due);
        println!("in line, {millis} ms: returned {late:?} after it was due");
    }
    run(&mut client, &format!("SELECT pg_cancel_backend({hangs})"));
    hang.join().expect("the stranger");
    listener.wait_for_count("b", 1);
}
