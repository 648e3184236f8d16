//! Errors of others that our functions pass on: policies, event triggers, pgmq's functions and their triggers raise
//! within the SQL that we run.
//!
//! pgrx keeps an error's message, detail and hint, and its SQLSTATE where it knows that one; the rest is lost, and a
//! SQLSTATE of a user's own becomes XX000. So a context callback of ours, which Postgres calls when it raises an error
//! (utils/error/elog.c, errfinish), keeps a copy; and another one gives the copy to the error that pgrx raises in its
//! place.

#![allow(
    ffi_unwind_calls,
    reason = "what these raise passes through frames that have nothing to drop"
)]

use std::any::Any;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null_mut;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::ffi::raw;
use super::text;

/// A copy of the error that was raised last; null if there is none.
type Kept = Cell<*mut pg_sys::ErrorData>;

thread_local! {
    /// What gives a copy to the error that is raised next: only between an error that [`whole`] passes on and the
    /// function's end, where pgrx raises it.
    static NEXT: Cell<pg_sys::ErrorContextCallback> = const {
        Cell::new(pg_sys::ErrorContextCallback { previous: null_mut(), callback: None, arg: null_mut() })
    };
}

/// Runs `work`. An error that Postgres raises in there reaches the caller with all that it says: the SQLSTATE, the
/// message, the detail, the hint, the context, the names of what it is about.
pub(crate) fn whole<T>(work: impl FnOnce() -> T) -> T {
    let kept = Kept::new(null_mut());
    // SAFETY: the callback is taken off below, before the frame that it and the copy's place are in goes.
    let outer = unsafe { pg_sys::error_context_stack };
    let mut keeps = pg_sys::ErrorContextCallback {
        previous: outer,
        callback: Some(keep),
        arg: (&raw const kept).cast_mut().cast(),
    };
    // SAFETY: as above.
    unsafe { pg_sys::error_context_stack = &raw mut keeps };
    let done = catch_unwind(AssertUnwindSafe(work));
    // SAFETY: as it was; the copy is ours.
    unsafe {
        pg_sys::error_context_stack = outer;
        if done.as_ref().is_err_and(|payload| is_kept(payload.as_ref(), kept.get())) {
            give_next(kept.get(), outer);
        } else {
            free(kept.get());
        }
    }
    done.unwrap_or_else(|payload| resume_unwind(payload))
}

/// The SQLSTATE of an error that was passed on, for the caller that has caught it.
pub(crate) fn take_sqlstate() -> Option<c_int> {
    NEXT.with(|next| {
        let callback = next.get();
        next.set(pg_sys::ErrorContextCallback { arg: null_mut(), ..callback });
        let copy: *mut pg_sys::ErrorData = callback.arg.cast();
        // SAFETY: a copy that nobody has freed, if there is one, and nobody gives any more.
        unsafe {
            let sqlstate = copy.as_ref().map(|copy| copy.sqlerrcode);
            free(copy);
            sqlstate
        }
    })
}

/// Whether what unwinds is the error of which there is a copy: one of our own may have come after it, where somebody
/// has caught that.
fn is_kept(payload: &(dyn Any + Send), kept: *const pg_sys::ErrorData) -> bool {
    // SAFETY: a copy that nobody has freed.
    let Some(kept) = (unsafe { kept.as_ref() }) else {
        return false;
    };
    let Some(CaughtError::PostgresError(raised)) = payload.downcast_ref::<CaughtError>() else {
        return false;
    };
    // SAFETY: a string, if there is one.
    kept.message.is_null()
        || unsafe { CStr::from_ptr(kept.message) }.to_string_lossy() == raised.message()
}

/// # Safety
/// `kept` must be a copy of an error that nobody else frees, and `outer` what was on the stack when it was raised.
unsafe fn give_next(kept: *mut pg_sys::ErrorData, outer: *mut pg_sys::ErrorContextCallback) {
    NEXT.with(|next| {
        // SAFETY: as demanded of the caller. The place of a thread that ends with the process stays where it is. What
        // catches an error takes the callback off (PG_CATCH, and process::transaction).
        unsafe {
            free(next.get().arg.cast());
            next.set(pg_sys::ErrorContextCallback {
                previous: outer,
                callback: Some(give),
                arg: kept.cast(),
            });
            pg_sys::error_context_stack = next.as_ptr();
        }
    });
}

/// Has the error that is raised next say these texts (message, detail and hint, of which the last two may be empty) in
/// the server's encoding: pgrx only knows UTF-8.
pub(crate) fn say_in_servers_encoding(code: PgSqlErrorCode, texts: [&str; 3]) {
    if text::is_utf8() || texts.iter().all(|text| text.is_ascii()) {
        return;
    }
    let texts = texts.map(text::to_c);
    // SAFETY: made as Postgres makes a copy of an error; the strings are copied.
    unsafe {
        let top = pg_sys::TopMemoryContext;
        let size = size_of::<pg_sys::ErrorData>();
        let copy = pg_sys::MemoryContextAllocZero(top, size).cast::<pg_sys::ErrorData>();
        let [message, detail, hint] = texts.map(|text| match text.is_empty() {
            true => null_mut(),
            false => pg_sys::MemoryContextStrdup(top, text.as_ptr()),
        });
        ((*copy).message, (*copy).detail, (*copy).hint) = (message, detail, hint);
        (*copy).sqlerrcode = code as c_int;
        give_next(copy, pg_sys::error_context_stack);
    }
}

/// The same of what `report` reports.
pub(crate) fn in_servers_encoding(code: PgSqlErrorCode, texts: [&str; 3], report: impl FnOnce()) {
    // SAFETY: as it was.
    unsafe {
        let context = pg_sys::error_context_stack;
        say_in_servers_encoding(code, texts);
        report();
        // It may be that nobody wants to hear of it.
        take_sqlstate();
        pg_sys::error_context_stack = context;
    }
}

/// # Safety
/// Null, or a copy of an error that nobody else frees.
unsafe fn free(kept: *mut pg_sys::ErrorData) {
    if !kept.is_null() {
        // SAFETY: as demanded of the caller.
        unsafe { raw::FreeErrorData(kept) }
    }
}

/// Keeps a copy of the error that is being raised. What is raised without memory to spare pgrx knows as it is.
unsafe extern "C-unwind" fn keep(argument: *mut c_void) {
    // SAFETY: called while an error is raised or a notice given, which are what there is to be copied, with what
    // `whole` has set. In memory that outlives the transaction, because the transaction ends before the error does.
    unsafe {
        if raw::geterrcode() == PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY as c_int {
            return;
        }
        let kept = &*argument.cast_const().cast::<Kept>();
        let former = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = pg_sys::TopMemoryContext;
        let copy = raw::CopyErrorData();
        pg_sys::CurrentMemoryContext = former;
        if (*copy).elevel >= PgLogLevel::ERROR as c_int {
            free(kept.replace(copy));
        } else {
            free(copy);
        }
    }
}

/// Gives the copy to the error that is being raised: all that pgrx does not, and texts that are not UTF-8.
unsafe extern "C-unwind" fn give(argument: *mut c_void) {
    let name = |field: u8, value: *mut c_char| {
        if !value.is_null() {
            // SAFETY: the error has no such name yet.
            unsafe { raw::err_generic_string(c_int::from(field), value) };
        }
    };
    let text = |set: unsafe extern "C-unwind" fn(*const c_char, ...) -> c_int,
                value: *mut c_char| {
        if !value.is_null() {
            // SAFETY: a string for "%s".
            unsafe { set(c"%s".as_ptr(), value) };
        }
    };
    // SAFETY: called while an error is raised, with the copy, which nobody gives again.
    unsafe {
        NEXT.with(|next| next.set(pg_sys::ErrorContextCallback { arg: null_mut(), ..next.get() }));
        let Some(copy) = argument.cast::<pg_sys::ErrorData>().as_ref() else {
            return;
        };
        raw::errcode(copy.sqlerrcode);
        text(raw::errmsg_internal, copy.message);
        text(raw::errdetail_internal, copy.detail);
        text(raw::errdetail_log, copy.detail_log);
        text(raw::errhint, copy.hint);
        raw::set_errcontext_domain(std::ptr::null());
        text(raw::errcontext_msg, copy.context);
        name(pg_sys::PG_DIAG_SCHEMA_NAME, copy.schema_name);
        name(pg_sys::PG_DIAG_TABLE_NAME, copy.table_name);
        name(pg_sys::PG_DIAG_COLUMN_NAME, copy.column_name);
        name(pg_sys::PG_DIAG_DATATYPE_NAME, copy.datatype_name);
        name(pg_sys::PG_DIAG_CONSTRAINT_NAME, copy.constraint_name);
        if !copy.internalquery.is_null() {
            raw::internalerrquery(copy.internalquery);
            raw::internalerrposition(copy.internalpos);
        }
        free(argument.cast());
    }
}
