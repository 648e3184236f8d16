//! Which queue's table a trigger that fires belongs to, and whether that is one of pgmq's at all.
//!
//! Triggers fire on partitions, by copies of the one that their parent carries; and anybody can attach our function to
//! a table of his own, with the arguments of others. So a queue is known by its table, not by what the trigger says,
//! and only tables of pgmq's schema count, where not everybody may make one.
//!
//! It is looked up once for each trigger, and remembered until Postgres says that something has changed: on the way of
//! a row there is a comparison.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use aimq_core::hash::BuildFnv;
use pgrx::pg_sys;

use super::columns;
use super::pgmq::SCHEMA;
use super::triggers::BEFORE_ROW;
use crate::pg::catalogs;
use crate::pg::trigger::Fired;

/// How many triggers a backend remembers before it starts again.
const REMEMBERED: usize = 4096;

#[derive(Clone, Copy)]
struct Home {
    /// On which it fires.
    relation: u32,
    /// The table that carries the trigger of which it is a copy, or itself.
    root: u32,
    is_of_pgmq: bool,
    /// What the trigger sees of a row is what happens, see [`is_sure`].
    is_sure: bool,
}

thread_local! {
    /// The one that fired last: rows come in runs.
    static LAST: Cell<Option<(u32, Home)>> = const { Cell::new(None) };
    /// By the trigger's OID.
    static ALL: RefCell<HashMap<u32, Home, BuildFnv>> = RefCell::default();
    /// Postgres has said that something may have changed while nothing could be forgotten.
    static IS_STALE: Cell<bool> = const { Cell::new(false) };
    static IS_LISTENING: Cell<bool> = const { Cell::new(false) };
}

/// The queue's table to which the trigger belongs; `None` if that is not one of pgmq's.
#[inline]
pub(crate) fn of(fired: Fired<'_>) -> Option<u32> {
    let home = look(fired);
    home.is_of_pgmq.then_some(home.root)
}

/// Whether what a BEFORE trigger sees of a row is what happens: no later trigger could keep the row from
/// that, and an inserted row can't run into another except by its id. (`ON CONFLICT DO NOTHING` leaves it out then,
/// which no trigger can see.)
#[inline]
pub(crate) fn is_sure(fired: Fired<'_>) -> bool {
    look(fired).is_sure
}

#[inline]
fn look(fired: Fired<'_>) -> Home {
    let (trigger, relation) = (fired.trigger().tgoid.to_u32(), fired.relation());
    match LAST.get() {
        Some((last, home)) if last == trigger && home.relation == relation && !IS_STALE.get() => {
            home
        }
        _ => find(fired, trigger, relation),
    }
}

#[cold]
fn find(fired: Fired<'_>, trigger: u32, relation: u32) -> Home {
    register();
    if IS_STALE.replace(false) {
        forget_all();
    }
    let known = ALL.with_borrow(|all| all.get(&trigger).copied());
    let home = known.filter(|home| home.relation == relation).unwrap_or_else(|| {
        let root = if fired.is_partition() { root_of(trigger) } else { None };
        let root = root.unwrap_or(relation);
        Home { relation, root, is_of_pgmq: is_of_pgmq(root.into()), is_sure: can_be_sure(fired) }
    });
    ALL.with_borrow_mut(|all| {
        if all.len() >= REMEMBERED {
            all.clear();
        }
        // Without room it is looked up the next time.
        if all.try_reserve(1).is_ok() {
            all.insert(trigger, home);
        }
    });
    LAST.set(Some((trigger, home)));
    home
}

/// See [`is_sure`]; from the relation's cache and the catalog's.
fn can_be_sure(fired: Fired<'_>) -> bool {
    const INSERT: i16 = pg_sys::TRIGGER_TYPE_INSERT as i16;
    const EVENTS: i16 =
        INSERT | pg_sys::TRIGGER_TYPE_UPDATE as i16 | pg_sys::TRIGGER_TYPE_DELETE as i16;
    let own = fired.trigger();
    let events = own.tgtype & EVENTS;
    let mut later = fired.triggers().iter().skip_while(|it| it.tgoid != own.tgoid).skip(1);
    let is_last = later.all(|later| {
        later.tgtype & BEFORE_ROW != BEFORE_ROW || later.tgtype & events == 0 || later.is_disabled()
    });
    is_last && (events & INSERT == 0 || !fired.may_conflict_but_by(columns::id(fired)))
}

/// The table of the trigger of which this one is a copy of a copy, from the catalog.
fn root_of(trigger: u32) -> Option<u32> {
    let mut found = None;
    let mut next = trigger;
    while next != 0
        && let Some((table, parent)) = catalogs::table_of_trigger(next)
    {
        (found, next) = (Some(table), parent);
    }
    found
}

/// Whether a table is one of pgmq's now, from the catalog caches.
pub(crate) fn is_of_pgmq(table: pg_sys::Oid) -> bool {
    catalogs::schema(SCHEMA).is_some_and(|schema| catalogs::schema_of(table) == schema)
}

/// Has Postgres tell when a table or a schema changes. Once in a backend.
fn register() {
    if !IS_LISTENING.replace(true) {
        catalogs::register(on_relation, on_schema);
    }
}

/// Runs within Postgres' own work, also in an abort: so it only notes.
fn on_relation(relation: u32) {
    let is_known = relation == 0
        || ALL.try_with(|all| {
            let all = all.try_borrow();
            all.map_or(true, |all| {
                all.values().any(|home| home.relation == relation || home.root == relation)
            })
        }) != Ok(false);
    if is_known {
        IS_STALE.set(true);
    }
}

fn on_schema() {
    IS_STALE.set(true);
}

fn forget_all() {
    ALL.with_borrow_mut(HashMap::clear);
    LAST.set(None);
}
