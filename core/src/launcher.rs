//! What the launcher decides: which processes are started, and when; what becomes of those for which there is no slot;
//! which databases are asked whether there is anything to do.
//!
//! It has no clock and no server. A round is a talk: it begins with [`Event::Round`]; [`Launcher::step`] says what is to
//! be done; what came of that is the next event, until there is nothing more to do than to sleep.

mod job;
mod talk;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use job::{Job, Stage, Wish};
pub use job::{Process, Role};
pub use talk::{Act, Event, Found, Life, Seats, Seen, Tried};

use crate::clock::Moment;
use crate::shared::{ATTENDS_WITHIN, State};

/// How soon a database is looked at again that was being changed, or that could not be forgotten.
const BUSY_AGAIN: Moment = 100_000;

/// How soon a process is tried again for which there was no slot, at the earliest.
const NO_SLOT_AGAIN: Moment = 1_000_000;

/// How long a watcher is put off once there was no slot for a notifier.
const CROWDED_FOR: Moment = 60_000_000;

/// How often a database that does not answer when the server starts is asked before the others.
const ATTEMPTS: u32 = 5;

/// How long a watcher that was told to end has for that, until it or another one is told.
const GIVEN_UP_FOR: Moment = 10_000_000;

/// The least time until it is looked again whether a watcher shows itself, in microseconds.
const GUARD_AGAIN: i64 = 1000;

/// The launcher's own state, as long as its process lives.
#[derive(Debug)]
pub struct Launcher {
    /// In their order: where there is one slot, a notifier is tried before a watcher.
    jobs: BTreeMap<Process, Job>,
    /// Databases that are still to be asked whether there is anything to do, and from when on: not at once, if one is
    /// being copied or changed.
    probes: VecDeque<(u32, Moment)>,
    /// The roles of which the log already tells that there are no slots.
    logged: BTreeSet<Role>,
    /// There was no slot for a notifier: none is taken for a watcher until this time, or until a notifier is not needed
    /// any more.
    crowded_until: Moment,
    /// A process has ended in this round.
    has_free_slot: bool,
    /// The databases that have an entry, as they were when the round began.
    entries: Vec<(u32, Seats)>,
    /// What is to be done in this round.
    plan: VecDeque<Act>,
}

impl Launcher {
    /// One that asks these databases.
    #[must_use]
    pub fn new(probes: impl IntoIterator<Item = u32>) -> Self {
        Self {
            jobs: BTreeMap::new(),
            probes: probes.into_iter().map(|oid| (oid, 0)).collect(),
            logged: BTreeSet::new(),
            crowded_until: 0,
            has_free_slot: false,
            entries: Vec::new(),
            plan: VecDeque::new(),
        }
    }

    /// Hears what has come of the last act, and says what is to be done next.
    pub fn step(&mut self, event: Event, moment: Moment) -> Act {
        match event {
            Event::Round(entries) => self.begin_round(entries, moment),
            Event::Wishes(wishes) => self.take_wishes(&wishes, moment),
            Event::There(there) => {
                self.forget_all_but(&there);
                self.see_to_all(moment);
            }
            Event::Forgotten { oid, is_done } => self.forgotten(oid, is_done, moment),
            Event::Seen(process, seen) => self.seen(process, seen, moment),
            Event::Found(process, found) => self.found(process, found, moment),
            Event::Tried(process, tried) => self.tried(process, tried, moment),
            Event::NoSlotNoted { process, is_noted } => self.no_slot_noted(process, is_noted),
            Event::GivenUp { oid, is_told } => self.given_up(oid, is_told, moment),
            Event::Guarded(left) => self.end_round(&left, moment),
            Event::Done => {}
        }
        self.plan.pop_front().unwrap_or(Act::LookAtGuarded)
    }

    fn begin_round(&mut self, entries: Vec<(u32, Seats)>, moment: Moment) {
        for (oid, seats) in &entries {
            // A notifier that runs has a watcher beside it, if there is room. One that starts and is not known here was
            // started by a former launcher. It may have ended before it came to its seat, so another one is started: of
            // two, one leaves.
            if runs(*seats) && seats.watcher != State::Running {
                let new = || Job::new(Wish::Answered, moment);
                self.jobs.entry(Process::watcher(*oid)).or_insert_with(new);
            }
        }
        // Where one is to be started later anyway, the wish stays, so that nobody rings for it once more.
        let waits = |job: &Job| job.due().is_some_and(|due| due > moment);
        let oids = entries.iter().map(|(oid, _)| *oid);
        let open = oids.filter(|oid| !self.jobs.get(&Process::notifier(*oid)).is_some_and(waits));
        self.plan.push_back(Act::TakeWishes(open.collect()));
        self.entries = entries;
    }

    /// Somebody wants a notifier. A session that asks after its wish was taken rings again, so a notifier that was seen
    /// running after that does what the wish was for.
    fn take_wishes(&mut self, wishes: &[(u32, State)], moment: Moment) {
        let mut is_new = false;
        for (oid, _) in wishes.iter().filter(|(_, notifier)| *notifier != State::Running) {
            let new = || {
                is_new = true;
                Job::new(Wish::Open, moment)
            };
            self.jobs.entry(Process::notifier(*oid)).or_insert_with(new).wish = Wish::Open;
        }
        if is_new {
            // The new one may need room that a database has which is gone.
            self.plan.push_back(Act::List);
        } else {
            self.see_to_all(moment);
        }
    }

    /// Has given back what databases have in the shared memory that are gone, and had no process by then.
    fn forget_all_but(&mut self, there: &[u32]) {
        // Those that had an entry before it was asked which databases there are: one that is made meanwhile is not
        // among those.
        let gone = self.entries.iter().map(|(oid, _)| *oid).filter(|oid| !there.contains(oid));
        let idle = gone.filter(|oid| !self.jobs.keys().any(|process| process.oid == *oid));
        self.plan.extend(idle.map(Act::Forget));
    }

    fn see_to_all(&mut self, moment: Moment) {
        self.probe_next(moment);
        self.plan.extend(self.jobs.keys().copied().map(Act::See));
    }

    /// Has the next database asked, one after the other: a server may have a thousand databases.
    fn probe_next(&mut self, moment: Moment) {
        if self.has_probe() {
            return;
        }
        let next = |probes: &VecDeque<_>| probes.iter().position(|(_, from)| *from <= moment);
        while let Some((oid, _)) = next(&self.probes).and_then(|at| self.probes.remove(at)) {
            let mut entries = self.entries.iter();
            let runs = entries.any(|(of, seats)| *of == oid && runs(*seats));
            let process = Process::notifier(oid);
            if !runs && !self.jobs.contains_key(&process) {
                self.jobs.insert(process, Job::new(Wish::Probe, moment));
                break;
            }
        }
    }

    /// Whether a database is being asked. The others need not wait for one that never answers.
    fn has_probe(&self) -> bool {
        self.jobs.values().any(|job| job.wish == Wish::Probe && job.attempts < ATTEMPTS)
    }

    fn seen(&mut self, process: Process, seen: Seen, moment: Moment) {
        let Some(job) = self.jobs.get_mut(&process) else {
            return;
        };
        let seat = seen.seats.map(|seats| seats.of(process.role));
        if let Stage::Started(since) | Stage::GivenUp { since, .. } = job.stage {
            let Life::Gone { has_looked } = seen.life else {
                // It has made itself known: the next probe may begin.
                if seen.life == Life::Runs && seat == Some(State::Running) {
                    job.wish = Wish::Answered;
                }
                return;
            };
            // Its slot is free: a process that waits for one may try.
            self.has_free_slot = true;
            job.end(since, moment);
            let is_done = match seat {
                // It has seen that no notifier is needed, and there is one again.
                Some(State::None)
                    if process.role == Role::Watcher && seen.seats.is_some_and(runs) =>
                {
                    false
                }
                // It left because there was nothing to do, or another process had its place; and nobody has asked
                // since.
                Some(State::None | State::Running) => job.wish != Wish::Open,
                None => has_looked || (job.wish == Wish::Probe && job.attempts >= ATTEMPTS),
                Some(State::Starting | State::Down | State::NoSlot) => false,
            };
            if is_done {
                if process.role == Role::Notifier {
                    // The watchers may have its slot.
                    self.crowded_until = 0;
                }
                self.jobs.remove(&process);
                return;
            }
            job.restart(moment);
        }
        let lacked_slot = matches!(job.stage, Stage::LacksSlot(_));
        job.note_slot(seat == Some(State::NoSlot));
        if process.role == Role::Watcher && lacked_slot && seat != Some(State::NoSlot) {
            // Another notifier has come since: it does the work of a watcher only where the seat says so.
            job.wait_until(moment);
        }
        let has_notifier = seen.seats.is_some_and(|seats| seats.notifier != State::None);
        if process.role == Role::Watcher && !has_notifier {
            // A watcher without a notifier has nothing to watch.
            self.jobs.remove(&process);
        } else if !job.is_due(moment) {
            // It is seen again in a later round.
        } else if process.role == Role::Watcher && moment < self.crowded_until {
            job.wait_until(self.crowded_until);
            self.plan.push_front(Act::NoteNoSlot(process));
        } else {
            self.plan.push_front(Act::Find(process));
        }
    }

    fn found(&mut self, process: Process, found: Found, moment: Moment) {
        let Some(job) = self.jobs.get_mut(&process) else {
            return;
        };
        let is_probe = job.wish == Wish::Probe;
        match found {
            Found::Here => self.plan.push_front(Act::Start { process, is_probe }),
            Found::Gone => self.plan.push_front(Act::Forget(process.oid)),
            Found::Busy if is_probe => {
                // The others need not wait for this one.
                self.probes.push_back((process.oid, moment.saturating_add(BUSY_AGAIN)));
                self.jobs.remove(&process);
            }
            Found::Busy => job.wait_until(moment.saturating_add(BUSY_AGAIN)),
        }
    }

    /// A database was forgotten, or not: because a process of it was to be started, or because others needed room. In
    /// the second case nothing waits for it.
    fn forgotten(&mut self, oid: u32, is_done: bool, moment: Moment) {
        for process in [Process::notifier(oid), Process::watcher(oid)] {
            match self.jobs.get_mut(&process) {
                Some(job) if !job.is_due(moment) => {}
                Some(job) if !is_done => job.wait_until(moment.saturating_add(BUSY_AGAIN)),
                _ => _ = self.jobs.remove(&process),
            }
        }
    }

    fn tried(&mut self, process: Process, tried: Tried, moment: Moment) {
        let Some(job) = self.jobs.get_mut(&process) else {
            return;
        };
        match tried {
            Tried::Started => {
                self.logged.remove(&process.role);
                job.start(moment);
            }
            // Somebody has done it for us.
            Tried::Taken => _ = self.jobs.remove(&process),
            Tried::NoSlot => {
                job.retry(moment, NO_SLOT_AGAIN);
                if process.role == Role::Notifier {
                    self.crowded_until = moment.saturating_add(CROWDED_FOR);
                    let watcher = self.watcher_to_give_up(moment);
                    self.plan_next(watcher.map(Act::GiveUp));
                }
                let is_new = self.logged.insert(process.role);
                self.plan_next(is_new.then_some(Act::LogNoSlot(process.role)));
                self.plan_next(Some(Act::NoteNoSlot(process)));
            }
        }
    }

    /// It is done before all else.
    fn plan_next(&mut self, act: Option<Act>) {
        act.into_iter().for_each(|act| self.plan.push_front(act));
    }

    fn no_slot_noted(&mut self, process: Process, is_noted: bool) {
        if let Some(job) = self.jobs.get_mut(&process) {
            job.note_slot(is_noted);
        }
        if is_noted && process.role == Role::Watcher {
            // There is to be no watcher: the notifier does its work as well.
            self.plan.push_front(Act::Wake(process.oid));
        }
    }

    /// A notifier needs the slot more than a watcher does, whose work the notifier beside it can do as well. Returns
    /// the database of the watcher that is to end, if one is.
    fn watcher_to_give_up(&self, moment: Moment) -> Option<u32> {
        let watchers = || self.jobs.iter().filter(|(process, _)| process.role == Role::Watcher);
        let is_ending = |job: &Job| match job.stage {
            Stage::GivenUp { told, .. } => moment < told.saturating_add(GIVEN_UP_FOR),
            _ => false,
        };
        // One at a time: when it has ended, a process that waits for a slot may try.
        if watchers().any(|(_, job)| is_ending(job)) {
            return None;
        }
        // One that was told and did not end may be stopped, or may have had a reason to stay.
        let is_new = |job: &Job| matches!(job.stage, Stage::Started(_));
        let is_old = |job: &Job| matches!(job.stage, Stage::GivenUp { .. });
        let first = watchers().find(|(_, job)| is_new(job));
        first.or_else(|| watchers().find(|(_, job)| is_old(job))).map(|(process, _)| process.oid)
    }

    fn given_up(&mut self, oid: u32, is_told: bool, moment: Moment) {
        if is_told
            && let Some(job) = self.jobs.get_mut(&Process::watcher(oid))
            && let Stage::Started(since) | Stage::GivenUp { since, .. } = job.stage
        {
            job.stage = Stage::GivenUp { since, told: moment };
        }
    }

    /// All processes were seen to. What is left are the databases whose watcher was rung and has not shown itself
    /// since. The sessions that block there look for themselves, until it does.
    fn end_round(&mut self, guarded: &[(u32, i64)], moment: Moment) {
        if std::mem::take(&mut self.has_free_slot) {
            for job in self.jobs.values_mut().filter(|job| matches!(job.stage, Stage::LacksSlot(_)))
            {
                job.wait_until(moment);
            }
        }
        let is_late = |(_, left): &&(u32, i64)| *left < 0;
        self.plan.extend(guarded.iter().filter(is_late).map(|(oid, _)| Act::Call(*oid)));
        let guard = guarded.iter().map(|(_, left)| {
            // It is asked again about a watcher that does not show itself.
            let left = if *left < 0 { ATTENDS_WITHIN } else { (*left).max(GUARD_AGAIN) };
            left.unsigned_abs()
        });
        let limit = self.next(moment).into_iter().chain(guard).min();
        self.plan.push_back(Act::Sleep(limit));
    }

    /// How long there is nothing to do for processes.
    fn next(&mut self, moment: Moment) -> Option<Moment> {
        let due = self.jobs.values().filter_map(Job::due).min();
        let due = due.map(|due| due.saturating_sub(moment));
        // The last probe has just ended.
        let probe = self.probes.iter().map(|(_, from)| from.saturating_sub(moment)).min();
        let probe = probe.filter(|_| !self.has_probe());
        due.into_iter().chain(probe).min()
    }
}

fn runs(seats: Seats) -> bool {
    seats.notifier == State::Running
}
