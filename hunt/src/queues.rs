//! The queues that every database has.

/// The channel of queues that name none.
pub(crate) const CHANNEL: &str = "aimq:jobs";
/// That of the queue `own`.
pub(crate) const OWN_CHANNEL: &str = "own jobs";
/// One that queues are moved to for a while.
pub(crate) const OTHER_CHANNEL: &str = "other:jobs";

/// How a queue is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Standard,
    Unlogged,
    Partitioned,
}

/// A queue that every database has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    /// As pgmq knows it.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) channel: &'static str,
}

impl Queue {
    /// The table's name, without its schema.
    pub(crate) fn table(&self) -> String {
        format!("q_{}", self.name.to_lowercase())
    }

    /// Whether it has row level security.
    pub(crate) fn is_guarded(&self) -> bool {
        self.name == GUARDED
    }
}

const fn queue(name: &'static str, kind: Kind, channel: &'static str) -> Queue {
    Queue { name, kind, channel }
}

/// The queue with row level security, and a role that sees all of it.
pub(crate) const GUARDED: &str = "guarded";
/// The queue whose messages are read by groups.
pub(crate) const GROUPS: &str = "groups";

/// Every database's queues. Sessions block on the last four; the others have listeners only.
pub(crate) const QUEUES: [Queue; 9] = [
    queue("plain", Kind::Standard, CHANNEL),
    queue("loose", Kind::Unlogged, CHANNEL),
    queue("MixedCase", Kind::Standard, CHANNEL),
    queue("parted", Kind::Partitioned, CHANNEL),
    queue("own", Kind::Standard, OWN_CHANNEL),
    queue("shared", Kind::Standard, CHANNEL),
    queue("pool", Kind::Standard, CHANNEL),
    queue(GUARDED, Kind::Standard, CHANNEL),
    queue(GROUPS, Kind::Standard, CHANNEL),
];

/// A string in SQL.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
