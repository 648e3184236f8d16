//! What aimq knows of pgmq: where its queues are, and which trigger their tables carry.

use std::ffi::{CStr, CString};

use aimq_core::route::Route;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::error::{Error, PGMQ_MIN};
use crate::trigger::{BEFORE_CHANGE_STATEMENT, BEFORE_INSERT_ROW, trigger_route};

/// A trigger of a realtime queue's table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// As CREATE TRIGGER has it.
    pub(crate) on: &'static str,
    pub(crate) level: &'static str,
    /// As `pg_trigger.tgtype` has it.
    tgtype: i16,
}

/// The triggers of a realtime queue's table, in the order of their making. The first is what makes it
/// realtime, and what the view aimq.queues shows; the second came later.
pub(crate) const TRIGGERS: [Kind; 2] = [
    Kind { name: "aimq_realtime", on: "BEFORE INSERT", level: "ROW", tgtype: BEFORE_INSERT_ROW },
    Kind {
        name: "aimq_realtime_vt",
        on: "BEFORE UPDATE OF vt OR DELETE",
        level: "STATEMENT",
        tgtype: BEFORE_CHANGE_STATEMENT,
    },
];

/// A queue of `pgmq.meta` and its table.
#[derive(Debug)]
pub(crate) struct Queue {
    /// As `pgmq.meta` has it.
    pub(crate) name: String,
    /// The table, ready to stand in SQL.
    pub(crate) table: String,
    pub(crate) oid: pg_sys::Oid,
}

/// What a queue's trigger says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) channel: Vec<u8>,
    pub(crate) event: Vec<u8>,
    pub(crate) queue: Vec<u8>,
}

impl Setting {
    pub(crate) fn new(channel: &str, event: &str, queue: &str) -> Self {
        Self { channel: channel.into(), event: event.into(), queue: queue.into() }
    }
}

impl From<Route<'_>> for Setting {
    fn from(route: Route<'_>) -> Self {
        let copy = |text: &CStr| text.to_bytes().to_vec();
        Self { channel: copy(route.channel), event: copy(route.event), queue: copy(route.queue) }
    }
}

/// The trigger that a queue's table carries.
#[derive(Debug)]
pub(crate) struct Attached {
    /// `None` if it is not the trigger that [`crate::api`] would attach: another function, another
    /// level, a WHEN clause.
    pub(crate) setting: Option<Setting>,
    /// How it fires, as in `pg_trigger.tgenabled`: `O`, `D`, `R` or `A`.
    pub(crate) enabled: u8,
}

/// Fails unless pgmq is there and recent enough.
pub(crate) fn check_version() -> Result<(), Error> {
    let found: Option<String> =
        ask("SELECT (SELECT extversion FROM pg_extension WHERE extname = 'pgmq')", &[]);
    let found = found.ok_or(Error::PgmqMissing)?;
    let mut numbers = found.split('.').map(|part| part.parse().unwrap_or(0_u32));
    let mut next = || numbers.next().unwrap_or(0);
    if (next(), next(), next()) < PGMQ_MIN { Err(Error::PgmqTooOld { found }) } else { Ok(()) }
}

/// Where two queues of `pgmq.meta` share a table, the name as given wins, then the older one.
const FIND: &str = "
    SELECT queue, format('pgmq.%I', relation_name), relation
      FROM aimq._queues()
     WHERE relation_name = aimq._table($1)
     ORDER BY queue <> $1, created_at
     LIMIT 1";

/// Every queue that has a table, in the order of the tables' names: whoever locks several takes them
/// in this order.
const FIND_ALL: &str = "
    SELECT DISTINCT ON (relation_name) queue, format('pgmq.%I', relation_name), relation
      FROM aimq._queues()
     WHERE relation IS NOT NULL
     ORDER BY relation_name, created_at";

/// Finds a queue by any spelling that pgmq accepts.
pub(crate) fn find(queue: &str) -> Result<Queue, Error> {
    let row = Spi::connect(|client| -> spi::Result<_> {
        let rows = client.select(FIND, Some(1), &[queue.into()])?;
        if rows.is_empty() {
            Ok(None)
        } else {
            rows.first().get_three::<String, String, pg_sys::Oid>().map(Some)
        }
    });
    match report(row) {
        Some((Some(name), Some(table), Some(oid))) => Ok(Queue { name, table, oid }),
        Some((Some(name), Some(table), None)) => {
            Err(Error::QueueTableNotFound { queue: name, table })
        }
        _ => Err(Error::QueueNotFound { queue: queue.into() }),
    }
}

/// Every queue.
pub(crate) fn find_all() -> Vec<Queue> {
    report(Spi::connect(|client| {
        client
            .select(FIND_ALL, None, &[])?
            .map(|row| {
                Ok(Queue {
                    name: row.get(1)?.unwrap_or_default(),
                    table: row.get(2)?.unwrap_or_default(),
                    oid: row.get(3)?.unwrap_or(pg_sys::InvalidOid),
                })
            })
            .collect()
    }))
}

/// One value. Where the transaction has written nothing yet this reads only, and so takes no
/// transaction id: asking for what is so already costs others nothing.
fn ask<T: FromDatum + IntoDatum>(sql: &str, arguments: &[DatumWithOid<'_>]) -> Option<T> {
    report(Spi::connect(|client| client.select(sql, Some(1), arguments)?.first().get_one()))
}

/// A queue's table, found without `pgmq.meta`, for which a reader needs no privilege.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    name: CString,
    pub(crate) oid: pg_sys::Oid,
}

/// The table of a queue in any spelling that pgmq accepts. There may be none.
pub(crate) fn table_of(queue: &str) -> Table {
    let name: Option<String> = ask("SELECT aimq._table($1)::pg_catalog.text", &[queue.into()]);
    let name = CString::new(name.unwrap_or_default()).unwrap_or_default();
    let oid = oid_of(&name);
    Table { name, oid }
}

/// From the catalog caches: takes no lock.
fn oid_of(table: &CStr) -> pg_sys::Oid {
    // SAFETY: names that live over the calls.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"pgmq".as_ptr(), true);
        pg_sys::get_relname_relid(table.as_ptr(), schema)
    }
}

impl Table {
    /// Whether there still is this very table.
    pub(crate) fn is_there(&self) -> bool {
        self.oid != pg_sys::InvalidOid && oid_of(&self.name) == self.oid
    }

    pub(crate) fn is_partitioned(&self) -> bool {
        // SAFETY: asks the catalog caches.
        let kind = unsafe { pg_sys::get_rel_relkind(self.oid) };
        kind.cast_unsigned() == pg_sys::RELKIND_PARTITIONED_TABLE
    }

    /// Ready to stand in SQL.
    pub(crate) fn quoted(&self) -> String {
        format!("pgmq.{}", spi::quote_identifier(self.name.to_string_lossy()))
    }

    /// Whether the caller has a privilege on it: one of the `ACL_…`.
    pub(crate) fn allows(&self, privilege: u32) -> bool {
        // SAFETY: asks the catalog caches.
        unsafe {
            let mode = pg_sys::AclMode::from(privilege);
            pg_sys::pg_class_aclcheck(self.oid, pg_sys::GetUserId(), mode)
                == pg_sys::AclResult::ACLCHECK_OK
        }
    }
}

/// SPI's own failures are bugs of ours, not mistakes of a user: raise them as they are.
pub(crate) fn report<T>(result: spi::Result<T>) -> T {
    result.unwrap_or_else(|error| {
        pgrx::error!("aimq: {error}");
    })
}

impl Queue {
    /// Takes `mode` on the table until the transaction ends, waiting for it as any DDL would.
    pub(crate) fn lock(&self, mode: u32) {
        // SAFETY: locking takes an OID, whether or not a table has it.
        unsafe { pg_sys::LockRelationOid(self.oid, mode.cast_signed()) }
    }

    /// Fails unless the caller may create triggers on the table.
    pub(crate) fn check_may_enable(&self) -> Result<(), Error> {
        let allowed: Option<bool> =
            ask("SELECT has_table_privilege($1, 'TRIGGER')", &[self.oid.into()]);
        if allowed == Some(false) {
            return Err(Error::NoTriggerPrivilege {
                table: self.table.clone(),
                role: current_role(),
            });
        }
        Ok(())
    }

    /// Fails unless the caller may drop triggers of the table.
    pub(crate) fn check_may_disable(&self) -> Result<(), Error> {
        let owner: Option<String> = ask(
            "SELECT (SELECT pg_get_userbyid(relowner)::text FROM pg_class \
                      WHERE oid = $1 AND NOT pg_has_role(relowner, 'USAGE'))",
            &[self.oid.into()],
        );
        match owner {
            Some(owner) => {
                Err(Error::NotOwner { table: self.table.clone(), owner, role: current_role() })
            }
            None => Ok(()),
        }
    }

    /// What [`attached`] says of its table. Fails if that has gone.
    pub(crate) fn attached(&self) -> Result<[Option<Attached>; 2], Error> {
        attached(self.oid).ok_or_else(|| Error::QueueTableNotFound {
            queue: self.name.clone(),
            table: self.table.clone(),
        })
    }
}

/// The triggers of aimq's names that a table carries now: from the relation cache, so it is current even where
/// the transaction's snapshot is old. Takes ACCESS SHARE. `None` if the table has gone.
pub(crate) fn attached(table: pg_sys::Oid) -> Option<[Option<Attached>; 2]> {
    let ours = trigger_function();
    // SAFETY: the relation stays open, and so its trigger descriptor valid, until it is closed;
    // nothing in between keeps a pointer into it.
    unsafe {
        let relation = pg_sys::try_relation_open(table, pg_sys::AccessShareLock.cast_signed());
        if relation.is_null() {
            return None;
        }
        let descriptor = (*relation).trigdesc;
        let triggers = if descriptor.is_null() {
            &[]
        } else {
            let count = usize::try_from((*descriptor).numtriggers).unwrap_or(0);
            std::slice::from_raw_parts((*descriptor).triggers, count)
        };
        let attached = TRIGGERS.map(|kind| {
            let has_name = |trigger: &&pg_sys::Trigger| {
                CStr::from_ptr(trigger.tgname).to_bytes() == kind.name.as_bytes()
            };
            let trigger = triggers.iter().find(has_name)?;
            let is_ours =
                trigger.tgfoid == ours && trigger.tgtype == kind.tgtype && trigger.tgqual.is_null();
            Some(Attached {
                setting: trigger_route(trigger).filter(|_| is_ours).map(Setting::from),
                enabled: trigger.tgenabled.cast_unsigned(),
            })
        });
        pg_sys::relation_close(relation, pg_sys::AccessShareLock.cast_signed());
        Some(attached)
    }
}

/// The OID of `aimq.realtime_trigger()`, from the catalog caches.
fn trigger_function() -> pg_sys::Oid {
    // SAFETY: a list of two strings, both copied, in the memory of the current call.
    unsafe {
        let part = |name: &CStr| pg_sys::makeString(pg_sys::pstrdup(name.as_ptr())).cast();
        let name = pg_sys::lappend(std::ptr::null_mut(), part(c"aimq"));
        let name = pg_sys::lappend(name, part(c"realtime_trigger"));
        pg_sys::LookupFuncName(name, 0, std::ptr::null(), true)
    }
}

fn current_role() -> String {
    ask("SELECT current_user::text", &[]).unwrap_or_default()
}
