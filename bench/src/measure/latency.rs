//! From sending the enqueuing statement to the listener's receipt, and beside it the statement's own
//! time. The messages that are followed go to a queue of their own, so that each notification is known
//! to be about one of them; by default it shares the channel of the queue that the load goes to.

use std::time::{Duration, Instant};

use aimq_lab::progress::Spinner;
use anyhow::Result;

use crate::contestants::{APART, Key, PROBE};
use crate::listeners::Listeners;
use crate::load::Load;
use crate::measure::Bench;
use crate::results::{Background, Latency};

/// How long pgbench's clients take to connect and find their pace.
const WARM_UP: Duration = Duration::from_millis(700);

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let rate = steady_rate(bench)?;
    let quick = bench.plan.quick;
    bench.rounds("wake-up latency", 1..=bench.plan.rounds, |bench, round| {
        for background in
            [Background::Idle, Background::Steady, Background::SteadyApart, Background::Saturated]
        {
            if quick && background == Background::SteadyApart {
                continue;
            }
            let everybody = matches!(background, Background::Idle | Background::Steady);
            let main = |key: Key| {
                everybody && !(quick && background == Background::Steady)
                    || key.is_aimq() && key.preloaded()
            };
            for key in bench.servers.in_turn(round.number, |key| key.wakes() && main(key)) {
                round.say(format_args!("{background:?}: {}", key.title()));
                let sample = sample(bench, key, round.number, background, rate)?;
                bench.results.latency.push(sample);
            }
        }
        Ok(())
    })
}

/// Six tenths of what the slowest contestant can do with 16 clients: the same for all.
fn steady_rate(bench: &Bench) -> Result<f64> {
    let spinner = Spinner::new("what rate everybody can keep up with");
    let mut slowest = f64::INFINITY;
    for key in &bench.servers.contestants {
        spinner.say(key.title());
        let load = Load { clients: 16, seconds: 1, rate: None, synchronous_commit: true };
        slowest = slowest.min(load.run(bench.major, bench.servers.of(*key), *key)?);
    }
    spinner.end(true);
    Ok((slowest * 0.6).round())
}

fn sample(
    bench: &Bench,
    key: Key,
    round: usize,
    background: Background,
    rate: f64,
) -> Result<Latency> {
    let cluster = bench.servers.of(key);
    let mut client = bench.servers.enter(key)?;
    let queue = if background == Background::SteadyApart { APART } else { PROBE };
    let channel = key.channel(queue);
    let mut listeners = Listeners::start(cluster, &key.database(), &channel, 1)?;
    let rate = (background != Background::Saturated).then_some(rate);
    let time = bench.plan.latency_time;
    let load = if background == Background::Idle {
        None
    } else {
        // Whole seconds, and some to spare: the load must outlast the messages that are followed.
        let seconds = (time + WARM_UP).as_secs_f64().ceil() as u32 + 5;
        let load = Load { clients: 16, seconds, rate, synchronous_commit: true };
        Some(load.start(bench.major, cluster, key)?)
    };
    std::thread::sleep(if load.is_some() { WARM_UP } else { Duration::from_millis(100) });
    let mut found = Latency {
        contestant: key,
        round,
        background,
        rate: rate.filter(|_| load.is_some()),
        statement_us: Vec::new(),
        wake_us: Vec::new(),
        missed: 0,
    };
    // The same gaps for everybody.
    let mut random = fastrand::Rng::with_seed(round as u64);
    let send = client.prepare("SELECT pgmq.send($1, '{\"n\": 1}')")?;
    client.execute(&send, &[&queue])?;
    let end = Instant::now() + time;
    while Instant::now() < end {
        // When idle the gap is more than twice the notifier's default interval: each message comes after
        // a quiet time.
        let gap = if load.is_some() { 10..30 } else { 25..60 };
        std::thread::sleep(Duration::from_micros(random.u64(gap.start * 1000..gap.end * 1000)));
        listeners.forget();
        let sent = Instant::now();
        client.execute(&send, &[&queue])?;
        found.statement_us.push(micros(sent.elapsed()));
        let deadline = sent + patience(key);
        loop {
            let Some(heard) = listeners.next(deadline) else {
                found.missed += 1;
                break;
            };
            if key.tells_of(queue, &heard.payload) {
                found.wake_us.push(micros(heard.at.saturating_duration_since(sent)));
                break;
            }
        }
    }
    if let Some(load) = load {
        load.end()?;
    }
    Ok(found)
}

/// A throttle that drops says nothing later either; all others are given their time.
fn patience(key: Key) -> Duration {
    if key == Key::Pgmq250 { Duration::from_millis(60) } else { Duration::from_secs(3) }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
