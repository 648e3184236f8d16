//! Which slots a database keeps.

use std::collections::HashSet;

use super::{Agenda, look_from};
use crate::route::RouteKey;
use crate::shared::{Claim, Slots};
use crate::timestamp::Timestamp;

/// What happened to slots that are not wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Somebody marked a queue that was not yet realtime when it was asked: that has to be asked again soon.
    pub must_ask_again: bool,
    /// Those that were given back: the sessions that wait there have to be told.
    pub released: Vec<u32>,
}

impl Agenda {
    /// Gives back the slots of all routes except those that are realtime now, and one slot where a route has two.
    pub fn keep_only(
        &mut self,
        oid: u32,
        slots: Slots<'_>,
        is_realtime: impl Fn(&RouteKey) -> bool,
    ) -> Kept {
        let mut seen: HashSet<RouteKey> = HashSet::new();
        let mut kept = Kept::default();
        for claim in slots.of(oid) {
            let key = slots.key(claim);
            // Of two slots of one route, the first is the one that producers find.
            let is_realtime = is_realtime(&key);
            if is_realtime && seen.insert(key.clone()) {
                continue;
            }
            if !self.duties.announces && slots.is_marked(claim) {
                // It was realtime when that was enqueued: the listeners are told of it first.
                kept.must_ask_again = true;
                continue;
            }
            if let Some(known) = self.known.get_mut(claim.at as usize) {
                *known = None;
            }
            kept.released.push(claim.at);
            let was_noted = slots.release(claim);
            if is_realtime {
                // It may have been a time that was noted there. Or it was a message whose producer did not see the
                // session that waited at the other slot.
                look_from(&mut self.looks, &key, Timestamp::NEG_INFINITY);
            } else {
                kept.must_ask_again |= was_noted;
            }
            // No look tells of what happens to messages later.
            if was_noted && self.duties.announces {
                self.found(slots, &key, None);
            }
        }
        kept
    }

    /// Gives back slots until the database has no more than `most`, rather those for which nobody waits. What was noted
    /// in them is looked for.
    pub fn keep_at_most(&mut self, oid: u32, slots: Slots<'_>, most: usize) -> Vec<u32> {
        let mut all: Vec<_> = slots.of(oid).collect();
        // What is marked is announced first: of some routes no look tells.
        let is_bound = |claim: &Claim| !self.duties.announces && slots.is_marked(*claim);
        let most = most.saturating_sub(all.iter().filter(|claim| is_bound(claim)).count());
        all.retain(|claim| !is_bound(claim));
        all.sort_by_key(|claim| std::cmp::Reverse(slots.how_many_wait(*claim)));
        let given_up = all.split_off(most.min(all.len()));
        for claim in &given_up {
            let key = slots.key(*claim);
            if let Some(known) = self.known.get_mut(claim.at as usize) {
                *known = None;
            }
            if slots.release(*claim) {
                look_from(&mut self.looks, &key, Timestamp::NEG_INFINITY);
            }
        }
        given_up.iter().map(|claim| claim.at).collect()
    }
}
