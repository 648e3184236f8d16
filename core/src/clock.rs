//! A clock that begins with a process and only goes forward.

/// Microseconds since its beginning.
pub type Moment = u64;
