//! The families that a strategy consists of, for one tenant, and the weights that their copies earned.

use serde::ser::SerializeStruct;

use super::belief::Belief;
use super::explanation::{CopyWeight, Part};
use super::families::{Candidate, CopyPrior, Lesson, Member, Opinion, Room, Taken};
use super::holding::Held;
use super::mixture::Weights;
use super::question::Question;
use super::records::{Agents, Names};
use super::settings::{Caps, Settings};
use crate::error::{Error, Result};

/// One tenant's families.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ensemble {
    members: Vec<Member>,
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
        let total: f64 = priors(&members).map(|copy| copy.weight).sum();
        let first = priors(&members).map(|copy| copy.weight / total).collect();
        Self { members, weights: Weights::new(first) }
    }

    /// Of families that were saved, each with the weights of its copies; `None` without any.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when there are not as many weights as copies.
    pub(super) fn restored(saved: Vec<(Member, Vec<f64>)>) -> Result<Option<Self>> {
        let (members, weights): (Vec<_>, Vec<_>) = saved.into_iter().unzip();
        if members.is_empty() {
            return Ok(None);
        }
        let mut ensemble = Self::of(members);
        if !ensemble.weights.restore(weights.concat()) {
            return Err(Error::Corrupt("the copies have one weight each".to_owned()));
        }
        Ok(Some(ensemble))
    }

    /// Whether it consists of the same families: the saved one of another strategy does not.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let kinds = |ensemble: &Self| -> Vec<_> {
            ensemble.members.iter().map(std::mem::discriminant).collect()
        };
        kinds(self) == kinds(other)
    }

    /// Writes what each family has learned in a field of a tenant's state.
    pub(super) fn save<S: SerializeStruct>(
        &self,
        state: &mut S,
        names: Names<'_>,
    ) -> std::result::Result<(), S::Error> {
        self.each(self.weights.all()).try_for_each(|(member, own)| member.save(state, names, own))
    }

    /// Every family with its part of what there is of each copy.
    fn each<'a>(
        &'a self,
        mut of_copies: &'a [f64],
    ) -> impl Iterator<Item = (&'a Member, &'a [f64])> {
        self.members.iter().map(move |member| {
            let (own, others) = of_copies.split_at(member.family().copies().len());
            of_copies = others;
            (member, own)
        })
    }

    /// Whether there is anything to learn: families without copies go by the records alone.
    pub(super) fn learns(&self) -> bool {
        !self.weights.all().is_empty()
    }

    /// Learns an outcome. Returns its expected reward before that, `0..=1`.
    pub(super) fn learn(&mut self, lesson: &Lesson<'_>, room: &mut Room) -> f64 {
        let mut foretold = Vec::with_capacity(self.weights.all().len());
        for member in &mut self.members {
            member.family_mut().learn(lesson, room, &mut foretold);
        }
        self.weights.weigh(&foretold, lesson.reward)
    }

    /// Takes over what the operator decided, after it was restored.
    pub(super) fn settle(&mut self, settings: &Settings) {
        self.members.iter_mut().for_each(|member| member.family_mut().settle(settings));
    }

    /// Forgets an agent. Returns what that took.
    pub(super) fn forget_agent(&mut self, agent_id: u32, agents: &Agents) -> Taken {
        let mut taken = Taken::default();
        for member in &mut self.members {
            taken += member.family_mut().forget_agent(agent_id, agents);
        }
        taken
    }

    /// Forgets what is known of an agent on one task type or the other alone.
    pub(super) fn forget_agent_on_tasks(&mut self, agent_id: u32) {
        self.members
            .iter_mut()
            .for_each(|member| member.family_mut().forget_agent_on_tasks(agent_id));
    }

    /// Forgets a task type.
    pub(super) fn forget_task(&mut self, task_type: &str) {
        self.members.iter_mut().for_each(|member| member.family_mut().forget_task(task_type));
    }

    /// What it takes of the caps.
    pub(super) fn taken(&self) -> Taken {
        let mut taken = Taken::default();
        self.members.iter().for_each(|member| taken += member.family().taken());
        taken
    }

    /// Most context values that are learned of one agent with all their correlations.
    pub(super) fn joint_values(&self) -> usize {
        self.members.iter().map(|member| member.family().joint_values()).max().unwrap_or(0)
    }

    /// Context values that are learned of agents independently of others.
    pub(super) fn independent_effects(&self) -> usize {
        self.members.iter().map(|member| member.family().independent_effects()).sum()
    }

    /// Whether an agent holds any of what would be given back if it were forgotten.
    pub(super) fn is_held_by(&self, agent_id: u32, held: Held) -> bool {
        self.members.iter().any(|member| member.family().is_held_by(agent_id, held))
    }

    /// What its families say to a question.
    pub(super) fn ask<'a>(&'a self, question: &'a Question<'a>, caps: &'a Caps) -> Opinions<'a> {
        let members = self.members.iter();
        let of_members = members.map(|member| member.family().ask(question, caps)).collect();
        Opinions { ensemble: self, of_members, kept: self.weights.kept() }
    }
}

#[cfg(test)]
impl Ensemble {
    /// That of the strategy `thompson`.
    pub(super) fn logistic(&self) -> &super::families::Logistic {
        match &*self.members {
            [Member::Logistic(logistic)] => logistic,
            members => panic!("{members:?}"),
        }
    }
}

fn priors(members: &[Member]) -> impl Iterator<Item = &'static CopyPrior> {
    members.iter().flat_map(|member| member.family().copies())
}

/// What all families say to one question.
pub(super) struct Opinions<'a> {
    ensemble: &'a Ensemble,
    of_members: Vec<Box<dyn Opinion + 'a>>,
    /// The weights of those copies that take part.
    kept: Vec<f64>,
}

/// Why a candidate is believed to be what it is.
pub(super) struct Explained {
    /// What goes before the parts.
    pub(super) in_words: &'static str,
    pub(super) parts: Vec<Part>,
    pub(super) weights: Vec<CopyWeight>,
}

impl Opinions<'_> {
    /// What is believed of a candidate, by the weights of the copies.
    pub(super) fn belief(&mut self, candidate: &Candidate<'_>) -> Belief {
        let of_members = self.ensemble.each(&self.kept).zip(&mut self.of_members);
        let beliefs = of_members.map(|((_, kept), opinion)| opinion.belief(candidate, kept));
        let all = beliefs.reduce(|all, one| match (all, one) {
            (Belief::Mixture(all), Belief::Mixture(one)) => Belief::Mixture(all.with(one)),
            _ => unreachable!("a family without copies is the strategy's only one"),
        });
        all.expect("every strategy has a family")
    }

    /// Why.
    pub(super) fn explain(&self, candidate: &Candidate<'_>) -> Explained {
        let Ensemble { members, weights } = self.ensemble;
        let of_members = self.ensemble.each(weights.all()).zip(&self.of_members);
        let parts = of_members.flat_map(|((_, own), opinion)| opinion.explain(candidate, own));
        let parts = parts.collect();
        let copies = priors(members).zip(weights.all());
        let weight = |(copy, weight): (&CopyPrior, &f64)| CopyWeight {
            assumes: copy.assumes,
            weight: *weight,
        };
        let in_words = members.first().map_or("", |member| member.family().in_words());
        Explained { in_words, parts, weights: copies.map(weight).collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::belief::Standing;
    use crate::model::holding::Holding;
    use crate::model::ranking::{best_probabilities, propensities};
    use crate::model::records::Agent;
    use crate::model::settings::Strategy;
    use crate::outcome::{Context, DEFAULT_TENANT, Feature};

    /// What goes by the records has nothing that an ensemble could weigh.
    #[test]
    fn families_without_copies_stand_alone() {
        for strategy in Strategy::ALL {
            let members = Member::all_of(&Settings { strategy, ..Settings::default() });
            let without =
                members.iter().filter(|member| member.family().copies().is_empty()).count();
            let expected = if without == 0 { members.len() } else { 1 };
            assert!(!members.is_empty() && members.len() == expected, "{strategy:?}");
        }
    }

    fn agents() -> Agents {
        let agent = |id: u32| {
            (Arc::<str>::from(format!("a{id}")), Arc::new(Agent { id, ..Agent::default() }))
        };
        (0..3).map(agent).collect()
    }

    fn standings(ensemble: &Ensemble, agents: &Agents, context: &Context) -> Vec<Standing> {
        let question = Question {
            tenant: DEFAULT_TENANT,
            task_type: Some("t1"),
            context,
            candidates: None,
            exclude: &[],
        };
        let caps = Caps::default();
        let mut opinions = ensemble.ask(&question, &caps);
        let standing = |(name, agent): (&Arc<str>, &Arc<Agent>)| {
            let candidate = Candidate { agent: Some(agent), evidence: 0, candidates: 3 };
            let belief = opinions.belief(&candidate);
            Standing { agent: name.clone(), belief, samples: 0, evidence: 0 }
        };
        agents.iter().map(standing).collect()
    }

    #[track_caller]
    fn check_near(one: f64, other: f64, within: f64) {
        assert!((one - other).abs() < within, "{one}, {other}");
    }

    /// Twice the same family is worth as much as once: every copy has half the weight, and all that is stated,
    /// compared and drawn is of all copies.
    #[test]
    fn what_two_families_agree_on_is_believed() {
        /// A copy of half the weight is the sooner left out.
        const SAME: f64 = 0.005;
        let settings = Settings::default();
        let both = || Member::all_of(&settings).into_iter().chain(Member::all_of(&settings));
        let (mut single, mut double) = (Ensemble::new(&settings), Ensemble::of(both().collect()));
        let agents = agents();
        let max = Holding { covariances: 1_000, effects: 1_000, ..Holding::default() };
        let mut held = [Holding::default(); 2];
        for number in 0..120_u32 {
            let color = if number % 5 < 2 { "red" } else { "blue" };
            let context = vec![("color".to_owned(), Feature::Text(color.to_owned()))];
            let task = ["t0", "t1"][number as usize / 3 % 2];
            let lesson = Lesson {
                agents: &agents,
                agent_id: number % 3,
                task: Some((task, true)),
                context: &context,
                reward: f64::from(u8::from(number % 7 < 2 + number % 3)),
            };
            let [one, two] = [0, 1].map(|place| {
                let room = &mut Room::new(&settings.caps, &held[place], &max);
                let foretold = [&mut single, &mut double][place].learn(&lesson, room);
                held[place].covariances = room.covariances;
                held[place].effects = room.effects;
                foretold
            });
            check_near(one, two, 1e-9);
            if number % 10 == 9 {
                check_near(double.weights.all().iter().sum(), 1.0, 1e-9);
                let [one, two] = [&single, &double].map(|all| standings(all, &agents, &context));
                for (one, two) in one.iter().zip(&two) {
                    check_near(one.expected_success(), two.expected_success(), SAME);
                    check_near(one.density(0.4).unwrap(), two.density(0.4).unwrap(), SAME);
                }
                for of in [propensities, best_probabilities] {
                    let both = of(&one).into_iter().zip(of(&two));
                    both.for_each(|(one, two)| check_near(one, two, SAME));
                }
            }
        }
        for (ensemble, held) in [&single, &double].into_iter().zip(held) {
            let Taken { covariances, effects } = ensemble.taken();
            assert_eq!((covariances, effects), (held.covariances, held.effects));
        }
        assert!(single.is_like(&Ensemble::new(&settings)) && !double.is_like(&single));
        single.forget_agent(1, &agents);
        double.forget_agent(1, &agents);
        let [one, two] = [&single, &double].map(|all| standings(all, &agents, &Vec::new()));
        check_near(one[1].expected_success(), two[1].expected_success(), SAME);
    }
}
