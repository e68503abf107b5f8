//! A look at the brokers, for people: nothing is subscribed, read or committed.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::{KafkaOptions, topic, unusable};
use crate::error::Result;

/// What brokers say of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// Base64 of its UUID; empty where brokers give none.
    pub id: String,
    /// By partition: the first offset there is, and the one after the last.
    pub watermarks: BTreeMap<i32, (i64, i64)>,
    /// By partition: how far the group is said to have read.
    pub committed: BTreeMap<i32, i64>,
}

/// Asks brokers about the outcome topic; each answer may take `timeout`. `Ok(Ok(None))`: there is no
/// such topic; `Ok(Err(_))`: why brokers do not answer.
///
/// # Errors
/// [`crate::Error::Config`] when the settings do not make a client.
pub fn inspect(
    options: &KafkaOptions,
    timeout: Duration,
) -> Result<std::result::Result<Option<TopicState>, String>> {
    let client: BaseConsumer = options
        .client_config()?
        .set("group.id", &options.group)
        .set("enable.auto.commit", "false")
        .set("allow.auto.create.topics", "false")
        .create()
        .map_err(|error| unusable(&error))?;
    Ok(ask(&client, options, timeout))
}

fn ask(
    client: &BaseConsumer,
    options: &KafkaOptions,
    timeout: Duration,
) -> std::result::Result<Option<TopicState>, String> {
    let name = options.topic.as_str();
    let broker = topic::any_broker(client.client(), name, timeout)?;
    let Some(found) = topic::describe(client.client(), broker, name, timeout)? else {
        return Ok(None);
    };
    let mut partitions = TopicPartitionList::new();
    let mut watermarks = BTreeMap::new();
    for partition in 0..found.partitions {
        let marks = client.fetch_watermarks(name, partition, timeout);
        watermarks.insert(partition, marks.map_err(|error| error.to_string())?);
        partitions.add_partition(name, partition);
    }
    let committed =
        client.committed_offsets(partitions, timeout).map_err(|error| error.to_string())?;
    let committed = committed.elements().into_iter().filter_map(|element| match element.offset() {
        Offset::Offset(offset) => Some((element.partition(), offset)),
        _ => None,
    });
    Ok(Some(TopicState { id: found.id, watermarks, committed: committed.collect() }))
}
