//! What an execution brings beside success: quality, latency and cost, each predicted by the same
//! mechanism.
//!
//! # The model
//!
//! A measure `y` (quality, the logarithm of latency, cost) is a linear regression per agent, over an
//! intercept, the task type and the features of the context ([`Sums`]). Its prior mean is the regression
//! of the whole tenant, the *pool*: what an agent has not shown, it is assumed to do as the others do.
//! How far agents may differ from the pool is not assumed but estimated, from how much more all
//! values of the tenant vary than those of one agent on one task type: empirical Bayes (Efron and
//! Morris, JASA 70, 1975).
//!
//! Latency is learned on a log scale: its noise is a factor, and the mean is that of a log-normal
//! distribution. A timeout says "at least", and is a censored observation.
//!
//! # Absurd values
//!
//! One latency that is wrong by many orders of magnitude would move an agent's mean and blow up its
//! spread. So latencies count only up to [`FAR`] deviations from those of the agent on the task type
//! (Winsor's principle: Huber, Robust Statistics, 1981, section 1.7), first by median and median absolute
//! deviation of the first [`HELD`], then by running moments that forget soon enough to follow an agent
//! that really changes. Costs are not cut: what was paid was paid.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::features::{Active, Keys, NamesMax};
use super::normal::{self, Z_95, Z_99};
use super::selection::{Asked, Question};
use super::sums::{Fit, PerRow, Prior, ROWS_MAX, Room, Row, Sums};
use super::{Agent, AgentPerformanceModel};
use crate::outcome::{Context, Feature, Outcome, Status};

/// Features of a tenant that are told apart.
const FEATURES_MAX: usize = 4_096;
/// Values per context key that are told apart.
const VALUES_MAX: usize = 64;
/// Rows that features of the context may take, so that task types find theirs.
const CONTEXT_ROWS_MAX: usize = 32;
/// The context key under which the task type stands: no key of an event is empty.
const TASK_KEY: &str = "";

/// Values of a group by which an absurd one among them is told.
const HELD: usize = 5;
/// Deviations from the others beyond which a latency counts as one that far away.
const FAR: f64 = 4.0;
/// Smallest deviation that this is of, on the log scale.
const DEVIATION_MIN: f64 = 0.3;
/// Values that a group's running moments go back.
const GROUP_MEMORY: f64 = 100.0;
/// Values that deviations within groups go back, as the regressions do.
const SPREAD_MEMORY: f64 = 10_000.0;

/// Prior variances of coefficients, as multiples of the variance of the noise: the pool's intercept,
/// of which nothing is assumed; features of the context; limits of what is estimated of agents.
const POOL_RATIO: f64 = 1e6;
const CONTEXT_RATIO: f64 = 0.25;
const AGENT_RATIO_MIN: f64 = 0.1;
const AGENT_RATIO_MAX: f64 = 1e4;
/// Values whose deviation the prior deviation counts as much as.
const PRIOR_WEIGHT: f64 = 4.0;

/// Shortest latency told apart from none, ms.
const LATENCY_MIN_MS: f64 = 0.1;
/// Smallest mean cost that the cost of one execution is taken to have, of its deviation.
const MEAN_COST_MIN: f64 = 0.25;
/// Largest amount that is answered.
const AMOUNT_MAX: f64 = 1e12;

/// What is predicted of an execution beside its success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Measure {
    /// The quality score, `0..=1`, more is better.
    Quality,
    /// Milliseconds, less is better.
    Latency,
    /// In the user's currency, less is better.
    Cost,
}

/// What an outcome says of a measure, on the scale on which it is learned.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Observed {
    Exactly(f64),
    AtLeast(f64),
}

impl Measure {
    /// Every measure.
    pub const ALL: [Self; 3] = [Self::Quality, Self::Latency, Self::Cost];

    /// The name in requests and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quality => "quality",
            Self::Latency => "latency",
            Self::Cost => "cost",
        }
    }

    fn observed(self, outcome: &Outcome) -> Option<Observed> {
        match self {
            Self::Quality => outcome.observed_quality().map(Observed::Exactly),
            Self::Latency => {
                let scaled = |latency_ms: f64| latency_ms.max(LATENCY_MIN_MS).ln();
                match outcome.status {
                    Status::Timeout => outcome.latency_ms.map(|ms| Observed::AtLeast(scaled(ms))),
                    _ => outcome.observed_latency_ms().map(|ms| Observed::Exactly(scaled(ms))),
                }
            }
            Self::Cost => outcome.observed_cost().map(Observed::Exactly),
        }
    }

    fn cuts_absurd_values(self) -> bool {
        self == Self::Latency
    }

    /// Deviation of an agent's values on a task type, assumed before any are known, where values are
    /// about `mean`.
    fn prior_deviation(self, mean: f64) -> f64 {
        match self {
            Self::Quality => 0.25,
            // A factor of e.
            Self::Latency => 1.0,
            Self::Cost => mean.abs(),
        }
    }
}

/// An agent's values of one measure.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Own {
    pub(super) sums: Sums,
    /// By task type, in the order of their rows.
    pub(super) groups: Vec<Group>,
    pub(super) held: Held,
}

/// An agent's values on one task type.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Group {
    /// Of the task type; 0 where it has none.
    pub(super) row: u8,
    /// Values, censored ones included.
    pub(super) samples: u64,
    /// Of the last values.
    pub(super) weight: f64,
    pub(super) mean: f64,
    /// Sum of squared deviations from the mean.
    pub(super) squares: f64,
    /// The same of all values; nothing while values are [held](Held).
    pub(super) spread: Spread,
}

/// The first [`HELD`] values of each group and their rows, until it has so many. They are in two
/// vectors whatever they are of: an agent is copied whenever a snapshot has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Held {
    /// In the order in which they came.
    values: Vec<HeldValue>,
    /// Of these, one after the other.
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct HeldValue {
    /// The [`Group::row`] that it is of.
    group: u8,
    /// How many there are of it.
    rows: u8,
    y: f64,
}

impl Held {
    /// The values of a group with their rows.
    pub(super) fn of(&self, group: u8) -> impl Iterator<Item = (f64, &[Row])> {
        let mut rest = &self.rows[..];
        self.values.iter().filter_map(move |value| {
            let (rows, after) = rest.split_at(usize::from(value.rows));
            rest = after;
            (value.group == group).then_some((value.y, rows))
        })
    }

    /// Adds a value to a group; its rows are fewer than 256.
    pub(super) fn push(&mut self, group: u8, y: f64, rows: &[Row]) {
        // Most of very many agents hold one: no room for more than comes.
        self.values.reserve_exact(1);
        self.rows.reserve_exact(rows.len());
        let count = u8::try_from(rows.len()).expect("rows are few");
        self.values.push(HeldValue { group, rows: count, y });
        self.rows.extend_from_slice(rows);
    }

    /// Removes the values of a group.
    fn clear(&mut self, group: u8) {
        let all = std::mem::take(self);
        let mut rest = &all.rows[..];
        for value in all.values {
            let (rows, after) = rest.split_at(usize::from(value.rows));
            rest = after;
            if value.group != group {
                self.push(value.group, value.y, rows);
            }
        }
    }
}

/// How far values are from the mean of their group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    weight: f64,
    squares: f64,
}

impl Spread {
    fn add(&mut self, other: Self) {
        if self.weight >= SPREAD_MEMORY {
            self.weight *= 0.5;
            self.squares *= 0.5;
        }
        self.weight += other.weight;
        self.squares += other.squares;
    }

    /// The variance, where `weight` values of `variance` are assumed beforehand.
    fn variance(&self, weight: f64, variance: f64) -> f64 {
        (weight * variance + self.squares) / (weight + self.weight)
    }
}

impl Own {
    /// How much more, or less, values of this task type vary than others of the agent, as a factor on
    /// the variance, and the degrees of freedom of that. How much of it the context explains is taken
    /// to be the same for all.
    fn unevenness(&self, task: u8) -> Option<(f64, f64)> {
        let group = self.groups.iter().find(|group| group.row == task)?;
        let mut all = Spread::default();
        for group in &self.groups {
            all.weight += group.spread.weight;
            all.squares += group.spread.squares;
        }
        let variance = all.squares / all.weight;
        let uneven = group.spread.weight < all.weight && variance > 0.0;
        uneven.then(|| {
            let factor = group.spread.variance(PRIOR_WEIGHT, variance) / variance;
            (factor, PRIOR_WEIGHT + group.spread.weight)
        })
    }

    /// Whether the parts fit together, for a tenant with `rows` rows.
    pub(super) fn is_sound(&self, rows: usize) -> bool {
        let is_row = |row: u8| usize::from(row) < rows;
        let group = |group: &Group| {
            is_row(group.row) && group.weight >= 0.0 && self.held.of(group.row).count() < HELD
        };
        self.sums.is_sound(rows)
            && self.groups.is_sorted_by(|a, b| a.row < b.row)
            && self.groups.iter().all(group)
            && self.held.rows.iter().all(|(row, _)| is_row(*row))
    }
}

impl Group {
    /// Takes a value into the moments. Returns what it adds to the spread.
    fn add(&mut self, y: f64) -> Spread {
        if self.weight >= GROUP_MEMORY {
            let kept = (GROUP_MEMORY - 1.0) / GROUP_MEMORY;
            self.weight *= kept;
            self.squares *= kept;
        }
        self.weight += 1.0;
        let deviation = y - self.mean;
        self.mean += deviation / self.weight;
        let square = deviation * (y - self.mean);
        self.squares += square;
        Spread { weight: 1.0, squares: square }
    }

    /// The value as far as it counts, where values usually deviate by `deviation`.
    fn cut(&self, y: f64, deviation: f64) -> f64 {
        let own = (self.squares / self.weight).sqrt();
        let far = FAR * own.max(deviation).max(DEVIATION_MIN);
        y.clamp(self.mean - far, self.mean + far)
    }
}

/// The first values of a group as far as they count, where values usually deviate by `deviation`: by
/// median and median absolute deviation.
fn cut_first(values: &[f64], deviation: f64) -> Vec<f64> {
    let middle = median(values.to_vec());
    // That of a Gaussian is 0.6745 of its standard deviation.
    let own = median(values.iter().map(|y| (y - middle).abs()).collect()) / 0.6745;
    let far = FAR * own.max(deviation).max(DEVIATION_MIN);
    values.iter().map(|y| y.clamp(middle - far, middle + far)).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// All values of a tenant of one measure.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Pool {
    pub(super) sums: Sums,
    /// Of all groups.
    spread: Spread,
}

impl Pool {
    /// Variance of an agent's values on one task type.
    fn within(&self, measure: Measure) -> f64 {
        let mean = self.sums.moments().map_or(0.0, |(mean, _)| mean);
        let prior = measure.prior_deviation(mean).powi(2);
        self.spread.variance(PRIOR_WEIGHT, prior)
    }

    fn learn(&mut self, own: &mut Own, measure: Measure, x: &Rows, observed: Observed) {
        let Rows { rows, task } = x;
        let known = own.groups.binary_search_by_key(task, |group| group.row);
        let place = known.unwrap_or_else(|place| {
            // Most of very many agents do one task: no room for more than comes.
            own.groups.reserve_exact(1);
            own.groups.insert(place, Group { row: *task, ..Group::default() });
            place
        });
        let deviation = self.within(measure).sqrt();
        let group = &mut own.groups[place];
        group.samples += 1;
        let settled = group.weight > 0.0;
        let cut = |group: &Group, y: f64| {
            if measure.cuts_absurd_values() && settled { group.cut(y, deviation) } else { y }
        };
        match observed {
            Observed::AtLeast(limit) => {
                let limit = cut(group, limit);
                own.sums.add_censored(rows, limit);
                self.sums.add_censored(rows, limit);
            }
            Observed::Exactly(y) => {
                let y = cut(group, y);
                own.sums.add(rows, y);
                self.sums.add(rows, y);
                if settled {
                    let spread = group.add(y);
                    group.spread.add(spread);
                    self.spread.add(spread);
                    return;
                }
                own.held.push(*task, y, rows);
                let held: Vec<(f64, &[Row])> = own.held.of(*task).collect();
                if held.len() == HELD {
                    let mut corrected: Vec<f64> = held.iter().map(|(y, _)| *y).collect();
                    if measure.cuts_absurd_values() {
                        corrected = cut_first(&corrected, deviation);
                    }
                    for ((y, rows), corrected) in held.into_iter().zip(corrected) {
                        own.sums.correct(rows, y, corrected);
                        self.sums.correct(rows, y, corrected);
                        group.add(corrected);
                    }
                    own.held.clear(*task);
                    group.spread = Spread { weight: group.weight - 1.0, squares: group.squares };
                    self.spread.add(group.spread);
                }
            }
        }
    }
}

/// What is active in the regressions.
#[derive(Debug, Clone, Default)]
struct Rows {
    /// The intercept first.
    rows: Vec<Row>,
    /// That of the task type, 0 without one.
    task: u8,
}

/// What a tenant's regressions have in common, and its pools.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Values {
    pub(super) keys: Keys,
    /// By feature: its row; 0 for one that was met once only, or that there was no row for.
    pub(super) rows: Vec<u8>,
    /// By row, from 1 on: the context key that it is of; [`TASK_KEY`] for a task type.
    pub(super) row_keys: Vec<Arc<str>>,
    pub(super) pools: [Option<Arc<Pool>>; 3],
}

fn task_feature(task_type: &str) -> Context {
    vec![(TASK_KEY.to_owned(), Feature::Text(task_type.to_owned()))]
}

impl Values {
    /// Learns what an outcome of an agent says of each measure.
    pub(super) fn learn(
        &mut self,
        outcome: &Outcome,
        own: &mut [Option<Arc<Own>>; 3],
        names: NamesMax,
        room: &mut Room,
    ) {
        let observed = Measure::ALL.map(|measure| measure.observed(outcome));
        if observed.iter().all(Option::is_none) {
            return;
        }
        let x = self.observe(outcome.task_type.as_deref(), &outcome.context, names);
        for (measure, observed) in Measure::ALL.into_iter().zip(observed) {
            let Some(observed) = observed else { continue };
            let pool = Arc::make_mut(self.pools[measure as usize].get_or_insert_default());
            let own = Arc::make_mut(own[measure as usize].get_or_insert_default());
            pool.sums.admit(&x.rows, room);
            own.sums.admit(&x.rows, room);
            pool.learn(own, measure, &x, observed);
        }
    }

    /// The rows of what an outcome comes with. A task type gets its row at once, a feature of the
    /// context when it comes again: values that never do (a ticket number) get none.
    fn observe(&mut self, task_type: Option<&str>, context: &Context, names: NamesMax) -> Rows {
        let mut x = Rows { rows: vec![(0, 1.0)], task: 0 };
        if let Some(task_type) = task_type {
            let active = self.features(&task_feature(task_type), names);
            if let Some(&(feature, value)) = active.features.first() {
                self.give_row(feature, TASK_KEY, ROWS_MAX);
                x.task = self.rows[feature as usize];
                x.rows.extend(Some((x.task, value)).filter(|(row, _)| *row > 0));
            }
        }
        for feature in context {
            let met = self.rows.len();
            let active = self.features(std::slice::from_ref(feature), names);
            let Some(&(number, value)) = active.features.first() else { continue };
            if (number as usize) < met {
                let of_tasks = self.row_keys.iter().filter(|key| &***key == TASK_KEY).count();
                self.give_row(number, &feature.0, CONTEXT_ROWS_MAX + of_tasks);
            }
            let row = self.rows[number as usize];
            x.rows.extend(Some((row, value)).filter(|(row, _)| *row > 0));
        }
        x
    }

    fn features(&mut self, context: &[(String, Feature)], names: NamesMax) -> Active {
        let names = NamesMax { values: names.values.min(VALUES_MAX), ..names };
        let rows = &mut self.rows;
        self.keys.observe(context, names, || {
            (rows.len() < FEATURES_MAX).then(|| {
                rows.push(0);
                u32::try_from(rows.len() - 1).expect("features are capped")
            })
        })
    }

    /// Gives a feature of a key its row, unless it has one or there are `rows_max`.
    fn give_row(&mut self, feature: u32, key: &str, rows_max: usize) {
        let next = self.row_keys.len() + 1;
        if self.rows[feature as usize] == 0 && next < rows_max.min(ROWS_MAX) {
            self.row_keys.push(key.into());
            self.rows[feature as usize] = u8::try_from(next).expect("rows are few");
        }
    }

    /// The rows of task types.
    fn task_rows(&self) -> impl Iterator<Item = u8> {
        (1..).zip(&self.row_keys).filter(|(_, key)| &***key == TASK_KEY).map(|(row, _)| row)
    }

    /// The median of all values of a measure, as far as they are log-normal: of latency the geometric
    /// mean. `None` before the first that was observed, and while nobody has paid anything: no amount
    /// can be measured by that.
    pub(super) fn usual(&self, measure: Measure) -> Option<f64> {
        let (mean, variance) = self.pools[measure as usize].as_ref()?.sums.moments()?;
        Some(match measure {
            Measure::Quality => mean,
            Measure::Latency => mean.exp().min(AMOUNT_MAX),
            Measure::Cost if mean <= 0.0 => return None,
            Measure::Cost => mean / (variance / mean / mean).sqrt().hypot(1.0),
        })
    }

    /// The rows of a question.
    fn asked(&self, task_type: Option<&str>, context: &Context, names: NamesMax) -> Rows {
        let names = NamesMax { values: names.values.min(VALUES_MAX), ..names };
        let mut x = Rows { rows: vec![(0, 1.0)], task: 0 };
        let task = task_type.map(task_feature).unwrap_or_default();
        for feature in task.iter().chain(context) {
            let active = self.keys.active(std::slice::from_ref(feature), names);
            let found = active.features.first().map(|(id, x)| (self.rows[*id as usize], *x));
            let found = found.filter(|(row, _)| *row > 0);
            if let (TASK_KEY, Some((row, _))) = (&*feature.0, found) {
                x.task = row;
            }
            x.rows.extend(found);
        }
        x
    }

    /// The rows of all keys that these are of.
    fn rows_of_keys(&self, x: &Rows) -> [bool; ROWS_MAX] {
        let mut rows = [false; ROWS_MAX];
        rows[0] = true;
        for &(row, _) in x.rows.iter().filter(|(row, _)| *row > 0) {
            let asked = &self.row_keys[usize::from(row) - 1];
            for (row, _) in (1..).zip(&self.row_keys).filter(|(_, key)| *key == asked) {
                rows[row] = true;
            }
        }
        rows
    }
}

/// What is believed of a measure of an agent on a question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    measure: Measure,
    /// Mean of `y`, on the scale on which it is learned.
    centre: f64,
    /// Variance of that.
    variance: f64,
    /// Variance of one execution around the mean.
    noise: f64,
    /// Degrees of freedom of `noise`.
    degrees: f64,
}

impl Value {
    /// The mean on the scale on which it is learned, and its variance. Of latency it is the logarithm
    /// of the mean, `centre + noise / 2`, with the variance that Cox gave it (Zhou and Gao, Statistics
    /// in Medicine 16, 1997).
    fn location(&self) -> (f64, f64) {
        match self.measure {
            Measure::Latency => (
                self.centre + 0.5 * self.noise,
                self.variance + 0.5 * self.noise * self.noise / self.degrees,
            ),
            Measure::Quality | Measure::Cost => (self.centre, self.variance),
        }
    }

    fn unscaled(&self, y: f64) -> f64 {
        match self.measure {
            Measure::Quality => y.clamp(0.0, 1.0),
            Measure::Latency => y.exp().min(AMOUNT_MAX),
            Measure::Cost => y.clamp(0.0, AMOUNT_MAX),
        }
    }

    /// What it is about.
    pub fn measure(&self) -> Measure {
        self.measure
    }

    /// Posterior mean; of latency, the mean at the posterior mean of its logarithm's parameters.
    pub fn mean(&self) -> f64 {
        self.unscaled(self.location().0)
    }

    /// A draw of the mean, from a standard Gaussian `z`; grows with `z`.
    pub fn drawn(&self, z: f64) -> f64 {
        let (centre, variance) = self.location();
        self.unscaled(centre + z * variance.sqrt())
    }

    /// 90 % credible interval of the mean, `[low, high]`.
    pub fn interval(&self) -> [f64; 2] {
        [-Z_95, Z_95].map(|z| self.drawn(z))
    }

    /// What one execution stays below with a probability of 50, 95 and 99 %.
    pub fn quantiles(&self) -> [f64; 3] {
        [0.0, Z_95, Z_99].map(|z| self.of_one_at(z))
    }

    /// What one execution stays below with probability `p`, in (0, 1).
    pub fn quantile(&self, p: f64) -> f64 {
        self.of_one_at(normal::quantile(p))
    }

    fn of_one_at(&self, z: f64) -> f64 {
        let (centre, variance) = self.of_one();
        let y = centre + z * variance.sqrt();
        if self.measure == Measure::Quality { y.clamp(0.0, 1.0) } else { y.exp().min(AMOUNT_MAX) }
    }

    /// Mean and variance of one execution: of latency and cost those of the logarithm. The cost is
    /// taken for log-normal, with the mean and variance that are believed.
    fn of_one(&self) -> (f64, f64) {
        let variance = self.variance + self.noise;
        match self.measure {
            Measure::Quality | Measure::Latency => (self.centre, variance),
            Measure::Cost => {
                // What is extrapolated may be below 0, of which there is no log-normal.
                let mean = self.centre.max(MEAN_COST_MIN * variance.sqrt());
                let mean = mean.max(f64::MIN_POSITIVE.sqrt());
                let of_log = (variance / mean / mean).ln_1p().min(f64::MAX);
                (mean.ln() - 0.5 * of_log, of_log)
            }
        }
    }
}

/// A prediction of a measure for one agent.
#[derive(Debug, Clone)]
pub struct Predicted {
    /// The agent's name.
    pub agent: Arc<str>,
    /// What is believed; `None` when the tenant has no value of the measure: unknown is not zero.
    pub value: Option<Value>,
    /// Values of the agent, censored ones included.
    pub samples: u64,
    /// Those on this task type; of any, when the question names none.
    pub evidence: u64,
}

/// A pool as a question finds it.
struct Asking<'a> {
    measure: Measure,
    x: &'a Rows,
    /// What the question does not say is part of the noise.
    prior: Prior,
    /// Variance of what the pool says, and of what an unknown task type adds.
    pool_variance: f64,
    new_task_variance: f64,
    pool: &'a Pool,
}

impl<'a> Asking<'a> {
    fn new(
        values: &'a Values,
        measure: Measure,
        task_type: Option<&str>,
        x: &'a Rows,
    ) -> Option<Self> {
        let pool = values.pools[measure as usize].as_deref()?;
        let within = pool.within(measure).max(f64::MIN_POSITIVE);
        // How much more all values vary than those of an agent on a task type.
        let between = pool.sums.moments().map_or(0.0, |(_, variance)| variance / within - 1.0);
        let agents = between.clamp(AGENT_RATIO_MIN, AGENT_RATIO_MAX);
        let mut ratio: PerRow = [CONTEXT_RATIO; ROWS_MAX];
        for row in values.task_rows() {
            ratio[usize::from(row)] = agents;
        }
        ratio[0] = POOL_RATIO;
        let rows = values.rows_of_keys(x);
        let vague = Prior { mean: [0.0; ROWS_MAX], ratio, noise: within, rows };
        let fit = pool.sums.fit(&vague);
        let pool_variance = fit.at(&x.rows).variance;
        let mean = fit.coefficients();
        ratio[0] = agents;
        let is_new_task = task_type.is_some() && x.task == 0;
        Some(Self {
            measure,
            x,
            prior: Prior { mean, ratio, noise: within, rows },
            pool_variance,
            new_task_variance: if is_new_task { agents * within } else { 0.0 },
            pool,
        })
    }

    fn value(&self, own: Option<&Own>) -> Value {
        let nothing = Sums::default();
        let sums = own.map_or(&nothing, |own| &own.sums);
        let mut prior = self.prior;
        if self.measure == Measure::Cost {
            // Cheap agents vary less: relative to the mean alike.
            let mean = |sums: &Sums| sums.moments().map(|(mean, _)| mean);
            let pool = mean(&self.pool.sums).unwrap_or_default();
            let own = mean(sums).unwrap_or(pool);
            if pool > 0.0 {
                prior.noise *= (own / pool).powi(2);
            }
        }
        prior.noise = prior.noise.max(f64::MIN_POSITIVE);
        let fit: Fit<'_> = sums.fit(&prior);
        let point = fit.at(&self.x.rows);
        let (factor, degrees) =
            own.and_then(|own| own.unevenness(self.x.task)).unwrap_or((1.0, fit.degrees));
        let pooled = point.leaning.powi(2) * self.pool_variance;
        let variance = factor * point.variance + pooled + self.new_task_variance;
        Value {
            measure: self.measure,
            centre: point.mean,
            // The Gaussian with the variance of Student's distribution, which the mean has.
            variance: variance * degrees / (degrees - 2.0),
            noise: factor * fit.noise,
            degrees,
        }
    }
}

impl AgentPerformanceModel {
    /// What is believed of a measure of each agent that the question allows, in the order of their
    /// names.
    pub fn predictions(&self, question: &Question<'_>, measure: Measure) -> Vec<Predicted> {
        let values = self.tenant(question.tenant).map(|tenant| &tenant.values);
        let names = NamesMax::of(&self.settings.caps);
        let asked = values.map(|values| values.asked(question.task_type, question.context, names));
        let asking = values
            .zip(asked.as_ref())
            .and_then(|(values, x)| Asking::new(values, measure, question.task_type, x));
        let predicted = |(agent, known): (Arc<str>, Option<&Arc<Agent>>)| {
            let own = known.and_then(|agent| agent.values[measure as usize].as_deref());
            let groups = own.map_or(&[][..], |own| &own.groups);
            let samples = groups.iter().map(|group| group.samples).sum();
            let on_task = || {
                let task = asking.as_ref().map_or(0, |asking| asking.x.task);
                groups.iter().find(|group| task > 0 && group.row == task)
            };
            let evidence = match question.task_type {
                None => samples,
                Some(_) => on_task().map_or(0, |group| group.samples),
            };
            let value = asking.as_ref().map(|asking| asking.value(own));
            Predicted { agent, value, samples, evidence }
        };
        Asked::agents(self, question).into_iter().map(predicted).collect()
    }
}

/// Orders predictions best first: by their mean, ties by name, those of which nothing is known last.
pub fn best_first(predictions: &mut [Predicted], measure: Measure) {
    let key = |predicted: &Predicted| {
        predicted.value.map_or(f64::INFINITY, |value| match measure {
            Measure::Quality => -value.mean(),
            Measure::Latency | Measure::Cost => value.mean(),
        })
    };
    predictions.sort_by(|a, b| key(a).total_cmp(&key(b)).then_with(|| a.agent.cmp(&b.agent)));
}
