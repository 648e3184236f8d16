//! What the watcher leaves to the notifier: tables that take too long to look at, and what it found in tables without a
//! slot.
//!
//! The notifier may have to wait for others that notify, for as long as they please. So the watcher sees to it that no
//! session that blocks depends on that. For a table that the notifier has not come to, it has the sessions that block
//! look themselves, and tries again itself.

use std::time::{Duration, Instant};

use aimq_core::clock::Moment;
use aimq_core::route::RouteKey;
use aimq_core::shared::{Claim, News, Wake};
use aimq_core::timestamp::Timestamp;

use super::state::{HandedOver, Worker};
use crate::notifier::queues;
use crate::pg::process;

/// A table that was too long to look at is left to the notifier for so long before the watcher tries again, if nobody
/// knows how long it takes; and at most. Microseconds.
const REST: (Moment, Moment) = (1_000_000, 20_000_000);

/// How soon the watcher looks again at what the notifier has not come to, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

impl Worker {
    // The watcher's side.

    /// The notifier looks at it, which has more time.
    pub(super) fn hand_over(&mut self, key: RouteKey, claim: Option<Claim>, from: Timestamp) {
        let rest = match claim.map_or(0, |claim| self.shared.slots.look_cost(claim)) {
            0 => REST.0,
            cost => cost.saturating_mul(aimq_core::pace::LOOK).clamp(REST.0, REST.1),
        };
        self.agenda.rest_from_looks(claim, self.moment().saturating_add(rest));
        let is_noted = self.database.slow.put(key.relation(), from);
        if is_noted {
            self.wake_notifier();
        }
        let now = Instant::now();
        let new = HandedOver { due: now + AGAIN.0, from, wait: AGAIN.0, is_noted };
        self.handed_over
            .entry(key)
            .and_modify(|it| {
                it.from = it.from.min(from);
                it.is_noted = is_noted;
            })
            .or_insert(new);
    }

    /// Sees to the tables that the notifier has not come to, though there was time: the sessions that block look for
    /// themselves, and the watcher tries again.
    pub(super) fn see_to_handed_over(&mut self, now: Instant) {
        let (database, slots) = (self.database, self.shared.slots);
        let is_open =
            |key: &RouteKey, it: &HandedOver| !it.is_noted || database.slow.holds(key.relation());
        self.handed_over.retain(|key, it| it.due > now || is_open(key, it));
        for (key, it) in self.handed_over.iter_mut().filter(|(_, it)| it.due <= now) {
            it.wait = (it.wait * 2).min(AGAIN.1);
            it.due = now + it.wait;
            if let Some(claim) = slots.find(self.oid, key) {
                // They are called in this round.
                let _: Wake = slots.leave_to_waiters(claim, u64::MAX);
            }
            self.agenda.look_at(key, it.from);
        }
    }

    // The notifier's side, beside a watcher.

    /// What the watcher found in tables without a slot.
    pub(super) fn take_found(&mut self) {
        while let Some((relation, _)) = self.database.found.take() {
            for key in self.routes_of(relation) {
                self.agenda.found(self.shared.slots, &key, None);
            }
        }
    }

    /// One of the tables that were too long for the watcher, which is looked at now. Nobody else sees to what is taken
    /// here, so nothing may come in between that could have to wait for others.
    pub(super) fn take_slow(&mut self) -> bool {
        if !self.agenda.duties.announces {
            return false;
        }
        let Some((relation, from)) = self.database.slow.take() else {
            return false;
        };
        for key in self.routes_of(relation) {
            // The watcher has its own reasons, a privilege that was granted for instance, and its own rests.
            match self.failing.contains_key(&key) {
                true => self.retry(key, from),
                false => self.look_for(key, from),
            }
        }
        true
    }

    fn routes_of(&self, relation: u32) -> Vec<RouteKey> {
        match process::transaction(move || queues::routes_of(relation)) {
            Ok(routes) => routes,
            Err(failure) => {
                self.count_failure(&failure, None);
                // The table has been taken from where it was noted: the watcher finds it again.
                if self.database.tell(News::EVERYTHING).watcher {
                    self.wake_watcher();
                }
                Vec::new()
            }
        }
    }
}
