//! The conductor: what Postgres says of transactions and savepoints is told to those whom it concerns, in the right
//! order. No other file knows all of them.
//!
//! Postgres calls us by one raw callback for each kind, registered once per backend: pgrx's own helpers register
//! closures for each transaction, and keep them over PREPARE TRANSACTION, where they would fire in
//! the next one.
//!
//! Who may do what:
//!
//! - A trigger that notes a row may raise and may allocate, fallibly. So may [`before`] a commit or PREPARE.
//! - What is called [`after`] a commit, in an abort, at the end of a savepoint or of a session must neither raise nor
//!   allocate: an error after a commit takes the server down. It waits for nothing, with one exception: a transaction
//!   that has made a trigger of ours may wait for a process that takes an entry, for 100 ms at most ([`told`]).
//! - [`told`] is called once more when the transaction's locks are given back, by a callback of its own; the same holds
//!   there.
//! - Two kinds of callback only take a note: the hook on utility statements, and those for changes of the catalogs.
//!
//! That no error is returned after the end is in the types of the callbacks. That nothing panics or allocates there is
//! not checked by a machine, but for the batch (`core/tests/memory.rs`).

use crate::enqueue::batch;
use crate::error::Fault;
use crate::pg::transaction::{self, Before, Callbacks, End};
use crate::shared::told;
use crate::{delivery, waiting};

static CALLBACKS: Callbacks<Fault> = Callbacks { before, after, released, rolled_back };

pub(crate) fn init() {
    transaction::register(&CALLBACKS);
}

/// What is refused here aborts the transaction cleanly.
fn before(end: Before) -> Result<(), Fault> {
    match end {
        Before::Commit => batch::hand_over(delivery::announce)?,
        Before::Prepare => batch::hand_over(delivery::set_aside)?,
    }
    Ok(())
}

/// The batch is only forgotten, and others are told by means that were made ready before.
fn after(end: End) {
    match end {
        End::Committed => {
            delivery::committed();
            told::committed();
            waiting::committed();
        }
        End::Prepared => {
            delivery::prepared();
            told::prepared();
            waiting::vacate();
        }
        End::Aborted => {
            if transaction::has_written() {
                batch::show(delivery::aborted);
            }
            told::aborted();
            waiting::vacate();
        }
        End::PartEnded => told::aborted(),
    }
    told::forget();
    delivery::end();
    batch::clear();
}

fn released(level: u32) {
    batch::release(level);
    told::release(level);
}

fn rolled_back(level: u32) {
    batch::roll_back(level, transaction::savepoint_has_written());
    told::roll_back(level);
    waiting::roll_back(level);
}
