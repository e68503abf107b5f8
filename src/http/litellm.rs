//! `POST /api/learning/outcomes/litellm`: calls of models, as LiteLLM's callback `generic_api` reports
//! them. It sends a list, lines, or one at a time, always as JSON, and a batch that is refused is lost.

use std::sync::Arc;

use serde_json::json;

use super::access::{Caller, Need, Scope};
use super::answers::Received;
use super::operation::{Operation, flag};
use super::outcomes::{ND_JSON, NothingAccepted, record};
use super::route::{Route, Tag};
use super::server::{Request, Response};
use super::{Answer, App, JSON, Query, media_type, nothing_at, unsupported_media_type};
use crate::learner::{AppendReply, LITELLM, Now, Record};
use crate::outcome::Payload;

/// Largest body, in bytes: calls carry whole conversations.
const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;

pub(super) const REPORT: Route = Route {
    method: "POST",
    pattern: "/api/learning/outcomes/litellm",
    id: "reportLitellmCalls",
    tag: Tag::Outcomes,
    need: Need::Scope(Scope::Ingest),
    handler: |app, call| app.litellm_calls(call.request, call.caller),
    describe: |schemas| {
        let text = json!({"type": ["string", "null"]});
        let number = json!({"type": ["number", "null"]});
        let call = json!({
            "type": "object",
            "description": "A `StandardLoggingPayload`; what is not named here is not looked at",
            "required": ["status", "model"],
            "properties": {
                "litellm_call_id": text,
                "status": {"type": "string", "enum": ["success", "failure"]},
                "model": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[a-z0-9/.-]+$"},
                "model_group": text,
                "response_cost": number,
                "response_time": number,
                "startTime": number,
                "endTime": number,
                "request_tags": {"type": ["array", "null"], "items": {"type": "string"}},
                "error_information": {"type": ["object", "null"]},
                "metadata": {"type": ["object", "null"]},
            },
        });
        let calls = json!({"type": "array", "items": call, "minItems": 1});
        let lines = "A call on each line, any number of them";
        Operation::new("What came of calls of models: LiteLLM's callback generic_api")
            .query("wait", "Answer once everything accepted before is learned and visible", flag())
            .body(json!({"required": true, "content": {
                JSON: {"schema": calls},
                ND_JSON: {"schema": {"type": "string", "description": lines}},
            }}))
            .answer(
                202,
                "What was accepted is durable; of what was refused no content is kept",
                schemas.answered::<Received>(),
            )
            .answer(
                200,
                "With `wait`: it is also learned and visible",
                schemas.answered::<Received>(),
            )
            .problem_of(422, schemas.answered::<NothingAccepted>())
            .problem(404)
    },
};

impl App {
    /// Makes the calls durable as outcomes; a body of which nothing is understood is refused.
    fn litellm_calls(&self, request: &mut Request<'_>, caller: &Caller) -> Answer {
        let Some(format) = &self.litellm else {
            return Err(nothing_at(request.path()).into());
        };
        let wait = Query::of(request).flag("wait")?;
        let media = media_type(request);
        if ![JSON, ND_JSON].contains(&media.as_str()) {
            return Err(unsupported_media_type(&media, &format!("{JSON} or {ND_JSON}")));
        }
        let body = request.read_body(BODY_BYTES_MAX)?;
        let mapped = format.body(&body).map_err(|why| {
            Response::problem(400, format!("the body can't be read as LiteLLM's: {why}"))
        })?;
        // What they were asked and answered is not in the events.
        drop(body);
        let now_ms = Now::read().unix_ms;
        let events = Arc::new(mapped.events);
        let records = mapped.records.into_iter().map(|(range, refusal)| {
            let record = record(LITELLM, Payload::new(events.clone(), range), now_ms, caller);
            match refusal {
                Some(refusal) => Record { content: Err(refusal), ..record },
                None => record,
            }
        });
        let reply = if records.len() > 0 { self.submit(records)? } else { AppendReply::default() };
        Ok(self.tell(reply, wait))
    }
}
