//! Choosing by more than success: objectives, constraints, and what a budget does.

use std::fmt::Write;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::harness::{Service, Setup};

const PREDICT: &str = "/api/learning/predict/agent-selection";
const DECISIONS: &str = "/api/learning/decisions";

/// Of 60 each: how many succeed, how long they take, what they cost.
const AGENTS: [(&str, u32, u32, f64); 3] =
    [("good", 54, 2_000, 0.05), ("hasty", 12, 50, 0.04), ("thrifty", 42, 3_000, 0.002)];

fn service() -> (TempDir, Setup, Service) {
    let directory = tempdir().expect("there is room");
    let setup = Setup::new(directory.path());
    let service = setup.start();
    let mut lines = String::new();
    for number in 0..60 {
        for (agent, successes, latency_ms, cost) in AGENTS {
            let status = if number % 10 < successes / 6 { "success" } else { "failure" };
            let event = json!({
                "event_id": format!("{agent}-{number}"), "agent_name": agent, "status": status,
                "task_type": "review", "latency_ms": latency_ms + number, "quality_score": 0.8,
                "cost_estimate": cost,
            });
            writeln!(lines, "{event}").expect("a string takes everything");
        }
    }
    service.learn(&lines);
    (directory, setup, service)
}

/// The answer to a question about a review.
#[track_caller]
fn ask(service: &Service, more: &Value) -> Value {
    let answer = service.post_json(PREDICT, &question(more));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn question(more: &Value) -> Value {
    let mut question = json!({"task_type": "review"});
    for (key, value) in more.as_object().expect("it is an object") {
        question[key] = value.clone();
    }
    question
}

/// What is kept of a decision. It is written at the latest with the next outcome.
fn decision(service: &Service, id: &str) -> Value {
    let outcome = json!({"agent_name": "other", "status": "success", "tenant_id": "other"});
    service.learn(&outcome.to_string());
    let answer = service.get(&format!("{DECISIONS}/{id}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn names(answer: &Value) -> Vec<&str> {
    let rows = answer["recommendations"].as_array().expect("there are some");
    rows.iter().map(|row| row["agent_name"].as_str().expect("it has a name")).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("it is an object").keys().map(String::as_str).collect()
}

#[test]
fn an_objective_rules_and_says_what_each_score_is_made_of() {
    let (_directory, setup, service) = service();
    let plain = ask(&service, &json!({"seed": 1}));
    assert_eq!(names(&plain)[0], "good");
    for absent in ["objective", "constraints", "on_infeasible", "feasible", "excluded", "budget"] {
        assert!(plain.get(absent).is_none(), "{absent}: {plain}");
    }
    assert!(plain["recommendations"][0].get("parts").is_none(), "{plain}");

    let fast = ask(&service, &json!({"objective": "fast", "decision_id": "d1", "seed": 1}));
    assert_eq!(names(&fast)[0], "hasty");
    let first = &fast["recommendations"][0];
    assert_eq!(keys(&first["parts"]), ["success", "latency"]);
    assert_eq!(first["propensity"], 1.0, "nobody else comes near: {fast}");
    let part = |name: &str| first["parts"][name].as_f64().expect("it is a number");
    let score = first["score"].as_f64().expect("it is a number");
    assert!((score - (part("success") + 3.0 * part("latency")) / 4.0).abs() < 1e-9, "{first}");
    assert_eq!(fast["objective"]["weights"]["latency"], 3.0);
    let scale = fast["objective"]["scales"]["latency_ms"].as_f64().expect("it was learned");
    assert!((1_000.0..2_500.0).contains(&scale), "the geometric mean of all: {scale}");

    // Weights of one's own, with scales of one's own; without a draw the parts are expected ones.
    let own = json!({
        "objective": {"weights": {"success": 1, "cost": 1}, "scales": {"cost": 0.002}},
        "explore": false,
    });
    let own = ask(&service, &own);
    assert_eq!(names(&own), ["thrifty", "good", "hasty"]);
    assert_eq!(own["objective"]["scales"], json!({"latency_ms": null, "cost": 0.002}));
    let cost = own["recommendations"][0]["parts"]["cost"].as_f64().expect("it is a number");
    assert!((cost - 0.5).abs() < 0.02, "{own}");
    // The other models take the same question.
    let more = question(&json!({"objective": "fast", "constraints": {"max_cost": 1}}));
    assert_eq!(service.post_json("/api/learning/predict/cost", &more).status, 200);

    // The same id is the same answer, over a restart too, and another objective is another question.
    let learned = json!({"agent_name": "good", "status": "success", "task_type": "review"});
    service.learn(&learned.to_string());
    service.stop();
    let service = setup.start();
    let again = json!({"objective": "fast", "decision_id": "d1", "seed": 1});
    assert_eq!(ask(&service, &again), fast);
    let other = question(&json!({"objective": "cheap", "decision_id": "d1", "seed": 1}));
    assert_eq!(service.post_json(PREDICT, &other).status, 409);
    let decision = decision(&service, "d1");
    assert_eq!(decision["chosen"], "hasty");
    assert_eq!(decision["objective"], fast["objective"]);
    assert_eq!(decision["parts"], first["parts"]);
    assert_eq!(decision["explain"]["parts"]["hasty"], first["parts"]);
    assert!(decision["explain"].get("limits").is_none(), "{decision}");
    service.stop();
}

#[test]
fn constraints_leave_out_who_does_not_meet_them_and_say_why() {
    let (_directory, _setup, service) = service();
    // Only where it is admissible the fast but bad agent is chosen.
    for (min_success, first) in [(0.05, "hasty"), (0.5, "good")] {
        let limits = json!({"min_success": min_success});
        let answer = ask(&service, &json!({"objective": "fast", "constraints": limits}));
        assert_eq!(names(&answer)[0], first, "{answer}");
        assert_eq!(answer["feasible"], true);
        assert_eq!(answer["on_infeasible"], "best_effort");
        assert_eq!(answer["on_unknown"], "auto");
        assert_eq!(answer["recommendations"][0]["limits"], json!({"min_success": "met"}));
        assert_eq!(answer["constraints"], json!({"min_success": min_success, "confidence": 0.8}));
    }
    let limits = json!({"max_cost": 0.02, "max_latency_ms": 10_000, "confidence": 0.9});
    let strict = json!({"constraints": limits, "decision_id": "d1", "on_infeasible": "error"});
    let answer = ask(&service, &strict);
    assert_eq!(names(&answer), ["thrifty"]);
    assert_eq!(answer["recommendations"][0]["propensity"], 1.0);
    let excluded = answer["excluded"].as_array().expect("some are out");
    let out: Vec<&str> =
        excluded.iter().map(|out| out["agent_name"].as_str().expect("it has a name")).collect();
    assert_eq!(out, ["good", "hasty"]);
    let reason = excluded[0]["reason"].as_str().expect("it is a text");
    assert!(
        reason.starts_with("max_cost: with a probability of 90 % an execution costs at most 0.05")
            && reason.ends_with(", allowed is 0.02"),
        "{reason}"
    );
    let decision = decision(&service, "d1");
    assert_eq!(decision["explain"]["limits"]["excluded"], answer["excluded"], "{decision}");
    assert_eq!(decision["constraints"]["max_cost"], 0.02);
    assert_eq!(keys(&decision["explain"]["agents"]), ["thrifty"]);
    // Of somebody new nothing speaks against it.
    let new = json!({"constraints": {"max_cost": 0.02}, "candidates": ["good", "new"]});
    let answer = ask(&service, &new);
    assert_eq!(names(&answer), ["new"]);
    assert_eq!(answer["recommendations"][0]["limits"], json!({"max_cost": "unknown"}));
    service.stop();
}

#[test]
fn what_becomes_of_an_agent_too_little_known_to_judge_is_asked_for() {
    let (_directory, _setup, service) = service();
    // One that has cost 9 on another task type, three times.
    let dear = json!({"agent_name": "dear", "status": "success", "task_type": "x", "cost": 9});
    for _ in 0..3 {
        service.learn(&dear.to_string());
    }
    let ask = |on_unknown: &str, more: Value| {
        let mut question = json!({"constraints": {"max_cost": 0.02}, "on_unknown": on_unknown,
                                  "candidates": ["good", "thrifty", "new", "dear"], "top_k": 9});
        for (key, value) in more.as_object().expect("it is an object") {
            question[key] = value.clone();
        }
        service.post_json(PREDICT, &self::question(&question))
    };
    for (on_unknown, admitted) in [
        ("admit", &["dear", "new", "thrifty"][..]),
        ("auto", &["new", "thrifty"]),
        ("exclude", &["thrifty"]),
    ] {
        let answer = ask(on_unknown, json!({"decision_id": on_unknown})).json();
        let mut names = names(&answer);
        names.sort_unstable();
        assert_eq!(names, admitted, "{on_unknown}: {answer}");
        assert_eq!(answer["on_unknown"], on_unknown);
        for row in answer["recommendations"].as_array().expect("there are some") {
            let verdict = if row["agent_name"] == "thrifty" { "met" } else { "unknown" };
            assert_eq!(row["limits"]["max_cost"], verdict, "{row}");
        }
    }
    let excluded = ask("exclude", json!({})).json()["excluded"].clone();
    let reason = "max_cost: unknown by 0 of the 5 values needed";
    let of = |name: &str| json!({"agent_name": name, "reason": reason});
    assert_eq!((&excluded[0], &excluded[2]), (&of("dear"), &of("new")), "{excluded}");
    // The same id with another choice is another question.
    assert_eq!(ask("auto", json!({"decision_id": "admit"})).status, 409);
    let kept = decision(&service, "exclude");
    assert_eq!(kept["on_unknown"], "exclude", "{kept}");
    let wrong = ask("maybe", json!({}));
    assert_eq!(wrong.json()["errors"][0]["pointer"], "/on_unknown", "{wrong:?}");
    // Nobody is left, and each says why.
    let limits = json!({"max_cost": 0.001});
    let answer =
        ask("exclude", json!({"constraints": limits, "candidates": ["good", "new"]})).json();
    assert_eq!(answer["feasible"], false, "{answer}");
    let new = answer["recommendations"].as_array().expect("both are ranked").iter();
    let new = new.clone().find(|row| row["agent_name"] == "new").expect("it is one of them");
    assert_eq!(
        (&new["violation"], &new["limits"]["max_cost"]),
        (&json!(reason), &json!("unknown"))
    );
    service.stop();
}

#[test]
fn when_nobody_meets_the_constraints_the_nearest_is_first_or_it_is_an_error() {
    let (_directory, _setup, service) = service();
    let limits = json!({"max_latency_ms": 10});
    let answer = ask(&service, &json!({"constraints": limits, "decision_id": "d1"}));
    assert_eq!(names(&answer), ["hasty", "good", "thrifty"]);
    assert_eq!((&answer["feasible"], &answer["excluded"]), (&json!(false), &json!([])));
    for row in answer["recommendations"].as_array().expect("there are three") {
        let violation = row["violation"].as_str().expect("each violates it");
        assert!(
            violation
                .starts_with("max_latency_ms: with a probability of 80 % an execution takes at"),
            "{row}"
        );
    }
    assert_eq!(decision(&service, "d1")["feasible"], false);

    let body = json!({"constraints": limits, "decision_id": "d2", "on_infeasible": "error"});
    let answer = service.post_json(PREDICT, &question(&body));
    assert_eq!(answer.status, 422, "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["errors"][0]["pointer"], "/constraints");
    let detail = problem["errors"][0]["detail"].as_str().expect("it is a text");
    assert!(detail.starts_with("no agent meets them: \"hasty\": max_latency_ms: "), "{detail}");
    assert_eq!(service.get(&format!("{DECISIONS}/d2")).status, 404, "nothing was decided");
    service.stop();
}

#[track_caller]
fn check_refused(service: &Service, more: &Value, pointer: &str, allowed: &str) {
    let answer = service.post_json(PREDICT, &question(more));
    assert_eq!(answer.status, 422, "{more}: {answer:?}");
    let problem = answer.json();
    assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    let detail = problem["errors"][0]["detail"].as_str().expect("it is a text");
    assert!(detail.contains(allowed), "{detail}");
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let directory = tempdir().expect("there is room");
    let service = Setup::new(directory.path()).start();
    let check = |more: Value, pointer: &str, allowed: &str| {
        check_refused(&service, &more, pointer, allowed);
    };
    let presets = "\"success\", \"balanced\", \"fast\", \"cheap\" or an object with weights";
    for objective in [json!("quick"), json!(3), json!(["fast"]), json!(true)] {
        check(json!({"objective": objective}), "/objective", presets);
    }
    check(json!({"objective": {}}), "/objective", "weights");
    let weights = |weights: Value| json!({"objective": {"weights": weights}});
    check(weights(json!({"speed": 1})), "/objective/weights/speed", "allowed are cost, latency,");
    check(weights(json!({"cost": -1})), "/objective/weights/cost", "a number from 0 to 1000000");
    check(weights(json!({"cost": "1"})), "/objective/weights/cost", "a number from 0 to 1000000");
    check(weights(json!({"cost": 0})), "/objective/weights", "a weight above 0");
    check(weights(json!({})), "/objective/weights", "a weight above 0");
    let scales = json!({"objective": {"weights": {"cost": 1}, "scales": {"cost": 0}}});
    check(scales, "/objective/scales/cost", "a number above 0");
    let limits = |limits: Value| json!({"constraints": limits});
    check(
        limits(json!({"max_latency": 3})),
        "/constraints/max_latency",
        "did you mean max_latency_ms?",
    );
    check(limits(json!({"min_success": 80})), "/constraints/min_success", "from 0 to 1");
    check(limits(json!({"max_cost": -0.1})), "/constraints/max_cost", "from 0 to 1000000000000");
    check(limits(json!({"confidence": 1})), "/constraints/confidence", "above 0 and below 1");
    check(limits(json!([])), "/constraints", "");
    check(json!({"on_infeasible": "ignore"}), "/on_infeasible", "best_effort");
    service.stop();
}

#[test]
fn a_budget_makes_cost_weigh_more_and_spent_to_the_end_the_cheapest_first() {
    const BUDGET: &str = "/api/learning/budgets/default";
    let (_directory, _setup, service) = service();
    // 60 of 0.092 were spent: 5.52.
    let set = |amount: f64| {
        let answer = service.put_json(BUDGET, &json!({"amount": amount, "period": "month"}));
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let weighted = json!({"objective": {"weights": {"success": 10, "cost": 1}}, "explore": false});
    assert!(ask(&service, &weighted).get("budget").is_none(), "there is none");
    assert_eq!(names(&ask(&service, &weighted))[0], "good");
    set(1e6);
    let answer = ask(&service, &weighted);
    assert_eq!((&answer["budget"]["cost_weight"], names(&answer)[0]), (&json!(1.0), "good"));

    // What was spent of the amount is far ahead of the time.
    let elapsed = service.get(BUDGET).json()["share_elapsed"].as_f64().expect("it is a number");
    set(5.6);
    let answer = ask(&service, &weighted);
    let weight = answer["budget"]["cost_weight"].as_f64().expect("it is a number");
    let expected = (5.52 / 5.6 / elapsed.max(0.01)).max(1.0);
    assert!((weight - expected).abs() < 0.02 * expected, "{weight}, {expected}");
    assert_eq!(answer["budget"]["exhausted"], false);
    // Success alone has no cost to weigh.
    let plain = ask(&service, &json!({"explore": false}));
    assert!(plain.get("budget").is_none() && names(&plain)[0] == "good", "{plain}");

    set(5.0);
    let answer = ask(&service, &json!({"decision_id": "d1"}));
    assert_eq!(names(&answer), ["thrifty", "hasty", "good"]);
    assert_eq!(
        (&answer["budget"]["exhausted"], &answer["recommendations"][0]["propensity"]),
        (&json!(true), &json!(1.0))
    );
    let decision = decision(&service, "d1");
    assert_eq!(decision["budget"]["exhausted"], true, "{decision}");
    assert!(decision.get("parts").is_none(), "none were asked for: {decision}");
    let able = ask(&service, &json!({"constraints": {"min_success": 0.75}}));
    assert_eq!(names(&able), ["good"], "the cheapest admissible one");
    assert_eq!(service.delete(BUDGET).status, 200);
    assert_eq!(names(&ask(&service, &json!({"explore": false})))[0], "good");
    service.stop();
}

#[test]
fn every_strategy_takes_objectives_and_limits() {
    let (directory, _setup, service) = service();
    service.stop();
    for strategy in ["beta", "moving_average", "exponential", "thompson"] {
        let service = Setup::new(directory.path()).with("MODEL_STRATEGY", strategy).start();
        let limits = json!({"max_cost": 1, "min_success": 0.5});
        let question = json!({"objective": "balanced", "constraints": limits, "top_k": 1});
        let answer = ask(&service, &question);
        assert_eq!(names(&answer).len(), 1);
        let excluded = answer["excluded"].as_array().expect("some are out");
        assert_eq!(excluded.len(), 1, "{strategy}: {answer}");
        assert_eq!(excluded[0]["agent_name"], "hasty", "{strategy}: {answer}");
        // Among the two that compete the first has the propensity that it has in a longer list.
        let mut question = question;
        (question["top_k"], question["explore"]) = (json!(3), json!(false));
        let all = ask(&service, &question);
        assert_eq!(names(&all).len(), 2, "{strategy}: {all}");
        let first = &all["recommendations"][0];
        assert_eq!(first["propensity"], 1.0, "{strategy}: {all}");
        assert!(first["score"].as_f64() >= all["recommendations"][1]["score"].as_f64());
        service.stop();
    }
}
