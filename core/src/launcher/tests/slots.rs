//! Where there are not enough background worker slots.

use super::*;

const A: u32 = 5;
const B: u32 = 6;
const C: u32 = 7;
const D: u32 = 8;

/// Two databases with a notifier and a watcher each, and one that somebody wants. There are no more slots.
fn crowd() -> World {
    let mut world = settled(A);
    settle(&mut world, B);
    world.free_slots = 0;
    world.databases.insert(C, Found::Here);
    world.want(C);
    world
}

/// The same, once the notifier has got the slot of a watcher, and runs.
fn crowded() -> World {
    let mut world = crowd();
    world.round();
    world.end(Process::watcher(A), Some(State::Down));
    world.round();
    world.round();
    world.run(Process::notifier(C));
    world
}

fn how_often(world: &World, act: &Act) -> usize {
    world.acts.iter().filter(|it| *it == act).count()
}

fn are_given_up(world: &World) -> usize {
    world.acts.iter().filter(|act| matches!(act, Act::GiveUp(_))).count()
}

#[test]
fn a_notifier_without_a_slot_is_tried_again_ever_later() {
    let mut world = World::new([A]);
    world.free_slots = 0;
    world.want(A);
    let mut waits = Vec::new();
    for _ in 0..10 {
        let limit = world.round().unwrap();
        assert_eq!(world.state(Process::notifier(A)), State::NoSlot);
        waits.push(limit / MILLISECOND);
        world.pass(limit);
    }
    assert_eq!(waits, [1000, 1000, 1000, 1000, 1000, 1600, 3200, 6400, 10_000, 10_000]);
    world.free_slots = 1;
    assert_eq!(world.round(), None);
    assert_eq!(world.state(Process::notifier(A)), State::Starting);
}

#[test]
fn the_log_tells_once_until_there_was_a_slot() {
    let mut world = World::new([A, B]);
    world.free_slots = 0;
    world.want(A);
    world.want(B);
    let log = Act::LogNoSlot(Role::Notifier);
    let limit = world.round().unwrap();
    assert_eq!(how_often(&world, &log), 1, "two have none");
    world.pass(limit);
    world.round();
    assert_eq!(how_often(&world, &log), 0);
    // One gets a slot, and then the other has none again.
    world.free_slots = 1;
    world.pass(limit);
    world.round();
    assert_eq!(how_often(&world, &log), 1);
}

#[test]
fn a_notifier_does_the_work_of_a_watcher_without_a_slot() {
    let mut world = World::new([A]);
    world.free_slots = 1;
    world.want(A);
    world.round();
    world.run(Process::notifier(A));
    assert_eq!(world.round(), Some(SECOND));
    let watcher = Process::watcher(A);
    let expected = [
        Act::Find(watcher),
        Act::Start { process: watcher, is_probe: false },
        Act::NoteNoSlot(watcher),
        Act::Wake(A),
        Act::LogNoSlot(Role::Watcher),
    ];
    assert_eq!(world.acts, expected);
    assert_eq!(world.state(watcher), State::NoSlot);
    world.free_slots = 1;
    world.pass(SECOND);
    assert_eq!((world.round(), world.started()), (None, vec![watcher]), "it is tried again");
}

#[test]
fn nobody_is_given_up_for_a_watcher() {
    let mut world = settled(A);
    world.free_slots = 1;
    settle_without_watcher(&mut world, B);
    assert_eq!(world.state(Process::watcher(B)), State::NoSlot);
    assert_eq!(are_given_up(&world), 0);
    assert_eq!(world.launcher.crowded_until, 0);
}

fn settle_without_watcher(world: &mut World, oid: u32) {
    world.databases.insert(oid, Found::Here);
    world.want(oid);
    world.round();
    world.run(Process::notifier(oid));
    world.round();
}

#[test]
fn a_watcher_that_has_come_up_meanwhile_wakes_nobody() {
    let mut world = settled(A);
    let watcher = Process::watcher(A);
    let first = world.launcher.step(Event::Tried(watcher, Tried::NoSlot), world.moment);
    assert_eq!(first, Act::NoteNoSlot(watcher));
    let event = Event::NoSlotNoted { process: watcher, is_noted: false };
    let next = world.launcher.step(event, world.moment);
    assert_eq!(next, Act::LogNoSlot(Role::Watcher));
}

#[test]
fn a_watcher_gives_its_slot_to_a_notifier() {
    let mut world = crowd();
    assert_eq!(world.round(), Some(SECOND));
    let notifier = Process::notifier(C);
    let expected = [
        Act::List,
        Act::Find(notifier),
        Act::Start { process: notifier, is_probe: false },
        Act::NoteNoSlot(notifier),
        Act::LogNoSlot(Role::Notifier),
        Act::GiveUp(A),
    ];
    assert_eq!(world.acts, expected);
    // When it has ended, the notifier may try at once, and not only after a second.
    world.end(Process::watcher(A), Some(State::Down));
    assert_eq!((world.round(), world.started()), (Some(0), vec![]));
    assert!(world.has_done(&Act::Wake(A)), "the notifier beside it does its work");
    assert_eq!(world.state(Process::watcher(A)), State::NoSlot);
    world.round();
    assert_eq!(world.started(), [notifier]);
    assert!(world.lives.contains_key(&notifier));
}

#[test]
fn watchers_are_given_up_one_at_a_time() {
    let mut world = crowd();
    world.databases.insert(D, Found::Here);
    world.want(D);
    world.round();
    assert_eq!(are_given_up(&world), 1, "two notifiers have no slot");
    // It takes its time.
    for _ in 0..3 {
        world.pass(SECOND);
        world.round();
        assert_eq!(world.started().len(), 2);
        assert_eq!(are_given_up(&world), 0);
    }
    world.end(Process::watcher(A), Some(State::Down));
    assert_eq!(world.round(), Some(0));
    // Another one ends for the second notifier.
    world.round();
    assert_eq!(world.started(), [Process::notifier(C), Process::notifier(D)]);
    assert!(world.has_done(&Act::GiveUp(B)));
}

#[test]
fn a_watcher_that_is_not_yet_known_cannot_be_given_up() {
    let mut world = crowd();
    world.unknown.insert(A);
    for _ in 0..2 {
        world.round();
        assert!(world.has_done(&Act::GiveUp(A)), "it is told with the next try");
        world.pass(SECOND);
    }
    world.unknown.clear();
    world.round();
    assert!(world.has_done(&Act::GiveUp(A)));
    world.pass(SECOND);
    world.round();
    assert_eq!(are_given_up(&world), 0, "it was told");
}

#[test]
fn a_watcher_that_was_given_up_may_be_given_up_again() {
    let mut world = crowded();
    world.round();
    // It has left, so there is room.
    world.end(Process::notifier(C), Some(State::None));
    world.round();
    world.round();
    assert_eq!(world.started(), [Process::watcher(A)]);
    world.run(Process::watcher(A));
    world.round();
    world.want(C);
    world.round();
    assert!(world.has_done(&Act::GiveUp(A)));
}

#[test]
fn a_watcher_that_was_put_off_tries_again_after_a_minute() {
    let mut world = crowded();
    // Somebody who is not ours had the slots, and gives them back.
    world.free_slots = 5;
    assert_eq!((world.round(), world.started()), (Some(60 * SECOND), vec![]));
    assert!(world.has_done(&Act::NoteNoSlot(Process::watcher(C))));
    assert_eq!(world.state(Process::watcher(C)), State::NoSlot);
    world.pass(60 * SECOND - 1);
    assert_eq!((world.round(), world.started()), (Some(1), vec![]));
    world.pass(1);
    assert_eq!(world.round(), None);
    assert_eq!(world.started(), [Process::watcher(A), Process::watcher(C)]);
}

#[test]
fn watchers_are_put_off_as_long_as_a_notifier_lacks_a_slot() {
    let mut world = crowd();
    world.unknown.extend([A, B]);
    let mut limit = world.round().unwrap();
    for _ in 0..20 {
        assert!(limit <= 10 * SECOND);
        world.pass(limit);
        limit = world.round().unwrap();
        assert_eq!(world.started(), [Process::notifier(C)]);
    }
    assert!(world.launcher.crowded_until > world.moment + 40 * SECOND);
    world.end(Process::watcher(B), Some(State::Down));
    world.free_slots = 0;
    world.round();
    assert!(!world.started().contains(&Process::watcher(B)));
}

#[test]
fn a_notifier_that_is_not_needed_any_more_makes_room_for_watchers() {
    let mut world = crowded();
    assert_eq!((world.round(), world.started()), (Some(60 * SECOND), vec![]));
    world.end(Process::notifier(C), Some(State::None));
    assert_eq!(world.round(), Some(0));
    assert_eq!((world.round(), world.started()), (None, vec![Process::watcher(A)]));
}

#[test]
fn a_notifier_that_comes_back_makes_no_room_for_watchers() {
    let mut world = crowded();
    world.round();
    world.end(Process::notifier(C), Some(State::Down));
    assert_eq!((world.round(), world.started()), (Some(0), vec![Process::notifier(C)]));
    assert_eq!((world.round(), world.started()), (Some(60 * SECOND), vec![]));
}

#[test]
fn a_watcher_that_leaves_makes_no_room_for_watchers() {
    let mut world = crowd();
    world.round();
    world.end(Process::watcher(A), Some(State::None));
    world.round();
    assert!(!world.started().contains(&Process::watcher(A)));
    assert!(world.launcher.crowded_until > world.moment);
}

#[test]
fn a_slot_that_becomes_free_lets_those_try_that_wait_for_one() {
    let mut world = settled(A);
    settle(&mut world, B);
    for _ in 0..3 {
        world.end(Process::notifier(B), Some(State::Down));
        let limit = world.round().unwrap_or(0);
        world.pass(limit);
        world.round();
    }
    world.databases.insert(C, Found::Here);
    world.free_slots = 0;
    world.want(C);
    world.round();
    assert_eq!(world.state(Process::notifier(C)), State::NoSlot);
    // One that has failed waits for its own back-off. One that waits for a slot does not wait any more.
    world.end(Process::notifier(B), Some(State::Down));
    assert_eq!((world.round(), world.started()), (Some(0), vec![]));
    world.round();
    assert_eq!(world.started(), [Process::notifier(C)]);
    assert!(world.lives.contains_key(&Process::notifier(C)));
}

#[test]
fn one_that_waits_for_a_slot_and_is_busy_tries_when_one_is_free() {
    for is_in_the_same_turn in [false, true] {
        let mut world = crowd();
        world.round();
        world.pass(SECOND);
        world.databases.insert(C, Found::Busy);
        if !is_in_the_same_turn {
            assert_eq!(world.round(), Some(100 * MILLISECOND));
        }
        world.end(Process::watcher(A), Some(State::Down));
        assert_eq!(world.round(), Some(0));
        world.databases.insert(C, Found::Here);
        world.round();
        assert_eq!(world.started(), [Process::notifier(C)]);
    }
}

#[test]
fn one_whose_seat_does_not_lack_a_slot_any_more_waits_for_its_time() {
    let mut world = crowd();
    world.round();
    // A process of a former launcher has had the seat, and has ended.
    world.entry(C).seats.notifier = State::Down;
    world.end(Process::watcher(A), Some(State::Down));
    assert_eq!(world.round(), Some(0));
    assert_eq!((world.round(), world.started()), (Some(SECOND), vec![]));
}

#[test]
fn one_slot_goes_to_a_notifier_rather_than_to_a_watcher() {
    let mut world = World::new([A, B]);
    world.entry(A).seats.notifier = State::Running;
    world.want(B);
    world.free_slots = 1;
    world.round();
    assert_eq!(world.started(), [Process::notifier(B), Process::watcher(A)]);
    assert!(world.lives.contains_key(&Process::notifier(B)));
    assert_eq!(world.state(Process::watcher(A)), State::NoSlot);
}

/// The notifier that did the work of the watcher has left, and another one has come.
#[test]
fn a_watcher_without_a_slot_is_tried_at_once_beside_another_notifier() {
    for is_crowded in [false, true] {
        let mut world = World::new([A]);
        world.free_slots = 1;
        world.want(A);
        world.round();
        world.run(Process::notifier(A));
        world.round();
        assert_eq!(world.state(Process::watcher(A)), State::NoSlot);
        if is_crowded {
            world.launcher.crowded_until = world.moment + 60 * SECOND;
        }
        world.end(Process::notifier(A), Some(State::None));
        world.entry(A).seats.watcher = State::None;
        world.want(A);
        // A second slot is there by now.
        world.free_slots = 2;
        world.round();
        world.round();
        let watcher = world.state(Process::watcher(A));
        assert_eq!(watcher, if is_crowded { State::NoSlot } else { State::Starting });
    }
}

#[test]
fn a_watcher_that_does_not_end_is_told_again_or_another_one_is() {
    let mut world = crowd();
    let mut told = Vec::new();
    let mut limit = world.round().unwrap();
    for _ in 0..60 {
        told.extend(world.acts.iter().filter_map(|act| match act {
            Act::GiveUp(oid) => Some((world.moment / SECOND, *oid)),
            _ => None,
        }));
        world.pass(limit);
        limit = world.round().unwrap();
    }
    let oids: Vec<_> = told.iter().map(|(_, oid)| *oid).take(4).collect();
    assert_eq!(oids, [A, B, A, A]);
    assert!(told.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 10), "{told:?}");
}
