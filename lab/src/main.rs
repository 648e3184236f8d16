//! The program behind the Makefile: `make demo`, `make test`, `make install`, `make lint` and what they need.

mod bugs;
mod by_hand;
mod demo;
mod lint;
mod pgrx;
mod tests;

use aimq_lab::majors::{ALL_MAJORS, DEFAULT_MAJOR, Major};
use aimq_lab::setup;
use aimq_lab::{cluster, install, own, uninstall};
use anyhow::Result;
use clap::{Args, Parser, Subcommand};

/// Sets up throw-away PostgreSQL servers with aimq in them, and shows and tests it there.
#[derive(Parser)]
#[command(name = "aimq-lab")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes everything ready: PostgreSQL, pgmq, aimq.
    Setup(Majors),
    /// Shows a worker being woken.
    Demo {
        /// The major version of PostgreSQL, 14 to 18.
        #[arg(long, value_name = "MAJOR", value_parser = Major::parse)]
        pg: Option<Major>,
    },
    /// The demo's worker. Not to be called by hand.
    #[command(hide = true)]
    DemoWorker(demo::Orders),
    /// Runs the tests, all kinds of them where none is named.
    Test {
        /// The kinds of tests; docs/design/testing.md says what each is for.
        #[arg(value_enum, value_name = "KIND")]
        kinds: Vec<tests::Kind>,
        #[command(flatten)]
        majors: Majors,
        /// The program pg_config of a PostgreSQL of yours. The tests run on it, and install a debug build of aimq
        /// into it.
        #[arg(long, conflicts_with = "named")]
        pg_config: Option<String>,
    },
    /// Builds aimq with deliberate bugs, one after the other, and has each caught by a test.
    Bugs {
        /// Parts of the names of bugs in lab/bugs.toml, or kinds: `unit`, `loom`, `client`. All of them where none is
        /// named.
        names: Vec<String>,
    },
    /// Installs the pgmq that aimq is tested with into a PostgreSQL of yours that has none.
    Pgmq {
        /// The program pg_config of that PostgreSQL.
        pg_config: String,
    },
    /// Builds a release of aimq and installs it into a PostgreSQL of yours.
    Install {
        /// The program pg_config of that PostgreSQL.
        pg_config: String,
    },
    /// Removes aimq's files from a PostgreSQL of yours, unless a server of it that runs still needs them.
    Uninstall {
        /// The program pg_config of that PostgreSQL.
        pg_config: String,
        /// Removes them without asking any server.
        #[arg(long)]
        force: bool,
    },
    /// Prints what a shell must export so that cargo-pgrx works by hand on a server of ours.
    Env {
        /// The major version of PostgreSQL, 14 to 18.
        #[arg(long, value_name = "MAJOR", value_parser = Major::parse)]
        pg: Option<Major>,
    },
    /// Checks spelling, formatting, clippy and documentation; warnings are errors.
    Lint,
    /// Checks the licences and sources of the crates that aimq depends on.
    Deny,
}

/// On which PostgreSQL.
#[derive(Args)]
struct Majors {
    /// A major version of PostgreSQL, 14 to 18; all of them where none is named.
    #[arg(long = "pg", value_name = "MAJOR", value_parser = Major::parse)]
    named: Vec<Major>,
}

impl Majors {
    fn all(&self) -> &[Major] {
        if self.named.is_empty() { &ALL_MAJORS } else { &self.named }
    }
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nlab: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let command = Arguments::parse().command;
    // The demo's worker has no servers of its own. It ends when the demo ends it.
    if !matches!(command, Command::DemoWorker(_)) {
        cluster::clean_up_on_signals()?;
    }
    match command {
        Command::Setup(majors) => {
            let ready = |major: &Major| setup::ready(*major, setup::Profile::Release);
            majors.all().iter().try_for_each(ready)
        }
        Command::Demo { pg } => demo::run(pg.unwrap_or(DEFAULT_MAJOR)),
        Command::DemoWorker(orders) => demo::worker(&orders),
        Command::Test { kinds, pg_config: Some(pg_config), .. } => {
            tests::run(&kinds, &[own::test_on(&pg_config)?.major])
        }
        Command::Test { kinds, majors, .. } => tests::run(&kinds, majors.all()),
        Command::Bugs { names } => bugs::run(&names),
        Command::Pgmq { pg_config } => install::install_pgmq_into(&pg_config),
        Command::Install { pg_config } => install::install_into(&pg_config),
        Command::Uninstall { pg_config, force } => uninstall::run(&pg_config, force),
        Command::Env { pg } => by_hand::print(pg.unwrap_or(DEFAULT_MAJOR)),
        Command::Lint => lint::run(),
        Command::Deny => lint::deny(),
    }
}
