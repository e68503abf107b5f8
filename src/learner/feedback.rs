//! Verdicts that come after the execution they judge: they add what was missing, and never revise.
//!
//! What they add is a control entry of the journal. One whose execution is not known yet waits for it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::append::Sorted;
use super::{HTTP, Learner, Now, RETRY_AFTER, TOPIC};
use crate::error::{Error, Result};
use crate::model::Control;
use crate::outcome::decisions::Waiting;
use crate::outcome::feedback::{Verdict, decision_key};
use crate::outcome::{
    DEFAULT_TENANT, IdentityKey, Outcome, Refusal, RefusalCode, Status, format_time,
};
use crate::store::{
    Added, Append, Counters, Execution, NewDeadLetter, Owner, PAYLOAD_BYTES_MAX, Position,
    Unjudged, WaitingVerdict,
};
use crate::watch::reporting::waited_since;

/// Control entries of one transaction.
const JUDGED_AT_ONCE: u32 = 256;
/// Waiting verdicts that are looked at in one go, and given up in one transaction.
const LOOKED_AT_ONCE: u32 = 1_000;
/// Pause between looking for verdicts that have waited too long.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// Pause between looking at all verdicts that wait, for the case that an execution came unseen.
const LOOK_AT_ALL_AFTER: Duration = Duration::from_mins(1);
/// The share of the places to wait of tenants of whom nothing is known. No tenant has this name.
const OF_STRANGERS: &str = "";

/// Verdicts of one sender.
pub struct FeedbackRequest {
    /// In the order in which they came.
    pub verdicts: Vec<Verdict>,
    /// Answered with one of each, when they are durable.
    pub reply: Sender<Result<Vec<Judged>>>,
}

/// Verdicts that are to be produced to a topic.
pub struct AdmitVerdictsRequest {
    /// In the order in which they came.
    pub verdicts: Vec<Verdict>,
    /// Answered with one of each.
    pub reply: Sender<Result<Vec<AdmittedVerdict>>>,
}

/// A verdict as it may be produced.
pub struct AdmittedVerdict {
    /// What it would come to here, as far as the topic has been read.
    pub judged: Judged,
    /// As it is told to others.
    pub verdict: Verdict,
    /// The execution that it is about, if it is known.
    pub execution: Option<IdentityKey>,
}

/// What became of a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// It has added something.
    Added,
    /// It waits for its execution.
    Waits,
    /// All of it was known.
    Known,
    /// It says other than what is known already, in words.
    Conflicts(String),
}

/// When verdicts that wait are looked at.
#[derive(Debug)]
pub(super) struct Looking {
    /// Those whose executions may have come, by what they are found by.
    came: BTreeSet<IdentityKey>,
    /// When it is time, if any wait.
    pub(super) due: Instant,
    /// When it is time for all of them; not again when `None`.
    all_due: Option<Instant>,
}

impl Looking {
    /// The first look is at all.
    pub(super) fn new(now: Instant) -> Self {
        Self { came: BTreeSet::new(), due: now, all_due: Some(now) }
    }

    /// An execution may have come.
    pub(super) fn note(&mut self, target: IdentityKey, now: Instant) {
        self.came.insert(target);
        self.due = now;
    }
}

/// Judges verdicts one after the other.
#[derive(Default)]
pub(super) struct Judging {
    /// What was added to executions, with what is about to be.
    added: HashMap<IdentityKey, Added>,
    pub(super) controls: Vec<Control>,
}

impl Judging {
    /// What a verdict adds to an outcome.
    fn compare(&mut self, verdict: &Verdict, outcome: Outcome) -> Judged {
        let added = self.added.entry(outcome.identity).or_default();
        let known = Known {
            status: added.status.or(Some(outcome.status).filter(|one| *one != Status::Pending)),
            quality: outcome.quality.or(added.quality),
            cost: outcome.cost.or(added.cost),
        };
        let conflict = differs("status", known.status, verdict.status, |one| one.as_str().into())
            .or_else(|| differs("quality_score", known.quality, verdict.quality, f64_text))
            .or_else(|| differs("cost_estimate", known.cost, verdict.cost, f64_text));
        if let Some(conflict) = conflict {
            return Judged::Conflicts(conflict);
        }
        let new = Added {
            status: verdict.status.filter(|_| known.status.is_none()),
            quality: verdict.quality.filter(|_| known.quality.is_none()),
            cost: verdict.cost.filter(|_| known.cost.is_none()),
        };
        if new == Added::default() {
            return Judged::Known;
        }
        added.status = added.status.or(new.status);
        added.quality = added.quality.or(new.quality);
        added.cost = added.cost.or(new.cost);
        let execution = outcome.identity;
        let was_pending = new.status.is_some();
        let outcome = if let Some(status) = new.status {
            // With what was added while it was pending, and could not be learned.
            let (quality, cost) = (known.quality.or(new.quality), known.cost.or(new.cost));
            Outcome { status, quality, cost, ..outcome }
        } else {
            Outcome { latency_ms: None, quality: new.quality, cost: new.cost, ..outcome }
        };
        let outcome = Box::new(outcome);
        self.controls.push(Control::Feedback { execution, outcome, was_pending });
        Judged::Added
    }
}

/// What is known of an execution, from its outcome and from verdicts.
struct Known {
    status: Option<Status>,
    quality: Option<f64>,
    cost: Option<f64>,
}

fn differs<T: PartialEq + Copy>(
    field: &str,
    known: Option<T>,
    said: Option<T>,
    text: impl Fn(T) -> String,
) -> Option<String> {
    let (known, said) = (known?, said?);
    (known != said).then(|| format!("{field} is {}, known is {} already", text(said), text(known)))
}

fn f64_text(number: f64) -> String {
    number.to_string()
}

impl Learner {
    /// Takes verdicts in, and answers when they are durable.
    pub(super) fn take_feedback(&mut self, request: &FeedbackRequest, now: Now) -> Result<()> {
        let judged = self.judge_all(&request.verdicts, now);
        if let Err(fatal @ (Error::Fatal(_) | Error::Corrupt(_))) = judged {
            return Err(fatal);
        }
        // Whoever asked may have gone.
        let _ = request.reply.send(judged);
        Ok(())
    }

    fn judge_all(&mut self, verdicts: &[Verdict], now: Now) -> Result<Vec<Judged>> {
        // What was sent before may be what they are about.
        self.close_batch(now)?;
        self.all_is_learned()?;
        self.record_decisions(now)?;
        let mut judging = Judging::default();
        let mut judged = Vec::with_capacity(verdicts.len());
        let mut early = Vec::new();
        for (verdict, found) in verdicts.iter().zip(self.judge(verdicts.iter(), &mut judging)?) {
            judged.push(found.unwrap_or_else(|| {
                early.push(verdict.clone());
                Judged::Waits
            }));
        }
        let early: Vec<_> = early.into_iter().map(|verdict| (verdict, now.unix_ms)).collect();
        let is_new = self.keep_verdicts(&early)?;
        let waits = judged.iter_mut().filter(|judged| **judged == Judged::Waits);
        for (judged, _) in waits.zip(is_new).filter(|(_, is_new)| !is_new) {
            *judged = Judged::Known;
        }
        self.add(&judging.controls, now)?;
        self.give_up_crowded_out(now)?;
        Ok(judged)
    }

    /// Says of verdicts that are to be produced what they would come to, and how others find their executions.
    pub(super) fn admit_verdicts(&mut self, request: AdmitVerdictsRequest, now: Now) -> Result<()> {
        let admitted = self.admitted(request.verdicts, now);
        if let Err(fatal @ (Error::Fatal(_) | Error::Corrupt(_))) = admitted {
            return Err(fatal);
        }
        // Whoever asked may have gone.
        let _ = request.reply.send(admitted);
        Ok(())
    }

    fn admitted(&mut self, verdicts: Vec<Verdict>, now: Now) -> Result<Vec<AdmittedVerdict>> {
        self.record_decisions(now)?;
        let told = verdicts.into_iter().map(|verdict| self.store.told_to_others(verdict));
        let told = told.collect::<Result<Vec<_>>>()?;
        let executions = self.store.executions(&told.iter().collect::<Vec<_>>())?;
        let mut judging = Judging::default();
        let admitted = |(verdict, execution): (Verdict, Execution)| {
            let found = match &execution {
                Execution::Known(outcome) => Some(outcome.identity),
                Execution::Unknown | Execution::GivenUp => None,
            };
            let judged = self.judge_one(&verdict, execution, &mut judging)?;
            let judged = judged.unwrap_or(Judged::Waits);
            Ok(AdmittedVerdict { judged, verdict, execution: found })
        };
        told.into_iter().zip(executions).map(admitted).collect()
    }

    /// Of each verdict what it comes to; `None` where its execution is not known.
    pub(super) fn judge<'v>(
        &self,
        verdicts: impl Iterator<Item = &'v Verdict>,
        judging: &mut Judging,
    ) -> Result<Vec<Option<Judged>>> {
        let verdicts: Vec<&Verdict> = verdicts.collect();
        let executions = self.store.executions(&verdicts)?;
        let judged = |(verdict, execution): (&Verdict, Execution)| {
            self.judge_one(verdict, execution, judging)
        };
        verdicts.into_iter().zip(executions).map(judged).collect()
    }

    fn judge_one(
        &self,
        verdict: &Verdict,
        execution: Execution,
        judging: &mut Judging,
    ) -> Result<Option<Judged>> {
        let outcome = match execution {
            Execution::Unknown => return Ok(None),
            Execution::GivenUp => {
                let why = "its decision was given up, and what comes after that is not learned";
                return Ok(Some(Judged::Conflicts(why.to_owned())));
            }
            Execution::Known(outcome) => *outcome,
        };
        if let Entry::Vacant(place) = judging.added.entry(outcome.identity) {
            place.insert(self.store.added(outcome.identity)?);
        }
        Ok(Some(judging.compare(verdict, outcome)))
    }

    /// Has verdicts wait, each from its own time on. Tells of each whether it is new.
    pub(super) fn keep_verdicts(&mut self, verdicts: &[(Verdict, i64)]) -> Result<Vec<bool>> {
        let tenants = &self.tenants;
        let is_known = |tenant: &str| tenant == DEFAULT_TENANT || tenants.contains(tenant);
        let share_of = |tenant| if is_known(tenant) { tenant } else { OF_STRANGERS };
        self.store.keep_verdicts(verdicts, share_of)
    }

    pub(super) fn add(&mut self, controls: &[Control], now: Now) -> Result<()> {
        for controls in controls.chunks(JUDGED_AT_ONCE as usize) {
            self.control(controls, now)?;
        }
        Ok(())
    }

    /// Notes that verdicts may have waited for these outcomes, or for these decisions.
    pub(super) fn note_awaited(&mut self, outcomes: &[Outcome], decisions: &[Waiting], now: Now) {
        if self.store.awaited() == 0 {
            return;
        }
        let of_outcomes = outcomes.iter().flat_map(|outcome| {
            let decision = outcome.decision.as_ref();
            let decision = decision.map(|named| decision_key(&outcome.tenant, named.id()));
            std::iter::once(outcome.identity).chain(decision)
        });
        // An outcome may have come before its decision was recorded.
        let of_decisions = decisions.iter().map(|of| decision_key(&of.tenant, &of.id));
        for target in of_outcomes.chain(of_decisions) {
            if self.store.is_awaited(target) {
                self.verdicts.note(target, now.instant);
            }
        }
    }

    /// Judges what waits when its execution may have come; what has waited too long becomes a dead letter.
    pub(super) fn judge_when_due(&mut self, now: Now) -> Result<()> {
        let waits = self.store.awaited() > 0 || self.store.unjudged() > 0;
        if !waits || now.instant < self.verdicts.due {
            return Ok(());
        }
        let mut judged = self.judge_waiting(now);
        if !self.options.by_topic {
            let before_ms = waited_since(self.options.feedback_wait, now.unix_ms);
            judged = judged.and_then(|()| self.end_waits(before_ms, now));
        }
        match judged {
            Ok(()) => {
                self.verdicts.due = now.instant + LOOK_AFTER;
                Ok(())
            }
            Err(error @ (Error::Fatal(_) | Error::Corrupt(_))) => Err(error),
            Err(error) => {
                log::warn!("verdicts=not_judged error=\"{error}\"");
                self.verdicts.due = now.instant + RETRY_AFTER.max(LOOK_AFTER);
                Ok(())
            }
        }
    }

    /// Has an outcome wait for its verdict, if there is room; in the journal it is pending.
    pub(super) fn hold_unjudged(
        &self,
        outcome: &mut Outcome,
        arrived_ms: i64,
        sorted: &mut Sorted,
        counters: &mut Counters,
    ) {
        if !outcome.awaits_verdict || outcome.reward().is_none() {
            return;
        }
        if self.store.may_be_unjudged(sorted.unjudged.len()) {
            sorted.unjudged.push(Unjudged { outcome: outcome.clone(), arrived_ms });
            outcome.status = Status::Pending;
        } else {
            counters.unjudged_not_held += 1;
        }
    }

    /// Gives up verdicts that have waited for their executions since before `before_ms`, and learns, or gives
    /// up, the executions that have waited as long for theirs.
    pub(super) fn end_waits(&mut self, before_ms: i64, now: Now) -> Result<()> {
        loop {
            let late = self.store.waiting_since(before_ms, LOOKED_AT_ONCE)?;
            if late.is_empty() {
                break;
            }
            let detail = "no execution that the verdict names has come in FEEDBACK_WAIT";
            let refusal = Refusal::new(RefusalCode::UnknownTarget, detail);
            self.give_up_verdicts(late.into_iter().map(|late| (late, refusal.clone())), &[], now)?;
        }
        loop {
            let waited = self.store.unjudged_since(before_ms, JUDGED_AT_ONCE)?;
            if waited.is_empty() {
                return Ok(());
            }
            if self.options.learn_unjudged {
                // What was added meanwhile comes along.
                let completed = waited.into_iter().map(|control| self.completed(control));
                let completed = completed.collect::<Result<Vec<_>>>()?;
                self.control(&completed, now)?;
            } else {
                self.store.drop_unjudged(&waited)?;
            }
        }
    }

    fn completed(&self, mut control: Control) -> Result<Control> {
        if let Control::Feedback { execution, outcome, .. } = &mut control {
            let added = self.store.added(*execution)?;
            outcome.quality = outcome.quality.or(added.quality);
            outcome.cost = outcome.cost.or(added.cost);
        }
        Ok(control)
    }

    /// Judges verdicts whose executions may have come, and gives up those for which there is no place.
    pub(super) fn judge_waiting(&mut self, now: Now) -> Result<()> {
        // What comes meanwhile is looked at the next time.
        let came = std::mem::take(&mut self.verdicts.came);
        if let Err(error) = self.judge_those_for(&came, now) {
            self.verdicts.came.extend(came);
            return Err(error);
        }
        if self.verdicts.all_due.is_some_and(|due| now.instant >= due) {
            let mut after = 0;
            loop {
                let some = self.store.waiting_after(after, LOOKED_AT_ONCE)?;
                let Some(last) = some.last() else { break };
                after = last.number;
                self.judge_some(&some, now)?;
            }
            // When something is judged must follow from the topic, for every reader: a crash may have come
            // in between, after it nothing does.
            let again = (!self.options.by_topic).then_some(now.instant + LOOK_AT_ALL_AFTER);
            self.verdicts.all_due = again;
        }
        self.give_up_crowded_out(now)
    }

    fn judge_those_for(&mut self, targets: &BTreeSet<IdentityKey>, now: Now) -> Result<()> {
        let waiting = self.store.waiting_for(targets)?;
        let mut parts = waiting.chunks(LOOKED_AT_ONCE as usize);
        parts.try_for_each(|some| self.judge_some(some, now))
    }

    fn judge_some(&mut self, some: &[WaitingVerdict], now: Now) -> Result<()> {
        let mut judging = Judging::default();
        let judged = self.judge(some.iter().map(|waiting| &waiting.verdict), &mut judging)?;
        let mut done = Vec::new();
        let mut refused = Vec::new();
        for (waiting, judged) in some.iter().zip(judged) {
            match judged {
                None => {}
                Some(Judged::Conflicts(detail)) => {
                    let refusal = Refusal::new(RefusalCode::Conflict, detail);
                    refused.push((waiting.clone(), refusal));
                }
                Some(_) => done.push(waiting.number),
            }
        }
        // After a crash in between they are known.
        self.add(&judging.controls, now)?;
        self.give_up_verdicts(refused, &done, now)
    }

    /// Gives up verdicts for which there is no place to wait.
    pub(super) fn give_up_crowded_out(&mut self, now: Now) -> Result<()> {
        loop {
            let oldest = self.store.crowded_out(LOOKED_AT_ONCE)?;
            if oldest.is_empty() {
                return Ok(());
            }
            let detail = "too many verdicts wait for their executions; of the tenant that has most \
                          of them the oldest give way";
            let refusal = Refusal::new(RefusalCode::CrowdedOut, detail);
            let oldest = oldest.into_iter().map(|oldest| (oldest, refusal.clone()));
            self.give_up_verdicts(oldest, &[], now)?;
        }
    }

    /// Makes dead letters of verdicts that wait, and forgets them and those that are `done`, in one
    /// transaction.
    fn give_up_verdicts(
        &mut self,
        refused: impl IntoIterator<Item = (WaitingVerdict, Refusal)>,
        done: &[u64],
        now: Now,
    ) -> Result<()> {
        let mut judged = done.to_vec();
        let mut given_up = Vec::new();
        for (WaitingVerdict { number, verdict }, refusal) in refused {
            judged.push(number);
            let identity = format!("verdict:{number}");
            given_up.push(GivenUp { verdict, identity, position: None, refusal });
        }
        if judged.is_empty() {
            return Ok(());
        }
        self.keep_given_up(given_up, &judged, &[], now)
    }

    /// Makes dead letters of verdicts, forgets those that are `judged`, and notes how far their source has
    /// been read, in one transaction.
    pub(super) fn keep_given_up(
        &mut self,
        given_up: Vec<GivenUp>,
        judged: &[u64],
        positions: &[Position],
        now: Now,
    ) -> Result<()> {
        let source = if self.options.by_topic { TOPIC } else { HTTP };
        let mut dead_letters = Vec::new();
        let mut counters = self.current_counters(now);
        let created_at = format_time(now.unix_ms);
        for GivenUp { verdict, identity, position, refusal } in given_up {
            Counters::count(&mut counters.rejected, refusal.code.as_str());
            Counters::count(&mut counters.source(source).rejected, refusal.code.as_str());
            counters.last_dead_letter += 1;
            let payload = if source == TOPIC { verdict.to_record(None) } else { verdict.to_json() };
            dead_letters.push(NewDeadLetter {
                source,
                position,
                identity,
                payload: self.options.dead_letter_payload.of(&payload, PAYLOAD_BYTES_MAX),
                created_at: created_at.clone(),
                owner: if self.tenants.contains(&verdict.tenant) {
                    Owner::Tenant(verdict.tenant)
                } else {
                    Owner::Named(verdict.tenant, source)
                },
                refusal,
            });
        }
        let dead_letters = &dead_letters;
        let append = Append { dead_letters, positions, judged, ..Append::default() };
        self.store.append(&append, &mut counters, now.unix_ms)?;
        self.shared.publish_counters(&counters);
        self.counters = counters;
        for letter in dead_letters {
            if letter.refusal.code == RefusalCode::Conflict {
                self.shared.instruments.verdicts("conflict").inc();
            }
        }
        Ok(())
    }
}

/// A verdict that becomes a dead letter.
pub(super) struct GivenUp {
    pub(super) verdict: Verdict,
    /// Of its arrival.
    pub(super) identity: String,
    /// Topic, partition and offset, where it has just come from there.
    pub(super) position: Option<(Arc<str>, i32, i64)>,
    pub(super) refusal: Refusal,
}
