//! What a transaction tells the watcher once it is committed: that triggers may be others, that messages may have come
//! in while no trigger fired, that a prepared transaction has ended. It follows savepoints: what is rolled back tells
//! nothing.
//!
//! All of this but [`note`] and [`init`] runs after a commit or at the end of a savepoint: nothing raises or allocates.
//! [`tell`] and [`prepared`] of a transaction that has made a trigger of ours may wait for another process that takes an
//! entry, 100 ms at most.

use std::cell::Cell;

use aimq_core::batch::Level;
use aimq_core::shared::{News, State};

use super::bell;
use super::memory::own_oid;
use super::source::get;
use crate::pg::transaction;
use crate::settings::{self, Delivery};

/// What a transaction may do that concerns the watcher.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Did {
    /// A trigger of ours was made.
    Made,
    /// Something was altered or dropped.
    Changed,
    /// Somebody's trigger was enabled, or a table got rows in a way that fires no trigger.
    Enabled,
    /// Messages may have come in anywhere while no trigger fired.
    Unseen,
    /// The same in whatever database: a setting with which no trigger fires is another than before.
    Switched,
    /// A prepared transaction was ended, which runs in a transaction of its own.
    Finished,
}

/// For each of them: the outermost level at which it was done.
#[derive(Clone, Copy)]
struct Done([Option<Level>; 6]);

impl Done {
    const NOTHING: Self = Self([None; 6]);

    const fn has(&self, did: Did) -> bool {
        self.0[did as usize].is_some()
    }

    /// What savepoints can undo: not that a prepared transaction was ended.
    fn undoable(&mut self) -> &mut [Option<Level>] {
        &mut self.0[..Did::Finished as usize]
    }
}

thread_local! {
    static DONE: Cell<Done> = const { Cell::new(Done::NOTHING) };
    /// Anything was noted there. Hardly any transaction notes something, but each asks.
    static HAS_NOTED: Cell<bool> = const { Cell::new(false) };
    /// Of a transaction that is committed; and whether there is anything.
    static UNTOLD: Cell<Done> = const { Cell::new(Done::NOTHING) };
    static HAS_UNTOLD: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn init() {
    transaction::after_locks(tell_what_is_untold);
}

/// Notes something that is to be told, at the level at which it is done, or further out.
pub(crate) fn note(did: Did) {
    HAS_NOTED.set(true);
    let now = transaction::nest_level();
    change(|done| {
        let level = &mut done.0[did as usize];
        *level = Some(level.map_or(now, |before| before.min(now)));
    });
}

/// The savepoint at `level` was released.
pub(crate) fn release(level: Level) {
    change(|done| {
        for noted in done.undoable() {
            *noted = noted.map(|at| at.min(level - 1));
        }
    });
}

/// The savepoint at `level` was rolled back.
pub(crate) fn roll_back(level: Level) {
    change(|done| {
        for noted in done.undoable() {
            *noted = noted.filter(|at| *at < level);
        }
    });
}

fn change(change: impl FnOnce(&mut Done)) {
    if HAS_NOTED.get() {
        let mut done = DONE.get();
        change(&mut done);
        DONE.set(done);
    }
}

/// The transaction is committed. What it has done is told a moment later: now its locks are still held, and others have
/// not heard of its changes of the catalogs (access/transam/xact.c, CommitTransaction). A process that looked now would
/// see a table without the partition that was just attached.
pub(crate) fn committed() {
    if HAS_NOTED.get() {
        UNTOLD.set(DONE.get());
        HAS_UNTOLD.set(true);
    }
}

/// The transaction's locks are given back, and its changes of the catalogs are known to all.
fn tell_what_is_untold() {
    if HAS_UNTOLD.replace(false) {
        tell(UNTOLD.replace(Done::NOTHING));
    }
}

/// Tells what a transaction has done.
fn tell(done: Done) {
    // Else nobody is to be started for this session's queues.
    let may_start = settings::delivery() != Delivery::Transaction;
    let has_made = may_start && done.has(Did::Made);
    if done.has(Did::Switched)
        && let Some(shared) = get()
    {
        let others = shared.databases.all.iter().filter(|entry| entry.oid() != 0);
        for entry in others.filter(|entry| entry.is_followed()) {
            let wake = entry.tell(News::EVERYTHING);
            if wake.is_any() {
                bell::ring(shared, entry, wake);
            }
        }
    }
    let has_changed = done.has(Did::Made) || done.has(Did::Changed);
    if !has_changed && !done.has(Did::Unseen) && !done.has(Did::Finished) {
        return;
    }
    let Some(shared) = get() else {
        return;
    };
    // Only a queue that becomes realtime is reason enough to take an entry.
    let database = match has_made {
        true => shared.wait_for_own_database(),
        false => shared.databases.find(own_oid()),
    };
    let Some(database) = database else {
        return;
    };
    let runs = database.state() == State::Running;
    if runs || database.is_followed() {
        let told = [
            (done.has(Did::Finished), News::FINISHED),
            (has_changed, News::QUEUES),
            (done.has(Did::Unseen), News::EVERYTHING),
        ];
        let told = told.into_iter().filter(|(is_so, _)| *is_so);
        let news = told.fold(News(0), |all, (_, news)| all | news);
        let wake = database.tell(news);
        if wake.is_any() {
            bell::ring(shared, database, wake);
        }
    }
    // The entry of a queue whose trigger was disabled has stayed.
    if runs {
    } else if has_made || may_start && done.has(Did::Enabled) || done.has(Did::Finished) {
        bell::want(shared, database);
    }
}

/// The transaction is prepared: whether a queue becomes realtime is seen when it is committed.
pub(crate) fn prepared() {
    let done = DONE.get();
    if done.has(Did::Made)
        && let Some(shared) = get()
        && let Some(database) = shared.wait_for_own_database()
    {
        let wake = database.tell(News::PREPARED);
        if wake.is_any() {
            bell::ring(shared, database, wake);
        }
    }
}

/// The transaction is rolled back: what it did to a prepared transaction stays done.
pub(crate) fn aborted() {
    change(|done| done.undoable().fill(None));
    committed();
}

/// Forgets what was noted.
pub(crate) fn forget() {
    if HAS_NOTED.replace(false) {
        DONE.set(Done::NOTHING);
    }
}
