//! Files of other tools: imported into a directory and through a service, once however often.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::{Service, Setup, program};

const LITELLM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/formats/litellm.json");
const TELEMETRY: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/otlp/traces.invoke_agent.generated.json");

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for a directory")
}

fn import(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = program();
    command.arg("import").args(arguments).env("MODEL_STORAGE_PATH", directory.join("models"));
    command
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    command.output().expect("the program can be run")
}

/// What it prints.
#[track_caller]
fn printed(command: &mut Command) -> String {
    let output = run(command);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complained}");
    String::from_utf8(output.stdout).expect("it prints text").trim_end().to_owned()
}

/// It ends with the code, and says this.
#[track_caller]
fn check_failure(command: &mut Command, code: i32, said: &[&str]) {
    let output = run(command);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {complained}");
    for said in said {
        assert!(complained.contains(said), "{complained} does not say {said}");
    }
}

/// The file's content on a line.
fn on_a_line(from: &str, to: &Path) {
    let text = std::fs::read_to_string(from).expect("it is there");
    let value: Value = serde_json::from_str(&text).expect("it is JSON");
    std::fs::write(to, format!("{value}\n")).expect("there is room");
}

/// No file of the folder holds the text.
#[track_caller]
fn check_without(folder: &Path, text: &str) {
    let mut folders = vec![folder.to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("it is there") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let bytes = std::fs::read(&path).expect("it can be read");
            let found = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            assert!(!found, "{} holds {text}", path.display());
        }
    }
    assert!(files > 0);
}

#[track_caller]
fn performance(service: &Service, agent: &str) -> Value {
    let rows = service.get("/api/learning/agents/performance").json();
    let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["agent_name"] == agent));
    row.unwrap_or_else(|| panic!("{agent} is not in {rows}")).clone()
}

#[test]
fn a_foreign_file_is_imported_once_however_often_and_whichever_way() {
    let home = directory();
    let twice = |arguments: &[&str], first: &str, again: &str| {
        assert_eq!(printed(&mut import(home.path(), arguments)), first);
        assert_eq!(printed(&mut import(home.path(), arguments)), again);
    };
    twice(
        &["--from", "litellm", LITELLM],
        "accepted=2 duplicates=0 rejected=0",
        "accepted=0 duplicates=2 rejected=0",
    );
    let telemetry = home.path().join("traces.jsonl");
    on_a_line(TELEMETRY, &telemetry);
    let telemetry = telemetry.to_str().expect("it is text");
    twice(
        &["--from", "otlp", telemetry],
        "accepted=3 duplicates=0 rejected=0",
        "accepted=0 duplicates=3 rejected=0",
    );
    let service = Setup::new(&home.path().join("models")).start();
    let url = service.url("");
    for (arguments, expected) in [
        (["--from", "litellm", LITELLM], "accepted=0 duplicates=2 rejected=0"),
        (["--from", "otlp", telemetry], "accepted=0 duplicates=3 rejected=0"),
    ] {
        assert_eq!(printed(import(home.path(), &arguments).args(["--url", &url])), expected);
    }
    let row = performance(&service, "gpt-4o");
    assert_eq!((&row["total_executions"], &row["success_rate"]), (&2.into(), &0.5.into()));
    service.stop();
}

#[test]
fn several_files_are_counted_together() {
    let home = directory();
    let lines = home.path().join("calls.jsonl");
    let record = r#"{"litellm_call_id":"x","model":"m","status":"success"}"#;
    std::fs::write(&lines, format!("{record}\nno json\n{record}\n")).expect("there is room");
    let lines = lines.to_str().expect("it is text");
    let mut command = import(home.path(), &["--from", "litellm", LITELLM, lines]);
    assert_eq!(printed(&mut command), "accepted=3 duplicates=1 rejected=1 not_json=1");
    let mut command = import(home.path(), &["--from", "litellm", "--agents", "m", LITELLM, lines]);
    let expected = "accepted=0 duplicates=2 rejected=1 not_json=1 passed_over=2";
    assert_eq!(printed(&mut command), expected);
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/data/sample_outcomes.jsonl");
    let mut own = import(&home.path().join("own"), &[sample, sample]);
    assert_eq!(printed(&mut own), "accepted=816 duplicates=816 rejected=0");
}

#[test]
fn what_is_refused_is_kept_with_its_place_and_without_its_content() {
    let home = directory();
    let file = home.path().join("calls.jsonl");
    let lines = "{\"litellm_call_id\":\"1\",\"model\":\"m\",\"status\":\"success\",\"messages\":\"MARKER\"}\n\
                 {\"litellm_call_id\":\"2\",\"status\":\"success\",\"messages\":\"MARKER\"}\n\
                 {\"messages\":\"MARKER\"\n";
    std::fs::write(&file, lines).expect("there is room");
    let file = file.to_str().expect("it is text");
    let expected = "accepted=1 duplicates=0 rejected=2 missing_agent_name=1 not_json=1";
    assert_eq!(printed(&mut import(home.path(), &["--from", "litellm", file])), expected);
    let service = Setup::new(&home.path().join("models")).start();
    let letters = service.get("/api/learning/dead-letters").json();
    let details: Vec<&str> = letters["dead_letters"]
        .as_array()
        .expect("it is a list")
        .iter()
        .map(|letter| letter["detail"].as_str().expect("it is a text"))
        .collect();
    assert!(details[0].starts_with("calls.jsonl, line 3: it is not JSON"), "{details:?}");
    assert!(details[1].starts_with("calls.jsonl, line 2: agent_name is missing"), "{details:?}");
    service.stop();
    check_without(&home.path().join("models"), "MARKER");
}

#[test]
fn a_map_is_checked_and_shows_what_it_gives() {
    let home = directory();
    let map = home.path().join("map.json");
    std::fs::write(
        &map,
        r#"{"about": "x", "event": {"agent_name": "who", "status": "how", "latency_ms": "ms"}}"#,
    )
    .expect("there is room");
    let file = home.path().join("runs.jsonl");
    let record = r#"{"who":"a","how":"success","ms":-1}"#;
    let lines = format!("{record}\n{}\n{}", r#"{"who":"b"}"#, format!("{record}\n").repeat(9));
    std::fs::write(&file, lines).expect("there is room");
    let [map, file] = [&map, &file].map(|path| path.to_str().expect("it is text"));
    let shown = printed(&mut import(home.path(), &["--map", map, "--map-check", file]));
    let expected = format!(
        "{}\n{}\n{}",
        "{\"agent_name\":\"a\",\"latency_ms\":-1,\"status\":\"success\"}\n  left out: latency_ms",
        "refused: missing_status: runs.jsonl, line 2: status is missing: nothing is set of how",
        ["{\"agent_name\":\"a\",\"latency_ms\":-1,\"status\":\"success\"}\n  left out: latency_ms";
            3]
            .join("\n")
    );
    assert_eq!(shown, expected);
    assert!(!home.path().join("models").exists(), "nothing was taken");
    // Without identities of their own, records are told by their places.
    let expected =
        "accepted=10 duplicates=0 rejected=1 missing_status=1 dropped_fields=10 latency_ms=10";
    assert_eq!(printed(&mut import(home.path(), &["--map", map, file])), expected);
    let again = "accepted=0 duplicates=10 rejected=1 missing_status=1";
    let other: &[&str] = &["--map", map, "--task-type", "other", file];
    for arguments in [&["--map", map, file], other] {
        assert_eq!(printed(&mut import(home.path(), arguments)), again);
    }

    std::fs::write(
        home.path().join("wrong.json"),
        "{\n\"about\": \"x\",\n\"event\": {\"agent\": \"who\"}}",
    )
    .expect("there is room");
    let wrong = home.path().join("wrong.json");
    let wrong = wrong.to_str().expect("it is text");
    let said = ["wrong.json", "agent", "agent_name?", "line 3"];
    check_failure(&mut import(home.path(), &["--map", wrong, file]), 2, &said);
}

#[test]
fn arguments_that_do_not_belong_together_are_refused() {
    let home = directory();
    for (arguments, said) in [
        (&["--from", "mlflow", LITELLM][..], "litellm"),
        (&["--from", "litellm", "--map", LITELLM, LITELLM], "cannot be used with"),
        (&["--map-check", LITELLM], "--from"),
        (&["--agents", "a", LITELLM], "--from"),
    ] {
        check_failure(&mut import(home.path(), arguments), 2, &[said]);
    }
    let missing = home.path().join("missing.json");
    let missing = missing.to_str().expect("it is text");
    check_failure(&mut import(home.path(), &["--from", "litellm", missing]), 1, &["missing.json"]);
    let text = home.path().join("words.json");
    std::fs::write(&text, "words\n").expect("there is room");
    let text = text.to_str().expect("it is text");
    let said = ["nothing of", "words.json, line 1: it is not JSON"];
    check_failure(&mut import(home.path(), &["--from", "litellm", text]), 1, &said);
}

#[test]
fn every_format_is_imported_once_by_its_own_identities() {
    const LM_EVAL: &str =
        "lm-eval/EleutherAI__pythia-160m/samples_arc_easy_2026-01-01T00-00-00.123456.jsonl";
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats");
    let home = directory();
    let check = |arguments: &[&str], files: &[&str], accepted: u64, known: u64, rest: &str| {
        let files: Vec<String> =
            files.iter().map(|file| fixtures.join(file).display().to_string()).collect();
        let arguments: Vec<&str> = ["--from"]
            .into_iter()
            .chain(arguments.iter().copied())
            .chain(files.iter().map(|f| &**f))
            .collect();
        let first = printed(&mut import(home.path(), &arguments));
        assert_eq!(first, format!("accepted={accepted} duplicates={known} {rest}"));
        let again = printed(&mut import(home.path(), &arguments));
        assert_eq!(again, format!("accepted=0 duplicates={} {rest}", accepted + known));
    };
    let observations = "langfuse_observations.jsonl";
    check(&["langfuse"], &[observations, "langfuse_score.json"], 2, 0, "rejected=0 passed_over=2");
    check(&["langsmith"], &["langsmith.json"], 1, 0, "rejected=0");
    check(&["tensorzero"], &["tensorzero.jsonl"], 1, 0, "rejected=0 passed_over=2");
    check(&["inspect"], &["inspect.json"], 6, 0, "rejected=0");
    check(&["promptfoo"], &["promptfoo.json"], 2, 0, "rejected=0");
    check(&["lm-eval", "--score", "acc"], &[LM_EVAL], 2, 1, "rejected=0");
    check(&["swe-bench"], &["gpt-4.1.run1.json"], 3, 0, "rejected=0");
    check(&["vw"], &["vw.dsjson"], 3, 0, "rejected=1 unknown_status=1 passed_over=2");

    let score = fixtures.join("langfuse_score.json").display().to_string();
    let said = ["langfuse_score.json", "its verdicts judge records that no file holds"];
    check_failure(&mut import(home.path(), &["--from", "langfuse", &score]), 1, &said);
    let archive = home.path().join("log.eval");
    std::fs::write(&archive, b"PK\x03\x04rest").expect("there is room");
    let archive = archive.display().to_string();
    let said = ["log.eval", "inspect log convert --to json"];
    check_failure(&mut import(home.path(), &["--from", "inspect", &archive]), 1, &said);
}

#[test]
fn objects_that_go_over_several_lines_are_read_too() {
    let home = directory();
    let text = std::fs::read_to_string(LITELLM).expect("it is there");
    let records: Vec<Value> = serde_json::from_str(&text).expect("it is JSON");
    let file = home.path().join("calls.json");
    let pretty = records.iter().map(|record| format!("{record:#}\n"));
    std::fs::write(&file, pretty.collect::<String>()).expect("there is room");
    let file = file.display().to_string();
    let expected = "accepted=2 duplicates=0 rejected=0";
    assert_eq!(printed(&mut import(home.path(), &["--from", "litellm", &file])), expected);
}

#[test]
fn standard_input_is_read_as_often_as_a_format_takes() {
    let home = directory();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/formats/tensorzero.jsonl");
    let input = std::fs::File::open(file).expect("it is there");
    let mut command = import(home.path(), &["--from", "tensorzero", "-"]);
    assert_eq!(printed(command.stdin(input)), "accepted=1 duplicates=0 rejected=0 passed_over=2");
}

const CALLS: &str = "/api/learning/outcomes/litellm";
const JSON: &str = "application/json";

/// A call as LiteLLM reports it, with a marker wherever content stands.
fn call(id: &str, status: &str, code: &str) -> Value {
    json!({
        "litellm_call_id": id, "status": status, "model": "gpt-4o", "model_group": "fast",
        "response_cost": 0.25, "response_time": 1.5, "endTime": 1_795_933_853.4,
        "messages": [{"role": "user", "content": "MARKER"}],
        "response": {"choices": [{"message": {"content": "MARKER"}}]},
        "error_str": "MARKER",
        "error_information": {"error_code": code, "error_message": "MARKER", "traceback": "MARKER"},
        "metadata": {"spend_logs_metadata": {"task_type": "review", "decision_id": "d1"}},
    })
}

#[test]
fn what_litellm_posts_is_learned_in_each_of_its_log_formats() {
    let home = directory();
    let service = Setup::new(&home.path().join("models")).start();
    let post = |body: &str| {
        let answer = service.post(&format!("{CALLS}?wait=true"), JSON, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        (answer["accepted"].clone(), answer["duplicates"].clone(), answer["rejected_total"].clone())
    };
    let calls =
        [call("1", "success", ""), call("2", "failure", "500"), call("3", "failure", "401")];
    let list = Value::from(calls.to_vec()).to_string();
    let lines = calls.each_ref().map(Value::to_string).join("\n");
    assert_eq!(post(&list), (3.into(), 0.into(), 0.into()));
    assert_eq!(post(&lines), (0.into(), 3.into(), 0.into()));
    for one in &calls {
        assert_eq!(post(&one.to_string()), (0.into(), 1.into(), 0.into()));
    }
    assert_eq!(post(&format!("{:#}", call("4", "success", ""))), (1.into(), 0.into(), 0.into()));
    let nan = list.replace("0.25", "NaN").replace("\"1\"", "\"5\"");
    assert_eq!(post(&nan), (1.into(), 2.into(), 0.into()));
    let row = performance(&service, "fast");
    assert_eq!((&row["total_executions"], &row["samples"]), (&5.into(), &4.into()), "{row}");
    assert_eq!(row["success_rate"], 0.75);
    let scrape = service.get("/metrics").body;
    assert!(scrape.contains("events_accepted_total{source=\"litellm\"} 5"), "{scrape}");
    service.stop();
}

#[test]
fn no_content_of_a_call_is_kept_whatever_becomes_of_it() {
    let home = directory();
    let mut service = Setup::new(&home.path().join("models")).start();
    let unknown = call("2", "MARKED", "");
    let mut nameless = call("3", "success", "");
    nameless["model"] = Value::Null;
    nameless["model_group"] = "".into();
    let body = json!([call("1", "success", ""), unknown, nameless, "MARKER"]).to_string();
    let answer = service.post(CALLS, JSON, &body);
    assert_eq!(answer.status, 202, "{answer:?}");
    let rejected = answer.json()["rejected"].clone();
    let codes: Vec<&Value> =
        rejected.as_array().expect("it is a list").iter().map(|one| &one["code"]).collect();
    assert_eq!(codes, ["unknown_status", "missing_agent_name", "not_an_object"], "{rejected}");
    assert_eq!(rejected[1]["index"], 2);
    for (body, status) in [
        (json!([nameless]).to_string(), 422),
        ("{\"messages\": \"MARKER\"".to_owned(), 422),
        ("[{\"messages\": \"MARKER\"".to_owned(), 400),
        ("\"MARKER\"".to_owned(), 422),
    ] {
        let answer = service.post(CALLS, JSON, &body);
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert!(!answer.body.contains("MARKER"), "{answer:?}");
    }
    let letters = service.get("/api/learning/dead-letters").json();
    let letters = letters["dead_letters"].as_array().expect("it is a list");
    assert_eq!(letters.len(), 6, "{letters:?}");
    assert!(letters.iter().all(|letter| letter["source"] == "litellm"), "{letters:?}");
    assert!(!format!("{letters:?} {}", service.log()).contains("MARKER"));
    // Fed back, what is kept of them is read as an event, and refused again.
    let answer = service.post("/api/learning/dead-letters/replay", JSON, "{}").json();
    assert_eq!(answer["accepted"], 0, "{answer}");
    service.stop();
    check_without(&home.path().join("models"), "MARKER");
}
