//! Quality, latency and cost of every agent that a question allows.

use std::sync::Arc;

use super::performance::AgentPerformanceModel;
use super::question::Question;
use super::records::Agent;
use super::values::{Asking, Measure, Predicted};

impl AgentPerformanceModel {
    /// What is believed of a measure of each agent that the question allows, in the order of their
    /// names, and what one execution stays below with each of the probabilities `at`, in (0, 1).
    pub fn predictions(
        &self,
        question: &Question<'_>,
        measure: Measure,
        at: &[f64],
    ) -> Vec<Predicted> {
        let values = self.tenant(question.tenant).map(|tenant| &tenant.values);
        let asking = values
            .and_then(|values| Asking::new(values, measure, question.task_type, question.context));
        let predicted = |(agent, known): (Arc<str>, Option<&Arc<Agent>>)| {
            let own = known.and_then(|agent| agent.values.as_deref());
            if let Some(asking) = &asking {
                return asking.predicted(agent, own, at);
            }
            Predicted { agent, value: None, quantiles: Vec::new(), samples: 0, evidence: 0 }
        };
        self.candidates(question).into_iter().map(predicted).collect()
    }
}

/// Orders predictions best first: by their mean, ties by name, those of which nothing is known last.
pub fn best_first(predictions: &mut [Predicted], measure: Measure) {
    let key = |predicted: &Predicted| {
        predicted.value.map_or(f64::INFINITY, |value| match measure {
            Measure::Quality => -value.mean(),
            Measure::Latency | Measure::Cost => value.mean(),
        })
    };
    predictions.sort_by(|a, b| key(a).total_cmp(&key(b)).then_with(|| a.agent.cmp(&b.agent)));
}
