//! Workers that block in `aimq.read` beside workers that poll: what they cost while there is nothing to do, how
//! soon they have a single message, and both under a steady load.
//!
//! A worker that polls may lock a message that another has just read (`FOR UPDATE` follows the row to its new version,
//! and finds it unfit), and keeps the lock until its call returns: the other's archive waits for it, up to half a
//! minute. So a message counts as soon as a worker has it, and those that are not archived in the end are counted by
//! themselves.

use std::time::{Duration, Instant};

use anyhow::Result;
use postgres::{Client, Statement};

use crate::callers::{Call, Callers, Said};
use crate::contestants::QUEUE;
use crate::cpu::Meter;
use crate::measure::Bench;
use crate::results::Polling;

const WORKERS: usize = 16;
/// Between two single messages, in milliseconds: around the interval of `read_with_poll`, so that they meet it
/// anywhere.
const GAP: std::ops::Range<u64> = 50..150;
/// Messages for each second of the steady load.
const RATE: u32 = 500;
/// A message that no worker has by then never will be read.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the last archives may take.
const GRACE: Duration = Duration::from_secs(1);

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    bench.rounds("blocking calls beside polling", 1..=bench.plan.few_rounds, |bench, round| {
        let mut ways = [Call::Blocks, Call::Polls];
        ways.rotate_left(round.number % 2);
        for way in ways {
            round.say(way.title());
            let sample = sample(bench, way, round.number)?;
            bench.results.polling.push(sample);
        }
        Ok(())
    })
}

/// The session that sends, and the sessions that read.
struct Place {
    client: Client,
    send: Statement,
    callers: Callers,
    handed_us: Vec<u32>,
    sent: u64,
    handed: u64,
    done: u64,
}

fn sample(bench: &Bench, way: Call, round: usize) -> Result<Polling> {
    let cluster = bench.servers.of(way.contestant());
    let time = bench.plan.polling_time;
    let mut place = Place::enter(bench, way)?;

    let (begun, cpu) = (Instant::now(), Meter::start(cluster)?);
    std::thread::sleep(time);
    // Microseconds for each millisecond are milliseconds for each second.
    let idle_ms = cpu.so_far()?.us_each(begun.elapsed().as_secs_f64() * 1000.0);

    // The same gaps for both.
    let mut random = fastrand::Rng::with_seed(round as u64);
    for _ in 0..bench.plan.polling_messages {
        std::thread::sleep(Duration::from_millis(random.u64(GAP)));
        place.send()?;
        place.wait()?;
    }
    let single_us = std::mem::take(&mut place.handed_us);

    let cpu = Meter::start(cluster)?;
    let begun = Instant::now();
    let mut messages = 0;
    // By the clock: a machine that can't keep up takes no longer, and the rate says so.
    while begun.elapsed() < time {
        place.send()?;
        messages += 1;
        let due = begun + Duration::from_secs(1) * messages / RATE;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let rate = f64::from(messages) / begun.elapsed().as_secs_f64();
    place.wait()?;
    let cpu_us = cpu.so_far()?.us_each(f64::from(messages));
    place.wait_for_archives()?;
    Ok(Polling {
        way,
        round,
        workers: WORKERS,
        idle_ms,
        single_us,
        steady_us: std::mem::take(&mut place.handed_us),
        rate: rate.round(),
        cpu_us,
        missed: place.sent - place.handed,
        unarchived: place.handed - place.done,
    })
}

impl Place {
    fn enter(bench: &Bench, way: Call) -> Result<Self> {
        let key = way.contestant();
        let mut client = bench.servers.enter(key)?;
        let send = client.prepare("SELECT pgmq.send($1, ($2::text)::jsonb)")?;
        let mut callers = Callers::start(bench.servers.of(key), way, WORKERS, |_| QUEUE.into())?;
        callers.call(way)?;
        let handed_us = Vec::new();
        let mut place = Self { client, send, callers, handed_us, sent: 0, handed: 0, done: 0 };
        // Until each of them has finished some: nobody's first is measured.
        for _ in 0..WORKERS * 4 {
            place.send()?;
        }
        place.wait()?;
        place.handed_us.clear();
        Ok(place)
    }

    fn send(&mut self) -> Result<()> {
        self.client.execute(&self.send, &[&QUEUE, &self.callers.message()])?;
        self.sent += 1;
        Ok(())
    }

    /// Until some worker has had each message, or never will.
    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.handed < self.sent && self.hears(deadline)? {}
        Ok(())
    }

    fn wait_for_archives(&mut self) -> Result<()> {
        let deadline = Instant::now() + GRACE;
        while self.done < self.handed && self.hears(deadline)? {}
        Ok(())
    }

    /// False if nobody said anything until then.
    fn hears(&mut self, deadline: Instant) -> Result<bool> {
        let said = self.callers.next(deadline)?;
        match said {
            Some(Said::Has { us, .. }) => {
                self.handed += 1;
                self.handed_us.push(us);
            }
            Some(Said::Done) => self.done += 1,
            Some(_) => {}
            None => return Ok(false),
        }
        Ok(true)
    }
}
