//! The last answered selections: so that a repeated `decision_id` gets the same answer, and an
//! outcome that names one is learned with the task type and context of that moment.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::outcome::{Context, Outcome};

/// Decisions remembered, newest first.
const DECISIONS_MAX: usize = 10_000;
/// Bytes of requests and answers remembered; fewer decisions are kept where these would pass it.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a decision takes beside its request and answer, roughly.
const OVERHEAD_BYTES: usize = 512;

/// One answered selection.
#[derive(Debug)]
pub struct Decision {
    /// The task type of the question.
    pub task_type: Option<String>,
    /// The context of the question.
    pub context: Context,
    /// The request's body, to tell a repetition from another request.
    pub request: Vec<u8>,
    /// The answer's body.
    pub answer: Vec<u8>,
}

impl Decision {
    fn bytes(&self) -> usize {
        // Task type and context came out of the request and take about as much again.
        OVERHEAD_BYTES + 2 * self.request.len() + self.answer.len()
    }
}

/// A bounded memory of decisions, shared by all threads.
#[derive(Default)]
pub struct Decisions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_id: HashMap<Arc<(String, String)>, Arc<Decision>>,
    order: VecDeque<Arc<(String, String)>>,
    bytes: usize,
}

impl Decisions {
    /// The decision of this tenant with this id.
    pub fn get(&self, tenant: &str, id: &str) -> Option<Arc<Decision>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.by_id.get(&(tenant.to_owned(), id.to_owned())).cloned()
    }

    /// Remembers a decision, unless there is one with this id, and returns the one that stands.
    pub fn remember(&self, tenant: &str, id: &str, decision: Decision) -> Arc<Decision> {
        let key = Arc::new((tenant.to_owned(), id.to_owned()));
        let decision = Arc::new(decision);
        // Freed after the lock is released, which every prediction takes.
        let mut forgotten = Vec::new();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = inner.by_id.get(&key) {
            return known.clone();
        }
        inner.bytes += decision.bytes();
        inner.by_id.insert(key.clone(), decision.clone());
        inner.order.push_back(key);
        while inner.order.len() > DECISIONS_MAX || inner.bytes > BYTES_MAX {
            let Some(oldest) = inner.order.pop_front() else { break };
            if let Some(removed) = inner.by_id.remove_entry(&oldest) {
                inner.bytes -= removed.1.bytes();
                forgotten.push(removed);
            }
        }
        drop(inner);
        decision
    }

    /// Gives an outcome that names one of these decisions the task type and context of that moment.
    pub fn resolve(&self, outcome: &mut Outcome) {
        if outcome.resolved {
            return;
        }
        let named = outcome.decision.as_ref();
        match named.and_then(|decision| self.get(&outcome.tenant, decision.id())) {
            Some(decision) => {
                outcome.task_type.clone_from(&decision.task_type);
                outcome.context.clone_from(&decision.context);
                outcome.resolved = true;
            }
            None => outcome.forget_correlation(),
        }
    }

    /// Decisions remembered now.
    pub fn len(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).order.len()
    }

    /// None is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(answer: &str) -> Decision {
        Decision {
            task_type: None,
            context: Vec::new(),
            request: b"{}".to_vec(),
            answer: answer.into(),
        }
    }

    #[test]
    fn the_first_decision_of_an_id_stands_and_tenants_are_apart() {
        let decisions = Decisions::default();
        decisions.remember("a", "1", decision("first"));
        assert_eq!(decisions.remember("a", "1", decision("second")).answer, b"first");
        assert_eq!(decisions.remember("b", "1", decision("third")).answer, b"third");
        assert_eq!(decisions.get("a", "1").map(|found| found.answer.clone()), Some("first".into()));
        assert!(decisions.get("a", "2").is_none());
    }

    #[test]
    fn the_oldest_are_forgotten_by_count_and_by_bytes() {
        let decisions = Decisions::default();
        for id in 0..=DECISIONS_MAX {
            decisions.remember("a", &id.to_string(), decision(""));
        }
        assert_eq!(decisions.len(), DECISIONS_MAX);
        assert!(decisions.get("a", "0").is_none() && decisions.get("a", "1").is_some());

        let large = "x".repeat(BYTES_MAX / 4);
        for id in 0..8 {
            decisions.remember("large", &id.to_string(), decision(&large));
        }
        assert_eq!(decisions.len(), 3, "four of them and their overhead are past the bound");
        assert!(decisions.get("large", "7").is_some());
    }
}
