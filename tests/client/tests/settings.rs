//! Messages that came while a setting kept the triggers from firing, for everybody: once it is back as it was, the
//! session that waits learns of them, when they can be read. Each test has a server of its own.

use std::time::{Duration, Instant};

use aimq_client_tests::blocking::*;
use aimq_client_tests::servers::*;
use aimq_client_tests::unseen::*;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

/// Longer than it takes to set a setting and to set it back.
const LATER: Duration = Duration::from_secs(4);

/// A server whose database `app` has the realtime queues `a` and `b`.
fn app() -> (std::sync::MutexGuard<'static, ()>, Cluster) {
    let (alone, cluster) = server(&[]);
    run(&mut connect(&cluster), "CREATE DATABASE app");
    let mut client = to_app(&cluster);
    run(&mut client, "CREATE EXTENSION aimq CASCADE");
    run(&mut client, "SELECT aimq.create_queue(q) FROM unnest(ARRAY['a', 'b']) q");
    wait_until_settled(&mut client, 2);
    (alone, cluster)
}

fn to_app(cluster: &Cluster) -> Client {
    cluster.connect("app").expect("connect")
}

/// Runs statements, each a transaction, in a session of the database `database`.
fn run_each(cluster: &Cluster, database: &str, statements: &[&str]) {
    let mut client = cluster.connect(database).expect("connect");
    statements.iter().for_each(|sql| run(&mut client, sql));
}

/// New sessions have this value. The server takes a moment to read its files.
fn wait_until_set(cluster: &Cluster, name: &str, wanted: &str) {
    wait_until("the setting to be in force", || {
        value::<String>(&mut to_app(cluster), &format!("SELECT current_setting('{name}')"))
            == wanted
    });
}

/// A setting is `off`; a delayed message comes; the setting is back. A listener on one queue, and a session that
/// blocks for another, have it when it can be read.
#[track_caller]
fn assert_heard(
    name: &str,
    (off, on): (&str, &str),
    set: impl Fn(&Cluster),
    reset: impl Fn(&Cluster),
) {
    let (_alone, cluster) = app();
    let mut listener = Listener::over(to_app(&cluster), CHANNEL);
    let read = "SELECT msg_id FROM aimq.read('b', 600, 1, '60 s')";
    let call = block_over(to_app(&cluster), &mut to_app(&cluster), read);
    set(&cluster);
    wait_until_set(&cluster, name, off);
    let mut producer = to_app(&cluster);
    for queue in ["a", "b"] {
        let send = format!("SELECT pgmq.send('{queue}', '{{}}', {})", LATER.as_secs());
        run(&mut producer, &send);
    }
    drop(producer);
    reset(&cluster);
    wait_until_set(&cluster, name, on);
    let deadline = Instant::now() + LATER + SOON;
    let had = worked(listener.client(), &["a"], 1, LATER + SOON)["a"];
    let came = call.ends_by(deadline);
    assert!(
        had == 1 && came == Some(Ok(vec![1])),
        "{name}={off}: who listens had {had} messages, who blocks {came:?}"
    );
}

#[test]
fn settings_of_the_server_turn_it_off_and_on() {
    assert_heard(
        "aimq.enabled",
        ("off", "on"),
        |cluster| {
            let steps = ["ALTER SYSTEM SET aimq.enabled = off", "SELECT pg_reload_conf()"];
            run_each(cluster, "postgres", &steps);
        },
        |cluster| {
            let steps = ["ALTER SYSTEM RESET aimq.enabled", "SELECT pg_reload_conf()"];
            run_each(cluster, "postgres", &steps);
        },
    );
}

#[test]
fn settings_of_the_server_make_it_a_replica_for_a_while() {
    assert_heard(
        "session_replication_role",
        ("replica", "origin"),
        |cluster| {
            let set = "ALTER SYSTEM SET session_replication_role = replica";
            run_each(cluster, "postgres", &[set, "SELECT pg_reload_conf()"]);
        },
        |cluster| {
            let reset = "ALTER SYSTEM RESET session_replication_role";
            run_each(cluster, "postgres", &[reset, "SELECT pg_reload_conf()"]);
        },
    );
}

/// From a session in the database.
#[test]
fn settings_of_a_database_turn_it_off_and_on() {
    assert_heard(
        "aimq.enabled",
        ("off", "on"),
        |cluster| run_each(cluster, "app", &["ALTER DATABASE app SET aimq.enabled = off"]),
        |cluster| run_each(cluster, "app", &["ALTER DATABASE app RESET aimq.enabled"]),
    );
}

/// From a session in another one.
#[test]
fn settings_of_a_database_are_set_from_another_one() {
    assert_heard(
        "session_replication_role",
        ("replica", "origin"),
        |cluster| {
            let set = "ALTER DATABASE app SET session_replication_role = replica";
            run_each(cluster, "postgres", &[set]);
        },
        |cluster| run_each(cluster, "postgres", &["ALTER DATABASE app RESET ALL"]),
    );
}

#[test]
fn settings_of_all_roles_turn_it_off_and_on() {
    assert_heard(
        "aimq.enabled",
        ("off", "on"),
        |cluster| run_each(cluster, "postgres", &["ALTER ROLE ALL SET aimq.enabled = off"]),
        |cluster| run_each(cluster, "postgres", &["ALTER ROLE ALL RESET aimq.enabled"]),
    );
}

#[test]
fn settings_of_a_role_in_a_database_turn_it_off_and_on() {
    let role = "ALTER ROLE postgres IN DATABASE app";
    assert_heard(
        "aimq.enabled",
        ("off", "on"),
        |cluster| run_each(cluster, "postgres", &[&format!("{role} SET aimq.enabled = off")]),
        |cluster| run_each(cluster, "postgres", &[&format!("{role} SET aimq.enabled TO DEFAULT")]),
    );
}

/// Sets the least time between two notifications, as the configuration has it.
fn set_interval(cluster: &Cluster, interval: &str) {
    let set = format!("ALTER SYSTEM SET aimq.notify_interval = '{interval}'");
    run_each(cluster, "postgres", &[&set, "SELECT pg_reload_conf()"]);
    wait_until_set(cluster, "aimq.notify_interval", interval);
}

/// Something waits for the end of an interval of a minute, which is lowered meanwhile: it comes at once.
#[track_caller]
fn assert_comes_when_lowered(lower: &str, pending: &str) {
    let (_alone, cluster) = app();
    set_interval(&cluster, "1min");
    let mut client = to_app(&cluster);
    let mut listener = Listener::over(to_app(&cluster), CHANNEL);
    // The notifier has read the setting once this has begun an interval of a minute; else the next comes at once.
    loop {
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        listener.wait_for_count("a", 1);
        run(&mut client, "SELECT pgmq.send('a', '{}')");
        let mut notifications = listener.client().notifications();
        let come =
            notifications.timeout_iter(Duration::from_millis(500)).next().expect("listening");
        if come.is_none() {
            break;
        }
    }
    run(&mut client, pending);
    let begun = Instant::now();
    set_interval(&cluster, lower);
    listener.wait_for_count("a", 1);
    assert!(begun.elapsed() < Duration::from_secs(20), "{lower}: after {:?}", begun.elapsed());
}

#[test]
fn a_lower_interval_takes_effect_for_what_is_pending() {
    assert_comes_when_lowered("10ms", "SELECT pgmq.send('a', '{}')");
}

#[test]
fn no_interval_at_all_takes_effect_for_what_is_pending() {
    assert_comes_when_lowered("0", "SELECT pgmq.send('a', '{}')");
}

/// What a look finds waits for the interval too.
#[test]
fn a_lower_interval_takes_effect_for_what_becomes_readable() {
    assert_comes_when_lowered(
        "20ms",
        "SELECT pgmq.read('a', 600, 100); SELECT pgmq.set_vt('a', 1, 1)",
    );
}
