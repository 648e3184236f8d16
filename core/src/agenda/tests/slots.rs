//! Slots that are given back, and what is counted in them.

use super::*;

#[test]
fn queues_that_are_no_longer_realtime_give_their_slots_back() {
    let mut it = Simulation::new();
    let (kept, gone) = (it.claim("c", "kept"), it.claim("c", "gone"));
    it.enqueue(kept, 1);
    it.round(1000);
    let done = it.keep_only(|route| *route == key("c", "kept"));
    assert_eq!(done, Kept { must_ask_again: false, released: vec![gone.at] });
    assert!(it.slots().is_current(kept));
    assert!(!it.slots().is_current(gone));
    assert_eq!(it.database.enqueue(it.slots(), gone, 1), Err(Stale));
    // Whose channel it was is forgotten with it.
    let other = it.claim("d", "other");
    assert_eq!(other.at, gone.at);
    assert!(it.enqueue(other, 1), "nor the former queue's interval");
    assert_eq!(it.round(1010).0, [one("d", "other", 1)]);
}

#[test]
fn a_mark_in_a_slot_that_is_given_back_is_announced() {
    let mut it = Simulation::new();
    let early = it.claim("c", "early");
    it.enqueue(early, 5);
    assert!(it.keep_only(|_| false).must_ask_again, "it may be realtime by now");
    assert_eq!(it.round(1000).0, [one("c", "early", 1)]);
}

/// It can't announce: the notifier beside it does, and then the slot is given back.
#[test]
fn a_watcher_leaves_what_is_marked() {
    let mut it = Simulation::new();
    it.agenda.duties = Duties::WATCHER;
    let (marked, gone) = (it.claim("c", "marked"), it.claim("c", "gone"));
    it.enqueue(marked, 1);
    let kept = it.keep_only(|_| false);
    assert_eq!(kept, Kept { must_ask_again: true, released: vec![gone.at] });
    assert!(it.slots().is_current(marked));
    assert!(it.slots().drain(marked).is_some());
    assert_eq!(it.keep_only(|_| false).released, [marked.at]);
}

#[test]
fn the_second_slot_of_a_route_is_given_back() {
    let mut it = Simulation::new();
    // As if two producers had taken one at the same moment.
    let second = Slots { all: &it.slots[1..], hashes: &it.hashes[1..], used: &AtomicU32::new(0) };
    second.claim(OID, &key("c", "q")).unwrap();
    let first = it.claim("c", "q");
    let other = it.claim("c", "other");
    assert_eq!((first.at, other.at), (0, 2));
    let all: Vec<_> = it.slots().of(OID).collect();
    it.enqueue(all[1], 1);
    it.keep_only(|_| true);
    assert_eq!(it.slots().of(OID).collect::<Vec<_>>(), [first, other]);
    let looks = looks(&mut it);
    assert_eq!(looks, [(key("c", "q"), Timestamp::NEG_INFINITY)], "what was noted there");
}

#[test]
fn what_the_statistics_show() {
    let mut it = Simulation::new();
    let (claim, other) = (it.claim("c", "q"), it.claim("c", "other"));
    (0..3).for_each(|_| _ = it.enqueue(claim, 2));
    it.round(1000);
    (0..2).for_each(|_| _ = it.enqueue(claim, 1));
    it.expect(claim, 5000);
    let counters = it.slots().counters(claim);
    assert_eq!((counters.transactions, counters.messages), (6, 9));
    assert_eq!((counters.notifications, counters.coalesced), (1, 2));
    assert_eq!(counters.last_wake_up, Some(Timestamp(1000)));
    it.round(1100);
    let counters = it.slots().counters(claim);
    assert_eq!((counters.notifications, counters.last_wake_up), (2, Some(Timestamp(1100))));
    let counters = it.slots().counters(other);
    assert_eq!((counters.notifications, counters.last_wake_up), (0, None));
}

#[test]
fn what_is_said_of_a_former_queue_is_not_counted_for_the_next() {
    let mut it = Simulation::new();
    let former = it.claim("c", "former");
    it.enqueue(former, 1);
    it.sweep();
    it.keep_only(|_| false);
    let next = it.claim("c", "next");
    assert_eq!(next.at, former.at);
    assert_eq!(it.say().0, [one("c", "former", 1)]);
    assert_eq!(it.slots().counters(next).notifications, 0);
}

#[test]
fn another_databases_queues_are_left_alone() {
    let mut it = Simulation::new();
    let strange = it.slots().claim(OID + 1, &key("c", "q")).unwrap();
    let _: Marked = it.slots().mark(strange, 1);
    assert_eq!(it.round(1000), (vec![], IDLE));
    it.keep_only(|_| false);
    assert!(it.slots().is_current(strange));
}
