//! Measures how fast the service learns from a topic: `cargo bench --bench kafka`, with
//! `KAFKA_BOOTSTRAP_SERVERS` naming a broker on this machine.
//!
//! A topic of three partitions is filled with `BENCH_OUTCOMES` events (default 1,000,000), then read
//! in turn by a bare consumer that only polls and parses the JSON with serde, and by the program
//! with batch sizes of 1,000 and 10, from nothing to the durable model. Read the ratios.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::Deserialize;

const PROGRAM: &str = env!("CARGO_BIN_EXE_online-learning");
const ROUNDS: usize = 3;
const PARTITIONS: i32 = 3;

fn main() {
    let Ok(brokers) = std::env::var("KAFKA_BOOTSTRAP_SERVERS") else {
        say("skipped: KAFKA_BOOTSTRAP_SERVERS names no broker to measure at");
        return;
    };
    let outcomes: usize = std::env::var("BENCH_OUTCOMES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000);
    for (shape, event) in [("small", small as fn(usize) -> String), ("dispatcher", dispatcher)] {
        for codec in ["gzip", "none"] {
            measure(&brokers, shape, event, codec, outcomes);
        }
    }
}

fn say(line: &str) {
    // A benchmark that nobody reads may as well end.
    writeln!(std::io::stdout(), "{line}").expect("standard output is open");
}

/// What a person would send: about 230 bytes.
fn small(number: usize) -> String {
    let (agent, task) = (number % 100, number / 100 % 10);
    let status = if number * 7 % 11 < 6 { "success" } else { "failure" };
    let complexity = if number * 3 % 5 < 2 { "low" } else { "high" };
    let (latency, domain) = (100 + number * 31 % 4_900, number % 8);
    format!(
        "{{\"event_id\":\"e{number}\",\"agent_name\":\"agent-{agent}\",\"task_type\":\"task-{task}\",\
         \"status\":\"{status}\",\"latency_ms\":{latency},\"quality_score\":0.5,\
         \"cost_estimate\":0.01,\"context\":{{\"complexity\":\"{complexity}\",\
         \"domain\":\"d{domain}\"}},\"timestamp\":\"2026-11-01T10:00:00\"}}"
    )
}

/// What an action dispatcher sends: 31 keys.
fn dispatcher(number: usize) -> String {
    let fixture = include_str!("../tests/fixtures/shape_a.json");
    // The bare consumer does not read Python's NaN.
    let fixture = online_learning::outcome::non_finite_as_null(fixture);
    let mut event: serde_json::Value =
        serde_json::from_str(&fixture.expect("it holds a NaN")).expect("it is JSON");
    event["event_id"] = format!("e{number}").into();
    event["agent_name"] = format!("agent-{}", number % 100).into();
    event.to_string()
}

fn measure(brokers: &str, shape: &str, event: fn(usize) -> String, codec: &str, outcomes: usize) {
    let topic = format!("online-learning-bench-{shape}-{codec}-{}", std::process::id());
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("an admin client");
    let new = NewTopic::new(&topic, PARTITIONS, TopicReplication::Fixed(1));
    futures_executor::block_on(admin.create_topics([&new], &AdminOptions::new()))
        .expect("the broker answers");
    fill(brokers, &topic, event, codec, outcomes);
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        rates[0].push(bare(brokers, &topic, outcomes));
        rates[1].push(service(brokers, &topic, outcomes, 1_000));
        rates[2].push(service(brokers, &topic, outcomes, 10));
    }
    let [bare, large, small] = rates.map(median);
    say(&format!(
        "{shape} ({} bytes), {codec}: bare consumer {bare:.0}/s, batch 1,000 {large:.0}/s (ratio \
         {:.2}), batch 10 {small:.0}/s (ratio {:.2} of batch 1,000)",
        event(0).len(),
        large / bare,
        small / large
    ));
    futures_executor::block_on(admin.delete_topics(&[&topic], &AdminOptions::new()))
        .expect("the broker answers");
}

fn fill(brokers: &str, topic: &str, event: fn(usize) -> String, codec: &str, outcomes: usize) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("compression.type", codec)
        .set("linger.ms", "20")
        .create()
        .expect("a producer");
    for number in 0..outcomes {
        let value = event(number);
        let key = format!("e{number}");
        let mut record = BaseRecord::to(topic).key(&key).payload(&value);
        while let Err((_, back)) = producer.send(record) {
            record = back;
            producer.poll(Duration::from_millis(10));
        }
        if number % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_mins(1)).expect("the broker takes them");
}

/// The fields that are learned from, as a consumer would declare them.
#[derive(Deserialize)]
#[expect(dead_code, reason = "what is measured is parsing them")]
#[expect(clippy::struct_field_names, reason = "the names are those of the events")]
struct Event<'a> {
    event_id: Option<&'a str>,
    agent_name: &'a str,
    task_type: Option<&'a str>,
    status: &'a str,
    latency_ms: Option<f64>,
    quality_score: Option<f64>,
    cost_estimate: Option<f64>,
    timestamp: Option<&'a str>,
    context: Option<std::collections::BTreeMap<&'a str, serde_json::Value>>,
}

/// Polls and parses, and nothing else; with the settings of the service's own consumer.
fn bare(brokers: &str, topic: &str, outcomes: usize) -> f64 {
    let started = Instant::now();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "online-learning-bench")
        .set("enable.auto.commit", "false")
        .set("check.crcs", "true")
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.max.messages.kbytes", "8192")
        .set("queued.min.messages", "10000")
        .create()
        .expect("a consumer");
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Offset::Beginning).expect("a valid offset");
    }
    consumer.assign(&all).expect("it can be assigned");
    let mut seen = 0;
    while seen < outcomes {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            let payload = message.payload().expect("it has a value");
            let event: Event<'_> = serde_json::from_slice(payload).expect("it is an event");
            std::hint::black_box(event);
            seen += 1;
        }
    }
    rate(outcomes, started)
}

/// The program, from its start until everything is learned.
fn service(brokers: &str, topic: &str, outcomes: usize, batch: usize) -> f64 {
    let directory = tempfile::tempdir().expect("there is room for temporary files");
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        listener.local_addr().expect("it is bound")
    };
    let started = Instant::now();
    let mut child = Command::new(PROGRAM)
        .env("LISTEN_ADDR", address.to_string())
        .env("MODEL_STORAGE_PATH", directory.path())
        .env("MODEL_BATCH_SIZE", batch.to_string())
        .env("MODEL_BATCH_TIMEOUT", "0.1")
        .env("KAFKA_BOOTSTRAP_SERVERS", brokers)
        .env("KAFKA_OUTCOME_TOPIC", topic)
        .env("KAFKA_CONSUMER_GROUP", "online-learning-bench")
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    let agent = ureq::Agent::new_with_defaults();
    let url = format!("http://{address}/api/learning/metrics");
    let learned = || -> Option<u64> {
        let text = agent.get(&url).call().ok()?.body_mut().read_to_string().ok()?;
        let metrics: serde_json::Value = serde_json::from_str(&text).ok()?;
        metrics["samples_processed"].as_u64()
    };
    // A pause between questions, so that asking is not what is measured.
    while learned().is_none_or(|count| count < outcomes as u64) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let rate = rate(outcomes, started);
    child.kill().expect("it runs");
    child.wait().expect("it is our child");
    rate
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn rate(outcomes: usize, started: Instant) -> f64 {
    outcomes as f64 / started.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
