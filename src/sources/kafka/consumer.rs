//! Reads every partition of the topic from the stored positions and hands what it reads to the
//! learner, together with the positions after it.
//!
//! A plain loop on a thread of its own. In each round: take note of what became durable, look at
//! the topic when that is due, poll, hand over. One group of records is with the learner at a time,
//! the next is read meanwhile; if the first can't be stored, both are read again.
//!
//! While a full group waits, nothing is polled: librdkafka stops fetching once its own queue of 8 MiB
//! is full, and goes on when it is polled again. There is no pause to take back, which a new
//! assignment could outlive.
//!
//! Before a group is handed over, the brokers are asked for the topic's id *after* its last record
//! was read: while that is the one we know, every record before is of this topic and no other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::positions::{self, Ends, Finding};
use super::topic::{Topic, any_broker, describe};
use super::view::{Connection, PartitionStatus, View};
use super::{KafkaOptions, OffsetReset, REQUEST_TIMEOUT, log_line, unusable};
use crate::error::{Error, Result};
use crate::learner::{
    AppendReply, Event, FromTopic, Inbox, Now, Record, Said, TOPIC, TopicRequest,
};
use crate::outcome::feedback::Verdict;
use crate::outcome::{
    ANNOTATION_BYTES_MAX, ENVELOPE_ATTRIBUTES, Outcome, Payload, RECORD_BYTES_MAX, Refusal,
    RefusalCode, enveloped,
};
use crate::store::Position;

/// Records handed over together, at most.
const GROUP_RECORDS_MAX: usize = 8_192;
/// Bytes after which a group is full, whatever its records.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest sleep when there is nothing to do.
const IDLE_TIMEOUT: Duration = Duration::from_millis(200);
/// Longest sleep while something waits for its turn.
const BUSY_TIMEOUT: Duration = Duration::from_millis(20);
/// How long a full group waits for its turn before that is worth a word.
const PAUSE_AFTER: Duration = Duration::from_millis(200);
/// How often the topic's partitions and their ends are looked at.
const SCAN_INTERVAL: Duration = Duration::from_secs(2);
/// How often progress is published to the group.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(2);
/// First and longest pause after something failed.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What librdkafka calls back with, on the polling thread.
#[derive(Default)]
struct Callbacks {
    error: parking_lot::Mutex<Option<String>>,
    /// A fetch was out of range: Kafka does not say of which partition.
    out_of_range: AtomicBool,
    /// Progress that was published did not arrive.
    commit_failed: AtomicBool,
}

impl Callbacks {
    fn last_error(&self) -> Option<String> {
        self.error.lock().clone()
    }

    fn forget_error(&self) {
        self.error.lock().take();
    }
}

impl ClientContext for Callbacks {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        log::debug!("kafka_error=\"{error}\" reason=\"{reason}\"");
        let is_general = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown);
        let mut last = self.error.lock();
        // "All brokers are down" says less than what came before it.
        if !is_general || last.is_none() {
            *last = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Callbacks {
    fn commit_callback(
        &self,
        result: rdkafka::error::KafkaResult<()>,
        _offsets: &TopicPartitionList,
    ) {
        if let Err(error) = result {
            log::debug!("kafka publish=failed error=\"{error}\"");
            self.commit_failed.store(true, Ordering::Relaxed);
        }
    }
}

/// One record read, its bytes in the group's buffer.
struct Item {
    content: std::result::Result<Content, Refusal>,
    identity: String,
    bytes: Range<usize>,
    partition: i32,
    offset: i64,
    time_ms: i64,
}

enum Content {
    Outcome(Outcome),
    Verdict(Verdict),
}

/// Records in hand, not yet with the learner.
#[derive(Default)]
struct Group {
    buffer: Vec<u8>,
    items: Vec<Item>,
    /// Partitions whose positions have moved.
    moved: BTreeSet<i32>,
    /// Since when it is full.
    full_since: Option<Instant>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.items.is_empty() && self.moved.is_empty()
    }

    fn is_full(&self) -> bool {
        self.items.len() >= GROUP_RECORDS_MAX || self.buffer.len() >= GROUP_BYTES_MAX
    }

    /// It has been full for a while, so that nothing is read.
    fn is_stuck(&self) -> bool {
        self.full_since.is_some_and(|at| at.elapsed() >= PAUSE_AFTER)
    }
}

/// A group on its way: positions after it, where the answer comes, and the event itself as long as
/// the queue has no place for it.
struct InFlight {
    positions: Vec<Position>,
    reply: Receiver<Result<AppendReply>>,
    unsent: Option<Event>,
}

/// A partition as we know it.
#[expect(
    clippy::struct_excessive_bools,
    reason = "five things that are seen apart from each other"
)]
struct Partition {
    /// As the journal has it.
    stored: Position,
    /// After the last record in hand.
    taken: Position,
    ends: Ends,
    /// The journal knows of it.
    is_stored: bool,
    /// The topic has it.
    exists: bool,
    /// The end as it was known before the last assignment: when the end of the partition has been
    /// reported since, and nothing came after that, nothing below this is left to come.
    assigned_high: i64,
    at_end: bool,
    /// A record came since the last look.
    busy: bool,
    /// Found shorter than its position once; a leader that has just changed may say so in error.
    doubted: bool,
    stopped: Option<String>,
}

impl Partition {
    fn new(position: Position, ends: Ends) -> Self {
        Self {
            stored: position.clone(),
            taken: position,
            ends,
            is_stored: false,
            exists: true,
            assigned_high: 0,
            at_end: false,
            busy: false,
            doubted: false,
            stopped: None,
        }
    }

    fn is_fetched(&self) -> bool {
        self.exists && self.stopped.is_none()
    }

    fn status(&self) -> PartitionStatus {
        PartitionStatus {
            partition: self.stored.partition,
            position: self.stored.next_offset,
            low: self.ends.low,
            high: self.ends.high.max(self.stored.next_offset),
            lost: self.stored.lost,
            last_record_ms: self.stored.last_record_ms,
            stopped: self.stopped.clone(),
        }
    }
}

/// The consumer's side of the pipeline.
pub struct Consumer {
    /// Fetches records.
    client: BaseConsumer<Callbacks>,
    /// Asks about the topic. A broker answers one request of a connection after the other, and one
    /// for records takes half a second when there are none.
    inquirer: BaseConsumer<Callbacks>,
    options: KafkaOptions,
    topic: Arc<str>,
    inbox: Arc<Inbox>,
    view: Arc<View>,
    /// Disconnected at the stop.
    stop: Receiver<()>,
    partitions: BTreeMap<i32, Partition>,
    group: Group,
    in_flight: Option<InFlight>,
    /// Partitions are being fetched.
    assigned: bool,
    /// The one that answered last.
    broker: i32,
    scan_at: Instant,
    /// Nothing is handed over before this, after it failed.
    retry_at: Option<Instant>,
    retry: Duration,
    publish_at: Instant,
    /// Positions as last published.
    published: BTreeMap<i32, i64>,
    scan_failures: u32,
}

impl Consumer {
    /// A consumer that goes on where `positions` say. No broker is asked yet.
    ///
    /// # Errors
    /// [`Error::Config`] when the settings do not make a client.
    pub fn new(
        options: &KafkaOptions,
        positions: Vec<Position>,
        inbox: Arc<Inbox>,
        view: Arc<View>,
        stop: Receiver<()>,
    ) -> Result<Self> {
        let mut config = options.client_config()?;
        config.set("isolation.level", "read_committed");
        let inquirer =
            config.create_with_context(Callbacks::default()).map_err(|error| unusable(&error))?;
        let client = config
            .set("group.id", &options.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Positions are ours: one that is out of range is for us to judge.
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("enable.partition.eof", "true")
            // Otherwise the fetcher sleeps a second whenever we are slower than it.
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.max.messages.kbytes", "8192")
            .set("queued.min.messages", "10000")
            .create_with_context(Callbacks::default())
            .map_err(|error| unusable(&error))?;
        let topic: Arc<str> = options.topic.as_str().into();
        let unknown = Ends { low: 0, high: 0 };
        let partitions: BTreeMap<i32, Partition> = positions
            .into_iter()
            .filter(|position| position.topic == topic)
            .map(|position| {
                let number = position.partition;
                (number, Partition { is_stored: true, ..Partition::new(position, unknown) })
            })
            .collect();
        let now = Instant::now();
        let consumer = Self {
            client,
            inquirer,
            topic,
            options: options.clone(),
            inbox,
            view,
            stop,
            partitions,
            group: Group::default(),
            in_flight: None,
            assigned: false,
            broker: 0,
            scan_at: now,
            retry_at: None,
            retry: RETRY_MIN,
            publish_at: now,
            published: BTreeMap::new(),
            scan_failures: 0,
        };
        consumer.show();
        Ok(consumer)
    }

    /// Reads until the stop. The client is dropped with the consumer, which may take long while the
    /// brokers are away.
    ///
    /// # Errors
    /// [`Error::Fatal`] when reading can't go on.
    pub fn run(&mut self) -> Result<()> {
        while self.stop.try_recv() != Err(TryRecvError::Disconnected) {
            self.view.beat();
            self.round()?;
        }
        Ok(())
    }

    fn round(&mut self) -> Result<()> {
        self.take_reply()?;
        if Instant::now() >= self.scan_at
            || self.client.context().out_of_range.load(Ordering::Relaxed)
        {
            self.scan()?;
        }
        self.poll()?;
        self.hand_over()?;
        self.publish();
        Ok(())
    }

    /// Takes what has been fetched; waits only when there is nothing else to do.
    fn poll(&mut self) -> Result<()> {
        while !self.group.is_full() && self.poll_once(Duration::ZERO)? {}
        self.show_pause();
        let has_group = !self.group.is_empty();
        if has_group && self.in_flight.as_ref().is_some_and(|sent| sent.unsent.is_none()) {
            return self.await_reply(BUSY_TIMEOUT);
        }
        let must_wait = self.in_flight.is_some() || self.retry_at.is_some();
        if has_group && !must_wait {
            return Ok(());
        }
        let timeout = if must_wait { BUSY_TIMEOUT } else { IDLE_TIMEOUT };
        if self.group.is_full() {
            // Only its end is of interest.
            let _ = self.stop.recv_timeout(timeout);
        } else {
            self.poll_once(timeout)?;
        }
        Ok(())
    }

    /// Takes one event of the client in; false when there was none.
    fn poll_once(&mut self, timeout: Duration) -> Result<bool> {
        // Borrows of a message must end before anything else of `self` changes.
        let Self { client, group, partitions, topic, assigned, .. } = self;
        match client.poll(timeout) {
            None => return Ok(false),
            Some(Ok(message)) => {
                let Some(partition) = partitions.get_mut(&message.partition()) else {
                    return Ok(true);
                };
                // What was fetched before a reset or a stop does not count any more.
                if partition.stopped.is_some() || message.offset() < partition.taken.next_offset {
                    return Ok(true);
                }
                take(group, partition, topic, &message);
            }
            Some(Err(KafkaError::PartitionEOF(number))) => {
                if let Some(partition) = partitions.get_mut(&number) {
                    partition.at_end = *assigned;
                }
            }
            Some(Err(error)) => self.on_error(&error)?,
        }
        Ok(true)
    }

    fn on_error(&mut self, error: &KafkaError) -> Result<()> {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                self.client.context().out_of_range.store(true, Ordering::Relaxed);
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                return Err(Error::Fatal(format!("kafka: {error}")));
            }
            // Everything else passes or shows at the next look at the topic.
            _ => log::debug!("kafka poll=failed error=\"{error}\""),
        }
        Ok(())
    }

    /// Says whether a full group that can't be handed over keeps us from reading.
    fn show_pause(&self) {
        let is_paused = self.group.is_stuck();
        if !self.view.set_paused(is_paused) {
            return;
        }
        if is_paused {
            log::warn!("kafka=paused reason=\"the learner's queue is full\"");
        } else {
            log::info!("kafka=resumed");
        }
    }

    fn await_reply(&mut self, timeout: Duration) -> Result<()> {
        let Some(in_flight) = &self.in_flight else { return Ok(()) };
        match in_flight.reply.recv_timeout(timeout) {
            Ok(reply) => self.on_reply(reply),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => self.on_silence(),
        }
    }

    fn take_reply(&mut self) -> Result<()> {
        let Some(in_flight) = &self.in_flight else { return Ok(()) };
        if in_flight.unsent.is_some() {
            return Ok(());
        }
        match in_flight.reply.try_recv() {
            Ok(reply) => self.on_reply(reply),
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Disconnected) => self.on_silence(),
        }
    }

    /// The learner let go of a group without an answer: it has ended, and so does everything.
    fn on_silence(&mut self) -> Result<()> {
        self.in_flight = None;
        self.start_over()
    }

    fn on_reply(&mut self, reply: Result<AppendReply>) -> Result<()> {
        let Some(in_flight) = self.in_flight.take() else { return Ok(()) };
        match reply {
            Ok(_) => {
                self.retry = RETRY_MIN;
                for position in in_flight.positions {
                    if let Some(partition) = self.partitions.get_mut(&position.partition) {
                        partition.stored = position;
                        partition.is_stored = true;
                    }
                }
                self.show();
                Ok(())
            }
            // The learner has said so in the log.
            Err(Error::Unavailable(_)) => self.start_over(),
            Err(error) => Err(error),
        }
    }

    /// What is in hand came after something that was not stored: all of it is read again.
    fn start_over(&mut self) -> Result<()> {
        self.pause_before_retry();
        self.drop_group()
    }

    fn pause_before_retry(&mut self) {
        self.retry_at = Some(Instant::now() + self.retry);
        self.retry = (self.retry * 2).min(RETRY_MAX);
    }

    /// Hands the group over, if it is its turn and the topic is still the one it was read from.
    fn hand_over(&mut self) -> Result<()> {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        self.retry_at = None;
        if let Some(event) = self.in_flight.as_mut().and_then(|in_flight| in_flight.unsent.take()) {
            return self.send(event);
        }
        if self.in_flight.is_some() || self.group.is_empty() {
            return Ok(());
        }
        match describe(self.inquirer.client(), self.broker, &self.topic, REQUEST_TIMEOUT) {
            // What was read before a topic is deleted is still what was in it.
            Ok(None) => {}
            Ok(Some(found)) if self.is_topic(&found.id) => {}
            Ok(Some(_)) => {
                // Nothing was stored of partitions that are new: they begin anew with the topic.
                self.partitions.retain(|_, partition| partition.is_stored);
                self.drop_group()?;
                return self.scan();
            }
            Err(error) => {
                log::debug!("kafka topic=unknown error=\"{error}\"");
                self.scan_at = Instant::now();
                self.pause_before_retry();
                return Ok(());
            }
        }
        let group = std::mem::take(&mut self.group);
        let positions: Vec<Position> = group
            .moved
            .iter()
            .filter_map(|number| Some(self.partitions.get(number)?.taken.clone()))
            .collect();
        let buffer: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(group.buffer);
        let records = group.items.into_iter().map(|item| {
            let Item { content, identity, bytes, partition, offset, time_ms } = item;
            let content = match content {
                Ok(Content::Verdict(verdict)) => {
                    return FromTopic { said: Said::Verdict(verdict), partition, offset, time_ms };
                }
                Ok(Content::Outcome(outcome)) => Ok(outcome),
                Err(refusal) => Err(refusal),
            };
            let record = Record {
                content,
                payload: Payload::new(buffer.clone(), bytes),
                identity,
                source: TOPIC,
                position: Some((self.topic.clone(), partition, offset)),
                replay_of: None,
                tenant: None,
                arrived_ms: Some(time_ms),
            };
            FromTopic { said: Said::Record(record), partition, offset, time_ms }
        });
        let (reply_tx, reply) = bounded(1);
        let event = Event::Topic(TopicRequest {
            topic: self.topic.clone(),
            records: records.collect(),
            positions: positions.clone(),
            reply: reply_tx,
        });
        self.in_flight = Some(InFlight { positions, reply, unsent: None });
        self.send(event)
    }

    fn send(&mut self, event: Event) -> Result<()> {
        match (self.inbox.offer(event), &mut self.in_flight) {
            (Ok(Some(event)), Some(in_flight)) => in_flight.unsent = Some(event),
            (Ok(_), _) => {}
            // Stopping: it will be read again.
            (Err(_), _) => {
                self.in_flight = None;
                return self.start_over();
            }
        }
        Ok(())
    }

    fn is_topic(&self, id: &str) -> bool {
        self.partitions
            .values()
            .filter(|partition| partition.stopped.is_none())
            .all(|partition| positions::is_of(&partition.taken, id))
    }

    /// Forgets what is in hand, and fetches nothing more before the next look at the topic: what
    /// came next would leave a hole. Nothing is on its way to the learner then.
    fn drop_group(&mut self) -> Result<()> {
        self.unassign()?;
        self.group = Group::default();
        for (number, partition) in &mut self.partitions {
            partition.taken = partition.stored.clone();
            if !partition.is_stored {
                // Where it begins is still to be stored.
                self.group.moved.insert(*number);
            }
        }
        self.scan_at = Instant::now();
        Ok(())
    }

    /// Looks at the topic: is it there, which partitions has it, where do they begin and end.
    fn scan(&mut self) -> Result<()> {
        self.client.context().out_of_range.store(false, Ordering::Relaxed);
        let looked = self.look();
        // What it has to say, such as a refused password. It waits for nothing.
        while self.inquirer.poll(Duration::from_millis(1)).is_some() {}
        match looked {
            Err(error) => {
                self.scan_failures += 1;
                self.scan_at = Instant::now() + (RETRY_MIN * self.scan_failures * 4).min(RETRY_MAX);
                let error = self.inquirer.context().last_error().unwrap_or(error);
                self.on_connection(Connection::Disconnected, Some(error));
                Ok(())
            }
            Ok((_, None)) => {
                self.scan_failures = 0;
                self.scan_at = Instant::now() + SCAN_INTERVAL;
                if self.assigned {
                    self.unassign()?;
                }
                let error = format!("the topic {} does not exist", self.topic);
                self.on_connection(Connection::TopicMissing, Some(error));
                Ok(())
            }
            Ok((ends, Some(found))) => {
                self.scan_failures = 0;
                self.scan_at = Instant::now() + SCAN_INTERVAL;
                self.inquirer.context().forget_error();
                let changed = self.compare(&found, &ends);
                if changed || !self.assigned {
                    self.assign()?;
                }
                self.on_connection(Connection::Connected, None);
                Ok(())
            }
        }
    }

    /// The topic, if it is there, and the ends of its partitions.
    fn look(&mut self) -> std::result::Result<(BTreeMap<i32, Ends>, Option<Topic>), String> {
        let client = self.inquirer.client();
        self.broker = any_broker(client, &self.topic, REQUEST_TIMEOUT)?;
        let found = describe(client, self.broker, &self.topic, REQUEST_TIMEOUT)?;
        Ok((self.ends(found.as_ref())?, found))
    }

    /// Beginning and end of every partition, in one question each.
    fn ends(&self, found: Option<&Topic>) -> std::result::Result<BTreeMap<i32, Ends>, String> {
        let Some(found) = found.filter(|found| found.partitions > 0) else {
            return Ok(BTreeMap::new());
        };
        let ask = |offset: Offset| {
            let mut asked = TopicPartitionList::new();
            for number in 0..found.partitions {
                asked
                    .add_partition_offset(&self.topic, number, offset)
                    .map_err(|error| error.to_string())?;
            }
            let answer = self
                .inquirer
                .offsets_for_times(asked, REQUEST_TIMEOUT)
                .map_err(|error| error.to_string())?;
            let mut offsets = BTreeMap::new();
            for element in answer.elements() {
                element.error().map_err(|error| error.to_string())?;
                let Offset::Offset(offset) = element.offset() else {
                    let number = element.partition();
                    return Err(format!("the ends of partition {number} are not known"));
                };
                offsets.insert(element.partition(), offset);
            }
            Ok(offsets)
        };
        let high = ask(Offset::End)?;
        let low = ask(Offset::Beginning)?;
        let both = high.into_iter().filter_map(|(number, high)| {
            let low = *low.get(&number)?;
            // Retention may have passed between the two answers.
            Some((number, Ends { low, high: high.max(low) }))
        });
        Ok(both.collect())
    }

    /// Compares what we know with what there is; true when partitions must be assigned anew.
    fn compare(&mut self, found: &Topic, ends: &BTreeMap<i32, Ends>) -> bool {
        let mut changed = false;
        let is_new_store = self.partitions.is_empty();
        let may_reset = self.options.reset_positions;
        let is_stuck = self.group.is_stuck();
        for (number, ends) in ends {
            let Some(partition) = self.partitions.get_mut(number) else {
                // One that was added later is read from its beginning, like the topic by then.
                let reset =
                    if is_new_store { self.options.offset_reset } else { OffsetReset::Earliest };
                let position = positions::first(&self.topic, found, *number, *ends, reset);
                log::info!("kafka partition={number} begins={}", position.next_offset);
                self.partitions.insert(*number, Partition::new(position, *ends));
                self.group.moved.insert(*number);
                changed = true;
                continue;
            };
            partition.ends = *ends;
            let was_busy = std::mem::take(&mut partition.busy);
            if partition.stopped.is_some() {
                continue;
            }
            match positions::judge(&partition.taken, &found.id, *ends) {
                // Adopts the id of a topic that had none, or of which nothing was read.
                Finding::Continue if *partition.taken.topic_id != *found.id => {
                    partition.taken.topic_id = found.id.as_str().into();
                    self.group.moved.insert(*number);
                }
                Finding::Continue => {
                    partition.doubted = false;
                    if was_busy || is_stuck || partition.taken.next_offset >= ends.high {
                        continue;
                    }
                    // Nothing comes, yet this is not the end: transaction markers and aborted
                    // records. The end that is reported after a fresh assignment lies behind them.
                    if partition.at_end && partition.taken.next_offset < partition.assigned_high {
                        partition.taken.next_offset = partition.assigned_high;
                        self.group.moved.insert(*number);
                    } else {
                        changed = true;
                    }
                }
                // Records that were fetched in time are still good.
                Finding::Resume(_) if was_busy => {}
                Finding::Resume(position) => {
                    let gone = position.lost - partition.taken.lost;
                    log::error!(
                        "kafka partition={number} lost={gone} from={} to={}: the topic no longer \
                         had them",
                        partition.taken.next_offset,
                        position.next_offset
                    );
                    partition.taken = position;
                    self.group.moved.insert(*number);
                    changed = true;
                }
                Finding::Stop(_)
                    if positions::is_of(&partition.taken, &found.id) && !partition.doubted =>
                {
                    partition.doubted = true;
                }
                Finding::Stop(why) if may_reset => {
                    partition.taken = positions::reset(&partition.taken, &found.id, *ends);
                    self.group.items.retain(|item| item.partition != *number);
                    log::warn!(
                        "kafka partition={number} reset=to offset={} because=\"{why}\"",
                        partition.taken.next_offset
                    );
                    self.group.moved.insert(*number);
                    changed = true;
                }
                Finding::Stop(why) => {
                    log::error!("kafka partition={number} stopped=\"{why}\"");
                    partition.taken = partition.stored.clone();
                    partition.stopped = Some(why);
                    self.group.items.retain(|item| item.partition != *number);
                    self.group.moved.remove(number);
                    changed = true;
                }
            }
        }
        for (number, partition) in &mut self.partitions {
            let exists = ends.contains_key(number);
            changed |= std::mem::replace(&mut partition.exists, exists) != exists;
            if exists || positions::is_of(&partition.taken, &found.id) {
                continue;
            }
            // The topic that was made again has fewer partitions.
            let nothing = Ends { low: 0, high: 0 };
            if may_reset {
                partition.taken = positions::reset(&partition.taken, &found.id, nothing);
                self.group.moved.insert(*number);
            } else if let Finding::Stop(why) =
                positions::judge(&partition.taken, &found.id, nothing)
                && partition.stopped.is_none()
            {
                log::error!("kafka partition={number} stopped=\"{why}\"");
                partition.stopped = Some(why);
            }
        }
        changed
    }

    /// Fetches every partition that is not stopped, from the position after what is in hand. One
    /// call with all positions: seeking afterwards would fetch from elsewhere first.
    fn assign(&mut self) -> Result<()> {
        if self.partitions.is_empty() {
            return Ok(());
        }
        let failed = |error: KafkaError| Error::Fatal(format!("kafka: assign failed: {error}"));
        let mut list = TopicPartitionList::new();
        for (number, partition) in &mut self.partitions {
            if partition.is_fetched() {
                partition.assigned_high = partition.ends.high;
                partition.at_end = false;
                let offset = Offset::Offset(partition.taken.next_offset);
                list.add_partition_offset(&self.topic, *number, offset).map_err(failed)?;
            }
        }
        self.client.assign(&list).map_err(failed)?;
        self.assigned = true;
        log::debug!("kafka assigned={}", list.count());
        Ok(())
    }

    fn unassign(&mut self) -> Result<()> {
        self.client
            .unassign()
            .map_err(|error| Error::Fatal(format!("kafka: unassign failed: {error}")))?;
        self.assigned = false;
        for partition in self.partitions.values_mut() {
            // An end that was reported says nothing of where we read on.
            partition.at_end = false;
        }
        Ok(())
    }

    fn on_connection(&mut self, connection: Connection, error: Option<String>) {
        let before = self.view.status();
        let connection = match (connection, before.connection) {
            // Only who was connected can be disconnected.
            (Connection::Disconnected, Connection::Connecting) => Connection::Connecting,
            (connection, _) => connection,
        };
        let shown = error.as_deref().unwrap_or("none");
        if connection != before.connection || error.is_some() != before.error.is_some() {
            let (brokers, state) = (&self.options.brokers, connection.as_str());
            match connection {
                Connection::Connected => {
                    let count = self.partitions.len();
                    log::info!("kafka={state} topic={} partitions={count}", self.topic);
                }
                Connection::TopicMissing => {
                    log::warn!("kafka={state} topic={}: waiting for it", self.topic);
                }
                _ => log::warn!("kafka={state} brokers={brokers} error=\"{shown}\""),
            }
        }
        self.view.change(|status| {
            status.connection = connection;
            status.error = error;
        });
        self.show();
    }

    fn show(&self) {
        let partitions = self.partitions.values().map(Partition::status).collect();
        self.view.change(|status| status.partitions = partitions);
    }

    /// Tells the group how far we are, for people to look at. Never waits: a synchronous commit
    /// would, without end, while brokers are away.
    fn publish(&mut self) {
        if Instant::now() < self.publish_at {
            return;
        }
        self.publish_at = Instant::now() + PUBLISH_INTERVAL;
        // A commit that nobody answers holds up the end of the client.
        if self.view.status().connection != Connection::Connected {
            return;
        }
        if self.client.context().commit_failed.swap(false, Ordering::Relaxed) {
            self.published.clear();
        }
        let mut list = TopicPartitionList::new();
        let mut published = BTreeMap::new();
        for (number, partition) in &self.partitions {
            let offset = partition.stored.next_offset;
            published.insert(*number, offset);
            if self.published.get(number) != Some(&offset) {
                // A valid offset is always taken.
                let _ = list.add_partition_offset(&self.topic, *number, Offset::Offset(offset));
            }
        }
        if list.count() == 0 {
            return;
        }
        match self.client.commit(&list, CommitMode::Async) {
            Ok(()) => self.published = published,
            Err(error) => log::debug!("kafka publish=failed error=\"{error}\""),
        }
    }
}

/// The CloudEvents attributes in the headers of a record in binary mode; none without a version.
fn attributes(message: &impl Message) -> Vec<(&'static str, String)> {
    let Some(headers) = message.headers() else { return Vec::new() };
    let found = ENVELOPE_ATTRIBUTES.into_iter().filter_map(|name| {
        let mut all = headers.iter();
        let header = all.find(|header| header.key.strip_prefix("ce_") == Some(name))?;
        Some((name, str::from_utf8(header.value?).ok()?.to_owned()))
    });
    let found: Vec<_> = found.collect();
    if found.iter().any(|(name, _)| *name == "specversion") { found } else { Vec::new() }
}

/// Puts a message into the group.
fn take(group: &mut Group, partition: &mut Partition, topic: &str, message: &impl Message) {
    let number = partition.taken.partition;
    let offset = message.offset();
    // Deterministic for every replica that reads this record: no clock of ours.
    let time_ms = message.timestamp().to_millis().unwrap_or_else(|| Now::read().unix_ms);
    let fresh = || {
        let resets = partition.taken.resets;
        format!("kafka:{}", serde_json::json!([topic, number, offset, resets]))
    };
    let start = group.buffer.len();
    let read = match message.payload() {
        None => Err(Refusal::new(RefusalCode::Tombstone, "the record has no value")),
        Some(payload) => {
            match attributes(message) {
                found if found.is_empty() => group.buffer.extend(payload),
                found => group.buffer.extend(enveloped(payload, &found)),
            }
            let bytes_max = RECORD_BYTES_MAX + ANNOTATION_BYTES_MAX;
            Outcome::parse_identified(&group.buffer[start..], bytes_max, time_ms, fresh)
        }
    };
    let (content, identity) = match read {
        Ok((outcome, identity)) => (Ok(Content::Outcome(outcome)), identity),
        Err(refusal) => {
            let is_no_event = refusal.code == RefusalCode::MissingAgentName;
            let verdict = is_no_event.then(|| Verdict::of_record(&group.buffer[start..])).flatten();
            (verdict.unwrap_or(Err(refusal)).map(Content::Verdict), fresh())
        }
    };
    let bytes = start..group.buffer.len();
    group.items.push(Item { content, identity, bytes, partition: number, offset, time_ms });
    group.moved.insert(number);
    partition.taken.next_offset = offset + 1;
    partition.taken.last_record_ms = time_ms;
    partition.busy = true;
    partition.at_end = false;
    partition.ends.high = partition.ends.high.max(offset + 1);
    if group.is_full() {
        group.full_since.get_or_insert_with(Instant::now);
    }
}
