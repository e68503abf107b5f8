//! `import`: recorded outcomes, fed through the path that live ones take.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{ArgGroup, Args, ValueHint};

use crate::commands::client::Client;
use crate::commands::state::StateArgs;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::outcome::Outcome;
use crate::service::RealTimeModelUpdater;
use crate::sources::file::{Input, Source, Summary, feed, inputs};
use crate::sources::formats::{self, Choices, Reader, Taken};
use crate::sources::otlp::Otlp;

/// How many events `--map-check` prints.
const CHECKED: usize = 5;

/// Whose format the files are in.
#[derive(Debug)]
enum Format {
    /// Our own: JSON Lines or CSV.
    Own,
    /// Another tool's, by its name.
    Named(String, Choices),
    /// By the map in a file.
    Mapped(PathBuf, Choices),
}

/// What is to be imported.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("foreign").args(["from", "map"])))]
pub struct Import {
    /// Files to read; - for standard input
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// Format of the files, where it is another tool's
    #[arg(long, value_name = "FORMAT", value_parser = formats::NAMES)]
    from: Option<String>,
    /// Map of your own, which says what of a record becomes which field
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    map: Option<PathBuf>,
    /// Print only the first 5 events that the files give
    #[arg(long, requires = "foreign")]
    map_check: bool,
    /// Take only the records of these agents
    #[arg(long, value_name = "AGENT,AGENT", value_delimiter = ',', requires = "foreign")]
    agents: Vec<String>,
    /// Take only these scores of records that have several
    #[arg(long = "score", value_name = "SCORE,SCORE", value_delimiter = ',', requires = "foreign")]
    scores: Vec<String>,
    /// Task type of records that name none
    #[arg(long, value_name = "TASK_TYPE", requires = "foreign")]
    task_type: Option<String>,
    /// Where they are imported to.
    #[command(flatten)]
    pub state: StateArgs,
}

impl Import {
    /// Imports files, and says what came of it.
    ///
    /// # Errors
    /// When a file can't be read, what it holds is taken nowhere, or nothing of it was accepted.
    pub fn run(self, out: &mut impl Write) -> Result<()> {
        let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        // Of a service's own settings only those that say how another tool's files are read matter
        // here.
        let config = || self.state.settings.config();
        let opened = self.format().open(config, &self.files)?;
        if self.map_check {
            return check(opened, out);
        }
        let summary = match self.state.service()? {
            Some(client) => into_service(&client, opened)?,
            None => into_storage(&config()?, opened)?,
        };
        writeln!(out, "{summary}").map_err(Error::unprinted)?;
        summary.check(&files.join(", "))
    }

    fn format(&self) -> Format {
        let choices = Choices {
            agents: self.agents.clone(),
            scores: self.scores.clone(),
            task_type: self.task_type.clone(),
            ..Choices::default()
        };
        match (&self.from, &self.map) {
            (Some(name), _) => Format::Named(name.clone(), choices),
            (None, Some(map)) => Format::Mapped(map.clone(), choices),
            (None, None) => Format::Own,
        }
    }
}

/// Files, opened.
enum Opened {
    Own(Vec<Source>),
    Foreign(Vec<Input>, Arc<Reader>),
}

impl Format {
    /// Opens files of this format.
    fn open(self, config: impl Fn() -> Result<Config>, files: &[PathBuf]) -> Result<Opened> {
        let with_field = |choices| -> Result<Choices> {
            Ok(Choices { agent_field: config()?.litellm_agent, ..choices })
        };
        let mut reader = match self {
            Self::Own => {
                let sources = files.iter().map(|file| Source::open(file));
                return Ok(Opened::Own(sources.collect::<Result<_>>()?));
            }
            Self::Named(name, choices) => Reader::named(&name, with_field(choices)?, || {
                let off =
                    || Error::Config("ENABLE_OTLP is false: telemetry is not read".to_owned());
                Otlp::new(config()?.otlp.ok_or_else(off)?)
            })?,
            Self::Mapped(file, choices) => Reader::with_map(&file, with_field(choices)?)?,
        };
        let inputs = inputs(files, &mut reader)?;
        Ok(Opened::Foreign(inputs, Arc::new(reader)))
    }
}

impl Opened {
    /// Goes through the files one after the other.
    fn each(self, mut take: impl FnMut(&mut Source) -> Result<Summary>) -> Result<Summary> {
        let mut total = Summary::default();
        match self {
            Self::Own(sources) => {
                for mut source in sources {
                    total.add_up(take(&mut source)?);
                }
            }
            Self::Foreign(inputs, reader) => {
                for input in inputs {
                    total.add_up(take(&mut Source::of(input, reader.clone())?)?);
                }
                total.verdicts_unmet = reader.verdicts_unmet();
            }
        }
        Ok(total)
    }
}

/// Imports into the state directory, which no service may hold at the time.
fn into_storage(config: &Config, opened: Opened) -> Result<Summary> {
    let updater = RealTimeModelUpdater::start(&config.storage_path, config.store, config.learner)
        .map_err(|error| match error {
        Error::InUse(text) => Error::InUse(format!(
            "{text}, or send to the service that holds it: online-learning import --url \
                 http://{} FILE",
            config.listen_addr
        )),
        other => other,
    })?;
    let fed = opened.each(|source| feed(&updater.inbox(), source));
    // What was accepted is learned and saved, whatever came after it.
    updater.stop()?;
    fed
}

/// Sends to a running service.
fn into_service(client: &Client, opened: Opened) -> Result<Summary> {
    opened.each(|source| {
        let mut summary = Summary::default();
        while let Some(part) = source.next_part()? {
            summary.passed_over += part.passed_over;
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
    })
}

/// Prints the first events that files would give, and takes none.
fn check(opened: Opened, out: &mut impl Write) -> Result<()> {
    let Opened::Foreign(inputs, reader) = opened else {
        return Err(Error::Config("--map-check checks a --map or a --from".to_owned()));
    };
    let mut left = CHECKED;
    for mut input in inputs {
        let mut printed = Ok(());
        input.read(&reader, |_, taken| {
            printed = match taken {
                Taken::PassedOver => return ControlFlow::Continue(()),
                Taken::Event(event) => print_checked(event, out),
                Taken::Refused(refusal, _) => writeln!(out, "refused: {refusal}"),
            };
            left -= 1;
            if left == 0 || printed.is_err() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        printed.map_err(Error::unprinted)?;
        if left == 0 {
            return Ok(());
        }
    }
    if left == CHECKED {
        return Err(Error::invalid("", "the files hold no outcome that was asked for"));
    }
    Ok(())
}

/// Prints an event, and what would be left out of it.
fn print_checked(event: &[u8], out: &mut impl Write) -> std::io::Result<()> {
    out.write_all(event)?;
    match Outcome::parse(event, 0, String::new) {
        Ok(outcome) if outcome.dropped.is_empty() => writeln!(out),
        Ok(outcome) => writeln!(out, "\n  left out: {}", outcome.dropped.join(", ")),
        Err(refusal) => writeln!(out, "\n  refused: {refusal}"),
    }
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
