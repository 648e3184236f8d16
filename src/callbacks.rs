//! The conductor: what Postgres says of transactions and savepoints is told to those whom it concerns, in the right
//! order. Nobody else knows all of them.
//!
//! One raw callback for each kind is registered once per backend: pgrx's own helpers register
//! closures for each transaction, and keep them over PREPARE TRANSACTION, where they would fire in
//! the next one.
//!
//! What is called after a commit, in an abort or at the end of a savepoint must neither raise nor allocate: an error
//! after a commit takes the server down.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::enqueue::batch;
use crate::error::{Fault, guarded};
use crate::pg::ffi;
use crate::shared::told;
use crate::{delivery, waiting};

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

/// Only the PRE events may raise: they abort the transaction cleanly. After them, the batch is only forgotten, and
/// others are told by means that were made ready before.
fn follow(event: pg_sys::XactEvent::Type) -> Result<(), Fault> {
    use pg_sys::XactEvent as On;
    match event {
        // Deferred triggers have run, and async.c sends what is pending after this callback
        // (access/transam/xact.c, CommitTransaction).
        On::XACT_EVENT_PRE_COMMIT => batch::hand_over(delivery::announce)?,
        On::XACT_EVENT_PRE_PREPARE => batch::hand_over(delivery::set_aside)?,
        On::XACT_EVENT_PARALLEL_PRE_COMMIT => {}
        // COMMIT, ABORT, PREPARE and the parallel workers' own ends.
        _ => {
            match event {
                On::XACT_EVENT_COMMIT => {
                    delivery::committed();
                    told::committed();
                    waiting::committed();
                }
                On::XACT_EVENT_PREPARE => {
                    delivery::prepared();
                    told::prepared();
                    waiting::leave();
                }
                On::XACT_EVENT_ABORT => {
                    if ffi::has_written() {
                        batch::show(delivery::aborted);
                    }
                    told::aborted();
                    waiting::leave();
                }
                _ => told::aborted(),
            }
            told::forget();
            delivery::end();
            batch::clear();
        }
    }
    Ok(())
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
            batch::release(ffi::nest_level());
            told::release(ffi::nest_level());
        }
        On::SUBXACT_EVENT_ABORT_SUB => {
            batch::roll_back(ffi::nest_level(), ffi::savepoint_has_written());
            told::roll_back(ffi::nest_level());
            waiting::roll_back(ffi::nest_level());
        }
        _ => {}
    }
}
