//! The batch of the transaction that this backend is in. [`crate::callbacks`] hands it over and clears it.

use std::cell::RefCell;
use std::ffi::CStr;
use std::mem::ManuallyDrop;

use aimq_core::batch::{Batch, Level};
use aimq_core::memory::OutOfMemory;
use aimq_core::route::Route;
use aimq_core::timestamp::Timestamp;

use crate::error::Fault;
use crate::pg::{ffi, transaction};
use crate::shared;

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
    shared::prepare();
    BATCH.with_borrow_mut(|batch| {
        let level = transaction::nest_level();
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
    BATCH.with_borrow_mut(|batch| batch.record_out(transaction::nest_level(), route, id))
}

/// Notes that a row was put into a table, if rows were taken out before: `event` is what tells of that.
pub(crate) fn record_in(route: Route<'_>, event: &CStr, id: i64) -> Result<(), OutOfMemory> {
    BATCH.with_borrow_mut(|batch| match batch.has_out() {
        true => batch.record_in(transaction::nest_level(), route, event, id),
        false => Ok(()),
    })
}

/// Notes that something happened to a message.
pub(crate) fn record_event(route: Route<'_>) -> Result<(), OutOfMemory> {
    shared::prepare();
    BATCH.with_borrow_mut(|batch| {
        batch.record(transaction::nest_level(), route, Timestamp::NEG_INFINITY)
    })
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
    shared::prepare();
    // Without the memory, nobody follows the times.
    if shared::get().is_none() {
        return Ok(());
    }
    BATCH.with_borrow_mut(|batch| note(batch, transaction::nest_level()))
}

/// Gives the batch to a delivery. It stays in its place: a delivery may raise, even a FATAL, which runs the
/// callbacks of the abort inside this one, and these want to know what the transaction had read.
pub(crate) fn hand_over(
    delivery: impl FnOnce(&Batch) -> Result<(), OutOfMemory>,
) -> Result<(), OutOfMemory> {
    BATCH.with_borrow(|batch| {
        // One that read an empty queue has written nothing, and moved nothing.
        if batch.is_empty() || !transaction::has_written() {
            return Ok(());
        }
        delivery(batch)
    })
}

/// Shows the batch where nothing may go wrong: while the transaction is rolled back.
pub(crate) fn show(look: impl FnOnce(&Batch)) {
    let _ = BATCH.try_with(|batch| batch.try_borrow().map(|batch| look(&batch)));
}

/// The transaction has ended.
pub(crate) fn clear() {
    with_batch(Batch::clear);
}

/// The savepoint at `level` was released.
pub(crate) fn release(level: Level) {
    with_batch(|batch| batch.release(level));
}

/// The savepoint at `level` was rolled back, and has written something or not.
pub(crate) fn roll_back(level: Level, has_written: bool) {
    with_batch(|batch| batch.roll_back(level, has_written));
}

/// Changes the batch where nothing may go wrong: not even a panic of ours.
fn with_batch(change: impl FnOnce(&mut Batch)) {
    let _ = BATCH.try_with(|batch| batch.try_borrow_mut().map(|mut batch| change(&mut batch)));
}
