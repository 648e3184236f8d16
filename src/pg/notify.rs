//! NOTIFY: its queue, and the lock that transactions which notify commit under.

use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::time::{Duration, Instant};

use aimq_core::payload::PAYLOAD_MAX_BYTES;
use aimq_core::route::CHANNEL_MAX_BYTES;
use pgrx::pg_sys;

use super::ffi::raw;

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

/// How long an answer about the NOTIFY queue holds, as long as it was far from full: asking takes
/// exclusive lightweight locks and looks at every listener (commands/async.c, asyncQueueAdvanceTail).
const ASK_EVERY: Duration = Duration::from_millis(10);
const FAR_FROM_FULL: f64 = 0.25;

/// Queues a notification to be sent at commit: what `pg_notify` does. Raises for a channel that is
/// empty or too long, a payload that is too long, and in parallel workers.
#[allow(ffi_unwind_calls, reason = "this is the guard that turns the error into a panic")]
pub(crate) fn send(channel: &CStr, payload: &CStr) {
    let (channel, payload) = (channel.as_ptr(), payload.as_ptr());
    // SAFETY: both strings outlive the call, Async_Notify copies them, and nothing in the closure
    // has a destructor.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| raw::Async_Notify(channel, payload)) }
}

/// Whether a notification may be added now. Called in a transaction.
pub(crate) fn has_room() -> bool {
    usage() < FULL
}

/// How full the NOTIFY queue is, by an answer that is recent enough.
fn usage() -> f64 {
    thread_local! {
        static LAST: Cell<Option<(Instant, f64)>> = const { Cell::new(None) };
    }
    match LAST.get() {
        Some((at, usage)) if usage < FAR_FROM_FULL && at.elapsed() < ASK_EVERY => usage,
        _ => {
            let usage = notification_queue_usage();
            LAST.set(Some((Instant::now(), usage)));
            usage
        }
    }
}

/// How full the NOTIFY queue is, from 0 to 1. Takes exclusive lightweight locks and looks at
/// every listener.
fn notification_queue_usage() -> f64 {
    // SAFETY: pg_notification_queue_usage (commands/async.c) takes no arguments and does not look at
    // its call information; it returns a float8.
    unsafe {
        let datum = pgrx::direct_function_call::<f64>(pg_sys::pg_notification_queue_usage, &[]);
        datum.unwrap_or(0.0)
    }
}

thread_local! {
    /// The session's lock_timeout while it is suspended.
    static LOCK_TIMEOUT: Cell<Option<c_int>> = const { Cell::new(None) };
}

/// Lets the rest of this transaction wait for locks without lock_timeout. The variable is set, not the
/// setting: that takes no memory, cannot raise, and is undone by [`resume_lock_timeout`] before
/// Postgres ends the transaction's settings (access/transam/xact.c).
pub(crate) fn suspend_lock_timeout() {
    // SAFETY: a plain variable of this backend, read when a wait begins (storage/lmgr/proc.c).
    unsafe {
        if LOCK_TIMEOUT.get().is_none() && pg_sys::LockTimeout > 0 {
            LOCK_TIMEOUT.set(Some(pg_sys::LockTimeout));
            pg_sys::LockTimeout = 0;
        }
    }
}

/// Undoes [`suspend_lock_timeout`]. Cannot raise.
pub(crate) fn resume_lock_timeout() {
    if let Some(timeout) = LOCK_TIMEOUT.take() {
        // SAFETY: as above.
        unsafe { pg_sys::LockTimeout = timeout };
    }
}
