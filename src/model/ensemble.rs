//! The families that a strategy consists of, for one tenant, and the weights that their copies earned.

use super::explanation::CopyWeight;
use super::families::{Agents, CopyPrior, Family, Lesson, Member, Room, Taken};
use super::holding::Held;
use super::mixture::Weights;
use super::settings::Settings;
use crate::error::{Error, Result};

/// One tenant's families.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ensemble {
    pub(super) members: Vec<Member>,
    /// Of the copies of the first member, then of the next.
    pub(super) weights: Weights,
}

impl Ensemble {
    /// Of a tenant without outcomes.
    pub(super) fn new(settings: &Settings) -> Self {
        Self::of(Member::all_of(settings))
    }

    /// Before any weight is earned.
    fn of(members: Vec<Member>) -> Self {
        let first: Vec<f64> = priors(&members).map(|copy| copy.weight).collect();
        Self { members, weights: Weights::new(first) }
    }

    /// As it was saved, with the weights of all copies.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when there are not as many weights as copies.
    pub(super) fn restored(members: Vec<Member>, weights: Vec<f64>) -> Result<Self> {
        let mut ensemble = Self::of(members);
        if !ensemble.weights.restore(weights) {
            return Err(Error::Corrupt("the copies have one weight each".to_owned()));
        }
        Ok(ensemble)
    }

    /// Whether there is anything to learn: families without copies go by the records alone.
    pub(super) fn learns(&self) -> bool {
        !self.weights.all().is_empty()
    }

    /// Learns an outcome. Returns its expected reward before that, `0..=1`.
    pub(super) fn learn(&mut self, lesson: &Lesson<'_>, room: &mut Room) -> f64 {
        let mut foretold = Vec::with_capacity(self.weights.all().len());
        for member in &mut self.members {
            member.learn(lesson, room, &mut foretold);
        }
        self.weights.weigh(&foretold, lesson.reward)
    }

    /// Takes over what the operator decided, after it was restored.
    pub(super) fn settle(&mut self, settings: &Settings) {
        self.members.iter_mut().for_each(|member| member.settle(settings));
    }

    /// Forgets an agent. Returns what that took.
    pub(super) fn forget_agent(&mut self, agent_id: u32, agents: &Agents) -> Taken {
        let mut taken = Taken::default();
        for member in &mut self.members {
            taken += member.forget_agent(agent_id, agents);
        }
        taken
    }

    /// Forgets what is known of an agent on one task type or the other alone.
    pub(super) fn forget_agent_on_tasks(&mut self, agent_id: u32) {
        self.members.iter_mut().for_each(|member| member.forget_agent_on_tasks(agent_id));
    }

    /// Forgets a task type.
    pub(super) fn forget_task(&mut self, task_type: &str) {
        self.members.iter_mut().for_each(|member| member.forget_task(task_type));
    }

    /// What it takes of the caps.
    pub(super) fn taken(&self) -> Taken {
        let mut taken = Taken::default();
        self.members.iter().for_each(|member| taken += member.taken());
        taken
    }

    /// Whether an agent holds any of what would be given back if it were forgotten.
    pub(super) fn is_held_by(&self, agent_id: u32, held: Held) -> bool {
        self.members.iter().any(|member| member.is_held_by(agent_id, held))
    }

    /// What each copy assumes, and its weight.
    pub(super) fn copies(&self) -> Vec<CopyWeight> {
        let copies = priors(&self.members).zip(self.weights.all());
        copies.map(|(copy, weight)| CopyWeight { assumes: copy.assumes, weight: *weight }).collect()
    }
}

fn priors(members: &[Member]) -> impl Iterator<Item = &'static CopyPrior> {
    members.iter().flat_map(|member| member.copies())
}
