//! What was found.

use std::collections::BTreeMap;

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Messages for which somebody had to be woken.
    pub(crate) checked: u64,
    /// Those that were gone before, or whose listeners were.
    pub(crate) gone: u64,
    /// Messages lost.
    pub(crate) lost: u64,
    /// The same by the kind of the last action on the queue before.
    pub(crate) after: BTreeMap<&'static str, u64>,
    /// The reports of losses: messages that became readable together on one queue are one.
    pub(crate) reports: Vec<String>,
    /// How late wake-ups were, in milliseconds, where nothing excused them.
    pub(crate) lateness: Vec<f64>,
    pub(crate) wake_ups: u64,
    pub(crate) for_nothing: u64,
}
