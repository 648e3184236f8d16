//! The notifier: a background worker for each database with realtime queues, and a launcher that sees
//! to it that there is one. docs/design/notifier.md has the protocol and the life-cycle.

pub(crate) mod launcher;
mod queues;
mod send;
pub(crate) mod stats;
mod worker;

pub(crate) fn init() {
    launcher::init();
}
