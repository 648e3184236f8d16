//! Messages that become visible later.

use loom::thread::JoinHandle;

use super::world::{A, B, Host, World, check};
use crate::shared::Claim;

/// How somebody notes a moment to come: as a producer, or as a reader.
type Note = fn(&World, usize, Claim, u64) -> JoinHandle<()>;

fn beside_a_producer_within_the_interval(note: Note) {
    check(move || {
        let world = World::new([A, B]);
        let claims = [world.claim(A), world.claim(B)];
        let mut host = Host::begin(&world, 0).every(10);
        let others = [note(&world, A, claims[0], 5), world.spawn_producer(B, claims[1])];
        host.run();
        others.into_iter().for_each(|other| other.join().unwrap());
        host.run();
        host.assert_all_said();
    });
}

#[test]
fn a_deadline_and_a_message_within_the_interval() {
    beside_a_producer_within_the_interval(World::spawn_delay);
}

#[test]
fn a_reader_and_a_message_within_the_interval() {
    beside_a_producer_within_the_interval(World::spawn_reader);
}

fn while_its_slot_is_given_back(note: Note) {
    check(move || {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let mut host = Host::begin(&world, 0);
        host.run();
        let other = note(&world, A, claim, 10);
        host.give_back();
        host.round();
        host.run();
        other.join().unwrap();
        host.run();
        host.assert_all_said();
    });
}

#[test]
fn a_slot_is_given_back_while_a_deadline_is_noted() {
    while_its_slot_is_given_back(World::spawn_delay);
}

#[test]
fn a_slot_is_given_back_while_a_reader_notes_it() {
    while_its_slot_is_given_back(World::spawn_reader);
}

/// Two deadlines on one queue, the earlier perhaps last.
#[test]
fn a_sleeping_notifier_knows_the_deadline() {
    check(|| {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let mut host = Host::begin(&world, 0);
        let producers = [world.spawn_delay(A, claim, 20), world.spawn_delay(A, claim, 10)];
        host.take_latch();
        host.round();
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        host.assert_knows_deadlines();
        host.run();
        host.assert_all_said();
    });
}

/// The notifier forgets the deadline that has come while the next is being noted.
#[test]
fn a_deadline_is_noted_while_another_comes() {
    check(|| {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let mut host = Host::begin(&world, 0);
        world.delay(A, claim, 10);
        host.round();
        host.round();
        let producer = world.spawn_delay(A, claim, 20);
        host.run();
        producer.join().unwrap();
        host.assert_knows_deadlines();
        host.run();
        host.assert_all_said();
    });
}

/// Somebody remembers the slot from before it changed hands. The notifier would not be told of the
/// deadline that he notes there. The next one that notes a later deadline would rely on his.
#[test]
fn a_stranger_cannot_hide_a_deadline() {
    check(|| {
        let world = World::new([A, B]);
        let stranger = world.claim(A);
        world.slots().release(stranger);
        let mut host = Host::begin(&world, 0);
        host.run();
        let producers = [world.spawn_stranger(stranger, 10), world.spawn_late_newcomer(B, 20)];
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        host.assert_knows_deadlines();
        host.run();
        host.assert_all_said();
    });
}

/// Nobody but the table knows when messages come back that were read.
#[test]
fn two_readers_of_one_queue() {
    check(|| {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let mut host = Host::begin(&world, 0);
        host.run();
        let readers = [world.spawn_reader(A, claim, 20), world.spawn_reader(A, claim, 10)];
        host.run();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        host.assert_comes_by();
        host.run();
        host.assert_all_said();
    });
}

/// A message that is read soon after a look stays noted until the next look.
#[test]
fn a_reader_soon_after_a_look() {
    check(|| {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let mut host = Host::begin(&world, 0);
        world.spawn_reader(A, claim, 10).join().unwrap();
        host.take_latch();
        host.round();
        let reader = world.spawn_reader(A, claim, 20);
        host.take_latch();
        host.round();
        reader.join().unwrap();
        host.assert_comes_by();
        host.run();
        host.assert_all_said();
    });
}
