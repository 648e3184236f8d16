//! What is noted of queues that have no slot: a few words for all of them, in which a table has its place by its OID.
//!
//! Several tables may share a bucket: then a note of one has the watcher look at all of them, which is a wake-up too
//! many at most. What can't be noted in a slot can always be noted here: that needs no room, and nothing that may fail.

use crate::sync::{AtomicI64, AtomicU32, AtomicU64, Ordering::*};
use crate::timestamp::Timestamp;

use super::news::Wake;
use super::packed::time;

/// Which bucket a table is in.
#[must_use]
pub(super) fn bucket_of(relation: u32, buckets: usize) -> usize {
    // OIDs are given out one after the other, and each queue takes several: the upper bits of a product spread them
    // (Knuth's multiplicative hash).
    let mixed = relation.wrapping_mul(0x9e37_79b1) >> 16;
    mixed as usize % buckets
}

/// Zeroed memory is an empty one.
#[derive(Debug)]
pub(super) struct Bucket {
    /// The earliest visibility time to come, as a slot has it.
    earliest: AtomicU64,
    /// From which visibility time on the tables are to be looked at, as a slot has it.
    moved: AtomicU64,
    /// Not 0 while a prepared transaction has something for one of them.
    prepared: AtomicU32,
}

impl Bucket {
    pub(super) fn new() -> Self {
        Self { earliest: AtomicU64::new(0), moved: AtomicU64::new(0), prepared: AtomicU32::new(0) }
    }

    pub(super) fn reset(&self) {
        self.earliest.store(0, SeqCst);
        self.moved.store(0, SeqCst);
        self.prepared.store(0, SeqCst);
    }

    /// Has the tables looked at. The watcher has to be woken if that is news.
    pub(super) fn look_from(&self, from: Timestamp) -> Wake {
        // The greatest is the earliest. It is written even if nothing changes: the process that takes the note sees
        // what is visible now.
        Wake::WATCHER.only_if(self.moved.fetch_max(time::backwards(from), SeqCst) == 0)
    }

    /// Notes a time. The watcher has to be woken if that is earlier than what was known.
    pub(super) fn expect(&self, at: Timestamp) -> Wake {
        let Ok(number) = u64::try_from(at.0.max(1)) else {
            return Wake::NOBODY;
        };
        // Backwards, as in `moved` and unlike in a slot, so that zeroed memory is none.
        let word = time::backwards(Timestamp(number.cast_signed()));
        Wake::WATCHER.only_if(self.earliest.fetch_max(word, SeqCst) < word)
    }

    pub(super) fn earliest(&self) -> Option<Timestamp> {
        Some(time::of_backwards(self.earliest.load(SeqCst))).filter(|at| *at < Timestamp::INFINITY)
    }

    /// From when on the tables are to be looked at now, if they are. This forgets it.
    pub(super) fn take_look(&self, now: Timestamp) -> Option<Timestamp> {
        let come = self.earliest().filter(|at| *at <= now).is_some();
        let earliest = if come {
            time::of_backwards(self.earliest.swap(0, SeqCst))
        } else {
            Timestamp::INFINITY
        };
        let moved = match self.moved.load(SeqCst) {
            0 => Timestamp::INFINITY,
            _ => time::of_backwards(self.moved.swap(0, SeqCst)),
        };
        Some(earliest.min(moved)).filter(|from| *from < Timestamp::INFINITY)
    }

    pub(super) fn prepare(&self) {
        self.prepared.store(1, SeqCst);
    }

    pub(super) fn take_prepared(&self) -> bool {
        self.prepared.load(SeqCst) != 0 && self.prepared.swap(0, SeqCst) != 0
    }
}

/// Tables that the watcher hands to the notifier: one writes, one reads.
#[derive(Debug)]
pub struct Handed<const N: usize> {
    tables: [AtomicU32; N],
    from: [AtomicI64; N],
}

impl<const N: usize> Handed<N> {
    pub(super) fn new() -> Self {
        Self {
            tables: std::array::from_fn(|_| AtomicU32::new(0)),
            from: std::array::from_fn(|_| AtomicI64::new(0)),
        }
    }

    pub(super) fn reset(&self) {
        self.tables.iter().for_each(|table| table.store(0, SeqCst));
    }

    /// Hands a table over, with a visibility time. False if there is no room: then it is to be tried again.
    pub fn put(&self, relation: u32, from: Timestamp) -> bool {
        let mut all = self.tables.iter().zip(&self.from);
        if all.any(|(table, of)| table.load(SeqCst) == relation && of.load(SeqCst) <= from.0) {
            // It is still to be taken, and then stands for this as well.
            return true;
        }
        let Some(at) = self.tables.iter().position(|table| table.load(SeqCst) == 0) else {
            return false;
        };
        self.from[at].store(from.0, SeqCst);
        self.tables[at].store(relation, SeqCst);
        true
    }

    /// Whether a table was handed over, and was not taken yet.
    #[must_use]
    pub fn holds(&self, relation: u32) -> bool {
        self.tables.iter().any(|table| table.load(SeqCst) == relation)
    }

    /// Whether any was handed over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(|table| table.load(SeqCst) == 0)
    }

    /// Takes one.
    pub fn take(&self) -> Option<(u32, Timestamp)> {
        self.tables.iter().zip(&self.from).find_map(|(table, from)| {
            let relation = table.load(SeqCst);
            let from = Timestamp(from.load(SeqCst));
            (relation != 0).then(|| {
                table.store(0, SeqCst);
                (relation, from)
            })
        })
    }
}
