//! What the strategy `thompson` believes about one agent on one question: a weighted mixture of
//! Gaussians over the log-odds of its success, and how agents are drawn from it.
//!
//! Two things are made of the same beliefs. What is *stated* (expected success, intervals, the
//! probability to be best) is the mixture over copies and over how much the tenant's agents may differ.
//! What agents are *chosen* by is a draw that is optimistic (May, Korda, Lee and Leslie, JMLR 13, 2012),
//! never below the mean:
//!
//! ```text
//! draw = sum of w mu + sqrt(V sum of w v0 max(za, 0)^2 + 0.5 sum of w vr max(zc, 0)^2)
//! ```
//!
//! with `mu` the mean of the agent's own effects, `v0` the variance of its overall effect and `vr`
//! what the others add to it. `za ~ N(0, 1)` is each agent's own; `zc ~ N(0, 1)` is one for the
//! decision, shared by all agents: with it all of them are tried in what is little known, or none.
//! What all agents share moves none past another and takes no part. `V` is wider for an agent that was
//! tried far less often than the others ([`overall_share`]).

use std::sync::Arc;

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::families::logistic::{COPIES, Lanes, Level, Levels, Own, SPREADS, Sum, Swapped};
use super::log_odds::{moderation, sigmoid};
use super::propensity::{self, Draws};
use crate::stats::normal;

/// Copies of less weight take no part.
const WEIGHT_MIN: f64 = 0.001;
/// Share of the variance of an agent's overall effect that counts in a draw; up to this much more for
/// one that is hardly tried; and at most.
const OVERALL_SHARE: f64 = 0.33;
const OVERALL_SHARE_MORE: f64 = 0.66;
const OVERALL_SHARE_MAX: f64 = 2.0;
/// An agent counts as hardly tried with less than this share of its even part of the outcomes.
const HARDLY_TRIED: f64 = 0.1;
/// The same of what task type and context add.
const REST_SHARE: f64 = 0.5;
/// Smallest variance of a draw.
const VARIANCE_MIN: f64 = 1e-18;
/// Components of a copy are nearly the same when their means differ by less than this many deviations, and
/// their variances by less than this factor.
const SAME_MEAN: f64 = 0.2;
const SAME_VARIANCE: f64 = 1.25;
/// Below this variance of log-odds the mean chance is nearly that of the moderated mean.
const NARROW: f64 = 0.05;
/// Copies of less weight take no part in the probability to be best.
const COMPARED_WEIGHT_MIN: f64 = 0.005;
/// What all agents have in common is taken to be certain where it moves nobody by more, in log-odds.
const COMMON_MIN: f64 = 0.05;

/// Share of the variance of an agent's overall effect that counts in its draw, by the outcomes of the
/// agent and of its tenant, where it is one of so many candidates: as in MOSS (Audibert and Bubeck, COLT
/// 2009), who was tried far less than its part is drawn from a wider distribution.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(super) fn overall_share(outcomes: u64, all_outcomes: u64, candidates: usize) -> f64 {
    let part = HARDLY_TRIED * all_outcomes as f64 / candidates.max(1) as f64;
    let more = (part / (outcomes + 1) as f64).ln().max(0.0);
    OVERALL_SHARE_MORE.mul_add(more, OVERALL_SHARE).min(OVERALL_SHARE_MAX)
}

/// The belief of the copies in the log-odds of an agent's success: its own part, by which
/// agents are ranked, and the part that all agents share.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// Sum to 1.
    weights: Lanes,
    /// Under the base prior.
    own: Own,
    shared: Sum,
    levels: Arc<Levels>,
    draws: Draws,
    expected: f64,
}

/// A Gaussian over log-odds, all effects together.
#[derive(Debug, Clone, Copy, Default)]
struct Component {
    weight: f64,
    mean: f64,
    variance: f64,
}

impl Mixture {
    /// `overall_share` is that of [`overall_share`].
    pub(super) fn new(
        weights: &Lanes,
        own: Own,
        shared: &Sum,
        levels: &Arc<Levels>,
        overall_share: f64,
    ) -> Self {
        let kept = weights.map(|weight| if weight < WEIGHT_MIN { 0.0 } else { weight });
        let total: f64 = kept.iter().sum();
        let draws = Draws { centre: 0.0, overall: VARIANCE_MIN, rest: 0.0 };
        let mut mixture = Self {
            weights: kept.map(|weight| weight / total),
            own,
            shared: *shared,
            levels: levels.clone(),
            draws,
            expected: 0.0,
        };
        mixture.draws = mixture.draws_by(overall_share);
        let components = mixture.components();
        let expected = components
            .iter()
            .map(|Component { weight, mean, variance }| weight * mean_chance(*mean, *variance));
        // Weights sum to 1 up to rounding.
        mixture.expected = expected.sum::<f64>().clamp(0.0, 1.0);
        mixture
    }

    fn weighted(&self, of: impl Fn(usize) -> f64) -> f64 {
        (0..COPIES).map(|copy| self.weights[copy] * of(copy)).sum()
    }

    /// The agent's own effects by what a tenant's agents have in common.
    fn swapped(&self, copy: usize, level: &Level) -> Swapped {
        let Own { sum, covariance, overall } = &self.own;
        let overall = (overall.mean[copy], overall.variance[copy]);
        level.swap(sum.mean[copy], sum.variance[copy], overall, covariance[copy])
    }

    /// What is stated: a Gaussian per copy and spread, one for those that are nearly the same.
    fn components(&self) -> Components {
        let mut components = Components::default();
        for copy in (0..COPIES).filter(|copy| self.weights[*copy] > 0.0) {
            let first = components.count;
            for (share, level) in self.levels.stated[copy].iter().filter(|(share, _)| *share > 0.0)
            {
                let swapped = self.swapped(copy, level);
                let component = Component {
                    weight: self.weights[copy] * share,
                    mean: swapped.mean + self.shared.mean[copy],
                    variance: swapped.variance + self.shared.variance[copy],
                };
                components.add(first, component);
            }
        }
        components
    }

    /// Mean of the log-odds, all effects together.
    pub fn log_odds(&self) -> f64 {
        self.components().iter().map(|component| component.weight * component.mean).sum()
    }

    /// Expected success, `0..=1`.
    pub fn expected(&self) -> f64 {
        self.expected
    }

    /// Density of the chance of success; 0 outside of (0, 1).
    pub fn density(&self, chance: f64) -> f64 {
        if !(chance > 0.0 && chance < 1.0) {
            return 0.0;
        }
        let t = chance.ln() - (-chance).ln_1p();
        let components = self.components();
        let density = components.iter().map(|component| {
            let spread = component.variance.max(VARIANCE_MIN).sqrt();
            component.weight * normal::density((t - component.mean) / spread) / spread
        });
        density.sum::<f64>() / (chance * (1.0 - chance))
    }

    /// Central 90 % credible interval of the chance of success.
    pub fn interval(&self) -> [f64; 2] {
        let components = self.components();
        [0.05, 0.95].map(|p| sigmoid(components.quantile(p)))
    }

    /// The chance of success lies below with probability `p`, in (0, 1).
    pub fn quantile(&self, p: f64) -> f64 {
        sigmoid(self.components().quantile(p))
    }

    fn draws_by(&self, overall_share: f64) -> Draws {
        let mut draws = Draws { centre: 0.0, overall: 0.0, rest: 0.0 };
        for copy in (0..COPIES).filter(|copy| self.weights[*copy] > 0.0) {
            let weight = self.weights[copy];
            let swapped = self.swapped(copy, &self.levels.choice[copy]);
            draws.centre += weight * swapped.mean;
            draws.overall += weight * swapped.overall;
            draws.rest += weight * (swapped.variance - swapped.overall);
        }
        draws.overall = (overall_share * draws.overall).max(VARIANCE_MIN);
        // The effects may be correlated such that their sum varies less than one of them.
        draws.rest = (REST_SHARE * draws.rest).max(0.0);
        draws
    }

    /// One draw, in log-odds: what agents are ranked by.
    pub(super) fn draw(&self, luck: Luck, rng: &mut (impl Rng + ?Sized)) -> f64 {
        let z: f64 = StandardNormal.sample(rng);
        self.draws.at(z.max(0.0), luck.0)
    }

    /// Where the scores of draws lie.
    pub(super) fn scores(&self) -> Scores {
        Scores { draws: self.draws, shared: self.weighted(|copy| self.shared.mean[copy]) }
    }

    /// The probability that stands for a draw, `0..=1`: what all agents share is added, which
    /// keeps the order.
    pub(super) fn score(&self, draw: f64) -> f64 {
        sigmoid(draw + self.weighted(|copy| self.shared.mean[copy]))
    }
}

/// The mean of a chance whose log-odds are `N(mean, variance)`, within 0.0005, and where it is near 0 or 1
/// within 0.2 % of what is missing. A sigmoid is nearly a mixture of four Gaussian distribution functions,
/// whose means are known (Monahan and Stefanski, in: Handbook of the Logistic Distribution, 1992, chapter 8;
/// the constants are fitted anew, to relative errors of both tails).
fn mean_chance(mean: f64, variance: f64) -> f64 {
    /// (weight, scale).
    const FUNCTIONS: [(f64, f64); 4] = [
        (0.015_517_622_777_7, 0.280_976_198_963),
        (0.176_292_978_330_2, 0.394_070_505_191),
        (0.481_487_209_548_7, 0.564_939_440_045),
        (0.326_702_189_343_4, 0.852_006_766_842),
    ];
    if variance < NARROW {
        return sigmoid(mean * moderation(variance));
    }
    let below = FUNCTIONS.map(|(weight, scale)| {
        weight * normal::below(scale * mean / (1.0 + scale * scale * variance).sqrt())
    });
    below.iter().sum()
}

/// At most a Gaussian per copy and spread.
#[derive(Debug, Clone, Copy, Default)]
struct Components {
    all: [Component; COPIES * SPREADS],
    count: usize,
}

impl Components {
    fn iter(&self) -> std::slice::Iter<'_, Component> {
        self.all[..self.count].iter()
    }

    /// Adds one after those of the same copy, which begin at `first`; to the last of them if it is nearly the
    /// same: the moments stay.
    fn add(&mut self, first: usize, one: Component) {
        if self.count > first {
            let last = &mut self.all[self.count - 1];
            let apart = one.mean - last.mean;
            let is_near = apart * apart < SAME_MEAN * SAME_MEAN * last.variance
                && one.variance < SAME_VARIANCE * last.variance
                && last.variance < SAME_VARIANCE * one.variance;
            if is_near {
                let weight = last.weight + one.weight;
                let share = one.weight / weight;
                let between = share * (1.0 - share) * apart * apart;
                last.variance += share * (one.variance - last.variance) + between;
                last.mean += share * apart;
                last.weight = weight;
                return;
            }
        }
        self.all[self.count] = one;
        self.count += 1;
    }

    /// The mixture lies below with probability `p`, in log-odds: Newton's method on its distribution
    /// function, inside a bracket, from where a Gaussian of the same moments has it.
    fn quantile(&self, p: f64) -> f64 {
        let z = normal::quantile(p);
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        let (mut mean, mut square) = (0.0, 0.0);
        for component in self.iter() {
            let end = component.mean + z * component.variance.sqrt();
            (low, high) = (low.min(end), high.max(end));
            mean += component.weight * component.mean;
            square += component.weight * (component.variance + component.mean * component.mean);
        }
        let deviation = (square - mean * mean).max(VARIANCE_MIN).sqrt();
        let mut t = (mean + z * deviation).clamp(low, high);
        for _ in 0..60 {
            let (mut below, mut density) = (0.0, 0.0);
            for component in self.iter() {
                let spread = 1.0 / component.variance.max(VARIANCE_MIN).sqrt();
                let z = (t - component.mean) * spread;
                below += component.weight * normal::below(z);
                density += component.weight * normal::density(z) * spread;
            }
            if below > p {
                high = t;
            } else {
                low = t;
            }
            let newton = t - (below - p) / density;
            let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
            // The error of a Newton step is of the order of its square.
            let done = (next - t).abs() < 1e-3 * deviation;
            t = next;
            if done {
                break;
            }
        }
        t
    }
}

/// The part of a draw that all agents of a decision share.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Luck(f64);

impl Luck {
    pub(super) fn draw(rng: &mut (impl Rng + ?Sized)) -> Self {
        let z: f64 = StandardNormal.sample(rng);
        Self(z.max(0.0))
    }
}

/// Where the scores of an agent's draws lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores {
    draws: Draws,
    shared: f64,
}

impl Scores {
    /// The score of these `z`, both >= 0.
    pub(super) fn at(&self, own: f64, luck: f64) -> f64 {
        sigmoid(self.draws.at(own, luck) + self.shared)
    }
}

/// The probability of each to have the largest draw; sums to 1.
pub(super) fn probabilities_first(mixtures: &[&Mixture]) -> Vec<f64> {
    let draws: Vec<Draws> = mixtures.iter().map(|mixture| mixture.draws).collect();
    propensity::probabilities_first(&draws)
}

/// The posterior probability of each to have the highest chance of success; sums to 1. All are beliefs of
/// one tenant on one question. In a copy, agents are independent given the mean of what they have in
/// common, over which is summed by the 7-point Gauss-Hermite rule (Abramowitz and Stegun, table 25.10).
pub(super) fn probabilities_best(mixtures: &[&Mixture]) -> Vec<f64> {
    /// (`z`, weight) of a standard Gaussian.
    const COMMON: [(f64, f64); 7] = [
        (-3.750_439_717_725_742, 0.000_548_268_855_972_218),
        (-2.366_759_410_734_541, 0.030_757_123_967_586_5),
        (-1.154_405_394_739_968, 0.240_123_178_605_013),
        (0.0, 0.457_142_857_142_857),
        (1.154_405_394_739_968, 0.240_123_178_605_013),
        (2.366_759_410_734_541, 0.030_757_123_967_586_5),
        (3.750_439_717_725_742, 0.000_548_268_855_972_218),
    ];
    let mut best = vec![0.0; mixtures.len()];
    let Some(one) = mixtures.first() else { return best };
    let mut gaussians = Vec::with_capacity(mixtures.len());
    for copy in (0..COPIES).filter(|copy| one.weights[*copy] >= COMPARED_WEIGHT_MIN) {
        let level = one.levels.comparison[copy];
        let certain = Level { uncertainty: 0.0, ..level };
        let deviation = level.uncertainty.sqrt();
        let swapped: Vec<Swapped> =
            mixtures.iter().map(|mixture| mixture.swapped(copy, &certain)).collect();
        let [least, most] = [f64::min, f64::max]
            .map(|of| swapped.iter().map(|swapped| swapped.load).reduce(of).unwrap_or(0.0));
        let common: &[(f64, f64)] =
            if (most - least) * deviation < COMMON_MIN { &[(0.0, 1.0)] } else { &COMMON };
        for (z, weight) in common {
            let moved = z * deviation;
            gaussians.clear();
            gaussians.extend(swapped.iter().map(|swapped| {
                (swapped.load.mul_add(moved, swapped.mean), swapped.variance.sqrt())
            }));
            let highest = propensity::probabilities_highest(&gaussians);
            for (best, highest) in best.iter_mut().zip(highest) {
                *best += one.weights[copy] * weight * highest;
            }
        }
    }
    let total: f64 = best.iter().sum();
    for best in &mut best {
        *best /= total;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_chance_is_that_of_an_integral() {
        for variance in [0.01, 0.05, 0.3, 1.0, 4.0, 15.0] {
            for mean in [-7.0, -3.0, -1.0, 0.0, 0.5, 2.0, 5.0] {
                let (mut total, mut chance) = (0.0, 0.0);
                for step in -8_000..=8_000 {
                    let z = f64::from(step) / 1_000.0;
                    total += normal::density(z);
                    chance += normal::density(z) * sigmoid(mean + z * f64::sqrt(variance));
                }
                let (actual, expected) = (mean_chance(mean, variance), chance / total);
                assert!((actual - expected).abs() < 5e-4, "N({mean}, {variance}): {actual}");
                let missing = f64::min(expected, 1.0 - expected);
                let share = (actual - expected).abs() / missing;
                assert!(share < 0.005 || variance < NARROW, "N({mean}, {variance}): {share}");
            }
        }
    }

    #[test]
    fn quantiles_of_components_are_where_they_say() {
        let mut components = Components::default();
        for (weight, mean, variance) in [(0.5, -1.0, 0.3), (0.2, 3.0, 4.0), (0.3, 0.0, 0.01)] {
            components.add(components.count, Component { weight, mean, variance });
        }
        for p in [0.01, 0.05, 0.5, 0.95, 0.999] {
            let t = components.quantile(p);
            let below: f64 = components
                .iter()
                .map(|one| one.weight * normal::below((t - one.mean) / one.variance.sqrt()))
                .sum();
            assert!((below - p).abs() < 1e-4, "{p}: {below}");
        }
    }

    /// Nearly equal components become one that has their moments; others stay.
    #[test]
    fn merged_components_keep_the_moments() {
        let parts = [(0.3, 1.0, 0.5), (0.2, 1.1, 0.52), (0.5, 2.0, 0.5)];
        let mut components = Components::default();
        for (weight, mean, variance) in parts {
            components.add(0, Component { weight, mean, variance });
        }
        assert_eq!(components.count, 2);
        let moment = |of: fn(f64, f64) -> f64| -> (f64, f64) {
            let now = components.iter().map(|one| one.weight * of(one.mean, one.variance)).sum();
            (now, parts.iter().map(|(weight, mean, variance)| weight * of(*mean, *variance)).sum())
        };
        for (now, before) in
            [moment(|mean, _| mean), moment(|mean, variance| mean * mean + variance)]
        {
            assert!((now - before).abs() < 1e-12, "{now}, {before} before");
        }
    }
}
