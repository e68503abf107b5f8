//! The HTTP API: routes, JSON in, JSON out, errors as RFC 9457 problems.
//!
//! Predictions are answered from the published snapshot and never wait for the learner. Whatever
//! changes something goes through the learner's queue. Lists are read from the database by a few
//! read-only connections.
//!
#![doc = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/README.md"))]

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use rand::RngExt;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::learner::{Inbox, LearnerOptions, Now, Shared};
use crate::logging::RequestScope;
use crate::outcome::feedback::Evaluations;
use crate::outcome::{DEFAULT_TENANT, NAME_BYTES_MAX, kept_name, tidy};
use crate::sources::formats;
use crate::sources::kafka::{Producer, View};
use crate::sources::otlp::Otlp;
use crate::store::Reader;
use crate::watch::alerts::Board;

pub mod access;
mod agents;
mod alerts;
mod answers;
mod budgets;
mod catalog;
pub mod client;
mod dashboard;
mod decisions;
mod dry_run;
mod evaluate;
mod event;
mod feedback;
mod lists;
mod litellm;
mod mcp;
mod models;
mod objective;
mod ofrep;
mod openapi;
mod operation;
mod otlp;
mod outcomes;
mod pareto;
mod plots;
mod predict;
mod prometheus;
mod route;
mod routes;
pub mod server;
mod status;
mod values;

use access::{Access, Caller};
use predict::Questions;
use route::Route;
use route::{Call, Matched, NOWHERE};
use routes::ROUTES;
use server::{FieldProblem, Request, Response};

/// Largest body of a request that carries no outcomes, in bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Seconds after which a client that was pushed back should try again.
const RETRY_AFTER_S: &str = "1";
/// Where those ask who watch the service: answered also when there are too many connections.
pub const PROBES: &[&str] = &["/livez", "/readyz", "/metrics"];
/// Longest page of a list.
const LIMIT_MAX: u32 = 1_000;
/// Length of a page that nobody asked for.
const LIMIT_DEFAULT: u32 = 100;
const JSON: &str = "application/json";

/// Both ends of the topic, as handlers need them.
pub struct Kafka {
    /// Takes outcomes.
    pub producer: Arc<Producer>,
    /// Shows how far they have come back.
    pub view: Arc<View>,
}

/// Where records come from beside the API itself.
#[derive(Default)]
pub struct Sources {
    /// The topic.
    pub kafka: Option<Kafka>,
    /// Telemetry.
    pub otlp: Option<Otlp>,
    /// What LiteLLM reports.
    pub litellm: Option<formats::Reader>,
}

/// What of the configuration the handlers go by.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "config::OPTIONS describes them")]
pub struct AppOptions {
    pub storage_path: PathBuf,
    pub learner: LearnerOptions,
    pub decision_wait: Duration,
    /// Unless a request has its own.
    pub explore_min: f64,
    pub evaluations: Evaluations,
    pub kafka_topic: String,
    /// Agents that `/metrics` shows one by one.
    pub metrics_agents_max: usize,
    /// Time between samples, for plots over time.
    pub sample_interval: Option<Duration>,
}

/// What handlers share. Every thread of the server calls [`App::handle`].
pub struct App {
    routes: &'static [Route],
    access: Arc<Access>,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    reader: Arc<Reader>,
    options: AppOptions,
    kafka: Option<Kafka>,
    otlp: Option<Otlp>,
    litellm: Option<formats::Reader>,
    started: Instant,
    /// When the service started, Unix time in ms.
    started_ms: i64,
    board: Arc<Board>,
    stopping: AtomicBool,
    /// Disconnected at the stop.
    stop_rx: Receiver<()>,
    questions: Questions,
    digests: models::Digests,
    /// Held while a policy is evaluated.
    evaluating: Mutex<()>,
}

impl App {
    /// The handlers of a service; with Kafka, outcomes go to its topic. `stop_rx` is disconnected when it stops.
    pub fn new(
        options: AppOptions,
        access: Arc<Access>,
        inbox: Arc<Inbox>,
        shared: Arc<Shared>,
        Sources { kafka, otlp, litellm }: Sources,
        board: Arc<Board>,
        stop_rx: Receiver<()>,
    ) -> Self {
        Self {
            routes: ROUTES,
            access,
            inbox,
            shared,
            reader: Arc::new(Reader::new(&options.storage_path)),
            options,
            kafka,
            otlp,
            litellm,
            started: Instant::now(),
            started_ms: Now::read().unix_ms,
            board,
            stopping: AtomicBool::new(false),
            stop_rx,
            questions: Questions::default(),
            digests: models::Digests::default(),
            evaluating: Mutex::new(()),
        }
    }

    /// From now on every request is answered with 503, and the connection closed.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Answers one request.
    pub fn handle(&self, request: &mut Request<'_>) -> Response {
        let started = Now::read();
        let id = match access::sane_request_id(request.header("x-request-id")) {
            Some(id) => id.to_owned(),
            None => new_id(started.unix_ms),
        };
        let _scope = RequestScope::begin(&id);
        let mut caller = Caller::default();
        let response = self.answer(request, started.instant, &mut caller);
        log::debug!(
            "request=answered route={} status={} token={} ms={:.3}",
            Matched::of(self.routes, request.path()).pattern(),
            response.status,
            caller.name(),
            started.instant.elapsed().as_secs_f64() * 1_000.0
        );
        access::finished(response, &id)
    }

    /// Finishes an answer of the server itself: to what is no request, or is one too many.
    pub fn finish(&self, response: Response) -> Response {
        let id = new_id(Now::read().unix_ms);
        let _scope = RequestScope::begin(&id);
        log::debug!("request=refused status={}", response.status);
        self.shared.instruments.http_requests(NOWHERE, response.status).inc();
        access::finished(response, &id)
    }

    fn answer(&self, request: &mut Request<'_>, now: Instant, caller: &mut Caller) -> Response {
        let matched = Matched::of(self.routes, request.path());
        let pattern = matched.pattern();
        let response = self.admit(matched, request, now, caller).unwrap_or_else(|failure| {
            if let Some(reason) = failure.denied {
                self.shared.instruments.http_refused(reason).inc();
            }
            failure.response
        });
        self.shared.instruments.http_requests(pattern, response.status).inc();
        if self.stopping.load(Ordering::SeqCst) { response.closing() } else { response }
    }

    /// Answers a request whose caller may ask it.
    fn admit(
        &self,
        matched: Matched,
        request: &mut Request<'_>,
        now: Instant,
        caller: &mut Caller,
    ) -> Answer {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(unavailable("the service is stopping").into());
        }
        self.access.check_browser(request.header("host"), request.header("origin"))?;
        if matched.is_empty() {
            return Err(nothing_at(request.path()).into());
        }
        let asked = if request.method() == "HEAD" { "GET" } else { request.method() };
        let allowed = matched.methods();
        let Some((route, names)) = matched.taking(asked) else {
            let detail = format!("{} takes {}", shown(request.path()), allowed.join(" and "));
            let allow = allowed.join(", ").replace("GET", "GET, HEAD");
            return Err(Response::problem(405, detail).with_header("allow", allow).into());
        };
        let (method, need) = (route.method, route.need.with(request.query()));
        *caller = self.access.authorize(request.header("authorization"), need, now)?;
        let answer = match check_conditions(request, method) {
            Ok(()) => (route.handler)(self, &mut Call { request, caller, names }),
            Err(failure) => Err(failure),
        };
        if method != "GET" && need.is_admin() {
            let status = answer.as_ref().unwrap_or_else(|failure| &failure.response).status;
            log::info!(
                "admin=acted token={} method={method} path={:?} status={status}",
                caller.name(),
                shown(request.path())
            );
        }
        answer
    }
}

/// An answer, or the answer to a request that failed.
type Answer = std::result::Result<Response, Failure>;

/// The answer to a request that failed; made from any error by `?`.
struct Failure {
    response: Response,
    /// Why it was not allowed, where that is why; see [`access::REASONS`].
    denied: Option<&'static str>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::from(match error {
            Error::Invalid { pointer, detail } => problem(422, &pointer, &detail),
            Error::NotFound(text) => Response::problem(404, text),
            Error::Conflict(text) => Response::problem(409, text),
            Error::Unavailable(text) => unavailable(&text),
            Error::Config(text)
            | Error::InUse(text)
            | Error::Corrupt(text)
            | Error::Fatal(text) => {
                log::error!("request=failed error=\"{text}\"");
                Response::problem(500, "the service failed; its log says why")
            }
        })
    }
}

impl From<access::Denied> for Failure {
    fn from(denied: access::Denied) -> Self {
        Self { denied: Some(denied.reason()), response: denied.into() }
    }
}

impl From<Response> for Failure {
    fn from(response: Response) -> Self {
        Self { response, denied: None }
    }
}

impl From<server::BodyError> for Failure {
    fn from(error: server::BodyError) -> Self {
        Response::from(error).into()
    }
}

fn unavailable(detail: &str) -> Response {
    Response::problem(503, detail).with_header("retry-after", RETRY_AFTER_S)
}

/// A problem of one field.
fn problem(status: u16, pointer: &str, detail: &str) -> Response {
    let full = if pointer.is_empty() { detail.to_owned() } else { format!("{pointer}: {detail}") };
    let field = FieldProblem { pointer: pointer.to_owned(), detail: detail.to_owned() };
    Response::problem_of_fields(status, full, vec![field])
}

fn json_response(status: u16, body: &impl Serialize) -> Response {
    Response::serialized(status, body).unwrap_or_else(|error| no_json_form(&error))
}

/// A problem document with members of its own.
fn problem_response(status: u16, problem: &impl Serialize) -> Response {
    Response::problem_with(status, problem).unwrap_or_else(|error| no_json_form(&error))
}

fn no_json_form(error: &serde_json::Error) -> Response {
    log::error!("answer=failed error=\"{error}\"");
    Response::problem(500, "the answer has no JSON form")
}

/// The answer where a path names nothing.
fn nothing_at(path: &str) -> Response {
    Response::problem(404, format!("there is nothing at {}", shown(path)))
}

/// A path in a message: no longer than a line.
fn shown(path: &str) -> String {
    path.chars().take(200).collect()
}

/// A name as outcomes have it.
fn kept<'a>(field: &str, name: &'a str) -> Result<Cow<'a, str>> {
    kept_name(name).ok_or_else(|| {
        let detail = match tidy(name).len() {
            0 if !name.is_empty() => "is blank, a name is more than that".to_owned(),
            bytes => format!("has {bytes} bytes, allowed are 1 to {NAME_BYTES_MAX}"),
        };
        Error::invalid(field, detail)
    })
}

/// Parameters that are names of agents, task types or tenants.
const NAMES: [&str; 2] = ["task_type", "tenant_id"];

/// The parameters of a query string; names among them as outcomes have them.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(request: &Request<'_>) -> Self {
        let query = request.query().unwrap_or_default();
        let parameters = form_urlencoded::parse(query.as_bytes()).into_owned();
        let tidied = parameters.map(|(key, value)| match kept_name(&value) {
            Some(name) if NAMES.contains(&&*key) => (key, name.into_owned()),
            _ => (key, value),
        });
        Self(tidied.collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A name of 1 to 256 bytes.
    fn name(&self, name: &str) -> Result<Option<&str>> {
        match self.get(name) {
            Some(value) => kept(name, value).map(|_| Some(value)),
            None => Ok(None),
        }
    }

    /// The tenant to answer for.
    fn tenant<'a>(&'a self, caller: &'a Caller) -> std::result::Result<&'a str, Failure> {
        Ok(caller.tenant_or(self.name("tenant_id")?)?.unwrap_or(DEFAULT_TENANT))
    }

    fn flag(&self, name: &str) -> Result<bool> {
        let Some(value) = self.get(name) else { return Ok(false) };
        // Python writes True.
        match value.to_ascii_lowercase().as_str() {
            "false" | "0" | "no" | "off" => Ok(false),
            "true" | "1" | "yes" | "on" | "" => Ok(true),
            _ => Err(Error::invalid(name, format!("is {value:?}, allowed are true and false"))),
        }
    }

    fn limit(&self) -> Result<u32> {
        let Some(text) = self.get("limit") else { return Ok(LIMIT_DEFAULT) };
        match text.parse() {
            Ok(limit @ 1..=LIMIT_MAX) => Ok(limit),
            _ => Err(Error::invalid("limit", format!("is {text:?}, allowed is 1 to {LIMIT_MAX}"))),
        }
    }
}

/// Refuses header fields that would change what a request means and are not honoured here.
fn check_conditions(request: &Request<'_>, method: &str) -> std::result::Result<(), Failure> {
    if method == "GET" {
        return Ok(());
    }
    if request.header("content-range").is_some() {
        let detail = "content-range is set, but parts of a body are not taken: send all of it";
        return Err(Response::problem(400, detail).into());
    }
    for name in ["if-match", "if-none-match"] {
        if request.header(name).is_some() {
            // Nothing here has an entity tag that could match, nor can its absence be promised.
            let detail = format!("{name} is set, but nothing here has an entity tag");
            return Err(Response::problem(412, detail).into());
        }
    }
    Ok(())
}

/// The media type of a request, without parameters, in lower case.
fn media_type(request: &Request<'_>) -> String {
    let value = request.header("content-type").unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn unsupported_media_type(seen: &str, allowed: &str) -> Failure {
    let seen = if seen.is_empty() { "missing".to_owned() } else { format!("{seen:?}") };
    let detail = format!("content-type is {seen}, allowed is {allowed}");
    Response::problem(415, detail).into()
}

/// The body of a request that takes JSON; `None` when there is none.
fn json_body(request: &mut Request<'_>) -> std::result::Result<Option<server::Body>, Failure> {
    if !request.has_body() {
        return Ok(None);
    }
    let media = media_type(request);
    if media != JSON {
        return Err(unsupported_media_type(&media, JSON));
    }
    Ok(Some(request.read_body(BODY_BYTES_MAX)?))
}

/// The JSON object of a body; an empty one without a body.
fn json_object(body: Option<&[u8]>) -> std::result::Result<Map<String, Value>, Failure> {
    match serde_json::from_slice(body.unwrap_or(b"{}")) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::invalid("", "the body is JSON, but allowed is an object").into()),
        Err(error) => Err(Response::problem(400, format!("the body is not JSON: {error}")).into()),
    }
}

/// A new `UUIDv7` (RFC 9562, section 5.7). The uuid crate's own generator asks the system for random
/// bytes each time.
fn new_id(unix_ms: i64) -> String {
    let random: [u8; 10] = rand::rng().random();
    let unix_ms = u64::try_from(unix_ms).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid().to_string()
}

/// A page of a list, and what its `next_before` says. `items` holds one more than `limit` where there
/// are more.
fn page<T>(
    mut items: Vec<T>,
    limit: u32,
    id: impl FnOnce(&T) -> String,
) -> (Vec<T>, Option<String>) {
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next = items.last().filter(|_| more).map(id);
    (items, next)
}
