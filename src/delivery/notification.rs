//! Delivery inside the user's transaction: `pg_notify` at PRE_COMMIT.
//!
//! What it costs: Postgres lets notifying transactions commit one at a time, server-wide
//! (commands/async.c, PreCommit_Notify).

use std::cell::Cell;
use std::ffi::CStr;
use std::time::{Duration, Instant};

use aimq_core::batch::Batch;
use aimq_core::memory::{OutOfMemory, push};
use aimq_core::payload::PAYLOAD_MAX_BYTES;
use aimq_core::route::CHANNEL_MAX_BYTES;
use pgrx::pg_sys;

use crate::error::Warning;
use crate::ffi;
use crate::text;

/// How full the NOTIFY queue may be for us to add to it. When it is full, *every* transaction that
/// notifies fails at commit, so we stop well before: what is left is for sessions that call NOTIFY
/// themselves. At the smallest size that can be set (64 pages, PostgreSQL 17 and later) a quarter is
/// 16 pages of 8 kB. Not guaranteed: that transactions which pass this test at the same moment
/// don't fill the rest together.
const FULL: f64 = 0.75;

const _: () = assert!(
    pg_sys::BLCKSZ - pg_sys::NAMEDATALEN - 128 == PAYLOAD_MAX_BYTES as u32 + 1
        && pg_sys::NAMEDATALEN == CHANNEL_MAX_BYTES as u32 + 1,
    "a PostgreSQL with other sizes: its limits on notifications are not those of aimq-core"
);

/// The least time between two warnings about a full queue from one backend.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// How long an answer about the NOTIFY queue holds, as long as it was far from full: asking takes
/// exclusive lightweight locks and looks at every listener (commands/async.c, asyncQueueAdvanceTail).
const ASK_EVERY: Duration = Duration::from_millis(10);
const FAR_FROM_FULL: f64 = 0.25;

/// Whether a notification may be added now. Called in a transaction.
pub(crate) fn may_notify() -> bool {
    usage() < FULL
}

/// Announces the whole batch, or only the routes that are named.
pub(crate) fn announce(batch: &Batch, only: Option<&[Box<[u8]>]>) -> Result<(), OutOfMemory> {
    if !may_notify() {
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
            ffi::notify(notification.channel, payload);
        }
    }
    // Transactions that notify commit one at a time, and wait for each other as for any lock: a
    // producer's lock_timeout, meant for its own tables, would make its enqueue fail.
    ffi::suspend_lock_timeout();
    Ok(())
}

/// The transaction has ended, one way or the other. Cannot raise.
pub(crate) fn end() {
    ffi::resume_lock_timeout();
}

/// How full the NOTIFY queue is, by an answer that is recent enough.
fn usage() -> f64 {
    thread_local! {
        static LAST: Cell<Option<(Instant, f64)>> = const { Cell::new(None) };
    }
    match LAST.get() {
        Some((at, usage)) if usage < FAR_FROM_FULL && at.elapsed() < ASK_EVERY => usage,
        _ => {
            let usage = ffi::notification_queue_usage();
            LAST.set(Some((Instant::now(), usage)));
            usage
        }
    }
}

/// NOTIFY would make PREPARE TRANSACTION fail (commands/async.c, AtPrepare_Notify), and COMMIT
/// PREPARED may run in another session. So the wake-up is left out, with a WARNING.
pub(crate) fn set_aside(batch: &Batch) -> Result<(), OutOfMemory> {
    let mut queues = Vec::new();
    for told in batch.tallies() {
        push(&mut queues, text::from_server(told?.0.queue.to_bytes()))?;
    }
    Warning::PreparedTransaction { queues: queues.join(", ") }.report();
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
