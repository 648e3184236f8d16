//! `make fuzz`: calls everything that aimq has in SQL (functions, views, settings, triggers, as the catalogs name them)
//! with hostile values, as a superuser, as the owner of a queue and as a role that has nothing. It looks for three
//! things: a server that crashes, a statement that hangs over its timeout, and an error of class XX. After each round an
//! honest listener must still be woken.

mod deeds;
mod values;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aimq_lab::cluster::Cluster;
use aimq_lab::locking::lock;
use aimq_lab::majors::Major;
use aimq_lab::setup;
use anyhow::{Context, Result, ensure};
use clap::Parser;
use deeds::{Catalog, KINDS};
use fastrand::Rng;
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, NoTls};

/// Calls aimq's SQL with hostile values, on a throw-away server.
#[derive(Clone, Debug, Parser)]
#[command(name = "aimq-sqlfuzz")]
struct Plan {
    /// The major version of PostgreSQL.
    #[arg(long, default_value = "17", value_parser = |text: &str| Major::parse(text).map_err(|e| e.to_string()))]
    pg: Major,
    /// How long.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The same seed makes each session say the same things in the same order. Without it, another each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Whether the server has aimq preloaded: 1 or 0.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    preload: u8,
    /// Prints each statement before it is sent.
    #[arg(long)]
    verbose: bool,
}

/// Who speaks. Each has sessions of its own.
const ROLES: [&str; 3] = ["postgres", "fuzz_owner", "fuzz_nobody"];

/// PostgreSQL ends each statement after this.
const TIMEOUT: &str = "500ms";

/// A statement that has no answer after this hangs.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// How soon the honest listener has to hear of a message. Others keep the table locked, and the server busy.
const HEARS_WITHIN: Duration = Duration::from_secs(30);

/// Internal errors that PostgreSQL itself raises where two sessions change one row of a catalog at the same time, as two
/// that drop one trigger.
const OF_POSTGRES: [&str; 2] = ["tuple concurrently updated", "tuple concurrently deleted"];

fn is_of_postgres(text: &str) -> bool {
    OF_POSTGRES.iter().any(|known| text.contains(known))
}

/// What one session does now, and since when.
type Doing = Arc<Mutex<Option<(Instant, String)>>>;

#[derive(Debug, Default)]
struct Found {
    kinds: BTreeMap<&'static str, u64>,
    codes: BTreeMap<String, u64>,
    faults: Vec<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nsqlfuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let plan = Plan::parse();
    let seed = plan.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    aimq_lab::cluster::clean_up_on_signals()?;
    setup::ready(plan.pg, setup::Profile::Debug)?;
    let mut settings = vec![
        "fsync=off",
        "max_connections=50",
        "max_prepared_transactions=5",
        "max_worker_processes=32",
        "deadlock_timeout=100ms",
        // The SQLSTATE of what our processes log.
        "log_error_verbosity=verbose",
        // Statements may have a million characters.
        "log_min_error_statement=panic",
        "timezone=UTC",
    ];
    if plan.preload == 1 {
        settings.push("shared_preload_libraries=aimq");
    }
    let cluster = Cluster::start(plan.pg, &settings)?;
    let mut client = cluster.connect("postgres")?;
    fill(&mut client)?;
    let catalog = Arc::new(Catalog::of(&mut client)?);
    println!(
        "\nSeed {seed}, PostgreSQL {}, {}, {} s\n",
        plan.pg.0,
        if plan.preload == 1 { "preloaded" } else { "not preloaded" },
        plan.seconds
    );
    let until = Instant::now() + Duration::from_secs(plan.seconds);
    let found = Arc::new(Mutex::new(Found::default()));
    let mut threads = Vec::new();
    for (number, role) in (0_u64..).zip(ROLES.iter().chain(&ROLES)) {
        let doing = Doing::default();
        let rng = Rng::with_seed(seed.wrapping_mul(1000) + number);
        let mut session = Session {
            folder: cluster.folder().to_owned(),
            role,
            doing: doing.clone(),
            found: found.clone(),
            verbose: plan.verbose,
        };
        let catalog = catalog.clone();
        let thread = std::thread::spawn(move || session.speak(rng, &catalog, until));
        threads.push((thread, doing));
    }
    let mut listener = cluster.connect("postgres")?;
    let mut round = 0_u32;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(500));
        if let Err(error) = ask_honest(&mut client, &mut listener) {
            fault(&found, format!("the honest listener: {error:#}"));
            break;
        }
        round += 1;
        if round.is_multiple_of(10) {
            // Fails where somebody has a lock for long. Then the next one does it.
            let _ = client.batch_execute(&renew());
        }
        let hangs = threads.iter().find_map(|(_, doing)| hanging(doing));
        if let Some(statement) = hangs {
            fault(&found, format!("no answer after {HANGS_AFTER:?}: {statement}"));
            break;
        }
    }
    let deadline = Instant::now() + HANGS_AFTER;
    for (thread, doing) in threads {
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        if !thread.is_finished() {
            fault(&found, format!("no answer: {:?}", lock(&doing)));
        }
    }
    read_log(&cluster, &found)?;
    report(&lock(&found), seed, plan.seconds)
}

fn fault(found: &Mutex<Found>, what: String) {
    let mut short = what;
    if short.len() > 2000 {
        let end = (0..=2000).rev().find(|at| short.is_char_boundary(*at)).unwrap_or(0);
        short.truncate(end);
    }
    eprintln!("FOUND: {short}");
    lock(found).faults.push(short);
}

fn hanging(doing: &Doing) -> Option<String> {
    let doing = lock(doing);
    let (since, statement) = doing.as_ref()?;
    (since.elapsed() > HANGS_AFTER).then(|| statement.clone())
}

fn fill(client: &mut Client) -> Result<()> {
    let [_, owner, nobody] = ROLES;
    client.batch_execute(&format!(
        "CREATE EXTENSION aimq CASCADE;
         CREATE ROLE {owner} LOGIN; CREATE ROLE {nobody} LOGIN;
         GRANT USAGE, CREATE ON SCHEMA pgmq TO {owner}; GRANT ALL ON pgmq.meta TO {owner};
         SELECT aimq.create_queue('honest')"
    ))?;
    client.batch_execute(&renew())?;
    Ok(())
}

/// Makes the queues that are fuzzed once more: little is left of them after a while.
fn renew() -> String {
    let [_, owner, _] = ROLES;
    let tables = ["own", "mixed", "unlogged"].map(|name| format!("pgmq.q_{name}, pgmq.a_{name}"));
    format!(
        "SET lock_timeout = '1s'; SET search_path = \"$user\", public;
         DROP TABLE IF EXISTS {} CASCADE; DELETE FROM pgmq.meta WHERE queue_name <> 'honest';
         SET LOCAL ROLE {owner}; SELECT aimq.create_queue('own'), aimq.create_queue('Mixed', channel => 'Other');
         SELECT pgmq.create_unlogged('unlogged'); SELECT aimq.enable_realtime('unlogged')",
        tables.join(", ")
    )
}

/// The honest queue is as it was, and its listener hears of a message.
fn ask_honest(client: &mut Client, listener: &mut Client) -> Result<()> {
    let channel = "honest channel";
    client.batch_execute(&format!(
        "SET aimq.enabled = on; SET aimq.delivery = auto; SELECT pgmq.create('honest');
         ALTER TABLE pgmq.q_honest ENABLE TRIGGER USER;
         SELECT aimq.enable_realtime('honest', '{channel}')"
    ))?;
    listener.batch_execute(&format!("LISTEN \"{channel}\""))?;
    client.batch_execute("SELECT pgmq.send('honest', '{}')")?;
    let deadline = Instant::now() + HEARS_WITHIN;
    let mut notifications = listener.notifications();
    let mut coming = notifications.timeout_iter(HEARS_WITHIN);
    while let Some(heard) = coming.next()? {
        if heard.payload().is_empty() || heard.payload().contains("\"honest\"") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it heard of other queues alone");
    }
    anyhow::bail!("it heard nothing for {HEARS_WITHIN:?}")
}

struct Session {
    folder: std::path::PathBuf,
    role: &'static str,
    doing: Doing,
    found: Arc<Mutex<Found>>,
    verbose: bool,
}

impl Session {
    fn connect(&self) -> Result<Client> {
        let mut config = postgres::Config::new();
        config.host_path(&self.folder).user(self.role).dbname("postgres").notice_callback(|_| {});
        let mut client = config.connect(NoTls)?;
        client.batch_execute(&format!("SET statement_timeout = '{TIMEOUT}'"))?;
        Ok(client)
    }

    fn speak(&mut self, mut rng: Rng, catalog: &Catalog, until: Instant) {
        let mut client = None;
        while Instant::now() < until {
            if client.as_ref().is_none_or(Client::is_closed) {
                client = self
                    .connect()
                    .map_err(|error| fault(&self.found, format!("no session: {error:#}")))
                    .ok();
            }
            let Some(session) = &mut client else {
                std::thread::sleep(Duration::from_millis(100));
                continue;
            };
            let (kind, statements) = deeds::next(&mut rng, catalog);
            *lock(&self.found).kinds.entry(KINDS[kind]).or_default() += 1;
            // A session of its own now and then: with a fresh library and fresh caches.
            let is_last = rng.u8(..50) == 0;
            for statement in statements {
                self.say(session, &statement, &mut rng);
                if session.is_closed() {
                    break;
                }
            }
            if is_last {
                client = None;
            }
        }
    }

    fn say(&self, session: &mut Client, statement: &str, rng: &mut Rng) {
        if self.verbose {
            eprintln!("{}: {statement}", self.role);
        }
        *lock(&self.doing) = Some((Instant::now(), statement.to_owned()));
        // The extended protocol prepares; the simple one can do what can't be prepared.
        let result = if rng.u8(..3) == 0 && !statement.starts_with("SAVEPOINT") {
            session.query(statement, &[]).map(drop)
        } else {
            session.batch_execute(statement)
        };
        *lock(&self.doing) = None;
        let Err(error) = result else { return };
        match error.code().map(|code| code.code().to_owned()) {
            Some(code) => {
                let is_internal = (code.starts_with("XX")
                    && !is_of_postgres(&format!("{error:?}")))
                    || code == "57P02";
                *lock(&self.found).codes.entry(code).or_default() += 1;
                if is_internal {
                    fault(
                        &self.found,
                        format!("{}: {statement}: {:?}", self.role, error.as_db_error()),
                    );
                }
            }
            None => fault(&self.found, format!("{}: {statement}: {error:?}", self.role)),
        }
    }
}

/// What our processes, and the server, say of themselves.
fn read_log(cluster: &Cluster, found: &Mutex<Found>) -> Result<()> {
    let log = File::open(cluster.log()).context("the server's log")?;
    let mut told = 0;
    for line in BufReader::new(log).split(b'\n') {
        let line = line?;
        // What follows the first words may be a statement or a value, and long.
        let line = String::from_utf8_lossy(&line[..line.len().min(300)]);
        let is_bad = ["PANIC: ", "was terminated by signal", ":  XX0", "panicked at"]
            .iter()
            .any(|bad| line.contains(bad));
        if is_bad && !is_of_postgres(&line) && told < 20 {
            fault(found, format!("the log: {line}"));
            told += 1;
        }
    }
    Ok(())
}

fn report(found: &Found, seed: u64, seconds: u64) -> Result<bool> {
    println!("  deeds: {:?}", found.kinds);
    println!("  errors by SQLSTATE: {:?}", found.codes);
    let never: Vec<_> = KINDS.iter().filter(|kind| !found.kinds.contains_key(*kind)).collect();
    if seconds >= 30 {
        ensure!(never.is_empty(), "never done: {never:?}");
    }
    println!("  found: {} (seed {seed})", found.faults.len());
    Ok(found.faults.is_empty())
}
