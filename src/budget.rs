//! Spending caps: what a tenant may spend in a day or a month, and what it has spent.
//!
//! Days and months are those of UTC. Money is counted when an outcome is journaled, once, by the time
//! of its event; it is never rolled back.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The share of a period from which on spending is compared with time: in its first minutes every
/// execution would look like a rush.
const ELAPSED_MIN: f64 = 0.01;
/// The largest share of a budget that is told: of a tiny amount it would be infinite.
const SHARE_MAX: f64 = 1e12;

/// How long an amount has to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// From midnight to midnight, UTC.
    Day,
    /// From the first of a month to that of the next, UTC.
    Month,
}

impl Period {
    /// Its name in answers and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The period of this name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Day, Self::Month].into_iter().find(|period| period.as_str() == name)
    }

    /// Begin (within) and end (not within) of the period around a moment, Unix ms. A moment beyond
    /// the years that a calendar has is taken for the epoch.
    pub fn around(self, unix_ms: i64) -> (i64, i64) {
        let date = Timestamp::from_millisecond(unix_ms)
            .map_or(Date::constant(1970, 1, 1), |time| TimeZone::UTC.to_datetime(time).date());
        let (first, last) = match self {
            Self::Day => (date, date),
            Self::Month => (date.first_of_month(), date.last_of_month()),
        };
        let midnight = |date: Date| {
            date.to_zoned(TimeZone::UTC).map_or(0, |zoned| zoned.timestamp().as_millisecond())
        };
        (midnight(first), midnight(last.tomorrow().unwrap_or(last)))
    }
}

/// What a tenant may spend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// In the user's currency, above 0 and finite.
    pub amount: f64,
    /// How long it has to last.
    pub period: Period,
}

/// What a tenant has spent in the day and in the month of its newest outcome, in the user's currency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spending {
    day_from_ms: i64,
    day: f64,
    month_from_ms: i64,
    month: f64,
}

impl Spending {
    /// Counts the cost of one execution. One that took place before this day or month does not
    /// count into it; one that claims to be of the future is of now.
    pub fn add(&mut self, cost: f64, event_ms: i64, now_ms: i64) {
        let event_ms = event_ms.min(now_ms);
        let sums = [
            (Period::Day, &mut self.day_from_ms, &mut self.day),
            (Period::Month, &mut self.month_from_ms, &mut self.month),
        ];
        for (period, from_ms, sum) in sums {
            let (from, to) = (*from_ms, period.around(*from_ms).1);
            if !(from..to).contains(&now_ms) {
                (*from_ms, *sum) = (period.around(now_ms).0, 0.0);
            }
            if event_ms >= *from_ms {
                *sum += cost;
            }
        }
    }

    /// What has been spent in the period around this moment.
    pub fn in_period(&self, period: Period, now_ms: i64) -> f64 {
        let (from_ms, sum) = match period {
            Period::Day => (self.day_from_ms, self.day),
            Period::Month => (self.month_from_ms, self.month),
        };
        if period.around(now_ms).0 == from_ms { sum } else { 0.0 }
    }
}

/// How a budget stands at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Begin of the period, Unix ms.
    pub from_ms: i64,
    /// Its end, Unix ms.
    pub to_ms: i64,
    /// In the user's currency.
    pub spent: f64,
    /// Of the amount, at most 1e12; above 1 when more was spent.
    pub share_spent: f64,
    /// Of the period, `0..1`.
    pub share_elapsed: f64,
}

impl Budget {
    /// How it stands after `spending`.
    pub fn standing(&self, spending: &Spending, now_ms: i64) -> Standing {
        let (from_ms, to_ms) = self.period.around(now_ms);
        let spent = spending.in_period(self.period, now_ms);
        Standing {
            from_ms,
            to_ms,
            spent,
            share_spent: (spent / self.amount).min(SHARE_MAX),
            share_elapsed: share(now_ms - from_ms, to_ms - from_ms),
        }
    }
}

impl Standing {
    /// What the weight of cost is multiplied by: share spent / share of the period elapsed, at
    /// least 1.
    pub fn cost_weight(&self) -> f64 {
        (self.share_spent / self.share_elapsed.max(ELAPSED_MIN)).max(1.0)
    }

    /// Nothing is left.
    pub fn is_exhausted(&self) -> bool {
        self.share_spent >= 1.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "a month has 2.7e9 ms")]
fn share(part_ms: i64, whole_ms: i64) -> f64 {
    part_ms as f64 / whole_ms.max(1) as f64
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "sums of small whole numbers are exact")]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const DAY_MS: i64 = 24 * HOUR_MS;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[track_caller]
    fn close(value: f64, expected: f64) {
        assert!((value - expected).abs() < 1e-12, "{value} is not {expected}");
    }

    #[test]
    fn periods_are_those_of_the_calendar() {
        #[track_caller]
        fn check(period: Period, moment: &str, from: &str, to: &str) {
            assert_eq!(period.around(at(moment)), (at(from), at(to)), "{moment}");
        }
        check(Period::Day, "2026-11-26T00:00:00Z", "2026-11-26T00:00:00Z", "2026-11-27T00:00:00Z");
        check(Period::Day, "2026-12-31T23:59:59Z", "2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z");
        check(
            Period::Month,
            "2028-02-29T12:00:00Z",
            "2028-02-01T00:00:00Z",
            "2028-03-01T00:00:00Z",
        );
        check(
            Period::Month,
            "2026-12-31T23:59:59Z",
            "2026-12-01T00:00:00Z",
            "2027-01-01T00:00:00Z",
        );
        check(Period::Day, "1969-12-31T23:00:00Z", "1969-12-31T00:00:00Z", "1970-01-01T00:00:00Z");
        for moment in [i64::MIN, i64::MAX] {
            assert_eq!(Period::Day.around(moment), (0, DAY_MS));
        }
    }

    #[test]
    fn money_counts_into_the_day_and_the_month_of_its_event() {
        let mut spending = Spending::default();
        let noon = at("2026-11-26T12:00:00Z");
        let spent = |spending: &Spending, now_ms| {
            [Period::Day, Period::Month].map(|period| spending.in_period(period, now_ms))
        };
        assert_eq!(spent(&spending, noon), [0.0, 0.0]);
        spending.add(1.0, noon, noon);
        spending.add(2.0, noon - DAY_MS, noon);
        spending.add(4.0, noon - 40 * DAY_MS, noon);
        spending.add(8.0, noon + 40 * DAY_MS, noon);
        assert_eq!(spent(&spending, noon), [9.0, 11.0]);
        // Nobody has spent anything yet on the next day.
        assert_eq!(spent(&spending, noon + DAY_MS), [0.0, 11.0]);
        spending.add(16.0, noon + DAY_MS, noon + DAY_MS);
        assert_eq!(spent(&spending, noon + DAY_MS), [16.0, 27.0]);
        assert_eq!(spent(&spending, noon + 5 * DAY_MS), [0.0, 0.0], "it is December");
        // A clock that is set back begins anew rather than count twice into a day that was.
        spending.add(32.0, noon, noon);
        assert_eq!(spent(&spending, noon), [32.0, 59.0]);
    }

    #[test]
    fn the_weight_of_cost_grows_with_the_rush_and_never_falls_below_one() {
        #[track_caller]
        fn check(spent: f64, elapsed_hours: f64, cost_weight: f64, is_exhausted: bool) {
            let midnight = at("2026-11-26T00:00:00Z");
            #[expect(clippy::cast_possible_truncation, reason = "whole milliseconds of a day")]
            let now_ms = midnight + (elapsed_hours * 3_600_000.0) as i64;
            let mut spending = Spending::default();
            spending.add(spent, now_ms, now_ms);
            let budget = Budget { amount: 10.0, period: Period::Day };
            let standing = budget.standing(&spending, now_ms);
            close(standing.share_spent, spent / 10.0);
            close(standing.share_elapsed, elapsed_hours / 24.0);
            close(standing.cost_weight(), cost_weight);
            assert_eq!(standing.is_exhausted(), is_exhausted);
        }
        check(0.0, 0.0, 1.0, false);
        check(5.0, 12.0, 1.0, false);
        check(5.0, 6.0, 2.0, false);
        check(2.0, 12.0, 1.0, false);
        check(1.0, 0.0, 10.0, false);
        check(10.0, 12.0, 2.0, true);
        check(30.0, 12.0, 6.0, true);
    }

    #[test]
    fn however_small_the_amount_what_is_said_of_it_is_finite() {
        let mut spending = Spending::default();
        spending.add(3.8, 0, 0);
        for amount in [f64::from_bits(1), f64::MIN_POSITIVE, 1e-300] {
            let standing = Budget { amount, period: Period::Day }.standing(&spending, 0);
            assert!(standing.share_spent.is_finite() && standing.share_spent > 1e6, "{standing:?}");
            assert!(standing.cost_weight().is_finite() && standing.is_exhausted(), "{standing:?}");
        }
    }
}
