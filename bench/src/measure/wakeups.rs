//! Messages that a worker without polling never learned of: it listens, drains the queue whenever it is
//! woken, and does nothing else. After each burst of messages there is time to be woken; what is then
//! still in the queue would have waited for a poll.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use postgres::Client;
use postgres::fallible_iterator::FallibleIterator;

use crate::contestants::{Key, QUEUE};
use crate::measure::Bench;
use crate::measure::producers::{self, PRODUCERS};
use crate::results::Wakeups;
use crate::servers::count;

/// How long after a burst a wake-up may still come: far more than any interval.
const GRACE: Duration = Duration::from_millis(400);

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    bench.rounds("wake-ups lost", 1..=bench.plan.rounds, |bench, round| {
        for key in bench.servers.in_turn(round.number, Key::wakes) {
            round.say(key.title());
            let sample = sample(bench, key, round.number).with_context(|| key.title())?;
            bench.results.wakeups.push(sample);
        }
        Ok(())
    })
}

fn sample(bench: &Bench, key: Key, round: usize) -> Result<Wakeups> {
    let mut client = bench.servers.enter(key)?;
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
        bursts: bench.plan.episodes,
        wake_ups: 0,
    };
    std::thread::scope(|scope| {
        let working = scope.spawn(|| work(&mut worker, &stop, &wake_ups));
        let mut load = || -> Result<()> {
            for burst in 0..bench.plan.episodes {
                let seed = round as u64 * 1000 + u64::from(burst) * 10;
                found.sent += producers::send_at_once(&mut producers, seed, send)?;
                std::thread::sleep(GRACE);
                let lost = count(&mut client, "q")?;
                found.lost += lost;
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

/// Sends up to 30 messages with random gaps: some at once, some milliseconds apart.
fn send(producer: &mut Client, mut random: fastrand::Rng) -> Result<u64> {
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
