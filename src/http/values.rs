//! `POST /api/learning/predict/{quality,latency,cost}`: what will an execution bring beside success?

use super::access::{Caller, Need, Scope};
use super::answers::{ValuePrediction, ValuePredictions};
use super::operation::{Operation, Schemas};
use super::predict::{Prediction, PredictionRequest, evidence};
use super::route::{Call, Route, Tag};
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

pub(super) const PREDICT_QUALITY: Route = route(
    "/api/learning/predict/quality",
    "predictQuality",
    |app, call| app.predict_value(Measure::Quality, call.request, call.caller),
    |schemas| described("What quality is to be expected of each agent?", schemas),
);

pub(super) const PREDICT_LATENCY: Route = route(
    "/api/learning/predict/latency",
    "predictLatency",
    |app, call| app.predict_value(Measure::Latency, call.request, call.caller),
    |schemas| described("How long will each agent take?", schemas),
);

pub(super) const PREDICT_COST: Route = route(
    "/api/learning/predict/cost",
    "predictCost",
    |app, call| app.predict_value(Measure::Cost, call.request, call.caller),
    |schemas| described("What will each agent cost?", schemas),
);

/// The row of a measure.
const fn route(
    pattern: &'static str,
    id: &'static str,
    handler: fn(&App, &mut Call<'_, '_>) -> Answer,
    describe: fn(&mut Schemas) -> Operation,
) -> Route {
    let (tag, need) = (Tag::Selection, Need::Scope(Scope::Read));
    Route { method: "POST", pattern, id, tag, need, handler, describe }
}

fn described(summary: &'static str, schemas: &mut Schemas) -> Operation {
    let request = schemas.asked::<PredictionRequest>();
    let answer = schemas.answered::<ValuePredictions<'_>>();
    Operation::new(summary).optional_json(request).answer(200, "Agents, best first", answer)
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
