//! The line that `systemctl status` shows: what was learned, how far behind the service is, where outcomes come
//! from, what is wrong. Pure: what is seen, the time included, is passed in.

use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

/// Shortest time between two lines.
pub(super) const STATUS_PAUSE: Duration = Duration::from_secs(3);
/// Longest line, in bytes: systemd ignores messages of more than 4,096.
const LINE_BYTES_MAX: usize = 1_024;

/// What a line tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    /// Learned outcomes.
    pub(super) learned: u64,
    /// Outcomes that wait to be learned; with Kafka, records that wait in the topic.
    pub(super) lag: u64,
    /// Where outcomes come from.
    pub(super) sources: &'a [&'a str],
    /// What keeps the service from learning, if anything does.
    pub(super) trouble: Option<&'a str>,
}

impl Display for Told<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (learned, lag) = (grouped(self.learned), grouped(self.lag));
        write!(f, "learned {learned} outcomes, lag {lag}, sources {}", self.sources.join(", "))?;
        if let Some(trouble) = self.trouble {
            write!(f, "; degraded: {trouble}")?;
        }
        Ok(())
    }
}

/// Remembers what was said last, so that only changes are said, and not too often.
#[derive(Debug, Default)]
pub(super) struct StatusLine {
    said: String,
    said_at: Option<Instant>,
}

impl StatusLine {
    /// The line to send now: `None` while it is the one that was sent last, or that was sent less than
    /// [`STATUS_PAUSE`] ago.
    pub(super) fn due(&mut self, told: Told<'_>, now: Instant) -> Option<&str> {
        if self.said_at.is_some_and(|at| now.saturating_duration_since(at) < STATUS_PAUSE) {
            return None;
        }
        let line = one_line(&told.to_string());
        if line == self.said {
            return None;
        }
        self.said = line;
        self.said_at = Some(now);
        Some(&self.said)
    }
}

/// The text as one line that systemd takes: a line break would begin another variable of its protocol.
fn one_line(text: &str) -> String {
    let mut line = text.replace(char::is_control, " ");
    line.truncate(line.floor_char_boundary(LINE_BYTES_MAX));
    line
}

/// The digits of a number in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Told<'_> = Told { learned: 0, lag: 0, sources: &["http"], trouble: None };

    #[test]
    fn a_line_tells_what_was_learned_what_waits_from_where_and_what_is_wrong() {
        #[track_caller]
        fn check(told: Told<'_>, line: &str) {
            assert_eq!(told.to_string(), line);
        }
        check(QUIET, "learned 0 outcomes, lag 0, sources http");
        let sources = &["kafka", "http"];
        let busy = Told { learned: 1_234, lag: 999, sources, trouble: None };
        check(busy, "learned 1,234 outcomes, lag 999, sources kafka, http");
        check(
            Told { learned: 12_345_678, lag: 100_000, trouble: Some("kafka: away"), ..busy },
            "learned 12,345,678 outcomes, lag 100,000, sources kafka, http; degraded: kafka: away",
        );
    }

    #[test]
    fn only_changes_are_said_and_those_within_a_pause_after_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let learned = |learned| Told { learned, ..QUIET };
        let mut line = StatusLine::default();
        assert!(line.due(learned(1), at(0)).is_some(), "the first is said at once");
        assert_eq!(line.due(learned(2), at(1)), None, "too early");
        assert_eq!(line.due(learned(3), at(2)), None, "too early");
        let said = line.due(learned(3), at(3)).map(str::to_owned);
        assert_eq!(said.as_deref(), Some("learned 3 outcomes, lag 0, sources http"));
        assert_eq!(line.due(learned(3), at(60)), None, "it is said already");
        assert!(
            line.due(learned(4), at(61)).is_some(),
            "a change after a long time is said at once"
        );
    }

    #[test]
    fn whatever_is_wrong_a_line_is_one_line_and_not_too_long() {
        let trouble = format!("disk\nREADY=1\r\0{}", "ä".repeat(LINE_BYTES_MAX));
        let mut line = StatusLine::default();
        let told = Told { trouble: Some(&trouble), ..QUIET };
        let said = line.due(told, Instant::now()).unwrap();
        assert!(said.ends_with('ä') && said.contains("disk READY=1  ä"), "{said}");
        assert!((LINE_BYTES_MAX - 1..=LINE_BYTES_MAX).contains(&said.len()), "{}", said.len());
    }
}
