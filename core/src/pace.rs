//! How much of a processor the notifier takes for notifying: little, however many listen.
//!
//! Up to PostgreSQL 18 a notification wakes every listening session of its database, so what it costs
//! grows with their number, and producers pay for it where processors are scarce. The notifier's own part, a
//! signal to each of them, grows in the same way and can be measured. So it rests after each
//! notification for as many times as long as that took its processor. docs/design/notifier.md has the figures.

use crate::clock::Moment;

/// How many times as long as a notification the rest after it lasts. So notifying takes less than a
/// hundredth of a processor, and all listeners together take about ten times as much.
pub const NOTIFY: Moment = 150;

/// The same after looks at tables because of what was read from them: a twentieth of a processor, however many
/// queues are read from.
pub const LOOK: Moment = 20;

/// The same after broadcasts, each of which calls somebody else's function while all else waits: a sixth of the time.
pub const BROADCAST: Moment = 5;

/// What is not used of the share can be used later, for bursts: up to this time's share.
pub const CREDIT: Moment = 250_000;

/// No rest is longer than this, whatever was done; but see [`Pace::with_rests_up_to`].
pub const LONGEST: Moment = 250_000;

/// Until when all that was done is paid for.
#[derive(Debug)]
pub struct Pace {
    rest: Moment,
    longest: Moment,
    paid: Moment,
}

impl Pace {
    /// For work that is followed by a rest of so many times as long.
    #[must_use]
    pub fn new(rest: Moment) -> Self {
        Self { rest, longest: LONGEST, paid: 0 }
    }

    /// The same, with rests of up to `longest`.
    #[must_use]
    pub fn with_rests_up_to(rest: Moment, longest: Moment) -> Self {
        Self { longest, ..Self::new(rest) }
    }

    /// Until when nothing may be done, if so.
    #[must_use]
    pub fn rests(&self, moment: Moment) -> Option<Moment> {
        (self.paid > moment).then_some(self.paid)
    }

    /// Something was done, which took the processor for `cost` microseconds.
    pub fn spent(&mut self, moment: Moment, cost: Moment) {
        let rest = cost.saturating_mul(self.rest);
        let credit_from = moment.saturating_sub(CREDIT);
        let paid = self.paid.max(credit_from).saturating_add(rest);
        self.paid = paid.min(moment.saturating_add(self.longest));
    }

    /// Nothing is done before `moment`.
    pub fn rest_until(&mut self, moment: Moment) {
        self.paid = self.paid.max(moment);
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    #[test]
    fn what_costs_little_is_not_held_back() {
        let mut pace = Pace::new(NOTIFY);
        for at in 0..1000 {
            let moment = CREDIT + at * 10_000;
            assert_eq!(pace.rests(moment), None);
            pace.spent(moment, 50);
        }
    }

    #[test]
    fn a_load_that_lasts_gets_its_share_and_no_more() {
        for cost in [20, 100, 1000, LONGEST / NOTIFY] {
            let mut pace = Pace::new(NOTIFY);
            let (mut moment, mut sent) = (CREDIT, 0);
            let end = CREDIT + 10_000_000;
            while moment < end {
                pace.spent(moment, cost);
                sent += 1;
                moment = pace.rests(moment).unwrap_or(moment + cost);
            }
            let share = (10_000_000 + CREDIT) / NOTIFY / cost;
            assert!(sent <= share + 1, "{sent} of {share} at {cost}");
            assert!(sent >= 10_000_000 / NOTIFY / cost, "{sent} of {share} at {cost}");
        }
    }

    #[test]
    fn a_burst_after_a_quiet_time_goes_at_once() {
        let mut pace = Pace::new(NOTIFY);
        let moment = 10 * CREDIT;
        let burst = CREDIT / NOTIFY / 50;
        (0..burst).for_each(|_| {
            assert_eq!(pace.rests(moment), None);
            pace.spent(moment, 50);
        });
        pace.spent(moment, 50);
        let until = pace.rests(moment).unwrap();
        assert!(until <= moment + 50 * NOTIFY, "{until}");
    }

    #[test]
    fn no_rest_is_endless() {
        let mut pace = Pace::new(NOTIFY);
        for _ in 0..3 {
            pace.spent(CREDIT, Moment::MAX);
            assert_eq!(pace.rests(CREDIT), Some(CREDIT + LONGEST));
        }
    }

    #[test]
    fn a_failure_rests_too() {
        let mut pace = Pace::new(NOTIFY);
        pace.rest_until(500);
        assert_eq!((pace.rests(499), pace.rests(500)), (Some(500), None));
        pace.rest_until(400);
        assert_eq!(pace.rests(499), Some(500), "never shorter");
    }
}
