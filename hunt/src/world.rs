//! What all threads share: the server, its databases and queues, the consumers, what was done and found.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use aimq_lab::cluster::Cluster;
use aimq_lab::majors::Major;
use aimq_lab::pgbouncer::Pgbouncer;
use anyhow::Result;
use postgres::{Client, NoTls};

use crate::clock::Micros;
use crate::excuses::Excuses;
use crate::findings::Findings;
use crate::hearing::{Calls, Hearing};
use crate::history::History;
use crate::plan::Plan;

/// The channel of queues that name none.
pub(crate) const CHANNEL: &str = "aimq:jobs";
/// That of the queue `own`.
pub(crate) const OWN_CHANNEL: &str = "own jobs";
/// One that queues are moved to for a while.
pub(crate) const OTHER_CHANNEL: &str = "other:jobs";

/// How a queue is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Standard,
    Unlogged,
    Partitioned,
}

/// A queue that every database has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    /// As pgmq knows it.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) channel: &'static str,
}

impl Queue {
    /// The table's name, without its schema.
    pub(crate) fn table(&self) -> String {
        format!("q_{}", self.name.to_lowercase())
    }

    /// Whether it has row level security.
    pub(crate) fn is_guarded(&self) -> bool {
        self.name == GUARDED
    }
}

const fn queue(name: &'static str, kind: Kind, channel: &'static str) -> Queue {
    Queue { name, kind, channel }
}

/// The queue with row level security, and a role that sees all of it.
pub(crate) const GUARDED: &str = "guarded";
/// The queue whose messages are read by groups.
pub(crate) const GROUPS: &str = "groups";

/// Every database's queues. Sessions block on the last four; the others have listeners only.
pub(crate) const QUEUES: [Queue; 9] = [
    queue("plain", Kind::Standard, CHANNEL),
    queue("loose", Kind::Unlogged, CHANNEL),
    queue("MixedCase", Kind::Standard, CHANNEL),
    queue("parted", Kind::Partitioned, CHANNEL),
    queue("own", Kind::Standard, OWN_CHANNEL),
    queue("shared", Kind::Standard, CHANNEL),
    queue("pool", Kind::Standard, CHANNEL),
    queue(GUARDED, Kind::Standard, CHANNEL),
    queue(GROUPS, Kind::Standard, CHANNEL),
];

/// What all threads share.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) major: Major,
    /// Ends before the server.
    pub(crate) pooler: Pgbouncer,
    pub(crate) cluster: Cluster,
    pub(crate) databases: Vec<String>,
    pub(crate) begun: Micros,
    pub(crate) excuses: Mutex<Excuses>,
    pub(crate) history: History,
    /// The listeners, with the numbers of their databases.
    pub(crate) hearings: Vec<(usize, Mutex<Hearing>)>,
    /// The sessions that block.
    pub(crate) calls: Vec<(usize, Mutex<Calls>)>,
    /// One lock for each queue: an action that has the queue for itself is watched.
    pub(crate) floors: Vec<RwLock<()>>,
    /// Who notifies in the transaction itself reads it; who takes away the room for that has it for itself.
    pub(crate) by_themselves: RwLock<()>,
    pub(crate) findings: Mutex<Findings>,
    /// Nothing more is to be done.
    pub(crate) is_over: AtomicBool,
    /// Nothing more is to be waited for.
    pub(crate) is_ended: AtomicBool,
}

impl World {
    /// Whether actions are at their end.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Whether everything is at its end.
    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::SeqCst)
    }

    /// Does nothing for a while, unless actions are at their end.
    pub(crate) fn nap(&self, millis: u64) {
        let end = Instant::now() + Duration::from_millis(millis);
        while !self.is_over() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// The lock that threads hold while they act on a queue.
    pub(crate) fn floor(&self, database: usize, queue: &Queue) -> &RwLock<()> {
        let number = QUEUES.iter().position(|it| it.name == queue.name).unwrap_or(0);
        &self.floors[database * QUEUES.len() + number]
    }

    /// A new session of the superuser.
    pub(crate) fn connect(&self, database: &str, name: &str) -> Result<Client> {
        self.connect_to(self.cluster.folder(), database, name)
    }

    /// One through the server or the pooler that has its socket in a folder.
    pub(crate) fn connect_to(&self, folder: &Path, database: &str, name: &str) -> Result<Client> {
        let mut config = postgres::Config::new();
        config.host_path(folder).user("postgres").dbname(database);
        config.application_name(name).connect_timeout(Duration::from_secs(5));
        Ok(config.connect(NoTls)?)
    }

    /// Seconds since the beginning.
    pub(crate) fn since_begun(&self, at: Micros) -> f64 {
        (at - self.begun) as f64 / 1e6
    }
}

/// A string in SQL.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What an error says, with the server's own words where it was the server.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let server = error.downcast_ref::<postgres::Error>().and_then(postgres::Error::as_db_error);
    server.map_or_else(
        || format!("{error:#}"),
        |error| format!("{} ({})", error.message(), error.code().code()),
    )
}
