//! Producers: pgbench, as anybody can run it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aimq_lab::cluster::Cluster;
use aimq_lab::setup::Major;
use anyhow::{Context, Result, bail, ensure};

use crate::contestants::Key;

/// What each transaction of the load does.
pub(crate) const SCRIPT: &str = "SELECT pgmq.send('q', '{\"n\": 1}');\n";

/// One run of pgbench.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) clients: u32,
    pub(crate) seconds: u32,
    /// Transactions per second of all clients together; without it, as many as there can be.
    pub(crate) rate: Option<f64>,
    pub(crate) synchronous_commit: bool,
}

/// A load that runs.
pub(crate) struct Running {
    pgbench: Child,
}

/// What pgbench said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// Without the time that it took to connect.
    pub(crate) tps: f64,
}

impl Load {
    pub(crate) fn start(self, major: Major, cluster: &Cluster, key: Key) -> Result<Running> {
        let script = cluster.folder().join("send.sql");
        std::fs::write(&script, SCRIPT)?;
        let mut pgbench = Command::new(major.program("pgbench"));
        pgbench.args(["--no-vacuum", "--protocol=prepared", "--username=postgres"]);
        pgbench.arg("--host").arg(cluster.folder()).arg("--file").arg(&script);
        pgbench.arg(format!("--client={}", self.clients));
        // Two threads: more would only take turns with the servers.
        pgbench.arg(format!("--jobs={}", self.clients.min(2)));
        pgbench.arg(format!("--time={}", self.seconds));
        if let Some(rate) = self.rate {
            pgbench.arg(format!("--rate={rate:.0}"));
        }
        pgbench.arg(key.database());
        let commit = if self.synchronous_commit { "on" } else { "off" };
        pgbench.env("PGOPTIONS", format!("-c synchronous_commit={commit}")).env("LC_ALL", "C");
        pgbench.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Running { pgbench: pgbench.spawn().context("pgbench")? })
    }

    pub(crate) fn run(self, major: Major, cluster: &Cluster, key: Key) -> Result<Done> {
        self.start(major, cluster, key)?.wait()
    }
}

impl Running {
    /// Ends a load that has done what it was there for.
    pub(crate) fn end(mut self) -> Result<()> {
        if let Some(status) = self.pgbench.try_wait()? {
            bail!("the load did not last: {status}");
        }
        self.pgbench.kill()?;
        self.pgbench.wait()?;
        Ok(())
    }

    pub(crate) fn wait(self) -> Result<Done> {
        let said = self.pgbench.wait_with_output()?;
        let text = String::from_utf8_lossy(&said.stdout);
        ensure!(
            said.status.success(),
            "pgbench failed ({}):\n{text}{}",
            said.status,
            String::from_utf8_lossy(&said.stderr)
        );
        let line = text.lines().find(|line| line.starts_with("tps = ")).context("no tps")?;
        let tps = line.split_whitespace().nth(2).context("no tps")?.parse()?;
        Ok(Done { tps })
    }
}

/// Waits until the sessions of a load are gone, so that their time is accounted and the next sample
/// begins on a quiet server.
pub(crate) fn settle(cluster: &Cluster, children: usize) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while crate::cpu::children(cluster) > children && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}
