//! What an outcome event may hold. Events are read leniently and key by key (see `outcome`), so these
//! types are never filled: they say what is read, and a test says that it is.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde_json::Value;

/// How an agent execution ended. Unknown fields are ignored, and one that makes no sense is dropped and
/// counted, unless it is `agent_name`, `status` or a tenant: then the event is refused. What identifies may
/// also be a whole number, and a number may be written as a string.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct OutcomeEvent {
    /// The agent, 1 to 256 bytes; a whole number is its digits.
    #[schemars(length(min = 1, max = 256))]
    agent_name: String,
    /// How it ended; synonyms are understood, too, in any case.
    #[schemars(schema_with = "super::answers::statuses")]
    status: String,
    /// Tells the event apart: a second one with the same is a duplicate.
    event_id: Option<String>,
    /// The run it was part of; part of the identity where there is no `event_id`.
    run_id: Option<String>,
    /// Part of the identity where there is no `event_id`.
    agent_type: Option<String>,
    /// Whose agent this is; `default` unless given.
    #[schemars(length(min = 1, max = 256))]
    tenant_id: Option<String>,
    /// Kind of the task.
    task_type: Option<String>,
    /// The task type where there is no other, unless `workflow_step`.
    action_type: Option<String>,
    /// What was known of the task: strings, booleans, numbers, nested by dotted path.
    context: Option<BTreeMap<String, Value>>,
    /// The same where there is no `context`.
    context_snapshot: Option<BTreeMap<String, Value>>,
    /// The decision that it came of.
    decision_id: Option<String>,
    /// The same, when it names a decision that is known.
    correlation_id: Option<String>,
    /// The trace that it was part of, 32 hexadecimal digits: joins it with the decision of that trace, where
    /// it names none.
    trace_id: Option<String>,
    /// Whether it was a success is found out later: until a verdict comes it is pending.
    awaits_verdict: Option<bool>,
    /// Milliseconds.
    latency_ms: Option<f64>,
    /// The latency where there is no `latency_ms`.
    duration_ms: Option<f64>,
    /// In the user's currency.
    cost_estimate: Option<f64>,
    /// The same where there is no `cost_estimate`; 0 means unknown in an event with `memory_mb`
    /// and `cpu_ms` and without an `event_id`.
    cost: Option<f64>,
    /// 0 to 1.
    quality_score: Option<f64>,
    /// ISO 8601; UTC where it has no zone. Arrival unless given.
    timestamp: Option<String>,
    /// May hold `task_type`, `tenant_id`, `decision_id` and `quality_score` as well.
    metadata: Option<BTreeMap<String, Value>>,
}

/// An outcome event in an envelope of CloudEvents 1.0.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct CloudEvent {
    /// `1.0`.
    specversion: String,
    /// With `source` the identity of the event.
    #[schemars(length(min = 1))]
    id: String,
    /// Who sent it.
    #[schemars(length(min = 1))]
    source: String,
    /// Such as `com.example.agent.outcome`.
    #[schemars(length(min = 1))]
    r#type: String,
    /// The event.
    data: OutcomeEvent,
}
