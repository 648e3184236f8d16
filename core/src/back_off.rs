//! How long to wait after something that failed.

use crate::clock::Moment;

/// The time between attempts that fail: doubled each time.
#[derive(Clone, Copy, Debug)]
pub struct BackOff {
    first: Moment,
    most: Moment,
    failures: u32,
}

impl BackOff {
    /// One that begins with `first` and ends with `most`.
    #[must_use]
    pub const fn new(first: Moment, most: Moment) -> Self {
        Self { first, most, failures: 0 }
    }

    /// One more failure: how long to wait, and whether to log it (the 1st, 2nd, 4th, 8th …).
    pub fn failed(&mut self) -> (Moment, bool) {
        let delay = self.first.saturating_mul(1 << self.failures.min(20)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        (delay, self.failures.is_power_of_two())
    }

    /// It works again.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Whether it has failed since it worked last.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_twice_the_last_up_to_the_most() {
        let mut it = BackOff::new(50, 1000);
        let delays: Vec<_> = (0..7).map(|_| it.failed().0).collect();
        assert_eq!(delays, [50, 100, 200, 400, 800, 1000, 1000]);
        it.succeeded();
        assert!(!it.has_failed());
        assert_eq!(it.failed(), (50, true));
        assert!(it.has_failed());
    }

    #[test]
    fn the_first_failures_are_logged_and_then_fewer_and_fewer() {
        let mut it = BackOff::new(1, 1);
        let logged: Vec<_> = (1..=20).filter(|_| it.failed().1).collect();
        assert_eq!(logged, [1, 2, 4, 8, 16]);
    }

    #[test]
    fn however_many_failures_the_wait_stays() {
        let mut it = BackOff::new(Moment::MAX / 2, Moment::MAX);
        for _ in 0..100 {
            it.failed();
        }
        assert_eq!(it.failed().0, Moment::MAX);
    }
}
