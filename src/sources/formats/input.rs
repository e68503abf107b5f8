//! The shapes that files of records have: a record a line, a document with lists of them, a table.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map as Object, Value};

use super::map::Map;
use super::path::{Path, Pick, Segment, Wanted};
use crate::outcome::{Refusal, RefusalCode, non_finite_as_null};

/// How much of a file is looked at to tell what it is, in bytes.
pub(super) const HEAD_BYTES: u64 = 1 << 16;
/// Longest line that is read, in bytes: it may hold whole conversations.
pub(super) const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What archives and Parquet files begin with.
const ZIP: &[u8] = b"PK\x03\x04";
const PARQUET: &[u8] = b"PAR1";

/// A record, or why there is none where one should be.
pub(super) enum Found<'a> {
    Record(Value),
    /// Of a document: the list is named, too.
    Listed(Value, &'a str),
    Unreadable(Refusal),
}

impl Found<'_> {
    /// Refuses what is no object, unless records may be anything.
    pub(super) fn checked(self, wanted: &Wanted) -> Self {
        match self {
            Self::Record(record) | Self::Listed(record, _)
                if !record.is_object() && !wanted.is_of_any_value() =>
            {
                let detail = "it is JSON, but no object";
                Self::Unreadable(Refusal::new(RefusalCode::NotAnObject, detail))
            }
            found => found,
        }
    }
}

/// Takes a record and its number; says when it wants no more.
pub(super) type Take<'t> = &'t mut dyn FnMut(u64, Found<'_>) -> ControlFlow<()>;

/// How the records of a file stand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Lines,
    Document,
    Table { delimiter: u8 },
}

impl Layout {
    /// What a record is called there.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Lines => "line",
            Self::Document => "record",
            Self::Table { .. } => "row",
        }
    }

    /// Tells it by how a file begins and what it is called.
    ///
    /// # Errors
    /// A text, when such a file can't be read.
    pub(super) fn of(start: &[u8], file: &std::path::Path, map: &Map) -> Result<Self, String> {
        if start.starts_with(ZIP) {
            let how = map.archive.as_deref().unwrap_or("unpack it, and give what is in it");
            return Err(format!("it is an archive: {how}"));
        }
        if start.starts_with(PARQUET) {
            return Err("it is a Parquet file: export JSON, an object a line, instead".to_owned());
        }
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => return Ok(Self::Table { delimiter: b',' }),
            Some("tsv") => return Ok(Self::Table { delimiter: b'\t' }),
            _ => {}
        }
        if !map.records.0.is_empty() {
            return Ok(Self::Document);
        }
        let text = start.trim_ascii_start();
        match text.first() {
            Some(b'[') if map.skip_lines.is_none() => Ok(Self::Document),
            Some(b'{') => {
                // An object that goes on behind the line's end is written for people.
                let line = text.iter().position(|byte| *byte == b'\n').map(|end| &text[..end]);
                let is_whole = |line| match serde_json::from_slice::<IgnoredAny>(line) {
                    Ok(_) => true,
                    Err(error) => !error.is_eof(),
                };
                Ok(if line.is_none_or(is_whole) { Self::Lines } else { Self::Document })
            }
            _ => Ok(Self::Lines),
        }
    }
}

/// Reads a record a line.
pub(super) fn lines(
    input: &mut dyn BufRead,
    wanted: &Wanted,
    skip: Option<&str>,
    take: Take<'_>,
) -> io::Result<()> {
    each_line(input, |number, line| {
        if skip.is_some_and(|skip| line.starts_with(skip.as_bytes())) {
            return ControlFlow::Continue(());
        }
        let found = line_of(line, wanted);
        take(number, found.map_or_else(Found::Unreadable, Found::Record))
    })
}

/// Goes through the lines that hold anything, trimmed, each with its number.
pub(super) fn each_line(
    input: &mut dyn BufRead,
    mut take: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> io::Result<()> {
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = input.take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        number += 1;
        if read as u64 > LINE_BYTES_MAX && line.last() != Some(&b'\n') {
            // The rest of it is read in pieces; what there is of it is refused as no JSON.
            let mut piece = Vec::new();
            while input.take(1 << 16).read_until(b'\n', &mut piece)? > 0
                && piece.last() != Some(&b'\n')
            {
                piece.clear();
            }
        }
        let text = line.trim_ascii();
        if !text.is_empty() && take(number, text).is_break() {
            return Ok(());
        }
    }
}

/// What is wanted of a record's text.
pub(super) fn line_of(line: &[u8], wanted: &Wanted) -> Result<Value, Refusal> {
    if line.len() as u64 > LINE_BYTES_MAX {
        let detail = format!("it has more than {LINE_BYTES_MAX} bytes");
        return Err(Refusal::new(RefusalCode::TooLarge, detail));
    }
    let read = wanted.read(line).or_else(|error| {
        // As Python's json module writes them.
        let repaired = str::from_utf8(line).ok().and_then(non_finite_as_null);
        repaired.map_or(Err(error), |text| wanted.read(text.as_bytes()))
    });
    read.map_err(|error| Refusal::new(RefusalCode::NotJson, format!("it is not JSON: {error}")))
}

/// Reads a table, whose first row names its columns.
pub(super) fn table(
    input: &mut dyn BufRead,
    delimiter: u8,
    wanted: &Wanted,
    take: Take<'_>,
) -> io::Result<()> {
    let mut rows = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(input);
    let header = rows.headers().map_err(io::Error::from)?.clone();
    let (mut row, mut number) = (csv::ByteRecord::new(), 0);
    while rows.read_byte_record(&mut row).map_err(io::Error::from)? {
        number += 1;
        let mut record = Object::new();
        for (name, cell) in header.iter().zip(&row) {
            let text = String::from_utf8_lossy(cell);
            if let Some(value) = wanted.of_cell(name.trim(), &text) {
                record.insert(name.trim().to_owned(), value);
            }
        }
        if take(number, Found::Record(Value::Object(record))).is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads what is wanted of the document around the records.
pub(super) fn around(input: &mut dyn BufRead, wanted: &Wanted) -> serde_json::Result<Value> {
    Pick(wanted).deserialize(&mut serde_json::Deserializer::from_reader(BufReader::new(
        Repaired::new(input),
    )))
}

/// Reads the records of a document: members of the list at `list`, or, without one, of the list that it
/// is; one after the other, whatever their number.
pub(super) fn document(
    input: &mut dyn BufRead,
    list: Option<&Path>,
    wanted: &Wanted,
    number: &mut u64,
    take: Take<'_>,
) -> serde_json::Result<()> {
    let input = BufReader::new(Repaired::new(input));
    walk(&mut serde_json::Deserializer::from_reader(input), list, wanted, number, take)
}

/// The same of a document that is in memory.
pub(super) fn text(text: &str, wanted: &Wanted, take: Take<'_>) -> serde_json::Result<()> {
    walk(&mut serde_json::Deserializer::from_str(text), None, wanted, &mut 0, take)
}

fn walk<'de>(
    deserializer: &mut serde_json::Deserializer<impl serde_json::de::Read<'de>>,
    list: Option<&Path>,
    wanted: &Wanted,
    number: &mut u64,
    take: Take<'_>,
) -> serde_json::Result<()> {
    let name = list.map(Path::to_string);
    let mut walk = Walk { wanted, name: name.as_deref(), number, take, stopped: false };
    while deserializer.end().is_err() {
        let segments = list.map_or(&[][..], |list| &list.segments);
        let walked = Into { walk: &mut walk, segments }.deserialize(&mut *deserializer);
        if walk.stopped {
            return Ok(());
        }
        walked?;
    }
    Ok(())
}

struct Walk<'a, 't> {
    wanted: &'a Wanted,
    name: Option<&'a str>,
    number: &'a mut u64,
    take: Take<'t>,
    stopped: bool,
}

impl Walk<'_, '_> {
    fn take<E: serde::de::Error>(&mut self, record: Value) -> Result<(), E> {
        *self.number += 1;
        let found = match self.name {
            Some(name) => Found::Listed(record, name),
            None => Found::Record(record),
        };
        if (self.take)(*self.number, found).is_break() {
            self.stopped = true;
            return Err(E::custom("no more is wanted"));
        }
        Ok(())
    }
}

/// Goes on to the list at these segments.
struct Into<'w, 'a, 't> {
    walk: &'w mut Walk<'a, 't>,
    segments: &'w [Segment],
}

impl<'de> DeserializeSeed<'de> for Into<'_, '_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Into<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or a list of records")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if !self.segments.is_empty() {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        while let Some(record) = list.next_element_seed(Pick(self.walk.wanted))? {
            self.walk.take(record)?;
        }
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let [Segment::Key(wanted), rest @ ..] = self.segments else {
            if self.walk.name.is_some() {
                return Err(A::Error::custom("it is an object where a list of records should be"));
            }
            let record = Pick(self.walk.wanted).visit_map(map)?;
            return self.walk.take(record);
        };
        while let Some(key) = map.next_key::<String>()? {
            if key == *wanted {
                map.next_value_seed(Into { walk: self.walk, segments: rest })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// JSON with `null` in the place of `NaN`, `Infinity` and `-Infinity`, as Python's json module writes
/// them, outside of texts. No other word of JSON begins with their letters.
struct Repaired<'r> {
    input: &'r mut dyn BufRead,
    in_text: bool,
    escaped: bool,
    /// What is still to be given out.
    pending: &'static [u8],
    /// A minus that stands for itself unless a word follows.
    minus: bool,
}

impl<'r> Repaired<'r> {
    fn new(input: &'r mut dyn BufRead) -> Self {
        Self { input, in_text: false, escaped: false, pending: b"", minus: false }
    }

    /// Leaves out the rest of a word.
    fn skip_word(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.input.fill_buf()?;
            let letters = buffer.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
            let is_end = letters < buffer.len() || buffer.is_empty();
            self.input.consume(letters);
            if is_end {
                return Ok(());
            }
        }
    }
}

impl Read for Repaired<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < out.len() {
            if let [byte, rest @ ..] = self.pending {
                out[written] = *byte;
                written += 1;
                self.pending = rest;
                continue;
            }
            let Some(byte) = self.input.fill_buf()?.first().copied() else {
                if std::mem::take(&mut self.minus) {
                    self.pending = b"-";
                    continue;
                }
                break;
            };
            if !self.in_text && matches!(byte, b'N' | b'I') {
                self.skip_word()?;
                (self.minus, self.pending) = (false, b"null");
                continue;
            }
            if std::mem::take(&mut self.minus) {
                self.pending = b"-";
                continue;
            }
            self.input.consume(1);
            match byte {
                _ if std::mem::take(&mut self.escaped) => {}
                b'\\' if self.in_text => self.escaped = true,
                b'"' => self.in_text = !self.in_text,
                b'-' if !self.in_text => {
                    self.minus = true;
                    continue;
                }
                _ => {}
            }
            out[written] = byte;
            written += 1;
        }
        Ok(written)
    }
}

/// Records that stood in an earlier list of the same document.
#[derive(Default)]
pub(super) struct Listed(HashSet<String>);

impl Listed {
    /// Whether the record is the first of its identity.
    pub(super) fn is_first(&mut self, record: &Value) -> bool {
        self.0.insert(record.to_string())
    }
}
