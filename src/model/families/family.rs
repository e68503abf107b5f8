//! The seam between families of models and all that works with whichever there are.

use std::ops::AddAssign;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::model::belief::Belief;
use crate::model::explanation::Part;
use crate::model::features::NamesMax;
use crate::model::holding::{Held, Holding};
use crate::model::question::Question;
use crate::model::records::{Agent, Agents, Names};
use crate::model::settings::{Caps, Settings};
use crate::outcome::Context;

/// What is known of one of a family's copies before any outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::model) struct CopyPrior {
    /// What it assumes, in words.
    pub(in crate::model) assumes: &'static str,
    /// Its weight in the ensemble, relative to the others'.
    pub(in crate::model) weight: f64,
}

/// An outcome with a reward, as families learn it: the records of agents and task types have it already.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Lesson<'a> {
    /// The tenant's agents, the one that learns among them.
    pub(in crate::model) agents: &'a Agents,
    /// The id of the agent.
    pub(in crate::model) agent_id: u32,
    /// The task type if it has a place, and whether the agent has a record on it.
    pub(in crate::model) task: Option<(&'a str, bool)>,
    pub(in crate::model) context: &'a Context,
    /// `0..=1`.
    pub(in crate::model) reward: f64,
}

/// An agent that a question is about.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Candidate<'a> {
    /// `None` when nothing is known of it.
    pub(in crate::model) agent: Option<&'a Agent>,
    /// Learned outcomes on the task type of the question; of any, when it names none.
    pub(in crate::model) evidence: u64,
    /// How many candidates there are.
    pub(in crate::model) candidates: usize,
}

/// What a family says to one question, with what is the same for all candidates looked up.
pub(in crate::model) trait Opinion {
    /// What is believed of a candidate, by copies of these weights. Copies of weight 0 take no part.
    fn belief(&mut self, candidate: &Candidate<'_>, weights: &[f64]) -> Belief;

    /// Why, by copies of these weights.
    fn explain(&self, candidate: &Candidate<'_>, weights: &[f64]) -> Vec<Part>;
}

/// Models of one kind of the chance of success of one tenant's agents.
///
/// A family has one or more copies, which make different assumptions and learn side by side. How much each
/// counts is no business of the family: an ensemble weighs the copies of all its families by what they
/// foretold. A family without copies learns nothing: it goes by the records of agents, and stands alone.
///
/// All of it is a function of the outcomes and their order. Agents come and go, and their ids are used
/// again: what depends on the order of agents must go by their names.
pub(in crate::model) trait Family {
    /// Its copies.
    fn copies(&self) -> &'static [CopyPrior] {
        &[]
    }

    /// Learns an outcome. Adds to `foretold` what each copy foretold, as the log-odds of its expected reward
    /// before that.
    fn learn(&mut self, _lesson: &Lesson<'_>, _room: &mut Room, _foretold: &mut Vec<f64>) {}

    /// What it believes is what it says to a question.
    fn ask<'a>(&'a self, question: &'a Question<'a>, caps: &'a Caps) -> Box<dyn Opinion + 'a>;

    /// What goes before the parts of an explanation, in words.
    fn in_words(&self) -> &'static str;

    /// Takes over what the operator decided, after it was restored.
    fn settle(&mut self, _settings: &Settings) {}

    /// Forgets an agent. Returns what that took.
    fn forget_agent(&mut self, _agent_id: u32, _agents: &Agents) -> Taken {
        Taken::default()
    }

    /// Forgets what is known of an agent on one task type or the other alone.
    fn forget_agent_on_tasks(&mut self, _agent_id: u32) {}

    /// Forgets a task type.
    fn forget_task(&mut self, _task_type: &str) {}

    /// What it takes of the caps.
    fn taken(&self) -> Taken {
        Taken::default()
    }

    /// Most context values that it learns of one agent with all their correlations.
    fn joint_values(&self) -> usize {
        0
    }

    /// Context values that it learns of agents independently of others.
    fn independent_effects(&self) -> usize {
        0
    }

    /// Whether an agent holds any of what would be given back if it were forgotten.
    fn is_held_by(&self, _agent_id: u32, _held: Held) -> bool {
        false
    }
}

/// What bounds the memory of what families learn of one tenant.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Room {
    /// Rows of one agent's covariance beside that of its overall effect.
    pub(in crate::model) rows_max: usize,
    /// Entries of covariances, each with a number of each copy of the logistic regression.
    pub(in crate::model) covariances: usize,
    pub(in crate::model) covariances_max: usize,
    /// Features, and effects of agents without a row.
    pub(in crate::model) effects: usize,
    pub(in crate::model) effects_max: usize,
    pub(in crate::model) names_max: NamesMax,
    /// Features and effects that there was no room for.
    pub(in crate::model) refused: u64,
}

impl Room {
    /// Of a tenant that has so much and may have so much.
    pub(in crate::model) fn new(caps: &Caps, own: &Holding, room: &Holding) -> Self {
        Self {
            rows_max: caps.joint_values_per_agent,
            covariances: own.covariances,
            covariances_max: room.covariances,
            effects: own.effects,
            effects_max: room.effects,
            names_max: NamesMax::of(caps),
            refused: 0,
        }
    }
}

/// A family that learns, and so is saved: in a field of its own of the tenant's state.
pub(in crate::model) trait Learned: Family + Sized {
    /// What is read back.
    type State: DeserializeOwned;

    /// What it has learned, with the weights of its copies, to be serialised: the same bytes for the same
    /// state, whatever ids the agents were given.
    fn save<'a>(&'a self, names: Names<'a>, weights: &'a [f64]) -> impl Serialize + 'a;

    /// The family and the weights of its copies, of a tenant whose agent ids are places by name.
    ///
    /// # Errors
    /// [`Corrupt`](crate::Error::Corrupt) when it does not fit together.
    fn restore(state: Self::State, names: Names<'_>) -> Result<(Self, Vec<f64>)>;
}

/// What families take of the caps.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) struct Taken {
    pub(in crate::model) covariances: usize,
    pub(in crate::model) effects: usize,
}

impl AddAssign for Taken {
    fn add_assign(&mut self, more: Self) {
        self.covariances += more.covariances;
        self.effects += more.effects;
    }
}
