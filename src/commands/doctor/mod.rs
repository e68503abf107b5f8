//! `doctor`: looks at configuration, storage, service, brokers and what was learned, says what it
//! finds and what to do.
//!
//! It changes nothing and takes no lock, so it works beside a running service, and without one. What
//! it says of the model it says of the journal: the newest restart point with what came later.

use std::fmt::Write as _;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::fs::{Access as Permission, access, statvfs};
use serde::Serialize;
use serde_json::Value;

use crate::commands::client::{Client, TokenArgs};
use crate::commands::settings::Settings;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::evaluate::{LaterHalf, later_half};
use crate::http::access::Access;
use crate::learner::{Now, OTLP, restored};
use crate::logging::one_line;
use crate::model::{AgentPerformanceModel, Tenant};
use crate::outcome::Outcome;
use crate::sources::kafka::{self, KafkaOptions, TopicState};
use crate::store::{Counters, DATABASE_FILE, Entry, GO_ON, Position, SourceCounters, Store};

mod alike;

/// Longest wait for a connection, and for each answer of service and brokers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Room on the disk, in bytes, below which it is nearly full, and below which it is worth a word.
const ROOM_MIN: u64 = 64 << 20;
const ROOM_SMALL: u64 = 1 << 30;
/// Outcomes without which shares and means say nothing.
const SAMPLES_MIN: u64 = 30;
/// Outcomes of an agent from which on never to fail is suspicious.
const PERFECT_SAMPLES: u64 = 500;
/// Outcomes at the journal's end that are learned afresh, to see what was expected of their later
/// half.
const FORESEEN_MAX: u64 = 10_000;
/// Shares of records that can't be understood that are worth a word, and that are a failure.
const REJECTED_SMALL: f64 = 0.01;
const REJECTED_LARGE: f64 = 0.5;
/// Thresholds of the specification's alerts.
const FAILED_UPDATES_MAX: f64 = 0.05;
const UPDATE_MS_MAX: f64 = 1_000.0;
const KAFKA_LAG_MAX: i64 = 1_000;
/// Answers slower than this are slow; the median of a few.
const ANSWER_MS_MAX: f64 = 100.0;
const ANSWERS_TIMED: usize = 7;
/// Expected calibration error worth a word, with enough outcomes for it to mean something.
const CALIBRATION_ERROR_MAX: f64 = 0.1;
const CALIBRATION_SAMPLES: u64 = 200;
/// Names shown one by one.
const NAMES_SHOWN: usize = 5;
/// Outcomes of a source from which on it is judged by them.
const OUTCOMES_JUDGED: u64 = 20;

/// What came of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, but look at it.
    Warn,
    /// It does not work.
    Fail,
    /// It could not be looked at.
    Skip,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub check: &'static str,
    /// What came of it.
    pub state: State,
    /// What was found.
    pub finding: String,
    /// What to do; empty when there is nothing.
    pub action: String,
}

/// What to look at, and how to say it.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// What a running service is asked with.
    #[command(flatten)]
    token: TokenArgs,
    /// The settings of the service.
    #[command(flatten)]
    pub settings: Settings,
}

/// Exit code when a check fails.
pub const UNHEALTHY: u8 = 4;

/// All checks, in the order of what depends on what.
#[derive(Default)]
struct Report(Vec<Check>);

impl Report {
    fn add(
        &mut self,
        check: &'static str,
        state: State,
        finding: impl Into<String>,
        action: impl Into<String>,
    ) {
        self.0.push(Check { check, state, finding: finding.into(), action: action.into() });
    }

    fn ok(&mut self, check: &'static str, finding: impl Into<String>) {
        self.add(check, State::Ok, finding, "");
    }

    fn count(&self, state: State) -> usize {
        self.0.iter().filter(|check| check.state == state).count()
    }
}

/// Runs every check that can be run and prints them; returns the exit code.
///
/// # Errors
/// When nobody reads.
pub fn run(plan: &Doctor, out: &mut impl Write) -> Result<u8> {
    let mut report = Report::default();
    if let Some(config) = configuration(plan.settings.config(), &mut report) {
        let service = service(&config, plan, &mut report);
        let store = storage(&config, service.is_some(), &mut report);
        if let Some(options) = &config.kafka {
            kafka(options, store.as_ref(), &mut report);
        } else {
            report.add("kafka", State::Skip, "Kafka is off: outcomes come over HTTP", "");
        }
        match &store {
            Some(store) => learning(&config, store, service.as_ref(), &mut report),
            None => report.add("learning", State::Skip, "there is nothing stored to look at", ""),
        }
    }
    let printed = if plan.json { print_json(&report, out) } else { print_lines(&report, out) };
    printed.map_err(Error::unprinted)?;
    Ok(if report.count(State::Fail) > 0 { UNHEALTHY } else { 0 })
}

fn print_json(report: &Report, out: &mut impl Write) -> std::io::Result<()> {
    let body = serde_json::json!({
        "ok": report.count(State::Fail) == 0,
        "failed": report.count(State::Fail),
        "warnings": report.count(State::Warn),
        "checks": report.0,
    });
    writeln!(out, "{body:#}")
}

fn print_lines(report: &Report, out: &mut impl Write) -> std::io::Result<()> {
    for Check { check, state, finding, action } in &report.0 {
        let state = match state {
            State::Ok => "ok",
            State::Warn => "WARN",
            State::Fail => "FAIL",
            State::Skip => "-",
        };
        writeln!(out, "{state:<5} {check:<14} {}", one_line(finding))?;
        if !action.is_empty() {
            writeln!(out, "{:20} do: {}", "", one_line(action))?;
        }
    }
    let (failed, warnings) = (report.count(State::Fail), report.count(State::Warn));
    writeln!(out, "{} ok, {warnings} warnings, {failed} failed", report.count(State::Ok))
}

fn configuration(config: Result<Config>, report: &mut Report) -> Option<Config> {
    let checked = config.and_then(|config| {
        check_configuration(&config)?;
        Ok(config)
    });
    match checked {
        Ok(config) => {
            let tokens = match &config.access.tokens_file {
                Some(file) => format!("tokens of {}", file.display()),
                None => "no tokens".to_owned(),
            };
            report.ok(
                "configuration",
                format!("every setting is allowed; listens on {}, {tokens}", config.listen_addr),
            );
            Some(config)
        }
        Err(error) => {
            report.add(
                "configuration",
                State::Fail,
                error.to_string(),
                "set it to what is allowed; \"config print --effective\" shows where it comes from",
            );
            None
        }
    }
}

/// What a start checks beside the settings themselves: exposure, tokens, the brokers' password.
///
/// # Errors
/// [`Error::Config`] naming what is wrong.
pub fn check_configuration(config: &Config) -> Result<()> {
    config.check_exposure()?;
    Access::open(&config.access)?;
    match &config.kafka {
        Some(options) => kafka::Producer::new(options).map(drop),
        None => Ok(()),
    }
}

/// What a running service says of itself.
struct Running {
    /// `null` where the token does not reach it.
    status: Value,
}

/// The service at the configured address, if one runs.
fn service(config: &Config, plan: &Doctor, report: &mut Report) -> Option<Running> {
    let address = reachable(config.listen_addr);
    if let Err(error) = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
        report.add(
            "service",
            State::Skip,
            format!("nothing listens on {address} ({error}): no service runs there"),
            "start it, or set LISTEN_ADDR as the service has it",
        );
        return None;
    }
    let url = format!("http://{address}");
    let client = Client::with_timeout(&url, ANSWER_TIMEOUT)
        .and_then(|client| client.with_token_file(plan.token.token_file.as_deref()));
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            report.add("service", State::Fail, error.to_string(), "name a file with a token");
            return None;
        }
    };
    let alive = client.get("/livez");
    if !alive.as_ref().is_ok_and(|answer| answer["status"] == "ok") {
        let said = alive.map_or_else(|error| error.to_string(), |answer| answer.to_string());
        report.add(
            "service",
            State::Fail,
            format!("what listens on {address} does not answer as this service does: {said}"),
            "stop that program, or set LISTEN_ADDR to a free port; if it is this service, restart it",
        );
        return None;
    }
    let mut times_ms: Vec<f64> = (0..ANSWERS_TIMED)
        .map(|_| {
            let asked = Instant::now();
            // What it says does not matter here.
            let _ = client.get("/readyz");
            asked.elapsed().as_secs_f64() * 1_000.0
        })
        .collect();
    times_ms.sort_by(f64::total_cmp);
    let median = times_ms[ANSWERS_TIMED / 2];
    if median > ANSWER_MS_MAX {
        report.add(
            "answers",
            State::Warn,
            format!("the service at {url} takes {median:.0} ms for the simplest answer"),
            "give it more CPU, or fewer connections: status and metrics show what it does",
        );
    } else {
        report.ok("answers", format!("the service at {url} answers within {median:.1} ms"));
    }
    let status = match client.get("/api/learning/status") {
        Ok(status) => status,
        Err(error) => {
            report.add(
                "service",
                State::Warn,
                format!("it runs, but does not say how it is: {error}"),
                "--token-file names a token that may read",
            );
            return Some(Running { status: Value::Null });
        }
    };
    let uptime = status["uptime_seconds"].as_u64().unwrap_or(0);
    match status["trouble"].as_str() {
        Some(trouble) => report.add(
            "service",
            State::Fail,
            format!("it runs, but is degraded: {trouble}"),
            "as that says; it goes on by itself once the cause is gone",
        ),
        None => report.ok("service", format!("it has run for {}", span(uptime * 1_000))),
    }
    Some(Running { status })
}

/// Where a service that listens on `address` is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

/// Do outcomes say what kind of task they are of?
fn task_types(counters: &Counters, report: &mut Report) {
    let lacks = |(_, of): &(&String, &SourceCounters)| {
        of.accepted >= OUTCOMES_JUDGED && 2 * of.without_task_type > of.accepted
    };
    let found: Vec<_> = counters.sources.iter().filter(lacks).collect();
    if found.is_empty() {
        return report.ok("task types", "outcomes say what kind of task they are of");
    }
    let said = found
        .iter()
        .map(|(name, of)| format!("{} of {} from {name}", of.without_task_type, of.accepted));
    let said = said.collect::<Vec<_>>().join(", ");
    let is_telemetry = found.iter().any(|(name, _)| *name == OTLP);
    report.add(
        "task types",
        State::Warn,
        format!("outcomes have no task type, so that all tasks of an agent are one: {said}"),
        if is_telemetry {
            "name the attribute that has it in OTLP_TASK_TYPE, or ask for agents within the trace"
        } else {
            "send a task_type with outcomes, or a decision_id"
        },
    );
}

/// The state directory and its database; `None` when there is nothing to read.
fn storage(config: &Config, is_running: bool, report: &mut Report) -> Option<Store> {
    let directory = &config.storage_path;
    let shown = directory.display();
    match writable(directory) {
        Err(why) => report.add(
            "storage",
            State::Fail,
            format!("{shown}: {why}"),
            "give the service's user a directory that it may write to (MODEL_STORAGE_PATH)",
        ),
        Ok(at) => {
            let room =
                statvfs(&at).map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
            let free = format!("{shown} can be written to, {} MiB are free", room >> 20);
            let action = "make room, or lower JOURNAL_MAX_DAYS or JOURNAL_MAX_OUTCOMES";
            match room {
                ..ROOM_MIN => report.add("storage", State::Fail, free, action),
                ROOM_MIN..ROOM_SMALL => report.add("storage", State::Warn, free, action),
                _ => report.ok("storage", free),
            }
        }
    }
    let opened = Store::open_read_only(directory, config.store).and_then(Store::as_of_now);
    let store = match opened {
        Ok(store) => store,
        Err(Error::NotFound(why)) if !is_running => {
            report.add("database", State::Skip, format!("{why}: the first start makes it"), "");
            return None;
        }
        Err(Error::NotFound(why)) => {
            report.add(
                "database",
                State::Fail,
                format!("{why}, but a service runs: it has another directory"),
                "set MODEL_STORAGE_PATH as the service has it",
            );
            return None;
        }
        // An older schema, which a start takes.
        Err(Error::Conflict(why)) => {
            report.add("database", State::Warn, why, "start the service once");
            return None;
        }
        Err(error) => {
            report.add("database", State::Fail, error.to_string(), GO_ON);
            return None;
        }
    };
    match store.quick_check() {
        Ok(None) => {
            let sizes = store.sizes();
            let mib = |bytes: u64| bytes >> 20;
            report.ok(
                "database",
                format!("it is sound: {} MiB, its log {} MiB", mib(sizes.database), mib(sizes.log)),
            );
            Some(store)
        }
        Ok(Some(finding)) => {
            let finding = format!("the database is damaged: {finding}");
            report.add("database", State::Fail, finding, GO_ON);
            None
        }
        Err(error) => {
            report.add("database", State::Fail, error.to_string(), "as that says");
            None
        }
    }
}

/// Whether the directory, or the one in which it would be made, can be written to; which that is.
fn writable(directory: &Path) -> std::result::Result<PathBuf, String> {
    let there = directory.ancestors().find(|path| path.exists() || path.as_os_str().is_empty());
    let there = match there {
        Some(path) if !path.as_os_str().is_empty() => path,
        _ => Path::new("."),
    };
    if !there.is_dir() {
        return Err(format!("{} is no directory", there.display()));
    }
    match access(there, Permission::WRITE_OK | Permission::EXEC_OK) {
        Ok(()) => {}
        Err(error) => return Err(format!("{} can't be written to: {error}", there.display())),
    }
    let database = directory.join(DATABASE_FILE);
    match access(&database, Permission::READ_OK | Permission::WRITE_OK) {
        Err(error) if database.exists() => {
            Err(format!("{} can't be written to: {error}", database.display()))
        }
        _ => Ok(there.to_owned()),
    }
}

fn kafka(options: &KafkaOptions, store: Option<&Store>, report: &mut Report) {
    let (brokers, topic) = (&options.brokers, &options.topic);
    let state = match kafka::inspect(options, ANSWER_TIMEOUT) {
        Err(error) => {
            return report.add("brokers", State::Fail, error.to_string(), "mend that setting");
        }
        Ok(Err(why)) => {
            return report.add(
                "brokers",
                State::Fail,
                format!("{brokers} do not answer: {why}"),
                "start them, or mend KAFKA_BOOTSTRAP_SERVERS, KAFKA_SECURITY_PROTOCOL or the password",
            );
        }
        Ok(Ok(state)) => state,
    };
    report.ok("brokers", format!("{brokers} answer"));
    let Some(state) = state else {
        return report.add(
            "topic",
            State::Fail,
            format!("there is no topic {topic}"),
            "create it, or set KAFKA_OUTCOME_TOPIC; reading begins by itself",
        );
    };
    let partitions = state.watermarks.len();
    let records: i64 = state.watermarks.values().map(|(low, high)| high - low).sum();
    report.ok("topic", format!("{topic} has {partitions} partitions, {records} records"));
    match store.map(Store::positions) {
        Some(Ok(positions)) => position(options, &state, &positions, report),
        Some(Err(error)) => {
            report.add("position", State::Fail, error.to_string(), "as that says");
        }
        None => report.add("position", State::Skip, "nothing has been read yet", ""),
    }
}

/// How far the topic has been read: by our own positions, which count, and as the group shows it.
fn position(
    options: &KafkaOptions,
    state: &TopicState,
    positions: &[Position],
    report: &mut Report,
) {
    let ours = |partition: i32| {
        positions
            .iter()
            .find(|position| *position.topic == options.topic && position.partition == partition)
    };
    let mut lag = 0;
    let mut stopped = Vec::new();
    for (&partition, &(low, high)) in &state.watermarks {
        let Some(position) = ours(partition) else {
            lag += high - low;
            continue;
        };
        let is_other = !position.topic_id.is_empty()
            && !state.id.is_empty()
            && *position.topic_id != *state.id;
        if is_other || position.next_offset > high {
            stopped.push(partition.to_string());
        } else {
            lag += high - position.next_offset.max(low);
        }
    }
    let behind = state
        .committed
        .iter()
        .filter_map(|(partition, offset)| Some(state.watermarks.get(partition)?.1 - offset));
    let group = if state.committed.is_empty() {
        format!("the group {} shows no progress yet", options.group)
    } else {
        format!("the group {} shows {}", options.group, behind.sum::<i64>())
    };
    let finding = format!("{lag} records are not read yet; {group}");
    if !stopped.is_empty() {
        let finding = format!(
            "partitions {} hold another log than the one that was read",
            stopped.join(", ")
        );
        let action = "find out why; then start once with --kafka-reset-positions";
        report.add("position", State::Fail, finding, action);
    } else if lag > KAFKA_LAG_MAX {
        let action = "is the service running? Else raise MODEL_BATCH_SIZE, or give it more CPU";
        report.add("position", State::Warn, finding, action);
    } else {
        report.ok("position", finding);
    }
}

fn learning(config: &Config, store: &Store, service: Option<&Running>, report: &mut Report) {
    let counters = match store.counters() {
        Ok(counters) => counters,
        Err(error) => {
            return report.add("learning", State::Fail, error.to_string(), "restore a backup");
        }
    };
    let now_ms = Now::read().unix_ms;
    events(&counters, store, now_ms, report);
    updates(config, &counters, service, now_ms, report);
    if counters.accepted == 0 {
        return;
    }
    let model = match restored(store, config.learner.settings) {
        Ok(model) => model,
        Err(error) => {
            return report.add(
                "model",
                State::Fail,
                format!("it can't be restored: {error}"),
                GO_ON,
            );
        }
    };
    report.ok(
        "model",
        format!(
            "it can be restored: {} outcomes of {} agents",
            model.total().learned,
            model.tenants().map(|(_, tenant)| tenant.agents().len()).sum::<usize>()
        ),
    );
    quality(&model, report);
    task_types(&counters, report);
    alike::look_alikes(&model, report);
    alike::units(&model, report);
    match last_outcomes(store, &counters) {
        Ok(outcomes) => calibration(&later_half(&outcomes, config.learner.settings), report),
        Err(error) => report.add("calibration", State::Skip, error.to_string(), ""),
    }
}

fn last_outcomes(store: &Store, counters: &Counters) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    if let Some(oldest) = store.oldest_sequence()? {
        let last = counters.learned_sequence;
        let after = last.saturating_sub(FORESEEN_MAX).max(oldest.saturating_sub(1));
        store.replay(after, counters.last_sequence, |sequence, entry| {
            match entry {
                Entry::Outcome(outcome) if sequence <= last => outcomes.push(outcome),
                Entry::Control(control) => outcomes.extend(control.outcome()),
                Entry::Outcome(_) | Entry::Activation(_) => {}
            }
            Ok(())
        })?;
    }
    Ok(outcomes)
}

/// Do outcomes arrive, and can they be understood?
fn events(counters: &Counters, store: &Store, now_ms: i64, report: &mut Report) {
    let rejected = counters.rejected_total();
    let all = counters.accepted + counters.duplicates + rejected;
    if all == 0 {
        return report.add(
            "events",
            State::Warn,
            "no outcome has come yet",
            "report one to /api/learning/outcomes, import a file, or set KAFKA_BOOTSTRAP_SERVERS",
        );
    }
    let age = u64::try_from(now_ms - counters.last_event_ms).unwrap_or(0);
    let last = match counters.last_event_ms {
        0 => "none of them new".to_owned(),
        _ => format!("the last new one {} ago", span(age)),
    };
    let came = format!(
        "{} new, {} known already, {rejected} not understood; {last}",
        counters.accepted, counters.duplicates
    );
    let share = share(rejected, all);
    if share <= REJECTED_SMALL {
        return report.ok("events", came);
    }
    let mut reasons: Vec<_> = counters.rejected.iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let reasons: Vec<String> =
        reasons.iter().map(|(code, count)| format!("{code} {count}")).collect();
    let kept =
        store.dead_letter_codes().map_or(0, |codes| codes.iter().map(|(_, n)| n).sum::<u64>());
    let state = if share >= REJECTED_LARGE { State::Fail } else { State::Warn };
    report.add(
        "events",
        state,
        format!("{came} ({})", reasons.join(", ")),
        format!(
            "mend the producer; GET /api/learning/dead-letters shows the {kept} that are kept, and \
             they can be replayed"
        ),
    );
}

/// Is what arrives learned, and soon?
fn updates(
    config: &Config,
    counters: &Counters,
    service: Option<&Running>,
    now_ms: i64,
    report: &mut Report,
) {
    let waiting = counters.last_sequence - counters.learned_sequence;
    let age = u64::try_from(now_ms - counters.last_event_ms).unwrap_or(0);
    let patience = config.learner.batch_timeout + Duration::from_mins(1);
    let updates = counters.total_updates();
    let trouble = service.and_then(|service| service.status["trouble"].as_str());
    if let Some(trouble) = trouble {
        report.add(
            "learning",
            State::Fail,
            format!("the model is not updated: {trouble}; {waiting} outcomes wait"),
            "as that says; nothing acknowledged is lost",
        );
    } else if waiting > 0 && service.is_some() && Duration::from_millis(age) > patience {
        report.add(
            "learning",
            State::Fail,
            format!("{waiting} outcomes have waited for {} and are not learned", span(age)),
            "is this the service's directory? Else its log says why: restart it",
        );
    } else if updates >= SAMPLES_MIN && share(counters.failed_updates, updates) > FAILED_UPDATES_MAX
    {
        report.add(
            "learning",
            State::Warn,
            format!("{} of {updates} updates failed", counters.failed_updates),
            "the log says why: mostly a disk that was full or slow",
        );
    } else if counters.accepted >= SAMPLES_MIN && counters.samples_processed == 0 {
        report.add(
            "learning",
            State::Warn,
            "no outcome has a status to learn from: all are cancelled or pending",
            "report success, failure, partial or timeout",
        );
    } else {
        let when = match service {
            _ if waiting == 0 => String::new(),
            Some(_) => format!(", {waiting} wait for a full micro-batch"),
            None => format!(", {waiting} are learned at the next start"),
        };
        report.ok("learning", format!("{} outcomes learned{when}", counters.samples_processed));
    }
    let mean = counters.avg_update_time_ms();
    if mean > UPDATE_MS_MAX {
        report.add(
            "update time",
            State::Fail,
            format!("a micro-batch takes {mean:.0} ms"),
            "a faster disk, a smaller MODEL_BATCH_SIZE, or SQLITE_SYNCHRONOUS=normal",
        );
    } else if updates > 0 {
        report.ok("update time", format!("a micro-batch takes {mean:.1} ms"));
    }
}

/// What of the data, or of the settings, keeps predictions from being good.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn quality(model: &AgentPerformanceModel, report: &mut Report) {
    let learned = model.total().learned;
    let agents: Vec<(&str, &crate::model::Agent)> =
        model.tenants().flat_map(|(_, tenant)| tenant.agents()).collect();
    if learned < SAMPLES_MIN {
        report.add(
            "data",
            State::Warn,
            format!("only {learned} outcomes are learned: predictions are mostly prior"),
            "report more; serve --import feeds recorded ones",
        );
    } else {
        let few = agents.iter().filter(|(_, agent)| agent.tally.learned < 5);
        let few: Vec<&str> = few.map(|(name, _)| *name).collect();
        if few.is_empty() {
            report.ok("data", format!("{learned} outcomes, every agent has at least 5"));
        } else {
            report.add(
                "data",
                State::Warn,
                format!("{} agents have fewer than 5 outcomes: {}", few.len(), names(&few)),
                "they are tried out as they are asked for; leave explore on",
            );
        }
    }

    let settings = model.settings();
    let (alpha, beta) = settings.prior();
    let prior = alpha + beta;
    let weak = agents.iter().filter(|(_, agent)| (agent.tally.learned as f64) < prior);
    let weak: Vec<&str> = weak.map(|(name, _)| *name).collect();
    if prior > 2.0 && 2 * weak.len() > agents.len() {
        report.add(
            "priors",
            State::Warn,
            format!(
                "the prior weighs as much as {prior} outcomes, more than {} of {} agents have: {}",
                weak.len(),
                agents.len(),
                names(&weak)
            ),
            "lower MODEL_PRIOR_ALPHA and MODEL_PRIOR_BETA",
        );
    } else if settings.learns_prior() {
        report.ok("priors", "what agents have in common is learned from them".to_owned());
    } else {
        report.ok("priors", format!("the prior weighs as much as {prior} outcomes"));
    }

    let constant: Vec<&str> =
        model.tenants().flat_map(|(_, tenant)| constant_keys(tenant)).collect();
    let keys: usize = model.tenants().map(|(_, tenant)| tenant.context_keys().len()).sum();
    if constant.is_empty() {
        report.ok("context", format!("{keys} context features, each of them varies"));
    } else {
        report.add(
            "context",
            State::Warn,
            format!("context features that never vary tell nothing: {}", names(&constant)),
            "send what differs between tasks, or leave them out",
        );
    }

    let perfect = agents
        .iter()
        .filter(|(_, agent)| agent.tally.learned >= PERFECT_SAMPLES && agent.tally.missed() == 0.0);
    let perfect: Vec<&str> = perfect.map(|(name, _)| *name).collect();
    if perfect.is_empty() {
        report.ok("failures", "no agent is suspiciously perfect");
    } else {
        report.add(
            "failures",
            State::Warn,
            format!("never failed in {PERFECT_SAMPLES} outcomes or more: {}", names(&perfect)),
            "find out whether their failures and timeouts are reported at all",
        );
    }
}

fn constant_keys(tenant: &Tenant) -> impl Iterator<Item = &str> {
    tenant
        .context_keys()
        .filter(|(_, key)| key.outcomes >= SAMPLES_MIN && key.distinct() == 1 && key.other == 0)
        .map(|(name, _)| name)
}

/// Was what the model expected what came?
fn calibration(half: &LaterHalf, report: &mut Report) {
    let &LaterHalf { samples, brier, brier_of_mean, calibration_error } = half;
    if samples < CALIBRATION_SAMPLES {
        let finding =
            format!("{samples} outcomes are too few to judge, {CALIBRATION_SAMPLES} would do");
        return report.add("calibration", State::Skip, finding, "");
    }
    let finding = format!(
        "over the last {samples} outcomes the Brier score is {brier:.3} (the mean alone: \
         {brier_of_mean:.3}), expectations are off by {calibration_error:.3} on average"
    );
    if brier > brier_of_mean * 1.02 || calibration_error > CALIBRATION_ERROR_MAX {
        report.add(
            "calibration",
            State::Warn,
            finding,
            "do agents change, or does the context lack what decides? Send context that does",
        );
    } else {
        report.ok("calibration", finding);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

/// A few names, and how many more there are.
fn names(names: &[&str]) -> String {
    let mut text = String::new();
    for (place, name) in names.iter().take(NAMES_SHOWN).enumerate() {
        let comma = if place > 0 { ", " } else { "" };
        // Writing to a String can't fail.
        let _ = write!(text, "{comma}{}", name.escape_debug());
    }
    if names.len() > NAMES_SHOWN {
        let _ = write!(text, " and {} more", names.len() - NAMES_SHOWN);
    }
    text
}

/// A span of time, for people.
fn span(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_said_in_the_unit_that_fits() {
        let said = [0, 119_999, 120_000, 7_200_000, 172_800_000].map(span);
        assert_eq!(said, ["0 s", "119 s", "2 min", "2 h", "2 days"]);
    }

    #[test]
    fn a_wildcard_is_reached_over_loopback() {
        let reach = |address: &str| reachable(address.parse().unwrap()).to_string();
        assert_eq!(reach("0.0.0.0:8000"), "127.0.0.1:8000");
        assert_eq!(reach("[::]:1"), "[::1]:1");
        assert_eq!(reach("192.0.2.7:80"), "192.0.2.7:80");
    }

    #[test]
    fn many_names_are_cut_and_none_breaks_the_line() {
        assert_eq!(names(&["a", "b\n"]), "a, b\\n");
        assert_eq!(names(&["a"; 7]), "a, a, a, a, a and 2 more");
    }

    #[track_caller]
    fn check(state: &TopicState, next_offset: i64, id: &str, expected: State, says: &str) {
        let options = KafkaOptions {
            brokers: "b:1".to_owned(),
            topic: "t".to_owned(),
            group: "g".to_owned(),
            offset_reset: kafka::OffsetReset::Earliest,
            reset_positions: false,
            alert_topic: None,
            dead_letter_topic: None,
            compression: "none".to_owned(),
            security_protocol: "PLAINTEXT".to_owned(),
            ssl_ca_location: None,
            sasl: None,
        };
        let position = Position {
            topic: "t".into(),
            partition: 0,
            next_offset,
            topic_id: id.into(),
            ..Position::default()
        };
        let mut report = Report::default();
        super::position(&options, state, &[position], &mut report);
        assert_eq!(report.0[0].state, expected, "{:?}", report.0);
        assert!(report.0[0].finding.contains(says), "{:?}", report.0);
    }

    #[test]
    fn positions_are_judged_by_what_the_brokers_hold() {
        let state = TopicState {
            id: "id".to_owned(),
            watermarks: [(0, (10, 2_000)), (1, (0, 5))].into(),
            committed: [(0, 1_990)].into(),
        };
        check(&state, 2_000, "id", State::Ok, "5 records are not read yet; the group g shows 10");
        check(&state, 500, "", State::Warn, "1505 records");
        // Retention took what is before 10.
        check(&state, 0, "id", State::Warn, "1995 records");
        check(&state, 2_001, "id", State::Fail, "partitions 0 hold another log");
        check(&state, 20, "other", State::Fail, "partitions 0 hold another log");
    }

    #[test]
    fn updates_that_fail_too_often_are_pointed_out() {
        let config = Config::resolve(|_| None).expect("nothing is set");
        let judged = |successful_updates, failed_updates| {
            let counters = Counters { successful_updates, failed_updates, ..Counters::default() };
            let mut report = Report::default();
            updates(&config, &counters, None, 0, &mut report);
            let check = &report.0[0];
            (check.state, check.finding.clone())
        };
        assert_eq!(judged(28, 2).0, State::Warn);
        assert_eq!(judged(94, 6), (State::Warn, "6 of 100 updates failed".to_owned()));
        assert_eq!(judged(95, 5).0, State::Ok, "one in twenty is not too often");
        assert_eq!(judged(26, 3).0, State::Ok, "29 updates say little");
    }
}
