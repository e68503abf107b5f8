//! Spending caps: what a tenant may spend in a day or a month, and what it has spent.
//!
//! Days and months are those of UTC. Money is counted when an outcome is journaled, once, by the time
//! of its event; it is never rolled back. An outcome whose time can't be read counts into no period.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The share of a period from which on spending is compared with time: in its first minutes every
/// execution would look like a rush.
const ELAPSED_MIN: f64 = 0.01;
/// Milliseconds of a day.
const DAY_MS: i64 = 24 * 3_600_000;
/// Days and months of which sums are kept: the counters that hold them are written with every group.
const DAYS_KEPT: usize = 8;
const MONTHS_KEPT: usize = 4;
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

/// What a tenant has spent, in the user's currency: a sum for each of the last days and months in which
/// the service ran, by its clock. A sum is never taken back, so a clock that is set forward and back
/// finds what was spent before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Spending {
    days: Sums,
    months: Sums,
}

/// Sums of periods, told by the day since 1970 with which they begin; the one added to last is the
/// last.
type Sums = Vec<(i64, f64)>;

/// As it is stored, today and by programs that knew the newest day and month only.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Stored {
    days: Sums,
    months: Sums,
    day_from_ms: i64,
    day: f64,
    month_from_ms: i64,
    month: f64,
}

impl From<Stored> for Spending {
    fn from(stored: Stored) -> Self {
        let Stored { mut days, mut months, day_from_ms, day, month_from_ms, month } = stored;
        for (sums, from_ms, sum) in
            [(&mut days, day_from_ms, day), (&mut months, month_from_ms, month)]
        {
            if sum > 0.0 {
                sums.push((from_ms.div_euclid(DAY_MS), sum));
            }
        }
        Self { days, months }
    }
}

impl Spending {
    /// Counts the cost of one execution into the day and the month of its event, where the service ran
    /// then. One that claims to be of a future that no clock of ours has seen is of now; one of a past
    /// that is not known any more counts nowhere.
    pub fn add(&mut self, cost: f64, event_ms: i64, now_ms: i64) {
        for (period, sums, kept) in [
            (Period::Day, &mut self.days, DAYS_KEPT),
            (Period::Month, &mut self.months, MONTHS_KEPT),
        ] {
            let (now, event) = (first_day(period, now_ms), first_day(period, event_ms));
            let place = |sums: &Sums, day| sums.iter().position(|(first, _)| *first == day);
            // The present is the last to be forgotten.
            let present = match place(sums, now) {
                Some(known) => sums.remove(known),
                None => (now, 0.0),
            };
            sums.push(present);
            if sums.len() > kept {
                sums.remove(0);
            }
            let counted = place(sums, event).or_else(|| place(sums, now).filter(|_| event > now));
            if let Some(place) = counted {
                sums[place].1 += cost;
            }
        }
    }

    /// What has been spent in the period around this moment.
    pub fn in_period(&self, period: Period, now_ms: i64) -> f64 {
        let sums = match period {
            Period::Day => &self.days,
            Period::Month => &self.months,
        };
        let now = first_day(period, now_ms);
        sums.iter().find(|(first, _)| *first == now).map_or(0.0, |(_, sum)| *sum)
    }
}

/// The day since 1970 with which the period around a moment begins.
fn first_day(period: Period, unix_ms: i64) -> i64 {
    period.around(unix_ms).0.div_euclid(DAY_MS)
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
    /// How it stands after `spending`, if there was any.
    pub fn standing(&self, spending: Option<&Spending>, now_ms: i64) -> Standing {
        let (from_ms, to_ms) = self.period.around(now_ms);
        let spent = spending.map_or(0.0, |spending| spending.in_period(self.period, now_ms));
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
        // A clock that is set back finds what was spent then.
        spending.add(32.0, noon, noon);
        assert_eq!(spent(&spending, noon), [41.0, 59.0]);
    }

    /// The clock is set to each moment in turn, and so much is spent; then it is right again.
    #[track_caller]
    fn check_clock(excursions: &[&str], day: f64, month: f64) {
        let now = at("2026-11-26T12:00:00Z");
        let mut spending = Spending::default();
        spending.add(90.0, now, now);
        for moment in excursions {
            let moment = at(moment);
            spending.add(1.0, moment, moment);
            // It is kept over a restart.
            let json = serde_json::to_string(&spending).unwrap();
            assert_eq!(serde_json::from_str::<Spending>(&json).unwrap(), spending);
        }
        spending.add(1.0, now, now);
        let spent = [Period::Day, Period::Month].map(|period| spending.in_period(period, now));
        assert_eq!(spent, [day, month], "{excursions:?}");
    }

    #[test]
    fn whatever_the_clock_does_nothing_that_was_spent_is_forgotten() {
        check_clock(&[], 91.0, 91.0);
        check_clock(&["2026-11-27T12:00:00Z"], 91.0, 92.0);
        check_clock(&["2026-12-26T12:00:00Z"], 91.0, 91.0);
        check_clock(&["2026-11-25T12:00:00Z"], 91.0, 92.0);
        check_clock(&["2026-10-26T12:00:00Z"], 91.0, 91.0);
        check_clock(&["1970-01-01T00:00:01Z", "2126-11-26T12:00:00Z"], 91.0, 91.0);
        // Back and forth, again and again, within the same few days.
        let forth = ["2026-11-27T12:00:00Z", "2026-11-25T12:00:00Z"].repeat(50);
        check_clock(&forth, 91.0, 191.0);
    }

    #[test]
    fn an_event_counts_into_its_own_period_when_the_clock_has_seen_that() {
        let noon = at("2026-11-26T12:00:00Z");
        let mut spending = Spending::default();
        spending.add(90.0, noon, noon);
        // Our clock is a month behind; the sender's is right.
        let behind = at("2026-10-26T12:00:00Z");
        spending.add(1.0, noon, behind);
        // Ours is ahead, by a day and by a month.
        spending.add(2.0, noon, noon + DAY_MS);
        spending.add(4.0, noon, noon + 31 * DAY_MS);
        assert_eq!(spending.in_period(Period::Day, noon), 97.0);
        assert_eq!(spending.in_period(Period::Month, noon), 97.0);
        for clock in [behind, noon + DAY_MS, noon + 31 * DAY_MS] {
            assert_eq!(spending.in_period(Period::Day, clock), 0.0);
        }
    }

    #[test]
    fn as_many_sums_are_kept_as_a_clock_may_need_and_no_more() {
        let noon = at("2026-11-26T12:00:00Z");
        let mut spending = Spending::default();
        for day in 0..400 {
            spending.add(1.0, noon + day * DAY_MS, noon + day * DAY_MS);
        }
        assert_eq!((spending.days.len(), spending.months.len()), (DAYS_KEPT, MONTHS_KEPT));
        assert_eq!(spending.in_period(Period::Day, noon + 392 * DAY_MS), 1.0);
        assert_eq!(spending.in_period(Period::Day, noon + 391 * DAY_MS), 0.0, "long gone");
    }

    #[test]
    fn what_an_older_program_stored_goes_on() {
        let day_from_ms = at("2026-11-26T00:00:00Z");
        let month_from_ms = at("2026-11-01T00:00:00Z");
        let json = serde_json::json!({
            "day_from_ms": day_from_ms, "day": 2.5, "month_from_ms": month_from_ms, "month": 40.0,
        });
        let mut spending: Spending = serde_json::from_value(json).unwrap();
        let noon = at("2026-11-26T12:00:00Z");
        spending.add(1.0, noon, noon);
        assert_eq!(spending.in_period(Period::Day, noon), 3.5);
        assert_eq!(spending.in_period(Period::Month, noon), 41.0);
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
            let standing = budget.standing(Some(&spending), now_ms);
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
            let standing = Budget { amount, period: Period::Day }.standing(Some(&spending), 0);
            assert!(standing.share_spent.is_finite() && standing.share_spent > 1e6, "{standing:?}");
            assert!(standing.cost_weight().is_finite() && standing.is_exhausted(), "{standing:?}");
        }
    }
}
