//! Verdicts that come after the execution they judge: what they judge, and what they add.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::raw::{Scalar, digits};
use super::{
    AMOUNT_MAX, DEFAULT_TENANT, IdentityKey, NAME_BYTES_MAX, Refusal, RefusalCode, Status,
    agent_name, hex, identity_key, non_finite_as_null, parse_status, tenant_name, trace_id,
};
use crate::outcome::trace::id_of_hex;

/// Labels that say yes, and that say no.
const GOOD: [&str; 6] = ["pass", "passed", "correct", "true", "good", "yes"];
const BAD: [&str; 6] = ["fail", "failed", "incorrect", "false", "bad", "no"];
/// From this score on something is a success.
pub const SUCCESS_FROM: f64 = 0.5;

/// Whether a label is a yes, where it is one or the other.
pub fn label_says(label: &str) -> Option<bool> {
    let is = |word: &&str| label.trim().eq_ignore_ascii_case(word);
    if GOOD.iter().any(is) {
        return Some(true);
    }
    BAD.iter().any(is).then_some(false)
}

/// The identity of the outcome of a span.
pub fn span_identity(trace: &[u8; 16], span: &[u8; 8]) -> String {
    format!("otlp:{}:{}", super::hex(trace), super::hex(span))
}

/// What evaluations are for, by name.
#[derive(Debug, Clone, Default)]
pub struct Evaluations {
    /// Those whose score is the quality.
    pub quality: Vec<String>,
    /// Those that say whether it was a success.
    pub success: Vec<String>,
}

/// Which execution a verdict is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The one whose outcome has this identity.
    Event(String),
    /// The one that came of this decision.
    Decision {
        /// Its id.
        id: String,
        /// Whom the verdict takes for the agent.
        agent: Option<String>,
    },
    /// This one, found by whoever wrote the verdict to a topic.
    Execution(IdentityKey),
}

/// What is found out about an execution after it was reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whose agents these are.
    pub tenant: String,
    /// What it is about.
    pub target: Target,
    /// How it ended, where that was pending.
    pub status: Option<Status>,
    /// `0..=1`, where there was none.
    pub quality: Option<f64>,
    /// In the user's currency, where there was none.
    pub cost: Option<f64>,
}

/// What a verdict holds, by the names of its fields; the last of equal names counts.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Fields<'a>(#[serde(borrow)] HashMap<String, &'a RawValue>);

/// A verdict, or that it is of an evaluation that nothing is made of.
#[derive(Debug, PartialEq)]
pub enum Read {
    /// It adds something.
    Verdict(Verdict),
    /// An evaluation that is neither the quality nor the success.
    Ignored,
}

impl Target {
    /// What verdicts on it and outcomes of it are found by.
    pub fn key(&self, tenant: &str) -> IdentityKey {
        match self {
            Self::Event(identity) => identity_key(tenant, identity),
            Self::Decision { id, .. } => decision_key(tenant, id),
            Self::Execution(identity) => *identity,
        }
    }

    /// What a record of a topic that names this is keyed by: outcomes are by their identity.
    pub fn record_key(&self) -> String {
        match self {
            Self::Event(id) | Self::Decision { id, .. } => id.clone(),
            Self::Execution(identity) => hex(identity),
        }
    }
}

/// What verdicts on a decision's execution are found by.
pub fn decision_key(tenant: &str, decision: &str) -> IdentityKey {
    // No identity of an outcome begins like this.
    identity_key(tenant, &format!("verdict on decision:{decision}"))
}

impl Verdict {
    /// Reads one from JSON. One that names no tenant is `tenant`'s.
    ///
    /// # Errors
    /// A [`Refusal`] that names the field, the value and what is allowed.
    pub fn parse(json: &[u8], tenant: &str, evaluations: &Evaluations) -> Result<Read, Refusal> {
        let not_json = |error: &dyn std::fmt::Display| {
            Refusal::new(RefusalCode::NotJson, format!("the verdict is not JSON: {error}"))
        };
        let value: &RawValue = serde_json::from_slice(json).map_err(|error| not_json(&error))?;
        if !value.get().starts_with('{') {
            let detail = "the verdict is JSON, but allowed is an object";
            return Err(Refusal::new(RefusalCode::NotAnObject, detail));
        }
        let fields: Fields<'_> =
            serde_json::from_str(value.get()).map_err(|error| not_json(&error))?;
        fields.verdict(tenant, None, evaluations)
    }

    /// Reads one from a record of a topic: the object `verdict`, where there is no `agent_name`. `None` for
    /// a record that is no verdict, nor meant to be one.
    ///
    /// What evaluations are for is a setting of the service that takes them, and every reader must read the
    /// same: here a verdict says it itself.
    pub fn of_record(record: &[u8]) -> Option<Result<Self, Refusal>> {
        let text = str::from_utf8(record).ok()?;
        let repaired;
        let fields: Fields<'_> = if let Ok(fields) = serde_json::from_str(text) {
            fields
        } else {
            repaired = non_finite_as_null(text)?;
            serde_json::from_str(&repaired).ok()?
        };
        let fields = fields.event().unwrap_or(fields);
        if fields.find(&["agent_name"]).is_some() {
            return None;
        }
        Some(fields.of_record(fields.find(&["verdict"])?))
    }

    /// The tenant that a record of a topic names which was meant to be a verdict.
    pub fn tenant_of_record(record: &[u8]) -> Option<String> {
        let fields: Fields<'_> = serde_json::from_slice(record).ok()?;
        let inside: Fields<'_> = serde_json::from_str(fields.find(&["verdict"])?.get()).ok()?;
        tenant_name([inside.exact(&["tenant_id"])]).ok()?
    }

    /// What an evaluation says, by its name; `None` for one that nothing is made of.
    pub fn of_evaluation(
        tenant: String,
        target: Target,
        (name, score, label): (&str, Option<f64>, Option<&str>),
        evaluations: &Evaluations,
    ) -> Option<Self> {
        let is_in = |names: &[String]| names.iter().any(|one| one == name);
        let label = label.and_then(label_says);
        let in_range = score.filter(|score| (0.0..=1.0).contains(score));
        let quality = in_range.or_else(|| label.map(|good| f64::from(u8::from(good))));
        let is_success = label.or_else(|| in_range.map(|score| score >= SUCCESS_FROM));
        let status = |good| if good { Status::Success } else { Status::Failure };
        let verdict = Self {
            tenant,
            target,
            status: is_success.filter(|_| is_in(&evaluations.success)).map(status),
            quality: quality.filter(|_| is_in(&evaluations.quality)),
            cost: None,
        };
        (verdict.status.is_some() || verdict.quality.is_some()).then_some(verdict)
    }
}

impl<'a> Fields<'a> {
    /// The value of the first of these fields that has one. Langfuse's names are among them.
    fn find(&self, names: &[&str]) -> Option<&RawValue> {
        let found = names.iter().filter_map(|name| self.0.get(*name).copied());
        found.into_iter().find(|value| value.get() != "null")
    }

    /// `null` where there is none.
    fn value(&self, names: &[&str]) -> Value {
        self.find(names).and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }

    /// The same with all digits of a number.
    fn exact(&self, names: &[&str]) -> Scalar<'_> {
        self.find(names).and_then(|raw| digits(raw).ok()).unwrap_or_default()
    }

    /// Those of the event in a CloudEvents envelope, where this is one.
    fn event(&self) -> Option<Fields<'a>> {
        let is_envelope = matches!(self.value(&["specversion"]), Value::String(_));
        let data = self.0.get("data").filter(|_| is_envelope)?;
        serde_json::from_str(data.get()).ok()
    }

    fn of_record(&self, verdict: &RawValue) -> Result<Verdict, Refusal> {
        let not_an_object = |_| {
            let detail =
                "verdict is no object, which says of which execution it is and what it adds";
            Refusal::new(RefusalCode::NotAnObject, detail)
        };
        let inside: Fields<'_> = serde_json::from_str(verdict.get()).map_err(not_an_object)?;
        let resolved: Option<Fields<'_>> =
            self.find(&["resolved"]).and_then(|raw| serde_json::from_str(raw.get()).ok());
        let execution = match resolved.map(|fields| fields.value(&["execution"])) {
            None | Some(Value::Null) => None,
            Some(value) => Some(value.as_str().and_then(id_of_hex).ok_or_else(|| {
                let allowed = "32 hexadecimal digits";
                refused(RefusalCode::InvalidVerdict, "resolved.execution", &value, allowed)
            })?),
        };
        match inside.verdict(DEFAULT_TENANT, execution, &Evaluations::default())? {
            Read::Verdict(verdict) => Ok(verdict),
            Read::Ignored => Err(Refusal::new(
                RefusalCode::InvalidVerdict,
                "the verdict names an evaluation, and which of them count is a setting of the service \
                 that takes it: in a record it has a status, a quality_score or a cost_estimate",
            )),
        }
    }

    fn verdict(
        &self,
        tenant: &str,
        execution: Option<IdentityKey>,
        evaluations: &Evaluations,
    ) -> Result<Read, Refusal> {
        let of_metadata: Option<Fields<'_>> =
            self.find(&["metadata"]).and_then(|raw| serde_json::from_str(raw.get()).ok());
        let in_metadata = of_metadata.as_ref().map(|fields| fields.exact(&["tenant_id"]));
        let tenant = tenant_name([self.exact(&["tenant_id"]), in_metadata.unwrap_or_default()])?
            .unwrap_or_else(|| tenant.to_owned());
        let target =
            execution.map_or_else(|| self.target(), |found| Ok(Target::Execution(found)))?;
        let amount = |field: &'static str, max: f64| match self.value(&[field]) {
            Value::Null => Ok(None),
            value => number(&value)
                .filter(|number| (0.0..=max).contains(number))
                .map(Some)
                .ok_or_else(|| {
                    let allowed = format!("a number from 0 to {max}");
                    refused(RefusalCode::InvalidVerdict, field, &value, &allowed)
                }),
        };
        let status = match self.exact(&["status"]) {
            Scalar::Null => None,
            seen => Some(parse_status(&seen)?),
        };
        let mut verdict = Verdict {
            tenant,
            target,
            status: status.filter(|status| *status != Status::Pending),
            quality: amount("quality_score", 1.0)?,
            cost: amount("cost_estimate", AMOUNT_MAX)?,
        };
        let (name, score) = (self.value(&["name"]), self.value(&["score", "value"]));
        if let Some(name) = text(&name) {
            let label = self.value(&["label"]);
            let label = text(&label).or_else(|| text(&score));
            let (tenant, target) = (verdict.tenant.clone(), verdict.target.clone());
            let score = match &score {
                Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
                value => number(value),
            };
            let of_name = Verdict::of_evaluation(tenant, target, (name, score, label), evaluations);
            if let Some(of_name) = of_name {
                verdict.status = verdict.status.or(of_name.status);
                verdict.quality = verdict.quality.or(of_name.quality);
            } else if verdict.adds_nothing() {
                return Ok(Read::Ignored);
            }
        }
        if verdict.adds_nothing() {
            return Err(Refusal::new(
                RefusalCode::InvalidVerdict,
                "the verdict adds nothing: it needs a status, a quality_score, a cost_estimate, or the \
                 name of an evaluation with its score or label",
            ));
        }
        Ok(Read::Verdict(verdict))
    }

    fn target(&self) -> Result<Target, Refusal> {
        let id = |field: &'static str| match self.exact(&[field]) {
            Scalar::Null => Ok(None),
            value => identifier(&value).map(Some).ok_or_else(|| {
                let allowed = format!("a string of 1 to {} bytes", 2 * NAME_BYTES_MAX);
                let detail = format!("{field} is {value}, allowed is {allowed}");
                Refusal::new(RefusalCode::MissingTarget, detail)
            }),
        };
        if let Some(id) = id("event_id")? {
            return Ok(Target::Event(id));
        }
        if let Some(id) = id("decision_id")? {
            // One that is no name says nothing.
            let agent = agent_name(self.exact(&["agent_name"])).ok();
            return Ok(Target::Decision { id, agent });
        }
        let trace = trace_id(&self.exact(&["trace_id", "traceId"]).text());
        let spans = ["span_id", "spanId", "observationId", "observation_id"];
        let span = id_of_hex(&self.exact(&spans).text());
        match (trace, span) {
            (Some(trace), Some(span)) => Ok(Target::Event(span_identity(&trace, &span))),
            _ => Err(Refusal::new(
                RefusalCode::MissingTarget,
                "the verdict names no execution: it needs an event_id, a decision_id, or a trace_id (32 \
                 hexadecimal digits) with a span_id (16)",
            )),
        }
    }
}

impl Verdict {
    /// As it can be sent again.
    ///
    /// # Panics
    /// Never: names and numbers have a JSON form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.fields()).expect("names and numbers have a JSON form")
    }

    /// The record of a topic that says the same to every reader. `execution` is the one that it is about,
    /// where whoever writes the record has found it.
    ///
    /// It has no `agent_name` and no `status` of its own: who does not know verdicts takes it for an event
    /// that lacks them, and refuses it.
    ///
    /// # Panics
    /// As [`Verdict::to_json`].
    pub fn to_record(&self, execution: Option<IdentityKey>) -> Vec<u8> {
        let mut record = serde_json::json!({"verdict": self.fields()});
        let execution = match self.target {
            Target::Execution(identity) => Some(identity),
            _ => execution,
        };
        if let Some(execution) = execution {
            record["resolved"] = serde_json::json!({"execution": hex(&execution)});
        }
        serde_json::to_vec(&record).expect("names and numbers have a JSON form")
    }

    fn fields(&self) -> Value {
        let (event, decision, agent) = match &self.target {
            Target::Event(id) => (Some(id), None, None),
            Target::Decision { id, agent } => (None, Some(id), agent.as_ref()),
            Target::Execution(_) => (None, None, None),
        };
        let mut json = serde_json::json!({
            "tenant_id": self.tenant,
            "event_id": event,
            "decision_id": decision,
            "agent_name": agent,
            "status": self.status,
            "quality_score": self.quality,
            "cost_estimate": self.cost,
        });
        if let Some(fields) = json.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        json
    }

    fn adds_nothing(&self) -> bool {
        self.status.is_none() && self.quality.is_none() && self.cost.is_none()
    }
}

fn refused(code: RefusalCode, field: &str, value: &Value, allowed: &str) -> Refusal {
    let seen: String = value.to_string().chars().take(100).collect();
    Refusal::new(code, format!("{field} is {seen}, allowed is {allowed}"))
}

fn text(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| !text.is_empty())
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn identifier(value: &Scalar<'_>) -> Option<String> {
    let id = value.identifier("", &mut Vec::new())?;
    (id.len() <= 2 * NAME_BYTES_MAX).then_some(id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::outcome::{DEFAULT_TENANT, Outcome};

    fn read(json: &Value) -> Result<Read, Refusal> {
        let evaluations = Evaluations {
            quality: vec!["relevance".to_owned()],
            success: vec!["correct".to_owned()],
        };
        Verdict::parse(json.to_string().as_bytes(), DEFAULT_TENANT, &evaluations)
    }

    #[track_caller]
    fn verdict(json: &Value) -> Verdict {
        match read(json) {
            Ok(Read::Verdict(verdict)) => verdict,
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn a_verdict_names_its_execution_in_one_of_three_ways() {
        let target = |json: &Value| verdict(json).target;
        let event = |id: &str| Target::Event(id.to_owned());
        assert_eq!(target(&json!({"event_id": "e", "status": "success"})), event("e"));
        assert_eq!(target(&json!({"event_id": 7, "quality_score": "0.5"})), event("7"));
        let (id, agent) = ("d".to_owned(), Some("amy".to_owned()));
        let named = json!({"decision_id": "d", "agent_name": " amy", "cost_estimate": 1});
        assert_eq!(target(&named), Target::Decision { id, agent });
        let (trace, span) = ("5B8EFFF798038103d269b633813fc60c", "eee19b7ec3c1b174");
        let of_span = event(&format!("otlp:{}:{span}", trace.to_lowercase()));
        let named = json!({"trace_id": trace, "span_id": span, "status": "failure"});
        assert_eq!(target(&named), of_span);
        let langfuse = json!({
            "traceId": trace, "observationId": span, "name": "relevance", "value": 0.25,
        });
        assert_eq!(target(&langfuse), of_span);
        assert_eq!(verdict(&langfuse).quality, Some(0.25));
    }

    /// What is sent, and the identity of what it is about.
    #[test]
    fn names_and_ids_are_read_as_those_of_events() {
        let read = |json: &str| match Verdict::parse(
            json.as_bytes(),
            DEFAULT_TENANT,
            &Evaluations::default(),
        ) {
            Ok(Read::Verdict(verdict)) => verdict,
            other => panic!("{json}: {other:?}"),
        };
        for id in ["36893488147419103232", "1e3", "0.10", "-7", "18446744073709551617000000001"] {
            let same = format!(r#"{{"event_id": {id}, "quality_score": 0.5}}"#);
            let event = format!(
                r#"{{"event_id": {id}, "agent_name": "a", "status": "success", "tenant_id": "t"}}"#
            );
            let outcome = Outcome::parse(event.as_bytes(), 0, String::new).unwrap();
            let verdict = read(&same.replace("{\"", "{\"tenant_id\": \" t\", \""));
            assert_eq!(verdict.target, Target::Event(id.to_owned()));
            assert_eq!(verdict.target.key(&verdict.tenant), outcome.identity, "{id}");
            let decided = same.replace("event_id", "decision_id");
            let target = Target::Decision { id: id.to_owned(), agent: None };
            assert_eq!(read(&decided).target, target);
        }
        // The last of equal names counts, as everywhere; an agent may be a number.
        let numbered = read(
            r#"{"decision_id": 1, "decision_id": 90071992547409930, "agent_name": 7, "status": "ok"}"#,
        );
        let agent = Some("7".to_owned());
        assert_eq!(numbered.target, Target::Decision { id: "90071992547409930".to_owned(), agent });
        let tenant = read(
            r#"{"event_id": "e", "status": "ok", "metadata": {"tenant_id": " Te\u0301a\u200b"}}"#,
        );
        assert_eq!(tenant.tenant, "T\u{e9}a");
    }

    #[test]
    fn what_an_evaluation_says_follows_from_its_name() {
        use Status::{Failure, Success};
        let of = |name: &str, value: Value| {
            let mut json = json!({"event_id": "e", "name": name});
            let field = if value.is_string() { "label" } else { "score" };
            json[field] = value;
            match read(&json).unwrap() {
                Read::Verdict(verdict) => Some((verdict.status, verdict.quality)),
                Read::Ignored => None,
            }
        };
        assert_eq!(of("relevance", json!(0.3)), Some((None, Some(0.3))));
        assert_eq!(of("relevance", json!("Correct")), Some((None, Some(1.0))));
        assert_eq!(of("correct", json!(0.5)), Some((Some(Success), None)));
        assert_eq!(of("correct", json!(0.49)), Some((Some(Failure), None)));
        assert_eq!(of("correct", json!("fail")), Some((Some(Failure), None)));
        assert_eq!(of("correct", json!(true)), Some((Some(Success), None)));
        // On a scale of its own it says nothing, and neither does another evaluation.
        assert_eq!(of("relevance", json!(5)), None);
        assert_eq!(of("toxicity", json!(0.1)), None);
    }

    #[test]
    fn a_verdict_is_the_same_when_it_is_sent_again() {
        for json in [
            json!({"event_id": "e", "status": "failure", "cost_estimate": 0.1, "tenant_id": "t"}),
            json!({"decision_id": "d", "agent_name": "amy", "quality_score": 0.5}),
            json!({"decision_id": "d", "status": "success"}),
            json!({"trace_id": "5b8efff798038103d269b633813fc60c", "span_id": "eee19b7ec3c1b174",
                   "name": "relevance", "score": 0.25}),
        ] {
            let verdict = verdict(&json);
            let again = serde_json::from_slice(&verdict.to_json()).unwrap();
            assert_eq!(super::tests::verdict(&again), verdict);
        }
    }

    #[test]
    fn a_record_of_a_topic_says_the_same_as_the_verdict_and_is_no_event() {
        for json in [
            json!({"event_id": "e", "status": "failure", "cost_estimate": 0.1, "tenant_id": "t"}),
            json!({"decision_id": "d", "agent_name": "amy", "quality_score": 0.5}),
        ] {
            let verdict = verdict(&json);
            let record = verdict.to_record(None);
            assert_eq!(Verdict::of_record(&record), Some(Ok(verdict.clone())));
            let event = Outcome::parse(&record, 0, String::new).unwrap_err();
            assert_eq!(event.code, RefusalCode::MissingAgentName);
            // Where the execution was found, that is what it is about.
            let found = Verdict { target: Target::Execution([7; 16]), ..verdict.clone() };
            let record = verdict.to_record(Some([7; 16]));
            assert_eq!(Verdict::of_record(&record), Some(Ok(found.clone())));
            assert_eq!(Verdict::of_record(&found.to_record(None)), Some(Ok(found)));
        }
        let enveloped = json!({"specversion": "1.0", "data": {
            "verdict": {"event_id": 7, "status": "ok", "tenant_id": "t"},
        }});
        let read = Verdict::of_record(enveloped.to_string().as_bytes()).unwrap().unwrap();
        assert_eq!((read.target, &*read.tenant), (Target::Event("7".to_owned()), "t"));
        // An event may have a field of that name.
        for none in [
            r#"{"agent_name": "a", "status": "success", "verdict": {"event_id": "e"}}"#,
            r#"{"verdict": null}"#,
            r#"{"event_id": "e"}"#,
            "[]",
            "{",
        ] {
            assert_eq!(Verdict::of_record(none.as_bytes()), None, "{none}");
        }
        for (record, code) in [
            (json!({"verdict": "pass"}), "not_an_object"),
            (json!({"verdict": {"status": "success"}}), "missing_target"),
            (json!({"verdict": {"event_id": "e", "status": "great"}}), "unknown_status"),
            (json!({"verdict": {"event_id": "e", "quality_score": 7}}), "invalid_verdict"),
            (json!({"verdict": {"event_id": "e", "name": "n", "score": 1}}), "invalid_verdict"),
            (
                json!({"verdict": {"event_id": "e", "status": "ok"}, "resolved": {"execution": 7}}),
                "invalid_verdict",
            ),
        ] {
            let refusal = Verdict::of_record(record.to_string().as_bytes()).unwrap().unwrap_err();
            assert_eq!(refusal.code.as_str(), code, "{record}");
        }
    }

    #[test]
    fn what_is_no_verdict_is_refused_with_a_reason() {
        for (json, code, says) in [
            (json!([]), "not_an_object", "object"),
            (json!({"status": "success"}), "missing_target", "event_id"),
            (json!({"event_id": "none", "status": "success"}), "missing_target", "event_id"),
            (json!({"trace_id": "7", "span_id": "8", "status": "success"}), "missing_target", "32"),
            (json!({"event_id": "e"}), "invalid_verdict", "adds nothing"),
            (json!({"event_id": "e", "status": "pending"}), "invalid_verdict", "adds nothing"),
            (json!({"event_id": "e", "status": "great"}), "unknown_status", "great"),
            (json!({"event_id": "e", "quality_score": 2}), "invalid_verdict", "0 to 1"),
            (json!({"event_id": "e", "cost_estimate": -1}), "invalid_verdict", "-1"),
            (
                json!({"event_id": "e", "cost_estimate": 1, "tenant_id": 7}),
                "invalid_tenant_id",
                "7",
            ),
        ] {
            let refusal = read(&json).unwrap_err();
            assert_eq!(refusal.code.as_str(), code, "{json}");
            assert!(refusal.detail.contains(says), "{json}: {}", refusal.detail);
        }
        assert_eq!(
            Verdict::parse(b"{", DEFAULT_TENANT, &Evaluations::default())
                .unwrap_err()
                .code
                .as_str(),
            "not_json"
        );
    }
}
