//! Verdicts that come after the execution they judge: what they judge, and what they add.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::raw::Scalar;
use super::{
    AMOUNT_MAX, IdentityKey, NAME_BYTES_MAX, Refusal, RefusalCode, Status, identity_key, kept_name,
    parse_status, trace_id,
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

/// What a verdict may hold. Langfuse's names are understood, too.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    tenant_id: Value,
    metadata: Value,
    event_id: Value,
    decision_id: Value,
    agent_name: Value,
    #[serde(alias = "traceId")]
    trace_id: Value,
    #[serde(alias = "spanId", alias = "observationId", alias = "observation_id")]
    span_id: Value,
    status: Value,
    quality_score: Value,
    cost_estimate: Value,
    name: Value,
    #[serde(alias = "value")]
    score: Value,
    label: Value,
}

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
        let value: Value = serde_json::from_slice(json).map_err(|error| not_json(&error))?;
        if !value.is_object() {
            let detail = "the verdict is JSON, but allowed is an object";
            return Err(Refusal::new(RefusalCode::NotAnObject, detail));
        }
        let fields = Fields::deserialize(value).map_err(|error| not_json(&error))?;
        fields.verdict(tenant, evaluations)
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

impl Fields {
    fn verdict(&self, tenant: &str, evaluations: &Evaluations) -> Result<Read, Refusal> {
        let named = match &self.tenant_id {
            Value::Null => &self.metadata["tenant_id"],
            named => named,
        };
        let tenant = match named {
            Value::Null => tenant.to_owned(),
            value => text(value).and_then(kept_name).map(std::borrow::Cow::into_owned).ok_or_else(
                || refused(RefusalCode::InvalidTenantId, "tenant_id", value, "a name"),
            )?,
        };
        let target = self.target()?;
        let amount = |field: &'static str, value: &Value, max: f64| match value {
            Value::Null => Ok(None),
            value => number(value)
                .filter(|number| (0.0..=max).contains(number))
                .map(Some)
                .ok_or_else(|| {
                    let allowed = format!("a number from 0 to {max}");
                    refused(RefusalCode::InvalidVerdict, field, value, &allowed)
                }),
        };
        let status = match &self.status {
            Value::Null => None,
            value => {
                let seen = text(value).map_or(Scalar::Composite, |text| Scalar::Text(text.into()));
                Some(parse_status(&seen)?)
            }
        };
        let mut verdict = Verdict {
            tenant,
            target,
            status: status.filter(|status| *status != Status::Pending),
            quality: amount("quality_score", &self.quality_score, 1.0)?,
            cost: amount("cost_estimate", &self.cost_estimate, AMOUNT_MAX)?,
        };
        if let Some(name) = text(&self.name) {
            let label = text(&self.label).or_else(|| text(&self.score));
            let (tenant, target) = (verdict.tenant.clone(), verdict.target.clone());
            let score = match &self.score {
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
        let id = |field: &'static str, value: &Value| match value {
            Value::Null => Ok(None),
            value => identifier(value).map(Some).ok_or_else(|| {
                let allowed = format!("a string of 1 to {NAME_BYTES_MAX} bytes");
                refused(RefusalCode::MissingTarget, field, value, &allowed)
            }),
        };
        if let Some(id) = id("event_id", &self.event_id)? {
            return Ok(Target::Event(id));
        }
        if let Some(id) = id("decision_id", &self.decision_id)? {
            let agent = text(&self.agent_name).and_then(kept_name);
            return Ok(Target::Decision { id, agent: agent.map(std::borrow::Cow::into_owned) });
        }
        let trace = text(&self.trace_id).and_then(trace_id);
        let span = text(&self.span_id).and_then(id_of_hex);
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
        let (event, decision, agent) = match &self.target {
            Target::Event(id) => (Some(id), None, None),
            Target::Decision { id, agent } => (None, Some(id), agent.as_ref()),
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
        serde_json::to_vec(&json).expect("names and numbers have a JSON form")
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

fn identifier(value: &Value) -> Option<String> {
    let id = match value {
        Value::Number(number) => number.to_string(),
        value => value.as_str()?.to_owned(),
    };
    let is_id = !super::is_placeholder(&id) && id.len() <= 2 * NAME_BYTES_MAX;
    is_id.then_some(id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::outcome::DEFAULT_TENANT;

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
