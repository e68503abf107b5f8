//! What a tenant's agents have in common, learned from them: the prior of an agent's overall effect.
//!
//! # The model
//!
//! Overall effects are drawn from the tenant's own distribution, of unknown mean and spread
//! (a hierarchical normal model: Gelman et al., Bayesian Data Analysis, 3rd ed., section 5.4):
//!
//! ```text
//! A_i ~ N(mu, t)     mu ~ N(m0, s0)     t one of SPREADS, each as likely beforehand
//! ```
//!
//! Effects are learned, and stored, under the *base* prior `A_i ~ N(0, V0)`, which is wide enough for
//! chances from .001 to .999. As everything is Gaussian, the base prior can be taken out of an agent's
//! belief and the tenant's put in at any time ([`Level::swap`]), whatever the tenant's is by then.
//!
//! With `S` and `m` the variance and mean of `A_i` under the base prior, its own outcomes say
//! `l = 1/S - 1/V0` (precision) and `e = m/S` (precision times place). With `z = 1 + l t`:
//!
//! ```text
//! P = 1/s0 + sum l/z      I = m0/s0 + sum e/z      mu_t = I/P, with variance 1/P
//! ln evidence of t = sum (e^2 t/z - ln z)/2 + (I^2/P - ln(s0 P))/2
//! ```
//!
//! The sums are kept up to date as agents learn, and worked out anew now and then, because one copy
//! forgets.
#![expect(clippy::needless_range_loop, reason = "a loop over the copies reads like its equation")]

use std::sync::Arc;

use super::copies::{COPIES, Lanes};
use super::effect::Sum;
use crate::model::settings::Settings;

/// `V0`: the variance of an agent's overall effect under the base prior, whose mean is 0.
pub(super) const BASE: Lanes = [BASE_VARIANCE; COPIES];
const BASE_VARIANCE: f64 = 9.0;
/// How many values the spread may have.
pub(super) const SPREADS: usize = 5;
/// `t`: how much agents may differ, as a variance of log-odds. The widest makes the tails of what is
/// stated right; choosing is better without it.
const SPREAD: [f64; SPREADS] = [0.05, 0.2, 0.8, 3.2, 12.8];
/// Spreads of less probability take no part in what is stated.
const SHARE_MIN: f64 = 0.005;
/// Outcomes of the tenant after which the sums are worked out anew.
pub(super) const RENEWED_EVERY: u64 = 64;
/// Smallest `1 + S d` that is divided by: rounding must not make it 0.
const QUOTIENT_MIN: f64 = 1e-9;

/// The prior of the mean of a tenant's agents: mean and variance in log-odds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct MeanPrior {
    mean: f64,
    variance: f64,
}

impl MeanPrior {
    /// What is believed of a tenant's agents on average before the first outcome: hardly anything unless the
    /// operator gives pseudo-counts.
    pub(super) fn of(settings: &Settings) -> Self {
        let is_given = settings.prior_alpha.is_some() || settings.prior_beta.is_some();
        Self::new(is_given.then(|| settings.prior()))
    }

    /// Of so many pseudo-successes and -failures, both > 0, the log-odds of which have about this
    /// mean and variance; as wide as the base prior with none.
    pub(super) fn new(counts: Option<(f64, f64)>) -> Self {
        match counts {
            Some((a, b)) => Self { mean: (a / b).ln(), variance: 1.0 / a + 1.0 / b },
            None => Self { mean: 0.0, variance: BASE_VARIANCE },
        }
    }
}

/// A part of an agent's log-odds under the base prior, per copy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PartOfSum {
    pub(super) mean: Lanes,
    pub(super) variance: Lanes,
    /// With `A`.
    pub(super) covariance: Lanes,
}

/// Sums over a tenant's agents, for one copy and spread.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Term {
    precision: f64,
    information: f64,
    evidence: f64,
}

impl Term {
    /// As they are saved.
    pub(super) fn numbers(&self) -> [&f64; 3] {
        [&self.precision, &self.information, &self.evidence]
    }

    pub(super) fn of_numbers([precision, information, evidence]: [f64; 3]) -> Self {
        Self { precision, information, evidence }
    }
}

/// The same for every copy and spread.
pub(super) type Terms = [[Term; SPREADS]; COPIES];

/// What is believed about an agent's overall effect under the base prior.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Overall {
    pub(super) mean: Lanes,
    pub(super) variance: Lanes,
}

impl Overall {
    /// Of an agent without outcomes.
    pub(super) const UNKNOWN: Self = Self { mean: [0.0; COPIES], variance: BASE };

    /// `l` and `e` of a copy; `None` where the outcomes say nothing.
    fn said(&self, copy: usize) -> Option<(f64, f64)> {
        let precision = 1.0 / self.variance[copy] - 1.0 / BASE_VARIANCE;
        (precision > 0.0).then(|| (precision, self.mean[copy] / self.variance[copy]))
    }
}

/// The tenant's prior of one copy: `A ~ N(mean, 1/precision + uncertainty)`, where `uncertainty` is that of
/// the mean, which all agents share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Level {
    pub(super) mean: f64,
    /// `1/t`.
    pub(super) precision: f64,
    pub(super) uncertainty: f64,
}

/// A sum of effects, that of `A` among them, and what is believed about `A` alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Swapped {
    /// Mean and variance of the sum.
    pub(super) mean: f64,
    pub(super) variance: f64,
    /// Variance of `A` alone.
    pub(super) overall: f64,
    /// How far the sum moves with the mean of the tenant's agents: its derivative.
    pub(super) load: f64,
}

impl Level {
    /// Takes the base prior of `A` out of the belief in a sum and puts this one in. `overall` are mean
    /// and variance of `A`, and `covariance` that of `A` with the sum, all under the base prior.
    pub(super) fn swap(
        &self,
        mean: f64,
        variance: f64,
        overall: (f64, f64),
        covariance: f64,
    ) -> Swapped {
        let (own_mean, own_variance) = overall;
        let precision = self.precision - 1.0 / BASE_VARIANCE;
        let narrowed = 1.0 / (1.0 + own_variance * precision).max(QUOTIENT_MIN);
        let load = covariance * self.precision * narrowed;
        let own_load = own_variance * self.precision * narrowed;
        let moved = (self.mean * self.precision - precision * own_mean) * narrowed;
        let kept = variance - covariance * covariance * precision * narrowed;
        Swapped {
            mean: mean + covariance * moved,
            // Rounding must not make a variance negative.
            variance: kept.max(0.0) + load * load * self.uncertainty,
            overall: own_variance * narrowed + own_load * own_load * self.uncertainty,
            load,
        }
    }
}

/// What a tenant's agents have in common.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hierarchy {
    pub(super) terms: Terms,
    /// Outcomes the tenant had learned when the sums were last worked out anew.
    pub(super) renewed_at: u64,
    prior: MeanPrior,
    /// Follows from the sums and the prior.
    levels: Arc<Levels>,
}

/// The tenant's prior, for choosing and for what is stated.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Levels {
    /// By copy: what agents are chosen, and outcomes learned, by.
    pub(super) choice: [Level; COPIES],
    /// By copy: the same with the widest spread, for the probability to be best.
    pub(super) comparison: [Level; COPIES],
    /// By copy and spread: its probability, and the tenant's prior given it. Those that hardly count
    /// have 0.
    pub(super) stated: [[(f64, Level); SPREADS]; COPIES],
}

impl Hierarchy {
    pub(super) fn new(prior: MeanPrior) -> Self {
        Self::restore(&[[Term::default(); SPREADS]; COPIES], 0, prior)
    }

    /// From saved sums.
    pub(super) fn restore(terms: &Terms, renewed_at: u64, prior: MeanPrior) -> Self {
        Self { terms: *terms, renewed_at, prior, levels: Arc::new(Levels::of(terms, prior)) }
    }

    pub(super) fn levels(&self) -> &Arc<Levels> {
        &self.levels
    }

    /// The belief in a sum of effects with what the tenant's agents have in common in the place of the
    /// base prior of `A`, of which `covariance` is that with the sum.
    pub(super) fn believed(&self, sum: &Sum, covariance: &Lanes, overall: &Overall) -> Sum {
        let mut believed = Sum::default();
        for copy in 0..COPIES {
            let own = (overall.mean[copy], overall.variance[copy]);
            let (mean, variance) = (sum.mean[copy], sum.variance[copy]);
            let swapped = self.levels.choice[copy].swap(mean, variance, own, covariance[copy]);
            believed.mean[copy] = swapped.mean;
            believed.variance[copy] = swapped.variance;
        }
        believed
    }

    /// An agent's outcomes now say something else.
    pub(super) fn replace(&mut self, before: Option<&Overall>, after: Option<&Overall>) {
        for copy in 0..COPIES {
            let [before, after] = [before, after].map(|overall| overall?.said(copy));
            for (term, spread) in self.terms[copy].iter_mut().zip(SPREAD) {
                let mut ratio = 1.0;
                if let Some((l, e)) = after {
                    let z = 1.0 + l * spread;
                    term.precision += l / z;
                    term.information += e / z;
                    term.evidence += 0.5 * e * e * spread / z;
                    ratio = z;
                }
                if let Some((l, e)) = before {
                    let z = 1.0 + l * spread;
                    term.precision -= l / z;
                    term.information -= e / z;
                    term.evidence -= 0.5 * e * e * spread / z;
                    ratio /= z;
                }
                term.evidence -= 0.5 * ratio.ln();
            }
        }
    }

    /// The sums of these agents, worked out anew.
    pub(super) fn renew(&mut self, agents: impl Iterator<Item = Overall>, now: u64) {
        self.terms = [[Term::default(); SPREADS]; COPIES];
        self.renewed_at = now;
        for overall in agents {
            self.replace(None, Some(&overall));
        }
    }

    /// The mean of the agents has another prior.
    pub(super) fn settle(&mut self, prior: MeanPrior) {
        self.prior = prior;
        self.work_out();
    }

    /// Works out the tenant's prior after the sums have changed.
    pub(super) fn work_out(&mut self) {
        let levels = Levels::of(&self.terms, self.prior);
        match Arc::get_mut(&mut self.levels) {
            Some(mine) => *mine = levels,
            None => self.levels = Arc::new(levels),
        }
    }
}

impl Levels {
    fn of(terms: &Terms, prior: MeanPrior) -> Self {
        let nothing = Level { mean: 0.0, precision: 1.0, uncertainty: 0.0 };
        let mut levels = Self {
            choice: [nothing; COPIES],
            comparison: [nothing; COPIES],
            stated: [[(0.0, nothing); SPREADS]; COPIES],
        };
        for copy in 0..COPIES {
            let stated = &mut levels.stated[copy];
            let mut evidence = [0.0; SPREADS];
            for place in 0..SPREADS {
                let term = &terms[copy][place];
                let precision = 1.0 / prior.variance + term.precision.max(0.0);
                let information = prior.mean / prior.variance + term.information;
                let mean = information / precision;
                evidence[place] = term.evidence + 0.5 * information * mean
                    - 0.5 * (prior.variance * precision).ln();
                let uncertainty = 1.0 / precision;
                stated[place].1 = Level { mean, precision: 1.0 / SPREAD[place], uncertainty };
            }
            let shares = shares(&evidence);
            levels.comparison[copy] = collapsed(stated.iter().map(|(_, level)| level), &shares);
            let kept = shares.map(|share| if share < SHARE_MIN { 0.0 } else { share });
            let total: f64 = kept.iter().sum();
            for (stated, kept) in stated.iter_mut().zip(kept) {
                stated.0 = kept / total;
            }
            let [narrower @ .., _] = evidence;
            let narrower = self::shares(&narrower);
            levels.choice[copy] = collapsed(stated.iter().map(|(_, level)| level), &narrower);
        }
        levels
    }
}

/// The probability of each by its log evidence, relative to the best so that not all can vanish.
fn shares<const COUNT: usize>(evidence: &[f64; COUNT]) -> [f64; COUNT] {
    let best = evidence.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares = evidence.map(|evidence| (evidence - best).exp());
    let total: f64 = shares.iter().sum();
    shares.map(|share| share / total)
}

/// One prior in the place of several: mean, spread (geometric) and uncertainty are averages.
fn collapsed<'l>(levels: impl Iterator<Item = &'l Level>, shares: &[f64]) -> Level {
    let (mut mean, mut ln_precision, mut uncertainty) = (0.0, 0.0, 0.0);
    for (level, share) in levels.zip(shares) {
        mean += share * level.mean;
        ln_precision += share * level.precision.ln();
        uncertainty += share * level.uncertainty;
    }
    Level { mean, precision: ln_precision.exp(), uncertainty }
}
