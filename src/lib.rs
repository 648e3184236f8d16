//! aimq: a worker on a pgmq queue wakes the instant a job can be read.
//!
//! The way of a wake-up: [`enqueue`] notes what a transaction does, [`callbacks`] hands that over when the transaction
//! is committed, [`delivery`] makes wake-ups of it, and [`notifier`] sends them. [`api`] is the control plane. Which
//! room may know which is in `docs/design/README.md`.

#![deny(ffi_unwind_calls)]
// What Postgres demands of its callers is known in `pg`, and what processes share in `shared`.
#![deny(unsafe_code)]

mod api;
mod callbacks;
mod catalog;
mod ddl;
mod delivery;
mod enqueue;
mod error;
mod notifier;
#[allow(unsafe_code, reason = "the boundary to Postgres")]
mod pg;
mod settings;
#[allow(unsafe_code, reason = "memory that processes share")]
mod shared;
mod waiting;

use pgrx::prelude::*;

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/trigger.sql", name = "trigger", bootstrap);
extension_sql_file!(
    "../sql/views.sql",
    name = "views",
    requires = ["trigger", api::shown::_kinds, api::shown::_sink, api::shown::_with_ids]
);
extension_sql_file!(
    "../sql/stats.sql",
    name = "stats",
    requires = ["views", api::stats::_queue_counters, api::stats::_notifiers]
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
    requires = ["doctor_server", "stats", api::stats::_is_preloaded, api::stats::_has_room]
);
extension_sql_file!("../sql/ping.sql", name = "ping", requires = ["views"]);
extension_sql_file!("../sql/finalize.sql", name = "finalize", finalize);

/// Runs once in each backend that loads the library, or once in the postmaster where it is
/// preloaded, from which the backends inherit what it set up.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::log::without_backtraces();
    settings::init();
    shared::init();
    callbacks::init();
    ddl::init();
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
