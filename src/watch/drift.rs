//! What is watched while outcomes are learned: how good the model's forecasts were, and what only a
//! look at every outcome of an agent can tell (its costs, an unbroken run of successes, a change of
//! its mean reward).
//!
//! Pure and bounded, like the model. None of it is learned state: it begins anew with the process,
//! from what the model still holds.

use std::collections::{HashMap, VecDeque};

use crate::model::AgentPerformanceModel;
use crate::outcome::Outcome;

/// Forecasts kept.
const FORECASTS_MAX: usize = 1_000;
/// Agents watched; further ones are not.
const AGENTS_MAX: usize = 10_000;
/// Costs kept per agent.
const COSTS_MAX: usize = 100;
/// Latencies kept per tenant, and of each of its task types.
const LATENCIES_MAX: usize = 1_000;
/// Task types of all tenants whose latencies are kept; those of further ones are not.
const TASKS_MAX: usize = 1_000;
/// Outcomes of an agent without which a change of its mean can't be told.
const DRIFT_OUTCOMES_MIN: usize = 30;
/// Change of the mean reward that is of no interest.
const DRIFT_TOLERANCE: f64 = 0.05;

/// A forecast of a reward, made before the outcome was learned, and what came: progressive validation
/// (Blum, Kalai and Langford, COLT 1999).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// Expected reward, `0..=1`.
    pub expected: f64,
    /// The reward, `0..=1`.
    pub reward: f64,
}

/// The last 1,000 forecasts.
#[derive(Debug, Clone, Default)]
pub struct Forecasts(VecDeque<Forecast>);

/// Forecasts that expected about the same.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bin {
    /// How many.
    pub count: u64,
    /// Their mean expectation.
    pub expected: f64,
    /// Their mean reward.
    pub reward: f64,
}

impl Forecasts {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push(&mut self, forecast: Forecast) {
        if self.0.len() == FORECASTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(forecast);
    }

    #[expect(clippy::cast_precision_loss, reason = "at most 1,000")]
    fn mean(&self, value: impl Fn(&Forecast) -> f64) -> Option<f64> {
        let count = self.0.len();
        (count > 0).then(|| self.0.iter().map(value).sum::<f64>() / count as f64)
    }

    /// Mean squared error of the expectations (Brier 1950), `0..=1`, 0 best; `None` with none.
    pub fn brier(&self) -> Option<f64> {
        self.mean(|forecast| (forecast.expected - forecast.reward).powi(2))
    }

    /// Share of forecasts on the right side of one half, `0..=1`; `None` with none.
    pub fn accuracy(&self) -> Option<f64> {
        self.mean(|forecast| f64::from((forecast.expected >= 0.5) == (forecast.reward >= 0.5)))
    }

    /// Expectation against reward in `count` bins of equal width.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an expectation is within 0..=1, the bins are few"
    )]
    pub fn calibration(&self, count: usize) -> Vec<Bin> {
        let mut bins = vec![Bin::default(); count];
        for forecast in &self.0 {
            let index = ((forecast.expected * count as f64) as usize).min(count - 1);
            let bin = &mut bins[index];
            bin.count += 1;
            bin.expected += forecast.expected;
            bin.reward += forecast.reward;
        }
        for bin in &mut bins {
            let weight = bin.count.max(1) as f64;
            bin.expected /= weight;
            bin.reward /= weight;
        }
        bins
    }
}

/// A change of a mean that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Mean of all values but the last 30.
    pub before: f64,
    /// Mean of the last 30.
    pub after: f64,
    /// How far the statistic went.
    pub statistic: f64,
}

/// The Page-Hinkley test for a change of a mean, in both directions.
///
/// `g = max(0, g + (x - mean) - tolerance)`, and the same with the sign turned, is the distance of the
/// cumulative sum `m_T` from its minimum `M_T`; above the threshold the mean has changed (Page 1954,
/// Biometrika 41, 100-115; Hinkley 1971, Biometrika 58, 509-523; as in Gama, Sebastiao and Rodrigues,
/// Machine Learning 90, 2013, section 4). A tolerance of 0.05 and a threshold of 25 raise a false
/// alarm about once in exp(2 * 0.05 * 25 / 0.25) = 22,000 excursions of a fair coin, and find a change
/// by 0.3 after about 100 outcomes.
#[derive(Debug, Clone, Default)]
pub struct PageHinkley {
    count: u64,
    mean: f64,
    rose: f64,
    fell: f64,
    /// The last 30 values.
    last: VecDeque<f64>,
}

impl PageHinkley {
    /// Takes the next value in; when the mean has changed by it, begins anew.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn next(&mut self, value: f64, threshold: f64) -> Option<Change> {
        self.count += 1;
        self.mean += (value - self.mean) / self.count as f64;
        self.rose = (self.rose + (value - self.mean) - DRIFT_TOLERANCE).max(0.0);
        self.fell = (self.fell + (self.mean - value) - DRIFT_TOLERANCE).max(0.0);
        if self.last.len() == DRIFT_OUTCOMES_MIN {
            self.last.pop_front();
        }
        self.last.push_back(value);
        let earlier = self.count - self.last.len() as u64;
        let statistic = self.rose.max(self.fell);
        if earlier == 0 || statistic <= threshold {
            return None;
        }
        let after: f64 = self.last.iter().sum();
        let before = (self.mean * self.count as f64 - after) / earlier as f64;
        let after = after / self.last.len() as f64;
        *self = Self::default();
        Some(Change { before, after, statistic })
    }
}

/// One agent, as watched.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// Newest last.
    costs: VecDeque<f64>,
    /// Full rewards since the last that was less.
    pub streak: u64,
    drift: PageHinkley,
    /// The last change of the mean reward.
    pub change: Option<Change>,
    /// Changes so far.
    pub changes: u64,
    /// Rewards since the last change, or since the process began.
    pub since_change: u64,
}

impl Watched {
    fn next(&mut self, outcome: &Outcome, drift_threshold: Option<f64>) {
        if let Some(cost) = outcome.cost {
            if self.costs.len() == COSTS_MAX {
                self.costs.pop_front();
            }
            self.costs.push_back(cost);
        }
        let Some(reward) = outcome.reward() else { return };
        self.streak = if reward < 1.0 { 0 } else { self.streak + 1 };
        self.since_change += 1;
        if let Some(threshold) = drift_threshold
            && let Some(change) = self.drift.next(reward, threshold)
        {
            self.change = Some(change);
            self.changes += 1;
            self.since_change = 0;
        }
    }

    /// Costs known, at most the last 100.
    pub fn costs(&self) -> usize {
        self.costs.len()
    }

    /// Their mean; `None` with none.
    #[expect(clippy::cast_precision_loss, reason = "at most 100")]
    pub fn mean_cost(&self) -> Option<f64> {
        let count = self.costs.len();
        (count > 0).then(|| self.costs.iter().sum::<f64>() / count as f64)
    }
}

/// A tenant's latencies, ms, newest last.
#[derive(Debug, Clone, Default)]
struct Latencies {
    all: VecDeque<f64>,
    by_task: HashMap<String, VecDeque<f64>>,
}

fn push_latency(latencies: &mut VecDeque<f64>, latency_ms: f64) {
    if latencies.len() == LATENCIES_MAX {
        latencies.pop_front();
    }
    latencies.push_back(latency_ms);
}

/// Everything watched.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    /// How good the forecasts were.
    pub forecasts: Forecasts,
    /// By tenant and agent.
    agents: HashMap<String, HashMap<String, Watched>>,
    count: usize,
    /// Of completed executions, by tenant.
    latencies: HashMap<String, Latencies>,
    /// Task types in them.
    tasks: usize,
    drift_threshold: Option<f64>,
}

impl Watch {
    /// Begins with what a model still holds of its agents. Without a threshold nothing is taken for
    /// a change.
    pub fn new(model: &AgentPerformanceModel, drift_threshold: Option<f64>) -> Self {
        let mut watch = Self { drift_threshold, ..Self::default() };
        for (tenant, agents) in model.tenants() {
            for (_, agent) in agents.agents() {
                let latencies = agent.latencies_ms.iter();
                latencies.for_each(|latency| watch.push_latency(tenant, None, latency));
            }
        }
        for (tenant, agents) in model.tenants() {
            for (name, agent) in agents.agents() {
                let Some(watched) = watch.agent_mut(tenant, name) else { return watch };
                let rewards: Vec<f64> = agent.rewards.iter().collect();
                let last = rewards.iter().rev().take_while(|reward| **reward >= 1.0).count() as u64;
                let is_perfect = agent.tally.missed() <= 0.0;
                watched.streak = if is_perfect { agent.tally.learned } else { last };
            }
        }
        watch
    }

    fn agent_mut(&mut self, tenant: &str, agent: &str) -> Option<&mut Watched> {
        let is_known = self.agents.get(tenant).is_some_and(|agents| agents.contains_key(agent));
        if !is_known {
            if self.count == AGENTS_MAX {
                return None;
            }
            self.count += 1;
            self.agents
                .entry(tenant.to_owned())
                .or_default()
                .insert(agent.to_owned(), Watched::default());
        }
        self.agents.get_mut(tenant)?.get_mut(agent)
    }

    /// Lets go of an agent that was removed.
    pub fn forget(&mut self, tenant: &str, agent: &str) {
        let known = self.agents.get_mut(tenant);
        self.count -= usize::from(known.is_some_and(|agents| agents.remove(agent).is_some()));
    }

    /// Once as many agents are watched as may be, lets go of those that gave their place away.
    pub fn keep(&mut self, model: &AgentPerformanceModel) {
        let known = || model.tenants().map(|(_, tenant)| tenant.agents().len()).sum::<usize>();
        if self.count < AGENTS_MAX || known() >= self.count {
            return;
        }
        for (tenant, agents) in &mut self.agents {
            let tenant = model.tenant(tenant);
            agents.retain(|agent, _| tenant.is_some_and(|tenant| tenant.agent(agent).is_some()));
        }
        self.agents.retain(|_, agents| !agents.is_empty());
        self.count = self.agents.values().map(HashMap::len).sum();
    }

    fn push_latency(&mut self, tenant: &str, task_type: Option<&str>, latency_ms: f64) {
        let latencies = match self.latencies.get_mut(tenant) {
            Some(latencies) => latencies,
            // There are no more tenants than the model may have.
            None => self.latencies.entry(tenant.to_owned()).or_default(),
        };
        push_latency(&mut latencies.all, latency_ms);
        let Some(task_type) = task_type else { return };
        match latencies.by_task.get_mut(task_type) {
            Some(of_task) => push_latency(of_task, latency_ms),
            None if self.tasks < TASKS_MAX => {
                self.tasks += 1;
                latencies.by_task.insert(task_type.to_owned(), VecDeque::from([latency_ms]));
            }
            None => {}
        }
    }

    /// The last 1,000 latencies of a tenant's completed executions, on one task type or on all, ms,
    /// oldest first. After a restart those on all begin with what the model still holds, agent by
    /// agent, those on one with nothing.
    pub fn latencies_ms(&self, tenant: &str, task_type: Option<&str>) -> Vec<f64> {
        let of = self.latencies.get(tenant).and_then(|latencies| match task_type {
            None => Some(&latencies.all),
            Some(task_type) => latencies.by_task.get(task_type),
        });
        of.into_iter().flatten().copied().collect()
    }

    /// Takes in what was learned, and forecasts made before that.
    pub fn learned<'a>(
        &mut self,
        outcomes: impl Iterator<Item = &'a Outcome>,
        forecasts: impl IntoIterator<Item = Forecast>,
    ) {
        let threshold = self.drift_threshold;
        for outcome in outcomes {
            if let Some(latency_ms) = outcome.observed_latency_ms() {
                let task_type = outcome.task_type.as_deref();
                self.push_latency(&outcome.tenant, task_type, latency_ms);
            }
            if let Some(watched) = self.agent_mut(&outcome.tenant, &outcome.agent) {
                watched.next(outcome, threshold);
            }
        }
        for forecast in forecasts {
            self.forecasts.push(forecast);
        }
    }

    /// One agent, once it has been seen.
    pub fn agent(&self, tenant: &str, agent: &str) -> Option<&Watched> {
        self.agents.get(tenant)?.get(agent)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::model::Settings;
    use crate::outcome::Status;

    /// Values drawn with each chance in turn; where changes were found.
    fn changes(seed: u64, stretches: &[(usize, f64)], threshold: f64) -> Vec<(usize, Change)> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut test = PageHinkley::default();
        let chances = stretches.iter().flat_map(|&(count, p)| std::iter::repeat_n(p, count));
        let values = chances.map(|p| f64::from(rng.random_bool(p)));
        let mut found = Vec::new();
        for (at, value) in values.enumerate() {
            found.extend(test.next(value, threshold).map(|change| (at, change)));
        }
        found
    }

    #[test]
    fn agents_without_a_place_are_let_go_of_when_there_are_too_many() {
        let mut model = AgentPerformanceModel::new(Settings::default());
        model.update(&Outcome::new("known", Status::Success));
        let mut watch = Watch::new(&model, None);
        let learn = |watch: &mut Watch, name: &str| {
            watch.learned([Outcome::new(name, Status::Success)].iter(), []);
        };
        for number in 0..AGENTS_MAX {
            learn(&mut watch, &format!("made up {number}"));
        }
        learn(&mut watch, "unwatched");
        assert!(watch.agent("default", "unwatched").is_none(), "there is no room");
        watch.keep(&model);
        assert!(watch.agent("default", "known").is_some());
        assert!(watch.agent("default", "made up 1").is_none());
        learn(&mut watch, "new");
        assert_eq!(watch.agent("default", "new").map(|watched| watched.streak), Some(1));
        // One that is removed makes room by itself.
        watch.forget("default", "known");
        watch.forget("default", "nobody");
        assert_eq!((watch.agent("default", "known").is_none(), watch.count), (true, 1));
    }

    #[test]
    fn a_mean_that_falls_or_rises_is_found_soon_and_told_by_its_direction() {
        for seed in 0..20 {
            let fell = changes(seed, &[(500, 0.8), (300, 0.3)], 25.0);
            let (at, change) = fell[0];
            // A step of -0.5 adds 0.45 each time while the mean stays; 60 steps, and chance.
            assert!((530..640).contains(&at), "seed {seed}: {fell:?}");
            assert!(change.before > 0.6 && change.after < 0.45, "seed {seed}: {change:?}");
            let rose = changes(seed, &[(500, 0.2), (300, 0.7)], 25.0);
            assert!((530..640).contains(&rose[0].0), "seed {seed}: {rose:?}");
            assert!(rose[0].1.after > rose[0].1.before, "seed {seed}");
        }
    }

    #[test]
    fn a_mean_that_stays_is_left_alone() {
        // About one excursion in 22,000 passes the threshold, and one takes 100 outcomes or so:
        // 20 streams of 5,000 outcomes hold 1,000 of them, so that one alarm is one in 20 runs.
        let alarms: usize = (0..20).map(|seed| changes(seed, &[(5_000, 0.5)], 25.0).len()).sum();
        assert!(alarms <= 1, "{alarms}");
        assert_eq!(changes(1, &[(10_000, 1.0)], 25.0), []);
        assert_eq!(changes(1, &[(10_000, 0.0)], 25.0), []);
    }

    #[test]
    fn a_few_values_are_never_a_change() {
        assert_eq!(changes(3, &[(14, 1.0), (16, 0.0)], 1.0), []);
    }

    #[test]
    fn forecasts_are_scored_by_what_came() {
        let mut forecasts = Forecasts::default();
        assert_eq!((forecasts.brier(), forecasts.accuracy()), (None, None));
        forecasts.push(Forecast { expected: 0.8, reward: 1.0 });
        forecasts.push(Forecast { expected: 0.6, reward: 0.0 });
        assert!((forecasts.brier().unwrap() - 0.2).abs() < 1e-12, "(0.04 + 0.36) / 2");
        assert_eq!(forecasts.accuracy(), Some(0.5));
        let bins = forecasts.calibration(10);
        assert_eq!((bins[8].count, bins[6].count, bins[0].count), (1, 1, 0));
        assert_eq!((bins[8].reward, bins[6].reward), (1.0, 0.0));
        for _ in 0..2 * FORECASTS_MAX {
            forecasts.push(Forecast { expected: 1.0, reward: 1.0 });
        }
        assert_eq!((forecasts.len(), forecasts.brier()), (FORECASTS_MAX, Some(0.0)));
    }

    #[test]
    fn a_watch_begins_with_what_the_model_holds_and_goes_on() {
        let mut model = AgentPerformanceModel::new(Settings::default());
        for index in 0..150 {
            model.update(&Outcome::new("perfect", Status::Success));
            let status = if index == 120 { Status::Failure } else { Status::Success };
            model.update(&Outcome::new("nearly", status));
        }
        let mut watch = Watch::new(&model, Some(25.0));
        let streak = |watch: &Watch, agent| watch.agent("default", agent).unwrap().streak;
        assert_eq!((streak(&watch, "perfect"), streak(&watch, "nearly")), (150, 29));
        let mut paid = Outcome::new("perfect", Status::Failure);
        paid.cost = Some(3.0);
        watch.learned([&paid, &Outcome::new("new", Status::Success)].into_iter(), []);
        assert_eq!((streak(&watch, "perfect"), streak(&watch, "new")), (0, 1));
        let watched = watch.agent("default", "perfect").unwrap();
        assert_eq!((watched.costs(), watched.mean_cost()), (1, Some(3.0)));
        assert_eq!(watch.agent("default", "nobody").map(Watched::mean_cost), None);
    }

    #[test]
    fn latencies_are_those_of_the_tenant_and_of_a_bounded_number_of_task_types() {
        let mut watch = Watch::new(&AgentPerformanceModel::new(Settings::default()), None);
        let mut took = |tenant: &str, task_type: Option<String>, latency_ms: f64| {
            let mut outcome = Outcome::new("a", Status::Success);
            tenant.clone_into(&mut outcome.tenant);
            outcome.task_type = task_type;
            outcome.latency_ms = Some(latency_ms);
            watch.learned([&outcome].into_iter(), []);
        };
        took("t", None, 1.0);
        for (task, latency_ms) in (0..=TASKS_MAX).zip(2_u16..) {
            took("t", Some(task.to_string()), f64::from(latency_ms));
        }
        took("t", Some("7".to_owned()), 5.0);
        took("other", Some("7".to_owned()), 6.0);
        assert_eq!(watch.latencies_ms("t", None).len(), LATENCIES_MAX);
        assert_eq!(watch.latencies_ms("t", Some("7")), [9.0, 5.0]);
        assert!(watch.latencies_ms("t", Some(&TASKS_MAX.to_string())).is_empty(), "past the bound");
        assert_eq!(watch.latencies_ms("other", None), [6.0]);
        assert!(watch.latencies_ms("nobody", Some("7")).is_empty());
    }
}
