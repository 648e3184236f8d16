//! The functions of ours that Postgres calls: how they are entered, and how an error leaves them.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::pgrx_extern_c_guard;
use pgrx::prelude::*;

use super::ffi;

/// What keeps such a function from its work.
pub(crate) trait Refusal: Copy {
    /// SQLSTATE, and message, detail and hint, where raising it must take no memory.
    fn plain(self) -> Option<(PgSqlErrorCode, [&'static CStr; 3])>;

    /// Raises it, under a guard.
    fn raise(self) -> !;
}

/// Runs `work` under pgrx's guard, as `#[pg_guard]` does. The error that there is no memory is raised outside of
/// the guard, because pgrx itself would need memory for it: for a panic, and for texts.
///
/// # Safety
/// To be called by a function that Postgres calls, and that has nothing to drop.
#[inline]
pub(crate) unsafe fn guarded<T: Copy, E: Refusal>(work: impl FnOnce() -> Result<T, E>) -> T {
    // SAFETY: as demanded of the caller. What `work` had is dropped by the time something is raised.
    unsafe {
        match pgrx_extern_c_guard(work) {
            Ok(done) => done,
            Err(refusal) => match refusal.plain() {
                Some((code, texts)) => ffi::raise(code, texts),
                None => pgrx_extern_c_guard(|| refusal.raise()),
            },
        }
    }
}

/// Tells Postgres that a function is called by the version-1 convention.
pub(crate) const VERSION_1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };

/// A function for SQL, and the record that goes with it. It is entered with the call information that Postgres gives,
/// has nothing to drop, and must guard what may panic or raise.
macro_rules! version_1 {
    ($(#[$doc:meta])* $name:ident, $record:ident, $enter:expr) => {
        #[unsafe(no_mangle)]
        #[allow(unreachable_pub, unsafe_code, reason = "Postgres finds it by its symbol")]
        #[doc = "How the function is called."]
        pub extern "C" fn $record() -> &'static pgrx::pg_sys::Pg_finfo_record {
            &$crate::pg::function::VERSION_1
        }

        $(#[$doc])*
        #[unsafe(no_mangle)]
        #[allow(unreachable_pub, unsafe_code, reason = "Postgres finds it by its symbol")]
        pub unsafe extern "C-unwind" fn $name(
            fcinfo: pgrx::pg_sys::FunctionCallInfo,
        ) -> pgrx::pg_sys::Datum {
            // SAFETY: Postgres calls this with valid call information, and there is nothing to drop.
            unsafe { ($enter)(fcinfo) }
        }
    };
}

/// A trigger function. The work is given the trigger that fires, if it is called as one, and returns the row or a
/// [`Refusal`].
macro_rules! trigger_function {
    ($(#[$doc:meta])* $name:ident, $record:ident, $work:expr) => {
        $crate::pg::function::version_1!($(#[$doc])* $name, $record, |fcinfo| {
            $crate::pg::function::guarded(|| $work($crate::pg::trigger::Fired::of(fcinfo)))
        });
    };
}

/// The function of an event trigger. The work is given the statement, if it is called for one.
macro_rules! event_trigger_function {
    ($(#[$doc:meta])* $name:ident, $record:ident, $work:expr) => {
        $crate::pg::function::version_1!($(#[$doc])* $name, $record, |fcinfo| {
            pgrx::pg_sys::panic::pgrx_extern_c_guard(|| {
                $work($crate::pg::statement::Statement::of_event(fcinfo));
                pgrx::pg_sys::Datum::null()
            })
        });
    };
}

/// The main function of a background worker. The work is given its argument.
macro_rules! background_worker {
    ($(#[$doc:meta])* $name:ident, $work:expr) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        #[pgrx::pg_guard]
        #[allow(unreachable_pub, unsafe_code, reason = "Postgres finds it by its symbol")]
        pub extern "C-unwind" fn $name(argument: pgrx::pg_sys::Datum) {
            $work(argument);
        }
    };
}

pub(crate) use {background_worker, event_trigger_function, trigger_function, version_1};
