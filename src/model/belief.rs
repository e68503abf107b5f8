//! What is believed about an agent's chance of success, and about every candidate of a question.

use std::sync::Arc;

use super::mixture::Mixture;
use super::posterior::Posterior;

/// What is believed about an agent's mean reward.
#[derive(Debug, Clone, PartialEq)]
pub enum Belief {
    /// A distribution, to draw from.
    Posterior(Posterior),
    /// A distribution over log-odds, to draw from.
    Mixture(Mixture),
    /// One number in `0..=1`, for strategies that do not explore.
    Point(f64),
}

/// One agent before the draw.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The agent's name.
    pub agent: Arc<str>,
    /// What is believed about its reward on this question.
    pub belief: Belief,
    /// Learned outcomes of the agent.
    pub samples: u64,
    /// Learned outcomes of the agent on this task type; of any, when the question names none.
    pub evidence: u64,
}

impl Standing {
    /// Expected reward, `0..=1`.
    pub fn expected_success(&self) -> f64 {
        match &self.belief {
            Belief::Posterior(posterior) => posterior.mean(),
            Belief::Mixture(mixture) => mixture.expected(),
            Belief::Point(mean) => *mean,
        }
    }

    /// Density of the mean reward at `chance`, in (0, 1); `None` for strategies that have none.
    pub fn density(&self, chance: f64) -> Option<f64> {
        match &self.belief {
            Belief::Posterior(posterior) => Some(posterior.density(chance)),
            Belief::Mixture(mixture) => Some(mixture.density(chance)),
            Belief::Point(_) => None,
        }
    }

    /// The mean reward lies below with probability `p`, in (0, 1); the mean itself for strategies that
    /// believe in one number.
    pub fn success_quantile(&self, p: f64) -> f64 {
        match &self.belief {
            Belief::Posterior(posterior) => posterior.quantile(p),
            Belief::Mixture(mixture) => mixture.quantile(p),
            Belief::Point(mean) => *mean,
        }
    }

    /// 90 % credible interval of the mean reward; `None` for strategies that have none.
    pub fn interval(&self) -> Option<[f64; 2]> {
        match &self.belief {
            Belief::Posterior(posterior) => Some(posterior.interval()),
            Belief::Mixture(mixture) => Some(mixture.interval()),
            Belief::Point(_) => None,
        }
    }
}
