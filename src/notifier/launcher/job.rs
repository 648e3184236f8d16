//! A process that a database has, or is to have.

use std::time::{Duration, Instant};

use aimq_core::back_off::BackOff;
use aimq_core::clock::Moment;
use aimq_core::shared::{Database, Seat};
use pgrx::bgworkers::DynamicBackgroundWorker;

/// How soon a process that ended is started again, at first and at most.
const AGAIN: (Moment, Moment) = (50_000, 10_000_000);

/// Which process of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Notifier,
    Watcher,
}

impl Role {
    pub(super) fn seat(self, entry: &Database) -> &Seat {
        match self {
            Self::Notifier => &entry.notifier,
            Self::Watcher => &entry.watcher,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Notifier => "aimq notifier",
            Self::Watcher => "aimq watcher",
        }
    }

    pub(super) const fn described(self) -> &'static str {
        match self {
            Self::Notifier => "a notifier",
            Self::Watcher => "a watcher",
        }
    }

    pub(super) const fn main(self) -> &'static str {
        match self {
            Self::Notifier => "aimq_notifier_main",
            Self::Watcher => "aimq_watcher_main",
        }
    }
}

/// A process that a database has, or is to have.
pub(super) struct Job {
    /// When to start it.
    pub(super) due: Instant,
    pub(super) started: Option<(Instant, DynamicBackgroundWorker)>,
    pub(super) back_off: BackOff,
    pub(super) attempts: u32,
    /// Nobody asked: the launcher wants to know whether there is anything to do.
    pub(super) is_probe: bool,
    /// Somebody asked since it was started.
    pub(super) was_asked_for: bool,
    /// It was ended so that another one may run.
    pub(super) is_given_up: bool,
}

impl Job {
    pub(super) fn new(is_probe: bool) -> Self {
        Self {
            due: Instant::now(),
            started: None,
            back_off: BackOff::new(AGAIN.0, AGAIN.1),
            attempts: 0,
            is_probe,
            was_asked_for: false,
            is_given_up: false,
        }
    }

    pub(super) fn again(&mut self, delay: Duration) {
        (self.started, self.is_given_up) = (None, false);
        self.due = Instant::now() + delay;
    }
}
