//! Responses, and problem documents among them.

use std::borrow::Cow;
use std::fmt::Display;

use schemars::JsonSchema;
use serde::Serialize;

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

/// A field that is wrong.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::http) struct FieldProblem {
    /// A JSON pointer into the body, or the name of a parameter; empty for the whole body.
    pub(in crate::http) pointer: String,
    /// What was seen and what is allowed.
    pub(in crate::http) detail: String,
}

/// A response. The server adds `Content-Length` and `Connection` and ignores those given here.
#[derive(Debug, Clone)]
pub struct Response {
    /// The final status code.
    pub status: u16,
    /// Header fields; control characters are removed from values.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The body; not sent in answer to HEAD or with a status that forbids one.
    pub body: Vec<u8>,
    /// Close the connection after this response.
    pub close: bool,
}

impl Response {
    /// A response of type `application/json`.
    #[must_use]
    pub fn json(status: u16, body: Vec<u8>) -> Self {
        let headers = vec![("Content-Type", Cow::Borrowed("application/json"))];
        Self { status, headers, body, close: false }
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
        let problem = Problem {
            r#type: "about:blank",
            title: reason(status),
            status,
            detail: detail.to_string(),
            errors,
            request_id: None,
        };
        let body = serde_json::to_vec(&problem).expect("text always has a JSON form");
        let headers = vec![("Content-Type", Cow::Borrowed("application/problem+json"))];
        Self { status, headers, body, close: false }
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

    pub(super) fn write_head(&self, output: &mut Vec<u8>, connection: Option<&str>) {
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
        if self.may_have_body() {
            write_field(output, "Content-Length", &self.body.len().to_string());
        }
        if let Some(connection) = connection {
            write_field(output, "Connection", connection);
        }
        output.extend_from_slice(b"\r\n");
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
