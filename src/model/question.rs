//! What is asked, and what the score of an answer is made of.

use schemars::JsonSchema;
use serde::Serialize;

use super::values::Measure;
use crate::outcome::Context;

/// Which agent? The part of a prediction request that the model answers.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The tenant whose agents compete.
    pub tenant: &'a str,
    /// Kind of the task, if known.
    pub task_type: Option<&'a str>,
    /// What is known of the task.
    pub context: &'a Context,
    /// Only these, known or new; every known agent when `None`.
    pub candidates: Option<&'a [String]>,
    /// But none of these.
    pub exclude: &'a [String],
}

/// What a score is made of, each `0..=1`; `None` where it has no weight or nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Parts {
    /// The chance of success, drawn or expected.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub success: f64,
    /// The mean quality.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub quality: Option<f64>,
    /// 1 at no latency, 0.5 at the tenant's median or the scale that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub latency: Option<f64>,
    /// 1 at no cost, 0.5 at the tenant's median or the scale that was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub cost: Option<f64>,
}

impl Parts {
    /// Of success alone.
    pub(super) fn success(success: f64) -> Self {
        Self { success, quality: None, latency: None, cost: None }
    }

    pub(super) fn set(&mut self, measure: Measure, part: f64) {
        match measure {
            Measure::Quality => self.quality = Some(part),
            Measure::Latency => self.latency = Some(part),
            Measure::Cost => self.cost = Some(part),
        }
    }
}
