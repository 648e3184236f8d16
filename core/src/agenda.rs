//! What a notifier or a watcher has to do, and when. A notifier makes notifications of the marks: it coalesces, keeps the
//! interval between two notifications of one queue, and rests if notifying takes too much of a processor. A watcher
//! knows which tables it has to look at. Both know when they have to wake up next. [`Duties`] says who does what.
//!
//! What may not be sent yet stays marked, and a queue that is marked wakes nobody: so a busy queue wakes the
//! notifier once in an interval. Many queues together would do so more often while it rests: then
//! the door is closed, and opened again *before* the marks are read. What was drained is kept until it was sent.

mod duties;
mod earliest;
mod slots;

use std::ffi::{CStr, CString};

pub use duties::Duties;
use earliest::Earliest;
use indexmap::IndexMap;
pub use slots::Kept;

use crate::clock::Moment;
use crate::ids::Ids;
use crate::memory::OutOfMemory;
use crate::options::Options;
use crate::pace::{self, Pace};
use crate::payload::{Notification, Part, event, notifications};
use crate::route::RouteKey;
use crate::shared::{Claim, Database, Marked, Slots};
use crate::sinks::Sinks;
use crate::sync::{Ordering::SeqCst, fence};
use crate::timestamp::Timestamp;

/// What a notifier knows of one slot.
#[derive(Debug)]
struct Known {
    claim: Claim,
    key: RouteKey,
    channel: usize,
    options: Options,
    /// The route is of an event of a job, and not of messages that come.
    is_event: bool,
    /// How many of the transactions that the slot has counted were announced.
    transactions: u64,
    /// When the table may be looked at again because of what was read from it.
    read_not_before: Moment,
    /// When it may be looked at again at all, if looks at it are expensive.
    look_not_before: Moment,
}

/// A queue from which messages are read is looked at no more often than this: a visibility timeout is
/// whole seconds.
pub const LOOK_INTERVAL: Moment = 100_000;

/// However long a look takes, the table is looked at again after this.
const LOOK_AGAIN: Moment = 5_000_000;

/// What is to be said of one route, or was said of it within the interval.
#[derive(Clone, Debug)]
struct Due {
    channel: usize,
    /// Where to count it, if the route has a slot.
    claim: Option<Claim>,
    /// 0 if there is nothing to say.
    messages: u64,
    /// Which, where the route asks for ids.
    ids: Option<Box<Ids>>,
    /// The route wants no notification. It is kept here so that its interval runs all the same.
    is_silent: bool,
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

/// What a notifier or a watcher knows and has to do, as long as its process lives.
#[derive(Debug)]
pub struct Agenda {
    /// What it does.
    pub duties: Duties,
    /// By the number of the slot.
    known: Vec<Option<Known>>,
    channels: Vec<CString>,
    /// By route.
    due: IndexMap<RouteKey, Due>,
    /// Routes whose tables are to be looked at, and the visibility time from which on a message is news.
    looks: IndexMap<RouteKey, Timestamp>,
    /// The broadcasts.
    pub sinks: Sinks,
    pace: Pace,
    look_pace: Pace,
    /// Whether the door is closed: nobody wakes the notifier, which has a timer.
    is_closed: bool,
    /// When the marks were read.
    moment: Moment,
    /// The slots that are marked, while they are read.
    marked: Vec<Claim>,
    /// By the number of the channel: whether notifications are being sent on it.
    sending: Vec<bool>,
}

impl Default for Agenda {
    fn default() -> Self {
        Self {
            duties: Duties::ALL,
            known: Vec::new(),
            channels: Vec::new(),
            due: IndexMap::new(),
            looks: IndexMap::new(),
            sinks: Sinks::default(),
            pace: Pace::new(pace::NOTIFY),
            look_pace: Pace::new(pace::LOOK),
            is_closed: false,
            moment: 0,
            marked: Vec::new(),
            sending: Vec::new(),
        }
    }
}

impl Agenda {
    /// One that does this.
    #[must_use]
    pub fn with(duties: Duties) -> Self {
        Self { duties, ..Self::default() }
    }

    /// Takes what is marked. The latch must have been reset before: a producer that marks later sets it.
    pub fn sweep(
        &mut self,
        database: &Database,
        oid: u32,
        slots: Slots<'_>,
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
        let (mut deadline, mut later) = (Earliest::default(), Earliest::default());
        let may_look = self.look_pace.rests(moment).unwrap_or(0);
        self.marked.clear();
        for claim in slots.of(oid) {
            let Some(known) = know(&mut self.known, &mut self.channels, slots, claim) else {
                continue;
            };
            if self.duties.announces && slots.is_marked(claim) {
                self.marked.push(claim);
            }
            if !self.duties.watches {
                continue;
            }
            let is_awaited = slots.how_many_wait(claim) > 0;
            match slots.earliest(claim) {
                Some(earliest) if earliest <= now => {
                    // The notifier may not send before that time, so the look waits for it, and finds more.
                    // If a session blocks, the look does not wait, because a call is not sent.
                    let due = self.due.get(&known.key).map_or(0, |due| due.not_before);
                    let sent = due.max(rests.unwrap_or(0));
                    let at = known.look_not_before.max(if is_awaited { 0 } else { sent });
                    if later.has_come(at, moment) {
                        // The look finds the next one.
                        slots.forget_earliest(claim);
                        look_from(&mut self.looks, &known.key, earliest);
                    }
                }
                Some(earliest) => deadline.add(earliest),
                None => {}
            }
            let moved = slots.moved_from(claim);
            if moved < Timestamp::INFINITY {
                // A visibility timeout is whole seconds, so messages that were read can wait. A message whose time was
                // set by hand, or that comes back from a transaction that failed, may be what a session blocks for.
                let at_once = is_awaited && moved == Timestamp::NEG_INFINITY;
                let read = if at_once { 0 } else { known.read_not_before };
                let at = read.max(known.look_not_before).max(may_look);
                if later.has_come(at, moment) {
                    known.read_not_before = moment.saturating_add(LOOK_INTERVAL);
                    look_from(&mut self.looks, &known.key, slots.take_moved(claim));
                }
            }
        }
        match rests {
            _ if !self.duties.announces => {}
            None => self.drain(slots, &mut later),
            // Until somebody marks, the door stays open: a single message needs no timer after it.
            Some(_) if self.marked.is_empty() && !self.is_closed => {}
            Some(until) => {
                self.is_closed = true;
                database.close();
                later.add(until);
            }
        }
        Timers { interval: later.0, deadline: deadline.0 }
    }

    /// Takes the marks of the queues whose interval has passed, and of all that share a channel with one of
    /// them. Notes when the next may be taken.
    fn drain(&mut self, slots: Slots<'_>, later: &mut Earliest<Moment>) {
        let mut open = self.open_channels();
        let mut marked = std::mem::take(&mut self.marked);
        let not_before = |due: &IndexMap<RouteKey, Due>, known: &Known| {
            due.get(&known.key).map_or(0, |due| due.not_before)
        };
        for claim in &marked {
            if let Some(Some(known)) = self.known.get(claim.at as usize)
                && not_before(&self.due, known) <= self.moment
            {
                open[known.channel] = true;
            }
        }
        for claim in marked.drain(..) {
            let Some(Some(known)) = self.known.get_mut(claim.at as usize) else {
                continue;
            };
            if !open[known.channel] {
                later.add(not_before(&self.due, known));
            } else if let Some(drained) = slots.drain(claim) {
                let transactions = drained.transactions.saturating_sub(known.transactions);
                known.transactions = drained.transactions;
                let due = due(&mut self.due, &known.key, known.channel, known.options);
                due.claim = Some(claim);
                due.messages = due.messages.saturating_add(drained.messages);
                due.transactions = due.transactions.saturating_add(transactions);
                let options = known.options;
                if options.wants_ids() {
                    let mut ids = slots.take_ids(claim);
                    if known.is_event {
                        // Here the newest is a message to which something happened, not one that was enqueued.
                        ids.newest = ids.greatest();
                    }
                    if options.broadcasts {
                        self.sinks.add(&known.key, Some(claim), drained.messages, &ids);
                    }
                    if options.ids {
                        due.ids.get_or_insert_default().append(&ids);
                    }
                }
            }
        }
        self.marked = marked;
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

    /// Has the table of a route looked at: what is visible there is news from the visibility time `from` on.
    pub fn look_at(&mut self, key: &RouteKey, from: Timestamp) {
        look_from(&mut self.looks, key, from);
    }

    /// A route whose table is to be looked at, and from which visibility time on; which is forgotten by this.
    /// Call [`Agenda::looked`] afterwards.
    pub fn next_look(&mut self) -> Option<(RouteKey, Timestamp)> {
        self.looks.shift_remove_index(0)
    }

    /// A table was looked at, which took the processor for `cost` microseconds. `claim` is the route's slot,
    /// if it has one.
    pub fn looked(&mut self, claim: Option<Claim>, moment: Moment, cost: Moment) {
        self.look_pace.spent(moment, cost);
        let rest = cost.saturating_mul(pace::LOOK).min(LOOK_AGAIN);
        if let Some(claim) = claim
            && let Some(Some(known)) = self.known.get_mut(claim.at as usize)
            && known.claim == claim
        {
            known.look_not_before = moment.saturating_add(rest);
        }
    }

    /// No look at a route's table before `until`. `claim` is its slot, if it has one.
    pub fn rest_from_looks(&mut self, claim: Option<Claim>, until: Moment) {
        if let Some(claim) = claim
            && let Some(Some(known)) = self.known.get_mut(claim.at as usize)
            && known.claim == claim
        {
            known.look_not_before = known.look_not_before.max(until);
        }
    }

    /// A look of the watcher's found that there is a visible message: has the notifier announce it.
    pub fn mark_found(&self, slots: Slots<'_>, key: &RouteKey, claim: Claim) {
        if key.route().is_some_and(|route| route.options().wants_ids()) {
            // Which of them it was is not known.
            slots.note_ids(claim, &Ids { more: true, ..Ids::default() });
        }
        let _: Marked = slots.mark_found(claim);
    }

    /// A look found that there is a visible message. `claim` is the route's slot, if it has one.
    pub fn found(&mut self, slots: Slots<'_>, key: &RouteKey, claim: Option<Claim>) {
        let Some(route) = key.route() else {
            return;
        };
        let channel = channel_of(&mut self.channels, route.channel);
        let options = route.options();
        let due = due(&mut self.due, key, channel, options);
        due.claim = due.claim.or(claim);
        due.messages = due.messages.max(1);
        if options.ids {
            // Which of them it was is not known.
            due.ids.get_or_insert_default().more = true;
        }
        if options.broadcasts {
            let claim = due.claim;
            // The newest that anybody has told of.
            let newest = claim.map_or(0, |claim| slots.newest(claim));
            self.sinks.add(key, claim, 1, &Ids { newest, ..Ids::default() });
        }
    }

    /// What may be sent now. Call [`Agenda::sent`] or [`Agenda::failed`] afterwards; the latter also if there is no
    /// memory for it.
    pub fn notifications(&mut self) -> Result<Vec<Notification<'_>>, OutOfMemory> {
        self.sending = match self.pace.rests(self.moment) {
            Some(_) => Vec::new(),
            None => self.open_channels(),
        };
        let ready = self.due.iter().filter(|(_, due)| is_sending(&self.sending, due));
        notifications(ready.filter(|(_, due)| !due.is_silent).filter_map(|(key, due)| {
            let (route, ids) = (key.route()?, due.ids.as_deref());
            Some((route, Part { queue: route.queue, count: due.messages, visible_at: None, ids }))
        }))
    }

    /// Whether anything is being sent, even if nothing is notified of it: asked after
    /// [`Agenda::notifications`].
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.due.values().any(|due| is_sending(&self.sending, due))
    }

    /// What [`Agenda::notifications`] said was sent, which took the processor for `cost` microseconds:
    /// nothing more is said of these queues until the interval has passed, unless another queue of their
    /// channel has something to say.
    pub fn sent(
        &mut self,
        slots: Slots<'_>,
        moment: Moment,
        now: Timestamp,
        interval: Moment,
        cost: Moment,
    ) {
        for due in self.due.values_mut().filter(|due| is_sending(&self.sending, due)) {
            // The slot may be another queue's by now.
            if !due.is_silent
                && let Some(claim) = due.claim.filter(|claim| slots.is_current(*claim))
            {
                slots.notified(claim, due.transactions.saturating_sub(1), now);
            }
            (due.messages, due.transactions, due.ids) = (0, 0, None);
            due.not_before = moment.saturating_add(interval);
        }
        self.sending.clear();
        self.pace.spent(moment, cost);
    }

    /// The interval is another from now on. Where it is shorter, what waits for the end of one does not wait longer
    /// than that.
    pub fn change_interval(&mut self, moment: Moment, interval: Moment) {
        let latest = moment.saturating_add(interval);
        self.due.values_mut().for_each(|due| due.not_before = due.not_before.min(latest));
        self.sinks.change_interval(latest);
    }

    /// What [`Agenda::notifications`] said could not be sent: nothing is sent before `delay` is over.
    pub fn failed(&mut self, moment: Moment, delay: Moment) {
        self.sending.clear();
        self.pace.rest_until(moment.saturating_add(delay));
    }

    /// Whether anything is marked, or noted that it watches. What it has a timer for counts too.
    #[must_use]
    pub fn is_noted(&self, oid: u32, slots: Slots<'_>) -> bool {
        let Duties { announces, watches } = self.duties;
        slots.of(oid).any(|claim| {
            announces && slots.is_marked(claim)
                || watches
                    && (slots.has_turns(claim)
                        || slots.moved_from(claim) < Timestamp::INFINITY
                        || slots.earliest(claim).is_some())
        })
    }

    /// Whether there is nothing to say or to look at.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.due.values().all(|due| due.messages == 0)
            && self.looks.is_empty()
            && self.sinks.is_idle()
    }
}

/// What is known of a slot; learns it, if it is new. `None` for a key that is no route.
fn know<'a>(
    known: &'a mut Vec<Option<Known>>,
    channels: &mut Vec<CString>,
    slots: Slots<'_>,
    claim: Claim,
) -> Option<&'a mut Known> {
    let at = claim.at as usize;
    if known.len() <= at {
        known.resize_with(at + 1, || None);
    }
    let place = &mut known[at];
    if place.as_ref().is_none_or(|known| known.claim != claim) {
        let key = slots.key(claim);
        // The watcher may have given it back meanwhile, and another queue got it.
        if !slots.is_still(claim) {
            return None;
        }
        let route = key.route()?;
        let (channel, options) = (channel_of(channels, route.channel), route.options());
        let is_event = event::ALL.contains(&route.event);
        // Those of a former notifier were announced by it.
        let counters = slots.counters(claim);
        let transactions = if counters.notifications == 0 { 0 } else { counters.transactions };
        *place = Some(Known {
            claim,
            key,
            channel,
            options,
            is_event,
            transactions,
            read_not_before: 0,
            look_not_before: 0,
        });
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
fn due<'a>(
    all: &'a mut IndexMap<RouteKey, Due>,
    key: &RouteKey,
    channel: usize,
    options: Options,
) -> &'a mut Due {
    let new = || Due {
        channel,
        claim: None,
        messages: 0,
        ids: None,
        is_silent: !options.notifies,
        transactions: 0,
        not_before: 0,
    };
    match all.get_index_of(key) {
        Some(at) => &mut all[at],
        None => all.entry(key.clone()).or_insert_with(new),
    }
}

fn look_from(looks: &mut IndexMap<RouteKey, Timestamp>, key: &RouteKey, from: Timestamp) {
    match looks.get_mut(key) {
        Some(known) => *known = from.min(*known),
        None => _ = looks.insert(key.clone(), from),
    }
}

/// Whether it is part of what is being sent.
fn is_sending(sending: &[bool], due: &Due) -> bool {
    due.messages > 0 && sending.get(due.channel).is_some_and(|sending| *sending)
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;
