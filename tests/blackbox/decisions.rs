//! Answered selections: recorded, listed, repeated after a restart, joined with what came of them.

use std::sync::mpsc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Service, Setup, Wire, eventually};

const PREDICT: &str = "/api/learning/predict/agent-selection";
const OUTCOMES: &str = "/api/learning/outcomes";
const DECISIONS: &str = "/api/learning/decisions";
const ND_JSON: &str = "application/x-ndjson";

fn outcomes() -> String {
    let event = |agent: &str, is_success: bool| {
        let status = if is_success { "success" } else { "failure" };
        json!({"agent_name": agent, "task_type": "t", "status": status}).to_string()
    };
    let agents = [("amy", 9), ("bob", 6), ("cat", 2)];
    let events = agents.iter().flat_map(|(agent, successes)| {
        (0..10).map(move |number| event(agent, number < *successes))
    });
    events.collect::<Vec<String>>().join("\n")
}

fn metric(service: &Service, name: &str) -> Value {
    service.get("/api/learning/metrics").json()["decisions"][name].clone()
}

#[track_caller]
fn ask(service: &Service, request: &Value) -> Value {
    let answer = service.post_json(PREDICT, request);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Waits until a decision is recorded.
#[track_caller]
fn recorded(service: &Service, id: &str) -> Value {
    eventually(&format!("decision {id} is recorded"), || {
        let answer = service.get(&format!("{DECISIONS}/{id}"));
        (answer.status == 200).then(|| answer.json())
    })
}

/// Reports an outcome of a decision and waits until it is learned.
#[track_caller]
fn report(service: &Service, id: &str, agent: &str, status: &str) {
    let event = json!({"agent_name": agent, "status": status, "decision_id": id,
                       "latency_ms": 12, "quality_score": 0.5, "cost": 0.25});
    assert_eq!(service.learn(&event.to_string())["accepted"], 1);
}

fn listed(service: &Service, query: &str) -> (Vec<String>, Value) {
    let answer = service.get(&format!("{DECISIONS}{query}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let page = answer.json();
    let rows = page["decisions"].as_array().expect("it is a list").iter();
    let ids = rows.map(|row| row["decision_id"].as_str().expect("it is a string").to_owned());
    (ids.collect(), page["next_before"].clone())
}

#[test]
fn a_decision_is_recorded_with_what_it_was_made_of() {
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).start();
    service.learn(&outcomes());
    let request = json!({
        "task_type": "t", "context": {"size": 3, "deep": {"er": "x"}}, "top_k": 1,
        "exclude": ["cat"], "decision_id": "d/1", "seed": 3,
    });
    let answer = ask(&service, &request);
    assert_eq!(answer["recorded"], true);
    let row = recorded(&service, "d%2F1");
    let first = &answer["recommendations"][0];
    assert_eq!(row["answer"], answer);
    assert_eq!((&row["chosen"], &row["score"]), (&first["agent_name"], &first["score"]));
    for field in ["timestamp", "model_version", "strategy", "decision_id"] {
        assert_eq!(row[field], answer[field], "{field}");
    }
    assert_eq!(row["propensity"], first["propensity"]);
    assert_eq!((&row["tenant_id"], &row["task_type"]), (&json!("default"), &json!("t")));
    assert_eq!(row["context"], json!({"deep.er": "x", "size": 3.0}));
    assert_eq!((&row["explore"], &row["outcome"]), (&json!(true), &Value::Null));

    let candidates = row["candidates"].as_array().unwrap();
    let names: Vec<&Value> = candidates.iter().map(|row| &row["agent_name"]).collect();
    assert_eq!(names, ["amy", "bob"], "all who competed, and nobody else");
    let sum: f64 = candidates.iter().map(|row| row["propensity"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    let best = candidates.iter().max_by(|a, b| {
        a["expected_success"].as_f64().unwrap().total_cmp(&b["expected_success"].as_f64().unwrap())
    });
    assert_eq!(row["explored"], row["chosen"] != best.unwrap()["agent_name"]);
    for agent in ["amy", "bob"] {
        let explained = &row["explain"]["agents"][agent];
        assert!(explained["parts"].as_array().is_some_and(|parts| parts.len() > 2), "{explained}");
    }
    assert_eq!(row["explain"]["model_version"], 30);

    assert_eq!(service.get(&format!("{DECISIONS}/unknown")).status, 404);
    assert_eq!(service.get(&format!("{DECISIONS}/d%2F1?tenant_id=other")).status, 404);
}

#[test]
fn decisions_are_listed_in_pages_newest_first_by_tenant() {
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).start();
    for number in 0..7 {
        let tenant = if number == 3 { "other" } else { "default" };
        let id = format!("d{number}");
        ask(&service, &json!({"candidates": ["amy"], "decision_id": id, "tenant_id": tenant}));
    }
    recorded(&service, "d6");
    assert_eq!(listed(&service, "?tenant_id=other"), (vec!["d3".to_owned()], Value::Null));
    let (first, next) = listed(&service, "?limit=4");
    assert_eq!(
        (first.as_slice(), &next),
        (&["d6", "d5", "d4", "d2"].map(str::to_owned)[..], &json!("d2"))
    );
    assert_eq!(
        listed(&service, "?limit=4&before=d2"),
        (["d1", "d0"].map(str::to_owned).to_vec(), Value::Null)
    );
    assert_eq!(service.get(&format!("{DECISIONS}?before=unknown")).status, 404);
    assert_eq!(service.get(&format!("{DECISIONS}?limit=0")).status, 422);
}

#[test]
fn a_recorded_decision_is_repeated_and_resolved_after_a_kill() {
    let directory = TempDir::new().unwrap();
    let setup = Setup::new(directory.path());
    let service = setup.start();
    service.learn(&outcomes());
    let request = json!({"task_type": "decided", "context": {"a": 1}, "decision_id": "d"});
    let first = service.post_json(PREDICT, &request);
    let generated = ask(&service, &json!({"task_type": "t"}))["decision_id"].clone();
    let generated = generated.as_str().unwrap();
    recorded(&service, generated);
    service.kill();

    let service = setup.start();
    let again = service.post_json(PREDICT, &request);
    assert_eq!((again.status, &again.body), (200, &first.body));
    let by_its_id = json!({"task_type": "t", "decision_id": generated});
    assert_eq!(ask(&service, &by_its_id)["decision_id"], generated);
    let other = json!({"task_type": "another", "context": {"a": 1}, "decision_id": "d"});
    assert_eq!(service.post_json(PREDICT, &other).status, 409);
    let written_otherwise =
        json!({"decision_id": "d", "context": {"a": 1.0}, "top_k": 3, "task_type": "decided"});
    assert_eq!(
        service.post_json(PREDICT, &written_otherwise).body,
        first.body,
        "the same question"
    );

    report(&service, "d", "amy", "success");
    let performance = service.get("/api/learning/agents/performance?task_type=decided").json();
    assert_eq!(performance[0]["agent_name"], "amy", "it is learned with the decision's task type");
    assert_eq!(metric(&service, "recorded"), 2);
}

#[test]
fn an_outcome_is_joined_once_whichever_comes_first_and_whatever_crashes() {
    let directory = TempDir::new().unwrap();
    let setup = Setup::new(directory.path()).with("MODEL_BATCH_TIMEOUT", 3600);
    let mut service = setup.start();
    let decide = |service: &Service, id: &str| {
        let request = json!({"candidates": ["amy", "bob"], "decision_id": id});
        let first = &ask(service, &request)["recommendations"][0]["agent_name"];
        first.as_str().unwrap().to_owned()
    };
    // At once, while the decision may not be in the database yet; another agent's before it.
    let chosen = decide(&service, "at once");
    let other = if chosen == "amy" { "bob" } else { "amy" };
    report(&service, "at once", other, "success");
    report(&service, "at once", &chosen, "partial");
    report(&service, "at once", &chosen, "success");
    let outcome = recorded(&service, "at%20once")["outcome"].clone();
    assert_eq!((&outcome["status"], &outcome["reward"]), (&json!("partial"), &json!(0.5)));
    assert_eq!((&outcome["latency_ms"], &outcome["cost"]), (&json!(12.0), &json!(0.25)));
    assert_eq!((&outcome["quality_score"], &outcome["journal_sequence"]), (&json!(0.5), &json!(2)));

    // Only what is acknowledged and not learned yet when the power goes.
    let chosen = decide(&service, "crash");
    recorded(&service, "crash");
    let event = json!({"agent_name": chosen, "status": "failure", "decision_id": "crash"});
    assert_eq!(service.post_json(OUTCOMES, &event).status, 202);
    service.kill();
    service = setup.start();
    assert_eq!(recorded(&service, "crash")["outcome"]["reward"], 0.0);
    assert_eq!(service.post_json(OUTCOMES, &event).json()["duplicates"], 1);

    // Before the decision, which is asked for after a crash.
    for agent in ["amy", "bob"] {
        report(&service, "early", agent, "success");
    }
    service.kill();
    service = setup.start();
    let chosen = decide(&service, "early");
    let row = recorded(&service, "early");
    let sequence = if chosen == "amy" { 5 } else { 6 };
    assert_eq!(row["outcome"]["journal_sequence"], sequence);
    let rows = service.get("/api/learning/agents/performance").json();
    let executions: u64 =
        rows.as_array().unwrap().iter().map(|row| row["total_executions"].as_u64().unwrap()).sum();
    assert_eq!(executions, 6, "what is not joined is learned as well");
    assert_eq!(metric(&service, "with_outcome"), 3);
    service.stop();
}

#[test]
fn orphans_are_decisions_that_waited_too_long() {
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).with("DECISION_WAIT", 0).start();
    ask(&service, &json!({"decision_id": "nobody"}));
    ask(&service, &json!({"candidates": ["amy"], "decision_id": "joined"}));
    ask(&service, &json!({"candidates": ["amy"], "decision_id": "orphan"}));
    report(&service, "joined", "amy", "success");
    recorded(&service, "orphan");
    eventually("one is an orphan", || (metric(&service, "orphaned") == 1).then_some(()));
    report(&service, "orphan", "amy", "success");
    assert_eq!(metric(&service, "orphaned"), 0);

    let patient = TempDir::new().unwrap();
    let service = Setup::new(patient.path()).start();
    ask(&service, &json!({"candidates": ["amy"], "decision_id": "d"}));
    recorded(&service, "d");
    assert_eq!(metric(&service, "orphaned"), 0, "ten minutes have not passed");
}

#[test]
fn a_prediction_is_answered_while_nothing_can_be_recorded() {
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).with("QUEUE_CAPACITY", 1).start();
    service.learn(&outcomes());
    let database = directory.path().join("online-learning.db");
    let other = rusqlite::Connection::open(database).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut unrecorded = Vec::new();
    let mut answered = 0;
    while unrecorded.is_empty() {
        let answer =
            ask(&service, &json!({"task_type": "t", "decision_id": format!("d{answered}")}));
        assert_eq!(answer["recommendations"][0]["rank"], 1);
        if answer["recorded"] == false {
            unrecorded.push(answer);
        }
        answered += 1;
        assert!(answered < 1_000, "the bound is never reached");
    }
    let id = unrecorded[0]["decision_id"].as_str().unwrap();
    let again = ask(&service, &json!({"task_type": "t", "decision_id": id}));
    assert_eq!(again, unrecorded[0], "it is remembered all the same");
    other.execute_batch("ROLLBACK").unwrap();
    eventually("the others are recorded", || {
        (metric(&service, "recorded") == answered - 1).then_some(())
    });
    assert_eq!(metric(&service, "unrecorded"), 1);
    assert_eq!(service.get(&format!("{DECISIONS}/{id}")).status, 404);
    service.kill();

    let nothing = TempDir::new().unwrap();
    let service = Setup::new(nothing.path()).with("DECISIONS_MAX", 0).start();
    assert_eq!(ask(&service, &json!({}))["recorded"], false);
}

/// More than memory holds: what was asked before is answered as it was, and its outcome is learned as
/// what it is of, while another tenant's questions take nothing away.
#[test]
fn a_decision_stands_however_many_were_made_since() {
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).start();
    let request = json!({"task_type": "t", "candidates": ["amy"], "decision_id": "job-1"});
    let answer = ask(&service, &request);
    report(&service, "job-1", "amy", "success");
    recorded(&service, "job-1");
    let waits = json!({"task_type": "t", "candidates": ["amy"], "tenant_id": "other"});
    let waits = ask(&service, &waits)["decision_id"].clone();
    let mut wire = Wire::open(service.address).unwrap();
    let question = r#"{"candidates":["bob"]}"#;
    for _ in 0..10_100 {
        wire.send(format!(
            "POST {PREDICT} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{question}",
            service.address,
            question.len()
        ))
        .unwrap();
        assert_eq!(wire.answer().unwrap().status, 200);
    }
    assert_eq!(ask(&service, &request), answer);
    let other = json!({"task_type": "u", "candidates": ["amy"], "decision_id": "job-1"});
    let refused = service.post_json(PREDICT, &other);
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(recorded(&service, "job-1")["outcome"]["status"], "success");

    let late = json!({"agent_name": "amy", "status": "failure", "decision_id": waits,
                      "tenant_id": "other"});
    assert_eq!(service.learn(&late.to_string())["accepted"], 1);
    let rows = service.get("/api/learning/agents/performance?task_type=t&tenant_id=other").json();
    assert_eq!(rows[0]["samples"], 1, "{rows}");
    assert_eq!(metric(&service, "unresolved"), 0);
    let unknown = json!({"agent_name": "amy", "status": "failure", "decision_id": "nobody's"});
    service.learn(&unknown.to_string());
    assert_eq!(metric(&service, "unresolved"), 1);
    let status = service.get("/api/learning/status").json();
    assert_eq!(status["decisions_unresolved"], 1);
}

#[test]
fn the_oldest_decisions_go() {
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).with("DECISIONS_MAX", 3).start();
    for number in 0..8 {
        ask(&service, &json!({"candidates": ["amy"], "decision_id": format!("d{number}")}));
    }
    eventually("all are recorded", || (metric(&service, "recorded") == 8).then_some(()));
    assert_eq!(listed(&service, "").0, ["d7", "d6", "d5"]);
}

/// A thousand decisions under fire: what the service said of each holds after the power goes.
#[test]
fn after_a_kill_every_acknowledged_outcome_is_joined_with_its_recorded_decision() {
    let directory = TempDir::new().unwrap();
    let setup = Setup::new(directory.path()).with("MODEL_BATCH_SIZE", 7);
    let mut service = setup.start();
    let mut kept = Vec::new();
    let (sender, acknowledged) = mpsc::channel();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (service, sender) = (&service, sender.clone());
            scope.spawn(move || {
                for number in 0.. {
                    let id = format!("{thread}-{number}");
                    let request = json!({"candidates": ["amy", "bob"], "decision_id": id});
                    let Ok(answer) =
                        service.try_post(PREDICT, "application/json", request.to_string())
                    else {
                        return;
                    };
                    let answer: Value = serde_json::from_str(&answer.body).unwrap();
                    let agent = answer["recommendations"][0]["agent_name"].clone();
                    let event =
                        json!({"agent_name": agent, "status": "success", "decision_id": id});
                    match service.try_post(OUTCOMES, ND_JSON, event.to_string()) {
                        Ok(taken) if taken.status == 202 => sender.send((id, agent)).unwrap(),
                        _ => return,
                    }
                }
            });
        }
        drop(sender);
        kept.extend(acknowledged.iter().take(1_000));
        service.signal("KILL");
        kept.extend(acknowledged);
    });
    service.wait();

    let service = setup.start();
    for (id, agent) in &kept {
        let row = service.get(&format!("{DECISIONS}/{id}"));
        assert_eq!(row.status, 200, "{id}: its outcome was acknowledged after it");
        let row = row.json();
        assert_eq!((&row["chosen"], &row["outcome"]["status"]), (agent, &json!("success")));
    }
    let with_outcome = metric(&service, "with_outcome").as_u64().unwrap();
    // Of each thread one may have been durable that was not acknowledged any more.
    assert!((kept.len() as u64..=kept.len() as u64 + 4).contains(&with_outcome));
    let (listed, _) = listed(&service, "?limit=1000");
    assert_eq!(listed.len(), 1_000);
}

#[test]
fn predictions_are_judged_before_they_are_learned_from() {
    let directory = TempDir::new().unwrap();
    let setup = Setup::new(directory.path()).with("MODEL_STRATEGY", "beta");
    let service = setup.start();
    let nothing = service.get("/api/learning/metrics").json();
    assert!(nothing["prediction_accuracy"].is_null() && nothing["log_loss"].is_null());
    // Foretold are 1/2, 2/3 and 3/4.
    service.learn(
        "{\"agent_name\": \"amy\", \"status\": \"success\"}\n\
         {\"agent_name\": \"amy\", \"status\": \"success\"}\n\
         {\"agent_name\": \"amy\", \"status\": \"failure\"}\n\
         {\"agent_name\": \"amy\", \"status\": \"cancelled\"}\n",
    );
    let check = |service: &Service| {
        let metrics = service.get("/api/learning/metrics").json();
        let brier = (0.25 + 1.0 / 9.0 + 9.0 / 16.0) / 3.0;
        let log_loss = (2.0_f64.ln() + 1.5_f64.ln() + 4.0_f64.ln()) / 3.0;
        let close = |seen: &Value, expected: f64| {
            assert!((seen.as_f64().unwrap() - expected).abs() < 1e-12, "{seen}, {expected}");
        };
        close(&metrics["prediction_accuracy"], 1.0 - brier);
        close(&metrics["log_loss"], log_loss);
        let bins = metrics["calibration"].as_array().unwrap();
        assert_eq!(bins.len(), 10);
        let counts: Vec<u64> = bins.iter().map(|bin| bin["count"].as_u64().unwrap()).collect();
        assert_eq!(counts, [0, 0, 0, 0, 0, 1, 1, 1, 0, 0]);
        close(&bins[6]["mean_predicted"], 2.0 / 3.0);
        assert_eq!(bins[7]["mean_observed"], 0.0);
        assert!(bins[0]["mean_predicted"].is_null());
    };
    check(&service);
    service.kill();
    check(&setup.start());
}

#[test]
fn the_share_of_explored_decisions_is_that_of_their_rows() {
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).start();
    let one_each = ["amy", "bob", "cat"]
        .map(|agent| format!("{{\"agent_name\": \"{agent}\", \"status\": \"success\"}}\n"));
    service.learn(&one_each.concat());
    for seed in 0..200 {
        ask(&service, &json!({"seed": seed}));
    }
    let answer = ask(&service, &json!({"explore": false, "top_k": 3}));
    let propensities: Vec<&Value> = answer["recommendations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["propensity"])
        .collect();
    assert_eq!(propensities, [&json!(1.0), &json!(0.0), &json!(0.0)]);
    recorded(&service, answer["decision_id"].as_str().unwrap());
    let page = service.get(&format!("{DECISIONS}?limit=1000")).json();
    let rows = page["decisions"].as_array().unwrap();
    assert_eq!(rows.len(), 201);
    assert_eq!((&rows[0]["explore"], &rows[0]["explored"]), (&json!(false), &json!(false)));
    assert_eq!(rows[0]["candidates"][0]["propensity"], 1.0);
    let explored = rows.iter().filter(|row| row["explored"] == true).count();
    assert!((1..200).contains(&explored), "{explored}");
    assert_eq!(metric(&service, "explored"), explored);
    let share = metric(&service, "explored_share").as_f64().unwrap();
    assert!((share - f64::from(u32::try_from(explored).unwrap()) / 201.0).abs() < 1e-12);
}
