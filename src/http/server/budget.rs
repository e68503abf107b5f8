//! Memory that all connections share, taken before it is used.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Bytes that all connections together may hold for one purpose.
pub(super) struct Budget {
    held: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), max })
    }

    /// Bytes held now.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held.load(SeqCst)
    }
}

thread_local! {
    /// For answers that are made in this thread; there is none outside of connections.
    static ANSWERS: RefCell<Option<Arc<Budget>>> = const { RefCell::new(None) };
}

/// From now on, answers that are made in this thread are counted there.
pub(super) fn count_answers(budget: &Arc<Budget>) {
    ANSWERS.set(Some(Arc::clone(budget)));
}

/// What one connection holds of a budget, until it is dropped.
pub(super) struct Share {
    budget: Arc<Budget>,
    held: usize,
}

impl Share {
    /// Nothing yet.
    pub(super) fn of(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), held: 0 }
    }

    /// Nothing yet, of the budget for answers that are made in this thread.
    pub(super) fn of_answers() -> Option<Self> {
        ANSWERS.with_borrow(|budget| budget.as_ref().map(Self::of))
    }

    /// Bytes held now.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Nothing yet, of the same budget.
    pub(super) fn another(&self) -> Self {
        Self::of(&self.budget)
    }

    /// Takes more; whether there is as much.
    #[must_use]
    pub(super) fn grow(&mut self, count: usize) -> bool {
        let within = |held: usize| held.checked_add(count).filter(|held| *held <= self.budget.max);
        let taken = self.budget.held.fetch_update(SeqCst, SeqCst, within).is_ok();
        if taken {
            self.held += count;
        }
        taken
    }

    /// Whether so much more could be had if nobody else held any.
    pub(super) fn may_grow(&self, count: usize) -> bool {
        self.held.checked_add(count).is_some_and(|held| held <= self.budget.max)
    }

    /// Gives back what is more than `count`.
    pub(super) fn shrink(&mut self, count: usize) {
        let spare = self.held.saturating_sub(count);
        self.budget.held.fetch_sub(spare, SeqCst);
        self.held -= spare;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(0);
    }
}
