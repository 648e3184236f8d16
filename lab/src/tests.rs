//! `make test`: every test on every major, with a count at the end.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::pgrx;

use aimq_lab::cluster::Cluster;
use aimq_lab::progress::step;
use aimq_lab::setup::{self, ALL_MAJORS, DEFAULT_MAJOR, Major, Profile};
use aimq_lab::{debs, drivers, shell};

/// What the tests need of the server: prepared transactions, and a NOTIFY queue that can be filled
/// where its size can be set (PostgreSQL 17 and later).
fn settings(major: Major) -> Vec<&'static str> {
    let mut settings = vec![
        "fsync=off",
        "max_connections=300",
        "max_prepared_transactions=20",
        "wal_level=logical",
        "timezone=UTC",
        // Whose tests are in front of all others; the notifier's set it back.
        "aimq.delivery=transaction",
    ];
    if major.0 >= 17 {
        settings.push("max_notify_queue_pages=64");
    }
    settings
}

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

/// Tests that passed and failed.
#[derive(Clone, Debug, Default)]
struct Count {
    passed: u64,
    failed: u64,
    /// The names of those that failed, and what they said first.
    failures: Vec<String>,
}

impl Count {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend_from_slice(&other.failures);
    }
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
    for major in majors {
        setup::prepare(*major)?;
    }
    debs::partman(majors)?;
    debs::pgbouncer()?;
    drivers::python()?;

    if wanted(Kind::Unit) {
        let mut core = setup::cargo_command()?;
        core.args(["test", "-p", "aimq-core", "-p", "aimq-bench", "-p", "aimq-hunt"]);
        core.arg("--no-fail-fast");
        note("unit tests of pure Rust".into(), cargo_test("unit tests of pure Rust", &mut core)?);
        // In a folder of its own, because another feature would have everything compiled again. Optimised, because each
        // test runs thousands of times.
        let mut model = setup::cargo_command()?;
        model.args(["test", "-p", "aimq-core", "--lib", "--features", "loom", "--release"]);
        model.args(["--target-dir", "target/loom", "--no-fail-fast", "--", "shared::model"]);
        let title = "every interleaving of the marks (loom)";
        note(title.into(), cargo_test(title, &mut model)?);
    }
    if wanted(Kind::Client) {
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
        // All of one major, so that its release is built once.
        note("the README's commands".into(), commands(chosen(majors))?);
    }

    println!();
    for (what, count) in rows {
        println!("  {what:40} {:>5} passed {:>5} failed", count.passed, count.failed);
    }
    println!("\n  {:.0} s\n", begun.elapsed().as_secs_f64());
    println!("{} passed, {} failed", total.passed, total.failed);
    for failure in &total.failures {
        println!("\n{failure}");
    }
    ensure!(total.failed == 0, "{} tests failed", total.failed);
    ensure!(total.passed > 0, "no test ran");
    Ok(())
}

/// The default major where that is among them.
fn chosen(majors: &[Major]) -> Major {
    if majors.contains(&DEFAULT_MAJOR) { DEFAULT_MAJOR } else { majors[0] }
}

fn harness_tests(major: Major, title: &str) -> Result<Count> {
    let folder = tempfile::Builder::new().prefix("aimq-pgrx-").tempdir()?;
    cargo_test(title, &mut pgrx::command(major, folder.path())?)
}

/// `make lint`.
pub(crate) fn lint() -> Result<()> {
    setup::prepare(setup::DEFAULT_MAJOR)?;
    let feature = setup::DEFAULT_MAJOR.feature();
    let cargo = |arguments: &[&str]| -> Result<Command> {
        let mut command = setup::cargo_command()?;
        command.args(arguments);
        command.env("PGRX_PG_CONFIG_PATH", setup::DEFAULT_MAJOR.program("pg_config"));
        Ok(command)
    };
    // The flags that cargo-pgrx builds with: else every crate would be compiled once more. Behind the command's name,
    // since clippy's passes on only what is there.
    let all = ["--config", setup::PGRX_RUSTFLAGS, "--workspace", "--no-default-features"];
    step("cargo fmt", &mut cargo(&["fmt", "--all", "--check"])?)?;
    step(
        "clippy",
        cargo(&["clippy"])?.args(all).arg("--all-targets").args([
            "--features",
            &format!("{feature},pg_test,bench_shapes"),
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    step(
        "rustdoc",
        cargo(&["doc"])?
            .args(all)
            .args(["--features", &feature, "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links"),
    )?;
    Ok(())
}

/// Tests that share a server.
struct Round {
    major: Major,
    title: String,
    /// The files under tests/client/tests.
    files: Vec<&'static str>,
    /// How aimq comes into shared memory, as the tests are told it.
    shared: &'static str,
    settings: Vec<&'static str>,
}

/// How many rounds run at the same time. Most tests wait for most of their time.
const LANES: usize = 3;

/// The client tests of these majors. All is built first: a build would take the processors away from tests that look
/// at times.
fn client_tests(majors: &[Major]) -> Result<Vec<(String, Count)>> {
    for major in majors {
        setup::install(*major, Profile::Debug, &[])?;
        setup::old_pgmq_stand_in(*major)?;
    }
    if majors.contains(&DEFAULT_MAJOR) {
        drivers::node()?;
        drivers::browser()?;
    }
    let mut build = setup::cargo_command()?;
    build.args(["test", "-p", "aimq-client-tests", "--no-run"]);
    step("build the client tests", &mut build)?;
    // Where tests are named, cargo builds no examples by itself.
    let mut example = setup::cargo_command()?;
    example.args(["build", "-p", "aimq-client-tests", "--examples"]);
    step("build the example in Rust", &mut example)?;

    // The first round comes first in the queue.
    let rounds: Vec<_> = majors.iter().flat_map(|major| rounds(*major)).collect();
    let queue = std::sync::Mutex::new(rounds.iter().enumerate());
    let counts = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let next = queue.lock().expect("not poisoned").next();
                        let Some((at, round)) = next else { return Ok(()) };
                        let count = round.run()?;
                        counts.lock().expect("not poisoned").push((at, count));
                    }
                })
            })
            .collect();
        lanes.into_iter().try_for_each(|lane| lane.join().expect("a lane does not panic"))
    })?;
    let mut counts = counts.into_inner().expect("not poisoned");
    counts.sort_by_key(|(at, _)| *at);
    Ok(counts.into_iter().map(|(at, count)| (rounds[at].title.clone(), count)).collect())
}

/// Those of delivery in the transaction and of all that has nothing to do with delivery; then those of the notifier,
/// with aimq preloaded and, where it can be, without.
fn rounds(major: Major) -> Vec<Round> {
    let base = settings(major);
    let by_notifier = [&base[..], &["aimq.delivery=auto", "max_worker_processes=200"]].concat();
    let preloaded = [&by_notifier[..], &["shared_preload_libraries=aimq"]].concat();
    let mut rounds = Vec::new();
    let mut add = |what: &str, files: &[&'static str], shared, settings: &[&'static str]| {
        rounds.push(Round {
            major,
            title: format!("PostgreSQL {}: client tests{what}", major.0),
            files: files.to_vec(),
            shared,
            settings: settings.to_vec(),
        });
    };
    // What takes long, and what has nothing to do with the major, on the oldest and on the default.
    let is_end = [ALL_MAJORS[0], DEFAULT_MAJOR].contains(&major);
    if is_end || ALL_MAJORS.last() == Some(&major) {
        add(" that take long", &LONG_TESTS, "preloaded", &preloaded);
    }
    if is_end {
        add(" under load", &LAST_TESTS, "preloaded", &preloaded);
    }
    if major == DEFAULT_MAJOR {
        // What they do depends on their drivers, or on a browser, not on the major.
        add(" of the examples", &["examples", "busy", "live"], "preloaded", &preloaded);
    }
    let by_itself = [&NOTIFIER_TESTS[..], &PRELOADED_TESTS].concat();
    add(" of the notifier, preloaded", &by_itself, "preloaded", &preloaded);
    if major.0 >= 17 {
        add(" of the notifier, not preloaded", &NOTIFIER_TESTS, "registry", &by_notifier);
    }
    add("", &TRANSACTION_TESTS, "none", &base);
    rounds
}

/// The tests that run on a server whose delivery is `transaction`.
const TRANSACTION_TESTS: [&str; 9] = [
    "advice",
    "catalog",
    "control",
    "delivery",
    "lifecycle",
    "misuse",
    "overload",
    "privileges",
    "readme",
];

/// Those of the notifier, however it came to be there.
const NOTIFIER_TESTS: [&str; 11] = [
    "notifier",
    "signals",
    "visibility",
    "waiting",
    "blocking",
    "gaps",
    "subscription",
    "vanished",
    "passed_on",
    "encodings",
    "everywhere",
];

/// Those that want it preloaded, or to which that makes no difference.
const PRELOADED_TESTS: [&str; 11] = [
    "events",
    "truth",
    "doctor",
    "hints",
    "doctor_server",
    "sinks",
    "recovery",
    "faults",
    "slotless",
    "strangers",
    "prepared",
];

/// Those that wait for long, each on servers of its own: on the oldest major, the default and the newest.
const LONG_TESTS: [&str; 7] =
    ["settings", "looks", "stopped", "hangs", "giving_way", "crowded", "lateness"];
const LAST_TESTS: [&str; 4] = ["storms", "pooler", "adoption", "listeners"];

impl Round {
    fn run(&self) -> Result<Count> {
        let Self { major, title, .. } = self;
        let cluster = Cluster::start(*major, &self.settings)?;
        cluster.connect("postgres")?.batch_execute("CREATE DATABASE aimq_template")?;
        cluster.connect("aimq_template")?.batch_execute("CREATE EXTENSION aimq CASCADE")?;
        let bin = major.program("psql").parent().context("a program has a folder")?.to_owned();
        let mut tests = setup::cargo_command()?;
        tests.args(["test", "-p", "aimq-client-tests", "--no-fail-fast"]);
        for name in &self.files {
            tests.args(["--test", name]);
        }
        tests
            .env("AIMQ_TEST_SHARED", self.shared)
            .env("AIMQ_TEST_SOCKET", cluster.folder())
            .env("AIMQ_TEST_MAJOR", major.0.to_string())
            .env("AIMQ_TEST_BIN", bin);
        tests.arg("--");
        if major.0 < 17 {
            tests.args(["--skip", "from_17_"]);
        }
        // Other people's packages know nothing of majors.
        if *major != DEFAULT_MAJOR {
            tests.args(["--skip", "package_"]);
        }
        tests.args(std::env::var_os("TEST"));
        let count = cargo_test(title, &mut tests)?;
        if count.failed > 0 {
            let kept = aimq_lab::progress::log_of(&format!("{title}, the server"));
            std::fs::copy(cluster.log(), &kept)?;
            println!("    the server's log: {}", kept.display());
        }
        Ok(count)
    }
}

/// The README's `make` commands that no other test runs, each a test.
fn commands(major: Major) -> Result<Count> {
    let mut count = Count::default();
    let pg = format!("PG={}", major.0);
    let pg_config = format!("PG_CONFIG={}", major.program("pg_config").display());
    for (arguments, says) in [
        (&["help"][..], "make demo"),
        (&["demo", &pg], "Nothing is left running."),
        (&["install", &pg_config], "Installed."),
        (&["bench", "QUICK=1", &pg], "raw results:"),
    ] {
        let title = format!("make {}", arguments[0]);
        let before = servers()?;
        let mut make = Command::new("make");
        make.current_dir(shell::root()).args(arguments);
        // What this `make test` was told is not for them.
        for name in ["MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "PG", "KIND", "TEST"] {
            make.env_remove(name);
        }
        let mut problems = Vec::new();
        match step(&title, &mut make) {
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

/// Runs tests, shows those that failed, and counts. A build that fails is an error.
fn cargo_test(title: &str, command: &mut Command) -> Result<Count> {
    let mut count = Count::default();
    let said = match step(title, command) {
        Ok(said) => said,
        Err(error) => {
            // cargo ends non-zero for failed tests too: those are counted, not fatal.
            let log = std::fs::read_to_string(aimq_lab::progress::log_of(title))?;
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
    let has_name = std::env::var_os("TEST").is_some();
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
