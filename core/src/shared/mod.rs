//! The state that producers, waiters, notifiers, watchers and the launcher share, and its protocol.
//!
//! Everything here is an atomic, so that no producer ever waits for another, and all of it is
//! valid when zeroed, as shared memory comes. The argument that no wake-up is lost is in
//! docs/design/notifier.md; the tests under loom check it.

mod bucket;
mod counters;
mod database;
mod ids;
mod news;
mod packed;
mod seat;
mod slot;
mod slot_ids;
mod waiters;

pub use bucket::Handed;
pub use counters::Counters;
pub use database::{Database, Databases, NoEntry, Stale};
pub use news::{News, Wake};
pub use seat::{ATTENDS_WITHIN, Seat, State};
pub use slot::{Claim, Drained, Full, KEY_MAX_BYTES, Marked, Slot, Slots};
pub use waiters::{Call, SLOTS_MOST, Seen, Session, Waiter, Waiters, words};

#[cfg(all(test, not(feature = "loom")))]
mod tests;

#[cfg(all(test, feature = "loom"))]
mod model;
