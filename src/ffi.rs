//! The few functions of Postgres that pgrx does not bind, or binds with a guard that the hot path
//! need not pay: each beside its safe wrapper, with the reason.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int};

use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;

mod raw {
    use super::*;

    // Not in pgrx's bindings. Raises, so it is called under a guard only.
    unsafe extern "C-unwind" {
        pub(super) fn Async_Notify(channel: *const c_char, payload: *const c_char);
    }

    // In pgrx's bindings, but each call there pays a sigsetjmp, and these run for every row or every
    // commit. None of them raises for the
    // arguments that they get here (access/transam/xact.c, access/common/heaptuple.c,
    // utils/adt/timestamp.c), hence "C": should one ever unwind, Rust aborts instead of going wrong.
    unsafe extern "C" {
        pub(super) fn GetCurrentTransactionNestLevel() -> c_int;
        pub(super) fn heap_attisnull(
            tuple: pg_sys::HeapTuple,
            attribute: c_int,
            descriptor: pg_sys::TupleDesc,
        ) -> bool;
        pub(super) fn nocachegetattr(
            tuple: pg_sys::HeapTuple,
            attribute: c_int,
            descriptor: pg_sys::TupleDesc,
        ) -> pg_sys::Datum;
        pub(super) fn GetCurrentTimestamp() -> i64;
    }
}

/// Queues a notification to be sent at commit: what `pg_notify` does. Raises for a channel that is
/// empty or too long, a payload that is too long, and in parallel workers.
#[allow(ffi_unwind_calls, reason = "this is the guard that turns the error into a panic")]
pub(crate) fn notify(channel: &CStr, payload: &CStr) {
    let (channel, payload) = (channel.as_ptr(), payload.as_ptr());
    // SAFETY: both strings outlive the call, Async_Notify copies them, and nothing in the closure
    // has a destructor.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| raw::Async_Notify(channel, payload)) }
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

/// How full the NOTIFY queue is, from 0 to 1. Takes exclusive lightweight locks and looks at
/// every listener.
pub(crate) fn notification_queue_usage() -> f64 {
    // SAFETY: pg_notification_queue_usage (commands/async.c) takes no arguments and does not look at
    // its call information; it returns a float8.
    unsafe {
        let datum = pgrx::direct_function_call::<f64>(pg_sys::pg_notification_queue_usage, &[]);
        datum.unwrap_or(0.0)
    }
}

/// The nesting level of the current (sub)transaction, from 1.
#[inline]
pub(crate) fn nest_level() -> u32 {
    // SAFETY: reads the backend's own state.
    unsafe { raw::GetCurrentTransactionNestLevel() }.unsigned_abs()
}

/// The time now.
pub(crate) fn now() -> Timestamp {
    // SAFETY: reads the clock.
    Timestamp(unsafe { raw::GetCurrentTimestamp() })
}

/// The value of a `timestamptz` attribute; `None` if it is null.
///
/// # Safety
/// `tuple` must be of `descriptor`, whose attribute `number` (from 1) must be a timestamptz.
#[inline]
pub(crate) unsafe fn timestamp_attribute(
    tuple: pg_sys::HeapTuple,
    number: c_int,
    descriptor: pg_sys::TupleDesc,
) -> Option<Timestamp> {
    // SAFETY: as demanded of the caller; timestamptz is passed by value on the 64-bit platforms that
    // pgrx supports, so the datum is the number.
    unsafe {
        if raw::heap_attisnull(tuple, number, descriptor) {
            return None;
        }
        let datum = raw::nocachegetattr(tuple, number, descriptor);
        Some(Timestamp(datum.value().cast_signed() as i64))
    }
}

/// The attributes of a tuple descriptor. PostgreSQL 18 moved them behind the compact ones
/// (access/tupdesc.h).
///
/// # Safety
/// `descriptor` must point to a valid descriptor that outlives the slice.
#[inline]
pub(crate) unsafe fn attributes<'a>(
    descriptor: pg_sys::TupleDesc,
) -> &'a [pg_sys::FormData_pg_attribute] {
    // SAFETY: as demanded of the caller; the layout is that of access/tupdesc.h.
    unsafe {
        let count = usize::try_from((*descriptor).natts).unwrap_or(0);
        #[cfg(feature = "pg18")]
        let first = (*descriptor).compact_attrs.as_ptr().add(count).cast();
        #[cfg(not(feature = "pg18"))]
        let first = (*descriptor).attrs.as_ptr();
        std::slice::from_raw_parts(first, count)
    }
}
