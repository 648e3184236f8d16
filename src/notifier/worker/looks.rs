//! What the notifier sees for itself: it looks at tables where nobody can tell it what they hold.

use std::time::{Duration, Instant};

use aimq_core::shared::News;
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::{Work, Worker};
use crate::ffi;
use crate::notifier::queues;
use crate::process;

/// How soon a table that was locked is looked at again.
const LOCKED_AGAIN: Duration = Duration::from_millis(200);

/// How long a look waits for a lock, and how long it takes at most, in milliseconds; and when the process ends with it that takes
/// no notice of that: an index of the table may have code in it.
const EACH_LOCK: i32 = 20;
const A_LOOK: i32 = 1000;
const LAST_RESORT: i32 = 2000;

/// How many tables are looked at, and for how long, before the marks are taken again.
const LOOKS_AT_ONCE: usize = 32;
const LOOKS_FOR: Duration = Duration::from_millis(10);

impl Worker {
    /// Looks at some of the tables that are to be looked at. False if there were none.
    pub(super) fn look(&mut self) -> bool {
        let begun = Instant::now();
        let mut looks = 0;
        while looks < LOOKS_AT_ONCE
            && begun.elapsed() < LOOKS_FOR
            && let Some((key, from)) = self.notifier.next_look()
        {
            if looks == 0 {
                process::report(pg_sys::BackendState::STATE_RUNNING, Some(c"looking at queues"));
            }
            looks += 1;
            self.look_for(key, from);
        }
        looks > 0
    }

    fn look_for(&mut self, key: Box<[u8]>, from: Timestamp) {
        match self.queues.get(&key) {
            Some(tables) if tables.oids.is_empty() => return,
            Some(_) => {}
            None => {
                // If it is realtime since we asked, it is looked at then.
                self.news.0 |= News::QUEUES.0;
                return;
            }
        }
        let begun = process::processor_time();
        let table = self.shared.table;
        let known = table.find(self.oid, &key);
        let count = known.map_or(0, |claim| table.how_many_wait(claim)).max(1);
        let seen = self.look_at(&key, from, count);
        let cost = process::processor_time().saturating_sub(begun);
        let next = seen.iter().filter_map(|seen| seen.next).min();
        let claim = known.or_else(|| next.and_then(|_| table.claim(self.oid, &key).ok()));
        self.notifier.looked(claim, self.moment(), cost);
        // What can't be known is announced: a wake-up too many is allowed.
        let visible = match seen.is_empty() {
            true => u64::from(count),
            false => seen.iter().map(|seen| seen.visible).sum(),
        };
        if visible > 0 {
            self.notifier.found(table, &key, claim);
            // Where as many were found as were asked for, there may be more. They are called in the next turn.
            let messages = if visible < u64::from(count) { visible } else { u64::MAX };
            if let Some(claim) = claim {
                table.leave_to_waiters(claim, messages);
            }
        }
        if let (Some(next), Some(claim)) = (next, claim) {
            table.expect(claim, next);
        }
        if seen.iter().any(|seen| seen.was_locked) {
            self.look_later.push((Instant::now() + LOCKED_AGAIN, key.clone(), from));
            self.locked.insert(key);
        } else {
            self.locked.remove(&key);
        }
    }

    /// What the tables of a route hold. Nothing where that can't be known.
    fn look_at(&mut self, key: &[u8], from: Timestamp, count: u32) -> Vec<queues::Seen> {
        let tables = self.queues.get(key).cloned().unwrap_or_default().oids;
        // Whoever made the queue tells us in his commit, a moment before he gives his locks back.
        let may_wait = !self.locked.contains(key);
        let mut all = Vec::new();
        for table in tables {
            let look = || queues::look(table, from, count, may_wait);
            let look = || ffi::within(EACH_LOCK, A_LOOK, || process::transaction(look));
            match ffi::or_end_within(LAST_RESORT, look) {
                Ok(seen) => all.push(seen),
                Err(failure)
                    if failure.sqlstate == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE as i32 =>
                {
                    all.push(queues::Seen::LOCKED);
                }
                Err(failure) => {
                    let delay = self.failed(&failure, Work::Look);
                    self.look_later.push((Instant::now() + delay, key.into(), from));
                    all.clear();
                    break;
                }
            }
        }
        ffi::release_advisory_locks();
        all
    }
}
