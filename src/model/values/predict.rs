//! What is said of a measure: how it follows from the windows.
//!
//! # The mean
//!
//! `l` is the mean of an agent on a task type on the measure's scale: for quality the mean itself, for
//! latency and cost the logarithm of the mean amount (not the mean of the logarithms: no shape is
//! assumed). With `V` the variance of one execution, relative to the mean where the scale is logarithmic,
//! and `n` values,
//!
//! ```text
//! seen     l_seen ~ N(l, V / n)
//! task     l      ~ N(A, t1)        A: of the agent on any task type, by its other ones
//! agent    A      ~ N(P, t2)        P: of any agent of the tenant, by the other ones
//! ```
//!
//! `t1` and `t2` are estimated by moments: how much further groups are apart than `V` explains
//! (`DerSimonian` and Laird, Controlled Clinical Trials 7, 1986), beside a prior that counts as
//! [`SPREAD_WEIGHT`] groups. A group never helps to predict itself.
//!
//! # Absurd values
//!
//! What lies above the median by more than [`FAR`] robust deviations (1.4826 times the median absolute
//! deviation, of logarithms) counts as that far, as long as such values are fewer than [`RECURRING`] and than
//! one in a hundred, and so few of the tenant's last values are as large. Where they recur, they are no mistakes,
//! and count in full: executions that hang.
//!
//! # Cut short
//!
//! A latency that was cut short is "at least so long". It stands at a quantile of what a log-normal
//! distribution has above it, fitted to the window by expectation maximisation (Dempster, Laird and Rubin,
//! JRSS B 39, 1977) with a spread of at most [`SPREAD_MAX`] times that of those that were not cut short:
//! what nobody has seen is not made up.

use std::sync::{Arc, LazyLock};

use super::effects::{Active, Asked, agent_tag, tag, task_id};
use super::measure::Measure;
use super::records::{Own, Values};
use super::window::Window;
use crate::outcome::Context;
use crate::stats::normal::{self, Z_95};

/// Values on the task type from which on they alone count.
pub(super) const ENOUGH: usize = 100;
/// As many values as what is believed beforehand of one execution is worth.
pub(super) const PRIOR_VALUES: f64 = 5.0;
/// Deviations above the median beyond which a value is far.
const FAR: f64 = 4.0;
/// Least robust deviation that this is of, on the logarithmic scale.
const DEVIATION_MIN: f64 = 0.3;
/// The same where values are few, of what is believed beforehand.
const DEVIATION_BEFORE_MIN: f64 = 1.0;
/// Degrees of freedom of how agents, and task types of an agent, are spread.
const DEGREES: f64 = 4.0;
/// Far values from which on they are no mistakes, unless they are under one in a hundred.
const RECURRING: usize = 3;
/// Values whose median and deviation say which others are far.
const HELD: usize = 5;
/// Standard deviation of a Gaussian in median absolute deviations.
const MAD: f64 = 1.4826;
/// See above.
const SPREAD_MAX: f64 = 2.0;
/// Least deviation of what is cut short.
const CUT_DEVIATION_MIN: f64 = 0.05;
/// Steps of expectation maximisation, and the one that ends it, in deviations.
const STEPS_MAX: usize = 100;
const STEP_MIN: f64 = 1e-5;

/// Values that the prior variance of one execution counts as.
const VARIANCE_WEIGHT: f64 = 4.0;
/// Groups that the prior spread between groups counts as.
const SPREAD_WEIGHT: f64 = 2.0;
/// Differences of context that are none, on the scale of a measure.
const SAME: [f64; 3] = [0.01, 0.05, 0.05];
/// Share of the tenant's mean below which no mean is told apart from none.
const MEAN_MIN: f64 = 1e-4;
/// What is free counts as this share of the cheapest that is not, to expect something of others by it.
const FREE: f64 = 0.1;
/// Values of another record by which the shape of one execution is told.
const SHAPE_MAX: usize = 128;
/// Largest amount that is answered.
const AMOUNT_MAX: f64 = 1e12;
/// A variance that says nothing.
const UNKNOWN: f64 = 1e6;

impl Measure {
    fn is_logarithmic(self) -> bool {
        self != Self::Quality
    }

    /// Prior spreads between agents, and between an agent's task types, as variances on its scale.
    fn prior_spreads(self) -> [f64; 2] {
        match self {
            Self::Quality => [0.03, 0.02],
            Self::Latency | Self::Cost => [0.5, 0.25],
        }
    }

    /// Prior variance of one execution, of latency and cost relative to the squared mean.
    fn prior_variance(self) -> f64 {
        match self {
            Self::Quality => 0.0625,
            Self::Latency | Self::Cost => 1.0,
        }
    }

    fn unscaled(self, l: f64) -> f64 {
        match self {
            Self::Quality => l.clamp(0.0, 1.0),
            Self::Latency | Self::Cost => l.exp().min(AMOUNT_MAX),
        }
    }
}

/// What is believed of the mean of a measure of an agent on a question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    measure: Measure,
    /// Of the mean, on the scale of the measure.
    centre: f64,
    variance: f64,
}

impl Value {
    /// What it is about.
    pub fn measure(&self) -> Measure {
        self.measure
    }

    /// Posterior mean; of latency and cost at the posterior mean of its logarithm.
    pub fn mean(&self) -> f64 {
        self.measure.unscaled(self.centre)
    }

    /// A draw of the mean, from a standard Gaussian `z`; grows with `z`.
    pub fn drawn(&self, z: f64) -> f64 {
        self.measure.unscaled(self.centre + z * self.variance.sqrt())
    }

    /// 90 % credible interval of the mean, `[low, high]`.
    pub fn interval(&self) -> [f64; 2] {
        [-Z_95, Z_95].map(|z| self.drawn(z))
    }
}

/// A prediction of a measure for one agent.
#[derive(Debug, Clone)]
pub struct Predicted {
    /// The agent's name.
    pub agent: Arc<str>,
    /// What is believed; `None` when the tenant has no value of the measure: unknown is not zero.
    pub value: Option<Value>,
    /// What one execution stays below with each probability that was asked for; empty for quality, and
    /// without a value.
    pub quantiles: Vec<f64>,
    /// Values of the agent, those that were cut short included.
    pub samples: u64,
    /// Those on this task type; of any, when the question names none.
    pub evidence: u64,
}

/// A value as it would be in the context of the question.
#[derive(Debug, Clone, Copy)]
struct Adjusted {
    value: f64,
    tag: u32,
}

fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[expect(clippy::cast_precision_loss, reason = "values are few")]
fn number(count: usize) -> f64 {
    count as f64
}

/// The window's values in the context of the question, those cut short where they are taken to end.
fn adjusted(window: &Window, asked: Asked, measure: Measure) -> Vec<Adjusted> {
    let shift = |offset: f32| match asked.exactly {
        Some(sum) => sum - f64::from(offset),
        None => asked.more_than_usual,
    };
    let is_same = |offset: f32| shift(offset).abs() <= SAME[measure as usize];
    // Where enough came in the same context, nothing has to be exchanged.
    let same = window.iter().filter(|entry| is_same(entry.offset)).count();
    let same_alone = same >= ENOUGH;
    let mut values: Vec<f64> = Vec::with_capacity(window.len());
    let mut tags: Vec<u32> = Vec::with_capacity(window.len());
    for entry in window.iter().filter(|entry| !same_alone || is_same(entry.offset)) {
        let shift = shift(entry.offset);
        // A time limit is the same whatever the context.
        values.push(if is_same(entry.offset) || entry.value < 0.0 {
            entry.value
        } else if measure.is_logarithmic() {
            (entry.value * shift.exp()).clamp(-AMOUNT_MAX, AMOUNT_MAX)
        } else {
            (entry.value + shift).clamp(0.0, 1.0)
        });
        tags.push(entry.tag);
    }
    place_cut_short(&mut values);
    values.into_iter().zip(tags).map(|(value, tag)| Adjusted { value, tag }).collect()
}

/// Puts values that were cut short, which are negative, where they are taken to end.
fn place_cut_short(values: &mut [f64]) {
    let limits: Vec<f64> = values.iter().filter(|v| **v < 0.0).map(|v| (-v).ln()).collect();
    if limits.is_empty() {
        return;
    }
    let seen: Vec<f64> = values.iter().filter(|v| **v > 0.0).map(|v| v.ln()).collect();
    let fit = log_normal(&seen, &limits);
    let mut next = 0.5;
    for value in values.iter_mut().filter(|value| **value < 0.0) {
        let limit = -*value;
        *value = match fit {
            Some((mean, deviation)) => {
                // Quantiles in an order that does not depend on the limits (additive recurrence).
                next = (next + 0.618_033_988_749_895_f64).fract();
                let above = normal::below((mean - limit.ln()) / deviation) * (1.0 - next);
                let y = mean - deviation * normal::quantile(above.clamp(1e-300, 0.5_f64.next_up()));
                y.exp().clamp(limit, AMOUNT_MAX)
            }
            None => limit,
        };
    }
}

/// Mean and deviation of the logarithms, some of which are at least `limits`; `None` where too few were seen
/// to tell.
fn log_normal(seen: &[f64], limits: &[f64]) -> Option<(f64, f64)> {
    if seen.len() < HELD {
        return None;
    }
    let (count, cut) = (number(seen.len()), number(limits.len()));
    let middle = median(&mut seen.to_vec());
    let mut deviations: Vec<f64> = seen.iter().map(|y| (y - middle).abs()).collect();
    let most = SPREAD_MAX * (MAD * median(&mut deviations)).max(CUT_DEVIATION_MIN);
    let sum: f64 = seen.iter().sum();
    let squares: f64 = seen.iter().map(|y| y * y).sum();
    let limit = limits.iter().sum::<f64>() / cut;
    let limits_squared = limits.iter().map(|c| c * c).sum::<f64>() / cut;
    let all = count + cut;
    let (mut mean, mut deviation) = (sum / count, most);
    for _ in 0..STEPS_MAX {
        let z = (limit - mean) / deviation;
        let hazard = normal::hazard(z);
        // Mean excess over the limit, and its variance.
        let excess = (deviation * (hazard - z)).max(0.0);
        let variance = (deviation * deviation * (1.0 + z * hazard - hazard * hazard)).max(0.0);
        let placed = limits_squared + 2.0 * excess * limit + excess * excess + variance;
        let next = (sum + cut * (limit + excess)) / all;
        let spread = ((squares + cut * placed) / all - next * next).max(0.0).sqrt();
        let step = (next - mean).abs() + (spread.min(most) - deviation).abs();
        (mean, deviation) = (next, spread.clamp(CUT_DEVIATION_MIN, most));
        if step <= STEP_MIN * deviation {
            break;
        }
    }
    Some((mean, deviation))
}

/// Lets values that are far above the others, and above `least_edge`, count as at the edge of what is near;
/// where there are too few to tell, above what is believed beforehand, if anything is.
fn clip(values: &mut [Adjusted], measure: Measure, edge_before: Option<f64>, least_edge: f64) {
    let few = if edge_before.is_some() { HELD } else { RECURRING };
    if !measure.is_logarithmic() || values.is_empty() {
        return;
    }
    let edge = if values.len() < few {
        edge_before.unwrap_or(f64::INFINITY)
    } else {
        let middle = median(&mut values.iter().map(|v| v.value).collect::<Vec<f64>>());
        let ln = |value: f64| value.max(1e-12).ln();
        let mut deviations: Vec<f64> =
            values.iter().map(|v| (ln(v.value) - ln(middle)).abs()).collect();
        middle * (FAR * (MAD * median(&mut deviations)).max(DEVIATION_MIN)).exp()
    };
    let edge = edge.max(least_edge);
    let far = values.iter().filter(|v| v.value > edge).count();
    if far < RECURRING.max(values.len() / 100) {
        for one in values.iter_mut() {
            one.value = one.value.min(edge);
        }
    }
}

/// Values under one tag.
#[derive(Debug, Clone, Copy)]
struct Group {
    tag: u32,
    count: f64,
    mean: f64,
    /// Sum of squared deviations, of latency and cost relative to the mean.
    squares: f64,
}

impl Group {
    fn of(tag: u32, values: &[Adjusted], measure: Measure) -> Self {
        let count = number(values.len());
        let mean = values.iter().map(|v| v.value).sum::<f64>() / count;
        let unit = if measure.is_logarithmic() { mean } else { 1.0 };
        let squares = if unit > 0.0 {
            values.iter().map(|v| ((v.value - mean) / unit).powi(2)).sum()
        } else {
            0.0
        };
        Self { tag, count, mean, squares }
    }
}

/// All groups, and their values relative to the mean of each, by which the shape of one execution is told.
#[derive(Debug, Clone, Default)]
struct Groups {
    groups: Vec<Group>,
    shape: Vec<Adjusted>,
}

impl Groups {
    fn new(mut values: Vec<Adjusted>, measure: Measure, least_edge: f64) -> Self {
        clip(&mut values, measure, None, least_edge);
        let mut sorted = values.clone();
        sorted.sort_by_key(|v| v.tag);
        let groups: Vec<Group> = sorted
            .chunk_by(|a, b| a.tag == b.tag)
            .map(|of_tag| Group::of(of_tag[0].tag, of_tag, measure))
            .collect();
        let shape = if measure.is_logarithmic() {
            let relative = |v: &Adjusted| {
                let place = groups.binary_search_by_key(&v.tag, |group| group.tag).ok()?;
                let group = groups[place];
                (group.count > 1.0 && group.mean > 0.0).then(|| {
                    // Values lie nearer to the mean of few than to the true one.
                    let wider = (group.count / (group.count - 1.0)).sqrt();
                    let value = (1.0 + (v.value / group.mean - 1.0) * wider).max(0.0);
                    Adjusted { value, tag: v.tag }
                })
            };
            values.iter().rev().filter_map(relative).take(2 * SHAPE_MAX).collect()
        } else {
            Vec::new()
        };
        Self { groups, shape }
    }

    fn others(&self, tag: u32) -> impl Iterator<Item = Group> {
        self.groups.iter().filter(move |group| group.tag != tag).copied()
    }

    /// Variance of one execution within a group.
    fn within(&self, prior: f64) -> f64 {
        let (mut weight, mut squares) = (VARIANCE_WEIGHT, VARIANCE_WEIGHT * prior);
        for group in &self.groups {
            weight += group.count - 1.0;
            squares += group.squares;
        }
        squares / weight
    }
}

/// A Gaussian belief.
#[derive(Debug, Clone, Copy)]
struct Gaussian {
    mean: f64,
    variance: f64,
}

impl Gaussian {
    /// What is believed when something was seen by `count` values. Where these are no mistake, the belief
    /// yields to what lies far from it, as Student's distribution with [`DEGREES`] does (one step of
    /// expectation maximisation: Lange, Little and Taylor, JASA 84, 1989): that all others are alike does
    /// not say that one can't be different.
    fn with(self, seen: Self, count: f64) -> Self {
        let surprise = (seen.mean - self.mean).powi(2) / (self.variance + seen.variance);
        let yields =
            if count < number(RECURRING) { 1.0 } else { (DEGREES + surprise) / (DEGREES + 1.0) };
        let variance = self.variance * yields.max(1.0);
        let precision = 1.0 / variance + 1.0 / seen.variance;
        let sum = self.mean / variance + seen.mean / seen.variance;
        Self { mean: sum / precision, variance: 1.0 / precision }
    }
}

/// What groups say of one more of them: where they lie, and how far apart. `within` is the variance of one
/// execution, `spread` the prior variance between groups.
fn between(
    groups: impl Iterator<Item = Group>,
    scaled: impl Fn(f64) -> f64,
    within: f64,
    spread: f64,
) -> (Gaussian, f64) {
    let seen: Vec<(f64, f64)> =
        groups.map(|group| (scaled(group.mean), within / group.count)).collect();
    if seen.is_empty() {
        return (Gaussian { mean: 0.0, variance: UNKNOWN }, spread);
    }
    let count = number(seen.len());
    let mean = seen.iter().map(|(l, _)| l).sum::<f64>() / count;
    let squares: f64 = seen.iter().map(|(l, _)| (l - mean).powi(2)).sum();
    let noise = seen.iter().map(|(_, variance)| variance).sum::<f64>() * (1.0 - 1.0 / count);
    let spread =
        (SPREAD_WEIGHT * spread + (squares - noise).max(0.0)) / (SPREAD_WEIGHT + count - 1.0);
    let (mut precision, mut sum) = (0.0, 0.0);
    for (l, variance) in seen {
        precision += 1.0 / (spread + variance);
        sum += l / (spread + variance);
    }
    (Gaussian { mean: sum / precision, variance: 1.0 / precision }, spread)
}

/// A question to a tenant about a measure.
pub(in crate::model) struct Asking<'a> {
    measure: Measure,
    values: &'a Values,
    active: Vec<Active>,
    task: Option<u64>,
    /// By agent.
    pool: Groups,
    pool_within: f64,
    /// The tenant's largest values but two: what recurs is no mistake, whoever it was.
    least_edge: f64,
    /// The least mean that is told apart from none: of the agent itself, and of those by which another
    /// one is judged. A free agent would make everybody's expected cost next to nothing.
    least: f64,
    least_of_others: f64,
}

impl<'a> Asking<'a> {
    pub(in crate::model) fn new(
        values: &'a Values,
        measure: Measure,
        task_type: Option<&str>,
        context: &Context,
    ) -> Option<Self> {
        let pool = values.pools[measure as usize].as_deref()?;
        let task = task_type.map(task_id);
        let active = values.contexts.active(context, task);
        let asked = values.contexts.asked(&active, None, measure as usize, values.now, true);
        let values_of_all = adjusted(&pool.record.window, asked, measure);
        let mut largest: Vec<f64> = values_of_all.iter().map(|v| v.value).collect();
        let recurring = largest.len().checked_sub(RECURRING);
        let least_edge =
            recurring.map_or(0.0, |place| *largest.select_nth_unstable_by(place, f64::total_cmp).1);
        let pool = Groups::new(values_of_all, measure, 0.0);
        let pool_within = pool.within(measure.prior_variance());
        let count: f64 = pool.groups.iter().map(|group| group.count).sum();
        let mean = pool.groups.iter().map(|group| group.mean * group.count).sum::<f64>() / count;
        let least = if mean > 0.0 { MEAN_MIN * mean } else { f64::MIN_POSITIVE.sqrt() };
        let means = pool.groups.iter().map(|group| group.mean).filter(|mean| *mean > 0.0);
        let least_of_others = FREE * means.fold(f64::INFINITY, f64::min).min(AMOUNT_MAX);
        let least_of_others = if mean > 0.0 { least_of_others.max(least) } else { least };
        Some(Self {
            measure,
            values,
            active,
            task,
            pool,
            pool_within,
            least_edge,
            least,
            least_of_others,
        })
    }

    fn scaled(&self, mean: f64) -> f64 {
        if self.measure.is_logarithmic() { mean.max(self.least).ln() } else { mean }
    }

    /// What is asked of an agent's own windows.
    fn asked(&self, own: Option<&Own>, with_task: bool) -> Asked {
        let effects = own.map(|own| &own.effects);
        let (measure, now) = (self.measure as usize, self.values.now);
        self.values.contexts.asked(&self.active, effects, measure, now, with_task)
    }

    /// What is predicted of an agent.
    pub(in crate::model) fn predicted(
        &self,
        agent: Arc<str>,
        own: Option<&Own>,
        at: &[f64],
    ) -> Predicted {
        let measure = self.measure;
        let whole = own.map(|own| &own.records[measure as usize]);
        let cell = self
            .task
            .zip(own)
            .and_then(|(task, own)| own.cells.get(&task)?.records[measure as usize].as_deref());
        let samples = whole.map_or(0, |record| record.count);
        let task_tag = self.task.map_or(0, tag);
        // The agent's values on the question's task type, or all where it has none; and its others.
        let (mut evidence, mut seen, mut others) = (samples, Vec::new(), Vec::new());
        if self.task.is_some() {
            if let Some(cell) = cell {
                evidence = cell.count;
                seen = adjusted(&cell.window, self.asked(own, false), measure);
            }
            if seen.len() < ENOUGH
                && let Some(whole) = whole
            {
                let all = adjusted(&whole.window, self.asked(own, true), measure);
                let of_task: Vec<Adjusted>;
                (of_task, others) = all.into_iter().partition(|one| one.tag == task_tag);
                if cell.is_none() {
                    evidence = of_task.len() as u64;
                    seen = of_task;
                }
            }
        } else if let Some(whole) = whole {
            seen = adjusted(&whole.window, self.asked(own, false), measure);
        }

        if seen.len() >= ENOUGH {
            let quantiles = self.quantiles(&seen, None, at);
            let (value, _) = self.value(seen, None, self.pool_within);
            return Predicted { agent, value: Some(value), quantiles, samples, evidence };
        }

        let [agents_spread, tasks_spread] = measure.prior_spreads();
        // No agent helps to predict itself, unless there is nobody else and nothing else of it.
        let own_tag = agent_tag(&agent);
        let is_alone = self.pool.others(own_tag).next().is_none();
        let without = if is_alone && seen.is_empty() && others.is_empty() { 0 } else { own_tag };
        let scaled = |mean: f64| {
            if measure.is_logarithmic() { mean.max(self.least_of_others).ln() } else { mean }
        };
        let pool_others = self.pool.others(without);
        let (any, spread) = between(pool_others, scaled, self.pool_within, agents_spread);
        let mut before = Gaussian { variance: any.variance + spread, ..any };
        let own_count = number(others.len());
        let others = Groups::new(others, measure, self.least_edge);
        let within = others.within(self.pool_within);
        if self.task.is_some() {
            let own_others = others.others(task_tag);
            let (own, spread) = between(own_others, scaled, within, tasks_spread);
            before = before.with(own, own_count);
            before.variance += spread;
        }
        let raw = if at.is_empty() { Vec::new() } else { seen.clone() };
        let (value, within) = self.value(seen, Some(before), within);
        let shape = || self.one_more(&others, without, value, within);
        let quantiles = self.quantiles(&raw, Some(&shape), at);
        Predicted { agent, value: Some(value), quantiles, samples, evidence }
    }

    /// What is believed of the mean, and the variance of one execution.
    fn value(
        &self,
        mut seen: Vec<Adjusted>,
        before: Option<Gaussian>,
        within: f64,
    ) -> (Value, f64) {
        let measure = self.measure;
        let edge = before.map(|before| {
            let deviation = (before.variance + within.ln_1p()).sqrt();
            (before.mean + FAR * deviation.max(DEVIATION_BEFORE_MIN)).exp()
        });
        clip(&mut seen, measure, edge, self.least_edge);
        if let (Some(Gaussian { mean: centre, variance }), true) = (before, seen.is_empty()) {
            return (Value { measure, centre, variance }, within);
        }
        let group = Group::of(0, &seen, measure);
        let degrees = VARIANCE_WEIGHT + group.count - 1.0;
        let within = (VARIANCE_WEIGHT * within + group.squares) / degrees;
        // The Gaussian with the variance of Student's distribution, which the mean has.
        let variance = within / group.count * degrees / (degrees - 2.0);
        let own = Gaussian { mean: self.scaled(group.mean), variance: variance.max(1e-18) };
        let Gaussian { mean: centre, variance } =
            before.map_or(own, |before| before.with(own, group.count));
        (Value { measure, centre, variance }, within)
    }

    /// What one execution may be before any was seen, all equally likely: as others lie around their
    /// means, around the mean that is believed. The agent's others count in proportion to their number.
    fn one_more(
        &self,
        others: &Groups,
        without: u32,
        value: Value,
        within: f64,
    ) -> Vec<(f64, f64)> {
        let own: Vec<f64> = others.shape.iter().map(|v| v.value).take(SHAPE_MAX).collect();
        let pool = self.pool.shape.iter().filter(|v| v.tag != without);
        let pool: Vec<f64> = pool.map(|v| v.value).take(SHAPE_MAX).collect();
        let own_share = match (own.len(), pool.len()) {
            (0, 0) => {
                // Nobody has shown a shape: that of a log-normal distribution.
                let variance = within.ln_1p();
                let deviation = (value.variance + variance).sqrt();
                let at = |z: &f64| (value.centre - 0.5 * variance + deviation * z).exp();
                let weight = PRIOR_VALUES / number(SHAPE_MAX);
                return SPREAD_OUT.iter().map(|z| (at(z).min(AMOUNT_MAX), weight)).collect();
            }
            (_, 0) => 1.0,
            (own, _) => number(own) / (number(own) + PRIOR_VALUES),
        };
        let deviation = value.variance.sqrt();
        let mut points = Vec::with_capacity(own.len() + pool.len());
        for (shape, share) in [(own, own_share), (pool, 1.0 - own_share)] {
            let weight = PRIOR_VALUES * share / number(shape.len());
            let point = |(relative, z): (f64, &f64)| {
                let amount = relative * (value.centre + deviation * z).exp();
                (amount.min(AMOUNT_MAX), weight)
            };
            points.extend(shape.into_iter().zip(&*SPREAD_OUT).map(point));
        }
        points
    }

    /// What one execution stays below with each probability: of as many values as are [`ENOUGH`], the one
    /// above which the next lies with the rest of it, whatever the distribution (Vovk, Gammerman and
    /// Shafer, Algorithmic Learning in a Random World, 2005); of fewer, with what else it may be.
    fn quantiles(
        &self,
        seen: &[Adjusted],
        one_more: Option<&dyn Fn() -> Vec<(f64, f64)>>,
        at: &[f64],
    ) -> Vec<f64> {
        if at.is_empty() || !self.measure.is_logarithmic() {
            return Vec::new();
        }
        let mut points: Vec<(f64, f64)> = seen.iter().map(|v| (v.value, 1.0)).collect();
        let all = match one_more {
            Some(one_more) => {
                points.extend(one_more());
                points.iter().map(|(_, weight)| weight).sum()
            }
            None => number(seen.len() + 1),
        };
        points.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let last = points.last().map_or(0.0, |(value, _)| *value);
        let quantile = |p: &f64| {
            // Weights are added up with rounding.
            let wanted = p * all - 1e-9;
            let mut below = 0.0;
            let reaches = |(_, weight): &&(f64, f64)| {
                below += weight;
                below >= wanted
            };
            points.iter().find(reaches).map_or(last, |(value, _)| *value)
        };
        at.iter().map(quantile).collect()
    }
}

/// Gaussian deviations in an order in which neighbours lie far apart (additive recurrence).
static SPREAD_OUT: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let place = |index: usize| (0.5 + number(index) * 0.618_033_988_749_895).fract();
    (0..SHAPE_MAX).map(|index| normal::quantile(place(index).max(1e-9))).collect()
});
