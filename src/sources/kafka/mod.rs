//! Kafka: outcomes come from a topic and go to it. The only part of the program that names rdkafka.
//!
//! # Exactly once in effect
//!
//! The broker hands records over at least once; the journal makes it once. A [`Consumer`] reads
//! *all* partitions of the topic from the positions stored in the journal's database, and hands the
//! records to the learner together with the positions after them: both become durable in one
//! transaction, or neither. What the group coordinator knows is for people to look at, nothing is
//! read from it. Instances never share partitions: each is a full replica with its own file.
//!
//! The other half is the [`Producer`]: what comes in over HTTP is written to the topic and comes
//! back through the consumer, so that every replica learns it.
//!
//! # What a topic may do to us
//!
//! Records may be gone before they were read (retention), the topic may be another one of the same
//! name, the log may be shorter than it was. `positions.rs` decides what each means; no gap
//! passes in silence.
//!
#![doc = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/sources/kafka/README.md"))]

use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::error::{Error, Result};

mod consumer;
mod dead_letters;
mod inspect;
mod positions;
mod producer;
mod submit;
mod topic;
mod view;

pub use consumer::Consumer;
pub use dead_letters::forward_dead_letters;
pub use inspect::{TopicState, inspect};
pub use producer::{Outgoing, Producer, Sent};
pub use submit::{submit, submit_verdicts};
pub use view::{Connection, PartitionStatus, Status, View};

/// Longest wait for the answer to one question to the brokers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a new store begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetReset {
    /// With the oldest record there is.
    Earliest,
    /// With what comes from now on.
    Latest,
}

/// How brokers are reached, and what is read and written there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "config::OPTIONS describes them")]
pub struct KafkaOptions {
    pub brokers: String,
    pub topic: String,
    pub group: String,
    pub offset_reset: OffsetReset,
    pub reset_positions: bool,
    pub dead_letter_topic: Option<String>,
    pub alert_topic: Option<String>,
    pub compression: String,
    pub security_protocol: String,
    pub ssl_ca_location: Option<PathBuf>,
    pub sasl: Option<Sasl>,
}

/// How we prove who we are. The password itself is only read when a client is made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "config::OPTIONS describes them")]
pub struct Sasl {
    pub mechanism: String,
    pub username: String,
    pub password_file: PathBuf,
}

impl KafkaOptions {
    /// What consumer and producer have in common.
    fn client_config(&self) -> Result<ClientConfig> {
        let mut config = ClientConfig::new();
        // Changes of state are logged here, once; librdkafka repeats itself while a broker is away.
        config.set_log_level(RDKafkaLogLevel::Info);
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "online-learning")
            .set("security.protocol", self.security_protocol.to_ascii_lowercase())
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.connection.setup.timeout.ms", "5000");
        if let Some(path) = &self.ssl_ca_location {
            config.set("ssl.ca.location", path.to_string_lossy());
        }
        if let Some(sasl) = &self.sasl {
            let path = sasl.password_file.display();
            let password = std::fs::read_to_string(&sasl.password_file).map_err(|error| {
                Error::Config(format!(
                    "KAFKA_SASL_PASSWORD_FILE is {path}, allowed is a file with the password: \
                     {error}"
                ))
            })?;
            config
                .set("sasl.mechanism", &sasl.mechanism)
                .set("sasl.username", &sasl.username)
                .set("sasl.password", password.trim_end_matches(['\r', '\n']));
        }
        Ok(config)
    }
}

/// A client that can't be made is a matter of configuration: no broker is asked yet.
fn unusable(error: &rdkafka::error::KafkaError) -> Error {
    Error::Config(format!("the KAFKA_* settings do not make a client: {error}"))
}

/// What librdkafka logs. It is detail: what matters is told by errors and statuses.
fn log_line(facility: &str, message: &str) {
    log::debug!("librdkafka={facility} {message}");
}
