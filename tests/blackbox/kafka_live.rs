//! The service against a real broker: whatever is unplugged, every outcome counts exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant, SystemTime};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::broker::{Broker, Cluster, Read, Record, Topic, skipped};
use crate::harness::{Service, Setup, eventually, free_address, program, verify, within};

const OUTCOMES: &str = "/api/learning/outcomes";
const FEEDBACK: &str = "/api/learning/feedback";
const NDJSON: &str = "application/x-ndjson";
const MIB: usize = 1024 * 1024;
const AGENTS: [&str; 5] = ["ReActAgent", "ToolUseAgent", "PlannerAgent", "Critic", "Écrivain"];
const TASKS: [&str; 3] = ["code_review", "compliance_analysis", "triage"];
/// Each with whether it is learned from.
const STATUSES: [(&str, bool); 6] = [
    ("success", true),
    ("failure", true),
    ("partial", true),
    ("timeout", true),
    ("cancelled", false),
    ("pending", false),
];
const MALFORMED: [&str; 5] = [
    "this is not JSON",
    "[1, 2]",
    r#"{"agent_name": "", "status": "success"}"#,
    r#"{"agent_name": "ReActAgent", "status": "splendid"}"#,
    r#"{"status": "success"}"#,
];
/// Time for the service to catch up on a loaded machine, also after the broker was away.
const CATCH_UP_MAX: Duration = Duration::from_mins(1);
/// Changes of the topic itself are noticed within this time, and what a loaded machine adds.
const NOTICE_MAX: Duration = Duration::from_secs(60 + 15);

// ---------------------------------------------------------------------------------- What is sent

fn rng(theme: u64) -> Xoshiro256PlusPlus {
    let seed = std::env::var("CRASH_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(0, |now| u64::from(now.subsec_nanos()))
    });
    #[expect(clippy::print_stderr, reason = "shown when the test fails")]
    {
        eprintln!("CRASH_SEED={seed}");
    }
    Xoshiro256PlusPlus::seed_from_u64(seed ^ theme)
}

fn pick<T: Copy>(rng: &mut Xoshiro256PlusPlus, all: &[T]) -> T {
    all[rng.random_range(0..all.len())]
}

/// An event with an identity of its own.
fn event(rng: &mut Xoshiro256PlusPlus, id: &str) -> Value {
    json!({
        "event_id": id,
        "agent_name": pick(rng, &AGENTS),
        "task_type": pick(rng, &TASKS),
        "status": pick(rng, &STATUSES).0,
        "latency_ms": rng.random_range(1.0..5_000.0),
        "quality_score": rng.random_range(0.0..1.0),
        "context": {"complexity": pick(rng, &["low", "high"]), "size": rng.random_range(0..100)},
    })
}

fn event_record(rng: &mut Xoshiro256PlusPlus, id: &str) -> Record {
    Record::new(event(rng, id).to_string()).keyed(id)
}

/// `count` successes of an agent, told apart by a prefix of their identities.
fn successes(agent: &str, prefix: &str, count: usize) -> Vec<Record> {
    (0..count)
        .map(|number| {
            let event = json!({
                "event_id": format!("{prefix}-{number}"), "agent_name": agent, "status": "success",
            });
            Record::new(event.to_string())
        })
        .collect()
}

/// A success of an agent that takes exactly this many bytes, which no codec can make much smaller.
fn sized(rng: &mut Xoshiro256PlusPlus, agent: &str, bytes: usize) -> String {
    let mut text = format!(r#"{{"event_id":"{agent}-{bytes}","agent_name":"{agent}","#);
    text.push_str(r#""status":"success","output":""#);
    while text.len() < bytes - 2 {
        text.push(char::from(rng.random_range(b'0'..=b'Z')));
        if text.ends_with(['\\', '"']) {
            text.pop();
        }
    }
    text.push_str(r#""}"#);
    assert_eq!(text.len(), bytes);
    text
}

/// New events, 10 % duplicates, 2 % malformed records.
struct Mixture {
    rng: Xoshiro256PlusPlus,
    sent: Vec<Record>,
}

impl Mixture {
    fn next(&mut self) -> Record {
        let chance = self.rng.random_range(0.0..1.0);
        if chance < 0.02 {
            return Record::new(pick(&mut self.rng, &MALFORMED));
        }
        if chance < 0.12 && !self.sent.is_empty() {
            return self.sent[self.rng.random_range(0..self.sent.len())].clone();
        }
        let record = event_record(&mut self.rng, &format!("event-{}", self.sent.len()));
        self.sent.push(record.clone());
        record
    }
}

// --------------------------------------------------------------------- What should come of it

/// What a log comes to, or what a service has counted.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    /// By agent and, where it has one, by agent and task type.
    executions: BTreeMap<(String, Option<String>), u64>,
    learned: u64,
    duplicates: u64,
    dead_letters: u64,
}

/// What the records of a topic come to, counted here without any of the service's code.
fn counts_of_log(records: &[Read]) -> Counts {
    let mut counts = Counts::default();
    let mut seen = BTreeSet::new();
    for record in records {
        let event = record.value.as_deref().and_then(|value| serde_json::from_slice(value).ok());
        let event: Value = event.unwrap_or_default();
        let agent = event["agent_name"].as_str().unwrap_or_default().to_owned();
        let status = STATUSES.iter().find(|(status, _)| event["status"] == *status);
        match (agent.as_str(), status) {
            ("", _) | (_, None) => counts.dead_letters += 1,
            (_, Some((_, is_learned))) => {
                let id = event["event_id"].as_str().expect("every event of these tests has one");
                if !seen.insert(id.to_owned()) {
                    counts.duplicates += 1;
                    continue;
                }
                counts.learned += u64::from(*is_learned);
                if let Some(task) = event["task_type"].as_str() {
                    *counts
                        .executions
                        .entry((agent.clone(), Some(task.to_owned())))
                        .or_default() += 1;
                }
                *counts.executions.entry((agent, None)).or_default() += 1;
            }
        }
    }
    counts
}

/// What the service says it has counted.
#[track_caller]
fn counts_of(service: &Service) -> Counts {
    let metrics = service.get("/api/learning/metrics").json();
    let count = |key: &str| metrics[key].as_u64().expect("it is a number");
    let rejected = metrics["rejected"].as_object().expect("it is an object");
    let mut counts = Counts {
        executions: BTreeMap::new(),
        learned: count("samples_processed"),
        duplicates: count("duplicates"),
        dead_letters: rejected.values().filter_map(Value::as_u64).sum(),
    };
    for task in [None, Some(TASKS[0]), Some(TASKS[1]), Some(TASKS[2])] {
        let query = task.map_or_else(String::new, |task| format!("?task_type={task}"));
        let rows = service.get(&format!("/api/learning/agents/performance{query}")).json();
        for row in rows.as_array().expect("it is an array") {
            let agent = row["agent_name"].as_str().expect("it is a string").to_owned();
            let executions = row["total_executions"].as_u64().expect("it is a number");
            if executions > 0 {
                counts.executions.insert((agent, task.map(str::to_owned)), executions);
            }
        }
    }
    counts
}

/// Executions by agent.
#[track_caller]
fn executions(service: &Service) -> BTreeMap<String, u64> {
    let by_agent = |((agent, task), count): ((String, Option<String>), u64)| {
        task.is_none().then_some((agent, count))
    };
    counts_of(service).executions.into_iter().filter_map(by_agent).collect()
}

fn expected<const N: usize>(agents: [(&str, u64); N]) -> BTreeMap<String, u64> {
    agents.map(|(agent, count)| (agent.to_owned(), count)).into()
}

/// The payloads of what the service has refused, oldest first.
#[track_caller]
fn dead_letters(service: &Service) -> Vec<Value> {
    let mut letters = Vec::new();
    let mut before = String::new();
    loop {
        let page = service.get(&format!("/api/learning/dead-letters?limit=1000{before}")).json();
        letters.extend(page["dead_letters"].as_array().expect("it is an array").iter().cloned());
        let Some(next) = page["next_before"].as_u64() else { break };
        before = format!("&before={next}");
    }
    letters.reverse();
    letters
}

// ------------------------------------------------------------------------- How the service is

/// A replica that learns soon, with a directory and a consumer group of its own.
fn replica(directory: &Path, topic: &Topic, name: &str) -> Setup {
    Setup::new(directory)
        .with("KAFKA_BOOTSTRAP_SERVERS", &topic.cluster.servers)
        .with("KAFKA_OUTCOME_TOPIC", &topic.name)
        .with("KAFKA_CONSUMER_GROUP", topic.group(name))
        .with("MODEL_BATCH_TIMEOUT", "0.1")
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The part of the status that tells of Kafka.
#[track_caller]
fn kafka(service: &Service) -> Value {
    let status = service.get("/api/learning/status").json();
    assert_eq!(status["source"], "kafka", "{status}");
    status["kafka"].clone()
}

/// What the status says of each partition.
#[track_caller]
fn partitions(service: &Service) -> BTreeMap<i32, Value> {
    let kafka = kafka(service);
    let partitions = kafka["partitions"].as_array().expect("it is an array");
    let number = |partition: &Value| {
        let number = partition["partition"].as_i64().expect("it is a number");
        i32::try_from(number).expect("it is a small number")
    };
    partitions.iter().map(|partition| (number(partition), partition.clone())).collect()
}

/// Waits until the service has applied all that is in the topic now, and has learned it.
#[track_caller]
fn catch_up(service: &Service, topic: &Topic) {
    catch_up_within(CATCH_UP_MAX, service, topic);
}

#[track_caller]
fn catch_up_within(limit: Duration, service: &Service, topic: &Topic) {
    let ends = topic.ends();
    within(limit, "the service has caught up", || {
        let status = service.get("/api/learning/status").json();
        let partitions = partitions(service);
        let is_at_the_end = ends.iter().all(|(partition, (_, high))| {
            let is_read = |found: &Value| found["position"] == *high && found["lag"] == 0;
            partitions.get(partition).is_some_and(is_read)
        });
        let is_learned = status["model_version"] == status["journal_sequence"];
        // A partition that was never written to may or may not count as being at its end.
        let is_current = status["lag"]["records"] == 0 && status["lag"]["seconds"] == 0.0;
        (is_at_the_end && is_learned && is_current)
            .then_some(())
            .ok_or_else(|| format!("the topic ends at {ends:?}, the service says {status}"))
    });
}

/// Waits until every partition that was read from is stopped, with a word what the operator may do.
#[track_caller]
fn wait_until_stopped(service: &mut Service) {
    within(NOTICE_MAX, "the partition is stopped", || {
        let partitions = partitions(service);
        let is_stopped = |partition: &Value| {
            let message = partition["message"].as_str().unwrap_or_default();
            partition["state"] == "stopped" && message.contains("--kafka-reset-positions")
        };
        (!partitions.is_empty() && partitions.values().all(is_stopped))
            .then_some(())
            .ok_or_else(|| kafka(service).to_string())
    });
    let status = service.get("/api/learning/status").json();
    assert_eq!(status["status"], "degraded", "{status}");
    service.wait_for_log("--kafka-reset-positions");
    assert_eq!(service.get("/readyz").status, 200, "predictions go on");
}

/// Waits until it is said that there is no such topic.
#[track_caller]
fn wait_until_missing(service: &Service) {
    within(NOTICE_MAX, "it is said that the topic is missing", || {
        let status = service.get("/api/learning/status").json();
        let is_said = status["kafka"]["state"] == "topic_missing"
            && status["status"] == "degraded"
            && status["trouble"].as_str().is_some_and(|trouble| trouble.contains("topic"));
        is_said.then_some(()).ok_or_else(|| status.to_string())
    });
}

#[track_caller]
fn predict(service: &Service) {
    let answer = service.post_json("/api/learning/predict/agent-selection", &json!({}));
    assert_eq!(answer.status, 200, "{answer:?}");
}

// ------------------------------------------------------------------------------ What is read

#[test]
fn every_codec_is_read() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("codecs", 1, &[]);
    let directory = directory();
    let service = replica(directory.path(), &topic, "a").start();
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        let records = successes(codec, codec, 50);
        topic.produce_with(&[("compression.type", codec)], &records);
    }
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected(codecs.map(|codec| (codec, 50))));
    service.stop();
}

#[test]
fn a_record_of_one_mib_is_learned_and_a_much_larger_one_is_a_dead_letter() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("large", 1, &[("max.message.bytes", "3000000")]);
    let directory = directory();
    let service = replica(directory.path(), &topic, "a").start();
    let mut rng = rng(1);
    // What producers like ours add to an event of 1 MiB has a quarter more.
    for codec in ["none", "gzip", "zstd"] {
        let fits = sized(&mut rng, codec, MIB);
        let too_large = sized(&mut rng, codec, MIB + MIB / 4 + 1);
        let records = [Record::new(fits), Record::new(too_large)];
        topic.produce_with(&[("compression.type", codec)], &records);
    }
    topic.produce(&successes("small", "small", 1));
    catch_up(&service, &topic);
    let counts = [("none", 1), ("gzip", 1), ("zstd", 1), ("small", 1)];
    assert_eq!(executions(&service), expected(counts));
    let letters = dead_letters(&service);
    assert_eq!(letters.len(), 3);
    for letter in letters {
        assert_eq!(letter["code"], "too_large", "{}", letter["detail"]);
        let payload = letter["payload"].as_str().expect("it is a string");
        assert_eq!(payload.len(), 64 * 1024, "the first 64 KiB are kept");
    }
    service.stop();
}

#[test]
fn aborted_transactions_are_not_learned_and_leave_no_lag() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("transactions", 2, &[]);
    let both = |agent: &str, prefix: &str, count| -> Vec<Record> {
        let on = |(record, number): (Record, i32)| record.on(number % 2);
        successes(agent, prefix, count).into_iter().zip(0..).map(on).collect()
    };
    topic.transact(&both("committed", "1", 20), true);
    let directory = directory();
    let setup = replica(directory.path(), &topic, "a");
    let service = setup.start();
    topic.transact(&both("aborted", "2", 30), false);
    topic.transact(&both("committed", "3", 10), true);
    // The log ends with aborted records and their markers.
    topic.transact(&both("aborted", "4", 5), false);
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("committed", 30)]));
    let ends: BTreeMap<i32, i64> =
        topic.ends().into_iter().map(|(partition, (_, high))| (partition, high)).collect();
    let markers_and_aborted: i64 = ends.values().sum::<i64>() - 30;
    assert_eq!(markers_and_aborted, 35 + 4 * 2, "one marker per partition and transaction");
    wait_until_published(&service, &topic, "a");
    service.kill();

    let service = setup.start();
    catch_up(&service, &topic);
    topic.transact(&both("committed", "5", 4), true);
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("committed", 34)]));
    service.stop();
}

/// Waits until the group's committed offsets are the ends of the topic: 5 seconds at most.
#[track_caller]
fn wait_until_published(_service: &Service, topic: &Topic, name: &str) {
    let ends = topic.ends();
    let group = format!("{}-{name}", topic.name);
    within(Duration::from_secs(5), "the positions are published to the group", || {
        let committed = topic.committed(&group);
        let is_published = |(partition, (_, high)): (&i32, &(i64, i64))| {
            *high == 0 || committed.get(partition) == Some(&Some(*high))
        };
        ends.iter()
            .all(is_published)
            .then_some(())
            .ok_or_else(|| format!("{committed:?} of {ends:?}"))
    });
}

#[test]
fn what_cannot_be_understood_becomes_a_dead_letter_and_the_stream_goes_on() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("refused", 2, &[]);
    let dead = cluster.topic("dead", 1, &[]);
    let directory = directory();
    let setup = replica(directory.path(), &topic, "a").with("KAFKA_DEAD_LETTER_TOPIC", &dead.name);
    let service = setup.start();
    let now_ms = 1_790_000_000_000;
    let mut records = successes("a", "before", 3);
    records.push(Record::tombstone("gone"));
    records.push(Record::new("").keyed("empty"));
    records.push(Record::new([b'{', 0xff, b'}']));
    records.extend(MALFORMED.map(|text| Record::new(text).with_header("trace", "1").at(now_ms)));
    records.extend(successes("a", "after", 3));
    let records: Vec<Record> = records.into_iter().map(|record| record.on(1)).collect();
    topic.produce(&records);
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("a", 6)]));
    let letters = dead_letters(&service);
    let codes: Vec<&str> =
        letters.iter().map(|letter| letter["code"].as_str().expect("it is a string")).collect();
    let wanted = [
        "tombstone",
        "not_json",
        "not_utf8",
        "not_json",
        "not_an_object",
        "invalid_agent_name",
        "unknown_status",
        "missing_agent_name",
    ];
    assert_eq!(codes, wanted);
    for (letter, offset) in letters.iter().zip(3..) {
        assert_eq!(letter["source"], "kafka", "{letter}");
        assert_eq!(letter["topic"], topic.name.as_str(), "{letter}");
        assert_eq!((&letter["partition"], &letter["offset"]), (&json!(1), &json!(offset)));
    }
    assert_eq!(counts_of(&service).dead_letters, wanted.len() as u64);

    // At least once each, with the payload as it came.
    let payloads: BTreeSet<Option<Vec<u8>>> = topic.read()[3..3 + wanted.len()]
        .iter()
        .map(|record| record.value.clone().filter(|value| !value.is_empty()))
        .collect();
    within(CATCH_UP_MAX, "the dead letters are in their topic", || {
        let found = dead.read().into_iter();
        let found: BTreeSet<Option<Vec<u8>>> =
            found.map(|record| record.value.filter(|value| !value.is_empty())).collect();
        (found == payloads).then_some(()).ok_or_else(|| format!("{found:?}"))
    });

    // A restart does not refuse them again.
    service.kill();
    let service = setup.start();
    topic.produce(&successes("a", "later", 1));
    catch_up(&service, &topic);
    assert_eq!(dead_letters(&service), letters);
    service.stop();
}

#[test]
fn the_shapes_that_producers_send_are_understood_and_counted_once() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("shapes", 1, &[]);
    let directory = directory();
    let service = replica(directory.path(), &topic, "a").start();
    let gzip = [("compression.type", "gzip")];
    let shape_a = include_str!("../fixtures/shape_a.json");
    let records = [
        Record::new(shape_a).keyed("7d9f3c52-6a0e-4b7e-9d0c-3f1b8f0c2a11"),
        Record::new(include_str!("../fixtures/shape_a_workflow_step.json"))
            .keyed("1b6e0d0a-92f4-4c1b-8a55-6c2f7e9d4b22"),
        Record::new(include_str!("../fixtures/shape_b.json")),
        Record::new(include_str!("../fixtures/shape_c_cloudevents.json")),
        Record::new(include_str!("../fixtures/shape_minimal.json")),
    ];
    topic.produce_with(&gzip, &records);
    catch_up(&service, &topic);
    let once = [
        ("ReflectionAgent", 1),
        ("PlanExecuteAgent", 1),
        ("ToolUseAgent", 1),
        ("ReActAgent", 1),
        ("a", 1),
    ];
    assert_eq!(executions(&service), expected(once));
    for (task, agent, latency_ms) in [
        ("static_analysis", "", 0.0),
        ("workflow_step", "", 0.0),
        ("code_review", "ReflectionAgent", 2431.57),
        ("data_extraction", "ToolUseAgent", 845.3),
        ("compliance_analysis", "ReActAgent", 0.0),
    ] {
        let rows =
            service.get(&format!("/api/learning/agents/performance?task_type={task}")).json();
        let rows = rows.as_array().expect("it is an array");
        let found: Vec<_> = rows
            .iter()
            .filter(|row| row["total_executions"] != 0)
            .map(|row| &row["agent_name"])
            .collect();
        let wanted = if agent.is_empty() { vec![] } else { vec![agent] };
        assert_eq!(found, wanted, "{task}");
        if latency_ms > 0.0 {
            assert_eq!(rows[0]["avg_latency_ms"], latency_ms, "{task}");
        }
    }

    // The same once more: only the smallest has nothing to tell it by but its place in the topic.
    topic.produce_with(&gzip, &records);
    catch_up(&service, &topic);
    let mut twice = expected(once);
    twice.insert("a".to_owned(), 2);
    assert_eq!(executions(&service), twice);
    assert_eq!(counts_of(&service).duplicates, 4);
    service.stop();
}

#[test]
fn positions_are_published_to_the_group_where_the_stock_tool_shows_them() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("published", 2, &[]);
    let directory = directory();
    let setup = replica(directory.path(), &topic, "a");
    let service = setup.start();
    let on = |partition: i32, prefix: &str, count| -> Vec<Record> {
        successes("a", prefix, count).into_iter().map(|record| record.on(partition)).collect()
    };
    topic.produce(&on(0, "1", 12));
    topic.produce(&on(1, "2", 5));
    catch_up(&service, &topic);
    wait_until_published(&service, &topic, "a");
    let row = |offset: &str, lag: &str| (offset.to_owned(), lag.to_owned());
    let group = format!("{}-a", topic.name);
    let Some(described) = cluster.describe_group(&group) else {
        skipped("the stock tool, because KAFKA_TEST_JARS is not set");
        return;
    };
    assert_eq!(described, [(0, row("12", "0")), (1, row("5", "0"))].into());
    service.stop();

    topic.produce(&on(1, "3", 7));
    let described = cluster.describe_group(&group);
    assert_eq!(described, Some([(0, row("12", "0")), (1, row("5", "7"))].into()), "stopped");

    let service = setup.start();
    catch_up(&service, &topic);
    wait_until_published(&service, &topic, "a");
    let described = cluster.describe_group(&group);
    assert_eq!(described, Some([(0, row("12", "0")), (1, row("12", "0"))].into()));
    service.stop();
}

#[test]
fn a_new_store_may_begin_at_the_end_of_the_topic() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("latest", 2, &[]);
    let old: Vec<Record> = successes("old", "old", 20).into_iter().map(|r| r.on(0)).collect();
    topic.produce(&old);
    let directory = directory();
    let setup = replica(directory.path(), &topic, "a").with("KAFKA_AUTO_OFFSET_RESET", "latest");
    let service = setup.start();
    catch_up(&service, &topic);
    service.kill();
    // It is a beginning, not a habit: what comes while we are down counts.
    topic.produce(&successes("new", "new", 6));
    let service = setup.start();
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("new", 6)]));
    assert_eq!(kafka(&service)["gaps"], 0);
    service.stop();
}

// --------------------------------------------------------------------- What happens to topics

#[test]
fn new_partitions_are_picked_up_from_their_beginning() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("growing", 3, &[]);
    let directory = directory();
    // Of a partition that appears while we run, nothing was there before.
    let setup = replica(directory.path(), &topic, "a").with("KAFKA_AUTO_OFFSET_RESET", "latest");
    let service = setup.start();
    catch_up(&service, &topic);
    let everywhere = |partitions: i32, prefix: &str| -> Vec<Record> {
        let on = |partition: i32| {
            let prefix = format!("{prefix}-{partition}");
            successes("a", &prefix, 10).into_iter().map(move |record| record.on(partition))
        };
        (0..partitions).flat_map(on).collect()
    };
    topic.produce(&everywhere(3, "first"));
    catch_up(&service, &topic);
    topic.grow(6);
    topic.produce(&everywhere(6, "second"));
    catch_up_within(NOTICE_MAX, &service, &topic);
    assert_eq!(executions(&service), expected([("a", 90)]));
    service.kill();

    let service = setup.start();
    topic.produce(&everywhere(6, "third"));
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("a", 150)]));
    service.stop();
}

/// Records that nothing but their places in the topic tells apart.
fn anonymous(count: usize) -> Vec<Record> {
    vec![Record::new(r#"{"agent_name": "anonymous", "status": "success"}"#); count]
}

#[test]
fn a_topic_deleted_and_made_anew_while_we_run_stops_until_the_operator_decides() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("anew", 1, &[]);
    let directory = directory();
    let setup = replica(directory.path(), &topic, "a");
    let mut service = setup.start();
    topic.produce(&anonymous(5));
    topic.produce(&successes("old", "old", 45));
    catch_up(&service, &topic);
    let learned = expected([("anonymous", 5), ("old", 45)]);

    topic.delete();
    wait_until_missing(&service);
    assert_eq!(executions(&service), learned);

    topic.create(1, &[]);
    wait_until_stopped(&mut service);
    // Past our position there is no error from Kafka any more.
    topic.produce(&anonymous(5));
    topic.produce(&successes("new", "new", 75));
    service.kill();
    let mut service = setup.start();
    wait_until_stopped(&mut service);
    assert_eq!(executions(&service), learned);
    service.kill();

    let service =
        replica(directory.path(), &topic, "a").argument("--kafka-reset-positions").start();
    catch_up(&service, &topic);
    let learned = expected([("anonymous", 10), ("old", 45), ("new", 75)]);
    assert_eq!(executions(&service), learned);
    service.kill();

    let service = setup.start();
    topic.produce(&successes("later", "later", 1));
    catch_up(&service, &topic);
    let learned = expected([("anonymous", 10), ("old", 45), ("new", 75), ("later", 1)]);
    assert_eq!(executions(&service), learned);
    service.stop();
}

#[test]
fn a_topic_refilled_past_our_position_while_we_run_is_not_read_on() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("refilled", 1, &[]);
    let directory = directory();
    let setup = replica(directory.path(), &topic, "a");
    let mut service = setup.start();
    topic.produce(&successes("old", "old", 50));
    catch_up(&service, &topic);
    topic.delete();
    topic.create(1, &[]);
    topic.produce(&successes("new", "new", 120));
    wait_until_stopped(&mut service);
    topic.produce(&successes("new", "newer", 10));
    let told = executions(&service);
    assert_eq!(told, expected([("old", 50)]), "nothing of the other log was learned");
    service.stop();

    let service =
        replica(directory.path(), &topic, "a").with("KAFKA_RESET_POSITIONS", true).start();
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("old", 50), ("new", 130)]));
    service.stop();
}

#[test]
fn a_topic_refilled_past_our_position_while_we_are_down_is_not_read_on() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("swapped", 2, &[]);
    let directory = directory();
    let setup = replica(directory.path(), &topic, "a");
    let service = setup.start();
    let on = |partition: i32, agent: &str, count| -> Vec<Record> {
        let prefix = format!("{agent}-{partition}");
        successes(agent, &prefix, count).into_iter().map(|record| record.on(partition)).collect()
    };
    topic.produce(&on(0, "old", 30));
    topic.produce(&on(1, "old", 10));
    catch_up(&service, &topic);
    service.kill();
    topic.delete();
    topic.create(2, &[]);
    topic.produce(&on(0, "new", 100));
    topic.produce(&on(1, "new", 100));
    let mut service = setup.start();
    wait_until_stopped(&mut service);
    assert_eq!(executions(&service), expected([("old", 40)]));
    service.kill();

    let service =
        replica(directory.path(), &topic, "a").argument("--kafka-reset-positions").start();
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("old", 40), ("new", 200)]));
    service.stop();
}

#[test]
fn what_retention_took_is_counted_shown_and_passed() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("gap", 1, &[]);
    let directory = directory();
    let setup = replica(directory.path(), &topic, "a");
    topic.produce(&successes("early", "early", 10));
    topic.delete_records(0, 4);
    let service = setup.start();
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("early", 6)]));
    assert_eq!(kafka(&service)["gaps"], 0, "what was gone before our first start is no gap");
    service.kill();

    topic.produce(&successes("lost", "lost", 30));
    topic.produce(&successes("kept", "kept", 20));
    topic.delete_records(0, 40);
    let mut service = setup.start();
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("early", 6), ("kept", 20)]));
    let told = kafka(&service);
    assert_eq!(told["gaps"], 30, "{told}");
    assert_eq!(told["partitions"][0]["low"], 40, "{told}");
    assert_eq!(told["partitions"][0]["state"], "running", "{told}");
    service.wait_for_log("30");
    service.kill();

    // It stays known, and what is taken behind us is no loss.
    let service = setup.start();
    topic.delete_records(0, 55);
    topic.produce(&successes("kept", "more", 1));
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("early", 6), ("kept", 21)]));
    assert_eq!(kafka(&service)["gaps"], 30);
    service.stop();
}

// ------------------------------------------------------------------------- Several replicas

#[test]
fn three_replicas_of_one_partition_have_equal_digests() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("digests", 1, &[]);
    let (counts, digests) = three_replicas(&topic, 2);
    assert_eq!(counts, counts_of_log(&topic.read()));
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[test]
fn three_replicas_of_several_partitions_have_equal_counts() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("replicas", 4, &[]);
    let (counts, _) = three_replicas(&topic, 3);
    assert_eq!(counts, counts_of_log(&topic.read()));
}

/// Three services learn the same topic, with other batch sizes, one of them killed now and then.
/// What all of them have counted, and their digests.
#[track_caller]
fn three_replicas(topic: &Topic, theme: u64) -> (Counts, Vec<String>) {
    let directories = [directory(), directory(), directory()];
    let setups: Vec<Setup> = directories
        .iter()
        .zip([("a", 7), ("b", 100), ("c", 1_000)])
        .map(|(directory, (name, size))| {
            replica(directory.path(), topic, name).with("MODEL_BATCH_SIZE", size)
        })
        .collect();
    let mut services: Vec<Service> = setups.iter().map(Setup::start).collect();
    let mut mixture = Mixture { rng: rng(theme), sent: Vec::new() };
    let sender = topic.sender(&[]);
    for _ in 0..3 {
        for _ in 0..1_000 {
            sender.send(&mixture.next());
        }
        sender.poll(Duration::ZERO);
        services.remove(0).kill();
        services.insert(0, setups[0].start());
    }
    sender.finish();
    let mut counts: Vec<Counts> = services
        .iter()
        .map(|service| {
            catch_up(service, topic);
            counts_of(service)
        })
        .collect();
    let digests = services.iter().map(Service::digest).collect();
    services.into_iter().for_each(Service::stop);
    assert_eq!(counts[0], counts[1]);
    assert_eq!(counts[0], counts[2]);
    (counts.remove(0), digests)
}

// ---------------------------------------------------------------------------------- Producing

/// The value of a record as JSON.
#[track_caller]
fn value(record: &Read) -> Value {
    serde_json::from_slice(record.value.as_deref().expect("it is no tombstone"))
        .unwrap_or_else(|error| panic!("{error}: {record:?}"))
}

fn key(record: &Read) -> String {
    String::from_utf8(record.key.clone().expect("it has a key")).expect("it is UTF-8")
}

#[test]
fn outcomes_posted_are_produced_and_learned_from_the_topic_once() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("posted", 2, &[]);
    let directories = [directory(), directory()];
    let service = replica(directories[0].path(), &topic, "a").start();
    let other = replica(directories[1].path(), &topic, "b").start();

    // Waiting means: learned when it is answered.
    let answer = service.post_json(
        &format!("{OUTCOMES}?wait=true"),
        &json!({"event_id": "one", "agent_name": "a", "status": "success"}),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((&answer.json()["accepted"], &answer.json()["duplicates"]), (&json!(1), &json!(0)));
    assert_eq!(executions(&service), expected([("a", 1)]));

    // Not waiting: learned soon. The second is like the first, the third is refused.
    let events = json!([
        {"event_id": "two", "agent_name": "a", "status": "failure"},
        {"event_id": "two", "agent_name": "a", "status": "failure"},
        {"event_id": "three", "agent_name": "a", "status": "splendid"},
        {"event_id": "one", "agent_name": "a", "status": "success"},
        {"agent_name": "anonymous", "status": "success"},
    ]);
    let answer = service.post_json(OUTCOMES, &events);
    assert_eq!(answer.status, 202, "{answer:?}");
    let told = answer.json();
    assert_eq!((&told["accepted"], &told["duplicates"]), (&json!(2), &json!(2)), "{told}");
    assert_eq!(told["rejected"][0]["index"], 2, "{told}");
    assert_eq!(told["rejected"][0]["code"], "unknown_status", "{told}");
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("a", 2), ("anonymous", 1)]));

    // A duplicate is answered like one, and nothing is produced.
    let answer = service.post_json(
        &format!("{OUTCOMES}?wait=true"),
        &json!([{"event_id": "one", "agent_name": "a", "status": "success"}]),
    );
    assert_eq!((answer.status, &answer.json()["duplicates"]), (200, &json!(1)), "{answer:?}");

    // A CloudEvent, and one that answers a decision.
    let cloud_event = json!({
        "specversion": "1.0", "id": "7", "source": "/test", "type": "outcome",
        "data": {"agent_name": "cloud", "status": "success"},
    });
    let answer = service.post(
        &format!("{OUTCOMES}?wait=true"),
        "application/cloudevents+json",
        cloud_event.to_string(),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    let question = json!({
        "task_type": "triage", "context": {"complexity": "high"}, "candidates": ["decided"],
    });
    let answer = service.post_json("/api/learning/predict/agent-selection", &question).json();
    let decision = answer["decision_id"].as_str().expect("it is a string");
    let outcome = json!({"agent_name": "decided", "status": "success", "decision_id": decision});
    let answer = service.learn(&outcome.to_string());
    assert_eq!(answer["accepted"], 1, "{answer}");
    catch_up(&service, &topic);
    catch_up(&other, &topic);

    // What is in the topic: each event once, keyed by the identity that it carries.
    let records = topic.read();
    assert_eq!(records.len(), 5, "{records:?}");
    let mut by_agent: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for record in &records {
        let event = value(record);
        let event = if event["data"].is_object() { event["data"].clone() } else { event };
        assert_eq!(event["event_id"], key(record), "{event}");
        let agent = event["agent_name"].as_str().expect("it is a string").to_owned();
        by_agent.entry(agent).or_default().push(event);
    }
    let decided = &by_agent["decided"][0];
    assert_eq!(decided["resolved"]["tenant_id"], "default", "{decided}");
    assert_eq!(decided["resolved"]["task_type"], "triage", "{decided}");
    assert_eq!(decided["resolved"]["context"], json!({"complexity": "high"}), "{decided}");

    // Both replicas have learned it, with what the decision knew.
    let counts = counts_of(&service);
    assert_eq!(counts.executions, counts_of(&other).executions);
    assert_eq!(counts.executions[&("decided".to_owned(), Some("triage".to_owned()))], 1);
    let all = [("a", 2), ("anonymous", 1), ("cloud", 1), ("decided", 1)];
    assert_eq!(executions(&other), expected(all));
    assert_eq!(counts.dead_letters, 1, "of the one that posted it");
    assert_eq!(dead_letters(&service)[0]["source"], "http");

    // Anybody may send them again, as they came or as they are in the topic.
    let again: Vec<Record> =
        records.iter().map(|r| Record::new(r.value.clone().expect("it has one"))).collect();
    topic.produce(&again);
    let cloud_event = Record::new(cloud_event.to_string());
    let outcome = Record::new(outcome.to_string());
    topic.produce([&cloud_event, &outcome]);
    for service in [service, other] {
        catch_up(&service, &topic);
        assert_eq!(executions(&service), expected(all));
        service.stop();
    }
}

#[test]
fn what_the_broker_refuses_as_too_large_is_rejected_alone() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("refusing", 1, &[("max.message.bytes", "10000")]);
    let directory = directory();
    let service = replica(directory.path(), &topic, "a").start();
    let mut rng = rng(4);
    let small = |number: usize| {
        format!(r#"{{"event_id":"{number}","agent_name":"small","status":"success"}}"#)
    };
    // Small ones around it, which a producer sends together with it.
    let mut lines: Vec<String> = (0..40).map(small).collect();
    lines.insert(20, sized(&mut rng, "large", 100_000));
    let answer = service.post(&format!("{OUTCOMES}?wait=true"), NDJSON, lines.join("\n"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.json();
    assert_eq!(told["accepted"], 40, "{told}");
    assert_eq!(told["rejected"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(told["rejected"][0]["index"], 20, "{told}");
    assert_eq!(told["rejected"][0]["code"], "too_large", "{told}");
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("small", 40)]));
    assert_eq!(topic.read().len(), 40);
    let letters = dead_letters(&service);
    assert_eq!((letters.len(), &letters[0]["code"]), (1, &json!("too_large")));
    service.stop();
}

#[test]
fn the_largest_outcome_allowed_can_be_posted() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("largest", 1, &[("max.message.bytes", "2000000")]);
    let directory = directory();
    let service = replica(directory.path(), &topic, "a").with("KAFKA_COMPRESSION", "none").start();
    let mut rng = rng(5);
    // What is written into it must not make it one too large to be read.
    let body = [sized(&mut rng, "fits", MIB), sized(&mut rng, "not", MIB + 1)].join("\n");
    let answer = service.post(&format!("{OUTCOMES}?wait=true"), NDJSON, body);
    let told = answer.json();
    assert_eq!((answer.status, &told["accepted"]), (200, &json!(1)), "{told}");
    assert_eq!(told["rejected"][0]["code"], "too_large", "{told}");
    assert_eq!(executions(&service), expected([("fits", 1)]));
    service.stop();
}

// ----------------------------------------------------------------------------------- Verdicts

/// Status, and how many verdicts were accepted, wait, and are known.
#[track_caller]
fn judge(service: &Service, body: &Value) -> (u16, [u64; 3]) {
    let answer = service.post_json(FEEDBACK, body);
    let counts = ["accepted", "waiting", "duplicates"].map(|field| {
        answer.json()[field].as_u64().unwrap_or_else(|| panic!("{field} in {}", answer.body))
    });
    (answer.status, counts)
}

/// How many outcomes were learned of an agent, and the mean of its qualities.
fn learned_of(service: &Service, agent: &str) -> (u64, f64) {
    let rows = service.get("/api/learning/agents/performance").json();
    let mut rows = rows.as_array().expect("it is an array").iter();
    let row = rows.find(|row| row["agent_name"] == agent).unwrap_or(&Value::Null);
    let samples = row["samples"].as_u64().unwrap_or(0);
    (samples, row["avg_quality"].as_f64().unwrap_or(0.0))
}

/// The span of an execution, and a log record of the evaluation that it was no success.
fn traced() -> (Value, Value) {
    let (trace, span) = ("5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174");
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let spans = json!({"resourceSpans": [{"scopeSpans": [{"spans": [{
        "traceId": trace, "spanId": span, "kind": 1,
        "attributes": [text("gen_ai.operation.name", "invoke_agent"),
                       text("gen_ai.agent.name", "traced")],
    }]}]}]});
    let logs = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{
        "traceId": trace, "spanId": span, "eventName": "gen_ai.evaluation.result",
        "attributes": [text("gen_ai.evaluation.name", "correct"),
                       text("gen_ai.evaluation.score.label", "fail")],
    }]}]}]});
    (spans, logs)
}

#[test]
fn verdicts_are_produced_and_applied_alike_by_every_replica() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("verdicts", 1, &[]);
    let directories = [directory(), directory(), directory()];
    let setups = ["a", "b"].map(|name| {
        replica(directories[usize::from(name == "b")].path(), &topic, name)
            .with("OTLP_SUCCESS", "correct")
            .with("OTLP_QUALITY", "relevance")
    });
    let [a, b] = &setups;
    let (a, b) = (a.start(), b.start());
    let event =
        |id: &str, status: &str| json!({"event_id": id, "agent_name": id, "status": status});
    let quality = |id: &str, quality: f64| json!({"event_id": id, "quality_score": quality});

    // After its outcome, and before it.
    a.post_json(OUTCOMES, &json!([event("after", "success"), event("pending", "pending")]));
    catch_up(&a, &topic);
    assert_eq!(judge(&a, &quality("after", 0.25)), (202, [1, 0, 0]));
    let success = json!({"event_id": "pending", "status": "success"});
    assert_eq!(judge(&a, &success), (202, [1, 0, 0]));
    for _ in 0..2 {
        assert_eq!(judge(&a, &quality("before", 0.5)), (202, [0, 1, 0]));
    }
    catch_up(&b, &topic);
    // A replica that has read it knows it; what is known is not revised.
    assert_eq!(judge(&b, &quality("after", 0.25)), (200, [0, 0, 1]));
    assert_eq!(b.post_json(FEEDBACK, &quality("after", 0.75)).status, 409);
    b.post_json(OUTCOMES, &event("before", "success"));
    for service in [&a, &b] {
        catch_up(service, &topic);
        assert_eq!(learned_of(service, "after"), (1, 0.25));
        assert_eq!(learned_of(service, "pending"), (1, 0.0));
        assert_eq!(learned_of(service, "before"), (1, 0.5));
    }

    // By a decision that only one of them has made, in either order; told to either of them.
    let question = |id: &str| json!({"candidates": ["decided"], "decision_id": id});
    for id in ["d1", "d2"] {
        a.post_json("/api/learning/predict/agent-selection", &question(id));
    }
    let of = |id: &str| json!({"decision_id": id, "agent_name": "decided", "status": "success"});
    let verdict = |id: &str| json!({"decision_id": id, "quality_score": 0.75});
    assert_eq!(judge(&a, &verdict("d1")), (202, [0, 1, 0]));
    b.post_json(OUTCOMES, &of("d1"));
    a.post_json(OUTCOMES, &of("d2"));
    catch_up(&b, &topic);
    assert_eq!(judge(&b, &verdict("d2")), (202, [1, 0, 0]));

    // By telemetry, of which only the verdict tells whether it was a success.
    let (spans, logs) = traced();
    assert_eq!(a.post_json("/v1/traces", &spans).body, "{}");
    catch_up(&a, &topic);
    assert_eq!(learned_of(&a, "traced"), (0, 0.0), "it waits");
    assert_eq!(b.post_json("/v1/logs", &logs).body, "{}");

    // One of them is killed in between, and another one killed while it reads.
    let a = {
        a.kill();
        b.post_json(OUTCOMES, &event("killed", "pending"));
        b.post_json(FEEDBACK, &json!({"event_id": "killed", "status": "failure"}));
        judge(&b, &quality("never", 1.0));
        setups[0].start()
    };
    let late = replica(directories[2].path(), &topic, "c");
    late.start().kill();
    let late = late.start();

    // Others write verdicts, too, and not all of them well.
    let written = |record: Value| Record::new(record.to_string()).keyed("after");
    topic.produce(&[
        written(json!({"verdict": {"event_id": "after", "cost_estimate": 2.5}})),
        written(json!({"verdict": {"event_id": "after", "quality_score": 0.75}})),
        written(json!({"verdict": {"event_id": "after", "quality_score": 7}})),
        written(json!({"verdict": {"quality_score": 0.5}})),
        written(json!({"verdict": "pass"})),
    ]);
    let services = [a, b, late];
    for service in &services {
        catch_up(service, &topic);
        assert_eq!(learned_of(service, "decided"), (2, 0.75));
        assert_eq!(learned_of(service, "traced"), (1, 0.0));
        assert_eq!(learned_of(service, "killed"), (1, 0.0));
        let mut codes: Vec<String> = dead_letters(service)
            .iter()
            .map(|letter| letter["code"].as_str().expect("it is a string").to_owned())
            .collect();
        codes.sort();
        assert_eq!(codes, ["conflict", "invalid_verdict", "missing_target", "not_an_object"]);
    }
    let digests: Vec<String> = services.iter().map(Service::digest).collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");

    // What is in the topic says it all: which agent a decision has chosen, and which execution is meant.
    let records: Vec<Value> = topic.read().iter().map(value).collect();
    let of_decision = |id: &str| {
        let mut records = records.iter();
        records.find(|record| record["verdict"]["decision_id"] == id).expect("it was produced")
    };
    assert_eq!(of_decision("d1")["verdict"]["agent_name"], "decided");
    assert_eq!(of_decision("d1")["resolved"], Value::Null);
    let execution = of_decision("d2")["resolved"]["execution"].as_str();
    assert_eq!(execution.map(str::len), Some(32), "{}", of_decision("d2"));
    assert!(records.iter().all(|record| record["verdict"]["name"].is_null()));
    for service in services {
        service.stop();
    }
    for directory in directories {
        verify(directory.path());
    }
}

#[test]
fn a_verdict_is_in_the_partition_of_its_outcome_and_all_replicas_count_alike() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("judged", 4, &[]);
    let directories = [directory(), directory()];
    let setup = replica(directories[0].path(), &topic, "a");
    let (mut service, other) = (setup.start(), replica(directories[1].path(), &topic, "b").start());
    for round in 0..4 {
        let ids = |from: usize| (from..from + 20).map(move |number| format!("{round}-{number}"));
        let event = |id: String| json!({"event_id": id, "agent_name": "a", "status": "pending"});
        let verdict =
            |id: String| json!({"event_id": id, "status": "success", "quality_score": 0.5});
        let (events, verdicts): (Vec<Value>, Vec<Value>) =
            (ids(0).map(event).collect(), ids(0).map(verdict).collect());
        // In either order; some are told to the one that is killed, and again to the other.
        let first = if round % 2 == 0 { (OUTCOMES, &events) } else { (FEEDBACK, &verdicts) };
        let then = if round % 2 == 0 { (FEEDBACK, &verdicts) } else { (OUTCOMES, &events) };
        service.post_json(first.0, &json!(first.1));
        other.post_json(then.0, &json!(then.1));
        service.kill();
        other.post_json(FEEDBACK, &json!(verdicts));
        service = setup.start();
    }
    for service in [&service, &other] {
        catch_up(service, &topic);
        assert_eq!(learned_of(service, "a"), (80, 0.5));
        assert_eq!(executions(service), expected([("a", 80)]));
        assert_eq!(dead_letters(service), Vec::<Value>::new());
    }
    let mut partition_of = BTreeMap::new();
    for record in topic.read() {
        let first = *partition_of.entry(key(&record)).or_insert(record.partition);
        assert_eq!(record.partition, first, "{record:?}");
    }
    service.stop();
    other.stop();
    for directory in directories {
        verify(directory.path());
    }
}

/// Runs `emit` with this input; its exit code, and what it printed.
#[track_caller]
fn emit(topic: &Topic, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    emit_compressed("gzip", topic, arguments, input)
}

#[track_caller]
fn emit_compressed(
    codec: &str,
    topic: &Topic,
    arguments: &[&str],
    input: &str,
) -> (Option<i32>, String) {
    let mut child = program()
        .arg("emit")
        .args(arguments)
        .env("KAFKA_COMPRESSION", codec)
        .env("KAFKA_BOOTSTRAP_SERVERS", &topic.cluster.servers)
        .env("KAFKA_OUTCOME_TOPIC", &topic.name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be run");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A program that reads a file instead may have closed it.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("it is our child");
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    (output.status.code(), text)
}

#[test]
fn recorded_outcomes_are_emitted_to_the_topic() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("emitted", 2, &[]);
    let directory = directory();
    let service = replica(directory.path(), &topic, "a").start();
    let mut rng = rng(6);
    let mut lines = String::new();
    for number in 0..200 {
        writeln!(lines, "{}", event(&mut rng, &format!("event-{number}"))).expect("it is a string");
    }
    let file = directory.path().join("outcomes.jsonl");
    std::fs::write(&file, &lines).expect("it can be written");
    let file = file.to_str().expect("the path is UTF-8");
    let (code, text) = emit(&topic, &[file], "");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("200"), "it says how many: {text}");
    catch_up(&service, &topic);
    let counts = counts_of_log(&topic.read());
    assert_eq!(counts_of(&service), counts);
    assert_eq!(
        counts
            .executions
            .iter()
            .filter(|((_, task), _)| task.is_none())
            .map(|(_, n)| n)
            .sum::<u64>(),
        200
    );
    for record in topic.read() {
        assert_eq!(value(&record)["event_id"], key(&record));
    }

    // From standard input; the service knows them already.
    let (code, text) = emit(&topic, &["-"], &lines);
    assert_eq!(code, Some(0), "{text}");
    catch_up(&service, &topic);
    assert_eq!(counts_of(&service).duplicates, 200);
    assert_eq!(counts_of(&service).executions, counts.executions);
    service.stop();
}

#[test]
fn what_is_produced_may_be_compressed_with_every_codec() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("compressed", 1, &[]);
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        // "none" alone would be no id.
        let id = format!("by {codec}");
        let event = json!({"event_id": id, "agent_name": codec, "status": "success"});
        let (code, text) = emit_compressed(codec, &topic, &["-"], &event.to_string());
        assert_eq!(code, Some(0), "{codec}: {text}");
    }
    let keys: Vec<String> = topic.read().iter().map(key).collect();
    assert_eq!(keys, codecs.map(|codec| format!("by {codec}")));
}

// ------------------------------------------------------------------------- Pulling the plugs

#[test]
fn a_broker_killed_and_restarted_costs_nothing() {
    let Some(mut broker) = Broker::start() else { return };
    let topic = broker.cluster().topic("killed", 3, &[]);
    let directory = directory();
    let service = replica(directory.path(), &topic, "a").start();
    let (stop, delivered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (topic, stop, delivered) = (&topic, &stop, &delivered);
        let producer = scope.spawn(move || {
            let mut mixture = Mixture { rng: rng(7), sent: Vec::new() };
            let sender = topic.sender(&[("linger.ms", "5")]);
            while !stop.load(SeqCst) {
                for _ in 0..5 {
                    sender.send(&mixture.next());
                }
                sender.poll(Duration::from_millis(5));
                delivered.store(sender.delivered(), SeqCst);
            }
            sender.finish()
        });
        let wait_for_more = |more: usize| {
            let goal = delivered.load(SeqCst) + more;
            eventually("the producer gets on", || (delivered.load(SeqCst) >= goal).then_some(()));
        };
        for _ in 0..2 {
            wait_for_more(500);
            let before = executions(&service);
            broker.kill();
            within(CATCH_UP_MAX, "the outage is said", || {
                let kafka = kafka(&service);
                (kafka["state"] != "connected" && kafka["error"].is_string())
                    .then_some(())
                    .ok_or_else(|| kafka.to_string())
            });
            assert_eq!(service.get("/readyz").status, 200);
            predict(&service);
            broker.restart();
            within(CATCH_UP_MAX, "it learns again", || {
                (executions(&service) != before)
                    .then_some(())
                    .ok_or_else(|| kafka(&service).to_string())
            });
        }
        // A broker that hangs is no different.
        broker.signal("STOP");
        predict(&service);
        broker.signal("CONT");
        wait_for_more(500);
        stop.store(true, SeqCst);
        producer.join().expect("the producer succeeds");
    });
    catch_up(&service, &topic);
    assert_eq!(counts_of(&service), counts_of_log(&topic.read()));
    // The broker is asked about the topic now and then; it may not have answered while it hung.
    within(CATCH_UP_MAX, "the end of the outage is said", || {
        let kafka = kafka(&service);
        (kafka["state"] == "connected" && kafka["error"].is_null())
            .then_some(())
            .ok_or_else(|| kafka.to_string())
    });
    service.stop();
}

#[test]
fn without_a_broker_outcomes_are_refused_with_503_until_it_is_back() {
    let Some(mut broker) = Broker::start() else { return };
    let topic = broker.cluster().topic("refusing", 1, &[]);
    let directory = directory();
    let service = replica(directory.path(), &topic, "a").start();
    let event = |id: &str| json!({"event_id": id, "agent_name": "a", "status": "success"});
    let answer = service.post_json(&format!("{OUTCOMES}?wait=true"), &event("before"));
    assert_eq!(answer.status, 200, "{answer:?}");
    broker.kill();
    for path in [OUTCOMES.to_owned(), format!("{OUTCOMES}?wait=true")] {
        let answer = service.post_json(&path, &event("during"));
        assert_eq!(answer.status, 503, "{answer:?}");
        let after = answer.header("retry-after").and_then(|text| text.parse::<u64>().ok());
        assert!(after.is_some(), "Retry-After: {answer:?}");
    }
    // What needs no broker is answered all along.
    predict(&service);
    assert_eq!(executions(&service), expected([("a", 1)]));
    assert_eq!(emit(&topic, &["-"], &event("emitted").to_string()).0, Some(1));
    broker.restart();
    within(CATCH_UP_MAX, "outcomes are accepted again", || {
        let answer = service.post_json(&format!("{OUTCOMES}?wait=true"), &event("during"));
        (answer.status == 200).then_some(()).ok_or_else(|| format!("{answer:?}"))
    });
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("a", 2)]), "what was refused and sent again");

    // An orderly stop does not wait for a broker.
    broker.kill();
    let started = Instant::now();
    service.stop();
    assert!(started.elapsed() < Duration::from_secs(12), "took {:?}", started.elapsed());
}

#[test]
fn a_service_started_before_its_broker_is_ready_and_catches_up() {
    let Some(mut broker) = Broker::prepare() else { return };
    let topic = broker.cluster().topic_to_be("absent");
    let directory = directory();
    let setup = replica(directory.path(), &topic, "a");
    let started = Instant::now();
    let service = setup.start();
    let took = started.elapsed();
    assert!(took < Duration::from_secs(2), "ready after {took:?}");
    predict(&service);
    let ready = service.get("/readyz?verbose");
    assert_eq!(ready.status, 200);
    assert!(!ready.json()["kafka"].is_null(), "{ready:?}");
    within(CATCH_UP_MAX, "it is said that there is no broker", || {
        let (kafka, ready) = (kafka(&service), service.get("/readyz?verbose").json());
        let is_said = kafka["state"] != "connected"
            && kafka["error"].is_string()
            && !ready["kafka"].to_string().contains("\"connected\"");
        is_said.then_some(()).ok_or_else(|| format!("{kafka} {ready}"))
    });
    // It asks again and again, but not all the time.
    let uptime = || service.get("/api/learning/status").json()["uptime_seconds"].as_u64();
    let (before, cpu_before) = (uptime(), cpu_ticks(service.pid()));
    eventually("some time passes", || (uptime() > before.map(|before| before + 4)).then_some(()));
    let used = cpu_ticks(service.pid()) - cpu_before;
    // Of 100 a second, and the answers to our questions took their part.
    assert!(used < 150, "{used} ticks in 5 seconds");
    service.stop();

    let service = setup.start();
    broker.restart();
    wait_until_missing(&service);
    topic.create(2, &[]);
    topic.produce(&successes("a", "1", 20));
    catch_up_within(NOTICE_MAX, &service, &topic);
    assert_eq!(executions(&service), expected([("a", 20)]));
    service.stop();
}

/// Processor time that a process has used, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let (_, fields) = stat.rsplit_once(") ").expect("the name ends");
    let tick = |index: usize| -> u64 {
        fields.split(' ').nth(index).and_then(|text| text.parse().ok()).expect("it is a number")
    };
    tick(11) + tick(12)
}

#[test]
fn a_full_queue_pauses_the_consumer_and_nothing_is_lost() {
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("paused", 2, &[]);
    let directory = directory();
    let service = replica(directory.path(), &topic, "a").with("QUEUE_CAPACITY", 1).start();
    topic.produce(&successes("a", "first", 10));
    catch_up(&service, &topic);
    // Nothing can be stored while somebody else writes to the database.
    let path = directory.path().join("online-learning.db");
    let database = rusqlite::Connection::open(path).expect("it can be opened");
    database.execute_batch("BEGIN IMMEDIATE").expect("it can be locked");
    let sender = topic.sender(&[]);
    for record in successes("a", "second", 30_000) {
        sender.send(&record);
    }
    sender.finish();
    within(CATCH_UP_MAX, "the consumer has to wait", || {
        let status = service.get("/api/learning/status").json();
        (status["lag"]["records"].as_u64() >= Some(30_000) && status["kafka"]["paused"] == true)
            .then_some(())
            .ok_or_else(|| status.to_string())
    });
    predict(&service);
    assert_eq!(executions(&service), expected([("a", 10)]));
    database.execute_batch("ROLLBACK").expect("it can be unlocked");
    catch_up(&service, &topic);
    assert_eq!(executions(&service), expected([("a", 30_010)]));
    service.stop();
}

#[test]
fn a_hundred_kills_under_a_live_producer_lose_nothing_and_count_nothing_twice() {
    const KILLS: usize = 100;
    let Some(cluster) = Cluster::shared() else { return };
    let topic = cluster.topic("kills", 3, &[]);
    let directory = directory();
    let setup = replica(directory.path(), &topic, "a")
        .with("MODEL_BATCH_SIZE", 7)
        .with("MODEL_BATCH_TIMEOUT", "0.05")
        .with("MODEL_SAVE_INTERVAL", 1)
        .with("CHECKPOINT_OUTCOMES", 1_000);
    let stop = AtomicBool::new(false);
    let mut rng = rng(8);
    std::thread::scope(|scope| {
        let (topic, stop) = (&topic, &stop);
        let mut mixture =
            Mixture { rng: Xoshiro256PlusPlus::seed_from_u64(rng.random()), sent: Vec::new() };
        let producer = scope.spawn(move || {
            let sender = topic.sender(&[("linger.ms", "1")]);
            while !stop.load(SeqCst) {
                sender.send(&mixture.next());
                sender.poll(Duration::from_millis(1));
            }
            sender.finish()
        });
        for kill in 0..KILLS {
            // Every fifth in the middle of the start.
            if kill % 5 == 0 {
                let starting = setup.spawn(free_address());
                std::thread::sleep(Duration::from_micros(rng.random_range(0..100_000)));
                starting.kill();
                continue;
            }
            let service = setup.start();
            let position = || -> i64 {
                partitions(&service).values().filter_map(|p| p["position"].as_i64()).sum()
            };
            // A random amount of progress, then a random moment within what is going on.
            let goal = position() + rng.random_range(0..60);
            within(CATCH_UP_MAX, "the service gets on", || {
                (position() >= goal).then_some(()).ok_or_else(|| kafka(&service).to_string())
            });
            std::thread::sleep(Duration::from_micros(rng.random_range(0..20_000)));
            service.kill();
        }
        stop.store(true, SeqCst);
        producer.join().expect("the producer succeeds");
    });
    let service = setup.start();
    catch_up(&service, &topic);
    let records = topic.read();
    let counts = counts_of_log(&records);
    assert!(counts.duplicates > 0 && counts.dead_letters > 0, "{counts:?}");
    assert_eq!(counts_of(&service), counts, "of {} records", records.len());
    assert_eq!(dead_letters(&service).len() as u64, counts.dead_letters);
    service.stop();
}
