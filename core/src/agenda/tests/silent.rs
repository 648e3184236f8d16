//! Queues whose news is only broadcast.

use super::*;

/// News that is only broadcast keeps the interval as well, and nothing is notified.
#[test]
fn a_silent_route_is_broadcast() {
    let mut it = Simulation::new();
    let key = b"\x01\0\0\0c\0e\0q\0sink=supabase\0";
    let claim = it.slots().claim(OID, key).unwrap();
    it.slots().note_ids(claim, &Ids::one(5));
    assert!(it.enqueue(claim, 2));
    it.sweep();
    assert!(it.ready().is_empty() && it.agenda.is_sending());
    let (now, slots) = (it.now(), Slots { all: &it.slots, hashes: &it.hashes, used: &it.used });
    it.agenda.sent(slots, it.moment, now, it.interval, 0);
    assert_eq!(slots.counters(claim).notifications, 0);
    let (sent, pending) = it.agenda.sinks.ready(it.moment).unwrap();
    assert_eq!((&*sent, pending.messages, pending.ids.newest), (&key[..], 2, 5));
    it.agenda.sinks.sent(&sent, it.moment, it.interval, 0);
    assert!(it.agenda.is_idle());
    // Within the interval it stays marked, and there is a timer.
    assert!(it.enqueue(claim, 1));
    assert_eq!(it.sweep().interval, Some(it.moment + INTERVAL));
    assert!(!it.agenda.is_sending());
}
