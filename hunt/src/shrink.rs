//! Makes a failing run small: the same seed with fewer kinds of actions and fewer seconds, as delta debugging does. The
//! timing differs from run to run, so each candidate has some tries.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::plan::Plan;
use crate::{ddl, faults, producers, standby};

/// The shortest run: everybody needs some time to be there.
const SECONDS: u64 = 10;

/// How many losses of a run are told.
const REPORTS: usize = 3;

/// Prints the smallest run that still loses something. Whether there was one.
pub(crate) fn shrink(plan: &Plan) -> Result<bool> {
    let all = kinds(plan);
    let whole = plan.seconds;
    println!(
        "Shrink seed {}: {} kinds, {whole} s, {} tries each",
        plan.seed(),
        all.len(),
        plan.tries
    );
    // With fewer kinds each is done more often.
    let seconds = |kinds: &[&str]| (whole * kinds.len() as u64 / all.len() as u64).max(SECONDS);
    if !loses(plan, &all, whole)? {
        println!("\nIt did not lose anything.");
        return Ok(false);
    }
    let kinds = smallest(&all, |kinds| loses(plan, kinds, seconds(kinds)))?;
    let mut shortest = seconds(&kinds);
    while shortest / 2 >= SECONDS && loses(plan, &kinds, shortest / 2)? {
        shortest /= 2;
    }
    println!("\nStill lost with {}", kinds.join("; "));
    println!("Again: {}", candidate(plan, &kinds, shortest).again());
    Ok(true)
}

/// All kinds that the plan wants.
fn kinds(plan: &Plan) -> Vec<&'static str> {
    let mut all: Vec<&str> = producers::KINDS.iter().map(|kind| kind.name).collect();
    if !plan.no_ddl {
        all.extend(ddl::KINDS.iter().map(|kind| kind.name));
    }
    if !plan.no_faults {
        let faults = faults::KINDS.iter().chain(&faults::LIGHT).chain(&standby::KINDS);
        let is_there = |since: u32| plan.pg.0 >= since;
        all.extend(faults.filter(|kind| is_there(kind.since)).map(|kind| kind.name));
    }
    all.retain(|kind| plan.wants(kind));
    all
}

/// The plan with these kinds alone.
fn candidate(plan: &Plan, kinds: &[&str], seconds: u64) -> Plan {
    let only = kinds.iter().map(ToString::to_string).collect();
    Plan { only, except: Vec::new(), shrink: None, seconds, ..plan.clone() }
}

/// Whether a run with these kinds loses anything, in one of some tries.
fn loses(plan: &Plan, kinds: &[&str], seconds: u64) -> Result<bool> {
    for _ in 0..plan.tries.max(1) {
        let output = Command::new(std::env::current_exe()?)
            .args(candidate(plan, kinds, seconds).arguments())
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("a run")?;
        let said = String::from_utf8_lossy(&output.stdout);
        // A run that did not come to its end says nothing.
        let lost = lost(&said);
        let told = lost.map_or("failed".into(), |lost| format!("{lost} lost"));
        println!("  {seconds:>4} s, {:>3} kinds: {told}", kinds.len());
        if lost.is_some_and(|lost| lost > 0) {
            // What it was, as the run tells it.
            let reports = said.lines().skip_while(|line| !line.starts_with("Losses"));
            for report in reports.skip(2).take_while(|line| !line.is_empty()).take(REPORTS) {
                println!("      {}", report.trim());
            }
            return Ok(true);
        }
    }
    Ok(false)
}

/// The number of messages lost that a run tells.
fn lost(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.trim().strip_prefix("lost ")?.trim().parse().ok())
}

/// A part of a list that still fails, and of which no smaller part that was tried does.
fn smallest<T: Clone>(all: &[T], mut fails: impl FnMut(&[T]) -> Result<bool>) -> Result<Vec<T>> {
    let mut left = all.to_vec();
    let mut parts = 2;
    'smaller: while left.len() > 1 {
        let size = left.len().div_ceil(parts);
        let chunks: Vec<Vec<T>> = left.chunks(size).map(<[T]>::to_vec).collect();
        for chunk in &chunks {
            if fails(chunk)? {
                (left, parts) = (chunk.clone(), 2);
                continue 'smaller;
            }
        }
        // Of two, each is what is left without the other.
        for number in 0..if chunks.len() > 2 { chunks.len() } else { 0 } {
            let mut others = chunks.clone();
            others.remove(number);
            let others = others.concat();
            if fails(&others)? {
                (left, parts) = (others, (parts - 1).max(2));
                continue 'smaller;
            }
        }
        if size == 1 {
            break;
        }
        parts = (parts * 2).min(left.len());
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_it_takes() {
        let all: Vec<u32> = (0..40).collect();
        for needed in [vec![5], vec![3, 17], vec![0, 20, 39]] {
            let mut runs = 0;
            let left = smallest(&all, |part| {
                runs += 1;
                Ok(needed.iter().all(|one| part.contains(one)))
            });
            assert_eq!(left.unwrap(), needed);
            assert!(runs < 150, "{needed:?}: {runs} runs");
        }
    }

    #[test]
    fn the_figure_is_found_in_what_a_run_says() {
        let said =
            "  wake-ups   17\n  lost                          12\n\nLosses (12 in 3 reports)\n";
        assert_eq!(lost(said), Some(12));
        assert_eq!(lost("hunt: no server\n"), None);
    }
}
