//! What other threads see of the consumer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// How the brokers are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Connection {
    /// Not yet.
    #[default]
    Connecting,
    /// They answer.
    Connected,
    /// They did, and do no more.
    Disconnected,
    /// They answer, but have no such topic.
    TopicMissing,
}

impl Connection {
    /// Its name in answers and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::TopicMissing => "topic_missing",
        }
    }
}

/// One partition of the topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Its number.
    pub partition: i32,
    /// The first offset that is not in the journal.
    pub position: i64,
    /// The oldest offset the broker still has.
    pub low: i64,
    /// The offset after the newest record that can be read.
    pub high: i64,
    /// Records that were gone before they were read, ever.
    pub lost: u64,
    /// Time of the last record in the journal, Unix ms; 0 before the first.
    pub last_record_ms: i64,
    /// Why it is not read, if so.
    pub stopped: Option<String>,
}

impl PartitionStatus {
    /// Records that can be read and are not in the journal.
    pub fn lag(&self) -> u64 {
        u64::try_from(self.high - self.position).unwrap_or(0)
    }
}

/// How the consumer is.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// How the brokers are reached.
    pub connection: Connection,
    /// What was last heard to go wrong with that.
    pub error: Option<String>,
    /// The queue into the learner is full, and nothing is fetched.
    pub paused: bool,
    /// By number.
    pub partitions: Vec<PartitionStatus>,
}

impl Status {
    /// Records that can be read and are not in the journal.
    pub fn lag(&self) -> u64 {
        self.partitions.iter().map(PartitionStatus::lag).sum()
    }

    /// The age of the last record in the journal in seconds; 0 at the end, `None` before the first.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds stay far below 2^53")]
    pub fn lag_seconds(&self, now_ms: i64) -> Option<f64> {
        if self.lag() == 0 {
            return Some(0.0);
        }
        let behind = self.partitions.iter().filter(|partition| partition.lag() > 0);
        let oldest = behind.map(|partition| partition.last_record_ms).filter(|ms| *ms > 0).min()?;
        Some((now_ms - oldest).max(0) as f64 / 1_000.0)
    }

    /// Records that were gone before they were read, ever.
    pub fn lost(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.lost).sum()
    }

    /// What keeps outcomes from coming in, in words.
    pub fn trouble(&self) -> Option<String> {
        let stopped = self.partitions.iter().find_map(|partition| {
            let why = partition.stopped.as_ref()?;
            Some(format!("partition {} is stopped: {why}", partition.partition))
        });
        stopped.or_else(|| match self.connection {
            Connection::Connected => None,
            other => {
                let why = self.error.as_deref().unwrap_or("no broker has answered");
                Some(format!("{}: {why}", other.as_str()))
            }
        })
    }
}

/// The status, and a bell that rings when positions move.
#[derive(Default)]
pub struct View {
    status: Mutex<Status>,
    moved: Condvar,
    heartbeats: AtomicU64,
}

impl View {
    /// The newest status.
    pub fn status(&self) -> Status {
        self.lock().clone()
    }

    /// Why the brokers need not be asked to take records, if they are known to be away.
    pub fn away(&self) -> Option<String> {
        let status = self.lock();
        match status.connection {
            Connection::Connected | Connection::TopicMissing => None,
            // Nothing was heard so far, good or bad.
            Connection::Connecting if status.error.is_none() => None,
            Connection::Connecting | Connection::Disconnected => {
                Some(status.error.clone().unwrap_or_else(|| "they do not answer".to_owned()))
            }
        }
    }

    /// A number that grows while the consumer's thread makes progress.
    pub fn heartbeats(&self) -> u64 {
        self.heartbeats.load(Ordering::Relaxed)
    }

    pub(super) fn beat(&self) {
        self.heartbeats.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock());
        self.moved.notify_all();
    }

    /// Whether that is news.
    pub(super) fn set_paused(&self, paused: bool) -> bool {
        std::mem::replace(&mut self.lock().paused, paused) != paused
    }

    /// Waits until the journal holds every record at these offsets of their partitions; false when
    /// that took too long or `give_up` says so, which is asked a few times a second.
    pub fn wait_for(
        &self,
        offsets: &BTreeMap<i32, i64>,
        deadline: Instant,
        give_up: impl Fn() -> bool,
    ) -> bool {
        let is_past = |status: &Status| {
            offsets.iter().all(|(number, offset)| {
                status
                    .partitions
                    .iter()
                    .any(|partition| partition.partition == *number && partition.position > *offset)
            })
        };
        let mut status = self.lock();
        loop {
            if is_past(&status) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || give_up() {
                return false;
            }
            let slice = left.min(Duration::from_millis(200));
            self.moved.wait_for(&mut status, slice);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock()
    }
}
