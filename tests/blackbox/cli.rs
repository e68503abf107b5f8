//! The command line: arguments, output, exit codes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::harness::{Service, Setup, eventually, free_address, program};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/sample_outcomes.jsonl");
const USAGE: i32 = 2;
const FAILURE: i32 = 1;

/// What a run left behind.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

#[track_caller]
fn run(command: &mut Command, input: &[u8]) -> Run {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be run");
    // A program that ends before it has read everything is judged by what it says.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    let output = child.wait_with_output().expect("it is our child");
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("it prints UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("it prints UTF-8"),
    }
}

/// The output of a run that must succeed.
#[track_caller]
fn printed(command: &mut Command, input: &[u8]) -> String {
    let run = run(command, input);
    assert_eq!(run.code, Some(0), "{run:?}");
    run.stdout
}

/// A run must end with this code and one line that names all of these.
#[track_caller]
fn check_failure(command: &mut Command, code: i32, named: &[&str]) {
    let run = run(command, b"");
    assert_eq!(run.code, Some(code), "{run:?}");
    assert_eq!(run.stderr.trim_end().lines().count(), 1, "{run:?}");
    for name in named {
        assert!(run.stderr.contains(name), "{name:?} is not in {:?}", run.stderr);
    }
    assert!(run.stdout.is_empty(), "{run:?}");
}

/// An import into the storage in `directory`.
fn import(directory: &Path, file: &str) -> Command {
    let mut command = program();
    command.args(["import", file]).env("MODEL_STORAGE_PATH", directory);
    command
}

fn import_to(service: &Service, file: &str) -> Command {
    let mut command = program();
    command.args(["import", file, "--url", &service.url("")]);
    command
}

/// The counts that an import prints, by name.
#[track_caller]
fn counts(printed: &str) -> BTreeMap<String, u64> {
    let last = printed.trim_end().lines().last().expect("it prints a line");
    let pairs = last.split(' ').map(|pair| pair.split_once('=').expect("it is name=count"));
    pairs.map(|(name, count)| (name.to_owned(), count.parse().expect("it is a count"))).collect()
}

#[track_caller]
fn check_counts(printed: &str, expected: &[(&str, u64)]) {
    let expected: BTreeMap<String, u64> =
        expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    assert_eq!(counts(printed), expected, "{printed}");
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for a directory")
}

#[track_caller]
fn row(service: &Service, query: &str, agent: &str) -> Value {
    let rows = service.get(&format!("/api/learning/agents/performance{query}")).json();
    let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["agent_name"] == agent));
    row.unwrap_or_else(|| panic!("{agent} is not in {rows}")).clone()
}

#[track_caller]
fn close(seen: &Value, expected: f64) {
    let seen = seen.as_f64().expect("it is a number");
    assert!((seen - expected).abs() < 1e-9, "{seen} is not {expected}");
}

fn caps(service: &Service) -> Value {
    service.get("/api/learning/status").json()["caps"].clone()
}

#[test]
fn the_sample_is_imported_once_however_often_it_is_read() {
    let directory = directory();
    let first = printed(&mut import(directory.path(), SAMPLE), b"");
    check_counts(&first, &[("accepted", 816), ("duplicates", 0), ("rejected", 0)]);
    let again = printed(&mut import(directory.path(), SAMPLE), b"");
    check_counts(&again, &[("accepted", 0), ("duplicates", 816), ("rejected", 0)]);

    let service = Setup::new(directory.path()).start();
    check_counts(
        &printed(&mut import_to(&service, SAMPLE), b""),
        &[("accepted", 0), ("duplicates", 816), ("rejected", 0)],
    );
    let rows = service.get("/api/learning/agents/performance").json();
    let rows = rows.as_array().expect("it is an array");
    assert!(rows.iter().all(|row| row["total_executions"] == 204), "{rows:?}");
    assert_eq!(service.get("/api/learning/metrics").json()["samples_processed"], 811);
    let events = service.get("/api/learning/events?limit=1000").json();
    let imports: Vec<&Value> = events["events"]
        .as_array()
        .expect("it is an array")
        .iter()
        .filter(|event| event["event_type"] == "import")
        .map(|event| &event["batch_size"])
        .collect();
    assert_eq!(imports, [0, 816], "each import is a learning event, the newest first");
    // What README promises of the sample: each agent is best at something else.
    for (task_type, best) in [
        ("code_review", "ReflectionAgent"),
        ("compliance_analysis", "ReActAgent"),
        ("customer_support", "PlanExecuteAgent"),
        ("data_extraction", "ToolUseAgent"),
    ] {
        let question = json!({"task_type": task_type, "explore": false});
        let answer = service.post_json("/api/learning/predict/agent-selection", &question).json();
        assert_eq!(answer["recommendations"][0]["agent_name"], best, "{task_type}");
    }
}

#[test]
fn importing_through_a_service_learns_what_importing_into_the_storage_learns() {
    let (here, there) = (directory(), directory());
    printed(&mut import(here.path(), SAMPLE), b"");
    let service = Setup::new(there.path()).start();
    let sent = printed(&mut import_to(&service, SAMPLE), b"");
    check_counts(&sent, &[("accepted", 816), ("duplicates", 0), ("rejected", 0)]);
    service.learn("");
    let digest = service.digest();
    service.stop();
    assert_eq!(Setup::new(here.path()).start().digest(), digest);
}

#[test]
fn a_service_can_be_started_with_recorded_outcomes() {
    /// Ends the service, also when an assertion fails.
    struct Ending(std::process::Child);
    impl Drop for Ending {
        fn drop(&mut self) {
            // It may have ended already.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let directory = directory();
    for (accepted, duplicates) in [(816, 0), (816, 816)] {
        let address = free_address();
        let mut command = Setup::new(directory.path()).command(address);
        command.args(["--import", SAMPLE]).stdout(Stdio::null()).stderr(Stdio::null());
        let _ending = Ending(command.spawn().expect("the program can be run"));
        eventually("the file is imported", || {
            let answer = ureq::get(format!("http://{address}/api/learning/metrics")).call();
            let text = answer.ok()?.body_mut().read_to_string().ok()?;
            let metrics: Value = serde_json::from_str(&text).ok()?;
            let seen = (metrics["accepted"].as_u64()?, metrics["duplicates"].as_u64()?);
            (seen == (accepted, duplicates) && metrics["samples_processed"] == 811).then_some(())
        });
    }
}

const TABLE: &str = "\
agent_name,status,latency_ms,quality_score,task_type,context.domain,context.size,metadata.task_type,tenant_id,comment
amy,success,100,0.5,t,law,3,,,first
amy,partial,,0.25,,,,u,,\"quoted, with a comma\"
amy,failure,300,,t,tax,,,,
bob,success,,,,,,,red,
";

#[track_caller]
fn check_table(service: &Service) {
    service.learn("");
    let amy = row(service, "", "amy");
    assert_eq!(amy["total_executions"], 3);
    close(&amy["success_rate"], 1.25 / 3.0);
    close(&amy["avg_latency_ms"], 100.0);
    close(&amy["avg_quality"], 0.375);
    assert_eq!(row(service, "?task_type=t", "amy")["total_executions"], 2);
    assert_eq!(row(service, "?task_type=u", "amy")["total_executions"], 1);
    assert_eq!(row(service, "?tenant_id=red", "bob")["total_executions"], 1);
    let caps = caps(service);
    assert_eq!(caps["context_keys_per_tenant"]["used"], 2, "domain and size");
    assert_eq!(caps["context_values_per_key"]["used"], 2, "law and tax");
    let metrics = service.get("/api/learning/metrics").json();
    assert_eq!(metrics["dropped_fields"], json!({}), "an empty field is null");
}

#[test]
fn a_table_has_a_column_per_field() {
    let directory = directory();
    let file = directory.path().join("outcomes.csv");
    // As spreadsheets write it, too: with a mark at the start and both line ends.
    for (name, text) in [
        ("plain", TABLE.to_owned()),
        ("spreadsheet", format!("\u{feff}{}", TABLE.replace('\n', "\r\n"))),
    ] {
        std::fs::write(&file, text).expect("it can be written");
        let file = file.to_str().expect("it is UTF-8");
        let storage = directory.path().join(name);
        let all = [("accepted", 4), ("duplicates", 0), ("rejected", 0)];
        check_counts(&printed(&mut import(&storage, file), b""), &all);
        check_table(&Setup::new(&storage).start());
        let service = Setup::new(&directory.path().join(format!("{name}-service"))).start();
        check_counts(&printed(&mut import_to(&service, file), b""), &all);
        check_table(&service);
    }
}

#[test]
fn a_table_can_come_from_standard_input() {
    let directory = directory();
    let accepted = printed(&mut import(directory.path(), "-"), TABLE.as_bytes());
    check_counts(&accepted, &[("accepted", 4), ("duplicates", 0), ("rejected", 0)]);
    let again = printed(&mut import(directory.path(), "-"), TABLE.as_bytes());
    check_counts(&again, &[("accepted", 0), ("duplicates", 4), ("rejected", 0)]);
}

#[test]
fn an_import_of_which_nothing_is_accepted_fails_and_says_why() {
    #[track_caller]
    fn check(input: &str, counted: &[(&str, u64)], says: &str) {
        let (directory, storage) = (directory(), directory());
        let service = Setup::new(directory.path()).start();
        for mut command in [import(storage.path(), "-"), import_to(&service, "-")] {
            let run = run(&mut command, input.as_bytes());
            assert_eq!(run.code, Some(FAILURE), "{run:?}");
            check_counts(&run.stdout, counted);
            assert!(run.stderr.contains("nothing of - was accepted: "), "{run:?}");
            assert!(run.stderr.contains(says), "{run:?}");
        }
    }
    let none = [("accepted", 0), ("duplicates", 0)];
    check("", &[none[0], none[1], ("rejected", 0)], "it holds no outcome");
    check(
        "{\"agent_name\": \"amy\", \"status\": \"sucess\"}\n",
        &[none[0], none[1], ("rejected", 1), ("unknown_status", 1)],
        "the first was refused because status is \"sucess\"",
    );
    check(
        "agent_name,status,latency_ms\namy,success,1,5\n",
        &[none[0], none[1], ("rejected", 1), ("malformed_row", 1)],
        "the row has 4 cells and the header 3",
    );
}

#[test]
fn an_import_counts_what_it_dropped_by_name() {
    let input = concat!(
        r#"{"agent_name": "amy", "status": "success", "latency_ms": -1, "cost": 0.5}"#,
        "\n",
        r#"{"agent_name": "amy", "status": "OK", "context": {"tags": ["a"], "k": 1, "n": null}}"#,
        "\n",
        r#"{"agent_name": "amy", "status": "success", "latency_ms": "soon"}"#,
        "\n"
    );
    let expected = [
        ("accepted", 3),
        ("duplicates", 0),
        ("rejected", 0),
        ("dropped_fields", 4),
        ("context_list", 1),
        ("context_null", 1),
        ("latency_ms", 2),
    ];
    let (here, there) = (directory(), directory());
    let service = Setup::new(there.path()).start();
    for mut command in [import(here.path(), "-"), import_to(&service, "-")] {
        check_counts(&printed(&mut command, input.as_bytes()), &expected);
    }
}

#[test]
fn a_table_whose_header_names_no_agent_is_refused() {
    let directory = directory();
    let file = directory.path().join("outcomes.csv");
    std::fs::write(&file, "agent,status\namy,success\n").expect("it can be written");
    let file = file.to_str().expect("it is UTF-8");
    check_failure(&mut import(directory.path(), file), FAILURE, &["agent_name", "outcomes.csv"]);
}

const MIXED: &str = r#"{"agent_name": "amy", "status": "success"}

garbage
{"agent_name": "amy", "status": "success"}
{"agent_name": "amy"}
{"status": "failure"}
{"agent_name": "amy", "status": "success", "event_id": "1"}
more garbage
{"agent_name": "amy", "status": "failure", "event_id": "1"}
{"agent_name": "amy", "status": "success", "event_id": ""}
{"agent_name": "amy", "status": "success", "metadata": {"drift": NaN}}
{"specversion": "1.0", "type": "x", "data": {"agent_name": "amy", "status": "success"}}
"#;
/// What the lines above are.
const MIXED_COUNTS: [(&str, u64); 7] = [
    ("accepted", 6),
    ("duplicates", 1),
    ("conflicting", 1),
    ("rejected", 4),
    ("missing_agent_name", 1),
    ("missing_status", 1),
    ("not_json", 2),
];
const MIXED_AGAIN: [(&str, u64); 7] = [
    ("accepted", 0),
    ("duplicates", 7),
    ("conflicting", 1),
    ("rejected", 4),
    ("missing_agent_name", 1),
    ("missing_status", 1),
    ("not_json", 2),
];

#[test]
fn bad_lines_are_counted_by_reason_and_lines_without_an_identity_count_once() {
    let directory = directory();
    let command = || import(directory.path(), "-");
    check_counts(&printed(&mut command(), MIXED.as_bytes()), &MIXED_COUNTS);
    check_counts(&printed(&mut command(), MIXED.as_bytes()), &MIXED_AGAIN);
    let service = Setup::new(directory.path()).start();
    assert_eq!(row(&service, "", "amy")["total_executions"], 6);
    let letters = service.get("/api/learning/dead-letters").json();
    let letters = letters["dead_letters"].as_array().expect("it is an array");
    assert_eq!(letters.len(), 8);
    assert!(letters.iter().all(|letter| letter["source"] == "import"), "{letters:?}");
}

#[test]
fn an_import_through_a_service_counts_the_same() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let command = || import_to(&service, "-");
    check_counts(&printed(&mut command(), MIXED.as_bytes()), &MIXED_COUNTS);
    check_counts(&printed(&mut command(), MIXED.as_bytes()), &MIXED_AGAIN);
    service.learn("");
    assert_eq!(row(&service, "", "amy")["total_executions"], 6);
}

#[test]
fn bytes_that_are_no_text_are_a_rejected_line_and_not_the_end() {
    let directory = directory();
    let lines: &[u8] = b"{\"agent_name\":\"amy\",\"status\":\"success\"}\n\
        {\"agent_name\":\"\xff\",\"status\":\"success\"}\n\
        {\"agent_name\":\"amy\",\"status\":\"success\"}\n";
    let table: &[u8] = b"agent_name,status\namy,success\n\xff,success\namy,success\n";
    let expected = [("accepted", 2), ("duplicates", 0), ("rejected", 1), ("not_utf8", 1)];
    for (name, input) in [("lines", lines), ("table", table)] {
        let storage = directory.path().join(name);
        check_counts(&printed(&mut import(&storage, "-"), input), &expected);
    }
}

#[test]
fn a_mark_at_the_start_and_a_line_that_is_too_long_cost_no_other_line() {
    let directory = directory();
    let event = r#"{"agent_name": "amy", "status": "success"}"#;
    let marked = format!("\u{feff}{event}\n{event}\n");
    let accepted = printed(&mut import(directory.path(), "-"), marked.as_bytes());
    check_counts(&accepted, &[("accepted", 2), ("duplicates", 0), ("rejected", 0)]);

    let long = "x".repeat(3 * 1024 * 1024);
    let lines = format!("{event}\n{{\"agent_name\": \"{long}\"}}\n{event}\n{long}");
    let expected = [("accepted", 2), ("duplicates", 0), ("rejected", 2), ("too_large", 2)];
    let stored = directory.path().join("stored");
    check_counts(&printed(&mut import(&stored, "-"), lines.as_bytes()), &expected);
    let service = Setup::new(&directory.path().join("sent")).start();
    check_counts(&printed(&mut import_to(&service, "-"), lines.as_bytes()), &expected);
}

#[test]
fn a_storage_that_a_service_holds_is_left_to_it() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let mut command = import(directory.path(), SAMPLE);
    command.env("LISTEN_ADDR", service.address.to_string());
    let url = service.url("");
    check_failure(&mut command, FAILURE, &["in use", "--url", &url]);
    assert_eq!(service.get("/api/learning/metrics").json()["accepted"], 0);
    let mut second = Setup::new(directory.path()).command(free_address());
    let ended = run(&mut second, b"");
    assert_eq!(ended.code, Some(FAILURE), "{ended:?}");
    assert!(ended.stderr.contains("in use"), "{ended:?}");
}

#[test]
fn an_import_that_cannot_be_done_says_why() {
    let directory = directory();
    let missing = directory.path().join("missing.jsonl");
    let missing = missing.to_str().expect("it is UTF-8");
    check_failure(&mut import(directory.path(), missing), FAILURE, &[missing]);
    let nobody = format!("http://{}", free_address());
    let mut command = program();
    command.args(["predict", "--url", &nobody]);
    check_failure(&mut command, FAILURE, &[&nobody]);
    let mut command = program();
    command.args(["import", SAMPLE, "--url", "localhost:8000"]);
    check_failure(&mut command, USAGE, &["--url", "localhost:8000", "http://"]);
}

fn predict(service: &Service, arguments: &[&str]) -> Command {
    let mut command = program();
    command.arg("predict").args(["--url", &service.url("")]).args(arguments);
    command
}

#[test]
fn predict_prints_a_table_or_the_answer() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let nobody = printed(&mut predict(&service, &[]), b"");
    assert!(nobody.contains("no agent is known"), "{nobody}");

    printed(&mut import_to(&service, SAMPLE), b"");
    service.learn("");
    let question = ["--task-type", "code_review", "--context", "complexity=high", "--no-explore"];
    let table = printed(&mut predict(&service, &question), b"");
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 4, "{table}");
    assert_eq!(lines[0][..4], ["rank", "agent", "score", "expected"], "{table}");
    assert_eq!(lines[1][..2], ["1", "ReflectionAgent"], "{table}");
    assert_eq!(lines[1].last(), Some(&"established"), "{table}");
    let widths: Vec<Option<usize>> =
        table.lines().map(|line| line.find("established").or(line.find("evidence"))).collect();
    assert!(widths.windows(2).all(|two| two[0] == two[1]), "the columns are aligned: {table}");

    let mut arguments = question.to_vec();
    arguments.extend(["--format", "json", "--top-k", "2", "--seed", "7", "--explain"]);
    let answer = printed(&mut predict(&service, &arguments), b"");
    let answer: Value = serde_json::from_str(&answer).expect("it is JSON");
    assert_eq!(answer["recommendations"].as_array().map(Vec::len), Some(2));
    assert!(answer["recommendations"][0]["explanation"].is_object());
    assert!(answer["decision_id"].is_string());

    let arguments =
        ["--candidates", "new,ToolUseAgent", "--candidates", "other", "--format", "json"];
    let answer = printed(&mut predict(&service, &arguments), b"");
    let answer: Value = serde_json::from_str(&answer).expect("it is JSON");
    assert_eq!(answer["recommendations"].as_array().map(Vec::len), Some(3));
    let elsewhere = printed(&mut predict(&service, &["--tenant", "red"]), b"");
    assert!(elsewhere.contains("no agent is known"), "{elsewhere}");

    let mut arguments = question.to_vec();
    arguments.extend(["--objective", "cheap", "--min-success", "0.6"]);
    let table = printed(&mut predict(&service, &arguments), b"");
    assert!(table.contains("left out ") && table.contains(": min_success: with"), "{table}");
    arguments.extend(["--max-latency-ms", "1"]);
    let table = printed(&mut predict(&service, &arguments), b"");
    assert!(table.contains("      does not meet "), "{table}");
    assert!(!table.contains("left out"), "{table}");
    let wrong = ["--max-cost", "-1"];
    check_failure(&mut predict(&service, &wrong), FAILURE, &["constraints/max_cost", "422"]);

    let name = "x".repeat(257);
    check_failure(&mut predict(&service, &["--task-type", &name]), FAILURE, &["task_type", "422"]);
    check_failure(
        &mut predict(&service, &["--context", "no value"]),
        USAGE,
        &["--context", "KEY=VALUE"],
    );
}

#[test]
fn simulate_plays_against_the_service_and_prints_its_progress() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let mut command = program();
    command.args(["simulate", "--tasks", "50", "--window", "20", "--seed", "3"]);
    command.env("ONLINE_LEARNING_URL", service.url(""));
    let table = printed(&mut command, b"");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|row: &Vec<&str>| row.len() == 5 && row[0].contains('-'))
        .collect();
    let ranges: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(ranges, ["1-20", "21-40", "41-50"], "{table}");
    for row in &rows {
        for share in [row[1], row[3]] {
            let share: f64 = share.parse().expect("it is a number");
            assert!((0.0..=100.0).contains(&share), "{table}");
        }
        assert_eq!((row[2], row[4]), ("%", "%"));
    }
    let rows = service.get("/api/learning/agents/performance?tenant_id=simulation-3").json();
    let played: u64 = rows
        .as_array()
        .expect("it is an array")
        .iter()
        .filter_map(|row| row["total_executions"].as_u64())
        .sum();
    assert_eq!(played, 50, "{rows}");
    let tasks = caps(&service)["task_types_per_tenant"]["used"].clone();
    assert_eq!(tasks, 4, "each outcome was learned on the task type of its decision");
}

#[test]
fn simulate_shows_that_the_service_learns() {
    let directory = directory();
    // Nothing here is about durability.
    let service = Setup::new(directory.path()).with("SQLITE_SYNCHRONOUS", "normal").start();
    let mut command = program();
    command.args(["simulate", "--tasks", "800", "--window", "200", "--url", &service.url("")]);
    let table = printed(&mut command, b"");
    let shares: Vec<f64> = table
        .lines()
        .filter(|line| line.contains('-') && line.contains('%'))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
        .collect();
    assert_eq!(shares.len(), 4, "{table}");
    // A random choice has 25 %. In 14 runs the first window had 32 to 51 %, the last 94 to 99 %.
    assert!(shares[3] > shares[0] && shares[3] > 60.0, "{table}");
}

#[test]
fn a_replay_reports_reward_against_cost() {
    let directory = directory();
    let rows = directory.path().join("rows.csv");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let replay = |more: &[&OsStr]| {
        let mut command = program();
        command.arg("replay").arg(data.join("swe_bench_pro_outcomes.csv"));
        command.args(["--permutations", "3", "--out"]).arg(&rows).args(more);
        command
    };
    let prices = data.join("swe_bench_pro_prices.csv");
    let costs = [
        OsStr::new("--objective"),
        OsStr::new("success,balanced,cheap"),
        OsStr::new("--costs"),
        prices.as_os_str(),
    ];
    let table = printed(&mut replay(&costs), b"");
    let of = |policy: &str| -> (f64, f64) {
        let line = table.lines().find(|line| line.contains(&format!("{policy}  "))).expect(policy);
        let cost = line.split_whitespace().last().and_then(|cost| cost.parse().ok());
        let reward = line.split(" +- ").next().and_then(|text| text.rsplit(' ').next());
        let reward = reward.and_then(|reward| reward.parse().ok());
        (reward.expect("a reward"), cost.expect("a cost"))
    };
    let [success, balanced, cheap] = ["thompson", "thompson balanced", "thompson cheap"].map(of);
    // Every agent costs from 0.5 to 75. What weighs more is got more of.
    assert!(cheap.1 < balanced.1 && balanced.1 < success.1, "{table}");
    assert!(cheap.0 < balanced.0 && balanced.0 < success.0, "{table}");
    let written = std::fs::read_to_string(&rows).expect("it was written");
    assert_eq!(written.lines().count(), 1 + 3 * 3, "{written}");
    assert!(written.lines().next().is_some_and(|header| header.ends_with(",cost")), "{written}");

    // Without costs they are unknown, not zero, and have no say.
    let plain = printed(&mut replay(&["--objective".as_ref(), "success,cheap".as_ref()]), b"");
    let rest = |line: &str| {
        line.split_whitespace()
            .skip_while(|word| *word != "3")
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let lines: Vec<&str> = plain.lines().collect();
    assert_eq!(rest(lines[1]), rest(lines[2]), "{plain}");
    assert!(lines[1].ends_with("unknown"), "{plain}");

    let wrong = directory.path().join("wrong.csv");
    std::fs::write(&wrong, "agent,cost\na,-1\n").expect("there is room");
    check_failure(&mut replay(&["--costs".as_ref(), wrong.as_os_str()]), 1, &["wrong.csv", "-1"]);
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let mut command = program();
        let script = printed(command.args(["completions", shell]), b"");
        for word in ["online-learning", "import", "simulate", "storage-path"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let mut command = program();
    assert_eq!(run(command.args(["completions", "dos"]), b"").code, Some(USAGE));
    // Nobody reads: that is a failure, and no panic.
    let (reader, writer) = std::io::pipe().expect("there is a pipe");
    drop(reader);
    let mut command = program();
    command.args(["completions", "bash"]).stdout(writer);
    let output = command.output().expect("the program can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(FAILURE), 1), "{said}");
}

#[test]
fn help_shows_every_flag_with_its_environment_variable_and_default() {
    for arguments in [&["serve", "--help"][..], &["import", "--help"], &["--help"]] {
        let mut command = program();
        // A value in the environment may be a secret: it is not shown.
        command.env("MODEL_STORAGE_PATH", "/somewhere/else");
        let help = printed(command.args(arguments), b"");
        let unwrapped = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for (flag, variable, default) in [
            ("--enable-kafka", "ENABLE_KAFKA", ""),
            ("--kafka-bootstrap-servers", "KAFKA_BOOTSTRAP_SERVERS", ""),
            ("--kafka-outcome-topic", "KAFKA_OUTCOME_TOPIC", "agent-outcomes"),
            ("--kafka-consumer-group", "KAFKA_CONSUMER_GROUP", "model-updater"),
            ("--batch-size", "MODEL_BATCH_SIZE", "10"),
            ("--batch-timeout", "MODEL_BATCH_TIMEOUT", "30"),
            ("--storage-path", "MODEL_STORAGE_PATH", "./models"),
            ("--save-interval", "MODEL_SAVE_INTERVAL", "300"),
            ("--strategy", "MODEL_STRATEGY", "thompson"),
            ("--listen-addr", "LISTEN_ADDR", "127.0.0.1:8000"),
            ("--max-tenants", "MAX_TENANTS", "100"),
            ("--log", "RUST_LOG", "info"),
        ] {
            let shown = help.lines().any(|line| line.trim_start().starts_with(&format!("{flag} ")));
            assert!(shown, "{flag} is not in {help}");
            assert!(
                unwrapped.contains(&format!("[env: {variable}]")),
                "{variable} is not in {help}"
            );
            assert!(
                unwrapped.contains(&format!("[default: {default}]")) || default.is_empty(),
                "{flag}: {help}"
            );
        }
        // As many variables as flags that take a value, the URL of `import` excepted.
        let flags = help.lines().filter(|line| {
            let line = line.trim_start();
            (line.starts_with("--") && line.contains("<VALUE>")) || line.starts_with("--token-file")
        });
        assert_eq!(flags.count(), unwrapped.matches("[env: ").count(), "{help}");
        assert!(!help.contains("/somewhere/else"), "{help}");
    }
}

#[test]
fn a_wrong_setting_ends_the_program_with_its_name_value_and_what_is_allowed() {
    let directory = directory();
    for (variable, flag, value, allowed) in [
        ("MODEL_BATCH_SIZE", "--batch-size", "0", "1 to 100000"),
        ("MODEL_BATCH_SIZE", "--batch-size", "ten", "1 to 100000"),
        ("MODEL_BATCH_SIZE", "--batch-size", "-5", "1 to 100000"),
        ("MODEL_BATCH_TIMEOUT", "--batch-timeout", "NaN", "a number from 0"),
        ("MODEL_SAVE_INTERVAL", "--save-interval", "1.5", "a whole number from 0"),
        ("MODEL_STRATEGY", "--strategy", "greedy", "thompson, beta, moving_average or exponential"),
        ("LISTEN_ADDR", "--listen-addr", "somewhere", "an address and a port"),
        ("LISTEN_ADDR", "--listen-addr", "127.0.0.1:70000", "an address and a port"),
        ("MAX_TENANTS", "--max-tenants", "0", "a whole number from 1"),
        ("LOG_STYLE", "--log-style", "purple", "auto, always or never"),
        ("ENABLE_KAFKA", "--enable-kafka", "perhaps", "true or false"),
        ("KAFKA_OUTCOME_TOPIC", "--kafka-outcome-topic", "a b", "a topic's name"),
    ] {
        let storage = directory.path().join("storage");
        for subcommand in [&["serve"][..], &["import", SAMPLE], &[]] {
            let mut by_variable = program();
            by_variable.args(subcommand).env("MODEL_STORAGE_PATH", &storage).env(variable, value);
            check_failure(&mut by_variable, USAGE, &[variable, value, allowed]);
            let mut by_flag = program();
            by_flag.args(subcommand).env("MODEL_STORAGE_PATH", &storage).args([flag, value]);
            check_failure(&mut by_flag, USAGE, &[variable, value, allowed]);
        }
        assert!(!storage.exists(), "{variable}: nothing was touched");
    }
}

#[test]
fn a_flag_goes_before_the_environment_and_an_empty_variable_is_none() {
    let directory = directory();
    let mut command = Setup::new(&directory.path().join("storage"))
        .with("MODEL_BATCH_SIZE", "wrong")
        .with("MODEL_STRATEGY", "")
        .with("ENABLE_KAFKA", "")
        .command(free_address());
    command.args(["--batch-size", "0"]);
    let ended = run(&mut command, b"");
    assert_eq!(ended.code, Some(USAGE), "{ended:?}");
    assert!(ended.stderr.contains("\"0\"") && !ended.stderr.contains("wrong"), "{ended:?}");

    let service = Setup::new(&directory.path().join("storage"))
        .with("MODEL_STRATEGY", "")
        .with("ENABLE_KAFKA", "")
        .with("MODEL_BATCH_SIZE", "")
        .start();
    let status = service.get("/api/learning/status").json();
    assert_eq!((&status["batch_size"], &status["strategy"]), (&json!(10), &json!("thompson")));
}

#[test]
fn a_busy_port_is_named_and_leaves_the_storage_alone() {
    let directory = directory();
    let taken = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = taken.local_addr().expect("it is bound");
    let storage = directory.path().join("storage");
    let mut command = Setup::new(&storage).command(address);
    check_failure(&mut command, FAILURE, &[&address.to_string(), "LISTEN_ADDR"]);
    assert!(!storage.exists());
}

#[test]
fn a_directory_that_cannot_be_one_is_named() {
    let directory = directory();
    let file = directory.path().join("file");
    std::fs::write(&file, "not ours").expect("it can be written");
    let named = file.to_str().expect("it is UTF-8");
    let mut command = Setup::new(&file).command(free_address());
    check_failure(&mut command, FAILURE, &[named]);
    check_failure(&mut import(&file, SAMPLE), FAILURE, &[named]);
    assert_eq!(std::fs::read_to_string(&file).expect("it is still there"), "not ours");
}

#[test]
fn wrong_arguments_end_with_code_2_and_questions_about_it_with_0() {
    let check = |arguments: &[&str], code: i32, said: &str| {
        let mut command = program();
        let ended = run(command.args(arguments), b"");
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        let text = if code == 0 { &ended.stdout } else { &ended.stderr };
        assert!(text.contains(said), "{arguments:?}: {ended:?}");
    };
    check(&["--version"], 0, concat!("online-learning ", env!("CARGO_PKG_VERSION")));
    check(&["--help"], 0, "Exit status");
    check(&["--no-such-flag"], USAGE, "--no-such-flag");
    check(&["serve", "--no-such-flag"], USAGE, "--no-such-flag");
    check(&["no-such-command"], USAGE, "no-such-command");
    check(&["import"], USAGE, "FILE");
    check(&["predict", "--top-k", "0"], USAGE, "--top-k");
    check(&["predict", "--format", "xml"], USAGE, "table, json");
    check(&["simulate", "--window", "0"], USAGE, "--window");
    check(&["simulate", "--tasks", "many"], USAGE, "--tasks");
}
