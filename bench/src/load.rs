//! Producers: pgbench, as anybody can run it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aimq_lab::cluster::Cluster;
use aimq_lab::majors::Major;
use anyhow::{Context, Result, bail, ensure};

use crate::contestants::Key;
use crate::{cpu, wait};

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
pub(crate) struct Running<'a> {
    pgbench: Child,
    cluster: &'a Cluster,
    /// How many children the postmaster had before.
    children: usize,
}

impl Load {
    pub(crate) fn start(self, major: Major, cluster: &Cluster, key: Key) -> Result<Running<'_>> {
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
        let children = cpu::children(cluster);
        Ok(Running { pgbench: pgbench.spawn().context("pgbench")?, cluster, children })
    }

    /// Returns the commits per second, without the time that it took to connect.
    pub(crate) fn run(self, major: Major, cluster: &Cluster, key: Key) -> Result<f64> {
        let Running { pgbench, children, .. } = self.start(major, cluster, key)?;
        let said = pgbench.wait_with_output()?;
        let text = String::from_utf8_lossy(&said.stdout);
        ensure!(
            said.status.success(),
            "pgbench failed ({}):\n{text}{}",
            said.status,
            String::from_utf8_lossy(&said.stderr)
        );
        settle(cluster, children)?;
        let line = text.lines().find(|line| line.starts_with("tps = ")).context("no tps")?;
        Ok(line.split_whitespace().nth(2).context("no tps")?.parse()?)
    }
}

impl Running<'_> {
    /// Ends a load that has done what it was there for.
    pub(crate) fn end(mut self) -> Result<()> {
        if let Some(status) = self.pgbench.try_wait()? {
            bail!("the load did not last: {status}");
        }
        self.pgbench.kill()?;
        self.pgbench.wait()?;
        settle(self.cluster, self.children)
    }
}

/// Waits until the sessions of a load are gone, so that their time is accounted and the next sample
/// begins on a quiet server. One that is still there then is not waited for.
fn settle(cluster: &Cluster, children: usize) -> Result<()> {
    let gone = || Ok((cpu::children(cluster) <= children).then_some(()));
    wait::until(Duration::from_secs(5), gone).map(drop)
}
