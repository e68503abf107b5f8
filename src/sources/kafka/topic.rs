//! Which topic a name stands for. Kafka gives a topic a new id when it is deleted and made again;
//! a position belongs to one id.

use std::ffi::{CStr, CString};
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::types::RDKafkaRespErr;

/// A topic as the brokers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic {
    /// Base64 of its UUID; empty where brokers give none (before Kafka 2.8).
    pub(super) id: String,
    /// Partitions, numbered from 0.
    pub(super) partitions: i32,
}

/// A broker that answers now.
///
/// # Errors
/// Why there was no answer within `timeout`.
pub(super) fn any_broker<C: ClientContext>(
    client: &Client<C>,
    name: &str,
    timeout: Duration,
) -> Result<i32, String> {
    let metadata = client.fetch_metadata(Some(name), timeout).map_err(|error| error.to_string())?;
    // One that was only known by its address so far has no number yet.
    let answered = Some(metadata.orig_broker_id()).filter(|id| *id >= 0);
    let first = || metadata.brokers().first().map(rdkafka::metadata::MetadataBroker::id);
    answered.or_else(first).ok_or_else(|| "no broker is known".to_owned())
}

/// Asks a broker about a topic; `None` when there is none of that name.
///
/// # Errors
/// Why there was no answer within `timeout`.
#[expect(unsafe_code, reason = "rdkafka has no safe call that tells a topic's id")]
pub(super) fn describe<C: ClientContext>(
    client: &Client<C>,
    broker: i32,
    name: &str,
    timeout: Duration,
) -> Result<Option<Topic>, String> {
    const NONE: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    /// A native object with the function that frees it.
    struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));
    impl<T> Drop for Owned<T> {
        fn drop(&mut self) {
            if !self.0.is_null() {
                // SAFETY: the pointer came from the constructor that this function belongs to, is
                // not null, and nothing else frees it.
                unsafe { (self.1)(self.0) }
            }
        }
    }

    let name = CString::new(name).map_err(|error| error.to_string())?;
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let text = |code: RDKafkaRespErr| {
        // SAFETY: the result is a static string for every code.
        unsafe { CStr::from_ptr(sys::rd_kafka_err2str(code)) }.to_string_lossy().into_owned()
    };
    // SAFETY: `rk` is valid as long as `client` is borrowed. Every object below is made here and
    // freed by its `Owned` at the end of this function, the event before the queue it came from;
    // librdkafka keeps its own references to what a request still needs. The result, its topics
    // and their ids belong to the event and are only read while that lives. Pointers that may be
    // null are checked before they are followed.
    unsafe {
        let rk = client.native_ptr();
        let queue = Owned(sys::rd_kafka_queue_new(rk), sys::rd_kafka_queue_destroy);
        let options = Owned(
            sys::rd_kafka_AdminOptions_new(
                rk,
                sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            ),
            sys::rd_kafka_AdminOptions_destroy,
        );
        let mut names = [name.as_ptr()];
        let topics = Owned(
            sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len()),
            sys::rd_kafka_TopicCollection_destroy,
        );
        if queue.0.is_null() || options.0.is_null() || topics.0.is_null() {
            return Err("out of memory".to_owned());
        }
        let mut reason = [0; 256];
        sys::rd_kafka_AdminOptions_set_request_timeout(
            options.0,
            timeout_ms,
            reason.as_mut_ptr(),
            reason.len(),
        );
        // Every broker knows; by default it would be the controller, which may be away.
        sys::rd_kafka_AdminOptions_set_broker(options.0, broker, reason.as_mut_ptr(), reason.len());
        sys::rd_kafka_DescribeTopics(rk, topics.0, options.0, queue.0);
        let event = Owned(
            sys::rd_kafka_queue_poll(queue.0, timeout_ms),
            sys::rd_kafka_event_destroy as unsafe extern "C" fn(_),
        );
        if event.0.is_null() {
            return Err(format!("no broker answered within {timeout_ms} ms"));
        }
        let error = sys::rd_kafka_event_error(event.0);
        if error != NONE {
            return Err(text(error));
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err("the answer is not about topics".to_owned());
        }
        let mut count = 0;
        let described = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if described.is_null() || count == 0 {
            return Err("the answer names no topic".to_owned());
        }
        let topic = *described;
        // Null stands for no error there.
        match sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic)) {
            NONE => {}
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            | RDKafkaRespErr::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC => return Ok(None),
            error => return Err(text(error)),
        }
        let mut partitions = 0;
        sys::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
        let uuid = sys::rd_kafka_TopicDescription_topic_id(topic);
        let is_zero = uuid.is_null()
            || (sys::rd_kafka_Uuid_most_significant_bits(uuid) == 0
                && sys::rd_kafka_Uuid_least_significant_bits(uuid) == 0);
        let id = if is_zero {
            String::new()
        } else {
            CStr::from_ptr(sys::rd_kafka_Uuid_base64str(uuid)).to_string_lossy().into_owned()
        };
        Ok(Some(Topic { id, partitions: i32::try_from(partitions).unwrap_or(i32::MAX) }))
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::mocking::MockCluster;

    use super::*;

    fn consumer(servers: &str) -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("group.id", "g")
            .create()
            .expect("the settings make a client")
    }

    #[test]
    fn a_topic_has_its_partitions_and_an_id_of_its_own() {
        let timeout = Duration::from_secs(20);
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("one", 3, 1).unwrap();
        cluster.create_topic("two", 1, 1).unwrap();
        let consumer = consumer(&cluster.bootstrap_servers());
        let broker = any_broker(consumer.client(), "one", timeout).unwrap();
        let ask = |name| describe(consumer.client(), broker, name, timeout).unwrap();
        let (one, two) = (ask("one").unwrap(), ask("two").unwrap());
        assert_eq!((one.partitions, two.partitions), (3, 1));
        assert!(!one.id.is_empty() && one.id != two.id, "{one:?} {two:?}");
        assert_eq!(ask("one"), Some(one));
        assert_eq!(ask("three"), None);
    }

    #[test]
    fn brokers_that_are_away_are_an_error() {
        // Reserved, so nobody listens there.
        let consumer = consumer("127.0.0.1:1");
        let timeout = Duration::from_millis(50);
        assert!(any_broker(consumer.client(), "one", timeout).is_err());
        assert!(describe(consumer.client(), 1, "one", timeout).is_err());
    }
}
