//! OTLP in JSON. It is not the JSON of protobuf: ids are hexadecimal, enumerations are numbers, and
//! whole numbers are strings or numbers (opentelemetry.io/docs/specs/otlp, "JSON Protobuf Encoding").
//!
//! Lists are walked through one member at a time, each of them a slice of the body: what a request holds
//! takes no more memory than its text.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Error, Result};

use super::span::{
    ATTRIBUTES_MAX, Attributes, EVENTS_MAX, LogRecord, Span, TEXT_BYTES_MAX, Value, Wants,
    known_event,
};
use crate::outcome::id_of_hex;

type Raw<'a> = Option<&'a RawValue>;

/// `ExportTraceServiceRequest` and `ExportLogsServiceRequest`.
#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow, rename = "resourceSpans", alias = "resourceLogs")]
    resources: Raw<'a>,
}

/// `ResourceSpans` and `ResourceLogs`.
#[derive(Deserialize)]
struct OfResource<'a> {
    #[serde(borrow)]
    resource: Raw<'a>,
    #[serde(borrow, rename = "scopeSpans", alias = "scopeLogs")]
    scopes: Raw<'a>,
}

/// `ScopeSpans` and `ScopeLogs`.
#[derive(Deserialize)]
struct OfScope<'a> {
    #[serde(borrow, rename = "spans", alias = "logRecords")]
    items: Raw<'a>,
}

/// `Span`, `Resource`, and what else has attributes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    #[serde(borrow)]
    trace_id: Raw<'a>,
    #[serde(borrow)]
    span_id: Raw<'a>,
    #[serde(borrow)]
    parent_span_id: Raw<'a>,
    #[serde(borrow, alias = "eventName")]
    name: Raw<'a>,
    #[serde(borrow)]
    kind: Raw<'a>,
    #[serde(borrow)]
    start_time_unix_nano: Raw<'a>,
    #[serde(borrow)]
    end_time_unix_nano: Raw<'a>,
    #[serde(borrow)]
    attributes: Raw<'a>,
    #[serde(borrow)]
    events: Raw<'a>,
    #[serde(borrow)]
    links: Raw<'a>,
    #[serde(borrow)]
    status: Raw<'a>,
}

#[derive(Deserialize)]
struct KeyValue<'a> {
    #[serde(borrow)]
    key: Raw<'a>,
    #[serde(borrow)]
    value: Raw<'a>,
}

#[derive(Deserialize)]
struct AnyValue<'a> {
    #[serde(borrow, rename = "stringValue")]
    string: Raw<'a>,
    #[serde(borrow, rename = "boolValue")]
    boolean: Raw<'a>,
    #[serde(borrow, rename = "intValue")]
    int: Raw<'a>,
    #[serde(borrow, rename = "doubleValue")]
    double: Raw<'a>,
}

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow)]
    code: Raw<'a>,
}

/// Walks through an export request: `on_item` gets each span (or log record) and the attributes of the
/// resource that it belongs to.
///
/// # Errors
/// What `on_item` gives, and where it is no such request.
pub(super) fn items<'a>(
    body: &'a str,
    wants: Wants<'_>,
    mut on_item: impl FnMut(&'a RawValue, &Attributes<'a>) -> Result<()>,
) -> Result<()> {
    let request: Request<'a> = object(body)?;
    each(request.resources, &mut |of_resource| {
        let OfResource { resource, scopes } = object(of_resource.get())?;
        let resource = match resource {
            Some(resource) => attributes(read(resource)?.attributes, wants)?,
            None => Attributes::default(),
        };
        each(scopes, &mut |scope| {
            let scope: OfScope<'a> = object(scope.get())?;
            each(scope.items, &mut |item| on_item(item, &resource))
        })
    })
}

impl<'a> Span<'a> {
    /// Reads a `Span`.
    pub(super) fn of_json(span: &'a RawValue, wants: Wants<'_>) -> Result<Self> {
        let item = read(span)?;
        let mut span = Self {
            trace_id: id(item.trace_id),
            id: id(item.span_id),
            parent_id: id(item.parent_span_id),
            name: text(item.name).unwrap_or_default(),
            kind: whole(item.kind).unwrap_or_default(),
            start_ns: whole(item.start_time_unix_nano).unwrap_or_default(),
            end_ns: whole(item.end_time_unix_nano).unwrap_or_default(),
            attributes: attributes(item.attributes, wants)?,
            ..Self::default()
        };
        each(item.events, &mut |event| {
            if span.events.len() < EVENTS_MAX {
                let event = read(event)?;
                let name = text(event.name).and_then(|name| known_event(name.as_bytes()));
                if let Some(name) = name {
                    span.events.push((name, attributes(event.attributes, wants)?));
                }
            }
            Ok(())
        })?;
        each(item.links, &mut |link| {
            if span.links.len() < EVENTS_MAX {
                let link = read(link)?;
                span.links.push((id(link.trace_id), id(link.span_id)));
            }
            Ok(())
        })?;
        if let Some(status) = item.status {
            let status: Status<'_> = object(status.get())?;
            span.is_error = whole(status.code) == Some(2);
        }
        Ok(span)
    }
}

impl<'a> LogRecord<'a> {
    /// Reads a `LogRecord`.
    pub(super) fn of_json(record: &'a RawValue, wants: Wants<'_>) -> Result<Self> {
        let item = read(record)?;
        Ok(Self {
            trace_id: id(item.trace_id),
            span_id: id(item.span_id),
            name: text(item.name).unwrap_or_default(),
            attributes: attributes(item.attributes, wants)?,
        })
    }
}

fn read(item: &RawValue) -> Result<Item<'_>> {
    object(item.get())
}

/// Reads a message. By itself serde takes a list, too, as its fields in their order.
fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T> {
    if json.trim_start().starts_with('[') {
        return Err(Error::custom("a list stands where an object belongs"));
    }
    serde_json::from_str(json)
}

/// Refuses what is there and does not begin with `first`.
fn expect(value: Raw<'_>, first: char, rule: &str) -> Result<()> {
    match value {
        Some(value) if !value.get().starts_with(first) => {
            let shown: String = value.get().chars().take(40).collect();
            Err(Error::custom(format!("{rule}, not {shown}")))
        }
        _ => Ok(()),
    }
}

/// Those of a list of `KeyValue` that are wanted.
fn attributes<'a>(list: Raw<'a>, wants: Wants<'_>) -> Result<Attributes<'a>> {
    let mut found = Attributes::default();
    let mut seen = 0;
    each(list, &mut |attribute| {
        seen += 1;
        if seen > ATTRIBUTES_MAX {
            return Ok(());
        }
        let KeyValue { key, value } = object(attribute.get())?;
        // Of those that are not wanted this is all that is looked at.
        expect(key, '"', "a string is the key of an attribute")?;
        expect(value, '{', "an object is the value of an attribute")?;
        let (Some(key), Some(value)) = (text(key), value) else { return Ok(()) };
        if wants(&key)
            && let Some(value) = any_value(value)?
        {
            found.push(key, value);
        }
        Ok(())
    })?;
    Ok(found)
}

/// `None` for what is not looked at.
fn any_value(value: &RawValue) -> Result<Option<Value<'_>>> {
    let value: AnyValue<'_> = object(value.get())?;
    let whole = |raw: &RawValue| unquoted(raw).parse().ok().map(Value::Int);
    let double = |raw: &RawValue| unquoted(raw).parse().ok().map(Value::Double);
    let yes = |raw: &RawValue| raw.get().parse().ok().map(Value::Bool);
    Ok(text(value.string)
        .map(Value::Text)
        .or_else(|| value.int.and_then(whole))
        .or_else(|| value.double.and_then(double))
        .or_else(|| value.boolean.and_then(yes)))
}

/// A text that is no longer than what is looked at.
fn text(value: Raw<'_>) -> Option<Cow<'_, str>> {
    let json = value?.get();
    let text = match serde_json::from_str::<&str>(json) {
        Ok(text) => Cow::Borrowed(text),
        // At most six bytes stand for one.
        Err(_) if json.len() > 6 * TEXT_BYTES_MAX + 2 => return None,
        Err(_) => Cow::Owned(serde_json::from_str(json).ok()?),
    };
    (text.len() <= TEXT_BYTES_MAX).then_some(text)
}

/// A whole number, as one or as a string.
fn whole(value: Raw<'_>) -> Option<u64> {
    unquoted(value?).parse().ok()
}

fn unquoted(value: &RawValue) -> &str {
    value.get().trim_matches('"')
}

/// An identifier of `N` bytes in hexadecimal, in either case; zero for what is none.
fn id<const N: usize>(value: Raw<'_>) -> [u8; N] {
    text(value).and_then(|text| id_of_hex(&text)).unwrap_or([0; N])
}

/// Calls `on_member` with the members of a list, one at a time. Nothing and `null` have none.
fn each<'a>(list: Raw<'a>, on_member: &mut dyn FnMut(&'a RawValue) -> Result<()>) -> Result<()> {
    struct Members<'a, 'f>(&'f mut dyn FnMut(&'a RawValue) -> Result<()>);

    impl<'a> Visitor<'a> for Members<'a, '_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }
        fn visit_unit<E>(self) -> std::result::Result<(), E> {
            Ok(())
        }
        fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> std::result::Result<(), A::Error> {
            while let Some(member) = list.next_element()? {
                (self.0)(member).map_err(A::Error::custom)?;
            }
            Ok(())
        }
    }

    match list {
        None => Ok(()),
        Some(list) => {
            serde_json::Deserializer::from_str(list.get()).deserialize_any(Members(on_member))
        }
    }
}
