//! Gaussian beliefs in effects, and how one outcome changes them.
#![expect(clippy::needless_range_loop, reason = "a loop over the copies reads like its equation")]

use std::sync::LazyLock;

use super::copies::{COPIES, FORGETFUL, KEPT, Lanes};
use crate::model::log_odds::sigmoid;

/// Points on each side of the mean at which a tilted Gaussian is summed up, and their distance in
/// deviations.
const POINTS: usize = 20;
const DISTANCE: f64 = 0.25;
/// Below this variance the likelihood is nearly a Gaussian, and its mode is enough: mean and deviation
/// differ by less than a thousandth of a deviation.
const NARROW: f64 = 0.05;
/// A product that moves by more deviations than this is summed up about its mode.
const SURPRISE: f64 = 1.0;
/// A sum further from even odds counts as one this far: its exponential stays finite.
const LOG_ODDS_MAX: f64 = 300.0;

/// What the forgetful copy keeps of a belief for `age` outcomes.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(super) fn kept(age: u64) -> f64 {
    const TABLE: usize = 4_096;
    static RECENT: LazyLock<Vec<f64>> =
        LazyLock::new(|| (0..TABLE).map(|age| (age as f64 * KEPT.ln()).exp()).collect());
    let recent = usize::try_from(age).ok().and_then(|age| RECENT.get(age));
    recent.copied().unwrap_or_else(|| (age as f64 * KEPT.ln()).exp())
}

/// Mean and variance of a sum of effects, per copy.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sum {
    pub(super) mean: Lanes,
    pub(super) variance: Lanes,
}

impl Sum {
    pub(super) fn add(&mut self, x: f64, mean: &Lanes, variance: &Lanes) {
        for copy in 0..COPIES {
            self.mean[copy] += x * mean[copy];
            self.variance[copy] += x * x * variance[copy];
        }
    }

    /// Effects that nothing is known of: their priors, which have mean 0.
    pub(super) fn add_unknown(&mut self, squares: f64, prior: &Lanes) {
        for copy in 0..COPIES {
            self.variance[copy] += squares * prior[copy];
        }
    }
}

/// An independent effect: a Gaussian per copy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::model) struct Effect {
    pub(in crate::model) mean: Lanes,
    pub(in crate::model) variance: Lanes,
    /// Outcomes the tenant had learned when it was last changed.
    pub(in crate::model) at: u64,
}

impl Effect {
    pub(in crate::model) fn new(prior: &Lanes, now: u64) -> Self {
        Self { mean: [0.0; COPIES], variance: *prior, at: now }
    }

    /// The same belief at a later time.
    pub(in crate::model) fn aged(&self, prior: &Lanes, now: u64) -> Self {
        let mut aged = Self { at: now, ..*self };
        if now > self.at {
            let kept = kept(now - self.at);
            let squared = kept * kept;
            aged.mean[FORGETFUL] *= kept;
            aged.variance[FORGETFUL] =
                squared * self.variance[FORGETFUL] + (1.0 - squared) * prior[FORGETFUL];
        }
        aged
    }

    pub(super) fn add_to(&self, sum: &mut Sum, x: f64, prior: &Lanes, now: u64) {
        let aged = self.aged(prior, now);
        sum.add(x, &aged.mean, &aged.variance);
    }

    pub(super) fn learn(&mut self, x: f64, prior: &Lanes, now: u64, step: &Step) {
        *self = self.aged(prior, now);
        for copy in 0..COPIES {
            let gain = self.variance[copy] * x;
            self.mean[copy] += gain * step.error[copy];
            self.variance[copy] -= step.shrink[copy] * gain * gain;
        }
    }
}

/// What an outcome does to every effect: with `g` the covariance of the effect with the sum,
/// `mean += g error` and `covariance -= shrink g g'`.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) error: Lanes,
    pub(super) shrink: Lanes,
}

impl Step {
    /// From the belief in the sum of the active effects to the step of `reward` in `0..=1`.
    pub(super) fn of(sum: &Sum, reward: f64) -> Self {
        let mut step = Self { error: [0.0; COPIES], shrink: [0.0; COPIES] };
        for copy in 0..COPIES {
            let variance = sum.variance[copy];
            (step.error[copy], step.shrink[copy]) = if variance < NARROW {
                // The likelihood is nearly a Gaussian: that with the right mode and curvature (Laplace).
                let p = sigmoid(mode(sum.mean[copy], variance, reward));
                let curvature = p * (1.0 - p);
                (reward - p, curvature / (1.0 + curvature * variance))
            } else {
                // That with the right moments (Minka, "A family of algorithms for approximate Bayesian
                // inference", 2001, section 3.2). Not wider than before but for rounding, for the
                // likelihood is log-concave.
                let (moved, narrowed) = tilted(sum.mean[copy], variance, reward);
                (moved / variance, (1.0 - narrowed / variance).max(0.0) / variance)
            };
        }
        step
    }
}

/// Densities of a standard Gaussian at multiples of [`DISTANCE`], up to a factor.
static DENSITIES: LazyLock<[f64; POINTS + 1]> = LazyLock::new(|| {
    #[expect(clippy::cast_precision_loss, reason = "points are few")]
    std::array::from_fn(|point| {
        let z = DISTANCE * point as f64;
        (-0.5 * z * z).exp()
    })
});

/// How far the mean of `N(mean, variance)` moves, and the variance, times the likelihood of `reward`,
/// `sigmoid(z)^reward (1 - sigmoid(z))^(1 - reward) = exp(reward z)/(1 + exp(z))`. By a sum over equal
/// steps, which is exact to many digits for a function as smooth as this. `exp(z)` is carried from point
/// to point by a factor.
///
/// A great surprise moves the product out of the points' reach. Then they lie about its mode, for
/// `N(mean, variance) exp(reward z)` is, up to a factor, `N(mode, variance) exp(sigmoid(mode) z)`.
#[expect(clippy::cast_precision_loss, reason = "points are few")]
fn tilted(mean: f64, variance: f64, reward: f64) -> (f64, f64) {
    let densities = &*DENSITIES;
    let deviation = variance.sqrt();
    let is_surprise = (reward - sigmoid(mean)).abs() * deviation > SURPRISE;
    let (centre, reward) = if is_surprise {
        let mode = mode(mean, variance, reward);
        (mode, sigmoid(mode))
    } else {
        (mean, reward)
    };
    let from = centre - mean;
    let centre = centre.clamp(-LOG_ODDS_MAX, LOG_ODDS_MAX);
    let distance = DISTANCE * deviation;
    let (odds, odds_factor) = (centre.exp(), distance.exp());
    let (share, share_factor) = if reward >= 1.0 {
        (odds, odds_factor)
    } else if reward <= 0.0 {
        (1.0, 1.0)
    } else {
        ((reward * centre).exp(), (reward * distance).exp())
    };
    let at_mean = densities[0] * share / (1.0 + odds);
    let (mut total, mut first, mut second) = (at_mean, 0.0, 0.0);
    let (mut up, mut share_up) = (odds, share);
    let (mut down, mut share_down) = (odds, share);
    let (odds_back, share_back) = (1.0 / odds_factor, 1.0 / share_factor);
    for point in 1..=POINTS {
        up *= odds_factor;
        share_up *= share_factor;
        down *= odds_back;
        share_down *= share_back;
        let above = densities[point] * share_up / (1.0 + up);
        let below = densities[point] * share_down / (1.0 + down);
        let step = point as f64;
        total += above + below;
        first += step * (above - below);
        second += step * step * (above + below);
    }
    let moved = first / total;
    (from + distance * moved, distance * distance * (second / total - moved * moved))
}

/// The mode of a Gaussian times the likelihood of `reward`: the root of
/// `z - mean - variance (reward - sigmoid(z))`. Newton's method inside a bracket that holds it; a
/// step that leaves it, or is not half as long as the one before, is replaced by bisection, because
/// Newton's steps go to and fro where the variance is large.
fn mode(mean: f64, variance: f64, reward: f64) -> f64 {
    let mut low = mean - variance * (1.0 - reward);
    let mut high = mean + variance * reward;
    let (mut z, mut step) = (mean, high - low);
    for _ in 0..100 {
        let p = sigmoid(z);
        let excess = z - mean - variance * (reward - p);
        if excess > 0.0 {
            high = z;
        } else {
            low = z;
        }
        let newton = z - excess / (1.0 + variance * p * (1.0 - p));
        let is_inside = (low..=high).contains(&newton);
        let is_shorter = (newton - z).abs() <= 0.5 * step;
        let next = if is_inside && is_shorter { newton } else { 0.5 * (low + high) };
        step = (next - z).abs();
        z = next;
        // The error of a Newton step is of the order of its square.
        if step <= 1e-7 * (1.0 + z.abs()) {
            break;
        }
    }
    z
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::log_odds::softplus;
    use proptest::prelude::*;

    /// Newton steps from both sides of the steep part of the curve, each inside the bracket, hardly
    /// narrowed it: a success of an agent that was all but sure to fail.
    #[test]
    fn the_mode_is_found_across_the_steep_part() {
        let (mean, variance) = (-14.111_367_526_976_776, 2.863_648_009_452_380_6_f64.exp());
        let z = mode(mean, variance, 1.0);
        let rest = z - mean - variance * (1.0 - sigmoid(z));
        assert!(rest.abs() < 1e-6, "{z}: {rest}");
    }

    /// Simpson's rule over ten deviations in 20,000 steps.
    fn integrated(mean: f64, variance: f64, reward: f64) -> (f64, f64) {
        let deviation = variance.sqrt();
        let (mut total, mut first, mut second) = (0.0, 0.0, 0.0);
        for step in 0..=20_000 {
            let x = f64::from(step - 10_000) / 1_000.0;
            let z = mean + deviation * x;
            let ln = -0.5 * x * x + reward * z - softplus(z);
            let weight = if step % 2 == 0 { 2.0 } else { 4.0 };
            // Relative to the largest possible: success at the mean.
            let value = weight * (ln - (reward * mean - softplus(mean))).exp();
            total += value;
            first += value * x;
            second += value * x * x;
        }
        let moved = first / total;
        (mean + deviation * moved, variance * (second / total - moved * moved))
    }

    #[test]
    fn moments_match_an_integral() {
        for mean in [-30.0, -6.0, -1.0, 0.0, 2.5, 40.0] {
            for variance in [0.05, 0.5, 4.0, 18.0] {
                for reward in [0.0, 0.3, 1.0] {
                    let (expected_mean, expected_variance) = integrated(mean, variance, reward);
                    let (moved, actual_variance) = tilted(mean, variance, reward);
                    let actual_mean = mean + moved;
                    let deviation = variance.sqrt();
                    let what = format!("N({mean}, {variance}) and {reward}");
                    assert!((actual_mean - expected_mean).abs() < 1e-3 * deviation, "{what}");
                    let ratio = actual_variance / expected_variance;
                    assert!((ratio - 1.0).abs() < 5e-3, "{what}: {ratio}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_mode_is_the_root(
            mean in -40.0..40.0_f64, ln_variance in -20.0..8.0_f64, reward in 0.0..=1.0_f64,
        ) {
            let variance = ln_variance.exp();
            for reward in [0.0, reward, 1.0] {
                let z = mode(mean, variance, reward);
                let rest = z - mean - variance * (reward - sigmoid(z));
                // The slope of this is at least 1.
                prop_assert!(rest.abs() < 1e-6 * (1.0 + z.abs() + variance), "{z}: {rest}");
            }
        }

        #[test]
        fn an_outcome_narrows_the_belief_and_moves_it_towards_itself(
            mean in -400.0..400.0_f64, ln_variance in -20.0..5.0_f64, reward in 0.0..=1.0_f64,
        ) {
            let variance = ln_variance.exp();
            let sum = Sum { mean: [mean; COPIES], variance: [variance; COPIES] };
            for reward in [0.0, reward, 1.0] {
                let Step { error: [error, ..], shrink: [shrink, ..] } = Step::of(&sum, reward);
                let after = variance * (1.0 - shrink * variance);
                prop_assert!(error.is_finite() && after > 0.0 && after <= variance);
                if !(0.0 < reward && reward < 1.0) {
                    // Up to rounding.
                    prop_assert!(error * (reward - 0.5) >= -1e-12, "{error}");
                }
            }
        }

        /// Where one way is as good as the other, both say the same.
        #[test]
        fn both_steps_agree_where_the_belief_is_narrow(
            mean in -8.0..8.0_f64, reward in 0.0..=1.0_f64,
        ) {
            let of = |variance| {
                let sum = Sum { mean: [mean; COPIES], variance: [variance; COPIES] };
                let Step { error: [error, ..], shrink: [shrink, ..] } = Step::of(&sum, reward);
                (error, shrink)
            };
            let (mode, moments) = (of(NARROW * (1.0 - 1e-9)), of(NARROW));
            // In deviations, and as a share of the variance.
            prop_assert!((mode.0 - moments.0).abs() * NARROW.sqrt() < 2e-3, "{mode:?} {moments:?}");
            prop_assert!((mode.1 - moments.1).abs() * NARROW < 2e-3, "{mode:?} {moments:?}");
        }
    }
}
