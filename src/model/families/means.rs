//! What the strategies `moving_average` and `exponential` believe: one number, a mean of the agent's rewards;
//! that of the prior before the first.

use super::family::{Candidate, Family, Opinion};
use crate::model::belief::Belief;
use crate::model::explanation::Part;
use crate::model::question::Question;
use crate::model::settings::{Caps, Settings};

/// Which mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Mean {
    /// Of the last rewards that the record keeps.
    Moving,
    /// Exponentially weighted.
    Exponential,
}

/// A mean of each agent's rewards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::model) struct Means {
    mean: Mean,
    prior: (f64, f64),
}

impl Means {
    pub(in crate::model) fn new(mean: Mean, settings: &Settings) -> Self {
        Self { mean, prior: settings.prior() }
    }
}

impl Family for Means {
    fn ask<'a>(&'a self, _question: &'a Question<'a>, _caps: &'a Caps) -> Box<dyn Opinion + 'a> {
        Box::new(*self)
    }

    fn in_words(&self) -> &'static str {
        match self.mean {
            Mean::Moving => ": the mean of the last 100 rewards",
            Mean::Exponential => ": the exponentially weighted mean of the rewards",
        }
    }
}

impl Opinion for Means {
    fn belief(&mut self, candidate: &Candidate<'_>, _weights: &[f64]) -> Belief {
        let known = candidate.agent.and_then(|agent| match self.mean {
            Mean::Moving => agent.rewards.mean(),
            Mean::Exponential => agent.exponential,
        });
        let (alpha, beta) = self.prior;
        Belief::Point(known.unwrap_or_else(|| alpha / (alpha + beta)))
    }

    fn explain(&self, candidate: &Candidate<'_>, _weights: &[f64]) -> Vec<Part> {
        Part::of_record(self.prior, candidate.agent.map(|agent| agent.tally).unwrap_or_default())
    }
}
