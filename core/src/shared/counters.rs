//! What is counted of a queue, for `aimq.stats`. Nothing depends on these numbers: all of them are relaxed.

use crate::sync::{AtomicI64, AtomicU64, Ordering::Relaxed};
use crate::timestamp::Timestamp;

/// What `aimq.stats` shows of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Transactions that enqueued, seen by this delivery.
    pub transactions: u64,
    /// Messages that they enqueued.
    pub messages: u64,
    /// Notifications that named the queue.
    pub notifications: u64,
    /// Transactions that shared a notification with an earlier one.
    pub coalesced: u64,
    /// Sessions that blocked for the queue and were called to read.
    pub calls: u64,
    /// Broadcasts of the queue.
    pub broadcasts: u64,
    /// Those that failed, and were or will be tried again.
    pub failed_broadcasts: u64,
    /// When the last of these notifications was sent.
    pub last_wake_up: Option<Timestamp>,
    /// When a broadcast failed last.
    pub last_failed_broadcast: Option<Timestamp>,
}

/// What is not counted in the producers' transactions, and so is outside of the cache line that they write.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Cells {
    notifications: AtomicU64,
    coalesced: AtomicU64,
    calls: AtomicU64,
    broadcasts: AtomicU64,
    failed_broadcasts: AtomicU64,
    last_wake_up: AtomicI64,
    last_failed_broadcast: AtomicI64,
}

impl Cells {
    pub(super) fn new() -> Self {
        Self {
            notifications: AtomicU64::new(0),
            coalesced: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            broadcasts: AtomicU64::new(0),
            failed_broadcasts: AtomicU64::new(0),
            last_wake_up: AtomicI64::new(0),
            last_failed_broadcast: AtomicI64::new(0),
        }
    }

    pub(super) fn notified(&self, coalesced: u64, at: Timestamp) {
        self.notifications.fetch_add(1, Relaxed);
        self.coalesced.fetch_add(coalesced, Relaxed);
        self.last_wake_up.store(at.0, Relaxed);
    }

    pub(super) fn called(&self) {
        self.calls.fetch_add(1, Relaxed);
    }

    pub(super) fn broadcast(&self) {
        self.broadcasts.fetch_add(1, Relaxed);
    }

    pub(super) fn broadcast_failed(&self, at: Timestamp) {
        self.failed_broadcasts.fetch_add(1, Relaxed);
        self.last_failed_broadcast.store(at.0, Relaxed);
    }

    pub(super) fn reset(&self) {
        let Self { notifications, coalesced, calls, broadcasts, failed_broadcasts, .. } = self;
        for counter in [notifications, coalesced, calls, broadcasts, failed_broadcasts] {
            counter.store(0, Relaxed);
        }
        for time in [&self.last_wake_up, &self.last_failed_broadcast] {
            time.store(0, Relaxed);
        }
    }

    /// Beside what the producers counted.
    pub(super) fn read(&self, transactions: u64, messages: u64) -> Counters {
        let time = |at: &AtomicI64| Some(at.load(Relaxed)).filter(|at| *at != 0).map(Timestamp);
        Counters {
            transactions,
            messages,
            notifications: self.notifications.load(Relaxed),
            coalesced: self.coalesced.load(Relaxed),
            calls: self.calls.load(Relaxed),
            broadcasts: self.broadcasts.load(Relaxed),
            failed_broadcasts: self.failed_broadcasts.load(Relaxed),
            last_wake_up: time(&self.last_wake_up),
            last_failed_broadcast: time(&self.last_failed_broadcast),
        }
    }
}
