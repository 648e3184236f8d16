//! The triggers on a queue's table: the one before an INSERT reads the row and adds it to the transaction's
//! batch; the one before an UPDATE of visibility times or a DELETE only notes that there was one.
//!
//! A raw version-1 function, not `#[pg_trigger]`, so that its errors carry their own SQLSTATE. On the way of a row there
//! is no SPI, no catalog look-up, no call that can raise and no allocation. The exceptions are first rows: that of a
//! route or savepoint allocates; that of a table asks the catalog's caches; that of a session may attach the shared
//! memory, and may warn. What fails is an error of the statement.
//!
//! BEFORE INSERT, FOR EACH ROW: why that, and what the others cost, is in docs/design/trigger.md.
//! What a BEFORE trigger cannot know is what the triggers after it make of the row; see
//! [`has_company`].

use aimq_core::payload::event;
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;

use super::batch;
use super::row::note_id;
use crate::catalog::triggers::{BEFORE_INSERT_ROW, route_of};
use crate::catalog::{columns, home};
use crate::error::{Fault, Misuse};
use crate::pg::function::trigger_function;
use crate::pg::trigger::{Fired, On, Trigger};
use crate::pg::{ffi, process, transaction};
use crate::settings;

trigger_function! {
    /// `aimq.realtime_trigger()`, with the arguments channel, event, queue and, if any, options. Returns the row as it
    /// is.
    aimq_realtime_trigger, pg_finfo_aimq_realtime_trigger, fire
}

#[inline]
fn fire(fired: Option<Fired<'_>>) -> Result<pg_sys::Datum, Fault> {
    let fired = fired.ok_or(Misuse::NotATrigger)?;
    let on = fired.on();
    match (on, fired.is_for_row()) {
        (On::Insert, true) | (On::Update | On::Delete, false) => {}
        (On::Insert | On::Truncate, _) => return Err(Misuse::Level.into()),
        (On::Update | On::Delete, true) => return Err(Misuse::Event.into()),
    }
    if !fired.is_before() {
        return Err(Misuse::Time.into());
    }
    if settings::enabled() {
        match on {
            On::Insert => note(fired)?,
            On::Update => note_moved(fired)?,
            On::Delete | On::Truncate => note_taken(fired)?,
        }
    }
    Ok(fired.row())
}

/// Notes that the statement may change visibility times.
///
/// It does not read which ones, and to what: a row trigger would make a read of 100 messages 7 to 8 % slower. The
/// watcher looks.
fn note_moved(fired: Fired<'_>) -> Result<(), Fault> {
    let route = route_of(fired.trigger()).ok_or(Misuse::Arguments)?;
    let Some(relation) = home::of(fired).filter(|_| columns::sets_visibility(fired)) else {
        return Ok(());
    };
    // A message that is read gets a time after now(), and within a procedure the transaction is younger than the
    // statement. Any other message may have been set to any time, and so be visible now.
    let from = match columns::counts_reads(fired) {
        // A transaction that has waited began long ago, and reads by pgmq.read, which asks the clock.
        true if process::is_waiting() => ffi::now(),
        true => transaction::started_at(),
        false => Timestamp::NEG_INFINITY,
    };
    Ok(batch::record_moved(route.of(relation), from)?)
}

/// Notes that the statement may take messages away, as `pgmq.pop` does: they come back if the transaction
/// is rolled back.
fn note_taken(fired: Fired<'_>) -> Result<(), Fault> {
    let route = route_of(fired.trigger()).ok_or(Misuse::Arguments)?;
    match home::of(fired) {
        Some(relation) => Ok(batch::record_taken(route.of(relation))?),
        None => Ok(()),
    }
}

/// Adds the row to the batch.
#[inline]
fn note(fired: Fired<'_>) -> Result<(), Fault> {
    let route = route_of(fired.trigger()).ok_or(Misuse::Arguments)?;
    let Some(table) = home::of(fired) else {
        // The table is nobody's queue. It still has to look like a queue's table.
        return Ok(columns::visibility(fired).map(drop).ok_or(Misuse::Table)?);
    };
    let route = route.of(table);
    let may_be_back = batch::record(route, || match columns::visibility(fired) {
        Some(_) if has_company(fired.triggers()) => Ok(None),
        Some(column) => Ok(fired.time(column)),
        None if columns::has_visibility(fired) => Ok(None),
        None => Err(Misuse::Table.into()),
    })?;
    if !route.options.is_empty() {
        note_id(route, fired)?;
    }
    if may_be_back && let Some(id) = columns::id_of(fired) {
        batch::record_in(route, event::DELETED, id)?;
    }
    Ok(())
}

/// Whether the table has another BEFORE INSERT row trigger, which may change the row's visibility time
/// after we have seen it. (It may also drop the row: then the count is one too high, and its id is not told.)
#[inline]
fn has_company(triggers: &[Trigger]) -> bool {
    let before_insert = |it: &&Trigger| it.tgtype & BEFORE_INSERT_ROW == BEFORE_INSERT_ROW;
    triggers.iter().filter(before_insert).count() > 1
}
