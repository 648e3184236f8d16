//! Sessions that block until a queue has something to read, and how they are called.
//!
//! A session takes a place, says for which queues it waits, *then* looks whether there is something to read, and sleeps
//! if not. A producer whose transaction is visible asks *then* whether anybody waits for the queue, and if so adds its
//! messages to the slot's turns. So either the session sees the message, or the producer sees the session. Only the
//! process that watches hands the turns out, to the sessions that have waited longest. A session that was called and
//! does not read gives the turns back to the slot.

use super::news::Wake;
use super::slot::{Claim, Slots};
use crate::sync::{AtomicI64, AtomicU32, AtomicU64, Ordering::*, fence};
use crate::timestamp::Timestamp;

const FREE: u64 = 0;
/// Its owner is awake, and needs no call: it reads, or is about to leave.
const AWAKE: u64 = 1;
const WAITING: u64 = 2;
const CALLED: u64 = 3;
const STATE_BITS: u32 = 2;
const STATE: u64 = (1 << STATE_BITS) - 1;

/// Above the state: how often the place was armed, so that nobody calls a session that he didn't see. And of a
/// call: the slot and the turns.
///
/// ```text
///  63         44 43         24 23          2 1     0
/// ┌─────────────┬─────────────┬─────────────┬───────┐
/// │ turns       │ slot        │ armed       │ state │
/// └─────────────┴─────────────┴─────────────┴───────┘
/// ```
const ARMED_BITS: u32 = 22;
const ARMED: u64 = ((1 << ARMED_BITS) - 1) << STATE_BITS;
const ARMED_ONCE: u64 = 1 << STATE_BITS;
const SLOT_SHIFT: u32 = STATE_BITS + ARMED_BITS;
const SLOT_BITS: u32 = 20;
const TURNS_SHIFT: u32 = SLOT_SHIFT + SLOT_BITS;
const TURNS_MOST: u64 = (1 << (64 - TURNS_SHIFT)) - 1;

/// More slots than this have no room in a call.
pub const SLOTS_MOST: u32 = 1 << SLOT_BITS;

/// A session's place.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Waiter {
    state: AtomicU64,
    /// How to wake the session: an address that only the server's side understands.
    bell: AtomicU64,
    /// The session with the smaller ticket has waited longer.
    ticket: AtomicU64,
    since: AtomicI64,
    database: AtomicU32,
    pid: AtomicU32,
    /// How many messages the session reads at once; 0 if it may not want what there is.
    takes: AtomicU32,
}

impl Waiter {
    /// A free place: what zeroed memory is.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: AtomicU64::new(FREE),
            bell: AtomicU64::new(0),
            ticket: AtomicU64::new(0),
            since: AtomicI64::new(0),
            database: AtomicU32::new(0),
            pid: AtomicU32::new(0),
            takes: AtomicU32::new(0),
        }
    }
}

impl Default for Waiter {
    fn default() -> Self {
        Self::new()
    }
}

/// What a session says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Its database.
    pub database: u32,
    /// Its process.
    pub pid: u32,
    /// How to wake it.
    pub bell: u64,
    /// How many messages it reads at once; 0 if it may not want what there is.
    pub takes: u32,
    /// Since when it waits.
    pub since: Timestamp,
}

/// A call that was not answered: the slot, and how many messages were left to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    slot: u32,
    turns: u32,
}

/// What `aimq.waiters` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The session's process.
    pub pid: u32,
    /// Since when it waits.
    pub since: Timestamp,
    /// The slots of the queues.
    pub slots: Vec<u32>,
}

/// All sessions that wait, of all databases.
#[derive(Clone, Copy, Debug)]
pub struct Waiters<'a> {
    /// The places.
    pub all: &'a [Waiter],
    /// For each place a bit for each slot of the table.
    pub queues: &'a [AtomicU64],
    /// How many places, from the first, were ever taken.
    pub used: &'a AtomicU32,
    /// The last ticket that was given.
    pub tickets: &'a AtomicU64,
}

/// How many words the bits of so many slots take.
#[must_use]
pub const fn words(slots: usize) -> usize {
    slots.div_ceil(64)
}

impl Waiters<'_> {
    // The session's side.

    /// A ticket: a session that takes one later has waited less.
    #[must_use]
    pub fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, SeqCst)
    }

    /// Takes a place for a session that is going to wait for these queues. `None` if there is none. It is not
    /// yet called: see [`Waiters::arm`].
    #[must_use]
    pub fn enter(
        &self,
        slots: Slots<'_>,
        session: Session,
        ticket: u64,
        queues: &[Claim],
    ) -> Option<usize> {
        let free = |waiter: &Waiter| {
            let state = waiter.state.load(Relaxed);
            state & STATE == FREE
                && waiter
                    .state
                    .compare_exchange(state, state & ARMED | AWAKE, SeqCst, Relaxed)
                    .is_ok()
        };
        let at = self.all.iter().position(free)?;
        let waiter = &self.all[at];
        waiter.database.store(session.database, Relaxed);
        waiter.pid.store(session.pid, Relaxed);
        waiter.bell.store(session.bell, Relaxed);
        waiter.takes.store(session.takes, Relaxed);
        waiter.since.store(session.since.0, Relaxed);
        waiter.ticket.store(ticket, Relaxed);
        self.used.fetch_max(u32::try_from(at + 1).unwrap_or(u32::MAX), SeqCst);
        for claim in queues {
            let bit = 1 << (claim.at % 64);
            if self.words_of(at)[claim.at as usize / 64].fetch_or(bit, SeqCst) & bit == 0 {
                slots.waiting(claim.at).fetch_add(1, SeqCst);
            }
        }
        Some(at)
    }

    /// From here on the session is called. It is not called for messages that can be read already: it has to look
    /// after this.
    pub fn arm(&self, at: usize) {
        let state = &self.all[at].state;
        let next = (state.load(Relaxed) + ARMED_ONCE) & ARMED | WAITING;
        state.store(next, SeqCst);
        // The place before the look, as a producer has the message before the places.
        fence(SeqCst);
    }

    /// Whether the session was called.
    #[must_use]
    pub fn is_called(&self, at: usize) -> bool {
        self.all[at].state.load(SeqCst) & STATE == CALLED
    }

    /// The session is awake, and not called any more until it is armed again. Says what it was called for, which
    /// it reads, or [gives back](Slots::give_back).
    pub fn woke(&self, at: usize) -> Option<Call> {
        let state = &self.all[at].state;
        let old = state.swap((state.load(Relaxed) & ARMED) | AWAKE, SeqCst);
        let turns = u32::try_from(old >> TURNS_SHIFT).unwrap_or(0);
        let slot = (old >> SLOT_SHIFT) as u32 & (SLOTS_MOST - 1);
        (old & STATE == CALLED && turns > 0).then_some(Call { slot, turns })
    }

    /// The session does not wait any more. Says what it was called for and has not read.
    pub fn vacate(&self, slots: Slots<'_>, at: usize) -> Option<Call> {
        let call = self.woke(at);
        for (word, bits) in (0..).zip(self.words_of(at)) {
            let mut left = bits.swap(0, SeqCst);
            while left != 0 {
                slots.waiting(word * 64 + left.trailing_zeros()).fetch_sub(1, SeqCst);
                left &= left - 1;
            }
        }
        let state = &self.all[at].state;
        state.store(state.load(Relaxed) & ARMED | FREE, SeqCst);
        call
    }

    fn words_of(&self, at: usize) -> &[AtomicU64] {
        let words = self.queues.len() / self.all.len().max(1);
        &self.queues[at * words..(at + 1) * words]
    }

    // The watcher's side.

    /// Hands out the turns of a database's slots, and calls with `ring` the sessions that have waited longest. Turns
    /// that nobody waits for are dropped: a session that comes later looks for itself.
    pub fn call(&self, database: u32, slots: Slots<'_>, mut ring: impl FnMut(u64)) {
        let left: Vec<_> = slots
            .of(database)
            .filter_map(|claim| Some((claim.at, slots.take_turns(claim)?)))
            .collect();
        if left.is_empty() {
            return;
        }
        // The turns, and with them the messages, before the places; as a session has its place before it looks.
        fence(SeqCst);
        let line = self.line(database);
        for (slot, mut turns) in left {
            let of_slot = line.iter().filter(|(_, at, _)| self.has(*at, slot));
            for (_, at, state) in of_slot {
                if turns == 0 {
                    break;
                }
                let takes = u64::from(self.all[*at].takes.load(Relaxed));
                // A session that may not want the message gets no turn for it, and the next one is called too.
                let for_it = takes.min(turns).min(TURNS_MOST);
                if self.call_one(*at, *state, slot, for_it, &mut ring) {
                    turns -= for_it;
                    slots.count_call(slot);
                }
            }
        }
    }

    /// Calls every session of a database: there will be nobody who calls.
    pub fn call_everybody(&self, database: u32, mut ring: impl FnMut(u64)) {
        self.call_those(database, |_| true, &mut ring);
    }

    /// Calls the sessions that wait for a queue whose slot was given back.
    pub fn call_released(&self, database: u32, slots: &[u32], mut ring: impl FnMut(u64)) {
        if !slots.is_empty() {
            let has_one = |at| slots.iter().any(|slot| self.has(at, *slot));
            self.call_those(database, has_one, &mut ring);
        }
    }

    fn call_those(&self, database: u32, which: impl Fn(usize) -> bool, ring: &mut impl FnMut(u64)) {
        // What became so, before the places; as a session has its place before it looks.
        fence(SeqCst);
        for (_, at, state) in self.line(database).into_iter().filter(|(_, at, _)| which(*at)) {
            self.call_one(at, state, 0, 0, ring);
        }
    }

    /// The sessions that wait, the longest first: the ticket, the place, its state.
    fn line(&self, database: u32) -> Vec<(u64, usize, u64)> {
        let mut line: Vec<_> = self
            .ever_used()
            .filter_map(|(at, waiter)| {
                let state = waiter.state.load(SeqCst);
                let ours = state & STATE == WAITING && waiter.database.load(Relaxed) == database;
                ours.then(|| (waiter.ticket.load(Relaxed), at, state))
            })
            .collect();
        line.sort_unstable();
        line
    }

    fn call_one(
        &self,
        at: usize,
        state: u64,
        slot: u32,
        turns: u64,
        ring: &mut impl FnMut(u64),
    ) -> bool {
        let waiter = &self.all[at];
        let bell = waiter.bell.load(Relaxed);
        let called = state & ARMED | u64::from(slot) << SLOT_SHIFT | turns << TURNS_SHIFT | CALLED;
        // If it still is the one that was seen, all that was read of it is its own.
        let is_called = waiter.state.compare_exchange(state, called, SeqCst, Relaxed).is_ok();
        if is_called {
            ring(bell);
        }
        is_called
    }

    fn has(&self, at: usize, slot: u32) -> bool {
        self.words_of(at)[slot as usize / 64].load(SeqCst) & 1 << (slot % 64) != 0
    }

    fn ever_used(&self) -> impl Iterator<Item = (usize, &Waiter)> {
        let used = self.used.load(SeqCst) as usize;
        self.all.iter().take(used).enumerate()
    }

    /// Whether there is a free place. Not guaranteed to last.
    #[must_use]
    pub fn has_place(&self) -> bool {
        self.all.iter().any(|waiter| waiter.state.load(Relaxed) & STATE == FREE)
    }

    /// What `aimq.waiters` shows. Not guaranteed to be of one moment.
    #[must_use]
    pub fn seen(&self, database: u32) -> Vec<Seen> {
        let places = self.ever_used().filter(|(_, waiter)| {
            waiter.state.load(SeqCst) & STATE != FREE && waiter.database.load(Relaxed) == database
        });
        places
            .map(|(at, waiter)| {
                let mut slots = Vec::new();
                for (word, bits) in (0..).zip(self.words_of(at)) {
                    let mut left = bits.load(SeqCst);
                    while left != 0 {
                        slots.push(word * 64 + left.trailing_zeros());
                        left &= left - 1;
                    }
                }
                let since = Timestamp(waiter.since.load(Relaxed));
                Seen { pid: waiter.pid.load(Relaxed), since, slots }
            })
            .collect()
    }
}

impl Slots<'_> {
    /// A producer whose transaction is visible enqueued `messages` that are visible: leaves them to the
    /// sessions that wait for the queue, if there are any. Then the watcher has to be woken.
    pub fn leave_to_waiters(&self, claim: Claim, messages: u64) -> Wake {
        // The message before the places, as a session has its place before it looks.
        fence(SeqCst);
        let is_awaited = messages > 0 && self.waiting(claim.at).load(SeqCst) > 0;
        if is_awaited {
            self.add_turns(claim.at, messages);
        }
        Wake::WATCHER.only_if(is_awaited)
    }

    /// What a session was called for, and did not read. The watcher has to be woken, to call another one.
    pub fn give_back(&self, call: Call) -> Wake {
        self.add_turns(call.slot, u64::from(call.turns));
        Wake::WATCHER
    }

    /// A process that adds turns wakes the watcher, even if there were some: those may be of the queue that had the
    /// slot before.
    fn add_turns(&self, slot: u32, messages: u64) {
        // Each is at most 40 bits, and they are taken soon: the sum has room.
        self.turns(slot).fetch_add(messages.min(1 << 40), SeqCst);
    }

    /// Whether messages are left to sessions that wait.
    #[must_use]
    pub fn has_turns(&self, claim: Claim) -> bool {
        self.turns(claim.at).load(SeqCst) != 0
    }

    fn take_turns(&self, claim: Claim) -> Option<u64> {
        let turns = self.turns(claim.at);
        (turns.load(SeqCst) != 0).then(|| turns.swap(0, SeqCst))
    }
}
