//! Every family there is, as one type.

use super::family::{Agents, CopyPrior, Family, Lesson, Room, Taken};
use super::logistic::Logistic;
use crate::model::holding::Held;
use crate::model::settings::{Settings, Strategy};

/// A family in an ensemble.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) enum Member {
    Logistic(Logistic),
}

impl Member {
    /// What a strategy consists of, before any outcome.
    pub(in crate::model) fn all_of(settings: &Settings) -> Vec<Self> {
        match settings.strategy {
            Strategy::Thompson => vec![Self::Logistic(Logistic::new(settings))],
            Strategy::Beta | Strategy::MovingAverage | Strategy::Exponential => Vec::new(),
        }
    }
}

/// Does the same to whichever family it is.
macro_rules! whichever {
    ($member:expr, $family:ident => $do:expr) => {
        match $member {
            Self::Logistic($family) => $do,
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

    fn is_held_by(&self, agent_id: u32, held: Held) -> bool {
        whichever!(self, family => family.is_held_by(agent_id, held))
    }
}
