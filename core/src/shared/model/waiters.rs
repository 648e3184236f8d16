//! Sessions that block until there is something to read. When all is quiet, nobody sleeps beside a message.

use std::sync::Arc;

use loom::thread::{JoinHandle, spawn};

use super::world::check;
use crate::agenda::Agenda;
use crate::shared::{
    Claim, Database, Marked, News, Session, Slot, Slots, State, Waiter, Waiters, Wake,
};
use crate::sync::{AtomicU32, AtomicU64, Ordering::*, fence};
use crate::timestamp::Timestamp;

const OID: u32 = 1;
const KEY: &[u8] = b"\x01\0\0\0c\0e\0a\0";

struct Memory {
    slots: Vec<Slot>,
    hashes: Vec<AtomicU32>,
    used: AtomicU32,
    places: Vec<Waiter>,
    bits: Vec<AtomicU64>,
    taken: AtomicU32,
    tickets: AtomicU64,
    /// Messages that can be read.
    visible: AtomicU64,
    /// The notifier's latch.
    latch: AtomicU32,
    database: Database,
}

#[derive(Clone)]
struct Hall(Arc<Memory>);

impl std::ops::Deref for Hall {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        &self.0
    }
}

impl Hall {
    fn new() -> (Self, Claim) {
        let hall = Self::with_slots(1);
        hall.database.begin(1);
        let claim = hall.slots().claim(OID, KEY).unwrap();
        (hall, claim)
    }

    /// Without a notifier, and no slot is taken.
    fn with_slots(slots: usize) -> Self {
        Self(Arc::new(Memory {
            slots: (0..slots).map(|_| Slot::new()).collect(),
            hashes: (0..slots).map(|_| AtomicU32::new(0)).collect(),
            used: AtomicU32::new(0),
            places: vec![Waiter::new(), Waiter::new()],
            bits: vec![AtomicU64::new(0), AtomicU64::new(0)],
            taken: AtomicU32::new(0),
            tickets: AtomicU64::new(0),
            visible: AtomicU64::new(0),
            latch: AtomicU32::new(0),
            database: Database::new(),
        }))
    }

    fn slots(&self) -> Slots<'_> {
        Slots { all: &self.slots, hashes: &self.hashes, used: &self.used }
    }

    fn waiters(&self) -> Waiters<'_> {
        Waiters { all: &self.places, queues: &self.bits, used: &self.taken, tickets: &self.tickets }
    }

    // A producer.

    /// Others see a commit as they see what a lock protects: so the order beside the places comes from fences alone.
    fn commit(&self) {
        self.visible.fetch_add(1, Release);
    }

    fn tell(&self, claim: Claim) {
        if self.slots().leave_to_waiters(claim, 1).is_any() {
            self.ring();
        }
    }

    /// A session that finds no notifier has one started, which takes a round first of all.
    fn ring(&self) {
        if self.database.notifier.bell().is_some() {
            self.latch.swap(1, SeqCst);
        }
    }

    /// As src/shared/claims.rs finds a slot.
    fn claim(&self, tells_of_doubles: bool) -> Claim {
        let slots = self.slots();
        slots.find(OID, KEY).unwrap_or_else(|| {
            let new = slots.take(OID, KEY).unwrap();
            if tells_of_doubles
                && slots.is_double(new, OID, KEY)
                && self.database.tell(News::QUEUES).is_any()
            {
                self.ring();
            }
            new
        })
    }

    /// A producer that has to find its slot, and to find another one should that be given back.
    fn produce(&self, tells_of_doubles: bool) {
        let mut claim = self.claim(tells_of_doubles);
        self.commit();
        while self.slots().mark(claim, 1) == Marked::Stale {
            claim = self.claim(tells_of_doubles);
        }
        self.tell(claim);
    }

    // A session.

    fn enter(&self, claim: Claim, takes: u32) -> usize {
        let (database, pid, bell, since) = (OID, 1, 1, Timestamp(0));
        let session = Session { database, pid, bell, takes, since };
        let waiters = self.waiters();
        waiters.enter(self.slots(), session, waiters.ticket(), &[claim]).unwrap()
    }

    /// `pgmq.read`. A session that may not want the messages there does not read.
    fn read(&self, takes: u32) -> bool {
        takes > 0 && self.visible.fetch_update(AcqRel, Acquire, |left| left.checked_sub(1)).is_ok()
    }

    fn leave(&self, at: usize) {
        if let Some(call) = self.waiters().vacate(self.slots(), at)
            && self.slots().give_back(call).is_any()
        {
            self.ring();
        }
    }

    /// Looks, and leaves if there is something. Else it sleeps: its place.
    fn look(&self, at: usize, takes: u32) -> Option<usize> {
        self.waiters().arm(at);
        if self.read(takes) {
            self.leave(at);
            return None;
        }
        Some(at)
    }

    fn block(&self, claim: Claim, takes: u32) -> Option<usize> {
        self.look(self.enter(claim, takes), takes)
    }

    /// The same for a session that has to find its slot, and to find another one should that be given back.
    fn find_and_block(&self, tells_of_doubles: bool) -> Option<usize> {
        loop {
            let claim = self.claim(tells_of_doubles);
            let at = self.enter(claim, 1);
            self.waiters().arm(at);
            if self.slots().is_current(claim) {
                if self.read(1) {
                    self.leave(at);
                    return None;
                }
                return Some(at);
            }
            self.leave(at);
        }
    }

    fn spawn<T: 'static>(&self, work: impl FnOnce(&Self) -> T + 'static) -> JoinHandle<T> {
        let hall = self.clone();
        spawn(move || work(&hall))
    }

    fn spawn_producer(&self, claim: Claim) -> JoinHandle<()> {
        self.spawn(move |hall| {
            hall.commit();
            hall.tell(claim);
        })
    }

    // The notifier.

    fn notifier(&self) {
        while self.latch.swap(0, SeqCst) != 0 {
            self.round();
        }
    }

    fn round(&self) {
        if self.database.news() != News(0) {
            let mut notifier = Agenda::default();
            let kept = notifier.keep_only(OID, self.slots(), |_| true);
            self.waiters().call_released(OID, &kept.released, |_| ());
            while let Some((key, _)) = notifier.next_look() {
                let visible = self.visible.load(Acquire);
                if let Some(claim) = self.slots().find(OID, &key) {
                    let _: Wake = self.slots().leave_to_waiters(claim, visible);
                }
            }
        }
        self.waiters().call(OID, self.slots(), |_| ());
    }

    /// Everybody goes on until nobody can. Nobody may sleep beside a message then. Returns how many sleep.
    fn settle(&self, mut sleepers: Vec<(usize, u32)>) -> usize {
        loop {
            self.notifier();
            let Some(next) = sleepers.iter().position(|(at, _)| self.waiters().is_called(*at))
            else {
                break;
            };
            let (at, takes) = sleepers.remove(next);
            // It now reads what it was called for, or finds it gone.
            self.waiters().woke(at);
            if self.read(takes) {
                self.leave(at);
            } else if let Some(at) = self.look(at, takes) {
                sleepers.push((at, takes));
            }
        }
        let wants = sleepers.iter().any(|(_, takes)| *takes > 0);
        assert!(!wants || self.visible.load(SeqCst) == 0, "stranded: a message, and a sleeper");
        sleepers.len()
    }
}

/// A producer and a session.
#[test]
fn a_session_blocks_while_a_message_comes() {
    check(|| {
        let (hall, claim) = Hall::new();
        let session = hall.spawn(move |hall| hall.block(claim, 1));
        let producer = hall.spawn_producer(claim);
        hall.notifier();
        let sleeper = session.join().unwrap();
        producer.join().unwrap();
        hall.settle(sleeper.map(|at| (at, 1)).into_iter().collect());
    });
}

/// Two messages, and two sessions that sleep: the one that reads leaves nothing to the one that sleeps on.
#[test]
fn two_messages_for_two_sleepers() {
    check(|| {
        let (hall, claim) = Hall::new();
        let sleepers: Vec<_> = (0..2).filter_map(|_| hall.block(claim, 1)).collect();
        let producers = [hall.spawn_producer(claim), hall.spawn_producer(claim)];
        hall.notifier();
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        hall.settle(sleepers.into_iter().map(|at| (at, 1)).collect());
    });
}

/// The session that has waited longest goes while it is called: the other gets its turn.
#[test]
fn a_session_is_cancelled_while_it_is_called() {
    check(|| {
        let (hall, claim) = Hall::new();
        let first = hall.block(claim, 1).unwrap();
        let second = hall.block(claim, 1).unwrap();
        let cancelled = hall.spawn(move |hall| hall.leave(first));
        hall.commit();
        hall.tell(claim);
        hall.notifier();
        cancelled.join().unwrap();
        hall.settle(vec![(second, 1)]);
    });
}

/// It wakes by itself, and blocks again, while it is called.
#[test]
fn a_session_that_looks_again() {
    check(|| {
        let (hall, claim) = Hall::new();
        let at = hall.block(claim, 1).unwrap();
        let again = hall.spawn(move |hall| {
            let call = hall.waiters().woke(at);
            let sleeper = hall.look(at, 1);
            // If it sleeps on, it has not read what it was called for before.
            (sleeper, call)
        });
        hall.commit();
        hall.tell(claim);
        hall.notifier();
        let (sleeper, _call) = again.join().unwrap();
        hall.settle(sleeper.map(|at| (at, 1)).into_iter().collect());
    });
}

/// A session that does not want the message stands before one that does.
#[test]
fn one_that_wants_something_else_is_no_obstacle() {
    check(|| {
        let (hall, claim) = Hall::new();
        let picky = hall.block(claim, 0).unwrap();
        let producer = hall.spawn_producer(claim);
        let other = hall.block(claim, 1);
        hall.notifier();
        producer.join().unwrap();
        let sleepers = [Some((picky, 0)), other.map(|at| (at, 1))];
        hall.settle(sleepers.into_iter().flatten().collect());
    });
}

/// A place that another session takes: its call is not the new one's.
#[test]
fn a_place_changes_hands_while_it_is_called() {
    check(|| {
        let (hall, claim) = Hall::new();
        let first = hall.block(claim, 1).unwrap();
        let next = hall.spawn(move |hall| {
            hall.leave(first);
            hall.block(claim, 1)
        });
        hall.commit();
        hall.tell(claim);
        hall.notifier();
        let sleeper = next.join().unwrap();
        let asleep = hall.settle(sleeper.map(|at| (at, 1)).into_iter().collect());
        assert_eq!(hall.waiters().seen(OID).len(), asleep, "a place that nobody is in");
    });
}

/// The notifier goes while a session comes: it is called, or sees that there is no notifier.
#[test]
fn the_notifier_goes_while_a_session_comes() {
    check(|| {
        let (hall, claim) = Hall::new();
        let runs = Arc::new(AtomicU32::new(1));
        let session = {
            let runs = Arc::clone(&runs);
            hall.spawn(move |hall| {
                let at = hall.enter(claim, 1);
                hall.waiters().arm(at);
                (at, runs.load(SeqCst))
            })
        };
        runs.store(0, SeqCst);
        hall.waiters().call_everybody(OID, |_| ());
        let (at, saw_it_run) = session.join().unwrap();
        assert!(saw_it_run == 0 || hall.waiters().is_called(at), "asleep without a notifier");
    });
}

/// A notifier begins while a session and a message come. A session that saw that it runs does not poll.
#[test]
fn a_notifier_begins_while_a_session_comes() {
    check(|| {
        let hall = Hall::with_slots(1);
        let claim = hall.slots().claim(OID, KEY).unwrap();
        let session = hall.spawn(move |hall| {
            let at = hall.block(claim, 1)?;
            (hall.database.state() == State::Running).then_some((at, 1))
        });
        let producer = hall.spawn_producer(claim);
        hall.database.begin(1);
        hall.round();
        hall.notifier();
        let sleeper = session.join().unwrap();
        producer.join().unwrap();
        hall.settle(sleeper.into_iter().collect());
    });
}

/// A session and a producer meet a queue that has no slot. They may take one each: the notifier gives one back.
fn meet_a_new_queue(tells_of_doubles: bool) {
    check(move || {
        let hall = Hall::with_slots(3);
        hall.database.begin(1);
        let session = hall.spawn(move |hall| hall.find_and_block(tells_of_doubles));
        let producer = hall.spawn(move |hall| hall.produce(tells_of_doubles));
        hall.notifier();
        let sleeper = session.join().unwrap();
        producer.join().unwrap();
        hall.settle(sleeper.map(|at| (at, 1)).into_iter().collect());
    });
}

#[test]
fn a_session_and_a_producer_meet_a_new_queue() {
    meet_a_new_queue(true);
}

#[test]
#[should_panic(expected = "stranded")]
fn wrong_nobody_tells_of_two_slots_for_one_queue() {
    meet_a_new_queue(false);
}

/// There was no room for a slot when a message was about to be committed. One became free, and a session takes it.
fn get_a_slot_during_a_commit(looks_once_more: bool) {
    check(move || {
        let hall = Hall::with_slots(1);
        hall.database.begin(1);
        let session = hall.spawn(|hall| hall.find_and_block(true));
        let producer = hall.spawn(move |hall| {
            hall.commit();
            if looks_once_more {
                fence(SeqCst);
                if let Some(claim) = hall.slots().find(OID, KEY) {
                    hall.tell(claim);
                }
            }
        });
        hall.notifier();
        let sleeper = session.join().unwrap();
        producer.join().unwrap();
        hall.settle(sleeper.map(|at| (at, 1)).into_iter().collect());
    });
}

#[test]
fn a_session_gets_a_slot_during_a_commit() {
    get_a_slot_during_a_commit(true);
}

#[test]
#[should_panic(expected = "stranded")]
fn wrong_nobody_looks_for_a_slot_after_the_commit() {
    get_a_slot_during_a_commit(false);
}

#[test]
#[should_panic(expected = "stranded")]
fn wrong_a_session_that_looks_before_it_can_be_called() {
    check(|| {
        let (hall, claim) = Hall::new();
        let session = hall.spawn(move |hall| {
            let at = hall.enter(claim, 1);
            let found = hall.read(1);
            hall.waiters().arm(at);
            (!found).then_some((at, 1))
        });
        hall.commit();
        hall.tell(claim);
        hall.notifier();
        let sleeper = session.join().unwrap();
        hall.settle(sleeper.into_iter().collect());
    });
}

#[test]
#[should_panic(expected = "stranded")]
fn wrong_a_producer_that_tells_before_it_commits() {
    check(|| {
        let (hall, claim) = Hall::new();
        let producer = hall.spawn(move |hall| {
            hall.tell(claim);
            hall.commit();
        });
        let sleeper = hall.block(claim, 1);
        hall.notifier();
        producer.join().unwrap();
        hall.settle(sleeper.map(|at| (at, 1)).into_iter().collect());
    });
}

#[test]
#[should_panic(expected = "stranded")]
fn wrong_a_session_that_keeps_its_turn_when_it_goes() {
    check(|| {
        let (hall, claim) = Hall::new();
        let first = hall.block(claim, 1).unwrap();
        let second = hall.block(claim, 1).unwrap();
        let cancelled = hall.spawn(move |hall| {
            let _ = hall.waiters().vacate(hall.slots(), first);
        });
        hall.commit();
        hall.tell(claim);
        hall.notifier();
        cancelled.join().unwrap();
        hall.settle(vec![(second, 1)]);
    });
}
