//! `POST /api/learning/feedback`: verdicts on executions that were reported before, or will be.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::access::{Caller, Need, Scope};
use super::operation::Operation;
use super::outcomes::{ARRAY_MAX, ND_JSON, lines};
use super::route::{Route, Tag};
use super::server::{Request, Response};
use super::{Answer, App, JSON, Kafka, json_response, media_type, unsupported_media_type};
use crate::error::{Error, Result};
use crate::learner::{Event, FeedbackRequest, Judged, REJECTED_NAMED_MAX};
use crate::outcome::DEFAULT_TENANT;
use crate::outcome::feedback::{Read, Verdict};
use crate::outcome::fields::Name;
use crate::sources::kafka;

/// Largest body, in bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Verdicts that the learner judges at a time.
const JUDGED_AT_ONCE: usize = 1_000;
/// The code of a verdict that says other than what is known.
const CONFLICT: &str = "conflict";

pub(super) const FEEDBACK: Route = Route {
    method: "POST",
    pattern: "/api/learning/feedback",
    id: "reportFeedback",
    tag: Tag::Outcomes,
    need: Need::Scope(Scope::Ingest),
    handler: |app, call| app.feedback(call.request, call.caller),
    describe: |schemas| {
        let lines = "A verdict on each line, any number of them";
        let content = json!({
            JSON: {"schema": schemas.asked::<Feedback>()},
            ND_JSON: {"schema": {"type": "string", "description": lines}},
        });
        let taken = schemas.answered::<Taken>();
        Operation::new("What was found out later: quality, cost, or whether it was a success")
            .body(json!({"required": true, "content": content}))
            .answer(200, "All of it is durable, and what it adds is learned", taken.clone())
            .answer(
                202,
                "All of it is durable, and some waits for its execution; with Kafka: is learned when it \
                 comes back from the topic",
                taken,
            )
            .problem(409)
    },
};

/// A verdict on an execution. It names the execution by `event_id`, by `decision_id`, or by `trace_id` and
/// `span_id`, and adds what was missing. Unknown fields are ignored.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Feedback {
    /// That of the outcome.
    #[schemars(length(min = 1, max = 512))]
    event_id: Option<String>,
    /// The decision that the execution came of.
    #[schemars(length(min = 1, max = 256))]
    decision_id: Option<String>,
    /// With `decision_id`: another agent than the chosen one is a mistake.
    #[schemars(length(min = 1, max = 256))]
    agent_name: Option<String>,
    /// 32 hexadecimal digits.
    #[schemars(regex(pattern = "^[0-9a-fA-F]{32}$"))]
    trace_id: Option<String>,
    /// With `trace_id`: the span of the execution, 16 hexadecimal digits.
    #[schemars(regex(pattern = "^[0-9a-fA-F]{16}$"))]
    span_id: Option<String>,
    /// Whose agent this is; `default` unless given.
    tenant_id: Option<Name>,
    /// How it ended, where that was pending.
    #[schemars(schema_with = "super::answers::statuses")]
    status: Option<String>,
    /// 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    quality_score: Option<f64>,
    /// In the user's currency.
    #[schemars(range(min = 0.0, max = 1e12))]
    cost_estimate: Option<f64>,
    /// The evaluation that `score` or `label` are of.
    #[schemars(length(min = 1, max = 256))]
    name: Option<String>,
    /// What the evaluation says.
    score: Option<f64>,
    /// The same in a word, such as `pass`.
    #[schemars(length(min = 1, max = 256))]
    label: Option<String>,
}

/// What became of the verdicts of a request.
#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "FeedbackTaken")]
pub(super) struct Taken {
    /// They have added something, and are learned; with Kafka they are in the topic, and will be.
    accepted: u64,
    /// They wait for their execution.
    waiting: u64,
    /// All that they say was known.
    duplicates: u64,
    /// Of evaluations that are neither the quality nor the success.
    ignored: u64,
    /// Refused, at most 10,000 of them.
    rejected: Vec<RejectedVerdict>,
    /// Refused, all of them.
    rejected_total: u64,
    /// Some are in the topic, and to be learned from there.
    #[serde(skip)]
    is_on_its_way: bool,
}

/// A verdict that was refused.
#[derive(Serialize, JsonSchema)]
struct RejectedVerdict {
    /// Its place in the request, from 0.
    index: usize,
    /// The reason, for machines; `conflict` where it says other than what is known.
    code: &'static str,
    /// The reason, for people.
    detail: String,
}

impl Taken {
    fn refuse(&mut self, index: usize, code: &'static str, detail: String) {
        self.rejected_total += 1;
        if self.rejected.len() < REJECTED_NAMED_MAX {
            self.rejected.push(RejectedVerdict { index, code, detail });
        }
    }
}

impl App {
    fn feedback(&self, request: &mut Request<'_>, caller: &Caller) -> Answer {
        let media = media_type(request);
        if ![JSON, ND_JSON].contains(&media.as_str()) {
            return Err(unsupported_media_type(
                &media,
                &format!("{JSON} or {ND_JSON} (a line each)"),
            ));
        }
        let body = request.read_body(BODY_BYTES_MAX)?;
        let text: &[u8] = &body;
        if media == ND_JSON {
            let verdicts: Vec<&[u8]> = lines(text).map(|range| &text[range]).collect();
            return answered(&self.take(&verdicts, caller)?);
        }
        if text.trim_ascii_start().starts_with(b"[") {
            let items: Vec<&RawValue> = serde_json::from_slice(text).map_err(|error| {
                Response::problem(400, format!("the body is not JSON: {error}"))
            })?;
            if items.len() > ARRAY_MAX {
                let detail = format!(
                    "the array has {} verdicts, allowed are at most {ARRAY_MAX}; {ND_JSON} takes any \
                     number",
                    items.len()
                );
                return Err(Error::invalid("", detail).into());
            }
            let verdicts: Vec<&[u8]> = items.iter().map(|item| item.get().as_bytes()).collect();
            return answered(&self.take(&verdicts, caller)?);
        }
        let taken = self.take(&[text], caller)?;
        match taken.rejected.first() {
            Some(refused) if refused.code == CONFLICT => {
                Err(Error::Conflict(refused.detail.clone()).into())
            }
            Some(refused) if refused.code == "not_json" => {
                Err(Response::problem(400, refused.detail.clone()).into())
            }
            Some(refused) => Err(Error::invalid("", refused.detail.clone()).into()),
            None => answered(&taken),
        }
    }

    /// Has verdicts judged that are JSON each.
    fn take(
        &self,
        verdicts: &[&[u8]],
        caller: &Caller,
    ) -> std::result::Result<Taken, super::Failure> {
        let mut taken = Taken::default();
        let mut read = Vec::new();
        for (index, json) in verdicts.iter().enumerate() {
            let own = caller.tenant().unwrap_or(DEFAULT_TENANT);
            match Verdict::parse(json, own, &self.options.evaluations) {
                Ok(Read::Verdict(verdict)) => {
                    caller.tenant_or(Some(&verdict.tenant))?;
                    read.push((index, verdict));
                }
                Ok(Read::Ignored) => {
                    taken.ignored += 1;
                    self.count("ignored");
                }
                Err(refusal) => {
                    taken.refuse(index, refusal.code.as_str(), refusal.detail);
                    self.count("refused");
                }
            }
        }
        self.judge(read, &mut taken)?;
        Ok(taken)
    }

    /// Counts a verdict by what became of it.
    fn count(&self, result: &'static str) {
        self.shared.instruments.verdicts(result).inc();
    }

    pub(super) fn judge(&self, verdicts: Vec<(usize, Verdict)>, taken: &mut Taken) -> Result<()> {
        let (places, verdicts): (Vec<usize>, Vec<Verdict>) = verdicts.into_iter().unzip();
        for (places, verdicts) in places.chunks(JUDGED_AT_ONCE).zip(verdicts.chunks(JUDGED_AT_ONCE))
        {
            let verdicts = verdicts.to_vec();
            let judged = match &self.kafka {
                None => {
                    self.inbox.ask(|reply| Event::Feedback(FeedbackRequest { verdicts, reply }))?
                }
                Some(Kafka { producer, view }) => {
                    let judged = kafka::submit_verdicts(verdicts, producer, view, &self.inbox)?;
                    taken.is_on_its_way |= judged.contains(&Judged::Added);
                    judged
                }
            };
            for (place, judged) in places.iter().zip(judged) {
                match judged {
                    // They are counted when they come back.
                    Judged::Added | Judged::Waits if self.kafka.is_some() => {}
                    Judged::Added => self.count("added"),
                    Judged::Waits => self.count("waiting"),
                    Judged::Known => self.count("known"),
                    Judged::Conflicts(_) => self.count(CONFLICT),
                }
                match judged {
                    Judged::Added => taken.accepted += 1,
                    Judged::Waits => taken.waiting += 1,
                    Judged::Known => taken.duplicates += 1,
                    Judged::Conflicts(detail) => taken.refuse(*place, CONFLICT, detail),
                }
            }
        }
        Ok(())
    }
}

/// Refused ones are told in an answer that says what became of the others; where there are none, it is an
/// error.
fn answered(taken: &Taken) -> Answer {
    let is_refused = taken.rejected_total > 0
        && taken.accepted + taken.waiting + taken.duplicates + taken.ignored == 0;
    match taken.rejected.first() {
        Some(first) if is_refused => {
            let detail = format!("no verdict was taken; the first: {}", first.detail);
            Err(Error::invalid("", detail).into())
        }
        _ => Ok(json_response(
            if taken.waiting > 0 || taken.is_on_its_way { 202 } else { 200 },
            taken,
        )),
    }
}
