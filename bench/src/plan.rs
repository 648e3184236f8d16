//! What a run measures, and how often.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::contestants::Key;

/// What can be asked for on the command line.
#[derive(Args)]
pub(crate) struct Wishes {
    /// Few rounds of a selection: a look, no measurement.
    #[arg(long)]
    quick: bool,
    /// Only these measures.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Only these contestants; `none` is always there.
    #[arg(long, value_delimiter = ',')]
    contestants: Vec<Key>,
    /// How many rounds.
    #[arg(long)]
    rounds: Option<usize>,
    /// Where the raw results go; without it, below target/bench/.
    #[arg(long)]
    pub(crate) to: Option<PathBuf>,
    /// Keep the results in bench/results/ and draw the README's pictures, as for a release.
    #[arg(long, conflicts_with_all = ["quick", "to"])]
    pub(crate) keep: bool,
    /// A setting of the servers, `name=value`; may be given more than once.
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "keep")]
    set: Vec<String>,
    /// Take the extension that is installed below target/ as it is.
    #[arg(long)]
    pub(crate) no_build: bool,
}

/// One kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measure {
    /// Commits per second by the number of clients.
    Throughput,
    /// The same with `synchronous_commit` off.
    Async,
    /// The same by the number of listening connections.
    Listeners,
    /// Rows per second by the size of the batch.
    Batches,
    /// From sending the statement to the listener's receipt.
    Latency,
    /// Messages that a worker without polling never learned of.
    Wakeups,
    /// Cost by the number of realtime queues.
    Growth,
    /// What `aimq.notify_interval` does to listeners and throughput.
    Interval,
    /// What realtime costs readers.
    Reads,
    /// How late delayed messages are read, and whether others finish what a worker died over.
    Lateness,
    /// What waking one of 200 sessions that block costs, beside LISTEN.
    Blocked,
    /// Blocking calls beside `pgmq.read_with_poll`.
    Polling,
    /// What a thousand sessions that block cost producers.
    Crowd,
    /// Instructions for each insert, counted by callgrind.
    Instructions,
}

/// What is done in this run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    only: Vec<Measure>,
    contestants: Vec<Key>,
    /// Settings of the servers beside those that every run has.
    pub(crate) settings: Vec<String>,
}

impl Plan {
    pub(crate) fn new(wishes: &Wishes) -> Self {
        Self {
            quick: wishes.quick,
            rounds: wishes.rounds.unwrap_or(if wishes.quick { 1 } else { 7 }).max(1),
            only: wishes.only.clone(),
            contestants: wishes.contestants.clone(),
            settings: wishes.set.clone(),
        }
    }

    pub(crate) fn wants(&self, measure: Measure) -> bool {
        if self.only.is_empty() {
            // A look has no time for what moves little from run to run.
            let long = matches!(
                measure,
                Measure::Interval
                    | Measure::Instructions
                    | Measure::Reads
                    | Measure::Lateness
                    | Measure::Blocked
                    | Measure::Polling
                    | Measure::Crowd
            );
            return !(self.quick && long);
        }
        self.only.contains(&measure)
    }

    pub(crate) fn wants_contestant(&self, key: Key) -> bool {
        let all = self.contestants.is_empty();
        // Nothing can be told without its baseline.
        all || self.contestants.contains(&key)
            || key == Key::None
            || key == Key::NonePlain && self.contestants.contains(&Key::NotifierPlain)
    }

    /// Rounds with those alone whose ratio to no trigger is to be known to a hundredth.
    pub(crate) fn more_rounds(&self) -> usize {
        if self.quick { 0 } else { self.rounds }
    }

    /// Seconds of one run of pgbench, which takes whole ones.
    pub(crate) fn seconds(&self) -> u32 {
        if self.quick { 1 } else { 2 }
    }

    pub(crate) fn clients(&self) -> &'static [u32] {
        if self.quick { &[1, 16] } else { &[1, 4, 16, 64] }
    }

    /// Beside the main case, one listener, which the throughput covers.
    pub(crate) fn listeners(&self) -> &'static [u32] {
        if self.quick { &[200] } else { &[0, 20, 200] }
    }

    pub(crate) fn batches(&self) -> &'static [u32] {
        if self.quick { &[1, 1000] } else { &[1, 100, 1000, 10_000] }
    }

    pub(crate) fn batch_time(&self) -> Duration {
        Duration::from_millis(if self.quick { 250 } else { 600 })
    }

    /// Over how many seconds delayed messages become visible.
    pub(crate) fn lateness_seconds(&self) -> u32 {
        if self.quick { 1 } else { 10 }
    }

    /// Each of them takes a minute and more.
    pub(crate) fn lateness_rounds(&self) -> usize {
        self.rounds.min(3)
    }

    /// One after another, to sessions that block or listen.
    pub(crate) fn blocked_messages(&self) -> u32 {
        if self.quick { 20 } else { 100 }
    }

    /// How long workers are left idle, and how long they are kept busy.
    pub(crate) fn polling_time(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { 3 })
    }

    /// Messages at random intervals to workers that poll or block.
    pub(crate) fn polling_messages(&self) -> u32 {
        if self.quick { 10 } else { 60 }
    }

    /// Each of them takes half a minute.
    pub(crate) fn polling_rounds(&self) -> usize {
        self.rounds.min(3)
    }

    /// With messages to the queues that are waited for: no bound hangs on them.
    pub(crate) fn crowd_rounds(&self) -> usize {
        self.rounds.min(3)
    }

    /// Sessions that block, each for a queue of its own.
    pub(crate) fn waiters(&self) -> usize {
        if self.quick { 200 } else { 1000 }
    }

    /// How long one contestant's latency is taken in one round.
    pub(crate) fn latency_time(&self) -> Duration {
        Duration::from_millis(if self.quick { 1000 } else { 2500 })
    }

    /// Bursts with a quiet time after each, in one round.
    pub(crate) fn episodes(&self) -> u32 {
        if self.quick { 3 } else { 5 }
    }

    pub(crate) fn queues(&self) -> &'static [u32] {
        if self.quick { &[1, 100] } else { &[1, 10, 100, 1000] }
    }

    pub(crate) fn growth_time(&self) -> Duration {
        Duration::from_millis(if self.quick { 700 } else { 1500 })
    }
}
