//! The words of a slot that hold two fields. Where these stand is known here alone.
//!
//! The upper field of each is the slot's generation: how often the slot was given to another queue. It is in one word
//! with what producers write, so that nothing can be written for the wrong queue, nor taken from it.

/// How many messages nobody has announced yet.
///
/// ```text
///  63           40 39                            0
/// ┌───────────────┬───────────────────────────────┐
/// │  generation   │ messages that are marked      │
/// └───────────────┴───────────────────────────────┘
/// ```
pub(super) mod mark {
    use crate::sync::{AtomicU64, Ordering::*};

    const COUNT_BITS: u32 = 40;
    const COUNT: u64 = (1 << COUNT_BITS) - 1;

    /// No messages.
    pub(in super::super) const fn none(generation: u32) -> u64 {
        (generation as u64) << COUNT_BITS
    }

    pub(in super::super) const fn generation(word: u64) -> u32 {
        (word >> COUNT_BITS) as u32
    }

    pub(in super::super) const fn count(word: u64) -> u64 {
        word & COUNT
    }

    /// With these messages too, as far as there is room for their number.
    pub(in super::super) fn plus(word: u64, messages: u64) -> u64 {
        word + messages.min(COUNT - count(word))
    }

    /// Takes the messages, if there are any, and if the slot is still of this generation: how many there were.
    pub(in super::super) fn take(word: &AtomicU64, of: u32) -> Option<u64> {
        let taken = |old| (generation(old) == of && count(old) != 0).then_some(none(of));
        word.fetch_update(SeqCst, SeqCst, taken).ok().map(count)
    }
}

/// A visibility time in microseconds since 2000, which suffices until 2142. 0 is none.
///
/// ```text
///  63         52 51                              0
/// ┌─────────────┬─────────────────────────────────┐
/// │ generation  │ time                            │
/// └─────────────┴─────────────────────────────────┘
/// ```
///
/// The generation is cut to the bits that there is room for. A time that is noted for the wrong queue would keep the
/// right one's later times from waking anybody.
pub(super) mod time {
    use crate::sync::{AtomicU64, Ordering::*};
    use crate::timestamp::Timestamp;

    const TIME_BITS: u32 = 52;

    /// The greatest number that has room.
    pub(in super::super) const MOST: u64 = (1 << TIME_BITS) - 1;

    /// No time.
    pub(in super::super) const fn none(generation: u32) -> u64 {
        (generation as u64) << TIME_BITS
    }

    /// Whether the word is of this generation, as far as can be said.
    pub(in super::super) const fn is_of(word: u64, generation: u32) -> bool {
        word & !MOST == none(generation)
    }

    /// The number without the generation.
    pub(in super::super) const fn number(word: u64) -> u64 {
        word & MOST
    }

    /// The word with another number.
    pub(in super::super) const fn with(word: u64, number: u64) -> u64 {
        word & !MOST | number
    }

    /// A time as a number that counts backwards, so that the earliest time is the greatest number, and none is 0.
    pub(in super::super) fn backwards(time: Timestamp) -> u64 {
        MOST - u64::try_from(time.0).unwrap_or(0).min(MOST - 1)
    }

    /// The time that [`backwards`] made a number of, whatever the generation; infinity for none.
    pub(in super::super) fn of_backwards(word: u64) -> Timestamp {
        match number(word) {
            0 => Timestamp::INFINITY,
            MOST => Timestamp::NEG_INFINITY,
            number => Timestamp((MOST - number).cast_signed()),
        }
    }

    /// Forgets the time of a slot, if the slot is still of this generation: what was there.
    pub(in super::super) fn take(word: &AtomicU64, generation: u32) -> Option<u64> {
        let none = none(generation);
        word.fetch_update(SeqCst, SeqCst, |old| is_of(old, generation).then_some(none)).ok()
    }
}
