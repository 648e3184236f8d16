//! How a transaction's batch becomes wake-ups: the two deliveries behind one small interface.
//!
//! [`notification`]: the notification is part of the transaction that enqueued. [`marks`]: the
//! transaction leaves marks in shared memory, and a background worker notifies.
//!
//! [`announce`] and [`set_aside`] may raise. The others are called when the transaction has ended: they neither raise nor
//! allocate.

mod marks;
mod notification;

use aimq_core::batch::Batch;
use aimq_core::memory::OutOfMemory;

/// Announces what the committing transaction enqueued, or finds the slots for its marks. Called at PRE_COMMIT.
pub(crate) fn announce(batch: &Batch) -> Result<(), OutOfMemory> {
    if !batch.has_news() {
        return Ok(());
    }
    let has_messages = batch.has_messages();
    if let Some(notifier) = marks::available(has_messages) {
        let slotless = marks::plan(notifier, batch)?;
        if !slotless.is_empty() {
            notification::announce(batch, Some(&slotless))?;
        }
    } else {
        marks::follow(batch)?;
        if has_messages {
            notification::announce(batch, None)?;
        }
    }
    Ok(())
}

/// The transaction is being prepared: the session that commits it later will have no batch. Called at PRE_PREPARE.
pub(crate) fn set_aside(batch: &Batch) -> Result<(), OutOfMemory> {
    if marks::is_reachable() {
        marks::set_aside(batch)?;
        if marks::lacks_slot() && batch.has_messages() {
            notification::warn_of_prepared(batch, true)?;
        }
    } else if batch.has_messages() {
        notification::warn_of_prepared(batch, false)?;
    }
    Ok(())
}

/// The transaction is committed and visible to others.
pub(crate) fn committed() {
    marks::committed();
}

/// The transaction is rolled back.
pub(crate) fn aborted(batch: &Batch) {
    marks::aborted(batch);
}

/// The transaction is prepared.
pub(crate) fn prepared() {
    marks::prepared();
}

/// The transaction has ended, one way or the other.
pub(crate) fn end() {
    marks::end();
    notification::end();
}
