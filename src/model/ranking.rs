//! From what is known to a ranking: standings, draws, recommendations.

use std::fmt::Write;
use std::sync::Arc;

use super::belief::{Belief, Standing};
use super::ensemble::{Explained, Opinions};
use super::explanation::Explanation;
use super::families::Candidate;
use super::mixture::{self, Luck, Mixture};
use super::performance::AgentPerformanceModel;
use super::posterior::{Posterior, probabilities_best};
use super::question::{Parts, Question};
use super::records::{Agent, Task};
use super::tenant::Tenant;
use crate::outcome::{Context, DEFAULT_TENANT};

/// One agent after the draw.
#[derive(Debug, Clone)]
pub struct Recommendation {
    /// The agent's name.
    pub agent: Arc<str>,
    /// What it was ranked by, `0..=1`.
    pub score: f64,
    /// Its place among the standings.
    pub standing: usize,
    /// What the score is made of.
    pub parts: Parts,
}

/// A question with what is the same for all agents looked up.
struct Asked<'a> {
    question: &'a Question<'a>,
    tenant: Option<&'a Tenant>,
    task: Option<&'a Task>,
    opinions: Opinions<'a>,
}

impl<'a> Asked<'a> {
    fn new(model: &'a AgentPerformanceModel, question: &'a Question<'a>) -> Self {
        let tenant = model.tenant(question.tenant);
        let task = tenant.zip(question.task_type).and_then(|(tenant, name)| tenant.tasks.get(name));
        let ensemble = tenant.and_then(|tenant| tenant.ensemble.as_ref());
        let ensemble = ensemble.unwrap_or(&model.unlearned);
        let opinions = ensemble.ask(question, &model.settings.caps);
        Self { question, tenant, task, opinions }
    }

    /// One of so many candidates.
    fn candidate<'m>(&self, agent: Option<&'m Arc<Agent>>, candidates: usize) -> Candidate<'m> {
        let agent = agent.map(AsRef::as_ref);
        let on_task = || {
            let cell = self.task?.cells.get(&agent?.id)?;
            Some(cell.tally)
        };
        let evidence = match self.question.task_type {
            None => agent.map(|agent| agent.tally),
            Some(_) => on_task(),
        };
        Candidate { agent, evidence: evidence.unwrap_or_default().learned, candidates }
    }

    fn standing(&mut self, name: Arc<str>, candidate: &Candidate<'_>) -> Standing {
        let belief = self.opinions.belief(candidate);
        let samples = candidate.agent.map_or(0, |agent| agent.tally.learned);
        Standing { agent: name, belief, samples, evidence: candidate.evidence }
    }
}

impl AgentPerformanceModel {
    /// The agents that the question allows, in the order of their names; `None` for unknown ones.
    pub(super) fn candidates(
        &self,
        question: &Question<'_>,
    ) -> Vec<(Arc<str>, Option<&Arc<Agent>>)> {
        let excluded = |name: &str| question.exclude.iter().any(|excluded| excluded == name);
        let tenant = self.tenant(question.tenant);
        let Some(names) = question.candidates else {
            let known = tenant.into_iter().flat_map(|tenant| tenant.agents.iter());
            return known
                .filter(|(name, _)| !excluded(name))
                .map(|(name, agent)| (name.clone(), Some(agent)))
                .collect();
        };
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| !excluded(name));
        let known = |name| tenant.and_then(|tenant| tenant.agents.get_key_value(name));
        names
            .into_iter()
            .map(|name| match known(name) {
                Some((name, agent)) => (name.clone(), Some(agent)),
                None => (name.into(), None),
            })
            .collect()
    }

    /// The `top_k` agents of the default tenant, best first. Random numbers are drawn for every
    /// agent in the order of their names, so a seeded generator gives the same answer again.
    pub fn predict_best_agent(
        &self,
        task_type: Option<&str>,
        context: &Context,
        top_k: usize,
        rng: &mut impl rand::Rng,
    ) -> Vec<Recommendation> {
        let question =
            Question { tenant: DEFAULT_TENANT, task_type, context, candidates: None, exclude: &[] };
        let mut ranked = rank(&self.standings(&question), true, rng);
        ranked.truncate(top_k);
        ranked
    }

    /// The agents that the question allows, in the order of their names.
    pub fn standings(&self, question: &Question<'_>) -> Vec<Standing> {
        let mut asked = Asked::new(self, question);
        let agents = self.candidates(question);
        let candidates = agents.len();
        let standing = |(name, agent): (Arc<str>, Option<&Arc<Agent>>)| {
            let candidate = asked.candidate(agent, candidates);
            asked.standing(name, &candidate)
        };
        agents.into_iter().map(standing).collect()
    }
}

impl AgentPerformanceModel {
    /// Why an agent stands where it stands.
    pub fn explain(&self, question: &Question<'_>, name: &str) -> Explanation {
        let mut asked = Asked::new(self, question);
        let agent = asked.tenant.and_then(|tenant| tenant.agents.get(name));
        let candidate = asked.candidate(agent, 1);
        let expected_success = asked.standing(name.into(), &candidate).expected_success();
        let mut text = format!("expected success {:.0} %", 100.0 * expected_success);
        let Explained { in_words, parts, weights } = asked.opinions.explain(&candidate);
        text += in_words;
        // Writing to a String can't fail.
        for part in &parts {
            let _ = write!(text, "; {}", part.name);
            if let (Some(log_odds), Some(deviation)) = (part.log_odds, part.deviation) {
                let _ = write!(text, " {log_odds:+.2} +- {deviation:.2}");
            }
            if let Some(reward) = part.reward {
                let _ = write!(text, " {reward:.1} successes");
            }
            if part.outcomes > 0 {
                let _ = write!(text, " ({} outcomes)", part.outcomes);
            }
        }
        Explanation { expected_success, parts, weights, text }
    }
}

/// The probability of each standing to be ranked first by one draw each; sums to 1. For standings
/// that are points, 1 for the best, the first of equals.
pub fn propensities(standings: &[Standing]) -> Vec<f64> {
    if let Some(mixtures) = mixtures(standings) {
        return mixture::probabilities_first(&mixtures);
    }
    probabilities_of_highest(standings)
}

/// The posterior probability of each standing to have the highest expected reward; sums to 1. For
/// standings that are points, 1 for the best, the first of equals.
pub fn best_probabilities(standings: &[Standing]) -> Vec<f64> {
    if let Some(mixtures) = mixtures(standings) {
        return mixture::probabilities_best(&mixtures);
    }
    probabilities_of_highest(standings)
}

/// All beliefs, if they are mixtures.
fn mixtures(standings: &[Standing]) -> Option<Vec<&Mixture>> {
    let mixture =
        |standing: &'_ Standing| -> bool { matches!(standing.belief, Belief::Mixture(_)) };
    standings.iter().all(mixture).then(|| {
        let mixtures = standings.iter().filter_map(|standing| match &standing.belief {
            Belief::Mixture(mixture) => Some(mixture),
            _ => None,
        });
        mixtures.collect()
    })
}

/// The same of Beta posteriors, of which one draw is as good as the belief, and of points.
fn probabilities_of_highest(standings: &[Standing]) -> Vec<f64> {
    let posteriors: Option<Vec<Posterior>> = standings
        .iter()
        .map(|standing| match standing.belief {
            Belief::Posterior(posterior) => Some(posterior),
            _ => None,
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

/// All standings, best first: by one draw each when `explore`, else by expected reward, ties by
/// name. Draws are made in the order of the standings; equal ones are ordered at random.
pub fn rank(
    standings: &[Standing],
    explore: bool,
    rng: &mut impl rand::Rng,
) -> Vec<Recommendation> {
    let mixed = standings.iter().any(|standing| matches!(standing.belief, Belief::Mixture(_)));
    let luck = if explore && mixed { Luck::draw(rng) } else { Luck::default() };
    let mut ranked: Vec<(f64, u64, Recommendation)> = standings
        .iter()
        .enumerate()
        .map(|(index, standing)| {
            let (value, tie, score) = match &standing.belief {
                Belief::Posterior(posterior) if explore => {
                    let draw = posterior.draw(rng);
                    (draw, 0, draw)
                }
                Belief::Mixture(mixture) if explore => {
                    let draw = mixture.draw(luck, rng);
                    (draw, rng.next_u64(), mixture.score(draw))
                }
                _ => {
                    let expected = standing.expected_success();
                    (expected, 0, expected)
                }
            };
            let agent = standing.agent.clone();
            let parts = Parts::success(score);
            (value, tie, Recommendation { agent, score, standing: index, parts })
        })
        .collect();
    ranked.sort_by(|a, b| {
        b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.standing.cmp(&b.2.standing))
    });
    ranked.into_iter().map(|(.., recommendation)| recommendation).collect()
}
