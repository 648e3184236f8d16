//! What the launcher is told, and what it says.

use super::job::{Process, Role};
use crate::clock::Moment;
use crate::shared::State;

/// What is to be done. After each but [`Act::Sleep`], the launcher is told what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Take the wishes for a notifier of these databases, each of them before its notifier is looked at:
    /// [`Event::Wishes`].
    TakeWishes(Vec<u32>),
    /// Ask which databases there are: [`Event::There`].
    List,
    /// Give back what a database that is gone has in the shared memory: [`Event::Forgotten`].
    Forget(u32),
    /// Look at a process, and at the seats of its database afterwards: [`Event::Seen`].
    See(Process),
    /// Look whether the process could connect to its database: [`Event::Found`].
    Find(Process),
    /// Start it, unless one runs in its seat: [`Event::Tried`].
    Start {
        /// Which.
        process: Process,
        /// It only is to see whether there is anything to do.
        is_probe: bool,
    },
    /// Note in its seat that there is no slot, unless one runs there: [`Event::NoSlotNoted`].
    NoteNoSlot(Process),
    /// Wake the notifier of a database: [`Event::Done`].
    Wake(u32),
    /// Log that there is no slot for a process of this role: [`Event::Done`].
    LogNoSlot(Role),
    /// Tell the watcher of a database to end: [`Event::GivenUp`].
    GiveUp(u32),
    /// Look whether the watchers show themselves that were rung: [`Event::Guarded`].
    LookAtGuarded,
    /// Call the sessions that block in a database: [`Event::Done`].
    Call(u32),
    /// The round is over: sleep for this long, or until somebody rings.
    Sleep(Option<Moment>),
}

/// What has come of an [`Act`]; or a new round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A round begins: the latch was reset. These databases have an entry.
    Round(Vec<(u32, Seats)>),
    /// The databases for which somebody wanted a notifier, and whether there was one *after* the wish was taken.
    Wishes(Vec<(u32, State)>),
    /// The databases that there are.
    There(Vec<u32>),
    /// Whether a database was forgotten. Otherwise somebody else was in the way, and it has to be tried again.
    Forgotten {
        /// Which.
        oid: u32,
        /// It was, or it had nothing.
        is_done: bool,
    },
    /// How a process is.
    Seen(Process, Seen),
    /// Whether it could connect.
    Found(Process, Found),
    /// Whether it was started.
    Tried(Process, Tried),
    /// Whether its seat says now that there is no slot.
    NoSlotNoted {
        /// Which.
        process: Process,
        /// False if one runs there, or if the database has no entry.
        is_noted: bool,
    },
    /// Whether the watcher of a database was told to end.
    GivenUp {
        /// Which.
        oid: u32,
        /// False if it has not yet made itself known.
        is_told: bool,
    },
    /// The databases whose watcher was rung and has not shown itself since, and how many microseconds it still has;
    /// less than 0 if its time has passed.
    Guarded(Vec<(u32, i64)>),
    /// It was done, and there is nothing to say of it.
    Done,
}

/// The two seats of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seats {
    /// The notifier's.
    pub notifier: State,
    /// The watcher's.
    pub watcher: State,
}

impl Seats {
    /// The seat of a role.
    #[must_use]
    pub const fn of(self, role: Role) -> State {
        match role {
            Role::Notifier => self.notifier,
            Role::Watcher => self.watcher,
        }
    }
}

/// A process, and the seats of its database as they were after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What the server says of the process.
    pub life: Life,
    /// What the shared memory says; `None` if the database has no entry.
    pub seats: Option<Seats>,
}

/// What the server says of a process that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It has not begun.
    Starts,
    /// It is there.
    Runs,
    /// It has ended, or it was never started.
    Gone {
        /// It has said that it looked and found nothing to do.
        has_looked: bool,
    },
}

/// What can be said of a database without connecting to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is there.
    Here,
    /// It is gone.
    Gone,
    /// It is being dropped, renamed or copied.
    Busy,
}

/// What has come of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It was started.
    Started,
    /// Another one runs in its seat.
    Taken,
    /// There is no background worker slot for it.
    NoSlot,
}
