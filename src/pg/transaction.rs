//! What Postgres says of transactions and savepoints, and what can be asked of the current one.

use std::cell::Cell;
use std::ffi::c_void;

use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::pgrx_extern_c_guard;

use super::ffi::raw;
use super::function::{Refusal, guarded};

/// What is about to happen to a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Deferred triggers have run, and async.c sends what is pending after this (access/transam/xact.c,
    /// CommitTransaction).
    Commit,
    Prepare,
}

/// How a transaction has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Committed,
    Prepared,
    Aborted,
    /// The part of a parallel worker has ended.
    PartEnded,
}

/// What Postgres is to call. Only what comes before the end may refuse: no other returns an error.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Callbacks<E> {
    /// A transaction is about to end.
    pub(crate) before: fn(Before) -> Result<(), E>,
    /// It has ended.
    pub(crate) after: fn(End),
    /// A savepoint of this level was released.
    pub(crate) released: fn(u32),
    /// A savepoint of this level was rolled back.
    pub(crate) rolled_back: fn(u32),
}

/// Has Postgres call them. To be called once in a backend.
pub(crate) fn register<E: Refusal>(callbacks: &'static Callbacks<E>) {
    let argument = std::ptr::from_ref(callbacks).cast_mut().cast();
    // SAFETY: guarded functions of this library, which Postgres never unloads; the callbacks live for ever.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_transaction::<E>), argument);
        pg_sys::RegisterSubXactCallback(Some(on_subtransaction::<E>), argument);
    }
}

unsafe extern "C-unwind" fn on_transaction<E: Refusal>(
    event: pg_sys::XactEvent::Type,
    callbacks: *mut c_void,
) {
    use pg_sys::XactEvent as On;
    // SAFETY: what it was registered with.
    let callbacks = unsafe { &*callbacks.cast_const().cast::<Callbacks<E>>() };
    // SAFETY: Postgres calls this, and there is nothing to drop.
    let before = |what| unsafe { guarded(|| (callbacks.before)(what)) };
    // SAFETY: the same.
    let after = |end| unsafe { pgrx_extern_c_guard(|| (callbacks.after)(end)) };
    match event {
        On::XACT_EVENT_PRE_COMMIT => before(Before::Commit),
        On::XACT_EVENT_PRE_PREPARE => before(Before::Prepare),
        On::XACT_EVENT_PARALLEL_PRE_COMMIT => (),
        On::XACT_EVENT_COMMIT => after(End::Committed),
        On::XACT_EVENT_PREPARE => after(End::Prepared),
        On::XACT_EVENT_ABORT => after(End::Aborted),
        _ => after(End::PartEnded),
    }
}

unsafe extern "C-unwind" fn on_subtransaction<E: Refusal>(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    callbacks: *mut c_void,
) {
    use pg_sys::SubXactEvent as On;
    // SAFETY: what it was registered with.
    let callbacks = unsafe { &*callbacks.cast_const().cast::<Callbacks<E>>() };
    let call = match event {
        On::SUBXACT_EVENT_COMMIT_SUB => callbacks.released,
        On::SUBXACT_EVENT_ABORT_SUB => callbacks.rolled_back,
        _ => return,
    };
    // xact.c calls this while the subtransaction that ends is still the current one.
    // SAFETY: Postgres calls this, and there is nothing to drop.
    unsafe { pgrx_extern_c_guard(|| call(nest_level())) }
}

thread_local! {
    static ON_LOCKS_RELEASED: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Has Postgres call `work` when a transaction has ended, its locks are given back, and its changes of the catalogs are
/// known to all. To be called once in a backend. `work` must neither raise nor allocate.
pub(crate) fn after_locks(work: fn()) {
    ON_LOCKS_RELEASED.set(Some(work));
    // SAFETY: the callback is a function of this library, which is never unloaded.
    unsafe { pg_sys::RegisterResourceReleaseCallback(Some(on_release), std::ptr::null_mut()) };
}

/// Without a guard, because `work` neither raises nor panics.
unsafe extern "C-unwind" fn on_release(
    phase: pg_sys::ResourceReleasePhase::Type,
    _is_commit: bool,
    is_top_level: bool,
    _argument: *mut c_void,
) {
    if is_top_level
        && phase == pg_sys::ResourceReleasePhase::RESOURCE_RELEASE_AFTER_LOCKS
        && let Some(work) = ON_LOCKS_RELEASED.get()
    {
        work();
    }
}

/// The nesting level of the current (sub)transaction, from 1.
#[inline]
pub(crate) fn nest_level() -> u32 {
    // SAFETY: reads the backend's own state.
    unsafe { raw::GetCurrentTransactionNestLevel() }.unsigned_abs()
}

/// When the transaction began: what `now()` says in it.
pub(crate) fn started_at() -> Timestamp {
    // SAFETY: reads the backend's own state.
    Timestamp(unsafe { raw::GetCurrentTransactionStartTimestamp() })
}

/// Whether the transaction has written anything, or locked a row.
pub(crate) fn has_written() -> bool {
    // SAFETY: reads the backend's own state.
    unsafe { raw::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}

/// The same of the current savepoint, released ones within it included: they give their parents an XID
/// (access/transam/xact.c, AssignTransactionId).
pub(crate) fn savepoint_has_written() -> bool {
    // SAFETY: reads the backend's own state.
    unsafe { raw::GetCurrentTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}

/// Whether it is one that only reads.
pub(crate) fn is_read_only() -> bool {
    // SAFETY: a plain variable of this backend.
    unsafe { pg_sys::XactReadOnly }
}

/// Whether it sees nothing that is committed after its first statement: REPEATABLE READ or SERIALIZABLE.
pub(crate) fn has_old_snapshot() -> bool {
    // SAFETY: a plain variable of this backend.
    let level = unsafe { pg_sys::XactIsoLevel }.cast_unsigned();
    level >= pg_sys::XACT_REPEATABLE_READ
}

/// Whether a user began it, or a savepoint in it: then a procedure can't commit it.
pub(crate) fn is_block() -> bool {
    // SAFETY: both read this backend's own state.
    unsafe { pg_sys::IsTransactionBlock() || pg_sys::IsSubTransaction() }
}

/// Gives back the snapshot that Postgres makes for CALL itself, as a commit in a procedure does
/// (utils/mmgr/portalmem.c). Raises unless all active snapshots are of such calls.
pub(crate) fn forget_snapshots_of_calls() {
    // SAFETY: nothing here has a destructor.
    unsafe { pg_sys::ForgetPortalSnapshots() };
}

/// Whether a transaction still runs, by its number.
pub(crate) fn is_in_progress(number: pg_sys::TransactionId) -> bool {
    // SAFETY: asks the array of processes.
    unsafe { pg_sys::TransactionIdIsInProgress(number) }
}
