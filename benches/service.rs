//! Measures what the README states: `cargo bench`.
//!
//! Everything that is compared runs in the same process run, in turn, because machines differ and
//! are noisy: read the ratios. `BENCH_OUTCOMES` sets the size of the streams (default 1,000,000),
//! `BENCH_ONLY` picks parts by name (import, http, litellm, otlp, predict, memory, model, strategies);
//! `BENCH_CONNECTIONS` sets how many clients ask for predictions at a time (16).

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use online_learning::config::Config;
use online_learning::http::access::Access;
use online_learning::http::server::{Limits, Request, Response, Server};
use online_learning::http::{App, Sources};
use online_learning::learner::LearnerOptions;
use online_learning::model::{
    AgentPerformanceModel, Caps, Preset, Question, Settings, Strategy, Terms, rank,
};
use online_learning::outcome::{Context, Feature, Outcome, Status};
use online_learning::service::RealTimeModelUpdater;
use online_learning::store::StoreOptions;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

const ND_JSON: &str = "application/x-ndjson";
const PROGRAM: &str = env!("CARGO_BIN_EXE_online-learning");
const ROUNDS: usize = 5;

fn main() {
    // cargo passes --bench; anything else is ignored, as other harnesses do.
    let outcomes: usize = std::env::var("BENCH_OUTCOMES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000);
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let wanted = |part: &str| only.is_empty() || only.split(',').any(|name| name == part);
    if wanted("import") {
        bench_import(outcomes);
    }
    if wanted("http") {
        bench_http(outcomes / 2);
    }
    if wanted("litellm") {
        bench_litellm(outcomes / 20);
    }
    if wanted("otlp") {
        bench_otlp(outcomes / 5);
    }
    if wanted("predict") {
        bench_in_process();
        bench_predictions();
    }
    if wanted("model") {
        bench_model(8, 7, 2);
        bench_model(8, 20, 4);
    }
    if wanted("strategies") {
        bench_strategies(outcomes / 4);
    }
    if wanted("memory") {
        bench_memory();
    }
}

fn say(line: &str) {
    // A benchmark that nobody reads may as well end.
    writeln!(std::io::stdout(), "{line}").expect("standard output is open");
}

/// A stream over `agents` x `task_types` cells, every cell at least once where it is long enough.
fn stream(outcomes: usize, agents: usize, task_types: usize) -> String {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut text = String::with_capacity(outcomes * 230);
    for number in 0..outcomes {
        let cell = number % (agents * task_types);
        let (agent, task) = (cell % agents, cell / agents);
        let status = if rng.random() { "success" } else { "failure" };
        let complexity = if rng.random() { "low" } else { "high" };
        let (latency, quality, domain) =
            (rng.random_range(100..5_000), rng.random_range(10..99), rng.random_range(0..8));
        writeln!(
            text,
            "{{\"event_id\":\"e{number}\",\"agent_name\":\"agent-{agent}\",\
             \"task_type\":\"task-{task}\",\"status\":\"{status}\",\"latency_ms\":{latency},\
             \"quality_score\":0.{quality},\"cost_estimate\":0.01,\
             \"context\":{{\"complexity\":\"{complexity}\",\"domain\":\"d{domain}\"}},\
             \"timestamp\":\"2026-11-01T10:00:00\"}}"
        )
        .expect("writing to a String can't fail");
    }
    text
}

fn program(directory: &Path, batch: usize) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .env("MODEL_STORAGE_PATH", directory)
        .env("MODEL_BATCH_SIZE", batch.to_string())
        .env("MAX_AGENTS", "2000")
        .env("MAX_TASK_TYPES", "2000")
        .env("MAX_CELLS", "2000000")
        .stdout(Stdio::piped());
    command
}

fn bench_import(outcomes: usize) {
    let home = tempfile::tempdir().expect("there is room for temporary files");
    let small = home.path().join("small.jsonl");
    let large = home.path().join("large.jsonl");
    std::fs::write(&small, stream(outcomes, 100, 10)).expect("there is room");
    std::fs::write(&large, stream(outcomes, 1_000, 1_000)).expect("there is room");
    say(&format!("import of {outcomes} outcomes, durable (a process each, start to end):"));
    let run = |file: &Path, batch: usize| {
        let directory = tempfile::tempdir_in(home.path()).expect("there is room");
        let started = Instant::now();
        let output = program(directory.path(), batch)
            .arg("import")
            .arg(file)
            .output()
            .expect("the program runs");
        let seconds = started.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.starts_with(&format!("accepted={outcomes} ")), "{said}");
        rate(outcomes, seconds)
    };
    for batch in [10, 1_000] {
        let mut small_rates = Vec::new();
        let mut large_rates = Vec::new();
        for _ in 0..ROUNDS {
            small_rates.push(run(&small, batch));
            large_rates.push(run(&large, batch));
        }
        let (small_rate, large_rate) = (median(small_rates), median(large_rates));
        say(&format!(
            "  batch size {batch:>5}: 1,000 cells {small_rate:>9.0}/s   1,000,000 cells \
             {large_rate:>9.0}/s   ratio {:.2}",
            small_rate / large_rate
        ));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a benchmark's counts are small")]
fn rate(count: usize, seconds: f64) -> f64 {
    count as f64 / seconds
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Posts bodies over a few connections, and waits until what was in them is learned; the seconds it took.
fn post_all(
    service: &mut Command,
    path: &str,
    media: &str,
    bodies: &[impl AsRef<[u8]> + Sync],
) -> f64 {
    const CONNECTIONS: usize = 2;
    let address = free_address();
    let mut service = service
        .args(["serve", "--listen-addr", &address.to_string(), "--log", "warn"])
        .spawn()
        .expect("the program runs");
    wait_until_ready(address);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            scope.spawn(move || {
                let mut client = Client::connect(address);
                for body in bodies.iter().skip(connection).step_by(CONNECTIONS) {
                    assert!([200, 202].contains(&client.post(path, media, body.as_ref())));
                }
            });
        }
    });
    let mut client = Client::connect(address);
    let status = client.post("/api/learning/outcomes?wait=true", ND_JSON, b"");
    assert_eq!(status, 200);
    let seconds = started.elapsed().as_secs_f64();
    service.kill().expect("it is our child");
    service.wait().expect("it is our child");
    seconds
}

fn bench_http(outcomes: usize) {
    const LINES: usize = 5_000;
    let text = stream(outcomes, 100, 10);
    let lines: Vec<&str> = text.lines().collect();
    let bodies: Vec<String> = lines.chunks(LINES).map(|lines| lines.join("\n")).collect();
    say(&format!(
        "HTTP NDJSON, {outcomes} outcomes in bodies of {LINES} lines, 2 connections, until learned:"
    ));
    for batch in [10, 1_000] {
        let home = tempfile::tempdir().expect("there is room");
        let mut service = program(home.path(), batch);
        let seconds = post_all(&mut service, "/api/learning/outcomes", ND_JSON, &bodies);
        say(&format!("  batch size {batch:>5}: {:>9.0}/s", rate(outcomes, seconds)));
    }
}

/// Calls as LiteLLM reports them, and the same outcomes as events of ours, a line each.
fn calls(outcomes: usize) -> (Vec<String>, Vec<String>) {
    const CALLS: &str = include_str!("../tests/fixtures/formats/litellm.json");
    let calls: Vec<Value> = serde_json::from_str(CALLS).expect("it is JSON");
    let mut call = calls.last().expect("there is one").clone();
    // No decision of ours is named: it would be looked up.
    call["metadata"]["spend_logs_metadata"] = json!({"task_type": "code_review"});
    let both = (0..outcomes).map(|number| {
        let (id, agent) = (format!("call-{number}"), format!("agent-{}", number % 100));
        call["litellm_call_id"] = id.as_str().into();
        call["model_group"] = agent.as_str().into();
        let event = json!({
            "event_id": id, "agent_name": agent, "status": call["status"],
            "task_type": "code_review", "latency_ms": 676.780_939, "cost_estimate": 0.000_225,
            "timestamp": call["endTime"],
        });
        (call.to_string(), event.to_string())
    });
    both.unzip()
}

fn bench_litellm(outcomes: usize) {
    /// As many as LiteLLM sends together.
    const TOGETHER: usize = 512;
    let (calls, events) = calls(outcomes);
    let bytes = calls.iter().map(String::len).sum::<usize>() / outcomes;
    say(&format!("{outcomes} calls of {bytes} bytes as LiteLLM reports them, batch size 10:"));
    let home = tempfile::tempdir().expect("there is room");
    let file = |name: &str, lines: &[String]| {
        let file = home.path().join(name);
        std::fs::write(&file, lines.join("\n")).expect("there is room");
        file
    };
    let files = [file("events.jsonl", &events), file("calls.jsonl", &calls)];
    let import = |file: &Path, from: &[&str]| {
        let directory = tempfile::tempdir_in(home.path()).expect("there is room");
        let started = Instant::now();
        let output = program(directory.path(), 10)
            .arg("import")
            .args(from)
            .arg(file)
            .output()
            .expect("it runs");
        let seconds = started.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.starts_with(&format!("accepted={outcomes} ")), "{said}");
        rate(outcomes, seconds)
    };
    let list = |calls: &[String]| format!("[{}]", calls.join(","));
    let lists: Vec<String> = calls.chunks(TOGETHER).map(list).collect();
    let lines: Vec<String> = events.chunks(TOGETHER).map(|lines| lines.join("\n")).collect();
    let post = |path: &str, media: &str, bodies: &[String]| {
        let home = tempfile::tempdir_in(home.path()).expect("there is room");
        rate(outcomes, post_all(&mut program(home.path(), 10), path, media, bodies))
    };
    let mut rates = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        rates[0].push(import(&files[0], &[]));
        rates[1].push(import(&files[1], &["--from", "litellm"]));
        rates[2].push(post("/api/learning/outcomes", ND_JSON, &lines));
        rates[3].push(post("/api/learning/outcomes/litellm", "application/json", &lists));
    }
    let [events, calls, posted_events, posted_calls] = rates.map(median);
    for (what, events, calls) in
        [("import", events, calls), ("HTTP, 512 together", posted_events, posted_calls)]
    {
        say(&format!(
            "  {what:<18}: events {events:>9.0}/s   calls {calls:>9.0}/s   ratio {:.2}",
            calls / events
        ));
    }
}

/// A field of a protobuf message: its number with wire type 2, its length, its bytes.
fn field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    prost::encode_length_delimiter(bytes.len(), message).expect("a Vec has room");
    message.extend_from_slice(bytes);
}

/// An agent's span of some 500 bytes, most of them of what is not looked at.
fn agent_span(number: usize) -> Vec<u8> {
    let attribute = |span: &mut Vec<u8>, key: &str, value: &str| {
        let (mut pair, mut any) = (Vec::new(), Vec::new());
        field(&mut any, 1, value.as_bytes());
        field(&mut pair, 1, key.as_bytes());
        field(&mut pair, 2, &any);
        field(span, 9, &pair);
    };
    let agent = format!("agent-{}", number % 100);
    let mut span = Vec::new();
    field(&mut span, 1, &(number as u128 + 1).to_be_bytes());
    field(&mut span, 2, &(number as u64 + 1).to_be_bytes());
    field(&mut span, 5, format!("invoke_agent {agent}").as_bytes());
    for (number, nanoseconds) in
        [(7, 1_795_946_400_000_000_000_u64), (8, 1_795_946_400_676_000_000)]
    {
        span.push(number << 3 | 1);
        span.extend_from_slice(&nanoseconds.to_le_bytes());
    }
    attribute(&mut span, "gen_ai.operation.name", "invoke_agent");
    attribute(&mut span, "gen_ai.agent.name", &agent);
    attribute(&mut span, "task_type", "code_review");
    attribute(&mut span, "gen_ai.input.messages", &"what was asked ".repeat(18));
    span
}

fn bench_otlp(outcomes: usize) {
    /// Spans of a request, and lines of a body.
    const TOGETHER: usize = 512;
    let spans: Vec<Vec<u8>> = (0..outcomes).map(agent_span).collect();
    let bytes = spans[0].len();
    let request = |spans: &[Vec<u8>]| {
        let (mut scope, mut resource, mut request) = (Vec::new(), Vec::new(), Vec::new());
        for span in spans {
            field(&mut scope, 2, span);
        }
        field(&mut resource, 2, &scope);
        field(&mut request, 1, &resource);
        request
    };
    let requests: Vec<Vec<u8>> = spans.chunks(TOGETHER).map(request).collect();
    let event = |number: usize| {
        json!({
            "event_id": format!("run-{number}"), "agent_name": format!("agent-{}", number % 100),
            "status": "success", "task_type": "code_review", "latency_ms": 676,
            "timestamp": "2026-11-29T10:00:00.676Z",
        })
        .to_string()
    };
    let events: Vec<String> = (0..outcomes).map(event).collect();
    let lines: Vec<String> = events.chunks(TOGETHER).map(|lines| lines.join("\n")).collect();
    let mut rates = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        let home = tempfile::tempdir().expect("there is room");
        let mut service = program(home.path(), 10);
        let path = "/api/learning/outcomes";
        rates[0].push(rate(outcomes, post_all(&mut service, path, ND_JSON, &lines)));
        let home = tempfile::tempdir().expect("there is room");
        let mut service = program(home.path(), 10);
        let media = "application/x-protobuf";
        rates[1].push(rate(outcomes, post_all(&mut service, "/v1/traces", media, &requests)));
    }
    let [events, spans] = rates.map(median);
    say(&format!(
        "{outcomes} spans of {bytes} bytes as OTLP, {TOGETHER} together, batch size 10, until learned: \
         events {events:.0}/s, spans {spans:.0}/s, ratio {:.2}",
        spans / events
    ));
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it is bound")
}

fn wait_until_ready(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_mins(1);
    // The port is bound before the model is restored: a connection alone says little.
    while !online_learning::service::is_alive(address, Duration::from_secs(30)) {
        assert!(Instant::now() < deadline, "the service did not start");
        std::thread::yield_now();
    }
}

/// A keep-alive connection.
struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the service listens");
        stream.set_nodelay(true).expect("it is a TCP socket");
        Self { stream: BufReader::new(stream) }
    }

    fn post(&mut self, path: &str, media: &str, body: &[u8]) -> u16 {
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend(body);
        self.stream.get_mut().write_all(&request).expect("the service reads");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the service answers");
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).expect("the service answers");
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("the whole answer comes");
        status
    }
}

fn learned(agents: usize) -> Vec<Outcome> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
    (0..agents * 200)
        .map(|number| {
            let success = rng.random::<f64>()
                < 0.5 + 0.04 * f64::from(u8::try_from(number % 10).unwrap_or(0));
            let status = if success { Status::Success } else { Status::Failure };
            Outcome {
                latency_ms: Some(rng.random_range(500.0..5_000.0)),
                quality: Some(rng.random_range(0.2..1.0)),
                cost: Some(rng.random_range(0.001..0.1)),
                ..Outcome::new(format!("agent-{}", number % agents), status).on_task("code_review")
            }
        })
        .collect()
}

fn bench_in_process() {
    let mut model = AgentPerformanceModel::new(Settings::default());
    for outcome in learned(10) {
        model.update(&outcome);
    }
    let context = Vec::new();
    let question = Question {
        tenant: "default",
        task_type: Some("code_review"),
        context: &context,
        candidates: None,
        exclude: &[],
    };
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
    let times = 200_000;
    let started = Instant::now();
    let mut picked = 0;
    for _ in 0..times {
        picked += rank(&model.standings(&question), true, &mut rng)[0].standing;
    }
    let micros = started.elapsed().as_secs_f64() * 1e6 / f64::from(times);
    assert!(picked > 0);
    say(&format!("prediction in process, 10 agents, without propensity: {micros:.2} us"));

    #[expect(clippy::cast_precision_loss, reason = "few are counted")]
    let propensities = [Preset::Success, Preset::Balanced].map(|preset| {
        let terms = Terms { weights: preset.weights(), ..Terms::default() };
        let agents = model.contest(&question, &terms);
        assert_eq!(agents.is_success_alone(), preset == Preset::Success);
        let times = 300;
        let started = Instant::now();
        let known: usize = (0..times).map(|_| black_box(&agents).propensities().len()).sum();
        assert_eq!(known, 10 * times);
        started.elapsed().as_secs_f64() * 1e6 / times as f64
    });
    let [success, all] = propensities;
    say(&format!(
        "propensities of 10 agents: by success {success:.1} us, by all four models {all:.0} us"
    ));
}

/// Reads the body and answers 60 bytes.
fn bare(request: &mut Request<'_>) -> Response {
    let body = request.read_body(1 << 20).map(|body| body.len());
    assert!(body.is_ok());
    Response::json(200, vec![b' '; 60])
}

#[expect(clippy::too_many_lines, reason = "a service and its requests, side by side")]
fn bench_predictions() {
    const REQUESTS: usize = 100_000;
    let threads: usize =
        std::env::var("BENCH_CONNECTIONS").map_or(16, |text| text.parse().expect("a number"));
    let body = r#"{"task_type":"code_review","context":{"complexity":"high","domain":"financial"},"top_k":3"#;
    // By success alone, and by all four models.
    let (plain_body, full_body) =
        (format!("{body}}}"), format!("{body},\"objective\":\"balanced\"}}"));

    // Two services, of which one records no decisions.
    let homes = [(); 2].map(|()| tempfile::tempdir().expect("there is room"));
    let (_stop_tx, stop_rx) = crossbeam_channel::bounded(0);
    let [(recording, app), (plain, plain_app)] = [100_000, 0].map(|decisions_max| {
        let home = &homes[usize::from(decisions_max == 0)];
        let store = StoreOptions { decisions_max, ..StoreOptions::default() };
        let updater = RealTimeModelUpdater::start(home.path(), store, LearnerOptions::default())
            .expect("the directory is new");
        updater.submit(learned(10)).expect("the queue is empty");
        updater.flush().expect("the learner runs");
        let path = home.path().display().to_string();
        let config = Config::resolve(|name| (name == "MODEL_STORAGE_PATH").then(|| path.clone()))
            .expect("the defaults are allowed");
        let (inbox, shared) = (updater.inbox(), updater.shared());
        let access = Arc::new(Access::open(&config.access).expect("there are no tokens to read"));
        let alerts = Arc::default();
        let app = Arc::new(App::new(
            config.http(),
            access,
            inbox,
            shared,
            Sources::default(),
            alerts,
            stop_rx.clone(),
        ));
        (updater, app)
    });
    let address = "127.0.0.1:0".parse().expect("it is an address");
    let bind = || Server::bind(address, Limits::default()).expect("a port is free");
    let (bare_server, plain_server, server) = (bind(), bind(), bind());
    let [bare_address, plain_address, full_address] =
        [&bare_server, &plain_server, &server].map(Server::local_addr);
    let bare_handle = bare_server.spawn(bare).expect("threads can be started");
    let plain_handle = plain_server
        .spawn(move |request| plain_app.handle(request))
        .expect("threads can be started");
    let handle = server.spawn(move |request| app.handle(request)).expect("threads can be started");

    let play = |address: SocketAddr, body: &str| {
        let started = Instant::now();
        let mut latencies: Vec<f64> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(move || {
                        let mut client = Client::connect(address);
                        (0..REQUESTS / threads)
                            .map(|_| {
                                let sent = Instant::now();
                                let status = client.post(
                                    "/api/learning/predict/agent-selection",
                                    "application/json",
                                    body.as_bytes(),
                                );
                                assert_eq!(status, 200);
                                sent.elapsed().as_secs_f64() * 1e6
                            })
                            .collect::<Vec<f64>>()
                    })
                })
                .collect();
            clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect()
        });
        let seconds = started.elapsed().as_secs_f64();
        latencies.sort_by(f64::total_cmp);
        let (count, p50) = (latencies.len(), latencies[latencies.len() / 2]);
        (rate(count, seconds), p50, latencies[count * 99 / 100])
    };
    say(&format!("HTTP keep-alive, {threads} connections, 10 agents, {ROUNDS} rounds in turn:"));
    let (mut ratios, mut of_plain, mut full_of_plain) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (bare_rate, bare_p50, bare_p99) = play(bare_address, &plain_body);
        let (plain_rate, plain_p50, plain_p99) = play(plain_address, &plain_body);
        let (rate, p50, p99) = play(full_address, &plain_body);
        let (full_rate, full_p50, full_p99) = play(full_address, &full_body);
        ratios.push(rate / bare_rate);
        of_plain.push(rate / plain_rate);
        full_of_plain.push(full_rate / plain_rate);
        say(&format!(
            "  bare handler {bare_rate:>7.0}/s p50 {bare_p50:>4.0} us p99 {bare_p99:>4.0} us   \
             unrecorded {plain_rate:>7.0}/s p50 {plain_p50:>4.0} us p99 {plain_p99:>4.0} us   \
             prediction {rate:>7.0}/s p50 {p50:>4.0} us p99 {p99:>4.0} us   \
             four models {full_rate:>7.0}/s p50 {full_p50:>4.0} us p99 {full_p99:>4.0} us   \
             ratios {:.2} {:.2} {:.2}",
            rate / bare_rate,
            rate / plain_rate,
            full_rate / plain_rate
        ));
    }
    let unrecorded = recording.shared().decisions.unrecorded();
    say(&format!(
        "  median ratio {:.2}, to predictions that are not recorded {:.2}, by four models {:.2}; \
         {unrecorded} of {} were not",
        median(ratios),
        median(of_plain),
        median(full_of_plain),
        2 * ROUNDS * REQUESTS
    ));
    for handle in [bare_handle, plain_handle, handle] {
        assert!(handle.stop(Duration::from_secs(5)));
    }
    for updater in [recording, plain] {
        updater.stop().expect("nothing failed");
    }
}

fn bench_memory() {
    for (agents, task_types) in [(100, 10), (1_000, 1_000)] {
        // A process each, so that one does not use what the other freed.
        let home = tempfile::tempdir().expect("there is room");
        let file = home.path().join("stream.jsonl");
        let cells = agents * task_types;
        std::fs::write(&file, stream(cells, agents, task_types)).expect("there is room");
        let directory = home.path().join("models");
        let imported = program(&directory, 1_000).arg("import").arg(&file).output();
        assert!(imported.expect("the program runs").status.success());
        let address = free_address();
        let mut service = program(&directory, 1_000)
            .args(["serve", "--listen-addr", &address.to_string(), "--log", "warn"])
            .spawn()
            .expect("the program runs");
        wait_until_ready(address);
        let status = std::fs::read_to_string(format!("/proc/{}/status", service.id()));
        let resident = status.ok().and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        let shown = resident.map_or("unknown".to_owned(), |kib| format!("{} MiB", kib / 1_024));
        say(&format!("memory of a service restarted with {cells} cells: {shown}"));
        service.kill().expect("it is our child");
        service.wait().expect("it is our child");
    }
    let caps = Caps::default();
    say(&format!("(default caps: {} cells in all)", caps.cells));
}

/// A context of `keys` features, each with one of `values`.
fn wide_context(keys: usize, values: usize, rng: &mut Xoshiro256PlusPlus) -> Context {
    let value = |rng: &mut Xoshiro256PlusPlus| format!("v{}", rng.random_range(0..values));
    (0..keys).map(|key| (format!("key-{key:02}"), Feature::Text(value(rng)))).collect()
}

/// What it costs to choose among all and to learn one, in process.
fn bench_model(agents: usize, keys: usize, values: usize) {
    const TIMES: usize = 50_000;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
    let contexts: Vec<Context> = (0..500).map(|_| wide_context(keys, values, &mut rng)).collect();
    for strategy in [Strategy::Beta, Strategy::Thompson] {
        let mut model = AgentPerformanceModel::new(Settings { strategy, ..Settings::default() });
        let outcome = |number: usize, agent: usize| {
            let status = if number.is_multiple_of(3) { Status::Failure } else { Status::Success };
            let task = format!("task-{}", number % 10);
            let mut outcome = Outcome::new(format!("agent-{agent}"), status).on_task(task);
            outcome.context.clone_from(&contexts[number % contexts.len()]);
            outcome
        };
        for number in 0..agents * 500 {
            model.update(&outcome(number, number % agents));
        }
        let outcomes: Vec<Outcome> =
            (0..500).map(|number| outcome(number, number % agents)).collect();
        let (mut select, mut learn) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let mut picked = 0;
            for number in 0..TIMES {
                let question = Question {
                    tenant: "default",
                    task_type: Some("task-1"),
                    context: &contexts[number % contexts.len()],
                    candidates: None,
                    exclude: &[],
                };
                picked += rank(&model.standings(&question), true, &mut rng)[0].standing;
            }
            assert!(picked > 0);
            select.push(started.elapsed().as_secs_f64());
            let started = Instant::now();
            for number in 0..TIMES {
                model.update(&outcomes[number % outcomes.len()]);
            }
            learn.push(started.elapsed().as_secs_f64());
        }
        #[expect(clippy::cast_precision_loss, reason = "a benchmark's counts are small")]
        let micros = |seconds: Vec<f64>| median(seconds) * 1e6 / TIMES as f64;
        let (select, learn) = (micros(select), micros(learn));
        say(&format!(
            "{}, {agents} agents, {keys} of {} context values: select {select:.2} us + learn \
             {learn:.2} us = {:.2} us; covariances {} bytes per agent",
            strategy.as_str(),
            keys * values,
            select + learn,
            model.covariance_bytes() / agents
        ));
    }
}

/// Durable import and predictions over HTTP, with 8 agents and 7 context values, by strategy.
fn bench_strategies(outcomes: usize) {
    const CONNECTIONS: usize = 4;
    const REQUESTS: usize = 10_000;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(6);
    let mut text = String::new();
    let mut bodies = Vec::new();
    for number in 0..outcomes {
        let context: serde_json::Map<String, serde_json::Value> = wide_context(7, 4, &mut rng)
            .into_iter()
            .map(|(key, value)| match value {
                Feature::Text(text) => (key, text.into()),
                other => panic!("{other:?} is no text"),
            })
            .collect();
        let context = serde_json::Value::Object(context);
        let status = if rng.random() { "success" } else { "failure" };
        let (agent, task) = (number % 8, rng.random_range(0..10));
        writeln!(
            text,
            "{{\"event_id\":\"e{number}\",\"agent_name\":\"agent-{agent}\",\
             \"task_type\":\"task-{task}\",\"status\":\"{status}\",\"latency_ms\":900,\
             \"context\":{context},\"timestamp\":\"2026-11-01T10:00:00\"}}"
        )
        .expect("writing to a String can't fail");
        if bodies.len() < 5_000 {
            bodies.push(format!("{{\"task_type\":\"task-{task}\",\"context\":{context}}}"));
        }
    }
    let home = tempfile::tempdir().expect("there is room");
    let file = home.path().join("outcomes.jsonl");
    std::fs::write(&file, text).expect("there is room");
    say(&format!(
        "8 agents, 7 context values: import of {outcomes} outcomes at batch size 10, then \
         predictions over HTTP, {CONNECTIONS} connections, 5,000 questions in turn:"
    ));
    let mut medians = Vec::new();
    for round in 0..ROUNDS {
        for strategy in ["beta", "thompson"] {
            let directory = home.path().join(format!("{strategy}-{round}"));
            let started = Instant::now();
            let imported = program(&directory, 10)
                .env("MODEL_STRATEGY", strategy)
                .arg("import")
                .arg(&file)
                .output();
            assert!(imported.expect("the program runs").status.success());
            let import = rate(outcomes, started.elapsed().as_secs_f64());
            let address = free_address();
            let mut service = program(&directory, 10)
                .env("MODEL_STRATEGY", strategy)
                .args(["serve", "--listen-addr", &address.to_string(), "--log", "warn"])
                .spawn()
                .expect("the program runs");
            wait_until_ready(address);
            let started = Instant::now();
            std::thread::scope(|scope| {
                for connection in 0..CONNECTIONS {
                    let bodies = &bodies;
                    scope.spawn(move || {
                        let mut client = Client::connect(address);
                        for number in 0..REQUESTS {
                            let body = &bodies[(number * CONNECTIONS + connection) % bodies.len()];
                            let path = "/api/learning/predict/agent-selection";
                            let status = client.post(path, "application/json", body.as_bytes());
                            assert_eq!(status, 200);
                        }
                    });
                }
            });
            let predict = rate(CONNECTIONS * REQUESTS, started.elapsed().as_secs_f64());
            service.kill().expect("it is our child");
            service.wait().expect("it is our child");
            medians.push((strategy, import, predict));
        }
    }
    let of = |strategy: &str, value: fn(&(&str, f64, f64)) -> f64| {
        median(medians.iter().filter(|row| row.0 == strategy).map(value).collect())
    };
    for strategy in ["beta", "thompson"] {
        let (import, predict) = (of(strategy, |row| row.1), of(strategy, |row| row.2));
        let share =
            |value: f64, value_of: fn(&(&str, f64, f64)) -> f64| value / of("beta", value_of);
        say(&format!(
            "  {strategy:8}  import {import:>7.0}/s ({:.2} of beta)   predictions {predict:>6.0}/s \
             ({:.2} of beta)",
            share(import, |row| row.1),
            share(predict, |row| row.2)
        ));
    }
}
