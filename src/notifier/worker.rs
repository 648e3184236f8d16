//! The notifier of one database: takes the marks, notifies, and keeps the timers.

mod looks;
mod sinks;

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aimq_core::notifier::{Moment, Notifier, Timers};
use aimq_core::shared::{Database, News, State};
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::launcher;
use super::queues::{self, Queues};
use super::send;
use crate::process::{self, BackOff, Failure, leave};
use crate::settings::Delivery;
use crate::shared::{self, Shared};
use crate::{ffi, settings};

/// How soon something that failed is tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long a sleep until a message becomes visible may be: then the clock is asked again, which somebody may
/// have set.
const CLOCK_IS_TRUSTED_FOR: Duration = Duration::from_secs(60);

/// After looking at everything, not again before this many times the processor time that it took; and how long
/// that is at most.
const LOOK_SHARE: u32 = 10;
const LOOK_REST: Duration = Duration::from_secs(5);

/// How soon it is asked whether a prepared transaction has ended, at first and at most, where nobody
/// tells.
const PREPARED_AGAIN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What a notifier sets for itself, whatever its database has set for sessions.
const SETTINGS: &[(&CStr, &CStr)] = &[
    (c"application_name", c"aimq notifier"),
    (c"search_path", c"pg_catalog, pg_temp"),
    // What a notification says is in the queues anyway: after a crash everything is announced again.
    (c"synchronous_commit", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"session_replication_role", c"origin"),
    // A look must not read a whole table because of old statistics.
    (c"enable_seqscan", c"off"),
    (c"enable_indexscan", c"on"),
    (c"enable_indexonlyscan", c"on"),
    (c"max_parallel_workers_per_gather", c"0"),
    // For a plan that is to avoid a scan of all, it would compile code.
    (c"jit", c"off"),
    // What Supabase's function says when it fails is a WARNING, which has to be heard.
    (c"log_min_messages", c"warning"),
    (c"lock_timeout", c"0"),
    (c"statement_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    (c"transaction_timeout", c"0"),
];

/// What a notifier is given: the database, and whether it only is to see if there is anything to do.
pub(super) fn argument(oid: u32, is_probe: bool) -> pg_sys::Datum {
    pg_sys::Datum::from(u64::from(oid) | u64::from(is_probe) << 32)
}

/// A notifier's process; for its argument, see [`argument`].
#[unsafe(no_mangle)]
#[pg_guard]
#[allow(unreachable_pub, reason = "Postgres finds it by its symbol")]
pub extern "C-unwind" fn aimq_notifier_main(argument: pg_sys::Datum) {
    ffi::handle_signals();
    sinks::init();
    let oid = pg_sys::Oid::from(argument.value() as u32);
    let is_probe = argument.value() >> 32 != 0;
    // SAFETY: in a background worker that asked for a connection.
    unsafe {
        // Whoever is connected may enqueue, even if nobody else may connect any more.
        let flags = if is_probe { 0 } else { pg_sys::BGWORKER_BYPASS_ALLOWCONN };
        pg_sys::BackgroundWorkerInitializeConnectionByOid(oid, pg_sys::InvalidOid, flags);
    }
    for (name, value) in SETTINGS {
        process::set(name, value);
    }
    let Some(shared) = process::shared_memory() else {
        pgrx::log!("aimq notifier: there is no shared memory of this release; restart the server");
        leave(0);
    };
    let Some(mut worker) = Worker::begin(shared, oid.to_u32(), is_probe) else {
        leave(0);
    };
    let event = process::wait_event(c"AimqNotifierMain");
    loop {
        if process::begin_turn() {
            // Politely: whoever ended us may just want the database for itself.
            leave(0);
        }
        let limit = worker.turn();
        if !process::had_transaction() && limit.is_none_or(|limit| limit > Duration::ZERO) {
            worker.rest(limit);
            process::sleep(limit, event);
            process::count(&worker.database.wake_ups);
        }
    }
}

/// The process ends against its will: the launcher starts another.
#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _argument: pg_sys::Datum) {
    let Some(shared) = shared::get() else {
        return;
    };
    if let Some(database) = shared.databases.find(shared::own_oid())
        // SAFETY: a plain variable.
        && database.pid.load(Ordering::SeqCst) == unsafe { pg_sys::MyProcPid }.cast_unsigned()
    {
        database.end(State::Down);
        // They look for themselves until there is another.
        shared.waiters.call_everybody(shared::own_oid(), ffi::set_latch);
        launcher::want(shared, database);
    }
}

/// What failed.
#[derive(Clone, Copy)]
enum Work {
    Send,
    Look,
}

struct Worker {
    shared: Shared,
    oid: u32,
    database: &'static Database,
    notifier: Notifier,
    queues: Queues,
    /// The clock of the intervals begins here.
    origin: Instant,
    news: News,
    /// When the news may be attended to.
    news_due: Instant,
    /// From when on of the processor's time the last news were attended to, until all is looked at.
    looking_since: Option<u64>,
    /// When tables that were locked, or a look at which failed, are looked at again, and from which visibility
    /// time on.
    look_later: Vec<(Instant, Box<[u8]>, Timestamp)>,
    /// Routes with a table that was locked when it was looked at last: nobody waits for that lock again.
    locked: HashSet<Box<[u8]>>,
    /// For what is sent, and for all else but broadcasts, which have delays of their own.
    back_off: BackOff,
    other_back_off: BackOff,
    /// When one that failed was logged last.
    broadcast_logged: Option<Instant>,
    prepared: HashSet<String>,
    /// When to ask about them, and how long then to wait before the next time.
    prepared_due: Option<(Instant, Duration)>,
}

impl Worker {
    /// Takes the database's place in the shared memory, if there is anything to do.
    fn begin(shared: Shared, oid: u32, is_probe: bool) -> Option<Self> {
        let found = process::transaction(|| {
            ffi::give_way(queues::owner());
            (queues::realtime(), queues::prepared())
        });
        let (queues, prepared) = found.unwrap_or_else(|failure| fail(&failure));
        let nobody_tells = queues::nobody_tells(&prepared);
        // Where transactions notify, a notifier is started by who wants it all the same.
        let is_unwanted = is_probe && settings::delivery() == Delivery::Transaction;
        // A mark that was made while the last notifier left is in a slot.
        let is_free = queues.is_empty()
            && (prepared.is_empty() || !nobody_tells)
            && shared.table.of(oid).next().is_none();
        if is_unwanted || is_free {
            // For whom COMMIT PREPARED of a queue's own making is to find it.
            let entry = match prepared.is_empty() {
                true => shared.databases.find(oid),
                false => shared.wait_for_own_database(),
            };
            if let Some(database) = entry
                && process::take_place(&database.pid)
            {
                database.end(State::None);
                // A queue that became realtime after we looked was told of, or asks the launcher. Taken, not
                // only looked at: what stays there would start one process after the other.
                if database.news() != News(0) {
                    launcher::want(shared, database);
                }
            }
            shared.launcher.probed.store(oid, Ordering::SeqCst);
            return None;
        }
        let Some(database) = shared.wait_for_own_database() else {
            pgrx::log!(
                "aimq notifier: no room for this database; consider raising aimq.max_queues"
            );
            return None;
        };
        if !process::take_place(&database.pid) {
            return None;
        }
        // SAFETY: a function of this library.
        unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0)) };
        database.started_at.store(ffi::now().0, Ordering::Relaxed);
        process::count(&database.starts);
        database.begin(ffi::own_latch());
        // It asks the next database now.
        launcher::ring(shared);
        let now = Instant::now();
        let mut notifier = Notifier::default();
        if database.calling.swap(0, Ordering::SeqCst) != 0 {
            pgrx::log!(
                "aimq notifier: the last one ended in a call of realtime.send; nothing is broadcast for a minute"
            );
            notifier.sinks.rest_until(60_000_000);
        }
        Some(Self {
            shared,
            oid,
            database,
            notifier,
            queues,
            origin: now,
            // What happened before we began, nobody told us.
            news: News::EVERYTHING,
            news_due: now,
            looking_since: None,
            look_later: Vec::new(),
            locked: HashSet::new(),
            back_off: BackOff::new(AGAIN.0, AGAIN.1),
            other_back_off: BackOff::new(AGAIN.0, AGAIN.1),
            broadcast_logged: None,
            prepared_due: (nobody_tells && !prepared.is_empty()).then_some((now, PREPARED_AGAIN.0)),
            prepared,
        })
    }

    fn moment(&self) -> Moment {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(Moment::MAX)
    }

    /// Does what is to be done now. Returns how long to sleep; `None` until somebody wakes us.
    fn turn(&mut self) -> Option<Duration> {
        self.news.0 |= self.database.news().0;
        let now = Instant::now();
        if self.news != News(0) && self.news_due <= now && self.looking_since.is_none() {
            self.attend_to_news();
        }
        if self.prepared_due.is_some_and(|(due, _)| due <= now) {
            self.ask_about_prepared();
        }
        let (again, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.look_later).into_iter().partition(|(due, ..)| *due <= now);
        self.look_later = later;
        for (_, key, from) in again {
            self.notifier.look_at(&key, from);
        }

        let table = self.shared.table;
        let mut timers =
            self.notifier.sweep(self.database, self.oid, table, self.moment(), ffi::now());
        self.shared.waiters.call(self.oid, table, ffi::set_latch);
        // What is marked does not wait for looks, nor for what they find.
        self.announce();
        self.broadcast();
        let has_more = self.look();
        let pending = self.notifier.next(self.moment());
        let broadcasts = self.notifier.sinks.next(self.moment());
        timers.interval = [timers.interval, pending, broadcasts].into_iter().flatten().min();
        if has_more {
            // What was seen may have set a timer, and there may be more to look at.
            return Some(Duration::ZERO);
        }
        if let Some(since) = self.looking_since.take() {
            let took = process::processor_time().saturating_sub(since);
            let rest = Duration::from_micros(took).saturating_mul(LOOK_SHARE);
            self.news_due = Instant::now() + rest.min(LOOK_REST);
        }
        if self.queues.is_empty() && self.is_free() {
            self.leave();
        }
        self.limit(timers)
    }

    /// The time until the earliest timer.
    fn limit(&self, timers: Timers) -> Option<Duration> {
        let now = Instant::now();
        let until = |at: Instant| at.saturating_duration_since(now);
        let interval =
            timers.interval.map(|at| Duration::from_micros(at.saturating_sub(self.moment())));
        let deadline = timers.deadline.map(|at| {
            let rest = u64::try_from(at.0.saturating_sub(ffi::now().0)).unwrap_or(0);
            Duration::from_micros(rest).min(CLOCK_IS_TRUSTED_FOR)
        });
        let news = (self.news != News(0)).then(|| until(self.news_due));
        let prepared = self.prepared_due.map(|(due, _)| until(due));
        let locked = self.look_later.iter().map(|(due, ..)| until(*due)).min();
        [interval, deadline, news, prepared, locked].into_iter().flatten().min()
    }

    fn attend_to_news(&mut self) {
        let begun = process::processor_time();
        let news = std::mem::replace(&mut self.news, News(0));
        process::report(pg_sys::BackendState::STATE_RUNNING, Some(c"looking for realtime queues"));
        let found = process::transaction(|| (queues::realtime(), queues::prepared()));
        let (found, prepared) = match found {
            Ok(found) => found,
            Err(failure) => {
                self.news.0 |= news.0;
                self.news_due = Instant::now() + self.failed(&failure, Work::Look);
                return;
            }
        };
        let nobody_tells = queues::nobody_tells(&self.prepared) || queues::nobody_tells(&prepared);
        let has_ended = nobody_tells && !self.prepared.is_subset(&prepared);
        let everything = has_ended
            || news.has(News::EVERYTHING)
            || news.has(News::FINISHED)
            || (news.has(News::PREPARED) && nobody_tells);
        for (key, tables) in &found {
            if tables.oids.is_empty() {
                // No message waits there.
            } else if everything || self.queues.get(key) != found.get(key) {
                self.notifier.look_at(key, Timestamp::NEG_INFINITY);
            }
            // So that the queue has a place in aimq.stats, and its producers find their slot.
            let _ = self.shared.table.claim(self.oid, key);
        }
        self.other_back_off.succeeded();
        self.queues = found;
        self.locked.retain(|key| self.queues.contains_key(key));
        let is_realtime = |key: &[u8]| self.queues.contains_key(key);
        self.notifier.sinks.tidy(0, is_realtime);
        let kept = self.notifier.keep_only(self.oid, self.shared.table, is_realtime);
        if kept.must_ask_again {
            self.news.0 |= News::QUEUES.0;
        }
        // Their slots may be others' now.
        self.shared.waiters.call_released(self.oid, &kept.released, ffi::set_latch);
        self.prepared = prepared;
        if nobody_tells && !self.prepared.is_empty() {
            self.prepared_due = Some((Instant::now() + PREPARED_AGAIN.0, PREPARED_AGAIN.0));
        }
        self.looking_since = Some(begun);
    }

    /// Whether a prepared transaction has ended.
    fn ask_about_prepared(&mut self) {
        let Some((_, delay)) = self.prepared_due.take() else {
            return;
        };
        let mut next = (delay * 2).min(PREPARED_AGAIN.1);
        match process::transaction(queues::prepared) {
            Ok(now) => {
                if !self.prepared.is_subset(&now) {
                    self.news.0 |= News::EVERYTHING.0;
                    next = PREPARED_AGAIN.0;
                }
                self.prepared = now;
            }
            Err(failure) => next = self.failed(&failure, Work::Look),
        }
        if !self.prepared.is_empty() {
            self.prepared_due = Some((Instant::now() + next, next));
        }
    }

    /// Sends what may be sent.
    fn announce(&mut self) {
        let notifications = self.notifier.notifications();
        if notifications.is_empty() {
            // Of some, nothing is notified: their interval begins all the same.
            if self.notifier.is_sending() {
                let (table, interval) = (self.shared.table, settings::notify_interval());
                self.notifier.sent(table, self.moment(), ffi::now(), interval, 0);
            }
            return;
        }
        process::report(pg_sys::BackendState::STATE_RUNNING, Some(c"notifying"));
        let ready: Vec<send::Ready> = notifications
            .into_iter()
            // JSON holds no NUL: serde escapes control characters.
            .filter_map(|it| Some((it.channel.to_owned(), CString::new(it.payload).ok()?)))
            .collect();
        let begun = process::processor_time();
        match send::all(&ready) {
            Ok(()) => {
                self.back_off.succeeded();
                self.database.notifications.fetch_add(ready.len() as u64, Ordering::Relaxed);
                let interval = settings::notify_interval();
                let table = self.shared.table;
                let cost = process::processor_time().saturating_sub(begun);
                self.notifier.sent(table, self.moment(), ffi::now(), interval, cost);
            }
            Err(failure) => {
                let delay = self.failed(&failure, Work::Send);
                let delay = u64::try_from(delay.as_micros()).unwrap_or(Moment::MAX);
                self.notifier.failed(self.moment(), delay);
            }
        }
    }

    /// Counts and logs a failure; how long to wait.
    fn failed(&mut self, failure: &Failure, work: Work) -> Duration {
        let (delay, is_to_be_logged) = match work {
            Work::Send => self.back_off.failed(),
            Work::Look => self.other_back_off.failed(),
        };
        self.count_failure(failure, is_to_be_logged.then_some(delay));
        delay
    }

    /// Counts a failure, and logs it with how long it is until the next try.
    fn count_failure(&self, failure: &Failure, delay: Option<Duration>) {
        process::count(&self.database.errors);
        self.database.last_error.store(failure.sqlstate.cast_unsigned(), Ordering::Relaxed);
        self.database.last_error_at.store(ffi::now().0, Ordering::Relaxed);
        if let Some(delay) = delay {
            ereport!(
                PgLogLevel::LOG,
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("aimq notifier: {}", failure.message),
                format!(
                    "It is tried again in {} ms. Nothing is lost, and enqueues go on.",
                    delay.as_millis()
                )
            );
        }
    }

    /// Before sleep: what others see of us. Statistics are sent once there is nothing more to do.
    fn rest(&self, limit: Option<Duration>) {
        process::report(pg_sys::BackendState::STATE_IDLE, None);
        // SAFETY: not in a transaction.
        unsafe {
            pg_sys::pgstat_report_stat(limit.is_none());
        }
    }

    /// Whether nothing is expected of us any more.
    fn is_free(&self) -> bool {
        self.notifier.is_idle()
            && self.news == News(0)
            && self.look_later.is_empty()
            && self.prepared_due.is_none()
    }

    /// The last realtime queue is gone: ends the process, unless there is something new.
    fn leave(&self) {
        self.database.end(State::None);
        self.shared.waiters.call_everybody(self.oid, ffi::set_latch);
        // From here on whoever marks finds no bell, and asks the launcher. Whoever marked before has left
        // a slot, or news.
        if self.database.has_news() || self.shared.table.of(self.oid).next().is_some() {
            launcher::want(self.shared, self.database);
        }
        leave(0);
    }
}

/// Before there is a place to note it.
fn fail(failure: &Failure) -> ! {
    pgrx::log!("aimq notifier: {}", failure.message);
    leave(1)
}
