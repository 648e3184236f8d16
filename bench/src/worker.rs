//! A worker as a process of its own, for the measures that kill some: `aimq-bench worker`. It tells its
//! parent, line by line, how late it was.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, NoTls};
use serde::{Deserialize, Serialize};

use crate::contestants::Key;

/// How a worker learns that there is something to read.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Way {
    /// It listens, and never polls.
    Notifier,
    /// `pgmq.read_with_poll`, which asks each 100 ms.
    ReadWithPoll,
    /// It reads once a second.
    PollEachSecond,
}

impl Way {
    /// Whose database it is tried in.
    pub(crate) fn contestant(self) -> Key {
        if self == Self::Notifier { Key::Notifier } else { Key::None }
    }

    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// As people read it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Notifier => "aimq notifier, never polling",
            Self::ReadWithPoll => "pgmq.read_with_poll, 100 ms",
            Self::PollEachSecond => "a read each second",
        }
    }
}

/// What a worker is told.
#[derive(Args)]
pub(crate) struct Orders {
    #[arg(long)]
    way: Way,
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    database: String,
    /// Keeps the third messages that it reads, says so, and waits to be killed.
    #[arg(long)]
    hold: bool,
}

pub(crate) fn run(orders: &Orders) -> Result<()> {
    let mut config = postgres::Config::new();
    config.host_path(&orders.socket).user("postgres").dbname(&orders.database);
    let mut client = config.connect(NoTls).context("connect")?;
    client.batch_execute("LISTEN \"aimq:jobs\"")?;
    let mut worker = Worker { client, hold: orders.hold, reads: 0 };
    say("ready")?;
    loop {
        match orders.way {
            Way::Notifier => {
                worker.client.notifications().iter().count()?;
                while worker.read("SELECT * FROM pgmq.read('q', 2, 10)")? {}
                worker.client.notifications().blocking_iter().next()?;
            }
            Way::ReadWithPoll => {
                worker.read("SELECT * FROM pgmq.read_with_poll('q', 2, 10)")?;
            }
            Way::PollEachSecond => {
                while worker.read("SELECT * FROM pgmq.read('q', 2, 10)")? {}
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

struct Worker {
    client: Client,
    hold: bool,
    reads: u32,
}

impl Worker {
    /// Reads some messages and archives them. False if there were none.
    fn read(&mut self, from: &str) -> Result<bool> {
        let sql = format!("SELECT msg_id, (message->>'due')::bigint, read_ct FROM ({from}) m");
        let rows = self.client.query(&sql, &[])?;
        if rows.is_empty() {
            return Ok(false);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros();
        let now = i64::try_from(now)?;
        for row in &rows {
            // Those that somebody died over have another time.
            if row.get::<_, i32>(2) == 1 {
                say(&format!("late {}", (now - row.get::<_, i64>(1)).max(0)))?;
            }
        }
        self.reads += 1;
        if self.hold && self.reads == 3 {
            say("holds")?;
            loop {
                std::thread::park();
            }
        }
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        self.client.execute("SELECT pgmq.archive('q', $1::bigint[])", &[&ids])?;
        Ok(true)
    }
}

fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}
