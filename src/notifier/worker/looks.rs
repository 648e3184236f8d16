//! What our processes see for themselves: they look at tables where nobody can tell what these hold.
//!
//! The watcher's looks are short, because it keeps the times of all queues. It hands a table that takes longer to the
//! notifier, which has time. A table that could not be looked at is announced once, because nobody knows what it holds.
//! It is looked at again with a back-off of its own.

use std::time::{Duration, Instant};

use aimq_core::back_off::BackOff;
use aimq_core::clock::Moment;
use aimq_core::route::RouteKey;
use aimq_core::shared::{Claim, Marked, News};
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::state::{Failing, Worker};
use crate::notifier::queues::{self, Seen};
use crate::pg::process::{self, Failure};
use crate::pg::{ffi, text, timeouts};

/// How soon a table that was locked is looked at again.
const LOCKED_AGAIN: Duration = Duration::from_millis(200);

/// How soon a table is looked at again after a look at it failed, at first and at most.
const FAILED_AGAIN: (Moment, Moment) = (100_000, 60_000_000);

/// How long a look waits for a lock, and how long it takes at most, in milliseconds: the watcher's, and the notifier's.
/// And when the process ends together with a look that takes no notice of these limits: an index of the table may have
/// code in it.
const EACH_LOCK: (i32, i32) = (5, 20);
const A_LOOK: (i32, i32) = (10, 1000);
const LAST_RESORT: i32 = 2000;

/// How soon a table that can't be looked at is announced again, if there is news of it.
const TOLD_AGAIN: Duration = Duration::from_secs(1);

/// How many tables are looked at, and for how long, before the marks are taken again.
const LOOKS_AT_ONCE: usize = 32;
const LOOKS_FOR: Duration = Duration::from_millis(10);

impl Worker {
    /// Looks at some of the tables that are to be looked at. False if there were none.
    pub(super) fn look(&mut self) -> bool {
        let begun = Instant::now();
        let mut looks = 0;
        while looks < LOOKS_AT_ONCE && begun.elapsed() < LOOKS_FOR {
            self.seat.works(ffi::now());
            if let Some((key, from)) = self.next_retry() {
                self.look_now(key, from, false);
            } else if let Some((key, from)) = self.agenda.next_look() {
                self.look_for(key, from);
            } else if !self.take_slow() {
                break;
            }
            looks += 1;
        }
        looks > 0
    }

    /// One that failed and whose time has come.
    fn next_retry(&mut self) -> Option<(RouteKey, Timestamp)> {
        let now = Instant::now();
        let (key, failing) = self.failing.iter_mut().find(|(_, it)| it.due <= now)?;
        // Until the look has failed again.
        failing.due = now + Duration::from_micros(FAILED_AGAIN.1);
        Some((key.clone(), failing.from))
    }

    pub(super) fn look_for(&mut self, key: RouteKey, from: Timestamp) {
        if self.agenda.duties.watches {
            match self.queues.get(&key) {
                Some(queue) if queue.is_event => return,
                Some(_) => {}
                None => {
                    // If it is realtime since we asked, it is looked at then.
                    self.news.0 |= News::QUEUES.0;
                    return;
                }
            }
        }
        if let Some(failing) = self.failing.get_mut(&key) {
            // A new note waits for the next try. But a message may be readable now. So the queue is announced at once,
            // each second at most.
            failing.from = failing.from.min(from);
            failing.is_news = true;
            let now = Instant::now();
            if failing.told + TOLD_AGAIN <= now {
                failing.told = now;
                let claim = self.shared.slots.find(self.oid, &key);
                self.found(&key, claim, u64::MAX);
            } else {
                failing.due = failing.due.min(failing.told + TOLD_AGAIN);
            }
            return;
        }
        self.look_now(key, from, true);
    }

    /// One that failed is tried again before its time: what is noted now counts too.
    pub(super) fn retry(&mut self, key: RouteKey, from: Timestamp) {
        if let Some(failing) = self.failing.get_mut(&key) {
            failing.from = failing.from.min(from);
            failing.is_news = true;
            let from = failing.from;
            self.look_now(key, from, false);
        }
    }

    fn look_now(&mut self, key: RouteKey, from: Timestamp, is_news: bool) {
        let (begun, clock) = (process::processor_time(), Instant::now());
        process::show_activity(pg_sys::BackendState::STATE_RUNNING, Some(c"looking at queues"));
        let slots = self.shared.slots;
        let known = slots.find(self.oid, &key);
        let count = known.map_or(0, |claim| slots.how_many_wait(claim)).max(1);
        let seen = self.look_at(&key, from, count);
        let cost = process::processor_time().saturating_sub(begun);
        self.agenda.looked(known, self.moment(), cost);
        if !self.agenda.duties.watches {
            // It was handed to us: the watcher asks how long it takes.
            if let Some(claim) = known {
                slots.set_look_cost(claim, cost);
            }
        }
        match seen {
            Ok(seen) => {
                self.failing.remove(&key);
                self.handed_over.remove(&key);
                self.saw(key, known, from, count, seen);
            }
            // In these two cases it has not failed any more: the next look must not wait for that.
            Err(failure) if failure.is(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE) => {
                self.failing.remove(&key);
                self.saw(key, known, from, count, Seen::LOCKED);
            }
            Err(failure) if self.is_too_long(&failure) => {
                self.failing.remove(&key);
                self.hand_over(key, known, from);
            }
            Err(failure) => {
                let rest = clock.elapsed() * aimq_core::pace::LOOK as u32;
                self.look_failed((key, known, from), is_news, &failure, rest);
            }
        }
    }

    fn saw(
        &mut self,
        key: RouteKey,
        known: Option<Claim>,
        from: Timestamp,
        count: u32,
        seen: Seen,
    ) {
        let slots = self.shared.slots;
        let relation = key.relation();
        let claim =
            known.or_else(|| seen.next.and_then(|_| self.shared.claim(self.oid, &key).ok()));
        if seen.visible > 0 {
            // Where as many were found as were asked for, there may be more. They are called in the next round.
            let is_all = seen.visible < u64::from(count);
            self.found(&key, claim, if is_all { seen.visible } else { u64::MAX });
        }
        let is_earlier = match (seen.next, claim) {
            (Some(next), Some(claim)) => slots.expect(claim, next) != Marked::More,
            (Some(next), None) => self.database.expect_without_slot(relation, next).watcher,
            (None, _) => false,
        };
        if is_earlier && !self.agenda.duties.watches {
            self.wake_watcher();
        }
        if seen.was_locked {
            self.look_later.push((Instant::now() + LOCKED_AGAIN, key.clone(), from));
            self.locked.insert(key);
        } else {
            self.locked.remove(&key);
        }
    }

    /// There is something to read, or nobody knows.
    fn found(&mut self, key: &RouteKey, claim: Option<Claim>, messages: u64) {
        let slots = self.shared.slots;
        if self.agenda.duties.announces {
            self.agenda.found(slots, key, claim);
        } else if let Some(claim) = claim {
            self.agenda.mark_found(slots, key, claim);
            self.wake_notifier();
        } else if self.database.found.put(key.relation(), Timestamp::NEG_INFINITY) {
            self.wake_notifier();
        } else {
            // The notifier is busy: it is tried again.
            self.look_later.push((
                Instant::now() + LOCKED_AGAIN,
                key.clone(),
                Timestamp::NEG_INFINITY,
            ));
        }
        if let Some(claim) = claim
            && slots.leave_to_waiters(claim, messages).watcher
            && !self.agenda.duties.watches
        {
            self.wake_watcher();
        }
    }

    pub(super) fn wake_watcher(&self) {
        let seat = &self.database.watcher;
        if let Some(bell) = seat.bell() {
            seat.count_on(ffi::now());
            ffi::set_latch(bell);
        }
    }

    pub(super) fn wake_notifier(&self) {
        if let Some(bell) = self.database.notifier.bell() {
            self.database.notifier.count_on(ffi::now());
            ffi::set_latch(bell);
        }
    }

    /// What a table holds.
    fn look_at(&mut self, key: &RouteKey, from: Timestamp, count: u32) -> Result<Seen, Failure> {
        let relation = pg_sys::Oid::from(key.relation());
        // A session that enqueues tells us in its commit, a moment before it gives its locks back.
        let may_wait = !self.locked.contains(key);
        let is_short = !self.agenda.duties.announces;
        let of = |(short, long): (i32, i32)| if is_short { short } else { long };
        let look = || queues::look(relation, from, count, may_wait);
        let look = || timeouts::within(of(EACH_LOCK), of(A_LOOK), || process::transaction(look));
        let look = || timeouts::or_end_within(LAST_RESORT, look);
        // A look that is short needs no sign of life: if it takes no notice of its end, the watcher does not respond.
        let seen = if is_short {
            look()
        } else {
            let at_most = Timestamp(ffi::now().0 + i64::from(LAST_RESORT) * 1000);
            timeouts::while_alive(self.seat, at_most, look)
        };
        ffi::release_advisory_locks();
        seen
    }

    /// Whether it was the watcher's time that was over.
    fn is_too_long(&self, failure: &Failure) -> bool {
        !self.agenda.duties.announces && failure.is(PgSqlErrorCode::ERRCODE_QUERY_CANCELED)
    }

    fn look_failed(
        &mut self,
        (key, claim, from): (RouteKey, Option<Claim>, Timestamp),
        is_news: bool,
        failure: &Failure,
        rest: Duration,
    ) {
        let failing = self.failing.remove(&key);
        let now = Instant::now();
        let told = failing.as_ref().map_or(now, |it| it.told);
        let is_news = is_news || failing.as_ref().is_some_and(|it| it.is_news);
        let (first, most) = FAILED_AGAIN;
        let mut back_off = failing.map_or(BackOff::new(first, most), |it| it.back_off);
        let (delay, is_to_be_logged) = back_off.failed();
        // A look that takes long before it fails is tried less often.
        let delay = Duration::from_micros(delay).max(rest.min(Duration::from_micros(most)));
        let what = self.described(&key);
        let message = format!("cannot look at {what}: {}", failure.message);
        let described = Failure { message, sqlstate: failure.sqlstate };
        self.count_failure(&described, is_to_be_logged.then_some(delay));
        if is_news {
            // If nobody can know what a table holds, it is announced once: a wake-up too many is allowed.
            self.found(&key, claim, u64::MAX);
        }
        let (due, told) = (now + delay, if is_news { now } else { told });
        self.failing.insert(key, Failing { due, from, back_off, is_news: false, told });
    }

    /// The queue and its table's owner, for the log.
    fn described(&self, key: &RouteKey) -> String {
        let queue = key.route().map(|route| text::from_server(route.queue.to_bytes()));
        let relation = key.relation();
        let owner = process::transaction(move || queues::owner_of(relation)).ok().flatten();
        format!(
            "queue \"{}\" as \"{}\", the owner of its table",
            queue.unwrap_or_default(),
            owner.unwrap_or_default()
        )
    }
}
