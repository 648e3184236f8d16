//! What a notifier asks its database: which queues are realtime, and what a queue's table holds.
//!
//! It is a superuser in there, so it reads nothing but catalogs as itself, and looks at a queue's table
//! as the table's owner would.

use std::collections::{HashMap, HashSet};

use aimq_core::route::Route;
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::process::with_snapshot;
use crate::ffi;
use crate::pgmq::report;

/// A table that carries a trigger of ours.
#[derive(Clone, Debug)]
pub(super) struct QueueTable {
    oid: pg_sys::Oid,
    owner: pg_sys::Oid,
    /// Ready to stand in SQL.
    name: String,
    /// The owner may be kept from seeing its rows.
    is_veiled: bool,
}

/// The realtime queues, by route. Two tables may carry the same route.
pub(super) type Queues = HashMap<Box<[u8]>, Vec<QueueTable>>;

/// The catalogs only: no table of a user's, not even pgmq's list of queues. A trigger that somebody made by
/// hand, under another name, marks its queue too. Of a partitioned table, the
/// partitions carry copies of the trigger.
const QUEUES: &str = "
    SELECT t.tgargs, c.oid, c.relowner, format('%I.%I', n.nspname, c.relname),
           c.relrowsecurity AND c.relforcerowsecurity
      FROM pg_trigger t
      JOIN pg_class c ON c.oid = t.tgrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE t.tgfoid = to_regprocedure('aimq.realtime_trigger()')
       AND t.tgenabled <> 'D'
       AND t.tgparentid = 0
       AND c.relkind IN ('r', 'p')";

/// Which queues are realtime. In a transaction.
pub(super) fn realtime() -> Queues {
    let mut queues = Queues::new();
    with_snapshot(|| {
        let rows = Spi::connect(|client| -> spi::Result<Vec<_>> {
            client
                .select(QUEUES, None, &[])?
                .map(|row| {
                    let table = QueueTable {
                        oid: row.get(2)?.unwrap_or(pg_sys::InvalidOid),
                        owner: row.get(3)?.unwrap_or(pg_sys::InvalidOid),
                        name: row.get(4)?.unwrap_or_default(),
                        is_veiled: row.get(5)?.unwrap_or(false),
                    };
                    Ok((row.get::<Vec<u8>>(1)?.unwrap_or_default(), table))
                })
                .collect()
        });
        for (key, table) in report(rows) {
            // The arguments of a trigger are kept as we keep a route's.
            if Route::from_key(&key).is_some() {
                queues.entry(key.into_boxed_slice()).or_default().push(table);
            }
        }
    });
    queues
}

/// What a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// There is a message that can be read.
    pub(super) visible: bool,
    /// When the next message becomes visible.
    pub(super) next: Option<Timestamp>,
    /// Somebody had locked the table: nothing is known, and it is to be looked at again.
    pub(super) was_locked: bool,
}

/// Looks at a table, through the index on `vt`: two probes, whatever its length. Waits for no lock. In a
/// transaction.
pub(super) fn look(table: &QueueTable) -> Seen {
    const UNKNOWN: Seen = Seen { visible: true, next: None, was_locked: false };
    if table.is_veiled {
        return UNKNOWN;
    }
    // SAFETY: takes an OID, whether or not a table has it; released with the transaction.
    let locked =
        unsafe { pg_sys::ConditionalLockRelationOid(table.oid, pg_sys::AccessShareLock as i32) };
    if !locked {
        return Seen { was_locked: true, ..UNKNOWN };
    }
    let sql = format!(
        "SELECT EXISTS (SELECT FROM {0} WHERE vt <= now()),
                (SELECT vt FROM {0} WHERE vt > now() AND vt < 'infinity' ORDER BY vt LIMIT 1)",
        table.name
    );
    let (visible, next) = with_snapshot(|| {
        as_owner(table.owner, || {
            report(Spi::connect(|client| {
                let rows = client.select(&sql, Some(1), &[])?;
                rows.first().get_two::<bool, TimestampWithTimeZone>()
            }))
        })
    });
    let next = next.map(|next| Timestamp(pg_sys::TimestampTz::from(next)));
    Seen { visible: visible.unwrap_or(true), next, was_locked: false }
}

/// Runs `work` with the rights of `owner`, as VACUUM and ANALYZE do: a table may have code in it. An
/// error in between aborts the transaction, which gives us our own back.
fn as_owner<T>(owner: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: sets what was read before.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(
            owner,
            context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32,
        );
        let done = work();
        pg_sys::SetUserIdAndSecContext(user, context);
        done
    }
}

/// The prepared transactions of this database. In a transaction.
pub(super) fn prepared() -> HashSet<String> {
    if !ffi::may_prepare_transactions() {
        return HashSet::new();
    }
    with_snapshot(|| {
        report(Spi::connect(|client| {
            let sql = "SELECT transaction::text FROM pg_prepared_xacts WHERE database = current_database()";
            let rows = client.select(sql, None, &[])?;
            let ids = rows.map(|row| row.get::<String>(1));
            ids.filter_map(Result::transpose).collect()
        }))
    })
}
