//! The trigger on a queue's table: reads the inserted row and adds it to the transaction's batch.
//!
//! A raw version-1 function, not `#[pg_trigger]`, so that its errors carry their own SQLSTATE. On the
//! way of a row there is no SPI, no catalog look-up, no call that can raise, and, but for the first
//! row of a route or savepoint, no allocation.

use std::ffi::{CStr, c_int};

use aimq_core::route::Route;
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::trigger_support::{
    called_as_trigger, trigger_fired_after, trigger_fired_by_insert, trigger_fired_for_row,
};

use crate::error::{Error, Misuse};
use crate::{ffi, settings, transaction};

/// Tells Postgres that [`aimq_realtime_trigger`] is called by the version-1 convention.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_aimq_realtime_trigger() -> &'static pg_sys::Pg_finfo_record {
    const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

/// `aimq.realtime_trigger()`: AFTER INSERT, FOR EACH ROW, with the arguments channel, event, queue.
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn aimq_realtime_trigger(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: Postgres calls this with valid call information; `data_of` checks that it is a
    // trigger's, and for which event.
    unsafe {
        let data = match data_of(fcinfo) {
            Ok(data) => data,
            Err(misuse) => Error::from(misuse).raise(),
        };
        if settings::enabled() {
            match route_and_visibility(data) {
                Ok((route, visible_at)) => transaction::record(route, visible_at),
                Err(misuse) => Error::from(misuse).raise(),
            }
        }
    }
    // An AFTER trigger's result is ignored; a null flag would be an error (commands/trigger.c).
    pg_sys::Datum::from(0)
}

/// # Safety
/// `fcinfo` must be what Postgres called us with.
#[inline]
unsafe fn data_of<'a>(
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<&'a pg_sys::TriggerData, Misuse> {
    // SAFETY: once called_as_trigger says so, the context is a TriggerData that lives for the call.
    let data = unsafe {
        if !called_as_trigger(fcinfo) {
            return Err(Misuse::NotATrigger);
        }
        &*(*fcinfo).context.cast::<pg_sys::TriggerData>()
    };
    if !trigger_fired_for_row(data.tg_event) {
        return Err(Misuse::Level);
    }
    if !trigger_fired_after(data.tg_event) {
        return Err(Misuse::Time);
    }
    if !trigger_fired_by_insert(data.tg_event) {
        return Err(Misuse::Event);
    }
    Ok(data)
}

/// # Safety
/// `data` must be that of a row trigger that fires now, after an INSERT.
#[inline]
unsafe fn route_and_visibility(
    data: &pg_sys::TriggerData,
) -> Result<(Route<'_>, Timestamp), Misuse> {
    // SAFETY: the trigger, its arguments, the relation and the row live for the call.
    unsafe {
        let trigger = &*data.tg_trigger;
        if trigger.tgnargs != 3 {
            return Err(Misuse::Arguments);
        }
        let argument = |number: usize| CStr::from_ptr(*trigger.tgargs.add(number));
        let route = Route { channel: argument(0), event: argument(1), queue: argument(2) };
        let descriptor = (*data.tg_relation).rd_att;
        let number = visibility_attribute(descriptor).ok_or(Misuse::Table)?;
        Ok((route, ffi::timestamp_attribute(data.tg_trigtuple, number, descriptor)))
    }
}

/// The number (from 1) of the column `vt`: a `timestamptz` that cannot be null, as every queue's
/// table has it. It is looked for by name, since pgmq 1.8 put a column before it.
///
/// # Safety
/// `descriptor` must be valid.
#[inline]
unsafe fn visibility_attribute(descriptor: pg_sys::TupleDesc) -> Option<c_int> {
    // SAFETY: as demanded of the caller.
    let attributes = unsafe { ffi::attributes(descriptor) };
    let at = attributes.iter().position(|attribute| {
        attribute.attname.data[..3] == VT
            && attribute.atttypid == pg_sys::TIMESTAMPTZOID
            && attribute.attnotnull
            && !attribute.attisdropped
    })?;
    c_int::try_from(at + 1).ok()
}

/// `vt` with its NUL, as a `NameData` begins.
const VT: [std::ffi::c_char; 3] = [b'v' as _, b't' as _, 0];
