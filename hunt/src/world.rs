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
use crate::queues::{QUEUES, Queue};

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
    /// Who needs another notifier to begin reads it; who stops the launcher, which starts it, has it for itself.
    pub(crate) launcher: RwLock<()>,
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

/// What an error says, with the server's own words where it was the server.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let server = error.downcast_ref::<postgres::Error>().and_then(postgres::Error::as_db_error);
    server.map_or_else(
        || format!("{error:#}"),
        |error| format!("{} ({})", error.message(), error.code().code()),
    )
}
