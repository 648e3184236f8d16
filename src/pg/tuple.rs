//! A row that a trigger is given, and its columns.

use std::ffi::c_int;

use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;

use super::ffi::raw;

/// Whether an UPDATE sets an attribute (from 1).
///
/// # Safety
/// `columns` must be the set of columns that a trigger was given.
pub(crate) unsafe fn sets(columns: *const pg_sys::Bitmapset, attribute: c_int) -> bool {
    // SAFETY: as demanded of the caller; the member is not negative, which is all that could raise.
    unsafe {
        raw::bms_is_member(attribute - pg_sys::FirstLowInvalidHeapAttributeNumber as c_int, columns)
    }
}

/// The value of a `timestamptz` attribute; `None` if it is null.
///
/// # Safety
/// `tuple` must be of `descriptor`, whose attribute `number` (from 1) must be a timestamptz.
#[inline]
pub(crate) unsafe fn timestamp_attribute(
    tuple: pg_sys::HeapTuple,
    number: c_int,
    descriptor: pg_sys::TupleDesc,
) -> Option<Timestamp> {
    // SAFETY: as demanded of the caller.
    unsafe { number_attribute(tuple, number, descriptor) }.map(Timestamp)
}

/// The value of an attribute of eight bytes; `None` if it is null.
///
/// # Safety
/// `tuple` must be of `descriptor`, whose attribute `number` (from 1) must be a bigint or a timestamptz.
#[inline]
pub(crate) unsafe fn number_attribute(
    tuple: pg_sys::HeapTuple,
    number: c_int,
    descriptor: pg_sys::TupleDesc,
) -> Option<i64> {
    // SAFETY: as demanded of the caller; both are passed by value on the 64-bit platforms that pgrx supports, so the
    // datum is the number.
    unsafe {
        if raw::heap_attisnull(tuple, number, descriptor) {
            return None;
        }
        let datum = raw::nocachegetattr(tuple, number, descriptor);
        Some(datum.value().cast_signed() as i64)
    }
}

/// The attributes of a tuple descriptor. PostgreSQL 18 moved them behind the compact ones
/// (access/tupdesc.h).
///
/// # Safety
/// `descriptor` must point to a valid descriptor that outlives the slice.
#[inline]
pub(crate) unsafe fn attributes<'a>(
    descriptor: pg_sys::TupleDesc,
) -> &'a [pg_sys::FormData_pg_attribute] {
    // SAFETY: as demanded of the caller; the layout is that of access/tupdesc.h.
    unsafe {
        let count = usize::try_from((*descriptor).natts).unwrap_or(0);
        #[cfg(feature = "pg18")]
        let first = (*descriptor).compact_attrs.as_ptr().add(count).cast();
        #[cfg(not(feature = "pg18"))]
        let first = (*descriptor).attrs.as_ptr();
        std::slice::from_raw_parts(first, count)
    }
}
