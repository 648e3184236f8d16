//! The columns of a queue's table. They are looked for by name, because pgmq 1.10 puts a column before others in new
//! tables that it makes.

use std::ffi::c_int;

use pgrx::pg_sys;

use crate::error::Misuse;
use crate::pg::tuple;

/// The number (from 1) of the column `msg_id`.
///
/// # Safety
/// `descriptor` must be valid.
pub(crate) unsafe fn id_attribute(descriptor: pg_sys::TupleDesc) -> Option<c_int> {
    // SAFETY: as demanded of the caller.
    unsafe { attribute(descriptor, MSG_ID, pg_sys::INT8OID) }
}

/// The message's id.
///
/// # Safety
/// `data` must be that of a row trigger that fires now.
pub(crate) unsafe fn id_of(data: &pg_sys::TriggerData) -> Option<i64> {
    // SAFETY: the relation and the row live for the call.
    unsafe {
        let descriptor = (*data.tg_relation).rd_att;
        let number = id_attribute(descriptor)?;
        tuple::number_attribute(data.tg_trigtuple, number, descriptor)
    }
}

/// Whether an UPDATE sets a column, whatever its type.
///
/// # Safety
/// `data` must be that of a trigger that fires now, before an UPDATE.
pub(crate) unsafe fn sets(data: &pg_sys::TriggerData, column: &[u8]) -> bool {
    // SAFETY: the relation lives for the call, as do the columns.
    unsafe {
        position((*data.tg_relation).rd_att, column, |_| true)
            .is_some_and(|number| tuple::sets(data.tg_updatedcols, number))
    }
}

/// Whether an UPDATE counts a reading.
///
/// # Safety
/// As [`sets`].
pub(crate) unsafe fn counts_reads(data: &pg_sys::TriggerData) -> bool {
    // SAFETY: as demanded of the caller.
    unsafe { sets(data, READ_CT) }
}

/// The number (from 1) of the column `vt`: a `timestamptz`, as every queue's table has it.
///
/// # Safety
/// `descriptor` must be valid.
#[inline]
pub(crate) unsafe fn visibility_attribute(descriptor: pg_sys::TupleDesc) -> Option<c_int> {
    // SAFETY: as demanded of the caller.
    unsafe { attribute(descriptor, VT, pg_sys::TIMESTAMPTZOID) }
}

/// Fails unless there is a column `vt`, of whatever type: where it is not a timestamptz, a message counts as one of
/// which it is not known when it can be read.
///
/// # Safety
/// `descriptor` must be valid.
pub(crate) unsafe fn has_visibility(descriptor: pg_sys::TupleDesc) -> Result<(), Misuse> {
    // SAFETY: as demanded of the caller.
    unsafe { position(descriptor, VT, |_| true) }.map(drop).ok_or(Misuse::Table)
}

/// The number of a column of this type.
///
/// # Safety
/// `descriptor` must be valid.
#[inline]
unsafe fn attribute(descriptor: pg_sys::TupleDesc, name: &[u8], of: pg_sys::Oid) -> Option<c_int> {
    // SAFETY: as demanded of the caller.
    unsafe { position(descriptor, name, |found| found == of) }
}

/// The number of a column whose type will do.
///
/// # Safety
/// `descriptor` must be valid.
#[inline]
unsafe fn position(
    descriptor: pg_sys::TupleDesc,
    name: &[u8],
    will_do: impl Fn(pg_sys::Oid) -> bool,
) -> Option<c_int> {
    // SAFETY: as demanded of the caller.
    let attributes = unsafe { tuple::attributes(descriptor) };
    let at = attributes.iter().position(|attribute| {
        let found = &attribute.attname.data[..name.len()];
        found.iter().zip(name).all(|(found, byte)| *found as u8 == *byte)
            && will_do(attribute.atttypid)
            && !attribute.attisdropped
    })?;
    c_int::try_from(at + 1).ok()
}

/// Columns' names with their NUL, as a `NameData` begins.
pub(crate) const VT: &[u8] = b"vt\0";
const READ_CT: &[u8] = b"read_ct\0";
const MSG_ID: &[u8] = b"msg_id\0";
