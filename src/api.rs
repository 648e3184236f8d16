//! The control plane: what users call in migrations.
//!
//! `pg_trigger` is the one source of truth: these functions read it, and change it by the DDL that
//! a user would write. All of them run with the caller's privileges.

#![allow(clippy::result_large_err, reason = "pgrx reports an ErrorReport whole; no hot path here")]

use aimq_core::payload::event_fits;
use aimq_core::route::CHANNEL_MAX_BYTES;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi::quote_literal;

use crate::delivery;
use crate::error::Error;
use crate::pgmq::{self, Attached, Queue, Setting, TRIGGERS, report};

/// `aimq.enable_realtime(queue, channel, event)`: makes a queue realtime, or changes its setting.
/// True if something changed.
///
/// Locks: SHARE ROW EXCLUSIVE on the queue's table until the transaction ends if something changes
/// (CREATE TRIGGER takes it: producers wait, readers too, since pgmq.read writes); else ACCESS SHARE.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn enable_realtime(
    queue: Option<&str>,
    channel: default!(Option<&str>, "'aimq:jobs'"),
    event: default!(Option<&str>, "'job_enqueued'"),
) -> Result<bool, ErrorReport> {
    let queue = present("queue", queue)?;
    let (channel, event) = checked(channel, event)?;
    pgmq::check_version()?;
    Ok(enable(&pgmq::find(queue)?, channel, event)?)
}

/// `aimq.disable_realtime(queue)`: makes a queue not realtime. True if it was.
///
/// Locks: ACCESS EXCLUSIVE on the queue's table until the transaction ends if it was realtime (DROP
/// TRIGGER takes it); else ACCESS SHARE.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn disable_realtime(queue: Option<&str>) -> Result<bool, ErrorReport> {
    let queue = present("queue", queue)?;
    pgmq::check_version()?;
    Ok(disable(&pgmq::find(queue)?)?)
}

/// `aimq.create_queue(queue, realtime, channel, event)`: `pgmq.create` and, if asked,
/// `aimq.enable_realtime`. A queue that exists already is kept, as `pgmq.create` does.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn create_queue(
    queue: Option<&str>,
    realtime: default!(Option<bool>, "true"),
    channel: default!(Option<&str>, "'aimq:jobs'"),
    event: default!(Option<&str>, "'job_enqueued'"),
) -> Result<(), ErrorReport> {
    let queue = present("queue", queue)?;
    let realtime = realtime.ok_or(Error::NullArgument { argument: "realtime" })?;
    let (channel, event) = checked(channel, event)?;
    pgmq::check_version()?;
    report(Spi::run_with_args("SELECT pgmq.create($1)", &[queue.into()]));
    if realtime {
        enable(&pgmq::find(queue)?, channel, event)?;
    }
    Ok(())
}

/// `aimq.enable_realtime_all(channel, event)`: every queue; returns those that changed.
///
/// Locks as `enable_realtime`, for each queue that changes, in the order of the tables' names.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn enable_realtime_all(
    channel: default!(Option<&str>, "'aimq:jobs'"),
    event: default!(Option<&str>, "'job_enqueued'"),
) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    let (channel, event) = checked(channel, event)?;
    pgmq::check_version()?;
    Ok(changed(|queue| enable(queue, channel, event))?)
}

/// `aimq.disable_realtime_all()`: every queue; returns those that changed.
///
/// Locks as `disable_realtime`, for each queue that changes, in the order of the tables' names.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn disable_realtime_all() -> Result<SetOfIterator<'static, String>, ErrorReport> {
    pgmq::check_version()?;
    Ok(changed(disable)?)
}

/// `aimq._check_pgmq()`: fails unless pgmq is recent enough. Run by CREATE EXTENSION.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _check_pgmq() -> Result<(), ErrorReport> {
    Ok(pgmq::check_version()?)
}

fn changed(
    change: impl Fn(&Queue) -> Result<bool, Error>,
) -> Result<SetOfIterator<'static, String>, Error> {
    let mut changed = Vec::new();
    for queue in pgmq::find_all() {
        match change(&queue) {
            Ok(true) => changed.push(queue.name),
            // Dropped since it was looked up: then there is nothing to change.
            Ok(false) | Err(Error::QueueTableNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(SetOfIterator::new(changed))
}

fn present<'a>(argument: &'static str, value: Option<&'a str>) -> Result<&'a str, Error> {
    match value {
        None => Err(Error::NullArgument { argument }),
        Some("") => Err(Error::EmptyArgument { argument }),
        Some(value) => Ok(value),
    }
}

fn checked<'a>(
    channel: Option<&'a str>,
    event: Option<&'a str>,
) -> Result<(&'a str, &'a str), Error> {
    let channel = present("channel", channel)?;
    let event = present("event", event)?;
    if channel.len() > CHANNEL_MAX_BYTES {
        return Err(Error::ChannelTooLong { bytes: channel.len() });
    }
    if !event_fits(event) {
        return Err(Error::EventTooLong { bytes: event.len() });
    }
    Ok((channel, event))
}

fn enable(queue: &Queue, channel: &str, event: &str) -> Result<bool, Error> {
    // So that the commit can ask for a notifier.
    delivery::prepare();
    let wanted = Setting::new(channel, event, &queue.name);
    let has_it = |attached: &Option<Attached>| {
        attached.as_ref().is_some_and(|a| a.enabled != b'D' && a.setting.as_ref() == Some(&wanted))
    };
    if queue.attached()?.iter().all(has_it) {
        return Ok(false);
    }
    queue.check_may_enable()?;
    // Another session may be doing the same: look again once it can't.
    queue.lock(pg_sys::ShareRowExclusiveLock);
    let all = queue.attached()?;
    if all.iter().all(has_it) {
        return Ok(false);
    }
    // Replacing resets when a trigger fires; a queue that is to be announced on a replica stays so.
    let when = match all[0].as_ref().map(|attached| attached.enabled) {
        Some(b'A') => Some("ALWAYS"),
        Some(b'R') => Some("REPLICA"),
        _ => None,
    };
    let missing = TRIGGERS.iter().zip(&all).filter(|(_, attached)| !has_it(attached));
    for (kind, _) in missing {
        let (name, table) = (kind.name, &queue.table);
        // OR REPLACE changes it in place: at no moment is there no trigger for others.
        report(Spi::run(&format!(
            "CREATE OR REPLACE TRIGGER {name} {} ON {table} FOR EACH {} \
             EXECUTE FUNCTION aimq.realtime_trigger({}, {}, {})",
            kind.on,
            kind.level,
            quote_literal(channel),
            quote_literal(event),
            quote_literal(&queue.name),
        )));
        if let Some(when) = when {
            report(Spi::run(&format!("ALTER TABLE {table} ENABLE {when} TRIGGER {name}")));
        }
    }
    Ok(true)
}

fn disable(queue: &Queue) -> Result<bool, Error> {
    delivery::prepare();
    if queue.attached()?.iter().all(Option::is_none) {
        return Ok(false);
    }
    queue.check_may_disable()?;
    queue.lock(pg_sys::AccessExclusiveLock);
    let all = queue.attached()?;
    for (kind, _) in TRIGGERS.iter().zip(&all).filter(|(_, attached)| attached.is_some()) {
        report(Spi::run(&format!("DROP TRIGGER {} ON {}", kind.name, queue.table)));
    }
    Ok(all.iter().any(Option::is_some))
}
