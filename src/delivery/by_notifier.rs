//! Delivery by the notifier: once the transaction is visible, its queues are marked in shared memory,
//! and the notifier is woken if nobody woke it for them yet.
//!
//! What can fail is done at PRE_COMMIT: finding the slots. After the commit there are only atomics and
//! SetLatch, none of which can raise.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;

use aimq_core::batch::Batch;
use aimq_core::hash::BuildFnv;
use aimq_core::ids::Ids;
use aimq_core::route::Route;
use aimq_core::shared::{Claim, Database, Full, Marked, News, Stale, State};
use aimq_core::timestamp::Timestamp;
use pgrx::pg_sys;

use crate::error::Warning;
use crate::ffi;
use crate::notifier::launcher;
use crate::settings::{self, Delivery};
use crate::shared::{self, Shared};

/// What a commit is going to mark.
#[derive(Default)]
struct Plan {
    marks: Vec<Mark>,
    /// The routes' keys, one after the other: for the slots that change hands in between.
    keys: Vec<u8>,
    /// The transaction is to be prepared, and has messages.
    prepared: bool,
    /// There was no notifier, though one would be used.
    missing: bool,
    /// There was no notifier that would have followed the transaction.
    unfollowed: bool,
    /// Something is to be broadcast that has no room in the table: the notifier has to look.
    untold: bool,
}

struct Mark {
    claim: Claim,
    key: Range<usize>,
    /// 0 if only others have moved.
    messages: u64,
    /// Which, where the route asks for that.
    ids: Option<Box<Ids>>,
    /// When they become visible, if not yet.
    visible_at: Option<Timestamp>,
    /// From when on others may become visible, which only a look can tell; infinity for none.
    moved: Timestamp,
    /// The transaction notifies itself: the notifier only follows the time, and calls those who block.
    is_said: bool,
}

/// How many slots a backend remembers before it starts anew.
const REMEMBERED: usize = 4096;

thread_local! {
    static PLAN: RefCell<Plan> = RefCell::default();
    static SLOTS: RefCell<HashMap<Box<[u8]>, Claim, BuildFnv>> = RefCell::default();
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
            launcher::log_failure(shared);
            None
        }
        (_, found) => found,
    }
}

/// The transaction notifies itself. Whoever blocks until there is something to read is called all the same, and
/// so somebody follows the time.
pub(super) fn follow(batch: &Batch) {
    let Some((shared, database)) = here() else {
        return;
    };
    if database.state() == State::Running {
        plan_marks(shared, batch, true);
    } else {
        // Whoever blocks polls; no slots are taken that nobody would give back.
        with_plan(|plan| plan.unfollowed = true);
    }
}

/// Finds the slots. Returns the routes that have none, to be announced in the transaction.
pub(super) fn plan((shared, _): Here, batch: &Batch) -> Vec<Box<[u8]>> {
    let rest = plan_marks(shared, batch, false);
    if let Some(key) = rest.first()
        && !WARNED.replace(true)
    {
        let queue = Route::from_key(key).map(|route| route.queue.to_string_lossy().into_owned());
        Warning::TableFull { queue: queue.unwrap_or_default() }.report();
    }
    rest
}

fn plan_marks(shared: Shared, batch: &Batch, is_said: bool) -> Vec<Box<[u8]>> {
    let now = ffi::now();
    let mut rest: Vec<Box<[u8]>> = Vec::new();
    with_plan(|plan| {
        for (route, tally) in batch.tallies().filter(|(_, tally)| tally.has_news()) {
            let begin = plan.keys.len();
            route.append_key(&mut plan.keys);
            let key = begin..plan.keys.len();
            match claim(shared, &plan.keys[key.clone()]) {
                Ok(claim) => {
                    let visible_at = (tally.earliest > now).then_some(tally.earliest);
                    // Of those that are visible now, the mark tells. Where the earliest has become so since it
                    // was enqueued, others may not.
                    let is_late = visible_at.is_none() && tally.earliest > Timestamp::NEG_INFINITY;
                    let is_unsure = tally.count > 0 && (tally.is_unsure || is_late);
                    let unsure = if is_unsure { now } else { Timestamp::INFINITY };
                    let (messages, moved) = (tally.count, tally.moved.min(unsure));
                    // What is broadcast, the notifier alone does; that it notifies too is a wake-up too many.
                    let is_said = is_said && !route.options().broadcasts;
                    let ids = tally.ids;
                    plan.marks.push(Mark { claim, key, messages, ids, visible_at, moved, is_said });
                }
                Err(Full) if tally.count > 0 => {
                    plan.untold |= route.options().broadcasts;
                    rest.push(plan.keys[key].into());
                }
                // Nobody can be told when the messages come back.
                Err(Full) => {}
            }
        }
    });
    rest
}

/// The slot of a route, from memory if it still is the route's.
fn claim(shared: Shared, key: &[u8]) -> Result<Claim, Full> {
    slot_of(shared, key, is_double(shared, key))
}

/// Somebody else may take a slot for the route at the same moment: the notifier gives one back.
fn is_double(shared: Shared, key: &[u8]) -> impl Fn(Claim) -> bool {
    move |new| shared.table.is_double(new, shared::own_oid(), key)
}

/// The same for a session that is going to wait: it holds no lock on the queue's table, so the triggers that it has
/// seen may be gone by now. Then the notifier gives the slot back, and calls it.
pub(crate) fn claim_to_wait(shared: Shared, key: &[u8]) -> Result<Claim, Full> {
    slot_of(shared, key, |_| true)
}

fn slot_of(
    shared: Shared,
    key: &[u8],
    is_to_be_checked: impl Fn(Claim) -> bool,
) -> Result<Claim, Full> {
    SLOTS.with_borrow_mut(|slots| {
        if let Some(claim) = slots.get(key).filter(|claim| shared.table.is_current(**claim)) {
            return Ok(*claim);
        }
        let claim = find_or_take(shared, key, is_to_be_checked)?;
        if slots.len() >= REMEMBERED {
            slots.clear();
        }
        slots.insert(key.into(), claim);
        Ok(claim)
    })
}

/// Takes a slot where there is none, and has the notifier check it. Cannot raise.
fn find_or_take(
    shared: Shared,
    key: &[u8],
    is_to_be_checked: impl Fn(Claim) -> bool,
) -> Result<Claim, Full> {
    let own = shared::own_oid();
    if let Some(claim) = shared.table.find(own, key) {
        return Ok(claim);
    }
    let new = shared.table.take(own, key)?;
    if is_to_be_checked(new)
        && let Some(database) = shared.databases.find(own)
        && database.tell(News::QUEUES)
    {
        ring_if_there(database);
    }
    Ok(new)
}

/// Whether a notifier can run here.
pub(super) fn is_possible() -> bool {
    here().is_some()
}

/// Whether a notifier can be told of a prepared transaction, even if it has to be started for that:
/// NOTIFY is no way there.
pub(super) fn is_reachable() -> bool {
    settings::delivery() != Delivery::Transaction && here().is_some()
}

pub(super) fn set_aside() {
    with_plan(|plan| plan.prepared = true);
}

/// Marks what was planned. Every mark is made after the transaction is visible to others, which is what
/// a reader that the mark wakes relies on (access/transam/xact.c: ProcArrayEndTransaction runs before
/// the callbacks).
pub(super) fn committed() {
    with_plan(|plan| {
        if plan.marks.is_empty() && !plan.missing && !plan.unfollowed && !plan.untold {
            return;
        }
        let Some((shared, database)) = here() else {
            return;
        };
        // One that has begun since may have looked before there was anything to see.
        if plan.unfollowed && database.state() == State::Running && database.tell(News::EVERYTHING)
        {
            ring_if_there(database);
        }
        let mut must_ring = plan.untold && database.tell(News::EVERYTHING);
        let mut is_said = false;
        for mark in &plan.marks {
            is_said |= mark.is_said;
            let key = &plan.keys[mark.key.clone()];
            must_ring |= make((shared, database), mark.claim, key, |claim| {
                mark_in(shared, database, mark, claim)
            });
        }
        if plan.missing {
            launcher::want(shared, database);
        }
        if is_said {
            // Who needs a notifier in spite of that asks for one.
            if must_ring {
                ring_if_there(database);
            }
        // Whoever finds no notifier asks for one, for the first who asked may not have been heard.
        } else if must_ring || !plan.marks.is_empty() && database.state() != State::Running {
            ring(shared, database);
        }
    });
}

fn here() -> Option<Here> {
    let shared = shared::get()?;
    Some((shared, shared.own_database()?))
}

/// Makes a mark in a slot that was the route's. True if the notifier has to be woken.
fn make(
    (shared, database): Here,
    mut claim: Claim,
    key: &[u8],
    mark: impl Fn(Claim) -> Result<bool, Stale>,
) -> bool {
    // A slot changes hands when its queue ceases to be realtime, which another commit can't bring about
    // while we hold the lock on the queue's table: more than once is not to be expected.
    for _ in 0..3 {
        match mark(claim) {
            Ok(must_ring) => return must_ring,
            Err(Stale) => match find_or_take(shared, key, is_double(shared, key)) {
                Ok(other) => claim = other,
                Err(Full) => break,
            },
        }
    }
    database.tell(News::EVERYTHING)
}

fn mark_in(shared: Shared, database: &Database, mark: &Mark, claim: Claim) -> Result<bool, Stale> {
    let table = shared.table;
    let rings_for_moved = match mark.moved {
        Timestamp::INFINITY => false,
        from => database.moved(table, claim, from)?,
    };
    let rings_for_messages = match (mark.messages, mark.visible_at) {
        (0, _) => false,
        (messages, None) if mark.is_said => match table.is_current(claim) {
            true => table.leave_to_waiters(claim, messages),
            false => return Err(Stale),
        },
        (_, Some(at)) if mark.is_said => match table.expect(claim, at) {
            Marked::Stale => return Err(Stale),
            first => first == Marked::First,
        },
        (messages, None) => {
            if let Some(ids) = &mark.ids {
                table.note_ids(claim, ids);
            }
            database.enqueue(table, claim, messages)?
        }
        (messages, Some(at)) => {
            // It is not to be announced yet, but is the newest then.
            if let Some(ids) = &mark.ids {
                table.note_ids(claim, &Ids { newest: ids.newest, ..Ids::default() });
            }
            database.expect(table, claim, messages, at)?
        }
    };
    Ok(rings_for_moved || rings_for_messages)
}

/// The transaction is rolled back: what it had read or popped can be read again, and those who came for it
/// meanwhile have passed it by. Cannot raise.
pub(super) fn aborted(batch: &Batch) {
    let mut back = batch.tallies().filter(|(_, tally)| tally.may_come_back()).peekable();
    if back.peek().is_none() {
        return;
    }
    let Some((shared, database)) = here() else {
        return;
    };
    // As in [`follow`]: one that begins later looks at everything.
    if settings::delivery() == Delivery::Transaction && database.state() != State::Running {
        return;
    }
    let mut must_ring = false;
    for (route, _) in back {
        let key = route.key();
        if let Ok(claim) = claim(shared, &key) {
            must_ring |= make((shared, database), claim, &key, |claim| {
                database.moved(shared.table, claim, Timestamp::NEG_INFINITY)
            });
        }
    }
    match settings::delivery() {
        _ if !must_ring => {}
        Delivery::Transaction => ring_if_there(database),
        _ => ring(shared, database),
    }
}

/// Wakes the notifier, if there is one. Cannot raise.
fn ring_if_there(database: &Database) {
    if let Some(bell) = database.bell() {
        ffi::set_latch(bell);
    }
}

/// Wakes the notifier, or the launcher if there is none. Cannot raise.
pub(crate) fn ring(shared: Shared, database: &Database) {
    match database.bell() {
        Some(bell) => ffi::set_latch(bell),
        None => launcher::want(shared, database),
    }
}

/// The transaction with the messages is prepared: the notifier learns how it ends.
pub(super) fn prepared() {
    // What applies a subscription may end it, which nobody tells, before the notifier has asked.
    // SAFETY: a plain variable.
    let is_replica = unsafe { pg_sys::SessionReplicationRole }
        == pg_sys::SESSION_REPLICATION_ROLE_REPLICA.cast_signed();
    let news = if is_replica { News::PREPARED | News::EVERYTHING } else { News::PREPARED };
    with_plan(|plan| {
        if plan.prepared
            && let Some((shared, database)) = here()
            && (database.tell(news) || database.state() != State::Running)
        {
            ring(shared, database);
        }
    });
}

/// Forgets the plan. Cannot raise.
pub(super) fn end() {
    with_plan(|plan| {
        plan.marks.clear();
        plan.keys.clear();
        plan.prepared = false;
        plan.missing = false;
        plan.unfollowed = false;
        plan.untold = false;
    });
}

fn with_plan(change: impl FnOnce(&mut Plan)) {
    let _ = PLAN.try_with(|plan| plan.try_borrow_mut().map(|mut plan| change(&mut plan)));
}
