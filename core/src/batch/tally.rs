//! What is known of one route at one level of a transaction.

use crate::ids::Ids;
use crate::memory::OutOfMemory;
use crate::timestamp::Timestamp;

use super::moves::Moves;

/// The nesting level of a transaction: 1 is the transaction itself, each savepoint adds one.
pub type Level = u32;

/// What was enqueued on one route at one level; or, where the route is of another event, what else happened to
/// messages.
#[derive(Debug, PartialEq, Eq)]
pub struct Tally {
    /// How many messages.
    pub count: u64,
    /// Which, where the route asks for that. Made with room for all that may follow.
    pub ids: Option<Ids>,
    /// The earliest visibility time among them.
    pub earliest: Timestamp,
    /// Some may become visible later than `earliest` says, and it is not known when.
    pub is_unsure: bool,
    /// From which visibility time on messages that were there before may have got another;
    /// [`Timestamp::INFINITY`] if none has.
    pub moved: Timestamp,
    /// Messages that were there before may be gone, unless the transaction is rolled back.
    pub taken: bool,
    /// How many that were there before the transaction has put back: they are not in `count`, but a look is to find
    /// them.
    pub returned: u64,
    /// The rows that were taken out and put back. Only the route that tells of the taking out has them.
    pub(super) moves: Moves,
}

impl Tally {
    /// One message.
    pub(super) fn message(earliest: Timestamp, is_unsure: bool) -> Self {
        let moved = Timestamp::INFINITY;
        Self { count: 1, earliest, is_unsure, ..Self::before(moved, false) }
    }

    /// No message, but some that were there before may have moved, or be gone.
    pub(super) fn before(moved: Timestamp, taken: bool) -> Self {
        let earliest = Timestamp::INFINITY;
        let (ids, moves) = (None, Moves::new());
        Self { count: 0, ids, earliest, is_unsure: false, moved, taken, returned: 0, moves }
    }

    /// No message.
    pub(super) fn nothing() -> Self {
        Self::before(Timestamp::INFINITY, false)
    }

    /// Whether somebody is to be told when the transaction is committed.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.count > 0 || self.moved < Timestamp::INFINITY
    }

    /// Whether a rollback brings messages back.
    #[must_use]
    pub fn may_come_back(&self) -> bool {
        self.taken || self.moved < Timestamp::INFINITY
    }

    /// Allocates nothing.
    pub(super) fn add(&mut self, mut other: Self) {
        let others = other.ids.take();
        self.add_all_but_ids(&other);
        self.moves.append(std::mem::take(&mut other.moves));
        match (&mut self.ids, others) {
            (Some(ids), Some(others)) => ids.append(&others),
            (None, others) => self.ids = others,
            (_, None) => {}
        }
    }

    /// The same of one that stays.
    fn add_copy(&mut self, other: &Self) -> Result<(), OutOfMemory> {
        match (&mut self.ids, &other.ids) {
            (Some(ids), Some(others)) => ids.append(others),
            (None, Some(others)) => self.ids = Some(others.try_clone()?),
            (_, None) => {}
        }
        self.moves.append_copy(&other.moves)?;
        self.add_all_but_ids(other);
        Ok(())
    }

    fn add_all_but_ids(&mut self, other: &Self) {
        match (self.count, other.count) {
            (_, 0) => {}
            (0, _) => {
                self.count = other.count;
                (self.earliest, self.is_unsure) = (other.earliest, other.is_unsure);
            }
            _ => self.add_messages(other),
        }
        self.moved = self.moved.min(other.moved);
        self.taken |= other.taken;
    }

    fn add_messages(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        let mixed = (self.earliest == Timestamp::NEG_INFINITY)
            != (other.earliest == Timestamp::NEG_INFINITY);
        self.is_unsure |= other.is_unsure || mixed;
        self.earliest = self.earliest.min(other.earliest);
    }
}

/// The tallies of all levels of a route; `None` if there are none.
pub(super) fn sum_of(tallies: &[(Level, Tally)]) -> Result<Option<Tally>, OutOfMemory> {
    if tallies.is_empty() {
        return Ok(None);
    }
    let mut sum = Tally::nothing();
    for (_, tally) in tallies {
        sum.add_copy(tally)?;
    }
    Ok(Some(sum))
}
