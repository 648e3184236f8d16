//! Which databases are asked whether there is anything to do.

use super::*;

const A: u32 = 5;
const B: u32 = 6;
const C: u32 = 7;
const NOTIFIER: Process = Process::notifier(A);

#[test]
fn what_left_is_started_again_if_somebody_asked() {
    let mut world = World::new([A]);
    world.want(A);
    world.round();
    // It has looked by then, and found nothing.
    world.want(A);
    world.round();
    assert!(!world.entries[&A].is_wanted);
    world.end(NOTIFIER, Some(State::None));
    assert_eq!((world.round(), world.started()), (None, vec![NOTIFIER]));
    // The wish was for this start.
    world.end(NOTIFIER, Some(State::None));
    assert_eq!((world.round(), world.started()), (None, vec![]));
}

#[test]
fn databases_are_asked_one_after_the_other() {
    let mut world = World::with_probes([A, B, C], [A, B, C]);
    assert_eq!(world.round(), None);
    assert_eq!(world.probed(), Some(A));
    assert_eq!((world.round(), world.started()), (None, vec![]), "it has not answered");
    // The first has found nothing to do.
    world.end(NOTIFIER, None);
    world.lives.insert(NOTIFIER, Life::Gone { has_looked: true });
    assert_eq!(world.round(), Some(0));
    assert_eq!((world.round(), world.probed()), (None, Some(B)));
    // The second stays.
    world.run(Process::notifier(B));
    assert_eq!((world.round(), world.started()), (Some(0), vec![Process::watcher(B)]));
    assert_eq!((world.round(), world.probed()), (None, Some(C)));
}

#[test]
fn a_database_that_has_a_notifier_or_is_to_have_one_is_not_asked() {
    let mut world = World::with_probes([A, B, C], [A, B, C]);
    world.entry(A).seats = Seats { notifier: State::Running, watcher: State::Running };
    world.want(B);
    world.round();
    let start = |oid, is_probe| Act::Start { process: Process::notifier(oid), is_probe };
    assert!(world.has_done(&start(B, false)) && world.has_done(&start(C, true)));
    assert_eq!(world.started().len(), 2);
}

#[test]
fn a_probe_that_somebody_asks_for_is_none_any_more() {
    let mut world = World::with_probes([A, B], [A, B]);
    world.round();
    world.want(A);
    world.round();
    assert_eq!(world.probed(), Some(B), "the next one may begin");
    world.end(NOTIFIER, Some(State::None));
    world.round();
    assert_eq!(world.acts.last(), Some(&Act::Start { process: NOTIFIER, is_probe: false }));
}

#[test]
fn a_database_that_is_busy_while_it_is_to_be_asked_goes_to_the_end() {
    let mut world = World::with_probes([A, B], [A, B]);
    world.databases.insert(A, Found::Busy);
    assert_eq!((world.round(), world.started()), (Some(0), vec![]));
    assert_eq!((world.round(), world.probed()), (None, Some(B)));
    world.run(Process::notifier(B));
    // However often the launcher comes, it does not ask again before the time.
    for _ in 0..3 {
        assert_eq!(world.round(), Some(100 * MILLISECOND));
        assert!(!world.has_done(&Act::Find(NOTIFIER)));
    }
    world.databases.insert(A, Found::Here);
    world.pass(100 * MILLISECOND);
    assert_eq!((world.round(), world.probed()), (None, Some(A)));
}

#[test]
fn a_database_that_is_busy_while_somebody_wants_it_is_tried_again_soon() {
    let mut world = World::new([A]);
    world.databases.insert(A, Found::Busy);
    world.want(A);
    for _ in 0..5 {
        assert_eq!((world.round(), world.started()), (Some(100 * MILLISECOND), vec![]));
        world.pass(100 * MILLISECOND);
    }
    world.databases.insert(A, Found::Here);
    assert_eq!((world.round(), world.started()), (None, vec![NOTIFIER]));
}

/// It slept until the minute of the watcher was over.
#[test]
fn a_job_that_waits_for_long_keeps_no_database_from_being_asked() {
    let mut world = World::with_probes([A, B], [B]);
    world.entry(A).seats = Seats { notifier: State::Running, watcher: State::Down };
    world.launcher.crowded_until = world.moment + 60 * SECOND;
    assert_eq!((world.round(), world.probed()), (Some(60 * SECOND), Some(B)));
    world.launcher.probes.push_back((C, 0));
    world.databases.insert(C, Found::Here);
    world.run(Process::notifier(B));
    assert_eq!(world.round(), Some(0));
    world.round();
    assert_eq!(world.probed(), Some(C));
}

#[test]
fn a_database_that_does_not_answer_is_asked_five_times() {
    let mut world = World::with_probes([A, B], [A, B]);
    world.round();
    let mut asked = 1;
    // It cannot be connected to, so it takes no entry and says nothing.
    while world.probed() != Some(B) {
        world.end(NOTIFIER, None);
        if let Some(limit) = world.round() {
            world.pass(limit);
            world.round();
        }
        asked += usize::from(world.probed() == Some(A));
    }
    assert_eq!(asked, 5);
    // But one that somebody wants is tried for ever.
    world.want(C);
    world.databases.insert(C, Found::Here);
    world.round();
    world.entries.remove(&C);
    for _ in 0..20 {
        world.end(Process::notifier(C), None);
        let limit = world.round().unwrap_or(0);
        world.pass(limit);
        world.round();
        assert!(world.lives.contains_key(&Process::notifier(C)));
    }
}

#[test]
fn a_database_that_is_gone_before_it_was_asked_is_passed_over() {
    let mut world = World::with_probes([B], [A, B]);
    assert_eq!(world.round(), Some(0));
    assert_eq!(world.acts, [Act::Find(NOTIFIER), Act::Forget(A)]);
    assert_eq!((world.round(), world.probed()), (None, Some(B)));
}

/// A failure that nothing is known of.
#[test]
fn a_probe_that_always_fails_keeps_no_other_from_being_asked() {
    let mut world = World::with_probes([A, B], [A, B]);
    world.entry(A);
    let mut started = Vec::new();
    for _ in 0..16 {
        let limit = world.round().unwrap_or(0);
        started.extend(world.started().iter().map(|process| process.oid));
        if world.lives.contains_key(&NOTIFIER) {
            world.end(NOTIFIER, None);
        } else {
            world.pass(limit);
        }
    }
    assert_eq!(started[..7], [A, A, A, A, A, B, A]);
}
