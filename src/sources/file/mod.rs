//! Recorded outcomes in a file, JSON Lines or CSV: read in parts, and fed to the learner.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Seek, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::learner::{AppendReply, AppendRequest, Event, Inbox, LeftOut, Now, Record, Room};
use crate::outcome::{Payload, RECORD_BYTES_MAX, Refusal};
use crate::sources::formats::{Reader, Taken};
use crossbeam_channel::{Receiver, bounded};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

mod content;
mod foreign;
mod table;

use content::{Content, Identities, Stream, unpacked};
use foreign::Foreign;
use table::Table;

pub(crate) use foreign::{Input, inputs};

/// Lines handed over together.
const PART_LINES: usize = 2_000;
/// Bytes after which a part is handed over, whatever its lines.
const PART_BYTES: usize = 4 * 1024 * 1024;
/// Parts under way: one is read while another is being stored.
const PARTS_UNDER_WAY: usize = 6;
/// Pause between lines of progress where there is no terminal.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes read at a time.
const BUFFER_BYTES: usize = 1 << 16;

/// What an import brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// New outcomes.
    pub accepted: u64,
    /// Those known already.
    pub duplicates: u64,
    /// Those of them that differ from the first of their identity in agent or status.
    pub conflicting: u64,
    /// Those refused, by reason code.
    pub rejected: BTreeMap<String, u64>,
    /// Those refused that did not become dead letters: there were too many.
    pub unkept: u64,
    /// Optional fields of accepted ones that made no sense, by name.
    pub dropped: BTreeMap<String, u64>,
    /// Records of another tool that are no outcomes, or none that were asked for.
    pub passed_over: u64,
    /// Verdicts on records that no file held.
    pub verdicts_unmet: u64,
    /// Why the first one that was refused was.
    pub first_refusal: Option<String>,
}

impl Summary {
    fn add(&mut self, reply: &AppendReply) {
        self.accepted += reply.accepted;
        self.duplicates += reply.duplicates;
        self.unkept += reply.unkept;
        self.conflicting += reply.conflicting;
        for (_, refusal) in &reply.rejected {
            self.refuse(refusal);
        }
        for (field, count) in &reply.dropped {
            *self.dropped.entry((*field).to_owned()).or_default() += count;
        }
    }

    /// Counts what another file brought, too.
    pub(crate) fn add_up(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.duplicates += other.duplicates;
        self.conflicting += other.conflicting;
        self.unkept += other.unkept;
        self.passed_over += other.passed_over;
        self.verdicts_unmet += other.verdicts_unmet;
        for (code, count) in other.rejected {
            *self.rejected.entry(code).or_default() += count;
        }
        for (field, count) in other.dropped {
            *self.dropped.entry(field).or_default() += count;
        }
        self.first_refusal = self.first_refusal.take().or(other.first_refusal);
    }

    /// Counts a refused one.
    pub(crate) fn refuse(&mut self, refusal: &Refusal) {
        *self.rejected.entry(refusal.code.as_str().to_owned()).or_default() += 1;
        self.first_refusal.get_or_insert_with(|| refusal.detail.clone());
    }

    /// Refuses to call it done where nothing came of it: what is known already is something.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first reason.
    pub fn check(&self, files: &str) -> Result<()> {
        if self.accepted + self.duplicates > 0 {
            return Ok(());
        }
        let why = match &self.first_refusal {
            Some(detail) => format!("the first was refused because {detail}"),
            None if self.verdicts_unmet > 0 => {
                "its verdicts judge records that no file holds: give these files, too".to_owned()
            }
            None if self.passed_over > 0 => {
                format!("none of its {} records is an outcome that was asked for", self.passed_over)
            }
            None => "it holds no outcome".to_owned(),
        };
        Err(Error::invalid("", format!("nothing of {files} was accepted: {why}")))
    }

    /// Counts what a service answered.
    pub(crate) fn add_json(&mut self, answer: &Value) {
        let number = |name: &str| answer[name].as_u64().unwrap_or(0);
        self.accepted += number("accepted");
        self.duplicates += number("duplicates");
        self.unkept += number("dead_letters_unkept");
        self.conflicting += number("conflicting");
        for rejected in answer["rejected"].as_array().into_iter().flatten() {
            let code = rejected["code"].as_str().unwrap_or("unknown").to_owned();
            *self.rejected.entry(code).or_default() += 1;
            let detail = rejected["detail"].as_str().unwrap_or("no reason given");
            self.first_refusal.get_or_insert_with(|| detail.to_owned());
        }
        for (field, count) in answer["dropped_fields"].as_object().into_iter().flatten() {
            *self.dropped.entry(field.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rejected: u64 = self.rejected.values().sum();
        write!(f, "accepted={} duplicates={}", self.accepted, self.duplicates)?;
        if self.conflicting > 0 {
            write!(f, " conflicting={}", self.conflicting)?;
        }
        write!(f, " rejected={rejected}")?;
        for (code, count) in &self.rejected {
            write!(f, " {code}={count}")?;
        }
        for (name, count) in [
            ("dead_letters_unkept", self.unkept),
            ("passed_over", self.passed_over),
            ("verdicts_unmet", self.verdicts_unmet),
        ] {
            if count > 0 {
                write!(f, " {name}={count}")?;
            }
        }
        if !self.dropped.is_empty() {
            write!(f, " dropped_fields={}", self.dropped.values().sum::<u64>())?;
        }
        for (field, count) in &self.dropped {
            write!(f, " {field}={count}")?;
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
    let room = Room::of_body();
    let mut under_way: VecDeque<Receiver<Result<AppendReply>>> = VecDeque::new();
    let receive = |reply: Receiver<Result<AppendReply>>| {
        reply.recv().unwrap_or_else(|_| Err(Error::Unavailable("the learner ended".to_owned())))
    };
    while let Some(part) = source.next_part()? {
        summary.passed_over += part.passed_over;
        if part.lines.is_empty() {
            continue;
        }
        let now_ms = Now::read().unix_ms;
        let buffer: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(part.bytes);
        let records = part.lines.into_iter().map(|line| {
            let payload = Payload::new(buffer.clone(), line.range);
            let text = payload.clone();
            let mut record = Record::read(payload, "import", now_ms, || {
                source.identity(line.number, text.bytes())
            });
            if let Some(refusal) = line.refusal {
                record.content = Err(refusal);
            }
            record
        });
        let records = records.collect();
        source.check_identities()?;
        let (reply_tx, reply_rx) = bounded(1);
        inbox.send(Event::Append(AppendRequest {
            records,
            left_out: LeftOut::new(),
            room: room.clone(),
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

pub(crate) struct Line {
    /// Counted from 1.
    pub(crate) number: u64,
    pub(crate) range: std::ops::Range<usize>,
    /// Why it can't be an event, where that is known before it is read as one.
    pub(crate) refusal: Option<Refusal>,
}

#[derive(Default)]
pub(crate) struct Part {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lines: Vec<Line>,
    /// Records that are no outcomes.
    pub(crate) passed_over: u64,
}

impl Part {
    fn push(&mut self, number: u64, line: &[u8], refusal: Option<Refusal>) {
        let line = line.trim_ascii();
        if !line.is_empty() {
            let start = self.bytes.len();
            self.bytes.extend(line);
            self.lines.push(Line { number, range: start..self.bytes.len(), refusal });
        }
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= PART_LINES || self.bytes.len() >= PART_BYTES
    }
}

enum Format {
    Lines(Rc<RefCell<Stream>>),
    Table { table: Table, rows: csv::Reader<Box<dyn Read>> },
    Foreign(Foreign),
}

/// A file of outcomes, read in parts.
pub(crate) struct Source {
    name: String,
    format: Format,
    number: u64,
    progress: Progress,
    identities: Identities,
}

/// Something that is read from its beginning, as text, as often as it is opened.
type Again = Box<dyn FnMut() -> std::io::Result<Box<dyn BufRead>> + Send>;

impl Source {
    pub(crate) fn open(file: &Path) -> Result<Self> {
        let name = file.display().to_string();
        let broken = |error: &dyn std::fmt::Display| {
            Error::invalid("", format!("can't read {name}: {error}"))
        };
        let is_stdin = name == "-";
        let (input, size, is_regular): (Box<dyn Read>, u64, bool) = if is_stdin {
            (Box::new(std::io::stdin()), 0, false)
        } else {
            let opened = File::open(file).map_err(|error| broken(&error))?;
            let meta = opened.metadata().map_err(|error| broken(&error))?;
            (Box::new(opened), meta.len(), meta.is_file())
        };
        let progress = Progress::new(size);
        let mut input = as_text(progress.watch(input)).map_err(|error| broken(&error))?;
        // JSON Lines begin with an object; anything else is the header of a table.
        let start = input.fill_buf().map_err(|error| broken(&error))?.trim_ascii_start();
        let first = start.first().copied();
        let is_table = match file.extension().and_then(|extension| extension.to_str()) {
            Some("csv" | "tsv") => true,
            Some("jsonl" | "ndjson") => false,
            _ if first == Some(b'[') => {
                return Err(broken(&"it is an array; allowed is an object a line, or a table"));
            }
            Some("json") => false,
            _ => first.is_some_and(|first| first != b'{'),
        };
        if !is_table {
            let stream = Rc::new(RefCell::new(Stream::new(input, !is_regular)));
            let content = if is_regular {
                Content::File(file.to_owned())
            } else {
                Content::Lines(stream.clone())
            };
            let (format, identities) = (Format::Lines(stream), Identities::new(content));
            return Ok(Self { name, format, number: 0, progress, identities });
        }
        let content;
        let mut again: Again = if is_regular {
            content = Content::File(file.to_owned());
            let (file, bar) = (file.to_owned(), progress.bar.clone());
            Box::new(move || {
                bar.set_position(0);
                as_text(bar.wrap_read(File::open(&file)?))
            })
        } else {
            // What comes through a pipe comes once: it is kept where it takes no memory.
            let mut keep = || {
                let mut kept = tempfile::tempfile()?;
                std::io::copy(&mut input, &mut kept)?;
                Ok::<_, std::io::Error>(kept)
            };
            let kept = keep().map_err(|error| broken(&error))?;
            content = Content::Kept(kept.try_clone().map_err(|error| broken(&error))?);
            Box::new(move || {
                let mut kept = kept.try_clone()?;
                kept.rewind()?;
                Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, kept)))
            })
        };
        let table = Table::of(&mut again).map_err(|why| broken(&why))?;
        for remark in &table.remarks {
            log::warn!("import=remark file={name:?} remark={remark:?}");
        }
        let rows = again().and_then(|input| table.rows(input)).map_err(|error| broken(&error))?;
        let (format, identities) = (Format::Table { table, rows }, Identities::new(content));
        Ok(Self { name, format, number: 0, progress, identities })
    }

    /// The identity of a line that has none of its own: the same when the file is read again.
    pub(crate) fn identity(&self, number: u64, line: &[u8]) -> String {
        match self.format {
            // What is made of a record may change with its map, it stays the same record.
            Format::Foreign(_) => self.identities.of(number, b""),
            _ => self.identities.of(number, line),
        }
    }

    /// Whether identities could be made up, where that was necessary.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the file can't be read as a whole.
    pub(crate) fn check_identities(&self) -> Result<()> {
        self.identities.check().map_err(|why| {
            Error::invalid("", format!("can't read {} as a whole: {why}", self.name))
        })
    }

    /// The next lines; `None` at the end.
    pub(crate) fn next_part(&mut self) -> Result<Option<Part>> {
        let mut part = Part::default();
        let name = &self.name;
        let broken = |number: u64, error: &dyn std::fmt::Display| {
            Error::invalid("", format!("can't read {name} at line {number}: {error}"))
        };
        match &mut self.format {
            Format::Lines(stream) => {
                let mut line = Vec::new();
                let input = &mut *stream.borrow_mut();
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
                    part.push(self.number, &line, None);
                }
            }
            Format::Table { table, rows } => {
                let mut row = csv::ByteRecord::new();
                while !part.is_full() {
                    let more = rows
                        .read_byte_record(&mut row)
                        .map_err(|error| broken(self.number + 2, &error))?;
                    if !more {
                        break;
                    }
                    self.number += 1;
                    match csv::StringRecord::from_byte_record(std::mem::take(&mut row)) {
                        Ok(row) => match table.event(&row) {
                            Ok(event) => {
                                part.push(self.number, event.to_string().as_bytes(), None);
                            }
                            Err(refusal) => {
                                part.push(
                                    self.number,
                                    &as_line(row.as_byte_record()),
                                    Some(refusal),
                                );
                            }
                        },
                        // Refused as a record, as such a line of JSON Lines is.
                        Err(error) => {
                            part.push(self.number, &as_line(&error.into_byte_record()), None);
                        }
                    }
                }
            }
            Format::Foreign(foreign) => return foreign.next_part(),
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

/// The input, unpacked, as UTF-8 without a byte order mark: spreadsheets and Windows write UTF-16, too.
fn as_text(input: impl Read + 'static) -> std::io::Result<Box<dyn BufRead>> {
    let mut input = BufReader::with_capacity(BUFFER_BYTES, unpacked(input)?);
    // The first character of every format is one of ASCII.
    let unmarked = match input.fill_buf()? {
        [first, 0, ..] if *first != 0 => Some(encoding_rs::UTF_16LE),
        [0, second, ..] if *second != 0 => Some(encoding_rs::UTF_16BE),
        _ => None,
    };
    let mut builder = encoding_rs_io::DecodeReaderBytesBuilder::new();
    builder.encoding(unmarked).bom_override(true).utf8_passthru(true).strip_bom(true);
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, builder.build(input))))
}

/// A row as the one line that it is kept as.
fn as_line(row: &csv::ByteRecord) -> Vec<u8> {
    let mut line = row.iter().collect::<Vec<_>>().join(&b',');
    line.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
    line
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
