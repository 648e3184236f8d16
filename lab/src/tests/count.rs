//! What cargo's tests say, counted.

use std::process::Command;

use aimq_lab::progress::{log_of, step};
use anyhow::{Result, ensure};

/// Tests that passed and failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// The names of those that failed, and what they said first.
    pub(crate) failures: Vec<String>,
    /// Those that did not run, and why.
    pub(crate) left_out: Vec<(String, String)>,
}

impl Count {
    /// That of what did not run.
    pub(crate) fn left_out(names: &[&str], why: &str) -> Self {
        let left_out = names.iter().map(|name| ((*name).to_owned(), why.to_owned())).collect();
        Self { left_out, ..Self::default() }
    }

    /// Each reason for leaving something out, with what was left out.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for (what, why) in &self.left_out {
            match reasons.iter_mut().find(|(known, _)| known == why) {
                Some((_, tests)) if tests.contains(&&**what) => {}
                Some((_, tests)) => tests.push(what),
                None => reasons.push((why, vec![what])),
            }
        }
        let text = |(why, tests): (&str, Vec<&str>)| {
            tests.iter().fold(format!("LEFT OUT: {why}"), |text, test| text + "\n  " + test)
        };
        reasons.into_iter().map(text).collect()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend_from_slice(&other.failures);
        self.left_out.extend_from_slice(&other.left_out);
    }
}

/// The name that a test must have in its own, if only some are wanted.
pub(crate) fn named() -> Option<String> {
    std::env::var("TEST").ok().filter(|name| !name.is_empty())
}

/// Runs tests, shows those that failed, and counts. A build that fails is an error.
pub(crate) fn cargo_test(title: &str, command: &mut Command) -> Result<Count> {
    let mut count = Count::default();
    let said = match step(title, command) {
        Ok(said) => said,
        Err(error) => {
            // cargo ends non-zero for failed tests too: those are counted, not fatal.
            let log = std::fs::read_to_string(log_of(title))?;
            if !log.contains("test result: FAILED") {
                return Err(error);
            }
            log
        }
    };
    for line in said.lines().filter(|line| line.starts_with("test result:")) {
        let words: Vec<_> = line.split_whitespace().collect();
        let before = |word: &str| {
            let at = words.iter().position(|found| found.trim_end_matches(';') == word)?;
            words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
        };
        count.passed += before("passed").unwrap_or(0);
        count.failed += before("failed").unwrap_or(0);
    }
    count.failures = failures(title, &said);
    // A name is that of a test in one of the rounds; that it is in one at all, is seen at the end.
    let has_name = named().is_some();
    ensure!(count.passed + count.failed > 0 || has_name, "{title}: no test ran");
    Ok(count)
}

/// The names of the tests that failed, each with the first lines of what it said: the log is not always at
/// hand.
fn failures(title: &str, said: &str) -> Vec<String> {
    const LINES: usize = 6;
    let lines: Vec<_> = said.lines().collect();
    let name =
        |line: &str| Some(line.strip_prefix("---- ")?.strip_suffix(" stdout ----")?.to_owned());
    (0..lines.len())
        .filter_map(|at| {
            let name = name(lines[at])?;
            // What a server says when it starts, pgrx' harness shows first.
            let is_said = |line: &&&str| !line.trim().is_empty() && !line.contains("] LOG:  ");
            let rest = lines[at + 1..].iter().filter(is_said);
            let first = rest.take_while(|line| !line.starts_with("---- ")).take(LINES);
            Some(first.fold(format!("  {title}: {name}"), |text, line| text + "\n    " + line))
        })
        .collect()
}
