//! Commits per second: by clients, without waiting for the flush, by listeners.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::contestants::{Key, QUEUE};
use crate::cpu::Meter;
use crate::listeners::Listeners;
use crate::load::Load;
use crate::measure::Bench;
use crate::plan::Plan;
use crate::results::Throughput;
use crate::servers::count;

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
    fn new(plan: &Plan, (clients, listeners): (u32, u32), synchronous_commit: bool) -> Self {
        let mut cell = Self { clients, listeners, synchronous_commit, seconds: 1 };
        if cell.decides() {
            cell.seconds = plan.seconds;
        }
        cell
    }

    fn decides(self) -> bool {
        self.clients != 4 && matches!(self.listeners, 1 | 200)
    }
}

/// All contestants, one listener.
pub(crate) fn by_clients(bench: &mut Bench) -> Result<()> {
    let cells = bench.plan.clients.iter().map(|clients| (*clients, 1));
    rounds(bench, "commits per second, by clients", cells, true, |_| true)
}

/// aimq alone: the more there are without a flush to wait for, the more its own cost shows.
pub(crate) fn without_flush(bench: &mut Bench) -> Result<()> {
    let cells = bench.plan.clients.iter().filter(|clients| **clients != 4);
    let cells = cells.map(|clients| (*clients, 1));
    rounds(bench, "the same, synchronous_commit off", cells, false, |key| {
        key == Key::None || key.is_aimq() && key.preloaded()
    })
}

/// All contestants at 16 clients; one listener has been measured by then.
pub(crate) fn by_listeners(bench: &mut Bench) -> Result<()> {
    let cells = bench.plan.listeners.iter().map(|listeners| (16, *listeners));
    rounds(bench, "commits per second, by listeners", cells, true, Key::preloaded)
}

/// So many clients and listeners each.
fn rounds(
    bench: &mut Bench,
    title: &str,
    cells: impl Iterator<Item = (u32, u32)>,
    synchronous_commit: bool,
    which: impl Fn(Key) -> bool,
) -> Result<()> {
    let cells: Vec<Cell> = cells.map(|of| Cell::new(&bench.plan, of, synchronous_commit)).collect();
    // Round 0 warms up the servers and is thrown away; one cell of it will do, once.
    let first = usize::from(!bench.results.throughput.is_empty());
    let once = bench.plan.rounds;
    bench.rounds(title, first..=once + bench.plan.more_rounds, |bench, round| {
        // What comes close to a bound is measured more often than what is far from it.
        let is_more = round.number > once;
        let which = |key: Key| which(key) && (!is_more || key.nears_baseline());
        let cells = if round.number == 0 { &cells[..1] } else { &cells };
        for cell in cells.iter().filter(|cell| !is_more || cell.decides() && cell.listeners == 1) {
            bench.servers.checkpoint()?;
            for key in bench.servers.in_turn(round.number, which) {
                let Cell { clients, listeners, .. } = cell;
                let title = key.title();
                round.say(format_args!("{clients} clients, {listeners} listeners: {title}"));
                let sample = sample(bench, key, round.number, *cell).with_context(|| title)?;
                if round.number > 0 {
                    bench.results.throughput.push(sample);
                }
            }
        }
        Ok(())
    })
}

/// One run of pgbench beside so many listeners.
pub(crate) fn sample(bench: &Bench, key: Key, round: usize, cell: Cell) -> Result<Throughput> {
    let cluster = bench.servers.of(key);
    let mut client = bench.servers.enter(key)?;
    let channel = key.channel(QUEUE);
    let mut listeners = Listeners::start(cluster, &key.database(), &channel, cell.listeners)?;
    // What a notifier still had to tell of the rows before.
    std::thread::sleep(Duration::from_millis(30));
    listeners.forget();
    let cpu = Meter::start(cluster)?;
    let load = Load {
        clients: cell.clients,
        seconds: cell.seconds,
        rate: None,
        synchronous_commit: cell.synchronous_commit,
    };
    let tps = load.run(bench.major, cluster, key)?;
    let cpu = cpu.so_far()?;
    let messages = count(&mut client, "q")?;
    let (notifications, counted) =
        if cell.listeners == 0 { (0, 0) } else { listeners.tally(key, messages, PATIENCE) };
    Ok(Throughput {
        contestant: key,
        round,
        clients: cell.clients,
        listeners: cell.listeners,
        synchronous_commit: cell.synchronous_commit,
        tps,
        messages,
        notifications,
        counted,
        cpu_us: cpu.us_each(messages as f64),
    })
}
