//! Slots that are taken and given back while producers mark.

use loom::thread::{JoinHandle, spawn};

use super::world::{A, B, Host, KEYS, OID, World, check};
use crate::ids::Ids;
use crate::shared::{Claim, Marked};
use crate::timestamp::Timestamp;

/// Either the notifier takes the mark over, or the producer notices and looks for a slot again.
#[test]
fn a_slot_is_given_back_while_it_is_marked() {
    check(|| {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let mut host = Host::begin(&world, 0);
        host.run();
        let producer = world.spawn_producer(A, claim);
        host.give_back();
        host.round();
        host.run();
        producer.join().unwrap();
        host.run();
        host.assert_all_said();
    });
}

/// The slot is another queue's at once, which must not get the mark. Where there is no other slot, the
/// producer has the notifier look at everything.
fn changes_hands(slots: usize) {
    check(move || {
        let world = World::with_slots(slots, [A, B]);
        let claim = world.claim(A);
        let mut host = Host::begin(&world, 0);
        host.run();
        let producer = world.spawn_producer(A, claim);
        host.give_back();
        let other = world.claim_if_room(B);
        host.round();
        host.run();
        producer.join().unwrap();
        host.run();
        host.assert_all_said();
        if let Some(other) = other {
            world.produce(B, other);
            host.run();
            host.assert_all_said();
        }
    });
}

#[test]
fn a_slot_changes_hands_while_it_is_marked() {
    changes_hands(2);
}

#[test]
fn the_only_slot_changes_hands_while_it_is_marked() {
    changes_hands(1);
}

/// They may take a slot each. The notifier gives the second back, whatever is noted in it by then.
fn meet_a_new_queue(produce: impl Fn(&World, u64) -> JoinHandle<()> + Send + Sync + 'static) {
    check(move || {
        let world = World::with_slots(3, [A, A]);
        let mut host = Host::begin(&world, 0);
        host.run();
        let producers = [produce(&world, 10), produce(&world, 20)];
        host.attend_to_news();
        host.run();
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        host.attend_to_news();
        host.round();
        host.run();
        host.assert_all_said();
    });
}

#[test]
fn two_producers_meet_a_new_queue() {
    meet_a_new_queue(|world, _| world.spawn_newcomer(A));
}

#[test]
fn two_delays_meet_a_new_queue() {
    meet_a_new_queue(|world, at| world.spawn_late_newcomer(A, at));
}

/// Another database, which has two messages at once in a slot that the watcher gives back.
pub(super) const OTHER: u32 = 1_000;

pub(super) fn give_to_another_database(world: &World, claim: Claim) -> JoinHandle<Claim> {
    let world = world.clone();
    spawn(move || {
        let slots = world.slots();
        slots.release(claim);
        let next = slots.take(OTHER, KEYS[B]).unwrap();
        assert_eq!(next.at, claim.at);
        slots.note_ids(next, &Ids::one(7));
        assert_ne!(slots.mark(next, 1), Marked::Stale);
        next
    })
}

/// The notifier has seen that the slot is marked, and drains it while the watcher beside it gives it back and another
/// database's queue gets it: what that one has marked is not taken.
#[test]
fn a_slot_goes_to_another_database_while_it_is_drained() {
    check(|| {
        let world = World::with_slots(1, [A, A]);
        let claim = world.claim(A);
        let _ = world.slots().mark(claim, 1);
        let other = give_to_another_database(&world, claim);
        if world.slots().drain(claim).is_some() {
            let ids = world.slots().take_ids(claim);
            assert!(ids.some.is_empty() && !ids.more, "another's: {ids:?}");
        }
        let next = other.join().unwrap();
        assert!(world.slots().drain(next).is_some(), "lost: what another database has marked");
        let ids = world.slots().take_ids(next);
        assert!(ids.more || ids.some == [7], "lost: an id, {ids:?}");
    });
}

/// The same while it looks which slots are its database's.
#[test]
fn a_slot_goes_to_another_database_while_slots_are_listed() {
    check(|| {
        let world = World::with_slots(1, [A, A]);
        let claim = world.claim(A);
        let other = give_to_another_database(&world, claim);
        for claim in world.slots().of(OID) {
            let _ = world.slots().drain(claim);
            world.slots().forget_earliest(claim);
            let _ = world.slots().take_moved(claim);
        }
        let next = other.join().unwrap();
        assert!(world.slots().drain(next).is_some(), "lost: what another database has marked");
        // What is noted there later still counts.
        assert_ne!(world.slots().expect(next, Timestamp(1)), Marked::Stale);
    });
}
