//! What the strategy `thompson` believes about one agent on one question: a weighted mixture of
//! Gaussians over the log-odds of its success, and how agents are drawn from it.
//!
//! The draw is optimistic (May, Korda, Lee and Leslie, JMLR 13, 2012), never below the mean:
//!
//! ```text
//! draw = sum of w mu + sqrt(0.33 sum of w v0 max(za, 0)^2 + 0.5 sum of w vr max(zc, 0)^2)
//! ```
//!
//! with `mu` the mean of the agent's own effects, `v0` the variance of its overall effect and `vr`
//! what the others add to it. `za ~ N(0, 1)` is each agent's own; `zc ~ N(0, 1)` is one for the
//! decision, shared by all agents: with it all of them are tried in what is little known, or none.
//! What all agents share moves none past another and takes no part.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::logistic::{COPIES, Lanes, Own, Sum, moderation, sigmoid};
use super::normal;

/// Copies of less weight take no part.
const WEIGHT_MIN: f64 = 0.001;
/// Share of the variance of an agent's overall effect that counts in a draw.
const OVERALL_SHARE: f64 = 0.33;
/// The same of what task type and context add.
const REST_SHARE: f64 = 0.5;

/// [`probabilities_first`] looks as far as `z` of this: 3e-7 of the mass is beyond.
const REACH: f64 = 5.0;
/// Its first grid step, as a share of the narrowest spread, and how steps grow with the distance.
/// With these two and [`SHARED_DRAWS`] the results are within 0.005 of a million draws.
const FIRST_STEP: f64 = 0.1;
const GROWTH: f64 = 0.3;
/// Smallest variance of a draw.
const VARIANCE_MIN: f64 = 1e-18;
/// (`max(zc, 0)`, its weight): 0 half of the time; the other half by the 6-point Gauss-Legendre
/// rule in the probability of `zc` (Abramowitz and Stegun, table 25.4).
pub(super) const SHARED_DRAWS: [(f64, f64); 7] = [
    (0.0, 0.5),
    (0.042_331_095_211, 0.042_831_123_095),
    (0.213_926_091_36, 0.090_190_393_262),
    (0.496_829_070_831, 0.116_978_483_643),
    (0.876_624_905_562, 0.116_978_483_643),
    (1.374_149_396_915, 0.090_190_393_262),
    (2.122_864_083_771, 0.042_831_123_095),
];

/// The belief of the four copies in the log-odds of an agent's success: its own part, by which
/// agents are ranked, and the part that all agents share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixture {
    /// Sum to 1.
    weights: Lanes,
    own: Sum,
    /// Variance of the agent's overall effect alone, a part of `own.variance`.
    overall: Lanes,
    shared: Sum,
}

impl Mixture {
    pub(super) fn new(weights: &Lanes, own: &Own, shared: &Sum) -> Self {
        let kept = weights.map(|weight| if weight < WEIGHT_MIN { 0.0 } else { weight });
        let total: f64 = kept.iter().sum();
        Self {
            weights: kept.map(|weight| weight / total),
            own: own.sum,
            overall: own.overall,
            shared: *shared,
        }
    }

    fn weighted(&self, of: impl Fn(usize) -> f64) -> f64 {
        (0..COPIES).map(|copy| self.weights[copy] * of(copy)).sum()
    }

    /// Mean and variance of the log-odds in a copy, all effects together.
    fn all(&self, copy: usize) -> (f64, f64) {
        (
            self.own.mean[copy] + self.shared.mean[copy],
            self.own.variance[copy] + self.shared.variance[copy],
        )
    }

    /// Mean of the log-odds, all effects together.
    pub fn log_odds(&self) -> f64 {
        self.weighted(|copy| self.all(copy).0)
    }

    /// Expected success, `0..=1`.
    pub fn expected(&self) -> f64 {
        let expected = self.weighted(|copy| {
            let (mean, variance) = self.all(copy);
            sigmoid(mean * moderation(variance))
        });
        // Weights sum to 1 up to rounding.
        expected.clamp(0.0, 1.0)
    }

    /// Density of the chance of success; 0 outside of (0, 1).
    pub fn density(&self, chance: f64) -> f64 {
        if !(chance > 0.0 && chance < 1.0) {
            return 0.0;
        }
        let t = chance.ln() - (-chance).ln_1p();
        let density = self.weighted(|copy| {
            let (mean, variance) = self.all(copy);
            let spread = variance.max(VARIANCE_MIN).sqrt();
            normal::density((t - mean) / spread) / spread
        });
        density / (chance * (1.0 - chance))
    }

    /// Central 90 % credible interval of the chance of success.
    pub fn interval(&self) -> [f64; 2] {
        [0.05, 0.95].map(|p| self.quantile(p))
    }

    /// The chance of success lies below with probability `p`, in (0, 1).
    pub fn quantile(&self, p: f64) -> f64 {
        sigmoid(self.log_odds_quantile(p))
    }

    /// The same in log-odds: Newton's method on the mixture's distribution function, inside a bracket.
    fn log_odds_quantile(&self, p: f64) -> f64 {
        let z = normal::quantile(p);
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for copy in (0..COPIES).filter(|copy| self.weights[*copy] > 0.0) {
            let (mean, variance) = self.all(copy);
            let end = mean + z * variance.sqrt();
            (low, high) = (low.min(end), high.max(end));
        }
        let mut t = 0.5 * (low + high);
        for _ in 0..60 {
            let (mut below, mut density) = (0.0, 0.0);
            for copy in 0..COPIES {
                let (mean, variance) = self.all(copy);
                let spread = variance.max(VARIANCE_MIN).sqrt();
                let z = (t - mean) / spread;
                below += self.weights[copy] * normal::below(z);
                density += self.weights[copy] * normal::density(z) / spread;
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

    fn draws(&self) -> Draws {
        let overall = self.weighted(|copy| self.overall[copy]);
        let rest = self.weighted(|copy| self.own.variance[copy] - self.overall[copy]);
        Draws {
            centre: self.weighted(|copy| self.own.mean[copy]),
            overall: (OVERALL_SHARE * overall).max(VARIANCE_MIN),
            // The effects may be correlated such that their sum varies less than one of them.
            rest: (REST_SHARE * rest).max(0.0),
        }
    }

    /// One draw, in log-odds: what agents are ranked by.
    pub(super) fn draw(&self, luck: Luck, rng: &mut (impl Rng + ?Sized)) -> f64 {
        let z: f64 = StandardNormal.sample(rng);
        self.draws().at(z.max(0.0), luck.0)
    }

    /// Where the scores of draws lie.
    pub(super) fn scores(&self) -> Scores {
        Scores { draws: self.draws(), shared: self.weighted(|copy| self.shared.mean[copy]) }
    }

    /// The probability that stands for a draw, `0..=1`: what all agents share is added, which
    /// keeps the order.
    pub(super) fn score(&self, draw: f64) -> f64 {
        sigmoid(draw + self.weighted(|copy| self.shared.mean[copy]))
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

/// Where an agent's draws lie.
#[derive(Debug, Clone, Copy)]
struct Draws {
    centre: f64,
    /// Variance that the agent's own `z` multiplies, > 0.
    overall: f64,
    /// Variance that the shared `z` multiplies.
    rest: f64,
}

impl Draws {
    /// The draw of these `z`, both >= 0.
    fn at(&self, own: f64, shared: f64) -> f64 {
        self.centre + (self.overall * own * own + self.rest * shared * shared).sqrt()
    }

    /// Probability of a draw of at most `t`, given the shared `z`.
    fn below(&self, t: f64, shared: f64) -> f64 {
        let distance = t - self.centre;
        let square = distance * distance - self.rest * shared * shared;
        if distance < 0.0 || square < 0.0 {
            0.0
        } else {
            normal::below((square / self.overall).sqrt())
        }
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

/// The probability of each to have the largest draw, equal ones in random order; sums to 1.
///
/// Given the shared `z`, draws are independent, and none is below its lowest, `Draws::at(0, z)`,
/// which half of them are. So the largest is at or above the highest of the lowest, `M`: an even
/// share of the probability that nobody is above `M` goes to those whose lowest it is, and the rest
/// is the integral over `t > M` of `product of F_j dF_i`, as a Stieltjes sum by the trapezoidal
/// rule. About 2 us per agent.
pub(super) fn probabilities_first(mixtures: &[Mixture]) -> Vec<f64> {
    let draws: Vec<Draws> = mixtures.iter().map(Mixture::draws).collect();
    let mut result = vec![0.0; mixtures.len()];
    for (shared, weight) in SHARED_DRAWS {
        add_probabilities_given(&draws, shared, weight, &mut result);
    }
    let total: f64 = result.iter().sum();
    result.iter().map(|first| first / total).collect()
}

/// One agent on the walk of [`add_probabilities_given`].
struct Contender {
    index: usize,
    /// Probability of a draw of at most `t`, > 0.
    below: f64,
    /// The same at the last `t`.
    before: f64,
    first: f64,
}

fn add_probabilities_given(draws: &[Draws], shared: f64, weight: f64, result: &mut [f64]) {
    let lowest = |draws: &Draws| draws.at(0.0, shared);
    let highest = draws.iter().map(lowest).fold(f64::NEG_INFINITY, f64::max);
    let (mut end, mut narrowest) = (highest, f64::INFINITY);
    let mut contenders = Vec::new();
    for (index, draws) in draws.iter().enumerate() {
        let reach = draws.at(REACH, shared);
        if reach > highest {
            end = end.max(reach);
            narrowest = narrowest.min(draws.at(1.0, shared) - lowest(draws));
            let below = draws.below(highest, shared).max(0.5);
            contenders.push(Contender { index, below, before: below, first: 0.0 });
        }
    }
    let mut all_below: f64 = contenders.iter().map(|c| c.below).product();
    let is_tied = |c: &&mut Contender| lowest(&draws[c.index]) >= highest;
    let tied = contenders.iter_mut().filter(is_tied).count();
    for contender in contenders.iter_mut().filter(is_tied) {
        #[expect(clippy::cast_precision_loss, reason = "there are few agents")]
        let share = all_below / tied as f64;
        contender.first = share;
    }
    // Rounding must not make a step vanish.
    let smallest = (FIRST_STEP * narrowest).max(1e-12 * (1.0 + end.abs()));
    let mut t = highest;
    while t < end {
        t += smallest.max(GROWTH * (t - highest));
        let all_before = std::mem::replace(&mut all_below, 1.0);
        for c in &mut contenders {
            c.before = c.below;
            c.below = draws[c.index].below(t, shared).max(c.before);
            all_below *= c.below;
        }
        for c in &mut contenders {
            let others = 0.5 * (all_before / c.before + all_below / c.below);
            c.first += (c.below - c.before) * others;
        }
    }
    let total: f64 = contenders.iter().map(|c| c.first).sum();
    if total > 0.0 {
        for contender in contenders {
            result[contender.index] += weight * contender.first / total;
        }
    }
}
