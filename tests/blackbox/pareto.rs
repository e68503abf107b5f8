//! Who is worth choosing, whatever one wants most.

use std::fmt::Write;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::harness::{Service, Setup};

fn pareto(service: &Service, query: &str) -> Value {
    let answer = service.get(&format!("/api/learning/agents/pareto{query}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("it is a list");
    list.iter().map(|agent| agent["agent_name"].as_str().expect("it has a name")).collect()
}

#[test]
fn agents_that_are_beaten_in_everything_name_who_beats_them() {
    let directory = tempdir().expect("there is room");
    let service = Setup::new(directory.path()).start();
    let nobody = pareto(&service, "");
    assert_eq!((&nobody["pareto"], &nobody["dominated"]), (&json!([]), &json!([])));

    // Of 40 each: how many succeed, how long they take, what they cost.
    let agents = [
        ("good", 36, 2_000, 0.5),
        ("quick", 20, 100, 0.25),
        ("cheap", 20, 1_000, 0.01),
        ("bad", 8, 4_000, 1.0),
    ];
    let mut lines = String::new();
    for (agent, successes, latency_ms, cost) in agents {
        for number in 0..40 {
            let status = if number % 10 < successes / 4 { "success" } else { "failure" };
            let event = json!({
                "event_id": format!("{agent}-{number}"), "agent_name": agent, "status": status,
                "task_type": "review", "latency_ms": latency_ms + number, "cost": cost,
            });
            writeln!(lines, "{event}").expect("a string takes everything");
        }
    }
    service.learn(&lines);
    for query in ["", "?task_type=review", "?task_type=unheard_of"] {
        let found = pareto(&service, query);
        let mut front = names(&found["pareto"]);
        assert_eq!(front.remove(0), "good", "the most success first: {found}");
        front.sort_unstable();
        assert_eq!(front, ["cheap", "quick"], "{found}");
        assert_eq!(names(&found["dominated"]), ["bad"], "{found}");
        assert_eq!(found["dominated"][0]["dominated_by"], "good", "{found}");
    }
    let found = pareto(&service, "?task_type=review");
    let good = &found["pareto"][0];
    assert_eq!((&good["samples"], &good["evidence"]), (&json!(40), &json!("established")));
    let near = |name: &str, expected: f64| {
        let value = good[name].as_f64().unwrap_or_else(|| panic!("{name}: {good}"));
        assert!((value / expected - 1.0).abs() < 0.1, "{name}: {good}");
    };
    let success = good["success"].as_f64().expect("it is a number");
    assert!((0.7..1.0).contains(&success), "{good}");
    near("latency_ms", 2_018.0);
    near("cost", 0.5);
    assert_eq!(service.get("/api/learning/agents/pareto?task_type=").status, 422);
    service.stop();
}

#[test]
fn what_is_believed_of_a_few_more_outcomes_makes_nobody_better() {
    let directory = tempdir().expect("there is room");
    let service = Setup::new(directory.path()).start();
    let mut lines = String::new();
    for number in 0..41 {
        let good = json!({"agent_name": "good", "status": "success", "cost": 0.01});
        let status = if number % 2 == 0 { "success" } else { "failure" };
        let bad = json!({"agent_name": "bad", "status": status, "cost": 0.01});
        let events = if number < 40 { vec![good, bad] } else { vec![good] };
        for event in events {
            writeln!(lines, "{event}").expect("a string takes everything");
        }
    }
    service.learn(&lines);
    let found = pareto(&service, "");
    assert_eq!((names(&found["pareto"]), names(&found["dominated"])), (vec!["good"], vec!["bad"]));
    let [good, bad] =
        ["pareto", "dominated"].map(|list| found[list][0]["cost"].as_f64().expect("a number"));
    assert!((good - bad).abs() < 1e-6, "{found}");
    service.stop();
}
