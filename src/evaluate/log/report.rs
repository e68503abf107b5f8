//! What the log says about a policy, as answers show it.

use std::collections::BTreeMap;
use std::io::Write;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::super::off_policy::{Estimate, Estimates, Reason, Support};
use super::Plan;
use crate::outcome::format_time;
use crate::watch::reporting::Reporting;

/// What the log says about a policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub(super) plan: Plan,
    /// All that were asked about: those with an outcome, and those that should have one.
    pub(super) decisions: u64,
    /// Of those, the ones whose outcome the policy's model has learned from.
    pub(super) in_sample: u64,
    pub(super) support: Support,
    pub(super) estimates: Estimates,
    /// By the agent that was chosen.
    pub(super) reporting: BTreeMap<String, Reporting>,
}

impl Report {
    /// As answers show it.
    pub fn body(&self) -> ReportBody {
        let one = |estimate: &Estimate| EstimateBody {
            value: estimate.value,
            interval: estimate.interval,
            judged_interval: estimate.judged_interval,
        };
        let Estimates { logged, effective_sample_size, ips, snips, dm, dr } = &self.estimates;
        let [not_a_candidate, improbable, in_sample, no_draw, missing_outcome] =
            self.support.left_out;
        ReportBody {
            policy: self.plan.policy.to_string(),
            tenant_id: self.plan.tenant.clone(),
            since: self.plan.since_ms.map(format_time),
            decisions: self.support.judged,
            left_out: self.decisions - self.support.judged,
            left_out_share: self.support.left_out_share(),
            left_out_reasons: LeftOutBody {
                not_a_candidate,
                improbable,
                in_sample,
                no_draw,
                missing_outcome,
            },
            max_left_out: self.plan.left_out_max,
            in_sample: self.in_sample,
            max_weight: self.support.weight_max,
            effective_sample_size: *effective_sample_size,
            estimates: EstimatesBody { ips: one(ips), snips: one(snips), dm: one(dm), dr: one(dr) },
            logged: one(logged),
            agents: self.agents(),
            warnings: self.warnings(),
        }
    }

    fn agents(&self) -> Vec<ReportingBody> {
        let rows = self.reporting.iter();
        rows.map(|(agent, reporting)| ReportingBody {
            agent_name: agent.clone(),
            decisions: reporting.decisions,
            missing: reporting.missing,
            waiting: reporting.waiting,
            missing_share: reporting.missing_share(),
        })
        .collect()
    }

    /// What makes the numbers say less than they seem to.
    fn warnings(&self) -> Vec<String> {
        let all = self.reporting.values().fold(Reporting::default(), |all, of| all.and(*of));
        let unlike = self.reporting.iter().filter_map(|(agent, reporting)| {
            let others = all.without(*reporting);
            reporting.exceeds(&others, 0.0).then(|| {
                format!(
                    "outcomes are missing in {:.1} % of the decisions for {agent:?}, in {:.1} % of the \
                     others: what is known of it may be what went well, or what went badly",
                    100.0 * reporting.missing_share(),
                    100.0 * others.missing_share()
                )
            })
        });
        unlike.collect()
    }
}

/// What the log says about a policy, as answers show it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Evaluation")]
pub struct ReportBody {
    /// Who would choose.
    policy: String,
    /// The tenant whose decisions were evaluated.
    tenant_id: String,
    /// Only decisions made then or later.
    #[schemars(extend("format" = "date-time"))]
    since: Option<String>,
    /// Decisions with an outcome of which at least half of what the policy would choose is judged.
    decisions: u64,
    /// The others.
    left_out: u64,
    /// The share of what the policy would choose that can't be judged: by so much are intervals wider.
    #[schemars(range(min = 0.0, max = 1.0))]
    left_out_share: f64,
    /// The left-out share, split by the reason why it can't be judged.
    left_out_reasons: LeftOutBody,
    /// The largest share with which there is an answer.
    #[schemars(range(min = 0.0, max = 1.0))]
    max_left_out: f64,
    /// Decisions left out because the policy's model has learned from their outcome.
    in_sample: u64,
    /// What the policy would choose more often than the log by more than this factor is left out.
    #[schemars(range(min = 1.0))]
    max_weight: f64,
    /// As many decisions of the policy itself would tell about as much.
    #[schemars(range(min = 0.0))]
    effective_sample_size: f64,
    /// What the policy would have earned per decision.
    estimates: EstimatesBody,
    /// What was earned.
    logged: EstimateBody,
    /// Who was chosen, and whose outcomes are missing.
    agents: Vec<ReportingBody>,
    /// What makes the numbers say less than they seem to.
    warnings: Vec<String>,
}

/// Shares of what the policy would choose that can't be judged.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LeftOutShares")]
struct LeftOutBody {
    /// The agent did not compete.
    #[schemars(range(min = 0.0, max = 1.0))]
    not_a_candidate: f64,
    /// It was not possible, or tried far less often than the policy would.
    #[schemars(range(min = 0.0, max = 1.0))]
    improbable: f64,
    /// The version's model has learned from the outcome.
    #[schemars(range(min = 0.0, max = 1.0))]
    in_sample: f64,
    /// No draw was asked for, so that what it would have chosen is not recorded.
    #[schemars(range(min = 0.0, max = 1.0))]
    no_draw: f64,
    /// The outcome is missing.
    #[schemars(range(min = 0.0, max = 1.0))]
    missing_outcome: f64,
}

/// The policy's value by each of the four estimators.
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
    /// The estimate, of what is judged.
    value: f64,
    /// 95 % for all decisions, low and high, whatever came of what is left out.
    interval: [f64; 2],
    /// 95 % of what is judged alone.
    judged_interval: [f64; 2],
}

/// The decisions that chose an agent.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Reporting")]
struct ReportingBody {
    /// Who was chosen.
    agent_name: String,
    /// How often, without those that are still waiting.
    decisions: u64,
    /// Without an outcome for longer than `DECISION_WAIT`.
    missing: u64,
    /// Without an outcome, which may still come.
    waiting: u64,
    /// `missing` of `decisions`.
    #[schemars(range(min = 0.0, max = 1.0))]
    missing_share: f64,
}

/// Prints a report for people.
///
/// # Errors
/// When nobody reads.
pub fn print(report: &Value, out: &mut impl Write) -> std::io::Result<()> {
    let count = |field: &str| report[field].as_u64().unwrap_or(0);
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let policy = report["policy"].as_str().unwrap_or_default().escape_debug();
    writeln!(
        out,
        "{policy}: {} decisions, {} left out, effective sample size {:.1}",
        count("decisions"),
        count("left_out"),
        number(&report["effective_sample_size"]),
    )?;
    writeln!(
        out,
        "{:.1} % of what it would choose can't be judged",
        100.0 * number(&report["left_out_share"])
    )?;
    let reasons = &report["left_out_reasons"];
    for reason in Reason::ALL {
        let share = number(&reasons[reason.field()]);
        if share > 0.0 {
            writeln!(out, "  {:.1} %: it {}", 100.0 * share, reason.words())?;
        }
    }
    writeln!(out, "{:24}  {:>7}  95 % of all         of those judged", "estimate", "value")?;
    let estimates = &report["estimates"];
    for (name, estimate) in [
        ("inverse propensity", &estimates["ips"]),
        ("self-normalised", &estimates["snips"]),
        ("direct method", &estimates["dm"]),
        ("doubly robust", &estimates["dr"]),
        ("as it was", &report["logged"]),
    ] {
        let interval = |of: &Value| format!("{:.4} to {:.4}", number(&of[0]), number(&of[1]));
        writeln!(
            out,
            "{name:24}  {:>7.4}  {}    {}",
            number(&estimate["value"]),
            interval(&estimate["interval"]),
            interval(&estimate["judged_interval"])
        )?;
    }
    let missing = report["agents"].as_array().into_iter().flatten();
    for agent in missing.filter(|agent| agent["missing"] != 0) {
        writeln!(
            out,
            "{}: {} of {} decisions have no outcome",
            agent["agent_name"].as_str().unwrap_or_default().escape_debug(),
            agent["missing"],
            agent["decisions"]
        )?;
    }
    for warning in report["warnings"].as_array().into_iter().flatten() {
        writeln!(out, "warning: {}", warning.as_str().unwrap_or_default())?;
    }
    Ok(())
}
