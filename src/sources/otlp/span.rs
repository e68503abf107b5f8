//! Spans and log records as they are looked at, whichever encoding they came in.

use std::borrow::Cow;
use std::io;

use super::wire::{self, Wire};
use crate::outcome::TraceId;

/// Most attributes of a span, a span event or a log record that are looked at.
pub(super) const ATTRIBUTES_MAX: usize = 128;
/// Longest text of an attribute that is looked at, in bytes: no name or label is longer.
pub(super) const TEXT_BYTES_MAX: usize = 4 * 1024;
/// Most events and links of a span that are looked at.
pub(super) const EVENTS_MAX: usize = 128;

pub(super) type SpanId = [u8; 8];

/// The event of a span, or the name of a log record, that holds the verdict of an evaluation.
pub(super) const EVALUATION: &str = "gen_ai.evaluation.result";
/// The event of a span that holds what was raised.
pub(super) const EXCEPTION: &str = "exception";

/// The value of an attribute. Lists, maps and bytes are not looked at.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Text(Cow<'a, str>),
    Bool(bool),
    Int(i64),
    Double(f64),
}

impl Value<'_> {
    /// Numbers, and texts that are numbers.
    #[expect(clippy::cast_precision_loss, reason = "counts of tokens, scores, costs")]
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Int(number) => Some(*number as f64),
            Self::Double(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok(),
            Self::Bool(_) => None,
        }
    }

    /// Texts that say something, and what can be written as one.
    pub(super) fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) if text.trim().is_empty() => None,
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Bool(value) => Some(value.to_string().into()),
            Self::Int(number) => Some(number.to_string().into()),
            Self::Double(number) => Some(number.to_string().into()),
        }
    }
}

/// Attributes that are wanted, in their order. A key may stand in it twice: the first counts.
#[derive(Debug, Default, Clone)]
pub(super) struct Attributes<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Attributes<'a> {
    pub(super) fn push(&mut self, key: Cow<'a, str>, value: Value<'a>) {
        self.0.push((key, value));
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The text under the first of these keys that has one.
    pub(super) fn text<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k (impl AsRef<str> + ?Sized + 'k)>,
    ) -> Option<Cow<'_, str>> {
        keys.into_iter().find_map(|key| self.get(key.as_ref())?.text())
    }

    /// The number under the first of these keys that has one.
    pub(super) fn number(&self, keys: &[&str]) -> Option<f64> {
        keys.iter().find_map(|key| self.get(key)?.number())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }
}

/// Which attributes are kept, by their keys.
pub(super) type Wants<'w> = &'w dyn Fn(&str) -> bool;

/// One operation of a trace.
#[derive(Debug, Default)]
pub(super) struct Span<'a> {
    pub(super) trace_id: TraceId,
    pub(super) id: SpanId,
    /// Zero for a root.
    pub(super) parent_id: SpanId,
    pub(super) name: Cow<'a, str>,
    /// As the specification numbers them: 1 internal, 3 client.
    pub(super) kind: u64,
    /// Unix time, ns.
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    pub(super) attributes: Attributes<'a>,
    /// Those that are [`EXCEPTION`] or [`EVALUATION`], with their names.
    pub(super) events: Vec<(&'static str, Attributes<'a>)>,
    /// The other spans that it names.
    pub(super) links: Vec<(TraceId, SpanId)>,
    /// Whether its status is an error.
    pub(super) is_error: bool,
}

/// The event's name, where its content is looked at.
pub(super) fn known_event(name: &[u8]) -> Option<&'static str> {
    [EXCEPTION, EVALUATION].into_iter().find(|known| known.as_bytes() == name)
}

impl<'a> Span<'a> {
    /// Reads a message `Span` of `opentelemetry/proto/trace/v1/trace.proto`.
    pub(super) fn decode(message: &'a [u8], wants: Wants<'_>) -> io::Result<Self> {
        let mut span = Self::default();
        let mut attributes = Collector::new(wants);
        for field in wire::fields(message) {
            let (number, value) = field?;
            match number {
                1 => span.trace_id = value.id().unwrap_or_default(),
                2 => span.id = value.id().unwrap_or_default(),
                4 => span.parent_id = value.id().unwrap_or_default(),
                5 => span.name = text(value).unwrap_or_default(),
                6 => span.kind = value.varint().unwrap_or_default(),
                7 => span.start_ns = value.fixed64().unwrap_or_default(),
                8 => span.end_ns = value.fixed64().unwrap_or_default(),
                9 => attributes.add(value)?,
                11 if span.events.len() < EVENTS_MAX => {
                    if let Some(event) = event(value.bytes().unwrap_or_default(), wants)? {
                        span.events.push(event);
                    }
                }
                13 if span.links.len() < EVENTS_MAX => {
                    span.links.push(link(value.bytes().unwrap_or_default())?);
                }
                15 => span.is_error = is_error(value.bytes().unwrap_or_default())?,
                _ => {}
            }
        }
        span.attributes = attributes.found;
        Ok(span)
    }
}

/// Something that was said of a span, beside it.
#[derive(Debug, Default)]
pub(super) struct LogRecord<'a> {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    /// The event's, where it is one.
    pub(super) name: Cow<'a, str>,
    pub(super) attributes: Attributes<'a>,
}

impl<'a> LogRecord<'a> {
    /// Reads a message `LogRecord` of `opentelemetry/proto/logs/v1/logs.proto`.
    pub(super) fn decode(message: &'a [u8], wants: Wants<'_>) -> io::Result<Self> {
        let mut record = Self::default();
        let mut attributes = Collector::new(wants);
        for field in wire::fields(message) {
            let (number, value) = field?;
            match number {
                6 => attributes.add(value)?,
                9 => record.trace_id = value.id().unwrap_or_default(),
                10 => record.span_id = value.id().unwrap_or_default(),
                12 => record.name = text(value).unwrap_or_default(),
                _ => {}
            }
        }
        record.attributes = attributes.found;
        Ok(record)
    }
}

/// The attributes of a message `Resource`.
pub(super) fn resource<'a>(message: &'a [u8], wants: Wants<'_>) -> io::Result<Attributes<'a>> {
    attributes_of(message, 1, wants)
}

/// The attributes of a message that has them in the field `number`.
fn attributes_of<'a>(
    message: &'a [u8],
    number: u32,
    wants: Wants<'_>,
) -> io::Result<Attributes<'a>> {
    let mut attributes = Collector::new(wants);
    for field in wire::fields(message) {
        let (of, value) = field?;
        if of == number {
            attributes.add(value)?;
        }
    }
    Ok(attributes.found)
}

/// Picks the attributes that are wanted from the first of them.
struct Collector<'a, 'w> {
    wants: Wants<'w>,
    seen: usize,
    found: Attributes<'a>,
}

impl<'a, 'w> Collector<'a, 'w> {
    fn new(wants: Wants<'w>) -> Self {
        Self { wants, seen: 0, found: Attributes::default() }
    }

    /// Looks at a message `KeyValue`.
    fn add(&mut self, value: Wire<'a>) -> io::Result<()> {
        self.seen += 1;
        if self.seen > ATTRIBUTES_MAX {
            return Ok(());
        }
        let (mut name, mut content) = (None, None);
        for field in wire::fields(value.bytes().unwrap_or_default()) {
            match field? {
                (1, value) => name = text(value),
                (2, value) => content = value.bytes(),
                _ => {}
            }
        }
        let (Some(name), Some(content)) = (name, content) else { return Ok(()) };
        if !(self.wants)(&name) {
            return Ok(());
        }
        if let Some(value) = any_value(content)? {
            self.found.push(name, value);
        }
        Ok(())
    }
}

/// Reads a message `AnyValue`; `None` for what is not looked at.
fn any_value(message: &[u8]) -> io::Result<Option<Value<'_>>> {
    let mut found = None;
    for field in wire::fields(message) {
        // One of these, the last one counts.
        found = match field? {
            (1, value) => text(value).map(Value::Text),
            (2, value) => value.varint().map(|value| Value::Bool(value != 0)),
            (3, value) => value.varint().map(|value| Value::Int(value.cast_signed())),
            (4, value) => value.fixed64().map(|bits| Value::Double(f64::from_bits(bits))),
            _ => None,
        };
    }
    Ok(found)
}

/// A text that is no longer than what is looked at; what is not UTF-8 in it is replaced.
fn text(value: Wire<'_>) -> Option<Cow<'_, str>> {
    let bytes = value.bytes().filter(|bytes| bytes.len() <= TEXT_BYTES_MAX)?;
    Some(String::from_utf8_lossy(bytes))
}

/// Reads a message `Span.Event`; `None` for one whose content is not looked at.
fn event<'a>(
    message: &'a [u8],
    wants: Wants<'_>,
) -> io::Result<Option<(&'static str, Attributes<'a>)>> {
    let mut name = None;
    for field in wire::fields(message) {
        if let (2, value) = field? {
            name = value.bytes().and_then(known_event);
        }
    }
    let Some(name) = name else { return Ok(None) };
    Ok(Some((name, attributes_of(message, 3, wants)?)))
}

/// Reads a message `Span.Link`.
fn link(message: &[u8]) -> io::Result<(TraceId, SpanId)> {
    let mut link = (TraceId::default(), SpanId::default());
    for field in wire::fields(message) {
        match field? {
            (1, value) => link.0 = value.id().unwrap_or_default(),
            (2, value) => link.1 = value.id().unwrap_or_default(),
            _ => {}
        }
    }
    Ok(link)
}

/// Reads a message `Status`: its code 2 is an error.
fn is_error(message: &[u8]) -> io::Result<bool> {
    let mut code = 0;
    for field in wire::fields(message) {
        if let (3, value) = field? {
            code = value.varint().unwrap_or_default();
        }
    }
    Ok(code == 2)
}
