//! Agents that are chosen and never report: they are told of, and, where that is asked for, learned of.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Service, Setup, eventually, verify};

const PREDICT: &str = "/api/learning/predict/agent-selection";

/// Asks for one of these agents; who is first reports a success, unless it is mute.
fn decide(service: &Service, id: &str, candidates: &[&str]) -> String {
    let request = json!({"task_type": "t", "candidates": candidates, "decision_id": id});
    let answer = service.post_json(PREDICT, &request).json();
    let agent = answer["recommendations"][0]["agent_name"].as_str().expect("there is one");
    if agent != "mute" {
        report(service, id, agent, "success");
    }
    agent.to_owned()
}

fn report(service: &Service, id: &str, agent: &str, status: &str) {
    let event = json!({"agent_name": agent, "status": status, "decision_id": id});
    let answer = service.post_json("/api/learning/outcomes?wait=true", &event);
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn row(service: &Service, agent: &str) -> Option<Value> {
    let rows = service.get("/api/learning/agents/performance").json();
    rows.as_array().expect("it is a list").iter().find(|row| row["agent_name"] == agent).cloned()
}

fn decisions(service: &Service) -> Value {
    service.get("/api/learning/metrics").json()["decisions"].clone()
}

#[test]
fn an_agent_that_never_reports_is_told_of() {
    let directory = TempDir::new().unwrap();
    let setup = Setup::new(directory.path()).with("DECISION_WAIT", 0).with("ALERT_INTERVAL", 0.1);
    let service = setup.start();
    for number in 0..20 {
        decide(&service, &format!("a{number}"), &["amy"]);
        decide(&service, &format!("m{number}"), &["mute"]);
    }
    let alert = eventually("the alert fires", || {
        let alerts = service.get("/api/learning/alerts?status=firing").json();
        let alerts = alerts["alerts"].as_array()?.clone();
        alerts.into_iter().find(|alert| alert["rule"] == "agent_silent")
    });
    assert_eq!((&alert["agent_name"], &alert["tenant_id"]), (&json!("mute"), &json!("default")));
    let seen = eventually("all are recorded, and who never reported is shown", || {
        row(&service, "mute").filter(|row| row["decisions"] == 20)
    });
    let of = |field: &str| seen[field].as_u64();
    assert_eq!(of("decisions_missing"), Some(20), "{seen}");
    assert_eq!((of("samples"), of("total_executions")), (Some(0), Some(0)), "{seen}");
    let amy = row(&service, "amy").unwrap();
    assert_eq!((&amy["decisions"], &amy["decisions_missing"]), (&json!(20), &json!(0)), "{amy}");
    let metrics = service.get("/metrics").body;
    let line = "online_learning_agent_missing_outcomes_ratio{agent=\"mute\",tenant=\"default\"} 1";
    assert!(metrics.contains(line), "{metrics}");

    // A cancelled task is reported, although nothing is learned from it.
    report(&service, "m0", "mute", "cancelled");
    let seen = row(&service, "mute").unwrap();
    assert_eq!((&seen["decisions"], &seen["decisions_missing"]), (&json!(20), &json!(19)));
    // Once it reports, that has passed.
    for number in 1..20 {
        report(&service, &format!("m{number}"), "mute", "failure");
    }
    eventually("the alert passes", || {
        let alerts = service.get("/api/learning/alerts?status=resolved").json();
        let alerts = alerts["alerts"].as_array()?.clone();
        alerts.into_iter().find(|alert| alert["rule"] == "agent_silent")
    });
    assert_eq!(decisions(&service)["missing"], 0, "nothing was given up");
    service.stop();
}

#[test]
fn a_decision_that_is_given_up_is_a_failure_and_what_comes_late_is_kept() {
    let directory = TempDir::new().unwrap();
    let setup =
        Setup::new(directory.path()).with("DECISION_WAIT", 1).with("DECISION_MISSING", "failure");
    let service = setup.start();
    decide(&service, "a", &["amy"]);
    decide(&service, "m", &["mute"]);
    eventually("it is given up", || (decisions(&service)["missing"] == 1).then_some(()));
    let given_up = service.get("/api/learning/decisions/m").json();
    assert_eq!(given_up["outcome"]["status"], "missing", "{given_up}");
    assert_eq!((&given_up["outcome"]["reward"], given_up.get("late")), (&json!(0.0), None));
    let mute = row(&service, "mute").unwrap();
    assert_eq!((&mute["samples"], &mute["success_rate"]), (&json!(1), &json!(0.0)), "{mute}");
    assert_eq!(mute["decisions_missing"], 1);

    report(&service, "m", "mute", "success");
    let late = service.get("/api/learning/decisions/m").json();
    assert_eq!(late["outcome"]["status"], "missing", "{late}");
    assert_eq!(
        (&late["late"]["status"], &late["late"]["reward"]),
        (&json!("success"), &json!(1.0))
    );
    let mute = row(&service, "mute").unwrap();
    assert_eq!((&mute["samples"], &mute["success_rate"]), (&json!(1), &json!(0.0)), "not learned");
    let counts = decisions(&service);
    assert_eq!((&counts["missing"], &counts["late"]), (&json!(1), &json!(1)), "{counts}");
    let metrics = service.get("/metrics").body;
    for line in
        ["online_learning_decisions_missing_total 1", "online_learning_decisions_late_total 1"]
    {
        assert!(metrics.contains(line), "{metrics}");
    }
    let digest = |service: &Service| {
        service.get("/api/learning/models/agent_selection").json()["digest"].clone()
    };
    let before = digest(&service);
    service.kill();
    let service = setup.start();
    assert_eq!(digest(&service), before, "the journal says the same");
    verify(directory.path());
    service.stop();
    verify(directory.path());
}
