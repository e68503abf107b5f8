//! What is answered, as types: their JSON is what clients read, their schemas what `/openapi.json`
//! says of it. Nothing is worked out here.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use serde_json::{Map, Value};

use super::objective::{Objective, OnInfeasible};
use crate::model::{Explanation, Limits, OnUnknown, Parts, Strategy, ValueKind, Verdict};
use crate::outcome::decisions::Candidate;
use crate::outcome::{Context, Feature, PayloadKept, RefusalCode, Status, format_time, hex};
use crate::store::{
    DeadLetter, JoinedOutcome, LearningEvent, MISSING, ModelVersion, RecordedDecision,
};
use crate::watch::alerts::AlertBody;
use crate::watch::budget::Period;

/// A string that is one of these.
fn one_of(names: impl IntoIterator<Item = &'static str>) -> Schema {
    let names: Vec<&str> = names.into_iter().collect();
    json_schema!({"type": "string", "enum": names})
}

pub(super) fn strategies(_: &mut SchemaGenerator) -> Schema {
    one_of(Strategy::ALL.map(Strategy::as_str))
}

fn kept(_: &mut SchemaGenerator) -> Schema {
    one_of(PayloadKept::ALL.map(PayloadKept::as_str))
}

pub(super) fn refusal_codes(_: &mut SchemaGenerator) -> Schema {
    one_of(RefusalCode::ALL.map(RefusalCode::as_str))
}

pub(super) fn statuses(_: &mut SchemaGenerator) -> Schema {
    one_of(Status::ALL.map(Status::as_str))
}

/// Those of decisions.
fn ends(_: &mut SchemaGenerator) -> Schema {
    one_of(Status::ALL.map(Status::as_str).into_iter().chain([MISSING]))
}

pub(super) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

fn time_or_none(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["string", "null"], "format": "date-time"})
}

/// `GET /api/learning/metrics`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Metrics {
    /// Micro-batches tried: the two below.
    pub(super) total_updates: u64,
    /// Micro-batches learned and stored.
    pub(super) successful_updates: u64,
    /// Micro-batches that could not be stored, each try.
    pub(super) failed_updates: u64,
    /// Mean time to learn and store one, ms; 0 with none.
    #[schemars(range(min = 0.0))]
    pub(super) avg_update_time_ms: f64,
    /// Per minute of running time.
    #[schemars(range(min = 0.0))]
    pub(super) updates_per_minute: f64,
    /// Outcomes with a reward that were learned.
    pub(super) samples_processed: u64,
    /// Mean reward of the last 1,000 learned outcomes.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) current_model_score: f64,
    /// Its relative change against the 1,000 before; 0 until both hold 50.
    pub(super) improvement_rate: f64,
    /// Outcomes made durable.
    pub(super) accepted: u64,
    /// Events that were known already.
    pub(super) duplicates: u64,
    /// Those of them that differ from the first of their identity in agent or status.
    pub(super) conflicting: u64,
    /// Events that became dead letters, by reason.
    pub(super) rejected: BTreeMap<String, u64>,
    /// Rejected events that did not become dead letters, because their body, or import, had more than
    /// 500 of them: only their number is kept.
    pub(super) dead_letters_unkept: u64,
    /// Optional fields that made no sense, by name.
    pub(super) dropped_fields: BTreeMap<String, u64>,
    /// Versions saved.
    pub(super) saves: u64,
    /// Saves that failed.
    pub(super) failed_saves: u64,
    /// 1 minus the Brier score of what was foretold; none before the first outcome.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) prediction_accuracy: Option<f64>,
    /// Mean logarithmic loss of the same.
    #[schemars(range(min = 0.0))]
    pub(super) log_loss: Option<f64>,
    /// Ten bins of equal width, by what was foretold.
    pub(super) calibration: Vec<CalibrationBin>,
    /// What was decided.
    pub(super) decisions: DecisionCounts,
}

/// How often what was foretold came true.
#[derive(Serialize, JsonSchema)]
pub(super) struct CalibrationBin {
    /// Foretold at least this.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) from: f64,
    /// And less than this.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) to: f64,
    /// Outcomes in this bin.
    pub(super) count: u64,
    /// Mean of what was foretold; none without outcomes.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) mean_predicted: Option<f64>,
    /// Mean reward; none without outcomes.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) mean_observed: Option<f64>,
}

/// Decisions, ever.
#[derive(Serialize, JsonSchema)]
pub(super) struct DecisionCounts {
    /// Recorded.
    pub(super) recorded: u64,
    /// Answered without being recorded, because too many waited.
    pub(super) unrecorded: u64,
    /// Of the recorded ones, those that would have been others without a draw.
    pub(super) explored: u64,
    /// Their share; none with none.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) explored_share: Option<f64>,
    /// That found their outcome.
    pub(super) with_outcome: u64,
    /// Kept ones without an outcome for longer than `DECISION_WAIT`.
    pub(super) orphaned: u64,
    /// Given up, and learned as failures; with `DECISION_MISSING=failure`.
    pub(super) missing: u64,
    /// Outcomes that came after that, and were not learned.
    pub(super) late: u64,
    /// Outcomes that name a decision of which nothing is known: learned with their own task type and
    /// context.
    pub(super) unresolved: u64,
}

/// What an agent has done, or did on one task type.
#[derive(Serialize, JsonSchema)]
pub(super) struct AgentPerformance<'a> {
    /// Its name.
    pub(super) agent_name: &'a str,
    /// Reward per learned outcome; 0.5 with none.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) success_rate: f64,
    /// Mean of its last 100 latencies, or of all on the task type, ms; 0 with none.
    #[schemars(range(min = 0.0))]
    pub(super) avg_latency_ms: f64,
    /// The average latency as `avg_latency_ms` has it, but none while it is unknown.
    #[schemars(range(min = 0.0))]
    pub(super) mean_latency_ms: Option<f64>,
    /// Outcomes, learned from or not.
    pub(super) total_executions: u64,
    /// Outcomes learned from.
    pub(super) samples: u64,
    /// Prior and reward.
    #[schemars(range(min = 0.0))]
    pub(super) alpha: f64,
    /// Prior and missed reward.
    #[schemars(range(min = 0.0))]
    pub(super) beta: f64,
    /// What there is of all task types together alone.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) overall: Option<OverallPerformance>,
    /// Expected reward of the next outcome, whatever its context; this and the next seven are there
    /// when asked for with `outlook`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) expected_success: Option<f64>,
    /// Central 90 % of what is believed of the mean reward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) interval: Option<[f64; 2]>,
    /// Probability of being ranked first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) probability_best: Option<f64>,
    /// Expected latency of the next execution, ms; not there while it has shown none itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub(super) expected_latency_ms: Option<f64>,
    /// What that latency stays below with 95 %, ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub(super) expected_latency_p95_ms: Option<f64>,
    /// Expected cost of the next execution; not there while it has shown none itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub(super) expected_cost: Option<f64>,
    /// No other agent beats it in expected success, latency and cost at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unbeaten: Option<bool>,
    /// Which of the colours of the plots is its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) plot_index: Option<usize>,
    /// Its newest 1,000 recorded decisions older than `DECISION_WAIT`, how many there are. This and the
    /// next two are not of one task type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) decisions: Option<u64>,
    /// Of these, the ones whose outcome is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) decisions_missing: Option<u64>,
    /// Younger decisions without an outcome, at most 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) decisions_waiting: Option<u64>,
    /// True for the row of all agents past the cap, which are never recommended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) is_other: Option<bool>,
}

/// What an agent has done on all task types together.
#[derive(Serialize, JsonSchema)]
pub(super) struct OverallPerformance {
    /// Mean of its last 100 qualities; 0 with none.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) avg_quality: f64,
    /// The average quality as `avg_quality` has it, but none while it is unknown.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) mean_quality: Option<f64>,
    /// Outcomes by status.
    pub(super) statuses: StatusCounts,
    /// 95 % quantile of its last 100 latencies, ms; none while they are unknown.
    #[schemars(range(min = 0.0))]
    pub(super) latency_p95_ms: Option<f64>,
}

/// What can be asked for, and what the caller may.
#[derive(Serialize, JsonSchema)]
pub(super) struct Catalog<'a> {
    pub(super) caller: CallerRights<'a>,
    /// Those that the caller may ask for.
    pub(super) tenants: Vec<&'a str>,
    /// Of one tenant, as the next three.
    pub(super) task_types: Vec<&'a str>,
    pub(super) agents: Vec<&'a str>,
    pub(super) context_keys: Vec<&'a str>,
    /// What the values of each key are: `number`, `boolean`, or `text`, which is also what they are of
    /// several kinds.
    #[schemars(schema_with = "value_kinds")]
    pub(super) context_types: BTreeMap<&'a str, &'static str>,
}

fn value_kinds(_: &mut SchemaGenerator) -> Schema {
    let kinds = one_of(ValueKind::ALL.map(ValueKind::as_str));
    json_schema!({"type": "object", "additionalProperties": kinds})
}

/// What the caller may.
#[derive(Serialize, JsonSchema)]
pub(super) struct CallerRights<'a> {
    /// `read`, `ingest` or `admin`, which is also everybody's where there are no tokens.
    pub(super) scope: &'static str,
    /// The only tenant it may ask for; none when it may ask for all.
    pub(super) tenant_id: Option<&'a str>,
}

/// Outcomes by status.
#[derive(Serialize, JsonSchema)]
pub(super) struct StatusCounts {
    pub(super) success: u64,
    pub(super) partial: u64,
    pub(super) failure: u64,
    pub(super) timeout: u64,
    pub(super) cancelled: u64,
    pub(super) pending: u64,
}

/// `GET /api/learning/status`.
#[derive(Serialize, JsonSchema)]
pub(super) struct ServiceStatus {
    /// `degraded` while something keeps it from learning.
    #[schemars(schema_with = "service_states")]
    pub(super) status: &'static str,
    /// Always true: a service that does not run does not answer.
    pub(super) running: bool,
    /// The configured name, also with Kafka off.
    pub(super) kafka_topic: String,
    /// Outcomes per micro-batch, at most.
    #[schemars(range(min = 1))]
    pub(super) batch_size: usize,
    /// The types of the models.
    pub(super) models_loaded: &'static [&'static str],
    /// What keeps it from learning.
    pub(super) trouble: Option<String>,
    /// Where outcomes come from: `kafka` or `http`.
    #[schemars(schema_with = "sources")]
    pub(super) source: &'static str,
    /// What is accepted and not learned yet. Not for a token of one tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lag: Option<Lag>,
    /// The topic; none with Kafka off, or for a token of one tenant.
    pub(super) kafka: Option<Kafka>,
    /// Requests that wait for the learner. Not for a token of one tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<Queue>,
    /// Seconds until a micro-batch that is not full is learned.
    #[schemars(range(min = 0.0))]
    pub(super) batch_timeout_seconds: f64,
    /// How agents are ranked.
    #[schemars(schema_with = "strategies")]
    pub(super) strategy: &'static str,
    /// Since the start.
    pub(super) uptime_seconds: u64,
    /// Of the program.
    pub(super) version: &'static str,
    /// The id of the active saved version.
    pub(super) active_version: Option<String>,
    /// Number of the last journal entry that the model has learned; for a token of one tenant, of the
    /// tenant's outcomes in it.
    pub(super) model_version: u64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) totals: Option<Totals>,
    /// What is used of the memory. Not for a token of one tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<Memory>,
    /// What the names learned take of what they may.
    pub(super) caps: Caps,
}

/// Memory.
#[derive(Serialize, JsonSchema)]
pub(super) struct Memory {
    /// The used share of what is nearest to its limit; none where that can't be read.
    #[schemars(range(min = 0.0))]
    pub(super) share: Option<f64>,
    /// `closed` when it is short: new names count into "other".
    #[schemars(schema_with = "rooms")]
    pub(super) room: &'static str,
}

fn rooms(_: &mut SchemaGenerator) -> Schema {
    one_of(["open", "closed"])
}

/// What all tenants do together: not for a token of one of them.
#[derive(Serialize, JsonSchema)]
pub(super) struct Totals {
    /// Number of the last journal entry.
    pub(super) journal_sequence: u64,
    /// When the last outcome came.
    #[schemars(schema_with = "time_or_none")]
    pub(super) last_event: Option<String>,
    /// When the last micro-batch was learned.
    #[schemars(schema_with = "time_or_none")]
    pub(super) last_update: Option<String>,
    /// When the last version was saved.
    #[schemars(schema_with = "time_or_none")]
    pub(super) last_save: Option<String>,
    /// Events refused, ever.
    pub(super) dead_letters_total: u64,
    /// Alerts that fire.
    pub(super) alerts_firing: u64,
    /// Decisions in memory; outcomes may name any that is recorded.
    pub(super) decisions_remembered: usize,
    /// Outcomes that name a decision of which nothing is known, ever.
    pub(super) decisions_unresolved: u64,
    /// What came from where, ever: sources that are on, and others that have brought something.
    pub(super) sources: Vec<SourceStatus>,
}

/// What came from one source.
#[derive(Serialize, JsonSchema)]
pub(super) struct SourceStatus {
    /// Such as `http`, `otlp`, `kafka`, `import`.
    pub(super) name: &'static str,
    /// Outcomes made durable.
    pub(super) accepted: u64,
    /// Known already.
    pub(super) duplicates: u64,
    /// Refused.
    pub(super) rejected: u64,
    /// Accepted without a task type.
    pub(super) without_task_type: u64,
    /// When the last outcome came.
    #[schemars(schema_with = "time_or_none")]
    pub(super) last_event: Option<String>,
    /// What is there and not learned yet. With Kafka all come by the topic.
    pub(super) lag: Option<u64>,
}

fn service_states(_: &mut SchemaGenerator) -> Schema {
    one_of(["starting", "running", "degraded", "stopping"])
}

fn sources(_: &mut SchemaGenerator) -> Schema {
    one_of(["kafka", "http"])
}

/// What is accepted and not learned yet.
#[derive(Clone, Serialize, JsonSchema)]
pub(super) struct Lag {
    /// Records of the topic that are not in the journal; without Kafka, outcomes not learned.
    pub(super) records: u64,
    /// The age of the last record in the journal while there are newer ones.
    #[schemars(range(min = 0.0))]
    pub(super) seconds: Option<f64>,
}

/// A queue.
#[derive(Serialize, JsonSchema)]
pub(super) struct Queue {
    /// In it.
    pub(super) depth: usize,
    /// At most.
    pub(super) capacity: usize,
}

/// The topic that outcomes come from.
#[derive(Serialize, JsonSchema)]
pub(super) struct Kafka {
    /// How the brokers are reached.
    #[schemars(schema_with = "connections")]
    pub(super) state: &'static str,
    /// What was last heard to go wrong.
    pub(super) error: Option<String>,
    /// Nothing is fetched because the queue is full.
    pub(super) paused: bool,
    /// Records that were gone before they were read, ever.
    pub(super) gaps: u64,
    /// By number.
    pub(super) partitions: Vec<Partition>,
}

fn connections(_: &mut SchemaGenerator) -> Schema {
    use crate::sources::kafka::Connection::{Connected, Connecting, Disconnected, TopicMissing};
    let all = [Connecting, Connected, Disconnected, TopicMissing];
    one_of(all.map(crate::sources::kafka::Connection::as_str))
}

/// A partition of the topic.
#[derive(Serialize, JsonSchema)]
#[expect(clippy::struct_field_names, reason = "clients know it by that name")]
pub(super) struct Partition {
    /// Its number.
    pub(super) partition: i32,
    /// The first offset that is not in the journal.
    pub(super) position: i64,
    /// The oldest offset that the broker still has.
    pub(super) low: i64,
    /// The offset after the newest record.
    pub(super) high: i64,
    /// Records between position and high.
    pub(super) lag: u64,
    /// Records that were gone before they were read, ever.
    pub(super) lost: u64,
    /// `stopped` when its log is another one than it was.
    #[schemars(schema_with = "partition_states")]
    pub(super) state: &'static str,
    /// Why it is stopped.
    pub(super) message: Option<String>,
}

fn partition_states(_: &mut SchemaGenerator) -> Schema {
    one_of(["running", "stopped"])
}

/// What the names learned take of what they may. What is bounded over all tenants is not for a token of
/// one of them.
#[derive(Serialize, JsonSchema)]
pub(super) struct Caps {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tenants: Option<Cap>,
    pub(super) agents_per_tenant: Cap,
    pub(super) task_types_per_tenant: Cap,
    pub(super) context_keys_per_tenant: Cap,
    pub(super) context_values_per_key: Cap,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cells: Option<Cap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) effects: Option<Cap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) covariances_mib: Option<Cap>,
    pub(super) joint_values_per_agent: Cap,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) recent_values: Option<Cap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) values_mib: Option<Cap>,
}

/// What there is of something that is bounded, in the tenant that has most where it is per tenant.
#[derive(Default, Serialize, JsonSchema)]
pub(super) struct Cap {
    /// So many.
    pub(super) used: usize,
    /// At most.
    pub(super) max: usize,
    /// Outcomes that count under "other" because of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) other_outcomes: Option<u64>,
    /// Effects that are learned independently of others because of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) independent: Option<u64>,
    /// (agent, task type) records of values that there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) records: Option<usize>,
    /// Those that gave way because of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) evicted: Option<u64>,
}

/// `GET /livez` and `/readyz`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Probe {
    /// `ok` or `ready`.
    pub(super) status: &'static str,
    /// More, when asked for with `?verbose`.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) verbose: Option<Readiness>,
}

/// What `/readyz?verbose` adds.
#[derive(Serialize, JsonSchema)]
pub(super) struct Readiness {
    /// Number of the last journal entry that the model has learned; for a token of one tenant, of the
    /// tenant's outcomes in it.
    pub(super) model_version: u64,
    /// Outcomes in the journal that are not learned. Not for a token of one tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lag: Option<u64>,
    /// How the topic is reached; none with Kafka off.
    pub(super) kafka: Option<String>,
    /// What keeps it from learning, or `ok`.
    pub(super) learning: String,
}

/// `GET /health`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Health {
    /// `healthy` or `degraded`.
    #[schemars(schema_with = "health_states")]
    pub(super) status: &'static str,
    /// What was looked at.
    pub(super) checks: HealthChecks,
    /// Number of the last journal entry that the model has learned; for a token of one tenant, of the
    /// tenant's outcomes in it.
    pub(super) model_version: u64,
    /// Outcomes with a reward that were learned; for a token of one tenant, its own in the model.
    pub(super) samples_processed: u64,
    /// Since the start.
    pub(super) uptime_seconds: u64,
}

fn health_states(_: &mut SchemaGenerator) -> Schema {
    one_of(["healthy", "degraded"])
}

/// `ok`, or what is wrong.
#[derive(Serialize, JsonSchema)]
pub(super) struct HealthChecks {
    /// It answers.
    pub(super) model: &'static str,
    /// What came can be stored.
    pub(super) storage: String,
    /// Outcomes come in; none with Kafka off.
    pub(super) kafka: Option<String>,
    /// What waits to be stored or learned moves on, whatever else is said.
    pub(super) backlog: String,
    /// `ok` or `stalled`.
    pub(super) learner: &'static str,
}

/// A version that was made: saved, imported, or activated.
#[derive(Serialize, JsonSchema)]
pub(super) struct MadeVersion {
    /// Always `success`.
    pub(super) status: &'static str,
    /// In words.
    pub(super) message: String,
    /// Its id.
    pub(super) version_id: String,
    /// Its number.
    pub(super) version_number: u64,
}

/// `GET /api/learning/models/{model_type}`.
#[derive(Serialize, JsonSchema)]
pub(super) struct ModelSummary {
    /// Such as `agent_selection`.
    pub(super) model_type: String,
    /// Micro-batches tried.
    pub(super) update_count: u64,
    /// When the last one was learned.
    #[schemars(schema_with = "time_or_none")]
    pub(super) last_update: Option<String>,
    /// What it knows.
    pub(super) performance_summary: PerformanceSummary,
    /// How agents are ranked.
    #[schemars(schema_with = "strategies")]
    pub(super) strategy: &'static str,
    /// The id of the active saved version.
    pub(super) active_version: Option<String>,
    /// Number of the last journal entry that it has learned.
    pub(super) learned_sequence: u64,
    /// SHA-256 of the learned state.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub(super) digest: String,
}

/// What a model knows.
#[derive(Serialize, JsonSchema)]
pub(super) struct PerformanceSummary {
    /// Agents, of all tenants.
    pub(super) total_agents: usize,
    /// Task types, of all tenants.
    pub(super) task_patterns: usize,
    /// Tenants.
    pub(super) tenants: usize,
    /// Records of an agent on a task type, and context values.
    pub(super) cells: usize,
    /// Mean reward of the last 1,000 learned outcomes.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) model_score: f64,
    /// Its relative change against the 1,000 before.
    pub(super) improvement_rate: f64,
}

/// A page of saved versions.
#[derive(Serialize, JsonSchema)]
pub(super) struct Versions {
    /// Newest first.
    pub(super) versions: Vec<ModelVersion>,
    /// What `before` takes for the page after this one; none at the end.
    pub(super) next_before: Option<String>,
}

/// A page of learning events, as it is described: `lists` writes it row by row.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct Events {
    /// Newest first.
    pub(super) events: Vec<LearningEvent>,
    /// What `before` takes for the page after this one; none at the end.
    pub(super) next_before: Option<String>,
}

/// A page of dead letters, as it is described: `lists` writes it row by row.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct DeadLetters {
    /// Newest first.
    pub(super) dead_letters: Vec<DeadLetterBody>,
    /// What `before` takes for the page after this one; none at the end.
    pub(super) next_before: Option<String>,
}

/// An event that was refused.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLetter")]
pub(super) struct DeadLetterBody {
    /// Sorts by time.
    pub(super) id: String,
    /// Where it came from: `http`, `kafka`, `import` or `replay`.
    pub(super) source: String,
    /// The reason, for machines.
    #[schemars(schema_with = "refusal_codes")]
    pub(super) code: String,
    /// The reason, for people.
    pub(super) detail: String,
    /// The topic, if it came from one.
    pub(super) topic: Option<String>,
    /// The partition there.
    pub(super) partition: Option<i32>,
    /// The offset there.
    pub(super) offset: Option<i64>,
    /// The first 64 KiB of what is kept, with replacements for what is not UTF-8.
    pub(super) payload: String,
    /// What is kept: all of it (`full`), its names, types and lengths (`keys`), or nothing (`none`).
    #[schemars(schema_with = "kept")]
    pub(super) payload_kept: &'static str,
    /// Bytes of the whole.
    pub(super) payload_bytes: u64,
    /// It is not kept whole, and can't be replayed.
    pub(super) payload_cut: bool,
    /// When it came.
    #[schemars(schema_with = "time")]
    pub(super) created_at: String,
}

impl From<DeadLetter> for DeadLetterBody {
    fn from(letter: DeadLetter) -> Self {
        Self {
            payload_cut: letter.is_cut(),
            payload_kept: letter.payload_kept.as_str(),
            payload: String::from_utf8_lossy(&letter.payload).into_owned(),
            id: letter.id,
            source: letter.source,
            code: letter.code,
            detail: letter.detail,
            topic: letter.topic,
            partition: letter.partition,
            offset: letter.offset,
            payload_bytes: letter.payload_bytes,
            created_at: letter.created_at,
        }
    }
}

/// A page of alerts.
#[derive(Serialize, JsonSchema)]
pub(super) struct Alerts {
    /// Newest first.
    pub(super) alerts: Vec<AlertBody>,
    /// What `before` takes for the page after this one; none at the end.
    pub(super) next_before: Option<String>,
}

/// What became of the events of a request.
#[derive(Default, Serialize, JsonSchema)]
pub(super) struct Received {
    /// Made durable.
    pub(super) accepted: u64,
    /// Known already.
    pub(super) duplicates: u64,
    /// Those of them that differ from the first of their identity in agent or status, and are not
    /// learned; there when there are any.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) conflicting: u64,
    /// Refused, at most 10,000 of them.
    pub(super) rejected: Vec<RejectedEvent>,
    /// Refused, all of them.
    pub(super) rejected_total: u64,
    /// Optional fields of accepted ones that made no sense, by name; there when there are any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) dropped_fields: BTreeMap<&'static str, u64>,
    /// Refused beyond the first 500, of which nothing but the number is kept; only when there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dead_letters_unkept: Option<u64>,
}

/// An event that was refused.
#[derive(Serialize, JsonSchema)]
pub(super) struct RejectedEvent {
    /// The place of the event in the request, from 0.
    pub(super) index: usize,
    /// The reason, for machines.
    #[schemars(schema_with = "refusal_codes")]
    pub(super) code: &'static str,
    /// The reason, for people.
    pub(super) detail: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What became of dead letters that were fed back.
#[derive(Serialize, JsonSchema)]
pub(super) struct Replayed {
    /// Made durable.
    pub(super) accepted: u64,
    /// Known already.
    pub(super) duplicates: u64,
    /// Those of them that differ from the first of their identity in agent or status; there when
    /// there are any.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) conflicting: u64,
    /// Refused once more.
    pub(super) rejected: Vec<RejectedLetter>,
    /// Not fed back.
    pub(super) skipped: Vec<SkippedLetter>,
    /// Optional fields of accepted ones that made no sense, by name; there when there are any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) dropped_fields: BTreeMap<&'static str, u64>,
}

/// A dead letter that was refused once more.
#[derive(Serialize, JsonSchema)]
pub(super) struct RejectedLetter {
    /// Its id.
    pub(super) id: String,
    /// The reason, for machines.
    #[schemars(schema_with = "refusal_codes")]
    pub(super) code: &'static str,
    /// The reason, for people.
    pub(super) detail: String,
}

/// A dead letter that was not fed back.
#[derive(Serialize, JsonSchema)]
pub(super) struct SkippedLetter {
    /// As it was given.
    pub(super) id: String,
    /// Why.
    pub(super) reason: String,
}

/// `POST /api/learning/predict/agent-selection`.
#[derive(Serialize, JsonSchema)]
#[expect(clippy::struct_field_names, reason = "clients know it by that name")]
pub(super) struct Recommendations<'a> {
    /// Best first.
    pub(super) recommendations: Vec<Recommended<'a>>,
    /// Mean reward of the tenant's last 1,000 learned outcomes.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) model_score: f64,
    /// Of the answer.
    #[schemars(schema_with = "time")]
    pub(super) timestamp: String,
    /// What an outcome names to say that it came of this.
    pub(super) decision_id: &'a str,
    /// Number of the last journal entry that the model has learned; for a token of one tenant, of the
    /// tenant's outcomes in it.
    pub(super) model_version: u64,
    /// How agents are ranked.
    #[schemars(schema_with = "strategies")]
    pub(super) strategy: &'static str,
    /// The answer is kept as a decision.
    pub(super) recorded: bool,
    #[serde(flatten)]
    pub(super) details: ScoreDetails,
    /// Who was left out because of a constraint; there with constraints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) excluded: Option<Vec<LeftOut<'a>>>,
    /// What was left out, by name: of the context what is no feature (lists, nulls, blanks), a
    /// `decision_id` that is none; there when there is any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) dropped_fields: &'a BTreeMap<&'static str, u64>,
}

/// What had a part in a choice beside success; also kept with the decision.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct ScoreDetails {
    /// What was asked for, and what it was measured by; there with an objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) objective: Option<Objective>,
    #[serde(flatten)]
    pub(super) limits: Option<Constrained>,
    /// How the tenant's budget stood; there when it had a part in the choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) budget: Option<BudgetEffect>,
}

impl ScoreDetails {
    /// The fields of a JSON object that are kept with a decision; `None` for success alone.
    pub(super) fn recorded(&self, parts: Option<Parts>) -> Option<String> {
        #[derive(Serialize)]
        struct Recorded<'d> {
            #[serde(flatten)]
            details: &'d ScoreDetails,
            #[serde(skip_serializing_if = "Option::is_none")]
            parts: Option<Parts>,
        }
        let Self { objective, limits, budget } = self;
        if objective.is_none() && limits.is_none() && budget.is_none() {
            return None;
        }
        serde_json::to_string(&Recorded { details: self, parts }).ok()
    }
}

/// The limits of a choice; there with constraints.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Constrained {
    /// What an agent had to meet.
    pub(super) constraints: Limits,
    /// What was to be done if none did.
    pub(super) on_infeasible: OnInfeasible,
    /// What was to become of an agent of which too little is known to judge one.
    pub(super) on_unknown: OnUnknown,
    /// Whether one was admitted; else all are ranked, those that violate them least first.
    pub(super) feasible: bool,
}

/// What a budget did to a choice.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct BudgetEffect {
    /// Of the amount; above 1 when more was spent.
    #[schemars(range(min = 0.0))]
    pub(super) share_spent: f64,
    /// What the weight of cost was multiplied by.
    #[schemars(range(min = 1.0))]
    pub(super) cost_weight: f64,
    /// Nothing is left: agents are ranked by expected cost, the cheapest first.
    pub(super) exhausted: bool,
}

/// An agent that was left out.
#[derive(Serialize, JsonSchema)]
pub(super) struct LeftOut<'a> {
    /// Its name.
    pub(super) agent_name: &'a str,
    /// The constraints that it does not meet.
    pub(super) reason: &'a str,
}

/// An agent with its rank.
#[derive(Serialize, JsonSchema)]
pub(super) struct Recommended<'a> {
    /// Its name.
    pub(super) agent_name: &'a str,
    /// What it is ranked by, where nobody violates a constraint and something may be spent: the draw of
    /// success, or the mean of the parts; expected ones without a draw.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) score: f64,
    /// From 1.
    #[schemars(range(min = 1))]
    pub(super) rank: usize,
    /// The mean of the distribution that the draw came from.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) expected_success: f64,
    /// Its central 90 %; none for strategies without a distribution.
    pub(super) interval: Option<[f64; 2]>,
    /// Outcomes of the agent that were learned.
    pub(super) samples: u64,
    /// The probability of ranking it first.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) propensity: f64,
    /// What the rank rests on.
    pub(super) evidence: Evidence,
    /// What the score is made of, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) explanation: Option<Explanation>,
    /// What the score is the weighted mean of; there with an objective.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parts: Option<Parts>,
    /// The constraints that it does not meet; there when no agent meets them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) violation: Option<&'a str>,
    /// How it stands to each constraint; there with constraints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limits: Option<BTreeMap<&'static str, Verdict>>,
}

/// Learned outcomes of the agent on the task type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Evidence {
    /// Under 5.
    Insufficient,
    /// Under 30.
    Emerging,
    /// 30 or more.
    Established,
}

/// `POST /api/learning/predict/quality`, `/latency` and `/cost`.
#[derive(Serialize, JsonSchema)]
pub(super) struct ValuePredictions<'a> {
    /// Best first: the most quality, the least latency or cost.
    pub(super) predictions: Vec<ValuePrediction<'a>>,
    /// When it was answered.
    #[schemars(schema_with = "time")]
    pub(super) timestamp: String,
    /// What was left out, by name: of the context what is no feature (lists, nulls, blanks), a
    /// `decision_id` that is none; there when there is any.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) dropped_fields: &'a BTreeMap<&'static str, u64>,
}

/// What is expected of an agent.
#[derive(Serialize, JsonSchema)]
pub(super) struct ValuePrediction<'a> {
    /// Its name.
    pub(super) agent_name: &'a str,
    /// Of a quality (0 to 1), a latency (ms) or a cost; none while nobody has shown any.
    #[schemars(range(min = 0.0))]
    pub(super) mean: Option<f64>,
    /// Where the mean lies with a probability of 90 %.
    pub(super) interval: Option<[f64; 2]>,
    /// Half of the executions take no longer, ms. Of latencies only, as the next two.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub(super) p50: Option<f64>,
    /// 95 % take no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub(super) p95: Option<f64>,
    /// 99 % take no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub(super) p99: Option<f64>,
    /// Values of the agent that were learned.
    pub(super) samples: u64,
    /// How many of them were on the task type.
    pub(super) evidence: Evidence,
}

/// A decision as it was recorded.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Decision")]
pub(super) struct DecisionBody {
    /// Unique in the tenant.
    pub(super) decision_id: String,
    /// Whose agents competed.
    pub(super) tenant_id: String,
    /// When it was answered.
    #[schemars(schema_with = "time")]
    pub(super) timestamp: String,
    /// The task type of the question.
    pub(super) task_type: Option<String>,
    /// Its context, by dotted path.
    pub(super) context: BTreeMap<String, FeatureBody>,
    /// The agent ranked first; none when nobody was known.
    pub(super) chosen: Option<String>,
    /// What it was ranked by.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) score: Option<f64>,
    /// The probability of ranking it first.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) propensity: Option<f64>,
    /// The request allowed a draw.
    pub(super) explore: bool,
    /// Without a draw another agent would have been first.
    pub(super) explored: bool,
    /// Number of the last journal entry that the model had learned. Not for a token of one tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) model_version: Option<u64>,
    /// How agents were ranked.
    pub(super) strategy: String,
    /// Who competed.
    pub(super) candidates: Vec<CandidateBody>,
    /// What came of it, so far; with the status `missing` it was given up.
    pub(super) outcome: Option<OutcomeBody>,
    /// What came of it after that, and was not learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) late: Option<OutcomeBody>,
    /// The trace that the question was part of, 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace_id: Option<String>,
    /// What else had a part in the choice.
    #[serde(flatten)]
    pub(super) details: Map<String, Value>,
}

/// A value of a context.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Feature")]
pub(super) enum FeatureBody {
    /// A category.
    Text(String),
    /// Yes or no.
    Bool(bool),
    /// A finite number.
    Number(f64),
}

/// An agent that competed.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Candidate")]
pub(super) struct CandidateBody {
    /// Its name.
    pub(super) agent_name: String,
    /// As expected then.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) expected_success: f64,
    /// The probability of ranking it first then.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) propensity: f64,
}

/// What came of a decision.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JoinedOutcome")]
pub(super) struct OutcomeBody {
    /// How it ended; `missing` where it was given up.
    #[schemars(schema_with = "ends")]
    pub(super) status: String,
    /// What was learned.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) reward: f64,
    /// Milliseconds.
    #[schemars(range(min = 0.0))]
    pub(super) latency_ms: Option<f64>,
    /// As reported.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) quality_score: Option<f64>,
    /// As reported.
    #[schemars(range(min = 0.0))]
    pub(super) cost: Option<f64>,
    /// Of the event.
    #[schemars(schema_with = "time")]
    pub(super) timestamp: String,
    /// Its number in the journal. Not for a token of one tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) journal_sequence: Option<u64>,
}

impl From<RecordedDecision> for DecisionBody {
    fn from(decision: RecordedDecision) -> Self {
        let candidate = |Candidate { agent, expected_success, propensity }| CandidateBody {
            agent_name: agent,
            expected_success,
            propensity,
        };
        Self {
            decision_id: decision.id,
            tenant_id: decision.tenant,
            timestamp: format_time(decision.created_ms),
            task_type: decision.task_type,
            context: features(decision.context),
            chosen: decision.chosen,
            score: decision.score,
            propensity: decision.propensity,
            explore: decision.explore,
            explored: decision.explored,
            model_version: Some(decision.model_version),
            strategy: decision.strategy,
            candidates: decision.candidates.into_iter().map(candidate).collect(),
            outcome: decision.outcome.map(OutcomeBody::from),
            late: decision.late.map(OutcomeBody::from),
            trace_id: decision.trace.map(|trace| hex(&trace)),
            details: decision.details,
        }
    }
}

impl DecisionBody {
    /// The same as a tenant may see it: what counts through all of them tells how much others report.
    pub(super) fn of_tenant(self) -> Self {
        let outcome = self.outcome.map(|outcome| OutcomeBody { journal_sequence: None, ..outcome });
        Self { model_version: None, outcome, ..self }
    }
}

impl From<JoinedOutcome> for OutcomeBody {
    fn from(outcome: JoinedOutcome) -> Self {
        Self {
            status: outcome.status,
            reward: outcome.reward,
            latency_ms: outcome.latency_ms,
            quality_score: outcome.quality,
            cost: outcome.cost,
            timestamp: format_time(outcome.time_ms),
            journal_sequence: Some(outcome.sequence),
        }
    }
}

pub(super) fn features(context: Context) -> BTreeMap<String, FeatureBody> {
    let value = |feature| match feature {
        Feature::Text(text) => FeatureBody::Text(text),
        Feature::Bool(yes) => FeatureBody::Bool(yes),
        Feature::Number(number) => FeatureBody::Number(number),
    };
    context.into_iter().map(|(key, feature)| (key, value(feature))).collect()
}

/// A page of decisions, as it is described: `lists` writes it row by row.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct Decisions {
    /// Newest first.
    pub(super) decisions: Vec<DecisionBody>,
    /// What `before` takes for the page after this one; none at the end.
    pub(super) next_before: Option<String>,
}

/// A decision with its answer and what the model says of it now.
#[derive(Serialize, JsonSchema)]
pub(super) struct ExplainedDecision<'a> {
    /// As it was recorded.
    #[serde(flatten)]
    pub(super) decision: DecisionBody,
    /// As it was given; the schema is that of the prediction.
    #[schemars(with = "Recommendations<'a>")]
    pub(super) answer: Value,
    /// What the model says now.
    pub(super) explain: ExplainedNow<'a>,
}

/// What the model says now of those who competed.
#[derive(Serialize, JsonSchema)]
pub(super) struct ExplainedNow<'a> {
    /// Number of the last journal entry that the model has learned; for a token of one tenant, of the
    /// tenant's outcomes in it.
    pub(super) model_version: u64,
    /// By name.
    pub(super) agents: BTreeMap<&'a str, Explanation>,
    /// What the scores were made of then, by name; there with an objective.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) parts: BTreeMap<&'a str, &'a Value>,
    /// What the agents had to meet, and who did not; there with constraints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limits: Option<ExplainedLimits<'a>>,
}

/// The limits of a decision.
#[derive(Serialize, JsonSchema)]
pub(super) struct ExplainedLimits<'a> {
    /// What an agent had to meet.
    pub(super) constraints: &'a Value,
    /// What was to be done if none did.
    pub(super) on_infeasible: &'a Value,
    /// Whether one did.
    pub(super) feasible: &'a Value,
    /// Who was left out, and why.
    pub(super) excluded: &'a Value,
}

/// `GET /api/learning/budgets`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Budgets<'a> {
    /// Those of the tenants that the caller may ask for, in the order of their names.
    pub(super) budgets: Vec<BudgetBody<'a>>,
}

/// A spending cap, and how it stands.
#[derive(Serialize, JsonSchema)]
pub(super) struct BudgetBody<'a> {
    /// Whose.
    pub(super) tenant_id: &'a str,
    /// What may be spent in a period, in the user's currency.
    #[schemars(range(min = 0.0))]
    pub(super) amount: f64,
    /// How long the amount has to last; days and months are those of UTC.
    pub(super) period: Period,
    /// When the present period began.
    #[schemars(schema_with = "time")]
    pub(super) period_start: String,
    /// When it ends.
    #[schemars(schema_with = "time")]
    pub(super) period_end: String,
    /// Spent in it, by the times of the outcomes.
    #[schemars(range(min = 0.0))]
    pub(super) spent: f64,
    /// Of the amount; above 1 when more was spent.
    #[schemars(range(min = 0.0))]
    pub(super) share_spent: f64,
    /// Of the period.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) share_elapsed: f64,
    /// What the weight of cost is multiplied by: the share spent by the share elapsed, at least 1.
    #[schemars(range(min = 1.0))]
    pub(super) cost_weight: f64,
    /// Nothing is left.
    pub(super) exhausted: bool,
}

/// A spending cap was taken away.
#[derive(Serialize, JsonSchema)]
pub(super) struct BudgetRemoved {
    /// Always `success`.
    pub(super) status: &'static str,
    /// In words.
    pub(super) message: String,
}

/// An agent was removed.
#[derive(Serialize, JsonSchema)]
pub(super) struct AgentRemoved {
    /// Always `success`.
    pub(super) status: &'static str,
    /// In words.
    pub(super) message: String,
}

/// `GET /api/learning/agents/pareto`.
#[derive(Serialize, JsonSchema)]
pub(super) struct Front<'a> {
    /// Agents that no other one beats in success, latency and cost at once; the most success first.
    pub(super) pareto: Vec<ParetoAgent<'a>>,
    /// The others.
    pub(super) dominated: Vec<Dominated<'a>>,
    /// When it was answered.
    #[schemars(schema_with = "time")]
    pub(super) timestamp: String,
}

/// What is expected of an agent, on average.
#[derive(Serialize, JsonSchema)]
pub(super) struct ParetoAgent<'a> {
    /// Its name.
    pub(super) agent_name: &'a str,
    /// Expected success.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(super) success: f64,
    /// Expected latency, ms; none while nobody has shown any.
    #[schemars(range(min = 0.0))]
    pub(super) latency_ms: Option<f64>,
    /// Expected cost, in the user's currency; none while nobody has shown any.
    #[schemars(range(min = 0.0))]
    pub(super) cost: Option<f64>,
    /// Learned outcomes of the agent.
    pub(super) samples: u64,
    /// How many of them were on the task type.
    pub(super) evidence: Evidence,
}

/// An agent that another one beats.
#[derive(Serialize, JsonSchema)]
pub(super) struct Dominated<'a> {
    /// Who.
    #[serde(flatten)]
    pub(super) agent: ParetoAgent<'a>,
    /// One that is nowhere worse, somewhere better, and itself beaten by none.
    pub(super) dominated_by: &'a str,
}
