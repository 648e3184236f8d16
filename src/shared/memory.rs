//! What is in the shared memory, and where in it.

use std::cell::Cell;
use std::mem::size_of;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aimq_core::shared::{
    Claim, Database, Databases, Full, NoEntry, Slot, Slots, Waiter, Waiters, words,
};
use pgrx::pg_sys;

use crate::settings;

/// Says whose memory this is, and which layout it has: the last byte counts up with every change. Where
/// a server runs on with a former library's memory, a newer library leaves it alone.
const STAMP: u64 = u64::from_be_bytes(*b"aimq\0\0\0\x08");

/// How long a process that has just begun to take an entry may be kept from a processor.
const ENTRY_IS_TAKEN_WITHIN: Duration = Duration::from_millis(100);

/// The beginning of the memory; the entries of the databases, the slots, the waiters' places, their bits and the slots'
/// hashes follow.
#[repr(C, align(64))]
struct Header {
    stamp: AtomicU64,
    /// How many slots follow, and how many entries before them.
    queues: AtomicU32,
    /// How many places of waiters follow.
    waiters: AtomicU32,
    size_of_entry: AtomicU32,
    size_of_slot: AtomicU32,
    used: AtomicU32,
    lock: AtomicU32,
    used_places: AtomicU32,
    tickets: AtomicU64,
    launcher: LauncherState,
}

/// The launcher, as others see it.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct LauncherState {
    /// Its process; 0 for none.
    pub(crate) pid: AtomicU32,
    /// Its latch; 0 for none.
    pub(crate) bell: AtomicU64,
    /// The database whose notifier has looked, found nothing to do, and left.
    pub(crate) probed: AtomicU32,
    /// When one was last asked for, where nobody starts it with the server.
    pub(crate) requested_at: AtomicI64,
    /// The last launcher that was asked for found no background worker slot, and nobody has logged that.
    pub(crate) no_slot: AtomicU32,
    /// How often it woke up.
    pub(crate) wake_ups: AtomicU64,
}

/// The shared memory, in this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared {
    pub(crate) slots: Slots<'static>,
    pub(crate) databases: Databases<'static>,
    pub(crate) waiters: Waiters<'static>,
    pub(crate) launcher: &'static LauncherState,
}

/// How many queues and waiters there is room for.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) queues: u32,
    pub(super) waiters: u32,
}

impl Room {
    /// As the settings say.
    pub(super) fn wanted() -> Self {
        Self { queues: settings::max_queues(), waiters: settings::max_waiters() }
    }

    /// How much memory that needs.
    pub(super) const fn size(self) -> usize {
        let (queues, waiters) = (self.queues as usize, self.waiters as usize);
        size_of::<Header>()
            + queues * (size_of::<Database>() + size_of::<Slot>() + size_of::<AtomicU32>())
            + waiters * (size_of::<Waiter>() + words(queues) * size_of::<AtomicU64>())
    }
}

impl Shared {
    /// Writes the header into zeroed memory.
    ///
    /// # Safety
    /// There must be [`Room::size`] zeroed bytes at `memory`, aligned to a cache line, which nobody else uses
    /// yet.
    pub(super) unsafe fn format(memory: *mut u8, room: Room) {
        // SAFETY: as demanded; atomics may be shared from here on.
        let header = unsafe { &*memory.cast::<Header>() };
        header.queues.store(room.queues, Ordering::Relaxed);
        header.waiters.store(room.waiters, Ordering::Relaxed);
        header.size_of_entry.store(size_of::<Database>() as u32, Ordering::Relaxed);
        header.size_of_slot.store(size_of::<Slot>() as u32, Ordering::Relaxed);
        header.stamp.store(STAMP, Ordering::Release);
    }

    /// The memory, if it is of this library's layout.
    ///
    /// # Safety
    /// `memory` must have been formatted by some release of aimq, and stay for ever.
    pub(super) unsafe fn at(memory: *mut u8) -> Option<Self> {
        // SAFETY: every release begins with the stamp; the rest is looked at only if it is ours. All of it
        // is atomics, so that references may be shared between processes.
        unsafe {
            let header = &*memory.cast::<Header>();
            if header.stamp.load(Ordering::Acquire) != STAMP
                || header.size_of_entry.load(Ordering::Relaxed) as usize != size_of::<Database>()
                || header.size_of_slot.load(Ordering::Relaxed) as usize != size_of::<Slot>()
            {
                return None;
            }
            let queues = header.queues.load(Ordering::Relaxed) as usize;
            let entries = memory.add(size_of::<Header>()).cast::<Database>();
            let slots = entries.add(queues).cast::<Slot>();
            let waiters = header.waiters.load(Ordering::Relaxed) as usize;
            let places = slots.add(queues).cast::<Waiter>();
            let bits = places.add(waiters).cast::<AtomicU64>();
            let hashes = bits.add(waiters * words(queues)).cast::<AtomicU32>();
            Some(Self {
                slots: Slots {
                    all: std::slice::from_raw_parts(slots, queues),
                    hashes: std::slice::from_raw_parts(hashes, queues),
                    used: &header.used,
                },
                databases: Databases {
                    all: std::slice::from_raw_parts(entries, queues),
                    lock: &header.lock,
                },
                waiters: Waiters {
                    all: std::slice::from_raw_parts(places, waiters),
                    queues: std::slice::from_raw_parts(bits, waiters * words(queues)),
                    used: &header.used_places,
                    tickets: &header.tickets,
                },
                launcher: &header.launcher,
            })
        }
    }

    /// Takes a slot for a route that has none, if this database may have another slot. Cannot raise.
    pub(crate) fn take(&self, database: u32, key: &[u8]) -> Result<Claim, Full> {
        if self.databases.may_take(self.slots, database) {
            self.slots.take(database, key)
        } else {
            Err(Full)
        }
    }

    /// Finds the slot of a route, or takes one as [`Shared::take`].
    pub(crate) fn claim(&self, database: u32, key: &[u8]) -> Result<Claim, Full> {
        self.slots.find(database, key).map_or_else(|| self.take(database, key), Ok)
    }

    /// This backend's database, whose entry is taken if it has none. `None` if there is no room, or
    /// at this very moment somebody else takes one.
    pub(crate) fn own_database(&self) -> Option<&'static Database> {
        thread_local! {
            static OWN: Cell<Option<&'static Database>> = const { Cell::new(None) };
        }
        // An entry is given to another database only when its own is gone; look all the same.
        if OWN.get().is_none_or(|own| own.oid() != own_oid()) {
            OWN.set(self.databases.claim(own_oid()).ok());
        }
        OWN.get()
    }

    /// The same for a caller that would not ask again: if another process takes an entry, it waits a moment at most.
    /// Not for producers.
    pub(crate) fn wait_for_own_database(&self) -> Option<&'static Database> {
        let begun = Instant::now();
        loop {
            match self.databases.claim(own_oid()) {
                Ok(database) => return Some(database),
                Err(NoEntry::Busy) if begun.elapsed() < ENTRY_IS_TAKEN_WITHIN => {
                    std::thread::sleep(Duration::from_micros(50));
                }
                Err(_) => return None,
            }
        }
    }
}

/// This backend's database.
#[inline]
pub(crate) fn own_oid() -> u32 {
    // SAFETY: a plain variable of this backend, which does not change once it is connected.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}
