//! How the service does at a moment, for plots over time: model score, accuracy, and per tenant and
//! task type the agents that matter, their executions and how probable it is that each is the best.
//!
//! Pure and bounded, like the model. Executions are totals, so that the share of traffic between any
//! two samples can be told, whichever between them were thinned out.

use crate::model::{AgentPerformanceModel, Question, best_probabilities};
use crate::outcome::Context;
use crate::watch::Watch;

/// Pairs of tenant and task type in a sample: those with the most executions.
pub const SUBJECTS_MAX: usize = 24;
/// Agents of each in a sample: those with the most traffic or the best prospects.
pub const AGENTS_MAX: usize = 10;
/// Forecasts without which their accuracy says nothing.
pub const FORECASTS_MIN: usize = 30;
/// Latencies without which their quantiles say nothing.
pub const LATENCIES_MIN: usize = 10;
/// The quantiles of latencies in a sample.
pub const LATENCY_SHARES: [f64; 3] = [0.5, 0.95, 0.99];

/// How many samples are kept of each tier: 12 minutes (a sample every 2 seconds), 12 hours
/// and two weeks of steady work.
pub const KEPT: [u64; 3] = [360, 720, 1_344];
/// A sample is of the highest tier whose span of time it is the first in, ms.
const SPANS_MS: [i64; 3] = [0, 60_000, 15 * 60_000];

/// The service at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Unix time, ms.
    pub sampled_ms: i64,
    /// Sequence number of the last journal entry learned.
    pub model_version: u64,
    /// Mean reward of the last 1,000 learned outcomes of all tenants, `0..=1`.
    pub score: f64,
    /// Share of the last 1,000 forecasts on the right side of one half, `0..=1`; `None` with few.
    pub accuracy: Option<f64>,
    /// A tenant as a whole has no task type.
    pub subjects: Vec<Subject>,
}

/// A tenant's agents on one task type, or on all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Subject {
    /// Whose.
    pub tenant: String,
    /// On what; `None` for everything together.
    pub task_type: Option<String>,
    /// Outcomes so far, whatever their status.
    pub executions: u64,
    /// Quantiles of the last latencies, [`LATENCY_SHARES`], ms; `None` with few.
    pub latencies_ms: Option<[f64; 3]>,
    /// Those that matter.
    pub agents: Vec<AgentSample>,
}

/// One agent.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSample {
    /// Who.
    pub agent: String,
    /// Outcomes so far, whatever their status.
    pub executions: u64,
    /// Probability of being ranked first, `0..=1`.
    pub best: f64,
}

/// The tier of a sample, by the time of the one before.
pub fn tier(before_ms: Option<i64>, sampled_ms: i64) -> usize {
    let Some(before_ms) = before_ms else { return SPANS_MS.len() - 1 };
    let is_first = |span: i64| before_ms.div_euclid(span) != sampled_ms.div_euclid(span);
    (1..SPANS_MS.len()).rev().find(|tier| is_first(SPANS_MS[*tier])).unwrap_or(0)
}

impl Sample {
    /// Looks at a model and what was watched while it learned.
    pub fn take(
        model: &AgentPerformanceModel,
        with_watch: impl FnOnce(&mut dyn FnMut(&Watch)),
        sampled_ms: i64,
    ) -> Self {
        let mut subjects = subjects(model);
        let (mut accuracy, mut latencies) = (None, Vec::new());
        with_watch(&mut |watch| {
            if watch.forecasts.len() >= FORECASTS_MIN {
                accuracy = watch.forecasts.accuracy();
            }
            latencies = subjects
                .iter()
                .map(|of| watch.latencies_ms(&of.tenant, of.task_type.as_deref()))
                .collect();
        });
        for (subject, latencies) in subjects.iter_mut().zip(latencies) {
            subject.latencies_ms = quantiles(latencies);
        }
        let score = model.score().current();
        Self { sampled_ms, model_version: model.sequence(), score, accuracy, subjects }
    }
}

/// [`LATENCY_SHARES`] of values in any order: each the smallest value that so many do not exceed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "at most a thousand values"
)]
fn quantiles(mut values: Vec<f64>) -> Option<[f64; 3]> {
    if values.len() < LATENCIES_MIN {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    Some(LATENCY_SHARES.map(|share| {
        let rank = (share * values.len() as f64).ceil() as usize;
        values[rank.clamp(1, values.len()) - 1]
    }))
}

fn subjects(model: &AgentPerformanceModel) -> Vec<Subject> {
    let mut found: Vec<(u64, &str, Option<&str>)> = Vec::new();
    for (name, tenant) in model.tenants() {
        found.push((tenant.total().executions, name, None));
        let of_task =
            |(task, tally): (_, crate::model::Tally)| (tally.executions, name, Some(task));
        found.extend(tenant.task_types().map(of_task));
    }
    // Whole tenants go first among equals: `None` is less.
    let key = |a: &(u64, &str, Option<&str>), b: &(u64, &str, Option<&str>)| {
        b.0.cmp(&a.0).then(a.2.is_some().cmp(&b.2.is_some())).then(a.cmp(b))
    };
    if found.len() > SUBJECTS_MAX {
        found.select_nth_unstable_by(SUBJECTS_MAX, key);
        found.truncate(SUBJECTS_MAX);
    }
    found.sort_unstable_by(key);
    let seen = found.into_iter().map(|(executions, tenant, task_type)| {
        let mut agents = agents(model, tenant, task_type);
        agents.truncate(AGENTS_MAX);
        let (tenant, task_type) = (tenant.to_owned(), task_type.map(str::to_owned));
        Subject { tenant, task_type, executions, latencies_ms: None, agents }
    });
    seen.collect()
}

/// A tenant's agents on one task type, or on all, those with the most traffic or the best prospects
/// first.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub fn agents(
    model: &AgentPerformanceModel,
    tenant_name: &str,
    task_type: Option<&str>,
) -> Vec<AgentSample> {
    let Some(tenant) = model.tenant(tenant_name) else { return Vec::new() };
    let context = Context::new();
    let question = Question {
        tenant: tenant_name,
        task_type,
        context: &context,
        candidates: None,
        exclude: &[],
    };
    let standings = model.standings(&question);
    let best = best_probabilities(&standings);
    let mut agents: Vec<AgentSample> = standings
        .iter()
        .zip(best)
        .map(|(standing, best)| {
            let agent = tenant.agent(&standing.agent);
            let executions = match (agent, task_type) {
                (None, _) => 0,
                (Some(agent), None) => agent.tally.executions,
                (Some(agent), Some(task)) => tenant.cell(agent, task).tally.executions,
            };
            AgentSample { agent: standing.agent.to_string(), executions, best }
        })
        .collect();
    let total = agents.iter().map(|agent| agent.executions).sum::<u64>().max(1) as f64;
    let weight = |agent: &AgentSample| agent.best.max(agent.executions as f64 / total);
    agents.sort_by(|a, b| weight(b).total_cmp(&weight(a)).then_with(|| a.agent.cmp(&b.agent)));
    agents
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Settings;
    use crate::outcome::{Outcome, Status};

    fn sample(model: &AgentPerformanceModel, watch: &Watch) -> Sample {
        Sample::take(model, |look| look(watch), 7)
    }

    #[test]
    fn a_tier_is_that_of_the_longest_span_begun() {
        assert_eq!(tier(None, 5), 2, "the first of all");
        assert_eq!(tier(Some(0), 59_999), 0);
        assert_eq!(tier(Some(59_999), 60_000), 1);
        assert_eq!(tier(Some(60_000), 899_999), 1);
        assert_eq!(tier(Some(899_999), 900_000), 2);
        assert_eq!(tier(Some(900_000), 899_999), 2, "a clock that was set back");
        assert_eq!(tier(Some(-1), 0), 2);
    }

    #[test]
    fn a_sample_says_what_model_and_watch_say() {
        let mut model = AgentPerformanceModel::new(Settings::default());
        let mut watch = Watch::new(&model, None);
        let nothing = sample(&model, &watch);
        assert_eq!((nothing.score, nothing.accuracy, nothing.subjects.len()), (0.0, None, 0));
        for index in 0..100_u32 {
            let status = if index % 4 == 0 { Status::Failure } else { Status::Success };
            let agent = if index < 80 { "busy" } else { "idle" };
            let mut outcome = Outcome::new(agent, status).on_task("review");
            outcome.latency_ms = Some(f64::from(index));
            let expected = model.foretell(&outcome).unwrap();
            let reward = outcome.reward().unwrap();
            watch.learned([&outcome].into_iter(), [crate::watch::Forecast { expected, reward }]);
        }
        let seen = sample(&model, &watch);
        assert_eq!((seen.sampled_ms, seen.model_version), (7, 100));
        assert!((seen.score - 0.75).abs() < 1e-12);
        assert_eq!(seen.accuracy, watch.forecasts.accuracy());
        let kinds: Vec<_> =
            seen.subjects.iter().map(|s| (&*s.tenant, s.task_type.as_deref())).collect();
        assert_eq!(kinds, [("default", None), ("default", Some("review"))]);
        for subject in &seen.subjects {
            let counts: Vec<_> = subject.agents.iter().map(|a| (&*a.agent, a.executions)).collect();
            assert_eq!((subject.executions, &counts[..]), (100, &[("busy", 80), ("idle", 20)][..]));
            let sum: f64 = subject.agents.iter().map(|agent| agent.best).sum();
            assert!((sum - 1.0).abs() < 1e-9);
        }
        // 75 latencies of successes: 1, 2, 3, 5, ...; the 38th is 50, the 72nd 95, the last 99.
        assert_eq!(seen.subjects[0].latencies_ms, Some([50.0, 95.0, 99.0]));
        assert_eq!(seen.subjects[1].latencies_ms, Some([50.0, 95.0, 99.0]));
    }

    #[test]
    fn a_sample_is_bounded_and_keeps_what_matters() {
        let mut model = AgentPerformanceModel::new(Settings::default());
        for task in 0..40 {
            for agent in 0..15 {
                for _ in 0..=task {
                    let outcome = Outcome::new(format!("a{agent:02}"), Status::Failure);
                    model.update(&outcome.on_task(format!("t{task:02}")));
                }
            }
        }
        // Little traffic, and the best by far.
        for _ in 0..60 {
            model.update(&Outcome::new("zz", Status::Success));
        }
        let seen = sample(&model, &Watch::new(&model, None));
        assert_eq!(seen.subjects.len(), SUBJECTS_MAX);
        assert_eq!(seen.subjects[0].task_type, None);
        assert_eq!(seen.subjects[1].task_type.as_deref(), Some("t39"), "the most executions");
        assert_eq!(seen.subjects[SUBJECTS_MAX - 1].task_type.as_deref(), Some("t17"));
        for subject in &seen.subjects {
            assert_eq!(subject.agents.len(), AGENTS_MAX);
            assert_eq!(subject.agents[0].agent, "zz", "{subject:?}");
        }
    }
}
