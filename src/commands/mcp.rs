//! `mcp`: the Model Context Protocol over standard input and output, for hosts that start their servers. Each
//! line is a message; it is handed to a running service, and what that answers is a line.

use std::io::{BufRead, Write};

use serde_json::{Value, json};

use crate::commands::client::Client;
use crate::error::{Error, Result};

/// JSON-RPC's code for what went wrong on our side.
const INTERNAL_ERROR: i32 = -32_603;

/// Answers until the input ends.
///
/// # Errors
/// [`Error::Fatal`] when the input can't be read, or nobody reads the answers.
pub fn serve(client: &Client, input: impl BufRead, out: &mut impl Write) -> Result<()> {
    for line in input.lines() {
        let line = line.map_err(|error| Error::Fatal(format!("can't read: {error}")))?;
        if line.trim().is_empty() {
            continue;
        }
        if let Some(answer) = answer(client, &line) {
            writeln!(out, "{answer}").and_then(|()| out.flush()).map_err(Error::unprinted)?;
        }
    }
    Ok(())
}

/// The answer to a message; none to one that wants none.
fn answer(client: &Client, line: &str) -> Option<Value> {
    let message: Value = serde_json::from_str(line).unwrap_or_default();
    // What the service wants repeated in headers; over pipes there are none.
    let params = &message["params"];
    let version = &params["_meta"]["io.modelcontextprotocol/protocolVersion"];
    let fields = [
        ("mcp-protocol-version", version),
        ("mcp-method", &message["method"]),
        ("mcp-name", &params["name"]),
    ];
    let headers = fields.into_iter().filter_map(|(name, value)| Some((name, value.as_str()?)));
    let headers: Vec<(&str, &str)> = headers.collect();
    match client.message("/mcp", line, &headers) {
        Ok(answer) => answer.get("jsonrpc").is_some().then_some(answer),
        Err(error) => message.get("id").map(|id| {
            let error = json!({"code": INTERNAL_ERROR, "message": error.to_string()});
            json!({"jsonrpc": "2.0", "id": id, "error": error})
        }),
    }
}
