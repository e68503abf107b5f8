//! The command line: arguments to a [`Command`], without any I/O, and what each command runs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, ValueHint, value_parser};
use clap_complete::Shell;
use serde_json::{Map, Value, json};

use crate::commands::client::{Client, Question};
use crate::commands::{
    backup, dispatch, doctor, emit, evaluate, help, import, mcp, replay, simulate, transfer, verify,
};
use crate::config::{Config, OPTIONS};
use crate::error::{Error, Result};
use crate::evaluate::log::{Plan, print as print_evaluation};
use crate::http::client::CLIENTS;
use crate::logging::one_line;
use crate::outcome::DEFAULT_TENANT;
use crate::service;
use crate::sources::formats;

const URL: &str = "http://127.0.0.1:8000";
const EXIT_STATUS: &str = "Exit status: 0 after success, 1 after a failure, 2 when the \
                           configuration or the arguments are wrong.";
const DOCTOR_EXIT_STATUS: &str = "Exit status: 0 when nothing fails, 4 when something does; \
                                  warnings change nothing in it.";
const DISPATCH_EXIT_STATUS: &str = "Exit status: the command's own; 128 and the signal's number \
                                    when a signal killed it, 124 when it was stopped by \
                                    --timeout, 127 when it was not found, 126 when it can't be \
                                    run. 1 when the service gave no agent and nothing was run, 2 \
                                    when the arguments are wrong. An outcome that can't be \
                                    reported is said on standard error and changes nothing in it.";
/// Longest time limit of a command: a year.
const TIMEOUT_SECONDS_MAX: f64 = 31_536_000.0;

/// The command line as clap sees it.
pub fn command() -> clap::Command {
    let settings = || OPTIONS.iter().map(setting);
    clap::Command::new("online-learning")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Learns from outcome events which AI agent to choose for a task")
        .after_help(EXIT_STATUS)
        .args(settings())
        .args_conflicts_with_subcommands(true)
        // Ours knows the topics of the documentation, too.
        .disable_help_subcommand(true)
        .subcommand(
            clap::Command::new("serve")
                .about("Run the service (the default)")
                .arg(
                    Arg::new("import")
                        .long("import")
                        .value_name("FILE")
                        .help("First feed these recorded outcomes; known ones are skipped")
                        .value_hint(ValueHint::FilePath)
                        .value_parser(value_parser!(PathBuf)),
                )
                .arg(start_empty(
                    "Move a state that is refused aside, where it is kept, and start empty",
                ))
                .args(settings()),
        )
        .subcommand(import_command())
        .subcommand(
            clap::Command::new("emit")
                .about("Write recorded outcomes (JSON Lines or CSV) to the Kafka topic")
                .arg(
                    Arg::new("file")
                        .value_name("FILE")
                        .help("File to read; - for standard input")
                        .value_hint(ValueHint::FilePath)
                        .value_parser(value_parser!(PathBuf))
                        .required(true),
                )
                .args(settings()),
        )
        .subcommand(predict_command())
        .subcommand(dispatch_command())
        .subcommand(replay_command())
        .subcommand(evaluate_command())
        .subcommand(
            clap::Command::new("mcp")
                .about("Speak the Model Context Protocol on standard input and output, for a running service")
                .args(service()),
        )
        .subcommand(
            clap::Command::new("simulate")
                .about("Play a stream of tasks against a running service and watch it learn")
                .args(service())
                .arg(
                    text("tasks", "N", "Tasks to play")
                        .default_value("600")
                        .value_parser(value_parser!(u32).range(1..)),
                )
                .arg(
                    text("window", "N", "Tasks per printed line")
                        .default_value("100")
                        .value_parser(value_parser!(u32).range(1..)),
                )
                .arg(
                    text("seed", "SEED", "Another seed is another world")
                        .default_value("1")
                        .value_parser(value_parser!(u64)),
                ),
        )
        .subcommand(doctor_command())
        .subcommands(day_two_commands())
        .subcommand(config_command())
        .subcommand(
            clap::Command::new("client")
                .about("Print a client in one file, for programs that ask for agents")
                .arg(
                    Arg::new("language")
                        .required(true)
                        .value_parser(CLIENTS.map(|client| client.language)),
                ),
        )
        .subcommand(
            clap::Command::new("completions")
                .about("Print completions for a shell")
                .arg(Arg::new("shell").required(true).value_parser(value_parser!(Shell))),
        )
        .subcommand(help_command())
}

fn import_command() -> clap::Command {
    let is_foreign = |arg: Arg| arg.requires("foreign");
    clap::Command::new("import")
        .about("Feed recorded outcomes (JSON Lines, CSV, other tools' files) through the path of live ones")
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .help("Files to read; - for standard input")
                .value_hint(ValueHint::FilePath)
                .value_parser(value_parser!(PathBuf))
                .num_args(1..)
                .required(true),
        )
        .arg(
            text("from", "FORMAT", "Whose format they are in, where it is not our own")
                .value_parser(formats::NAMES),
        )
        .arg(
            text("map", "FILE", "A map of your own: which of a record's values become what")
                .value_hint(ValueHint::FilePath)
                .value_parser(value_parser!(PathBuf)),
        )
        .group(ArgGroup::new("foreign").args(["from", "map"]))
        .arg(is_foreign(
            Arg::new("map-check")
                .long("map-check")
                .help("Only print the first 5 events that they would give")
                .action(ArgAction::SetTrue),
        ))
        .arg(is_foreign(
            text("agents", "AGENT,AGENT", "Only the records of these agents")
                .action(ArgAction::Append)
                .value_delimiter(','),
        ))
        .arg(is_foreign(
            text("score", "SCORE,SCORE", "Which scores count, of records that have several")
                .action(ArgAction::Append)
                .value_delimiter(','),
        ))
        .arg(is_foreign(text("task-type", "TASK_TYPE", "The task type of records that name none")))
        .arg(
            Arg::new("url")
                .long("url")
                .value_name("URL")
                .help("Send to the service there, instead of opening the storage"),
        )
        .arg(token_file())
        .args(OPTIONS.iter().map(setting))
}

/// What the arguments of `import` ask for.
fn imported(matches: &ArgMatches) -> import::Plan {
    let texts =
        |name: &str| matches.get_many::<String>(name).into_iter().flatten().cloned().collect();
    let choices = formats::Choices {
        agents: texts("agents"),
        scores: texts("score"),
        task_type: matches.get_one("task-type").cloned(),
        ..formats::Choices::default()
    };
    let format = match (matches.get_one::<String>("from"), matches.get_one::<PathBuf>("map")) {
        (Some(name), _) => import::Format::Named(name.clone(), choices),
        (_, Some(map)) => import::Format::Mapped(map.clone(), choices),
        (None, None) => import::Format::Own,
    };
    import::Plan {
        files: matches.get_many("files").into_iter().flatten().cloned().collect(),
        format,
        url: matches.get_one("url").cloned(),
        token_file: matches.get_one("token-file").cloned(),
        only_check: matches.get_flag("map-check"),
    }
}

fn help_command() -> clap::Command {
    clap::Command::new("help")
        .about("Print the documentation on a topic, or the help of a command; both are listed")
        .arg(
            Arg::new("topic")
                .value_name("TOPIC")
                .help("Topic, or command; without one, all are listed")
                .num_args(0..),
        )
}

fn replay_command() -> clap::Command {
    let strategies = crate::model::Strategy::ALL.map(crate::model::Strategy::as_str);
    clap::Command::new("replay")
        .about("Play streams whose outcomes are all known: what would have been chosen?")
        .arg(
            Arg::new("files")
                .value_name("FILE")
                .help("Streams as JSON Lines, or tables (.csv: task_type, ctx_*, a 0/1 column per agent)")
                .value_hint(ValueHint::FilePath)
                .value_parser(value_parser!(PathBuf))
                .num_args(1..)
                .required(true),
        )
        .arg(
            text("strategy", "STRATEGY,STRATEGY", "Which strategies play")
                .default_value("thompson")
                .action(ArgAction::Append)
                .value_delimiter(',')
                .value_parser(strategies),
        )
        .arg(
            text("objective", "OBJECTIVE,OBJECTIVE", "By what each strategy chooses")
                .default_value("success")
                .action(ArgAction::Append)
                .value_delimiter(',')
                .value_parser(crate::model::Preset::ALL.map(crate::model::Preset::as_str)),
        )
        .arg(
            text("costs", "FILE", "A CSV table of what an execution costs: agent, cost")
                .value_hint(ValueHint::FilePath)
                .value_parser(value_parser!(PathBuf)),
        )
        .arg(
            text("permutations", "N", "Play each file in N random orders; 0: as it is")
                .default_value("0")
                .value_parser(value_parser!(u64).range(0..=1_000_000)),
        )
        .arg(
            text("seed", "SEED", "Makes the draws others")
                .default_value("0")
                .value_parser(value_parser!(u64)),
        )
        .arg(
            text("out", "FILE", "Write a CSV row per run")
                .value_hint(ValueHint::FilePath)
                .value_parser(value_parser!(PathBuf)),
        )
}

fn evaluate_command() -> clap::Command {
    clap::Command::new("evaluate")
        .about("What would another policy have earned on the logged decisions?")
        .arg(text("policy", "POLICY", "greedy, thompson, agent:NAME or version:ID").required(true))
        .arg(text(
            "since",
            "TIME",
            "Only decisions made then or later, such as 2026-11-23T10:00:00Z",
        ))
        .arg(text("tenant", "TENANT", "Whose decisions").default_value(DEFAULT_TENANT))
        .arg(
            text(
                "max-left-out",
                "SHARE",
                "The largest share of what the policy would choose that may be left out, 0 to 1",
            )
            .default_value("0.5"),
        )
        .arg(text("url", "URL", "Ask the service there, instead of reading the storage beside it"))
        .arg(
            text("format", "FORMAT", "How to print the report")
                .default_value("table")
                .value_parser(["table", "json"]),
        )
        .args(OPTIONS.iter().map(setting))
}

/// What the arguments of `evaluate` ask for.
fn evaluated(matches: &ArgMatches) -> Result<Plan> {
    let fields = [
        ("policy", "policy"),
        ("since", "since"),
        ("tenant", "tenant_id"),
        ("max-left-out", "max_left_out"),
    ];
    let body = fields.into_iter().filter_map(|(flag, field)| {
        let text = matches.get_one::<String>(flag)?.as_str();
        let number = text.parse::<f64>().ok().filter(|_| flag == "max-left-out");
        Some((field.to_owned(), number.map_or_else(|| text.into(), Value::from)))
    });
    Plan::of(body.collect()).map_err(|error| match error {
        Error::Invalid { pointer, detail } => {
            let flag = pointer.trim_start_matches('/').trim_end_matches("_id").replace('_', "-");
            Error::Config(format!("--{flag} {detail}"))
        }
        other => other,
    })
}

fn doctor_command() -> clap::Command {
    clap::Command::new("doctor")
        .about("Look for what is wrong, and say what to do; also beside a running service")
        .after_help(DOCTOR_EXIT_STATUS)
        .arg(json_flag())
        .arg(token_file())
        .args(OPTIONS.iter().map(setting))
}

fn start_empty(help: &'static str) -> Arg {
    Arg::new("start-empty").long("start-empty").help(help).action(ArgAction::SetTrue)
}

fn file(help: &'static str) -> Arg {
    Arg::new("file")
        .value_name("FILE")
        .help(help)
        .value_hint(ValueHint::FilePath)
        .value_parser(value_parser!(PathBuf))
        .required(true)
}

/// What is done to a directory of a service that has been running for a while.
fn day_two_commands() -> [clap::Command; 6] {
    let settings = || OPTIONS.iter().map(setting);
    [
        clap::Command::new("backup")
            .about("Write the whole state to one file, also beside a running service, and check it")
            .arg(file("File to write; it must not be there yet"))
            .args(settings()),
        clap::Command::new("restore")
            .about("Fill an empty state directory from a backup")
            .arg(file("Backup to read"))
            .arg(
                Arg::new("check")
                    .long("check")
                    .help("Only say whether it could be restored")
                    .action(ArgAction::SetTrue),
            )
            .arg(start_empty("Move what the directory holds aside first, where it is kept"))
            .args(settings()),
        clap::Command::new("export")
            .about("Print the model of a saved version, as JSON with its digest")
            .arg(
                Arg::new("version")
                    .value_name("VERSION")
                    .help("Such as agent_selection-3")
                    .required(true),
            )
            .args(settings()),
        clap::Command::new("import-model")
            .about("Make an exported model the active version")
            .arg(file("What export printed"))
            .arg(
                Arg::new("url")
                    .long("url")
                    .value_name("URL")
                    .help("Send it to the service there, instead of opening the storage"),
            )
            .arg(token_file())
            .args(settings()),
        clap::Command::new("verify")
            .about("Learn the journal again and compare the model with it, also beside a service")
            .args(settings()),
        clap::Command::new("man")
            .about("Write a manual page per command into a directory")
            .hide(true)
            .arg(file("Directory to write to")),
    ]
}

fn config_command() -> clap::Command {
    let settings = || OPTIONS.iter().map(setting);
    let effective = Arg::new("effective")
        .long("effective")
        .help("Every setting, defaults included")
        .action(ArgAction::SetTrue);
    clap::Command::new("config")
        .about("Check or print the configuration")
        .subcommand_required(true)
        .subcommand(
            clap::Command::new("check")
                .about("Say whether the service would start with it")
                .args(settings()),
        )
        .subcommand(
            clap::Command::new("print")
                .about("Print what is set, and where each value comes from")
                .arg(effective)
                .arg(json_flag())
                .args(settings()),
        )
}

fn replayed(matches: &ArgMatches) -> replay::Plan {
    let named = |name: &String| {
        crate::model::Strategy::ALL.into_iter().find(|strategy| strategy.as_str() == name)
    };
    let preset = |name: &String| {
        crate::model::Preset::ALL.into_iter().find(|preset| preset.as_str() == name)
    };
    replay::Plan {
        objectives: matches
            .get_many("objective")
            .into_iter()
            .flatten()
            .filter_map(preset)
            .collect(),
        costs: matches.get_one("costs").cloned(),
        files: matches.get_many("files").into_iter().flatten().cloned().collect(),
        strategies: matches.get_many("strategy").into_iter().flatten().filter_map(named).collect(),
        permutations: matches.get_one("permutations").copied().unwrap_or(0),
        seed: matches.get_one("seed").copied().unwrap_or(0),
        out: matches.get_one("out").cloned(),
    }
}

fn predict_command() -> clap::Command {
    clap::Command::new("predict")
        .about("Ask a running service for agents")
        .args(service())
        .args(task())
        .arg(
            text("top-k", "K", "How many agents")
                .default_value("3")
                .value_parser(value_parser!(u64).range(1..=1000)),
        )
        .arg(text("seed", "SEED", "Makes the draw reproducible").value_parser(value_parser!(u64)))
        .arg(
            Arg::new("no-explore")
                .long("no-explore")
                .help("Rank by expected success instead of a draw")
                .action(ArgAction::SetTrue),
        )
        .arg(
            Arg::new("explain")
                .long("explain")
                .help("Say what each score is made of")
                .action(ArgAction::SetTrue),
        )
        .arg(
            text("format", "FORMAT", "How to print the answer")
                .default_value("table")
                .value_parser(["table", "json"]),
        )
}

fn dispatch_command() -> clap::Command {
    let [task_type, others @ ..] = task();
    clap::Command::new("dispatch")
        .about("Run a command with the agent that a running service chooses, report the outcome")
        .after_help(DISPATCH_EXIT_STATUS)
        .args(service())
        .arg(task_type.required(true))
        .args(others)
        .arg(
            text("timeout", "SECONDS", "Stop the command, and all it started, after this time")
                .value_parser(seconds),
        )
        .arg(
            Arg::new("command")
                .value_name("COMMAND")
                .help(
                    "Command and its arguments; every {agent} in them becomes the agent's name, \
                     which is in the variable ONLINE_LEARNING_AGENT too",
                )
                .num_args(1..)
                .last(true)
                .required(true)
                .value_parser(value_parser!(OsString)),
        )
}

/// The arguments that describe a task; `task-type` is the first.
fn task() -> [Arg; 10] {
    let limit = |name: &'static str, help: &'static str| {
        text(name, "NUMBER", help).value_parser(value_parser!(f64)).allow_hyphen_values(true)
    };
    [
        text("task-type", "TASK_TYPE", "Kind of the task"),
        text(
            "context",
            "KEY=VALUE",
            "What is known of the task: a number or boolean where the service knows KEY as one, else \
             a text; KEY:=JSON says it itself; repeat for more",
        )
            .action(ArgAction::Append),
        text("candidates", "AGENT,AGENT", "Only these agents")
            .action(ArgAction::Append)
            .value_delimiter(','),
        text("tenant", "TENANT", "Whose agents"),
        text("objective", "OBJECTIVE", "What to choose by, instead of success alone")
            .value_parser(crate::model::Preset::ALL.map(crate::model::Preset::as_str)),
        limit("max-latency-ms", "Only agents whose executions take at most this"),
        limit("max-cost", "Only agents whose executions cost at most this"),
        limit("min-success", "Only agents with at least this chance of success"),
        limit("min-quality", "Only agents with at least this mean quality"),
        text("on-unknown", "WHAT", "What becomes of agents too little known to judge by these")
            .value_parser(crate::model::OnUnknown::ALL.map(crate::model::OnUnknown::as_str)),
    ]
}

fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=TIMEOUT_SECONDS_MAX).contains(seconds));
    let duration = seconds.map(Duration::from_secs_f64).filter(|duration| !duration.is_zero());
    duration
        .ok_or_else(|| format!("allowed is a number greater than 0 up to {TIMEOUT_SECONDS_MAX}"))
}

fn setting(option: &crate::config::Opt) -> Arg {
    let help = match option.default {
        "" => option.help.to_owned(),
        default => format!("{} [default: {default}]", option.help),
    };
    let setting = Arg::new(option.env)
        .long(option.flag)
        .env(option.env)
        .value_name("VALUE")
        .help(help)
        .hide_env_values(true);
    match option.default {
        // What is off may be turned on by its bare flag.
        "false" => setting.num_args(0..=1).default_missing_value("true"),
        _ => setting.allow_hyphen_values(true),
    }
}

fn url() -> Arg {
    Arg::new("url")
        .long("url")
        .env("ONLINE_LEARNING_URL")
        .value_name("URL")
        .help("Where the service runs")
        .default_value(URL)
}

fn json_flag() -> Arg {
    Arg::new("json").long("json").help("Print JSON").action(ArgAction::SetTrue)
}

fn token_file() -> Arg {
    text("token-file", "FILE", "File with the token that the service wants")
        .env("ONLINE_LEARNING_TOKEN_FILE")
        .value_hint(ValueHint::FilePath)
        .value_parser(value_parser!(PathBuf))
}

/// A running service.
fn service() -> [Arg; 2] {
    [url(), token_file()]
}

fn text(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// What the arguments ask for.
#[derive(Debug)]
pub enum Command {
    /// Run the service.
    Serve(Settings, service::Plan),
    /// Import into the storage, or through a service.
    Import(Settings, import::Plan),
    /// Write to the topic.
    Emit(Settings, PathBuf),
    /// Ask for agents: the service, a file with its token, the request, whether to print the raw
    /// answer.
    Predict(String, Option<PathBuf>, Question, bool),
    /// Run a command with an agent.
    Dispatch(dispatch::Plan),
    /// Play recorded streams through the model.
    Replay(replay::Plan),
    /// Evaluate a policy: in the storage or, given its address, by a service; whether to print the
    /// raw report.
    Evaluate(Settings, Option<String>, Plan, bool),
    /// Play a stream of tasks.
    Simulate(simulate::Plan),
    /// Speak the Model Context Protocol.
    Mcp {
        /// Where the service is.
        url: String,
        /// File of the token.
        token_file: Option<PathBuf>,
    },
    /// Look for what is wrong.
    Doctor(Settings, doctor::Plan),
    /// Check the configuration.
    ConfigCheck(Settings),
    /// Print the configuration.
    ConfigPrint {
        /// What is given.
        settings: Settings,
        /// Defaults, too.
        effective: bool,
        /// As JSON.
        json: bool,
    },
    /// Write a backup.
    Backup(Settings, PathBuf),
    /// Restore a backup, or only check it.
    Restore(Settings, PathBuf, backup::Restore),
    /// Print the model of a version.
    Export(Settings, String),
    /// Import a model into the storage.
    ImportModel(Settings, PathBuf),
    /// Import a model through a service, with a file that holds its token.
    ImportModelTo(String, Option<PathBuf>, PathBuf),
    /// Compare the model with the journal.
    Verify(Settings),
    /// Write manual pages.
    Man(PathBuf),
    /// Print a client.
    Client(&'static str),
    /// Print completions.
    Completions(Shell),
    /// Print the documentation.
    Help(Vec<String>),
}

/// Settings as flags and environment give them, by environment variable.
#[derive(Debug, Default)]
pub struct Settings(BTreeMap<&'static str, (String, Origin)>);

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Flag,
    Environment,
}

impl Settings {
    fn of(matches: &ArgMatches) -> Self {
        let given = OPTIONS.iter().filter_map(|option| {
            let origin = match matches.value_source(option.env) {
                Some(ValueSource::CommandLine) => Origin::Flag,
                _ => Origin::Environment,
            };
            matches.get_one::<String>(option.env).map(|value| (option.env, (value.clone(), origin)))
        });
        Self(given.collect())
    }

    /// What was given for a variable.
    pub fn get(&self, env: &str) -> Option<String> {
        self.0.get(env).map(|(value, _)| value.clone())
    }

    /// Every setting as it holds, or only what is set: its name, its value with what is secret in it
    /// hidden, and where that comes from.
    fn shown(&self, effective: bool) -> impl Iterator<Item = (&'static str, String, String)> + '_ {
        OPTIONS.iter().filter_map(move |option| {
            // An empty one counts as not set.
            let given = self.0.get(option.env).filter(|(value, _)| !value.is_empty());
            let (value, origin) = match given {
                Some((value, Origin::Flag)) => (value.as_str(), format!("--{}", option.flag)),
                Some((value, Origin::Environment)) => (value.as_str(), "environment".to_owned()),
                None if effective => (option.default, "default".to_owned()),
                None => return None,
            };
            Some((option.env, without_secrets(option.env, value), origin))
        })
    }

    fn config(&self) -> Result<Config> {
        Config::resolve(|env| self.get(env))
    }
}

impl Command {
    /// Reads the arguments that clap matched.
    ///
    /// # Errors
    /// [`Error::Config`] when a value is not of its form.
    pub fn of(matches: &ArgMatches) -> Result<Self> {
        let string = |matches: &ArgMatches, name: &str| {
            matches.get_one::<String>(name).cloned().unwrap_or_default()
        };
        let path =
            |matches: &ArgMatches| matches.get_one::<PathBuf>("file").cloned().unwrap_or_default();
        let token = |matches: &ArgMatches| matches.get_one::<PathBuf>("token-file").cloned();
        Ok(match matches.subcommand() {
            Some(("import", sub)) => Self::Import(Settings::of(sub), imported(sub)),
            Some(("emit", sub)) => {
                let file = sub.get_one::<PathBuf>("file").cloned().unwrap_or_default();
                Self::Emit(Settings::of(sub), file)
            }
            Some(("predict", sub)) => {
                let raw = string(sub, "format") == "json";
                Self::Predict(string(sub, "url"), token(sub), prediction(sub)?, raw)
            }
            Some(("dispatch", sub)) => Self::Dispatch(dispatch::Plan {
                url: string(sub, "url"),
                token_file: token(sub),
                question: question(sub)?,
                command: sub.get_many("command").into_iter().flatten().cloned().collect(),
                timeout: sub.get_one("timeout").copied(),
            }),
            Some(("mcp", sub)) => Self::Mcp { url: string(sub, "url"), token_file: token(sub) },
            Some(("simulate", sub)) => Self::Simulate(simulate::Plan {
                url: string(sub, "url"),
                token_file: token(sub),
                tasks: sub.get_one("tasks").copied().unwrap_or(600),
                window: sub.get_one("window").copied().unwrap_or(100),
                seed: sub.get_one("seed").copied().unwrap_or(1),
            }),
            Some(("replay", sub)) => Self::Replay(replayed(sub)),
            Some(("evaluate", sub)) => Self::Evaluate(
                Settings::of(sub),
                sub.get_one("url").cloned(),
                evaluated(sub)?,
                string(sub, "format") == "json",
            ),
            Some(("doctor", sub)) => {
                let plan = doctor::Plan { token_file: token(sub), json: sub.get_flag("json") };
                Self::Doctor(Settings::of(sub), plan)
            }
            Some(("config", sub)) => match sub.subcommand() {
                Some(("print", sub)) => Self::ConfigPrint {
                    settings: Settings::of(sub),
                    effective: sub.get_flag("effective"),
                    json: sub.get_flag("json"),
                },
                Some((_, sub)) => Self::ConfigCheck(Settings::of(sub)),
                None => Self::ConfigCheck(Settings::default()),
            },
            Some(("backup", sub)) => Self::Backup(Settings::of(sub), path(sub)),
            Some(("restore", sub)) => {
                let how = backup::Restore {
                    only_check: sub.get_flag("check"),
                    start_empty: sub.get_flag("start-empty"),
                };
                Self::Restore(Settings::of(sub), path(sub), how)
            }
            Some(("export", sub)) => Self::Export(Settings::of(sub), string(sub, "version")),
            Some(("import-model", sub)) => match sub.get_one::<String>("url") {
                Some(url) => Self::ImportModelTo(url.clone(), token(sub), path(sub)),
                None => Self::ImportModel(Settings::of(sub), path(sub)),
            },
            Some(("verify", sub)) => Self::Verify(Settings::of(sub)),
            Some(("man", sub)) => Self::Man(path(sub)),
            Some(("help", sub)) => {
                Self::Help(sub.get_many("topic").into_iter().flatten().cloned().collect())
            }
            Some(("client", sub)) => {
                let name = sub.get_one::<String>("language");
                let found =
                    CLIENTS.iter().find(|client| Some(client.language) == name.map(String::as_str));
                Self::Client(found.map_or("", |client| client.text))
            }
            Some(("completions", sub)) => {
                Self::Completions(sub.get_one("shell").copied().unwrap_or(Shell::Bash))
            }
            Some((_, sub)) => {
                let plan = service::Plan {
                    import: sub.get_one("import").cloned(),
                    start_empty: sub.get_flag("start-empty"),
                };
                Self::Serve(Settings::of(sub), plan)
            }
            None => Self::Serve(Settings::of(matches), service::Plan::default()),
        })
    }

    /// The settings of the commands that have them.
    pub fn settings(&self) -> Option<&Settings> {
        match self {
            Self::Serve(settings, _)
            | Self::Import(settings, _)
            | Self::Emit(settings, _)
            | Self::Evaluate(settings, ..)
            | Self::Doctor(settings, _)
            | Self::Backup(settings, _)
            | Self::Restore(settings, ..)
            | Self::Export(settings, _)
            | Self::ImportModel(settings, _)
            | Self::Verify(settings) => Some(settings),
            _ => None,
        }
    }

    /// Runs the command; what it has to say goes to `out`. Returns the exit code: 0, unless it
    /// passes that of another program through.
    ///
    /// # Errors
    /// Whatever keeps it from doing what it should.
    pub fn run(self, out: &mut impl Write) -> Result<u8> {
        let gone = |error: std::io::Error| Error::Fatal(format!("can't print: {error}"));
        match self {
            Self::Serve(settings, plan) => service::serve(&settings.config()?, plan)?,
            Self::Import(settings, plan) => import::run(plan, || settings.config(), out)?,
            Self::Emit(settings, file) => {
                let summary = emit::into_topic(&settings.config()?, &file)?;
                writeln!(out, "{summary}").map_err(gone)?;
                summary.check(&file.display().to_string())?;
            }
            Self::Predict(url, token_file, request, raw) => {
                let client = Client::new(&url)?.with_token_file(token_file.as_deref())?;
                let request = request.body(&client)?;
                let answer = client.post("/api/learning/predict/agent-selection", &request)?;
                if raw { writeln!(out, "{answer}") } else { print_table(&answer, out) }
                    .map_err(gone)?;
            }
            Self::Dispatch(plan) => return dispatch::run(&plan),
            Self::Replay(plan) => replay::play(&plan, out)?,
            Self::Evaluate(settings, url, plan, raw) => {
                let report = match url {
                    Some(url) => evaluate::by_service(&url, &plan)?,
                    None => evaluate::in_directory(&settings.config()?, &plan)?,
                };
                if raw { writeln!(out, "{report}") } else { print_evaluation(&report, out) }
                    .map_err(gone)?;
            }
            Self::Simulate(plan) => simulate::play(&plan, out)?,
            Self::Mcp { url, token_file } => {
                let client = Client::new(&url)?.with_token_file(token_file.as_deref())?;
                mcp::serve(&client, std::io::stdin().lock(), out)?;
            }
            Self::Doctor(settings, plan) => return doctor::run(settings.config(), &plan, out),
            Self::ConfigCheck(settings) => {
                doctor::check_configuration(&settings.config()?)?;
                writeln!(out, "the configuration is good").map_err(gone)?;
            }
            Self::ConfigPrint { settings, effective, json } => {
                print_settings(&settings, effective, json, out).map_err(gone)?;
            }
            Self::Backup(settings, file) => backup::back_up(&settings.config()?, &file, out)?,
            Self::Restore(settings, file, how) => {
                backup::restore(&settings.config()?, &file, how, out)?;
            }
            Self::Export(settings, version) => {
                transfer::export(&settings.config()?, &version, out)?;
            }
            Self::ImportModel(settings, file) => {
                transfer::into_storage(&settings.config()?, &file, out)?;
            }
            Self::ImportModelTo(url, token_file, file) => {
                transfer::into_service(&url, token_file.as_deref(), &file, out)?;
            }
            Self::Verify(settings) => verify::verify(&settings.config()?, out)?,
            Self::Man(directory) => {
                clap_mangen::generate_to(command(), &directory).map_err(|error| {
                    Error::Fatal(format!("can't write to {}: {error}", directory.display()))
                })?;
            }
            Self::Help(words) => help::print(&words, command(), out)?,
            Self::Client(text) => out.write_all(text.as_bytes()).map_err(gone)?,
            Self::Completions(shell) => {
                // Into memory, because clap_complete panics when nobody reads.
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut command(), "online-learning", &mut script);
                out.write_all(&script).map_err(gone)?;
            }
        }
        Ok(0)
    }
}

fn print_settings(
    settings: &Settings,
    effective: bool,
    json: bool,
    out: &mut impl Write,
) -> std::io::Result<()> {
    if json {
        let rows: Map<String, Value> = settings
            .shown(effective)
            .map(|(env, value, origin)| (env.to_owned(), json!({"value": value, "from": origin})))
            .collect();
        return writeln!(out, "{:#}", Value::Object(rows));
    }
    for (env, value, origin) in settings.shown(effective) {
        writeln!(out, "{env:<26} {:<24} {origin}", one_line(&value))?;
    }
    Ok(())
}

/// The value of a setting without what is secret in it. Of an address only the host is shown: many
/// webhooks have their secret in the path.
fn without_secrets(env: &str, value: &str) -> String {
    let is_secret = ["PASSWORD", "SECRET", "TOKEN"].iter().any(|word| env.contains(word));
    if is_secret && !env.ends_with("_FILE") {
        return "(hidden)".to_owned();
    }
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, host) = match authority.rsplit_once('@') {
        Some((_, host)) => ("(hidden)@", host),
        None => ("", authority),
    };
    let path = if path.len() > 1 { "/(hidden)" } else { path };
    format!("{scheme}://{user}{host}{path}")
}

/// The request for agents that the arguments of [`task`] make.
fn question(matches: &ArgMatches) -> Result<Question> {
    let mut context = Map::new();
    let mut words = Vec::new();
    for pair in matches.get_many::<String>("context").into_iter().flatten() {
        let Some((key, value)) = pair.split_once('=') else {
            let allowed = "allowed is KEY=VALUE or KEY:=JSON";
            return Err(Error::Config(format!("--context is {pair:?}, {allowed}")));
        };
        words.retain(|word| word != key.trim_end_matches(':'));
        if let Some(key) = key.strip_suffix(':') {
            let value = serde_json::from_str(value).map_err(|error| {
                Error::Config(format!("--context is {pair:?}, after := is no JSON: {error}"))
            })?;
            context.insert(key.to_owned(), value);
        } else {
            words.push(key.to_owned());
            context.insert(key.to_owned(), value.into());
        }
    }
    let mut request = json!({"context": context});
    for (field, name) in [
        ("task_type", "task-type"),
        ("tenant_id", "tenant"),
        ("objective", "objective"),
        ("on_unknown", "on-unknown"),
    ] {
        if let Some(value) = matches.get_one::<String>(name) {
            request[field] = value.clone().into();
        }
    }
    if let Some(candidates) = matches.get_many::<String>("candidates") {
        request["candidates"] = candidates.cloned().collect();
    }
    for name in ["max-latency-ms", "max-cost", "min-success", "min-quality"] {
        if let Some(limit) = matches.get_one::<f64>(name) {
            request["constraints"][name.replace('-', "_")] = (*limit).into();
        }
    }
    Ok(Question { body: request, words })
}

/// The request that the arguments of `predict` make.
fn prediction(matches: &ArgMatches) -> Result<Question> {
    let mut question = question(matches)?;
    let request = &mut question.body;
    request["explore"] = (!matches.get_flag("no-explore")).into();
    request["explain"] = matches.get_flag("explain").into();
    for (field, name) in [("top_k", "top-k"), ("seed", "seed")] {
        if let Some(value) = matches.get_one::<u64>(name) {
            request[field] = (*value).into();
        }
    }
    Ok(question)
}

fn print_table(answer: &Value, out: &mut impl Write) -> std::io::Result<()> {
    let list = |name: &str| answer[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = list("recommendations");
    if rows.is_empty() {
        return writeln!(out, "no agent is known yet: report outcomes, or name candidates");
    }
    let name =
        |row: &Value| row["agent_name"].as_str().unwrap_or_default().escape_debug().to_string();
    let width = rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max(5);
    writeln!(
        out,
        "{:>4}  {:width$}  {:>5}  {:>8}  {:>13}  {:>10}  {:>7}  evidence",
        "rank", "agent", "score", "expected", "90 % interval", "propensity", "samples"
    )?;
    for row in rows {
        let number = |field: &str| row[field].as_f64().unwrap_or(0.0);
        let count = |field: &str| row[field].as_u64().unwrap_or(0);
        let interval = match (row["interval"][0].as_f64(), row["interval"][1].as_f64()) {
            (Some(low), Some(high)) => format!("{low:.3} - {high:.3}"),
            _ => "-".to_owned(),
        };
        writeln!(
            out,
            "{:>4}  {:width$}  {:>5.3}  {:>8.3}  {interval:>13}  {:>10.3}  {:>7}  {}",
            count("rank"),
            name(row),
            number("score"),
            number("expected_success"),
            number("propensity"),
            count("samples"),
            row["evidence"].as_str().unwrap_or_default(),
        )?;
        if let Some(text) = row["explanation"]["text"].as_str() {
            writeln!(out, "      {text}")?;
        }
        if let Some(violation) = row["violation"].as_str() {
            writeln!(out, "      does not meet {violation}")?;
        }
    }
    for row in list("excluded") {
        let reason = row["reason"].as_str().unwrap_or_default();
        writeln!(out, "left out {}: {reason}", name(row))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn what_is_secret_in_a_value_is_not_shown() {
        let shown = |value| without_secrets("ALERT_WEBHOOK_URL", value);
        assert_eq!(shown("https://u:p@host/x?key=1"), "https://(hidden)@host/(hidden)");
        assert_eq!(shown("https://u:p@host?key=1"), "https://(hidden)@host/(hidden)");
        assert_eq!(shown("https://host/services/s3cret"), "https://host/(hidden)");
        assert_eq!(shown("http://host:80/"), "http://host:80/");
        assert_eq!(shown("http://host:80"), "http://host:80");
        assert_eq!(without_secrets("KAFKA_SASL_PASSWORD_FILE", "/p"), "/p");
        assert_eq!(without_secrets("SOME_TOKEN", "t"), "(hidden)");
    }

    #[test]
    fn the_arguments_of_predict_make_a_request() {
        let line = [
            "online-learning",
            "predict",
            "--task-type",
            "t",
            "--context",
            "size=3",
            "--context",
            "domain=law=uk",
            "--context",
            "deep:={\"er\": true}",
            "--candidates",
            "a,b",
            "--seed",
            "7",
            "--no-explore",
            "--objective",
            "cheap",
            "--max-cost",
            "0.5",
        ];
        let Ok(Command::Predict(url, _, request, raw)) =
            Command::of(&command().try_get_matches_from(line).unwrap())
        else {
            panic!("predict is not what was read");
        };
        assert_eq!(url, URL);
        assert!(!raw);
        let expected = json!({
            "task_type": "t", "context": {"size": "3", "domain": "law=uk", "deep": {"er": true}},
            "candidates": ["a", "b"], "seed": 7, "explore": false, "explain": false, "top_k": 3,
            "objective": "cheap", "constraints": {"max_cost": 0.5},
        });
        assert_eq!(request.body, expected);
        assert_eq!(request.words, ["size", "domain"]);
        let line = ["online-learning", "predict", "--context", "k:=x"];
        let wrong = Command::of(&command().try_get_matches_from(line).unwrap()).unwrap_err();
        assert!(wrong.to_string().contains("after := is no JSON"), "{wrong}");
    }

    #[test]
    fn the_arguments_of_dispatch_make_a_plan() {
        let line = "online-learning dispatch --task-type t --context size=3 --candidates a,b \
                    --tenant red --timeout 1.5 --url http://h -- run --timeout {agent}";
        let Ok(Command::Dispatch(plan)) =
            Command::of(&command().try_get_matches_from(line.split_whitespace()).unwrap())
        else {
            panic!("dispatch is not what was read");
        };
        let question = json!({
            "task_type": "t", "context": {"size": "3"}, "candidates": ["a", "b"], "tenant_id": "red",
        });
        let question = Question { body: question, words: vec!["size".to_owned()] };
        assert_eq!((plan.url.as_str(), plan.question), ("http://h", question));
        assert_eq!(plan.command, ["run", "--timeout", "{agent}"]);
        assert_eq!(plan.timeout, Some(Duration::from_millis(1_500)));
        for wrong in ["0", "-1", "NaN", "inf", "1e9", "soon", "1e-12"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
