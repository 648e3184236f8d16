//! Builds the copy and runs tests on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use aimq_lab::majors::DEFAULT_MAJOR;
use aimq_lab::own;
use aimq_lab::progress::{attempt, log_of, step};
use aimq_lab::setup::{self, Profile};
use aimq_lab::shell::{TIME_IS_OVER, limited, target};
use aimq_lab::tools::cargo_command;
use anyhow::{Context, Result, ensure};

use super::copy::{Copy, folder};
use super::list::{Bug, Kind};
use crate::tests::server_for;

/// How long a test may take, in seconds: with a bug it may never end.
const PATIENCE: u32 = 300;

/// What came of a bug.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The test failed.
    Caught(String),
    /// It did not end.
    Hung(String),
    /// It passed.
    Survived(String),
    /// Nothing can be said of it: the copy does not compile, or the test did not run.
    Untried(&'static str, PathBuf),
}

impl Outcome {
    pub(super) fn is_caught(&self) -> bool {
        matches!(self, Self::Caught(_) | Self::Hung(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caught(by) => write!(f, "{by}"),
            Self::Hung(by) => write!(f, "{by}, which did not end"),
            Self::Survived(by) => write!(f, "SURVIVED {by}"),
            Self::Untried(why, log) => write!(f, "UNTRIED: {why}; the log is {}", log.display()),
        }
    }
}

/// Where the copy is built and tested.
#[derive(Debug)]
pub(super) struct Trial {
    tree: PathBuf,
}

impl Trial {
    /// Makes all ready that the tests need beside the copy.
    pub(super) fn prepare(copy: &Copy, needs_server: bool) -> Result<Self> {
        if needs_server {
            // A PostgreSQL of its own, so that no other test ever meets a bug.
            setup::prepare(DEFAULT_MAJOR)?;
            let home = folder().join("postgres");
            if !home.join("bin/pg_config").exists() {
                let original = target().join("pg").join(DEFAULT_MAJOR.0.to_string());
                let mut copy = Command::new("cp");
                copy.arg("-aT").arg(original).arg(&home);
                step("copy PostgreSQL", &mut copy)?;
            }
            own::test_on(&home.join("bin/pg_config").display().to_string())?;
            setup::prepare(DEFAULT_MAJOR)?;
        }
        Ok(Self { tree: copy.root().to_owned() })
    }

    /// Every test that is to catch something passes without a bug.
    pub(super) fn without_bugs(&self, bugs: &[Bug]) -> Result<()> {
        for kind in [Kind::Unit, Kind::Loom] {
            let tests: BTreeSet<_> =
                bugs.iter().filter(|bug| bug.kind == kind).map(|bug| &*bug.test).collect();
            if tests.is_empty() {
                continue;
            }
            step(&format!("build without bugs ({})", kind.name()), &mut self.build(kind)?)?;
            let tests: Vec<_> = tests.into_iter().collect();
            let title = format!("test without bugs ({})", kind.name());
            let said = step(&title, &mut self.core(kind, &tests)?)?;
            all_ran(&said, tests.len()).with_context(|| tests.join(", "))?;
        }
        let mut files: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for bug in bugs.iter().filter(|bug| bug.kind == Kind::Client) {
            let (file, name) = bug.client_test()?;
            files.entry(file).or_default().insert(name);
        }
        if !files.is_empty() {
            step("build without bugs (client)", &mut self.build(Kind::Client)?)?;
        }
        for (file, names) in files {
            let names: Vec<_> = names.into_iter().collect();
            let (_server, mut tests) = server_for(DEFAULT_MAJOR, file, &names)?;
            let said = step(&format!("test without bugs ({file})"), &mut tests)?;
            all_ran(&said, names.len()).with_context(|| names.join(", "))?;
        }
        Ok(())
    }

    /// What comes of a bug that is in the copy. A copy that does not compile says nothing of the tests.
    pub(super) fn with(&self, bug: &Bug) -> Result<Outcome> {
        let Bug { name, kind, test, .. } = bug;
        let title = format!("build with the bug {name}");
        let (status, _) = attempt(&title, &mut self.build(*kind)?)?;
        if !status.success() {
            return Ok(Outcome::Untried("it does not compile", log_of(&title)));
        }
        let (_server, command) = match kind {
            Kind::Unit | Kind::Loom => (None, self.core(*kind, &[test])?),
            Kind::Client => {
                let (file, in_file) = bug.client_test()?;
                let (server, command) = server_for(DEFAULT_MAJOR, file, &[in_file])?;
                (Some(server), command)
            }
        };
        let title = format!("test with the bug {name}");
        let (status, said) = attempt(&title, &mut limited(&command, PATIENCE))?;
        let by = format!("{} test {test}", kind.name());
        if status.success() {
            return Ok(Outcome::Survived(by));
        }
        if status.code() == Some(TIME_IS_OVER) {
            return Ok(Outcome::Hung(by));
        }
        // All was built before: what failed is the test, or it took its process with it.
        if !said.contains("running 1 test") {
            return Ok(Outcome::Untried("the test did not run", log_of(&title)));
        }
        Ok(Outcome::Caught(by))
    }

    /// Has a cargo command build the copy.
    fn move_to_copy(&self, command: &mut Command, kind: Kind) {
        // Another feature would have everything built again, as in `make test`.
        let built = folder().join(if kind == Kind::Loom { "loom" } else { "build" });
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", built);
    }

    /// Builds what the tests of a kind need: without a server the tests themselves, else aimq, which is installed.
    fn build(&self, kind: Kind) -> Result<Command> {
        if kind == Kind::Client {
            let mut command = setup::install_command(DEFAULT_MAJOR, Profile::Debug, &[])?;
            self.move_to_copy(&mut command, kind);
            return Ok(command);
        }
        let mut command = self.core_tests(kind)?;
        command.arg("--no-run");
        Ok(command)
    }

    fn core(&self, kind: Kind, tests: &[&str]) -> Result<Command> {
        let mut command = self.core_tests(kind)?;
        command.args(["--", "--exact"]).args(tests);
        Ok(command)
    }

    fn core_tests(&self, kind: Kind) -> Result<Command> {
        let mut command = cargo_command()?;
        self.move_to_copy(&mut command, kind);
        command.args(["test", "--locked", "-p", "aimq-core", "--lib"]);
        if kind == Kind::Loom {
            command.args(["--features", "loom", "--release"]);
            // The release's own settings build slowly, and each bug is built once.
            command.env("CARGO_PROFILE_RELEASE_LTO", "off");
            command.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
            command.env("CARGO_INCREMENTAL", "1");
        }
        Ok(command)
    }
}

/// Of tests that are named exactly, each has run.
fn all_ran(said: &str, count: usize) -> Result<()> {
    let one = if count == 1 { "" } else { "s" };
    ensure!(
        said.contains(&format!("running {count} test{one}\n")),
        "not each of these tests is there"
    );
    Ok(())
}
