//! The table of queues: one slot for each route of each database.

use std::hash::Hasher;

use super::counters::{self, Counters};
use super::ids;
use super::packed::{mark, time};
use crate::hash::Fnv;
use crate::route::RouteKey;
use crate::sync::{AtomicU32, AtomicU64, Ordering::*, fence};
use crate::timestamp::Timestamp;

/// Under loom a key is short: each of its words is a state to explore.
const KEY_WORDS: usize = if cfg!(feature = "loom") { 2 } else { 33 };

/// The longest route that has room in a slot: the table, channel, event and queue, each of these with a NUL behind it.
/// One that is longer is announced in the transaction.
pub const KEY_MAX_BYTES: usize = KEY_WORDS * 8;

const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const READY: u32 = 2;

/// What is known of one queue. The first 64 bytes are all that a producer writes and a notifier's
/// sweep reads, but where sessions wait or ids are asked for.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Slot {
    /// See [`mark`].
    mark: AtomicU64,
    /// The earliest visibility time that is still to come, see [`time`].
    earliest: AtomicU64,
    /// From which visibility time on the table is to be looked at, see [`time::backwards`].
    moved: AtomicU64,
    transactions: AtomicU64,
    messages: AtomicU64,
    hash: AtomicU64,
    database: AtomicU32,
    state: AtomicU32,
    length: AtomicU32,
    /// How many sessions wait for the slot's queue, see [`super::Waiters`]. It belongs to the slot, whichever queue has
    /// that.
    waiting: AtomicU32,
    /// Messages that are left to them, and that none of them has been called for.
    turns: AtomicU64,
    /// How long a look at the table takes, where it takes long.
    look_cost: AtomicU32,
    key: [AtomicU64; KEY_WORDS],
    counters: counters::Cells,
    ids: ids::Cells,
}

/// A slot, as long as it is the same queue's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The slot's number.
    pub at: u32,
    generation: u32,
}

/// The table has no room for another queue, or the route does not fit into a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What happened to a mark.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// Nothing was marked there: the notifier may have to be told, see [`super::Database::must_ring`].
    First,
    /// Something was marked already, by somebody who told the notifier or is about to.
    More,
    /// The slot is another queue's by now: nothing was marked.
    Stale,
}

/// What a notifier took from a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Messages marked since the last time.
    pub messages: u64,
    /// Transactions ever seen.
    pub transactions: u64,
}

impl Slot {
    /// An empty slot: what zeroed memory is.
    #[must_use]
    pub fn new() -> Self {
        Self {
            mark: AtomicU64::new(0),
            earliest: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            hash: AtomicU64::new(0),
            database: AtomicU32::new(0),
            state: AtomicU32::new(FREE),
            length: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            turns: AtomicU64::new(0),
            look_cost: AtomicU32::new(0),
            key: std::array::from_fn(|_| AtomicU64::new(0)),
            counters: counters::Cells::new(),
            ids: ids::Cells::new(),
        }
    }

    fn is(&self, database: u32, hash: u64, key: &[u8]) -> bool {
        self.state.load(Acquire) == READY
            && self.database.load(Relaxed) == database
            && self.hash.load(Relaxed) == hash
            && self.length.load(Relaxed) as usize == key.len()
            && words(key).zip(&self.key).all(|(word, found)| found.load(Relaxed) == word)
    }

    fn write(&self, database: u32, hash: u64, key: &[u8]) {
        // The generation before the rest, as a reader has the rest before the generation.
        fence(SeqCst);
        self.database.store(database, Relaxed);
        self.hash.store(hash, Relaxed);
        self.length.store(u32::try_from(key.len()).unwrap_or(0), Relaxed);
        for (word, place) in words(key).zip(&self.key) {
            place.store(word, Relaxed);
        }
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

/// The bytes of a key, eight at a time, the last filled up with zeros.
fn words(key: &[u8]) -> impl Iterator<Item = u64> {
    key.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    })
}

/// It only saves comparisons: a table is searched slot by slot.
fn hash_of(database: u32, key: &[u8]) -> u64 {
    let mut hash = Fnv::default();
    hash.write_u32(database);
    hash.write(key);
    hash.finish()
}

/// What [`Slots::hashes`] has of a hash.
const fn part_of(hash: u64) -> u32 {
    (hash ^ hash >> 32) as u32
}

/// The table of all databases' queues.
#[derive(Clone, Copy, Debug)]
pub struct Slots<'a> {
    /// The slots.
    pub all: &'a [Slot],
    /// For each a part of its route's hash, close together: a search reads only these, and the slots that may be the
    /// right one.
    pub hashes: &'a [AtomicU32],
    /// How many of them, from the first, were ever used.
    pub used: &'a AtomicU32,
}

impl Slots<'_> {
    /// The slots that were ever used.
    fn ever_used(&self) -> &[Slot] {
        let used = self.used.load(SeqCst) as usize;
        &self.all[..used.min(self.all.len())]
    }

    /// Finds the slot of a route, or takes one for it. Never waits: two that do this at the same
    /// moment may take a slot each, which costs room and nothing else; the watcher gives one back.
    pub fn claim(&self, database: u32, key: &[u8]) -> Result<Claim, Full> {
        self.find(database, key).map_or_else(|| self.take(database, key), Ok)
    }

    /// Finds the slot of a route. Searches all hashes; a caller that asks often remembers the answer.
    #[must_use]
    pub fn find(&self, database: u32, key: &[u8]) -> Option<Claim> {
        let hash = hash_of(database, key);
        self.like(hash).find_map(|(at, slot)| {
            let claim = Claim { at, generation: mark::generation(slot.mark.load(SeqCst)) };
            (slot.is(database, hash, key) && self.is_still(claim)).then_some(claim)
        })
    }

    /// The slots whose route may have this hash. A process that sees that a slot is ready also sees its hash: the hash
    /// was written first, and all agree on the order of both.
    fn like(&self, hash: u64) -> impl Iterator<Item = (u32, &Slot)> {
        let part = part_of(hash);
        let hashes = self.hashes[..self.ever_used().len()].iter();
        let like = (0..).zip(hashes).filter(move |(_, of)| of.load(SeqCst) == part);
        like.map(|(at, _)| (at, &self.all[at as usize]))
    }

    /// Takes a slot for a route that has none.
    pub fn take(&self, database: u32, key: &[u8]) -> Result<Claim, Full> {
        if key.len() > KEY_MAX_BYTES {
            return Err(Full);
        }
        for (at, slot) in (0..).zip(self.all) {
            if slot.state.load(Relaxed) == FREE
                && slot.state.compare_exchange(FREE, CLAIMED, SeqCst, Relaxed).is_ok()
            {
                let claim = Claim { at, generation: mark::generation(slot.mark.load(SeqCst)) };
                let hash = hash_of(database, key);
                slot.write(database, hash, key);
                self.hashes[at as usize].store(part_of(hash), SeqCst);
                // Before anybody can mark it: a sweep that is told of a mark must come by.
                self.used.fetch_max(at + 1, SeqCst);
                slot.state.store(READY, SeqCst);
                return Ok(claim);
            }
        }
        Err(Full)
    }

    /// Whether so many slots are in use that it has to be counted who has them.
    pub(super) fn is_scarce(&self) -> bool {
        self.used.load(SeqCst) as usize > self.all.len() / 2
    }

    pub(super) fn how_many_free(&self) -> usize {
        self.all.iter().filter(|slot| slot.state.load(Relaxed) == FREE).count()
    }

    /// Whether the route has another slot too. Of two that take one at the same moment, one at least sees that.
    #[must_use]
    pub fn is_double(&self, claim: Claim, database: u32, key: &[u8]) -> bool {
        // The own slot before the others', on both sides.
        fence(SeqCst);
        let hash = hash_of(database, key);
        self.like(hash).any(|(at, slot)| at != claim.at && slot.is(database, hash, key))
    }

    fn slot(&self, claim: Claim) -> &Slot {
        &self.all[claim.at as usize]
    }

    pub(super) fn ids(&self, claim: Claim) -> (&ids::Cells, u32) {
        (&self.slot(claim).ids, claim.generation)
    }

    pub(super) fn waiting(&self, at: u32) -> &AtomicU32 {
        &self.all[at as usize].waiting
    }

    pub(super) fn turns(&self, at: u32) -> &AtomicU64 {
        &self.all[at as usize].turns
    }

    pub(super) fn count_call(&self, at: u32) {
        self.all[at as usize].counters.called();
    }

    /// How many sessions wait for the queue.
    #[must_use]
    pub fn how_many_wait(&self, claim: Claim) -> u32 {
        self.waiting(claim.at).load(SeqCst)
    }

    /// Whether the slot is still the same queue's.
    #[must_use]
    pub fn is_current(&self, claim: Claim) -> bool {
        mark::generation(self.slot(claim).mark.load(SeqCst)) == claim.generation
    }

    /// The same once something was read of it: a slot that changes hands gets another generation before another
    /// database and key.
    #[must_use]
    pub fn is_still(&self, claim: Claim) -> bool {
        fence(SeqCst);
        self.is_current(claim)
    }

    /// Marks `messages` that are visible, of one transaction that is visible too.
    pub fn mark(&self, claim: Claim, messages: u64) -> Marked {
        let slot = self.slot(claim);
        let mut old = slot.mark.load(Relaxed);
        loop {
            if mark::generation(old) != claim.generation {
                return Marked::Stale;
            }
            let new = mark::plus(old, messages);
            match slot.mark.compare_exchange_weak(old, new, SeqCst, Relaxed) {
                Ok(_) => break,
                Err(found) => old = found,
            }
        }
        if mark::count(old) == 0 { Marked::First } else { Marked::More }
    }

    /// Marks that a look has found something to read, unless what is marked already says so.
    pub fn mark_found(&self, claim: Claim) -> Marked {
        if self.is_marked(claim) && self.is_current(claim) {
            Marked::More
        } else {
            self.mark(claim, 1)
        }
    }

    /// Notes that a message of a transaction that is visible becomes visible itself at `at`: `First` if
    /// that is earlier than what was known.
    pub fn expect(&self, claim: Claim, at: Timestamp) -> Marked {
        let slot = self.slot(claim);
        // A time that is past all clocks never comes.
        let number = u64::try_from(at.0.max(1)).ok().filter(|number| *number <= time::MOST);
        let mut old = slot.earliest.load(Relaxed);
        let is_first = loop {
            if !time::is_of(old, claim.generation) {
                return Marked::Stale;
            }
            let known = time::number(old);
            let first = number.filter(|number| known == 0 || *number < known);
            let new = first.map_or(old, |number| time::with(old, number));
            // Even if nothing changes: the watcher that forgets the old time sees what is visible now.
            match slot.earliest.compare_exchange_weak(old, new, SeqCst, Relaxed) {
                Ok(_) => break first.is_some(),
                Err(found) => old = found,
            }
        };
        match self.is_current(claim) {
            false => Marked::Stale,
            true if is_first => Marked::First,
            true => Marked::More,
        }
    }

    /// Notes that messages may have got another visibility time, of `from` or later, by a transaction that
    /// is visible: `First` if nobody had noted that.
    pub fn moved(&self, claim: Claim, from: Timestamp) -> Marked {
        let slot = self.slot(claim);
        let mut old = slot.moved.load(Relaxed);
        loop {
            if !time::is_of(old, claim.generation) {
                return Marked::Stale;
            }
            let new = time::with(old, time::number(old).max(time::backwards(from)));
            // Even if nothing changes: the watcher that takes the note sees what is visible now.
            match slot.moved.compare_exchange_weak(old, new, SeqCst, Relaxed) {
                Ok(_) => break,
                Err(found) => old = found,
            }
        }
        match self.is_current(claim) {
            false => Marked::Stale,
            true if time::number(old) == 0 => Marked::First,
            true => Marked::More,
        }
    }

    /// Counts a transaction of `messages`.
    pub fn count(&self, claim: Claim, messages: u64) {
        let slot = self.slot(claim);
        slot.transactions.fetch_add(1, Relaxed);
        slot.messages.fetch_add(messages, Relaxed);
    }

    // What follows is for the processes of the slot's database. The one that watches gives slots back. So the notifier
    // beside it may find that a slot is another queue's by now, even another database's. It must not take what is noted
    // there.

    /// The slots of a database.
    pub fn of(&self, database: u32) -> impl Iterator<Item = Claim> {
        (0..).zip(self.ever_used()).filter_map(move |(at, slot)| {
            let claim = Claim { at, generation: mark::generation(slot.mark.load(SeqCst)) };
            let is_its = slot.state.load(SeqCst) == READY
                && slot.database.load(Relaxed) == database
                && self.is_still(claim);
            is_its.then_some(claim)
        })
    }

    /// The route of a slot.
    #[must_use]
    pub fn key(&self, claim: Claim) -> RouteKey {
        let slot = self.slot(claim);
        let words = slot.key.iter().flat_map(|word| word.load(Relaxed).to_le_bytes());
        words.take(slot.length.load(Relaxed) as usize).collect::<Vec<_>>().into()
    }

    /// Whether anything is marked.
    #[must_use]
    pub fn is_marked(&self, claim: Claim) -> bool {
        mark::count(self.slot(claim).mark.load(SeqCst)) != 0
    }

    /// Takes what is marked, if anything, and if the slot is still the same queue's.
    #[must_use]
    pub fn drain(&self, claim: Claim) -> Option<Drained> {
        let slot = self.slot(claim);
        let messages = mark::take(&slot.mark, claim.generation)?;
        Some(Drained { messages, transactions: slot.transactions.load(Relaxed) })
    }

    /// From which visibility time on messages may have got another one; infinity if none has.
    #[must_use]
    pub fn moved_from(&self, claim: Claim) -> Timestamp {
        time::of_backwards(self.slot(claim).moved.load(SeqCst))
    }

    /// The same; forgets it: the caller looks at the table afterwards.
    #[must_use]
    pub fn take_moved(&self, claim: Claim) -> Timestamp {
        let taken = time::take(&self.slot(claim).moved, claim.generation);
        taken.map_or(Timestamp::INFINITY, time::of_backwards)
    }

    /// The earliest visibility time to come, if any.
    #[must_use]
    pub fn earliest(&self, claim: Claim) -> Option<Timestamp> {
        let number = time::number(self.slot(claim).earliest.load(SeqCst));
        i64::try_from(number).ok().filter(|number| *number != 0).map(Timestamp)
    }

    /// Forgets the earliest visibility time: the caller looks at the table afterwards.
    pub fn forget_earliest(&self, claim: Claim) {
        _ = time::take(&self.slot(claim).earliest, claim.generation);
    }

    /// Counts a notification that named the queue, and the transactions that shared it.
    pub fn notified(&self, claim: Claim, coalesced: u64, at: Timestamp) {
        self.slot(claim).counters.notified(coalesced, at);
    }

    /// Counts a broadcast of the queue.
    pub fn broadcast(&self, claim: Claim) {
        self.slot(claim).counters.broadcast();
    }

    /// Counts one that failed.
    pub fn broadcast_failed(&self, claim: Claim, at: Timestamp) {
        self.slot(claim).counters.broadcast_failed(at);
    }

    /// Notes how long a look at the table takes a processor, in microseconds.
    pub fn set_look_cost(&self, claim: Claim, cost: u64) {
        let cost = u32::try_from(cost.max(1)).unwrap_or(u32::MAX);
        self.slot(claim).look_cost.store(cost, Relaxed);
    }

    /// What was noted of that; 0 if nothing was.
    #[must_use]
    pub fn look_cost(&self, claim: Claim) -> u64 {
        self.slot(claim).look_cost.load(Relaxed).into()
    }

    /// Gives a slot back; says whether anything was marked in it.
    pub fn release(&self, claim: Claim) -> bool {
        let slot = self.slot(claim);
        slot.state.store(CLAIMED, SeqCst);
        let next = claim.generation.wrapping_add(1);
        let marked = mark::count(slot.mark.swap(mark::none(next), SeqCst)) != 0;
        let expected = time::number(slot.earliest.swap(time::none(next), SeqCst)) != 0;
        let moved = time::number(slot.moved.swap(time::none(next), SeqCst)) != 0;
        slot.database.store(0, Relaxed);
        for counter in [&slot.transactions, &slot.messages] {
            counter.store(0, Relaxed);
        }
        slot.counters.reset();
        slot.ids.reset();
        // The sessions that wait for it are called anyway.
        slot.turns.store(0, SeqCst);
        slot.look_cost.store(0, Relaxed);
        slot.state.store(FREE, SeqCst);
        marked || expected || moved
    }

    /// What `aimq.stats` shows.
    #[must_use]
    pub fn counters(&self, claim: Claim) -> Counters {
        let slot = self.slot(claim);
        slot.counters.read(slot.transactions.load(Relaxed), slot.messages.load(Relaxed))
    }
}
