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

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use crate::error::{Error, Result};
use crate::model::{AgentPerformanceModel, Settings};
use crate::outcome::decisions::Decisions;
use crate::outcome::{Outcome, PayloadKept};
use crate::store::{Append, Counters, Position, Store};
use crate::watch::budget::Budget;
use crate::watch::process::MemoryLimit;
use crate::watch::{Forecast, Watch};

mod admission;
mod append;
mod attempts;
mod control;
mod event;
mod feedback;
mod inbox;
mod learn;
mod memory;
mod missing;
mod recovery;
mod saving;
mod shared;
mod spans;
mod topic;

pub use admission::{Admission, AdmitRequest, Admitted};
pub use event::{
    AppendReply, AppendRequest, Event, HTTP, LITELLM, MODEL_TYPES, Now, OTLP, Record, SOURCES,
    TOPIC,
};
pub use feedback::{AdmitVerdictsRequest, AdmittedVerdict, FeedbackRequest, Judged};
pub use inbox::{
    Inbox, LETTERS_KEPT_MAX, LeftOut, REJECTED_NAMED_MAX, Room, SUBMIT_RECORDS_MAX, Sieve,
};
pub use recovery::load as load_model;
pub use saving::{SaveJob, Saved, SavedVersion, Saver, parameters};
pub use shared::Shared;
pub use spans::Reported;
pub use topic::{FromTopic, Said, TopicRequest};

use append::count_decisions;
use learn::metrics_json;
use saving::Saving;

/// Outcomes after which a group is settled although more are waiting.
pub const GROUP_OUTCOMES_MAX: usize = 8_192;
/// Pause after a transaction failed.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Longest wait of an answered selection for others to share its transaction.
const RECORD_AFTER: Duration = Duration::from_millis(50);

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
    /// They come from a topic: what happens to them follows from what is read there, and from nothing else,
    /// and their waits are measured by the times of its records.
    pub by_topic: bool,
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
            by_topic: false,
            learn_unjudged: true,
            dead_letter_payload: PayloadKept::Full,
        }
    }
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
    verdicts: feedback::Looking,
    /// How far the topic was read with what failed in between.
    taken: Vec<Position>,
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
        store.give_up_by(shared.end_cell());
        if options.by_topic {
            store.find_by_named_decisions()?;
        }
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
            verdicts: feedback::Looking::new(now.instant),
            taken: Vec::new(),
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
            Event::AdmitVerdicts(request) => self.admit_verdicts(request, now)?,
            Event::Topic(request) => self.take_topic(request, now)?,
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
        let verdicts = waits.then_some(self.verdicts.due);
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
        self.shared.publish_budgets(budgets);
        Ok(())
    }

    /// Has the answered selections recorded that wait.
    fn record_soon(&mut self, now: Now) {
        let due = (now.instant + RECORD_AFTER).max(self.decisions_rest);
        self.decisions_due.get_or_insert(due);
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

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
