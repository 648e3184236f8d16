//! The ids of messages, of one queue's slot.

use super::slot::{Claim, Slots};
use crate::ids::Ids;

impl Slots<'_> {
    /// A producer whose transaction is visible says which messages it is about to mark.
    pub fn note_ids(&self, claim: Claim, ids: &Ids) {
        let (cells, generation) = self.ids(claim);
        cells.note(generation, ids, || self.is_current(claim));
    }

    /// The newest message that a producer has told of, by its id. 0 if it is not known.
    #[must_use]
    pub fn newest(&self, claim: Claim) -> i64 {
        let (cells, generation) = self.ids(claim);
        cells.newest(generation)
    }

    /// Takes the ids. For the notifier, after it took the mark.
    #[must_use]
    pub fn take_ids(&self, claim: Claim) -> Ids {
        let (cells, generation) = self.ids(claim);
        cells.take(generation)
    }
}
