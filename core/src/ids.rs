//! The ids of messages, where a queue asks for them: some, and whether there are more.

use crate::memory::OutOfMemory;

/// As many ids travel with a notification, for each queue.
pub const IDS_MOST: usize = 32;

/// Which messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// The greatest: that of the newest message. 0 if it is not known.
    pub newest: i64,
    /// At most [`IDS_MOST`], in the order in which they came.
    pub some: Vec<i64>,
    /// There are others.
    pub more: bool,
}

impl Ids {
    /// One message.
    #[must_use]
    pub fn one(id: i64) -> Self {
        Self { newest: id, some: vec![id], more: false }
    }

    /// One message, with room for all that may follow: neither [`Ids::add`] nor [`Ids::append`] allocates then.
    pub fn try_one(id: i64) -> Result<Self, OutOfMemory> {
        let mut ids = Self { newest: id, some: Vec::new(), more: false };
        ids.some.try_reserve_exact(IDS_MOST)?;
        ids.some.push(id);
        Ok(ids)
    }

    /// None yet, with room for all that may follow.
    pub fn try_none() -> Result<Self, OutOfMemory> {
        let mut ids = Self::default();
        ids.some.try_reserve_exact(IDS_MOST)?;
        Ok(ids)
    }

    /// A copy, with room for all that may follow.
    pub fn try_clone(&self) -> Result<Self, OutOfMemory> {
        let mut ids = Self { newest: self.newest, some: Vec::new(), more: self.more };
        ids.some.try_reserve_exact(IDS_MOST.max(self.some.len()))?;
        ids.some.extend_from_slice(&self.some);
        Ok(ids)
    }

    /// One more.
    pub fn add(&mut self, id: i64) {
        self.newest = self.newest.max(id);
        if self.some.contains(&id) {
        } else if self.some.len() < IDS_MOST {
            self.some.push(id);
        } else {
            self.more = true;
        }
    }

    /// All of these too.
    pub fn append(&mut self, others: &Self) {
        self.newest = self.newest.max(others.newest);
        self.more |= others.more;
        others.some.iter().for_each(|id| self.add(*id));
    }

    /// Without these.
    pub fn remove(&mut self, others: &Self) {
        self.leave_out(|id| others.some.contains(&id));
    }

    /// Without those for which `is_out` says so.
    pub fn leave_out(&mut self, is_out: impl Fn(i64) -> bool) {
        self.some.retain(|id| !is_out(*id));
        self.newest = self.greatest();
    }

    /// The greatest of those that are listed; 0 if none is.
    #[must_use]
    pub fn greatest(&self) -> i64 {
        self.some.iter().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_most_there_are_more() {
        let mut ids = Ids::one(7);
        (1..=IDS_MOST as i64).for_each(|id| ids.add(id));
        assert!(!ids.more, "7 is among them");
        ids.append(&Ids::one(99));
        assert_eq!((ids.some.len(), ids.newest, ids.more), (IDS_MOST, 99, true));
    }

    #[test]
    fn what_is_removed_is_not_listed() {
        let mut ids = Ids::one(1);
        ids.add(2);
        ids.remove(&Ids::one(1));
        assert_eq!((ids.some, ids.newest), (vec![2], 2));
    }
}
