//! `doctor` against sound and broken set-ups, and the commands that check and print the configuration.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use rdkafka::mocking::MockCluster;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::harness::{Service, Setup, eventually, free_address, program};

const SAMPLE: &str = include_str!("../../data/sample_outcomes.jsonl");

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for a directory")
}

/// What `doctor --json` finds, and its exit code.
struct Findings {
    code: i32,
    report: Value,
}

impl Findings {
    /// The check of that name.
    #[track_caller]
    fn of(&self, check: &str) -> &Value {
        let checks = self.report["checks"].as_array().expect("it is a list");
        let found = checks.iter().find(|found| found["check"] == check);
        found.unwrap_or_else(|| panic!("{check} is not in {:#}", self.report))
    }

    /// This check has this state, its finding says `says`, and there is something to do, unless it
    /// is all right.
    #[track_caller]
    fn expect(&self, check: &str, state: &str, says: &str) {
        let found = self.of(check);
        assert_eq!(found["state"], state, "{:#}", self.report);
        let finding = found["finding"].as_str().expect("it is text");
        assert!(finding.contains(says), "{says:?} is not in {found}");
        let needs_action = ["warn", "fail"].contains(&state);
        assert!(!needs_action || found["action"] != "", "{found}");
    }
}

fn doctor(settings: &[(&str, &str)]) -> Command {
    let mut command = program();
    command.arg("doctor").envs(settings.iter().copied());
    command
}

#[track_caller]
fn examine(settings: &[(&str, &str)]) -> Findings {
    let output = doctor(settings).arg("--json").output().expect("the program can be run");
    let said = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&said).unwrap_or_else(|error| {
        panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr))
    });
    let code = output.status.code().expect("it ends by itself");
    assert_eq!(code, if report["failed"] == 0 { 0 } else { 4 }, "{report:#}");
    assert_eq!(report["ok"], code == 0);
    Findings { code, report }
}

fn path(directory: &Path) -> &str {
    directory.to_str().expect("it is text")
}

fn beside(service: &Service, directory: &Path) -> Findings {
    let address = service.address.to_string();
    examine(&[("LISTEN_ADDR", &address), ("MODEL_STORAGE_PATH", path(directory))])
}

/// Settings of a service that does not run.
fn without_service<'a>(directory: &'a Path, address: &'a str) -> [(&'a str, &'a str); 2] {
    [("LISTEN_ADDR", address), ("MODEL_STORAGE_PATH", path(directory))]
}

#[test]
fn a_sound_service_has_nothing_wrong_with_it_while_it_runs_and_afterwards() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    service.learn(SAMPLE);
    let findings = beside(&service, directory.path());
    assert_eq!(findings.code, 0, "{:#}", findings.report);
    for check in [
        "configuration",
        "answers",
        "service",
        "storage",
        "database",
        "events",
        "learning",
        "update time",
        "model",
        "data",
        "priors",
        "context",
        "failures",
        "names",
        "units",
        "calibration",
    ] {
        assert_eq!(findings.of(check)["state"], "ok", "{:#}", findings.report);
    }
    findings.expect("events", "ok", "816 new");
    findings.expect("kafka", "skip", "off");

    let address = service.address.to_string();
    let printed = doctor(&without_service(directory.path(), &address)).output().expect("it runs");
    let printed = String::from_utf8(printed.stdout).expect("it is text");
    assert!(printed.lines().any(|line| line.starts_with("ok    database       it is sound")));
    assert!(printed.ends_with("17 ok, 0 warnings, 0 failed\n"), "{printed}");

    // It has held nothing up.
    assert_eq!(service.learn(r#"{"agent_name": "z", "status": "success"}"#)["accepted"], 1);
    service.stop();
    let findings = examine(&without_service(directory.path(), &address));
    findings.expect("service", "skip", "no service runs");
    findings.expect("model", "ok", "it can be restored");
    assert_eq!(findings.code, 0);
    Setup::new(directory.path()).start().stop();
}

#[test]
fn before_the_first_start_there_is_nothing_wrong() {
    let directory = directory();
    let address = free_address().to_string();
    let storage = directory.path().join("not/yet");
    let findings = examine(&without_service(&storage, &address));
    assert_eq!(findings.code, 0, "{:#}", findings.report);
    findings.expect("database", "skip", "the first start makes it");
    assert!(!storage.exists(), "looking makes nothing");
}

#[test]
fn a_wrong_setting_is_named() {
    let directory = directory();
    let findings =
        examine(&[("MODEL_STORAGE_PATH", path(directory.path())), ("MODEL_BATCH_SIZE", "many")]);
    findings.expect("configuration", "fail", "MODEL_BATCH_SIZE");
    assert_eq!(findings.code, 4);
    let findings = examine(&[("LISTEN_ADDR", "0.0.0.0:0")]);
    findings.expect("configuration", "fail", "AUTH_TOKENS_FILE");
}

#[test]
fn a_storage_that_cannot_be_written_to_is_named() {
    let directory = directory();
    let file = directory.path().join("file");
    fs::write(&file, "in the way").expect("it can be written");
    let address = free_address().to_string();
    let findings = examine(&without_service(&file, &address));
    findings.expect("storage", "fail", "is no directory");
    assert_eq!(findings.code, 4);
}

#[test]
fn a_damaged_database_is_found_and_left_as_it_is() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    service.learn(SAMPLE);
    service.stop();
    let database = directory.path().join("online-learning.db");
    let mut bytes = fs::read(&database).expect("it can be read");
    for page in (4096..bytes.len()).step_by(4096).skip(1) {
        bytes[page..page + 512].fill(0xa5);
    }
    fs::write(&database, &bytes).expect("it can be written");
    let address = free_address().to_string();
    let findings = examine(&without_service(directory.path(), &address));
    findings.expect("database", "fail", "damaged");
    assert_eq!(findings.code, 4);
    assert_eq!(fs::read(&database).expect("it can be read"), bytes);
}

#[test]
fn another_program_on_the_port_is_told_from_the_service() {
    let directory = directory();
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let foreign = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().expect("the check connects");
        drop(stream.read(&mut [0; 1024]));
        // The first connection only looked whether anybody listens.
        let (mut stream, _) = listener.accept().expect("the check asks");
        drop(stream.read(&mut [0; 1024]));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").expect("it reads");
    });
    let findings = examine(&without_service(directory.path(), &address));
    findings.expect("service", "fail", "does not answer as this service");
    assert_eq!(findings.code, 4);
    foreign.join().expect("it was asked");
}

#[test]
fn brokers_that_are_away_and_a_topic_that_is_missing_are_named() {
    let directory = directory();
    let address = free_address().to_string();
    let [listen, storage] = without_service(directory.path(), &address);
    // Reserved, so nobody listens there.
    let findings = examine(&[listen, storage, ("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")]);
    findings.expect("brokers", "fail", "do not answer");
    assert_eq!(findings.code, 4);

    let cluster = MockCluster::new(1).expect("it can be made");
    cluster.create_topic("there", 3, 1).expect("it can be made");
    let servers = cluster.bootstrap_servers();
    let with = |topic| {
        examine(&[
            listen,
            storage,
            ("KAFKA_BOOTSTRAP_SERVERS", &servers),
            ("KAFKA_OUTCOME_TOPIC", topic),
        ])
    };
    let findings = with("missing");
    findings.expect("brokers", "ok", "answer");
    findings.expect("topic", "fail", "there is no topic missing");
    let findings = with("there");
    findings.expect("topic", "ok", "3 partitions, 0 records");
    findings.expect("position", "skip", "nothing has been read yet");

    let service = Setup::new(directory.path())
        .with("KAFKA_BOOTSTRAP_SERVERS", &servers)
        .with("KAFKA_OUTCOME_TOPIC", "there")
        .start();
    service.learn(r#"{"agent_name": "a", "status": "success"}"#);
    service.stop();
    let findings = with("there");
    findings.expect("topic", "ok", "1 records");
    findings.expect("position", "ok", "0 records are not read yet");
}

#[test]
fn records_that_cannot_be_understood_are_counted_by_reason() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let mut lines = "{\"agent_name\": \"a\"}\n".repeat(20);
    lines.push_str("not json\n");
    lines.push_str("{\"agent_name\": \"a\", \"status\": \"success\"}\n");
    service.learn(&lines);
    let findings = beside(&service, directory.path());
    findings.expect("events", "fail", "21 not understood");
    findings.expect("events", "fail", "missing_status 20, not_json 1");
    assert_eq!(findings.code, 4);
}

#[test]
fn outcomes_without_anything_to_learn_from_are_pointed_out() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    service.learn(&"{\"agent_name\": \"a\", \"status\": \"cancelled\"}\n".repeat(30));
    let findings = beside(&service, directory.path());
    findings.expect("learning", "warn", "no outcome has a status to learn from");
    service.learn("{\"agent_name\": \"a\", \"status\": \"success\"}\n");
    beside(&service, directory.path()).expect("learning", "ok", "1 outcomes learned");
    service.stop();
}

#[test]
fn learning_that_cannot_go_on_is_a_failure() {
    let directory = directory();
    let service = Setup::new(directory.path()).with("MODEL_BATCH_SIZE", "1000").start();
    service.learn(r#"{"agent_name": "a", "status": "success"}"#);
    // Accepted, durable, and not learned: with another configuration, long ago.
    let answer = service.post(
        "/api/learning/outcomes",
        "application/x-ndjson",
        r#"{"agent_name": "a", "status": "failure"}"#,
    );
    assert_eq!(answer.status, 202);
    let findings = beside(&service, directory.path());
    findings.expect("learning", "ok", "1 wait for a full micro-batch");
    service.kill();
    let address = free_address().to_string();
    let findings = examine(&without_service(directory.path(), &address));
    findings.expect("learning", "ok", "1 are learned at the next start");
}

fn open(directory: &Path) -> Connection {
    Connection::open(directory.join("online-learning.db")).expect("it can be opened")
}

#[test]
fn a_model_that_is_not_updated_is_told_with_the_reason() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    service.learn(SAMPLE);
    beside(&service, directory.path()).expect("learning", "ok", "811 outcomes learned");
    // Somebody else writes, and does not come to an end.
    let other = open(directory.path());
    other.execute_batch("BEGIN IMMEDIATE").expect("it can be locked");
    let event = json!({"agent_name": "a", "status": "success"});
    assert_eq!(service.post_json("/api/learning/outcomes", &event).status, 503);
    let findings = beside(&service, directory.path());
    findings.expect("service", "fail", "it runs, but is degraded: storage: database is locked");
    findings.expect("learning", "fail", "the model is not updated: storage: database is locked");
    assert_eq!(findings.code, 4);
    other.execute_batch("ROLLBACK").expect("it can be unlocked");
    eventually("learning goes on by itself", || {
        (service.get("/api/learning/status").json()["status"] == "running").then_some(())
    });
    beside(&service, directory.path()).expect("learning", "ok", "811 outcomes learned");
    service.stop();
}

#[test]
fn outcomes_that_have_waited_for_long_are_a_failure_while_a_service_runs() {
    let directory = directory();
    let service = Setup::new(directory.path())
        .with("MODEL_BATCH_SIZE", 1_000)
        .with("MODEL_BATCH_TIMEOUT", 3_600)
        .start();
    let event = json!({"agent_name": "a", "status": "success"});
    assert_eq!(service.post_json("/api/learning/outcomes", &event).status, 202);
    beside(&service, directory.path()).expect("learning", "ok", "1 wait for a full micro-batch");
    // As if it had come ten minutes ago, which a batch of the doctor's settings never waits.
    let sql = "UPDATE counters SET value =
                   json_set(value, '$.last_event_ms', value ->> '$.last_event_ms' - 600000)";
    assert_eq!(open(directory.path()).execute(sql, []), Ok(1));
    let findings = beside(&service, directory.path());
    findings.expect("learning", "fail", "1 outcomes have waited for 10 min and are not learned");
    assert_eq!(findings.code, 4);
    service.learn("");
    beside(&service, directory.path()).expect("learning", "ok", "1 outcomes learned");
    service.stop();
}

#[test]
fn micro_batches_that_take_long_are_a_failure() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    // Each micro-batch has to count rows, ever more of them, however fast the machine.
    let database = open(directory.path());
    let trigger = "CREATE VIEW long AS SELECT 1 AS counted;
                   CREATE TRIGGER slow BEFORE INSERT ON learning_events
                   WHEN new.event_type = 'micro_batch' BEGIN SELECT counted FROM long; END;";
    database.execute_batch(trigger).expect("the schema can be changed");
    let mut rows = 4_000_000_u64;
    let findings = loop {
        let view = format!(
            "DROP VIEW long; CREATE VIEW long AS
                 WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers
                                               LIMIT {rows})
                 SELECT count(*) AS counted FROM numbers;"
        );
        database.execute_batch(&view).expect("the schema can be changed");
        // The time of a micro-batch is stored with the next one.
        service.learn(r#"{"agent_name": "a", "status": "success"}"#);
        let findings = beside(&service, directory.path());
        if findings.of("update time")["state"] != "ok" {
            break findings;
        }
        rows *= 2;
        assert!(rows < 1 << 32, "no micro-batch takes long");
    };
    findings.expect("update time", "fail", "a micro-batch takes");
    assert_eq!(findings.code, 4);
    service.stop();
}

#[test]
fn expectations_that_do_not_come_true_are_pointed_out() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let of = |status: &str| {
        let line = json!({"agent_name": "a", "status": status, "task_type": "t"});
        format!("{line}\n").repeat(300)
    };
    service.learn(&of("success"));
    beside(&service, directory.path()).expect("calibration", "skip", "150 outcomes are too few");
    // What was learned says nothing of what comes.
    service.learn(&of("failure"));
    let findings = beside(&service, directory.path());
    findings.expect("calibration", "warn", "over the last 300 outcomes the Brier score is");
    assert!(findings.of("calibration")["finding"].to_string().contains("the mean alone: 0.000"));
    assert_eq!(findings.code, 0, "warnings are no failure");
    service.stop();
}

#[test]
fn data_that_makes_predictions_poor_is_pointed_out() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    service.learn(r#"{"agent_name": "a", "status": "success"}"#);
    let findings = beside(&service, directory.path());
    findings.expect("data", "warn", "only 1 outcomes");
    assert_eq!(findings.code, 0, "warnings are no failure");

    let line = |agent: &str, n: u32, status: &str| {
        let size = ["s", "m", "l"][n as usize % 3];
        let context = json!({"domain": "law", "size": size});
        let event =
            json!({"agent_name": agent, "status": status, "task_type": "t", "context": context});
        format!("{event}\n")
    };
    let mut lines: String = (0..500).map(|n| line("per\nfect", n, "success")).collect();
    lines.extend((0..50).map(|n| line("usual", n, if n % 3 == 0 { "failure" } else { "success" })));
    service.learn(&lines);
    let findings = beside(&service, directory.path());
    findings.expect("failures", "warn", "per\\nfect");
    findings.expect("context", "warn", "never vary tell nothing: domain");
    findings.expect("data", "warn", "1 agents have fewer than 5 outcomes: a");
    assert!(!findings.of("context")["finding"].to_string().contains("size"));
    assert_eq!(findings.code, 0);
    let address = service.address.to_string();
    service.stop();
    let [listen, storage] = without_service(directory.path(), &address);
    let heavy = [("MODEL_PRIOR_ALPHA", "500"), ("MODEL_PRIOR_BETA", "100")];
    let findings = examine(&[listen, storage, heavy[0], heavy[1]]);
    findings.expect("priors", "warn", "as much as 600 outcomes");
}

#[test]
fn with_tokens_the_doctor_needs_one_to_ask_the_service() {
    let directory = directory();
    let tokens = directory.path().join("tokens");
    // The SHA-256 of "secret".
    let digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    fs::write(&tokens, format!("doctor, read, , {digest}\n")).expect("it can be written");
    let service = Setup::new(directory.path()).with("AUTH_TOKENS_FILE", tokens.display()).start();
    let findings = beside(&service, directory.path());
    findings.expect("service", "warn", "a token is needed");
    let token = directory.path().join("token");
    fs::write(&token, "secret").expect("it can be written");
    let address = service.address.to_string();
    let [listen, storage] = without_service(directory.path(), &address);
    let findings = examine(&[listen, storage, ("ONLINE_LEARNING_TOKEN_FILE", path(&token))]);
    findings.expect("service", "ok", "it has run for");
}

fn config(arguments: &[&str], settings: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = program()
        .arg("config")
        .args(arguments)
        .envs(settings.iter().copied())
        .output()
        .expect("the program can be run");
    let text = |bytes| String::from_utf8(bytes).expect("it is text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_configuration_can_be_checked_without_a_start() {
    let (code, said, _) = config(&["check"], &[]);
    assert_eq!((code, said.as_str()), (Some(0), "the configuration is good\n"));
    for (setting, says) in [
        (("MODEL_BATCH_SIZE", "0"), "MODEL_BATCH_SIZE"),
        (("LISTEN_ADDR", "0.0.0.0:8000"), "--insecure"),
        (("AUTH_TOKENS_FILE", "/nowhere"), "AUTH_TOKENS_FILE"),
    ] {
        let (code, said, complained) = config(&["check"], &[setting]);
        assert_eq!((code, said.as_str()), (Some(2), ""), "{complained}");
        assert!(complained.contains(says), "{complained}");
    }
    let sasl = [
        ("KAFKA_BOOTSTRAP_SERVERS", "b:1"),
        ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL"),
        ("KAFKA_SASL_USERNAME", "u"),
        ("KAFKA_SASL_PASSWORD_FILE", "/nowhere"),
    ];
    let (code, _, complained) = config(&["check"], &sasl);
    assert!(code == Some(2) && complained.contains("KAFKA_SASL_PASSWORD_FILE"), "{complained}");
}

#[test]
fn the_configuration_is_printed_with_where_each_value_comes_from() {
    let settings = [("MODEL_BATCH_SIZE", "25"), ("QUEUE_CAPACITY", ""), ("RUST_LOG", "warn")];
    let (code, said, _) = config(&["print", "--batch-timeout", "5"], &settings);
    let lines: Vec<Vec<&str>> =
        said.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = [
        ["MODEL_BATCH_SIZE", "25", "environment"],
        ["MODEL_BATCH_TIMEOUT", "5", "--batch-timeout"],
        ["RUST_LOG", "warn", "environment"],
    ];
    assert_eq!((code, lines), (Some(0), expected.map(|line| line.to_vec()).to_vec()));

    let (code, said, _) = config(&["print", "--effective", "--json"], &settings);
    assert_eq!(code, Some(0));
    let printed: Value = serde_json::from_str(&said).expect("it is JSON");
    assert_eq!(
        printed.as_object().map(serde_json::Map::len),
        Some(online_learning::config::OPTIONS.len())
    );
    assert_eq!(printed["MODEL_BATCH_SIZE"], json!({"value": "25", "from": "environment"}));
    assert_eq!(printed["QUEUE_CAPACITY"], json!({"value": "1024", "from": "default"}));
}

#[test]
fn the_configuration_is_printed_without_what_is_secret_in_an_address() {
    let url = "https://user:s3cret-1@hooks.example/services/s3cret-2?token=s3cret-3#s3cret-4";
    let settings = [("ALERT_WEBHOOK_URL", url)];
    for arguments in [
        &["print"][..],
        &["print", "--effective"],
        &["print", "--effective", "--json"],
        &["print", "--alert-webhook-url", url],
    ] {
        let (code, said, complained) = config(arguments, &settings);
        assert_eq!(code, Some(0), "{complained}");
        assert!(said.contains("https://(hidden)@hooks.example/(hidden)"), "{said}");
        assert!(!said.contains("s3cret") && !complained.contains("s3cret"), "{said}{complained}");
    }
}

#[test]
fn names_that_look_alike_and_latencies_in_seconds_are_pointed_out() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let event = |agent: &str, latency_ms: f64| {
        json!({"agent_name": agent, "status": "success", "latency_ms": latency_ms}).to_string()
    };
    let names = ["Planner", "planner", "code\u{2013}agent", "code-agent", "other"];
    let mut lines = Vec::new();
    for latency_ms in [900.0, 1_000.0, 1_100.0, 1_200.0, 1_300.0] {
        lines.extend(names.map(|name| event(name, latency_ms)));
        lines.push(event("hasty", latency_ms / 1_000.0));
    }
    service.learn(&lines.join("\n"));
    let findings = beside(&service, directory.path());
    let alike = "agents \"Planner\" and \"planner\" of tenant \"default\"";
    findings.expect("names", "warn", alike);
    findings.expect("names", "warn", "\"code-agent\" and \"code\\u{2013}agent\"");
    findings.expect("units", "warn", "below those of the others: hasty");
}

#[test]
fn outcomes_without_a_task_type_are_pointed_out_with_where_they_come_from() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let event = json!({"agent_name": "a", "status": "success", "task_type": "t"}).to_string();
    service.learn(&vec![event; 30].join("\n"));
    beside(&service, directory.path()).expect("task types", "ok", "what kind of task");
    let span = |number: u64| {
        json!({
            "traceId": "ab".repeat(16), "spanId": format!("{:016x}", number + 1), "name": "invoke_agent a",
            "attributes": [{
                "key": "gen_ai.operation.name", "value": {"stringValue": "invoke_agent"},
            }],
        })
    };
    let spans: Vec<Value> = (0..30).map(span).collect();
    let body = json!({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]});
    assert_eq!(service.post_json("/v1/traces", &body).body, "{}");
    let findings = beside(&service, directory.path());
    findings.expect("task types", "warn", "30 of 30 from otlp");
    assert!(
        findings.of("task types")["action"]
            .as_str()
            .is_some_and(|do_| do_.contains("OTLP_TASK_TYPE"))
    );
}
