//! Slots that are taken and given back while producers mark.

use loom::thread::JoinHandle;

use super::world::{A, B, Host, World, check};

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
        host.turn();
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
        host.turn();
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
        host.turn();
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
