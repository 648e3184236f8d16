//! Rows per second of `send_batch`, by its size.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::contestants::{Key, QUEUE};
use crate::listeners::Listeners;
use crate::measure::Bench;
use crate::results::Batch;

/// Who takes longer than this for one batch is seen once, not in every round: pgmq's own trigger updates
/// one row for each message, and walks through all that row's versions of the transaction.
const TOO_SLOW: Duration = Duration::from_secs(3);

/// All contestants, one producer, one listener.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    bench.rounds("rows per second of send_batch", 1..=bench.plan.rounds, |bench, round| {
        for size in bench.plan.batches {
            bench.servers.checkpoint()?;
            for key in bench.servers.in_turn(round.number, Key::preloaded) {
                round.say(format_args!("batches of {size}: {}", key.title()));
                let too_slow = |it: &Batch| {
                    (it.contestant, it.size) == (key, *size)
                        && f64::from(*size) / it.rows_per_second > TOO_SLOW.as_secs_f64()
                };
                if bench.results.batches.iter().any(too_slow) {
                    continue;
                }
                let rows_per_second = sample(bench, key, *size)?;
                let (contestant, round, size) = (key, round.number, *size);
                bench.results.batches.push(Batch { contestant, round, size, rows_per_second });
            }
        }
        Ok(())
    })
}

fn sample(bench: &Bench, key: Key, size: u32) -> Result<f64> {
    let mut client = bench.servers.enter(key)?;
    client.batch_execute(&format!(
        "CREATE TEMP TABLE m AS
         SELECT array_agg('{{\"n\": 1}}'::jsonb) AS m FROM generate_series(1, {size})"
    ))?;
    let channel = key.channel(QUEUE);
    let _listener = Listeners::start(bench.servers.of(key), &key.database(), &channel, 1)?;
    let send = client.prepare("SELECT count(*) FROM m, pgmq.send_batch('q', m.m)")?;
    // A large batch warms itself up.
    for _ in 0..if size < 10_000 { 5 } else { 0 } {
        client.execute(&send, &[])?;
    }
    let begun = Instant::now();
    let mut batches = 0;
    while begun.elapsed() < bench.plan.batch_time {
        client.execute(&send, &[])?;
        batches += 1;
    }
    let rows = f64::from(batches) * f64::from(size);
    Ok((rows / begun.elapsed().as_secs_f64()).round())
}
