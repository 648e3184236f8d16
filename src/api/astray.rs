//! Triggers of aimq on tables that belong to no queue today: a table was renamed, moved to another schema or replaced
//! by another, or pgmq has no list of its queues, as after a restore of the schema alone. Nobody finds them by the
//! queue's name, and DROP EXTENSION is refused because of them.
//!
//! Tables are found by the catalogs' snapshot, and known by their OIDs: what they are called and carry is asked again
//! under the lock, because somebody may be renaming them.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::spi::quote_identifier;

use crate::catalog::pgmq::{self, Queue};
use crate::catalog::{in_sql, triggers};
use crate::error::Warning;
use crate::pg::catalogs;
use crate::pg::spi::{Spi, or_raise};
use crate::pg::text::{self, Text};

/// A trigger of ours, but no copy that a partition has.
fn is_original() -> String {
    format!("{} AND t.tgparentid = 0 AND NOT t.tgisinternal", in_sql::is_ours())
}

/// Every table with a trigger of ours.
fn all() -> String {
    format!(
        "SELECT DISTINCT t.tgrelid, '' FROM pg_trigger t WHERE {} ORDER BY t.tgrelid",
        is_original()
    )
}

/// Tables in pgmq's schema with a trigger of ours, whose names are above one and, if that is there, below another. By
/// the indexes: what this costs does not grow with the queues there are.
fn of_names() -> String {
    format!(
        "SELECT c.oid, c.relname::text
           FROM (
                 SELECT oid, relname FROM pg_class
                  WHERE relname > $1::name AND relname < $2::name AND relnamespace = 'pgmq'::regnamespace
                 OFFSET 0
                ) c
          WHERE EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND {})
          ORDER BY c.relname",
        is_original()
    )
}

/// Takes them off every table that `is_wanted` and that the caller owns. Returns the queues that they name.
pub(crate) fn take_off_all(is_wanted: impl Fn(pg_sys::Oid) -> bool) -> Vec<String> {
    let tables = find(&all(), &[]).into_iter().map(|(table, _)| table);
    take_off_those(tables.filter(|table| is_wanted(*table)).collect(), |_| true)
}

/// Takes those off that name a queue, of tables whose names begin as its own do, as a_emails_old, which
/// `pgmq.convert_archive_partitioned` leaves; and that are no other queue's. True if there were any.
pub(crate) fn take_off(queue: &Queue) -> bool {
    let mut tables = Vec::new();
    // The archive last, as `pgmq.archive` has it.
    for prefix in [&queue.table_name, &queue.archive_name] {
        let above = above(prefix);
        let found = find(&of_names(), &[Text::of(prefix).into(), Text::of(&above).into()]);
        let found = found.into_iter().filter(|(_, name)| name.starts_with(prefix.as_str()));
        tables.extend(found.filter(|(_, name)| !pgmq::is_a_queues(name)).map(|(table, _)| table));
    }
    !take_off_those(tables, |named| named == queue.name).is_empty()
}

/// A name that is above all that begin with a prefix: the prefix with a greater last character; above all names if that
/// is not known.
fn above(prefix: &str) -> String {
    match prefix.as_bytes().split_last() {
        Some((last, rest)) if last.is_ascii_graphic() && *last < b'~' => {
            let rest = std::str::from_utf8(rest).unwrap_or_default();
            format!("{rest}{}", char::from(last + 1))
        }
        _ => format!("{}~", &prefix[..1]),
    }
}

fn find(sql: &str, arguments: &[DatumWithOid<'_>]) -> Vec<(pg_sys::Oid, String)> {
    or_raise(Spi::connect(|client| {
        let rows = client.select(sql, None, arguments)?;
        rows.map(|row| {
            let name = row.get::<Text>(2)?.unwrap_or_default().0;
            Ok((row.get(1)?.unwrap_or(pg_sys::InvalidOid), name))
        })
        .collect()
    }))
}

/// Drops those whose queue is wanted. Returns the queues, each once. Tables of others stay as they are, with a WARNING:
/// a user who makes such a table must not keep others from dropping their own triggers.
fn take_off_those(tables: Vec<pg_sys::Oid>, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let (mut queues, mut others) = (Vec::new(), Vec::new());
    for relation in tables {
        let triggers = || {
            let all = triggers::ours(relation).into_iter();
            let all =
                all.map(|(name, queue)| (text::from_server(&name), text::from_server(&queue)));
            all.filter(|(_, queue)| is_wanted(queue)).collect::<Vec<_>>()
        };
        if triggers().is_empty() {
            continue;
        }
        if pgmq::owner_if_another(relation).is_some() {
            others.extend(pgmq::table_name(relation));
            continue;
        }
        catalogs::lock(relation, pg_sys::AccessExclusiveLock);
        let Some(table) = pgmq::table_name(relation) else {
            continue;
        };
        for (trigger, queue) in triggers() {
            or_raise(Spi::run(&format!("DROP TRIGGER {} ON {table}", quote_identifier(&trigger))));
            if !queue.is_empty() && !queues.contains(&queue) {
                queues.push(queue);
            }
        }
    }
    if !others.is_empty() {
        Warning::OthersTriggers { tables: others }.report();
    }
    queues
}
