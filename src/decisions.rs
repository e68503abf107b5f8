//! The last answered selections: so that a repeated `decision_id` gets the same answer, and an
//! outcome that names one is learned with the task type and context of that moment.
//!
//! A new one also waits here until the learner has written it to the database, many at a time:
//! they share a place in the learner's queue, so that predictions never keep outcomes out of it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::outcome::{Context, Feature, Outcome};

/// Decisions remembered, newest first.
pub const REMEMBERED_MAX: usize = 10_000;
/// Bytes of answers and contexts remembered; fewer decisions are kept where these would pass it.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// What a decision takes beside its answer and context, roughly.
const OVERHEAD_BYTES: usize = 512;
/// What a feature takes beside its texts, roughly.
const FEATURE_BYTES: usize = 48;
/// Bytes of decisions that wait to be written.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Tells a repetition from another request: the first 128 bits of the SHA-256 of the question.
pub type RequestHash = [u8; 16];

/// One answered selection.
#[derive(Debug, PartialEq)]
pub struct Decision {
    /// The task type of the question.
    pub task_type: Option<String>,
    /// The context of the question.
    pub context: Context,
    /// Of the question.
    pub request: RequestHash,
    /// The answer's body.
    pub answer: Vec<u8>,
}

impl Decision {
    fn bytes(&self) -> usize {
        let text = |feature: &Feature| match feature {
            Feature::Text(text) => text.len(),
            Feature::Bool(_) | Feature::Number(_) => 0,
        };
        let context =
            self.context.iter().map(|(key, value)| FEATURE_BYTES + key.len() + text(value));
        OVERHEAD_BYTES + self.answer.len() + context.sum::<usize>()
    }
}

/// What the database keeps of a decision beside what is remembered.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Unix time, ms.
    pub created_ms: i64,
    /// Who competed, as a JSON array of `[name, expected success, propensity]`.
    pub candidates: Arc<str>,
    /// The agent ranked first; `None` when nobody was known.
    pub first: Option<First>,
    /// The request allowed a draw.
    pub explore: bool,
    /// The agent ranked first is not the one that would be without a draw.
    pub explored: bool,
    /// The journal sequence that the answering snapshot had learned.
    pub model_version: u64,
    /// How agents were ranked.
    pub strategy: &'static str,
    /// What else had a part in the choice, as the fields of a JSON object.
    pub details: Option<String>,
}

/// One of those who competed.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub agent: String,
    /// Its expected success then, `0..=1`.
    pub expected_success: f64,
    /// The probability of ranking it first then, `0..=1`.
    pub propensity: f64,
}

/// The agent that was ranked first.
#[derive(Debug, Clone, PartialEq)]
pub struct First {
    /// Its name.
    pub agent: Arc<str>,
    /// What it was ranked by.
    pub score: f64,
    /// The probability of ranking it first, (0, 1].
    pub propensity: f64,
}

/// A decision on its way to the database.
#[derive(Debug)]
pub struct Waiting {
    /// Whose agents competed.
    pub tenant: String,
    /// Its id, unique in the tenant.
    pub id: String,
    /// Question and answer.
    pub decision: Arc<Decision>,
    /// How the answer came about.
    pub choice: Choice,
}

impl Waiting {
    /// What it takes in the database, roughly.
    pub fn bytes(&self) -> usize {
        self.decision.bytes() + self.choice.candidates.len()
    }
}

/// A bounded memory of decisions, shared by all threads.
pub struct Decisions {
    inner: Mutex<Inner>,
    /// Sizes of what waits: read without the lock.
    waiting: AtomicUsize,
    waiting_bytes: AtomicUsize,
    waiting_max: usize,
    /// Decisions that were answered but not recorded, ever.
    unrecorded: AtomicU64,
}

/// Tenant and id.
type Key = Arc<(String, String)>;

#[derive(Default)]
struct Inner {
    by_id: HashMap<Key, Arc<Decision>>,
    order: VecDeque<Key>,
    bytes: usize,
    waiting: Vec<Waiting>,
}

impl Inner {
    /// Adds a decision with a new id; returns what is forgotten for it.
    fn insert(&mut self, key: Key, decision: Arc<Decision>) -> Vec<(Key, Arc<Decision>)> {
        let mut forgotten = Vec::new();
        self.bytes += decision.bytes();
        self.by_id.insert(key.clone(), decision);
        self.order.push_back(key);
        while self.order.len() > REMEMBERED_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some(removed) = self.by_id.remove_entry(&oldest) {
                self.bytes -= removed.1.bytes();
                forgotten.push(removed);
            }
        }
        forgotten
    }
}

impl Decisions {
    /// An empty memory, in which up to `waiting_max` decisions may wait to be written. `unrecorded`
    /// were not recorded before.
    pub fn new(waiting_max: usize, unrecorded: u64) -> Self {
        Self {
            inner: Mutex::default(),
            waiting: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            waiting_max,
            unrecorded: AtomicU64::new(unrecorded),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The decision of this tenant with this id.
    pub fn get(&self, tenant: &str, id: &str) -> Option<Arc<Decision>> {
        self.lock().by_id.get(&(tenant.to_owned(), id.to_owned())).cloned()
    }

    /// Whether a decision made now could be recorded. Those that ask at the same time may together
    /// pass the bound, each by one.
    pub fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < self.waiting_max
            && self.waiting_bytes.load(Ordering::Relaxed) < WAITING_BYTES_MAX
    }

    /// Remembers a decision, unless there is one with this id, and returns the one that stands. With
    /// a `choice` a new one waits to be written; `true` asks the caller to tell the learner.
    pub fn remember(
        &self,
        tenant: &str,
        id: &str,
        decision: Decision,
        choice: Option<Choice>,
    ) -> (Arc<Decision>, bool) {
        let key = Arc::new((tenant.to_owned(), id.to_owned()));
        let decision = Arc::new(decision);
        let waiting = choice.map(|choice| {
            let (tenant, id) = (tenant.to_owned(), id.to_owned());
            Waiting { tenant, id, decision: decision.clone(), choice }
        });
        let mut inner = self.lock();
        if let Some(known) = inner.by_id.get(&key) {
            return (known.clone(), false);
        }
        let forgotten = inner.insert(key, decision.clone());
        let mut is_first = false;
        if let Some(waiting) = waiting {
            is_first = inner.waiting.is_empty();
            self.waiting.fetch_add(1, Ordering::Relaxed);
            self.waiting_bytes.fetch_add(waiting.bytes(), Ordering::Relaxed);
            inner.waiting.push(waiting);
        } else {
            self.unrecorded.fetch_add(1, Ordering::Relaxed);
        }
        drop(inner);
        // Freed after the lock is released, which every prediction takes.
        drop(forgotten);
        (decision, is_first)
    }

    /// Remembers decisions of earlier runs, oldest first, which are written already.
    pub fn restore(&self, decisions: Vec<(String, String, Decision)>) {
        let mut inner = self.lock();
        for (tenant, id, decision) in decisions {
            inner.insert(Arc::new((tenant, id)), Arc::new(decision));
        }
    }

    /// Takes all that wait to be written, in order.
    pub fn take_waiting(&self) -> Vec<Waiting> {
        let mut inner = self.lock();
        self.waiting.store(0, Ordering::Relaxed);
        self.waiting_bytes.store(0, Ordering::Relaxed);
        std::mem::take(&mut inner.waiting)
    }

    /// Puts back, before what came since, what could not be written.
    pub fn give_back(&self, mut unwritten: Vec<Waiting>) {
        let mut inner = self.lock();
        self.waiting.fetch_add(unwritten.len(), Ordering::Relaxed);
        let bytes: usize = unwritten.iter().map(Waiting::bytes).sum();
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        unwritten.append(&mut inner.waiting);
        inner.waiting = unwritten;
    }

    /// Decisions that wait to be written.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Decisions that were answered but not recorded, ever.
    pub fn unrecorded(&self) -> u64 {
        self.unrecorded.load(Ordering::Relaxed)
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
        self.lock().order.len()
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
            request: RequestHash::default(),
            answer: answer.into(),
        }
    }

    fn choice() -> Choice {
        Choice {
            created_ms: 0,
            candidates: "[]".into(),
            first: None,
            explore: true,
            explored: false,
            model_version: 0,
            strategy: "thompson",
            details: None,
        }
    }

    #[test]
    fn the_first_decision_of_an_id_stands_and_tenants_are_apart() {
        let decisions = Decisions::new(10, 0);
        let remember = |tenant: &str, answer: &str| {
            let (stands, _) = decisions.remember(tenant, "1", decision(answer), Some(choice()));
            String::from_utf8(stands.answer.clone()).unwrap()
        };
        assert_eq!(remember("a", "first"), "first");
        assert_eq!(remember("a", "second"), "first");
        assert_eq!(remember("b", "third"), "third");
        assert_eq!(decisions.get("a", "1").map(|found| found.answer.clone()), Some("first".into()));
        assert!(decisions.get("a", "2").is_none());
        let waiting: Vec<String> =
            decisions.take_waiting().into_iter().map(|waiting| waiting.tenant).collect();
        assert_eq!(waiting, ["a", "b"], "a repetition is not recorded again");
    }

    #[test]
    fn the_oldest_are_forgotten_by_count_and_by_bytes() {
        let decisions = Decisions::new(0, 0);
        for id in 0..=REMEMBERED_MAX {
            decisions.remember("a", &id.to_string(), decision(""), None);
        }
        assert_eq!(decisions.len(), REMEMBERED_MAX);
        assert!(decisions.get("a", "0").is_none() && decisions.get("a", "1").is_some());

        let large = "x".repeat(BYTES_MAX / 4);
        for id in 0..8 {
            decisions.remember("large", &id.to_string(), decision(&large), None);
        }
        assert_eq!(decisions.len(), 3, "four of them and their overhead are past the bound");
        assert!(decisions.get("large", "7").is_some());
    }

    #[test]
    fn what_waits_is_bounded_and_comes_back_in_order() {
        let decisions = Decisions::new(2, 5);
        let remember = |id: &str| {
            let choice = decisions.has_room().then(choice);
            decisions.remember("a", id, decision("{}"), choice).1
        };
        assert!(remember("1"), "the learner is told of the first");
        assert!(!remember("2"), "and takes the others along");
        assert!(!remember("3"));
        assert_eq!((decisions.waiting(), decisions.unrecorded()), (2, 6));

        let unwritten = decisions.take_waiting();
        assert!(remember("4"));
        decisions.give_back(unwritten);
        assert!(!decisions.has_room());
        let ids: Vec<String> = decisions.take_waiting().into_iter().map(|w| w.id).collect();
        assert_eq!(ids, ["1", "2", "4"]);
        assert!(decisions.has_room());
    }
}
