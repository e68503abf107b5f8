//! The bodies of stock libraries, and bodies made by a protobuf library that knows nothing of ours.

use std::io::Cursor;

use prost::Message;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::*;
use crate::outcome::Outcome;

/// `opentelemetry/proto`, as far as it is written here.
#[expect(clippy::struct_field_names, reason = "the names of the protocol")]
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TracesData {
        #[prost(message, repeated, tag = "1")]
        pub(super) resource_spans: Vec<ResourceSpans>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ResourceSpans {
        #[prost(message, optional, tag = "1")]
        pub(super) resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub(super) scope_spans: Vec<ScopeSpans>,
        #[prost(string, tag = "3")]
        pub(super) schema_url: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Resource {
        #[prost(message, repeated, tag = "1")]
        pub(super) attributes: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ScopeSpans {
        #[prost(message, optional, tag = "1")]
        pub(super) scope: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub(super) spans: Vec<Span>,
        #[prost(string, tag = "3")]
        pub(super) schema_url: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) span_id: Vec<u8>,
        #[prost(string, tag = "3")]
        pub(super) trace_state: String,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) parent_span_id: Vec<u8>,
        #[prost(fixed32, tag = "16")]
        pub(super) flags: u32,
        #[prost(string, tag = "5")]
        pub(super) name: String,
        #[prost(int32, tag = "6")]
        pub(super) kind: i32,
        #[prost(fixed64, tag = "7")]
        pub(super) start_time_unix_nano: u64,
        #[prost(fixed64, tag = "8")]
        pub(super) end_time_unix_nano: u64,
        #[prost(message, repeated, tag = "9")]
        pub(super) attributes: Vec<KeyValue>,
        #[prost(message, repeated, tag = "11")]
        pub(super) events: Vec<Event>,
        #[prost(message, optional, tag = "15")]
        pub(super) status: Option<Status>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Event {
        #[prost(fixed64, tag = "1")]
        pub(super) time_unix_nano: u64,
        #[prost(string, tag = "2")]
        pub(super) name: String,
        #[prost(message, repeated, tag = "3")]
        pub(super) attributes: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Status {
        #[prost(string, tag = "2")]
        pub(super) message: String,
        #[prost(int32, tag = "3")]
        pub(super) code: i32,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct KeyValue {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<AnyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct AnyValue {
        #[prost(oneof = "Value", tags = "1, 2, 3, 4, 7")]
        pub(super) value: Option<Value>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Value {
        #[prost(string, tag = "1")]
        String(String),
        #[prost(bool, tag = "2")]
        Bool(bool),
        #[prost(int64, tag = "3")]
        Int(i64),
        #[prost(double, tag = "4")]
        Double(f64),
        #[prost(bytes, tag = "7")]
        Bytes(Vec<u8>),
    }

    /// `LogsData`, whose parts have the numbers of `TracesData`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct LogsData {
        #[prost(message, repeated, tag = "1")]
        pub(super) resource_logs: Vec<ResourceLogs>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ResourceLogs {
        #[prost(message, optional, tag = "1")]
        pub(super) resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub(super) scope_logs: Vec<ScopeLogs>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ScopeLogs {
        #[prost(message, repeated, tag = "2")]
        pub(super) log_records: Vec<LogRecord>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct LogRecord {
        #[prost(fixed64, tag = "1")]
        pub(super) time_unix_nano: u64,
        #[prost(message, optional, tag = "5")]
        pub(super) body: Option<AnyValue>,
        #[prost(message, repeated, tag = "6")]
        pub(super) attributes: Vec<KeyValue>,
        #[prost(fixed32, tag = "8")]
        pub(super) flags: u32,
        #[prost(bytes = "vec", tag = "9")]
        pub(super) trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "10")]
        pub(super) span_id: Vec<u8>,
        #[prost(string, tag = "12")]
        pub(super) event_name: String,
    }

    /// `ExportTraceServiceResponse`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Response {
        #[prost(message, optional, tag = "1")]
        pub(super) partial_success: Option<PartialSuccess>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct PartialSuccess {
        #[prost(int64, tag = "1")]
        pub(super) rejected_spans: i64,
        #[prost(string, tag = "2")]
        pub(super) error_message: String,
    }
}

fn options() -> OtlpOptions {
    OtlpOptions {
        executions: Executions::Agents,
        task_type: vec!["task_type".to_owned()],
        tenant: Vec::new(),
        context: vec!["deployment.environment.name".to_owned(), "metadata.tier".to_owned()],
        quality: vec!["correctness".to_owned()],
        success: Vec::new(),
        prices: None,
        body_bytes_max: 64 << 20,
    }
}

fn otlp(options: OtlpOptions) -> Otlp {
    Otlp::new(options).unwrap()
}

fn events_of(executed: &Executed) -> Vec<Value> {
    let event = |range: &Range<usize>| serde_json::from_slice(&executed.events[range.clone()]);
    executed.ranges.iter().map(|range| event(range).unwrap()).collect()
}

fn read_protobuf(otlp: &Otlp, body: &[u8]) -> Result<Executed, Unreadable> {
    otlp.traces(Body::Protobuf(&mut Cursor::new(body)), None)
}

fn read_json(otlp: &Otlp, body: &[u8]) -> Result<Executed, Unreadable> {
    otlp.traces(Body::Json(body), None)
}

/// Attributes, as JSON has them.
fn attributes(of: &Value) -> Vec<proto::KeyValue> {
    let attribute = |(key, value): (&String, &Value)| {
        let value = match value {
            Value::String(text) => proto::Value::String(text.clone()),
            Value::Bool(value) => proto::Value::Bool(*value),
            Value::Number(number) if number.is_i64() => proto::Value::Int(number.as_i64().unwrap()),
            Value::Number(number) => proto::Value::Double(number.as_f64().unwrap()),
            other => proto::Value::Bytes(other.to_string().into()),
        };
        let value = Some(proto::AnyValue { value: Some(value) });
        proto::KeyValue { key: key.clone(), value }
    };
    of.as_object().unwrap().iter().map(attribute).collect()
}

/// A span of 1.5 s that ends at 2026-11-29T10:00:01.5Z.
fn span(id: u8, name: &str, of: &Value) -> proto::Span {
    proto::Span {
        trace_id: vec![7; 16],
        span_id: vec![id; 8],
        name: name.to_owned(),
        kind: 1,
        start_time_unix_nano: 1_795_946_400_000_000_000,
        end_time_unix_nano: 1_795_946_401_500_000_000,
        attributes: attributes(of),
        ..proto::Span::default()
    }
}

fn request(spans: Vec<proto::Span>) -> Vec<u8> {
    let of_resource = json!({"service.name": "s", "deployment.environment.name": "prod"});
    let resource = Some(proto::Resource { attributes: attributes(&of_resource) });
    let scope_spans = proto::ScopeSpans { spans, schema_url: "u".to_owned(), ..Default::default() };
    let schema_url = "https://opentelemetry.io/schemas/1.37.0".to_owned();
    let of_resource = proto::ResourceSpans { resource, scope_spans: vec![scope_spans], schema_url };
    proto::TracesData { resource_spans: vec![of_resource] }.encode_to_vec()
}

/// The event of a span, without what all have.
#[track_caller]
fn event_with(options: OtlpOptions, span: proto::Span) -> Option<Value> {
    let executed = read_protobuf(&otlp(options), &request(vec![span])).unwrap();
    let mut events = events_of(&executed);
    assert_eq!(events.len() as u64 + executed.ignored, 1);
    let mut event = events.pop()?;
    let fields = event.as_object_mut().unwrap();
    for (name, value) in [
        ("event_id", json!("otlp:07070707070707070707070707070707:0101010101010101")),
        ("trace_id", json!("07070707070707070707070707070707")),
        ("latency_ms", json!(1500.0)),
        ("timestamp", json!("2026-11-29T10:00:01.500+00:00")),
        ("context", json!({"deployment.environment.name": "prod"})),
    ] {
        if fields.get(name) == Some(&value) {
            fields.remove(name);
        }
    }
    Some(event)
}

fn event(name: &str, of: &Value) -> Option<Value> {
    event_with(options(), span(1, name, of))
}

#[track_caller]
fn check_stock(pb: Option<&[u8]>, json: &[u8], expected: &[(&str, &str)], ignored: u64) {
    let otlp = otlp(options());
    let executed = read_json(&otlp, json).unwrap();
    let events = events_of(&executed);
    let found: Vec<(&str, &str)> = events
        .iter()
        .map(|event| (event["agent_name"].as_str().unwrap(), event["status"].as_str().unwrap()))
        .collect();
    assert_eq!((&*found, executed.ignored), (expected, ignored));
    if let Some(pb) = pb {
        let same = read_protobuf(&otlp, pb).unwrap();
        assert_eq!((events_of(&same), same.ignored), (events, ignored));
    }
}

#[test]
fn spans_of_stock_libraries_are_the_executions_that_took_place() {
    check_stock(
        Some(include_bytes!("../../../tests/fixtures/otlp/traces.invoke_agent.generated.pb")),
        include_bytes!("../../../tests/fixtures/otlp/traces.invoke_agent.generated.json"),
        &[("reviewer", "success"), ("reviewer", "success"), ("reviewer", "timeout")],
        0,
    );
    // Six spans: two agents, whose calls of models and tools carry their names, too.
    check_stock(
        Some(include_bytes!("../../../tests/fixtures/otlp/traces.pydantic_ai.generated.pb")),
        include_bytes!("../../../tests/fixtures/otlp/traces.pydantic_ai.generated.json"),
        &[("reviewer", "success"), ("slow_one", "timeout")],
        4,
    );
    check_stock(
        None,
        include_bytes!("../../../tests/fixtures/otlp/traces.js_sdk.generated.json"),
        &[("reviewer", "success"), ("reviewer", "success"), ("reviewer", "failure")],
        0,
    );
    check_stock(
        Some(include_bytes!("../../../tests/fixtures/otlp/traces.litellm_otel.generated.pb")),
        include_bytes!("../../../tests/fixtures/otlp/traces.litellm_otel.generated.json"),
        &[],
        3,
    );
}

#[test]
fn with_models_as_agents_their_calls_are_the_executions() {
    let otlp = otlp(OtlpOptions { executions: Executions::Models, ..options() });
    let body = include_bytes!("../../../tests/fixtures/otlp/traces.litellm_otel.generated.pb");
    let events = events_of(&read_protobuf(&otlp, body).unwrap());
    let found: Vec<_> = events
        .iter()
        .map(|event| {
            (event["agent_name"].as_str(), event["status"].as_str(), &event["cost_estimate"])
        })
        .collect();
    let cost = json!(0.000_225_000_000_000_000_02);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0].1, Some("failure"), "{found:?}");
    assert_eq!((found[1].1, found[1].2), (Some("success"), &cost), "{found:?}");
}

#[test]
fn an_evaluation_on_the_span_is_the_quality() {
    let body = include_bytes!("../../../tests/fixtures/otlp/traces.invoke_agent.generated.pb");
    let otlp = otlp(options());
    let events = events_of(&read_protobuf(&otlp, body).unwrap());
    assert_eq!(events[0]["quality_score"], json!(0.9));

    let flat = |of: Value| event("invoke_agent a", &of).unwrap()["quality_score"].clone();
    let agent = "openinference.span.kind";
    let name = "evaluations.0.evaluation.name";
    let (score, label) = ("evaluations.0.evaluation.score", "evaluations.0.evaluation.label");
    assert_eq!(flat(json!({agent: "AGENT", name: "correctness", score: 0.25})), json!(0.25));
    assert_eq!(flat(json!({agent: "AGENT", name: "correctness", label: "Incorrect"})), json!(0.0));
    // On a scale of its own the label is what can be read.
    assert_eq!(
        flat(json!({agent: "AGENT", name: "correctness", score: 4, label: "good"})),
        json!(1.0)
    );
    assert_eq!(flat(json!({agent: "AGENT", name: "politeness", score: 0.25})), Value::Null);
}

#[test]
fn an_execution_is_told_by_its_kind_before_its_operation() {
    let op = "gen_ai.operation.name";
    let name = |of: Value| event("x", &of).map(|event| event["agent_name"].clone());
    assert_eq!(name(json!({op: "invoke_agent", "gen_ai.agent.name": "a"})), Some(json!("a")));
    assert_eq!(name(json!({op: "invoke_agent", "gen_ai.agent.id": "id"})), Some(json!("id")));
    assert_eq!(name(json!({op: "invoke_workflow", "gen_ai.workflow.name": "w"})), Some(json!("w")));
    for other in ["chat", "execute_tool", "create_agent", "handoff", "plan"] {
        assert_eq!(name(json!({op: other, "gen_ai.agent.name": "a"})), None, "{other}");
    }
    for kind in ["openinference.span.kind", "traceloop.span.kind", "langfuse.observation.type"] {
        assert_eq!(name(json!({kind: "AGENT", "agent.name": "a"})), Some(json!("a")));
        assert_eq!(name(json!({kind: "agent", "graph.node.name": "node"})), Some(json!("node")));
        assert_eq!(
            name(json!({kind: "chain", op: "invoke_agent", "gen_ai.agent.name": "a"})),
            None
        );
    }
    // A crew and its task are invoke_agent as well, and name nobody.
    assert_eq!(name(json!({op: "invoke_agent"})), None);
    assert_eq!(name(json!({op: "invoke_agent", "traceloop.span.kind": "task"})), None);
    let by_span = event("invoke_agent  planner", &json!({op: "invoke_agent"})).unwrap();
    assert_eq!(by_span["agent_name"], json!("planner"));
    // An agent that nothing names is refused where every event is, not passed over here.
    assert_eq!(
        event("invoke_agent", &json!({op: "invoke_agent"})),
        Some(json!({"status": "success"}))
    );
}

#[test]
fn what_was_raised_tells_how_it_ended() {
    let op = "gen_ai.operation.name";
    let base = json!({op: "invoke_agent", "gen_ai.agent.name": "a"});
    let status = |span: proto::Span| event_with(options(), span).unwrap()["status"].clone();
    let with_type = |kind: &str| {
        let of = json!({op: "invoke_agent", "gen_ai.agent.name": "a", "error.type": kind});
        status(span(1, "x", &of))
    };
    assert_eq!(status(span(1, "x", &base)), json!("success"));
    for (kind, expected) in [
        ("TimeoutError", "timeout"),
        ("httpx.ReadTimeout", "timeout"),
        ("DEADLINE_EXCEEDED", "timeout"),
        ("408", "timeout"),
        ("504", "timeout"),
        ("asyncio.CancelledError", "cancelled"),
        ("RateLimitError", "failure"),
        ("500", "failure"),
    ] {
        assert_eq!(with_type(kind), json!(expected), "{kind}");
    }
    let mut failed = span(1, "x", &base);
    failed.status = Some(proto::Status { code: 2, message: "timeout".to_owned() });
    assert_eq!(status(failed.clone()), json!("failure"));
    let raised = attributes(&json!({"exception.type": "TimeoutError", "exception.message": "m"}));
    failed.events = vec![proto::Event {
        name: "exception".to_owned(),
        attributes: raised,
        ..proto::Event::default()
    }];
    assert_eq!(status(failed.clone()), json!("timeout"));
    failed.status = Some(proto::Status { code: 1, message: String::new() });
    assert_eq!(status(failed), json!("timeout"));
}

#[test]
fn task_type_tenant_context_and_decision_are_read_where_they_may_stand() {
    let of = |extra: Value| {
        let mut of = json!({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "a"});
        of.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut event = event("x", &of).unwrap();
        let fields = event.as_object_mut().unwrap();
        fields.remove("agent_name");
        fields.remove("status");
        event
    };
    assert_eq!(of(json!({"task_type": "review"})), json!({"task_type": "review"}));
    assert_eq!(
        of(json!({"task_type": "review", "online_learning.task_type": "own"})),
        json!({"task_type": "own"})
    );
    assert_eq!(of(json!({"service.namespace": "n", "user.id": "u"})), json!({}));
    assert_eq!(of(json!({"online_learning.tenant_id": "t"})), json!({"tenant_id": "t"}));
    assert_eq!(of(json!({"online_learning.decision_id": "d"})), json!({"decision_id": "d"}));
    assert_eq!(
        of(json!({
            "online_learning.context.complexity": "high",
            "online_learning.context.files": 3,
            "online_learning.context.urgent": true,
            "metadata": "{\"tier\": 2, \"secret\": \"s\"}",
            "gen_ai.input.messages": "[{\"role\": \"user\"}]",
        })),
        json!({"context": {
            "complexity": "high", "files": 3, "urgent": true, "metadata.tier": 2,
            "deployment.environment.name": "prod",
        }})
    );
    let named = OtlpOptions {
        tenant: vec!["user.id".to_owned()],
        task_type: vec!["service.name".to_owned()],
        ..options()
    };
    let base =
        json!({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "a", "user.id": 7});
    let event = event_with(named.clone(), span(1, "x", &base)).unwrap();
    let expected =
        json!({"agent_name": "a", "status": "success", "tenant_id": "7", "task_type": "s"});
    assert_eq!(event, expected);
    // Whoever sends speaks for one tenant.
    let otlp = otlp(named);
    let body = request(vec![span(1, "x", &base)]);
    let executed = otlp.traces(Body::Protobuf(&mut Cursor::new(body)), Some("own")).unwrap();
    assert_eq!(events_of(&executed)[0]["tenant_id"], json!("own"));
}

#[test]
fn a_cost_is_named_or_follows_from_tokens_and_prices() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let prices = r#"{"m": {"input_cost_per_token": 0.5, "output_cost_per_token": 2, "mode": "chat"},
                     "other": {"litellm_provider": "x"}}"#;
    std::fs::write(file.path(), prices).unwrap();
    let options = OtlpOptions { prices: Some(file.path().to_owned()), ..options() };
    let cost = |extra: Value| {
        let mut of = json!({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "a"});
        of.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        event_with(options.clone(), span(1, "x", &of)).unwrap()["cost_estimate"].clone()
    };
    let (input, output) = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens");
    let model = "gen_ai.request.model";
    assert_eq!(cost(json!({"gen_ai.usage.cost": 0.25, model: "m", input: 10})), json!(0.25));
    assert_eq!(cost(json!({"llm.cost.total": "0.5"})), json!(0.5));
    assert_eq!(cost(json!({model: "m", input: 10, output: 3})), json!(11.0));
    assert_eq!(cost(json!({model: "m", input: 10})), json!(5.0));
    assert_eq!(cost(json!({model: "m"})), Value::Null);
    assert_eq!(cost(json!({model: "unknown", input: 10})), Value::Null);
    assert_eq!(cost(json!({model: "other", input: 10})), Value::Null);

    let refused = |text: &str| {
        std::fs::write(file.path(), text).unwrap();
        Prices::read(file.path()).unwrap_err().to_string()
    };
    assert!(refused("[]").contains("OTLP_PRICES"));
    assert!(refused("{}").contains("has no price"));
    assert!(refused(r#"{"m": {"input_cost_per_token": -1}}"#).contains("\"m\""));
}

#[test]
fn of_a_call_with_both_its_ends_one_counts() {
    let of =
        |agent: &str| json!({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": agent});
    let client = proto::Span { kind: 3, ..span(1, "x", &of("a")) };
    let inside = proto::Span { parent_span_id: vec![1; 8], ..span(2, "x", &of("a")) };
    let nested = proto::Span { parent_span_id: vec![1; 8], ..span(3, "x", &of("b")) };
    let executed = read_protobuf(&otlp(options()), &request(vec![inside, nested, client])).unwrap();
    let names: Vec<_> =
        events_of(&executed).iter().map(|event| event["event_id"].clone()).collect();
    let id = |id: u8| json!(format!("otlp:{}:{}", "07".repeat(16), format!("{id:02x}").repeat(8)));
    assert_eq!((names, executed.ignored), (vec![id(3), id(1)], 1));
}

#[test]
fn there_is_an_end_to_what_is_looked_at() {
    let of = json!({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "a"});
    let otlp = otlp(OtlpOptions { body_bytes_max: 8 << 20, ..options() });
    let too_many = request(vec![proto::Span::default(); 65_537]);
    let read = read_protobuf(&otlp, &too_many);
    let detail = "the request has 65537 spans, allowed are 65536".to_owned();
    assert_eq!(read.unwrap_err(), Unreadable::TooLarge(detail));

    let mut long = span(1, "x", &of);
    long.trace_state = "s".repeat(1 << 20);
    let executed = read_protobuf(&otlp, &request(vec![long.clone(), span(2, "x", &of)])).unwrap();
    assert_eq!((executed.ranges.len(), executed.too_large, executed.ignored), (1, 1, 0));
    let read = read_protobuf(&otlp, &request(vec![long; 9]));
    assert!(matches!(read, Err(Unreadable::TooLarge(_))), "{read:?}");

    let mut many = span(1, "x", &json!({}));
    many.attributes = vec![attributes(&json!({"k": 1})).remove(0); 127];
    many.attributes.extend(attributes(&of));
    let executed = read_protobuf(&otlp, &request(vec![many.clone()])).unwrap();
    // The agent's name is the 129th.
    assert_eq!((executed.ranges.len(), executed.ignored), (0, 1));
    many.attributes.remove(0);
    assert_eq!(read_protobuf(&otlp, &request(vec![many])).unwrap().ranges.len(), 1);
    let long_name =
        json!({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "n".repeat(4_097)});
    assert_eq!(event("x", &long_name), None);
}

#[test]
fn what_is_no_export_request_is_refused_whole() {
    let otlp = otlp(options());
    let body = request(vec![span(1, "x", &json!({"k": "v"}))]);
    for end in 1..body.len() {
        let read = read_protobuf(&otlp, &body[..end]);
        // A request may end after the resource, and after nothing.
        assert!(matches!(read, Err(Unreadable::Malformed(_))), "{end}");
    }
    for wrong in
        ["", "{", "[]x", "7", "\"\"", r#"{"resourceSpans": 7}"#, r#"{"resourceSpans": [7]}"#]
    {
        assert!(
            matches!(read_json(&otlp, wrong.as_bytes()), Err(Unreadable::Malformed(_))),
            "{wrong}"
        );
    }
    assert!(matches!(read_json(&otlp, b"\xff"), Err(Unreadable::Malformed(_))));
    // By themselves structs are read from lists, too.
    let span =
        |json: &str| format!(r#"{{"resourceSpans": [{{"scopeSpans": [{{"spans": [{json}]}}]}}]}}"#);
    assert!(read_json(&otlp, span("{}").as_bytes()).is_ok());
    for wrong in [
        "[[]]".into(),
        r#"{"resourceSpans": [[null, null]]}"#.into(),
        r#"{"resourceSpans": [{"resource": [null]}]}"#.into(),
        r#"{"resourceSpans": [{"scopeSpans": [[null]]}]}"#.into(),
        span("[null, null, null, null, null, null, null, null, null, null, null]"),
        span("null"),
        span(r#"{"status": [2]}"#),
        span(r#"{"links": [[null, null]]}"#),
        span(r#"{"events": [["x"]]}"#),
        span(r#"{"attributes": [["gen_ai.agent.name", {"stringValue": "a"}]]}"#),
        span(r#"{"attributes": [{"key": "gen_ai.agent.name", "value": ["a"]}]}"#),
        span(r#"{"attributes": [{"key": "nobody wants it", "value": ["a"]}]}"#),
        span(r#"{"attributes": [{"key": 7, "value": {}}]}"#),
    ] {
        let read = read_json(&otlp, wrong.as_bytes());
        assert!(matches!(read, Err(Unreadable::Malformed(_))), "{wrong}");
    }
    for nothing in
        ["{}", r#"{"resourceSpans": null}"#, r#"{"resourceSpans": []}"#, r#"{"other": 1}"#]
    {
        assert_eq!(read_json(&otlp, nothing.as_bytes()).unwrap().ranges.len(), 0, "{nothing}");
    }
    assert_eq!(read_protobuf(&otlp, b"").unwrap().ranges.len(), 0);
    // A group within groups within groups.
    let groups = [0x0b].repeat(100_000);
    assert!(matches!(read_protobuf(&otlp, &groups), Err(Unreadable::Malformed(_))));
    let group = [&[0x13, 0x08, 0x01, 0x14][..], &body].concat();
    assert!(read_protobuf(&otlp, &group).is_ok());
}

/// Bytes of real requests, each time with some of them changed, left out or cut off.
#[test]
fn no_bytes_make_it_panic_or_tell_of_more_than_came() {
    let bodies: [&[u8]; 3] = [
        include_bytes!("../../../tests/fixtures/otlp/traces.invoke_agent.generated.pb"),
        include_bytes!("../../../tests/fixtures/otlp/traces.pydantic_ai.generated.pb"),
        include_bytes!("../../../tests/fixtures/otlp/traces.js_sdk.generated.json"),
    ];
    let otlp = otlp(options());
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(17);
    for round in 0..30_000 {
        let mut body = bodies[round % 3].to_vec();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..body.len());
            match rng.random_range(0..3) {
                0 => body[at] ^= 1 << rng.random_range(0..8),
                1 => body.truncate(at.max(1)),
                _ => drop(body.splice(at..at, [rng.random::<u8>(); 3])),
            }
        }
        let read =
            if round % 3 == 2 { read_json(&otlp, &body) } else { read_protobuf(&otlp, &body) };
        if let Ok(executed) = read {
            assert!(executed.events.len() <= body.len() + 1_024);
        }
    }
}

#[test]
fn answers_are_messages_that_exporters_read() {
    let response = proto::Response::decode(&*export_response(300, "why")).unwrap();
    let partial = response.partial_success.unwrap();
    assert_eq!((partial.rejected_spans, &*partial.error_message), (300, "why"));
    assert_eq!(export_response(0, ""), b"");
    assert_eq!(proto::Status::decode(&*status("detail")).unwrap().message, "detail");
}

/// However it is spelled, a tenant is the same for a span and for what is said of it.
#[test]
fn the_tenant_of_an_evaluation_is_read_as_that_of_a_span() {
    let otlp = otlp(OtlpOptions { tenant: vec!["team".to_owned()], ..options() });
    let long = "x".repeat(257);
    for (team, tenant) in
        [(" te\u{301}am\u{200b}", Some("t\u{e9}am")), ("\u{200b}", None), (&*long, None)]
    {
        let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        let record = json!({
            "traceId": "ab".repeat(16), "spanId": "cd".repeat(8),
            "eventName": "gen_ai.evaluation.result", "attributes": [
                text("gen_ai.evaluation.name", "correctness"),
                text("gen_ai.evaluation.score.label", "pass"),
                text("team", team),
            ],
        });
        let logs = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}).to_string();
        let logs = otlp.logs(Body::Json(logs.as_bytes()), None).unwrap();
        let span = json!({
            "traceId": "ab".repeat(16), "spanId": "cd".repeat(8), "attributes": [
                text("gen_ai.operation.name", "invoke_agent"),
                text("gen_ai.agent.name", "a"),
                text("team", team),
            ],
        });
        let spans = json!({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).to_string();
        let spans = otlp.traces(Body::Json(spans.as_bytes()), None).unwrap();
        let event = events_of(&spans)[0].to_string();
        let outcome = Outcome::parse(event.as_bytes(), 0, String::new);
        let of_span = outcome.as_ref().map(|outcome| &*outcome.tenant);
        let of_verdict = logs.verdicts.first().map(|verdict| &*verdict.tenant);
        assert_eq!((of_span.ok(), of_verdict), (tenant, tenant), "{team:?}");
        if let Err(refusal) = outcome {
            assert_eq!(logs.refused, [refusal]);
            assert_eq!(logs.ignored, 0);
        }
    }
}

/// The same record in both encodings.
#[test]
fn evaluations_in_log_records_are_verdicts_on_their_spans() {
    let text = |key: &str, value: &str| proto::KeyValue {
        key: key.to_owned(),
        value: Some(proto::AnyValue { value: Some(proto::Value::String(value.to_owned())) }),
    };
    let double = |key: &str, value: f64| proto::KeyValue {
        key: key.to_owned(),
        value: Some(proto::AnyValue { value: Some(proto::Value::Double(value)) }),
    };
    let record = |event_name: &str, name: &str| proto::LogRecord {
        time_unix_nano: 7,
        body: Some(proto::AnyValue { value: Some(proto::Value::String("a secret".to_owned())) }),
        attributes: vec![
            text("gen_ai.evaluation.name", name),
            double("gen_ai.evaluation.score.value", 0.25),
            text("gen_ai.evaluation.score.label", "fail"),
        ],
        flags: 1,
        trace_id: vec![0xab; 16],
        span_id: vec![0xcd; 8],
        event_name: event_name.to_owned(),
    };
    let evaluation = "gen_ai.evaluation.result";
    let mut older = record("", "correctness");
    older.attributes.push(text("event.name", evaluation));
    let orphan = proto::LogRecord { span_id: Vec::new(), ..record(evaluation, "correctness") };
    let log_records = vec![
        record(evaluation, "correctness"),
        record(evaluation, "passes"),
        record(evaluation, "tone"),
        record("another", "correctness"),
        orphan,
        older,
    ];
    let resource = proto::Resource { attributes: vec![text("team", "blue")] };
    let body = proto::LogsData {
        resource_logs: vec![proto::ResourceLogs {
            resource: Some(resource),
            scope_logs: vec![proto::ScopeLogs { log_records }],
        }],
    }
    .encode_to_vec();
    let otlp = otlp(OtlpOptions {
        tenant: vec!["team".to_owned()],
        success: vec!["passes".to_owned()],
        ..options()
    });
    let read = otlp.logs(Body::Protobuf(&mut Cursor::new(&body)), None).unwrap();
    let target = Target::Event(format!("otlp:{}:{}", "ab".repeat(16), "cd".repeat(8)));
    let quality = Verdict {
        tenant: "blue".to_owned(),
        target,
        status: None,
        quality: Some(0.25),
        cost: None,
    };
    let success =
        Verdict { status: Some(crate::outcome::Status::Failure), quality: None, ..quality.clone() };
    assert_eq!(read.verdicts, [quality.clone(), success, quality.clone()]);
    assert_eq!((read.ignored, read.ranges.len()), (3, 0));

    let json = json!({"resourceLogs": [{
        "resource": {"attributes": [{"key": "team", "value": {"stringValue": "blue"}}]},
        "scopeLogs": [{"logRecords": [{
            "traceId": "AB".repeat(16), "spanId": "cd".repeat(8), "eventName": evaluation,
            "body": {"stringValue": "a secret"}, "attributes": [
                {"key": "gen_ai.evaluation.name", "value": {"stringValue": "correctness"}},
                {"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": 0.25}},
            ],
        }]}],
    }]});
    let json = json.to_string();
    let read = otlp.logs(Body::Json(json.as_bytes()), None).unwrap();
    assert_eq!(read.verdicts, std::slice::from_ref(&quality));
    // One whose sender speaks for one tenant.
    let read = otlp.logs(Body::Json(json.as_bytes()), Some("red")).unwrap();
    assert_eq!(read.verdicts, [Verdict { tenant: "red".to_owned(), ..quality }]);
    for end in 1..body.len() {
        // It may end after any record, and else is malformed; it never says more.
        if let Ok(read) = otlp.logs(Body::Protobuf(&mut &body[..end]), None) {
            assert!(read.verdicts.len() <= 3, "{end}");
        }
    }
}

#[test]
fn executions_wait_for_the_verdict_that_says_whether_they_were_right() {
    let otlp = otlp(OtlpOptions { success: vec!["passes".to_owned()], ..options() });
    let event = |of: Value| {
        let mut all = json!({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "a"});
        all.as_object_mut().unwrap().extend(of.as_object().unwrap().clone());
        let attributes: Vec<Value> = all
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| json!({"key": key, "value": {"stringValue": value}}))
            .collect();
        let span =
            json!({"traceId": "ab".repeat(16), "spanId": "cd".repeat(8), "attributes": attributes});
        let body = json!({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).to_string();
        let read = read_json(&otlp, body.as_bytes()).unwrap();
        let event: Value = serde_json::from_slice(&read.events).unwrap();
        (event["status"].clone(), event["awaits_verdict"] == true)
    };
    assert_eq!(event(json!({})), (json!("success"), true));
    assert_eq!(event(json!({"error.type": "TimeoutError"})), (json!("timeout"), false));
    let label = |label: &str| json!({"evaluations.0.evaluation.name": "passes", "evaluations.0.evaluation.label": label});
    assert_eq!(event(label("pass")), (json!("success"), false));
    assert_eq!(event(label("fail")), (json!("failure"), false));
    assert_eq!(event(label("well")), (json!("success"), true));
}
