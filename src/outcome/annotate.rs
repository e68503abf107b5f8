//! What is written into a record before it is produced to a topic: its identity, and what only the
//! service that took it could resolve.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::raw::{Raw, Scalar};
use super::{Feature, Outcome, non_finite_as_null, open_envelope, tidy};

/// The record that `outcome` was read from, with its identity as `event_id` and what was resolved
/// as `resolved`, and the decision to which its trace has led, inside `data` of a CloudEvents envelope. Reading the result gives the same outcome
/// under the same identity, wherever it is read.
///
/// `record` must be what [`Outcome::parse`] understood.
pub fn annotated(record: &[u8], identity: &str, outcome: &Outcome) -> Vec<u8> {
    let text = String::from_utf8_lossy(record);
    let (text, event) = if let Some(event) = Event::of(&text) {
        (text, event)
    } else {
        // Other readers of the topic may not know NaN.
        let text = non_finite_as_null(&text).unwrap_or_default();
        let event = Event::of(&text).unwrap_or(Event { end: text.len() });
        (text.into(), event)
    };
    let mut fields = json!({"event_id": identity, "resolved": resolved(outcome)});
    if let (Some(_), Some(decision)) = (outcome.trace, &outcome.decision) {
        fields["decision_id"] = decision.id().into();
    }
    let fields = fields.to_string();
    // At the end, where a field wins over an earlier one of its name.
    let brace = text[..event.end].rfind('}').unwrap_or(0);
    let mut annotated = Vec::with_capacity(text.len() + fields.len());
    annotated.extend(&text.as_bytes()[..brace]);
    annotated.push(b',');
    annotated.extend(&fields.as_bytes()[1..]);
    annotated.extend(&text.as_bytes()[brace + 1..]);
    annotated
}

/// The attributes of a CloudEvents envelope that are used.
pub const ENVELOPE_ATTRIBUTES: [&str; 5] = ["specversion", "id", "source", "type", "time"];

/// An event whose CloudEvents attributes came in the headers of its transport (binary mode), in the
/// envelope that structured mode would have had: what takes it from here knows one form. As it is when
/// it is no JSON object.
pub fn enveloped(event: &[u8], attributes: &[(&str, String)]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(event) else { return event.to_vec() };
    let text = match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Cow::Borrowed(text),
        Err(_) => match non_finite_as_null(text) {
            Some(repaired) if serde_json::from_str::<IgnoredAny>(&repaired).is_ok() => {
                Cow::Owned(repaired)
            }
            _ => return event.to_vec(),
        },
    };
    if !text.trim_ascii_start().starts_with('{') {
        return event.to_vec();
    }
    let mut envelope = String::with_capacity(text.len() + 256);
    for (name, value) in attributes {
        let separator = if envelope.is_empty() { '{' } else { ',' };
        let (name, value) = (Value::from(*name), Value::from(&**value));
        // Writing to a String can't fail.
        let _ = write!(envelope, "{separator}{name}:{value}");
    }
    let separator = if envelope.is_empty() { '{' } else { ',' };
    format!("{envelope}{separator}\"data\":{}}}", text.trim_ascii()).into_bytes()
}

/// The tenant that a record names; `None` when it names none or is no event. One that is no string
/// is given as it would be shown.
pub fn named_tenant(record: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(record).ok()?;
    let repaired;
    let raw = if let Ok(raw) = Raw::parse(text) {
        raw
    } else {
        repaired = non_finite_as_null(text)?;
        Raw::parse(&repaired).ok()?
    };
    let (raw, _) = open_envelope(raw);
    let fields = [
        raw.resolved.unwrap_or_default().tenant_id,
        raw.tenant_id,
        raw.metadata.unwrap_or_default().tenant_id,
    ];
    fields.into_iter().find_map(|field| match field {
        Scalar::Null => None,
        Scalar::Text(name) => Some(tidy(&name).into_owned()),
        other => Some(other.to_string()),
    })
}

/// The record with this tenant as `tenant_id`, which it must not name itself; as it is when it is
/// no event.
pub fn with_tenant(record: &[u8], tenant: &str) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(record) else { return record.to_vec() };
    let text = match Event::of(text) {
        Some(_) => Cow::Borrowed(text),
        // NaN, where it is nothing worse.
        None => match non_finite_as_null(text) {
            Some(repaired) => Cow::Owned(repaired),
            None => return record.to_vec(),
        },
    };
    let brace = Event::of(&text).and_then(|event| text[..event.end].rfind('}'));
    let Some(brace) = brace else { return record.to_vec() };
    let (before, after) = text.split_at(brace);
    let comma = if before.trim_end().ends_with('{') { "" } else { "," };
    format!("{before}{comma}\"tenant_id\":{}{after}", Value::from(tenant)).into_bytes()
}

/// The tenant of every outcome, whose zeros mean unknown; task type and context where they are final.
fn resolved(outcome: &Outcome) -> Value {
    let mut resolved = json!({"tenant_id": outcome.tenant});
    if outcome.zero_is_unknown {
        // The identity that is written into it is not its own.
        resolved["zero_is_unknown"] = true.into();
    }
    if outcome.resolved {
        let context: Map<String, Value> = outcome
            .context
            .iter()
            .map(|(path, feature)| {
                let value = match feature {
                    Feature::Text(text) => text.clone().into(),
                    Feature::Bool(value) => (*value).into(),
                    Feature::Number(number) => (*number).into(),
                };
                (path.clone(), value)
            })
            .collect();
        resolved["task_type"] = outcome.task_type.clone().into();
        resolved["context"] = context.into();
    }
    resolved
}

/// Where the event's object ends in the text: of a CloudEvents envelope, its `data`.
struct Event {
    end: usize,
}

impl Event {
    /// `None` when the text is not JSON.
    fn of(text: &str) -> Option<Self> {
        let envelope: Envelope<'_> = serde_json::from_str(text).ok()?;
        let end = match envelope.data {
            Some(data) if envelope.has_version && data.get().starts_with('{') => {
                // A slice of the text, so its address tells where it stands in it.
                data.get().as_ptr() as usize - text.as_ptr() as usize + data.get().len()
            }
            _ => text.len(),
        };
        Some(Self { end })
    }
}

/// What tells a CloudEvents envelope, read as [`super::raw`] reads it: the last of equal keys counts.
#[derive(Default)]
struct Envelope<'a> {
    has_version: bool,
    data: Option<&'a RawValue>,
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EnvelopeVisitor;
        impl<'de> Visitor<'de> for EnvelopeVisitor {
            type Value = Envelope<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut envelope = Envelope::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "specversion" => match map.next_value::<Value>()? {
                            Value::Null => {}
                            value => envelope.has_version = value.is_string(),
                        },
                        "data" => envelope.data = Some(map.next_value()?),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(envelope)
            }
        }
        deserializer.deserialize_map(EnvelopeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::RECORD_BYTES_MAX;

    fn read(record: &[u8]) -> (Outcome, String) {
        Outcome::parse_identified(record, RECORD_BYTES_MAX, 5, || "fresh".to_owned()).unwrap()
    }

    /// Annotated, the record is valid JSON and reads as the same outcome, also with what a decision
    /// gave it, and again when it is annotated again.
    #[track_caller]
    fn check(record: &str) {
        let (mut outcome, identity) = read(record.as_bytes());
        let plain = annotated(record.as_bytes(), &identity, &outcome);
        serde_json::from_slice::<Value>(&plain).expect("it is JSON");
        assert_eq!(read(&plain), (outcome.clone(), identity.clone()), "{record}");
        assert_eq!(
            read(&annotated(&plain, &identity, &outcome)),
            (outcome.clone(), identity.clone())
        );

        outcome.task_type = None;
        outcome.context = vec![
            ("a.b".to_owned(), Feature::Number(0.1)),
            ("quote\"".to_owned(), Feature::Text("}\u{0}é".to_owned())),
            ("yes".to_owned(), Feature::Bool(true)),
        ];
        outcome.resolved = true;
        let with_decision = annotated(record.as_bytes(), &identity, &outcome);
        assert_eq!(read(&with_decision), (outcome, identity), "{record}");
    }

    #[test]
    fn a_record_without_a_tenant_can_be_given_one_and_one_with_it_names_it() {
        for record in [
            r#"{"agent_name":"a","status":"success"}"#,
            r#"{"agent_name":"a","status":"success","tenant_id":null,"metadata":{"tenant_id":null} }"#,
            r#"{"agent_name":"a","status":"success","metadata":{"x":NaN}}"#,
            include_str!("../../tests/fixtures/shape_a.json"),
            include_str!("../../tests/fixtures/shape_c_cloudevents.json"),
        ] {
            assert_eq!(named_tenant(record.as_bytes()), None, "{record}");
            let owned = with_tenant(record.as_bytes(), "r\"ed");
            assert_eq!(named_tenant(&owned).as_deref(), Some("r\"ed"), "{record}");
            assert_eq!(read(&owned).0.tenant, "r\"ed", "{record}");
            let (outcome, plain) = (read(&owned).0, read(record.as_bytes()).0);
            assert_eq!((outcome.agent, outcome.context), (plain.agent, plain.context));
        }
        assert_eq!(with_tenant(b" { } ", "t"), b" { \"tenant_id\":\"t\"} ");
        for no_event in ["", "{", "[]", "7", "\u{0}"] {
            assert_eq!(named_tenant(no_event.as_bytes()), None);
            assert_eq!(with_tenant(no_event.as_bytes(), "t"), no_event.as_bytes());
        }
        assert_eq!(named_tenant(b"\xff{}"), None);
        for (record, tenant) in [
            (r#"{"tenant_id":"a","metadata":{"tenant_id":"b"}}"#, "a"),
            (r#"{"metadata":{"tenant_id":"b"}}"#, "b"),
            (r#"{"tenant_id":"a","resolved":{"tenant_id":"r"}}"#, "r"),
            (r#"{"tenant_id":7}"#, "7"),
            (r#"{"specversion":"1.0","tenant_id":"x","data":{"tenant_id":"a"}}"#, "a"),
        ] {
            assert_eq!(named_tenant(record.as_bytes()).as_deref(), Some(tenant), "{record}");
        }
    }

    #[test]
    fn attributes_from_headers_are_those_of_an_envelope() {
        let attributes = |id: &str| {
            [
                ("specversion", "1.0".to_owned()),
                ("id", id.to_owned()),
                ("source", "/s\"é".to_owned()),
                ("time", "2026-11-02T09:00:00Z".to_owned()),
            ]
        };
        for event in [
            r#"{"agent_name":"a","status":"success"}"#,
            " {\"agent_name\":\"a\",\"status\":\"success\",\"metadata\":{\"x\":NaN}}\n",
        ] {
            let (outcome, identity) = read(&enveloped(event.as_bytes(), &attributes("7")));
            assert_eq!(identity, r#"cloudevent:["/s\"é","7"]"#);
            assert_eq!((&*outcome.agent, outcome.time_ms), ("a", 1_793_610_000_000));
            // An id that is none leaves it to the event.
            let (_, identity) = read(&enveloped(event.as_bytes(), &attributes("None")));
            assert_eq!(identity, "fresh");
        }
        for no_event in ["", "{", "[{}]", "7", "\"{\"", "{\"a\":NaNa}"] {
            assert_eq!(enveloped(no_event.as_bytes(), &attributes("7")), no_event.as_bytes());
        }
        assert_eq!(enveloped(b"\xff{}", &attributes("7")), b"\xff{}");
        assert_eq!(enveloped(b"{}", &[]), br#"{"data":{}}"#);
    }

    #[test]
    fn an_annotated_record_reads_as_the_same_outcome() {
        for record in [
            r#"{"agent_name":"a","status":"success"}"#,
            r#"  {"agent_name":"a","status":"success" }  "#,
            r#"{"agent_name":"a","status":"success","event_id":"e"}"#,
            r#"{"agent_name":"a","status":"success","event_id":170141183460469231731687303}"#,
            r#"{"agent_name":"a","status":"success","event_id":null,"run_id":7,"task_type":"t"}"#,
            r#"{"agent_name":"a","status":"success","decision_id":"d","tenant_id":"x"}"#,
            r#"{"agent_name":"a","status":"success","metadata":{"x":NaN},"note":"} NaN"}"#,
            r#"{"agent_name":"a","status":"success","resolved":{"tenant_id":"r","task_type":"q"}}"#,
            r#"{"specversion":"1.0","source":"/s","id":"1","data":{"agent_name":"a","status":"failure","context":{"k":{"l":1}}},"type":"t"}"#,
            r#"{"data":{"agent_name":"b"},"agent_name":"a","status":"success","specversion":null}"#,
            r#"{"agent_name":"a","status":"failure","decision_id":"d","item":1,"attempt":2,"final":false}"#,
            r#"{"agent_name":"a","status":"failure","final":false}"#,
            r#"{"specversion":"1.0","data":[{}],"agent_name":"a","status":"success"}"#,
            r#"{"specversion":"1.0","data":{"x":-Infinity,"agent_name":"a","status":"pending"} }"#,
            include_str!("../../tests/fixtures/shape_a.json"),
            include_str!("../../tests/fixtures/shape_a_workflow_step.json"),
            include_str!("../../tests/fixtures/shape_b.json"),
            r#"{"agent_name":"a","status":"success","memory_mb":0,"cpu_ms":0,"cost":0}"#,
            r#"{"agent_name":"a","status":"success","memory_mb":0,"cpu_ms":0,"cost":0,"event_id":"e"}"#,
            r#"{"agent_name":" a ","status":"OK","cost":0,"tenant_id":"e\u0301 "}"#,
            include_str!("../../tests/fixtures/shape_c_cloudevents.json"),
            include_str!("../../tests/fixtures/shape_minimal.json"),
        ] {
            check(record);
        }
    }
}
