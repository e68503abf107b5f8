//! Verdicts that come after the execution they judge: they add what was missing, and never revise.
//!
//! What they add is a control entry of the journal. One whose execution is not known yet waits for it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::append::Sorted;
use super::{AppendRequest, HTTP, Learner, LeftOut, Now, RETRY_AFTER, Record, Room};
use crate::error::{Error, Result};
use crate::model::Control;
use crate::outcome::feedback::{Verdict, decision_key};
use crate::outcome::{IdentityKey, Outcome, Payload, Refusal, RefusalCode, Status};
use crate::store::{Added, Counters, WaitingVerdict};
use crate::watch::reporting::waited_since;

/// Control entries of one transaction.
const JUDGED_AT_ONCE: u32 = 256;
/// Pause between looking for verdicts that have waited too long.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Verdicts of one sender.
pub struct FeedbackRequest {
    /// In the order in which they came.
    pub verdicts: Vec<Verdict>,
    /// Answered with one of each, when they are durable.
    pub reply: Sender<Result<Vec<Judged>>>,
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

/// Judges verdicts one after the other.
#[derive(Default)]
struct Judging {
    /// What was added to executions, with what is about to be.
    added: HashMap<IdentityKey, Added>,
    controls: Vec<Control>,
}

impl Judging {
    /// What a verdict adds to an outcome.
    fn judge(&mut self, verdict: &Verdict, outcome: Outcome) -> Judged {
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
        for verdict in verdicts {
            let found = self.judge_one(verdict, &mut judging)?;
            judged.push(found.unwrap_or_else(|| {
                early.push(verdict.clone());
                Judged::Waits
            }));
        }
        let new = self.store.await_executions(&early, now.unix_ms)?;
        let waits = judged.iter_mut().filter(|judged| **judged == Judged::Waits);
        for (judged, _) in waits.zip(new).filter(|(_, is_new)| !is_new) {
            *judged = Judged::Known;
        }
        self.add(&judging.controls, now)?;
        Ok(judged)
    }

    /// `None` where its execution is not known.
    fn judge_one(&self, verdict: &Verdict, judging: &mut Judging) -> Result<Option<Judged>> {
        let Some(outcome) = self.store.execution(verdict)? else { return Ok(None) };
        if let Entry::Vacant(place) = judging.added.entry(outcome.identity) {
            place.insert(self.store.added(outcome.identity)?);
        }
        Ok(Some(judging.judge(verdict, outcome)))
    }

    fn add(&mut self, controls: &[Control], now: Now) -> Result<()> {
        for controls in controls.chunks(JUDGED_AT_ONCE as usize) {
            self.control(controls, now)?;
        }
        Ok(())
    }

    /// Notes that verdicts may have waited for one of these outcomes.
    pub(super) fn note_awaited(&mut self, outcomes: &[Outcome], now: Now) {
        if self.store.awaited() == 0 {
            return;
        }
        let is_awaited = |outcome: &Outcome| {
            let decision = outcome.decision.as_ref();
            self.store.is_awaited(outcome.identity)
                || decision.is_some_and(|decision| {
                    self.store.is_awaited(decision_key(&outcome.tenant, decision.id()))
                })
        };
        if outcomes.iter().any(is_awaited) {
            self.verdicts_due = now.instant;
        }
    }

    /// Judges what waits when its execution may have come; what has waited too long becomes a dead letter.
    pub(super) fn judge_when_due(&mut self, now: Now) -> Result<()> {
        let waits = self.store.awaited() > 0 || self.store.unjudged() > 0;
        if !waits || now.instant < self.verdicts_due {
            return Ok(());
        }
        match self.judge_waiting(now).and_then(|()| self.learn_unjudged(now)) {
            Ok(()) => {
                self.verdicts_due = now.instant + LOOK_AFTER;
                Ok(())
            }
            Err(error @ (Error::Fatal(_) | Error::Corrupt(_))) => Err(error),
            Err(error) => {
                log::warn!("verdicts=not_judged error=\"{error}\"");
                self.verdicts_due = now.instant + RETRY_AFTER.max(LOOK_AFTER);
                Ok(())
            }
        }
    }

    /// Has an outcome wait for its verdict, if there is room; in the journal it is pending.
    pub(super) fn hold_unjudged(
        &self,
        outcome: &mut Outcome,
        sorted: &mut Sorted,
        counters: &mut Counters,
    ) {
        if !outcome.awaits_verdict || outcome.reward().is_none() {
            return;
        }
        if self.store.may_be_unjudged(sorted.unjudged.len()) {
            sorted.unjudged.push(outcome.clone());
            outcome.status = Status::Pending;
        } else {
            counters.unjudged_not_held += 1;
        }
    }

    /// Learns, or gives up, what has waited for a verdict long enough.
    fn learn_unjudged(&mut self, now: Now) -> Result<()> {
        let before_ms = waited_since(self.options.feedback_wait, now.unix_ms);
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

    fn judge_waiting(&mut self, now: Now) -> Result<()> {
        if self.store.awaited() == 0 {
            return Ok(());
        }
        self.close_batch(now)?;
        self.all_is_learned()?;
        let mut judging = Judging::default();
        let mut done = Vec::new();
        for WaitingVerdict { number, verdict } in self.store.waiting_verdicts(None)? {
            if let Some(judged) = self.judge_one(&verdict, &mut judging)? {
                if let Judged::Conflicts(detail) = judged {
                    log::info!("verdict=refused detail=\"{detail}\"");
                }
                done.push(number);
            }
        }
        // After a crash in between they are known.
        self.add(&judging.controls, now)?;
        self.store.forget_verdicts(&done)?;
        let before_ms = waited_since(self.options.feedback_wait, now.unix_ms);
        let late = self.store.waiting_verdicts(Some(before_ms))?;
        if late.is_empty() {
            return Ok(());
        }
        self.bury(&late, now)
    }

    /// Makes dead letters of verdicts whose execution never came.
    fn bury(&mut self, late: &[WaitingVerdict], now: Now) -> Result<()> {
        let record = |WaitingVerdict { number, verdict }: &WaitingVerdict| {
            let json = serde_json::to_vec(verdict).unwrap_or_default();
            let size = json.len();
            let detail = "no execution that the verdict names has come in FEEDBACK_WAIT";
            Record {
                content: Err(Refusal::new(RefusalCode::UnknownTarget, detail)),
                payload: Payload::new(std::sync::Arc::new(json), 0..size),
                identity: format!("verdict:{number}"),
                source: HTTP,
                position: None,
                replay_of: None,
                tenant: Some(verdict.tenant.clone()),
            }
        };
        let (reply, replied) = crossbeam_channel::bounded(1);
        self.group.push(AppendRequest {
            records: late.iter().map(record).collect(),
            left_out: LeftOut::new(),
            room: Room::unlimited(),
            positions: Vec::new(),
            replayed: Vec::new(),
            reply,
        });
        self.append_group(now)?;
        match replied.try_recv() {
            Ok(Ok(_)) => {
                let numbers: Vec<u64> = late.iter().map(|late| late.number).collect();
                self.store.forget_verdicts(&numbers)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(()),
        }
    }
}
