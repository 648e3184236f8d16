//! Every order in which producers and a notifier can run: none loses a wake-up.
//!
//! A woken listener reads what is visible at that moment. So a producer's commit counts up, a
//! notification notes how far it has come, and when all is quiet the two must agree. A notifier that
//! sleeps is one that is only slow to look at its latch, which loom tries anyway; so the notifier is
//! the main thread, which takes its rounds beside the producers, then waits for them, and takes the rest.
//!
//! The tests in `wrong` show that a mistake is found.

mod deadlines;
mod ids;
mod news;
mod prepared;
mod processes;
mod slots;
mod waiters;
mod world;
mod wrong;

use crate::shared::Claim;
use world::{A, B, Host, World, check};

/// Two producers, one queue.
fn two_producers(interval: u64, failures: u32) {
    check(move || {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let mut host = Host::begin(&world, 0).every(interval).failing(failures);
        let producers = [world.spawn_producer(A, claim), world.spawn_producer(A, claim)];
        host.run();
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        host.run();
        host.assert_all_counted();
    });
}

#[test]
fn two_producers_on_one_queue() {
    two_producers(0, 0);
}

#[test]
fn two_producers_within_the_interval() {
    two_producers(10, 0);
}

#[test]
fn what_could_not_be_sent_is_said_again() {
    two_producers(0, 1);
}

#[test]
fn what_could_not_be_sent_within_the_interval_is_said_again() {
    two_producers(10, 1);
}

/// A message that comes within the interval stays marked and wakes nobody any more. One that comes at its end meets the
/// timer.
#[test]
fn producers_at_the_end_of_an_interval() {
    check(|| {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let mut host = Host::begin(&world, 0).every(10);
        world.produce(A, claim);
        host.take_latch();
        host.round();
        let producers = [world.spawn_producer(A, claim), world.spawn_producer(A, claim)];
        host.run();
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        host.run();
        host.assert_all_counted();
    });
}

/// The notifier rests, and has closed the door: a producer that marks relies on its timer.
#[test]
fn producers_at_the_end_of_a_rest() {
    check(|| {
        let world = World::new([A, B]);
        let claims = [world.claim(A), world.claim(B)];
        let mut host = behind_the_door(&world, claims[0]);
        let producers = [world.spawn_producer(A, claims[0]), world.spawn_producer(B, claims[1])];
        host.run();
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        host.run();
        host.assert_all_counted();
    });
}

/// The same while it closes the door.
#[test]
fn producers_at_the_beginning_of_a_rest() {
    check(|| {
        let world = World::new([A, B]);
        let claims = [world.claim(A), world.claim(B)];
        let mut host = Host::begin(&world, 0).costing(1);
        world.produce(A, claims[0]);
        host.take_latch();
        host.round();
        let producers = [world.spawn_producer(A, claims[0]), world.spawn_producer(B, claims[1])];
        host.run();
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        host.run();
        host.assert_all_counted();
    });
}

/// A notifier that has notified, was woken within its rest, and has closed the door.
fn behind_the_door(world: &World, claim: Claim) -> Host {
    let mut host = Host::begin(world, 0).costing(1);
    for _ in 0..2 {
        world.produce(A, claim);
        host.take_latch();
        host.round();
    }
    let wake = world.database.enqueue(world.slots(), world.claim(B), 0).unwrap();
    assert!(!wake.is_any(), "no door");
    host
}

#[test]
fn two_queues_on_one_channel() {
    check(|| {
        let world = World::new([A, B]);
        let claims = [world.claim(A), world.claim(B)];
        let mut host = Host::begin(&world, 0).every(10);
        let producers = [world.spawn_producer(A, claims[0]), world.spawn_producer(B, claims[1])];
        host.run();
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        host.run();
        host.assert_all_counted();
    });
}

/// The second notifier knows nothing of what the first had taken.
fn restart(die: impl Fn(&mut Host) + Copy + Send + Sync + 'static) {
    check(move || {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let mut first = Host::begin(&world, 0).every(10);
        let producer = world.spawn_producer(A, claim);
        die(&mut first);
        let mut second = first.next().every(10);
        second.run();
        producer.join().unwrap();
        second.run();
        second.assert_all_said();
    });
}

#[test]
fn a_notifier_dies_before_it_sends() {
    restart(|first| {
        first.take_latch();
        first.attend_to_news();
        first.sweep();
    });
}

#[test]
fn a_notifier_dies_as_soon_as_it_has_begun() {
    restart(|_| ());
}

#[test]
fn a_notifier_dies_after_it_has_sent() {
    restart(Host::round);
}

/// The next one has another timer, or none.
#[test]
fn a_notifier_dies_behind_a_closed_door() {
    check(|| {
        let world = World::new([A, B]);
        let claims = [world.claim(A), world.claim(B)];
        let first = behind_the_door(&world, claims[0]);
        let producer = world.spawn_producer(B, claims[1]);
        let mut second = first.next();
        second.run();
        producer.join().unwrap();
        second.run();
        second.assert_all_said();
    });
}

/// The notifier leaves, because it has no queue. A producer makes one at that moment. Either it is in the
/// table when the notifier looks for the last time, or the producer finds no bell.
#[test]
fn a_notifier_that_leaves() {
    check(|| {
        let world = World::new([A, A]);
        let mut host = Host::begin(&world, 0);
        host.round();
        let producer = world.spawn_newcomer(A);
        world.leave();
        producer.join().unwrap();
        assert!(world.was_wanted(), "lost: nobody asked the launcher");
    });
}
