//! `POST /mcp`: the Model Context Protocol, by which a host of models asks for agents and reports outcomes.
//!
//! Two eras of the protocol are spoken at one path. In the modern one (2026-07-28) each request says its
//! version in `_meta`, and headers repeat what a proxy may want to know; there is no session. In the legacy
//! one a client begins with `initialize`; as nothing depends on what it says there, there is no session either.
//! A request is answered with one JSON document, never a stream.
//!
//! Descriptions of tools hold no name that came from an event: a model would read it as an instruction.

use serde_json::{Map, Value, json};

use super::access::{Caller, Need, Scope};
use super::operation::Operation;
use super::outcomes::record;
use super::route::{Route, Tag};
use super::server::{Request, Response};
use super::{Answer, App, Failure, JSON, Query, json_body, json_response};
use crate::error::Error;
use crate::learner::{HTTP, Now};
use crate::outcome::{DEFAULT_TENANT, Payload};

/// Versions whose requests carry their version.
const MODERN: [&str; 1] = ["2026-07-28"];
/// Versions that begin with `initialize`, the newest first.
const LEGACY: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];
const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES_KEY: &str = "io.modelcontextprotocol/clientCapabilities";
/// How long a list of tools may be kept, in milliseconds: they are those of the program.
const TOOLS_TTL_MS: u32 = 300_000;

const PARSE_ERROR: i32 = -32_700;
const INVALID_REQUEST: i32 = -32_600;
const METHOD_NOT_FOUND: i32 = -32_601;
const INVALID_PARAMS: i32 = -32_602;
const HEADER_MISMATCH: i32 = -32_020;
const UNSUPPORTED_VERSION: i32 = -32_022;

pub(super) const MCP: Route = Route {
    method: "POST",
    pattern: "/mcp",
    id: "callTool",
    tag: Tag::Selection,
    need: Need::Scope(Scope::Read),
    handler: |app, call| app.mcp(call.request, call.caller),
    describe: |_| {
        let message = json!({"type": "object"});
        Operation::new("The Model Context Protocol: a JSON-RPC request, and its answer")
            .json(message.clone())
            .answer(200, "The answer", message.clone())
            .empty_answer(202, "A notification was read")
            .problems_also_as(JSON, json!({"schema": message}))
            .problem(404)
    },
};

/// A JSON-RPC error.
#[derive(Debug, PartialEq)]
struct RpcError {
    code: i32,
    message: String,
    data: Option<Value>,
}

impl RpcError {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }
}

/// What a tool says.
type Called = Result<Value, Failure>;

/// One thing that a model may ask of us.
struct Tool {
    name: &'static str,
    /// What a caller needs.
    scope: Scope,
    description: &'static str,
    /// The schema of the arguments' properties.
    properties: fn() -> Value,
    required: &'static [&'static str],
    call: fn(&App, &Map<String, Value>, &Caller) -> Called,
}

const TOOLS: [Tool; 3] = [
    Tool {
        name: "which_agent",
        scope: Scope::Read,
        description: "Says which agent should take a task, by what agents have achieved before. Keep the \
                      decision_id, and call report_outcome with it when the task is done.",
        properties: || {
            json!({
                "task_type": {"type": "string", "description": "Kind of the task"},
                "context": {"type": "object", "description": "What is known of the task: texts, numbers, booleans"},
                "candidates": {
                    "type": "array", "items": {"type": "string"}, "minItems": 1,
                    "description": "Only these agents; all that are known unless given",
                },
                "tenant_id": {"type": "string", "description": "Whose agents; rarely needed"},
            })
        },
        required: &[],
        call: App::which_agent,
    },
    Tool {
        name: "report_outcome",
        scope: Scope::Ingest,
        description: "Reports what came of a task, so that the next choice is better. Give the decision_id of \
                      which_agent; without one, the agent_name and the task_type.",
        properties: || {
            json!({
                "decision_id": {"type": "string", "description": "As which_agent gave it"},
                "agent_name": {"type": "string", "description": "Who did it; that of the decision unless given"},
                "status": {
                    "type": "string", "enum": ["success", "partial", "failure", "timeout", "cancelled"],
                },
                "quality_score": {"type": "number", "minimum": 0, "maximum": 1},
                "latency_ms": {"type": "number", "minimum": 0},
                "cost_estimate": {"type": "number", "minimum": 0},
                "task_type": {"type": "string", "description": "Kind of the task; that of the decision unless given"},
                "tenant_id": {"type": "string", "description": "Whose agent; rarely needed"},
            })
        },
        required: &["status"],
        call: App::report_outcome,
    },
    Tool {
        name: "list_agents",
        scope: Scope::Read,
        description: "Lists the agents that are known, with what each has achieved.",
        properties: || {
            json!({
                "task_type": {"type": "string", "description": "Only on this kind of task"},
                "tenant_id": {"type": "string", "description": "Whose agents; rarely needed"},
            })
        },
        required: &[],
        call: App::list_agents,
    },
];

impl Tool {
    fn described(&self) -> Value {
        json!({
            "name": self.name,
            "description": self.description,
            "inputSchema": {
                "type": "object", "properties": (self.properties)(), "required": self.required,
                "additionalProperties": false,
            },
            "annotations": {"readOnlyHint": self.scope == Scope::Read, "openWorldHint": false},
        })
    }

    /// Whether this caller may use it.
    fn is_for(&self, caller: &Caller) -> bool {
        caller.scope() >= self.scope
    }
}

impl App {
    fn mcp(&self, request: &mut Request<'_>, caller: &Caller) -> Answer {
        let body = json_body(request)?;
        let message = match serde_json::from_slice(body.as_deref().unwrap_or_default()) {
            Ok(Value::Object(message)) => message,
            Ok(_) => {
                let error = RpcError::new(INVALID_REQUEST, "a message is one JSON object");
                return Ok(failed(400, &Value::Null, error));
            }
            Err(error) => {
                let error = RpcError::new(PARSE_ERROR, format!("the body is not JSON: {error}"));
                return Ok(failed(400, &Value::Null, error));
            }
        };
        let id = message.get("id").cloned().unwrap_or_default();
        if id.is_null() || !message.contains_key("method") {
            // Notifications, and answers to questions that were never asked.
            return Ok(Response::json(202, Vec::new()));
        }
        let Some(method) = message["method"].as_str() else {
            return Ok(failed(400, &id, RpcError::new(INVALID_REQUEST, "method is no string")));
        };
        let empty = Map::new();
        let params = message.get("params").and_then(Value::as_object).unwrap_or(&empty);
        let is_modern = method == "server/discover"
            || params.get("_meta").is_some_and(|meta| meta.get(VERSION_KEY).is_some());
        let checked = if is_modern { check_modern(request, method, params) } else { Ok(()) };
        match checked.and_then(|()| self.answer_rpc(method, params, caller, is_modern)) {
            Ok(mut result) => {
                if is_modern {
                    result["resultType"] = "complete".into();
                }
                Ok(json_response(200, &json!({"jsonrpc": "2.0", "id": id, "result": result})))
            }
            Err(error) => {
                let status = match error.code {
                    _ if !is_modern => 200,
                    METHOD_NOT_FOUND => 404,
                    _ => 400,
                };
                Ok(failed(status, &id, error))
            }
        }
    }

    fn answer_rpc(
        &self,
        method: &str,
        params: &Map<String, Value>,
        caller: &Caller,
        is_modern: bool,
    ) -> Result<Value, RpcError> {
        let capabilities = json!({"tools": {}});
        let server = json!({"name": "online-learning", "version": env!("CARGO_PKG_VERSION")});
        match method {
            "server/discover" => Ok(json!({
                "supportedVersions": MODERN, "capabilities": capabilities,
                "ttlMs": TOOLS_TTL_MS, "cacheScope": "private",
                "_meta": {"io.modelcontextprotocol/serverInfo": server},
            })),
            "initialize" if !is_modern => {
                let asked = params.get("protocolVersion").and_then(Value::as_str);
                let version = LEGACY.into_iter().find(|version| Some(*version) == asked);
                Ok(json!({
                    "protocolVersion": version.unwrap_or(LEGACY[0]),
                    "capabilities": capabilities,
                    "serverInfo": server,
                }))
            }
            "ping" => Ok(json!({})),
            "tools/list" => {
                let tools = TOOLS.iter().filter(|tool| tool.is_for(caller)).map(Tool::described);
                let mut result = json!({"tools": tools.collect::<Vec<_>>()});
                if is_modern {
                    result["ttlMs"] = TOOLS_TTL_MS.into();
                    result["cacheScope"] = "private".into();
                }
                Ok(result)
            }
            "tools/call" => self.call_tool(params, caller),
            _ => Err(RpcError::new(METHOD_NOT_FOUND, format!("there is no method {method:?}"))),
        }
    }

    /// What a tool refuses, its caller should read and mend: that is a result, too.
    fn call_tool(&self, params: &Map<String, Value>, caller: &Caller) -> Result<Value, RpcError> {
        let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
        let tool = TOOLS.iter().find(|tool| tool.name == name && tool.is_for(caller));
        let tool = tool.ok_or_else(|| {
            let names = TOOLS.iter().filter(|tool| tool.is_for(caller)).map(|tool| tool.name);
            let names: Vec<&str> = names.collect();
            let message = format!("there is no tool {name:?}, allowed are {}", names.join(", "));
            RpcError::new(INVALID_PARAMS, message)
        })?;
        let empty = Map::new();
        let arguments = match params.get("arguments") {
            None | Some(Value::Null) => &empty,
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(RpcError::new(INVALID_PARAMS, "arguments are no object")),
        };
        let known = (tool.properties)();
        let answered = match arguments.keys().find(|name| known.get(name.as_str()).is_none()) {
            Some(unknown) => Err(Error::invalid(unknown, "is no argument of this tool").into()),
            None => (tool.call)(self, arguments, caller),
        };
        Ok(match answered {
            Ok(answer) => json!({
                "content": [{"type": "text", "text": answer.to_string()}],
                "structuredContent": answer,
                "isError": false,
            }),
            Err(failure) => {
                if let Some(reason) = failure.denied {
                    self.shared.instruments.http_refused(reason).inc();
                }
                let problem = content(&failure.response);
                let text = problem["detail"].as_str().unwrap_or("it failed");
                json!({"content": [{"type": "text", "text": text}], "isError": true})
            }
        })
    }

    fn which_agent(&self, arguments: &Map<String, Value>, caller: &Caller) -> Called {
        let question = serde_json::to_vec(arguments).unwrap_or_default();
        let answer = content(&self.predict(Some(&question), None, caller)?);
        let best = &answer["recommendations"][0];
        Ok(json!({
            "agent": best["agent_name"],
            "expected_success": best["expected_success"],
            "samples": best["samples"],
            "decision_id": answer["decision_id"],
        }))
    }

    fn report_outcome(&self, arguments: &Map<String, Value>, caller: &Caller) -> Called {
        let mut event = arguments.clone();
        if !event.contains_key("agent_name")
            && let Some(id) = arguments.get("decision_id").and_then(Value::as_str)
        {
            let named = arguments.get("tenant_id").and_then(Value::as_str);
            let tenant = caller.tenant_or(named)?.unwrap_or(DEFAULT_TENANT);
            let decision = self.known_answer(tenant, id)?.ok_or_else(|| {
                Error::NotFound(format!("the decision {id:?} is not known: give the agent_name"))
            })?;
            let answer: Value = serde_json::from_slice(&decision.answer).unwrap_or_default();
            event.insert(
                "agent_name".to_owned(),
                answer["recommendations"][0]["agent_name"].clone(),
            );
        }
        let text = serde_json::to_vec(&event).unwrap_or_default();
        super::outcomes::check_tenant(&text, caller)?;
        let size = text.len();
        let payload = Payload::new(std::sync::Arc::new(text), 0..size);
        let record = record(HTTP, payload, Now::read().unix_ms, caller);
        let reply = self.submit(std::iter::once(record))?;
        if let Some((_, refusal)) = reply.rejected.into_iter().next() {
            return Err(Error::invalid("", refusal.detail).into());
        }
        Ok(json!({"accepted": reply.accepted > 0, "duplicate": reply.duplicates > 0}))
    }

    fn list_agents(&self, arguments: &Map<String, Value>, caller: &Caller) -> Called {
        let text =
            |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
        let query = Query(arguments.iter().filter_map(text).collect());
        let rows = content(&self.performance(&query, caller)?);
        let shown = ["agent_name", "success_rate", "avg_latency_ms", "total_executions"];
        let rows = rows.as_array().into_iter().flatten().map(|row| {
            let fields = shown.map(|name| (name.to_owned(), row[name].clone()));
            Value::Object(fields.into_iter().collect())
        });
        Ok(json!({"agents": rows.collect::<Vec<_>>()}))
    }
}

/// What the modern era asks of a request: version and capabilities in `_meta`, and headers that agree.
fn check_modern(
    request: &Request<'_>,
    method: &str,
    params: &Map<String, Value>,
) -> Result<(), RpcError> {
    let meta = params.get("_meta").and_then(Value::as_object);
    for key in [VERSION_KEY, CAPABILITIES_KEY] {
        if meta.is_none_or(|meta| !meta.contains_key(key)) {
            return Err(RpcError::new(INVALID_PARAMS, format!("params._meta has no {key:?}")));
        }
    }
    let version = meta.and_then(|meta| meta[VERSION_KEY].as_str()).unwrap_or_default();
    let name = params.get("name").and_then(Value::as_str).filter(|_| method == "tools/call");
    let wanted =
        [("mcp-protocol-version", Some(version)), ("mcp-method", Some(method)), ("mcp-name", name)];
    for (header, wanted) in wanted {
        if wanted.is_some() && request.header(header) != wanted {
            let message = format!("the header {header} is not what the body says");
            return Err(RpcError::new(HEADER_MISMATCH, message));
        }
    }
    if MODERN.contains(&version) {
        return Ok(());
    }
    let error = RpcError::new(UNSUPPORTED_VERSION, "Unsupported protocol version");
    Err(RpcError { data: Some(json!({"supported": MODERN, "requested": version})), ..error })
}

fn failed(status: u16, id: &Value, error: RpcError) -> Response {
    let RpcError { code, message, data } = error;
    let mut error = json!({"code": code, "message": message});
    if let Some(data) = data {
        error["data"] = data;
    }
    json_response(status, &json!({"jsonrpc": "2.0", "id": id, "error": error}))
}

/// An answer of ours, read again.
fn content(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_default()
}
