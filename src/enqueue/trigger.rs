//! The triggers on a queue's table: the one before an INSERT reads the row and adds it to the transaction's
//! batch; the one before an UPDATE of visibility times or a DELETE only notes that there was one.
//!
//! A raw version-1 function, not `#[pg_trigger]`, so that its errors carry their own SQLSTATE. On the
//! way of a row there is no SPI, no catalog look-up, no call that can raise, and, except for the first
//! row of a route or savepoint, no allocation. One that fails is an error of the statement.
//!
//! BEFORE INSERT, FOR EACH ROW: why that, and what the others cost, is in docs/design/trigger.md.
//! What a BEFORE trigger cannot know is what the triggers after it make of the row; see
//! [`has_company`].

use aimq_core::payload::event;
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::trigger_support::{trigger_fired_before, trigger_fired_for_row};

use super::batch;
use super::row::{called_with, note_id};
use crate::catalog::columns::{self, VT, id_of, visibility_attribute};
use crate::catalog::home;
use crate::catalog::triggers::{BEFORE_INSERT_ROW, trigger_route};
use crate::error::{Fault, Misuse, guarded};
use crate::pg::{ffi, process, tuple};
use crate::settings;

/// Tells Postgres that [`aimq_realtime_trigger`] is called by the version-1 convention.
#[unsafe(no_mangle)]
#[allow(unreachable_pub, reason = "Postgres finds it by its symbol")]
pub extern "C" fn pg_finfo_aimq_realtime_trigger() -> &'static pg_sys::Pg_finfo_record {
    const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

/// `aimq.realtime_trigger()`, with the arguments channel, event, queue and, if any, options. Returns the row as it is.
#[unsafe(no_mangle)]
#[allow(unreachable_pub, reason = "Postgres finds it by its symbol")]
pub unsafe extern "C-unwind" fn aimq_realtime_trigger(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: Postgres calls this with valid call information; `data_of` checks that it is a
    // trigger's, and for which event.
    unsafe {
        guarded(|| {
            let (data, fired) = data_of(fcinfo)?;
            if settings::enabled() {
                match fired {
                    Fired::Insert => note(data)?,
                    Fired::Update => note_moved(data)?,
                    Fired::Delete => note_taken(data)?,
                }
            }
            // The row as it is; none for a statement.
            Ok(pg_sys::Datum::from(data.tg_trigtuple))
        })
    }
}

/// What fires the trigger.
#[derive(Clone, Copy)]
enum Fired {
    /// A row is about to be inserted.
    Insert,
    /// A statement is about to change visibility times.
    Update,
    /// A statement is about to delete messages.
    Delete,
}

/// # Safety
/// `fcinfo` must be what Postgres called us with.
#[inline]
unsafe fn data_of<'a>(
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<(&'a pg_sys::TriggerData, Fired), Misuse> {
    // SAFETY: as demanded of the caller.
    let data = unsafe { called_with(fcinfo)? };
    let event = data.tg_event;
    let is_row = trigger_fired_for_row(event);
    let fired = match event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_INSERT if is_row => Fired::Insert,
        pg_sys::TRIGGER_EVENT_UPDATE if !is_row => Fired::Update,
        pg_sys::TRIGGER_EVENT_DELETE if !is_row => Fired::Delete,
        pg_sys::TRIGGER_EVENT_INSERT | pg_sys::TRIGGER_EVENT_TRUNCATE => return Err(Misuse::Level),
        _ => return Err(Misuse::Event),
    };
    if trigger_fired_before(event) { Ok((data, fired)) } else { Err(Misuse::Time) }
}

/// Notes that the statement may change visibility times.
///
/// It does not read which ones, and to what: a row trigger would make a read of 100 messages 7 to 8 % slower. The
/// notifier looks.
///
/// # Safety
/// `data` must be that of a statement trigger that fires now, before an UPDATE.
unsafe fn note_moved(data: &pg_sys::TriggerData) -> Result<(), Fault> {
    // SAFETY: the trigger, its arguments and the relation live for the call.
    unsafe {
        let route = trigger_route(&*data.tg_trigger).ok_or(Misuse::Arguments)?;
        let Some(relation) = home::of(data).filter(|_| columns::sets(data, VT)) else {
            return Ok(());
        };
        // A message that is read gets a time after now(), and within a procedure the transaction is younger than the
        // statement. Any other message may have been set to any time, and so be visible now.
        let from = match columns::counts_reads(data) {
            // A transaction that has waited began long ago, and reads by pgmq.read, which asks the clock.
            true if process::is_waiting() => ffi::now(),
            true => ffi::transaction_start(),
            false => Timestamp::NEG_INFINITY,
        };
        Ok(batch::record_moved(route.of(relation), from)?)
    }
}

/// Notes that the statement may take messages away, as `pgmq.pop` does: they come back if the transaction
/// is rolled back.
///
/// # Safety
/// `data` must be that of a trigger that fires now.
unsafe fn note_taken(data: &pg_sys::TriggerData) -> Result<(), Fault> {
    // SAFETY: the trigger, its arguments and the relation live for the call.
    unsafe {
        let route = trigger_route(&*data.tg_trigger).ok_or(Misuse::Arguments)?;
        match home::of(data) {
            Some(relation) => Ok(batch::record_taken(route.of(relation))?),
            None => Ok(()),
        }
    }
}

/// Adds the row to the batch.
///
/// # Safety
/// `data` must be that of a row trigger that fires now, before an INSERT.
#[inline]
unsafe fn note(data: &pg_sys::TriggerData) -> Result<(), Fault> {
    // SAFETY: the trigger, its arguments, the relation and the row live for the call.
    unsafe {
        let route = trigger_route(&*data.tg_trigger).ok_or(Misuse::Arguments)?;
        let relation = &*data.tg_relation;
        let Some(table) = home::of(data) else {
            // The table is nobody's queue. It still has to look like a queue's table.
            return Ok(visibility_attribute(relation.rd_att).map(drop).ok_or(Misuse::Table)?);
        };
        let route = route.of(table);
        let may_be_back = batch::record(route, || {
            let Some(number) = visibility_attribute(relation.rd_att) else {
                columns::has_visibility(relation.rd_att)?;
                return Ok(None);
            };
            let known = !has_company(relation.trigdesc);
            let at = || tuple::timestamp_attribute(data.tg_trigtuple, number, relation.rd_att);
            Ok(known.then(at).flatten())
        })?;
        if !route.options.is_empty() {
            note_id(route, data)?;
        }
        if may_be_back && let Some(id) = id_of(data) {
            batch::record_in(route, event::DELETED, id)?;
        }
        Ok(())
    }
}

/// Whether the table has another BEFORE INSERT row trigger, which may change the row's visibility time
/// after we have seen it. (It may also drop the row: then the count is one too high, and its id is not told.)
///
/// # Safety
/// `triggers` must be the descriptor of the relation of a trigger that fires.
#[inline]
unsafe fn has_company(triggers: *const pg_sys::TriggerDesc) -> bool {
    // SAFETY: as demanded of the caller.
    let triggers = unsafe {
        let count = usize::try_from((*triggers).numtriggers).unwrap_or(0);
        std::slice::from_raw_parts((*triggers).triggers, count)
    };
    triggers
        .iter()
        .filter(|trigger| trigger.tgtype & BEFORE_INSERT_ROW == BEFORE_INSERT_ROW)
        .count()
        > 1
}
