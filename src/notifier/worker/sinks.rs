//! Broadcasts by Supabase Realtime: `realtime.send`, which is somebody else's function, each call in a transaction of
//! its own.
//!
//! The notifier is a superuser, and a role that may create a schema may create that function, or put triggers on the
//! tables behind it. So it is called as the owner of the queue's table. That role asked for it, must be allowed to call
//! it, and must not be a superuser. And it is called only if it belongs to a superuser or the database's owner, so that
//! it is no stranger's.
//!
//! Everything else in this process waits for the call. So the call has little time, and should it not end, the process
//! ends.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aimq_core::payload::{self, Part};
use aimq_core::route::RouteKey;
use aimq_core::sinks::Pending;
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::state::Worker;
use crate::catalog::{home, triggers};
use crate::error::GivenUp;
use crate::pg::process::{self, Failure};
use crate::pg::spi::{as_owner, or_raise, with_snapshot};
use crate::pg::text::{self, Text};
use crate::pg::{ffi, log, timeouts};
use crate::settings;

/// How many, and for how long, before the marks are taken again.
const AT_ONCE: usize = 32;
const FOR: Duration = Duration::from_millis(10);

/// How long a call waits for a lock, and how long it takes at most, in milliseconds. And when the process ends together
/// with a call that takes no notice of these limits.
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
            let Some((key, pending)) = self.agenda.sinks.ready(moment) else {
                break;
            };
            self.database.calling.store(1, Ordering::SeqCst);
            let at_most = Timestamp(ffi::now().0 + i64::from(LAST_RESORT) * 1000);
            let result = timeouts::while_alive(self.seat, at_most, || send(&key, &pending));
            self.database.calling.store(0, Ordering::SeqCst);
            // By the clock: all others have waited for it.
            let cost = self.moment().saturating_sub(moment);
            self.broadcast_result(&key, &pending, result, cost);
            if begun.elapsed() >= FOR {
                break;
            }
        }
        self.agenda.sinks.tidy(self.moment(), |_| true);
    }

    fn broadcast_result(
        &mut self,
        key: &RouteKey,
        pending: &Pending,
        result: Result<Sent, Failure>,
        cost: u64,
    ) {
        let (moment, slots) = (self.moment(), self.shared.slots);
        // The slot may be another queue's by now.
        let claim = pending.claim.filter(|claim| slots.is_current(*claim));
        match result {
            Ok(sent) => {
                if let (Some(claim), Sent::Said) = (claim, sent) {
                    slots.broadcast(claim);
                }
                self.agenda.sinks.sent(key, moment, settings::notify_interval(), cost);
            }
            Err(failure) => {
                if let Some(claim) = claim {
                    slots.broadcast_failed(claim, ffi::now());
                }
                let (delay, is_to_be_logged) = self.agenda.sinks.failed(key, moment, cost);
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
}

/// What a broadcast came to.
enum Sent {
    Said,
    /// There is no such queue any more, or it is not to be broadcast any more.
    Gone,
}

/// The function, as which role to call it, whether it is to be called, and for which table. Of the tables with this
/// route that in pgmq's schema: others may be anybody's. It is looked up by names, because to_regprocedure raises where
/// the role may not look into the schema.
const FUNCTION: &str = "
    SELECT p.oid, c.relowner,
           f.rolsuper OR p.proowner OPERATOR(pg_catalog.=) d.datdba,
           pg_catalog.has_schema_privilege(c.relowner, p.pronamespace, 'USAGE')
           AND pg_catalog.has_function_privilege(c.relowner, p.oid, 'EXECUTE'),
           o.rolsuper, pg_catalog.format('%I.%I', s.nspname, c.relname)
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

fn send(key: &RouteKey, pending: &Pending) -> Result<Sent, Failure> {
    let Some(route) = key.route() else {
        return Ok(Sent::Gone);
    };
    let relation = pg_sys::Oid::from(route.relation);
    let part = Part {
        queue: route.queue,
        count: pending.messages,
        visible_at: None,
        ids: Some(&pending.ids),
    };
    // JSON holds no NUL: serde escapes control characters.
    let payload = CString::new(text::payload(payload::broadcast(&part, route.options().ids)?)?)
        .unwrap_or_default();
    process::show_activity(pg_sys::BackendState::STATE_RUNNING, Some(c"broadcasting"));
    HEARD.set(None);
    IS_LISTENING.set(true);
    let done = timeouts::or_end_within(LAST_RESORT, || {
        timeouts::within(EACH_LOCK, A_CALL, || {
            process::transaction(AssertUnwindSafe(|| {
                if !home::is_of_pgmq(relation) || !triggers::broadcasts(relation) {
                    return Sent::Gone;
                }
                with_snapshot(|| {
                    let (function, owner) = function_to_call(vec![relation]);
                    as_owner(owner, || {
                        ffi::call_send(function, &payload, route.event, route.channel)
                    });
                });
                if let Some(message) = HEARD.take() {
                    GivenUp::SendFailed { message }.raise();
                }
                Sent::Said
            }))
        })
    });
    IS_LISTENING.set(false);
    ffi::release_advisory_locks();
    done
}

/// In a transaction; raises if nobody is to call it.
fn function_to_call(tables: Vec<pg_sys::Oid>) -> (pg_sys::Oid, pg_sys::Oid) {
    let found = or_raise(Spi::connect(|client| -> spi::Result<_> {
        let rows = client.select(FUNCTION, Some(1), &[tables.into()])?;
        if rows.is_empty() {
            return Ok(None);
        }
        let row = rows.first();
        let oid =
            |at| Ok::<_, spi::Error>(row.get::<pg_sys::Oid>(at)?.unwrap_or(pg_sys::InvalidOid));
        let is = |at| Ok::<_, spi::Error>(row.get::<bool>(at)?.unwrap_or(false));
        let superusers = is(5)?.then_some(row.get::<Text>(6)?.unwrap_or_default().0);
        Ok(Some((oid(1)?, oid(2)?, is(3)?, is(4)?, superusers)))
    }));
    match found {
        Some((function, owner, true, true, None)) => (function, owner),
        None => GivenUp::NoRealtimeSend.raise(),
        Some((_, _, _, _, Some(table))) => GivenUp::TableOfSuperuser { table }.raise(),
        Some((_, _, false, _, None)) => GivenUp::SendOfStranger.raise(),
        Some((_, _, true, false, None)) => GivenUp::MayNotSend.raise(),
    }
}

thread_local! {
    static IS_LISTENING: Cell<bool> = const { Cell::new(false) };
    static HEARD: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Hears from now on what Supabase's function says when it fails: it catches its errors and warns. Once in a notifier.
pub(super) fn init() {
    log::register(|warning| {
        let is_ours =
            IS_LISTENING.get() && warning.to_bytes().starts_with(b"ErrorSendingBroadcastMessage");
        if is_ours {
            HEARD.set(Some(warning.to_string_lossy().into_owned()));
        }
        // Postgres does not log what is heard. We log it, less often.
        is_ours
    });
}
