use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::Config;
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

fn scores(names: &[&str]) -> Choices {
    Choices { scores: names.iter().map(ToString::to_string).collect(), ..Choices::default() }
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
    files(reader, &[name])
}

#[track_caller]
fn files(reader: Reader, names: &[&str]) -> Given {
    let read = |name: &&str| {
        let path = fixture(name);
        let text = std::fs::read_to_string(&path).unwrap();
        (path.to_str().unwrap().to_owned(), text)
    };
    let read: Vec<_> = names.iter().map(read).collect();
    let read: Vec<_> = read.iter().map(|(name, text)| (&**name, &**text)).collect();
    texts(reader, &read)
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

/// How many events, records that are passed over, and refusals there are, and the outcomes.
#[track_caller]
fn check_counts(given: &Given, events: usize, passed_over: usize, refused: usize) -> Vec<Outcome> {
    let counts = (given.events.len(), given.passed_over, given.refusals.len());
    assert_eq!(counts, (events, passed_over, refused), "{given:#?}");
    let outcomes: Vec<Outcome> = given.events.iter().map(learned).collect();
    for (outcome, event) in outcomes.iter().zip(&given.events) {
        assert!(outcome.dropped.is_empty(), "{event}: {:?}", outcome.dropped);
        assert!(!event.to_string().contains("MARKER"), "{event}");
    }
    outcomes
}

fn task(outcome: &Outcome) -> Option<&str> {
    outcome.task_type.as_deref()
}

#[test]
fn langfuse_observations_of_agents_are_outcomes_and_scores_their_qualities() {
    let observations = "langfuse_observations.jsonl";
    let given = file(named("langfuse", Choices::default()), observations);
    let outcomes = check_counts(&given, 2, 1, 0);
    let [one, two] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(
        (&*one.agent, one.status, task(one)),
        ("reviewer", Status::Success, Some("code_review"))
    );
    assert_eq!((one.latency_ms, one.cost, one.quality), (Some(1_500.0), Some(0.002_1), None));
    assert_eq!((two.status, task(two)), (Status::Failure, Some("code_review")));
    assert_eq!((two.latency_ms, two.cost), (Some(250.0), Some(0.001)));
    // The same as its span would be by telemetry.
    let id = "otlp:5b8efff798038103d269b633813fc60c:eee19b7ec3c1b174";
    assert_eq!(given.events[0]["event_id"], id);

    let scored =
        files(named("langfuse", Choices::default()), &["langfuse_score.json", observations]);
    let outcomes = check_counts(&scored, 2, 2, 0);
    assert_eq!((outcomes[0].quality, outcomes[1].quality), (Some(0.9), None));
    // By their names others may be asked for.
    let choices = Choices { agents: vec!["chat".to_owned()], ..Choices::default() };
    assert_eq!(
        check_counts(&file(named("langfuse", choices), observations), 1, 2, 0)[0].agent,
        "chat"
    );
}

#[test]
fn a_score_alone_is_no_outcome_and_is_missed() {
    let mut reader = named("langfuse", Choices::default());
    let text = std::fs::read(fixture("langfuse_score.json")).unwrap();
    let mut open =
        || -> io::Result<Box<dyn BufRead>> { Ok(Box::new(io::Cursor::new(text.clone()))) };
    reader.collect(Path::new("score.json"), &mut open).unwrap();
    reader
        .read(Path::new("score.json"), &mut open, |_, taken| {
            assert_eq!(taken, Taken::PassedOver);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(reader.verdicts_unmet(), 1);
}

#[test]
fn a_score_of_a_trace_is_that_of_its_agents_unless_they_have_their_own() {
    let lines = r#"{"id":"o1","traceId":"t","type":"AGENT","name":"a","level":"DEFAULT"}
{"id":"o2","traceId":"t","type":"AGENT","name":"b","level":"DEFAULT"}
{"id":"s1","traceId":"t","observationId":null,"name":"good","value":0.25,"dataType":"NUMERIC"}
{"id":"s2","traceId":"t","observationId":"o2","name":"good","value":1,"dataType":"BOOLEAN"}"#;
    let given = texts(named("langfuse", Choices::default()), &[("a.jsonl", lines)]);
    let outcomes = check_counts(&given, 2, 2, 0);
    assert_eq!((outcomes[0].quality, outcomes[1].quality), (Some(0.25), Some(1.0)));
    // Of several one has to be chosen.
    let other = r#"{"id":"s3","traceId":"t","name":"brief","stringValue":"incorrect","dataType":"CATEGORICAL"}"#;
    let lines = format!("{lines}\n{other}");
    let given = texts(named("langfuse", Choices::default()), &[("a.jsonl", &lines)]);
    assert_eq!(given.refusals.len(), 2, "{given:?}");
    let why =
        "a.jsonl, line 1: scores holds several (good, brief), of which --score has to name one";
    assert_eq!(given.refusals[0].detail, why);
    let given = texts(named("langfuse", scores(&["brief"])), &[("a.jsonl", &lines)]);
    assert_eq!(check_counts(&given, 2, 3, 0)[0].quality, Some(0.0));
}

#[test]
fn langsmith_runs_are_outcomes_where_they_are_roots_or_are_asked_for() {
    let given = file(named("langsmith", Choices::default()), "langsmith.json");
    let outcome = &check_counts(&given, 1, 0, 0)[0];
    assert_eq!(
        (&*outcome.agent, outcome.status, task(outcome)),
        ("reviewer", Status::Success, Some("code_review"))
    );
    let amounts = (outcome.latency_ms, outcome.cost, outcome.quality);
    assert_eq!(amounts, (Some(1_200.0), Some(0.001_2), Some(0.9)));
    assert_eq!(given.events[0]["event_id"], "b2b0c0de-0000-4000-8000-000000000001");

    let lines = r#"{"id":"1","name":"graph","run_type":"chain","status":"error","error":"MARKER","parent_run_ids":[]}
{"id":"2","name":"writer","run_type":"chain","status":"success","parent_run_ids":["1"]}
{"id":"3","name":"writer","run_type":"llm","status":"success","parent_run_id":"2"}"#;
    let given = texts(named("langsmith", Choices::default()), &[("a.jsonl", lines)]);
    assert_eq!(check_counts(&given, 1, 2, 0)[0].status, Status::Failure);
    let choices = Choices { agents: vec!["writer".to_owned()], ..Choices::default() };
    let given = texts(named("langsmith", choices), &[("a.jsonl", lines)]);
    assert_eq!(check_counts(&given, 1, 2, 0)[0].agent, "writer");
}

#[test]
fn tensorzero_inferences_are_outcomes_once_they_are_judged() {
    let given = file(named("tensorzero", Choices::default()), "tensorzero.jsonl");
    let outcome = &check_counts(&given, 1, 2, 0)[0];
    assert_eq!(
        (&*outcome.agent, outcome.status, task(outcome)),
        ("gpt_5_mini", Status::Success, Some("write_haiku"))
    );
    // The rating is of the episode.
    assert_eq!((outcome.latency_ms, outcome.quality), (Some(840.0), Some(0.9)));
    let id = "0196c682-72e0-7c83-a92b-9d1a3c7630f2";
    assert_eq!(outcome.decision, Some(DecisionRef::Explicit(id.to_owned())));

    let inference = r#"{"id":"i1","function_name":"f","variant_name":"v","episode_id":"e1"}"#;
    let feedback = |value: &str, metric: &str| {
        format!(r#"{{"id":"x","target_id":"i1","metric_name":"{metric}","value":{value}}}"#)
    };
    let read = |choices: Choices, judged: &[String]| {
        // In files of their own, in any order.
        let judged = judged.join("\n");
        texts(named("tensorzero", choices), &[("i.jsonl", inference), ("f.jsonl", &judged)])
    };
    let given = read(Choices::default(), &[feedback("false", "done")]);
    assert_eq!(check_counts(&given, 1, 1, 0)[0].status, Status::Failure);
    let given = read(Choices::default(), &[feedback("0.75", "rating")]);
    let outcome = &check_counts(&given, 1, 1, 0)[0];
    assert_eq!((outcome.status, outcome.quality), (Status::Partial, Some(0.75)));
    // Without a verdict it is not known how it ended.
    check_counts(
        &texts(named("tensorzero", Choices::default()), &[("i.jsonl", inference)]),
        0,
        1,
        0,
    );
    let both = [feedback("true", "done"), feedback("false", "polite"), feedback("0.5", "rating")];
    assert_eq!(read(Choices::default(), &both).refusals.len(), 1);
    let outcome = &check_counts(&read(scores(&["polite", "rating"]), &both), 1, 3, 0)[0];
    assert_eq!((outcome.status, outcome.quality), (Status::Failure, Some(0.5)));
}

#[test]
fn inspect_samples_are_outcomes_of_the_model() {
    let given = file(named("inspect", Choices::default()), "inspect.json");
    let outcomes = check_counts(&given, 6, 0, 0);
    let read = |outcome: &Outcome| (outcome.status, outcome.quality, outcome.latency_ms);
    assert_eq!(
        outcomes.iter().map(read).collect::<Vec<_>>(),
        [
            (Status::Success, Some(1.0), Some(2_250.0)),
            (Status::Failure, Some(0.0), Some(1_000.0)),
            (Status::Partial, Some(0.5), Some(1_000.0)),
            (Status::Partial, Some(0.25), Some(1_000.0)),
            (Status::Failure, Some(0.0), None),
            (Status::Failure, None, Some(3_000.0)),
        ]
    );
    assert_eq!(
        (&*outcomes[0].agent, task(&outcomes[0])),
        ("openai/gpt-4o", Some("security_guide"))
    );
    assert_eq!(given.events[0]["event_id"], "Jx5kEzqRTBcXFkzQm4uEkV");
    assert_eq!(given.events[4]["event_id"], "inspect:run1:5:1");
    let error = try_texts(named("inspect", Choices::default()), &[("a.eval", "PK\u{3}\u{4}")]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("a.eval") && error.contains("inspect log convert --to json"), "{error}");
}

#[test]
fn promptfoo_results_are_outcomes_of_the_provider() {
    let given = file(named("promptfoo", Choices::default()), "promptfoo.json");
    let outcomes = check_counts(&given, 2, 0, 0);
    let [one, two] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!((&*one.agent, one.status, task(one)), ("mini", Status::Success, Some("summary")));
    assert_eq!((one.latency_ms, one.cost, one.quality), (Some(812.0), Some(0.000_4), Some(0.8)));
    assert_eq!((&*two.agent, two.status, task(two)), ("exec:agent.sh", Status::Failure, None));
    assert_eq!(given.events[0]["event_id"], "promptfoo:eval-abc-2026-01-01T00:00:00:r1");
    let given = file(named("promptfoo", scores(&["brevity"])), "promptfoo.json");
    assert_eq!(check_counts(&given, 2, 0, 0)[0].quality, Some(0.7));
}

#[test]
fn samples_of_lm_eval_are_outcomes_of_the_model_in_the_path() {
    let name = "lm-eval/EleutherAI__pythia-160m/samples_arc_easy_2026-01-01T00-00-00.123456.jsonl";
    let given = file(named("lm-eval", scores(&["acc"])), name);
    let outcomes = check_counts(&given, 3, 0, 0);
    let statuses: Vec<Status> = outcomes.iter().map(|outcome| outcome.status).collect();
    assert_eq!(statuses, [Status::Success, Status::Failure, Status::Failure]);
    assert_eq!(
        (&*outcomes[0].agent, task(&outcomes[0])),
        ("EleutherAI__pythia-160m", Some("arc_easy"))
    );
    // A document counts once, however many filters its answer went through.
    assert_eq!(outcomes[1].identity, outcomes[2].identity);
    assert_ne!(outcomes[0].identity, outcomes[1].identity);
    let given = file(named("lm-eval", Choices::default()), name);
    assert!(given.refusals[0].detail.contains("--score has to name one"), "{given:?}");
    // Older ones do not list their metrics.
    let old = [("m/samples_t_d.jsonl", r#"{"doc_id": 0, "acc": 1.0}"#)];
    check_counts(&texts(named("lm-eval", scores(&["acc"])), &old), 1, 0, 0);
    let given = texts(named("lm-eval", Choices::default()), &old);
    let why = "samples_t_d.jsonl, line 1: status is missing: nothing is set of {score}; --score names \
               which {score} is meant";
    assert_eq!(given.refusals[0].detail, why);
    let error = try_texts(named("lm-eval", scores(&["acc"])), &[("samples.jsonl", "{}")]);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("{model}/samples_{task}_{date}.jsonl"), "{error}");
}

#[test]
fn a_report_of_swe_bench_is_an_outcome_per_instance() {
    let given = file(named("swe-bench", Choices::default()), "gpt-4.1.run1.json");
    let outcomes = check_counts(&given, 3, 0, 0);
    let read = |outcome: &Outcome| (outcome.status, task(outcome).map(str::to_owned));
    assert_eq!(
        outcomes.iter().map(read).collect::<Vec<_>>(),
        [
            // It is among the errors, too.
            (Status::Cancelled, Some("astropy__astropy".to_owned())),
            (Status::Success, Some("django__django".to_owned())),
            (Status::Failure, Some("sympy__sympy".to_owned())),
        ]
    );
    assert_eq!(outcomes[0].agent, "gpt-4.1");
    assert_eq!(given.events[1]["event_id"], "swe-bench:gpt-4.1:run1:django__django-1");
}

#[test]
fn decisions_of_vowpal_wabbit_are_outcomes_of_the_chosen_action() {
    let given = file(named("vw", Choices::default()), "vw.dsjson");
    // Passed over are a dangling reward and what is not to be learned; lines of checkpoints are none.
    let outcomes = check_counts(&given, 3, 2, 1);
    let read = |outcome: &Outcome| (outcome.agent.clone(), outcome.status, outcome.quality);
    assert_eq!(
        outcomes.iter().map(read).collect::<Vec<_>>(),
        [
            ("Latte".to_owned(), Status::Success, Some(1.0)),
            ("Cold brew".to_owned(), Status::Failure, Some(0.0)),
            ("Cappucino".to_owned(), Status::Partial, Some(0.5)),
        ]
    );
    let expected = [
        ("FromUrl.timeofday".to_owned(), Feature::Text("Afternoon".to_owned())),
        ("FromUrl.weather".to_owned(), Feature::Text("Sunny".to_owned())),
        ("GUser.age".to_owned(), Feature::Number(31.0)),
    ];
    assert_eq!(outcomes[0].context, expected);
    assert_eq!(given.events[0]["event_id"], "e1");
    let why = "vw.dsjson, line 7: status: _label_cost is -2.0, allowed is a number from 0 to 1";
    assert_eq!(given.refusals[0].detail, why);
}

/// Every format with the name and the text of a file that it reads.
fn samples() -> Vec<(&'static str, PathBuf, Vec<u8>)> {
    let lm_eval =
        "lm-eval/EleutherAI__pythia-160m/samples_arc_easy_2026-01-01T00-00-00.123456.jsonl";
    let files = [
        ("litellm", "litellm.json"),
        ("langfuse", "langfuse_observations.jsonl"),
        ("langsmith", "langsmith.json"),
        ("tensorzero", "tensorzero.jsonl"),
        ("inspect", "inspect.json"),
        ("promptfoo", "promptfoo.json"),
        ("lm-eval", lm_eval),
        ("swe-bench", "gpt-4.1.run1.json"),
        ("vw", "vw.dsjson"),
    ];
    assert_eq!(files.map(|(name, _)| name), MAPS.map(|(name, _)| name));
    let read = |(name, file): (&'static str, &str)| {
        let path = fixture(file);
        let bytes = std::fs::read(&path).unwrap();
        (name, path, bytes)
    };
    files.map(read).to_vec()
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(2_000) })]

    /// Files are cut and flipped, and keys lose their values to others: what comes of it are events that
    /// can be read as JSON, refusals, and errors.
    #[test]
    fn no_bytes_make_it_panic(
        which in 0..MAPS.len(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        values in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::sample::select(vec!["null", "[]", "{}", "-1e308", "\"\"", "[[1]]", "9e99"])),
            0..4,
        ),
        end in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let (name, path, mut bytes) = samples().swap_remove(which);
        for (at, value) in values {
            let colons: Vec<usize> =
                (0..bytes.len()).filter(|place| bytes[*place..].starts_with(b"\":")).collect();
            let from = colons[at.index(colons.len())] + 2;
            let to = from + bytes[from..].iter().position(|byte| b",}]".contains(byte)).unwrap_or(0);
            bytes.splice(from..to, value.bytes());
        }
        for (at, byte) in flips {
            let place = at.index(bytes.len());
            bytes[place] = byte;
        }
        if is_cut {
            bytes.truncate(end.index(bytes.len()));
        }
        let mut reader = named(name, scores(&["acc"]));
        let mut open =
            || -> io::Result<Box<dyn BufRead>> { Ok(Box::new(io::Cursor::new(bytes.clone()))) };
        let _ = reader.collect(&path, &mut open);
        let _ = reader.read(&path, &mut open, |_, taken| {
            if let Taken::Event(event) | Taken::Refused(_, event) = taken {
                assert!(serde_json::from_slice::<Value>(event).is_ok_and(|event| event.is_object()));
            }
            ControlFlow::Continue(())
        });
        let _ = reader.body(&bytes);
    }
}
