//! What has been learned of all tenants, as one value.

use std::sync::Arc;

use imbl::OrdMap;

use super::ensemble::Ensemble;
use super::families::COVARIANCE_ENTRY_BYTES;
use super::holding::Holding;
use super::records::{Score, Tally};
use super::settings::Settings;
use super::tenant::Tenant;

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
    /// What every tenant's families begin with.
    pub(super) unlearned: Arc<Ensemble>,
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
            unlearned: Arc::new(Ensemble::new(&settings)),
            tenants: OrdMap::new(),
            score: Arc::default(),
            total: Tally::default(),
            holding: Holding::default(),
            closed_at: None,
            sequence: 0,
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

    /// Whether what is believed of an agent's success depends on the task and its context.
    pub fn reads_context(&self) -> bool {
        self.unlearned.learns()
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
        self.holding.covariances * COVARIANCE_ENTRY_BYTES
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
