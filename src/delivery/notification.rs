//! Delivery inside the user's transaction: `pg_notify` at PRE_COMMIT.
//!
//! What it costs: Postgres lets notifying transactions commit one at a time, server-wide
//! (commands/async.c, PreCommit_Notify).

use std::cell::Cell;
use std::ffi::CStr;
use std::time::{Duration, Instant};

use aimq_core::batch::Batch;
use aimq_core::memory::{OutOfMemory, push};
use aimq_core::route::RouteKey;

use crate::error::Warning;
use crate::pg::{ffi, notify, text};

/// The least time between two warnings about a full queue from one backend.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Announces the whole batch, or only the routes that are named.
pub(crate) fn announce(batch: &Batch, only: Option<&[RouteKey]>) -> Result<(), OutOfMemory> {
    if !notify::has_room() {
        warn_full();
        return Ok(());
    }
    let now = ffi::now();
    text::prepare();
    let notifications = batch.notifications_of(now, |route| {
        route.options().notifies && only.is_none_or(|only| only.iter().any(|key| route.is_key(key)))
    })?;
    for notification in notifications {
        // JSON holds no NUL: serde escapes control characters.
        let mut payload = text::payload(notification.payload)?;
        push(&mut payload, 0)?;
        if let Ok(payload) = CStr::from_bytes_with_nul(&payload) {
            notify::send(notification.channel, payload);
        }
    }
    // Transactions that notify commit one at a time, and wait for each other as for any lock: a
    // producer's lock_timeout, meant for its own tables, would make its enqueue fail.
    notify::suspend_lock_timeout();
    Ok(())
}

/// The transaction has ended, one way or the other.
pub(crate) fn end() {
    notify::resume_lock_timeout();
}

/// NOTIFY would make PREPARE TRANSACTION fail (commands/async.c, AtPrepare_Notify), and COMMIT
/// PREPARED may run in another session. So the wake-up is left out, with a WARNING. `lacks_slot`: a notifier would send
/// it, but there is no background worker slot for one.
pub(crate) fn warn_of_prepared(batch: &Batch, lacks_slot: bool) -> Result<(), OutOfMemory> {
    let mut queues = Vec::new();
    for told in batch.tallies() {
        push(&mut queues, text::from_server(told?.0.queue.to_bytes()))?;
    }
    Warning::PreparedTransaction { queues: queues.join(", "), lacks_slot }.report();
    Ok(())
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
