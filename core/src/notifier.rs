//! What a notifier makes of the marks: it coalesces, keeps the interval between two notifications on
//! one channel, and knows when it has to wake up next.
//!
//! The order in [`Notifier::sweep`] is the protocol: gates are opened before the marks are taken, closed after
//! it, and what was drained is kept until it was sent.

use std::collections::HashSet;
use std::ffi::{CStr, CString};

use indexmap::IndexMap;

use crate::payload::{News, Notification, notifications};
use crate::route::Route;
use crate::shared::{Claim, Database, GATES, Table};
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

#[derive(Debug)]
struct Channel {
    name: CString,
    /// Its gate, if it has one to itself.
    gate: Option<u32>,
    /// Until when nothing may be sent on it.
    closed_until: Option<Moment>,
}

/// What is to be said of one route.
#[derive(Clone, Copy, Debug)]
struct Due {
    channel: usize,
    /// Where to count it, if the route has a slot.
    claim: Option<Claim>,
    messages: u64,
    transactions: u64,
}

/// When a notifier has to wake up by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    /// The end of an interval, or the next attempt.
    pub interval: Option<Moment>,
    /// A message becomes visible.
    pub deadline: Option<Timestamp>,
}

/// A notifier's own state, as long as its process lives.
#[derive(Debug, Default)]
pub struct Notifier {
    /// By the number of the slot.
    known: Vec<Option<Known>>,
    channels: Vec<Channel>,
    /// By route. Drained and not sent yet.
    due: IndexMap<Box<[u8]>, Due>,
    /// Routes whose tables are to be looked at.
    looks: IndexMap<Box<[u8]>, ()>,
    /// Routes of which some message may become visible at an unknown time.
    doubts: HashSet<Box<[u8]>>,
    /// The channels of the notifications that are being sent.
    sending: Vec<usize>,
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
        for channel in &mut self.channels {
            if channel.closed_until.is_some_and(|until| until <= moment) {
                channel.closed_until = None;
                if let Some(gate) = channel.gate {
                    database.open(gate);
                }
            }
        }
        // The latch and the gates before the marks, as producers have them the other way round.
        fence(SeqCst);
        let mut deadline: Option<Timestamp> = None;
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
            if self.channels[known.channel].closed_until.is_none()
                && let Some(drained) = table.drain(claim)
            {
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
        Timers { interval: self.next_opening(), deadline }
    }

    fn next_opening(&self) -> Option<Moment> {
        self.channels.iter().filter_map(|channel| channel.closed_until).min()
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
        let channels = &self.channels;
        let ready = self.due.iter().filter(|(_, due)| channels[due.channel].closed_until.is_none());
        let sending: HashSet<usize> = ready.clone().map(|(_, due)| due.channel).collect();
        self.sending = sending.into_iter().collect();
        notifications(ready.filter_map(|(key, due)| {
            let route = Route::from_key(key)?;
            Some((route, News { queue: route.queue, count: due.messages, visible_at: None }))
        }))
    }

    /// What [`Notifier::notifications`] said was sent: nothing more goes out on these channels until
    /// the interval has passed. Returns the timer.
    pub fn sent(
        &mut self,
        database: &Database,
        table: Table<'_>,
        moment: Moment,
        now: Timestamp,
        interval: Moment,
    ) -> Option<Moment> {
        let channels = &self.channels;
        self.due.retain(|_, due| {
            let is_sent = channels[due.channel].closed_until.is_none();
            // The slot may be another queue's by now.
            if let Some(claim) = due.claim.filter(|claim| is_sent && table.is_current(*claim)) {
                table.notified(claim, due.transactions.saturating_sub(1), now);
            }
            !is_sent
        });
        let sending = std::mem::take(&mut self.sending);
        if interval > 0 {
            self.close(database, &sending, moment.saturating_add(interval));
        }
        self.next_opening()
    }

    /// What [`Notifier::notifications`] said could not be sent: it is said again after `delay`.
    pub fn failed(&mut self, database: &Database, moment: Moment, delay: Moment) -> Option<Moment> {
        let sending = std::mem::take(&mut self.sending);
        self.close(database, &sending, moment.saturating_add(delay));
        self.next_opening()
    }

    fn close(&mut self, database: &Database, channels: &[usize], until: Moment) {
        for at in channels {
            let channel = &mut self.channels[*at];
            channel.closed_until = Some(until);
            if let Some(gate) = channel.gate {
                database.close(gate);
            }
        }
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
        self.due.is_empty() && self.looks.is_empty()
    }
}

/// What is known of a slot; learns it, if it is new. `None` for a key that is no route.
fn know<'a>(
    known: &'a mut Vec<Option<Known>>,
    channels: &mut Vec<Channel>,
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
        table.set_gate(claim, channels[channel].gate.unwrap_or(0));
        // Those of a former notifier were announced by it.
        let counters = table.counters(claim);
        let transactions = if counters.notifications == 0 { 0 } else { counters.transactions };
        *place = Some(Known { claim, key, channel, transactions });
    }
    place.as_mut()
}

/// The number of a channel.
fn channel_of(channels: &mut Vec<Channel>, name: &CStr) -> usize {
    if let Some(at) = channels.iter().position(|channel| channel.name.as_c_str() == name) {
        return at;
    }
    let at = channels.len();
    // Where there are more channels than gates, the rest have none, and each first mark of theirs wakes
    // the notifier.
    let gate = u32::try_from(at + 1).ok().filter(|gate| *gate <= GATES);
    channels.push(Channel { name: name.to_owned(), gate, closed_until: None });
    at
}

/// What is to be said of a route.
fn due<'a>(all: &'a mut IndexMap<Box<[u8]>, Due>, key: &[u8], channel: usize) -> &'a mut Due {
    let new = || Due { channel, claim: None, messages: 0, transactions: 0 };
    match all.get_index_of(key) {
        Some(at) => &mut all[at],
        None => all.entry(key.into()).or_insert_with(new),
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
