//! What would another policy have earned on the logged decisions?
//!
//! Notation: of decision `i` of `n` that count, `x` is the question, `a` the agent ranked first, `r`
//! the reward of its outcome, `p(a)` the propensity recorded with it, `pi(a)` the probability that
//! the policy chooses `a`, `w = pi(a) / p(a)`, and `q(b)` the expected success of candidate `b`.
//!
//! # The reward model
//!
//! `q` is the expected success recorded with the decision: what the model said *then*. It has not
//! seen the outcome it is compared with, nor any later one, so that the terms of the doubly robust
//! sum are a martingale difference sequence although the logging policy learned from its own log;
//! cross-fitting over random folds would not give that, because later choices depend on earlier
//! rewards. The price: the direct method says what was believed along the way, early ignorance
//! included. Its own interval would know nothing of that bias, so it is widened to hold the doubly
//! robust one: as far as the log contradicts the model.
//!
//! # Intervals
//!
//! They hold the value in 95 % of logs, by the central limit theorem, with Student's t for as many
//! degrees of freedom as the effective sample size has (less one): a few heavy decisions say little.
//! A policy that has learned from the very outcomes it is evaluated on chooses, of agents that are
//! about equal, the one that had luck: its values are too high by a little, which no interval shows.
//!
//! # Support
//!
//! A log says nothing about what was never tried. An agent is *possible* in a decision when its
//! propensity was at least [`PROPENSITY_MIN`]; a decision in which the policy would mostly choose
//! others is left out, and no weight exceeds 100 (trimming: Crump, Hotz, Imbens and Mitnik, "Dealing
//! with limited overlap in estimation of average treatment effects", Biometrika 96, 2009). Which
//! decisions are left out depends on question and propensities alone, never on what came of them.

use crate::decisions::Candidate;

/// Smallest propensity with which an agent counts as possible.
pub const PROPENSITY_MIN: f64 = 0.01;
/// Largest probability with which the policy may choose agents that were not possible.
const IMPOSSIBLE_MAX: f64 = 0.01;
/// Upper quantile of 97.5 % of a standard Gaussian.
const Z_975: f64 = 1.959_963_984_540_054;

/// One decision, weighed by the policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weighed {
    /// `w`, from 0 to a little over 100.
    pub weight: f64,
    /// `r`, `0..=1`.
    pub reward: f64,
    /// `q(a)`, `0..=1`.
    pub expected: f64,
    /// Sum over candidates `b` of `pi(b) q(b)`, `0..=1`.
    pub expected_of_policy: f64,
}

/// Weighs a decision that chose the candidate at place `chosen` and had this reward. The policy
/// chooses the candidates with these probabilities. `None` when what it would choose was not
/// possible then.
pub fn weigh(
    candidates: &[Candidate],
    probabilities: &[f64],
    chosen: usize,
    reward: f64,
) -> Option<Weighed> {
    let is_possible = |candidate: &Candidate| candidate.propensity >= PROPENSITY_MIN;
    let pairs = || candidates.iter().zip(probabilities);
    let possible: f64 =
        pairs().filter(|(candidate, _)| is_possible(candidate)).map(|(_, pi)| pi).sum();
    if possible < 1.0 - IMPOSSIBLE_MAX {
        return None;
    }
    // The little that was not possible goes to what was.
    let pi = |candidate: &Candidate, probability: f64| {
        if is_possible(candidate) { probability / possible } else { 0.0 }
    };
    let (candidate, probability) = (candidates.get(chosen)?, probabilities.get(chosen)?);
    let weight = pi(candidate, *probability) / candidate.propensity.max(PROPENSITY_MIN);
    let expected_of_policy =
        pairs().map(|(other, probability)| pi(other, *probability) * other.expected_success).sum();
    Some(Weighed { weight, reward, expected: candidate.expected_success, expected_of_policy })
}

/// A value and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Mean reward per decision.
    pub value: f64,
    /// `[low, high]`, within `0..=1` unless the value itself is outside.
    pub interval: [f64; 2],
}

impl Estimate {
    /// With the variance of the value, known from about `size` independent terms.
    fn new(value: f64, variance: f64, size: f64) -> Self {
        let margin = t_975(size - 1.0) * variance.max(0.0).sqrt();
        // No mean of rewards is outside 0..=1.
        let (low, high) = ((value - margin).max(0.0), (value + margin).min(1.0));
        Self { value, interval: [low.min(value), high.max(value)] }
    }

    /// The mean of terms, of which about `size` count.
    #[expect(clippy::cast_precision_loss, reason = "decisions are far fewer than 2^53")]
    fn mean(terms: impl Iterator<Item = f64> + Clone, size: f64) -> Self {
        let count = terms.clone().count() as f64;
        let mean = terms.clone().sum::<f64>() / count;
        let squares: f64 = terms.map(|term| (term - mean).powi(2)).sum();
        Self::new(mean, squares / (count - 1.0) / count, size)
    }

    /// The same value, with an interval that holds another one's, too.
    fn wide_enough_for(self, other: &Self) -> Self {
        let [low, high] = self.interval;
        Self { interval: [low.min(other.interval[0]), high.max(other.interval[1])], ..self }
    }
}

/// Upper quantile of 97.5 % of Student's t, from 1 degree of freedom on: the expansion around the
/// Gaussian one (Abramowitz and Stegun, 26.7.5). Within 0.8 % from 2 degrees on.
fn t_975(freedom: f64) -> f64 {
    let x = Z_975;
    let terms = [
        (x.powi(3) + x) / 4.0,
        (5.0 * x.powi(5) + 16.0 * x.powi(3) + 3.0 * x) / 96.0,
        (3.0 * x.powi(7) + 19.0 * x.powi(5) + 17.0 * x.powi(3) - 15.0 * x) / 384.0,
        (79.0 * x.powi(9) + 776.0 * x.powi(7) + 1_482.0 * x.powi(5)
            - 1_920.0 * x.powi(3)
            - 945.0 * x)
            / 92_160.0,
    ];
    let inverse = 1.0 / freedom.max(1.0);
    // x + inverse (terms[0] + inverse (terms[1] + ...))
    x + terms.iter().rev().fold(0.0, |sum, term| inverse * (term + sum))
}

/// What the policy would have earned per decision, in four ways.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimates {
    /// What was earned on the same decisions.
    pub logged: Estimate,
    /// `(sum w)^2 / sum w^2` (Kish, "Survey Sampling", 1965): as many decisions of the policy itself
    /// would tell about as much.
    pub effective_sample_size: f64,
    /// Inverse propensity scores: `mean(w r)` (Dudik, Langford and Li, "Doubly robust policy
    /// evaluation and learning", ICML 2011, section 2). Without bias, and noisy.
    pub ips: Estimate,
    /// Self-normalised: `sum(w r) / sum(w)` (Swaminathan and Joachims, "The self-normalized
    /// estimator for counterfactual learning", NIPS 2015). Its variance by the delta method is
    /// `sum(w^2 (r - value)^2) / (sum w)^2` (Owen, "Monte Carlo theory, methods and examples",
    /// chapter 9).
    pub snips: Estimate,
    /// Direct method: `mean(sum of pi(b) q(b))` (Dudik et al., section 2). As good as the reward
    /// model; its interval holds that of `dr`.
    pub dm: Estimate,
    /// Doubly robust: `mean(sum of pi(b) q(b) + w (r - q(a)))` (Dudik et al., equation 1, with the
    /// policy's probabilities in place of its one choice). Without bias when the propensities are
    /// right, and less noisy than `ips` the better `q` is.
    pub dr: Estimate,
}

/// Estimates from weighed decisions; `None` when there are fewer than two, or the log never did what
/// the policy does.
#[expect(clippy::cast_precision_loss, reason = "decisions are far fewer than 2^53")]
pub fn estimate(weighed: &[Weighed]) -> Option<Estimates> {
    let sum = |of: fn(&Weighed) -> f64| weighed.iter().map(of).sum::<f64>();
    let weights = sum(|one| one.weight);
    if weighed.len() < 2 || weights <= 0.0 {
        return None;
    }
    let squares = sum(|one| one.weight.powi(2));
    let value = sum(|one| one.weight * one.reward) / weights;
    let residuals: f64 =
        weighed.iter().map(|one| (one.weight * (one.reward - value)).powi(2)).sum();
    let (count, size) = (weighed.len() as f64, weights.powi(2) / squares);
    let mean = |of: fn(&Weighed) -> f64, size| Estimate::mean(weighed.iter().map(of), size);
    let dr = mean(|one| one.expected_of_policy + one.weight * (one.reward - one.expected), size);
    Some(Estimates {
        logged: mean(|one| one.reward, count),
        effective_sample_size: size,
        ips: mean(|one| one.weight * one.reward, size),
        snips: Estimate::new(value, residuals / weights.powi(2), size),
        dm: mean(|one| one.expected_of_policy, count).wide_enough_for(&dr),
        dr,
    })
}

#[cfg(test)]
mod tests;
