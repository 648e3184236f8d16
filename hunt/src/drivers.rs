//! Listeners that use other drivers than the hunt's own: each in a process of its own that says what it hears.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use aimq_lab::{drivers, shell};
use anyhow::{Context, Result};
use postgres::fallible_iterator::FallibleIterator;

use crate::clock::{Micros, now};
use crate::hearing::{Hearing, Stay};
use crate::world::World;
use aimq_lab::locking::lock;

/// Those of the examples. The one that is left, Rust's, is the hunt's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    Psycopg,
    Asyncpg,
    NodePostgres,
}

impl Driver {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Psycopg, Self::Asyncpg, Self::NodePostgres];

    /// The name of its listener.
    pub(crate) fn ear(self) -> &'static str {
        match self {
            Self::Psycopg => "psycopg-ear",
            Self::Asyncpg => "asyncpg-ear",
            Self::NodePostgres => "node-ear",
        }
    }

    /// Adds the program that listens to a command. Its arguments: the server's folder, the database, the channels.
    fn program(self, command: &mut Command) {
        match self {
            Self::Psycopg => command.args(["python3", "-c", include_str!("drivers/psycopg.py")]),
            Self::Asyncpg => command.args(["python3", "-c", include_str!("drivers/asyncpg.py")]),
            Self::NodePostgres => command.args(["node", "-e", include_str!("drivers/node.cjs")]),
        };
        command.env("PYTHONPATH", drivers::python_packages());
        command.env("NODE_PATH", drivers::node_folder().join("node_modules"));
    }
}

/// Installs what they need.
pub(crate) fn install() -> Result<()> {
    drivers::python()?;
    drivers::node()
}

/// Listens until the connection is lost, or to the end.
pub(crate) fn listen(
    world: &World,
    driver: Driver,
    database: &str,
    channels: &[String],
    hearing: &Mutex<Hearing>,
) -> Result<()> {
    // To start an interpreter takes much of a processor, so it is not tried while there is no server.
    let mut beside = world.connect(database, driver.ear())?;
    // The kernel ends it if the hunt is killed.
    let mut listener = shell::unprivileged(Path::new("setpriv"));
    listener.args(["--pdeathsig=KILL", "--"]);
    driver.program(&mut listener);
    listener.arg(world.cluster.folder()).arg(database).args(channels);
    listener.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut listener = listener.spawn()?;
    let said = listener.stdout.take().context("what it says")?;
    let (line, lines) = mpsc::channel();
    let reads = std::thread::spawn(move || {
        let mut all = BufReader::new(said).lines().map_while(Result::ok);
        all.try_for_each(|said| line.send(said).ok())
    });
    // A session beside it says when the server goes: on a busy machine the listener may notice a second later.
    while !world.is_ended() && !beside.is_closed() {
        match lines.try_recv() {
            Ok(said) => take(&said, hearing)?,
            Err(mpsc::TryRecvError::Disconnected) => break,
            Err(mpsc::TryRecvError::Empty) => {
                let _ = beside.notifications().timeout_iter(Duration::from_millis(50)).next();
            }
        }
    }
    if let Some(stay) = lock(hearing).stays.last_mut() {
        stay.until.get_or_insert(now());
    }
    let _ = listener.kill();
    listener.wait()?;
    let _ = reads.join();
    Ok(())
}

/// A line: the time in microseconds, the channel and the payload. Without a channel: it listens from now on.
fn take(said: &str, hearing: &Mutex<Hearing>) -> Result<()> {
    let (at, channel, payload): (Micros, Option<String>, String) = serde_json::from_str(said)?;
    match channel {
        Some(channel) => lock(hearing).note(at, &channel, &payload),
        None => lock(hearing).stays.push(Stay { from: now(), until: None }),
    }
    Ok(())
}
