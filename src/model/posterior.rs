//! Beta posteriors for Thompson sampling: moments, quantiles, draws, and the
//! probability that each of several posteriors yields the largest draw.
//!
//! Everything is computed in logit space, `t = ln(x / (1 - x))`. There the
//! density of Beta(a, b) is
//!
//! ```text
//! g(t) = x^a (1 - x)^b / B(a, b),    d/dt ln g = a (1 - x) - b x
//! ```
//!
//! which is smooth, log-concave and unimodal for *every* a, b > 0: its mode is
//! at `ln(a / b)`, its spread there is about `sqrt(1/a + 1/b)`. The infinite
//! ends of U-shaped densities become plain exponential tails, and values far
//! closer to 0 or 1 than a float can hold stay distinguishable.

use rand::Rng;
use rand_distr::{Distribution, Exp1, Gamma};

/// Parameters are brought into this range (keeping their ratio where possible)
/// before any numerical work, so that no finite input can overflow. Beyond
/// it, a posterior is treated like one at the limit.
const SMALLEST: f64 = 1e-6;
const LARGEST: f64 = 1e13;

/// Tail level of [`probabilities_best`]: a tail is cut where the density has
/// fallen to `e^-TAIL` of its peak. For a log-concave density that tail holds
/// less than `e^-TAIL / (1 - e^-TAIL)` = 1.6e-8 of the mass.
const TAIL: f64 = 18.0;
/// Grid step near a mode, in units of the spread. With these two the results
/// are within 5e-5 of adaptive quadrature; the error falls with the 4th power.
const STEP: f64 = 0.3;
/// Grid step away from a mode, as a share of the distance to it.
const GROWTH: f64 = 0.15;
/// The walk ends where the maximum lies below with less than this probability.
const REST: f64 = 1e-8;

/// Both parameters at least this large: the tail integral is nearly Gaussian
/// and one quadrature panel beats the continued fraction.
const NEARLY_GAUSSIAN: f64 = 400.0;

/// Positive half of the 20-point Gauss-Legendre rule (node, weight);
/// Abramowitz & Stegun, table 25.4.
const GAUSS_LEGENDRE: [(f64, f64); 10] = [
    (0.076_526_521_133_497_34, 0.152_753_387_130_725_85),
    (0.227_785_851_141_645_08, 0.149_172_986_472_603_75),
    (0.373_706_088_715_419_55, 0.142_096_109_318_382_05),
    (0.510_867_001_950_827_1, 0.131_688_638_449_176_63),
    (0.636_053_680_726_515, 0.118_194_531_961_518_42),
    (0.746_331_906_460_150_8, 0.101_930_119_817_240_44),
    (0.839_116_971_822_218_8, 0.083_276_741_576_704_75),
    (0.912_234_428_251_326, 0.062_672_048_334_109_06),
    (0.963_971_927_277_913_8, 0.040_601_429_800_386_94),
    (0.993_128_599_185_094_9, 0.017_614_007_139_152_12),
];

/// Beta(alpha, beta), both finite and > 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Posterior {
    /// Pseudo-count of successes.
    pub alpha: f64,
    /// Pseudo-count of failures.
    pub beta: f64,
}

impl Posterior {
    /// `alpha / (alpha + beta)`.
    #[must_use]
    pub fn mean(&self) -> f64 {
        // Written with the ratio, because the sum may overflow.
        1.0 / (1.0 + self.beta / self.alpha)
    }

    /// `alpha beta / ((alpha + beta)^2 (alpha + beta + 1))`.
    #[must_use]
    pub fn variance(&self) -> f64 {
        let complement = 1.0 / (1.0 + self.alpha / self.beta);
        self.mean() * complement / (self.alpha + self.beta + 1.0)
    }

    /// Probability of a value of at most `x`: the regularised incomplete beta
    /// function `I_x(alpha, beta)`, DLMF 8.17.2.
    #[must_use]
    pub fn cdf(&self, x: f64) -> f64 {
        if x >= 1.0 {
            1.0
        } else if x > 0.0 {
            Logit::new(self).ln_tails(x.ln() - (-x).ln_1p()).0.exp()
        } else {
            0.0
        }
    }

    /// The density at `x`; 0 outside of (0, 1).
    #[must_use]
    pub fn density(&self, x: f64) -> f64 {
        if !(x > 0.0 && x < 1.0) {
            return 0.0;
        }
        let logit = Logit::new(self);
        let deviance = logit.deviance(x.ln() - (-x).ln_1p() - logit.mode);
        (logit.ln_peak - deviance).exp() / (x * (1.0 - x))
    }

    /// The value below which a draw falls with probability `p`, for `p` in
    /// (0, 1); 0 and 1 beyond.
    #[must_use]
    pub fn quantile(&self, p: f64) -> f64 {
        if p >= 1.0 {
            1.0
        } else if p > 0.0 {
            Odds::at(Logit::new(self).quantile(p)).x
        } else {
            0.0
        }
    }

    /// Equal-tailed 90 % credible interval.
    #[must_use]
    pub fn interval(&self) -> [f64; 2] {
        let logit = Logit::new(self);
        [0.05, 0.95].map(|p| Odds::at(logit.quantile(p)).x)
    }

    /// One sample in [0, 1], as the ratio `X / (X + Y)` of gamma variates.
    ///
    /// Parameters below one are drawn in log space by Gamma(a) =
    /// Gamma(a + 1) U^(1/a) (Marsaglia & Tsang 2000, ACM TOMS 26(3), section
    /// 6), because the variates themselves underflow.
    pub fn draw(&self, rng: &mut (impl Rng + ?Sized)) -> f64 {
        let (a, b) = self.bounded();
        if a >= 1.0 && b >= 1.0 {
            let (x, y) = (gamma(a, rng), gamma(b, rng));
            // Both zero has probability ~0, but would be NaN.
            if x + y > 0.0 { x / (x + y) } else { self.mean() }
        } else {
            Odds::at(ln_gamma_variate(a, rng) - ln_gamma_variate(b, rng)).x
        }
    }

    /// The parameters within `SMALLEST..=LARGEST`.
    fn bounded(&self) -> (f64, f64) {
        let larger = self.alpha.max(self.beta);
        let scale = larger.clamp(SMALLEST, LARGEST) / larger;
        #[expect(clippy::manual_clamp, reason = "max and min, unlike clamp, replace a NaN")]
        let bound = |value: f64| (value * scale).max(SMALLEST).min(LARGEST);
        (bound(self.alpha), bound(self.beta))
    }
}

fn gamma(shape: f64, rng: &mut (impl Rng + ?Sized)) -> f64 {
    // Only a shape <= 0 is refused, which `bounded` excludes.
    Gamma::new(shape, 1.0).map_or(shape, |gamma| gamma.sample(rng))
}

fn ln_gamma_variate(shape: f64, rng: &mut (impl Rng + ?Sized)) -> f64 {
    if shape < 1.0 {
        // ln U of a uniform U is a negated exponential variate.
        let exponential: f64 = Exp1.sample(rng);
        gamma(shape + 1.0, rng).ln() - exponential / shape
    } else {
        gamma(shape, rng).ln()
    }
}

/// A point `t` of logit space as `x` and `y = 1 - x`, both to full precision.
#[derive(Clone, Copy)]
struct Odds {
    x: f64,
    y: f64,
    /// `exp(-|t|)`
    ratio: f64,
}

impl Odds {
    fn at(t: f64) -> Self {
        let ratio = (-t.abs()).exp();
        let (large, small) = (1.0 / (1.0 + ratio), ratio / (1.0 + ratio));
        if t > 0.0 {
            Self { x: large, y: small, ratio }
        } else {
            Self { x: small, y: large, ratio }
        }
    }
}

/// The density of a posterior in logit space.
#[derive(Clone, Copy)]
struct Logit {
    a: f64,
    b: f64,
    /// Mode, `ln(a / b)`.
    mode: f64,
    /// `ln g` at the mode.
    ln_peak: f64,
    /// `sqrt(1/a + 1/b)`, the spread of the Gaussian with the same curvature.
    spread: f64,
}

impl Logit {
    fn new(posterior: &Posterior) -> Self {
        let (a, b) = posterior.bounded();
        // The powers in 1/B(a, b) by Stirling's formula cancel against those of
        // the density at the mode, so large parameters lose no precision.
        let curvature = a / (a + b) * b;
        let stirling = stirling_rest(a + b) - stirling_rest(a) - stirling_rest(b);
        let ln_peak = 0.5 * (curvature / std::f64::consts::TAU).ln() + stirling;
        Self { a, b, mode: (a / b).ln(), ln_peak, spread: curvature.sqrt().recip() }
    }

    /// `ln g(mode) - ln g(mode + s)`: convex, zero at `s = 0`.
    fn deviance(&self, s: f64) -> f64 {
        // Mirrored such that no two large terms cancel.
        let (small, large, u) =
            if self.a <= self.b { (self.a, self.b, s) } else { (self.b, self.a, -s) };
        let sum = small + large;
        let share = small / sum;
        if u < 700.0 {
            sum * (share * u.exp_m1()).ln_1p() - small * u
        } else {
            // The exponential would overflow: expand around the other end.
            sum * (share + large / sum * (-u).exp()).ln() + large * u
        }
    }

    /// `d/dt ln g`.
    fn slope(&self, odds: Odds) -> f64 {
        self.a * odds.y - self.b * odds.x
    }

    /// A point beyond which the density is below `e^-level` of its peak, on
    /// the left (`side` = -1) or right (`side` = 1) of the mode.
    fn edge(&self, level: f64, side: f64) -> f64 {
        let (near, far) = if side > 0.0 { (self.a, self.b) } else { (self.b, self.a) };
        // The limits of the solution for far -> inf and near -> inf, added.
        let mut s = ((2.0 * level / near).sqrt() + level / near).ln_1p()
            + (2.0 * level / far).sqrt()
            + level / far;
        // A Newton step on a convex function never ends inside the root, so
        // that every iterate is a valid edge.
        for _ in 0..3 {
            let slope = -side * self.slope(Odds::at(self.mode + side * s));
            s -= (self.deviance(side * s) - level) / slope;
        }
        self.mode + side * s
    }

    /// `ln P(T <= t)` and `ln P(T > t)`.
    fn ln_tails(&self, t: f64) -> (f64, f64) {
        let s = t - self.mode;
        let deviance = self.deviance(s);
        let odds = Odds::at(t);
        let (below, ln_share) = if self.a.min(self.b) >= NEARLY_GAUSSIAN {
            (s < 0.0, self.quadrature(s, deviance).ln())
        } else if odds.x * (self.a + self.b + 2.0) < self.a + 1.0 {
            (true, -continued_fraction(self.a, self.b, odds.x, odds.y).ln())
        } else {
            (false, -continued_fraction(self.b, self.a, odds.y, odds.x).ln())
        };
        // At most -1e-300: a tail that rounds to 1 must not make the other -inf.
        let tail = (self.ln_peak - deviance + ln_share).min(-1e-300);
        let other = (-tail.exp_m1()).ln();
        if below { (tail, other) } else { (other, tail) }
    }

    /// Integral of `g / g(mode + s)` from `mode + s` outwards, by one
    /// Gauss-Legendre panel as in Numerical Recipes (3rd ed., section 6.4,
    /// `betaiapprox`), but in logit space.
    fn quadrature(&self, s: f64, deviance: f64) -> f64 {
        // Up to where a Gaussian has fallen by another e^-38.
        let z = s.abs() / self.spread;
        let half = 0.5 * self.spread * ((z * z + 76.0).sqrt() - z);
        let outwards = if s < 0.0 { -half } else { half };
        let value = |node: f64| (deviance - self.deviance(s + outwards * (1.0 + node))).exp();
        let sum: f64 =
            GAUSS_LEGENDRE.iter().map(|(node, w)| w * (value(*node) + value(-node))).sum();
        half * sum
    }

    /// Logit of the `p`-quantile, by Halley's method on the logarithm of the
    /// smaller tail: a concave function, on which the iteration is stable.
    fn quantile(&self, p: f64) -> f64 {
        let lower = p <= 0.5;
        let (side, target) = if lower { (1.0, p.ln()) } else { (-1.0, (-p).ln_1p()) };
        let mut t = self.quantile_guess(p);
        for _ in 0..100 {
            let tails = self.ln_tails(t);
            let tail = if lower { tails.0 } else { tails.1 };
            let ln_density = self.ln_peak - self.deviance(t - self.mode);
            let hazard = side * (ln_density - tail).exp().max(1e-100);
            let newton = (tail - target) / hazard;
            let bend = 0.5 * newton * (self.slope(Odds::at(t)) - hazard);
            let step = newton / (1.0 - bend.clamp(-1.0, 0.5));
            t -= step;
            // Third order: the error left is around the cube of this.
            if step.abs() * (hazard.abs() + self.spread.recip().max(1.0)) <= 2e-3 {
                break;
            }
        }
        t
    }

    /// Start for `quantile`: Abramowitz & Stegun 26.5.22 (with 26.2.23), which
    /// is an expansion of the logit; for small parameters the leading power of
    /// the nearer end, as in Numerical Recipes (3rd ed., section 6.4,
    /// `invbetai`).
    #[expect(clippy::many_single_char_names, reason = "the names of the source")]
    fn quantile_guess(&self, p: f64) -> f64 {
        let (a, b) = (self.a, self.b);
        if a >= 1.0 && b >= 1.0 {
            let root = (-2.0 * p.min(1.0 - p).ln()).sqrt();
            let above = root
                - (2.515_517 + root * (0.802_853 + root * 0.010_328))
                    / (1.0 + root * (1.432_788 + root * (0.189_269 + root * 0.001_308)));
            // The upper normal quantile of p.
            let normal = if p < 0.5 { above } else { -above };
            let (share_a, share_b) = ((2.0 * a - 1.0).recip(), (2.0 * b - 1.0).recip());
            let h = 2.0 / (share_a + share_b);
            let lambda = (normal * normal - 3.0) / 6.0;
            let w = normal * (h + lambda).max(0.0).sqrt() / h
                - (share_b - share_a) * (lambda + 5.0 / 6.0 - 2.0 / (3.0 * h));
            self.mode - 2.0 * w
        } else {
            let left = -(b / a).ln_1p() * a - a.ln();
            let right = -(a / b).ln_1p() * b - b.ln();
            let (left, right) = (left.exp(), right.exp());
            let total = left + right;
            if p * total < left {
                (a * total * p).ln() / a
            } else {
                -(b * total * (1.0 - p)).ln() / b
            }
        }
    }
}

/// `ln Gamma(z) - ((z - 1/2) ln z - z + ln(2 pi) / 2)`, DLMF 5.11.1.
fn stirling_rest(z: f64) -> f64 {
    if z < 10.0 {
        // Gamma(z + 10) = Gamma(z) z (z + 1) ... (z + 9), DLMF 5.5.1.
        let shifted = z + 10.0;
        let product: f64 = (0..10).map(|k| z + f64::from(k)).product();
        stirling_rest(shifted) + (shifted - 0.5) * shifted.ln()
            - 10.0
            - (z - 0.5) * z.ln()
            - product.ln()
    } else {
        let q = (z * z).recip();
        (1.0 / 12.0 - q * (1.0 / 360.0 - q * (1.0 / 1260.0 - q * (1.0 / 1680.0 - q / 1188.0)))) / z
    }
}

/// `x^a y^b / (B(a, b) I_x(a, b))` for `x` not far above the mean: the even
/// part of the continued fraction DLMF 8.17.22, in the form of `BFRAC` of
/// Didonato & Morris (1992), ACM TOMS 18(3), 360-373, by Lentz's method.
///
/// Takes around `sqrt(min(a, b))` + 20 terms; `y` must be `1 - x`, precisely.
#[expect(clippy::many_single_char_names, reason = "the names of the sources")]
fn continued_fraction(a: f64, b: f64, x: f64, y: f64) -> f64 {
    let floor = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let lambda = a * y - b * x + 1.0;
    let mut value = floor(a * lambda / (a + 1.0));
    let (mut c, mut d) = (value, 0.0);
    let mut n = 0.0;
    while n < 10_000.0 {
        n += 1.0;
        let low = a + 2.0 * n - 1.0;
        let common = n * (b - n) * x / low;
        let numerator = (a + n - 1.0) * (a + b + n - 1.0) * x / low * common;
        let denominator = n + common + (a + n) * (lambda + n * (1.0 + y)) / (low + 2.0);
        d = floor(denominator + numerator * d).recip();
        c = floor(denominator + numerator / c);
        value *= c * d;
        if (c * d - 1.0).abs() <= 4.0 * f64::EPSILON {
            break;
        }
    }
    value
}

/// One posterior on the walk of [`probabilities_best`].
struct Contender {
    index: usize,
    logit: Logit,
    /// `ln(1 / B(a, b))`
    ln_norm: f64,
    /// Smallest grid step, near the mode.
    step: f64,
    /// Distance from the mode to the right edge.
    reach: f64,
    density: f64,
    /// `d density / dt`
    density_slope: f64,
    /// `P(T > t)`
    survival: f64,
    /// `density / P(T <= t)`
    hazard: f64,
    /// Density of "the maximum is here and comes from this contender".
    flow: f64,
    /// `d flow / dt`
    flow_slope: f64,
    /// Integral of `flow` to the right.
    best: f64,
}

impl Contender {
    fn new(index: usize, logit: Logit, right: f64) -> Self {
        let odds = Odds::at(logit.mode);
        let ln_larger = -odds.ratio.ln_1p();
        let (ln_x, ln_y) = ln_pair(logit.mode, ln_larger);
        Self {
            index,
            logit,
            ln_norm: logit.ln_peak - (logit.a * ln_x + logit.b * ln_y),
            // The logit itself bends on a scale of 1, however wide the density.
            step: STEP * logit.spread.min(1.5),
            reach: right - logit.mode,
            density: 0.0,
            density_slope: 0.0,
            survival: 0.0,
            hazard: 0.0,
            flow: 0.0,
            flow_slope: 0.0,
            best: 0.0,
        }
    }

    /// How far left of `t` the next grid point may be: a share of the spread
    /// or of the distance to the mode, or just past the right edge.
    fn allowed_step(&self, t: f64) -> f64 {
        let s = t - self.logit.mode;
        self.step.max(GROWTH * s.abs()).max(s - self.reach + self.step)
    }
}

/// `(ln x, ln(1 - x))` at logit `t`, given the larger of the two.
fn ln_pair(t: f64, ln_larger: f64) -> (f64, f64) {
    if t > 0.0 { (ln_larger, ln_larger - t) } else { (ln_larger + t, ln_larger) }
}

/// Trapezoidal rule with end correction (Euler-Maclaurin, DLMF 2.10.1, first
/// term) over a cell of width `h`, from values and slopes at its left and
/// right end: exact for cubics. Never negative, should the cell be too wide.
fn cell(h: f64, left: (f64, f64), right: (f64, f64)) -> f64 {
    (h * (0.5 * (left.0 + right.0) + h / 12.0 * (left.1 - right.1))).max(0.0)
}

/// Probability that each posterior's independent draw is the largest of all:
/// `P_i = integral of f_i(x) prod_{j != i} F_j(x) dx`.
///
/// All integrals run over one grid in logit space, walked from the right end
/// to where the maximum cannot lie any more. Each contender limits the grid
/// step around its own mode, so the grid is fine where any of them is narrow.
/// `F_j = 1 - S_j` comes from the same walk. Posteriors whose right edge is
/// left of another's left edge cannot be best, up to 2e-8, and are left out;
/// the remaining intervals overlap pairwise, which keeps the grid short.
///
/// The cost is around 1 us per posterior.
#[must_use]
pub fn probabilities_best(posteriors: &[Posterior]) -> Vec<f64> {
    if posteriors.len() < 2 {
        return vec![1.0; posteriors.len()];
    }
    let logits: Vec<Logit> = posteriors.iter().map(Logit::new).collect();
    let left = logits.iter().map(|logit| logit.edge(TAIL, -1.0)).fold(f64::NEG_INFINITY, f64::max);
    let mut right = f64::NEG_INFINITY;
    let mut contenders = Vec::with_capacity(logits.len());
    for (index, logit) in logits.into_iter().enumerate() {
        let edge = logit.edge(TAIL, 1.0);
        if edge > left {
            right = right.max(edge);
            contenders.push(Contender::new(index, logit, edge));
        }
    }

    let mut t = right;
    let mut all_below = 1.0;
    while t > left && all_below > REST {
        let h = contenders.iter().map(|c| c.allowed_step(t)).fold(f64::INFINITY, f64::min);
        t -= h;
        all_below = walk_to(&mut contenders, t, h);
    }

    let mut result = vec![0.0; posteriors.len()];
    let total: f64 = contenders.iter().map(|c| c.best).sum();
    for contender in contenders {
        result[contender.index] = contender.best / total;
    }
    result
}

/// Advances all contenders over the cell of width `h` whose left end is `t`.
/// Returns the probability that all draws are below `t`.
fn walk_to(contenders: &mut [Contender], t: f64, h: f64) -> f64 {
    let odds = Odds::at(t);
    let (ln_x, ln_y) = ln_pair(t, -odds.ratio.ln_1p());
    let mut all_below = 1.0;
    let mut hazards = 0.0;
    for c in contenders.iter_mut() {
        let before = (c.density, c.density_slope);
        c.density = (c.logit.a * ln_x + c.logit.b * ln_y + c.ln_norm).exp();
        c.density_slope = c.density * c.logit.slope(odds);
        c.survival += cell(h, (c.density, c.density_slope), before);
        // Where this is not positive, the walk ends.
        let below = (1.0 - c.survival).max(0.1 * REST);
        c.hazard = c.density / below;
        hazards += c.hazard;
        all_below *= below;
    }
    for c in contenders {
        let before = (c.flow, c.flow_slope);
        c.flow = all_below * c.hazard;
        // (g_i prod F_j)' = g_i prod F_j (g_i' / g_i + sum of g_j / F_j)
        c.flow_slope = c.flow * (c.logit.slope(odds) + hazards - c.hazard);
        c.best += cell(h, (c.flow, c.flow_slope), before);
    }
    all_below
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    fn beta(alpha: f64, beta: f64) -> Posterior {
        Posterior { alpha, beta }
    }

    /// Log-uniform parameters over the range of use.
    fn usual() -> impl Strategy<Value = Posterior> {
        (0.05_f64.ln()..1e9_f64.ln(), 0.05_f64.ln()..1e9_f64.ln())
            .prop_map(|(a, b)| beta(a.exp(), b.exp()))
    }

    /// Log-uniform parameters over (nearly) all positive floats.
    fn any_positive() -> impl Strategy<Value = Posterior> {
        (-740.0..709.0_f64, -740.0..709.0_f64).prop_map(|(a, b)| beta(a.exp(), b.exp()))
    }

    fn ln_gamma(z: f64) -> f64 {
        stirling_rest(z) + (z - 0.5) * z.ln() - z + 0.5 * std::f64::consts::TAU.ln()
    }

    fn ln_beta(a: f64, b: f64) -> f64 {
        ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
    }

    /// `P(first > second)` for an integer alpha of `first`: the finite sum of
    /// E. Miller, "Formulas for Bayesian A/B Testing", equation 6.
    fn first_wins(first: Posterior, second: Posterior) -> f64 {
        let mut sum = 0.0;
        let mut i = 0.0;
        while i < first.alpha {
            sum += (ln_beta(second.alpha + i, second.beta + first.beta)
                - (first.beta + i).ln()
                - ln_beta(1.0 + i, first.beta)
                - ln_beta(second.alpha, second.beta))
            .exp();
            i += 1.0;
        }
        sum
    }

    fn assert_close(actual: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(actual.len(), expected.len());
        for (a, e) in actual.iter().zip(expected) {
            assert!((a - e).abs() <= tolerance, "{actual:?} instead of {expected:?}");
        }
    }

    /// (alpha, beta, x, cdf): 40-digit quadrature of the density.
    const CDF: &[(f64, f64, f64, f64)] = &[
        (1.0, 1.0, 0.3, 0.3),
        (2.0, 5.0, 0.25, 0.466_064_453_125),
        (0.5, 0.5, 0.1, 0.204_832_764_699_133_46),
        (0.05, 0.05, 0.5, 0.5),
        (0.05, 400.0, 1e-6, 0.694_594_106_430_765_4),
        (0.5, 400.0, 0.002, 0.794_182_026_073_067_9),
        (400.0, 0.5, 0.9995, 0.527_166_702_561_470_7),
        (30.0, 70.0, 0.25, 0.135_814_904_283_427_44),
        (150.0, 120.0, 0.6, 0.930_124_788_240_454_5),
        (5e3, 2e4, 0.203, 0.881_912_200_131_517_5),
        (5e6, 3e6, 0.6251, 0.720_456_210_469_543_4),
        (1e9, 1e9, 0.50001, 0.814_453_315_231_583),
        (1e9, 0.5, 0.999_999_999, 0.157_299_212_868_417_72),
        (1e6, 3.0, 0.999_998, 0.676_675_333_514_289),
        (2.0, 1e9, 1e-9, 0.264_241_118_024_994_8),
        (90.0, 1e9, 1e-7, 0.853_654_038_257_391_4),
        (250.0, 1e9, 2.4e-7, 0.267_651_325_212_543_4),
        (0.001, 0.001, 0.2, 0.499_307_917_875_319_35),
        (1e12, 2e12, 0.333_333_5, 0.729_854_340_831_667_4),
        (99.0, 99.0, 0.45, 0.079_434_852_447_205_74),
        (120.0, 1e5, 0.0015, 0.995_124_684_780_451_2),
        (60.0, 60.0, 0.5, 0.5),
        (7.5, 1e4, 0.001, 0.828_699_698_513_163_8),
    ];

    /// (alpha, beta, p, quantile): Boost's inverse incomplete beta function.
    const QUANTILE: &[(f64, f64, f64, f64)] = &[
        (1.0, 1.0, 0.05, 0.05),
        (2.0, 5.0, 0.05, 0.062_849_891_708_354_38),
        (2.0, 5.0, 0.95, 0.581_803_409_252_025_9),
        (0.5, 0.5, 0.05, 0.006_155_829_702_431_136_5),
        (0.05, 400.0, 0.95, 0.000_665_399_487_513_591),
        (0.5, 400.0, 0.05, 4.918_235_847_971_852e-6),
        (0.5, 400.0, 0.95, 0.004_793_299_696_368_147),
        (30.0, 70.0, 0.95, 0.377_271_450_461_599_1),
        (5e6, 3e6, 0.05, 0.624_718_443_676_522_6),
        (5e6, 3e6, 0.95, 0.625_281_520_791_319_8),
        (3.0, 1e6, 0.05, 8.176_902_951_647_604e-7),
        (1e9, 1e8, 0.95, 0.909_105_165_998_914_6),
        (0.05, 0.05, 0.3, 3.386_199_757_902_803e-5),
    ];

    #[test]
    fn cdf_matches_references() {
        for &(a, b, x, expected) in CDF {
            let tolerance = if a > 1e8 { 1e-10 } else { 1e-13 };
            let actual = beta(a, b).cdf(x);
            assert!((actual - expected).abs() < tolerance, "cdf {a} {b} {x}: {actual}");
        }
        let beyond = [-1.0, 0.0, 1.0, 2.0].map(|x| beta(2.0, 3.0).cdf(x));
        assert_close(&beyond, &[0.0, 0.0, 1.0, 1.0], 0.0);
    }

    #[test]
    fn quantile_matches_references() {
        for &(a, b, p, expected) in QUANTILE {
            let actual = beta(a, b).quantile(p);
            assert!((actual / expected - 1.0).abs() < 1e-9, "quantile {a} {b} {p}: {actual}");
        }
        assert_close(&[0.0, 1.0].map(|p| beta(2.0, 3.0).quantile(p)), &[0.0, 1.0], 0.0);
    }

    #[test]
    fn moments_and_interval() {
        let posterior = beta(3.0, 5.0);
        assert_close(
            &[posterior.mean(), posterior.variance()],
            &[3.0 / 8.0, 15.0 / (64.0 * 9.0)],
            1e-15,
        );
        assert_close(&beta(1.0, 1.0).interval(), &[0.05, 0.95], 1e-12);
    }

    #[test]
    fn best_of_none_or_one() {
        assert!(probabilities_best(&[]).is_empty());
        assert_close(&probabilities_best(&[beta(1e-3, 1e12)]), &[1.0], 0.0);
    }

    #[test]
    fn equal_posteriors_share_equally() {
        for (a, b) in
            [(1.0, 1.0), (0.05, 0.05), (0.05, 400.0), (5e6, 3e6), (1e9, 0.05), (1e12, 1e-3)]
        {
            for (n, share) in [(2, 0.5), (10, 0.1), (1_000, 0.001)] {
                let shares = probabilities_best(&vec![beta(a, b); n]);
                assert_close(&shares, &vec![share; n], 1e-12);
            }
        }
    }

    #[test]
    fn powers_of_uniforms() {
        // Beta(a, 1) has the cdf x^a, hence P_i = a_i / sum of a_j exactly.
        let mut alphas: Vec<f64> =
            vec![0.05, 0.3, 1.0, 1.0, 2.5, 40.0, 41.0, 3e3, 1e5, 7e6, 1e9, 1.2e9];
        while alphas.len() > 1 {
            let total: f64 = alphas.iter().sum();
            let posteriors: Vec<_> = alphas.iter().map(|&a| beta(a, 1.0)).collect();
            let expected: Vec<_> = alphas.iter().map(|a| a / total).collect();
            assert_close(&probabilities_best(&posteriors), &expected, 1e-4);
            alphas.pop();
        }
    }

    #[test]
    fn mixed_scales() {
        // P(U > X) = 1 - E[X] for a uniform U; the third is out of the race.
        let actual = probabilities_best(&[beta(1.0, 1.0), beta(5e6, 3e6), beta(0.5, 400.0)]);
        assert_close(&actual, &[0.375, 0.625, 0.0], 1e-4);
        // Two close to each other, far below the spread of the third.
        let (low, high) = (beta(5e6, 3e6), beta(5.001e6, 3e6));
        let actual = probabilities_best(&[low, beta(1.0, 1.0), high]);
        // Normal limit: means differ by 4.687e-5, sigma of the difference is
        // 2.420e-4, Phi(0.1937) = 0.5768, correct to 1e-3 at this skewness.
        assert_close(&actual, &[0.625 * 0.4232, 0.375, 0.625 * 0.5768], 1e-3);
    }

    #[test]
    fn best_matches_simulation() {
        let groups: [&[Posterior]; 4] = [
            &[beta(1.0, 1.0), beta(3.0, 2.0), beta(80.0, 40.0), beta(900.0, 500.0)],
            &[beta(0.05, 0.05), beta(0.5, 400.0), beta(0.3, 2.0), beta(2.0, 9.0), beta(0.1, 0.1)],
            &[beta(5e6, 3e6), beta(5.003e6, 3e6), beta(5.0, 3.0), beta(5e3, 3e3)],
            &[beta(2.0, 1e6), beta(5.0, 3e6), beta(0.05, 1e5), beta(200.0, 1e8)],
        ];
        let rounds = 40_000;
        let mut rng = StdRng::seed_from_u64(1);
        for group in groups {
            let mut wins = vec![0.0; group.len()];
            for _ in 0..rounds {
                let draws: Vec<f64> = group.iter().map(|p| p.draw(&mut rng)).collect();
                let best = (0..draws.len()).max_by(|&i, &j| draws[i].total_cmp(&draws[j]));
                wins[best.expect("groups are not empty")] += 1.0 / f64::from(rounds);
            }
            for (p, share) in probabilities_best(group).into_iter().zip(wins) {
                // Binomial: five standard deviations of the share of wins.
                let bound = 5.0 * (p * (1.0 - p) / f64::from(rounds)).sqrt() + 1e-4;
                assert!((p - share).abs() < bound, "{p} vs. simulated {share} in {group:?}");
            }
        }
    }

    #[test]
    fn a_thousand_posteriors() {
        // Beta(a, 1) again, exact at any number of posteriors.
        let alphas: Vec<f64> = (0..1_000).map(|i| 1.0 + f64::from(i) * 0.5).collect();
        let total: f64 = alphas.iter().sum();
        let posteriors: Vec<_> = alphas.iter().map(|&a| beta(a, 1.0)).collect();
        let actual = probabilities_best(&posteriors);
        for (p, a) in actual.iter().zip(&alphas) {
            assert!((p * total / a - 1.0).abs() < 1e-3);
        }
    }

    #[test]
    fn draws_have_the_right_moments() {
        let rounds = 100_000;
        let n = f64::from(rounds);
        let mut rng = StdRng::seed_from_u64(2);
        for (a, b) in
            [(1.0, 1.0), (3.0, 5.0), (0.05, 0.05), (0.5, 40.0), (40.0, 0.5), (5e6, 3e6), (1e9, 2.0)]
        {
            let posterior = beta(a, b);
            let (mean, variance) = (posterior.mean(), posterior.variance());
            let (mut first, mut second) = (0.0, 0.0);
            for _ in 0..rounds {
                let deviation = posterior.draw(&mut rng) - mean;
                first += deviation / n;
                second += deviation * deviation / n;
            }
            // Five standard errors: variance / n of the mean, and (fourth
            // central moment - variance^2) / n = variance^2 (excess + 2) / n
            // of the mean squared deviation.
            let sum = a + b;
            let excess = 6.0 * ((a - b).powi(2) * (sum + 1.0) - a * b * (sum + 2.0))
                / (a * b * (sum + 2.0) * (sum + 3.0));
            assert!(first.abs() < 5.0 * (variance / n).sqrt(), "mean of {posterior:?}");
            let bound = 5.0 * variance * ((excess + 2.0) / n).sqrt();
            assert!((second - variance).abs() < bound, "variance of {posterior:?}");
        }
    }

    proptest! {
        #[test]
        fn round_trip_in_logit_space(posterior in usual(), p in 1e-9..1.0_f64) {
            let logit = Logit::new(&posterior);
            let (below, above) = logit.ln_tails(logit.quantile(p));
            prop_assert!((below.exp() - p).abs() < 1e-8);
            prop_assert!((above.exp() - (1.0 - p)).abs() < 1e-8);
        }

        #[test]
        fn round_trip(posterior in usual(), p in 1e-3..0.999_f64) {
            // A mean below 1/2 and not too small a beta: no rounding of x to 1.
            let posterior = beta(posterior.alpha.min(posterior.beta), posterior.beta.max(1.0));
            let x = posterior.quantile(p);
            // The rounding of x shifts the probability by up to density * eps * x.
            prop_assert!(x < f64::MIN_POSITIVE || (posterior.cdf(x) - p).abs() < 1e-8);
        }

        #[test]
        fn mirrored(posterior in usual(), p in 1e-3..0.999_f64) {
            let mirror = beta(posterior.beta, posterior.alpha);
            let t = Logit::new(&posterior).quantile(p);
            let u = Logit::new(&mirror).quantile(1.0 - p);
            prop_assert!((t + u).abs() <= 1e-7 * Logit::new(&posterior).spread.max(1e-6));
        }

        #[test]
        fn edges_are_outside(posterior in usual()) {
            let logit = Logit::new(&posterior);
            for side in [-1.0, 1.0] {
                let level = logit.deviance(logit.edge(TAIL, side) - logit.mode);
                prop_assert!(level > TAIL - 1e-6 && level < 4.0 * TAIL, "{level}");
            }
        }

        #[test]
        fn duels_match_the_finite_sum(
            a in 1..150_u32, b in 0.05..150.0_f64, c in 0.05..150.0_f64, d in 0.05..150.0_f64,
        ) {
            let (first, second) = (beta(f64::from(a), b), beta(c, d));
            let actual = probabilities_best(&[first, second]);
            prop_assert!((actual[0] - first_wins(first, second)).abs() < 1e-4);
        }

        #[test]
        fn distribution_over_posteriors(
            posteriors in prop::collection::vec(usual(), 2..30), shift in 0..30_usize,
        ) {
            let actual = probabilities_best(&posteriors);
            prop_assert!(actual.iter().all(|p| (0.0..=1.0).contains(p)));
            prop_assert!((actual.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            let shift = shift % posteriors.len();
            let mut rotated = posteriors.clone();
            rotated.rotate_left(shift);
            let mut back = probabilities_best(&rotated);
            back.rotate_right(shift);
            for (p, q) in actual.iter().zip(&back) {
                prop_assert!((p - q).abs() < 1e-9);
            }
        }

        #[test]
        fn finite_for_all_positive_parameters(
            posteriors in prop::collection::vec(any_positive(), 1..8),
            p in prop_oneof![Just(f64::MIN_POSITIVE), Just(1.0 - 1e-16), 0.0..1.0_f64],
            seed in any::<u64>(),
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let unit = 0.0..=1.0;
            for posterior in &posteriors {
                prop_assert!(unit.contains(&posterior.mean()));
                prop_assert!(unit.contains(&posterior.variance()));
                prop_assert!(unit.contains(&posterior.cdf(p)));
                prop_assert!(unit.contains(&posterior.quantile(p)));
                prop_assert!(unit.contains(&posterior.draw(&mut rng)));
                let [low, high] = posterior.interval();
                prop_assert!(0.0 <= low && low <= high && high <= 1.0);
            }
            let best = probabilities_best(&posteriors);
            prop_assert!(best.iter().all(|p| unit.contains(p)));
            prop_assert!((best.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        }
    }
}
