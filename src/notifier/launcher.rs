//! The launcher: finds the databases with realtime queues, and keeps a notifier and a watcher running in each.
//!
//! It is connected to no database, so it is in nobody's way. Where aimq is preloaded it starts with the
//! server and asks each database once. Otherwise the first session that needs a notifier starts it.

mod databases;
mod job;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aimq_core::shared::{ATTENDS_WITHIN, Database, Seat, State};
use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime};
use pgrx::pg_sys;
use pgrx::prelude::*;

use self::databases::{Found, accepts, databases_that, find, is_whole};
use self::job::{Job, Role};
use super::start::Start;
use crate::error::Log;
use crate::pg::process::{self, leave};
use crate::pg::{ffi, signals};
use crate::shared::{self, Shared};

/// How soon the launcher starts a watcher again that gave its slot to a notifier.
const CROWDED_FOR: Duration = Duration::from_secs(60);

/// A notifier that ran this long has not failed at its start.
const RAN_WELL: Duration = Duration::from_secs(5);

/// How often a database that does not answer when the server starts is asked again.
const ATTEMPTS: u32 = 5;

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

/// The launcher's process.
#[unsafe(no_mangle)]
#[pg_guard]
#[allow(unreachable_pub, reason = "Postgres finds it by its symbol")]
pub extern "C-unwind" fn aimq_launcher_main(_argument: pg_sys::Datum) {
    signals::handle();
    // SAFETY: in a background worker that asked for a connection; with no name it is to none.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
    let Some(shared) = shared::of_process() else {
        Log::NoSharedMemory { process: "aimq launcher" }.report();
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
        logged: HashSet::new(),
        is_crowded: false,
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
    jobs: HashMap<(u32, Role), Job>,
    /// Databases that are still to be asked.
    probes: VecDeque<u32>,
    /// The databases of which the log already tells that there are no slots.
    logged: HashSet<Role>,
    /// There is no slot for a notifier: none is taken for a watcher.
    is_crowded: bool,
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
            let oid = entry.oid();
            if oid == 0 {
                continue;
            }
            // A notifier that runs has a watcher beside it, if there is room.
            if entry.state() == State::Running
                && !matches!(entry.watcher.state(), State::Running | State::Starting)
            {
                let new = || Job::new(false);
                self.jobs.entry((oid, Role::Watcher)).or_insert_with(new);
            }
            // Where one is to be started later anyway, the wish stays, so that nobody rings for it once more.
            let waits = |job: &Job| job.started.is_none() && job.due > now;
            if self.jobs.get(&(oid, Role::Notifier)).is_some_and(waits) {
                continue;
            }
            // It is taken before the state is looked at: a session that asks later rings again.
            if entry.was_wanted() && entry.state() != State::Running {
                let key = (oid, Role::Notifier);
                self.has_new_jobs |= !self.jobs.contains_key(&key);
                let job = self.jobs.entry(key).or_insert_with(|| Job::new(false));
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
                if !self.jobs.contains_key(&(oid, Role::Notifier))
                    && !self.shared.databases.find(oid).is_some_and(runs)
                {
                    self.jobs.insert((oid, Role::Notifier), Job::new(true));
                    break;
                }
            }
        }
        let all: Vec<_> = self.jobs.keys().copied().collect();
        for (oid, role) in all {
            self.attend(oid, role);
        }
        if std::mem::replace(&mut self.has_free_slot, false) {
            let databases = self.shared.databases;
            let waits = |oid, role: Role| {
                databases.find(oid).is_some_and(|it| role.seat(it).state() == State::NoSlot)
            };
            for (_, job) in self.jobs.iter_mut().filter(|((oid, role), _)| waits(*oid, *role)) {
                job.due = Instant::now();
            }
        }
        let guard = self.guard();
        let due = self.jobs.values().filter(|job| job.started.is_none()).map(|job| job.due).min();
        let next = match due {
            Some(due) => Some(due.saturating_duration_since(Instant::now())),
            // The last probe has just ended.
            None if !self.probes.is_empty() && !self.jobs.values().any(|job| job.is_probe) => {
                let is_busy = std::mem::replace(&mut self.is_busy, false);
                Some(if is_busy { Duration::from_millis(100) } else { Duration::ZERO })
            }
            None => None,
        };
        [next, guard].into_iter().flatten().min()
    }

    /// Calls the sessions that block in databases whose watcher was rung and has not shown itself since: they look for
    /// themselves, until it does. Returns how soon that is to be asked again; never, where nobody was rung.
    fn guard(&self) -> Option<Duration> {
        let now = ffi::now();
        let entries = self.shared.databases.all.iter().filter(|entry| entry.oid() != 0);
        let rests = entries.filter_map(|entry| {
            let left = entry.guarded_until(now)?.0.saturating_sub(now.0);
            if left < 0 {
                self.shared.waiters.call_everybody(entry.oid(), ffi::set_latch);
            }
            // The launcher asks again about a watcher that does not show itself.
            let left = if left < 0 { ATTENDS_WITHIN } else { left.max(1000) };
            Some(Duration::from_micros(left.unsigned_abs()))
        });
        rests.min()
    }

    /// Gives back what databases have in the shared memory that are gone, and had no notifier by then.
    fn forget_dropped(&self) {
        let is_idle = |oid: &u32| *oid != 0 && !self.jobs.keys().any(|(of, _)| of == oid);
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

    /// Sees to one process.
    fn attend(&mut self, oid: u32, role: Role) {
        let Some(job) = self.jobs.get_mut(&(oid, role)) else {
            return;
        };
        let entry = self.shared.databases.find(oid);
        let seat = entry.map(|entry| role.seat(entry));
        if let Some((since, worker)) = &job.started {
            match worker.pid() {
                Ok(_) => {
                    // It has made itself known: the next probe may begin.
                    if seat.is_some_and(|seat| seat.state() == State::Running) {
                        job.is_probe = false;
                        job.was_asked_for = false;
                    }
                    return;
                }
                Err(BackgroundWorkerStatus::NotYetStarted) => return,
                Err(_) => {}
            }
            // Its slot is free: a process that waits for one may try.
            self.has_free_slot = true;
            if since.elapsed() > RAN_WELL {
                job.back_off.succeeded();
                job.attempts = 0;
            }
            job.attempts += 1;
            // It left because there was nothing to do, and nobody has asked since.
            let has_looked = role == Role::Notifier
                && self.shared.launcher.probed.swap(0, Ordering::SeqCst) == oid;
            let is_done = match seat.map(Seat::state) {
                // In the second case another process had its place.
                Some(State::None | State::Running) => !job.was_asked_for,
                None => has_looked || (job.is_probe && job.attempts >= ATTEMPTS),
                Some(_) => false,
            };
            if is_done {
                self.is_crowded &= role == Role::Watcher;
                self.jobs.remove(&(oid, role));
                return;
            }
            // The first time at once: somebody may have ended it by hand.
            let delay = if job.attempts <= 1 { Duration::ZERO } else { job.back_off.failed().0 };
            job.again(delay);
        }
        // A watcher without a notifier has nothing to watch.
        if role == Role::Watcher && entry.is_none_or(|entry| entry.state() == State::None) {
            self.jobs.remove(&(oid, role));
            return;
        }
        if job.due > Instant::now() {
            return;
        }
        if role == Role::Watcher && self.is_crowded {
            job.again(CROWDED_FOR);
            entry.into_iter().for_each(Self::do_without_watcher);
            return;
        }
        match find(oid) {
            Found::Here => {}
            Found::Busy if job.is_probe => {
                // The others need not wait for this one.
                self.probes.push_back(oid);
                self.jobs.remove(&(oid, role));
                self.is_busy = true;
                return;
            }
            Found::Busy => return job.again(Duration::from_millis(100)),
            Found::Gone => {
                let is_forgotten = entry.is_none_or(|entry| forget(self.shared, oid, entry));
                if !is_forgotten {
                    return job.again(Duration::from_millis(100));
                }
                self.jobs.remove(&(oid, role));
                return;
            }
        }
        if let Some(seat) = seat
            // Somebody has done it for us.
            && !seat.set_waiting(State::Starting)
        {
            self.jobs.remove(&(oid, role));
            return;
        }
        // SAFETY: a plain variable.
        let own_pid = unsafe { pg_sys::MyProcPid };
        let started = BackgroundWorkerBuilder::new(&format!("{} of database {oid}", role.name()))
            .set_type(role.name())
            .set_library("aimq")
            .set_function(role.main())
            .enable_spi_access()
            .set_start_time(BgWorkerStartTime::RecoveryFinished)
            .set_restart_time(None)
            .set_argument(Some(Start { database: oid, is_probe: job.is_probe }.into()))
            .set_notify_pid(own_pid)
            .load_dynamic();
        match started {
            Ok(worker) => {
                self.logged.remove(&role);
                job.was_asked_for = false;
                job.started = Some((Instant::now(), worker));
            }
            Err(_) => {
                match (role, entry) {
                    (_, None) => {}
                    (Role::Watcher, Some(entry)) => Self::do_without_watcher(entry),
                    (Role::Notifier, Some(entry)) => _ = entry.notifier.set_waiting(State::NoSlot),
                }
                if self.logged.insert(role) {
                    Log::NoWorkerSlot { process: role.described() }.report();
                }
                let must_make_room = role == Role::Notifier;
                let delay = job.back_off.failed().0.max(Duration::from_secs(1));
                job.again(delay);
                if must_make_room {
                    self.give_up_a_watcher();
                }
            }
        }
    }

    /// A notifier needs the slot more than a watcher does, whose work the notifier beside it can do as well.
    fn give_up_a_watcher(&mut self) {
        self.is_crowded = true;
        let watchers = self.jobs.iter_mut().filter(|((_, role), _)| *role == Role::Watcher);
        let mut running = watchers.filter(|(_, job)| job.started.is_some());
        // One at a time: when it has ended, a process that waits for a slot may try.
        let Some(((oid, _), first)) = running.next() else {
            return;
        };
        if !first.is_given_up && running.all(|(_, job)| !job.is_given_up) {
            let entry = self.shared.databases.find(*oid);
            let pid = entry.map_or(0, |entry| entry.watcher.pid.load(Ordering::SeqCst));
            if pid != 0 {
                first.is_given_up = true;
                // SAFETY: asks a process of ours to end.
                unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
            }
        }
    }

    /// There is to be no watcher: the notifier does its work as well.
    fn do_without_watcher(entry: &Database) {
        if entry.watcher.set_waiting(State::NoSlot)
            && let Some(bell) = entry.notifier.bell()
        {
            ffi::set_latch(bell);
        }
    }
}
