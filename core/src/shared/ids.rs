//! The ids of messages on their way from producers to the notifier: a few cells in each slot.
//!
//! A producer puts ids into empty cells *before* it marks the slot; the notifier empties the cells *after* it took the
//! mark. So what is marked and not found in a cell had no room, and then the producer has said that there are more. An
//! id may come with an earlier mark than its own: its transaction is visible by then.

use crate::ids::{IDS_MOST, Ids};
use crate::sync::{AtomicU32, AtomicU64, Ordering::*};

/// Under loom few: each is a state to explore.
const CELLS: usize = if cfg!(feature = "loom") { 1 } else { IDS_MOST };

/// A cell holds an id, and above it what there is room for of the slot's generation: an id that was put there for the
/// queue that had the slot before is not this one's. 0 is an empty cell.
///
/// ```text
///  63         48 47                              0
/// ┌─────────────┬─────────────────────────────────┐
/// │ generation  │ id                              │
/// └─────────────┴─────────────────────────────────┘
/// ```
const ID_BITS: u32 = 48;
const ID: u64 = (1 << ID_BITS) - 1;

/// Which messages the producers enqueued. Zeroed memory is none.
#[derive(Debug)]
pub(super) struct Cells {
    newest: AtomicU64,
    /// [`told`] by a producer that could not put all its ids into cells; 0 if none was.
    more: AtomicU32,
    some: [AtomicU64; CELLS],
}

impl Cells {
    /// The slot is given back: ids that its queue's producers could not tell one by one do not count for the next
    /// queue.
    pub(super) fn reset(&self) {
        self.more.store(0, SeqCst);
    }

    pub(super) fn new() -> Self {
        Self {
            newest: AtomicU64::new(0),
            more: AtomicU32::new(0),
            some: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

/// An id as a cell holds it. `None` for one that no cell can hold.
fn word(id: i64, generation: u32) -> Option<u64> {
    let id = u64::try_from(id).ok().filter(|id| (1..=ID).contains(id))?;
    Some(u64::from(generation) << ID_BITS | id)
}

/// That there are more ids than cells, as it is noted.
const fn told(generation: u32) -> u32 {
    generation << 1 | 1
}

fn id_of(word: u64, generation: u32) -> Option<i64> {
    let is_ours = word & ID != 0 && word & !ID == u64::from(generation) << ID_BITS;
    is_ours.then(|| (word & ID).cast_signed())
}

impl Cells {
    /// A producer whose transaction is visible says which messages it is about to mark. `is_current` asks whether the
    /// slot still is of its generation: then what stands there from another one is nobody's any more.
    pub(super) fn note(&self, generation: u32, ids: &Ids, is_current: impl Fn() -> bool) {
        if let Some(newest) = word(ids.newest, generation) {
            let mut old = self.newest.load(Relaxed);
            // One of another generation is as none.
            while id_of(old, generation).is_none_or(|id| id < ids.newest) {
                match self.newest.compare_exchange_weak(old, newest, SeqCst, Relaxed) {
                    Ok(_) => break,
                    Err(found) => old = found,
                }
            }
        }
        let put = |cell: &AtomicU64, word: u64| {
            let old = cell.load(SeqCst);
            // Asked after the load: what a newer generation puts there later makes the exchange fail.
            let is_empty = old == 0 || id_of(old, generation).is_none() && is_current();
            is_empty && cell.compare_exchange(old, word, SeqCst, Relaxed).is_ok()
        };
        let mut has_room = !ids.more;
        let mut cells = self.some.iter();
        for id in &ids.some {
            let word = word(*id, generation);
            has_room &= word.is_some_and(|word| cells.any(|cell| put(cell, word)));
        }
        if has_room {
            return;
        }
        let told = told(generation);
        let mut old = self.more.load(SeqCst);
        while old != told && (old == 0 || is_current()) {
            match self.more.compare_exchange(old, told, SeqCst, SeqCst) {
                Ok(_) => break,
                Err(found) => old = found,
            }
        }
    }

    /// The newest message that a producer has told of, by its id. 0 if it is not known.
    pub(super) fn newest(&self, generation: u32) -> i64 {
        id_of(self.newest.load(SeqCst), generation).unwrap_or(0)
    }

    /// Takes the ids. For the notifier, after it took the mark. By then the slot may be of another generation: its ids
    /// stay.
    pub(super) fn take(&self, generation: u32) -> Ids {
        let more = self.more.compare_exchange(told(generation), 0, SeqCst, SeqCst).is_ok();
        let is_ours = |word| id_of(word, generation).map(|_| 0);
        let words =
            self.some.iter().filter_map(|cell| cell.fetch_update(SeqCst, SeqCst, is_ours).ok());
        let mut some: Vec<_> = words.filter_map(|word| id_of(word, generation)).collect();
        some.sort_unstable();
        Ids { newest: self.newest(generation), some, more }
    }
}
