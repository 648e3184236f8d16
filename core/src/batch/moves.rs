//! Rows that a transaction takes out of a table and puts back, as pg_partman does when it moves them to their
//! partition: nothing happened to those messages.
//!
//! How many there are is not bounded, so what is kept of them is: how many, a sum of their ids by which two sets can be
//! told apart, and the first ids. Which rows come back is known by their ids: ids rise, so one that is put in and is
//! not above all that were taken out before has been there.

use crate::ids::Ids;
use crate::memory::OutOfMemory;

/// What was taken out, and what came back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Moves(
    /// None, or both; made with room for all that may follow.
    Vec<Rows>,
);

const OUT: usize = 0;
const BACK: usize = 1;

/// Rows, by their ids.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rows {
    count: u64,
    /// Of the ids, each mixed: of two sets of as many rows it is the same only if they are.
    sum: u64,
    ids: Ids,
}

impl Rows {
    fn with_room() -> Result<Self, OutOfMemory> {
        Ok(Self { ids: Ids::try_none()?, ..Self::default() })
    }

    fn add(&mut self, id: i64) {
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.wrapping_add(mixed(id));
        self.ids.add(id);
    }

    fn append(&mut self, others: &Self) {
        self.count = self.count.saturating_add(others.count);
        self.sum = self.sum.wrapping_add(others.sum);
        self.ids.append(&others.ids);
    }

    /// Every one of them is listed, once.
    fn is_listed(&self) -> bool {
        !self.ids.more && self.count == self.ids.some.len() as u64
    }
}

/// The finalizer of SplitMix64.
fn mixed(id: i64) -> u64 {
    let mut bits = id.cast_unsigned().wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// What came back of the rows that were taken out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    /// Nothing.
    None,
    /// All of them, so many: each is where it was.
    All(u64),
    /// These.
    Some(Vec<i64>),
    /// Some, about so many.
    Unsure(u64),
}

impl Moves {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// A row was taken out.
    pub(crate) fn take_out(&mut self, id: i64) -> Result<(), OutOfMemory> {
        self.both()?[OUT].add(id);
        Ok(())
    }

    /// One has come back.
    pub(crate) fn put_back(&mut self, id: i64) -> Result<(), OutOfMemory> {
        self.both()?[BACK].add(id);
        Ok(())
    }

    fn both(&mut self) -> Result<&mut [Rows], OutOfMemory> {
        if self.0.is_empty() {
            let both = [Rows::with_room()?, Rows::with_room()?];
            self.0.try_reserve_exact(2)?;
            self.0.extend(both);
        }
        Ok(&mut self.0)
    }

    /// All of these too. Allocates nothing.
    pub(crate) fn append(&mut self, others: Self) {
        if self.0.is_empty() {
            *self = others;
        } else {
            self.0.iter_mut().zip(&others.0).for_each(|(rows, others)| rows.append(others));
        }
    }

    /// The same of those that stay.
    pub(crate) fn append_copy(&mut self, others: &Self) -> Result<(), OutOfMemory> {
        if !others.0.is_empty() {
            self.both()?.iter_mut().zip(&others.0).for_each(|(rows, others)| rows.append(others));
        }
        Ok(())
    }

    /// The greatest id that was taken out.
    pub(crate) fn greatest_out(&self) -> Option<i64> {
        self.0.get(OUT).filter(|rows| rows.count > 0).map(|rows| rows.ids.newest)
    }

    pub(crate) fn returned(&self) -> Result<Returned, OutOfMemory> {
        let [out, back] = &self.0[..] else {
            return Ok(Returned::None);
        };
        if back.count == 0 || out.count == 0 {
            return Ok(Returned::None);
        }
        if (out.count, out.sum) == (back.count, back.sum) {
            return Ok(Returned::All(back.count));
        }
        if out.is_listed() && back.is_listed() {
            let mut both = Vec::new();
            both.try_reserve_exact(back.ids.some.len())?;
            both.extend(back.ids.some.iter().filter(|id| out.ids.some.contains(id)));
            return Ok(if both.is_empty() { Returned::None } else { Returned::Some(both) });
        }
        Ok(Returned::Unsure(back.count.min(out.count)))
    }

    /// Makes of what was deleted what stayed deleted: how many, and which, where that is wanted.
    pub(crate) fn leave_out_of_deleted(
        &self,
        count: &mut u64,
        ids: &mut Option<Ids>,
    ) -> Result<(), OutOfMemory> {
        match self.returned()? {
            Returned::None => {}
            Returned::All(all) => {
                *count = count.saturating_sub(all);
                // The rest was not told one by one.
                forget(ids, *count > 0);
            }
            Returned::Some(some) => {
                *count = count.saturating_sub(some.len() as u64);
                if let Some(ids) = ids {
                    ids.leave_out(|id| some.contains(&id));
                }
            }
            Returned::Unsure(about) => {
                *count = count.saturating_sub(about).max(1);
                forget(ids, true);
            }
        }
        Ok(())
    }

    /// Makes of what was put in what is new: how many, and which, where that is wanted. Returns how many are not: only
    /// where that is known, since a message that is not counted is not announced.
    pub(crate) fn leave_out_of_new(
        &self,
        count: &mut u64,
        ids: &mut Option<Ids>,
    ) -> Result<u64, OutOfMemory> {
        let [out, back] = &self.0[..] else {
            return Ok(0);
        };
        let returned = self.returned()?;
        let known = match &returned {
            Returned::None => return Ok(0),
            Returned::All(all) => *all,
            Returned::Some(some) => some.len() as u64,
            Returned::Unsure(_) => 0,
        };
        let known = known.min(*count);
        *count -= known;
        if let Some(ids) = ids {
            match &returned {
                Returned::Some(some) => ids.leave_out(|id| some.contains(&id)),
                Returned::All(_) if !back.ids.more => {
                    ids.leave_out(|id| back.ids.some.contains(&id));
                }
                _ => ids.leave_out(|id| id <= out.ids.newest),
            }
            ids.more = *count > ids.some.len() as u64;
        }
        Ok(known)
    }
}

/// It is not known which ones; only whether there are any.
fn forget(ids: &mut Option<Ids>, more: bool) {
    if let Some(ids) = ids {
        ids.leave_out(|_| true);
        ids.more = more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moves(out: impl IntoIterator<Item = i64>, back: impl IntoIterator<Item = i64>) -> Moves {
        let mut moves = Moves::new();
        out.into_iter().for_each(|id| moves.take_out(id).expect("memory"));
        back.into_iter().for_each(|id| moves.put_back(id).expect("memory"));
        moves
    }

    fn ids(all: impl IntoIterator<Item = i64>) -> Ids {
        let mut ids = Ids::default();
        all.into_iter().for_each(|id| ids.add(id));
        ids
    }

    /// What stayed deleted: how many, which, and whether there are more.
    fn deleted(moves: &Moves, all: std::ops::RangeInclusive<i64>) -> (u64, Vec<i64>, bool) {
        let (mut count, mut ids) = (all.clone().count() as u64, Some(ids(all)));
        moves.leave_out_of_deleted(&mut count, &mut ids).expect("memory");
        let ids = ids.expect("they are wanted");
        (count, ids.some, ids.more)
    }

    #[test]
    fn what_came_back_was_not_deleted() {
        assert_eq!(deleted(&moves(1..=3, []), 1..=3), (3, vec![1, 2, 3], false));
        assert_eq!(deleted(&moves(1..=3, [3, 1, 2]), 1..=3), (0, vec![], false));
        assert_eq!(deleted(&moves(1..=3, [3, 1]), 1..=3), (1, vec![2], false));
        assert_eq!(deleted(&moves(1..=1000, (1..=1000).rev()), 1..=1000), (0, vec![], false));
        assert_eq!(deleted(&moves(1..=1000, 1..=999), 1..=1000), (1, vec![], true));
        assert_eq!(deleted(&moves(1..=100, [100]), 1..=100), (99, vec![], true));
    }

    #[test]
    fn other_rows_are_none_that_came_back() {
        // As many, but others: one that was never there was put in.
        assert_eq!(deleted(&moves([2, 4], [2, 3]), 2..=4), (2, vec![3, 4], false));
        let many = moves((1..=100).map(|id| id * 2), (1..=100).map(|id| id * 2 - 1));
        assert_eq!(many.returned().expect("memory"), Returned::Unsure(100));
    }

    #[test]
    fn what_is_not_surely_the_same_is_announced() {
        let many = moves((1..=100).map(|id| id * 2), (1..=50).map(|id| id * 2 - 1));
        let (mut count, mut known) = (51, Some(ids([1, 3, 201])));
        assert_eq!(many.leave_out_of_new(&mut count, &mut known), Ok(0));
        let known = known.expect("they are wanted");
        assert_eq!((count, known.some, known.more), (51, vec![201], true));
    }

    #[test]
    fn what_is_new_is_named_beside_what_came_back() {
        let all = moves(1..=100, 1..=100);
        let (mut count, mut new) = (102, Some(ids((1..=100).chain([101, 102]))));
        assert_eq!(all.leave_out_of_new(&mut count, &mut new), Ok(100));
        let new = new.expect("they are wanted");
        assert_eq!((count, new.some, new.more), (2, vec![], true), "the first 32 were of others");
        let few = moves(1..=3, 1..=3);
        let (mut count, mut new) = (4, Some(ids([1, 2, 9, 3])));
        assert_eq!(few.leave_out_of_new(&mut count, &mut new), Ok(3));
        assert_eq!((count, new), (1, Some(Ids { newest: 9, ..Ids::one(9) })));
    }

    #[test]
    fn what_two_savepoints_moved_is_summed_up() {
        let mut outer = moves(1..=40, []);
        outer.append(moves([], 1..=40));
        assert_eq!(outer.returned().expect("memory"), Returned::All(40));
        assert_eq!(outer.greatest_out(), Some(40));
        let mut copy = Moves::new();
        copy.append_copy(&outer).expect("memory");
        assert_eq!(copy, outer);
    }
}
