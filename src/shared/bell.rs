//! Who is woken: the notifier and the watcher of a database, or the launcher that starts them.
//!
//! All of this but [`init`] and [`log_failure`] may run after a commit: nothing raises, allocates or waits.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aimq_core::shared::{Database, Seat, State, Wake};
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys;

use super::memory::Shared;
use super::source::is_preloaded;
use crate::error::Log;
use crate::pg::{ffi, process};

/// The least time between two requests for a launcher, in microseconds.
const REQUEST_EVERY: i64 = 1_000_000;

fn launcher() -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new("aimq launcher")
        .set_type("aimq launcher")
        .set_library("aimq")
        .set_function("aimq_launcher_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
}

thread_local! {
    /// The description of a launcher that a session may ask for. It is made when the library is loaded, because that
    /// takes memory, and a session asks for it after a commit.
    static DESCRIPTION: Cell<Option<pg_sys::BackgroundWorker>> = const { Cell::new(None) };
}

/// Where aimq is preloaded, the launcher comes with the server.
pub(super) fn init() {
    if !is_preloaded() {
        DESCRIPTION.set(Some(pg_sys::BackgroundWorker::from(&launcher())));
    // SAFETY: a plain variable.
    } else if unsafe { !pg_sys::IsBinaryUpgrade } {
        launcher().load();
    }
}

/// Whether there was a background worker slot for the launcher when it was asked for last.
const THERE_IS_ONE: u32 = 0;
const LACKS: u32 = 1;
const LACKS_AND_IS_LOGGED: u32 = 2;

/// Asks for a notifier of a database.
pub(crate) fn want(shared: Shared, database: &Database) {
    let is_news = database.want().launcher;
    match shared.launcher.bell.load(Ordering::SeqCst) {
        0 if !is_preloaded() => request(shared),
        0 => {}
        bell if is_news => ffi::set_latch(bell),
        _ => {}
    }
}

/// Wakes the launcher, if there is one.
pub(crate) fn ring_launcher(shared: Shared) {
    match shared.launcher.bell.load(Ordering::SeqCst) {
        0 => {}
        bell => ffi::set_latch(bell),
    }
}

/// Starts a launcher, at most once a second.
fn request(shared: Shared) {
    let Some(mut worker) = DESCRIPTION.get() else {
        return;
    };
    // The postmaster starts none on a standby, but keeps the slot.
    if process::is_in_recovery() {
        return;
    }
    let requested_at = &shared.launcher.requested_at;
    let (now, last) = (ffi::now().0, requested_at.load(Ordering::SeqCst));
    // A clock that was set back does not silence us for long either.
    if (now - last).abs() < REQUEST_EVERY
        || requested_at.compare_exchange(last, now, Ordering::SeqCst, Ordering::SeqCst).is_err()
    {
        return;
    }
    // SAFETY: a complete description, and no handle: so nothing is allocated, and nothing raised
    // (postmaster/bgworker.c).
    let is_there =
        unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut worker, std::ptr::null_mut()) };
    // Nothing is logged here: an error that is raised after a commit takes the server down.
    shared.launcher.no_slot.store(if is_there { THERE_IS_ONE } else { LACKS }, Ordering::SeqCst);
}

/// Whether this database can have no notifier at present: there is no background worker slot for it, or for the launcher.
pub(crate) fn lacks_slot(shared: Shared, database: &Database) -> bool {
    let launcher = &shared.launcher;
    let has_launcher = launcher.bell.load(Ordering::SeqCst) != 0;
    database.state() == State::NoSlot
        || !has_launcher
            && (launcher.no_slot.load(Ordering::Relaxed) != THERE_IS_ONE
                || !process::may_have_workers())
}

/// Logs that there was no slot for a launcher, once for each time. May raise.
pub(crate) fn log_failure(shared: Shared) {
    let no_slot = &shared.launcher.no_slot;
    if no_slot.load(Ordering::Relaxed) == LACKS
        && no_slot
            .compare_exchange(LACKS, LACKS_AND_IS_LOGGED, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    {
        Log::NoWorkerSlot { process: "its launcher" }.report();
    }
}

/// Wakes those that are there.
pub(crate) fn ring_if_there(shared: Shared, database: &Database, mut wake: Wake) {
    if wake.notifier {
        ring_seat(&database.notifier);
    }
    if wake.watcher && ring_seat(database.who_watches()) {
        wake |= database.guard();
    }
    if wake.launcher {
        ring_launcher(shared);
    }
}

/// Wakes a process; false if there is none.
fn ring_seat(seat: &Seat) -> bool {
    let bell = seat.bell();
    if let Some(bell) = bell {
        seat.count_on(ffi::now());
        ffi::set_latch(bell);
    }
    bell.is_some()
}

/// Wakes those that have something to do, or the launcher if there are none.
pub(crate) fn ring(shared: Shared, database: &Database, wake: Wake) {
    ring_if_there(shared, database, wake);
    if database.notifier.bell().is_none() {
        want(shared, database);
    }
}
