//! What the launcher knows of a process that a database has, or is to have.

use crate::back_off::BackOff;
use crate::clock::Moment;

/// How soon a process that ended is started again, at first and at most. The very first time it is at once.
const AGAIN: (Moment, Moment) = (50_000, 10_000_000);

/// A process that ran this long has not failed at its start.
const RAN_WELL: Moment = 5_000_000;

/// What a process does for its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It announces.
    Notifier,
    /// It keeps the times, looks at tables, and calls sessions that block.
    Watcher,
}

/// Which process of which database, by its OID. In their order, notifiers come before watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// What it does.
    pub role: Role,
    /// For which database.
    pub oid: u32,
}

impl Process {
    /// The notifier of a database.
    #[must_use]
    pub const fn notifier(oid: u32) -> Self {
        Self { role: Role::Notifier, oid }
    }

    /// The watcher of a database.
    #[must_use]
    pub const fn watcher(oid: u32) -> Self {
        Self { role: Role::Watcher, oid }
    }
}

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is to be started at this time.
    Waits(Moment),
    /// It is to be started at this time, or as soon as a slot is free: its seat says that there was none.
    LacksSlot(Moment),
    /// It was started at this time.
    Started(Moment),
    /// It was started at `since`, and told to end at `told`, so that another one may run.
    GivenUp { since: Moment, told: Moment },
}

/// Whether somebody wants the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nobody has asked: the launcher wants to know whether there is anything to do.
    Probe,
    /// Somebody has asked since it was started.
    Open,
    /// Nobody has asked since it was started, or since it was seen running.
    Answered,
}

/// A process that a database has, or is to have.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) stage: Stage,
    pub(super) wish: Wish,
    /// How often it has ended since it ran well.
    pub(super) attempts: u32,
    back_off: BackOff,
}

impl Job {
    /// One that is to be started now.
    pub(super) const fn new(wish: Wish, moment: Moment) -> Self {
        let back_off = BackOff::new(AGAIN.0, AGAIN.1);
        Self { stage: Stage::Waits(moment), wish, attempts: 0, back_off }
    }

    /// When it is to be started, if it was not.
    pub(super) const fn due(&self) -> Option<Moment> {
        match self.stage {
            Stage::Waits(due) | Stage::LacksSlot(due) => Some(due),
            Stage::Started(_) | Stage::GivenUp { .. } => None,
        }
    }

    /// Whether it is to be started now.
    pub(super) fn is_due(&self, moment: Moment) -> bool {
        self.due().is_some_and(|due| due <= moment)
    }

    /// It is not started before `due`.
    pub(super) fn wait_until(&mut self, due: Moment) {
        self.stage = match self.stage {
            Stage::LacksSlot(_) => Stage::LacksSlot(due),
            _ => Stage::Waits(due),
        };
    }

    /// What its seat says of slots.
    pub(super) fn note_slot(&mut self, is_lacking: bool) {
        if let Some(due) = self.due() {
            self.stage = if is_lacking { Stage::LacksSlot(due) } else { Stage::Waits(due) };
        }
    }

    /// It was started.
    pub(super) fn start(&mut self, moment: Moment) {
        self.stage = Stage::Started(moment);
        if self.wish == Wish::Open {
            self.wish = Wish::Answered;
        }
    }

    /// It has ended, having been started at `since`.
    pub(super) fn end(&mut self, since: Moment, moment: Moment) {
        if moment.saturating_sub(since) > RAN_WELL {
            self.back_off.succeeded();
            self.attempts = 0;
        }
        self.attempts += 1;
    }

    /// It is to be started again, after it has ended.
    pub(super) fn restart(&mut self, moment: Moment) {
        // The first time at once: somebody may have ended it by hand.
        let delay = if self.attempts <= 1 { 0 } else { self.back_off.failed().0 };
        self.stage = Stage::Waits(moment.saturating_add(delay));
    }

    /// There was no slot for it: it is tried again after `at_least`, or later.
    pub(super) fn retry(&mut self, moment: Moment, at_least: Moment) {
        let delay = self.back_off.failed().0.max(at_least);
        self.wait_until(moment.saturating_add(delay));
    }
}
