//! The few functions of Postgres that pgrx does not bind, or binds with a guard that the hot path
//! need not pay: each beside its safe wrapper, with the reason.

use std::ffi::{CStr, c_char, c_int};

use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::prelude::*;

pub(crate) mod raw {
    use super::*;

    // Not in pgrx's bindings. Raises, so it is called under a guard only.
    unsafe extern "C-unwind" {
        pub(crate) fn Async_Notify(channel: *const c_char, payload: *const c_char);
    }

    // In pgrx's bindings, but each call there pays a sigsetjmp, and these run for every row or every
    // commit. None of them raises for the
    // arguments that they get here (access/transam/xact.c, access/common/heaptuple.c,
    // utils/adt/timestamp.c), hence "C": should one ever unwind, Rust aborts instead of going wrong.
    unsafe extern "C" {
        pub(crate) fn GetCurrentTransactionNestLevel() -> c_int;
        pub(crate) fn heap_attisnull(
            tuple: pg_sys::HeapTuple,
            attribute: c_int,
            descriptor: pg_sys::TupleDesc,
        ) -> bool;
        pub(crate) fn nocachegetattr(
            tuple: pg_sys::HeapTuple,
            attribute: c_int,
            descriptor: pg_sys::TupleDesc,
        ) -> pg_sys::Datum;
        pub(crate) fn GetCurrentTimestamp() -> i64;
        pub(crate) fn GetCurrentTransactionStartTimestamp() -> i64;
        pub(crate) fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
        pub(crate) fn GetCurrentTransactionIdIfAny() -> pg_sys::TransactionId;
        pub(crate) fn bms_is_member(member: c_int, set: *const pg_sys::Bitmapset) -> bool;
        // Never raises (storage/ipc/latch.c), so it may be called after a commit.
        pub(crate) fn SetLatch(latch: *mut pg_sys::Latch);
    }

    // What `ereport` is made of (utils/elog.h). Not in pgrx's bindings either.
    unsafe extern "C-unwind" {
        pub(super) fn errstart(level: c_int, domain: *const c_char) -> bool;
        pub(crate) fn errcode(code: c_int) -> c_int;
        pub(crate) fn errmsg_internal(format: *const c_char, ...) -> c_int;
        pub(crate) fn errdetail_internal(format: *const c_char, ...) -> c_int;
        pub(crate) fn errdetail_log(format: *const c_char, ...) -> c_int;
        pub(crate) fn errhint(format: *const c_char, ...) -> c_int;
        pub(crate) fn errcontext_msg(format: *const c_char, ...) -> c_int;
        pub(super) fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
    }

    // What a context callback may ask of the error that is being raised, and say of it. In pgrx's bindings, whose guard
    // would make a panic of what they raise, in a function that Postgres calls.
    unsafe extern "C-unwind" {
        pub(crate) fn geterrcode() -> c_int;
        pub(crate) fn CopyErrorData() -> *mut pg_sys::ErrorData;
        pub(crate) fn FreeErrorData(data: *mut pg_sys::ErrorData);
        pub(crate) fn set_errcontext_domain(domain: *const c_char) -> c_int;
        pub(crate) fn internalerrposition(position: c_int) -> c_int;
        pub(crate) fn internalerrquery(query: *const c_char) -> c_int;
        pub(crate) fn err_generic_string(field: c_int, value: *const c_char) -> c_int;
    }

    // A setting that pgrx does not bind.
    unsafe extern "C" {
        pub(crate) static max_prepared_xacts: c_int;
    }

    // The timeouts of a query, which a background worker has to set by itself. They only set timers.
    unsafe extern "C" {
        pub(crate) fn enable_timeout_after(timeout: c_int, millis: c_int);
        pub(crate) fn disable_timeout(timeout: c_int, keep_indicator: bool);
        pub(crate) fn RegisterTimeout(
            timeout: c_int,
            handler: Option<unsafe extern "C-unwind" fn()>,
        ) -> c_int;
    }

    // Signal handlers, whose addresses pgrx's guarded functions don't have.
    unsafe extern "C-unwind" {
        pub(crate) fn die(signal: c_int);
        pub(crate) fn SignalHandlerForConfigReload(signal: c_int);
    }
}

/// Raises an error with message, detail and hint. Rust allocates nothing for it, unlike in pgrx's own way. Postgres
/// keeps 8 kB in reserve for that (utils/mmgr/mcxt.c, ErrorContext).
///
/// # Safety
/// The error passes through the frames up to the one that Postgres called: outside of a guard, and there must be
/// nothing to drop in them.
#[allow(ffi_unwind_calls, reason = "as demanded of the caller")]
#[cold]
pub(crate) unsafe fn raise(code: PgSqlErrorCode, [message, detail, hint]: [&'static CStr; 3]) -> ! {
    // SAFETY: as the macro ereport does it, with strings that live for ever.
    unsafe {
        if raw::errstart(PgLogLevel::ERROR as c_int, std::ptr::null()) {
            raw::errcode(code as c_int);
            raw::errmsg_internal(c"%s".as_ptr(), message.as_ptr());
            raw::errdetail_internal(c"%s".as_ptr(), detail.as_ptr());
            raw::errhint(c"%s".as_ptr(), hint.as_ptr());
            raw::errfinish(c"aimq".as_ptr(), 0, std::ptr::null());
        }
    }
    // Not a panic, for which memory is needed. It is never reached: an ERROR is always raised.
    std::process::abort()
}

/// Calls Supabase's `realtime.send(payload jsonb, event text, topic text, private boolean)`, by its OID, because others
/// may give its name to another function meanwhile. In a transaction, with a snapshot. Raises what it raises.
#[allow(ffi_unwind_calls, reason = "under a guard of its own")]
pub(crate) fn call_send(function: pg_sys::Oid, payload: &CStr, event: &CStr, topic: &CStr) {
    use pg_sys::{Datum, FunctionCallInfoBaseData, NullableDatum};
    // SAFETY: the strings outlive the calls, which copy them; the arguments are of the types that the function has. Not
    // by OidFunctionCall4, which raises for null, and null is what some return for void.
    unsafe {
        let text = |part: &CStr| Datum::from(pg_sys::cstring_to_text(part.as_ptr()));
        let json = [Some(Datum::from(payload.as_ptr()))];
        let json = pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &json);
        let arguments =
            [json.unwrap_or(Datum::null()), text(event), text(topic), Datum::from(false)];
        let mut info: pg_sys::FmgrInfo = std::mem::zeroed();
        pg_sys::fmgr_info(function, &mut info);
        let size =
            size_of::<FunctionCallInfoBaseData>() + arguments.len() * size_of::<NullableDatum>();
        let call = pg_sys::palloc0(size).cast::<FunctionCallInfoBaseData>();
        (*call).flinfo = &raw mut info;
        (*call).fncollation = pg_sys::DEFAULT_COLLATION_OID;
        (*call).nargs = arguments.len() as i16;
        let places = (*call).args.as_mut_slice(arguments.len());
        for (place, value) in places.iter_mut().zip(arguments) {
            place.value = value;
        }
        if let Some(address) = info.fn_addr {
            pg_sys::ffi::pg_guard_ffi_boundary(|| address(call));
        }
    }
}

/// Gives back the advisory locks of this process: those of a session outlive the transaction in which somebody else's
/// code took them.
pub(crate) fn release_advisory_locks() {
    // SAFETY: as pg_advisory_unlock_all (utils/adt/lockfuncs.c).
    unsafe { pg_sys::LockReleaseAll(pg_sys::USER_LOCKMETHOD as pg_sys::LOCKMETHODID, true) }
}

/// Sets a latch, given by its address. Cannot raise.
pub(crate) fn set_latch(address: u64) {
    // SAFETY: the address was [`own_latch`] of some process: a latch of the array of processes, which lies
    // in memory that the postmaster mapped before it started anybody, and stays. If that process has
    // gone, the process that has its place wakes up once for nothing.
    unsafe { raw::SetLatch(address as *mut pg_sys::Latch) }
}

/// Lets a session end this process if it wants the database for itself: DROP DATABASE, ALTER DATABASE and CREATE
/// DATABASE … TEMPLATE send SIGTERM to processes with this flag, wait until they are gone, and go on
/// (storage/ipc/procarray.c, CountOtherDBBackends). A session that waits for a lock of ours may cancel what we do,
/// which a notifier survives; CREATE INDEX CONCURRENTLY does not wait for our snapshots (commands/indexcmds.c), of
/// which we keep none. The flag is autovacuum's, and vacuum has flags of its own.
///
/// DROP DATABASE … WITH (FORCE) asks whether the role that runs it may end the process. The database's owner
/// may (TerminateOtherDBBackends, same file).
pub(crate) fn give_way(owner: pg_sys::Oid) {
    // SAFETY: as in commands/vacuum.c: this process's own flags and their copy, under the lock that
    // guards the copy. ProcArrayLock is number 4 of the main array (storage/lwlocknames.h, 14 to 18).
    unsafe {
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(4)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        (*pg_sys::MyProc).roleId = owner;
        (*pg_sys::MyProc).statusFlags |= pg_sys::PROC_IS_AUTOVACUUM as u8;
        let at = (*pg_sys::MyProc).pgxactoff as usize;
        *(*pg_sys::ProcGlobal).statusFlags.add(at) = (*pg_sys::MyProc).statusFlags;
        pg_sys::LWLockRelease(lock);
    }
}

/// The address of this process's latch: the same in every process.
pub(crate) fn own_latch() -> u64 {
    // SAFETY: a plain variable.
    unsafe { pg_sys::MyLatch as u64 }
}

/// Whether this server allows transactions to be prepared.
pub(crate) fn may_prepare_transactions() -> bool {
    // SAFETY: a plain variable, set when the server starts.
    unsafe { raw::max_prepared_xacts > 0 }
}

/// The time now.
pub(crate) fn now() -> Timestamp {
    // SAFETY: reads the clock.
    Timestamp(unsafe { raw::GetCurrentTimestamp() })
}
