//! What is counted, whatever the strategy: records of agents, task types and context keys.

use std::collections::VecDeque;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::hashing::fingerprint;
use super::small_map::SmallMap;
use super::values::Own;
use crate::outcome::{Feature, Outcome, Status};

/// Values kept per agent for averages over its recent past.
pub const RECENT_VALUES: usize = 100;
/// Values that an agent may always keep, however many agents there are.
pub(super) const RECENT_VALUES_MIN: usize = 8;
/// Rewards in one score window; the model keeps this one and the one before.
pub const SCORE_WINDOW: usize = 1_000;
/// Rewards that both windows must hold before they are compared.
const SCORE_WINDOW_MIN: usize = 50;

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
}

/// A tenant's agents by name.
pub(super) type Agents = OrdMap<Arc<str>, Arc<Agent>>;
/// A tenant's task types by name.
pub(super) type Tasks = OrdMap<Arc<str>, Task>;

/// Agents and task types in the order of their names: states name both by their places in it, because the ids
/// of agents follow the order of arrival.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) agents: &'a Agents,
    pub(super) tasks: &'a Tasks,
}

impl Names<'_> {
    /// The place of each agent, by id.
    pub(super) fn agent_id_to_place(&self) -> Vec<u32> {
        let ids = self.agents.values().map(|agent| agent.id as usize);
        let mut places = vec![0; ids.max().map_or(0, |id| id + 1)];
        for (place, agent) in self.agents.values().enumerate() {
            places[agent.id as usize] = next_id(place);
        }
        places
    }
}

/// The id of the agent that comes after so many.
pub(super) fn next_id(names: usize) -> u32 {
    u32::try_from(names).expect("caps on names are checked to be below 2^32")
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
    pub(super) rewards: VecDeque<f64>,
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
