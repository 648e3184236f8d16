//! A session that wants a database for itself, or the processes gone, gets that at once. Where it is refused, because
//! somebody else is connected, nobody has to wait for it. Each test has a server of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aimq_client_tests::blocking::*;
use aimq_client_tests::servers::*;
use aimq_client_tests::unseen::heard_by;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use postgres::Client;

/// How much later than due something may be here, where others may be at work.
const SLACK: Duration = Duration::from_millis(1500);

/// What wants the database `tried` for itself, and what undoes it.
const COMMANDS: [(&str, &str); 3] = [
    ("CREATE DATABASE copied TEMPLATE tried", "DROP DATABASE copied"),
    ("ALTER DATABASE tried RENAME TO renamed", "ALTER DATABASE renamed RENAME TO tried"),
    ("DROP DATABASE tried", ""),
];

/// A database with the queues `a` and `b`, and both processes.
fn make_tried(cluster: &Cluster) -> Client {
    run(&mut connect(cluster), "CREATE DATABASE tried");
    let mut client = cluster.connect("tried").expect("connect");
    run(&mut client, "CREATE EXTENSION aimq CASCADE");
    run(&mut client, "SELECT aimq.create_queue('a'), aimq.create_queue('b')");
    wait_until_settled(&mut client, 2);
    client
}

fn processes(client: &mut Client) -> String {
    value(
        client,
        "SELECT concat(pid, ' ', watcher_pid) FROM aimq.notifiers WHERE database = current_database()",
    )
}

#[test]
fn giving_way_in_vain_keeps_nobody_waiting() {
    let (_alone, cluster) = server(&[]);
    let mut client = make_tried(&cluster);
    let mut listener = Listener::over(cluster.connect("tried").expect("connect"), CHANNEL);
    let before = processes(&mut client);
    let read = "SELECT msg_id FROM aimq.read('b', 600, 1, '60 s')";
    for (command, _) in COMMANDS {
        let mut watch = connect(&cluster);
        // Nobody gets in as long as it tries.
        let reader = cluster.connect("tried").expect("connect");
        let blocked = block_over(reader, &mut client, read);
        let mut elsewhere = connect(&cluster);
        let asks = pid(&mut elsewhere);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let asking = threads.spawn(|| {
                let error = failure(&mut elsewhere, command);
                is_over.store(true, Ordering::SeqCst);
                error
            });
            let sql = format!(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {asks} AND classid = 'pg_database'::regclass AND granted
                                   AND mode IN ('ShareLock', 'AccessExclusiveLock'))"
            );
            wait_until("it to have the database's lock", || boolean(&mut watch, &sql));
            let delay = Duration::from_secs(2);
            let sent = Instant::now();
            for queue in ["a", "b"] {
                run(
                    &mut client,
                    &format!(
                        "SELECT pgmq.send('{queue}', '{{}}', clock_timestamp() + interval '2 s')"
                    ),
                );
            }
            loop {
                let heard = heard_by(listener.client(), sent + delay + SLACK);
                let heard = heard.unwrap_or_else(|| panic!("{command}: not announced in time"));
                if heard.queues.expect("queues are named").contains_key("a") {
                    break;
                }
            }
            let announced = sent.elapsed();
            let read = blocked.ends_by(sent + delay + SLACK);
            println!("{command}: announced after {announced:?}, read after {:?}", sent.elapsed());
            assert!(announced >= delay, "{command}: announced after {announced:?}");
            assert_eq!(read.map(|read| read.expect("a read").len()), Some(1), "{command}");
            assert!(!is_over.load(Ordering::SeqCst), "{command} did not try so long");
            let error = asking.join().expect("it to end");
            assert_eq!(error.code().code(), "55006", "{command}: {error:?}");
        });
        run(&mut client, "SELECT pgmq.purge_queue('a'), pgmq.purge_queue('b')");
        wait_until_settled(&mut client, 2);
        while heard_by(listener.client(), Instant::now()).is_some() {}
    }
    assert_eq!(processes(&mut client), before, "they have left");
}

#[test]
fn giving_way_is_a_matter_of_a_moment() {
    let (_alone, cluster) = server(&[]);
    let mut elsewhere = connect(&cluster);
    for (command, undo) in COMMANDS {
        if boolean(
            &mut elsewhere,
            "SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = 'tried')",
        ) {
            drop(make_tried(&cluster));
        }
        // Both are there, and nobody else.
        let sql = "SELECT count(*) = 2 AND count(*) FILTER (WHERE backend_type LIKE 'aimq %') = 2
                     FROM pg_stat_activity WHERE datname = 'tried'";
        wait_until("nobody else to be connected", || boolean(&mut elsewhere, sql));
        for command in [command, undo].into_iter().filter(|command| !command.is_empty()) {
            let begun = Instant::now();
            run(&mut elsewhere, command);
            println!("{command} took {:?}", begun.elapsed());
            // Postgres itself tries for 5 s.
            assert!(begun.elapsed() < SLACK * 2, "{command} took {:?}", begun.elapsed());
        }
        if undo.is_empty() {
            break;
        }
        // They come again by themselves.
        wait_until_settled(&mut cluster.connect("tried").expect("connect"), 2);
    }
}

/// In whatever state: asleep, or waiting in NOTIFY's line behind a stranger who hangs.
#[test]
fn giving_way_to_who_terminates_them() {
    let (_alone, cluster) =
        server(&["synchronous_standby_names=nobody", "synchronous_commit=local"]);
    let mut client = connect(&cluster);
    let mut hang = None;
    for round in ["asleep", "in line"] {
        wait_until_settled(&mut client, 1);
        if round == "in line" {
            let mut stranger = connect(&cluster);
            hang = Some(std::thread::spawn(move || {
                run(&mut stranger, "SET synchronous_commit = on; CREATE TABLE t (); NOTIFY others");
            }));
            let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')";
            wait_until("the stranger to hang", || boolean(&mut client, sql));
        }
        for column in ["watcher_pid", "pid"] {
            if round == "in line" {
                run(&mut client, "SELECT pgmq.send('a', '{}')");
                let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity
                                           WHERE backend_type = 'aimq notifier' AND wait_event_type = 'Lock')";
                wait_until("the notifier to wait", || boolean(&mut client, sql));
            }
            let of =
                format!("SELECT {column} FROM aimq.notifiers WHERE database = current_database()");
            let process = process_in(&mut client, column);
            let begun = Instant::now();
            run(&mut client, &format!("SELECT pg_terminate_backend({process})"));
            let gone =
                format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {process})");
            wait_until("it to end", || boolean(&mut client, &gone));
            println!("{column} {round}: gone after {:?}", begun.elapsed());
            assert!(begun.elapsed() < SLACK, "{column} {round}: {:?}", begun.elapsed());
            wait_until("another one", || {
                value::<Option<i32>>(&mut client, &of).is_some_and(|now| now != process)
            });
            wait_until_running(&mut client);
        }
    }
    let sql = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    run(&mut client, sql);
    hang.expect("a stranger").join().expect("the stranger");
}

/// With messages to come, and with a stranger who hangs.
#[test]
fn giving_way_to_a_shutdown() {
    let (_alone, cluster) =
        server(&["synchronous_standby_names=nobody", "synchronous_commit=local"]);
    for mode in ["smart", "fast", "fast while the notifier waits"] {
        let mut client = connect(&cluster);
        wait_until_settled(&mut client, 1);
        run(&mut client, "SELECT pgmq.send('a', '{}', 3600)");
        let hang = mode.contains("waits").then(|| {
            let mut stranger = connect(&cluster);
            let hang = std::thread::spawn(move || {
                let _ = stranger
                    .batch_execute("SET synchronous_commit = on; CREATE TABLE t (); NOTIFY others");
            });
            let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')";
            wait_until("the stranger to hang", || boolean(&mut client, sql));
            run(&mut client, "SELECT pgmq.send('a', '{}')");
            let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity
                                       WHERE backend_type = 'aimq notifier' AND wait_event_type = 'Lock')";
            wait_until("the notifier to wait", || boolean(&mut client, sql));
            hang
        });
        drop(client);
        let word = mode.split(' ').next().expect("a word");
        let took = cluster.shut_down(word).expect("shutdown");
        println!("{mode} took {took:?}");
        assert!(took < Duration::from_secs(5), "{mode} took {took:?}");
        hang.into_iter().for_each(|hang| hang.join().expect("the stranger"));
        cluster.run().expect("a start");
    }
    assert!(!log_of(&cluster).contains("PANIC"));
}
