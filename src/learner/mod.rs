//! The learner: takes records in, makes them durable, learns them in micro-batches, lets the
//! result be seen.
//!
//! A plain value without a thread: [`Learner::on_event`] stages what comes in, [`Learner::settle`]
//! makes it durable, acknowledges it and learns every micro-batch that is full, and
//! [`Learner::on_deadline`] does what is due. All time is passed in.
//!
//! # Order
//!
//! 1. Append: outcomes, identities, refusals and source positions in one transaction.
//! 2. Acknowledge every sender of the group.
//! 3. Learn on a clone of the model; record the learning events in a second transaction.
//! 4. Only then the clone becomes the model, and is published.
//!
//! A failure at any step leaves everything before it as it was, and the step is tried again.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque, hash_map};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::error::{Error, Result};
use crate::model::{AgentPerformanceModel, Score, Settings};
use crate::outcome::decisions::{Asked, Decisions, Waiting};
use crate::outcome::{
    ContentKey, DEFAULT_TENANT, IdentityKey, Outcome, Payload, PayloadKept, RECORD_BYTES_MAX,
    Refusal, RefusalCode, format_time, is_conflict, named_tenant,
};
use crate::store::{
    Append, Counters, Late, LearningEvent, NewDeadLetter, Owner, PAYLOAD_BYTES_MAX, Position,
    Provisional, SourceCounters, Store, Taken,
};
use crate::watch::alerts::Alert;
use crate::watch::budget::Budget;
use crate::watch::instruments::Instruments;
use crate::watch::process::MemoryLimit;
use crate::watch::samples::Sample;
use crate::watch::{Forecast, Watch};

mod admission;
mod attempts;
mod control;
mod feedback;
mod inbox;
mod memory;
mod missing;
mod recovery;
mod saving;
mod spans;

pub use admission::{Admission, AdmitRequest};
pub use feedback::{FeedbackRequest, Judged};
pub use inbox::{
    Inbox, LETTERS_KEPT_MAX, LeftOut, REJECTED_NAMED_MAX, Room, SUBMIT_RECORDS_MAX, Sieve,
};
pub use recovery::load as load_model;
pub use saving::{SaveJob, Saved, SavedVersion, Saver, parameters};
pub use spans::Reported;

use saving::Saving;

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

/// Outcomes after which a group is settled although more are waiting.
pub const GROUP_OUTCOMES_MAX: usize = 8_192;
/// Outcomes learned in one transaction, so that what was learned is soon seen.
const LEARN_OUTCOMES_MAX: usize = 16_384;
/// Journaled outcomes that may wait to be learned; more are pushed back while learning fails.
const PENDING_OUTCOMES_MAX: usize = 100_000;
/// Pause after a transaction failed.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Longest wait of an answered selection for others to share its transaction.
const RECORD_AFTER: Duration = Duration::from_millis(50);
/// Answered selections in one transaction after which recording rests, and for how many times as long
/// as that took: a flood of predictions must leave learning, and the predictions, their time.
const RECORDED_AT_ONCE: usize = 1_024;
const RECORDING_RESTS: u32 = 4;

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
        Self { content, payload, identity, source, position: None, replay_of: None, tenant: None }
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

/// What other threads see of the learner.
pub struct Shared {
    model: RwLock<Arc<AgentPerformanceModel>>,
    counters: RwLock<Arc<Counters>>,
    trouble: Mutex<Option<String>>,
    stall: Mutex<Option<String>>,
    /// When the learner must have ended, once that is known.
    stop_by: Arc<OnceLock<Instant>>,
    active_version: Mutex<Option<String>>,
    heartbeats: AtomicU64,
    watch: Mutex<Watch>,
    budgets: RwLock<Arc<BTreeMap<String, Budget>>>,
    /// The last answered selections.
    pub decisions: Decisions,
    /// What is measured where it happens.
    pub instruments: Instruments,
}

impl Shared {
    fn new(
        model: AgentPerformanceModel,
        counters: Counters,
        decisions: Decisions,
        watch: Watch,
        budgets: BTreeMap<String, Budget>,
    ) -> Self {
        Self {
            model: RwLock::new(Arc::new(model)),
            counters: RwLock::new(Arc::new(counters)),
            trouble: Mutex::new(None),
            stall: Mutex::new(None),
            stop_by: Arc::default(),
            active_version: Mutex::new(None),
            heartbeats: AtomicU64::new(0),
            decisions,
            watch: Mutex::new(watch),
            budgets: RwLock::new(Arc::new(budgets)),
            instruments: Instruments::default(),
        }
    }

    /// The newest snapshot. The lock is held to clone an `Arc`.
    pub fn model(&self) -> Arc<AgentPerformanceModel> {
        self.model.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest counters.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spending caps, by tenant.
    pub fn budgets(&self) -> Arc<BTreeMap<String, Budget>> {
        self.budgets.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why learning can't go on at the moment, if so.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The backlog that makes no progress, if there is one, in words.
    pub fn stall(&self) -> Option<String> {
        self.stall.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes a backlog that makes no progress or its end; logs only the change.
    pub(crate) fn note_stall(&self, stall: Option<String>) {
        let mut current = self.stall.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*current, &stall) {
            (None, Some(stall)) => log::error!("backlog=stalled reason=\"{stall}\""),
            (Some(_), None) => log::info!("backlog=moving"),
            _ => {}
        }
        *current = stall;
    }

    /// Says when the learner must have ended. What waits for the database gives up then.
    pub(crate) fn stop_by(&self, by: Instant) {
        // The first one holds.
        let _ = self.stop_by.set(by);
    }

    /// When the learner must have ended, once that is known.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.stop_by.get().copied()
    }

    /// The id of the active version of agent selection.
    pub fn active_version(&self) -> Option<String> {
        self.active_version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A number that grows while the learner's thread makes progress.
    pub fn heartbeats(&self) -> u64 {
        self.heartbeats.load(Ordering::Relaxed)
    }

    /// Looks at what is watched; the learner waits meanwhile.
    pub fn with_watch<T>(&self, look: impl FnOnce(&Watch) -> T) -> T {
        look(&self.watch.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Called by the learner's thread in every round.
    pub fn beat(&self) {
        self.heartbeats.fetch_add(1, Ordering::Relaxed);
    }

    fn publish(&self, model: &AgentPerformanceModel) {
        let model = Arc::new(model.clone());
        let old = {
            let mut current = self.model.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, model)
        };
        // The old snapshot may be freed here, with the lock released.
        drop(old);
    }

    fn publish_counters(&self, counters: &Counters) {
        *self.counters.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(counters.clone());
    }

    /// Notes trouble or its end; logs only the change.
    fn note(&self, trouble: Option<&Error>) {
        let mut current = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*current, trouble) {
            (None, Some(error)) => log::error!("learning=stalled error=\"{error}\""),
            (Some(_), None) => log::info!("learning=resumed"),
            _ => {}
        }
        *current = trouble.map(ToString::to_string);
    }
}

/// The model as a learner of this store would restore it: with everything that is recorded as
/// learned.
///
/// # Errors
/// As [`Learner::open`].
pub fn restored(store: &Store, settings: Settings) -> Result<AgentPerformanceModel> {
    recovery::recover(store, &store.counters()?, settings).map(|recovered| recovered.model)
}

/// How the learner works.
#[derive(Debug, Clone, Copy)]
pub struct LearnerOptions {
    /// What the operator decided about the model.
    pub settings: Settings,
    /// Outcomes in a full micro-batch, at least 1.
    pub batch_outcomes: usize,
    /// How long a micro-batch waits for more after its first outcome.
    pub batch_timeout: Duration,
    /// Time between automatic saves; none when `None`.
    pub save_interval: Option<Duration>,
    /// Outcomes learned after which a checkpoint is written.
    pub checkpoint_outcomes: u64,
    /// Learning time after which a checkpoint is written.
    pub checkpoint_learning_time: Duration,
    /// Answered selections that may wait to be recorded; further ones are not.
    pub decisions_waiting_max: usize,
    /// Threshold of the test for a change of an agent's mean reward; no test when `None`.
    pub drift_threshold: Option<f64>,
    /// After how long a decision without an outcome is learned as a failure; never when `None`.
    pub missing_after: Option<Duration>,
    /// How much memory there is; as much as it takes when `None`.
    pub memory: Option<MemoryLimit>,
    /// How long the newest outcome of an execution waits for the final one before it is learned.
    pub final_after: Duration,
    /// How long a verdict and its execution wait for each other.
    pub feedback_wait: Duration,
    /// An execution without a verdict is learned as it came; else it is not.
    pub learn_unjudged: bool,
    /// What is kept of the payload of a dead letter.
    pub dead_letter_payload: PayloadKept,
}

impl Default for LearnerOptions {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            batch_outcomes: 10,
            batch_timeout: Duration::from_secs(30),
            save_interval: Some(Duration::from_mins(5)),
            checkpoint_outcomes: 100_000,
            checkpoint_learning_time: Duration::from_millis(500),
            decisions_waiting_max: 16_384,
            drift_threshold: Some(25.0),
            missing_after: None,
            memory: None,
            final_after: Duration::from_mins(10),
            feedback_wait: Duration::from_hours(1),
            learn_unjudged: true,
            dead_letter_payload: PayloadKept::Full,
        }
    }
}

/// A group of records, sorted for the append.
#[derive(Default)]
struct Sorted {
    outcomes: Vec<Outcome>,
    /// Those of the outcomes, each with its content.
    identities: HashMap<IdentityKey, ContentKey>,
    /// Tenants that the outcomes bring.
    tenants: BTreeSet<String>,
    dead_letters: Vec<NewDeadLetter>,
    replayed: Vec<String>,
    positions: Vec<Position>,
    replies: Vec<(Sender<Result<AppendReply>>, AppendReply)>,
    /// Outcomes that teach nothing, because their decision was given up.
    late: Vec<Late>,
    /// Outcomes that teach nothing yet, because a verdict is still to come, as they came.
    unjudged: Vec<Outcome>,
    /// Outcomes that teach nothing, because the final one is still to come.
    provisional: Vec<Provisional>,
}

/// What was asked in recorded decisions, by tenant and id; `None` where there is none.
type Forgotten = HashMap<(String, String), Option<Asked>>;

/// What the database has of the decisions that a group names.
struct Known {
    forgotten: Forgotten,
    given_up: missing::GivenUp,
    /// Outcomes whose execution was reported otherwise.
    same: Vec<IdentityKey>,
}

/// Owns the model and the writing end of the store.
pub struct Learner {
    options: LearnerOptions,
    store: Store,
    model: AgentPerformanceModel,
    shared: Arc<Shared>,
    /// Requests staged for the next append.
    group: Vec<AppendRequest>,
    group_records: usize,
    /// Durable, not yet learned: the open micro-batch and, under load, full ones.
    pending: VecDeque<Outcome>,
    /// When the first of them came.
    pending_since: Option<Instant>,
    /// When the answered selections that wait are recorded at the latest.
    decisions_due: Option<Instant>,
    /// Until when recording them rests.
    decisions_rest: Instant,
    /// When decisions without an outcome are looked for; never when `None`.
    missing_due: Option<Instant>,
    /// When executions without a final outcome are looked for, if any wait for it.
    attempts_due: Instant,
    /// When verdicts that wait are looked at, if any do.
    verdicts_due: Instant,
    /// Senders who wait until all is learned.
    flushes: Vec<Sender<()>>,
    /// Tenants of the model and of what is pending.
    tenants: BTreeSet<String>,
    saving: Saving,
    /// After a failure: not before this.
    retry_at: Option<Instant>,
    /// As last committed, with what no transaction has taken along yet.
    counters: Counters,
    /// Up to when running time is counted.
    counted_until: Instant,
    /// Metrics of the model as it stands, for the next learning event.
    metrics: Arc<str>,
}

impl Learner {
    /// Restores the model from the store: the newest restart point, and the journal after it.
    /// `saver` takes the files to write.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the stored data can't be trusted.
    pub fn open(
        mut store: Store,
        options: LearnerOptions,
        saver: Sender<SaveJob>,
        now: Now,
    ) -> Result<Self> {
        let counters = store.counters()?;
        let recovered = recovery::recover(&store, &counters, options.settings)?;
        let waiting_max = match store.options().decisions_max {
            0 => 0,
            _ => options.decisions_waiting_max,
        };
        let decisions = Decisions::new(waiting_max, counters.decisions_unrecorded);
        decisions.restore(store.decisions()?);
        let watch = Watch::new(&recovered.model, options.drift_threshold);
        let shared = Arc::new(Shared::new(
            recovered.model.clone(),
            counters.clone(),
            decisions,
            watch,
            store.budgets()?,
        ));
        store.give_up_by(shared.stop_by.clone());
        let tenants = recovered.model.tenants().map(|(name, _)| name.to_owned());
        let pending_tenants = recovered.pending.iter().map(|outcome| outcome.tenant.clone());
        let saving = Saving::open(&store, saver, recovered.restart_sequence, now)?;
        saving.show(&shared);
        let mut learner = Self {
            tenants: tenants.chain(pending_tenants).collect(),
            metrics: metrics_json(&recovered.model),
            pending_since: (!recovered.pending.is_empty()).then_some(now.instant),
            pending: recovered.pending,
            model: recovered.model,
            group: Vec::new(),
            group_records: 0,
            decisions_due: None,
            decisions_rest: now.instant,
            missing_due: None,
            attempts_due: now.instant,
            verdicts_due: now.instant,
            flushes: Vec::new(),
            retry_at: None,
            counted_until: now.instant,
            counters,
            saving,
            shared,
            options,
            store,
        };
        learner.was_out_of_reach(now);
        Ok(learner)
    }

    /// What other threads see.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Something was accepted before.
    pub fn has_journal(&self) -> bool {
        self.counters.last_sequence > 0
    }

    /// The model as learned and recorded.
    pub fn model(&self) -> &AgentPerformanceModel {
        &self.model
    }

    /// Takes one event in. Records are only staged: [`Learner::settle`] makes them durable.
    ///
    /// # Errors
    /// [`Error::Fatal`] or [`Error::Corrupt`] when the process must end.
    pub fn on_event(&mut self, event: Event, now: Now) -> Result<()> {
        match event {
            Event::Append(request) => {
                self.group_records += request.records.len().max(1);
                self.group.push(request);
            }
            Event::Admit(request) => self.admit_outcomes(&request, now)?,
            Event::Feedback(request) => self.take_feedback(&request, now)?,
            // The next transaction takes it along: after a crash some are sent again.
            Event::DeadLettersSent(number) => self.counters.dead_letters_sent = number,
            Event::Decisions => {
                self.record_soon(now);
            }
            Event::Alerts { alerts, channels, reply } => {
                let written = self.store.write_alerts(&alerts, &channels);
                if let Err(fatal @ (Error::Fatal(_) | Error::Corrupt(_))) = &written {
                    return Err(fatal.clone());
                }
                // Whoever asked may have gone.
                let _ = reply.send(written);
            }
            Event::AlertSent { alert, channel } => match self.store.alert_sent(&alert, channel) {
                Err(fatal @ (Error::Fatal(_) | Error::Corrupt(_))) => return Err(fatal),
                // It may be sent once more after a restart.
                Err(error) => log::debug!("alert={} sent=unrecorded error=\"{error}\"", alert.id),
                Ok(()) => {}
            },
            Event::SetBudget { tenant, budget, reply } => {
                let set = self.set_budget(tenant, budget);
                if let Err(fatal @ (Error::Fatal(_) | Error::Corrupt(_))) = &set {
                    return Err(fatal.clone());
                }
                // Whoever asked may have gone.
                let _ = reply.send(set);
            }
            Event::RemoveAgent { tenant, agent, reply } => {
                let removed = self.remove_agent(tenant, agent, now);
                if let Err(fatal @ (Error::Fatal(_) | Error::Corrupt(_))) = &removed {
                    return Err(fatal.clone());
                }
                // Whoever asked may have gone.
                let _ = reply.send(removed);
            }
            Event::Sample(sample) => match self.store.write_sample(&sample) {
                Err(fatal @ (Error::Fatal(_) | Error::Corrupt(_))) => return Err(fatal),
                // A plot has a point less.
                Err(error) => log::debug!("sample=lost error=\"{error}\""),
                Ok(()) => {}
            },
            // Everything else is about what was sent before it.
            Event::Flush(reply) => {
                self.flushes.push(reply);
                self.decisions_due = Some(now.instant);
                self.settle(now)?;
            }
            // One after the other: the newest version is the active one.
            event @ (Event::Save(_) | Event::Activate { .. } | Event::ImportModel { .. })
                if self.saving.is_busy() =>
            {
                self.saving.defer(event);
            }
            Event::Save(reply) => {
                self.close_batch(now)?;
                if let Err(error) = self.all_is_learned() {
                    // Whoever asked may have gone.
                    let _ = reply.send(Err(error));
                    return Ok(());
                }
                self.save(Some(reply), now)?;
            }
            Event::Activate { version_id, reply } => {
                self.close_batch(now)?;
                let activated = self.activate(&version_id, now);
                if let Err(fatal @ Error::Fatal(_)) = &activated {
                    return Err(fatal.clone());
                }
                // Whoever asked may have gone.
                let _ = reply.send(activated);
            }
            Event::ImportModel { model, reply } => {
                self.close_batch(now)?;
                let imported = self.import_model(*model, now);
                if let Err(fatal @ Error::Fatal(_)) = &imported {
                    return Err(fatal.clone());
                }
                // Whoever asked may have gone.
                let _ = reply.send(imported);
            }
            Event::Imported { accepted, duration, reply } => {
                self.close_batch(now)?;
                self.record_import(accepted, duration, now)?;
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    /// The group is as large as it should get.
    pub fn is_group_full(&self) -> bool {
        self.group_records >= GROUP_OUTCOMES_MAX
    }

    /// Makes the staged records durable, acknowledges them, learns what is full or due.
    ///
    /// # Errors
    /// [`Error::Fatal`] or [`Error::Corrupt`] when the process must end.
    pub fn settle(&mut self, now: Now) -> Result<()> {
        if self.shared.decisions.waiting() > 0 {
            // Also when there was no place in the queue to say so.
            self.record_soon(now);
        }
        self.append_group(now)?;
        if self.retry_at.is_some_and(|at| now.instant < at) {
            return Ok(());
        }
        let due =
            self.pending_since.is_some_and(|at| now.instant >= at + self.options.batch_timeout);
        self.learn(due || !self.flushes.is_empty(), now)?;
        self.give_up_when_due(now)?;
        self.settle_attempts_when_due(now)?;
        self.judge_when_due(now)?;
        self.save_when_due(now)
    }

    /// Does what is due by now, when nothing came in.
    ///
    /// # Errors
    /// As [`Learner::settle`].
    pub fn on_deadline(&mut self, now: Now) -> Result<()> {
        self.settle(now)?;
        if let Err(error) = self.store.check_place() {
            self.shared.note(Some(&error));
        }
        self.look_for_the_end_of_trouble(now)
    }

    /// After a refused append there may be nothing to try again, and senders who see the trouble
    /// may stay away: a small write shows whether it has passed.
    fn look_for_the_end_of_trouble(&mut self, now: Now) -> Result<()> {
        let lacks_memory = self.shared.trouble().is_some() && self.lacks_memory().is_some();
        if self.retry_at.is_some() || self.shared.trouble().is_none() || lacks_memory {
            return Ok(());
        }
        let counters = self.current_counters(now);
        match self.store.learned(&[], &counters) {
            Ok(()) => {
                self.counters = counters;
                self.shared.note(None);
                Ok(())
            }
            Err(Error::Unavailable(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// When [`Learner::on_deadline`] has to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        // A full batch waits only for a retry, and so does one that somebody wants closed.
        let wanted = self.pending.len() >= self.options.batch_outcomes || !self.flushes.is_empty();
        let wait = if wanted { Duration::ZERO } else { self.options.batch_timeout };
        let batch = self.pending_since.map(|at| at + wait);
        let attempts = (self.store.attempts() > 0).then_some(self.attempts_due);
        let waits = self.store.awaited() > 0 || self.store.unjudged() > 0;
        let verdicts = waits.then_some(self.verdicts_due);
        let due = [batch, self.saving.due(&self.options), self.missing_due, attempts, verdicts];
        let due = due.into_iter().flatten().min();
        // Nothing is done before the retry, so nothing is due before it.
        let due = due.map(|due| self.retry_at.map_or(due, |retry| due.max(retry)));
        [due, self.decisions_due].into_iter().flatten().min()
    }

    /// Learns everything that was accepted and saves a version, before an orderly end. The file
    /// is on its way when this returns: hand each [`Saved`] to [`Learner::on_saved`] until
    /// [`Learner::is_saving`] is false.
    ///
    /// # Errors
    /// As [`Learner::settle`].
    pub fn finish(&mut self, now: Now) -> Result<()> {
        self.decisions_due = Some(now.instant);
        self.settle(now)?;
        self.close_batch(now)?;
        if !self.saving.has_unsaved(&self.model) {
            return Ok(());
        }
        if self.saving.is_busy() {
            // One file at a time: this one follows in [`Learner::on_saved`], and nobody waits.
            let (nobody, _) = crossbeam_channel::bounded(1);
            self.saving.defer(Event::Save(nobody));
            return Ok(());
        }
        self.save(None, now)
    }

    /// A file is still being written.
    pub fn is_saving(&self) -> bool {
        self.saving.is_busy()
    }

    /// The last thing: gives the store back in good order.
    ///
    /// # Errors
    /// [`Error::Unavailable`] naming what could not be saved.
    pub fn close(mut self, now: Now) -> Result<()> {
        let mut unsaved = Vec::new();
        if !self.pending.is_empty() {
            let count = self.pending.len();
            unsaved.push(format!("what {count} outcomes teach (the journal has them)"));
        }
        if self.saving.has_unsaved(&self.model) {
            unsaved.push("a version of the model (the journal has what it lacks)".to_owned());
        }
        // The counters, and what was answered while the last version was saved.
        let mut counters = self.current_counters(now);
        let decisions = self.shared.decisions.take_waiting();
        count_decisions(&decisions, &mut counters);
        let append = Append { decisions: &decisions, ..Append::default() };
        let appended = self.store.append(&append, &mut counters, now.unix_ms);
        if let Err(error) = &appended {
            let count = decisions.len();
            unsaved.push(match count {
                0 => format!("the counters ({error})"),
                _ => format!("the counters and {count} decisions ({error})"),
            });
        }
        self.store.close();
        if unsaved.is_empty() {
            return Ok(());
        }
        Err(Error::Unavailable(format!("not saved at the stop: {}", unsaved.join(", "))))
    }

    fn set_budget(&mut self, tenant: String, budget: Option<Budget>) -> Result<()> {
        let mut budgets = (*self.shared.budgets()).clone();
        let tenants_max = self.options.settings.caps.tenants;
        if budget.is_some() && !budgets.contains_key(&tenant) && budgets.len() >= tenants_max {
            return Err(Error::Conflict(format!(
                "{tenants_max} tenants have a budget already, which is the limit"
            )));
        }
        self.store.set_budget(&tenant, budget)?;
        match budget {
            Some(budget) => budgets.insert(tenant, budget),
            None => budgets.remove(&tenant),
        };
        *self.shared.budgets.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(budgets);
        Ok(())
    }

    /// Has the answered selections recorded that wait.
    fn record_soon(&mut self, now: Now) {
        let due = (now.instant + RECORD_AFTER).max(self.decisions_rest);
        self.decisions_due.get_or_insert(due);
    }

    fn append_group(&mut self, now: Now) -> Result<()> {
        let mut group = std::mem::take(&mut self.group);
        if self.shared.decisions.waiting() == 0 {
            self.decisions_due = None;
        }
        let record = self.decisions_due.is_some_and(|due| now.instant >= due);
        if group.is_empty() && !record {
            return Ok(());
        }
        self.group_records = 0;
        if !group.is_empty() && self.pending.len() > PENDING_OUTCOMES_MAX && self.retry_at.is_some()
        {
            let error = Error::Unavailable("learning is stalled: try again later".to_owned());
            for request in group {
                let _ = request.reply.send(Err(error.clone()));
            }
            return Ok(());
        }
        if !group.is_empty() {
            self.heed_memory(now)?;
            if let Some(error) = self.lacks_memory() {
                return self.refuse(group, error);
            }
        }
        let (known, taken) = match self.look_up(&mut group, now) {
            Ok(known) => known,
            Err(error) => return self.refuse(group, error),
        };
        let mut counters = self.current_counters(now);
        let mut sorted = self.sort(group, &known, &mut counters, now);
        // An outcome in the group may be of any decision answered until now.
        let mut decisions = Vec::new();
        if record || now.instant >= self.decisions_rest {
            decisions = self.shared.decisions.take_waiting();
            self.decisions_due = None;
        }
        count_decisions(&decisions, &mut counters);
        counters.last_sequence += sorted.outcomes.len() as u64;
        counters.last_dead_letter += sorted.dead_letters.len() as u64;
        if !sorted.outcomes.is_empty() {
            counters.last_event_ms = now.unix_ms;
        }
        let append = Append {
            outcomes: &sorted.outcomes,
            dead_letters: &sorted.dead_letters,
            replayed: &sorted.replayed,
            positions: &sorted.positions,
            decisions: &decisions,
            late: &sorted.late,
            provisional: &sorted.provisional,
            unjudged: &sorted.unjudged,
            taken: &taken,
        };
        let began = Instant::now();
        let appended = self.store.append(&append, &mut counters, now.unix_ms);
        if decisions.len() >= RECORDED_AT_ONCE {
            let took = began.elapsed();
            self.decisions_rest = now.instant + took + took * RECORDING_RESTS;
        }
        match &appended {
            Ok(()) => {
                self.shared.note(None);
                self.shared.decisions.written(&decisions);
                self.shared.publish_counters(&counters);
                self.counters = counters;
                self.tenants.append(&mut sorted.tenants);
                if !sorted.outcomes.is_empty() {
                    self.note_awaited(&sorted.outcomes, now);
                    self.pending_since.get_or_insert(now.instant);
                    self.pending.extend(sorted.outcomes);
                }
            }
            Err(error) => {
                self.shared.note(Some(error));
                if !decisions.is_empty() {
                    self.shared.decisions.give_back(decisions);
                    self.decisions_due = Some(now.instant + RETRY_AFTER);
                }
            }
        }
        for (sender, reply) in sorted.replies {
            // Whoever asked may have gone: what is durable stays so.
            let _ = sender.send(appended.clone().map(|()| reply));
        }
        match appended {
            Err(error @ (Error::Fatal(_) | Error::Corrupt(_))) => Err(error),
            _ => Ok(()),
        }
    }

    /// Answers a group that could not be looked at.
    fn refuse(&self, group: Vec<AppendRequest>, error: Error) -> Result<()> {
        self.shared.note(Some(&error));
        for request in group {
            // Whoever asked may have gone.
            let _ = request.reply.send(Err(error.clone()));
        }
        match error {
            Error::Fatal(_) | Error::Corrupt(_) => Err(error),
            _ => Ok(()),
        }
    }

    /// What is to be known of the decisions of a group before it is sorted, and telemetry that takes one
    /// without being its outcome.
    fn look_up(&mut self, group: &mut [AppendRequest], now: Now) -> Result<(Known, Vec<Taken>)> {
        let (same, taken) = self.place_spans(group, now)?;
        let forgotten = self.forgotten_decisions(group)?;
        let given_up = self.given_up(group)?;
        Ok((Known { forgotten, given_up, same }, taken))
    }

    /// What was asked in decisions that new outcomes of the group name, and that are recorded but no
    /// longer remembered; by tenant and id.
    fn forgotten_decisions(&self, group: &[AppendRequest]) -> Result<Forgotten> {
        let mut forgotten = Forgotten::new();
        let records = group.iter().flat_map(|request| &request.records);
        // Those of the topic are learned with what they carry.
        for record in records.filter(|record| record.source != TOPIC) {
            let Ok(outcome) = &record.content else { continue };
            if !self.shared.decisions.may_be_recorded(outcome)
                || self.store.is_known(outcome.identity)
            {
                continue;
            }
            let Some(decision) = &outcome.decision else { continue };
            let key = (outcome.tenant.clone(), decision.id().to_owned());
            if let hash_map::Entry::Vacant(place) = forgotten.entry(key) {
                let asked = self.store.asked(&outcome.tenant, decision.id())?;
                place.insert(asked);
            }
        }
        Ok(forgotten)
    }

    /// Sorts the records of a group into new ones, known ones and refused ones, and counts them.
    fn sort(
        &self,
        group: Vec<AppendRequest>,
        known: &Known,
        counters: &mut Counters,
        now: Now,
    ) -> Sorted {
        let created_at = format_time(now.unix_ms);
        let mut sorted = Sorted::default();
        let mut sources = Vec::new();
        for request in group {
            let mut reply = AppendReply::default();
            sorted.positions.extend(request.positions);
            sorted.replayed.extend(request.replayed);
            count_left_out(request.left_out, counters, &mut sources, &mut reply);
            for (index, record) in request.records.into_iter().enumerate() {
                let Record { content, payload, identity, source, position, replay_of, tenant } =
                    record;
                let counted = counters_of(&mut sources, source);
                let admitted = match content {
                    Ok(outcome) => match self.admit(&outcome.tenant, &sorted.tenants) {
                        Ok(()) => Ok(outcome),
                        Err(refusal) => Err((refusal, tenant)),
                    },
                    Err(refusal) => Err((refusal, tenant)),
                };
                match admitted {
                    Err((refusal, tenant)) => {
                        Counters::count(&mut counters.rejected, refusal.code.as_str());
                        Counters::count(&mut counted.rejected, refusal.code.as_str());
                        reply.rejected_total += 1;
                        if reply.rejected.len() < REJECTED_NAMED_MAX {
                            reply.rejected.push((index, refusal.clone()));
                        }
                        // One that is fed back stays where it was.
                        if replay_of.is_some() {
                            continue;
                        }
                        if !request.room.take() {
                            reply.unkept += 1;
                            continue;
                        }
                        let bytes = payload.bytes();
                        sorted.dead_letters.push(NewDeadLetter {
                            source,
                            position,
                            identity,
                            payload: self.options.dead_letter_payload.of(bytes, PAYLOAD_BYTES_MAX),
                            created_at: created_at.clone(),
                            owner: self.owner(source, &refusal, tenant, bytes),
                            refusal,
                        });
                    }
                    Ok(mut outcome) => {
                        sorted.replayed.extend(replay_of);
                        let first = self.first_of(&outcome, known, &mut sorted.identities);
                        if let Some(first) = first {
                            let conflicting = u64::from(is_conflict(first, outcome.content));
                            reply.duplicates += 1;
                            counters.duplicates += 1;
                            counted.duplicates += 1;
                            reply.conflicting += conflicting;
                            counters.conflicting += conflicting;
                            counted.conflicting += conflicting;
                            continue;
                        }
                        reply.accepted += 1;
                        counters.accepted += 1;
                        for field in &outcome.dropped {
                            Counters::count(&mut counters.dropped_fields, field);
                            *reply.dropped.entry(*field).or_default() += 1;
                        }
                        count_spending(&outcome, counters, now);
                        if !self.tenants.contains(&outcome.tenant) {
                            sorted.tenants.insert(outcome.tenant.clone());
                        }
                        if source == TOPIC {
                            // Every replica must learn the same: whoever produced the record has
                            // resolved what could be resolved.
                            outcome.forget_correlation();
                        } else {
                            let named =
                                outcome.decision.as_ref().map(|named| named.id().to_owned());
                            let key = named.map(|id| (outcome.tenant.clone(), id));
                            let recorded = key.and_then(|key| known.forgotten.get(&key));
                            let recorded = recorded.and_then(Option::as_ref);
                            self.shared.decisions.resolve(&mut outcome, recorded);
                        }
                        counted.accept(&outcome, now.unix_ms);
                        if !outcome.resolved && outcome.decision.is_some() {
                            counters.decisions_unresolved += 1;
                        }
                        if known.is_late(&outcome) {
                            counters.decisions_late += 1;
                            sorted.keep_late(&mut outcome);
                        } else {
                            self.hold_unjudged(&mut outcome, &mut sorted, counters);
                            self.hold_provisional(&mut outcome, &mut sorted, counters);
                        }
                        sorted.outcomes.push(outcome);
                    }
                }
            }
            counters.dead_letters_unkept += reply.unkept;
            sorted.replies.push((request.reply, reply));
        }
        for (source, counted) in sources {
            counters.source(source).add(&counted);
        }
        sorted
    }

    /// Whose share of the dead letters a refused record takes. `tenant` is whom its sender may speak for.
    fn owner(
        &self,
        source: &'static str,
        refusal: &Refusal,
        tenant: Option<String>,
        record: &[u8],
    ) -> Owner {
        match tenant {
            Some(tenant) => Owner::Tenant(tenant),
            None => match named_tenant(record) {
                Some(tenant) if self.tenants.contains(&tenant) => Owner::Tenant(tenant),
                Some(tenant) => Owner::Named(tenant, source),
                None if refusal.code.is_of_an_event() => Owner::Tenant(DEFAULT_TENANT.to_owned()),
                None => Owner::Unknown(source),
            },
        }
    }

    /// Refuses an outcome of a tenant past the cap; `new` are those first seen in this group.
    fn admit(&self, tenant: &str, new: &BTreeSet<String>) -> std::result::Result<(), Refusal> {
        let tenants_max = self.model.tenants_max();
        if self.tenants.contains(tenant)
            || new.contains(tenant)
            || self.tenants.len() + new.len() < tenants_max
        {
            return Ok(());
        }
        Err(Refusal::new(
            RefusalCode::TenantLimit,
            format!(
                "tenant_id {tenant:?} is new, and there are {tenants_max} tenants already, which \
                 is the limit"
            ),
        ))
    }

    /// The content of the first outcome of the same execution, if this is not it.
    fn first_of(
        &self,
        outcome: &Outcome,
        known: &Known,
        earlier: &mut HashMap<IdentityKey, ContentKey>,
    ) -> Option<ContentKey> {
        if known.same.contains(&outcome.identity) {
            // Telemetry and clients may differ in what they call a success.
            return Some(outcome.content);
        }
        self.first_content((outcome.identity, outcome.content), earlier)
    }

    /// The content of the first outcome with this identity; a new one becomes one of the `earlier`.
    fn first_content(
        &self,
        (identity, content): (IdentityKey, ContentKey),
        earlier: &mut HashMap<IdentityKey, ContentKey>,
    ) -> Option<ContentKey> {
        self.store.known_content(identity).or_else(|| match earlier.entry(identity) {
            hash_map::Entry::Occupied(first) => Some(*first.get()),
            hash_map::Entry::Vacant(place) => {
                place.insert(content);
                None
            }
        })
    }

    /// Learns the micro-batches that are full, and with `all` the open one too.
    fn learn(&mut self, all: bool, now: Now) -> Result<()> {
        let full = self.options.batch_outcomes;
        while self.pending.len() >= full || (all && !self.pending.is_empty()) {
            let started = Instant::now();
            let mut model = self.model.clone();
            let mut counters = self.current_counters(now);
            let mut metrics = self.metrics.clone();
            let mut events = Vec::new();
            let mut forecasts = Vec::new();
            let mut taken = 0;
            let created_at = format_time(now.unix_ms);
            let active = self.saving.active_version();
            while taken < LEARN_OUTCOMES_MAX {
                let size = full.min(self.pending.len() - taken);
                if size == 0 || (size < full && !all) {
                    break;
                }
                let batch_started = Instant::now();
                let score_before = model.score().current();
                let learned_before = model.total().learned;
                for outcome in self.pending.range(taken..taken + size) {
                    if let (Some(expected), Some(reward)) =
                        (model.foretell(outcome), outcome.reward())
                    {
                        counters.foresight.add(expected, reward);
                        forecasts.push(Forecast { expected, reward });
                    }
                }
                taken += size;
                let metrics_after = metrics_json(&model);
                counters.last_learning_event += 1;
                events.push(LearningEvent {
                    id: LearningEvent::id_of(counters.last_learning_event),
                    model_version_id: active.clone(),
                    event_type: "micro_batch".to_owned(),
                    batch_size: size as u64,
                    samples_processed: model.total().learned - learned_before,
                    metrics_before: std::mem::replace(&mut metrics, metrics_after.clone()),
                    metrics_after,
                    improvement: model.score().current() - score_before,
                    duration_ms: batch_started.elapsed().as_secs_f64() * 1_000.0,
                    created_at: created_at.clone(),
                });
            }
            let learning_time = started.elapsed();
            counters.learned_sequence += taken as u64;
            counters.successful_updates += events.len() as u64;
            counters.samples_processed += model.total().learned - self.model.total().learned;
            counters.last_update_ms = now.unix_ms;
            match self.store.learned(&events, &counters) {
                Ok(()) => {
                    self.model = model;
                    self.metrics = metrics;
                    self.measure(&events, started, now);
                    self.watch_learned(taken, forecasts);
                    self.pending.drain(..taken);
                    self.pending_since = (!self.pending.is_empty()).then_some(now.instant);
                    self.retry_at = None;
                    self.saving.count_learning(taken as u64, learning_time);
                    // The time is known only now: the next transaction takes it along.
                    counters.update_time_us += micros(started.elapsed());
                    self.counters = counters;
                    self.shared.note(None);
                    self.shared.publish(&self.model);
                    self.shared.publish_counters(&self.counters);
                }
                Err(Error::Unavailable(text)) => {
                    self.counters.failed_updates += events.len() as u64;
                    self.retry_at = Some(now.instant + RETRY_AFTER);
                    self.shared.note(Some(&Error::Unavailable(text)));
                    self.shared.publish_counters(&self.counters);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        if self.pending.is_empty() {
            for reply in self.flushes.drain(..) {
                // Whoever asked may have gone.
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    /// Micro-batches of one transaction share the time that it took beside the learning.
    #[expect(clippy::cast_precision_loss, reason = "at most 16,384 batches")]
    fn measure(&self, events: &[LearningEvent], started: Instant, now: Now) {
        let instruments = &self.shared.instruments;
        let learning: f64 = events.iter().map(|event| event.duration_ms / 1_000.0).sum();
        let rest = (started.elapsed().as_secs_f64() - learning).max(0.0) / events.len() as f64;
        for event in events {
            instruments.batch_seconds.observe(event.duration_ms / 1_000.0 + rest);
        }
        let oldest = self.pending_since.unwrap_or(now.instant);
        instruments.learning_delay_seconds.observe(oldest.elapsed().as_secs_f64());
    }

    fn watch_learned(&self, taken: usize, forecasts: Vec<Forecast>) {
        let mut watch = self.shared.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.learned(self.pending.range(..taken), forecasts);
        watch.keep(&self.model);
    }

    /// A version of less than what was accepted would lose the rest when it is activated.
    fn all_is_learned(&self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        Err(Error::Unavailable(
            "accepted outcomes can't be learned at the moment: try again later".to_owned(),
        ))
    }

    /// Settles and learns everything that was accepted, the open micro-batch included.
    fn close_batch(&mut self, now: Now) -> Result<()> {
        self.append_group(now)?;
        self.learn(true, now)
    }

    fn record_import(&mut self, accepted: u64, duration: Duration, now: Now) -> Result<()> {
        let mut counters = self.current_counters(now);
        counters.last_learning_event += 1;
        let event = LearningEvent {
            id: LearningEvent::id_of(counters.last_learning_event),
            model_version_id: self.saving.active_version(),
            event_type: "import".to_owned(),
            batch_size: accepted,
            samples_processed: 0,
            metrics_before: self.metrics.clone(),
            metrics_after: self.metrics.clone(),
            improvement: 0.0,
            duration_ms: duration.as_secs_f64() * 1_000.0,
            created_at: format_time(now.unix_ms),
        };
        match self.store.learned(&[event], &counters) {
            Err(Error::Unavailable(text)) => log::warn!("import event=unrecorded error=\"{text}\""),
            Err(error) => return Err(error),
            Ok(()) => self.counters = counters,
        }
        Ok(())
    }

    /// The counters, running time included, for the next transaction.
    fn current_counters(&mut self, now: Now) -> Counters {
        let run = now.instant.saturating_duration_since(self.counted_until);
        self.counters.running_ms += micros(run) / 1_000;
        self.counted_until += Duration::from_millis(micros(run) / 1_000);
        self.counters.decisions_unrecorded = self.shared.decisions.unrecorded();
        self.counters.clone()
    }
}

/// Counts refused records of which nothing but the number is kept.
fn count_left_out(
    left_out: LeftOut,
    counters: &mut Counters,
    sources: &mut Vec<(&'static str, SourceCounters)>,
    reply: &mut AppendReply,
) {
    for ((source, code), count) in left_out {
        Counters::add(&mut counters.rejected, code, count);
        Counters::add(&mut counters_of(sources, source).rejected, code, count);
        reply.rejected_total += count;
        reply.unkept += count;
    }
}

fn count_decisions(decisions: &[Waiting], counters: &mut Counters) {
    for waiting in decisions {
        counters.last_decision += 1;
        counters.decision_bytes += waiting.bytes() as u64;
        counters.decisions_explored += u64::from(waiting.choice.explored);
    }
}

/// What a group brought from `source`. A group has one or two sources.
fn counters_of<'a>(
    sources: &'a mut Vec<(&'static str, SourceCounters)>,
    source: &'static str,
) -> &'a mut SourceCounters {
    let known = sources.iter().position(|(name, _)| *name == source);
    let index = known.unwrap_or_else(|| {
        sources.push((source, SourceCounters::default()));
        sources.len() - 1
    });
    &mut sources[index].1
}

/// Counts what an outcome has cost, if its time tells of which period that is.
fn count_spending(outcome: &Outcome, counters: &mut Counters, now: Now) {
    if let Some(cost) = outcome.observed_cost().filter(|_| !outcome.undated) {
        let of = counters.spending.entry(outcome.tenant.clone()).or_default();
        of.add(cost, outcome.time_ms, now.unix_ms);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A model's metrics, as learning events and versions show them.
fn metrics_json(model: &AgentPerformanceModel) -> Arc<str> {
    let score: &Score = model.score();
    let total = model.total();
    format!(
        "{{\"model_score\":{:?},\"improvement_rate\":{:?},\"success_rate\":{:?},\"samples\":{}}}",
        score.current(),
        score.improvement_rate(),
        total.success_rate(),
        total.learned
    )
    .into()
}

#[cfg(test)]
mod tests;
