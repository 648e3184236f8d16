//! What the catalogs and their caches say, by the functions of the server: without SQL, and without a snapshot.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys;

use super::trigger::Trigger;

/// The OID of a schema.
pub(crate) fn schema(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: asks the catalog caches by a name that lives over the call.
    let found = unsafe { pg_sys::get_namespace_oid(name.as_ptr(), true) };
    (found != pg_sys::InvalidOid).then_some(found)
}

/// The schema of a relation.
pub(crate) fn schema_of(relation: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: asks the catalog caches.
    unsafe { pg_sys::get_rel_namespace(relation) }
}

/// The relation of this name in a schema; `InvalidOid` if there is none. Takes no lock.
pub(crate) fn relation(name: &CStr, schema: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: asks the catalog caches by a name that lives over the call.
    unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) }
}

/// As `pg_class.relkind` has it.
pub(crate) fn kind_of(relation: pg_sys::Oid) -> u8 {
    // SAFETY: asks the catalog caches.
    unsafe { pg_sys::get_rel_relkind(relation) }.cast_unsigned()
}

/// The names of a relation's schema and its own, as the catalogs have them. `None` if it has gone.
pub(crate) fn names_of(relation: pg_sys::Oid) -> Option<[Vec<u8>; 2]> {
    // SAFETY: asks the catalog caches; both names are copies, or null.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        let schema = pg_sys::get_namespace_name(schema_of(relation));
        if name.is_null() || schema.is_null() {
            return None;
        }
        Some([schema, name].map(|it| CStr::from_ptr(it).to_bytes().to_vec()))
    }
}

/// Empties this process's caches of the catalogs. What was looked for and not found is remembered there for ever, also of
/// tables that have gone since: for instance that one has no statistics (utils/cache/catcache.c). In a transaction. All
/// that is needed is read again, which takes some milliseconds.
pub(crate) fn empty_caches() {
    // SAFETY: what the server does itself where it has missed changes of others (storage/ipc/sinval.c). We hold no
    // pointer into the caches.
    unsafe { pg_sys::InvalidateSystemCaches() }
}

/// The OID of a function without arguments.
pub(crate) fn function(schema: &CStr, name: &CStr) -> pg_sys::Oid {
    // SAFETY: a list of two strings, both copied, in the memory of the current call.
    unsafe {
        let part = |name: &CStr| pg_sys::makeString(pg_sys::pstrdup(name.as_ptr())).cast();
        let schema = pg_sys::lappend(std::ptr::null_mut(), part(schema));
        pg_sys::LookupFuncName(pg_sys::lappend(schema, part(name)), 0, std::ptr::null(), true)
    }
}

/// What `look` finds among the triggers of a table, by the relation cache. Takes ACCESS SHARE. `None` if the table has
/// gone.
pub(crate) fn with_triggers<T>(
    table: pg_sys::Oid,
    look: impl FnOnce(&[Trigger]) -> T,
) -> Option<T> {
    // SAFETY: the relation stays open, and so its trigger descriptor valid, until it is closed;
    // nothing in between keeps a pointer into it.
    unsafe {
        let relation = pg_sys::try_relation_open(table, pg_sys::AccessShareLock.cast_signed());
        if relation.is_null() {
            return None;
        }
        let found = look(Trigger::all_of((*relation).trigdesc));
        pg_sys::relation_close(relation, pg_sys::AccessShareLock.cast_signed());
        Some(found)
    }
}

/// The table that a trigger is on, and the trigger of which it is a copy or 0: from the catalog.
pub(crate) fn table_of_trigger(trigger: u32) -> Option<(u32, u32)> {
    // SAFETY: a scan of a catalog by its index, as trigger.c does it; the row is valid until the scan ends.
    unsafe {
        let catalog =
            pg_sys::table_open(pg_sys::TriggerRelationId, pg_sys::AccessShareLock.cast_signed());
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &raw mut key,
            pg_sys::Anum_pg_trigger_oid as pg_sys::AttrNumber,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::F_OIDEQ.into(),
            pg_sys::Oid::from(trigger).into(),
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
        let found = (!row.is_null()).then(|| {
            let row = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_trigger>();
            (row.tgrelid.to_u32(), row.tgparentid.to_u32())
        });
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, pg_sys::AccessShareLock.cast_signed());
        found
    }
}

/// Takes `mode` on a table until the transaction ends, waiting for it as any DDL would.
pub(crate) fn lock(relation: pg_sys::Oid, mode: u32) {
    // SAFETY: locking takes an OID, whether or not a table has it.
    unsafe { pg_sys::LockRelationOid(relation, mode.cast_signed()) };
}

/// The same without waiting. Whether it has the lock.
pub(crate) fn try_lock(relation: pg_sys::Oid, mode: u32) -> bool {
    // SAFETY: as above.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, mode.cast_signed()) }
}

/// Whether the caller has a privilege on a relation: one of the `ACL_…`.
pub(crate) fn allows(relation: pg_sys::Oid, privilege: u32) -> bool {
    // SAFETY: asks the catalog caches.
    unsafe {
        let mode = pg_sys::AclMode::from(privilege);
        pg_sys::pg_class_aclcheck(relation, pg_sys::GetUserId(), mode)
            == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Whether the caller has it on any of the columns.
pub(crate) fn allows_a_column(relation: pg_sys::Oid, privilege: u32) -> bool {
    // SAFETY: asks the catalog caches.
    unsafe {
        let (user, mode) = (pg_sys::GetUserId(), pg_sys::AclMode::from(privilege));
        let any = pg_sys::AclMaskHow::ACLMASK_ANY;
        pg_sys::pg_attribute_aclcheck_all(relation, user, mode, any)
            == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Whether the caller may look into a schema.
pub(crate) fn allows_usage(schema: pg_sys::Oid) -> bool {
    // SAFETY: asks the catalog caches, which know nobody's privileges on what is not there.
    unsafe {
        let (user, usage) = (pg_sys::GetUserId(), pg_sys::AclMode::from(pg_sys::ACL_USAGE));
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let answer = pg_sys::pg_namespace_aclcheck(schema, user, usage);
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        let answer = pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, schema, user, usage);
        answer == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Whether nobody changes or drops a database now: takes the lock that a connection to it takes, without waiting
/// (utils/init/postinit.c). It is released with the transaction.
pub(crate) fn may_connect(database: u32) -> bool {
    let tag = pg_sys::LOCKTAG {
        locktag_field1: 0,
        locktag_field2: pg_sys::DatabaseRelationId.to_u32(),
        locktag_field3: database,
        locktag_field4: 0,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    };
    // SAFETY: the tag of a database (storage/lock.h, SET_LOCKTAG_OBJECT).
    let got = unsafe { pg_sys::LockAcquire(&tag, pg_sys::RowExclusiveLock as i32, false, true) };
    got != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Calls `look` with each row of pg_database until it says true; whether it did. In a transaction.
pub(crate) fn each_database(mut look: impl FnMut(&pg_sys::FormData_pg_database) -> bool) -> bool {
    // SAFETY: a scan of a shared catalog as autovacuum's launcher does it (get_database_list): the rows
    // are valid until the scan goes on.
    unsafe {
        let relation =
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        let mut found = false;
        loop {
            let row = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if row.is_null() {
                break;
            }
            if look(&*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_database>()) {
                found = true;
                break;
            }
        }
        pg_sys::heap_endscan(scan.cast());
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        found
    }
}

/// Of changes of a relation, and of any schema.
type Callbacks = (fn(u32), fn());

thread_local! {
    static CALLBACKS: Cell<Option<Callbacks>> = const { Cell::new(None) };
}

/// Has Postgres tell when a relation changes, by its OID or 0 for all, and when a schema does. To be called once in a
/// backend. What is called runs within Postgres' own work, also in an abort.
pub(crate) fn register(on_relation: fn(u32), on_schema: fn()) {
    CALLBACKS.set(Some((on_relation, on_schema)));
    // SAFETY: functions of this library, which is never unloaded. There is room for ten of the first kind and for
    // 64 of the second (utils/cache/inval.c); Postgres itself needs few.
    unsafe {
        let nothing = pg_sys::Datum::from(0);
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), nothing);
        let cache = pg_sys::SysCacheIdentifier::NAMESPACEOID.cast_signed();
        pg_sys::CacheRegisterSyscacheCallback(cache, Some(schema_changed), nothing);
    }
}

unsafe extern "C-unwind" fn relation_changed(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    if let Some((on_relation, _)) = CALLBACKS.get() {
        on_relation(relation.to_u32());
    }
}

unsafe extern "C-unwind" fn schema_changed(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    if let Some((_, on_schema)) = CALLBACKS.get() {
        on_schema();
    }
}
