//! Executions with more than one outcome: attempts at the same, and items of a batch.

use super::raw::Scalar;
use super::{DecisionRef, IdentityKey, NAME_BYTES_MAX, identity_key, json_array};

/// One of the outcomes of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Which execution: of what is decided or run, by which agent, on which item.
    pub execution: IdentityKey,
    /// Counts up from one attempt to the next; 0 where it is not told.
    pub number: u32,
    /// No other outcome of the execution follows.
    pub is_final: bool,
    /// The event has a number, or says whether it is final.
    pub is_told: bool,
    /// It is about an item of several.
    pub of_item: bool,
}

/// What an event says of its place among those of one execution.
pub(super) struct Place {
    item: Option<String>,
    number: Option<u32>,
    is_final: Option<bool>,
}

impl Place {
    /// By the fields `item`, `attempt` and `final`.
    pub(super) fn of(
        [item, attempt, last]: [&Scalar<'_>; 3],
        dropped: &mut Vec<&'static str>,
    ) -> Self {
        Self {
            item: item_of(item, dropped),
            number: attempt_number(attempt, dropped),
            is_final: is_final(last, dropped),
        }
    }

    /// What belongs to the identity of an event that has none of its own; nothing where it says nothing,
    /// so that what an older program remembers stays as it was.
    pub(super) fn parts(&self) -> Vec<String> {
        let item = self.item.as_ref().map(|item| format!("item {item}"));
        let number = self.number.map(|number| format!("attempt {number}"));
        let rest = (self.is_final == Some(false)).then(|| "not final".to_owned());
        [item, number, rest].into_iter().flatten().collect()
    }

    /// The execution is told by a decision; or, where the event says that there may be several outcomes,
    /// by its run, by what it correlates with, or by itself.
    pub(super) fn attempt(
        &self,
        tenant: &str,
        agent: &str,
        decision: Option<&DecisionRef>,
        run_id: Option<&str>,
        identity: &str,
    ) -> Option<Attempt> {
        let is_told = self.number.is_some() || self.is_final.is_some();
        let run = run_id.filter(|_| is_told).map(|id| ("run", id));
        let of = match decision {
            Some(DecisionRef::Explicit(id)) => Some(("decision", &**id)),
            Some(DecisionRef::Correlation(id)) if is_told => run.or(Some(("correlation", id))),
            _ => run.or_else(|| (self.is_final == Some(false)).then_some(("event", identity))),
        };
        let (kind, id) = of?;
        let item = self.item.as_deref().unwrap_or_default();
        Some(Attempt {
            execution: identity_key(tenant, &json_array([kind, id, agent, item])),
            number: self.number.unwrap_or(0),
            is_final: self.is_final.unwrap_or(true),
            is_told,
            of_item: self.item.is_some(),
        })
    }
}

/// Which of several things this is about: a number, 0 included, or a name.
fn item_of(value: &Scalar<'_>, dropped: &mut Vec<&'static str>) -> Option<String> {
    match value {
        Scalar::Null => None,
        Scalar::Text(text) if text.trim().is_empty() => None,
        Scalar::Digits(_) | Scalar::Text(_) if value.text().len() <= NAME_BYTES_MAX => {
            Some(value.text().into_owned())
        }
        _ => {
            dropped.push("item");
            None
        }
    }
}

/// Which attempt at the same this is.
fn attempt_number(value: &Scalar<'_>, dropped: &mut Vec<&'static str>) -> Option<u32> {
    let text = value.text();
    let number = text.trim().parse().ok();
    let is_unset = matches!(value, Scalar::Null | Scalar::Text(_)) && text.trim().is_empty();
    if number.is_none() && !is_unset {
        dropped.push("attempt");
    }
    number
}

/// Whether no other outcome follows, where the event says so.
fn is_final(value: &Scalar<'_>, dropped: &mut Vec<&'static str>) -> Option<bool> {
    match value {
        Scalar::Bool(is_final) => return Some(*is_final),
        // A table has no types.
        Scalar::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" => return Some(true),
            "false" => return Some(false),
            "" => {}
            _ => dropped.push("final"),
        },
        Scalar::Null => {}
        Scalar::Number(_) | Scalar::Digits(_) | Scalar::Composite => dropped.push("final"),
    }
    None
}
