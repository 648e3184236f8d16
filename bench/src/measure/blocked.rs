//! What waking one of many costs: 200 sessions that block in `aimq.read`, and 200 that listen and read. One message
//! after another, each after a quiet time, so that all there is to do is its own.
//!
//! Sessions that are woken for nothing are seen from outside, in the same way whatever the extension does inside: a
//! process that wakes and finds nothing must go to sleep again, which the kernel counts as a voluntary switch of
//! context. So of the sessions that did *not* get a message, every such switch between its sending and the next is an
//! empty wake-up, or a part of one. (Counts of function calls would not be enough: a session that is woken and sleeps
//! on within one call makes none, and one that blocks reports none.) Listeners say themselves when a read found
//! nothing: their switches would be twice as many.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::callers::{Call, Callers, Said};
use crate::contestants::QUEUE;
use crate::cpu::Meter;
use crate::measure::Bench;
use crate::results::Blocked;
use crate::servers::truncate;

const SESSIONS: usize = 200;
/// How long nobody must have done anything before the next message, in milliseconds.
const QUIET: std::ops::Range<u64> = 10..20;
/// A message that has not been finished by then never will be.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    bench.rounds("200 sessions that block, or listen", 1..=bench.plan.rounds, |bench, round| {
        let mut ways = [Call::Blocks, Call::Listens];
        ways.rotate_left(round.number % 2);
        for way in ways {
            round.say(way.title());
            let sample = sample(bench, way, round.number)?;
            bench.results.blocked.push(sample);
        }
        Ok(())
    })
}

fn sample(bench: &Bench, way: Call, round: usize) -> Result<Blocked> {
    let key = way.contestant();
    let cluster = bench.servers.of(key);
    let mut client = bench.servers.enter(key)?;
    let send = client.prepare("SELECT pgmq.send($1, ($2::text)::jsonb)")?;
    let mut callers = Callers::start(cluster, way, SESSIONS, |_| QUEUE.into())?;
    callers.call(way)?;
    let mut found = Blocked {
        way,
        round,
        sessions: SESSIONS,
        sent: 0,
        missed: 0,
        handed_us: Vec::new(),
        empty_reads: 0,
        idle_switches: 0,
        switches: 0,
        cpu_us: 0.0,
    };
    // The same gaps for both.
    let mut random = fastrand::Rng::with_seed(round as u64);
    let mut seen = callers.sleeps()?;
    let mut last = One::default();
    let cpu = Meter::start(cluster)?;
    for _ in 0..bench.plan.blocked_messages {
        client.execute(&send, &[&QUEUE, &callers.message()])?;
        let one = follow(&callers, Duration::from_millis(random.u64(QUIET)))?;
        if one.missed() {
            truncate(&mut client)?;
        }
        let now = callers.sleeps()?;
        for (at, (now, before)) in now.iter().zip(&seen).enumerate() {
            found.switches += now - before;
            // The session that had the message before may have been on its way back to sleep.
            let is_idle = ![&one.served, &last.served].iter().any(|served| served.contains(&at));
            found.idle_switches += if is_idle { now - before } else { 0 };
        }
        seen = now;
        found.sent += 1;
        found.missed += u64::from(one.missed());
        found.empty_reads += one.empty_reads;
        found.handed_us.extend(&one.handed_us);
        last = one;
    }
    found.cpu_us = cpu.so_far()?.us_each(found.sent as f64);
    Ok(found)
}

/// What came of one message.
#[derive(Default)]
struct One {
    /// Those who got it.
    served: Vec<usize>,
    done: usize,
    handed_us: Vec<u32>,
    empty_reads: u64,
}

impl One {
    fn missed(&self) -> bool {
        self.done == 0
    }
}

/// Waits until a message has been finished, and then until nobody has done anything for a while.
fn follow(callers: &Callers, quiet: Duration) -> Result<One> {
    let mut one = One::default();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let until = if one.missed() { deadline } else { Instant::now() + quiet };
        match callers.next(until)? {
            Some(Said::Has { number, us }) => {
                one.served.push(number);
                one.handed_us.push(us);
            }
            Some(Said::Done) => one.done += 1,
            Some(Said::Nothing) => one.empty_reads += 1,
            Some(_) => {}
            None => return Ok(one),
        }
    }
}
