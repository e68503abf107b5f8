//! `GET /openapi.json`: what the API is, as `OpenAPI` 3.1, put together from the routes, from what they
//! need of a caller, and from the schemas of the types that are read and written.
//!
//! A route without a description does not compile: it is a part of its row. What is described is the same for every
//! configuration.

use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::access::{Need, Scope};
use super::operation::{Operation, Schemas};
use super::route::{Route, Tag};
use super::server::{Problem, Response};

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

pub(super) const DESCRIPTION: Route = Route {
    method: "GET",
    pattern: "/openapi.json",
    id: "getDescription",
    tag: Tag::Operations,
    // It is the same everywhere.
    need: Need::Nothing,
    handler: |app, _| Ok(app.openapi()),
    describe: |_| {
        let schema = json!({"type": "object", "required": ["openapi"]});
        Operation::new("This description").answer(200, "OpenAPI 3.1", schema)
    },
};

impl super::App {
    fn openapi(&self) -> Response {
        static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
        let text = TEXT.get_or_init(|| {
            serde_json::to_vec(&document(self.routes)).expect("a JSON value always has a JSON form")
        });
        Response::json(200, text.clone())
    }
}

/// The whole description.
fn document(routes: &[Route]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for route in routes {
        let described = described(route, (route.describe)(&mut schemas));
        let path = paths.entry(route.pattern).or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = described;
    }
    let problem = Value::from(schemas.answered::<Problem>());
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
fn described(route: &Route, operation: Operation) -> Value {
    let Operation { summary, names, mut parameters, body, answers, .. } = operation;
    let Operation { mut problems, special_problems, problem_media, .. } = operation;
    let in_path = in_path(route.pattern, &names);
    if !in_path.is_empty() {
        problems.push(404);
    }
    parameters.splice(0..0, in_path);
    problems.extend([400, 403, 405, 408, 431, 500, 503]);
    if route.method != "GET" {
        problems.push(412);
    }
    if route.need != Need::Nothing {
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
    for (status, name, why) in PROBLEMS.into_iter().filter(|row| problems.contains(&row.0)) {
        let plain = json!({"$ref": "#/components/schemas/Problem"});
        let special = special_problems.iter().find(|special| special.0 == status);
        let response = match (special, &problem_media) {
            (None, None) => json!({"$ref": format!("#/components/responses/{name}")}),
            (Some((_, special)), _) => {
                problem_response(status, why, &json!({"anyOf": [special, plain]}))
            }
            (None, Some((media, content))) => {
                let mut response = problem_response(status, why, &plain);
                response["content"][media] = content.clone();
                response
            }
        };
        responses.insert(status.to_string(), response);
    }
    let mut described = json!({
        "operationId": route.id,
        "tags": [route.tag.as_str()],
        "summary": summary,
        "description": needed(route.need),
        "responses": responses,
        "security": security(route.need),
    });
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(body) = body {
        described["requestBody"] = body;
    }
    described
}

/// The parameters in a pattern: any text, unless the route says more.
fn in_path(pattern: &str, named: &[(&'static str, Value)]) -> Vec<Value> {
    let in_braces = pattern.split('{').skip(1).filter_map(|part| Some(part.split_once('}')?.0));
    let parameter = |name: &str| {
        let schema = named.iter().find(|row| row.0 == name).map(|row| row.1.clone());
        let schema = schema.unwrap_or_else(|| json!({"type": "string", "minLength": 1}));
        json!({"name": name, "in": "path", "required": true, "schema": schema})
    };
    in_braces.map(parameter).collect()
}

fn scope(need: Need) -> Option<(Scope, bool)> {
    match need {
        Need::Nothing => None,
        Need::Scope(scope) | Need::Asked(scope) => Some((scope, false)),
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
fn security(need: Need) -> Value {
    match need {
        Need::Nothing => json!([]),
        Need::Asked(_) => json!([{}, {"token": []}]),
        Need::Scope(_) | Need::AllTenants(_) => json!([{"token": []}, {}]),
    }
}

fn problem_response(status: u16, why: &str, schema: &Value) -> Value {
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
    use crate::http::LIMIT_MAX;
    use crate::http::operation::flag;
    use crate::http::routes::ROUTES;
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
    fn a_yes_or_no_in_a_query_is_a_plain_boolean() {
        let document = document(ROUTES);
        let paths = document["paths"].as_object().expect("there are paths");
        let operations =
            paths.values().flat_map(|path| path.as_object().expect("methods").values());
        let parameters = operations.filter_map(|operation| operation["parameters"].as_array());
        let mut flags = BTreeSet::new();
        for parameter in parameters.flatten().filter(|parameter| parameter["in"] == "query") {
            let (name, schema) = (&parameter["name"], &parameter["schema"]);
            assert!(schema["type"].is_string() || schema["$ref"].is_string(), "{name}: {schema}");
            if schema["type"] == "boolean" {
                assert_eq!(*schema, flag());
                flags.insert(name.as_str());
            }
        }
        let expected = ["dry_run", "outlook", "verbose", "wait"];
        assert_eq!(flags, expected.map(Some).into());
    }

    /// What generated clients stumble over: a choice of constants instead of an `enum`, and values of
    /// several types in one.
    fn stumbling_blocks(value: &Value, at: &str, found: &mut Vec<String>) {
        let of_strings = |values: &[Value]| values.iter().all(Value::is_string);
        match value {
            Value::Object(fields) => {
                let choice = fields.get("oneOf").and_then(Value::as_array);
                let one = |schema: &Value| schema.get("const").or(schema.get("enum")).is_some();
                let names = fields.get("enum").and_then(Value::as_array);
                if choice.is_some_and(|all| all.iter().any(one))
                    || names.is_some_and(|all| !of_strings(all) || !fields.contains_key("type"))
                {
                    found.push(at.to_owned());
                }
                for (name, field) in fields {
                    stumbling_blocks(field, &format!("{at}/{name}"), found);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    stumbling_blocks(item, &format!("{at}/{index}"), found);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn a_choice_of_names_is_a_plain_enum_with_its_texts() {
        let document = document(ROUTES);
        let mut found = Vec::new();
        stumbling_blocks(&document, "", &mut found);
        assert_eq!(found, Vec::<String>::new());
        let evidence = &document["components"]["schemas"]["Evidence"];
        assert_eq!(evidence["enum"], json!(["insufficient", "emerging", "established"]));
        let text = evidence["description"].as_str().expect("it is described");
        assert_eq!(text.matches("\n- `").count(), 3, "{text}");
    }

    #[test]
    fn every_route_is_described_with_its_method_and_every_reference_leads_somewhere() {
        let document = document(ROUTES);
        let paths = document["paths"].as_object().expect("there are paths");
        let patterns: BTreeSet<&str> = ROUTES.iter().map(|route| route.pattern).collect();
        assert_eq!(paths.len(), patterns.len());
        for Route { method, pattern, id, need, .. } in ROUTES {
            let operation = &paths[*pattern][method.to_ascii_lowercase()];
            assert_eq!(operation["operationId"], *id);
            let responses = operation["responses"].as_object().expect("it is answered");
            assert!(responses.keys().any(|status| status.starts_with('2')), "{pattern}");
            let named = pattern.matches('{').count();
            let parameters = operation["parameters"].as_array().map_or(&[][..], |all| all);
            let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path");
            assert_eq!(in_path.count(), named, "{pattern}");
            assert_eq!(responses.contains_key("401"), *need != Need::Nothing);
            let takes_body = operation.get("requestBody").is_some();
            assert_eq!(takes_body, ["POST", "PUT"].contains(method), "{pattern}");
            assert_eq!(takes_body, responses.contains_key("415"), "{pattern}");
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
        let document = document(ROUTES);
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
            "trace_id": "5b8efff798038103d269b633813fc60c", "awaits_verdict": true,
            "latency_ms": "12.5", "duration_ms": 9, "cost_estimate": 0.5, "cost": 0.1,
            "quality_score": 0.75, "timestamp": "2026-11-23T10:00:00", "metadata": {"x": 1},
        });
        let document = document(ROUTES);
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
