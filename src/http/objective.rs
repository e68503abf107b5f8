//! What a request wants of an agent: an objective and limits, checked.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Error, Result};
use crate::model::{Limits, Preset, Scales, Weights};
use crate::outcome::fields::{Real, refused};

/// Largest weight.
const WEIGHT_MAX: u64 = 1_000_000;
/// Largest latency in ms, and largest cost.
const AMOUNT_MAX: u64 = 1_000_000_000_000;

/// What agents are ranked by: the name of a preset, or weights.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[serde(untagged)]
pub(super) enum ObjectiveField {
    Preset(Preset),
    Weighted(Weighted),
}

/// What agents are ranked by.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Weighted {
    /// How much each part of the score counts; 0 unless given, and one of them above.
    weights: WeightFields,
    /// What has a part of 0.5; the tenant's median unless given.
    scales: Option<ScaleFields>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WeightFields {
    success: Option<Real<0, WEIGHT_MAX>>,
    quality: Option<Real<0, WEIGHT_MAX>>,
    latency: Option<Real<0, WEIGHT_MAX>>,
    cost: Option<Real<0, WEIGHT_MAX>>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ScaleFields {
    /// Milliseconds, above 0.
    #[schemars(extend("exclusiveMinimum" = 0))]
    latency_ms: Option<Real<0, AMOUNT_MAX>>,
    /// In the user's currency, above 0.
    #[schemars(extend("exclusiveMinimum" = 0))]
    cost: Option<Real<0, AMOUNT_MAX>>,
}

impl<'de> Deserialize<'de> for ObjectiveField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct ObjectiveVisitor;
        impl<'de> Visitor<'de> for ObjectiveVisitor {
            type Value = ObjectiveField;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "\"success\", \"balanced\", \"fast\", \"cheap\" or an object with weights",
                )
            }
            fn visit_str<E: serde::de::Error>(
                self,
                name: &str,
            ) -> std::result::Result<ObjectiveField, E> {
                let preset = Preset::deserialize(serde::de::value::StrDeserializer::<E>::new(name));
                let other = |_| E::invalid_value(serde::de::Unexpected::Str(name), &self);
                preset.map(ObjectiveField::Preset).map_err(other)
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                map: A,
            ) -> std::result::Result<ObjectiveField, A::Error> {
                Weighted::deserialize(MapAccessDeserializer::new(map)).map(ObjectiveField::Weighted)
            }
        }
        deserializer.deserialize_any(ObjectiveVisitor)
    }
}

/// What agents are ranked by, as it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub(super) struct Objective {
    /// How much each part of the score counts; before a budget adds to that of cost.
    pub(super) weights: Weights,
    /// What latency and cost of a part of 0.5 are, where they have weight and are known.
    pub(super) scales: Scales,
}

impl ObjectiveField {
    /// # Errors
    /// [`Error::Invalid`] when nothing has weight, or a scale is 0.
    pub(super) fn check(self) -> Result<Objective> {
        let Weighted { weights, scales } = match self {
            Self::Preset(preset) => {
                return Ok(Objective { weights: preset.weights(), scales: Scales::default() });
            }
            Self::Weighted(weighted) => weighted,
        };
        let number = |field: Option<Real<0, WEIGHT_MAX>>| field.map_or(0.0, |Real(number)| number);
        let weights = Weights {
            success: number(weights.success),
            quality: number(weights.quality),
            latency: number(weights.latency),
            cost: number(weights.cost),
        };
        let Weights { success, quality, latency, cost } = weights;
        if [success, quality, latency, cost].iter().all(|weight| *weight == 0.0) {
            let pointer = "/objective/weights";
            let detail = "leaves nothing to choose by: give success, quality, latency or cost a \
                          weight above 0";
            return Err(Error::invalid(pointer, detail));
        }
        let scale = |name: &str, field: Option<Real<0, AMOUNT_MAX>>| match field {
            Some(Real(number)) if number == 0.0 => Err(refused(
                &format!("objective/scales/{name}"),
                &json!(number),
                "a number above 0",
            )),
            field => Ok(field.map(|Real(number)| number)),
        };
        let scales = match scales {
            None => Scales::default(),
            Some(ScaleFields { latency_ms, cost }) => {
                Scales { latency_ms: scale("latency_ms", latency_ms)?, cost: scale("cost", cost)? }
            }
        };
        Ok(Objective { weights, scales })
    }
}

/// What an agent has to meet to be chosen.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ConstraintFields {
    /// On one execution, ms.
    max_latency_ms: Option<Real<0, AMOUNT_MAX>>,
    /// On one execution, in the user's currency.
    max_cost: Option<Real<0, AMOUNT_MAX>>,
    /// On the chance of success.
    min_success: Option<Real<0, 1>>,
    /// On the mean quality.
    min_quality: Option<Real<0, 1>>,
    /// The probability with which each is to be met, between 0 and 1; 0.8 unless given.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    confidence: Option<Real<0, 1>>,
}

impl ConstraintFields {
    /// # Errors
    /// [`Error::Invalid`] when the confidence is 0 or 1: nothing, or everything, would meet a limit.
    pub(super) fn check(self) -> Result<Limits> {
        let confidence = self.confidence.map_or(Limits::CONFIDENCE, |Real(number)| number);
        if !(confidence > 0.0 && confidence < 1.0) {
            let allowed = "a number above 0 and below 1";
            return Err(refused("constraints/confidence", &json!(confidence), allowed));
        }
        let amount = |field: Option<Real<0, AMOUNT_MAX>>| field.map(|Real(number)| number);
        let share = |field: Option<Real<0, 1>>| field.map(|Real(number)| number);
        Ok(Limits {
            max_latency_ms: amount(self.max_latency_ms),
            max_cost: amount(self.max_cost),
            min_success: share(self.min_success),
            min_quality: share(self.min_quality),
            confidence,
        })
    }
}

/// What is answered when no agent meets the constraints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnInfeasible {
    /// The agents that violate them least, first; the answer says `feasible: false`.
    #[default]
    BestEffort,
    /// 422, with what each agent does not meet.
    Error,
}
