//! Two processes and the launcher: what one hands to the other, and whether others notice that one has stopped.

use std::sync::Arc;

use loom::thread::spawn;

use super::world::check;
use crate::shared::{ATTENDS_WITHIN, Claim, Database, Slot, Slots};
use crate::sync::{AtomicU32, AtomicU64, Ordering::SeqCst};
use crate::timestamp::Timestamp;

const OID: u32 = 1;
const TABLE: u32 = 7;
const NOW: Timestamp = Timestamp(1);
const KEY: &[u8] = b"\x07\0\0\0c\0e\0a\0";

struct House {
    slots: Vec<Slot>,
    hashes: Vec<AtomicU32>,
    used: AtomicU32,
    database: Database,
    /// Messages that can be read.
    visible: AtomicU64,
    /// The latches of the notifier, the watcher and the launcher.
    notifier: AtomicU32,
    watcher: AtomicU32,
    launcher: AtomicU32,
}

impl House {
    fn new() -> (Arc<Self>, Claim) {
        let house = Self {
            slots: vec![Slot::new()],
            hashes: vec![AtomicU32::new(0)],
            used: AtomicU32::new(0),
            database: Database::new(),
            visible: AtomicU64::new(0),
            notifier: AtomicU32::new(0),
            watcher: AtomicU32::new(0),
            launcher: AtomicU32::new(0),
        };
        house.database.begin(1);
        house.database.watcher.begin(2);
        let claim = house.slots().claim(OID, KEY).unwrap();
        (Arc::new(house), claim)
    }

    fn slots(&self) -> Slots<'_> {
        Slots { all: &self.slots, hashes: &self.hashes, used: &self.used }
    }

    /// A producer wakes the notifier.
    fn produce(&self, claim: Claim) {
        self.visible.fetch_add(1, SeqCst);
        if self.database.enqueue(self.slots(), claim, 1).unwrap().notifier {
            self.database.notifier.count_on(NOW);
            self.notifier.store(1, SeqCst);
        }
    }
}

/// A notifier takes what is marked, and is about to sleep for ever. If it is stopped just then, a session that marks
/// later can tell.
fn stops(checks_once_more: bool) {
    check(move || {
        let (house, claim) = House::new();
        let producer = {
            let house = house.clone();
            spawn(move || house.produce(claim))
        };
        let seat = &house.database.notifier;
        seat.works(NOW);
        let _ = house.slots().drain(claim);
        seat.sleeps(None);
        let goes_on = checks_once_more && house.slots().is_marked(claim);
        // Here it is stopped.
        producer.join().unwrap();
        let is_left = house.slots().is_marked(claim) && !goes_on;
        assert!(!is_left || seat.attends_by().is_some(), "lost: nobody notices");
    });
}

#[test]
fn who_is_stopped_is_noticed() {
    stops(true);
}

#[test]
#[should_panic(expected = "lost: nobody notices")]
fn who_sleeps_without_another_look_is_not() {
    stops(false);
}

/// Somebody counts on the watcher while the launcher thinks that nobody does any more, or for a long time.
fn guards(sleeps_until: Option<Timestamp>) {
    check(move || {
        let (house, _) = House::new();
        assert!(house.database.guard().launcher);
        house.database.watcher.sleeps(sleeps_until);
        let producer = {
            let house = house.clone();
            spawn(move || {
                house.database.watcher.count_on(NOW);
                if house.database.guard().launcher {
                    house.launcher.store(1, SeqCst);
                }
            })
        };
        let soon = Timestamp(NOW.0 + ATTENDS_WITHIN);
        let has_timer = house.database.guarded_until(NOW).is_some_and(|by| by <= soon);
        producer.join().unwrap();
        let is_rung = house.launcher.load(SeqCst) != 0;
        assert!(has_timer || is_rung, "lost: nobody guards");
    });
}

#[test]
fn the_launcher_guards_as_long_as_anything_is_expected() {
    guards(None);
}

/// The watcher had a timer for something far ahead when it was woken, and stopped.
#[test]
fn the_launcher_guards_who_sleeps_with_a_timer() {
    guards(Some(Timestamp(60 * ATTENDS_WITHIN)));
}

/// The watcher has found something while the notifier takes an earlier mark: one of its notifications comes after.
fn finds(look_and_mark: impl Fn(&House, Claim) + Clone + Send + Sync + 'static) {
    check(move || {
        let (house, claim) = House::new();
        let _ = house.slots().mark(claim, 1);
        let watcher = {
            let (house, look_and_mark) = (house.clone(), look_and_mark.clone());
            spawn(move || look_and_mark(&house, claim))
        };
        let mut seen = 0;
        let mut round = || {
            if house.slots().drain(claim).is_some() {
                seen = house.visible.load(SeqCst);
            }
            seen
        };
        round();
        watcher.join().unwrap();
        assert_eq!(round(), 1, "lost: found, and not announced");
    });
}

#[test]
fn what_the_watcher_finds_is_announced() {
    finds(|house, claim| {
        house.visible.store(1, SeqCst);
        let _ = house.slots().mark_found(claim);
    });
}

#[test]
#[should_panic(expected = "lost: found, and not announced")]
fn a_mark_that_was_seen_before_the_look_says_nothing() {
    finds(|house, claim| {
        let is_marked = house.slots().is_marked(claim);
        house.visible.store(1, SeqCst);
        if !is_marked {
            let _ = house.slots().mark(claim, 1);
        }
    });
}

/// A table without a slot is noted while the watcher takes an earlier note.
fn looks(round: impl Fn(&House) -> u64 + Send + Sync + 'static) {
    check(move || {
        let (house, _) = House::new();
        let _ = house.database.look_at(TABLE, Timestamp::NEG_INFINITY);
        let producer = {
            let house = house.clone();
            spawn(move || {
                house.visible.store(1, SeqCst);
                if house.database.look_at(TABLE, Timestamp::NEG_INFINITY).watcher {
                    house.watcher.store(1, SeqCst);
                }
            })
        };
        let seen = round(&house);
        producer.join().unwrap();
        let is_rung = house.watcher.load(SeqCst) != 0;
        assert!(seen == 1 || is_rung, "lost: neither seen nor rung");
    });
}

#[test]
fn a_table_without_a_slot_is_looked_at() {
    looks(|house| {
        house.database.take_looks(NOW, |_, _| ());
        house.visible.load(SeqCst)
    });
}

#[test]
#[should_panic(expected = "lost: neither seen nor rung")]
fn a_note_of_a_table_that_is_taken_after_the_look() {
    looks(|house| {
        let seen = house.visible.load(SeqCst);
        house.database.take_looks(NOW, |_, _| ());
        seen
    });
}

/// The process that sleeps knows the earlier of two times of tables without a slot.
#[test]
fn two_times_without_a_slot() {
    check(|| {
        let (house, _) = House::new();
        let producers = [20, 10].map(|at| {
            let house = house.clone();
            spawn(move || house.database.expect_without_slot(TABLE, Timestamp(at)).watcher)
        });
        let known = house.database.earliest_without_slot();
        let rung = producers.map(|producer| producer.join().unwrap());
        assert!(known == Some(Timestamp(10)) || rung[1], "lost: a deadline");
        assert_eq!(house.database.earliest_without_slot(), Some(Timestamp(10)));
    });
}

/// The notifier takes what the watcher hands over once, with the time that belongs to it.
#[test]
fn a_table_is_handed_over() {
    check(|| {
        let (house, _) = House::new();
        let watcher = {
            let house = house.clone();
            spawn(move || {
                (1..=2)
                    .filter(|at| house.database.slow.put(*at, Timestamp(i64::from(*at) * 10)))
                    .count()
            })
        };
        let mut taken = Vec::new();
        taken.extend(house.database.slow.take());
        let put = watcher.join().unwrap();
        taken.extend(house.database.slow.take());
        assert_eq!(taken.len(), put, "lost, or twice");
        assert!(taken.iter().all(|(slots, from)| from.0 == i64::from(*slots) * 10), "{taken:?}");
    });
}
