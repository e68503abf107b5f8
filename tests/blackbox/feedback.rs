//! Verdicts over HTTP: what was missing is added, once, and never revised.

use serde_json::{Value, json};

use crate::harness::{Service, Setup, eventually};

const FEEDBACK: &str = "/api/learning/feedback";
const OUTCOMES: &str = "/api/learning/outcomes";

fn counts(body: &Value) -> [u64; 5] {
    ["accepted", "waiting", "duplicates", "ignored", "rejected_total"]
        .map(|field| body[field].as_u64().unwrap_or_else(|| panic!("{field} in {body}")))
}

#[track_caller]
fn judged(service: &Service, body: &Value) -> (u16, [u64; 5]) {
    let answer = service.post_json(FEEDBACK, body);
    (answer.status, counts(&answer.json()))
}

#[test]
fn one_verdict_several_and_lines_are_taken_and_say_what_became_of_them() {
    let home = tempfile::tempdir().expect("a directory");
    let setup = Setup::new(home.path()).with("OTLP_QUALITY", "relevance");
    let service = setup.start();
    let event = |id: &str| json!({"agent_name": "a", "status": "success", "event_id": id});
    service.post_json(OUTCOMES, &json!([event("1"), event("2"), event("3")]));
    let quality = |id: &str, quality: f64| json!({"event_id": id, "quality_score": quality});
    assert_eq!(judged(&service, &quality("1", 0.5)), (200, [1, 0, 0, 0, 0]));
    assert_eq!(judged(&service, &quality("1", 0.5)), (200, [0, 0, 1, 0, 0]));
    let conflict = service.post_json(FEEDBACK, &quality("1", 0.75));
    assert_eq!(conflict.status, 409);
    assert_eq!(conflict.json()["detail"], "quality_score is 0.75, known is 0.5 already");
    let wrong = service.post_json(FEEDBACK, &json!({"quality_score": 0.5}));
    assert_eq!(wrong.status, 422, "{}", wrong.body);
    assert_eq!(service.post(FEEDBACK, "application/json", "{").status, 400);
    assert_eq!(service.post(FEEDBACK, "text/plain", "{}").status, 415);

    let several = json!([
        quality("2", 0.25),
        quality("not yet", 1.0),
        quality("1", 0.75),
        {"event_id": "3", "name": "relevance", "score": 0.5},
        {"event_id": "3", "name": "tone", "score": 0.5},
    ]);
    let answer = service.post_json(FEEDBACK, &several);
    assert_eq!((answer.status, counts(&answer.json())), (202, [2, 1, 0, 1, 1]));
    assert_eq!(answer.json()["rejected"][0]["index"], 2);
    assert_eq!(answer.json()["rejected"][0]["code"], "conflict");
    let lines = format!("{}\n\n{}\n", quality("2", 0.25), quality("3", 0.5));
    let answer = service.post(FEEDBACK, "application/x-ndjson", lines);
    assert_eq!((answer.status, counts(&answer.json())), (200, [0, 0, 2, 0, 0]));
    let nothing = service.post_json(FEEDBACK, &json!([quality("1", 0.75)]));
    assert_eq!(nothing.status, 422, "{}", nothing.body);

    // Its execution comes after a kill.
    service.kill();
    let service = setup.start();
    service.post_json(OUTCOMES, &event("not yet"));
    let question = json!({"candidates": ["a"]});
    eventually("it is learned", || {
        let body = service.post_json("/api/learning/predict/quality", &question).json();
        (body["predictions"][0]["samples"] == 4).then_some(())
    });
}

#[test]
fn a_pending_execution_is_judged_by_its_decision() {
    let home = tempfile::tempdir().expect("a directory");
    let service = Setup::new(home.path()).start();
    let question = json!({"candidates": ["a"], "decision_id": "d"});
    service.post_json("/api/learning/predict/agent-selection", &question);
    let pending = json!({"agent_name": "a", "status": "pending", "decision_id": "d"});
    assert_eq!(service.post_json(OUTCOMES, &pending).json()["accepted"], 1);
    let verdict = json!({"decision_id": "d", "status": "partial", "quality_score": 0.75});
    assert_eq!(judged(&service, &verdict), (200, [1, 0, 0, 0, 0]));
    let row = service.get("/api/learning/decisions/d").json();
    assert_eq!(
        (&row["outcome"]["status"], &row["outcome"]["reward"]),
        (&json!("partial"), &json!(0.75))
    );
    let rows = service.get("/api/learning/agents/performance").json();
    assert_eq!(
        (&rows[0]["total_executions"], &rows[0]["statuses"]["pending"]),
        (&json!(1), &json!(0))
    );
}
