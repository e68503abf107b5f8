//! What the operator decides about learning.

use serde::{Deserialize, Serialize};

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

    /// Whether what agents have in common is learned from them alone.
    pub fn learns_prior(&self) -> bool {
        self.strategy == Strategy::Thompson
            && self.prior_alpha.is_none()
            && self.prior_beta.is_none()
    }
}
