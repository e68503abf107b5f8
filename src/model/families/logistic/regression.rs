//! One tenant's regression: its effects, and how an outcome changes them.
#![expect(clippy::needless_range_loop, reason = "a loop over the copies reads like its equation")]

use std::sync::Arc;

use imbl::{OrdMap, Vector};

use super::block::{Block, Own};
use super::combinations::Combinations;
use super::copies::{COPIES, OWN_FEATURE, OWN_TASK, SHARED_BASE, SHARED_FEATURE, SHARED_TASK};
use super::effect::{Effect, Sum};
use super::hierarchy::{
    Hierarchy, Level, Levels, MeanPrior, Overall, PartOfSum, RENEWED_EVERY, Swapped,
};
use crate::model::explanation::Contribution;
use crate::model::families::family::Room;
use crate::model::features::{Active, Keys, NamesMax};
use crate::model::records::Agents;
use crate::model::settings::{Caps, Settings};
use crate::model::small_map::SmallMap;
use crate::outcome::Context;

/// One tenant's regression.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct Logistic {
    /// Outcomes learned: the clock of forgetting.
    pub(super) now: u64,
    /// `b`.
    pub(super) base: Effect,
    pub(super) keys: Keys,
    /// `c_k` by feature.
    pub(super) features: Vector<Effect>,
    /// `A` and `AC_k` by agent id.
    pub(super) blocks: Vector<Option<Arc<Block>>>,
    /// `u` and `AT` by the name of the task type, once task types have effects.
    pub(super) tasks: OrdMap<Arc<str>, TaskEffects>,
    /// `W`.
    pub(super) combinations: Combinations,
    /// What the agents have in common.
    pub(super) hierarchy: Hierarchy,
    /// The first task type; the others and it have effects once there is a second.
    pub(super) first_task: Option<Arc<str>>,
    pub(super) has_tasks: bool,
}

impl Logistic {
    /// Of a tenant without outcomes.
    pub(in crate::model) fn new(settings: &Settings) -> Self {
        let prior = MeanPrior::of(settings);
        Self {
            now: 0,
            base: Effect::new(&SHARED_BASE, 0),
            keys: Keys::default(),
            features: Vector::new(),
            blocks: Vector::new(),
            tasks: OrdMap::new(),
            combinations: Combinations::default(),
            hierarchy: Hierarchy::new(prior),
            first_task: None,
            has_tasks: false,
        }
    }
}

/// The shared effect of a task type, and each agent's on it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct TaskEffects {
    pub(super) shared: Option<Effect>,
    /// By agent id.
    pub(super) own: SmallMap<u32, Effect>,
}

impl Logistic {
    /// The features of a context, met for the first time or again.
    pub(super) fn observe(&mut self, context: &Context, room: &mut Room) -> Active {
        let (now, features) = (self.now, &mut self.features);
        self.keys.observe(context, room.names_max, |count| {
            if room.effects + count > room.effects_max {
                room.refused += 1;
                return None;
            }
            room.effects += count;
            let first = u32::try_from(features.len()).expect("effects are capped");
            features.extend(std::iter::repeat_n(Effect::new(&SHARED_FEATURE, now), count));
            Some(first)
        })
    }

    /// The features of a context in a question.
    pub(super) fn active(&self, context: &Context, caps: &Caps) -> Active {
        self.keys.active(context, NamesMax::of(caps))
    }

    /// Whether task types have effects when this one is met or asked about.
    pub(super) fn has_tasks(&self, task_type: &str) -> bool {
        self.has_tasks || self.first_task.as_ref().is_some_and(|first| **first != *task_type)
    }

    /// An agent's effects over its context, if it has any.
    pub(in crate::model) fn block(&self, agent_id: u32) -> Option<&Block> {
        self.blocks.get(agent_id as usize)?.as_deref()
    }

    /// Every block.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter_map(Option::as_deref)
    }

    /// Sets an agent's block. Returns the one it had.
    pub(super) fn set_block(
        &mut self,
        agent_id: u32,
        block: Option<Arc<Block>>,
    ) -> Option<Arc<Block>> {
        let place = agent_id as usize;
        if block.is_some() {
            while self.blocks.len() <= place {
                self.blocks.push_back(None);
            }
        }
        std::mem::replace(self.blocks.get_mut(place)?, block)
    }

    /// An agent's effect on a task type, if it has one.
    fn task_effect(&self, task_type: &str, agent_id: u32) -> Option<&Effect> {
        self.tasks.get(task_type)?.own.get(&agent_id)
    }

    /// What is believed about the shared effects on a question; `task_type` where task types have effects.
    pub(super) fn shared(&self, active: &Active, task_type: Option<&str>) -> Sum {
        let mut sum = Sum::default();
        self.base.add_to(&mut sum, 1.0, &SHARED_BASE, self.now);
        if let Some(task_type) = task_type {
            match self.tasks.get(task_type).and_then(|task| task.shared.as_ref()) {
                Some(effect) => effect.add_to(&mut sum, 1.0, &SHARED_TASK, self.now),
                None => sum.add_unknown(1.0, &SHARED_TASK),
            }
        }
        for active in &active.features {
            let effect = &self.features[active.feature as usize];
            effect.add_to(&mut sum, active.x, &SHARED_FEATURE, self.now);
        }
        sum.add_unknown(active.unknown_squares, &SHARED_FEATURE);
        sum
    }

    /// What a part adds to the log-odds, over copies of these weights: mean and standard deviation.
    fn weighted(weights: &[f64], parts: impl Fn(usize) -> Vec<(f64, f64, f64)>) -> Contribution {
        let (mut mean, mut square) = (0.0, 0.0);
        for copy in 0..COPIES {
            for (share, of_copy, variance) in parts(copy) {
                let weight = weights[copy] * share;
                mean += weight * of_copy;
                square += weight * (variance + of_copy * of_copy);
            }
        }
        let deviation = (square - mean * mean).max(0.0).sqrt();
        Contribution { mean, deviation, outcomes: 0 }
    }

    fn independent(weights: &[f64], sum: &Sum) -> Contribution {
        Self::weighted(weights, |copy| vec![(1.0, sum.mean[copy], sum.variance[copy])])
    }

    /// A part of an agent's effects by what the tenant's agents have in common. `of` gets what is common,
    /// with the part as it follows from it, and gives mean and variance.
    fn stated(
        &self,
        weights: &[f64],
        overall: &Overall,
        part: &PartOfSum,
        of: impl Fn(&Level, &Swapped) -> (f64, f64),
    ) -> Contribution {
        Self::weighted(weights, |copy| {
            let stated = &self.levels().stated[copy];
            let of_level = |(share, level): &(f64, Level)| {
                let own = (overall.mean[copy], overall.variance[copy]);
                let swapped =
                    level.swap(part.mean[copy], part.variance[copy], own, part.covariance[copy]);
                let (mean, variance) = of(level, &swapped);
                (*share, mean, variance)
            };
            stated.iter().map(of_level).collect()
        })
    }

    fn overall_of(&self, block: Option<&Block>) -> Overall {
        block.map_or(Overall::UNKNOWN, |block| block.overall(self.now))
    }

    /// What the tenant's agents have in common: the mean of their overall effects.
    pub(super) fn typical(&self, weights: &[f64]) -> Contribution {
        let common = Self::weighted(weights, |copy| {
            let stated = self.levels().stated[copy].iter();
            stated.map(|(share, level)| (*share, level.mean, level.uncertainty)).collect()
        });
        Contribution { outcomes: self.now, ..common }
    }

    /// An agent's overall effect beside what is typical.
    pub(super) fn overall(&self, weights: &[f64], agent_id: Option<u32>) -> Contribution {
        let block = agent_id.and_then(|agent_id| self.block(agent_id));
        let overall = self.overall_of(block);
        let part = PartOfSum {
            mean: overall.mean,
            variance: overall.variance,
            covariance: overall.variance,
        };
        let own = self.stated(weights, &overall, &part, |level, swapped| {
            let common = swapped.load * swapped.load * level.uncertainty;
            let beside = (swapped.load - 1.0).powi(2) * level.uncertainty;
            (swapped.mean - level.mean, swapped.variance - common + beside)
        });
        Contribution { outcomes: block.map_or(0, Block::learned), ..own }
    }

    /// An agent's effect on a task type.
    pub(super) fn on_task(
        &self,
        weights: &[f64],
        task_type: &str,
        agent_id: Option<u32>,
    ) -> Contribution {
        let unknown = Effect::new(&OWN_TASK, self.now);
        let effect = agent_id.and_then(|agent_id| self.task_effect(task_type, agent_id));
        let Effect { mean, variance, .. } = effect.unwrap_or(&unknown).aged(&OWN_TASK, self.now);
        Self::independent(weights, &Sum { mean, variance })
    }

    /// An agent's effect of one context value.
    pub(super) fn on_feature(
        &self,
        weights: &[f64],
        active: &Active,
        agent_id: Option<u32>,
    ) -> Contribution {
        let block = agent_id.and_then(|agent_id| self.block(agent_id));
        // A number has several features.
        let squares: f64 = active.features.iter().map(|active| active.x * active.x).sum();
        let mut sum = Sum::default();
        let (mut outcomes, mut covariance) = (0, [0.0; COPIES]);
        if let Some(block) = block {
            let of_features = block.of_features(active, self.now);
            (sum, covariance, outcomes) = of_features;
        } else {
            sum.add_unknown(squares + active.unknown_squares, &OWN_FEATURE);
        }
        let part = PartOfSum { mean: sum.mean, variance: sum.variance, covariance };
        let own = self.stated(weights, &self.overall_of(block), &part, |_, swapped| {
            (swapped.mean, swapped.variance)
        });
        Contribution { outcomes, ..own }
    }

    /// An agent's effect of a whole context; `None` when the context has nothing to combine.
    pub(super) fn on_combination(
        &self,
        weights: &[f64],
        active: &Active,
        agent_id: Option<u32>,
    ) -> Option<Contribution> {
        let mut sum = Sum::default();
        self.combinations.add_to(&mut sum, active.combination?, agent_id);
        Some(Self::independent(weights, &sum))
    }

    /// What all agents share on a question.
    pub(super) fn in_common(&self, weights: &[f64], shared: &Sum) -> Contribution {
        Contribution { outcomes: self.now, ..Self::independent(weights, shared) }
    }

    /// What is believed about an agent's own effects on a question. `agent_id` is there if it is known,
    /// `task_type` where task types have effects. `rows` is scratch space.
    pub(super) fn own(
        &self,
        active: &Active,
        agent_id: Option<u32>,
        task_type: Option<&str>,
        rows: &mut Vec<(usize, f64)>,
    ) -> Own {
        let mut own = match agent_id.and_then(|agent_id| self.block(agent_id)) {
            Some(block) => block.own(active, self.now, rows),
            None => Block::unknown(active),
        };
        if let Some(task_type) = task_type {
            match agent_id.and_then(|agent_id| self.task_effect(task_type, agent_id)) {
                Some(effect) => effect.add_to(&mut own.sum, 1.0, &OWN_TASK, self.now),
                None => own.sum.add_unknown(1.0, &OWN_TASK),
            }
        }
        if let Some(hash) = active.combination {
            self.combinations.add_to(&mut own.sum, hash, agent_id);
        }
        own
    }

    /// Works out what the agents have in common after one of them has learned. The sums over them are worked
    /// out anew now and then.
    pub(super) fn settle_after(&mut self, agents: &Agents) {
        if self.now >= self.hierarchy.renewed_at + RENEWED_EVERY {
            self.renew(agents);
        }
        self.hierarchy.work_out();
    }

    /// Works the sums over the agents out anew, in the order of their names: rounding must not depend on who
    /// came first.
    pub(super) fn renew(&mut self, agents: &Agents) {
        let (now, blocks) = (self.now, &self.blocks);
        let known = agents.values().filter_map(|agent| blocks.get(agent.id as usize)?.as_deref());
        self.hierarchy.renew(known.map(|block| block.overall(now)), now);
    }

    /// What the agents have in common.
    pub(super) fn levels(&self) -> &Arc<Levels> {
        self.hierarchy.levels()
    }
}

/// The effects of a task type, which are made if there are none.
pub(super) fn effects_of<'t>(
    tasks: &'t mut OrdMap<Arc<str>, TaskEffects>,
    task_type: &str,
) -> &'t mut TaskEffects {
    if !tasks.contains_key(task_type) {
        tasks.insert(task_type.into(), TaskEffects::default());
    }
    tasks.get_mut(task_type).expect("it was made where there was none")
}
