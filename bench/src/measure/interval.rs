//! What 200 connections cost that listen, whatever `aimq.notify_interval` is: each notification wakes all
//! of them (up to PostgreSQL 18), so it is the notifier's rests that bound it.

use std::time::Duration;

use anyhow::Result;

use crate::contestants::Key;
use crate::measure::Bench;
use crate::measure::throughput::{self, Cell};
use crate::results::Interval;

const INTERVALS: [u32; 4] = [0, 1, 10, 100];

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let cell = |listeners| Cell { clients: 16, listeners, synchronous_commit: true, seconds: 2 };
    let mut server = bench.servers.of(Key::Notifier).connect("postgres")?;
    let title = "aimq.notify_interval with 200 listeners";
    bench.rounds(title, 1..=bench.plan.rounds, |bench, round| {
        let mut turn: Vec<(Option<u32>, u32)> = vec![(None, 200)];
        // Without listeners too: what the notifier itself costs at this pace.
        turn.extend(INTERVALS.iter().flat_map(|it| [(Some(*it), 0), (Some(*it), 200)]));
        let by = round.number * 5 % turn.len();
        turn.rotate_left(by);
        for (interval, listeners) in turn {
            let name = interval.map_or("no trigger".into(), |it| format!("{it} ms"));
            round.say(format_args!("{name}, {listeners} listeners"));
            let key = if interval.is_some() { Key::Notifier } else { Key::None };
            if let Some(interval) = interval {
                set(&mut server, &format!("SET aimq.notify_interval = '{interval}ms'"))?;
            }
            let run = throughput::sample(bench, key, round.number, cell(listeners))?;
            let notify_interval_ms = interval.unwrap_or(0);
            bench.results.interval.push(Interval { notify_interval_ms, run });
        }
        Ok(())
    })?;
    set(&mut server, "RESET aimq.notify_interval")
}

/// Changes a setting of the server that needs no restart, and gives everybody time to take it.
fn set(server: &mut postgres::Client, what: &str) -> Result<()> {
    server.batch_execute(&format!("ALTER SYSTEM {what}"))?;
    server.execute("SELECT pg_reload_conf()", &[])?;
    std::thread::sleep(Duration::from_millis(150));
    Ok(())
}
