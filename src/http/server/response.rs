//! Responses, and problem documents among them.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::{self, Write};

use schemars::JsonSchema;
use serde::Serialize;

use super::budget::Share;

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

/// A problem document (RFC 9457): what went wrong.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct Problem {
    /// Always `about:blank`: the status says it all.
    r#type: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    /// What was seen and what is allowed.
    detail: String,
    /// The fields that are wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldProblem>,
    /// As in the header `X-Request-Id`. It is appended to the finished document.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    request_id: Option<String>,
}

impl Problem {
    pub(in crate::http) fn new(status: u16, detail: impl Display) -> Self {
        Self {
            r#type: "about:blank",
            title: reason(status),
            status,
            detail: detail.to_string(),
            errors: Vec::new(),
            request_id: None,
        }
    }
}

/// A field that is wrong.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct FieldProblem {
    /// A JSON pointer into the body, or the name of a parameter; empty for the whole body.
    pub(in crate::http) pointer: String,
    /// What was seen and what is allowed.
    pub(in crate::http) detail: String,
}

/// Answers up to this size are not counted: there are as many as connections at most.
const UNCOUNTED_BYTES: usize = 16 * 1024;
/// What an answer that is made in parts holds of the budget.
const PARTS_BYTES: usize = 256 * 1024;
/// First size of an answer's buffer; most fit without growing.
const BUFFER_BYTES: usize = 1_024;

/// The rest of a body, made while it is sent. Parts should be well below 256 KiB each.
pub type Parts = Box<dyn Iterator<Item = Result<Vec<u8>, Broken>> + Send>;

/// The rest of a body can't be made: the connection is closed before its end.
#[derive(Debug)]
pub struct Broken;

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length,
    Chunks,
    Close,
}

/// A response. The server adds `Content-Length` and `Connection` and ignores those given here.
///
/// Bodies of more than 16 KiB take their memory from what all connections together may hold for
/// answers. Where that is used up, the response is a 503 with `Retry-After` instead.
pub struct Response {
    /// The final status code.
    pub status: u16,
    /// Header fields; control characters are removed from values.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The body; not sent in answer to HEAD or with a status that forbids one.
    pub body: Vec<u8>,
    /// Close the connection after this response.
    pub close: bool,
    /// What comes after the body.
    pub(super) rest: Option<Parts>,
    /// What the body holds of the budget, until it is written.
    _share: Option<Share>,
}

/// JSON as it is written.
struct Output {
    bytes: Vec<u8>,
    share: Option<Share>,
    /// There was no memory left for it.
    full: bool,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            let capacity = needed.max(2 * self.bytes.capacity());
            if !has_room(&mut self.share, capacity) {
                self.full = true;
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes what a body of this size needs.
fn has_room(share: &mut Option<Share>, size: usize) -> bool {
    let Some(share) = share else { return true };
    size <= UNCOUNTED_BYTES || share.grow(size.saturating_sub(share.held()))
}

fn too_many() -> Response {
    Response::busy("too many large answers are being sent")
}

impl Response {
    fn of(status: u16, media: &'static str, body: Vec<u8>) -> Self {
        let headers = vec![("Content-Type", Cow::Borrowed(media))];
        Self { status, headers, body, close: false, rest: None, _share: None }
    }

    /// A response of that media type.
    #[must_use]
    pub fn new(status: u16, media: &'static str, body: Vec<u8>) -> Self {
        let mut share = Share::of_answers();
        if !has_room(&mut share, body.capacity()) {
            return too_many();
        }
        Self { _share: share, ..Self::of(status, media, body) }
    }

    /// A response of type `application/json`.
    #[must_use]
    pub fn json(status: u16, body: Vec<u8>) -> Self {
        Self::new(status, JSON, body)
    }

    /// A value as JSON.
    ///
    /// # Errors
    /// When it has no JSON form.
    pub fn serialized(status: u16, value: &impl Serialize) -> serde_json::Result<Self> {
        Self::serialized_as(JSON, status, value)
    }

    fn serialized_as(
        media: &'static str,
        status: u16,
        value: &impl Serialize,
    ) -> serde_json::Result<Self> {
        let bytes = Vec::with_capacity(BUFFER_BYTES);
        let mut output = Output { bytes, share: Share::of_answers(), full: false };
        match serde_json::to_writer(&mut output, value) {
            Ok(()) => Ok(Self { _share: output.share, ..Self::of(status, media, output.bytes) }),
            Err(_) if output.full => Ok(too_many()),
            Err(error) => Err(error),
        }
    }

    /// JSON that is made while it is sent: `first`, then `rest`.
    #[must_use]
    pub fn json_in_parts(status: u16, first: Vec<u8>, rest: Parts) -> Self {
        let mut share = Share::of_answers();
        if !has_room(&mut share, PARTS_BYTES.max(first.capacity())) {
            return too_many();
        }
        Self { _share: share, rest: Some(rest), ..Self::of(status, JSON, first) }
    }

    /// A 503 that asks to try again in a second.
    #[must_use]
    pub fn busy(detail: impl Display) -> Self {
        Self::problem(503, detail).with_header("Retry-After", "1")
    }

    /// A problem document (RFC 9457).
    #[must_use]
    pub fn problem(status: u16, detail: impl Display) -> Self {
        Self::problem_of_fields(status, detail, Vec::new())
    }

    /// A problem document that names the fields that are wrong.
    pub(in crate::http) fn problem_of_fields(
        status: u16,
        detail: impl Display,
        errors: Vec<FieldProblem>,
    ) -> Self {
        let problem = Problem { errors, ..Problem::new(status, detail) };
        let body = serde_json::to_vec(&problem).expect("text always has a JSON form");
        Self::of(status, PROBLEM, body)
    }

    /// A problem document with members of its own.
    ///
    /// # Errors
    /// When it has no JSON form.
    pub(in crate::http) fn problem_with(
        status: u16,
        problem: &impl Serialize,
    ) -> serde_json::Result<Self> {
        Self::serialized_as(PROBLEM, status, problem)
    }

    /// Adds a header field.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Closes the connection after this response.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    pub(super) fn may_have_body(&self) -> bool {
        !matches!(self.status, 100..=199 | 204 | 304)
    }

    pub(super) fn write_head(
        &self,
        output: &mut Vec<u8>,
        framing: Framing,
        connection: Option<&str>,
    ) {
        // Any other number would not be a status line.
        let status = if (100..=999).contains(&self.status) { self.status } else { 500 };
        output.extend_from_slice(b"HTTP/1.1 ");
        output.extend_from_slice(status.to_string().as_bytes());
        output.push(b' ');
        output.extend_from_slice(reason(status).as_bytes());
        output.extend_from_slice(b"\r\n");
        for (name, value) in &self.headers {
            // The server alone decides where a response ends.
            let framing = ["content-length", "transfer-encoding", "connection"];
            if !framing.iter().any(|field| name.eq_ignore_ascii_case(field)) {
                write_field(output, name, value);
            }
        }
        match framing {
            _ if !self.may_have_body() => {}
            Framing::Length => {
                write_field(output, "Content-Length", &self.body.len().to_string());
            }
            Framing::Chunks => write_field(output, "Transfer-Encoding", "chunked"),
            Framing::Close => {}
        }
        if let Some(connection) = connection {
            write_field(output, "Connection", connection);
        }
        output.extend_from_slice(b"\r\n");
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "Response({}, {:?}, {body:?})", self.status, self.headers)
    }
}

/// Writes a header field. Without control characters a value cannot end its line.
fn write_field(output: &mut Vec<u8>, name: &str, value: &str) {
    output.extend_from_slice(name.as_bytes());
    output.extend_from_slice(b": ");
    output.extend(value.bytes().filter(|byte| !byte.is_ascii_control()));
    output.extend_from_slice(b"\r\n");
}

fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}
