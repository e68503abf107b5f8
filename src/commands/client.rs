//! The other end of the HTTP API: what the subcommands ask a running service.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueHint};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::outcome::tidy;

/// Longest wait for an answer; `?wait=true` takes up to 30 s by itself.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Tries of a request that was pushed back, and the pause between them.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);
/// Largest answer read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The running service that is asked.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    /// Address of the running service
    #[arg(
        long,
        env = "ONLINE_LEARNING_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8000"
    )]
    pub url: String,
    /// The token.
    #[command(flatten)]
    pub token: TokenArgs,
}

impl ServiceArgs {
    /// A client of it.
    ///
    /// # Errors
    /// As [`Client::new`] and [`Client::with_token_file`].
    pub fn client(&self) -> Result<Client> {
        self.token.client(&self.url)
    }
}

/// The token for a running service.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// File with the token that the service wants
    #[arg(long, env = "ONLINE_LEARNING_TOKEN_FILE", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,
}

impl TokenArgs {
    /// A client of the service at `url`.
    ///
    /// # Errors
    /// As [`Client::new`] and [`Client::with_token_file`].
    pub fn client(&self, url: &str) -> Result<Client> {
        Client::new(url)?.with_token_file(self.token_file.as_deref())
    }
}

/// A running service. Connections are kept and used again.
pub struct Client {
    agent: ureq::Agent,
    base: String,
    /// The value of `Authorization`, where there is a token.
    authorization: Option<String>,
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
        Ok(Self {
            agent: config.into(),
            base: url.trim_end_matches('/').to_owned(),
            authorization: None,
        })
    }

    /// The same client with the token that stands in the first line of a file, if one is named.
    ///
    /// # Errors
    /// [`Error::Config`] when the file can't be read or holds no token.
    pub fn with_token_file(mut self, file: Option<&Path>) -> Result<Self> {
        let Some(file) = file else { return Ok(self) };
        let wrong = |why: &str| Error::Config(format!("--token-file {}: {why}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| wrong(&error.to_string()))?;
        let token = text.lines().next().unwrap_or_default().trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("its first line is no token"));
        }
        self.authorization = Some(format!("Bearer {token}"));
        Ok(self)
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

    /// Posts a JSON text as it is and reads the JSON answer.
    ///
    /// # Errors
    /// As [`Client::post`].
    pub fn post_bytes(&self, path: &str, json: &[u8]) -> Result<Value> {
        self.send(path, "application/json", json)
    }

    /// Reads the JSON answer at `path`.
    ///
    /// # Errors
    /// As [`Client::post`].
    pub fn get(&self, path: &str) -> Result<Value> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.answer(request.call())
    }

    /// Posts a message whose answer tells by itself what went wrong, with header fields of its own.
    ///
    /// # Errors
    /// As [`Client::post`], where nothing but the status tells it.
    pub fn message(&self, path: &str, json: &str, headers: &[(&str, &str)]) -> Result<Value> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        request = request.content_type("application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.answer(request.send(json.as_bytes()))
    }

    fn send(&self, path: &str, media: &str, body: &[u8]) -> Result<Value> {
        let mut request = self.agent.post(format!("{}{path}", self.base)).content_type(media);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.answer(request.send(body))
    }

    fn answer(
        &self,
        response: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value> {
        let unreachable = |error: ureq::Error| {
            Error::Unavailable(format!(
                "no answer from {}: {error}; is the service running there?",
                self.base
            ))
        };
        let mut response = response.map_err(unreachable)?;
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
            // Of events of which none was understood it tells as much as of others.
            422 if answer["rejected"].is_array() => Ok(answer),
            400 | 404 if answer["jsonrpc"].is_string() => Ok(answer),
            // 502 and 504 are a proxy's words for a service that is away.
            429 | 502..=504 => Err(Error::Unavailable(detail())),
            _ => Err(Error::invalid("", detail())),
        }
    }
}

/// A request for agents as it was typed.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The request, its context in words.
    pub body: Value,
    /// The keys of the context whose values are words: what they mean, the service knows.
    pub words: Vec<String>,
}

impl Question {
    /// The request, with a number or a boolean where the service knows a key as one: `3.10` may be the
    /// number or a version, and only one of them is what outcomes say.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn body(&self, client: &Client) -> Result<Value> {
        let mut body = self.body.clone();
        let read = |value: &Value| {
            let word = value.as_str().unwrap_or_default().trim();
            let typed = serde_json::from_str(&word.to_ascii_lowercase());
            typed.ok().filter(|value: &Value| value.is_boolean() || value.is_number())
        };
        if !self.words.iter().any(|key| read(&body["context"][key]).is_some()) {
            return Ok(body);
        }
        let tenant = body["tenant_id"].as_str().map_or_else(String::new, |tenant| {
            let mut query = form_urlencoded::Serializer::new("?".to_owned());
            query.append_pair("tenant_id", tenant).finish()
        });
        let catalog = client.get(&format!("/api/learning/catalog{tenant}"))?;
        let catalog = catalog.get("context_types");
        for key in &self.words {
            let Some(typed) = read(&body["context"][key]) else { continue };
            let means_it = match &catalog {
                Some(known) => match known[tidy(key).as_ref()].as_str() {
                    Some("number") => typed.is_number(),
                    Some("boolean") => typed.is_boolean(),
                    _ => false,
                },
                // A service of before it said so.
                None => true,
            };
            if means_it {
                body["context"][key] = typed;
            }
        }
        Ok(body)
    }
}
