//! SQL that is run for a user, or as one.

use aimq_core::timestamp::Timestamp;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use super::passed_on::whole;
use super::text;

/// `pgrx::Spi`, but errors are passed on whole.
pub(crate) struct Spi;

impl Spi {
    pub(crate) fn connect<T>(work: impl FnOnce(&SpiClient<'_>) -> T) -> T {
        whole(|| pgrx::Spi::connect(work))
    }

    pub(crate) fn run(sql: &str) -> spi::Result<()> {
        Self::run_with_args(sql, &[])
    }

    pub(crate) fn run_with_args(sql: &str, arguments: &[DatumWithOid<'_>]) -> spi::Result<()> {
        let sql = text::to_c(sql);
        whole(|| {
            pgrx::Spi::connect_mut(|client| {
                client.update(sql.as_c_str(), None, arguments).map(drop)
            })
        })
    }
}

/// SPI's own failures are bugs of ours, not mistakes of a user: raise them as they are.
pub(crate) fn or_raise<T>(result: spi::Result<T>) -> T {
    result.unwrap_or_else(|error| {
        pgrx::error!("aimq: {error}");
    })
}

/// Runs `work` with a snapshot; in a transaction.
pub(crate) fn with_snapshot<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: in a transaction; an error in between aborts it, and the snapshot with it.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let done = work();
        pg_sys::PopActiveSnapshot();
        done
    }
}

/// Runs `work` with the rights of `owner`, and takes back what it sets, as VACUUM and ANALYZE do: a table
/// may have code in it. An error in between aborts the transaction, which does the same.
pub(crate) fn as_owner<T>(owner: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: sets what was read before.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let restricted = context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32;
        let level = pg_sys::NewGUCNestLevel();
        // The triggers behind realtime.send must fire, whatever the server has set for sessions.
        pg_sys::set_config_option(
            c"session_replication_role".as_ptr(),
            c"origin".as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        pg_sys::SetUserIdAndSecContext(owner, restricted);
        let done = work();
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, context);
        done
    }
}

/// A `timestamptz` as an argument: also one that is infinite.
pub(crate) fn timestamp<'a>(at: Timestamp) -> DatumWithOid<'a> {
    // SAFETY: a timestamptz is this number (datatype/timestamp.h).
    unsafe { DatumWithOid::new(at.0, pg_sys::TIMESTAMPTZOID) }
}
