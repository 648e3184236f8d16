//! What the demo, the tests and the measurements have in common: set-up, throw-away servers,
//! progress.

pub mod cluster;
pub mod debs;
pub mod drivers;
pub mod install;
pub mod locking;
pub mod majors;
pub mod own;
mod packages;
pub mod pgbouncer;
pub mod progress;
pub mod setup;
pub mod shell;
pub mod stand_ins;
pub mod stats;
pub mod tools;
pub mod uninstall;
