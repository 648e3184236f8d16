//! The slots of this backend's routes: found once, and remembered as long as they are the routes'.

use std::cell::RefCell;
use std::mem::ManuallyDrop;

use aimq_core::hash::BuildFnv;
use aimq_core::memory::OutOfMemory;
use aimq_core::route::RouteKey;
use aimq_core::shared::{Claim, Full, News};
use indexmap::IndexMap;

use super::bell;
use super::memory::{Shared, own_oid};

/// How many slots a backend remembers before it starts again.
const REMEMBERED: usize = 4096;

/// By the routes' keys, and the one that was asked for last: a session that has sent to a queue mostly sends to it
/// again.
struct Slots {
    all: IndexMap<RouteKey, Claim, BuildFnv>,
    last: usize,
}

impl Slots {
    fn get(&mut self, key: &[u8]) -> Option<Claim> {
        match self.all.get_index(self.last) {
            Some((last, claim)) if **last == *key => Some(*claim),
            _ => {
                let (at, _, claim) = self.all.get_full(key)?;
                self.last = at;
                Some(*claim)
            }
        }
    }
}

thread_local! {
    /// It ends with the process: to have it dropped at the end of the thread takes memory, at its first use, and that
    /// may be after a commit.
    static SLOTS: RefCell<ManuallyDrop<Slots>> =
        const { RefCell::new(ManuallyDrop::new(Slots { all: IndexMap::with_hasher(BuildFnv::new()), last: 0 })) };
}

/// The slot of a route, from memory if it still is the route's.
/// `None` if there is no room for it.
pub(crate) fn claim(shared: Shared, key: &[u8]) -> Result<Option<Claim>, OutOfMemory> {
    slot_of(shared, key, is_double(shared, key))
}

/// Somebody else may take a slot for the route at the same moment: the watcher gives one back.
fn is_double(shared: Shared, key: &[u8]) -> impl Fn(Claim) -> bool {
    move |new| shared.slots.is_double(new, own_oid(), key)
}

/// The same for a session that is going to wait: it holds no lock on the queue's table, so the triggers that it has
/// seen may be gone by now. Then the watcher gives the slot back, and calls it.
pub(crate) fn claim_to_wait(shared: Shared, key: &[u8]) -> Result<Option<Claim>, OutOfMemory> {
    slot_of(shared, key, |_| true)
}

fn slot_of(
    shared: Shared,
    key: &[u8],
    is_to_be_checked: impl Fn(Claim) -> bool,
) -> Result<Option<Claim>, OutOfMemory> {
    SLOTS.with_borrow_mut(|slots| {
        if let Some(claim) = slots.get(key).filter(|claim| shared.slots.is_current(*claim)) {
            return Ok(Some(claim));
        }
        let Ok(claim) = take_if_none(shared, key, is_to_be_checked) else {
            return Ok(None);
        };
        let slots = &mut slots.all;
        if slots.len() >= REMEMBERED {
            slots.clear();
        }
        slots.try_reserve(1)?;
        let mut own = Vec::new();
        own.try_reserve_exact(key.len())?;
        own.extend_from_slice(key);
        slots.insert(own.into(), claim);
        Ok(Some(claim))
    })
}

/// Finds the slot of a route, or takes one. Cannot raise, and allocates nothing.
pub(crate) fn find_or_take(shared: Shared, key: &[u8]) -> Result<Claim, Full> {
    take_if_none(shared, key, is_double(shared, key))
}

/// Takes a slot where there is none, and has the watcher check it.
fn take_if_none(
    shared: Shared,
    key: &[u8],
    is_to_be_checked: impl Fn(Claim) -> bool,
) -> Result<Claim, Full> {
    let own = own_oid();
    if let Some(claim) = shared.slots.find(own, key) {
        return Ok(claim);
    }
    let new = shared.take(own, key)?;
    if is_to_be_checked(new)
        && let Some(database) = shared.databases.find(own)
    {
        bell::ring_if_there(shared, database, database.tell(News::QUEUES));
    }
    Ok(new)
}
