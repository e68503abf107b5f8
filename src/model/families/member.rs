//! Every family there is, as one type.

use super::beta::Beta;
use super::family::{Agents, CopyPrior, Family, Lesson, Opinion, Room, Taken};
use super::logistic::Logistic;
use super::means::{Mean, Means};
use crate::model::holding::Held;
use crate::model::question::Question;
use crate::model::settings::{Caps, Settings, Strategy};

/// A family in an ensemble.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) enum Member {
    Logistic(Logistic),
    Beta(Beta),
    Means(Means),
}

impl Member {
    /// What a strategy consists of, before any outcome.
    pub(in crate::model) fn all_of(settings: &Settings) -> Vec<Self> {
        match settings.strategy {
            Strategy::Thompson => vec![Self::Logistic(Logistic::new(settings))],
            Strategy::Beta => vec![Self::Beta(Beta::new(settings))],
            Strategy::MovingAverage => vec![Self::Means(Means::new(Mean::Moving, settings))],
            Strategy::Exponential => vec![Self::Means(Means::new(Mean::Exponential, settings))],
        }
    }
}

/// Does the same to whichever family it is.
macro_rules! whichever {
    ($member:expr, $family:ident => $do:expr) => {
        match $member {
            Self::Logistic($family) => $do,
            Self::Beta($family) => $do,
            Self::Means($family) => $do,
        }
    };
}

impl Family for Member {
    fn copies(&self) -> &'static [CopyPrior] {
        whichever!(self, family => family.copies())
    }

    fn learn(&mut self, lesson: &Lesson<'_>, room: &mut Room, foretold: &mut Vec<f64>) {
        whichever!(self, family => family.learn(lesson, room, foretold));
    }

    fn ask<'a>(&'a self, question: &'a Question<'a>, caps: &'a Caps) -> Box<dyn Opinion + 'a> {
        whichever!(self, family => family.ask(question, caps))
    }

    fn in_words(&self) -> &'static str {
        whichever!(self, family => family.in_words())
    }

    fn settle(&mut self, settings: &Settings) {
        whichever!(self, family => family.settle(settings));
    }

    fn forget_agent(&mut self, agent_id: u32, agents: &Agents) -> Taken {
        whichever!(self, family => family.forget_agent(agent_id, agents))
    }

    fn forget_agent_on_tasks(&mut self, agent_id: u32) {
        whichever!(self, family => family.forget_agent_on_tasks(agent_id));
    }

    fn forget_task(&mut self, task_type: &str) {
        whichever!(self, family => family.forget_task(task_type));
    }

    fn taken(&self) -> Taken {
        whichever!(self, family => family.taken())
    }

    fn joint_values(&self) -> usize {
        whichever!(self, family => family.joint_values())
    }

    fn independent_effects(&self) -> usize {
        whichever!(self, family => family.independent_effects())
    }

    fn is_held_by(&self, agent_id: u32, held: Held) -> bool {
        whichever!(self, family => family.is_held_by(agent_id, held))
    }
}
