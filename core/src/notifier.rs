//! What a notifier makes of the marks: it coalesces, keeps the interval between two notifications of
//! one queue, rests if notifying takes too much of a processor, and knows when it has to wake up next.
//!
//! What may not be sent yet stays marked, and a queue that is marked wakes nobody: so a busy queue wakes
//! the notifier once in an interval. Many queues together would do so more often while it rests: then
//! the door is closed, and opened again *before* the marks are read. What was drained is kept until it was sent.

use std::collections::HashSet;
use std::ffi::{CStr, CString};

use indexmap::IndexMap;

use crate::pace::Pace;
use crate::payload::{News, Notification, notifications};
use crate::route::Route;
use crate::shared::{Claim, Database, Table};
use crate::sync::{Ordering::SeqCst, fence};
use crate::timestamp::Timestamp;

/// A moment of a clock that only goes forward, in microseconds.
pub type Moment = u64;

/// What a notifier knows of one slot.
#[derive(Debug)]
struct Known {
    claim: Claim,
    key: Box<[u8]>,
    channel: usize,
    /// Of those the slot has counted, the transactions that were announced.
    transactions: u64,
}

/// What is to be said of one route, or was said of it within the interval.
#[derive(Clone, Copy, Debug)]
struct Due {
    channel: usize,
    /// Where to count it, if the route has a slot.
    claim: Option<Claim>,
    /// 0 if there is nothing to say.
    messages: u64,
    transactions: u64,
    /// The end of the interval. If something is sent on the channel before, it is said with that.
    not_before: Moment,
}

/// When a notifier has to wake up by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    /// The end of an interval or of a rest.
    pub interval: Option<Moment>,
    /// A message becomes visible.
    pub deadline: Option<Timestamp>,
}

/// A notifier's own state, as long as its process lives.
#[derive(Debug, Default)]
pub struct Notifier {
    /// By the number of the slot.
    known: Vec<Option<Known>>,
    channels: Vec<CString>,
    /// By route.
    due: IndexMap<Box<[u8]>, Due>,
    /// Routes whose tables are to be looked at.
    looks: IndexMap<Box<[u8]>, ()>,
    /// Routes of which some message may become visible at an unknown time.
    doubts: HashSet<Box<[u8]>>,
    pace: Pace,
    /// Whether the door is closed: nobody wakes the notifier, which has a timer.
    is_closed: bool,
    /// When the marks were read.
    moment: Moment,
    /// The slots that are marked, while they are read.
    marked: Vec<Claim>,
    /// By the number of the channel: whether notifications are being sent on it.
    sending: Vec<bool>,
}

impl Notifier {
    /// Takes what is marked. The latch must have been reset before: whoever marks later sets it.
    pub fn sweep(
        &mut self,
        database: &Database,
        oid: u32,
        table: Table<'_>,
        moment: Moment,
        now: Timestamp,
    ) -> Timers {
        self.moment = moment;
        let rests = self.pace.rests(moment);
        if rests.is_none() && std::mem::take(&mut self.is_closed) {
            database.open();
        }
        self.due.retain(|_, due| due.messages > 0 || due.not_before > moment);
        // The latch and the door before the marks, as producers have them the other way round.
        fence(SeqCst);
        let mut deadline: Option<Timestamp> = None;
        self.marked.clear();
        for claim in table.of(oid) {
            let Some(known) = know(&mut self.known, &mut self.channels, table, claim) else {
                continue;
            };
            match table.earliest(claim) {
                Some(earliest) if earliest <= now => {
                    // The look finds the next one.
                    table.forget_earliest(claim);
                    self.looks.insert(known.key.clone(), ());
                }
                Some(earliest) => {
                    deadline = Some(deadline.map_or(earliest, |other| other.min(earliest)))
                }
                None => {}
            }
            if table.is_marked(claim) {
                self.marked.push(claim);
            }
        }
        let interval = match rests {
            None => self.drain(table),
            // Until somebody marks, the door stays open: a single message needs no timer after it.
            Some(_) if self.marked.is_empty() => None,
            Some(_) => {
                self.is_closed = true;
                database.close();
                rests
            }
        };
        Timers { interval, deadline }
    }

    /// Takes the marks of the queues whose interval has passed, and of all that share a channel with one of
    /// them. Returns when the next may be taken.
    fn drain(&mut self, table: Table<'_>) -> Option<Moment> {
        let mut open = self.open_channels();
        let mut marked = std::mem::take(&mut self.marked);
        let not_before = |due: &IndexMap<Box<[u8]>, Due>, known: &Known| {
            due.get(&known.key).map_or(0, |due| due.not_before)
        };
        for claim in &marked {
            if let Some(Some(known)) = self.known.get(claim.at as usize)
                && not_before(&self.due, known) <= self.moment
            {
                open[known.channel] = true;
            }
        }
        let mut next: Option<Moment> = None;
        for claim in marked.drain(..) {
            let Some(Some(known)) = self.known.get_mut(claim.at as usize) else {
                continue;
            };
            if !open[known.channel] {
                let at = not_before(&self.due, known);
                next = Some(next.map_or(at, |other| other.min(at)));
            } else if let Some(drained) = table.drain(claim) {
                let transactions = drained.transactions.saturating_sub(known.transactions);
                known.transactions = drained.transactions;
                if drained.is_unsure {
                    self.doubts.insert(known.key.clone());
                }
                let due = due(&mut self.due, &known.key, known.channel);
                due.claim = Some(claim);
                due.messages = due.messages.saturating_add(drained.messages);
                due.transactions = due.transactions.saturating_add(transactions);
            }
        }
        self.marked = marked;
        next
    }

    /// By its number: whether a channel has something to say whose interval has passed.
    fn open_channels(&self) -> Vec<bool> {
        let mut open = vec![false; self.channels.len()];
        for due in self.due.values().filter(|due| due.messages > 0) {
            open[due.channel] |= due.not_before <= self.moment;
        }
        open
    }

    /// When what was drained or found, and not sent, may be sent.
    #[must_use]
    pub fn next(&self, moment: Moment) -> Option<Moment> {
        let rests = self.pace.rests(moment).unwrap_or(0);
        let pending = self.due.values().filter(|due| due.messages > 0);
        pending.map(|due| due.not_before.max(rests)).min()
    }

    /// Has the queue's table looked at.
    pub fn look_at(&mut self, route: Route<'_>) {
        self.looks.insert(route.key(), ());
    }

    /// Some routes whose tables are to be looked at, which is forgotten by this.
    pub fn looks(&mut self, most: usize) -> Vec<Box<[u8]>> {
        let most = most.min(self.looks.len());
        self.looks.drain(..most).map(|(key, ())| key).collect()
    }

    /// Routes of which some message may become visible at a time that only a look can tell, which is
    /// forgotten by this.
    pub fn doubts(&mut self) -> HashSet<Box<[u8]>> {
        std::mem::take(&mut self.doubts)
    }

    /// A look found that there is a visible message. `claim` is the route's slot, if it has one.
    pub fn found(&mut self, route: Route<'_>, claim: Option<Claim>) {
        let channel = channel_of(&mut self.channels, route.channel);
        let due = due(&mut self.due, &route.key(), channel);
        due.claim = due.claim.or(claim);
        due.messages = due.messages.max(1);
    }

    /// What may be sent now. Call [`Notifier::sent`] or [`Notifier::failed`] afterwards.
    pub fn notifications(&mut self) -> Vec<Notification<'_>> {
        self.sending = match self.pace.rests(self.moment) {
            Some(_) => Vec::new(),
            None => self.open_channels(),
        };
        let ready = self.due.iter().filter(|(_, due)| is_sending(&self.sending, due));
        notifications(ready.filter_map(|(key, due)| {
            let route = Route::from_key(key)?;
            Some((route, News { queue: route.queue, count: due.messages, visible_at: None }))
        }))
    }

    /// What [`Notifier::notifications`] said was sent, which took the processor for `cost` microseconds:
    /// nothing more is said of these queues until the interval has passed, unless another queue of their
    /// channel has something to say.
    pub fn sent(
        &mut self,
        table: Table<'_>,
        moment: Moment,
        now: Timestamp,
        interval: Moment,
        cost: Moment,
    ) {
        for due in self.due.values_mut().filter(|due| is_sending(&self.sending, due)) {
            // The slot may be another queue's by now.
            if let Some(claim) = due.claim.filter(|claim| table.is_current(*claim)) {
                table.notified(claim, due.transactions.saturating_sub(1), now);
            }
            (due.messages, due.transactions) = (0, 0);
            due.not_before = moment.saturating_add(interval);
        }
        self.sending.clear();
        self.pace.spent(moment, cost);
    }

    /// What [`Notifier::notifications`] said could not be sent: nothing is sent before `delay` is over.
    pub fn failed(&mut self, moment: Moment, delay: Moment) {
        self.sending.clear();
        self.pace.rest_until(moment.saturating_add(delay));
    }

    /// The routes that are realtime now: gives back the slots of all others. True if that has to be
    /// asked again soon: somebody marked a queue that was not yet realtime when it was asked.
    pub fn keep_only(&mut self, oid: u32, table: Table<'_>, routes: &HashSet<Box<[u8]>>) -> bool {
        let mut seen: HashSet<Box<[u8]>> = HashSet::new();
        let mut ask_again = false;
        for claim in table.of(oid) {
            let key = table.key(claim).into_boxed_slice();
            // Of two slots of one route, the first is the one that producers find.
            let is_realtime = routes.contains(&key);
            if is_realtime && seen.insert(key.clone()) {
                continue;
            }
            if let Some(known) = self.known.get_mut(claim.at as usize) {
                *known = None;
            }
            if !table.release(claim) {
                continue;
            }
            if is_realtime {
                // It may have been a time that was noted there.
                self.looks.insert(key, ());
            } else if let Some(route) = Route::from_key(&key) {
                ask_again = true;
                self.found(route, None);
            }
        }
        ask_again
    }

    /// Whether there is nothing to say or to look at.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.due.values().all(|due| due.messages == 0) && self.looks.is_empty()
    }
}

/// What is known of a slot; learns it, if it is new. `None` for a key that is no route.
fn know<'a>(
    known: &'a mut Vec<Option<Known>>,
    channels: &mut Vec<CString>,
    table: Table<'_>,
    claim: Claim,
) -> Option<&'a mut Known> {
    let at = claim.at as usize;
    if known.len() <= at {
        known.resize_with(at + 1, || None);
    }
    let place = &mut known[at];
    if place.as_ref().is_none_or(|known| known.claim != claim) {
        let key = table.key(claim).into_boxed_slice();
        let channel = channel_of(channels, Route::from_key(&key)?.channel);
        // Those of a former notifier were announced by it.
        let counters = table.counters(claim);
        let transactions = if counters.notifications == 0 { 0 } else { counters.transactions };
        *place = Some(Known { claim, key, channel, transactions });
    }
    place.as_mut()
}

/// The number of a channel.
fn channel_of(channels: &mut Vec<CString>, name: &CStr) -> usize {
    channels.iter().position(|channel| channel.as_c_str() == name).unwrap_or_else(|| {
        channels.push(name.to_owned());
        channels.len() - 1
    })
}

/// What is to be said of a route.
fn due<'a>(all: &'a mut IndexMap<Box<[u8]>, Due>, key: &[u8], channel: usize) -> &'a mut Due {
    let new = || Due { channel, claim: None, messages: 0, transactions: 0, not_before: 0 };
    match all.get_index_of(key) {
        Some(at) => &mut all[at],
        None => all.entry(key.into()).or_insert_with(new),
    }
}

/// Whether it is part of what is being sent.
fn is_sending(sending: &[bool], due: &Due) -> bool {
    due.messages > 0 && sending.get(due.channel).is_some_and(|sending| *sending)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
