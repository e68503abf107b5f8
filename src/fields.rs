//! Fields of requests as types: each knows what it allows, says so when it is given something else, and
//! describes it for `/openapi.json`. Nothing here knows what a field is for.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::outcome::NAME_BYTES_MAX;

/// Most names in one list.
pub const NAMES_MAX: usize = 1_000;
/// Characters of what was seen that an error repeats.
const SHOWN_MAX: usize = 100;
/// Characters of an error.
const DETAIL_MAX: usize = 300;

/// Reads the fields of an object. Those that the type does not know are skipped: clients may be newer
/// than we are.
///
/// # Errors
/// [`Error::Invalid`] with the pointer of the field that is wrong.
pub fn read<T: DeserializeOwned>(object: Map<String, Value>) -> Result<T> {
    serde_path_to_error::deserialize(Value::Object(object)).map_err(|error| {
        let mut pointer = String::new();
        for segment in error.path() {
            use serde_path_to_error::Segment;
            let part: &dyn fmt::Display = match segment {
                Segment::Seq { index } => index,
                Segment::Map { key } => key,
                Segment::Enum { .. } | Segment::Unknown => continue,
            };
            pointer.push('/');
            pointer.push_str(&part.to_string());
        }
        Error::invalid(pointer, cut(&error.inner().to_string(), DETAIL_MAX))
    })
}

fn cut(text: &str, characters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}...", &text[..end]).into(),
        None => text.into(),
    }
}

/// The error of a field with a value that is not allowed.
pub fn refused(field: &str, seen: &Value, allowed: &str) -> Error {
    let detail = format!("is {}, allowed is {allowed}", cut(&seen.to_string(), SHOWN_MAX));
    Error::invalid(format!("/{field}"), detail)
}

fn wrong<E: serde::de::Error>(seen: &Value, allowed: &str) -> E {
    E::custom(format!("is {}, allowed is {allowed}", cut(&seen.to_string(), SHOWN_MAX)))
}

/// A string of 1 to 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Name(pub String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(name) if (1..=NAME_BYTES_MAX).contains(&name.len()) => Ok(Self(name)),
            other => Err(wrong(&other, "a string of 1 to 256 bytes")),
        }
    }
}

impl JsonSchema for Name {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Name".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Of characters, because a schema can't count bytes.
        json_schema!({"type": "string", "minLength": 1, "maxLength": NAME_BYTES_MAX})
    }
}

/// At most 1,000 names.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(inline)]
pub struct Names(#[schemars(length(max = NAMES_MAX))] pub Vec<Name>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct NamesVisitor;
        impl<'de> Visitor<'de> for NamesVisitor {
            type Value = Names;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of names")
            }
            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Names, A::Error> {
                let count = seq.size_hint().unwrap_or(0);
                if count > NAMES_MAX {
                    let detail = format!("has {count} names, allowed are at most {NAMES_MAX}");
                    return Err(A::Error::custom(detail));
                }
                let mut names = Vec::with_capacity(count);
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_seq(NamesVisitor)
    }
}

impl Names {
    /// As plain strings.
    pub fn into_strings(self) -> Vec<String> {
        self.0.into_iter().map(|Name(name)| name).collect()
    }
}

/// A whole number from `MIN` to `MAX`, also one that is written like `3.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole<const MIN: u64, const MAX: u64>(pub u64);

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Whole<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        match value.as_u64().or_else(|| value.as_f64().and_then(whole)) {
            Some(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(wrong(&value, &format!("a whole number from {MIN} to {MAX}"))),
        }
    }
}

/// The number without its fraction of zero; only where floats still count one by one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is whole and in range"
)]
fn whole(number: f64) -> Option<u64> {
    let is_whole = number.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&number);
    is_whole.then_some(number as u64)
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Whole<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Whole".into()
    }
    fn schema_id() -> Cow<'static, str> {
        format!("Whole<{MIN}, {MAX}>").into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A number from `MIN` to `MAX`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Real<const MIN: u64, const MAX: u64>(pub f64);

#[expect(clippy::cast_precision_loss, reason = "limits are round numbers")]
impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Real<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        match value.as_f64() {
            Some(number) if (MIN as f64..=MAX as f64).contains(&number) => Ok(Self(number)),
            _ => Err(wrong(&value, &format!("a number from {MIN} to {MAX}"))),
        }
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Real<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Real".into()
    }
    fn schema_id() -> Cow<'static, str> {
        format!("Real<{MIN}, {MAX}>").into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": MIN, "maximum": MAX})
    }
}

/// An object with any fields.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(inline)]
pub struct AnyObject(pub Map<String, Value>);

impl<'de> Deserialize<'de> for AnyObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Object(object) => Ok(Self(object)),
            other => Err(wrong(&other, "an object")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
    #[serde(default)]
    struct Fields {
        name: Option<Name>,
        names: Option<Names>,
        count: Option<Whole<1, 9>>,
        share: Option<Real<0, 1>>,
        any: Option<AnyObject>,
        flag: Option<bool>,
    }

    fn fields(body: Value) -> Result<Fields> {
        match body {
            Value::Object(object) => read(object),
            other => panic!("{other} is no object"),
        }
    }

    #[track_caller]
    fn check(body: Value, pointer: &str, says: &str) {
        match fields(body) {
            Err(Error::Invalid { pointer: seen, detail }) => {
                assert_eq!(seen, pointer, "{detail}");
                assert!(detail.contains(says) && detail.len() < 2_000, "{detail}");
            }
            other => panic!("{pointer}: {other:?}"),
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_is_allowed() {
        let name = "1 to 256 bytes";
        check(json!({"name": ""}), "/name", name);
        check(json!({"name": "é".repeat(129)}), "/name", name);
        check(json!({"name": ["x".repeat(5_000)]}), "/name", "...");
        check(json!({"names": ["a", ""]}), "/names/1", name);
        check(json!({"names": "a"}), "/names", "an array of names");
        check(json!({"names": "a".repeat(5_000)}), "/names", "aaaa...");
        check(json!({"names": vec!["a"; 1_001]}), "/names", "1001");
        for count in [json!(0), json!(10), json!(-1), json!(1.5), json!("3"), json!([3])] {
            check(json!({"count": count}), "/count", "from 1 to 9");
        }
        for share in [json!(-0.1), json!(1.1), json!("0.5"), json!(true)] {
            check(json!({"share": share}), "/share", "a number from 0 to 1");
        }
        check(json!({"any": [1]}), "/any", "an object");
        check(json!({"flag": "yes"}), "/flag", "boolean");
    }

    #[test]
    fn what_is_allowed_is_read_and_null_and_what_is_unknown_are_nothing() {
        let read = fields(json!({
            "name": "é".repeat(128), "names": ["a"], "count": 9.0, "any": {"a": 1}, "flag": true,
            "new": 1,
        }));
        let fields_read = read.expect("all of it is allowed");
        assert_eq!(fields_read.count, Some(Whole(9)));
        assert_eq!(fields_read.names.map(Names::into_strings), Some(vec!["a".to_owned()]));
        let nothing =
            json!({"name": null, "names": null, "count": null, "any": null, "flag": null});
        assert_eq!(fields(nothing).expect("null is nothing"), Fields::default());
        assert_eq!(fields(json!({})).expect("none is needed"), Fields::default());
    }
}
