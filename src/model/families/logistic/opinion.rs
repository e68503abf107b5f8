//! What the logistic regression says to one question.

use super::block::{Block, Own};
use super::copies::COPIES;
use super::effect::Sum;
use super::hierarchy::{Level, SPREADS, Swapped};
use super::regression::Logistic;
use crate::model::belief::Belief;
use crate::model::explanation::{Contribution, Part};
use crate::model::families::family::{Candidate, Opinion};
use crate::model::features::Active;
use crate::model::mixture::{Compared, Component, Copies, Drawn, Mixture, overall_share};
use crate::model::question::Question;
use crate::model::settings::Caps;
use crate::outcome::Feature;

/// A question with what is the same for all agents worked out.
pub(super) struct Asked<'a> {
    logistic: &'a Logistic,
    question: &'a Question<'a>,
    caps: &'a Caps,
    active: Active,
    /// If task types have effects.
    task_type: Option<&'a str>,
    shared: Sum,
    /// Scratch space.
    rows: Vec<(usize, f64)>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(logistic: &'a Logistic, question: &'a Question<'a>, caps: &'a Caps) -> Self {
        let active = logistic.active(question.context, caps);
        let task_type = question.task_type.filter(|name| logistic.has_tasks(name));
        let shared = logistic.shared(&active, task_type);
        Self { logistic, question, caps, active, task_type, shared, rows: Vec::new() }
    }

    /// `own` is what is believed of the agent's own effects.
    fn mixture(&self, weights: &[f64], own: &Own, overall_share: f64) -> Mixture {
        let (levels, shared) = (self.logistic.levels(), &self.shared);
        let mut copies = Copies::with_capacity(COPIES, SPREADS);
        for copy in (0..COPIES).filter(|copy| weights[*copy] > 0.0) {
            let weight = weights[copy];
            let overall = (own.overall.mean[copy], own.overall.variance[copy]);
            let swapped = |level: &Level| {
                level.swap(
                    own.sum.mean[copy],
                    own.sum.variance[copy],
                    overall,
                    own.covariance[copy],
                )
            };
            let levels_stated = levels.stated[copy].iter().filter(|(share, _)| *share > 0.0);
            let stated = levels_stated.map(|(share, level)| {
                let swapped = swapped(level);
                Component {
                    weight: weight * share,
                    mean: swapped.mean + shared.mean[copy],
                    variance: swapped.variance + shared.variance[copy],
                }
            });
            let comparison = levels.comparison[copy];
            let certain = swapped(&Level { uncertainty: 0.0, ..comparison });
            let Swapped { mean, variance, load, .. } = certain;
            let uncertainty = comparison.uncertainty;
            let compared = Compared { mean, variance, load, uncertainty, weight };
            let Swapped { mean, variance, overall, .. } = swapped(&levels.choice[copy]);
            let drawn = Drawn { mean, variance, overall };
            copies.add(stated, compared, drawn, shared.mean[copy]);
        }
        copies.mixture(overall_share)
    }
}

impl Opinion for Asked<'_> {
    fn belief(&mut self, candidate: &Candidate<'_>, weights: &[f64]) -> Belief {
        let logistic = self.logistic;
        let agent_id = candidate.agent.map(|agent| agent.id);
        let own = logistic.own(&self.active, agent_id, self.task_type, &mut self.rows);
        let block = agent_id.and_then(|agent_id| logistic.block(agent_id));
        let outcomes = block.map_or(0, Block::learned);
        let share = overall_share(outcomes, logistic.now, candidate.candidates);
        Belief::Mixture(self.mixture(weights, &own, share))
    }

    fn explain(&self, candidate: &Candidate<'_>, weights: &[f64]) -> Vec<Part> {
        let logistic = self.logistic;
        let agent_id = candidate.agent.map(|agent| agent.id);
        let mut parts = vec![
            Part::effect("what the agents have in common", logistic.typical(weights)),
            Part::effect("difficulty for all agents", logistic.in_common(weights, &self.shared)),
            Part::effect("own, overall", logistic.overall(weights, agent_id)),
        ];
        if let Some(name) = self.task_type {
            let outcomes = candidate.evidence;
            let contribution =
                Contribution { outcomes, ..logistic.on_task(weights, name, agent_id) };
            parts.push(Part::effect(format!("own, task type {name}"), contribution));
        }
        for feature in self.question.context {
            let active = logistic.active(&vec![feature.clone()], self.caps);
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
