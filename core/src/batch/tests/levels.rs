//! What savepoints within savepoints hand on, route by route.

use super::*;

const VISIBLE: Timestamp = Timestamp::NEG_INFINITY;

/// Each tally has its entry in the journal, by rising level, and a route has one tally at most for each level.
fn assert_sound(batch: &Batch, deepest: Level) {
    assert!(batch.journal.is_sorted_by_key(|(level, _)| *level), "{:?}", batch.journal);
    let mut journal = batch.journal.clone();
    let lists = batch.routes.values().enumerate();
    let mut tallies: Vec<_> =
        lists.flat_map(|(at, list)| list.iter().map(move |(level, _)| (*level, at))).collect();
    journal.sort_unstable();
    tallies.sort_unstable();
    assert_eq!(journal, tallies);
    assert!(tallies.windows(2).all(|two| two[0] != two[1]), "twice: {tallies:?}");
    assert!(tallies.iter().all(|(level, _)| *level <= deepest), "deeper than {deepest}");
}

/// Of each route: its queue, how many messages there are, and whether others come back.
fn said(batch: &Batch) -> Vec<(&CStr, u64, bool)> {
    let tallies = batch.tallies().map(Result::unwrap);
    tallies.map(|(route, it)| (route.queue, it.count, it.moved < Timestamp::INFINITY)).collect()
}

/// The levels at which something is known of a queue.
fn levels(batch: &Batch, queue: &CStr) -> Vec<Level> {
    let list = batch.routes.get(&KeyOf(route(queue))).unwrap();
    list.iter().map(|(level, _)| *level).collect()
}

/// Messages on three queues at three levels, and reads at the deepest.
fn nested() -> Batch {
    let mut batch = Batch::default();
    batch.record(1, route(c"a"), VISIBLE).unwrap();
    batch.record(2, route(c"b"), VISIBLE).unwrap();
    for queue in [c"a", c"b", c"c"] {
        batch.record(3, route(queue), VISIBLE).unwrap();
        batch.record_taken(3, route(queue)).unwrap();
    }
    assert_sound(&batch, 3);
    batch
}

#[test]
fn what_is_released_joins_the_level_around_it() {
    let mut batch = nested();
    batch.release(3);
    assert_sound(&batch, 2);
    assert_eq!(
        [c"a", c"b", c"c"].map(|queue| levels(&batch, queue)),
        [vec![1, 2], vec![2], vec![2]]
    );
    batch.release(2);
    assert_sound(&batch, 1);
    assert_eq!(said(&batch), [(c"a", 2, false), (c"b", 2, false), (c"c", 1, false)]);
    assert_eq!(batch.may_come_back().count(), 3);
}

#[test]
fn what_is_rolled_back_comes_back_to_the_level_around_it() {
    let mut batch = nested();
    batch.roll_back(3, true);
    assert_sound(&batch, 2);
    assert_eq!(
        [c"a", c"b", c"c"].map(|queue| levels(&batch, queue)),
        [vec![1, 2], vec![2], vec![2]]
    );
    assert_eq!(said(&batch), [(c"a", 1, true), (c"b", 1, true), (c"c", 0, true)]);
    batch.roll_back(2, true);
    assert_sound(&batch, 1);
    assert_eq!(said(&batch), [(c"a", 1, true), (c"b", 0, true), (c"c", 0, true)]);
}

#[test]
fn a_savepoint_that_has_written_nothing_leaves_nothing() {
    let mut batch = nested();
    batch.roll_back(3, false);
    assert_sound(&batch, 2);
    assert_eq!(said(&batch), [(c"a", 1, false), (c"b", 1, false)]);
}
