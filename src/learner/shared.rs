//! What other threads see of the learner.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use crate::error::Error;
use crate::model::AgentPerformanceModel;
use crate::outcome::decisions::Decisions;
use crate::store::Counters;
use crate::watch::Watch;
use crate::watch::budget::Budget;
use crate::watch::instruments::Instruments;

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
    pub(super) fn new(
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
        self.model.read().clone()
    }

    /// The newest counters.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.read().clone()
    }

    /// The spending caps, by tenant.
    pub fn budgets(&self) -> Arc<BTreeMap<String, Budget>> {
        self.budgets.read().clone()
    }

    /// Why learning can't go on at the moment, if so.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// The backlog that makes no progress, if there is one, in words.
    pub fn stall(&self) -> Option<String> {
        self.stall.lock().clone()
    }

    /// Notes a backlog that makes no progress or its end; logs only the change.
    pub(crate) fn note_stall(&self, stall: Option<String>) {
        let mut current = self.stall.lock();
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
        self.active_version.lock().clone()
    }

    /// A number that grows while the learner's thread makes progress.
    pub fn heartbeats(&self) -> u64 {
        self.heartbeats.load(Ordering::Relaxed)
    }

    /// Looks at what is watched; the learner waits meanwhile.
    pub fn with_watch<T>(&self, look: impl FnOnce(&Watch) -> T) -> T {
        look(&self.watch.lock())
    }

    /// Called by the learner's thread in every round.
    pub fn beat(&self) {
        self.heartbeats.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn publish(&self, model: &AgentPerformanceModel) {
        let model = Arc::new(model.clone());
        let old = {
            let mut current = self.model.write();
            std::mem::replace(&mut *current, model)
        };
        // The old snapshot may be freed here, with the lock released.
        drop(old);
    }

    /// Changes what is watched; who looks waits meanwhile.
    pub(super) fn change_watch(&self, change: impl FnOnce(&mut Watch)) {
        change(&mut self.watch.lock());
    }

    pub(super) fn publish_budgets(&self, budgets: BTreeMap<String, Budget>) {
        *self.budgets.write() = Arc::new(budgets);
    }

    pub(super) fn show_version(&self, active: Option<String>) {
        *self.active_version.lock() = active;
    }

    /// Where [`Shared::end`] will stand.
    pub(super) fn end_cell(&self) -> Arc<OnceLock<Instant>> {
        self.stop_by.clone()
    }

    pub(super) fn publish_counters(&self, counters: &Counters) {
        *self.counters.write() = Arc::new(counters.clone());
    }

    /// Notes trouble or its end; logs only the change.
    pub(super) fn note(&self, trouble: Option<&Error>) {
        let mut current = self.trouble.lock();
        match (&*current, trouble) {
            (None, Some(error)) => log::error!("learning=stalled error=\"{error}\""),
            (Some(_), None) => log::info!("learning=resumed"),
            _ => {}
        }
        *current = trouble.map(ToString::to_string);
    }
}
