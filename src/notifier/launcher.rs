//! The launcher: finds the databases with realtime queues, and keeps a notifier and a watcher running in each.
//!
//! It is connected to no database, so it is in nobody's way. Where aimq is preloaded it starts with the
//! server and asks each database once. Otherwise the first session that needs a notifier starts it.
//!
//! `core/src/launcher.rs` decides. This file reads the shared memory and what the server says of processes, tells it,
//! and does what it says.

mod databases;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aimq_core::clock::Moment;
use aimq_core::launcher::{Act, Event, Launcher, Life, Process, Role, Seats, Seen, Tried};
use aimq_core::shared::{Database, State};
use pgrx::bgworkers::{
    BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime, DynamicBackgroundWorker,
};
use pgrx::pg_sys;

use self::databases::{accepts, databases_that, find, is_whole};
use super::start::Start;
use crate::error::Log;
use crate::pg::function::background_worker;
use crate::pg::process::{self, exit};
use crate::pg::{ffi, signals};
use crate::shared::{self, Shared};

background_worker! {
    /// The launcher's process.
    aimq_launcher_main, run
}

fn run(_argument: pg_sys::Datum) -> ! {
    signals::handle();
    process::connect(None, false);
    let Some(shared) = shared::of_process() else {
        Log::NoSharedMemory { process: "aimq launcher" }.report();
        exit(0);
    };
    if !process::take_seat(&shared.launcher.pid) {
        exit(0);
    }
    process::at_exit(on_exit);
    shared.launcher.bell.store(ffi::own_latch(), Ordering::SeqCst);
    let event = process::wait_event(c"AimqLauncherMain");
    let mut pump = Pump {
        shared,
        launcher: Launcher::new(databases_that(accepts)),
        workers: HashMap::new(),
        origin: Instant::now(),
    };
    loop {
        if process::begin_round() {
            // Not 0: that would be for ever.
            exit(1);
        }
        let next = pump.round();
        if !process::had_transaction() {
            process::sleep(next, event);
            process::count(&shared.launcher.wake_ups);
        }
    }
}

fn on_exit() {
    if let Some(shared) = shared::get() {
        shared.launcher.bell.store(0, Ordering::SeqCst);
        shared.launcher.pid.store(0, Ordering::SeqCst);
    }
}

/// What the launcher sees and does.
struct Pump {
    shared: Shared,
    launcher: Launcher,
    /// The processes that were started, and have not been seen to have ended.
    workers: HashMap<Process, DynamicBackgroundWorker>,
    /// The launcher's clock begins here.
    origin: Instant,
}

impl Pump {
    /// Does what is to be done now; returns how long there is nothing.
    fn round(&mut self) -> Option<Duration> {
        let mut event = Event::Round(self.entries());
        loop {
            let act = self.launcher.step(event, self.moment());
            if let Act::Sleep(limit) = act {
                return limit.map(Duration::from_micros);
            }
            event = self.perform(act);
        }
    }

    fn moment(&self) -> Moment {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(Moment::MAX)
    }

    fn entry(&self, oid: u32) -> Option<&'static Database> {
        self.shared.databases.find(oid)
    }

    /// Does one thing, and says what came of it.
    fn perform(&mut self, act: Act) -> Event {
        match act {
            Act::TakeWishes(oids) => Event::Wishes(self.take_wishes(&oids)),
            Act::List => Event::There(databases_that(is_whole).into()),
            Act::Forget(oid) => Event::Forgotten { oid, is_done: self.forget(oid) },
            Act::See(process) => Event::Seen(process, self.see(process)),
            Act::Find(process) => Event::Found(process, find(process.oid)),
            Act::Start { process, is_probe } => {
                Event::Tried(process, self.start(process, is_probe))
            }
            Act::NoteNoSlot(process) => {
                let is_noted = self.set_waiting(process, State::NoSlot) == Some(true);
                Event::NoSlotNoted { process, is_noted }
            }
            Act::Wake(oid) => {
                let bell = self.entry(oid).and_then(|entry| entry.notifier.bell());
                bell.into_iter().for_each(ffi::set_latch);
                Event::Done
            }
            Act::LogNoSlot(role) => {
                Log::NoWorkerSlot { process: described(role) }.report();
                Event::Done
            }
            Act::GiveUp(oid) => Event::GivenUp { oid, is_told: self.end_watcher(oid) },
            Act::LookAtGuarded => Event::Guarded(self.guarded()),
            Act::Call(oid) => {
                self.shared.waiters.call_everybody(oid, ffi::set_latch);
                Event::Done
            }
            // The round is over.
            Act::Sleep(_) => Event::Done,
        }
    }

    fn entries(&self) -> Vec<(u32, Seats)> {
        let entries = self.shared.databases.all.iter().map(|entry| (entry.oid(), entry));
        entries.filter(|(oid, _)| *oid != 0).map(|(oid, entry)| (oid, seats(entry))).collect()
    }

    fn take_wishes(&self, oids: &[u32]) -> Vec<(u32, State)> {
        let entries = oids.iter().filter_map(|oid| Some((*oid, self.entry(*oid)?)));
        // It is taken before the state is looked at: a session that asks later rings again.
        let wanted = entries.filter(|(_, entry)| entry.was_wanted());
        wanted.map(|(oid, entry)| (oid, entry.state())).collect()
    }

    /// Gives back what a database has in the shared memory. False if it has to be tried again.
    fn forget(&self, oid: u32) -> bool {
        let Some(entry) = self.entry(oid) else {
            return true;
        };
        let is_released = self.shared.databases.release(entry);
        if is_released {
            for claim in self.shared.slots.of(oid) {
                self.shared.slots.release(claim);
            }
        }
        is_released
    }

    /// The process before the seats: one that has ended has left its seat before that.
    fn see(&mut self, process: Process) -> Seen {
        let life = match self.workers.get(&process).map(DynamicBackgroundWorker::pid) {
            Some(Ok(_)) => Life::Runs,
            Some(Err(BackgroundWorkerStatus::NotYetStarted)) => Life::Starts,
            Some(Err(_)) => {
                self.workers.remove(&process);
                let has_looked = process.role == Role::Notifier
                    && self.shared.launcher.probed.swap(0, Ordering::SeqCst) == process.oid;
                Life::Gone { has_looked }
            }
            None => Life::Gone { has_looked: false },
        };
        Seen { life, seats: self.entry(process.oid).map(seats) }
    }

    /// Says in a seat that there is no process yet. False if there is one; `None` if the database has no entry.
    fn set_waiting(&self, process: Process, state: State) -> Option<bool> {
        let entry = self.entry(process.oid)?;
        let seat = match process.role {
            Role::Notifier => &entry.notifier,
            Role::Watcher => &entry.watcher,
        };
        Some(seat.set_waiting(state))
    }

    fn start(&mut self, process: Process, is_probe: bool) -> Tried {
        if self.set_waiting(process, State::Starting) == Some(false) {
            return Tried::Taken;
        }
        let Process { role, oid } = process;
        let started = BackgroundWorkerBuilder::new(&format!("{} of database {oid}", name(role)))
            .set_type(name(role))
            .set_library("aimq")
            .set_function(function(role))
            .enable_spi_access()
            .set_start_time(BgWorkerStartTime::RecoveryFinished)
            .set_restart_time(None)
            .set_argument(Some(Start { database: oid, is_probe }.into()))
            .set_notify_pid(process::own_pid().cast_signed())
            .load_dynamic();
        let Ok(worker) = started else {
            return Tried::NoSlot;
        };
        self.workers.insert(process, worker);
        Tried::Started
    }

    /// Tells a watcher to end. False if it has not yet made itself known.
    fn end_watcher(&self, oid: u32) -> bool {
        let pid = self.entry(oid).map_or(0, |entry| entry.watcher.pid.load(Ordering::SeqCst));
        if pid != 0 {
            signals::terminate(pid);
        }
        pid != 0
    }

    /// The databases whose watcher was rung and has not shown itself since, and how long it still has. None where
    /// nobody was rung.
    fn guarded(&self) -> Vec<(u32, i64)> {
        let now = ffi::now();
        let entries = self.shared.databases.all.iter().filter(|entry| entry.oid() != 0);
        let left = entries.filter_map(|entry| {
            Some((entry.oid(), entry.guarded_until(now)?.0.saturating_sub(now.0)))
        });
        left.collect()
    }
}

fn seats(entry: &Database) -> Seats {
    Seats { notifier: entry.state(), watcher: entry.watcher.state() }
}

const fn name(role: Role) -> &'static str {
    match role {
        Role::Notifier => "aimq notifier",
        Role::Watcher => "aimq watcher",
    }
}

const fn described(role: Role) -> &'static str {
    match role {
        Role::Notifier => "a notifier",
        Role::Watcher => "a watcher",
    }
}

const fn function(role: Role) -> &'static str {
    match role {
        Role::Notifier => "aimq_notifier_main",
        Role::Watcher => "aimq_watcher_main",
    }
}
