//! What `aimq.doctor()` finds that concerns the whole server, each on one of its own.

use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use aimq_lab::setup::Major;
use postgres::{Client, NoTls};

fn problems(client: &mut Client) -> Vec<String> {
    names(
        client,
        "SELECT concat_ws(' ', severity, subject || ':', problem) FROM aimq.doctor() ORDER BY 1",
    )
}

/// Waits for the one problem that there is, and says the hint's statement.
#[track_caller]
fn hint(client: &mut Client, what: &str) -> String {
    wait_until(what, || problems(client).iter().any(|it| it.contains(what)));
    let found = problems(client);
    assert!(found.len() == 1, "{found:?}");
    let hint: String = value(client, "SELECT hint FROM aimq.doctor()");
    let rest = hint.strip_prefix("Run ").unwrap_or_else(|| panic!("{hint}"));
    let end = [", and restart", ", if"].iter().find_map(|end| rest.find(end));
    rest[..end.unwrap_or_else(|| panic!("{hint}"))].to_owned()
}

/// A server with the default of each setting that a hint may change, and a queue `a`.
fn with_defaults() -> Cluster {
    let settings = ["fsync=off", "autovacuum=off", "shared_preload_libraries=aimq"];
    let cluster = Cluster::start(Major(major()), &settings).expect("a server");
    let mut client = connect(&cluster);
    run(&mut client, "CREATE EXTENSION aimq CASCADE; SELECT aimq.create_queue('a')");
    wait_until_running(&mut client);
    cluster
}

fn restart(cluster: &Cluster) -> Client {
    cluster.shut_down("fast").expect("a stop");
    cluster.run().expect("a start");
    connect(cluster)
}

/// A role that may see what the documents say, and no more.
fn monitor(cluster: &Cluster) -> Client {
    run(
        &mut connect(cluster),
        "CREATE ROLE monitor LOGIN; GRANT pg_monitor TO monitor;
         GRANT USAGE ON SCHEMA pgmq TO monitor; GRANT SELECT ON pgmq.meta TO monitor",
    );
    config(cluster.folder()).user("monitor").connect(NoTls).expect("connect")
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
    let mend = hint(&mut client, what);
    assert_eq!(hint(&mut monitor(&cluster), what), mend);
    run(&mut client, &mend);
    let mut client = restart(&cluster);
    wait_until("all to be well", || problems(&mut client).is_empty());
}

#[test]
fn places_of_blocking_calls_that_are_used_up_are_found() {
    let _alone = alone();
    let cluster = with_defaults();
    run(&mut connect(&cluster), "ALTER SYSTEM SET aimq.max_waiters = 1");
    let mut client = restart(&cluster);
    wait_until("all to be well", || problems(&mut client).is_empty());
    let block = |cluster: &Cluster| {
        let mut blocking = connect(cluster);
        std::thread::spawn(move || {
            let _ = blocking.simple_query("SELECT aimq.read('a', 30, 1, interval '60 s')");
        })
    };
    let first = block(&cluster);
    let what = "all 1 places for sessions that block";
    let mend = hint(&mut client, what);
    assert_eq!(hint(&mut monitor(&cluster), what), mend);
    run(&mut client, &mend);
    let mut client = restart(&cluster);
    first.join().expect("an end");
    let second = block(&cluster);
    let blocked = "SELECT count(*) = 1 FROM aimq.waiters";
    wait_until("it to block", || boolean(&mut client, blocked));
    wait_until("all to be well", || problems(&mut client).is_empty());
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
    let mend = hint(&mut client, &what);
    assert_eq!(hint(&mut monitor(&cluster), &what), mend);
    run(&mut client, &mend);
    wait_until("all to be well", || problems(&mut client).is_empty());
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
