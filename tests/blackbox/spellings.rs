//! How people, languages and spreadsheets write things, and what is meant by it.

use std::collections::BTreeSet;
use std::process::Output;

use serde_json::{Value, json};

use super::harness::{Service, Setup, program};

const OUTCOMES: &str = "/api/learning/outcomes?wait=true";
const PREDICT: &str = "/api/learning/predict/agent-selection";

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for a directory")
}

/// Imports a file of this name into a directory, through standard input with `piped`.
#[track_caller]
fn imported(directory: &std::path::Path, name: &str, bytes: &[u8], piped: bool) -> Output {
    let file = directory.join(name);
    std::fs::write(&file, bytes).expect("it can be written");
    let mut command = program();
    command.arg("import").env("MODEL_STORAGE_PATH", directory.join("state"));
    if piped {
        let input = std::fs::File::open(&file).expect("it is there");
        // A pipe, which can't be read twice.
        let mut cat = std::process::Command::new("cat")
            .stdin(input)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("cat is there");
        command.arg("-").stdin(cat.stdout.take().expect("it is piped"));
        let output = command.output().expect("the program can be run");
        cat.wait().expect("it is our child");
        output
    } else {
        command.arg(&file).output().expect("the program can be run")
    }
}

#[track_caller]
fn rows(service: &Service) -> Vec<Value> {
    let rows = service.get("/api/learning/agents/performance").json();
    rows.as_array().expect("it is a bare array").clone()
}

#[track_caller]
fn row(service: &Service, agent: &str) -> Value {
    let row = rows(service).into_iter().find(|row| row["agent_name"] == agent);
    row.unwrap_or_else(|| panic!("there is no {agent}"))
}

#[test]
fn tables_are_read_as_spreadsheets_write_them() {
    let table = |sign: &str, end: &str, header: [&str; 4]| {
        let rows = [header, ["a", "success", "100", "0.5"], ["b", "Failed", "200", "0.25"]];
        rows.map(|row| row.join(sign)).join(end)
    };
    let plain = ["agent_name", "status", "latency_ms", "quality_score"];
    let utf16 = |text: &str, little: bool, marked: bool| -> Vec<u8> {
        let mark = marked.then_some(0xfeff);
        let units = mark.into_iter().chain(text.encode_utf16());
        units
            .flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() })
            .collect()
    };
    let comma = table(",", "\r\n", plain);
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("semicolons", table(";", "\n", plain).into_bytes()),
        ("tabs", table("\t", "\n", plain).into_bytes()),
        (
            "a line that names the sign",
            format!("sep=;\r\n{}", table(";", "\r\n", plain)).into_bytes(),
        ),
        ("blanks", table(", ", "\n", plain).into_bytes()),
        ("a byte order mark", format!("\u{feff}{comma}").into_bytes()),
        ("decimal commas", table(";", "\n", plain).replace("0.", "0,").into_bytes()),
    ];
    for (little, marked) in [(true, true), (true, false), (false, true), (false, false)] {
        cases.push(("UTF-16", utf16(&comma, little, marked)));
    }
    for header in [
        ["Agent Name", "Status", "Latency (ms)", "Quality Score"],
        ["agent_name ", " status", "LatencyMs", "quality-score"],
        ["AgentName", "STATUS", "latencyMS", "QualityScore"],
    ] {
        cases.push(("a header", table(",", "\n", header).into_bytes()));
    }
    let mut learned = BTreeSet::new();
    for (what, bytes) in &cases {
        for (name, piped) in [("table.csv", false), ("table.txt", false), ("table", true)] {
            let directory = directory();
            let output = imported(directory.path(), name, bytes, piped);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{what}, {name}: {output:?}");
            assert_eq!(said.trim(), "accepted=2 duplicates=0 rejected=0", "{what}, {name}");
            let service = Setup::new(&directory.path().join("state")).start();
            let [a, b] = ["a", "b"].map(|agent| row(&service, agent));
            assert_eq!((&a["avg_latency_ms"], &a["avg_quality"]), (&json!(100.0), &json!(0.5)));
            assert_eq!((&b["statuses"]["failure"], &b["avg_quality"]), (&json!(1), &json!(0.25)));
            learned.insert(format!("{a} {b}"));
            service.stop();
        }
    }
    assert_eq!(learned.len(), 1, "all of them say the same");
}

#[test]
fn an_array_is_refused_as_what_it_is() {
    let directory = directory();
    let output = imported(directory.path(), "x.json", b"[{\"agent_name\": \"a\"}]", false);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("it is an array; allowed is an object a line"), "{said}");
}

/// A table and JSON with the same context are the same to the model.
#[test]
fn a_cell_means_what_the_same_value_means_in_json() {
    #[track_caller]
    fn check(cells: [&str; 3], values: &[Value; 3]) {
        let (table, lines) = (directory(), directory());
        let mut csv = "event_id,agent_name,status,task_type,context.k\n".to_owned();
        let mut json_lines = String::new();
        for number in 0..60 {
            let (agent, at) = (["a", "b"][number % 2], number % 3);
            let status = if (at == 0) == (agent == "a") { "success" } else { "failure" };
            csv.extend([format!("{number},{agent},{status},t,{}\n", cells[at])]);
            let mut event = json!({
                "event_id": number, "agent_name": agent, "status": status, "task_type": "t",
            });
            event["context"]["k"] = values[at].clone();
            json_lines.extend([format!("{event}\n")]);
        }
        let digest = |directory: &tempfile::TempDir, name: &str, text: &str| {
            let output = imported(directory.path(), name, text.as_bytes(), false);
            assert!(output.status.success(), "{output:?}");
            Setup::new(&directory.path().join("state")).start().digest()
        };
        let [csv, json_lines] =
            [digest(&table, "x.csv", &csv), digest(&lines, "x.jsonl", &json_lines)];
        assert_eq!(csv, json_lines, "{cells:?}");
    }
    check(["True", "FALSE", "true"], &[json!(true), json!(false), json!(true)]);
    check(["\"007\"", "\"3.10\"", "A1"], &[json!("007"), json!("3.10"), json!("A1")]);
    check(["1", "2.50", "3"], &[json!(1), json!(2.5), json!(3)]);
    check(["$1", "\"1,200\"", "\"3,400.50\""], &[json!(1), json!(1200), json!(3400.5)]);
    check(["x", " e\u{301} ", "y"], &[json!("x"), json!("é"), json!("y")]);
}

#[test]
fn a_status_may_be_called_by_its_synonyms() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let words = [
        ("SUCCESS", "success"),
        (" success ", "success"),
        ("Completed", "success"),
        ("ok", "success"),
        ("PARTIAL", "partial"),
        ("FAILED", "failure"),
        ("error", "failure"),
        ("Timeout", "timeout"),
        ("timed out", "timeout"),
        ("canceled", "cancelled"),
        ("in-progress", "pending"),
    ];
    for (number, (word, status)) in words.into_iter().enumerate() {
        let agent = format!("agent {number}");
        let answer = service.post_json(OUTCOMES, &json!({"agent_name": agent, "status": word}));
        assert_eq!(answer.json()["accepted"], 1, "{word:?}: {answer:?}");
        assert_eq!(row(&service, &agent)["statuses"][status], 1, "{word:?}");
    }
    let refused = service.post_json(OUTCOMES, &json!({"agent_name": "a", "status": "sucesful"}));
    let detail = refused.json()["rejected"][0]["detail"].to_string();
    assert!(detail.contains("did you mean success?"), "{detail}");
}

#[test]
fn names_meet_in_outcomes_and_questions_however_they_are_written() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let composed = json!({
        "agent_name": "é", "status": "success", "tenant_id": "ü", "task_type": "ö",
        "context": {"ä": "å"},
    });
    let written = json!({
        "agent_name": "e\u{301}\u{a0}", "status": "success", "tenant_id": " u\u{308}",
        "task_type": "o\u{308}\t", "context": {" a\u{308}": "a\u{30a} "},
    });
    for event in [&composed, &written, &composed] {
        assert_eq!(service.post_json(OUTCOMES, event).json()["accepted"], 1, "{event}");
    }
    for event in [composed, written] {
        let question = json!({
            "candidates": [event["agent_name"]], "exclude": [" x "], "task_type": event["task_type"],
            "context": event["context"], "tenant_id": event["tenant_id"], "explore": false,
        });
        let answer = service.post_json(PREDICT, &question).json();
        let first = &answer["recommendations"][0];
        assert_eq!((&first["agent_name"], &first["samples"]), (&json!("é"), &json!(3)), "{answer}");
        assert!(first["expected_success"].as_f64() > Some(0.6), "{answer}");
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("tenant_id", event["tenant_id"].as_str().unwrap_or_default())
            .append_pair("task_type", event["task_type"].as_str().unwrap_or_default())
            .finish();
        let rows = service.get(&format!("/api/learning/agents/performance?{query}")).json();
        assert_eq!(rows[0]["total_executions"], 3, "{rows}");
        let excluding = json!({"tenant_id": event["tenant_id"], "exclude": [event["agent_name"]]});
        let answer = service.post_json(PREDICT, &excluding).json();
        assert_eq!(answer["recommendations"], json!([]), "{answer}");
    }
    // A number is its digits, in both.
    let numbered = json!({"agent_name": 7, "status": "success"});
    assert_eq!(service.post_json(OUTCOMES, &numbered).json()["accepted"], 1);
    for candidate in [json!(7), json!("7")] {
        let answer = service.post_json(PREDICT, &json!({"candidates": [candidate]})).json();
        assert_eq!(answer["recommendations"][0]["samples"], 1, "{answer}");
    }
    let budget = json!({"amount": 1, "period": "day"});
    let set = service.put_json("/api/learning/budgets/%20u%CC%88", &budget);
    assert_eq!(set.json()["tenant_id"], "ü", "{set:?}");
    assert_eq!(service.delete("/api/learning/budgets/%C3%BC").status, 200);
    let removed = service.delete("/api/learning/agents/%20e%CC%81?tenant_id=%C3%BC");
    assert_eq!(removed.status, 200, "{removed:?}");
}

#[test]
fn an_unknown_field_of_a_question_is_refused_with_a_hint() {
    #[track_caller]
    fn check(service: &Service, path: &str, body: &Value, pointer: &str, says: &str) {
        let answer = if path.contains("budgets") {
            service.put_json(path, body)
        } else {
            service.post_json(path, body)
        };
        assert_eq!(answer.status, 422, "{path}: {answer:?}");
        let error = &answer.json()["errors"][0];
        assert_eq!(error["pointer"], pointer, "{error}");
        assert!(error["detail"].as_str().is_some_and(|detail| detail.contains(says)), "{error}");
    }
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let limits = json!({"candidates": ["a"], "constraint": {"max_cost": 1}});
    for kind in ["agent-selection", "quality", "latency", "cost"] {
        let path = format!("/api/learning/predict/{kind}");
        check(&service, &path, &limits, "/constraint", "did you mean constraints?");
    }
    for (body, pointer, says) in [
        (json!({"topk": 1}), "/topk", "did you mean top_k?"),
        (json!({"Task_Type": "t"}), "/Task_Type", "did you mean task_type?"),
        (json!({"constraints": {"max_costs": 1}}), "/constraints/max_costs", "max_cost?"),
        (json!({"objective": {"weight": {}}}), "/objective/weight", "did you mean weights?"),
        (
            json!({"objective": {"weights": {"latencies": 1}}}),
            "/objective/weights/latencies",
            "latency?",
        ),
        (json!({"zzz": 1}), "/zzz", "allowed are candidates, constraints, context"),
    ] {
        check(&service, PREDICT, &body, pointer, says);
    }
    let evaluate = json!({"policy": "greedy", "tenant": "a"});
    check(&service, "/api/learning/evaluate", &evaluate, "/tenant", "did you mean tenant_id?");
    check(
        &service,
        "/api/learning/dead-letters/replay",
        &json!({"id": []}),
        "/id",
        "did you mean ids?",
    );
    let budget = json!({"amount": 1, "periode": "day"});
    check(&service, "/api/learning/budgets/a", &budget, "/periode", "did you mean period?");
    // Whatever a context holds has no names of ours, and producers of outcomes may be newer than we are.
    let question = json!({"candidates": ["a"], "context": {"constraint": 1}});
    assert_eq!(service.post_json(PREDICT, &question).status, 200);
    let event = json!({"agent_name": "a", "status": "success", "agent_nam": "b"});
    assert_eq!(service.post_json(OUTCOMES, &event).status, 200);
}

#[test]
fn flags_slashes_and_signs_in_addresses_are_understood() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let event = json!({"agent_name": "a", "status": "success"});
    for flag in ["True", "TRUE", "1", "yes", "on", ""] {
        let answer = service.post_json(&format!("/api/learning/outcomes?wait={flag}"), &event);
        assert_eq!(answer.status, 200, "{flag}: {answer:?}");
    }
    for flag in ["False", "0", "No", "OFF"] {
        let answer = service.post_json(&format!("/api/learning/outcomes?wait={flag}"), &event);
        assert_eq!(answer.status, 202, "{flag}: {answer:?}");
    }
    assert_eq!(service.post_json("/api/learning/outcomes?wait=perhaps", &event).status, 422);
    for path in
        ["/api/learning/status/", "/livez/", "/api/learning/agents/performance/?outlook=True"]
    {
        assert_eq!(service.get(path).status, 200, "{path}");
    }
    assert_eq!(service.get("/api/learning/status//").status, 404);
    assert_eq!(service.post_json(&format!("{PREDICT}/"), &json!({})).status, 200);
    for (id, written) in [("a==", "a=="), ("a=&b/c", "a=&b%2Fc"), ("+ é", "+%20%C3%A9")] {
        let question = json!({"candidates": ["a", "b"], "decision_id": id});
        assert_eq!(service.post_json(PREDICT, &question).status, 200);
        let path = format!("/api/learning/decisions/{written}");
        let found = super::harness::eventually("the decision is recorded", || {
            Some(service.get(&path)).filter(|answer| answer.status == 200)
        });
        assert_eq!(found.json()["decision_id"], id);
    }
}

#[test]
fn what_was_dropped_is_said_in_the_answer() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let events = json!([
        {"agent_name": "a", "status": "success", "event_id": "1", "cost": -1},
        {"agent_name": "a", "status": "success", "context": {"tags": ["x"], "no": null}},
        {"agent_name": "a", "status": "success", "event_id": "1", "cost": -1},
        {"agent_name": "", "status": "success", "cost": -1},
    ]);
    let answer = service.post_json(OUTCOMES, &events).json();
    let dropped = json!({"context_list": 1, "context_null": 1, "cost": 1});
    assert_eq!(answer["dropped_fields"], dropped, "of those that were accepted: {answer}");
    let answer = service.post_json(OUTCOMES, &json!({"agent_name": "a", "status": "success"}));
    assert_eq!(answer.json().get("dropped_fields"), None, "nothing was");
    let question = json!({"candidates": ["a"], "context": {"tags": ["x", "y"], "k": 1, " ": 2}});
    for kind in ["agent-selection", "latency"] {
        let path = format!("/api/learning/predict/{kind}");
        let dropped = service.post_json(&path, &question).json()["dropped_fields"].clone();
        assert_eq!(dropped, json!({"context_key": 1, "context_list": 1}), "{kind}");
        let answer = service.post_json(&path, &json!({"candidates": ["a"], "context": {"k": 1}}));
        assert_eq!(answer.json().get("dropped_fields"), None, "{kind}: nothing was");
    }
}

#[test]
fn a_cost_of_0_spends_nothing_and_is_known_unless_the_monitor_sends_it() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let event = |agent: &str, more: Value| {
        let mut event = json!({"agent_name": agent, "status": "success", "task_type": "t"});
        event
            .as_object_mut()
            .expect("it is one")
            .extend(more.as_object().cloned().unwrap_or_default());
        event
    };
    for run in 0..5 {
        for (agent, more) in [
            ("free", json!({"cost": 0})),
            ("estimated", json!({"cost_estimate": 0})),
            ("monitored", json!({"cost": 0.0, "memory_mb": 0.0, "cpu_ms": 0.0, "run_id": run})),
        ] {
            service.post_json(OUTCOMES, &event(agent, more));
        }
    }
    let answer = service.post_json("/api/learning/predict/cost", &json!({"task_type": "t"})).json();
    let rows = answer["predictions"].as_array().expect("it is a list");
    let samples = |agent: &str| {
        let row = rows.iter().find(|row| row["agent_name"] == agent).expect("it is there");
        row["samples"].clone()
    };
    assert_eq!(
        ["free", "estimated", "monitored"].map(samples),
        [json!(5), json!(5), json!(0)],
        "{answer}"
    );
}

#[test]
fn a_dry_run_says_what_would_be_learned_and_writes_nothing() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let decision = json!({
        "candidates": ["a", "b"], "task_type": "asked", "context": {"k": "v"}, "decision_id": "d",
    });
    service.post_json(PREDICT, &decision);
    let time = "2026-11-01T10:00:00Z";
    let known = json!({
        "event_id": "known", "agent_name": "a", "status": "success", "timestamp": time,
    });
    service.post_json(OUTCOMES, &known);
    let before = service.digest();
    let metrics = service.get("/api/learning/metrics").json();
    let events = json!([
        known,
        {"agent_name": " a ", "status": "Completed", "task_type": "t", "latency_ms": "12",
         "cost": -1, "timestamp": time,
         "context": {"deep": {"er": true}, "n": 2, "tags": ["x"]}},
        {"agent_name": "a", "status": "sucess"},
        {"event_id": "new", "agent_name": "b", "status": "partial", "decision_id": "d",
         "timestamp": time},
        {"event_id": "new", "agent_name": "b", "status": "partial", "decision_id": "d",
         "timestamp": time},
    ]);
    let asked = |media: &str, body: String| {
        let answer = service.post("/api/learning/outcomes?dry_run=true&wait=true", media, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let answer = asked("application/json", events.to_string());
    assert_eq!((&answer["dry_run"], &answer["accepted"]), (&json!(true), &json!(2)), "{answer}");
    assert_eq!((&answer["duplicates"], &answer["rejected_total"]), (&json!(2), &json!(1)));
    assert_eq!(answer["rejected"][0]["index"], 2);
    assert_eq!(answer["dropped_fields"], json!({"context_list": 1, "cost": 1}));
    let outcomes = answer["outcomes"].as_array().expect("it is a list");
    let seen: Vec<_> =
        outcomes.iter().map(|row| (row["index"].clone(), row["duplicate"].clone())).collect();
    let expected = [(0, true), (1, false), (3, false), (4, true)];
    assert_eq!(seen, expected.map(|(index, known)| (json!(index), json!(known))));
    let expected = json!({
        "index": 1, "duplicate": false, "tenant_id": "default", "agent_name": "a",
        "status": "success", "reward": 1.0, "task_type": "t",
        "context": {"deep.er": true, "n": 2.0}, "latency_ms": 12.0, "cost": null,
        "quality_score": null, "timestamp": "2026-11-01T10:00:00.000+00:00", "decision_id": null,
        "dropped_fields": ["context_list", "cost"],
    });
    assert_eq!(outcomes[1], expected);
    let of_decision = &outcomes[2];
    assert_eq!(
        (&of_decision["task_type"], &of_decision["context"]),
        (&json!("asked"), &json!({"k": "v"}))
    );
    let lines: Vec<String> =
        events.as_array().expect("it is one").iter().map(|event| format!("{event}\n")).collect();
    assert_eq!(asked("application/x-ndjson", lines.concat()), answer, "as lines");

    assert_eq!(service.digest(), before);
    let after = service.get("/api/learning/metrics").json();
    for count in ["accepted", "duplicates", "rejected", "dropped_fields"] {
        assert_eq!(after[count], metrics[count], "{count}");
    }
    let letters = service.get("/api/learning/dead-letters").json();
    assert_eq!(letters["dead_letters"], json!([]));
    let real = service.post_json(OUTCOMES, &events).json();
    assert_eq!(
        (&real["accepted"], &real["duplicates"]),
        (&answer["accepted"], &answer["duplicates"])
    );
}

#[test]
fn a_word_of_the_command_line_means_what_the_service_knows() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let question = |context: &[&str], id: &str| {
        let mut command = program();
        command.args([
            "predict",
            "--url",
            &service.url(""),
            "--format",
            "json",
            "--candidates",
            "a",
        ]);
        for pair in context {
            command.args(["--context", pair]);
        }
        let output = command.output().expect("the program can be run");
        assert!(output.status.success(), "{id}: {output:?}");
        let answer: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        let id = answer["decision_id"].as_str().expect("there is one").to_owned();
        let found = super::harness::eventually("the decision is recorded", || {
            let answer = service.get(&format!("/api/learning/decisions/{id}"));
            (answer.status == 200).then(|| answer.json())
        });
        found["context"].clone()
    };
    let words = [
        "size=3.10",
        "flag=True",
        "version=3.10",
        "new=7",
        "text=true",
        "forced:=7",
        "deep:={\"er\": null, \"x\": 1}",
    ];
    assert_eq!(
        question(&words, "of a service that knows nothing"),
        json!({"size": "3.10", "flag": "True", "version": "3.10", "new": "7", "text": "true", "forced": 7.0, "deep.x": 1.0})
    );
    let event = json!({
        "agent_name": "a", "status": "success",
        "context": {"size": 1, "flag": false, "version": "3.9", "text": "word"},
    });
    assert_eq!(service.post_json(OUTCOMES, &event).json()["accepted"], 1);
    let catalog = service.get("/api/learning/catalog").json();
    let types = json!({"size": "number", "flag": "boolean", "version": "text", "text": "text"});
    assert_eq!(catalog["context_types"], types, "{catalog}");
    assert_eq!(
        question(&words, "of one that knows"),
        json!({"size": 3.1, "flag": true, "version": "3.10", "new": "7", "text": "true", "forced": 7.0, "deep.x": 1.0})
    );
    assert_eq!(
        question(&["size=big", "flag=1"], "what is none"),
        json!({"size": "big", "flag": "1"})
    );
}

#[test]
fn what_is_unknown_is_null_where_it_may_be() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let event = json!({"agent_name": "a", "status": "success", "task_type": "t"});
    service.post_json(OUTCOMES, &event);
    let unknown = row(&service, "a");
    assert_eq!((&unknown["avg_latency_ms"], &unknown["avg_quality"]), (&json!(0.0), &json!(0.0)));
    for field in ["mean_latency_ms", "latency_p95_ms", "mean_quality"] {
        assert_eq!(unknown.get(field), Some(&Value::Null), "{field}: {unknown}");
    }
    let of_task = service.get("/api/learning/agents/performance?task_type=t").json();
    assert_eq!(of_task[0].get("mean_latency_ms"), Some(&Value::Null), "{of_task}");
    assert_eq!(of_task[0].get("mean_quality"), None, "{of_task}");
    let event = json!({
        "agent_name": "a", "status": "success", "task_type": "t", "latency_ms": 0, "quality_score": 0,
    });
    service.post_json(OUTCOMES, &event);
    let known = row(&service, "a");
    for field in
        ["avg_latency_ms", "avg_quality", "mean_latency_ms", "latency_p95_ms", "mean_quality"]
    {
        assert_eq!(known[field], 0.0, "{field}: {known}");
    }
}
