//! The notifier over simulated time: the cases by name, and any order of marks and turns in `random`.

mod random;

use super::*;
use crate::shared::{Slot, Stale};
use std::sync::atomic::AtomicU32;

const OID: u32 = 7;
const INTERVAL: Moment = 100;

/// Shared memory, and a notifier with its clock.
struct Simulation {
    slots: Vec<Slot>,
    used: AtomicU32,
    database: Database,
    notifier: Notifier,
    moment: Moment,
    interval: Moment,
}

/// A notification: channel and payload.
type Said = (String, String);

impl Simulation {
    fn new() -> Self {
        Self {
            slots: (0..80).map(|_| Slot::new()).collect(),
            used: AtomicU32::new(0),
            database: Database::new(),
            notifier: Notifier::default(),
            moment: 1,
            interval: INTERVAL,
        }
    }

    fn table(&self) -> Table<'_> {
        Table { slots: &self.slots, used: &self.used }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.moment.cast_signed())
    }

    fn claim(&self, channel: &str, queue: &str) -> Claim {
        self.table().claim(OID, &key(channel, queue)).unwrap()
    }

    /// True if the notifier has to be woken.
    fn enqueue(&self, claim: Claim, messages: u64) -> bool {
        self.database.enqueue(self.table(), claim, messages).unwrap()
    }

    fn expect(&self, claim: Claim, at: i64) -> bool {
        self.database.expect(self.table(), claim, 1, Timestamp(at)).unwrap()
    }

    fn sweep(&mut self) -> Timers {
        let (now, table) = (self.now(), Table { slots: &self.slots, used: &self.used });
        self.notifier.sweep(&self.database, OID, table, self.moment, now)
    }

    /// What may be sent, as if it was.
    fn say(&mut self) -> (Vec<Said>, Option<Moment>) {
        let said = self.ready();
        let (now, table) = (self.now(), Table { slots: &self.slots, used: &self.used });
        let timer = self.notifier.sent(&self.database, table, self.moment, now, self.interval);
        (said, timer)
    }

    fn ready(&mut self) -> Vec<Said> {
        let ready = self.notifier.notifications().into_iter();
        ready.map(|it| (it.channel.to_str().unwrap().to_owned(), it.payload)).collect()
    }

    /// What may be sent, as if it could not be.
    fn fail(&mut self, delay: Moment) -> Option<Moment> {
        self.ready();
        self.notifier.failed(&self.database, self.moment, delay)
    }

    /// A whole turn at `moment`.
    fn turn(&mut self, moment: Moment) -> (Vec<Said>, Timers) {
        self.moment = moment;
        let timers = self.sweep();
        let (said, interval) = self.say();
        (said, Timers { interval, ..timers })
    }
}

fn key(channel: &str, queue: &str) -> Box<[u8]> {
    format!("{channel}\0e\0{queue}\0").into_bytes().into()
}

fn look_at(simulation: &mut Simulation, channel: &str, queue: &str) {
    simulation.notifier.look_at(Route::from_key(&key(channel, queue)).unwrap());
}

fn found(simulation: &mut Simulation, channel: &str, queue: &str) {
    simulation.notifier.found(Route::from_key(&key(channel, queue)).unwrap(), None);
}

/// A notification of one queue.
fn one(channel: &str, queue: &str, count: u64) -> Said {
    (channel.into(), format!(r#"{{"event":"e","queues":{{"{queue}":{{"count":{count}}}}}}}"#))
}

const IDLE: Timers = Timers { interval: None, deadline: None };

fn until(moment: Moment) -> Timers {
    Timers { interval: Some(moment), deadline: None }
}

#[test]
fn the_first_after_quiet_goes_at_once_and_the_rest_at_the_intervals_end() {
    let mut it = Simulation::new();
    let claim = it.claim("c", "q");
    assert!(it.enqueue(claim, 2), "rings");
    assert_eq!(it.turn(1000), (vec![one("c", "q", 2)], until(1100)));
    assert!(!it.enqueue(claim, 3), "the timer brings the notifier");
    assert!(!it.enqueue(claim, 4));
    assert_eq!(it.turn(1050), (vec![], until(1100)), "woken by something else");
    assert_eq!(it.turn(1099), (vec![], until(1100)));
    assert_eq!(it.turn(1100), (vec![one("c", "q", 7)], until(1200)));
    assert_eq!(it.turn(1200), (vec![], IDLE), "a quiet interval");
    assert!(it.notifier.is_idle());
    assert!(it.enqueue(claim, 1), "rings again");
    assert_eq!(it.turn(1201), (vec![one("c", "q", 1)], until(1301)));
}

#[test]
fn without_an_interval_everything_goes_at_once() {
    let mut it = Simulation { interval: 0, ..Simulation::new() };
    let claim = it.claim("c", "q");
    for moment in 1..4 {
        assert!(it.enqueue(claim, 1));
        assert!(!it.enqueue(claim, 1), "the first rings for both");
        assert_eq!(it.turn(moment), (vec![one("c", "q", 2)], IDLE));
    }
}

#[test]
fn an_interval_that_was_changed_applies_from_the_next_notification() {
    let mut it = Simulation::new();
    let claim = it.claim("c", "q");
    it.enqueue(claim, 1);
    it.turn(1000);
    it.interval = 0;
    it.enqueue(claim, 1);
    assert_eq!(it.turn(1050).0, []);
    assert_eq!(it.turn(1100), (vec![one("c", "q", 1)], IDLE));
}

#[test]
fn channels_do_not_delay_each_other_and_queues_of_one_share() {
    let mut it = Simulation::new();
    let (a, b, other) = (it.claim("c", "a"), it.claim("c", "b"), it.claim("d", "a"));
    it.enqueue(a, 1);
    assert_eq!(it.turn(1000), (vec![one("c", "a", 1)], until(1100)));
    assert!(!it.enqueue(b, 1), "the same channel");
    assert!(it.enqueue(other, 1), "another channel");
    assert_eq!(it.turn(1040), (vec![one("d", "a", 1)], until(1100)));
    assert!(!it.enqueue(a, 5));
    assert!(!it.enqueue(other, 2));
    let both = r#"{"event":"e","queues":{"a":{"count":5},"b":{"count":1}}}"#;
    assert_eq!(it.turn(1100), (vec![("c".into(), both.into())], until(1140)));
    assert_eq!(it.turn(1140), (vec![one("d", "a", 2)], until(1200)));
}

#[test]
fn what_could_not_be_sent_is_said_again_with_what_came_since() {
    let mut it = Simulation::new();
    let claim = it.claim("c", "q");
    it.enqueue(claim, 1);
    it.moment = 1000;
    it.sweep();
    assert_eq!(it.fail(30), Some(1030));
    assert!(!it.notifier.is_idle());
    assert!(!it.enqueue(claim, 2), "the timer brings the notifier");
    assert_eq!(it.turn(1029), (vec![], until(1030)));
    it.moment = 1030;
    it.sweep();
    assert_eq!(it.fail(60), Some(1090));
    it.enqueue(claim, 4);
    assert_eq!(it.turn(1090), (vec![one("c", "q", 7)], until(1190)));
    assert_eq!(it.turn(1190), (vec![], IDLE));
}

#[test]
fn a_failure_leaves_channels_within_their_interval_alone() {
    let mut it = Simulation::new();
    let (quiet, failing) = (it.claim("c", "q"), it.claim("d", "q"));
    it.enqueue(quiet, 1);
    it.turn(1000);
    it.enqueue(failing, 1);
    it.moment = 1010;
    it.sweep();
    assert_eq!(it.fail(500), Some(1100), "not delayed to 1510");
    assert_eq!(it.turn(1100), (vec![], until(1510)));
}

#[test]
fn a_look_that_finds_something_is_announced_once() {
    let mut it = Simulation::new();
    look_at(&mut it, "c", "q");
    look_at(&mut it, "c", "q");
    look_at(&mut it, "c", "r");
    assert!(!it.notifier.is_idle());
    it.sweep();
    assert_eq!(it.notifier.looks(1), [key("c", "q")]);
    assert_eq!(it.notifier.looks(10), [key("c", "r")]);
    assert_eq!(it.notifier.looks(10), Vec::<Box<[u8]>>::new());
    assert_eq!(it.say().0, [], "nothing was found yet");
    found(&mut it, "c", "q");
    assert_eq!(it.say(), (vec![one("c", "q", 1)], Some(101)));
    found(&mut it, "c", "q");
    assert_eq!(it.turn(50), (vec![], until(101)), "looks keep the interval too");
    let claim = it.claim("c", "q");
    it.enqueue(claim, 3);
    assert_eq!(it.turn(101).0, [one("c", "q", 4)], "at most one too many");
}

#[test]
fn a_look_at_what_is_marked_adds_nothing() {
    let mut it = Simulation::new();
    let claim = it.claim("c", "q");
    it.enqueue(claim, 3);
    it.sweep();
    found(&mut it, "c", "q");
    assert_eq!(it.say().0, [one("c", "q", 3)]);
}

#[test]
fn a_deadline_becomes_a_timer_and_then_a_look() {
    let mut it = Simulation::new();
    let (claim, other) = (it.claim("c", "q"), it.claim("c", "r"));
    assert!(it.expect(claim, 700), "the notifier would look at the clock too late");
    assert!(!it.expect(claim, 900), "it looks when the first has come");
    assert!(it.expect(claim, 500));
    assert!(it.expect(other, 600));
    let deadline = |at| Timers { interval: None, deadline: Some(Timestamp(at)) };
    assert_eq!(it.turn(10), (vec![], deadline(500)));
    assert!(it.notifier.is_idle(), "nothing to look at yet");
    assert_eq!(it.turn(499), (vec![], deadline(500)));
    assert_eq!(it.turn(500), (vec![], deadline(600)), "forgotten: the look finds the next");
    assert_eq!(it.notifier.looks(10), [key("c", "q")]);
    found(&mut it, "c", "q");
    assert!(it.expect(claim, 700), "as the look has found");
    assert_eq!(it.turn(500).1, Timers { interval: Some(600), deadline: Some(Timestamp(600)) });
    // Within the interval there is a look, but no notification.
    assert_eq!(it.turn(600).1, Timers { interval: None, deadline: Some(Timestamp(700)) });
    assert_eq!(it.notifier.looks(10), [key("c", "r")]);
}

#[test]
fn a_deadline_within_the_interval_is_looked_at_and_announced_at_its_end() {
    let mut it = Simulation::new();
    let claim = it.claim("c", "q");
    it.enqueue(claim, 1);
    it.turn(1000);
    it.expect(claim, 1050);
    it.turn(1050);
    assert_eq!(it.notifier.looks(10), [key("c", "q")]);
    found(&mut it, "c", "q");
    assert_eq!(it.say(), (vec![], Some(1100)));
    assert_eq!(it.turn(1100).0, [one("c", "q", 1)]);
}

#[test]
fn queues_that_are_no_longer_realtime_give_their_slots_back() {
    let mut it = Simulation::new();
    let (kept, gone) = (it.claim("c", "kept"), it.claim("c", "gone"));
    it.enqueue(kept, 1);
    it.turn(1000);
    let routes = HashSet::from([key("c", "kept")]);
    let table = Table { slots: &it.slots, used: &it.used };
    assert!(!it.notifier.keep_only(OID, table, &routes));
    assert!(it.table().is_current(kept));
    assert!(!it.table().is_current(gone));
    assert_eq!(it.database.enqueue(it.table(), gone, 1), Err(Stale));
    // Whose channel it was is forgotten with it.
    let other = it.claim("d", "other");
    assert_eq!(other.at, gone.at);
    assert!(it.enqueue(other, 1), "not behind the gate of the former queue's channel");
    assert_eq!(it.turn(1010).0, [one("d", "other", 1)]);
}

#[test]
fn a_mark_in_a_slot_that_is_given_back_is_announced() {
    let mut it = Simulation::new();
    let early = it.claim("c", "early");
    it.enqueue(early, 5);
    let table = Table { slots: &it.slots, used: &it.used };
    assert!(it.notifier.keep_only(OID, table, &HashSet::new()), "it may be realtime by now");
    assert_eq!(it.turn(1000).0, [one("c", "early", 1)]);
}

#[test]
fn the_second_slot_of_a_route_is_given_back() {
    let mut it = Simulation::new();
    // As if two producers had taken one at the same moment.
    let second = Table { slots: &it.slots[1..], used: &AtomicU32::new(0) };
    second.claim(OID, &key("c", "q")).unwrap();
    let first = it.claim("c", "q");
    let other = it.claim("c", "other");
    assert_eq!((first.at, other.at), (0, 2));
    let all: Vec<_> = it.table().of(OID).collect();
    it.enqueue(all[1], 1);
    let routes = HashSet::from([key("c", "q"), key("c", "other")]);
    let table = Table { slots: &it.slots, used: &it.used };
    it.notifier.keep_only(OID, table, &routes);
    assert_eq!(it.table().of(OID).collect::<Vec<_>>(), [first, other]);
    assert_eq!(it.notifier.looks(10), [key("c", "q")], "what was noted there is in the table");
}

#[test]
fn more_channels_than_gates() {
    let mut it = Simulation::new();
    let claims: Vec<_> = (0..70).map(|at| it.claim(&format!("c{at}"), "q")).collect();
    claims.iter().for_each(|claim| assert!(it.enqueue(*claim, 1)));
    assert_eq!(it.turn(1000).0.len(), 70);
    let rings: Vec<_> = claims.iter().map(|claim| it.enqueue(*claim, 2)).collect();
    assert_eq!(rings.iter().filter(|rings| !**rings).count(), 64, "as many as there are gates");
    assert!(rings[64..].iter().all(|rings| *rings), "the rest wakes the notifier each time");
    assert_eq!(it.turn(1001), (vec![], until(1100)), "which keeps the interval all the same");
    let (said, timers) = it.turn(1100);
    assert_eq!(said.len(), 70);
    assert_eq!(said[69], one("c69", "q", 2));
    assert_eq!(timers, until(1200));
    assert_eq!(it.turn(1200), (vec![], IDLE));
}

#[test]
fn what_the_statistics_show() {
    let mut it = Simulation::new();
    let (claim, other) = (it.claim("c", "q"), it.claim("c", "other"));
    (0..3).for_each(|_| _ = it.enqueue(claim, 2));
    it.turn(1000);
    (0..2).for_each(|_| _ = it.enqueue(claim, 1));
    it.expect(claim, 5000);
    let counters = it.table().counters(claim);
    assert_eq!((counters.transactions, counters.messages), (6, 9));
    assert_eq!((counters.notifications, counters.coalesced), (1, 2));
    assert_eq!(counters.last_wake_up, Some(Timestamp(1000)));
    it.turn(1100);
    let counters = it.table().counters(claim);
    assert_eq!((counters.notifications, counters.last_wake_up), (2, Some(Timestamp(1100))));
    let counters = it.table().counters(other);
    assert_eq!((counters.notifications, counters.last_wake_up), (0, None));
}

#[test]
fn what_is_said_of_a_former_queue_is_not_counted_for_the_next() {
    let mut it = Simulation::new();
    let former = it.claim("c", "former");
    it.enqueue(former, 1);
    it.sweep();
    let table = Table { slots: &it.slots, used: &it.used };
    it.notifier.keep_only(OID, table, &HashSet::new());
    let next = it.claim("c", "next");
    assert_eq!(next.at, former.at);
    assert_eq!(it.say().0, [one("c", "former", 1)]);
    assert_eq!(it.table().counters(next).notifications, 0);
}

#[test]
fn another_databases_queues_are_left_alone() {
    let mut it = Simulation::new();
    let strange = it.table().claim(OID + 1, &key("c", "q")).unwrap();
    it.table().mark(strange, 1);
    assert_eq!(it.turn(1000), (vec![], IDLE));
    let table = Table { slots: &it.slots, used: &it.used };
    it.notifier.keep_only(OID, table, &HashSet::new());
    assert!(it.table().is_current(strange));
}
