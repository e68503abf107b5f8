//! Versions and checkpoints: when they are due, the files that the saver writes, their rows.
//!
//! One file is written at a time, from a snapshot, on the saver's thread; the learner writes the
//! rows before (announced) and after (done). A save or activation that comes in between waits.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use super::learn::metrics_json;
use super::{Event, Learner, LearnerOptions, MODEL_TYPES, Now, Shared};
use crate::error::{Error, Result};
use crate::model::{AgentPerformanceModel, Settings};
use crate::outcome::format_time;
use crate::store::{
    Activation, Counters, FORMAT, LearningEvent, ModelVersion, RestartPoint, Store, VersionStatus,
    write_model,
};

/// Saves and activations that may wait for the one under way.
const DEFERRED_MAX: usize = 64;

/// A version that was just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedVersion {
    /// Its id for agent selection.
    pub version_id: String,
    /// Its number.
    pub version_number: u64,
    /// Outcomes learned in it.
    pub training_samples: u64,
}

/// A file to write.
pub struct SaveJob {
    directory: PathBuf,
    name: String,
    model: AgentPerformanceModel,
}

/// What became of a file: the digest of its state.
pub struct Saved(Result<String>);

/// The other end of the learner's jobs.
pub struct Saver;

impl Saver {
    /// Writes files until the learner lets go of its end.
    pub fn run(jobs: &Receiver<SaveJob>, saved: &Sender<Saved>) {
        for SaveJob { directory, name, model } in jobs {
            let written = write_model(&directory, &name, &model);
            // The snapshot is not needed while the learner looks at the answer.
            drop(model);
            if saved.send(Saved(written)).is_err() {
                return;
            }
        }
    }
}

enum InFlight {
    Version { rows: Vec<ModelVersion>, reply: Option<Sender<Result<SavedVersion>>>, began: Instant },
    Checkpoint { sequence: u64, name: String },
}

pub(super) struct Saving {
    jobs: Sender<SaveJob>,
    in_flight: Option<InFlight>,
    deferred: VecDeque<Event>,
    active: Option<ModelVersion>,
    /// The last automatic or asked-for save, or the start.
    last_save: Instant,
    /// The journal entry up to which the active version holds.
    saved_sequence: u64,
    learned_sequence: u64,
    /// Since the newest restart point.
    learned_outcomes: u64,
    learning_time: Duration,
}

impl Saving {
    pub(super) fn open(
        store: &Store,
        jobs: Sender<SaveJob>,
        restart_sequence: u64,
        now: Now,
    ) -> Result<Self> {
        let active = store.active_version(MODEL_TYPES[0])?;
        let learned_sequence = store.counters()?.learned_sequence;
        Ok(Self {
            jobs,
            in_flight: None,
            deferred: VecDeque::new(),
            last_save: now.instant,
            saved_sequence: active.as_ref().map_or(0, |version| version.learned_sequence),
            active,
            learned_sequence,
            learned_outcomes: learned_sequence.saturating_sub(restart_sequence),
            learning_time: Duration::ZERO,
        })
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    pub(super) fn active_version(&self) -> Option<String> {
        self.active.as_ref().map(|version| version.id.clone())
    }

    /// Lets other threads see which version is active.
    pub(super) fn show(&self, shared: &Shared) {
        shared.show_version(self.active_version());
    }

    pub(super) fn count_learning(&mut self, outcomes: u64, time: Duration) {
        self.learned_sequence += outcomes;
        self.learned_outcomes += outcomes;
        self.learning_time += time;
    }

    pub(super) fn has_unsaved(&self, model: &AgentPerformanceModel) -> bool {
        model.sequence() > self.saved_sequence
    }

    /// When an automatic save is due; `None` when there is nothing new to save.
    pub(super) fn due(&self, options: &LearnerOptions) -> Option<Instant> {
        let interval = options.save_interval?;
        let new = self.learned_sequence > self.saved_sequence && !self.is_busy();
        new.then(|| self.last_save + interval)
    }

    /// Keeps a save or activation until the one under way has ended.
    pub(super) fn defer(&mut self, event: Event) {
        if self.deferred.len() < DEFERRED_MAX {
            self.deferred.push_back(event);
            return;
        }
        let busy = Error::Unavailable("too many saves and activations are waiting".to_owned());
        if let Event::Save(reply)
        | Event::Activate { reply, .. }
        | Event::ImportModel { reply, .. } = event
        {
            // Whoever asked may have gone.
            let _ = reply.send(Err(busy));
        }
    }

    fn begin(&mut self, in_flight: InFlight, job: SaveJob) -> Result<()> {
        self.jobs
            .send(job)
            .map_err(|_| Error::Fatal("the thread that saves models has ended".to_owned()))?;
        self.in_flight = Some(in_flight);
        self.learned_outcomes = 0;
        self.learning_time = Duration::ZERO;
        Ok(())
    }
}

impl Learner {
    /// Takes note of a written file and goes on with what waited for it.
    ///
    /// # Errors
    /// As [`Learner::settle`].
    pub fn on_saved(&mut self, saved: Saved, now: Now) -> Result<()> {
        match self.saving.in_flight.take() {
            Some(InFlight::Version { rows, reply, began }) => {
                let is_written = saved.0.is_ok();
                let finished =
                    saved.0.and_then(|digest| self.finish_save(rows, &digest, began, now));
                if let Err(error) = &finished {
                    log::error!("save=failed error=\"{error}\"");
                    if let Error::Fatal(_) = error {
                        return finished.map(drop);
                    }
                    self.abandon_save(is_written)?;
                }
                if let Some(reply) = reply {
                    // Whoever asked may have gone.
                    let _ = reply.send(finished);
                }
            }
            Some(InFlight::Checkpoint { sequence, name }) => {
                let added = saved.0.and_then(|digest| {
                    let point =
                        RestartPoint { learned_sequence: sequence, model_file_path: name, digest };
                    self.store.add_checkpoint(&point, &format_time(now.unix_ms))
                });
                match added {
                    Ok(()) => log::info!("checkpoint=written sequence={sequence}"),
                    Err(Error::Fatal(text)) => return Err(Error::Fatal(text)),
                    Err(error) => log::warn!("checkpoint=failed error=\"{error}\""),
                }
            }
            None => {}
        }
        while !self.saving.is_busy()
            && let Some(event) = self.saving.deferred.pop_front()
        {
            self.on_event(event, now)?;
        }
        Ok(())
    }

    /// Begins to save a version of the model as it stands.
    pub(super) fn save(
        &mut self,
        reply: Option<Sender<Result<SavedVersion>>>,
        now: Now,
    ) -> Result<()> {
        let mut counters = self.current_counters(now);
        counters.last_version_number += 1;
        let number = counters.last_version_number;
        let name = format!("version-{number:06}.json");
        let parent = self.saving.active.as_ref().map(|version| version.version_number);
        let rows = self.version_rows(number, &name, parent, &self.model, now);
        self.saving.last_save = now.instant;
        if let Err(error) = self.store.begin_version(&rows, &counters) {
            self.counters.failed_saves += 1;
            log::error!("save=failed error=\"{error}\"");
            return match (error, reply) {
                (Error::Fatal(text), _) => Err(Error::Fatal(text)),
                (error, Some(reply)) => {
                    // Whoever asked may have gone.
                    let _ = reply.send(Err(error));
                    Ok(())
                }
                (_, None) => Ok(()),
            };
        }
        self.counters = counters;
        let directory = self.store.directory().to_owned();
        let job = SaveJob { directory, name, model: self.model.clone() };
        self.saving.begin(InFlight::Version { rows, reply, began: now.instant }, job)
    }

    /// Saves a version or writes a checkpoint, if it is time for either.
    pub(super) fn save_when_due(&mut self, now: Now) -> Result<()> {
        if self.saving.is_busy() {
            return Ok(());
        }
        if self.saving.due(&self.options).is_some_and(|due| now.instant >= due) {
            return self.save(None, now);
        }
        if self.saving.learned_outcomes >= self.options.checkpoint_outcomes
            || self.saving.learning_time >= self.options.checkpoint_learning_time
        {
            let counters = self.current_counters(now);
            match self.store.begin_file(&counters) {
                Ok(()) => self.counters = counters,
                Err(error @ (Error::Fatal(_) | Error::Corrupt(_))) => return Err(error),
                Err(error) => {
                    // After as much again.
                    self.saving.learned_outcomes = 0;
                    self.saving.learning_time = Duration::ZERO;
                    log::warn!("checkpoint=failed error=\"{error}\"");
                    return Ok(());
                }
            }
            let sequence = self.model.sequence();
            let name = format!("checkpoint-{sequence:012}.json");
            let directory = self.store.directory().to_owned();
            let job = SaveJob { directory, name: name.clone(), model: self.model.clone() };
            return self.saving.begin(InFlight::Checkpoint { sequence, name }, job);
        }
        Ok(())
    }

    /// Goes on from a saved version's state. The micro-batch before it must be closed.
    pub(super) fn activate(&mut self, version_id: &str, now: Now) -> Result<SavedVersion> {
        self.all_is_learned()?;
        let Some(asked) = self.store.version(version_id)? else {
            return Err(Error::NotFound(format!("there is no version {version_id:?}")));
        };
        let (status, digest) = match (asked.status, &asked.digest) {
            (VersionStatus::Active | VersionStatus::Deprecated, Some(digest)) => {
                (asked.status, digest.clone())
            }
            (status, _) => {
                let status = format!("{status:?}").to_lowercase();
                return Err(Error::Conflict(format!(
                    "version {version_id:?} is {status}: its file is not there"
                )));
            }
        };
        let counters = self.counters_of_activation(now);
        let model = super::recovery::load(
            &self.store,
            &asked.model_file_path,
            &digest,
            counters.last_sequence,
            self.options.settings,
        )
        .map_err(|error| {
            Error::Conflict(format!("version {version_id:?} is {status:?}: {error}"))
        })?;

        let parent = asked.version_number;
        let activation =
            Activation { version_id: asked.id, model_file_path: asked.model_file_path, digest };
        let made =
            self.go_on_from("activation", &activation, Some(parent), model, counters, now)?;
        log::info!("version={} activated=from version={version_id}", made.version_id);
        Ok(made)
    }

    /// Goes on from a model that comes from elsewhere: it becomes a version, which is activated at
    /// once. The micro-batch before it must be closed.
    pub(super) fn import_model(
        &mut self,
        model: AgentPerformanceModel,
        now: Now,
    ) -> Result<SavedVersion> {
        self.all_is_learned()?;
        let counters = self.counters_of_activation(now);
        let number = counters.last_version_number;
        let name = format!("version-{number:06}.json");
        // Announced, like a save: a crash leaves no file that nobody knows.
        self.counters.last_version_number = number;
        let rows = self.version_rows(number, &name, None, &model, now);
        let announced = self.current_counters(now);
        self.store.begin_version(&rows, &announced)?;
        // It has learned nothing of our journal.
        let written = write_model(self.store.directory(), &name, &model.at_sequence(0));
        let is_written = written.is_ok();
        let made = written.and_then(|digest| {
            let (settings, sequence) = (self.options.settings, counters.last_sequence);
            let model = super::recovery::load(&self.store, &name, &digest, sequence, settings)?;
            let activation = Activation {
                version_id: ModelVersion::id_of(MODEL_TYPES[0], number),
                model_file_path: name,
                digest,
            };
            self.go_on_from("import", &activation, None, model, counters, now)
        });
        match &made {
            Ok(made) => {
                let (version, samples) = (&made.version_id, made.training_samples);
                log::info!("version={version} imported=model samples={samples}");
            }
            Err(Error::Fatal(_)) => {}
            Err(_) => {
                let counters = self.current_counters(now);
                if let Err(error) = self.store.abandon_version(number, is_written, &counters) {
                    log::warn!("version={number} abandon=failed error=\"{error}\"");
                }
            }
        }
        made
    }

    /// The counters after an activation that happens now.
    fn counters_of_activation(&mut self, now: Now) -> Counters {
        let mut counters = self.current_counters(now);
        counters.last_sequence += 1;
        counters.learned_sequence = counters.last_sequence;
        counters.last_version_number += 1;
        counters.last_learning_event += 1;
        counters.last_save_ms = now.unix_ms;
        counters
    }

    /// Records an activation with the version that it makes, and goes on from its model.
    fn go_on_from(
        &mut self,
        event_type: &str,
        activation: &Activation,
        parent: Option<u64>,
        model: AgentPerformanceModel,
        counters: Counters,
        now: Now,
    ) -> Result<SavedVersion> {
        let number = counters.last_version_number;
        let mut rows = self.version_rows(number, &activation.model_file_path, parent, &model, now);
        for row in &mut rows {
            row.digest = Some(activation.digest.clone());
        }
        let metrics = metrics_json(&model);
        let event = LearningEvent {
            id: LearningEvent::id_of(counters.last_learning_event),
            model_version_id: Some(rows[0].id.clone()),
            event_type: event_type.to_owned(),
            batch_size: 0,
            samples_processed: 0,
            metrics_before: self.metrics.clone(),
            metrics_after: metrics.clone(),
            improvement: model.score().current() - self.model.score().current(),
            duration_ms: now.instant.elapsed().as_secs_f64() * 1_000.0,
            created_at: format_time(now.unix_ms),
        };
        self.store.activate(activation, &rows, event, &counters, now.unix_ms)?;
        self.counters = counters;
        self.model = model;
        self.metrics = metrics;
        self.tenants = self.model.tenants().map(|(name, _)| name.to_owned()).collect();
        self.saving.saved_sequence = self.model.sequence();
        self.saving.learned_sequence = self.model.sequence();
        self.saving.learned_outcomes = 0;
        self.saving.learning_time = Duration::ZERO;
        let saved = saved_version(&rows[0]);
        self.show_active(rows);
        self.shared.publish(&self.model);
        self.shared.publish_counters(&self.counters);
        Ok(saved)
    }

    fn finish_save(
        &mut self,
        mut rows: Vec<ModelVersion>,
        digest: &str,
        began: Instant,
        now: Now,
    ) -> Result<SavedVersion> {
        let mut counters = self.current_counters(now);
        counters.saves += 1;
        counters.last_save_ms = now.unix_ms;
        counters.last_learning_event += 1;
        for row in &mut rows {
            row.digest = Some(digest.to_owned());
        }
        let metrics: std::sync::Arc<str> = rows[0].metrics.to_string().into();
        let event = LearningEvent {
            id: LearningEvent::id_of(counters.last_learning_event),
            model_version_id: Some(rows[0].id.clone()),
            event_type: "save".to_owned(),
            batch_size: 0,
            samples_processed: 0,
            metrics_before: metrics.clone(),
            metrics_after: metrics,
            improvement: 0.0,
            duration_ms: now.instant.saturating_duration_since(began).as_secs_f64() * 1_000.0,
            created_at: format_time(now.unix_ms),
        };
        self.store.finish_version(&rows, event, &counters)?;
        self.counters = counters;
        self.saving.saved_sequence = rows[0].learned_sequence;
        let saved = saved_version(&rows[0]);
        log::info!("version={} saved samples={}", saved.version_id, saved.training_samples);
        self.show_active(rows);
        self.shared.publish_counters(&self.counters);
        Ok(saved)
    }

    /// Counts a failed save. Rows that can't be taken back now go at the next start.
    fn abandon_save(&mut self, is_written: bool) -> Result<()> {
        self.counters.failed_saves += 1;
        let counters: Counters = self.counters.clone();
        self.shared.publish_counters(&counters);
        match self.store.abandon_version(counters.last_version_number, is_written, &counters) {
            Err(Error::Fatal(text)) => Err(Error::Fatal(text)),
            _ => Ok(()),
        }
    }

    fn show_active(&mut self, rows: Vec<ModelVersion>) {
        self.saving.active = rows.into_iter().next();
        self.saving.show(&self.shared);
    }

    /// A save's rows: one per model type, all of one file.
    fn version_rows(
        &self,
        number: u64,
        file: &str,
        parent: Option<u64>,
        model: &AgentPerformanceModel,
        now: Now,
    ) -> Vec<ModelVersion> {
        let parameters = parameters(&self.options.settings);
        let metrics = serde_json::from_str(&metrics_json(model));
        MODEL_TYPES
            .iter()
            .map(|model_type| ModelVersion {
                id: ModelVersion::id_of(model_type, number),
                model_type: (*model_type).to_owned(),
                version_number: number,
                status: VersionStatus::Training,
                parameters: parameters.clone(),
                metrics: metrics.as_ref().cloned().unwrap_or_default(),
                model_file_path: file.to_owned(),
                created_at: format_time(now.unix_ms),
                training_samples: model.total().learned,
                parent_version: parent.map(|number| ModelVersion::id_of(model_type, number)),
                learned_sequence: model.sequence(),
                digest: None,
            })
            .collect()
    }
}

/// What a version was learned with: the settings, and the format of its file, which says what is in it.
pub fn parameters(settings: &Settings) -> serde_json::Value {
    let mut parameters = serde_json::to_value(settings).unwrap_or_default();
    parameters["format"] = FORMAT.into();
    parameters
}

fn saved_version(row: &ModelVersion) -> SavedVersion {
    SavedVersion {
        version_id: row.id.clone(),
        version_number: row.version_number,
        training_samples: row.training_samples,
    }
}
