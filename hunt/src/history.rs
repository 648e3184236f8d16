//! What was done: for the history of a loss, and counted for the end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use crate::clock::{Micros, now};
use aimq_lab::locking::lock;

/// How many actions are remembered.
const LENGTH: usize = 20_000;

/// One action.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    pub(crate) begun: Micros,
    pub(crate) ended: Micros,
    /// Whose it was.
    pub(crate) who: String,
    /// The database's number and the queue's table; `None` for what happens to the server.
    pub(crate) queue: Option<(usize, String)>,
    /// Its kind.
    pub(crate) kind: &'static str,
    /// What it was and what its result was.
    pub(crate) what: String,
}

/// How often something was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    /// What the last failure said.
    pub(crate) error: String,
}

/// All that was done.
#[derive(Debug, Default)]
pub(crate) struct History {
    acts: Mutex<VecDeque<Act>>,
    counts: Mutex<BTreeMap<(&'static str, &'static str), Count>>,
}

impl History {
    /// Makes a kind of action known: its count must not be 0 in the end.
    pub(crate) fn expect(&self, group: &'static str, kind: &'static str) {
        lock(&self.counts).entry((group, kind)).or_default();
    }

    /// Notes an action that is over.
    pub(crate) fn note(
        &self,
        begun: Micros,
        (who, kind): (&str, &'static str),
        queue: Option<(usize, String)>,
        what: String,
    ) {
        let act = Act { begun, ended: now(), who: who.to_owned(), queue, kind, what };
        let mut acts = lock(&self.acts);
        if acts.len() == LENGTH {
            acts.pop_front();
        }
        acts.push_back(act);
    }

    /// Counts an action.
    pub(crate) fn count(&self, group: &'static str, kind: &'static str, error: Option<String>) {
        let mut counts = lock(&self.counts);
        let count = counts.entry((group, kind)).or_default();
        match error {
            None => count.done += 1,
            Some(error) => {
                count.failed += 1;
                count.error = error;
            }
        }
    }

    /// Those that had to do with a queue, or with the whole server, since a time.
    pub(crate) fn of(&self, database: usize, table: &str, since: Micros) -> Vec<Act> {
        let concerns = |act: &&Act| {
            act.ended >= since
                && act.queue.as_ref().is_none_or(|(at, name)| {
                    // DDL of another queue matters to the database's notifier.
                    *at == database && (name == table || act.who.starts_with("ddl"))
                })
        };
        let mut acts: Vec<_> = lock(&self.acts).iter().filter(concerns).cloned().collect();
        acts.sort_by_key(|act| act.begun);
        acts
    }

    /// How often each kind was done.
    pub(crate) fn counts(&self) -> BTreeMap<(&'static str, &'static str), Count> {
        lock(&self.counts).clone()
    }
}
