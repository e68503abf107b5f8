//! What is read from a topic: outcomes, and verdicts on them.
//!
//! Every reader must come to the same. So a verdict takes effect after all records before it and before all
//! after it; one that waits takes effect right after its execution; and a wait ends before the first record
//! that came into the topic too late for it, whatever a clock says. Where there are no verdicts the records
//! are taken together, which is faster.

use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};

use super::feedback::{GivenUp, Judging};
use super::{AppendReply, AppendRequest, Judged, Learner, LeftOut, Now, Record, Room};
use crate::error::{Error, Result};
use crate::outcome::feedback::{Verdict, decision_key};
use crate::outcome::{Outcome, Refusal, RefusalCode};
use crate::store::Position;
use crate::watch::reporting::waited_since;

/// Records of a topic, which become durable with how far it was read.
pub struct TopicRequest {
    /// Its name.
    pub topic: Arc<str>,
    /// In the order in which they were read.
    pub records: Vec<FromTopic>,
    /// How far it has been read with them.
    pub positions: Vec<Position>,
    /// Answered once they are durable.
    pub reply: Sender<Result<AppendReply>>,
}

/// A record of a topic.
pub struct FromTopic {
    /// What it says.
    pub said: Said,
    /// Where it stands.
    pub partition: i32,
    /// Where in there.
    pub offset: i64,
    /// When it came, Unix ms, by whoever wrote it or by the broker.
    pub time_ms: i64,
}

/// What a record of a topic says.
#[expect(clippy::large_enum_variant, reason = "nearly all are outcomes")]
pub enum Said {
    /// An outcome, or nothing that can be understood.
    Record(Record),
    /// A verdict.
    Verdict(Verdict),
}

/// Records that are taken together: outcomes, or verdicts.
#[derive(Default)]
struct Part {
    records: Vec<Record>,
    verdicts: Vec<(Verdict, i64, (i32, i64))>,
    positions: Vec<Position>,
}

impl Part {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.verdicts.is_empty()
    }

    /// Goes on to behind a record, in a partition that is read up to one of `ends` in the end.
    fn pass(&mut self, partition: i32, offset: i64, ends: &[Position]) {
        let mut own = self.positions.iter_mut();
        if let Some(own) = own.find(|position| position.partition == partition) {
            own.next_offset = offset + 1;
            return;
        }
        let end = ends.iter().find(|position| position.partition == partition);
        self.positions.extend(end.map(|end| Position { next_offset: offset + 1, ..end.clone() }));
    }
}

impl Learner {
    /// Takes in what was read from a topic.
    pub(super) fn take_topic(&mut self, mut request: TopicRequest, now: Now) -> Result<()> {
        let before = std::mem::take(&mut self.taken);
        let is_retry = !before.is_empty();
        request.records.retain(|record| {
            let was_taken = |taken: &Position| {
                let is_same = request.positions.iter().any(|position| {
                    (position.partition, &position.topic_id, position.resets)
                        == (taken.partition, &taken.topic_id, taken.resets)
                });
                is_same && taken.partition == record.partition && record.offset < taken.next_offset
            };
            !before.iter().any(was_taken)
        });
        let TopicRequest { topic, records, positions, reply } = request;
        let is_waiting = self.store.awaited() > 0 || self.store.unjudged() > 0;
        if !is_retry && !is_waiting && !records.iter().any(FromTopic::needs_order) {
            let records = records.into_iter().filter_map(|record| match record.said {
                Said::Record(record) => Some(record),
                Said::Verdict(_) => None,
            });
            self.group_records += records.size_hint().1.unwrap_or(1).max(1);
            self.group.push(of_topic(records.collect(), positions, reply));
            return Ok(());
        }
        self.taken = before;
        // Was sent before.
        self.append_group(now)?;
        let taken = self.take_in_order(&topic, records, positions, now);
        match &taken {
            Ok(_) => self.taken.clear(),
            Err(fatal @ (Error::Fatal(_) | Error::Corrupt(_))) => return Err(fatal.clone()),
            Err(error) => log::warn!("topic=not_taken error=\"{error}\""),
        }
        // Whoever asked may have gone.
        let _ = reply.send(taken);
        Ok(())
    }

    fn take_in_order(
        &mut self,
        topic: &Arc<str>,
        records: Vec<FromTopic>,
        positions: Vec<Position>,
        now: Now,
    ) -> Result<AppendReply> {
        // A crash, or what failed, may have come between an execution and the verdict that waited for it.
        self.judge_waiting(now)?;
        let mut part = Part::default();
        let mut oldest_ms = self.store.waiting_from()?;
        for FromTopic { said, partition, offset, time_ms } in records {
            let before_ms = waited_since(self.options.feedback_wait, time_ms);
            if oldest_ms.is_some_and(|oldest_ms| oldest_ms < before_ms) {
                self.take_part(topic, &mut part, now)?;
                self.end_waits(before_ms, now)?;
                oldest_ms = self.store.waiting_from()?;
            }
            let mut may_wait = false;
            let mut is_awaited = false;
            match said {
                Said::Verdict(verdict) => {
                    if !part.records.is_empty() {
                        self.take_part(topic, &mut part, now)?;
                    }
                    may_wait = true;
                    part.verdicts.push((verdict, time_ms, (partition, offset)));
                }
                Said::Record(record) => {
                    if !part.verdicts.is_empty() {
                        self.take_part(topic, &mut part, now)?;
                    }
                    if let Ok(outcome) = &record.content {
                        may_wait = outcome.awaits_verdict;
                        is_awaited = self.is_awaited(outcome);
                    }
                    part.records.push(record);
                }
            }
            part.pass(partition, offset, &positions);
            if may_wait {
                oldest_ms = Some(oldest_ms.map_or(time_ms, |oldest_ms| oldest_ms.min(time_ms)));
            }
            if is_awaited {
                self.take_part(topic, &mut part, now)?;
            }
        }
        if part.is_empty() {
            // Those behind which no record came.
            self.append(Vec::new(), positions, now)?;
        } else {
            part.positions = positions;
            self.take_part(topic, &mut part, now)?;
        }
        Ok(AppendReply::default())
    }

    fn append(&mut self, records: Vec<Record>, positions: Vec<Position>, now: Now) -> Result<()> {
        let (reply, replied) = bounded(1);
        self.group_records += records.len();
        self.group.push(of_topic(records, positions, reply));
        self.append_group(now)?;
        replied.try_recv().unwrap_or_else(|_| Err(unanswered())).map(drop)
    }

    fn is_awaited(&self, outcome: &Outcome) -> bool {
        let of_decision = |id: &str| self.store.is_awaited(decision_key(&outcome.tenant, id));
        self.store.is_awaited(outcome.identity)
            || outcome.decision.as_ref().is_some_and(|decision| of_decision(decision.id()))
    }

    fn take_part(&mut self, topic: &Arc<str>, part: &mut Part, now: Now) -> Result<()> {
        if part.is_empty() {
            return Ok(());
        }
        let Part { records, verdicts, positions } = std::mem::take(part);
        if verdicts.is_empty() {
            self.append(records, positions.clone(), now)?;
            self.went_on(positions);
            return self.judge_waiting(now);
        }
        self.take_verdicts(topic, verdicts, &positions, now)?;
        self.went_on(positions);
        Ok(())
    }

    /// What was taken so far is not taken again, should the rest fail.
    fn went_on(&mut self, positions: Vec<Position>) {
        for position in positions {
            self.taken.retain(|taken| taken.partition != position.partition);
            self.taken.push(position);
        }
    }

    /// Judges verdicts, in their order. What they add is durable before the position behind them: after a
    /// crash in between they are read again, and known.
    fn take_verdicts(
        &mut self,
        topic: &Arc<str>,
        verdicts: Vec<(Verdict, i64, (i32, i64))>,
        positions: &[Position],
        now: Now,
    ) -> Result<()> {
        let mut judging = Judging::default();
        let judged = self.judge(verdicts.iter().map(|(verdict, ..)| verdict), &mut judging)?;
        self.add(&judging.controls, now)?;
        let mut early = Vec::new();
        let mut given_up = Vec::new();
        for ((verdict, time_ms, (partition, offset)), judged) in verdicts.into_iter().zip(judged) {
            let result = match judged {
                None => {
                    early.push((verdict, time_ms));
                    continue;
                }
                Some(Judged::Conflicts(detail)) => {
                    given_up.push(GivenUp {
                        verdict,
                        identity: format!("kafka:{topic}:{partition}:{offset}"),
                        position: Some((topic.clone(), partition, offset)),
                        refusal: Refusal::new(RefusalCode::Conflict, detail),
                    });
                    continue;
                }
                Some(Judged::Added) => "added",
                Some(Judged::Waits | Judged::Known) => "known",
            };
            self.shared.instruments.verdicts(result).inc();
        }
        for is_new in self.keep_verdicts(&early)? {
            let result = if is_new { "waiting" } else { "known" };
            self.shared.instruments.verdicts(result).inc();
        }
        self.give_up_crowded_out(now)?;
        self.keep_given_up(given_up, &[], positions, now)
    }
}

impl FromTopic {
    /// It waits for another record, or another may wait for it.
    fn needs_order(&self) -> bool {
        match &self.said {
            Said::Verdict(_) => true,
            Said::Record(record) => {
                record.content.as_ref().is_ok_and(|outcome| outcome.awaits_verdict)
            }
        }
    }
}

fn of_topic(
    records: Vec<Record>,
    positions: Vec<Position>,
    reply: Sender<Result<AppendReply>>,
) -> AppendRequest {
    AppendRequest {
        records,
        left_out: LeftOut::new(),
        // The topic forgets them, at some time.
        room: Room::unlimited(),
        positions,
        replayed: Vec::new(),
        reply,
    }
}

/// The learner answers everything that it takes.
fn unanswered() -> Error {
    Error::Unavailable("what was read from the topic was not answered".to_owned())
}
