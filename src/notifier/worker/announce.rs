//! Sends what may be sent, and tells what failed.

use std::ffi::CString;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aimq_core::clock::Moment;
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;

use super::state::{Work, Worker};
use crate::error::Log;
use crate::notifier::send;
use crate::pg::process::{self, Failure};
use crate::pg::{ffi, text, timeouts};
use crate::settings;

/// How long a notification waits in NOTIFY's line while broadcasts are due, or without a watcher, at first and at most,
/// in milliseconds.
const PATIENCE: (i32, i32) = (100, 1000);

impl Worker {
    /// Sends what may be sent.
    pub(super) fn announce(&mut self) {
        let notifications = match self.agenda.notifications() {
            Ok(notifications) => notifications,
            Err(failure) => return self.could_not_send(&failure.into()),
        };
        if notifications.is_empty() {
            // For some queues nothing is notified: their interval begins all the same.
            if self.agenda.is_sending() {
                let (slots, interval) = (self.shared.slots, settings::notify_interval());
                self.agenda.sent(slots, self.moment(), ffi::now(), interval, 0);
            }
            return;
        }
        process::show_activity(pg_sys::BackendState::STATE_RUNNING, Some(c"notifying"));
        let ready: Vec<send::Ready> = notifications
            .into_iter()
            // JSON holds no NUL: serde escapes control characters.
            .filter_map(|it| {
                Some((it.channel.to_owned(), CString::new(text::payload(it.payload).ok()?).ok()?))
            })
            .collect();
        let begun = process::processor_time();
        // A session that has notified, and hangs in its commit, keeps all others waiting that notify. A notifier that
        // waits for that is alive. It keeps its place in the line, unless it has to see to broadcasts, or to the
        // watcher's work.
        let is_all = self.agenda.sinks.is_idle() && !self.agenda.duties.watches;
        let waits_long = if is_all { 0 } else { self.patience.max(PATIENCE.0) };
        let sent = timeouts::while_alive(self.seat, Timestamp::INFINITY, || {
            timeouts::with_lock_timeout(waits_long, || send::all(&ready))
        });
        match sent {
            Ok(()) => {
                self.patience = 0;
                self.back_off.succeeded();
                self.database.notifications.fetch_add(ready.len() as u64, Ordering::Relaxed);
                let interval = settings::notify_interval();
                let slots = self.shared.slots;
                let cost = process::processor_time().saturating_sub(begun);
                self.agenda.sent(slots, self.moment(), ffi::now(), interval, cost);
            }
            // Something else is to be done first. It is said again at once.
            Err(failure) if failure.is_cut() => {
                self.patience = (waits_long * 2).min(PATIENCE.1);
                self.agenda.failed(self.moment(), 0);
            }
            Err(failure) => self.could_not_send(&failure),
        }
    }

    fn could_not_send(&mut self, failure: &Failure) {
        let delay = self.failed(failure, Work::Send);
        let delay = u64::try_from(delay.as_micros()).unwrap_or(Moment::MAX);
        self.agenda.failed(self.moment(), delay);
    }

    /// Counts and logs a failure; how long to wait.
    pub(super) fn failed(&mut self, failure: &Failure, work: Work) -> Duration {
        let (delay, is_to_be_logged) = match work {
            Work::Send => self.back_off.failed(),
            Work::Look => self.other_back_off.failed(),
        };
        let delay = Duration::from_micros(delay);
        self.count_failure(failure, is_to_be_logged.then_some(delay));
        delay
    }

    /// Counts a failure, and logs it with how long it is until the next try.
    pub(super) fn count_failure(&self, failure: &Failure, delay: Option<Duration>) {
        process::count(&self.database.errors);
        self.database.last_error.store(failure.sqlstate.cast_unsigned(), Ordering::Relaxed);
        self.database.last_error_at.store(ffi::now().0, Ordering::Relaxed);
        if let Some(delay) = delay {
            Log::Failed { message: &failure.message, again_in: delay }.report();
        }
    }
}
