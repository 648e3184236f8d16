//! Where the shared memory comes from: reserved at the server's start where aimq is preloaded, else,
//! on PostgreSQL 17 and later, from the registry of dynamic shared memory. Nothing else knows which.

use std::cell::Cell;

use aimq_core::shared::Database;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::memory::{Room, Shared};
use crate::pg::process;

thread_local! {
    static SHARED: Cell<Source> = const { Cell::new(Source::Unasked) };
    static PRELOADED: Cell<bool> = const { Cell::new(false) };
}

#[derive(Clone, Copy)]
enum Source {
    Unasked,
    Missing,
    Here(Shared),
}

/// Whether the library is preloaded: then it is in every process, and the launcher runs.
pub(crate) fn is_preloaded() -> bool {
    PRELOADED.get()
}

/// The shared memory, if this process has got to it; see [`prepare`]. Never fails.
pub(crate) fn get() -> Option<Shared> {
    match SHARED.get() {
        Source::Here(shared) => Some(shared),
        _ => None,
    }
}

/// This database's entry, and the memory that it is in. `None` where there can be no notifier, or no room for one.
pub(crate) fn here() -> Option<(Shared, &'static Database)> {
    let shared = get()?;
    Some((shared, shared.own_database()?))
}

/// The same in a process that has no transaction: gets to the memory first.
pub(crate) fn of_process() -> Option<Shared> {
    if get().is_none() {
        process::transaction(prepare).ok()?;
    }
    get()
}

/// Reserves the memory, where the library is preloaded. Runs in the postmaster then.
pub(super) fn init() {
    if !process::is_preloading() {
        return;
    }
    PRELOADED.set(true);
    // SAFETY: plain variables; the hooks are functions of this library, which is never unloaded.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::RequestAddinShmemSpace(Room::wanted().size());
        #[cfg(not(feature = "pg14"))]
        {
            FORMER_REQUEST.set(pg_sys::shmem_request_hook);
            pg_sys::shmem_request_hook = Some(on_request);
        }
        FORMER_STARTUP.set(pg_sys::shmem_startup_hook);
        pg_sys::shmem_startup_hook = Some(on_startup);
    }
}

thread_local! {
    static FORMER_REQUEST: Cell<Option<unsafe extern "C-unwind" fn()>> = const { Cell::new(None) };
    static FORMER_STARTUP: Cell<Option<unsafe extern "C-unwind" fn()>> = const { Cell::new(None) };
}

/// Calls the hook that was there before ours.
fn call(former: Option<unsafe extern "C-unwind" fn()>) {
    if let Some(former) = former {
        // SAFETY: a hook of another library, called as Postgres would, under a guard.
        #[allow(ffi_unwind_calls, reason = "this is the guard")]
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| former());
        }
    }
}

#[cfg(not(feature = "pg14"))]
#[pg_guard]
unsafe extern "C-unwind" fn on_request() {
    call(FORMER_REQUEST.get());
    // SAFETY: this is the hook in which it may be called.
    unsafe { pg_sys::RequestAddinShmemSpace(Room::wanted().size()) };
}

/// At the server's start and again after a crash, in the postmaster; the others inherit what it sets.
#[pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    call(FORMER_STARTUP.get());
    let room = Room::wanted();
    let mut found = false;
    // SAFETY: the memory was requested above; it is aligned to a cache line (storage/ipc/shmem.c), and
    // the postmaster is alone with it.
    unsafe {
        let memory =
            pg_sys::ShmemInitStruct(c"aimq".as_ptr(), room.size(), &mut found).cast::<u8>();
        if !found {
            std::ptr::write_bytes(memory, 0, room.size());
            Shared::format(memory, room);
        }
        SHARED.set(Shared::at(memory).map_or(Source::Missing, Source::Here));
    }
}

/// Gets to the shared memory, if there is any: the first time in a process that may take a moment.
/// To be called in a transaction, and outside of a commit. A failure does not fail the caller: it is
/// reported once, and the process works without the memory.
#[inline]
pub(crate) fn prepare() {
    if matches!(SHARED.get(), Source::Unasked) {
        SHARED.set(Source::Missing);
        registry::attach();
    }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
mod registry {
    use std::ffi::{CStr, c_void};

    use super::*;
    use crate::error::Warning;

    /// A segment's size is part of the question, but the process that asks second does not know what `aimq.max_queues`
    /// was when the first one asked. So a small segment, always of one size, holds it.
    const ROOM: &CStr = c"aimq";
    const MEMORY: &CStr = c"aimq queues";

    unsafe extern "C-unwind" fn write_room(memory: *mut c_void) {
        // SAFETY: the registry calls this with a segment of the size that was asked for.
        unsafe { *memory.cast::<Room>() = Room::wanted() };
    }

    thread_local! {
        static FOUND: Cell<Room> = const { Cell::new(Room { queues: 0, waiters: 0 }) };
    }

    unsafe extern "C-unwind" fn write_memory(memory: *mut c_void) {
        let room = FOUND.get();
        // SAFETY: as above; segments are aligned to a page.
        unsafe {
            std::ptr::write_bytes(memory.cast::<u8>(), 0, room.size());
            Shared::format(memory.cast(), room);
        }
    }

    /// In a subtransaction of its own: what fails in there takes back its locks and memory, and leaves
    /// the producer's transaction alone.
    pub(super) fn attach() {
        // SAFETY: we are in a transaction; the subtransaction ends here either way, and the memory context
        // and resource owner are given back, as plpgsql does it (pl_exec.c, exec_stmt_block).
        unsafe {
            let context = pg_sys::CurrentMemoryContext;
            let owner = pg_sys::CurrentResourceOwner;
            let in_transaction = pg_sys::IsTransactionState();
            if in_transaction {
                pg_sys::BeginInternalSubTransaction(std::ptr::null());
            }
            pg_sys::MemoryContextSwitchTo(context);
            let attached = PgTryBuilder::new(|| {
                segments();
                true
            })
            .catch_others(|error| {
                if let pg_sys::panic::CaughtError::PostgresError(report)
                | pg_sys::panic::CaughtError::ErrorReport(report) = error
                {
                    REASON.set(Some(report.message().to_owned()));
                }
                false
            })
            .execute();
            if in_transaction {
                if attached {
                    pg_sys::ReleaseCurrentSubTransaction();
                } else {
                    pg_sys::RollbackAndReleaseCurrentSubTransaction();
                }
            }
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::CurrentResourceOwner = owner;
        }
        if let Some(reason) = REASON.take() {
            Warning::NoSharedMemory { reason }.report();
        }
    }

    thread_local! {
        static REASON: Cell<Option<String>> = const { Cell::new(None) };
    }

    fn segments() {
        let mut found = false;
        // SAFETY: the callbacks write no more than the sizes given.
        unsafe {
            let room = pg_sys::GetNamedDSMSegment(
                ROOM.as_ptr(),
                size_of::<Room>(),
                Some(write_room),
                &mut found,
            );
            let room = *room.cast::<Room>();
            FOUND.set(room);
            let memory = pg_sys::GetNamedDSMSegment(
                MEMORY.as_ptr(),
                room.size(),
                Some(write_memory),
                &mut found,
            );
            match Shared::at(memory.cast()) {
                Some(shared) => SHARED.set(Source::Here(shared)),
                None => REASON.set(Some("it was made by another release of aimq".to_owned())),
            }
        }
    }
}

#[cfg(not(any(feature = "pg17", feature = "pg18")))]
mod registry {
    /// Before PostgreSQL 17 there is no such registry.
    pub(super) fn attach() {}
}
