//! Commits per second: by clients, without waiting for the flush, by listeners.

use std::time::Duration;

use aimq_lab::progress::Spinner;
use anyhow::{Context, Result};

use crate::contestants::{Key, QUEUE};
use crate::listeners::Listeners;
use crate::load::{self, Load};
use crate::plan::Plan;
use crate::results::Throughput;
use crate::servers::truncate;
use crate::{cpu, measure::Bench};

/// How long the last notifications may take once the load has ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is the same in all runs of a cell.
#[derive(Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) clients: u32,
    pub(crate) listeners: u32,
    pub(crate) synchronous_commit: bool,
    pub(crate) seconds: u32,
}

impl Cell {
    /// Cells that a verdict hangs on get the time that the plan has for them, the others a second.
    fn new(plan: &Plan, clients: u32, listeners: u32, synchronous_commit: bool) -> Self {
        let mut cell = Self { clients, listeners, synchronous_commit, seconds: 1 };
        if cell.decides() {
            cell.seconds = plan.seconds();
        }
        cell
    }

    fn decides(self) -> bool {
        self.clients != 4 && matches!(self.listeners, 1 | 200)
    }
}

/// All contestants, one listener.
pub(crate) fn by_clients(bench: &mut Bench) -> Result<()> {
    let cells: Vec<Cell> = bench
        .plan
        .clients()
        .iter()
        .map(|clients| Cell::new(&bench.plan, *clients, 1, true))
        .collect();
    rounds(bench, "commits per second, by clients", &cells, |_| true)
}

/// aimq alone: the more there are without a flush to wait for, the more its own cost shows.
pub(crate) fn without_flush(bench: &mut Bench) -> Result<()> {
    let cells: Vec<Cell> = bench
        .plan
        .clients()
        .iter()
        .filter(|clients| **clients != 4)
        .map(|clients| Cell::new(&bench.plan, *clients, 1, false))
        .collect();
    rounds(bench, "the same, synchronous_commit off", &cells, |key| {
        key == Key::None || key.is_aimq() && key.preloaded()
    })
}

/// All contestants at 16 clients; one listener has been measured by then.
pub(crate) fn by_listeners(bench: &mut Bench) -> Result<()> {
    let cells: Vec<Cell> = bench
        .plan
        .listeners()
        .iter()
        .map(|listeners| Cell::new(&bench.plan, 16, *listeners, true))
        .collect();
    rounds(bench, "commits per second, by listeners", &cells, Key::preloaded)
}

fn rounds(
    bench: &mut Bench,
    title: &str,
    cells: &[Cell],
    which: impl Fn(Key) -> bool,
) -> Result<()> {
    let spinner = Spinner::new(title);
    // Round 0 warms up the servers and is thrown away; one cell of it will do, once.
    let first = usize::from(!bench.results.throughput.is_empty());
    let rounds = bench.plan.rounds + bench.plan.more_rounds();
    for round in first..=rounds {
        // What comes close to a bound is measured more often than what is far from it.
        let is_more = round > bench.plan.rounds;
        let which = |key: Key| which(key) && (!is_more || key.nears_baseline());
        let cells = if round == 0 { &cells[..1] } else { cells };
        for cell in cells.iter().filter(|cell| !is_more || cell.decides() && cell.listeners == 1) {
            bench.servers.checkpoint()?;
            for key in bench.servers.in_turn(round, which) {
                spinner.say(&format!(
                    "round {round} of {rounds}: {} clients, {} listeners: {}",
                    cell.clients,
                    cell.listeners,
                    key.title()
                ));
                let sample = sample(bench, key, round, *cell).with_context(|| key.title())?;
                if round > 0 {
                    bench.results.throughput.push(sample);
                }
            }
        }
    }
    spinner.end(true);
    Ok(())
}

/// One run of pgbench beside so many listeners.
pub(crate) fn sample(bench: &Bench, key: Key, round: usize, cell: Cell) -> Result<Throughput> {
    let cluster = bench.servers.of(key);
    let mut client = bench.servers.connect(key)?;
    truncate(&mut client)?;
    let channel = key.channel(QUEUE);
    let mut listeners = Listeners::start(cluster, &key.database(), &[channel], cell.listeners)?;
    // What a notifier still had to tell of the rows before.
    std::thread::sleep(Duration::from_millis(30));
    listeners.forget();
    let children = cpu::children(cluster);
    let before = cpu::of(cluster)?;
    let load = Load {
        clients: cell.clients,
        seconds: cell.seconds,
        rate: None,
        synchronous_commit: cell.synchronous_commit,
    };
    let done = load.run(bench.major, cluster, key)?;
    load::settle(cluster, children);
    let cpu = cpu::of(cluster)? - before;
    let messages: i64 =
        client.query_one(&format!("SELECT count(*) FROM pgmq.q_{QUEUE}"), &[])?.get(0);
    let messages = messages.unsigned_abs();
    let (notifications, counted) =
        if cell.listeners == 0 { (0, 0) } else { listeners.tally(key, messages, PATIENCE) };
    Ok(Throughput {
        contestant: key,
        round,
        clients: cell.clients,
        listeners: cell.listeners,
        synchronous_commit: cell.synchronous_commit,
        tps: done.tps,
        messages,
        notifications,
        counted,
        cpu_us: (cpu * 1e8 / messages.max(1) as f64).round() / 100.0,
    })
}
