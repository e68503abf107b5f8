//! What the strategy `thompson` believes about one agent on one question: a weighted mixture of
//! Gaussians over the log-odds of its success, and how agents are drawn from it.
//!
//! The draw is optimistic (May, Korda, Lee and Leslie, JMLR 13, 2012): never below the mean,
//!
//! ```text
//! draw = sum of w mu + 0.65 sqrt(sum of w (v0 + 0.16 vr)) max(z, 0),   z ~ N(0, 1)
//! ```
//!
//! with `mu` the mean of the agent's own effects, `v0` the variance of its overall effect and `vr`
//! what the others add to it. What all agents share moves none past another and takes no part.

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::logistic::{COPIES, Lanes, Own, Sum, moderation, sigmoid};

/// Copies of less weight take no part.
const WEIGHT_MIN: f64 = 0.001;
/// Standard deviations of a draw per standard deviation of the belief.
const DRAW_SCALE: f64 = 0.65;
/// Share of the variance that task type and context add which counts in a draw.
const REST_SHARE: f64 = 0.16;
/// Upper quantile of 95 % of a standard Gaussian.
const Z_95: f64 = 1.644_853_626_951_472_2;

/// The walk of [`probabilities_first`] begins this many spreads above a centre: 1e-10 of the mass
/// is beyond.
const REACH: f64 = 6.4;
/// Grid step near a centre, in spreads, and away from it, as a share of the distance. With these
/// two the results are within 1e-4 of fine quadrature.
const STEP: f64 = 0.3;
const GROWTH: f64 = 0.15;
/// Smallest spread, so that a density stays finite.
const SPREAD_MIN: f64 = 1e-9;

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

    /// Central 90 % credible interval of the chance of success.
    pub fn interval(&self) -> [f64; 2] {
        [0.05, 0.95].map(|p| sigmoid(self.quantile(p)))
    }

    /// Log-odds below which the chance of success lies with probability `p`, 0.05 or 0.95:
    /// Newton's method on the mixture's distribution function, inside a bracket.
    fn quantile(&self, p: f64) -> f64 {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for copy in (0..COPIES).filter(|copy| self.weights[*copy] > 0.0) {
            let (mean, variance) = self.all(copy);
            let end = mean + Z_95 * variance.sqrt() * (p - 0.5).signum();
            (low, high) = (low.min(end), high.max(end));
        }
        let mut t = 0.5 * (low + high);
        for _ in 0..60 {
            let (mut below, mut density) = (0.0, 0.0);
            for copy in 0..COPIES {
                let (mean, variance) = self.all(copy);
                let spread = variance.sqrt().max(SPREAD_MIN);
                let z = (t - mean) / spread;
                below += self.weights[copy] * normal_below(z);
                density += self.weights[copy] * normal_density(z) / spread;
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

    /// Centre and spread of the draw, in log-odds.
    fn draws(&self) -> (f64, f64) {
        let variance = self.weighted(|copy| {
            let overall = self.overall[copy];
            overall + REST_SHARE * (self.own.variance[copy] - overall)
        });
        let spread = DRAW_SCALE * variance.max(0.0).sqrt();
        (self.weighted(|copy| self.own.mean[copy]), spread.max(SPREAD_MIN))
    }

    /// One draw, in log-odds: what agents are ranked by.
    pub(super) fn draw(&self, rng: &mut (impl Rng + ?Sized)) -> f64 {
        let z: f64 = StandardNormal.sample(rng);
        let (centre, spread) = self.draws();
        centre + spread * z.max(0.0)
    }

    /// The probability that stands for a draw, `0..=1`: what all agents share is added, which
    /// keeps the order.
    pub(super) fn score(&self, draw: f64) -> f64 {
        sigmoid(draw + self.weighted(|copy| self.shared.mean[copy]))
    }
}

fn normal_density(z: f64) -> f64 {
    const SCALE: f64 = 0.398_942_280_401_432_7;
    SCALE * (-0.5 * z * z).exp()
}

/// Probability of a standard Gaussian below `z`, within 1.2e-7 of its value: `erfcc` of Numerical
/// Recipes in C (2nd edition, section 6.2).
fn normal_below(z: f64) -> f64 {
    const SERIES: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let x = z.abs() * std::f64::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * x);
    let sum = SERIES.iter().rev().fold(0.0, |sum, term| sum * t + term);
    let above = 0.5 * t * (sum - x * x).exp();
    if z > 0.0 { 1.0 - above } else { above }
}

/// One agent on the walk of [`probabilities_first`].
struct Contender {
    index: usize,
    centre: f64,
    spread: f64,
    density: f64,
    /// `d density / dt`
    density_slope: f64,
    /// Probability of a draw above `t`.
    above: f64,
    hazard: f64,
    /// Density of "the largest draw is here and this one's".
    flow: f64,
    flow_slope: f64,
    first: f64,
}

/// Trapezoidal rule with end correction (Euler-Maclaurin, DLMF 2.10.1, first term) over a cell of
/// width `h`, from values and slopes at its ends. Never negative, should the cell be too wide.
fn cell(h: f64, left: (f64, f64), right: (f64, f64)) -> f64 {
    (h * (0.5 * (left.0 + right.0) + h / 12.0 * (left.1 - right.1))).max(0.0)
}

/// The probability of each to have the largest of one draw each, equal ones in random order; sums
/// to 1.
///
/// No draw is below its centre, so the largest is at or above the highest centre `M`: the integral
/// over `t > M` of an agent's density times the probabilities of the others to be below, and at
/// `M`, where all may end with `z <= 0`, an even share for those whose centre it is. One grid for
/// all, walked down from where nobody reaches, as fine as the narrowest density near it needs.
/// About 0.5 us per agent.
pub(super) fn probabilities_first(mixtures: &[Mixture]) -> Vec<f64> {
    let draws: Vec<(f64, f64)> = mixtures.iter().map(Mixture::draws).collect();
    let highest = draws.iter().map(|(centre, _)| *centre).fold(f64::NEG_INFINITY, f64::max);
    let mut contenders: Vec<Contender> = draws
        .iter()
        .enumerate()
        .filter(|(_, (centre, spread))| centre + REACH * spread > highest)
        .map(|(index, &(centre, spread))| Contender {
            index,
            centre,
            spread,
            density: 0.0,
            density_slope: 0.0,
            above: 0.0,
            hazard: 0.0,
            flow: 0.0,
            flow_slope: 0.0,
            first: 0.0,
        })
        .collect();
    let mut t =
        contenders.iter().map(|c| c.centre + REACH * c.spread).fold(f64::NEG_INFINITY, f64::max);
    let mut all_below = 1.0;
    while t > highest {
        let allowed = contenders.iter().map(|c| {
            let distance = t - c.centre;
            let past_reach = distance - REACH * c.spread + STEP * c.spread;
            (STEP * c.spread).max(GROWTH * distance).max(past_reach)
        });
        // Rounding may make a step vanish.
        let next = (t - allowed.fold(f64::INFINITY, f64::min)).max(highest);
        let next = if next < t { next } else { highest };
        all_below = walk_to(&mut contenders, next, t - next);
        t = next;
    }
    let at_highest = |c: &&mut Contender| draws[c.index].0 >= highest;
    let tied = contenders.iter_mut().filter(at_highest).count();
    for contender in contenders.iter_mut().filter(at_highest) {
        #[expect(clippy::cast_precision_loss, reason = "there are few agents")]
        let share = all_below / tied as f64;
        contender.first += share;
    }
    let total: f64 = contenders.iter().map(|c| c.first).sum();
    let mut result = vec![0.0; mixtures.len()];
    for contender in contenders {
        result[contender.index] = contender.first / total;
    }
    result
}

/// Advances all contenders over the cell of width `h` whose left end is `t`. Returns the
/// probability that all draws are at most `t`.
fn walk_to(contenders: &mut [Contender], t: f64, h: f64) -> f64 {
    let (mut all_below, mut hazards) = (1.0, 0.0);
    for c in contenders.iter_mut() {
        let before = (c.density, c.density_slope);
        let z = (t - c.centre) / c.spread;
        c.density = normal_density(z) / c.spread;
        c.density_slope = -z / c.spread * c.density;
        c.above += cell(h, (c.density, c.density_slope), before);
        // At least a half is at or below the centre.
        let below = (1.0 - c.above).max(0.5);
        c.hazard = c.density / below;
        hazards += c.hazard;
        all_below *= below;
    }
    for c in contenders {
        let before = (c.flow, c.flow_slope);
        let z = (t - c.centre) / c.spread;
        c.flow = all_below * c.hazard;
        // (f_i prod F_j)' = f_i prod F_j (f_i' / f_i + sum of f_j / F_j), j != i
        c.flow_slope = c.flow * (-z / c.spread + hazards - c.hazard);
        c.first += cell(h, (c.flow, c.flow_slope), before);
    }
    all_below
}
