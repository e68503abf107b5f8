//! One event is one event: what tells executions apart, and what is said where that fails.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Service, Setup, Wire, eventually, program, verify};

const OUTCOMES: &str = "/api/learning/outcomes?wait=true";

/// What `import` prints of a file, or of what comes through a pipe, by name.
#[track_caller]
fn imported(directory: &Path, arguments: &[&str], piped: Option<&[u8]>) -> BTreeMap<String, u64> {
    let mut command = program();
    command.arg("import").args(arguments).env("MODEL_STORAGE_PATH", directory);
    counts(command, piped)
}

#[track_caller]
fn counts(mut command: Command, piped: Option<&[u8]>) -> BTreeMap<String, u64> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program can be run");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(piped.unwrap_or_default()).expect("it is read to its end");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).expect("it is text");
    let last = printed.trim_end().lines().last().expect("it prints a line");
    let pairs = last.split(' ').filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect()
}

fn metrics(service: &Service) -> Value {
    service.get("/api/learning/metrics").json()
}

fn row(service: &Service, agent: &str) -> Value {
    let rows = service.get("/api/learning/agents/performance").json();
    let found = rows.as_array().and_then(|rows| rows.iter().find(|row| row["agent_name"] == agent));
    found.unwrap_or_else(|| panic!("{agent} is not in {rows}")).clone()
}

/// Thirty exports of 200 rows without ids, with but four different rows, are 6,000 outcomes, and each is
/// imported once, whatever it is packed in and wherever it comes from.
#[test]
fn files_without_ids_are_known_by_their_content() {
    let directory = TempDir::new().unwrap();
    let storage = directory.path().join("state");
    let path = |name: &str| directory.path().join(name);
    let text = |day: usize| {
        // Days differ in one row only, the last.
        let mut text = "agent_name,status\n".to_owned();
        for row in 0..200_usize {
            let kind = if row < 195 { row % 4 } else { (day >> (2 * (row - 195))) & 3 };
            let (agent, status) = (["a", "b"][kind % 2], ["success", "failure"][kind / 2]);
            writeln!(text, "{agent},{status}").unwrap();
        }
        text
    };
    let service = {
        for day in 0..10 {
            let file = path(&format!("{day}.csv"));
            std::fs::write(&file, text(day)).unwrap();
            let counts = imported(&storage, &[file.to_str().unwrap()], None);
            assert_eq!((counts["accepted"], counts["duplicates"]), (200, 0), "{day}");
        }
        for day in 10..20 {
            let counts = imported(&storage, &["-"], Some(text(day).as_bytes()));
            assert_eq!((counts["accepted"], counts["duplicates"]), (200, 0), "{day}");
        }
        Setup::new(&storage).start()
    };
    let url = service.url("");
    for day in 20..30 {
        let file = path(&format!("{day}.csv.gz"));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text(day).as_bytes()).unwrap();
        std::fs::write(&file, gzip.finish().unwrap()).unwrap();
        let counts = imported(&storage, &[file.to_str().unwrap(), "--url", &url], None);
        assert_eq!((counts["accepted"], counts["duplicates"]), (200, 0), "{day}");
    }
    // Again, by another way each.
    for day in 0..30 {
        let counts = imported(&storage, &["-", "--url", &url], Some(text(day).as_bytes()));
        assert_eq!((counts["accepted"], counts["duplicates"]), (0, 200), "{day}");
    }
    assert_eq!(metrics(&service)["accepted"], 6_000);
    service.learn("");
    let executions = ["a", "b"].map(|agent| row(&service, agent)["total_executions"].as_u64());
    assert_eq!(executions.iter().flatten().sum::<u64>(), 6_000);
    service.stop();
}

/// Lines through a pipe are taken while they come, as long as they say who they are.
#[test]
fn lines_of_a_pipe_are_known_by_all_that_comes_through_it() {
    let directory = TempDir::new().unwrap();
    let lines = |id: &str, count: usize| {
        let mut text = String::new();
        for row in 0..count {
            let id = match id {
                "" => String::new(),
                id => format!(",\"event_id\":\"{id}{row}\""),
            };
            writeln!(text, "{{\"agent_name\":\"a\",\"status\":\"success\"{id}}}").unwrap();
        }
        text
    };
    // More than one part, with and without ids, the first without one late.
    let one = lines("x", 3_000) + &lines("", 3_000);
    let other = lines("x", 3_000) + &lines("", 3_001);
    for (text, accepted, duplicates) in [(&one, 6_000, 0), (&one, 0, 6_000), (&other, 3_001, 3_000)]
    {
        let counts = imported(directory.path(), &["-"], Some(text.as_bytes()));
        assert_eq!((counts["accepted"], counts["duplicates"]), (accepted, duplicates));
    }
    let file = directory.path().join("one.jsonl");
    std::fs::write(&file, one).unwrap();
    let counts = imported(directory.path(), &[file.to_str().unwrap()], None);
    assert_eq!((counts["accepted"], counts["duplicates"]), (0, 6_000), "it is the same file");
}

#[test]
fn an_id_of_two_executions_is_told_in_the_answer_the_metrics_and_an_alert() {
    let directory = TempDir::new().unwrap();
    let setup = Setup::new(directory.path()).with("ALERT_INTERVAL", 0.1);
    let service = setup.start();
    let event = |agent: &str, status: &str| json!({"event_id": "job", "agent_name": agent, "status": status});
    let answer =
        service.post_json(OUTCOMES, &json!([event("a", "success"), event("a", "success")]));
    assert_eq!(answer.json().get("conflicting"), None, "a re-send is none: {answer:?}");
    service.kill();

    let service = setup.start();
    let others =
        json!([event("b", "success"), event("a", "failure"), event("b", "ok"), event("a", "OK")]);
    let answer = service.post_json(OUTCOMES, &others).json();
    let seen = (&answer["accepted"], &answer["duplicates"], &answer["conflicting"]);
    assert_eq!(seen, (&json!(0), &json!(4), &json!(3)), "{answer}");
    let seen = metrics(&service);
    assert_eq!((&seen["duplicates"], &seen["conflicting"]), (&json!(5), &json!(3)), "{seen}");
    let line = "online_learning_events_conflicting_total{source=\"http\"} 3";
    let text = service.get("/metrics").body;
    assert!(text.contains(line), "{text}");
    // Of what came since the alerts were first looked at.
    eventually("the alert fires", || {
        service.post_json(OUTCOMES, &others);
        let alerts = service.get("/api/learning/alerts?status=firing").json();
        alerts["alerts"].as_array()?.iter().find(|alert| alert["rule"] == "conflicting").cloned()
    });
    let file = directory.path().join("x.jsonl");
    std::fs::write(&file, event("c", "success").to_string()).unwrap();
    let counts =
        imported(directory.path(), &[file.to_str().unwrap(), "--url", &service.url("")], None);
    assert_eq!(counts.get("conflicting"), Some(&1), "{counts:?}");
    assert_eq!(row(&service, "a")["total_executions"], 1);
    service.stop();
}

/// Sends an event with these headers.
#[track_caller]
fn binary(service: &Service, media: &str, headers: &str, body: &str) -> (u16, Value) {
    let mut wire = Wire::open(service.address).expect("it listens");
    let length = body.len();
    let head = format!("POST {OUTCOMES} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {media}\r\n");
    let request = format!("{head}{headers}content-length: {length}\r\n\r\n{body}");
    wire.send(request).expect("it reads");
    let answer = wire.answer().expect("it answers");
    (answer.status, answer.json())
}

#[test]
fn cloud_events_in_binary_mode_are_those_of_structured_mode() {
    const EVENT: &str = r#"{"agent_name": "a", "status": "success", "cost_estimate": 5}"#;
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).start();
    let budget = json!({"amount": 10, "period": "month"});
    assert_eq!(service.put_json("/api/learning/budgets/default", &budget).status, 200);
    let headers = |id: &str| {
        format!(
            "ce-specversion: 1.0\r\nCE-ID: {id}\r\nce-source: /s%20%C3%A9\r\nce-type: t\r\nce-time: 2023-05-01T10:00:00Z\r\n"
        )
    };
    let accepted = |(status, answer): (u16, Value)| {
        assert_eq!(status, 200, "{answer}");
        answer["accepted"].as_u64()
    };
    for (id, expected) in [("7", 1), ("7", 0), ("8", 1)] {
        assert_eq!(
            accepted(binary(&service, "application/json", &headers(id), EVENT)),
            Some(expected),
            "{id}"
        );
    }
    let structured = json!({"specversion": "1.0", "id": "8", "source": "/s é", "type": "t",
        "data": {"agent_name": "a", "status": "success"}});
    let answer =
        service.post(OUTCOMES, "application/cloudevents+json", structured.to_string()).json();
    assert_eq!(answer["duplicates"], 1, "{answer}");
    let spent = service.get("/api/learning/budgets/default").json()["spent"].clone();
    assert_eq!(spent, json!(0.0), "it was in 2023");
    // Without a version they are any headers; without an id each is an event.
    for headers in ["ce-id: 7\r\nce-source: /s\r\n", "ce-specversion: 1.0\r\nce-source: /s\r\n"] {
        for _ in 0..2 {
            assert_eq!(accepted(binary(&service, "application/json", headers, EVENT)), Some(1));
        }
    }
    // One envelope is of one event.
    for (media, body) in
        [("application/json", format!("[{EVENT}]")), ("application/x-ndjson", EVENT.to_owned())]
    {
        let (status, answer) = binary(&service, media, &headers("9"), &body);
        assert_eq!(status, 422, "{answer}");
        assert!(answer["detail"].as_str().unwrap().contains("ce- headers"), "{answer}");
    }
    // What is refused keeps its identity for the day when it is understood.
    let (_, answer) =
        binary(&service, "application/json", &headers("10"), r#"{"agent_name": "a"}"#);
    assert_eq!(answer["rejected_total"], 1, "{answer}");
    let letters = service.get("/api/learning/dead-letters").json();
    let payload = letters["dead_letters"][0]["payload"].as_str().unwrap();
    assert!(payload.contains("\"id\":\"10\"") && payload.contains("/s é"), "{letters}");
    let (status, _) = binary(&service, "application/json", &headers("11"), "{not json");
    assert_eq!(status, 400);
    service.stop();
}

#[test]
fn a_retried_execution_is_learned_by_its_final_outcome_or_the_newest() {
    let directory = TempDir::new().unwrap();
    let setup = Setup::new(directory.path()).with("DECISION_WAIT", 1);
    let service = setup.start();
    let ask = |id: &str| {
        let question = json!({"task_type": "t", "candidates": ["a"], "decision_id": id});
        let answer = service.post_json("/api/learning/predict/agent-selection", &question);
        assert_eq!(answer.status, 200);
    };
    let report = |fields: Value| {
        let mut event = json!({"agent_name": "a", "status": "failure"});
        for (key, value) in fields.as_object().unwrap() {
            event[key] = value.clone();
        }
        let answer = service.post_json(OUTCOMES, &event);
        assert_eq!(
            (answer.status, answer.json()["accepted"].as_u64()),
            (200, Some(1)),
            "{answer:?}"
        );
    };
    ask("retried");
    ask("given up");
    report(json!({"decision_id": "retried", "attempt": 1, "final": false}));
    report(json!({"decision_id": "retried", "attempt": 2, "status": "success"}));
    report(json!({"decision_id": "given up", "attempt": 1, "final": false, "status": "timeout"}));
    let outcome =
        |id: &str| service.get(&format!("/api/learning/decisions/{id}")).json()["outcome"].clone();
    assert_eq!(outcome("retried")["status"], "success");
    eventually("the newest is learned", || {
        (outcome("given%20up")["status"] == "timeout").then_some(())
    });
    let seen = row(&service, "a");
    assert_eq!(
        (&seen["samples"], &seen["success_rate"], &seen["total_executions"]),
        (&json!(2), &json!(0.5), &json!(4))
    );
    let events = service.get("/api/learning/events").json();
    let kinds: Vec<&Value> =
        events["events"].as_array().unwrap().iter().map(|event| &event["event_type"]).collect();
    assert!(kinds.contains(&&json!("last_attempt")), "{kinds:?}");
    // Every item of a batch is an outcome.
    ask("batch");
    for item in 0..10 {
        let status = ["success", "failure"][item % 2];
        report(json!({"decision_id": "batch", "item": item, "status": status}));
    }
    assert_eq!(row(&service, "a")["samples"], 12);
    let digest = service.digest();
    service.kill();
    let service = setup.start();
    assert_eq!(service.digest(), digest, "the journal says the same");
    service.stop();
    verify(directory.path());
}

/// What programs write for no id names nothing: each event that carries it counts.
#[test]
fn an_event_whose_id_is_none_is_an_event_of_its_own() {
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).start();
    let events: Vec<Value> = (0..12)
        .map(|number| json!({"agent_name": "a", "status": "success", "event_id": "None", "n": number}))
        .collect();
    let answer = service.post_json(OUTCOMES, &json!(events)).json();
    assert_eq!(
        (&answer["accepted"], &answer["dropped_fields"]),
        (&json!(12), &json!({"event_id": 12}))
    );
    service.stop();
}

/// A question under an id that identifies nothing is answered as one without an id: two are two
/// decisions, each with an id of its own, and the answer says what was left out.
#[test]
fn a_question_whose_id_is_none_gets_an_id_made_up() {
    let directory = TempDir::new().unwrap();
    let service = Setup::new(directory.path()).start();
    let nothing = [
        json!("00000000-0000-0000-0000-000000000000"),
        json!("00000000000000000000000000000000"),
        json!("None"),
        json!(" "),
        json!("[object Object]"),
        json!("0"),
    ];
    for calls in ["predict/agent-selection", "predict/quality"] {
        for id in &nothing {
            let ask = || {
                let question = json!({"candidates": ["a", "b"], "decision_id": id});
                let answer = service.post_json(&format!("/api/learning/{calls}"), &question);
                assert_eq!(answer.status, 200, "{id} {answer:?}");
                answer.json()
            };
            let (first, second) = (ask(), ask());
            assert_eq!(first["dropped_fields"], json!({"decision_id": 1}), "{id}");
            if calls == "predict/agent-selection" {
                assert_ne!(first["decision_id"], second["decision_id"], "{id}");
                assert_ne!(&first["decision_id"], id);
            }
        }
    }
    let named = json!({"candidates": ["a"], "decision_id": "none-of-these"});
    let answer = service.post_json("/api/learning/predict/agent-selection", &named).json();
    assert_eq!(answer["decision_id"], "none-of-these");
    assert_eq!(answer["dropped_fields"], Value::Null);
}
