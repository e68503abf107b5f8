//! One agent execution: from the bytes of a record to an [`Outcome`] or a [`Refusal`].
//!
//! Producers differ: a dispatcher sends 31 keys with `null` for what it does not know, a monitor
//! sends 14 and hides the task type in `metadata`, others wrap the event into a CloudEvents
//! envelope, and a person types two keys into curl. All of them end in the same [`Outcome`].
//! Leniency has one rule: an optional field that makes no sense is dropped and counted, a record
//! without agent or status is refused with a reason.
//!
//! This file is pure: no clock, no I/O, no randomness. What it can't know (the time of arrival, an
//! identity for events that carry none) is passed in.
//!
#![doc = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/outcome/README.md"))]

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

mod annotate;
mod attempt;
pub(crate) mod cells;
pub mod decisions;
pub(crate) mod fair_shares;
pub mod feedback;
pub mod fields;
mod outline;
mod raw;
mod spelling;
mod trace;

use attempt::Place;
use raw::{Raw, Scalar};

pub use annotate::{ENVELOPE_ATTRIBUTES, annotated, enveloped, named_tenant, with_tenant};
pub use attempt::Attempt;
pub use outline::{KeptPayload, PayloadKept};
pub use raw::{is_placeholder, non_finite_as_null};
pub use spelling::tidy;
pub(crate) use spelling::{is_blank, nearest};
pub use trace::{TraceId, id_of_hex, trace_id, trace_of_parent};

/// Largest record that is looked at, in bytes.
pub const RECORD_BYTES_MAX: usize = 1024 * 1024;
/// What [`annotated`] may add to a record, in bytes: records of a topic may be that much longer.
pub const ANNOTATION_BYTES_MAX: usize = 256 * 1024;
/// Longest identity kept as it is, in bytes; a longer one is known by its hash.
const IDENTITY_BYTES_MAX: usize = 512;
/// Longest name of an agent, a task type, a tenant, a context key or value, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// Most context features taken from one event.
pub const FEATURES_MAX: usize = 256;
/// The tenant of events and requests that name none.
pub const DEFAULT_TENANT: &str = "default";

/// Largest latency (ms) and cost taken: finite sums of them stay finite.
const AMOUNT_MAX: f64 = 1e12;

/// How an execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It did what was asked.
    Success,
    /// It did part of it.
    Partial,
    /// It did not.
    Failure,
    /// It was stopped for taking too long.
    Timeout,
    /// Somebody stopped it: says nothing about the agent.
    Cancelled,
    /// It has not ended.
    Pending,
}

impl Status {
    /// Every status, in the order in which they are counted.
    pub const ALL: [Self; 6] = [
        Self::Success,
        Self::Partial,
        Self::Failure,
        Self::Timeout,
        Self::Cancelled,
        Self::Pending,
    ];

    /// The name used in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Partial => "partial",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Pending => "pending",
        }
    }

    /// What else it may be called in an event, whatever the case.
    pub fn synonyms(self) -> &'static [&'static str] {
        let (_, synonyms) = spelling::STATUS_SYNONYMS[self as usize];
        synonyms
    }
}

/// The value of a context feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Feature {
    /// A category.
    Text(String),
    /// Yes or no.
    Bool(bool),
    /// A finite number.
    Number(f64),
}

/// Context features by dotted path, sorted by it, each path once.
pub type Context = Vec<(String, Feature)>;

/// What a record is remembered by: the first 128 bits of the SHA-256 of its tenant and identity.
pub type IdentityKey = [u8; 16];

/// What events of one identity have in common: the first 16 bits of the SHA-256 of agent and status.
/// 0 where it is not known.
pub type ContentKey = [u8; 2];

/// One agent execution, as it is journaled and learned.
#[expect(clippy::struct_excessive_bools, reason = "each says another thing of where it came from")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Key for deduplication. The journal keeps keys in a column of their own.
    #[serde(skip)]
    pub identity: IdentityKey,
    /// Of agent and status as they came. It stands beside the identity.
    #[serde(skip)]
    pub content: ContentKey,
    /// Whose agents these are.
    pub tenant: String,
    /// Who executed.
    pub agent: String,
    /// Kind of the task, if known.
    pub task_type: Option<String>,
    /// What was known before the agent was chosen.
    pub context: Context,
    /// How it ended.
    pub status: Status,
    /// Milliseconds, `0..=1e12`.
    pub latency_ms: Option<f64>,
    /// `0..=1`.
    pub quality: Option<f64>,
    /// In the user's currency, `0..=1e12`.
    pub cost: Option<f64>,
    /// Unix time of the event, in milliseconds.
    pub time_ms: i64,
    /// The decision that this is the outcome of, if one is named.
    pub decision: Option<DecisionRef>,
    /// The trace that it is part of: it comes from telemetry, and finds its decision by that.
    #[serde(skip)]
    pub trace: Option<TraceId>,
    /// Task type and context are final: no decision overrides them.
    #[serde(skip)]
    pub resolved: bool,
    /// It came from the monitor that writes 0 for what it does not know.
    #[serde(skip)]
    pub zero_is_unknown: bool,
    /// Where the execution may have several outcomes: which one this is.
    #[serde(skip)]
    pub attempt: Option<Attempt>,
    /// It says when it took place, and that can't be read: it is of no budget's period.
    #[serde(skip)]
    pub undated: bool,
    /// Its status is only that of no verdict: whether it was a success is found out later.
    #[serde(skip)]
    pub awaits_verdict: bool,
    /// Optional fields that made no sense, by name.
    #[serde(skip)]
    pub dropped: Vec<&'static str>,
}

/// How an event names the decision it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecisionRef {
    /// `decision_id` or `metadata.decision_id`.
    Explicit(String),
    /// `correlation_id`, which may or may not be one of our decisions.
    Correlation(String),
}

impl DecisionRef {
    /// The identifier, whichever field it came from.
    pub fn id(&self) -> &str {
        match self {
            Self::Explicit(id) | Self::Correlation(id) => id,
        }
    }
}

impl Outcome {
    /// The smallest outcome: of the default tenant, with neither task type nor context.
    pub fn new(agent: impl Into<String>, status: Status) -> Self {
        let agent = agent.into();
        Self {
            identity: IdentityKey::default(),
            content: content_key(&agent, status),
            tenant: DEFAULT_TENANT.to_owned(),
            agent,
            task_type: None,
            context: Vec::new(),
            status,
            latency_ms: None,
            quality: None,
            cost: None,
            time_ms: 0,
            decision: None,
            trace: None,
            resolved: false,
            zero_is_unknown: false,
            attempt: None,
            undated: false,
            awaits_verdict: false,
            dropped: Vec::new(),
        }
    }

    /// The same outcome for a task type.
    #[must_use]
    pub fn on_task(mut self, task_type: impl Into<String>) -> Self {
        self.task_type = Some(task_type.into());
        self
    }

    /// Unless it was resolved, a correlation names no decision of ours.
    pub fn forget_correlation(&mut self) {
        if !self.resolved && matches!(self.decision, Some(DecisionRef::Correlation(_))) {
            self.decision = None;
        }
    }

    /// Reward in `0..=1`, 1 best; `None` when there is nothing to learn from the status.
    pub fn reward(&self) -> Option<f64> {
        match self.status {
            Status::Success => Some(1.0),
            Status::Partial => Some(self.quality.unwrap_or(0.5)),
            Status::Failure | Status::Timeout => Some(0.0),
            Status::Cancelled | Status::Pending => None,
        }
    }

    /// The latency, where it is one of a completed execution. Failing fast is not being fast, and
    /// a timeout only says "at least".
    pub fn observed_latency_ms(&self) -> Option<f64> {
        matches!(self.status, Status::Success | Status::Partial).then_some(self.latency_ms)?
    }

    /// The quality, which every status but `pending` may carry.
    pub fn observed_quality(&self) -> Option<f64> {
        (self.status != Status::Pending).then_some(self.quality)?
    }

    /// The cost, which every status but `pending` may carry. Unknown is not 0.
    pub fn observed_cost(&self) -> Option<f64> {
        (self.status != Status::Pending).then_some(self.cost)?
    }

    /// Reads one record: JSON in any of the shapes that producers send.
    ///
    /// `now_ms` is the time of arrival, taken when the event has no usable one. `unidentified`
    /// gives the identity of an event that neither carries one nor can be told by its run.
    ///
    /// # Errors
    /// A [`Refusal`] when the record can't be understood or names no agent or status.
    pub fn parse(
        record: &[u8],
        now_ms: i64,
        unidentified: impl FnOnce() -> String,
    ) -> Result<Self, Refusal> {
        Self::parse_identified(record, RECORD_BYTES_MAX, now_ms, unidentified)
            .map(|(outcome, _)| outcome)
    }

    /// As [`Outcome::parse`], for records of up to `bytes_max`; gives the identity itself, too. A
    /// record that carries it as `event_id` has the same one, however it was derived.
    ///
    /// # Errors
    /// As [`Outcome::parse`].
    pub fn parse_identified(
        record: &[u8],
        bytes_max: usize,
        now_ms: i64,
        unidentified: impl FnOnce() -> String,
    ) -> Result<(Self, String), Refusal> {
        if record.len() > bytes_max {
            return Err(Refusal::new(
                RefusalCode::TooLarge,
                format!("the record has {} bytes, allowed are {bytes_max}", record.len()),
            ));
        }
        let text = std::str::from_utf8(record).map_err(|error| {
            Refusal::new(RefusalCode::NotUtf8, format!("the record is not UTF-8: {error}"))
        })?;
        let repaired;
        let raw = match Raw::parse(text) {
            Err(refusal) if refusal.code == RefusalCode::NotJson => {
                match non_finite_as_null(text) {
                    Some(text) => {
                        repaired = text;
                        Raw::parse(&repaired)?
                    }
                    None => return Err(refusal),
                }
            }
            other => other?,
        };
        Self::from_raw(raw, now_ms, unidentified)
    }

    fn from_raw(
        raw: Raw<'_>,
        now_ms: i64,
        unidentified: impl FnOnce() -> String,
    ) -> Result<(Self, String), Refusal> {
        let (mut raw, envelope) = open_envelope(raw);
        let mut dropped = std::mem::take(&mut raw.context.dropped);
        let metadata = raw.metadata.unwrap_or_default();
        let resolved = raw.resolved.unwrap_or_default();

        let agent = agent_name(raw.agent_name)?;
        let status = parse_status(&raw.status)?;
        let tenant = tenant_name([resolved.tenant_id, raw.tenant_id, metadata.tenant_id])?
            .unwrap_or_else(|| DEFAULT_TENANT.to_owned());
        // `workflow_step` is what a workflow engine calls every action: it tells nothing.
        let action_type = match raw.action_type {
            Scalar::Text(name) if name == "workflow_step" => Scalar::Null,
            other => other,
        };
        let own_task =
            first_name([raw.task_type, metadata.task_type, action_type], "task_type", &mut dropped);
        let latency_ms = raw
            .latency_ms
            .amount(AMOUNT_MAX, "latency_ms", &mut dropped)
            .or_else(|| raw.duration_ms.amount(AMOUNT_MAX, "duration_ms", &mut dropped));
        let event_id = raw.event_id.identifier("event_id", &mut dropped);
        let zero_is_unknown =
            raw.memory_seen && raw.cpu_seen && (resolved.zero_is_unknown || event_id.is_none());
        let cost = raw
            .cost_estimate
            .amount(AMOUNT_MAX, "cost_estimate", &mut dropped)
            .or_else(|| raw.cost.amount(AMOUNT_MAX, "cost", &mut dropped))
            .filter(|&cost| !zero_is_unknown || cost > 0.0);
        let quality = raw
            .quality_score
            .amount(1.0, "quality_score", &mut dropped)
            .or_else(|| metadata.quality_score.amount(1.0, "quality_score", &mut dropped));
        let (time_ms, undated) = time_of([&raw.timestamp, &envelope.time], &mut dropped);

        let place = Place::of([&raw.item, &raw.attempt, &raw.is_final], &mut dropped);
        let apart = place.parts();
        let apart = apart.iter().map(String::as_str);
        let explicit = [raw.decision_id, metadata.decision_id]
            .iter()
            .find_map(|value| decision_id(value, &mut dropped));
        let run_id = raw.run_id.identifier("run_id", &mut Vec::new());
        let identity = if let Some(event_id) = event_id {
            event_id
        } else if let Some((source, id)) = envelope.identity(&mut dropped) {
            format!("cloudevent:{}", json_array([source, &id]))
        } else if let Some(decision) = &explicit {
            let parts = [decision, &agent, status.as_str()];
            format!("decision:{}", json_array(parts.into_iter().chain(apart)))
        } else if let Some(run_id) = raw.run_id.identifier("run_id", &mut dropped) {
            // Without the timestamp, so that a re-send is the same event.
            let duration = latency_ms.map(|ms| ms.to_string()).unwrap_or_default();
            let agent_type = &*raw.agent_type.text();
            let task = own_task.as_deref().unwrap_or_default();
            let parts = [&run_id, &agent, agent_type, status.as_str(), &duration, task];
            let parts = parts.into_iter().chain(apart);
            format!("run:{}", hex(&Sha256::digest(json_array(parts))))
        } else {
            unidentified()
        };
        let identity = match identity.len() {
            ..=IDENTITY_BYTES_MAX => identity,
            _ => format!("sha256:{}", hex(&Sha256::digest(identity))),
        };
        let decision = match explicit {
            Some(id) => Some(DecisionRef::Explicit(id)),
            // It may be anything: one that can't be a decision is nothing to complain of.
            None => decision_id(&raw.correlation_id, &mut Vec::new()).map(DecisionRef::Correlation),
        };

        let attempt =
            place.attempt(&tenant, &agent, decision.as_ref(), run_id.as_deref(), &identity);

        let (task_type, context) = if resolved.task_seen {
            dropped.extend(resolved.context.dropped);
            (first_name([resolved.task_type], "task_type", &mut dropped), resolved.context.found)
        } else {
            (own_task, raw.context.found)
        };
        let outcome = Self {
            identity: identity_key(&tenant, &identity),
            content: content_key(&agent, status),
            tenant,
            agent,
            task_type,
            context: sorted(context),
            status,
            latency_ms,
            quality,
            cost,
            time_ms: time_ms.unwrap_or(now_ms),
            decision,
            // It may be anything, in the words of other systems.
            trace: trace_id(&raw.trace_id.text()),
            resolved: resolved.task_seen,
            zero_is_unknown,
            attempt,
            undated,
            awaits_verdict: raw.awaits_verdict == Scalar::Bool(true),
            dropped,
        };
        Ok((outcome, identity))
    }
}

/// What a CloudEvents envelope says of the event in it.
#[derive(Default)]
struct Envelope<'a> {
    source: Scalar<'a>,
    id: Scalar<'a>,
    time: Scalar<'a>,
}

impl Envelope<'_> {
    /// Source and id, where it has both.
    fn identity(&self, dropped: &mut Vec<&'static str>) -> Option<(&str, String)> {
        match &self.source {
            Scalar::Text(source) if !source.is_empty() => {
                Some((source, self.id.identifier("id", dropped)?))
            }
            _ => None,
        }
    }
}

/// The event itself, and the CloudEvents envelope it came in.
fn open_envelope(mut raw: Raw<'_>) -> (Raw<'_>, Envelope<'_>) {
    match raw.event.take() {
        Some(event) => (*event, Envelope { source: raw.source, id: raw.id, time: raw.time }),
        None => (raw, Envelope::default()),
    }
}

/// The first time that can be read, Unix ms; and whether some are given of which none can.
fn time_of(times: [&Scalar<'_>; 2], dropped: &mut Vec<&'static str>) -> (Option<i64>, bool) {
    let mut undated = false;
    for (time, field) in times.into_iter().zip(["timestamp", "time"]) {
        let read = match time {
            Scalar::Null => continue,
            Scalar::Number(number) => epoch_ms(*number),
            Scalar::Text(text) if text.trim().is_empty() => continue,
            Scalar::Text(text) => parse_time_ms(text),
            Scalar::Bool(_) | Scalar::Digits(_) | Scalar::Composite => None,
        };
        if read.is_some() {
            return (read, false);
        }
        undated = true;
        dropped.push(field);
    }
    (None, undated)
}

fn agent_name(value: Scalar<'_>) -> Result<String, Refusal> {
    match value {
        Scalar::Null => Err(Refusal::new(
            RefusalCode::MissingAgentName,
            "agent_name is missing: it names the agent that executed",
        )),
        Scalar::Text(name) => checked_name("agent_name", RefusalCode::InvalidAgentName, &name),
        // Some number their agents.
        Scalar::Digits(number) if !number.contains(['.', 'e', 'E']) => {
            checked_name("agent_name", RefusalCode::InvalidAgentName, number)
        }
        other => Err(Refusal::new(
            RefusalCode::InvalidAgentName,
            format!("agent_name is {other}, allowed is a string or a whole number"),
        )),
    }
}

fn parse_status(value: &Scalar<'_>) -> Result<Status, Refusal> {
    let names = || Status::ALL.map(Status::as_str).join(", ");
    let known = match value {
        Scalar::Null => {
            let detail = format!("status is missing, allowed are {}", names());
            return Err(Refusal::new(RefusalCode::MissingStatus, detail));
        }
        Scalar::Text(name) => spelling::status_of(name),
        _ => None,
    };
    known.ok_or_else(|| {
        let nearest = match value {
            Scalar::Text(name) => spelling::nearest_status(name),
            _ => None,
        };
        let meant = nearest
            .map_or_else(String::new, |status| format!("; did you mean {}?", status.as_str()));
        let detail = format!("status is {value}, allowed are {}{meant}", names());
        Refusal::new(RefusalCode::UnknownStatus, detail)
    })
}

/// The tenant that the first of these values names which is set; `None` where none is.
fn tenant_name<const N: usize>(values: [Scalar<'_>; N]) -> Result<Option<String>, Refusal> {
    match values.into_iter().find(|value| *value != Scalar::Null) {
        None => Ok(None),
        Some(Scalar::Text(name)) => checked_tenant(&name).map(Some),
        Some(other) => Err(Refusal::new(
            RefusalCode::InvalidTenantId,
            format!("tenant_id is {other}, allowed is a string"),
        )),
    }
}

/// The name of a tenant as it is kept, see [`tidy`].
///
/// # Errors
/// A [`Refusal`] for one of blanks alone and for one that is too long.
pub fn checked_tenant(name: &str) -> Result<String, Refusal> {
    checked_name("tenant_id", RefusalCode::InvalidTenantId, name)
}

/// The key under which a tenant's record with this identity is remembered.
pub fn identity_key(tenant: &str, identity: &str) -> IdentityKey {
    let mut hasher = Sha256::new();
    // The length keeps ("ab", "c") and ("a", "bc") apart.
    hasher.update((tenant.len() as u64).to_le_bytes());
    hasher.update(tenant);
    hasher.update(identity);
    let digest = hasher.finalize();
    let mut key = IdentityKey::default();
    key.copy_from_slice(&digest[..16]);
    key
}

fn content_key(agent: &str, status: Status) -> ContentKey {
    let digest = Sha256::new().chain_update(status.as_str()).chain_update(agent).finalize();
    match [digest[0], digest[1]] {
        [0, 0] => [0, 1],
        key => key,
    }
}

/// Whether two events of one identity are known to differ in agent or status.
pub fn is_conflict(one: ContentKey, other: ContentKey) -> bool {
    one != other && ![one, other].contains(&ContentKey::default())
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// The features of a context object. Values that are no features are left out.
pub fn context_of(object: &serde_json::Value) -> Context {
    read_context(object).0
}

/// The features of a context object, and what was left out, by name.
pub fn read_context(object: &serde_json::Value) -> (Context, Vec<&'static str>) {
    let raw::Features { found, dropped, .. } =
        raw::Features::deserialize(object).unwrap_or_default();
    (sorted(found), dropped)
}

/// Unix milliseconds of a time: ISO 8601 with or without zone (then UTC), its parts also set apart by
/// blanks; RFC 2822; or the text of an epoch time.
pub fn parse_time_ms(text: &str) -> Option<i64> {
    let text = text.trim();
    let iso = |text: &str| Some(text.parse::<jiff::Timestamp>().ok()?.as_millisecond());
    let civil = || {
        let time = text.parse::<jiff::civil::DateTime>().ok()?;
        Some(jiff::tz::Offset::UTC.to_timestamp(time).ok()?.as_millisecond())
    };
    // As Go, Ruby and people write it: a blank before the offset, the zone by its name.
    let blank = || {
        let (moment, zone) = text.rsplit_once(' ')?;
        let offset = match zone {
            "UTC" | "GMT" | "Z" => "Z",
            _ => zone.starts_with(['+', '-']).then_some(zone)?,
        };
        iso(&format!("{}{offset}", moment.trim_end()))
    };
    let mail = || {
        let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
        let renamed = text.strip_suffix("UTC").map(|text| format!("{text}GMT"));
        let text = renamed.as_deref().unwrap_or(text);
        Some(parser.parse_timestamp(text).ok()?.as_millisecond())
    };
    let epoch = || epoch_ms(text.parse().ok()?);
    iso(text).or_else(civil).or_else(epoch).or_else(blank).or_else(mail)
}

/// Unix milliseconds of an epoch time, whose unit shows in its size: seconds up to the year 5138, or
/// milli-, micro- or nanoseconds of a time after 1973. 0 is none.
fn epoch_ms(epoch: f64) -> Option<i64> {
    let ms = match epoch.abs() {
        size if size < 1e11 => epoch * 1e3,
        size if size < 1e14 => epoch,
        size if size < 1e17 => epoch / 1e3,
        size if size < 1e20 => epoch / 1e6,
        _ => return None,
    };
    #[expect(clippy::cast_possible_truncation, reason = "below 1e14")]
    let ms = ms.round() as i64;
    (epoch != 0.0).then_some(ms)
}

/// RFC 3339 with offset, such as `2026-11-23T10:00:00.123+00:00`.
pub fn format_time(unix_ms: i64) -> String {
    let time = jiff::Timestamp::from_millisecond(unix_ms).unwrap_or_default();
    format!("{:.3}", time.display_with_offset(jiff::tz::Offset::UTC))
}

fn sorted(mut context: Context) -> Context {
    // The last of equal paths wins, as in any JSON object.
    context.reverse();
    context.sort_by(|a, b| a.0.cmp(&b.0));
    context.dedup_by(|later, earlier| later.0 == earlier.0);
    context
}

fn json_array<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let parts: Vec<&str> = parts.into_iter().collect();
    serde_json::to_string(&parts).expect("strings always have a JSON form")
}

fn checked_name(field: &str, code: RefusalCode, name: &str) -> Result<String, Refusal> {
    kept_name(name).map(Cow::into_owned).ok_or_else(|| {
        let detail = match tidy(name).len() {
            0 if !name.is_empty() => format!("{field} is blank, a name is more than that"),
            bytes => format!("{field} has {bytes} bytes, allowed are 1 to {NAME_BYTES_MAX}"),
        };
        Refusal::new(code, detail)
    })
}

/// A name as it is kept, see [`tidy`]; `None` for one of blanks alone and for one that is too long.
pub fn kept_name(name: &str) -> Option<Cow<'_, str>> {
    let name = tidy(name);
    (1..=NAME_BYTES_MAX).contains(&name.len()).then_some(name)
}

/// The first value that is a name; those before it that are none are dropped.
fn first_name<const N: usize>(
    values: [Scalar<'_>; N],
    field: &'static str,
    dropped: &mut Vec<&'static str>,
) -> Option<String> {
    values.into_iter().find_map(|value| {
        let name = match &value {
            Scalar::Null => return None,
            Scalar::Text(name) => kept_name(name).map(Cow::into_owned),
            _ => None,
        };
        if name.is_none() {
            dropped.push(field);
        }
        name
    })
}

fn decision_id(value: &Scalar<'_>, dropped: &mut Vec<&'static str>) -> Option<String> {
    match value.identifier("decision_id", dropped) {
        Some(id) if id.len() <= NAME_BYTES_MAX => Some(id),
        Some(_) => {
            dropped.push("decision_id");
            None
        }
        None => None,
    }
}

/// Why a record was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation, as_str spells them")]
pub enum RefusalCode {
    TooLarge,
    NotUtf8,
    NotJson,
    NotAnObject,
    MissingAgentName,
    InvalidAgentName,
    MissingStatus,
    UnknownStatus,
    InvalidTenantId,
    TenantLimit,
    Tombstone,
    MalformedRow,
    MissingTarget,
    InvalidVerdict,
    UnknownTarget,
    CrowdedOut,
    Conflict,
}

impl RefusalCode {
    /// Every reason.
    pub const ALL: [Self; 17] = [
        Self::TooLarge,
        Self::NotUtf8,
        Self::NotJson,
        Self::NotAnObject,
        Self::MissingAgentName,
        Self::InvalidAgentName,
        Self::MissingStatus,
        Self::UnknownStatus,
        Self::InvalidTenantId,
        Self::TenantLimit,
        Self::Tombstone,
        Self::MalformedRow,
        Self::MissingTarget,
        Self::InvalidVerdict,
        Self::UnknownTarget,
        Self::CrowdedOut,
        Self::Conflict,
    ];

    /// The record was read as an event, which lacks something.
    pub fn is_of_an_event(self) -> bool {
        matches!(
            self,
            Self::MissingAgentName
                | Self::InvalidAgentName
                | Self::MissingStatus
                | Self::UnknownStatus
                | Self::InvalidTenantId
                | Self::TenantLimit
        )
    }

    /// The code in answers, counters and dead letters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NotUtf8 => "not_utf8",
            Self::NotJson => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::MissingAgentName => "missing_agent_name",
            Self::InvalidAgentName => "invalid_agent_name",
            Self::MissingStatus => "missing_status",
            Self::UnknownStatus => "unknown_status",
            Self::InvalidTenantId => "invalid_tenant_id",
            Self::TenantLimit => "tenant_limit",
            Self::Tombstone => "tombstone",
            Self::MalformedRow => "malformed_row",
            Self::MissingTarget => "missing_target",
            Self::InvalidVerdict => "invalid_verdict",
            Self::UnknownTarget => "unknown_target",
            Self::CrowdedOut => "crowded_out",
            Self::Conflict => "conflict",
        }
    }
}

/// A record that can't be learned from, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For machines.
    pub code: RefusalCode,
    /// For people: the field, the value seen, what is allowed.
    pub detail: String,
}

impl Refusal {
    /// A refusal with this reason.
    pub fn new(code: RefusalCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

/// The bytes a record came in, shared with the others of the same body: kept until the record is
/// durable, because a refusal must be able to keep them.
#[derive(Clone)]
pub struct Payload {
    buffer: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Payload {
    /// The part `range` of `buffer`, which must lie inside it.
    pub fn new(buffer: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Self {
        Self { buffer, range }
    }

    /// The record's bytes.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.range.len())
    }
}

#[cfg(test)]
mod tests;
