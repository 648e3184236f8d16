//! What a batch knows of rows that were taken out of a table and come back.

use std::ffi::CStr;

use super::Batch;
use super::tally::{Level, Tally, sum_of};
use crate::memory::OutOfMemory;
use crate::payload::event;
use crate::route::Route;
use crate::timestamp::Timestamp;

impl Batch {
    /// Notes that a row was taken out of the table of a route that tells of that, or of its coming back.
    pub fn record_out(
        &mut self,
        level: Level,
        route: Route<'_>,
        id: i64,
    ) -> Result<(), OutOfMemory> {
        self.add(level, route, Tally::nothing())?;
        self.has_out = true;
        self.last_tally().map_or(Ok(()), |tally| tally.moves.take_out(id))
    }

    /// Whether a row that is put in may be one that was taken out: then call [`Batch::record_in`] too.
    #[inline]
    #[must_use]
    pub fn has_out(&self) -> bool {
        self.has_out
    }

    /// Notes that a row was put into a table: whether it came back is known by what was told as `event`.
    pub fn record_in(
        &mut self,
        level: Level,
        route: Route<'_>,
        event: &CStr,
        id: i64,
    ) -> Result<(), OutOfMemory> {
        let Some(at) = self.outs_of(route, event) else {
            return Ok(());
        };
        let greatest = self.routes[at].iter().filter_map(|(_, tally)| tally.moves.greatest_out());
        if greatest.max().is_some_and(|greatest| id <= greatest) {
            self.add_at(level, at, Tally::nothing())?;
            if let Some((_, tally)) = self.routes[at].last_mut() {
                tally.moves.put_back(id)?;
            }
        }
        Ok(())
    }

    /// The position of the route of this event that tells of what is taken out of the route's table. Archived
    /// messages may be moved from one table to another.
    fn outs_of(&self, route: Route<'_>, event: &CStr) -> Option<usize> {
        self.routes.iter().position(|(key, tallies)| {
            !tallies.is_empty()
                && Route::from_key(&key.0).is_some_and(|other| {
                    other.event == event
                        && (other.channel, other.queue) == (route.channel, route.queue)
                        && (other.relation == route.relation || event == event::ARCHIVED)
                        && tallies.iter().any(|(_, tally)| tally.moves.greatest_out().is_some())
                })
        })
    }

    /// What was put back is not new. Messages in a queue were out of reach meanwhile, so a session that came for one
    /// has passed it by: a look has to find which of them can be read.
    pub(super) fn leave_out_what_was_there(
        &self,
        route: Route<'_>,
        event: &CStr,
        sum: &mut Tally,
    ) -> Result<(), OutOfMemory> {
        if let Some(at) = self.outs_of(route, event)
            && let Some(outs) = sum_of(&self.routes[at])?
        {
            sum.returned = outs.moves.leave_out_of_new(&mut sum.count, &mut sum.ids)?;
            if sum.returned > 0 && event == event::DELETED {
                sum.moved = Timestamp::NEG_INFINITY;
            }
        }
        Ok(())
    }
}
