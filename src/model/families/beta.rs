//! What the strategy `beta` believes: the chance of success of an agent alone, whatever the task and its
//! context, by its outcomes and as many pseudo-counts as the operator gives (the Beta distribution is the
//! conjugate prior of a chance).

use super::family::{Candidate, Family, Opinion};
use crate::model::belief::Belief;
use crate::model::explanation::Part;
use crate::model::posterior::Posterior;
use crate::model::question::Question;
use crate::model::settings::{Caps, Settings};

/// The prior, from which records lead to the posterior.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::model) struct Beta {
    prior: (f64, f64),
}

impl Beta {
    pub(in crate::model) fn new(settings: &Settings) -> Self {
        Self { prior: settings.prior() }
    }
}

impl Family for Beta {
    fn ask<'a>(&'a self, _question: &'a Question<'a>, _caps: &'a Caps) -> Box<dyn Opinion + 'a> {
        Box::new(*self)
    }

    fn in_words(&self) -> &'static str {
        ": own record and prior"
    }
}

impl Opinion for Beta {
    fn belief(&mut self, candidate: &Candidate<'_>, _weights: &[f64]) -> Belief {
        let whole = candidate.agent.map(|agent| agent.tally).unwrap_or_default();
        let (alpha, beta) = self.prior;
        Belief::Posterior(Posterior {
            alpha: alpha + whole.reward,
            beta: beta + whole.missed().max(0.0),
        })
    }

    fn explain(&self, candidate: &Candidate<'_>, _weights: &[f64]) -> Vec<Part> {
        Part::of_record(self.prior, candidate.agent.map(|agent| agent.tally).unwrap_or_default())
    }
}
