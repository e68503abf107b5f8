//! The regression as a family: how it learns, answers and forgets.
#![expect(clippy::needless_range_loop, reason = "a loop over the copies reads like its equation")]

use std::sync::Arc;

use super::block::Block;
use super::copies::{COPIES, OWN_TASK, PRIORS, SHARED_BASE, SHARED_FEATURE, SHARED_TASK};
use super::effect::{Effect, Step};
use super::hierarchy::MeanPrior;
use super::opinion::Asked;
use super::regression::{Logistic, TaskEffects, effects_of};
use crate::model::families::family::{CopyPrior, Family, Lesson, Opinion, Room, Taken};
use crate::model::holding::Held;
use crate::model::log_odds::moderation;
use crate::model::question::Question;
use crate::model::records::Agents;
use crate::model::settings::{Caps, Settings};

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
