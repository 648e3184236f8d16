//! Signals of our own processes.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use pgrx::pg_sys;

use super::ffi::raw;

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
            cancel();
        }
        // SAFETY: this process's own latch.
        unsafe { raw::SetLatch(pg_sys::MyLatch) };
    });
}

/// Has what runs given up at the next place where that can be done.
fn cancel() {
    // SAFETY: plain variables of this process.
    unsafe {
        pg_sys::QueryCancelPending = 1;
        pg_sys::InterruptPending = 1;
    }
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

/// Asks a process of ours to end.
pub(crate) fn terminate(pid: u32) {
    // SAFETY: sends a signal.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
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
                cancel();
            }
        }
        raw::SetLatch(pg_sys::MyLatch);
    });
}

/// Runs `work`, which what asks this process to end cuts short.
pub(super) fn cut_short<T>(work: impl FnOnce() -> T) -> T {
    struct Cut;
    impl Drop for Cut {
        fn drop(&mut self) {
            MAY_BE_CUT.set(false);
        }
    }
    let _cut = Cut;
    MAY_BE_CUT.set(true);
    if ASKED_BY.load(Ordering::SeqCst) != 0 {
        cancel();
    }
    work()
}
