//! `/openapi.json` against what is really answered: each answer of a tour through every route is one
//! that is described, down to its last field.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use online_learning::outcome::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::tempdir;

use crate::harness::{Answer, Service, Setup, Wire};

/// Checks a value against a schema of JSON Schema 2020-12. It knows the keywords that our schemas use,
/// and stops at any other.
struct Checker<'d> {
    document: &'d Value,
}

impl<'d> Checker<'d> {
    fn resolve(&self, schema: &'d Value) -> &'d Value {
        match schema.get("$ref").and_then(Value::as_str) {
            Some(reference) => self
                .document
                .pointer(reference.trim_start_matches('#'))
                .unwrap_or_else(|| panic!("{reference} leads nowhere")),
            None => schema,
        }
    }

    /// What is wrong with the value, with where it stands.
    fn check(&self, schema: &'d Value, value: &Value, at: &str) -> Result<(), String> {
        if schema.as_bool() == Some(true) {
            return Ok(());
        }
        let schema = self.resolve(schema);
        let keywords = schema.as_object().ok_or_else(|| format!("{at}: {schema} is no schema"))?;
        keywords
            .iter()
            .try_for_each(|(keyword, wanted)| self.keyword(keyword, wanted, schema, value, at))
    }

    fn keyword(
        &self,
        keyword: &str,
        wanted: &'d Value,
        schema: &'d Value,
        value: &Value,
        at: &str,
    ) -> Result<(), String> {
        let count = || wanted.as_u64().expect("a length is a whole number");
        let number = || wanted.as_f64().expect("a bound is a number");
        let items = || wanted.as_array().expect("it is a list");
        let holds = match keyword {
            "description" | "default" | "format" => true,
            "type" => {
                let alone = std::slice::from_ref(wanted);
                let types = wanted.as_array().map_or(alone, |types| types);
                types.iter().any(|name| is_of_type(value, name.as_str().unwrap_or_default()))
            }
            "enum" => items().contains(value),
            "const" => wanted == value,
            "minimum" => value.as_f64().is_none_or(|value| value >= number()),
            "maximum" => value.as_f64().is_none_or(|value| value <= number()),
            "minItems" => value.as_array().is_none_or(|all| all.len() as u64 >= count()),
            "maxItems" => value.as_array().is_none_or(|all| all.len() as u64 <= count()),
            "pattern" => match wanted.as_str() {
                Some("^[0-9a-f]{64}$") => value.as_str().is_none_or(|text| {
                    text.len() == 64 && text.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
                }),
                Some("^[0-9]{1,19}$") => value.as_str().is_none_or(|text| {
                    (1..=19).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
                }),
                other => panic!("{at}: the pattern {other:?} is not known here"),
            },
            "items" => {
                let all = value.as_array().map_or(&[][..], |all| all);
                for (index, item) in all.iter().enumerate() {
                    self.check(wanted, item, &format!("{at}/{index}"))?;
                }
                true
            }
            "required" => {
                let missing = items().iter().find(|name| {
                    value.is_object() && value.get(name.as_str().unwrap_or_default()).is_none()
                });
                if let Some(name) = missing {
                    return Err(format!("{at}: {name} is missing in {value}"));
                }
                true
            }
            // What is answered is described: nothing else may be there.
            "properties" | "additionalProperties" => {
                return self.properties(schema, value, at);
            }
            "oneOf" => {
                let fits = |one: &&Value| self.check(one, value, at).is_ok();
                items().iter().filter(fits).count() == 1
            }
            "anyOf" => items().iter().any(|one| self.check(one, value, at).is_ok()),
            other => panic!("{at}: the keyword {other} is not known here"),
        };
        if holds { Ok(()) } else { Err(format!("{at}: {value} is not of {keyword} {wanted}")) }
    }

    fn properties(&self, schema: &'d Value, value: &Value, at: &str) -> Result<(), String> {
        let empty = serde_json::Map::new();
        for (name, field) in value.as_object().unwrap_or(&empty) {
            let at = format!("{at}/{name}");
            match (&schema["properties"][name], &schema["additionalProperties"]) {
                (Value::Null, Value::Null) => return Err(format!("{at}: is not described")),
                (Value::Null, other) => self.check(other, field, &at)?,
                (described, _) => self.check(described, field, &at)?,
            }
        }
        Ok(())
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("there is no type {other}"),
    }
}

/// The description, and what of it was seen.
struct Tour {
    document: Value,
    seen: BTreeMap<String, BTreeSet<u16>>,
}

impl Tour {
    fn of(service: &Service) -> Self {
        let answer = service.get("/openapi.json");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        Self { document: answer.json(), seen: BTreeMap::new() }
    }

    fn pattern(&self, path: &str) -> &str {
        let parts: Vec<&str> = path.split('?').next().unwrap_or_default().split('/').collect();
        let paths = self.document["paths"].as_object().expect("there are paths");
        let fits = |pattern: &str| {
            let pattern: Vec<&str> = pattern.split('/').collect();
            pattern.len() == parts.len()
                && pattern.iter().zip(&parts).all(|(one, part)| one.starts_with('{') || one == part)
        };
        // Of a name and a parameter, the name.
        let found = paths.keys().filter(|pattern| fits(pattern));
        found.min_by_key(|pattern| pattern.matches('{').count()).expect("the path is described")
    }

    /// Status, type, headers and body are as described.
    #[track_caller]
    fn check(&mut self, method: &str, path: &str, answer: &Answer) {
        let pattern = self.pattern(path).to_owned();
        let operation = &self.document["paths"][&pattern][method];
        let checker = Checker { document: &self.document };
        let described = checker.resolve(&operation["responses"][answer.status.to_string()]);
        assert!(described.is_object(), "{method} {path}: {answer:?} is not described");
        let media = answer.header("content-type").unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default();
        let schema = &described["content"][media]["schema"];
        assert!(schema.is_object(), "{method} {path}: {media} is not described");
        for (name, header) in described["headers"].as_object().expect("some are there") {
            let needed = checker.resolve(header)["required"] == true;
            assert!(!needed || answer.header(&name.to_lowercase()).is_some(), "{name}: {answer:?}");
        }
        let body =
            if media.ends_with("json") { answer.json() } else { json!(answer.body.as_str()) };
        if pattern != "/openapi.json" {
            let fits = checker.check(schema, &body, "");
            fits.unwrap_or_else(|wrong| panic!("{method} {path} {}: {wrong}", answer.status));
        }
        self.seen.entry(format!("{method} {pattern}")).or_default().insert(answer.status);
    }

    #[track_caller]
    fn get(&mut self, service: &Service, path: &str, status: u16) -> Answer {
        let answer = service.get(path);
        assert_eq!(answer.status, status, "GET {path}: {answer:?}");
        self.check("get", path, &answer);
        answer
    }

    #[track_caller]
    fn post(&mut self, service: &Service, path: &str, body: &str, status: u16) -> Answer {
        let media = if path.contains("outcomes") { "application/x-ndjson" } else { JSON };
        self.post_as(service, path, media, body, status)
    }

    #[track_caller]
    fn post_as(
        &mut self,
        service: &Service,
        path: &str,
        media: &str,
        body: &str,
        status: u16,
    ) -> Answer {
        let answer = service.post(path, media, body);
        assert_eq!(answer.status, status, "POST {path}: {answer:?}");
        self.check("post", path, &answer);
        answer
    }
}

const JSON: &str = "application/json";
const PREDICT: &str = "/api/learning/predict/agent-selection";
const PREDICTIONS: [&str; 4] = [
    PREDICT,
    "/api/learning/predict/quality",
    "/api/learning/predict/latency",
    "/api/learning/predict/cost",
];
const OUTCOMES: &str = "/api/learning/outcomes";
const BATCH: &str = "/api/learning/outcomes/batch";
const MODEL: &str = "/api/learning/models/agent_selection";
const REPLAY: &str = "/api/learning/dead-letters/replay";
const EVALUATE: &str = "/api/learning/evaluate";

/// A decision with its outcome, saved versions, dead letters, and an agent past the cap.
fn lived_in(service: &Service, tour: &mut Tour) {
    let lines: Vec<String> = ["amy", "bob", "cid"]
        .iter()
        .flat_map(|agent| {
            let line = move |number: u32| {
                json!({"agent_name": agent, "status": "success", "task_type": "review",
                       "latency_ms": 10 + number, "quality_score": 0.5, "context": {"k": number}})
            };
            (0..6).map(move |number| line(number).to_string())
        })
        .collect();
    tour.post(service, &format!("{OUTCOMES}?wait=true"), &lines.join("\n"), 200);
    let event = json!({"agent_name": "amy", "status": "success", "event_id": "e"});
    for status in [200, 202] {
        let flag = if status == 200 { "?dry_run=true" } else { "" };
        let path = format!("{BATCH}{flag}");
        tour.post_as(service, &path, JSON, &json!([event, {}, "x"]).to_string(), status);
    }
    let objective = json!({"weights": {"success": 1, "latency": 1}, "scales": {"latency_ms": 5}});
    for (id, objective, limits) in [
        ("d3", json!("cheap"), json!({"max_latency_ms": 1_000, "min_success": 0.1})),
        ("d4", objective, json!({"max_latency_ms": 1, "min_quality": 1, "confidence": 0.5})),
    ] {
        let question = json!({"task_type": "review", "decision_id": id, "objective": objective,
                              "constraints": limits, "on_infeasible": "best_effort"});
        tour.post(service, PREDICT, &question.to_string(), 200);
    }
    for id in ["d1", "d2"] {
        let question = json!({"task_type": "review", "candidates": ["amy", "new"], "explain": true,
                              "context": {"k": 1, "deep": {"er": true}, "t": "x"},
                              "decision_id": id, "seed": 1});
        let answer = tour.post(service, PREDICT, &question.to_string(), 200).json();
        let chosen = answer["recommendations"][0]["agent_name"].as_str().expect("one is first");
        let outcome = json!({"agent_name": chosen, "status": "failure", "decision_id": id,
                             "latency_ms": 5, "cost": 0.5});
        tour.post(service, &format!("{OUTCOMES}?wait=true"), &outcome.to_string(), 200);
    }
    tour.post(service, "/api/learning/models/save", "{}", 200);
    tour.post(service, &format!("{MODEL}/versions/agent_selection-1/activate"), "{}", 200);
}

#[test]
fn every_answer_is_as_described() {
    let directory = tempdir().unwrap();
    let setup = Setup::new(directory.path()).with("MAX_AGENTS", 2);
    let service = setup.start();
    let tour = &mut Tour::of(&service);
    // Nothing is known yet.
    let bare = [
        "/livez",
        "/readyz",
        "/readyz?verbose",
        "/health",
        "/metrics",
        "/openapi.json",
        "/client/online_learning.py",
        "/client/online_learning.ts",
        "/",
        "/dashboard.js",
        "/dashboard.css",
        "/plots/posterior.svg",
        "/plots/score.svg?theme=dark&width=300&hours=1",
        "/api/learning/catalog",
        "/api/learning/metrics",
        "/api/learning/status",
        "/api/learning/agents/performance",
        "/api/learning/agents/performance?task_type=review",
        "/api/learning/agents/pareto",
        "/api/learning/agents/pareto?task_type=review",
        "/api/learning/events",
        "/api/learning/events?limit=1",
        "/api/learning/alerts",
        "/api/learning/decisions",
        "/api/learning/dead-letters",
        MODEL,
        "/api/learning/models/agent_selection/versions",
    ];
    for path in bare {
        tour.get(&service, path, 200);
    }
    for predict in PREDICTIONS {
        tour.post(&service, predict, "{}", 200);
    }
    lived_in(&service, tour);
    for path in bare {
        tour.get(&service, path, 200);
    }
    for predict in PREDICTIONS {
        tour.post(
            &service,
            predict,
            r#"{"task_type": "review", "candidates": ["amy", "new"]}"#,
            200,
        );
    }
    budgets(&service, tour);
    calls_of_models(&service, tour);
    telemetry(&service, tour);
    feedback(&service, tour);
    let agents = service.get("/api/learning/agents/performance").json();
    assert!(agents.as_array().is_some_and(|rows| rows.iter().any(|row| row["is_other"] == true)));
    for id in ["d1", "d3", "d4"] {
        tour.get(&service, &format!("/api/learning/decisions/{id}"), 200);
    }
    let plan = json!({"policy": "thompson"}).to_string();
    tour.post(&service, EVALUATE, &plan, 200);
    for status in [200, 404] {
        let answer = service.delete("/api/learning/agents/amy");
        assert_eq!(answer.status, status, "{answer:?}");
        tour.check("delete", "/api/learning/agents/amy", &answer);
    }
    tour.post(&service, REPLAY, r#"{"ids": ["7", "0000000000000001"]}"#, 200);
    let model = std::fs::read_to_string(directory.path().join("version-000001.json")).unwrap();
    tour.post(&service, "/api/learning/models/import", &model, 200);

    refused(&service, tour);
    // Every route was called, and every kind of answer that can be had in good health was seen.
    let all: BTreeSet<u16> = tour.seen.values().flatten().copied().collect();
    assert_eq!(all, BTreeSet::from([200, 202, 400, 404, 405, 409, 413, 415, 422]));
    let paths = tour.document["paths"].as_object().expect("there are paths");
    for (path, operations) in paths {
        for method in operations.as_object().expect("it has operations").keys() {
            let seen = tour.seen.get(&format!("{method} {path}"));
            assert!(seen.is_some_and(|seen| seen.contains(&200)), "{method} {path}: {seen:?}");
        }
    }
    service.stop();
}

fn calls_of_models(service: &Service, tour: &mut Tour) {
    const LITELLM: &str = "/api/learning/outcomes/litellm";
    let call = json!({"litellm_call_id": "1", "status": "success", "model": "m"});
    let calls = json!([call, 7]).to_string();
    tour.post_as(service, LITELLM, JSON, &calls, 202);
    tour.post_as(service, &format!("{LITELLM}?wait=true"), JSON, &calls, 200);
    tour.post_as(service, &format!("{LITELLM}?wait=perhaps"), JSON, &calls, 422);
    tour.post_as(service, LITELLM, JSON, "[7]", 422);
    tour.post_as(service, LITELLM, JSON, "[", 400);
    tour.post_as(service, LITELLM, "text/plain", &calls, 415);
}

fn telemetry(service: &Service, tour: &mut Tour) {
    let protobuf = "application/x-protobuf";
    let kind = json!({"key": "openinference.span.kind", "value": {"stringValue": "AGENT"}});
    let spans = json!([{"name": "x", "attributes": [kind]}]);
    let request = json!({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).to_string();
    for path in ["/v1/traces", "/v1/logs", "/v1/metrics"] {
        tour.post_as(service, path, JSON, "{}", 200);
        tour.post_as(service, path, protobuf, "", 200);
        tour.post_as(service, path, "text/plain", "x", 415);
    }
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    tour.post_as(service, "/mcp", JSON, &list.to_string(), 200);
    tour.post_as(service, "/mcp", JSON, "[]", 400);
    let flag = "/ofrep/v1/evaluate/flags/code_review";
    let context = json!({"context": {"targetingKey": "user-7", "complexity": "high"}});
    tour.post_as(service, flag, JSON, &context.to_string(), 200);
    tour.post_as(service, flag, JSON, "{}", 400);
    let answer = tour.post_as(service, "/v1/traces", JSON, &request, 200);
    assert_eq!(answer.json()["partialSuccess"]["rejectedSpans"], "1");
    tour.post_as(service, "/v1/traces", JSON, "[", 400);
    tour.post_as(service, "/v1/traces", protobuf, "\u{1}", 400);
}

fn feedback(service: &Service, tour: &mut Tour) {
    const FEEDBACK: &str = "/api/learning/feedback";
    let event = json!({"agent_name": "ReActAgent", "status": "success", "event_id": "judged"});
    service.post_json("/api/learning/outcomes", &event);
    let quality = |id: &str, quality: f64| json!({"event_id": id, "quality_score": quality});
    for (verdict, status) in [
        (quality("judged", 0.5), 200),
        (quality("judged", 0.25), 409),
        (quality("unknown", 0.25), 202),
        (quality("judged", 2.0), 422),
    ] {
        tour.post_as(service, FEEDBACK, JSON, &verdict.to_string(), status);
    }
    tour.post_as(service, FEEDBACK, JSON, "{", 400);
    tour.post_as(service, FEEDBACK, "text/plain", "x", 415);
    let lines = format!("{}\n{}\n", quality("judged", 0.5), quality("judged", 0.25));
    tour.post_as(service, FEEDBACK, "application/x-ndjson", &lines, 200);
}

fn budgets(service: &Service, tour: &mut Tour) {
    const BUDGET: &str = "/api/learning/budgets/default";
    tour.get(service, BUDGET, 404);
    for (body, status) in [
        (json!({"amount": 5, "period": "month"}), 200),
        (json!({"amount": 0.5, "period": "day"}), 200),
        (json!({"amount": 0, "period": "day"}), 422),
    ] {
        let answer = service.put_json(BUDGET, &body);
        assert_eq!(answer.status, status, "{answer:?}");
        tour.check("put", BUDGET, &answer);
    }
    tour.get(service, BUDGET, 200);
    tour.get(service, "/api/learning/budgets", 200);
    for status in [200, 404] {
        let answer = service.delete(BUDGET);
        assert_eq!(answer.status, status, "{answer:?}");
        tour.check("delete", BUDGET, &answer);
    }
}

/// What is refused, and how.
fn refused(service: &Service, tour: &mut Tour) {
    for path in [
        "/api/learning/events?limit=0",
        "/api/learning/events?before=x",
        "/api/learning/alerts?status=over",
        "/api/learning/dead-letters?limit=1001",
        "/api/learning/decisions?tenant_id=",
        "/api/learning/agents/performance?task_type=",
        "/readyz?verbose=perhaps",
    ] {
        tour.get(service, path, 422);
    }
    for path in [
        "/api/learning/models/none",
        "/api/learning/models/none/versions",
        "/api/learning/models/agent_selection/versions?before=none",
        "/api/learning/decisions/none",
        "/api/learning/decisions?before=none",
    ] {
        tour.get(service, path, 404);
    }
    tour.post(service, &format!("{MODEL}/versions/none/activate"), "", 404);
    for (path, body, status) in [
        (PREDICT, "{", 400),
        (PREDICT, "[]", 422),
        (PREDICT, r#"{"top_k": 0}"#, 422),
        (PREDICT, r#"{"decision_id": "d1"}"#, 409),
        (EVALUATE, "{}", 422),
        (EVALUATE, r#"{"policy": "best"}"#, 422),
        (REPLAY, r#"{"ids": 1}"#, 422),
        ("/api/learning/models/import", "{}", 422),
        ("/api/learning/models/save", "[]", 422),
    ] {
        tour.post(service, path, body, status);
    }
    for path in [PREDICT, OUTCOMES, EVALUATE, REPLAY, "/api/learning/models/import"] {
        tour.post_as(service, path, "text/plain", "x", 415);
    }
    tour.post_as(service, OUTCOMES, JSON, "[1", 400);
    for path in [OUTCOMES, BATCH] {
        tour.post(service, path, "{\"agent_name\": \"amy\"}\nnonsense\n", 422);
    }
    tour.post(service, &format!("{OUTCOMES}?wait=perhaps"), "", 422);
    tour.post(service, PREDICT, &format!("{{\"x\": \"{}\"}}", "x".repeat(1 << 20)), 413);
    let wrong_method = service.get(PREDICT);
    assert_eq!(wrong_method.status, 405);
    tour.check("post", PREDICT, &wrong_method);
}

fn token(directory: &Path, name: &str, scope: &str) -> String {
    let digest = hex(&Sha256::digest(format!("{name}-secret")));
    let file = directory.join("tokens");
    std::fs::write(&file, format!("{name}, {scope}, , {digest}\n")).expect("it can be written");
    file.display().to_string()
}

#[test]
fn what_a_token_does_not_allow_is_as_described() {
    let directory = tempdir().unwrap();
    let service = Setup::new(directory.path())
        .with("AUTH_TOKENS_FILE", token(directory.path(), "reader", "read"))
        .with("RATE_LIMIT", "0.001")
        .with("RATE_LIMIT_BURST", 1)
        .start();
    let tour = &mut Tour::of(&service);
    let ask = |method: &str, path: &str, headers: &str| {
        let mut wire = Wire::open(service.address).unwrap();
        wire.send(format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")).unwrap();
        wire.answer().unwrap()
    };
    let known = "authorization: Bearer reader-secret\r\n";
    for (method, path, headers, status) in [
        ("GET", "/livez", "", 200),
        ("GET", "/livez", "origin: http://evil.example\r\n", 403),
        ("GET", "/health", "", 401),
        ("GET", "/health", "authorization: Bearer other\r\n", 401),
        ("POST", "/api/learning/models/save", known, 403),
        ("GET", "/health", known, 429),
    ] {
        let answer = ask(method, path, headers);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        tour.check(&method.to_lowercase(), path, &answer);
    }
    let operation = &tour.document["paths"]["/health"]["get"];
    assert_eq!(operation["security"], json!([{"token": []}, {}]));
    service.stop();
}
