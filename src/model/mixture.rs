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

use super::logistic::{COPIES, Lanes, Level, Levels, Own, Sum, Swapped, moderation, sigmoid};
use super::normal;
use super::propensity::{self, Draws};

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
#[derive(Debug, Clone, Copy)]
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
        let expected = mixture.components().map(|component| {
            let Component { weight, mean, variance } = component;
            weight * sigmoid(mean * moderation(variance))
        });
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

    /// What is stated: a Gaussian per copy and spread.
    fn components(&self) -> impl Iterator<Item = Component> + '_ {
        let copies = (0..COPIES).filter(|copy| self.weights[*copy] > 0.0);
        copies.flat_map(move |copy| {
            let stated = self.levels.stated[copy].iter().filter(|(share, _)| *share > 0.0);
            stated.map(move |(share, level)| {
                let swapped = self.swapped(copy, level);
                Component {
                    weight: self.weights[copy] * share,
                    mean: swapped.mean + self.shared.mean[copy],
                    variance: swapped.variance + self.shared.variance[copy],
                }
            })
        })
    }

    /// Mean of the log-odds, all effects together.
    pub fn log_odds(&self) -> f64 {
        self.components().map(|component| component.weight * component.mean).sum()
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
        let density = self.components().map(|component| {
            let spread = component.variance.max(VARIANCE_MIN).sqrt();
            component.weight * normal::density((t - component.mean) / spread) / spread
        });
        density.sum::<f64>() / (chance * (1.0 - chance))
    }

    /// Central 90 % credible interval of the chance of success.
    pub fn interval(&self) -> [f64; 2] {
        let components: Vec<Component> = self.components().collect();
        [0.05, 0.95].map(|p| sigmoid(log_odds_quantile(&components, p)))
    }

    /// The chance of success lies below with probability `p`, in (0, 1).
    pub fn quantile(&self, p: f64) -> f64 {
        let components: Vec<Component> = self.components().collect();
        sigmoid(log_odds_quantile(&components, p))
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

/// The mixture lies below with probability `p`, in log-odds: Newton's method on its distribution function,
/// inside a bracket.
fn log_odds_quantile(components: &[Component], p: f64) -> f64 {
    let z = normal::quantile(p);
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for component in components {
        let end = component.mean + z * component.variance.sqrt();
        (low, high) = (low.min(end), high.max(end));
    }
    let mut t = 0.5 * (low + high);
    for _ in 0..60 {
        let (mut below, mut density) = (0.0, 0.0);
        for component in components {
            let spread = component.variance.max(VARIANCE_MIN).sqrt();
            let z = (t - component.mean) / spread;
            below += component.weight * normal::below(z);
            density += component.weight * normal::density(z) / spread;
        }
        if below > p {
            high = t;
        } else {
            low = t;
        }
        let newton = t - (below - p) / density;
        let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
        let done = (next - t).abs() < 1e-6;
        t = next;
        if done {
            break;
        }
    }
    t
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
    best.iter_mut().for_each(|best| *best /= total);
    best
}
