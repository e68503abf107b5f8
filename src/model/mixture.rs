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

use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::log_odds::{moderation, sigmoid, softplus};
use super::propensity::{self, Draws};
use crate::stats::normal;

/// Copies of less weight take no part.
const WEIGHT_MIN: f64 = 0.001;
/// Weight that is dealt out again, as at first, after every outcome.
const WEIGHT_SHARED: f64 = 0.001;
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

/// How much each of several copies counts, by how well it foretold what came: Bayesian model averaging, with
/// a little weight given back to each copy after every outcome, so that one that was wrong for long can come
/// back (Herbster and Warmuth, Machine Learning 32, 1998: "fixed share").
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Weights {
    /// Sum to 1.
    now: Vec<f64>,
    /// Before any outcome.
    first: Vec<f64>,
}

impl Weights {
    /// As long as nothing is learned: `first` sum to 1.
    pub(super) fn new(first: Vec<f64>) -> Self {
        Self { now: first.clone(), first }
    }

    /// Of all copies.
    pub(super) fn all(&self) -> &[f64] {
        &self.now
    }

    /// Of those copies that take part, which sum to 1; 0 of all others.
    pub(super) fn kept(&self) -> Vec<f64> {
        let kept = |weight: &f64| if *weight < WEIGHT_MIN { 0.0 } else { *weight };
        let mut kept: Vec<f64> = self.now.iter().map(kept).collect();
        let total: f64 = kept.iter().sum();
        for weight in &mut kept {
            *weight /= total;
        }
        kept
    }

    /// Goes on with saved ones. Returns whether there is one of each copy.
    pub(super) fn restore(&mut self, saved: Vec<f64>) -> bool {
        let fit = saved.len() == self.first.len();
        if fit {
            self.now = saved;
        }
        fit
    }

    /// Weighs the copies by how well they foretold `reward`, `0..=1`, with these log-odds. Returns what they
    /// did together, by their weights until then, `0..=1`.
    pub(super) fn weigh(&mut self, log_odds: &[f64], reward: f64) -> f64 {
        let copies = || self.now.iter().zip(log_odds);
        let foretold: f64 = copies().map(|(weight, z)| weight * sigmoid(*z)).sum();
        let evidence = |z: f64| -reward * softplus(-z) - (1.0 - reward) * softplus(z);
        // Relative to the best, so that not all of them can vanish.
        let best = log_odds.iter().map(|z| evidence(*z)).fold(f64::NEG_INFINITY, f64::max);
        let earned: Vec<f64> =
            copies().map(|(weight, z)| weight * (evidence(*z) - best).exp()).collect();
        let total: f64 = earned.iter().sum();
        for ((weight, earned), first) in self.now.iter_mut().zip(earned).zip(&self.first) {
            *weight = (1.0 - WEIGHT_SHARED) * earned / total + WEIGHT_SHARED * first;
        }
        // Weights sum to 1 up to rounding.
        foretold.clamp(0.0, 1.0)
    }
}

/// The belief of copies of a model in the log-odds of an agent's success: its own part, by which agents are
/// ranked, and the part that all agents share.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// What is stated; weights sum to 1.
    stated: Box<[Component]>,
    /// By which agents are compared, copy by copy: the same copies for all agents of a question.
    compared: Box<[Compared]>,
    draws: Draws,
    /// Mean of what all agents share.
    shared: f64,
    expected: f64,
}

/// A Gaussian over log-odds, all effects together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Component {
    pub(super) weight: f64,
    pub(super) mean: f64,
    pub(super) variance: f64,
}

/// What a copy believes about the agent's own effects, given the mean of what agents have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Compared {
    pub(super) mean: f64,
    pub(super) variance: f64,
    /// How far it moves with that mean: its derivative.
    pub(super) load: f64,
    /// Variance of that mean, which is the same for all agents.
    pub(super) uncertainty: f64,
    /// Of the copy.
    pub(super) weight: f64,
}

/// What a copy draws the agent's own effects from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Drawn {
    pub(super) mean: f64,
    pub(super) variance: f64,
    /// Variance of the overall effect alone.
    pub(super) overall: f64,
}

/// A mixture that is put together copy by copy. Copies of weight 0 are left out.
#[derive(Debug, Default)]
pub(super) struct Copies {
    stated: Vec<Component>,
    compared: Vec<Compared>,
    centre: f64,
    overall: f64,
    rest: f64,
    shared: f64,
}

impl Copies {
    /// Room for so many copies, of so many Gaussians each.
    pub(super) fn with_capacity(copies: usize, gaussians: usize) -> Self {
        Self {
            stated: Vec::with_capacity(copies * gaussians),
            compared: Vec::with_capacity(copies),
            ..Self::default()
        }
    }

    /// Adds a copy. `stated` are its Gaussians, all effects together, whose weights sum to its own; `shared` is
    /// the mean of what all agents share.
    pub(super) fn add(
        &mut self,
        stated: impl Iterator<Item = Component>,
        compared: Compared,
        drawn: Drawn,
        shared: f64,
    ) {
        let weight = compared.weight;
        let first = self.stated.len();
        stated.for_each(|component| add_component(&mut self.stated, first, component));
        self.compared.push(compared);
        self.centre += weight * drawn.mean;
        self.overall += weight * drawn.overall;
        self.rest += weight * (drawn.variance - drawn.overall);
        self.shared += weight * shared;
    }

    /// `overall_share` is that of [`overall_share`].
    pub(super) fn mixture(self, overall_share: f64) -> Mixture {
        let Self { stated, compared, centre, overall, rest, shared } = self;
        let draws = Draws {
            centre,
            overall: (overall_share * overall).max(VARIANCE_MIN),
            // The effects may be correlated such that their sum varies less than one of them.
            rest: (REST_SHARE * rest).max(0.0),
        };
        let expected = stated
            .iter()
            .map(|Component { weight, mean, variance }| weight * mean_chance(*mean, *variance));
        // Weights sum to 1 up to rounding.
        let expected = expected.sum::<f64>().clamp(0.0, 1.0);
        let (stated, compared) = (stated.into_boxed_slice(), compared.into_boxed_slice());
        Mixture { stated, compared, draws, shared, expected }
    }
}

impl Mixture {
    /// With further copies. The weights of all together sum to 1.
    pub(super) fn with(self, more: Self) -> Self {
        Self {
            stated: self.stated.into_iter().chain(more.stated).collect(),
            compared: self.compared.into_iter().chain(more.compared).collect(),
            draws: Draws {
                centre: self.draws.centre + more.draws.centre,
                overall: self.draws.overall + more.draws.overall,
                rest: self.draws.rest + more.draws.rest,
            },
            shared: self.shared + more.shared,
            expected: (self.expected + more.expected).clamp(0.0, 1.0),
        }
    }

    /// Mean of the log-odds, all effects together.
    pub fn log_odds(&self) -> f64 {
        self.stated.iter().map(|component| component.weight * component.mean).sum()
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
        let density = self.stated.iter().map(|component| {
            let spread = component.variance.max(VARIANCE_MIN).sqrt();
            component.weight * normal::density((t - component.mean) / spread) / spread
        });
        density.sum::<f64>() / (chance * (1.0 - chance))
    }

    /// Central 90 % credible interval of the chance of success.
    pub fn interval(&self) -> [f64; 2] {
        [0.05, 0.95].map(|p| sigmoid(quantile(&self.stated, p)))
    }

    /// The chance of success lies below with probability `p`, in (0, 1).
    pub fn quantile(&self, p: f64) -> f64 {
        sigmoid(quantile(&self.stated, p))
    }

    /// One draw, in log-odds: what agents are ranked by.
    pub(super) fn draw(&self, luck: Luck, rng: &mut (impl Rng + ?Sized)) -> f64 {
        let z: f64 = StandardNormal.sample(rng);
        self.draws.at(z.max(0.0), luck.0)
    }

    /// Where the scores of draws lie.
    pub(super) fn scores(&self) -> Scores {
        Scores { draws: self.draws, shared: self.shared }
    }

    /// The probability that stands for a draw, `0..=1`: what all agents share is added, which
    /// keeps the order.
    pub(super) fn score(&self, draw: f64) -> f64 {
        sigmoid(draw + self.shared)
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

/// Adds one after those of the same copy, which begin at `first`; to the last of them if it is nearly the
/// same: the moments stay.
fn add_component(components: &mut Vec<Component>, first: usize, one: Component) {
    if let Some(last) = components[first..].last_mut() {
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
    components.push(one);
}

/// The mixture lies below with probability `p`, in log-odds: Newton's method on its distribution
/// function, inside a bracket, from where a Gaussian of the same moments has it.
fn quantile(components: &[Component], p: f64) -> f64 {
    let z = normal::quantile(p);
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    let (mut mean, mut square) = (0.0, 0.0);
    for component in components {
        let end = component.mean + z * component.variance.sqrt();
        (low, high) = (low.min(end), high.max(end));
        mean += component.weight * component.mean;
        square += component.weight * (component.variance + component.mean * component.mean);
    }
    let deviation = (square - mean * mean).max(VARIANCE_MIN).sqrt();
    let mut t = (mean + z * deviation).clamp(low, high);
    for _ in 0..60 {
        let (mut below, mut density) = (0.0, 0.0);
        for component in components {
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
    let copies = one.compared.iter().enumerate();
    for (copy, of_one) in copies.filter(|(_, of_one)| of_one.weight >= COMPARED_WEIGHT_MIN) {
        let deviation = of_one.uncertainty.sqrt();
        let compared = || mixtures.iter().map(|mixture| &mixture.compared[copy]);
        let [least, most] =
            [f64::min, f64::max].map(|of| compared().map(|one| one.load).reduce(of).unwrap_or(0.0));
        let common: &[(f64, f64)] =
            if (most - least) * deviation < COMMON_MIN { &[(0.0, 1.0)] } else { &COMMON };
        for (z, weight) in common {
            let moved = z * deviation;
            gaussians.clear();
            gaussians.extend(
                compared().map(|one| (one.load.mul_add(moved, one.mean), one.variance.sqrt())),
            );
            let highest = propensity::probabilities_highest(&gaussians);
            for (best, highest) in best.iter_mut().zip(highest) {
                *best += of_one.weight * weight * highest;
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
        let components = [(0.5, -1.0, 0.3), (0.2, 3.0, 4.0), (0.3, 0.0, 0.01)]
            .map(|(weight, mean, variance)| Component { weight, mean, variance });
        for p in [0.01, 0.05, 0.5, 0.95, 0.999] {
            let t = quantile(&components, p);
            let below: f64 = components
                .iter()
                .map(|one| one.weight * normal::below((t - one.mean) / one.variance.sqrt()))
                .sum();
            assert!((below - p).abs() < 1e-4, "{p}: {below}");
        }
    }

    /// The copy that foretells best comes to count for all, and another one comes back when it is better.
    #[test]
    fn weights_follow_what_copies_foretell() {
        let mut weights = Weights::new(vec![0.5, 0.3, 0.2]);
        let log_odds = [-2.0, 0.0, 2.0];
        let first = weights.weigh(&log_odds, 1.0);
        let expected = 0.5 * sigmoid(-2.0) + 0.3 * sigmoid(0.0) + 0.2 * sigmoid(2.0);
        assert!((first - expected).abs() < 1e-12, "{first}");
        let highest = |weights: &Weights| {
            let all = weights.all();
            assert!((all.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{all:?}");
            all.iter().position(|weight| *weight > 0.9)
        };
        for _ in 0..200 {
            weights.weigh(&log_odds, 1.0);
        }
        assert_eq!(highest(&weights), Some(2));
        assert!(weights.kept()[0] <= 0.0, "{:?}", weights.all());
        for _ in 0..10 {
            weights.weigh(&log_odds, 0.0);
        }
        assert_eq!(highest(&weights), Some(0));
        assert!(!weights.restore(vec![0.5, 0.5]) && weights.restore(vec![0.5, 0.25, 0.25]));
    }

    /// Nearly equal components become one that has their moments; others stay.
    #[test]
    fn merged_components_keep_the_moments() {
        let parts = [(0.3, 1.0, 0.5), (0.2, 1.1, 0.52), (0.5, 2.0, 0.5)];
        let mut components = Vec::new();
        for (weight, mean, variance) in parts {
            add_component(&mut components, 0, Component { weight, mean, variance });
        }
        assert_eq!(components.len(), 2);
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
