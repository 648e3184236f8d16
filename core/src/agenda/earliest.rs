//! The earliest of some times.

/// The earliest of some times.
pub(super) struct Earliest<T>(pub(super) Option<T>);

impl<T> Default for Earliest<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Ord + Copy> Earliest<T> {
    pub(super) fn add(&mut self, time: T) {
        self.0 = Some(self.0.map_or(time, |other| other.min(time)));
    }

    /// Whether `time` has come; one that has not is added.
    pub(super) fn has_come(&mut self, time: T, now: T) -> bool {
        if time > now {
            self.add(time);
        }
        time <= now
    }
}
