//! From what is known to a ranking: standings, draws, recommendations.

use std::fmt::Write;
use std::sync::Arc;

use super::belief::{Belief, Standing};
use super::ensemble::Ensemble;
use super::explanation::{Contribution, Explanation, Part};
use super::families::Member;
use super::families::logistic::{Block, Logistic, Sum};
use super::features::Active;
use super::learning::AgentPerformanceModel;
use super::mixture::{self, Luck, Mixture, overall_share};
use super::posterior::{Posterior, probabilities_best};
use super::question::{Parts, Question};
use super::records::{Agent, Task};
use super::settings::{Settings, Strategy};
use super::tenant::Tenant;
use crate::outcome::Feature;

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
pub(super) struct Asked<'a> {
    settings: &'a Settings,
    question: &'a Question<'a>,
    tenant: Option<&'a Tenant>,
    task: Option<&'a Task>,
    /// With the strategy `thompson`.
    effects: Option<AskedEffects<'a>>,
}

struct AskedEffects<'a> {
    ensemble: &'a Ensemble,
    logistic: &'a Logistic,
    active: Active,
    /// If task types have effects.
    task_type: Option<&'a str>,
    shared: Sum,
    /// Of the copies that take part.
    weights: Vec<f64>,
}

impl<'a> Asked<'a> {
    fn new(model: &'a AgentPerformanceModel, question: &'a Question<'a>) -> Self {
        let settings = &model.settings;
        let tenant = model.tenant(question.tenant);
        let task = tenant.zip(question.task_type).and_then(|(tenant, name)| tenant.tasks.get(name));
        let asked_effects = || {
            let ensemble = tenant.and_then(|tenant| tenant.ensemble.as_ref());
            let ensemble = ensemble.unwrap_or(&model.unlearned);
            let [Member::Logistic(logistic)] = &*ensemble.members else { return None };
            let active = logistic.active(question.context, &settings.caps);
            let task_type = question.task_type.filter(|name| logistic.has_tasks(name));
            let shared = logistic.shared(&active, task_type);
            let weights = ensemble.weights.kept();
            Some(AskedEffects { ensemble, logistic, active, task_type, shared, weights })
        };
        Self { settings, question, tenant, task, effects: asked_effects() }
    }

    /// The agents that the question allows, in the order of their names; `None` for unknown ones.
    pub(super) fn agents<'m>(
        model: &'m AgentPerformanceModel,
        question: &Question<'_>,
    ) -> Vec<(Arc<str>, Option<&'m Arc<Agent>>)> {
        let excluded = |name: &str| question.exclude.iter().any(|excluded| excluded == name);
        let tenant = model.tenant(question.tenant);
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

    /// Of one of so many candidates. `rows` is scratch space.
    fn standing(
        &self,
        name: Arc<str>,
        agent: Option<&Arc<Agent>>,
        candidates: usize,
        rows: &mut Vec<(usize, f64)>,
    ) -> Standing {
        let whole = agent.map(|agent| agent.tally).unwrap_or_default();
        let on_task = || {
            let cell = self.task?.cells.get(&agent?.id)?;
            Some(cell.tally)
        };
        let evidence = match self.question.task_type {
            None => whole,
            Some(_) => on_task().unwrap_or_default(),
        };
        let point =
            |mean: Option<f64>| Belief::Point(mean.unwrap_or_else(|| self.settings.prior_mean()));
        let belief = match (&self.effects, self.settings.strategy) {
            (Some(effects), _) => Belief::Mixture(effects.mixture(agent, candidates, rows)),
            (None, Strategy::MovingAverage) => point(agent.and_then(|agent| agent.rewards.mean())),
            (None, Strategy::Exponential) => point(agent.and_then(|agent| agent.exponential)),
            (None, Strategy::Beta | Strategy::Thompson) => Belief::Posterior(Posterior {
                alpha: self.settings.prior().0 + whole.reward,
                beta: self.settings.prior().1 + whole.missed().max(0.0),
            }),
        };
        Standing { agent: name, belief, samples: whole.learned, evidence: evidence.learned }
    }
}

impl AskedEffects<'_> {
    fn mixture(
        &self,
        agent: Option<&Arc<Agent>>,
        candidates: usize,
        rows: &mut Vec<(usize, f64)>,
    ) -> Mixture {
        let logistic = self.logistic;
        let agent_id = agent.map(|agent| agent.id);
        let own = logistic.own(&self.active, agent_id, self.task_type, rows);
        let block = agent_id.and_then(|agent_id| logistic.block(agent_id));
        let share = overall_share(block.map_or(0, Block::learned), logistic.now, candidates);
        logistic.mixture(&self.weights, &own, &self.shared, share)
    }
}

impl AgentPerformanceModel {
    /// The agents that the question allows, in the order of their names.
    pub fn standings(&self, question: &Question<'_>) -> Vec<Standing> {
        let asked = Asked::new(self, question);
        let mut rows = Vec::new();
        let agents = Asked::agents(self, question);
        let candidates = agents.len();
        agents
            .into_iter()
            .map(|(name, agent)| asked.standing(name, agent, candidates, &mut rows))
            .collect()
    }
}

impl AgentPerformanceModel {
    /// Why an agent stands where it stands.
    pub fn explain(&self, question: &Question<'_>, name: &str) -> Explanation {
        let asked = Asked::new(self, question);
        let agent = asked.tenant.and_then(|tenant| tenant.agents.get(name));
        let standing = asked.standing(name.into(), agent, 1, &mut Vec::new());
        let expected_success = standing.expected_success();
        let whole = agent.map(|agent| agent.tally).unwrap_or_default();
        let mut text = format!("expected success {:.0} %", 100.0 * expected_success);
        let (parts, weights) = if let Some(effects) = &asked.effects {
            (effects.parts(&asked, agent, &standing), effects.ensemble.copies())
        } else {
            let (alpha, beta) = self.settings.prior();
            let missed = whole.missed().max(0.0);
            let own = Part::record("own record", whole.learned, whole.reward, missed);
            (vec![Part::record("prior", 0, alpha, beta), own], Vec::new())
        };
        text += match self.settings.strategy {
            Strategy::MovingAverage => ": the mean of the last 100 rewards",
            Strategy::Exponential => ": the exponentially weighted mean of the rewards",
            Strategy::Beta => ": own record and prior",
            Strategy::Thompson => ": even odds, changed by (in log-odds)",
        };
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

impl AskedEffects<'_> {
    fn parts(
        &self,
        asked: &Asked<'_>,
        agent: Option<&Arc<Agent>>,
        standing: &Standing,
    ) -> Vec<Part> {
        let (logistic, weights) = (self.logistic, self.ensemble.weights.all());
        let agent_id = agent.map(|agent| agent.id);
        let mut parts = vec![
            Part::effect("what the agents have in common", logistic.typical(weights)),
            Part::effect("difficulty for all agents", logistic.in_common(weights, &self.shared)),
            Part::effect("own, overall", logistic.overall(weights, agent_id)),
        ];
        if let Some(name) = self.task_type {
            let outcomes = standing.evidence;
            let contribution =
                Contribution { outcomes, ..logistic.on_task(weights, name, agent_id) };
            parts.push(Part::effect(format!("own, task type {name}"), contribution));
        }
        for feature in asked.question.context {
            let active = logistic.active(&vec![feature.clone()], &asked.settings.caps);
            let name = match &feature.1 {
                Feature::Text(text) => format!("own, {} = {text}", feature.0),
                Feature::Bool(yes) => format!("own, {} = {yes}", feature.0),
                Feature::Number(number) => format!("own, {} = {number}", feature.0),
            };
            parts.push(Part::effect(name, logistic.on_feature(weights, &active, agent_id)));
        }
        if let Some(contribution) = logistic.on_combination(weights, &self.active, agent_id) {
            parts.push(Part::effect("own, in just this context", contribution));
        }
        parts
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
