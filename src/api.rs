//! The control plane: what users call in migrations.
//!
//! `pg_trigger` is the one source of truth: these functions read it, and change it by the DDL that
//! a user would write. All of them run with the caller's privileges.

#![allow(clippy::result_large_err, reason = "pgrx reports an ErrorReport whole; no hot path here")]

use std::ffi::CStr;

use aimq_core::options::Options;
use aimq_core::payload::{event as events_of, event_fits};
use aimq_core::route::CHANNEL_MAX_BYTES;
use aimq_core::shared::KEY_MAX_BYTES;
use pgrx::datum::Array;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi::quote_literal;

use crate::attached::{Attached, Kind, Setting, TRIGGERS};
use crate::delivery;
use crate::error::{Error, Warning};
use crate::pgmq::{self, Queue, report};

/// `aimq.enable_realtime(queue, channel, event, sink, events, ids)`: makes a queue realtime, or changes its
/// setting. True if something changed.
///
/// Locks: SHARE ROW EXCLUSIVE on the queue's table until the transaction ends if something changes
/// (CREATE TRIGGER takes it: producers wait, readers too, since pgmq.read writes), ACCESS EXCLUSIVE if it tells of fewer
/// events than before (DROP TRIGGER), the same on the table of archived messages where `events` has `job_archived`;
/// else ACCESS SHARE.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn enable_realtime(
    queue: Option<&str>,
    channel: default!(Option<&str>, "'aimq:jobs'"),
    event: default!(Option<&str>, "'job_enqueued'"),
    sink: default!(Option<&str>, "'notify'"),
    events: default!(Option<Array<'_, &str>>, "'{job_enqueued}'"),
    ids: default!(Option<bool>, false),
) -> Result<bool, ErrorReport> {
    let queue = present("queue", queue)?;
    let wanted = Wanted::checked(channel, event, sink, events, ids)?;
    pgmq::check_version()?;
    let changed = enable(&pgmq::find(queue)?, &wanted)?;
    wanted.warn();
    Ok(changed)
}

/// `aimq.disable_realtime(queue)`: makes a queue not realtime. True if it was.
///
/// Locks: ACCESS EXCLUSIVE on the queue's table until the transaction ends if it was realtime (DROP
/// TRIGGER takes it), and on that of archived messages if it told of those; else ACCESS SHARE.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn disable_realtime(queue: Option<&str>) -> Result<bool, ErrorReport> {
    let queue = present("queue", queue)?;
    pgmq::check_version()?;
    Ok(disable(&pgmq::find(queue)?)?)
}

/// `aimq.create_queue(queue, realtime, channel, event, sink, events, ids)`: `pgmq.create` and, if asked,
/// `aimq.enable_realtime`. A queue that exists already is kept, as `pgmq.create` does.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn create_queue(
    queue: Option<&str>,
    realtime: default!(Option<bool>, "true"),
    channel: default!(Option<&str>, "'aimq:jobs'"),
    event: default!(Option<&str>, "'job_enqueued'"),
    sink: default!(Option<&str>, "'notify'"),
    events: default!(Option<Array<'_, &str>>, "'{job_enqueued}'"),
    ids: default!(Option<bool>, false),
) -> Result<(), ErrorReport> {
    let queue = present("queue", queue)?;
    let realtime = realtime.ok_or(Error::NullArgument { argument: "realtime" })?;
    let wanted = Wanted::checked(channel, event, sink, events, ids)?;
    pgmq::check_version()?;
    report(Spi::run_with_args("SELECT pgmq.create($1)", &[queue.into()]));
    if realtime {
        enable(&pgmq::find(queue)?, &wanted)?;
        wanted.warn();
    }
    Ok(())
}

/// `aimq.enable_realtime_all(channel, event, sink, events, ids)`: every queue; returns those that changed.
///
/// Locks as `enable_realtime`, for each queue that changes, in the order of the tables' names.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn enable_realtime_all(
    channel: default!(Option<&str>, "'aimq:jobs'"),
    event: default!(Option<&str>, "'job_enqueued'"),
    sink: default!(Option<&str>, "'notify'"),
    events: default!(Option<Array<'_, &str>>, "'{job_enqueued}'"),
    ids: default!(Option<bool>, false),
) -> Result<SetOfIterator<'static, String>, ErrorReport> {
    let wanted = Wanted::checked(channel, event, sink, events, ids)?;
    pgmq::check_version()?;
    let changed = changed(|queue| enable(queue, &wanted))?;
    wanted.warn();
    Ok(changed)
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

pub(crate) fn changed(
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

pub(crate) fn present<'a>(
    argument: &'static str,
    value: Option<&'a str>,
) -> Result<&'a str, Error> {
    match value {
        None => Err(Error::NullArgument { argument }),
        Some("") => Err(Error::EmptyArgument { argument }),
        Some(value) => Ok(value),
    }
}

/// What a queue is to tell, and where.
pub(crate) struct Wanted<'a> {
    channel: &'a str,
    event: &'a str,
    options: Options,
    /// What befalls its messages later.
    events: Vec<&'static CStr>,
}

impl<'a> Wanted<'a> {
    /// Nothing but the enqueue, by NOTIFY.
    pub(crate) fn plain(channel: &'a str, event: &'a str) -> Result<Self, Error> {
        if channel.len() > CHANNEL_MAX_BYTES {
            return Err(Error::ChannelTooLong { bytes: channel.len() });
        }
        Ok(Self { channel, event, options: Options::default(), events: Vec::new() })
    }

    fn checked(
        channel: Option<&'a str>,
        event: Option<&'a str>,
        sink: Option<&str>,
        events: Option<Array<'_, &str>>,
        ids: Option<bool>,
    ) -> Result<Self, Error> {
        let channel = present("channel", channel)?;
        let event = present("event", event)?;
        if channel.len() > CHANNEL_MAX_BYTES {
            return Err(Error::ChannelTooLong { bytes: channel.len() });
        }
        if !event_fits(event) {
            return Err(Error::EventTooLong { bytes: event.len() });
        }
        if events_of::ALL.iter().any(|it| it.to_bytes() == event.as_bytes()) {
            return Err(Error::ReservedEvent { event: event.into() });
        }
        let (notifies, broadcasts) = match present("sink", sink)? {
            "notify" => (true, false),
            "supabase" => (false, true),
            "both" => (true, true),
            other => {
                let choices = "notify, supabase, both";
                return Err(Error::NoSuchValue { argument: "sink", value: other.into(), choices });
            }
        };
        let ids = ids.ok_or(Error::NullArgument { argument: "ids" })?;
        let options = Options { notifies, broadcasts, ids };
        Ok(Self { channel, event, options, events: checked_events(event, events)? })
    }

    /// What a kind of trigger of the queue is to say. `None` if there is to be none.
    fn setting(&self, queue: &Queue, kind: &Kind) -> Option<Setting> {
        let event = match kind.event {
            None => self.event,
            Some(event) if self.events.contains(&event) => event.to_str().unwrap_or_default(),
            Some(_) => return None,
        };
        Some(Setting::new(self.channel, event, &queue.name, self.options))
    }

    /// Says what will keep broadcasts from being sent.
    fn warn(&self) {
        if self.options.broadcasts {
            if !delivery::has_notifier() {
                Warning::SinkWithoutNotifier.report();
            }
            if !pgmq::has_realtime_send() {
                Warning::NoRealtimeSend.report();
            }
        }
    }
}

fn checked_events(own: &str, events: Option<Array<'_, &str>>) -> Result<Vec<&'static CStr>, Error> {
    let events = events.ok_or(Error::NullArgument { argument: "events" })?;
    let mut wanted = Vec::new();
    let mut has_own = false;
    for event in events.iter() {
        let event = event.ok_or(Error::NullArgument { argument: "events" })?;
        // The enqueue's own event may be said by its name too.
        if event == "job_enqueued" || event == own {
            has_own = true;
        } else {
            let known = events_of::ALL.into_iter().find(|it| it.to_bytes() == event.as_bytes());
            let choices = "job_enqueued, job_started, job_archived, job_deleted";
            let value = event.into();
            wanted.push(known.ok_or(Error::NoSuchValue { argument: "events", value, choices })?);
        }
    }
    if has_own { Ok(wanted) } else { Err(Error::EventsWithoutEnqueued) }
}

/// A trigger that is not as it is to be, and what it is to say.
struct Change {
    kind: &'static Kind,
    wanted: Option<Setting>,
    /// Replacing resets when a trigger fires.
    enabled: u8,
}

/// What there is to change. Nothing if all is as it is to be.
fn changes(queue: &Queue, wanted: &Wanted<'_>) -> Result<Vec<Change>, Error> {
    let all = queue.attached()?;
    let own = all[0].as_ref().map_or(b'O', |attached| attached.enabled);
    let kinds = TRIGGERS.iter().zip(all);
    Ok(kinds
        .filter_map(|(kind, attached)| {
            let wanted = wanted.setting(queue, kind);
            let is_so = match (&attached, &wanted) {
                (Some(Attached { setting, enabled }), Some(_)) => {
                    *enabled != b'D' && *setting == wanted
                }
                (attached, wanted) => attached.is_none() && wanted.is_none(),
            };
            (!is_so).then_some(Change { kind, wanted, enabled: own })
        })
        .collect())
}

pub(crate) fn enable(queue: &Queue, wanted: &Wanted<'_>) -> Result<bool, Error> {
    // So that the commit can ask for a notifier.
    delivery::prepare();
    let found = changes(queue, wanted)?;
    if found.is_empty() {
        return Ok(false);
    }
    let longest = found.iter().filter_map(|it| Some(it.wanted.as_ref()?.key.len())).max();
    if let Some(bytes) = longest.filter(|bytes| wanted.options.broadcasts && *bytes > KEY_MAX_BYTES)
    {
        return Err(Error::NoRoomToBroadcast { bytes, most: KEY_MAX_BYTES });
    }
    for change in &found {
        if queue.table_for(change.kind.is_of_archive).1 == pg_sys::InvalidOid {
            let (queue, table) = (queue.name.clone(), queue.archive.clone());
            return Err(Error::QueueTableNotFound { queue, table });
        }
        match change.wanted {
            Some(_) => queue.check_may_enable(change.kind.is_of_archive)?,
            None => queue.check_may_disable(change.kind.is_of_archive)?,
        }
    }
    // Another session may be doing the same: look again once it can't.
    let is_dropping = found.iter().any(|change| change.wanted.is_none());
    let lock =
        if is_dropping { pg_sys::AccessExclusiveLock } else { pg_sys::ShareRowExclusiveLock };
    queue.lock(lock, found.iter().any(|change| change.kind.is_of_archive));
    let found = changes(queue, wanted)?;
    for Change { kind, wanted: setting, enabled } in &found {
        let (name, table) = (kind.name, queue.table_for(kind.is_of_archive).0);
        let Some(Setting { key }) = setting else {
            report(Spi::run(&format!("DROP TRIGGER {name} ON {table}")));
            continue;
        };
        // OR REPLACE changes it in place: at no moment is there no trigger for others.
        report(Spi::run(&format!(
            "CREATE OR REPLACE TRIGGER {name} {} ON {table} FOR EACH {} EXECUTE FUNCTION aimq.{}({})",
            kind.on,
            kind.level,
            kind.function.to_string_lossy(),
            arguments(key),
        )));
        // A queue that is to be announced on a replica stays so.
        let when = match enabled {
            b'A' => "ALWAYS",
            b'R' => "REPLICA",
            _ => continue,
        };
        report(Spi::run(&format!("ALTER TABLE {table} ENABLE {when} TRIGGER {name}")));
    }
    Ok(!found.is_empty())
}

/// The arguments of a trigger, from a route's key, in which each has a NUL behind it.
fn arguments(key: &[u8]) -> String {
    let parts = key.split(|byte| *byte == 0).take(key.iter().filter(|byte| **byte == 0).count());
    let quoted = parts.map(|part| quote_literal(String::from_utf8_lossy(part)));
    quoted.collect::<Vec<_>>().join(", ")
}

fn disable(queue: &Queue) -> Result<bool, Error> {
    delivery::prepare();
    let of_archive = |all: &[Option<Attached>]| {
        TRIGGERS.iter().zip(all).any(|(kind, it)| kind.is_of_archive && it.is_some())
    };
    let all = queue.attached()?;
    if all.iter().all(Option::is_none) {
        return Ok(false);
    }
    queue.check_may_disable(false)?;
    if of_archive(&all) {
        queue.check_may_disable(true)?;
    }
    queue.lock(pg_sys::AccessExclusiveLock, of_archive(&all));
    let all = queue.attached()?;
    for (kind, _) in TRIGGERS.iter().zip(&all).filter(|(_, attached)| attached.is_some()) {
        let table = queue.table_for(kind.is_of_archive).0;
        report(Spi::run(&format!("DROP TRIGGER {} ON {table}", kind.name)));
    }
    Ok(all.iter().any(Option::is_some))
}
