//! Outcomes by the decisions that they name, for verdicts that come from a topic.
//!
//! The decisions themselves are in the database of who made them, and only there. What the topic says of
//! them is the same for every reader, and so is this.

use std::collections::{HashMap, VecDeque};

use rusqlite::Connection;

use super::Store;
use super::journal::{Entry, newest_first};
use crate::error::Result;
use crate::model::Control;
use crate::outcome::feedback::decision_key;
use crate::outcome::{IdentityKey, Outcome};

/// Entries of the journal, the newest, of which outcomes are found by their decision.
const ENTRIES_MAX: u64 = 100_000;

/// Where the journal has the outcomes of decisions.
#[derive(Debug, Default)]
pub(super) struct ByDecision {
    of: HashMap<IdentityKey, VecDeque<Place>>,
    /// The decisions of all of them, in the order of the journal.
    order: VecDeque<(IdentityKey, u64)>,
}

/// An outcome of a decision.
#[derive(Debug)]
struct Place {
    agent: Box<str>,
    sequence: u64,
    /// It says how it ended.
    has_ended: bool,
}

impl ByDecision {
    /// Those of the journal. What can't be read any more, and all before it, is left out.
    fn load(connection: &Connection) -> Result<Self> {
        let mut found = Vec::new();
        let mut oldest = None;
        newest_first(connection, |sequence, entry| {
            let oldest = *oldest.get_or_insert(sequence.saturating_sub(ENTRIES_MAX));
            match &entry {
                Entry::Outcome(outcome) => found.extend(place(outcome, sequence)),
                Entry::Control(Control::LastAttempt { outcome, .. }) => {
                    found.extend(place(outcome, sequence));
                }
                _ => {}
            }
            sequence > oldest
        })?;
        let mut index = Self::default();
        for (decision, place) in found.into_iter().rev() {
            index.add(decision, place);
        }
        Ok(index)
    }

    /// Takes in an outcome that was journaled.
    pub(super) fn note(&mut self, outcome: &Outcome, sequence: u64) {
        if let Some((decision, place)) = place(outcome, sequence) {
            self.add(decision, place);
        }
    }

    fn add(&mut self, decision: IdentityKey, place: Place) {
        let sequence = place.sequence;
        self.of.entry(decision).or_default().push_back(place);
        self.order.push_back((decision, sequence));
        while let Some((oldest, _)) =
            self.order.front().copied().filter(|(_, oldest)| oldest + ENTRIES_MAX <= sequence)
        {
            self.order.pop_front();
            let Some(places) = self.of.get_mut(&oldest) else { continue };
            places.pop_front();
            if places.is_empty() {
                self.of.remove(&oldest);
            }
        }
    }

    /// The outcome of a decision: the first of the agent, of any if none is named, that says how it ended;
    /// else the last that does not.
    pub(super) fn find(&self, decision: IdentityKey, agent: Option<&str>) -> Option<u64> {
        let of_agent = |place: &&Place| agent.is_none_or(|agent| agent == &*place.agent);
        let mut places = self.of.get(&decision)?.iter().filter(of_agent);
        let ended = places.clone().find(|place| place.has_ended);
        ended.or_else(|| places.next_back()).map(|place| place.sequence)
    }
}

/// Where an outcome is found by its decision; one that is to be followed by the final one is not.
fn place(outcome: &Outcome, sequence: u64) -> Option<(IdentityKey, Place)> {
    let decision = outcome.decision.as_ref()?;
    let has_ended = outcome.reward().is_some();
    let is_final = outcome.attempt.is_none_or(|attempt| attempt.is_final);
    let place = Place { agent: outcome.agent.as_str().into(), sequence, has_ended };
    (has_ended || is_final).then(|| (decision_key(&outcome.tenant, decision.id()), place))
}

impl Store {
    /// From now on, verdicts on decisions find their outcomes by what the outcomes say, whether or not the
    /// decision was made here.
    ///
    /// # Errors
    /// [`crate::error::Error::Unavailable`] when the database can't be read now.
    pub fn find_by_named_decisions(&mut self) -> Result<()> {
        self.by_decision = Some(ByDecision::load(&self.connection)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{DecisionRef, Status};

    fn outcome(agent: &str, status: Status) -> Outcome {
        let decision = Some(DecisionRef::Explicit("d".to_owned()));
        Outcome { decision, ..Outcome::new(agent, status) }
    }

    #[test]
    fn a_decision_has_the_first_outcome_that_says_how_it_ended() {
        let mut index = ByDecision::default();
        let key = decision_key("default", "d");
        let found = |index: &ByDecision, agent| index.find(key, agent);
        assert_eq!(found(&index, None), None);
        index.note(&outcome("amy", Status::Pending), 1);
        index.note(&outcome("amy", Status::Pending), 2);
        assert_eq!(found(&index, Some("amy")), Some(2));
        assert_eq!(found(&index, Some("bob")), None);
        index.note(&outcome("bob", Status::Failure), 3);
        index.note(&outcome("amy", Status::Success), 4);
        index.note(&outcome("amy", Status::Failure), 5);
        assert_eq!((found(&index, Some("amy")), found(&index, None)), (Some(4), Some(3)));
        // What has left the newest entries is not found any more.
        index.note(
            &Outcome { tenant: "t".to_owned(), ..outcome("amy", Status::Success) },
            ENTRIES_MAX + 4,
        );
        assert_eq!((found(&index, Some("amy")), found(&index, Some("bob"))), (Some(5), None));
    }
}
