//! From what is known to a ranking: standings, draws, recommendations.

use std::fmt::Write;
use std::sync::Arc;

use serde::Serialize;

use super::{
    Agent, AgentPerformanceModel, Posterior, Strategy, Tally, Task, Tenant, probabilities_best,
};
use crate::outcome::Context;

/// Most weight, in outcomes, of an agent's record on other task types.
///
/// Were an agent's success on task types spread around its overall rate `m` with variance
/// `m (1 - m) / (k + 1)`, its record elsewhere would tell as much about this task type as at most
/// `k` outcomes on it would (the beta-binomial model: Gelman et al., Bayesian Data Analysis, 3rd
/// edition, section 5.3).
const ELSEWHERE_WEIGHT_MAX: f64 = 8.0;
/// Most weight, in outcomes, of the record of all other agents.
const OTHERS_WEIGHT_MAX: f64 = 2.0;

/// Which agent? The part of a prediction request that the model answers.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Whose agents.
    pub tenant: &'a str,
    /// Kind of the task, if known.
    pub task_type: Option<&'a str>,
    /// What is known of the task.
    pub context: &'a Context,
    /// Only these, known or new; every known agent when `None`.
    pub candidates: Option<&'a [String]>,
    /// But none of these.
    pub exclude: &'a [String],
}

/// What is believed about an agent's mean reward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Belief {
    /// A distribution, to draw from.
    Posterior(Posterior),
    /// One number in `0..=1`, for strategies that do not explore.
    Point(f64),
}

/// One agent before the draw.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The agent's name.
    pub agent: Arc<str>,
    /// What is believed about its reward on this question.
    pub belief: Belief,
    /// Learned outcomes of the agent.
    pub samples: u64,
    /// Learned outcomes of the agent on this task type; of any, when the question names none.
    pub evidence: u64,
}

impl Standing {
    /// Expected reward, `0..=1`.
    pub fn expected_success(&self) -> f64 {
        match self.belief {
            Belief::Posterior(posterior) => posterior.mean(),
            Belief::Point(mean) => mean,
        }
    }

    /// 90 % credible interval of the mean reward; `None` for strategies that have none.
    pub fn interval(&self) -> Option<[f64; 2]> {
        match self.belief {
            Belief::Posterior(posterior) => Some(posterior.interval()),
            Belief::Point(_) => None,
        }
    }
}

/// One agent after the draw.
#[derive(Debug, Clone)]
pub struct Recommendation {
    /// The agent's name.
    pub agent: Arc<str>,
    /// What it was ranked by, `0..=1`.
    pub score: f64,
    /// Its place among the standings.
    pub standing: usize,
}

impl AgentPerformanceModel {
    /// The agents that the question allows, in the order of their names.
    ///
    /// With the strategy `thompson` an agent's posterior on a task type is
    ///
    /// ```text
    /// Beta(prior_alpha + own reward + e m_e + o m_o,
    ///      prior_beta  + own misses + e (1 - m_e) + o (1 - m_o))
    /// ```
    ///
    /// where *own* is its record on this task type, `m_e` its mean reward on all others and `m_o`
    /// the mean reward of all other agents. A record of `n` outcomes from which at most `k` can be
    /// borrowed weighs `n k / (n + k)`: as much as all of it when it is short, `k` when it is long.
    /// A question without a task type is answered from the agent's whole record, and an agent
    /// without any competes from the prior and `m_o`.
    pub fn standings(&self, question: &Question<'_>) -> Vec<Standing> {
        let tenant = self.tenant(question.tenant);
        let excluded = |name: &str| question.exclude.iter().any(|excluded| excluded == name);
        let task = tenant.zip(question.task_type).and_then(|(tenant, name)| tenant.tasks.get(name));
        match question.candidates {
            Some(names) => {
                let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
                names.sort_unstable();
                names.dedup();
                names.retain(|name| !excluded(name));
                let known = |name| tenant.and_then(|tenant| tenant.agents.get_key_value(name));
                names
                    .into_iter()
                    .map(|name| match known(name) {
                        Some((name, agent)) => {
                            self.standing(name.clone(), Some(agent), tenant, task, question)
                        }
                        None => self.standing(name.into(), None, tenant, task, question),
                    })
                    .collect()
            }
            None => tenant
                .into_iter()
                .flat_map(|tenant| tenant.agents.iter())
                .filter(|(name, _)| !excluded(name))
                .map(|(name, agent)| {
                    self.standing(name.clone(), Some(agent), tenant, task, question)
                })
                .collect(),
        }
    }

    fn standing(
        &self,
        name: Arc<str>,
        agent: Option<&Arc<Agent>>,
        tenant: Option<&Tenant>,
        task: Option<&Task>,
        question: &Question<'_>,
    ) -> Standing {
        let settings = &self.settings;
        let records = Records::of(agent, tenant, task, question);
        let point =
            |mean: Option<f64>| Belief::Point(mean.unwrap_or_else(|| settings.prior_mean()));
        let belief = match settings.strategy {
            Strategy::Thompson | Strategy::Beta => {
                let mut posterior =
                    Posterior { alpha: settings.prior_alpha, beta: settings.prior_beta };
                for part in records.parts(settings.strategy) {
                    posterior.alpha += part.reward * part.weight;
                    posterior.beta += part.missed * part.weight;
                }
                Belief::Posterior(posterior)
            }
            Strategy::MovingAverage => point(agent.and_then(|agent| agent.rewards.mean())),
            Strategy::Exponential => point(agent.and_then(|agent| agent.exponential)),
        };
        let (samples, evidence) = (records.whole.learned, records.own.learned);
        Standing { agent: name, belief, samples, evidence }
    }

    /// Why an agent stands where it stands.
    pub fn explain(&self, question: &Question<'_>, name: &str) -> Explanation {
        let tenant = self.tenant(question.tenant);
        let agent = tenant.and_then(|tenant| tenant.agents.get(name));
        let task = tenant.zip(question.task_type).and_then(|(tenant, name)| tenant.tasks.get(name));
        let records = Records::of(agent, tenant, task, question);
        let strategy = self.settings.strategy;
        let expected = self.standing(name.into(), agent, tenant, task, question).expected_success();
        let parts = match strategy {
            Strategy::Thompson | Strategy::Beta => records.parts(strategy),
            Strategy::MovingAverage | Strategy::Exponential => Vec::new(),
        };
        let mut text = format!("expected success {expected:.3}");
        for part in &parts {
            let Part { name, outcomes, reward, weight, .. } = part;
            // Writing to a String can't fail.
            let _ = write!(text, "; {name}: {reward:.1} of {outcomes} (weight {weight:.3})");
        }
        text += match strategy {
            Strategy::MovingAverage => "; the mean of the last 100 rewards",
            Strategy::Exponential => "; the exponentially weighted mean of the rewards",
            Strategy::Thompson | Strategy::Beta => "; on top of the prior",
        };
        let (prior_alpha, prior_beta) = (self.settings.prior_alpha, self.settings.prior_beta);
        Explanation { expected_success: expected, prior_alpha, prior_beta, parts, text }
    }
}

/// What a posterior is made of, beside its prior.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// Expected reward, `0..=1`.
    pub expected_success: f64,
    /// Pseudo-successes of the prior.
    pub prior_alpha: f64,
    /// Pseudo-failures of the prior.
    pub prior_beta: f64,
    /// The records that were added to the prior.
    pub parts: Vec<Part>,
    /// The same in words.
    pub text: String,
}

/// One record and how much of it counts.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// Whose record it is.
    pub name: &'static str,
    /// Its learned outcomes.
    pub outcomes: u64,
    /// Its sum of rewards.
    pub reward: f64,
    /// Its sum of missed rewards.
    #[serde(skip)]
    pub missed: f64,
    /// Pseudo-counts per outcome, `0..=1`.
    pub weight: f64,
}

/// The records that tell about an agent on a question.
struct Records {
    /// On this task type; all of it when the question names none.
    own: Tally,
    /// On all task types.
    whole: Tally,
    /// Of all agents.
    everyone: Tally,
}

impl Records {
    fn of(
        agent: Option<&Arc<Agent>>,
        tenant: Option<&Tenant>,
        task: Option<&Task>,
        question: &Question<'_>,
    ) -> Self {
        let whole = agent.map(|agent| agent.tally).unwrap_or_default();
        let own = match (question.task_type, agent, task) {
            (None, ..) => whole,
            (Some(_), Some(agent), Some(task)) => {
                task.cells.get(&agent.id).map(|cell| cell.tally).unwrap_or_default()
            }
            _ => Tally::default(),
        };
        Self { own, whole, everyone: tenant.map(|tenant| tenant.total).unwrap_or_default() }
    }

    /// The parts of a posterior, each with its weight.
    fn parts(&self, strategy: Strategy) -> Vec<Part> {
        let Self { own, whole, everyone } = self;
        match strategy {
            Strategy::Beta => vec![Part::new("own record", *whole, f64::INFINITY)],
            _ => vec![
                Part::new("own record on this task type", *own, f64::INFINITY),
                Part::new("own record elsewhere", without(*whole, *own), ELSEWHERE_WEIGHT_MAX),
                Part::new("all other agents", without(*everyone, *whole), OTHERS_WEIGHT_MAX),
            ],
        }
    }
}

fn without(all: Tally, part: Tally) -> Tally {
    Tally {
        executions: all.executions - part.executions,
        learned: all.learned - part.learned,
        // A difference of sums may fall below zero by rounding.
        reward: (all.reward - part.reward).max(0.0),
    }
}

impl Part {
    /// A record of `n` outcomes weighs as much as `n k / (n + k)` outcomes of one's own, `k` being
    /// `weight_max`: all of it when it is short, at most `k` when it is long.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn new(name: &'static str, record: Tally, weight_max: f64) -> Self {
        let weight = if weight_max.is_finite() {
            weight_max / (record.learned as f64 + weight_max)
        } else {
            1.0
        };
        let missed = record.missed().max(0.0);
        Self { name, outcomes: record.learned, reward: record.reward, missed, weight }
    }
}

/// The probability of each standing to be ranked first by one draw each; sums to 1. For standings
/// that are points, 1 for the best, the first of equals.
pub fn propensities(standings: &[Standing]) -> Vec<f64> {
    let posteriors: Option<Vec<Posterior>> = standings
        .iter()
        .map(|standing| match standing.belief {
            Belief::Posterior(posterior) => Some(posterior),
            Belief::Point(_) => None,
        })
        .collect();
    if let Some(posteriors) = posteriors {
        return probabilities_best(&posteriors);
    }
    let best = best_expected(standings);
    (0..standings.len()).map(|index| f64::from(u8::from(best == Some(index)))).collect()
}

/// The standing with the highest expected reward, the first of equals.
pub fn best_expected(standings: &[Standing]) -> Option<usize> {
    (0..standings.len()).reduce(|best, other| {
        let better = standings[other].expected_success() > standings[best].expected_success();
        if better { other } else { best }
    })
}

/// All standings, best first: by one draw each when `explore`, else by expected reward; ties by
/// name. Draws are made in the order of the standings.
pub fn rank(
    standings: &[Standing],
    explore: bool,
    rng: &mut impl rand::Rng,
) -> Vec<Recommendation> {
    let mut ranked: Vec<Recommendation> = standings
        .iter()
        .enumerate()
        .map(|(index, standing)| {
            let score = match standing.belief {
                Belief::Posterior(posterior) if explore => posterior.draw(rng),
                _ => standing.expected_success(),
            };
            Recommendation { agent: standing.agent.clone(), score, standing: index }
        })
        .collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.standing.cmp(&b.standing)));
    ranked
}
