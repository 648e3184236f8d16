//! aimq: a worker on a pgmq queue wakes the instant a job can be read.
//!
//! The way of a wake-up: [`trigger`] reads the inserted row, [`transaction`] keeps the batch and
//! follows the savepoints, [`delivery`] announces it before the commit. [`api`] is the control plane.
//! The map of the house is `docs/design/README.md`.

#![deny(ffi_unwind_calls)]

mod adopt;
mod api;
mod archive;
mod astray;
mod attached;
mod delivery;
mod error;
mod events;
mod ffi;
mod home;
mod notifier;
mod passed_on;
mod pgmq;
mod process;
mod settings;
#[cfg(feature = "bench_shapes")]
mod shapes;
mod shared;
mod signals;
mod statements;
mod text;
mod transaction;
mod trigger;
mod waiting;

use pgrx::prelude::*;

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/trigger.sql", name = "trigger", bootstrap);
extension_sql_file!("../sql/views.sql", name = "views", requires = ["trigger"]);
extension_sql_file!(
    "../sql/stats.sql",
    name = "stats",
    requires = ["views", notifier::stats::_queue_counters, notifier::stats::_notifiers]
);
extension_sql_file!(
    "../sql/waiting.sql",
    name = "waiting",
    requires = [
        "views",
        api::_check_pgmq,
        waiting::_check_wait,
        waiting::_arm,
        waiting::_sleep,
        waiting::_doze,
        waiting::_is_called,
        waiting::_leave,
        waiting::_leave_rest,
        waiting::_waiters,
        waiting::_has_place
    ]
);
extension_sql_file!("../sql/doctor_server.sql", name = "doctor_server", requires = ["waiting"]);
extension_sql_file!(
    "../sql/doctor.sql",
    name = "doctor",
    requires =
        ["doctor_server", "stats", notifier::stats::_is_preloaded, notifier::stats::_has_room]
);
extension_sql_file!("../sql/ping.sql", name = "ping", requires = ["views"]);
extension_sql_file!("../sql/finalize.sql", name = "finalize", finalize);

/// Runs once in each backend that loads the library, or once in the postmaster where it is
/// preloaded, from which the backends inherit what it set up.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::init();
    shared::init();
    transaction::init();
    statements::init();
    notifier::init();
}

#[cfg(any(test, feature = "pg_test"))]
mod tests;

/// What the pgrx test harness asks for.
#[cfg(test)]
pub mod pg_test {
    /// Nothing to prepare.
    pub fn setup(_options: Vec<&str>) {}

    /// As most servers have it.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'aimq'"]
    }
}
