//! A table of outcomes, as programs and spreadsheets write them: which sign stands between cells, what
//! the columns are called, and what their cells mean.
//!
//! A table has no types. What a column holds is decided by all of its cells before the first row is
//! read: a table is read twice. Only then `007` and `3.10` among other codes stay what they are, and
//! `1,200` means the same in every row.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use serde_json::{Map, Value};

use crate::outcome::cells::{Cells, Kind, decimals};
use crate::outcome::{Refusal, RefusalCode, nearest, tidy};

/// Longest line of a header that is looked at, in bytes.
const HEAD_BYTES_MAX: u64 = 1 << 20;
/// Signs between cells, the likeliest first.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// Columns that are read; others are left to whoever knows them.
const FIELDS: [&str; 21] = [
    "agent_name",
    "status",
    "event_id",
    "run_id",
    "agent_type",
    "action_type",
    "task_type",
    "tenant_id",
    "timestamp",
    "duration_ms",
    "latency_ms",
    "cost_estimate",
    "cost",
    "quality_score",
    "decision_id",
    "correlation_id",
    "memory_mb",
    "cpu_ms",
    "item",
    "attempt",
    "final",
];
/// Those of `metadata` that are read.
const METADATA: [&str; 4] = ["task_type", "tenant_id", "decision_id", "quality_score"];
/// Fields that are amounts.
const AMOUNTS: [&str; 5] = ["duration_ms", "latency_ms", "cost_estimate", "cost", "quality_score"];
/// How the cells of a table are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    delimiter: u8,
    /// The first line only names the sign: `sep=;`.
    has_sign_line: bool,
}

/// What a column is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Field(&'static str),
    Context(String),
    Metadata(String),
    /// Unknown here: as it is.
    Other(String),
}

#[derive(Debug, Clone)]
struct Column {
    role: Role,
    kind: Kind,
}

/// A header, and what the cells below it mean.
#[derive(Debug)]
pub(super) struct Table {
    dialect: Dialect,
    columns: Vec<Column>,
    /// Worth a word to whoever made the table.
    pub(super) remarks: Vec<String>,
}

/// What a cell of the table stands for, or why a row can't be read.
pub(super) type Row = Result<Value, Refusal>;

impl Dialect {
    fn of(head: &[u8]) -> Self {
        let line = head.trim_ascii();
        let line = line.strip_prefix(b"\"").unwrap_or(line);
        if line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"sep=") {
            // A tab at the end is trimmed away.
            let delimiter = line.get(4).copied().filter(|sign| *sign != b'"').unwrap_or(b'\t');
            return Self { delimiter, has_sign_line: true };
        }
        let mut counts = [0_usize; DELIMITERS.len()];
        let mut quoted = false;
        for byte in head {
            quoted ^= *byte == b'"';
            if let Some(place) = DELIMITERS.iter().position(|sign| sign == byte).filter(|_| !quoted)
            {
                counts[place] += 1;
            }
        }
        // Of equals the first.
        let place = (0..counts.len()).rev().max_by_key(|place| counts[*place]).unwrap_or(0);
        Self { delimiter: DELIMITERS[place], has_sign_line: false }
    }

    /// The rows of a table, the header too.
    fn rows(self, mut input: Box<dyn BufRead>) -> std::io::Result<csv::Reader<Box<dyn Read>>> {
        if self.has_sign_line {
            read_head(&mut input)?;
        }
        let mut builder = csv::ReaderBuilder::new();
        builder.flexible(true).has_headers(false).delimiter(self.delimiter).trim(csv::Trim::All);
        let rows: Box<dyn Read> = Box::new(WithoutBlanks::new(input, self.delimiter));
        Ok(builder.from_reader(rows))
    }
}

/// Reads the first line.
fn read_head(input: &mut dyn BufRead) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut input = input.take(HEAD_BYTES_MAX);
    // Blank lines before it are none.
    while head.trim_ascii().is_empty() {
        head.clear();
        if input.read_until(b'\n', &mut head)? == 0 {
            break;
        }
    }
    // Old spreadsheets end lines with a carriage return alone.
    if let Some(end) = head.trim_ascii_end().iter().position(|byte| *byte == b'\r') {
        head.truncate(end);
    }
    Ok(head)
}

impl Table {
    /// Looks at a whole table.
    ///
    /// # Errors
    /// What keeps it from being read, in words.
    pub(super) fn of(
        mut open: impl FnMut() -> std::io::Result<Box<dyn BufRead>>,
    ) -> Result<Self, String> {
        let io = |error: std::io::Error| error.to_string();
        let dialect = Dialect::of(&read_head(&mut *open().map_err(io)?).map_err(io)?);
        let mut rows = dialect.rows(open().map_err(io)?).map_err(io)?;
        let mut row = csv::ByteRecord::new();
        rows.read_byte_record(&mut row).map_err(|error| error.to_string())?;
        let header: Vec<String> =
            row.iter().map(|name| tidy(&String::from_utf8_lossy(name)).into_owned()).collect();
        if header.is_empty() {
            return Err("it is empty".to_owned());
        }
        let roles = roles(&header)?;
        let mut remarks = unknown_columns(&header, &roles);
        let is_typed = |role: &Role| is_amount(role) || matches!(role, Role::Context(_));
        let mut seen: BTreeMap<usize, Cells> = (0..roles.len())
            .filter(|at| is_typed(&roles[*at]))
            .map(|at| (at, Cells::default()))
            .collect();
        let mut number = 1;
        while !seen.is_empty()
            && rows.read_byte_record(&mut row).map_err(|error| error.to_string())?
        {
            number += 1;
            for (at, seen) in &mut seen {
                if let Some(cell) = row.get(*at).and_then(|cell| std::str::from_utf8(cell).ok()) {
                    seen.look(cell, number);
                }
            }
        }
        let decimals = decimals(seen.values(), dialect.delimiter);
        let kind = |at: usize| seen.get(&at).map_or(Kind::Text, |seen| seen.kind(decimals));
        for (at, seen) in &seen {
            let is_context = matches!(roles[*at], Role::Context(_));
            let numbers = seen.numbers();
            if let Some((row, cell)) = &seen.text
                && is_context
                && kind(*at) == Kind::Text
                && 2 * numbers > seen.filled
            {
                remarks.push(format!(
                    "{} is taken as text although {numbers} of {} cells are numbers: row {row} has {}",
                    header[*at],
                    seen.filled,
                    shown(cell)
                ));
            }
        }
        let columns = roles.into_iter().enumerate();
        let columns = columns.map(|(at, role)| {
            let kind = match kind(at) {
                // Whatever is no number in it is dropped by name, not the whole column.
                Kind::Text if is_amount(&role) => Kind::Number(seen[&at].likely(decimals)),
                Kind::Boolean if is_amount(&role) => Kind::Text,
                _ if role == Role::Field("final") => Kind::Boolean,
                kind => kind,
            };
            Column { role, kind }
        });
        Ok(Self { dialect, columns: columns.collect(), remarks })
    }

    /// The rows below the header.
    pub(super) fn rows(
        &self,
        input: Box<dyn BufRead>,
    ) -> std::io::Result<csv::Reader<Box<dyn Read>>> {
        let mut rows = self.dialect.rows(input)?;
        rows.read_byte_record(&mut csv::ByteRecord::new())?;
        // The reader has taken up what it has read of the rest.
        Ok(rows)
    }

    /// The event that a row stands for; its cells as they are.
    pub(super) fn event(&self, row: &csv::StringRecord) -> Row {
        if let Some(cell) = row.iter().skip(self.columns.len()).find(|cell| !cell.is_empty()) {
            let sign = char::from(self.dialect.delimiter).escape_default();
            return Err(Refusal::new(
                RefusalCode::MalformedRow,
                format!(
                    "the row has {} cells and the header {}; the first without a column is {}: a \
                     cell that holds {sign} must be quoted",
                    row.len(),
                    self.columns.len(),
                    shown(cell)
                ),
            ));
        }
        let last = row.iter().next_back().unwrap_or_default();
        if row.len() < self.columns.len() && last.contains('\n') {
            let lines = last.lines().count();
            return Err(Refusal::new(
                RefusalCode::MalformedRow,
                format!(
                    "the row ends in a cell of {lines} lines, {}: a quote before it is not closed",
                    shown(last)
                ),
            ));
        }
        let mut event = Map::new();
        for (column, cell) in self.columns.iter().zip(row) {
            let Some(value) = column.kind.value(cell) else { continue };
            let (outer, inner) = match &column.role {
                Role::Field(name) => {
                    event.insert((*name).to_owned(), value);
                    continue;
                }
                Role::Other(name) => {
                    event.insert(name.clone(), value);
                    continue;
                }
                Role::Context(key) => ("context", key),
                Role::Metadata(key) => ("metadata", key),
            };
            let inside = event.entry(outer).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inside) = inside {
                inside.insert(inner.clone(), value);
            }
        }
        Ok(Value::Object(event))
    }
}

fn is_amount(role: &Role) -> bool {
    match role {
        Role::Field(name) => AMOUNTS.contains(name),
        Role::Metadata(name) => name == "quality_score",
        _ => false,
    }
}

/// Letters and digits alone, in lower case: what spellings of a column have in common.
fn plain(name: &str) -> String {
    name.chars().filter(|sign| sign.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The one of `names` that this is a spelling of.
fn spelling_of(name: &str, names: &[&'static str]) -> Option<&'static str> {
    let name = plain(name);
    names.iter().find(|field| plain(field) == name).copied()
}

/// What the columns are for.
fn roles(header: &[String]) -> Result<Vec<Role>, String> {
    let role = |name: &String| {
        let inside = |outer: &str| {
            let (before, inner) = name.split_once('.')?;
            (plain(before) == outer).then(|| tidy(inner).into_owned())
        };
        if let Some(key) = inside("context") {
            Role::Context(key)
        } else if let Some(key) = inside("metadata") {
            Role::Metadata(spelling_of(&key, &METADATA).map_or(key, str::to_owned))
        } else if let Some(field) = spelling_of(name, &FIELDS) {
            Role::Field(field)
        } else {
            Role::Other(name.clone())
        }
    };
    let roles: Vec<Role> = header.iter().map(role).collect();
    for needed in ["agent_name", "status"] {
        if roles.contains(&Role::Field(needed)) {
            continue;
        }
        let lower: Vec<String> = header.iter().map(|name| name.to_lowercase()).collect();
        let nearest = nearest(needed, lower.iter().map(String::as_str));
        let nearest = nearest.and_then(|name| lower.iter().position(|other| other == name));
        let meant =
            nearest.map_or_else(String::new, |at| format!(" (is it {}?)", shown(&header[at])));
        let columns: Vec<String> = header.iter().take(20).map(|name| shown(name)).collect();
        return Err(format!(
            "its first line names no column {needed}{meant}; it names {}; wanted is a header such as \
             agent_name,status,task_type,context.domain",
            columns.join(", ")
        ));
    }
    for (at, role) in roles.iter().enumerate() {
        let is_nameless = *role == Role::Other(String::new());
        if let Some(first) = roles[..at].iter().position(|other| other == role)
            && !is_nameless
        {
            return Err(format!(
                "its columns {} and {} both mean {}",
                shown(&header[first]),
                shown(&header[at]),
                match role {
                    Role::Field(name) => (*name).to_owned(),
                    Role::Context(key) => format!("context.{key}"),
                    Role::Metadata(key) => format!("metadata.{key}"),
                    Role::Other(name) => name.clone(),
                }
            ));
        }
    }
    Ok(roles)
}

/// Columns that look like a misspelt one.
fn unknown_columns(header: &[String], roles: &[Role]) -> Vec<String> {
    let unknown = header.iter().zip(roles).filter(|(_, role)| matches!(role, Role::Other(_)));
    unknown
        .filter_map(|(name, _)| {
            let meant = nearest(name, FIELDS.into_iter())?;
            (!roles.contains(&Role::Field(meant)))
                .then(|| format!("column {} is not read; did you mean {meant}?", shown(name)))
        })
        .collect()
}

fn shown(text: &str) -> String {
    let cut: String = text.chars().take(64).collect();
    if cut.len() < text.len() { format!("{cut:?}...") } else { format!("{cut:?}") }
}

/// Leaves out the blanks before a cell: a quote after one begins a quoted cell all the same.
struct WithoutBlanks<R> {
    input: R,
    delimiter: u8,
    at: At,
}

#[derive(Clone, Copy)]
enum At {
    Start,
    Plain,
    Quoted,
    /// After a quote inside of a quoted cell, which ends it or stands for itself.
    Quote,
}

impl<R> WithoutBlanks<R> {
    fn new(input: R, delimiter: u8) -> Self {
        Self { input, delimiter, at: At::Start }
    }
}

impl<R: Read> Read for WithoutBlanks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let read = self.input.read(buffer)?;
            let mut kept = 0;
            for place in 0..read {
                let byte = buffer[place];
                let ends = byte == self.delimiter || byte == b'\n' || byte == b'\r';
                self.at = match self.at {
                    At::Start | At::Plain | At::Quote if ends => At::Start,
                    At::Start if matches!(byte, b' ' | b'\t') => continue,
                    At::Start | At::Quote if byte == b'"' => At::Quoted,
                    At::Quoted if byte == b'"' => At::Quote,
                    At::Quoted => At::Quoted,
                    _ => At::Plain,
                };
                buffer[kept] = byte;
                kept += 1;
            }
            if kept > 0 || read == 0 {
                return Ok(kept);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The events of a table, and what is remarked of it.
    fn read(text: &str) -> Result<(Vec<Row>, Vec<String>), String> {
        let open = || -> std::io::Result<Box<dyn BufRead>> {
            Ok(Box::new(std::io::Cursor::new(text.as_bytes().to_vec())))
        };
        let table = Table::of(open)?;
        let rows = table.rows(open().unwrap()).unwrap();
        let events = rows.into_records().map(|row| table.event(&row.unwrap()));
        Ok((events.collect(), table.remarks))
    }

    /// The contexts of the events of a table.
    #[track_caller]
    fn check_contexts(text: &str, expected: &[Value]) {
        let (events, _) = read(text).unwrap();
        let contexts: Vec<Value> =
            events.into_iter().map(|event| event.unwrap()["context"].clone()).collect();
        assert_eq!(contexts, expected, "{text}");
    }

    /// A column `context.k` with these cells.
    #[track_caller]
    fn check_column(cells: &[&str], expected: &[Value]) {
        let rows: Vec<String> = cells.iter().map(|cell| format!("a,success,{cell}\n")).collect();
        let text = format!("agent_name,status,context.k\n{}", rows.concat());
        let expected: Vec<Value> = expected
            .iter()
            .map(|value| if value.is_null() { json!(null) } else { json!({"k": value}) })
            .collect();
        check_contexts(&text, &expected);
    }

    #[test]
    fn the_cells_of_a_column_are_all_of_one_type() {
        check_column(&["True", "FALSE", "true"], &[json!(true), json!(false), json!(true)]);
        check_column(&["True", "maybe"], &[json!("True"), json!("maybe")]);
        check_column(&["1", "2.5", "-3e2"], &[json!(1.0), json!(2.5), json!(-300.0)]);
        check_column(&["1", "x"], &[json!("1"), json!("x")]);
        check_column(&["1", "true"], &[json!("1"), json!("true")]);
        // A code is no number, and what stands beside it neither.
        check_column(&["\"007\"", "\"3.10\"", "A1"], &[json!("007"), json!("3.10"), json!("A1")]);
        check_column(&["007", "12"], &[json!("007"), json!("12")]);
        check_column(&["3.10", "3.9"], &[json!(3.1), json!(3.9)]);
        check_column(&["\"1\"", "2"], &[json!(1.0), json!(2.0)]);
        check_column(&["0", "0.5", ".5"], &[json!(0.0), json!(0.5), json!(0.5)]);
        // Nothing is no value, except where it is a word among others.
        check_column(
            &["1", "", "NA", "null", "NaN"],
            &[json!(1.0), json!(null), json!(null), json!(null), json!(null)],
        );
        check_column(&["true", "None"], &[json!(true), json!(null)]);
        check_column(&["none", "some"], &[json!("none"), json!("some")]);
        check_column(&["inf", "1"], &[json!("inf"), json!("1")]);
    }

    /// What the rows say of latency and cost.
    #[track_caller]
    fn check_amounts(text: &str, expected: &[(Value, Value)]) {
        let (events, _) = read(text).unwrap();
        let seen: Vec<(Value, Value)> = events
            .into_iter()
            .map(|event| event.unwrap())
            .map(|event| (event["latency_ms"].clone(), event["cost"].clone()))
            .collect();
        assert_eq!(seen, expected, "{text}");
    }

    #[test]
    fn a_comma_is_what_the_file_makes_it() {
        let head = |sign: &str| ["agent_name", "status", "latency_ms", "cost"].join(sign) + "\n";
        check_amounts(
            &(head(",") + "a,success,\"1,200\",$0.012\na,success,950,$1\n"),
            &[(json!(1_200.0), json!(0.012)), (json!(950.0), json!(1.0))],
        );
        check_amounts(
            &(head(";") + "a;success;1.200;0,012\na;success;950;1\n"),
            &[(json!(1_200.0), json!(0.012)), (json!(950.0), json!(1.0))],
        );
        check_amounts(&(head(";") + "a;success;1,200;\n"), &[(json!(1.2), json!(null))]);
        check_amounts(&(head("\t") + "a\tsuccess\t1,200\t\n"), &[(json!(1_200.0), json!(null))]);
        // One cell that is no number takes nothing away from the others.
        check_amounts(
            &(head(",") + "a,success,\"1,200\",n/a\na,success,soon,5\na,success,3.5,\n"),
            &[
                (json!(1_200.0), json!(null)),
                (json!("soon"), json!(5.0)),
                (json!(3.5), json!(null)),
            ],
        );
    }

    #[test]
    fn the_sign_between_cells_is_found() {
        let event = json!({"agent_name": "a b", "status": "success", "latency_ms": 5.0});
        for (sign, before) in [
            (",", ""),
            (";", ""),
            ("\t", ""),
            ("|", ""),
            (";", "sep=;\r\n"),
            ("\t", "sep=\t\n"),
            ("^", "\"sep=^\"\n"),
            (", ", ""),
            (" ;", ""),
            (",", "\n\n"),
        ] {
            for end in ["\n", "\r\n", "\r"] {
                let rows = [["agent_name", "status", "latency_ms"], ["a b", "success", "5"]];
                let text: String = rows.iter().map(|row| row.join(sign) + end).collect();
                let (events, _) = read(&format!("{before}{text}")).unwrap();
                assert_eq!(events, [Ok(event.clone())], "{sign:?} after {before:?}, {end:?}");
            }
        }
        let text =
            "\"agent_name\", \"status\", \"task_type\"\n\"a\", \"success\", \"b, \"\"c\"\" d\"\n";
        let (events, _) = read(text).unwrap();
        let event = json!({"agent_name": "a", "status": "success", "task_type": "b, \"c\" d"});
        assert_eq!(events, [Ok(event)]);
    }

    #[test]
    fn columns_are_known_however_they_are_spelt() {
        let text = "Agent Name, STATUS ,LatencyMS,Quality-Score,Context.Domain,metadata.Task Type,Cost (USD),extra\n\
                    a,success,5,0.5,law,review,0.1,x\n";
        let (events, remarks) = read(text).unwrap();
        let event = json!({
            "agent_name": "a", "status": "success", "latency_ms": 5.0, "quality_score": 0.5,
            "context": {"Domain": "law"}, "metadata": {"task_type": "review"}, "Cost (USD)": "0.1",
            "extra": "x",
        });
        assert_eq!(events, [Ok(event)]);
        assert!(remarks.is_empty(), "{remarks:?}");
        let (_, remarks) = read("agent_name,status,latncy_ms\na,success,5\n").unwrap();
        assert_eq!(remarks, ["column \"latncy_ms\" is not read; did you mean latency_ms?"]);
    }

    #[test]
    fn a_header_that_is_not_understood_is_refused_with_the_reason() {
        #[track_caller]
        fn check(text: &str, reason: &str) {
            let why = read(text).unwrap_err();
            assert!(why.contains(reason), "{why}");
        }
        check("what,ever\n1,2\n", "names no column agent_name; it names \"what\", \"ever\"");
        check("agent_nam,status\na,success\n", "agent_name (is it \"agent_nam\"?)");
        check("agent_name,state\na,success\n", "names no column status");
        check("Agent,Status\na,success\n", "agent_name (is it \"Agent\"?)");
        check("", "it is empty");
        check(
            "agent_name,Agent Name,status\n",
            "\"agent_name\" and \"Agent Name\" both mean agent_name",
        );
        check("agent_name,status,context.a,Context.a\n", "both mean context.a");
    }

    #[test]
    fn a_row_with_more_cells_than_columns_is_refused_unless_they_are_empty() {
        let text = "agent_name,status,latency_ms\na,success,1,5\na,success,5,,\na,success\n";
        let (events, _) = read(text).unwrap();
        let refusal = events[0].as_ref().unwrap_err();
        assert_eq!(refusal.code, RefusalCode::MalformedRow);
        assert!(
            refusal.detail.contains("4 cells and the header 3") && refusal.detail.contains("\"5\""),
            "{refusal}"
        );
        assert!(events[1].is_ok() && events[2].is_ok());
    }

    #[test]
    fn a_quote_that_is_not_closed_is_said() {
        let text =
            "agent_name,status,task_type\na,success,\"two\nlines\"\nb,\"success,t\nc,failure,t\n";
        let (events, _) = read(text).unwrap();
        assert_eq!(events[0].as_ref().unwrap()["task_type"], "two\nlines");
        let refusal = events[1].as_ref().unwrap_err();
        assert_eq!(refusal.code, RefusalCode::MalformedRow);
        assert!(refusal.detail.contains("is not closed"), "{refusal}");
        assert_eq!(events.len(), 2);
    }

    #[test]
    fn a_column_that_one_cell_makes_text_is_remarked() {
        let cells: Vec<String> = (0..9).map(|number| format!("a,success,{number}\n")).collect();
        let text = format!("agent_name,status,context.size\n{}a,success,big\n", cells.concat());
        let (_, remarks) = read(&text).unwrap();
        let expected =
            "context.size is taken as text although 9 of 10 cells are numbers: row 11 has \"big\"";
        assert_eq!(remarks, [expected]);
    }
}
