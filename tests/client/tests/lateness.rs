//! How late a worker that never polls has what becomes readable by time alone, in queues with a slot and without one.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aimq_client_tests::servers::*;
use aimq_client_tests::unseen::heard_by;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use postgres::Client;

const DATABASES: [&str; 2] = ["postgres", "other"];
const QUEUES: usize = 100;

/// How many messages there are; `AIMQ_LATE_MESSAGES` says otherwise, for figures that are taken by hand.
fn messages() -> usize {
    let wanted = std::env::var("AIMQ_LATE_MESSAGES").ok();
    wanted.map_or(800, |wanted| wanted.parse().expect("a number"))
}

/// How long after the last message was due it may be read. Here others may be at work.
const SOON: Duration = Duration::from_secs(5);

/// A message that was read: its queue, whether it had been in work, and how many milliseconds it was late.
type Had = (String, bool, f64);

/// Reads what it is told of, until it has so many, or nothing comes for too long.
fn worker(mut client: Client, wanted: usize) -> Vec<Had> {
    let mut had = Vec::new();
    while had.len() < wanted {
        let Some(payload) = heard_by(&mut client, Instant::now() + SOON) else { break };
        // None are named where there are too many.
        let all = || (0..QUEUES).map(|number| format!("q{number}")).collect();
        for queue in payload.queues.map_or_else(all, |it| it.into_keys().collect::<Vec<_>>()) {
            let take = format!(
                "DELETE FROM pgmq.q_{queue} WHERE vt <= clock_timestamp()
                 RETURNING read_ct > 0, (extract(epoch FROM clock_timestamp() - vt) * 1000)::float8"
            );
            let rows = client.query(&take, &[]).expect("messages");
            had.extend(rows.iter().map(|row| (queue.clone(), row.get(0), row.get(1))));
        }
    }
    had
}

/// Half of them are delayed. The others nobody hears of, and they are read at once by somebody who then does nothing.
fn produce(client: &mut Client, count: usize) {
    for number in 0..count {
        let (queue, delay) = (number * 7 % QUEUES, 1 + number * 13 % 5);
        run(
            client,
            &match number / QUEUES % 2 {
                0 => format!("SELECT pgmq.send('q{queue}', '{{}}', {delay})"),
                _ => format!(
                    "SET LOCAL aimq.enabled = off; SELECT pgmq.send('q{queue}', '{{}}');
                     SET LOCAL aimq.enabled = on; SELECT pgmq.read('q{queue}', {delay}, 1)"
                ),
            },
        );
        std::thread::sleep(Duration::from_millis(10)); // the load is no more than that
    }
}

/// p50, p95, p99 and the last, past the harness, which shows nothing of a test that passes: for the log.
fn say(kind: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let at = |share: usize| times[(times.len() * share).div_ceil(100).max(1) - 1];
    let [p50, p95, p99, last] = [50, 95, 99, 100].map(at);
    let count = times.len();
    let said =
        format!("late, {kind}: p50 {p50:.1} p95 {p95:.1} p99 {p99:.1} max {last:.1} ms of {count}");
    writeln!(std::io::stderr(), "{said}").expect("stderr");
}

fn with_queues(cluster: &Cluster, database: &str) -> Client {
    let mut client = cluster.connect(database).expect("connect");
    run(&mut client, "CREATE EXTENSION IF NOT EXISTS aimq CASCADE");
    let create = "SELECT aimq.create_queue('q' || n) FROM generate_series(0, $) n";
    run(&mut client, &create.replace('$', &(QUEUES - 1).to_string()));
    wait_until_running(&mut client);
    client
}

#[test]
fn lateness_of_two_hundred_queues_with_few_slots() {
    let (_alone, cluster) = server(&["aimq.max_queues=16"]);
    run(&mut connect(&cluster), "CREATE DATABASE other");
    let count = messages() / DATABASES.len();
    let mut all = BTreeMap::new();
    let is_missing = AtomicBool::new(false);
    let mut clients = DATABASES.map(|database| with_queues(&cluster, database));
    std::thread::scope(|scope| {
        let workers = DATABASES.map(|database| {
            let mut listener = cluster.connect(database).expect("connect");
            run(&mut listener, &format!("LISTEN {}", quoted(CHANNEL)));
            let worker = scope.spawn(move || worker(listener, count));
            let mut producer = cluster.connect(database).expect("connect");
            scope.spawn(move || produce(&mut producer, count));
            worker
        });
        for (worker, client) in workers.into_iter().zip(&mut clients) {
            let had = worker.join().expect("a worker");
            is_missing.fetch_or(had.len() != count, Ordering::Relaxed);
            let with_slot = names(client, "SELECT DISTINCT queue FROM aimq._queue_counters()");
            assert!((1..=16).contains(&with_slot.len()), "{with_slot:?}");
            for (queue, was_in_work, late) in had {
                let kind = match (was_in_work, with_slot.contains(&queue)) {
                    (false, true) => "delayed, with a slot",
                    (false, false) => "delayed, without a slot",
                    (true, true) => "abandoned, with a slot",
                    (true, false) => "abandoned, without a slot",
                };
                all.entry(kind).or_insert_with(Vec::new).push(late);
            }
        }
    });
    for (kind, times) in &mut all {
        say(kind, times);
    }
    let had: usize = all.values().map(Vec::len).sum();
    assert!(!is_missing.into_inner(), "{had} of {} were had", count * DATABASES.len());
    assert_eq!(all.len(), 4, "{:?}", all.keys());
}
