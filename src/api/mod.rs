//! The control plane: what users call in migrations.
//!
//! `pg_trigger` is the one source of truth: these functions read it, and change it by the DDL that
//! a user would write. All of them run with the caller's privileges.

#![allow(clippy::result_large_err, reason = "pgrx reports an ErrorReport whole; no hot path here")]

use std::cell::Cell;
use std::ffi::CStr;

use aimq_core::options::Options;
use aimq_core::payload::{event as events_of, event_fits};
use aimq_core::route::{CHANNEL_MAX_BYTES, RELATION_BYTES, Route};
use aimq_core::shared::KEY_MAX_BYTES;
use pgrx::datum::Array;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::astray;
use crate::attached::{Attached, Kind, Setting, TRIGGERS};
use crate::delivery;
use crate::error::{Advice, Error, Warning};
use crate::passed_on::Spi;
use crate::pgmq::{self, Queue, report};
use crate::text::{self, Text};

/// `aimq.enable_realtime(queue, channel, event, sink, events, ids)`: makes a queue realtime, or changes its
/// setting. True if something changed.
///
/// Locks: SHARE ROW EXCLUSIVE on the queue's table until the transaction ends if something changes (CREATE TRIGGER
/// takes it: producers wait, readers too, since pgmq.read writes), ACCESS EXCLUSIVE if it tells of fewer events than
/// before (DROP TRIGGER), the same on the table of archived messages where `events` has `job_archived`; else ACCESS
/// SHARE.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn enable_realtime(
    queue: Option<Text>,
    channel: default!(Option<Text>, "'aimq:jobs'"),
    event: default!(Option<Text>, "'job_enqueued'"),
    sink: default!(Option<Text>, "'notify'"),
    events: default!(Option<Array<'_, Text>>, "'{job_enqueued}'"),
    ids: default!(Option<bool>, false),
) -> Result<bool, ErrorReport> {
    let queue = present("queue", queue.as_deref())?;
    let (channel, event, sink) = (channel.as_deref(), event.as_deref(), sink.as_deref());
    let wanted = Wanted::checked(channel, event, sink, events, ids)?;
    pgmq::check_version()?;
    let queue = pgmq::find(queue)?;
    let changed = choose(&queue, &wanted)?;
    wanted.warn(&[queue]);
    Ok(changed)
}

/// `aimq.disable_realtime(queue)`: makes a queue not realtime. True if it was.
///
/// Locks: ACCESS EXCLUSIVE on the queue's table until the transaction ends if it was realtime (DROP
/// TRIGGER takes it), and on that of archived messages if it told of those; otherwise ACCESS SHARE.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn disable_realtime(queue: Option<Text>) -> Result<bool, ErrorReport> {
    let queue = present("queue", queue.as_deref())?;
    pgmq::check_version()?;
    Ok(disable(&pgmq::find(queue)?)?)
}

/// `aimq.create_queue(queue, realtime, channel, event, sink, events, ids)`: `pgmq.create` and, if asked,
/// `aimq.enable_realtime`. A queue that exists already is kept, as `pgmq.create` does.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn create_queue(
    queue: Option<Text>,
    realtime: default!(Option<bool>, "true"),
    channel: default!(Option<Text>, "'aimq:jobs'"),
    event: default!(Option<Text>, "'job_enqueued'"),
    sink: default!(Option<Text>, "'notify'"),
    events: default!(Option<Array<'_, Text>>, "'{job_enqueued}'"),
    ids: default!(Option<bool>, false),
) -> Result<(), ErrorReport> {
    let queue = present("queue", queue.as_deref())?;
    let realtime = realtime.ok_or(Error::NullArgument { argument: "realtime" })?;
    let (channel, event, sink) = (channel.as_deref(), event.as_deref(), sink.as_deref());
    let wanted = Wanted::checked(channel, event, sink, events, ids)?;
    pgmq::check_version()?;
    report(Spi::run_with_args("SELECT pgmq.create($1)", &[Text::of(queue).into()]));
    if realtime {
        let queue = pgmq::find(queue)?;
        choose(&queue, &wanted)?;
        wanted.warn(&[queue]);
    }
    Ok(())
}

/// `aimq.enable_realtime_all(channel, event, sink, events, ids)`: every queue; returns those that changed.
///
/// Locks as `enable_realtime`, for each queue that changes, in the order of the tables' names.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn enable_realtime_all(
    channel: default!(Option<Text>, "'aimq:jobs'"),
    event: default!(Option<Text>, "'job_enqueued'"),
    sink: default!(Option<Text>, "'notify'"),
    events: default!(Option<Array<'_, Text>>, "'{job_enqueued}'"),
    ids: default!(Option<bool>, false),
) -> Result<SetOfIterator<'static, Text>, ErrorReport> {
    let (channel, event, sink) = (channel.as_deref(), event.as_deref(), sink.as_deref());
    let wanted = Wanted::checked(channel, event, sink, events, ids)?;
    pgmq::check_version()?;
    let changed = changed(|queue| choose(queue, &wanted))?;
    wanted.warn(&pgmq::find_all());
    Ok(changed)
}

/// `aimq.disable_realtime_all()`: every queue, and every other table that has triggers of aimq; returns the queues that
/// changed, by the names that the triggers say.
///
/// Locks as `disable_realtime`, for each queue that changes, in the order of the tables' names.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn disable_realtime_all() -> Result<SetOfIterator<'static, Text>, ErrorReport> {
    pgmq::check_version()?;
    delivery::prepare();
    let queues = pgmq::find_all();
    let is_a_queues =
        |table| queues.iter().any(|queue| queue.oid == table || queue.archive_oid == table);
    // The others first: nothing waits for a stranger's table with a queue locked.
    let mut named = astray::take_off_all(|table| !is_a_queues(table));
    let mut changed = changes_of_all(disable_own)?;
    named.extend(astray::take_off_all(is_a_queues));
    for queue in named {
        if changed.iter().all(|it| it.0 != queue) {
            changed.push(Text(queue));
        }
    }
    Ok(SetOfIterator::new(changed))
}

/// `aimq.recheck(queue)`: has the watcher look at a queue's table, or at all of them: what can be read is announced,
/// and what becomes readable later is known from then on. For messages that came in while no trigger fired, and nobody
/// could notice: by replication, by a session with `session_replication_role = replica` or `aimq.enabled = off`.
///
/// Looks at once, and if the transaction has written anything, once more when it is committed. Needs SELECT on the
/// queue's table, or on `pgmq.meta` where none is named (42501). Takes no lock. Costs a look at each table. A WARNING
/// where there can be no notifier: then nobody looks.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn recheck(queue: default!(Option<Text>, "NULL")) -> Result<(), ErrorReport> {
    let found = match queue.as_deref() {
        Some(queue) => {
            let found = pgmq::table_of(present("queue", Some(queue))?);
            if !found.is_there() {
                return Err(pgmq::no_table(queue, &found).into());
            }
            found
        }
        None => pgmq::list_of_queues().ok_or(Error::PgmqMissing)?,
    };
    if !found.allows(pg_sys::ACL_SELECT) {
        let (table, role) = (found.quoted(), pgmq::current_role());
        return Err(Error::NoSelectPrivilege { table, role }.into());
    }
    delivery::prepare();
    if !delivery::has_notifier() {
        Warning::NobodyToLook.report();
    }
    delivery::recheck(queue.map(|_| found.oid.to_u32()));
    Ok(())
}

/// `aimq._check_sight()`: fails unless the caller may know which queues there are. So errors of the views name what
/// is missing.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _check_sight() -> Result<(), ErrorReport> {
    Ok(pgmq::check_may_see_queues()?)
}

/// `aimq._check_pgmq()`: fails unless pgmq is recent enough. Run by CREATE EXTENSION.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn _check_pgmq() -> Result<(), ErrorReport> {
    Ok(pgmq::check_version()?)
}

pub(crate) fn changed(
    change: impl Fn(&Queue) -> Result<bool, Error>,
) -> Result<SetOfIterator<'static, Text>, Error> {
    Ok(SetOfIterator::new(changes_of_all(change)?))
}

fn changes_of_all(change: impl Fn(&Queue) -> Result<bool, Error>) -> Result<Vec<Text>, Error> {
    let mut changed = Vec::new();
    for queue in pgmq::find_all() {
        match change(&queue) {
            Ok(true) => changed.push(Text(queue.name)),
            // It was dropped since it was looked up: then there is nothing to change.
            Ok(false) | Err(Error::QueueTableNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(changed)
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
    /// What happens to its messages later.
    events: Vec<&'static CStr>,
    /// What of it is new, for any of the queues that were changed.
    news: Cell<News>,
}

/// What somebody who has made a queue realtime, or changed it, may want advice about.
#[derive(Clone, Copy, Default)]
struct News {
    /// Listeners have to wait on another channel.
    channel: bool,
    /// Listeners hear nothing any more.
    silence: bool,
    /// It was not realtime.
    realtime: bool,
}

impl<'a> Wanted<'a> {
    /// Nothing but the enqueue, by NOTIFY.
    pub(crate) fn plain(channel: &'a str, event: &'a str) -> Result<Self, Error> {
        if text::bytes(channel) > CHANNEL_MAX_BYTES {
            return Err(Error::ChannelTooLong { bytes: text::bytes(channel) });
        }
        Ok(Self {
            channel,
            event,
            options: Options::default(),
            events: Vec::new(),
            news: Cell::default(),
        })
    }

    fn checked(
        channel: Option<&'a str>,
        event: Option<&'a str>,
        sink: Option<&str>,
        events: Option<Array<'_, Text>>,
        ids: Option<bool>,
    ) -> Result<Self, Error> {
        let channel = present("channel", channel)?;
        let event = present("event", event)?;
        if text::bytes(channel) > CHANNEL_MAX_BYTES {
            return Err(Error::ChannelTooLong { bytes: text::bytes(channel) });
        }
        if !event_fits(event)? {
            return Err(Error::EventTooLong { bytes: text::bytes(event) });
        }
        for (argument, value) in [("channel", channel), ("event", event)] {
            if !text::is_known(value) {
                return Err(Error::UnknownEncoding { argument });
            }
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
        let events = checked_events(event, events)?;
        Ok(Self { channel, event, options, events, news: Cell::default() })
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

    /// Says what will keep broadcasts of these queues from being sent, and what listeners should know.
    fn warn(&self, queues: &[Queue]) {
        let news = self.news.get();
        if news.silence {
            Advice::NoListeners.report();
        } else if news.channel && text::needs_quotes(self.channel) {
            Advice::NeedsQuotes { channel: self.channel.to_owned() }.report();
        }
        if news.realtime && delivery::is_slow() {
            Advice::SlowMode.report();
        }
        if self.options.broadcasts {
            let of_archive = self.events.contains(&events_of::ARCHIVED);
            let kinds = if of_archive { &[false, true][..] } else { &[false] };
            let all = queues.iter().flat_map(|queue| kinds.iter().map(move |kind| (queue, *kind)));
            let tables: Vec<_> = all
                .filter(|(queue, kind)| queue.is_superusers(*kind))
                .map(|(queue, kind)| queue.table_for(kind).0.to_owned())
                .collect();
            if !delivery::has_notifier() {
                Warning::SinkWithoutNotifier.report();
            }
            if !pgmq::has_realtime_send() {
                Warning::NoRealtimeSend.report();
            }
            if !tables.is_empty() {
                Warning::BroadcastAsSuperuser { tables }.report();
            }
        }
    }
}

fn checked_events(own: &str, events: Option<Array<'_, Text>>) -> Result<Vec<&'static CStr>, Error> {
    let events = events.ok_or(Error::NullArgument { argument: "events" })?;
    let mut wanted = Vec::new();
    let mut has_own = false;
    for event in events.iter() {
        let event = event.ok_or(Error::NullArgument { argument: "events" })?;
        // The enqueue's own event may be said by its name too.
        if &*event == "job_enqueued" || &*event == own {
            has_own = true;
        } else {
            let known = events_of::ALL.into_iter().find(|it| it.to_bytes() == event.as_bytes());
            let choices = "job_enqueued, job_started, job_archived, job_deleted";
            let value = event.0;
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

/// As [`enable`], for a user who has chosen the arguments himself, and may want advice.
fn choose(queue: &Queue, wanted: &Wanted<'_>) -> Result<bool, Error> {
    let before = queue.attached()?.swap_remove(0).and_then(|own| own.setting);
    if !enable(queue, wanted)? {
        return Ok(false);
    }
    let before = before.as_ref().and_then(|setting| Route::from_arguments(&setting.arguments));
    let heard_on = before
        .as_ref()
        .filter(|route| route.options().notifies)
        .map(|route| text::from_server(route.channel.to_bytes()));
    let notifies = wanted.options.notifies;
    let news = wanted.news.get();
    wanted.news.set(News {
        channel: news.channel || notifies && heard_on.as_deref() != Some(wanted.channel),
        silence: news.silence || !notifies && (before.is_none() || heard_on.is_some()),
        realtime: news.realtime || before.is_none(),
    });
    Ok(true)
}

pub(crate) fn enable(queue: &Queue, wanted: &Wanted<'_>) -> Result<bool, Error> {
    // So that the commit can ask for a notifier.
    delivery::prepare();
    let found = changes(queue, wanted)?;
    if found.is_empty() {
        return Ok(false);
    }
    let longest = found.iter().filter_map(|it| Some(it.wanted.as_ref()?.arguments.len())).max();
    let most = KEY_MAX_BYTES - RELATION_BYTES;
    if let Some(bytes) = longest.filter(|bytes| wanted.options.broadcasts && *bytes > most) {
        return Err(Error::NoRoomToBroadcast { bytes, most });
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
        let Some(setting) = setting else {
            report(Spi::run(&format!("DROP TRIGGER {name} ON {table}")));
            continue;
        };
        report(Spi::run(&create(kind, table, setting)));
        if let Some(enable) = enable_as(kind, table, *enabled) {
            report(Spi::run(&enable));
        }
    }
    Ok(!found.is_empty())
}

/// Makes a trigger, or changes it. OR REPLACE does so in place: at no moment is there no trigger for others.
pub(crate) fn create(kind: &Kind, table: &str, setting: &Setting) -> String {
    let Kind { name, on, level, .. } = kind;
    let (function, arguments) = (kind.function.to_string_lossy(), arguments(&setting.arguments));
    format!(
        "CREATE OR REPLACE TRIGGER {name} {on} ON {table} FOR EACH {level} EXECUTE FUNCTION aimq.{function}({arguments})"
    )
}

/// A queue that is to be announced on a replica stays so.
pub(crate) fn enable_as(kind: &Kind, table: &str, enabled: u8) -> Option<String> {
    let when = match enabled {
        b'A' => "ALWAYS",
        b'R' => "REPLICA",
        _ => return None,
    };
    Some(format!("ALTER TABLE {table} ENABLE {when} TRIGGER {}", kind.name))
}

/// The arguments of a trigger in SQL, from what the catalog has of them: each with a NUL behind it.
fn arguments(all: &[u8]) -> String {
    let parts = all.split(|byte| *byte == 0).take(all.iter().filter(|byte| **byte == 0).count());
    let quoted = parts.map(|part| text::quote_literal(&text::from_server(part)));
    quoted.collect::<Vec<_>>().join(", ")
}

fn disable(queue: &Queue) -> Result<bool, Error> {
    delivery::prepare();
    // Tables that were the queue's once. They come first, so that its own are not locked while we wait for these.
    let had_others = astray::take_off(queue);
    Ok(disable_own(queue)? || had_others)
}

fn disable_own(queue: &Queue) -> Result<bool, Error> {
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
