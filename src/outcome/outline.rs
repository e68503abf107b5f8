//! What is kept of a record that was refused: all of it, or its outline, which has no values.
//!
//! A log of calls to language models holds prompts and answers. It is no outcome event, so it is refused
//! whole, and whoever may not store prompts must not find them in the dead letters.

use serde_json::{Map, Value, json};

/// Longest name in an outline, in bytes: a longer one is rather a value.
const NAME_BYTES_MAX: usize = 128;
/// Elements of an array that an outline shows.
const ELEMENTS_MAX: usize = 16;
/// Names that an event of ours has and a log of calls has not.
const OUR_NAMES: [&str; 2] = ["agent_name", "agent"];
/// Names that tell a log of calls: those of `LiteLLM`, of OTLP/JSON, and of Langfuse and what is like it. All
/// names of a row must be there.
const THEIR_NAMES: [&[&str]; 8] = [
    &["litellm_call_id"],
    &["model_group", "response_cost"],
    &["resourceSpans"],
    &["resourceLogs"],
    &["resourceMetrics"],
    &["traceId"],
    &["input", "output"],
    &["messages"],
];
/// The same in what is no JSON, such as one that was cut off.
const THEIR_WORDS: [&str; 5] = [
    "\"litellm_call_id\"",
    "\"resourceSpans\"",
    "\"resourceLogs\"",
    "\"resourceMetrics\"",
    "\"messages\"",
];

/// What is kept of the payload of a dead letter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PayloadKept {
    /// All of it, as far as there is room.
    #[default]
    Full,
    /// Names, types and lengths.
    Keys,
    /// Nothing.
    None,
}

impl PayloadKept {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Full, Self::Keys, Self::None];

    /// Its name in settings and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Keys => "keys",
            Self::None => "none",
        }
    }

    /// That of a name; all where it is another.
    pub fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|kept| kept.as_str() == name).unwrap_or_default()
    }

    /// What of this record is kept, at most `bytes_max` of it: of a log of calls never all.
    #[must_use]
    pub fn of(self, record: &[u8], bytes_max: usize) -> KeptPayload {
        let cut = |bytes: &[u8]| bytes[..bytes.len().min(bytes_max)].to_vec();
        let (kept, bytes) = match self {
            Self::None => (self, Vec::new()),
            Self::Full if !is_log_of_calls(record) => (self, cut(record)),
            Self::Full | Self::Keys => (Self::Keys, cut(outline_of(record).to_string().as_bytes())),
        };
        KeptPayload { kept, bytes, whole_bytes: record.len() }
    }
}

/// What is kept of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPayload {
    /// Which of the choices it is.
    pub kept: PayloadKept,
    /// The text.
    pub bytes: Vec<u8>,
    /// Size of the whole record.
    pub whole_bytes: usize,
}

fn is_log_of_calls(record: &[u8]) -> bool {
    match serde_json::from_slice(record) {
        Ok(Value::Object(object)) => {
            let data = object.get("data").and_then(Value::as_object);
            [Some(&object), data].into_iter().flatten().any(is_call)
        }
        Ok(Value::Array(items)) => items.iter().filter_map(Value::as_object).any(is_call),
        Ok(_) => false,
        Err(_) => {
            let text = String::from_utf8_lossy(record);
            THEIR_WORDS.iter().any(|word| text.contains(word))
        }
    }
}

fn is_call(object: &Map<String, Value>) -> bool {
    let has = |name: &&str| object.contains_key(*name);
    !OUR_NAMES.iter().any(has) && THEIR_NAMES.iter().any(|names| names.iter().all(has))
}

fn outline_of(record: &[u8]) -> Value {
    match serde_json::from_slice(record) {
        Ok(value) => outline(&value),
        Err(_) => json!(format!("no JSON, {} bytes", record.len())),
    }
}

/// A value's type and length, and the names in it.
fn outline(value: &Value) -> Value {
    match value {
        Value::Null => json!("null"),
        Value::Bool(_) => json!("boolean"),
        Value::Number(_) => json!("number"),
        Value::String(text) => json!(format!("string, {} bytes", text.len())),
        Value::Array(items) => {
            let mut shown: Vec<Value> = items.iter().take(ELEMENTS_MAX).map(outline).collect();
            let more = items.len() - shown.len();
            if more > 0 {
                shown.push(json!(format!("{more} more")));
            }
            shown.into()
        }
        Value::Object(fields) => {
            let named = |(name, field): (&String, &Value)| {
                let name = match name.len() {
                    0..=NAME_BYTES_MAX => name.clone(),
                    bytes => format!("name of {bytes} bytes"),
                };
                (name, outline(field))
            };
            fields.iter().map(named).collect::<Map<_, _>>().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wanted: PayloadKept, record: &str, expected: PayloadKept, payload: &str) {
        let seen = wanted.of(record.as_bytes(), 1_000);
        assert_eq!(seen.whole_bytes, record.len());
        let text = String::from_utf8_lossy(&seen.bytes);
        assert_eq!((seen.kept, &*text), (expected, payload), "{record}");
    }

    #[test]
    fn an_outline_has_names_types_and_lengths_and_no_value() {
        let record =
            r#"{"agent_name": "secret", "n": 7, "deep": {"list": ["secret", null, {"on": true}]}}"#;
        let outline = r#"{"agent_name":"string, 6 bytes","n":"number","deep":{"list":["string, 6 bytes","null",{"on":"boolean"}]}}"#;
        check(PayloadKept::Full, record, PayloadKept::Full, record);
        check(PayloadKept::Keys, record, PayloadKept::Keys, outline);
        check(PayloadKept::None, record, PayloadKept::None, "");
        check(PayloadKept::Keys, "secret", PayloadKept::Keys, r#""no JSON, 6 bytes""#);
        check(PayloadKept::Keys, "\"secret\"", PayloadKept::Keys, r#""string, 6 bytes""#);
        let long = "x".repeat(200);
        check(
            PayloadKept::Keys,
            &format!(r#"{{"{long}": 1}}"#),
            PayloadKept::Keys,
            r#"{"name of 200 bytes":"number"}"#,
        );
        let many = format!("[{}]", vec!["1"; 20].join(","));
        let seen = PayloadKept::Keys.of(many.as_bytes(), 1_000);
        assert!(String::from_utf8_lossy(&seen.bytes).ends_with(r#""number","4 more"]"#));
        assert_eq!(PayloadKept::Keys.of(many.as_bytes(), 10).bytes.len(), 10);
        assert_eq!(PayloadKept::Full.of(many.as_bytes(), 10).bytes, &many.as_bytes()[..10]);
    }

    #[test]
    fn of_a_log_of_calls_only_the_outline_is_kept() {
        for (record, is_log) in [
            (r#"{"litellm_call_id": "1", "messages": [{"content": "p"}]}"#, true),
            (r#"{"resourceSpans": []}"#, true),
            (r#"[{"id": "s", "traceId": "t", "observationId": "o", "value": 1}]"#, true),
            (r#"{"id": "t", "input": "p", "output": "a"}"#, true),
            (r#"{"specversion": "1.0", "data": {"model_group": "m", "response_cost": 1}}"#, true),
            (r#"{"litellm_call_id": "1", "messages": [{"conte"#, true),
            (r#"{"agent_name": "a", "traceId": "t", "input": 1, "output": 2}"#, false),
            (r#"{"status": "success", "metadata": {"traceId": "t"}}"#, false),
            ("nonsense", false),
            ("7", false),
        ] {
            let kept = if is_log { PayloadKept::Keys } else { PayloadKept::Full };
            assert_eq!(PayloadKept::Full.of(record.as_bytes(), 1_000).kept, kept, "{record}");
            assert_eq!(
                PayloadKept::None.of(record.as_bytes(), 1_000).kept,
                PayloadKept::None,
                "{record}"
            );
        }
    }
}
