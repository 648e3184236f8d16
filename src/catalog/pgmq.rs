//! What aimq knows of pgmq: where its queues are.

use std::ffi::{CStr, CString};

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::triggers::{Attached, TRIGGERS, attached, has_trigger};
use crate::error::{Error, PGMQ_MIN};
use crate::pg::catalogs;
use crate::pg::spi::{Spi, or_raise};
use crate::pg::text::{self, Text};

/// Where pgmq is.
pub(crate) const SCHEMA: &CStr = c"pgmq";

/// A queue of `pgmq.meta` and its table.
#[derive(Debug)]
pub(crate) struct Queue {
    /// As `pgmq.meta` has it.
    pub(crate) name: String,
    /// The table's name; and ready to stand in SQL.
    pub(crate) table_name: String,
    pub(crate) table: String,
    pub(crate) oid: pg_sys::Oid,
    /// The same of the table of archived messages, which may be missing.
    pub(crate) archive_name: String,
    pub(crate) archive: String,
    pub(crate) archive_oid: pg_sys::Oid,
}

/// Fails unless pgmq is there and recent enough.
pub(crate) fn check_version() -> Result<(), Error> {
    let found: Option<Text> =
        ask("SELECT (SELECT extversion FROM pg_extension WHERE extname = 'pgmq')", &[]);
    let found = found.ok_or(Error::PgmqMissing)?.0;
    let mut numbers = found.split('.').map(|part| part.parse().unwrap_or(0_u32));
    let mut next = || numbers.next().unwrap_or(0);
    if (next(), next(), next()) < PGMQ_MIN { Err(Error::PgmqTooOld { found }) } else { Ok(()) }
}

/// The queue by the name as given, which pgmq.meta has an index for: what this costs does not grow with the queues
/// there are.
const FIND: &str = "
    SELECT queue_name::text, aimq._table(queue_name::text)::text, aimq._archive(queue_name::text)::text
      FROM pgmq.meta
     WHERE queue_name = $1";

/// By another spelling: all have to be read. Where two queues share a table, the older one wins.
const FIND_BY_TABLE: &str = "
    SELECT queue_name::text, aimq._table(queue_name::text)::text, aimq._archive(queue_name::text)::text
      FROM pgmq.meta
     WHERE lower('q_' || queue_name)::name = aimq._table($1)
     ORDER BY created_at
     LIMIT 1";

/// Every queue that has a table, in the order of the tables' names: a session that locks several takes them
/// in this order.
const FIND_ALL: &str = "
    SELECT DISTINCT ON (relation_name) queue, relation_name::text, relation, archive_name::text, archive
      FROM aimq._queues()
     WHERE relation IS NOT NULL
     ORDER BY relation_name, created_at";

/// Finds a queue by any spelling that pgmq accepts. Fails, 42501, where the caller may not know which queues there are.
pub(crate) fn find(queue: &str) -> Result<Queue, Error> {
    check_may_see_queues()?;
    match find_spelt(queue) {
        Some(found) if found.oid != pg_sys::InvalidOid => Ok(found),
        Some(found) => Err(Error::QueueTableNotFound { queue: found.name, table: found.table }),
        None => {
            let meant = meant(queue).find_map(find_spelt).map(|found| found.name);
            Err(Error::QueueNotFound { queue: queue.into(), meant })
        }
    }
}

fn find_spelt(queue: &str) -> Option<Queue> {
    find_by(FIND, queue).or_else(|| find_by(FIND_BY_TABLE, queue))
}

fn find_by(sql: &str, queue: &str) -> Option<Queue> {
    let found = or_raise(Spi::connect(|client| {
        let rows = client.select(sql, Some(1), &[Text::of(queue).into()])?;
        rows.map(|row| Ok([row.get::<Text>(1)?, row.get(2)?, row.get(3)?])).next().transpose()
    }));
    let [name, table, archive] = found?;
    let of = |name: Option<Text>| {
        let name = name?.0;
        let oid = oid_of(&text::to_c(&name));
        Some((name, oid))
    };
    Some(Queue::new(name?.0, of(table)?, of(archive)?))
}

/// What a name of no queue may have been meant for: the name of its table, with its schema or a queue's, in quotes.
fn meant(queue: &str) -> impl Iterator<Item = &str> {
    let bare = queue.trim_matches([' ', '"']);
    let last = bare.rsplit('.').next().unwrap_or(bare).trim_matches(' ').trim_matches('"');
    let is_prefix =
        |prefix: &str| prefix.eq_ignore_ascii_case("q_") || prefix.eq_ignore_ascii_case("a_");
    let of_table = |name| match str::split_at_checked(name, 2) {
        Some((prefix, rest)) if is_prefix(prefix) => Some(rest),
        _ => None,
    };
    let all = [Some(bare), of_table(bare), Some(last), of_table(last)];
    all.into_iter().flatten().filter(move |name| !name.is_empty() && *name != queue)
}

/// That there is no such table, with the queue that was meant if that has one.
pub(crate) fn no_table(queue: &str, table: &Table) -> Error {
    let (name, table) = (queue.to_owned(), table.quoted());
    match meant(queue).find(|name| table_of(name).is_there()) {
        Some(meant) => Error::QueueMisspelt { queue: name, table, meant: meant.to_owned() },
        None => Error::QueueTableNotFound { queue: name, table },
    }
}

/// Fails unless the caller may know which queues there are. It leaves the privileges on single columns to Postgres.
pub(crate) fn check_may_see_queues() -> Result<(), Error> {
    let meta = oid_of(c"meta");
    if meta == pg_sys::InvalidOid {
        return Ok(());
    }
    let may_read = catalogs::allows(meta, pg_sys::ACL_SELECT)
        || catalogs::allows_a_column(meta, pg_sys::ACL_SELECT);
    let (lacks, grant) = match (may_use_schema(), may_read) {
        (true, true) => return Ok(()),
        (true, false) => ("SELECT on pgmq.meta", "GRANT SELECT ON pgmq.meta TO ROLE"),
        (false, true) => ("USAGE on the schema pgmq", "GRANT USAGE ON SCHEMA pgmq TO ROLE"),
        (false, false) => (
            "USAGE on the schema pgmq, and SELECT on pgmq.meta",
            "GRANT USAGE ON SCHEMA pgmq TO ROLE; GRANT SELECT ON pgmq.meta TO ROLE",
        ),
    };
    Err(Error::MayNotSeeQueues { role: current_role(), lacks, grant })
}

/// Every queue.
pub(crate) fn find_all() -> Vec<Queue> {
    all(FIND_ALL, &[])
}

fn all(sql: &str, arguments: &[DatumWithOid<'_>]) -> Vec<Queue> {
    or_raise(Spi::connect(|client| {
        client
            .select(sql, None, arguments)?
            .map(|row| {
                let text = |column| spi::Result::Ok(row.get::<Text>(column)?.unwrap_or_default().0);
                let oid = |column| spi::Result::Ok(row.get(column)?.unwrap_or(pg_sys::InvalidOid));
                Ok(Queue::new(text(1)?, (text(2)?, oid(3)?), (text(4)?, oid(5)?)))
            })
            .collect()
    }))
}

/// One value. Where the transaction has written nothing yet this only reads, and so takes no
/// transaction id. So a call that changes nothing costs others nothing.
fn ask<T: FromDatum + IntoDatum>(sql: &str, arguments: &[DatumWithOid<'_>]) -> Option<T> {
    or_raise(Spi::connect(|client| client.select(sql, Some(1), arguments)?.first().get_one()))
}

/// A queue's table, found without `pgmq.meta`, for which a reader needs no privilege.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    name: CString,
    pub(crate) oid: pg_sys::Oid,
}

/// The table of a queue in any spelling that pgmq accepts. There may be none.
pub(crate) fn table_of(queue: &str) -> Table {
    let name: Option<Text> =
        ask("SELECT aimq._table($1)::pg_catalog.text", &[Text::of(queue).into()]);
    let name = text::to_c(&name.unwrap_or_default());
    let oid = oid_of(&name);
    Table { name, oid }
}

/// pgmq's list of queues.
pub(crate) fn list_of_queues() -> Option<Table> {
    let name = c"meta".to_owned();
    let table = Table { oid: oid_of(&name), name };
    table.is_there().then_some(table)
}

/// From the catalog caches: takes no lock.
fn oid_of(table: &CStr) -> pg_sys::Oid {
    catalogs::relation(table, catalogs::schema(SCHEMA).unwrap_or(pg_sys::InvalidOid))
}

impl Table {
    /// Whether there still is this very table.
    pub(crate) fn is_there(&self) -> bool {
        self.oid != pg_sys::InvalidOid && oid_of(&self.name) == self.oid
    }

    pub(crate) fn is_partitioned(&self) -> bool {
        catalogs::kind_of(self.oid) == pg_sys::RELKIND_PARTITIONED_TABLE
    }

    /// Ready to stand in SQL.
    pub(crate) fn quoted(&self) -> String {
        quoted(&text::from_server(self.name.to_bytes()))
    }

    /// Whether the caller has a privilege on it: one of the `ACL_…`.
    pub(crate) fn allows(&self, privilege: u32) -> bool {
        catalogs::allows(self.oid, privilege)
    }
}

/// Whether the caller may know which queues there are: as the views, which read `pgmq.meta` as their caller. From the
/// catalog caches, and false where pgmq is missing.
pub(crate) fn may_see_queues() -> bool {
    let meta = Table { name: c"meta".into(), oid: oid_of(c"meta") };
    may_use_schema() && meta.is_there() && meta.allows(pg_sys::ACL_SELECT)
}

/// Whether the caller may look into pgmq's schema.
fn may_use_schema() -> bool {
    catalogs::schema(SCHEMA).is_some_and(catalogs::allows_usage)
}

/// A table of pgmq's, ready to stand in SQL.
fn quoted(table: &str) -> String {
    format!("pgmq.{}", spi::quote_identifier(table))
}

/// Who owns a table, where the caller is no member of that role.
pub(crate) fn owner_if_another(relation: pg_sys::Oid) -> Option<String> {
    let owner: Option<Text> = ask(
        "SELECT (SELECT pg_get_userbyid(relowner)::text FROM pg_class \
                  WHERE oid = $1 AND NOT pg_has_role(relowner, 'USAGE'))",
        &[relation.into()],
    );
    owner.map(|owner| owner.0)
}

/// What a table is called now, ready to stand in SQL: from the catalog caches. `None` if it has gone.
pub(crate) fn table_name(relation: pg_sys::Oid) -> Option<String> {
    let [schema, name] = catalogs::names_of(relation)?.map(|it| text::from_server(&it));
    Some(format!("{}.{}", spi::quote_identifier(schema), spi::quote_identifier(name)))
}

/// Whether a name in pgmq's schema is that of a table of a queue, or of its archived messages. Reads all of pgmq.meta.
pub(crate) fn is_a_queues(table: &str) -> bool {
    let sql = "SELECT EXISTS (
        SELECT FROM pgmq.meta WHERE $1 IN (lower('q_' || queue_name)::name::text, lower('a_' || queue_name)::name::text))";
    ask(sql, &[Text::of(table).into()]) == Some(true)
}

impl Queue {
    fn new(
        name: String,
        (table_name, oid): (String, pg_sys::Oid),
        (archive_name, archive_oid): (String, pg_sys::Oid),
    ) -> Self {
        let (table, archive) = (quoted(&table_name), quoted(&archive_name));
        Self { name, table_name, table, oid, archive_name, archive, archive_oid }
    }

    /// Takes `mode` on its tables until the transaction ends, waiting for it as any DDL would; on that of archived
    /// messages last, as `pgmq.archive` does.
    pub(crate) fn lock(&self, mode: u32, with_archive: bool) {
        catalogs::lock(self.oid, mode);
        if with_archive {
            catalogs::lock(self.archive_oid, mode);
        }
    }

    /// The table that carries a kind of trigger.
    pub(crate) fn table_for(&self, is_of_archive: bool) -> (&str, pg_sys::Oid) {
        match is_of_archive {
            true => (&self.archive, self.archive_oid),
            false => (&self.table, self.oid),
        }
    }

    /// Whether a superuser owns the table that carries a kind of trigger.
    pub(crate) fn is_superusers(&self, is_of_archive: bool) -> bool {
        let (_, oid) = self.table_for(is_of_archive);
        let sql = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = $1 AND r.rolsuper)";
        ask(sql, &[oid.into()]) == Some(true)
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
        match owner_if_another(oid) {
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
        ask::<Text>(sql, &[Text::of(&self.name).into()]).unwrap_or_default().0
    }

    /// By pgmq's own function, which forgets the throttle too, where there is one. It wants the name as it was spelt
    /// when the throttle was set: each that a throttle of this table has.
    pub(crate) fn drop_notify_trigger(&self) {
        let has = |what: &str| ask(&format!("SELECT {what} IS NOT NULL"), &[]) == Some(true);
        if has("to_regprocedure('pgmq.disable_notify_insert(text)')") {
            let mut sql = "SELECT pgmq.disable_notify_insert($1)".to_owned();
            if has("to_regclass('pgmq.notify_insert_throttle')") {
                sql += " UNION ALL
                    SELECT pgmq.disable_notify_insert(queue_name::text) FROM pgmq.notify_insert_throttle
                     WHERE lower('q_' || queue_name)::name = aimq._table($1) AND queue_name <> $1";
            }
            or_raise(Spi::run_with_args(&sql, &[Text::of(&self.name).into()]));
        } else {
            let table = &self.table;
            or_raise(Spi::run(&format!(
                "DROP TRIGGER trigger_notify_queue_insert_listeners ON {table}"
            )));
        }
    }
}

/// Whether there is Supabase's function for broadcasts.
pub(crate) fn has_realtime_send() -> bool {
    ask("SELECT aimq._realtime_send() IS NOT NULL", &[]) == Some(true)
}

pub(crate) fn current_role() -> String {
    ask::<Text>("SELECT current_user::text", &[]).unwrap_or_default().0
}
