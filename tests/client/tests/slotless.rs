//! Realtime queues for which the notifier's table has no room: more than `aimq.max_queues`, or a route that is too
//! long. Each test has a server of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aimq_client_tests::blocking::*;
use aimq_client_tests::servers::*;
use aimq_client_tests::unseen::*;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use postgres::Client;

const ROOM: &str = "aimq.max_queues=4";

/// The queue `a` of each server, and eleven more.
fn twelve_queues(cluster: &Cluster) -> Vec<String> {
    let mut client = connect(cluster);
    run(&mut client, "SELECT aimq.create_queue('q' || n) FROM generate_series(1, 11) n");
    std::iter::once("a".into()).chain((1..=11).map(|n| format!("q{n}"))).collect()
}

/// A worker that never polls has, of each of `queues`, as many messages as `wanted`. First `prepare` does what makes
/// them readable, sooner or later.
#[track_caller]
fn assert_worked(
    cluster: &Cluster,
    queues: &[String],
    wanted: i64,
    prepare: impl FnOnce(&mut Client),
) {
    let mut listener = listen(cluster);
    prepare(&mut connect(cluster));
    let queues: Vec<&str> = queues.iter().map(String::as_str).collect();
    let count = i64::try_from(queues.len()).expect("few");
    let had = worked(listener.client(), &queues, count * wanted, DELAY + SOON);
    let missed: BTreeMap<_, _> = had.iter().filter(|(_, had)| **had != wanted).collect();
    assert!(missed.is_empty(), "of {} queues these had less than {wanted}: {missed:?}", had.len());
}

/// Messages that nobody hears of before they are read, and that are in work.
fn read_one_of_each(client: &mut Client, queues: &[String], vt: &str) {
    for queue in queues {
        run(client, "SET aimq.enabled = off");
        run(client, &format!("SELECT pgmq.send('{queue}', '{{}}')"));
        run(client, "SET aimq.enabled = on");
        let read = format!("SELECT count(*) FROM pgmq.read('{queue}', {vt}, 1)");
        assert_eq!(value::<i64>(client, &read), 1, "{queue}");
    }
}

fn delay_one_of_each(client: &mut Client, queues: &[String]) {
    for queue in queues {
        run(client, &format!("SELECT pgmq.send('{queue}', '{{}}', 2)"));
    }
}

#[test]
fn slotless_queues_wake_for_delayed_and_abandoned_messages() {
    let (_alone, cluster) = server(&[ROOM]);
    let queues = twelve_queues(&cluster);
    assert_worked(&cluster, &queues, 2, |client| {
        read_one_of_each(client, &queues, "2");
        delay_one_of_each(client, &queues);
    });
}

/// The first process to use it makes the table, with what the configuration says.
#[test]
fn from_17_slotless_queues_wake_where_aimq_is_not_preloaded() {
    let alone = alone();
    let cluster = bare(&[ROOM]);
    let mut client = connect(&cluster);
    run(&mut client, "CREATE EXTENSION aimq CASCADE; SELECT aimq.create_queue('a')");
    wait_until_running(&mut client);
    let queues = twelve_queues(&cluster);
    assert_worked(&cluster, &queues, 2, |client| {
        read_one_of_each(client, &queues, "2");
        delay_one_of_each(client, &queues);
    });
    drop(alone);
}

/// A listener that was told of a message that somebody else had, or that was put off, has to be told again.
#[test]
fn slotless_queues_wake_for_what_is_moved_and_what_comes_back() {
    let (_alone, cluster) = server(&[ROOM]);
    let queues = twelve_queues(&cluster);
    let mut rolled_back = connect(&cluster);
    read_one_of_each(&mut rolled_back, &queues, "600");
    assert_worked(&cluster, &queues, 1, |client| {
        for queue in &queues {
            run(client, &format!("SELECT pgmq.set_vt('{queue}', 1, 1)"));
        }
    });
    for queue in &queues {
        run(&mut rolled_back, &format!("SELECT pgmq.set_vt('{queue}', 1, 0)"));
        let taken = format!("BEGIN; SELECT pgmq.pop('{queue}')");
        run(&mut rolled_back, &taken);
        assert_worked(&cluster, std::slice::from_ref(queue), 1, |_| {
            run(&mut rolled_back, "ROLLBACK")
        });
    }
}

#[test]
fn slotless_queue_whose_route_is_long_wakes() {
    let (_alone, cluster) = server(&[]);
    let long = ["long".to_owned()];
    let event = "e".repeat(300);
    let create = format!("SELECT aimq.create_queue('long', event => '{event}')");
    run(&mut connect(&cluster), &create);
    assert_worked(&cluster, &long, 2, |client| {
        read_one_of_each(client, &long, "2");
        delay_one_of_each(client, &long);
    });
}

/// A slot becomes free while a message is being committed that had found none. Who takes it to block there looks before
/// the message can be seen, and goes to sleep.
#[test]
fn slotless_message_wakes_who_gets_a_slot_during_its_commit() {
    // A commit hangs that waits for a standby which there is not.
    let hangs = ["synchronous_standby_names=nobody", "synchronous_commit=local"];
    let (_alone, cluster) = server(&[ROOM, hangs[0], hangs[1]]);
    twelve_queues(&cluster);
    let mut client = connect(&cluster);
    let without = "SELECT subject FROM aimq.doctor() WHERE problem LIKE 'no slot%' ORDER BY 1";
    wait_until("the slots to be taken", || names(&mut client, without).len() == 8);
    let queue = names(&mut client, without).remove(0);

    let mut producer = connect(&cluster);
    let pid: i32 = value(&mut producer, "SELECT pg_backend_pid()");
    let send = format!("SET synchronous_commit = on; SELECT pgmq.send('{queue}', '{{}}')");
    let sends = std::thread::spawn(move || run(&mut producer, &send));
    let hangs = format!("SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = {pid}");
    wait_until("the commit to hang", || {
        value::<Option<bool>>(&mut client, &hangs).unwrap_or_default()
    });
    let others = format!(
        "SELECT aimq.disable_realtime(queue) FROM aimq.queues WHERE realtime AND queue <> '{queue}'"
    );
    run(&mut client, &others);
    let sql = format!("SELECT msg_id FROM aimq.read('{queue}', 600, 1, '60 s')");
    let blocked = block_over(connect(&cluster), &mut client, &sql);
    run(&mut client, &format!("SELECT pg_cancel_backend({pid})"));
    sends.join().expect("the producer");
    assert_eq!(blocked.ends_by(Instant::now() + SOON), Some(Ok(vec![1])));
}

/// What is there before a notifier begins is found by looking at it, slot or none.
#[test]
fn slotless_queues_wake_after_a_restart() {
    let (_alone, cluster) = server(&[ROOM]);
    let queues = twelve_queues(&cluster);
    let mut client = connect(&cluster);
    let later = "clock_timestamp() + interval '6 s'";
    for queue in &queues {
        run(&mut client, &format!("SELECT pgmq.send('{queue}', '{{}}', {later})"));
    }
    cluster.shut_down("fast").expect("shutdown");
    cluster.run().expect("a start");
    assert_worked(&cluster, &queues, 1, |_| {});
}

/// Unless it has room for all.
#[test]
fn slotless_queues_are_named_by_the_doctor() {
    let (_alone, cluster) = server(&[ROOM]);
    let mut queues = twelve_queues(&cluster);
    let event = "e".repeat(300);
    let mut client = connect(&cluster);
    run(&mut client, &format!("SELECT aimq.create_queue('long', event => '{event}')"));
    queues.push("long".into());
    // Each has been used, so that each has asked for a slot.
    for queue in &queues {
        run(&mut client, &format!("SELECT pgmq.send('{queue}', '{{}}')"));
    }
    let with_slot = names(&mut client, "SELECT queue FROM aimq._queue_counters()");
    let told = names(&mut client, "SELECT concat_ws(' ', subject, problem) FROM aimq.doctor()");
    let names_it = |queue: &String| {
        let is_it = |word: &str| word == queue.as_str();
        told.iter().any(|row| row.split(|c: char| !c.is_alphanumeric()).any(is_it))
    };
    let unnamed: Vec<_> =
        queues.iter().filter(|it| !with_slot.contains(it) && !names_it(it)).collect();
    assert!(unnamed.is_empty(), "without a slot, and unnamed: {unnamed:?}; {told:#?}");
}

/// Slots are for the whole server, but one database does not have all of them.
#[test]
fn slotless_queues_of_one_database_leave_another_its_slots() {
    let (_alone, cluster) = server(&["aimq.max_queues=8"]);
    let mut client = connect(&cluster);
    run(&mut client, "CREATE DATABASE other");
    run(&mut client, "SELECT aimq.create_queue('q' || n) FROM generate_series(1, 19) n");
    for n in 1..=19 {
        run(&mut client, &format!("SELECT pgmq.send('q{n}', '{{}}')"));
    }
    wait_until("slots to be taken", || {
        value::<i64>(&mut client, "SELECT count(*) FROM aimq._queue_counters()") >= 4
    });
    let mut other = cluster.connect("other").expect("connect");
    run(&mut other, "CREATE EXTENSION aimq CASCADE");
    run(&mut other, "SELECT aimq.create_queue(q) FROM unnest(ARRAY['b', 'c']) q");
    wait_until_running(&mut other);
    let slots = "SELECT queue FROM aimq._queue_counters() ORDER BY 1";
    let deadline = std::time::Instant::now() + SOON;
    let mut seen = names(&mut other, slots);
    while seen != ["b", "c"] {
        assert!(std::time::Instant::now() < deadline, "the other database has slots for {seen:?}");
        for queue in ["b", "c"] {
            run(&mut other, &format!("SELECT pgmq.send('{queue}', '{{}}')"));
        }
        std::thread::sleep(Duration::from_millis(50));
        seen = names(&mut other, slots);
    }
}
