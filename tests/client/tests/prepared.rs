//! Prepared transactions: the session that commits or rolls one back has no batch. So each queue that it has touched is
//! looked at, and others are not. Each test has a server of its own: a name is one for the whole server.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use aimq_client_tests::blocking::*;
use aimq_client_tests::servers::*;
use aimq_client_tests::unseen::heard_by;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use postgres::Client;
use postgres::error::DbError;
use std::time::{Duration, Instant};

const PREPARES: &str = "max_prepared_transactions=10";

/// How often one of ours is prepared and ends beside others: about one in fifty was lost.
const ROUNDS: usize = 300;

/// Queues with messages left in them, besides `a`.
const QUEUES: usize = 40;

/// Of 40 queues in 32 buckets, so many share one with another: a queue that shares one is looked at as well.
const SHARE_A_BUCKET: usize = 6;

/// The watcher rests for 500 ms at most after it has looked at everything.
const LONGER_THAN_A_REST: Duration = Duration::from_millis(700);

fn with_backlog(cluster: &Cluster) -> (Client, Listener) {
    let mut client = connect(cluster);
    run(
        &mut client,
        &format!("SELECT aimq.create_queue('q' || n) FROM generate_series(1, {QUEUES}) n"),
    );
    run(
        &mut client,
        &format!(
            "SELECT pgmq.send('q' || n, '{{}}') FROM generate_series(1, {QUEUES}) n, generate_series(1, 3)"
        ),
    );
    let mut listener = listen(cluster);
    // The watcher may have news to attend to when it has rested, which wakes it: then it looks at the new queues.
    let mut before = String::new();
    wait_until("the watcher to have no timer", || {
        wait_until_settled(&mut client, QUEUES + 1);
        let now = value(&mut client, "SELECT watcher_wake_ups::text FROM aimq.notifiers");
        let is_quiet = std::mem::replace(&mut before, now) == before;
        std::thread::sleep(LONGER_THAN_A_REST);
        is_quiet
    });
    named_until_quiet(&mut client, &mut listener);
    (client, listener)
}

fn prepare(cluster: &Cluster, queue: &str, gid: &str) {
    let mut producer = connect(cluster);
    run(
        &mut producer,
        &format!("BEGIN; SELECT pgmq.read('{queue}', 600, 1); SELECT pgmq.send('{queue}', '{{}}')"),
    );
    run(&mut producer, &format!("PREPARE TRANSACTION '{gid}'"));
}

/// The queues that are named until one of those is that `last` enqueues to.
fn named_until(listener: &mut Listener, last: &str) -> BTreeSet<String> {
    let deadline = Instant::now() + DEADLINE;
    let mut named = BTreeSet::new();
    while !named.contains(last) {
        let heard = heard_by(listener.client(), deadline).expect("a notification");
        named.extend(heard.queues.expect("queues are named").into_keys());
    }
    named.remove(last);
    named
}

/// The queues that are named from now on until nothing more is to be said: a message of `a` is a fence for what the
/// watcher has found by then.
fn named_until_quiet(client: &mut Client, listener: &mut Listener) -> BTreeSet<String> {
    wait_until_settled(client, QUEUES + 1);
    run(client, "SELECT pgmq.send('a', '{}')");
    let named = named_until(listener, "a");
    run(client, "SELECT pgmq.purge_queue('a')");
    wait_until_settled(client, QUEUES + 1);
    named
}

#[test]
fn prepared_transactions_have_their_own_queues_looked_at() {
    let (_alone, cluster) = server(&[PREPARES]);
    let (mut client, mut listener) = with_backlog(&cluster);
    prepare(&cluster, "q7", "one");
    prepare(&cluster, "q23", "two");
    let nothing = named_until_quiet(&mut client, &mut listener);
    assert_eq!(nothing, BTreeSet::new(), "announced before its commit");
    for (end, gid, queue) in [("COMMIT", "one", "q7"), ("ROLLBACK", "two", "q23")] {
        run(&mut connect(&cluster), &format!("{end} PREPARED '{gid}'"));
        // Without it, this ends with the deadline.
        let mut named = named_until(&mut listener, queue);
        named.extend(named_until_quiet(&mut client, &mut listener));
        println!("{end} PREPARED for {queue}: besides {named:?}");
        // The other one is still prepared when the first ends, so its queue may be looked at too.
        assert!(named.len() <= SHARE_A_BUCKET, "{end} for {queue}: {named:?}");
    }
    // Once nothing is prepared, an end has nothing to say of those.
    prepare(&cluster, "q9", "three");
    run(&mut client, "COMMIT PREPARED 'three'");
    let mut named = named_until(&mut listener, "q9");
    named.extend(named_until_quiet(&mut client, &mut listener));
    println!("once more: besides {named:?}");
    assert!(named.len() < SHARE_A_BUCKET / 2, "{named:?}");
    assert!(!named.contains("q7") && !named.contains("q23"), "{named:?}");
}

/// A session that blocks is called too, and at once.
#[test]
fn prepared_transactions_call_who_blocks() {
    let (_alone, cluster) = server(&[PREPARES]);
    let mut client = connect(&cluster);
    let read = "SELECT msg_id FROM aimq.read('a', 600, 1, '60 s')";
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    for end in ["ROLLBACK", "COMMIT"] {
        prepare(&cluster, "a", end);
        let blocked = block_over(connect(&cluster), &mut client, read);
        run(&mut client, &format!("{end} PREPARED '{end}'"));
        let read = blocked.ends_by(Instant::now() + Duration::from_secs(5));
        assert_eq!(read.map(|read| read.expect("a read").len()), Some(1), "{end}");
        wait_until_settled(&mut client, 1);
    }
}

/// After a restart, nobody has told which queues it has something for.
#[test]
fn prepared_transactions_survive_a_restart() {
    for end in ["COMMIT", "ROLLBACK"] {
        let (_alone, cluster) = server(&[PREPARES]);
        let mut client = connect(&cluster);
        run(&mut client, "SELECT aimq.create_queue('b')");
        run(&mut client, "SET aimq.enabled = off; SELECT pgmq.send('a', '{}')");
        drop(client);
        // One that ends, and one that stays.
        prepare(&cluster, "a", "ends");
        prepare(&cluster, "b", "stays");
        cluster.shut_down("fast").expect("shutdown");
        cluster.run().expect("a start");
        let mut client = connect(&cluster);
        wait_until_settled(&mut client, 2);
        let mut listener = listen(&cluster);
        wait_until_settled(&mut client, 2);
        run(&mut client, &format!("{end} PREPARED 'ends'"));
        let count: i64 = value(&mut client, "SELECT count(*) FROM pgmq.q_a WHERE vt <= now()");
        assert_eq!(count, 1, "{end}");
        listener.wait_for_count("a", 1);
        run(&mut client, "ROLLBACK PREPARED 'stays'");
    }
}

/// The watcher asks which there are, and is told meanwhile of one that has just been prepared: that one must not be forgotten
/// because the others have ended.
#[test]
fn prepared_transactions_beside_others_that_end_wake() {
    let (_alone, cluster) = server(&[PREPARES]);
    let mut client = connect(&cluster);
    run(&mut client, "SELECT aimq.create_queue('b')");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..2 {
            let (mut other, is_over) = (connect(&cluster), &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::SeqCst) {
                    run(&mut other, "BEGIN; SELECT pgmq.send('b', '{}', 3600)");
                    run(&mut other, &format!("PREPARE TRANSACTION 'other {number}'"));
                    run(&mut other, &format!("ROLLBACK PREPARED 'other {number}'"));
                    std::thread::sleep(Duration::from_millis(number)); // so that at times there is none
                }
            });
        }
        let mut listener = listen(&cluster);
        let mut lost = None;
        for round in 0..ROUNDS {
            run(&mut client, "BEGIN; SELECT pgmq.send('a', '{}')");
            run(&mut client, "PREPARE TRANSACTION 'own'");
            // Long enough for a look that finds nothing yet.
            std::thread::sleep(Duration::from_millis(5));
            run(&mut client, "COMMIT PREPARED 'own'");
            let deadline = Instant::now() + Duration::from_secs(5);
            let mut heard = || heard_by(listener.client(), deadline);
            while lost.is_none() {
                match heard() {
                    None => lost = Some(round),
                    Some(payload)
                        if payload.queues.as_ref().is_none_or(|it| it.contains_key("a")) =>
                    {
                        break;
                    }
                    Some(_) => {}
                }
            }
            run(listener.client(), "DELETE FROM pgmq.q_a");
            if lost.is_some() {
                break;
            }
        }
        is_over.store(true, Ordering::SeqCst);
        assert_eq!(lost, None, "nobody heard of the message of that round");
    });
}

#[test]
fn who_notifies_by_himself_may_prepare_where_a_notifier_runs() {
    let (_alone, cluster) = server(&[PREPARES]);
    let (mut client, heard) = connect_hearing(&cluster, "postgres");
    let mut listener = listen(&cluster);
    run(&mut client, "SET aimq.delivery = transaction");
    run(&mut client, "BEGIN; SELECT pgmq.send('a', '{}'); PREPARE TRANSACTION 'one'");
    run(&mut client, "COMMIT PREPARED 'one'");
    listener.wait_for_count("a", 1);
    assert_eq!(heard.warnings().len(), 0, "{:?}", heard.warnings());
}

/// There is no background worker slot, so no notifier can come: it is said to whom it concerns.
fn nobody_can_come(settings: &[&str]) {
    let _alone = alone();
    let cluster = bare(&[settings, &[PREPARES, "max_worker_processes=0"]].concat());
    let (mut client, heard) = connect_hearing(&cluster, "postgres");
    run(&mut client, "CREATE EXTENSION aimq CASCADE; SELECT aimq.create_queue('a')");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    assert_eq!(heard.warnings().len(), 0, "{:?}", heard.warnings());
    run(&mut client, "BEGIN; SELECT pgmq.send('a', '{}'); PREPARE TRANSACTION 'one'");
    run(&mut client, "COMMIT PREPARED 'one'");
    run(&mut client, "SELECT aimq.recheck('a')");
    let said: Vec<_> = heard
        .warnings()
        .into_iter()
        .map(|it| (it.code().code().to_owned(), it.detail().unwrap_or_default().to_owned()))
        .collect();
    assert_eq!(said.iter().map(|(code, _)| code.as_str()).collect::<Vec<_>>(), ["0A000", "55000"]);
    for (_, detail) in &said {
        assert!(detail.contains("no background worker slot"), "{detail}");
    }
    if settings.is_empty() {
        // With preload, PostgreSQL says that there are too many background workers.
        let found = "aimq found no background worker slot for its launcher";
        wait_until("the server to log it", || {
            run(&mut client, "SELECT pgmq.send('a', '{}')");
            log_of(&cluster).contains(found)
        });
    }
    run(
        &mut client,
        "SELECT pgmq.purge_queue('a'); SELECT aimq.read('a', 9, 1, max_wait => '30 ms')",
    );
    let polls = |notice: &DbError| notice.message().contains("polls");
    assert_eq!(heard.notices().iter().filter(|it| polls(it)).count(), 1, "{:?}", heard.notices());
    let hint = "SELECT hint FROM aimq.doctor() WHERE subject = 'notifier'";
    let hint: String = value(&mut client, hint);
    assert!(hint.starts_with("Run ALTER SYSTEM SET max_worker_processes = 8;"), "{hint}");
}

#[test]
fn without_a_worker_slot_it_is_said_that_nobody_will_be_woken() {
    nobody_can_come(&["shared_preload_libraries=aimq"]);
}

#[test]
fn from_17_without_a_worker_slot_it_is_said_without_preload_too() {
    nobody_can_come(&[]);
}
