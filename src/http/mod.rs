//! The HTTP API: routes, JSON in, JSON out, errors as RFC 9457 problems.
//!
//! Predictions are answered from the published snapshot and never wait for the learner. Whatever
//! changes something goes through the learner's queue. Lists are read from the database by a few
//! read-only connections.

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
use crate::model::Measure;
use crate::outcome::{DEFAULT_TENANT, NAME_BYTES_MAX, kept_name, tidy};
use crate::sources::kafka::{Producer, View};
use crate::store::Reader;
use crate::watch::alerts::Board;

pub mod access;
mod agents;
mod alerts;
mod answers;
mod budgets;
mod catalog;
mod dashboard;
mod decisions;
mod dry_run;
mod evaluate;
mod lists;
mod models;
mod objective;
mod openapi;
mod outcomes;
mod pareto;
mod plots;
mod predict;
mod prometheus;
pub mod server;
mod status;
mod values;

use access::{Access, Caller, Need, Scope};
use answers::Probe;
use dashboard::Page;
use plots::Plot;
use predict::Questions;
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

/// What of the configuration the handlers go by.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "config::OPTIONS describes them")]
pub struct AppOptions {
    pub storage_path: PathBuf,
    pub learner: LearnerOptions,
    pub decision_wait: Duration,
    /// Unless a request has its own.
    pub explore_min: f64,
    pub kafka_topic: String,
    /// Agents that `/metrics` shows one by one.
    pub metrics_agents_max: usize,
    /// Time between samples, for plots over time.
    pub sample_interval: Option<Duration>,
}

/// What handlers share. Every thread of the server calls [`App::handle`].
pub struct App {
    access: Arc<Access>,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    reader: Arc<Reader>,
    options: AppOptions,
    kafka: Option<Kafka>,
    started: Instant,
    /// The same as Unix time, ms.
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
        kafka: Option<Kafka>,
        board: Arc<Board>,
        stop_rx: Receiver<()>,
    ) -> Self {
        Self {
            access,
            inbox,
            shared,
            reader: Arc::new(Reader::new(&options.storage_path)),
            options,
            kafka,
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
            Route::of(request.path()).map_or(Route::NOWHERE, |route| route.pattern()),
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
        self.shared.instruments.http_requests(Route::NOWHERE, response.status).inc();
        access::finished(response, &id)
    }

    fn answer(&self, request: &mut Request<'_>, now: Instant, caller: &mut Caller) -> Response {
        let route = Route::of(request.path());
        let pattern = route.as_ref().map_or(Route::NOWHERE, Route::pattern);
        let response = self.admit(route, request, now, caller).unwrap_or_else(|failure| {
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
        route: Option<Route>,
        request: &mut Request<'_>,
        now: Instant,
        caller: &mut Caller,
    ) -> Answer {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(unavailable("the service is stopping").into());
        }
        self.access.check_browser(request.header("host"), request.header("origin"))?;
        // An agent may be called as one of our paths is.
        let route = match (route, request.method()) {
            (Some(Route::AgentsPerformance), "DELETE") => {
                Some(Route::Agent("performance".to_owned()))
            }
            (Some(Route::AgentsPareto), "DELETE") => Some(Route::Agent("pareto".to_owned())),
            (route, _) => route,
        };
        let Some(route) = route else {
            let detail = format!("there is nothing at {}", shown(request.path()));
            return Err(Response::problem(404, detail).into());
        };
        let allowed = route.methods();
        let asked = if request.method() == "HEAD" { "GET" } else { request.method() };
        let Some(&method) = allowed.iter().find(|method| **method == asked) else {
            let detail = format!("{} takes {}", shown(request.path()), allowed.join(" and "));
            let allow = allowed.join(", ").replace("GET", "GET, HEAD");
            return Err(Response::problem(405, detail).with_header("allow", allow).into());
        };
        let need = route.need(method, request.query());
        *caller = self.access.authorize(request.header("authorization"), need, now)?;
        let answer = match check_conditions(request, method) {
            Ok(()) => self.route(&route, request, caller),
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

    fn route(&self, route: &Route, request: &mut Request<'_>, caller: &Caller) -> Answer {
        match route {
            Route::PredictAgentSelection => self.predict_agent_selection(request, caller),
            Route::PredictValue(measure) => self.predict_value(*measure, request, caller),
            Route::Metrics => self.metrics(),
            Route::Prometheus => self.prometheus(request),
            Route::AgentsPerformance => self.agents_performance(request, caller),
            Route::AgentsPareto => self.pareto(request, caller),
            Route::Agent(name) => self.remove_agent(name, request, caller),
            Route::Status => Ok(self.status(caller)),
            Route::SaveModels => self.save_models(request),
            Route::Model(model_type) => self.model(model_type),
            Route::Versions(model_type) => self.versions(model_type, request),
            Route::Activate(model_type, id) => self.activate(model_type, id, request),
            Route::ImportModel => self.import_model(request),
            Route::Outcomes => self.outcomes(request, caller),
            Route::Events => self.learning_events(request),
            Route::Evaluate => self.evaluate(request),
            Route::Decisions => self.decisions(request, caller),
            Route::Decision(id) => self.decision(id, request, caller),
            Route::DeadLetters => self.dead_letters(request),
            Route::ReplayDeadLetters => self.replay_dead_letters(request),
            Route::Alerts => self.alerts(request),
            Route::Catalog => self.catalog(request, caller),
            Route::Plot(plot) => self.plot(*plot, request, caller),
            Route::Page(page) => Ok(page.response()),
            Route::Budgets => Ok(self.list_budgets(caller)),
            Route::Budget(tenant) => self.budget(tenant, request, caller),
            Route::Livez => Ok(json_response(200, &Probe { status: "ok", verbose: None })),
            Route::Readyz => self.readyz(request, caller),
            Route::Health => Ok(self.health(caller)),
            Route::OpenApi => Ok(self.openapi()),
        }
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
            Error::Config(text) | Error::Corrupt(text) | Error::Fatal(text) => {
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
    Response::serialized(status, body).unwrap_or_else(|error| {
        log::error!("answer=failed error=\"{error}\"");
        Response::problem(500, "the answer has no JSON form")
    })
}

/// A path in a message: no longer than a line.
fn shown(path: &str) -> String {
    path.chars().take(200).collect()
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    PredictAgentSelection,
    PredictValue(Measure),
    Metrics,
    AgentsPerformance,
    AgentsPareto,
    Agent(String),
    Status,
    SaveModels,
    Model(String),
    Versions(String),
    Activate(String, String),
    ImportModel,
    Outcomes,
    Events,
    Evaluate,
    Decisions,
    Decision(String),
    DeadLetters,
    ReplayDeadLetters,
    Alerts,
    Catalog,
    Plot(Plot),
    Page(Page),
    Budgets,
    Budget(String),
    Livez,
    Readyz,
    Health,
    Prometheus,
    OpenApi,
}

impl Route {
    /// Stands for every path that names nothing.
    const NOWHERE: &str = "other";
    /// What [`Route::pattern`] may say.
    const PATTERNS: [&str; 35] = [
        "/api/learning/predict/agent-selection",
        "/api/learning/predict/quality",
        "/api/learning/predict/latency",
        "/api/learning/predict/cost",
        "/api/learning/metrics",
        "/api/learning/agents/performance",
        "/api/learning/agents/pareto",
        "/api/learning/agents/{name}",
        "/api/learning/status",
        "/api/learning/models/save",
        "/api/learning/models/{model_type}",
        "/api/learning/models/{model_type}/versions",
        "/api/learning/models/{model_type}/versions/{id}/activate",
        "/api/learning/models/import",
        "/api/learning/outcomes",
        "/api/learning/events",
        "/api/learning/evaluate",
        "/api/learning/decisions",
        "/api/learning/decisions/{id}",
        "/api/learning/dead-letters",
        "/api/learning/dead-letters/replay",
        "/api/learning/alerts",
        "/api/learning/catalog",
        "/plots/{plot}.svg",
        "/",
        "/dashboard.js",
        "/dashboard.css",
        "/api/learning/budgets",
        "/api/learning/budgets/{tenant_id}",
        "/livez",
        "/readyz",
        "/health",
        "/metrics",
        "/openapi.json",
        Self::NOWHERE,
    ];

    /// The path with names in the place of what varies, of which there are few.
    fn pattern(&self) -> &'static str {
        match self {
            Self::PredictAgentSelection => "/api/learning/predict/agent-selection",
            Self::PredictValue(Measure::Quality) => "/api/learning/predict/quality",
            Self::PredictValue(Measure::Latency) => "/api/learning/predict/latency",
            Self::PredictValue(Measure::Cost) => "/api/learning/predict/cost",
            Self::Metrics => "/api/learning/metrics",
            Self::AgentsPerformance => "/api/learning/agents/performance",
            Self::AgentsPareto => "/api/learning/agents/pareto",
            Self::Agent(_) => "/api/learning/agents/{name}",
            Self::Status => "/api/learning/status",
            Self::SaveModels => "/api/learning/models/save",
            Self::Model(_) => "/api/learning/models/{model_type}",
            Self::Versions(_) => "/api/learning/models/{model_type}/versions",
            Self::Activate(..) => "/api/learning/models/{model_type}/versions/{id}/activate",
            Self::ImportModel => "/api/learning/models/import",
            Self::Outcomes => "/api/learning/outcomes",
            Self::Events => "/api/learning/events",
            Self::Evaluate => "/api/learning/evaluate",
            Self::Decisions => "/api/learning/decisions",
            Self::Decision(_) => "/api/learning/decisions/{id}",
            Self::DeadLetters => "/api/learning/dead-letters",
            Self::ReplayDeadLetters => "/api/learning/dead-letters/replay",
            Self::Alerts => "/api/learning/alerts",
            Self::Catalog => "/api/learning/catalog",
            Self::Plot(_) => "/plots/{plot}.svg",
            Self::Page(page) => page.path(),
            Self::Budgets => "/api/learning/budgets",
            Self::Budget(_) => "/api/learning/budgets/{tenant_id}",
            Self::Livez => "/livez",
            Self::Readyz => "/readyz",
            Self::Health => "/health",
            Self::Prometheus => "/metrics",
            Self::OpenApi => "/openapi.json",
        }
    }

    fn of(path: &str) -> Option<Self> {
        // With or without a slash at the end.
        let path = match path.strip_suffix('/') {
            Some(path) if !path.is_empty() && !path.ends_with('/') => path,
            _ => path,
        };
        let route = match path {
            "/livez" => Self::Livez,
            "/readyz" => Self::Readyz,
            "/health" => Self::Health,
            "/metrics" => Self::Prometheus,
            "/openapi.json" => Self::OpenApi,
            _ => {
                if let Some(file) = path.strip_prefix("/plots/") {
                    return Plot::of(file).map(Self::Plot);
                }
                if let Some(page) = Page::of(path) {
                    return Some(Self::Page(page));
                }
                let rest = path.strip_prefix("/api/learning/")?;
                let segments: Vec<&str> = rest.split('/').collect();
                match segments[..] {
                    ["predict", "agent-selection"] => Self::PredictAgentSelection,
                    ["predict", "quality"] => Self::PredictValue(Measure::Quality),
                    ["predict", "latency"] => Self::PredictValue(Measure::Latency),
                    ["predict", "cost"] => Self::PredictValue(Measure::Cost),
                    ["metrics"] => Self::Metrics,
                    ["agents", "performance"] => Self::AgentsPerformance,
                    ["agents", "pareto"] => Self::AgentsPareto,
                    ["agents", name] => Self::Agent(decoded(name)?),
                    ["status"] => Self::Status,
                    ["models", "save"] => Self::SaveModels,
                    ["models", "import"] => Self::ImportModel,
                    ["models", model] => Self::Model(decoded(model)?),
                    ["models", model, "versions"] => Self::Versions(decoded(model)?),
                    ["models", model, "versions", id, "activate"] => {
                        Self::Activate(decoded(model)?, decoded(id)?)
                    }
                    ["outcomes"] => Self::Outcomes,
                    ["events"] => Self::Events,
                    ["evaluate"] => Self::Evaluate,
                    ["decisions"] => Self::Decisions,
                    ["decisions", id] => Self::Decision(decoded(id)?),
                    ["dead-letters"] => Self::DeadLetters,
                    ["dead-letters", "replay"] => Self::ReplayDeadLetters,
                    ["alerts"] => Self::Alerts,
                    ["catalog"] => Self::Catalog,
                    ["budgets"] => Self::Budgets,
                    ["budgets", tenant] => Self::Budget(decoded(tenant)?),
                    _ => return None,
                }
            }
        };
        Some(route)
    }

    /// What a caller needs, where there are tokens. Each route says so itself: a new one can't be
    /// forgotten.
    fn need(&self, method: &str, query: Option<&str>) -> Need {
        match self {
            Self::Budget(_) if method != "GET" => Need::AllTenants(Scope::Admin),
            // A tenant's own administrator removes its own.
            Self::Agent(_) => Need::Scope(Scope::Admin),
            // The description is the same everywhere; the page shows what its reader's token may see.
            Self::Livez | Self::OpenApi | Self::Page(_) => Need::Nothing,
            // What the verbose one tells is for those who run the service.
            Self::Readyz if query.is_none() => Need::Nothing,
            Self::Readyz
            | Self::Health
            | Self::Status
            | Self::PredictAgentSelection
            | Self::PredictValue(_)
            | Self::AgentsPerformance
            | Self::AgentsPareto
            | Self::Catalog
            | Self::Budgets
            | Self::Budget(_)
            | Self::Decisions
            | Self::Decision(_)
            | Self::Plot(Plot::Posterior | Plot::Best | Plot::Traffic | Plot::Latency) => {
                Need::Scope(Scope::Read)
            }
            Self::Outcomes => Need::Scope(Scope::Ingest),
            // What these show is of all tenants together.
            Self::Plot(Plot::Score | Plot::Calibration)
            | Self::Metrics
            | Self::Prometheus
            | Self::Model(_)
            | Self::Versions(_)
            | Self::Evaluate
            | Self::Alerts
            | Self::Events => Need::AllTenants(Scope::Read),
            Self::SaveModels
            | Self::Activate(..)
            | Self::ImportModel
            | Self::DeadLetters
            | Self::ReplayDeadLetters => Need::AllTenants(Scope::Admin),
        }
    }

    /// The methods that it takes; HEAD goes with GET.
    fn methods(&self) -> &'static [&'static str] {
        match self {
            Self::PredictAgentSelection
            | Self::PredictValue(_)
            | Self::SaveModels
            | Self::Activate(..)
            | Self::ImportModel
            | Self::Outcomes
            | Self::Evaluate
            | Self::ReplayDeadLetters => &["POST"],
            Self::Budget(_) => &["GET", "PUT", "DELETE"],
            Self::Agent(_) => &["DELETE"],
            _ => &["GET"],
        }
    }
}

/// A path segment without its percent signs; `None` for an empty one, and one that is no text.
fn decoded(segment: &str) -> Option<String> {
    let text = percent_encoding::percent_decode_str(segment).decode_utf8().ok()?;
    (!text.is_empty()).then(|| text.into_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_and_matched_whole() {
        let activate = |id: &str| Some(Route::Activate("agent_selection".into(), id.into()));
        let path =
            |id: &str| format!("/api/learning/models/agent_selection/versions/{id}/activate");
        assert_eq!(Route::of(&path("agent_selection-3")), activate("agent_selection-3"));
        assert_eq!(Route::of(&path("a%2Fb+c")), activate("a/b+c"));
        assert_eq!(Route::of("/api/learning/models/save"), Some(Route::SaveModels));
        for pattern in Route::PATTERNS {
            let path = pattern.replace("{model_type}", "agent_selection").replace("{id}", "1");
            let path = path.replace("{plot}", "score");
            let path = path.replace("{tenant_id}", "a").replace("{name}", "b");
            let seen = Route::of(&path).map_or(Route::NOWHERE, |route| route.pattern());
            assert_eq!(seen, pattern);
        }
        for nothing in [
            "",
            "/index.html",
            "/api/learning",
            "/api/learning/",
            "/api/learning/status//",
            "//",
            "/api/learning/agents//",
            "/api/learning/decisions/%ff",
            "/api/learning/models/a/b",
        ] {
            assert_eq!(Route::of(nothing), None, "{nothing}");
        }
        assert_eq!(Route::of("/api/learning/status/"), Some(Route::Status));
        assert_eq!(Route::of("/api/learning/decisions/"), Some(Route::Decisions));
        for (id, decoded) in [("a==", "a=="), ("a%3D=&b", "a==&b"), ("%20+%C3%A9/", " +é")] {
            let path = format!("/api/learning/decisions/{id}");
            assert_eq!(Route::of(&path), Some(Route::Decision(decoded.to_owned())));
        }
    }
}
