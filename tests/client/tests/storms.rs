//! Sessions that block are cancelled, ended, killed, and left by their clients, under load: no message stands
//! beside one that sleeps, and nothing of them is left. Each test has a server of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aimq_client_tests::servers::*;
use aimq_client_tests::*;
use aimq_lab::cluster::Cluster;
use postgres::{Client, NoTls};

const WORKERS: usize = 32;
/// How long a worker whose session was hit stays away: if it came back at once, it would look, and find what it had
/// stranded.
const AWAY: Duration = Duration::from_secs(1);
/// How often the storm hits: some six seconds.
const TURNS: usize = 80;
const TURN: Duration = Duration::from_millis(60);
/// Between two looks whether the messages are finished, or the server is back.
const PACE: Duration = Duration::from_millis(2);

/// What happens to the sessions that wait.
const STORM: [&str; 4] = [
    "SELECT pg_cancel_backend(pid) FROM aimq.waiters ORDER BY random() LIMIT 1",
    "SELECT pg_terminate_backend(pid) FROM aimq.waiters ORDER BY random() LIMIT 1",
    // The sessions that are about to be called.
    "SELECT pg_cancel_backend(pid) FROM aimq.waiters ORDER BY since LIMIT 1",
    "SELECT pg_terminate_backend(pid) FROM aimq.waiters ORDER BY since LIMIT 1",
];

#[test]
fn a_storm_of_waiters_strands_no_message() {
    let (_alone, cluster) = server(&["client_connection_check_interval=50"]);
    storm(&cluster, 0);
}

#[test]
fn from_17_a_storm_of_waiters_strands_no_message_without_preload() {
    let _alone = alone();
    let cluster = bare(&["client_connection_check_interval=50"]);
    let mut client = connect(&cluster);
    run(&mut client, "CREATE EXTENSION aimq CASCADE");
    run(&mut client, "SELECT aimq.create_queue('a')");
    wait_until_running(&mut client);
    storm(&cluster, 0);
}

/// A process that is killed by SIGKILL takes all others with it: the server starts again.
#[test]
fn waiters_that_crash_the_server_strand_no_message() {
    let (_alone, cluster) = server(&["client_connection_check_interval=50"]);
    storm(&cluster, 3);
}

fn storm(cluster: &Cluster, crashes: usize) {
    let [calm, stop] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let start = |work: fn(&Path, &AtomicBool), until: &Arc<AtomicBool>| {
        let (folder, until) = (cluster.folder().to_owned(), Arc::clone(until));
        std::thread::spawn(move || work(&folder, &until))
    };
    let workers: Vec<_> = (0..WORKERS).map(|_| start(worker, &stop)).collect();
    let observer = observe(cluster.folder().to_owned(), Arc::clone(&stop));
    let producer = start(producer, &calm);
    let mut client = connect(cluster);
    let (mut hit, mut crashed) = (0, 0);
    for turn in 1..=TURNS {
        match client.query(STORM[turn % STORM.len()], &[]) {
            Ok(rows) => hit += rows.len(),
            Err(_) => client = reconnect(cluster),
        }
        if turn.is_multiple_of(10) {
            vanish(cluster.folder());
        }
        if crashed < crashes && turn > TURNS / (crashes + 1) * (crashed + 1) {
            let victim = "SELECT pid FROM aimq.waiters ORDER BY random() LIMIT 1";
            if let Ok(Some(row)) = client.query_opt(victim, &[])
                && try_kill("KILL", row.get(0))
            {
                crashed += 1;
            }
        }
        // The storm's own pace.
        std::thread::sleep(TURN);
    }
    assert_eq!(crashed, crashes, "not as many crashes as asked for");
    calm.store(true, SeqCst);
    producer.join().expect("a producer");
    // What somebody died over comes back after its visibility timeout of a second.
    let mut client = reconnect(cluster);
    wait_until("all to be finished", || {
        value::<i64>(&mut client, "SELECT count(*) FROM pgmq.q_a") == 0
    });
    stop.store(true, SeqCst);
    wait_until("the workers to end", || {
        run(&mut client, "SELECT pg_cancel_backend(pid) FROM aimq.waiters");
        workers.iter().all(JoinHandle::is_finished)
    });
    workers.into_iter().for_each(|worker| worker.join().expect("a worker"));
    wait_until("the waiters to be gone", || {
        value::<i64>(&mut client, "SELECT count(*) FROM aimq.waiters") == 0
    });
    // No session counts as waiting any more.
    let calls: i64 = value(&mut client, "SELECT calls FROM aimq.stats");
    run(&mut client, "SELECT pgmq.send('a', '{}') FROM generate_series(1, 10)");
    assert_eq!(value::<i64>(&mut client, "SELECT count(*) FROM aimq.read('a', 60, 10)"), 10);
    assert_eq!(value::<i64>(&mut client, "SELECT calls FROM aimq.stats"), calls);
    let seen = observer.join().expect("the observer");
    let finished: i64 = value(&mut client, "SELECT count(*) FROM pgmq.a_a");
    println!(
        "{finished} messages, {hit} sessions hit, {crashed} crashes: the longest that a message stood \
         beside a session was {} ms ({} looks, {} of them over 50 ms)",
        seen.longest.as_millis(),
        seen.looks,
        seen.over_50_ms
    );
    // Until the notifier is back after a crash, sessions poll.
    let bound = if crashes == 0 { AWAY / 2 } else { AWAY * 2 };
    assert!(seen.longest < bound, "{:?}", seen.longest);
}

/// Sends a few messages at a time, whatever happens to the server, and waits until all are finished: if others
/// came meanwhile, they would call somebody for one that is stranded.
fn producer(folder: &Path, calm: &AtomicBool) {
    let mut sent = 0;
    until(calm, folder, |client| {
        let few = 1 + sent % 4;
        let send = format!("SELECT pgmq.send('a', '{{}}') FROM generate_series(1, {few})");
        client.batch_execute(&send)?;
        sent += few;
        while client.query_one("SELECT EXISTS (SELECT FROM pgmq.q_a)", &[])?.get(0) {
            std::thread::sleep(PACE);
        }
        Ok(())
    });
}

/// Reads and archives, whatever happens to its session.
fn worker(folder: &Path, stop: &AtomicBool) {
    until(stop, folder, |client| {
        let read = client.query("SELECT msg_id FROM aimq.read('a', 1, 1, '60 s')", &[]);
        match &read.as_ref().map(|rows| rows.first()) {
            Ok(Some(row)) => {
                let id: i64 = row.get(0);
                client.execute("SELECT pgmq.archive('a', $1::bigint)", &[&id])?;
            }
            Ok(None) => {}
            Err(_) => std::thread::sleep(AWAY),
        }
        Ok(())
    });
}

/// Does something again and again, in another session when that is gone.
fn until(
    over: &AtomicBool,
    folder: &Path,
    mut work: impl FnMut(&mut Client) -> Result<(), postgres::Error>,
) {
    while !over.load(SeqCst) {
        let Ok(mut client) = config(folder).connect(NoTls) else {
            std::thread::sleep(PACE);
            continue;
        };
        while !over.load(SeqCst) && !client.is_closed() {
            let _ = work(&mut client);
        }
    }
}

/// A client that blocks, and is gone without a word. Its server process notices that.
fn vanish(folder: &Path) {
    let mut psql = program("psql");
    psql.arg("-h").arg(folder).args(["-U", "postgres", "-d", "postgres", "-qc"]);
    psql.arg("SELECT aimq.read('a', 1, 1, '60 s')").stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = psql.spawn().expect("psql");
    std::thread::sleep(Duration::from_millis(30));
    let _ = client.kill();
    client.wait().expect("psql");
}

#[derive(Default)]
struct Seen {
    longest: Duration,
    looks: u32,
    over_50_ms: u32,
}

/// Watches for how long a message stands beside a session that waits.
fn observe(folder: PathBuf, stop: Arc<AtomicBool>) -> JoinHandle<Seen> {
    const LOOK: &str = "
        SELECT (SELECT count(*) FROM aimq._waiters()),
               (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(vt)), 0)::float8
                  FROM pgmq.q_a WHERE vt <= clock_timestamp())";
    std::thread::spawn(move || {
        let mut seen = Seen::default();
        // Since when somebody has waited at each look.
        let mut waits_since = None;
        until(&stop, &folder, |client| {
            let begun = Instant::now();
            let row = client.query_one(LOOK, &[]).inspect_err(|_| waits_since = None)?;
            seen.looks += 1;
            if row.get::<_, i64>(0) == 0 {
                waits_since = None;
            } else {
                let waited = waits_since.get_or_insert(begun).elapsed();
                let stands = Duration::from_secs_f64(row.get::<_, f64>(1).max(0.0)).min(waited);
                seen.longest = seen.longest.max(stands);
                seen.over_50_ms += u32::from(stands > Duration::from_millis(50));
            }
            std::thread::sleep(PACE);
            Ok(())
        });
        seen
    })
}
