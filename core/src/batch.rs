//! What one transaction has enqueued, by route, following its savepoints exactly.
//!
//! Every change belongs to the nesting level of the (sub)transaction that made it. A savepoint that
//! is released hands its changes to the level around it; one that is rolled back takes them along.
//! A savepoint in which nothing was enqueued costs one comparison.
//!
//! Whatever happens in a statement, or before the commit, says so if there is no memory for it. What happens in
//! Postgres' callbacks for the ends of transactions and savepoints allocates nothing, because nothing may fail there:
//! [`Batch::release`], [`Batch::roll_back`], [`Batch::may_come_back`] and [`Batch::clear`].
//!
//! Not guaranteed: that `count` equals the rows that stay. Rows that the same transaction deletes
//! again are still counted, since a wake-up is a hint and the table is the truth. Rows that it deletes and puts back
//! are not: see the module `moves`.

mod moves;
mod returning;
mod tally;

use std::hash::{Hash, Hasher};

use indexmap::{Equivalent, IndexMap};

use crate::hash::BuildFnv;
use crate::ids::Ids;
use crate::memory::{OutOfMemory, push};
use crate::payload::{Notification, Part, event, notifications};
use crate::route::Route;
use crate::timestamp::Timestamp;

use self::tally::sum_of;
pub use self::tally::{Level, Tally};

/// Above this many routes, or savepoints of the only one, the room that a transaction used is given back at its end.
const KEPT_ROUTES: usize = 256;
const KEPT_TALLIES: usize = 16;

/// What [`Route::key`] writes. It is not boxed, because making a box of a vector may move it.
#[derive(Debug, PartialEq, Eq)]
struct Key(Vec<u8>);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// Finds the key of a route without writing it.
struct KeyOf<'a>(Route<'a>);

impl Hash for KeyOf<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash_key(state);
    }
}

impl Equivalent<Key> for KeyOf<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.0.is_key(&key.0)
    }
}

/// The batch of the transaction that a backend is in.
#[derive(Debug, Default)]
pub struct Batch {
    /// For each route its tallies, by rising level. Empty when all of them were rolled back, and where the route is the
    /// only one of the last transaction: a session that has sent to a queue mostly sends to it again.
    routes: IndexMap<Key, Vec<(Level, Tally)>, BuildFnv>,
    /// One entry for each tally above: its level and its route's position, by rising level.
    journal: Vec<(Level, usize)>,
    /// The position of the route that was used last: rows come in runs.
    last: usize,
    /// The transaction took rows out of a table whose trigger tells of that. A row that it puts in may be one of them.
    has_out: bool,
}

impl Batch {
    /// Nothing, which takes no memory.
    #[must_use]
    pub const fn new() -> Self {
        let routes = IndexMap::with_hasher(BuildFnv::new());
        Self { routes, journal: Vec::new(), last: 0, has_out: false }
    }

    /// Notes one message that was enqueued at `level`, to be visible from `visible_at` on;
    /// [`Timestamp::NEG_INFINITY`] for one that is visible already.
    ///
    /// Allocates when a route or a level is new, otherwise never.
    pub fn record(
        &mut self,
        level: Level,
        route: Route<'_>,
        visible_at: Timestamp,
    ) -> Result<(), OutOfMemory> {
        self.add(level, route, Tally::message(visible_at, false))
    }

    /// The same of a message of which it is not known when it will be visible: at once, or later.
    pub fn record_unknown(&mut self, level: Level, route: Route<'_>) -> Result<(), OutOfMemory> {
        self.add(level, route, Tally::message(Timestamp::NEG_INFINITY, true))
    }

    /// Notes which message the last one was that was noted.
    pub fn record_id(&mut self, id: i64) -> Result<(), OutOfMemory> {
        if let Some(tally) = self.last_tally() {
            match &mut tally.ids {
                Some(ids) => ids.add(id),
                None => tally.ids = Some(Ids::try_one(id)?),
            }
        }
        Ok(())
    }

    /// Notes that it is not known which message the last one was that was noted.
    pub fn record_unknown_id(&mut self) -> Result<(), OutOfMemory> {
        if let Some(tally) = self.last_tally() {
            let ids = match &mut tally.ids {
                Some(ids) => ids,
                None => tally.ids.insert(Ids::try_none()?),
            };
            ids.more = true;
        }
        Ok(())
    }

    /// Where the message that was noted last was added.
    fn last_tally(&mut self) -> Option<&mut Tally> {
        let (_, tallies) = self.routes.get_index_mut(self.last)?;
        tallies.last_mut().map(|(_, tally)| tally)
    }

    /// Notes that messages which were there before may have got another visibility time, of `from` or
    /// later.
    pub fn record_moved(
        &mut self,
        level: Level,
        route: Route<'_>,
        from: Timestamp,
    ) -> Result<(), OutOfMemory> {
        self.add(level, route, Tally::before(from, false))
    }

    /// Notes that messages which were there before may be gone.
    pub fn record_taken(&mut self, level: Level, route: Route<'_>) -> Result<(), OutOfMemory> {
        self.add(level, route, Tally::before(Timestamp::INFINITY, true))
    }

    fn add(&mut self, level: Level, route: Route<'_>, tally: Tally) -> Result<(), OutOfMemory> {
        let at = match self.routes.get_index(self.last) {
            Some((key, _)) if route.is_key(&key.0) => self.last,
            _ => self.position(route)?,
        };
        self.last = at;
        self.add_at(level, at, tally)
    }

    fn add_at(&mut self, level: Level, at: usize, tally: Tally) -> Result<(), OutOfMemory> {
        let tallies = &mut self.routes[at];
        match tallies.last_mut() {
            Some((top, sum)) if *top == level => sum.add(tally),
            _ => {
                // Room for both, then both: each tally has its entry in the journal, whatever fails.
                tallies.try_reserve(1)?;
                self.journal.try_reserve(1)?;
                tallies.push((level, tally));
                self.journal.push((level, at));
            }
        }
        Ok(())
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
            && route.is_key(&key.0)
        {
            tally.count = tally.count.saturating_add(1);
            tally.is_unsure = true;
            return true;
        }
        false
    }

    /// The position of a route, which is made if it is new. One without tallies, as it is at first, is none that
    /// anything happened on.
    fn position(&mut self, route: Route<'_>) -> Result<usize, OutOfMemory> {
        if self.journal.is_empty() {
            // They are told in the order of their first use.
            self.routes.clear();
        }
        if let Some(at) = self.routes.get_index_of(&KeyOf(route)) {
            return Ok(at);
        }
        let mut key = Key(Vec::new());
        route.try_append_key(&mut key.0)?;
        self.routes.try_reserve(1)?;
        Ok(self.routes.insert_full(key, Vec::new()).0)
    }

    /// The savepoint at `level` was released: what it enqueued belongs to the level around it.
    ///
    /// Allocates nothing: each tally that is pushed was popped from the same list just before, the journal is
    /// overwritten from its front, and what ids are added to has room for all of them.
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
    ///
    /// Allocates nothing: the journal is overwritten from its front, and a list gets back one tally at most, after
    /// one at least was popped from it.
    pub fn roll_back(&mut self, level: Level, had_written: bool) {
        let first = self.first_of(level);
        let mut back = first;
        for next in first..self.journal.len() {
            let at = self.journal[next].1;
            if self.routes[at].pop().is_some_and(|(_, tally)| had_written && tally.may_come_back())
            {
                self.journal[back].1 = at;
                back += 1;
            }
        }
        // All of the level is gone by now, and the journal's entries before `back` say on which routes something comes
        // back. What is on top is of the level around it, or further out.
        let mut kept = first;
        for next in first..back {
            let at = self.journal[next].1;
            let tallies = &mut self.routes[at];
            let tally = Tally::before(Timestamp::NEG_INFINITY, false);
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

    /// The keys of the routes on which messages come back if the transaction is rolled back. Allocates nothing.
    pub fn may_come_back(&self) -> impl Iterator<Item = &[u8]> {
        let may = |(_, tally): &(Level, Tally)| tally.may_come_back();
        self.routes
            .iter()
            .filter(move |(_, tallies)| tallies.iter().any(may))
            .map(|(key, _)| &*key.0)
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

    /// Whether that is so for a tally. It must be so for a sum of tallies if it is for one of them.
    fn any(&self, is: impl Fn(&Tally) -> bool) -> bool {
        self.routes.values().flatten().any(|(_, tally)| is(tally))
    }

    /// Forgets everything. Allocates nothing, so it may be called after the commit.
    pub fn clear(&mut self) {
        if self.routes.capacity() > KEPT_ROUTES {
            *self = Self::new();
            return;
        }
        self.last = 0;
        self.has_out = false;
        self.journal.clear();
        let is_one = self.routes.len() == 1;
        match self.routes.get_index_mut(0) {
            Some((_, only)) if is_one && only.capacity() <= KEPT_TALLIES => only.clear(),
            _ => self.routes.clear(),
        }
    }

    /// What there is to say, by route in the order of first use, savepoints summed up.
    pub fn tallies(&self) -> impl Iterator<Item = Result<(Route<'_>, Tally), OutOfMemory>> {
        self.keyed().map(|said| said.map(|(_, route, tally)| (route, tally)))
    }

    /// The same, with the routes' keys.
    pub fn keyed(&self) -> impl Iterator<Item = Result<(&[u8], Route<'_>, Tally), OutOfMemory>> {
        self.routes.iter().filter(|(_, tallies)| !tallies.is_empty()).filter_map(
            |(key, tallies)| {
                let route = Route::from_key(&key.0)?;
                let said = self.sum_of(route, tallies).transpose()?;
                Some(said.map(|sum| (&*key.0, route, sum)))
            },
        )
    }

    /// What there is to say of one route.
    fn sum_of(
        &self,
        route: Route<'_>,
        tallies: &[(Level, Tally)],
    ) -> Result<Option<Tally>, OutOfMemory> {
        let Some(mut sum) = sum_of(tallies)? else {
            return Ok(None);
        };
        if route.event == event::DELETED {
            let Tally { moves, count, ids, .. } = &mut sum;
            moves.leave_out_of_deleted(count, ids)?;
            self.leave_out_archived(route, &mut sum)?;
        } else if self.has_out && route.event != event::STARTED {
            let is_archive = route.event == event::ARCHIVED;
            let outs = if is_archive { event::ARCHIVED } else { event::DELETED };
            self.leave_out_what_was_there(route, outs, &mut sum)?;
        }
        Ok(Some(sum))
    }

    /// Archiving a message also deletes it from the queue: that is one event, not two.
    fn leave_out_archived(&self, route: Route<'_>, deleted: &mut Tally) -> Result<(), OutOfMemory> {
        let archived = Route { event: event::ARCHIVED, ..route };
        // What tells of those is on another table.
        let is_archived = |key: &[u8]| {
            Route::from_key(key).is_some_and(|other| other.of(route.relation) == archived)
        };
        let found = self.routes.iter().find(|(key, _)| is_archived(&key.0));
        if let Some((key, tallies)) = found
            && let Some(mut archived) = sum_of(tallies)?
        {
            if let Some(archive) = Route::from_key(&key.0) {
                self.leave_out_what_was_there(archive, event::ARCHIVED, &mut archived)?;
            }
            deleted.count = deleted.count.saturating_sub(archived.count);
            if let (Some(ids), Some(others)) = (&mut deleted.ids, &archived.ids) {
                ids.remove(others);
            }
        }
        Ok(())
    }

    /// The notifications that announce this batch at the time `now`: one for each channel and event.
    pub fn notifications(&self, now: Timestamp) -> Result<Vec<Notification<'_>>, OutOfMemory> {
        self.notifications_of(now, |_| true)
    }

    /// The same, of some routes only.
    pub fn notifications_of(
        &self,
        now: Timestamp,
        wanted: impl Fn(Route<'_>) -> bool,
    ) -> Result<Vec<Notification<'_>>, OutOfMemory> {
        let mut said = Vec::new();
        for news in self.tallies() {
            let (route, mut tally) = news?;
            // Nobody else may look.
            if route.event != event::ARCHIVED {
                tally.count = tally.count.saturating_add(tally.returned);
            }
            if tally.count > 0 && wanted(route) {
                push(&mut said, (route, tally))?;
            }
        }
        notifications(said.iter().map(|(route, tally)| {
            let visible_at = (tally.earliest > now).then_some(tally.earliest);
            let (queue, count, ids) = (route.queue, tally.count, tally.ids.as_ref());
            (*route, Part { queue, count, visible_at, ids })
        }))
    }
}

#[cfg(test)]
mod tests;
