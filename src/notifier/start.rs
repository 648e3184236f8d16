//! What the launcher gives a process of a database to start with.

use pgrx::pg_sys;

/// In the argument that PostgreSQL hands to a background worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// The OID of the database.
    pub(super) database: u32,
    /// The process only is to see whether there is anything to do.
    pub(super) is_probe: bool,
}

impl From<Start> for pg_sys::Datum {
    fn from(start: Start) -> Self {
        Self::from(u64::from(start.database) | u64::from(start.is_probe) << 32)
    }
}

impl From<pg_sys::Datum> for Start {
    fn from(argument: pg_sys::Datum) -> Self {
        Self { database: argument.value() as u32, is_probe: argument.value() >> 32 != 0 }
    }
}
