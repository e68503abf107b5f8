//! What can go wrong, one variant per reaction of the caller.
//!
//! Code branches on the variant, never on the text. A text names the thing, the value seen and
//! what is allowed.

use std::fmt;
use std::io::Write;

/// An error, named after what its receiver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The configuration is wrong: the operator mends it and starts again (exit code 2).
    Config(String),
    /// The caller's request is wrong: HTTP 422, or the refusal of a record.
    Invalid {
        /// JSON pointer to the field that is wrong; empty for the whole.
        pointer: String,
        /// The value seen and what is allowed.
        detail: String,
    },
    /// The named thing does not exist: HTTP 404.
    NotFound(String),
    /// The request contradicts what is there: HTTP 409.
    Conflict(String),
    /// It may work later: retry with backoff, HTTP 503.
    Unavailable(String),
    /// Another process holds what this one needs: end it with exit code 1.
    InUse(String),
    /// Stored data can't be trusted: stop, touch nothing, tell the operator.
    Corrupt(String),
    /// This process can't go on: end it with exit code 1, so that it is started afresh.
    Fatal(String),
}

impl Error {
    /// An [`Error::Invalid`] for the field at `pointer`.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid { pointer: pointer.into(), detail: detail.into() }
    }

    /// What a command fails with when nobody reads what it prints.
    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    pub fn unprinted(error: std::io::Error) -> Self {
        Self::Fatal(format!("can't print: {error}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { pointer, detail } if !pointer.is_empty() => {
                write!(f, "{pointer}: {detail}")
            }
            Self::Config(text)
            | Self::Invalid { detail: text, .. }
            | Self::NotFound(text)
            | Self::Conflict(text)
            | Self::Unavailable(text)
            | Self::InUse(text)
            | Self::Corrupt(text)
            | Self::Fatal(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

/// The result of what can fail in one of the ways above.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what is wrong to whoever started the program: one line, whatever names are in it. If nobody
/// reads it, the exit code still tells.
pub fn complain(text: &str) {
    let line = crate::logging::one_line(text);
    let _ = writeln!(std::io::stderr(), "online-learning: {line}");
}
