//! What aimq knows of pgmq: where its queues are.

use std::ffi::{CStr, CString};

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;

use crate::attached::{Attached, TRIGGERS, attached, has_trigger};
use crate::error::{Error, PGMQ_MIN};

/// A queue of `pgmq.meta` and its table.
#[derive(Debug)]
pub(crate) struct Queue {
    /// As `pgmq.meta` has it.
    pub(crate) name: String,
    /// The table, ready to stand in SQL.
    pub(crate) table: String,
    pub(crate) oid: pg_sys::Oid,
    /// The same of the table of archived messages, which may be missing.
    pub(crate) archive: String,
    pub(crate) archive_oid: pg_sys::Oid,
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
    SELECT queue, format('pgmq.%I', relation_name), relation, format('pgmq.%I', archive_name), archive
      FROM aimq._queues()
     WHERE relation_name = aimq._table($1)
     ORDER BY queue <> $1, created_at
     LIMIT 1";

/// Every queue that has a table, in the order of the tables' names: whoever locks several takes them
/// in this order.
const FIND_ALL: &str = "
    SELECT DISTINCT ON (relation_name) queue, format('pgmq.%I', relation_name), relation,
           format('pgmq.%I', archive_name), archive
      FROM aimq._queues()
     WHERE relation IS NOT NULL
     ORDER BY relation_name, created_at";

/// Finds a queue by any spelling that pgmq accepts.
pub(crate) fn find(queue: &str) -> Result<Queue, Error> {
    let found = all(FIND, &[queue.into()]).pop();
    match found {
        Some(found) if found.oid != pg_sys::InvalidOid => Ok(found),
        Some(found) => Err(Error::QueueTableNotFound { queue: found.name, table: found.table }),
        None => Err(Error::QueueNotFound { queue: queue.into() }),
    }
}

/// Every queue.
pub(crate) fn find_all() -> Vec<Queue> {
    all(FIND_ALL, &[])
}

fn all(sql: &str, arguments: &[DatumWithOid<'_>]) -> Vec<Queue> {
    report(Spi::connect(|client| {
        client
            .select(sql, None, arguments)?
            .map(|row| {
                Ok(Queue {
                    name: row.get(1)?.unwrap_or_default(),
                    table: row.get(2)?.unwrap_or_default(),
                    oid: row.get(3)?.unwrap_or(pg_sys::InvalidOid),
                    archive: row.get(4)?.unwrap_or_default(),
                    archive_oid: row.get(5)?.unwrap_or(pg_sys::InvalidOid),
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
    /// Takes `mode` on its tables until the transaction ends, waiting for it as any DDL would; on that of archived messages
    /// last, as `pgmq.archive` does.
    pub(crate) fn lock(&self, mode: u32, with_archive: bool) {
        // SAFETY: locking takes an OID, whether or not a table has it.
        unsafe {
            pg_sys::LockRelationOid(self.oid, mode.cast_signed());
            if with_archive {
                pg_sys::LockRelationOid(self.archive_oid, mode.cast_signed());
            }
        }
    }

    /// The table that carries a kind of trigger.
    pub(crate) fn table_for(&self, is_of_archive: bool) -> (&str, pg_sys::Oid) {
        match is_of_archive {
            true => (&self.archive, self.archive_oid),
            false => (&self.table, self.oid),
        }
    }

    /// Fails unless the caller may create triggers on the table.
    pub(crate) fn check_may_enable(&self, is_of_archive: bool) -> Result<(), Error> {
        let (table, oid) = self.table_for(is_of_archive);
        let allowed: Option<bool> = ask("SELECT has_table_privilege($1, 'TRIGGER')", &[oid.into()]);
        if allowed == Some(false) {
            return Err(Error::NoTriggerPrivilege { table: table.into(), role: current_role() });
        }
        Ok(())
    }

    /// Fails unless the caller may drop triggers of the table.
    pub(crate) fn check_may_disable(&self, is_of_archive: bool) -> Result<(), Error> {
        let (table, oid) = self.table_for(is_of_archive);
        let owner: Option<String> = ask(
            "SELECT (SELECT pg_get_userbyid(relowner)::text FROM pg_class \
                      WHERE oid = $1 AND NOT pg_has_role(relowner, 'USAGE'))",
            &[oid.into()],
        );
        match owner {
            Some(owner) => {
                Err(Error::NotOwner { table: table.into(), owner, role: current_role() })
            }
            None => Ok(()),
        }
    }

    /// What its tables carry of each of [`TRIGGERS`]. Fails if the queue's own has gone.
    pub(crate) fn attached(&self) -> Result<Vec<Option<Attached>>, Error> {
        let own = attached(self.oid, &TRIGGERS).ok_or_else(|| Error::QueueTableNotFound {
            queue: self.name.clone(),
            table: self.table.clone(),
        })?;
        let archive = attached(self.archive_oid, &TRIGGERS);
        let archive = archive.unwrap_or_else(|| TRIGGERS.iter().map(|_| None).collect());
        let both = TRIGGERS.iter().zip(own).zip(archive);
        Ok(both
            .map(|((kind, own), archive)| if kind.is_of_archive { archive } else { own })
            .collect())
    }
}

/// pgmq's own notifications (`pgmq.enable_notify_insert`).
impl Queue {
    /// Whether pgmq announces it now: from the relation cache, as [`Queue::attached`].
    pub(crate) fn has_notify_trigger(&self) -> bool {
        let name = c"trigger_notify_queue_insert_listeners";
        has_trigger(self.oid, name, c"pgmq", c"notify_queue_listeners")
    }

    /// The channel that pgmq's listeners wait on. For a partitioned queue that of the parent, although pgmq's trigger
    /// says the partition's: no client of pgmq's knows those.
    pub(crate) fn notify_channel(&self) -> String {
        let sql = "SELECT format('pgmq.%s.INSERT', aimq._table($1))";
        ask(sql, &[self.name.as_str().into()]).unwrap_or_default()
    }

    /// By pgmq's own function, which forgets the throttle too, where there is one. It wants the name as it was spelt when
    /// the throttle was set: each that pgmq.meta has for this table.
    pub(crate) fn drop_notify_trigger(&self) {
        let sql = "SELECT to_regprocedure('pgmq.disable_notify_insert(text)') IS NOT NULL";
        if ask(sql, &[]) == Some(true) {
            let sql =
                "SELECT pgmq.disable_notify_insert(queue) FROM aimq._queues() WHERE relation = $1";
            report(Spi::run_with_args(sql, &[self.oid.into()]));
        } else {
            let table = &self.table;
            report(Spi::run(&format!(
                "DROP TRIGGER trigger_notify_queue_insert_listeners ON {table}"
            )));
        }
    }
}

/// Whether there is Supabase's function for broadcasts.
pub(crate) fn has_realtime_send() -> bool {
    ask("SELECT aimq._realtime_send() IS NOT NULL", &[]) == Some(true)
}

fn current_role() -> String {
    ask("SELECT current_user::text", &[]).unwrap_or_default()
}
