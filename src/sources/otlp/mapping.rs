//! What spans say, in the words of outcome events. The conventions for generative AI are still moving:
//! every generation of names is read, the newest first.
//!
//! Sources: opentelemetry.io/docs/specs/semconv/gen-ai (agent spans, events), OpenInference's
//! `spec/semantic_conventions.md`, OpenLLMetry's and LiteLLM's instrumentations.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use super::span::{Attributes, EVALUATION, EXCEPTION, LogRecord, Span, Value};
use super::{Executions, Otlp, OtlpOptions};
use crate::outcome::feedback::{SUCCESS_FROM, label_says};
use crate::outcome::{Status, format_time, hex};

/// What kind of operation a span is, by libraries that say so; theirs counts before the operation's name.
const KINDS: [&str; 3] =
    ["openinference.span.kind", "traceloop.span.kind", "langfuse.observation.type"];
const OPERATION: &str = "gen_ai.operation.name";
const AGENT_OPERATIONS: [&str; 2] = ["invoke_agent", "invoke_workflow"];
const MODEL_KINDS: [&str; 2] = ["llm", "generation"];
const MODEL_OPERATIONS: [&str; 5] =
    ["chat", "generate_content", "text_completion", "completion", "acompletion"];

/// What names the agent.
const AGENTS: [&str; 3] = ["gen_ai.agent.name", "agent.name", "gen_ai.agent.id"];
/// What names it on a span whose kind is an agent.
const AGENTS_BY_KIND: [&str; 2] = ["graph.node.name", "traceloop.entity.name"];
const WORKFLOW: &str = "gen_ai.workflow.name";
/// What the name of an agent's span begins with.
const SPAN_NAME: &str = "invoke_agent";
const MODELS: [&str; 4] =
    ["gen_ai.request.model", "gen_ai.response.model", "llm.model_name", "llm.request.model"];

const ERROR_TYPES: [&str; 2] = ["error.type", "exception.type"];
const COSTS: [&str; 4] =
    ["gen_ai.usage.cost", "gen_ai.cost.total_cost", "llm.cost.total", "operation.cost"];
const INPUT_TOKENS: [&str; 4] = [
    "gen_ai.usage.input_tokens",
    "gen_ai.aggregated_usage.input_tokens",
    "llm.token_count.prompt",
    "gen_ai.usage.prompt_tokens",
];
const OUTPUT_TOKENS: [&str; 4] = [
    "gen_ai.usage.output_tokens",
    "gen_ai.aggregated_usage.output_tokens",
    "llm.token_count.completion",
    "gen_ai.usage.completion_tokens",
];

/// Our own attributes: what instrumentation that knows of us writes.
const OWN: &str = "online_learning.";
const OWN_CONTEXT: &str = "online_learning.context.";
const OWN_TASK_TYPE: &str = "online_learning.task_type";
const OWN_TENANT: &str = "online_learning.tenant_id";
const OWN_DECISION: &str = "online_learning.decision_id";
/// OpenInference has the user's own attributes as one JSON text; others write one each.
const METADATA: &str = "metadata";

/// What an event is called by libraries from before log records had a place for it.
const EVENT_NAME: &str = "event.name";
/// The kind of a span that does nothing but carry verdicts on the spans it links to.
const EVALUATOR: &str = "evaluator";

const EVALUATION_NAME: &str = "gen_ai.evaluation.name";
const EVALUATION_SCORE: [&str; 2] = ["gen_ai.evaluation.score.value", "gen_ai.evaluation.score"];
const EVALUATION_LABEL: [&str; 2] = ["gen_ai.evaluation.score.label", "gen_ai.evaluation.label"];
/// Verdicts as attributes of the span: a prefix, a number, an infix.
const FLAT_EVALUATIONS: [(&str, &str); 2] =
    [("evaluations.", ".evaluation."), ("annotations.", ".annotation.")];

/// Attributes with a meaning, beside those that the operator names.
const KNOWN: &[&[&str]] = &[
    &KINDS,
    &AGENTS,
    &AGENTS_BY_KIND,
    &MODELS,
    &ERROR_TYPES,
    &COSTS,
    &INPUT_TOKENS,
    &OUTPUT_TOKENS,
    &[OPERATION, WORKFLOW, EVENT_NAME, EVALUATION_NAME, METADATA],
    &EVALUATION_SCORE,
    &EVALUATION_LABEL,
];

/// What a verdict says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) score: Option<f64>,
    pub(super) label: Option<Cow<'a, str>>,
}

impl Verdict<'_> {
    /// As a quality: the score, or what the label says, 0 or 1.
    pub(super) fn quality(&self) -> Option<f64> {
        let label =
            self.label.as_deref().and_then(label_says).map(|good| f64::from(u8::from(good)));
        match self.score {
            // A scale of its own says nothing without its bounds, while its label does.
            Some(score) if !(0.0..=1.0).contains(&score) => label.or(Some(score)),
            Some(score) => Some(score),
            None => label,
        }
    }

    /// Whether it was a success: what the label says, or the score.
    fn is_success(&self) -> Option<bool> {
        let by_score = || {
            self.score
                .filter(|score| (0.0..=1.0).contains(score))
                .map(|score| score >= SUCCESS_FROM)
        };
        self.label.as_deref().and_then(label_says).or_else(by_score)
    }
}

/// An execution, as the event that is learned from.
#[derive(Debug, Serialize)]
pub(super) struct Execution<'a> {
    event_id: String,
    trace_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent_name: Option<Cow<'a, str>>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_type: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    context: BTreeMap<Cow<'a, str>, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost_estimate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quality_score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    /// Whether it was a success is found out later.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    awaits_verdict: bool,
}

/// Whether an attribute has a meaning.
pub(super) fn wants(key: &str, options: &OtlpOptions) -> bool {
    key.starts_with(OWN)
        || KNOWN.iter().any(|keys| keys.contains(&key))
        || FLAT_EVALUATIONS.iter().any(|(prefix, _)| key.starts_with(prefix))
        || [&options.task_type, &options.tenant, &options.context]
            .iter()
            .any(|names| names.iter().any(|name| name == key))
}

/// Who executed; `None` where nothing names it.
pub(super) struct Executor<'a>(Option<Cow<'a, str>>);

/// Who executed, where the span is an execution; `None` for any other operation.
pub(super) fn executor<'a>(span: &'a Span<'_>, executions: Executions) -> Option<Executor<'a>> {
    match executions {
        Executions::Agents => agent(span),
        Executions::Models => model(span),
    }
}

/// The execution as an outcome event.
pub(super) fn event<'a>(
    span: &'a Span<'_>,
    resource: &'a Attributes<'_>,
    Executor(agent): Executor<'a>,
    tenant: Option<&'a str>,
    Otlp { options, prices }: &Otlp,
) -> Execution<'a> {
    let attributes = &span.attributes;
    let of_either = |names: &[String]| {
        let names = || names.iter().map(String::as_str);
        attributes.text(names()).or_else(|| resource.text(names()))
    };
    let quality = verdicts(span)
        .find(|verdict| options.quality.iter().any(|name| *name == verdict.name))
        .and_then(|verdict| verdict.quality());
    let judged = verdicts(span)
        .find(|verdict| options.success.iter().any(|name| *name == verdict.name))
        .and_then(|verdict| verdict.is_success());
    let status = match (status(span), judged) {
        (Status::Success, Some(false)) => Status::Failure,
        (status, _) => status,
    };
    let awaits_verdict =
        status == Status::Success && judged.is_none() && !options.success.is_empty();
    let by_tokens = || {
        let tokens = [&INPUT_TOKENS, &OUTPUT_TOKENS].map(|keys| attributes.number(keys));
        let mut models = MODELS.iter().filter_map(|key| attributes.get(key)?.text());
        models.find_map(|model| prices.cost(&model, tokens))
    };
    #[expect(clippy::cast_precision_loss, reason = "milliseconds need no nanoseconds")]
    let latency_ms = (span.start_ns > 0 && span.end_ns >= span.start_ns)
        .then(|| (span.end_ns - span.start_ns) as f64 / 1e6);
    let end_ms = i64::try_from(span.end_ns / 1_000_000).ok().filter(|ms| *ms > 0);
    Execution {
        event_id: super::event_id(span.trace_id, span.id),
        trace_id: hex(&span.trace_id),
        agent_name: agent,
        status: status.as_str(),
        tenant_id: tenant
            .map(Cow::Borrowed)
            .or_else(|| self::tenant(attributes, resource, options)),
        task_type: attributes.text([OWN_TASK_TYPE]).or_else(|| of_either(&options.task_type)),
        context: context(attributes, resource, options),
        decision_id: attributes.text([OWN_DECISION]),
        latency_ms,
        cost_estimate: attributes.number(&COSTS).or_else(by_tokens),
        quality_score: quality,
        timestamp: end_ms.map(format_time),
        awaits_verdict,
    }
}

/// Whose an execution or a verdict is, unless its sender speaks for one tenant.
pub(super) fn tenant<'a>(
    attributes: &'a Attributes<'_>,
    resource: &'a Attributes<'_>,
    options: &OtlpOptions,
) -> Option<Cow<'a, str>> {
    let names = || options.tenant.iter();
    attributes
        .text([OWN_TENANT])
        .or_else(|| attributes.text(names()))
        .or_else(|| resource.text(names()))
}

/// The verdict of a log record, where it is one.
pub(super) fn logged<'a>(record: &'a LogRecord<'_>) -> Option<Verdict<'a>> {
    let is_evaluation = record.name == EVALUATION
        || record.attributes.text([EVENT_NAME]).is_some_and(|name| name == EVALUATION);
    if is_evaluation { verdict(&record.attributes) } else { None }
}

/// Whether a span carries verdicts on another one.
pub(super) fn is_evaluator(span: &Span<'_>) -> bool {
    span.attributes.text(KINDS).is_some_and(|kind| kind.eq_ignore_ascii_case(EVALUATOR))
}

fn agent<'a>(span: &'a Span<'_>) -> Option<Executor<'a>> {
    let attributes = &span.attributes;
    let named = || {
        let of_span = || {
            let rest = span.name.strip_prefix(SPAN_NAME)?.trim();
            (!rest.is_empty()).then_some(Cow::Borrowed(rest))
        };
        attributes.text(AGENTS).or_else(of_span)
    };
    if let Some(kind) = attributes.text(KINDS) {
        // Langfuse's kinds and OpenInference's differ in case alone.
        return kind
            .eq_ignore_ascii_case("agent")
            .then(|| Executor(named().or_else(|| attributes.text(AGENTS_BY_KIND))));
    }
    let operation = attributes.text([OPERATION])?;
    if !AGENT_OPERATIONS.contains(&&*operation) {
        return None;
    }
    let agent = named().or_else(|| attributes.text([WORKFLOW]));
    // Crews and their tasks are such operations, too, in which agents take part.
    (agent.is_some() || span.name.starts_with(SPAN_NAME)).then_some(Executor(agent))
}

fn model<'a>(span: &'a Span<'_>) -> Option<Executor<'a>> {
    let attributes = &span.attributes;
    let is_call = match attributes.text(KINDS) {
        Some(kind) => MODEL_KINDS.iter().any(|of_model| kind.eq_ignore_ascii_case(of_model)),
        None => attributes
            .text([OPERATION])
            .is_some_and(|operation| MODEL_OPERATIONS.contains(&&*operation)),
    };
    is_call.then(|| Executor(attributes.text(MODELS)))
}

/// How it ended, as far as a span tells: it did not fail.
fn status(span: &Span<'_>) -> Status {
    let exceptions = span.events.iter().filter(|(name, _)| *name == EXCEPTION);
    let mut types =
        std::iter::once(&span.attributes).chain(exceptions.clone().map(|(_, event)| event));
    let Some(kind) = types.find_map(|attributes| attributes.text(ERROR_TYPES)) else {
        let failed = span.is_error || exceptions.count() > 0;
        return if failed { Status::Failure } else { Status::Success };
    };
    let kind = kind.to_ascii_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| kind.contains(part));
    if has(&["timeout", "timedout", "timed_out", "deadline"]) || ["408", "504"].contains(&&*kind) {
        Status::Timeout
    } else if has(&["cancel"]) {
        Status::Cancelled
    } else {
        Status::Failure
    }
}

/// The verdicts that a span carries: as events, then as attributes.
pub(super) fn verdicts<'a>(span: &'a Span<'_>) -> impl Iterator<Item = Verdict<'a>> {
    let events = span.events.iter().filter(|(name, _)| *name == EVALUATION);
    events.filter_map(|(_, event)| verdict(event)).chain(flat_verdicts(&span.attributes))
}

/// The verdict of an evaluation's event or log record.
pub(super) fn verdict<'a>(attributes: &'a Attributes<'_>) -> Option<Verdict<'a>> {
    Some(Verdict {
        name: attributes.text([EVALUATION_NAME])?,
        score: attributes.number(&EVALUATION_SCORE),
        label: attributes.text(EVALUATION_LABEL),
    })
}

/// Verdicts that are written as attributes with numbers in their names.
fn flat_verdicts<'a>(attributes: &'a Attributes<'_>) -> impl Iterator<Item = Verdict<'a>> {
    attributes.iter().filter_map(move |(key, value)| {
        let base = key.strip_suffix("name")?;
        let of = |(prefix, infix): &(&str, &str)| {
            let number = base.strip_prefix(prefix)?.strip_suffix(infix)?;
            number.bytes().all(|byte| byte.is_ascii_digit()).then_some(())
        };
        FLAT_EVALUATIONS.iter().find_map(of)?;
        let part = |part: &str| attributes.get(&format!("{base}{part}"));
        Some(Verdict {
            name: value.text()?,
            score: part("score").and_then(Value::number),
            label: part("label").and_then(Value::text),
        })
    })
}

/// What was known of the task: our own attributes, and those that the operator names.
fn context<'a>(
    attributes: &'a Attributes<'_>,
    resource: &'a Attributes<'_>,
    options: &OtlpOptions,
) -> BTreeMap<Cow<'a, str>, serde_json::Value> {
    let own = attributes.iter().filter_map(|(key, value)| {
        Some((Cow::Borrowed(key.strip_prefix(OWN_CONTEXT)?), json_value(value)?))
    });
    let mut context: BTreeMap<_, _> = own.collect();
    let metadata: Option<serde_json::Value> = match attributes.get(METADATA) {
        Some(Value::Text(text)) => serde_json::from_str(text).ok(),
        _ => None,
    };
    for name in &options.context {
        let in_metadata = || {
            let key = name.strip_prefix(METADATA)?.strip_prefix('.')?;
            let value = metadata.as_ref()?.get(key)?;
            (value.is_string() || value.is_number() || value.is_boolean()).then(|| value.clone())
        };
        let value = attributes.get(name).or_else(|| resource.get(name));
        if let Some(value) = value.and_then(json_value).or_else(in_metadata) {
            context.entry(Cow::Owned(name.clone())).or_insert(value);
        }
    }
    context
}

fn json_value(value: &Value<'_>) -> Option<serde_json::Value> {
    match value {
        Value::Text(text) => Some(serde_json::Value::from(&**text)),
        Value::Bool(value) => Some((*value).into()),
        Value::Int(number) => Some((*number).into()),
        Value::Double(number) => serde_json::Number::from_f64(*number).map(Into::into),
    }
}
