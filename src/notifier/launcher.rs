//! The launcher: finds the databases with realtime queues, and keeps a notifier running in each.
//!
//! It is connected to no database, so it is in nobody's way. Where aimq is preloaded it comes with the
//! server and asks each database once; else the first session that needs a notifier starts it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aimq_core::shared::{Database, State};
use pgrx::bgworkers::{
    BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
};
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::worker;
use crate::ffi;
use crate::process::{self, BackOff, leave};
use crate::shared::{self, Shared};

/// The least time between two requests for a launcher, in microseconds.
const REQUEST_EVERY: i64 = 1_000_000;

/// How soon a notifier that ended is started again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));

/// A notifier that ran this long has not failed at its start.
const RAN_WELL: Duration = Duration::from_secs(5);

/// How often a database that does not answer when the server starts is asked again.
const ATTEMPTS: u32 = 5;

fn launcher() -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new("aimq launcher")
        .set_type("aimq launcher")
        .set_library("aimq")
        .set_function("aimq_launcher_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
}

/// Where aimq is preloaded, the launcher comes with the server.
pub(super) fn init() {
    // SAFETY: plain variables.
    if shared::is_preloaded() && unsafe { !pg_sys::IsBinaryUpgrade } {
        launcher().load();
    }
}

/// Asks for a notifier of a database. Cannot raise: called after commits.
pub(crate) fn want(shared: Shared, database: &Database) {
    let is_news = database.want();
    match shared.launcher.bell.load(Ordering::SeqCst) {
        0 if !shared::is_preloaded() => request(shared),
        0 => {}
        bell if is_news => ffi::set_latch(bell),
        _ => {}
    }
}

/// Wakes the launcher, if there is one.
pub(super) fn ring(shared: Shared) {
    match shared.launcher.bell.load(Ordering::SeqCst) {
        0 => {}
        bell => ffi::set_latch(bell),
    }
}

/// Starts a launcher, at most once a second.
fn request(shared: Shared) {
    // The postmaster starts none on a standby, but keeps the slot.
    // SAFETY: reads shared memory.
    if unsafe { pg_sys::RecoveryInProgress() } {
        return;
    }
    let requested_at = &shared.launcher.requested_at;
    let (now, last) = (ffi::now().0, requested_at.load(Ordering::SeqCst));
    // A clock that was set back does not silence us for long either.
    if (now - last).abs() < REQUEST_EVERY
        || requested_at.compare_exchange(last, now, Ordering::SeqCst, Ordering::SeqCst).is_err()
    {
        return;
    }
    let mut worker = pg_sys::BackgroundWorker::from(&launcher());
    // SAFETY: a complete description, and no handle: so nothing is allocated, and nothing raised
    // (postmaster/bgworker.c).
    if unsafe { !pg_sys::RegisterDynamicBackgroundWorker(&mut worker, std::ptr::null_mut()) } {
        // Nothing is logged here: whatever raises after a commit takes the server down.
        shared.launcher.no_slot.store(1, Ordering::SeqCst);
    }
}

/// Logs that there was no slot for a launcher, once for each time. May raise.
pub(crate) fn log_failure(shared: Shared) {
    if shared.launcher.no_slot.load(Ordering::Relaxed) != 0
        && shared.launcher.no_slot.swap(0, Ordering::SeqCst) != 0
    {
        no_slot("its launcher");
    }
}

fn no_slot(what: &str) {
    ereport!(
        PgLogLevel::LOG,
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        format!("aimq found no background worker slot for {what}"),
        "Until there is one, transactions that enqueue notify themselves. Consider raising max_worker_processes."
    );
}

/// A database that has a notifier, or is to have one.
struct Job {
    /// When to start it.
    due: Instant,
    started: Option<(Instant, DynamicBackgroundWorker)>,
    back_off: BackOff,
    attempts: u32,
    /// Nobody asked: the launcher wants to know whether there is anything to do.
    is_probe: bool,
    /// Somebody asked since it was started.
    was_asked_for: bool,
}

impl Job {
    fn new(is_probe: bool) -> Self {
        Self {
            due: Instant::now(),
            started: None,
            back_off: BackOff::new(AGAIN.0, AGAIN.1),
            attempts: 0,
            is_probe,
            was_asked_for: false,
        }
    }

    fn again(&mut self, delay: Duration) {
        self.started = None;
        self.due = Instant::now() + delay;
    }
}

/// Gives back what a database has in the shared memory. False if it has to be tried again.
fn forget(shared: Shared, oid: u32, entry: &Database) -> bool {
    let is_released = shared.databases.release(entry);
    if is_released {
        for claim in shared.table.of(oid) {
            shared.table.release(claim);
        }
    }
    is_released
}

/// What can be said of a database without connecting to it.
enum Found {
    Here,
    /// Gone.
    Gone,
    /// It is being dropped, renamed or copied.
    Busy,
}

/// The launcher's process.
#[unsafe(no_mangle)]
#[pg_guard]
#[allow(unreachable_pub, reason = "Postgres finds it by its symbol")]
pub extern "C-unwind" fn aimq_launcher_main(_argument: pg_sys::Datum) {
    ffi::handle_signals();
    // SAFETY: in a background worker that asked for a connection; with no name it is to none.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    let Some(shared) = process::shared_memory() else {
        pgrx::log!("aimq launcher: there is no shared memory of this release; restart the server");
        leave(0);
    };
    if !process::take_place(&shared.launcher.pid) {
        leave(0);
    }
    // SAFETY: a function of this library.
    unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0)) };
    shared.launcher.bell.store(ffi::own_latch(), Ordering::SeqCst);
    let event = process::wait_event(c"AimqLauncherMain");
    let mut launcher = Launcher {
        shared,
        jobs: HashMap::new(),
        probes: databases_that(accepts),
        logged: false,
        has_free_slot: false,
        is_busy: false,
        has_new_jobs: false,
    };
    loop {
        if process::begin_turn() {
            // Not 0: that would be for ever.
            leave(1);
        }
        let next = launcher.turn();
        if !process::had_transaction() {
            process::sleep(next, event);
            process::count(&shared.launcher.wake_ups);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _argument: pg_sys::Datum) {
    if let Some(shared) = shared::get() {
        shared.launcher.bell.store(0, Ordering::SeqCst);
        shared.launcher.pid.store(0, Ordering::SeqCst);
    }
}

struct Launcher {
    shared: Shared,
    jobs: HashMap<u32, Job>,
    /// Databases that are still to be asked.
    probes: VecDeque<u32>,
    /// The log already tells that there are no slots.
    logged: bool,
    /// A notifier has ended.
    has_free_slot: bool,
    /// Somebody wants a notifier that nobody wanted before.
    has_new_jobs: bool,
    /// A database that was to be asked is being copied or changed.
    is_busy: bool,
}

impl Launcher {
    /// Does what is to be done now; returns how long there is nothing.
    fn turn(&mut self) -> Option<Duration> {
        let now = Instant::now();
        for entry in self.shared.databases.all {
            // Where one is to be started later anyway, the wish stays, so that nobody rings for it once more.
            let waits = |job: &Job| job.started.is_none() && job.due > now;
            if entry.oid() == 0 || self.jobs.get(&entry.oid()).is_some_and(waits) {
                continue;
            }
            // Taken before the state is looked at: whoever asks later rings again.
            if entry.was_wanted() && entry.state() != State::Running {
                self.has_new_jobs |= !self.jobs.contains_key(&entry.oid());
                let job = self.jobs.entry(entry.oid()).or_insert_with(|| Job::new(false));
                job.is_probe = false;
                job.was_asked_for = true;
            }
        }
        if std::mem::replace(&mut self.has_new_jobs, false) {
            self.forget_dropped();
        }
        // One after the other: a server may have a thousand databases.
        if !self.jobs.values().any(|job| job.is_probe) {
            while let Some(oid) = self.probes.pop_front() {
                let runs = |entry: &Database| entry.state() == State::Running;
                if !self.jobs.contains_key(&oid)
                    && !self.shared.databases.find(oid).is_some_and(runs)
                {
                    self.jobs.insert(oid, Job::new(true));
                    break;
                }
            }
        }
        let oids: Vec<u32> = self.jobs.keys().copied().collect();
        for oid in oids {
            self.attend(oid);
        }
        if std::mem::replace(&mut self.has_free_slot, false) {
            let databases = self.shared.databases;
            let waits = |oid| databases.find(oid).is_some_and(|it| it.state() == State::NoSlot);
            for (_, job) in self.jobs.iter_mut().filter(|(oid, _)| waits(**oid)) {
                job.due = Instant::now();
            }
        }
        let due = self.jobs.values().filter(|job| job.started.is_none()).map(|job| job.due).min();
        match due {
            Some(due) => Some(due.saturating_duration_since(Instant::now())),
            // The last probe has just ended.
            None if !self.probes.is_empty() && !self.jobs.values().any(|job| job.is_probe) => {
                let is_busy = std::mem::replace(&mut self.is_busy, false);
                Some(if is_busy { Duration::from_millis(100) } else { Duration::ZERO })
            }
            None => None,
        }
    }

    /// Gives back what databases have in the shared memory that are gone, and had no notifier by then.
    fn forget_dropped(&self) {
        let is_idle = |oid: &u32| *oid != 0 && !self.jobs.contains_key(oid);
        // Before it is asked which databases there are: one that is made meanwhile is not among those.
        let idle: Vec<_> = (self.shared.databases.all.iter())
            .map(|entry| (entry.oid(), entry))
            .filter(|(oid, _)| is_idle(oid))
            .collect();
        let there = databases_that(is_whole);
        for (oid, entry) in idle {
            if !there.contains(&oid) {
                forget(self.shared, oid, entry);
            }
        }
    }

    /// Sees to one database.
    fn attend(&mut self, oid: u32) {
        let Some(job) = self.jobs.get_mut(&oid) else {
            return;
        };
        let entry = self.shared.databases.find(oid);
        if let Some((since, worker)) = &job.started {
            match worker.pid() {
                Ok(_) => {
                    // It has made itself known: the next probe may begin.
                    if entry.is_some_and(|entry| entry.state() == State::Running) {
                        job.is_probe = false;
                        job.was_asked_for = false;
                    }
                    return;
                }
                Err(BackgroundWorkerStatus::NotYetStarted) => return,
                Err(_) => {}
            }
            // Its slot is free: whoever waits for one may try.
            self.has_free_slot = true;
            if since.elapsed() > RAN_WELL {
                job.back_off.succeeded();
                job.attempts = 0;
            }
            job.attempts += 1;
            // It left because there was nothing to do, and nobody has asked since.
            let has_looked = self.shared.launcher.probed.swap(0, Ordering::SeqCst) == oid;
            let is_done = match entry.map(Database::state) {
                // In the second case another process had its place.
                Some(State::None | State::Running) => !job.was_asked_for,
                None => has_looked || (job.is_probe && job.attempts >= ATTEMPTS),
                Some(_) => false,
            };
            if is_done {
                self.jobs.remove(&oid);
                return;
            }
            // The first time at once: somebody may have ended it by hand.
            let delay = if job.attempts <= 1 { Duration::ZERO } else { job.back_off.failed().0 };
            job.again(delay);
        }
        if job.due > Instant::now() {
            return;
        }
        match find(oid) {
            Found::Here => {}
            Found::Busy if job.is_probe => {
                // The others need not wait for this one.
                self.probes.push_back(oid);
                self.jobs.remove(&oid);
                self.is_busy = true;
                return;
            }
            Found::Busy => return job.again(Duration::from_millis(100)),
            Found::Gone => {
                let is_forgotten = entry.is_none_or(|entry| forget(self.shared, oid, entry));
                if !is_forgotten {
                    return job.again(Duration::from_millis(100));
                }
                self.jobs.remove(&oid);
                return;
            }
        }
        if let Some(entry) = entry
            // Somebody has done it for us.
            && !entry.set_waiting(State::Starting)
        {
            self.jobs.remove(&oid);
            return;
        }
        // SAFETY: a plain variable.
        let own_pid = unsafe { pg_sys::MyProcPid };
        let started = BackgroundWorkerBuilder::new(&format!("aimq notifier of database {oid}"))
            .set_type("aimq notifier")
            .set_library("aimq")
            .set_function("aimq_notifier_main")
            .enable_spi_access()
            .set_start_time(BgWorkerStartTime::RecoveryFinished)
            .set_restart_time(None)
            .set_argument(Some(worker::argument(oid, job.is_probe)))
            .set_notify_pid(own_pid)
            .load_dynamic();
        match started {
            Ok(worker) => {
                self.logged = false;
                job.was_asked_for = false;
                job.started = Some((Instant::now(), worker));
            }
            Err(_) => {
                if let Some(entry) = entry {
                    entry.set_waiting(State::NoSlot);
                }
                if !std::mem::replace(&mut self.logged, true) {
                    no_slot("a notifier");
                }
                let delay = job.back_off.failed().0.max(Duration::from_secs(1));
                job.again(delay);
            }
        }
    }
}

/// Whether a notifier may be started in a database now. A connection to it would wait for whoever
/// changes the database, and then find it gone, with a FATAL in the log.
fn find(oid: u32) -> Found {
    let found = process::transaction(move || {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: 0,
            locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
            locktag_field3: oid,
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        };
        // SAFETY: the tag of a database (storage/lock.h, SET_LOCKTAG_OBJECT), and the lock that a
        // connection takes (utils/init/postinit.c). It is released with the transaction.
        let got =
            unsafe { pg_sys::LockAcquire(&tag, pg_sys::RowExclusiveLock as i32, false, true) };
        if got == pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL {
            Found::Busy
        } else if each_database(|database| database.oid.to_u32() == oid && is_whole(database)) {
            Found::Here
        } else {
            Found::Gone
        }
    });
    // What went wrong may go right next time.
    found.unwrap_or(Found::Busy)
}

/// Every database of a kind.
fn databases_that(fits: fn(&pg_sys::FormData_pg_database) -> bool) -> VecDeque<u32> {
    let found = process::transaction(move || {
        let mut found = VecDeque::new();
        each_database(|database| {
            if fits(database) {
                found.push_back(database.oid.to_u32());
            }
            false
        });
        found
    });
    match found {
        Ok(found) => found,
        Err(failure) => {
            pgrx::log!("aimq launcher cannot list the databases: {}", failure.message);
            leave(1)
        }
    }
}

fn accepts(database: &pg_sys::FormData_pg_database) -> bool {
    database.datallowconn && is_whole(database)
}

/// False for one whose DROP was interrupted (catalog/pg_database.h, DATCONNLIMIT_INVALID_DB).
fn is_whole(database: &pg_sys::FormData_pg_database) -> bool {
    database.datconnlimit != -2
}

/// Calls `look` with each row of pg_database until it says true; whether it did. In a transaction.
fn each_database(mut look: impl FnMut(&pg_sys::FormData_pg_database) -> bool) -> bool {
    // SAFETY: a scan of a shared catalog as autovacuum's launcher does it (get_database_list): the rows
    // are valid until the scan goes on.
    unsafe {
        let relation =
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        let mut found = false;
        loop {
            let row = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if row.is_null() {
                break;
            }
            if look(&*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_database>()) {
                found = true;
                break;
            }
        }
        pg_sys::heap_endscan(scan.cast());
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        found
    }
}
