//! `GET /openapi.json`: what the API is, as `OpenAPI` 3.1, put together from the routes, from what they
//! need of a caller, and from the schemas of the types that are read and written.
//!
//! A route without a description does not compile. What is described is the same for every
//! configuration.

use std::sync::OnceLock;

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::access::{Need, Scope};
use super::answers::{self, DecisionBody, ExplainedDecision};
use super::budgets::BudgetRequest;
use super::dashboard::Page;
use super::dry_run::Tried;
use super::outcomes::ReplayRequest;
use super::plots::{HOURS_MAX, Plot};
use super::predict::PredictionRequest;
use super::server::{Problem, Response};
use super::{LIMIT_DEFAULT, LIMIT_MAX, Route};
use crate::evaluate::log::{PlanRequest, ReportBody};
use crate::learner::MODEL_TYPES;
use crate::model::Measure;
use crate::outcome::fields::Name;
use crate::plots::{WIDTH, WIDTHS};

mod event;

const JSON: &str = "application/json";
const SCHEMAS: &str = "/components/schemas";

/// The answers that every route may give: why, and the name under which they are described.
const PROBLEMS: [(u16, &str, &str); 15] = [
    (400, "BadRequest", "The request is not HTTP, or its body not what its type says"),
    (401, "Unauthorized", "A token is needed, or it is not known"),
    (403, "Forbidden", "The host, the origin, the token's scope or its tenant does not allow it"),
    (404, "NotFound", "What is named is not there"),
    (405, "MethodNotAllowed", "The path takes another method"),
    (408, "RequestTimeout", "The request took too long to arrive"),
    (409, "Conflict", "What is asked contradicts what was asked or is there"),
    (412, "PreconditionFailed", "It has a condition on entity tags, of which there are none here"),
    (413, "ContentTooLarge", "The body is too large, as sent or decoded"),
    (
        415,
        "UnsupportedMediaType",
        "The body is of a type, or of a coding other than gzip and zstd, that is not read here",
    ),
    (422, "UnprocessableContent", "A field or parameter has a value that is not allowed"),
    (429, "TooManyRequests", "The token asks more often than it may"),
    (431, "HeaderTooLarge", "The header section is too long"),
    (500, "InternalServerError", "The service failed; its log says why"),
    (503, "ServiceUnavailable", "A queue is full, the storage fails, or the service is stopping"),
];

impl super::App {
    #[expect(clippy::unused_self, reason = "it stands beside the other handlers")]
    pub(super) fn openapi(&self) -> Response {
        static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
        let text = TEXT.get_or_init(|| {
            serde_json::to_vec(&document()).expect("a JSON value always has a JSON form")
        });
        Response::json(200, text.clone())
    }
}

/// Collects the schemas of what is read and of what is written.
struct Schemas {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = SCHEMAS.into();
            settings.meta_schema = None;
        });
        Self {
            requests: settings.clone().for_deserialize().into_generator(),
            answers: settings.for_serialize().into_generator(),
        }
    }

    fn asked<T: JsonSchema>(&mut self) -> Schema {
        self.requests.subschema_for::<T>()
    }

    fn answered<T: JsonSchema>(&mut self) -> Schema {
        self.answers.subschema_for::<T>()
    }

    /// All by name.
    fn finish(mut self) -> Map<String, Value> {
        let mut all = self.answers.take_definitions(true);
        for (name, schema) in self.requests.take_definitions(true) {
            let same = all.insert(name.clone(), schema.clone()).is_none_or(|other| other == schema);
            assert!(same, "two types are called {name}");
        }
        all.sort_keys();
        all
    }
}

/// What a route takes and answers, beside what all of them do.
struct Operation {
    summary: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Vec<(u16, &'static str, Value)>,
    problems: Vec<u16>,
}

impl Operation {
    fn new(summary: &'static str) -> Self {
        Self {
            summary,
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// A parameter of the query. One that makes no sense is a 422.
    fn query(mut self, name: &str, description: &str, schema: impl Into<Value>) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "query", "description": description, "schema": schema.into(),
        }));
        self.problem(422)
    }

    /// The parameters of a list.
    fn page(self, before: &str, before_schema: Value) -> Self {
        let limit = json!({
            "type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT,
        });
        self.query("limit", "How many at most", limit).query("before", before, before_schema)
    }

    /// A body that may be left out.
    fn optional_json(self, schema: impl Into<Value>) -> Self {
        let body = json!({"content": {JSON: {"schema": schema.into()}}});
        self.body(body)
    }

    fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self.problem(413).problem(415).problem(422)
    }

    fn answer(mut self, status: u16, description: &'static str, schema: impl Into<Value>) -> Self {
        let content = json!({JSON: {"schema": schema.into()}});
        self.answers.push((status, description, content));
        self
    }

    fn problem(mut self, status: u16) -> Self {
        self.problems.push(status);
        self
    }
}

/// The id of an entry of a list.
fn number_as_id() -> Value {
    json!({"type": "string", "pattern": "^[0-9]{1,19}$"})
}

/// As [`super::Query::flag`] reads it; the name alone is a yes.
fn flag() -> Value {
    json!({"enum": [true, false, 1, 0, ""], "default": false})
}

impl Route {
    fn operation(&self, method: &str, schemas: &mut Schemas) -> Operation {
        match self {
            Self::PredictAgentSelection => predict(schemas),
            Self::Outcomes => outcomes(schemas),
            Self::Evaluate => evaluate(schemas),
            Self::AgentsPerformance => agents_performance(schemas),
            Self::Metrics => Operation::new("How learning goes, in numbers").answer(
                200,
                "The numbers",
                schemas.answered::<answers::Metrics>(),
            ),
            Self::Status => Operation::new("How the service is").answer(
                200,
                "Its state",
                schemas.answered::<answers::ServiceStatus>(),
            ),
            Self::Health => Operation::new("What is well and what is not, in short").answer(
                200,
                "The checks",
                schemas.answered::<answers::Health>(),
            ),
            Self::Livez => Operation::new("Whether the service answers").answer(
                200,
                "It does",
                schemas.answered::<answers::Probe>(),
            ),
            Self::Readyz => Operation::new("Whether the model is loaded")
                .query("verbose", "Say more; needs a token where there are any", flag())
                .answer(200, "It is", schemas.answered::<answers::Probe>()),
            Self::Model(_) => Operation::new("What a model has learned, in short").answer(
                200,
                "The summary",
                schemas.answered::<answers::ModelSummary>(),
            ),
            Self::Versions(_) => Operation::new("The saved versions of a model, newest first")
                .page("Only versions older than this one", json!(schemas.asked::<Name>()))
                .answer(200, "A page", schemas.answered::<answers::Versions>()),
            Self::SaveModels => Operation::new("Save a version now")
                .optional_json(json!({"type": "object"}))
                .answer(200, "It is saved", schemas.answered::<answers::MadeVersion>()),
            Self::Activate(..) => Operation::new("Go on from the state of a saved version")
                .optional_json(json!({"type": "object"}))
                .answer(200, "It is active", schemas.answered::<answers::MadeVersion>())
                .problem(409),
            Self::ImportModel => import_model(schemas),
            Self::Events => {
                Operation::new("What was learned, saved, activated, imported, newest first")
                    .page("Only events older than this one", number_as_id())
                    .answer(200, "A page", schemas.answered::<answers::Events>())
            }
            Self::Decisions => Operation::new("The recorded decisions of a tenant, newest first")
                .query("tenant_id", "Whose; `default` unless given", schemas.asked::<Name>())
                .page("Only decisions before this one", json!(schemas.asked::<Name>()))
                .answer(200, "A page", schemas.answered::<answers::Decisions>())
                .problem(404),
            Self::Decision(_) => decision(schemas),
            Self::DeadLetters => Operation::new("The events that were refused, newest first")
                .page("Only dead letters older than this one", number_as_id())
                .answer(200, "A page", schemas.answered::<answers::DeadLetters>()),
            Self::ReplayDeadLetters => Operation::new("Feed dead letters back, after a fix")
                .optional_json(schemas.asked::<ReplayRequest>())
                .answer(200, "What became of them", schemas.answered::<answers::Replayed>()),
            Self::Alerts => Operation::new("What fires and what did, newest first")
                .query("status", "Only these", json!({"enum": ["firing", "resolved"]}))
                .page("Only alerts older than this one", number_as_id())
                .answer(200, "A page", schemas.answered::<answers::Alerts>()),
            Self::AgentsPareto => pareto(schemas),
            Self::Agent(_) => Operation::new("Remove an agent with what was learned of it")
                .query("tenant_id", "Whose; `default` unless given", schemas.asked::<Name>())
                .answer(200, "It is removed", schemas.answered::<answers::AgentRemoved>()),
            Self::Budgets => Operation::new("What tenants may spend and have spent").answer(
                200,
                "Those that have a budget",
                schemas.answered::<answers::Budgets<'_>>(),
            ),
            Self::Budget(_) => budget(method, schemas),
            Self::PredictValue(measure) => predict_value(*measure, schemas),
            Self::Catalog => catalog(schemas),
            Self::Plot(_) => plot(schemas),
            Self::Page(part) => page(*part),
            Self::Prometheus => prometheus(),
            Self::OpenApi => Operation::new("This description").answer(
                200,
                "OpenAPI 3.1",
                json!({"type": "object", "required": ["openapi"]}),
            ),
        }
    }
}

fn predict(schemas: &mut Schemas) -> Operation {
    let request = schemas.asked::<PredictionRequest>();
    Operation::new("Which agent should take this task?")
        .optional_json(request)
        .answer(
            200,
            "Agents, best first; none when nobody is known",
            schemas.answered::<answers::Recommendations<'_>>(),
        )
        .problem(409)
}

fn outcomes(schemas: &mut Schemas) -> Operation {
    let (any, event) = (schemas.asked::<event::Outcomes>(), schemas.asked::<event::CloudEvent>());
    let content = json!({
        JSON: {"schema": any},
        super::outcomes::ND_JSON: {
            "schema": {"type": "string", "description": "An event on each line, any number of them"},
        },
        super::outcomes::CLOUD_EVENT: {"schema": event},
        super::outcomes::CLOUD_EVENTS: {
            "schema": {
                "type": "array", "items": event, "maxItems": super::outcomes::ARRAY_MAX,
            },
        },
    });
    let received = schemas.answered::<answers::Received>();
    let dry_run = schemas.answered::<Tried>();
    Operation::new("What came of it: report outcomes")
        .query("wait", "Answer once everything accepted before is learned and visible", flag())
        .query("dry_run", "Write nothing: answer what would be accepted, and its features", flag())
        .body(json!({"content": content}))
        .answer(202, "All of it is durable; nothing need be accepted", received.clone())
        .answer(
            200,
            "With `wait`: it is also learned and visible; with `dry_run`: nothing was written",
            json!({"anyOf": [received, dry_run]}),
        )
}

fn evaluate(schemas: &mut Schemas) -> Operation {
    let schema = schemas.asked::<PlanRequest>();
    Operation::new("What would another policy have earned?")
        .body(json!({"required": true, "content": {JSON: {"schema": schema}}}))
        .answer(200, "What the recorded decisions say", schemas.answered::<ReportBody>())
}

fn agents_performance(schemas: &mut Schemas) -> Operation {
    let rows = schemas.answered::<Vec<answers::AgentPerformance<'_>>>();
    Operation::new("What each agent has done")
        .query("task_type", "Only on this task type", schemas.asked::<Name>())
        .query("tenant_id", "Whose; `default` unless given", schemas.asked::<Name>())
        .query("outlook", "Also what is expected of each", flag())
        .answer(200, "A row for each agent", rows)
}

fn pareto(schemas: &mut Schemas) -> Operation {
    Operation::new("Which agents no other one beats in success, latency and cost at once?")
        .query("task_type", "On this task type", schemas.asked::<Name>())
        .query("tenant_id", "Whose; `default` unless given", schemas.asked::<Name>())
        .answer(200, "Every agent, in two lists", schemas.answered::<answers::Front<'_>>())
}

fn import_model(schemas: &mut Schemas) -> Operation {
    let model = json!({"type": "object", "description": "As `online-learning export` writes it"});
    Operation::new("Make an exported model the active version")
        .body(json!({"required": true, "content": {JSON: {"schema": model}}}))
        .answer(200, "It is active", schemas.answered::<answers::MadeVersion>())
}

fn decision(schemas: &mut Schemas) -> Operation {
    // The list has it, too; here so that it has a name of its own.
    schemas.answered::<DecisionBody>();
    Operation::new("A recorded decision, its answer, and what the model says of it now")
        .query("tenant_id", "Whose; `default` unless given", schemas.asked::<Name>())
        .answer(200, "The decision", schemas.answered::<ExplainedDecision<'_>>())
}

fn prometheus() -> Operation {
    let mut operation = Operation::new("Everything that is measured, for Prometheus");
    let text = json!({"schema": {"type": "string"}});
    let content = json!({"text/plain": text, "application/openmetrics-text": text});
    let what = "The text format 0.0.4, or OpenMetrics where `Accept` asks for it";
    operation.answers.push((200, what, content));
    operation
}

fn predict_value(measure: Measure, schemas: &mut Schemas) -> Operation {
    let request = schemas.asked::<PredictionRequest>();
    let answer = schemas.answered::<answers::ValuePredictions<'_>>();
    let summary = match measure {
        Measure::Quality => "What quality is to be expected of each agent?",
        Measure::Latency => "How long will each agent take?",
        Measure::Cost => "What will each agent cost?",
    };
    Operation::new(summary).optional_json(request).answer(200, "Agents, best first", answer)
}

fn budget(method: &str, schemas: &mut Schemas) -> Operation {
    let standing = schemas.answered::<answers::BudgetBody<'_>>();
    match method {
        "PUT" => {
            let schema = schemas.asked::<BudgetRequest>();
            Operation::new("Set what a tenant may spend")
                .body(json!({"required": true, "content": {JSON: {"schema": schema}}}))
                .answer(200, "How it stands", standing)
                .problem(409)
        }
        "DELETE" => Operation::new("Let a tenant spend without limit")
            .answer(200, "The budget is gone", schemas.answered::<answers::BudgetRemoved>())
            .problem(422),
        _ => Operation::new("What a tenant may spend and has spent")
            .answer(200, "How it stands", standing)
            .problem(422),
    }
}

fn catalog(schemas: &mut Schemas) -> Operation {
    Operation::new("What can be asked for, and what the caller may")
        .query("tenant_id", "Whose; `default` unless given", schemas.asked::<Name>())
        .answer(200, "Names", schemas.answered::<answers::Catalog<'_>>())
}

fn plot(schemas: &mut Schemas) -> Operation {
    let (min, max) = (WIDTHS.start(), WIDTHS.end());
    let width = json!({"type": "integer", "minimum": min, "maximum": max, "default": WIDTH});
    let hours = json!({"type": "integer", "minimum": 1, "maximum": HOURS_MAX});
    let mut operation = Operation::new("What was learned, to look at")
        .query("tenant_id", "Whose; `default` unless given", schemas.asked::<Name>())
        .query("task_type", "Only on this task type", schemas.asked::<Name>())
        .query("theme", "Colours", json!({"enum": ["light", "dark"], "default": "light"}))
        .query("width", "In pixels", width)
        .query("hours", "How far back", hours);
    let image = json!({"image/svg+xml": {"schema": {"type": "string"}}});
    operation.answers.push((200, "A plot", image));
    operation
}

fn page(page: Page) -> Operation {
    let mut operation = Operation::new("The dashboard, or a part of it");
    let media = page.media_type().split(';').next().unwrap_or_default();
    operation.answers.push((200, "A file", json!({media: {"schema": {"type": "string"}}})));
    operation
}

/// The route of a pattern: any value will do for most of what is in braces.
fn route_of(pattern: &str) -> Option<Route> {
    Route::of(&pattern.replace("{plot}", Plot::Posterior.as_str()))
}

/// The whole description.
fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for pattern in Route::PATTERNS.into_iter().filter(|pattern| *pattern != Route::NOWHERE) {
        let route = route_of(pattern).expect("each pattern is a path of its route");
        let mut operations = Map::new();
        for method in route.methods() {
            let operation = route.operation(method, &mut schemas);
            let described = described(&route, method, operation);
            operations.insert(method.to_ascii_lowercase(), described);
        }
        paths.insert(pattern.to_owned(), operations.into());
    }
    let problem = schemas.answered::<Problem>();
    let problems: Map<String, Value> = PROBLEMS
        .iter()
        .map(|&(status, name, why)| ((*name).to_owned(), problem_response(status, why, &problem)))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "online-learning",
            "description": "Learns from outcome events which AI agent to choose.",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "responses": problems,
            "headers": {
                "RequestId": {
                    "description": "As sent in `X-Request-Id`, or a new one; also in the log",
                    "required": true,
                    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
                },
                "RetryAfter": {
                    "description": "Seconds to wait",
                    "required": true,
                    "schema": {"type": "integer", "minimum": 1},
                },
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Needed where the service has a file of tokens; its scopes are \
                                    `read`, `ingest` and `admin`, each with those before it.",
                },
            },
        },
    })
}

/// An operation with everything that follows from its route.
fn described(route: &Route, method: &str, operation: Operation) -> Value {
    let Operation { summary, mut parameters, body, answers, mut problems } = operation;
    let in_path = in_path(route.pattern());
    if !in_path.is_empty() {
        problems.push(404);
    }
    parameters.splice(0..0, in_path);
    problems.extend([400, 403, 405, 408, 431, 500, 503]);
    if method != "GET" {
        problems.push(412);
    }
    // Some need more when they are asked for more.
    let (need, at_most) = (route.need(method, None), route.need(method, Some("")));
    if at_most != Need::Nothing {
        problems.extend([401, 429]);
    }
    problems.sort_unstable();
    problems.dedup();
    let mut responses = Map::new();
    for (status, description, content) in answers {
        let headers = json!({"X-Request-Id": {"$ref": "#/components/headers/RequestId"}});
        let answer = json!({"description": description, "headers": headers, "content": content});
        responses.insert(status.to_string(), answer);
    }
    for (status, name, _) in PROBLEMS {
        if problems.contains(&status) {
            let reference = json!({"$ref": format!("#/components/responses/{name}")});
            responses.insert(status.to_string(), reference);
        }
    }
    let mut described = json!({
        "operationId": operation_id(method, route.pattern()),
        "summary": summary,
        "description": needed(at_most),
        "responses": responses,
        "security": security(need, at_most),
    });
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(body) = body {
        described["requestBody"] = body;
    }
    described
}

/// The parameters in a pattern.
fn in_path(pattern: &str) -> Vec<Value> {
    let names = pattern.split('{').skip(1).filter_map(|part| Some(part.split_once('}')?.0));
    let parameter = |name: &str| {
        let schema = match name {
            "model_type" => json!({"type": "string", "enum": MODEL_TYPES}),
            "plot" => json!({"type": "string", "enum": Plot::ALL.map(Plot::as_str)}),
            _ => json!({"type": "string", "minLength": 1}),
        };
        json!({"name": name, "in": "path", "required": true, "schema": schema})
    };
    names.map(parameter).collect()
}

/// Such as `get_learning_models_model_type_versions`.
fn operation_id(method: &str, pattern: &str) -> String {
    let mut id = method.to_ascii_lowercase();
    let short = pattern.strip_prefix("/api").unwrap_or(pattern);
    for word in short.split(|letter: char| !letter.is_ascii_alphanumeric()) {
        if !word.is_empty() {
            id.push('_');
            id.push_str(word);
        }
    }
    id
}

fn scope(need: Need) -> Option<(Scope, bool)> {
    match need {
        Need::Nothing => None,
        Need::Scope(scope) => Some((scope, false)),
        Need::AllTenants(scope) => Some((scope, true)),
    }
}

fn needed(need: Need) -> String {
    match scope(need) {
        None => "Needs no token.".to_owned(),
        Some((scope, false)) => {
            format!("Needs the scope `{}`, where there are tokens.", scope.as_str())
        }
        Some((scope, true)) => format!(
            "Covers all tenants: needs the scope `{}` of a token without a tenant, where there are \
             tokens.",
            scope.as_str()
        ),
    }
}

/// A token, or none where the service has no tokens.
fn security(need: Need, at_most: Need) -> Value {
    match scope(at_most) {
        None => json!([]),
        Some(_) if need == Need::Nothing => json!([{}, {"token": []}]),
        Some(_) => json!([{"token": []}, {}]),
    }
}

fn problem_response(status: u16, why: &str, schema: &Schema) -> Value {
    let text = |description: &str| json!({"description": description, "required": true, "schema": {"type": "string"}});
    let mut headers = json!({"X-Request-Id": {"$ref": "#/components/headers/RequestId"}});
    match status {
        401 => headers["WWW-Authenticate"] = text("How to authenticate"),
        405 => headers["Allow"] = text("The methods that the path takes"),
        429 | 503 => headers["Retry-After"] = json!({"$ref": "#/components/headers/RetryAfter"}),
        _ => {}
    }
    json!({
        "description": why,
        "headers": headers,
        "content": {"application/problem+json": {"schema": schema}},
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::outcome::Outcome;

    fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    found.insert(reference);
                }
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn what_a_query_answers_with_yes_or_no_is_described_as_it_is_read() {
        let document = document();
        let paths = document["paths"].as_object().expect("there are paths");
        let operations =
            paths.values().flat_map(|path| path.as_object().expect("methods").values());
        let parameters = operations.filter_map(|operation| operation["parameters"].as_array());
        let mut flags = BTreeSet::new();
        for parameter in parameters.flatten().filter(|parameter| parameter["in"] == "query") {
            let (name, schema) = (&parameter["name"], &parameter["schema"]);
            assert_ne!(schema["type"], "boolean", "{name}: 1, 0 and nothing are read too");
            if *schema == flag() {
                flags.insert(name.as_str());
            }
        }
        let expected = ["dry_run", "outlook", "verbose", "wait"];
        assert_eq!(flags, expected.map(Some).into());
    }

    #[test]
    fn every_route_is_described_with_its_method_and_every_reference_leads_somewhere() {
        let document = document();
        let paths = document["paths"].as_object().expect("there are paths");
        assert_eq!(paths.len() + 1, Route::PATTERNS.len());
        let mut ids = BTreeSet::new();
        for pattern in Route::PATTERNS.into_iter().filter(|pattern| *pattern != Route::NOWHERE) {
            let route = route_of(pattern).expect("it is a route");
            for method in route.methods() {
                let operation = &paths[pattern][method.to_ascii_lowercase()];
                assert!(ids.insert(operation["operationId"].as_str()), "{pattern}");
                let responses = operation["responses"].as_object().expect("it is answered");
                assert!(responses.keys().any(|status| status.starts_with('2')), "{pattern}");
                let named = pattern.matches('{').count();
                let parameters = operation["parameters"].as_array().map_or(&[][..], |all| all);
                let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
                assert_eq!(in_path.count(), named, "{pattern}");
                assert_eq!(
                    responses.contains_key("401"),
                    route.need(method, Some("")) != Need::Nothing
                );
                let takes_body = operation.get("requestBody").is_some();
                assert_eq!(takes_body, ["POST", "PUT"].contains(method), "{pattern}");
                assert_eq!(takes_body, responses.contains_key("415"), "{pattern}");
            }
        }
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 40, "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("all are in the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn bounds_are_those_that_are_kept() {
        let document = document();
        let request = &document["components"]["schemas"]["PredictionRequest"]["properties"];
        assert_eq!(request["top_k"]["minimum"], 1);
        assert_eq!(request["top_k"]["maximum"], 1_000);
        assert_eq!(request["candidates"]["minItems"], 1);
        assert_eq!(request["candidates"]["maxItems"], 1_000);
        assert_eq!(request["exclude"].get("minItems"), None);
        assert_eq!(request["task_type"]["maxLength"], 256);
        let events = &document["paths"]["/api/learning/events"]["get"]["parameters"];
        assert_eq!(events[0]["schema"]["maximum"], LIMIT_MAX);
        let plan = &document["components"]["schemas"]["PlanRequest"];
        assert_eq!(plan["required"], json!(["policy"]));
    }

    #[test]
    fn an_event_with_all_that_is_described_is_read_whole() {
        let event = json!({
            "agent_name": "a", "status": "success", "event_id": 7, "run_id": "r", "agent_type": "t",
            "tenant_id": "blue", "task_type": "review", "action_type": "x", "context": {"k": 1},
            "context_snapshot": {"k": 2}, "decision_id": "d", "correlation_id": "c",
            "latency_ms": "12.5", "duration_ms": 9, "cost_estimate": 0.5, "cost": 0.1,
            "quality_score": 0.75, "timestamp": "2026-11-23T10:00:00", "metadata": {"x": 1},
        });
        let document = document();
        let schema = &document["components"]["schemas"]["OutcomeEvent"];
        let names = |value: &Value| -> BTreeSet<String> {
            value.as_object().expect("it is an object").keys().cloned().collect()
        };
        assert_eq!(names(&schema["properties"]), names(&event));
        assert_eq!(schema["required"], json!(["agent_name", "status"]));
        let parse = |event: &Value| Outcome::parse(event.to_string().as_bytes(), 5, String::new);
        let outcome = parse(&event).expect("it is understood");
        assert_eq!(outcome.dropped, Vec::<&str>::new());
        // Without any of them something is another, or takes the place of what is gone.
        let fallbacks = ["run_id", "agent_type", "action_type", "context_snapshot"];
        let later = ["correlation_id", "duration_ms", "cost", "metadata"];
        for name in names(&event) {
            let mut without = event.clone();
            without.as_object_mut().expect("it is an object").remove(&name);
            let is_same = parse(&without).is_ok_and(|other| other == outcome);
            let may_be = fallbacks.contains(&&*name) || later.contains(&&*name);
            assert_eq!(is_same, may_be, "{name}");
        }
    }
}
