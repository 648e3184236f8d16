//! One clock for all: the machine's, which the server's processes ask as well.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970.
pub(crate) type Micros = i64;

/// A millisecond.
pub(crate) const MILLI: Micros = 1000;

/// A second.
pub(crate) const SECOND: Micros = 1_000_000;

/// What time it is.
pub(crate) fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(since.as_micros()).unwrap_or(Micros::MAX)
}

/// A length of time, as people read it.
pub(crate) fn millis(length: Micros) -> f64 {
    length as f64 / MILLI as f64
}
