//! The ids of messages, where a queue asks for them: some, and whether there are more.

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
        let mut some = Vec::with_capacity(IDS_MOST);
        some.push(id);
        Self { newest: id, some, more: false }
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
        self.some.retain(|id| !others.some.contains(id));
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
