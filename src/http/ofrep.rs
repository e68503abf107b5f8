//! `POST /ofrep/v1/evaluate/flags/{task_type}`: which agent, as the value of a feature flag. `OpenFeature`'s
//! providers for its remote evaluation protocol (OFREP 0.2) ask so in a dozen languages.
//!
//! A flag is a task type, its value the name of an agent. The evaluation context is what is known of the
//! task, but for four keys that say how to choose.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::access::{Caller, Need, Scope};
use super::operation::Operation;
use super::route::{Route, Tag};
use super::server::{Request, Response};
use super::{Answer, App, Failure, JSON, json_body, json_response};
use crate::outcome::fields::{Id, Name, Names};
use crate::outcome::trace_of_parent;

/// Who is served: its hash makes the draw, so that the same key gets the same agent of the same model.
const TARGETING_KEY: &str = "targetingKey";
/// Keys of the context that are fields of the question.
const FIELDS: [&str; 3] = ["tenant_id", "candidates", "decision_id"];

pub(super) const EVALUATE_FLAG: Route = Route {
    method: "POST",
    pattern: "/ofrep/v1/evaluate/flags/{task_type}",
    id: "evaluateFlag",
    tag: Tag::Selection,
    need: Need::Scope(Scope::Read),
    handler: |app, call| app.evaluate_flag(&call.names[0], call.request, call.caller),
    describe: |schemas| {
        let mut candidates = json!(schemas.asked::<Option<Names>>());
        candidates["minItems"] = 1.into();
        let context = json!({
            "type": "object",
            "description": "What is known of the task: texts, numbers, booleans",
            "properties": {
                TARGETING_KEY: {
                    "type": ["string", "null"],
                    "description": "The same one gets the same agent, while the model is the same",
                },
                "tenant_id": schemas.asked::<Option<Name>>(),
                "candidates": candidates,
                "decision_id": schemas.asked::<Option<Id>>(),
            },
        });
        let evaluation = json!({
            "type": "object",
            "required": ["key", "value", "variant", "reason", "metadata"],
            "properties": {
                "key": {"type": "string", "description": "The task type"},
                "value": {"type": "string", "description": "The agent"},
                "variant": {"type": "string", "description": "The agent"},
                "reason": {"type": "string", "enum": ["SPLIT"]},
                "metadata": {
                    "type": "object",
                    "description": "The decision_id for the outcome, and what was expected",
                    "additionalProperties": {"type": ["string", "number", "boolean"]},
                },
            },
        });
        let failure = json!({
            "type": "object",
            "required": ["key", "errorCode", "errorDetails"],
            "properties": {
                "key": {"type": "string"},
                "errorCode": {
                    "type": "string", "enum": ["PARSE_ERROR", "INVALID_CONTEXT", "FLAG_NOT_FOUND"],
                },
                "errorDetails": {"type": "string"},
            },
        });
        let body = json!({
            "type": "object", "required": ["context"], "properties": {"context": context},
        });
        Operation::new("Which agent should take the task, as the value of a feature flag (OFREP)")
            .name("task_type", json!(schemas.asked::<Name>()))
            .json(body)
            .answer(200, "The agent", evaluation)
            .problems_also_as(JSON, json!({"schema": failure}))
            .problem(400)
            .problem(404)
            .problem(409)
    },
};

impl App {
    fn evaluate_flag(&self, flag: &str, request: &mut Request<'_>, caller: &Caller) -> Answer {
        let body = json_body(request)?;
        let trace = request.header("traceparent").and_then(trace_of_parent);
        let failed = |code, detail: &str| Ok(failed(400, flag, code, detail));
        let body: Value = match serde_json::from_slice(body.as_deref().unwrap_or_default()) {
            Ok(body) => body,
            Err(error) => return failed("PARSE_ERROR", &format!("the body is not JSON: {error}")),
        };
        let Value::Object(context) = &body["context"] else {
            let seen = &body["context"];
            let detail = format!("context is {}, allowed is an object", kind(seen));
            return failed("INVALID_CONTEXT", &detail);
        };
        let question = match question(flag, context) {
            Ok(question) => question,
            Err(detail) => return failed("INVALID_CONTEXT", &detail),
        };
        let question = serde_json::to_vec(&question).unwrap_or_default();
        let answer: Value = match self.predict(Some(&question), trace, caller) {
            Ok(response) => serde_json::from_slice(&response.body).unwrap_or_default(),
            // In the words of the protocol, which knows no 422.
            Err(Failure { response, .. }) if response.status == 422 => {
                let problem: Value = serde_json::from_slice(&response.body).unwrap_or_default();
                let detail = problem["detail"].as_str().unwrap_or_default();
                return failed("INVALID_CONTEXT", detail);
            }
            Err(failure) => return Err(failure),
        };
        Ok(evaluated(flag, &answer))
    }
}

/// The question for an agent that an evaluation context is.
fn question(flag: &str, context: &Map<String, Value>) -> Result<Value, String> {
    let is_field = |name: &str| FIELDS.contains(&name);
    let of_task = context.iter().filter(|(name, _)| *name != TARGETING_KEY && !is_field(name));
    let of_task: Map<String, Value> =
        of_task.map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut question = json!({"task_type": flag, "top_k": 1, "context": of_task});
    for field in FIELDS {
        if let Some(value) = context.get(field).filter(|value| !value.is_null()) {
            question[field] = value.clone();
        }
    }
    match context.get(TARGETING_KEY) {
        None | Some(Value::Null) => {}
        Some(Value::String(key)) => question["seed"] = seed(flag, key).into(),
        Some(other) => {
            return Err(format!("{TARGETING_KEY} is {}, allowed is a string", kind(other)));
        }
    }
    Ok(question)
}

/// Of the draw of an agent for whom this key stands. The flag makes it another one, so that who is lucky
/// with one flag is not with all.
fn seed(flag: &str, targeting_key: &str) -> u64 {
    let mut hasher = Sha256::new();
    // The length keeps ("ab", "c") and ("a", "bc") apart.
    hasher.update((flag.len() as u64).to_le_bytes());
    hasher.update(flag);
    hasher.update(targeting_key);
    let digest = hasher.finalize();
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}

/// What the best of the answer's agents is as a flag.
fn evaluated(flag: &str, answer: &Value) -> Response {
    let best = &answer["recommendations"][0];
    let Some(agent) = best["agent_name"].as_str() else {
        return failed(404, flag, "FLAG_NOT_FOUND", "no agent is known that could take this task");
    };
    let decision = ["decision_id", "recorded"].map(|name| (name, &answer[name]));
    let expected = ["expected_success", "propensity", "samples"].map(|name| (name, &best[name]));
    let metadata = decision.into_iter().chain(expected).filter(|(_, value)| !value.is_null());
    let metadata: Map<String, Value> =
        metadata.map(|(name, value)| (name.to_owned(), value.clone())).collect();
    let evaluation = json!({
        "key": flag, "value": agent, "variant": agent, "reason": "SPLIT", "metadata": metadata,
    });
    json_response(200, &evaluation)
}

fn failed(status: u16, flag: &str, code: &str, detail: &str) -> Response {
    json_response(status, &json!({"key": flag, "errorCode": code, "errorDetails": detail}))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "missing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_field_of_the_question_is_known_of_the_task() {
        let context = json!({
            "targetingKey": "user-7", "size": 3, "tenant_id": "red", "candidates": ["a"],
            "decision_id": null, "objective": "of the task",
        });
        let question = question("t", context.as_object().unwrap()).unwrap();
        let expected = json!({
            "task_type": "t", "top_k": 1, "tenant_id": "red", "candidates": ["a"],
            "context": {"size": 3, "objective": "of the task"}, "seed": seed("t", "user-7"),
        });
        assert_eq!(question, expected);
    }

    #[test]
    fn seeds_are_of_key_and_flag() {
        // SHA-256 of 02 00 00 00 00 00 00 00 "ab" "c", its first eight bytes.
        let digest = Sha256::digest(b"\x02\0\0\0\0\0\0\0abc");
        assert_eq!(seed("ab", "c").to_be_bytes(), digest[..8]);
        assert_ne!(seed("ab", "c"), seed("a", "bc"));
    }
}
