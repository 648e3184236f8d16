//! Code that is wrong on purpose has to fail: otherwise the model would prove nothing.

use super::slots::{OTHER, give_to_another_database};
use super::world::{A, Host, World, check};
use crate::sync::Ordering::SeqCst;
use crate::timestamp::Timestamp;

#[test]
#[should_panic(expected = "lost: a transaction")]
fn a_latch_that_is_reset_after_the_sweep() {
    check(|| {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let mut host = Host::begin(&world, 0);
        let producer = world.spawn_producer(A, claim);
        host.round();
        host.round();
        host.trust_latch();
        host.take_latch();
        producer.join().unwrap();
        host.run();
        host.assert_all_said();
    });
}

#[test]
#[should_panic(expected = "lost: a transaction")]
fn a_sleep_right_after_a_transaction() {
    check(|| {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let mut host = Host::begin(&world, 0);
        host.run();
        world.spawn_producer(A, claim).join().unwrap();
        let producer = world.spawn_producer(A, claim);
        host.round();
        host.trust_latch();
        producer.join().unwrap();
        host.run();
        // The listener that was told of the first message has read the second as well. But its mark is still there, so
        // nobody rings any more.
        world.spawn_producer(A, claim).join().unwrap();
        host.run();
        host.assert_all_said();
    });
}

#[test]
#[should_panic(expected = "lost: a transaction")]
fn a_mark_before_the_transaction_is_visible() {
    check(|| {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let mut host = Host::begin(&world, 0);
        let producer = world.spawn_hasty(A, claim);
        host.run();
        producer.join().unwrap();
        host.run();
        host.assert_all_said();
    });
}

#[test]
#[should_panic(expected = "lost: a transaction")]
fn a_notifier_that_looks_before_it_can_be_woken() {
    check(|| {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let mut host = Host::unannounced(&world, 0);
        let producer = world.spawn_producer(A, claim);
        host.run();
        world.database.begin(1);
        producer.join().unwrap();
        host.run();
        // The launcher was asked, and finds that there is a notifier.
        assert!(!world.was_wanted());
        host.assert_all_said();
    });
}

#[test]
#[should_panic(expected = "lost: neither seen nor noted")]
fn a_note_that_is_taken_after_the_look() {
    note(|world, claim| {
        let seen = world.committed[A].load(SeqCst);
        _ = world.slots().take_moved(claim);
        seen
    });
}

/// The same in the right order.
#[test]
fn a_note_that_is_taken_before_the_look() {
    note(|world, claim| {
        _ = world.slots().take_moved(claim);
        world.committed[A].load(SeqCst)
    });
}

fn note(look: impl Fn(&World, crate::shared::Claim) -> u64 + Send + Sync + 'static) {
    check(move || {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let writer = world.spawn_mover(A, claim);
        let seen = look(&world, claim);
        writer.join().unwrap();
        assert!(
            seen == 1 || world.slots().moved_from(claim) < Timestamp::INFINITY,
            "lost: neither seen nor noted"
        );
    });
}

#[test]
#[should_panic(expected = "lost: neither taken nor rung")]
fn a_door_that_is_opened_after_the_sweep() {
    door(|world, claim| {
        let drained = world.slots().drain(claim).is_some();
        world.database.open();
        drained
    });
}

/// The same in the right order, by the same means: it is the order that counts.
#[test]
fn a_door_that_is_opened_before_the_sweep() {
    door(|world, claim| {
        world.database.open();
        world.slots().drain(claim).is_some()
    });
}

fn door(round: impl Fn(&World, crate::shared::Claim) -> bool + Send + Sync + 'static) {
    check(move || {
        let world = World::new([A, A]);
        let claim = world.claim(A);
        let host = Host::begin(&world, 0);
        world.database.close();
        let producer = world.spawn_producer(A, claim);
        let drained = round(&world, claim);
        producer.join().unwrap();
        assert!(drained || host.take_latch(), "lost: neither taken nor rung");
    });
}

#[test]
#[should_panic(expected = "lost: what another database has marked")]
fn a_drain_that_does_not_ask_whose_the_slot_is() {
    check(|| {
        let world = World::with_slots(1, [A, A]);
        let claim = world.claim(A);
        let _ = world.slots().mark(claim, 1);
        let other = give_to_another_database(&world, claim);
        let whose = world.slots().of(OTHER).next().unwrap_or(claim);
        let _ = world.slots().drain(whose);
        let next = other.join().unwrap();
        assert!(world.slots().drain(next).is_some(), "lost: what another database has marked");
    });
}
