//! Paths into a record, and how no more of a record is read than they lead to: prompts and answers are
//! passed over without a copy.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

/// Longest text that is looked at, in bytes: no name, time or label is longer.
pub(super) const TEXT_BYTES_MAX: usize = 4 * 1024;

/// Where a value stands: `a.b.0`, `$.a` in the document around the record, `@part` of the file's name,
/// `.` for the record itself. `'a.b'` is one key, `{x}` the key that the variable x names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) root: Root,
    pub(super) segments: Vec<Segment>,
}

/// What a path begins at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Root {
    Record,
    Document,
    /// A part of the file's name, or `list`: the list that the record is from.
    Named(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Key(String),
    Variable(String),
}

impl Path {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            Err(format!("path {text:?} {why}; allowed are such as a.b, a.0.b, $.a, @a"))
        };
        if let Some(name) = text.strip_prefix('@') {
            if name.is_empty() {
                return wrong("names nothing");
            }
            return Ok(Self { root: Root::Named(name.to_owned()), segments: Vec::new() });
        }
        if text == "." {
            return Ok(Self { root: Root::Record, segments: Vec::new() });
        }
        let (root, mut rest) = match text.strip_prefix("$.") {
            Some(rest) => (Root::Document, rest),
            None => (Root::Record, text),
        };
        let mut segments = Vec::new();
        loop {
            let (segment, after) = if let Some(quoted) = rest.strip_prefix('\'') {
                let Some((key, after)) = quoted.split_once('\'') else {
                    return wrong("has a quote that is not closed");
                };
                (Segment::Key(key.to_owned()), after)
            } else {
                let (key, after) = rest.split_at(rest.find('.').unwrap_or(rest.len()));
                let variable = key.strip_prefix('{').and_then(|key| key.strip_suffix('}'));
                let segment = match variable {
                    Some(name) => Segment::Variable(name.to_owned()),
                    None if key.is_empty() => return wrong("has an empty key"),
                    None => Segment::Key(key.to_owned()),
                };
                (segment, after)
            };
            segments.push(segment);
            match after.strip_prefix('.') {
                Some(more) => rest = more,
                None if after.is_empty() => return Ok(Self { root, segments }),
                None => return wrong("goes on behind a quote"),
            }
        }
    }

    /// The names of the variables in it.
    pub(super) fn variables(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Variable(name) => Some(&**name),
            Segment::Key(_) => None,
        })
    }

    /// Puts a key in the place of a variable.
    pub(super) fn bind(&mut self, variable: &str, key: &str) {
        for segment in &mut self.segments {
            if matches!(segment, Segment::Variable(name) if name == variable) {
                *segment = Segment::Key(key.to_owned());
            }
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.root {
            Root::Named(name) => return write!(f, "@{name}"),
            Root::Document => f.write_str("$.")?,
            Root::Record if self.segments.is_empty() => return f.write_str("."),
            Root::Record => {}
        }
        for (place, segment) in self.segments.iter().enumerate() {
            if place > 0 {
                f.write_str(".")?;
            }
            match segment {
                Segment::Key(key) if key.contains('.') => write!(f, "'{key}'")?,
                Segment::Key(key) => f.write_str(key)?,
                Segment::Variable(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Path {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

/// The member of an object or a list.
pub(super) fn member<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Object(map) => map.get(key),
        Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        _ => None,
    }
}

/// Whether a value says something.
pub(super) fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// Which parts of a record are wanted: the paths to them, as a tree.
#[derive(Debug, Default, Clone)]
pub(super) struct Wanted {
    /// All of it.
    whole: bool,
    /// Whatever is no object and no list.
    scalar: bool,
    /// The names that it holds.
    names: bool,
    members: Vec<(String, Self)>,
    /// Those whose names a variable tells.
    any: Option<Box<Self>>,
}

impl Wanted {
    fn at(&mut self, segments: &[Segment]) -> &mut Self {
        let mut node = self;
        for segment in segments {
            node = match segment {
                Segment::Variable(_) => node.any.get_or_insert_default(),
                Segment::Key(key) => {
                    let place = node.members.iter().position(|(name, _)| name == key);
                    let place = place.unwrap_or_else(|| {
                        node.members.push((key.clone(), Self::default()));
                        node.members.len() - 1
                    });
                    &mut node.members[place].1
                }
            };
        }
        node
    }

    /// Wants what the path leads to.
    pub(super) fn add(&mut self, path: &Path) {
        let node = self.at(&path.segments);
        match path.segments.last() {
            Some(Segment::Variable(_)) => node.scalar = true,
            _ => node.whole = true,
        }
    }

    /// Wants the names of what the path leads to.
    pub(super) fn add_names(&mut self, path: &Path) {
        self.at(&path.segments).names = true;
    }

    pub(super) fn is_nothing(&self) -> bool {
        !self.whole && !self.scalar && !self.names && self.members.is_empty() && self.any.is_none()
    }

    /// Whether the record itself is wanted, whatever it is.
    pub(super) fn is_of_any_value(&self) -> bool {
        self.whole
    }

    /// What is wanted of the member of this name.
    fn of(&self, key: &str) -> Step<'_> {
        if self.whole {
            return Step::Into(self);
        }
        let named = self.members.iter().find(|(name, _)| name == key).map(|(_, member)| member);
        match named.or(self.any.as_deref()) {
            Some(member) => Step::Into(member),
            None if self.names => Step::Name,
            None => Step::Past,
        }
    }

    /// What is wanted of a JSON text.
    pub(super) fn read(&self, text: &[u8]) -> serde_json::Result<Value> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let value = Pick(self).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }

    /// What is wanted of a text: some keep JSON in one.
    pub(super) fn of_text(&self, text: &str) -> Value {
        if self.whole || self.scalar {
            return if text.len() > TEXT_BYTES_MAX { Value::Null } else { text.into() };
        }
        if text.trim_start().starts_with(['{', '[']) {
            return self.read(text.as_bytes()).unwrap_or_default();
        }
        Value::Null
    }

    /// What is wanted of the member of this name, whose value is a text.
    pub(super) fn of_cell(&self, name: &str, text: &str) -> Option<Value> {
        match self.of(name) {
            Step::Into(wanted) => Some(wanted.of_text(text)),
            Step::Name | Step::Past => None,
        }
    }
}

enum Step<'w> {
    Into(&'w Wanted),
    /// Only its name is wanted.
    Name,
    Past,
}

/// Reads what is wanted of a value; all else is `null` or absent.
pub(super) struct Pick<'w>(pub(super) &'w Wanted);

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(self.0.of_text(text))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        if !self.0.whole && (self.0.scalar || self.0.is_nothing()) {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        }
        let name = Wanted { scalar: true, ..Wanted::default() };
        loop {
            let step = match self.0 {
                wanted if wanted.whole => Step::Into(wanted),
                wanted if wanted.names => Step::Into(&name),
                wanted => wanted.of(&members.len().to_string()),
            };
            let member = match step {
                Step::Into(wanted) => list.next_element_seed(Pick(wanted))?,
                // Those after it keep their places.
                _ => list.next_element::<IgnoredAny>()?.map(|_| Value::Null),
            };
            match member {
                Some(member) => members.push(member),
                None => return Ok(Value::Array(members)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut found = Map::new();
        while let Some((name, step)) = map.next_key_seed(Name(self.0))? {
            match step {
                Step::Into(wanted) => {
                    found.insert(name, map.next_value_seed(Pick(wanted))?);
                }
                Step::Name => {
                    map.next_value::<IgnoredAny>()?;
                    found.insert(name, Value::Null);
                }
                Step::Past => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(found))
    }
}

/// Reads a name, and finds out what is wanted of its value.
struct Name<'w>(&'w Wanted);

impl<'de, 'w> DeserializeSeed<'de> for Name<'w> {
    type Value = (String, Step<'w>);
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'w> Visitor<'_> for Name<'w> {
    type Value = (String, Step<'w>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let step = self.0.of(name);
        let name = if matches!(step, Step::Past) { String::new() } else { name.to_owned() };
        Ok((name, step))
    }
}
