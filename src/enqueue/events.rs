//! The triggers that tell what happens to a message after it was enqueued: it is read, archived, deleted. They are only
//! on queues of which somebody wants to know that. They are for pages that show jobs, and no worker waits for them.
//!
//! Each event is a route of its own, so that it is counted, coalesced and follows savepoints as an enqueue does.

use aimq_core::payload::event;
use pgrx::pg_sys;
use pgrx::trigger_support::{trigger_fired_before, trigger_fired_for_row};

use super::batch;
use super::row::{called_with, note_id};
use crate::catalog::columns::{counts_reads, id_of};
use crate::catalog::home;
use crate::catalog::triggers::trigger_route;
use crate::error::{Fault, Misuse, guarded};
use crate::settings;

/// Tells Postgres that [`aimq_event_trigger`] is called by the version-1 convention.
#[unsafe(no_mangle)]
#[allow(unreachable_pub, reason = "Postgres finds it by its symbol")]
pub extern "C" fn pg_finfo_aimq_event_trigger() -> &'static pg_sys::Pg_finfo_record {
    const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

/// `aimq.event_trigger()`, with the arguments channel, event, queue and, if any, options. Returns the row as it is.
#[unsafe(no_mangle)]
#[allow(unreachable_pub, reason = "Postgres finds it by its symbol")]
pub unsafe extern "C-unwind" fn aimq_event_trigger(
    fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: Postgres calls this with valid call information, which is checked in there.
    unsafe { guarded(|| Ok(pg_sys::Datum::from(note(fcinfo)?))) }
}

/// # Safety
/// `fcinfo` must be what Postgres called us with.
unsafe fn note(fcinfo: pg_sys::FunctionCallInfo) -> Result<pg_sys::HeapTuple, Fault> {
    // SAFETY: the trigger, its arguments, the relation and the row live for the call.
    unsafe {
        let data = called_with(fcinfo)?;
        let what = data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK;
        let is_row = trigger_fired_for_row(data.tg_event);
        let is_truncate = what == pg_sys::TRIGGER_EVENT_TRUNCATE;
        if is_row == is_truncate || !trigger_fired_before(data.tg_event) {
            return Err(Misuse::NotAnEvent.into());
        }
        let route = trigger_route(&*data.tg_trigger).ok_or(Misuse::Arguments)?;
        // An UPDATE that counts no reading is no event.
        let is_moved = what == pg_sys::TRIGGER_EVENT_UPDATE && !counts_reads(data);
        if settings::enabled()
            && !(is_moved && route.event == event::STARTED)
            && let Some(relation) = home::of(data)
        {
            let route = route.of(relation);
            let is_of_archive = route.event == event::ARCHIVED;
            let is_delete = what == pg_sys::TRIGGER_EVENT_DELETE;
            // Nobody is told of a message that is deleted from the archive. It may be put back, and then it is not
            // archived once more.
            if !(is_of_archive && is_delete) {
                batch::record_event(route)?;
                // Nobody looks up which messages a TRUNCATE takes away: there are more than a notification names.
                if is_row {
                    note_id(route, data)?;
                }
            }
            let is_moving = is_delete && (is_of_archive || route.event == event::DELETED);
            if is_moving && let Some(id) = id_of(data) {
                batch::record_out(route, id)?;
            } else if is_of_archive && let Some(id) = id_of(data) {
                batch::record_in(route, event::ARCHIVED, id)?;
            }
        }
        // None for a statement.
        let is_update = what == pg_sys::TRIGGER_EVENT_UPDATE;
        Ok(if is_update { data.tg_newtuple } else { data.tg_trigtuple })
    }
}
