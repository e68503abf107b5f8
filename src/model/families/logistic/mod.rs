//! What the strategy `thompson` learns: five copies of one Bayesian logistic regression.
//!
//! # The model
//!
//! The log-odds of an agent's success on a task are a sum of effects, each with a Gaussian belief:
//!
//! ```text
//! logit p = [b + u_task + sum of c_k x_k]      shared: how hard the task is, for whichever agent
//!         + [A + sum of AC_k x_k]              the agent's own: overall, and per context feature
//!         + AT_task                            the agent's own on this task type
//!         + W_context                          the agent's own in this whole context, in one copy
//! ```
//!
//! `x_k` stands for the context (see `features`). `A` and the `AC_k` of an agent have one full covariance
//! ([`Block`]); everything else is an independent Gaussian ([`Effect`]). With one task type only, `u` and
//! `AT` would say what `b` and `A` say already, so they exist from the second one on.
//!
//! # What agents have in common
//!
//! `A` is stored under a wide base prior. Where it is used, what the tenant's agents have in common
//! takes the place of that prior (see `hierarchy`): a newcomer is expected to be like the others, as
//! far as these are alike.
//!
//! # Five copies
//!
//! How much agents differ between tasks and contexts, and whether they change, is not known
//! beforehand. So copies with different priors ([`SCALES`], [`KEPT`], whether there is a shared block
//! or an effect per whole context) learn side by side, and each has the weight that its predictions
//! earned in the ensemble (see `mixture`).
//!
//! # Learning
//!
//! One outcome changes the sum of the active effects only, so each copy's update is a problem in
//! one number `z`: a Gaussian with the sum's mean and variance times the likelihood of the outcome.
//! A Gaussian with the same moments stands for the product (assumed-density filtering, e.g. Opper, "A
//! Bayesian approach to on-line learning", 1998), and is carried back to the effects as a Kalman filter
//! does it. It is worked out under the base prior: where the tenant's pulled the sum to the others, an
//! outcome would seem to say more than it does. A reward between 0 and 1 is that share of a success.
//!
//! # Forgetting
//!
//! One copy lets every effect drift back to its prior, `mean <- r mean`,
//! `variance <- r^2 variance + (1 - r^2) prior`, once per outcome of the tenant. It is worked out
//! when an effect is next looked at, so what is not used costs nothing.
#![expect(clippy::needless_range_loop, reason = "a loop over the copies reads like its equation")]

use std::sync::Arc;

use imbl::{OrdMap, Vector};

use super::family::{CopyPrior, Family, Lesson, Opinion, Room, Taken};
use crate::model::explanation::Contribution;
use crate::model::features::{Active, Keys, NamesMax};
use crate::model::holding::Held;
use crate::model::log_odds::moderation;
use crate::model::question::Question;
use crate::model::records::Agents;
use crate::model::settings::{Caps, Settings};
use crate::model::small_map::SmallMap;
use crate::outcome::Context;

mod block;
mod combinations;
mod effect;
mod hierarchy;
mod opinion;
mod saved;

use effect::Step;
use hierarchy::{MeanPrior, PartOfSum};
use opinion::Asked;

use block::FeatureCell;
pub(in crate::model) use block::{Block, Own};
use combinations::{Combinations, SavedCombination};
pub(in crate::model) use effect::{Effect, Sum};
pub(in crate::model) use hierarchy::{Hierarchy, Level, Levels, Overall, SPREADS, Swapped, Term};

/// Copies of the model.
pub(in crate::model) const COPIES: usize = 5;
/// One number of each copy.
pub(in crate::model) type Lanes = [f64; COPIES];

/// How far an agent's effects may differ between contexts: the factor on their priors.
const SCALES: Lanes = [0.15, 1.0, 4.0, 6.0, 1.0];
/// What the copies assume. Most weight has the copy that is right where little is to be had.
const PRIORS: [CopyPrior; COPIES] = [
    CopyPrior { assumes: "agents differ little between tasks and contexts", weight: 0.4 },
    CopyPrior { assumes: "agents change, and differ between tasks and contexts", weight: 0.2 },
    CopyPrior { assumes: "agents differ much between tasks and contexts", weight: 0.2 },
    CopyPrior { assumes: "agents have no difficulty in common", weight: 0.1 },
    CopyPrior { assumes: "combinations of context values matter", weight: 0.1 },
];
/// The copy that forgets.
const FORGETFUL: usize = 1;
/// What it keeps of every effect at an outcome of the tenant.
const KEPT: f64 = 0.9999;
/// The copy with an effect per whole context.
const COMBINING: usize = 4;
/// The copies with a shared block have 1 here.
const SHARES: Lanes = [1.0, 1.0, 1.0, 0.0, 1.0];

/// Prior variances; that of `A` is the tenant's.
pub(in crate::model) const OWN_TASK: Lanes = [0.1, 0.5, 2.0, 3.0, 0.5];
const OWN_FEATURE: Lanes = scaled(0.1, SCALES);
const SHARED_BASE: Lanes = scaled(0.2, SHARES);
const SHARED_TASK: Lanes = scaled(0.2, SHARES);
const SHARED_FEATURE: Lanes = scaled(0.1, SHARES);

/// What states of format 3 and before were learned under: four copies, whose effects had these priors.
pub(in crate::model) mod before_format_4 {
    use super::{COPIES, Lanes, SCALES, scaled};

    /// Copies then.
    pub(in crate::model) const COPIES_THEN: usize = 4;
    /// The copy whose beliefs the fifth begins with.
    pub(in crate::model) const LIKE_THE_FIFTH: usize = 1;
    /// Mean and variance of `A`.
    pub(in crate::model) const OVERALL: (Lanes, Lanes) = ([0.7; COPIES], [0.5; COPIES]);
    /// Variance of `AT`.
    pub(in crate::model) const OWN_TASK: Lanes = scaled(0.2, SCALES);
}

const fn scaled(variance: f64, factors: Lanes) -> Lanes {
    let mut scaled = factors;
    let mut copy = 0;
    while copy < COPIES {
        scaled[copy] *= variance;
        copy += 1;
    }
    scaled
}

fn lanes(of: impl FnMut(usize) -> f64) -> Lanes {
    std::array::from_fn(of)
}

/// One tenant's regression.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct Logistic {
    /// Outcomes learned: the clock of forgetting.
    pub(in crate::model) now: u64,
    /// `b`.
    pub(in crate::model) base: Effect,
    pub(in crate::model) keys: Keys,
    /// `c_k` by feature.
    pub(in crate::model) features: Vector<Effect>,
    /// `A` and `AC_k` by agent id.
    blocks: Vector<Option<Arc<Block>>>,
    /// `u` and `AT` by the name of the task type, once task types have effects.
    tasks: OrdMap<Arc<str>, TaskEffects>,
    /// `W`.
    pub(in crate::model) combinations: Combinations,
    /// What the agents have in common.
    pub(in crate::model) hierarchy: Hierarchy,
    /// The first task type; the others and it have effects once there is a second.
    pub(in crate::model) first_task: Option<Arc<str>>,
    pub(in crate::model) has_tasks: bool,
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
struct TaskEffects {
    shared: Option<Effect>,
    /// By agent id.
    own: SmallMap<u32, Effect>,
}

impl Logistic {
    /// The features of a context, met for the first time or again.
    fn observe(&mut self, context: &Context, room: &mut Room) -> Active {
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
    fn active(&self, context: &Context, caps: &Caps) -> Active {
        self.keys.active(context, NamesMax::of(caps))
    }

    /// Whether task types have effects when this one is met or asked about.
    fn has_tasks(&self, task_type: &str) -> bool {
        self.has_tasks || self.first_task.as_ref().is_some_and(|first| **first != *task_type)
    }

    /// An agent's effects over its context, if it has any.
    pub(in crate::model) fn block(&self, agent_id: u32) -> Option<&Block> {
        self.blocks.get(agent_id as usize)?.as_deref()
    }

    /// Every block.
    fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter_map(Option::as_deref)
    }

    /// Sets an agent's block. Returns the one it had.
    fn set_block(&mut self, agent_id: u32, block: Option<Arc<Block>>) -> Option<Arc<Block>> {
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
    fn shared(&self, active: &Active, task_type: Option<&str>) -> Sum {
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
    fn typical(&self, weights: &[f64]) -> Contribution {
        let common = Self::weighted(weights, |copy| {
            let stated = self.levels().stated[copy].iter();
            stated.map(|(share, level)| (*share, level.mean, level.uncertainty)).collect()
        });
        Contribution { outcomes: self.now, ..common }
    }

    /// An agent's overall effect beside what is typical.
    fn overall(&self, weights: &[f64], agent_id: Option<u32>) -> Contribution {
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
    fn on_task(&self, weights: &[f64], task_type: &str, agent_id: Option<u32>) -> Contribution {
        let unknown = Effect::new(&OWN_TASK, self.now);
        let effect = agent_id.and_then(|agent_id| self.task_effect(task_type, agent_id));
        let Effect { mean, variance, .. } = effect.unwrap_or(&unknown).aged(&OWN_TASK, self.now);
        Self::independent(weights, &Sum { mean, variance })
    }

    /// An agent's effect of one context value.
    fn on_feature(&self, weights: &[f64], active: &Active, agent_id: Option<u32>) -> Contribution {
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
    fn on_combination(
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
    fn in_common(&self, weights: &[f64], shared: &Sum) -> Contribution {
        Contribution { outcomes: self.now, ..Self::independent(weights, shared) }
    }

    /// What is believed about an agent's own effects on a question. `agent_id` is there if it is known,
    /// `task_type` where task types have effects. `rows` is scratch space.
    fn own(
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
    fn settle_after(&mut self, agents: &Agents) {
        if self.now >= self.hierarchy.renewed_at + hierarchy::RENEWED_EVERY {
            self.renew(agents);
        }
        self.hierarchy.work_out();
    }

    /// Works the sums over the agents out anew, in the order of their names: rounding must not depend on who
    /// came first.
    fn renew(&mut self, agents: &Agents) {
        let (now, blocks) = (self.now, &self.blocks);
        let known = agents.values().filter_map(|agent| blocks.get(agent.id as usize)?.as_deref());
        self.hierarchy.renew(known.map(|block| block.overall(now)), now);
    }

    /// What the agents have in common.
    pub(in crate::model) fn levels(&self) -> &Arc<Levels> {
        self.hierarchy.levels()
    }
}

impl Family for Logistic {
    fn copies(&self) -> &'static [CopyPrior] {
        &PRIORS
    }

    fn learn(&mut self, lesson: &Lesson<'_>, room: &mut Room, foretold: &mut Vec<f64>) {
        let Lesson { agents, agent_id, task, context, reward } = *lesson;
        let now = self.now;
        let active = self.observe(context, room);
        let mut block = self.set_block(agent_id, None).unwrap_or_else(|| {
            room.covariances += 1;
            Arc::new(Block::new(now))
        });
        let own = Arc::make_mut(&mut block);
        // As it stands in the sums of the hierarchy.
        let before =
            (own.learned() > 0).then(|| own.overall(own.at.max(self.hierarchy.renewed_at)));
        own.admit(&active, now, room);
        own.age(now);

        let task = task.filter(|(name, _)| {
            self.has_tasks = self.has_tasks(name);
            self.first_task.get_or_insert_with(|| (*name).into());
            self.has_tasks
        });
        let (mut shared_task, mut own_task) = (None, None);
        if let Some((name, may_own)) = task {
            let effects = effects_of(&mut self.tasks, name);
            shared_task =
                Some(effects.shared.get_or_insert_with(|| Effect::new(&SHARED_TASK, now)));
            if may_own {
                let unknown = || Effect::new(&OWN_TASK, now);
                own_task = Some(effects.own.get_or_insert_with(agent_id, unknown));
            }
        }

        // The belief in the sum of all that is active.
        let mut rows = Vec::with_capacity(active.features.len() + 1);
        let mut sum = own.split(&active, now, &mut rows);
        let gains = own.gains(&rows);
        for &(row, x) in &rows {
            for copy in 0..COPIES {
                sum.mean[copy] += x * own.mean[row][copy];
                sum.variance[copy] += x * gains[row][copy];
            }
        }
        if let Some(effect) = &own_task {
            effect.add_to(&mut sum, 1.0, &OWN_TASK, now);
        }
        if let Some(effect) = &shared_task {
            effect.add_to(&mut sum, 1.0, &SHARED_TASK, now);
        }
        self.base.add_to(&mut sum, 1.0, &SHARED_BASE, now);
        for active in &active.features {
            let effect = &self.features[active.feature as usize];
            effect.add_to(&mut sum, active.x, &SHARED_FEATURE, now);
        }
        let combination = self.combinations.place_of(&active, now, room);
        if let Some(hash) = active.combination {
            self.combinations.add_to(&mut sum, hash, Some(agent_id));
        }
        let overall = own.overall(now);
        let believed = self.hierarchy.believed(&sum, &gains[0], &overall);

        let step = Step::of(&sum, reward);
        own.learn(&active, now, &rows, &gains, &step);
        if let Some(effect) = own_task {
            effect.learn(1.0, &OWN_TASK, now, &step);
        }
        if let Some(effect) = shared_task {
            effect.learn(1.0, &SHARED_TASK, now, &step);
        }
        self.base.learn(1.0, &SHARED_BASE, now, &step);
        for active in &active.features {
            let effect = &mut self.features[active.feature as usize];
            effect.learn(active.x, &SHARED_FEATURE, now, &step);
        }
        if let Some(hash) = combination {
            self.combinations.learn(hash, agent_id, &step, room);
        }
        self.hierarchy.replace(before.as_ref(), Some(&own.overall(now)));
        self.set_block(agent_id, Some(block));
        self.now += 1;
        self.settle_after(agents);
        let log_odds = believed.mean.iter().zip(&believed.variance);
        foretold.extend(log_odds.map(|(mean, variance)| mean * moderation(*variance)));
    }

    fn ask<'a>(&'a self, question: &'a Question<'a>, caps: &'a Caps) -> Box<dyn Opinion + 'a> {
        Box::new(Asked::new(self, question, caps))
    }

    fn in_words(&self) -> &'static str {
        ": even odds, changed by (in log-odds)"
    }

    fn settle(&mut self, settings: &Settings) {
        self.hierarchy.settle(MeanPrior::of(settings));
    }

    fn forget_agent(&mut self, agent_id: u32, agents: &Agents) -> Taken {
        let block = self.set_block(agent_id, None);
        let mut taken = block.as_deref().map(taken_by).unwrap_or_default();
        self.forget_agent_on_tasks(agent_id);
        self.renew(agents);
        self.hierarchy.work_out();
        taken.effects += self.combinations.forget(agent_id);
        taken
    }

    fn forget_agent_on_tasks(&mut self, agent_id: u32) {
        let of_agent = |task: &TaskEffects| task.own.get(&agent_id).is_some();
        let with = self.tasks.iter().filter(|(_, task)| of_agent(task));
        let with: Vec<Arc<str>> = with.map(|(name, _)| name.clone()).collect();
        for name in with {
            self.tasks.get_mut(&name).map(|task| task.own.remove(&agent_id));
        }
    }

    fn forget_task(&mut self, task_type: &str) {
        self.tasks.remove(task_type);
    }

    fn taken(&self) -> Taken {
        let effects = self.features.len() + self.combinations.effects();
        let mut taken = Taken { covariances: 0, effects };
        self.blocks().for_each(|block| taken += taken_by(block));
        taken
    }

    fn joint_values(&self) -> usize {
        self.blocks().map(Block::joint_values).max().unwrap_or(0)
    }

    fn independent_effects(&self) -> usize {
        self.blocks().map(Block::independent_effects).sum()
    }

    fn is_held_by(&self, agent_id: u32, held: Held) -> bool {
        let block = self.block(agent_id);
        match held {
            Held::Covariances => block.is_some(),
            Held::Effects => {
                block.is_some_and(|block| block.independent_effects() > 0)
                    || self.combinations.has(agent_id)
            }
            Held::Cells | Held::RecentValues | Held::ValueBytes => false,
        }
    }
}

fn taken_by(block: &Block) -> Taken {
    Taken { covariances: block.covariance.len(), effects: block.independent_effects() }
}

/// The effects of a task type, which are made if there are none.
fn effects_of<'t>(
    tasks: &'t mut OrdMap<Arc<str>, TaskEffects>,
    task_type: &str,
) -> &'t mut TaskEffects {
    if !tasks.contains_key(task_type) {
        tasks.insert(task_type.into(), TaskEffects::default());
    }
    tasks.get_mut(task_type).expect("it was made where there was none")
}
