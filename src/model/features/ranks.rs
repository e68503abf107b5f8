//! A number as its rank among the numbers seen before under the same key: whatever its unit, and
//! however far the largest is from the rest.
//!
//! A rank stands for a number in two ways: as a *line*, the normal quantile of the rank (for normal
//! data that is the z-score), and as *hats*, piecewise linear functions that let the effect of a
//! number bend (linear B-splines with knots at the eighths of the ranks).

use serde::{Deserialize, Serialize};

use crate::model::canonical::hex_numbers;
use crate::stats::normal;

/// Numbers kept of a key.
const KEPT_MAX: usize = 512;
/// The same of a key that comes after [`RANKED_KEYS_MAX`] others.
const KEPT_MAX_OF_MANY: usize = 32;
/// Numeric keys per tenant of which [`KEPT_MAX`] numbers are kept.
const RANKED_KEYS_MAX: usize = 64;
/// Numbers that the sample goes back: the next one enters as if so many had come before.
const MEMORY: u64 = 4_096;
/// Largest magnitude that counts of a number.
const NUMBER_MAX: f64 = 1e100;
/// Knots of the hats.
pub(super) const HATS: usize = HATS_U32 as usize;
pub(super) const HATS_U32: u32 = 9;
/// The line ends at this normal quantile.
const LINE_MAX: f64 = 2.5;

/// A random sample of the numbers of one context key that forgets the oldest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Ranks {
    /// Sorted.
    #[serde(with = "hex_numbers")]
    kept: Vec<f64>,
    kept_max: usize,
    /// Numbers that came.
    count: u64,
    /// State of the generator that decides which number gives way.
    generator: u64,
}

impl Ranks {
    /// Of the next numeric key of a tenant that has `keys` of them.
    pub(super) fn new(keys: usize, seed: u64) -> Self {
        let kept_max = if keys < RANKED_KEYS_MAX { KEPT_MAX } else { KEPT_MAX_OF_MANY };
        Self { kept: Vec::new(), kept_max, count: 0, generator: seed }
    }

    /// Of a key of which only mean and deviation are known, of so many numbers: quantiles of a
    /// normal distribution stand for them.
    pub(super) fn of_moments(count: u64, mean: f64, deviation: f64, mut new: Self) -> Self {
        const QUANTILES: u32 = 31;
        let quantile = |place: u32| {
            let p = (f64::from(place) + 0.5) / f64::from(QUANTILES);
            let number = deviation.mul_add(normal::quantile(p), mean);
            number.clamp(-NUMBER_MAX, NUMBER_MAX)
        };
        if count > 0 && mean.is_finite() && deviation.is_finite() {
            new.kept = (0..QUANTILES).map(quantile).collect();
            new.kept.sort_unstable_by(f64::total_cmp);
            new.count = u64::from(QUANTILES);
        }
        new
    }

    pub(super) fn is_sound(&self) -> bool {
        self.kept.len() <= self.kept_max
            && self.kept_max <= KEPT_MAX
            && self.count >= self.kept.len() as u64
            && self.kept.is_sorted()
            && self.kept.iter().all(|number| number.is_finite())
    }

    /// Takes a number into the sample.
    pub(super) fn observe(&mut self, number: f64) {
        let number = number.clamp(-NUMBER_MAX, NUMBER_MAX);
        self.count += 1;
        if self.kept.len() < self.kept_max {
            let place = self.kept.partition_point(|kept| *kept < number);
            self.kept.insert(place, number);
            return;
        }
        // Reservoir sampling (Vitter, ACM TOMS 11(1), 1985) with a bounded count.
        let room = self.kept_max as u64;
        if self.random(self.count.min(MEMORY.max(room))) < room {
            let leaves = usize::try_from(self.random(room)).unwrap_or(0);
            self.kept.remove(leaves);
            let place = self.kept.partition_point(|kept| *kept < number);
            self.kept.insert(place, number);
        }
    }

    /// The next random number below `bound`: `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014).
    fn random(&mut self, bound: u64) -> u64 {
        self.generator = self.generator.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.generator;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Where a number stands among those kept, in (0, 1): the middle of the ranks of its equals.
    /// `None` as long as all are equal, which says nothing.
    #[expect(clippy::cast_precision_loss, reason = "the sample is small")]
    pub(super) fn rank(&self, number: f64) -> Option<Rank> {
        let number = number.clamp(-NUMBER_MAX, NUMBER_MAX);
        let (first, last) = (self.kept.first()?, self.kept.last()?);
        if first >= last {
            return None;
        }
        let below = self.kept.partition_point(|kept| *kept < number);
        let up_to = below + self.kept[below..].partition_point(|kept| *kept <= number);
        let middle = (below + up_to) as f64 / 2.0;
        Some(Rank((middle + 0.5) / (self.kept.len() + 1) as f64))
    }
}

/// A place among the numbers of a key, in (0, 1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rank(f64);

impl Rank {
    /// The normal quantile, cut at +-2.5.
    pub(super) fn line(self) -> f64 {
        normal::quantile(self.0).clamp(-LINE_MAX, LINE_MAX)
    }

    /// The first of the two hats that are not 0, and the value of the second; that of the first is
    /// what is missing to 1.
    pub(super) fn hats(self) -> (usize, f64) {
        let place = 8.0 * self.0;
        let first = self.eighth();
        #[expect(clippy::cast_precision_loss, reason = "an eighth is small")]
        (first, place - first as f64)
    }

    /// Which eighth of the ranks it is in, `0..8`.
    pub(super) fn eighth(self) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank is in (0, 1)"
        )]
        let eighth = (8.0 * self.0) as usize;
        eighth.min(HATS - 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranks_of(numbers: impl IntoIterator<Item = f64>) -> Ranks {
        let mut ranks = Ranks::new(0, 1);
        numbers.into_iter().for_each(|number| ranks.observe(number));
        ranks
    }

    fn close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() < 1e-9, "{actual}, not {expected}");
    }

    #[test]
    fn equal_numbers_say_nothing() {
        let mut ranks = ranks_of([5.0, 5.0, 5.0]);
        assert_eq!((ranks.rank(5.0), ranks.rank(9.0)), (None, None));
        ranks.observe(9.0);
        // Three of four are below, none is equal: (3.5 + .5)/5, as the middle of 3 and 4.
        close(ranks.rank(9.0).unwrap().0, 0.8);
        // The middle of 0 and 3.
        close(ranks.rank(5.0).unwrap().0, 0.4);
        close(ranks.rank(-1e300).unwrap().0, 0.1);
    }

    #[test]
    fn hats_sum_to_one_and_move_from_one_to_the_next() {
        for (rank, first, second) in
            [(0.001, 0, 0.008), (0.25, 2, 0.0), (0.3, 2, 0.4), (0.99, 7, 0.92)]
        {
            let (place, value) = Rank(rank).hats();
            assert_eq!(place, first);
            close(value, second);
        }
        close(Rank(0.5).line(), 0.0);
        close(Rank(0.999_999).line(), 2.5);
    }

    /// One absurd number, and numbers that span decades, leave the others where they are.
    #[test]
    fn outliers_and_decades_do_not_matter() {
        let mut ranks = ranks_of((0..400).map(f64::from));
        let before = ranks.rank(100.0).unwrap().0;
        ranks.observe(1e99);
        assert!((ranks.rank(100.0).unwrap().0 - before).abs() < 1.0 / 400.0);
        let decades = ranks_of((0..400).map(|n| 10_f64.powf(f64::from(n) / 100.0)));
        let (line, decade) = (ranks_of((0..400).map(f64::from)), decades.rank(10.0).unwrap());
        assert_eq!(line.rank(100.0).unwrap(), decade);
    }

    /// The sample is a fair one of about the last 4,096 numbers, and of what came before forgets.
    #[test]
    fn the_sample_follows_what_changes() {
        let mut ranks = ranks_of((0..20_000).map(f64::from));
        assert_eq!(ranks.kept.len(), KEPT_MAX);
        // A number that came n numbers ago is still there with probability e^(-n/4096): those older
        // than 12,288 are e^-3 = 5 % of 512, 25.5 expected; five binomial deviations are 24.6.
        let old = ranks.kept.iter().filter(|kept| **kept < 20_000.0 - 12_288.0).count();
        assert!((1..=50).contains(&old), "{old}");
        for _ in 0..40_000 {
            ranks.observe(-1.0);
        }
        assert_eq!(ranks.rank(-1.0), None, "all are equal by now");
        let mut few = Ranks::new(RANKED_KEYS_MAX, 1);
        (0..100).for_each(|n| few.observe(f64::from(n)));
        assert_eq!(few.kept.len(), KEPT_MAX_OF_MANY);
    }

    #[test]
    fn moments_stand_for_the_numbers_they_are_of() {
        let ranks = Ranks::of_moments(1_000, 50.0, 10.0, Ranks::new(0, 1));
        assert!(ranks.is_sound());
        // z = 1 and -1 of a normal distribution, in steps of 1/31 of probability, where the density is .24.
        assert!((ranks.rank(60.0).unwrap().line() - 1.0).abs() < 0.15);
        assert!((ranks.rank(40.0).unwrap().line() + 1.0).abs() < 0.15);
        assert_eq!(Ranks::of_moments(0, 0.0, 0.0, Ranks::new(0, 1)), Ranks::new(0, 1));
    }

    proptest! {
        #[test]
        fn a_rank_lies_inside_and_grows_with_the_number(
            numbers in prop::collection::vec(any::<f64>(), 1..600), a in any::<f64>(), b in any::<f64>(),
        ) {
            let finite = |number: &f64| number.is_finite();
            let ranks = ranks_of(numbers.into_iter().filter(finite));
            prop_assert!(ranks.is_sound());
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            if let (Some(low), Some(high)) = (ranks.rank(low), ranks.rank(high)) {
                prop_assert!(low.0 > 0.0 && high.0 < 1.0 && low.0 <= high.0);
            }
            let json = serde_json::to_string(&ranks).unwrap();
            prop_assert_eq!(serde_json::from_str::<Ranks>(&json).unwrap(), ranks);
        }
    }
}
