//! What `aimq.stats` and `aimq.notifiers` show: counters of the shared memory, since the server started.

#![allow(clippy::type_complexity, reason = "columns are tuples in pgrx")]

use std::sync::atomic::Ordering::Relaxed;

use aimq_core::route::Route;
use aimq_core::shared::{Database, State};
use aimq_core::timestamp::Timestamp;
use pgrx::prelude::*;

use crate::shared;

/// `aimq._queue_counters()`: what the notifier's slots of this database hold.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _queue_counters() -> TableIterator<
    'static,
    (
        name!(queue, Option<String>),
        name!(channel, Option<String>),
        name!(event, Option<String>),
        name!(options, Option<String>),
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
    if let Some(shared) = shared::get() {
        for claim in shared.table.of(shared::own_oid()) {
            let key = shared.table.key(claim);
            let Some(route) = Route::from_key(&key) else {
                continue;
            };
            let text = |part: &std::ffi::CStr| part.to_str().ok().map(str::to_owned);
            let counters = shared.table.counters(claim);
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

/// `aimq._notifiers()`: the databases that have or had a notifier.
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
);

fn row(entry: &Database) -> Row {
    let pid = entry.pid.load(Relaxed).cast_signed();
    let state = match entry.state() {
        State::None => "none",
        State::Starting => "starting",
        State::Running => "running",
        State::Down => "down",
        State::NoSlot => "no slot",
    };
    let known = |micros: i64| Some(micros).filter(|it| *it != 0).and_then(|it| at(Timestamp(it)));
    let code = entry.last_error.load(Relaxed);
    (
        pg_sys::Oid::from(entry.oid()),
        Some(pid).filter(|pid| *pid != 0),
        state.to_owned(),
        known(entry.started_at.load(Relaxed)),
        signed(entry.starts.load(Relaxed)),
        signed(entry.wake_ups.load(Relaxed)),
        signed(entry.notifications.load(Relaxed)),
        signed(entry.errors.load(Relaxed)),
        Some(code).filter(|code| *code != 0).map(sqlstate),
        known(entry.last_error_at.load(Relaxed)),
    )
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
