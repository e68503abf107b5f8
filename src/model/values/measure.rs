//! What is predicted beside success, and on which scale it is compared.

use crate::outcome::{Outcome, Status};

/// Shortest latency told apart from none, ms.
pub(super) const LATENCY_MIN_MS: f64 = 0.1;

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

    /// What an outcome says of it, as a window holds it: a latency that was cut short is negative.
    pub(super) fn observed(self, outcome: &Outcome) -> Option<f64> {
        match self {
            Self::Quality => outcome.observed_quality(),
            Self::Latency => match outcome.status {
                Status::Timeout => outcome.latency_ms.map(|ms| -ms.max(LATENCY_MIN_MS)),
                _ => outcome.observed_latency_ms().map(|ms| ms.max(LATENCY_MIN_MS)),
            },
            Self::Cost => outcome.observed_cost(),
        }
    }

    /// The scale on which agents, task types and contexts differ: of latency and cost it is logarithmic.
    /// `None` where a value has no place there.
    pub(super) fn scaled(self, value: f64) -> Option<f64> {
        match self {
            Self::Quality => Some(value),
            Self::Latency | Self::Cost => (value > 0.0).then(|| value.ln()),
        }
    }

    /// Variance of an agent's values on a task type on that scale, assumed before any are known.
    pub(super) fn prior_noise(self) -> f64 {
        match self {
            Self::Quality => 0.0625,
            Self::Latency | Self::Cost => 1.0,
        }
    }
}
