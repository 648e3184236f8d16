//! The raw results: every sample, as it is kept.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::callers::Call;
use crate::contestants::Key;
use crate::machine::About;
use crate::worker::Way;

/// Everything that a run has found.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Results {
    pub(crate) about: About,
    pub(crate) throughput: Vec<Throughput>,
    pub(crate) interval: Vec<Interval>,
    pub(crate) batches: Vec<Batch>,
    pub(crate) latency: Vec<Latency>,
    pub(crate) wakeups: Vec<Wakeups>,
    pub(crate) growth: Vec<Growth>,
    pub(crate) wide: Vec<Wide>,
    pub(crate) reads: Vec<Reads>,
    pub(crate) lateness: Vec<Lateness>,
    pub(crate) blocked: Vec<Blocked>,
    pub(crate) polling: Vec<Polling>,
    pub(crate) crowd: Vec<Crowd>,
    pub(crate) instructions: Vec<Instructions>,
}

/// One run of pgbench.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Throughput {
    pub(crate) contestant: Key,
    pub(crate) round: usize,
    pub(crate) clients: u32,
    pub(crate) listeners: u32,
    pub(crate) synchronous_commit: bool,
    /// Commits per second, without the time to connect.
    pub(crate) tps: f64,
    /// Rows that were in the queue afterwards.
    pub(crate) messages: u64,
    /// What one listener received.
    pub(crate) notifications: u64,
    /// Messages that these told of; of aimq only, the others don't say.
    pub(crate) counted: u64,
    /// Microseconds of processor of the whole server for each message.
    pub(crate) cpu_us: f64,
}

/// One run of pgbench under an `aimq.notify_interval`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Interval {
    pub(crate) notify_interval_ms: u32,
    #[serde(flatten)]
    pub(crate) run: Throughput,
}

/// Batches of one size for a while, one producer, one listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub(crate) contestant: Key,
    pub(crate) round: usize,
    pub(crate) size: u32,
    pub(crate) rows_per_second: f64,
}

/// Where messages went while others' way was followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Background {
    /// Nothing else: one message at a time, after a quiet time.
    Idle,
    /// 16 producers at a rate that every contestant can keep up with; the followed message's queue shares
    /// their channel.
    Steady,
    /// 16 producers as fast as they can; the same.
    Saturated,
    /// As steady, but the followed message's queue has a channel of its own.
    SteadyApart,
}

/// Messages whose way was followed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) contestant: Key,
    pub(crate) round: usize,
    pub(crate) background: Background,
    /// Of all background producers together, as asked for; none where they are unbounded.
    pub(crate) rate: Option<f64>,
    /// The statement's own time, microseconds.
    pub(crate) statement_us: Vec<u32>,
    /// From sending the statement to the listener's receipt, microseconds.
    pub(crate) wake_us: Vec<u32>,
    /// Those of which the listener heard nothing in time.
    pub(crate) missed: u64,
}

/// A worker that listens, drains when woken, and never polls.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Wakeups {
    pub(crate) contestant: Key,
    pub(crate) round: usize,
    pub(crate) sent: u64,
    /// Left unread after the grace time.
    pub(crate) lost: u64,
    /// Bursts after which something was left.
    pub(crate) bursts_with_loss: u32,
    pub(crate) bursts: u32,
    pub(crate) wake_ups: u64,
}

/// Messages to queues chosen at random, among so many.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Growth {
    pub(crate) contestant: Key,
    pub(crate) round: usize,
    pub(crate) queues: u32,
    pub(crate) tps: f64,
    /// Microseconds of processor of the whole server for each message.
    pub(crate) cpu_us: f64,
}

/// One message to each of so many queues, in one transaction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Wide {
    pub(crate) contestant: Key,
    pub(crate) round: usize,
    pub(crate) queues: u32,
    /// Of the whole transaction, the fastest of a few, milliseconds.
    pub(crate) ms: f64,
}

/// Reads of so many messages, one reader, without waiting for the flush.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reads {
    pub(crate) contestant: Key,
    pub(crate) round: usize,
    pub(crate) size: u32,
    pub(crate) reads_per_second: f64,
}

/// Workers on messages that become visible at random times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Lateness {
    pub(crate) way: Way,
    pub(crate) round: usize,
    /// Workers that were killed with messages that they had read.
    pub(crate) killed: usize,
    pub(crate) messages: u64,
    /// Archived in the end.
    pub(crate) finished: u64,
    /// From the time when a message could be read to when a worker had it, microseconds; without those that
    /// somebody had died over.
    pub(crate) late_us: Vec<u32>,
    /// Microseconds of processor of the whole server for each message.
    pub(crate) cpu_us: f64,
}

/// Single messages to many idle sessions that all want them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Blocked {
    pub(crate) way: Call,
    pub(crate) round: usize,
    pub(crate) sessions: usize,
    pub(crate) sent: u64,
    /// Those that nobody finished in time.
    pub(crate) missed: u64,
    /// From sending the statement to when a worker had the message, microseconds.
    pub(crate) handed_us: Vec<u32>,
    /// Reads upon a notification that found nothing.
    pub(crate) empty_reads: u64,
    /// Voluntary switches of context of those sessions that did not get the message.
    pub(crate) idle_switches: u64,
    /// Of all these sessions.
    pub(crate) switches: u64,
    /// Microseconds of processor of the whole server for each message.
    pub(crate) cpu_us: f64,
}

/// Workers that wait for nothing, for single messages, and for many.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Polling {
    pub(crate) way: Call,
    pub(crate) round: usize,
    pub(crate) workers: usize,
    /// Milliseconds of processor of the whole server in each second in which nothing is enqueued.
    pub(crate) idle_ms: f64,
    /// From sending the statement to when a worker had the message, microseconds: one at a time.
    pub(crate) single_us: Vec<u32>,
    /// The same of one producer's steady messages.
    pub(crate) steady_us: Vec<u32>,
    /// How many of these there were in each second.
    pub(crate) rate: f64,
    /// Microseconds of processor of the whole server for each of them.
    pub(crate) cpu_us: f64,
    /// Of all messages, those that no worker had in time.
    pub(crate) missed: u64,
    /// Those that their workers could not archive by the end.
    pub(crate) unarchived: u64,
}

/// Producers beside many connections, each of which may block for a queue of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Crowd {
    pub(crate) round: usize,
    /// Connections, in both cases.
    pub(crate) sessions: u32,
    /// They block; else they are idle.
    pub(crate) is_blocked: bool,
    /// The messages are for their queues, at random; else for one that none of them wants.
    pub(crate) is_theirs: bool,
    /// Messages per second.
    pub(crate) tps: f64,
    /// Microseconds of processor of the whole server for each message; those of its reader included, if there is one.
    pub(crate) cpu_us: f64,
    /// Messages that the sessions that block did not read in time.
    pub(crate) unread: u64,
}

/// What callgrind counted in one session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Instructions {
    pub(crate) contestant: Key,
    /// Messages in one transaction.
    pub(crate) batch: u32,
    /// Instructions for each message, commit included.
    pub(crate) per_message: f64,
}

impl Results {
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        serde_json::from_str(&text).with_context(|| file.display().to_string())
    }

    /// A sample on each line: small, and a change shows in a diff.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let value = serde_json::to_value(self)?;
        let mut text = String::from("{");
        for (at, (name, part)) in value.as_object().into_iter().flatten().enumerate() {
            text += if at == 0 { "\n" } else { ",\n" };
            match part.as_array() {
                Some(samples) => {
                    let lines: Vec<String> =
                        samples.iter().map(|sample| format!("\n  {sample}")).collect();
                    text += &format!("\"{name}\": [{}\n]", lines.join(","));
                }
                None => text += &format!("\"{name}\": {part:#}"),
            }
        }
        text += "\n}\n";
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(file, text).with_context(|| file.display().to_string())
    }
}
