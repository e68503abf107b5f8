//! Learning: every outcome of the journal, tenant by tenant.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::outcome::{Context, DEFAULT_TENANT, Feature, Outcome, Status};

use super::families::logistic::{self, Block, Logistic, MeanPrior, TaskEffects, Width};
use super::names::{Placed, Waiting};
use super::question::Question;
use super::ranking::{Recommendation, Standing, rank};
use super::shares::Holding;
use super::small_map::SmallMap;
use super::values::{self, Growth, Own, Values};

/// Values kept per agent for averages over its recent past.
pub const RECENT_VALUES: usize = 100;
/// Values that an agent may always keep, however many agents there are.
pub(super) const RECENT_VALUES_MIN: usize = 8;
/// Rewards in one score window; the model keeps this one and the one before.
pub const SCORE_WINDOW: usize = 1_000;
/// Rewards that both windows must hold before they are compared.
const SCORE_WINDOW_MIN: usize = 50;

/// How agents are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Thompson sampling from a mixture of logistic regressions.
    Thompson,
    /// Thompson sampling from `Beta(successes + 1, failures + 1)` of the agent alone.
    Beta,
    /// The mean of the agent's last 100 rewards; no exploration.
    MovingAverage,
    /// The exponentially weighted mean of the agent's rewards; no exploration.
    Exponential,
}

impl Strategy {
    /// Every strategy.
    pub const ALL: [Self; 4] = [Self::Thompson, Self::Beta, Self::MovingAverage, Self::Exponential];

    /// The name in configuration and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Thompson => "thompson",
            Self::Beta => "beta",
            Self::MovingAverage => "moving_average",
            Self::Exponential => "exponential",
        }
    }
}

/// How many distinct names are learned; what comes past a cap counts into an explicit "other".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say what is capped")]
pub struct Caps {
    pub tenants: usize,
    pub agents_per_tenant: usize,
    pub task_types_per_tenant: usize,
    pub context_keys_per_tenant: usize,
    pub context_values_per_key: usize,
    /// Of all tenants together: (agent, task type) records and distinct context values.
    pub cells: usize,
    /// Of all agents together: recent values kept. Past it, buffers that are not full yet stay as
    /// long as they are.
    pub recent_values: usize,
    /// Context values in an agent's covariance; further ones have independent effects.
    pub joint_values_per_agent: usize,
    /// Memory of all covariances, MiB; past it, further values have independent effects. As much
    /// again may go into the sums behind quality, latency and cost.
    pub covariances_mib: usize,
    /// Of all tenants together: context values with an effect, and independent effects of agents.
    pub effects: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            tenants: 100,
            agents_per_tenant: 1_000,
            task_types_per_tenant: 1_000,
            context_keys_per_tenant: 256,
            context_values_per_key: 1_000,
            cells: 1_000_000,
            recent_values: 3_000_000,
            joint_values_per_agent: 256,
            covariances_mib: 256,
            effects: 1_000_000,
        }
    }
}

/// What the operator decides about learning. It is no part of what is learned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// How agents are ranked.
    pub strategy: Strategy,
    /// Pseudo-successes before the first outcome, finite and > 0; 1 unless given.
    pub prior_alpha: Option<f64>,
    /// Pseudo-failures before the first outcome, finite and > 0; 1 unless given.
    pub prior_beta: Option<f64>,
    /// Weight of the newest reward in the exponential mean, in (0, 1].
    pub exponential_alpha: f64,
    /// Bounds on distinct names.
    pub caps: Caps,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            strategy: Strategy::Thompson,
            prior_alpha: None,
            prior_beta: None,
            exponential_alpha: 0.1,
            caps: Caps::default(),
        }
    }
}

impl Settings {
    /// Pseudo-successes and -failures of an agent without outcomes.
    pub fn prior(&self) -> (f64, f64) {
        (self.prior_alpha.unwrap_or(1.0), self.prior_beta.unwrap_or(1.0))
    }

    pub(super) fn prior_mean(&self) -> f64 {
        let (alpha, beta) = self.prior();
        alpha / (alpha + beta)
    }

    /// Whether what agents have in common is learned from them alone.
    pub fn learns_prior(&self) -> bool {
        self.strategy == Strategy::Thompson
            && self.prior_alpha.is_none()
            && self.prior_beta.is_none()
    }

    /// What the strategy `thompson` believes of a tenant's agents on average before the first outcome:
    /// hardly anything unless the operator gives pseudo-counts.
    pub(super) fn mean_prior(&self) -> MeanPrior {
        let is_given = self.prior_alpha.is_some() || self.prior_beta.is_some();
        MeanPrior::new(is_given.then(|| self.prior()))
    }
}

/// Outcomes counted and rewards learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// Outcomes, whatever their status.
    pub executions: u64,
    /// Outcomes with a reward.
    pub learned: u64,
    /// Sum of the rewards, `0..=learned`.
    pub reward: f64,
}

impl Tally {
    pub(super) fn add(&mut self, reward: Option<f64>) {
        self.executions += 1;
        if let Some(reward) = reward {
            self.learned += 1;
            self.reward += reward;
        }
    }

    /// Reward that was missed, `0..=learned`.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn missed(&self) -> f64 {
        self.learned as f64 - self.reward
    }

    /// Mean reward; 0.5 with none.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn success_rate(&self) -> f64 {
        if self.learned == 0 { 0.5 } else { self.reward / self.learned as f64 }
    }
}

/// Values in buffers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) taken: usize,
    /// Past it buffers grow to [`RECENT_VALUES_MIN`].
    pub(super) max: usize,
}

/// The last [`RECENT_VALUES`] values, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<f64>", into = "Vec<f64>")]
pub struct Recent {
    pub(super) values: Vec<f64>,
    /// Where the oldest value stands once the buffer is full.
    pub(super) start: usize,
}

impl Recent {
    /// `places` are those of all buffers of the tenant together.
    pub(super) fn push(&mut self, value: f64, places: &mut Places) {
        let count = self.values.len();
        if count < RECENT_VALUES && (places.taken < places.max || count < RECENT_VALUES_MIN) {
            places.taken += 1;
            // A buffer that had stopped growing begins anywhere.
            self.values.rotate_left(self.start);
            self.start = 0;
            if count == self.values.capacity() {
                // Never more than is used in the end: there may be very many agents.
                self.values.reserve_exact(count.max(4).min(RECENT_VALUES - count));
            }
            self.values.push(value);
        } else {
            self.values[self.start] = value;
            self.start = (self.start + 1) % count;
        }
    }

    /// The values, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = f64> + '_ {
        let (newer, older) = self.values.split_at(self.start);
        older.iter().chain(newer).copied()
    }

    /// Their mean; `None` when there are none.
    #[expect(clippy::cast_precision_loss, reason = "at most 100 values")]
    pub fn mean(&self) -> Option<f64> {
        let count = self.values.len();
        (count > 0).then(|| self.iter().sum::<f64>() / count as f64)
    }
}

impl From<Vec<f64>> for Recent {
    fn from(mut values: Vec<f64>) -> Self {
        values.shrink_to_fit();
        Self { values, start: 0 }
    }
}

impl From<Recent> for Vec<f64> {
    fn from(recent: Recent) -> Self {
        recent.iter().collect()
    }
}

/// Everything learned about one agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Key of its cells; assigned in the order of arrival and never seen from outside.
    #[serde(skip)]
    pub(super) id: u32,
    /// Its overall record.
    pub tally: Tally,
    /// The tenant's outcomes when it had its last one, that one included. (Files of before this was
    /// known have every agent seen last.)
    #[serde(default = "never")]
    pub(super) seen: u64,
    /// Executions by status, in the order of [`Status::ALL`].
    pub statuses: [u64; 6],
    /// Exponentially weighted mean reward; `None` before the first.
    pub exponential: Option<f64>,
    /// Latencies of completed executions, ms.
    pub latencies_ms: Recent,
    /// Quality scores.
    pub qualities: Recent,
    /// Rewards.
    pub rewards: Recent,
    /// Its effects, with the strategy `thompson`.
    #[serde(skip)]
    pub(super) block: Option<Arc<Block>>,
    /// Its values of quality, latency and cost.
    #[serde(skip)]
    pub(super) values: Option<Arc<Own>>,
}

impl Agent {
    pub(super) fn learn(
        &mut self,
        outcome: &Outcome,
        reward: Option<f64>,
        exponential_alpha: f64,
        now: u64,
        places: &mut Places,
    ) {
        self.seen = now;
        self.tally.add(reward);
        self.statuses[outcome.status as usize] += 1;
        if let Some(reward) = reward {
            self.rewards.push(reward, places);
            self.exponential = Some(match self.exponential {
                None => reward,
                Some(mean) => mean + exponential_alpha * (reward - mean),
            });
        }
        if let Some(latency_ms) = outcome.observed_latency_ms() {
            self.latencies_ms.push(latency_ms, places);
        }
        if let Some(quality) = outcome.observed_quality() {
            self.qualities.push(quality, places);
        }
    }

    pub(super) fn recent_values(&self) -> usize {
        [&self.latencies_ms, &self.qualities, &self.rewards].iter().map(|r| r.values.len()).sum()
    }

    /// Executions that ended with `status`.
    pub fn with_status(&self, status: Status) -> u64 {
        self.statuses[status as usize]
    }
}

/// An agent's record on one task type.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cell {
    /// Outcomes and rewards.
    pub tally: Tally,
    /// Completed executions with a latency.
    pub latencies: u64,
    /// The sum of these latencies, ms.
    pub latency_sum_ms: f64,
}

impl Cell {
    /// Mean latency of completed executions, ms; `None` with none.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    pub fn mean_latency_ms(&self) -> Option<f64> {
        (self.latencies > 0).then(|| self.latency_sum_ms / self.latencies as f64)
    }
}

/// Later than any outcome.
fn never() -> u64 {
    u64::MAX
}

/// All agents' record on one task type, and each one's.
#[derive(Debug, Clone, Default)]
pub(super) struct Task {
    pub(super) tally: Tally,
    /// The tenant's outcomes when the last one was on it, that one included.
    pub(super) seen: u64,
    /// By agent id.
    pub(super) cells: SmallMap<u32, Cell>,
    /// With the strategy `thompson`.
    pub(super) effects: TaskEffects,
}

/// What has been seen of one context key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContextKey {
    /// Outcomes that carried the key.
    pub outcomes: u64,
    /// Those whose value came past a cap.
    pub other: u64,
    /// Fingerprints of the distinct texts and booleans, sorted.
    pub(super) values: Vec<u64>,
}

impl ContextKey {
    /// Distinct texts and booleans seen, up to the cap.
    pub fn distinct(&self) -> usize {
        self.values.len()
    }

    /// What its values are, as far as they were seen.
    pub fn kind(&self) -> ValueKind {
        let booleans = [false, true].map(|value| fingerprint(&Feature::Bool(value)));
        match &*self.values {
            [] if self.other == 0 => ValueKind::Number,
            [_, ..] if self.values.iter().all(|value| booleans.contains(&Some(*value))) => {
                ValueKind::Boolean
            }
            _ => ValueKind::Text,
        }
    }
}

/// What the values of a context key are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    /// None but numbers.
    Number,
    /// True and false, or numbers.
    Boolean,
    /// Texts, or more than one of these.
    Text,
}

impl ValueKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Number, Self::Boolean, Self::Text];

    /// The name in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Text => "text",
        }
    }
}

/// One tenant's agents, task types and context keys.
#[derive(Debug, Clone, Default)]
pub struct Tenant {
    pub(super) agents: OrdMap<Arc<str>, Arc<Agent>>,
    pub(super) tasks: OrdMap<Arc<str>, Task>,
    pub(super) context: OrdMap<Arc<str>, Arc<ContextKey>>,
    pub(super) total: Tally,
    pub(super) score: Arc<Score>,
    pub(super) other: Other,
    /// With the strategy `thompson`.
    pub(super) logistic: Option<Logistic>,
    pub(super) values: Values,
    /// What it takes of the caps over all tenants.
    pub(super) holding: Holding,
    /// Ids of agents that were removed, for those that come next.
    pub(super) free_ids: Vec<u32>,
    /// Names past the cap.
    pub(super) waiting_agents: Waiting,
    pub(super) waiting_tasks: Waiting,
}

/// What came past a cap: counted, shown, never recommended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Other {
    /// Outcomes of agents past the cap, as if of one agent.
    pub agent: Arc<Agent>,
    /// Outcomes on task types past the cap.
    pub task_type: Tally,
    /// Outcomes whose (agent, task type) record would have been past the cap on cells.
    pub cell: Tally,
    /// Context keys past the cap, each time one was met.
    pub context_keys: u64,
    /// Context effects past the cap, each time one was met.
    pub effects: u64,
}

/// Rewards of the last learned outcomes, of the window before, and what follows from them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Score {
    /// Up to `2 * SCORE_WINDOW` rewards, oldest first.
    pub(super) rewards: std::collections::VecDeque<f64>,
}

impl Score {
    pub(super) fn push(&mut self, reward: f64) {
        if self.rewards.len() == 2 * SCORE_WINDOW {
            self.rewards.pop_front();
        }
        self.rewards.push_back(reward);
    }

    /// Mean reward of the last [`SCORE_WINDOW`] learned outcomes; 0 with none.
    pub fn current(&self) -> f64 {
        let before = self.rewards.len().saturating_sub(SCORE_WINDOW);
        mean(self.rewards.range(before..)).unwrap_or(0.0)
    }

    /// Relative change of the current score against the window before; 0 until both hold 50
    /// rewards, and after a window of 0.
    pub fn improvement_rate(&self) -> f64 {
        let before = self.rewards.len().saturating_sub(SCORE_WINDOW);
        if before < SCORE_WINDOW_MIN {
            return 0.0;
        }
        match mean(self.rewards.range(..before)) {
            Some(previous) if previous > 0.0 => (self.current() - previous) / previous,
            _ => 0.0,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "at most 2,000 values")]
fn mean<'a>(values: impl ExactSizeIterator<Item = &'a f64>) -> Option<f64> {
    let count = values.len();
    (count > 0).then(|| values.sum::<f64>() / count as f64)
}

/// What has been learned about every tenant's agents. A clone is cheap and shares everything.
///
/// ```
/// use online_learning::model::{AgentPerformanceModel, Settings};
/// use online_learning::outcome::{Outcome, Status};
/// use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};
///
/// let mut model = AgentPerformanceModel::new(Settings::default());
/// for _ in 0..50 {
///     model.update(&Outcome::new("ReActAgent", Status::Success).on_task("code_review"));
///     model.update(&Outcome::new("ToolUseAgent", Status::Failure).on_task("code_review"));
/// }
/// let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
/// let best = model.predict_best_agent(Some("code_review"), &Vec::new(), 1, &mut rng);
/// assert_eq!(&*best[0].agent, "ReActAgent");
/// assert!(best[0].score > 0.8);
/// ```
#[derive(Debug, Clone)]
pub struct AgentPerformanceModel {
    pub(super) settings: Settings,
    pub(super) tenants: OrdMap<Arc<str>, Arc<Tenant>>,
    pub(super) score: Arc<Score>,
    /// Outcomes with a reward, and all; of all tenants.
    pub(super) total: Tally,
    /// What all tenants take together of what is bounded.
    pub(super) holding: Holding,
    /// What they took when the room was closed for lack of memory.
    pub(super) closed_at: Option<Holding>,
    pub(super) sequence: u64,
}

impl AgentPerformanceModel {
    /// A model that has learned nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            tenants: OrdMap::new(),
            score: Arc::default(),
            total: Tally::default(),
            holding: Holding::default(),
            closed_at: None,
            sequence: 0,
        }
    }

    /// Learns the next outcome of the journal.
    pub fn update(&mut self, outcome: &Outcome) {
        self.foretell(outcome);
    }

    /// As [`AgentPerformanceModel::update`]. Returns the outcome's expected reward as it was before,
    /// `0..=1`; `None` when there is nothing to learn from the status.
    pub fn foretell(&mut self, outcome: &Outcome) -> Option<f64> {
        self.sequence += 1;
        self.bound_values();
        let exponential_alpha = self.settings.exponential_alpha;
        let caps = self.caps_of(&outcome.tenant);
        let reward = outcome.reward();
        // What learns effects foretells the reward by the way.
        let foretold = match self.settings.strategy {
            Strategy::Thompson => None,
            _ => reward.and_then(|_| self.expected(outcome)),
        };
        self.total.add(reward);
        if let Some(reward) = reward {
            Arc::make_mut(&mut self.score).push(reward);
        }

        let tenant = match self.tenants.get_mut(&*outcome.tenant) {
            Some(tenant) => Arc::make_mut(tenant),
            None => Arc::make_mut(self.tenants.entry(outcome.tenant.as_str().into()).or_default()),
        };
        tenant.total.add(reward);
        if let Some(reward) = reward {
            Arc::make_mut(&mut tenant.score).push(reward);
        }
        let (agent, task_type) = tenant.give_way(outcome, &caps);
        if let Some(agent) = agent {
            self.remove_agent(&outcome.tenant, &agent);
        }
        if let Some(task_type) = task_type {
            self.remove_task(&outcome.tenant, &task_type);
        }
        self.take_from_those_who_hold_most(&outcome.tenant);
        self.bound_values();
        let room = self.room(&outcome.tenant);
        let growth = Growth {
            values: self.value_bytes() < self.holding_max().value_bytes,
            contexts: !self.is_room_closed(),
        };
        let tenant = Arc::make_mut(self.tenants.get_mut(&*outcome.tenant)?);
        let before = tenant.holding;
        let mut places = Places { taken: before.recent_values, max: room.recent_values };
        let agent_id = tenant.learn_agent(outcome, reward, exponential_alpha, &caps, &mut places);
        tenant.holding.recent_values = places.taken;
        let caps = Caps { cells: room.cells, ..caps };
        tenant.learn_task(agent_id, outcome, reward, &caps);
        for (key, value) in &outcome.context {
            tenant.count_context(key, value, &caps);
        }
        tenant.learn_values(outcome, growth);
        let is_thompson = self.settings.strategy == Strategy::Thompson;
        let prior = self.settings.mean_prior();
        let learned = is_thompson.then(|| tenant.learn_effects(outcome, &caps, &room, prior));
        tenant.holding.change(&before, &mut self.holding);
        if let Some(foretold) = learned {
            // One past the cap teaches nothing and is judged like any that is unknown.
            return reward.and_then(|_| foretold.or_else(|| self.expected(outcome)));
        }
        foretold
    }

    /// Where values take more memory than they may, the tenant that holds most gives some back.
    fn bound_values(&mut self) {
        if self.value_bytes() <= self.holding_max().value_bytes {
            return;
        }
        let givers = self.tenants.iter().filter(|(_, tenant)| values::has_spare(tenant));
        let most = givers.max_by_key(|(_, tenant)| tenant.values.bytes());
        let Some(name) = most.map(|(name, _)| name.clone()) else { return };
        self.change(&name, |tenant| {
            values::give_way(tenant);
            tenant.holding.value_bytes = tenant.values.bytes();
        });
    }

    /// Expected reward of an outcome, from what is known about its agent, task type and context.
    fn expected(&self, outcome: &Outcome) -> Option<f64> {
        let Outcome { tenant, agent, task_type, context, .. } = outcome;
        let question = Question {
            tenant,
            task_type: task_type.as_deref(),
            context,
            candidates: Some(std::slice::from_ref(agent)),
            exclude: &[],
        };
        self.standings(&question).first().map(Standing::expected_success)
    }

    /// Whether the strategy needs effects that were not learned: the model was saved under another
    /// strategy. [`AgentPerformanceModel::relearn`] then learns them from the journal.
    pub fn lacks_effects(&self) -> bool {
        self.settings.strategy == Strategy::Thompson
            && self.tenants.values().any(|tenant| tenant.logistic.is_none())
    }

    /// Begins to learn the effects from their priors; the counts stay.
    pub fn forget_effects(&mut self) {
        self.set_effects(Some(&Logistic::new(self.settings.mean_prior())));
    }

    /// Another strategy has no use for them.
    pub(super) fn drop_effects(&mut self) {
        self.set_effects(None);
    }

    fn set_effects(&mut self, logistic: Option<&Logistic>) {
        (self.holding.covariances, self.holding.effects) = (0, 0);
        let names: Vec<Arc<str>> = self.tenants.keys().cloned().collect();
        for name in names {
            let Some(tenant) = self.tenants.get_mut(&name) else { continue };
            let tenant = Arc::make_mut(tenant);
            tenant.logistic = logistic.cloned();
            (tenant.holding.covariances, tenant.holding.effects) = (0, 0);
            tenant.other.effects = 0;
            let agents = tenant.agents.iter().map(|(name, agent)| {
                let agent = Agent { block: None, ..Agent::clone(agent) };
                (name.clone(), Arc::new(agent))
            });
            tenant.agents = agents.collect();
            let tasks = tenant.tasks.iter().map(|(name, task)| {
                (name.clone(), Task { effects: TaskEffects::default(), ..task.clone() })
            });
            tenant.tasks = tasks.collect();
        }
    }

    /// Learns only the effects of an outcome that is counted already.
    pub fn relearn(&mut self, outcome: &Outcome) {
        self.take_from_those_who_hold_most(&outcome.tenant);
        let (room, caps) = (self.room(&outcome.tenant), self.caps_of(&outcome.tenant));
        if let Some(tenant) = self.tenants.get_mut(&*outcome.tenant) {
            let tenant = Arc::make_mut(tenant);
            let before = tenant.holding;
            let prior = self.settings.mean_prior();
            tenant.learn_effects(outcome, &caps, &room, prior);
            tenant.holding.change(&before, &mut self.holding);
        }
    }

    /// Changes a tenant, and what all take with it.
    pub(super) fn change<T>(
        &mut self,
        tenant: &str,
        change: impl FnOnce(&mut Tenant) -> T,
    ) -> Option<T> {
        let tenant = Arc::make_mut(self.tenants.get_mut(tenant)?);
        let before = tenant.holding;
        let changed = change(tenant);
        tenant.holding.change(&before, &mut self.holding);
        Some(changed)
    }

    /// Removes an agent and all that was learned of it alone. What it has in common with others
    /// stays: totals, scores, and what its outcomes have taught of task types and contexts.
    pub(super) fn remove_agent(&mut self, tenant: &str, agent: &str) {
        let prior = self.settings.mean_prior();
        self.change(tenant, |tenant| {
            tenant.forget_effects_of(agent, prior);
            tenant.forget_cells_of(agent);
            tenant.forget_values_of(agent);
            tenant.forget_recent_values_of(agent);
            if let Some(agent) = tenant.agents.remove(agent) {
                tenant.free_ids.push(agent.id);
            }
        });
    }

    /// Removes a task type and what was learned of agents on it alone.
    fn remove_task(&mut self, tenant: &str, task_type: &str) {
        self.change(tenant, |tenant| {
            if let Some(task) = tenant.tasks.remove(task_type) {
                tenant.holding.cells -= task.cells.len();
            }
        });
    }

    /// The `top_k` agents of the default tenant, best first. Random numbers are drawn for every
    /// agent in the order of their names, so a seeded generator gives the same answer again.
    pub fn predict_best_agent(
        &self,
        task_type: Option<&str>,
        context: &Context,
        top_k: usize,
        rng: &mut impl rand::Rng,
    ) -> Vec<Recommendation> {
        let question =
            Question { tenant: DEFAULT_TENANT, task_type, context, candidates: None, exclude: &[] };
        let mut ranked = rank(&self.standings(&question), true, rng);
        ranked.truncate(top_k);
        ranked
    }

    /// What the operator decided.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Sequence number of the last journal entry learned.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The same state as the outcome of the journal entry `sequence`: an activation.
    #[must_use]
    pub fn at_sequence(mut self, sequence: u64) -> Self {
        self.sequence = sequence;
        self
    }

    /// Outcomes and rewards of all tenants.
    pub fn total(&self) -> Tally {
        self.total
    }

    /// The score windows of all tenants together.
    pub fn score(&self) -> &Score {
        &self.score
    }

    /// (agent, task type) records and distinct context values of all tenants.
    pub fn cells(&self) -> usize {
        self.holding.cells
    }

    /// Bytes of the covariances of all agents.
    pub fn covariance_bytes(&self) -> usize {
        self.holding.covariances * size_of::<logistic::Lanes>()
    }

    /// Bytes of the values by which quality, latency and cost are predicted.
    pub fn value_bytes(&self) -> usize {
        self.holding.value_bytes
    }

    /// Context values with an effect, and independent effects of agents, of all tenants.
    pub fn effects(&self) -> usize {
        self.holding.effects
    }

    /// Values in the buffers of all agents.
    pub fn recent_values(&self) -> usize {
        self.holding.recent_values
    }

    /// A tenant, if it has any outcome.
    pub fn tenant(&self, name: &str) -> Option<&Tenant> {
        self.tenants.get(name).map(AsRef::as_ref)
    }

    /// Every tenant by name.
    pub fn tenants(&self) -> impl ExactSizeIterator<Item = (&str, &Tenant)> {
        self.tenants.iter().map(|(name, tenant)| (&**name, &**tenant))
    }
}

impl Tenant {
    /// Sets the effects of one agent back to their priors. `prior` is that of the mean of all.
    pub(super) fn forget_effects_of(&mut self, agent: &str, prior: MeanPrior) {
        let Some(agent) = self.agents.get_mut(agent) else { return };
        let agent = Arc::make_mut(agent);
        if let Some(block) = agent.block.take() {
            self.holding.covariances -= block.covariance.len();
            self.holding.effects -= block.independent_effects();
        }
        let id = agent.id;
        self.each_task(|task| {
            task.effects.own.remove(&id);
        });
        if let Some(logistic) = &mut self.logistic {
            let blocks = self.agents.values().filter_map(|agent| agent.block.as_deref());
            self.holding.effects -= logistic.forget(id, blocks, prior);
        }
    }

    /// Forgets what one agent did on each task type.
    pub(super) fn forget_cells_of(&mut self, agent: &str) {
        let Some(id) = self.agents.get(agent).map(|agent| agent.id) else { return };
        let mut forgotten = 0;
        self.each_task(|task| {
            forgotten += usize::from(task.cells.remove(&id).is_some());
            task.effects.own.remove(&id);
        });
        self.holding.cells -= forgotten;
    }

    /// Forgets the quality, latency and cost of one agent.
    pub(super) fn forget_values_of(&mut self, agent: &str) {
        let Some(agent) = self.agents.get_mut(agent) else { return };
        if let Some(own) = Arc::make_mut(agent).values.take() {
            self.values.forget(&own);
            self.holding.value_bytes = self.values.bytes();
        }
    }

    /// Empties the buffers of one agent.
    pub(super) fn forget_recent_values_of(&mut self, agent: &str) {
        let Some(agent) = self.agents.get_mut(agent) else { return };
        let agent = Arc::make_mut(agent);
        self.holding.recent_values -= agent.recent_values();
        for buffer in [&mut agent.latencies_ms, &mut agent.qualities, &mut agent.rewards] {
            *buffer = Recent::default();
        }
    }

    fn each_task(&mut self, mut change: impl FnMut(&mut Task)) {
        let names: Vec<Arc<str>> = self.tasks.keys().cloned().collect();
        for name in names {
            self.tasks.get_mut(&name).into_iter().for_each(&mut change);
        }
    }

    /// The names of the agent and the task type that give way to those of the outcome, where these are
    /// new and past a cap.
    pub(super) fn give_way(
        &mut self,
        outcome: &Outcome,
        caps: &Caps,
    ) -> (Option<Arc<str>>, Option<Arc<str>>) {
        let now = self.total.executions;
        let (mut agent, mut task_type) = (None, None);
        let (agents, tasks) = (&self.agents, &self.tasks);
        if agents.len() >= caps.agents_per_tenant && !agents.contains_key(&*outcome.agent) {
            let placed = agents.iter().map(|(name, agent)| {
                let outcomes = agent.tally.executions;
                Placed { name, outcomes, seen: agent.seen }
            });
            agent = self.waiting_agents.place_for(&outcome.agent, now, placed);
        }
        if let Some(name) = &outcome.task_type
            && tasks.len() >= caps.task_types_per_tenant
            && !tasks.contains_key(&**name)
        {
            let placed = tasks.iter().map(|(name, task)| {
                let outcomes = task.tally.executions;
                Placed { name, outcomes, seen: task.seen }
            });
            task_type = self.waiting_tasks.place_for(name, now, placed);
        }
        (agent, task_type)
    }

    /// Returns the agent's id, or `None` past the cap.
    pub(super) fn learn_agent(
        &mut self,
        outcome: &Outcome,
        reward: Option<f64>,
        exponential_alpha: f64,
        caps: &Caps,
        places: &mut Places,
    ) -> Option<u32> {
        let now = self.total.executions;
        if let Some(agent) = self.agents.get_mut(&*outcome.agent) {
            let agent = Arc::make_mut(agent);
            agent.learn(outcome, reward, exponential_alpha, now, places);
            return Some(agent.id);
        }
        if self.agents.len() >= caps.agents_per_tenant {
            let other = Arc::make_mut(&mut self.other.agent);
            other.learn(outcome, reward, exponential_alpha, now, places);
            return None;
        }
        self.waiting_agents.placed(&outcome.agent);
        let id = self.free_ids.pop().unwrap_or_else(|| next_id(self.agents.len()));
        let mut agent = Agent { id, ..Agent::default() };
        agent.learn(outcome, reward, exponential_alpha, now, places);
        self.agents.insert(outcome.agent.as_str().into(), Arc::new(agent));
        Some(id)
    }

    pub(super) fn learn_task(
        &mut self,
        agent_id: Option<u32>,
        outcome: &Outcome,
        reward: Option<f64>,
        caps: &Caps,
    ) {
        let Some(name) = outcome.task_type.as_deref() else { return };
        let task_types = self.tasks.len();
        let task = match self.tasks.get_mut(name) {
            Some(task) => task,
            None if task_types >= caps.task_types_per_tenant => {
                self.other.task_type.add(reward);
                return;
            }
            None => {
                self.waiting_tasks.placed(name);
                self.tasks.entry(name.into()).or_default()
            }
        };
        task.seen = self.total.executions;
        task.tally.add(reward);
        let Some(agent_id) = agent_id else { return };
        let cell = match task.cells.get_mut(&agent_id) {
            Some(cell) => cell,
            None if self.holding.cells >= caps.cells => {
                self.other.cell.add(reward);
                return;
            }
            None => {
                self.holding.cells += 1;
                task.cells.get_or_insert_with(agent_id, Cell::default)
            }
        };
        cell.tally.add(reward);
        if let Some(latency_ms) = outcome.observed_latency_ms() {
            cell.latencies += 1;
            cell.latency_sum_ms += latency_ms;
        }
    }

    pub(super) fn count_context(&mut self, key: &str, value: &Feature, caps: &Caps) {
        let keys = self.context.len();
        let seen = match self.context.get_mut(key) {
            Some(seen) => seen,
            None if keys >= caps.context_keys_per_tenant => {
                self.other.context_keys += 1;
                return;
            }
            None => self.context.entry(key.into()).or_default(),
        };
        let seen = Arc::make_mut(seen);
        seen.outcomes += 1;
        let Some(fingerprint) = fingerprint(value) else { return };
        if let Err(place) = seen.values.binary_search(&fingerprint) {
            let cells = &mut self.holding.cells;
            if seen.values.len() >= caps.context_values_per_key || *cells >= caps.cells {
                seen.other += 1;
            } else {
                *cells += 1;
                seen.values.insert(place, fingerprint);
            }
        }
    }

    pub(super) fn learn_values(&mut self, outcome: &Outcome, growth: Growth) {
        // One past the cap teaches nothing.
        if let Some(agent) = self.agents.get_mut(&*outcome.agent) {
            self.values.learn(outcome, &mut Arc::make_mut(agent).values, growth);
            self.holding.value_bytes = self.values.bytes();
        }
    }

    /// (agent, task type) records of quality, latency and cost, and how many gave way for lack of memory.
    pub fn value_records(&self) -> (usize, u64) {
        self.values.cells()
    }

    /// Returns the expected reward before that; `None` when there is nothing to learn.
    pub(super) fn learn_effects(
        &mut self,
        outcome: &Outcome,
        caps: &Caps,
        room: &Holding,
        prior: MeanPrior,
    ) -> Option<f64> {
        let width = &mut Width::new(caps, &self.holding, room);
        let logistic = self.logistic.get_or_insert_with(|| Logistic::new(prior));
        let reward = outcome.reward()?;
        // One past the cap teaches nothing.
        let agent = self.agents.get_mut(&*outcome.agent)?;
        let agent = Arc::make_mut(agent);
        let task = outcome.task_type.as_deref().and_then(|name| {
            let task = self.tasks.get_mut(name)?;
            Some((name, &mut task.effects, task.cells.contains_key(&agent.id)))
        });
        let context = &outcome.context;
        let foretold = logistic.learn(context, task, agent.id, &mut agent.block, reward, width);
        let blocks = self.agents.values().filter_map(|agent| agent.block.as_deref());
        logistic.settle(blocks, prior);
        self.other.effects += width.refused;
        (self.holding.covariances, self.holding.effects) = (width.covariances, width.effects);
        Some(foretold)
    }

    /// The place by name of each agent, by id. Ids follow the order of arrival.
    pub(super) fn agent_id_to_place(&self) -> Vec<u32> {
        let mut places = vec![0; self.agents.len() + self.free_ids.len()];
        for (place, agent) in self.agents.values().enumerate() {
            places[agent.id as usize] = next_id(place);
        }
        places
    }

    /// Outcomes and rewards of all agents.
    pub fn total(&self) -> Tally {
        self.total
    }

    /// The score windows.
    pub fn score(&self) -> &Score {
        &self.score
    }

    /// Every agent by name.
    pub fn agents(&self) -> impl ExactSizeIterator<Item = (&str, &Agent)> {
        self.agents.iter().map(|(name, agent)| (&**name, &**agent))
    }

    /// One agent.
    pub fn agent(&self, name: &str) -> Option<&Agent> {
        self.agents.get(name).map(AsRef::as_ref)
    }

    /// Every task type by name, with all agents' record on it.
    pub fn task_types(&self) -> impl ExactSizeIterator<Item = (&str, Tally)> {
        self.tasks.iter().map(|(name, task)| (&**name, task.tally))
    }

    /// Every context key by name.
    pub fn context_keys(&self) -> impl ExactSizeIterator<Item = (&str, &ContextKey)> {
        self.context.iter().map(|(name, key)| (&**name, &**key))
    }

    /// Most context values that one of its agents has in its covariance.
    pub fn joint_values(&self) -> usize {
        self.blocks().map(Block::joint_values).max().unwrap_or(0)
    }

    /// Context values that agents have independent effects of.
    pub fn independent_effects(&self) -> u64 {
        self.blocks().map(|block| block.independent_effects() as u64).sum()
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.agents.values().filter_map(|agent| agent.block.as_deref())
    }

    /// What came past a cap.
    pub fn other(&self) -> &Other {
        &self.other
    }

    /// An agent's record on a task type; all zeros when there is none.
    pub fn cell(&self, agent: &Agent, task_type: &str) -> Cell {
        let task = self.tasks.get(task_type);
        task.and_then(|task| task.cells.get(&agent.id)).copied().unwrap_or_default()
    }
}

pub(super) fn next_id(names: usize) -> u32 {
    u32::try_from(names).expect("caps on names are checked to be below 2^32")
}

/// Tells texts and booleans apart; `None` for numbers, which have no distinct values to count.
pub(super) fn fingerprint(value: &Feature) -> Option<u64> {
    let bytes = match value {
        Feature::Text(text) => text.as_bytes(),
        Feature::Bool(true) => b"\x01",
        Feature::Bool(false) => b"\x00",
        Feature::Number(_) => return None,
    };
    Some(hash(bytes))
}

/// FNV-1a, 64 bits (draft-eastlake-fnv): part of the saved state, so it must never change.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
