//! What Postgres is about to log.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::prelude::*;

/// Says whether it has heard the warning.
type Callback = fn(&CStr) -> bool;

thread_local! {
    static FORMER: Cell<pg_sys::emit_log_hook_type> = const { Cell::new(None) };
    static CALLBACK: Cell<Option<Callback>> = const { Cell::new(None) };
}

/// Has `callback` told of each warning; what it says true of is not logged. It must not raise. Once in a process.
pub(crate) fn register(callback: Callback) {
    CALLBACK.set(Some(callback));
    // SAFETY: plain variables; the hook is a function of this library, which is never unloaded.
    unsafe {
        FORMER.set(pg_sys::emit_log_hook);
        pg_sys::emit_log_hook = Some(on_log);
    }
}

/// Keeps Rust's backtraces out of the DETAIL of errors, where pgrx puts them if the server's environment has
/// RUST_BACKTRACE. To be called before anything fails in this process: Rust asks once.
pub(crate) fn without_backtraces() {
    // SAFETY: the process has one thread.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
}

/// In the middle of Postgres' reporting of a message, so nothing here raises.
#[pg_guard]
unsafe extern "C-unwind" fn on_log(data: *mut pg_sys::ErrorData) {
    // SAFETY: Postgres hands over a message that lives for the call; the former hook is called as Postgres would.
    unsafe {
        if (*data).elevel == pg_sys::WARNING as i32
            && !(*data).message.is_null()
            && let Some(callback) = CALLBACK.get()
            && callback(CStr::from_ptr((*data).message))
        {
            (*data).output_to_server = false;
        }
        if let Some(former) = FORMER.get() {
            #[allow(ffi_unwind_calls, reason = "this is the guard")]
            pg_sys::ffi::pg_guard_ffi_boundary(|| former(data));
        }
    }
}
