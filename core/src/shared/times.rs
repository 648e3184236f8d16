//! Times in one word with the generation of a slot, or alone.

use crate::sync::{AtomicU64, Ordering::*};
use crate::timestamp::Timestamp;

/// The earliest visibility time is in microseconds since 2000, which suffices until 2142. Above it are as
/// many bits of the generation as there is room for: a time noted for the wrong queue would keep the
/// right one's later times from waking anybody.
const TIME_BITS: u32 = 52;
pub(super) const TIME: u64 = (1 << TIME_BITS) - 1;

pub(super) const fn no_time(generation: u32) -> u64 {
    (generation as u64) << TIME_BITS
}

/// Backwards, so that the earliest time is the greatest number, and none is 0.
pub(super) fn from_time(time: Timestamp) -> u64 {
    TIME - u64::try_from(time.0).unwrap_or(0).min(TIME - 1)
}

/// What [`from_time`] made of a time, whatever stands above it.
pub(super) fn to_time(word: u64) -> Timestamp {
    match word & TIME {
        0 => Timestamp::INFINITY,
        TIME => Timestamp::NEG_INFINITY,
        from => Timestamp((TIME - from).cast_signed()),
    }
}

/// Forgets the time of a slot, if the slot is still of this generation: what was there.
pub(super) fn take_time(word: &AtomicU64, generation: u32) -> Option<u64> {
    let none = no_time(generation);
    word.fetch_update(SeqCst, SeqCst, |old| (old & !TIME == none).then_some(none)).ok()
}
