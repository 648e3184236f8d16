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
use crate::catalog::triggers::{Attached, Kind, Setting, TRIGGERS, attached};
use crate::error::{Error, Misuse};
use crate::pg::ffi;
use crate::pg::spi::report;

/// What pgmq puts before a queue's name to name its tables.
const QUEUE: &[u8] = b"q_";
const ARCHIVE: &[u8] = b"a_";

/// Tells Postgres that [`aimq_archive_trigger`] is called by the version-1 convention.
#[unsafe(no_mangle)]
#[allow(unreachable_pub, reason = "Postgres finds it by its symbol")]
pub extern "C" fn pg_finfo_aimq_archive_trigger() -> &'static pg_sys::Pg_finfo_record {
    const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

/// `aimq.archive_trigger()`, the function of the event trigger that sees tables made, renamed and moved.
#[unsafe(no_mangle)]
#[pg_guard]
#[allow(unreachable_pub, reason = "Postgres finds it by its symbol")]
pub unsafe extern "C-unwind" fn aimq_archive_trigger(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: Postgres calls this with valid call information; the tag says what the context is.
    unsafe {
        let Some(statement) = ffi::statement_of_event(fcinfo) else {
            Error::from(Misuse::NotATrigger).raise();
        };
        if let Some(name) = named(statement)
            && let Some(queue) = name.to_bytes().strip_prefix(ARCHIVE)
        {
            follow(name, queue);
        }
    }
    pg_sys::Datum::null()
}

/// The name that the statement gives a table.
///
/// # Safety
/// `node` must be a utility statement.
unsafe fn named<'a>(node: *mut pg_sys::Node) -> Option<&'a CStr> {
    use pg_sys::NodeTag as Tag;
    // SAFETY: the tag says what the node is, and the grammar what it has.
    unsafe {
        let name = match (*node).type_ {
            Tag::T_CreateStmt => (*(*node.cast::<pg_sys::CreateStmt>()).relation).relname,
            Tag::T_CreateTableAsStmt => {
                (*(*(*node.cast::<pg_sys::CreateTableAsStmt>()).into).rel).relname
            }
            Tag::T_RenameStmt => (*node.cast::<pg_sys::RenameStmt>()).newname,
            Tag::T_AlterObjectSchemaStmt => {
                let relation = (*node.cast::<pg_sys::AlterObjectSchemaStmt>()).relation;
                if relation.is_null() {
                    return None;
                }
                (*relation).relname
            }
            _ => return None,
        };
        (!name.is_null()).then(|| CStr::from_ptr(name))
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
        report(Spi::run(&attach::create(kind, &table, &wanted)));
        if let Some(enable) = attach::enable_as(kind, &table, enabled) {
            report(Spi::run(&enable));
        }
    }
}

/// An ordinary or partitioned table of pgmq's, from the catalog caches.
fn table(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: asks the catalog caches.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"pgmq".as_ptr(), true);
        if schema == pg_sys::InvalidOid {
            return None;
        }
        let found = pg_sys::get_relname_relid(name.as_ptr(), schema);
        let kind = pg_sys::get_rel_relkind(found).cast_unsigned();
        (found != pg_sys::InvalidOid && matches!(kind, b'r' | b'p')).then_some(found)
    }
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
    report(Spi::get_one_with_args(&sql, &arguments)) == Some(true)
}

/// Whether the role that replaces the table may make the trigger: otherwise the statement would fail because of us.
fn may_attach(archive: pg_sys::Oid) -> bool {
    let sql = format!(
        "SELECT pg_catalog.has_table_privilege($1, 'TRIGGER')
                AND pg_catalog.has_schema_privilege('aimq', 'USAGE')
                AND pg_catalog.has_function_privilege({}, 'EXECUTE')",
        in_sql::event_function()
    );
    report(Spi::get_one_with_args(&sql, &[archive.into()])) == Some(true)
}
