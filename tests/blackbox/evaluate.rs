//! What another policy would have earned: over HTTP, and on the directory beside the service.

use std::path::Path;
use std::process::Output;
use std::sync::Mutex;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Answer, Service, Setup, eventually, program};

const PREDICT: &str = "/api/learning/predict/agent-selection";
const EVALUATE: &str = "/api/learning/evaluate";

/// The next number of a fixed stream, below 1.
fn next(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    f64::from(u32::try_from(*state >> 33).expect("31 bits are left")) / f64::from(1_u32 << 31)
}

/// Asks and reports `count` times: amy succeeds in 70 %, bob in 60 %, cat in 50 %.
fn live(service: &Service, count: u64, fields: &Value) {
    let mut state = count;
    for seed in 0..count {
        let mut request = json!({
            "task_type": "t", "candidates": ["amy", "bob", "cat"], "seed": seed,
            "context": {"large": seed % 3 == 0},
        });
        for (field, value) in fields.as_object().expect("it is an object") {
            request[field] = value.clone();
        }
        let answer = service.post_json(PREDICT, &request).json();
        let agent =
            answer["recommendations"][0]["agent_name"].as_str().expect("there is a candidate");
        let chance = match agent {
            "amy" => 0.7,
            "bob" => 0.6,
            _ => 0.5,
        };
        let status = if next(&mut state) < chance { "success" } else { "failure" };
        let event = json!({"agent_name": agent, "status": status, "decision_id": answer["decision_id"],
                   "tenant_id": fields.get("tenant_id")});
        // The last of ten waits until all are learned, so that the model goes on.
        let path = if seed % 10 == 9 {
            "/api/learning/outcomes?wait=true"
        } else {
            "/api/learning/outcomes"
        };
        assert!(service.post_json(path, &event).status < 300);
    }
    service.learn("");
}

fn evaluate(service: &Service, request: &Value) -> Answer {
    service.post_json(EVALUATE, request)
}

#[track_caller]
fn report(service: &Service, policy: &str) -> Value {
    let answer = evaluate(service, &json!({"policy": policy, "max_left_out": 1}));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Runs `evaluate`, on the directory or at the address that `settings` name.
fn run(arguments: &[&str], directory: &Path) -> Output {
    let mut command = program();
    command.arg("evaluate").args(arguments).env("MODEL_STORAGE_PATH", directory);
    command.output().expect("the program can be run")
}

#[track_caller]
fn printed(arguments: &[&str], directory: &Path) -> Value {
    let output = run(arguments, directory);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

#[test]
fn every_policy_is_evaluated_alike_over_http_and_beside_the_service() {
    let directory = TempDir::new().unwrap();
    let setup = Setup::new(directory.path());
    let service = setup.start();
    live(&service, 200, &json!({}));
    let saved = service.post("/api/learning/models/save", "application/json", "").json();
    live(&service, 100, &json!({}));
    // One whose outcome is accepted and not learned yet does not count.
    let answer = service.post_json(PREDICT, &json!({"candidates": ["amy"]})).json();
    let event =
        json!({"agent_name": "amy", "status": "success", "decision_id": answer["decision_id"]});
    assert_eq!(service.post_json("/api/learning/outcomes", &event).status, 202);

    let version = format!("version:{}", saved["version_id"].as_str().unwrap());
    for policy in ["greedy", "thompson", "agent:bob", version.as_str()] {
        let seen = report(&service, policy);
        assert_eq!((&seen["policy"], &seen["tenant_id"]), (&json!(policy), &json!("default")));
        let count = |field: &str| seen[field].as_u64().unwrap();
        assert_eq!(count("decisions") + count("left_out"), 300, "{seen}");
        let shares = seen["left_out_reasons"].as_object().unwrap().values();
        let left_out: f64 = shares.map(|share| share.as_f64().unwrap()).sum();
        assert!((seen["left_out_share"].as_f64().unwrap() - left_out).abs() < 1e-9, "{seen}");
        let rows = seen["agents"].as_array().unwrap().iter();
        let chosen: u64 = rows.map(|row| row["decisions"].as_u64().unwrap()).sum();
        assert_eq!((chosen, &seen["warnings"]), (300, &json!([])), "{seen}");
        let sample = seen["effective_sample_size"].as_f64().unwrap();
        assert!(sample > 1.0 && sample <= 300.0, "{seen}");
        let mut names: Vec<&str> =
            seen["estimates"].as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["dm", "dr", "ips", "snips"]);
        for estimate in seen["estimates"].as_object().unwrap().values().chain([&seen["logged"]]) {
            let (low, high) = (&estimate["interval"][0], &estimate["interval"][1]);
            let (low, high) = (low.as_f64().unwrap(), high.as_f64().unwrap());
            let value = estimate["value"].as_f64().unwrap();
            assert!(low <= value && value <= high && low > -1.0 && high < 2.0, "{seen}");
            let held = if estimate == &seen["logged"] { 0.0 } else { left_out };
            assert!(high - low >= held - 1e-9, "all are held, whatever they earned: {seen}");
            let judged = &estimate["judged_interval"];
            let width = judged[1].as_f64().unwrap() - judged[0].as_f64().unwrap();
            assert!(width > 0.0 && width <= high - low + 1e-9, "{seen}");
        }
        // Nobody is judged by outcomes that it has learned from.
        match policy {
            "agent:bob" | "greedy" | "thompson" => assert_eq!(count("in_sample"), 0),
            _ => assert_eq!(count("in_sample"), 200, "{seen}"),
        }
        if policy == "thompson" {
            let (value, logged) = (&seen["estimates"]["snips"]["value"], &seen["logged"]["value"]);
            let difference = value.as_f64().unwrap() - logged.as_f64().unwrap();
            assert!(difference.abs() < 1e-6 && left_out < 1e-9, "it is what was done: {seen}");
        }

        let url = service.url("");
        let beside = ["--policy", policy, "--format", "json", "--max-left-out", "1"];
        assert_eq!(printed(&beside, directory.path()), seen, "on the directory");
        let over_http =
            ["--policy", policy, "--format", "json", "--max-left-out", "1", "--url", &url];
        assert_eq!(printed(&over_http, Path::new("/nowhere")), seen, "over HTTP");
    }
    // A version is judged by what came after it, and by the rest only when that is asked for.
    let answer = evaluate(&service, &json!({"policy": version}));
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(answer.status == 422 && detail.contains("has learned from the outcome"), "{detail}");
    let request = json!({"policy": version, "max_left_out": 1, "since": "2026-01-01"});
    assert_eq!(evaluate(&service, &request).json()["in_sample"], 200);
    let table = run(&["--policy", "thompson"], directory.path());
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.starts_with("thompson: ") && table.contains("doubly robust"), "{table}");

    let before = report(&service, "agent:amy");
    service.learn("");
    service.stop();
    let all = ["--policy", "agent:amy", "--format", "json", "--max-left-out", "1"];
    let after = printed(&all, directory.path());
    let decisions =
        |of: &Value| of["decisions"].as_u64().unwrap() + of["left_out"].as_u64().unwrap();
    assert_eq!(decisions(&after), decisions(&before) + 1, "at rest, too");
    let service = setup.start();
    assert_eq!(report(&service, "agent:amy"), after, "looking at it has changed nothing");
    // One that has learned from all of them can be judged by none, whatever may be left out.
    let saved = service.post("/api/learning/models/save", "application/json", "").json();
    let newest = format!("version:{}", saved["version_id"].as_str().unwrap());
    let answer = evaluate(&service, &json!({"policy": newest, "max_left_out": 1}));
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(answer.status == 422 && detail.contains("100.0 % can't be judged"), "{detail}");
}

#[test]
fn since_and_tenant_narrow_the_log() {
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).start();
    live(&service, 30, &json!({}));
    live(&service, 20, &json!({"tenant_id": "red"}));
    let of = |request: Value| {
        let answer = evaluate(&service, &request);
        assert_eq!(answer.status, 200, "{answer:?}");
        let seen = answer.json();
        seen["decisions"].as_u64().unwrap() + seen["left_out"].as_u64().unwrap()
    };
    assert_eq!(of(json!({"policy": "greedy"})), 30);
    assert_eq!(of(json!({"policy": "greedy", "tenant_id": "red"})), 20);
    let page = service.get("/api/learning/decisions?limit=10").json();
    let tenth = page["decisions"][9]["timestamp"].as_str().unwrap();
    let newest = of(json!({"policy": "thompson", "since": tenth}));
    assert!((10..30).contains(&newest), "{newest}");
    assert_eq!(of(json!({"policy": "thompson", "since": "2026-01-01"})), 30);
}

#[test]
fn a_log_that_cannot_support_an_answer_says_why() {
    #[track_caller]
    fn check(service: &Service, request: &Value, pointer: &str, why: &str) {
        let answer = evaluate(service, request);
        assert_eq!(answer.status, 422, "{request}: {answer:?}");
        let problem = answer.json();
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(why), "{request}: {detail}");
    }
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).start();
    check(&service, &json!({}), "/policy", "is missing");
    check(&service, &json!({"policy": 7}), "/policy", "a string");
    for policy in ["best", "", "agent:", "version:", "Greedy", "agent"] {
        check(&service, &json!({"policy": policy}), "/policy", "agent:NAME or version:ID");
    }
    check(&service, &json!({"policy": "greedy", "since": "soon"}), "/since", "is \"soon\"");
    check(&service, &json!({"policy": "greedy", "tenant_id": ""}), "/tenant_id", "1 to 256");
    check(&service, &json!({"policy": "greedy", "max_left_out": 1.5}), "/max_left_out", "0 to 1");
    check(&service, &json!({"policy": "greedy"}), "/policy", "no recorded decision");

    // Decisions without an outcome, and one without a choice, are no reward of 0.
    service.post_json(PREDICT, &json!({"candidates": ["amy"]}));
    service.post_json(PREDICT, &json!({}));
    service.learn("");
    check(&service, &json!({"policy": "agent:amy"}), "/policy", "no recorded decision");

    // Without a draw, amy is always first.
    let known = [("amy", "success"), ("bob", "failure")].map(|(agent, status)| {
        format!("{{\"agent_name\": \"{agent}\", \"task_type\": \"t\", \"status\": \"{status}\"}}\n")
    });
    service.learn(&known.concat().repeat(50));
    live(&service, 40, &json!({"candidates": ["amy", "bob"], "explore": false}));
    check(&service, &json!({"policy": "agent:zoe"}), "/policy", "did not compete in 100.0 %");
    check(&service, &json!({"policy": "version:agent_selection-9"}), "/policy", "is unknown");
    check(
        &service,
        &json!({"policy": "greedy", "since": "2999-01-01T00:00:00Z"}),
        "/policy",
        "since 2999",
    );
    check(&service, &json!({"policy": "agent:bob"}), "/policy", "was not possible");
    check(&service, &json!({"policy": "thompson"}), "/policy", "was asked for without a draw");
    assert_eq!(report(&service, "agent:amy")["decisions"], 40);
    service.post_json(PREDICT, &json!({"candidates": ["solo"], "decision_id": "solo"}));
    let event = json!({"agent_name": "solo", "status": "success", "decision_id": "solo"});
    service.learn(&event.to_string());
    let solo = json!({"policy": "agent:solo"});
    check(&service, &solo, "/policy", "did not compete in 97.6 %; allowed is max_left_out 0.5");
    let solo = json!({"policy": "agent:solo", "max_left_out": 0.97});
    check(&service, &solo, "/policy", "97.6 % can't be judged");
    let solo = json!({"policy": "agent:solo", "max_left_out": 1});
    let solo = evaluate(&service, &solo).json();
    assert_eq!((&solo["decisions"], &solo["left_out"]), (&json!(1), &json!(40)), "{solo}");
    let interval = &solo["estimates"]["dr"]["interval"];
    assert!(interval[0].as_f64().unwrap() < 0.03 && interval[1] == 1.0, "{solo}");
    assert_eq!(service.get(EVALUATE).status, 405);
}

/// Cat fails in silence: what is known of her is what went well.
#[test]
fn outcomes_that_are_missing_are_told_of_and_held() {
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).with("DECISION_WAIT", 0).start();
    let mut state = 1;
    for seed in 0..400 {
        let candidates = if seed % 4 == 0 { vec!["amy"] } else { vec!["amy", "cat"] };
        let request = json!({"task_type": "t", "candidates": candidates, "seed": seed});
        let answer = service.post_json(PREDICT, &request).json();
        let agent = answer["recommendations"][0]["agent_name"].as_str().unwrap();
        let success = next(&mut state) < 0.5;
        if success || agent == "amy" {
            let status = if success { "success" } else { "failure" };
            let id = &answer["decision_id"];
            let event = json!({"agent_name": agent, "status": status, "decision_id": id});
            assert!(service.post_json("/api/learning/outcomes", &event).status < 300);
        }
    }
    service.learn("");
    // Whoever is believed to be perfect is always chosen: that she is not shows in the width.
    let request = json!({"policy": "greedy", "max_left_out": 1});
    let seen = evaluate(&service, &request).json();
    let missing = seen["left_out_reasons"]["missing_outcome"].as_f64().unwrap();
    assert!((0.25..0.5).contains(&missing), "{seen}");
    let dr = &seen["estimates"]["dr"];
    assert!(dr["judged_interval"][0].as_f64().unwrap() > 0.6, "{seen}");
    assert!(dr["interval"][0].as_f64().unwrap() < 0.5, "{seen}");
    let of = |agent: &str, field: &str| {
        let rows = seen["agents"].as_array().unwrap();
        rows.iter().find(|row| row["agent_name"] == agent).unwrap()[field].as_f64().unwrap()
    };
    assert_eq!((of("amy", "missing"), of("amy", "waiting")), (0.0, 0.0));
    assert!((0.35..0.65).contains(&of("cat", "missing_share")), "{seen}");
    let warnings = seen["warnings"].as_array().unwrap();
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().contains("\"cat\""), "{seen}");
    let all = ["--policy", "greedy", "--max-left-out", "1", "--decision-wait", "0"];
    let table = run(&all, directory.path());
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("warning: outcomes are missing") && table.contains("cat: "), "{table}");
    // While they may still come, nobody is blamed.
    service.stop();
    let service = Setup::new(directory.path()).with("DECISION_WAIT", 86_400).start();
    let seen = evaluate(&service, &json!({"policy": "greedy"})).json();
    assert_eq!((&seen["warnings"], &seen["left_out_share"]), (&json!([]), &json!(0.0)), "{seen}");
    let waiting = seen["agents"].as_array().unwrap().iter();
    assert!(waiting.map(|row| row["waiting"].as_u64().unwrap()).sum::<u64>() > 50, "{seen}");
}

#[test]
fn two_evaluations_at_a_time_are_one_too_many() {
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).start();
    live(&service, 300, &json!({}));
    let request = json!({"policy": "thompson"});
    let refused: Mutex<Option<Answer>> = Mutex::default();
    // Two ask again and again, until one of them comes while the other is answered.
    let ask = || {
        eventually("they meet", || {
            if refused.lock().unwrap().is_none() {
                let answer = evaluate(&service, &request);
                if answer.status == 200 {
                    return None;
                }
                *refused.lock().unwrap() = Some(answer);
            }
            Some(())
        });
    };
    std::thread::scope(|scope| {
        scope.spawn(ask);
        ask();
    });
    let refused = refused.into_inner().unwrap().expect("one was refused");
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.body.contains("another evaluation is under way"), "{refused:?}");
    assert_eq!(evaluate(&service, &request).status, 200);
}

#[test]
fn the_command_fails_with_a_reason() {
    #[track_caller]
    fn check(arguments: &[&str], directory: &Path, code: i32, why: &str) {
        let output = run(arguments, directory);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(why), "{said}");
    }
    let directory = TempDir::new().unwrap();
    check(&["--policy", "greedy"], directory.path(), 1, "there is no database");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is made");
    check(&["--policy", "best"], directory.path(), 2, "--policy is \"best\"");
    check(&["--policy", "greedy", "--since", "x"], directory.path(), 2, "--since is \"x\"");
    let too_many = ["--policy", "greedy", "--max-left-out", "2"];
    check(&too_many, directory.path(), 2, "--max-left-out is 2");
    let none = ["--policy", "greedy", "--max-left-out", "some"];
    check(&none, directory.path(), 2, "--max-left-out is \"some\"");
    check(&[], directory.path(), 2, "--policy");
    let service = Setup::new(directory.path()).start();
    check(&["--policy", "greedy"], directory.path(), 1, "no recorded decision");
    let url = service.url("");
    check(&["--policy", "greedy", "--url", &url], directory.path(), 1, "no recorded decision");
    service.kill();
    check(&["--policy", "greedy", "--url", &url], directory.path(), 1, "is the service running");
    check(&["--policy", "greedy"], directory.path(), 1, "no recorded decision");
}
