//! Learning: every outcome of the journal, tenant by tenant.

use std::sync::Arc;

use super::belief::Standing;
use super::ensemble::Ensemble;
use super::performance::AgentPerformanceModel;
use super::question::Question;
use super::records::Places;
use super::settings::Caps;
use super::tenant::Tenant;
use super::values::Growth;
use crate::outcome::Outcome;

impl AgentPerformanceModel {
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
        // Families that learn foretell the reward by the way.
        let learns = self.unlearned.learns();
        let foretold = reward.filter(|_| !learns).and_then(|_| self.expected(outcome));
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
        let growth = self.growth();
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
        let unlearned = &*self.unlearned;
        let learned = learns.then(|| tenant.learn_effects(outcome, &caps, &room, unlearned));
        tenant.holding.change(&before, &mut self.holding);
        if let Some(foretold) = learned {
            // One past the cap teaches nothing and is judged like any that is unknown.
            return reward.and_then(|_| foretold.or_else(|| self.expected(outcome)));
        }
        foretold
    }

    /// Learns what was missing of an outcome that is counted already: its values, as far as they are here.
    pub(super) fn learn_late(&mut self, outcome: &Outcome) {
        self.bound_values();
        let growth = self.growth();
        let max = self.room(&outcome.tenant).recent_values;
        self.change(&outcome.tenant, |tenant| {
            let mut places = Places { taken: tenant.holding.recent_values, max };
            if let (Some(agent), Some(quality)) =
                (tenant.agents.get_mut(&*outcome.agent), outcome.observed_quality())
            {
                Arc::make_mut(agent).qualities.push(quality, &mut places);
            }
            tenant.holding.recent_values = places.taken;
            tenant.learn_values(outcome, growth);
        });
    }

    /// What may grow now.
    fn growth(&self) -> Growth {
        Growth {
            values: self.value_bytes() < self.holding_max().value_bytes,
            contexts: !self.is_room_closed(),
        }
    }

    /// Where values take more memory than they may, the tenant that holds most gives some back.
    fn bound_values(&mut self) {
        if self.value_bytes() <= self.holding_max().value_bytes {
            return;
        }
        let givers = self.tenants.iter().filter(|(_, tenant)| tenant.has_spare_values());
        let most = givers.max_by_key(|(_, tenant)| tenant.values.bytes());
        let Some(name) = most.map(|(name, _)| name.clone()) else { return };
        self.change(&name, Tenant::give_values_back);
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
        let is_unlike = |learned: &Ensemble| !learned.is_like(&self.unlearned);
        self.unlearned.learns()
            && self.tenants.values().any(|tenant| tenant.ensemble.as_ref().is_none_or(is_unlike))
    }

    /// Begins to learn the effects from their priors; the counts stay.
    pub fn forget_effects(&mut self) {
        let unlearned = self.unlearned.clone();
        self.set_effects(Some(&unlearned));
    }

    /// Another strategy has no use for them.
    pub(super) fn drop_effects(&mut self) {
        self.set_effects(None);
    }

    fn set_effects(&mut self, ensemble: Option<&Ensemble>) {
        (self.holding.covariances, self.holding.effects) = (0, 0);
        let names: Vec<Arc<str>> = self.tenants.keys().cloned().collect();
        for name in names {
            let Some(tenant) = self.tenants.get_mut(&name) else { continue };
            let tenant = Arc::make_mut(tenant);
            tenant.ensemble = ensemble.cloned();
            (tenant.holding.covariances, tenant.holding.effects) = (0, 0);
            tenant.other.effects = 0;
        }
    }

    /// Learns only the effects of an outcome that is counted already.
    pub fn relearn(&mut self, outcome: &Outcome) {
        self.take_from_those_who_hold_most(&outcome.tenant);
        let (room, caps) = (self.room(&outcome.tenant), self.caps_of(&outcome.tenant));
        if let Some(tenant) = self.tenants.get_mut(&*outcome.tenant) {
            let tenant = Arc::make_mut(tenant);
            let before = tenant.holding;
            tenant.learn_effects(outcome, &caps, &room, &self.unlearned);
            tenant.holding.change(&before, &mut self.holding);
        }
    }

    /// Removes an agent and all that was learned of it alone. What it has in common with others
    /// stays: totals, scores, and what its outcomes have taught of task types and contexts.
    pub(super) fn remove_agent(&mut self, tenant: &str, agent: &str) {
        self.change(tenant, |tenant| {
            tenant.forget_effects_of(agent);
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
            if let Some(ensemble) = &mut tenant.ensemble {
                ensemble.forget_task(task_type);
            }
        });
    }
}
