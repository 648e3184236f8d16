//! Broadcasts by Supabase Realtime: `realtime.send`, which is somebody else's function, each call in a transaction of its own.
//!
//! The notifier is a superuser, and whoever may create a schema may create that function. So it is called as its own owner,
//! as VACUUM calls functions of indexes: nobody gains anything by that. And the owner of the queue's table must be
//! allowed to call it.

use std::cell::RefCell;
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
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

/// How long a call waits for a lock, and how long it takes at most, in milliseconds: notifications wait for it.
const EACH_LOCK: i32 = 20;
const A_CALL: i32 = 250;

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
            let before = process::processor_time();
            let result = match self.queues.get(&key).and_then(|tables| tables.oids.first()) {
                Some(table) => Some(send(&key, &pending, *table)),
                None => {
                    // If it is realtime since we asked, it is broadcast then; else it is forgotten.
                    self.news.0 |= News::QUEUES.0;
                    None
                }
            };
            let cost = process::processor_time().saturating_sub(before);
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
            table.broadcast(claim, result.is_ok());
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

/// Whose function it is, and whether the owner of a queue's table may call it.
const FUNCTION: &str = "
    SELECT p.proowner,
           pg_catalog.has_schema_privilege(c.relowner, p.pronamespace, 'USAGE')
           AND pg_catalog.has_function_privilege(c.relowner, p.oid, 'EXECUTE')
      FROM pg_catalog.pg_proc p
     CROSS JOIN pg_catalog.pg_class c
     WHERE p.oid OPERATOR(pg_catalog.=)
           pg_catalog.to_regprocedure('realtime.send(jsonb, text, text, boolean)')::pg_catalog.oid
       AND c.oid OPERATOR(pg_catalog.=) $1";

fn send(key: &[u8], pending: &Pending, table: pg_sys::Oid) -> Result<(), Failure> {
    let Some(route) = Route::from_key(key) else {
        return Ok(());
    };
    let entry = Entry {
        queue: route.queue,
        count: pending.messages,
        visible_at: None,
        ids: Some(Box::new(pending.ids.clone())),
    };
    let payload = payload::broadcast(&entry, route.options().ids);
    let text = |part: &CStr| part.to_string_lossy().into_owned();
    let (event, topic) = (text(route.event), text(route.channel));
    process::report(pg_sys::BackendState::STATE_RUNNING, Some(c"broadcasting"));
    let hook = Hook::set();
    process::transaction(AssertUnwindSafe(|| {
        ffi::within(EACH_LOCK, A_CALL, || {
            with_snapshot(|| {
                let owner = owner_of_function(table);
                as_owner(owner, || {
                    let sql = "SELECT realtime.send($1::pg_catalog.jsonb, $2, $3, false)";
                    let arguments = [payload.into(), event.into(), topic.into()];
                    report(Spi::run_with_args(sql, &arguments));
                });
            });
        });
        if let Some(message) = hook.heard() {
            let code = PgSqlErrorCode::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
            ereport!(PgLogLevel::ERROR, code, format!("realtime.send failed: {message}"));
        }
    }))
}

/// In a transaction; raises if nobody is to call it.
fn owner_of_function(table: pg_sys::Oid) -> pg_sys::Oid {
    let found = report(Spi::connect(|client| -> spi::Result<_> {
        let rows = client.select(FUNCTION, Some(1), &[table.into()])?;
        if rows.is_empty() { Ok((None, None)) } else { rows.first().get_two() }
    }));
    let (code, message) = match found {
        (Some(owner), Some(true)) => return owner,
        (None, _) => (
            PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
            "there is no function realtime.send(jsonb, text, text, boolean)",
        ),
        _ => (
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "the owner of the queue's table may not call realtime.send",
        ),
    };
    ereport!(PgLogLevel::ERROR, code, message);
    unreachable!("an ERROR does not return")
}

thread_local! {
    static HEARD: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// While there is one, it hears what Supabase's function says when it fails: it catches its errors and warns.
struct Hook(pg_sys::emit_log_hook_type);

impl Hook {
    fn set() -> Self {
        HEARD.set(None);
        // SAFETY: plain variables; the hook is a function of this library, and is taken back.
        unsafe {
            let former = pg_sys::emit_log_hook;
            pg_sys::emit_log_hook = Some(on_log);
            Self(former)
        }
    }

    fn heard(&self) -> Option<String> {
        HEARD.take()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // SAFETY: what was there before.
        unsafe { pg_sys::emit_log_hook = self.0 };
    }
}

/// In the middle of Postgres' reporting of a message, so nothing here raises. What is heard is not logged by Postgres, but by
/// us, less often.
#[pg_guard]
unsafe extern "C-unwind" fn on_log(data: *mut pg_sys::ErrorData) {
    // SAFETY: Postgres hands over a message that lives for the call.
    unsafe {
        if (*data).elevel == pg_sys::WARNING as i32 && !(*data).message.is_null() {
            let message = CStr::from_ptr((*data).message);
            if message.to_bytes().starts_with(b"ErrorSendingBroadcastMessage") {
                HEARD.set(Some(message.to_string_lossy().into_owned()));
                (*data).output_to_server = false;
            }
        }
    }
}
