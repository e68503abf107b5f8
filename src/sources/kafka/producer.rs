//! Writes records to a topic and waits until the brokers have them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use parking_lot::{Mutex, RwLock};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer,
};

use super::{KafkaOptions, log_line, unusable};
use crate::error::{Error, Result};
use crate::outcome::{ANNOTATION_BYTES_MAX, RECORD_BYTES_MAX};

/// How long a record may take to be acknowledged.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Records waiting to be sent, KiB.
const QUEUE_KIB_MAX: usize = 64 * 1024;
/// How often a record that was refused as too large is tried alone.
const ALONE_TRIES: u32 = 2;
/// What a record takes beside its value: key, headers, framing. Bytes.
const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Pause while that queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(10);

/// A record to write.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Decides on the partition.
    pub key: String,
    /// Its bytes.
    pub value: Vec<u8>,
    /// Names and values.
    pub headers: Vec<(&'static str, String)>,
}

/// What became of one record: its partition and offset.
type Delivery = std::result::Result<(i32, i64), KafkaError>;

/// Where the fate of a record is told.
struct Waiting {
    index: usize,
    tell: Sender<(usize, Delivery)>,
}

struct Callbacks;

impl ClientContext for Callbacks {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        log::debug!("kafka_producer_error=\"{error}\" reason=\"{reason}\"");
    }
}

impl ProducerContext for Callbacks {
    type DeliveryOpaque = Box<Waiting>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        let delivery = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        // Whoever waited may have given up.
        let _ = waiting.tell.send((waiting.index, delivery));
    }
}

type Client = ThreadedProducer<Callbacks>;

/// What became of records that were given to [`Producer::send`].
#[derive(Debug, Default)]
pub struct Sent {
    /// Acknowledged, by their place.
    pub delivered: Vec<usize>,
    /// Larger than the brokers take, by their place.
    pub too_large: Vec<(usize, String)>,
    /// Why the others were not acknowledged, if there are any.
    pub failure: Option<String>,
}

/// The writing end of the topic, for any number of threads.
pub struct Producer {
    options: KafkaOptions,
    client: RwLock<Arc<Client>>,
    /// The last offset acknowledged in each partition of the outcome topic.
    acknowledged: Mutex<BTreeMap<i32, i64>>,
}

impl Producer {
    /// A producer. No broker is asked yet.
    ///
    /// # Errors
    /// [`Error::Config`] when the settings do not make a client.
    pub fn new(options: &KafkaOptions) -> Result<Self> {
        Ok(Self {
            client: RwLock::new(Arc::new(client(options)?)),
            options: options.clone(),
            acknowledged: Mutex::default(),
        })
    }

    /// The outcome topic.
    pub fn topic(&self) -> &str {
        &self.options.topic
    }

    /// The last offset acknowledged in each partition of the outcome topic, by this process.
    pub fn acknowledged(&self) -> BTreeMap<i32, i64> {
        self.acknowledged.lock().clone()
    }

    /// Writes records to `topic` and waits until each is acknowledged by all replicas in sync, or
    /// is not within 10 s.
    pub fn send(&self, topic: &str, records: &[Outgoing]) -> Sent {
        let mut sent = Sent::default();
        self.send_some(topic, records, 0..records.len(), &mut sent);
        // Brokers refuse a batch as a whole for one record in it, of whichever request.
        for _ in 0..ALONE_TRIES {
            for (index, _) in std::mem::take(&mut sent.too_large) {
                self.send_some(topic, records, index..index + 1, &mut sent);
            }
        }
        sent
    }

    fn send_some(&self, topic: &str, records: &[Outgoing], range: Range<usize>, sent: &mut Sent) {
        let client = self.client.read().clone();
        // A little more than the client itself takes to give up.
        let deadline = Instant::now() + DELIVERY_TIMEOUT + Duration::from_secs(1);
        let (tell, told) = unbounded();
        let mut waiting = 0;
        for index in range {
            match enqueue(&client, topic, &records[index], index, &tell, deadline) {
                Ok(()) => waiting += 1,
                Err(error) => sent.failed(index, &error),
            }
        }
        let mut last = BTreeMap::new();
        for _ in 0..waiting {
            match told.recv_deadline(deadline) {
                Ok((index, Ok((partition, offset)))) => {
                    last.insert(partition, offset);
                    sent.delivered.push(index);
                }
                Ok((index, Err(error))) => sent.failed(index, &error),
                Err(_) => {
                    sent.failure.get_or_insert_with(|| "no broker acknowledged in time".to_owned());
                    break;
                }
            }
        }
        if topic == self.options.topic {
            let mut acknowledged = self.acknowledged.lock();
            // Not the largest: the topic may have begun anew.
            acknowledged.extend(last);
        }
        if sent.failure.is_some() {
            self.replace_broken(&client);
        }
    }

    /// An idempotent producer that can't keep its promise any more says so, once and for all.
    fn replace_broken(&self, broken: &Arc<Client>) {
        let Some((code, reason)) = broken.client().fatal_error() else { return };
        let mut current = self.client.write();
        if !Arc::ptr_eq(&current, broken) {
            return;
        }
        log::warn!("kafka producer=replaced error=\"{code}\" reason=\"{reason}\"");
        match client(&self.options) {
            Ok(fresh) => *current = Arc::new(fresh),
            Err(error) => log::error!("kafka producer=broken error=\"{error}\""),
        }
    }
}

impl Sent {
    fn failed(&mut self, index: usize, error: &KafkaError) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                self.too_large.push((index, error.to_string()));
            }
            _ => {
                self.failure.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

fn client(options: &KafkaOptions) -> Result<Client> {
    let bytes_max = RECORD_BYTES_MAX + ANNOTATION_BYTES_MAX + FRAME_BYTES_MAX;
    options
        .client_config()?
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.type", &options.compression)
        .set("message.max.bytes", bytes_max.to_string())
        .set("message.timeout.ms", DELIVERY_TIMEOUT.as_millis().to_string())
        .set("queue.buffering.max.kbytes", QUEUE_KIB_MAX.to_string())
        // As the Java clients do, so that equal keys meet in one partition whoever sends them.
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "2")
        .create_with_context(Callbacks)
        .map_err(|error| unusable(&error))
}

fn enqueue(
    client: &Client,
    topic: &str,
    record: &Outgoing,
    index: usize,
    tell: &Sender<(usize, Delivery)>,
    deadline: Instant,
) -> std::result::Result<(), KafkaError> {
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
    for (key, value) in &record.headers {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    let mut next =
        BaseRecord::with_opaque_to(topic, Box::new(Waiting { index, tell: tell.clone() }))
            .key(&record.key)
            .payload(&record.value);
    if !record.headers.is_empty() {
        next = next.headers(headers);
    }
    loop {
        match client.send(next) {
            Ok(()) => return Ok(()),
            Err((error, back))
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
                    && Instant::now() < deadline =>
            {
                next = back;
                std::thread::sleep(QUEUE_FULL_PAUSE);
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// The error for records that no broker acknowledged; `taken` of all were.
pub(super) fn unacknowledged(reason: &str, taken: usize) -> Error {
    Error::Unavailable(match taken {
        0 => format!("the topic takes no records at the moment: {reason}"),
        _ => format!(
            "the topic took {taken} of the records and no more: {reason}; sent again, those with \
             an identity count as duplicates"
        ),
    })
}
