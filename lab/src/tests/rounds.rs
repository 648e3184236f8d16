//! The client tests: which of them share a server, and which servers.

use std::process::Command;

use aimq_lab::cluster::Cluster;
use aimq_lab::majors::{ALL_MAJORS, DEFAULT_MAJOR, Major};
use aimq_lab::progress::{log_of, step};
use aimq_lab::setup::{self, Profile};
use aimq_lab::tools::cargo_command;
use aimq_lab::{debs, drivers, own};
use anyhow::{Context, Result};

use super::count::{Count, cargo_test, named};
use super::lacks::{self, Lack};

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
pub(crate) fn client_tests(majors: &[Major]) -> Result<Vec<(String, Count)>> {
    for major in majors {
        setup::install(*major, Profile::Debug, &[])?;
    }
    let lacks = match own::tested() {
        Some(own) => lacks::of(own)?,
        None => {
            majors.iter().try_for_each(|major| setup::pgmq_stand_ins(*major))?;
            debs::partman(majors)?;
            debs::pgbouncer()?;
            if majors.contains(&DEFAULT_MAJOR) {
                drivers::node()?;
                drivers::browser()?;
            }
            Vec::new()
        }
    };
    let mut build = cargo_command()?;
    build.args(["test", "-p", "aimq-client-tests", "--no-run"]);
    step("build the client tests", &mut build)?;
    // Where tests are named, cargo builds no examples by itself.
    let mut example = cargo_command()?;
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
                        let count = round.run(&lacks)?;
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
const PRELOADED_TESTS: [&str; 13] = [
    "uninstall",
    "attacks",
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
const LAST_TESTS: [&str; 5] = ["storms", "pooler", "adoption", "listeners", "resources"];

impl Round {
    fn run(&self, lacks: &[Lack]) -> Result<Count> {
        let Self { title, .. } = self;
        let mut left_out: Vec<(String, String)> = Vec::new();
        for lack in lacks {
            let mut more = lack.tests(&self.files)?;
            // One may lack several things.
            more.retain(|(test, _)| !left_out.iter().any(|(known, _)| known == test));
            left_out.extend(more);
        }
        let can_run = |file: &&&str| !lacks.iter().any(|lack| lack.files.contains(*file));
        let files: Vec<_> = self.files.iter().filter(can_run).copied().collect();
        if files.is_empty() {
            return Ok(Count { left_out, ..Count::default() });
        }
        let (cluster, mut tests) = self.begin(&files, lacks)?;
        tests.args(named());
        let count = Count { left_out, ..cargo_test(title, &mut tests)? };
        if count.failed > 0 {
            let kept = log_of(&format!("{title}, the server"));
            std::fs::copy(cluster.log(), &kept)?;
            println!("    the server's log: {}", kept.display());
        }
        Ok(count)
    }

    /// Starts a server with aimq in it. Returns it, and what runs these of its tests: what is added are names.
    fn begin(&self, files: &[&str], lacks: &[Lack]) -> Result<(Cluster, Command)> {
        let major = self.major;
        let cluster = Cluster::start(major, &self.settings)?;
        cluster.connect("postgres")?.batch_execute("CREATE DATABASE aimq_template")?;
        cluster.connect("aimq_template")?.batch_execute("CREATE EXTENSION aimq CASCADE")?;
        let bin = major.program("psql").parent().context("a program has a folder")?.to_owned();
        let mut tests = cargo_command()?;
        tests.args(["test", "-p", "aimq-client-tests", "--no-fail-fast"]);
        for name in files {
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
        if major != DEFAULT_MAJOR {
            tests.args(["--skip", "package_"]);
        }
        for prefix in lacks.iter().filter_map(|lack| lack.prefix) {
            tests.args(["--skip", prefix]);
        }
        Ok((cluster, tests))
    }
}

/// A server for the tests of a file, with the aimq in it that is installed, and the command that runs those that are
/// named.
pub(crate) fn server_for(major: Major, file: &str, names: &[&str]) -> Result<(Cluster, Command)> {
    let round = rounds(major).into_iter().find(|round| round.files.contains(&file));
    let round = round.with_context(|| format!("tests/client/tests/{file}.rs is in no round"))?;
    let (cluster, mut tests) = round.begin(&[file], &[])?;
    tests.arg("--exact").args(names);
    Ok((cluster, tests))
}
