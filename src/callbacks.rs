//! The conductor: what Postgres says of transactions and savepoints is told to those whom it concerns, in the right
//! order. No other file knows all of them.
//!
//! Postgres calls us by one raw callback for each kind, registered once per backend: pgrx's own helpers register
//! closures for each transaction, and keep them over PREPARE TRANSACTION, where they would fire in
//! the next one.
//!
//! Who may do what:
//!
//! - A trigger that notes a row, and what is called before a commit or PREPARE, may raise and may allocate, fallibly.
//! - What is called after a commit, in an abort, at the end of a savepoint or of a session must neither raise nor
//!   allocate: an error after a commit takes the server down. It waits for nothing.
//! - [`told`] is called once more when the transaction's locks are given back, by a callback of its own; the same holds
//!   there.
//! - The hook on utility statements and what is told of changes of the catalogs only note.
//!
//! Not checked by a machine but for the batch (`core/tests/memory.rs`).

use crate::enqueue::batch;
use crate::error::Fault;
use crate::pg::transaction::{self, Event, Listeners};
use crate::shared::told;
use crate::{delivery, waiting};

static LISTENERS: Listeners<Fault> = Listeners { transaction: follow, released, rolled_back };

pub(crate) fn init() {
    transaction::listen(&LISTENERS);
}

/// Only the PRE events may raise: they abort the transaction cleanly. After them, the batch is only forgotten, and
/// others are told by means that were made ready before.
fn follow(event: Event) -> Result<(), Fault> {
    match event {
        Event::PreCommit => return Ok(batch::hand_over(delivery::announce)?),
        Event::PrePrepare => return Ok(batch::hand_over(delivery::set_aside)?),
        Event::Committed => {
            delivery::committed();
            told::committed();
            waiting::committed();
        }
        Event::Prepared => {
            delivery::prepared();
            told::prepared();
            waiting::vacate();
        }
        Event::Aborted => {
            if transaction::has_written() {
                batch::show(delivery::aborted);
            }
            told::aborted();
            waiting::vacate();
        }
        Event::PartEnded => told::aborted(),
    }
    told::forget();
    delivery::end();
    batch::clear();
    Ok(())
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
