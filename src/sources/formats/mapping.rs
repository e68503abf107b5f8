//! From a foreign record to an outcome event, by a map.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map as Object, Value};

use super::Choices;
use super::map::{AGENT_FIELD, Condition, LIST, Line, Many, Map, Variable};
use super::path::{Path, Root, Segment, Wanted, is_set, member};
use super::transform::{Made, Transform, text_of};
use crate::outcome::{Refusal, RefusalCode};

/// Most verdicts that are kept until what they judge is read.
const VERDICTS_MAX: usize = 1_000_000;
/// What an optional field becomes that can't be read: whoever reads the event counts it as dropped.
const UNREADABLE: &str = "unreadable";

/// A map that is in use.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) map: Map,
    choices: Choices,
    /// What is wanted of a record.
    pub(super) wanted: Wanted,
    /// What is wanted of the document around the records.
    pub(super) wanted_of_document: Wanted,
    verdicts: HashMap<String, Judged>,
    verdicts_kept: usize,
}

/// What is said of one record.
#[derive(Debug, Default)]
struct Judged {
    verdicts: Vec<Verdict>,
    /// The record was there.
    met: AtomicBool,
}

#[derive(Debug)]
struct Verdict {
    kept_as: usize,
    name: String,
    value: Value,
}

/// What is around a record.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) document: Option<&'a Value>,
    /// Parts of the file's name.
    pub(super) named: Option<&'a BTreeMap<String, String>>,
    /// The list that the record is from.
    pub(super) list: Option<&'a str>,
}

/// What became of a record.
#[derive(Debug)]
pub(super) enum Mapped {
    Event(Value),
    /// It is no outcome, or none that was asked for.
    PassedOver,
    /// It should be one: why it is not, and as much of the event as there is.
    Refused(Refusal, Value),
}

/// A record with what its paths may lead to.
struct Seen<'a> {
    record: &'a Value,
    around: Around<'a>,
    variables: BTreeMap<&'a str, String>,
}

impl Mapping {
    pub(super) fn new(mut map: Map, choices: Choices) -> Self {
        map.bind(AGENT_FIELD, &choices.agent_field);
        let (wanted, wanted_of_document) = map.wanted();
        let verdicts = HashMap::new();
        Self { map, choices, wanted, wanted_of_document, verdicts, verdicts_kept: 0 }
    }

    /// Keeps a verdict until the record that it judges is read; other records are left alone.
    ///
    /// # Errors
    /// A text, when there are more than can be kept.
    pub(super) fn keep_verdict(
        &mut self,
        record: &Value,
        around: Around<'_>,
    ) -> Result<(), String> {
        let seen = Seen { record, around, variables: BTreeMap::new() };
        let value = |lines: &Many<Line>| match seen.lines(lines) {
            Made::Value(value) => Some(value),
            Made::Nothing | Made::Unreadable(_) => None,
        };
        for (kept_as, kind) in self.map.verdicts.iter().enumerate() {
            if !seen.meets(&kind.only) {
                continue;
            }
            let (Some(target), Some(name), Some(value)) =
                (value(&kind.target), value(&kind.name), value(&kind.value))
            else {
                continue;
            };
            self.verdicts_kept += 1;
            if self.verdicts_kept > VERDICTS_MAX {
                return Err(format!(
                    "there are more than {VERDICTS_MAX} verdicts: split the files"
                ));
            }
            let verdict = Verdict { kept_as, name: text_of(&name).into_owned(), value };
            self.verdicts.entry(text_of(&target).into_owned()).or_default().verdicts.push(verdict);
        }
        Ok(())
    }

    /// How many verdicts judge what no file holds.
    pub(super) fn verdicts_unmet(&self) -> u64 {
        let unmet = self.verdicts.values().filter(|judged| !judged.met.load(Ordering::Relaxed));
        unmet.map(|judged| judged.verdicts.len() as u64).sum()
    }

    /// The event that a record is.
    pub(super) fn map(&self, mut record: Value, around: Around<'_>) -> Mapped {
        self.judge(&mut record, around);
        let mut seen = Seen { record: &record, around, variables: BTreeMap::new() };
        let only = match &self.map.only_agents {
            Some(only) if !self.choices.agents.is_empty() => only,
            _ => &self.map.only,
        };
        if !seen.meets(only) {
            return Mapped::PassedOver;
        }
        let mut event = Object::new();
        for (name, variable) in &self.map.variables {
            match self.variable(&seen, variable) {
                Ok(Some(key)) => {
                    seen.variables.insert(name, key);
                }
                Ok(None) => {}
                Err(why) => {
                    let refusal = Refusal::new(RefusalCode::MissingStatus, why);
                    return Mapped::Refused(refusal, Value::Object(event));
                }
            }
        }
        let mut refused = None;
        for (field, lines) in &self.map.event {
            let (made, code) = (seen.lines(lines), required(field));
            let value = match (made, code) {
                (Made::Value(value), _) => value,
                (Made::Nothing, None) => continue,
                (Made::Unreadable(_), None) => UNREADABLE.into(),
                (Made::Nothing, Some(code)) => {
                    let paths: Vec<String> = lines.0.iter().flat_map(Line::shown).collect();
                    let mut why =
                        format!("{field} is missing: nothing is set of {}", paths.join(", "));
                    if let Some(name) = self.unasked(&seen, lines) {
                        write!(why, "; --score names which {{{name}}} is meant")
                            .expect("writing to a String can't fail");
                    }
                    refused.get_or_insert(Refusal::new(code, why));
                    continue;
                }
                (Made::Unreadable(why), Some(code)) => {
                    let code = match code {
                        RefusalCode::MissingStatus => RefusalCode::UnknownStatus,
                        _ => RefusalCode::InvalidAgentName,
                    };
                    refused.get_or_insert(Refusal::new(code, format!("{field}: {why}")));
                    continue;
                }
            };
            match field.split_once('.') {
                None => {
                    event.insert(field.clone(), value);
                }
                Some((outer, key)) => {
                    let context =
                        event.entry(outer).or_insert_with(|| Value::Object(Object::new()));
                    if let Value::Object(context) = context {
                        context.insert(key.to_owned(), value);
                    }
                }
            }
        }
        if let (Some(task_type), None) = (&self.choices.task_type, event.get("task_type")) {
            event.insert("task_type".to_owned(), task_type.clone().into());
        }
        let is_asked = |agent: &Value| {
            let agent = text_of(agent);
            self.choices.agents.is_empty()
                || self.choices.agents.iter().any(|asked| *asked == agent)
        };
        match (event.get("agent_name").is_none_or(is_asked), refused) {
            (false, _) => Mapped::PassedOver,
            (true, Some(refusal)) => Mapped::Refused(refusal, Value::Object(event)),
            (true, None) => Mapped::Event(Value::Object(event)),
        }
    }

    /// A variable that `--score` would give a value which these lines lack.
    fn unasked(&self, seen: &Seen<'_>, lines: &Many<Line>) -> Option<&str> {
        let mut names = lines.0.iter().flat_map(|line| &line.from.0).flat_map(Path::variables);
        let unset = names.find(|name| !seen.variables.contains_key(name))?;
        let (name, variable) = self.map.variables.get_key_value(unset)?;
        variable.name_in.is_some().then_some(name)
    }

    /// Puts what is said of a record into it.
    fn judge(&self, record: &mut Value, around: Around<'_>) {
        if self.verdicts.is_empty() {
            return;
        }
        let mut found = BTreeMap::<&str, Object<String, Value>>::new();
        for (kept_as, kind) in self.map.verdicts.iter().enumerate() {
            let seen = Seen { record, around, variables: BTreeMap::new() };
            for line in &kind.of.0 {
                let Made::Value(target) = seen.line(&line.from, &line.transforms) else { continue };
                let Some(judged) = self.verdicts.get(&*text_of(&target)) else { continue };
                judged.met.store(true, Ordering::Relaxed);
                let of_kind = judged.verdicts.iter().filter(|verdict| verdict.kept_as == kept_as);
                for verdict in of_kind {
                    // What is said of the record itself stands before what is said of its group.
                    let names = found.entry(&kind.kept_as).or_default();
                    names.entry(&verdict.name).or_insert_with(|| verdict.value.clone());
                }
            }
        }
        if let Value::Object(record) = record {
            record.extend(found.into_iter().map(|(name, names)| (name.to_owned(), names.into())));
        }
    }

    fn variable(&self, seen: &Seen<'_>, variable: &Variable) -> Result<Option<String>, String> {
        let Some(names_at) = &variable.name_in else {
            return match seen.line(&variable.from, &variable.transforms) {
                Made::Value(value) => Ok(Some(text_of(&value).into_owned())),
                Made::Nothing => Ok(None),
                Made::Unreadable(why) => Err(why),
            };
        };
        let names: Option<Vec<String>> = seen.at(names_at).map(|names| match &*names {
            Value::Object(map) => map.keys().cloned().collect(),
            Value::Array(list) => list.iter().map(|name| text_of(name).into_owned()).collect(),
            other => vec![text_of(other).into_owned()],
        });
        let mut asked = self.choices.scores.iter();
        let has = |name: &&String| names.as_ref().is_none_or(|names| names.contains(name));
        match names.as_deref() {
            _ if !self.choices.scores.is_empty() => Ok(asked.find(has).cloned()),
            None | Some([]) => Ok(None),
            Some(_) if variable.only_asked => Ok(None),
            Some([name]) => Ok(Some(name.clone())),
            Some(names) => {
                let names: Vec<&str> = names.iter().take(8).map(String::as_str).collect();
                Err(format!(
                    "{names_at} holds several ({}), of which --score has to name one",
                    names.join(", ")
                ))
            }
        }
    }
}

/// How an event is refused that lacks this field.
fn required(field: &str) -> Option<RefusalCode> {
    match field {
        "agent_name" => Some(RefusalCode::MissingAgentName),
        "status" => Some(RefusalCode::MissingStatus),
        _ => None,
    }
}

impl Line {
    /// Its paths, for a message.
    fn shown(&self) -> impl Iterator<Item = String> {
        self.from.0.iter().map(Path::to_string)
    }
}

impl<'a> Seen<'a> {
    /// Where a path leads, if that is set.
    fn at(&self, path: &Path) -> Option<std::borrow::Cow<'a, Value>> {
        use std::borrow::Cow;
        let mut value = match &path.root {
            Root::Record => self.record,
            Root::Document => self.around.document?,
            Root::Named(name) if name == LIST => {
                return self.around.list.map(|list| Cow::Owned(list.into()));
            }
            Root::Named(name) => {
                let part = self.around.named?.get(name)?;
                return Some(Cow::Owned(part.as_str().into()));
            }
        };
        for segment in &path.segments {
            let key = match segment {
                Segment::Key(key) => key,
                Segment::Variable(name) => self.variables.get(name.as_str())?,
            };
            value = member(value, key)?;
        }
        is_set(value).then_some(Cow::Borrowed(value))
    }

    /// What the first line that says something makes of the record.
    fn lines(&self, lines: &Many<Line>) -> Made {
        let mut unreadable = None;
        for line in &lines.0 {
            match self.line(&line.from, &line.transforms) {
                Made::Value(value) => return Made::Value(value),
                Made::Nothing => {}
                Made::Unreadable(why) => {
                    unreadable.get_or_insert(why);
                }
            }
        }
        unreadable.map_or(Made::Nothing, Made::Unreadable)
    }

    fn line(&self, from: &Many<Path>, transforms: &Many<Transform>) -> Made {
        let mut transforms = transforms.0.as_slice();
        let mut made = match transforms {
            [first, rest @ ..] if first.takes().is_some() => {
                transforms = rest;
                let values: Vec<_> = from.0.iter().filter_map(|path| self.at(path)).collect();
                if values.len() < from.0.len() {
                    return Made::Nothing;
                }
                let values: Vec<&Value> = values.iter().map(|value| &**value).collect();
                first.of_all(&values)
            }
            _ => match from.0.iter().find_map(|path| self.at(path)) {
                Some(value) => Made::Value(value.into_owned()),
                None => return Made::Nothing,
            },
        };
        for transform in transforms {
            made = match made {
                Made::Value(value) => transform.of(value),
                other => return other.in_field(from),
            };
        }
        made.in_field(from)
    }

    fn meets(&self, conditions: &[Condition]) -> bool {
        conditions.iter().all(|condition| {
            let value = condition.from.0.iter().find_map(|path| self.at(path));
            let is_one = |values: &Vec<Value>| {
                value.as_ref().is_some_and(|value| values.iter().any(|other| *other == **value))
            };
            condition.set.is_none_or(|set| set == value.is_some())
                && condition.one_of.as_ref().is_none_or(is_one)
                && !condition.none_of.as_ref().is_some_and(is_one)
        })
    }
}

impl Made {
    /// Says of which field something can't be read.
    fn in_field(self, from: &Many<Path>) -> Self {
        match self {
            Self::Unreadable(why) => {
                let paths: Vec<String> = from.0.iter().map(Path::to_string).collect();
                Self::Unreadable(format!("{} {why}", paths.join(", ")))
            }
            other => other,
        }
    }
}
