//! Memory that runs out: each allocation fails in turn, and what may not allocate is watched.
//!
//! A failed allocation that nobody asked for ends the process, here as in the server: then this binary does not fail
//! with a message, but by a signal.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::CStr;

use aimq_core::batch::{Batch, Level};
use aimq_core::ids::{IDS_MOST, Ids};
use aimq_core::memory::OutOfMemory;
use aimq_core::payload::{Part, broadcast, encode, event, event_fits};
use aimq_core::route::Route;
use aimq_core::timestamp::Timestamp;
use proptest::prelude::*;

/// The system's allocator, which fails when it is told to.
struct Limited;

thread_local! {
    /// How many allocations succeed before all others fail; `None` for no limit.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    /// How many were asked for, failed ones included.
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

fn may_allocate() -> bool {
    ASKED.set(ASKED.get() + 1);
    match LEFT.get() {
        None => true,
        Some(0) => false,
        Some(left) => {
            LEFT.set(Some(left - 1));
            true
        }
    }
}

// SAFETY: whatever is allocated, the system's allocator allocates; null is how an allocator fails. The thread's cells
// need no allocation and have no destructor.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: handed on as it came.
        if may_allocate() { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: handed on as it came.
        if may_allocate() { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if may_allocate() {
            // SAFETY: handed on as it came.
            unsafe { System.realloc(memory, layout, size) }
        } else {
            std::ptr::null_mut()
        }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: handed on as it came.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// What `work` returns if all but the first `successes` allocations fail.
fn with_limit<T>(successes: usize, work: impl FnOnce() -> T) -> T {
    struct Unlimited;
    impl Drop for Unlimited {
        fn drop(&mut self) {
            LEFT.set(None);
        }
    }
    let _unlimited = Unlimited;
    LEFT.set(Some(successes));
    work()
}

/// What `work` returns, and how many allocations it asked for.
fn counted<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ASKED.get();
    let done = work();
    (done, ASKED.get() - before)
}

/// Does `work` with no allocation succeeding, then one, then two, until it succeeds. Each failure has to be an
/// [`OutOfMemory`], and to leave everything as `seen` saw it before. Returns how often it failed.
fn with_each_failing<S, T, V: PartialEq + std::fmt::Debug>(
    state: &mut S,
    seen: impl Fn(&S) -> V,
    mut work: impl FnMut(&mut S) -> Result<T, OutOfMemory>,
) -> (T, usize) {
    let before = seen(state);
    for successes in 0.. {
        match with_limit(successes, || work(state)) {
            Ok(done) => return (done, successes),
            Err(OutOfMemory) => assert_eq!(seen(state), before, "after {successes} allocations"),
        }
    }
    unreachable!("some number of allocations is enough")
}

const QUEUES: [&CStr; 6] = [c"a", c"b", c"c", c"a longer name of a queue", c"e", c"f"];

fn route(queue: usize) -> Route<'static> {
    Route { options: c"ids", ..Route::new(c"aimq:jobs", c"job_enqueued", QUEUES[queue]) }
}

/// What a transaction may do; the first number names one of the queues.
#[derive(Clone, Debug)]
enum Step {
    Savepoint,
    Release,
    RollBack { had_written: bool },
    Enqueue { queue: usize, at: i64, ids: usize },
    Moved { queue: usize, from: i64 },
    Taken { queue: usize },
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    let queue = || 0..QUEUES.len();
    prop_oneof![
        4 => Just(Step::Savepoint),
        3 => Just(Step::Release),
        3 => any::<bool>().prop_map(|had_written| Step::RollBack { had_written }),
        8 => (queue(), 0..9_i64, 0..20_usize)
            .prop_map(|(queue, at, ids)| Step::Enqueue { queue, at: at.max(3), ids }),
        3 => (queue(), 0..9_i64).prop_map(|(queue, from)| Step::Moved { queue, from }),
        3 => queue().prop_map(|queue| Step::Taken { queue }),
        1 => Just(Step::Clear),
    ]
}

/// What happened to a queue, one by one.
#[derive(Clone, Copy, Debug)]
enum What {
    Message { at: i64, id: i64 },
    Moved { from: i64 },
    Taken,
}

/// What is said of a queue: count, earliest, moved, taken, whether ids are left out, and the ids in their order.
type Said = (u64, i64, i64, bool, bool, Vec<i64>);

/// A batch that keeps everything.
#[derive(Default)]
struct Model(Vec<(Level, usize, What)>);

impl Model {
    fn release(&mut self, level: Level) {
        self.0.iter_mut().for_each(|(of, _, _)| *of = (*of).min(level - 1));
    }

    fn roll_back(&mut self, level: Level, had_written: bool) {
        let gone: Vec<_> = self.0.extract_if(.., |(of, _, _)| *of >= level).collect();
        let gone = gone.iter().filter(|(_, _, what)| !matches!(what, What::Message { .. }));
        for (_, queue, _) in gone.filter(|_| had_written) {
            self.0.push((level - 1, *queue, What::Moved { from: i64::MIN }));
        }
    }

    fn said(&self) -> BTreeMap<usize, Said> {
        let mut all: BTreeMap<usize, Said> = BTreeMap::new();
        // By level: a savepoint's ids come behind those of the level around it.
        let mut told = self.0.clone();
        told.sort_by_key(|(level, _, _)| *level);
        for (_, queue, what) in told {
            let said =
                all.entry(queue).or_insert((0, i64::MAX, i64::MAX, false, false, Vec::new()));
            match what {
                What::Message { at, id } => {
                    (said.0, said.1) = (said.0 + 1, said.1.min(at));
                    match said.5.len() {
                        // Which ones are left out depends on how the savepoints were released.
                        IDS_MOST => said.4 = true,
                        _ if id != 0 => said.5.push(id),
                        _ => {}
                    }
                }
                What::Moved { from } => said.2 = said.2.min(from),
                What::Taken => said.3 = true,
            }
        }
        all
    }
}

fn said(batch: &Batch) -> BTreeMap<usize, Said> {
    let all = batch.tallies().map(Result::unwrap);
    all.map(|(route, it)| {
        let queue = QUEUES.iter().position(|queue| *queue == route.queue).unwrap();
        let ids = it.ids.unwrap_or_default();
        (queue, (it.count, it.earliest.0, it.moved.0, it.taken, ids.more, ids.some))
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_batch_survives_every_failure_and_its_ends_allocate_nothing(
        steps in prop::collection::vec(step(), 0..80),
    ) {
        let (mut batch, mut model) = (Batch::new(), Model::default());
        let (mut level, mut id) = (1, 0);
        for step in steps {
            let mut note = |queue, what| model.0.push((level, queue, what));
            match step {
                Step::Savepoint => level += 1,
                Step::Release | Step::RollBack { .. } if level == 1 => {}
                Step::Release => {
                    prop_assert_eq!(counted(|| batch.release(level)), ((), 0));
                    model.release(level);
                    level -= 1;
                }
                Step::RollBack { had_written } => {
                    prop_assert_eq!(counted(|| batch.roll_back(level, had_written)), ((), 0));
                    model.roll_back(level, had_written);
                    level -= 1;
                }
                Step::Enqueue { queue, at, ids } => {
                    for _ in 0..=ids {
                        // As the trigger does: what is visible already counts as of old.
                        let at = if at == 3 { i64::MIN } else { at };
                        with_each_failing(&mut batch, said, |batch| {
                            match batch.record_another(level, route(queue)) {
                                true => Ok(()),
                                false => batch.record(level, route(queue), Timestamp(at)),
                            }
                        });
                        id += 1;
                        with_each_failing(&mut batch, said, |batch| batch.record_id(id));
                        note(queue, What::Message { at, id });
                    }
                }
                Step::Moved { queue, from } => {
                    with_each_failing(&mut batch, said, |batch| {
                        batch.record_moved(level, route(queue), Timestamp(from))
                    });
                    note(queue, What::Moved { from });
                }
                Step::Taken { queue } => {
                    with_each_failing(&mut batch, said, |batch| {
                        batch.record_taken(level, route(queue))
                    });
                    note(queue, What::Taken);
                }
                Step::Clear => {
                    prop_assert_eq!(counted(|| batch.clear()), ((), 0));
                    (model, level) = (Model::default(), 1);
                }
            }
            let (mut told, mut expected) = (said(&batch), model.said());
            for it in told.values_mut().chain(expected.values_mut()).filter(|it| it.4) {
                it.5.clear();
            }
            prop_assert_eq!(told, expected);
            prop_assert_eq!(batch.is_empty(), model.0.is_empty());
            // As an abort goes through them.
            let mut back = [false; QUEUES.len()];
            let (_, asked) = counted(|| {
                for key in batch.may_come_back() {
                    let route = Route::from_key(key).unwrap();
                    back[QUEUES.iter().position(|queue| *queue == route.queue).unwrap()] = true;
                }
            });
            prop_assert_eq!(asked, 0);
            for (queue, back) in back.into_iter().enumerate() {
                let may = |it: &Said| it.2 < i64::MAX || it.3;
                prop_assert_eq!(back, model.said().get(&queue).is_some_and(may));
            }
        }
    }
}

#[test]
fn a_giant_gives_its_room_back_without_asking_for_any() {
    let mut batch = Batch::new();
    let names: Vec<_> =
        (0..1000).map(|n| std::ffi::CString::new(format!("q{n}")).unwrap()).collect();
    let mut failures = 0;
    for (at, name) in names.iter().enumerate() {
        let of = |batch: &Batch| (at % 100 == 0).then(|| batch.tallies().count());
        let route = Route::new(c"c", c"e", name);
        let note = |batch: &mut Batch| batch.record(2, route, Timestamp(5));
        failures += with_each_failing(&mut batch, of, note).1;
    }
    assert!(failures > 2000, "a key and a list for each, and now and then the table: {failures}");
    assert_eq!(counted(|| batch.release(2)), ((), 0));
    assert_eq!(batch.tallies().count(), 1000);
    assert_eq!(counted(|| batch.clear()), ((), 0));
    assert!(batch.is_empty());
}

/// Two channels, all events, ids, savepoints; with so much to say that the payloads have to be made again.
fn talkative(names: &[std::ffi::CString]) -> Batch {
    let mut batch = Batch::new();
    for (at, name) in names.iter().enumerate() {
        let channel = [c"one", c"two"][at % 2];
        for event in [c"job_enqueued", event::DELETED, event::ARCHIVED] {
            let route = Route { options: c"ids", ..Route::new(channel, event, name) };
            for number in 0..40 {
                batch.record(1 + number / 25, route, Timestamp(7)).unwrap();
                batch.record_id(i64::MAX - i64::from(number)).unwrap();
            }
        }
    }
    batch
}

#[test]
fn what_cannot_be_encoded_is_an_error() {
    let name = |n| std::ffi::CString::new(format!("queue{n}")).unwrap();
    for count in [1, 5, 100] {
        let names: Vec<_> = (0..count).map(name).collect();
        let mut batch = talkative(&names);
        let expected = format!("{:?}", batch.notifications(Timestamp(0)).unwrap());
        let said = |batch: &mut Batch| {
            // To show it takes memory too.
            let all = batch.notifications(Timestamp(0))?;
            LEFT.set(None);
            Ok(format!("{all:?}"))
        };
        let (told, failures) = with_each_failing(&mut batch, |_| (), said);
        assert_eq!(told, expected);
        assert!(failures > 10, "{failures}");
        let tallies = |batch: &mut Batch| batch.tallies().try_for_each(|it| it.map(|_| ()));
        let ((), failures) = with_each_failing(&mut batch, |_| (), tallies);
        assert!(failures > count, "{failures}");
    }
}

#[test]
fn what_is_said_of_one_queue_can_fail_too() {
    let latin1 = std::ffi::CString::new(vec![b'q', 0xe9]).unwrap();
    let ids = Ids::one(7);
    for queue in [c"q", &latin1] {
        let part = Part { queue, count: 2, visible_at: Some(Timestamp(5)), ids: Some(&ids) };
        let long = "e".repeat(300);
        let event = std::ffi::CString::new(long.as_str()).unwrap();
        let (told, failures) =
            with_each_failing(&mut (), |()| (), |()| encode(&event, &[(part, true)]));
        assert!(told.contains(&long) && failures > 1, "{failures}: {told}");
        let (told, failures) = with_each_failing(&mut (), |()| (), |()| broadcast(&part, true));
        assert!(told.contains(r#""job_id":7"#) && failures > 0, "{failures}: {told}");
        let (fits, failures) = with_each_failing(&mut (), |()| (), |()| event_fits(&long));
        assert!(fits && failures > 0, "{failures}");
    }
}

#[test]
fn a_key_is_written_whole_or_not_at_all() {
    let mut key = b"before".to_vec();
    let (_, failures) = with_each_failing(&mut key, Vec::clone, |key| route(3).try_append_key(key));
    assert!(failures > 0 && key.ends_with(&route(3).key()));
}

#[test]
fn what_is_moved_survives_every_failure_and_the_ends_of_savepoints_allocate_nothing() {
    let deleted = Route { event: event::DELETED, ..route(0) };
    let mut batch = Batch::new();
    for level in 1..5 {
        for id in 0..40 {
            let id = i64::from(level * 100 + id);
            with_each_failing(&mut batch, |_| (), |batch| batch.record_out(level, deleted, id));
            let back = |batch: &mut Batch| batch.record_in(level, route(0), event::DELETED, id);
            with_each_failing(&mut batch, |_| (), back);
        }
    }
    assert_eq!(counted(|| batch.roll_back(4, true)), ((), 0));
    assert_eq!(counted(|| batch.release(3)), ((), 0));
    assert_eq!(counted(|| batch.release(2)), ((), 0));
    with_each_failing(
        &mut batch,
        |_| (),
        |batch| batch.tallies().try_for_each(|told| told.map(drop)),
    );
    assert_eq!(counted(|| batch.clear()), ((), 0));
}
