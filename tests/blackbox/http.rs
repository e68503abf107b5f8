//! What clients do to HTTP: codings, conditions, targets, slow and idle connections, large answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Answer, SOON, Service, Setup, Wire, eventually};

const NDJSON: &str = "application/x-ndjson";
const OUTCOMES: &str = "/api/learning/outcomes";
const PREDICT: &str = "/api/learning/predict/agent-selection";

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Sends a request with these further header lines, each with its line end.
#[track_caller]
fn ask(service: &Service, line: &str, headers: &str, body: &[u8]) -> Answer {
    let mut wire = Wire::open(service.address).expect("it listens");
    let head = format!("{line} HTTP/1.1\r\n{headers}content-length: {}\r\n\r\n", body.len());
    wire.send([head.as_bytes(), body].concat()).expect("it is taken");
    wire.answer().unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn executions(service: &Service) -> u64 {
    let agents = service.get("/api/learning/agents/performance").json();
    let agents = agents.as_array().expect("it is an array");
    agents.iter().filter_map(|agent| agent["total_executions"].as_u64()).sum()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("writing to a Vec can't fail");
    encoder.finish().expect("writing to a Vec can't fail")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("writing to a Vec can't fail")
}

#[test]
fn a_compressed_body_is_learned_and_a_coding_that_is_not_read_is_refused() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let lines = "{\"agent_name\":\"a\",\"status\":\"success\"}\n".repeat(200);
    let post = |path: &str, media: &str, coding: &str, body: &[u8]| {
        let headers =
            format!("host: localhost\r\ncontent-type: {media}\r\ncontent-encoding: {coding}\r\n");
        ask(&service, &format!("POST {path}"), &headers, body)
    };
    let mut learned = 0;
    for (coding, body) in [
        ("gzip", gzip(lines.as_bytes())),
        ("x-gzip", gzip(lines.as_bytes())),
        ("ZSTD", zstd(lines.as_bytes())),
        ("gzip, zstd", zstd(&gzip(lines.as_bytes()))),
        ("identity", lines.clone().into_bytes()),
    ] {
        let answer = post(&format!("{OUTCOMES}?wait=true"), NDJSON, coding, &body);
        assert_eq!((answer.status, &answer.json()["accepted"]), (200, &json!(200)), "{coding}");
        learned += 200;
        assert_eq!(executions(&service), learned, "{coding}");
    }
    let question = json!({"candidates": ["a"]}).to_string();
    let answer = post(PREDICT, "application/json", "gzip", &gzip(question.as_bytes()));
    assert_eq!(answer.json()["recommendations"][0]["agent_name"], "a");

    for coding in ["br", "compress", "deflate", "gzip, br"] {
        let answer = post(OUTCOMES, NDJSON, coding, lines.as_bytes());
        assert_eq!(answer.status, 415, "{coding}: {answer:?}");
        assert_eq!(answer.header("accept-encoding"), Some("gzip, zstd"), "{coding}");
        let detail = answer.json()["detail"].as_str().expect("it is text").to_owned();
        assert!(detail.contains("content-encoding") && detail.contains("gzip"), "{detail}");
    }
    let answer = post(OUTCOMES, NDJSON, "gzip", lines.as_bytes());
    assert_eq!(answer.status, 400, "{answer:?}");
    for bomb in [gzip(&vec![b' '; 300_000_000]), zstd(&vec![b' '; 300_000_000])] {
        let coding = if bomb[0] == 0x1f { "gzip" } else { "zstd" };
        let answer = post(OUTCOMES, NDJSON, coding, &bomb);
        assert_eq!(answer.status, 413, "{coding}: {answer:?}");
    }
    assert_eq!(executions(&service), learned);
    let letters = service.get("/api/learning/dead-letters").json();
    assert_eq!(letters["dead_letters"], json!([]));
}

#[test]
fn what_a_header_field_asks_for_is_honoured_or_refused() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let line = b"{\"agent_name\":\"a\",\"status\":\"success\"}";
    let check = |field: &str, wanted: u16| {
        let headers = format!("host: localhost\r\ncontent-type: application/json\r\n{field}\r\n");
        let answer = ask(&service, &format!("POST {OUTCOMES}"), &headers, line);
        assert_eq!(answer.status, wanted, "{field}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{field}");
    };
    check("Content-Range: bytes 0-9/100", 400);
    check("If-Match: \"x\"", 412);
    check("If-Match: *", 412);
    check("If-None-Match: *", 412);
    check("Expect: 200-ok", 417);
    for (method, path) in [
        ("PUT", "/api/learning/budgets/default"),
        ("DELETE", "/api/learning/budgets/default"),
        ("DELETE", "/api/learning/agents/a"),
        ("POST", "/api/learning/models/save"),
    ] {
        let headers = "host: localhost\r\nif-match: \"x\"\r\n";
        let answer = ask(&service, &format!("{method} {path}"), headers, b"");
        assert_eq!(answer.status, 412, "{method} {path}: {answer:?}");
    }
    for coding in ["gzip, chunked", "xchunked", "deflate"] {
        let mut wire = Wire::open(service.address).expect("it listens");
        wire.send(format!(
            "POST {OUTCOMES} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: {coding}\r\n\r\n"
        ))
        .expect("it is taken");
        assert_eq!(wire.answer().expect("it is answered").status, 501, "{coding}");
    }
    assert_eq!(executions(&service), 0);
    // Nothing has an entity tag, so that one matches no answer: it is given.
    let headers = "host: localhost\r\nif-none-match: \"x\"\r\nrange: bytes=0-1\r\n";
    assert_eq!(ask(&service, "GET /livez", headers, b"").status, 200);
}

#[test]
fn the_authority_of_an_absolute_target_counts_instead_of_the_host_field() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let check = |target: &str, host: &str, wanted: u16| {
        let answer = ask(&service, &format!("GET {target}"), &format!("host: {host}\r\n"), b"");
        assert_eq!(answer.status, wanted, "{target} {host}: {answer:?}");
    };
    check("/livez", "localhost", 200);
    check("/livez", "evil.example", 403);
    check("http://localhost/livez", "evil.example", 200);
    check("http://evil.example/livez", "localhost", 403);
    check("http://localhost@evil.example/livez", "localhost", 400);
}

/// The resident memory of a service, in bytes.
fn resident(service: &Service) -> u64 {
    let path = format!("/proc/{}/status", service.pid());
    let text = std::fs::read_to_string(path).expect("it is running");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux tells");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("it is a number") * 1024
}

#[test]
fn a_page_of_large_decisions_is_made_while_it_is_sent_and_readers_that_wait_cost_little() {
    let directory = directory();
    let service = Setup::new(directory.path()).start();
    let candidates: Vec<String> = (0..1_000).map(|number| format!("agent-{number:04}")).collect();
    for number in 0..300 {
        let question = json!({
            "candidates": candidates, "top_k": 1_000, "decision_id": format!("d-{number:03}"),
        });
        assert_eq!(service.post_json(PREDICT, &question).status, 200);
    }
    let page = |path: &str| service.get(&format!("/api/learning/decisions?{path}"));
    let all = eventually("all are recorded", || {
        let all = page("limit=1000");
        (all.json()["decisions"].as_array().map(Vec::len) == Some(300)).then_some(all)
    });
    // A whole page has a length, and one that is made meanwhile has not.
    assert_eq!(all.header("transfer-encoding"), Some("chunked"));
    assert!(all.body.len() > 10_000_000, "{}", all.body.len());
    let all = all.json();
    assert_eq!(all["next_before"], Value::Null);
    let ids: Vec<String> = (0..300).rev().map(|number| format!("d-{number:03}")).collect();
    let seen = |page: &Value| -> Vec<String> {
        let rows = page["decisions"].as_array().expect("it is a list");
        rows.iter().map(|row| row["decision_id"].as_str().expect("it is text").into()).collect()
    };
    assert_eq!(seen(&all), ids);
    let first = page("limit=7").json();
    assert_eq!((seen(&first), &first["next_before"]), (ids[..7].to_vec(), &json!("d-293")));
    let second = page("limit=250&before=d-293").json();
    assert_eq!((seen(&second), &second["next_before"]), (ids[7..257].to_vec(), &json!("d-043")));
    assert_eq!(seen(&page("limit=1&before=d-001").json()), ["d-000"]);
    let short = service.get("/api/learning/events?limit=1");
    assert!(short.header("content-length").is_some(), "{:?}", short.headers);

    let before = resident(&service);
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(service.address).expect("it listens");
            let request =
                "GET /api/learning/decisions?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
            stream.write_all(request.as_bytes()).expect("it is taken");
            stream
        })
        .collect();
    // Each is under way once something of its answer has come.
    for mut stream in &slow {
        stream.set_read_timeout(Some(SOON)).expect("it is a socket");
        stream.read_exact(&mut [0; 1_000]).expect("it is answered");
    }
    let more = resident(&service).saturating_sub(before) / 1_000_000;
    assert!(more < 200, "100 readers that wait cost {more} MB");
    // Nobody else has to wait for them.
    assert_eq!(service.get("/api/learning/status").status, 200);
    assert_eq!(seen(&page("limit=1000").json()).len(), 300);
}

#[test]
fn idle_connections_shut_nobody_out() {
    let directory = directory();
    let service = Setup::new(directory.path()).with("HTTP_MAX_CONNECTIONS", 50).start();
    let mut idle: Vec<Wire> =
        (0..200).map(|_| Wire::open(service.address).expect("it listens")).collect();
    let begun = Instant::now();
    for path in ["/livez", "/api/learning/status", "/metrics"] {
        let mut wire = Wire::open(service.address).expect("it listens");
        assert_eq!(wire.get(path).expect("it is answered").status, 200, "{path}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // The newest ones are still open.
    let newest = idle.last_mut().expect("there are some");
    assert_eq!(newest.get("/livez").expect("it is answered").status, 200);
}

#[test]
fn probes_find_room_where_all_connections_are_in_use() {
    let directory = directory();
    let service = Setup::new(directory.path()).with("HTTP_MAX_CONNECTIONS", 20).start();
    let mut busy = Vec::new();
    eventually("no more are served", || {
        let mut wire = Wire::open(service.address).expect("it listens");
        let head = "host: localhost\r\ncontent-type: application/json\r\ncontent-length: 9";
        wire.send(format!("POST {OUTCOMES} HTTP/1.1\r\n{head}\r\n\r\n")).expect("it is taken");
        busy.push(wire);
        let get = |path: &str| {
            let mut wire = Wire::open(service.address).expect("it listens");
            wire.get(path).expect("it is answered")
        };
        let refused = get("/api/learning/status").status == 503;
        let probed = ["/livez", "/readyz", "/metrics"].map(get);
        assert!(probed.iter().all(|answer| answer.status == 200), "{probed:?}");
        // Those beyond the cap are closed after their answer.
        let closed = probed.iter().all(|answer| answer.header("connection") == Some("close"));
        (refused && closed).then_some(())
    });
}
