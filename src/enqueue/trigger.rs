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

use std::ffi::{CStr, c_int};

use aimq_core::memory::OutOfMemory;
use aimq_core::payload::event;
use aimq_core::route::{CHANNEL_MAX_BYTES, Route};
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::trigger_support::{called_as_trigger, trigger_fired_before, trigger_fired_for_row};

use crate::error::{Fault, Misuse, guarded};
use crate::{ffi, home, settings, transaction, waiting};

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
/// It does not read which ones, and to what: a row trigger would make a read of 100 messages 7 to 8 % slower. The
/// notifier looks.
///
/// # Safety
/// `data` must be that of a statement trigger that fires now, before an UPDATE.
unsafe fn note_moved(data: &pg_sys::TriggerData) -> Result<(), Fault> {
    // SAFETY: the trigger, its arguments and the relation live for the call.
    unsafe {
        let route = trigger_route(&*data.tg_trigger).ok_or(Misuse::Arguments)?;
        let Some(relation) = home::of(data).filter(|_| sets(data, VT)) else {
            return Ok(());
        };
        // A message that is read gets a time after now(), and within a procedure the transaction is younger than the
        // statement. Any other message may have been set to any time, and so be visible now.
        let from = match counts_reads(data) {
            // A transaction that has waited began long ago, and reads by pgmq.read, which asks the clock.
            true if waiting::is_waiting() => ffi::now(),
            true => ffi::transaction_start(),
            false => Timestamp::NEG_INFINITY,
        };
        Ok(transaction::record_moved(route.of(relation), from)?)
    }
}

/// Whether an UPDATE sets a column, whatever its type.
///
/// # Safety
/// `data` must be that of a trigger that fires now, before an UPDATE.
unsafe fn sets(data: &pg_sys::TriggerData, column: &[u8]) -> bool {
    // SAFETY: the relation lives for the call, as do the columns.
    unsafe {
        position((*data.tg_relation).rd_att, column, |_| true)
            .is_some_and(|number| ffi::sets(data.tg_updatedcols, number))
    }
}

/// Whether an UPDATE counts a reading.
///
/// # Safety
/// As [`sets`].
pub(crate) unsafe fn counts_reads(data: &pg_sys::TriggerData) -> bool {
    // SAFETY: as demanded of the caller.
    unsafe { sets(data, READ_CT) }
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
            Some(relation) => Ok(transaction::record_taken(route.of(relation))?),
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
        let may_be_back = transaction::record(route, || {
            let Some(number) = visibility_attribute(relation.rd_att) else {
                has_visibility(relation.rd_att)?;
                return Ok(None);
            };
            let known = !has_company(relation.trigdesc);
            let at = || ffi::timestamp_attribute(data.tg_trigtuple, number, relation.rd_att);
            Ok(known.then(at).flatten())
        })?;
        if !route.options.is_empty() {
            note_id(route, data)?;
        }
        if may_be_back && let Some(id) = id_of(data) {
            transaction::record_in(route, event::DELETED, id)?;
        }
        Ok(())
    }
}

/// Notes which message it is that was noted last, if the route asks for that.
///
/// # Safety
/// `data` must be that of a row trigger that fires now.
pub(crate) unsafe fn note_id(
    route: Route<'_>,
    data: &pg_sys::TriggerData,
) -> Result<(), OutOfMemory> {
    if route.options().wants_ids() {
        // SAFETY: as demanded of the caller.
        unsafe {
            if !home::is_sure(data) {
                // The row may be left out after we have seen it: an id that never existed is not to be told.
                transaction::record_unknown_id()?;
            } else if let Some(id) = id_of(data) {
                transaction::record_id(id)?;
            }
        }
    }
    Ok(())
}

/// The message's id.
///
/// # Safety
/// `data` must be that of a row trigger that fires now.
pub(crate) unsafe fn id_of(data: &pg_sys::TriggerData) -> Option<i64> {
    // SAFETY: the relation and the row live for the call.
    unsafe {
        let descriptor = (*data.tg_relation).rd_att;
        let number = id_attribute(descriptor)?;
        ffi::number_attribute(data.tg_trigtuple, number, descriptor)
    }
}

/// The number (from 1) of the column `msg_id`.
///
/// # Safety
/// `descriptor` must be valid.
pub(crate) unsafe fn id_attribute(descriptor: pg_sys::TupleDesc) -> Option<c_int> {
    // SAFETY: as demanded of the caller.
    unsafe { attribute(descriptor, MSG_ID, pg_sys::INT8OID) }
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

/// `TRIGGER_TYPE_ROW | TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSERT` (catalog/pg_trigger.h).
pub(crate) const BEFORE_INSERT_ROW: i16 = 1 | 2 | 4;

/// `TRIGGER_TYPE_ROW | TRIGGER_TYPE_BEFORE` (catalog/pg_trigger.h).
pub(crate) const BEFORE_ROW: i16 = 1 | 2;

/// `TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_DELETE | TRIGGER_TYPE_UPDATE` (catalog/pg_trigger.h).
pub(crate) const BEFORE_CHANGE_STATEMENT: i16 = 2 | 8 | 16;

/// The arguments of a trigger of ours, without its table; `None` unless there are three, or options as a fourth, and
/// the first is a channel.
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
    // Async_Notify would refuse it at commit. We refuse it while the error can still say whose mistake it is.
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

/// Fails unless there is a column `vt`, of whatever type: where it is not a timestamptz, a message counts as one of
/// which it is not known when it can be read.
///
/// # Safety
/// `descriptor` must be valid.
unsafe fn has_visibility(descriptor: pg_sys::TupleDesc) -> Result<(), Misuse> {
    // SAFETY: as demanded of the caller.
    unsafe { position(descriptor, VT, |_| true) }.map(drop).ok_or(Misuse::Table)
}

/// The number of a column of this type. It is looked for by name, because pgmq 1.10 puts a column before others in new
/// tables that it makes.
///
/// # Safety
/// `descriptor` must be valid.
#[inline]
unsafe fn attribute(descriptor: pg_sys::TupleDesc, name: &[u8], of: pg_sys::Oid) -> Option<c_int> {
    // SAFETY: as demanded of the caller.
    unsafe { position(descriptor, name, |found| found == of) }
}

/// The number of a column whose type will do.
///
/// # Safety
/// `descriptor` must be valid.
#[inline]
unsafe fn position(
    descriptor: pg_sys::TupleDesc,
    name: &[u8],
    will_do: impl Fn(pg_sys::Oid) -> bool,
) -> Option<c_int> {
    // SAFETY: as demanded of the caller.
    let attributes = unsafe { ffi::attributes(descriptor) };
    let at = attributes.iter().position(|attribute| {
        let found = &attribute.attname.data[..name.len()];
        found.iter().zip(name).all(|(found, byte)| *found as u8 == *byte)
            && will_do(attribute.atttypid)
            && !attribute.attisdropped
    })?;
    c_int::try_from(at + 1).ok()
}

/// Columns' names with their NUL, as a `NameData` begins.
const VT: &[u8] = b"vt\0";
const READ_CT: &[u8] = b"read_ct\0";
const MSG_ID: &[u8] = b"msg_id\0";
