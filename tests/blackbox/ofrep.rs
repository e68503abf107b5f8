//! Agents as feature flags, by OpenFeature's remote evaluation protocol.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Answer, Service, Setup};

fn evaluate(service: &Service, flag: &str, context: &Value) -> Answer {
    let path = format!("/ofrep/v1/evaluate/flags/{flag}");
    service.post_json(&path, &json!({"context": context}))
}

fn report(service: &Service, agent: &str, tenant: &str, number: usize) {
    let outcome = json!({
        "agent_name": agent, "task_type": "code_review", "status": "success",
        "event_id": format!("{tenant}-{agent}-{number}"), "tenant_id": tenant,
    });
    let answer = service.post_json("/api/learning/outcomes?wait=true", &outcome);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn an_agent_is_the_value_of_a_flag_and_its_outcome_finds_the_decision() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let service = Setup::new(directory.path()).start();
    let nobody = evaluate(&service, "code_review", &json!({"targetingKey": "u"}));
    assert_eq!(nobody.status, 404);
    let expected = json!({
        "key": "code_review", "errorCode": "FLAG_NOT_FOUND",
        "errorDetails": "no agent is known that could take this task",
    });
    assert_eq!(nobody.json(), expected);

    for agent in ["amy", "bob"] {
        report(&service, agent, "default", 1);
    }
    let answer = evaluate(&service, "code_review", &json!({"targetingKey": "u", "size": 3}));
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!((&answer["key"], &answer["reason"]), (&json!("code_review"), &json!("SPLIT")));
    assert_eq!(answer["value"], answer["variant"]);
    let metadata = answer["metadata"].as_object().expect("it has metadata");
    assert!(metadata.values().all(|value| !value.is_object() && !value.is_array()), "{answer}");
    assert_eq!((&metadata["recorded"], &metadata["samples"]), (&json!(true), &json!(1)));

    let id = metadata["decision_id"].as_str().expect("it has an id");
    let outcome = json!({"agent_name": answer["value"], "status": "failure", "decision_id": id});
    let taken = service.post_json("/api/learning/outcomes?wait=true", &outcome);
    assert_eq!(taken.json()["accepted"], 1, "{taken:?}");
    let decision = service.get(&format!("/api/learning/decisions/{id}")).json();
    assert_eq!(decision["outcome"]["status"], "failure", "{decision}");
    assert_eq!(decision["task_type"], "code_review");
    assert_eq!(decision["context"], json!({"size": 3.0}), "the key is of no task");
}

#[test]
fn the_same_key_gets_the_same_agent_and_others_get_others() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let service = Setup::new(directory.path()).start();
    for agent in ["amy", "bob"] {
        report(&service, agent, "default", 1);
    }
    let value = |flag: &str, key: &Value| {
        let answer = evaluate(&service, flag, &json!({"targetingKey": key})).json();
        answer["value"].as_str().expect("it has a value").to_owned()
    };
    let keys = (0..64).map(|number| json!(format!("user-{number}")));
    let first: Vec<String> = keys.clone().map(|key| value("code_review", &key)).collect();
    let again: Vec<String> = keys.clone().map(|key| value("code_review", &key)).collect();
    assert_eq!(first, again);
    // Two agents that are known alike: all 64 alike would be a chance of 2^-63.
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 2);
    // So would be those of another flag.
    let other: Vec<String> = keys.map(|key| value("another", &key)).collect();
    assert_ne!(first, other);
    let drawn: BTreeSet<String> = (0..64).map(|_| value("code_review", &json!(null))).collect();
    assert_eq!(drawn.len(), 2, "without a key each is drawn");
}

#[test]
fn keys_of_the_question_are_those_of_a_prediction() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let service = Setup::new(directory.path()).start();
    report(&service, "amy", "default", 1);
    report(&service, "ruby", "red", 1);
    let of = |context: Value| evaluate(&service, "code_review", &context).json();
    assert_eq!(of(json!({"tenant_id": "red"}))["value"], "ruby");
    assert_eq!(of(json!({"candidates": ["zoe"]}))["value"], "zoe");
    let named = of(json!({"decision_id": "mine"}));
    assert_eq!(named["metadata"]["decision_id"], "mine");
    assert_eq!(of(json!({"decision_id": "mine"})), named, "it is answered once");
    // Who is served is no decision.
    assert_ne!(of(json!({"targetingKey": "mine"}))["metadata"]["decision_id"], "mine");
}

#[test]
fn what_is_wrong_is_said_as_the_protocol_has_it() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let service = Setup::new(directory.path()).start();
    report(&service, "amy", "default", 1);
    let path = "/ofrep/v1/evaluate/flags/code_review";
    for (body, code, says) in [
        ("{", "PARSE_ERROR", "the body is not JSON"),
        ("", "PARSE_ERROR", "the body is not JSON"),
        ("{}", "INVALID_CONTEXT", "context is missing, allowed is an object"),
        ("[]", "INVALID_CONTEXT", "context is missing"),
        (r#"{"context": []}"#, "INVALID_CONTEXT", "context is an array"),
        (r#"{"context": {"targetingKey": 7}}"#, "INVALID_CONTEXT", "targetingKey is a number"),
        (r#"{"context": {"tenant_id": 7}}"#, "INVALID_CONTEXT", "tenant_id"),
        (r#"{"context": {"candidates": "amy"}}"#, "INVALID_CONTEXT", "candidates"),
    ] {
        let answer = service.post(path, "application/json", body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        let answer = answer.json();
        assert_eq!((&answer["key"], &answer["errorCode"]), (&json!("code_review"), &json!(code)));
        let detail = answer["errorDetails"].as_str().expect("it says why");
        assert!(detail.contains(says), "{body}: {detail}");
    }
    assert_eq!(service.get(path).status, 405);
    assert_eq!(service.post(path, "text/plain", "{}").status, 415);
}
