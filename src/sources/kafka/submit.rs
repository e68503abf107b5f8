//! Outcomes on their way to the topic, from which they come back to be learned by every replica.
//!
//! The learner says which are new; those are written to the topic with their identity and what a
//! decision of ours resolved. Only what can't be learned stays here, as dead letters.

use super::producer::{Outgoing, Producer, unacknowledged};
use super::view::View;
use crate::error::{Error, Result};
use crate::learner::{
    Admission, AdmitRequest, AdmitVerdictsRequest, Admitted, AdmittedVerdict, AppendReply,
    AppendRequest, Event, Inbox, Judged, LeftOut, Record, Reported, Room, SUBMIT_RECORDS_MAX,
    Shared, Sieve,
};
use crate::outcome::feedback::Verdict;
use crate::outcome::{
    ANNOTATION_BYTES_MAX, DecisionRef, RECORD_BYTES_MAX, Refusal, RefusalCode, annotated,
};
use crate::store::Reader;

/// Longest value of a record we write, in bytes.
const VALUE_BYTES_MAX: usize = RECORD_BYTES_MAX + ANNOTATION_BYTES_MAX;

/// Writes records to the outcome topic, in parts of [`SUBMIT_RECORDS_MAX`], and answers once the
/// brokers have acknowledged them. Refused ones become dead letters.
///
/// # Errors
/// [`Error::Unavailable`] when brokers or learner can't take them now. Some may have been taken
/// then: the message says how many.
pub fn submit(
    records: impl Iterator<Item = Record>,
    producer: &Producer,
    view: &View,
    inbox: &Inbox,
    shared: &Shared,
    reader: &Reader,
) -> Result<AppendReply> {
    let mut sieve = Sieve::new(records);
    let mut total = AppendReply::default();
    loop {
        let part: Vec<(usize, Record)> = sieve.by_ref().take(SUBMIT_RECORDS_MAX).collect();
        let last = part.len() < SUBMIT_RECORDS_MAX;
        let letters = Letters { left_out: sieve.take_left_out(), room: sieve.room.clone() };
        submit_part(part, letters, &mut total, producer, view, inbox, (shared, reader))?;
        if last {
            break;
        }
    }
    sieve.name_left_out(&mut total);
    Ok(total)
}

/// What is to be known of a part's dead letters.
struct Letters {
    left_out: LeftOut,
    room: Room,
}

fn submit_part(
    part: Vec<(usize, Record)>,
    letters: Letters,
    total: &mut AppendReply,
    producer: &Producer,
    view: &View,
    inbox: &Inbox,
    (shared, reader): (&Shared, &Reader),
) -> Result<()> {
    let outcomes = part.iter().filter_map(|(_, record)| record.content.as_ref().ok());
    let outcomes: Vec<_> = outcomes.map(Reported::of).collect();
    let admitted = if outcomes.is_empty() {
        Admitted { admissions: Vec::new(), verdicts: Vec::new() }
    } else {
        inbox.ask(|reply| Event::Admit(AdmitRequest { outcomes, dry_run: false, reply }))?
    };
    let mut admissions = admitted.admissions.into_iter();

    let mut outgoing = Vec::new();
    let mut written = Vec::new();
    let mut refused = Vec::new();
    let mut replayed = Vec::new();
    for (index, mut record) in part {
        let admission = match &record.content {
            Ok(_) => admissions.next().unwrap_or(Admission::Known { conflicting: false }),
            Err(refusal) => Admission::Refused(refusal.clone()),
        };
        let admission = match (admission, &mut record.content) {
            (Admission::New { decision }, Ok(outcome)) => {
                if let Some(id) = decision {
                    outcome.decision = Some(DecisionRef::Explicit(id));
                }
                let recorded = match &outcome.decision {
                    Some(decision) if shared.decisions.may_be_recorded(outcome) => {
                        reader.asked(&outcome.tenant, decision.id())?
                    }
                    _ => None,
                };
                shared.decisions.resolve(outcome, recorded.as_ref());
                let value = annotated(record.payload.bytes(), &record.identity, outcome);
                if value.len() <= VALUE_BYTES_MAX {
                    let key = record.identity.clone();
                    outgoing.push(Outgoing { key, value, headers: Vec::new() });
                    written.push(Some((index, record)));
                    continue;
                }
                Admission::Refused(Refusal::new(
                    RefusalCode::TooLarge,
                    format!(
                        "with the context of its decision the record has {} bytes, allowed are \
                         {VALUE_BYTES_MAX}",
                        value.len()
                    ),
                ))
            }
            (admission, _) => admission,
        };
        match admission {
            Admission::Refused(refusal) => refused.push((index, refusal, record)),
            Admission::New { .. } => total.duplicates += 1,
            Admission::Known { conflicting } => {
                total.duplicates += 1;
                total.conflicting += u64::from(conflicting);
                replayed.extend(record.replay_of);
            }
        }
    }

    if !outgoing.is_empty() {
        if let Some(why) = view.away() {
            return Err(unacknowledged(&why, taken(total)));
        }
        let sent = producer.send(producer.topic(), &outgoing);
        total.accepted += sent.delivered.len() as u64;
        let delivered = sent.delivered.iter().filter_map(|place| written[*place].as_ref());
        let outcomes = delivered.filter_map(|(_, record)| record.content.as_ref().ok());
        for field in outcomes.flat_map(|outcome| &outcome.dropped) {
            *total.dropped.entry(*field).or_default() += 1;
        }
        if let Some(why) = sent.failure {
            return Err(unacknowledged(&why, taken(total)));
        }
        for (place, detail) in sent.too_large {
            let Some((index, record)) = written[place].take() else { continue };
            let refusal = Refusal::new(
                RefusalCode::TooLarge,
                format!(
                    "the brokers take no record of {} bytes: {detail}",
                    outgoing[place].value.len()
                ),
            );
            refused.push((index, refusal, record));
        }
        replayed.extend(written.into_iter().flatten().filter_map(|(_, record)| record.replay_of));
    }
    // Sent again after a failure, they are known.
    submit_verdicts(admitted.verdicts, producer, view, inbox)?;
    refused.sort_by_key(|(index, ..)| *index);
    keep_refused(refused, letters, replayed, total, inbox)
}

/// Writes verdicts to the outcome topic, those that are not known there already, and answers once the
/// brokers have acknowledged them. Tells of each what it comes to by what has been read of the topic.
///
/// # Errors
/// As [`submit`].
pub fn submit_verdicts(
    verdicts: Vec<Verdict>,
    producer: &Producer,
    view: &View,
    inbox: &Inbox,
) -> Result<Vec<Judged>> {
    if verdicts.is_empty() {
        return Ok(Vec::new());
    }
    let request = |reply| Event::AdmitVerdicts(AdmitVerdictsRequest { verdicts, reply });
    let admitted = inbox.ask(request)?;
    let is_new = |one: &&AdmittedVerdict| matches!(one.judged, Judged::Added | Judged::Waits);
    let outgoing =
        admitted.iter().filter(is_new).map(|AdmittedVerdict { verdict, execution, .. }| {
            let value = verdict.to_record(*execution);
            Outgoing { key: verdict.target.record_key(), value, headers: Vec::new() }
        });
    let outgoing: Vec<_> = outgoing.collect();
    if !outgoing.is_empty() {
        if let Some(why) = view.away() {
            return Err(unacknowledged(&why, 0));
        }
        let sent = producer.send(producer.topic(), &outgoing);
        let too_large = sent.too_large.into_iter().map(|(_, detail)| detail).next();
        if let Some(why) = sent.failure.or(too_large) {
            return Err(unacknowledged(&why, sent.delivered.len()));
        }
    }
    Ok(admitted.into_iter().map(|one| one.judged).collect())
}

fn taken(total: &AppendReply) -> usize {
    usize::try_from(total.accepted).unwrap_or(usize::MAX)
}

/// Stores dead letters, and removes those that found another way back in.
fn keep_refused(
    refused: Vec<(usize, Refusal, Record)>,
    Letters { left_out, room }: Letters,
    replayed: Vec<String>,
    total: &mut AppendReply,
    inbox: &Inbox,
) -> Result<()> {
    if refused.is_empty() && replayed.is_empty() && left_out.is_empty() {
        return Ok(());
    }
    let mut places = Vec::new();
    let records = refused.into_iter().map(|(index, refusal, record)| {
        places.push(index);
        Record { content: Err(refusal), ..record }
    });
    let records = records.collect();
    let request = |reply| {
        let positions = Vec::new();
        Event::Append(AppendRequest { records, left_out, room, positions, replayed, reply })
    };
    let reply = inbox.ask(request).map_err(|error| match error {
        Error::Unavailable(text) if total.accepted > 0 => unacknowledged(&text, taken(total)),
        other => other,
    })?;
    total.add(reply, &places);
    Ok(())
}
