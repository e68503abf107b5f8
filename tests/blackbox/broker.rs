//! Real brokers for the live tests: a process of the test's own, which it may kill and start again
//! on the same port and data, or the user's.
//!
//! With `KAFKA_TEST_JARS` (the directory that `tests/kafka/fetch` fills) the tests start their own
//! brokers. Else, with `KAFKA_BOOTSTRAP_SERVERS`, those that kill none run against that broker, on
//! topics of their own, which they delete. Else they say `skipped` and pass.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use futures_executor::block_on;
use rand::RngExt;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::metadata::MetadataPartition;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::harness::{SOON, within};

/// Longest wait for a broker: a start takes 6 seconds on an idle machine.
const START_MAX: Duration = Duration::from_mins(2);

/// Says why a test passes without having tested anything.
#[expect(clippy::print_stderr, reason = "shown by cargo test -- --nocapture")]
pub(crate) fn skipped(reason: &str) {
    eprintln!("skipped: {reason}");
}

fn jars() -> Option<PathBuf> {
    let jars = PathBuf::from(std::env::var_os("KAFKA_TEST_JARS")?);
    assert!(jars.join("pom.xml").exists(), "{}: run tests/kafka/fetch first", jars.display());
    Some(jars)
}

/// Java with Kafka's classes, for programs that live for seconds.
fn java(jars: &Path) -> Command {
    let mut command = Command::new("java");
    command
        .args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info")
        .arg("-cp")
        .arg(jars.join("*"))
        .stdin(Stdio::null());
    command
}

/// Runs one of Kafka's own command-line tools and returns what it printed.
#[track_caller]
fn tool(jars: &Path, arguments: &[&str]) -> String {
    let output = java(jars).args(arguments).output().expect("java can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}: {text}{errors}", output.status);
    text
}

/// Two ports that nobody listens on, below those that the system gives to clients: nobody takes
/// them while the broker is down.
fn free_ports() -> (u16, u16) {
    let mut rng = rand::rng();
    for _ in 0..1_000 {
        let port = rng.random_range(10_000..32_000);
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 1) {
            return (port, port + 1);
        }
    }
    panic!("no two free ports side by side");
}

/// Runs a program until the test says `keep` or ends, however it does: the end of the shell's input
/// tells it. Then the data go, unless they are to be kept.
const KEEPER: &str = r#"log=$1 directory=$2; shift 2
"$@" </dev/null >"$log" 2>&1 & broker=$!
echo "$broker"
word=; read -r word
kill -9 "$broker"; wait "$broker" 2>/dev/null
[ "$word" = keep ] || rm -rf -- "$directory""#;

/// A broker of the test's own. It and its data go when this does, or when the test process ends.
pub(crate) struct Broker {
    jars: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    running: Option<Running>,
}

/// The broker's process, and the shell that outlives neither it nor the test.
struct Running {
    shell: Child,
    pid: String,
}

impl Broker {
    /// Starts a broker; `None`, with a word why, when there are no jars to start it from.
    #[track_caller]
    pub(crate) fn start() -> Option<Self> {
        let mut broker = Self::prepare()?;
        broker.restart();
        Some(broker)
    }

    /// Like [`Self::start`], but the broker does not run yet.
    #[track_caller]
    pub(crate) fn prepare() -> Option<Self> {
        let Some(jars) = jars() else {
            skipped("it kills its broker, and KAFKA_TEST_JARS is not set");
            return None;
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (port, controller_port) = free_ports();
        let data = directory.path().join("data");
        let properties = include_str!("../kafka/server.properties")
            .replace("@PORT@", &port.to_string())
            .replace("@CONTROLLER_PORT@", &controller_port.to_string())
            .replace("@DATA@", data.to_str().expect("the path is UTF-8"));
        let broker = Self { jars, directory, port, running: None };
        let file = broker.file("server.properties");
        std::fs::write(&file, properties).expect("it can be written");
        let id = "b25saW5lLWxlYXJuaW5nMQ";
        let format = ["kafka.tools.StorageTool", "format", "--standalone", "-t", id, "-c", &file];
        tool(&broker.jars, &format);
        Some(broker)
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("the path is UTF-8").to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// Starts the broker, again on the same port and data if it was killed, and waits until it
    /// serves.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        assert!(self.running.is_none(), "the broker is running");
        // What an earlier run logged must not be taken for this one's.
        let _ = std::fs::remove_file(self.file("log"));
        let mut program = java(&self.jars);
        program.args(["kafka.Kafka", &self.file("server.properties")]);
        let mut shell = Command::new("sh")
            .args(["-c", KEEPER, "sh", &self.file("log")])
            .arg(self.directory.path())
            .arg(program.get_program())
            .args(program.get_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh can be run");
        let mut pid = String::new();
        BufReader::new(shell.stdout.take().expect("it is piped"))
            .read_line(&mut pid)
            .expect("the shell names the broker's process");
        self.running = Some(Running { shell, pid: pid.trim().to_owned() });
        within(START_MAX, "the broker serves", || {
            let log = self.log();
            assert!(self.is_alive(), "the broker ended: {log}");
            log.contains("Kafka Server started").then_some(()).ok_or(log)
        });
    }

    /// Whether the process is there and no zombie.
    fn is_alive(&self) -> bool {
        let Some(running) = &self.running else { return false };
        // After the name in parentheses comes the state.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.pid));
        stat.is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
    }

    /// Ends the broker as a power cut would end the process.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        let mut running = self.running.take().expect("the broker is running");
        let mut input = running.shell.stdin.take().expect("it is piped");
        input.write_all(b"keep\n").expect("the shell reads");
        running.shell.wait().expect("it is our child");
    }

    /// Sends a signal by its name, such as `STOP`.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        let pid = &self.running.as_ref().expect("the broker is running").pid;
        let status = Command::new("kill").args([&format!("-{name}"), pid]).status();
        assert!(status.expect("kill can be run").success(), "kill -{name} {pid}");
    }

    pub(crate) fn cluster(&self) -> Cluster {
        Cluster { servers: format!("127.0.0.1:{}", self.port), ours: true }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill();
        }
    }
}

/// Where brokers can be reached.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) servers: String,
    /// Started by the tests: nothing needs to be tidied up.
    ours: bool,
}

impl Cluster {
    /// A broker that tests have in common: none of them may stop it. `None`, with a word why, when
    /// there is none.
    #[track_caller]
    pub(crate) fn shared() -> Option<Self> {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        if jars().is_some() {
            let start = || Broker::start().expect("there are jars");
            return Some(SHARED.get_or_init(start).cluster());
        }
        let servers = std::env::var("KAFKA_BOOTSTRAP_SERVERS").ok();
        if servers.is_none() {
            skipped("neither KAFKA_TEST_JARS nor KAFKA_BOOTSTRAP_SERVERS is set");
        }
        Some(Self { servers: servers?, ours: false })
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.servers)
            // A killed broker is found again soon.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "500");
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().expect("the configuration is right")
    }

    /// Makes a topic with a name of its own.
    #[track_caller]
    pub(crate) fn topic(&self, theme: &str, partitions: i32, settings: &[(&str, &str)]) -> Topic {
        let topic = self.topic_to_be(theme);
        topic.create(partitions, settings);
        topic
    }

    /// The name of a topic that does not exist yet.
    pub(crate) fn topic_to_be(&self, theme: &str) -> Topic {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, SeqCst);
        let name = format!("online-learning-{theme}-{}-{number}", std::process::id());
        Topic { cluster: self.clone(), name, groups: Mutex::default() }
    }

    /// What the stock tool says of a group: the offset and the lag of each partition. `None`
    /// without jars.
    #[track_caller]
    pub(crate) fn describe_group(&self, group: &str) -> Option<BTreeMap<i32, (String, String)>> {
        let command = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
        let servers = ["--bootstrap-server", &self.servers];
        let text =
            tool(&jars()?, &[&[command, "--describe", "--group", group], &servers[..]].concat());
        // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID, in
        // an order that the header tells.
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let header = lines.find(|words| words.contains(&"CURRENT-OFFSET"));
        let header = header.unwrap_or_else(|| panic!("{group}: {text}"));
        let column = |name| header.iter().position(|word| *word == name).expect("the column");
        let (partition, offset, lag) =
            (column("PARTITION"), column("CURRENT-OFFSET"), column("LAG"));
        let rows = lines.filter(|words| words.len() > lag).map(|words| {
            let number = words[partition].parse().unwrap_or_else(|_| panic!("{text}"));
            (number, (words[offset].to_owned(), words[lag].to_owned()))
        });
        Some(rows.collect())
    }
}

/// A topic of a test, deleted at its end.
pub(crate) struct Topic {
    pub(crate) cluster: Cluster,
    pub(crate) name: String,
    groups: Mutex<BTreeSet<String>>,
}

impl Topic {
    /// Makes it, also after it was deleted.
    #[track_caller]
    pub(crate) fn create(&self, partitions: i32, settings: &[(&str, &str)]) {
        let admin = self.cluster.admin();
        within(SOON, "the topic is made", || {
            let mut topic = NewTopic::new(&self.name, partitions, TopicReplication::Fixed(1));
            for (name, value) in settings {
                topic = topic.set(name, value);
            }
            let results = block_on(admin.create_topics(&[topic], &options()));
            results
                .map_err(|error| error.to_string())?
                .remove(0)
                .map_err(|error| format!("{error:?}"))
        });
        let partitions = partitions.unsigned_abs() as usize;
        within(SOON, "the topic is served", || self.count_partitions(partitions));
    }

    #[track_caller]
    pub(crate) fn delete(&self) {
        let results = block_on(self.cluster.admin().delete_topics(&[&self.name], &options()));
        results.expect("the broker answers").remove(0).expect("the topic is deleted");
        within(SOON, "the topic is gone", || self.count_partitions(0));
    }

    /// Raises the number of partitions.
    #[track_caller]
    pub(crate) fn grow(&self, partitions: usize) {
        let more = NewPartitions::new(&self.name, partitions);
        let results = block_on(self.cluster.admin().create_partitions(&[more], &options()));
        results.expect("the broker answers").remove(0).expect("partitions are added");
        within(SOON, "the partitions are served", || self.count_partitions(partitions));
    }

    /// Deletes the records of a partition before an offset, as retention does.
    #[track_caller]
    pub(crate) fn delete_records(&self, partition: i32, before: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset(&self.name, partition, Offset::Offset(before))
            .expect("the offset is right");
        let result = block_on(self.cluster.admin().delete_records(&offsets, &options()));
        let result = result.expect("the broker answers");
        result.elements()[0].error().expect("the records are deleted");
        within(SOON, "the records are gone", || {
            let (low, _) = self.ends()[&partition];
            (low == before).then_some(()).ok_or_else(|| format!("the first is {low}"))
        });
    }

    fn count_partitions(&self, wanted: usize) -> Result<(), String> {
        let consumer = self.consumer(&[]);
        let metadata = consumer.fetch_metadata(Some(&self.name), Duration::from_secs(5));
        let metadata = metadata.map_err(|error| error.to_string())?;
        let partitions = metadata.topics()[0].partitions();
        let led = partitions.iter().filter(|partition| partition.leader() >= 0).count();
        (led == wanted && partitions.len() == wanted)
            .then_some(())
            .ok_or_else(|| format!("{} partitions, {led} of them with a leader", partitions.len()))
    }

    fn partitions(&self) -> Vec<i32> {
        let consumer = self.consumer(&[]);
        within(SOON, "the broker tells the partitions", || {
            let metadata = consumer.fetch_metadata(Some(&self.name), Duration::from_secs(5));
            let metadata = metadata.map_err(|error| error.to_string())?;
            Ok(metadata.topics()[0].partitions().iter().map(MetadataPartition::id).collect())
        })
    }

    fn consumer(&self, settings: &[(&str, &str)]) -> BaseConsumer {
        let mut config = self.cluster.config();
        config
            .set("group.id", format!("{}-test", self.name))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("check.crcs", "true")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        config.create().expect("the configuration is right")
    }

    /// The first offset of each partition and the one after its last.
    #[track_caller]
    pub(crate) fn ends(&self) -> BTreeMap<i32, (i64, i64)> {
        let consumer = self.consumer(&[]);
        let ends = |partition| {
            let ends = within(SOON, "the broker tells the watermarks", || {
                consumer
                    .fetch_watermarks(&self.name, partition, Duration::from_secs(5))
                    .map_err(|error| error.to_string())
            });
            (partition, ends)
        };
        self.partitions().into_iter().map(ends).collect()
    }

    /// The offset that a group has committed for each partition.
    #[track_caller]
    pub(crate) fn committed(&self, group: &str) -> BTreeMap<i32, Option<i64>> {
        let consumer = self.consumer(&[("group.id", group)]);
        let mut list = TopicPartitionList::new();
        for partition in self.partitions() {
            list.add_partition(&self.name, partition);
        }
        let list = within(SOON, "the broker tells the group's offsets", || {
            let list = consumer.committed_offsets(list.clone(), Duration::from_secs(5));
            list.map_err(|error| error.to_string())
        });
        let offset = |offset| match offset {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        list.elements().iter().map(|e| (e.partition(), offset(e.offset()))).collect()
    }

    /// A consumer group of this test's own.
    pub(crate) fn group(&self, suffix: &str) -> String {
        let group = format!("{}-{suffix}", self.name);
        self.groups.lock().expect("no holder panics").insert(group.clone());
        group
    }

    /// A producer with more settings than those of a careful one.
    pub(crate) fn sender(&self, settings: &[(&str, &str)]) -> Sender {
        let mut config = self.cluster.config();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", "2")
            .set("message.max.bytes", "4194304");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let producer = config.create_with_context(Deliveries::default());
        Sender { producer: producer.expect("the configuration is right"), topic: self.name.clone() }
    }

    /// Produces records and waits until the broker has them.
    #[track_caller]
    pub(crate) fn produce<'a>(&self, records: impl IntoIterator<Item = &'a Record>) {
        self.produce_with(&[], records);
    }

    #[track_caller]
    pub(crate) fn produce_with<'a>(
        &self,
        settings: &[(&str, &str)],
        records: impl IntoIterator<Item = &'a Record>,
    ) {
        let sender = self.sender(settings);
        let count = records.into_iter().map(|record| sender.send(record)).count();
        assert_eq!(sender.finish(), count, "every record is delivered");
    }

    /// Produces records in a transaction, and commits or aborts it once the broker has them.
    #[track_caller]
    pub(crate) fn transact<'a>(
        &self,
        records: impl IntoIterator<Item = &'a Record>,
        is_committed: bool,
    ) {
        let id = format!("{}-transactions", self.name);
        let sender = self.sender(&[("transactional.id", &id)]);
        let producer = &sender.producer;
        producer.init_transactions(SOON).expect("transactions can be made");
        producer.begin_transaction().expect("a transaction begins");
        for record in records {
            sender.send(record);
        }
        sender.finish();
        if is_committed {
            producer.commit_transaction(SOON).expect("it is committed");
        } else {
            producer.abort_transaction(SOON).expect("it is aborted");
        }
    }

    /// Everything that is in the topic, in the order of partitions and offsets.
    #[track_caller]
    pub(crate) fn read(&self) -> Vec<Read> {
        let consumer = self.consumer(&[("auto.offset.reset", "earliest")]);
        let mut list = TopicPartitionList::new();
        let mut unfinished = self.partitions();
        for partition in &unfinished {
            list.add_partition_offset(&self.name, *partition, Offset::Beginning)
                .expect("the offset is right");
        }
        consumer.assign(&list).expect("partitions can be assigned");
        let mut found = Vec::new();
        let mut deadline = Instant::now() + SOON;
        while !unfinished.is_empty() {
            assert!(Instant::now() < deadline, "{}: no end in {unfinished:?}", self.name);
            match consumer.poll(Duration::from_millis(100)) {
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    unfinished.retain(|unfinished| *unfinished != partition);
                }
                None
                | Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
                ))) => {}
                Some(Err(error)) => panic!("{}: {error}", self.name),
                Some(Ok(message)) => {
                    deadline = Instant::now() + SOON;
                    found.push(Read {
                        partition: message.partition(),
                        offset: message.offset(),
                        key: message.key().map(<[u8]>::to_vec),
                        value: message.payload().map(<[u8]>::to_vec),
                        headers: message.headers().map_or_else(BTreeMap::new, |headers| {
                            let owned = |header: Header<'_, &[u8]>| {
                                let value = header.value.unwrap_or_default();
                                (header.key.to_owned(), String::from_utf8_lossy(value).into_owned())
                            };
                            headers.iter().map(owned).collect()
                        }),
                    });
                }
            }
        }
        found.sort_by_key(|read| (read.partition, read.offset));
        found
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        if self.cluster.ours {
            return;
        }
        // The topic may be deleted already, a group may never have been made.
        let admin = self.cluster.admin();
        let _ = block_on(admin.delete_topics(&[&self.name], &options()));
        let groups = self.groups.lock().expect("no holder panics");
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let _ = block_on(admin.delete_groups(&groups, &options()));
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(SOON)).request_timeout(Some(SOON))
}

/// What is sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    key: Option<String>,
    value: Option<Vec<u8>>,
    partition: Option<i32>,
    headers: Vec<(&'static str, &'static str)>,
    time_ms: Option<i64>,
}

impl Record {
    pub(crate) fn new(value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// A key without a value.
    pub(crate) fn tombstone(key: &str) -> Self {
        Self::default().keyed(key)
    }

    pub(crate) fn keyed(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    pub(crate) fn on(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn at(mut self, time_ms: i64) -> Self {
        self.time_ms = Some(time_ms);
        self
    }
}

/// What was read back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Read {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: BTreeMap<String, String>,
}

/// What became of records sent.
#[derive(Default)]
struct Deliveries {
    delivered: Mutex<usize>,
    errors: Mutex<Vec<KafkaError>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => *self.delivered.lock().expect("no holder panics") += 1,
            Err((error, _)) => {
                self.errors.lock().expect("no holder panics").push(error.clone());
            }
        }
    }
}

/// A producer to one topic.
pub(crate) struct Sender {
    producer: BaseProducer<Deliveries>,
    topic: String,
}

impl Sender {
    /// Hands a record over; waits while too many are on their way.
    #[track_caller]
    pub(crate) fn send(&self, record: &Record) {
        let deadline = Instant::now() + START_MAX;
        loop {
            let mut message: BaseRecord<'_, String, Vec<u8>> = BaseRecord::to(&self.topic);
            message.key = record.key.as_ref();
            message.payload = record.value.as_ref();
            message.partition = record.partition;
            message.timestamp = record.time_ms;
            if !record.headers.is_empty() {
                let headers =
                    record.headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
                        all.insert(Header { key, value: Some(*value) })
                    });
                message = message.headers(headers);
            }
            match self.producer.send(message) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _))
                    if Instant::now() < deadline =>
                {
                    self.poll(Duration::from_millis(10));
                }
                Err((error, _)) => panic!("{}: {error}", self.topic),
            }
        }
    }

    /// Serves the producer for a while.
    pub(crate) fn poll(&self, time: Duration) {
        self.producer.poll(time);
    }

    /// How many records the broker has acknowledged.
    pub(crate) fn delivered(&self) -> usize {
        *self.producer.context().delivered.lock().expect("no holder panics")
    }

    /// Waits until the broker has everything, and says how many records it has.
    #[track_caller]
    pub(crate) fn finish(&self) -> usize {
        self.producer.flush(START_MAX).expect("the broker takes the records");
        let errors = self.producer.context().errors.lock().expect("no holder panics");
        assert!(errors.is_empty(), "{}: {errors:?}", self.topic);
        self.delivered()
    }
}
