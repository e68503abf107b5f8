//! A map: which of a foreign record's values become which field of an outcome event. It is data, a JSON
//! file; this is its form, and what is checked of it before the first record is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;

use super::path::{Path, Root, Segment, Wanted};
use super::transform::Transform;
use crate::outcome::nearest;

/// The fields of an event that a map may fill; `context.KEY` fills one feature.
const FIELDS: [&str; 14] = [
    "agent_name",
    "status",
    "event_id",
    "run_id",
    "tenant_id",
    "task_type",
    "timestamp",
    "latency_ms",
    "cost_estimate",
    "quality_score",
    "decision_id",
    "context",
    "item",
    "attempt",
];
const CONTEXT: &str = "context.";
/// `@list`: the list that a record is from.
pub(super) const LIST: &str = "list";
/// The variable that stands for the field which `LITELLM_AGENT` names.
pub(super) const AGENT_FIELD: &str = "agent_field";

/// A map as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Map {
    /// What it reads, for people.
    #[serde(default, rename = "about")]
    _about: String,
    /// A pattern such as `{model}.{run}.json`, whose parts are `@model` and `@run`.
    #[serde(default)]
    pub(super) file_name: Option<String>,
    /// Where records stand in a document. Without it each line is a record, or each member of a list.
    #[serde(default)]
    pub(super) records: Many<Path>,
    /// How lines begin that hold no record.
    #[serde(default)]
    pub(super) skip_lines: Option<String>,
    /// What to do with an archive of such files, which can't be read.
    #[serde(default)]
    pub(super) archive: Option<String>,
    /// Which records are outcomes: those that meet all of these.
    #[serde(default)]
    pub(super) only: Vec<Condition>,
    /// The same, where `--agents` names them.
    #[serde(default)]
    pub(super) only_agents: Option<Vec<Condition>>,
    #[serde(default)]
    pub(super) variables: BTreeMap<String, Variable>,
    /// Records that judge others.
    #[serde(default)]
    pub(super) verdicts: Vec<Verdicts>,
    /// What becomes of a record.
    pub(super) event: BTreeMap<String, Many<Line>>,
}

/// The first of `from` that is set, or all of them where the first transform takes more than one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) from: Many<Path>,
    #[serde(default, rename = "as")]
    pub(super) transforms: Many<Transform>,
}

/// What a record has to be like.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Condition {
    pub(super) from: Many<Path>,
    /// Whether any of `from` is set.
    #[serde(default)]
    pub(super) set: Option<bool>,
    /// The first of `from` that is set is one of these.
    #[serde(default)]
    pub(super) one_of: Option<Vec<Value>>,
    #[serde(default)]
    pub(super) none_of: Option<Vec<Value>>,
}

/// A key that differs from record to record.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Variable {
    /// One of the names here: that which `--score` gives, or the only one.
    #[serde(default)]
    pub(super) name_in: Option<Path>,
    /// Only what `--score` gives.
    #[serde(default)]
    pub(super) only_asked: bool,
    #[serde(default)]
    pub(super) from: Many<Path>,
    #[serde(default, rename = "as")]
    pub(super) transforms: Many<Transform>,
}

/// Records that say something of others: those whose `of` is the target.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verdicts {
    /// Where the judged record finds them, by name.
    pub(super) kept_as: String,
    #[serde(default)]
    pub(super) only: Vec<Condition>,
    /// What is judged.
    pub(super) target: Many<Line>,
    /// What it is known by there.
    pub(super) of: Many<Line>,
    /// What the verdict is called.
    pub(super) name: Many<Line>,
    pub(super) value: Many<Line>,
}

impl Map {
    /// Reads and checks a map.
    ///
    /// # Errors
    /// A text that names the field, the line of the file, what is wrong and what is allowed.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let map: Self = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            if path == "." { inner.to_string() } else { format!("{path}: {inner}") }
        })?;
        deserializer.end().map_err(|error| error.to_string())?;
        map.check().map_err(|(field, why)| match line_of(text, &field) {
            Some(line) => format!("{field}: {why} at line {line}"),
            None => format!("{field}: {why}"),
        })?;
        Ok(map)
    }

    /// Every line, with the name of its field.
    fn lines(&self) -> impl Iterator<Item = (&str, &Line)> {
        let event = self
            .event
            .iter()
            .flat_map(|(name, lines)| lines.0.iter().map(move |line| (name.as_str(), line)));
        let verdicts = self.verdicts.iter().flat_map(|verdicts| {
            let parts = [
                ("target", &verdicts.target),
                ("of", &verdicts.of),
                ("name", &verdicts.name),
                ("value", &verdicts.value),
            ];
            parts.into_iter().flat_map(|(name, lines)| lines.0.iter().map(move |line| (name, line)))
        });
        event.chain(verdicts)
    }

    fn conditions(&self) -> impl Iterator<Item = &Condition> {
        let of_verdicts = self.verdicts.iter().flat_map(|verdicts| &verdicts.only);
        self.only.iter().chain(self.only_agents.iter().flatten()).chain(of_verdicts)
    }

    fn check(&self) -> Result<(), (String, String)> {
        for name in self.event.keys() {
            if FIELDS.contains(&name.as_str())
                || name.strip_prefix(CONTEXT).is_some_and(|key| !key.is_empty())
            {
                continue;
            }
            let meant = nearest(name, FIELDS.into_iter())
                .map_or_else(String::new, |field| format!(" (did you mean {field}?)"));
            let allowed = FIELDS.join(", ");
            let why = format!("is no field of an event{meant}; allowed are {allowed}, context.KEY");
            return Err((name.clone(), why));
        }
        for needed in ["agent_name", "status"] {
            if !self.event.contains_key(needed) {
                let why = format!("names no {needed}, which every event has");
                return Err(("event".to_owned(), why));
            }
        }
        for (name, variable) in &self.variables {
            if variable.name_in.is_some() != variable.from.0.is_empty() {
                return Err((name.clone(), "has to have either name_in or from".to_owned()));
            }
        }
        let parts: BTreeSet<&str> = match &self.file_name {
            Some(pattern) => parts(pattern).map_err(|why| ("file_name".to_owned(), why))?,
            None => BTreeSet::new(),
        };
        let of_variables = self.variables.iter().flat_map(|(name, variable)| {
            let paths = variable.from.0.iter().chain(&variable.name_in);
            paths.map(move |path| (name.as_str(), path))
        });
        let of_lines =
            self.lines().flat_map(|(name, line)| line.from.0.iter().map(move |path| (name, path)));
        let of_conditions = self
            .conditions()
            .flat_map(|condition| condition.from.0.iter().map(|path| ("only", path)));
        for (name, path) in of_lines.chain(of_variables).chain(of_conditions) {
            if let Some(unknown) = path
                .variables()
                .find(|name| *name != AGENT_FIELD && !self.variables.contains_key(*name))
            {
                let known: Vec<&str> = self.variables.keys().map(String::as_str).collect();
                let why = format!(
                    "path \"{path}\" has the variable {unknown}, which is none of variables ({})",
                    known.join(", ")
                );
                return Err((name.to_owned(), why));
            }
            if let Root::Named(part) = &path.root
                && part != LIST
                && !parts.contains(part.as_str())
            {
                let known: Vec<&str> = parts.iter().copied().collect();
                let why = format!(
                    "path \"{path}\" is no part of file_name ({}), nor @list",
                    known.join(", ")
                );
                return Err((name.to_owned(), why));
            }
        }
        let of_lines = self.lines().map(|(name, line)| (name, &line.from, &line.transforms));
        let of_variables = self
            .variables
            .iter()
            .map(|(name, variable)| (name.as_str(), &variable.from, &variable.transforms));
        for (name, from, transforms) in of_lines.chain(of_variables) {
            let later = transforms.0.iter().skip(1).any(|transform| transform.takes().is_some());
            if later {
                let why = "a transform that takes several values stands first in as".to_owned();
                return Err((name.to_owned(), why));
            }
            if let Some(takes) = transforms.0.first().and_then(Transform::takes)
                && takes != from.0.len()
            {
                let why = format!("takes {takes} values, from has {} paths", from.0.len());
                return Err((name.to_owned(), why));
            }
        }
        Ok(())
    }

    /// Every path, to be changed.
    fn paths_mut(&mut self) -> impl Iterator<Item = &mut Path> {
        let event = self.event.values_mut().flat_map(|lines| &mut lines.0);
        let verdicts = self.verdicts.iter_mut().flat_map(|verdicts| {
            let Verdicts { only, target, of, name, value, .. } = verdicts;
            let lines = [target, of, name, value].into_iter().flat_map(|lines| &mut lines.0);
            let of_lines = lines.flat_map(|line| &mut line.from.0);
            of_lines.chain(only.iter_mut().flat_map(|condition| &mut condition.from.0))
        });
        let conditions = self.only.iter_mut().chain(self.only_agents.iter_mut().flatten());
        event
            .flat_map(|line| &mut line.from.0)
            .chain(verdicts)
            .chain(conditions.flat_map(|condition| &mut condition.from.0))
    }

    /// Puts a key in the place of a variable everywhere.
    pub(super) fn bind(&mut self, variable: &str, key: &str) {
        for path in self.paths_mut() {
            path.bind(variable, key);
        }
    }

    /// What is wanted of a record, and of the document around it.
    pub(super) fn wanted(&self) -> (Wanted, Wanted) {
        let (mut of_record, mut of_document) = (Wanted::default(), Wanted::default());
        // What a record finds its verdicts under is not in the file.
        let is_kept = |path: &Path| {
            let first = path.segments.first();
            let of = |verdicts: &Verdicts| first == Some(&Segment::Key(verdicts.kept_as.clone()));
            self.verdicts.iter().any(of)
        };
        let variables = self.variables.values();
        let paths = self
            .lines()
            .flat_map(|(_, line)| &line.from.0)
            .chain(self.conditions().flat_map(|condition| &condition.from.0))
            .chain(variables.clone().flat_map(|variable| &variable.from.0));
        for path in paths.filter(|path| !is_kept(path)) {
            match path.root {
                Root::Record => of_record.add(path),
                Root::Document => of_document.add(path),
                Root::Named(_) => {}
            }
        }
        for path in variables.filter_map(|variable| variable.name_in.as_ref()) {
            match path.root {
                Root::Record if !is_kept(path) => of_record.add_names(path),
                Root::Document => of_document.add_names(path),
                _ => {}
            }
        }
        (of_record, of_document)
    }
}

/// The line of the text where a key stands, counted from 1.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let key = format!("{key:?}");
    text.lines().position(|line| line.contains(&key)).map(|place| place + 1)
}

/// The names of a pattern's parts.
fn parts(pattern: &str) -> Result<BTreeSet<&str>, String> {
    let wrong = || {
        format!("is {pattern:?}, allowed is a name whose parts in braces have signs between them")
    };
    let mut names = BTreeSet::new();
    for (place, part) in pattern.split('{').enumerate() {
        if place == 0 {
            continue;
        }
        let (name, after) = part.split_once('}').ok_or_else(wrong)?;
        let is_last = pattern.ends_with(part);
        if name.is_empty() || !names.insert(name) || (after.is_empty() && !is_last) {
            return Err(wrong());
        }
    }
    Ok(names)
}

/// The parts of a file's name, by a pattern. Where signs between parts stand more than once, the parts
/// before them are the longer ones.
pub(super) fn matched(pattern: &str, file: &str) -> Option<BTreeMap<String, String>> {
    let folders = pattern.matches('/').count();
    // As many of the last folders as the pattern has.
    let start = file.rmatch_indices('/').nth(folders).map_or(0, |(place, _)| place + 1);
    let mut rest = &file[start..];
    let mut found = BTreeMap::new();
    // From the end: a part reaches back to the last sign that stands before it.
    let mut pattern = pattern;
    loop {
        let Some((before, last)) = pattern.rsplit_once('{') else {
            return (rest == pattern).then_some(found);
        };
        let (name, after) = last.split_once('}')?;
        rest = rest.strip_suffix(after)?;
        let sign = &before[before.rfind('}').map_or(0, |place| place + 1)..];
        let (left, part) = if before.contains('{') {
            let place = rest.rfind(sign)?;
            (&rest[..place + sign.len()], &rest[place + sign.len()..])
        } else {
            (sign, rest.strip_prefix(sign)?)
        };
        if part.is_empty() {
            return None;
        }
        found.insert(name.to_owned(), part.to_owned());
        (rest, pattern) = (left, before);
    }
}

/// One, or a list of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Many<T>(pub(super) Vec<T>);

impl<T> Default for Many<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Many<T>
where
    One<T>: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ManyVisitor<T>(PhantomData<T>);
        impl<'de, T> Visitor<'de> for ManyVisitor<T>
        where
            One<T>: Deserialize<'de>,
        {
            type Value = Many<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one or a list of them")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Many<T>, E> {
                One::deserialize(StrDeserializer::new(text)).map(|one| Many(vec![one.0]))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Many<T>, A::Error> {
                One::deserialize(MapAccessDeserializer::new(map)).map(|one| Many(vec![one.0]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Many<T>, A::Error> {
                let list = Vec::<One<T>>::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(Many(list.into_iter().map(|one| one.0).collect()))
            }
        }
        deserializer.deserialize_any(ManyVisitor(PhantomData))
    }
}

/// A member of [`Many`].
pub(super) struct One<T>(T);

impl<'de> Deserialize<'de> for One<Path> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Path::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for One<Transform> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Transform::deserialize(deserializer).map(Self)
    }
}

/// A line is also a path alone.
impl<'de> Deserialize<'de> for One<Line> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LineVisitor;
        impl<'de> Visitor<'de> for LineVisitor {
            type Value = Line;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or an object with from and as")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Line, E> {
                let path = Path::deserialize(StrDeserializer::new(text))?;
                Ok(Line { from: Many(vec![path]), transforms: Many::default() })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Line, A::Error> {
                Line::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(LineVisitor).map(Self)
    }
}
