//! The processor time of a whole server, and how often a process went to sleep.

use aimq_lab::cluster::Cluster;
use anyhow::{Context, Result};

/// Ticks of a second in /proc: `USER_HZ`, which is 100 wherever Linux shows it.
const TICKS: f64 = 100.0;

/// The seconds that a server's processes have been on a processor, those that have ended included: they
/// are in the postmaster's account of its children, to a hundredth of a second.
pub(crate) fn of(cluster: &Cluster) -> Result<f64> {
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
pub(crate) fn sleeps(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}

/// To the nanosecond.
fn on_processor(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    let nanoseconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1e9)
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
