//! Signals and timers of our own processes.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use aimq_core::shared::Seat;
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;

use crate::ffi::{self, raw};

/// Handles SIGTERM and SIGHUP as Postgres' own processes do, and SIGINT only where it is heeded; lets signals in.
pub(crate) fn handle() {
    // SAFETY: Postgres' own handlers, installed before signals are let in.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        use pg_sys::pqsignal;
        #[cfg(feature = "pg18")]
        use pg_sys::pqsignal_be as pqsignal;
        pqsignal(pg_sys::SIGTERM as c_int, Some(raw::die));
        pqsignal(pg_sys::SIGHUP as c_int, Some(raw::SignalHandlerForConfigReload));
        pqsignal(pg_sys::SIGINT as c_int, Some(on_cancel));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Whether a cancel is heeded; see [`heed_cancels`].
static IS_HEEDED: AtomicBool = AtomicBool::new(false);

/// A cancel is heeded from here on, or not any more: it raises, and where nobody catches that, the process ends.
/// To hold cancels as HOLD_CANCEL_INTERRUPTS does it (miscadmin.h) would not do: one that comes within ProcessInterrupts
/// (tcop/postgres.c), after that was asked, raises all the same.
pub(crate) fn heed_cancels(is_heeded: bool) {
    IS_HEEDED.store(is_heeded, Ordering::SeqCst);
    if !is_heeded {
        // SAFETY: a plain variable, which no handler sets from here on.
        unsafe { pg_sys::QueryCancelPending = 0 };
    }
}

/// Runs in a signal handler: it does no more than Postgres' own does (tcop/postgres.c, StatementCancelHandler). The
/// timeouts of a query come this way too.
unsafe extern "C-unwind" fn on_cancel(_signal: c_int) {
    keeping_errno(|| {
        if IS_HEEDED.load(Ordering::SeqCst) {
            // SAFETY: plain variables of this process.
            unsafe {
                pg_sys::QueryCancelPending = 1;
                pg_sys::InterruptPending = 1;
            }
        }
        // SAFETY: this process's own latch.
        unsafe { raw::SetLatch(pg_sys::MyLatch) };
    });
}

/// What a signal handler does, without a trace in what the interrupted code looks at.
fn keeping_errno(work: impl FnOnce()) {
    // SAFETY: this thread's own errno.
    #[cfg(target_os = "linux")]
    let errno = unsafe { *libc::__errno_location() };
    work();
    // SAFETY: as above.
    #[cfg(target_os = "linux")]
    unsafe {
        *libc::__errno_location() = errno;
    }
}

/// The process that asked this one to end, if it was not the postmaster; see [`handle_politely`].
static ASKED_BY: AtomicI32 = AtomicI32::new(0);

thread_local! {
    /// The work that runs now can be given up for that.
    static MAY_BE_CUT: Cell<bool> = const { Cell::new(false) };
}

/// The same, but a process that is not the postmaster only asks: [`who_asked`]. A session that wants a database for
/// itself asks each 100 ms, for 5 s, and in vain as long as others are connected (storage/ipc/procarray.c,
/// CountOtherDBBackends). Then leaving would gain nothing.
pub(crate) fn handle_politely() {
    handle();
    // SAFETY: a handler that does nothing but what Postgres' own do.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_terminate as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGTERM, &raw const action, std::ptr::null_mut());
    }
}

/// The process that asked this one to end, which is forgotten; 0 for none.
pub(crate) fn who_asked() -> i32 {
    ASKED_BY.swap(0, Ordering::SeqCst)
}

/// Runs in a signal handler: it does no more than Postgres' own handlers do (tcop/postgres.c, die).
extern "C" fn on_terminate(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: plain variables of this process, and a latch; `info` is what the kernel hands over.
    keeping_errno(|| unsafe {
        let sender = if info.is_null() { 0 } else { (*info).si_pid() };
        if sender == 0 || sender == pg_sys::PostmasterPid {
            pg_sys::ProcDiePending = 1;
            pg_sys::InterruptPending = 1;
        } else {
            ASKED_BY.store(sender, Ordering::SeqCst);
            if MAY_BE_CUT.get() {
                pg_sys::QueryCancelPending = 1;
                pg_sys::InterruptPending = 1;
            }
        }
        raw::SetLatch(pg_sys::MyLatch);
    });
}

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
            MAY_BE_CUT.set(false);
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
    MAY_BE_CUT.set(true);
    // SAFETY: it is registered.
    unsafe { raw::enable_timeout_after(timeout, ALIVE_EVERY) };
    if ASKED_BY.load(Ordering::SeqCst) != 0 {
        // SAFETY: plain variables.
        unsafe {
            pg_sys::QueryCancelPending = 1;
            pg_sys::InterruptPending = 1;
        }
    }
    work()
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
