//! What every trigger of ours does with the row that it is given.

use aimq_core::memory::OutOfMemory;
use aimq_core::route::Route;
use pgrx::pg_sys;
use pgrx::trigger_support::called_as_trigger;

use super::batch;
use crate::catalog::{columns, home};
use crate::error::Misuse;

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
                batch::record_unknown_id()?;
            } else if let Some(id) = columns::id_of(data) {
                batch::record_id(id)?;
            }
        }
    }
    Ok(())
}
