//! Sends dead letters on to a topic, after they are in the database: at least once.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::producer::{Outgoing, Producer};
use crate::learner::{Event, Inbox, Shared};
use crate::store::{DeadLetter, Reader};

/// How often it is looked whether there are new ones.
const INTERVAL: Duration = Duration::from_millis(500);
/// Letters sent together: at most 16 MiB.
const PART: u32 = 256;

/// Sends on what comes, until `stop` is disconnected. Letters that the database no longer has are
/// not sent; what was sent is noted, and after a crash the last ones are sent again.
pub fn forward_dead_letters(
    topic: &str,
    producer: &Producer,
    reader: &Reader,
    shared: &Shared,
    inbox: &Inbox,
    stop: &Receiver<()>,
) {
    let mut sent = shared.counters().dead_letters_sent;
    let mut failing = false;
    while stop.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let last = shared.counters().last_dead_letter;
        if last <= sent {
            continue;
        }
        match forward(topic, producer, reader, sent) {
            Ok(number) => {
                // None is left: those in between were fed back or made room for others.
                sent = number.unwrap_or(last);
                // If nobody takes note of it now, they are sent again after a crash.
                let _ = inbox.send(Event::DeadLettersSent(sent));
                if std::mem::take(&mut failing) {
                    log::info!("dead_letter_topic={topic} sending=resumed");
                }
            }
            Err(error) if !failing => {
                failing = true;
                log::warn!("dead_letter_topic={topic} sending=failed error=\"{error}\"");
            }
            Err(_) => {}
        }
    }
}

/// The number of the last letter sent.
fn forward(
    topic: &str,
    producer: &Producer,
    reader: &Reader,
    after: u64,
) -> std::result::Result<Option<u64>, String> {
    let letters = reader.dead_letters_after(after, PART).map_err(|error| error.to_string())?;
    let last = letters.last().and_then(|letter| letter.id.parse().ok());
    let records: Vec<Outgoing> = letters.into_iter().map(outgoing).collect();
    let sent = producer.send(topic, &records);
    if let Some((_, detail)) = sent.too_large.first() {
        let count = sent.too_large.len();
        log::warn!("dead_letter_topic={topic} refused={count} error=\"{detail}\"");
    }
    sent.failure.map_or(Ok(last), Err)
}

fn outgoing(letter: DeadLetter) -> Outgoing {
    let number = |number: Option<i64>| number.map(|number| number.to_string());
    let headers = [
        ("id", Some(letter.id)),
        ("source", Some(letter.source)),
        ("code", Some(letter.code)),
        ("detail", Some(letter.detail)),
        ("topic", letter.topic),
        ("partition", number(letter.partition.map(i64::from))),
        ("offset", number(letter.offset)),
        ("payload_bytes", Some(letter.payload_bytes.to_string())),
        ("payload_kept", Some(letter.payload_kept.as_str().to_owned())),
        ("created_at", Some(letter.created_at)),
    ];
    let headers = headers.into_iter().filter_map(|(name, value)| Some((name, value?)));
    Outgoing { key: letter.identity, value: letter.payload, headers: headers.collect() }
}
