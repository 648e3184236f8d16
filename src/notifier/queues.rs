//! What a notifier asks its database: which queues are realtime, and what a queue's table holds.
//!
//! It is a superuser in there, so it reads nothing but catalogs as itself, and looks at a queue's table
//! as the table's owner would.

use std::collections::{HashMap, HashSet};

use aimq_core::route::{CHANNEL_MAX_BYTES, Route};
use aimq_core::timestamp::Timestamp;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::ffi;
use crate::pgmq::report;
use crate::process::with_snapshot;
use crate::shared;

/// The realtime queues: the tables by route.
pub(super) type Queues = HashMap<Box<[u8]>, Tables>;

/// Two tables may carry the same route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    /// In which messages wait.
    pub(super) oids: Vec<pg_sys::Oid>,
    /// That only tell what befalls messages later. Anybody can make such a trigger on a table of his, with any route.
    pub(super) of_events: Vec<pg_sys::Oid>,
}

/// The catalogs only: no table of a user's, not even pgmq's list of queues. Only of tables in pgmq's schema, where not everybody
/// may make one: else anybody could use the slots up, or have his table looked at. Triggers as
/// `aimq.enable_realtime` attaches them, under whatever name: others refuse their first row, or may let it
/// pass. Of a partitioned table, the partitions carry copies of the trigger.
const QUEUES: &str = "
    SELECT t.tgargs, t.tgrelid,
           t.tgfoid OPERATOR(pg_catalog.<>)
           pg_catalog.to_regprocedure('aimq.realtime_trigger()')::pg_catalog.oid
      FROM pg_catalog.pg_trigger t
      JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
     WHERE (t.tgfoid OPERATOR(pg_catalog.=)
            pg_catalog.to_regprocedure('aimq.realtime_trigger()')::pg_catalog.oid
            AND t.tgtype OPERATOR(pg_catalog.=) 7::pg_catalog.int2
            OR t.tgfoid OPERATOR(pg_catalog.=)
            pg_catalog.to_regprocedure('aimq.event_trigger()')::pg_catalog.oid
            AND t.tgtype OPERATOR(pg_catalog.=) ANY ('{7,11,19}'::pg_catalog.int2[]))
       AND t.tgqual IS NULL
       AND t.tgnargs OPERATOR(pg_catalog.=) ANY ('{3,4}'::pg_catalog.int2[])
       AND t.tgenabled OPERATOR(pg_catalog.<>) 'D'::pg_catalog.\"char\"
       AND t.tgparentid OPERATOR(pg_catalog.=) 0::pg_catalog.oid
       AND c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace('pgmq')::pg_catalog.oid
       AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog.\"char\"[])";

/// Which queues are realtime. In a transaction.
pub(super) fn realtime() -> Queues {
    let mut queues = Queues::new();
    let rows = with_snapshot(|| {
        report(Spi::connect(|client| -> spi::Result<Vec<_>> {
            let rows = client.select(QUEUES, None, &[])?;
            rows.map(|row| {
                let is_event = row.get::<bool>(3)?.unwrap_or(false);
                Ok((row.get::<Vec<u8>>(1)?, row.get::<pg_sys::Oid>(2)?, is_event))
            })
            .collect()
        }))
    });
    for (key, table, is_event) in rows {
        // The arguments of a trigger are kept as we keep a route's. A channel that NOTIFY would refuse is
        // refused by the trigger with the first row.
        let (Some(key), Some(table)) = (key, table) else {
            continue;
        };
        let bytes = Route::from_key(&key).map_or(0, |route| route.channel.count_bytes());
        if bytes > 0 && bytes <= CHANNEL_MAX_BYTES {
            let tables = queues.entry(key.into_boxed_slice()).or_default();
            if is_event { tables.of_events.push(table) } else { tables.oids.push(table) }
        }
    }
    // So that the same tables are the same.
    for tables in queues.values_mut() {
        tables.oids.sort_unstable_by_key(|table| table.to_u32());
        tables.of_events.sort_unstable_by_key(|table| table.to_u32());
    }
    queues
}

/// What a table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// How many messages can be read whose visibility time is not before the one asked for; counted up to
    /// what was asked for.
    pub(super) visible: u64,
    /// When the next message becomes visible.
    pub(super) next: Option<Timestamp>,
    /// Somebody had locked the table, which keeps readers waiting too: nothing is known, and it is to be looked
    /// at again.
    pub(super) was_locked: bool,
}

impl Seen {
    pub(super) const LOCKED: Self = Self { visible: 0, next: None, was_locked: true };
}

/// Whether a table can be looked at, and as whom: read once we have the lock, so that it stays true. Not
/// one whose owner may be kept from its rows, nor one whose `vt` is not a timestamp.
const TABLE: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.relowner
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
      JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
     WHERE c.oid OPERATOR(pg_catalog.=) $1
       AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog.\"char\"[])
       AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
       AND a.attname OPERATOR(pg_catalog.=) 'vt'::pg_catalog.name
       AND a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.timestamptz'::pg_catalog.regtype::pg_catalog.oid";

/// Looks at a table, through the index on `vt`: a probe for each of up to `count` messages, and one for the next
/// time, whatever its length. In a transaction, which
/// should have nothing else to do: it holds a lock, and the planner waits for those on indexes and partitions,
/// for as long as [`ffi::within`] allows. So it does for that of the table itself, if it `may_wait`.
pub(super) fn look(table: pg_sys::Oid, from: Timestamp, count: u32, may_wait: bool) -> Seen {
    // Then everybody who waits looks for himself.
    let unknown = Seen { visible: count.into(), next: None, was_locked: false };
    let mode = pg_sys::AccessShareLock as i32;
    // SAFETY: both take an OID, whether or not a table has it; released with the transaction.
    unsafe {
        if may_wait {
            pg_sys::LockRelationOid(table, mode);
        } else if !pg_sys::ConditionalLockRelationOid(table, mode) {
            return Seen::LOCKED;
        }
    }
    with_snapshot(|| {
        let found = report(Spi::connect(|client| -> spi::Result<_> {
            let rows = client.select(TABLE, Some(1), &[table.into()])?;
            if rows.is_empty() { Ok((None, None)) } else { rows.first().get_two() }
        }));
        let (Some(name), Some(owner)) = found else {
            return unknown;
        };
        let name: String = name;
        let sql = format!(
            "SELECT (SELECT pg_catalog.count(*)
                       FROM (SELECT FROM {name}
                              WHERE vt OPERATOR(pg_catalog.>=) $1
                                AND vt OPERATOR(pg_catalog.<=) pg_catalog.now()
                              LIMIT $2) m),
                    (SELECT vt FROM {name}
                      WHERE vt OPERATOR(pg_catalog.>) pg_catalog.now()
                        AND vt OPERATOR(pg_catalog.<) 'infinity'::pg_catalog.timestamptz
                      ORDER BY vt LIMIT 1)"
        );
        let (visible, next) = as_owner(owner, || {
            report(Spi::connect(|client| {
                // SAFETY: a timestamptz is this number (datatype/timestamp.h).
                let from = unsafe { DatumWithOid::new(from.0, pg_sys::TIMESTAMPTZOID) };
                let rows = client.select(&sql, Some(1), &[from, i64::from(count).into()])?;
                rows.first().get_two::<i64, TimestampWithTimeZone>()
            }))
        });
        let next = next.map(|next| Timestamp(pg_sys::TimestampTz::from(next)));
        let visible = visible.map_or(count.into(), i64::unsigned_abs);
        Seen { visible, next, was_locked: false }
    })
}

/// Runs `work` with the rights of `owner`, and takes back what it sets, as VACUUM and ANALYZE do: a table
/// may have code in it. An error in between aborts the transaction, which does the same.
pub(super) fn as_owner<T>(owner: pg_sys::Oid, work: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: sets what was read before.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let restricted = context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32;
        pg_sys::SetUserIdAndSecContext(owner, restricted);
        let level = pg_sys::NewGUCNestLevel();
        let done = work();
        pg_sys::AtEOXact_GUC(false, level);
        pg_sys::SetUserIdAndSecContext(user, context);
        done
    }
}

/// The owner of this database. In a transaction.
pub(super) fn owner() -> pg_sys::Oid {
    let sql = "SELECT datdba FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()";
    let owner = with_snapshot(|| {
        report(Spi::connect(|client| client.select(sql, Some(1), &[])?.first().get_one()))
    });
    owner.unwrap_or(pg_sys::InvalidOid)
}

/// Whether nobody tells us when one of these prepared transactions has ended. Where the library is in every session, that of
/// COMMIT PREPARED does; but what applies a subscription runs no such statement (replication/logical/worker.c), and names what it
/// has prepared `pg_gid_…`.
pub(super) fn nobody_tells(prepared: &HashSet<String>) -> bool {
    !shared::is_preloaded() || prepared.iter().any(|name| name.starts_with("pg_gid_"))
}

/// The prepared transactions of this database: each one's name and, since that may be another's later, number. In a
/// transaction.
pub(super) fn prepared() -> HashSet<String> {
    if !ffi::may_prepare_transactions() {
        return HashSet::new();
    }
    with_snapshot(|| {
        report(Spi::connect(|client| {
            let sql =
                "SELECT pg_catalog.concat(gid, ' ', transaction) FROM pg_catalog.pg_prepared_xacts
                        WHERE database OPERATOR(pg_catalog.=) pg_catalog.current_database()";
            let rows = client.select(sql, None, &[])?;
            let ids = rows.map(|row| row.get::<String>(1));
            ids.filter_map(Result::transpose).collect()
        }))
    })
}
