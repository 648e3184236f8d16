//! On what a run was made: enough to judge the figures, nothing that tells whose machine it was.

use std::process::Command;

use aimq_lab::shell;
use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::contestants::{APART, PROBE, QUEUE};
use crate::load;
use crate::plan::Plan;
use crate::servers::{PRELOADED, SETTINGS, Servers};

/// Machine, settings and versions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct About {
    pub(crate) date: String,
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gb: f64,
    pub(crate) kernel: String,
    pub(crate) postgres: String,
    pub(crate) pgmq: String,
    pub(crate) aimq: String,
    pub(crate) aimq_commit: String,
    pub(crate) settings: Vec<String>,
    pub(crate) settings_preloaded: Vec<String>,
    pub(crate) notify_interval: String,
    pub(crate) transaction: String,
    pub(crate) notes: Vec<String>,
}

impl About {
    pub(crate) fn gather(plan: &Plan, servers: &Servers) -> Result<Self> {
        let key = servers.contestants[0];
        let mut client = servers.connect(key)?;
        client.batch_execute("LOAD 'aimq'")?;
        let row = client.query_one(
            "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI \"UTC\"'),
                    current_setting('server_version'),
                    (SELECT extversion FROM pg_extension WHERE extname = 'pgmq'),
                    (SELECT extversion FROM pg_extension WHERE extname = 'aimq'),
                    coalesce(current_setting('aimq.notify_interval', true), '')",
            &[],
        )?;
        let line = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let kilobytes = line("/proc/meminfo", "MemTotal");
        let kilobytes: f64 =
            kilobytes.split(' ').next().unwrap_or_default().parse().unwrap_or_default();
        let git = |arguments: &[&str]| {
            shell::output(Command::new("git").current_dir(shell::root()).args(arguments))
                .map(|said| said.trim().to_owned())
                .unwrap_or_default()
        };
        let changed = git(&["status", "--porcelain", "--untracked-files=no", "src", "core", "sql"]);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut notes = servers.notes.clone();
        notes.push(format!(
            "queues of each contestant: {QUEUE} (the load), {PROBE} (same channel), {APART} (a channel of its own)"
        ));
        Ok(Self {
            date: row.get(0),
            quick: plan.quick,
            rounds: plan.rounds,
            cpu: line("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gb: (kilobytes / 1024.0 / 1024.0 * 10.0).round() / 10.0,
            kernel: format!("Linux {}", kernel.trim()),
            postgres: row.get::<_, String>(1).split(' ').next().unwrap_or_default().to_owned(),
            pgmq: row.get(2),
            aimq: row.get(3),
            aimq_commit: git(&["rev-parse", "--short=12", "HEAD"])
                + if changed.is_empty() { "" } else { " and changes" },
            settings: SETTINGS.into_iter().map(String::from).chain(plan.settings.clone()).collect(),
            settings_preloaded: PRELOADED.iter().map(ToString::to_string).collect(),
            notify_interval: row.get(4),
            transaction: load::SCRIPT.trim().to_owned(),
            notes,
        })
    }

    /// Too little was measured for its figures to count.
    pub(crate) fn is_a_look(&self) -> bool {
        self.quick || self.rounds < 7
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let Self { postgres, pgmq, aimq, aimq_commit, cores, cpu, memory_gb, kernel, date, .. } =
            self;
        format!(
            "PostgreSQL {postgres}, pgmq {pgmq}, aimq {aimq} ({aimq_commit}); \
             {cores} cores of {cpu}, {memory_gb} GB, {kernel}; {date}"
        )
    }
}
