//! The command `evaluate`: what would another policy have earned on the logged decisions? In the state
//! directory, or by a service.

use std::io::Write;
use std::path::Path;

use clap::Args;
use serde_json::{Value, json};

use crate::commands::predict::Format;
use crate::commands::state::StateArgs;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::evaluate::log::{Log, Plan, evaluate, print};
use crate::learner::Now;
use crate::outcome::DEFAULT_TENANT;
use crate::store::{Reader, Store};
use crate::watch::reporting::waited_since;

/// A policy, and the decisions that it is evaluated on.
#[derive(Debug, Args)]
pub struct Evaluate {
    /// Policy to evaluate: greedy, thompson, agent:NAME or version:ID
    #[arg(long, value_name = "POLICY")]
    policy: String,
    /// Only decisions made then or later, such as 2026-11-23T10:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Tenant whose decisions are evaluated
    #[arg(long, value_name = "TENANT", default_value = DEFAULT_TENANT)]
    tenant: String,
    /// The largest share of what the policy would choose that may be left out, 0 to 1
    #[arg(long, value_name = "SHARE", default_value = "0.5")]
    max_left_out: String,
    /// How to print the report
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Where the decisions are.
    #[command(flatten)]
    pub state: StateArgs,
}

impl Evaluate {
    /// Evaluates, and prints the report.
    ///
    /// # Errors
    /// [`Error::Config`] when an argument is not of its form; as [`evaluate`], and when the directory
    /// can't be read, the service does not answer, or nobody reads.
    pub fn run(&self, out: &mut impl Write) -> Result<()> {
        let plan = self.plan()?;
        let report = match self.state.service()? {
            Some(client) => client.post("/api/learning/evaluate", &plan.to_json())?,
            None => in_directory(&self.state.settings.config()?, &plan)?,
        };
        match self.format {
            Format::Json => writeln!(out, "{report}"),
            Format::Table => print(&report, out),
        }
        .map_err(Error::unprinted)
    }

    fn plan(&self) -> Result<Plan> {
        let share = &self.max_left_out;
        let fields = [
            ("policy", Some(json!(self.policy))),
            ("since", self.since.as_ref().map(|since| json!(since))),
            ("tenant_id", Some(json!(self.tenant))),
            // What is no number is refused in the words of all other fields.
            (
                "max_left_out",
                Some(share.parse().map_or_else(|_| json!(share), |share: f64| json!(share))),
            ),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Plan::of(given.collect()).map_err(|error| match error {
            Error::Invalid { pointer, detail } => {
                let flag =
                    pointer.trim_start_matches('/').trim_end_matches("_id").replace('_', "-");
                Error::Config(format!("--{flag} {detail}"))
            }
            other => other,
        })
    }
}

/// Evaluates a policy on the state directory, beside the service that may be using it. Nothing is
/// changed there.
fn in_directory(config: &Config, plan: &Plan) -> Result<Value> {
    let directory: &Path = &config.storage_path;
    let store = Store::open_read_only(directory, config.store)?;
    let log = Log {
        reader: &Reader::new(directory),
        learned_sequence: store.counters()?.learned_sequence,
        settings: config.learner.settings,
        waited_since_ms: waited_since(config.decision_wait, Now::read().unix_ms),
    };
    evaluate(plan, &log).map(|report| json!(report.body()))
}
