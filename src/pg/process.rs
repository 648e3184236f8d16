//! What a process of Postgres does: transactions, sleeps, its latch, what others see of it.

use std::cell::Cell;
use std::ffi::CStr;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use aimq_core::memory::OutOfMemory;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::passed_on;
use super::signals;

/// An error that was caught.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) sqlstate: i32,
    pub(crate) message: String,
}

impl Failure {
    /// Whether the work did not cause it: the work was given up for something else, or did not get a lock in time.
    pub(crate) fn is_cut(&self) -> bool {
        self.is(PgSqlErrorCode::ERRCODE_QUERY_CANCELED)
            || self.is(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE)
    }

    /// Whether it is this one.
    pub(crate) fn is(&self, code: PgSqlErrorCode) -> bool {
        self.sqlstate == code as i32
    }
}

impl From<OutOfMemory> for Failure {
    fn from(failure: OutOfMemory) -> Self {
        let sqlstate = PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY as i32;
        Self { sqlstate, message: failure.to_string() }
    }
}

thread_local! {
    /// A transaction has run since this was asked last.
    static HAD_TRANSACTION: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` in a transaction of its own. An error is caught, and the transaction is aborted. Holds no
/// snapshot when it returns. It may have taken a wake-up: see [`had_transaction`]. Here alone a cancel is heeded.
pub(crate) fn transaction<T>(
    work: impl FnOnce() -> T + UnwindSafe + RefUnwindSafe,
) -> Result<T, Failure> {
    HAD_TRANSACTION.set(true);
    // SAFETY: a plain variable, set back where an error is caught: then nothing on it is to hear of other errors.
    let context = unsafe { pg_sys::error_context_stack };
    PgTryBuilder::new(move || {
        passed_on::whole(|| {
            // SAFETY: no transaction is open, and this one ends below or in the abort.
            unsafe {
                pg_sys::SetCurrentStatementStartTimestamp();
                signals::heed_cancels(true);
                pg_sys::StartTransactionCommand();
                let done = work();
                pg_sys::CommitTransactionCommand();
                signals::heed_cancels(false);
                Ok(done)
            }
        })
    })
    .catch_others(|error| {
        signals::heed_cancels(false);
        let (CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. }) = error;
        let failure = Failure {
            sqlstate: passed_on::take_sqlstate().unwrap_or(report.sql_error_code() as i32),
            message: report.message().to_owned(),
        };
        // SAFETY: the error was copied; aborting releases what the transaction held.
        unsafe {
            pg_sys::error_context_stack = context;
            pg_sys::AbortCurrentTransaction();
        }
        Err(failure)
    })
    .execute()
}

/// How long this process has taken a processor, in microseconds.
pub(crate) fn processor_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer. Should there be no such clock, it stays 0.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    let part = |part: i64| u64::try_from(part).unwrap_or(0);
    part(time.tv_sec) * 1_000_000 + part(time.tv_nsec) / 1000
}

/// Sleeps until the latch is set, or for `limit`. Does not return if the postmaster is gone.
pub(crate) fn sleep(limit: Option<Duration>, event: u32) {
    use pg_sys::{WL_EXIT_ON_PM_DEATH, WL_LATCH_SET, WL_TIMEOUT};
    let (flags, millis) = match limit {
        None => (WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1),
        // Rounded up: a moment too early would be a wake-up in vain.
        Some(limit) => {
            let millis = limit.as_micros().div_ceil(1000);
            let millis = i64::try_from(millis).unwrap_or(i64::MAX).min(i64::from(i32::MAX));
            (WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT, millis)
        }
    };
    // SAFETY: this process's own latch.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, flags as i32, millis, event);
    }
}

/// A session's sleep, which ends as it would in a server function of Postgres' own: it may raise, or end the
/// session. Whatever the latch was set for is to be looked at afterwards.
pub(crate) fn nap(limit: Option<Duration>, event: u32) {
    // SAFETY: gives the catalogs' snapshot back, if it is the only one that there is (utils/time/snapmgr.c).
    unsafe { pg_sys::InvalidateCatalogSnapshotConditionally() };
    sleep(limit, event);
    // SAFETY: this process's own latch; nothing here has a destructor.
    unsafe {
        pg_sys::ResetLatch(pg_sys::MyLatch);
        pg_sys::check_for_interrupts!();
    }
}

thread_local! {
    static IS_WAITING: Cell<bool> = const { Cell::new(false) };
}

/// This session is in a call that waits from here on, or not any more. Its transaction may have begun long before its
/// statements do.
pub(crate) fn set_waiting(is_waiting: bool) {
    let _ = IS_WAITING.try_with(|it| it.set(is_waiting));
}

/// Whether this session is in a call that waits.
pub(crate) fn is_waiting() -> bool {
    IS_WAITING.get()
}

/// Whether there was a transaction since the last time that this was asked. A wait in a transaction (above all for a
/// lock: the wait for that of NOTIFY may be long) sleeps on this process's latch and resets it (storage/lmgr/proc.c,
/// ProcSleep). It does so no matter who has set the latch meanwhile, and why. So after a transaction a main loop takes
/// another round before it sleeps.
pub(crate) fn had_transaction() -> bool {
    HAD_TRANSACTION.replace(false)
}

/// Whether somebody has set this process's latch.
pub(crate) fn is_rung() -> bool {
    // SAFETY: a plain variable of this process's latch.
    unsafe { (*pg_sys::MyLatch).is_set != 0 }
}

/// To be called first in every round of a main loop: a process that wants something later sets the latch again.
/// True if the process is to end.
pub(crate) fn begin_round() -> bool {
    // SAFETY: plain variables that signal handlers set, and this process's own latch.
    unsafe {
        pg_sys::ResetLatch(pg_sys::MyLatch);
        if pg_sys::ProcDiePending != 0 {
            return true;
        }
        // There is nothing to cancel now.
        pg_sys::QueryCancelPending = 0;
        pg_sys::check_for_interrupts!();
        // Others wait for us to read the news of the catalogs (storage/ipc/sinval.c).
        if pg_sys::catchupInterruptPending != 0 {
            pg_sys::ProcessCatchupInterrupt();
        }
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
        false
    }
}

/// The wait event that `pg_stat_activity` shows. Before PostgreSQL 17, extensions have none of their own.
pub(crate) fn wait_event(name: &CStr) -> u32 {
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: the name is copied.
    unsafe {
        pg_sys::WaitEventExtensionNew(name.as_ptr())
    }
    #[cfg(not(any(feature = "pg17", feature = "pg18")))]
    {
        let _ = name;
        pg_sys::PG_WAIT_EXTENSION
    }
}

/// Sets a setting of this process.
pub(crate) fn set(name: &CStr, value: &CStr) {
    // SAFETY: both are copied; the process is connected.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// Says in `pg_stat_activity` whether the process works.
pub(crate) fn show_activity(state: pg_sys::BackendState::Type, activity: Option<&CStr>) {
    // SAFETY: the text is copied.
    unsafe {
        pg_sys::pgstat_report_activity(state, activity.map_or(std::ptr::null(), CStr::as_ptr));
    }
}

/// This process takes the place that `pid` stands for. False if another living process has it.
pub(crate) fn take_seat(pid: &AtomicU32) -> bool {
    let own = own_pid();
    loop {
        let other = pid.load(Ordering::SeqCst);
        // SAFETY: asks whether there is such a process with an entry among Postgres' own.
        let lives = other != 0
            && other != own
            && unsafe { !pg_sys::BackendPidGetProc(other.cast_signed()).is_null() };
        if lives {
            return false;
        }
        if pid.compare_exchange(other, own, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return true;
        }
    }
}

/// This process.
pub(crate) fn own_pid() -> u32 {
    // SAFETY: a plain variable.
    unsafe { pg_sys::MyProcPid }.cast_unsigned()
}

/// Whether the server has background workers at all (`max_worker_processes`).
pub(crate) fn may_have_workers() -> bool {
    // SAFETY: a plain variable.
    unsafe { pg_sys::max_worker_processes > 0 }
}

/// Whether the server is a standby, or has not recovered yet.
pub(crate) fn is_in_recovery() -> bool {
    // SAFETY: asks the state of the server.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Whether this is the postmaster, which is about to load what is preloaded.
pub(crate) fn is_preloading() -> bool {
    // SAFETY: a plain variable.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Has Postgres report settings that begin so and that nobody has defined. In _PG_init.
pub(crate) fn reserve_prefix(prefix: &'static CStr) {
    // SAFETY: a string that lives for ever.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(prefix.as_ptr());
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
    }
}

/// The setting `session_replication_role` of this process.
pub(crate) fn replication_role() -> i32 {
    // SAFETY: a plain variable.
    unsafe { pg_sys::SessionReplicationRole }
}

/// Whether the triggers of an ordinary session don't fire: in the worker that applies a subscription, for instance.
pub(crate) fn is_replica() -> bool {
    replication_role() == pg_sys::SESSION_REPLICATION_ROLE_REPLICA.cast_signed()
}

/// Sends what this process has counted to the statistics, all of it or if it is time. Not in a transaction.
pub(crate) fn report_statistics(all: bool) {
    // SAFETY: as demanded of the caller.
    unsafe { pg_sys::pgstat_report_stat(all) };
}

/// Has Postgres call `work` when this process ends, while the shared memory is still there.
pub(crate) fn at_exit(work: fn()) {
    // SAFETY: a guarded function of this library, which is never unloaded, and the address of another.
    unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(work as usize)) };
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, work: pg_sys::Datum) {
    // SAFETY: what `at_exit` was given.
    let work = unsafe { std::mem::transmute::<*const (), fn()>(work.value() as *const ()) };
    work();
}

/// Connects a background worker to a database, or to none. With `bypass` even if nobody may connect any more.
pub(crate) fn connect(database: Option<u32>, bypass: bool) {
    // SAFETY: in a background worker that asked for a connection.
    unsafe {
        match database {
            None => {
                pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0)
            }
            Some(oid) => pg_sys::BackgroundWorkerInitializeConnectionByOid(
                pg_sys::Oid::from(oid),
                pg_sys::InvalidOid,
                if bypass { pg_sys::BGWORKER_BYPASS_ALLOWCONN } else { 0 },
            ),
        }
    }
}

/// Ends this process in the orderly way.
pub(crate) fn exit(code: i32) -> ! {
    #[allow(unreachable_code, reason = "pgrx knows that it does not return, but on PostgreSQL 18")]
    // SAFETY: the callbacks of the exit run, then the process ends.
    unsafe {
        pg_sys::proc_exit(code);
        std::process::abort()
    }
}

/// Counts a round of a main loop.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
