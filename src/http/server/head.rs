//! Request heads: what is asked, and how long the body is.
//!
//! Whatever can be read in two ways is refused, because that is how requests are smuggled past a proxy.

use std::borrow::Cow;

/// Most header fields in a request or a trailer section.
pub(super) const HEADERS_MAX: usize = 64;

/// What of the current request's body has not been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    Nothing,
    Length(u64),
    Chunked,
    /// Reading failed half-way: where the next request starts is not known.
    Broken,
}

/// A request that is answered without the handler.
#[derive(Debug)]
pub(super) struct Reject {
    pub(super) status: u16,
    pub(super) detail: Cow<'static, str>,
}

impl Reject {
    pub(super) fn new(status: u16, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into() }
    }
}

/// A parsed request line and header section.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    /// All names and values, one after another.
    pub(super) text: Vec<u8>,
    /// Start of a name, its end (which starts the value), end of the value; in `text`.
    pub(super) fields: Vec<(usize, usize, usize)>,
    pub(super) body: Unread,
    pub(super) expects: bool,
    pub(super) keep_alive: bool,
    pub(super) http10: bool,
}

impl Head {
    /// The values of the fields of that name.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let named = move |range: &&(usize, usize, usize)| {
            self.text[range.0..range.1].eq_ignore_ascii_case(name.as_bytes())
        };
        self.fields.iter().filter(named).map(|(_, start, end)| &self.text[*start..*end])
    }
}

/// Parses a request head. `None` when it is not complete.
pub(super) fn parse_head(input: &[u8], max: usize) -> Result<Option<(usize, Head)>, Reject> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(input) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Reject::new(431, "too many header fields"));
        }
        Err(httparse::Error::Version) if names_a_version(input) => {
            return Err(Reject::new(505, "only HTTP/1.0 and HTTP/1.1 are supported"));
        }
        Err(error) => return Err(Reject::new(400, error.to_string())),
    };
    if length > max {
        return Err(Reject::new(431, "the header section is too long"));
    }
    if has_bare_line_feed(&input[..length]) {
        return Err(Reject::new(400, "lines must end with CR LF"));
    }
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(Reject::new(400, "incomplete request line"));
    };
    let http10 = version == 0;
    let headers = &*request.headers;
    check_host(headers, http10)?;
    let body = body_framing(headers, http10)?;
    let (authority, path, query) = split_target(target)?;
    let mut expects = false;
    // An HTTP/1.0 client cannot understand an interim response.
    for expectation in values(headers, "expect").filter(|_| !http10) {
        if !expectation.eq_ignore_ascii_case(b"100-continue") {
            return Err(Reject::new(417, "only 100-continue can be expected"));
        }
        expects = body != Unread::Nothing;
    }
    let connection_has = |option: &[u8]| {
        values(headers, "connection")
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(option))
    };
    let keep_alive = !connection_has(b"close") && (!http10 || connection_has(b"keep-alive"));
    let mut text = Vec::with_capacity(length);
    let mut fields = Vec::with_capacity(headers.len());
    let mut keep = |name: &str, value: &[u8]| {
        let start = text.len();
        text.extend_from_slice(name.as_bytes());
        let name_end = text.len();
        text.extend_from_slice(value);
        fields.push((start, name_end, text.len()));
    };
    for header in headers {
        // Host is to be ignored where the target names an authority (RFC 9112, section 3.2.2).
        match authority {
            Some(authority) if header.name.eq_ignore_ascii_case("host") => {
                keep("host", authority.as_bytes());
            }
            _ => keep(header.name, header.value),
        }
    }
    if let (Some(authority), None) = (authority, values(headers, "host").next()) {
        keep("host", authority.as_bytes());
    }
    let method = method.to_owned();
    let head = Head { method, path, query, text, fields, body, expects, keep_alive, http10 };
    Ok(Some((length, head)))
}

fn values<'h>(
    headers: &'h [httparse::Header<'h>],
    name: &'h str,
) -> impl Iterator<Item = &'h [u8]> {
    headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value)
}

/// Whether a line ends with LF alone, which other implementations may not take for a line end.
pub(super) fn has_bare_line_feed(lines: &[u8]) -> bool {
    let mut lines = lines.split(|byte| *byte == b'\n');
    lines.next_back();
    lines.any(|line| !line.ends_with(b"\r"))
}

/// Whether the third word of the request line is well-formed as an HTTP version.
fn names_a_version(input: &[u8]) -> bool {
    let line = input.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    let version = line.splitn(3, |byte| *byte == b' ').nth(2).unwrap_or_default();
    matches!(version.strip_prefix(b"HTTP/"),
        Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit())
}

fn check_host(headers: &[httparse::Header<'_>], http10: bool) -> Result<(), Reject> {
    let mut hosts = values(headers, "host");
    let host = hosts.next();
    if hosts.next().is_some() || (host.is_none() && !http10) {
        return Err(Reject::new(400, "exactly one Host field is needed"));
    }
    if !is_authority(host.unwrap_or_default()) {
        return Err(Reject::new(400, "invalid Host field"));
    }
    Ok(())
}

/// Whether this may be a name or address with a port. User information is no part of it.
fn is_authority(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_graphic() && !b",/?#@\\".contains(byte))
}

/// Decides how long the body is, or refuses: two readings of one message are how requests are
/// smuggled past a proxy.
fn body_framing(headers: &[httparse::Header<'_>], http10: bool) -> Result<Unread, Reject> {
    let bad = |detail| Err(Reject::new(400, detail));
    let mut lengths = values(headers, "content-length");
    let mut codings = values(headers, "transfer-encoding");
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(Unread::Nothing),
        (Some(_), Some(_)) => bad("both Content-Length and Transfer-Encoding"),
        (Some(value), None) => {
            if lengths.next().is_some() {
                return bad("more than one Content-Length");
            }
            let length = Some(value)
                .filter(|value| value.iter().all(u8::is_ascii_digit))
                .and_then(|value| str::from_utf8(value).ok()?.parse().ok());
            match length {
                Some(0) => Ok(Unread::Nothing),
                Some(length) => Ok(Unread::Length(length)),
                None => bad("invalid Content-Length"),
            }
        }
        (None, Some(value)) => {
            if http10 {
                return bad("Transfer-Encoding in HTTP/1.0");
            }
            if codings.next().is_some() {
                return bad("more than one Transfer-Encoding");
            }
            if value.eq_ignore_ascii_case(b"chunked") {
                return Ok(Unread::Chunked);
            }
            let is_chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
            let mut others = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            let last = others.next_back().unwrap_or_default();
            if !is_token(last) || others.any(|coding| !is_token(coding) || is_chunked(&coding)) {
                return bad("invalid Transfer-Encoding");
            }
            Err(Reject::new(501, "only the chunked transfer coding is supported"))
        }
    }
}

fn is_token(bytes: &[u8]) -> bool {
    let is_valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_valid)
}

/// Splits a request target into authority, path and query.
fn split_target(target: &str) -> Result<(Option<&str>, String, Option<String>), Reject> {
    let invalid = || Reject::new(400, "invalid request target");
    let (authority, local) = if target.starts_with('/') {
        (None, target)
    } else {
        let (scheme, rest) = target.split_at_checked(7).ok_or_else(invalid)?;
        let (authority, local) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if !scheme.eq_ignore_ascii_case("http://")
            || authority.is_empty()
            || !is_authority(authority.as_bytes())
        {
            return Err(invalid());
        }
        (Some(authority), local)
    };
    if local.contains('#') {
        return Err(invalid());
    }
    let (path, query) =
        local.split_once('?').map_or((local, None), |(path, query)| (path, Some(query)));
    let path = if path.is_empty() { "/" } else { path };
    Ok((authority, path.to_owned(), query.map(str::to_owned)))
}
