use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::outcome::{DecisionRef, Feature, Outcome, Status};

/// What a file's records become.
#[derive(Debug, Default)]
struct Given {
    events: Vec<Value>,
    passed_over: usize,
    refusals: Vec<Refusal>,
    /// What would be kept of refused ones.
    kept: Vec<String>,
}

impl Given {
    /// The only event, as it is learned.
    #[track_caller]
    fn outcome(&self) -> Outcome {
        assert_eq!(self.events.len(), 1, "{self:?}");
        learned(&self.events[0])
    }
}

#[track_caller]
fn learned(event: &Value) -> Outcome {
    let text = event.to_string();
    Outcome::parse(text.as_bytes(), 0, || panic!("no identity in {text}")).expect("it is an event")
}

fn fixture(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats").join(file)
}

fn named(name: &str, choices: Choices) -> Reader {
    Reader::named(name, choices, || panic!("{name} is not telemetry")).unwrap()
}

fn with_text(map: &str) -> Reader {
    Reader(Kind::Mapped(Box::new(Mapping::new(Map::parse(map).unwrap(), Choices::default()))))
}

/// Reads texts as the files of these names, in their order.
fn try_texts(mut reader: Reader, files: &[(&str, &str)]) -> Result<Given> {
    let open = |text: &str| {
        let bytes = text.as_bytes().to_vec();
        move || -> io::Result<Box<dyn BufRead>> { Ok(Box::new(io::Cursor::new(bytes.clone()))) }
    };
    if reader.has_verdicts() {
        for (name, text) in files {
            reader.collect(Path::new(name), &mut open(text))?;
        }
    }
    let mut given = Given::default();
    for (name, text) in files {
        reader.read(Path::new(name), &mut open(text), |_, taken| {
            match taken {
                Taken::Event(event) => given.events.push(serde_json::from_slice(event).unwrap()),
                Taken::PassedOver => given.passed_over += 1,
                Taken::Refused(refusal, kept) => {
                    given.refusals.push(refusal);
                    given.kept.push(String::from_utf8(kept.to_vec()).unwrap());
                }
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(given)
}

#[track_caller]
fn texts(reader: Reader, files: &[(&str, &str)]) -> Given {
    try_texts(reader, files).unwrap()
}

#[track_caller]
fn file(reader: Reader, name: &str) -> Given {
    let path = fixture(name);
    let text = std::fs::read_to_string(&path).unwrap();
    texts(reader, &[(path.to_str().unwrap(), &text)])
}

#[test]
fn every_map_that_is_compiled_in_can_be_read() {
    for (name, text) in MAPS {
        assert!(Map::parse(text).is_ok_and(|map| !map.event.is_empty()), "{name}");
    }
}

#[test]
fn litellm_records_are_outcomes_of_the_model_group_or_the_model() {
    let given = file(named("litellm", Choices::default()), "litellm.json");
    assert_eq!((given.events.len(), given.refusals.len(), given.passed_over), (2, 0, 0));
    let [failed, done] = [learned(&given.events[0]), learned(&given.events[1])];
    // Its model group is blank.
    assert_eq!((&*failed.agent, failed.status), ("gpt-4o", Status::Failure));
    assert_eq!(failed.cost, Some(0.0));
    assert_eq!((&*done.agent, done.status), ("gpt-4o", Status::Success));
    assert_eq!(done.cost, Some(0.000_225_000_000_000_000_02));
    assert_eq!(done.latency_ms, Some(676.780_939_102_172_9));
    assert_eq!(done.task_type.as_deref(), Some("code_review"));
    assert_eq!(done.decision.as_ref().map(DecisionRef::id), Some("job-17"));
    assert_eq!(done.time_ms, 1_795_933_853_411);
    assert_eq!(given.events[1]["event_id"], "baa9f6c2-4bbc-46ca-a7bb-1028fa47a187");
    assert!(failed.dropped.is_empty() && done.dropped.is_empty());
}

#[test]
fn no_prompt_answer_or_traceback_is_taken() {
    let given = file(named("litellm", Choices::default()), "litellm.json");
    for event in &given.events {
        let text = event.to_string();
        for secret in ["review this code", "looks fine", "site-packages", "mock rate limit"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    let refused = r#"{"id": "1", "messages": "SECRET", "status": "success"}
        {"messages": "SECRET", "model": "m", "litellm_call_id": "7", "status": "SECRET"
        {"messages": "SECRET", "litellm_call_id": "8", "model": "m", "status": {"SECRET": 1}}
        ["SECRET"]"#;
    let given = texts(named("litellm", Choices::default()), &[("a.jsonl", refused)]);
    let codes: Vec<_> = given.refusals.iter().map(|refusal| refusal.code).collect();
    assert_eq!(
        codes,
        [
            RefusalCode::MissingAgentName,
            RefusalCode::NotJson,
            RefusalCode::UnknownStatus,
            RefusalCode::NotAnObject
        ]
    );
    for (refusal, kept) in given.refusals.iter().zip(&given.kept) {
        assert!(!refusal.detail.contains("SECRET") && !kept.contains("SECRET"), "{refusal} {kept}");
    }
}

#[test]
fn a_refusal_names_the_file_the_line_and_the_fields() {
    let text = "{\"model\":\"m\",\"status\":\"success\"}\n\n{\"status\":\"success\"}\n\
                {\"model\":\"m\",\"status\":\"weird\"}\n{\"model\":\"m\"}\nnot json\n";
    let given = texts(named("litellm", Choices::default()), &[("logs/a.jsonl", text)]);
    let details: Vec<&str> = given.refusals.iter().map(|refusal| &*refusal.detail).collect();
    assert_eq!(given.events.len(), 1);
    assert_eq!(
        details[..3],
        [
            "a.jsonl, line 3: agent_name is missing: nothing is set of model_group, model_group, model",
            "a.jsonl, line 4: status: status is \"weird\", allowed is failure, success",
            "a.jsonl, line 5: status is missing: nothing is set of error_information.error_code, \
             metadata.error_information.error_code, error_information.error_class, \
             metadata.error_information.error_class, status",
        ]
    );
    assert!(details[3].starts_with("a.jsonl, line 6: it is not JSON: "), "{}", details[3]);
}

#[test]
fn faults_of_the_client_say_nothing_of_the_agent() {
    #[track_caller]
    fn check(code: &Value, class: &str, expected: Status) {
        let record = json!({
            "litellm_call_id": "1", "model": "m", "status": "failure",
            "error_information": {"error_code": code, "error_class": class},
        });
        let given =
            texts(named("litellm", Choices::default()), &[("a.jsonl", &record.to_string())]);
        assert_eq!(given.outcome().status, expected, "{record}");
    }
    for code in ["400", "401", "403", "404", "422"] {
        check(&code.into(), "BadRequestError", Status::Cancelled);
    }
    check(&json!(401), "AuthenticationError", Status::Cancelled);
    for (code, class) in [("408", "Timeout"), ("504", "x"), ("", "Timeout"), ("500", "Timeout")] {
        check(&code.into(), class, Status::Timeout);
    }
    for (code, class) in [("429", "RateLimitError"), ("500", "InternalServerError"), ("", "")] {
        check(&code.into(), class, Status::Failure);
    }
}

#[test]
fn the_agent_of_litellm_is_the_field_that_is_chosen() {
    let record = r#"{"litellm_call_id":"1","status":"success","model":"m","model_group":"g","agent_id":"a"}"#;
    let without = r#"{"litellm_call_id":"1","status":"success","model":"m","model_group":"g","agent_id":null}"#;
    for (field, agent, agent_without) in
        [("model_group", "g", "g"), ("model", "m", "m"), ("agent_id", "a", "g")]
    {
        let reader =
            || named("litellm", Choices { agent_field: field.to_owned(), ..Choices::default() });
        assert_eq!(texts(reader(), &[("a.jsonl", record)]).outcome().agent, agent);
        assert_eq!(texts(reader(), &[("a.jsonl", without)]).outcome().agent, agent_without);
    }
}

#[test]
fn rows_of_spend_logs_are_read_from_a_table_and_from_lines() {
    let table = "request_id,call_type,spend,startTime,endTime,request_duration_ms,model,model_group,\
                 request_tags,status,agent_id,metadata\n\
                 r1,acompletion,0.00025,2026-01-01 00:00:00.5,2026-01-01 00:00:02,1500,gpt-4o,fast,\
                 \"[\"\"prod\"\", \"\"task:review\"\"]\",success,,\"{\"\"spend_logs_metadata\"\": null}\"\n\
                 r2,acompletion,0,2026-01-01 00:00:00.5,2026-01-01 00:00:02,,gpt-4o,fast,[],failure,,\
                 \"{\"\"error_information\"\": {\"\"error_code\"\": \"\"401\"\"}}\"\n";
    let lines = r#"{"request_id":"r1","spend":0.00025,"startTime":"2026-01-01T00:00:00.500Z","endTime":"2026-01-01T00:00:02Z","request_duration_ms":1500,"model":"gpt-4o","model_group":"fast","request_tags":["prod","task:review"],"status":"success","metadata":{"spend_logs_metadata":null}}
{"request_id":"r2","spend":0,"startTime":"2026-01-01T00:00:00.500Z","endTime":"2026-01-01T00:00:02Z","model":"gpt-4o","model_group":"fast","status":"failure","metadata":{"error_information":{"error_code":"401"}}}"#;
    for (name, text) in [("spend.csv", table), ("spend.jsonl", lines)] {
        let given = texts(named("litellm", Choices::default()), &[(name, text)]);
        let [one, two] = [learned(&given.events[0]), learned(&given.events[1])];
        assert_eq!((&*one.agent, one.status, one.cost), ("fast", Status::Success, Some(0.000_25)));
        assert_eq!((one.latency_ms, one.task_type.as_deref()), (Some(1_500.0), Some("review")));
        assert_eq!(one.time_ms, 1_767_225_602_000, "{name}");
        // How long it took is told by its times.
        assert_eq!((two.status, two.latency_ms), (Status::Cancelled, Some(1_500.0)), "{name}");
    }
}

#[test]
fn what_a_format_leaves_open_is_chosen() {
    let lines = r#"{"litellm_call_id":"1","status":"success","model":"a"}
{"litellm_call_id":"2","status":"success","model":"b"}
{"litellm_call_id":"3","status":"success","model":"a","request_tags":["task:own"]}"#;
    let choices = Choices {
        agents: vec!["a".to_owned()],
        task_type: Some("chat".to_owned()),
        ..Choices::default()
    };
    let given = texts(named("litellm", choices), &[("a.jsonl", lines)]);
    let tasks: Vec<&Value> = given.events.iter().map(|event| &event["task_type"]).collect();
    assert_eq!((tasks, given.passed_over), (vec![&json!("chat"), &json!("own")], 1));
}

#[test]
fn files_are_told_by_how_they_begin() {
    let record = r#"{"litellm_call_id":"1","status":"success","model":"m"}"#;
    let other = record.replace("\"1\"", "\"2\"");
    let pretty = |text: &str| {
        serde_json::to_string_pretty(&serde_json::from_str::<Value>(text).unwrap()).unwrap()
    };
    for text in [
        format!("{record}\n{other}"),
        format!("\n  {record}  \r\n\r\n{other}\r\n"),
        format!("[{record},{other}]"),
        format!("[\n{},\n{}\n]\n", pretty(record), pretty(&other)),
        format!("{}\n{}", pretty(record), pretty(&other)),
    ] {
        let given = texts(named("litellm", Choices::default()), &[("a.json", &text)]);
        assert_eq!(given.events.len(), 2, "{text}");
    }
    let refused = |text: &str, why: &str| {
        let error = try_texts(named("litellm", Choices::default()), &[("a.json", text)]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(why) && error.contains("a.json"), "{error}");
    };
    refused("PK\u{3}\u{4}...", "archive");
    refused("PAR1...", "Parquet");
    refused(&format!("[{record},\n{{\"model\": "), "line 2");
}

#[test]
fn literals_that_only_python_writes_are_unset() {
    for text in [
        r#"{"litellm_call_id":"1","status":"success","model":"NaN \" -Infinity","response_cost":NaN,"x":-Infinity,"response_time":-0.5}"#,
        r#"[{"litellm_call_id":"1","status":"success","model":"NaN \" -Infinity","response_cost":Infinity,"x":[-Infinity,-1],"response_time":-0.5}]"#,
    ] {
        let given = texts(named("litellm", Choices::default()), &[("a.json", text)]);
        let outcome = given.outcome();
        assert_eq!((&*outcome.agent, outcome.cost), ("NaN \" -Infinity", None));
        // A latency can't be negative.
        assert_eq!((outcome.latency_ms, &*outcome.dropped), (None, &["latency_ms"][..]));
    }
}

#[test]
fn a_map_of_ones_own_says_what_becomes_of_what() {
    let map = r#"{
        "about": "ours",
        "file_name": "{team}-{day}.jsonl",
        "only": [{"from": "kind", "one_of": ["run"]}],
        "event": {
            "event_id": {"from": ["@team", "'run.id'"], "as": {"template": "{}/{}"}},
            "agent_name": "who.0",
            "status": {"from": "rc", "as": {"enum": {"0": "success", "*": "failure"}}},
            "latency_ms": {"from": "seconds", "as": "s_to_ms"},
            "quality_score": {"from": "loss", "as": "negate"},
            "tenant_id": "@team",
            "context.day": "@day",
            "context.size": "input.size"
        }
    }"#;
    let lines = r#"{"kind":"run","run.id":7,"who":["a","b"],"rc":0,"seconds":"1.5","loss":-0.25,"input":{"size":3,"text":"SECRET"}}
{"kind":"run","run.id":8,"who":["a"],"rc":137,"seconds":"soon"}
{"kind":"note","text":"SECRET"}"#;
    let given = texts(with_text(map), &[("logs/red-monday.jsonl", lines)]);
    assert_eq!((given.events.len(), given.passed_over), (2, 1), "{given:?}");
    assert_eq!(
        given.events[0],
        json!({
            "agent_name": "a", "context": {"day": "monday", "size": 3}, "event_id": "red/7",
            "latency_ms": 1_500.0, "quality_score": 0.25, "status": "success", "tenant_id": "red",
        })
    );
    let other = learned(&given.events[1]);
    assert_eq!((other.status, &*other.dropped), (Status::Failure, &["latency_ms"][..]));
    assert_eq!(other.context, [("day".to_owned(), Feature::Text("monday".to_owned()))]);
    let error = try_texts(with_text(map), &[("logs/red.jsonl", lines)]).unwrap_err().to_string();
    assert!(error.contains("{team}-{day}.jsonl"), "{error}");
}

#[test]
fn a_wrong_map_is_refused_with_its_field_its_line_and_what_is_allowed() {
    #[track_caller]
    fn check(event: &str, said: &[&str]) {
        let text = format!("{{\"about\": \"x\",\n\"event\": {{\n{event}\n}}}}");
        let why = Map::parse(&text).map(drop).unwrap_err();
        for said in said {
            assert!(why.contains(said), "{why} does not say {said}");
        }
    }
    let rest = "\"agent_name\": \"a\", \"status\": \"s\"";
    check("\"agent_name\": \"a\"", &["event", "status", "line 2"]);
    check(&format!("{rest},\n\"latncy_ms\": \"x\""), &["latncy_ms", "latency_ms?", "line 4"]);
    check(
        &format!("{rest},\n\"latency_ms\": {{\"from\": \"x\", \"as\": \"s_to_m\"}}"),
        &["event.latency_ms", "s_to_m", "s_to_ms", "line 4"],
    );
    check(&format!("{rest},\n\"context.x\": {{\"form\": \"x\"}}"), &["form", "from", "line 4"]);
    check(&format!("{rest},\n\"task_type\": \"a..b\""), &["a..b", "empty key", "line 4"]);
    check(&format!("{rest},\n\"task_type\": \"a.{{b}}\""), &["variable b", "line 4"]);
    check(&format!("{rest},\n\"task_type\": \"@model\""), &["@model", "file_name", "line 4"]);
    check(
        &format!("{rest},\n\"latency_ms\": {{\"from\": \"x\", \"as\": \"iso_diff\"}}"),
        &["latency_ms", "takes 2 values", "1 paths", "line 4"],
    );
    check("\"agent_name\": 7", &["agent_name", "7", "line 3"]);
}

#[test]
fn the_parts_of_a_files_name_are_told_by_the_signs_between_them() {
    #[track_caller]
    fn check(pattern: &str, file: &str, expected: Option<&[(&str, &str)]>) {
        let owned = |parts: &[(&str, &str)]| {
            parts.iter().map(|(name, part)| ((*name).to_owned(), (*part).to_owned())).collect()
        };
        assert_eq!(map::matched(pattern, file), expected.map(owned), "{file}");
    }
    let report = "{model}.{run}.json";
    check(report, "a/gpt-4.1.run1.json", Some(&[("model", "gpt-4.1"), ("run", "run1")]));
    check(report, "gpt.json", None);
    check(report, "gpt.run.jsonl", None);
    let samples = "{model}/samples_{task}_{date}.jsonl";
    let parts = [("model", "m"), ("task", "mmlu_law"), ("date", "2026-01-01T00-00-00.5")];
    check(samples, "out/m/samples_mmlu_law_2026-01-01T00-00-00.5.jsonl", Some(&parts));
    check(samples, "samples_law_2026.jsonl", None);
}
