//! The protocol of the marks, in every order in which its steps can be taken.
//!
//! What has to hold: once all producers are done and the notifier sleeps with nobody to wake it, the
//! last notification of each queue was sent after that queue's last commit. A worker that is woken
//! reads everything that is visible then, so that is all it takes.

use std::collections::HashSet;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst, fence};
use loom::thread;

use super::*;
use crate::notifier::{Moment, Notifier};
use crate::payload::Payload;
use crate::route::Route;
use crate::timestamp::Timestamp;

const OID: u32 = 1;
const KEYS: [&[u8]; 2] = [b"c\0e\0a\0", b"c\0e\0b\0"];
const BELL: u64 = 1;
const LATE: Timestamp = Timestamp(1_000_000);

/// The shared memory, the processes' latches, and two queues.
struct World {
    slots: Vec<Slot>,
    used: AtomicU32,
    database: Database,
    latch: AtomicBool,
    launcher: AtomicBool,
    /// Of each queue, the transactions that are visible, and those that a notification told of.
    committed: [AtomicU32; 2],
    told: [AtomicU32; 2],
    /// Of each queue, the messages that notifications counted.
    counted: [AtomicU32; 2],
}

impl World {
    fn new() -> Self {
        Self {
            slots: (0..2).map(|_| Slot::new()).collect(),
            used: AtomicU32::new(0),
            database: Database::new(),
            latch: AtomicBool::new(false),
            launcher: AtomicBool::new(false),
            committed: [AtomicU32::new(0), AtomicU32::new(0)],
            told: [AtomicU32::new(0), AtomicU32::new(0)],
            counted: [AtomicU32::new(0), AtomicU32::new(0)],
        }
    }

    fn table(&self) -> Table<'_> {
        Table { slots: &self.slots, used: &self.used }
    }

    fn claim(&self, queue: usize) -> Claim {
        self.table().claim(OID, KEYS[queue]).expect("room")
    }

    fn commit(&self, queue: usize) {
        self.committed[queue].fetch_add(1, SeqCst);
    }

    /// What a producer does once its transaction is visible.
    fn mark(&self, queue: usize, mut claim: Claim) {
        let must_ring = loop {
            match self.database.enqueue(self.table(), claim, 1) {
                Ok(must_ring) => break must_ring,
                Err(Stale) => match self.table().claim(OID, KEYS[queue]) {
                    Ok(other) => claim = other,
                    Err(Full) => break self.database.tell(News::EVERYTHING),
                },
            }
        };
        if must_ring {
            self.ring();
        }
    }

    fn produce(&self, queue: usize, claim: Claim) {
        self.commit(queue);
        self.mark(queue, claim);
    }

    fn ring(&self) {
        match self.database.bell() {
            Some(_) => self.set_latch(),
            None => {
                self.database.want();
                self.launcher.store(true, SeqCst);
            }
        }
    }

    /// As SetLatch and ResetLatch have their barriers (storage/ipc/latch.c).
    fn set_latch(&self) {
        fence(SeqCst);
        self.latch.store(true, SeqCst);
        fence(SeqCst);
    }

    fn reset_latch(&self) {
        self.latch.store(false, SeqCst);
        fence(SeqCst);
    }

    fn check(&self) {
        for queue in 0..2 {
            let (committed, told) =
                (self.committed[queue].load(SeqCst), self.told[queue].load(SeqCst));
            assert_eq!(told, committed, "lost a wake-up of queue {queue}");
        }
    }
}

/// A notifier's process.
struct Process {
    notifier: Notifier,
    interval: Moment,
    clock: Moment,
    /// It has gone to sleep for good, unless somebody wakes it.
    sleeps: bool,
}

impl Process {
    /// A process that takes part from the beginning: what it finds at its start it knows.
    fn running(world: &World, interval: Moment) -> Self {
        world.database.begin(BELL);
        Self { notifier: Notifier::default(), interval, clock: 0, sleeps: false }
    }

    /// One that takes the place of another: it looks at everything.
    fn replacing(world: &World, interval: Moment) -> Self {
        let mut process = Self::running(world, interval);
        process.look_at_everything();
        process
    }

    fn look_at_everything(&mut self) {
        KEYS.iter().filter_map(|key| Route::from_key(key)).for_each(|it| self.notifier.look_at(it));
    }

    /// One turn of the main loop. Returns its timer.
    fn turn(&mut self, world: &World) -> Option<Moment> {
        world.reset_latch();
        self.rest_of_turn(world)
    }

    fn rest_of_turn(&mut self, world: &World) -> Option<Moment> {
        if world.database.news().has(News::EVERYTHING) {
            self.look_at_everything();
        }
        let now = Timestamp(i64::try_from(self.clock).unwrap_or(0) + 1);
        let mut timer =
            self.notifier.sweep(&world.database, OID, world.table(), self.clock, now).interval;
        for key in self.notifier.looks(2) {
            // The look is a query of its own: it sees what is visible now.
            let queue = KEYS.iter().position(|it| **it == *key).expect("one of ours");
            if world.committed[queue].load(SeqCst) > 0 {
                Route::from_key(&key).into_iter().for_each(|it| self.notifier.found(it, None));
            }
        }
        let sent = self.notifier.notifications();
        if !sent.is_empty() {
            for (queue, name) in ["a", "b"].into_iter().enumerate() {
                let payloads = sent.iter().filter_map(|it| serde_json::from_str(&it.payload).ok());
                let count: u64 =
                    payloads.filter_map(|it: Payload| Some(it.queues?.get(name)?.count)).sum();
                if count > 0 {
                    let visible = world.committed[queue].load(SeqCst);
                    world.told[queue].store(visible, SeqCst);
                    world.counted[queue].fetch_add(u32::try_from(count).unwrap_or(0), SeqCst);
                }
            }
            let (database, table) = (&world.database, world.table());
            timer = self.notifier.sent(database, table, self.clock, now, self.interval);
        }
        timer
    }

    /// Turns until it would sleep for good, or `most` times.
    fn run(&mut self, world: &World, most: usize) {
        for _ in 0..most {
            if self.sleeps && !world.latch.load(SeqCst) {
                return;
            }
            let timer = self.turn(world);
            self.sleep(world, timer);
        }
    }

    /// Waits for the latch or the timer: here, time passes when nobody has set the latch.
    fn sleep(&mut self, world: &World, timer: Option<Moment>) {
        self.sleeps = false;
        if !world.latch.load(SeqCst) {
            match timer {
                Some(timer) => self.clock = self.clock.max(timer),
                None => self.sleeps = true,
            }
        }
    }
}

/// Explores all orders with at most three preemptions, which is where mistakes of this kind show.
fn explore(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

/// Producers of the queues given, each in a thread, beside a notifier that runs.
fn beside_producers(interval: Moment, queues: &'static [usize]) {
    explore(move || {
        let world = Arc::new(World::new());
        let claims: Vec<Claim> = queues.iter().map(|queue| world.claim(*queue)).collect();
        let mut process = Process::running(&world, interval);
        let producers: Vec<_> = queues
            .iter()
            .zip(claims)
            .map(|(queue, claim)| {
                let world = Arc::clone(&world);
                thread::spawn(move || world.produce(*queue, claim))
            })
            .collect();
        process.run(&world, 2);
        producers.into_iter().for_each(|it| it.join().expect("a producer"));
        process.run(&world, 8);
        assert!(process.sleeps, "it goes on though there is nothing to do");
        world.check();
        for (counted, committed) in world.counted.iter().zip(&world.committed) {
            assert_eq!(counted.load(SeqCst), committed.load(SeqCst), "the counts are wrong");
        }
    });
}

#[test]
fn two_producers_of_one_queue() {
    beside_producers(0, &[0, 0]);
}

#[test]
fn two_producers_of_one_queue_with_an_interval() {
    beside_producers(10, &[0, 0]);
}

#[test]
fn two_queues_of_one_channel_with_an_interval() {
    beside_producers(10, &[0, 1]);
}

#[test]
fn a_producer_that_marks_twice_around_an_interval() {
    explore(|| {
        let world = Arc::new(World::new());
        let claim = world.claim(0);
        let mut process = Process::running(&world, 10);
        let producer = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.produce(0, claim);
                world.produce(0, claim);
            })
        };
        process.run(&world, 3);
        producer.join().expect("the producer");
        process.run(&world, 8);
        world.check();
    });
}

/// The first notifier takes the mark and ends before it has sent anything.
#[test]
fn a_notifier_that_dies_and_is_replaced() {
    explore(|| {
        let world = Arc::new(World::new());
        let claim = world.claim(0);
        let mut first = Process::running(&world, 10);
        let producer = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.produce(0, claim))
        };
        let now = Timestamp(1);
        first.notifier.sweep(&world.database, OID, world.table(), 0, now);
        world.database.end(State::Down);
        let mut second = Process::replacing(&world, 10);
        second.run(&world, 2);
        producer.join().expect("the producer");
        second.run(&world, 8);
        world.check();
    });
}

/// The last realtime queue is gone, and the notifier leaves: who marks then asks the launcher.
#[test]
fn a_mark_while_the_notifier_leaves() {
    explore(|| {
        let world = Arc::new(World::new());
        let claim = world.claim(0);
        let mut process = Process::running(&world, 0);
        let producer = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.produce(0, claim))
        };
        process.turn(&world);
        process.notifier.keep_only(OID, world.table(), &HashSet::new());
        let is_idle = process.notifier.is_idle();
        if is_idle {
            world.database.end(State::None);
            if world.database.news() != News(0) || world.table().of(OID).next().is_some() {
                world.launcher.store(true, SeqCst);
            }
        }
        producer.join().expect("the producer");
        // Once it has left, only the launcher can help.
        if is_idle && world.launcher.load(SeqCst) {
            process = Process::replacing(&world, 0);
            process.run(&world, 8);
        } else if !is_idle {
            process.run(&world, 8);
        }
        world.check();
    });
}

/// The notifier has asked for the realtime queues before the producer's transaction was visible.
#[test]
fn a_slot_that_is_given_back_under_a_producer() {
    explore(|| {
        let world = Arc::new(World::new());
        let claim = world.claim(0);
        let mut process = Process::running(&world, 10);
        let producer = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.produce(0, claim))
        };
        process.notifier.keep_only(OID, world.table(), &HashSet::new());
        process.run(&world, 2);
        producer.join().expect("the producer");
        process.run(&world, 8);
        world.check();
    });
}

#[test]
fn a_slot_that_another_queue_takes_meanwhile() {
    explore(|| {
        let mut world = World::new();
        world.slots.truncate(1);
        let world = Arc::new(world);
        let claim = world.claim(0);
        let mut process = Process::running(&world, 0);
        let producer = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.produce(0, claim))
        };
        process.notifier.keep_only(OID, world.table(), &HashSet::new());
        // May fail: the producer may have taken it again.
        if let Ok(other) = world.table().claim(OID, KEYS[1]) {
            world.commit(1);
            world.mark(1, other);
        }
        producer.join().expect("the producer");
        process.run(&world, 8);
        world.check();
    });
}

#[test]
fn two_producers_that_meet_a_new_queue() {
    explore(|| {
        let world = Arc::new(World::new());
        let mut process = Process::running(&world, 0);
        let producers: Vec<_> = (0..2)
            .map(|_| {
                let world = Arc::clone(&world);
                thread::spawn(move || {
                    let claim = world.claim(0);
                    world.produce(0, claim);
                })
            })
            .collect();
        producers.into_iter().for_each(|it| it.join().expect("a producer"));
        process.run(&world, 8);
        world.check();
    });
}

/// After a message with a delay, a notifier that sleeps knows of the time, or is woken.
#[test]
fn a_deadline_beside_a_sweep() {
    explore(|| {
        let world = Arc::new(World::new());
        let claim = world.claim(0);
        let mut process = Process::running(&world, 0);
        let producer = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                if world.database.expect(world.table(), claim, 1, LATE) == Ok(true) {
                    world.ring();
                }
            })
        };
        world.reset_latch();
        let table = world.table();
        let timers = process.notifier.sweep(&world.database, OID, table, 0, Timestamp(1));
        producer.join().expect("the producer");
        let is_woken = world.latch.load(SeqCst);
        assert!(is_woken || timers.deadline == Some(LATE), "lost a deadline");
    });
}

// What is wrong on purpose has to fail: else the tests above could not.

#[test]
#[should_panic(expected = "lost a wake-up")]
fn wrong_a_latch_that_is_reset_after_the_sweep() {
    explore(|| {
        let world = Arc::new(World::new());
        let claim = world.claim(0);
        let mut process = Process::running(&world, 0);
        let producer = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.produce(0, claim))
        };
        let timer = process.rest_of_turn(&world);
        world.reset_latch();
        process.sleep(&world, timer);
        producer.join().expect("the producer");
        process.run(&world, 8);
        world.check();
    });
}

#[test]
#[should_panic(expected = "lost a wake-up")]
fn wrong_a_mark_before_the_commit() {
    explore(|| {
        let world = Arc::new(World::new());
        let claim = world.claim(0);
        let mut process = Process::running(&world, 0);
        let producer = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                world.mark(0, claim);
                world.commit(0);
            })
        };
        process.run(&world, 2);
        producer.join().expect("the producer");
        process.run(&world, 8);
        world.check();
    });
}

#[test]
#[should_panic(expected = "lost a wake-up")]
fn wrong_a_gate_that_is_closed_without_a_timer() {
    explore(|| {
        let world = Arc::new(World::new());
        let claim = world.claim(0);
        let mut process = Process::running(&world, 0);
        process.turn(&world); // learns the slot and gives it its gate
        let producer = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.produce(0, claim))
        };
        world.reset_latch();
        let timer = process.rest_of_turn(&world);
        world.database.close(1);
        process.sleep(&world, timer);
        producer.join().expect("the producer");
        process.run(&world, 8);
        world.check();
    });
}

#[test]
#[should_panic(expected = "lost a wake-up")]
fn wrong_a_new_notifier_that_looks_before_it_can_be_woken() {
    explore(|| {
        let world = Arc::new(World::new());
        let claim = world.claim(0);
        let producer = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.produce(0, claim))
        };
        let mut process =
            Process { notifier: Notifier::default(), interval: 0, clock: 0, sleeps: false };
        process.look_at_everything();
        process.turn(&world);
        world.database.begin(BELL);
        process.sleep(&world, None);
        producer.join().expect("the producer");
        process.run(&world, 8);
        world.check();
    });
}
