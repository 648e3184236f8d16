//! Messages that a worker without polling never learned of: it listens, drains the queue whenever it is
//! woken, and does nothing else. After each burst of messages there is time to be woken; what is then
//! still in the queue would have waited for a poll.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aimq_lab::progress::Spinner;
use anyhow::{Context, Result};
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

use crate::contestants::{Key, QUEUE};
use crate::measure::Bench;
use crate::results::Wakeups;
use crate::servers::truncate;

/// Producers that send at the same time.
const PRODUCERS: usize = 4;
/// How long after a burst a wake-up may still come: far more than any interval.
const GRACE: Duration = Duration::from_millis(400);

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let spinner = Spinner::new("wake-ups lost");
    for round in 1..=bench.plan.rounds {
        for key in bench.servers.in_turn(round, Key::wakes) {
            spinner.say(&format!("round {round} of {}: {}", bench.plan.rounds, key.title()));
            let sample = sample(bench, key, round).with_context(|| key.title())?;
            bench.results.wakeups.push(sample);
        }
    }
    spinner.end(true);
    Ok(())
}

fn sample(bench: &Bench, key: Key, round: usize) -> Result<Wakeups> {
    let mut client = bench.servers.connect(key)?;
    truncate(&mut client)?;
    let mut producers =
        (0..PRODUCERS).map(|_| bench.servers.connect(key)).collect::<Result<Vec<_>>>()?;
    let mut worker = bench.servers.connect(key)?;
    let channel = key.channel(QUEUE);
    worker.batch_execute(&format!("LISTEN \"{channel}\""))?;
    let stop = AtomicBool::new(false);
    let wake_ups = AtomicU64::new(0);
    let mut found = Wakeups {
        contestant: key,
        round,
        sent: 0,
        lost: 0,
        bursts_with_loss: 0,
        bursts: bench.plan.episodes(),
        wake_ups: 0,
    };
    let left = format!("SELECT count(*) FROM pgmq.q_{QUEUE}");
    std::thread::scope(|scope| {
        let working = scope.spawn(|| work(&mut worker, &stop, &wake_ups));
        let mut load = || -> Result<()> {
            for burst in 0..bench.plan.episodes() {
                let seed = round as u64 * 1000 + u64::from(burst) * 10;
                found.sent += burst_of(&mut producers, seed)?;
                std::thread::sleep(GRACE);
                let lost: i64 = client.query_one(&left, &[])?.get(0);
                found.lost += lost.unsigned_abs();
                found.bursts_with_loss += u32::from(lost > 0);
                // The next burst is on its own.
                client.execute("SELECT pgmq.purge_queue($1)", &[&QUEUE])?;
            }
            Ok(())
        };
        let loaded = load();
        found.wake_ups = wake_ups.load(Ordering::Relaxed);
        stop.store(true, Ordering::Relaxed);
        client.execute("SELECT pg_notify($1, '')", &[&channel])?;
        working.join().ok().context("the worker")??;
        loaded
    })?;
    Ok(found)
}

/// All producers at the same time; returns how many messages they sent.
fn burst_of(producers: &mut [Client], seed: u64) -> Result<u64> {
    std::thread::scope(|scope| {
        let sending: Vec<_> = producers
            .iter_mut()
            .zip(seed..)
            .map(|(producer, seed)| scope.spawn(move || send(producer, seed)))
            .collect();
        let sent = sending.into_iter().map(|it| it.join().ok().context("a producer")?);
        sent.sum()
    })
}

/// Sends up to 30 messages with random gaps: some at once, some milliseconds apart.
fn send(producer: &mut Client, seed: u64) -> Result<u64> {
    let mut random = fastrand::Rng::with_seed(seed);
    let messages = random.u64(1..=30);
    for _ in 0..messages {
        producer.execute("SELECT pgmq.send('q', '{\"n\": 1}')", &[])?;
        if random.bool() {
            std::thread::sleep(Duration::from_micros(random.u64(0..8000)));
        }
    }
    Ok(messages)
}

fn work(worker: &mut Client, stop: &AtomicBool, wake_ups: &AtomicU64) -> Result<()> {
    loop {
        // Clear the wake-ups that have come, then read until the queue is empty.
        let more = worker.notifications().iter().count()?;
        wake_ups.fetch_add(more as u64, Ordering::Relaxed);
        loop {
            let read = worker.query_one("SELECT count(*) FROM pgmq.pop('q', 100)", &[])?;
            if read.get::<_, i64>(0) == 0 {
                break;
            }
        }
        let woken = worker.notifications().blocking_iter().next()?;
        woken.context("the server closed the worker's connection")?;
        wake_ups.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}
