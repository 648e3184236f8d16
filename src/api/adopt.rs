//! Takes over from what announced a queue before: pgmq's own notifications, whose listeners notice nothing.

#![allow(clippy::result_large_err, reason = "pgrx reports an ErrorReport whole; no hot path here")]

use aimq_core::route::Route;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::attach::{changed, enable};
use super::wanted::{Wanted, present};
use crate::catalog::pgmq::{self, Queue};
use crate::error::Error;
use crate::pg::text::{self, Text};
use crate::shared;

/// What pgmq's Python client says for a notification of pgmq's, which has no payload.
const EVENT: &str = "insert";

/// `aimq.adopt_pgmq_notify(queue)`: swaps pgmq's trigger for aimq's, on the channel that pgmq's listeners wait on.
/// True if there was one.
///
/// Locks: ACCESS EXCLUSIVE on the queue's table until the transaction ends if there was one (DROP TRIGGER takes it), so
/// that nothing can be enqueued between the two; otherwise ACCESS SHARE.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn adopt_pgmq_notify(queue: Option<Text>) -> Result<bool, ErrorReport> {
    let queue = present("queue", queue.as_deref())?;
    pgmq::check_version()?;
    Ok(adopt(&pgmq::find(queue)?)?)
}

/// `aimq.adopt_pgmq_notify_all()`: every queue; returns those that were swapped.
///
/// Locks as `adopt_pgmq_notify`, for each queue that is swapped, in the order of the tables' names.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn adopt_pgmq_notify_all() -> Result<SetOfIterator<'static, Text>, ErrorReport> {
    pgmq::check_version()?;
    Ok(changed(adopt)?)
}

/// `aimq._has_notifier()`: whether a notifier can run for this session's queues. A caller that takes over from
/// something that works asks this first.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _has_notifier() -> bool {
    shared::prepare();
    shared::here().is_some()
}

fn adopt(queue: &Queue) -> Result<bool, Error> {
    if !queue.has_notify_trigger() {
        return Ok(false);
    }
    queue.check_may_enable(false)?;
    queue.check_may_disable(false)?;
    queue.lock(pg_sys::AccessExclusiveLock, false);
    if !queue.has_notify_trigger() {
        return Ok(false);
    }
    let channel = queue.notify_channel();
    match notifies_on(queue)? {
        // As it is, with all that its workers asked for.
        Some(own) if own == channel => {}
        Some(own) => {
            return Err(Error::RealtimeElsewhere { queue: queue.name.clone(), own, channel });
        }
        None => {
            enable(queue, &Wanted::plain(&channel, EVENT)?)?;
        }
    }
    queue.drop_notify_trigger();
    Ok(true)
}

/// The channel on which the queue is realtime already, if it is; empty if that is not by NOTIFY.
fn notifies_on(queue: &Queue) -> Result<Option<String>, Error> {
    let own = queue.attached()?.swap_remove(0).filter(|own| own.enabled != b'D');
    Ok(own.and_then(|own| own.setting).map(|setting| {
        let route =
            Route::from_arguments(&setting.arguments).filter(|route| route.options().notifies);
        route.map(|route| text::from_server(route.channel.to_bytes())).unwrap_or_default()
    }))
}
