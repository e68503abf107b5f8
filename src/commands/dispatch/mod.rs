//! `dispatch`: makes any command an agent execution with feedback. Asks a running service for an
//! agent, runs the command with the agent's name filled in, and reports what came of it.
//!
//! The command is none of our business but for its end: its input, output and exit code are passed
//! through, and whatever goes wrong with the report is said on standard error and changes nothing
//! in them. What an outcome says of the agent is never made up: a command that can't be started, or
//! was interrupted, is reported as `cancelled`, which is counted and not learned from.

mod supervise;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use rand::RngExt;
use serde_json::{Map, Value, json};
use signal_hook::consts::SIGINT;

use self::supervise::{CutShort, Ended, Signals};
use crate::commands::client::{Client, Question, ServiceArgs};
use crate::commands::predict::TaskArgs;
use crate::error::{Error, Result, complain};
use crate::learner::Now;
use crate::outcome::{DEFAULT_TENANT, format_time};

/// What stands for the agent's name in the command.
const PLACEHOLDER: &str = "{agent}";
/// Environment variables in which the command finds the agent's name and the decision.
const AGENT_VARIABLE: &str = "ONLINE_LEARNING_AGENT";
const DECISION_VARIABLE: &str = "ONLINE_LEARNING_DECISION_ID";

/// Longest wait for an answer of the service, of each try.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time in which the outcome is tried to be reported: a restart of the service fits in.
const REPORT_TIMEOUT: Duration = Duration::from_mins(1);
/// Pause between two tries.
const REPORT_PAUSE: Duration = Duration::from_millis(500);
const _: () = assert!(REPORT_PAUSE.as_millis() < REPORT_TIMEOUT.as_millis());

/// Longest time limit of a command: a year.
const TIMEOUT_SECONDS_MAX: f64 = 31_536_000.0;

/// Exit codes as of timeout(1) and env(1).
const TIMED_OUT: u8 = 124;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// Added to the number of the signal that killed the command.
const KILLED_BY: i32 = 128;

/// What to run, and for whom.
#[derive(Debug, Args)]
#[command(mut_arg("task_type", |task_type| task_type.required(true)))]
pub struct Dispatch {
    /// The service.
    #[command(flatten)]
    service: ServiceArgs,
    /// The task.
    #[command(flatten)]
    task: TaskArgs,
    /// Stop the command, and all it started, after this time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Command and its arguments; every {agent} in them becomes the agent's name, which is in the
    /// variable ONLINE_LEARNING_AGENT too
    #[arg(value_name = "COMMAND", last = true, required = true)]
    command: Vec<OsString>,
}

fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=TIMEOUT_SECONDS_MAX).contains(seconds));
    let duration = seconds.map(Duration::from_secs_f64).filter(|duration| !duration.is_zero());
    duration
        .ok_or_else(|| format!("allowed is a number greater than 0 up to {TIMEOUT_SECONDS_MAX}"))
}

impl Dispatch {
    fn client(&self) -> Result<Client> {
        Client::with_timeout(&self.service.url, ANSWER_TIMEOUT)?
            .with_token_file(self.service.token.token_file.as_deref())
    }
}

/// Runs the plan and returns the exit code: the command's own.
///
/// # Errors
/// When no agent can be had: then nothing has been run.
pub fn run(plan: &Dispatch) -> Result<u8> {
    let question = plan.task.question()?;
    let decision = decide(plan, &question)?;
    let mut signals =
        Signals::catch().map_err(|error| Error::Fatal(format!("can't watch signals: {error}")))?;
    let words: Vec<OsString> =
        plan.command.iter().map(|word| filled_in(word, &decision.agent)).collect();
    let (program, arguments) =
        words.split_first().ok_or_else(|| Error::Config("there is no command".to_owned()))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env(AGENT_VARIABLE, &decision.agent)
        .env(DECISION_VARIABLE, &decision.id);

    let ended = supervise::run(&mut command, plan.timeout, &mut signals);
    let (exit_code, status, elapsed) = match &ended {
        Ok(ended) => (exit_code(ended), status(ended), Some(ended.elapsed)),
        Err(error) => {
            complain(&format!("can't run {}: {error}", program.display()));
            let is_missing = error.kind() == std::io::ErrorKind::NotFound;
            // The agent has not had its chance.
            (if is_missing { NOT_FOUND } else { NOT_EXECUTABLE }, "cancelled", None)
        }
    };
    let outcome = outcome(&question.body, &decision, status, elapsed);
    let client = plan.client()?;
    let deadline = Instant::now() + REPORT_TIMEOUT;
    // What interrupted the command was not meant for the report.
    signals.wait(Some(Instant::now()));
    let mut pause = |until: Instant| {
        while Instant::now() < until {
            // SIGCHLD wakes too: something that the command left running has ended.
            if !signals.wait(Some(until)).is_empty() {
                return Pause::Interrupted;
            }
        }
        Pause::Over
    };
    if let Err(error) = report(&client, &outcome, deadline, &mut pause) {
        complain(&format!(
            "the outcome was not reported: {error}; \"online-learning import --url {} -\" takes it \
             later: {}",
            plan.service.url,
            one_line(&outcome)
        ));
    }
    // A shell around us goes on with its script after Ctrl-C, unless the signal is what killed us.
    if let Ok(Ended { status: Some(status), by_ctrl_c: true, .. }) = ended
        && status.terminating_signal() == Some(SIGINT)
    {
        // Where it fails, the exit code says the same.
        let _ = signal_hook::low_level::emulate_default_handler(SIGINT);
    }
    Ok(exit_code)
}

/// An agent for the task.
struct Decision {
    agent: String,
    id: String,
}

fn decide(plan: &Dispatch, question: &Question) -> Result<Decision> {
    let client = plan.client()?;
    let mut question = question.body(&client)?;
    question["top_k"] = 1.into();
    let answer = client.post("/api/learning/predict/agent-selection", &question)?;
    if answer["recommendations"].as_array().is_some_and(Vec::is_empty) {
        return Err(Error::NotFound(
            "no agent is known yet, so nothing was run: report outcomes, or name agents with \
             --candidates"
                .to_owned(),
        ));
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let agent = text(&answer["recommendations"][0]["agent_name"]);
    match (agent, text(&answer["decision_id"])) {
        (Some(agent), Some(id)) => Ok(Decision { agent, id }),
        _ => Err(Error::Fatal(format!("{} answered without an agent: {answer}", plan.service.url))),
    }
}

/// The word with the agent's name in every place that is kept for it. Words need not be UTF-8.
fn filled_in(word: &OsStr, agent: &str) -> OsString {
    let mut rest = word.as_bytes();
    let mut filled = Vec::with_capacity(rest.len() + agent.len());
    while let Some((first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(PLACEHOLDER.as_bytes()) {
            filled.extend(agent.as_bytes());
            rest = after;
        } else {
            filled.push(*first);
            rest = after;
        }
    }
    OsString::from_vec(filled)
}

fn exit_code(ended: &Ended) -> u8 {
    if ended.cut_short == Some(CutShort::TimedOut) {
        return TIMED_OUT;
    }
    let code = ended.status.and_then(|status| {
        status.exit_status().or_else(|| Some(KILLED_BY + status.terminating_signal()?))
    });
    // Not even SIGKILL has ended it.
    let code = code.unwrap_or(KILLED_BY + signal_hook::consts::SIGKILL);
    u8::try_from(code).unwrap_or(u8::MAX)
}

fn status(ended: &Ended) -> &'static str {
    match ended.cut_short {
        Some(CutShort::TimedOut) => "timeout",
        Some(CutShort::Interrupted) => "cancelled",
        None if ended.status.and_then(rustix::process::WaitStatus::exit_status) == Some(0) => {
            "success"
        }
        None => "failure",
    }
}

fn outcome(
    question: &Value,
    decision: &Decision,
    status: &str,
    elapsed: Option<Duration>,
) -> Value {
    let now = Now::read();
    let unix_ms = u64::try_from(now.unix_ms).unwrap_or(0);
    let random: [u8; 10] = rand::rng().random();
    let event_id = uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid();
    let mut outcome = Map::new();
    let mut set = |field: &str, value: Value| outcome.insert(field.to_owned(), value);
    // Made once, so that a report whose answer was lost counts once however often it is sent.
    set("event_id", event_id.to_string().into());
    set("decision_id", decision.id.clone().into());
    set("agent_name", decision.agent.clone().into());
    for field in ["task_type", "context"] {
        if let Some(value) = question.get(field) {
            set(field, value.clone());
        }
    }
    let tenant = question.get("tenant_id").cloned();
    set("tenant_id", tenant.unwrap_or_else(|| DEFAULT_TENANT.into()));
    set("status", status.into());
    if let Some(elapsed) = elapsed {
        set("latency_ms", json!((elapsed.as_secs_f64() * 1e6).round() / 1e3));
    }
    set("timestamp", format_time(now.unix_ms).into());
    outcome.into()
}

/// How waiting for the next try ended.
#[derive(Clone, Copy)]
enum Pause {
    Over,
    Interrupted,
}

/// Reports the outcome. While the service is away it is tried again, until the deadline or until
/// somebody interrupts the pause.
fn report(
    client: &Client,
    outcome: &Value,
    deadline: Instant,
    pause_until: &mut impl FnMut(Instant) -> Pause,
) -> Result<()> {
    let mut said = false;
    loop {
        let away = match client.post("/api/learning/outcomes", outcome) {
            Ok(answer) if answer["accepted"] == 1 || answer["duplicates"] == 1 => return Ok(()),
            Ok(answer) => {
                let detail = answer["rejected"][0]["detail"].as_str();
                let detail = detail.map_or_else(|| answer.to_string(), str::to_owned);
                return Err(Error::invalid("", format!("it was rejected: {detail}")));
            }
            Err(Error::Unavailable(text)) => text,
            Err(error) => return Err(error),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left <= REPORT_PAUSE {
            return Err(Error::Unavailable(away));
        }
        if !said {
            said = true;
            let seconds = left.as_secs_f64().ceil();
            complain(&format!("can't report yet, trying for {seconds} s: {away}"));
        }
        if matches!(pause_until(Instant::now() + REPORT_PAUSE), Pause::Interrupted) {
            return Err(Error::Unavailable(format!("interrupted; {away}")));
        }
    }
}

/// JSON on one line that does nothing to a terminal.
fn one_line(value: &Value) -> String {
    use std::fmt::Write;
    let mut line = String::new();
    for character in value.to_string().chars() {
        // What is left of them stands in strings.
        if character.is_control() {
            let _ = write!(line, "\\u{:04x}", u32::from(character));
        } else {
            line.push(character);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        dispatch: Dispatch,
    }

    #[test]
    fn the_arguments_make_a_plan() {
        let line = "dispatch --task-type t --context size=3 --candidates a,b --tenant red \
                    --timeout 1.5 --url http://h -- run --timeout {agent}";
        let plan = Line::try_parse_from(line.split_whitespace()).unwrap().dispatch;
        let body = json!({
            "task_type": "t", "context": {"size": "3"}, "candidates": ["a", "b"], "tenant_id": "red",
        });
        let question = Question { body, words: vec!["size".to_owned()] };
        assert_eq!((plan.service.url.as_str(), plan.task.question()), ("http://h", Ok(question)));
        assert_eq!(plan.command, ["run", "--timeout", "{agent}"]);
        assert_eq!(plan.timeout, Some(Duration::from_millis(1_500)));
        assert!(Line::try_parse_from(["dispatch", "--", "run"]).is_err(), "a task type is needed");
        for wrong in ["0", "-1", "NaN", "inf", "1e9", "soon", "1e-12"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_name_is_filled_in_wherever_it_has_a_place() {
        let check = |word: &[u8], agent: &str, expected: &[u8]| {
            let filled = filled_in(OsStr::from_bytes(word), agent);
            assert_eq!(filled.as_bytes(), expected, "{word:?}");
        };
        check(b"{agent}", "a b", b"a b");
        check(b"--agent={agent},{agent}.", "\u{e9}'\"", "--agent=\u{e9}'\",\u{e9}'\".".as_bytes());
        check(b"{{agent}}", "a", b"{a}");
        check(b"{agent", "a", b"{agent");
        check(b"", "a", b"");
        check(b"{agent}{agent}", "{agent}", b"{agent}{agent}");
        check(b"\xff{agent}\xfe", "a", b"\xffa\xfe");
    }

    #[test]
    fn a_line_of_json_stays_one_and_says_the_same() {
        let value = json!({"agent_name": "a\nb\u{1b}c\u{7f}d\u{9b}e\u{2028}"});
        let line = one_line(&value);
        assert!(!line.chars().any(char::is_control), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).expect("it is JSON"), value);
    }

    #[test]
    fn a_report_is_given_up_at_its_deadline_or_when_interrupted() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("there is a free port");
        let client = Client::new(&format!("http://{nobody}")).expect("it is a URL");
        let check = |deadline: Instant, pauses: &[Pause]| {
            let mut taken = 0;
            let error = report(&client, &json!({}), deadline, &mut |_| {
                taken += 1;
                pauses[taken - 1]
            });
            assert!(matches!(error, Err(Error::Unavailable(_))), "{error:?}");
            assert_eq!(taken, pauses.len());
        };
        check(Instant::now(), &[]);
        let far = Instant::now() + REPORT_TIMEOUT;
        check(far, &[Pause::Over, Pause::Over, Pause::Interrupted]);
    }
}
