//! Postgres' `timestamptz` in the spelling of the wire format.

use std::fmt;

/// A `timestamptz` as Postgres stores it: microseconds since 2000-01-01 00:00 UTC, with the two ends
/// of the range standing for `-infinity` and `infinity` (datatype/timestamp.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// `-infinity`: before every other.
    pub const NEG_INFINITY: Self = Self(i64::MIN);
    /// `infinity`: after every other.
    pub const INFINITY: Self = Self(i64::MAX);
}

/// Days from 1970-01-01 to 2000-01-01, Postgres' epoch.
const POSTGRES_EPOCH_DAYS: i64 = 10_957;
const MILLIS_PER_DAY: i64 = 86_400_000;

/// ISO 8601 in UTC with milliseconds, rounded **up**: a worker whose clock counts in milliseconds
/// must not wake before the message can be read. Years past 9999 get a sign and six digits, as
/// ISO 8601 (and JavaScript's `Date`) has it. `infinity` stays a word.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            i64::MAX => return f.write_str("infinity"),
            i64::MIN => return f.write_str("-infinity"),
            _ => {}
        }
        let millis = self.0.div_euclid(1000) + i64::from(self.0.rem_euclid(1000) != 0);
        let (year, month, day) = civil(millis.div_euclid(MILLIS_PER_DAY) + POSTGRES_EPOCH_DAYS);
        let time = millis.rem_euclid(MILLIS_PER_DAY);
        match year {
            0..=9999 => write!(f, "{year:04}")?,
            _ => write!(f, "{year:+07}")?,
        }
        write!(
            f,
            "-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            time / 3_600_000,
            time / 60_000 % 60,
            time / 1000 % 60,
            time % 1000
        )
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar:
/// counted in eras of 400 years that begin on 1 March, so that the leap day is a year's last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, TimeDelta};
    use proptest::prelude::*;

    #[test]
    fn known_moments() {
        let show = |micros: i64| Timestamp(micros).to_string();
        assert_eq!(show(0), "2000-01-01T00:00:00.000Z");
        assert_eq!(show(-1), "2000-01-01T00:00:00.000Z", "rounded up, over the day's end");
        assert_eq!(show(1), "2000-01-01T00:00:00.001Z");
        assert_eq!(show(1000), "2000-01-01T00:00:00.001Z");
        assert_eq!(show(951_782_400_000_000 - 946_684_800_000_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(show(i64::MAX), "infinity");
        assert_eq!(show(i64::MIN), "-infinity");
        assert!(show(9_223_371_331_199_000_000).starts_with("+294276-12-31"), "Postgres' last day");
    }

    proptest! {
        #[test]
        fn agrees_with_chrono(micros in -63_000_000_000_000_000_i64..250_000_000_000_000_000) {
            let epoch = DateTime::parse_from_rfc3339("2000-01-01T00:00:00Z").unwrap().to_utc();
            let up = TimeDelta::milliseconds((micros as f64 / 1000.0).ceil() as i64);
            // f64 has 53 bits: enough for the milliseconds of this range, checked here.
            prop_assume!(up.num_milliseconds() * 1000 >= micros && up.num_milliseconds() * 1000 < micros + 1000);
            let expected = (epoch + up).format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
            prop_assert_eq!(Timestamp(micros).to_string(), expected);
        }

        #[test]
        fn never_panics(micros in any::<i64>()) {
            let _ = Timestamp(micros).to_string();
        }
    }
}
