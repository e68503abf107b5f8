//! Fields of requests as types: each knows what it allows, says so when it is given something else, and
//! describes it for `/openapi.json`. Nothing here knows what a field is for.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::outcome::{NAME_BYTES_MAX, kept_name, nearest};

/// Most names in one list.
pub const NAMES_MAX: usize = 1_000;
/// Characters of what was seen that an error repeats.
const SHOWN_MAX: usize = 100;
/// Characters of an error.
const DETAIL_MAX: usize = 300;

/// Reads the fields of an object. One that a type which denies unknown fields does not know is refused
/// with the name that may have been meant: half a question would get a whole answer.
///
/// # Errors
/// [`Error::Invalid`] with the pointer of the field that is wrong.
pub fn read<T: DeserializeOwned + JsonSchema>(object: Map<String, Value>) -> Result<T> {
    serde_path_to_error::deserialize(Value::Object(object)).map_err(|error| {
        let mut path = Vec::new();
        for segment in error.path() {
            use serde_path_to_error::Segment;
            match segment {
                Segment::Seq { index } => path.push(index.to_string()),
                Segment::Map { key } => path.push(key.clone()),
                Segment::Enum { .. } | Segment::Unknown => {}
            }
        }
        let pointer = path.iter().fold(String::new(), |pointer, part| {
            // As RFC 6901 writes them.
            pointer + "/" + &cut(&part.replace('~', "~0").replace('/', "~1"), SHOWN_MAX)
        });
        let detail = unknown_field(&path, SchemaGenerator::default().into_root_schema_for::<T>())
            .unwrap_or_else(|| error.inner().to_string());
        Error::invalid(pointer, cut(&detail, DETAIL_MAX))
    })
}

/// What is said of a field that the schema does not know; `None` for one that it knows.
fn unknown_field(path: &[String], schema: Schema) -> Option<String> {
    let root = Value::from(schema);
    let (field, parents) = path.split_last()?;
    let parent = parents.iter().try_fold(&root, |schema, part| {
        variants(&root, schema).find_map(|schema| schema["properties"].get(part))
    })?;
    let mut known: Vec<&str> = variants(&root, parent)
        .filter(|schema| schema["additionalProperties"] == false)
        .filter_map(|schema| schema["properties"].as_object())
        .flat_map(|properties| properties.keys().map(String::as_str))
        .collect();
    if known.is_empty() || known.contains(&field.as_str()) {
        return None;
    }
    known.sort_unstable();
    let hint = match nearest(field, known.iter().copied()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("allowed are {}", known.join(", ")),
    };
    Some(format!("is no field of a request like this; {hint}"))
}

/// The schemas that one stands for: itself, what it refers to, its alternatives.
fn variants<'s>(root: &'s Value, schema: &'s Value) -> impl Iterator<Item = &'s Value> {
    let resolved = |schema: &'s Value| {
        let name = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/"));
        name.and_then(|name| root["$defs"].get(name)).unwrap_or(schema)
    };
    let schema = resolved(schema);
    let alternatives = ["anyOf", "oneOf"].into_iter().filter_map(|key| schema[key].as_array());
    std::iter::once(schema).chain(alternatives.flatten().map(resolved).flat_map(move |schema| {
        let inner = ["anyOf", "oneOf"].into_iter().filter_map(|key| schema[key].as_array());
        std::iter::once(schema).chain(inner.flatten().map(resolved))
    }))
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

/// A string of 1 to 256 bytes that is more than blanks, as outcomes have it: see [`kept_name`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Name(pub String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        match value.as_str().and_then(kept_name) {
            Some(name) => Ok(Self(name.into_owned())),
            None => Err(wrong(&value, "a string of 1 to 256 bytes")),
        }
    }
}

/// The name of an agent: as [`Name`]; a whole number is its digits, as in outcomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentName(pub String);

impl<'de> Deserialize<'de> for AgentName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.is_i64() || value.is_u64() {
            return Ok(Self(value.to_string()));
        }
        match value.as_str().and_then(kept_name) {
            Some(name) => Ok(Self(name.into_owned())),
            None => Err(wrong(&value, "a string of 1 to 256 bytes")),
        }
    }
}

impl JsonSchema for AgentName {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "AgentName".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        // A whole number is read, too, but a choice between types would be a type of its own in generated
        // clients, which then take no string.
        Name::json_schema(generator)
    }
}

/// What a caller calls something of its own: a string of 1 to 256 bytes, to the letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id(pub String);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(id) if (1..=NAME_BYTES_MAX).contains(&id.len()) => Ok(Self(id)),
            other => Err(wrong(&other, "a string of 1 to 256 bytes")),
        }
    }
}

impl JsonSchema for Id {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Id".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 1, "maxLength": NAME_BYTES_MAX})
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
        json_schema!({
            "type": "string", "minLength": 1, "maxLength": NAME_BYTES_MAX, "pattern": "\\S"
        })
    }
}

/// At most 1,000 names of agents.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(inline)]
pub struct Names(#[schemars(length(max = NAMES_MAX))] pub Vec<AgentName>);

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
        self.0.into_iter().map(|AgentName(name)| name).collect()
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
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        max_cost: Option<Real<0, 1>>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Fields {
        inner: Option<Inner>,
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
    fn an_unknown_field_is_refused_with_the_one_that_may_be_meant() {
        check(json!({"naem": "a"}), "/naem", "did you mean name?");
        check(json!({"Count": 1}), "/Count", "did you mean count?");
        check(json!({"zzz": 1}), "/zzz", "allowed are any, count, flag, inner, name, names");
        check(json!({"a/b~": 1}), "/a~1b~0", "allowed are");
        check(json!({"inner": {"maxcost": 1}}), "/inner/maxcost", "did you mean max_cost?");
        check(json!({"inner": {"flag": 1}}), "/inner/flag", "allowed are max_cost");
        check(json!({"x".repeat(5_000): 1}), &format!("/{}...", "x".repeat(100)), "allowed are");
        let any = fields(json!({"any": {"whatever": {"it": "is"}}})).expect("these have no names");
        assert!(any.any.is_some());
    }

    #[test]
    fn names_are_read_as_outcomes_have_them() {
        let read =
            fields(json!({"name": " e\u{301}\t", "names": [1, " a", -2, "é"]})).expect("allowed");
        assert_eq!(read.name, Some(Name("é".to_owned())));
        let names = read.names.map(Names::into_strings).unwrap_or_default();
        assert_eq!(names, ["1", "a", "-2", "é"]);
        check(json!({"name": " \u{a0}"}), "/name", "1 to 256 bytes");
        check(json!({"name": 1}), "/name", "1 to 256 bytes");
        check(json!({"names": [1.5]}), "/names/0", "1 to 256 bytes");
        check(json!({"names": ["\u{feff}"]}), "/names/0", "1 to 256 bytes");
    }

    #[test]
    fn what_is_allowed_is_read_and_null_is_nothing() {
        let read = fields(json!({
            "name": "é".repeat(128), "names": ["a "], "count": 9.0, "any": {"a": 1}, "flag": true,
            "inner": {"max_cost": 0.5},
        }));
        let fields_read = read.expect("all of it is allowed");
        assert_eq!(fields_read.count, Some(Whole(9)));
        assert_eq!(fields_read.names.map(Names::into_strings), Some(vec!["a".to_owned()]));
        let nothing =
            json!({"name": null, "names": null, "count": null, "any": null, "inner": null});
        assert_eq!(fields(nothing).expect("null is nothing"), Fields::default());
        assert_eq!(fields(json!({})).expect("none is needed"), Fields::default());
    }
}
