//! How a transaction's batch becomes wake-ups.
//!
//! This release has one delivery, [`in_transaction`]: the notification is part of the transaction
//! that enqueued.

mod in_transaction;

use aimq_core::batch::Batch;

#[cfg(any(test, feature = "pg_test"))]
pub(crate) use in_transaction::has_room;

/// Announces what the committing transaction enqueued. Called at PRE_COMMIT.
pub(crate) fn announce(batch: &Batch) {
    in_transaction::announce(batch);
}

/// The transaction has ended, one way or the other. Cannot raise.
pub(crate) fn end() {
    in_transaction::end();
}

/// The transaction is being prepared: whoever commits it later will have no batch.
pub(crate) fn set_aside(batch: &Batch) {
    in_transaction::set_aside(batch);
}
