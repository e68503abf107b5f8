//! `POST /api/learning/outcomes`, its twin for batches, and the replay of dead letters: records come in.

use super::dry_run::Tried;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{TryRecvError, bounded};
use percent_encoding::percent_decode_str;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::access::{Caller, Denied, Need, Scope};
use super::answers::{Received, RejectedEvent, RejectedLetter, Replayed, SkippedLetter};
use super::event;
use super::operation::{Operation, Schemas, flag};
use super::route::{Route, Tag};
use super::server::{Problem, Request, Response};
use super::{
    Answer, App, Failure, JSON, Kafka, Query, json_body, json_object, json_response, media_type,
    new_id, problem_response, unsupported_media_type,
};
use crate::error::Error;
use crate::learner::{AppendReply, Event, HTTP, Now, Record};
use crate::outcome::fields;
use crate::outcome::{
    ENVELOPE_ATTRIBUTES, Outcome, Payload, PayloadKept, RECORD_BYTES_MAX, Refusal, RefusalCode,
    enveloped, named_tenant, non_finite_as_null, with_tenant,
};
use crate::sources::kafka;
use crate::store::DeadLetter;

/// Largest body with outcomes, in bytes.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Most events in an array.
pub(super) const ARRAY_MAX: usize = 1_000;
/// Longest wait for accepted outcomes to be learned.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Dead letters read and fed back in one go: at most 16 MiB.
const REPLAY_PART: usize = 256;

pub(super) const ND_JSON: &str = "application/x-ndjson";
pub(super) const CLOUD_EVENT: &str = "application/cloudevents+json";
pub(super) const CLOUD_EVENTS: &str = "application/cloudevents-batch+json";

type Buffer = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A request's body, shared by its records.
struct Shared(super::server::Body);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

pub(super) const REPORT: Route = Route {
    method: "POST",
    pattern: "/api/learning/outcomes",
    id: "reportOutcome",
    tag: Tag::Outcomes,
    need: Need::Scope(Scope::Ingest),
    handler: |app, call| app.outcomes(call.request, call.caller),
    describe: |schemas| {
        let content = json!({
            JSON: {"schema": schemas.asked::<event::OutcomeEvent>()},
            CLOUD_EVENT: {"schema": schemas.asked::<event::CloudEvent>()},
        });
        let operation = Operation::new("What came of a task: report an outcome");
        described(operation.body(json!({"content": content})), schemas)
    },
};

/// The same under a name of its own: a body that may be one thing or many is beyond what generators of
/// clients put into types.
pub(super) const REPORT_MANY: Route = Route {
    pattern: "/api/learning/outcomes/batch",
    id: "reportOutcomes",
    describe: |schemas| {
        let event = schemas.asked::<event::OutcomeEvent>();
        let events = json!({"type": "array", "items": event, "maxItems": ARRAY_MAX});
        let lines = "An event on each line, any number of them";
        // A second body that is an array is one too many: clients tell bodies apart by their types.
        let content = json!({
            JSON: {"schema": events},
            ND_JSON: {"schema": {"type": "string", "description": lines}},
        });
        let others = format!("`{CLOUD_EVENTS}`, a batch of CloudEvents, is read as well.");
        let operation = Operation::new("What came of several tasks: report their outcomes");
        described(operation.body(json!({"description": others, "content": content})), schemas)
    },
    ..REPORT
};

/// What both have in common.
fn described(operation: Operation, schemas: &mut Schemas) -> Operation {
    let received = schemas.answered::<Received>();
    let either = json!({"anyOf": [received, schemas.answered::<Tried>()]});
    operation
        .query("wait", "Answer once everything accepted before is learned and visible", flag())
        .query("dry_run", "Write nothing: answer what would be accepted, and its features", flag())
        .answer(
            202,
            "What was accepted is durable, and something was or is known already",
            received,
        )
        .answer(
            200,
            "With `wait`: it is also learned and visible; with `dry_run`: nothing was written",
            either,
        )
        .problem_of(422, schemas.answered::<NothingAccepted>())
}

pub(super) const REPLAY: Route = Route {
    method: "POST",
    pattern: "/api/learning/dead-letters/replay",
    id: "replayDeadLetters",
    tag: Tag::Outcomes,
    need: Need::AllTenants(Scope::Admin),
    handler: |app, call| app.replay_dead_letters(call.request),
    describe: |schemas| {
        Operation::new("Feed dead letters back, after a fix")
            .optional_json(schemas.asked::<ReplayRequest>())
            .answer(200, "What became of them", schemas.answered::<Replayed>())
    },
};

impl App {
    pub(super) fn outcomes(&self, request: &mut Request<'_>, caller: &Caller) -> Answer {
        let query = Query::of(request);
        let (wait, dry_run) = (query.flag("wait")?, query.flag("dry_run")?);
        let mut media = media_type(request);
        if media.is_empty() && !request.has_body() {
            // Nothing needs no type: with `?wait=true` a way to close the open micro-batch.
            ND_JSON.clone_into(&mut media);
        }
        if ![JSON, ND_JSON, CLOUD_EVENT, CLOUD_EVENTS].contains(&media.as_str()) {
            let allowed =
                format!("{JSON}, {ND_JSON} (a line each), {CLOUD_EVENT} or {CLOUD_EVENTS}");
            return Err(unsupported_media_type(&media, &allowed));
        }
        let attributes = attributes(request);
        let body = request.read_body(BODY_BYTES_MAX)?;
        let mut body: Buffer = Arc::new(Shared(body));
        if !attributes.is_empty() && [JSON, ND_JSON].contains(&media.as_str()) {
            let event: &[u8] = (*body).as_ref();
            if media == ND_JSON || event.trim_ascii_start().starts_with(b"[") {
                let detail = format!(
                    "the ce- headers describe one event, whose body is an object ({JSON}); several \
                     have each their own: {CLOUD_EVENTS}"
                );
                return Err(Error::invalid("", detail).into());
            }
            body = Arc::new(enveloped(event, &attributes));
        }
        let now_ms = Now::read().unix_ms;
        let reply = if media == ND_JSON {
            let text: &[u8] = (*body).as_ref();
            // All of them first: the whole body is taken or nothing.
            lines(text).try_for_each(|range| check_tenant(&text[range], caller))?;
            let payloads = lines(text).map(|range| Payload::new(body.clone(), range));
            let records = payloads.map(|payload| record(HTTP, payload, now_ms, caller));
            if dry_run {
                return self.dry_run(records);
            }
            self.submit(records)?
        } else {
            let records = json_records(&body, now_ms, caller)?.into_iter();
            if dry_run {
                return self.dry_run(records);
            }
            self.submit(records)?
        };
        Ok(self.tell(reply, wait))
    }

    /// Tells what became of the events of a body, with `wait` once all before it is learned.
    pub(super) fn tell(&self, reply: AppendReply, wait: bool) -> Response {
        let received = received(reply);
        if received.accepted + received.duplicates == 0 && received.rejected_total > 0 {
            return nothing_accepted(received);
        }
        let learned = wait && self.wait_until_learned();
        json_response(if learned { 200 } else { 202 }, &received)
    }

    /// Makes records durable: in the topic, or in our own journal without one.
    pub(super) fn submit(
        &self,
        records: impl Iterator<Item = Record>,
    ) -> crate::error::Result<AppendReply> {
        match &self.kafka {
            None => self.inbox.submit(records),
            Some(Kafka { producer, view }) => {
                kafka::submit(records, producer, view, &self.inbox, &self.shared, &self.reader)
            }
        }
    }

    /// Closes the open micro-batch; whether all that was accepted is learned and visible.
    fn wait_until_learned(&self) -> bool {
        let deadline = Instant::now() + WAIT_MAX;
        if let Some(Kafka { producer, view }) = &self.kafka {
            // It is learned once it has come back.
            let stopping = || self.stop_rx.try_recv() == Err(TryRecvError::Disconnected);
            if !view.wait_for(&producer.acknowledged(), deadline, stopping) {
                return false;
            }
        }
        let (reply_tx, reply_rx) = bounded(1);
        if self.inbox.send(Event::Flush(reply_tx)).is_err() {
            return false;
        }
        crossbeam_channel::select! {
            recv(reply_rx) -> reply => reply.is_ok(),
            recv(self.stop_rx) -> _ => false,
            default(deadline.saturating_duration_since(Instant::now())) => false,
        }
    }

    pub(super) fn replay_dead_letters(&self, request: &mut Request<'_>) -> Answer {
        let body = json_body(request)?;
        let body: ReplayRequest = fields::read(json_object(body.as_deref())?)?;
        let ids = match body.ids {
            Some(ids) => ids,
            None => self.reader.dead_letter_ids()?,
        };
        let mut total = AppendReply::default();
        let mut rejected = Vec::new();
        let mut skipped = Vec::new();
        for part in ids.chunks(REPLAY_PART) {
            let mut records = Vec::new();
            let mut record_ids = Vec::new();
            for id in part {
                match self.reader.dead_letter(id)? {
                    None => {
                        let reason = "there is no such dead letter".to_owned();
                        skipped.push(SkippedLetter { id: id.clone(), reason });
                    }
                    Some(letter) if letter.is_cut() => skipped.push(SkippedLetter {
                        id: id.clone(),
                        reason: match letter.payload_kept {
                            PayloadKept::Full => format!(
                                "only the first {} of its {} bytes were kept",
                                letter.payload.len(),
                                letter.payload_bytes
                            ),
                            PayloadKept::Keys => {
                                "only its names, types and lengths were kept".to_owned()
                            }
                            PayloadKept::None => "nothing of its payload was kept".to_owned(),
                        },
                    }),
                    Some(letter) => {
                        record_ids.push(id);
                        records.push(replayed(letter));
                    }
                }
            }
            if records.is_empty() {
                continue;
            }
            let reply = self.submit(records.into_iter())?;
            total.accepted += reply.accepted;
            total.duplicates += reply.duplicates;
            total.conflicting += reply.conflicting;
            for (field, count) in reply.dropped {
                *total.dropped.entry(field).or_default() += count;
            }
            rejected.extend(reply.rejected.into_iter().map(|(index, refusal)| RejectedLetter {
                id: record_ids[index].clone(),
                code: refusal.code.as_str(),
                detail: refusal.detail,
            }));
        }
        let AppendReply { accepted, duplicates, conflicting, dropped: dropped_fields, .. } = total;
        let body =
            Replayed { accepted, duplicates, conflicting, rejected, skipped, dropped_fields };
        Ok(json_response(200, &body))
    }
}

/// The CloudEvents attributes in the headers of a request in binary mode; none without a version.
fn attributes(request: &Request<'_>) -> Vec<(&'static str, String)> {
    if request.header("ce-specversion").is_none() {
        return Vec::new();
    }
    let found = ENVELOPE_ATTRIBUTES.into_iter().filter_map(|name| {
        let value = request.header(&format!("ce-{name}"))?;
        Some((name, percent_decode_str(value).decode_utf8_lossy().into_owned()))
    });
    found.collect()
}

fn received(reply: AppendReply) -> Received {
    let rejected = reply.rejected.into_iter().map(|(index, refusal)| RejectedEvent {
        index,
        code: refusal.code.as_str(),
        detail: refusal.detail,
    });
    Received {
        accepted: reply.accepted,
        duplicates: reply.duplicates,
        conflicting: reply.conflicting,
        rejected: rejected.collect(),
        rejected_total: reply.rejected_total,
        dropped_fields: reply.dropped,
        dead_letters_unkept: (reply.unkept > 0).then_some(reply.unkept),
    }
}

/// The answer to a body with events of which none was accepted. Senders that are told of success forget
/// what they sent.
fn nothing_accepted(received: Received) -> Response {
    let first = received.rejected.first().map_or("no reason given", |first| &first.detail);
    let problem = match received.rejected_total {
        1 => Problem::new(422, first),
        total => {
            Problem::new(422, format!("none of {total} events was accepted; the first: {first}"))
        }
    };
    problem_response(422, &NothingAccepted { problem, received })
}

/// Nothing of a body with events was accepted. As far as there is room, they are dead letters.
#[derive(Serialize, JsonSchema)]
pub(super) struct NothingAccepted {
    #[serde(flatten)]
    problem: Problem,
    #[serde(flatten)]
    received: Received,
}

/// The body of a request to feed dead letters back.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplayRequest {
    /// As the list of dead letters gives them; all of them unless given.
    ids: Option<Vec<String>>,
}

/// The lines of a body that hold anything, as ranges.
pub(super) fn lines(body: &[u8]) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let mut start = 0;
    std::iter::from_fn(move || {
        while start < body.len() {
            let end = body[start..]
                .iter()
                .position(|&byte| byte == b'\n')
                .map_or(body.len(), |at| start + at);
            let line = start..end;
            start = end + 1;
            let text = body[line.clone()].trim_ascii();
            if !text.is_empty() {
                let first =
                    line.start + (body[line.clone()].len() - body[line].trim_ascii_start().len());
                return Some(first..first + text.len());
            }
        }
        None
    })
}

/// The records of a JSON body: one event, or an array of them.
fn json_records(
    body: &Buffer,
    now_ms: i64,
    caller: &Caller,
) -> std::result::Result<Vec<Record>, Failure> {
    let bytes: &[u8] = (**body).as_ref();
    let not_json = |error: &dyn std::fmt::Display| {
        Failure::from(Response::problem(400, format!("the body is not JSON: {error}")))
    };
    let text = std::str::from_utf8(bytes).map_err(|error| not_json(&error))?;
    if !text.trim_ascii_start().starts_with('[') {
        check_tenant(bytes, caller)?;
        let payload = Payload::new(body.clone(), 0..bytes.len());
        let record = record(HTTP, payload, now_ms, caller);
        if let Err(Refusal { code: RefusalCode::NotJson, detail }) = &record.content {
            let hint = format!("{detail} (several events: an array, or {ND_JSON})");
            return Err(Response::problem(400, hint).into());
        }
        return Ok(vec![record]);
    }
    let (buffer, text): (Buffer, _) = match serde_json::from_str::<Vec<&RawValue>>(text) {
        Ok(items) => {
            return array_records(&items, text, body, now_ms, caller);
        }
        Err(error) => match non_finite_as_null(text) {
            Some(repaired) => {
                let repaired: Arc<String> = Arc::new(repaired);
                (repaired.clone(), repaired)
            }
            None => return Err(not_json(&error)),
        },
    };
    let items: Vec<&RawValue> = serde_json::from_str(&text).map_err(|error| not_json(&error))?;
    array_records(&items, &text, &buffer, now_ms, caller)
}

fn array_records(
    items: &[&RawValue],
    text: &str,
    buffer: &Buffer,
    now_ms: i64,
    caller: &Caller,
) -> std::result::Result<Vec<Record>, Failure> {
    if items.len() > ARRAY_MAX {
        let detail = format!(
            "the array has {} events, allowed are at most {ARRAY_MAX}; {ND_JSON} takes any number",
            items.len()
        );
        return Err(Error::invalid("", detail).into());
    }
    let records = items.iter().map(|item| {
        // The items are slices of the text, so their addresses tell where they stand in it.
        let start = item.get().as_ptr() as usize - text.as_ptr() as usize;
        let payload = Payload::new(buffer.clone(), start..start + item.get().len());
        check_tenant(payload.bytes(), caller)?;
        Ok(record(HTTP, payload, now_ms, caller))
    });
    records.collect()
}

/// Refuses an event of another tenant than the caller's.
pub(super) fn check_tenant(event: &[u8], caller: &Caller) -> std::result::Result<(), Denied> {
    match caller.tenant() {
        Some(_) => caller.tenant_or(named_tenant(event).as_deref()).map(drop),
        None => Ok(()),
    }
}

/// Reads an event that came from `source`; one that names no tenant is the caller's. That is written into
/// it, because a dead letter comes back without its caller.
pub(super) fn record(
    source: &'static str,
    payload: Payload,
    now_ms: i64,
    caller: &Caller,
) -> Record {
    let payload = match caller.tenant() {
        Some(tenant) if named_tenant(payload.bytes()).is_none() => {
            let owned = with_tenant(payload.bytes(), tenant);
            let size = owned.len();
            Payload::new(Arc::new(owned), 0..size)
        }
        _ => payload,
    };
    let read = Record::read(payload, source, now_ms, || format!("{source}:{}", new_id(now_ms)));
    Record { tenant: caller.tenant().map(str::to_owned), ..read }
}

/// A dead letter on its way back in, under the identity of its first arrival.
fn replayed(letter: DeadLetter) -> Record {
    let now_ms = Now::read().unix_ms;
    let size = letter.payload.len();
    let payload = Payload::new(Arc::new(letter.payload), 0..size);
    let read = Outcome::parse_identified(payload.bytes(), RECORD_BYTES_MAX, now_ms, || {
        letter.identity.clone()
    });
    let (content, identity) = match read {
        Ok((outcome, identity)) => (Ok(outcome), identity),
        Err(refusal) => (Err(refusal), letter.identity),
    };
    Record {
        content,
        payload,
        identity,
        source: "replay",
        position: None,
        replay_of: Some(letter.id),
        tenant: None,
        arrived_ms: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: &[&str]) {
        let found: Vec<&str> = lines(body.as_bytes()).map(|range| &body[range]).collect();
        assert_eq!(found, expected, "{body:?}");
    }

    #[test]
    fn lines_are_split_trimmed_and_blank_ones_skipped() {
        check("", &[]);
        check("{}", &["{}"]);
        check("{}\n", &["{}"]);
        check("  {\"a\":1}\r\n\n \t\r\n{}", &["{\"a\":1}", "{}"]);
        check("\n\n", &[]);
    }
}
