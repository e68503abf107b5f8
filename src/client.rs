//! The other end of the HTTP API: what the subcommands ask a running service.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, Result};

/// Longest wait for an answer; `?wait=true` takes up to 30 s by itself.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Tries of a request that was pushed back, and the pause between them.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);
/// Largest answer read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A running service. Connections are kept and used again.
pub struct Client {
    agent: ureq::Agent,
    base: String,
}

impl Client {
    /// The service at `url`, such as `http://127.0.0.1:8000`.
    ///
    /// # Errors
    /// [`Error::Config`] when that is no such URL.
    pub fn new(url: &str) -> Result<Self> {
        Self::with_timeout(url, TIMEOUT)
    }

    /// As [`Client::new`], with another longest wait for an answer.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_timeout(url: &str, timeout: Duration) -> Result<Self> {
        if !url.starts_with("http://") {
            return Err(Error::Config(format!(
                "--url is {url:?}, allowed is an address such as http://127.0.0.1:8000"
            )));
        }
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_idle_age(Duration::from_secs(30))
            .build();
        Ok(Self { agent: config.into(), base: url.trim_end_matches('/').to_owned() })
    }

    /// Posts a JSON body and reads the JSON answer.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when nobody answers or the service is busy, [`Error::Invalid`] with
    /// the service's own words when it refuses.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(path, "application/json", body.to_string().as_bytes())
    }

    /// Posts events, a line each, and reads the answer; when the service is busy, tries again
    /// for a minute.
    ///
    /// # Errors
    /// As [`Client::post`].
    pub fn post_lines(&self, path: &str, lines: &[u8]) -> Result<Value> {
        let mut tries = 1;
        loop {
            match self.send(path, "application/x-ndjson", lines) {
                Err(Error::Unavailable(_)) if tries < TRIES => {
                    tries += 1;
                    std::thread::sleep(PAUSE);
                }
                other => return other,
            }
        }
    }

    fn send(&self, path: &str, media: &str, body: &[u8]) -> Result<Value> {
        let url = format!("{}{path}", self.base);
        let unreachable = |error: ureq::Error| {
            Error::Unavailable(format!(
                "no answer from {}: {error}; is the service running there?",
                self.base
            ))
        };
        let mut response =
            self.agent.post(&url).content_type(media).send(body).map_err(unreachable)?;
        let status = response.status().as_u16();
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()
            .map_err(unreachable)?;
        let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let detail = || {
            let detail = answer["detail"].as_str().unwrap_or("no reason given");
            format!("{} answered {status}: {detail}", self.base)
        };
        match status {
            200..=299 => Ok(answer),
            // 502 and 504 are a proxy's words for a service that is away.
            429 | 502..=504 => Err(Error::Unavailable(detail())),
            _ => Err(Error::invalid("", detail())),
        }
    }
}

/// Whether the service at `address` answers at all, with whatever status.
pub fn is_alive(address: SocketAddr, timeout: Duration) -> bool {
    let answered = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 8];
        stream.read_exact(&mut start)?;
        Ok(&start == b"HTTP/1.1")
    };
    answered().unwrap_or(false)
}
