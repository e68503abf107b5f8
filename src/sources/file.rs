//! Recorded outcomes in a file, JSON Lines or CSV: read in parts, and fed to the learner.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::learner::{AppendReply, AppendRequest, Event, Inbox, Now, Record};
use crate::outcome::{Payload, RECORD_BYTES_MAX, RefusalCode, hex};

/// Lines handed over together.
const PART_LINES: usize = 2_000;
/// Bytes after which a part is handed over, whatever its lines.
const PART_BYTES: usize = 4 * 1024 * 1024;
/// Parts under way: one is read while another is being stored.
const PARTS_UNDER_WAY: usize = 6;
/// Pause between lines of progress where there is no terminal.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// What some editors and spreadsheets begin a UTF-8 file with; no part of the first line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What an import brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// New outcomes.
    pub accepted: u64,
    /// Those known already.
    pub duplicates: u64,
    /// Those refused, by reason code.
    pub rejected: BTreeMap<String, u64>,
}

impl Summary {
    fn add(&mut self, reply: &AppendReply) {
        self.accepted += reply.accepted;
        self.duplicates += reply.duplicates;
        for (_, refusal) in &reply.rejected {
            self.refuse(refusal.code);
        }
    }

    /// Counts a refused one.
    pub(crate) fn refuse(&mut self, code: RefusalCode) {
        *self.rejected.entry(code.as_str().to_owned()).or_default() += 1;
    }

    /// Counts what a service answered.
    pub(crate) fn add_json(&mut self, answer: &Value) {
        let number = |name: &str| answer[name].as_u64().unwrap_or(0);
        self.accepted += number("accepted");
        self.duplicates += number("duplicates");
        for rejected in answer["rejected"].as_array().into_iter().flatten() {
            let code = rejected["code"].as_str().unwrap_or("unknown").to_owned();
            *self.rejected.entry(code).or_default() += 1;
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rejected: u64 = self.rejected.values().sum();
        write!(f, "accepted={} duplicates={}", self.accepted, self.duplicates)?;
        write!(f, " rejected={rejected}")?;
        for (code, count) in &self.rejected {
            write!(f, " {code}={count}")?;
        }
        Ok(())
    }
}

/// Imports into the running service that takes `inbox`.
///
/// # Errors
/// When the file can't be read or the service stops.
pub fn into_inbox(inbox: &Inbox, file: &Path) -> Result<Summary> {
    feed(inbox, &mut Source::open(file)?)
}

/// Feeds what is left of `source` to the learner behind `inbox`.
///
/// # Errors
/// When the file can't be read or the learner takes no more.
pub(crate) fn feed(inbox: &Inbox, source: &mut Source) -> Result<Summary> {
    let started = Instant::now();
    let mut summary = Summary::default();
    let mut under_way: VecDeque<Receiver<Result<AppendReply>>> = VecDeque::new();
    let receive = |reply: Receiver<Result<AppendReply>>| {
        reply.recv().unwrap_or_else(|_| Err(Error::Unavailable("the learner ended".to_owned())))
    };
    while let Some(part) = source.next_part()? {
        let now_ms = Now::read().unix_ms;
        let buffer: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(part.bytes);
        let records = part.lines.into_iter().map(|line| {
            let payload = Payload::new(buffer.clone(), line.range);
            let text = payload.clone();
            Record::read(payload, "import", now_ms, || identity(line.number, text.bytes()))
        });
        let (reply_tx, reply_rx) = bounded(1);
        inbox.send(Event::Append(AppendRequest {
            records: records.collect(),
            positions: Vec::new(),
            replayed: Vec::new(),
            reply: reply_tx,
        }))?;
        under_way.push_back(reply_rx);
        if under_way.len() >= PARTS_UNDER_WAY
            && let Some(reply) = under_way.pop_front()
        {
            summary.add(&receive(reply)?);
            source.show(&summary);
        }
    }
    for reply in under_way {
        summary.add(&receive(reply)?);
    }
    let (reply_tx, reply_rx) = bounded(1);
    let (accepted, duration) = (summary.accepted, started.elapsed());
    inbox.send(Event::Imported { accepted, duration, reply: reply_tx })?;
    reply_rx.recv().map_err(|_| Error::Unavailable("the learner ended".to_owned()))?;
    source.finish();
    Ok(summary)
}

/// The identity of a line that has none of its own: the same when the file is imported again.
pub(crate) fn identity(number: u64, line: &[u8]) -> String {
    format!("import:{number}:{}", hex(&Sha256::digest(line)[..16]))
}

pub(crate) struct Line {
    /// Counted from 1.
    pub(crate) number: u64,
    pub(crate) range: std::ops::Range<usize>,
}

#[derive(Default)]
pub(crate) struct Part {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lines: Vec<Line>,
}

impl Part {
    fn push(&mut self, number: u64, line: &[u8]) {
        let line = line.trim_ascii();
        if !line.is_empty() {
            let start = self.bytes.len();
            self.bytes.extend(line);
            self.lines.push(Line { number, range: start..self.bytes.len() });
        }
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= PART_LINES || self.bytes.len() >= PART_BYTES
    }
}

enum Format {
    Lines(Box<dyn BufRead>),
    Table { reader: csv::Reader<Box<dyn Read>>, header: csv::StringRecord },
}

/// A file of outcomes, read in parts.
pub(crate) struct Source {
    name: String,
    format: Format,
    number: u64,
    progress: Progress,
}

impl Source {
    pub(crate) fn open(file: &Path) -> Result<Self> {
        let name = file.display().to_string();
        let broken = |error: &dyn std::fmt::Display| {
            Error::invalid("", format!("can't read {name}: {error}"))
        };
        let is_stdin = name == "-";
        let (input, size): (Box<dyn Read>, u64) = if is_stdin {
            (Box::new(std::io::stdin()), 0)
        } else {
            let opened = File::open(file).map_err(|error| broken(&error))?;
            let size = opened.metadata().map_or(0, |meta| meta.len());
            (Box::new(opened), size)
        };
        let progress = Progress::new(size);
        let mut input: Box<dyn BufRead> =
            Box::new(BufReader::with_capacity(1 << 16, progress.watch(input)));
        // JSON Lines begin with an object; anything else is the header of a table.
        let start = input.fill_buf().map_err(|error| broken(&error))?;
        if start.starts_with(BYTE_ORDER_MARK) {
            input.consume(BYTE_ORDER_MARK.len());
        }
        let start = input.fill_buf().map_err(|error| broken(&error))?.trim_ascii_start();
        let is_table = match file.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => true,
            Some("jsonl" | "ndjson" | "json") => false,
            _ => start.first().is_some_and(|first| *first != b'{'),
        };
        let format = if is_table {
            let reader: Box<dyn Read> = Box::new(input);
            let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(reader);
            let header = reader.headers().map_err(|error| broken(&error))?.clone();
            if !header.iter().any(|column| column == "agent_name") {
                return Err(broken(
                    &"the header of a CSV file must name agent_name and status, such as \
                      agent_name,status,task_type,context.domain",
                ));
            }
            Format::Table { reader, header }
        } else {
            Format::Lines(input)
        };
        Ok(Self { name, format, number: 0, progress })
    }

    /// The next lines; `None` at the end.
    pub(crate) fn next_part(&mut self) -> Result<Option<Part>> {
        let mut part = Part::default();
        let name = &self.name;
        let broken = |number: u64, error: &dyn std::fmt::Display| {
            Error::invalid("", format!("can't read {name} at line {number}: {error}"))
        };
        match &mut self.format {
            Format::Lines(input) => {
                let mut line = Vec::new();
                while !part.is_full() {
                    line.clear();
                    // A line that is too long is refused as a record, and read in pieces.
                    let limit = RECORD_BYTES_MAX as u64 + 2;
                    let read = input
                        .take(limit)
                        .read_until(b'\n', &mut line)
                        .map_err(|error| broken(self.number + 1, &error))?;
                    if read == 0 {
                        break;
                    }
                    if read as u64 == limit && line.last() != Some(&b'\n') {
                        skip_line(input).map_err(|error| broken(self.number + 1, &error))?;
                    }
                    self.number += 1;
                    part.push(self.number, &line);
                }
            }
            Format::Table { reader, header } => {
                let mut row = csv::ByteRecord::new();
                while !part.is_full() {
                    let more = reader
                        .read_byte_record(&mut row)
                        .map_err(|error| broken(self.number + 2, &error))?;
                    if !more {
                        break;
                    }
                    self.number += 1;
                    match csv::StringRecord::from_byte_record(std::mem::take(&mut row)) {
                        Ok(row) => {
                            let event = row_as_json(header, &row).to_string();
                            part.push(self.number, event.as_bytes());
                        }
                        // Refused as a record, as such a line of JSON Lines is.
                        Err(error) => {
                            let fields = error.into_byte_record();
                            let mut line = fields.iter().collect::<Vec<_>>().join(&b',');
                            line.iter_mut()
                                .filter(|byte| **byte == b'\n')
                                .for_each(|byte| *byte = b' ');
                            part.push(self.number, &line);
                        }
                    }
                }
            }
        }
        Ok((!part.lines.is_empty()).then_some(part))
    }

    pub(crate) fn show(&mut self, summary: &Summary) {
        self.progress.show(summary);
    }

    pub(crate) fn finish(&self) {
        self.progress.bar.finish_and_clear();
    }
}

fn skip_line(input: &mut dyn BufRead) -> std::io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

/// A row as the event it stands for: `context.x` and `metadata.x` nested, empty fields unset.
fn row_as_json(header: &csv::StringRecord, row: &csv::StringRecord) -> Value {
    let mut event = Map::new();
    for (column, text) in header.iter().zip(row) {
        if text.is_empty() {
            continue;
        }
        let nested = ["context", "metadata"].into_iter().find_map(|outer| {
            column.strip_prefix(outer)?.strip_prefix('.').map(|inner| (outer, inner))
        });
        match nested {
            Some((outer, inner)) => {
                let inside = event.entry(outer).or_insert_with(|| Value::Object(Map::new()));
                let value = if outer == "context" { feature(text) } else { text.into() };
                if let Value::Object(inside) = inside {
                    inside.insert(inner.to_owned(), value);
                }
            }
            None => {
                event.insert(column.to_owned(), text.into());
            }
        }
    }
    Value::Object(event)
}

/// A table has no types: what reads as a number or a boolean is one.
fn feature(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => {
            let number = text.parse().ok().and_then(serde_json::Number::from_f64);
            number.map_or_else(|| text.into(), Value::Number)
        }
    }
}

/// A bar on a terminal, a line every few seconds elsewhere.
struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    shown: Instant,
    started: Instant,
}

impl Progress {
    fn new(size: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = match (is_terminal, size) {
            (false, _) => ProgressBar::hidden(),
            (true, 0) => ProgressBar::new_spinner(),
            (true, size) => ProgressBar::new(size),
        };
        let template = "{wide_bar} {bytes}/{total_bytes} {msg} eta {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, is_terminal, shown: Instant::now(), started: Instant::now() }
    }

    /// The input, its bytes counted by the bar.
    fn watch(&self, input: Box<dyn Read>) -> Box<dyn Read> {
        Box::new(self.bar.wrap_read(input))
    }

    fn show(&mut self, summary: &Summary) {
        if self.is_terminal {
            self.bar.set_message(format!("{} accepted", summary.accepted));
        } else if self.shown.elapsed() >= PROGRESS_INTERVAL {
            self.shown = Instant::now();
            let seconds = self.started.elapsed().as_secs();
            // Progress is for people: if nobody reads it, the import goes on.
            let _ = writeln!(std::io::stderr(), "importing: {summary} seconds={seconds}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;

    #[test]
    fn a_row_becomes_the_event_it_stands_for() {
        let header = csv::StringRecord::from(vec![
            "agent_name",
            "status",
            "latency_ms",
            "context.domain",
            "context.size",
            "context.urgent",
            "metadata.quality_score",
            "task_type",
        ]);
        let row =
            csv::StringRecord::from(vec!["a", "partial", "120.5", "law", "3", "true", "0.7", ""]);
        let event = row_as_json(&header, &row).to_string();
        let outcome = Outcome::parse(event.as_bytes(), 5, || "x".to_owned()).unwrap();
        assert_eq!(outcome.latency_ms, Some(120.5));
        assert_eq!(outcome.quality, Some(0.7));
        assert_eq!(outcome.task_type, None);
        let context: Vec<&str> = outcome.context.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(context, ["domain", "size", "urgent"]);
        assert_eq!(outcome.context[1].1, crate::outcome::Feature::Number(3.0));
    }
}
