//! The processor time of a whole server, and how often a process went to sleep.

use aimq_lab::cluster::Cluster;
use anyhow::{Context, Result};

/// Ticks of a second in /proc: `USER_HZ`, which is 100 wherever Linux shows it.
const TICKS: f64 = 100.0;

/// Counts the processor time of a server from when it is made.
pub(crate) struct Meter<'a> {
    cluster: &'a Cluster,
    before: f64,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(cluster: &'a Cluster) -> Result<Self> {
        Ok(Self { cluster, before: seconds_of(cluster)? })
    }

    /// What it was so far.
    pub(crate) fn so_far(&self) -> Result<Time> {
        Ok(Time(seconds_of(self.cluster)? - self.before))
    }
}

/// Seconds of a processor.
#[derive(Clone, Copy)]
pub(crate) struct Time(f64);

impl Time {
    /// In microseconds for each of so many messages, to a hundredth.
    pub(crate) fn us_each(self, messages: f64) -> f64 {
        (self.0 * 1e8 / messages.max(1.0)).round() / 100.0
    }
}

/// The seconds that a server's processes have been on a processor, those that have ended included: they
/// are in the postmaster's account of its children, to a hundredth of a second.
fn seconds_of(cluster: &Cluster) -> Result<f64> {
    let postmaster = cluster.postmaster().context("the server runs")?;
    let mut seconds = 0.0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that ends meanwhile is on the postmaster's account the next time.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        let Some(stat) = Stat::parse(&stat) else {
            continue;
        };
        if pid == postmaster {
            seconds += stat.children;
        }
        if pid == postmaster || stat.parent == postmaster {
            seconds += on_processor(pid).unwrap_or(stat.own);
        }
    }
    Ok(seconds)
}

/// How many children the postmaster has.
pub(crate) fn children(cluster: &Cluster) -> usize {
    let Some(postmaster) = cluster.postmaster() else {
        return 0;
    };
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter(|entry| {
        std::fs::read_to_string(entry.path().join("stat"))
            .is_ok_and(|stat| Stat::parse(&stat).is_some_and(|stat| stat.parent == postmaster))
    })
    .count()
}

/// How often a process has gone to sleep by itself: its voluntary switches of context.
pub(crate) fn sleeps(pid: u32) -> Result<u64> {
    status(pid, "voluntary_ctxt_switches")
}

/// A number in /proc/PID/status.
pub(crate) fn status(pid: u32, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = lines.next().and_then(|line| line.split_whitespace().next());
    Ok(value.with_context(|| format!("no {name}"))?.parse()?)
}

/// The seconds that a process has been on a processor, to the nanosecond. Unlike the time on the wall, that does not
/// count what the machine does besides.
pub(crate) fn on_processor(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let nanoseconds: f64 = text.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(nanoseconds / 1e9)
}

struct Stat {
    parent: u32,
    own: f64,
    children: f64,
}

impl Stat {
    /// Reads a line of /proc/PID/stat. The command's name, in parentheses, may hold anything.
    fn parse(line: &str) -> Option<Self> {
        let rest: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| rest.get(at)?.parse::<f64>().ok();
        Some(Self {
            parent: rest.get(1)?.parse().ok()?,
            own: (number(11)? + number(12)?) / TICKS,
            children: (number(13)? + number(14)?) / TICKS,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_behind_the_name() {
        let line = "7 (a (b) c) S 3 7 7 0 -1 0 0 0 0 0 100 50 10 20 20 0 1 0";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.parent, stat.own, stat.children), (3, 1.5, 0.3));
    }
}
