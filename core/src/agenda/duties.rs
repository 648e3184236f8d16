//! What a process does of the work.

/// What a process does of a notifier's work. Two processes share it, so that work which may have to wait for others
/// keeps no other work waiting. Where there is room for only one process, it does both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duties {
    /// Takes the marks and announces.
    pub announces: bool,
    /// Keeps the times, calls the sessions that block, looks at tables.
    pub watches: bool,
}

impl Duties {
    /// All of it.
    pub const ALL: Self = Self { announces: true, watches: true };
    /// A notifier beside a watcher.
    pub const NOTIFIER: Self = Self { announces: true, watches: false };
    /// A watcher.
    pub const WATCHER: Self = Self { announces: false, watches: true };
}
