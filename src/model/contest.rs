//! Choosing by more than success: objectives, limits, and who is left when money is short.
//!
//! # The score
//!
//! Each part of a score lies in `0..=1`, more is better, and grows with what it is about:
//!
//! ```text
//! success   the chance of success
//! quality   the mean quality score
//! latency   s / (s + mean latency)     s: the tenant's median latency, or the one that was given
//! cost      s / (s + mean cost)        s: the tenant's median cost, or the one that was given
//! ```
//!
//! so an agent as fast, or as cheap, as is usual for the tenant has 0.5, whatever the unit. The score is
//! their mean, weighted by the objective. Thompson sampling draws every part from what is believed of it.
//! A part of which no agent of the tenant has shown anything has no say.
//!
//! # Limits
//!
//! An agent meets a limit when it does so with the probability `confidence`. With fewer than
//! [`EVIDENCE_MIN`] values of what is limited on the question's task type that can't be judged: the limit is
//! *unknown*, and [`OnUnknown`] says what follows.

use std::sync::{Arc, LazyLock};

use rand::{Rng, RngExt};
use rand_distr::{Distribution, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::belief::{Belief, Standing};
use super::mixture::Luck;
use super::performance::AgentPerformanceModel;
use super::propensity::{curve_breaks, probabilities_of_highest_score, shared_draws};
use super::question::{Parts, Question};
use super::ranking::{Recommendation, best_expected, propensities, rank};
use super::score::{Part, Score};
use super::values::{Measure, Predicted, Value};
use crate::stats::normal;

/// Outcomes on a question from which on an agent is judged by them.
pub const EVIDENCE_MIN: u64 = 5;

/// Up to so many agents the distributions of their scores are worked out.
const SUMMED_MAX: usize = 16;
/// Of more of them, points by which the distribution of an agent's score is known: to see who may be first at all; then of
/// those who hardly are, and of the others, in proportion, fewest and most. With these, propensities are
/// within 0.01 (tested up to a thousand agents).
const POINTS_ROUGHLY: usize = 256;
const UNLIKELY: f64 = 0.001;
const POINTS_UNLIKELY: usize = 512;
const POINTS_OF_FIRST: usize = 32_768;
const POINTS_MIN: usize = 2_048;
const POINTS_MAX: usize = 4_096;
/// `z` beyond which nothing is looked for: 3e-5 of the mass.
const FAR: f64 = 4.0;
/// Steps in which a part of a score is known. An even number: one of them ends at 0, where the draw of
/// success bends.
const STEPS: usize = 64;
/// Bits of a packed point: 30 are the score's. More agents than can be told apart are never known at a time.
const ORDER_BITS: u32 = 10;
const AGENT_BITS: u32 = 24;

/// How much each part of a score counts, finite and at least 0, one of them above.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the parts are described above")]
pub struct Weights {
    pub success: f64,
    pub quality: f64,
    pub latency: f64,
    pub cost: f64,
}

impl Weights {
    fn of(&self, measure: Measure) -> f64 {
        match measure {
            Measure::Quality => self.quality,
            Measure::Latency => self.latency,
            Measure::Cost => self.cost,
        }
    }
}

/// Weights with a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Success alone: the default.
    #[default]
    Success,
    /// Success counts as much as quality, latency and cost together.
    Balanced,
    /// Latency counts three times as much as success.
    Fast,
    /// Cost counts three times as much as success.
    Cheap,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 4] = [Self::Success, Self::Balanced, Self::Fast, Self::Cheap];

    /// Its name in requests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Balanced => "balanced",
            Self::Fast => "fast",
            Self::Cheap => "cheap",
        }
    }

    /// What it stands for.
    pub fn weights(self) -> Weights {
        let [success, quality, latency, cost] = match self {
            Self::Success => [1.0, 0.0, 0.0, 0.0],
            Self::Balanced => [3.0, 1.0, 1.0, 1.0],
            Self::Fast => [1.0, 0.0, 3.0, 0.0],
            Self::Cheap => [1.0, 0.0, 0.0, 3.0],
        };
        Weights { success, quality, latency, cost }
    }
}

/// What has a part of 0.5; the tenant's median unless given. Finite and above 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, JsonSchema)]
pub struct Scales {
    /// Milliseconds.
    pub latency_ms: Option<f64>,
    /// In the user's currency.
    pub cost: Option<f64>,
}

impl Scales {
    fn of(&self, measure: Measure) -> Option<f64> {
        match measure {
            // It is on a scale of its own.
            Measure::Quality => Some(1.0),
            Measure::Latency => self.latency_ms,
            Measure::Cost => self.cost,
        }
    }
}

/// What an agent has to meet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Limits {
    /// On one execution, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency_ms: Option<f64>,
    /// On one execution, in the user's currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<f64>,
    /// On the chance of success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_success: Option<f64>,
    /// On the mean quality score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_quality: Option<f64>,
    /// The probability with which each is to be met, in (0, 1).
    pub confidence: f64,
}

/// What becomes of an agent of which too little is known to judge a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// It competes, unless it has shown something, on whatever task type, and what is believed because of
    /// that says with the probability `confidence` that it does not meet the limit.
    #[default]
    Auto,
    /// It competes.
    Admit,
    /// It is left out.
    Exclude,
}

impl OnUnknown {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Admit, Self::Exclude];

    /// Its name in requests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Admit => "admit",
            Self::Exclude => "exclude",
        }
    }
}

/// How an agent stands to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It meets it with the probability `confidence`.
    Met,
    /// It does not.
    Violated,
    /// Too little is known to judge it.
    Unknown,
}

/// The verdicts on an agent, by the name of the limit.
pub type Verdicts = Vec<(&'static str, Verdict)>;

impl Default for Limits {
    fn default() -> Self {
        let none = None;
        Self {
            max_latency_ms: none,
            max_cost: none,
            min_success: none,
            min_quality: none,
            confidence: Self::CONFIDENCE,
        }
    }
}

impl Limits {
    /// The confidence unless given.
    pub const CONFIDENCE: f64 = 0.8;

    fn on(&self, measure: Measure) -> Option<f64> {
        match measure {
            Measure::Quality => self.min_quality,
            Measure::Latency => self.max_latency_ms,
            Measure::Cost => self.max_cost,
        }
    }
}

/// By what the agents of a question compete.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Terms {
    /// How much each part of the score counts.
    pub weights: Weights,
    /// What a part is measured by.
    pub scales: Scales,
    /// What the agents have to meet.
    pub limits: Limits,
    /// What becomes of those of whom too little is known to say.
    pub on_unknown: OnUnknown,
    /// The expected cost comes before the score: nothing may be spent any more.
    pub cheapest_first: bool,
    /// Share of the draws in which the first is any of those who may be, each with the same probability,
    /// `0..=1`: nobody's propensity is below its part of that.
    pub explore_min: f64,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            weights: Preset::Success.weights(),
            scales: Scales::default(),
            limits: Limits::default(),
            on_unknown: OnUnknown::default(),
            cheapest_first: false,
            explore_min: 0.0,
        }
    }
}

/// A limit that an agent does not meet.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// Limit, what is believed, what is allowed.
    pub reason: String,
    /// How far it is from met, `0..1`; of several, their sum.
    pub excess: f64,
}

/// An agent that was left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Excluded {
    /// Its name.
    pub agent: Arc<str>,
    /// The limits that it does not meet.
    pub reason: String,
}

/// A part of the score beside success.
#[derive(Debug, Clone, Copy)]
struct Side {
    measure: Measure,
    /// Of the score.
    share: f64,
    scale: f64,
}

impl Side {
    fn part(&self, amount: f64) -> f64 {
        match self.measure {
            Measure::Quality => amount,
            Measure::Latency | Measure::Cost if amount > 0.0 => self.scale / (self.scale + amount),
            Measure::Latency | Measure::Cost => 1.0,
        }
    }

    /// What it adds to a score, as far as is to be expected.
    fn reach(&self, value: &Value) -> [f64; 2] {
        let [a, b] = [-FAR, FAR].map(|z| self.share * self.part(value.drawn(z)));
        [a.min(b), a.max(b)]
    }
}

/// The agents that compete for a task, and by what.
#[derive(Debug, Clone)]
pub struct Contest {
    /// Those who compete, in the order of their names.
    pub standings: Vec<Standing>,
    /// Those who don't because of a limit. Empty when nobody meets them all: then all compete.
    pub excluded: Vec<Excluded>,
    /// When nobody meets all limits: what each does not meet.
    pub violations: Vec<Violation>,
    /// How those who compete stand to each limit.
    pub verdicts: Vec<Verdicts>,
    /// What latency and cost were measured by, where they have weight and are known.
    pub scales: Scales,
    /// Parts of the score beside success; none when success is all.
    sides: Vec<Side>,
    success_share: f64,
    /// By standing and side.
    values: Vec<Vec<Value>>,
    /// What comes before the score, less first; empty when nothing does.
    precedence: Vec<[f64; 2]>,
    explore_min: f64,
}

impl AgentPerformanceModel {
    /// The agents that the question and the limits allow.
    pub fn contest(&self, question: &Question<'_>, terms: &Terms) -> Contest {
        let Terms { weights, scales, limits, on_unknown, cheapest_first, explore_min } = terms;
        let standings = self.standings(question);
        let usual = |measure| self.tenant(question.tenant)?.values.usual(measure);
        let predictions = Measure::ALL.map(|measure| {
            let is_needed = weights.of(measure) > 0.0
                || limits.on(measure).is_some()
                || (*cheapest_first && measure == Measure::Cost);
            let probabilities = limits.probabilities();
            let at = limits.on(measure).map_or(&[][..], |_| &probabilities);
            if is_needed { self.predictions(question, measure, at) } else { Vec::new() }
        });

        let (verdicts, violations): (Vec<Verdicts>, Vec<Option<Violation>>) = standings
            .iter()
            .enumerate()
            .map(|(place, standing)| {
                let of = |measure: Measure| predictions[measure as usize].get(place);
                limits.judge(standing, of, usual, *on_unknown)
            })
            .unzip();
        let nobody = !violations.is_empty() && violations.iter().all(Option::is_some);
        let competes: Vec<bool> =
            violations.iter().map(|violation| nobody || violation.is_none()).collect();

        let mut sides: Vec<Side> = Measure::ALL
            .into_iter()
            .filter(|measure| weights.of(*measure) > 0.0)
            .filter(|measure| predictions[*measure as usize].iter().all(|p| p.value.is_some()))
            .filter_map(|measure| {
                let scale = scales.of(measure).or_else(|| usual(measure))?;
                Some(Side { measure, share: weights.of(measure), scale })
            })
            .collect();
        let total = weights.success + sides.iter().map(|side| side.share).sum::<f64>();
        for side in &mut sides {
            side.share /= total;
        }
        // With nothing known of what has weight, success is all there is to choose by.
        let success_share = if sides.is_empty() { 1.0 } else { weights.success / total };
        let used = |wanted: Measure| {
            sides.iter().find(|side| side.measure == wanted).map(|side| side.scale)
        };
        let scales = Scales { latency_ms: used(Measure::Latency), cost: used(Measure::Cost) };

        let side_values = |place: usize| {
            let value = |side: &Side| predictions[side.measure as usize].get(place)?.value;
            sides.iter().filter_map(value).collect::<Vec<Value>>()
        };
        let expected_cost = |place: usize| {
            let predicted = predictions[Measure::Cost as usize].get(place)?;
            predicted.value.map(|value| value.mean())
        };
        let mut contest = Contest {
            standings: Vec::new(),
            excluded: Vec::new(),
            violations: Vec::new(),
            verdicts: Vec::new(),
            scales,
            values: Vec::new(),
            precedence: Vec::new(),
            success_share,
            sides: Vec::new(),
            explore_min: *explore_min,
        };
        let judged = standings.into_iter().zip(verdicts).zip(violations);
        for (place, ((standing, verdicts), violation)) in judged.enumerate() {
            if !competes[place] {
                let reason = violation.map(|violation| violation.reason).unwrap_or_default();
                contest.excluded.push(Excluded { agent: standing.agent, reason });
                continue;
            }
            if nobody || *cheapest_first {
                let excess = violation.as_ref().map_or(0.0, |violation| violation.excess);
                let cost = if *cheapest_first { expected_cost(place) } else { None };
                contest.precedence.push([excess, cost.unwrap_or(0.0)]);
            }
            contest.violations.extend(violation);
            contest.verdicts.push(verdicts);
            contest.values.push(side_values(place));
            contest.standings.push(standing);
        }
        contest.sides = sides;
        contest
    }
}

/// What is known of an agent beside a limit.
struct Shown {
    limit: &'static str,
    /// Values, of any task type, and of the question's.
    samples: u64,
    evidence: u64,
    /// Whether what is believed meets the limit with the probability `confidence`.
    is_met: bool,
    /// Whether it violates it with that probability.
    speaks_against: bool,
    /// How far it is from met, `0..1`.
    excess: f64,
    /// What is believed with the probability `confidence`, and that it violates it.
    says: String,
    says_against: String,
}

impl Limits {
    /// The probability with which a limit is to be met, and that which is left when it is violated with
    /// that probability.
    fn probabilities(&self) -> [f64; 2] {
        [self.confidence, self.confidence.min(1.0 - self.confidence)]
    }

    /// How an agent stands to each limit, and what of that keeps it from competing.
    fn judge<'p>(
        &self,
        standing: &Standing,
        predicted: impl Fn(Measure) -> Option<&'p Predicted>,
        usual: impl Fn(Measure) -> Option<f64>,
        on_unknown: OnUnknown,
    ) -> (Verdicts, Option<Violation>) {
        let of_measures = Measure::ALL.into_iter().filter_map(|measure| {
            let (limit, predicted) = self.on(measure).zip(predicted(measure))?;
            Some(self.shown(limit, predicted, measure, usual(measure)))
        });
        let success = self.min_success.map(|limit| self.shown_success(limit, standing));
        let mut verdicts = Verdicts::new();
        let mut reasons = Vec::new();
        let mut excess = 0.0;
        for shown in success.into_iter().chain(of_measures) {
            let Shown { limit, samples, evidence, .. } = shown;
            let verdict = match shown.is_met {
                _ if evidence < EVIDENCE_MIN => Verdict::Unknown,
                true => Verdict::Met,
                false => Verdict::Violated,
            };
            verdicts.push((limit, verdict));
            let little = || format!("unknown by {evidence} of the {EVIDENCE_MIN} values needed");
            let speaks_against = samples > 0 && shown.speaks_against;
            let reason = match (verdict, on_unknown) {
                (Verdict::Violated, _) => shown.says,
                (Verdict::Unknown, OnUnknown::Exclude) => little(),
                (Verdict::Unknown, OnUnknown::Auto) if speaks_against => {
                    format!("{}, but {}", little(), shown.says_against)
                }
                (Verdict::Met | Verdict::Unknown, _) => continue,
            };
            reasons.push(format!("{limit}: {reason}"));
            excess += if shown.is_met { 0.0 } else { shown.excess };
        }
        let violation = Violation { reason: reasons.join("; "), excess };
        (verdicts, (!reasons.is_empty()).then_some(violation))
    }

    fn shown_success(&self, limit: f64, standing: &Standing) -> Shown {
        let [p, against] = self.probabilities();
        let [sure, hoped] = [p, against].map(|p| standing.success_quantile(1.0 - p));
        let says = |p: f64, shown: f64| {
            let says = if let Belief::Point(_) = standing.belief {
                "the expected success is".to_owned()
            } else {
                with_probability(p) + " the chance of success is at least"
            };
            format!("{says} {shown:.4}, asked for is {limit}")
        };
        Shown {
            limit: "min_success",
            samples: standing.samples,
            evidence: standing.evidence,
            is_met: sure >= limit,
            speaks_against: hoped < limit,
            excess: excess(sure, limit, 0.0),
            says: says(p, sure),
            says_against: says(against, hoped),
        }
    }

    fn shown(
        &self,
        limit: f64,
        predicted: &Predicted,
        measure: Measure,
        usual: Option<f64>,
    ) -> Shown {
        let [p, against] = self.probabilities();
        let is_least = measure == Measure::Quality;
        // What is met with each probability; nobody has shown anything without a value.
        let believed = match predicted.value {
            None => None,
            Some(value) if is_least => {
                Some([p, against].map(|p| value.drawn(normal::quantile(1.0 - p))))
            }
            Some(_) => <[f64; 2]>::try_from(&predicted.quantiles[..]).ok(),
        };
        let meets = |shown: f64| if is_least { shown >= limit } else { shown <= limit };
        let says = |p: f64, shown: f64| {
            let with = with_probability(p);
            match measure {
                Measure::Quality => {
                    format!("{with} the mean quality is at least {shown:.4}, asked for is {limit}")
                }
                Measure::Latency => {
                    format!("{with} an execution takes at most {shown:.1} ms, allowed is {limit}")
                }
                Measure::Cost => {
                    format!("{with} an execution costs at most {shown:.4}, allowed is {limit}")
                }
            }
        };
        let [sure, hoped] = believed.unwrap_or([limit; 2]);
        Shown {
            limit: match measure {
                Measure::Quality => "min_quality",
                Measure::Latency => "max_latency_ms",
                Measure::Cost => "max_cost",
            },
            samples: predicted.samples,
            evidence: predicted.evidence,
            is_met: meets(sure),
            speaks_against: !meets(hoped),
            // The tenant's usual amount tells agents apart by what they exceed a limit of 0.
            excess: excess(sure, limit, usual.filter(|_| !is_least).unwrap_or(0.0)),
            says: says(p, sure),
            says_against: says(against, hoped),
        }
    }
}

fn with_probability(p: f64) -> String {
    format!("with a probability of {} %", (1e4 * p).round() / 1e2)
}

fn excess(shown: f64, limit: f64, unit: f64) -> f64 {
    (shown - limit).abs() / (shown + limit + unit).max(f64::MIN_POSITIVE)
}

impl Contest {
    /// Whether agents are drawn: the strategy explores.
    fn draws(&self) -> bool {
        self.standings.iter().any(|standing| !matches!(standing.belief, Belief::Point(_)))
    }

    /// Whether the score is the chance of success.
    pub fn is_success_alone(&self) -> bool {
        self.sides.is_empty()
    }

    /// Whether somebody meets all limits.
    pub fn is_feasible(&self) -> bool {
        self.violations.is_empty()
    }

    /// All who compete, best first: by one draw of each part when `explore`, else by expected parts. A
    /// strategy that does not explore has no draws. When `explore`, the share [`Terms::explore_min`] of
    /// the answers has one of those who may be first in front of the others, whatever its score.
    pub fn rank(&self, explore: bool, rng: &mut impl Rng) -> Vec<Recommendation> {
        let mut ranked = if self.sides.is_empty() {
            rank(&self.standings, explore, rng)
        } else {
            self.rank_by_parts(explore && self.draws(), rng)
        };
        if !self.precedence.is_empty() {
            ranked
                .sort_by(|a, b| before(&self.precedence[a.standing], &self.precedence[b.standing]));
        }
        // No number is drawn where there is nothing to decide by it: a seed means what it meant.
        if explore && self.explore_min > 0.0 && rng.random_bool(self.explore_min.min(1.0)) {
            let leaders = self.leaders();
            if !leaders.is_empty() {
                let chosen = leaders[rng.random_range(0..leaders.len())];
                let is_chosen = |one: &Recommendation| one.standing == chosen;
                if let Some(place) = ranked.iter().position(is_chosen) {
                    ranked[..=place].rotate_right(1);
                }
            }
        }
        ranked
    }

    fn rank_by_parts(&self, explore: bool, rng: &mut impl Rng) -> Vec<Recommendation> {
        let luck = if explore { Luck::draw(rng) } else { Luck::default() };
        let mut ranked: Vec<(u64, Recommendation)> = self
            .standings
            .iter()
            .enumerate()
            .map(|(index, standing)| {
                let success = match &standing.belief {
                    Belief::Posterior(posterior) if explore => posterior.draw(rng),
                    Belief::Mixture(mixture) if explore => mixture.score(mixture.draw(luck, rng)),
                    _ => standing.expected_success(),
                };
                let parts = self.parts(index, success, |value| {
                    if explore { value.drawn(StandardNormal.sample(rng)) } else { value.mean() }
                });
                let agent = standing.agent.clone();
                let score = self.score(&parts);
                // Without a draw equal ones stay in the order of their names.
                let tie = if explore { rng.next_u64() } else { 0 };
                (tie, Recommendation { agent, score, standing: index, parts })
            })
            .collect();
        ranked.sort_by(|a, b| b.1.score.total_cmp(&a.1.score).then(a.0.cmp(&b.0)));
        ranked.into_iter().map(|(_, recommendation)| recommendation).collect()
    }

    fn parts(&self, index: usize, success: f64, mut amount: impl FnMut(&Value) -> f64) -> Parts {
        let mut parts = Parts::success(success);
        for (side, value) in self.sides.iter().zip(&self.values[index]) {
            parts.set(side.measure, side.part(amount(value)));
        }
        parts
    }

    fn score(&self, parts: &Parts) -> f64 {
        let side = |side: &Side| {
            let part = match side.measure {
                Measure::Quality => parts.quality,
                Measure::Latency => parts.latency,
                Measure::Cost => parts.cost,
            };
            side.share * part.unwrap_or(0.0)
        };
        let score = self.success_share * parts.success + self.sides.iter().map(side).sum::<f64>();
        // Shares sum to 1 up to rounding.
        score.clamp(0.0, 1.0)
    }

    /// Those whom nothing but the score puts after another.
    fn leaders(&self) -> Vec<usize> {
        let least = self.precedence.iter().min_by(|a, b| before(a, b));
        let leads = |index: &usize| {
            least.is_none_or(|least| before(&self.precedence[*index], least).is_eq())
        };
        (0..self.standings.len()).filter(leads).collect()
    }

    /// Who is ranked first without a draw.
    pub fn best_expected(&self) -> Option<usize> {
        let leaders = self.leaders();
        if self.sides.is_empty() {
            let standings: Vec<Standing> =
                leaders.iter().map(|index| self.standings[*index].clone()).collect();
            return best_expected(&standings).map(|place| leaders[place]);
        }
        let expected = |index: usize| {
            let success = self.standings[index].expected_success();
            self.score(&self.parts(index, success, Value::mean))
        };
        let better = |best: usize, other: usize| {
            if expected(other) > expected(best) { other } else { best }
        };
        leaders.into_iter().reduce(better)
    }

    /// The probability of each who competes to be ranked first, with a draw if the strategy explores;
    /// sums to 1. With more than success in the score it is a sum over points of each agent's
    /// distribution: within 0.01 (tested up to a thousand agents).
    pub fn propensities(&self) -> Vec<f64> {
        let mut all = vec![0.0; self.standings.len()];
        let leaders = self.leaders();
        let of_leaders = if !self.draws() {
            let best = self.best_expected();
            leaders.iter().map(|leader| f64::from(u8::from(Some(*leader) == best))).collect()
        } else if self.sides.is_empty() {
            let standings: Vec<Standing> =
                leaders.iter().map(|index| self.standings[*index].clone()).collect();
            propensities(&standings)
        } else {
            self.sampled(&leaders)
        };
        let part = self.explore_min / points_f64(leaders.len().max(1));
        for (index, propensity) in leaders.into_iter().zip(of_leaders) {
            all[index] = (1.0 - self.explore_min).mul_add(propensity, part);
        }
        all
    }

    /// The probability of each of these to have the highest score, by as many points of an agent as it is
    /// worth: those who are first more often are known better.
    fn sampled(&self, among: &[usize]) -> Vec<f64> {
        let reach: Vec<[f64; 2]> = among.iter().map(|index| self.reach(*index)).collect();
        let range = Range::of_firsts(&reach);
        // The others are beaten by somebody for certain.
        let open: Vec<usize> =
            (0..among.len()).filter(|place| reach[*place][1] >= range.lowest).collect();
        let indices: Vec<usize> = open.iter().map(|place| among[*place]).collect();
        if indices.len() <= SUMMED_MAX {
            let first = self.summed(&indices);
            let mut all = vec![0.0; among.len()];
            for (place, first) in open.into_iter().zip(first) {
                all[place] = first;
            }
            return all;
        }
        let sides: Vec<Vec<Curve>> =
            indices.iter().map(|index| self.side_curves(*index, range)).collect();

        let roughly = self.first_of(&indices, &sides, range, &vec![POINTS_ROUGHLY; open.len()]);
        let points: Vec<usize> = roughly.into_iter().map(points_of).collect();
        let first = self.first_of(&indices, &sides, range, &points);
        let mut all = vec![0.0; among.len()];
        for (place, first) in open.into_iter().zip(first) {
            all[place] = first;
        }
        all
    }

    /// The same by the distributions of the scores, which are independent given the draw that all share.
    fn summed(&self, indices: &[usize]) -> Vec<f64> {
        let rests: Vec<Part> = indices.iter().map(|index| self.rest(*index)).collect();
        let mut all = vec![0.0; indices.len()];
        for (luck, weight) in self.shared_draws(indices) {
            let scores: Vec<Score> = indices
                .iter()
                .zip(&rests)
                .map(|(index, rest)| Score::of(&self.success(*index, luck), rest))
                .collect();
            for (all, first) in all.iter_mut().zip(probabilities_of_highest_score(&scores)) {
                *all += weight * first;
            }
        }
        all
    }

    /// What success adds to a score, given the luck that all share.
    fn success(&self, index: usize, luck: f64) -> Part {
        let share = self.success_share;
        match &self.standings[index].belief {
            _ if share == 0.0 => Part::of(|_| 0.0),
            Belief::Mixture(mixture) => {
                let scores = mixture.scores();
                Part::of(|z| share * scores.at(z.max(0.0), luck))
            }
            Belief::Posterior(posterior) => {
                Part::of(|z| share * posterior.quantile(normal::below(z)))
            }
            Belief::Point(mean) => Part::of(|_| share * mean),
        }
    }

    /// What all other parts add.
    fn rest(&self, index: usize) -> Part {
        let part = |(side, value): (&Side, &Value)| {
            // A part of latency or cost falls as these grow.
            let sign = if side.measure == Measure::Quality { 1.0 } else { -1.0 };
            Part::of(|z| side.share * side.part(value.drawn(sign * z)))
        };
        let parts = self.sides.iter().zip(&self.values[index]).map(part);
        parts.reduce(|sum, part| sum.plus(&part)).unwrap_or_else(|| Part::of(|_| 0.0))
    }

    /// The luck that all share, with weights.
    fn shared_draws(&self, indices: &[usize]) -> Vec<(f64, f64)> {
        let is_mixture =
            |index: &usize| matches!(self.standings[*index].belief, Belief::Mixture(_));
        if self.success_share > 0.0 && indices.iter().any(is_mixture) {
            let curves: Vec<_> =
                indices.iter().map(|index| |luck| self.lowest_at(*index, luck)).collect();
            shared_draws(&curve_breaks(&curves))
        } else {
            vec![(0.0, 1.0)]
        }
    }

    /// The same by these numbers of points. Given the draw that all share, scores are independent, so it is
    /// the mean over an agent's points of the product of the others' distribution functions, each known by
    /// its own points. Nobody is first with a score below the range.
    fn first_of(
        &self,
        indices: &[usize],
        sides: &[Vec<Curve>],
        range: Range,
        points: &[usize],
    ) -> Vec<f64> {
        let mut first = vec![0.0; indices.len()];
        let mut scores: Vec<u64> = Vec::new();
        // Few have points in common: errors of theirs even out.
        let mut next = 0;
        for (luck, weight) in self.shared_draws(indices) {
            let points: Vec<usize> = points.iter().map(|all| share_of(*all, weight)).collect();
            let mut counts = Counts::new(&points);
            scores.clear();
            for (agent, (index, sides)) in indices.iter().zip(sides).enumerate() {
                let success = self.success_curve(*index, luck, range);
                for point in next..next + points[agent] {
                    let [own, others @ ..] = &POINTS[point % POINTS.len()];
                    let parts = sides.iter().zip(others).map(|(side, place)| side.at(*place));
                    let place = success.at(*own) + parts.sum::<f32>();
                    if place < 0.0 {
                        counts.add(agent);
                    } else {
                        scores.push(packed(place, point, agent));
                    }
                }
                next += points[agent];
            }
            scores.sort_unstable();
            for &scored in &scores {
                let agent = agent_of(scored);
                first[agent] += weight / points_f64(points[agent]) * counts.others_below(agent);
                counts.add(agent);
            }
        }
        let total: f64 = first.iter().sum();
        first.into_iter().map(|first| first / total).collect()
    }

    /// The score of the lowest draw of success by the luck that all share, and the usual of the rest.
    fn lowest_at(&self, index: usize, luck: f64) -> f64 {
        let success = match &self.standings[index].belief {
            Belief::Mixture(mixture) => mixture.scores().at(0.0, luck),
            Belief::Posterior(_) | Belief::Point(_) => self.standings[index].expected_success(),
        };
        self.score(&self.parts(index, success, Value::mean))
    }

    /// Scores beyond which a draw is not to be expected.
    fn reach(&self, index: usize) -> [f64; 2] {
        let mut reach = self.success_reach(index);
        for (side, value) in self.sides.iter().zip(&self.values[index]) {
            let [low, high] = side.reach(value);
            reach[0] += low;
            reach[1] += high;
        }
        reach
    }

    /// What success adds to them.
    fn success_reach(&self, index: usize) -> [f64; 2] {
        let success = match &self.standings[index].belief {
            Belief::Mixture(mixture) => {
                let scores = mixture.scores();
                [scores.at(0.0, 0.0), scores.at(FAR, FAR)]
            }
            Belief::Posterior(posterior) => {
                [normal::below(-FAR), normal::below(FAR)].map(|p| posterior.quantile(p))
            }
            Belief::Point(mean) => [*mean; 2],
        };
        success.map(|success| self.success_share * success)
    }

    /// Where an agent's lowest score lies in the range, and what success adds to it, given the luck that
    /// all share.
    fn success_curve(&self, index: usize, luck: f64, range: Range) -> Curve {
        let [low, _] = self.success_reach(index);
        let lowest = range.place(self.reach(index)[0]);
        let share = self.success_share;
        let curve = |success: &dyn Fn(f64) -> f64| {
            Curve::of(|z| lowest + range.part(share * success(z) - low))
        };
        match &self.standings[index].belief {
            _ if share == 0.0 => curve(&|_| 0.0),
            Belief::Mixture(mixture) => {
                let scores = mixture.scores();
                curve(&|z| scores.at(z.max(0.0), luck))
            }
            Belief::Posterior(posterior) => curve(&|z| posterior.quantile(normal::below(z))),
            Belief::Point(mean) => curve(&|_| *mean),
        }
    }

    /// What each other part adds.
    fn side_curves(&self, index: usize, range: Range) -> Vec<Curve> {
        let curve = |(side, value): (&Side, &Value)| {
            let [low, _] = side.reach(value);
            Curve::of(|z| range.part(side.share * side.part(value.drawn(z)) - low))
        };
        self.sides.iter().zip(&self.values[index]).map(curve).collect()
    }
}

/// Scores with which somebody may be first. In parts of it scores differ as much as they can, however small
/// or alike they are.
#[derive(Debug, Clone, Copy)]
struct Range {
    /// Somebody is sure to have it.
    lowest: f64,
    width: f64,
}

impl Range {
    /// By everybody's reach.
    fn of_firsts(reach: &[[f64; 2]]) -> Self {
        let greatest =
            |end: usize| reach.iter().map(|reach| reach[end]).fold(f64::NEG_INFINITY, f64::max);
        let [lowest, highest] = [0, 1].map(greatest);
        // All are equal: none lies above 0.
        let width = if highest > lowest { highest - lowest } else { f64::INFINITY };
        Self { lowest, width }
    }

    fn part(self, difference: f64) -> f64 {
        difference / self.width
    }

    /// `0..=1` in the range.
    fn place(self, score: f64) -> f64 {
        self.part(score - self.lowest)
    }
}

/// How many points tell of an agent that is first with this probability.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "points are few"
)]
fn points_of(first: f64) -> usize {
    if first < UNLIKELY {
        return POINTS_UNLIKELY;
    }
    ((first * POINTS_OF_FIRST as f64) as usize).clamp(POINTS_MIN, POINTS_MAX)
}

/// How many of the points fall to a part of this weight.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "points are few"
)]
fn share_of(points: usize, weight: f64) -> usize {
    ((points as f64 * weight) as usize).max(4)
}

fn before(a: &[f64; 2], b: &[f64; 2]) -> std::cmp::Ordering {
    a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1]))
}

/// A part of a score by the standard Gaussian it is drawn from, between `-FAR` and `FAR`: known at equal
/// steps, a straight line in between.
struct Curve([f32; STEPS + 1]);

impl Curve {
    fn of(part: impl Fn(f64) -> f64) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "steps are few, and parts are drawn more coarsely than this"
        )]
        let at = |step: usize| part((step as f64 / STEPS as f64).mul_add(2.0 * FAR, -FAR)) as f32;
        Self(std::array::from_fn(at))
    }

    /// `place` is that of the Gaussian in steps from `-FAR`, `0..STEPS`.
    fn at(&self, place: f32) -> f32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is in range"
        )]
        let step = (place as usize).min(STEPS - 1);
        #[expect(clippy::cast_precision_loss, reason = "steps are few")]
        let beyond = place - step as f32;
        (self.0[step + 1] - self.0[step]).mul_add(beyond, self.0[step])
    }
}

/// A place in the range of scores, an order among equal ones that is random as it is when they are drawn, and whose it is, in a
/// number that sorts by the first two: floating-point numbers that are not negative sort as their bits.
fn packed(place: f32, point: usize, agent: usize) -> u64 {
    let order = mixed(point) >> (64 - ORDER_BITS);
    u64::from(place.clamp(0.0, 1.0).to_bits()) << (ORDER_BITS + AGENT_BITS)
        | order << AGENT_BITS
        | agent as u64
}

fn agent_of(packed: u64) -> usize {
    (packed & ((1 << AGENT_BITS) - 1)) as usize
}

/// Spreads neighbours over all numbers (Steele, Lea and Flood, OOPSLA 2014: the finaliser of `SplitMix64`).
fn mixed(point: usize) -> u64 {
    let mut z = (point as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[expect(clippy::cast_precision_loss, reason = "points are few")]
fn points_f64(points: usize) -> f64 {
    points as f64
}

/// How many points of each agent are below where a walk has come to.
struct Counts {
    below: Vec<usize>,
    /// Logarithm of how many there are.
    ln_all: Vec<f64>,
    /// Agents without any below.
    without: usize,
    /// Logarithm of the product of the shares that the others have below.
    ln_product: f64,
}

/// Logarithms of numbers of points.
static LN: LazyLock<Vec<f64>> =
    LazyLock::new(|| (0..=POINTS_MAX).map(|count| points_f64(count).ln()).collect());

impl Counts {
    /// `points` are how many each agent has, up to [`POINTS_MAX`].
    fn new(points: &[usize]) -> Self {
        let ln_all = points.iter().map(|points| LN[*points]).collect();
        Self { below: vec![0; points.len()], ln_all, without: points.len(), ln_product: 0.0 }
    }

    fn ln_own(&self, agent: usize) -> f64 {
        if self.below[agent] == 0 { 0.0 } else { LN[self.below[agent]] - self.ln_all[agent] }
    }

    fn add(&mut self, agent: usize) {
        self.without -= usize::from(self.below[agent] == 0);
        self.ln_product -= self.ln_own(agent);
        self.below[agent] += 1;
        self.ln_product += self.ln_own(agent);
    }

    /// The product of the shares of points below, of all other agents.
    fn others_below(&self, agent: usize) -> f64 {
        let others_without = self.without - usize::from(self.below[agent] == 0);
        if others_without == 0 { (self.ln_product - self.ln_own(agent)).exp() } else { 0.0 }
    }
}

/// Points of four independent standard Gaussians, in steps of a [`Curve`]: the additive recurrence by powers
/// of the root of `x^5 = x + 1`, a sequence of low discrepancy in four dimensions (Niederreiter, Random
/// Number Generation and Quasi-Monte Carlo Methods, 1992, section 3.1).
static POINTS: LazyLock<Vec<[f32; 4]>> = LazyLock::new(|| {
    const ROOT_POWERS: [f64; 4] = [
        0.856_674_883_854_502_9,
        0.733_891_856_627_126_8,
        0.628_706_721_032_458_4,
        0.538_597_257_223_612_9,
    ];
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "points are few, and needed as exactly as this"
    )]
    let place = |point: usize, power: f64| {
        let p = (0.5 + point as f64 * power).fract().clamp(f64::EPSILON, 1.0 - f64::EPSILON);
        let z = normal::quantile(p).clamp(-FAR, FAR);
        ((z + FAR) / (2.0 * FAR) * STEPS as f64) as f32
    };
    (0..16 * POINTS_MAX).map(|point| ROOT_POWERS.map(|power| place(point, power))).collect()
});
