//! Telemetry over HTTP, as stock exporters send it and as nobody should.

use std::io::Write;

use serde_json::{Value, json};

use crate::harness::{Answer, Service, Setup, Wire, eventually, verify};

const TRACES: &str = "/v1/traces";
const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/otlp/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for a directory")
}

/// Sends a body with header fields of its own.
#[track_caller]
fn send(service: &Service, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut wire = Wire::open(service.address).expect("it listens");
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {length}\r\n\r\n"
    );
    wire.send([head.as_bytes(), body].concat()).expect("it is taken");
    wire.answer().expect("it is answered")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("writing to a Vec can't fail");
    encoder.finish().expect("writing to a Vec can't fail")
}

fn attributes(of: &Value) -> Value {
    let attribute = |(key, value): (&String, &Value)| {
        let kind = match value {
            Value::String(_) => "stringValue",
            Value::Bool(_) => "boolValue",
            _ => "doubleValue",
        };
        json!({"key": key, "value": {kind: value}})
    };
    of.as_object().expect("it is an object").iter().map(attribute).collect()
}

/// A request with spans, each an id and attributes beside those that make it an execution.
fn request(spans: &[(u64, Value)]) -> Value {
    let span = |(id, of): &(u64, Value)| {
        let mut all = json!({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "a"});
        let fields = all.as_object_mut().expect("it is an object");
        fields.extend(of.as_object().expect("it is an object").clone());
        json!({
            "traceId": format!("{:032x}", id + 1),
            "spanId": format!("{:016x}", id + 1),
            "name": "invoke_agent",
            "kind": 1,
            "startTimeUnixNano": "1795946400000000000",
            "endTimeUnixNano": "1795946401500000000",
            "attributes": attributes(&all),
        })
    };
    let spans: Value = spans.iter().map(span).collect();
    json!({"resourceSpans": [{"resource": {}, "scopeSpans": [{"spans": spans}]}]})
}

fn counted(service: &Service, metric: &str) -> u64 {
    let metrics = service.get("/metrics").body;
    let line = metrics.lines().find(|line| line.starts_with(&format!("{metric} ")));
    let number = line.and_then(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    number.unwrap_or_else(|| panic!("{metric} is no counter"))
}

fn accepted(service: &Service) -> u64 {
    counted(service, "online_learning_events_accepted_total{source=\"otlp\"}")
}

#[test]
fn what_stock_exporters_send_is_learned_once_in_every_encoding() {
    let home = directory();
    let service = Setup::new(home.path()).start();
    for (file, media, learned) in [
        ("traces.invoke_agent.generated.pb", PROTOBUF, 3),
        ("traces.invoke_agent.generated.json", JSON, 3),
        ("traces.js_sdk.generated.json", JSON, 6),
        ("traces.pydantic_ai.generated.pb", PROTOBUF, 8),
        ("traces.pydantic_ai.generated.json", JSON, 8),
        ("traces.litellm_otel.generated.pb", PROTOBUF, 8),
    ] {
        let body = fixture(file);
        for (coding, body) in [("", body.clone()), ("content-encoding: gzip\r\n", gzip(&body))] {
            let headers = format!("content-type: {media}\r\n{coding}");
            let answer = send(&service, TRACES, &headers, &body);
            let expected = if media == JSON { "{}" } else { "" };
            assert_eq!((answer.status, &*answer.body), (200, expected), "{file} {coding:?}");
            assert_eq!(answer.header("content-type"), Some(media));
        }
        assert_eq!(accepted(&service), learned, "{file}");
    }
    let spans =
        |kind| counted(&service, &format!("online_learning_otlp_spans_total{{kind=\"{kind}\"}}"));
    // Each body twice, four of them of five spans or six.
    assert_eq!((spans("execution"), spans("refused")), (2 * (3 + 3 + 3 + 2 + 2), 0));
    assert_eq!(spans("ignored"), 2 * (4 + 4 + 3));
    // Bodies in chunks, as the JavaScript exporter sends them.
    let body = request(&[(0, json!({"task_type": "chunked"}))]).to_string();
    let mut wire = Wire::open(service.address).expect("it listens");
    let (first, second) = body.split_at(100);
    let chunks = format!("64\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n", second.len());
    let head = "POST /v1/traces HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    wire.send([head, &*chunks].concat()).expect("it is taken");
    assert_eq!(wire.answer().expect("it is answered").status, 200);
    service.learn("");
    let rows = service.get("/api/learning/agents/performance?task_type=chunked").json();
    assert_eq!(
        (&rows[0]["agent_name"], &rows[0]["mean_latency_ms"]),
        (&json!("a"), &json!(1500.0))
    );
}

#[test]
fn what_is_refused_is_told_and_kept_without_what_was_asked_and_answered() {
    let home = directory();
    let mut service = Setup::new(home.path()).with("RUST_LOG", "debug").start();
    let secret = "MARKER-OF-A-PROMPT";
    let messages = json!({
        "gen_ai.input.messages": secret, "gen_ai.output.messages": secret, "input.value": secret,
        "gen_ai.system_instructions": secret, "gen_ai.tool.call.arguments": secret,
        "metadata": format!("{{\"note\": \"{secret}\"}}"),
    });
    let mut nameless = messages.clone();
    nameless["gen_ai.agent.name"] = json!(" ");
    let body = request(&[(1, messages.clone()), (2, nameless), (3, json!({}))]);
    let answer = service.post_json(TRACES, &body);
    let partial = &answer.json()["partialSuccess"];
    assert_eq!((answer.status, &partial["rejectedSpans"]), (200, &json!("1")));
    let message = partial["errorMessage"].as_str().expect("it is text");
    assert!(message.starts_with("missing_agent_name: "), "{message}");
    assert_eq!(accepted(&service), 2);
    let letters = service.get("/api/learning/dead-letters").json();
    let letter = &letters["dead_letters"][0];
    assert_eq!(
        (&letter["source"], &letter["code"]),
        (&json!("otlp"), &json!("missing_agent_name"))
    );
    // Long ones, and ones that are cut off.
    let mut request_of_much =
        request(&[(4, json!({"gen_ai.input.messages": secret.repeat(80_000)}))]).to_string();
    assert_eq!(service.post(TRACES, JSON, &request_of_much).status, 200);
    request_of_much.truncate(1_000_000);
    assert_eq!(service.post(TRACES, JSON, &request_of_much).status, 400);
    service.learn("");
    let log = service.log();
    assert!(!log.contains(secret), "{log}");
    service.stop();
    let mut looked_at = 0;
    for entry in std::fs::read_dir(home.path()).expect("it is there") {
        let path = entry.expect("it can be read").path();
        if path.is_file() {
            let bytes = std::fs::read(&path).expect("it can be read");
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{}", path.display());
            looked_at += 1;
        }
    }
    assert!(looked_at > 1);
}

#[test]
fn errors_are_told_in_the_encoding_of_the_request() {
    let home = directory();
    let service = Setup::new(home.path()).with("OTLP_BODY_MAX_MIB", 2).start();
    let large = request(&[(0, json!({"note": "n".repeat(3 << 20)}))]).to_string();
    let protobuf = format!("content-type: {PROTOBUF}\r\n");
    for (headers, body, status, says) in [
        (&*protobuf, b"\x0a\xff".to_vec(), 400, "the body is no export request"),
        (
            &format!("{protobuf}content-encoding: gzip\r\n"),
            gzip(&vec![0; 3 << 20]),
            400,
            "impossible number",
        ),
        (
            &format!("{protobuf}content-encoding: gzip\r\n"),
            gzip(b"\x12\x04aaaa")[..20].to_vec(),
            400,
            "no gzip data",
        ),
        // A field of 3 MiB that is passed over.
        (
            &format!("{protobuf}content-encoding: gzip\r\n"),
            gzip(&[&b"\x12\x80\x80\xc0\x01"[..], &vec![1; 3 << 20]].concat()),
            413,
            "more than 2097152 bytes",
        ),
        (&format!("{protobuf}content-encoding: br\r\n"), b"x".to_vec(), 415, "content-encoding"),
    ] {
        let answer = send(&service, TRACES, headers, &body);
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (status, Some(PROTOBUF)),
            "{answer:?}"
        );
        // The message Status: field 2 is its text.
        assert!(answer.body.starts_with('\u{12}') && answer.body.contains(says), "{answer:?}");
    }
    for (media, body, status) in [
        (JSON, "{".to_owned(), 400),
        (JSON, large, 413),
        ("text/plain", "x".to_owned(), 415),
        ("application/x-ndjson", "{}".to_owned(), 415),
    ] {
        let answer = service.post(TRACES, media, body);
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (status, Some("application/problem+json"))
        );
    }
    assert_eq!(accepted(&service), 0);
    for path in ["/v1/logs", "/v1/metrics"] {
        let answer = service.post(path, PROTOBUF, "");
        assert_eq!((answer.status, &*answer.body), (200, ""), "{path}");
        assert_eq!(service.post(path, JSON, "{}").body, "{}", "{path}");
    }
    drop(service);
    let service = Setup::new(home.path()).with("ENABLE_OTLP", false).start();
    assert_eq!(service.post(TRACES, JSON, "{}").status, 404);
}

#[test]
fn spans_acknowledged_before_the_end_are_there_once_after_it() {
    let home = directory();
    let setup = Setup::new(home.path());
    let service = setup.start();
    // The sender goes on until its service is gone, as an exporter does.
    let acknowledged = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut acknowledged = Vec::new();
            for part in 0_u64.. {
                let spans: Vec<_> = (0..50).map(|place| (50 * part + place, json!({}))).collect();
                match service.try_post(TRACES, JSON, request(&spans).to_string()) {
                    Ok(answer) if answer.status == 200 => acknowledged.push(spans),
                    _ => break,
                }
            }
            acknowledged
        });
        eventually("some spans are learned", || (accepted(&service) >= 500).then_some(()));
        service.signal("KILL");
        sender.join().expect("it ends")
    });
    drop(service);
    let service = setup.start();
    let before = accepted(&service);
    let sent = 50 * acknowledged.len() as u64;
    assert!(before >= sent && before <= sent + 50, "{before} of {sent}");
    for spans in &acknowledged {
        assert_eq!(service.post_json(TRACES, &request(spans)).status, 200);
    }
    assert_eq!(accepted(&service), before);
    let again = counted(&service, "online_learning_events_duplicate_total{source=\"otlp\"}");
    assert_eq!(again, sent);
}

#[test]
fn a_token_reports_for_its_tenant() {
    use sha2::{Digest, Sha256};

    let home = directory();
    let tokens = home.path().join("tokens");
    let line = |name: &str, scope: &str, tenant: &str| {
        let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(name));
        format!("{name}, {scope}, {tenant}, {hash}\n")
    };
    let lines =
        [line("red", "ingest", "red"), line("reader", "read", ""), line("root", "admin", "")];
    std::fs::write(&tokens, lines.concat()).expect("there is room");
    let service = Setup::new(&home.path().join("state"))
        .with("MODEL_BATCH_SIZE", 1)
        .with("AUTH_TOKENS_FILE", tokens.display())
        .start();
    let body = request(&[(0, json!({"online_learning.tenant_id": "blue"}))]).to_string();
    let status = |token: &str| {
        let headers = format!("content-type: {JSON}\r\nauthorization: Bearer {token}\r\n");
        send(&service, TRACES, &headers, body.as_bytes()).status
    };
    assert_eq!((status("nobody"), status("reader"), status("red")), (401, 403, 200));
    let mut wire = Wire::open(service.address).expect("it listens");
    let path = "/api/learning/agents/performance?tenant_id=";
    let mut agents = |tenant: &str| {
        let head = format!(
            "GET {path}{tenant} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer root\r\n\r\n"
        );
        wire.send(head).expect("it is taken");
        wire.answer().expect("it is answered").json().as_array().map(Vec::len)
    };
    eventually("it is learned", || (agents("red") == Some(1)).then_some(()));
    assert_eq!(agents("blue"), Some(0));
}

/// Asks within a trace; the answer's decision.
fn decide(service: &Service, number: u64, id: &str) {
    let trace = format!("{:032x}", number + 1);
    let body = json!({"candidates": ["a"], "decision_id": id, "task_type": "decided"}).to_string();
    let headers = format!(
        "content-type: application/json\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\n"
    );
    let path = "/api/learning/predict/agent-selection";
    let answer = send(service, path, &headers, body.as_bytes());
    assert_eq!((answer.status, &answer.json()["recorded"]), (200, &json!(true)));
}

fn outcome_of(service: &Service, id: &str) -> Value {
    service.get(&format!("/api/learning/decisions/{id}")).json()["outcome"]["status"].clone()
}

/// A hundred questions with their spans, in one request and one by one, before and after a restart; and
/// what a client reports beside them.
#[test]
fn a_span_is_the_outcome_of_the_decision_of_its_trace() {
    let home = directory();
    let setup = Setup::new(home.path());
    let service = setup.start();
    let ids: Vec<String> = (0..100).map(|number| format!("d{number}")).collect();
    for (number, id) in (0..).zip(&ids) {
        decide(&service, number, id);
    }
    // They end now.
    let spans = |numbers: std::ops::Range<u64>| {
        let mut body = request(&numbers.map(|number| (number, json!({}))).collect::<Vec<_>>());
        let since_1970 = std::time::UNIX_EPOCH.elapsed().expect("it is later");
        let spans = &mut body["resourceSpans"][0]["scopeSpans"][0]["spans"];
        for span in spans.as_array_mut().expect("it is a list") {
            span["endTimeUnixNano"] = json!(since_1970.as_nanos().to_string());
        }
        body
    };
    for number in 0..30 {
        assert_eq!(service.post_json(TRACES, &spans(number..number + 1)).body, "{}");
    }
    assert_eq!(service.post_json(TRACES, &spans(30..60)).body, "{}");
    service.stop();
    // Nothing else comes before the spans.
    let service = setup.start();
    assert_eq!(service.post_json(TRACES, &spans(60..100)).body, "{}");
    assert_eq!(service.post_json(TRACES, &spans(0..100)).body, "{}", "again");
    service.learn("");
    for id in &ids {
        assert_eq!(outcome_of(&service, id), "success", "{id}");
    }
    let rows = service.get("/api/learning/agents/performance?task_type=decided").json();
    assert_eq!(rows[0]["total_executions"], 100, "with the task type of the question: {rows}");
    let row = service.get("/api/learning/decisions/d0").json();
    assert_eq!(row["trace_id"], format!("{:032x}", 1));

    // What a client reports is the same execution, whichever comes first.
    let report = |id: &str| {
        let event = json!({"agent_name": "a", "status": "failure", "decision_id": id});
        let reply = service.post_json("/api/learning/outcomes?wait=true", &event).json();
        (reply["accepted"].clone(), reply["duplicates"].clone())
    };
    assert_eq!(report("d0"), (json!(0), json!(1)));
    decide(&service, 200, "of-a-client");
    assert_eq!(report("of-a-client"), (json!(1), json!(0)));
    assert_eq!(service.post_json(TRACES, &spans(200..201)).body, "{}");
    assert_eq!(outcome_of(&service, "of-a-client"), "failure");
    assert_eq!(accepted(&service), 100, "a duplicate is none");
    service.kill();

    // It says so beforehand.
    let service = setup.start();
    decide(&service, 300, "tried");
    let event =
        json!({"agent_name": "a", "status": "success", "trace_id": format!("{:032x}", 301)});
    let tried = service.post_json("/api/learning/outcomes?dry_run=true", &event).json();
    assert_eq!(tried["outcomes"][0]["decision_id"], "tried");
    assert_eq!(outcome_of(&service, "tried"), Value::Null);
    let rows = service.get("/api/learning/agents/performance?task_type=decided").json();
    assert_eq!(rows[0]["total_executions"], 101);
}

fn nanoseconds() -> String {
    std::time::UNIX_EPOCH.elapsed().expect("it is later").as_nanos().to_string()
}

/// Log records, each on the span with this number, with the verdict of an evaluation.
fn evaluations(records: &[(u64, Value)]) -> Value {
    let record = |(id, of): &(u64, Value)| {
        json!({
            "traceId": format!("{:032x}", id + 1),
            "spanId": format!("{:016x}", id + 1),
            "eventName": "gen_ai.evaluation.result",
            "timeUnixNano": nanoseconds(),
            "attributes": attributes(of),
        })
    };
    let records: Value = records.iter().map(record).collect();
    json!({"resourceLogs": [{"resource": {}, "scopeLogs": [{"logRecords": records}]}]})
}

#[test]
fn evaluations_are_learned_whichever_comes_first() {
    let home = directory();
    let setup = Setup::new(home.path()).with("OTLP_QUALITY", "relevance,other");
    let service = setup.start();
    let score = |number: u64| {
        let score = f64::from(u32::try_from(number % 4).expect("it is small")) / 4.0;
        json!({"gen_ai.evaluation.name": "relevance", "gen_ai.evaluation.score.value": score})
    };
    let spans = |numbers: std::ops::Range<u64>| {
        request(&numbers.map(|number| (number, json!({}))).collect::<Vec<_>>())
    };
    let logs = |numbers: std::ops::Range<u64>| {
        evaluations(&numbers.map(|number| (number, score(number))).collect::<Vec<_>>())
    };
    assert_eq!(service.post_json(TRACES, &spans(0..500)).body, "{}");
    assert_eq!(service.post_json("/v1/logs", &logs(0..1000)).body, "{}");
    service.stop();
    let service = setup.start();
    assert_eq!(service.post_json(TRACES, &spans(500..1000)).body, "{}");
    assert_eq!(service.post_json("/v1/logs", &logs(0..1000)).body, "{}", "again");
    let question = json!({"candidates": ["a"]});
    let predicted = eventually("all is learned", || {
        let body = service.post_json("/api/learning/predict/quality", &question).json();
        (body["predictions"][0]["samples"] == 1000).then_some(body)
    });
    let mean = predicted["predictions"][0]["mean"].as_f64();
    assert!((mean.expect("it is known") - 0.375).abs() < 0.03, "{predicted}");
    // Others are passed over, and so are records that are no evaluation.
    let other = json!({"gen_ai.evaluation.name": "toxicity", "gen_ai.evaluation.score.value": 1});
    assert_eq!(service.post_json("/v1/logs", &evaluations(&[(1, other)])).body, "{}");
    // A span that carries the verdict on another one, as OpenInference writes it.
    let carrier = json!({"resourceSpans": [{"scopeSpans": [{"spans": [{
        "traceId": format!("{:032x}", 7_000), "spanId": "00000000000000aa", "name": "evaluate",
        "links": [{"traceId": format!("{:032x}", 2_001), "spanId": format!("{:016x}", 2_001)}],
        "attributes": attributes(&json!({
            "openinference.span.kind": "EVALUATOR", "annotations.0.annotation.name": "other",
            "annotations.0.annotation.score": 1.0,
        })),
    }]}]}]});
    assert_eq!(service.post_json(TRACES, &carrier).body, "{}");
    assert_eq!(service.post_json(TRACES, &spans(2_000..2_001)).body, "{}");
    eventually("it is learned", || {
        let body = service.post_json("/api/learning/predict/quality", &question).json();
        (body["predictions"][0]["samples"] == 1001).then_some(())
    });
    service.stop();
    verify(home.path());
}

/// Four agents that never crash, and are right in 40 to 90 % of the tasks: by their status alone they are
/// the same.
#[test]
fn verdicts_tell_agents_apart_that_never_crash() {
    let home = directory();
    let setup = Setup::new(home.path()).with("OTLP_SUCCESS", "correct");
    let service = setup.start();
    let rates = [("a40", 40), ("b60", 60), ("c75", 75), ("d90", 90)];
    let mut rng = <rand::rngs::Xoshiro256PlusPlus as rand::SeedableRng>::seed_from_u64(5);
    let mut best = 0;
    for task in 0..600_u64 {
        let question = json!({"candidates": rates.map(|(agent, _)| agent), "seed": task});
        let answer = service.post_json("/api/learning/predict/agent-selection", &question).json();
        let agent = answer["recommendations"][0]["agent_name"].as_str().expect("it is a name");
        best += u32::from(task >= 500 && agent == "d90");
        let span = request(&[(task, json!({"gen_ai.agent.name": agent}))]);
        assert_eq!(service.post_json(TRACES, &span).body, "{}");
        let (_, rate) = rates.iter().find(|(name, _)| *name == agent).expect("it is one of them");
        let is_right = rand::RngExt::random_range(&mut rng, 0..100) < *rate;
        let label = if is_right { "pass" } else { "fail" };
        let verdict =
            json!({"gen_ai.evaluation.name": "correct", "gen_ai.evaluation.score.label": label});
        assert_eq!(service.post_json("/v1/logs", &evaluations(&[(task, verdict)])).body, "{}");
    }
    assert!(best >= 95, "{best} of the last 100");
    let rows = service.get("/api/learning/agents/performance").json();
    let executions: u64 = rows
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|row| row["total_executions"].as_u64())
        .sum();
    assert_eq!(executions, 600, "{rows}");
}
