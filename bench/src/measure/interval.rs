//! What 200 connections cost that listen, whatever `aimq.notify_interval` is: each notification wakes all
//! of them (up to PostgreSQL 18), so it is the notifier's rests that bound it.

use std::time::Duration;

use aimq_lab::progress::Spinner;
use anyhow::Result;

use crate::contestants::Key;
use crate::measure::Bench;
use crate::measure::throughput::{self, Cell};
use crate::results::Interval;

const INTERVALS: [u32; 4] = [0, 1, 10, 100];

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    if !bench.servers.has(Key::Notifier) {
        println!("  note: no notifier, so no measure of its interval");
        return Ok(());
    }
    let spinner = Spinner::new("aimq.notify_interval with 200 listeners");
    let cell = |listeners| Cell { clients: 16, listeners, synchronous_commit: true, seconds: 2 };
    let mut server = bench.servers.of(Key::Notifier).connect("postgres")?;
    let rounds = bench.plan.rounds;
    for round in 1..=rounds {
        bench.servers.checkpoint()?;
        let mut turn: Vec<(Option<u32>, u32)> = vec![(None, 200)];
        // Without listeners too: what the notifier itself costs at this pace.
        turn.extend(INTERVALS.iter().flat_map(|it| [(Some(*it), 0), (Some(*it), 200)]));
        let by = round * 5 % turn.len();
        turn.rotate_left(by);
        for (interval, listeners) in turn {
            spinner.say(&format!(
                "round {round} of {rounds}: {}, {listeners} listeners",
                interval.map_or("no trigger".into(), |it| format!("{it} ms"))
            ));
            let key = if interval.is_some() { Key::Notifier } else { Key::None };
            if let Some(interval) = interval {
                set(&mut server, &format!("SET aimq.notify_interval = '{interval}ms'"))?;
            }
            let run = throughput::sample(bench, key, round, cell(listeners))?;
            bench
                .results
                .interval
                .push(Interval { notify_interval_ms: interval.unwrap_or(0), run });
        }
    }
    set(&mut server, "RESET aimq.notify_interval")?;
    spinner.end(true);
    Ok(())
}

/// Changes a setting of the server that needs no restart, and gives everybody time to take it.
fn set(server: &mut postgres::Client, what: &str) -> Result<()> {
    server.batch_execute(&format!("ALTER SYSTEM {what}"))?;
    server.execute("SELECT pg_reload_conf()", &[])?;
    std::thread::sleep(Duration::from_millis(150));
    Ok(())
}
