//! OTLP: what agents' own telemetry says of their executions. Bytes of an export request in, outcome
//! events out; they then take the road of every other record.
//!
//! Pure but for [`Prices::read`]: no clock, no I/O. What agents were asked and answered is never looked at.
//!
#![doc = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/sources/otlp/README.md"))]

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufReader, ErrorKind, Read};
use std::ops::Range;
use std::path::PathBuf;

use serde::de::Error as _;

mod json;
mod mapping;
mod prices;
mod span;
mod wire;

use span::{Attributes, LogRecord, Span, SpanId};

pub use prices::Prices;

use crate::outcome::feedback::{Evaluations, Target, Verdict, span_identity};
use crate::outcome::{DEFAULT_TENANT, Refusal, TraceId, checked_tenant};

/// Most spans of a request.
pub const SPANS_MAX: u64 = 65_536;
/// Largest span that is read, in bytes; a larger one is refused.
pub const SPAN_BYTES_MAX: usize = wire::ITEM_BYTES_MAX;
/// Bytes taken from a decoder at a time.
const BUFFER_BYTES: usize = 1 << 16;
/// The kinds of spans that stand for one call together: who calls, and who is called.
const CLIENT: u64 = 3;
const INTERNAL: u64 = 1;

/// Which operations are executions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executions {
    /// Those of agents.
    Agents,
    /// Calls of models, which are the agents then.
    Models,
}

impl Executions {
    /// Their names in `OTLP_EXECUTIONS`.
    pub const NAMES: [&str; 2] = ["agents", "models"];
}

/// How spans are read.
#[derive(Debug, Clone)]
pub struct OtlpOptions {
    /// Which operations are executions.
    pub executions: Executions,
    /// Attributes that name the task type, of the span or its resource.
    pub task_type: Vec<String>,
    /// Attributes that name the tenant.
    pub tenant: Vec<String>,
    /// Attributes that are context features.
    pub context: Vec<String>,
    /// Evaluations whose scores are qualities.
    pub quality: Vec<String>,
    /// Evaluations that say whether it was a success.
    pub success: Vec<String>,
    /// A file of prices, for spans that count tokens and name no cost.
    pub prices: Option<PathBuf>,
    /// Largest request, unpacked, in bytes.
    pub body_bytes_max: usize,
}

/// The body of a request.
pub enum Body<'b> {
    /// `application/x-protobuf`, unpacked as it is read.
    Protobuf(&'b mut dyn Read),
    /// `application/json`.
    Json(&'b [u8]),
}

/// Why a request can't be taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is not what its type says.
    Malformed(String),
    /// It has too many spans, or unpacks to too much.
    TooLarge(String),
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::FileTooLarge => Self::TooLarge(error.to_string()),
            _ => Self::Malformed(error.to_string()),
        }
    }
}

/// The executions that a request tells of.
#[derive(Debug, Default)]
pub struct Executed {
    /// Outcome events as JSON, one after the other.
    pub events: Vec<u8>,
    /// Where each of them stands, those that are one call with another left out.
    pub ranges: Vec<Range<usize>>,
    /// What is said of other executions.
    pub verdicts: Vec<Verdict>,
    /// Spans, or log records, that tell of no execution of their own and carry no verdict.
    pub ignored: u64,
    /// Why spans, or log records, that judge others can't be taken.
    pub refused: Vec<Refusal>,
    /// Spans, or log records, that are longer than [`SPAN_BYTES_MAX`].
    pub too_large: u64,
}

/// Reads export requests.
#[derive(Debug)]
pub struct Otlp {
    options: OtlpOptions,
    prices: Prices,
}

/// An execution, until it is known which of them are the same.
struct Found {
    range: Range<usize>,
    trace_id: TraceId,
    span_id: SpanId,
    parent_id: SpanId,
    kind: u64,
    agent: Option<String>,
}

impl Otlp {
    /// A reader with these options.
    ///
    /// # Errors
    /// As [`Prices::read`].
    pub fn new(options: OtlpOptions) -> crate::error::Result<Self> {
        let prices = options.prices.as_deref().map(Prices::read).transpose()?.unwrap_or_default();
        Ok(Self { options, prices })
    }

    /// How it reads.
    pub fn options(&self) -> &OtlpOptions {
        &self.options
    }

    /// The executions of an export request for traces; all are `tenant`'s, if one is given.
    ///
    /// # Errors
    /// [`Unreadable`]: nothing of it is to be taken then.
    pub fn traces(&self, body: Body<'_>, tenant: Option<&str>) -> Result<Executed, Unreadable> {
        let wants = |key: &str| mapping::wants(key, &self.options);
        let mut read = Reading::new(self, tenant);
        let mut too_large = 0;
        match body {
            Body::Protobuf(body) => wire::items(
                BufReader::with_capacity(BUFFER_BYTES, self.limited(body)),
                |span, resource| {
                    let span = Span::decode(span, &wants)?;
                    read.add(&span, || span::resource(resource, &wants).map(Cow::Owned))
                },
                || too_large += 1,
            )?,
            Body::Json(body) => {
                let malformed = |error: &dyn fmt::Display| Unreadable::Malformed(error.to_string());
                let text = str::from_utf8(body).map_err(|error| malformed(&error))?;
                json::items(text, &wants, |span, resource| {
                    let span = Span::of_json(span, &wants)?;
                    read.add(&span, || Ok(Cow::Borrowed(resource)))
                        .map_err(serde_json::Error::custom)
                })
                .map_err(|error| malformed(&error))?;
            }
        }
        read.check(too_large, "spans")?;
        Ok(Executed { too_large, ..read.finish() })
    }

    /// The verdicts of an export request for log records; all are `tenant`'s, if one is given.
    ///
    /// # Errors
    /// As [`Otlp::traces`].
    pub fn logs(&self, body: Body<'_>, tenant: Option<&str>) -> Result<Executed, Unreadable> {
        let wants = |key: &str| mapping::wants(key, &self.options);
        let mut read = Reading::new(self, tenant);
        let mut too_large = 0;
        match body {
            Body::Protobuf(body) => wire::items(
                BufReader::with_capacity(BUFFER_BYTES, self.limited(body)),
                |record, resource| {
                    let record = LogRecord::decode(record, &wants)?;
                    read.add_record(&record, || span::resource(resource, &wants).map(Cow::Owned))
                },
                || too_large += 1,
            )?,
            Body::Json(body) => {
                let malformed = |error: &dyn fmt::Display| Unreadable::Malformed(error.to_string());
                let text = str::from_utf8(body).map_err(|error| malformed(&error))?;
                json::items(text, &wants, |record, resource| {
                    let record = LogRecord::of_json(record, &wants)?;
                    read.add_record(&record, || Ok(Cow::Borrowed(resource)))
                        .map_err(serde_json::Error::custom)
                })
                .map_err(|error| malformed(&error))?;
            }
        }
        read.check(too_large, "log records")?;
        Ok(Executed { too_large, ..read.finish() })
    }

    /// As much of a body as may be unpacked.
    fn limited<'b>(&self, body: &'b mut dyn Read) -> Limited<'b> {
        let max = self.options.body_bytes_max;
        Limited { body, left: max, max }
    }
}

/// Fails past a number of bytes.
struct Limited<'b> {
    body: &'b mut dyn Read,
    left: usize,
    max: usize,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer)?;
        let within = self.left.checked_sub(count);
        self.left = within.ok_or_else(|| {
            let detail = format!("the body has more than {} bytes, unpacked", self.max);
            io::Error::new(ErrorKind::FileTooLarge, detail)
        })?;
        Ok(count)
    }
}

/// A request that is being read.
struct Reading<'o> {
    otlp: &'o Otlp,
    tenant: Option<&'o str>,
    events: Vec<u8>,
    spans: u64,
    found: Vec<Found>,
    verdicts: Vec<Verdict>,
    /// Spans, or log records, of which one or more verdicts were made.
    evaluators: u64,
    refused: Vec<Refusal>,
}

impl<'o> Reading<'o> {
    fn new(otlp: &'o Otlp, tenant: Option<&'o str>) -> Self {
        Self {
            otlp,
            tenant,
            events: Vec::new(),
            spans: 0,
            found: Vec::new(),
            verdicts: Vec::new(),
            evaluators: 0,
            refused: Vec::new(),
        }
    }

    fn check(&self, too_large: u64, what: &str) -> Result<(), Unreadable> {
        let count = self.spans + too_large;
        if count <= SPANS_MAX {
            return Ok(());
        }
        let detail = format!("the request has {count} {what}, allowed are {SPANS_MAX}");
        Err(Unreadable::TooLarge(detail))
    }

    /// Takes in what evaluations say of the execution whose span this is.
    fn judge<'v>(
        &mut self,
        (trace_id, span_id): (TraceId, SpanId),
        verdicts: impl Iterator<Item = mapping::Verdict<'v>>,
        tenant: Option<Cow<'_, str>>,
    ) {
        if trace_id == TraceId::default() || span_id == SpanId::default() {
            return;
        }
        let options = &self.otlp.options;
        let evaluations =
            Evaluations { quality: options.quality.clone(), success: options.success.clone() };
        let made = verdicts.filter_map(|verdict| {
            let target = Target::Event(event_id(trace_id, span_id));
            let said = (&*verdict.name, verdict.score, verdict.label.as_deref());
            Verdict::of_evaluation(DEFAULT_TENANT.to_owned(), target, said, &evaluations)
        });
        let made: Vec<Verdict> = made.collect();
        if made.is_empty() {
            return;
        }
        let tenant = match (self.tenant, tenant) {
            (Some(tenant), _) => Ok(tenant.to_owned()),
            (None, Some(tenant)) => checked_tenant(&tenant),
            (None, None) => Ok(DEFAULT_TENANT.to_owned()),
        };
        match tenant {
            Ok(tenant) => {
                let of = |verdict| Verdict { tenant: tenant.clone(), ..verdict };
                self.verdicts.extend(made.into_iter().map(of));
                self.evaluators += 1;
            }
            Err(refusal) => self.refused.push(refusal),
        }
    }

    fn add_record<'a, 's: 'a>(
        &mut self,
        record: &'a LogRecord<'s>,
        resource: impl FnOnce() -> io::Result<Cow<'a, Attributes<'s>>>,
    ) -> io::Result<()> {
        self.spans += 1;
        if self.spans > SPANS_MAX {
            return Ok(());
        }
        if let Some(verdict) = mapping::logged(record) {
            let resource = resource()?;
            let tenant = mapping::tenant(&record.attributes, &resource, &self.otlp.options);
            let target = (record.trace_id, record.span_id);
            self.judge(target, std::iter::once(verdict), tenant);
        }
        Ok(())
    }

    fn add<'a, 's: 'a>(
        &mut self,
        span: &'a Span<'s>,
        resource: impl FnOnce() -> io::Result<Cow<'a, Attributes<'s>>>,
    ) -> io::Result<()> {
        self.spans += 1;
        if self.spans > SPANS_MAX {
            // They are counted to the end, and then refused.
            return Ok(());
        }
        if let ([link], true) = (&span.links[..], mapping::is_evaluator(span)) {
            let resource = resource()?;
            let tenant = mapping::tenant(&span.attributes, &resource, &self.otlp.options);
            self.judge(*link, mapping::verdicts(span), tenant);
            return Ok(());
        }
        let Some(agent) = mapping::executor(span, self.otlp.options.executions) else {
            return Ok(());
        };
        let resource = resource()?;
        let event = mapping::event(span, &resource, agent, self.tenant, self.otlp);
        let start = self.events.len();
        serde_json::to_writer(&mut self.events, &event)?;
        self.found.push(Found {
            range: start..self.events.len(),
            trace_id: span.trace_id,
            span_id: span.id,
            parent_id: span.parent_id,
            kind: span.kind,
            agent: event.agent_name.map(Cow::into_owned),
        });
        Ok(())
    }

    /// Of a call that has spans of both its ends, that of who called stands for it.
    fn finish(self) -> Executed {
        let callers: HashMap<_, _> = self
            .found
            .iter()
            .filter(|found| found.kind == CLIENT)
            .map(|found| ((found.trace_id, found.span_id), &found.agent))
            .collect();
        let is_inside = |found: &Found| {
            found.kind == INTERNAL
                && found.agent.is_some()
                && callers.get(&(found.trace_id, found.parent_id)) == Some(&&found.agent)
        };
        let kept = self.found.iter().filter(|found| !is_inside(found));
        let ranges: Vec<_> = kept.map(|found| found.range.clone()).collect();
        let judges = self.evaluators + self.refused.len() as u64;
        let ignored = self.spans - ranges.len() as u64 - judges;
        let Self { verdicts, refused, .. } = self;
        Executed { events: self.events, ranges, verdicts, ignored, refused, too_large: 0 }
    }
}

/// A message `ExportTraceServiceResponse` (or that of logs): how many were refused, and why.
pub fn export_response(rejected: u64, message: &str) -> Vec<u8> {
    let mut partial = Vec::new();
    wire::put_varint(&mut partial, 1, rejected);
    wire::put_bytes(&mut partial, 2, message.as_bytes());
    let mut response = Vec::new();
    wire::put_bytes(&mut response, 1, &partial);
    response
}

/// A message `google.rpc.Status` with a text; the code is that of HTTP.
pub fn status(message: &str) -> Vec<u8> {
    let mut status = Vec::new();
    wire::put_bytes(&mut status, 2, message.as_bytes());
    status
}

/// What identifies the outcome of a span.
fn event_id(trace_id: TraceId, span_id: SpanId) -> String {
    span_identity(&trace_id, &span_id)
}

#[cfg(test)]
mod tests;
