//! Cost by the number of realtime queues, and by the number of queues in one transaction.

use std::time::{Duration, Instant};

use aimq_lab::cluster::Cluster;
use aimq_lab::progress::Spinner;
use anyhow::{Context, Result};
use postgres::{Client, NoTls};

use crate::contestants::Key;
use crate::cpu;
use crate::listeners::Listeners;
use crate::measure::Bench;
use crate::results::{Growth, Wide};
use crate::servers::wait_for_notifier;

/// Producers that send at the same time.
const PRODUCERS: usize = 4;

/// The queues are g1, g2, …
const PREFIX: &str = "g";

/// One message to each of the first so many queues.
pub(super) fn each(prefix: &str) -> String {
    format!(
        "SELECT count(*) FROM generate_series(1, $1) AS n, pgmq.send('{prefix}' || n, '{{\"n\": 1}}')"
    )
}

/// A database with so many queues, and producers that know all of them.
struct Place {
    contestant: Key,
    queues: u32,
    producers: Vec<Client>,
    _listener: Listeners,
}

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let spinner = Spinner::new("growth: make the queues");
    let realtime = if bench.servers.has(Key::Notifier) { Key::Notifier } else { Key::Transaction };
    let cluster = bench.servers.of(realtime);
    let mut places = Vec::new();
    for queues in bench.plan.queues() {
        spinner.say(&format!("{queues} queues, with and without aimq"));
        make(cluster, realtime, *queues)?;
        for key in [Key::None, realtime] {
            places.push(Place::enter(cluster, key, *queues)?);
        }
    }
    spinner.end(true);
    by_queues(bench, &mut places)?;
    let most = bench.plan.queues().last().copied().unwrap_or(1);
    by_width(bench, realtime, most)
}

fn by_queues(bench: &mut Bench, places: &mut [Place]) -> Result<()> {
    let spinner = Spinner::new("growth: one message to one of many queues");
    let (rounds, time) = (bench.plan.rounds, bench.plan.growth_time());
    let cluster = bench.servers.of(Key::None);
    for round in 1..=rounds {
        bench.servers.checkpoint()?;
        let number = places.len();
        for turn in 0..number {
            // Pairs stay together, and take turns at being first.
            let pair = (turn / 2 + round) % (number / 2);
            let place = &mut places[pair * 2 + (turn + round) % 2];
            spinner.say(&format!(
                "round {round} of {rounds}: {} queues: {}",
                place.queues,
                place.contestant.title()
            ));
            let before = cpu::of(cluster)?;
            let (sent, seconds) =
                send_at_random(&mut place.producers, PREFIX, place.queues, round as u64, time)?;
            let cpu = cpu::of(cluster)? - before;
            bench.results.growth.push(Growth {
                contestant: place.contestant,
                round,
                queues: place.queues,
                tps: (sent as f64 / seconds * 10.0).round() / 10.0,
                cpu_us: (cpu * 1e8 / sent.max(1) as f64).round() / 100.0,
            });
        }
    }
    spinner.end(true);
    Ok(())
}

/// One message to each of so many queues, in one transaction.
fn by_width(bench: &mut Bench, realtime: Key, most: u32) -> Result<()> {
    let spinner = Spinner::new("growth: many queues in one transaction");
    let cluster = bench.servers.of(realtime);
    let mut kinds = vec![(Key::None, database(Key::None, most), "")];
    if realtime == Key::Notifier {
        kinds.push((realtime, database(realtime, most), ""));
        // The same queues: only the delivery is another.
        let other = "-c aimq.delivery=transaction";
        kinds.push((Key::Transaction, database(realtime, most), other));
    } else {
        kinds.push((realtime, database(realtime, most), ""));
    }
    let mut clients = Vec::new();
    for (key, database, options) in &kinds {
        let mut config = postgres::Config::new();
        config.host_path(cluster.folder()).user("postgres").dbname(database).options(options);
        clients.push((*key, config.connect(NoTls)?));
    }
    let each = each(PREFIX);
    for round in 0..=bench.plan.rounds {
        for queues in bench.plan.queues() {
            for turn in 0..clients.len() {
                let at = (turn + round) % clients.len();
                let (key, client) = &mut clients[at];
                let mut times = Vec::new();
                for _ in 0..5 {
                    let begun = Instant::now();
                    client.execute(&each, &[&i32::try_from(*queues)?])?;
                    times.push(begun.elapsed().as_secs_f64() * 1000.0);
                }
                let ms = times.into_iter().fold(f64::INFINITY, f64::min);
                // Round 0: each session gets to know the queues.
                if round > 0 {
                    let ms = (ms * 1000.0).round() / 1000.0;
                    let contestant = *key;
                    bench.results.wide.push(Wide { contestant, round, queues: *queues, ms });
                }
            }
        }
    }
    spinner.end(true);
    Ok(())
}

fn database(key: Key, queues: u32) -> String {
    format!("grow_{}_{queues}", key.name())
}

/// Two databases with the same queues, realtime in one of them.
fn make(cluster: &Cluster, realtime: Key, queues: u32) -> Result<()> {
    let (plain, other) = (database(Key::None, queues), database(realtime, queues));
    let mut server = cluster.connect("postgres")?;
    server.batch_execute(&format!("CREATE DATABASE {plain}"))?;
    let mut client = cluster.connect(&plain)?;
    client.batch_execute("SET client_min_messages = warning; CREATE EXTENSION aimq CASCADE")?;
    for from in (1..=queues).step_by(100) {
        // Not all in one transaction: each queue takes a dozen locks.
        let to = queues.min(from + 99);
        client.batch_execute(&format!(
            "SELECT pgmq.create('{PREFIX}' || n) FROM generate_series({from}, {to}) AS n"
        ))?;
    }
    drop(client);
    // The template must be left by then, which a session that has ended does in its own time.
    let copy = format!("CREATE DATABASE {other} TEMPLATE {plain}");
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = server.batch_execute(&copy) {
        if Instant::now() > deadline {
            return Err(error).context(copy);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    if realtime == Key::Notifier {
        server.batch_execute(&format!(
            "LOAD 'aimq'; ALTER DATABASE {other} SET aimq.delivery = notifier"
        ))?;
    }
    let mut client = cluster.connect(&other)?;
    client.batch_execute("SELECT aimq.enable_realtime_all()")?;
    if realtime == Key::Notifier {
        wait_for_notifier(cluster, &other)?;
    }
    Ok(())
}

impl Place {
    fn enter(cluster: &Cluster, contestant: Key, queues: u32) -> Result<Self> {
        let database = database(contestant, queues);
        let channel = contestant.channel(PREFIX);
        let listener = Listeners::start(cluster, &database, &[channel], 1)?;
        let mut producers = Vec::new();
        for _ in 0..PRODUCERS {
            let mut client = cluster.connect(&database)?;
            // Once to each queue: from here on the session has all of them in its caches.
            client.execute(&each(PREFIX), &[&i32::try_from(queues)?])?;
            producers.push(client);
        }
        Ok(Self { contestant, queues, producers, _listener: listener })
    }
}

/// How many messages were sent in how many seconds, each to one of the queues.
pub(super) fn send_at_random(
    producers: &mut [Client],
    prefix: &str,
    queues: u32,
    seed: u64,
    time: Duration,
) -> Result<(u64, f64)> {
    let begun = Instant::now();
    let sent = std::thread::scope(|scope| {
        let sending: Vec<_> = producers
            .iter_mut()
            .zip(seed * 100..)
            .map(|(producer, seed)| {
                scope.spawn(move || -> Result<u64> {
                    let mut random = fastrand::Rng::with_seed(seed);
                    let send = producer.prepare("SELECT pgmq.send($1, '{\"n\": 1}')")?;
                    let mut sent = 0;
                    while begun.elapsed() < time {
                        let queue = format!("{prefix}{}", random.u32(1..=queues));
                        producer.execute(&send, &[&queue])?;
                        sent += 1;
                    }
                    Ok(sent)
                })
            })
            .collect();
        let mut all = 0;
        for producer in sending {
            all += producer.join().ok().context("a producer")??;
        }
        Ok::<u64, anyhow::Error>(all)
    })?;
    Ok((sent, begun.elapsed().as_secs_f64()))
}
