//! Limits of time for our own processes, and the sign of life of one that waits.

use std::cell::Cell;
use std::ffi::c_int;

use aimq_core::shared::Seat;
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;

use super::ffi::{self, raw};
use super::signals;

/// STATEMENT_TIMEOUT of utils/timeout.h: the fourth, from 14 to 18.
const STATEMENT_TIMEOUT: c_int = 3;

/// Runs `work`, which waits for each lock and takes altogether no longer than this: then it raises, as with
/// lock_timeout and statement_timeout. Times in milliseconds. For processes of our own. `work` is to be a whole
/// transaction: the end of one sets lock_timeout back to what it was at its beginning, if somebody set it in there.
pub(crate) fn within<T>(each_lock: c_int, altogether: c_int, work: impl FnOnce() -> T) -> T {
    struct Limits;
    impl Drop for Limits {
        fn drop(&mut self) {
            // SAFETY: as below; runs also when an error passes as a panic.
            unsafe {
                raw::disable_timeout(STATEMENT_TIMEOUT, false);
                pg_sys::LockTimeout = 0;
                // The timeout may have come when all was done.
                pg_sys::QueryCancelPending = 0;
            }
        }
    }
    let _limits = Limits;
    // SAFETY: a plain variable of this process, read when a wait begins (storage/lmgr/proc.c), and a timeout
    // that InitPostgres registered.
    unsafe {
        pg_sys::LockTimeout = each_lock;
        raw::enable_timeout_after(STATEMENT_TIMEOUT, altogether);
    }
    work()
}

/// USER_TIMEOUT of utils/timeout.h: the first that a library may take.
const USER_TIMEOUT: c_int = if cfg!(feature = "pg14") {
    10
} else if cfg!(any(feature = "pg15", feature = "pg16")) {
    12
} else {
    13
};

thread_local! {
    static LAST_RESORT: Cell<Option<c_int>> = const { Cell::new(None) };
}

/// Ends the process: a cancel can be caught by what runs, this can't.
unsafe extern "C-unwind" fn on_last_resort() {
    // SAFETY: as Postgres' own handler of SIGTERM does (tcop/postgres.c, die).
    unsafe {
        pg_sys::ProcDiePending = 1;
        pg_sys::InterruptPending = 1;
        raw::SetLatch(pg_sys::MyLatch);
    }
}

/// Runs `work`; should it still run after `millis`, this process ends. For processes of our own.
pub(crate) fn or_end_within<T>(millis: c_int, work: impl FnOnce() -> T) -> T {
    struct Limit(c_int);
    impl Drop for Limit {
        fn drop(&mut self) {
            // SAFETY: only stops a timer.
            unsafe { raw::disable_timeout(self.0, false) };
        }
    }
    // SAFETY: a function of this library, which is never unloaded; there is room for ten of these, and we take one.
    let timeout = LAST_RESORT
        .get()
        .unwrap_or_else(|| unsafe { raw::RegisterTimeout(USER_TIMEOUT, Some(on_last_resort)) });
    LAST_RESORT.set(Some(timeout));
    let _limit = Limit(timeout);
    // SAFETY: it is registered.
    unsafe { raw::enable_timeout_after(timeout, millis) };
    work()
}

/// How often a process shows that it runs while it waits for others.
const ALIVE_EVERY: c_int = 300;

thread_local! {
    static ALIVE: Cell<Option<c_int>> = const { Cell::new(None) };
    /// Whose life is shown, and until when at most.
    static SHOWN: Cell<Option<(&'static Seat, Timestamp)>> = const { Cell::new(None) };
}

/// In a signal handler: a store, and the next timer.
unsafe extern "C-unwind" fn on_alive() {
    if let Some((seat, until)) = SHOWN.get() {
        let now = ffi::now();
        if now < until {
            seat.works(now);
            if let Some(timeout) = ALIVE.get() {
                // SAFETY: it is registered. Handlers run with the timers' own signal blocked (utils/misc/timeout.c).
                unsafe { raw::enable_timeout_after(timeout, ALIVE_EVERY) };
            }
        }
    }
}

/// Runs `work`, which may wait for others: meanwhile `seat` shows that this process runs, for `at_most`. A process that
/// is stopped shows nothing. What asks it to end cuts the work short.
pub(crate) fn while_alive<T>(
    seat: &'static Seat,
    at_most: Timestamp,
    work: impl FnOnce() -> T,
) -> T {
    struct Shown(c_int);
    impl Drop for Shown {
        fn drop(&mut self) {
            SHOWN.set(None);
            // SAFETY: only stops a timer.
            unsafe { raw::disable_timeout(self.0, false) };
        }
    }
    // SAFETY: a function of this library, which is never unloaded; there is room for ten of these, and we take two.
    let timeout = ALIVE
        .get()
        .unwrap_or_else(|| unsafe { raw::RegisterTimeout(USER_TIMEOUT, Some(on_alive)) });
    ALIVE.set(Some(timeout));
    let _shown = Shown(timeout);
    SHOWN.set(Some((seat, at_most)));
    // SAFETY: it is registered.
    unsafe { raw::enable_timeout_after(timeout, ALIVE_EVERY) };
    signals::cut_short(work)
}

/// Runs `work`, a whole transaction, in which each wait for a lock takes no longer than this, in milliseconds; 0 for no
/// limit.
pub(crate) fn with_lock_timeout<T>(millis: c_int, work: impl FnOnce() -> T) -> T {
    struct Limit;
    impl Drop for Limit {
        fn drop(&mut self) {
            // SAFETY: a plain variable of this process.
            unsafe { pg_sys::LockTimeout = 0 };
        }
    }
    let _limit = Limit;
    // SAFETY: a plain variable of this process, read when a wait begins (storage/lmgr/proc.c).
    unsafe { pg_sys::LockTimeout = millis };
    work()
}
