//! Cost by the number of realtime queues, and by the number of queues in one transaction.

use std::time::{Duration, Instant};

use aimq_lab::cluster::Cluster;
use aimq_lab::progress::Spinner;
use anyhow::{Context, Result};
use postgres::{Client, NoTls};

use crate::contestants::Key;
use crate::cpu::Meter;
use crate::listeners::Listeners;
use crate::measure::{Bench, producers};
use crate::results::{Growth, Wide};
use crate::servers::wait_for_notifier;
use crate::wait;

/// How long a session that has ended may still be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// The queues are g1, g2, …
const PREFIX: &str = "g";

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
    for queues in bench.plan.queues {
        spinner.say(&format!("{queues} queues, with and without aimq"));
        make(cluster, realtime, *queues)?;
        for key in [Key::None, realtime] {
            places.push(Place::enter(cluster, key, *queues)?);
        }
    }
    spinner.end(true);
    by_queues(bench, &mut places)?;
    let most = bench.plan.queues.last().copied().unwrap_or(1);
    by_width(bench, realtime, most)
}

fn by_queues(bench: &mut Bench, places: &mut [Place]) -> Result<()> {
    let (title, time) = ("growth: one message to one of many queues", bench.plan.growth_time);
    bench.rounds(title, 1..=bench.plan.rounds, |bench, now| {
        let (pairs, round) = (places.len() / 2, now.number);
        for turn in 0..places.len() {
            // Pairs stay together, and take turns at being first.
            let pair = (turn / 2 + round) % pairs;
            let place = &mut places[pair * 2 + (turn + round) % 2];
            let (contestant, queues) = (place.contestant, place.queues);
            now.say(format_args!("{queues} queues: {}", contestant.title()));
            let cpu = Meter::start(bench.servers.of(Key::None))?;
            let (sent, seconds) =
                producers::send_at_random(&mut place.producers, PREFIX, queues, round, time)?;
            let tps = (sent as f64 / seconds * 10.0).round() / 10.0;
            let cpu_us = cpu.so_far()?.us_each(sent as f64);
            bench.results.growth.push(Growth { contestant, round, queues, tps, cpu_us });
        }
        Ok(())
    })
}

/// One message to each of so many queues, in one transaction.
fn by_width(bench: &mut Bench, realtime: Key, most: u32) -> Result<()> {
    let cluster = bench.servers.of(realtime);
    let mut kinds = vec![(Key::None, Key::None, ""), (realtime, realtime, "")];
    if realtime == Key::Notifier {
        // The same queues: only the delivery is another.
        kinds.push((Key::Transaction, realtime, "-c aimq.delivery=transaction"));
    }
    let mut clients = Vec::new();
    for (key, whose, options) in kinds {
        let mut config = postgres::Config::new();
        config.host_path(cluster.folder()).user("postgres").options(options);
        clients.push((key, config.dbname(&database(whose, most)).connect(NoTls)?));
    }
    bench.rounds("growth: many queues in one transaction", 0..=bench.plan.rounds, |bench, round| {
        for queues in bench.plan.queues {
            let each = producers::each(PREFIX, *queues);
            for turn in 0..clients.len() {
                let at = (turn + round.number) % clients.len();
                let (contestant, client) = &mut clients[at];
                let mut ms = f64::INFINITY;
                for _ in 0..5 {
                    let begun = Instant::now();
                    client.execute(&each, &[])?;
                    ms = ms.min(begun.elapsed().as_secs_f64() * 1000.0);
                }
                // Round 0: each session gets to know the queues.
                if round.number > 0 {
                    let (contestant, round, queues) = (*contestant, round.number, *queues);
                    let ms = (ms * 1000.0).round() / 1000.0;
                    bench.results.wide.push(Wide { contestant, round, queues, ms });
                }
            }
        }
        Ok(())
    })
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
    producers::make(&mut client, "pgmq.create", PREFIX, queues)?;
    drop(client);
    // The template must be left by then, which a session that has ended does in its own time.
    let copy = format!("CREATE DATABASE {other} TEMPLATE {plain}");
    if wait::until(PATIENCE, || Ok(server.batch_execute(&copy).ok()))?.is_none() {
        server.batch_execute(&copy).context(copy)?;
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
        let listener = Listeners::start(cluster, &database, &channel, 1)?;
        let producers = producers::enter(cluster, &database, PREFIX, queues)?;
        Ok(Self { contestant, queues, producers, _listener: listener })
    }
}
