//! The triggers that tell what happens to a message after it was enqueued: it is read, archived, deleted. They are only
//! on queues of which somebody wants to know that. They are for pages that show jobs, and no worker waits for them.
//!
//! Each event is a route of its own, so that it is counted, coalesced and follows savepoints as an enqueue does.

use aimq_core::payload::event;
use pgrx::pg_sys;

use super::batch;
use super::row::note_id;
use crate::catalog::columns::{counts_reads, id_of};
use crate::catalog::home;
use crate::catalog::triggers::route_of;
use crate::error::{Fault, Misuse};
use crate::pg::function::trigger_function;
use crate::pg::trigger::{Fired, On};
use crate::settings;

trigger_function! {
    /// `aimq.event_trigger()`, with the arguments channel, event, queue and, if any, options. Returns the row as it is.
    aimq_event_trigger, pg_finfo_aimq_event_trigger, fire
}

fn fire(fired: Option<Fired<'_>>) -> Result<pg_sys::Datum, Fault> {
    let fired = fired.ok_or(Misuse::NotATrigger)?;
    let (on, is_row) = (fired.on(), fired.is_for_row());
    if is_row == (on == On::Truncate) || !fired.is_before() {
        return Err(Misuse::NotAnEvent.into());
    }
    let route = route_of(fired.trigger()).ok_or(Misuse::Arguments)?;
    // An UPDATE that counts no reading is no event.
    let is_moved = on == On::Update && !counts_reads(fired);
    if settings::enabled()
        && !(is_moved && route.event == event::STARTED)
        && let Some(relation) = home::of(fired)
    {
        let route = route.of(relation);
        let is_of_archive = route.event == event::ARCHIVED;
        let is_delete = on == On::Delete;
        // Nobody is told of a message that is deleted from the archive. It may be put back, and then it is not
        // archived once more.
        if !(is_of_archive && is_delete) {
            batch::record_event(route)?;
            // Nobody looks up which messages a TRUNCATE takes away: there are more than a notification names.
            if is_row {
                note_id(route, fired)?;
            }
        }
        let is_moving = is_delete && (is_of_archive || route.event == event::DELETED);
        if is_moving && let Some(id) = id_of(fired) {
            batch::record_out(route, id)?;
        } else if is_of_archive && let Some(id) = id_of(fired) {
            batch::record_in(route, event::ARCHIVED, id)?;
        }
    }
    Ok(if on == On::Update { fired.new_row() } else { fired.row() })
}
