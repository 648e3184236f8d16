//! `make bugs`: deliberate bugs, each built into a copy of the sources and caught by the test that is named beside it.
//!
//! A bug that no test catches would be one that somebody can make without being told.

mod copy;
mod list;
mod trial;

use std::time::Instant;

use anyhow::{Result, ensure};

use copy::Copy;
use list::{Bug, Kind};
use trial::Trial;

/// `make bugs`. An error if a bug survives, or can't be tried.
pub(crate) fn run(names: &[String]) -> Result<()> {
    let is_called = |bug: &Bug, it: &str| bug.name.contains(it) || bug.kind.name() == it;
    let is_named = |bug: &Bug| names.is_empty() || names.iter().any(|it| is_called(bug, it));
    let mut bugs: Vec<_> = list::read()?.into_iter().filter(is_named).collect();
    ensure!(!bugs.is_empty(), "no bug in {} is called so", list::PATH);
    // Those that need the same build come one after the other.
    bugs.sort_by_key(|bug| bug.kind);

    let copy = Copy::make()?;
    let trial = Trial::prepare(&copy, bugs.iter().any(|bug| bug.kind == Kind::Client))?;
    // A test that fails anyway would catch everything.
    trial.without_bugs(&bugs)?;

    let width = bugs.iter().map(|bug| bug.name.len()).max().unwrap_or(0);
    let mut survivors = Vec::new();
    println!();
    for bug in &bugs {
        let begun = Instant::now();
        copy.infect(bug)?;
        let ended = trial.with(bug);
        copy.heal(bug)?;
        let outcome = ended?;
        let seconds = begun.elapsed().as_secs_f64();
        println!("  {:width$}  {seconds:>4.0} s  {outcome}", bug.name);
        if !outcome.is_caught() {
            survivors.push(bug);
        }
    }
    let caught = bugs.len() - survivors.len();
    println!("\n{caught} of {} bugs were caught", bugs.len());
    for bug in &survivors {
        println!("\n{} in {}: {}", bug.name, bug.file, bug.why);
    }
    ensure!(survivors.is_empty(), "{} bugs were not caught", survivors.len());
    Ok(())
}
