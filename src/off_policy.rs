//! `evaluate`: what would another policy have earned on the logged decisions? Reads the log page by
//! page, asks the policy what it would choose, and leaves the arithmetic to
//! [`crate::evaluate::off_policy`].

use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::config::Config;
use crate::decisions::Candidate;
use crate::error::{Error, Result};
use crate::evaluate::off_policy::{self, Estimate, Estimates};
use crate::fields::{self, Name};
use crate::learner;
use crate::model::{AgentPerformanceModel, Question, Settings, best_expected, propensities};
use crate::outcome::{DEFAULT_TENANT, NAME_BYTES_MAX, format_time, parse_time_ms};
use crate::store::{
    ModelVersion, Reader, RecordedDecision, Store, VersionStatus, learned_sequence, read_model,
};

/// Decisions read at a time, so that no statement is long.
const PAGE: u32 = 1_000;
const ALLOWED: &str = "greedy, thompson, agent:NAME or version:ID";

/// Who would choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// The model of now, as with `explore: false`.
    Greedy,
    /// The model of now, as with `explore: true`.
    Thompson,
    /// Always this agent.
    Agent(String),
    /// The model of a saved version, as with `explore: true`.
    Version(String),
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let name = |name: &str| (1..=NAME_BYTES_MAX).contains(&name.len()).then(|| name.to_owned());
        let policy = match text.split_once(':') {
            None if text == "greedy" => Some(Self::Greedy),
            None if text == "thompson" => Some(Self::Thompson),
            Some(("agent", agent)) => name(agent).map(Self::Agent),
            Some(("version", id)) => name(id).map(Self::Version),
            _ => None,
        };
        policy.ok_or_else(|| {
            let shown: String = text.chars().take(100).collect();
            Error::invalid("/policy", format!("is {shown:?}, allowed is {ALLOWED}"))
        })
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Greedy => f.write_str("greedy"),
            Self::Thompson => f.write_str("thompson"),
            Self::Agent(name) => write!(f, "agent:{name}"),
            Self::Version(id) => write!(f, "version:{id}"),
        }
    }
}

/// The body of a request for an evaluation.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct PlanRequest {
    /// Who would choose: `greedy`, `thompson`, `agent:NAME` or `version:ID`.
    #[schemars(required, regex(pattern = "^(greedy|thompson|(agent|version):[^\\n]{1,256})$"))]
    policy: Option<String>,
    /// Whose decisions; `default` unless given.
    tenant_id: Option<Name>,
    /// Only decisions made then or later.
    #[schemars(extend("format" = "date-time"))]
    since: Option<String>,
}

/// What to evaluate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Who would choose.
    pub policy: Policy,
    /// Whose decisions.
    pub tenant: String,
    /// Only decisions made then or later, Unix ms.
    pub since_ms: Option<i64>,
}

impl Plan {
    /// Reads the body of a request; see [`PlanRequest`].
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field that is wrong.
    pub fn of(body: Map<String, Value>) -> Result<Self> {
        let PlanRequest { policy, tenant_id, since } = fields::read(body)?;
        let Some(policy) = policy else {
            return Err(Error::invalid("/policy", format!("is missing, allowed is {ALLOWED}")));
        };
        let since = since.map(|text| {
            parse_time_ms(&text).ok_or_else(|| {
                let shown: String = text.chars().take(100).collect();
                let allowed = "a time such as 2026-11-23T10:00:00+00:00";
                Error::invalid("/since", format!("is {shown:?}, allowed is {allowed}"))
            })
        });
        Ok(Self {
            policy: policy.parse()?,
            tenant: tenant_id.map_or_else(|| DEFAULT_TENANT.to_owned(), |Name(tenant)| tenant),
            since_ms: since.transpose()?,
        })
    }

    fn to_json(&self) -> Value {
        let since = self.since_ms.map(format_time);
        json!({"policy": self.policy.to_string(), "tenant_id": self.tenant, "since": since})
    }
}

/// What the log says about a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    plan: Plan,
    /// Decisions that count.
    decisions: u64,
    /// Those left out: what the policy would choose was not possible.
    left_out: u64,
    /// Of those that count, the outcomes that the policy's model has learned from.
    in_sample: u64,
    estimates: Estimates,
}

impl Report {
    /// As answers show it.
    pub fn body(&self) -> ReportBody {
        let one = |estimate: &Estimate| EstimateBody {
            value: estimate.value,
            interval: estimate.interval,
        };
        let Estimates { logged, effective_sample_size, ips, snips, dm, dr } = &self.estimates;
        ReportBody {
            policy: self.plan.policy.to_string(),
            tenant_id: self.plan.tenant.clone(),
            since: self.plan.since_ms.map(format_time),
            decisions: self.decisions,
            left_out: self.left_out,
            in_sample: self.in_sample,
            effective_sample_size: *effective_sample_size,
            estimates: EstimatesBody { ips: one(ips), snips: one(snips), dm: one(dm), dr: one(dr) },
            logged: one(logged),
        }
    }
}

/// What the log says about a policy, as answers show it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Evaluation")]
pub struct ReportBody {
    /// Who would choose.
    policy: String,
    /// Whose decisions.
    tenant_id: String,
    /// Only decisions made then or later.
    #[schemars(extend("format" = "date-time"))]
    since: Option<String>,
    /// Decisions that count.
    decisions: u64,
    /// Those left out: what the policy would choose was not possible.
    left_out: u64,
    /// Of those that count, the outcomes that the policy's model has learned from.
    in_sample: u64,
    /// As many decisions of the policy itself would tell about as much.
    #[schemars(range(min = 0.0))]
    effective_sample_size: f64,
    /// What the policy would have earned per decision.
    estimates: EstimatesBody,
    /// What was earned.
    logged: EstimateBody,
}

/// The same by four estimators.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Estimates")]
struct EstimatesBody {
    /// Inverse propensity scores.
    ips: EstimateBody,
    /// Self-normalised inverse propensity scores.
    snips: EstimateBody,
    /// Direct method: what was expected.
    dm: EstimateBody,
    /// Doubly robust.
    dr: EstimateBody,
}

/// Mean reward per decision.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Estimate")]
struct EstimateBody {
    /// The estimate.
    value: f64,
    /// 95 %, low and high.
    interval: [f64; 2],
}

/// A policy, ready to choose.
enum Chooser<'a> {
    Agent(&'a str),
    Model { model: &'a AgentPerformanceModel, explore: bool },
}

impl Chooser<'_> {
    /// The probability of each candidate to be chosen; `None` when the policy can't choose here.
    fn probabilities(&self, decision: &RecordedDecision) -> Option<Vec<f64>> {
        let candidates = &decision.candidates;
        match self {
            Self::Agent(name) => {
                let place = candidates.iter().position(|candidate| candidate.agent == *name)?;
                Some((0..candidates.len()).map(|other| one_if(other == place)).collect())
            }
            Self::Model { model, explore } => {
                let names: Vec<String> =
                    candidates.iter().map(|candidate| candidate.agent.clone()).collect();
                let standings = model.standings(&Question {
                    tenant: &decision.tenant,
                    task_type: decision.task_type.as_deref(),
                    context: &decision.context,
                    candidates: Some(&names),
                    exclude: &[],
                });
                // Both are in the order of the names, each once.
                if standings.len() != names.len() {
                    return None;
                }
                if *explore {
                    return Some(propensities(&standings));
                }
                let best = best_expected(&standings)?;
                Some((0..names.len()).map(|place| one_if(place == best)).collect())
            }
        }
    }
}

fn one_if(condition: bool) -> f64 {
    f64::from(u8::from(condition))
}

/// Evaluates a policy on the decisions whose outcome `model` has learned.
///
/// # Errors
/// [`Error::Invalid`] with the reason when the log can't support an answer, [`Error::Unavailable`]
/// when it can't be read now.
pub fn evaluate(plan: &Plan, reader: &Reader, model: &AgentPerformanceModel) -> Result<Report> {
    let version = match &plan.policy {
        Policy::Version(id) => Some(saved_model(reader, id, *model.settings())?),
        _ => None,
    };
    let chooser = match (&plan.policy, &version) {
        (Policy::Agent(name), _) => Chooser::Agent(name),
        (_, Some((saved, _))) => Chooser::Model { model: saved, explore: true },
        (policy, None) => Chooser::Model { model, explore: *policy != Policy::Greedy },
    };
    // An agent has learned from nothing.
    let learned_until = match (&plan.policy, &version) {
        (Policy::Agent(_), _) => 0,
        (_, Some((_, learned_until))) => *learned_until,
        _ => model.sequence(),
    };
    let since_ms = plan.since_ms.unwrap_or(i64::MIN);
    let (mut weighed, mut left_out, mut in_sample, mut after) = (Vec::new(), 0, 0, 0);
    let mut was_candidate = false;
    loop {
        let page =
            reader.decisions_with_outcome(&plan.tenant, after, since_ms, model.sequence(), PAGE)?;
        let Some(last) = page.last() else { break };
        after = last.number;
        for decision in &page {
            let Some(outcome) = &decision.outcome else { continue };
            let is_chosen =
                |candidate: &Candidate| Some(&candidate.agent) == decision.chosen.as_ref();
            let chosen = decision.candidates.iter().position(is_chosen);
            let probabilities = chooser.probabilities(decision);
            was_candidate |= probabilities.is_some();
            let one = chosen.zip(probabilities).and_then(|(chosen, probabilities)| {
                off_policy::weigh(&decision.candidates, &probabilities, chosen, outcome.reward)
            });
            match one {
                Some(one) => {
                    weighed.push(one);
                    in_sample += u64::from(outcome.sequence <= learned_until);
                }
                None => left_out += 1,
            }
        }
    }
    let Some(estimates) = off_policy::estimate(&weighed) else {
        let detail = unsupported(plan, weighed.len() as u64, left_out, was_candidate);
        return Err(Error::invalid("/policy", detail));
    };
    let decisions = weighed.len() as u64;
    Ok(Report { plan: plan.clone(), decisions, left_out, in_sample, estimates })
}

/// Why the log can't support an answer.
fn unsupported(plan: &Plan, decisions: u64, left_out: u64, was_candidate: bool) -> String {
    let Plan { policy, tenant, since_ms } = plan;
    let since = since_ms.map_or_else(String::new, |ms| format!(" since {}", format_time(ms)));
    if decisions + left_out == 0 {
        return format!(
            "can't be evaluated: tenant {tenant:?} has no recorded decision with a learned \
             outcome{since}; report outcomes with the decision_id of the answer"
        );
    }
    let total = decisions + left_out;
    if !was_candidate {
        return format!(
            "can't be evaluated: the agent of {policy} competed in none of the {total} decisions \
             with an outcome{since}"
        );
    }
    if decisions == 0 {
        return format!(
            "can't be evaluated: what {policy} would choose was not possible in any of the {total} \
             decisions with an outcome{since}: its propensity was always below {}",
            off_policy::PROPENSITY_MIN
        );
    }
    format!(
        "can't be evaluated: of {total} decisions with an outcome{since} only {decisions} could have \
         been those of {policy}, and of these {}",
        if decisions < 2 { "two are needed" } else { "none chose what it would have chosen" }
    )
}

/// A saved version's model, and the journal entry up to which it has learned.
fn saved_model(
    reader: &Reader,
    id: &str,
    settings: Settings,
) -> Result<(AgentPerformanceModel, u64)> {
    let wrong = |why: &str| Error::invalid("/policy", format!("version {id:?} {why}"));
    let version = reader.version(id)?.ok_or_else(|| wrong("is unknown"))?;
    let ModelVersion { status, model_file_path: file, digest, .. } = &version;
    let (VersionStatus::Active | VersionStatus::Deprecated, Some(digest)) = (status, digest) else {
        return Err(wrong("has no file (any more)"));
    };
    let load = || {
        // An activation names the file of an older version.
        let sequence = learned_sequence(reader.directory(), file)?;
        let model = read_model(reader.directory(), file, digest, sequence, settings)?;
        Ok((model, sequence))
    };
    let (model, sequence) =
        load().map_err(|error: Error| wrong(&format!("can't be read: {error}")))?;
    if model.lacks_effects() {
        return Err(wrong("was saved with another MODEL_STRATEGY"));
    }
    Ok((model, sequence))
}

/// Evaluates a policy on the state directory, beside the service that may be using it. Nothing is
/// changed there.
///
/// # Errors
/// As [`evaluate`], and when the directory can't be read.
pub fn in_directory(config: &Config, plan: &Plan) -> Result<Value> {
    let directory: &Path = &config.storage_path;
    let store = Store::open_read_only(directory, config.store)?.as_of_now()?;
    let model = learner::restored(&store, config.learner.settings)?;
    evaluate(plan, &Reader::new(directory), &model).map(|report| json!(report.body()))
}

/// Asks a running service to evaluate a policy.
///
/// # Errors
/// As [`Client::post`].
pub fn by_service(url: &str, plan: &Plan) -> Result<Value> {
    Client::new(url)?.post("/api/learning/evaluate", &plan.to_json())
}

/// Prints a report for people.
///
/// # Errors
/// When nobody reads.
pub fn print(report: &Value, out: &mut impl Write) -> std::io::Result<()> {
    let count = |field: &str| report[field].as_u64().unwrap_or(0);
    let policy = report["policy"].as_str().unwrap_or_default().escape_debug();
    writeln!(
        out,
        "{policy}: {} decisions, {} left out, {} in sample, effective sample size {:.1}\n\
         {:24}  {:>7}  95 % interval",
        count("decisions"),
        count("left_out"),
        count("in_sample"),
        report["effective_sample_size"].as_f64().unwrap_or(0.0),
        "estimate",
        "value"
    )?;
    let estimates = &report["estimates"];
    for (name, estimate) in [
        ("inverse propensity", &estimates["ips"]),
        ("self-normalised", &estimates["snips"]),
        ("direct method", &estimates["dm"]),
        ("doubly robust", &estimates["dr"]),
        ("as it was", &report["logged"]),
    ] {
        let number = |value: &Value| value.as_f64().unwrap_or(0.0);
        let (low, high) = (&estimate["interval"][0], &estimate["interval"][1]);
        let (low, high) = (number(low), number(high));
        writeln!(out, "{name:24}  {:>7.4}  {low:.4} to {high:.4}", number(&estimate["value"]))?;
    }
    Ok(())
}
