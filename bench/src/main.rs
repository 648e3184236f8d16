//! `make bench`: what waking workers costs the producers, and how long it takes, beside the same queue
//! without a trigger and beside the usual alternatives. docs/design/benchmark.md says what is measured
//! and why so.

mod callers;
mod connections;
mod contestants;
mod cpu;
mod figures;
mod listeners;
mod load;
mod machine;
mod measure;
mod paths;
mod picture;
mod plan;
mod report;
mod results;
mod servers;
mod shapes;
mod table;
#[cfg(test)]
mod tests;
mod verdict;
mod wait;
mod worker;

use std::path::PathBuf;

use aimq_lab::cluster;
use aimq_lab::majors::{DEFAULT_MAJOR, Major};
use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures aimq beside its alternatives on throw-away servers.
#[derive(Parser)]
#[command(name = "aimq-bench")]
struct Arguments {
    /// The major version of PostgreSQL.
    #[arg(long, global = true, value_parser = |text: &str| Major::parse(text).map_err(|e| e.to_string()))]
    pg: Option<Major>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures, prints tables and verdicts, keeps the raw results and draws the pictures.
    Run(plan::Wishes),
    /// Prints and draws what a run has kept, without measuring anything.
    Pictures {
        /// The raw results; without it, those kept in bench/results/.
        results: Option<PathBuf>,
        /// Where the pictures go.
        #[arg(long)]
        to: Option<PathBuf>,
    },
    /// A worker of a measure. Not to be called by hand.
    #[command(hide = true)]
    Worker(worker::Orders),
    /// What other shapes of the trigger would cost (docs/design/trigger.md).
    Shapes {
        /// Two pairs, and no large loads: a look, no measurement.
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nbench: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments = Arguments::parse();
    let major = arguments.pg.unwrap_or(DEFAULT_MAJOR);
    cluster::clean_up_on_signals()?;
    match arguments.command {
        Command::Run(wishes) => measure::run(major, &wishes),
        Command::Pictures { results, to } => picture::redraw(major, results, to),
        Command::Worker(orders) => worker::run(&orders),
        Command::Shapes { quick } => shapes::run(major, quick),
    }
}
