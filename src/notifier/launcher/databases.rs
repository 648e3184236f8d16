//! Which databases there are, as far as that can be said without connecting to them.

use std::collections::VecDeque;
use std::panic::{RefUnwindSafe, UnwindSafe};

use aimq_core::launcher::Found;
use pgrx::pg_sys;

use crate::error::Log;
use crate::pg::process::{self, exit};
use crate::pg::{catalogs, timeouts};

/// A transaction that waits for no lock for long: somebody may have locked pg_database.
fn bounded<T>(
    work: impl FnOnce() -> T + UnwindSafe + RefUnwindSafe,
) -> Result<T, process::Failure> {
    timeouts::within(100, 1000, || process::transaction(work))
}

/// Whether a notifier may be started in a database now. A connection to it would wait for the session
/// that changes the database, and then find it gone, with a FATAL in the log.
pub(super) fn find(oid: u32) -> Found {
    let found = bounded(move || {
        if !catalogs::may_connect(oid) {
            Found::Busy
        } else if catalogs::each_database(|database| {
            database.oid.to_u32() == oid && is_whole(database)
        }) {
            Found::Here
        } else {
            Found::Gone
        }
    });
    // What went wrong may go right next time.
    found.unwrap_or(Found::Busy)
}

/// Every database of a kind.
pub(super) fn databases_that(fits: fn(&pg_sys::FormData_pg_database) -> bool) -> VecDeque<u32> {
    let found = bounded(move || {
        let mut found = VecDeque::new();
        catalogs::each_database(|database| {
            if fits(database) {
                found.push_back(database.oid.to_u32());
            }
            false
        });
        found
    });
    match found {
        Ok(found) => found,
        Err(failure) => {
            Log::CannotListDatabases { message: &failure.message }.report();
            exit(1)
        }
    }
}

pub(super) fn accepts(database: &pg_sys::FormData_pg_database) -> bool {
    database.datallowconn && is_whole(database)
}

/// False for one whose DROP was interrupted (catalog/pg_database.h, DATCONNLIMIT_INVALID_DB).
pub(super) fn is_whole(database: &pg_sys::FormData_pg_database) -> bool {
    database.datconnlimit != -2
}
