//! One database's notifier: whether it runs, how to wake it, and what it was told.

use super::slot::{Claim, Marked, Table};
use crate::sync::{AtomicI64, AtomicU32, AtomicU64, Ordering::*, fence};
use crate::timestamp::Timestamp;

/// What a notifier is told besides the marks. Bits, so that they can be told together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News(pub u32);

impl News {
    /// Queues may have become realtime, or ceased to be.
    pub const QUEUES: Self = Self(1);
    /// Anything may have been enqueued anywhere: look at every queue.
    pub const EVERYTHING: Self = Self(2);
    /// A transaction with messages was prepared.
    pub const PREPARED: Self = Self(4);
    /// A prepared transaction has ended.
    pub const FINISHED: Self = Self(8);

    /// Whether all of `other` is in this.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for News {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Whether a database has a notifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// None is wanted.
    None = 0,
    /// One is being started.
    Starting = 1,
    /// It takes marks.
    Running = 2,
    /// It has ended against its will, and is to be started again.
    Down = 3,
    /// There is no background worker slot for it.
    NoSlot = 4,
}

impl State {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::Starting,
            2 => Self::Running,
            3 => Self::Down,
            4 => Self::NoSlot,
            _ => Self::None,
        }
    }
}

/// A database's entry.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Database {
    oid: AtomicU32,
    state: AtomicU32,
    news: AtomicU32,
    wanted: AtomicU32,
    /// How to wake the notifier: an address that only the server's side understands; 0 for none.
    bell: AtomicU64,
    /// Not 0 while the notifier comes by at a known time anyway.
    closed: AtomicU32,
    /// The notifier's process; 0 for none.
    pub pid: AtomicU32,
    /// Not 0 while it calls somebody else's function: should it end in there, the next one is careful.
    pub calling: AtomicU32,
    /// When it started.
    pub started_at: AtomicI64,
    /// How often it was started.
    pub starts: AtomicU64,
    /// How often it woke up.
    pub wake_ups: AtomicU64,
    /// Notifications sent.
    pub notifications: AtomicU64,
    /// Failures.
    pub errors: AtomicU64,
    /// The SQLSTATE of the last failure, as Postgres packs it.
    pub last_error: AtomicU32,
    /// When that was.
    pub last_error_at: AtomicI64,
}

impl Database {
    /// An unused entry: what zeroed memory is.
    #[must_use]
    pub fn new() -> Self {
        Self {
            oid: AtomicU32::new(0),
            state: AtomicU32::new(0),
            news: AtomicU32::new(0),
            wanted: AtomicU32::new(0),
            bell: AtomicU64::new(0),
            closed: AtomicU32::new(0),
            pid: AtomicU32::new(0),
            calling: AtomicU32::new(0),
            started_at: AtomicI64::new(0),
            starts: AtomicU64::new(0),
            wake_ups: AtomicU64::new(0),
            notifications: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_error: AtomicU32::new(0),
            last_error_at: AtomicI64::new(0),
        }
    }

    /// Whose entry this is; 0 for nobody's.
    #[must_use]
    pub fn oid(&self) -> u32 {
        self.oid.load(SeqCst)
    }

    /// Whether there is a notifier.
    #[must_use]
    pub fn state(&self) -> State {
        State::from(self.state.load(SeqCst))
    }

    /// Says whether there is a notifier.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u32, SeqCst);
    }

    /// Says that there is no notifier yet, unless one runs: then false. For the launcher.
    pub fn set_waiting(&self, state: State) -> bool {
        let running = State::Running as u32;
        let change = |now| (now != running).then_some(state as u32);
        self.state.fetch_update(SeqCst, SeqCst, change).is_ok()
    }

    /// Asks the launcher for a notifier; true if nobody had.
    pub fn want(&self) -> bool {
        self.wanted.swap(1, SeqCst) == 0
    }

    /// Whether somebody asked since the last time. For the launcher.
    pub fn was_wanted(&self) -> bool {
        self.wanted.swap(0, SeqCst) != 0
    }

    // The producer's side: all of it after the transaction is visible to others.

    /// Marks `messages` that are visible. True if the notifier has to be woken.
    pub fn enqueue(&self, table: Table<'_>, claim: Claim, messages: u64) -> Result<bool, Stale> {
        // Before the mark: the sweep that finds the mark counts the transaction as well.
        table.count(claim, messages);
        let is_marked = match table.mark(claim, messages) {
            Marked::First => self.must_ring(),
            Marked::More => false,
            Marked::Stale => return Err(Stale),
        };
        Ok(table.leave_to_waiters(claim, messages) || is_marked)
    }

    /// Notes messages that become visible at `at`. True if the notifier has to be woken: it would
    /// look at the clock too late.
    pub fn expect(
        &self,
        table: Table<'_>,
        claim: Claim,
        messages: u64,
        at: Timestamp,
    ) -> Result<bool, Stale> {
        match table.expect(claim, at) {
            Marked::Stale => Err(Stale),
            first => {
                table.count(claim, messages);
                Ok(first == Marked::First)
            }
        }
    }

    /// Notes that messages may have got another visibility time, of `from` or later. True if the notifier has
    /// to be woken.
    pub fn moved(&self, table: Table<'_>, claim: Claim, from: Timestamp) -> Result<bool, Stale> {
        let is_noted = match table.moved(claim, from) {
            Marked::First => self.must_ring(),
            Marked::More => false,
            Marked::Stale => return Err(Stale),
        };
        // Those who block don't wait for the notifier's timers, if there may be something to read.
        let is_awaited = from == Timestamp::NEG_INFINITY && table.how_many_wait(claim) > 0;
        Ok(is_noted || is_awaited)
    }

    /// Whether the first mark of a queue has to wake the notifier: not if it comes by anyway.
    fn must_ring(&self) -> bool {
        // The mark before the door, as the notifier has the door before the mark.
        fence(SeqCst);
        self.closed.load(SeqCst) == 0
    }

    /// Tells the notifier something. True if it has to be woken.
    pub fn tell(&self, news: News) -> bool {
        self.news.fetch_or(news.0, SeqCst) & news.0 != news.0
    }

    /// How to wake the notifier. To be asked after marking or telling.
    #[must_use]
    pub fn bell(&self) -> Option<u64> {
        // The mark before the bell, as a notifier that begins or ends has the bell before the marks.
        fence(SeqCst);
        Some(self.bell.load(SeqCst)).filter(|bell| *bell != 0)
    }

    // The notifier's side.

    /// A notifier begins: from here on it is woken. What was marked before, its first sweep finds.
    pub fn begin(&self, bell: u64) {
        self.closed.store(0, SeqCst);
        self.bell.store(bell, SeqCst);
        self.set_state(State::Running);
        fence(SeqCst);
    }

    /// The notifier ends.
    pub fn end(&self, state: State) {
        self.set_state(state);
        self.bell.store(0, SeqCst);
        self.pid.store(0, SeqCst);
        fence(SeqCst);
    }

    /// Opens the door: whoever marks from here on wakes the notifier. To be called *before* the marks
    /// are read.
    pub fn open(&self) {
        self.closed.store(0, SeqCst);
    }

    /// Closes the door: the notifier has a timer, and nobody needs to wake it before.
    pub fn close(&self) {
        self.closed.store(1, SeqCst);
    }

    /// Whether anything was told.
    #[must_use]
    pub fn has_news(&self) -> bool {
        fence(SeqCst);
        self.news.load(SeqCst) != 0
    }

    /// Takes what was told.
    pub fn news(&self) -> News {
        News(self.news.swap(0, SeqCst))
    }
}

/// The entries of all databases.
#[derive(Clone, Copy, Debug)]
pub struct Databases<'a> {
    /// The entries.
    pub all: &'a [Database],
    /// Set while an entry is taken or given back. Nobody ever waits for it.
    pub lock: &'a AtomicU32,
}

impl<'a> Databases<'a> {
    /// Finds the entry of a database.
    #[must_use]
    pub fn find(&self, oid: u32) -> Option<&'a Database> {
        self.all.iter().find(|entry| entry.oid.load(SeqCst) == oid)
    }

    /// Finds the entry of a database, or takes one for it. Never waits.
    pub fn claim(&self, oid: u32) -> Result<&'a Database, NoEntry> {
        if let Some(entry) = self.find(oid) {
            return Ok(entry);
        }
        let taken = self.locked(|| {
            let entry = self.find(oid).or_else(|| self.find(0))?;
            entry.oid.store(oid, SeqCst);
            Some(entry)
        });
        taken.ok_or(NoEntry::Busy)?.ok_or(NoEntry::Full)
    }

    /// Gives the entry of a database that is gone back. False if somebody else is taking one at this
    /// moment.
    pub fn release(&self, entry: &Database) -> bool {
        self.locked(|| {
            entry.end(State::None);
            entry.news.store(0, SeqCst);
            entry.wanted.store(0, SeqCst);
            let counters = [&entry.starts, &entry.wake_ups, &entry.notifications, &entry.errors];
            for counter in counters {
                counter.store(0, Relaxed);
            }
            entry.last_error.store(0, Relaxed);
            entry.calling.store(0, Relaxed);
            entry.oid.store(0, SeqCst);
        })
        .is_some()
    }

    fn locked<T>(&self, change: impl FnOnce() -> T) -> Option<T> {
        self.lock.compare_exchange(0, 1, SeqCst, SeqCst).ok()?;
        let changed = change();
        self.lock.store(0, SeqCst);
        Some(changed)
    }
}

impl Default for Database {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a database gets no entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEntry {
    /// There is no more.
    Full,
    /// Somebody else takes one, or gives one back, at this moment.
    Busy,
}

/// The slot is another queue's by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;
