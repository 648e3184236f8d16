//! The table of archived messages can be replaced by another of its name: `pgmq.convert_archive_partitioned` does so,
//! and so do users who keep the old one by hand. The trigger that tells of archiving stays on the old table, and
//! archived messages then look like deleted ones. So an event trigger gives the new table the trigger that the old one
//! had.
//!
//! The old one keeps its trigger: by it, rows that are moved from there to the new one are known to have been archived
//! before.

use std::ffi::{CStr, CString};

use aimq_core::payload::event;
use aimq_core::route::Route;
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::spi::quote_identifier;

use super::attach;
use crate::catalog::in_sql;
use crate::catalog::pgmq::SCHEMA;
use crate::catalog::triggers::{Attached, Kind, Setting, TRIGGERS, attached};
use crate::error::{Error, Misuse};
use crate::pg::catalogs;
use crate::pg::function::event_trigger_function;
use crate::pg::spi::or_raise;
use crate::pg::statement::Statement;

/// What pgmq puts before a queue's name to name its tables.
const QUEUE: &[u8] = b"q_";
const ARCHIVE: &[u8] = b"a_";

event_trigger_function! {
    /// `aimq.archive_trigger()`, the function of the event trigger that sees tables made, renamed and moved.
    aimq_archive_trigger, pg_finfo_aimq_archive_trigger, on_event
}

fn on_event(statement: Option<Statement>) {
    let Some(statement) = statement else {
        Error::from(Misuse::NotATrigger).raise();
    };
    if let Some(name) = statement.names_table()
        && let Some(queue) = name.to_bytes().strip_prefix(ARCHIVE)
    {
        follow(name, queue);
    }
}

/// Gives the table the trigger, if the queue is one that has it on another table.
fn follow(name: &CStr, queue: &[u8]) {
    let Some(archive) = table(name) else {
        return;
    };
    let Ok(queue) = CString::new([QUEUE, queue].concat()) else {
        return;
    };
    let Some(Attached { setting: Some(setting), enabled }) =
        table(&queue).and_then(|queue| first(queue, &TRIGGERS[..1]))
    else {
        return;
    };
    let kinds = TRIGGERS.iter().filter(|kind| kind.is_of_archive).copied();
    let kinds: Vec<Kind> = kinds.collect();
    let Some(route) = Route::from_arguments(&setting.arguments) else {
        return;
    };
    let wanted = Setting::from(Route { event: event::ARCHIVED, ..route });
    if first(archive, &kinds).is_some() || !is_elsewhere(archive, &wanted) || !may_attach(archive) {
        return;
    }
    let table = format!("pgmq.{}", quote_identifier(name.to_string_lossy()));
    for kind in &kinds {
        or_raise(Spi::run(&attach::create(kind, &table, &wanted)));
        if let Some(enable) = attach::enable_as(kind, &table, enabled) {
            or_raise(Spi::run(&enable));
        }
    }
}

/// An ordinary or partitioned table of pgmq's, from the catalog caches.
fn table(name: &CStr) -> Option<pg_sys::Oid> {
    let found = catalogs::relation(name, catalogs::schema(SCHEMA)?);
    matches!(catalogs::kind_of(found), b'r' | b'p').then_some(found)
}

/// The first of these triggers, if a table has it.
fn first(table: pg_sys::Oid, kinds: &[Kind]) -> Option<Attached> {
    attached(table, kinds)?.into_iter().next()?
}

/// Whether another table has the trigger: it was the archive before, or is a partition of that.
fn is_elsewhere(archive: pg_sys::Oid, wanted: &Setting) -> bool {
    let names = TRIGGERS.iter().filter(|kind| kind.is_of_archive).map(|kind| kind.name);
    let sql = format!(
        "SELECT EXISTS (
                SELECT FROM pg_catalog.pg_trigger t
                 WHERE t.tgname OPERATOR(pg_catalog.=) ANY ('{{{}}}'::pg_catalog.name[]) AND {}
                   AND t.tgargs OPERATOR(pg_catalog.=) $1 AND t.tgrelid OPERATOR(pg_catalog.<>) $2)",
        names.collect::<Vec<_>>().join(","),
        in_sql::is_event()
    );
    let arguments = [wanted.arguments.to_vec().into(), archive.into()];
    or_raise(Spi::get_one_with_args(&sql, &arguments)) == Some(true)
}

/// Whether the role that replaces the table may make the trigger: otherwise the statement would fail because of us.
fn may_attach(archive: pg_sys::Oid) -> bool {
    let sql = format!(
        "SELECT pg_catalog.has_table_privilege($1, 'TRIGGER')
                AND pg_catalog.has_schema_privilege('aimq', 'USAGE')
                AND pg_catalog.has_function_privilege({}, 'EXECUTE')",
        in_sql::event_function()
    );
    or_raise(Spi::get_one_with_args(&sql, &[archive.into()])) == Some(true)
}
