//! `import`: recorded outcomes, fed through the path that live ones take.

use std::path::Path;

use crate::commands::client::Client;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::service::RealTimeModelUpdater;
use crate::sources::file::{Source, Summary, feed};

/// Imports into the state directory, which no service may hold at the time.
///
/// # Errors
/// When the file can't be read or the directory can't be used.
pub fn into_storage(config: &Config, file: &Path) -> Result<Summary> {
    let mut source = Source::open(file)?;
    let updater = RealTimeModelUpdater::start(&config.storage_path, config.store, config.learner)
        .map_err(|error| match error {
        Error::Fatal(text) if text.contains("in use by another") => Error::Fatal(format!(
            "{text}, or send to the service that holds it: online-learning import --url \
                 http://{} FILE",
            config.listen_addr
        )),
        other => other,
    })?;
    let fed = feed(&updater.inbox(), &mut source);
    // What was accepted is learned and saved, whatever came after it.
    updater.stop()?;
    fed
}

/// Sends to the service at `url`, with the token in `token_file` where one is named.
///
/// # Errors
/// When the file can't be read or the service does not take it.
pub fn into_service(url: &str, token_file: Option<&Path>, file: &Path) -> Result<Summary> {
    let client = Client::new(url)?.with_token_file(token_file)?;
    let mut source = Source::open(file)?;
    let mut summary = Summary::default();
    while let Some(part) = source.next_part()? {
        let mut body = Vec::with_capacity(part.bytes.len() + 64);
        for line in part.lines {
            if let Some(refusal) = &line.refusal {
                summary.refuse(refusal);
                continue;
            }
            let bytes = &part.bytes[line.range];
            write_identified(&mut body, bytes, || source.identity(line.number, bytes));
        }
        source.check_identities()?;
        if !body.is_empty() {
            summary.add_json(&client.post_lines("/api/learning/outcomes", &body)?);
        }
        source.show(&summary);
    }
    source.finish();
    Ok(summary)
}

/// Writes a line for the service, with an identity if it has none.
fn write_identified(body: &mut Vec<u8>, line: &[u8], identity: impl FnOnce() -> String) {
    let mut made_up = false;
    let parsed = Outcome::parse(line, 0, || {
        made_up = true;
        String::new()
    });
    match (line.strip_suffix(b"}"), parsed) {
        (Some(event), Ok(outcome)) if made_up => {
            let identity = identity();
            body.extend(event);
            // At the end, where it wins over an empty one; in an envelope the last two are looked at.
            let fields = format!(
                ",\"event_id\":\"{identity}\",\"source\":\"import\",\"id\":\"{identity}\"}}"
            );
            body.extend(fields.as_bytes());
            if outcome.zero_is_unknown {
                // The identity is not its own: with one, its zeros would be known.
                body.pop();
                body.extend(br#","resolved":{"zero_is_unknown":true}}"#);
            }
        }
        _ => body.extend(line),
    }
    body.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_identified(line: &str, has_identity: bool) {
        let mut body = Vec::new();
        write_identified(&mut body, line.as_bytes(), || "import:7".to_owned());
        let sent = String::from_utf8(body).unwrap();
        assert_eq!(sent.trim_end() == line, has_identity, "{sent}");
        let again = Outcome::parse(sent.as_bytes(), 0, || panic!("no identity in {sent}"));
        let cost = |outcome: Outcome| outcome.cost;
        let as_it_was = Outcome::parse(line.as_bytes(), 0, || "made up".to_owned());
        assert_eq!(again.map(cost), as_it_was.map(cost), "{sent}");
    }

    #[test]
    fn only_lines_without_an_identity_get_one() {
        check_identified(r#"{"agent_name":"a","status":"success"}"#, false);
        check_identified(r#"{"event_id":null,"agent_name":"a","status":"success"}"#, false);
        check_identified(r#"{"agent_name":"a","status":"success","cost":0}"#, false);
        check_identified(
            r#"{"agent_name":"a","status":"success","cost":0,"memory_mb":0,"cpu_ms":0}"#,
            false,
        );
        check_identified(r#"{"event_id":"","agent_name":"a","status":"success"}"#, false);
        check_identified(
            r#"{"specversion":"1.0","data":{"agent_name":"a","status":"success"}}"#,
            false,
        );
        check_identified(r#"{"event_id":"1","agent_name":"a","status":"success"}"#, true);
        check_identified(r#"{"run_id":"1","agent_name":"a","status":"success"}"#, true);
    }
}
