//! `POST /v1/traces`, `/v1/logs`, `/v1/metrics`: OTLP over HTTP, as the stock exporters send it.
//! (opentelemetry.io/docs/specs/otlp: requests, answers, which statuses are tried again.)

use std::sync::Arc;

use serde_json::{Value, json};

use super::access::{Caller, Need, Scope};
use super::feedback::Taken;
use super::operation::{Operation, binary, number_as_id};
use super::outcomes::record;
use super::route::{Call, Route, Tag};
use super::server::{Request, Response};
use super::{
    Answer, App, Failure, JSON, json_response, media_type, nothing_at, unsupported_media_type,
};
use crate::learner::{AppendReply, Now, OTLP};
use crate::outcome::feedback::Verdict;
use crate::outcome::{Payload, Refusal};
use crate::sources::otlp::{self, Body, Executed, Otlp, Unreadable};

/// Largest body as it is sent, in bytes. What it unpacks to is bounded by `OTLP_BODY_MAX_MIB`.
const PACKED_BYTES_MAX: usize = 8 * 1024 * 1024;
const PROTOBUF: &str = "application/x-protobuf";

pub(super) const TRACES: Route = Route {
    method: "POST",
    pattern: "/v1/traces",
    id: "exportTraces",
    tag: Tag::Telemetry,
    need: Need::Scope(Scope::Ingest),
    handler: |app, call| app.export(call, App::traces),
    describe: |_| {
        let span = json!({
            "type": "object",
            "properties": {
                "attributes": attributes(),
                "events": list(&json!({"type": "object"})),
                "links": list(&json!({"type": "object"})),
                "status": {"type": ["object", "null"]},
            },
        });
        let scope = json!({"type": "object", "properties": {"spans": list(&span)}});
        let resource =
            json!({"type": ["object", "null"], "properties": {"attributes": attributes()}});
        let of_resource = json!({
            "type": "object",
            "properties": {"resource": resource, "scopeSpans": list(&scope)},
        });
        let request = json!({
            "type": "object",
            "properties": {"resourceSpans": list(&of_resource)},
        });
        export("OTLP: agents' spans, of which executions are learned", &request)
    },
};

pub(super) const LOGS: Route = Route {
    method: "POST",
    pattern: "/v1/logs",
    id: "exportLogs",
    tag: Tag::Telemetry,
    need: Need::Scope(Scope::Ingest),
    handler: |app, call| app.export(call, App::logs),
    describe: |_| {
        let record = json!({"type": "object", "properties": {"attributes": attributes()}});
        let scope = json!({"type": "object", "properties": {"logRecords": list(&record)}});
        let resource =
            json!({"type": ["object", "null"], "properties": {"attributes": attributes()}});
        let of_resource = json!({
            "type": "object",
            "properties": {"resource": resource, "scopeLogs": list(&scope)},
        });
        let request = json!({
            "type": "object",
            "properties": {"resourceLogs": list(&of_resource)},
        });
        export("OTLP: log records, of which evaluations are learned", &request)
    },
};

pub(super) const METRICS: Route = Route {
    method: "POST",
    pattern: "/v1/metrics",
    id: "exportMetrics",
    tag: Tag::Telemetry,
    need: Need::Scope(Scope::Ingest),
    handler: |app, call| app.export(call, App::passed_over),
    describe: |_| export("OTLP: metrics, which are passed over", &json!({})),
};

fn list(member: &Value) -> Value {
    json!({"type": ["array", "null"], "items": member})
}

fn attributes() -> Value {
    let value = json!({"type": ["object", "null"]});
    let key = json!({"type": ["string", "null"]});
    list(&json!({"type": "object", "properties": {"key": key, "value": value}}))
}

fn export(summary: &'static str, request: &Value) -> Operation {
    let answer = json!({
        "type": "object",
        "properties": {"partialSuccess": {
            "type": "object",
            "properties": {
                "rejectedSpans": number_as_id(),
                "rejectedLogRecords": number_as_id(),
                "errorMessage": {"type": "string"},
            },
        }},
    });
    Operation::new(summary)
        .body(json!({
            "required": true,
            "content": {PROTOBUF: binary(), JSON: {"schema": request}},
        }))
        .answer_of(
            "All of it is durable; `partialSuccess` tells of what was refused",
            json!({JSON: {"schema": answer}, PROTOBUF: binary()}),
        )
        .problem(404)
        .problems_also_as(PROTOBUF, binary())
}

/// The encoding of a request, which is that of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

/// What is told of what was refused.
#[derive(Debug, Default)]
struct Partial {
    rejected: u64,
    message: String,
    /// Of what, by its name in JSON.
    of: &'static str,
}

type Export = fn(&App, &Otlp, &mut Request<'_>, Encoding, &Caller) -> Result<Partial, Failure>;

impl App {
    /// Answers an export in the encoding in which it came.
    fn export(&self, call: &mut Call<'_, '_>, export: Export) -> Answer {
        let Some(otlp) = &self.otlp else {
            return Err(nothing_at(call.request.path()).into());
        };
        let media = media_type(call.request);
        let encoding = match &*media {
            PROTOBUF => Encoding::Protobuf,
            JSON => Encoding::Json,
            _ => return Err(unsupported_media_type(&media, &format!("{PROTOBUF} or {JSON}"))),
        };
        let done = export(self, otlp, call.request, encoding, call.caller);
        match (done, encoding) {
            (Ok(partial), Encoding::Json) => Ok(json_response(200, &partial.json())),
            (Ok(partial), Encoding::Protobuf) => {
                let Partial { rejected, message, .. } = partial;
                Ok(Response::new(200, PROTOBUF, otlp::export_response(rejected, &message)))
            }
            (Err(failure), Encoding::Json) => Err(failure),
            (Err(failure), Encoding::Protobuf) => Err(in_protobuf(failure)),
        }
    }

    /// Makes the executions durable that spans tell of.
    fn traces(
        &self,
        otlp: &Otlp,
        request: &mut Request<'_>,
        encoding: Encoding,
        caller: &Caller,
    ) -> Result<Partial, Failure> {
        let packed = request.read_packed(PACKED_BYTES_MAX)?;
        let executed = match encoding {
            Encoding::Protobuf => {
                packed.unpacked(|body| otlp.traces(Body::Protobuf(body), caller.tenant()))
            }
            Encoding::Json => {
                let body = packed.unpack(otlp.options().body_bytes_max)?;
                otlp.traces(Body::Json(&body), caller.tenant())
            }
        };
        let Executed { events, ranges, verdicts, ignored, refused, too_large } =
            executed.map_err(unreadable)?;
        let executions = ranges.len() as u64;
        let events = Arc::new(events);
        let now_ms = Now::read().unix_ms;
        let payloads = ranges.into_iter().map(|range| Payload::new(events.clone(), range));
        let records = payloads.map(|payload| record(OTLP, payload, now_ms, caller));
        let reply = if executions > 0 { self.submit(records)? } else { AppendReply::default() };

        self.take_verdicts(verdicts)?;
        let instruments = &self.shared.instruments;
        let rejected = reply.rejected_total + refused.len() as u64 + too_large;
        instruments.otlp_spans("execution").inc_by(executions - reply.rejected_total);
        instruments.otlp_spans("ignored").inc_by(ignored);
        instruments.otlp_spans("refused").inc_by(rejected);
        let refusals = reply.rejected.iter().map(|(_, refusal)| refusal).chain(&refused);
        let message = first_of(refusals, too_large, "span");
        Ok(Partial { rejected, message, of: "rejectedSpans" })
    }

    /// Takes in the verdicts that log records carry.
    fn logs(
        &self,
        otlp: &Otlp,
        request: &mut Request<'_>,
        encoding: Encoding,
        caller: &Caller,
    ) -> Result<Partial, Failure> {
        let packed = request.read_packed(PACKED_BYTES_MAX)?;
        let read = match encoding {
            Encoding::Protobuf => {
                packed.unpacked(|body| otlp.logs(Body::Protobuf(body), caller.tenant()))
            }
            Encoding::Json => {
                let body = packed.unpack(otlp.options().body_bytes_max)?;
                otlp.logs(Body::Json(&body), caller.tenant())
            }
        };
        let Executed { verdicts, refused, too_large, .. } = read.map_err(unreadable)?;
        self.take_verdicts(verdicts)?;
        let rejected = refused.len() as u64 + too_large;
        let message = first_of(&refused, too_large, "log record");
        Ok(Partial { rejected, message, of: "rejectedLogRecords" })
    }

    /// Has verdicts judged, which are counted by what became of them.
    fn take_verdicts(&self, verdicts: Vec<Verdict>) -> Result<(), Failure> {
        let mut taken = Taken::default();
        self.judge(verdicts.into_iter().enumerate().collect(), &mut taken)?;
        Ok(())
    }

    /// Takes what nothing is learned from, so that one address serves all that an exporter sends.
    #[expect(clippy::unused_self, reason = "as the others")]
    fn passed_over(
        &self,
        _: &Otlp,
        request: &mut Request<'_>,
        _: Encoding,
        _: &Caller,
    ) -> Result<Partial, Failure> {
        request.read_packed(PACKED_BYTES_MAX)?;
        Ok(Partial::default())
    }
}

impl Partial {
    /// `ExportTraceServiceResponse`: numbers of 64 bits are strings in JSON.
    fn json(&self) -> Value {
        if self.rejected == 0 {
            return json!({});
        }
        let (rejected, message) = (self.rejected.to_string(), &self.message);
        json!({"partialSuccess": {self.of: rejected, "errorMessage": message}})
    }
}

/// Why the first of those refused was.
fn first_of<'r>(
    refused: impl IntoIterator<Item = &'r Refusal>,
    too_large: u64,
    what: &str,
) -> String {
    match refused.into_iter().next() {
        Some(refusal) => refusal.to_string(),
        None if too_large > 0 => {
            format!("a {what} has more than {} bytes", otlp::SPAN_BYTES_MAX)
        }
        None => String::new(),
    }
}

fn unreadable(why: Unreadable) -> Failure {
    match why {
        Unreadable::Malformed(detail) => {
            Response::problem(400, format!("the body is no export request: {detail}")).into()
        }
        Unreadable::TooLarge(detail) => Response::problem(413, detail).into(),
    }
}

/// An error as the message `google.rpc.Status`, which exporters log.
fn in_protobuf(failure: Failure) -> Failure {
    let Failure { mut response, denied } = failure;
    let problem: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or_default();
    response.body = otlp::status(detail);
    for (name, value) in &mut response.headers {
        if name.eq_ignore_ascii_case("content-type") {
            *value = PROTOBUF.into();
        }
    }
    Failure { response, denied }
}
