//! The last answered selections: so that a repeated `decision_id` gets the same answer, and an
//! outcome that names one is learned with the task type and context of that moment.
//!
//! A new one also waits here until the learner has written it to the database, many at a time:
//! they share a place in the learner's queue, so that predictions never keep outcomes out of it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::outcome::fair_shares::{Held, Shares};
use crate::outcome::{Context, Feature, Outcome, TraceId};

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
/// Decisions of a tenant that may wait for each place that is free: alone it may take 8 of 9 places.
const WAITING_PART_FREE: u64 = 8;

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
    /// The trace that the question was part of.
    pub trace: Option<TraceId>,
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

/// What an outcome takes over from the decision that it names.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The task type of the question.
    pub task_type: Option<String>,
    /// The context of the question.
    pub context: Context,
}

/// A bounded memory of decisions, shared by all threads. What is full takes from the tenant that
/// holds most.
pub struct Decisions {
    inner: Mutex<Inner>,
    /// How many wait to be written: read without the lock.
    waiting: AtomicUsize,
    /// Not all that are recorded are remembered.
    has_forgotten: AtomicBool,
    /// Decisions that were answered but not recorded, ever.
    unrecorded: AtomicU64,
}

/// Tenant and id.
type Key = Arc<(String, String)>;

struct Inner {
    by_id: HashMap<Key, Arc<Decision>>,
    /// Those of each tenant, oldest first.
    orders: HashMap<String, VecDeque<Key>>,
    remembered: Shares,
    waiting: Vec<Waiting>,
    waiting_shares: Shares,
    waiting_max: u64,
    /// Those that wait, and those that are being written: nowhere else, should they be forgotten.
    unwritten: HashMap<Key, Arc<Decision>>,
}

impl Inner {
    /// Adds a decision with a new id; returns what is forgotten for it.
    fn insert(&mut self, key: Key, decision: Arc<Decision>) -> Vec<(Key, Arc<Decision>)> {
        let mut forgotten = Vec::new();
        self.remembered.add(&key.0, one_of(decision.bytes()));
        match self.orders.get_mut(&key.0) {
            Some(order) => order.push_back(key.clone()),
            None => {
                self.orders.insert(key.0.clone(), VecDeque::from([key.clone()]));
            }
        }
        self.by_id.insert(key, decision);
        while self.remembered.is_over() {
            let Some(tenant) = self.remembered.most().cloned() else { break };
            let Some(order) = self.orders.get_mut(&*tenant) else { break };
            let Some(oldest) = order.pop_front() else { break };
            if order.is_empty() {
                self.orders.remove(&*tenant);
            }
            if let Some(removed) = self.by_id.remove_entry(&oldest) {
                self.remembered.remove(&tenant, one_of(removed.1.bytes()));
                forgotten.push(removed);
            }
        }
        forgotten
    }

    fn get(&self, key: &(String, String)) -> Option<&Arc<Decision>> {
        self.by_id.get(key).or_else(|| self.unwritten.get(key))
    }
}

fn one_of(bytes: usize) -> Held {
    Held { count: 1, bytes: bytes as u64 }
}

impl Decisions {
    /// An empty memory, in which up to `waiting_max` decisions may wait to be written. `unrecorded`
    /// were not recorded before.
    pub fn new(waiting_max: usize, unrecorded: u64) -> Self {
        let waiting_max = waiting_max as u64;
        let bounds = |count: u64, bytes: usize| Held { count, bytes: bytes as u64 };
        Self {
            inner: Mutex::new(Inner {
                by_id: HashMap::new(),
                orders: HashMap::new(),
                remembered: Shares::new(bounds(REMEMBERED_MAX as u64, BYTES_MAX)),
                waiting: Vec::new(),
                waiting_shares: Shares::new(bounds(waiting_max, WAITING_BYTES_MAX)),
                waiting_max,
                unwritten: HashMap::new(),
            }),
            waiting: AtomicUsize::new(0),
            has_forgotten: AtomicBool::new(false),
            unrecorded: AtomicU64::new(unrecorded),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// The decision of this tenant with this id.
    pub fn get(&self, tenant: &str, id: &str) -> Option<Arc<Decision>> {
        self.lock().get(&(tenant.to_owned(), id.to_owned())).cloned()
    }

    /// Whether a decision that is not remembered may be recorded all the same.
    pub fn has_forgotten(&self) -> bool {
        self.has_forgotten.load(Ordering::Relaxed)
    }

    /// Whether a decision of the tenant made now could be recorded. Each may have eight waiting for
    /// every place that is free: one that asks little finds room beside others that ask all they can
    /// (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6, 1998). Those that
    /// ask at the same time may together pass the bound, each by one.
    pub fn has_room(&self, tenant: &str) -> bool {
        let inner = self.lock();
        let (own, all) = (inner.waiting_shares.of(tenant), inner.waiting_shares.total());
        let fits = |own: u64, all: u64, max: u64| {
            own < max.saturating_sub(all).saturating_mul(WAITING_PART_FREE)
        };
        fits(own.count, all.count, inner.waiting_max)
            && fits(own.bytes, all.bytes, WAITING_BYTES_MAX as u64)
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
        if let Some(known) = inner.get(&key) {
            return (known.clone(), false);
        }
        let forgotten = inner.insert(key.clone(), decision.clone());
        if !forgotten.is_empty() {
            self.has_forgotten.store(true, Ordering::Relaxed);
        }
        let mut is_first = false;
        if let Some(waiting) = waiting {
            is_first = inner.waiting.is_empty();
            self.waiting.fetch_add(1, Ordering::Relaxed);
            inner.waiting_shares.add(tenant, one_of(waiting.bytes()));
            inner.waiting.push(waiting);
            inner.unwritten.insert(key, decision.clone());
        } else {
            self.unrecorded.fetch_add(1, Ordering::Relaxed);
        }
        drop(inner);
        // Freed after the lock is released, which every prediction takes.
        drop(forgotten);
        (decision, is_first)
    }

    /// Remembers decisions of earlier runs, oldest first, which are written already. There may be
    /// more of them.
    pub fn restore(&self, decisions: Vec<(String, String, Decision)>) {
        let mut inner = self.lock();
        let mut has_forgotten = decisions.len() >= REMEMBERED_MAX;
        for (tenant, id, decision) in decisions {
            has_forgotten |= !inner.insert(Arc::new((tenant, id)), Arc::new(decision)).is_empty();
        }
        self.has_forgotten.store(has_forgotten, Ordering::Relaxed);
    }

    /// Takes all that wait to be written, in order. They go to [`Decisions::written`] or
    /// [`Decisions::give_back`].
    pub fn take_waiting(&self) -> Vec<Waiting> {
        let mut inner = self.lock();
        self.waiting.store(0, Ordering::Relaxed);
        let bounds = Held { count: inner.waiting_max, bytes: WAITING_BYTES_MAX as u64 };
        inner.waiting_shares = Shares::new(bounds);
        std::mem::take(&mut inner.waiting)
    }

    /// These are written, and can be looked up when they are forgotten.
    pub fn written(&self, written: &[Waiting]) {
        let mut inner = self.lock();
        for waiting in written {
            inner.unwritten.remove(&(waiting.tenant.clone(), waiting.id.clone()));
        }
    }

    /// Puts back, before what came since, what could not be written.
    pub fn give_back(&self, mut unwritten: Vec<Waiting>) {
        let mut inner = self.lock();
        self.waiting.fetch_add(unwritten.len(), Ordering::Relaxed);
        for waiting in &unwritten {
            inner.waiting_shares.add(&waiting.tenant, one_of(waiting.bytes()));
        }
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

    /// Whether an outcome names what may be a decision that is recorded, but no longer remembered.
    pub fn may_be_recorded(&self, outcome: &Outcome) -> bool {
        let named = outcome.decision.as_ref().filter(|_| !outcome.resolved);
        self.has_forgotten()
            && named.is_some_and(|named| self.get(&outcome.tenant, named.id()).is_none())
    }

    /// Gives an outcome that names one of these decisions the task type and context of that moment.
    /// `recorded` is what the database has of one that is no longer remembered.
    pub fn resolve(&self, outcome: &mut Outcome, recorded: Option<&Asked>) {
        if outcome.resolved {
            return;
        }
        let named = outcome.decision.as_ref();
        let known = named.and_then(|decision| self.get(&outcome.tenant, decision.id()));
        let known = known.as_ref().map(|known| (&known.task_type, &known.context));
        match known.or(recorded.map(|asked| (&asked.task_type, &asked.context))) {
            Some((task_type, context)) => {
                outcome.task_type.clone_from(task_type);
                outcome.context.clone_from(context);
                outcome.resolved = true;
            }
            None => outcome.forget_correlation(),
        }
    }

    /// Decisions remembered now.
    pub fn len(&self) -> usize {
        self.lock().by_id.len()
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
            trace: None,
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
        for id in 0..REMEMBERED_MAX {
            decisions.remember("a", &id.to_string(), decision(""), None);
        }
        assert!(!decisions.has_forgotten());
        decisions.remember("a", "last", decision(""), None);
        assert_eq!(decisions.len(), REMEMBERED_MAX);
        assert!(decisions.get("a", "0").is_none() && decisions.get("a", "1").is_some());
        assert!(decisions.has_forgotten());

        let decisions = Decisions::new(0, 0);
        let large = "x".repeat(BYTES_MAX / 4);
        for id in 0..8 {
            decisions.remember("large", &id.to_string(), decision(&large), None);
        }
        assert_eq!(decisions.len(), 3, "four of them and their overhead are past the bound");
        assert!(decisions.get("large", "7").is_some());
    }

    /// Of two that ask without end each has half, whichever bound is reached.
    #[test]
    fn one_tenant_is_not_forgotten_for_another() {
        let decisions = Decisions::new(0, 0);
        for id in 0..100 {
            decisions.remember("quiet", &id.to_string(), decision(""), None);
        }
        for id in 0..3 * REMEMBERED_MAX {
            decisions.remember("loud", &id.to_string(), decision(""), None);
        }
        assert_eq!(decisions.len(), REMEMBERED_MAX);
        assert!((0..100).all(|id| decisions.get("quiet", &id.to_string()).is_some()));
        for id in 0..3 * REMEMBERED_MAX {
            decisions.remember("quiet", &format!("more{id}"), decision(""), None);
        }
        let half = REMEMBERED_MAX / 2;
        let kept = |tenant: &str, from: usize, prefix: &str| {
            (from..3 * REMEMBERED_MAX)
                .filter(|id| decisions.get(tenant, &format!("{prefix}{id}")).is_some())
                .count()
        };
        assert_eq!((kept("loud", 0, ""), kept("quiet", 0, "more")), (half, half));
        assert_eq!(kept("loud", 3 * REMEMBERED_MAX - half, ""), half, "the newest");

        // By bytes, large answers leave before many small ones do.
        let large = "x".repeat(BYTES_MAX / 20);
        for id in 0..100 {
            decisions.remember("large", &id.to_string(), decision(&large), None);
        }
        assert!(kept("loud", 0, "") > half / 2 && kept("quiet", 0, "more") > half / 2);
    }

    #[test]
    fn what_waits_is_bounded_and_comes_back_in_order() {
        let decisions = Decisions::new(2, 5);
        let remember = |id: &str| {
            let choice = decisions.has_room("a").then(choice);
            decisions.remember("a", id, decision("{}"), choice).1
        };
        assert!(remember("1"), "the learner is told of the first");
        assert!(!remember("2"), "and takes the others along");
        assert!(!remember("3"));
        assert_eq!((decisions.waiting(), decisions.unrecorded()), (2, 6));

        let unwritten = decisions.take_waiting();
        assert!(remember("4"));
        decisions.give_back(unwritten);
        assert!(!decisions.has_room("a"));
        let ids: Vec<String> = decisions.take_waiting().into_iter().map(|w| w.id).collect();
        assert_eq!(ids, ["1", "2", "4"]);
        assert!(decisions.has_room("a"));
    }
}
