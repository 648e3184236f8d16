//! How a transaction's batch becomes wake-ups: the two deliveries behind one small interface.
//!
//! [`in_transaction`]: the notification is part of the transaction that enqueued. [`by_notifier`]: the
//! transaction leaves marks in shared memory, and a background worker notifies.

mod by_notifier;
mod in_transaction;
mod slots;

use aimq_core::batch::Batch;
use aimq_core::memory::OutOfMemory;

use crate::settings::{self, Delivery};
use crate::shared;

pub(crate) use by_notifier::{recheck, ring};
pub(crate) use in_transaction::may_notify;
pub(crate) use slots::claim_to_wait;

/// Gets ready for a transaction that enqueues, or that makes a queue realtime: what may take a moment or
/// fail is done here, not at its commit.
#[inline]
pub(crate) fn prepare() {
    shared::prepare();
}

/// Whether anybody may follow the visibility times of messages that are there already.
pub(crate) fn follows_time() -> bool {
    shared::get().is_some()
}

/// Whether a notifier can run for this database, even if this session's transactions notify themselves.
pub(crate) fn has_notifier() -> bool {
    by_notifier::is_possible()
}

/// Whether there is no notifier because this server cannot have one as it is, and nobody chose that: before PostgreSQL
/// 17 only preloading brings a notifier.
pub(crate) fn is_slow() -> bool {
    let is_chosen = settings::delivery() == Delivery::Transaction;
    cfg!(not(any(feature = "pg17", feature = "pg18"))) && !shared::is_preloaded() && !is_chosen
}

/// Announces what the committing transaction enqueued. Called at PRE_COMMIT, and may raise.
pub(crate) fn announce(batch: &Batch) -> Result<(), OutOfMemory> {
    if !batch.has_news() {
        return Ok(());
    }
    let has_messages = batch.has_messages();
    if let Some(notifier) = by_notifier::available(has_messages) {
        let rest = by_notifier::plan(notifier, batch)?;
        if !rest.is_empty() {
            in_transaction::announce(batch, Some(&rest))?;
        }
    } else {
        by_notifier::follow(batch)?;
        if has_messages {
            in_transaction::announce(batch, None)?;
        }
    }
    Ok(())
}

/// The transaction is committed and visible to others. Cannot raise.
pub(crate) fn committed() {
    by_notifier::committed();
}

/// The transaction is rolled back. Cannot raise.
pub(crate) fn aborted(batch: &Batch) {
    by_notifier::aborted(batch);
}

/// The transaction has ended, one way or the other. Cannot raise.
pub(crate) fn end() {
    by_notifier::end();
    in_transaction::end();
}

/// The transaction is being prepared: the session that commits it later will have no batch.
pub(crate) fn set_aside(batch: &Batch) -> Result<(), OutOfMemory> {
    if by_notifier::is_reachable() {
        by_notifier::set_aside(batch)?;
    } else if batch.has_messages() {
        in_transaction::set_aside(batch)?;
    }
    Ok(())
}

/// The transaction is prepared. Cannot raise.
pub(crate) fn prepared() {
    by_notifier::prepared();
}
