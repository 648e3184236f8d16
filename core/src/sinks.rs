//! Broadcasts of a queue's news, which do not go to NOTIFY. Each has its own timer and back-off. So one that fails
//! keeps no other waiting, and no broadcast keeps a notification waiting.

use indexmap::IndexMap;

use crate::back_off::BackOff;
use crate::clock::Moment;
use crate::ids::Ids;
use crate::pace::{self, Pace};
use crate::route::RouteKey;
use crate::shared::Claim;

/// How soon a failed broadcast is tried again, at first and at most.
const AGAIN: (Moment, Moment) = (100_000, 5_000_000);

/// What is to be broadcast of one route, or was within the interval.
#[derive(Clone, Debug)]
pub struct Pending {
    /// 0 if there is nothing to say.
    pub messages: u64,
    /// Which.
    pub ids: Ids,
    /// Where to count it, if the route has a slot.
    pub claim: Option<Claim>,
    not_before: Moment,
    back_off: BackOff,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            messages: 0,
            ids: Ids::default(),
            claim: None,
            not_before: 0,
            back_off: BackOff::new(AGAIN.0, AGAIN.1),
        }
    }
}

/// All of them.
#[derive(Debug)]
pub struct Sinks {
    pending: IndexMap<RouteKey, Pending>,
    pace: Pace,
}

impl Default for Sinks {
    fn default() -> Self {
        Self { pending: IndexMap::new(), pace: Pace::with_rests_up_to(pace::BROADCAST, AGAIN.1) }
    }
}

impl Sinks {
    /// There are messages.
    pub fn add(&mut self, key: &RouteKey, claim: Option<Claim>, messages: u64, ids: &Ids) {
        if !self.pending.contains_key(key) {
            self.pending.insert(key.clone(), Pending::default());
        }
        if let Some(pending) = self.pending.get_mut(key) {
            pending.claim = claim.or(pending.claim);
            pending.messages = pending.messages.saturating_add(messages);
            pending.ids.append(ids);
        }
    }

    /// One that may be sent now. Call [`Sinks::sent`] or [`Sinks::failed`] afterwards.
    #[must_use]
    pub fn ready(&self, moment: Moment) -> Option<(RouteKey, Pending)> {
        if self.pace.rests(moment).is_some() {
            return None;
        }
        let mut due = self.pending.iter().filter(|(_, it)| it.messages > 0);
        let (key, pending) = due.find(|(_, it)| it.not_before <= moment)?;
        Some((key.clone(), pending.clone()))
    }

    /// It was sent, which took `cost` microseconds: nothing more of it before the interval has passed.
    pub fn sent(&mut self, key: &RouteKey, moment: Moment, interval: Moment, cost: Moment) {
        self.pace.spent(moment, cost);
        // It goes behind the others, so that all have their turn.
        if let Some(mut pending) = self.pending.shift_remove(key) {
            pending.messages = 0;
            pending.ids = Ids::default();
            pending.back_off.succeeded();
            pending.not_before = moment.saturating_add(interval);
            self.pending.insert(key.clone(), pending);
        }
    }

    /// The interval is shorter from now on: no broadcast that was sent keeps the next one waiting for longer than that.
    /// A failed one keeps its back-off.
    pub(crate) fn change_interval(&mut self, latest: Moment) {
        for pending in self.pending.values_mut().filter(|pending| !pending.back_off.has_failed()) {
            pending.not_before = pending.not_before.min(latest);
        }
    }

    /// It could not be sent; the try took `cost` microseconds. Returns how long it will wait, and whether to
    /// log it (the 1st, 2nd, 4th, 8th …).
    pub fn failed(&mut self, key: &RouteKey, moment: Moment, cost: Moment) -> (Moment, bool) {
        self.pace.spent(moment, cost);
        let Some(mut pending) = self.pending.shift_remove(key) else {
            return (0, false);
        };
        let (delay, is_to_be_logged) = pending.back_off.failed();
        pending.not_before = moment.saturating_add(delay);
        self.pending.insert(key.clone(), pending);
        (delay, is_to_be_logged)
    }

    /// None is sent before `moment`.
    pub fn rest_until(&mut self, moment: Moment) {
        self.pace.rest_until(moment);
    }

    /// When the next one may be sent.
    #[must_use]
    pub fn next(&self, moment: Moment) -> Option<Moment> {
        let rests = self.pace.rests(moment).unwrap_or(0);
        let pending = self.pending.values().filter(|pending| pending.messages > 0);
        pending.map(|pending| pending.not_before.max(rests)).min()
    }

    /// Forgets those that have nothing to say, and may say something at once; and those of routes that are gone.
    pub fn tidy(&mut self, moment: Moment, is_wanted: impl Fn(&RouteKey) -> bool) {
        self.pending.retain(|key, pending| {
            (pending.messages > 0 || pending.not_before > moment) && is_wanted(key)
        });
    }

    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.values().all(|pending| pending.messages == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(bytes: &[u8]) -> RouteKey {
        bytes.into()
    }

    /// Sends what is ready.
    fn send(sinks: &mut Sinks, moment: Moment) -> Vec<(u64, i64)> {
        let mut sent = Vec::new();
        while let Some((sent_key, pending)) = sinks.ready(moment) {
            sinks.sent(&sent_key, moment, 100, 0);
            sent.push((pending.messages, pending.ids.newest));
        }
        sent
    }

    #[test]
    fn a_burst_is_one_for_each_queue_and_interval() {
        let mut sinks = Sinks::default();
        for id in 1..=10 {
            sinks.add(&key(b"a"), None, 1, &Ids::one(id));
            sinks.add(&key(b"b"), None, 2, &Ids::one(10 * id));
        }
        assert_eq!(send(&mut sinks, 5), [(10, 10), (20, 100)]);
        sinks.add(&key(b"a"), None, 3, &Ids::one(11));
        assert_eq!(send(&mut sinks, 104), []);
        assert_eq!(sinks.next(104), Some(105));
        assert_eq!(send(&mut sinks, 105), [(3, 11)]);
        assert_eq!(sinks.next(105), None);
        sinks.tidy(205, |_| true);
        assert!(sinks.pending.is_empty());
    }

    #[test]
    fn one_that_fails_keeps_no_other_waiting() {
        let mut sinks = Sinks::default();
        sinks.add(&key(b"bad"), None, 1, &Ids::one(1));
        sinks.add(&key(b"good"), None, 1, &Ids::one(2));
        let mut moment = 0;
        let mut delays = Vec::new();
        for _ in 0..8 {
            let (bad, _) = sinks.ready(moment).unwrap();
            assert_eq!(&*bad, b"bad");
            delays.push(sinks.failed(&bad, moment, 0).0);
            assert_eq!(send(&mut sinks, moment).len(), usize::from(moment == 0));
            sinks.add(&key(b"bad"), None, 1, &Ids::one(3));
            moment = sinks.next(moment).unwrap();
        }
        assert_eq!(&delays[..3], [100_000, 200_000, 400_000]);
        assert_eq!(delays[7], 5_000_000);
        assert_eq!(send(&mut sinks, moment), [(9, 3)], "nothing is lost meanwhile");
    }

    #[test]
    fn what_takes_long_rests() {
        let mut sinks = Sinks::default();
        sinks.add(&key(b"a"), None, 1, &Ids::one(1));
        let begin = 10 * pace::CREDIT;
        sinks.sent(&key(b"a"), begin, 0, pace::CREDIT);
        sinks.add(&key(b"a"), None, 1, &Ids::one(2));
        assert!(sinks.ready(begin).is_none());
        assert!(sinks.ready(sinks.next(begin).unwrap()).is_some());
    }
}
