//! Sessions that block until a queue has something to read: what `aimq.read` and `aimq.wait` (sql/waiting.sql)
//! are made of. They look, [arm](_arm), look again, and [sleep](_sleep).
//!
//! A place in shared memory is given back at the latest when the transaction ends, or the session does; and
//! with it a call that was not answered, so that somebody else gets it.

#![allow(clippy::result_large_err, reason = "pgrx reports an ErrorReport whole; no hot path here")]

mod ready;

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use aimq_core::route::{Route, RouteKey};
use aimq_core::shared::{Call, Claim, SLOTS_MOST, Session, State};
use aimq_core::timestamp::Timestamp;
use pgrx::datum::Array;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::pgmq;
use crate::catalog::triggers::{TRIGGERS, attached};
use crate::error::{Error, Notice};
use crate::pg::text::{self, Text};
use crate::pg::{ffi, process, transaction};
use crate::shared::{self, Shared, bell, claims};

/// How long a session sleeps between two looks where nobody can call it: at first, and at most. Each time half as
/// long again.
const POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How often a call may take a place: the watcher gives back the slot of a queue that it does not see to be realtime,
/// for instance because this transaction has just made it. Then the call polls.
const TAKEN_MOST: u32 = 16;

/// A call holds a slot's number in so many bits.
const _: () = assert!(SLOTS_MOST >= 1_000_000, "aimq.max_queues allows more");

/// A call that waits.
#[derive(Debug)]
struct Wait {
    queues: Vec<String>,
    takes: u32,
    /// `None` for ever.
    until: Option<Instant>,
    since: Timestamp,
    /// The nesting level of the transaction in which it began.
    level: u32,
    ticket: Option<u64>,
    place: Option<usize>,
    /// How often it has taken one.
    taken: u32,
    /// The slots of its place.
    claims: Vec<Claim>,
    /// What it was called for, until it has looked.
    call: Option<Call>,
    /// It has only to look once more before it sleeps.
    is_armed: bool,
    /// The last sleep ended with a call.
    is_called: bool,
    /// That call was for no message: something else may have changed, so that nobody calls any more.
    must_check: bool,
    /// It outlives the next commit.
    is_kept: bool,
    /// How long to sleep where nobody calls it.
    poll: Duration,
}

thread_local! {
    /// Never borrowed while Postgres is called: whatever ends the session there gives the place back. To have it
    /// dropped at the end of the thread takes memory, at its first use; and that may be after a commit.
    static WAIT: RefCell<ManuallyDrop<Option<Wait>>> =
        const { RefCell::new(ManuallyDrop::new(None)) };
    static IS_PREPARED: Cell<bool> = const { Cell::new(false) };
    static EVENT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// The call that waits; `default` if there is none.
fn with_wait<T>(default: T, work: impl FnOnce(&mut Wait) -> T) -> T {
    let mut work = Some(work);
    let done = WAIT.try_with(|wait| {
        let mut wait = wait.try_borrow_mut().ok()?;
        Some(work.take()?(wait.as_mut()?))
    });
    done.ok().flatten().unwrap_or(default)
}

/// `aimq._check_wait(what, queues, qty, no_vt, no_time, no_condition)`: fails where a wait could never end, nothing
/// could be read, or an argument is missing.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _check_wait(
    what: Option<&str>,
    queues: Option<Array<'_, Text>>,
    qty: Option<i32>,
    no_vt: Option<bool>,
    no_time: Option<bool>,
    no_condition: Option<bool>,
) -> Result<(), ErrorReport> {
    // Who calls this by hand may leave anything out.
    let what = what.unwrap_or("aimq.wait");
    let [no_vt, no_time, no_condition] =
        [no_vt, no_time, no_condition].map(|it| it.unwrap_or(true));
    let argument = if what.contains("wait") { "queues" } else { "queue" };
    let is_nothing = |queue: Option<Text>| queue.is_some_and(|queue| queue.is_empty());
    let is_empty =
        queues.as_ref().is_some_and(|queues| queues.is_empty() || queues.iter().any(is_nothing));
    let has_null = queues.as_ref().is_none_or(|queues| queues.iter().any(|queue| queue.is_none()));
    let missing = [
        (has_null, argument),
        (no_vt, "vt"),
        (qty.is_none(), "qty"),
        (no_time, "max_wait"),
        (no_condition, "conditional"),
    ];
    if let Some((_, argument)) = missing.into_iter().find(|(is_missing, _)| *is_missing) {
        return Err(Error::NullArgument { argument }.into());
    }
    if is_empty {
        return Err(Error::EmptyArgument { argument }.into());
    }
    if qty.is_some_and(|qty| qty < 1) {
        return Err(Error::TooFew { argument: "qty" }.into());
    }
    // A function that only looks may be called where nothing can be written.
    if !what.contains("wait") && transaction::is_read_only() {
        let is_standby = process::is_in_recovery();
        return Err(Error::ReadOnly { what: what.to_owned(), is_standby }.into());
    }
    if is_waiting() {
        return Err(Error::WaitsAlready.into());
    }
    if transaction::has_old_snapshot() {
        return Err(Error::OldSnapshot { what: what.to_owned() }.into());
    }
    Ok(())
}

/// `aimq._check_commit(what)`: fails where a procedure can't commit, which Postgres would find only when it tries: in a
/// transaction block. (Within a function, Postgres says so itself.)
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _check_commit(what: &str) -> Result<(), ErrorReport> {
    if transaction::is_block() {
        return Err(Error::InTransaction { what: what.to_owned() }.into());
    }
    Ok(())
}

/// `aimq._arm(queues, takes, seconds, keep)`: from here on this session is called when there is something to read
/// in one of the queues. True if it was not so before: it has to look after this. `takes`: how many messages it
/// reads at once, 0 if it may not want what there is. `keep`: it stays so over the next commit.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _arm(
    queues: Array<'_, Text>,
    takes: i32,
    seconds: f64,
    keep: bool,
) -> Result<bool, ErrorReport> {
    let queues: Vec<_> = queues.iter().flatten().map(|queue| queue.0).collect();
    if !is_waiting() {
        begin(queues, takes, seconds);
    } else if with_wait(false, |wait| wait.queues != queues) {
        return Err(Error::WaitsAlready.into());
    }
    let must_look = with_wait(false, |wait| {
        wait.is_kept = keep;
        // It has not found what it was called for.
        wait.call = None;
        !std::mem::replace(&mut wait.is_armed, true)
    });
    if !must_look || seconds <= 0.0 {
        return Ok(false);
    }
    shared::prepare();
    let Some(shared) = shared::get() else {
        Notice::NoMemory.report();
        return Ok(true);
    };
    if with_wait(false, |wait| std::mem::take(&mut wait.must_check)) && !are_realtime() {
        give_place_back(shared);
    }
    while let Some(at) = place().or_else(|| enter(shared)) {
        shared.waiters.arm(at);
        let is_current =
            |wait: &mut Wait| wait.claims.iter().all(|claim| shared.slots.is_current(*claim));
        if with_wait(true, is_current) {
            break;
        }
        give_place_back(shared);
    }
    Ok(true)
}

fn begin(queues: Vec<String>, takes: i32, seconds: f64) {
    let until = Duration::try_from_secs_f64(seconds.max(0.0)).ok();
    let wait = Wait {
        queues,
        takes: u32::try_from(takes).unwrap_or(1),
        until: until.and_then(|time| Instant::now().checked_add(time)),
        since: ffi::now(),
        level: transaction::nest_level(),
        ticket: None,
        place: None,
        taken: 0,
        claims: Vec::new(),
        call: None,
        is_armed: false,
        is_called: false,
        must_check: false,
        is_kept: false,
        poll: POLL.0,
    };
    WAIT.set(ManuallyDrop::new(Some(wait)));
    process::set_waiting(true);
}

fn place() -> Option<usize> {
    with_wait(None, |wait| wait.place)
}

/// Takes a place, if there is one: else the session polls.
fn enter(shared: Shared) -> Option<usize> {
    with_wait((), |wait| wait.taken += 1);
    if with_wait(0, |wait| wait.taken) > TAKEN_MOST {
        return None;
    }
    let mut claims = Vec::new();
    let mut may_read = true;
    for queue in with_wait(Vec::new(), |wait| wait.queues.clone()) {
        let table = ready::table_of(&queue);
        may_read &= table.allows(pg_sys::ACL_UPDATE);
        let Some(key) = key_of(&table) else {
            Notice::NotRealtime { queue }.report();
            return None;
        };
        let Ok(Some(claim)) = claims::claim_to_wait(shared, &key) else {
            Notice::NoRoom { setting: "aimq.max_queues" }.report();
            return None;
        };
        claims.push(claim);
    }
    prepare_for_exit();
    let place = with_wait(None, |wait| {
        let ticket = *wait.ticket.get_or_insert_with(|| shared.waiters.ticket());
        let session = Session {
            database: shared::own_oid(),
            pid: process::own_pid(),
            bell: ffi::own_latch(),
            // A session that can't read is called as well, but takes no turn from those that can.
            takes: if may_read { wait.takes } else { 0 },
            since: wait.since,
        };
        wait.place = shared.waiters.enter(shared.slots, session, ticket, &claims);
        wait.claims = claims;
        wait.place
    });
    if place.is_none() {
        Notice::NoRoom { setting: "aimq.max_waiters" }.report();
    }
    place
}

/// Whether all of its queues are realtime still, for sessions as others are.
fn are_realtime() -> bool {
    let queues = with_wait(Vec::new(), |wait| wait.queues.clone());
    queues.iter().all(|queue| key_of(&ready::table_of(queue)).is_some())
}

/// The route of a realtime queue, from the relation cache. Only for a session that may read the table: a session that
/// is called keeps others from being called.
fn key_of(table: &pgmq::Table) -> Option<RouteKey> {
    if !table.is_there() || !table.allows(pg_sys::ACL_SELECT) {
        return None;
    }
    let first = attached(table.oid, &TRIGGERS[..1])?.pop()?;
    // One that fires for replicas only fires for no session.
    let arguments = first.filter(|it| matches!(it.enabled, b'O' | b'A'))?.setting?.arguments;
    Some(Route::from_arguments(&arguments)?.of(table.oid.to_u32()).key())
}

/// `aimq._sleep()`: sleeps until this session is called. True if it is to look, false if its time is over.
#[pg_extern]
fn _sleep() -> bool {
    let event = EVENT.get().unwrap_or_else(|| process::wait_event(c"AimqWait"));
    EVENT.set(Some(event));
    let is_called = sleep(event);
    // Whatever ends the sleep: it is not called any more, and if it was, it looks.
    with_wait(false, |wait| {
        wait.is_armed = false;
        wait.call = shared::get().zip(wait.place).and_then(|(it, at)| it.waiters.woke(at));
        wait.is_called = is_called || wait.call.is_some();
        wait.must_check = wait.is_called && wait.call.is_none();
        wait.is_called
    })
}

/// `CALL aimq._doze()`: the same for a procedure that has just committed. Gives the snapshot back that Postgres makes
/// for CALL itself, as a commit does (utils/mmgr/portalmem.c).
#[pg_extern(
    sql = "CREATE PROCEDURE aimq._doze() LANGUAGE c AS '@MODULE_PATHNAME@', '@FUNCTION_NAME@';"
)]
fn _doze() {
    transaction::forget_snapshots_of_calls();
    _sleep();
}

/// `aimq._is_called()`: what the last sleep came to.
#[pg_extern]
fn _is_called() -> bool {
    with_wait(false, |wait| wait.is_called)
}

/// True if there may be something to read, false if the time is over.
fn sleep(event: u32) -> bool {
    let begun = Instant::now();
    let nothing = (None, Some(begun), POLL.0);
    let (place, until, poll) = with_wait(nothing, |wait| (wait.place, wait.until, wait.poll));
    let place = shared::get().zip(place);
    loop {
        if place.is_some_and(|(shared, at)| shared.waiters.is_called(at)) {
            return true;
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return false;
        }
        let somebody_calls = place.is_some_and(|(shared, _)| has_caller(shared));
        let rest = poll.saturating_sub(begun.elapsed());
        if !somebody_calls && rest.is_zero() {
            with_wait((), |wait| wait.poll = (poll + poll / 2).min(POLL.1));
            return true;
        }
        let limit = if somebody_calls { left } else { Some(left.unwrap_or(rest).min(rest)) };
        process::nap(limit, event);
    }
}

/// Whether somebody calls. Asks for a notifier, where there is none.
fn has_caller(shared: Shared) -> bool {
    shared.own_database().is_some_and(|database| {
        let state = database.state();
        if state != State::Running {
            bell::want(shared, database);
        }
        if bell::lacks_slot(shared, database) {
            Notice::NoSlot.report();
        }
        database.is_watched(ffi::now())
    })
}

/// `aimq._leave()`: this session does not wait any more, and has read what it was called for.
#[pg_extern]
fn _leave() {
    with_wait((), |wait| wait.call = None);
    vacate();
}

/// `aimq._leave_rest()`: the same, but it has read only a part of that.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _leave_rest() {
    vacate();
}

/// The session does not wait any more. What it was called for, and did not read, another session gets. Neither this
/// nor [`roll_back`] and [`committed`] can raise.
pub(crate) fn vacate() {
    if is_waiting() {
        if let Some(shared) = shared::get() {
            give_back(shared, with_wait(None, |wait| wait.call.take()));
            give_place_back(shared);
        }
        let _ = WAIT.try_with(|wait| wait.try_borrow_mut().map(|mut wait| wait.take()));
        process::set_waiting(false);
    }
}

fn give_place_back(shared: Shared) {
    if let Some(at) = with_wait(None, |wait| wait.place.take()) {
        give_back(shared, shared.waiters.vacate(shared.slots, at));
    }
}

fn give_back(shared: Shared, call: Option<Call>) {
    if let Some(call) = call {
        let wake = shared.slots.give_back(call);
        if let Some(database) = shared.databases.find(shared::own_oid()) {
            bell::ring(shared, database, wake);
        }
    }
}

/// The savepoint at `level` was rolled back: so was the call, if it began in there.
pub(crate) fn roll_back(level: u32) {
    if with_wait(false, |wait| wait.level >= level) {
        vacate();
    }
}

/// Whether this session is in a call that waits.
fn is_waiting() -> bool {
    with_wait(false, |_| true)
}

/// The transaction is committed.
pub(crate) fn committed() {
    if !with_wait(false, |wait| std::mem::take(&mut wait.is_kept)) {
        vacate();
    }
}

/// Once in a session: should it end while it waits, its place is free.
fn prepare_for_exit() {
    if !IS_PREPARED.replace(true) {
        process::at_exit(vacate);
    }
}

/// `aimq._has_place()`: whether one more session, of whatever database, can block without polling.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _has_place() -> bool {
    shared::prepare();
    shared::get().is_none_or(|shared| shared.waiters.has_place())
}

/// `aimq._waiters()`: the sessions of this database that wait. Nothing for a caller who may not know the queues.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
#[allow(clippy::type_complexity, reason = "columns are tuples in pgrx")]
fn _waiters() -> TableIterator<
    'static,
    (name!(pid, i32), name!(queues, Vec<Text>), name!(since, Option<TimestampWithTimeZone>)),
> {
    shared::prepare();
    let mut rows = Vec::new();
    if let Some(shared) = shared::get().filter(|_| pgmq::may_see_queues()) {
        let own = shared::own_oid();
        let claims: Vec<_> = shared.slots.of(own).collect();
        for seen in shared.waiters.seen(own) {
            let ours = claims.iter().filter(|claim| seen.slots.contains(&claim.at));
            let names = ours.filter_map(|claim| {
                let key = shared.slots.key(*claim);
                Some(Text(text::from_server(key.route()?.queue.to_bytes())))
            });
            let since = TimestampWithTimeZone::try_from(seen.since.0).ok();
            rows.push((seen.pid.cast_signed(), names.collect(), since));
        }
    }
    TableIterator::new(rows)
}
