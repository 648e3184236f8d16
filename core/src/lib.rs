//! What aimq does without a server: pure Rust, free of `unsafe`, so that it can be tested by
//! the thousand cases a second.
//!
//! * [`batch`]: what one transaction has enqueued, following its savepoints.
//! * [`route`]: where the news of a queue goes: channel, event, queue; and [`options`], what else is asked for.
//! * [`ids`]: of messages, for queues that ask for them.
//! * [`payload`]: the wire format of a notification.
//! * [`shared`]: what producers, notifiers and the launcher share, lock-free.
//! * [`agenda`]: what a notifier or a watcher has to do, and when: coalescing, intervals, timers, looks.
//! * [`launcher`]: which processes are started, and when.
//! * [`sinks`]: what is broadcast, and when.
//! * [`back_off`]: how long to wait after something that failed.
//! * [`pace`]: how often it may notify, by what that takes of a processor.
//! * [`clock`]: in which a notifier counts its intervals.
//! * [`hash`]: for the names of queues.
//! * [`memory`]: that it can run out.
//! * [`timestamp`]: Postgres' timestamps in the wire format's spelling.

#![forbid(unsafe_code)]

pub mod agenda;
pub mod back_off;
pub mod batch;
pub mod clock;
pub mod hash;
pub mod ids;
pub mod launcher;
pub mod memory;
pub mod options;
pub mod pace;
pub mod payload;
pub mod route;
pub mod shared;
pub mod sinks;
mod sync;
pub mod timestamp;
pub mod version;
