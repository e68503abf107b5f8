//! The JSON of an event, taken as leniently as producers need it: any type where a scalar is
//! expected, `null` as unset wherever it stands, unknown keys skipped without being kept.

use std::borrow::Cow;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess,
    Visitor,
};
use serde_json::value::RawValue;

use super::{FEATURES_MAX, Feature, NAME_BYTES_MAX, Refusal, RefusalCode, kept_name, tidy};

/// What programs write in place of an id that they don't have, in lower case.
const PLACEHOLDERS: [&str; 15] = [
    "",
    "-",
    "00000000-0000-0000-0000-000000000000",
    "none",
    "null",
    "(null)",
    "nil",
    "<nil>",
    "undefined",
    "nan",
    "nat",
    "<na>",
    "n/a",
    "[object object]",
    "[object undefined]",
];

/// This is no id: blank, zero, or what programs write for nothing, also in the braces or with the prefix
/// of a UUID.
pub fn is_placeholder(id: &str) -> bool {
    let id = id.trim();
    let bare = id.strip_prefix("urn:uuid:").unwrap_or(id);
    let bare = bare.strip_prefix('{').and_then(|id| id.strip_suffix('}')).unwrap_or(bare);
    // A nil trace id, a number that is 0, a float that is.
    let amount = bare.strip_prefix('-').unwrap_or(bare);
    let (whole, part) = amount.split_once('.').unwrap_or((amount, ""));
    let mut digits = whole.bytes().chain(part.bytes());
    let is_zero = !whole.is_empty() && digits.all(|digit| digit == b'0');
    is_zero || PLACEHOLDERS.iter().any(|placeholder| bare.eq_ignore_ascii_case(placeholder))
}

/// A value where one number or string is expected.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) enum Scalar<'a> {
    #[default]
    Null,
    Bool(bool),
    Number(f64),
    /// A number as it was written, because an identifier may have more digits than a float.
    Digits(&'a str),
    Text(Cow<'a, str>),
    /// An array or an object.
    Composite,
}

impl Scalar<'_> {
    /// A string or a number that identifies something. One that is set, but identifies nothing, is
    /// dropped.
    pub(super) fn identifier(
        &self,
        field: &'static str,
        dropped: &mut Vec<&'static str>,
    ) -> Option<String> {
        match self {
            Self::Null => return None,
            Self::Digits(id) if !is_placeholder(id) => return Some((*id).to_owned()),
            Self::Text(id) if !is_placeholder(id) => return Some(id.clone().into_owned()),
            Self::Text(id) if id.trim().is_empty() => return None,
            _ => dropped.push(field),
        }
        None
    }

    /// A string or a number as text; empty for anything else.
    pub(super) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Number(number) => number.to_string().into(),
            Self::Digits(text) => (*text).into(),
            Self::Text(text) => (&**text).into(),
            Self::Null | Self::Bool(_) | Self::Composite => Cow::default(),
        }
    }

    /// A number, also one written as a string, in `0..=max`; anything else but `null` is dropped.
    pub(super) fn amount(
        &self,
        max: f64,
        field: &'static str,
        dropped: &mut Vec<&'static str>,
    ) -> Option<f64> {
        let number = match self {
            Self::Null => return None,
            Self::Number(number) => Some(*number),
            Self::Digits(text) => text.parse().ok(),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Bool(_) | Self::Composite => None,
        };
        let number = number.filter(|number| (0.0..=max).contains(number));
        if number.is_none() {
            dropped.push(field);
        }
        // Adding zero turns -0 into 0, which prints alike everywhere.
        number.map(|number| number + 0.0)
    }
}

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Digits(value) => f.write_str(value),
            Self::Text(text) if text.chars().count() > 64 => {
                write!(f, "{:?}...", text.chars().take(64).collect::<String>())
            }
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Composite => f.write_str("an array or object"),
        }
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }
    #[expect(clippy::cast_precision_loss, reason = "amounts have no use for more than 53 bits")]
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(value as f64))
    }
    #[expect(clippy::cast_precision_loss, reason = "amounts have no use for more than 53 bits")]
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(value as f64))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(value))
    }
    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(value)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(value.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Composite)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Composite)
    }
}

/// The fields of an event that are used, as sent.
#[derive(Debug, Default)]
pub(super) struct Raw<'a> {
    pub(super) event_id: Scalar<'a>,
    pub(super) run_id: Scalar<'a>,
    pub(super) agent_name: Scalar<'a>,
    pub(super) agent_type: Scalar<'a>,
    pub(super) action_type: Scalar<'a>,
    pub(super) task_type: Scalar<'a>,
    pub(super) tenant_id: Scalar<'a>,
    pub(super) timestamp: Scalar<'a>,
    pub(super) status: Scalar<'a>,
    pub(super) duration_ms: Scalar<'a>,
    pub(super) latency_ms: Scalar<'a>,
    pub(super) cost_estimate: Scalar<'a>,
    pub(super) cost: Scalar<'a>,
    /// The keys that only the monitor sends, whatever their values.
    pub(super) memory_seen: bool,
    pub(super) cpu_seen: bool,
    pub(super) quality_score: Scalar<'a>,
    pub(super) decision_id: Scalar<'a>,
    pub(super) correlation_id: Scalar<'a>,
    pub(super) trace_id: Scalar<'a>,
    pub(super) item: Scalar<'a>,
    pub(super) attempt: Scalar<'a>,
    pub(super) is_final: Scalar<'a>,
    pub(super) awaits_verdict: Scalar<'a>,
    /// `context`, or `context_snapshot` where there is none.
    pub(super) context: Features,
    context_snapshot: Features,
    pub(super) metadata: Option<Metadata<'a>>,
    pub(super) resolved: Option<Resolved<'a>>,
    // The CloudEvents envelope.
    pub(super) specversion: Scalar<'a>,
    pub(super) source: Scalar<'a>,
    pub(super) id: Scalar<'a>,
    pub(super) time: Scalar<'a>,
    data: Option<&'a RawValue>,
    /// The event in `data`, where the rest is its envelope.
    pub(super) event: Option<Box<Raw<'a>>>,
}

/// The part of `metadata` that is used.
#[derive(Debug, Default)]
pub(super) struct Metadata<'a> {
    pub(super) task_type: Scalar<'a>,
    pub(super) tenant_id: Scalar<'a>,
    pub(super) decision_id: Scalar<'a>,
    pub(super) quality_score: Scalar<'a>,
}

/// Tenant, task type and context as the service that took the event resolved them.
#[derive(Debug, Default)]
pub(super) struct Resolved<'a> {
    pub(super) tenant_id: Scalar<'a>,
    /// `task_type` was written, if only as `null`: a decision was found.
    pub(super) task_seen: bool,
    pub(super) task_type: Scalar<'a>,
    pub(super) context: Features,
    /// The event had no identity of its own when it came, and was the monitor's.
    pub(super) zero_is_unknown: bool,
}

/// The features of a context object.
#[derive(Debug, Default)]
pub(super) struct Features {
    /// The value was an object, if only an empty one.
    pub(super) present: bool,
    pub(super) found: Vec<(String, Feature)>,
    pub(super) dropped: Vec<&'static str>,
}

impl<'a> Raw<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Refusal> {
        let raw = Self::read_object(text)?;
        let mut raw = raw.ok_or_else(|| {
            let detail = "the record is JSON, but allowed is an object";
            Refusal::new(RefusalCode::NotAnObject, detail)
        })?;
        // An envelope is told by its version.
        if let (Scalar::Text(_), Some(data)) = (&raw.specversion, raw.data) {
            raw.event = Self::read_object(data.get())?.map(Box::new);
        }
        Ok(raw)
    }

    /// The fields of an object; `None` for any other value.
    fn read_object(text: &'a str) -> Result<Option<Self>, Refusal> {
        let Object(raw) = serde_json::from_str::<Object<Self>>(text).map_err(|error| {
            Refusal::new(RefusalCode::NotJson, format!("the record is not JSON: {error}"))
        })?;
        Ok(raw.map(Self::with_settled_context))
    }

    fn with_settled_context(mut self) -> Self {
        if !self.context.present {
            let snapshot = std::mem::take(&mut self.context_snapshot);
            let dropped = std::mem::replace(&mut self.context, snapshot).dropped;
            self.context.dropped.extend(dropped);
        }
        self
    }
}

/// Fields that are read key by key.
trait Fields<'de>: Default {
    fn read<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

/// An object with known fields, or `None` for any other value.
struct Object<T>(Option<T>);

impl<'de, T: Fields<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor(std::marker::PhantomData))
    }
}

struct ObjectVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Fields<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Object(None))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Object(None))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Object(None))
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Object(None))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Object(None))
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Object(None))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Object(None))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = T::default();
        while let Some(key) = map.next_key::<Key<'de>>()? {
            fields.read(&key.0, &mut map)?;
        }
        Ok(Object(Some(fields)))
    }
}

/// A key, borrowed where it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(value)))
            }
            fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(value.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// Reads a value into `slot`; `null` leaves what an earlier key of the same name set.
fn scalar<'de, A: MapAccess<'de>>(slot: &mut Scalar<'de>, map: &mut A) -> Result<(), A::Error> {
    match map.next_value()? {
        Scalar::Null => {}
        value => *slot = value,
    }
    Ok(())
}

/// As [`scalar`], for what may identify something: a number keeps its digits.
fn exact<'de, A: MapAccess<'de>>(slot: &mut Scalar<'de>, map: &mut A) -> Result<(), A::Error> {
    match digits(map.next_value()?).map_err(A::Error::custom)? {
        Scalar::Null => {}
        value => *slot = value,
    }
    Ok(())
}

/// A value of which a number keeps its digits.
pub(super) fn digits(value: &RawValue) -> serde_json::Result<Scalar<'_>> {
    let text = value.get();
    Ok(match text.as_bytes() {
        [b'-' | b'0'..=b'9', ..] => Scalar::Digits(text),
        [b'"', inside @ .., b'"'] if !inside.contains(&b'\\') => {
            Scalar::Text(Cow::Borrowed(&text[1..text.len() - 1]))
        }
        _ => serde_json::from_str(text)?,
    })
}

impl<'de> Fields<'de> for Raw<'de> {
    fn read<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        let slot = match key {
            "event_id" => return exact(&mut self.event_id, map),
            "run_id" => return exact(&mut self.run_id, map),
            "decision_id" => return exact(&mut self.decision_id, map),
            "correlation_id" => return exact(&mut self.correlation_id, map),
            "trace_id" => return exact(&mut self.trace_id, map),
            "id" => return exact(&mut self.id, map),
            "item" => return exact(&mut self.item, map),
            "attempt" => return exact(&mut self.attempt, map),
            "final" => &mut self.is_final,
            "awaits_verdict" => &mut self.awaits_verdict,
            "agent_name" => return exact(&mut self.agent_name, map),
            "agent_type" => &mut self.agent_type,
            "action_type" => &mut self.action_type,
            "task_type" => &mut self.task_type,
            "tenant_id" => &mut self.tenant_id,
            "timestamp" => &mut self.timestamp,
            "status" => &mut self.status,
            "duration_ms" => &mut self.duration_ms,
            "latency_ms" => &mut self.latency_ms,
            "cost_estimate" => &mut self.cost_estimate,
            "cost" => &mut self.cost,
            "quality_score" => &mut self.quality_score,
            "specversion" => &mut self.specversion,
            "source" => &mut self.source,
            "time" => &mut self.time,
            "context" => {
                self.context = map.next_value()?;
                return Ok(());
            }
            "context_snapshot" => {
                self.context_snapshot = map.next_value()?;
                return Ok(());
            }
            "metadata" => {
                self.metadata = map.next_value::<Object<Metadata<'de>>>()?.0;
                return Ok(());
            }
            "resolved" => {
                self.resolved = map.next_value::<Object<Resolved<'de>>>()?.0;
                return Ok(());
            }
            "memory_mb" => {
                self.memory_seen = true;
                return map.next_value::<IgnoredAny>().map(drop);
            }
            "cpu_ms" => {
                self.cpu_seen = true;
                return map.next_value::<IgnoredAny>().map(drop);
            }
            "data" => {
                self.data = Some(map.next_value()?);
                return Ok(());
            }
            _ => return map.next_value::<IgnoredAny>().map(drop),
        };
        scalar(slot, map)
    }
}

impl<'de> Fields<'de> for Metadata<'de> {
    fn read<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        let slot = match key {
            "task_type" => &mut self.task_type,
            "tenant_id" => &mut self.tenant_id,
            "decision_id" => return exact(&mut self.decision_id, map),
            "quality_score" => &mut self.quality_score,
            _ => return map.next_value::<IgnoredAny>().map(drop),
        };
        scalar(slot, map)
    }
}

impl<'de> Fields<'de> for Resolved<'de> {
    fn read<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "tenant_id" => scalar(&mut self.tenant_id, map),
            "task_type" => {
                self.task_seen = true;
                scalar(&mut self.task_type, map)
            }
            "zero_is_unknown" => {
                self.zero_is_unknown = map.next_value::<Scalar<'de>>()? == Scalar::Bool(true);
                Ok(())
            }
            "context" => {
                self.context = map.next_value()?;
                Ok(())
            }
            _ => map.next_value::<IgnoredAny>().map(drop),
        }
    }
}

impl<'de> Deserialize<'de> for Features {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut features = Self::default();
        let mut path = String::new();
        FeatureSeed { features: &mut features, path: &mut path, depth: 0 }
            .deserialize(deserializer)?;
        Ok(features)
    }
}

/// Flattens a context object: the value at `path` becomes a feature, or is walked through.
struct FeatureSeed<'s> {
    features: &'s mut Features,
    path: &'s mut String,
    depth: usize,
}

impl FeatureSeed<'_> {
    fn push(self, feature: Feature) {
        // A scalar in place of the context object is no feature.
        if self.depth == 0 {
            self.features.dropped.push("context");
        } else if !(1..=NAME_BYTES_MAX).contains(&self.path.len()) {
            self.features.dropped.push("context_key");
        } else if self.features.found.len() == FEATURES_MAX {
            self.features.dropped.push("context_feature");
        } else {
            self.features.found.push((self.path.clone(), feature));
        }
    }

    fn text(self, text: &str) {
        match kept_name(text) {
            Some(text) => self.push(Feature::Text(text.into_owned())),
            None => self.features.dropped.push("context_value"),
        }
    }
}

impl<'de> DeserializeSeed<'de> for FeatureSeed<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FeatureSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        // A context that is null is none.
        if self.depth > 0 {
            self.features.dropped.push("context_null");
        }
        Ok(())
    }
    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.push(Feature::Bool(value));
        Ok(())
    }
    #[expect(clippy::cast_precision_loss, reason = "a feature has no use for more than 53 bits")]
    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.push(Feature::Number(value as f64));
        Ok(())
    }
    #[expect(clippy::cast_precision_loss, reason = "a feature has no use for more than 53 bits")]
    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.push(Feature::Number(value as f64));
        Ok(())
    }
    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        if value.is_finite() {
            self.push(Feature::Number(value + 0.0));
        }
        Ok(())
    }
    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.text(value);
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        self.features.dropped.push(if self.depth == 0 { "context" } else { "context_list" });
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.features.present = true;
        let start = self.path.len();
        while let Some(key) = map.next_key::<Key<'de>>()? {
            if self.depth > 0 {
                self.path.push('.');
            }
            self.path.push_str(&tidy(&key.0));
            map.next_value_seed(FeatureSeed {
                features: self.features,
                path: self.path,
                depth: self.depth + 1,
            })?;
            self.path.truncate(start);
        }
        Ok(())
    }
}

/// The text with `NaN`, `Infinity` and `-Infinity` outside of strings replaced by `null`, as
/// Python's json module writes them; `None` where there is none of these.
pub fn non_finite_as_null(text: &str) -> Option<String> {
    let mut repaired = String::with_capacity(text.len());
    let mut rest = text;
    let mut found = false;
    while !rest.is_empty() {
        if rest.starts_with('"') {
            let end = string_end(rest);
            repaired.push_str(&rest[..end]);
            rest = &rest[end..];
        } else if let Some(literal) =
            ["NaN", "-Infinity", "Infinity"].into_iter().find(|literal| rest.starts_with(literal))
        {
            repaired.push_str("null");
            rest = &rest[literal.len()..];
            found = true;
        } else {
            let step = rest.chars().next().map_or(1, char::len_utf8);
            repaired.push_str(&rest[..step]);
            rest = &rest[step..];
        }
    }
    found.then_some(repaired)
}

/// Length of the JSON string that `text` starts with, quotes included.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (position, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return position + 1,
            _ => {}
        }
    }
    text.len()
}
