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
use super::triggers::BEFORE_ROW;

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
///
/// # Safety
/// `data` must be that of a trigger that fires now.
#[inline]
pub(crate) unsafe fn of(data: &pg_sys::TriggerData) -> Option<u32> {
    // SAFETY: as demanded of the caller.
    let home = unsafe { look(data) };
    home.is_of_pgmq.then_some(home.root)
}

/// Whether what a BEFORE trigger sees of a row is what happens: no later trigger could keep the row from
/// that, and an inserted row can't run into another except by its id. (`ON CONFLICT DO NOTHING` leaves it out then,
/// which no trigger can see.)
///
/// # Safety
/// `data` must be that of a trigger that fires now.
#[inline]
pub(crate) unsafe fn is_sure(data: &pg_sys::TriggerData) -> bool {
    // SAFETY: as demanded of the caller.
    unsafe { look(data) }.is_sure
}

#[inline]
unsafe fn look(data: &pg_sys::TriggerData) -> Home {
    // SAFETY: the trigger and its relation live for the call.
    let (trigger, relation) = unsafe { ((*data.tg_trigger).tgoid, (*data.tg_relation).rd_id) };
    match LAST.get() {
        Some((last, home))
            if last == trigger.to_u32()
                && home.relation == relation.to_u32()
                && !IS_STALE.get() =>
        {
            home
        }
        // SAFETY: as demanded of the caller.
        _ => unsafe { find(data, trigger.to_u32(), relation.to_u32()) },
    }
}

#[cold]
unsafe fn find(data: &pg_sys::TriggerData, trigger: u32, relation: u32) -> Home {
    listen();
    if IS_STALE.replace(false) {
        forget_all();
    }
    let known = ALL.with_borrow(|all| all.get(&trigger).copied());
    let home = known.filter(|home| home.relation == relation).unwrap_or_else(|| {
        // SAFETY: the relation lives for the call.
        let is_partition = unsafe { (*(*data.tg_relation).rd_rel).relispartition };
        let root = if is_partition { root_of(trigger).unwrap_or(relation) } else { relation };
        // SAFETY: as demanded of the caller.
        let is_sure = unsafe { can_be_sure(data) };
        Home { relation, root, is_of_pgmq: is_of_pgmq(root.into()), is_sure }
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
unsafe fn can_be_sure(data: &pg_sys::TriggerData) -> bool {
    const INSERT: i16 = pg_sys::TRIGGER_TYPE_INSERT as i16;
    const EVENTS: i16 =
        INSERT | pg_sys::TRIGGER_TYPE_UPDATE as i16 | pg_sys::TRIGGER_TYPE_DELETE as i16;
    // SAFETY: the relation, its triggers and the one that fires live for the call.
    unsafe {
        let own = &*data.tg_trigger;
        let events = own.tgtype & EVENTS;
        let descriptor = &*(*data.tg_relation).trigdesc;
        let count = usize::try_from(descriptor.numtriggers).unwrap_or(0);
        // In the order in which they fire.
        let all = std::slice::from_raw_parts(descriptor.triggers, count).iter();
        let is_last = all.skip_while(|it| it.tgoid != own.tgoid).skip(1).all(|later| {
            later.tgtype & BEFORE_ROW != BEFORE_ROW
                || later.tgtype & events == 0
                || later.tgenabled.cast_unsigned() == b'D'
        });
        is_last && (events & INSERT == 0 || !may_conflict(data.tg_relation))
    }
}

/// Whether a row may run into another except by its id.
unsafe fn may_conflict(relation: pg_sys::Relation) -> bool {
    // SAFETY: the relation is open. The list is ours; a row of the cache is valid until it is released.
    unsafe {
        if !(*(*relation).rd_rel).relhasindex {
            return false;
        }
        let id = columns::id_attribute((*relation).rd_att);
        let list = pg_sys::RelationGetIndexList(relation);
        let count = if list.is_null() { 0 } else { (*list).length as usize };
        let found = (0..count).any(|at| {
            let index = (*(*list).elements.add(at)).oid_value;
            let cache = pg_sys::SysCacheIdentifier::INDEXRELID.cast_signed();
            let row = pg_sys::SearchSysCache1(cache, index.into());
            if row.is_null() {
                return true;
            }
            let index = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_index>();
            let may = index.indisunique || index.indisexclusion;
            let is_of_id = index.indnkeyatts == 1
                && id.is_some_and(|id| i32::from(*index.indkey.values.as_ptr()) == id);
            pg_sys::ReleaseSysCache(row);
            may && !is_of_id
        });
        pg_sys::list_free(list);
        found
    }
}

/// The table of the trigger of which this one is a copy of a copy, from the catalog.
fn root_of(trigger: u32) -> Option<u32> {
    let mut found = None;
    // SAFETY: a scan of a catalog by its index, as trigger.c does it; the row is valid until the scan ends.
    unsafe {
        let catalog =
            pg_sys::table_open(pg_sys::TriggerRelationId, pg_sys::AccessShareLock.cast_signed());
        let mut next = trigger;
        while next != 0 {
            let mut key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyInit(
                &raw mut key,
                pg_sys::Anum_pg_trigger_oid as pg_sys::AttrNumber,
                pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
                pg_sys::F_OIDEQ.into(),
                pg_sys::Oid::from(next).into(),
            );
            let scan = pg_sys::systable_beginscan(
                catalog,
                pg_sys::Oid::from(pg_sys::TriggerOidIndexId),
                true,
                std::ptr::null_mut(),
                1,
                &raw mut key,
            );
            let row = pg_sys::systable_getnext(scan);
            next = 0;
            if !row.is_null() {
                let row = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_trigger>();
                found = Some(row.tgrelid.to_u32());
                next = row.tgparentid.to_u32();
            }
            pg_sys::systable_endscan(scan);
        }
        pg_sys::table_close(catalog, pg_sys::AccessShareLock.cast_signed());
    }
    found
}

/// Whether a table is one of pgmq's now, from the catalog caches.
pub(crate) fn is_of_pgmq(table: pg_sys::Oid) -> bool {
    // SAFETY: asks the catalog caches.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"pgmq".as_ptr(), true);
        schema != pg_sys::InvalidOid && pg_sys::get_rel_namespace(table) == schema
    }
}

/// Has Postgres tell when a table or a schema changes. Once in a backend.
fn listen() {
    if !IS_LISTENING.replace(true) {
        // SAFETY: functions of this library, which is never unloaded. There is room for ten of the first kind and for
        // 64 of the second (utils/cache/inval.c); Postgres itself needs few.
        unsafe {
            let nothing = pg_sys::Datum::from(0);
            pg_sys::CacheRegisterRelcacheCallback(Some(on_relation), nothing);
            let cache = pg_sys::SysCacheIdentifier::NAMESPACEOID.cast_signed();
            pg_sys::CacheRegisterSyscacheCallback(cache, Some(on_schema), nothing);
        }
    }
}

/// Runs within Postgres' own work, also in an abort: so it only notes.
unsafe extern "C-unwind" fn on_relation(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let relation = relation.to_u32();
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

unsafe extern "C-unwind" fn on_schema(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    IS_STALE.set(true);
}

fn forget_all() {
    ALL.with_borrow_mut(HashMap::clear);
    LAST.set(None);
}
