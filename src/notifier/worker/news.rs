//! What the watcher is told, and what it has to ask for because nobody tells: which queues are realtime, whether
//! prepared transactions have ended, what subscriptions bring.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use aimq_core::route::RouteKey;
use aimq_core::shared::{KEY_MAX_BYTES, News};
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;

use super::state::{Work, Worker, switches};
use crate::notifier::queues::{self, Queues};
use crate::pg::{catalogs, ffi, process, timeouts};

/// How soon it is asked whether a prepared transaction has ended, at first and at most, where nobody
/// tells.
const PREPARED_AGAIN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How often the tables that a subscription writes to are looked at: nobody tells what it brings.
const SUBSCRIBED_AGAIN: Duration = Duration::from_secs(1);

/// How long a question to the catalogs waits for each lock, and how long it takes at most, in milliseconds.
const EACH_LOCK: i32 = 50;
const A_QUESTION: i32 = 5000;

/// After how many queues that have gone the caches of the catalogs are emptied. Each leaves some 200 bytes there.
const GONE_MOST: usize = 500;

/// How soon other databases have given back what they have above their share.
const SHARED_WITHIN: Duration = Duration::from_millis(50);

/// What the catalogs say.
struct Answer {
    queues: Queues,
    prepared: HashSet<String>,
    subscribed: HashSet<u32>,
}

fn ask() -> Result<Answer, process::Failure> {
    timeouts::within(EACH_LOCK, A_QUESTION, || {
        process::transaction(|| {
            // It may be another's by now.
            ffi::give_way(queues::owner());
            Answer {
                queues: queues::realtime(),
                prepared: queues::prepared(),
                subscribed: queues::subscribed(),
            }
        })
    })
}

impl Worker {
    /// Attends to what was told, and asks for what nobody tells.
    pub(super) fn hear(&mut self, now: Instant) {
        if self.database.has_news() {
            // Before it is taken: the notifier leaves if there are neither queues nor news.
            self.database.set_empty(false);
            self.news.0 |= self.database.news().0;
        }
        let switches = switches();
        if std::mem::replace(&mut self.switches, switches) != switches {
            // Meanwhile no trigger fired.
            self.news.0 |= News::EVERYTHING.0;
        }
        if self.news != News(0) && self.news_due <= now {
            self.attend_to_news();
        }
        if self.prepared_due.is_some_and(|(due, _)| due <= now) {
            self.ask_about_prepared();
        }
        if self.subscribed_due.is_some_and(|due| due <= now) {
            self.look_at_those(|worker, key| worker.is_subscribed(key));
            self.subscribed_due = Some(now + SUBSCRIBED_AGAIN);
        }
    }

    fn attend_to_news(&mut self) {
        let begun = process::processor_time();
        let news = std::mem::replace(&mut self.news, News(0));
        process::show_activity(
            pg_sys::BackendState::STATE_RUNNING,
            Some(c"looking for realtime queues"),
        );
        let Answer { queues, prepared, subscribed } = match ask() {
            Ok(answer) => answer,
            Err(failure) => {
                self.news.0 |= news.0;
                self.news_due = Instant::now() + self.failed(&failure, Work::Look);
                return;
            }
        };
        self.seat.works(ffi::now());
        let former = std::mem::replace(&mut self.queues, queues);
        self.database.set_wants(self.queues.len());
        self.gone += former.keys().filter(|key| !self.queues.contains_key(*key)).count();
        if self.gone >= GONE_MOST && process::transaction(catalogs::empty_caches).is_ok() {
            self.gone = 0;
        }
        let mut changed = self.share(news);
        let mut lacks_slots = false;
        for (key, queue) in &self.queues {
            // So that the queue has a place in aimq.stats, and its producers find their slot.
            let claim = self.shared.claim(self.oid, key);
            lacks_slots |= claim.is_err() && key.len() <= KEY_MAX_BYTES;
            let is_new = former.get(key).is_none_or(|it| it.version != queue.version);
            if is_new {
                // Its triggers may have been off, its table may be another. So the sessions that block look for
                // themselves.
                changed.extend(claim.ok().map(|claim| claim.at));
                self.failing.remove(key);
            }
            if !queue.is_event && (is_new || news.has(News::EVERYTHING)) {
                self.agenda.look_at(key, Timestamp::NEG_INFINITY);
            }
        }
        self.other_back_off.succeeded();
        self.locked.retain(|key| self.queues.contains_key(key));
        self.failing.retain(|key, _| self.queues.contains_key(key));
        self.handed_over.retain(|key, _| self.queues.contains_key(key));
        // The failure may have been about what has changed: a privilege for instance.
        self.failing.values_mut().for_each(|failing| failing.due = Instant::now());
        let is_realtime = |key: &RouteKey| self.queues.contains_key(key);
        let kept = self.agenda.keep_only(self.oid, self.shared.slots, is_realtime);
        if kept.must_ask_again {
            self.news.0 |= News::QUEUES.0;
            self.wake_notifier();
        }
        // Their slots may be others' now.
        changed.extend(kept.released);
        self.shared.waiters.call_released(self.oid, &changed, ffi::set_latch);
        if lacks_slots {
            self.demand_slots();
        }
        self.look_for_prepared(news, prepared);
        self.subscribed_due = (!subscribed.is_empty()).then(|| Instant::now() + SUBSCRIBED_AGAIN);
        self.subscribed = subscribed;
        self.looking_since = Some(begun);
    }

    /// Gives back what the database has above its share, if others lack slots. Says which slots.
    fn share(&mut self, news: News) -> Vec<u32> {
        if !news.has(News::SHARE) {
            return Vec::new();
        }
        let share = self.shared.databases.share(self.shared.slots);
        self.agenda.keep_at_most(self.oid, self.shared.slots, share)
    }

    /// Has others give back what they have above their share, and asks again soon.
    fn demand_slots(&mut self) {
        let mut is_told = false;
        self.shared.databases.demand(self.shared.slots, self.database, |other| {
            is_told = true;
            if let Some(bell) = other.who_watches().bell() {
                ffi::set_latch(bell);
            }
        });
        if is_told {
            self.news.0 |= News::QUEUES.0;
            self.news_due = Instant::now() + SHARED_WITHIN;
        }
    }

    /// Looks at the tables for which transactions that were prepared had something, if one has ended.
    fn look_for_prepared(&mut self, news: News, prepared: HashSet<String>) {
        let nobody_tells = queues::nobody_tells(&self.prepared) || queues::nobody_tells(&prepared);
        if news.has(News::EVERYTHING) {
            self.unknown_prepared = prepared.clone();
        }
        let has_ended = nobody_tells && !self.prepared.is_subset(&prepared);
        let may_have_ended = nobody_tells && news.has(News::PREPARED);
        self.prepared = prepared;
        if has_ended || may_have_ended || news.has(News::FINISHED) {
            self.prepared_has_ended();
        }
        if nobody_tells && !self.prepared.is_empty() {
            self.prepared_due = Some((Instant::now() + PREPARED_AGAIN.0, PREPARED_AGAIN.0));
        }
    }

    fn prepared_has_ended(&mut self) {
        // Nobody knows what the prepared transactions have done that were there before us.
        if !self.unknown_prepared.is_subset(&self.prepared) {
            self.unknown_prepared.retain(|one| self.prepared.contains(one));
            self.look_at_those(|_, _| true);
        }
        let mut buckets = Vec::new();
        self.database.take_prepared(|at| buckets.push((at, Timestamp::NEG_INFINITY)));
        // The notes are taken first, and which transactions are prepared is asked second. A transaction leaves its note
        // once it is to be seen as prepared. So one whose note was taken is seen, or has ended. The other way round, one
        // that is prepared in between would lose its note.
        let is_none = || process::transaction(|| queues::prepared().is_empty());
        if !buckets.is_empty() && !is_none().unwrap_or(false) {
            buckets.iter().for_each(|(at, _)| self.database.prepare_bucket(*at));
        }
        self.look_at_buckets(&buckets);
    }

    /// Whether a prepared transaction has ended.
    fn ask_about_prepared(&mut self) {
        let Some((_, delay)) = self.prepared_due.take() else {
            return;
        };
        let mut next = (delay * 2).min(PREPARED_AGAIN.1);
        match process::transaction(queues::prepared) {
            Ok(now) => {
                let has_ended = !self.prepared.is_subset(&now);
                self.prepared = now;
                if has_ended {
                    self.prepared_has_ended();
                    next = PREPARED_AGAIN.0;
                }
            }
            Err(failure) => next = self.failed(&failure, Work::Look),
        }
        if !self.prepared.is_empty() {
            self.prepared_due = Some((Instant::now() + next, next));
        }
    }

    /// What was noted of queues without a slot.
    pub(super) fn look_without_slots(&mut self) {
        let mut buckets = Vec::new();
        self.database.take_looks(ffi::now(), |at, from| buckets.push((at, from)));
        self.look_at_buckets(&buckets);
    }

    fn look_at_buckets(&mut self, buckets: &[(usize, Timestamp)]) {
        if buckets.is_empty() {
            return;
        }
        for (key, queue) in &self.queues {
            let relation = key.relation();
            let bucket = buckets.iter().find(|(at, _)| self.database.is_in_bucket(relation, *at));
            if let Some((_, from)) = bucket
                && !queue.is_event
            {
                self.agenda.look_at(key, *from);
            }
        }
        // Nobody has told us yet of a queue that has just become realtime, but somebody will: it is looked at then.
    }

    fn look_at_those(&mut self, which: impl Fn(&Self, &RouteKey) -> bool) {
        let keys = self.queues.iter().filter(|(_, queue)| !queue.is_event).map(|(key, _)| key);
        let keys: Vec<_> = keys.filter(|key| which(self, key)).cloned().collect();
        for key in keys {
            self.agenda.look_at(&key, Timestamp::NEG_INFINITY);
        }
    }

    fn is_subscribed(&self, key: &RouteKey) -> bool {
        self.subscribed.contains(&key.relation())
    }
}
