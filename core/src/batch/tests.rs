//! The batch against a model that keeps every message with its level, plus the cases by name.

mod levels;

use std::ffi::CStr;

use super::*;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn route(queue: &CStr) -> Route<'_> {
    Route::new(c"aimq:jobs", c"job_enqueued", queue)
}

fn counts(batch: &Batch) -> Vec<(String, u64)> {
    let mut counts: Vec<_> = batch
        .tallies()
        .map(Result::unwrap)
        .map(|(route, tally)| (route.queue.to_str().unwrap().to_owned(), tally.count))
        .collect();
    counts.sort();
    counts
}

#[test]
fn a_rolled_back_savepoint_leaves_nothing_and_hides_nothing() {
    let mut batch = Batch::default();
    batch.record(2, route(c"a"), NOW).unwrap();
    batch.roll_back(2, true);
    assert!(batch.is_empty());
    assert!(batch.notifications(NOW).unwrap().is_empty());
    // The hazard: a mark that survives the rollback would swallow this one.
    batch.record(1, route(c"a"), NOW).unwrap();
    assert_eq!(counts(&batch), [("a".into(), 1)]);
}

#[test]
fn a_released_savepoint_is_rolled_back_with_the_one_around_it() {
    let mut batch = Batch::default();
    batch.record(1, route(c"a"), NOW).unwrap();
    batch.record(3, route(c"a"), NOW).unwrap();
    batch.record(3, route(c"b"), NOW).unwrap();
    batch.release(3);
    batch.record(2, route(c"a"), NOW).unwrap();
    assert_eq!(counts(&batch), [("a".into(), 3), ("b".into(), 1)]);
    batch.roll_back(2, true);
    assert_eq!(counts(&batch), [("a".into(), 1)]);
}

#[test]
fn one_notification_for_each_channel_and_event() {
    let mut batch = Batch::default();
    let mut say =
        |channel, event, queue| batch.record(1, Route::new(channel, event, queue), NOW).unwrap();
    say(c"one", c"e", c"a");
    say(c"two", c"e", c"b");
    say(c"one", c"e", c"c");
    say(c"one", c"other", c"d");
    let sent: Vec<_> = batch
        .notifications(NOW)
        .unwrap()
        .into_iter()
        .map(|n| (n.channel.to_owned(), n.payload))
        .collect();
    assert_eq!(
        sent,
        [
            (c"one".into(), r#"{"event":"e","queues":{"a":{"count":1},"c":{"count":1}}}"#.into()),
            (c"two".into(), r#"{"event":"e","queues":{"b":{"count":1}}}"#.into()),
            (c"one".into(), r#"{"event":"other","queues":{"d":{"count":1}}}"#.into()),
        ]
    );
}

#[test]
fn the_visibility_time_is_said_only_if_nothing_is_visible_yet() {
    let mut batch = Batch::default();
    batch.record(1, route(c"later"), Timestamp(NOW.0 + 5000)).unwrap();
    batch.record(1, route(c"later"), Timestamp(NOW.0 + 2000)).unwrap();
    batch.record(1, route(c"mixed"), Timestamp(NOW.0 + 2000)).unwrap();
    batch.record(1, route(c"mixed"), NOW).unwrap();
    assert_eq!(
        batch.notifications(NOW).unwrap()[0].payload,
        r#"{"event":"job_enqueued","queues":{"later":{"count":2,"visible_at":"2000-01-01T00:00:01.002Z"},"mixed":{"count":2}}}"#
    );
}

#[test]
fn names_that_run_together_are_not_confused() {
    let mut batch = Batch::default();
    batch.record(1, Route::new(c"ab", c"c", c"d"), NOW).unwrap();
    batch.record(1, Route::new(c"a", c"bc", c"d"), NOW).unwrap();
    batch.record(1, Route::new(c"a", c"b", c"cd"), NOW).unwrap();
    assert_eq!(batch.tallies().count(), 3);
}

#[test]
fn another_message_is_counted_only_where_others_are_visible_already() {
    let mut batch = Batch::default();
    assert!(!batch.record_another(1, route(c"a")), "nothing is there yet");
    batch.record(1, route(c"a"), NOW).unwrap();
    assert!(!batch.record_another(1, route(c"a")), "its time could matter");
    batch.record(1, route(c"a"), Timestamp::NEG_INFINITY).unwrap();
    assert!(batch.record_another(1, route(c"a")));
    assert!(!batch.record_another(2, route(c"a")), "another savepoint");
    assert!(!batch.record_another(1, route(c"b")), "another queue");
    assert_eq!(counts(&batch), [("a".into(), 3)]);
    batch.roll_back(1, true);
    assert!(!batch.record_another(1, route(c"a")));
    batch.clear();
    assert!(!batch.record_another(1, route(c"a")));
}

#[test]
fn clear_forgets_and_gives_back_the_room_of_a_giant() {
    let mut batch = Batch::default();
    for n in 0..10_000 {
        let queue = std::ffi::CString::new(format!("q{n}")).unwrap();
        batch.record(1, route(&queue), NOW).unwrap();
    }
    assert_eq!(batch.tallies().count(), 10_000);
    batch.clear();
    assert!(batch.is_empty());
    assert!(batch.routes.capacity() <= KEPT_ROUTES);
    batch.record(1, route(c"a"), NOW).unwrap();
    assert_eq!(counts(&batch), [("a".into(), 1)]);
}

#[test]
fn ids_follow_savepoints() {
    let mut batch = Batch::default();
    let record = |batch: &mut Batch, level, id| {
        batch.record(level, route(c"a"), NOW).unwrap();
        batch.record_id(id).unwrap();
    };
    record(&mut batch, 1, 1);
    record(&mut batch, 2, 2);
    batch.release(2);
    record(&mut batch, 2, 3);
    batch.roll_back(2, true);
    let (_, tally) = batch.tallies().next().unwrap().unwrap();
    let ids = tally.ids.unwrap();
    assert_eq!((ids.some, ids.more), (vec![1, 2], false));
    batch.record_unknown_id().unwrap();
    let (_, tally) = batch.tallies().next().unwrap().unwrap();
    assert!(tally.ids.unwrap().more, "one is not known");
}

#[test]
fn an_id_that_is_not_known_is_more_than_none() {
    let mut batch = Batch::default();
    batch.record(1, route(c"a"), NOW).unwrap();
    batch.record_unknown_id().unwrap();
    let (_, tally) = batch.tallies().next().unwrap().unwrap();
    assert_eq!(tally.ids, Some(Ids { more: true, ..Ids::default() }));
}

#[test]
fn a_message_of_unknown_time_is_a_message() {
    let mut batch = Batch::default();
    batch.record_unknown(1, route(c"a")).unwrap();
    assert!(batch.has_messages() && batch.has_news());
    let (_, tally) = batch.tallies().next().unwrap().unwrap();
    let known = (tally.count, tally.earliest, tally.is_unsure);
    assert_eq!(known, (1, Timestamp::NEG_INFINITY, true));
    batch.record_unknown(1, route(c"a")).unwrap();
    batch.record_unknown(2, route(c"a")).unwrap();
    let (_, tally) = batch.tallies().next().unwrap().unwrap();
    assert_eq!((tally.count, tally.is_unsure), (3, true));
}

/// What happens to messages that were there before says nothing of those that are enqueued.
#[test]
fn what_is_taken_twice_beside_a_message_comes_back() {
    let mut batch = Batch::default();
    batch.record(1, route(c"a"), Timestamp::NEG_INFINITY).unwrap();
    for level in [1, 1, 2] {
        batch.record_taken(level, route(c"a")).unwrap();
    }
    let (_, tally) = batch.tallies().next().unwrap().unwrap();
    assert_eq!((tally.count, tally.is_unsure), (1, false));
    assert!(tally.taken && tally.may_come_back());
    assert_eq!(tally.moved, Timestamp::INFINITY);
    assert_eq!(batch.may_come_back().count(), 1);
    batch.record_moved(2, route(c"b"), Timestamp(5)).unwrap();
    assert_eq!(batch.may_come_back().count(), 2);
    batch.roll_back(2, false);
    assert_eq!(batch.may_come_back().count(), 1, "the savepoint had written nothing");
}

/// What is known of two messages together, whichever came first, and whether a savepoint lies between them.
#[test]
fn of_two_messages_the_earlier_time_is_known() {
    const VISIBLE: Timestamp = Timestamp::NEG_INFINITY;
    const SOON: Timestamp = Timestamp(NOW.0 + 1);
    const LATER: Timestamp = Timestamp(NOW.0 + 2);
    for (one, two, earliest, is_unsure) in [
        (VISIBLE, VISIBLE, VISIBLE, false),
        (VISIBLE, LATER, VISIBLE, true),
        (LATER, VISIBLE, VISIBLE, true),
        (SOON, LATER, SOON, false),
        (LATER, SOON, SOON, false),
    ] {
        for level in [1, 2] {
            let mut batch = Batch::default();
            batch.record(1, route(c"a"), one).unwrap();
            batch.record(level, route(c"a"), two).unwrap();
            let (_, tally) = batch.tallies().next().unwrap().unwrap();
            assert_eq!((tally.count, tally.earliest, tally.is_unsure), (2, earliest, is_unsure));
        }
    }
}

/// What a transaction may do. `Enqueue` names one of four queues.
#[derive(Clone, Debug)]
enum Step {
    Savepoint,
    Release,
    RollBack,
    Enqueue(u8, i64),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Savepoint),
        2 => Just(Step::Release),
        2 => Just(Step::RollBack),
        8 => (0..4_u8, 0..2_000_000_i64).prop_map(|(queue, at)| Step::Enqueue(queue, at)),
        1 => Just(Step::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn agrees_with_a_list_of_messages(steps in prop::collection::vec(step(), 0..80)) {
        let queues = [c"a", c"b", c"c", c"d"];
        let mut batch = Batch::default();
        let mut model: Vec<(Level, u8, i64)> = Vec::new();
        let mut level: Level = 1;
        for step in steps {
            match step {
                Step::Savepoint => level += 1,
                Step::Release if level > 1 => {
                    batch.release(level);
                    level -= 1;
                    for message in &mut model {
                        message.0 = message.0.min(level);
                    }
                }
                Step::RollBack if level > 1 => {
                    batch.roll_back(level, true);
                    model.retain(|message| message.0 < level);
                    level -= 1;
                }
                Step::Release | Step::RollBack => {}
                Step::Enqueue(queue, at) => {
                    // As the trigger does: what is visible already counts as of old.
                    let at = if at < 1_000_000 { i64::MIN } else { at };
                    let name = queues[usize::from(queue)];
                    if !batch.record_another(level, route(name)) {
                        batch.record(level, route(name), Timestamp(at)).unwrap();
                    }
                    model.push((level, queue, at));
                }
                Step::Clear => {
                    batch.clear();
                    model.clear();
                    level = 1;
                }
            }
            prop_assert_eq!(batch.is_empty(), model.is_empty());
            for (number, queue) in queues.iter().enumerate() {
                let mine = || model.iter().filter(|message| usize::from(message.1) == number);
                let said = batch.tallies().map(Result::unwrap).find(|(route, _)| route.queue == *queue).map(|(_, t)| t);
                prop_assert_eq!(said.as_ref().map_or(0, |t| t.count), mine().count() as u64);
                prop_assert_eq!(said.map(|t| t.earliest.0), mine().map(|message| message.2).min());
            }
        }
    }
}

#[test]
fn what_was_read_is_no_message() {
    let mut batch = Batch::default();
    batch.record_moved(1, route(c"q"), Timestamp(5)).unwrap();
    batch.record_taken(1, route(c"r")).unwrap();
    assert!(!batch.is_empty() && batch.has_news() && !batch.has_messages());
    assert_eq!(batch.notifications(Timestamp(9)).unwrap(), []);
    batch.record(1, route(c"q"), Timestamp(20)).unwrap();
    batch.record_moved(1, route(c"q"), Timestamp(3)).unwrap();
    let (_, tally) = batch.tallies().next().unwrap().unwrap();
    assert_eq!((tally.count, tally.earliest, tally.moved), (1, Timestamp(20), Timestamp(3)));
    assert!(!tally.is_unsure, "one time is known");
    assert_eq!(batch.notifications(Timestamp(9)).unwrap().len(), 1);
}

#[test]
fn what_a_savepoint_took_comes_back_with_its_rollback() {
    let mut batch = Batch::default();
    batch.record_taken(3, route(c"q")).unwrap();
    assert!(!batch.has_news(), "gone for good, so far");
    batch.release(3);
    batch.roll_back(2, true);
    let (_, tally) = batch.tallies().next().unwrap().unwrap();
    assert_eq!((tally.count, tally.moved), (0, Timestamp::NEG_INFINITY));
    assert!(batch.has_news());
    batch.record(2, route(c"q"), Timestamp::NEG_INFINITY).unwrap();
    batch.roll_back(2, true);
    assert!(batch.has_news() && !batch.has_messages());
}

/// Archiving deletes from the queue; with savepoints, and beside what is deleted for good.
#[test]
fn what_is_archived_is_not_deleted() {
    let archived = Route { options: c"ids", ..Route::new(c"c", event::ARCHIVED, c"q") };
    let deleted = Route { event: event::DELETED, ..archived };
    let mut batch = Batch::default();
    let archive = |batch: &mut Batch, level, id| {
        for route in [deleted, archived] {
            batch.record(level, route, NOW).unwrap();
            batch.record_id(id).unwrap();
        }
    };
    archive(&mut batch, 1, 1);
    batch.record(2, deleted, NOW).unwrap();
    batch.record_id(2).unwrap();
    archive(&mut batch, 2, 3);
    batch.release(2);
    archive(&mut batch, 2, 4);
    batch.roll_back(2, true);
    let said: Vec<_> = batch
        .tallies()
        .map(Result::unwrap)
        .map(|(_, it)| (it.count, it.ids.unwrap().some))
        .collect();
    assert_eq!(said, [(1, vec![2]), (2, vec![1, 3])]);
    let all = batch.notifications(NOW).unwrap();
    let payloads: Vec<_> = all.iter().map(|it| it.payload.as_str()).collect();
    assert_eq!(
        payloads,
        [
            r#"{"event":"job_archived","queues":{"q":{"count":2,"ids":[1,3]}}}"#,
            r#"{"event":"job_deleted","queues":{"q":{"count":1,"ids":[2]}}}"#
        ]
    );
}

/// What a transaction does to a queue that has the messages 1 to [`OLD`].
#[derive(Clone, Debug)]
enum Move {
    /// The number among those that are there, or that are gone.
    TakeOut(usize),
    PutBack(usize),
    Send,
    Savepoint,
    Release,
    RollBack,
}

const OLD: i64 = 60;

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        8 => (0..100_usize).prop_map(Move::TakeOut),
        8 => (0..100_usize).prop_map(Move::PutBack),
        2 => Just(Move::Send),
        1 => Just(Move::Savepoint),
        1 => Just(Move::Release),
        1 => Just(Move::RollBack),
    ];
    prop::collection::vec(one, 0..200)
}

/// Ids of what is there, and of what was taken out.
type Rows = (Vec<i64>, Vec<i64>);

fn put_in(batch: &mut Batch, level: Level, enqueued: Route<'_>, id: i64) {
    batch.record(level, enqueued, NOW).unwrap();
    batch.record_id(id).unwrap();
    if batch.has_out() {
        batch.record_in(level, enqueued, event::DELETED, id).unwrap();
    }
}

proptest! {
    /// Whatever is moved: what is gone is told, what is there is not told as gone, nothing that was there before is
    /// told as new, and whatever was put in is announced or looked at.
    #[test]
    fn moves_are_told_as_what_they_come_to(all in moves()) {
        let (enqueued, deleted) = (route(c"a"), Route { event: event::DELETED, ..route(c"a") });
        let mut batch = Batch::default();
        let mut rows: Rows = ((1..=OLD).collect(), Vec::new());
        // Of each savepoint what there was, and what had been put in.
        let mut saved: Vec<(Rows, Vec<i64>)> = Vec::new();
        let (mut put, mut next) = (Vec::new(), OLD);
        for one in all {
            let level = saved.len() as Level + 1;
            match one {
                Move::TakeOut(at) if !rows.0.is_empty() => {
                    let id = rows.0.remove(at % rows.0.len());
                    batch.record(level, deleted, NOW).unwrap();
                    batch.record_id(id).unwrap();
                    batch.record_out(level, deleted, id).unwrap();
                    rows.1.push(id);
                }
                Move::PutBack(at) if !rows.1.is_empty() => {
                    let id = rows.1.remove(at % rows.1.len());
                    put_in(&mut batch, level, enqueued, id);
                    (rows.0.push(id), put.push(id)).0
                }
                Move::Send => {
                    next += 1;
                    put_in(&mut batch, level, enqueued, next);
                    (rows.0.push(next), put.push(next)).0
                }
                Move::Savepoint => saved.push((rows.clone(), put.clone())),
                Move::Release if !saved.is_empty() => {
                    batch.release(level);
                    saved.pop();
                }
                Move::RollBack if !saved.is_empty() => {
                    batch.roll_back(level, true);
                    (rows, put) = saved.pop().unwrap();
                }
                _ => {}
            }
        }
        let all: Vec<_> = batch.tallies().map(Result::unwrap).collect();
        let told = |event| all.iter().find(|(route, _)| route.event == event).map(|(_, it)| it);
        let ids = |it: &Tally| it.ids.clone().unwrap_or_default();
        let there = rows.0;
        if (1..=OLD).any(|id| !there.contains(&id)) {
            prop_assert!(told(event::DELETED).is_some_and(|it| it.count > 0));
        }
        if let Some(gone) = told(event::DELETED) {
            let said = ids(gone);
            prop_assert!(said.some.iter().all(|id| !there.contains(id)), "{gone:?}");
            prop_assert!(gone.count == 0 || said.more || said.some.len() as u64 == gone.count);
        }
        if there.iter().any(|id| put.contains(id)) {
            let it = told(enqueued.event).unwrap();
            prop_assert!(it.count > 0 || it.moved == Timestamp::NEG_INFINITY, "{it:?}");
        }
        if let Some(new) = told(enqueued.event) {
            prop_assert!(ids(new).some.iter().all(|id| *id > OLD), "{new:?}");
        }
    }
}

#[test]
fn a_batch_that_was_used_before_is_as_a_new_one() {
    let [first, second] = [c"first", c"second"].map(|queue| Route::new(c"jobs", c"", queue));
    let mut batch = Batch::new();
    let mut savepoints = 0;
    // One route stays in its place, with room for some savepoints but not for any number.
    for routes in [&[first][..], &[first], &[second, first], &[first], &[second]] {
        for level in 1..=1 + savepoints {
            for route in routes {
                batch.record(level, *route, Timestamp::NEG_INFINITY).expect("memory");
                batch.record_another(level, *route);
            }
        }
        let said: Vec<_> =
            batch.tallies().map(Result::unwrap).map(|(it, of)| (it, of.count)).collect();
        let told = u64::from(2 * (1 + savepoints));
        assert_eq!(said, routes.iter().map(|route| (*route, told)).collect::<Vec<_>>());
        batch.clear();
        assert!(batch.is_empty() && !batch.has_news() && batch.may_come_back().next().is_none());
        assert_eq!(batch.tallies().count(), 0);
        savepoints = if savepoints == 0 { 100 } else { 0 };
    }
}
