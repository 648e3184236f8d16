//! The demo's worker: listen, then read until the queue is empty, then wait.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Args;
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, NoTls};
use serde::{Deserialize, Serialize};

/// Microseconds since 1970, as both processes' clock has it.
pub(crate) type Micros = i64;

pub(crate) fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// What the worker tells the demo, a line of JSON each.
#[derive(Serialize, Deserialize)]
pub(crate) enum Event {
    Woken { at: Micros, notifications: u64 },
    Read { jobs: Vec<u64>, at: Micros },
    Archived { jobs: Vec<u64>, at: Micros },
    Empty,
}

fn tell(event: &Event) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, event)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// What the demo tells its worker.
#[derive(Args)]
pub(crate) struct Orders {
    /// `realtime` for a worker that listens; any other word for one that polls.
    mode: String,
    queue: String,
    /// The folder with the server's socket.
    socket: PathBuf,
}

pub(crate) fn run(orders: &Orders) -> Result<()> {
    let Orders { mode, queue, socket } = orders;
    let mut config = Client::configure();
    config.host_path(socket).user("postgres").dbname("postgres").application_name("worker");
    let mut client = config.connect(NoTls)?;
    let realtime = mode == "realtime";
    if realtime {
        client.batch_execute("LISTEN \"aimq:jobs\"")?;
    }
    loop {
        drain(&mut client, queue)?;
        if realtime {
            // No timeout: this worker never polls.
            let first = client.notifications().blocking_iter().next()?;
            first.context("the server closed the connection")?;
            let at = now();
            // Those that have come meanwhile are answered by the same reads.
            let more = client.notifications().iter().count()?;
            tell(&Event::Woken { at, notifications: 1 + u64::try_from(more)? })?;
        } else {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// Reads and archives until the queue is empty.
fn drain(client: &mut Client, queue: &str) -> Result<()> {
    loop {
        let rows = client.query(
            "SELECT msg_id, (message->>'job')::bigint FROM pgmq.read($1, 30, 100)",
            &[&queue],
        )?;
        if rows.is_empty() {
            return tell(&Event::Empty);
        }
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let jobs: Vec<u64> = rows.iter().map(|row| row.get::<_, i64>(1).unsigned_abs()).collect();
        tell(&Event::Read { jobs: jobs.clone(), at: now() })?;
        client.query("SELECT pgmq.archive($1, $2::bigint[])", &[&queue, &ids])?;
        tell(&Event::Archived { jobs, at: now() })?;
    }
}
