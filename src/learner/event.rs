//! What is sent to the learner, and what it answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::{
    AdmitRequest, AdmitVerdictsRequest, FeedbackRequest, LeftOut, REJECTED_NAMED_MAX, Room,
    SavedVersion, TopicRequest,
};
use crate::error::Result;
use crate::model::AgentPerformanceModel;
use crate::outcome::{Outcome, Payload, RECORD_BYTES_MAX, Refusal};
use crate::store::Position;
use crate::watch::alerts::Alert;
use crate::watch::budget::Budget;
use crate::watch::samples::Sample;

/// The models that are learned, by the names of the API.
pub const MODEL_TYPES: [&str; 4] =
    ["agent_selection", "quality_prediction", "latency_prediction", "cost_prediction"];
/// The source of records that come from the topic.
pub const TOPIC: &str = "kafka";
/// The source of records that clients send.
pub const HTTP: &str = "http";
/// The source of records that are agents' telemetry.
pub const OTLP: &str = "otlp";
/// The source of records that a gateway of models reports.
pub const LITELLM: &str = "litellm";
/// Every source of records.
pub const SOURCES: [&str; 7] = [HTTP, OTLP, LITELLM, TOPIC, "import", "replay", "library"];

/// A moment: monotonic for deadlines, wall clock for records.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For deadlines.
    pub instant: Instant,
    /// Unix time, ms.
    pub unix_ms: i64,
}

impl Now {
    /// The present.
    pub fn read() -> Self {
        Self { instant: Instant::now(), unix_ms: jiff::Timestamp::now().as_millisecond() }
    }

    /// The time since an earlier moment by the clock that says more: a machine that slept knows it by one
    /// of them only.
    pub(crate) fn since(&self, earlier: Self) -> Duration {
        let wall_ms = u64::try_from(self.unix_ms.saturating_sub(earlier.unix_ms)).unwrap_or(0);
        let monotonic = self.instant.saturating_duration_since(earlier.instant);
        monotonic.max(Duration::from_millis(wall_ms))
    }
}

/// What is sent to the learner.
pub enum Event {
    /// Records to make durable and learn.
    Append(AppendRequest),
    /// Look at outcomes on their way to a topic, from which they will come back.
    Admit(AdmitRequest),
    /// Verdicts on executions that were reported before, or will be.
    Feedback(FeedbackRequest),
    /// Look at verdicts on their way to a topic, from which they will come back.
    AdmitVerdicts(AdmitVerdictsRequest),
    /// What was read from a topic.
    Topic(TopicRequest),
    /// Dead letters up to this number were sent on.
    DeadLettersSent(u64),
    /// Answered selections wait to be recorded.
    Decisions,
    /// Record alerts as they are now.
    Alerts {
        /// Those that have changed.
        alerts: Vec<Alert>,
        /// To whom they are to be sent, places in [`crate::watch::instruments::CHANNELS`].
        channels: Vec<usize>,
        /// Answered when they are durable, or could not be recorded.
        reply: Sender<Result<()>>,
    },
    /// A change of an alert was sent to a channel, or never will be.
    AlertSent {
        /// As it was then.
        alert: Alert,
        /// A place in [`crate::watch::instruments::CHANNELS`].
        channel: usize,
    },
    /// Set the spending cap of a tenant, or take it away.
    SetBudget {
        /// Whose.
        tenant: String,
        /// The new one.
        budget: Option<Budget>,
        /// Answered when it is durable and in force.
        reply: Sender<Result<()>>,
    },
    /// Remove an agent and what was learned of it.
    RemoveAgent {
        /// Whose.
        tenant: String,
        /// Which.
        agent: String,
        /// Answered when it is durable and in force.
        reply: Sender<Result<()>>,
    },
    /// Record a sample, for plots over time.
    Sample(Box<Sample>),
    /// Close the open micro-batch; answered when all accepted before is learned and published.
    Flush(Sender<()>),
    /// Save a version now.
    Save(Sender<Result<SavedVersion>>),
    /// Make a saved version the active one.
    Activate {
        /// Which.
        version_id: String,
        /// For the new version that this makes.
        reply: Sender<Result<SavedVersion>>,
    },
    /// Make a model from elsewhere the active version.
    ImportModel {
        /// The model.
        model: Box<AgentPerformanceModel>,
        /// For the version that this makes.
        reply: Sender<Result<SavedVersion>>,
    },
    /// An import has ended: for the record.
    Imported {
        /// Outcomes it brought.
        accepted: u64,
        /// Time it took.
        duration: Duration,
        /// Answered when recorded.
        reply: Sender<()>,
    },
}

/// Records of one sender, which become durable together or not at all.
pub struct AppendRequest {
    /// In the order in which they will be learned.
    pub records: Vec<Record>,
    /// Refused ones of which nothing but the number is kept.
    pub left_out: LeftOut,
    /// Place for the dead letters of whoever sent them.
    pub room: Room,
    /// How far the source has been read with them.
    pub positions: Vec<Position>,
    /// Dead letters that have found another way back in.
    pub replayed: Vec<String>,
    /// Answered once they are durable.
    pub reply: Sender<Result<AppendReply>>,
}

/// One record, understood or not.
pub struct Record {
    /// What it says, or why that can't be told.
    pub content: std::result::Result<Outcome, Refusal>,
    /// Its bytes, for the case that it is refused.
    pub payload: Payload,
    /// Its identity; of a refused one that of its arrival.
    pub identity: String,
    /// `http`, `import` or `kafka`.
    pub source: &'static str,
    /// Topic, partition and offset, where it has them.
    pub position: Option<(Arc<str>, i32, i64)>,
    /// The dead letter that it is fed back from.
    pub replay_of: Option<String>,
    /// Whose it is, where its sender may speak for one tenant only.
    pub tenant: Option<String>,
    /// When it came into the topic that it is read from, Unix ms.
    pub arrived_ms: Option<i64>,
}

impl Record {
    /// Reads the bytes of a record. `fresh` makes up an identity for one that has none.
    pub fn read(
        payload: Payload,
        source: &'static str,
        now_ms: i64,
        fresh: impl Fn() -> String,
    ) -> Self {
        let read = Outcome::parse_identified(payload.bytes(), RECORD_BYTES_MAX, now_ms, &fresh);
        let (content, identity) = match read {
            Ok((outcome, identity)) => (Ok(outcome), identity),
            Err(refusal) => (Err(refusal), fresh()),
        };
        Self {
            content,
            payload,
            identity,
            source,
            position: None,
            replay_of: None,
            tenant: None,
            arrived_ms: None,
        }
    }
}

/// What became of the records of one sender.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppendReply {
    /// Made durable.
    pub accepted: u64,
    /// Known already.
    pub duplicates: u64,
    /// Those of them that differ from the first of their identity in agent or status.
    pub conflicting: u64,
    /// Refused.
    pub rejected_total: u64,
    /// Those refused, by their place among the records; at most [`REJECTED_NAMED_MAX`].
    pub rejected: Vec<(usize, Refusal)>,
    /// Optional fields of accepted ones that made no sense, by name.
    pub dropped: BTreeMap<&'static str, u64>,
    /// Those refused of which nothing but the number is kept.
    pub unkept: u64,
}

impl AppendReply {
    /// Adds what became of a part, whose records stand at `places` of the whole.
    pub fn add(&mut self, part: Self, places: &[usize]) {
        self.accepted += part.accepted;
        self.duplicates += part.duplicates;
        self.conflicting += part.conflicting;
        self.rejected_total += part.rejected_total;
        self.unkept += part.unkept;
        for (field, count) in part.dropped {
            *self.dropped.entry(field).or_default() += count;
        }
        let room = REJECTED_NAMED_MAX.saturating_sub(self.rejected.len());
        let named = part.rejected.into_iter().take(room);
        self.rejected
            .extend(named.filter_map(|(index, refusal)| Some((*places.get(index)?, refusal))));
    }
}
