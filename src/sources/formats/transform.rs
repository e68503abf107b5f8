//! What is made of a value on its way from a record into an event: a closed list.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::path::is_set;
use crate::outcome::parse_time_ms;

/// What becomes of the values that a line's paths lead to.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Transform {
    /// Seconds to milliseconds.
    SToMs,
    /// Of two times, the milliseconds between them.
    IsoDiff,
    /// By what the value is; `*` stands for all that are not named.
    Enum(BTreeMap<String, Value>),
    /// Of a list of tags, what follows this prefix.
    Tag(String),
    /// The number with the other sign.
    Negate,
    /// Numbers and texts that are numbers; all else says nothing.
    Number,
    /// A grade as a number: C, P and I, words that say yes or no, numbers.
    Grade,
    /// A number from 0 to 1 as a status: 1 is a success, 0 a failure, between them is partial.
    Verdict,
    /// A number from 0 to 1 as a status: from this on a success, below it a failure.
    AtLeast(f64),
    /// The first member of a list.
    First,
    /// What stands before the last of these signs.
    BeforeLast(String),
    /// All values, each in the place of a `{}`.
    Template(String),
    /// Of a list and a place in it, the member there.
    Pick,
    /// The whole number before it.
    MinusOne,
    /// An object without these keys; what lists in it hold are members of the list's name.
    Features(Vec<String>),
}

/// What a transform makes of a value.
#[derive(Debug, PartialEq)]
pub(super) enum Made {
    Value(Value),
    /// The value says nothing of what is asked.
    Nothing,
    /// It should say something, and can't be read: why.
    Unreadable(String),
}

/// Words that say yes, and that say no, beside Inspect's letters.
const GOOD: [&str; 7] = ["c", "pass", "passed", "correct", "true", "good", "yes"];
const BAD: [&str; 8] = ["i", "n", "fail", "failed", "incorrect", "false", "bad", "no"];

impl Transform {
    /// How many values it takes, where that is not one.
    pub(super) fn takes(&self) -> Option<usize> {
        match self {
            Self::IsoDiff | Self::Pick => Some(2),
            Self::Template(template) => Some(template.matches("{}").count()),
            _ => None,
        }
    }

    /// What becomes of several values.
    pub(super) fn of_all(&self, values: &[&Value]) -> Made {
        match (self, values) {
            (Self::IsoDiff, [start, end]) => match (time_ms(start), time_ms(end)) {
                #[expect(clippy::cast_precision_loss, reason = "milliseconds of an execution")]
                (Some(start), Some(end)) => Made::Value(((end - start) as f64).into()),
                (None, _) => unreadable(start, "a time"),
                (_, None) => unreadable(end, "a time"),
            },
            (Self::Template(template), values) => {
                let mut parts = template.split("{}");
                let mut text = parts.next().unwrap_or_default().to_owned();
                for (value, part) in values.iter().zip(parts) {
                    text.push_str(&text_of(value));
                    text.push_str(part);
                }
                Made::Value(text.into())
            }
            (Self::Pick, [Value::Array(list), place]) => {
                let found = number(place).and_then(index).and_then(|place| list.get(place));
                match found {
                    Some(member) => Made::Value(member.clone()),
                    None => unreadable(place, &format!("a place among {}", list.len())),
                }
            }
            (Self::Pick, [other, _]) => unreadable(other, "a list"),
            _ => Made::Nothing,
        }
    }

    /// What becomes of a value.
    pub(super) fn of(&self, value: Value) -> Made {
        let known = |made: Option<Value>, allowed: &str| match made {
            Some(made) => Made::Value(made),
            None => unreadable(&value, allowed),
        };
        match self {
            Self::SToMs => known(number(&value).map(|s| (s * 1e3).into()), "a number of seconds"),
            Self::Negate => known(number(&value).map(|number| (0.0 - number).into()), "a number"),
            Self::Number => {
                number(&value).map_or(Made::Nothing, |number| Made::Value(number.into()))
            }
            Self::MinusOne => {
                let before = number(&value).and_then(index).and_then(|place| place.checked_sub(1));
                known(before.map(Value::from), "a whole number from 1")
            }
            Self::Enum(values) => {
                let made = values.get(&*text_of(&value)).or_else(|| values.get("*"));
                let names: Vec<&str> = values.keys().map(String::as_str).collect();
                known(made.cloned(), &names.join(", "))
            }
            Self::Tag(prefix) => {
                let parsed;
                let tags = match &value {
                    Value::String(text) => {
                        parsed = serde_json::from_str(text).unwrap_or_default();
                        &parsed
                    }
                    other => other,
                };
                let mut tags = tags.as_array().into_iter().flatten().filter_map(Value::as_str);
                let tag = tags.find_map(|tag| tag.trim().strip_prefix(&**prefix));
                tag.map_or(Made::Nothing, |tag| Made::Value(tag.trim().into()))
            }
            Self::Grade => known(grade(&value).map(Value::from), "a number, C, P, I, N, yes or no"),
            Self::Verdict => {
                let status = |share: f64| match share {
                    share if share >= 1.0 => "success",
                    share if share <= 0.0 => "failure",
                    _ => "partial",
                };
                known(share(&value).map(|share| status(share).into()), "a number from 0 to 1")
            }
            Self::AtLeast(least) => {
                let status = |share| if share >= *least { "success" } else { "failure" };
                known(share(&value).map(|share| status(share).into()), "a number from 0 to 1")
            }
            Self::First => match value {
                Value::Array(list) => {
                    list.into_iter().find(is_set).map_or(Made::Nothing, Made::Value)
                }
                other => Made::Value(other),
            },
            Self::BeforeLast(sign) => {
                match value.as_str().and_then(|text| text.rsplit_once(&**sign)) {
                    Some((before, _)) => Made::Value(before.into()),
                    None => Made::Nothing,
                }
            }
            Self::Features(without) => match value {
                Value::Object(map) => {
                    let kept = map.into_iter().filter(|(key, _)| !without.contains(key));
                    Made::Value(Value::Object(
                        kept.map(|(key, value)| (key, unlisted(value))).collect(),
                    ))
                }
                other => unreadable(&other, "an object"),
            },
            Self::IsoDiff | Self::Template(_) | Self::Pick => self.of_all(&[&value]),
        }
    }
}

fn unreadable(value: &Value, allowed: &str) -> Made {
    let shown: String = match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        other => other.to_string().chars().take(64).collect(),
    };
    Made::Unreadable(format!("is {shown}, allowed is {allowed}"))
}

/// A text as it is; else as JSON writes it.
pub(super) fn text_of(value: &Value) -> std::borrow::Cow<'_, str> {
    match value {
        Value::String(text) => text.trim().into(),
        other => other.to_string().into(),
    }
}

/// Numbers, and texts that are numbers.
fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number.filter(|number| number.is_finite())
}

fn share(value: &Value) -> Option<f64> {
    number(value).filter(|number| (0.0..=1.0).contains(number))
}

fn index(number: f64) -> Option<usize> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked before")]
    (number.fract() == 0.0 && (0.0..1e9).contains(&number)).then_some(number as usize)
}

fn time_ms(value: &Value) -> Option<i64> {
    parse_time_ms(&text_of(value))
}

/// As Inspect's `value_to_float` reads grades.
fn grade(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(good) => Some(f64::from(u8::from(*good))),
        Value::String(text) => {
            let is = |word: &&str| text.trim().eq_ignore_ascii_case(word);
            if GOOD.iter().any(is) {
                Some(1.0)
            } else if BAD.iter().any(is) {
                Some(0.0)
            } else if is(&"p") {
                Some(0.5)
            } else {
                number(value)
            }
        }
        other => number(other),
    }
}

/// A list of objects as the one object that has all their members, however deep they stand.
fn unlisted(value: Value) -> Value {
    match value {
        Value::Array(list) if list.iter().any(Value::is_object) => {
            let mut merged = Map::new();
            for member in list {
                if let Value::Object(member) = member {
                    merged.extend(member.into_iter().map(|(key, value)| (key, unlisted(value))));
                }
            }
            Value::Object(merged)
        }
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(key, value)| (key, unlisted(value))).collect())
        }
        other => other,
    }
}
