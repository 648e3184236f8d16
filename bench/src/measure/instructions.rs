//! Instructions for each insert, in the producer's session: a count, where seconds would be noise. The
//! whole server runs under callgrind; of two sessions that differ in nothing but how much they send the
//! difference is taken, which leaves out how a session begins and ends.

use std::process::Command;
use std::time::Duration;

use aimq_lab::cluster::Cluster;
use aimq_lab::progress::Spinner;
use aimq_lab::shell;
use anyhow::{Context, Result};

use crate::contestants::{Key, QUEUE};
use crate::listeners::Listeners;
use crate::measure::Bench;
use crate::results::Instructions;
use crate::{servers, wait};

/// Messages in a transaction, and how many transactions the shorter and the longer session have.
const SESSIONS: [(u32, u32, u32); 2] = [(1, 100, 500), (1000, 2, 8)];

const VALGRIND: [&str; 4] = [
    "valgrind",
    "--tool=callgrind",
    "--callgrind-out-file={}/callgrind.%p",
    // Totals alone are wanted.
    "--quiet",
];

/// Those whose difference is small enough to need it.
const CONTESTANTS: [Key; 4] = [Key::None, Key::Notifier, Key::Transaction, Key::RowConstant];

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    if shell::output(Command::new("valgrind").arg("--version")).is_err() {
        println!(
            "  note: instructions are not counted: there is no valgrind (Debian's package valgrind)"
        );
        return Ok(());
    }
    let spinner = Spinner::new("instructions for each insert, by callgrind");
    let settings = ["fsync=off", "autovacuum=off", "jit=off", "shared_preload_libraries=aimq"];
    let cluster = Cluster::start_under(bench.major, &settings, &VALGRIND)?;
    for key in CONTESTANTS.into_iter().filter(|key| bench.servers.has(*key)) {
        spinner.say(key.title());
        servers::make(&cluster, key, bench.servers.has(Key::Notifier))?;
        let _listener = Listeners::start(&cluster, &key.database(), &key.channel(QUEUE), 1)?;
        for (batch, few, many) in SESSIONS {
            spinner.say(&format!("{}: {batch} in a transaction", key.title()));
            // The first fills the shared caches.
            session(&cluster, key, batch, few)?;
            let short = session(&cluster, key, batch, few)?;
            let long = session(&cluster, key, batch, many)?;
            let messages = f64::from(many - few) * f64::from(batch);
            let per_message = ((long as f64 - short as f64) / messages).round();
            bench.results.instructions.push(Instructions { contestant: key, batch, per_message });
        }
    }
    spinner.end(true);
    Ok(())
}

/// The instructions of a whole session with so many transactions.
fn session(cluster: &Cluster, key: Key, batch: u32, transactions: u32) -> Result<u64> {
    let mut client = cluster.connect(&key.database())?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    client.batch_execute(&format!(
        "CREATE TEMP TABLE m AS
         SELECT array_agg('{{\"n\": 1}}'::jsonb) AS m FROM generate_series(1, {batch})"
    ))?;
    let send = if batch == 1 {
        client.prepare("SELECT pgmq.send('q', '{\"n\": 1}')")?
    } else {
        client.prepare("SELECT count(*) FROM m, pgmq.send_batch('q', m.m)")?
    };
    for _ in 0..transactions {
        client.execute(&send, &[])?;
    }
    drop(client);
    let file = cluster.folder().join(format!("callgrind.{pid}"));
    let totals = wait::until(Duration::from_secs(60), || {
        // Written when the session has ended; the totals come last.
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let totals = text.lines().rev().find_map(|line| line.strip_prefix("totals: "));
        Ok(totals.map(|totals| totals.trim().parse()).transpose()?)
    });
    totals?.context("callgrind left nothing about the session")
}
