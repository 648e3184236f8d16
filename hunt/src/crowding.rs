//! Faults in which something that the server has a limited number of runs out: pages of the NOTIFY queue, slots for
//! background workers.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Result;
use postgres::Client;
use rustix::process::Signal;

use crate::actors::{Excuse, Scene};
use crate::excuses::Scope;
use crate::hands::Hands;
use crate::processes::{Process, are_back, pick, processes, signal};

/// How long it may take until something has run out.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pages of the NOTIFY queue, as few as PostgreSQL allows.
pub(crate) const NOTIFY_PAGES: &str = "max_notify_queue_pages=64";

/// How many background workers there may be. A query of a stranger uses up what aimq leaves.
pub(crate) const WORKERS: &str = "max_worker_processes=24";

/// A table whose rows can be given to more workers than there are.
pub(crate) const WIDE: &str = "
    CREATE TABLE public.hunt_wide (filler text) WITH (parallel_workers = 64);
    ALTER TABLE public.hunt_wide ALTER filler SET STORAGE PLAIN;
    INSERT INTO public.hunt_wide SELECT repeat('x', 7000) FROM generate_series(1, 100);
    ANALYZE public.hunt_wide";

/// A listener hangs in a transaction, and strangers notify until no room is left.
pub(crate) fn fill_notify(hands: &mut Hands, scene: &Scene) -> Result<String> {
    let world = Arc::clone(&hands.world);
    let database = &world.databases[scene.database];
    // A transaction that notifies by itself wakes nobody while there is no room, as the README says.
    let _nobody = world.by_themselves.write().unwrap_or_else(PoisonError::into_inner);
    let why = "the NOTIFY queue was full";
    let _excuse = if world.plan.has_room_for_all() {
        Excuse::new(&world, Scope::Server, why)
    } else {
        Excuse::forgiving(&world, Scope::Server, why)
    };
    let mut idler = world.connect(database, "hunt-idler")?;
    idler.batch_execute("LISTEN hunt_stuck")?;
    idler.batch_execute("BEGIN")?;
    idler.batch_execute("SELECT 1")?;
    let mut stranger = world.connect(database, "hunt-stranger")?;
    hands.until("the NOTIFY queue to be full", PATIENCE, |_| {
        // Other payloads each time, so that none is left out as the same.
        let more =
            "SELECT pg_notify('hunt_stuck', n || repeat('x', 7900)) FROM generate_series(1, 5) n";
        stranger.batch_execute(more).is_ok() && usage(&mut stranger) > 0.76
    })?;
    world.nap(scene.draw.millis(500, 2500));
    drop(idler);
    hands.until("room in the NOTIFY queue", PATIENCE, |_| usage(&mut stranger) < 0.25)?;
    Ok(String::new())
}

fn usage(client: &mut Client) -> f64 {
    let row = client.query_one("SELECT pg_notification_queue_usage()", &[]);
    row.map_or(f64::NAN, |row| row.get(0))
}

/// Queries of strangers take all background workers, also those of aimq in all databases: of one database alone it
/// would not do, because a notifier gets the place of another database's watcher.
pub(crate) fn fill_workers(hands: &mut Hands, scene: &Scene) -> Result<String> {
    let world = Arc::clone(&hands.world);
    let name = &world.databases[scene.database];
    let mut before = processes(hands, scene)?;
    // A watcher is put off for a minute; the notifier does its work as well.
    before.retain(|process| process.kind != "aimq watcher");
    let launcher = pick(hands, scene, true)?;
    let _excuse = Excuse::new(&world, Scope::Server, "no worker was left");
    // The launcher would be faster than the strangers.
    signal(launcher.pid, Signal::STOP)?;
    let done = (|| {
        let first = Greedy::begin(hands, scene)?;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE backend_type ^@ 'aimq' AND datname IS NOT NULL";
        hands.one(scene).run(&[end])?;
        hands.until("them to end", PATIENCE, |hands| {
            processes(hands, scene).is_ok_and(|all| all.iter().all(Process::is_launcher))
        })?;
        // The server gives their places away a moment later.
        let mut second = Greedy::begin(hands, scene);
        for _ in 0..10 {
            if second.is_ok() {
                break;
            }
            second = Greedy::begin(hands, scene);
        }
        Ok((first, second?))
    })();
    signal(launcher.pid, Signal::CONT)?;
    let done = done.and_then(|greedy: (Greedy, Greedy)| {
        let sql = format!("SELECT state FROM aimq.notifiers WHERE database = '{name}'");
        hands.until("no slot", PATIENCE, |hands| {
            matches!(hands.one(scene).value::<String>(&sql), Ok(Some(state)) if state == "no slot")
        })?;
        world.nap(scene.draw.millis(500, 2500));
        drop(greedy);
        Ok(String::new())
    });
    are_back(hands, scene, &before)?;
    done
}

/// A query with as many workers as there are. It ends when this is dropped.
struct Greedy {
    cancel: postgres::CancelToken,
    query: Option<std::thread::JoinHandle<()>>,
}

impl Greedy {
    /// Begins one, and waits until it has a worker.
    fn begin(hands: &mut Hands, scene: &Scene) -> Result<Self> {
        let world = Arc::clone(&hands.world);
        let mut client = world.connect(&world.databases[scene.database], "hunt-greedy")?;
        client.batch_execute(
            "SET statement_timeout = '20s'; SET max_parallel_workers = 64;
             SET max_parallel_workers_per_gather = 64; SET parallel_setup_cost = 0;
             SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
        )?;
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        let cancel = client.cancel_token();
        let query = std::thread::spawn(move || {
            // Cancelled in the end.
            let _ = client.batch_execute("SELECT count(pg_sleep(30)) FROM public.hunt_wide");
        });
        let made = Self { cancel, query: Some(query) };
        let sql = format!("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE leader_pid = {pid})");
        hands.until("a worker", Duration::from_secs(1), |hands| {
            matches!(hands.one(scene).value::<bool>(&sql), Ok(Some(true)))
        })?;
        Ok(made)
    }
}

impl Drop for Greedy {
    fn drop(&mut self) {
        let _ = self.cancel.cancel_query(postgres::NoTls);
        if let Some(query) = self.query.take() {
            let _ = query.join();
        }
    }
}
