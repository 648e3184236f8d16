//! Triggers are made, changed and dropped here, by the DDL that a user would write.

use aimq_core::route::{RELATION_BYTES, Route};
use aimq_core::shared::KEY_MAX_BYTES;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::astray;
use super::wanted::{News, Wanted};
use crate::catalog::pgmq::{self, Queue};
use crate::catalog::triggers::{Attached, Kind, Setting, TRIGGERS};
use crate::error::Error;
use crate::pg::spi::{Spi, or_raise};
use crate::pg::text::{self, Text};
use crate::shared;

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
pub(super) fn choose(queue: &Queue, wanted: &Wanted<'_>) -> Result<bool, Error> {
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

pub(super) fn enable(queue: &Queue, wanted: &Wanted<'_>) -> Result<bool, Error> {
    // So that the commit can ask for a notifier.
    shared::prepare();
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
            or_raise(Spi::run(&format!("DROP TRIGGER {name} ON {table}")));
            continue;
        };
        or_raise(Spi::run(&create(kind, table, setting)));
        if let Some(enable) = enable_as(kind, table, *enabled) {
            or_raise(Spi::run(&enable));
        }
    }
    Ok(!found.is_empty())
}

/// Makes a trigger, or changes it. OR REPLACE does so in place: at no moment is there no trigger for others.
pub(super) fn create(kind: &Kind, table: &str, setting: &Setting) -> String {
    let Kind { name, on, level, .. } = kind;
    let (function, arguments) = (kind.function.to_string_lossy(), arguments(&setting.arguments));
    format!(
        "CREATE OR REPLACE TRIGGER {name} {on} ON {table} FOR EACH {level} EXECUTE FUNCTION aimq.{function}({arguments})"
    )
}

/// A queue that is to be announced on a replica stays so.
pub(super) fn enable_as(kind: &Kind, table: &str, enabled: u8) -> Option<String> {
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

pub(super) fn disable(queue: &Queue) -> Result<bool, Error> {
    shared::prepare();
    // Tables that were the queue's once. They come first, so that its own are not locked while we wait for these.
    let had_others = astray::take_off(queue);
    Ok(disable_own(queue)? || had_others)
}

pub(super) fn disable_own(queue: &Queue) -> Result<bool, Error> {
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
        or_raise(Spi::run(&format!("DROP TRIGGER {} ON {table}", kind.name)));
    }
    Ok(all.iter().any(Option::is_some))
}

/// The same, as a set.
pub(super) fn changed(
    change: impl Fn(&Queue) -> Result<bool, Error>,
) -> Result<SetOfIterator<'static, Text>, Error> {
    Ok(SetOfIterator::new(changes_of_all(change)?))
}

/// The queues that `change` has changed.
pub(super) fn changes_of_all(
    change: impl Fn(&Queue) -> Result<bool, Error>,
) -> Result<Vec<Text>, Error> {
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
