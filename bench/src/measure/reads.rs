//! What realtime costs readers: `pgmq.read` sets the visibility time of each message that it
//! returns, which a statement trigger notes. Without waiting for the flush, so that the cost shows.

use std::time::Instant;

use anyhow::Result;

use crate::contestants::{Key, QUEUE};
use crate::measure::Bench;
use crate::results::Reads;

/// Messages in a read, and how many reads.
const SIZES: [(u32, u32); 2] = [(1, 1500), (100, 150)];

/// In each round: samples are short, and the difference is small.
const PAIRS: usize = 3;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    bench.rounds("what reads cost", 1..=bench.plan.rounds * PAIRS, |bench, round| {
        for (size, reads) in SIZES {
            let ours = |key: Key| key.preloaded() && (key.is_aimq() || key == Key::None);
            for key in bench.servers.in_turn(round.number, ours) {
                round.say(format_args!("{size}: {}", key.title()));
                let reads_per_second = sample(bench, key, size, reads)?;
                let (contestant, round) = (key, round.number);
                bench.results.reads.push(Reads { contestant, round, size, reads_per_second });
            }
        }
        Ok(())
    })
}

fn sample(bench: &Bench, key: Key, size: u32, reads: u32) -> Result<f64> {
    let mut client = bench.servers.enter(key)?;
    let warm_up = reads / 10;
    client.batch_execute(&format!(
        "SET synchronous_commit = off;
         SET aimq.enabled = off;
         INSERT INTO pgmq.q_{QUEUE} (vt, message)
         SELECT clock_timestamp(), '{{\"n\": 1}}' FROM generate_series(1, {});
         RESET aimq.enabled",
        (reads + warm_up) * size
    ))?;
    client.batch_execute(&format!("VACUUM ANALYZE pgmq.q_{QUEUE}"))?;
    let read = client.prepare("SELECT count(*) FROM pgmq.read($1, 3600, $2)")?;
    let mut read = |times: u32| -> Result<()> {
        for _ in 0..times {
            client.execute(&read, &[&QUEUE, &size.cast_signed()])?;
        }
        Ok(())
    };
    read(warm_up)?;
    let begun = Instant::now();
    read(reads)?;
    Ok((f64::from(reads) / begun.elapsed().as_secs_f64()).round())
}
