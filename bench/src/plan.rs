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

impl Measure {
    /// Whether there is nothing to measure without a notifier.
    pub(crate) fn is_of_notifier(self) -> bool {
        matches!(self, Self::Interval | Self::Blocked | Self::Polling | Self::Crowd)
    }
}

/// What is done in this run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    /// Rounds with those alone whose ratio to no trigger is to be known to a hundredth.
    pub(crate) more_rounds: usize,
    /// Rounds of what takes long, or has no bound that hangs on it.
    pub(crate) few_rounds: usize,
    only: Vec<Measure>,
    contestants: Vec<Key>,
    /// Settings of the servers beside those that every run has.
    pub(crate) settings: Vec<String>,
    /// Seconds of one run of pgbench, which takes whole ones.
    pub(crate) seconds: u32,
    pub(crate) clients: &'static [u32],
    /// Beside the main case, one listener, which the throughput covers.
    pub(crate) listeners: &'static [u32],
    pub(crate) batches: &'static [u32],
    pub(crate) batch_time: Duration,
    /// Over how many seconds delayed messages become visible.
    pub(crate) lateness_seconds: u32,
    /// One after another, to sessions that block or listen.
    pub(crate) blocked_messages: u32,
    /// How long workers are left idle, and how long they are kept busy.
    pub(crate) polling_time: Duration,
    /// Messages at random intervals to workers that poll or block.
    pub(crate) polling_messages: u32,
    /// Sessions that block, each for a queue of its own.
    pub(crate) waiters: u32,
    /// How long one contestant's latency is taken in one round.
    pub(crate) latency_time: Duration,
    /// Bursts with a quiet time after each, in one round.
    pub(crate) episodes: u32,
    pub(crate) queues: &'static [u32],
    pub(crate) growth_time: Duration,
}

impl Plan {
    pub(crate) fn new(wishes: &Wishes) -> Self {
        let quick = wishes.quick;
        let rounds = wishes.rounds.unwrap_or(if quick { 1 } else { 7 }).max(1);
        let either = |look: u32, whole: u32| if quick { look } else { whole };
        let ms = |look, whole| Duration::from_millis(u64::from(either(look, whole)));
        let list = |look, whole| -> &'static [u32] { if quick { look } else { whole } };
        Self {
            quick,
            rounds,
            more_rounds: if quick { 0 } else { rounds },
            few_rounds: rounds.min(3),
            only: wishes.only.clone(),
            contestants: wishes.contestants.clone(),
            settings: wishes.set.clone(),
            seconds: either(1, 2),
            clients: list(&[1, 16], &[1, 4, 16, 64]),
            listeners: list(&[200], &[0, 20, 200]),
            batches: list(&[1, 1000], &[1, 100, 1000, 10_000]),
            batch_time: ms(250, 600),
            lateness_seconds: either(1, 10),
            blocked_messages: either(20, 100),
            polling_time: ms(1000, 3000),
            polling_messages: either(10, 60),
            waiters: either(200, 1000),
            latency_time: ms(1000, 2500),
            episodes: either(3, 5),
            queues: list(&[1, 100], &[1, 10, 100, 1000]),
            growth_time: ms(700, 1500),
        }
    }

    pub(crate) fn wants(&self, measure: Measure) -> bool {
        use Measure::{Instructions, Lateness, Reads};
        // A look has no time for what moves little from run to run.
        let is_long =
            measure.is_of_notifier() || matches!(measure, Instructions | Lateness | Reads);
        let by_default = self.only.is_empty() && !(self.quick && is_long);
        by_default || self.only.contains(&measure)
    }

    pub(crate) fn wants_contestant(&self, key: Key) -> bool {
        let all = self.contestants.is_empty();
        // Nothing can be told without its baseline.
        all || self.contestants.contains(&key)
            || key == Key::None
            || key == Key::NonePlain && self.contestants.contains(&Key::NotifierPlain)
    }
}
