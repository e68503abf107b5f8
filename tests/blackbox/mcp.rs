//! The Model Context Protocol in both eras, over HTTP and over pipes.

use std::io::Write;
use std::process::Stdio;

use online_learning::outcome::hex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Answer, Service, Setup, Wire, program};

const VERSION: &str = "2026-07-28";

/// A request of the modern era, complete.
fn modern(method: &str, params: &Value) -> Value {
    let mut params = params.clone();
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
}

#[track_caller]
fn send(service: &Service, headers: &[(&str, &str)], message: &Value) -> Answer {
    let body = message.to_string();
    let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    let headers = lines.collect::<Vec<_>>().concat();
    let mut wire = Wire::open(service.address).expect("it listens");
    let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let length = body.len();
    wire.send(format!("{head}{headers}content-length: {length}\r\n\r\n{body}")).expect("it reads");
    wire.answer().expect("it answers")
}

/// The result of a request of the modern era.
#[track_caller]
fn result(service: &Service, method: &str, params: &Value) -> Value {
    let name = params["name"].as_str().unwrap_or_default();
    let headers = [("mcp-protocol-version", VERSION), ("mcp-method", method), ("mcp-name", name)];
    let answer = send(service, &headers, &modern(method, params));
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!((&answer["id"], &answer["result"]["resultType"]), (&json!(7), &json!("complete")));
    answer["result"].clone()
}

#[track_caller]
fn call(service: &Service, tool: &str, arguments: &Value) -> Value {
    result(service, "tools/call", &json!({"name": tool, "arguments": arguments}))
}

fn names(tools: &Value) -> Vec<&str> {
    let tools = tools.as_array().expect("it is a list");
    tools.iter().map(|tool| tool["name"].as_str().expect("it has a name")).collect()
}

#[test]
fn a_model_chooses_and_reports_in_the_modern_era() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let service = Setup::new(directory.path()).start();
    let found = result(&service, "server/discover", &json!({}));
    assert_eq!(found["supportedVersions"], json!([VERSION]), "{found}");
    let listed = result(&service, "tools/list", &json!({}));
    assert_eq!(names(&listed["tools"]), ["which_agent", "report_outcome", "list_agents"]);

    let question = json!({"task_type": "review", "candidates": ["amy"], "context": {"size": 3}});
    let chosen = call(&service, "which_agent", &question)["structuredContent"].clone();
    assert_eq!(chosen["agent"], "amy", "{chosen}");
    let report =
        json!({"decision_id": chosen["decision_id"], "status": "success", "quality_score": 0.5});
    let told = call(&service, "report_outcome", &report);
    assert_eq!(told["structuredContent"], json!({"accepted": true, "duplicate": false}), "{told}");
    service.learn("");
    let id = chosen["decision_id"].as_str().expect("it is a string");
    let decision = service.get(&format!("/api/learning/decisions/{id}")).json();
    assert_eq!(decision["outcome"]["quality_score"], 0.5, "{decision}");
    let agents = call(&service, "list_agents", &json!({}))["structuredContent"].clone();
    assert_eq!(agents["agents"][0]["agent_name"], "amy", "{agents}");
    // What is wrong is told the model, which can mend it.
    for (tool, arguments, expected) in [
        ("which_agent", json!({"candidates": []}), "candidates"),
        ("which_agent", json!({"agent": "amy"}), "is no argument of this tool"),
        ("report_outcome", json!({"agent_name": "amy"}), "status is missing"),
        ("report_outcome", json!({"decision_id": "x", "status": "success"}), "is not known"),
    ] {
        let answer = call(&service, tool, &arguments);
        assert_eq!(answer["isError"], true, "{answer}");
        let text = answer["content"][0]["text"].as_str().expect("it is text");
        assert!(text.contains(expected), "{text}");
    }
    service.stop();
}

#[test]
fn a_request_that_disagrees_with_itself_is_refused() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let service = Setup::new(directory.path()).start();
    let list = modern("tools/list", &json!({}));
    let mut newer = list.clone();
    newer["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2099-01-01".into();
    let version = ("mcp-protocol-version", VERSION);
    let method = ("mcp-method", "tools/list");
    let which = modern("tools/call", &json!({"name": "which_agent"}));
    let nothing = modern("nothing/here", &json!({}));
    let unknown = modern("tools/call", &json!({"name": "format_disk"}));
    for (headers, message, status, code) in [
        (vec![version], &list, 400, -32_020),
        (vec![method], &list, 400, -32_020),
        (vec![version, ("mcp-method", "tools/call")], &list, 400, -32_020),
        (vec![version, ("mcp-method", "tools/call"), ("mcp-name", "x")], &which, 400, -32_020),
        (vec![("mcp-protocol-version", "2099-01-01"), method], &newer, 400, -32_022),
        (vec![version, ("mcp-method", "nothing/here")], &nothing, 404, -32_601),
        (
            vec![version, ("mcp-method", "tools/call"), ("mcp-name", "format_disk")],
            &unknown,
            400,
            -32_602,
        ),
        (vec![], &json!([]), 400, -32_600),
    ] {
        let answer = send(&service, &headers, message);
        assert_eq!(answer.status, status, "{headers:?} {message}: {answer:?}");
        assert_eq!(answer.json()["error"]["code"], code, "{answer:?}");
        if code == -32_022 {
            assert_eq!(answer.json()["error"]["data"]["supported"], json!([VERSION]));
        }
    }
    assert_eq!(service.get("/mcp").status, 405);
    service.stop();
}

#[test]
fn older_hosts_begin_with_initialize() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let service = Setup::new(directory.path()).start();
    let ask = |message: Value| send(&service, &[], &message);
    for (asked, expected) in [("2025-06-18", "2025-06-18"), ("1999-01-01", "2025-11-25")] {
        let params = json!({"protocolVersion": asked, "capabilities": {}});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
        assert_eq!(ask(message).json()["result"]["protocolVersion"], expected);
    }
    let begun = ask(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    assert_eq!((begun.status, begun.body.as_str()), (202, ""));
    let listed = ask(json!({"jsonrpc": "2.0", "id": "x", "method": "tools/list"})).json();
    assert_eq!((names(&listed["result"]["tools"]).len(), &listed["id"]), (3, &json!("x")));
    let unknown = ask(json!({"jsonrpc": "2.0", "id": 2, "method": "resources/list"}));
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (200, &json!(-32_601)));
    service.stop();
}

#[test]
fn a_token_sees_the_tools_that_it_may_use() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let tokens = directory.path().join("tokens");
    let line = |name: &str, scope: &str, tenant: &str| {
        let digest = hex(&Sha256::digest(format!("{name}-secret")));
        format!("{name}, {scope}, {tenant}, {digest}\n")
    };
    let lines = line("reader", "read", "") + &line("red", "ingest", "red");
    std::fs::write(&tokens, lines).expect("it can be written");
    let models = directory.path().join("models");
    let service =
        Setup::new(&models).with("AUTH_TOKENS_FILE", tokens.display().to_string()).start();
    let ask = |token: &str, method: &str, params: Value| {
        let authorization = format!("Bearer {token}-secret");
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        send(&service, &[("authorization", &authorization)], &message).json()["result"].clone()
    };
    let listed = ask("reader", "tools/list", json!({}));
    assert_eq!(names(&listed["tools"]), ["which_agent", "list_agents"]);
    assert_eq!(names(&ask("red", "tools/list", json!({}))["tools"]).len(), 3);
    let report = |tenant: &str| {
        let arguments = json!({"agent_name": "a", "status": "success", "tenant_id": tenant});
        ask("red", "tools/call", json!({"name": "report_outcome", "arguments": arguments}))
    };
    assert_eq!(report("blue")["isError"], true);
    assert_eq!(report("red")["isError"], false);
    assert_eq!(send(&service, &[], &json!({})).status, 401);
    service.stop();
}

#[test]
fn over_pipes_it_is_the_same() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let service = Setup::new(directory.path()).start();
    let mut host = program()
        .args(["mcp", "--url", &service.url("")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it can be run");
    let question = json!({"name": "which_agent", "arguments": {"candidates": ["amy"]}});
    let messages = [
        modern("server/discover", &json!({})).to_string(),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string(),
        modern("tools/call", &question).to_string(),
        modern("nothing/here", &json!({})).to_string(),
        "nonsense".to_owned(),
    ];
    let mut input = host.stdin.take().expect("it is a pipe");
    input.write_all((messages.join("\n") + "\n").as_bytes()).expect("it reads");
    drop(input);
    let output = host.wait_with_output().expect("it ends with its input");
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).expect("it is text");
    let answers: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
    assert_eq!(answers.len(), 4, "{lines}");
    assert_eq!(answers[0]["result"]["supportedVersions"], json!([VERSION]));
    assert_eq!(answers[1]["result"]["structuredContent"]["agent"], "amy");
    assert_eq!(answers[2]["error"]["code"], -32_601);
    assert_eq!(answers[3]["error"]["code"], -32_700);
    service.stop();
}
