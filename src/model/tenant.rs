//! One tenant's agents, task types and context keys, and how an outcome changes them.

use std::sync::Arc;

use imbl::OrdMap;

use super::ensemble::Ensemble;
use super::families::{Lesson, Room, Taken};
use super::hashing::fingerprint;
use super::holding::Holding;
use super::names::{Placed, Waiting};
use super::records::{
    Agent, Agents, Cell, ContextKey, Names, Other, Places, Recent, Score, Tally, Task, Tasks,
    next_id,
};
use super::settings::Caps;
use super::values::{GivenBack, Growth, Values};
use crate::outcome::{Feature, Outcome, Status};

/// One tenant's agents, task types and context keys.
#[derive(Debug, Clone, Default)]
pub struct Tenant {
    pub(super) agents: Agents,
    pub(super) tasks: Tasks,
    pub(super) context: OrdMap<Arc<str>, Arc<ContextKey>>,
    pub(super) total: Tally,
    pub(super) score: Arc<Score>,
    pub(super) other: Other,
    /// What was learned by the families of the strategy, if these learn.
    pub(super) ensemble: Option<Ensemble>,
    pub(super) values: Values,
    /// What it takes of the caps over all tenants.
    pub(super) holding: Holding,
    /// Ids of agents that were removed, for those that come next.
    pub(super) free_ids: Vec<u32>,
    /// Names past the cap.
    pub(super) waiting_agents: Waiting,
    pub(super) waiting_tasks: Waiting,
}

impl Tenant {
    /// Sets the effects of one agent back to their priors.
    pub(super) fn forget_effects_of(&mut self, agent: &str) {
        let Some(id) = self.agents.get(agent).map(|agent| agent.id) else { return };
        if let Some(ensemble) = &mut self.ensemble {
            let Taken { covariances, effects } = ensemble.forget_agent(id, &self.agents);
            self.holding.covariances -= covariances;
            self.holding.effects -= effects;
        }
    }

    /// Forgets what one agent did on each task type.
    pub(super) fn forget_cells_of(&mut self, agent: &str) {
        let Some(id) = self.agents.get(agent).map(|agent| agent.id) else { return };
        let mut forgotten = 0;
        self.each_task(|task| {
            forgotten += usize::from(task.cells.remove(&id).is_some());
        });
        self.holding.cells -= forgotten;
        if let Some(ensemble) = &mut self.ensemble {
            ensemble.forget_agent_on_tasks(id);
        }
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

    /// Takes a pending outcome back out of what is counted: it comes again with its status. Names that have
    /// given way since take their counts along.
    pub(super) fn uncount_pending(&mut self, outcome: &Outcome) {
        let one_less = |count: &mut u64| *count = count.saturating_sub(1);
        one_less(&mut self.total.executions);
        let agent = self.agents.get_mut(&*outcome.agent).map(Arc::make_mut);
        let id = agent.as_ref().map(|agent| agent.id);
        if let Some(agent) = agent {
            one_less(&mut agent.tally.executions);
            one_less(&mut agent.statuses[Status::Pending as usize]);
        }
        let task = outcome.task_type.as_deref().and_then(|name| self.tasks.get_mut(name));
        if let Some(task) = task {
            one_less(&mut task.tally.executions);
            if let Some(cell) = id.and_then(|id| task.cells.get_mut(&id)) {
                one_less(&mut cell.tally.executions);
            }
        }
        for (key, _) in &outcome.context {
            if let Some(seen) = self.context.get_mut(&**key) {
                one_less(&mut Arc::make_mut(seen).outcomes);
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

    /// Whether its values take memory that they can give back.
    pub(super) fn has_spare_values(&self) -> bool {
        self.values.has_spare(self.agents.len())
    }

    /// Gives back some of the memory of its values.
    pub(super) fn give_values_back(&mut self) {
        let owns = || {
            let agents = self.agents.iter();
            agents.filter_map(|(name, agent)| Some((name, agent.values.as_deref()?)))
        };
        let given = GivenBack::of(owns().map(|(_, own)| own));
        let givers = owns().filter(|(_, own)| given.is_held_by(own));
        let givers: Vec<Arc<str>> = givers.map(|(name, _)| name.clone()).collect();
        for name in givers {
            let agent = self.agents.get_mut(&name).map(Arc::make_mut);
            if let Some(own) = agent.and_then(|agent| agent.values.as_mut()) {
                self.values.take_back(Arc::make_mut(own), given);
            }
        }
        self.holding.value_bytes = self.values.bytes();
    }

    /// (agent, task type) records of quality, latency and cost, and how many gave way for lack of memory.
    pub fn value_records(&self) -> (usize, u64) {
        self.values.cells()
    }

    /// Learns an outcome; with what `unlearned` is, the first time. Returns the expected reward before that,
    /// `None` when there is nothing to learn.
    pub(super) fn learn_effects(
        &mut self,
        outcome: &Outcome,
        caps: &Caps,
        room: &Holding,
        unlearned: &Ensemble,
    ) -> Option<f64> {
        let room = &mut Room::new(caps, &self.holding, room);
        let ensemble = self.ensemble.get_or_insert_with(|| unlearned.clone());
        let reward = outcome.reward()?;
        // One past the cap teaches nothing.
        let agent_id = self.agents.get(&*outcome.agent)?.id;
        let task = outcome.task_type.as_deref().and_then(|name| {
            let task = self.tasks.get(name)?;
            Some((name, task.cells.contains_key(&agent_id)))
        });
        let (agents, context) = (&self.agents, &outcome.context);
        let foretold = ensemble.learn(&Lesson { agents, agent_id, task, context, reward }, room);
        self.other.effects += room.refused;
        (self.holding.covariances, self.holding.effects) = (room.covariances, room.effects);
        Some(foretold)
    }

    /// Its agents and task types, for states that name them by their places.
    pub(super) fn names(&self) -> Names<'_> {
        Names { agents: &self.agents, tasks: &self.tasks }
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
        self.ensemble.as_ref().map_or(0, Ensemble::joint_values)
    }

    /// Context values that agents have independent effects of.
    pub fn independent_effects(&self) -> u64 {
        self.ensemble.as_ref().map_or(0, |ensemble| ensemble.independent_effects() as u64)
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
