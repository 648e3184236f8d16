//! `make test`: every test on every major, with a count at the end.

mod count;
mod lacks;
mod rounds;

use std::process::Command;
use std::time::Instant;

use aimq_lab::majors::{DEFAULT_MAJOR, Major};
use aimq_lab::progress::step;
use aimq_lab::setup;
use aimq_lab::tools::cargo_command;
use aimq_lab::{drivers, own, shell};
use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::pgrx;
use count::{Count, cargo_test};
use rounds::client_tests;
pub(crate) use rounds::server_for;

/// The kinds of tests; docs/design/testing.md says which is for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Pure Rust, with the model of the marks.
    Unit,
    /// A real server as its clients see it.
    Client,
    /// In the server, by pgrx' harness.
    Pgrx,
    /// The README's `make` commands.
    Commands,
}

pub(crate) fn run(kinds: &[Kind], majors: &[Major]) -> Result<()> {
    let wanted = |kind| kinds.is_empty() || kinds.contains(&kind);
    let begun = Instant::now();
    let mut total = Count::default();
    let mut rows = Vec::new();
    let mut note = |what: String, count: Count| {
        total.add(&count);
        rows.push((what, count));
    };
    let own = own::tested();
    // Pure Rust needs no server.
    if [Kind::Client, Kind::Pgrx, Kind::Commands].into_iter().any(wanted) {
        majors.iter().try_for_each(|major| setup::prepare(*major))?;
    }

    if wanted(Kind::Unit) {
        let mut core = cargo_command()?;
        core.arg("test");
        for package in ["aimq-core", "aimq-bench", "aimq-hunt", "aimq-lab"] {
            core.args(["-p", package]);
        }
        core.arg("--no-fail-fast");
        note("unit tests of pure Rust".into(), cargo_test("unit tests of pure Rust", &mut core)?);
        // In a folder of its own, because another feature would have everything compiled again. Optimised, because each
        // test runs thousands of times.
        let mut model = cargo_command()?;
        model.args(["test", "-p", "aimq-core", "--lib", "--features", "loom", "--release"]);
        model.args(["--target-dir", "target/loom", "--no-fail-fast", "--", "shared::model"]);
        let title = "every interleaving of the marks (loom)";
        note(title.into(), cargo_test(title, &mut model)?);
    }
    if wanted(Kind::Client) {
        drivers::python()?;
        for (title, count) in client_tests(majors)? {
            note(title, count);
        }
    }

    if wanted(Kind::Pgrx) {
        // Of one major: the control plane, which they are about, is the same on all. After the client tests, because
        // the harness installs a build of its own over theirs.
        let major = chosen(majors);
        let title = format!("PostgreSQL {}: tests in the server", major.0);
        note(title.clone(), harness_tests(major, &title)?);
    }

    if wanted(Kind::Commands) {
        let title = "the README's commands";
        note(
            title.into(),
            match own {
                // All of one major, so that its release is built once.
                None => commands(chosen(majors))?,
                Some(_) => {
                    Count::left_out(&COMMANDS, "they are about the PostgreSQLs below target/")
                }
            },
        );
    }

    println!();
    for (what, count) in rows {
        println!(
            "  {what:40} {:>5} passed {:>5} failed{}",
            count.passed,
            count.failed,
            out(&count)
        );
    }
    println!("\n  {:.0} s\n", begun.elapsed().as_secs_f64());
    println!("{} passed, {} failed{}", total.passed, total.failed, out(&total));
    for why in total.reasons() {
        println!("\n{why}");
    }
    for failure in &total.failures {
        println!("\n{failure}");
    }
    if let Some(own) = own.filter(|_| [Kind::Client, Kind::Pgrx].into_iter().any(wanted)) {
        println!(
            "\nA debug build of aimq is now in {}. For a release: make install PG_CONFIG={}",
            own.version,
            own.major.program("pg_config").display()
        );
    }
    ensure!(total.failed == 0, "{} tests failed", total.failed);
    ensure!(total.passed > 0, "no test ran");
    Ok(())
}

/// How many were left out, if any were: `make test PG_CONFIG=…` says so beside each count.
fn out(count: &Count) -> String {
    match count.left_out.len() {
        0 => String::new(),
        some => format!(", {some} LEFT OUT"),
    }
}

/// The default major where that is among them.
fn chosen(majors: &[Major]) -> Major {
    if majors.contains(&DEFAULT_MAJOR) { DEFAULT_MAJOR } else { majors[0] }
}

fn harness_tests(major: Major, title: &str) -> Result<Count> {
    let folder = tempfile::Builder::new().prefix("aimq-pgrx-").tempdir()?;
    cargo_test(title, &mut pgrx::command(major, folder.path())?)
}

/// What `make test KIND=commands` runs. `make install` comes last: it builds with another pg_config, so that the next
/// build would begin again.
const COMMANDS: [&str; 4] = ["make help", "make demo", "make bench", "make install"];

/// The README's `make` commands that no other test runs, each a test.
fn commands(major: Major) -> Result<Count> {
    let mut count = Count::default();
    let pg = format!("PG={}", major.0);
    let pg_config = format!("PG_CONFIG={}", major.program("pg_config").display());
    let told: [(&[&str], &str); COMMANDS.len()] = [
        (&[], "make demo"),
        (&[&pg], "Nothing is left running."),
        (&["QUICK=1", &pg], "raw results:"),
        (&[&pg_config], "Installed."),
    ];
    for (title, (arguments, says)) in COMMANDS.into_iter().zip(told) {
        let before = servers()?;
        let mut make = Command::new("make");
        make.current_dir(shell::root()).args(title.split(' ').skip(1)).args(arguments);
        // What this `make test` was told is not for them.
        for name in ["MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "PG", "PG_CONFIG", "KIND", "TEST"] {
            make.env_remove(name);
        }
        let mut problems = Vec::new();
        match step(title, &mut make) {
            Ok(said) if !said.contains(says) => problems.push(format!("it did not say {says:?}")),
            Ok(_) => {}
            Err(error) => problems.push(error.to_string()),
        }
        if servers()? != before {
            problems.push("it left something in the folder for temporary files".into());
        }
        count.failures.extend(problems.iter().map(|problem| format!("  {title}: {problem}")));
        count.passed += u64::from(problems.is_empty());
        count.failed += u64::from(!problems.is_empty());
    }
    Ok(count)
}

/// The folders of servers that run now, or were left behind.
fn servers() -> Result<Vec<std::ffi::OsString>> {
    let all = std::fs::read_dir(std::env::temp_dir())?.flatten().map(|entry| entry.file_name());
    let mut ours: Vec<_> = all.filter(|name| name.to_string_lossy().starts_with("aimq-")).collect();
    ours.sort();
    Ok(ours)
}
