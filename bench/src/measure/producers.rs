//! Queues by the hundred, and producers that send to them at the same time.

use std::time::{Duration, Instant};

use aimq_lab::cluster::Cluster;
use anyhow::{Context, Result};
use postgres::Client;

/// Producers that send at the same time.
pub(super) const PRODUCERS: usize = 4;

/// Makes the queues `{prefix}1`, `{prefix}2` and so on, by a function for one queue.
pub(super) fn make(client: &mut Client, by: &str, prefix: &str, queues: u32) -> Result<()> {
    for from in (1..=queues).step_by(100) {
        // Not all in one transaction: each queue takes a dozen locks.
        let to = queues.min(from + 99);
        client.batch_execute(&format!(
            "SELECT {by}('{prefix}' || n) FROM generate_series({from}, {to}) AS n"
        ))?;
    }
    Ok(())
}

/// One message to each of the first so many queues.
pub(super) fn each(prefix: &str, queues: u32) -> String {
    format!(
        "SELECT count(*) FROM generate_series(1, {queues}) AS n,
                              pgmq.send('{prefix}' || n, '{{\"n\": 1}}')"
    )
}

/// Producers that have all these queues in their caches: they have sent to each of them.
pub(super) fn enter(
    cluster: &Cluster,
    database: &str,
    prefix: &str,
    queues: u32,
) -> Result<Vec<Client>> {
    let enter = |_| {
        let mut client = cluster.connect(database)?;
        client.execute(&each(prefix, queues), &[])?;
        Ok(client)
    };
    (0..PRODUCERS).map(enter).collect()
}

/// All of them send at the same time, each with a seed of its own. Returns how many messages they sent.
pub(super) fn send_at_once(
    producers: &mut [Client],
    seed: u64,
    send: impl Fn(&mut Client, fastrand::Rng) -> Result<u64> + Sync,
) -> Result<u64> {
    let send = &send;
    std::thread::scope(|scope| {
        let sending: Vec<_> = producers
            .iter_mut()
            .zip(seed..)
            .map(|(producer, seed)| {
                scope.spawn(move || send(producer, fastrand::Rng::with_seed(seed)))
            })
            .collect();
        sending.into_iter().map(|it| it.join().ok().context("a producer")?).sum()
    })
}

/// How many messages were sent in how many seconds, each to one of the queues.
pub(super) fn send_at_random(
    producers: &mut [Client],
    prefix: &str,
    queues: u32,
    round: usize,
    time: Duration,
) -> Result<(u64, f64)> {
    let begun = Instant::now();
    let sent = send_at_once(producers, round as u64 * 100, |producer, mut random| {
        let send = producer.prepare("SELECT pgmq.send($1, '{\"n\": 1}')")?;
        let mut sent = 0;
        while begun.elapsed() < time {
            producer.execute(&send, &[&format!("{prefix}{}", random.u32(1..=queues))])?;
            sent += 1;
        }
        Ok(sent)
    })?;
    Ok((sent, begun.elapsed().as_secs_f64()))
}
