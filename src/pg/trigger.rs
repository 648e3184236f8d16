//! A trigger that fires, the table that it fires on, and the row that it is given.

use std::ffi::{CStr, c_int};
use std::ops::Deref;

use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::trigger_support::{called_as_trigger, trigger_fired_before, trigger_fired_for_row};

use super::ffi::raw;

/// A trigger of a relation that is open.
#[repr(transparent)]
pub(crate) struct Trigger(pg_sys::Trigger);

impl Deref for Trigger {
    type Target = pg_sys::Trigger;

    fn deref(&self) -> &pg_sys::Trigger {
        &self.0
    }
}

impl Trigger {
    /// # Safety
    /// The descriptor must be null, or that of a relation which stays open.
    #[inline]
    pub(super) unsafe fn all_of<'a>(descriptor: *const pg_sys::TriggerDesc) -> &'a [Self] {
        // SAFETY: as demanded of the caller; the type is transparent.
        unsafe {
            if descriptor.is_null() {
                return &[];
            }
            let count = usize::try_from((*descriptor).numtriggers).unwrap_or(0);
            std::slice::from_raw_parts((*descriptor).triggers.cast::<Self>(), count)
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &CStr {
        // SAFETY: the relation is open.
        unsafe { CStr::from_ptr(self.0.tgname) }
    }

    /// One of its arguments, from 0.
    #[inline]
    pub(crate) fn argument(&self, number: usize) -> Option<&CStr> {
        let count = usize::try_from(self.0.tgnargs).unwrap_or(0);
        // SAFETY: so many there are, each a string that lives as long as the trigger.
        (number < count).then(|| unsafe { CStr::from_ptr(*self.0.tgargs.add(number)) })
    }

    /// Whether it has a WHEN clause.
    pub(crate) fn has_condition(&self) -> bool {
        !self.0.tgqual.is_null()
    }

    /// Whether it fires at all.
    pub(crate) fn is_disabled(&self) -> bool {
        self.0.tgenabled.cast_unsigned() == b'D'
    }
}

/// What a statement does for which a trigger fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Insert,
    Update,
    Delete,
    Truncate,
}

/// A type whose values are eight bytes, passed by value on the 64-bit platforms that pgrx supports.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wide {
    Bigint,
    Timestamptz,
}

/// The number (from 1) of a column of such a type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column(c_int);

#[cfg(feature = "bench_shapes")]
impl Column {
    pub(crate) fn position(self) -> c_int {
        self.0
    }
}

/// What a trigger is called with. All of it lives for the call.
#[derive(Clone, Copy)]
pub(crate) struct Fired<'a>(&'a pg_sys::TriggerData);

impl<'a> Fired<'a> {
    /// `None` if the function is not called as a trigger.
    ///
    /// # Safety
    /// `fcinfo` must be what Postgres called us with.
    #[inline]
    pub(crate) unsafe fn of(fcinfo: pg_sys::FunctionCallInfo) -> Option<Self> {
        // SAFETY: once called_as_trigger says so, the context is a TriggerData that lives for the call.
        unsafe {
            called_as_trigger(fcinfo)
                .then(|| Self(&*(*fcinfo).context.cast::<pg_sys::TriggerData>()))
        }
    }

    #[inline]
    pub(crate) fn on(self) -> On {
        match self.0.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => On::Insert,
            pg_sys::TRIGGER_EVENT_UPDATE => On::Update,
            pg_sys::TRIGGER_EVENT_DELETE => On::Delete,
            _ => On::Truncate,
        }
    }

    #[inline]
    pub(crate) fn is_for_row(self) -> bool {
        trigger_fired_for_row(self.0.tg_event)
    }

    #[inline]
    pub(crate) fn is_before(self) -> bool {
        trigger_fired_before(self.0.tg_event)
    }

    #[inline]
    pub(crate) fn trigger(self) -> &'a Trigger {
        // SAFETY: it lives for the call; the type is transparent.
        unsafe { &*self.0.tg_trigger.cast::<Trigger>() }
    }

    #[inline]
    fn table(self) -> &'a pg_sys::RelationData {
        // SAFETY: it is open for the call.
        unsafe { &*self.0.tg_relation }
    }

    /// The OID of the table on which it fires.
    #[inline]
    pub(crate) fn relation(self) -> u32 {
        self.table().rd_id.to_u32()
    }

    pub(crate) fn is_partition(self) -> bool {
        // SAFETY: as the table.
        unsafe { (*self.table().rd_rel).relispartition }
    }

    /// All triggers of the table, in the order in which they fire.
    #[inline]
    pub(crate) fn triggers(self) -> &'a [Trigger] {
        // SAFETY: the table is open.
        unsafe { Trigger::all_of(self.table().trigdesc) }
    }

    /// The row, as the function has to return it; none for a statement.
    #[inline]
    pub(crate) fn row(self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.0.tg_trigtuple)
    }

    /// The same of an UPDATE: the row as it will be.
    pub(crate) fn new_row(self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.0.tg_newtuple)
    }

    /// The column of this name and type. The name is that of a `NameData`, with its NUL.
    #[inline]
    pub(crate) fn column(self, name: &[u8], of: Wide) -> Option<Column> {
        let of = match of {
            Wide::Bigint => pg_sys::INT8OID,
            Wide::Timestamptz => pg_sys::TIMESTAMPTZOID,
        };
        self.position(name, |found| found == of).map(Column)
    }

    /// Whether there is a column of this name, whatever its type.
    pub(crate) fn has_column(self, name: &[u8]) -> bool {
        self.position(name, |_| true).is_some()
    }

    /// Whether an UPDATE sets a column, whatever its type.
    pub(crate) fn sets(self, name: &[u8]) -> bool {
        let number = self.position(name, |_| true);
        // SAFETY: the set of columns that the trigger was given; the member is not negative, which is all that could
        // raise.
        number.is_some_and(|number| unsafe {
            let member = number - pg_sys::FirstLowInvalidHeapAttributeNumber as c_int;
            raw::bms_is_member(member, self.0.tg_updatedcols)
        })
    }

    /// The number of a column whose type will do.
    #[inline]
    fn position(self, name: &[u8], will_do: impl Fn(pg_sys::Oid) -> bool) -> Option<c_int> {
        let at = self.attributes().iter().position(|attribute| {
            let found = &attribute.attname.data[..name.len()];
            found.iter().zip(name).all(|(found, byte)| *found as u8 == *byte)
                && will_do(attribute.atttypid)
                && !attribute.attisdropped
        })?;
        c_int::try_from(at + 1).ok()
    }

    /// PostgreSQL 18 moved the attributes behind the compact ones (access/tupdesc.h).
    #[inline]
    fn attributes(self) -> &'a [pg_sys::FormData_pg_attribute] {
        // SAFETY: the descriptor of an open table; the layout is that of access/tupdesc.h.
        unsafe {
            let descriptor = self.table().rd_att;
            let count = usize::try_from((*descriptor).natts).unwrap_or(0);
            #[cfg(feature = "pg18")]
            let first = (*descriptor).compact_attrs.as_ptr().add(count).cast();
            #[cfg(not(feature = "pg18"))]
            let first = (*descriptor).attrs.as_ptr();
            std::slice::from_raw_parts(first, count)
        }
    }

    /// The row's value in a column; `None` if it is null, or there is no row.
    #[inline]
    pub(crate) fn number(self, Column(number): Column) -> Option<i64> {
        let (row, descriptor) = (self.0.tg_trigtuple, self.table().rd_att);
        if row.is_null() {
            return None;
        }
        // SAFETY: a row of the table, and a column of it whose type is passed by value, so the datum is the number.
        unsafe {
            if raw::heap_attisnull(row, number, descriptor) {
                return None;
            }
            let datum = raw::nocachegetattr(row, number, descriptor);
            Some(datum.value().cast_signed() as i64)
        }
    }

    /// The same of a time.
    #[inline]
    pub(crate) fn time(self, column: Column) -> Option<Timestamp> {
        self.number(column).map(Timestamp)
    }

    /// Whether a row of the table may run into another one, by an index that is unique or an exclusion, except by this
    /// column alone.
    pub(crate) fn may_conflict_but_by(self, column: Option<Column>) -> bool {
        // SAFETY: the table is open. The list is ours; a row of the cache is valid until it is released.
        unsafe {
            if !(*self.table().rd_rel).relhasindex {
                return false;
            }
            let list = pg_sys::RelationGetIndexList(self.0.tg_relation);
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
                let is_of_it = index.indnkeyatts == 1
                    && column.is_some_and(|it| i32::from(*index.indkey.values.as_ptr()) == it.0);
                pg_sys::ReleaseSysCache(row);
                may && !is_of_it
            });
            pg_sys::list_free(list);
            found
        }
    }
}
