//! `POST /api/learning/predict/{quality,latency,cost}`: what will an execution bring beside success?

use super::access::Caller;
use super::answers::{ValuePrediction, ValuePredictions};
use super::predict::{Prediction, evidence};
use super::server::Request;
use super::{Answer, App, json_body, json_object, json_response};
use crate::learner::Now;
use crate::model::{Measure, Predicted, best_first};
use crate::outcome::fields;
use crate::outcome::format_time;

fn row(predicted: &Predicted) -> ValuePrediction<'_> {
    let value = predicted.value;
    let [p50, p95, p99] = [0, 1, 2].map(|place| predicted.quantiles.get(place).copied());
    ValuePrediction {
        agent_name: &predicted.agent,
        mean: value.map(|value| value.mean()),
        interval: value.map(|value| value.interval()),
        p50,
        p95,
        p99,
        samples: predicted.samples,
        evidence: evidence(predicted.evidence),
    }
}

impl App {
    pub(super) fn predict_value(
        &self,
        measure: Measure,
        request: &mut Request<'_>,
        caller: &Caller,
    ) -> Answer {
        let prediction =
            Prediction::of(fields::read(json_object(json_body(request)?.as_deref())?)?, caller)?;
        // Quantiles are of latencies only.
        let at = if measure == Measure::Latency { &[0.5, 0.95, 0.99][..] } else { &[] };
        let mut predictions = self.shared.model().predictions(&prediction.question(), measure, at);
        best_first(&mut predictions, measure);
        predictions.truncate(prediction.top_k);
        let body = ValuePredictions {
            predictions: predictions.iter().map(row).collect(),
            timestamp: format_time(Now::read().unix_ms),
            dropped_fields: &prediction.dropped,
        };
        Ok(json_response(200, &body))
    }
}
