//! What `aimq.stats` and `aimq.notifiers` show: counters of the shared memory, since the server started.

#![allow(clippy::type_complexity, reason = "columns are tuples in pgrx")]

use std::sync::atomic::Ordering::Relaxed;

use aimq_core::route::Route;
use aimq_core::shared::{Database, Seat, State};
use aimq_core::timestamp::Timestamp;
use pgrx::prelude::*;

use crate::catalog::pgmq;
use crate::pg::ffi;
use crate::pg::text::{self, Text};
use crate::shared;

/// `aimq._queue_counters()`: what the notifier's slots of this database hold. Nothing for a caller who may not know the
/// queues.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _queue_counters() -> TableIterator<
    'static,
    (
        name!(queue, Option<Text>),
        name!(channel, Option<Text>),
        name!(event, Option<Text>),
        name!(options, Option<Text>),
        name!(transactions, i64),
        name!(messages, i64),
        name!(notifications, i64),
        name!(coalesced, i64),
        name!(calls, i64),
        name!(broadcasts, i64),
        name!(failed_broadcasts, i64),
        name!(last_wake_up, Option<TimestampWithTimeZone>),
        name!(last_failed_broadcast, Option<TimestampWithTimeZone>),
    ),
> {
    shared::prepare();
    let mut rows = Vec::new();
    if let Some(shared) = shared::get().filter(|_| pgmq::may_see_queues()) {
        for claim in shared.slots.of(shared::own_oid()) {
            let key = shared.slots.key(claim);
            let Some(route) = Route::from_key(&key) else {
                continue;
            };
            let text = |part: &std::ffi::CStr| Some(Text(text::from_server(part.to_bytes())));
            let counters = shared.slots.counters(claim);
            rows.push((
                text(route.queue),
                text(route.channel),
                text(route.event),
                text(route.options),
                signed(counters.transactions),
                signed(counters.messages),
                signed(counters.notifications),
                signed(counters.coalesced),
                signed(counters.calls),
                signed(counters.broadcasts),
                signed(counters.failed_broadcasts),
                counters.last_wake_up.and_then(at),
                counters.last_failed_broadcast.and_then(at),
            ));
        }
    }
    TableIterator::new(rows)
}

/// `aimq._notifiers()`: the databases that have or had a notifier. Every role may ask, as for the counters of all
/// databases in `pg_stat_database`: no queue is named.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _notifiers() -> TableIterator<
    'static,
    (
        name!(database, pg_sys::Oid),
        name!(pid, Option<i32>),
        name!(state, String),
        name!(started_at, Option<TimestampWithTimeZone>),
        name!(starts, i64),
        name!(wake_ups, i64),
        name!(notifications, i64),
        name!(errors, i64),
        name!(last_error, Option<String>),
        name!(last_error_at, Option<TimestampWithTimeZone>),
        name!(watcher_pid, Option<i32>),
        name!(watcher_state, String),
        name!(watcher_wake_ups, i64),
    ),
> {
    shared::prepare();
    let entries = shared::get().map_or(&[][..], |shared| shared.databases.all);
    let rows = entries.iter().filter(|entry| entry.oid() != 0).map(row).collect::<Vec<_>>();
    TableIterator::new(rows)
}

/// `aimq._is_preloaded()`: whether the launcher comes with the server.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _is_preloaded() -> bool {
    shared::is_preloaded()
}

/// `aimq._has_room()`: whether one more queue of this database would get a slot.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _has_room() -> bool {
    shared::prepare();
    shared::get().is_none_or(|shared| shared.databases.may_take(shared.slots, shared::own_oid()))
}

type Row = (
    pg_sys::Oid,
    Option<i32>,
    String,
    Option<TimestampWithTimeZone>,
    i64,
    i64,
    i64,
    i64,
    Option<String>,
    Option<TimestampWithTimeZone>,
    Option<i32>,
    String,
    i64,
);

fn row(entry: &Database) -> Row {
    let (pid, state) = about(&entry.notifier);
    let (watcher_pid, watcher_state) = about(&entry.watcher);
    let known = |micros: i64| Some(micros).filter(|it| *it != 0).and_then(|it| at(Timestamp(it)));
    let code = entry.last_error.load(Relaxed);
    (
        pg_sys::Oid::from(entry.oid()),
        pid,
        state,
        known(entry.notifier.started_at.load(Relaxed)),
        signed(entry.notifier.starts.load(Relaxed)),
        signed(entry.notifier.wake_ups.load(Relaxed)),
        signed(entry.notifications.load(Relaxed)),
        signed(entry.errors.load(Relaxed)),
        Some(code).filter(|code| *code != 0).map(sqlstate),
        known(entry.last_error_at.load(Relaxed)),
        watcher_pid,
        watcher_state,
        signed(entry.watcher.wake_ups.load(Relaxed)),
    )
}

/// A process, and what the view says of it.
fn about(seat: &Seat) -> (Option<i32>, String) {
    let state = match seat.state() {
        State::None => "none",
        State::Starting => "starting",
        State::Running if !seat.is_attended(ffi::now()) => "not responding",
        State::Running => "running",
        State::Down => "down",
        State::NoSlot => "no slot",
    };
    let pid = seat.pid.load(Relaxed).cast_signed();
    (Some(pid).filter(|pid| *pid != 0), state.to_owned())
}

fn signed(counter: u64) -> i64 {
    i64::try_from(counter).unwrap_or(i64::MAX)
}

fn at(timestamp: Timestamp) -> Option<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(timestamp.0).ok()
}

/// The five characters of an SQLSTATE that Postgres has packed (utils/elog.h, MAKE_SQLSTATE).
fn sqlstate(code: u32) -> String {
    (0..5).map(|at| char::from(((code >> (6 * at)) & 0x3f) as u8 + b'0')).collect()
}
