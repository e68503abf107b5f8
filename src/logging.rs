//! The log: one line per record to standard error, as text or JSON.
//!
//! Names come from outside: whatever is in them, a line stays a line. journald knows the time and
//! reads the priority from the line. While a request is answered, every line of its thread names it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write;

use log::Level;
use serde_json::json;

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// A JSON object per line.
    Json,
}

impl Format {
    /// The names of the formats, as `LOG_FORMAT` takes them.
    pub const NAMES: [&'static str; 2] = ["text", "json"];

    /// The format of that name; text for any other.
    pub fn of(name: &str) -> Self {
        if name == "json" { Self::Json } else { Self::Text }
    }
}

/// Starts to log to standard error.
pub fn start(filters: &str, style: &str, format: Format) {
    let mut logger = env_logger::Builder::new();
    logger.parse_filters(filters);
    logger.parse_write_style(style);
    let under_journald = is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref());
    logger.format(move |out, record| {
        let level = record.level();
        let text = record.args().to_string();
        let text = one_line(&text);
        if under_journald {
            write!(out, "<{}>", priority(level))?;
        }
        match format {
            Format::Json => {
                let time = (!under_journald).then(|| out.timestamp_millis().to_string());
                writeln!(out, "{}", json_line(time, level, record.target(), &text))
            }
            Format::Text => {
                if !under_journald {
                    let style = out.default_level_style(level);
                    write!(out, "{} {style}{level:<5}{style:#} ", out.timestamp_millis())?;
                }
                out.write_all(text.as_bytes())?;
                match request_id() {
                    Some(id) => writeln!(out, " request_id={id}"),
                    None => writeln!(out),
                }
            }
        }
    });
    logger.init();
}

fn json_line(time: Option<String>, level: Level, target: &str, text: &str) -> serde_json::Value {
    let mut line = json!({"level": level.as_str(), "target": target, "message": text});
    if let Some(time) = time {
        line["time"] = time.into();
    }
    if let Some(id) = request_id() {
        line["request_id"] = id.into();
    }
    line
}

/// The priority of sd-daemon(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Whether standard error is the stream that `JOURNAL_STREAM` names by device and inode. A program
/// that was started by a service with its output elsewhere inherits the variable, too.
fn is_journal(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|stream| stream.split_once(':')) else {
        return false;
    };
    rustix::fs::fstat(std::io::stderr())
        .is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

/// The text with control characters, line separators and what turns the direction of writing
/// escaped.
pub fn one_line(text: &str) -> Cow<'_, str> {
    let is_bad = |character: char| {
        character.is_control()
            || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            // Writing to a String can't fail.
            bad if is_bad(bad) => drop(write!(line, "\\u{{{:x}}}", u32::from(bad))),
            other => line.push(other),
        }
    }
    Cow::Owned(line)
}

thread_local! {
    static REQUEST_ID: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn request_id() -> Option<String> {
    REQUEST_ID.with_borrow(Clone::clone)
}

/// Until it is dropped, every line of this thread names a request.
pub struct RequestScope(());

impl RequestScope {
    /// Begins with the request `id`, which must hold no control character.
    pub fn begin(id: &str) -> Self {
        REQUEST_ID.set(Some(id.to_owned()));
        Self(())
    }
}

impl Drop for RequestScope {
    fn drop(&mut self) {
        REQUEST_ID.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line_and_says_what_was_in_it() {
        assert_eq!(one_line("plain \"text\" é"), "plain \"text\" é");
        assert_eq!(one_line("a\nb\r\tc\u{1b}[31m\u{85}"), "a\\nb\\r\\tc\\u{1b}[31m\\u{85}");
        assert_eq!(one_line("a\u{2028}b\u{202e}c"), "a\\u{2028}b\\u{202e}c");
    }

    #[test]
    fn lines_name_the_request_while_it_is_answered() {
        let line = || json_line(None, Level::Warn, "t", "m");
        {
            let _scope = RequestScope::begin("r-1");
            assert_eq!(line()["request_id"], "r-1");
        }
        assert_eq!(line(), json!({"level": "WARN", "target": "t", "message": "m"}));
    }

    #[test]
    fn only_the_stream_that_is_named_is_the_journal() {
        for other in [None, Some(""), Some("1"), Some("a:b"), Some("0:0")] {
            assert!(!is_journal(other), "{other:?}");
        }
    }
}
