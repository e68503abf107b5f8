//! Control entries: journaled before they take effect.

use super::append::count_spending;
use super::learn::metrics_json;
use super::{Forecast, Learner, Now};
use crate::error::{Error, Result};
use crate::model::Control;
use crate::outcome::{Outcome, format_time};
use crate::store::LearningEvent;

impl Learner {
    /// Journals control entries of one kind, in one transaction with a learning event that has the
    /// kind's name, and lets them take effect. All that was accepted before is learned first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it can be tried again, and none of them has taken effect;
    /// [`Error::Invalid`] when one is too large; otherwise the process must end.
    pub(super) fn control(&mut self, controls: &[Control], now: Now) -> Result<()> {
        let Some(first) = controls.first() else { return Ok(()) };
        self.close_batch(now)?;
        self.all_is_learned()?;
        let started = std::time::Instant::now();
        let count = controls.len() as u64;
        let mut model = self.model.clone();
        let mut counters = self.current_counters(now);
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut forecasts = Vec::new();
        for control in controls {
            let expected = model.apply(control);
            let outcome = control.outcome();
            let reward = outcome.as_ref().and_then(Outcome::reward);
            if let (Some(expected), Some(reward)) = (expected, reward) {
                counters.foresight.add(expected, reward);
                forecasts.push(Forecast { expected, reward });
            }
            if let Control::Feedback { outcome, .. } = control {
                count_spending(outcome, &mut counters, now);
            }
            outcomes.extend(outcome);
        }
        let learned = model.total().learned - self.model.total().learned;
        counters.last_sequence += count;
        counters.learned_sequence = counters.last_sequence;
        counters.controls += count;
        let is_missing = |control: &&Control| matches!(control, Control::DecisionMissing { .. });
        counters.decisions_missing += controls.iter().filter(is_missing).count() as u64;
        counters.last_learning_event += 1;
        counters.samples_processed += learned;
        counters.last_update_ms = now.unix_ms;
        let metrics = metrics_json(&model);
        let event = LearningEvent {
            id: LearningEvent::id_of(counters.last_learning_event),
            model_version_id: self.saving.active_version(),
            event_type: first.kind().to_owned(),
            batch_size: count,
            samples_processed: learned,
            metrics_before: self.metrics.clone(),
            metrics_after: metrics.clone(),
            improvement: model.score().current() - self.model.score().current(),
            duration_ms: started.elapsed().as_secs_f64() * 1_000.0,
            created_at: format_time(now.unix_ms),
        };
        self.store.control(controls, event, &mut counters, now.unix_ms)?;
        self.model = model;
        self.metrics = metrics;
        self.counters = counters;
        self.tenants.extend(outcomes.iter().map(|outcome| outcome.tenant.clone()));
        self.saving.count_learning(count, started.elapsed());
        self.shared.change_watch(|watch| {
            for control in controls {
                if let Control::RemoveAgent { tenant, agent } = control {
                    watch.forget(tenant, agent);
                }
            }
            watch.learned(outcomes.iter(), forecasts);
        });
        self.shared.publish(&self.model);
        self.shared.publish_counters(&self.counters);
        Ok(())
    }

    /// Removes an agent, which counts as one when all that was accepted before is learned.
    pub(super) fn remove_agent(&mut self, tenant: String, agent: String, now: Now) -> Result<()> {
        self.close_batch(now)?;
        self.all_is_learned()?;
        let known = self.model.tenant(&tenant).and_then(|tenant| tenant.agent(&agent));
        if known.is_none() {
            return Err(Error::NotFound(format!("tenant {tenant:?} has no agent {agent:?}")));
        }
        log::info!("agent=removed tenant={tenant:?} agent={agent:?}");
        self.control(&[Control::RemoveAgent { tenant, agent }], now)
    }
}
