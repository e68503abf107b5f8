//! Why an agent stands where it stands, in parts and in words.

use schemars::JsonSchema;
use serde::Serialize;

use super::records::Tally;

/// Why an agent stands where it stands.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Explanation {
    /// Expected reward, `0..=1`.
    pub expected_success: f64,
    /// What it is made of.
    pub parts: Vec<Part>,
    /// How much each copy of the model counts; with the strategy `thompson`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<CopyWeight>,
    /// The same in words.
    pub text: String,
}

/// The weight of one copy of the model.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct CopyWeight {
    /// What the copy assumes.
    pub assumes: &'static str,
    /// `0..=1`.
    pub weight: f64,
}

/// One part of a score.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Part {
    /// What it is about.
    pub name: String,
    /// Learned outcomes that it rests on.
    pub outcomes: u64,
    /// What it adds to the log-odds; parts of `thompson`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_odds: Option<f64>,
    /// Standard deviation of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f64>,
    /// Sum of rewards, prior pseudo-counts included where it is the prior; other strategies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
    /// The same of missed rewards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<f64>,
}

impl Part {
    pub(super) fn effect(name: impl Into<String>, contribution: Contribution) -> Self {
        let Contribution { mean, deviation, outcomes } = contribution;
        let (log_odds, deviation) = (Some(mean), Some(deviation));
        Self { name: name.into(), outcomes, log_odds, deviation, reward: None, missed: None }
    }

    /// What is believed of an agent by its record and pseudo-counts alone.
    pub(super) fn of_record(prior: (f64, f64), whole: Tally) -> Vec<Self> {
        let missed = whole.missed().max(0.0);
        let own = Self::record("own record", whole.learned, whole.reward, missed);
        vec![Self::record("prior", 0, prior.0, prior.1), own]
    }

    fn record(name: &str, outcomes: u64, reward: f64, missed: f64) -> Self {
        let (reward, missed) = (Some(reward), Some(missed));
        Self { name: name.into(), outcomes, log_odds: None, deviation: None, reward, missed }
    }
}

/// A part of an agent's log-odds, as an explanation shows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Contribution {
    /// Logits.
    pub(super) mean: f64,
    /// Standard deviation, logits.
    pub(super) deviation: f64,
    /// What it was learned from.
    pub(super) outcomes: u64,
}
