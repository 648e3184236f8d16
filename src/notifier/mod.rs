//! The notifier: a background worker for each database with realtime queues, and a launcher that sees
//! to it that there is one. docs/design/notifier.md has the protocol and the life-cycle.

mod launcher;
mod queues;
mod send;
mod start;
mod worker;
