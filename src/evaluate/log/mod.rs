//! Recorded decisions, and what another policy would have earned on them. Reads the log page by page,
//! asks the policy what it would choose, and leaves the arithmetic to [`super::off_policy`].
//!
//! No policy is judged by outcomes that it has learned from. `greedy` and `thompson` choose by what was
//! recorded with each decision, which is what the model said before the outcome (progressive validation);
//! a saved version is judged by the decisions whose outcome came after it had learned.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::off_policy::{Judged, Reason, Support, estimate};
use crate::error::{Error, Result};
use crate::model::{AgentPerformanceModel, Question, Settings, propensities};
use crate::outcome::decisions::Candidate;
use crate::outcome::fields::{self, Name, Real};
use crate::outcome::{DEFAULT_TENANT, format_time, kept_name, parse_time_ms};
use crate::store::{
    MISSING, ModelVersion, Reader, RecordedDecision, VersionStatus, learned_sequence, read_model,
};
use crate::watch::reporting::Reporting;

mod report;

pub use report::{Report, ReportBody, print};

/// Decisions read at a time, so that no statement is long.
const PAGE: u32 = 1_000;
/// The largest share of what a policy would choose that may be left out, unless the caller says.
const LEFT_OUT_MAX: f64 = 0.5;
const ALLOWED: &str = "greedy, thompson, agent:NAME or version:ID";

/// Who would choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// The model as it was at each decision, by expected success: as with `explore: false`.
    Greedy,
    /// The model as it was at each decision, with the draw that was asked for.
    Thompson,
    /// Always this agent.
    Agent(String),
    /// The model of a saved version, as with `explore: true`.
    Version(String),
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let name = |name: &str| kept_name(name).map(Cow::into_owned);
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
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// Who would choose: `greedy`, `thompson`, `agent:NAME` or `version:ID`.
    #[schemars(required, regex(pattern = "^(greedy|thompson|(agent|version):[^\\n]{1,256})$"))]
    policy: Option<String>,
    /// The tenant whose decisions are evaluated; `default` unless given.
    tenant_id: Option<Name>,
    /// Only decisions made then or later.
    #[schemars(extend("format" = "date-time"))]
    since: Option<String>,
    /// The largest share of what the policy would choose that may be left out; 0.5 unless given.
    max_left_out: Option<Real<0, 1>>,
}

/// What to evaluate.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Who would choose.
    pub policy: Policy,
    /// The tenant whose decisions are evaluated.
    pub tenant: String,
    /// Only decisions made then or later, Unix ms.
    pub since_ms: Option<i64>,
    /// The largest share of what the policy would choose that may be left out, `0..=1`.
    pub left_out_max: f64,
}

impl Plan {
    /// Reads the body of a request; see [`PlanRequest`].
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field that is wrong.
    pub fn of(body: Map<String, Value>) -> Result<Self> {
        let PlanRequest { policy, tenant_id, since, max_left_out } = fields::read(body)?;
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
            left_out_max: max_left_out.map_or(LEFT_OUT_MAX, |Real(share)| share),
        })
    }

    /// The body of a request for the same.
    pub fn to_json(&self) -> Value {
        json!({
            "policy": self.policy.to_string(),
            "tenant_id": self.tenant,
            "since": self.since_ms.map(format_time),
            "max_left_out": self.left_out_max,
        })
    }
}

/// A policy, ready to choose.
enum Chooser<'a> {
    Greedy,
    Thompson,
    Agent(&'a str),
    Version { model: &'a AgentPerformanceModel, learned_until: u64 },
}

impl Chooser<'_> {
    /// The probability of each candidate to be chosen, or why that can't be judged here.
    fn probabilities(&self, decision: &RecordedDecision) -> std::result::Result<Vec<f64>, Reason> {
        let candidates = &decision.candidates;
        let one =
            |place: usize| (0..candidates.len()).map(|other| one_if(other == place)).collect();
        match self {
            Self::Agent(name) => {
                let place = candidates.iter().position(|candidate| candidate.agent == *name);
                place.map(one).ok_or(Reason::Absent)
            }
            Self::Greedy => best_expected(candidates).map(one).ok_or(Reason::Absent),
            Self::Thompson if decision.explore => {
                let sum: f64 = candidates.iter().map(|candidate| candidate.propensity).sum();
                Ok(candidates.iter().map(|candidate| candidate.propensity / sum).collect())
            }
            Self::Thompson => Err(Reason::Undrawn),
            Self::Version { learned_until, .. }
                if decision.outcome.as_ref().is_some_and(|of| of.sequence <= *learned_until) =>
            {
                Err(Reason::InSample)
            }
            Self::Version { model, .. } => {
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
                    return Err(Reason::Absent);
                }
                Ok(propensities(&standings))
            }
        }
    }
}

/// The place of the highest expected success, the first of equals.
fn best_expected(candidates: &[Candidate]) -> Option<usize> {
    (0..candidates.len()).reduce(|best, other| {
        let better = candidates[other].expected_success > candidates[best].expected_success;
        if better { other } else { best }
    })
}

fn one_if(condition: bool) -> f64 {
    f64::from(u8::from(condition))
}

/// What a log is read with.
#[derive(Clone, Copy)]
pub struct Log<'a> {
    /// The database.
    pub reader: &'a Reader,
    /// The journal entry up to which outcomes are learned.
    pub learned_sequence: u64,
    /// Those of the model.
    pub settings: Settings,
    /// A decision made before this (Unix, ms) should have its outcome.
    pub waited_since_ms: i64,
}

/// Evaluates a policy on recorded decisions.
///
/// # Errors
/// [`Error::Invalid`] with the reason when the log can't support an answer, [`Error::Unavailable`]
/// when it can't be read now.
pub fn evaluate(plan: &Plan, log: &Log<'_>) -> Result<Report> {
    let version = match &plan.policy {
        Policy::Version(id) => Some(saved_model(log.reader, id, log.settings)?),
        _ => None,
    };
    let chooser = match (&plan.policy, &version) {
        (Policy::Agent(name), _) => Chooser::Agent(name),
        (_, Some((model, learned_until))) => {
            Chooser::Version { model, learned_until: *learned_until }
        }
        (Policy::Thompson, None) => Chooser::Thompson,
        (Policy::Greedy | Policy::Version(_), None) => Chooser::Greedy,
    };
    let since_ms = plan.since_ms.unwrap_or(i64::MIN);
    let (mut judged, mut in_sample, mut after) = (Vec::new(), 0, 0);
    let mut reporting: BTreeMap<String, Reporting> = BTreeMap::new();
    loop {
        let page = log.reader.choices(&plan.tenant, after, since_ms, PAGE)?;
        let Some(last) = page.last() else { break };
        after = last.number;
        for decision in &page {
            let Some(agent) = &decision.chosen else { continue };
            let outcome = decision.outcome.as_ref();
            let learned = outcome.filter(|outcome| outcome.sequence <= log.learned_sequence);
            let is_late = outcome.is_none() && decision.created_ms < log.waited_since_ms;
            let is_given_up = outcome.is_some_and(|outcome| outcome.status == MISSING);
            let of_agent = reporting.entry(agent.clone()).or_default();
            if learned.is_none() && !is_late {
                of_agent.waiting += 1;
                continue;
            }
            of_agent.decisions += 1;
            of_agent.missing += u64::from(is_given_up || (is_late && !decision.cancelled));
            // What came late was not learned, and is what came of it.
            let reward = decision.late.as_ref().or(learned).map(|outcome| outcome.reward);
            let chosen = decision.candidates.iter().position(|one| one.agent == *agent);
            let seen = match chooser.probabilities(decision) {
                Ok(probabilities) => {
                    // Whoever was chosen was among them; a place that is none is nobody's.
                    let chosen = chosen.unwrap_or(usize::MAX);
                    Judged::new(&decision.candidates, &probabilities, chosen, reward)
                }
                Err(reason) => {
                    in_sample += u64::from(reason == Reason::InSample);
                    Judged::against(reason, reward)
                }
            };
            judged.push(seen);
        }
    }
    let support = Support::of(&judged);
    let estimates = estimate(&judged, &support);
    let known = judged.iter().filter(|decision| decision.has_outcome()).count();
    match estimates {
        Some(estimates) if support.left_out_share() <= plan.left_out_max => {
            let (plan, decisions) = (plan.clone(), judged.len() as u64);
            Ok(Report { plan, decisions, in_sample, support, estimates, reporting })
        }
        _ => Err(Error::invalid("/policy", refusal(plan, &support, judged.len(), known))),
    }
}

/// Why the log can't support an answer: of so many `decisions`, `known` have an outcome.
fn refusal(plan: &Plan, support: &Support, decisions: usize, known: usize) -> String {
    let Plan { policy, tenant, since_ms, left_out_max } = plan;
    let since = since_ms.map_or_else(String::new, |ms| format!(" since {}", format_time(ms)));
    if known == 0 {
        return format!(
            "can't be evaluated: tenant {tenant:?} has no recorded decision with a learned \
             outcome{since}; report outcomes with the decision_id of the answer"
        );
    }
    let left_out = support.left_out_share();
    // Where everything is left out, that is the reason whatever is allowed.
    if left_out <= *left_out_max && left_out < 1.0 - 1e-9 {
        return format!(
            "can't be evaluated: of {decisions} decisions{since}, {known} of them with an outcome, {}",
            if known < 2 { "two are needed" } else { "none chose what it would have chosen" }
        );
    }
    let reasons = Reason::ALL.iter().zip(support.left_out).filter(|(_, share)| *share > 0.0);
    let reasons: Vec<String> = reasons
        .map(|(reason, share)| format!("{} in {:.1} %", reason.words(), 100.0 * share))
        .collect();
    format!(
        "can't be evaluated: of what {policy} would choose in {decisions} decisions{since}, {:.1} % \
         can't be judged: it {}; allowed is max_left_out {left_out_max}",
        100.0 * left_out,
        reasons.join(", ")
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
