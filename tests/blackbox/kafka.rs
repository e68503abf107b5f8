//! The service at a topic, on any machine: librdkafka's mock cluster stands in for the brokers. What
//! it can't do (deletion, transactions, retention, other codecs) is tested against real brokers.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, ToBytes};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Service, Setup, eventually, program};

pub(crate) const TOPIC: &str = "agent-outcomes";
const OUTCOMES: &str = "/api/learning/outcomes";

/// A cluster of its own with the topic in it.
pub(crate) struct Cluster {
    pub(crate) mock: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Cluster {
    pub(crate) fn new(partitions: i32) -> Self {
        let mock = MockCluster::new(1).expect("a mock cluster");
        mock.create_topic(TOPIC, partitions, 1).expect("a topic");
        let producer = ClientConfig::new()
            .set("bootstrap.servers", mock.bootstrap_servers())
            // A broker that comes back is found again soon.
            .set("reconnect.backoff.max.ms", "500")
            .create()
            .expect("a producer");
        Self { mock, producer }
    }

    fn setup(&self, directory: &TempDir) -> Setup {
        Setup::new(directory.path()).with("KAFKA_BOOTSTRAP_SERVERS", self.mock.bootstrap_servers())
    }

    /// Writes values, spread over the partitions.
    #[track_caller]
    fn produce<T: AsRef<[u8]>>(&self, partitions: i32, values: impl IntoIterator<Item = T>) {
        for (partition, value) in (0..partitions).cycle().zip(values) {
            self.enqueue(partition, value.as_ref());
        }
        self.flush();
    }

    /// Has a value written, sooner or later.
    #[track_caller]
    pub(crate) fn enqueue(&self, partition: i32, value: &(impl ToBytes + ?Sized)) {
        let record = BaseRecord::<(), _>::to(TOPIC).partition(partition).payload(value);
        self.producer.send(record).map_err(|(error, _)| error).expect("there is room");
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until all is written.
    #[track_caller]
    pub(crate) fn flush(&self) {
        self.producer.flush(Duration::from_secs(30)).expect("the cluster takes them");
    }

    /// Everything in a topic of one partition.
    fn read(&self, topic: &str, count: usize) -> Vec<rdkafka::message::OwnedMessage> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.mock.bootstrap_servers())
            .set("group.id", "test")
            .create()
            .expect("a consumer");
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(topic, 0, Offset::Beginning).expect("a valid offset");
        consumer.assign(&all).expect("it can be assigned");
        let mut found = Vec::new();
        eventually(&format!("{count} records in {topic}"), || {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(10)) {
                found.push(message.detach());
            }
            (found.len() >= count).then_some(())
        });
        found
    }
}

/// Records in binary mode carry source, id and time in their headers; without the version they are any.
#[test]
fn cloud_events_in_binary_mode_are_known_by_their_headers() {
    let cluster = Cluster::new(1);
    let directory = tempfile::tempdir().expect("a directory");
    let service = cluster.setup(&directory).start();
    let budget = json!({"amount": 10, "period": "month"});
    assert_eq!(service.put_json("/api/learning/budgets/default", &budget).status, 200);
    let value = json!({"agent_name": "a", "status": "success", "cost_estimate": 5}).to_string();
    let send = |version: &str, id: &str| {
        let pairs = [
            (version, "1.0"),
            ("ce_id", id),
            ("ce_source", "/s"),
            ("ce_time", "2023-05-01T10:00:00Z"),
        ];
        let mut headers = OwnedHeaders::new();
        for (key, value) in pairs {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let record = BaseRecord::<(), _>::to(TOPIC).payload(&value).headers(headers);
        cluster.producer.send(record).map_err(|(error, _)| error).expect("there is room");
    };
    for id in ["7", "7", "8"] {
        send("ce_specversion", id);
    }
    send("other", "9");
    cluster.producer.flush(Duration::from_secs(30)).expect("the cluster takes them");
    learned(&service, 3);
    assert_eq!(metric(&service, "duplicates"), 1);
    let spent = service.get("/api/learning/budgets/default").json()["spent"].clone();
    assert_eq!(spent, json!(5.0), "that of the one without an envelope, which has no time");
    service.stop();
}

#[test]
fn alerts_are_sent_to_their_topic() {
    let cluster = Cluster::new(1);
    cluster.mock.create_topic("agent-alerts", 1, 1).expect("a topic");
    let directory = tempfile::tempdir().expect("a directory");
    let service = cluster
        .setup(&directory)
        .with("KAFKA_ALERT_TOPIC", "agent-alerts")
        .with("MODEL_BATCH_SIZE", 1)
        .with("ALERT_INTERVAL", "0.1")
        .with("ALERT_PERFECT_OUTCOMES", 200)
        .start();
    let said = |status: &str| json!({"agent_name": "a", "status": status}).to_string();
    cluster.produce(1, std::iter::repeat_n(said("success"), 200));
    let firing = cluster.read("agent-alerts", 1);
    cluster.produce(1, [said("failure")]);
    let both = cluster.read("agent-alerts", 2);
    let alert = |message: &rdkafka::message::OwnedMessage| -> Value {
        serde_json::from_slice(message.payload().expect("a value")).expect("it is JSON")
    };
    assert_eq!(alert(&firing[0]), alert(&both[0]));
    for (message, status) in both.iter().zip(["firing", "resolved"]) {
        assert_eq!(message.key(), Some(&b"agent_perfect/default/a"[..]));
        let alert = alert(message);
        assert_eq!((&alert["rule"], &alert["status"]), (&json!("agent_perfect"), &json!(status)));
    }
    service.stop();
}

fn event(number: usize) -> String {
    let status = ["success", "failure", "partial", "timeout"][number % 4];
    json!({
        "event_id": format!("e{number}"), "agent_name": format!("agent{}", number % 5),
        "task_type": format!("task{}", number % 3), "status": status,
        "context": {"size": number % 7},
    })
    .to_string()
}

fn metric(service: &Service, name: &str) -> u64 {
    service.get("/api/learning/metrics").json()[name].as_u64().expect("a count")
}

fn status(service: &Service) -> Value {
    service.get("/api/learning/status").json()
}

/// Waits until the service has learned `count` outcomes and is at the end of the topic.
#[track_caller]
fn learned(service: &Service, count: u64) {
    eventually(&format!("{count} outcomes are learned"), || {
        service.post("/api/learning/outcomes?wait=true", "application/x-ndjson", "");
        let status = status(service);
        let at_end = status["lag"]["records"] == 0 && status["kafka"]["state"] == "connected";
        (metric(service, "samples_processed") >= count && at_end).then_some(())
    });
    assert_eq!(metric(service, "samples_processed"), count);
}

/// Executions by agent.
fn executions(service: &Service) -> BTreeMap<String, u64> {
    let rows = service.get("/api/learning/agents/performance").json();
    let rows = rows.as_array().expect("an array").iter();
    rows.map(|row| {
        let name = row["agent_name"].as_str().expect("a name");
        (name.to_owned(), row["total_executions"].as_u64().expect("a count"))
    })
    .collect()
}

#[test]
fn every_partition_is_read_once_over_kills_and_stops() {
    let cluster = Cluster::new(3);
    let directory = TempDir::new().unwrap();
    let setup = cluster.setup(&directory);
    cluster.produce(3, (0..300).map(event));
    let service = setup.start();
    learned(&service, 300);
    service.kill();
    cluster.produce(3, (200..500).map(event));
    let service = setup.start();
    learned(&service, 500);
    service.stop();
    cluster.produce(3, (500..700).map(event));
    let service = setup.start();
    learned(&service, 700);
    assert_eq!(metric(&service, "duplicates"), 100);
    assert_eq!(metric(&service, "accepted"), 700);
    assert_eq!(executions(&service).into_values().collect::<Vec<_>>(), [140; 5]);
    let seen = status(&service);
    assert_eq!(seen["source"], "kafka");
    assert_eq!(seen["lag"], json!({"records": 0, "seconds": 0.0}));
    let positions: i64 = seen["kafka"]["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|partition| partition["position"].as_i64().unwrap())
        .sum();
    assert_eq!(positions, 800);
}

#[test]
fn brokers_may_go_and_come_back() {
    let cluster = Cluster::new(2);
    let directory = TempDir::new().unwrap();
    let mut service = cluster.setup(&directory).start();
    cluster.produce(2, (0..100).map(event));
    learned(&service, 100);

    cluster.mock.broker_down(1).unwrap();
    eventually("the loss is shown", || {
        let status = status(&service);
        (status["kafka"]["state"] == "disconnected" && status["status"] == "degraded").then_some(())
    });
    let ready = service.get("/readyz?verbose");
    assert_eq!(ready.status, 200);
    assert!(ready.json()["kafka"].as_str().unwrap().starts_with("disconnected"), "{ready:?}");
    assert_eq!(service.get("/health").json()["status"], "degraded");
    let refused = service.post_json(OUTCOMES, &json!({"agent_name": "a", "status": "success"}));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").is_some());
    // Predictions do not care.
    let answer = service.post_json("/api/learning/predict/agent-selection", &json!({}));
    assert_eq!(answer.json()["recommendations"].as_array().unwrap().len(), 3);

    cluster.mock.broker_up(1).unwrap();
    cluster.produce(2, (100..200).map(event));
    learned(&service, 200);
    let posted = service.post_json(OUTCOMES, &json!({"agent_name": "a", "status": "success"}));
    assert_eq!(posted.status, 202, "{posted:?}");
    learned(&service, 201);
    assert_eq!(metric(&service, "duplicates"), 0);
    service.wait_for_log("kafka=disconnected");

    // An orderly end does not wait for brokers.
    cluster.mock.broker_down(1).unwrap();
    service.stop();
}

#[test]
fn errors_of_brokers_lose_and_double_nothing() {
    let cluster = Cluster::new(2);
    let directory = TempDir::new().unwrap();
    let service = cluster.setup(&directory).start();
    let passing = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
    ];
    cluster.mock.request_errors(RDKafkaApiKey::Fetch, &passing);
    cluster.mock.request_errors(RDKafkaApiKey::ListOffsets, &passing);
    cluster.mock.request_errors(RDKafkaApiKey::OffsetCommit, &passing);
    cluster.produce(2, (0..500).map(event));
    learned(&service, 500);

    cluster.mock.request_errors(RDKafkaApiKey::Produce, &passing[..2]);
    let lines: String = (500..600).map(|number| event(number) + "\n").collect();
    let answer = service.post(OUTCOMES, "application/x-ndjson", lines);
    assert_eq!(answer.json()["accepted"], 100, "{answer:?}");
    learned(&service, 600);
    assert_eq!(metric(&service, "duplicates"), 0);
}

#[test]
fn without_a_broker_the_service_is_ready_and_catches_up_when_one_appears() {
    let cluster = Cluster::new(1);
    cluster.mock.broker_down(1).unwrap();
    let directory = TempDir::new().unwrap();
    let service = cluster.setup(&directory).start();
    let ready = eventually("the reason is told", || {
        let ready = service.get("/readyz?verbose").json();
        ready["kafka"].as_str().unwrap().contains("connecting: ").then_some(ready)
    });
    assert_eq!(ready["status"], "ready");
    assert_eq!(status(&service)["status"], "degraded");
    let refused = service.post_json(OUTCOMES, &json!({"agent_name": "a", "status": "success"}));
    assert_eq!(refused.status, 503, "{refused:?}");

    cluster.mock.broker_up(1).unwrap();
    cluster.produce(1, (0..10).map(event));
    learned(&service, 10);
    assert_eq!(status(&service)["status"], "running");
}

#[test]
fn what_is_no_outcome_is_a_dead_letter_with_its_place() {
    let cluster = Cluster::new(1);
    cluster.mock.create_topic("refused", 1, 1).unwrap();
    let directory = TempDir::new().unwrap();
    let setup = cluster.setup(&directory).with("KAFKA_DEAD_LETTER_TOPIC", "refused");
    let service = setup.start();
    cluster.produce(1, ["not json", "{\"agent_name\":\"a\"}"]);
    let tombstone = BaseRecord::<str, [u8]>::to(TOPIC).partition(0).key("key");
    cluster.producer.send(tombstone).map_err(|(error, _)| error).unwrap();
    cluster.producer.flush(Duration::from_secs(30)).unwrap();
    cluster.produce(1, [event(1)]);
    learned(&service, 1);

    let letters = service.get("/api/learning/dead-letters").json();
    let letters: Vec<_> = letters["dead_letters"].as_array().unwrap().iter().rev().collect();
    let codes: Vec<_> = letters.iter().map(|letter| letter["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["not_json", "missing_status", "tombstone"]);
    for (offset, letter) in letters.iter().enumerate() {
        assert_eq!(
            (&letter["source"], &letter["topic"], &letter["partition"], &letter["offset"]),
            (&json!("kafka"), &json!(TOPIC), &json!(0), &json!(offset))
        );
    }
    // What comes over HTTP and is refused is one, too, and all go to their topic.
    service.post(OUTCOMES, "application/x-ndjson", "{}");
    let sent = cluster.read("refused", 4);
    let header = |message: &rdkafka::message::OwnedMessage, name: &str| {
        let headers = message.headers().expect("it has headers");
        let found = headers.iter().find(|header| header.key == name)?;
        Some(String::from_utf8_lossy(found.value.unwrap_or_default()).into_owned())
    };
    let codes: Vec<_> = sent.iter().map(|message| header(message, "code").unwrap()).collect();
    assert_eq!(codes, ["not_json", "missing_status", "tombstone", "missing_agent_name"]);
    assert_eq!(sent[0].payload(), Some(&b"not json"[..]));
    assert_eq!(header(&sent[1], "offset").as_deref(), Some("1"));
    assert_eq!(header(&sent[3], "source").as_deref(), Some("http"));
    // What was sent is remembered over an orderly restart.
    service.stop();
    let service = setup.start();
    service.post(OUTCOMES, "application/x-ndjson", "[]");
    assert_eq!(cluster.read("refused", 5).len(), 5);
}

#[test]
fn a_new_store_may_begin_with_what_comes_from_now_on() {
    let cluster = Cluster::new(1);
    cluster.produce(1, (0..10).map(event));
    let directory = TempDir::new().unwrap();
    let setup = cluster.setup(&directory).with("KAFKA_AUTO_OFFSET_RESET", "latest");
    let service = setup.start();
    eventually("it has begun", || {
        (status(&service)["kafka"]["partitions"][0]["position"] == 10).then_some(())
    });
    // The beginning itself is durable.
    eventually("the beginning is stored", || {
        let database = directory.path().join("online-learning.db");
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let reader = rusqlite::Connection::open_with_flags(database, flags).ok()?;
        let next = "SELECT next_offset FROM source_positions";
        let next: i64 = reader.query_row(next, [], |row| row.get(0)).ok()?;
        (next == 10).then_some(())
    });
    service.kill();
    cluster.produce(1, (10..15).map(event));
    let service = setup.start();
    learned(&service, 5);
}

#[test]
fn another_topic_of_the_same_name_stops_the_partition_until_an_operator_decides() {
    let directory = TempDir::new().unwrap();
    let first = Cluster::new(1);
    first.produce(1, (0..10).map(event));
    let service = first.setup(&directory).start();
    learned(&service, 10);
    service.stop();
    drop(first);

    // It holds more than was read of the other one: Kafka itself would see nothing wrong.
    let second = Cluster::new(1);
    second.produce(1, (100..120).map(event));
    let mut service = second.setup(&directory).start();
    let stopped = eventually("the partition is stopped", || {
        let status = status(&service);
        (status["kafka"]["partitions"][0]["state"] == "stopped").then_some(status)
    });
    assert_eq!(stopped["status"], "degraded");
    let message = stopped["kafka"]["partitions"][0]["message"].as_str().unwrap();
    assert!(message.contains("made again") && message.contains("--kafka-reset-positions"));
    service.wait_for_log("stopped=");
    assert_eq!(metric(&service, "samples_processed"), 10);
    service.stop();

    let service = second.setup(&directory).with("KAFKA_RESET_POSITIONS", "true").start();
    learned(&service, 30);
    service.kill();
    // The decision is durable, and need not be taken back.
    second.produce(1, (120..125).map(event));
    let service = second.setup(&directory).start();
    learned(&service, 35);
    assert_eq!(status(&service)["status"], "running");
}

#[test]
fn outcomes_over_http_go_through_the_topic_and_every_replica_learns_them_once() {
    let cluster = Cluster::new(1);
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let one = cluster.setup(&one).with("KAFKA_CONSUMER_GROUP", "one").start();
    let two = cluster.setup(&two).with("KAFKA_CONSUMER_GROUP", "two").start();
    eventually("brokers are there", || {
        let state = |service| status(service)["kafka"]["state"] == "connected";
        (state(&one) && state(&two)).then_some(())
    });

    let question = json!({
        "task_type": "review", "context": {"a": {"b": 1.5}, "lang": "rust"}, "candidates": ["x"],
        "decision_id": "d-1",
    });
    let asked = one.post_json("/api/learning/predict/agent-selection", &question);
    assert_eq!(asked.status, 200);
    let events = json!([
        {"agent_name": "x", "status": "success", "correlation_id": "d-1"},
        {"agent_name": "x", "status": "failure", "event_id": "e-1", "correlation_id": "other",
         "latency_ms": -1},
        {"agent_name": "x", "status": "failure", "event_id": "e-1", "latency_ms": -1},
        {"agent_name": "y", "status": "success", "tenant_id": "t", "cost": 0, "memory_mb": 0,
         "cpu_ms": 0},
        {"agent_name": "y"},
    ]);
    let answer = one.post_json("/api/learning/outcomes?wait=true", &events);
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.json();
    assert_eq!((&body["accepted"], &body["duplicates"]), (&json!(3), &json!(1)), "{body}");
    assert_eq!(body["rejected"][0]["index"], 4);
    assert_eq!(body["dropped_fields"], json!({"latency_ms": 1}), "of the one that was accepted");
    // Learned already: that is what waiting is for.
    assert_eq!(metric(&one, "samples_processed"), 3);
    let again = one.post_json(
        OUTCOMES,
        &json!({
            "agent_name": "x", "status": "failure", "event_id": "e-1",
        }),
    );
    assert_eq!((again.status, &again.json()["duplicates"]), (202, &json!(1)));

    learned(&two, 3);
    assert_eq!(one.digest(), two.digest());
    let rows = two.get("/api/learning/agents/performance?task_type=review").json();
    assert_eq!(rows[0]["total_executions"], 1, "the decision's task type came along: {rows}");

    // The monitor's zero says nothing, also once it has an identity.
    let costs = two.post_json("/api/learning/predict/cost", &json!({"tenant_id": "t"})).json();
    let of_y = &costs["predictions"][0];
    assert_eq!((&of_y["agent_name"], &of_y["mean"]), (&json!("y"), &Value::Null), "{costs}");

    let records = cluster.read(TOPIC, 3);
    let values: Vec<Value> = records
        .iter()
        .map(|record| serde_json::from_slice(record.payload().unwrap()).unwrap())
        .collect();
    assert_eq!(
        values[0]["resolved"],
        json!({
            "tenant_id": "default", "task_type": "review",
            "context": {"a.b": 1.5, "lang": "rust"},
        })
    );
    assert_eq!(values[1]["resolved"], json!({"tenant_id": "default"}));
    assert_eq!(values[2]["resolved"], json!({"tenant_id": "t", "zero_is_unknown": true}));
    for (record, value) in records.iter().zip(&values) {
        let key = std::str::from_utf8(record.key().unwrap()).unwrap();
        assert_eq!(value["event_id"], key, "keyed by identity");
    }
    assert_eq!(values[1]["event_id"], "e-1");

    // One who sends the very record to the topic again adds nothing, wherever.
    cluster.produce(1, records.iter().map(|record| record.payload().unwrap()));
    eventually("both have read them again", || {
        (metric(&one, "duplicates") == 5 && metric(&two, "duplicates") == 3).then_some(())
    });
    learned(&one, 3);
    learned(&two, 3);
}

#[test]
fn recorded_outcomes_are_emitted_and_learned_once() {
    let cluster = Cluster::new(1);
    let directory = TempDir::new().unwrap();
    let service = cluster.setup(&directory).start();
    let file = directory.path().join("recorded.jsonl");
    let lines: Vec<String> = (0..50)
        .map(event)
        .chain(["{\"agent_name\":\"a\",\"status\":\"success\"}".to_owned(), "rubbish".to_owned()])
        .collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    for _ in 0..2 {
        let output = program()
            .arg("emit")
            .arg(&file)
            .env("KAFKA_BOOTSTRAP_SERVERS", cluster.mock.bootstrap_servers())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text.trim(), "accepted=51 duplicates=0 rejected=1 not_json=1");
    }
    learned(&service, 51);
    eventually("the second time is read", || (metric(&service, "duplicates") == 51).then_some(()));

    let without = program().arg("emit").arg(&file).output().unwrap();
    assert_eq!(without.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&without.stderr).contains("KAFKA_BOOTSTRAP_SERVERS"));
}

#[test]
fn a_full_queue_pauses_the_consumer_and_nothing_is_lost() {
    let cluster = Cluster::new(2);
    let directory = TempDir::new().unwrap();
    let mut service = cluster.setup(&directory).with("QUEUE_CAPACITY", 1).start();
    cluster.produce(2, (0..10).map(event));
    learned(&service, 10);

    // Somebody holds the database: nothing can be stored.
    let database = directory.path().join("online-learning.db");
    let holder = rusqlite::Connection::open(database).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    cluster.produce(2, (10..30_000).map(event));
    eventually("the consumer is paused", || {
        (status(&service)["kafka"]["paused"] == true).then_some(())
    });
    assert_eq!(service.get("/readyz").status, 200);
    holder.execute_batch("ROLLBACK").unwrap();
    learned(&service, 30_000);
    assert_eq!(metric(&service, "duplicates"), 0);
    assert_eq!(status(&service)["kafka"]["paused"], false);
    service.wait_for_log("kafka=resumed");
}

/// Whoever holds the database longer than an append waits for it, while a full group waits behind.
#[test]
fn an_append_that_fails_while_a_full_group_waits_stops_nothing() {
    let cluster = Cluster::new(2);
    let directory = TempDir::new().unwrap();
    let mut service = cluster.setup(&directory).start();
    cluster.produce(2, (0..10).map(event));
    learned(&service, 10);

    for round in 0..3 {
        let (from, to) = (10 + round * 30_000, 10 + (round + 1) * 30_000);
        let database = directory.path().join("online-learning.db");
        let holder = rusqlite::Connection::open(database).unwrap();
        holder.execute_batch("BEGIN IMMEDIATE").unwrap();
        cluster.produce(2, (from..to).map(event));
        eventually("the consumer is paused", || {
            (status(&service)["kafka"]["paused"] == true).then_some(())
        });
        let failures = round + 1;
        eventually("the append has failed", || {
            (service.log().matches("learning=stalled").count() == failures).then_some(())
        });
        // The lag is what the brokers have, whatever became of the append.
        eventually("the lag is that of the topic", || {
            (status(&service)["lag"]["records"] == json!(30_000)).then_some(())
        });
        assert_eq!(status(&service)["status"], "degraded");
        holder.execute_batch("ROLLBACK").unwrap();
        learned(&service, to as u64);
        assert_eq!(status(&service)["kafka"]["paused"], false);
        assert_eq!(status(&service)["status"], "running");
    }
    assert_eq!(metric(&service, "duplicates"), 0);
    service.stop();
}

/// The end of a partition that was reported before records were dropped is not the end of what is read again.
#[test]
fn records_that_could_not_be_stored_again_and_again_are_read_again() {
    let cluster = Cluster::new(2);
    let directory = TempDir::new().unwrap();
    let mut service = cluster.setup(&directory).with("RUST_LOG", "debug").start();
    cluster.produce(2, (0..10).map(event));
    learned(&service, 10);
    let assigned = |service: &mut Service| service.log().matches("kafka assigned=").count();
    let before = assigned(&mut service);
    let holder = rusqlite::Connection::open(directory.path().join("online-learning.db")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    cluster.produce(2, (10..30).map(event));
    // Each failure is followed by a fresh assignment.
    eventually("three appends have failed", || {
        (assigned(&mut service) >= before + 3).then_some(())
    });
    assert_eq!(status(&service)["lag"]["records"], 20);
    holder.execute_batch("ROLLBACK").unwrap();
    learned(&service, 30);
    assert_eq!(executions(&service).into_values().sum::<u64>(), 30);
    service.stop();
}

/// The brokers answer, the topic grows, and nothing of it comes: no part of the service knows why.
#[test]
fn a_backlog_that_stands_still_is_told_whatever_its_cause_and_until_it_moves() {
    let cluster = Cluster::new(2);
    let directory = TempDir::new().unwrap();
    let mut service = cluster.setup(&directory).with("ALERT_INTERVAL", "0.1").start();
    cluster.produce(2, (0..10).map(event));
    learned(&service, 10);
    assert_eq!(service.get("/health").json()["checks"]["backlog"], "ok");

    let failing = vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR; 1_000_000];
    cluster.mock.request_errors(RDKafkaApiKey::Fetch, &failing);
    // One fetch may have been under way.
    cluster.produce(2, (10..20).map(event));
    cluster.produce(2, (20..50).map(event));
    let behind = std::time::Instant::now();
    let told = eventually("the service says so", || {
        let status = status(&service);
        (status["status"] == "degraded").then_some(status)
    });
    assert!(behind.elapsed() < Duration::from_secs(30), "{:?}", behind.elapsed());
    assert!(told["lag"]["records"].as_u64() >= Some(30), "{told}");
    assert!(told["trouble"].as_str().unwrap().contains("wait in the topic"), "{told}");
    let health = service.get("/health").json();
    assert_eq!(health["status"], "degraded");
    assert!(health["checks"]["backlog"].as_str().unwrap().contains("wait in the topic"));
    let metrics = service.get("/metrics").body;
    assert!(metrics.contains("\nonline_learning_learning_stalled 1\n"), "{metrics}");
    service.wait_for_log("backlog=stalled");
    service.wait_for_log("alert=firing rule=stalled ");

    cluster.mock.clear_request_errors(RDKafkaApiKey::Fetch);
    learned(&service, 50);
    eventually("it is over", || (status(&service)["status"] == "running").then_some(()));
    service.wait_for_log("alert=resolved rule=stalled ");
    assert!(service.get("/metrics").body.contains("\nonline_learning_learning_stalled 0\n"));
    service.stop();
}

/// Brokers that go while a full group waits, and come back.
#[test]
fn brokers_may_be_away_while_the_queue_is_full() {
    let cluster = Cluster::new(3);
    let directory = TempDir::new().unwrap();
    let mut service = cluster.setup(&directory).with("QUEUE_CAPACITY", 1).start();
    cluster.produce(3, (0..30).map(event));
    learned(&service, 30);
    let holder = rusqlite::Connection::open(directory.path().join("online-learning.db")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    cluster.produce(3, (30..40_000).map(event));
    eventually("the consumer is paused", || {
        (status(&service)["kafka"]["paused"] == true).then_some(())
    });
    cluster.mock.broker_down(1).unwrap();
    service.wait_for_log("kafka=disconnected");
    service.wait_for_log("learning=stalled");
    holder.execute_batch("ROLLBACK").unwrap();
    cluster.mock.broker_up(1).unwrap();
    learned(&service, 40_000);
    assert_eq!(metric(&service, "duplicates"), 0);
    service.stop();
}

/// A store that begins at the end of the topic, and whose first append fails, still begins where it began.
#[test]
fn where_a_new_store_begins_does_not_move_when_an_append_fails() {
    let cluster = Cluster::new(1);
    cluster.produce(1, (0..10).map(event));
    let directory = TempDir::new().unwrap();
    cluster.mock.broker_down(1).unwrap();
    let mut service = cluster.setup(&directory).with("KAFKA_AUTO_OFFSET_RESET", "latest").start();
    let holder = rusqlite::Connection::open(directory.path().join("online-learning.db")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    cluster.mock.broker_up(1).unwrap();
    let began = || status(&service)["kafka"]["partitions"][0]["position"] == 10;
    eventually("it has begun", || began().then_some(()));
    cluster.produce(1, (10..15).map(event));
    service.wait_for_log("learning=stalled");
    cluster.produce(1, (15..20).map(event));
    eventually("they are a lag", || (status(&service)["lag"]["records"] == 10).then_some(()));
    holder.execute_batch("ROLLBACK").unwrap();
    learned(&service, 10);
}

#[test]
fn settings_that_make_no_client_are_told_at_the_start_without_the_secret() {
    let directory = TempDir::new().unwrap();
    let secret = directory.path().join("password");
    std::fs::write(&secret, "planted-secret\n").unwrap();
    let setup = Setup::new(directory.path())
        .with("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
        .with("KAFKA_SECURITY_PROTOCOL", "SASL_SSL")
        .with("KAFKA_SASL_USERNAME", "user")
        .with("RUST_LOG", "trace");
    let missing = directory.path().join("missing");
    for (password, ca, says) in
        [(&missing, &secret, "KAFKA_SASL_PASSWORD_FILE"), (&secret, &missing, "ssl.ca.location")]
    {
        let output = setup
            .command(crate::harness::free_address())
            .env("KAFKA_SASL_PASSWORD_FILE", password)
            .env("KAFKA_SSL_CA_LOCATION", ca)
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{log}");
        assert!(log.contains(says), "{log}");
        assert!(!log.contains("planted-secret"), "{log}");
    }
    // With the system's authorities it starts, and never tells.
    let mut service = setup.with("KAFKA_SASL_PASSWORD_FILE", secret.display()).start();
    eventually("it has tried", || status(&service)["kafka"]["error"].is_string().then_some(()));
    assert!(!service.log().contains("planted-secret"));
    assert!(!status(&service).to_string().contains("planted-secret"));
}

#[test]
fn an_outcome_that_comes_back_from_the_topic_is_joined_with_its_decision() {
    let cluster = Cluster::new(1);
    let directory = TempDir::new().unwrap();
    let service = cluster.setup(&directory).start();
    let request = json!({"task_type": "decided", "candidates": ["amy"], "decision_id": "d"});
    let answer = service.post_json("/api/learning/predict/agent-selection", &request);
    assert_eq!(answer.json()["recorded"], true);
    let event = json!({"agent_name": "amy", "status": "success", "correlation_id": "d"});
    service.learn(&event.to_string());
    let row = service.get("/api/learning/decisions/d").json();
    assert_eq!(row["outcome"]["reward"], 1.0);
}

/// A span through the topic finds the decision of its trace; every replica learns it with what was asked.
#[test]
fn telemetry_goes_through_the_topic_with_the_decision_of_its_trace() {
    let cluster = Cluster::new(1);
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let one = cluster.setup(&one).with("KAFKA_CONSUMER_GROUP", "one").start();
    let two = cluster.setup(&two).with("KAFKA_CONSUMER_GROUP", "two").start();
    let trace = "5b8efff798038103d269b633813fc60c";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let question = json!({"task_type": "decided", "candidates": ["amy"], "decision_id": "d"});
    let asked = ureq::post(one.url("/api/learning/predict/agent-selection"))
        .header("traceparent", &parent)
        .header("content-type", "application/json")
        .send(question.to_string());
    assert_eq!(asked.expect("it is answered").status(), 200);
    let span = json!({"resourceSpans": [{"scopeSpans": [{"spans": [{
        "traceId": trace, "spanId": "eee19b7ec3c1b174", "name": "invoke_agent amy",
        "attributes": [{
            "key": "gen_ai.operation.name", "value": {"stringValue": "invoke_agent"},
        }],
    }]}]}]});
    for _ in 0..2 {
        let taken = one.post_json("/v1/traces", &span);
        assert_eq!((taken.status, &*taken.body), (200, "{}"));
    }
    learned(&two, 1);
    learned(&one, 1);
    assert_eq!(one.digest(), two.digest());
    let rows = two.get("/api/learning/agents/performance?task_type=decided").json();
    assert_eq!(rows[0]["total_executions"], 1, "the decision's task type came along: {rows}");
    let row = one.get("/api/learning/decisions/d").json();
    assert_eq!((&row["outcome"]["status"], &row["trace_id"]), (&json!("success"), &json!(trace)));
    // The client's own report of it is a duplicate; what it adds is learned by every replica.
    let event = json!({
        "agent_name": "amy", "status": "failure", "decision_id": "d", "quality_score": 0.25,
    });
    for _ in 0..2 {
        let reply = one.post_json(OUTCOMES, &event).json();
        assert_eq!((&reply["accepted"], &reply["duplicates"]), (&json!(0), &json!(1)));
    }
    for service in [&one, &two] {
        eventually("the quality is learned", || {
            let rows = service.get("/api/learning/agents/performance").json();
            (rows[0]["avg_quality"] == 0.25).then_some(())
        });
    }
    assert_eq!(one.digest(), two.digest());

    // Where the client's report was first, a verdict on the span is on that.
    let other = "6b8efff798038103d269b633813fc60c";
    let question = json!({"candidates": ["bob"], "decision_id": "e"});
    let asked = ureq::post(one.url("/api/learning/predict/agent-selection"))
        .header("traceparent", &format!("00-{other}-00f067aa0ba902b7-01"))
        .header("content-type", "application/json")
        .send(question.to_string());
    assert_eq!(asked.expect("it is answered").status(), 200);
    let event = json!({"agent_name": "bob", "status": "success", "decision_id": "e"});
    one.post_json(&format!("{OUTCOMES}?wait=true"), &event);
    let mut span = span;
    let fields = &mut span["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    fields["traceId"] = other.into();
    fields["name"] = "invoke_agent bob".into();
    assert_eq!(one.post_json("/v1/traces", &span).body, "{}");
    let verdict = json!({"trace_id": other, "span_id": "eee19b7ec3c1b174", "quality_score": 0.75});
    let told = one.post_json("/api/learning/feedback", &verdict);
    assert_eq!((told.status, &told.json()["accepted"]), (202, &json!(1)), "{told:?}");
    for service in [&one, &two] {
        eventually("bob is judged", || {
            let rows = service.get("/api/learning/agents/performance").json();
            (rows[1]["avg_quality"] == 0.75).then_some(())
        });
        let rows = service.get("/api/learning/agents/performance").json();
        assert_eq!(rows[1]["total_executions"], 1, "{rows}");
    }
    assert_eq!(one.digest(), two.digest());
}
