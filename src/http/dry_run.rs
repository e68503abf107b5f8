//! `POST /api/learning/outcomes?dry_run=true`: what would become of these events? Nothing is written.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use super::answers::{FeatureBody, Received, RejectedEvent, features, statuses, time};
use super::{Answer, App, json_response};
use crate::learner::{
    Admission, AdmitRequest, Event, REJECTED_NAMED_MAX, Record, Reported, SUBMIT_RECORDS_MAX,
};
use crate::outcome::{DecisionRef, Outcome, Refusal, format_time, is_conflict};

/// Events that are shown as they would be learned.
const SHOWN_MAX: usize = 1_000;

/// What would become of the events of a request.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DryRun")]
pub(super) struct Tried {
    /// Always true: nothing was written.
    dry_run: bool,
    #[serde(flatten)]
    received: Received,
    /// Those that were understood, the first 1,000, as they would be learned.
    outcomes: Vec<Understood>,
}

/// An event as it would be learned.
#[derive(Serialize, JsonSchema)]
struct Understood {
    /// The place of the event in the request, from 0.
    index: usize,
    /// It is known already, and would teach nothing.
    duplicate: bool,
    tenant_id: String,
    agent_name: String,
    #[schemars(schema_with = "statuses")]
    status: &'static str,
    /// 0 to 1; none where there is nothing to learn from the status.
    #[schemars(range(min = 0.0, max = 1.0))]
    reward: Option<f64>,
    /// That of its decision, where it names one that is known; so is the context.
    task_type: Option<String>,
    /// The features that it would give, by dotted path.
    context: BTreeMap<String, FeatureBody>,
    #[schemars(range(min = 0.0))]
    latency_ms: Option<f64>,
    #[schemars(range(min = 0.0))]
    cost: Option<f64>,
    #[schemars(range(min = 0.0, max = 1.0))]
    quality_score: Option<f64>,
    #[schemars(schema_with = "time")]
    timestamp: String,
    /// The decision that it would be joined with.
    decision_id: Option<String>,
    /// Optional fields that made no sense.
    #[schemars(schema_with = "names")]
    dropped_fields: Vec<&'static str>,
}

fn names(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Vec<String>>()
}

impl Understood {
    fn of(index: usize, duplicate: bool, outcome: Outcome) -> Self {
        Self {
            index,
            duplicate,
            status: outcome.status.as_str(),
            reward: outcome.reward(),
            latency_ms: outcome.latency_ms,
            cost: outcome.cost,
            quality_score: outcome.quality,
            timestamp: format_time(outcome.time_ms),
            tenant_id: outcome.tenant,
            agent_name: outcome.agent,
            task_type: outcome.task_type,
            context: features(outcome.context),
            decision_id: outcome.decision.map(|decision| decision.id().to_owned()),
            dropped_fields: outcome.dropped,
        }
    }
}

impl App {
    pub(super) fn dry_run(&self, records: impl Iterator<Item = Record>) -> Answer {
        let mut records = records.enumerate().peekable();
        let mut received = Received::default();
        let mut shown = Vec::new();
        let mut earlier = HashMap::new();
        while records.peek().is_some() {
            let part: Vec<_> = records.by_ref().take(SUBMIT_RECORDS_MAX).collect();
            let outcomes = part.iter().filter_map(|(_, record)| record.content.as_ref().ok());
            let outcomes = outcomes.map(Reported::of).collect();
            let admitted = self
                .inbox
                .ask(|reply| Event::Admit(AdmitRequest { outcomes, dry_run: true, reply }))?;
            let mut admissions = admitted.admissions.into_iter();
            let refuse = |received: &mut Received, index, refusal: Refusal| {
                received.rejected_total += 1;
                if received.rejected.len() < REJECTED_NAMED_MAX {
                    let (code, detail) = (refusal.code.as_str(), refusal.detail);
                    received.rejected.push(RejectedEvent { index, code, detail });
                }
            };
            for (index, record) in part {
                let mut outcome = match record.content {
                    Ok(outcome) => outcome,
                    Err(refusal) => {
                        refuse(&mut received, index, refusal);
                        continue;
                    }
                };
                let is_new = match admissions.next() {
                    Some(Admission::Refused(refusal)) => {
                        refuse(&mut received, index, refusal);
                        continue;
                    }
                    // An earlier part of the body may hold the same event.
                    Some(Admission::New { decision }) => {
                        if let Some(id) = decision {
                            outcome.decision = Some(DecisionRef::Explicit(id));
                        }
                        match earlier.entry(outcome.identity) {
                            Entry::Vacant(place) => {
                                place.insert(outcome.content);
                                true
                            }
                            Entry::Occupied(first) => {
                                let conflicting = is_conflict(*first.get(), outcome.content);
                                received.conflicting += u64::from(conflicting);
                                false
                            }
                        }
                    }
                    Some(Admission::Known { conflicting }) => {
                        received.conflicting += u64::from(conflicting);
                        false
                    }
                    None => false,
                };
                received.accepted += u64::from(is_new);
                received.duplicates += u64::from(!is_new);
                if is_new {
                    for field in &outcome.dropped {
                        *received.dropped_fields.entry(field).or_default() += 1;
                    }
                }
                if shown.len() < SHOWN_MAX {
                    let named = outcome.decision.as_ref();
                    let recorded =
                        match named.filter(|_| self.shared.decisions.may_be_recorded(&outcome)) {
                            Some(decision) => self.reader.asked(&outcome.tenant, decision.id())?,
                            None => None,
                        };
                    self.shared.decisions.resolve(&mut outcome, recorded.as_ref());
                    shown.push(Understood::of(index, !is_new, outcome));
                }
            }
        }
        Ok(json_response(200, &Tried { dry_run: true, received, outcomes: shown }))
    }
}
