//! The command `evaluate`: what would another policy have earned on the logged decisions? In the state
//! directory, or by a service.

use std::path::Path;

use serde_json::{Value, json};

use crate::commands::client::Client;
use crate::config::Config;
use crate::error::Result;
use crate::evaluate::log::{Log, Plan, evaluate};
use crate::learner::Now;
use crate::store::{Reader, Store};
use crate::watch::reporting::waited_since;

/// Evaluates a policy on the state directory, beside the service that may be using it. Nothing is
/// changed there.
///
/// # Errors
/// As [`evaluate`], and when the directory can't be read.
pub fn in_directory(config: &Config, plan: &Plan) -> Result<Value> {
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

/// Asks a running service to evaluate a policy.
///
/// # Errors
/// As [`Client::post`].
pub fn by_service(url: &str, plan: &Plan) -> Result<Value> {
    Client::new(url)?.post("/api/learning/evaluate", &plan.to_json())
}
