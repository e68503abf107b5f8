//! Learning events: a row for each time the model changed.

use rusqlite::{Connection, params};
use schemars::JsonSchema;
use serde::Serialize;

use super::{StoreOptions, execute, padded_id, to_sql};
use crate::error::Result;

/// One learning step, save, activation or import.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct LearningEvent {
    /// Sorts by time.
    pub id: String,
    /// The version that was active then.
    pub model_version_id: Option<String>,
    /// `micro_batch`, `save`, `activation`, `import`, or the kind of control entries.
    pub event_type: String,
    /// Outcomes in the step.
    pub batch_size: u64,
    /// Of these, learned from.
    pub samples_processed: u64,
    /// The model's metrics before.
    #[serde(serialize_with = "as_json")]
    #[schemars(with = "Option<MetricsThen>")]
    pub metrics_before: std::sync::Arc<str>,
    /// The model's metrics after.
    #[serde(serialize_with = "as_json")]
    #[schemars(with = "Option<MetricsThen>")]
    pub metrics_after: std::sync::Arc<str>,
    /// Change of the model score.
    pub improvement: f64,
    /// Time it took, ms.
    pub duration_ms: f64,
    /// RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
}

/// What the metrics of a learning event are; written by the learner as text, described here.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct MetricsThen {
    /// Mean reward of the last 1,000 learned outcomes.
    #[schemars(range(min = 0.0, max = 1.0))]
    model_score: f64,
    /// Its relative change against the 1,000 before.
    improvement_rate: f64,
    /// Mean reward of all.
    #[schemars(range(min = 0.0, max = 1.0))]
    success_rate: f64,
    /// Outcomes learned.
    samples: u64,
}

fn as_json<S: serde::Serializer>(
    text: &str,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    match serde_json::from_str::<&serde_json::value::RawValue>(text) {
        Ok(json) => json.serialize(serializer),
        Err(_) => serializer.serialize_none(),
    }
}

impl LearningEvent {
    /// The id of the event with this number.
    pub fn id_of(number: u64) -> String {
        padded_id(number)
    }
}

/// Inserts events in order, then deletes the oldest beyond the number kept.
pub(super) fn insert_events(
    connection: &Connection,
    events: &[LearningEvent],
    options: &StoreOptions,
) -> Result<()> {
    for event in events {
        execute(
            connection,
            "INSERT INTO learning_events(id, model_version_id, event_type, batch_size,
                                         samples_processed, metrics_before, metrics_after,
                                         improvement, duration_ms, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                event.id,
                event.model_version_id,
                event.event_type,
                to_sql(event.batch_size),
                to_sql(event.samples_processed),
                &*event.metrics_before,
                &*event.metrics_after,
                event.improvement,
                event.duration_ms,
                event.created_at
            ],
        )?;
    }
    if let Some(number) = events.last().and_then(|event| event.id.parse::<u64>().ok()) {
        let kept_after = number.saturating_sub(options.learning_events_max);
        execute(connection, "DELETE FROM learning_events WHERE id <= ?1", [padded_id(kept_after)])?;
    }
    Ok(())
}
