//! `make hunt`: a seeded random search for lost wake-ups. Producers, DDL and faults do at random what people do; an
//! observer that knows the tables alone says whether everybody was woken. docs/design/testing.md has more.

mod actors;
mod clock;
mod consumers;
mod contestant;
mod crowding;
mod ddl;
mod deck;
mod drivers;
mod excuses;
mod faults;
mod findings;
mod hands;
mod hearing;
mod history;
mod observer;
mod plan;
mod processes;
mod producers;
mod queues;
mod report;
mod server;
mod session;
mod shrink;
mod standby;
mod verdict;
mod world;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use aimq_lab::pgbouncer::Pgbouncer;
use anyhow::{Result, ensure};
use clap::Parser;

use actors::{Cast, Pair, wanted};
use findings::Findings;
use hands::Hands;
use history::History;
use plan::Plan;
use queues::QUEUES;
use session::Session;
use world::World;

/// What producers and DDL bound, so that a fault holds them up for a while only.
/// A session that begins while aimq is off for the database has it on all the same.
const BOUNDED: &str =
    "SET lock_timeout = '3s'; SET statement_timeout = '20s'; SET aimq.enabled = on";

/// Threads for DDL.
const DDL_THREADS: usize = 4;

/// Producers of each database.
const PRODUCERS: usize = 2;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nhunt: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let mut plan = Plan::parse();
    if plan.contestant.is_other() {
        // What is about aimq alone.
        (plan.no_ddl, plan.no_faults) = (true, true);
    }
    if plan.shrink.is_some() {
        plan.seed = plan.shrink;
        return shrink::shrink(&plan);
    }
    plan.seed.get_or_insert_with(|| fastrand::u64(..1_000_000));
    ensure!(
        plan.preload == 1 || plan.pg.0 >= 17,
        "before PostgreSQL 17 there is no notifier where aimq is not preloaded"
    );
    ensure!(plan.databases > 0, "at least one database");
    aimq_lab::cluster::clean_up_on_signals()?;
    let (cluster, databases) = server::start(&plan)?;
    println!(
        "\n{}, seed {}, PostgreSQL {}, {}, aimq.max_queues {}, aimq.max_waiters {}, {} s\n",
        plan.contestant.name(),
        plan.seed(),
        plan.pg.0,
        if plan.preload == 1 { "preloaded" } else { "not preloaded" },
        plan.max_queues(),
        plan.max_waiters(),
        plan.seconds
    );
    let seconds = plan.seconds;
    let world = Arc::new(World {
        major: plan.pg,
        pooler: Pgbouncer::start(cluster.folder(), consumers::POOLED)?,
        cluster,
        begun: clock::now(),
        excuses: Mutex::default(),
        history: History::default(),
        hearings: consumers::hearings(databases.len(), plan.contestant),
        // Only aimq has calls that block.
        calls: consumers::calls(if plan.contestant.is_other() { 0 } else { databases.len() }),
        floors: (0..databases.len() * QUEUES.len()).map(|_| RwLock::default()).collect(),
        by_themselves: RwLock::default(),
        launcher: RwLock::default(),
        findings: Mutex::new(Findings::default()),
        is_over: AtomicBool::new(false),
        is_ended: AtomicBool::new(false),
        plan,
        databases,
    });
    let consumers = consume(&world);
    // Everybody is there.
    world.nap(1500);
    let (keep, kept) = mpsc::channel::<()>();
    let faults = (!world.plan.no_faults).then(|| inject_faults(&world, kept));
    let actors = act(&world);
    world.nap(seconds * 1000);
    world.is_over.store(true, Ordering::SeqCst);
    let acted = join(actors);
    if let Some((is_done, _)) = &faults {
        // It says nothing: it has ended, or says that it is at its end by hanging up.
        let _ = is_done.recv();
    }
    // What is to be decided yet.
    std::thread::sleep(Duration::from_millis(4000 + world.plan.slack().unsigned_abs()));
    world.is_ended.store(true, Ordering::SeqCst);
    // A session that blocks does so for up to 20 s.
    for database in &world.databases {
        let sql = format!(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'",
            consumers::READER
        );
        world.connect(database, "hunt")?.batch_execute(&sql)?;
    }
    join(consumers)?;
    acted?;
    drop(keep);
    join(faults.map(|(_, thread)| thread).into_iter().collect())?;
    Ok(report::summary(&world))
}

/// Starts the consumers and the observers.
fn consume(world: &Arc<World>) -> Vec<JoinHandle<()>> {
    consumers::expect(world);
    let mut threads = Vec::new();
    for number in 0..world.hearings.len() {
        threads.push(spawn(world, move |world| consumers::listen(world, number)));
    }
    for number in 0..world.calls.len() {
        let chance = deck::source(world.plan.seed(), &format!("reader {number}"));
        threads.push(spawn(world, move |world| consumers::block(world, number, chance)));
    }
    for database in 0..world.databases.len() {
        threads.push(spawn(world, move |world| observer::observe(world, database)));
    }
    threads
}

/// Starts the threads that act.
fn act(world: &Arc<World>) -> Vec<JoinHandle<()>> {
    let mut threads = Vec::new();
    let kinds = wanted(world, "producer", &producers::KINDS);
    for database in 0..world.databases.len() {
        for number in 0..PRODUCERS {
            let kinds = kinds.clone();
            threads.push(spawn(world, move |world| {
                let who = format!("producer-{database}.{number}");
                let session = |name: &str| Session::new(world, database, name, BOUNDED);
                let stage = Pair { one: session(&who), other: session("hunt-other") };
                let (database, pace) = (Some(database), world.plan.pace);
                let (group, watched) = ("producer", 0.2);
                Cast { world, group, who, number, database, is_local: true, watched, pace, stage }
                    .play(&kinds);
            }));
        }
    }
    if !world.plan.no_ddl {
        let kinds = wanted(world, "ddl", &ddl::KINDS);
        for number in 0..DDL_THREADS {
            // Each has its part, so that all is done in a minute.
            let kinds: Vec<_> = kinds.iter().skip(number).step_by(DDL_THREADS).copied().collect();
            threads.push(spawn(world, move |world| play(world, "ddl", number, 200, &kinds)));
        }
    }
    if !world.plan.no_faults {
        let kinds = wanted(world, "fault", &faults::LIGHT);
        threads.push(spawn(world, move |world| play(world, "fault", 1, 800, &kinds)));
        let kinds = wanted(world, "standby", &standby::KINDS);
        threads.push(spawn(world, move |world| play(world, "standby", 0, 2000, &kinds)));
    }
    threads
}

/// Starts the one whose actions are faults. Says that they are over by hanging up the first; the thread stays until
/// `kept` is hung up: servers that it has started end with it.
fn inject_faults(world: &Arc<World>, kept: Receiver<()>) -> (Receiver<()>, JoinHandle<()>) {
    let kinds = wanted(world, "fault", &faults::KINDS);
    let (done, is_done) = mpsc::channel::<()>();
    let thread = spawn(world, move |world| {
        // What happens to the server has to do with every queue.
        play(world, "fault", 0, 500, &kinds);
        drop(done);
        let _ = kept.recv();
    });
    (is_done, thread)
}

/// Acts on all databases until the end.
fn play(
    world: &Arc<World>,
    group: &'static str,
    number: usize,
    pace: u64,
    kinds: &[actors::Kind<Hands>],
) {
    let stage = Hands::new(world, group, BOUNDED);
    // So that all is done in a minute where a wake-up may take longer, too.
    let watched = 0.8 * (1000.0 / world.plan.slack() as f64).min(1.0);
    let who = format!("{group}-{number}");
    let is_local = group == "ddl";
    Cast { world, group, who, number, database: None, is_local, watched, pace, stage }.play(kinds);
}

fn spawn(world: &Arc<World>, work: impl FnOnce(&Arc<World>) + Send + 'static) -> JoinHandle<()> {
    let world = Arc::clone(world);
    std::thread::spawn(move || work(&world))
}

/// Waits for threads. One that panicked is an error of the hunt itself.
fn join(threads: Vec<JoinHandle<()>>) -> Result<()> {
    let panicked = threads.into_iter().map(JoinHandle::join).filter(Result::is_err).count();
    ensure!(panicked == 0, "{panicked} threads of the hunt itself panicked");
    Ok(())
}
