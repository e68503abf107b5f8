//! What would another policy have earned on the logged decisions?
//!
//! Notation: of decision `i` of `n`, `x` is the question, `a` the agent ranked first, `r` the reward of
//! its outcome, `p(b)` the propensity of candidate `b` recorded with it, `pi(b)` the probability that
//! the policy chooses `b`, `w(b) = pi(b) / p(b)`, and `q(b)` the expected success of `b`.
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
//! # All decisions
//!
//! A log says nothing about what was never tried, and little about what was tried far less often than
//! the policy would. What the policy would choose with a weight above [`Support::weight_max`] is *left
//! out*, and so is what it would choose where a [`Reason`] speaks against it. Whatever was left out
//! earned between 0 and 1, so an interval takes the worst case at its lower end and the best case at its
//! upper end (Manski, "Nonparametric bounds on treatment effects", American Economic Review 80, 1990):
//! it holds for *all* decisions. The largest weight is the one with which the interval is expected to be
//! narrowest (as in Crump, Hotz, Imbens and Mitnik, "Dealing with limited overlap in estimation of
//! average treatment effects", Biometrika 96, 2009), and rare choices count only where enough of them
//! were to be expected. It depends on propensities alone, never on what came of the decisions.
//!
//! # Intervals
//!
//! They hold the value in about 95 % of logs, at least in 90 %: by the central limit theorem, with four
//! observations added, two of each extreme, which is Wilson's interval where all weights are 1 (Agresti
//! and Coull, "Approximate is better than 'exact' for interval estimation of binomial proportions", The
//! American Statistician 52, 1998): five successes of five say no more than that. An observation that
//! is added weighs as much as one of the effective sample. Student's t has as many degrees of freedom
//! as these have together, less one. The squares of the weights are taken as they were to be expected,
//! where that is more than what was seen: a heavy decision that was not chosen by chance says nothing
//! about its size.

use crate::outcome::decisions::Candidate;

/// Largest weights that are tried, the smallest first.
const WEIGHTS: [f64; 6] = [2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
/// So many choices of a range of weights must have been to be expected.
const CHOICES_MIN: f64 = 10.0;
/// Observations added at each end.
const ADDED: f64 = 2.0;
/// A decision counts as judged when at least this share of the policy's choices is.
const JUDGED_MIN: f64 = 0.5;
/// Upper quantile of 97.5 % of a standard Gaussian.
const Z_975: f64 = 1.959_963_984_540_054;

/// Why something that the policy would choose can't be judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The agent did not compete.
    Absent,
    /// It was never tried, or far less often than the policy would.
    Improbable,
    /// The policy's model has learned from the outcome.
    InSample,
    /// Nobody made a draw, so that what a draw would have chosen is not known.
    Undrawn,
    /// The outcome is missing.
    Missing,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::Absent, Self::Improbable, Self::InSample, Self::Undrawn, Self::Missing];

    /// The field of the reason in answers.
    pub fn field(self) -> &'static str {
        match self {
            Self::Absent => "not_a_candidate",
            Self::Improbable => "improbable",
            Self::InSample => "in_sample",
            Self::Undrawn => "no_draw",
            Self::Missing => "missing_outcome",
        }
    }

    /// What to say of it: "it ...".
    pub fn words(self) -> &'static str {
        match self {
            Self::Absent => "did not compete",
            Self::Improbable => "was not possible, or tried far less often than it would",
            Self::InSample => "has learned from the outcome (a later since leaves these out)",
            Self::Undrawn => "was asked for without a draw",
            Self::Missing => "chose who reported no outcome",
        }
    }
}

/// A candidate that the policy may choose.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Choice {
    /// `pi(b)`, (0, 1].
    probability: f64,
    /// `p(b)`, `0..=1`.
    propensity: f64,
    /// `q(b)`, `0..=1`.
    expected: f64,
}

impl Choice {
    fn weight(&self) -> f64 {
        self.probability / self.propensity
    }
}

/// One decision, as the policy sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    choices: Vec<Choice>,
    /// The place of the agent ranked first among these; `None` when the policy never chooses it.
    chosen: Option<usize>,
    /// `r`, `0..=1`; `None` when the outcome is missing.
    reward: Option<f64>,
    /// Why none of it can be judged, if so.
    against: Option<Reason>,
}

impl Judged {
    /// A decision that ranked the candidate at place `chosen` first and had this reward, if it is known.
    /// The policy chooses the candidates with these probabilities, which sum to 1.
    pub fn new(
        candidates: &[Candidate],
        probabilities: &[f64],
        chosen: usize,
        reward: Option<f64>,
    ) -> Self {
        let mut judged = Self { choices: Vec::new(), chosen: None, reward, against: None };
        for (place, (candidate, probability)) in candidates.iter().zip(probabilities).enumerate() {
            if *probability > 0.0 {
                if place == chosen {
                    judged.chosen = Some(judged.choices.len());
                }
                judged.choices.push(Choice {
                    probability: *probability,
                    propensity: candidate.propensity,
                    expected: candidate.expected_success,
                });
            }
        }
        judged
    }

    /// A decision that can't be judged at all.
    pub fn against(reason: Reason, reward: Option<f64>) -> Self {
        Self { choices: Vec::new(), chosen: None, reward, against: Some(reason) }
    }

    /// Whether the outcome of the decision is known.
    pub fn has_outcome(&self) -> bool {
        self.reward.is_some()
    }

    /// Those with at most this weight.
    fn judged(&self, weight_max: f64) -> impl Iterator<Item = &Choice> {
        // A propensity of seven digits.
        self.choices.iter().filter(move |choice| choice.weight() <= weight_max * (1.0 + 1e-6))
    }

    fn term(&self, weight_max: f64) -> Term {
        let mut term = Term { reward: self.reward, ..Term::default() };
        for choice in self.judged(weight_max) {
            term.judged += choice.probability;
            term.expected_of_policy += choice.probability * choice.expected;
            term.expected_square += choice.probability * choice.weight();
        }
        let chosen = self.chosen.and_then(|chosen| self.choices.get(chosen));
        if let Some(chosen) = chosen
            && chosen.weight() <= weight_max * (1.0 + 1e-6)
        {
            (term.weight, term.expected) = (chosen.weight(), chosen.expected);
        }
        term
    }
}

/// What one decision adds to the sums.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Term {
    /// `w(a)`; 0 when the policy would not choose `a`, or that was left out.
    weight: f64,
    reward: Option<f64>,
    /// `q(a)`.
    expected: f64,
    /// Sum of `pi(b) q(b)` over what is judged.
    expected_of_policy: f64,
    /// Sum of `pi(b)` over what is judged.
    judged: f64,
    /// What `w(a)^2` is expected to be: the sum of `pi(b) w(b)` over what is judged.
    expected_square: f64,
}

/// A value and its 95 % intervals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Mean reward per decision, of what is judged.
    pub value: f64,
    /// `[low, high]` for all decisions, whatever came of what was left out; within `0..=1` unless the
    /// value itself is outside.
    pub interval: [f64; 2],
    /// Of what is judged alone.
    pub judged_interval: [f64; 2],
}

impl Estimate {
    fn new(value: f64, all: [f64; 2], judged: [f64; 2]) -> Self {
        // No mean of rewards is outside 0..=1.
        let around = |[low, high]: [f64; 2]| [low.max(0.0).min(value), high.min(1.0).max(value)];
        Self { value, interval: around(all), judged_interval: around(judged) }
    }

    /// Widens the intervals until they hold those of another estimate, too; the value stays.
    fn wide_enough_for(self, other: &Self) -> Self {
        let hull = |own: [f64; 2], other: [f64; 2]| [own[0].min(other[0]), own[1].max(other[1])];
        Self {
            interval: hull(self.interval, other.interval),
            judged_interval: hull(self.judged_interval, other.judged_interval),
            ..self
        }
    }
}

/// A mean, where its interval is centred, its variance, and from how many terms it is known.
#[derive(Debug, Clone, Copy)]
struct Moments {
    mean: f64,
    centre: f64,
    variance: f64,
    size: f64,
}

impl Moments {
    /// `scale` times these, and something whose mean and variance are known.
    fn scaled_and(self, scale: f64, (mean, variance): (f64, f64)) -> Self {
        Self {
            mean: scale * self.mean + mean,
            centre: scale * self.centre + mean,
            variance: scale * scale * self.variance + variance,
            size: self.size,
        }
    }

    fn interval(&self) -> [f64; 2] {
        let freedom = self.size + 2.0 * ADDED - 1.0;
        let margin = t_975(freedom) * self.variance.max(0.0).sqrt();
        [self.centre - margin, self.centre + margin]
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
    /// model; its intervals hold those of `dr`.
    pub dm: Estimate,
    /// Doubly robust, self-normalised: `mean(sum of pi(b) q(b)) + sum(w (r - q(a))) / sum(w)` (Dudik et
    /// al., equation 1, with the policy's probabilities in place of its one choice, and the weights
    /// normalised as in Thomas and Brunskill, "Data-efficient off-policy policy evaluation for
    /// reinforcement learning", ICML 2016, section 5). The better `q` is, the less noisy.
    pub dr: Estimate,
}

/// How much of what the policy would choose the log can judge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Support {
    /// The largest weight that is judged.
    pub weight_max: f64,
    /// Decisions whose outcome is known and of which at least half of what the policy would choose is
    /// judged.
    pub judged: u64,
    /// The share of what the policy would choose that was left out, in the order of [`Reason::ALL`]: by so
    /// much are the intervals for all decisions wider.
    pub left_out: [f64; Reason::ALL.len()],
}

impl Support {
    /// How much of what the policy would choose in these decisions can be judged.
    pub fn of(decisions: &[Judged]) -> Self {
        let weight_max = weight_max(decisions);
        let count = count_f64(decisions.len()).max(1.0);
        let terms = || decisions.iter().map(|decision| decision.term(weight_max));
        let judged = terms().map(|term| term.judged).sum::<f64>() / count;
        let weights: f64 = terms().map(|term| term.weight).sum();
        let missing = terms().filter(|term| term.reward.is_none());
        let missing_weights: f64 = missing.map(|term| term.weight).sum();
        let share_of = |reason: Option<Reason>| {
            let so = decisions.iter().filter(|decision| decision.against == reason);
            count_f64(so.count()) / count
        };
        let known = terms().filter(|term| term.reward.is_some());
        Self {
            weight_max,
            judged: known.filter(|term| term.judged >= JUDGED_MIN).count() as u64,
            left_out: Reason::ALL.map(|reason| {
                let share = match reason {
                    Reason::Missing if weights > 0.0 => judged * missing_weights / weights,
                    Reason::Missing => 0.0,
                    Reason::Improbable => share_of(None) - judged,
                    reason => share_of(Some(reason)),
                };
                // Propensities are recorded with seven digits.
                if share < 1e-6 { 0.0 } else { share }
            }),
        }
    }

    /// The share of what the policy would choose that was left out, `0..=1`.
    pub fn left_out_share(&self) -> f64 {
        self.left_out.iter().sum::<f64>().min(1.0)
    }
}

/// The largest weight to judge: the one with which the interval is expected to be narrowest.
fn weight_max(decisions: &[Judged]) -> f64 {
    #[derive(Default, Clone, Copy)]
    struct Range {
        /// Sum of probabilities.
        share: f64,
        /// Expected number of choices.
        choices: f64,
        /// Expected sum of squared weights.
        squares: f64,
    }
    let mut ranges = [Range::default(); WEIGHTS.len()];
    let mut beyond = 0.0;
    for choice in decisions.iter().flat_map(|decision| &decision.choices) {
        let weight = choice.weight();
        match WEIGHTS.iter().position(|most| weight <= most * (1.0 + 1e-6)) {
            Some(place) => {
                ranges[place].share += choice.probability;
                ranges[place].choices += choice.propensity;
                ranges[place].squares += choice.probability * weight;
            }
            None => beyond += choice.probability,
        }
    }
    let count = count_f64(decisions.len());
    let all: f64 = beyond + ranges.iter().map(|range| range.share).sum::<f64>();
    let mut within = Range::default();
    let mut best = (f64::INFINITY, WEIGHTS[0]);
    for (range, most) in ranges.iter().zip(WEIGHTS) {
        let enough = range.choices >= CHOICES_MIN.min(within.choices);
        if range.share > 0.0 && !enough {
            break;
        }
        within.share += range.share;
        within.choices += range.choices;
        within.squares += range.squares;
        // Twice a deviation of at most a half per observation, and half of what is left out.
        let half_width = within.squares.sqrt() / count + (all - within.share) / count / 2.0;
        if within.share > 0.0 && half_width < best.0 {
            best = (half_width, most);
        }
    }
    best.1
}

#[expect(clippy::cast_precision_loss, reason = "decisions are far fewer than 2^53")]
fn count_f64(count: usize) -> f64 {
    count as f64
}

/// The self-normalised mean of `reward - expected`. `squares` is what the squares of the weights are
/// expected to sum to; `terms` are weights, rewards and expected rewards.
fn self_normalised(
    terms: impl Iterator<Item = (f64, f64, f64)> + Clone,
    squares_expected: f64,
) -> Moments {
    let sum = |of: fn((f64, f64, f64)) -> f64| terms.clone().map(of).sum::<f64>();
    let weights = sum(|(weight, ..)| weight);
    let squares = sum(|(weight, ..)| weight * weight);
    let expected = sum(|(weight, _, expected)| weight * expected) / weights;
    let residuals = sum(|(weight, reward, expected)| weight * (reward - expected));
    let inflation = (squares_expected / squares).max(1.0);
    // The weight of one observation of the effective sample.
    let one = inflation * squares / weights;
    let all = weights + 2.0 * ADDED * one;
    let centre = (residuals + ADDED * one * (1.0 - 2.0 * expected)) / all;
    let seen = terms
        .map(|(weight, reward, expected)| (weight * (reward - expected - centre)).powi(2))
        .sum::<f64>();
    let ends = (1.0 - expected - centre).powi(2) + (expected + centre).powi(2);
    let added = ADDED * one * one * ends;
    Moments {
        mean: residuals / weights,
        centre,
        variance: (inflation * seen + added) / (all * all),
        size: weights / one,
    }
}

/// The mean of weighted rewards over `count` decisions.
fn weighted(
    terms: &(impl Iterator<Item = (f64, f64)> + Clone),
    count: f64,
    squares_expected: f64,
) -> Moments {
    let sum = |of: fn((f64, f64)) -> f64| terms.clone().map(of).sum::<f64>();
    let weights = sum(|(weight, _)| weight);
    let squares = sum(|(weight, _)| weight * weight);
    let rewards = sum(|(weight, reward)| weight * reward);
    let inflation = (squares_expected / squares).max(1.0);
    let one = inflation * squares / weights;
    // An observation of the effective sample takes so many decisions.
    let each = squares_expected / count;
    let all = count + 2.0 * ADDED * each;
    let centre = (rewards + ADDED * each) / all;
    let second = (inflation * sum(|(weight, reward)| (weight * reward).powi(2))
        + ADDED * one * one)
        / (inflation * squares + 2.0 * ADDED * one * one);
    Moments {
        mean: rewards / count,
        centre,
        variance: (each * second - centre * centre) / all,
        size: count / each,
    }
}

/// The reward, with a missing one counted as the worst.
fn worst(term: &Term) -> f64 {
    term.reward.unwrap_or(0.0)
}

/// The reward, with a missing one counted as the best.
fn best(term: &Term) -> f64 {
    term.reward.unwrap_or(1.0)
}

/// Estimates from decisions; `None` when there are fewer than two whose outcome is known, or the log
/// never did what the policy does.
pub fn estimate(decisions: &[Judged], support: &Support) -> Option<Estimates> {
    let terms: Vec<Term> =
        decisions.iter().map(|decision| decision.term(support.weight_max)).collect();
    let known = || terms.iter().filter(|term| term.reward.is_some());
    let sum = |of: fn(&Term) -> f64| terms.iter().map(of).sum::<f64>();
    let count = count_f64(terms.len());
    let known_count = count_f64(known().count());
    let known_weights: f64 = known().map(|term| term.weight).sum();
    if known_count < 2.0 || known_weights <= 0.0 {
        return None;
    }
    let squares = sum(|term| term.expected_square);
    let judged = sum(|term| term.judged) / count;
    let known_judged = known().map(|term| term.judged).sum::<f64>() / known_count;
    let known_squares: f64 = known().map(|term| term.expected_square).sum();

    // Worst and best case for all decisions; without what is missing for what is judged alone.
    let left_out = 1.0 - judged;
    let for_all = |low: Moments, high: Moments| [low.interval()[0], high.interval()[1] + left_out];

    let ips = {
        let all = |reward: fn(&Term) -> f64| {
            weighted(&terms.iter().map(|term| (term.weight, reward(term))), count, squares)
        };
        let of_known = known().map(|term| (term.weight, worst(term)));
        let alone = weighted(&of_known, known_count, known_squares);
        let alone = alone.scaled_and(1.0 / known_judged, (0.0, 0.0));
        Estimate::new(alone.mean, for_all(all(worst), all(best)), alone.interval())
    };
    let normalised = |with_model: bool| {
        let expected = move |term: &Term| if with_model { term.expected } else { 0.0 };
        let base = |term: &Term| if with_model { term.expected_of_policy } else { 0.0 };
        // Of what is judged: how much that is is known.
        let (sum, all) = (terms.iter().map(base).sum::<f64>(), judged * count);
        let mean = sum / all;
        let spread: f64 = terms.iter().map(|term| (base(term) - mean * term.judged).powi(2)).sum();
        let base = (mean, spread / (all * all));
        let at = |reward: fn(&Term) -> f64| {
            let all = terms.iter().map(|term| (term.weight, reward(term), expected(term)));
            self_normalised(all, squares).scaled_and(1.0, base).scaled_and(judged, (0.0, 0.0))
        };
        let of_known = known().map(|term| (term.weight, worst(term), expected(term)));
        let alone = self_normalised(of_known, known_squares).scaled_and(1.0, base);
        Estimate::new(alone.mean, for_all(at(worst), at(best)), alone.interval())
    };
    let (snips, dr) = (normalised(false), normalised(true));
    let logged = {
        let all = |reward: fn(&Term) -> f64| {
            self_normalised(terms.iter().map(|term| (1.0, reward(term), 0.0)), count)
        };
        let alone = self_normalised(known().map(|term| (1.0, worst(term), 0.0)), known_count);
        let all = [all(worst).interval()[0], all(best).interval()[1]];
        Estimate::new(alone.mean, all, alone.interval())
    };
    let expected = sum(|term| term.expected_of_policy) / count / judged;
    let none =
        Estimate { value: expected, interval: [expected; 2], judged_interval: [expected; 2] };
    let weight_squares: f64 = known().map(|term| term.weight.powi(2)).sum();
    Some(Estimates {
        logged,
        effective_sample_size: (known_weights.powi(2) / weight_squares).min(known_count),
        ips,
        snips,
        dm: none.wide_enough_for(&dr),
        dr,
    })
}

#[cfg(test)]
mod tests;
