//! `emit`: recorded outcomes, JSON Lines or CSV, written to the outcome topic.
//!
//! Every record gets its identity as `event_id`, so that a file that is emitted twice is learned
//! once. What can't be understood is counted and not written.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};

use crate::commands::settings::Settings;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::learner::Now;
use crate::outcome::{Outcome, RECORD_BYTES_MAX, Refusal, RefusalCode, annotated};
use crate::sources::file::{Source, Summary};
use crate::sources::kafka::{Outgoing, Producer};

/// What to write to the topic.
#[derive(Debug, Args)]
pub struct Emit {
    /// File to read; - for standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// The settings of the service.
    #[command(flatten)]
    pub settings: Settings,
}

impl Emit {
    /// Writes the outcomes of the file, and says what came of it.
    ///
    /// # Errors
    /// [`Error::Config`] when Kafka is off, [`Error::Unavailable`] when the brokers take no more; when
    /// the file can't be read, nothing was accepted, or nobody reads.
    pub fn run(&self, out: &mut impl Write) -> Result<()> {
        let summary = into_topic(&self.settings.config()?, &self.file)?;
        writeln!(out, "{summary}").map_err(Error::unprinted)?;
        summary.check(&self.file.display().to_string())
    }
}

/// Writes the outcomes of a file to the topic; `accepted` are those that the brokers acknowledged.
///
/// # Errors
/// [`Error::Config`] when Kafka is off, [`Error::Invalid`] when the file can't be read,
/// [`Error::Unavailable`] when the brokers take no more.
fn into_topic(config: &Config, file: &Path) -> Result<Summary> {
    let options = config.kafka.as_ref().ok_or_else(|| {
        Error::Config(
            "emit writes to Kafka: set KAFKA_BOOTSTRAP_SERVERS (--kafka-bootstrap-servers), or \
             ENABLE_KAFKA=true for localhost:9092"
                .to_owned(),
        )
    })?;
    let producer = Producer::new(options)?;
    let mut source = Source::open(file)?;
    let mut summary = Summary::default();
    while let Some(part) = source.next_part()? {
        let now_ms = Now::read().unix_ms;
        let mut outgoing = Vec::with_capacity(part.lines.len());
        let mut dropped = Vec::with_capacity(part.lines.len());
        for line in part.lines {
            if let Some(refusal) = &line.refusal {
                summary.refuse(refusal);
                continue;
            }
            let bytes = &part.bytes[line.range];
            let read = Outcome::parse_identified(bytes, RECORD_BYTES_MAX, now_ms, || {
                source.identity(line.number, bytes)
            });
            match read {
                Ok((outcome, identity)) => {
                    let value = annotated(bytes, &identity, &outcome);
                    dropped.push(outcome.dropped);
                    outgoing.push(Outgoing { key: identity, value, headers: Vec::new() });
                }
                Err(refusal) => summary.refuse(&refusal),
            }
        }
        source.check_identities()?;
        let sent = producer.send(&options.topic, &outgoing);
        summary.accepted += sent.delivered.len() as u64;
        for place in &sent.delivered {
            for field in &dropped[*place] {
                *summary.dropped.entry((*field).to_owned()).or_default() += 1;
            }
        }
        for (_, detail) in &sent.too_large {
            summary.refuse(&Refusal::new(RefusalCode::TooLarge, detail));
        }
        if let Some(why) = sent.failure {
            return Err(Error::Unavailable(format!(
                "the topic {} takes no more records: {why}; so far {summary}; emitted again, what \
                 it took is learned once all the same",
                options.topic
            )));
        }
        source.show(&summary);
    }
    source.finish();
    Ok(summary)
}
