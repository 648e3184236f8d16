//! What our processes ask their database: which queues are realtime, and what a queue's table holds.
//!
//! It is a superuser in there, so it reads nothing but catalogs as itself, and looks at a queue's table
//! as the table's owner would.

use std::collections::{HashMap, HashSet};

use aimq_core::route::{CHANNEL_MAX_BYTES, Route, RouteKey};
use aimq_core::timestamp::Timestamp;
use aimq_core::version::Version;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::catalog::{home, in_sql};
use crate::pg::spi::{as_owner, or_raise, timestamp, with_snapshot};
use crate::pg::text::{self, Text};
use crate::pg::{catalogs, ffi};
use crate::shared;

/// The realtime queues by route.
pub(super) type Queues = HashMap<RouteKey, Queue>;

/// A route that a table's trigger says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queue {
    /// It only tells what happens to messages later: no message waits there.
    pub(super) is_event: bool,
    /// Changes whenever a trigger of the table, or of its partitions, may have been off, and whenever rows may have
    /// come in by another way: with every trigger that was made, enabled or disabled, also there and back; with the
    /// table's files, name, schema, owner and protection of rows; with its partitions and children.
    pub(super) version: Version,
}

/// What makes a queue realtime: triggers as `aimq.enable_realtime` attaches them. Only of tables in pgmq's schema,
/// where not everybody may make one: else anybody could use the slots up, or have his table looked at.
fn makes_realtime() -> String {
    format!(
        "{}
           AND c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace('pgmq')::pg_catalog.oid
           AND c.relkind OPERATOR(pg_catalog.=) ANY ('{{r,p}}'::pg_catalog.\"char\"[])",
        in_sql::is_attached()
    )
}

/// The tables that inherit from one with a trigger of ours; partitions do too.
fn children_sql() -> String {
    format!(
        "SELECT i.inhparent, pg_catalog.concat_ws(' ', i.inhparent, i.inhrelid, i.xmin)
           FROM pg_catalog.pg_inherits i
          WHERE EXISTS (
                SELECT FROM pg_catalog.pg_trigger t
                 WHERE t.tgrelid OPERATOR(pg_catalog.=) i.inhparent AND {})",
        in_sql::is_realtime()
    )
}

/// The tables that a subscription writes to: what it applies fires no statement trigger.
fn subscribed_sql() -> String {
    format!(
        "SELECT DISTINCT r.srrelid FROM pg_catalog.pg_subscription_rel r
          WHERE EXISTS (
                SELECT FROM pg_catalog.pg_trigger t
                 WHERE t.tgrelid OPERATOR(pg_catalog.=) r.srrelid AND {})",
        in_sql::is_realtime()
    )
}

/// A trigger of ours.
struct Trigger {
    oid: u32,
    parent: u32,
    table: u32,
    arguments: Vec<u8>,
    is_event: bool,
    makes_realtime: bool,
    version: Version,
}

/// The triggers of ours, those of partitions and those that are disabled included. By the catalogs only: no table of a
/// user's, not even pgmq's list of queues.
fn triggers() -> Vec<Trigger> {
    let number = |oid: Option<pg_sys::Oid>| oid.map_or(0, pg_sys::Oid::to_u32);
    let sql = format!(
        "SELECT t.oid, t.tgparentid, t.tgrelid, t.tgargs, {}, {},
                pg_catalog.concat_ws(' ', t.oid, t.xmin, t.tgenabled, t.tgrelid, c.xmin, c.relfilenode)
           FROM pg_catalog.pg_trigger t
           JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
          WHERE {}",
        in_sql::is_event(),
        makes_realtime(),
        in_sql::is_ours()
    );
    or_raise(Spi::connect(|client| -> spi::Result<Vec<_>> {
        client
            .select(&sql, None, &[])?
            .map(|row| {
                Ok(Trigger {
                    oid: number(row.get(1)?),
                    parent: number(row.get(2)?),
                    table: number(row.get(3)?),
                    arguments: row.get(4)?.unwrap_or_default(),
                    is_event: row.get(5)?.unwrap_or(false),
                    makes_realtime: row.get(6)?.unwrap_or(false),
                    version: Version::of(row.get::<&str>(7)?.unwrap_or_default()),
                })
            })
            .collect()
    }))
}

/// Which queues are realtime. In a transaction.
pub(super) fn realtime() -> Queues {
    with_snapshot(|| {
        let triggers = triggers();
        let parents: HashMap<u32, (u32, u32)> =
            triggers.iter().map(|it| (it.oid, (it.parent, it.table))).collect();
        // By partition and by itself: the table that carries the trigger. Copies lead to it.
        let root_of = |trigger: &Trigger| {
            let (mut parent, mut table) = (trigger.parent, trigger.table);
            while let Some((next, of)) = parents.get(&parent) {
                (parent, table) = (*next, *of);
            }
            table
        };
        let mut versions: HashMap<u32, Version> = HashMap::new();
        let mut roots: HashMap<u32, u32> = HashMap::new();
        for trigger in &triggers {
            let root = root_of(trigger);
            roots.entry(trigger.table).or_insert(root);
            versions.entry(root).or_default().add(trigger.version);
        }
        for (parent, child) in children() {
            let root = roots.get(&parent).copied().unwrap_or(parent);
            versions.entry(root).or_default().add(child);
        }
        let of_queues = triggers.iter().filter(|trigger| trigger.makes_realtime);
        let queues = of_queues.filter_map(|trigger| {
            let route = Route::from_arguments(&trigger.arguments)?.of(trigger.table);
            // A channel that NOTIFY would refuse is refused by the trigger with the first row.
            let bytes = route.channel.count_bytes();
            let version = versions.get(&trigger.table).copied().unwrap_or_default();
            let queue = Queue { is_event: trigger.is_event, version };
            (bytes > 0 && bytes <= CHANNEL_MAX_BYTES).then(|| (route.key(), queue))
        });
        queues.collect()
    })
}

fn children() -> Vec<(u32, Version)> {
    or_raise(Spi::connect(|client| -> spi::Result<Vec<_>> {
        client
            .select(&children_sql(), None, &[])?
            .map(|row| {
                let parent = row.get::<pg_sys::Oid>(1)?.map_or(0, pg_sys::Oid::to_u32);
                Ok((parent, Version::of(row.get::<&str>(2)?.unwrap_or_default())))
            })
            .collect()
    }))
}

/// The routes of messages that a table's triggers say. In a transaction.
pub(super) fn routes_of(table: u32) -> Vec<RouteKey> {
    let sql = format!(
        "SELECT t.tgargs
           FROM pg_catalog.pg_trigger t
           JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.tgrelid
          WHERE t.tgrelid OPERATOR(pg_catalog.=) $1 AND {} AND {}",
        in_sql::is_realtime(),
        makes_realtime()
    );
    let all = with_snapshot(|| {
        or_raise(Spi::connect(|client| -> spi::Result<Vec<_>> {
            let rows = client.select(&sql, None, &[pg_sys::Oid::from(table).into()])?;
            rows.map(|row| row.get::<Vec<u8>>(1)).collect()
        }))
    });
    let keys = all.iter().flatten().filter_map(|arguments| Route::from_arguments(arguments));
    keys.map(|route| route.of(table).key()).collect()
}

/// The queues' tables, or partitions of them, that a subscription writes to. In a transaction.
pub(super) fn subscribed() -> HashSet<u32> {
    with_snapshot(|| {
        or_raise(Spi::connect(|client| -> spi::Result<HashSet<u32>> {
            let rows = client.select(&subscribed_sql(), None, &[])?;
            let tables = rows.map(|row| row.get::<pg_sys::Oid>(1));
            tables
                .filter_map(Result::transpose)
                .map(|table| table.map(pg_sys::Oid::to_u32))
                .collect()
        }))
    })
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
    const NOTHING: Self = Self { visible: 0, next: None, was_locked: false };
    pub(super) const LOCKED: Self = Self { was_locked: true, ..Self::NOTHING };
}

/// Whether a table can be looked at, and as which role. It is read once we have the lock, so that it stays true.
/// A table can't be looked at if its owner may be kept from its rows, or if its `vt` is not a timestamp.
const TABLE: &str = "
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.relowner
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
      JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
     WHERE c.oid OPERATOR(pg_catalog.=) $1
       AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog.\"char\"[])
       AND NOT (c.relrowsecurity AND c.relforcerowsecurity
                AND NOT (SELECT r.rolsuper OR r.rolbypassrls FROM pg_catalog.pg_roles r
                          WHERE r.oid OPERATOR(pg_catalog.=) c.relowner))
       AND a.attname OPERATOR(pg_catalog.=) 'vt'::pg_catalog.name
       AND a.atttypid OPERATOR(pg_catalog.=) 'pg_catalog.timestamptz'::pg_catalog.regtype::pg_catalog.oid";

/// Looks at a table, through the index on `vt`: a probe for each of up to `count` messages, and one for the next time,
/// whatever its length. In a transaction, which should have nothing else to do: it holds a lock, and the planner waits
/// for those on indexes and partitions, for as long as [`crate::pg::timeouts::within`] allows. It waits for the lock of
/// the table itself too, if it `may_wait`.
pub(super) fn look(table: pg_sys::Oid, from: Timestamp, count: u32, may_wait: bool) -> Seen {
    // Then each session that waits looks for itself.
    let unknown = Seen { visible: count.into(), next: None, was_locked: false };
    let mode = pg_sys::AccessShareLock;
    if may_wait {
        catalogs::lock(table, mode);
    } else if !catalogs::try_lock(table, mode) {
        return Seen::LOCKED;
    }
    with_snapshot(|| {
        let found = or_raise(Spi::connect(|client| -> spi::Result<_> {
            let rows = client.select(TABLE, Some(1), &[table.into()])?;
            if rows.is_empty() { Ok((None, None)) } else { rows.first().get_two() }
        }));
        let (Some(name), Some(owner)) = found else {
            // A table that is gone holds nothing.
            return if home::is_of_pgmq(table) { unknown } else { Seen::NOTHING };
        };
        let name: Text = name;
        let name = name.0;
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
            or_raise(Spi::connect(|client| {
                let arguments = [timestamp(from), i64::from(count).into()];
                let rows = client.select(text::to_c(&sql).as_c_str(), Some(1), &arguments)?;
                rows.first().get_two::<i64, TimestampWithTimeZone>()
            }))
        });
        let next = next.map(|next| Timestamp(pg_sys::TimestampTz::from(next)));
        let visible = visible.map_or(count.into(), i64::unsigned_abs);
        Seen { visible, next, was_locked: false }
    })
}

/// The name of a table's owner. In a transaction.
pub(super) fn owner_of(table: u32) -> Option<String> {
    let sql =
        "SELECT pg_catalog.pg_get_userbyid(relowner)::pg_catalog.text FROM pg_catalog.pg_class
                WHERE oid OPERATOR(pg_catalog.=) $1";
    with_snapshot(|| {
        or_raise(Spi::connect(|client| {
            let rows = client.select(sql, Some(1), &[pg_sys::Oid::from(table).into()])?;
            if rows.is_empty() { Ok(None) } else { rows.first().get_one::<Text>() }
        }))
    })
    .map(|owner| owner.0)
}

/// How many others are connected to this database. Not counted are our own processes, autovacuum, which gives way too,
/// and the one that asks. In a transaction.
pub(super) fn others_connected(asked_by: i32) -> i64 {
    let sql = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
                WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
                  AND pid OPERATOR(pg_catalog.<>) $1
                  AND backend_type OPERATOR(pg_catalog.<>) ALL
                      ('{aimq notifier,aimq watcher,autovacuum worker}'::pg_catalog.text[])";
    let count = with_snapshot(|| {
        or_raise(Spi::connect(|client| {
            client.select(sql, Some(1), &[asked_by.into()])?.first().get_one()
        }))
    });
    count.unwrap_or(0)
}

/// The owner of this database. In a transaction.
pub(super) fn owner() -> pg_sys::Oid {
    let sql = "SELECT datdba FROM pg_catalog.pg_database WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()";
    let owner = with_snapshot(|| {
        or_raise(Spi::connect(|client| client.select(sql, Some(1), &[])?.first().get_one()))
    });
    owner.unwrap_or(pg_sys::InvalidOid)
}

/// Whether nobody tells us when one of these prepared transactions has ended. Where the library is in every session,
/// the session that runs COMMIT PREPARED tells us. But the worker that applies a subscription runs no such statement
/// (replication/logical/worker.c), and names what it has prepared `pg_gid_…`.
pub(super) fn nobody_tells(prepared: &HashSet<String>) -> bool {
    !shared::is_preloaded() || prepared.iter().any(|name| name.starts_with("pg_gid_"))
}

/// The prepared transactions of this database: each one's name, and its number because another may have that name
/// later. In a transaction.
pub(super) fn prepared() -> HashSet<String> {
    if !ffi::may_prepare_transactions() {
        return HashSet::new();
    }
    with_snapshot(|| {
        or_raise(Spi::connect(|client| {
            let sql =
                "SELECT pg_catalog.concat(gid, ' ', transaction) FROM pg_catalog.pg_prepared_xacts
                        WHERE database OPERATOR(pg_catalog.=) pg_catalog.current_database()";
            let rows = client.select(sql, None, &[])?;
            let ids = rows.map(|row| row.get::<Text>(1));
            ids.filter_map(Result::transpose).map(|id| id.map(|id| id.0)).collect()
        }))
    })
}
