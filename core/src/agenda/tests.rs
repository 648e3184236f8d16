//! The notifier over simulated time: the cases by name, and any order of marks and turns in `random`.

mod random;
mod silent;
mod slots;

use super::*;
use crate::pace::NOTIFY;
use crate::shared::{Slot, Stale};
use std::sync::atomic::AtomicU32;

const OID: u32 = 7;
const INTERVAL: Moment = 100;

/// Shared memory, and a notifier with its clock.
struct Simulation {
    slots: Vec<Slot>,
    hashes: Vec<AtomicU32>,
    used: AtomicU32,
    database: Database,
    agenda: Agenda,
    moment: Moment,
    interval: Moment,
    /// What a notification takes of the processor.
    cost: Moment,
}

/// A notification: channel and payload.
type Said = (String, String);

impl Simulation {
    fn new() -> Self {
        Self {
            slots: (0..80).map(|_| Slot::new()).collect(),
            hashes: (0..80).map(|_| AtomicU32::new(0)).collect(),
            used: AtomicU32::new(0),
            database: Database::new(),
            agenda: Agenda::default(),
            moment: 1,
            interval: INTERVAL,
            cost: 0,
        }
    }

    fn slots(&self) -> Slots<'_> {
        Slots { all: &self.slots, hashes: &self.hashes, used: &self.used }
    }

    /// Gives slots back.
    fn keep_only(&mut self, is_realtime: impl Fn(&RouteKey) -> bool) -> Kept {
        let slots = Slots { all: &self.slots, hashes: &self.hashes, used: &self.used };
        self.agenda.keep_only(OID, slots, is_realtime)
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.moment.cast_signed())
    }

    fn claim(&self, channel: &str, queue: &str) -> Claim {
        self.slots().claim(OID, &key(channel, queue)).unwrap()
    }

    /// True if the notifier has to be woken.
    fn enqueue(&self, claim: Claim, messages: u64) -> bool {
        self.database.enqueue(self.slots(), claim, messages).unwrap().is_any()
    }

    fn expect(&self, claim: Claim, at: i64) -> bool {
        self.database.expect(self.slots(), claim, 1, Timestamp(at)).unwrap().is_any()
    }

    fn sweep(&mut self) -> Timers {
        let (now, slots) =
            (self.now(), Slots { all: &self.slots, hashes: &self.hashes, used: &self.used });
        self.agenda.sweep(&self.database, OID, slots, self.moment, now)
    }

    /// What may be sent, as if it was; and when what was not may be.
    fn say(&mut self) -> (Vec<Said>, Option<Moment>) {
        let said = self.ready();
        if !said.is_empty() {
            let (now, slots) =
                (self.now(), Slots { all: &self.slots, hashes: &self.hashes, used: &self.used });
            self.agenda.sent(slots, self.moment, now, self.interval, self.cost);
        }
        (said, self.agenda.next(self.moment))
    }

    fn ready(&mut self) -> Vec<Said> {
        let ready = self.agenda.notifications().unwrap().into_iter();
        ready.map(|it| (it.channel.to_str().unwrap().to_owned(), it.payload)).collect()
    }

    /// What may be sent, as if it could not be.
    fn fail(&mut self, delay: Moment) -> Option<Moment> {
        self.ready();
        self.agenda.failed(self.moment, delay);
        self.agenda.next(self.moment)
    }

    /// A whole turn at `moment`.
    fn round(&mut self, moment: Moment) -> (Vec<Said>, Timers) {
        self.moment = moment;
        let timers = self.sweep();
        let (said, pending) = self.say();
        let interval = [timers.interval, pending].into_iter().flatten().min();
        (said, Timers { interval, ..timers })
    }
}

fn key(channel: &str, queue: &str) -> RouteKey {
    [b"\x01\0\0\0", format!("{channel}\0e\0{queue}\0").as_bytes()].concat().into()
}

fn look_at(simulation: &mut Simulation, channel: &str, queue: &str) {
    simulation.agenda.look_at(&key(channel, queue), Timestamp::NEG_INFINITY);
}

/// What is to be looked at, all of it.
fn looks(it: &mut Simulation) -> Vec<(RouteKey, Timestamp)> {
    std::iter::from_fn(|| it.agenda.next_look()).collect()
}

fn found(simulation: &mut Simulation, channel: &str, queue: &str) {
    let slots =
        Slots { all: &simulation.slots, hashes: &simulation.hashes, used: &simulation.used };
    simulation.agenda.found(slots, &key(channel, queue), None);
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
    assert_eq!(it.round(1000), (vec![one("c", "q", 2)], IDLE));
    assert!(it.enqueue(claim, 3), "there is no timer yet");
    assert_eq!(it.round(1050), (vec![], until(1100)));
    assert!(!it.enqueue(claim, 4), "the timer brings the notifier");
    assert_eq!(it.round(1099), (vec![], until(1100)), "woken by something else");
    assert_eq!(it.round(1100), (vec![one("c", "q", 7)], IDLE));
    assert!(it.agenda.is_idle());
    assert!(it.enqueue(claim, 1), "rings again");
    assert_eq!(it.round(1201), (vec![one("c", "q", 1)], IDLE));
}

#[test]
fn without_an_interval_everything_goes_at_once() {
    let mut it = Simulation { interval: 0, ..Simulation::new() };
    let claim = it.claim("c", "q");
    for moment in 1..4 {
        assert!(it.enqueue(claim, 1));
        assert!(!it.enqueue(claim, 1), "the first rings for both");
        assert_eq!(it.round(moment), (vec![one("c", "q", 2)], IDLE));
    }
}

#[test]
fn a_longer_interval_applies_from_the_next_notification() {
    let mut it = Simulation::new();
    let claim = it.claim("c", "q");
    it.enqueue(claim, 1);
    it.round(1000);
    it.interval = 500;
    it.agenda.change_interval(1010, 500);
    it.enqueue(claim, 1);
    assert_eq!(it.round(1050), (vec![], until(1100)));
    assert_eq!(it.round(1100).0, vec![one("c", "q", 1)]);
    it.enqueue(claim, 1);
    assert_eq!(it.round(1200), (vec![], until(1600)));
}

#[test]
fn a_shorter_interval_applies_to_what_waits() {
    let mut it = Simulation::new();
    let claim = it.claim("c", "q");
    it.enqueue(claim, 1);
    it.round(1000);
    it.enqueue(claim, 1);
    assert_eq!(it.round(1010), (vec![], until(1100)));
    it.interval = 5;
    it.agenda.change_interval(1020, 5);
    assert_eq!(it.round(1020), (vec![], until(1025)));
    assert_eq!(it.round(1025).0, vec![one("c", "q", 1)]);
}

#[test]
fn no_interval_lets_what_waits_go_at_once() {
    let mut it = Simulation::new();
    let claim = it.claim("c", "q");
    it.enqueue(claim, 1);
    it.round(1000);
    it.enqueue(claim, 1);
    it.interval = 0;
    it.agenda.change_interval(1050, 0);
    assert_eq!(it.round(1050), (vec![one("c", "q", 1)], IDLE));
}

#[test]
fn a_quiet_queue_does_not_wait_for_a_busy_one_and_takes_it_along() {
    let mut it = Simulation::new();
    let (busy, quiet, other) = (it.claim("c", "busy"), it.claim("c", "quiet"), it.claim("d", "q"));
    it.enqueue(busy, 1);
    assert_eq!(it.round(1000), (vec![one("c", "busy", 1)], IDLE));
    it.enqueue(busy, 5);
    assert_eq!(it.round(1010), (vec![], until(1100)));
    assert!(it.enqueue(other, 1));
    assert_eq!(it.round(1020), (vec![one("d", "q", 1)], until(1100)), "another channel");
    assert!(it.enqueue(quiet, 1));
    let both = r#"{"event":"e","queues":{"busy":{"count":5},"quiet":{"count":1}}}"#;
    assert_eq!(it.round(1040), (vec![("c".into(), both.into())], IDLE));
    it.enqueue(busy, 1);
    it.enqueue(quiet, 2);
    assert_eq!(it.round(1100), (vec![], until(1140)), "both have an interval again");
    let both = r#"{"event":"e","queues":{"busy":{"count":1},"quiet":{"count":2}}}"#;
    assert_eq!(it.round(1140), (vec![("c".into(), both.into())], IDLE));
}

#[test]
fn what_could_not_be_sent_is_said_again_with_what_came_since() {
    let mut it = Simulation::new();
    let claim = it.claim("c", "q");
    it.enqueue(claim, 1);
    it.moment = 1000;
    it.sweep();
    assert_eq!(it.fail(30), Some(1030));
    assert!(!it.agenda.is_idle());
    assert!(it.enqueue(claim, 2));
    assert_eq!(it.round(1029), (vec![], until(1030)));
    assert!(!it.enqueue(claim, 1), "the timer brings the notifier");
    it.moment = 1030;
    it.sweep();
    assert_eq!(it.fail(60), Some(1090));
    it.enqueue(claim, 4);
    assert_eq!(it.round(1090), (vec![one("c", "q", 8)], IDLE));
}

#[test]
fn a_failure_does_not_make_an_interval_longer() {
    let mut it = Simulation::new();
    let (quiet, failing) = (it.claim("c", "q"), it.claim("d", "q"));
    it.enqueue(quiet, 1);
    it.round(1000);
    it.enqueue(failing, 1);
    it.moment = 1010;
    it.sweep();
    assert_eq!(it.fail(20), Some(1030));
    it.enqueue(quiet, 1);
    assert_eq!(it.round(1030), (vec![one("d", "q", 1)], until(1100)));
    assert_eq!(it.round(1100).0, [one("c", "q", 1)]);
}

/// When the first of its rests ends.
const RESTED: Moment = 1000 + 10 * NOTIFY;

/// From 1000 on, when it has used up its credit.
fn resting() -> (Simulation, Claim, Claim) {
    let mut it = Simulation { cost: 10, ..Simulation::new() };
    let (claim, other) = (it.claim("c", "q"), it.claim("d", "r"));
    it.agenda.pace.rest_until(1000);
    it.enqueue(claim, 1);
    it.round(1000);
    (it, claim, other)
}

#[test]
fn a_notifier_rests_by_what_notifying_takes() {
    let (mut it, claim, other) = resting();
    assert_eq!(it.round(1500), (vec![], IDLE), "without marks there is nothing to wake up for");
    assert!(it.enqueue(claim, 2), "the door is open still");
    assert_eq!(it.round(1600), (vec![], until(RESTED)));
    assert!(!it.enqueue(other, 1), "and closed now, for all queues");
    assert!(!it.enqueue(claim, 1));
    assert_eq!(it.round(RESTED - 1), (vec![], until(RESTED)));
    let (said, timers) = it.round(RESTED);
    assert_eq!((said, timers), (vec![one("c", "q", 3), one("d", "r", 1)], IDLE));
    assert!(it.enqueue(other, 1), "open again");
    let next = RESTED + 10 * NOTIFY;
    assert_eq!(it.round(next - 1), (vec![], until(next)));
}

#[test]
fn what_is_found_during_a_rest_waits_for_its_end() {
    let (mut it, _, other) = resting();
    found(&mut it, "c", "s");
    assert_eq!(it.round(1500), (vec![], until(RESTED)));
    assert!(it.enqueue(other, 1));
    assert_eq!(it.round(1600), (vec![], until(RESTED)));
    assert_eq!(it.round(RESTED).0, [one("c", "s", 1), one("d", "r", 1)]);
}

#[test]
fn a_deadline_during_a_rest_is_looked_at_at_its_end() {
    let (mut it, claim, _) = resting();
    it.expect(claim, 1500);
    assert_eq!(it.round(1400).1, Timers { interval: None, deadline: Some(Timestamp(1500)) });
    assert_eq!(it.round(1500).1, until(RESTED));
    it.round(RESTED);
    assert_eq!(looks(&mut it), [(key("c", "q"), Timestamp(1500))]);
}

#[test]
fn a_look_that_finds_something_is_announced_once() {
    let mut it = Simulation::new();
    look_at(&mut it, "c", "q");
    look_at(&mut it, "c", "q");
    look_at(&mut it, "c", "r");
    assert!(!it.agenda.is_idle());
    it.sweep();
    assert_eq!(it.agenda.next_look(), Some((key("c", "q"), Timestamp::NEG_INFINITY)));
    assert_eq!(looks(&mut it), [(key("c", "r"), Timestamp::NEG_INFINITY)]);
    assert_eq!(looks(&mut it), []);
    assert_eq!(it.say().0, [], "nothing was found yet");
    found(&mut it, "c", "q");
    assert_eq!(it.say(), (vec![one("c", "q", 1)], None));
    found(&mut it, "c", "q");
    assert_eq!(it.round(50), (vec![], until(101)), "looks keep the interval too");
    let claim = it.claim("c", "q");
    it.enqueue(claim, 3);
    assert_eq!(it.round(101).0, [one("c", "q", 4)], "at most one too many");
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
    assert_eq!(it.round(10), (vec![], deadline(500)));
    assert!(it.agenda.is_idle(), "nothing to look at yet");
    assert_eq!(it.round(499), (vec![], deadline(500)));
    assert_eq!(it.round(500), (vec![], deadline(600)), "forgotten: the look finds the next");
    assert_eq!(looks(&mut it), [(key("c", "q"), Timestamp(500))]);
    found(&mut it, "c", "q");
    assert!(it.expect(claim, 700), "as the look has found");
    assert_eq!(it.round(500), (vec![one("c", "q", 1)], deadline(600)));
    assert_eq!(it.round(600).1, deadline(700));
    assert_eq!(looks(&mut it), [(key("c", "r"), Timestamp(600))]);
}

#[test]
fn a_deadline_within_the_interval_is_looked_at_at_its_end() {
    let mut it = Simulation::new();
    let claim = it.claim("c", "q");
    it.enqueue(claim, 1);
    it.round(1000);
    it.expect(claim, 1050);
    assert_eq!(it.round(1050), (vec![], until(1100)));
    assert_eq!(looks(&mut it), [], "what it finds could not be sent");
    it.round(1100);
    assert_eq!(looks(&mut it), [(key("c", "q"), Timestamp(1050))]);
    found(&mut it, "c", "q");
    assert_eq!(it.say().0, [one("c", "q", 1)]);
}

fn moved(it: &Simulation, claim: Claim, from: i64) -> bool {
    it.database.moved(it.slots(), claim, Timestamp(from)).unwrap().is_any()
}

#[test]
fn what_has_moved_is_looked_at_at_once_and_then_now_and_again() {
    let mut it = Simulation::new();
    let claim = it.claim("c", "q");
    assert!(moved(&it, claim, 950), "rings");
    assert!(!moved(&it, claim, 930));
    assert!(!moved(&it, claim, 970));
    assert_eq!(it.round(1000), (vec![], IDLE));
    assert_eq!(looks(&mut it), [(key("c", "q"), Timestamp(930))], "the earliest");
    assert!(moved(&it, claim, 1000), "rings again");
    let next = 1000 + LOOK_INTERVAL;
    assert_eq!(it.round(1001), (vec![], until(next)));
    assert_eq!(looks(&mut it), []);
    assert!(!moved(&it, claim, i64::MIN), "the timer brings the notifier");
    assert_eq!(it.round(next), (vec![], IDLE));
    assert_eq!(looks(&mut it), [(key("c", "q"), Timestamp::NEG_INFINITY)]);
}

#[test]
fn a_look_goes_from_the_earliest_time() {
    let mut it = Simulation::new();
    let key = key("c", "q");
    for from in [500, 300, 400] {
        it.agenda.look_at(&key, Timestamp(from));
    }
    assert_eq!(looks(&mut it), [(key, Timestamp(300))]);
}

#[test]
fn looks_that_cost_much_wait() {
    let mut it = Simulation::new();
    let (claim, other) = (it.claim("c", "q"), it.claim("c", "r"));
    it.agenda.look_pace.rest_until(1000);
    moved(&it, claim, 1);
    it.round(1000);
    assert_eq!(looks(&mut it).len(), 1);
    it.agenda.looked(Some(claim), 1000, 30);
    let end = 1000 + 30 * pace::LOOK;
    moved(&it, other, 1);
    it.expect(claim, 1010);
    assert_eq!(
        it.round(1020),
        (vec![], until(end)),
        "reads wait for all, a time for its own queue"
    );
    assert_eq!(looks(&mut it), []);
    it.round(end);
    assert_eq!(looks(&mut it).len(), 2);
    it.agenda.looked(Some(claim), end, 30);
    it.expect(other, 1010);
    it.round(end + 1);
    assert_eq!(looks(&mut it), [(key("c", "r"), Timestamp(1010))], "not for another");
}

#[test]
fn all_times_keep_their_order_on_the_way_through_a_slot() {
    let it = Simulation::new();
    let claim = it.claim("c", "q");
    for (from, found) in [
        (i64::MIN, Timestamp::NEG_INFINITY),
        (-1, Timestamp::NEG_INFINITY),
        (0, Timestamp::NEG_INFINITY),
        (1, Timestamp(1)),
        (850_000_000_000_000, Timestamp(850_000_000_000_000)),
    ] {
        let _: Marked = it.slots().moved(claim, Timestamp(from));
        assert_eq!(it.slots().take_moved(claim), found, "{from}");
    }
    assert_eq!(it.slots().take_moved(claim), Timestamp::INFINITY, "nothing");
    let _: Marked = it.slots().moved(claim, Timestamp(i64::MAX - 1));
    assert!(it.slots().moved_from(claim) < Timestamp::INFINITY, "a time past all clocks");
}
