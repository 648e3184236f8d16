//! Delivery inside the user's transaction: `pg_notify` at PRE_COMMIT.
//!
//! What it costs: Postgres lets notifying transactions commit one at a time, server-wide
//! (commands/async.c, PreCommit_Notify).

use std::cell::Cell;
use std::ffi::CString;
use std::time::{Duration, Instant};

use aimq_core::batch::Batch;

use crate::error::Warning;
use crate::ffi;

/// How full the NOTIFY queue may be for us to add to it. When it is full, *every* transaction that
/// notifies fails at commit, so we stop well before: what is left is for those who called NOTIFY
/// themselves. At the smallest size that can be set (64 pages, PostgreSQL 17 and later) a quarter is
/// 16 pages of 8 kB. Not guaranteed: that transactions which pass this test at the same moment
/// don't fill the rest together.
const FULL: f64 = 0.75;

/// The least time between two warnings about a full queue from one backend.
const WARN_EVERY: Duration = Duration::from_secs(60);

pub(crate) fn has_room(usage: f64) -> bool {
    usage < FULL
}

pub(crate) fn announce(batch: &Batch) {
    if !has_room(ffi::notification_queue_usage()) {
        warn_full();
        return;
    }
    for notification in batch.notifications(ffi::now()) {
        // JSON holds no NUL: serde escapes control characters.
        if let Ok(payload) = CString::new(notification.payload) {
            ffi::notify(notification.channel, &payload);
        }
    }
}

/// NOTIFY would make PREPARE TRANSACTION fail (commands/async.c, AtPrepare_Notify), and COMMIT
/// PREPARED may run in another session: the wake-up is left out, aloud.
pub(crate) fn set_aside(batch: &Batch) {
    let queues = batch
        .tallies()
        .map(|(route, _)| route.queue.to_string_lossy().into_owned());
    Warning::PreparedTransaction {
        queues: queues.collect(),
    }
    .report();
}

fn warn_full() {
    thread_local! {
        static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    if LAST.get().is_none_or(|last| last.elapsed() >= WARN_EVERY) {
        LAST.set(Some(Instant::now()));
        Warning::NotifyQueueFull.report();
    }
}
