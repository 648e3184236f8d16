//! What every trigger of ours does with the row that it is given.

use aimq_core::memory::OutOfMemory;
use aimq_core::route::Route;

use super::batch;
use crate::catalog::{columns, home};
use crate::pg::trigger::Fired;

/// Notes which message it is that was noted last, if the route asks for that.
pub(crate) fn note_id(route: Route<'_>, fired: Fired<'_>) -> Result<(), OutOfMemory> {
    if route.options().wants_ids() {
        if !home::is_sure(fired) {
            // The row may be left out after we have seen it: an id that never existed is not to be told.
            batch::record_unknown_id()?;
        } else if let Some(id) = columns::id_of(fired) {
            batch::record_id(id)?;
        }
    }
    Ok(())
}
