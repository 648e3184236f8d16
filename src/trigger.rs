//! The triggers on a queue's table: the one before an INSERT reads the row and adds it to the transaction's
//! batch; the one before an UPDATE of visibility times or a DELETE only notes that there was one.
//!
//! A raw version-1 function, not `#[pg_trigger]`, so that its errors carry their own SQLSTATE. On the
//! way of a row there is no SPI, no catalog look-up, no call that can raise, and, but for the first
//! row of a route or savepoint, no allocation.
//!
//! BEFORE INSERT, FOR EACH ROW: why that, and what the others cost, is in docs/design/trigger.md.
//! What a BEFORE trigger cannot know is what the triggers after it make of the row; see
//! [`has_company`].

use std::ffi::{CStr, c_int};

use aimq_core::route::{CHANNEL_MAX_BYTES, Route};
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::trigger_support::{called_as_trigger, trigger_fired_before, trigger_fired_for_row};

use crate::error::{Error, Misuse};
use crate::{ffi, settings, transaction, waiting};

/// Tells Postgres that [`aimq_realtime_trigger`] is called by the version-1 convention.
#[unsafe(no_mangle)]
#[allow(unreachable_pub, reason = "Postgres finds it by its symbol")]
pub extern "C" fn pg_finfo_aimq_realtime_trigger() -> &'static pg_sys::Pg_finfo_record {
    const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

/// `aimq.realtime_trigger()`, with the arguments channel, event, queue and, if any, options. Returns the row as it is.
#[unsafe(no_mangle)]
#[pg_guard]
#[allow(unreachable_pub, reason = "Postgres finds it by its symbol")]
pub unsafe extern "C-unwind" fn aimq_realtime_trigger(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: Postgres calls this with valid call information; `data_of` checks that it is a
    // trigger's, and for which event.
    let noted = unsafe {
        data_of(fcinfo).and_then(|(data, fired)| {
            if settings::enabled() {
                match fired {
                    Fired::Insert => note(data)?,
                    Fired::Update => note_moved(data)?,
                    Fired::Delete => note_taken(data)?,
                }
            }
            // The row as it is; none for a statement.
            Ok(data.tg_trigtuple)
        })
    };
    match noted {
        Ok(row) => pg_sys::Datum::from(row),
        Err(misuse) => Error::from(misuse).raise(),
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

/// What a trigger is called with.
///
/// # Safety
/// `fcinfo` must be what Postgres called us with.
#[inline]
pub(crate) unsafe fn called_with<'a>(
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<&'a pg_sys::TriggerData, Misuse> {
    // SAFETY: once called_as_trigger says so, the context is a TriggerData that lives for the call.
    unsafe {
        if !called_as_trigger(fcinfo) {
            return Err(Misuse::NotATrigger);
        }
        Ok(&*(*fcinfo).context.cast::<pg_sys::TriggerData>())
    }
}

/// Notes that the statement may change visibility times.
///
/// Which, and to what, it does not read: a row trigger would cost a read of 100 messages 7 to 8 %. The
/// notifier looks.
///
/// # Safety
/// `data` must be that of a statement trigger that fires now, before an UPDATE.
unsafe fn note_moved(data: &pg_sys::TriggerData) -> Result<(), Misuse> {
    // SAFETY: the trigger, its arguments and the relation live for the call.
    unsafe {
        let route = trigger_route(&*data.tg_trigger).ok_or(Misuse::Arguments)?;
        let read_count = attribute((*data.tg_relation).rd_att, READ_CT, pg_sys::INT4OID);
        // What is read gets a time after now(), and within a procedure the transaction is younger than the
        // statement; anything else may have become visible by being set to any time.
        let from = match read_count {
            // A transaction that has waited began long ago, and reads by pgmq.read, which asks the clock.
            Some(number) if ffi::sets(data.tg_updatedcols, number) => {
                if waiting::is_waiting() {
                    ffi::now()
                } else {
                    ffi::transaction_start()
                }
            }
            _ => Timestamp::NEG_INFINITY,
        };
        transaction::record_moved(route, from);
        Ok(())
    }
}

/// Notes that the statement may take messages away, as `pgmq.pop` does: they come back if the transaction
/// is rolled back.
///
/// # Safety
/// `data` must be that of a trigger that fires now.
unsafe fn note_taken(data: &pg_sys::TriggerData) -> Result<(), Misuse> {
    // SAFETY: the trigger and its arguments live for the call.
    transaction::record_taken(
        unsafe { trigger_route(&*data.tg_trigger) }.ok_or(Misuse::Arguments)?,
    );
    Ok(())
}

/// Adds the row to the batch.
///
/// # Safety
/// `data` must be that of a row trigger that fires now, before an INSERT.
#[inline]
unsafe fn note(data: &pg_sys::TriggerData) -> Result<(), Misuse> {
    // SAFETY: the trigger, its arguments, the relation and the row live for the call.
    unsafe {
        let route = trigger_route(&*data.tg_trigger).ok_or(Misuse::Arguments)?;
        let relation = &*data.tg_relation;
        transaction::record(route, || {
            let number = visibility_attribute(relation.rd_att).ok_or(Misuse::Table)?;
            let known = !has_company(relation.trigdesc);
            let at = || ffi::timestamp_attribute(data.tg_trigtuple, number, relation.rd_att);
            Ok(known.then(at).flatten())
        })?;
        if !route.options.is_empty() {
            note_id(route, data);
        }
        Ok(())
    }
}

/// Notes which message it is that was noted last, if the route asks for that.
///
/// # Safety
/// `data` must be that of a row trigger that fires now.
pub(crate) unsafe fn note_id(route: Route<'_>, data: &pg_sys::TriggerData) {
    if route.options().wants_ids() {
        // SAFETY: the relation and the row live for the call.
        unsafe {
            let descriptor = (*data.tg_relation).rd_att;
            let number = attribute(descriptor, MSG_ID, pg_sys::INT8OID);
            let id = number.and_then(|it| ffi::number_attribute(data.tg_trigtuple, it, descriptor));
            if let Some(id) = id {
                transaction::record_id(id);
            }
        }
    }
}

/// Whether the table has another BEFORE INSERT row trigger, which may change the row's visibility time
/// after we have seen it. (It may also drop the row: then the count is one too high.)
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

/// `TRIGGER_TYPE_ROW | TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSERT` (catalog/pg_trigger.h).
pub(crate) const BEFORE_INSERT_ROW: i16 = 1 | 2 | 4;

/// `TRIGGER_TYPE_ROW | TRIGGER_TYPE_BEFORE` (catalog/pg_trigger.h).
pub(crate) const BEFORE_ROW: i16 = 1 | 2;

/// `TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_DELETE | TRIGGER_TYPE_UPDATE` (catalog/pg_trigger.h).
pub(crate) const BEFORE_CHANGE_STATEMENT: i16 = 2 | 8 | 16;

/// The arguments of a trigger of ours; `None` unless there are three, or options as a fourth, and the first is a channel.
///
/// # Safety
/// The trigger's arguments must be valid.
#[inline]
pub(crate) unsafe fn trigger_route(trigger: &pg_sys::Trigger) -> Option<Route<'_>> {
    // SAFETY: so many there are, each a string that lives as long as the trigger.
    let argument = |number| unsafe { CStr::from_ptr(*trigger.tgargs.add(number)) };
    let options = match trigger.tgnargs {
        3 => c"",
        4 => Some(argument(3)).filter(|options| !options.is_empty())?,
        _ => return None,
    };
    let route = Route { options, ..Route::new(argument(0), argument(1), argument(2)) };
    // Async_Notify would refuse it at commit: tell while it can be told whose mistake it is.
    let channel = route.channel.count_bytes();
    (channel > 0 && channel <= CHANNEL_MAX_BYTES).then_some(route)
}

/// The number (from 1) of the column `vt`: a `timestamptz`, as every queue's table has it.
///
/// # Safety
/// `descriptor` must be valid.
#[inline]
pub(crate) unsafe fn visibility_attribute(descriptor: pg_sys::TupleDesc) -> Option<c_int> {
    // SAFETY: as demanded of the caller.
    unsafe { attribute(descriptor, VT, pg_sys::TIMESTAMPTZOID) }
}

/// The number of a column. It is looked for by name, since pgmq 1.10 puts a column before others in tables
/// that it makes anew.
///
/// # Safety
/// `descriptor` must be valid.
#[inline]
unsafe fn attribute(descriptor: pg_sys::TupleDesc, name: &[u8], of: pg_sys::Oid) -> Option<c_int> {
    // SAFETY: as demanded of the caller.
    let attributes = unsafe { ffi::attributes(descriptor) };
    let at = attributes.iter().position(|attribute| {
        let found = &attribute.attname.data[..name.len()];
        found.iter().zip(name).all(|(found, byte)| *found as u8 == *byte)
            && attribute.atttypid == of
            && !attribute.attisdropped
    })?;
    c_int::try_from(at + 1).ok()
}

/// Columns' names with their NUL, as a `NameData` begins.
const VT: &[u8] = b"vt\0";
const READ_CT: &[u8] = b"read_ct\0";
const MSG_ID: &[u8] = b"msg_id\0";
