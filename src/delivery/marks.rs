//! Delivery by the notifier: once the transaction is visible, its queues are marked in shared memory,
//! and the notifier is woken if nobody woke it for them yet.
//!
//! What can fail is done at PRE_COMMIT: finding the slots. After the commit there are atomics, SetLatch, and, where a
//! slot has changed hands since, a search for another one. None of these raises or allocates.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::atomic::{Ordering::SeqCst, fence};

use aimq_core::batch::{Batch, Tally};
use aimq_core::ids::Ids;
use aimq_core::memory::{OutOfMemory, push};
use aimq_core::route::{Route, RouteKey};
use aimq_core::shared::{Claim, Database, Full, Marked, News, Stale, State, Wake};
use aimq_core::timestamp::Timestamp;

use crate::error::Warning;
use crate::pg::{ffi, process, text};
use crate::settings::{self, Delivery};
use crate::shared::{self, Shared, bell, claims, here};

/// What a commit is going to mark.
struct Plan {
    marks: Vec<Mark>,
    /// The routes' keys, one after the other: for the slots that change hands in between.
    keys: Vec<u8>,
    /// The tables of queues that have no slot, or whose slots nobody would give back: they are to be looked at.
    tables: Vec<Table>,
    /// The transaction is to be prepared: the tables are to be looked at when that has ended.
    prepared: bool,
    /// There was no notifier, though one would be used.
    missing: bool,
    /// There was no watcher that would have followed the transaction.
    unfollowed: bool,
}

/// A queue's table that is known by its bucket alone.
struct Table {
    relation: u32,
    /// When the first of its messages becomes visible; infinity for none.
    visible_at: Timestamp,
    /// From when on others may become visible; infinity for none.
    moved: Timestamp,
    /// The route, and how many of its messages become visible by the commit, which the transaction announces.
    key: Range<usize>,
    messages: u64,
}

struct Mark {
    claim: Claim,
    relation: u32,
    key: Range<usize>,
    /// 0 if only others have moved.
    messages: u64,
    /// Which, where the route asks for that.
    ids: Option<Ids>,
    /// When they become visible, if not yet.
    visible_at: Option<Timestamp>,
    /// From when on others may become visible, which only a look can tell; infinity for none.
    moved: Timestamp,
    /// The transaction notifies itself: the notifier only follows the time, and calls the sessions that block.
    notifies_itself: bool,
}

thread_local! {
    /// It ends with the process: to have it dropped at the end of the thread takes memory, at its first use, and that
    /// may be after a commit.
    static PLAN: RefCell<ManuallyDrop<Plan>> = const { RefCell::new(ManuallyDrop::new(Plan::new())) };
    static WARNED: Cell<bool> = const { Cell::new(false) };
}

/// This database's entry, and the memory that it is in.
type Here = (Shared, &'static Database);

/// The notifier of this database, if it takes the transaction's marks. A transaction without messages
/// warns of nothing.
pub(super) fn available(has_messages: bool) -> Option<Here> {
    let delivery = settings::delivery();
    if delivery == Delivery::Transaction {
        return None;
    }
    match (delivery, here()) {
        (_, None) => {
            if has_messages && delivery == Delivery::Notifier && !WARNED.replace(true) {
                Warning::NoNotifier.report();
            }
            None
        }
        (Delivery::Auto, Some((shared, database))) if database.state() != State::Running => {
            with_plan(|plan| plan.missing = true);
            bell::log_failure(shared);
            None
        }
        // It was rung, and has not shown itself: it is stopped, or hangs. It follows the transaction once it goes on.
        (Delivery::Auto, Some((_, database))) if !database.takes_marks(ffi::now) => None,
        (_, found) => found,
    }
}

/// The transaction notifies itself. The sessions that block until there is something to read are called all the same,
/// and so somebody follows the time.
pub(super) fn follow(batch: &Batch) -> Result<(), OutOfMemory> {
    let Some((shared, database)) = here() else {
        return Ok(());
    };
    if database.is_followed() {
        plan_marks(shared, batch, true)?;
    } else {
        // Sessions that block poll. No slots are taken, because nobody would give them back.
        with_plan(|plan| plan.unfollowed = true);
        plan_tables(batch)?;
    }
    Ok(())
}

/// Notes the tables, of which none is to have a slot.
fn plan_tables(batch: &Batch) -> Result<(), OutOfMemory> {
    let mut result = Ok(());
    with_plan(|plan| {
        result = batch.tallies().try_for_each(|told| {
            let relation = told?.0.relation;
            let (visible_at, moved) = (Timestamp::INFINITY, Timestamp::NEG_INFINITY);
            push(&mut plan.tables, Table { relation, visible_at, moved, key: 0..0, messages: 0 })
        });
    });
    result
}

/// Finds the slots. Returns the routes that have none, to be announced in the transaction.
pub(super) fn plan((shared, _): Here, batch: &Batch) -> Result<Vec<RouteKey>, OutOfMemory> {
    let slotless = plan_marks(shared, batch, false)?;
    if let Some(key) = slotless.first()
        && !WARNED.replace(true)
    {
        let queue = Route::from_key(key).map(|route| text::from_server(route.queue.to_bytes()));
        Warning::TableFull { queue: queue.unwrap_or_default() }.report();
    }
    Ok(slotless)
}

fn plan_marks(
    shared: Shared,
    batch: &Batch,
    notifies_itself: bool,
) -> Result<Vec<RouteKey>, OutOfMemory> {
    let now = ffi::now();
    let mut result = Ok(());
    let mut slotless: Vec<RouteKey> = Vec::new();
    with_plan(|plan| {
        result = batch.keyed().try_for_each(|told| match told? {
            (_, _, tally) if !tally.has_news() => Ok(()),
            told => plan.add(shared, told, now, notifies_itself, &mut slotless),
        });
    });
    result.map(|()| slotless)
}

impl Plan {
    const fn new() -> Self {
        Self {
            marks: Vec::new(),
            keys: Vec::new(),
            tables: Vec::new(),
            prepared: false,
            missing: false,
            unfollowed: false,
        }
    }

    /// Plans for a route. What has no slot, and is to be announced in the transaction, is added to `slotless`.
    fn add(
        &mut self,
        shared: Shared,
        (own_key, route, tally): (&[u8], Route<'_>, Tally),
        now: Timestamp,
        notifies_itself: bool,
        slotless: &mut Vec<RouteKey>,
    ) -> Result<(), OutOfMemory> {
        let begin = self.keys.len();
        self.keys.try_reserve(own_key.len())?;
        self.keys.extend_from_slice(own_key);
        let key = begin..self.keys.len();
        let visible_at = (tally.earliest > now).then_some(tally.earliest);
        // The mark tells of the messages that are visible now. Where the earliest has become visible since it was
        // enqueued, others may not be visible yet.
        let is_late = visible_at.is_none() && tally.earliest > Timestamp::NEG_INFINITY;
        let is_unsure = tally.count > 0 && (tally.is_unsure || is_late);
        let moved = tally.moved.min(if is_unsure { now } else { Timestamp::INFINITY });
        let relation = route.relation;
        let broadcasts = route.options().broadcasts;
        match claims::claim(shared, own_key)? {
            Some(claim) => {
                // Only the notifier broadcasts. It notifies as well, which is a wake-up too many.
                let notifies_itself = notifies_itself && !broadcasts;
                let (messages, ids) = (tally.count, tally.ids);
                let mark = Mark {
                    claim,
                    relation,
                    key,
                    messages,
                    ids,
                    visible_at,
                    moved,
                    notifies_itself,
                };
                push(&mut self.marks, mark)
            }
            None => {
                // Visible messages are announced in the transaction. The watcher has to find the messages that nobody
                // can announce there.
                let is_to_be_found = tally.count > 0 && broadcasts;
                let moved = if is_to_be_found { Timestamp::NEG_INFINITY } else { moved };
                let messages = if visible_at.is_none() { tally.count } else { 0 };
                let visible_at = visible_at.unwrap_or(Timestamp::INFINITY);
                let table = Table { relation, visible_at, moved, key, messages };
                push(&mut self.tables, table)?;
                if tally.count > 0 && !notifies_itself {
                    let mut own = Vec::new();
                    own.try_reserve_exact(own_key.len())?;
                    own.extend_from_slice(own_key);
                    push(slotless, own.into())?;
                }
                Ok(())
            }
        }
    }
}

/// Whether a notifier can be told of a prepared transaction, even if it has to be started for that: NOTIFY does not work
/// there. One that runs can be told of it although this session's transactions notify by themselves.
pub(super) fn is_reachable() -> bool {
    here().is_some_and(|(_, database)| {
        settings::delivery() != Delivery::Transaction || database.is_followed()
    })
}

/// Whether there can be no notifier at present.
pub(super) fn lacks_slot() -> bool {
    here().is_some_and(|(shared, database)| bell::lacks_slot(shared, database))
}

pub(super) fn set_aside(batch: &Batch) -> Result<(), OutOfMemory> {
    with_plan(|plan| plan.prepared = true);
    plan_tables(batch)
}

/// Marks what was planned. Every mark is made after the transaction is visible to others, which is what
/// a reader that the mark wakes relies on (access/transam/xact.c: ProcArrayEndTransaction runs before
/// the callbacks).
pub(super) fn committed() {
    with_plan(|plan| {
        if plan.marks.is_empty() && plan.tables.is_empty() && !plan.missing {
            return;
        }
        let Some((shared, database)) = here() else {
            return;
        };
        let mut wake = Wake::NOBODY;
        let mut notifies_itself = plan.unfollowed;
        // There may have been no watcher when we planned. If one has begun since, it may have looked before our commit
        // was visible. So it gets the notes now. One that begins later looks at everything.
        if !plan.unfollowed || database.is_followed() {
            for table in &plan.tables {
                if table.moved < Timestamp::INFINITY {
                    wake |= database.look_at(table.relation, table.moved);
                }
                if table.visible_at < Timestamp::INFINITY {
                    wake |= database.expect_without_slot(table.relation, table.visible_at);
                }
            }
        }
        wake |= leave_to_new_slots(shared, plan);
        for mark in &plan.marks {
            notifies_itself |= mark.notifies_itself;
            let key = &plan.keys[mark.key.clone()];
            wake |= make((shared, database), mark.claim, (mark.relation, key), |claim| {
                mark_in(shared, database, mark, claim)
            });
        }
        if plan.missing {
            bell::want(shared, database);
        }
        if notifies_itself {
            // A session that needs a notifier in spite of that asks for one.
            bell::ring_if_there(shared, database, wake);
        // Each session that finds no notifier asks for one, because the first that asked may not have been heard.
        } else if wake.is_any() || !plan.marks.is_empty() && database.state() != State::Running {
            bell::ring(shared, database, wake);
        }
    });
}

/// A queue that had no slot may have got one since: a session that took it to wait there, before our commit, has looked
/// when there was nothing to see yet.
fn leave_to_new_slots(shared: Shared, plan: &Plan) -> Wake {
    let told = plan.tables.iter().filter(|table| table.messages > 0);
    // The messages before the slots; a session that waits has its slot before it looks.
    fence(SeqCst);
    let claims = told.filter_map(|table| {
        let claim = shared.slots.find(shared::own_oid(), &plan.keys[table.key.clone()])?;
        Some((claim, table.messages))
    });
    claims.fold(Wake::NOBODY, |wake, (claim, messages)| {
        wake | shared.slots.leave_to_waiters(claim, messages)
    })
}

/// Makes a mark in a slot that was the route's. Says who has to be woken.
fn make(
    (shared, database): Here,
    mut claim: Claim,
    (relation, key): (u32, &[u8]),
    mark: impl Fn(Claim) -> Result<Wake, Stale>,
) -> Wake {
    // A slot changes hands when its queue ceases to be realtime, which another commit can't bring about
    // while we hold the lock on the queue's table, or when other databases need room: more than once is not to be
    // expected.
    for _ in 0..3 {
        match mark(claim) {
            Ok(wake) => return wake,
            Err(Stale) => match claims::find_or_take(shared, key) {
                Ok(other) => claim = other,
                Err(Full) => break,
            },
        }
    }
    database.look_at(relation, Timestamp::NEG_INFINITY)
}

fn mark_in(shared: Shared, database: &Database, mark: &Mark, claim: Claim) -> Result<Wake, Stale> {
    let slots = shared.slots;
    let for_moved = match mark.moved {
        Timestamp::INFINITY => Wake::NOBODY,
        from => database.moved(slots, claim, from)?,
    };
    let for_messages = match (mark.messages, mark.visible_at) {
        (0, _) => Wake::NOBODY,
        (messages, None) if mark.notifies_itself => match slots.is_current(claim) {
            true => slots.leave_to_waiters(claim, messages),
            false => return Err(Stale),
        },
        (_, Some(at)) if mark.notifies_itself => match slots.expect(claim, at) {
            Marked::Stale => return Err(Stale),
            first => Wake::WATCHER.only_if(first == Marked::First),
        },
        (messages, None) => {
            if let Some(ids) = &mark.ids {
                slots.note_ids(claim, ids);
            }
            database.enqueue(slots, claim, messages)?
        }
        (messages, Some(at)) => {
            // It must not be announced yet, but it is the newest message then.
            if let Some(ids) = &mark.ids {
                slots.note_ids(claim, &Ids { newest: ids.newest, ..Ids::default() });
            }
            database.expect(slots, claim, messages, at)?
        }
    };
    Ok(for_moved | for_messages)
}

/// The transaction is rolled back: what it had read or popped can be read again, and the sessions that came for it
/// meanwhile have passed it by.
pub(super) fn aborted(batch: &Batch) {
    let mut back = batch.may_come_back().peekable();
    if back.peek().is_none() {
        return;
    }
    let Some((shared, database)) = here() else {
        return;
    };
    let notifies_itself = settings::delivery() == Delivery::Transaction;
    // As in [`follow`]: one that begins later looks at everything.
    if notifies_itself && !database.is_followed() {
        return;
    }
    let mut wake = Wake::NOBODY;
    for key in back {
        let relation = Route::relation_of(key);
        wake |= match claims::find_or_take(shared, key) {
            Ok(claim) => make((shared, database), claim, (relation, key), |claim| {
                database.moved(shared.slots, claim, Timestamp::NEG_INFINITY)
            }),
            Err(Full) => database.look_at(relation, Timestamp::NEG_INFINITY),
        };
    }
    if !wake.is_any() {
    } else if notifies_itself {
        bell::ring_if_there(shared, database, wake);
    } else {
        bell::ring(shared, database, wake);
    }
}

/// The transaction with the messages is prepared: the watcher learns how it ends.
pub(super) fn prepared() {
    // The worker that applies a subscription may end the transaction before the watcher has asked, and nobody tells of
    // that.
    let news =
        if process::is_replica() { News::PREPARED | News::EVERYTHING } else { News::PREPARED };
    with_plan(|plan| {
        if plan.prepared
            && let Some((shared, database)) = here()
        {
            plan.tables.iter().for_each(|table| database.prepare(table.relation));
            if database.tell(news).is_any() || database.state() != State::Running {
                bell::ring(shared, database, Wake::WATCHER);
            }
        }
    });
}

/// Forgets the plan.
pub(super) fn end() {
    with_plan(|plan| {
        plan.marks.clear();
        plan.keys.clear();
        plan.tables.clear();
        plan.prepared = false;
        plan.missing = false;
        plan.unfollowed = false;
    });
}

fn with_plan(change: impl FnOnce(&mut Plan)) {
    let _ = PLAN.try_with(|plan| plan.try_borrow_mut().map(|mut plan| change(&mut plan)));
}
