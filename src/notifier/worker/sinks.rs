//! Broadcasts by Supabase Realtime: `realtime.send`, which is somebody else's function, each call in a transaction of its own.
//!
//! The notifier is a superuser, and whoever may create a schema may create that function, or put triggers on what is behind
//! it. So it is called as the owner of the queue's table, who asked for it and must be allowed to; and only if it belongs to
//! a superuser or the database's owner, so that it is no stranger's, and for a superuser's table only if it belongs to a
//! superuser. Everything else in this process waits for the call: it has little time, and should it not end, the process does.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aimq_core::payload::{self, Entry};
use aimq_core::route::Route;
use aimq_core::shared::News;
use aimq_core::sinks::Pending;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::Worker;
use crate::notifier::queues::as_owner;
use crate::pgmq::report;
use crate::process::{self, Failure, with_snapshot};
use crate::{ffi, settings};

/// How many, and for how long, before the marks are taken again.
const AT_ONCE: usize = 32;
const FOR: Duration = Duration::from_millis(10);

/// How long a call waits for a lock, and how long it takes at most, in milliseconds; and when the process ends with it that
/// takes no notice of that.
const EACH_LOCK: i32 = 20;
const A_CALL: i32 = 100;
const LAST_RESORT: i32 = 1000;

/// Failures are logged no more often than this, however many queues there are.
const LOG_EVERY: Duration = Duration::from_secs(1);

impl Worker {
    /// Broadcasts some of what is due.
    pub(super) fn broadcast(&mut self) {
        let begun = Instant::now();
        for _ in 0..AT_ONCE {
            let moment = self.moment();
            let Some((key, pending)) = self.notifier.sinks.ready(moment) else {
                break;
            };
            let tables = self.queues.get(&key).map(|it| [&it.oids[..], &it.of_events].concat());
            let result = if let Some(tables) = tables {
                self.database.calling.store(1, Ordering::SeqCst);
                let result = send(&key, &pending, tables);
                self.database.calling.store(0, Ordering::SeqCst);
                Some(result)
            } else {
                // If it is realtime since we asked, it is broadcast then; else it is forgotten.
                self.news.0 |= News::QUEUES.0;
                None
            };
            // By the clock: all others have waited for it.
            let cost = self.moment().saturating_sub(moment);
            self.broadcast_result(&key, &pending, result, cost);
            if begun.elapsed() >= FOR {
                break;
            }
        }
        self.notifier.sinks.tidy(self.moment(), |_| true);
    }

    /// `None` if it was not tried.
    fn broadcast_result(
        &mut self,
        key: &[u8],
        pending: &Pending,
        result: Option<Result<(), Failure>>,
        cost: u64,
    ) {
        let (moment, table) = (self.moment(), self.shared.table);
        // The slot may be another queue's by now.
        let claim = pending.claim.filter(|claim| table.is_current(*claim));
        if let (Some(claim), Some(result)) = (claim, &result) {
            match result {
                Ok(()) => table.broadcast(claim),
                Err(_) => table.broadcast_failed(claim, ffi::now()),
            }
        }
        if let Some(Ok(())) = result {
            self.notifier.sinks.sent(key, moment, settings::notify_interval(), cost);
            return;
        }
        let (delay, is_to_be_logged) = self.notifier.sinks.failed(key, moment, cost);
        if let Some(Err(failure)) = result {
            let is_to_be_logged = is_to_be_logged
                && self.broadcast_logged.is_none_or(|last| last.elapsed() >= LOG_EVERY);
            if is_to_be_logged {
                self.broadcast_logged = Some(Instant::now());
            }
            let delay = is_to_be_logged.then_some(Duration::from_micros(delay));
            self.count_failure(&failure, delay);
        }
    }
}

/// The function, as which role to call it, and whether it is to be called. Of the tables with this route that in pgmq's schema:
/// others may be anybody's. By names, for to_regprocedure raises where the schema is not to be looked into.
const FUNCTION: &str = "
    SELECT p.oid, c.relowner,
           f.rolsuper OR p.proowner OPERATOR(pg_catalog.=) d.datdba AND NOT o.rolsuper,
           pg_catalog.has_schema_privilege(c.relowner, p.pronamespace, 'USAGE')
           AND pg_catalog.has_function_privilege(c.relowner, p.oid, 'EXECUTE')
      FROM pg_catalog.pg_proc p
      JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
      JOIN pg_catalog.pg_roles f ON f.oid OPERATOR(pg_catalog.=) p.proowner
      JOIN pg_catalog.pg_database d ON d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
      JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) ANY ($1)
      JOIN pg_catalog.pg_namespace s ON s.oid OPERATOR(pg_catalog.=) c.relnamespace
      JOIN pg_catalog.pg_roles o ON o.oid OPERATOR(pg_catalog.=) c.relowner
     WHERE n.nspname OPERATOR(pg_catalog.=) 'realtime'::pg_catalog.name
       AND p.proname OPERATOR(pg_catalog.=) 'send'::pg_catalog.name
       AND p.prokind OPERATOR(pg_catalog.=) 'f'::pg_catalog.\"char\"
       AND p.proargtypes OPERATOR(pg_catalog.=) '3802 25 25 16'::pg_catalog.oidvector
     ORDER BY s.nspname OPERATOR(pg_catalog.<>) 'pgmq'::pg_catalog.name, c.oid
     LIMIT 1";

fn send(key: &[u8], pending: &Pending, tables: Vec<pg_sys::Oid>) -> Result<(), Failure> {
    let Some(route) = Route::from_key(key) else {
        return Ok(());
    };
    let entry = Entry {
        queue: route.queue,
        count: pending.messages,
        visible_at: None,
        ids: Some(Box::new(pending.ids.clone())),
    };
    // JSON holds no NUL: serde escapes control characters.
    let payload = CString::new(payload::broadcast(&entry, route.options().ids)).unwrap_or_default();
    process::report(pg_sys::BackendState::STATE_RUNNING, Some(c"broadcasting"));
    HEARD.set(None);
    IS_LISTENING.set(true);
    let done = ffi::or_end_within(LAST_RESORT, || {
        ffi::within(EACH_LOCK, A_CALL, || {
            process::transaction(AssertUnwindSafe(|| {
                with_snapshot(|| {
                    let (function, owner) = function_to_call(tables);
                    as_owner(owner, || {
                        ffi::call_send(function, &payload, route.event, route.channel)
                    });
                });
                if let Some(message) = HEARD.take() {
                    let code = PgSqlErrorCode::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
                    ereport!(PgLogLevel::ERROR, code, format!("realtime.send failed: {message}"));
                }
            }))
        })
    });
    IS_LISTENING.set(false);
    ffi::release_advisory_locks();
    done
}

/// In a transaction; raises if nobody is to call it.
fn function_to_call(tables: Vec<pg_sys::Oid>) -> (pg_sys::Oid, pg_sys::Oid) {
    let found = report(Spi::connect(|client| -> spi::Result<_> {
        let rows = client.select(FUNCTION, Some(1), &[tables.into()])?;
        if rows.is_empty() {
            return Ok(None);
        }
        let row = rows.first();
        let oid =
            |at| Ok::<_, spi::Error>(row.get::<pg_sys::Oid>(at)?.unwrap_or(pg_sys::InvalidOid));
        let is = |at| Ok::<_, spi::Error>(row.get::<bool>(at)?.unwrap_or(false));
        Ok(Some((oid(1)?, oid(2)?, is(3)?, is(4)?)))
    }));
    let (code, message) = match found {
        Some((function, owner, true, true)) => return (function, owner),
        None => (
            PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
            "there is no function realtime.send(jsonb, text, text, boolean)",
        ),
        Some((_, _, false, _)) => (
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "realtime.send belongs neither to a superuser nor to the owner of the database, or to the latter while the queue's table is a superuser's",
        ),
        Some((_, _, _, false)) => (
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "the owner of the queue's table may not call realtime.send",
        ),
    };
    ereport!(PgLogLevel::ERROR, code, message);
    unreachable!("an ERROR does not return")
}

thread_local! {
    static FORMER: Cell<pg_sys::emit_log_hook_type> = const { Cell::new(None) };
    static IS_LISTENING: Cell<bool> = const { Cell::new(false) };
    static HEARD: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Hears from now on what Supabase's function says when it fails: it catches its errors and warns. Once in a notifier.
pub(super) fn init() {
    // SAFETY: plain variables; the hook is a function of this library, which is never unloaded.
    unsafe {
        FORMER.set(pg_sys::emit_log_hook);
        pg_sys::emit_log_hook = Some(on_log);
    }
}

/// In the middle of Postgres' reporting of a message, so nothing here raises. What is heard is not logged by Postgres, but by
/// us, less often.
#[pg_guard]
unsafe extern "C-unwind" fn on_log(data: *mut pg_sys::ErrorData) {
    // SAFETY: Postgres hands over a message that lives for the call; the former hook is called as Postgres would.
    unsafe {
        if IS_LISTENING.get()
            && (*data).elevel == pg_sys::WARNING as i32
            && !(*data).message.is_null()
        {
            let message = CStr::from_ptr((*data).message);
            if message.to_bytes().starts_with(b"ErrorSendingBroadcastMessage") {
                HEARD.set(Some(message.to_string_lossy().into_owned()));
                (*data).output_to_server = false;
            }
        }
        if let Some(former) = FORMER.get() {
            #[allow(ffi_unwind_calls, reason = "this is the guard")]
            pg_sys::ffi::pg_guard_ffi_boundary(|| former(data));
        }
    }
}
