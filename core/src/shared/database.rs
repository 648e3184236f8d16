//! One database: its two processes, what they were told, and what is noted of queues that have no slot.

use super::bucket::{Bucket, Handed, bucket_of};
use super::news::{News, Wake};
use super::seat::{ATTENDS_WITHIN, Seat, State};
use super::slot::{Claim, Marked, Slots};
use crate::sync::{AtomicI64, AtomicU32, AtomicU64, Ordering::*, fence};
use crate::timestamp::Timestamp;

/// Under loom few: each is a state to explore.
const BUCKETS: usize = if cfg!(feature = "loom") { 1 } else { 32 };
const HANDED: usize = if cfg!(feature = "loom") { 1 } else { 16 };

/// A database's entry.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Database {
    oid: AtomicU32,
    news: AtomicU32,
    wanted: AtomicU32,
    /// Not 0 while the notifier comes by at a known time anyway: the door is closed, see [`Database::close`].
    closed: AtomicU32,
    /// The process that announces: it may have to wait for others that notify.
    pub notifier: Seat,
    /// The process that calls the sessions that block, keeps the times and looks at tables: it waits for nobody.
    pub watcher: Seat,
    /// Not 0 while the launcher sees to it that the sessions that block are called even if the watcher is not woken.
    guarded: AtomicU32,
    /// Not 0 while no queue is realtime, as far as the watcher knows.
    empty: AtomicU32,
    /// How many slots the database could use.
    wants: AtomicU32,
    /// Not 0 while it calls somebody else's function: should it end in there, the next one is careful.
    pub calling: AtomicU32,
    /// Notifications sent.
    pub notifications: AtomicU64,
    /// Failures.
    pub errors: AtomicU64,
    /// The SQLSTATE of the last failure, as Postgres packs it.
    pub last_error: AtomicU32,
    /// When that was.
    pub last_error_at: AtomicI64,
    /// What is noted of queues without a slot.
    buckets: [Bucket; BUCKETS],
    /// Tables without a slot in which the watcher found something to announce.
    pub found: Handed<HANDED>,
    /// Tables at which it takes the watcher too long to look.
    pub slow: Handed<HANDED>,
}

impl Database {
    /// An unused entry: what zeroed memory is.
    #[must_use]
    pub fn new() -> Self {
        Self {
            oid: AtomicU32::new(0),
            news: AtomicU32::new(0),
            wanted: AtomicU32::new(0),
            closed: AtomicU32::new(0),
            notifier: Seat::new(),
            watcher: Seat::new(),
            guarded: AtomicU32::new(0),
            empty: AtomicU32::new(0),
            wants: AtomicU32::new(0),
            calling: AtomicU32::new(0),
            notifications: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_error: AtomicU32::new(0),
            last_error_at: AtomicI64::new(0),
            buckets: std::array::from_fn(|_| Bucket::new()),
            found: Handed::new(),
            slow: Handed::new(),
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
        self.notifier.state()
    }

    /// Whether marks are attended to: by a notifier that runs, and has shown that it does.
    #[must_use]
    pub fn takes_marks(&self, now: impl FnOnce() -> Timestamp) -> bool {
        // The clock is asked only where something is expected of it.
        self.state() == State::Running && self.notifier.attends_by().is_none_or(|by| now() <= by)
    }

    /// Who does the watcher's work: where there is no background worker slot for one, it is the notifier.
    #[must_use]
    pub fn who_watches(&self) -> &Seat {
        let is_notifier = self.watcher.state() == State::NoSlot;
        if is_notifier { &self.notifier } else { &self.watcher }
    }

    /// Whether some process follows the times, and calls the sessions that block, even if late.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        self.who_watches().state() == State::Running
    }

    /// Whether the sessions that block are called.
    #[must_use]
    pub fn is_watched(&self, now: Timestamp) -> bool {
        let seat = self.who_watches();
        seat.state() == State::Running && seat.is_attended(now)
    }

    /// Asks the launcher for a notifier. It has to be woken if nobody had asked.
    pub fn want(&self) -> Wake {
        Wake::LAUNCHER.only_if(self.wanted.swap(1, SeqCst) == 0)
    }

    /// Whether somebody asked since the last time. For the launcher.
    pub fn was_wanted(&self) -> bool {
        self.wanted.swap(0, SeqCst) != 0
    }

    // The producer's side: all of it after the transaction is visible to others.

    /// Marks `messages` that are visible.
    pub fn enqueue(&self, slots: Slots<'_>, claim: Claim, messages: u64) -> Result<Wake, Stale> {
        // Before the mark: the sweep that finds the mark counts the transaction as well.
        slots.count(claim, messages);
        let is_marked = match slots.mark(claim, messages) {
            Marked::First => self.must_ring(),
            Marked::More => false,
            Marked::Stale => return Err(Stale),
        };
        Ok(Wake::NOTIFIER.only_if(is_marked) | slots.leave_to_waiters(claim, messages))
    }

    /// Notes messages that become visible at `at`. The watcher is woken if it would look at the clock too late.
    pub fn expect(
        &self,
        slots: Slots<'_>,
        claim: Claim,
        messages: u64,
        at: Timestamp,
    ) -> Result<Wake, Stale> {
        match slots.expect(claim, at) {
            Marked::Stale => Err(Stale),
            first => {
                slots.count(claim, messages);
                Ok(Wake::WATCHER.only_if(first == Marked::First))
            }
        }
    }

    /// Notes that messages may have got another visibility time, of `from` or later.
    pub fn moved(&self, slots: Slots<'_>, claim: Claim, from: Timestamp) -> Result<Wake, Stale> {
        let is_noted = match slots.moved(claim, from) {
            Marked::First => true,
            Marked::More => false,
            Marked::Stale => return Err(Stale),
        };
        // Sessions that block don't wait for the watcher's timers, if there may be something to read.
        let is_awaited = from == Timestamp::NEG_INFINITY && slots.how_many_wait(claim) > 0;
        Ok(Wake::WATCHER.only_if(is_noted || is_awaited))
    }

    /// Has a table looked at that has no slot, or whose slot is not to be had now: what is visible there is news from
    /// the visibility time `from` on.
    pub fn look_at(&self, relation: u32, from: Timestamp) -> Wake {
        self.bucket(relation).look_from(from)
    }

    /// Notes a time for such a table.
    pub fn expect_without_slot(&self, relation: u32, at: Timestamp) -> Wake {
        self.bucket(relation).expect(at)
    }

    /// Notes that a prepared transaction has something for the table: it is looked at when one has ended.
    pub fn prepare(&self, relation: u32) {
        self.bucket(relation).prepare();
    }

    /// How many slots it has below its share, if it could use them.
    fn lacks(&self, slots: Slots<'_>, share: usize) -> usize {
        let wants = self.wants.load(Relaxed) as usize;
        wants.min(share).saturating_sub(slots.of(self.oid()).count())
    }

    fn bucket(&self, relation: u32) -> &Bucket {
        &self.buckets[bucket_of(relation, BUCKETS)]
    }

    /// Whether the first mark of a queue has to wake the notifier: not if it comes by anyway.
    fn must_ring(&self) -> bool {
        // The mark before the door, as the notifier has the door before the mark.
        fence(SeqCst);
        self.closed.load(SeqCst) == 0
    }

    /// Tells the process that watches something. It has to be woken unless it was told the same already.
    pub fn tell(&self, news: News) -> Wake {
        Wake::WATCHER.only_if(self.news.fetch_or(news.0, SeqCst) & news.0 != news.0)
    }

    /// Has the launcher see to it that the watcher attends to what it is rung for. It has to be woken for that unless
    /// it does so already.
    pub fn guard(&self) -> Wake {
        let is_news = self.guarded.load(SeqCst) == 0 && self.guarded.swap(1, SeqCst) == 0;
        Wake::LAUNCHER.only_if(is_news)
    }

    /// Until when the watcher has to show that it attends, `None` if it has to do nothing. For the launcher, which
    /// comes by then, or when it is woken. A watcher that sleeps with a timer of its own is not guarded until somebody
    /// wakes it: then it has less time.
    pub fn guarded_until(&self, now: Timestamp) -> Option<Timestamp> {
        let seat = self.who_watches();
        let is_near = |by: Timestamp| by.0 <= now.0.saturating_add(ATTENDS_WITHIN);
        let by = seat.attends_by();
        if by.is_some_and(is_near) {
            return by;
        }
        self.guarded.store(0, SeqCst);
        // A process that wakes it now found it guarded.
        fence(SeqCst);
        let by = seat.attends_by();
        if by.is_some_and(is_near) {
            self.guarded.store(1, SeqCst);
        }
        by
    }

    // The notifier's side.

    /// A notifier begins: from here on it is woken. What was marked before, its first sweep finds.
    pub fn begin(&self, bell: u64) {
        self.closed.store(0, SeqCst);
        self.notifier.begin(bell);
    }

    /// The notifier ends.
    pub fn end(&self, state: State) {
        self.notifier.end(state);
    }

    // The watcher's side.

    /// The tables without a slot that are to be looked at, one bucket after the other: which bucket, and from which
    /// visibility time on. What is returned is forgotten: the caller looks afterwards.
    pub fn take_looks(&self, now: Timestamp, mut look: impl FnMut(usize, Timestamp)) {
        for (at, bucket) in self.buckets.iter().enumerate() {
            if let Some(from) = bucket.take_look(now) {
                look(at, from);
            }
        }
    }

    /// When the first time of a table without a slot comes.
    #[must_use]
    pub fn earliest_without_slot(&self) -> Option<Timestamp> {
        self.buckets.iter().filter_map(Bucket::earliest).min()
    }

    /// The tables for which prepared transactions have something: which bucket. What is returned is forgotten: then the
    /// caller asks which transactions are prepared, and notes it again if there are any.
    pub fn take_prepared(&self, mut look: impl FnMut(usize)) {
        for (at, bucket) in self.buckets.iter().enumerate() {
            if bucket.take_prepared() {
                look(at);
            }
        }
    }

    /// Notes once more that a prepared transaction has something for a bucket.
    pub fn prepare_bucket(&self, at: usize) {
        self.buckets[at].prepare();
    }

    /// Whether a table is in a bucket.
    #[must_use]
    pub fn is_in_bucket(&self, relation: u32, at: usize) -> bool {
        bucket_of(relation, BUCKETS) == at
    }

    /// Says how many slots the database could use.
    pub fn set_wants(&self, slots: usize) {
        self.wants.store(u32::try_from(slots).unwrap_or(u32::MAX), SeqCst);
    }

    /// Says whether any queue is realtime.
    pub fn set_empty(&self, is_empty: bool) {
        self.empty.store(u32::from(is_empty), SeqCst);
    }

    /// Whether none is, as far as the watcher knows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.empty.load(SeqCst) != 0
    }

    /// Opens the door: a producer that marks from here on wakes the notifier. To be called *before* the marks
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
            entry.notifier.reset();
            entry.watcher.reset();
            entry.news.store(0, SeqCst);
            entry.wanted.store(0, SeqCst);
            for counter in [&entry.notifications, &entry.errors] {
                counter.store(0, Relaxed);
            }
            for flag in
                [&entry.guarded, &entry.empty, &entry.wants, &entry.calling, &entry.last_error]
            {
                flag.store(0, Relaxed);
            }
            entry.buckets.iter().for_each(Bucket::reset);
            entry.found.reset();
            entry.slow.reset();
            entry.oid.store(0, SeqCst);
        })
        .is_some()
    }

    // What each database may use of the slots, so that no database can use up another's share. Counted by looking
    // through the table: not exact while others take slots at the same moment, and done only where they are scarce.

    /// How many slots each database is sure of, if it can use that many.
    #[must_use]
    pub fn share(&self, slots: Slots<'_>) -> usize {
        let users = self.all.iter().filter(|entry| entry.wants.load(Relaxed) > 0).count();
        slots.all.len() / users.max(1)
    }

    /// Whether a database may take one more slot: below its share, or as long as what others are sure of stays free.
    #[must_use]
    pub fn may_take(&self, slots: Slots<'_>, oid: u32) -> bool {
        if !slots.is_scarce() {
            return true;
        }
        let share = self.share(slots);
        if slots.of(oid).count() < share {
            return true;
        }
        let others = self.all.iter().filter(|entry| ![0, oid].contains(&entry.oid()));
        let reserved: usize = others.map(|entry| entry.lacks(slots, share)).sum();
        slots.how_many_free() > reserved
    }

    /// Has the databases above their share give slots back, if this one is below. Calls `ring` for each that has to be
    /// woken.
    pub fn demand(&self, slots: Slots<'_>, own: &Database, mut ring: impl FnMut(&Database)) {
        let share = self.share(slots);
        if own.lacks(slots, share) > 0 {
            let others = self.all.iter().filter(|entry| ![0, own.oid()].contains(&entry.oid()));
            for entry in others.filter(|entry| slots.of(entry.oid()).count() > share) {
                if entry.tell(News::SHARE).is_any() {
                    ring(entry);
                }
            }
        }
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
