//! A listener that uses another driver: psycopg, in a process of its own that says what it hears.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use aimq_lab::{drivers, shell};
use anyhow::{Context, Result};

use crate::clock::{Micros, now};
use crate::hearing::{Hearing, Stay};
use crate::world::World;
use aimq_lab::locking::lock;

/// The program.
const PROGRAM: &str = include_str!("listener.py");

/// Listens until the connection is lost, or to the end.
pub(crate) fn listen(
    world: &World,
    database: &str,
    channels: &[String],
    hearing: &Mutex<Hearing>,
) -> Result<()> {
    let folder = world.cluster.folder().display();
    // The kernel ends it if the hunt is killed.
    let mut listener = shell::unprivileged(Path::new("setpriv"));
    listener.args(["--pdeathsig=KILL", "--", "python3", "-c", PROGRAM]);
    listener.arg(format!("host={folder} user=postgres dbname={database} connect_timeout=5"));
    listener.args(channels).env("PYTHONPATH", drivers::python_packages());
    listener.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut listener = listener.spawn()?;
    let said = listener.stdout.take().context("what it says")?;
    let (line, lines) = mpsc::channel();
    let reads = std::thread::spawn(move || {
        let mut all = BufReader::new(said).lines().map_while(Result::ok);
        all.try_for_each(|said| line.send(said).ok())
    });
    while !world.is_ended() {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(said) => take(&said, hearing)?,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
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
