//! The servers of a run: one with aimq preloaded, one without, and the contestants' databases.

use std::time::Duration;

use aimq_lab::cluster::Cluster;
use aimq_lab::majors::Major;
use aimq_lab::progress::Spinner;
use anyhow::{Context, Result};
use postgres::Client;

use crate::contestants::{self, Key};
use crate::plan::Plan;
use crate::wait;

/// How long a background worker may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Durable, and without what comes and goes by itself: autovacuum and checkpoints would hit one
/// contestant and not the other. The measures truncate and checkpoint between samples.
pub(crate) const SETTINGS: [&str; 9] = [
    "fsync=on",
    "shared_buffers=1GB",
    "autovacuum=off",
    "max_wal_size=20GB",
    "checkpoint_timeout=1d",
    "max_connections=400",
    "max_locks_per_transaction=256",
    "max_worker_processes=64",
    "jit=off",
];

/// What the server with aimq preloaded has besides. The table has room for the largest growth measure.
pub(crate) const PRELOADED: [&str; 2] = ["shared_preload_libraries=aimq", "aimq.max_queues=4096"];

/// Both servers and who takes part.
pub(crate) struct Servers {
    preloaded: Cluster,
    plain: Option<Cluster>,
    /// In the order of [`contestants::ALL`].
    pub(crate) contestants: Vec<Key>,
    /// What was left out, and why.
    pub(crate) notes: Vec<String>,
}

impl Servers {
    pub(crate) fn start(major: Major, plan: &Plan) -> Result<Self> {
        let spinner = Spinner::new("start the servers, make the queues");
        let wished = plan.settings.iter().map(String::as_str);
        let settings: Vec<&str> = SETTINGS.into_iter().chain(wished).collect();
        let preloaded = Cluster::start(major, &[&settings[..], &PRELOADED].concat())?;
        let mut servers =
            Self { preloaded, plain: None, contestants: Vec::new(), notes: Vec::new() };
        let notifier = has_notifier(&servers.preloaded)?;
        if !notifier {
            servers.notes.push("this build of aimq has no notifier: it is left out".into());
        } else if plan.wants_contestant(Key::NotifierPlain) {
            if major.0 >= 17 {
                servers.plain = Some(Cluster::start(major, &settings)?);
            } else {
                let note = "the notifier without preload needs PostgreSQL 17 or later: left out";
                servers.notes.push(note.into());
            }
        }
        for key in contestants::ALL {
            let there = match key {
                Key::Notifier => notifier,
                Key::NonePlain | Key::NotifierPlain => servers.plain.is_some(),
                _ => true,
            };
            if there && plan.wants_contestant(key) {
                spinner.say(key.title());
                make(servers.of(key), key, notifier).with_context(|| key.title())?;
                servers.contestants.push(key);
            }
        }
        spinner.end(true);
        for note in &servers.notes {
            println!("  note: {note}");
        }
        Ok(servers)
    }

    /// The server that a contestant is on.
    pub(crate) fn of(&self, key: Key) -> &Cluster {
        match &self.plain {
            Some(plain) if !key.preloaded() => plain,
            _ => &self.preloaded,
        }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Cluster> {
        std::iter::once(&self.preloaded).chain(&self.plain)
    }

    pub(crate) fn connect(&self, key: Key) -> Result<Client> {
        self.of(key).connect(&key.database())
    }

    /// The same where the contestant's queues are to be empty.
    pub(crate) fn enter(&self, key: Key) -> Result<Client> {
        let mut client = self.connect(key)?;
        truncate(&mut client)?;
        Ok(client)
    }

    pub(crate) fn has(&self, key: Key) -> bool {
        self.contestants.contains(&key)
    }

    /// The contestants in the order of a round: another one each time, so that none always runs behind
    /// the same other.
    pub(crate) fn in_turn(&self, round: usize, which: impl Fn(Key) -> bool) -> Vec<Key> {
        let mut keys: Vec<Key> =
            self.contestants.iter().copied().filter(|key| which(*key)).collect();
        let by = round % keys.len().max(1);
        keys.rotate_left(by);
        if (round / keys.len().max(1)) % 2 == 1 {
            keys.reverse();
        }
        keys
    }

    /// Before each round, so that no sample pays for what others have written.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        self.all()
            .try_for_each(|cluster| Ok(cluster.connect("postgres")?.batch_execute("CHECKPOINT")?))
    }
}

/// A contestant's database, with its queues and triggers. `notifier`: whether this build has one.
pub(crate) fn make(cluster: &Cluster, key: Key, notifier: bool) -> Result<()> {
    let database = key.database();
    let mut server = cluster.connect("postgres")?;
    server.batch_execute(&format!("CREATE DATABASE {database}"))?;
    if notifier && key.is_aimq() {
        let delivery = if key.is_notifier() { "notifier" } else { "transaction" };
        // Known to this session only once it has loaded the library.
        server.batch_execute("LOAD 'aimq'")?;
        server
            .batch_execute(&format!("ALTER DATABASE {database} SET aimq.delivery = {delivery}"))?;
    }
    key.set_up(&mut cluster.connect(&database)?)?;
    if key.is_notifier() {
        wait_for_notifier(cluster, &database)?;
    }
    Ok(())
}

/// Empties a contestant's queues: every sample begins with small tables.
pub(crate) fn truncate(client: &mut Client) -> Result<()> {
    let queues = [contestants::QUEUE, contestants::PROBE, contestants::APART];
    let tables = queues.map(|queue| format!("pgmq.q_{queue}")).join(", ");
    Ok(client.batch_execute(&format!("TRUNCATE {tables}"))?)
}

fn has_notifier(cluster: &Cluster) -> Result<bool> {
    let mut client = cluster.connect("postgres")?;
    client.batch_execute("LOAD 'aimq'")?;
    let found = client.query("SELECT FROM pg_settings WHERE name = 'aimq.delivery'", &[])?;
    Ok(!found.is_empty())
}

/// How many messages are in the load's queue (`q`), or in its archive (`a`).
pub(crate) fn count(client: &mut Client, table: &str) -> Result<u64> {
    let sql = format!("SELECT count(*) FROM pgmq.{table}_{}", contestants::QUEUE);
    Ok(client.query_one(&sql, &[])?.get::<_, i64>(0).unsigned_abs())
}

/// Waits until a database's notifier runs.
pub(crate) fn wait_for_notifier(cluster: &Cluster, database: &str) -> Result<()> {
    let mut client = cluster.connect(database)?;
    let ours = "SELECT FROM pg_stat_activity
                 WHERE backend_type = 'aimq notifier' AND datname = current_database()";
    let found = wait::until(PATIENCE, || Ok(client.query_opt(ours, &[])?))?;
    found.map(drop).with_context(|| format!("no notifier in {database} within {PATIENCE:?}"))
}
