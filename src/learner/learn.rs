//! Micro-batches: learned on a clone of the model, recorded, and only then seen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::Now;
use super::{Learner, RETRY_AFTER, micros};
use crate::error::{Error, Result};
use crate::model::{AgentPerformanceModel, Score};
use crate::outcome::format_time;
use crate::store::LearningEvent;
use crate::watch::Forecast;

/// Outcomes learned in one transaction, so that what was learned is soon seen.
const LEARN_OUTCOMES_MAX: usize = 16_384;

impl Learner {
    /// Learns the micro-batches that are full, and with `all` the open one too.
    pub(super) fn learn(&mut self, all: bool, now: Now) -> Result<()> {
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
    pub(super) fn measure(&self, events: &[LearningEvent], started: Instant, now: Now) {
        let instruments = &self.shared.instruments;
        let learning: f64 = events.iter().map(|event| event.duration_ms / 1_000.0).sum();
        let rest = (started.elapsed().as_secs_f64() - learning).max(0.0) / events.len() as f64;
        for event in events {
            instruments.batch_seconds.observe(event.duration_ms / 1_000.0 + rest);
        }
        let oldest = self.pending_since.unwrap_or(now.instant);
        instruments.learning_delay_seconds.observe(oldest.elapsed().as_secs_f64());
    }

    pub(super) fn watch_learned(&self, taken: usize, forecasts: Vec<Forecast>) {
        self.shared.change_watch(|watch| {
            watch.learned(self.pending.range(..taken), forecasts);
            watch.keep(&self.model);
        });
    }

    /// A version of less than what was accepted would lose the rest when it is activated.
    pub(super) fn all_is_learned(&self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        Err(Error::Unavailable(
            "accepted outcomes can't be learned at the moment: try again later".to_owned(),
        ))
    }

    /// Settles and learns everything that was accepted, the open micro-batch included.
    pub(super) fn close_batch(&mut self, now: Now) -> Result<()> {
        self.append_group(now)?;
        self.learn(true, now)
    }

    pub(super) fn record_import(
        &mut self,
        accepted: u64,
        duration: Duration,
        now: Now,
    ) -> Result<()> {
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
}

/// A model's metrics, as learning events and versions show them.
pub(super) fn metrics_json(model: &AgentPerformanceModel) -> Arc<str> {
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
