//! A group of records made durable: sorted into new, known and refused ones, journaled in one transaction,
//! and acknowledged.

use std::collections::{BTreeSet, HashMap, HashSet, hash_map};
use std::time::Instant;

use crossbeam_channel::Sender;

use super::event::{AppendReply, AppendRequest, Now, Record, TOPIC};
use super::inbox::{LeftOut, REJECTED_NAMED_MAX};
use super::{Learner, RETRY_AFTER};
use crate::error::{Error, Result};
use crate::outcome::decisions::{Asked, Waiting};
use crate::outcome::feedback::Verdict;
use crate::outcome::{
    ContentKey, DEFAULT_TENANT, IdentityKey, Outcome, Refusal, RefusalCode, format_time,
    is_conflict, named_tenant,
};
use crate::store::{
    Append, Counters, Late, NewDeadLetter, Owner, PAYLOAD_BYTES_MAX, Position, Provisional,
    SourceCounters, Taken, Unjudged,
};

/// Journaled outcomes that may wait to be learned; more are pushed back while learning fails.
pub(super) const PENDING_OUTCOMES_MAX: usize = 100_000;
/// Answered selections in one transaction after which recording rests, and for how many times as long
/// as that took: a flood of predictions must leave learning, and the predictions, their time.
pub(super) const RECORDED_AT_ONCE: usize = 1_024;
const RECORDING_RESTS: u32 = 4;

/// A group of records, sorted for the append.
#[derive(Default)]
pub(super) struct Sorted {
    pub(super) outcomes: Vec<Outcome>,
    /// Those of the outcomes, each with its content.
    pub(super) identities: HashMap<IdentityKey, ContentKey>,
    /// Tenants that the outcomes bring.
    pub(super) tenants: BTreeSet<String>,
    pub(super) dead_letters: Vec<NewDeadLetter>,
    pub(super) replayed: Vec<String>,
    pub(super) positions: Vec<Position>,
    pub(super) replies: Vec<(Sender<Result<AppendReply>>, AppendReply)>,
    /// Outcomes that teach nothing, because their decision was given up.
    pub(super) late: Vec<Late>,
    /// Outcomes that teach nothing yet, because a verdict is still to come, as they came.
    pub(super) unjudged: Vec<Unjudged>,
    /// Outcomes that teach nothing, because the final one is still to come.
    pub(super) provisional: Vec<Provisional>,
}

/// What was asked in recorded decisions, by tenant and id; `None` where there is none.
pub(super) type Forgotten = HashMap<(String, String), Option<Asked>>;

/// Decisions that outcomes name and that were given up: tenant, id and agent.
pub(super) type GivenUp = HashSet<(String, String, String)>;

/// What the database has of the decisions that a group names.
pub(super) struct Known {
    pub(super) forgotten: Forgotten,
    pub(super) given_up: GivenUp,
    /// Outcomes whose execution was reported otherwise.
    pub(super) same: Vec<IdentityKey>,
}

impl Learner {
    pub(super) fn append_group(&mut self, now: Now) -> Result<()> {
        let mut group = std::mem::take(&mut self.group);
        if self.shared.decisions.waiting() == 0 {
            self.decisions_due = None;
        }
        let record = self.decisions_due.is_some_and(|due| now.instant >= due);
        if group.is_empty() && !record {
            return Ok(());
        }
        self.group_records = 0;
        if !group.is_empty() && self.pending.len() > PENDING_OUTCOMES_MAX && self.retry_at.is_some()
        {
            let error = Error::Unavailable("learning is stalled: try again later".to_owned());
            for request in group {
                let _ = request.reply.send(Err(error.clone()));
            }
            return Ok(());
        }
        if !group.is_empty() {
            self.heed_memory(now)?;
            if let Some(error) = self.lacks_memory() {
                return self.refuse(group, error);
            }
        }
        let (known, taken) = match self.look_up(&mut group, now) {
            Ok(known) => known,
            Err(error) => return self.refuse(group, error),
        };
        let mut counters = self.current_counters(now);
        let mut sorted = self.sort(group, &known, &mut counters, now);
        // An outcome in the group may be of any decision answered until now.
        let mut decisions = Vec::new();
        if record || now.instant >= self.decisions_rest {
            decisions = self.shared.decisions.take_waiting();
            self.decisions_due = None;
        }
        count_decisions(&decisions, &mut counters);
        counters.last_sequence += sorted.outcomes.len() as u64;
        counters.last_dead_letter += sorted.dead_letters.len() as u64;
        if !sorted.outcomes.is_empty() {
            counters.last_event_ms = now.unix_ms;
        }
        let append = Append {
            outcomes: &sorted.outcomes,
            dead_letters: &sorted.dead_letters,
            replayed: &sorted.replayed,
            positions: &sorted.positions,
            decisions: &decisions,
            late: &sorted.late,
            provisional: &sorted.provisional,
            unjudged: &sorted.unjudged,
            taken: &taken,
            judged: &[],
        };
        let began = Instant::now();
        let appended = self.store.append(&append, &mut counters, now.unix_ms);
        if decisions.len() >= RECORDED_AT_ONCE {
            let took = began.elapsed();
            self.decisions_rest = now.instant + took + took * RECORDING_RESTS;
        }
        match &appended {
            Ok(()) => {
                self.shared.note(None);
                self.shared.decisions.written(&decisions);
                self.shared.publish_counters(&counters);
                self.counters = counters;
                self.tenants.append(&mut sorted.tenants);
                self.note_awaited(&sorted.outcomes, &decisions, now);
                if !sorted.outcomes.is_empty() {
                    self.pending_since.get_or_insert(now.instant);
                    self.pending.extend(sorted.outcomes);
                }
            }
            Err(error) => {
                self.shared.note(Some(error));
                if !decisions.is_empty() {
                    self.shared.decisions.give_back(decisions);
                    self.decisions_due = Some(now.instant + RETRY_AFTER);
                }
            }
        }
        for (sender, reply) in sorted.replies {
            // Whoever asked may have gone: what is durable stays so.
            let _ = sender.send(appended.clone().map(|()| reply));
        }
        match appended {
            Err(error @ (Error::Fatal(_) | Error::Corrupt(_))) => Err(error),
            _ => Ok(()),
        }
    }

    /// Answers a group that could not be looked at.
    pub(super) fn refuse(&self, group: Vec<AppendRequest>, error: Error) -> Result<()> {
        self.shared.note(Some(&error));
        for request in group {
            // Whoever asked may have gone.
            let _ = request.reply.send(Err(error.clone()));
        }
        match error {
            Error::Fatal(_) | Error::Corrupt(_) => Err(error),
            _ => Ok(()),
        }
    }

    /// What is to be known of the decisions of a group before it is sorted, and telemetry that takes one
    /// without being its outcome.
    pub(super) fn look_up(
        &mut self,
        group: &mut [AppendRequest],
        now: Now,
    ) -> Result<(Known, Vec<Taken>)> {
        let (same, taken) = self.place_spans(group, now)?;
        let forgotten = self.forgotten_decisions(group)?;
        let given_up = self.given_up(group)?;
        Ok((Known { forgotten, given_up, same }, taken))
    }

    /// What was asked in decisions that new outcomes of the group name, and that are recorded but no
    /// longer remembered; by tenant and id.
    pub(super) fn forgotten_decisions(&self, group: &[AppendRequest]) -> Result<Forgotten> {
        let mut forgotten = Forgotten::new();
        let records = group.iter().flat_map(|request| &request.records);
        // Those of the topic are learned with what they carry.
        for record in records.filter(|record| record.source != TOPIC) {
            let Ok(outcome) = &record.content else { continue };
            if !self.shared.decisions.may_be_recorded(outcome)
                || self.store.is_known(outcome.identity)
            {
                continue;
            }
            let Some(decision) = &outcome.decision else { continue };
            let key = (outcome.tenant.clone(), decision.id().to_owned());
            if let hash_map::Entry::Vacant(place) = forgotten.entry(key) {
                let asked = self.store.asked(&outcome.tenant, decision.id())?;
                place.insert(asked);
            }
        }
        Ok(forgotten)
    }

    /// Sorts the records of a group into new ones, known ones and refused ones, and counts them.
    pub(super) fn sort(
        &self,
        group: Vec<AppendRequest>,
        known: &Known,
        counters: &mut Counters,
        now: Now,
    ) -> Sorted {
        let created_at = format_time(now.unix_ms);
        let mut sorted = Sorted::default();
        let mut sources = Vec::new();
        for request in group {
            let mut reply = AppendReply::default();
            sorted.positions.extend(request.positions);
            sorted.replayed.extend(request.replayed);
            count_left_out(request.left_out, counters, &mut sources, &mut reply);
            for (index, record) in request.records.into_iter().enumerate() {
                let Record { content, payload, identity, source, position, .. } = record;
                let Record { replay_of, tenant, arrived_ms, .. } = record;
                let counted = counters_of(&mut sources, source);
                let admitted = content.and_then(|outcome| {
                    self.admit(&outcome.tenant, &sorted.tenants).map(|()| outcome)
                });
                match admitted {
                    Err(refusal) => {
                        Counters::count(&mut counters.rejected, refusal.code.as_str());
                        Counters::count(&mut counted.rejected, refusal.code.as_str());
                        reply.rejected_total += 1;
                        if reply.rejected.len() < REJECTED_NAMED_MAX {
                            reply.rejected.push((index, refusal.clone()));
                        }
                        // One that is fed back stays where it was.
                        if replay_of.is_some() {
                            continue;
                        }
                        if !request.room.take() {
                            reply.unkept += 1;
                            continue;
                        }
                        let bytes = payload.bytes();
                        sorted.dead_letters.push(NewDeadLetter {
                            source,
                            position,
                            identity,
                            payload: self.options.dead_letter_payload.of(bytes, PAYLOAD_BYTES_MAX),
                            created_at: created_at.clone(),
                            owner: self.owner(source, &refusal, tenant, bytes),
                            refusal,
                        });
                    }
                    Ok(mut outcome) => {
                        sorted.replayed.extend(replay_of);
                        let first = self.first_of(&outcome, known, &mut sorted.identities);
                        if let Some(first) = first {
                            let conflicting = u64::from(is_conflict(first, outcome.content));
                            reply.duplicates += 1;
                            counters.duplicates += 1;
                            counted.duplicates += 1;
                            reply.conflicting += conflicting;
                            counters.conflicting += conflicting;
                            counted.conflicting += conflicting;
                            continue;
                        }
                        reply.accepted += 1;
                        counters.accepted += 1;
                        for field in &outcome.dropped {
                            Counters::count(&mut counters.dropped_fields, field);
                            *reply.dropped.entry(*field).or_default() += 1;
                        }
                        count_spending(&outcome, counters, now);
                        if !self.tenants.contains(&outcome.tenant) {
                            sorted.tenants.insert(outcome.tenant.clone());
                        }
                        if source == TOPIC {
                            // Every replica must learn the same: whoever produced the record has
                            // resolved what could be resolved.
                            outcome.forget_correlation();
                        } else {
                            let named =
                                outcome.decision.as_ref().map(|named| named.id().to_owned());
                            let key = named.map(|id| (outcome.tenant.clone(), id));
                            let recorded = key.and_then(|key| known.forgotten.get(&key));
                            let recorded = recorded.and_then(Option::as_ref);
                            self.shared.decisions.resolve(&mut outcome, recorded);
                        }
                        counted.accept(&outcome, now.unix_ms);
                        if !outcome.resolved && outcome.decision.is_some() {
                            counters.decisions_unresolved += 1;
                        }
                        if known.is_late(&outcome) {
                            counters.decisions_late += 1;
                            sorted.keep_late(&mut outcome);
                        } else {
                            let from_ms = arrived_ms.unwrap_or(now.unix_ms);
                            self.hold_unjudged(&mut outcome, from_ms, &mut sorted, counters);
                            self.hold_provisional(&mut outcome, &mut sorted, counters);
                        }
                        sorted.outcomes.push(outcome);
                    }
                }
            }
            counters.dead_letters_unkept += reply.unkept;
            sorted.replies.push((request.reply, reply));
        }
        for (source, counted) in sources {
            counters.source(source).add(&counted);
        }
        sorted
    }

    /// Whose share of the dead letters a refused record takes. `tenant` is whom its sender may speak for.
    pub(super) fn owner(
        &self,
        source: &'static str,
        refusal: &Refusal,
        tenant: Option<String>,
        record: &[u8],
    ) -> Owner {
        match tenant {
            Some(tenant) => Owner::Tenant(tenant),
            None => match named_tenant(record).or_else(|| Verdict::tenant_of_record(record)) {
                Some(tenant) if self.tenants.contains(&tenant) => Owner::Tenant(tenant),
                Some(tenant) => Owner::Named(tenant, source),
                None if refusal.code.is_of_an_event() => Owner::Tenant(DEFAULT_TENANT.to_owned()),
                None => Owner::Unknown(source),
            },
        }
    }

    /// Refuses an outcome of a tenant past the cap; `new` are those first seen in this group.
    pub(super) fn admit(
        &self,
        tenant: &str,
        new: &BTreeSet<String>,
    ) -> std::result::Result<(), Refusal> {
        let tenants_max = self.model.tenants_max();
        if self.tenants.contains(tenant)
            || new.contains(tenant)
            || self.tenants.len() + new.len() < tenants_max
        {
            return Ok(());
        }
        Err(Refusal::new(
            RefusalCode::TenantLimit,
            format!(
                "tenant_id {tenant:?} is new, and there are {tenants_max} tenants already, which \
                 is the limit"
            ),
        ))
    }

    /// The content of the first outcome of the same execution, if this is not it.
    pub(super) fn first_of(
        &self,
        outcome: &Outcome,
        known: &Known,
        earlier: &mut HashMap<IdentityKey, ContentKey>,
    ) -> Option<ContentKey> {
        if known.same.contains(&outcome.identity) {
            // Telemetry and clients may differ in what they call a success.
            return Some(outcome.content);
        }
        self.first_content((outcome.identity, outcome.content), earlier)
    }

    /// The content of the first outcome with this identity; a new one becomes one of the `earlier`.
    pub(super) fn first_content(
        &self,
        (identity, content): (IdentityKey, ContentKey),
        earlier: &mut HashMap<IdentityKey, ContentKey>,
    ) -> Option<ContentKey> {
        self.store.known_content(identity).or_else(|| match earlier.entry(identity) {
            hash_map::Entry::Occupied(first) => Some(*first.get()),
            hash_map::Entry::Vacant(place) => {
                place.insert(content);
                None
            }
        })
    }
}

/// Counts refused records of which nothing but the number is kept.
fn count_left_out(
    left_out: LeftOut,
    counters: &mut Counters,
    sources: &mut Vec<(&'static str, SourceCounters)>,
    reply: &mut AppendReply,
) {
    for ((source, code), count) in left_out {
        Counters::add(&mut counters.rejected, code, count);
        Counters::add(&mut counters_of(sources, source).rejected, code, count);
        reply.rejected_total += count;
        reply.unkept += count;
    }
}

pub(super) fn count_decisions(decisions: &[Waiting], counters: &mut Counters) {
    for waiting in decisions {
        counters.last_decision += 1;
        counters.decision_bytes += waiting.bytes() as u64;
        counters.decisions_explored += u64::from(waiting.choice.explored);
    }
}

/// What a group brought from `source`. A group has one or two sources.
fn counters_of<'a>(
    sources: &'a mut Vec<(&'static str, SourceCounters)>,
    source: &'static str,
) -> &'a mut SourceCounters {
    let known = sources.iter().position(|(name, _)| *name == source);
    let index = known.unwrap_or_else(|| {
        sources.push((source, SourceCounters::default()));
        sources.len() - 1
    });
    &mut sources[index].1
}

/// Counts what an outcome has cost, if its time tells of which period that is.
pub(super) fn count_spending(outcome: &Outcome, counters: &mut Counters, now: Now) {
    if let Some(cost) = outcome.observed_cost().filter(|_| !outcome.undated) {
        let of = counters.spending.entry(outcome.tenant.clone()).or_default();
        of.add(cost, outcome.time_ms, now.unix_ms);
    }
}
