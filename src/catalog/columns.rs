//! The columns of a queue's table. They are looked for by name, because pgmq 1.10 puts a column before others in new
//! tables that it makes.

use crate::pg::trigger::{Column, Fired, Wide};

/// Columns' names with their NUL, as a `NameData` begins.
const VT: &[u8] = b"vt\0";
const READ_CT: &[u8] = b"read_ct\0";
const MSG_ID: &[u8] = b"msg_id\0";

/// The column `vt`: a `timestamptz`, as every queue's table has it.
#[inline]
pub(crate) fn visibility(fired: Fired<'_>) -> Option<Column> {
    fired.column(VT, Wide::Timestamptz)
}

/// Whether there is a column `vt`, of whatever type: where it is not a timestamptz, a message counts as one of which it
/// is not known when it can be read.
pub(crate) fn has_visibility(fired: Fired<'_>) -> bool {
    fired.has_column(VT)
}

/// Whether an UPDATE sets visibility times.
pub(crate) fn sets_visibility(fired: Fired<'_>) -> bool {
    fired.sets(VT)
}

/// Whether an UPDATE counts a reading.
pub(crate) fn counts_reads(fired: Fired<'_>) -> bool {
    fired.sets(READ_CT)
}

/// The column `msg_id`.
#[inline]
pub(crate) fn id(fired: Fired<'_>) -> Option<Column> {
    fired.column(MSG_ID, Wide::Bigint)
}

/// The message's id.
#[inline]
pub(crate) fn id_of(fired: Fired<'_>) -> Option<i64> {
    fired.number(id(fired)?)
}
