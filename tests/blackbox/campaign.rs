//! A campaign of faults: round after round records come in while something goes wrong, and in the end every
//! record counts once.
//!
//! A short one on a mock cluster runs with all tests. A long one, on a broker that is killed and stopped, too,
//! says what happened:
//!
//! ```sh
//! KAFKA_TEST_JARS=$PWD/target/kafka/jars CAMPAIGN_ROUNDS=100 CAMPAIGN_SEED=7 \\
//!     cargo test --test blackbox campaign:: -- --nocapture
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::broker::{Broker, Record, Sender, Topic};
use crate::harness::{SOON, Service, Setup, verify, within};
use crate::kafka::{Cluster, TOPIC};

const NDJSON: &str = "application/x-ndjson";
const PARTITIONS: i32 = 3;
const AGENTS: usize = 5;
/// Ten seconds are granted, and some for a machine with much to do.
const STOPPED_WITHIN: Duration = Duration::from_secs(13);
/// Rounds without anything else said.
const ROUNDS: u64 = 8;
/// Rounds after which the service is stopped in good order and what it stored is verified.
const VERIFIED_EVERY: u64 = 10;

/// What goes wrong, all but the first three for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The process is killed.
    Kill,
    /// It is asked to stop.
    Terminate,
    /// A sync fails, after which the process has to end by itself.
    SyncFails,
    /// The process is stopped and continued.
    Pause,
    /// Another process holds the database.
    Lock,
    /// Writes fail.
    WriteFails,
    /// There is no space.
    DiskFull,
    /// The broker is away.
    BrokerAway,
}

const FAULTS: [Fault; 8] = [
    Fault::Kill,
    Fault::Terminate,
    Fault::SyncFails,
    Fault::Pause,
    Fault::Lock,
    Fault::WriteFails,
    Fault::DiskFull,
    Fault::BrokerAway,
];

impl Fault {
    /// What the preloaded library has to do for it.
    fn of_calls(self) -> Option<&'static str> {
        match self {
            Self::SyncFails => Some("sync EIO"),
            Self::WriteFails => Some("write EIO"),
            Self::DiskFull => Some("write ENOSPC"),
            _ => None,
        }
    }
}

/// The library that lets calls fail; `None` where there is no compiler for it.
fn library(directory: &Path) -> Option<PathBuf> {
    let library = directory.join("faults.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/faults.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
    compiler.status().is_ok_and(|status| status.success()).then_some(library)
}

/// What was sent.
#[derive(Default)]
struct Sent {
    next: usize,
    agent_to_count: BTreeMap<String, u64>,
    garbage: u64,
}

impl Sent {
    /// One more event that nobody has seen.
    fn event(&mut self) -> String {
        let number = self.next;
        self.next += 1;
        let agent = format!("agent{}", number % AGENTS);
        let status = if number.is_multiple_of(3) { "failure" } else { "success" };
        let event = json!({
            "event_id": format!("e{number}"), "agent_name": agent, "status": status,
            "task_type": format!("task{}", number % 4), "context": {"size": number % 7},
        });
        *self.agent_to_count.entry(agent).or_default() += 1;
        event.to_string()
    }

    /// Some records of the topic: new ones, ones that come again, and rubbish.
    fn records(&mut self, rng: &mut Xoshiro256PlusPlus, count: usize) -> Vec<String> {
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            match rng.random_range(0..20) {
                0 if !records.is_empty() => {
                    let again: &String = &records[rng.random_range(0..records.len())];
                    let again = again.clone();
                    self.garbage += u64::from(!again.starts_with('{'));
                    records.push(again);
                }
                1 => {
                    self.garbage += 1;
                    records.push("rubbish".to_owned());
                }
                _ => records.push(self.event()),
            }
        }
        records
    }

    fn unique(&self) -> u64 {
        self.agent_to_count.values().sum()
    }
}

/// Where records go through.
enum Brokers {
    /// It keeps no more than 5 MB of a partition.
    Mock(Cluster),
    Real {
        sender: Sender,
        topic: Topic,
        broker: Broker,
    },
}

impl Brokers {
    fn start() -> Self {
        if std::env::var_os("KAFKA_TEST_JARS").is_none() {
            return Self::Mock(Cluster::new(PARTITIONS));
        }
        let broker = Broker::start().expect("there are jars");
        let topic = broker.cluster().topic("campaign", PARTITIONS, &[]);
        Self::Real { sender: topic.sender(&[]), topic, broker }
    }

    fn setup(&self, directory: &Path) -> Setup {
        let (servers, topic) = match self {
            Self::Mock(cluster) => (cluster.mock.bootstrap_servers(), TOPIC),
            Self::Real { topic, .. } => (topic.cluster.servers.clone(), &*topic.name),
        };
        Setup::new(directory)
            .with("KAFKA_BOOTSTRAP_SERVERS", servers)
            .with("KAFKA_OUTCOME_TOPIC", topic)
    }

    /// The most records of a round: more than two groups of the consumer, where there is room for them.
    fn records_max(&self, fault: Fault) -> usize {
        match self {
            Self::Mock(_) if fault != Fault::Lock => 4_000,
            _ => 20_000,
        }
    }

    fn enqueue(&self, records: &[String]) {
        for (partition, record) in (0..PARTITIONS).cycle().zip(records) {
            match self {
                Self::Mock(cluster) => cluster.enqueue(partition, record),
                Self::Real { sender, .. } => {
                    sender.send(&Record::new(record.as_str()).on(partition));
                }
            }
        }
    }

    fn flush(&self) {
        match self {
            Self::Mock(cluster) => cluster.flush(),
            Self::Real { sender, .. } => {
                sender.finish();
            }
        }
    }

    /// A real one goes and comes back after some time, in the middle of which records come.
    fn be_away(&mut self, time: Duration, is_killed: bool, records: &[String]) {
        if let Self::Real { broker, .. } = self {
            if is_killed { broker.kill() } else { broker.signal("STOP") }
        }
        std::thread::sleep(time / 2);
        self.enqueue(records);
        std::thread::sleep(time / 2);
        if let Self::Real { broker, .. } = self {
            if is_killed { broker.restart() } else { broker.signal("CONT") }
        }
    }

    /// Records in the topic.
    fn in_topic(&self) -> u64 {
        let ends: Vec<i64> = match self {
            Self::Mock(cluster) => {
                let consumer: BaseConsumer = ClientConfig::new()
                    .set("bootstrap.servers", cluster.mock.bootstrap_servers())
                    .set("group.id", "campaign")
                    .create()
                    .expect("a consumer");
                let end = |partition| consumer.fetch_watermarks(TOPIC, partition, SOON);
                (0..PARTITIONS).map(|number| end(number).expect("it answers").1).collect()
            }
            Self::Real { topic, .. } => topic.ends().into_values().map(|(_, high)| high).collect(),
        };
        ends.into_iter().map(i64::unsigned_abs).sum()
    }
}

struct Campaign {
    brokers: Brokers,
    setup: Setup,
    directory: TempDir,
    /// While it is there, calls fail.
    fault_file: PathBuf,
    service: Option<Service>,
    sent: Sent,
    rng: Xoshiro256PlusPlus,
    /// From the end of a fault until everything is in the journal.
    recoveries: Vec<Duration>,
    ended_by_itself: u64,
}

impl Campaign {
    fn service(&mut self) -> &mut Service {
        self.service.as_mut().expect("it was started")
    }

    fn database(&self) -> rusqlite::Connection {
        let path = self.directory.path().join("models/online-learning.db");
        rusqlite::Connection::open(path).expect("it is there")
    }

    /// Some time, in the middle of which records come.
    fn pass(&self, time: Duration, records: &[String]) {
        std::thread::sleep(time / 2);
        self.brokers.enqueue(records);
        std::thread::sleep(time / 2);
    }

    /// Ends the service in good order: within ten seconds, and where that was too little for a version of
    /// the model, on a machine with much to do, it says so.
    fn stop(&mut self) {
        let mut service = self.service.take().expect("it runs");
        service.signal("TERM");
        let begun = Instant::now();
        let code = service.wait().code();
        let log = service.log();
        assert!(begun.elapsed() < STOPPED_WITHIN, "{:?}: {log}", begun.elapsed());
        let is_told = code == Some(1) && log.contains("not saved at the stop: ");
        assert!(code == Some(0) || is_told, "{code:?}: {log}");
    }

    /// Lets the fault be for some time, with records coming in.
    fn suffer(&mut self, fault: Fault, time: Duration, records: &[String]) {
        match fault {
            Fault::Kill => {
                self.pass(time, records);
                self.service.take().expect("it runs").kill();
            }
            Fault::Terminate => {
                self.pass(time, records);
                self.stop();
            }
            Fault::Pause => {
                self.service().signal("STOP");
                self.pass(time, records);
                self.service().signal("CONT");
            }
            Fault::Lock => {
                let holder = self.database();
                holder.busy_timeout(SOON).expect("it is allowed");
                holder.execute_batch("BEGIN IMMEDIATE").expect("its turn comes");
                self.pass(time, records);
                holder.execute_batch("ROLLBACK").expect("it is held");
            }
            Fault::SyncFails | Fault::WriteFails | Fault::DiskFull => {
                let text = fault.of_calls().expect("it is one of calls");
                std::fs::write(&self.fault_file, text).expect("there is room");
                self.pass(time, records);
                std::fs::remove_file(&self.fault_file).expect("it is there");
            }
            Fault::BrokerAway => {
                let is_killed = self.rng.random_bool(0.5);
                self.brokers.be_away(time, is_killed, records);
            }
        }
    }

    /// Starts the service if it has ended, reports some more over HTTP, then waits until all that was sent
    /// is in the journal.
    fn recover(&mut self, fault: Fault, what: &str) {
        let begun = Instant::now();
        self.restart(fault, what);
        // Sent again until they are acknowledged, they count once.
        let lines: String = (0..50).map(|_| self.sent.event() + "\n").collect();
        within(SOON, what, || {
            self.restart(fault, what);
            let service = self.service.as_ref().expect("it runs");
            let answer = service.try_post("/api/learning/outcomes", NDJSON, &lines);
            let answer = answer.map_err(|error| error.to_string())?;
            (answer.status == 202).then_some(()).ok_or_else(|| format!("{answer:?}"))
        });
        self.wait_for_all(what);
        self.recoveries.push(begun.elapsed());
    }

    /// Starts the service if it has ended.
    fn restart(&mut self, fault: Fault, what: &str) {
        if self.service.as_mut().is_some_and(|service| !service.is_running()) {
            let mut ended = self.service.take().expect("it was there");
            assert!(fault == Fault::SyncFails, "{what}: it ended: {}", ended.log());
            assert_eq!(ended.wait().code(), Some(1), "{what}: {}", ended.log());
            self.ended_by_itself += 1;
        }
        if self.service.is_none() {
            self.service = Some(self.setup.start());
        }
    }

    fn wait_for_all(&mut self, what: &str) {
        let unique = self.sent.unique();
        let service = self.service.as_ref().expect("it runs");
        within(SOON, what, || {
            let metrics = service.try_get("/api/learning/metrics").map_err(|e| e.to_string())?;
            let metrics = metrics.json();
            let status = service.try_get("/api/learning/status").map_err(|e| e.to_string())?;
            let status = status.json();
            let is_all = metrics["accepted"] == unique
                && metrics["samples_processed"] == unique
                && status["lag"]["records"] == 0
                && status["kafka"]["state"] == "connected"
                && status["status"] == "running";
            is_all.then_some(()).ok_or_else(|| {
                let accepted = &metrics["accepted"];
                format!("{accepted} of {unique}, {status}")
            })
        });
    }

    /// Ends the service in good order, and has what it stored verified.
    fn verify(&mut self) {
        self.stop();
        verify(&self.directory.path().join("models"));
        self.service = Some(self.setup.start());
    }

    #[track_caller]
    fn check_counts(&mut self) {
        let metrics = self.service().get("/api/learning/metrics").json();
        assert_eq!(metrics["accepted"], self.sent.unique());
        assert_eq!(metrics["samples_processed"], self.sent.unique());
        let rejected = metrics["rejected"].as_object().expect("by reason").values();
        let rejected: u64 = rejected.filter_map(Value::as_u64).sum();
        assert_eq!(rejected, self.sent.garbage);
        let rows = self.service().get("/api/learning/agents/performance").json();
        let rows = rows.as_array().expect("a list").iter().map(|row| {
            let name = row["agent_name"].as_str().expect("a name").to_owned();
            (name, row["total_executions"].as_u64().expect("a count"))
        });
        assert_eq!(rows.collect::<BTreeMap<_, _>>(), self.sent.agent_to_count);
        let status = self.service().get("/api/learning/status").json();
        assert_eq!(status["kafka"]["gaps"], 0, "{status}");
        let text = self.service().get("/metrics").body;
        let received = "online_learning_events_received_total{source=\"kafka\"} ";
        let received = text.lines().find_map(|line| line.strip_prefix(received)?.parse().ok());
        assert_eq!(received, Some(self.brokers.in_topic()), "every record of the topic: {text}");
    }
}

#[test]
fn whatever_goes_wrong_every_record_counts_once_and_nothing_stands_still() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("it is a number"))
    };
    let (rounds, seed) = (number("CAMPAIGN_ROUNDS", ROUNDS), number("CAMPAIGN_SEED", 1));
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let directory = TempDir::new().expect("there is room");
    let library = library(directory.path());
    let fault_file = directory.path().join("fault");
    let brokers = Brokers::start();
    let mut setup = brokers
        .setup(&directory.path().join("models"))
        .with("MODEL_BATCH_TIMEOUT", "0.2")
        .with("MODEL_SAVE_INTERVAL", 2)
        .with("CHECKPOINT_OUTCOMES", 5_000)
        .with("FAULT_FILE", fault_file.display());
    if let Some(library) = &library {
        setup = setup.with("LD_PRELOAD", library.display());
    }
    let mut campaign = Campaign {
        service: Some(setup.start()),
        rng: Xoshiro256PlusPlus::seed_from_u64(rng.random()),
        brokers,
        setup,
        directory,
        fault_file,
        sent: Sent::default(),
        recoveries: Vec::new(),
        ended_by_itself: 0,
    };
    let mut counts: BTreeMap<Fault, u64> = BTreeMap::new();
    for round in 1..=rounds {
        // Each kind once before any comes twice.
        let place = usize::try_from(round - 1).expect("it is small");
        let mut fault = match FAULTS.get(place) {
            Some(fault) => *fault,
            None => FAULTS[rng.random_range(0..FAULTS.len())],
        };
        // Clients that were killed keep the mock cluster from going down: it hangs.
        let is_mock = matches!(campaign.brokers, Brokers::Mock(_));
        if (fault.of_calls().is_some() && library.is_none())
            || (fault == Fault::BrokerAway && is_mock)
        {
            fault = Fault::Lock;
        }
        *counts.entry(fault).or_default() += 1;
        // Some longer than an append waits for the database, with more than a group has room for.
        let longest = if rng.random_bool(0.3) { 8_000 } else { 1_000 };
        let time = Duration::from_millis(rng.random_range(1..longest));
        let count = rng.random_range(100..campaign.brokers.records_max(fault));
        let what = format!("seed {seed}, round {round}: {fault:?} for {time:?}, {count} records");
        let (before, during) = {
            let mut records = campaign.sent.records(&mut rng, count);
            let during = records.split_off(rng.random_range(0..count));
            (records, during)
        };
        campaign.brokers.enqueue(&before);
        #[expect(clippy::print_stderr, reason = "shown by cargo test -- --nocapture")]
        {
            eprintln!("{what}");
        }
        campaign.suffer(fault, time, &during);
        campaign.brokers.flush();
        campaign.recover(fault, &what);
        if round % VERIFIED_EVERY == 0 {
            campaign.verify();
        }
    }
    campaign.verify();
    campaign.wait_for_all("the end");
    campaign.check_counts();
    campaign.recoveries.sort_unstable();
    let (median, longest) = (
        campaign.recoveries[campaign.recoveries.len() / 2],
        campaign.recoveries.last().copied().unwrap_or_default(),
    );
    #[expect(clippy::print_stderr, reason = "shown by cargo test -- --nocapture")]
    {
        eprintln!(
            "campaign seed={seed} rounds={rounds} faults={counts:?} records={} accepted={} \
             rejected={} ended_by_itself={} recovery_median={median:?} recovery_longest={longest:?}",
            campaign.brokers.in_topic(),
            campaign.sent.unique(),
            campaign.sent.garbage,
            campaign.ended_by_itself,
        );
    }
    campaign.stop();
}
