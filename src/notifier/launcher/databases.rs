//! Which databases there are, as far as that can be said without connecting to them.

use std::collections::VecDeque;
use std::panic::{RefUnwindSafe, UnwindSafe};

use pgrx::pg_sys;

use crate::error::Log;
use crate::pg::process::{self, leave};
use crate::pg::timeouts;

/// What can be said of a database without connecting to it.
pub(super) enum Found {
    Here,
    /// Gone.
    Gone,
    /// It is being dropped, renamed or copied.
    Busy,
}

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
        if !process::may_connect(oid) {
            Found::Busy
        } else if each_database(|database| database.oid.to_u32() == oid && is_whole(database)) {
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
        each_database(|database| {
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
            leave(1)
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

/// Calls `look` with each row of pg_database until it says true; whether it did. In a transaction.
fn each_database(mut look: impl FnMut(&pg_sys::FormData_pg_database) -> bool) -> bool {
    // SAFETY: a scan of a shared catalog as autovacuum's launcher does it (get_database_list): the rows
    // are valid until the scan goes on.
    unsafe {
        let relation =
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        let mut found = false;
        loop {
            let row = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if row.is_null() {
                break;
            }
            if look(&*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_database>()) {
                found = true;
                break;
            }
        }
        pg_sys::heap_endscan(scan.cast());
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        found
    }
}
