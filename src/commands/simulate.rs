//! `simulate`: plays a stream of tasks with simulated agents against a running service, so that a
//! newcomer sees it learn.
//!
//! Every task type has another best agent. The service is asked for an agent, the agent's outcome
//! is drawn from its hidden chance of success and reported, and the share of tasks that went to
//! the best agent is printed as it rises.

use std::io::Write;

use clap::{Args, value_parser};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::commands::client::ServiceArgs;
use crate::error::{Error, Result};

const AGENTS: [&str; 4] = ["PlanExecuteAgent", "ReActAgent", "ReflectionAgent", "ToolUseAgent"];
const TASK_TYPES: [&str; 4] =
    ["code_review", "compliance_analysis", "customer_support", "data_extraction"];
const DOMAINS: [&str; 3] = ["financial", "healthcare", "retail"];
/// Chances of success: of the task type's best agent, and of the others in turn.
const BEST: f64 = 0.9;
const OTHERS: [f64; 3] = [0.65, 0.55, 0.45];

/// What to play.
#[derive(Debug, Args)]
pub struct Simulate {
    /// The service.
    #[command(flatten)]
    service: ServiceArgs,
    /// Tasks to play
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = value_parser!(u32).range(1..))]
    tasks: u32,
    /// Tasks per printed line
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(1..))]
    window: u32,
    // It decides which agent is best at what, and every draw; each has a tenant of its own.
    /// Another seed is another world
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
}

/// Plays the plan and prints to `out`.
///
/// # Errors
/// When the service does not answer as it should, or nobody reads.
pub fn play(plan: &Simulate, out: &mut impl Write) -> Result<()> {
    let client = plan.service.client()?;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(plan.seed);
    let shift = rng.random_range(0..AGENTS.len());
    let chance = |agent: usize, task: usize| {
        let place = (agent + task + shift) % AGENTS.len();
        place.checked_sub(1).map_or(BEST, |other| OTHERS[other])
    };
    let tenant = format!("simulation-{}", plan.seed);
    writeln!(
        out,
        "{} agents, {} task types, each with another best agent; tenant {tenant}\n\
         {:>12}  {:>11}  {:>12}",
        AGENTS.len(),
        TASK_TYPES.len(),
        "tasks",
        "best picks",
        "success rate"
    )
    .map_err(Error::unprinted)?;

    let (mut best, mut successes, mut window_start) = (0, 0, 0);
    for number in 1..=plan.tasks {
        let task = rng.random_range(0..TASK_TYPES.len());
        let context = json!({"domain": DOMAINS[rng.random_range(0..DOMAINS.len())]});
        let question = json!({
            "tenant_id": tenant, "task_type": TASK_TYPES[task], "context": context,
            "candidates": AGENTS, "top_k": 1,
        });
        let answer = client.post("/api/learning/predict/agent-selection", &question)?;
        let name = answer["recommendations"][0]["agent_name"].as_str().unwrap_or_default();
        let agent = AGENTS.iter().position(|known| *known == name).ok_or_else(|| {
            Error::Fatal(format!("the service answered with the agent {name:?}: {answer}"))
        })?;
        let success = rng.random::<f64>() < chance(agent, task);
        let latency_ms = rng.random_range(400.0..1_600.0_f64).round();
        let outcome = json!({
            "tenant_id": tenant, "agent_name": AGENTS[agent], "task_type": TASK_TYPES[task],
            "status": if success { "success" } else { "failure" }, "latency_ms": latency_ms,
            "decision_id": answer["decision_id"],
        });
        let taken: Value = client.post("/api/learning/outcomes?wait=true", &outcome)?;
        if taken["accepted"] != 1 {
            return Err(Error::Fatal(format!("the service did not take the outcome: {taken}")));
        }
        best +=
            u32::from((0..AGENTS.len()).all(|other| chance(other, task) <= chance(agent, task)));
        successes += u32::from(success);
        if number % plan.window == 0 || number == plan.tasks {
            let size = f64::from(number - window_start);
            let range = format!("{}-{number}", window_start + 1);
            let share = 100.0 * f64::from(best) / size;
            let rate = 100.0 * f64::from(successes) / size;
            writeln!(out, "{range:>12}  {share:>9.0} %  {rate:>10.0} %")
                .map_err(Error::unprinted)?;
            (best, successes, window_start) = (0, 0, number);
        }
    }
    writeln!(
        out,
        "a random choice finds the best agent in {} % of the tasks; the best one succeeds in {} %",
        100 / AGENTS.len(),
        100.0 * BEST
    )
    .map_err(Error::unprinted)
}
