//! The batch of the transaction that this backend is in, and the callbacks that follow the
//! transaction.
//!
//! One raw callback for each kind is registered once per backend: pgrx's own helpers register
//! closures for each transaction, and keep them over PREPARE TRANSACTION, where they would fire in
//! the next one.

use std::cell::RefCell;
use std::ffi::{CStr, c_void};
use std::mem::ManuallyDrop;

use aimq_core::batch::{Batch, Level};
use aimq_core::memory::OutOfMemory;
use aimq_core::route::Route;
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::{Fault, guarded};
use crate::{delivery, ffi, statements, waiting};

thread_local! {
    /// A backend has one thread that may touch Postgres, so this is the backend's. It ends with the process: to have it
    /// dropped at the end of the thread takes memory, at its first use.
    static BATCH: RefCell<ManuallyDrop<Batch>> =
        const { RefCell::new(ManuallyDrop::new(Batch::new())) };
}

/// Notes one message of the current (sub)transaction. When it will be visible is asked only if that
/// can matter (`None` if it can't be told); an error of the answer is handed on, and nothing is noted. The
/// return value says whether the row may be one that this transaction has taken out of the table before: then call
/// [`record_in`] too.
#[inline]
pub(crate) fn record(
    route: Route<'_>,
    visible_at: impl FnOnce() -> Result<Option<Timestamp>, Fault>,
) -> Result<bool, Fault> {
    delivery::prepare();
    BATCH.with_borrow_mut(|batch| {
        let level = ffi::nest_level();
        if !batch.record_another(level, route) {
            match visible_at()? {
                None => batch.record_unknown(level, route)?,
                Some(at) if at <= ffi::now() => {
                    batch.record(level, route, Timestamp::NEG_INFINITY)?
                }
                Some(at) => batch.record(level, route, at)?,
            }
        }
        Ok(batch.has_out())
    })
}

/// Notes which message the last one was that was noted.
pub(crate) fn record_id(id: i64) -> Result<(), OutOfMemory> {
    BATCH.with_borrow_mut(|batch| batch.record_id(id))
}

/// Notes that it is not known which message that was.
pub(crate) fn record_unknown_id() -> Result<(), OutOfMemory> {
    BATCH.with_borrow_mut(|batch| batch.record_unknown_id())
}

/// Notes that a row was taken out of its table, which may put it back.
pub(crate) fn record_out(route: Route<'_>, id: i64) -> Result<(), OutOfMemory> {
    BATCH.with_borrow_mut(|batch| batch.record_out(ffi::nest_level(), route, id))
}

/// Notes that a row was put into a table, if rows were taken out before: `event` is what tells of that.
pub(crate) fn record_in(route: Route<'_>, event: &CStr, id: i64) -> Result<(), OutOfMemory> {
    BATCH.with_borrow_mut(|batch| match batch.has_out() {
        true => batch.record_in(ffi::nest_level(), route, event, id),
        false => Ok(()),
    })
}

/// Notes that something happened to a message.
pub(crate) fn record_event(route: Route<'_>) -> Result<(), OutOfMemory> {
    delivery::prepare();
    BATCH.with_borrow_mut(|batch| batch.record(ffi::nest_level(), route, Timestamp::NEG_INFINITY))
}

/// Notes that messages which were there before may have got another visibility time, of `from` or later.
pub(crate) fn record_moved(route: Route<'_>, from: Timestamp) -> Result<(), OutOfMemory> {
    record_before(|batch, level| batch.record_moved(level, route, from))
}

/// Notes that messages which were there before may be gone.
pub(crate) fn record_taken(route: Route<'_>) -> Result<(), OutOfMemory> {
    record_before(|batch, level| batch.record_taken(level, route))
}

/// Notes something of messages that were there before, if anybody follows that.
fn record_before(
    note: impl FnOnce(&mut Batch, Level) -> Result<(), OutOfMemory>,
) -> Result<(), OutOfMemory> {
    delivery::prepare();
    if !delivery::follows_time() {
        return Ok(());
    }
    BATCH.with_borrow_mut(|batch| note(batch, ffi::nest_level()))
}

pub(crate) fn init() {
    // SAFETY: called once, from _PG_init; the callbacks are guarded functions of this library, which
    // Postgres never unloads.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(on_subtransaction), std::ptr::null_mut());
    }
}

unsafe extern "C-unwind" fn on_transaction(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    // SAFETY: Postgres calls this, and there is nothing to drop.
    unsafe { guarded(|| follow(event)) }
}

/// Only the PRE events may raise: they abort the transaction cleanly. After them, the batch is only forgotten,
/// and others are told by means that were made ready before. Nothing is allocated there, because nothing may fail.
fn follow(event: pg_sys::XactEvent::Type) -> Result<(), Fault> {
    use pg_sys::XactEvent as On;
    match event {
        // Deferred triggers have run, and async.c sends what is pending after this callback
        // (access/transam/xact.c, CommitTransaction).
        On::XACT_EVENT_PRE_COMMIT => hand_over(delivery::announce)?,
        On::XACT_EVENT_PRE_PREPARE => hand_over(delivery::set_aside)?,
        On::XACT_EVENT_PARALLEL_PRE_COMMIT => {}
        // COMMIT, ABORT, PREPARE and the parallel workers' own ends.
        _ => {
            match event {
                On::XACT_EVENT_COMMIT => {
                    delivery::committed();
                    statements::committed();
                    waiting::committed();
                }
                On::XACT_EVENT_PREPARE => {
                    delivery::prepared();
                    statements::prepared();
                    waiting::leave();
                }
                On::XACT_EVENT_ABORT => {
                    if ffi::has_written() {
                        let _ = BATCH
                            .try_with(|batch| batch.try_borrow().map(|it| delivery::aborted(&it)));
                    }
                    statements::aborted();
                    waiting::leave();
                }
                _ => statements::aborted(),
            }
            statements::forget();
            delivery::end();
            with_batch(Batch::clear);
        }
    }
    Ok(())
}

/// Gives the batch to a delivery. It stays in its place: a delivery may raise, even a FATAL, which runs the
/// callbacks of the abort inside this one, and these want to know what the transaction had read.
fn hand_over(delivery: impl FnOnce(&Batch) -> Result<(), OutOfMemory>) -> Result<(), OutOfMemory> {
    BATCH.with_borrow(|batch| {
        // One that read an empty queue has written nothing, and moved nothing.
        if batch.is_empty() || !ffi::has_written() {
            return Ok(());
        }
        delivery(batch)
    })
}

/// Changes the batch where nothing may go wrong: not even a panic of ours.
fn with_batch(change: impl FnOnce(&mut Batch)) {
    let _ = BATCH.try_with(|batch| batch.try_borrow_mut().map(|mut batch| change(&mut batch)));
}

#[pg_guard]
unsafe extern "C-unwind" fn on_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut c_void,
) {
    use pg_sys::SubXactEvent as On;
    // xact.c calls this while the subtransaction that ends is still the current one.
    match event {
        On::SUBXACT_EVENT_COMMIT_SUB => {
            with_batch(|batch| batch.release(ffi::nest_level()));
            statements::release(ffi::nest_level());
        }
        On::SUBXACT_EVENT_ABORT_SUB => {
            with_batch(|batch| batch.roll_back(ffi::nest_level(), ffi::savepoint_has_written()));
            statements::roll_back(ffi::nest_level());
            waiting::roll_back(ffi::nest_level());
        }
        _ => {}
    }
}
