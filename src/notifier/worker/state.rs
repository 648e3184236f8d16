//! What a process of a database knows.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aimq_core::agenda::{Agenda, Duties};
use aimq_core::back_off::BackOff;
use aimq_core::clock::Moment;
use aimq_core::route::RouteKey;
use aimq_core::shared::{Database, News, Seat};
use aimq_core::timestamp::Timestamp;

use crate::notifier::queues::Queues;
use crate::pg::ffi;
use crate::pg::process;
use crate::settings;
use crate::shared::Shared;

/// How soon a notification that could not be sent is tried again, at first and at most. A try costs little, and who kept
/// it from being sent (a listener that hangs, for instance, so that the NOTIFY queue is full) may go at any moment.
const SEND_AGAIN: (Moment, Moment) = (100_000, 500_000);

/// The same for what else failed.
const AGAIN: (Moment, Moment) = (100_000, 5_000_000);

/// What failed.
#[derive(Clone, Copy)]
pub(super) enum Work {
    Send,
    Look,
}

/// A notifier, or a watcher.
pub(super) struct Worker {
    pub(super) shared: Shared,
    pub(super) oid: u32,
    pub(super) database: &'static Database,
    /// This process's place there.
    pub(super) seat: &'static Seat,
    pub(super) agenda: Agenda,
    pub(super) queues: Queues,
    /// How many have gone since the caches of the catalogs were emptied.
    pub(super) gone: usize,
    /// The clock of the intervals begins here.
    pub(super) origin: Instant,
    /// The least time between two notifications, as it was in force when it was looked at last.
    pub(super) interval: Moment,
    pub(super) news: News,
    /// When the news may be attended to.
    pub(super) news_due: Instant,
    /// The processor's time at which the last news began to be attended to. It is taken when all tables are looked at.
    pub(super) looking_since: Option<u64>,
    /// When tables that were locked are looked at again, and from which visibility time on.
    pub(super) look_later: Vec<(Instant, RouteKey, Timestamp)>,
    /// Routes whose table could not be looked at.
    pub(super) failing: HashMap<RouteKey, Failing>,
    /// Those that the watcher has left to the notifier.
    pub(super) handed_over: HashMap<RouteKey, HandedOver>,
    /// The settings with which no trigger fires, as the server has them: that aimq does anything, and a session's
    /// replication role.
    pub(super) switches: (bool, i32),
    /// The tables that a subscription writes to, and when they are looked at again.
    pub(super) subscribed: HashSet<u32>,
    pub(super) subscribed_due: Option<Instant>,
    /// Routes with a table that was locked when it was looked at last: nobody waits for that lock again.
    pub(super) locked: HashSet<RouteKey>,
    /// For what is sent, and for all else but broadcasts, which have delays of their own.
    pub(super) back_off: BackOff,
    pub(super) other_back_off: BackOff,
    /// When a failed broadcast was logged last.
    pub(super) broadcast_logged: Option<Instant>,
    pub(super) prepared: HashSet<String>,
    /// Those that were there when this process began: nobody has told which tables they have something for.
    pub(super) unknown_prepared: HashSet<String>,
    /// When to ask about them, and how long then to wait before the next time.
    pub(super) prepared_due: Option<(Instant, Duration)>,
    /// How long to wait in NOTIFY's line, in milliseconds, where there is something else to do; 0 for as long as it
    /// takes.
    pub(super) patience: i32,
}

/// A route whose table could not be looked at.
#[derive(Debug)]
pub(super) struct Failing {
    /// When it is tried again.
    pub(super) due: Instant,
    pub(super) from: Timestamp,
    pub(super) back_off: BackOff,
    /// Something was noted since it was announced.
    pub(super) is_news: bool,
    /// When it was announced last.
    pub(super) told: Instant,
}

/// A route that was handed to the notifier, and that it may not have come to yet.
#[derive(Debug)]
pub(super) struct HandedOver {
    /// When the watcher asks whether it has.
    pub(super) due: Instant,
    pub(super) from: Timestamp,
    /// How long it waits before the next time.
    pub(super) wait: Duration,
    /// There was room to note it for the notifier.
    pub(super) is_noted: bool,
}

impl Worker {
    pub(super) fn new(
        shared: Shared,
        oid: u32,
        database: &'static Database,
        seat: &'static Seat,
    ) -> Self {
        seat.started_at.store(ffi::now().0, Ordering::Relaxed);
        process::count(&seat.starts);
        let now = Instant::now();
        Self {
            shared,
            oid,
            database,
            seat,
            // Where there is room for a watcher, it comes at once.
            agenda: Agenda::with(Duties::NOTIFIER),
            queues: Queues::new(),
            gone: 0,
            origin: now,
            interval: settings::notify_interval(),
            news: News(0),
            news_due: now,
            looking_since: None,
            look_later: Vec::new(),
            failing: HashMap::new(),
            handed_over: HashMap::new(),
            switches: switches(),
            subscribed: HashSet::new(),
            subscribed_due: None,
            locked: HashSet::new(),
            back_off: BackOff::new(SEND_AGAIN.0, SEND_AGAIN.1),
            other_back_off: BackOff::new(AGAIN.0, AGAIN.1),
            broadcast_logged: None,
            prepared_due: None,
            prepared: HashSet::new(),
            unknown_prepared: HashSet::new(),
            patience: 0,
        }
    }

    pub(super) fn moment(&self) -> Moment {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(Moment::MAX)
    }
}

/// What the server has set of that with which no trigger fires.
pub(super) fn switches() -> (bool, i32) {
    (settings::enabled(), process::replication_role())
}
