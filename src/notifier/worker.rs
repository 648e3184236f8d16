//! The two processes of one database. The notifier takes the marks, notifies and broadcasts: it may have to wait for
//! others. The watcher calls the sessions that block, keeps the times and looks at tables: it waits for nobody. Where
//! there is room for only one of them, the notifier does both.

mod announce;
mod handed;
mod leaving;
mod looks;
mod news;
mod sinks;
mod state;

use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aimq_core::agenda::{Duties, Timers};
use aimq_core::shared::{News, State};
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;

use self::state::Worker;
use super::queues;
use super::start::Start;
use crate::error::Log;
use crate::pg::function::background_worker;
use crate::pg::process::{self, Failure, exit};
use crate::pg::{ffi, signals, text};
use crate::settings::{self, Delivery};
use crate::shared::{self, Shared, bell};

/// How long a sleep until a message becomes visible may be: then the clock is asked again, which somebody may
/// have set.
const CLOCK_IS_TRUSTED_FOR: Duration = Duration::from_secs(60);

/// The pause after news were attended to: so many times the processor's time that this took, and the longest.
const LOOK_SHARE: u32 = 10;
const LOOK_REST: Duration = Duration::from_millis(500);

/// What our processes set for themselves, whatever its database has set for sessions.
const SETTINGS: &[(&CStr, &CStr)] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    // What a notification says is in the queues anyway: after a crash everything is announced again.
    (c"synchronous_commit", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    // A look must not read a whole table because of old statistics.
    (c"enable_seqscan", c"off"),
    (c"enable_indexscan", c"on"),
    (c"enable_indexonlyscan", c"on"),
    (c"max_parallel_workers_per_gather", c"0"),
    // For a plan that has to avoid a scan of the whole table, JIT would compile code.
    (c"jit", c"off"),
    // What Supabase's function says when it fails is a WARNING, which has to be heard.
    (c"log_min_messages", c"warning"),
    (c"lock_timeout", c"0"),
    (c"statement_timeout", c"0"),
    (c"idle_in_transaction_session_timeout", c"0"),
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    (c"transaction_timeout", c"0"),
];

background_worker! {
    /// A notifier's process; for its argument, see [`Start`].
    aimq_notifier_main, run_notifier
}

background_worker! {
    /// A watcher's process; for its argument, see [`Start`].
    aimq_watcher_main, run_watcher
}

fn run_notifier(argument: pg_sys::Datum) -> ! {
    let start = Start::from(argument);
    let shared = connect(start, c"aimq notifier");
    sinks::init();
    let Some(worker) = Worker::begin(shared, start) else {
        exit(0);
    };
    worker.run(process::wait_event(c"AimqNotifierMain"))
}

fn run_watcher(argument: pg_sys::Datum) -> ! {
    let start = Start::from(argument);
    let shared = connect(start, c"aimq watcher");
    let Some(worker) = Worker::begin_to_watch(shared, start.database) else {
        exit(0);
    };
    worker.run(process::wait_event(c"AimqWatcherMain"))
}

/// Makes a process of ours one of its database.
fn connect(start: Start, name: &CStr) -> Shared {
    signals::handle_politely();
    // Those that are connected may enqueue, even if nobody else may connect any more.
    process::connect(Some(start.database), !start.is_probe);
    text::prepare();
    for (name, value) in SETTINGS {
        process::set(name, value);
    }
    process::set(c"application_name", name);
    let Some(shared) = shared::of_process() else {
        Log::NoSharedMemory { process: &name.to_string_lossy() }.report();
        exit(0);
    };
    shared
}

/// The process ends against its will: the launcher starts another.
fn on_exit() {
    let Some(shared) = shared::get() else {
        return;
    };
    let Some(database) = shared.databases.find(shared::own_oid()) else {
        return;
    };
    let own = process::own_pid();
    let has_watched = std::ptr::eq(database.who_watches(), &database.watcher)
        && database.watcher.pid.load(Ordering::SeqCst) == own;
    if has_watched {
        database.watcher.end(State::Down);
        bell::ring_launcher(shared);
    } else if database.notifier.pid.load(Ordering::SeqCst) == own {
        database.end(State::Down);
        bell::want(shared, database);
    } else {
        return;
    }
    // They look for themselves until there is another.
    if !database.is_watched(ffi::now()) {
        shared.waiters.call_everybody(shared::own_oid(), ffi::set_latch);
    }
}

impl Worker {
    /// Takes the database's place in the shared memory, if there is anything to do.
    fn begin(shared: Shared, start: Start) -> Option<Self> {
        let Start { database: oid, is_probe } = start;
        let found = process::transaction(|| {
            ffi::give_way(queues::owner());
            (queues::realtime(), queues::prepared())
        });
        let (queues, prepared) = found.unwrap_or_else(|failure| fail(&failure));
        let nobody_tells = queues::nobody_tells(&prepared);
        // Where transactions notify, a session that still wants a notifier starts it.
        let is_unwanted = is_probe && settings::delivery() == Delivery::Transaction;
        // A mark that was made while the last notifier left is in a slot.
        let is_free = queues.is_empty()
            && (prepared.is_empty() || !nobody_tells)
            && shared.slots.of(oid).next().is_none();
        if is_unwanted || is_free {
            // The COMMIT PREPARED of a transaction that made a queue realtime has to find the entry.
            let entry = match prepared.is_empty() {
                true => shared.databases.find(oid),
                false => shared.wait_for_own_database(),
            };
            if let Some(database) = entry
                && process::take_seat(&database.notifier.pid)
            {
                leaving::end_both(database);
                // A queue that became realtime after we looked was told of, or asks the launcher. Taken, not
                // only looked at: what stays there would start one process after the other.
                if database.news() != News(0) {
                    bell::want(shared, database);
                }
            }
            shared.launcher.probed.store(oid, Ordering::SeqCst);
            return None;
        }
        let Some(database) = shared.wait_for_own_database() else {
            Log::NoRoomForDatabase.report();
            return None;
        };
        if !process::take_seat(&database.notifier.pid) {
            return None;
        }
        process::at_exit(on_exit);
        let mut worker = Self::new(shared, oid, database, &database.notifier);
        if database.calling.swap(0, Ordering::SeqCst) != 0 {
            Log::EndedInCall.report();
            worker.agenda.sinks.rest_until(60_000_000);
        }
        database.set_empty(false);
        database.begin(ffi::own_latch());
        // The watcher finds what the last notifier had taken and not announced; or a watcher to come does.
        if database.tell(News::EVERYTHING).watcher
            && let Some(bell) = database.watcher.bell()
        {
            ffi::set_latch(bell);
        }
        // It asks the next database now, and starts a watcher.
        bell::ring_launcher(shared);
        Some(worker)
    }

    /// Takes the watcher's place beside a notifier.
    fn begin_to_watch(shared: Shared, oid: u32) -> Option<Self> {
        let found = process::transaction(|| {
            ffi::give_way(queues::owner());
        });
        found.unwrap_or_else(|failure| fail(&failure));
        let database = shared.databases.find(oid)?;
        if database.state() == State::None || !process::take_seat(&database.watcher.pid) {
            database.watcher.set_waiting(State::None);
            return None;
        }
        process::at_exit(on_exit);
        let mut worker = Self::new(shared, oid, database, &database.watcher);
        worker.agenda.duties = Duties::WATCHER;
        // Nobody told us what happened before we began.
        worker.news = News::EVERYTHING;
        database.watcher.begin(ffi::own_latch());
        bell::ring_launcher(shared);
        // The notifier hands over what it watched.
        if let Some(bell) = database.notifier.bell() {
            ffi::set_latch(bell);
        }
        Some(worker)
    }

    /// The main loop.
    fn run(mut self, event: u32) -> ! {
        loop {
            if process::begin_round() || self.must_go() {
                // Politely: the process that ended us may just want the database for itself.
                exit(0);
            }
            let limit = self.round();
            if !process::had_transaction() && limit.is_none_or(|limit| limit > Duration::ZERO) {
                if !self.begins_to_sleep(limit) {
                    continue;
                }
                process::sleep(limit, event);
                process::count(&self.seat.wake_ups);
            }
        }
    }

    /// Does what is to be done now. Returns how long to sleep; `None` until somebody wakes us.
    fn round(&mut self) -> Option<Duration> {
        self.seat.works(ffi::now());
        self.share_duties();
        let Duties { announces, watches } = self.agenda.duties;
        let interval = settings::notify_interval();
        if std::mem::replace(&mut self.interval, interval) != interval {
            self.agenda.change_interval(self.moment(), interval);
        }
        let now = Instant::now();
        if watches {
            self.hear(now);
        }
        let (again, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.look_later).into_iter().partition(|(due, ..)| *due <= now);
        self.look_later = later;
        for (_, key, from) in again {
            self.agenda.look_at(&key, from);
        }

        self.see_to_handed_over(now);

        let slots = self.shared.slots;
        let mut timers =
            self.agenda.sweep(self.database, self.oid, slots, self.moment(), ffi::now());
        if watches {
            self.look_without_slots();
            self.shared.waiters.call(self.oid, slots, ffi::set_latch);
            let deadline = self.database.earliest_without_slot();
            timers.deadline = [timers.deadline, deadline].into_iter().flatten().min();
        }
        if announces {
            self.take_found();
            // What is marked does not wait for looks, nor for what they find.
            self.announce();
            self.broadcast();
        }
        let has_more = self.look();
        if announces {
            let pending = self.agenda.next(self.moment());
            let broadcasts = self.agenda.sinks.next(self.moment());
            timers.interval = [timers.interval, pending, broadcasts].into_iter().flatten().min();
        }
        if has_more {
            // What was seen may have set a timer, and there may be more to look at.
            return Some(Duration::ZERO);
        }
        if let Some(since) = self.looking_since.take() {
            let took = process::processor_time().saturating_sub(since);
            let rest = Duration::from_micros(took).saturating_mul(LOOK_SHARE);
            self.news_due = Instant::now() + rest.min(LOOK_REST);
        }
        self.leave_if_free();
        self.limit(timers)
    }

    /// The notifier does the watcher's work where there is no room for one, and leaves it to the watcher where there
    /// is.
    fn share_duties(&mut self) {
        if !self.agenda.duties.announces {
            return;
        }
        let watches = self.database.watcher.state() == State::NoSlot;
        if watches != self.agenda.duties.watches {
            self.agenda.duties.watches = watches;
            if watches {
                self.news = News::EVERYTHING;
            } else {
                // The watcher begins with everything. But we may have taken what was told after it began.
                if self.database.tell(self.news).watcher {
                    self.wake_watcher();
                }
                (self.news, self.prepared_due, self.subscribed_due) = (News(0), None, None);
                self.queues.clear();
            }
        }
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
        let subscribed = self.subscribed_due.map(until);
        let locked = self.look_later.iter().map(|(due, ..)| until(*due)).min();
        let failing = self.failing.values().map(|it| until(it.due)).min();
        let handed_over = self.handed_over.values().map(|it| until(it.due)).min();
        [interval, deadline, news, prepared, subscribed, locked, failing, handed_over]
            .into_iter()
            .flatten()
            .min()
    }

    /// Before sleep: what others see of us. Statistics are sent once there is nothing more to do. False if it is not to
    /// sleep after all.
    fn begins_to_sleep(&self, limit: Option<Duration>) -> bool {
        process::show_activity(pg_sys::BackendState::STATE_IDLE, None);
        process::report_statistics(limit.is_none());
        let micros = limit.map(|limit| i64::try_from(limit.as_micros()).unwrap_or(i64::MAX));
        let until = micros.map(|micros| Timestamp(ffi::now().0.saturating_add(micros)));
        self.seat.sleeps(until);
        // A session that marked before that did not note that it counts on us.
        !process::is_rung()
            && (limit.is_some() || !self.agenda.is_noted(self.oid, self.shared.slots))
    }
}

/// Before there is a place to note it.
fn fail(failure: &Failure) -> ! {
    Log::CannotBegin { message: &failure.message }.report();
    exit(1)
}
