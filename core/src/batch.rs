//! What one transaction has enqueued, by route, following its savepoints exactly.
//!
//! Every change belongs to the nesting level of the (sub)transaction that made it. A savepoint that
//! is released hands its changes to the level around it; one that is rolled back takes them along.
//! A savepoint in which nothing was enqueued costs one comparison.
//!
//! Not guaranteed: that `count` equals the rows that stay. Rows that the same transaction deletes
//! again are still counted, since a wake-up is a hint and the table is the truth.

use indexmap::IndexMap;

use crate::hash::BuildFnv;
use crate::ids::Ids;
use crate::payload::{Entry, Notification, event, notifications};
use crate::route::Route;
use crate::timestamp::Timestamp;

/// Above this many routes the room that a transaction used is given back at its end.
const KEPT_ROUTES: usize = 256;

/// The nesting level of a transaction: 1 is the transaction itself, each savepoint adds one.
pub type Level = u32;

/// What was enqueued on one route at one level; or, where the route is of another event, what else befell messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// How many messages.
    pub count: u64,
    /// Which, where the route asks for that.
    pub ids: Option<Box<Ids>>,
    /// The earliest visibility time among them.
    pub earliest: Timestamp,
    /// Some may become visible later than `earliest` says, and it is not known when.
    pub is_unsure: bool,
    /// From which visibility time on messages that were there before may have got another;
    /// [`Timestamp::INFINITY`] if none has.
    pub moved: Timestamp,
    /// Messages that were there before may be gone, unless the transaction is rolled back.
    pub taken: bool,
}

impl Tally {
    /// One message.
    fn message(earliest: Timestamp, is_unsure: bool) -> Self {
        Self { count: 1, ids: None, earliest, is_unsure, moved: Timestamp::INFINITY, taken: false }
    }

    /// No message, but some that were there before may have moved, or be gone.
    fn before(moved: Timestamp, taken: bool) -> Self {
        let earliest = Timestamp::INFINITY;
        Self { count: 0, ids: None, earliest, is_unsure: false, moved, taken }
    }

    /// Whether somebody is to be told when the transaction is committed.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.count > 0 || self.moved < Timestamp::INFINITY
    }

    /// Whether a rollback brings messages back.
    #[must_use]
    pub fn may_come_back(&self) -> bool {
        self.taken || self.moved < Timestamp::INFINITY
    }

    fn add(&mut self, mut other: Self) {
        let (moved, taken) = (self.moved.min(other.moved), self.taken || other.taken);
        match (self.count, other.count) {
            (_, 0) => {}
            (0, _) => *self = other,
            _ => {
                let others = other.ids.take();
                self.add_messages(&other);
                match (&mut self.ids, others) {
                    (Some(ids), Some(others)) => ids.append(&others),
                    (None, others) => self.ids = others,
                    (_, None) => {}
                }
            }
        }
        (self.moved, self.taken) = (moved, taken);
    }

    fn add_messages(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        let mixed = (self.earliest == Timestamp::NEG_INFINITY)
            != (other.earliest == Timestamp::NEG_INFINITY);
        self.is_unsure |= other.is_unsure || mixed;
        self.earliest = self.earliest.min(other.earliest);
    }
}

/// The batch of the transaction that a backend is in.
#[derive(Debug, Default)]
pub struct Batch {
    /// For each route its tallies, by rising level. Empty when all of them were rolled back.
    routes: IndexMap<Box<[u8]>, Vec<(Level, Tally)>, BuildFnv>,
    /// One entry for each tally above: its level and its route's position, by rising level.
    journal: Vec<(Level, usize)>,
    /// The position of the route that was used last: rows come in runs.
    last: usize,
    /// Kept only for its capacity.
    key: Vec<u8>,
}

impl Batch {
    /// Notes one message that was enqueued at `level`, to be visible from `visible_at` on;
    /// [`Timestamp::NEG_INFINITY`] for one that is visible already.
    ///
    /// Allocates when a route or a level is new, else never.
    pub fn record(&mut self, level: Level, route: Route<'_>, visible_at: Timestamp) {
        self.add(level, route, Tally::message(visible_at, false));
    }

    /// The same of a message of which it is not known when it will be visible: at once, or later.
    pub fn record_unknown(&mut self, level: Level, route: Route<'_>) {
        self.add(level, route, Tally::message(Timestamp::NEG_INFINITY, true));
    }

    /// Notes which message the last one was that was noted.
    pub fn record_id(&mut self, id: i64) {
        if let Some((_, tallies)) = self.routes.get_index_mut(self.last)
            && let Some((_, tally)) = tallies.last_mut()
        {
            match &mut tally.ids {
                Some(ids) => ids.add(id),
                None => tally.ids = Some(Box::new(Ids::one(id))),
            }
        }
    }

    /// Notes that messages which were there before may have got another visibility time, of `from` or
    /// later.
    pub fn record_moved(&mut self, level: Level, route: Route<'_>, from: Timestamp) {
        self.add(level, route, Tally::before(from, false));
    }

    /// Notes that messages which were there before may be gone.
    pub fn record_taken(&mut self, level: Level, route: Route<'_>) {
        self.add(level, route, Tally::before(Timestamp::INFINITY, true));
    }

    fn add(&mut self, level: Level, route: Route<'_>, tally: Tally) {
        let at = match self.routes.get_index(self.last) {
            Some((key, _)) if route.is_key(key) => self.last,
            _ => self.position(route),
        };
        self.last = at;
        self.add_at(at, level, tally);
    }

    fn add_at(&mut self, at: usize, level: Level, tally: Tally) {
        let tallies = &mut self.routes[at];
        match tallies.last_mut() {
            Some((top, sum)) if *top == level => sum.add(tally),
            _ => {
                tallies.push((level, tally));
                self.journal.push((level, at));
            }
        }
    }

    /// Notes one more message, if it is of the route and level of the last one and nothing can be
    /// learned from when it will be visible: others of that tally already are. Else does nothing and
    /// says false. Reading a row's visibility time is a good part of what a row costs.
    #[inline]
    pub fn record_another(&mut self, level: Level, route: Route<'_>) -> bool {
        if let Some((key, tallies)) = self.routes.get_index_mut(self.last)
            && let Some((top, tally)) = tallies.last_mut()
            && *top == level
            && tally.earliest == Timestamp::NEG_INFINITY
            && route.is_key(key)
        {
            tally.count = tally.count.saturating_add(1);
            tally.is_unsure = true;
            return true;
        }
        false
    }

    /// The position of a route, which is made if it is new.
    fn position(&mut self, route: Route<'_>) -> usize {
        route.write_key(&mut self.key);
        match self.routes.get_index_of(self.key.as_slice()) {
            Some(at) => at,
            None => self.routes.insert_full(self.key.as_slice().into(), Vec::new()).0,
        }
    }

    /// The savepoint at `level` was released: what it enqueued belongs to the level around it.
    pub fn release(&mut self, level: Level) {
        let first = self.first_of(level);
        let mut kept = first;
        for next in first..self.journal.len() {
            let at = self.journal[next].1;
            let tallies = &mut self.routes[at];
            let Some((_, tally)) = tallies.pop() else {
                continue;
            };
            match tallies.last_mut() {
                Some((top, sum)) if *top == level - 1 => sum.add(tally),
                _ => {
                    tallies.push((level - 1, tally));
                    self.journal[kept] = (level - 1, at);
                    kept += 1;
                }
            }
        }
        self.journal.truncate(kept);
    }

    /// The savepoint at `level` was rolled back: what it enqueued never was, and what it moved or took is
    /// back, if it had written anything.
    pub fn roll_back(&mut self, level: Level, had_written: bool) {
        let kept = self.first_of(level);
        let mut back = Vec::new();
        for (_, at) in self.journal.drain(kept..) {
            if self.routes[at].pop().is_some_and(|(_, tally)| had_written && tally.may_come_back())
            {
                back.push(at);
            }
        }
        for at in back {
            self.add_at(at, level - 1, Tally::before(Timestamp::NEG_INFINITY, false));
        }
    }

    /// Where the entries of `level` and deeper ones begin.
    fn first_of(&self, level: Level) -> usize {
        let deeper = self.journal.iter().rev().take_while(|(of, _)| *of >= level).count();
        self.journal.len() - deeper
    }

    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.journal.is_empty()
    }

    /// Whether somebody is to be told when the transaction is committed.
    pub fn has_news(&self) -> bool {
        self.any(Tally::has_news)
    }

    /// Whether there is a message to announce.
    pub fn has_messages(&self) -> bool {
        self.any(|tally| tally.count > 0)
    }

    /// Whether that is so of a tally: for what the sum of some is if one of them is.
    fn any(&self, is: impl Fn(&Tally) -> bool) -> bool {
        self.routes.values().flatten().any(|(_, tally)| is(tally))
    }

    /// Forgets everything. Cannot fail, so it may be called after the commit.
    pub fn clear(&mut self) {
        self.last = 0;
        self.journal.clear();
        if self.routes.capacity() > KEPT_ROUTES {
            self.routes = IndexMap::default();
            self.journal = Vec::new();
        } else {
            self.routes.clear();
        }
    }

    /// What there is to say, by route in the order of first use, savepoints summed up.
    pub fn tallies(&self) -> impl Iterator<Item = (Route<'_>, Tally)> {
        self.routes.iter().filter_map(|(key, tallies)| {
            let (route, mut sum) = (Route::from_key(key)?, sum_of(tallies)?);
            if route.event == event::DELETED {
                self.leave_out_archived(route, &mut sum);
            }
            Some((route, sum))
        })
    }

    /// Who archives a message deletes it from the queue: that is one thing that befell it, not two.
    fn leave_out_archived(&self, route: Route<'_>, deleted: &mut Tally) {
        let archived = Route { event: event::ARCHIVED, ..route }.key();
        let Some(archived) = self.routes.get(&archived).and_then(|it| sum_of(it)) else {
            return;
        };
        deleted.count = deleted.count.saturating_sub(archived.count);
        if let (Some(ids), Some(others)) = (&mut deleted.ids, &archived.ids) {
            ids.remove(others);
        }
    }

    /// The notifications that announce this batch at the time `now`: one for each channel and event.
    pub fn notifications(&self, now: Timestamp) -> Vec<Notification<'_>> {
        self.notifications_of(now, |_| true)
    }

    /// The same, of some routes only.
    pub fn notifications_of(
        &self,
        now: Timestamp,
        wanted: impl Fn(Route<'_>) -> bool,
    ) -> Vec<Notification<'_>> {
        let all = self.tallies().filter(|(route, tally)| tally.count > 0 && wanted(*route));
        notifications(all.map(|(route, tally)| {
            let visible_at = (tally.earliest > now).then_some(tally.earliest);
            (route, Entry { queue: route.queue, count: tally.count, visible_at, ids: tally.ids })
        }))
    }
}

/// The tallies of all levels of a route.
fn sum_of(tallies: &[(Level, Tally)]) -> Option<Tally> {
    tallies.iter().map(|(_, tally)| tally.clone()).reduce(|mut sum, tally| {
        sum.add(tally);
        sum
    })
}

#[cfg(test)]
mod tests;
