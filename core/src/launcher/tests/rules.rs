//! What is started, when, and what is not.

use super::*;

const A: u32 = 5;
const B: u32 = 6;
const C: u32 = 7;
const NOTIFIER: Process = Process::notifier(A);
const WATCHER: Process = Process::watcher(A);

#[test]
fn where_nothing_is_wanted_there_is_no_timer() {
    let mut world = World::new([A]);
    assert_eq!(world.round(), None);
    world.entry(A);
    assert_eq!(world.round(), None);
    assert_eq!(world.acts, []);
}

#[test]
fn a_wish_starts_a_notifier_which_gets_a_watcher() {
    let mut world = World::new([A]);
    world.want(A);
    assert_eq!(world.round(), None);
    let start = Act::Start { process: NOTIFIER, is_probe: false };
    assert_eq!(world.acts, [Act::List, Act::Find(NOTIFIER), start]);
    assert_eq!(world.state(NOTIFIER), State::Starting);
    assert_eq!((world.round(), world.started()), (None, vec![]), "it has not begun");
    world.run(NOTIFIER);
    assert_eq!((world.round(), world.started()), (None, vec![WATCHER]));
    assert_eq!((world.round(), world.started()), (None, vec![]), "it has not begun");
    world.run(WATCHER);
    assert_eq!((world.round(), world.started()), (None, vec![]));
}

#[test]
fn a_wish_that_a_running_notifier_has_heard_starts_nothing() {
    let mut world = settled(A);
    // Of a former launcher: this one knows nothing of it.
    world.launcher = Launcher::new(VecDeque::new());
    world.want(A);
    assert_eq!((world.round(), world.started()), (None, vec![]));
    assert!(!world.entries[&A].is_wanted);
    // If it ends after that, it says so itself.
    world.entry(A).seats.notifier = State::Down;
    assert_eq!((world.round(), world.started()), (None, vec![]));
}

#[test]
fn a_wish_is_kept_while_a_job_waits() {
    let mut world = World::new([A]);
    world.want(A);
    world.round();
    for _ in 0..2 {
        world.end(NOTIFIER, Some(State::Down));
        world.round();
    }
    assert_eq!(world.started(), [], "it waits for its back-off");
    world.want(A);
    assert_eq!(world.round(), Some(50 * MILLISECOND));
    assert!(world.entries[&A].is_wanted, "nobody rings for it once more");
    world.pass(50 * MILLISECOND);
    assert_eq!((world.round(), world.started()), (None, vec![NOTIFIER]));
    assert!(!world.entries[&A].is_wanted);
}

#[test]
fn what_left_for_want_of_work_is_not_started_again() {
    let mut world = settled(A);
    world.end(NOTIFIER, Some(State::None));
    world.end(WATCHER, Some(State::None));
    assert_eq!((world.round(), world.started()), (None, vec![]));
    // Nor later.
    world.pass(100 * SECOND);
    assert_eq!((world.round(), world.started()), (None, vec![]));
    assert!(world.launcher.jobs.is_empty());
}

#[test]
fn a_wish_from_before_it_ran_is_answered_by_running() {
    let mut world = World::new([A]);
    world.want(A);
    world.round();
    world.want(A);
    world.round();
    world.run(NOTIFIER);
    world.round();
    world.end(NOTIFIER, Some(State::None));
    assert_eq!((world.round(), world.started()), (None, vec![]));
}

#[test]
fn a_process_runs_only_once_its_seat_says_so() {
    let mut world = World::new([A]);
    world.want(A);
    world.round();
    world.want(A);
    // It is there, and looks whether there is anything to do.
    world.lives.insert(NOTIFIER, Life::Runs);
    world.round();
    world.end(NOTIFIER, Some(State::None));
    world.round();
    assert_eq!(world.started(), [NOTIFIER], "the wish is still open");
}

#[test]
fn one_whose_place_was_taken_is_not_started_again() {
    let mut world = World::new([A]);
    world.want(A);
    world.round();
    // Another process had its place.
    world.end(NOTIFIER, Some(State::Running));
    world.entry(A).seats.watcher = State::Running;
    assert_eq!((world.round(), world.started()), (None, vec![]));
    assert!(world.launcher.jobs.is_empty());
}

#[test]
fn one_that_runs_already_is_not_started() {
    let mut world = World::new([A]);
    world.want(A);
    world.databases.insert(A, Found::Busy);
    assert_eq!(world.round(), Some(100 * MILLISECOND));
    // A former launcher's has just come up.
    world.databases.insert(A, Found::Here);
    world.entry(A).seats = Seats { notifier: State::Running, watcher: State::Running };
    world.pass(100 * MILLISECOND);
    assert_eq!(world.round(), None);
    assert!(world.lives.is_empty());
    assert!(world.launcher.jobs.is_empty());
}

#[test]
fn the_first_restart_is_at_once_and_then_the_wait_doubles() {
    let mut world = settled(A);
    let mut waits = Vec::new();
    for _ in 0..12 {
        world.end(NOTIFIER, Some(State::Down));
        let limit = world.round();
        waits.push(limit.map(|limit| limit / MILLISECOND));
        if let Some(limit) = limit {
            world.pass(limit - 1);
            assert_eq!(world.round(), Some(1));
            assert_eq!(world.started(), []);
            world.pass(1);
            world.round();
        }
        assert_eq!(world.started(), [NOTIFIER]);
    }
    let expected = [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000];
    assert_eq!(waits[0], None, "somebody may have ended it by hand");
    assert_eq!(waits[1..], expected.map(Some));
}

#[test]
fn one_that_ran_well_has_not_failed_at_its_start() {
    let mut world = settled(A);
    for _ in 0..5 {
        world.end(NOTIFIER, Some(State::Down));
        let limit = world.round().unwrap_or(0);
        world.pass(limit);
        world.round();
    }
    // Five seconds are not enough, and a bit more is.
    world.pass(5 * SECOND);
    world.end(NOTIFIER, Some(State::Down));
    assert_eq!((world.round(), world.started()), (Some(800 * MILLISECOND), vec![]));
    world.pass(800 * MILLISECOND);
    world.round();
    world.pass(5 * SECOND + 1);
    world.end(NOTIFIER, Some(State::Down));
    assert_eq!((world.round(), world.started()), (None, vec![NOTIFIER]));
    world.end(NOTIFIER, Some(State::Down));
    assert_eq!(world.round(), Some(50 * MILLISECOND), "the wait begins from the first");
}

#[test]
fn a_watcher_of_a_former_launcher_is_not_started_again() {
    let mut world = World::new([A]);
    world.entry(A).seats = Seats { notifier: State::Running, watcher: State::Running };
    assert_eq!((world.round(), world.started()), (None, vec![]));
    assert!(world.launcher.jobs.is_empty());
}

/// A former launcher may have ended before the watcher that it started came to its seat, and that one as well.
#[test]
fn a_watcher_that_starts_and_was_not_started_by_this_launcher_is_started() {
    let mut world = World::new([A]);
    world.entry(A).seats = Seats { notifier: State::Running, watcher: State::Starting };
    assert_eq!((world.round(), world.started()), (None, vec![WATCHER]));
    assert_eq!((world.round(), world.started()), (None, vec![]), "once");
    // The former one was only slow: the second finds its seat taken.
    world.entry(A).seats.watcher = State::Running;
    world.end(WATCHER, None);
    assert_eq!((world.round(), world.started()), (None, vec![]));
    assert!(world.launcher.jobs.is_empty());
}

#[test]
fn a_watcher_comes_back_as_long_as_there_is_a_notifier() {
    let mut world = settled(A);
    world.end(WATCHER, Some(State::Down));
    assert_eq!((world.round(), world.started()), (None, vec![WATCHER]));
    // A notifier that is down comes back.
    world.end(NOTIFIER, Some(State::Down));
    world.end(WATCHER, Some(State::Down));
    world.round();
    assert_eq!(world.started(), [NOTIFIER]);
    world.pass(50 * MILLISECOND);
    world.round();
    assert_eq!(world.started(), [WATCHER]);
    // One that has left does not.
    world.end(WATCHER, Some(State::Down));
    world.end(NOTIFIER, Some(State::None));
    assert_eq!((world.round(), world.started()), (None, vec![]), "it would have nothing to watch");
    assert!(world.launcher.jobs.is_empty());
}

#[test]
fn one_that_has_looked_and_has_no_entry_is_done() {
    let mut world = World::with_probes([A], [A]);
    world.round();
    world.end(NOTIFIER, None);
    world.lives.insert(NOTIFIER, Life::Gone { has_looked: true });
    assert_eq!((world.round(), world.started()), (None, vec![]));
    assert!(world.launcher.jobs.is_empty());
}

#[test]
fn a_database_that_is_gone_gives_back_what_it_has() {
    let mut world = settled(A);
    world.databases.remove(&A);
    world.end(NOTIFIER, Some(State::Down));
    world.end(WATCHER, Some(State::Down));
    world.is_locked = true;
    assert_eq!((world.round(), world.started()), (Some(100 * MILLISECOND), vec![]));
    assert!(world.entries.contains_key(&A), "somebody else is in the way");
    world.is_locked = false;
    world.pass(100 * MILLISECOND);
    assert_eq!((world.round(), world.started()), (None, vec![]));
    assert!(world.entries.is_empty());
    assert!(world.launcher.jobs.is_empty());
}

#[test]
fn a_database_that_cannot_be_forgotten_puts_off_only_what_was_due() {
    let mut world = settled(A);
    for _ in 0..5 {
        let limit = world.round().unwrap_or(0);
        world.pass(limit);
        world.round();
        world.end(NOTIFIER, Some(State::Down));
    }
    world.end(WATCHER, Some(State::Down));
    world.databases.remove(&A);
    world.is_locked = true;
    assert_eq!(world.round(), Some(100 * MILLISECOND));
    let due = |process| world.launcher.jobs[&process].due().unwrap() - world.moment;
    assert_eq!((due(NOTIFIER), due(WATCHER)), (400 * MILLISECOND, 100 * MILLISECOND));
}

#[test]
fn a_wish_makes_those_that_are_gone_give_back_what_they_have() {
    let mut world = settled(A);
    // Without processes, and gone; without processes, and there.
    world.entry(B);
    world.entry(C);
    world.databases.insert(C, Found::Here);
    world.round();
    assert!(world.entries.contains_key(&B), "nothing needs the room");
    world.databases.insert(8, Found::Here);
    world.want(8);
    // One that has processes is seen to when these have ended.
    world.databases.remove(&A);
    world.round();
    assert_eq!(world.acts[..2], [Act::List, Act::Forget(B)]);
    assert_eq!(world.entries.keys().copied().collect::<Vec<_>>(), [A, C, 8]);
    // A further wish for the same database is no news.
    world.want(8);
    world.round();
    assert!(!world.has_done(&Act::List));
}

#[test]
fn nothing_waits_for_a_database_that_others_need_room_of() {
    let mut world = World::new([A]);
    world.entry(B);
    world.want(A);
    world.is_locked = true;
    assert_eq!((world.round(), world.started()), (None, vec![NOTIFIER]));
    assert!(world.has_done(&Act::Forget(B)));
    assert!(world.entries.contains_key(&B));
}

#[test]
fn sessions_are_called_whose_watcher_does_not_show_itself() {
    let mut world = settled(A);
    world.entry(A).shows_by = Some(world.moment + 300 * MILLISECOND);
    assert_eq!(world.round(), Some(300 * MILLISECOND));
    assert_eq!(world.acts, []);
    world.pass(300 * MILLISECOND);
    // It has all of its time, and is asked no more often than this.
    assert_eq!(world.round(), Some(MILLISECOND));
    assert_eq!(world.acts, []);
    world.pass(MILLISECOND);
    for _ in 0..3 {
        assert_eq!(world.round(), Some(SECOND));
        assert_eq!(world.acts, [Act::Call(A)]);
        world.pass(SECOND);
    }
    world.entry(A).shows_by = None;
    assert_eq!(world.round(), None);
    assert_eq!(world.acts, []);
}

#[test]
fn the_launcher_sleeps_until_the_first_thing_is_due() {
    let mut world = settled(A);
    settle(&mut world, B);
    for (oid, ends) in [(A, 3), (B, 2)] {
        for _ in 0..ends {
            let limit = world.round().unwrap_or(0);
            world.pass(limit);
            world.round();
            world.end(Process::notifier(oid), Some(State::Down));
        }
    }
    assert_eq!(world.round(), Some(50 * MILLISECOND));
    world.entry(A).shows_by = Some(world.moment + 20 * MILLISECOND);
    assert_eq!(world.round(), Some(20 * MILLISECOND));
}

/// The watcher saw that no notifier was needed. Before it was seen to have ended, there was one again.
#[test]
fn a_watcher_that_left_just_before_the_next_notifier_came_is_started() {
    let mut world = settled(A);
    world.end(NOTIFIER, Some(State::None));
    world.round();
    world.want(A);
    world.round();
    world.run(NOTIFIER);
    world.entry(A).seats.watcher = State::None;
    assert_eq!((world.round(), world.started()), (None, vec![]), "its process is still there");
    world.end(WATCHER, None);
    assert_eq!((world.round(), world.started()), (None, vec![WATCHER]));
    // One that always leaves is started ever later.
    world.end(WATCHER, Some(State::None));
    assert_eq!((world.round(), world.started()), (Some(50 * MILLISECOND), vec![]));
}
