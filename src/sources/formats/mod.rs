//! Files and bodies that other tools write, read as outcome events. What becomes of what is data: a map
//! per format, compiled in, or the user's own. A record is read no further than its map's paths lead, so
//! prompts and answers are neither copied nor kept.
//!
//! Pure but for the files of maps that are read: records in, events out; they then take the road of every
//! other record.
//!
#![doc = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/sources/formats/README.md"))]

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read as _};
use std::ops::{ControlFlow, Range};
use std::path::Path;

use serde_json::Value;

mod input;
mod map;
mod mapping;
mod path;
mod transform;

use input::{Found, Layout, Listed};
use map::Map;
use mapping::{Around, Mapped, Mapping};

use crate::error::{Error, Result};
use crate::outcome::{Refusal, RefusalCode, non_finite_as_null};
use crate::sources::otlp::{Body, Executed, Otlp, Unreadable};

/// The collector's file exporter: an export request a line. Its mapping is that of telemetry.
const OTLP: &str = "otlp";
const LITELLM: &str = "litellm";
/// The formats with a map, and the maps.
const MAPS: [(&str, &str); 9] = [
    (LITELLM, include_str!("litellm.json")),
    ("langfuse", include_str!("langfuse.json")),
    ("langsmith", include_str!("langsmith.json")),
    ("tensorzero", include_str!("tensorzero.json")),
    ("inspect", include_str!("inspect.json")),
    ("promptfoo", include_str!("promptfoo.json")),
    ("lm-eval", include_str!("lm-eval.json")),
    ("swe-bench", include_str!("swe-bench.json")),
    ("vw", include_str!("vw.json")),
];
/// Every format, by the name that `--from` takes.
pub const NAMES: [&str; MAPS.len() + 1] = {
    let mut names = [OTLP; MAPS.len() + 1];
    let mut place = 0;
    while place < MAPS.len() {
        names[place] = MAPS[place].0;
        place += 1;
    }
    names
};
/// Most records of a body.
const BODY_RECORDS_MAX: usize = 65_536;
/// Largest map of a user's own, in bytes.
const MAP_BYTES_MAX: u64 = 1 << 20;

/// Which field of LiteLLM's records is the agent.
pub const LITELLM_AGENTS: [&str; 3] = ["model_group", "model", "agent_id"];

/// What a format leaves open.
#[derive(Debug, Clone)]
pub struct Choices {
    /// Only these agents; all of them where none are named.
    pub agents: Vec<String>,
    /// Which scores count, of formats that have several.
    pub scores: Vec<String>,
    /// The task type of records that name none.
    pub task_type: Option<String>,
    /// Which field is the agent, of those that [`LITELLM_AGENTS`] names.
    pub agent_field: String,
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            agents: Vec::new(),
            scores: Vec::new(),
            task_type: None,
            agent_field: LITELLM_AGENTS[0].to_owned(),
        }
    }
}

/// What became of a record.
#[derive(Debug, PartialEq)]
pub enum Taken<'a> {
    /// An outcome event, as JSON.
    Event(&'a [u8]),
    /// It is no outcome, or none that was asked for.
    PassedOver,
    /// Why it is none although it should be one, and what is to be kept of it: never the record itself.
    Refused(Refusal, &'a [u8]),
}

/// Opens an input at its beginning, as often as it is asked.
pub type Again<'a> = &'a mut dyn FnMut() -> io::Result<Box<dyn BufRead>>;

/// Reads the records of one format.
#[derive(Debug)]
pub struct Reader(Kind);

#[derive(Debug)]
enum Kind {
    Mapped(Box<Mapping>),
    Otlp(Box<Otlp>),
}

impl Reader {
    /// A reader of the format of that name; telemetry is read as `otlp` says.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no such format.
    pub fn named(
        name: &str,
        choices: Choices,
        otlp: impl FnOnce() -> Result<Otlp>,
    ) -> Result<Self> {
        if name == OTLP {
            return Ok(Self(Kind::Otlp(Box::new(otlp()?))));
        }
        let (_, text) = MAPS.iter().find(|(known, _)| *known == name).ok_or_else(|| {
            Error::Config(format!("format {name:?} is unknown, allowed are {}", NAMES.join(", ")))
        })?;
        let map = Map::parse(text).map_err(|why| Error::Fatal(format!("the map {name}: {why}")))?;
        Ok(Self(Kind::Mapped(Box::new(Mapping::new(map, choices)))))
    }

    /// A reader of LiteLLM's records, whose agents are in this field.
    ///
    /// # Errors
    /// As [`Reader::named`].
    pub fn of_litellm(agent_field: String) -> Result<Self> {
        let choices = Choices { agent_field, ..Choices::default() };
        Self::named(LITELLM, choices, || Err(Error::Fatal("LiteLLM is not telemetry".to_owned())))
    }

    /// A reader with the user's own map.
    ///
    /// # Errors
    /// [`Error::Config`] that names the file, the line, the field, and what is allowed there.
    pub fn with_map(file: &Path, choices: Choices) -> Result<Self> {
        let wrong = |why: &dyn std::fmt::Display| {
            Error::Config(format!("--map {} can't be read: {why}", file.display()))
        };
        let size = std::fs::metadata(file).map_err(|error| wrong(&error))?.len();
        if size > MAP_BYTES_MAX {
            return Err(wrong(&format!("it has {size} bytes, allowed are {MAP_BYTES_MAX}")));
        }
        let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
        let map = Map::parse(&text).map_err(|why| wrong(&why))?;
        Ok(Self(Kind::Mapped(Box::new(Mapping::new(map, choices)))))
    }

    /// Whether some records judge others: these are to be collected from all files first.
    pub fn has_verdicts(&self) -> bool {
        matches!(&self.0, Kind::Mapped(mapping) if !mapping.map.verdicts.is_empty())
    }

    /// Collects what is said of records.
    ///
    /// # Errors
    /// As [`Reader::read`], and when there is more than can be kept.
    pub fn collect(&mut self, file: &Path, again: Again<'_>) -> Result<()> {
        let Kind::Mapped(mapping) = &mut self.0 else { return Ok(()) };
        let mut failed = Ok(());
        let (map, wanted) = (mapping.map.clone(), mapping.wanted.clone());
        let document = mapping.wanted_of_document.clone();
        each_record(&map, (&wanted, &document), file, again, |_, found, around| {
            if let Found::Record(record) | Found::Listed(record, _) = found {
                failed = mapping.keep_verdict(&record, around);
            }
            if failed.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failed.map_err(|why| broken(file, &why))
    }

    /// How many verdicts judge what no file held.
    pub fn verdicts_unmet(&self) -> u64 {
        match &self.0 {
            Kind::Mapped(mapping) => mapping.verdicts_unmet(),
            Kind::Otlp(_) => 0,
        }
    }

    /// Reads a file; `take` is given each record's number, and what became of it.
    ///
    /// # Errors
    /// [`Error::Invalid`] that names the file and where it can't be read. What was taken before stays so.
    pub fn read(
        &self,
        file: &Path,
        again: Again<'_>,
        mut take: impl FnMut(u64, Taken<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
        match &self.0 {
            Kind::Mapped(mapping) => {
                let wanted = (&mapping.wanted, &mapping.wanted_of_document);
                each_record(&mapping.map, wanted, file, again, |place, found, around| {
                    let mapped = match found {
                        Found::Record(record) | Found::Listed(record, _) => {
                            mapping.map(record, around)
                        }
                        Found::Unreadable(refusal) => Mapped::Refused(refusal, Value::Null),
                    };
                    give(mapped, place, &name, |taken| take(place.number, taken))
                })
            }
            Kind::Otlp(otlp) => {
                let mut input = again().map_err(|error| broken(file, &error))?;
                input::each_line(&mut *input, |number, line| {
                    let place = Place { unit: Layout::Lines.unit(), number };
                    let mut take = |taken: Taken<'_>| take(number, taken);
                    match otlp.traces(Body::Json(line), None) {
                        Ok(executed) => give_executions(&executed, &mut take),
                        Err(Unreadable::Malformed(why) | Unreadable::TooLarge(why)) => {
                            let refusal = Refusal::new(RefusalCode::NotJson, why);
                            give(Mapped::Refused(refusal, Value::Null), place, &name, take)
                        }
                    }
                })
                .map_err(|error| broken(file, &error))
            }
        }
    }

    /// Maps the records of a body: a list of them, or one a line.
    ///
    /// # Errors
    /// A text, when it is no such body; nothing of it is to be taken then.
    pub fn body(&self, body: &[u8]) -> std::result::Result<MappedBody, String> {
        let mut taken = MappedBody::default();
        let Kind::Mapped(mapping) = &self.0 else { return Ok(taken) };
        let text = str::from_utf8(body).map_err(|error| error.to_string())?;
        let layout = Layout::of(body, Path::new(""), &mapping.map)?;
        if layout == Layout::Lines {
            let take = &mut |number, found: Found<'_>| taken.take(mapping, layout, number, found);
            input::lines(&mut &*body, &mapping.wanted, None, take)
                .map_err(|error| error.to_string())?;
        } else {
            let mut read = |text: &str| {
                taken = MappedBody::default();
                let take =
                    &mut |number, found: Found<'_>| taken.take(mapping, layout, number, found);
                input::text(text, &mapping.wanted, take)
            };
            read(text)
                .or_else(|error| non_finite_as_null(text).map_or(Err(error), |text| read(&text)))
                .map_err(|error| format!("it is not JSON: {error}"))?;
        }
        if taken.records.len() > BODY_RECORDS_MAX {
            return Err(format!("it has more than {BODY_RECORDS_MAX} records"));
        }
        Ok(taken)
    }
}

/// The records of a body, mapped.
#[derive(Debug, Default)]
pub struct MappedBody {
    /// Outcome events as JSON, one after the other.
    pub events: Vec<u8>,
    /// Where each of them stands, and why it is refused if it is.
    pub records: Vec<(Range<usize>, Option<Refusal>)>,
}

impl MappedBody {
    fn take(
        &mut self,
        mapping: &Mapping,
        layout: Layout,
        number: u64,
        found: Found<'_>,
    ) -> ControlFlow<()> {
        let mapped = match found.checked(&mapping.wanted) {
            Found::Record(record) | Found::Listed(record, _) => {
                mapping.map(record, Around::default())
            }
            Found::Unreadable(refusal) => Mapped::Refused(refusal, Value::Null),
        };
        give(mapped, Place { unit: layout.unit(), number }, "body", |taken| {
            let (event, refusal) = match taken {
                Taken::Event(event) => (event, None),
                Taken::Refused(refusal, kept) => (kept, Some(refusal)),
                Taken::PassedOver => return ControlFlow::Continue(()),
            };
            let start = self.events.len();
            self.events.extend(event);
            self.records.push((start..self.events.len(), refusal));
            // One more tells that there are too many.
            match self.records.len() {
                ..=BODY_RECORDS_MAX => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })
    }
}

/// Where a record stands in its file.
#[derive(Clone, Copy)]
struct Place {
    unit: &'static str,
    number: u64,
}

fn broken(file: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::invalid("", format!("can't read {}: {why}", file.display()))
}

/// Passes on what became of a record; a refusal says where it stands.
fn give(
    mapped: Mapped,
    place: Place,
    file: &str,
    mut take: impl FnMut(Taken<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match mapped {
        Mapped::Event(event) => take(Taken::Event(event.to_string().as_bytes())),
        Mapped::PassedOver => take(Taken::PassedOver),
        Mapped::Refused(Refusal { code, detail }, event) => {
            let Place { unit, number } = place;
            let refusal = Refusal::new(code, format!("{file}, {unit} {number}: {detail}"));
            let event = if event.is_null() { "{}".to_owned() } else { event.to_string() };
            take(Taken::Refused(refusal, event.as_bytes()))
        }
    }
}

fn give_executions(
    executed: &Executed,
    take: &mut dyn FnMut(Taken<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    for range in &executed.ranges {
        take(Taken::Event(&executed.events[range.clone()]))?;
    }
    for _ in 0..executed.ignored {
        take(Taken::PassedOver)?;
    }
    ControlFlow::Continue(())
}

/// Goes through the records of a file by what a map says of where they stand.
fn each_record(
    map: &Map,
    (wanted, wanted_of_document): (&path::Wanted, &path::Wanted),
    file: &Path,
    again: Again<'_>,
    mut take: impl FnMut(Place, Found<'_>, Around<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let broken = |why: &dyn std::fmt::Display| broken(file, why);
    let mut open = || again().map_err(|error| broken(&error));
    let named = match &map.file_name {
        Some(pattern) => Some(map::matched(pattern, &file.to_string_lossy()).ok_or_else(|| {
            broken(&format!("it has to be called {pattern}: the name says what is in it"))
        })?),
        None => None,
    };
    let named: Option<&BTreeMap<String, String>> = named.as_ref();
    let mut head = Vec::new();
    open()?.take(input::HEAD_BYTES).read_to_end(&mut head).map_err(|error| broken(&error))?;
    let layout = Layout::of(&head, file, map).map_err(|why| broken(&why))?;
    let mut input = open()?;
    let around = Around { named, ..Around::default() };
    let mut take = |number, found: Found<'_>, around: Around<'_>| {
        take(Place { unit: layout.unit(), number }, found.checked(wanted), around)
    };
    match layout {
        Layout::Lines => {
            input::lines(&mut *input, wanted, map.skip_lines.as_deref(), &mut |number, found| {
                take(number, found, around)
            })
            .map_err(|error| broken(&error))
        }
        Layout::Table { delimiter } => {
            input::table(&mut *input, delimiter, wanted, &mut |number, found| {
                take(number, found, around)
            })
            .map_err(|error| broken(&error))
        }
        Layout::Document => {
            drop(input);
            let document = if wanted_of_document.is_nothing() {
                Value::Null
            } else {
                let document = input::around(&mut *open()?, wanted_of_document);
                document.map_err(|error| broken(&error))?
            };
            let around = Around { document: Some(&document), ..around };
            let mut number = 0;
            let lists = &map.records.0;
            if lists.is_empty() {
                let mut take = |number, found: Found<'_>| take(number, found, around);
                return input::document(&mut *open()?, None, wanted, &mut number, &mut take)
                    .map_err(|error| broken(&error));
            }
            let mut listed = Listed::default();
            let mut stopped = false;
            for list in lists {
                let mut take = |number, found: Found<'_>| {
                    let around = match &found {
                        Found::Listed(record, _) if lists.len() > 1 && !listed.is_first(record) => {
                            return ControlFlow::Continue(());
                        }
                        Found::Listed(_, list) => Around { list: Some(list), ..around },
                        _ => around,
                    };
                    let flow = take(number, found, around);
                    stopped = flow.is_break();
                    flow
                };
                input::document(&mut *open()?, Some(list), wanted, &mut number, &mut take)
                    .map_err(|error| broken(&error))?;
                if stopped {
                    break;
                }
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
