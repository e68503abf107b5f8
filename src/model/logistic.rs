//! What the strategy `thompson` learns: four copies of one Bayesian logistic regression.
//!
//! # The model
//!
//! The log-odds of an agent's success on a task are a sum of effects, each with a Gaussian belief:
//!
//! ```text
//! logit p = [b + u_task + sum of c_k x_k]      shared: how hard the task is, for whichever agent
//!         + [A + sum of AC_k x_k]              the agent's own: overall, and per context feature
//!         + AT_task                            the agent's own on this task type
//! ```
//!
//! `x_k` stands for the context (see `features`). `A` and the `AC_k` of an agent have one full covariance ([`Block`]); everything else is
//! an independent Gaussian ([`Effect`]). With one task type only, `u` and `AT` would say what `b`
//! and `A` say already, so they exist from the second one on.
//!
//! # Four copies
//!
//! How much agents differ between tasks and contexts, and whether they change, is not known
//! beforehand. So four copies with different priors ([`SCALES`], [`KEPT`], and whether there is a
//! shared block) learn side by side, and each has the weight that its predictions earned: Bayesian
//! model averaging, with a little weight given back to each copy after every outcome, so that one
//! that was wrong for long can come back (Herbster and Warmuth, Machine Learning 32, 1998:
//! "fixed share").
//!
//! # Learning
//!
//! One outcome changes the sum of the active effects only, so each copy's update is a problem in
//! one number `z`: a Gaussian with the sum's mean and variance times the likelihood of the outcome,
//! approximated at its mode (Laplace; assumed-density filtering, e.g. Opper, "A Bayesian approach
//! to on-line learning", 1998), and carried back to the effects as a Kalman filter does it. A
//! reward between 0 and 1 is that share of a success.
//!
//! # Forgetting
//!
//! One copy lets every effect drift back to its prior, `mean <- r mean`,
//! `variance <- r^2 variance + (1 - r^2) prior`, once per outcome of the tenant. It is worked out
//! when an effect is next looked at, so what is not used costs nothing.
#![expect(clippy::needless_range_loop, reason = "a loop over the copies reads like its equation")]

use std::sync::Arc;

use imbl::{OrdMap, Vector};

use super::features::{Active, Keys, NamesMax};
use super::{Caps, CopyWeight};
use crate::outcome::Context;

/// Copies of the model.
pub(super) const COPIES: usize = 4;
/// One number of each copy.
pub(super) type Lanes = [f64; COPIES];

/// How far an agent's effects may differ between tasks and contexts: the factor on their priors.
const SCALES: Lanes = [0.15, 1.0, 4.0, 6.0];
/// The copies in words.
const ASSUMES: [&str; COPIES] = [
    "agents differ little between tasks and contexts",
    "agents change, and differ between tasks and contexts",
    "agents differ much between tasks and contexts",
    "agents have no difficulty in common",
];
/// The copy that forgets.
const FORGETFUL: usize = 1;
/// What it keeps of every effect at an outcome of the tenant.
const KEPT: f64 = 0.9999;
/// The copies with a shared block have 1 here.
const SHARES: Lanes = [1.0, 1.0, 1.0, 0.0];

/// Prior mean of `A`, in logits: optimistic, so that newcomers are tried.
pub(super) const OWN_MEAN: f64 = 0.7;
/// Prior variances.
const OWN: Lanes = [0.5; COPIES];
const OWN_TASK: Lanes = scaled(0.2, SCALES);
const OWN_FEATURE: Lanes = scaled(0.1, SCALES);
const SHARED_BASE: Lanes = scaled(0.2, SHARES);
const SHARED_TASK: Lanes = scaled(0.2, SHARES);
const SHARED_FEATURE: Lanes = scaled(0.1, SHARES);

/// The weight of a copy as long as nothing is learned: one of four.
const EVEN_WEIGHT: f64 = 0.25;
/// Weight that is dealt out evenly after every outcome.
const WEIGHT_SHARED: f64 = 0.001;
/// A feature gets its row in an agent's covariance at this outcome of the agent with it: values
/// that never come again (a ticket number) get none.
const ROW_AT_OUTCOME: u32 = 2;

const fn scaled(variance: f64, factors: Lanes) -> Lanes {
    let [a, b, c, d] = factors;
    [variance * a, variance * b, variance * c, variance * d]
}

fn lanes(of: impl FnMut(usize) -> f64) -> Lanes {
    std::array::from_fn(of)
}

pub(super) fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// `ln(1 + exp(z))`, without overflow.
fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

/// The mean of a sigmoid over a Gaussian is about the sigmoid of the mean times this (`MacKay`,
/// "The evidence framework applied to classification networks", 1992, equation 10).
pub(super) fn moderation(variance: f64) -> f64 {
    1.0 / (1.0 + std::f64::consts::FRAC_PI_8 * variance).sqrt()
}

/// What is left of a belief of the forgetful copy after `age` outcomes: 1 in the other copies.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn kept(age: u64) -> Lanes {
    let mut kept = [1.0; COPIES];
    if age > 0 {
        kept[FORGETFUL] = (age as f64 * KEPT.ln()).exp();
    }
    kept
}

/// Mean and variance of a sum of effects, per copy.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sum {
    pub(super) mean: Lanes,
    pub(super) variance: Lanes,
}

impl Sum {
    fn add(&mut self, x: f64, mean: &Lanes, variance: &Lanes) {
        for copy in 0..COPIES {
            self.mean[copy] += x * mean[copy];
            self.variance[copy] += x * x * variance[copy];
        }
    }

    /// Effects that nothing is known of: their priors, which have mean 0.
    fn add_unknown(&mut self, squares: f64, prior: &Lanes) {
        for copy in 0..COPIES {
            self.variance[copy] += squares * prior[copy];
        }
    }
}

/// An independent effect: a Gaussian per copy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Effect {
    pub(super) mean: Lanes,
    pub(super) variance: Lanes,
    /// Outcomes the tenant had learned when it was last changed.
    pub(super) at: u64,
}

impl Effect {
    pub(super) fn new(prior: &Lanes, now: u64) -> Self {
        Self { mean: [0.0; COPIES], variance: *prior, at: now }
    }

    /// The same belief at a later time.
    pub(super) fn aged(&self, prior: &Lanes, now: u64) -> Self {
        let kept = kept(now - self.at);
        Self {
            mean: lanes(|copy| kept[copy] * self.mean[copy]),
            variance: lanes(|copy| {
                let squared = kept[copy] * kept[copy];
                squared * self.variance[copy] + (1.0 - squared) * prior[copy]
            }),
            at: now,
        }
    }

    fn add_to(&self, sum: &mut Sum, x: f64, prior: &Lanes, now: u64) {
        let aged = self.aged(prior, now);
        sum.add(x, &aged.mean, &aged.variance);
    }

    fn learn(&mut self, x: f64, prior: &Lanes, now: u64, step: &Step) {
        *self = self.aged(prior, now);
        for copy in 0..COPIES {
            let gain = self.variance[copy] * x;
            self.mean[copy] += gain * step.error[copy];
            self.variance[copy] -= step.shrink[copy] * gain * gain;
        }
    }
}

/// What an outcome does to every effect: with `g` the covariance of the effect with the sum,
/// `mean += g error` and `covariance -= shrink g g'`.
struct Step {
    error: Lanes,
    shrink: Lanes,
}

impl Step {
    /// From the belief in the sum of the active effects to the step of `reward` in `0..=1`.
    fn of(sum: &Sum, reward: f64) -> Self {
        let mut step = Self { error: [0.0; COPIES], shrink: [0.0; COPIES] };
        for copy in 0..COPIES {
            let variance = sum.variance[copy];
            let p = sigmoid(mode(sum.mean[copy], variance, reward));
            let curvature = p * (1.0 - p);
            step.error[copy] = reward - p;
            step.shrink[copy] = curvature / (1.0 + curvature * variance);
        }
        step
    }
}

/// The mode of a Gaussian times the likelihood of `reward`: the root of
/// `z - mean - variance (reward - sigmoid(z))`. Newton's method inside a bracket that holds it; a
/// step that leaves it, or is not half as long as the one before, is replaced by bisection, because
/// Newton's steps go to and fro where the variance is large.
fn mode(mean: f64, variance: f64, reward: f64) -> f64 {
    let mut low = mean - variance * (1.0 - reward);
    let mut high = mean + variance * reward;
    let (mut z, mut step) = (mean, high - low);
    for _ in 0..100 {
        let p = sigmoid(z);
        let excess = z - mean - variance * (reward - p);
        if excess > 0.0 {
            high = z;
        } else {
            low = z;
        }
        let newton = z - excess / (1.0 + variance * p * (1.0 - p));
        let is_inside = (low..=high).contains(&newton);
        let is_shorter = (newton - z).abs() <= 0.5 * step;
        let next = if is_inside && is_shorter { newton } else { 0.5 * (low + high) };
        step = (next - z).abs();
        z = next;
        // The error of a Newton step is of the order of its square.
        if step <= 1e-7 * (1.0 + z.abs()) {
            break;
        }
    }
    z
}

/// An agent's effects over its context: `A` in row 0, then one `AC_k` per row.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Block {
    /// The feature of each row from 1 on.
    pub(super) features: Vec<u32>,
    /// (feature, row), sorted.
    pub(super) rows: Vec<(u32, u32)>,
    /// Outcomes of the agent with the row's feature, by row.
    pub(super) outcomes: Vec<u32>,
    /// By row; that of row 0 is relative to [`OWN_MEAN`].
    pub(super) mean: Vec<Lanes>,
    /// The lower triangle, row after row.
    pub(super) covariance: Vec<Lanes>,
    /// Features without a row.
    pub(super) cells: OrdMap<u32, FeatureCell>,
    /// Outcomes the tenant had learned when this was last changed.
    pub(super) at: u64,
}

/// The effect of a feature without a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FeatureCell {
    pub(super) effect: Effect,
    pub(super) outcomes: u32,
}

/// What is believed about an agent's own effects on a question, per copy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Own {
    /// Mean and variance of all of them.
    pub(super) sum: Sum,
    /// Variance of `A` alone.
    pub(super) overall: Lanes,
}

/// Where the lower triangle holds (row, column), in either order.
fn place(row: usize, column: usize) -> usize {
    let (low, high) = if row < column { (row, column) } else { (column, row) };
    high * (high + 1) / 2 + low
}

impl Block {
    pub(super) fn new(now: u64) -> Self {
        Self {
            outcomes: vec![0],
            mean: vec![[0.0; COPIES]],
            covariance: vec![OWN],
            at: now,
            ..Self::default()
        }
    }

    pub(super) fn joint_values(&self) -> usize {
        self.features.len()
    }

    pub(super) fn independent_effects(&self) -> usize {
        self.cells.len()
    }

    fn row(&self, feature: u32) -> Option<usize> {
        let found = self.rows.binary_search_by_key(&feature, |(feature, _)| *feature);
        found.ok().map(|index| self.rows[index].1 as usize)
    }

    /// Gives features of an outcome that is about to be learned their rows and cells.
    fn admit(&mut self, active: &Active, now: u64, width: &mut Width) {
        for &(feature, _) in &active.features {
            if self.row(feature).is_some() {
                continue;
            }
            let known = self.cells.get(&feature).copied();
            let outcomes = known.map_or(0, |cell| cell.outcomes);
            let rows = self.mean.len();
            if outcomes + 1 >= ROW_AT_OUTCOME
                && rows <= width.rows_max
                && width.covariances + rows < width.covariances_max
            {
                width.covariances += rows + 1;
                let cell = known.map_or_else(|| Effect::new(&OWN_FEATURE, now), |cell| cell.effect);
                self.add_row(feature, outcomes, &cell.aged(&OWN_FEATURE, now), now);
                if self.cells.remove(&feature).is_some() {
                    width.effects -= 1;
                }
            } else if known.is_none() {
                if width.effects >= width.effects_max {
                    width.refused += 1;
                    continue;
                }
                width.effects += 1;
                let effect = Effect::new(&OWN_FEATURE, now);
                self.cells.insert(feature, FeatureCell { effect, outcomes: 0 });
            }
        }
    }

    fn add_row(&mut self, feature: u32, outcomes: u32, effect: &Effect, now: u64) {
        self.age(now);
        let row = self.mean.len();
        self.features.push(feature);
        let place = self.rows.partition_point(|(known, _)| *known < feature);
        self.rows.insert(place, (feature, u32::try_from(row).expect("rows are capped")));
        self.outcomes.push(outcomes);
        self.mean.push(effect.mean);
        self.covariance.extend(std::iter::repeat_n([0.0; COPIES], row));
        self.covariance.push(effect.variance);
    }

    /// Prior variance of a row.
    fn prior(row: usize) -> &'static Lanes {
        if row == 0 { &OWN } else { &OWN_FEATURE }
    }

    /// Works forgetting out up to `now`.
    pub(super) fn age(&mut self, now: u64) {
        if now == self.at {
            return;
        }
        let kept = kept(now - self.at);
        self.at = now;
        let squared = lanes(|copy| kept[copy] * kept[copy]);
        for mean in &mut self.mean {
            *mean = lanes(|copy| kept[copy] * mean[copy]);
        }
        for covariance in &mut self.covariance {
            *covariance = lanes(|copy| squared[copy] * covariance[copy]);
        }
        for row in 0..self.mean.len() {
            let (variance, prior) = (&mut self.covariance[place(row, row)], Self::prior(row));
            *variance = lanes(|copy| variance[copy] + (1.0 - squared[copy]) * prior[copy]);
        }
    }

    /// Splits what is active into rows and the sum of the rest.
    fn split(&self, active: &Active, now: u64, rows: &mut Vec<(usize, f64)>) -> Sum {
        let mut rest = Sum::default();
        let mut unknown = active.unknown_squares;
        rows.clear();
        rows.push((0, 1.0));
        for &(feature, x) in &active.features {
            if let Some(row) = self.row(feature) {
                rows.push((row, x));
            } else if let Some(cell) = self.cells.get(&feature) {
                cell.effect.add_to(&mut rest, x, &OWN_FEATURE, now);
            } else {
                unknown += x * x;
            }
        }
        rest.add_unknown(unknown, &OWN_FEATURE);
        rest
    }

    /// What is believed about the sum of the block's active effects. `rows` is scratch space.
    fn own(&self, active: &Active, now: u64, rows: &mut Vec<(usize, f64)>) -> Own {
        let rest = self.split(active, now, rows);
        let (mut mean, mut form, mut norm) = ([0.0; COPIES], [0.0; COPIES], 0.0);
        for (count, &(row, x)) in rows.iter().enumerate() {
            let diagonal = &self.covariance[place(row, row)];
            let mut line = lanes(|copy| 0.5 * x * diagonal[copy]);
            for &(other, y) in &rows[..count] {
                let covariance = &self.covariance[place(row, other)];
                for copy in 0..COPIES {
                    line[copy] += y * covariance[copy];
                }
            }
            for copy in 0..COPIES {
                mean[copy] += x * self.mean[row][copy];
                form[copy] += 2.0 * x * line[copy];
            }
            if count > 0 {
                norm += x * x;
            }
        }
        let kept = kept(now - self.at);
        let aged = |copy: usize, variance: f64, prior: f64| {
            let squared = kept[copy] * kept[copy];
            // Rounding must not make a variance negative.
            (squared * variance + (1.0 - squared) * prior).max(0.0)
        };
        let sum = Sum {
            mean: lanes(|copy| OWN_MEAN + kept[copy] * mean[copy] + rest.mean[copy]),
            variance: lanes(|copy| {
                let prior = OWN[copy] + norm * OWN_FEATURE[copy];
                aged(copy, form[copy], prior) + rest.variance[copy]
            }),
        };
        Own { sum, overall: lanes(|copy| aged(copy, self.covariance[0][copy], OWN[copy])) }
    }

    /// An agent of which nothing is known.
    fn unknown(active: &Active) -> Own {
        let squares: f64 = active.features.iter().map(|(_, x)| x * x).sum();
        let mut sum = Sum { mean: [OWN_MEAN; COPIES], variance: OWN };
        sum.add_unknown(squares + active.unknown_squares, &OWN_FEATURE);
        Own { sum, overall: OWN }
    }

    /// The effect of one feature and the agent's outcomes with it.
    fn effect_of(&self, feature: u32, now: u64) -> Option<(Effect, u32)> {
        if let Some(row) = self.row(feature) {
            let variance = self.covariance[place(row, row)];
            let effect = Effect { mean: self.mean[row], variance, at: self.at };
            return Some((effect.aged(&OWN_FEATURE, now), self.outcomes[row]));
        }
        let cell = self.cells.get(&feature)?;
        Some((cell.effect.aged(&OWN_FEATURE, now), cell.outcomes))
    }

    /// Covariances of every row with the sum of the active ones.
    fn gains(&self, rows: &[(usize, f64)]) -> Vec<Lanes> {
        let mut gains = vec![[0.0; COPIES]; self.mean.len()];
        for &(active, x) in rows {
            let line = &self.covariance[place(active, 0)..=place(active, active)];
            for (gain, covariance) in gains.iter_mut().zip(line) {
                for copy in 0..COPIES {
                    gain[copy] += x * covariance[copy];
                }
            }
            let mut below = place(active, active);
            for (row, gain) in gains.iter_mut().enumerate().skip(active + 1) {
                below += row;
                let covariance = &self.covariance[below];
                for copy in 0..COPIES {
                    gain[copy] += x * covariance[copy];
                }
            }
        }
        gains
    }

    fn learn(
        &mut self,
        active: &Active,
        now: u64,
        rows: &[(usize, f64)],
        gains: &[Lanes],
        step: &Step,
    ) {
        for (mean, gain) in self.mean.iter_mut().zip(gains) {
            for copy in 0..COPIES {
                mean[copy] += gain[copy] * step.error[copy];
            }
        }
        let mut rest = &mut *self.covariance;
        for (row, gain) in gains.iter().enumerate() {
            let (line, below) = rest.split_at_mut(row + 1);
            rest = below;
            let shrink = lanes(|copy| step.shrink[copy] * gain[copy]);
            for (covariance, other) in line.iter_mut().zip(gains) {
                for copy in 0..COPIES {
                    covariance[copy] -= shrink[copy] * other[copy];
                }
            }
        }
        for &(row, _) in rows {
            self.outcomes[row] += 1;
        }
        for &(feature, x) in &active.features {
            if self.row(feature).is_none()
                && let Some(cell) = self.cells.get_mut(&feature)
            {
                cell.effect.learn(x, &OWN_FEATURE, now, step);
                cell.outcomes += 1;
            }
        }
    }
}

/// What bounds the memory of effects and covariances, of all tenants together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Width {
    /// Rows of one agent beside that of `A`.
    pub(super) rows_max: usize,
    /// Entries of covariances, each of [`COPIES`] numbers.
    pub(super) covariances: usize,
    pub(super) covariances_max: usize,
    /// Features, and effects of agents without a row.
    pub(super) effects: usize,
    pub(super) effects_max: usize,
    pub(super) names_max: NamesMax,
    /// Features and effects that there was no room for.
    pub(super) refused: u64,
}

impl Width {
    pub(super) fn new(caps: &Caps, covariances: usize, effects: usize) -> Self {
        Self {
            rows_max: caps.joint_values_per_agent,
            covariances,
            covariances_max: (caps.covariances_mib << 20) / size_of::<Lanes>(),
            effects,
            effects_max: caps.effects,
            names_max: NamesMax::of(caps),
            refused: 0,
        }
    }
}

/// What one tenant's regression has beside the effects of its agents and task types.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Logistic {
    /// Outcomes learned: the clock of forgetting.
    pub(super) now: u64,
    /// Of the copies; sum to 1.
    pub(super) weights: Lanes,
    /// `b`.
    pub(super) base: Effect,
    pub(super) keys: Keys,
    /// `c_k` by feature.
    pub(super) features: Vector<Effect>,
    /// The first task type; the others and it have effects once there is a second.
    pub(super) first_task: Option<Arc<str>>,
    pub(super) has_tasks: bool,
}

impl Default for Logistic {
    fn default() -> Self {
        Self {
            now: 0,
            weights: [EVEN_WEIGHT; COPIES],
            base: Effect::new(&SHARED_BASE, 0),
            keys: Keys::default(),
            features: Vector::new(),
            first_task: None,
            has_tasks: false,
        }
    }
}

/// A part of an agent's log-odds, as an explanation shows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Contribution {
    /// Logits.
    pub(super) mean: f64,
    /// Standard deviation, logits.
    pub(super) deviation: f64,
    /// What it was learned from.
    pub(super) outcomes: u64,
}

/// The shared effect of a task type, and each agent's on it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct TaskEffects {
    pub(super) shared: Option<Effect>,
    /// By agent id.
    pub(super) own: OrdMap<u32, Effect>,
}

impl TaskEffects {
    pub(super) fn of(&self, agent_id: u32) -> Option<&Effect> {
        self.own.get(&agent_id)
    }
}

impl Logistic {
    /// The features of a context, met for the first time or again.
    fn observe(&mut self, context: &Context, width: &mut Width) -> Active {
        let (now, features) = (self.now, &mut self.features);
        self.keys.observe(context, width.names_max, || {
            if width.effects >= width.effects_max {
                width.refused += 1;
                return None;
            }
            width.effects += 1;
            features.push_back(Effect::new(&SHARED_FEATURE, now));
            Some(u32::try_from(features.len() - 1).expect("effects are capped"))
        })
    }

    /// The features of a context in a question.
    pub(super) fn active(&self, context: &Context, caps: &Caps) -> Active {
        self.keys.active(context, NamesMax::of(caps))
    }

    /// Whether task types have effects when this one is met or asked about.
    pub(super) fn has_tasks(&self, task_type: &str) -> bool {
        self.has_tasks || self.first_task.as_ref().is_some_and(|first| **first != *task_type)
    }

    pub(super) fn weights(&self) -> Lanes {
        self.weights
    }

    /// What each copy assumes, and its weight.
    pub(super) fn copies(&self) -> Vec<CopyWeight> {
        let copies = ASSUMES.iter().zip(self.weights);
        copies.map(|(&assumes, weight)| CopyWeight { assumes, weight }).collect()
    }

    /// What is believed about the shared effects on a question.
    pub(super) fn shared(
        &self,
        active: &Active,
        has_tasks: bool,
        task: Option<&TaskEffects>,
    ) -> Sum {
        let mut sum = Sum::default();
        self.base.add_to(&mut sum, 1.0, &SHARED_BASE, self.now);
        if has_tasks {
            match task.and_then(|task| task.shared.as_ref()) {
                Some(effect) => effect.add_to(&mut sum, 1.0, &SHARED_TASK, self.now),
                None => sum.add_unknown(1.0, &SHARED_TASK),
            }
        }
        for &(feature, x) in &active.features {
            self.features[feature as usize].add_to(&mut sum, x, &SHARED_FEATURE, self.now);
        }
        sum.add_unknown(active.unknown_squares, &SHARED_FEATURE);
        sum
    }

    /// What one effect adds to the log-odds, over the copies: mean and standard deviation.
    fn weighted(&self, x: f64, mean: &Lanes, variance: &Lanes) -> Contribution {
        let of = |value: &dyn Fn(usize) -> f64| -> f64 {
            (0..COPIES).map(|copy| self.weights[copy] * value(copy)).sum()
        };
        let centre = of(&|copy| x * mean[copy]);
        let square = of(&|copy| x * x * variance[copy] + (x * mean[copy] - centre).powi(2));
        Contribution { mean: centre, deviation: square.max(0.0).sqrt(), outcomes: 0 }
    }

    /// An agent's overall effect beside its prior mean.
    pub(super) fn overall(&self, block: Option<&Block>) -> Contribution {
        let Some(block) = block else { return self.weighted(1.0, &[0.0; COPIES], &OWN) };
        let effect = Effect { mean: block.mean[0], variance: block.covariance[0], at: block.at };
        let aged = effect.aged(&OWN, self.now);
        let outcomes = block.outcomes[0].into();
        Contribution { outcomes, ..self.weighted(1.0, &aged.mean, &aged.variance) }
    }

    /// An agent's effect on a task type.
    pub(super) fn on_task(&self, effect: Option<&Effect>) -> Contribution {
        let unknown = Effect::new(&OWN_TASK, self.now);
        let aged = effect.unwrap_or(&unknown).aged(&OWN_TASK, self.now);
        self.weighted(1.0, &aged.mean, &aged.variance)
    }

    /// An agent's effect of one context feature.
    pub(super) fn on_feature(&self, active: &Active, block: Option<&Block>) -> Contribution {
        let Some(&(feature, x)) = active.features.first() else {
            let x = active.unknown_squares.sqrt();
            return self.weighted(x, &[0.0; COPIES], &OWN_FEATURE);
        };
        match block.and_then(|block| block.effect_of(feature, self.now)) {
            Some((effect, outcomes)) => Contribution {
                outcomes: outcomes.into(),
                ..self.weighted(x, &effect.mean, &effect.variance)
            },
            None => self.weighted(x, &[0.0; COPIES], &OWN_FEATURE),
        }
    }

    /// What all agents share on a question.
    pub(super) fn in_common(&self, shared: &Sum) -> Contribution {
        Contribution { outcomes: self.now, ..self.weighted(1.0, &shared.mean, &shared.variance) }
    }

    /// What is believed about an agent's own effects on a question. `task` is its effect on the task
    /// type, if it has one; `has_tasks` is false when task types have no effects. `rows` is scratch
    /// space.
    pub(super) fn own(
        &self,
        active: &Active,
        block: Option<&Block>,
        has_tasks: bool,
        task: Option<&Effect>,
        rows: &mut Vec<(usize, f64)>,
    ) -> Own {
        let mut own = match block {
            Some(block) => block.own(active, self.now, rows),
            None => Block::unknown(active),
        };
        if has_tasks {
            match task {
                Some(effect) => effect.add_to(&mut own.sum, 1.0, &OWN_TASK, self.now),
                None => own.sum.add_unknown(1.0, &OWN_TASK),
            }
        }
        own
    }

    /// Learns that an agent had this reward, `0..=1`. `task` holds the effects of the task type
    /// and whether the agent may have one of its own there. Returns the expected reward before that.
    pub(super) fn learn(
        &mut self,
        context: &Context,
        task: Option<(&str, &mut TaskEffects, bool)>,
        agent_id: u32,
        block: &mut Option<Arc<Block>>,
        reward: f64,
        width: &mut Width,
    ) -> f64 {
        let now = self.now;
        let active = self.observe(context, width);
        let block = block.get_or_insert_with(|| {
            width.covariances += 1;
            Arc::new(Block::new(now))
        });
        let block = Arc::make_mut(block);
        block.admit(&active, now, width);
        block.age(now);

        let task = task.filter(|(name, ..)| {
            self.has_tasks = self.has_tasks(name);
            self.first_task.get_or_insert_with(|| (*name).into());
            self.has_tasks
        });
        let (mut shared_task, mut own_task) = (None, None);
        if let Some((_, effects, may_own)) = task {
            shared_task =
                Some(effects.shared.get_or_insert_with(|| Effect::new(&SHARED_TASK, now)));
            if may_own {
                let effect = effects.own.entry(agent_id);
                own_task = Some(effect.or_insert_with(|| Effect::new(&OWN_TASK, now)));
            }
        }

        // The belief in the sum of all that is active.
        let mut rows = Vec::with_capacity(active.features.len() + 1);
        let mut sum = block.split(&active, now, &mut rows);
        let gains = block.gains(&rows);
        for &(row, x) in &rows {
            for copy in 0..COPIES {
                sum.mean[copy] += x * block.mean[row][copy];
                sum.variance[copy] += x * gains[row][copy];
            }
        }
        sum.mean = lanes(|copy| OWN_MEAN + sum.mean[copy]);
        if let Some(effect) = &own_task {
            effect.add_to(&mut sum, 1.0, &OWN_TASK, now);
        }
        if let Some(effect) = &shared_task {
            effect.add_to(&mut sum, 1.0, &SHARED_TASK, now);
        }
        self.base.add_to(&mut sum, 1.0, &SHARED_BASE, now);
        for &(feature, x) in &active.features {
            self.features[feature as usize].add_to(&mut sum, x, &SHARED_FEATURE, now);
        }

        let foretold = self.weigh(&sum, reward);
        let step = Step::of(&sum, reward);
        block.learn(&active, now, &rows, &gains, &step);
        if let Some(effect) = own_task {
            effect.learn(1.0, &OWN_TASK, now, &step);
        }
        if let Some(effect) = shared_task {
            effect.learn(1.0, &SHARED_TASK, now, &step);
        }
        self.base.learn(1.0, &SHARED_BASE, now, &step);
        for &(feature, x) in &active.features {
            self.features[feature as usize].learn(x, &SHARED_FEATURE, now, &step);
        }
        self.now += 1;
        foretold
    }

    /// Weighs the copies by how well they foretold `reward`. Returns what they did together, by
    /// their weights until then, `0..=1`.
    fn weigh(&mut self, sum: &Sum, reward: f64) -> f64 {
        let log_odds = lanes(|copy| sum.mean[copy] * moderation(sum.variance[copy]));
        let foretold = lanes(|copy| self.weights[copy] * sigmoid(log_odds[copy]));
        let evidence = lanes(|copy| {
            let z = log_odds[copy];
            -reward * softplus(-z) - (1.0 - reward) * softplus(z)
        });
        // Relative to the best, so that not all of them can vanish.
        let best = evidence.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let earned = lanes(|copy| self.weights[copy] * (evidence[copy] - best).exp());
        let total: f64 = earned.iter().sum();
        self.weights = lanes(|copy| {
            (1.0 - WEIGHT_SHARED) * earned[copy] / total + WEIGHT_SHARED * EVEN_WEIGHT
        });
        // Weights sum to 1 up to rounding.
        foretold.iter().sum::<f64>().clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Newton steps from both sides of the steep part of the curve, each inside the bracket, hardly
    /// narrowed it: a success of an agent that was all but sure to fail.
    #[test]
    fn the_mode_is_found_across_the_steep_part() {
        let (mean, variance) = (-14.111_367_526_976_776, 2.863_648_009_452_380_6_f64.exp());
        let z = mode(mean, variance, 1.0);
        let rest = z - mean - variance * (1.0 - sigmoid(z));
        assert!(rest.abs() < 1e-6, "{z}: {rest}");
    }

    proptest! {
        #[test]
        fn the_mode_is_the_root(
            mean in -40.0..40.0_f64, ln_variance in -20.0..8.0_f64, reward in 0.0..=1.0_f64,
        ) {
            let variance = ln_variance.exp();
            for reward in [0.0, reward, 1.0] {
                let z = mode(mean, variance, reward);
                let rest = z - mean - variance * (reward - sigmoid(z));
                // The slope of this is at least 1.
                prop_assert!(rest.abs() < 1e-6 * (1.0 + z.abs() + variance), "{z}: {rest}");
            }
        }
    }
}
