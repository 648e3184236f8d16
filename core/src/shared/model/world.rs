//! What the threads share, and what they do with it: as src/delivery and src/notifier do.

use std::collections::BTreeSet;
use std::sync::Arc;

use loom::model::Builder;
use loom::thread::{JoinHandle, spawn};

use crate::agenda::{Agenda, Timers};
use crate::payload::Payload;
use crate::route::RouteKey;
use crate::shared::{Claim, Database, Marked, News, Slot, Slots, Stale, State, Wake};
use crate::sync::{AtomicU32, AtomicU64, Ordering::SeqCst};
use crate::timestamp::Timestamp;

pub(super) const OID: u32 = 1;

/// Two queues on one channel.
pub(super) const A: usize = 0;
pub(super) const B: usize = 1;
pub(super) const KEYS: [&[u8]; 2] = [b"\x01\0\0\0c\0e\0a\0", b"\x01\0\0\0c\0e\0b\0"];
const NAMES: [&str; 2] = ["a", "b"];

/// Most mistakes of this kind show with two or three preemptions; LOOM_MAX_PREEMPTIONS for more.
pub(super) fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.max_branches = 10_000;
    builder.check(model);
}

pub(super) struct Memory {
    slots: Vec<Slot>,
    hashes: Vec<AtomicU32>,
    used: AtomicU32,
    pub(super) database: Database,
    /// One for each notifier that comes.
    latches: [AtomicU32; 2],
    /// By queue: how many transactions are visible, and which moments they wait for, as bits.
    pub(super) committed: [AtomicU64; 2],
    delayed: [AtomicU64; 2],
    /// The queues that are realtime.
    queues: BTreeSet<usize>,
}

#[derive(Clone)]
pub(super) struct World(Arc<Memory>);

impl std::ops::Deref for World {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        &self.0
    }
}

impl World {
    pub(super) fn new(queues: [usize; 2]) -> Self {
        Self::with_slots(2, queues)
    }

    pub(super) fn with_slots(slots: usize, queues: [usize; 2]) -> Self {
        let two = || [AtomicU64::new(0), AtomicU64::new(0)];
        Self(Arc::new(Memory {
            slots: (0..slots).map(|_| Slot::new()).collect(),
            hashes: (0..slots).map(|_| AtomicU32::new(0)).collect(),
            used: AtomicU32::new(0),
            database: Database::new(),
            latches: [AtomicU32::new(0), AtomicU32::new(0)],
            committed: two(),
            delayed: two(),
            queues: queues.into(),
        }))
    }

    pub(super) fn slots(&self) -> Slots<'_> {
        Slots { all: &self.slots, hashes: &self.hashes, used: &self.used }
    }

    // A producer.

    pub(super) fn claim(&self, queue: usize) -> Claim {
        self.slots().claim(OID, KEYS[queue]).unwrap()
    }

    pub(super) fn claim_if_room(&self, queue: usize) -> Option<Claim> {
        self.slots().claim(OID, KEYS[queue]).ok()
    }

    /// Commits, then marks.
    pub(super) fn produce(&self, queue: usize, claim: Claim) {
        self.committed[queue].fetch_add(1, SeqCst);
        self.mark(queue, claim);
    }

    pub(super) fn mark(&self, queue: usize, claim: Claim) {
        self.make(queue, claim, |claim| self.database.enqueue(self.slots(), claim, 1));
    }

    /// Commits a message that becomes visible at `at`, then notes that.
    pub(super) fn delay(&self, queue: usize, claim: Claim, at: u64) {
        self.delayed[queue].fetch_or(1 << at, SeqCst);
        let at = Timestamp(at.cast_signed());
        self.make(queue, claim, |claim| self.database.expect(self.slots(), claim, 1, at));
    }

    fn make(&self, queue: usize, mut claim: Claim, make: impl Fn(Claim) -> Result<Wake, Stale>) {
        for _ in 0..3 {
            match make(claim) {
                Ok(wake) if wake.is_any() => return self.ring(),
                Ok(_) => return,
                Err(Stale) => match self.slots().claim(OID, KEYS[queue]) {
                    Ok(other) => claim = other,
                    Err(_) => break,
                },
            }
        }
        if self.database.tell(News::EVERYTHING).is_any() {
            self.ring();
        }
    }

    fn ring(&self) {
        match self.database.notifier.bell() {
            Some(bell) => _ = self.latches[bell as usize - 1].swap(1, SeqCst),
            None => _ = self.database.want(),
        }
    }

    fn spawn(&self, work: impl FnOnce(&Self) + 'static) -> JoinHandle<()> {
        let world = self.clone();
        spawn(move || work(&world))
    }

    pub(super) fn spawn_producer(&self, queue: usize, claim: Claim) -> JoinHandle<()> {
        self.spawn(move |world| world.produce(queue, claim))
    }

    pub(super) fn spawn_delay(&self, queue: usize, claim: Claim, at: u64) -> JoinHandle<()> {
        self.spawn(move |world| world.delay(queue, claim, at))
    }

    /// Reads a message, which becomes visible again at `at`: commits, then notes that.
    pub(super) fn spawn_reader(&self, queue: usize, claim: Claim, at: u64) -> JoinHandle<()> {
        self.spawn(move |world| {
            world.delayed[queue].fetch_or(1 << at, SeqCst);
            let from = Timestamp(at.cast_signed());
            world.make(queue, claim, |claim| world.database.moved(world.slots(), claim, from));
        })
    }

    /// Commits, then notes that something has moved.
    pub(super) fn spawn_mover(&self, queue: usize, claim: Claim) -> JoinHandle<()> {
        self.spawn(move |world| {
            world.committed[queue].fetch_add(1, SeqCst);
            let from = Timestamp::NEG_INFINITY;
            world.make(queue, claim, |claim| world.database.moved(world.slots(), claim, from));
        })
    }

    /// A producer that marks before it commits: wrong.
    pub(super) fn spawn_hasty(&self, queue: usize, claim: Claim) -> JoinHandle<()> {
        self.spawn(move |world| {
            world.mark(queue, claim);
            world.committed[queue].fetch_add(1, SeqCst);
        })
    }

    /// A producer that has to find its slot first.
    pub(super) fn spawn_newcomer(&self, queue: usize) -> JoinHandle<()> {
        self.spawn(move |world| world.produce(queue, world.claim(queue)))
    }

    /// The same with a message for later.
    pub(super) fn spawn_late_newcomer(&self, queue: usize, at: u64) -> JoinHandle<()> {
        self.spawn(move |world| world.delay(queue, world.claim(queue), at))
    }

    /// A producer of another database, which remembers a slot that it has no more: it tells only its own
    /// notifier.
    pub(super) fn spawn_stranger(&self, claim: Claim, at: i64) -> JoinHandle<()> {
        self.spawn(move |world| {
            assert_eq!(world.slots().expect(claim, Timestamp(at)), Marked::Stale);
        })
    }

    // The end of a notifier, and the launcher.

    /// The notifier has no queue any more.
    pub(super) fn leave(&self) {
        self.database.end(State::None);
        if self.database.news() != News(0) || self.slots().of(OID).next().is_some() {
            let _: Wake = self.database.want();
        }
    }

    /// Whether the launcher starts a notifier.
    pub(super) fn was_wanted(&self) -> bool {
        self.database.was_wanted() && self.database.state() != State::Running
    }
}

/// A notifier's process, with a clock of its own: time passes while it sleeps.
pub(super) struct Host {
    world: World,
    agenda: Agenda,
    latch: usize,
    interval: u64,
    cost: u64,
    failures: u32,
    news: News,
    /// The queues that it knows to be realtime.
    queues: BTreeSet<usize>,
    moment: u64,
    timers: Timers,
    /// Since it asked last.
    had_transaction: bool,
    /// By queue: what a listener has read.
    seen: [u64; 2],
    read: [u64; 2],
    /// By queue: the sum of what notifications counted.
    counted: [u64; 2],
}

impl Host {
    pub(super) fn begin(world: &World, latch: usize) -> Self {
        world.database.begin(latch as u64 + 1);
        Self::unannounced(world, latch)
    }

    /// A notifier that has not said how to wake it.
    pub(super) fn unannounced(world: &World, latch: usize) -> Self {
        Self {
            world: world.clone(),
            agenda: Agenda::default(),
            latch,
            interval: 0,
            cost: 0,
            failures: 0,
            news: News::EVERYTHING,
            queues: BTreeSet::new(),
            moment: 1,
            timers: Timers { interval: Some(1), deadline: None },
            had_transaction: false,
            seen: [0; 2],
            read: [0; 2],
            counted: [0; 2],
        }
    }

    /// With an interval between two notifications.
    pub(super) fn every(mut self, interval: u64) -> Self {
        self.interval = interval;
        self
    }

    /// That has to rest after each notification: after the first at once, it has no credit yet.
    pub(super) fn costing(mut self, cost: u64) -> Self {
        self.cost = cost;
        self
    }

    /// Cannot send the next `failures` notifications.
    pub(super) fn failing(mut self, failures: u32) -> Self {
        self.failures = failures;
        self
    }

    /// This one ends, and another begins, which knows what has been said only because it can read it.
    pub(super) fn next(self) -> Self {
        self.world.database.end(State::Down);
        Self { seen: self.seen, read: self.read, ..Self::begin(&self.world, self.latch + 1) }
    }

    pub(super) fn take_latch(&self) -> bool {
        self.world.latches[self.latch].swap(0, SeqCst) != 0
    }

    /// Takes rounds until it sleeps with nothing to wake it.
    pub(super) fn run(&mut self) {
        while self.wakes() {
            self.round();
        }
    }

    /// A wait in a transaction resets the latch, whatever it was set for. So there is another round.
    fn transaction(&mut self) {
        self.take_latch();
        self.had_transaction = true;
    }

    /// Sleeps on after a transaction as if nobody could have rung meanwhile. That is wrong.
    pub(super) fn trust_latch(&mut self) {
        self.had_transaction = false;
    }

    /// Whether the latch is set, or a timer comes to its end: then it is that late.
    fn wakes(&mut self) -> bool {
        let had_transaction = std::mem::take(&mut self.had_transaction);
        if self.take_latch() || had_transaction {
            return true;
        }
        match self.next_timer() {
            Some(at) => {
                self.moment = self.moment.max(at);
                true
            }
            None => false,
        }
    }

    fn next_timer(&self) -> Option<u64> {
        let deadline = self.timers.deadline.map(|at| at.0.cast_unsigned());
        [self.timers.interval, deadline].into_iter().flatten().min()
    }

    /// What src/notifier/worker.rs does in a round; the latch was reset before.
    pub(super) fn round(&mut self) {
        self.news.0 |= self.world.database.news().0;
        if self.news != News(0) {
            self.attend_to_news();
        }
        self.sweep();
        self.announce();
        let has_more = self.look();
        let pending = self.agenda.next(self.moment);
        self.timers.interval = [self.timers.interval, pending].into_iter().flatten().min();
        if has_more || self.news != News(0) {
            self.timers.interval = Some(self.moment);
        }
    }

    /// Asks for the realtime queues, and looks at those that are new to it, or at all.
    pub(super) fn attend_to_news(&mut self) {
        self.transaction();
        let everything = std::mem::replace(&mut self.news, News(0)).has(News::EVERYTHING);
        for queue in &self.world.queues {
            if everything || !self.queues.contains(queue) {
                self.agenda.look_at(&KEYS[*queue].into(), Timestamp::NEG_INFINITY);
            }
        }
        self.keep_only(self.world.queues.clone());
    }

    /// Gives all slots back: when it asked, no queue was realtime yet.
    pub(super) fn give_back(&mut self) {
        self.keep_only(BTreeSet::new());
    }

    fn keep_only(&mut self, queues: BTreeSet<usize>) {
        let is_realtime = |key: &RouteKey| queues.iter().any(|queue| *KEYS[*queue] == **key);
        let kept = self.agenda.keep_only(OID, self.world.slots(), is_realtime);
        self.queues = queues;
        if kept.must_ask_again {
            self.news.0 |= News::QUEUES.0;
        }
    }

    pub(super) fn sweep(&mut self) {
        let now = Timestamp(self.moment.cast_signed());
        let world = &self.world;
        self.timers = self.agenda.sweep(&world.database, OID, world.slots(), self.moment, now);
    }

    /// Reads the tables: is there something that nobody has read, and when does the next come?
    fn look(&mut self) -> bool {
        let mut has_looked = false;
        while let Some((key, from)) = self.agenda.next_look() {
            has_looked = true;
            let queue = KEYS.iter().position(|other| **other == *key).unwrap();
            let (seen, read, next) = self.read(queue);
            self.transaction();
            // An enqueued message has the visibility time of its commit, which is before all moments here.
            let everything = from == Timestamp::NEG_INFINITY;
            let before = if everything { 0 } else { (1 << from.0.min(62)) - 1 };
            if everything && seen > self.seen[queue] || read & !self.read[queue] & !before != 0 {
                self.agenda.found(self.world.slots(), &key, None);
            }
            if let Some(next) = next
                && let Ok(claim) = self.world.slots().claim(OID, &key)
            {
                let _: Marked = self.world.slots().expect(claim, Timestamp(next.cast_signed()));
            }
        }
        has_looked
    }

    /// What a reader finds in a queue: transactions, moments that have come, the next one.
    fn read(&self, queue: usize) -> (u64, u64, Option<u64>) {
        let seen = self.world.committed[queue].load(SeqCst);
        let delayed = self.world.delayed[queue].load(SeqCst);
        let come = delayed & ((2 << self.moment.min(62)) - 1);
        let next = u64::from((delayed & !come).trailing_zeros());
        (seen, come, (next < 64).then_some(next))
    }

    fn announce(&mut self) {
        let sent: Vec<Payload> = self
            .agenda
            .notifications()
            .unwrap()
            .into_iter()
            .map(|it| serde_json::from_str(&it.payload).unwrap())
            .collect();
        if sent.is_empty() {
            return;
        }
        self.transaction();
        if self.failures > 0 {
            self.failures -= 1;
            self.agenda.failed(self.moment, 5);
            return;
        }
        for queue in [A, B] {
            let said = sent.iter().filter_map(|payload| payload.queues.as_ref()?.get(NAMES[queue]));
            let counts: Vec<_> = said.map(|news| news.count).collect();
            self.counted[queue] += counts.iter().sum::<u64>();
            if !counts.is_empty() {
                (self.seen[queue], self.read[queue], _) = self.read(queue);
            }
        }
        let (slots, now) = (self.world.slots(), Timestamp(self.moment.cast_signed()));
        self.agenda.sent(slots, self.moment, now, self.interval, self.cost);
    }

    /// All is quiet, and every listener that was woken has read.
    pub(super) fn assert_all_said(&mut self) {
        for queue in [A, B] {
            let committed = self.world.committed[queue].load(SeqCst);
            assert_eq!(self.seen[queue], committed, "lost: a transaction");
            let delayed = self.world.delayed[queue].load(SeqCst);
            assert_eq!(self.read[queue], delayed, "lost: a deadline");
        }
    }

    /// The same where no mark had to be given up: it may be counted once more for a look, never less.
    pub(super) fn assert_all_counted(&mut self) {
        self.assert_all_said();
        for queue in [A, B] {
            let committed = self.world.committed[queue].load(SeqCst);
            assert!(self.counted[queue] >= committed, "lost: a count");
        }
    }

    /// Asleep with something noted: rung, or with a timer.
    pub(super) fn assert_comes_by(&self) {
        let slots = self.world.slots();
        let is_noted = slots.of(OID).any(|claim| slots.moved_from(claim) < Timestamp::INFINITY);
        let is_rung = self.world.latches[self.latch].load(SeqCst) != 0;
        assert!(!is_noted || is_rung || self.next_timer().is_some(), "lost: noted, and asleep");
    }

    /// Asleep with moments to come: rung, or with a timer that is early enough.
    pub(super) fn assert_knows_deadlines(&self) {
        if self.world.latches[self.latch].load(SeqCst) != 0 {
            return;
        }
        for queue in [A, B] {
            let delayed = self.world.delayed[queue].load(SeqCst) & !self.read[queue];
            if delayed != 0 {
                let first = u64::from(delayed.trailing_zeros());
                let timer = self.next_timer().unwrap_or(u64::MAX);
                assert!(timer <= first, "lost: asleep until {timer} with a deadline at {first}");
            }
        }
    }
}
