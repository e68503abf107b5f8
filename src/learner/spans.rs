//! Outcomes of agents' telemetry: they find the decision that they came of by the trace that both are part
//! of. What a client reports and what telemetry tells of one execution is one outcome, whichever is first.

use std::collections::HashMap;

use super::append::count_decisions;
use super::{AppendRequest, Learner, Now, TOPIC};
use crate::error::Result;
use crate::outcome::feedback::{Target, Verdict};
use crate::outcome::{ContentKey, DecisionRef, IdentityKey, Outcome, TraceId};
use crate::store::{Append, Open, Store, Taken};

/// How long after its end an execution's decision may have been made, by clocks that differ, in ms.
const CLOCKS_DIFFER_MS: i64 = 60_000;

/// What tells which outcome this is, and of which decision.
#[derive(Debug, Clone)]
pub struct Reported {
    pub(super) tenant: String,
    pub(super) identity: IdentityKey,
    pub(super) content: ContentKey,
    pub(super) trace: Option<TraceId>,
    pub(super) agent: String,
    pub(super) decision: Option<String>,
    /// Unix time, ms, if it is known.
    pub(super) time_ms: Option<i64>,
    /// The decision may have several outcomes.
    pub(super) of_item: bool,
    /// What it would add to an execution that is known already.
    pub(super) verdict: Verdict,
}

impl Reported {
    /// What it tells of an outcome.
    pub fn of(outcome: &Outcome) -> Self {
        Self {
            tenant: outcome.tenant.clone(),
            identity: outcome.identity,
            content: outcome.content,
            agent: outcome.agent.clone(),
            decision: outcome.decision.as_ref().map(|decision| decision.id().to_owned()),
            trace: outcome.trace,
            time_ms: (!outcome.undated).then_some(outcome.time_ms),
            of_item: outcome.attempt.is_some_and(|attempt| attempt.of_item),
            verdict: Verdict {
                tenant: outcome.tenant.clone(),
                target: Target::Decision {
                    id: outcome.decision.as_ref().map(DecisionRef::id).unwrap_or_default().into(),
                    agent: Some(outcome.agent.clone()),
                },
                status: Some(outcome.status),
                quality: outcome.quality,
                cost: outcome.cost,
            },
        }
    }
}

/// Where an outcome belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Where it says; to no decision, if it names none.
    AsItSays,
    /// It is the outcome of the decision with this id.
    Decision(String),
    /// The same execution was reported otherwise.
    Same,
}

/// Who has reported on a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Client,
    Span(IdentityKey),
}

/// Places outcomes, each with those before it in mind.
#[derive(Default)]
pub(super) struct Placing {
    /// Who reports in this group, by tenant and decision.
    reports: HashMap<(String, String), By>,
    /// Telemetry that is not learned.
    pub(super) taken: Vec<Taken>,
    /// What clients add to executions that telemetry was first to tell of.
    pub(super) verdicts: Vec<Verdict>,
}

impl Placing {
    /// The place of the next new outcome.
    pub(super) fn place(&mut self, store: &Store, reported: &Reported) -> Result<Place> {
        match (reported.trace, &reported.decision) {
            (Some(trace), None) => {
                let decisions = store.of_trace(&reported.tenant, trace, &reported.agent)?;
                let decision = self.decision_of(reported, decisions);
                Ok(decision.map_or(Place::AsItSays, |decision| self.span(reported, decision)))
            }
            (Some(_), Some(id)) => {
                let decision = store.open_decision(&reported.tenant, id, &reported.agent)?;
                let decision = decision.filter(|decision| self.is_free(reported, decision));
                Ok(match decision.map(|decision| self.span(reported, decision)) {
                    Some(Place::Same) => Place::Same,
                    _ => Place::AsItSays,
                })
            }
            (None, Some(id)) if !reported.of_item => {
                let key = (reported.tenant.clone(), id.clone());
                if let Some(By::Span(_)) = self.reports.get(&key) {
                    self.add(reported, false);
                    return Ok(Place::Same);
                }
                if store.has_spans() {
                    let decision = store.open_decision(&reported.tenant, id, &reported.agent)?;
                    if let Some(decision) = decision.filter(|decision| decision.span.is_some()) {
                        // What comes for one that was given up is not learned.
                        if !decision.is_given_up {
                            self.add(reported, decision.is_pending);
                        }
                        return Ok(Place::Same);
                    }
                }
                self.reports.entry(key).or_insert(By::Client);
                Ok(Place::AsItSays)
            }
            (None, _) => Ok(Place::AsItSays),
        }
    }

    /// What a client reports of an execution that telemetry was first to tell of: quality and cost, and
    /// where that is still open, whether it was a success.
    fn add(&mut self, reported: &Reported, is_pending: bool) {
        let Verdict { status, quality, cost, .. } = reported.verdict;
        // One by one: what is known otherwise must not keep the others out.
        let nothing =
            Verdict { status: None, quality: None, cost: None, ..reported.verdict.clone() };
        if status.is_some() && is_pending {
            self.verdicts.push(Verdict { status, ..nothing.clone() });
        }
        if quality.is_some() {
            self.verdicts.push(Verdict { quality, ..nothing.clone() });
        }
        if cost.is_some() {
            self.verdicts.push(Verdict { cost, ..nothing });
        }
    }

    /// Whether no other telemetry has taken it.
    fn is_free(&self, reported: &Reported, decision: &Open) -> bool {
        let is_own = |span: IdentityKey| span == reported.identity;
        let key = (reported.tenant.clone(), decision.id.clone());
        decision.span.is_none_or(is_own)
            && match self.reports.get(&key) {
                Some(By::Span(span)) => is_own(*span),
                Some(By::Client) | None => true,
            }
    }

    /// Of a trace's decisions, newest first, the newest that was made before the execution's end and that
    /// no other telemetry has taken; where clocks differ the first that was made soon after it.
    fn decision_of(&self, reported: &Reported, decisions: Vec<Open>) -> Option<Open> {
        let end_ms = reported.time_ms.unwrap_or(i64::MAX);
        let mut free: Vec<Open> =
            decisions.into_iter().filter(|decision| self.is_free(reported, decision)).collect();
        let before = free.iter().position(|decision| decision.created_ms <= end_ms);
        let place = before.or_else(|| free.len().checked_sub(1))?;
        let decision = free.swap_remove(place);
        (decision.created_ms <= end_ms.saturating_add(CLOCKS_DIFFER_MS)).then_some(decision)
    }

    fn span(&mut self, reported: &Reported, decision: Open) -> Place {
        let key = (reported.tenant.clone(), decision.id.clone());
        let by_client = self.reports.get(&key) == Some(&By::Client);
        self.reports.insert(key, By::Span(reported.identity));
        if !decision.is_reported && !by_client {
            return Place::Decision(decision.id);
        }
        self.taken.push(Taken {
            tenant: reported.tenant.clone(),
            decision: decision.id,
            agent: reported.agent.clone(),
            span: reported.identity,
        });
        Place::Same
    }
}

impl Learner {
    /// Whether outcomes with these traces are to be placed.
    pub(super) fn has_traces(&self, mut traces: impl Iterator<Item = Option<TraceId>>) -> bool {
        self.store.has_spans() || traces.any(|trace| trace.is_some())
    }

    /// Joins the outcomes of a group with the decisions of their traces. Gives those that are of an
    /// execution which was reported otherwise.
    pub(super) fn place_spans(
        &mut self,
        group: &mut [AppendRequest],
        now: Now,
    ) -> Result<(Vec<IdentityKey>, Vec<Taken>)> {
        // Those of the topic were placed by whoever produced them: every replica must learn the same.
        let records = group.iter_mut().flat_map(|request| &mut request.records);
        let outcomes = records.filter(|record| record.source != TOPIC);
        let mut outcomes: Vec<&mut Outcome> =
            outcomes.filter_map(|record| record.content.as_mut().ok()).collect();
        let mut same = Vec::new();
        let mut placing = Placing::default();
        if !self.has_traces(outcomes.iter().map(|outcome| outcome.trace)) {
            return Ok((same, placing.taken));
        }
        self.record_decisions(now)?;
        for outcome in &mut outcomes {
            if self.store.is_known(outcome.identity) {
                continue;
            }
            match placing.place(&self.store, &Reported::of(outcome))? {
                Place::AsItSays => {}
                Place::Decision(id) => outcome.decision = Some(DecisionRef::Explicit(id)),
                Place::Same => {
                    if self.store.is_awaited(outcome.identity) {
                        self.verdicts.note(outcome.identity, now.instant);
                    }
                    same.push(outcome.identity);
                }
            }
        }
        if !placing.verdicts.is_empty() {
            // Durable before the report is answered; should the rest fail, they are known the next time.
            let verdicts: Vec<_> =
                placing.verdicts.iter().map(|verdict| (verdict.clone(), now.unix_ms)).collect();
            self.keep_verdicts(&verdicts)?;
            for verdict in &placing.verdicts {
                self.verdicts.note(verdict.target.key(&verdict.tenant), now.instant);
            }
        }
        Ok((same, placing.taken))
    }

    /// Records the answered selections that wait: those who look for theirs find it in the database.
    pub(super) fn record_decisions(&mut self, now: Now) -> Result<()> {
        let decisions = self.shared.decisions.take_waiting();
        if decisions.is_empty() {
            return Ok(());
        }
        let mut counters = self.current_counters(now);
        count_decisions(&decisions, &mut counters);
        let append = Append { decisions: &decisions, ..Append::default() };
        let appended = self.store.append(&append, &mut counters, now.unix_ms);
        if appended.is_ok() {
            self.shared.decisions.written(&decisions);
            self.shared.publish_counters(&counters);
            self.counters = counters;
            self.note_awaited(&[], &decisions, now);
        } else {
            self.shared.decisions.give_back(decisions);
        }
        appended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Status;

    fn span(number: u8, end_ms: i64) -> Reported {
        let mut outcome = Outcome::new("amy", Status::Success);
        outcome.identity = [number; 16];
        outcome.trace = Some([7; 16]);
        outcome.time_ms = end_ms;
        Reported::of(&outcome)
    }

    /// Made at these times, the newest first.
    fn decisions(created_ms: &[i64]) -> Vec<Open> {
        let open = |ms: &i64| Open {
            id: ms.to_string(),
            created_ms: *ms,
            is_reported: false,
            is_pending: false,
            is_given_up: false,
            span: None,
        };
        created_ms.iter().map(open).collect()
    }

    #[test]
    fn a_span_takes_the_newest_free_decision_before_its_end() {
        let taken_by = |decisions: Vec<Open>, end_ms| {
            let decision = Placing::default().decision_of(&span(1, end_ms), decisions);
            decision.map(|decision| decision.created_ms)
        };
        assert_eq!(taken_by(decisions(&[]), 5), None);
        assert_eq!(taken_by(decisions(&[30, 20, 10]), 25), Some(20));
        assert_eq!(taken_by(decisions(&[30, 20, 10]), 30), Some(30));
        // By clocks that differ the first after it, and no other one.
        assert_eq!(taken_by(decisions(&[30, 20, 10]), 5), Some(10));
        let end_ms = 10 - CLOCKS_DIFFER_MS;
        assert_eq!(taken_by(decisions(&[30, 20, 10]), end_ms), Some(10));
        assert_eq!(taken_by(decisions(&[30, 20, 10]), end_ms - 1), None);
        // Those of other spans are left out, its own is not.
        let mut some = decisions(&[30, 20, 10]);
        some[0].span = Some([2; 16]);
        assert_eq!(taken_by(some.clone(), 99), Some(20));
        some[0].span = Some([1; 16]);
        assert_eq!(taken_by(some, 99), Some(30));
        // One that can't tell when it ended takes the newest.
        let undated = Reported { time_ms: None, ..span(1, 0) };
        let decision = Placing::default().decision_of(&undated, decisions(&[i64::MAX - 1, 1]));
        assert_eq!(decision.map(|decision| decision.created_ms), Some(i64::MAX - 1));
    }

    #[test]
    fn the_spans_of_a_trace_take_a_decision_each() {
        let mut placing = Placing::default();
        let mut place = |number| {
            let reported = span(number, 99);
            let decision = placing.decision_of(&reported, decisions(&[20, 10]));
            decision.map(|decision| placing.span(&reported, decision))
        };
        assert_eq!(place(1), Some(Place::Decision("20".to_owned())));
        assert_eq!(place(1), Some(Place::Decision("20".to_owned())), "again");
        assert_eq!(place(2), Some(Place::Decision("10".to_owned())));
        assert_eq!(place(3), None);
    }
}
