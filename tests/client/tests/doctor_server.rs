//! What `aimq.doctor()` finds that concerns the whole server, each on one of its own.

use aimq_client_tests::doctor::*;
use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use aimq_lab::majors::Major;

/// A server with the default of each setting that a hint may change, and a queue `a`.
fn with_defaults() -> Cluster {
    let settings = ["fsync=off", "autovacuum=off", "shared_preload_libraries=aimq"];
    let cluster = Cluster::start(Major(major()), &settings).expect("a server");
    let mut client = connect(&cluster);
    run(&mut client, "CREATE EXTENSION aimq CASCADE; SELECT aimq.create_queue('a')");
    wait_until_running(&mut client);
    cluster
}

#[test]
fn worker_slots_that_are_used_up_are_found() {
    let _alone = alone();
    let cluster = with_defaults();
    let mut client = connect(&cluster);
    assert!(problems(&mut client).is_empty(), "{:?}", problems(&mut client));
    for name in ["second", "third"] {
        run(&mut client, &format!("CREATE DATABASE {name}"));
        let mut other = cluster.connect(name).expect("connect");
        run(&mut other, "CREATE EXTENSION aimq CASCADE; SELECT aimq.create_queue('a')");
        wait_until_running(&mut other);
    }
    let what = "7 of them by aimq: parallel queries and logical replication get none";
    mend_alone(&cluster, client, what);
}

#[test]
fn places_of_blocking_calls_that_are_used_up_are_found() {
    let _alone = alone();
    let cluster = with_defaults();
    run(&mut connect(&cluster), "ALTER SYSTEM SET aimq.max_waiters = 1");
    let mut client = restart(&cluster);
    run(&mut client, "CREATE DATABASE other");
    let mut other = cluster.connect("other").expect("connect");
    run(&mut other, "CREATE EXTENSION aimq CASCADE");
    well(&mut client);
    let block = |cluster: &Cluster| {
        let mut blocking = connect(cluster);
        std::thread::spawn(move || {
            let _ = blocking.simple_query("SELECT aimq.read('a', 30, 1, interval '60 s')");
        })
    };
    let first = block(&cluster);
    let what = "all 1 places for sessions that block";
    wait_until("it to block", || boolean(&mut client, "SELECT count(*) = 1 FROM aimq.waiters"));
    // The places are all databases'.
    assert!(problems(&mut other).iter().any(|it| it.contains(what)));
    let mut client = mend_alone(&cluster, client, what);
    first.join().expect("an end");
    let second = block(&cluster);
    let blocked = "SELECT count(*) = 1 FROM aimq.waiters";
    wait_until("it to block", || boolean(&mut client, blocked));
    well(&mut client);
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    second.join().expect("an end");
}

/// The driver reads only while it is asked something.
#[test]
fn listeners_that_do_not_read_are_found() {
    let (_alone, cluster) = server(&[]);
    let mut client = connect(&cluster);
    assert!(problems(&mut client).is_empty(), "{:?}", problems(&mut client));
    let mut deaf = connect(&cluster);
    run(&mut deaf, "LISTEN noise");
    let pid: i32 = value(&mut deaf, "SELECT pg_backend_pid()");
    let what = format!("the session of process {pid} listens, and its client does not take");
    wait_until("it to be found", || {
        run(
            &mut client,
            "SELECT pg_notify('noise', i || repeat('x', 7000)) FROM generate_series(1, 100) i",
        );
        problems(&mut client).iter().any(|it| it.contains(&what))
    });
    mend_alone(&cluster, client, &what);
}

/// Nothing is missing on a standby, and no setting would change it.
#[test]
fn a_standby_is_found() {
    let (_alone, primary) = server(&["wal_level=replica", "max_wal_senders=5"]);
    let standby = primary.standby().expect("a standby");
    let mut client = connect(&standby);
    let wanted = "info server: it is a standby: nobody is woken here before it is promoted";
    assert_eq!(problems(&mut client), [wanted]);
    drop(primary);
    standby.promote().expect("promotion");
    run(&mut client, "SELECT pgmq.send('a', '{}')");
    wait_until("all to be well", || problems(&mut client).is_empty());
}

/// Before 17 there is no notifier then, and from 17 on there is one when there is something to do.
#[test]
fn contrib_a_server_that_has_not_preloaded_aimq_is_found() {
    let _alone = alone();
    let cluster = bare(&["wal_level=minimal", "max_wal_senders=0"]);
    let (mut client, heard) = connect_hearing(&cluster, "postgres");
    run(
        &mut client,
        "CREATE EXTENSION aimq CASCADE; SELECT aimq.create_queue('a'); SELECT aimq.create_queue('b')",
    );
    let slow =
        heard.notices().iter().filter(|it| it.message().contains("aimq is not preloaded")).count();
    assert_eq!(slow, usize::from(major() < 17), "{:?}", heard.notices());
    if major() >= 17 {
        run(&mut client, "SELECT pg_terminate_backend(pid) FROM aimq.notifiers");
        well(&mut client);
        return;
    }
    let mut client = mend_alone(&cluster, client, "This is the slow mode: before PostgreSQL 17");
    assert_eq!(value::<String>(&mut client, "SHOW shared_preload_libraries"), "aimq");
    // Beside others, one by one.
    run(
        &mut client,
        "ALTER SYSTEM SET shared_preload_libraries = pg_stat_statements, 'auto_explain'",
    );
    let client = restart(&cluster);
    let mut client = mend_alone(&cluster, client, "This is the slow mode");
    assert_eq!(
        value::<String>(&mut client, "SHOW shared_preload_libraries"),
        "pg_stat_statements, auto_explain, aimq"
    );
}

/// By more queues than there is room for, and by names that are too long.
#[test]
fn queues_without_a_slot_are_found() {
    let (_alone, cluster) = server(&[]);
    run(&mut connect(&cluster), "ALTER SYSTEM SET aimq.max_queues = 4");
    let mut client = restart(&cluster);
    well(&mut client);
    for number in 0..4 {
        run(&mut client, &format!("SELECT aimq.create_queue('more{number}')"));
    }
    let what = "no slot in the shared memory";
    wait_until("it to be found", || problems(&mut client).iter().any(|it| it.contains(what)));
    let mut monitor = monitor(&cluster);
    assert_eq!(problems(&mut monitor), problems(&mut client));
    let hint = hint_of(&mut client, what);
    assert_eq!(hint_of(&mut monitor, what), hint);
    assert!(follow(&mut client, &hint));
    let mut client = restart(&cluster);
    well(&mut client);
    let name = "n".repeat(47);
    let event = "e".repeat(200);
    run(
        &mut client,
        &format!(
            "SELECT aimq.create_queue('{name}', 'true', '{}', '{event}', ids => true)",
            "c".repeat(60)
        ),
    );
    let mut client = mend_alone(&cluster, client, what);
    let said = format!(
        "SELECT channel = 'aimq:jobs' AND event = 'job_enqueued' AND ids FROM aimq.queues WHERE queue = '{name}'"
    );
    assert!(boolean(&mut client, &said));
}

#[test]
fn processes_that_were_stopped_are_found() {
    let (_alone, cluster) = server(&[]);
    for (column, what) in [
        ("pid", "error notifier: the notifier, process "),
        ("watcher_pid", "error notifier: the watcher, process "),
    ] {
        let mut client = connect(&cluster);
        wait_until_running(&mut client);
        let pid = process_in(&mut client, column);
        kill("STOP", pid);
        wait_until("it to be missed", || {
            run(&mut client, "SELECT pgmq.send('a', '{}', 1)");
            run(&mut client, "SELECT pgmq.send('a', '{}')");
            problems(&mut client).iter().any(|it| it.contains(what))
        });
        let mut monitor = monitor(&cluster);
        let hint = hint_of(&mut client, what);
        assert_eq!(hint_of(&mut monitor, what), hint);
        follow(&mut client, &hint);
        well(&mut client);
        assert_ne!(process_in(&mut client, column), pid);
    }
}

/// However the server came by them.
#[test]
fn settings_of_the_server_are_found() {
    let _alone = alone();
    let cluster = bare(&["shared_preload_libraries=aimq"]);
    let mut client = connect(&cluster);
    run(
        &mut client,
        "CREATE EXTENSION aimq CASCADE; SELECT aimq.create_queue('a'); CREATE ROLE other",
    );
    wait_until_running(&mut client);
    let file = cluster.folder().join("data/postgresql.conf");
    for (setting, what) in [
        (
            "aimq.enabled = off",
            "warning server: it has aimq.enabled=off: what is enqueued there wakes nobody",
        ),
        ("aimq.delivery = 'transaction'", "warning server: it has aimq.delivery=transaction"),
        (
            "session_replication_role = replica",
            "warning server: it has session_replication_role=replica",
        ),
    ] {
        run(&mut client, &format!("ALTER SYSTEM SET {setting}"));
        run(&mut client, "SELECT pg_reload_conf()");
        client = mend_alone(&cluster, connect(&cluster), what);
        // The same by the administrator's file.
        let text = std::fs::read_to_string(&file).expect("the file");
        std::fs::write(&file, format!("{text}\n{setting}\n")).expect("the file");
        run(&mut client, "SELECT pg_reload_conf()");
        client = mend_alone(&cluster, connect(&cluster), what);
        std::fs::write(&file, text).expect("the file");
        run(&mut client, "ALTER SYSTEM RESET ALL");
        run(&mut client, "SELECT pg_reload_conf()");
        well(&mut client);
        for (whom, subject) in [("ALL", "all roles"), ("other", "role other")] {
            run(&mut client, &format!("ALTER ROLE {whom} SET {setting}"));
            let what = what.replace("warning server", &format!("warning {subject}"));
            client = mend_alone(&cluster, client, &what);
        }
    }
}

/// From 17 on the queue can be made small enough to fill it.
#[test]
fn a_notify_queue_that_fills_up_is_found() {
    if major() < 17 {
        return;
    }
    let (_alone, cluster) = server(&["max_notify_queue_pages=64"]);
    let mut client = connect(&cluster);
    let mut idle = connect(&cluster);
    run(&mut idle, "LISTEN noise");
    run(&mut idle, "BEGIN; SELECT 1");
    let noise = "SELECT pg_notify('noise', i || repeat('x', 7000)) FROM generate_series(1, 25) i";
    run(&mut client, noise);
    mend_alone(&cluster, client, "warning NOTIFY: its queue is full to ");
}
