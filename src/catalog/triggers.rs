//! The triggers that make a queue realtime, as the catalogs have them: the one source of truth of what is realtime.
//!
//! SQL that has to find them by itself gets what is defined here: from `in_sql.rs` where Rust writes it, and from
//! `aimq._kinds()` in `sql/views.sql` and `sql/doctor.sql`. `notifier/queues.rs` takes any trigger that says a route,
//! whatever its name. A session that waits is stricter: a trigger that fires for replicas only fires for no session.

use std::ffi::CStr;

use aimq_core::options::Options;
use aimq_core::payload::event;
use aimq_core::route::{CHANNEL_MAX_BYTES, Route};
use pgrx::pg_sys;

use crate::pg::catalogs::{function, with_triggers};
use crate::pg::text;
use crate::pg::trigger::Trigger;

/// A trigger of a realtime queue's tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// As CREATE TRIGGER has it.
    pub(crate) on: &'static str,
    pub(crate) level: &'static str,
    /// As `pg_trigger.tgtype` has it.
    pub(crate) tgtype: i16,
    pub(crate) function: &'static CStr,
    /// What happens to a message, where the trigger tells of that. Such a trigger is on the queue only if somebody
    /// wants to know.
    pub(crate) event: Option<&'static CStr>,
    /// On the table of archived messages.
    pub(crate) is_of_archive: bool,
}

pub(super) const REALTIME: &CStr = c"realtime_trigger";
pub(super) const EVENT: &CStr = c"event_trigger";

/// The functions of all these triggers, in the schema aimq.
pub(crate) const FUNCTIONS: [&CStr; 2] = [REALTIME, EVENT];

/// Whether a function, in whatever schema, is called as our trigger functions are.
pub(crate) fn is_name_of_ours(function: &CStr) -> bool {
    FUNCTIONS.contains(&function)
}

/// The triggers of a realtime queue's tables, in the order of their making. The first is what makes it
/// realtime, and what the view aimq.queues shows; the others came later.
pub(crate) const TRIGGERS: [Kind; 6] = [
    Kind {
        name: "aimq_realtime",
        on: "BEFORE INSERT",
        level: "ROW",
        tgtype: BEFORE_INSERT_ROW,
        function: REALTIME,
        event: None,
        is_of_archive: false,
    },
    Kind {
        name: "aimq_realtime_vt",
        // Not UPDATE OF vt: a column that a trigger names can't be altered.
        on: "BEFORE UPDATE OR DELETE",
        level: "STATEMENT",
        tgtype: BEFORE_CHANGE_STATEMENT,
        function: REALTIME,
        event: None,
        is_of_archive: false,
    },
    Kind {
        name: "aimq_realtime_started",
        on: "BEFORE UPDATE",
        level: "ROW",
        tgtype: BEFORE_ROW | pg_sys::TRIGGER_TYPE_UPDATE as i16,
        function: EVENT,
        event: Some(event::STARTED),
        is_of_archive: false,
    },
    Kind {
        name: "aimq_realtime_deleted",
        on: "BEFORE DELETE",
        level: "ROW",
        tgtype: BEFORE_ROW | pg_sys::TRIGGER_TYPE_DELETE as i16,
        function: EVENT,
        event: Some(event::DELETED),
        is_of_archive: false,
    },
    Kind {
        name: "aimq_realtime_purged",
        on: "BEFORE TRUNCATE",
        level: "STATEMENT",
        tgtype: pg_sys::TRIGGER_TYPE_BEFORE as i16 | pg_sys::TRIGGER_TYPE_TRUNCATE as i16,
        function: EVENT,
        event: Some(event::DELETED),
        is_of_archive: false,
    },
    Kind {
        name: "aimq_realtime_archived",
        // A message that is deleted there may be put back, and then it is not archived once more.
        on: "BEFORE INSERT OR DELETE",
        level: "ROW",
        tgtype: BEFORE_INSERT_ROW | pg_sys::TRIGGER_TYPE_DELETE as i16,
        function: EVENT,
        event: Some(event::ARCHIVED),
        is_of_archive: true,
    },
];

/// `TRIGGER_TYPE_ROW | TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSERT` (catalog/pg_trigger.h).
pub(crate) const BEFORE_INSERT_ROW: i16 = 1 | 2 | 4;

/// An earlier release attached the trigger of archived messages BEFORE INSERT alone. It still tells of them.
pub(super) const FORMER_ARCHIVED: i16 = BEFORE_INSERT_ROW;

/// `TRIGGER_TYPE_ROW | TRIGGER_TYPE_BEFORE` (catalog/pg_trigger.h).
pub(crate) const BEFORE_ROW: i16 = 1 | 2;

/// `TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_DELETE | TRIGGER_TYPE_UPDATE` (catalog/pg_trigger.h).
pub(crate) const BEFORE_CHANGE_STATEMENT: i16 = 2 | 8 | 16;

/// What a queue's trigger says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Its arguments, as the catalog has them.
    pub(crate) arguments: Box<[u8]>,
}

impl Setting {
    pub(crate) fn new(channel: &str, event: &str, queue: &str, options: Options) -> Self {
        // SQL has no NUL.
        let text = text::to_c;
        let (channel, event, queue) = (text(channel), text(event), text(queue));
        let options = text(&options.text());
        Route { options: &options, ..Route::new(&channel, &event, &queue) }.into()
    }
}

impl From<Route<'_>> for Setting {
    fn from(route: Route<'_>) -> Self {
        Self { arguments: route.arguments() }
    }
}

/// The trigger that a queue's table carries.
#[derive(Debug)]
pub(crate) struct Attached {
    /// `None` if it is not the trigger that we would attach: another function, another
    /// level, a WHEN clause.
    pub(crate) setting: Option<Setting>,
    /// How it fires, as in `pg_trigger.tgenabled`: `O`, `D`, `R` or `A`.
    pub(crate) enabled: u8,
}

/// The triggers with names of aimq that a table carries now: from the relation cache, so it is current even where
/// the transaction's snapshot is old. Takes ACCESS SHARE. `None` if the table has gone.
pub(crate) fn attached(table: pg_sys::Oid, kinds: &[Kind]) -> Option<Vec<Option<Attached>>> {
    let functions: Vec<_> = kinds.iter().map(|kind| function(c"aimq", kind.function)).collect();
    with_triggers(table, |triggers| {
        let attached = kinds.iter().zip(functions).map(|(kind, ours)| {
            let name = kind.name.as_bytes();
            let trigger = triggers.iter().find(|it| it.name().to_bytes() == name)?;
            // A trigger of an earlier release may name a column, and keeps it from being altered.
            let is_ours = trigger.tgfoid == ours
                && trigger.tgtype == kind.tgtype
                && trigger.tgnattr == 0
                && !trigger.has_condition();
            Some(Attached {
                setting: route_of(trigger).filter(|_| is_ours).map(Setting::from),
                enabled: trigger.tgenabled.cast_unsigned(),
            })
        });
        attached.collect()
    })
}

/// The triggers with a function of ours that a table carries now, whatever they are called, except the copies that a
/// partition has: each with the queue that it names. From the relation cache. Takes ACCESS SHARE.
pub(crate) fn ours(table: pg_sys::Oid) -> Vec<(Vec<u8>, Vec<u8>)> {
    let functions = FUNCTIONS.map(|name| function(c"aimq", name));
    let found = with_triggers(table, |triggers| {
        let ours = triggers.iter().filter(|it| functions.contains(&it.tgfoid) && !it.tgisclone);
        let bytes = |text: &CStr| text.to_bytes().to_vec();
        ours.map(|it| (bytes(it.name()), it.argument(2).map(bytes).unwrap_or_default())).collect()
    });
    found.unwrap_or_default()
}

/// Whether a trigger of ours on a table, enabled or not, wants broadcasts. From the relation cache. Takes ACCESS SHARE.
pub(crate) fn broadcasts(table: pg_sys::Oid) -> bool {
    let functions = FUNCTIONS.map(|name| function(c"aimq", name));
    let wants = |it: &Trigger| {
        let route = functions.contains(&it.tgfoid).then(|| route_of(it)).flatten();
        route.is_some_and(|route| route.options().broadcasts)
    };
    with_triggers(table, |triggers| triggers.iter().any(wants)) == Some(true)
}

/// Whether a table carries a trigger of this name and function now, and it is not disabled. Takes ACCESS SHARE.
pub(crate) fn has_trigger(table: pg_sys::Oid, name: &CStr, schema: &CStr, of: &CStr) -> bool {
    let of = function(schema, of);
    let is_it = |it: &Trigger| it.name() == name && it.tgfoid == of && !it.is_disabled();
    with_triggers(table, |triggers| triggers.iter().any(is_it)) == Some(true)
}

/// The arguments of a trigger of ours, without its table; `None` unless there are three, or options as a fourth, and
/// the first is a channel.
#[inline]
pub(crate) fn route_of(trigger: &Trigger) -> Option<Route<'_>> {
    let options = match trigger.tgnargs {
        3 => c"",
        4 => trigger.argument(3).filter(|options| !options.is_empty())?,
        _ => return None,
    };
    let argument = |number| trigger.argument(number);
    let route = Route { options, ..Route::new(argument(0)?, argument(1)?, argument(2)?) };
    // Async_Notify would refuse it at commit. We refuse it while the error can still say whose mistake it is.
    let channel = route.channel.count_bytes();
    (channel > 0 && channel <= CHANNEL_MAX_BYTES).then_some(route)
}
