//! Memory that runs out is an error like any other.
//!
//! Rust's own containers end the process when an allocation fails. Postgres takes that for a crash, and restarts the
//! whole server. So all code that runs in somebody's transaction asks for room first, and hands the failure on.

use std::collections::TryReserveError;
use std::fmt;

/// An allocation failed. What it was for is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl std::error::Error for OutOfMemory {}

impl From<TryReserveError> for OutOfMemory {
    fn from(_: TryReserveError) -> Self {
        Self
    }
}

impl From<indexmap::TryReserveError> for OutOfMemory {
    fn from(_: indexmap::TryReserveError) -> Self {
        Self
    }
}

/// Appends a value, if there is room for it.
pub fn push<T>(values: &mut Vec<T>, value: T) -> Result<(), OutOfMemory> {
    values.try_reserve(1)?;
    values.push(value);
    Ok(())
}
