//! One process of a database: whether it runs, how to wake it, and whether it attends to what it is woken for.

use crate::sync::{AtomicI64, AtomicU32, AtomicU64, Ordering::*, fence};
use crate::timestamp::Timestamp;

/// A process that was rung for has shown within this time that it runs, in microseconds. Otherwise nobody relies on it.
pub const ATTENDS_WITHIN: i64 = 1_000_000;

/// Whether there is a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// None is wanted.
    None = 0,
    /// One is being started.
    Starting = 1,
    /// It runs.
    Running = 2,
    /// It has ended against its will, and is to be started again.
    Down = 3,
    /// There is no background worker slot for it.
    NoSlot = 4,
}

impl State {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::Starting,
            2 => Self::Running,
            3 => Self::Down,
            4 => Self::NoSlot,
            _ => Self::None,
        }
    }
}

/// A place for one process.
#[derive(Debug)]
pub struct Seat {
    state: AtomicU32,
    /// The process; 0 for none.
    pub pid: AtomicU32,
    /// How to wake it: an address that only the server's side understands; 0 for none.
    bell: AtomicU64,
    /// By when it shows that it runs; 0 where nothing is expected of it.
    by: AtomicI64,
    /// When it started.
    pub started_at: AtomicI64,
    /// How often it was started.
    pub starts: AtomicU64,
    /// How often it woke up.
    pub wake_ups: AtomicU64,
}

impl Seat {
    /// Nobody's: what zeroed memory is.
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU32::new(0),
            pid: AtomicU32::new(0),
            bell: AtomicU64::new(0),
            by: AtomicI64::new(0),
            started_at: AtomicI64::new(0),
            starts: AtomicU64::new(0),
            wake_ups: AtomicU64::new(0),
        }
    }

    pub(super) fn reset(&self) {
        self.end(State::None);
        self.starts.store(0, Relaxed);
        self.wake_ups.store(0, Relaxed);
    }

    /// Whether there is a process.
    #[must_use]
    pub fn state(&self) -> State {
        State::from(self.state.load(SeqCst))
    }

    /// Says whether there is one.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u32, SeqCst);
    }

    /// Says that there is none yet, unless one runs: then false. For the launcher.
    pub fn set_waiting(&self, state: State) -> bool {
        let running = State::Running as u32;
        let change = |now| (now != running).then_some(state as u32);
        self.state.fetch_update(SeqCst, SeqCst, change).is_ok()
    }

    /// How to wake it. To be asked after marking or telling.
    #[must_use]
    pub fn bell(&self) -> Option<u64> {
        // The mark before the bell, as a process that begins or ends has the bell before the marks.
        fence(SeqCst);
        Some(self.bell.load(SeqCst)).filter(|bell| *bell != 0)
    }

    /// The process begins: from here on it is woken.
    pub fn begin(&self, bell: u64) {
        self.by.store(0, SeqCst);
        self.bell.store(bell, SeqCst);
        self.set_state(State::Running);
        fence(SeqCst);
    }

    /// It ends.
    pub fn end(&self, state: State) {
        self.set_state(state);
        self.bell.store(0, SeqCst);
        self.pid.store(0, SeqCst);
        self.by.store(0, SeqCst);
        fence(SeqCst);
    }

    // Whether it attends. Nothing is noted while nothing is to be done: an idle process shows nothing, and costs
    // nothing.

    /// Somebody is about to wake it, and counts on it from here on. To be called after marking.
    pub fn count_on(&self, now: Timestamp) {
        let by = now.0.saturating_add(ATTENDS_WITHIN);
        let mut old = self.by.load(SeqCst);
        while old == 0 || old > by {
            match self.by.compare_exchange(old, by, SeqCst, SeqCst) {
                Ok(_) => break,
                Err(found) => old = found,
            }
        }
    }

    /// The process is at work, and will say so again.
    pub fn works(&self, now: Timestamp) {
        self.by.store(now.0.saturating_add(ATTENDS_WITHIN), SeqCst);
    }

    /// It is about to sleep until `until`, or until it is woken. If there is no such time, the caller looks for marks
    /// once more: a producer that marked while this process worked found a time here, and did not set one itself.
    pub fn sleeps(&self, until: Option<Timestamp>) {
        let by = until.map_or(0, |until| until.0.saturating_add(ATTENDS_WITHIN).max(1));
        self.by.store(by, SeqCst);
        fence(SeqCst);
    }

    /// By when it shows that it runs; `None` if nothing is expected of it.
    #[must_use]
    pub fn attends_by(&self) -> Option<Timestamp> {
        Some(self.by.load(SeqCst)).filter(|by| *by != 0).map(Timestamp)
    }

    /// Whether it can be relied on.
    #[must_use]
    pub fn is_attended(&self, now: Timestamp) -> bool {
        self.attends_by().is_none_or(|by| now <= by)
    }
}
