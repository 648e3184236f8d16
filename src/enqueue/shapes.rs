//! Other shapes that the trigger could have, for `make bench SHAPES=1` only: never part of a release.
//! docs/design/trigger.md says which won.

#![allow(unreachable_pub, unsafe_code, reason = "Postgres finds them by their symbols")]

use std::ffi::c_int;

use aimq_core::route::Route;
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::pgrx_extern_c_guard;

use super::batch;
use crate::catalog::columns::visibility;
use crate::catalog::triggers::route_of;
use crate::error::Misuse;
use crate::pg::function::version_1;
use crate::pg::trigger::Fired;

fn note(route: Route<'_>, visible_at: Timestamp) {
    let _ = batch::record(route, || Ok(Some(visible_at)));
}

/// A measurement attaches it as it is meant.
macro_rules! shape {
    ($name:ident, $record:ident, $body:expr) => {
        version_1!(
            #[doc(hidden)]
            $name,
            $record,
            |fcinfo: pg_sys::FunctionCallInfo| pgrx_extern_c_guard(|| ($body)(fcinfo))
        );
    };
}

shape!(shape_after_row, pg_finfo_shape_after_row, |fcinfo: pg_sys::FunctionCallInfo| {
    let fired = Fired::of(fcinfo).unwrap();
    let _ = batch::record(route_of(fired.trigger()).unwrap(), || {
        Ok(fired.time(visibility(fired).ok_or(Misuse::Table)?))
    });
    pg_sys::Datum::from(0)
});

shape!(shape_statement, pg_finfo_shape_statement, |fcinfo: pg_sys::FunctionCallInfo| {
    note(route_of(Fired::of(fcinfo).unwrap().trigger()).unwrap(), Timestamp(0));
    pg_sys::Datum::from(0)
});

shape!(shape_statement_rows, pg_finfo_shape_statement_rows, |fcinfo: pg_sys::FunctionCallInfo| {
    let data = &*(*fcinfo).context.cast::<pg_sys::TriggerData>();
    let descriptor = (*data.tg_relation).rd_att;
    let fired = Fired::of(fcinfo).unwrap();
    let number = visibility(fired).map_or(1, |column| column.position());
    let route = route_of(fired.trigger()).unwrap();
    #[allow(ffi_unwind_calls, reason = "guarded here, once for all rows")]
    pg_sys::ffi::pg_guard_ffi_boundary(|| {
        let slot = raw::MakeSingleTupleTableSlot(descriptor, &raw const raw::TTSOpsMinimalTuple);
        while raw::tuplestore_gettupleslot(data.tg_newtable, true, false, slot) {
            raw::slot_getsomeattrs_int(slot, number);
            let at = (*(*slot).tts_values.add(number as usize - 1)).value();
            note(route, Timestamp(at as i64));
        }
        raw::ExecDropSingleTupleTableSlot(slot);
    });
    pg_sys::Datum::from(0)
});

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub(super) static TTSOpsMinimalTuple: pg_sys::TupleTableSlotOps;
        pub(super) fn MakeSingleTupleTableSlot(
            descriptor: pg_sys::TupleDesc,
            ops: *const pg_sys::TupleTableSlotOps,
        ) -> *mut pg_sys::TupleTableSlot;
        pub(super) fn ExecDropSingleTupleTableSlot(slot: *mut pg_sys::TupleTableSlot);
        pub(super) fn tuplestore_gettupleslot(
            store: *mut pg_sys::Tuplestorestate,
            forward: bool,
            copy: bool,
            slot: *mut pg_sys::TupleTableSlot,
        ) -> bool;
        pub(super) fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, number: c_int);
    }
}

// A function for a WHEN clause that notes the row and is always false, so that no event is queued:
// (channel cstring, event cstring, queue cstring, vt timestamptz) returns boolean.
shape!(shape_when, pg_finfo_shape_when, |fcinfo: pg_sys::FunctionCallInfo| {
    let arguments = (*fcinfo).args.as_ptr();
    let text = |n: usize| std::ffi::CStr::from_ptr((*arguments.add(n)).value.cast_mut_ptr());
    let route = Route::new(text(0), text(1), text(2));
    note(route, Timestamp((*arguments.add(3)).value.value() as i64));
    pg_sys::Datum::from(false)
});
