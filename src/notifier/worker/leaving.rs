//! When a process ends: because somebody asks it to, or because nothing is expected of it any more.

use aimq_core::agenda::Duties;
use aimq_core::shared::{Database, News, State};

use super::state::Worker;
use crate::notifier::queues;
use crate::pg::process::{self, exit};
use crate::pg::{catalogs, ffi, signals};
use crate::shared::bell;

impl Worker {
    /// Whether this process ends because somebody asked it to. A session that wants the database for itself gets it
    /// once nobody else is connected. Before that it asks in vain, and leaving would gain nothing.
    pub(super) fn must_go(&self) -> bool {
        let asked_by = signals::who_asked();
        if asked_by == 0 {
            return false;
        }
        let oid = self.oid;
        let others = process::transaction(move || {
            (!catalogs::may_connect(oid)).then(|| queues::others_connected(asked_by))
        });
        !matches!(others, Ok(Some(1..)))
    }

    /// Whether nothing is expected of us any more.
    fn is_free(&self) -> bool {
        self.agenda.is_idle()
            && self.news == News(0)
            && self.look_later.is_empty()
            && self.failing.is_empty()
            && self.handed_over.is_empty()
            && self.prepared_due.is_none()
    }

    /// The last realtime queue is gone: ends the process, unless there is something new.
    pub(super) fn leave_if_free(&mut self) {
        let Duties { announces, watches } = self.agenda.duties;
        if watches {
            let is_empty = self.queues.is_empty() && self.is_free();
            if is_empty != self.database.is_empty() {
                self.database.set_empty(is_empty);
                if let Some(bell) = self.database.notifier.bell() {
                    ffi::set_latch(bell);
                }
            }
        }
        let has_news = self.database.has_news();
        if announces {
            // Taken slots are asked for last: they are given back by the watcher only.
            let has_slots = || self.shared.slots.of(self.oid).next().is_some();
            if self.database.is_empty() && self.is_free() && !has_news && !has_slots() {
                self.end();
            }
        } else if self.database.state() == State::None {
            self.database.watcher.end(State::None);
            self.shared.waiters.call_everybody(self.oid, ffi::set_latch);
            exit(0);
        }
    }

    /// The notifier leaves, and the watcher with it.
    fn end(&self) {
        end_both(self.database);
        self.shared.waiters.call_everybody(self.oid, ffi::set_latch);
        // From here on a session that marks finds no bell, and asks the launcher. A session that marked before has left
        // a slot, or news. If the watcher has taken them, it has said so.
        if self.database.has_news()
            || !self.database.is_empty()
            || self.shared.slots.of(self.oid).next().is_some()
        {
            bell::want(self.shared, self.database);
        }
        exit(0);
    }
}

/// Says in the seats that no notifier is needed, and no watcher. A watcher that runs ends by itself then.
pub(super) fn end_both(database: &Database) {
    database.end(State::None);
    if let Some(bell) = database.watcher.bell() {
        ffi::set_latch(bell);
    } else {
        database.watcher.set_waiting(State::None);
    }
}
