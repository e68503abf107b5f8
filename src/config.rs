//! Every setting: its flag, its environment variable, its default, what is allowed.
//!
//! [`OPTIONS`] is the one list of them: the command line, the help text and [`Config::resolve`] are
//! made from it. A value is checked once, here; a bad one is reported with the variable, the value
//! and what is allowed.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::http::AppOptions;
use crate::http::access::{AccessOptions, Hosts, Rate};
use crate::learner::LearnerOptions;
use crate::model::{Caps, Settings, Strategy};
use crate::outcome::PayloadKept;
use crate::outcome::feedback::Evaluations;
use crate::sources::formats::LITELLM_AGENTS;
use crate::sources::kafka::{KafkaOptions, OffsetReset, Sasl};
use crate::sources::otlp::{Executions, OtlpOptions};
use crate::store::{StoreOptions, Synchronous};
use crate::watch::alerts::AlertOptions;
use crate::watch::process::MemoryLimit;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// Its environment variable.
    pub env: &'static str,
    /// Its flag, without the dashes.
    pub flag: &'static str,
    /// Its default, as it would be written.
    pub default: &'static str,
    /// What it means, and its unit.
    pub help: &'static str,
}

const fn opt(
    env: &'static str,
    flag: &'static str,
    default: &'static str,
    help: &'static str,
) -> Opt {
    Opt { env, flag, default, help }
}

/// Every setting of the service.
pub const OPTIONS: [Opt; 92] = [
    opt("LISTEN_ADDR", "listen-addr", "127.0.0.1:8000", "Address and port of the HTTP API"),
    opt(
        "MODEL_STORAGE_PATH",
        "storage-path",
        "./models",
        "Directory of the database and the model files",
    ),
    opt("MODEL_STRATEGY", "strategy", "thompson", "thompson, beta, moving_average or exponential"),
    opt("MODEL_BATCH_SIZE", "batch-size", "10", "Outcomes in a full micro-batch"),
    opt(
        "MODEL_BATCH_TIMEOUT",
        "batch-timeout",
        "30",
        "Seconds from its first outcome until a micro-batch that is not full is learned",
    ),
    opt(
        "MODEL_SAVE_INTERVAL",
        "save-interval",
        "300",
        "Seconds between automatic saves; 0 turns them off",
    ),
    opt(
        "MODEL_PRIOR_ALPHA",
        "prior-alpha",
        "",
        "Pseudo-successes of an agent without outcomes; unset: learned from the others by thompson, 1 else",
    ),
    opt(
        "MODEL_PRIOR_BETA",
        "prior-beta",
        "",
        "Pseudo-failures of an agent without outcomes; unset: learned from the others by thompson, 1 else",
    ),
    opt(
        "EXPLORE_MIN",
        "explore-min",
        "0",
        "Share of choices dealt out evenly among those who may be chosen, from 0 to 1",
    ),
    opt(
        "MODEL_EXPONENTIAL_ALPHA",
        "exponential-alpha",
        "0.1",
        "Weight of the newest reward in the strategy exponential",
    ),
    opt("MODEL_VERSIONS_MAX", "versions-max", "20", "Saved versions kept"),
    opt("CHECKPOINT_OUTCOMES", "checkpoint-outcomes", "100000", "Outcomes between checkpoints"),
    opt("DEDUP_WINDOW", "dedup-window", "2000000", "Identities remembered for deduplication"),
    opt("JOURNAL_MAX_OUTCOMES", "journal-max-outcomes", "10000000", "Outcomes kept in the journal"),
    opt("JOURNAL_MAX_DAYS", "journal-max-days", "30", "Days that outcomes are kept in the journal"),
    opt("LEARNING_EVENTS_MAX", "learning-events-max", "100000", "Learning events kept"),
    opt("DEAD_LETTERS_MAX", "dead-letters-max", "10000", "Dead letters kept"),
    opt("DEAD_LETTERS_MAX_MIB", "dead-letters-max-mib", "256", "MiB of dead letters kept"),
    opt(
        "DEAD_LETTER_PAYLOAD",
        "dead-letter-payload",
        "full",
        "What is kept of a dead letter: full, keys (names, types, lengths) or none",
    ),
    opt("DECISIONS_MAX", "decisions-max", "100000", "Decisions kept; with 0 none is recorded"),
    opt("DECISIONS_MAX_MIB", "decisions-max-mib", "256", "MiB of decisions kept"),
    opt(
        "DECISION_WAIT",
        "decision-wait",
        "600",
        "Seconds after which a decision without an outcome counts as orphaned",
    ),
    opt(
        "DECISION_MISSING",
        "decision-missing",
        "ignore",
        "What is learned of a decision without an outcome after DECISION_WAIT: ignore or failure",
    ),
    opt(
        "FEEDBACK_WAIT",
        "feedback-wait",
        "3600",
        "Seconds that a verdict waits for its execution, and an execution for its verdict; with Kafka \
         by the times of the records",
    ),
    opt(
        "FEEDBACK_MISSING",
        "feedback-missing",
        "status",
        "What is learned of an execution that waits for a verdict in vain: its status, or drop",
    ),
    opt("MAX_TENANTS", "max-tenants", "100", "Tenants; outcomes of further ones are refused"),
    opt("MAX_AGENTS", "max-agents", "1000", "Agents learned per tenant"),
    opt("MAX_TASK_TYPES", "max-task-types", "1000", "Task types learned per tenant"),
    opt("MAX_CONTEXT_KEYS", "max-context-keys", "256", "Context keys counted per tenant"),
    opt("MAX_CONTEXT_VALUES", "max-context-values", "1000", "Distinct values counted per key"),
    opt(
        "MAX_CELLS",
        "max-cells",
        "1000000",
        "Records per (agent, task type) and distinct context values, of all tenants",
    ),
    opt(
        "MAX_RECENT_VALUES",
        "max-recent-values",
        "3000000",
        "Recent values (latencies, qualities, rewards) kept of all agents; 300 per agent are full",
    ),
    opt(
        "MAX_JOINT_VALUES",
        "max-joint-values",
        "256",
        "Context values in an agent's covariance; further ones have independent effects",
    ),
    opt(
        "MEMORY_MAX_MIB",
        "memory-max-mib",
        "",
        "MiB of memory; at 60 % of it no new names are learned, at 95 % nothing is taken in. Unset: the \
         limit of the container or machine",
    ),
    opt(
        "MAX_COVARIANCES_MIB",
        "max-covariances-mib",
        "256",
        "MiB of covariances of all agents; past it, further values have independent effects",
    ),
    opt(
        "MAX_EFFECTS",
        "max-effects",
        "1000000",
        "Context values with an effect and agents' independent effects, of all tenants",
    ),
    opt("QUEUE_CAPACITY", "queue-capacity", "1024", "Requests that may wait for the learner"),
    opt("HTTP_MAX_CONNECTIONS", "http-max-connections", "2048", "Open HTTP connections"),
    opt(
        "HTTP_BODY_BUDGET_MIB",
        "http-body-budget-mib",
        "32",
        "MiB of request bodies held at the same time",
    ),
    opt(
        "HTTP_ANSWER_BUDGET_MIB",
        "http-answer-budget-mib",
        "64",
        "MiB of answers held at the same time, those up to 16 KiB apart",
    ),
    opt(
        "SQLITE_SYNCHRONOUS",
        "sqlite-synchronous",
        "full",
        "full, or normal where a power loss may take the last commits",
    ),
    opt(
        "QUICK_CHECK_MAX_MIB",
        "quick-check-max-mib",
        "256",
        "Databases above this size are opened without quick_check",
    ),
    opt("INTEGRITY_CHECK", "integrity-check", "false", "Check the whole database at start"),
    opt(
        "ENABLE_KAFKA",
        "enable-kafka",
        "",
        "true or false; on exactly when KAFKA_BOOTSTRAP_SERVERS is set",
    ),
    opt(
        "KAFKA_BOOTSTRAP_SERVERS",
        "kafka-bootstrap-servers",
        "",
        "Kafka brokers, host:port,host:port; localhost:9092 when only ENABLE_KAFKA is set",
    ),
    opt("KAFKA_OUTCOME_TOPIC", "kafka-outcome-topic", "agent-outcomes", "Topic of the outcomes"),
    opt(
        "KAFKA_CONSUMER_GROUP",
        "kafka-consumer-group",
        "model-updater",
        "Group under which progress is published; another one for each replica",
    ),
    opt(
        "KAFKA_AUTO_OFFSET_RESET",
        "kafka-auto-offset-reset",
        "earliest",
        "Where a new store begins to read: earliest or latest",
    ),
    opt(
        "KAFKA_RESET_POSITIONS",
        "kafka-reset-positions",
        "false",
        "Read partitions that are stopped, because the log is another one, from its beginning",
    ),
    opt(
        "KAFKA_DEAD_LETTER_TOPIC",
        "kafka-dead-letter-topic",
        "",
        "Topic to which dead letters are sent, too; none when empty",
    ),
    opt(
        "KAFKA_COMPRESSION",
        "kafka-compression",
        "gzip",
        "Of what is produced: none, gzip, snappy, lz4 or zstd",
    ),
    opt(
        "KAFKA_SECURITY_PROTOCOL",
        "kafka-security-protocol",
        "PLAINTEXT",
        "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL",
    ),
    opt(
        "KAFKA_SSL_CA_LOCATION",
        "kafka-ssl-ca-location",
        "",
        "File of the certificate authorities that sign brokers; the system's when empty",
    ),
    opt(
        "KAFKA_SASL_MECHANISM",
        "kafka-sasl-mechanism",
        "SCRAM-SHA-512",
        "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
    ),
    opt("KAFKA_SASL_USERNAME", "kafka-sasl-username", "", "User name, with a SASL protocol"),
    opt(
        "KAFKA_SASL_PASSWORD_FILE",
        "kafka-sasl-password-file",
        "",
        "File that holds the password, with a SASL protocol",
    ),
    opt(
        "AUTH_TOKENS_FILE",
        "auth-tokens-file",
        "",
        "File of tokens that requests need: name, scope (read, ingest, admin), tenant, sha256",
    ),
    opt(
        "LISTEN_INSECURE",
        "insecure",
        "false",
        "Let other machines in without tokens: whoever reaches the port may do everything",
    ),
    opt(
        "ALLOWED_HOSTS",
        "allowed-hosts",
        "",
        "Further names under which the service may be asked, separated by commas",
    ),
    opt("RATE_LIMIT", "rate-limit", "0", "Requests per second and token; 0 for no limit"),
    opt(
        "RATE_LIMIT_BURST",
        "rate-limit-burst",
        "100",
        "Requests of a token at once, with a rate limit",
    ),
    opt(
        "ENABLE_OTLP",
        "enable-otlp",
        "true",
        "Take telemetry (OTLP over HTTP) at /v1/traces, /v1/logs and /v1/metrics",
    ),
    opt(
        "OTLP_EXECUTIONS",
        "otlp-executions",
        "agents",
        "Which spans are executions: those of agents, or calls of models, which are the agents then",
    ),
    opt(
        "OTLP_TASK_TYPE",
        "otlp-task-type",
        "task_type,gen_ai.task.name,gen_ai.workflow.name,traceloop.workflow.name",
        "Attributes that name the task type, of a span or its resource; the first that is set, or none",
    ),
    opt("OTLP_TENANT", "otlp-tenant", "none", "Attributes that name the tenant, or none"),
    opt(
        "OTLP_CONTEXT",
        "otlp-context",
        "deployment.environment.name",
        "Attributes that are context features, or none; metadata.KEY is a key of a JSON text metadata",
    ),
    opt(
        "OTLP_QUALITY",
        "otlp-quality",
        "none",
        "Evaluations whose score (0 to 1) is the quality, by their names, or none",
    ),
    opt(
        "OTLP_SUCCESS",
        "otlp-success",
        "none",
        "Evaluations that say whether it was a success, by their names, or none",
    ),
    opt(
        "OTLP_PRICES",
        "otlp-prices",
        "",
        "File of prices per token, as LiteLLM has it, for spans that count tokens and name no cost",
    ),
    opt("OTLP_BODY_MAX_MIB", "otlp-body-max-mib", "64", "MiB that an export may have, unpacked"),
    opt(
        "LITELLM_AGENT",
        "litellm-agent",
        "model_group",
        "Which field of LiteLLM's records is the agent: model_group, model or agent_id",
    ),
    opt("LOG_FORMAT", "log-format", "text", "Log lines as text or json"),
    opt(
        "METRICS_AGENTS_MAX",
        "metrics-agents-max",
        "50",
        "Agents that /metrics shows one by one; the others are one",
    ),
    opt(
        "SAMPLE_INTERVAL",
        "sample-interval",
        "2",
        "Seconds between samples for plots over time, while something is learned; 0 takes none",
    ),
    opt("ALERT_INTERVAL", "alert-interval", "10", "Seconds between evaluations of the alerts"),
    opt("ALERT_WINDOW", "alert-window", "900", "Seconds that rates in alerts are taken of"),
    opt(
        "ALERT_FAILED_UPDATES_MAX",
        "alert-failed-updates-max",
        "0.05",
        "Share of micro-batches that may fail",
    ),
    opt(
        "ALERT_IMPROVEMENT_MIN",
        "alert-improvement-min",
        "-0.1",
        "Relative change of the model score that is still well",
    ),
    opt(
        "ALERT_UPDATE_TIME_MAX_MS",
        "alert-update-time-max-ms",
        "1000",
        "Milliseconds that a micro-batch may take on average",
    ),
    opt("ALERT_LAG_MAX", "alert-lag-max", "1000", "Records that may wait to be learned"),
    opt(
        "ALERT_NO_EVENTS_AFTER",
        "alert-no-events-after",
        "600",
        "Seconds without a record while predictions are asked for; 0 turns it off",
    ),
    opt(
        "ALERT_DEAD_LETTERS_MAX",
        "alert-dead-letters-max",
        "0.01",
        "Share of records that may become dead letters",
    ),
    opt("ALERT_DISK_USED_MAX", "alert-disk-used-max", "0.95", "Share of the disk in use"),
    opt(
        "ALERT_AGENT_SUCCESS_MIN",
        "alert-agent-success-min",
        "",
        "Mean of an agent's last 100 rewards; no such alert when empty",
    ),
    opt(
        "ALERT_AGENT_LATENCY_P95_MAX_MS",
        "alert-agent-latency-p95-max-ms",
        "",
        "95 % quantile of an agent's last 100 latencies; no such alert when empty",
    ),
    opt(
        "ALERT_AGENT_COST_MAX",
        "alert-agent-cost-max",
        "",
        "Mean of an agent's last 100 costs; no such alert when empty",
    ),
    opt(
        "ALERT_DRIFT_THRESHOLD",
        "alert-drift-threshold",
        "25",
        "Threshold of the Page-Hinkley test on each agent's reward; 0 turns it off",
    ),
    opt(
        "ALERT_PERFECT_OUTCOMES",
        "alert-perfect-outcomes",
        "500",
        "Successes of an agent in a row that are suspicious; 0 turns it off",
    ),
    opt(
        "ALERT_WEBHOOK_URL",
        "alert-webhook-url",
        "",
        "Where alerts are posted; nowhere when empty",
    ),
    opt(
        "KAFKA_ALERT_TOPIC",
        "kafka-alert-topic",
        "",
        "Topic to which alerts are sent, such as agent-alerts; none when empty",
    ),
    opt("RUST_LOG", "log", "info", "Log level: error, warn, info, debug, or a filter"),
    opt("LOG_STYLE", "log-style", "auto", "Colours in the log: auto, always or never"),
];

/// All settings, checked.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "OPTIONS describes them")]
pub struct Config {
    pub listen_addr: SocketAddr,
    pub access: AccessOptions,
    pub storage_path: PathBuf,
    pub kafka_topic: String,
    pub kafka: Option<KafkaOptions>,
    pub otlp: Option<OtlpOptions>,
    pub litellm_agent: String,
    pub queue_capacity: usize,
    pub decision_wait: Duration,
    pub explore_min: f64,
    pub evaluations: Evaluations,
    pub http_connections_max: usize,
    pub http_body_bytes_max: usize,
    pub http_answer_bytes_max: usize,
    pub metrics_agents_max: usize,
    pub sample_interval: Option<Duration>,
    pub alerts: AlertOptions,
    pub learner: LearnerOptions,
    pub store: StoreOptions,
}

impl Config {
    /// What of it the handlers of the API go by.
    pub fn http(&self) -> AppOptions {
        AppOptions {
            storage_path: self.storage_path.clone(),
            learner: self.learner,
            decision_wait: self.decision_wait,
            explore_min: self.explore_min,
            evaluations: self.evaluations.clone(),
            kafka_topic: self.kafka_topic.clone(),
            metrics_agents_max: self.metrics_agents_max,
            sample_interval: self.sample_interval,
        }
    }

    /// Checks every setting; `value` gives what flag or environment say of a variable.
    ///
    /// # Errors
    /// [`Error::Config`] naming the variable, its value and what is allowed.
    pub fn resolve(value: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let source = Source { value: &value };
        let strategy = source.text("MODEL_STRATEGY");
        let strategy = Strategy::ALL
            .into_iter()
            .find(|known| known.as_str() == strategy)
            .ok_or_else(|| source.wrong("MODEL_STRATEGY", option("MODEL_STRATEGY").help))?;
        let synchronous = match source.text("SQLITE_SYNCHRONOUS").as_str() {
            "full" => Synchronous::Full,
            "normal" => Synchronous::Normal,
            _ => return Err(source.wrong("SQLITE_SYNCHRONOUS", "full or normal")),
        };
        if !["auto", "always", "never"].contains(&source.text("LOG_STYLE").as_str()) {
            return Err(source.wrong("LOG_STYLE", "auto, always or never"));
        }
        source.choice("LOG_FORMAT", &crate::logging::Format::NAMES)?;
        let caps = Caps {
            tenants: source.number("MAX_TENANTS", 1, 100_000)?,
            agents_per_tenant: source.number("MAX_AGENTS", 1, 10_000_000)?,
            task_types_per_tenant: source.number("MAX_TASK_TYPES", 1, 10_000_000)?,
            context_keys_per_tenant: source.number("MAX_CONTEXT_KEYS", 0, 100_000)?,
            context_values_per_key: source.number("MAX_CONTEXT_VALUES", 0, 1_000_000)?,
            cells: source.number("MAX_CELLS", 1, 100_000_000)?,
            recent_values: source.number("MAX_RECENT_VALUES", 0, 10_000_000_000)?,
            joint_values_per_agent: source.number("MAX_JOINT_VALUES", 0, 4_096)?,
            covariances_mib: source.number("MAX_COVARIANCES_MIB", 0, 1_000_000)?,
            effects: source.number("MAX_EFFECTS", 0, 100_000_000)?,
        };
        let settings = Settings {
            strategy,
            prior_alpha: source.optional_real("MODEL_PRIOR_ALPHA", 0.001, 1e6)?,
            prior_beta: source.optional_real("MODEL_PRIOR_BETA", 0.001, 1e6)?,
            exponential_alpha: source.real("MODEL_EXPONENTIAL_ALPHA", 0.000_001, 1.0)?,
            caps,
        };
        let [decision_wait, feedback_wait] = source.waits()?;
        let is_failure = source.choice("DECISION_MISSING", &["ignore", "failure"])? == "failure";
        let queue_capacity = source.number("QUEUE_CAPACITY", 1, 1_000_000)?;
        let save_interval = source.number("MODEL_SAVE_INTERVAL", 0, 31_536_000)?;
        let batch_timeout_s = source.real("MODEL_BATCH_TIMEOUT", 0.0, 86_400.0)?;
        let learner = LearnerOptions {
            settings,
            batch_outcomes: source.number("MODEL_BATCH_SIZE", 1, 100_000)?,
            batch_timeout: Duration::from_secs_f64(batch_timeout_s),
            save_interval: (save_interval > 0).then(|| Duration::from_secs(save_interval)),
            checkpoint_outcomes: source.number("CHECKPOINT_OUTCOMES", 1_000, u64::MAX)?,
            decisions_waiting_max: DECISIONS_PER_PLACE * queue_capacity,
            drift_threshold: positive(source.real("ALERT_DRIFT_THRESHOLD", 0.0, 1e6)?),
            missing_after: is_failure.then_some(decision_wait),
            memory: Some(MemoryLimit::new(
                source.optional_number("MEMORY_MAX_MIB", 64, 1 << 30)?.map(|mib: u64| mib << 20),
            )),
            final_after: decision_wait,
            learn_unjudged: source.choice("FEEDBACK_MISSING", &["status", "drop"])? == "status",
            feedback_wait,
            by_topic: source.is_kafka_on()?,
            dead_letter_payload: source.payload_kept()?,
            ..LearnerOptions::default()
        };
        let days: i64 = source.number("JOURNAL_MAX_DAYS", 1, 36_500)?;
        let store = StoreOptions {
            synchronous,
            identities_max: source.number("DEDUP_WINDOW", 0, 1_000_000_000)?,
            journal_outcomes_max: source.number("JOURNAL_MAX_OUTCOMES", 1, u64::MAX)?,
            journal_age_max_ms: days * 24 * 3_600 * 1_000,
            learning_events_max: source.number("LEARNING_EVENTS_MAX", 1, u64::MAX)?,
            dead_letters_max: source.number("DEAD_LETTERS_MAX", 0, 100_000_000)?,
            dead_letters_bytes_max: MIB
                * source.number::<u64>("DEAD_LETTERS_MAX_MIB", 0, 1 << 20)?,
            decisions_max: source.number("DECISIONS_MAX", 0, 100_000_000)?,
            decisions_bytes_max: MIB * source.number::<u64>("DECISIONS_MAX_MIB", 1, 1 << 20)?,
            versions_max: source.number("MODEL_VERSIONS_MAX", 2, 100_000)?,
            quick_check_bytes_max: MIB * source.number::<u64>("QUICK_CHECK_MAX_MIB", 0, 1 << 30)?,
            integrity_check: source.flag("INTEGRITY_CHECK")?,
        };
        let storage_path = source.text("MODEL_STORAGE_PATH");
        let body_mib: usize = source.number("HTTP_BODY_BUDGET_MIB", 9, 1 << 20)?;
        let answer_mib: usize = source.number("HTTP_ANSWER_BUDGET_MIB", 16, 1 << 20)?;
        let listen_addr = source.address("LISTEN_ADDR")?;
        Ok(Self {
            sample_interval: positive(source.real("SAMPLE_INTERVAL", 0.0, 86_400.0)?)
                .map(Duration::from_secs_f64),
            alerts: source.alerts()?,
            listen_addr,
            access: source.access(listen_addr)?,
            storage_path: PathBuf::from(storage_path),
            kafka_topic: source.topic("KAFKA_OUTCOME_TOPIC")?,
            kafka: source.kafka()?,
            otlp: source.otlp()?,
            litellm_agent: source.choice("LITELLM_AGENT", &LITELLM_AGENTS)?,
            queue_capacity,
            decision_wait,
            explore_min: source.real("EXPLORE_MIN", 0.0, 1.0)?,
            evaluations: source.evaluations()?,
            http_connections_max: source.number("HTTP_MAX_CONNECTIONS", 1, 100_000)?,
            http_body_bytes_max: body_mib << 20,
            http_answer_bytes_max: answer_mib << 20,
            metrics_agents_max: source.number("METRICS_AGENTS_MAX", 0, 10_000)?,
            learner,
            store,
        })
    }

    /// Whether the service may listen where it should.
    ///
    /// # Errors
    /// [`Error::Config`] when other machines could do everything and nobody said that they may.
    pub fn check_exposure(&self) -> Result<()> {
        let AccessOptions { tokens_file, insecure, .. } = &self.access;
        if self.listen_addr.ip().is_loopback() || tokens_file.is_some() || *insecure {
            return Ok(());
        }
        Err(Error::Config(format!(
            "LISTEN_ADDR (--listen-addr) is {}, which other machines can reach: AUTH_TOKENS_FILE \
             names the tokens they need, or --insecure (LISTEN_INSECURE=true) lets everybody in",
            self.listen_addr
        )))
    }
}

/// 0 turns a thing off.
fn positive(number: f64) -> Option<f64> {
    (number > 0.0).then_some(number)
}

/// Most attributes that a setting may name.
const OTLP_NAMES_MAX: usize = 64;
const MIB: u64 = 1024 * 1024;
/// Answered selections that may wait to be recorded, per place in the queue.
const DECISIONS_PER_PLACE: usize = 16;

/// Where the values come from.
struct Source<'a> {
    value: &'a dyn Fn(&str) -> Option<String>,
}

impl Source<'_> {
    /// The value as written; an empty one counts as not set.
    fn text(&self, env: &str) -> String {
        (self.value)(env)
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| option(env).default.to_owned())
    }

    fn wrong(&self, env: &str, allowed: &str) -> Error {
        let Opt { flag, .. } = option(env);
        Error::Config(format!("{env} (--{flag}) is {:?}, allowed is {allowed}", self.text(env)))
    }

    fn number<T: FromStr + PartialOrd + std::fmt::Display + Copy>(
        &self,
        env: &str,
        min: T,
        max: T,
    ) -> Result<T> {
        let number = self.text(env).parse::<T>().ok();
        match number {
            Some(number) if number >= min && number <= max => Ok(number),
            _ => Err(self.wrong(env, &format!("a whole number from {min} to {max}"))),
        }
    }

    fn real(&self, env: &str, min: f64, max: f64) -> Result<f64> {
        match self.text(env).parse::<f64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(self.wrong(env, &format!("a number from {min} to {max}"))),
        }
    }

    fn flag(&self, env: &str) -> Result<bool> {
        match self.text(env).to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(self.wrong(env, "true or false")),
        }
    }

    /// One of a few words.
    fn choice(&self, env: &str, allowed: &[&str]) -> Result<String> {
        let text = self.text(env);
        if allowed.contains(&text.as_str()) {
            return Ok(text);
        }
        let (last, others) = allowed.split_last().expect("there is a choice");
        Err(self.wrong(env, &format!("{} or {last}", others.join(", "))))
    }

    fn payload_kept(&self) -> Result<PayloadKept> {
        let names = PayloadKept::ALL.map(PayloadKept::as_str);
        Ok(PayloadKept::named(&self.choice("DEAD_LETTER_PAYLOAD", &names)?))
    }

    fn topic(&self, env: &str) -> Result<String> {
        let name = self.text(env);
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=249).contains(&name.len())
            && name.bytes().all(is_legal)
            && ![".", ".."].contains(&name.as_str())
        {
            return Ok(name);
        }
        Err(self.wrong(env, "a topic's name: 1 to 249 letters, digits, dots, dashes, underscores"))
    }

    /// A number, or `None` when the variable is empty.
    fn optional_real(&self, env: &str, min: f64, max: f64) -> Result<Option<f64>> {
        if self.text(env).is_empty() { Ok(None) } else { self.real(env, min, max).map(Some) }
    }

    fn optional_number(&self, env: &str, min: u64, max: u64) -> Result<Option<u64>> {
        if self.text(env).is_empty() { Ok(None) } else { self.number(env, min, max).map(Some) }
    }

    fn alerts(&self) -> Result<AlertOptions> {
        let seconds = |env, min, max| self.real(env, min, max).map(Duration::from_secs_f64);
        let no_events_after = positive(self.real("ALERT_NO_EVENTS_AFTER", 0.0, 1e7)?);
        let perfect_outcomes = self.number("ALERT_PERFECT_OUTCOMES", 0, u64::MAX)?;
        let webhook_url = Some(self.text("ALERT_WEBHOOK_URL")).filter(|url| !url.is_empty());
        if let Some(url) = &webhook_url
            && !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
        {
            // The address may hold a secret: it is not repeated.
            return Err(Error::Config(
                "ALERT_WEBHOOK_URL (--alert-webhook-url) is no address, allowed is one that begins \
                 with http:// or https://"
                    .to_owned(),
            ));
        }
        Ok(AlertOptions {
            interval: seconds("ALERT_INTERVAL", 0.05, 3_600.0)?,
            window: seconds("ALERT_WINDOW", 1.0, 86_400.0)?,
            failed_updates_max: self.real("ALERT_FAILED_UPDATES_MAX", 0.0, 1.0)?,
            improvement_min: self.real("ALERT_IMPROVEMENT_MIN", -1.0, 0.0)?,
            update_time_max_ms: self.real("ALERT_UPDATE_TIME_MAX_MS", 0.0, 1e7)?,
            lag_max: self.number("ALERT_LAG_MAX", 0, u64::MAX)?,
            no_events_after: no_events_after.map(Duration::from_secs_f64),
            dead_letters_max: self.real("ALERT_DEAD_LETTERS_MAX", 0.0, 1.0)?,
            disk_used_max: self.real("ALERT_DISK_USED_MAX", 0.0, 1.0)?,
            agent_success_min: self.optional_real("ALERT_AGENT_SUCCESS_MIN", 0.0, 1.0)?,
            agent_latency_p95_max_ms: self.optional_real(
                "ALERT_AGENT_LATENCY_P95_MAX_MS",
                0.0,
                1e12,
            )?,
            agent_cost_max: self.optional_real("ALERT_AGENT_COST_MAX", 0.0, 1e12)?,
            perfect_outcomes: (perfect_outcomes > 0).then_some(perfect_outcomes),
            webhook_url,
        })
    }

    fn is_kafka_on(&self) -> Result<bool> {
        match self.text("ENABLE_KAFKA").as_str() {
            "" => Ok(!self.text("KAFKA_BOOTSTRAP_SERVERS").is_empty()),
            _ => self.flag("ENABLE_KAFKA"),
        }
    }

    /// How Kafka is used; `None` when it is not.
    fn kafka(&self) -> Result<Option<KafkaOptions>> {
        if !self.is_kafka_on()? {
            return Ok(None);
        }
        let servers = self.text("KAFKA_BOOTSTRAP_SERVERS");
        let brokers = if servers.is_empty() { "localhost:9092".to_owned() } else { servers };
        let some = |env: &str| Some(self.text(env)).filter(|text| !text.is_empty());
        let dead_letter_topic = match some("KAFKA_DEAD_LETTER_TOPIC") {
            Some(_) => Some(self.topic("KAFKA_DEAD_LETTER_TOPIC")?),
            None => None,
        };
        let topic = self.topic("KAFKA_OUTCOME_TOPIC")?;
        if dead_letter_topic.as_ref() == Some(&topic) {
            return Err(self.wrong("KAFKA_DEAD_LETTER_TOPIC", "another topic than the outcomes'"));
        }
        let alert_topic = match some("KAFKA_ALERT_TOPIC") {
            Some(_) => Some(self.topic("KAFKA_ALERT_TOPIC")?),
            None => None,
        };
        if alert_topic.as_ref() == Some(&topic) {
            return Err(self.wrong("KAFKA_ALERT_TOPIC", "another topic than the outcomes'"));
        }
        let security_protocol = self.choice(
            "KAFKA_SECURITY_PROTOCOL",
            &["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"],
        )?;
        let mechanism =
            self.choice("KAFKA_SASL_MECHANISM", &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])?;
        let sasl = if security_protocol.starts_with("SASL_") {
            let needed = |env: &str| {
                let allowed = format!("what {security_protocol} needs");
                some(env).ok_or_else(|| self.wrong(env, &allowed))
            };
            let username = needed("KAFKA_SASL_USERNAME")?;
            let password_file = needed("KAFKA_SASL_PASSWORD_FILE")?.into();
            Some(Sasl { mechanism, username, password_file })
        } else {
            None
        };
        let reset = self.choice("KAFKA_AUTO_OFFSET_RESET", &["earliest", "latest"])?;
        Ok(Some(KafkaOptions {
            brokers,
            topic,
            group: self.text("KAFKA_CONSUMER_GROUP"),
            offset_reset: match reset.as_str() {
                "latest" => OffsetReset::Latest,
                _ => OffsetReset::Earliest,
            },
            reset_positions: self.flag("KAFKA_RESET_POSITIONS")?,
            dead_letter_topic,
            alert_topic,
            compression: self
                .choice("KAFKA_COMPRESSION", &["none", "gzip", "snappy", "lz4", "zstd"])?,
            security_protocol,
            ssl_ca_location: some("KAFKA_SSL_CA_LOCATION").map(PathBuf::from),
            sasl,
        }))
    }

    /// How long outcomes wait to be final, and verdicts for their executions.
    fn waits(&self) -> Result<[Duration; 2]> {
        let wait = |env: &str| self.number(env, 0, 31_536_000).map(Duration::from_secs);
        Ok([wait("DECISION_WAIT")?, wait("FEEDBACK_WAIT")?])
    }

    /// What evaluations are for.
    fn evaluations(&self) -> Result<Evaluations> {
        let [quality, success] = ["OTLP_QUALITY", "OTLP_SUCCESS"].map(|env| self.otlp_names(env));
        Ok(Evaluations { quality: quality?, success: success? })
    }

    /// Names of attributes or evaluations, separated by commas.
    fn otlp_names(&self, env: &str) -> Result<Vec<String>> {
        let text = self.text(env);
        if text == "none" {
            return Ok(Vec::new());
        }
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) || names.len() > OTLP_NAMES_MAX {
            let allowed = format!("none, or 1 to {OTLP_NAMES_MAX} names separated by commas");
            return Err(self.wrong(env, &allowed));
        }
        Ok(names)
    }

    /// How telemetry is read; `None` when it is not.
    fn otlp(&self) -> Result<Option<OtlpOptions>> {
        let names = |env: &str| self.otlp_names(env);
        let executions = match &*self.choice("OTLP_EXECUTIONS", &Executions::NAMES)? {
            "models" => Executions::Models,
            _ => Executions::Agents,
        };
        let body_mib: usize = self.number("OTLP_BODY_MAX_MIB", 1, 4_096)?;
        let options = OtlpOptions {
            executions,
            task_type: names("OTLP_TASK_TYPE")?,
            tenant: names("OTLP_TENANT")?,
            context: names("OTLP_CONTEXT")?,
            quality: names("OTLP_QUALITY")?,
            success: names("OTLP_SUCCESS")?,
            prices: Some(self.text("OTLP_PRICES"))
                .filter(|file| !file.is_empty())
                .map(PathBuf::from),
            body_bytes_max: body_mib << 20,
        };
        Ok(self.flag("ENABLE_OTLP")?.then_some(options))
    }

    /// Who may ask for what.
    fn access(&self, listen: SocketAddr) -> Result<AccessOptions> {
        let names: Vec<String> = self
            .text("ALLOWED_HOSTS")
            .split(',')
            .map(|name| name.trim().to_owned())
            .filter(|n| !n.is_empty())
            .collect();
        let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !names.iter().all(|name| name.bytes().all(is_legal)) {
            return Err(self.wrong("ALLOWED_HOSTS", "names without a port, such as a.example.org"));
        }
        let written = self.text("LISTEN_ADDR");
        let listen_name = written.rsplit_once(':').map_or("", |(name, _)| name);
        let per_second = self.real("RATE_LIMIT", 0.0, 1e9)?;
        let burst = f64::from(self.number::<u32>("RATE_LIMIT_BURST", 1, 1_000_000_000)?);
        Ok(AccessOptions {
            tokens_file: Some(self.text("AUTH_TOKENS_FILE"))
                .filter(|file| !file.is_empty())
                .map(PathBuf::from),
            insecure: self.flag("LISTEN_INSECURE")?,
            hosts: Hosts::new(listen.ip(), listen_name, names),
            rate: (per_second > 0.0).then_some(Rate { per_second, burst }),
        })
    }

    fn address(&self, env: &str) -> Result<SocketAddr> {
        let resolved = self.text(env).to_socket_addrs().ok().and_then(|mut found| found.next());
        resolved.ok_or_else(|| self.wrong(env, "an address and a port, such as 127.0.0.1:8000"))
    }
}

fn option(env: &str) -> &'static Opt {
    OPTIONS.iter().find(|option| option.env == env).expect("every variable used is in OPTIONS")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(pairs: &[(&str, &str)]) -> Result<Config> {
        Config::resolve(|env| {
            pairs.iter().find(|(name, _)| *name == env).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_defaults_of_the_table_are_those_of_the_types() {
        let config = resolve(&[]).expect("the defaults are allowed");
        assert_eq!(config.store, StoreOptions::default());
        assert_eq!(config.learner.settings, Settings::default());
        assert_eq!(config.learner.batch_outcomes, 10);
        assert_eq!(config.learner.batch_timeout, Duration::from_secs(30));
        assert_eq!(config.learner.save_interval, Some(Duration::from_mins(5)));
        assert_eq!(config.alerts, AlertOptions::default());
        assert_eq!(config.learner.drift_threshold, LearnerOptions::default().drift_threshold);
        assert_eq!(config.listen_addr.to_string(), "127.0.0.1:8000");
        assert_eq!(config.kafka_topic, "agent-outcomes");
    }

    #[track_caller]
    fn check_wrong(env: &str, value: &str, allowed: &str) {
        let Err(Error::Config(text)) = resolve(&[(env, value)]) else {
            panic!("{env}={value} should be refused")
        };
        assert!(text.contains(env) && text.contains(value) && text.contains(allowed), "{text}");
    }

    #[test]
    fn a_wrong_value_is_reported_with_its_variable_and_what_is_allowed() {
        check_wrong("MODEL_BATCH_SIZE", "0", "a whole number from 1 to 100000");
        check_wrong("MODEL_BATCH_SIZE", "ten", "a whole number from 1 to 100000");
        check_wrong("MODEL_BATCH_TIMEOUT", "NaN", "a number from 0 to 86400");
        check_wrong("MODEL_STRATEGY", "greedy", "thompson, beta");
        check_wrong("LISTEN_ADDR", "8000", "an address and a port");
        check_wrong("MODEL_PRIOR_ALPHA", "-1", "a number from 0.001");
        check_wrong("SQLITE_SYNCHRONOUS", "off", "full or normal");
        check_wrong("LOG_STYLE", "purple", "auto, always or never");
        check_wrong("MODEL_VERSIONS_MAX", "1", "a whole number from 2");
        check_wrong("INTEGRITY_CHECK", "maybe", "true or false");
        check_wrong("ALERT_IMPROVEMENT_MIN", "0.5", "a number from -1 to 0");
        check_wrong("ALERT_AGENT_SUCCESS_MIN", "2", "a number from 0 to 1");
        check_wrong("ENABLE_KAFKA", "maybe", "true or false");
    }

    #[test]
    fn other_machines_are_let_in_only_with_tokens_or_when_that_is_spelled_out() {
        let check = |pairs: &[(&str, &str)]| resolve(pairs).unwrap().check_exposure();
        let open = ("LISTEN_ADDR", "0.0.0.0:8000");
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[("LISTEN_ADDR", "[::1]:8000")]), Ok(()));
        let Err(Error::Config(text)) = check(&[open]) else { panic!("it should be refused") };
        for name in ["0.0.0.0:8000", "AUTH_TOKENS_FILE", "--insecure"] {
            assert!(text.contains(name), "{text}");
        }
        assert_eq!(check(&[open, ("LISTEN_INSECURE", "true")]), Ok(()));
        assert_eq!(check(&[open, ("AUTH_TOKENS_FILE", "/tokens")]), Ok(()));
        check_wrong("ALLOWED_HOSTS", "a.example.org:80", "names without a port");
        check_wrong("RATE_LIMIT", "-1", "a number from 0");
        check_wrong("LOG_FORMAT", "xml", "text or json");
    }

    #[test]
    fn kafka_is_on_exactly_when_brokers_are_named_or_it_is_said_so() {
        let brokers = |pairs: &[(&str, &str)]| resolve(pairs).unwrap().kafka.map(|on| on.brokers);
        let named = ("KAFKA_BOOTSTRAP_SERVERS", "broker:9092");
        assert_eq!(brokers(&[]), None);
        assert_eq!(brokers(&[named]).as_deref(), Some("broker:9092"));
        assert_eq!(brokers(&[("ENABLE_KAFKA", "true")]).as_deref(), Some("localhost:9092"));
        assert_eq!(brokers(&[("ENABLE_KAFKA", "false"), named]), None);
    }

    #[test]
    fn what_kafka_needs_is_asked_for() {
        #[track_caller]
        fn check(pairs: &[(&str, &str)], says: &str) {
            let on = [("ENABLE_KAFKA", "true")];
            let Err(Error::Config(text)) = resolve(&[&on, pairs].concat()) else {
                panic!("{pairs:?} should be refused")
            };
            assert!(text.contains(says), "{text}");
        }
        check(&[("KAFKA_COMPRESSION", "brotli")], "none, gzip, snappy, lz4 or zstd");
        check(&[("KAFKA_OUTCOME_TOPIC", "a b")], "a topic's name");
        check(&[("KAFKA_OUTCOME_TOPIC", "..")], "a topic's name");
        check(&[("KAFKA_DEAD_LETTER_TOPIC", "agent-outcomes")], "another topic");
        check(&[("KAFKA_AUTO_OFFSET_RESET", "0")], "earliest or latest");
        let sasl = ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL");
        check(&[sasl], "KAFKA_SASL_USERNAME");
        check(&[sasl, ("KAFKA_SASL_USERNAME", "u")], "KAFKA_SASL_PASSWORD_FILE");
        check(&[("KAFKA_SECURITY_PROTOCOL", "tls")], "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL");
    }

    #[test]
    fn alerts_can_be_turned_off_and_the_webhook_may_hold_a_secret() {
        let off = [
            ("ALERT_NO_EVENTS_AFTER", "0"),
            ("ALERT_PERFECT_OUTCOMES", "0"),
            ("ALERT_DRIFT_THRESHOLD", "0"),
        ];
        let config = resolve(&off).unwrap();
        assert_eq!((config.alerts.no_events_after, config.alerts.perfect_outcomes), (None, None));
        assert_eq!(config.learner.drift_threshold, None);
        let Err(Error::Config(text)) = resolve(&[("ALERT_WEBHOOK_URL", "ftp://s3cret")]) else {
            panic!("it should be refused")
        };
        assert!(text.contains("ALERT_WEBHOOK_URL") && !text.contains("s3cret"), "{text}");
    }

    #[test]
    fn an_empty_variable_counts_as_not_set_and_zero_turns_saves_off() {
        assert_eq!(resolve(&[("MODEL_BATCH_SIZE", "")]).unwrap().learner.batch_outcomes, 10);
        assert_eq!(resolve(&[("MODEL_SAVE_INTERVAL", "0")]).unwrap().learner.save_interval, None);
    }
}
