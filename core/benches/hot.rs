//! What one call of each part of the hot path takes: for a look before and after a change, on the same machine. It
//! asserts nothing. `cargo bench -p aimq-core` runs it; a name behind `--` chooses a part.

use std::ffi::{CStr, CString};
use std::hint::black_box;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU32;

use aimq_core::batch::{Batch, Level};
use aimq_core::ids::Ids;
use aimq_core::payload::{self, Part};
use aimq_core::route::Route;
use aimq_core::shared::{Claim, Database, Marked, Slot, Slots};
use aimq_core::timestamp::Timestamp;
use divan::Bencher;
use divan::counter::ItemsCount;

/// The rows of one statement.
const ROWS: usize = 1000;
const QUEUES: [usize; 3] = [1, 30, 1000];
const VISIBLE: Timestamp = Timestamp::NEG_INFINITY;

fn main() {
    divan::main();
}

fn names(queues: usize) -> Vec<CString> {
    (0..queues).map(|n| CString::new(format!("queue_{n}")).expect("no NUL")).collect()
}

fn route(queue: &CStr) -> Route<'_> {
    Route::new(c"aimq:jobs", c"job_enqueued", queue).of(16_384)
}

fn record(batch: &mut Batch, level: Level, route: Route<'_>) {
    batch.record(level, route, VISIBLE).expect("memory");
}

/// What a transaction enqueues, by rows.
mod batch {
    use super::*;

    #[divan::bench(counters = [ItemsCount::new(ROWS)])]
    fn record_another_of_the_same_route(bencher: Bencher) {
        let mut batch = Batch::new();
        let route = route(c"queue");
        bencher.bench_local(|| {
            record(&mut batch, 1, route);
            for _ in 1..ROWS {
                black_box(batch.record_another(1, black_box(route)));
            }
            batch.clear();
        });
    }

    #[divan::bench(args = QUEUES, counters = [ItemsCount::new(ROWS)])]
    fn record_many_routes_in_turn(bencher: Bencher, queues: usize) {
        let names = names(queues);
        let mut batch = Batch::new();
        bencher.bench_local(|| {
            for name in names.iter().cycle().take(ROWS) {
                record(&mut batch, 1, black_box(route(name)));
            }
            batch.clear();
        });
    }

    /// A savepoint with a row for each of so many queues, inside a transaction that knows them.
    fn in_savepoints(bencher: Bencher<'_, '_>, queues: usize, end: impl Fn(&mut Batch)) {
        let names = names(queues);
        let mut batch = Batch::new();
        names.iter().for_each(|name| record(&mut batch, 1, route(name)));
        bencher.counter(ItemsCount::new(queues)).bench_local(|| {
            names.iter().for_each(|name| record(&mut batch, 2, black_box(route(name))));
            end(&mut batch);
        });
    }

    #[divan::bench(args = QUEUES)]
    fn savepoint_released(bencher: Bencher, queues: usize) {
        in_savepoints(bencher, queues, |batch| batch.release(2));
    }

    #[divan::bench(args = QUEUES)]
    fn savepoint_rolled_back(bencher: Bencher, queues: usize) {
        in_savepoints(bencher, queues, |batch| batch.roll_back(2, true));
    }

    #[divan::bench]
    fn empty_savepoint_released(bencher: Bencher) {
        let mut batch = Batch::new();
        record(&mut batch, 1, route(c"queue"));
        bencher.bench_local(|| black_box(&mut batch).release(2));
    }
}

/// The marks that producers leave for the notifier.
mod shared {
    use super::*;

    const DATABASE: u32 = 1;

    struct Memory {
        database: Database,
        slots: Vec<Slot>,
        hashes: Vec<AtomicU32>,
        used: AtomicU32,
    }

    static MEMORY: LazyLock<Memory> = LazyLock::new(|| Memory::new(1));

    impl Memory {
        fn new(queues: usize) -> Self {
            let memory = Self {
                database: Database::new(),
                slots: (0..queues).map(|_| Slot::new()).collect(),
                hashes: (0..queues).map(|_| AtomicU32::new(0)).collect(),
                used: AtomicU32::new(0),
            };
            for name in names(queues) {
                memory.slots().claim(DATABASE, &route(&name).key()).expect("a free slot");
            }
            memory
        }

        fn slots(&self) -> Slots<'_> {
            Slots { all: &self.slots, hashes: &self.hashes, used: &self.used }
        }

        fn claims(&self) -> Vec<Claim> {
            self.slots().of(DATABASE).collect()
        }
    }

    /// Two producers of the same queue write to the same place: for long enough to meet.
    #[divan::bench(threads = [1, 2], sample_size = 20_000)]
    fn enqueue(bencher: Bencher) {
        let (slots, claim) = (MEMORY.slots(), MEMORY.claims()[0]);
        bencher.bench(|| MEMORY.database.enqueue(slots, black_box(claim), 1).is_ok());
    }

    #[divan::bench]
    fn enqueue_and_drain(bencher: Bencher) {
        let (slots, claim) = (MEMORY.slots(), MEMORY.claims()[0]);
        bencher.bench_local(|| {
            (MEMORY.database.enqueue(slots, black_box(claim), 1).is_ok(), slots.drain(claim))
        });
    }

    /// What a sweep does of which all but one queue in ten have nothing.
    #[divan::bench(args = QUEUES)]
    fn drain_all(bencher: Bencher, queues: usize) {
        let memory = Memory::new(queues);
        let (slots, claims) = (memory.slots(), memory.claims());
        let mark = || {
            for claim in claims.iter().step_by(10) {
                let _: Marked = slots.mark(*claim, 1);
            }
        };
        let drain = |()| slots.of(DATABASE).filter_map(|claim| slots.drain(claim)).count();
        bencher.counter(ItemsCount::new(queues)).with_inputs(mark).bench_local_values(drain);
    }

    #[divan::bench(args = [1, 32])]
    fn note_ids_and_take_them(bencher: Bencher, count: i64) {
        let (slots, claim) = (MEMORY.slots(), MEMORY.claims()[0]);
        let ids = Ids { newest: count, some: (1..=count).collect(), more: false };
        bencher.bench_local(|| {
            slots.note_ids(claim, black_box(&ids));
            slots.take_ids(claim)
        });
    }

    /// A session that sends to a queue for the first time.
    #[divan::bench(args = QUEUES)]
    fn find_the_last_slot(bencher: Bencher, queues: usize) {
        let memory = Memory::new(queues);
        let name = names(queues).pop().unwrap_or_default();
        let key = route(&name).key();
        bencher.bench_local(|| memory.slots().find(DATABASE, black_box(&key)));
    }
}

/// What a notification says.
mod encode {
    use super::*;

    fn encoded(bencher: Bencher<'_, '_>, queues: usize, ids: Option<&Ids>) {
        let names = names(queues);
        let part = |queue| (Part { queue, count: 3, visible_at: None, ids }, ids.is_some());
        let entries: Vec<_> = names.iter().map(|name| part(name.as_c_str())).collect();
        bencher
            .counter(ItemsCount::new(queues))
            .bench_local(|| payload::encode(c"job_enqueued", black_box(&entries)));
    }

    /// A thousand do not fit.
    #[divan::bench(args = QUEUES)]
    fn queues(bencher: Bencher, queues: usize) {
        encoded(bencher, queues, None);
    }

    #[divan::bench]
    fn a_queue_with_ids(bencher: Bencher) {
        encoded(bencher, 1, Some(&Ids { newest: 32, some: (1..=32).collect(), more: false }));
    }
}
