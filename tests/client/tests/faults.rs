//! What may happen to a server with a notifier: each test has a server of its own, which it stops,
//! kills, fills or copies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use postgres::Client;

#[test]
fn a_restarted_server_announces_what_is_there() {
    let (_alone, cluster) = server(&[]);
    run(&mut connect(&cluster), "SELECT pgmq.send('a', '{}', 2)");
    cluster.shut_down("fast").expect("shutdown");
    cluster.run().expect("a start");
    // No session has touched the queue: the launcher has found it, and the notifier the message.
    learns(&mut listen(&cluster));
}

#[test]
fn every_database_is_found_after_a_restart() {
    let (_alone, cluster) = server(&[]);
    let databases = ["b", "c", "d"];
    for name in databases {
        run(&mut connect(&cluster), &format!("CREATE DATABASE {name}"));
        let mut client = cluster.connect(name).expect("connect");
        run(&mut client, "CREATE EXTENSION aimq CASCADE");
        run(&mut client, "SELECT aimq.create_queue('a')");
    }
    run(&mut connect(&cluster), "CREATE DATABASE without");
    cluster.shut_down("fast").expect("shutdown");
    cluster.run().expect("a start");
    let mut client = connect(&cluster);
    wait_until("a notifier in each", || {
        value::<i64>(&mut client, "SELECT count(*) FROM aimq.notifiers WHERE state = 'running'")
            == 4
    });
}

/// While the notifier waits for a lock, it sleeps on the latch that producers set, and Postgres resets that there.
#[test]
fn what_is_marked_while_the_notifier_waits_for_a_lock_is_announced() {
    let (_alone, cluster) = server(&[
        "synchronous_standby_names=nobody",
        "synchronous_commit=local",
        "deadlock_timeout=10ms",
        "log_lock_waits=on",
    ]);
    let mut client = connect(&cluster);
    // What is said of a queue that has just become realtime would be counted below.
    wait_until_settled(&mut client, 1);
    let mut listener = listen(&cluster);
    // Transactions that notify commit one at a time. This one waits for a standby that there is not.
    let mut slow = connect(&cluster);
    let waiting = pid(&mut slow);
    let slow = std::thread::spawn(move || {
        run(&mut slow, "SET synchronous_commit = on; CREATE TABLE t (); NOTIFY others")
    });
    let waits = |who: &str, event: &str| {
        wait_until(event, || {
            let sql = format!(
                "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE {who} AND '{event}' IN (wait_event, wait_event_type))"
            );
            boolean(&mut connect(&cluster), &sql)
        });
    };
    waits(&format!("pid = {waiting}"), "SyncRep");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    // Its search for a deadlock is over too, which would have set the latch once more.
    wait_until("the notifier to wait", || log_of(&cluster).contains("still waiting for"));
    waits("backend_type = 'aimq notifier'", "Lock");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    run(&mut client, &format!("SELECT pg_cancel_backend({waiting})"));
    assert_eq!(listener.wait_for_count("a", 2).0, 2);
    slow.join().expect("the slow one");
}

#[test]
fn a_notifier_does_not_hold_a_shutdown_up() {
    let (_alone, cluster) = server(&[]);
    for mode in ["smart", "fast"] {
        let took = cluster.shut_down(mode).expect("shutdown");
        assert!(took < Duration::from_secs(10), "{mode} took {took:?}");
        cluster.run().expect("a start");
        wait_until_running(&mut connect(&cluster));
    }
    assert!(!log_of(&cluster).contains("PANIC"));
}

#[test]
fn a_standby_has_no_notifier_until_it_is_promoted() {
    let (_alone, primary) = server(&["wal_level=replica", "max_wal_senders=5"]);
    run(&mut connect(&primary), "SELECT pgmq.send('a', '{}', 3)");
    let standby = primary.standby().expect("a standby");
    let mut client = connect(&standby);
    let position: String = value(&mut connect(&primary), "SELECT pg_current_wal_lsn()::text");
    wait_until("the standby to catch up", || {
        boolean(&mut client, &format!("SELECT pg_last_wal_replay_lsn() >= '{position}'"))
    });
    let workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'aimq %'";
    assert_eq!(value::<i64>(&mut client, workers), 0);
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM aimq.stats"), 1);
    // A worker that is pointed here is told so at once, as by pgmq.read.
    for sql in
        ["SELECT aimq.read('a', 30, 1, '1 hour')", "CALL aimq.read_for('a', 30, 1, '1 hour')"]
    {
        let error = failure(&mut client, sql);
        assert_eq!(error.code().code(), "25006");
        assert_eq!(
            error.hint(),
            Some("This server is a standby: connect the worker to the primary.")
        );
    }
    drop(primary);
    standby.promote().expect("promotion");
    // Sent before the promotion, visible after it, and no traffic.
    learns(&mut listen(&standby));
    wait_until_running(&mut client);
}

#[test]
fn a_crash_loses_no_wake_up() {
    let (_alone, cluster) = server(&[]);
    let mut client = connect(&cluster);
    run(&mut client, "SELECT pgmq.send('a', '{}', 1)");
    kill("KILL", notifier_pid(&mut client));
    wait_until("the server to crash", || client.simple_query("SELECT 1").is_err());
    let mut listener = Listener::over(reconnect(&cluster), CHANNEL);
    learns(&mut listener);
    let mut client = connect(&cluster);
    wait_until_running(&mut client);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
}

#[test]
fn a_launcher_that_ends_comes_back_and_finds_its_notifiers() {
    let (_alone, cluster) = server(&[]);
    let mut client = connect(&cluster);
    let launcher =
        "SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE backend_type = 'aimq launcher'";
    let (before, notifier): (i32, i32) = (value(&mut client, launcher), notifier_pid(&mut client));
    run(&mut client, &format!("SELECT pg_terminate_backend({before})"));
    wait_until("another launcher", || {
        let now: i32 = value(&mut client, launcher);
        now != 0 && now != before
    });
    assert_eq!(notifier_pid(&mut client), notifier);
    // It takes care of a notifier that it has not started itself.
    run(&mut client, &format!("SELECT pg_terminate_backend({notifier})"));
    wait_until("another notifier", || {
        notifier_state(&mut client) == "running"
            && value::<i32>(&mut client, "SELECT coalesce(max(pid), 0) FROM aimq.notifiers")
                != notifier
    });
}

#[test]
fn without_a_slot_transactions_notify_and_with_one_the_notifier_does() {
    // For Postgres' own logical replication launcher, ours, and one notifier.
    let (_alone, cluster) = server(&["max_worker_processes=3"]);
    let mut first = connect(&cluster);
    run(&mut first, "CREATE DATABASE other");
    let mut client = cluster.connect("other").expect("connect");
    run(&mut client, "CREATE EXTENSION aimq CASCADE");
    run(&mut client, "SELECT aimq.create_queue('b')");
    wait_until("the launcher to fail", || notifier_state(&mut client) == "no slot");
    let mut listener = Listener::over(cluster.connect("other").expect("connect"), CHANNEL);
    run(&mut client, "SELECT pgmq.send('b', '{}')");
    listener.wait_for_count("b", 1);
    assert_eq!(value::<i64>(&mut client, "SELECT transactions FROM aimq.stats"), 0);
    let log = log_of(&cluster);
    assert_eq!(log.matches("aimq found no background worker slot for a notifier").count(), 1);
    assert!(log.contains("max_worker_processes"), "{log}");
    // A session that blocks polls, and says why.
    let (mut blocked, heard) = connect_hearing(&cluster, "other");
    run(&mut blocked, "SELECT pgmq.purge_queue('b')");
    for _ in 0..2 {
        run(&mut blocked, "SELECT aimq.wait('{b}', '100 ms')");
    }
    let notices = heard.notices();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].hint().is_some_and(|hint| hint.contains("max_worker_processes")));
    drop(blocked);
    // A slot becomes free.
    run(&mut first, "SELECT aimq.disable_realtime('a')");
    wait_until_running(&mut client);
    run(&mut client, "SELECT pgmq.send('b', '{}')");
    wait_until("the notifier to be used", || {
        value::<i64>(&mut client, "SELECT notifications FROM aimq.stats") >= 1
    });
}

#[test]
fn a_queue_that_has_no_room_in_the_table_notifies_in_the_transaction_and_says_so_once() {
    let (_alone, cluster) = server(&["aimq.max_queues=2"]);
    let mut client = connect(&cluster);
    run(&mut client, "SELECT aimq.create_queue(q) FROM unnest(ARRAY['b', 'c', 'd']) q");
    let (mut producer, heard) = connect_hearing(&cluster, "postgres");
    let mut listener = listen(&cluster);
    for queue in ["a", "b", "c", "d"] {
        run(&mut producer, &format!("SELECT pgmq.send('{queue}', '{{}}')"));
        listener.wait_for_count(queue, 1);
    }
    let warnings = heard.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].code().code(), "53400");
    assert!(warnings[0].hint().is_some_and(|hint| hint.contains("aimq.max_queues")));
    // A queue that goes makes room for another.
    run(&mut client, "SELECT pgmq.drop_queue(q) FROM unnest(ARRAY['a', 'b', 'c']) q");
    wait_until("the notifier to know it", || {
        run(&mut producer, "SELECT pgmq.send('d', '{}')");
        value::<i64>(&mut client, "SELECT transactions FROM aimq.stats") > 0
    });
}

#[test]
fn from_17_a_full_notify_queue_delays_wake_ups_and_no_enqueue() {
    let (_alone, cluster) = server(&["max_notify_queue_pages=64"]);
    let mut idler = connect(&cluster);
    run(&mut idler, "LISTEN x");
    run(&mut idler, "BEGIN");
    run(&mut idler, "SELECT 1");
    let mut client = connect(&cluster);
    wait_until("the queue to be full", || {
        // Other payloads each time, so that none is left out as the same.
        run(
            &mut client,
            "SELECT pg_notify('x', n || repeat('x', 7900)) FROM generate_series(1, 5) n",
        );
        boolean(&mut client, "SELECT pg_notification_queue_usage() > 0.76")
    });
    let mut listener = listen(&cluster);
    for _ in 0..50 {
        run(&mut client, "SELECT pgmq.send('a', '{}')");
    }
    wait_until("the notifier to fail", || {
        boolean(&mut client, "SELECT errors > 6 AND last_error = '53400' FROM aimq.notifiers")
    });
    assert!(log_of(&cluster).contains("aimq notifier: the NOTIFY queue is nearly full"));
    run(&mut idler, "COMMIT");
    let begun = Instant::now();
    listener.wait_for_count("a", 50);
    // However long it was full, the next try comes soon.
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(1500), "{took:?} after there was room");
}

/// A worker that never polls: it reads the queue when it is woken and after it has connected, and
/// says when it has read as many as there are.
fn worker(folder: std::path::PathBuf, read: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    use postgres::fallible_iterator::FallibleIterator;
    let drain = |client: &mut Client| -> Result<(), postgres::Error> {
        loop {
            // `pop` deletes what it reads, so that nothing is counted twice.
            let popped = client.query("SELECT msg_id FROM pgmq.pop('a')", &[])?.len() as u64;
            if popped == 0 {
                return Ok(());
            }
            read.fetch_add(popped, Ordering::SeqCst);
        }
    };
    let session = || -> Result<(), postgres::Error> {
        let mut client = config(&folder).connect(postgres::NoTls)?;
        client.batch_execute("LISTEN \"aimq:jobs\"")?;
        drain(&mut client)?;
        while !stop.load(Ordering::SeqCst) {
            let mut notifications = client.notifications();
            // The time-out only looks whether the test is over: nothing is read after it.
            let woken = notifications.timeout_iter(Duration::from_millis(50)).next()?.is_some();
            drop(notifications);
            if woken {
                drain(&mut client)?;
            }
        }
        Ok(())
    };
    while !stop.load(Ordering::SeqCst) {
        if session().is_err() {
            std::thread::sleep(Duration::from_millis(20)); // as a worker backs off
        }
    }
}

#[test]
fn ten_kills_under_load_lose_no_wake_up() {
    let (_alone, cluster) = server(&[]);
    let (read, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let folder = cluster.folder().to_owned();
    let consumer = {
        let (folder, read, stop) = (folder.clone(), Arc::clone(&read), Arc::clone(&stop));
        std::thread::spawn(move || worker(folder, read, stop))
    };
    let loaded = Arc::new(AtomicBool::new(true));
    let producers: Vec<_> = (0..4)
        .map(|_| {
            let (folder, loaded) = (folder.clone(), Arc::clone(&loaded));
            std::thread::spawn(move || {
                let config = config(&folder);
                while loaded.load(Ordering::SeqCst) {
                    let Ok(mut client) = config.connect(postgres::NoTls) else {
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    };
                    while loaded.load(Ordering::SeqCst)
                        && client.simple_query("SELECT pgmq.send('a', '{}')").is_ok()
                    {
                    }
                }
            })
        })
        .collect();
    for kill_number in 0..10 {
        let mut client = reconnect(&cluster);
        let goal = read.load(Ordering::SeqCst) + 50;
        wait_until("messages to be read", || read.load(Ordering::SeqCst) > goal);
        let mut pid = 0;
        wait_until("the notifier to run", || {
            let row = client.query_opt(
                "SELECT pid FROM aimq.notifiers WHERE database = current_database() AND state = 'running'",
                &[],
            );
            pid = row.ok().flatten().and_then(|row| row.get::<_, Option<i32>>(0)).unwrap_or(0);
            pid != 0
        });
        match kill_number % 3 {
            0 => kill("TERM", pid),
            1 => run(&mut client, &format!("SELECT pg_terminate_backend({pid})")),
            _ => {
                kill("KILL", pid);
                wait_until("the crash", || client.simple_query("SELECT 1").is_err());
            }
        }
    }
    loaded.store(false, Ordering::SeqCst);
    producers.into_iter().for_each(|producer| producer.join().expect("a producer"));
    let mut client = reconnect(&cluster);
    // What is not read without a poll has lost its wake-up: nothing is read any more. There may be much to read.
    let (mut last, mut since) = (0, Instant::now());
    while value::<i64>(&mut client, "SELECT count(*) FROM pgmq.q_a") > 0
        && since.elapsed() < Duration::from_secs(10)
    {
        let now = read.load(Ordering::SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let left: i64 = value(&mut client, "SELECT count(*) FROM pgmq.q_a");
    stop.store(true, Ordering::SeqCst);
    consumer.join().expect("the worker");
    assert_eq!(left, 0, "wake-ups lost; {} were read", read.load(Ordering::SeqCst));
}

/// On a server of its own: where others change catalogs, Postgres wakes every process to read the news.
#[test]
fn an_idle_server_is_left_alone() {
    let (_alone, cluster) = server(&["wal_level=minimal", "max_wal_senders=0"]);
    let mut client = connect(&cluster);
    let mut listener = listen(&cluster);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
    let mut poller = connect(&cluster);
    run(&mut poller, "SELECT pgmq.pop('a')");
    run(&mut poller, "SELECT pgmq.read('a', 30, 1)");
    let mut pids = Vec::new();
    // The launcher asks the other databases one after the other, each by a process that ends at once.
    wait_until("the launcher, the notifier and the watcher to be alone", || {
        let sql = "SELECT pid::text FROM pg_stat_activity WHERE backend_type LIKE 'aimq %'";
        pids = names(&mut client, sql);
        pids.len() == 3
    });
    let seen = |client: &mut Client| -> Vec<String> {
        let mut all = names(
            client,
            "SELECT pg_current_wal_insert_lsn()::text
             UNION ALL SELECT concat(wake_ups, ' ', watcher_wake_ups) FROM aimq.notifiers",
        );
        for pid in &pids {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
            let switches = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
            all.push(switches.expect("a counter").to_owned());
        }
        all
    };
    // What the enqueue leads to comes to its end; so does the timer that bounded the look at the start, which
    // Postgres lets run out once even if nobody waits for it any more (utils/misc/timeout.c).
    let mut before = seen(&mut client);
    wait_until("the server to be quiet", || {
        std::thread::sleep(Duration::from_millis(1200));
        let now = seen(&mut client);
        std::mem::replace(&mut before, now.clone()) == now
    });
    // It sleeps; this is how long it is watched. Beside it somebody polls an empty queue, which tells of nothing.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        run(&mut poller, "SELECT pgmq.read('a', 30, 1)");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(seen(&mut client), before, "WAL or wake-ups in three seconds");
}

/// A server that runs on with the memory of a former release: here the stamp of its layout is changed
/// under it.
#[test]
fn from_17_memory_of_another_release_is_left_alone() {
    let _alone = alone();
    let cluster = bare(&[]);
    let mut old = connect(&cluster);
    run(&mut old, "CREATE EXTENSION aimq CASCADE");
    run(&mut old, "SELECT aimq.create_queue('a')");
    wait_until_running(&mut old);
    let mut changed = 0;
    for entry in std::fs::read_dir("/dev/shm").expect("shared memory").flatten() {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        // This server's segment, not one of another test: its folder's owner made it since.
        if bytes.get(4..8) == Some(&STAMP[..]) && opened_by(&cluster, &entry.path()) {
            write_first_byte(&entry.path(), bytes[0] + 1);
            changed += 1;
        }
    }
    assert_eq!(changed, 1);
    let (mut new, heard) = connect_hearing(&cluster, "postgres");
    let mut listener = listen(&cluster);
    run(&mut new, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
    let warnings = heard.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0].code().code(), "55000");
    // A process that had the memory goes on with it.
    run(&mut old, "SELECT pgmq.send('a', '{}')");
    listener.wait_for_count("a", 1);
    assert!(!log_of(&cluster).contains("terminated by signal"));
}

/// As src/shared/mod.rs has it, on a little-endian machine.
const STAMP: [u8; 4] = *b"qmia";

fn write_first_byte(path: &std::path::Path, byte: u8) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("the segment");
    file.write_all_at(&[byte], 0).expect("written");
}

/// Whether a process of this server has mapped the file.
fn opened_by(cluster: &Cluster, path: &std::path::Path) -> bool {
    let mut client = connect(cluster);
    let pids = names(
        &mut client,
        "SELECT pid::text FROM pg_stat_activity WHERE backend_type = 'aimq notifier'",
    );
    pids.iter().any(|pid| {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        maps.contains(&path.display().to_string())
    })
}

/// What applies a subscription ends its prepared transactions without a statement that could tell.
#[test]
fn from_17_what_a_subscription_prepares_and_commits_is_announced() {
    let (_alone, cluster) =
        server(&["wal_level=logical", "max_prepared_transactions=5", "max_wal_senders=5"]);
    let mut publisher = connect(&cluster);
    run(&mut publisher, "CREATE PUBLICATION jobs FOR TABLE pgmq.q_a");
    run(
        &mut publisher,
        "SELECT pg_create_logical_replication_slot('jobs', 'pgoutput', false, true)",
    );
    run(&mut publisher, "CREATE DATABASE other");
    let mut client = cluster.connect("other").expect("connect");
    run(&mut client, "CREATE EXTENSION aimq CASCADE");
    run(&mut client, "SELECT aimq.create_queue('a')");
    run(&mut client, "ALTER TABLE pgmq.q_a ENABLE ALWAYS TRIGGER aimq_realtime");
    let address = format!("host={} user=postgres dbname=postgres", cluster.folder().display());
    run(
        &mut client,
        &format!(
            "CREATE SUBSCRIPTION jobs CONNECTION '{address}' PUBLICATION jobs
             WITH (create_slot = false, copy_data = false, two_phase = true)"
        ),
    );
    wait_until_settled(&mut client, 1);
    let mut listener = Listener::over(cluster.connect("other").expect("connect"), CHANNEL);
    run(&mut publisher, "BEGIN; SELECT pgmq.send('a', '{}'); PREPARE TRANSACTION 'one'");
    let prepared = "SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid ^@ 'pg_gid_')";
    wait_until("it to be prepared there", || boolean(&mut client, prepared));
    run(&mut publisher, "COMMIT PREPARED 'one'");
    listener.wait_for_count("a", 1);
    // A publisher that is stopped waits for who follows it.
    run(&mut client, "DROP SUBSCRIPTION jobs");
}
