//! Control entries of the journal: what changes the model and is no outcome.
//!
//! Whatever changes what is learned or answered is an entry before it takes effect, so that a
//! restart, `verify` and a model built again from the journal all do the same at the same place.

use serde::{Deserialize, Serialize};

use super::performance::AgentPerformanceModel;
use crate::outcome::{Context, DecisionRef, IdentityKey, Outcome, Status};

/// One control entry. Another kind, or another field of a known one, is refused when it is read:
/// to pass over it would give another model without a word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Control {
    /// An agent is removed with all that was learned of it; its next outcome makes it a new one.
    RemoveAgent {
        /// Whose.
        tenant: String,
        /// Which.
        agent: String,
    },
    /// The outcome of a decision never came, and is learned as a failure.
    DecisionMissing {
        /// Whose.
        tenant: String,
        /// Its id.
        decision_id: String,
        /// The agent that it ranked first.
        agent: String,
        /// The task type of the question.
        task_type: Option<String>,
        /// The context of the question.
        context: Context,
    },
    /// Memory is short: from here on nothing takes more of it than it does now.
    CloseRoom,
    /// Memory is no longer short.
    OpenRoom,
    /// The final outcome of an execution never came: the newest of those that were not final is.
    LastAttempt {
        /// Which execution.
        execution: IdentityKey,
        /// As it came.
        outcome: Box<Outcome>,
    },
    /// What was missing when an outcome was journaled: a verdict has added it.
    Feedback {
        /// Which execution.
        execution: IdentityKey,
        /// The outcome with what is new. Where it was pending all of it is learned, else these values.
        outcome: Box<Outcome>,
        /// It was pending.
        was_pending: bool,
    },
}

impl Control {
    /// The kind by its name in the journal, which is that of its learning event, too.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RemoveAgent { .. } => "remove_agent",
            Self::DecisionMissing { .. } => "decision_missing",
            Self::CloseRoom => "close_room",
            Self::OpenRoom => "open_room",
            Self::LastAttempt { .. } => "last_attempt",
            Self::Feedback { .. } => "feedback",
        }
    }

    /// The outcome that is learned by it, if one is.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::RemoveAgent { .. }
            | Self::CloseRoom
            | Self::OpenRoom
            | Self::Feedback { was_pending: false, .. } => None,
            Self::LastAttempt { outcome, .. } | Self::Feedback { outcome, .. } => {
                Some(Outcome { resolved: true, ..(**outcome).clone() })
            }
            Self::DecisionMissing { tenant, decision_id, agent, task_type, context } => {
                Some(Outcome {
                    tenant: tenant.clone(),
                    task_type: task_type.clone(),
                    context: context.clone(),
                    decision: Some(DecisionRef::Explicit(decision_id.clone())),
                    resolved: true,
                    ..Outcome::new(agent.as_str(), Status::Failure)
                })
            }
        }
    }
}

impl AgentPerformanceModel {
    /// Takes in the next entry of the journal, a control entry. Returns the expected reward of the
    /// outcome that is learned by it, as [`AgentPerformanceModel::foretell`] does.
    pub fn apply(&mut self, control: &Control) -> Option<f64> {
        if let Some(outcome) = control.outcome() {
            if let Control::Feedback { .. } = control {
                // It was counted when it came.
                self.change(&outcome.tenant, |tenant| tenant.uncount_pending(&outcome));
                self.total.executions = self.total.executions.saturating_sub(1);
            }
            return self.foretell(&outcome);
        }
        self.sequence += 1;
        match control {
            Control::RemoveAgent { tenant, agent } => self.remove_agent(tenant, agent),
            Control::CloseRoom => self.closed_at = Some(self.holding),
            Control::OpenRoom => self.closed_at = None,
            Control::Feedback { outcome, .. } => self.learn_late(outcome),
            Control::DecisionMissing { .. } | Control::LastAttempt { .. } => {}
        }
        None
    }

    /// As [`AgentPerformanceModel::relearn`], of a control entry whose other work is done already.
    pub fn relearn_control(&mut self, control: &Control) {
        match control {
            // What comes after it is of a new agent with the name.
            Control::RemoveAgent { tenant, agent } => {
                self.change(tenant, |tenant| tenant.forget_effects_of(agent));
            }
            // Of values alone there is no effect.
            Control::DecisionMissing { .. }
            | Control::LastAttempt { .. }
            | Control::Feedback { .. } => {
                if let Some(outcome) = control.outcome() {
                    self.relearn(&outcome);
                }
            }
            Control::CloseRoom | Control::OpenRoom => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Question, Settings, Strategy};
    use crate::outcome::{DEFAULT_TENANT, Feature};

    fn outcome(agent: &str, number: u32) -> Outcome {
        let status = Status::ALL[number as usize % 4];
        let value = f64::from(number % 7);
        Outcome {
            latency_ms: Some(100.0 + value),
            quality: Some(value / 10.0),
            cost: Some(value),
            context: vec![
                ("id".to_owned(), Feature::Text(format!("{agent}{number}"))),
                ("k".to_owned(), Feature::Text(format!("v{}", number % 5))),
                ("n".to_owned(), Feature::Number(value)),
            ],
            ..Outcome::new(agent, status).on_task(format!("task{}", number % 3))
        }
    }

    fn removal(agent: &str) -> Control {
        Control::RemoveAgent { tenant: DEFAULT_TENANT.to_owned(), agent: agent.to_owned() }
    }

    fn taken(model: &AgentPerformanceModel) -> [usize; 5] {
        [
            model.cells(),
            model.recent_values(),
            model.covariance_bytes(),
            model.effects(),
            model.value_bytes(),
        ]
    }

    /// What is taken of the caps is given back: it is what a model takes that is read from the state.
    #[test]
    fn a_removed_agent_gives_back_what_it_took_and_takes_its_id_along() {
        for strategy in Strategy::ALL {
            let settings = Settings { strategy, ..Settings::default() };
            let mut model = AgentPerformanceModel::new(settings);
            for number in 0..60 {
                for agent in ["a", "b", "c"] {
                    model.update(&outcome(agent, number));
                }
            }
            let full = taken(&model);
            let check = |model: &AgentPerformanceModel| {
                let json = serde_json::to_vec(&model.state()).unwrap();
                let restored =
                    AgentPerformanceModel::from_state(&*json, model.sequence(), settings).unwrap();
                assert_eq!(taken(model), taken(&restored), "{strategy:?}");
                assert_eq!(model.digest(), restored.digest(), "{strategy:?}");
            };
            let sequence = model.sequence();
            assert_eq!(model.apply(&removal("b")), None);
            assert_eq!(model.sequence(), sequence + 1);
            check(&model);
            for (kept, before) in taken(&model).into_iter().zip(full) {
                assert!(kept < before || before == 0, "{strategy:?}: {kept} of {before}");
            }
            let tenant = model.tenant(DEFAULT_TENANT).unwrap();
            assert_eq!(tenant.agents().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "c"]);
            // One who comes next has its id, and nothing else of it.
            model.update(&outcome("d", 1));
            check(&model);
            let tenant = model.tenant(DEFAULT_TENANT).unwrap();
            let newcomer = tenant.agent("d").unwrap();
            assert_eq!(newcomer.id, 1);
            assert_eq!(tenant.cell(newcomer, "task0").tally.executions, 0);
            assert_eq!(tenant.cell(newcomer, "task1").tally.executions, 1);
            // A removal of nobody changes nothing but the sequence.
            let digest = model.digest();
            model.apply(&removal("b"));
            model.apply(&Control::RemoveAgent { tenant: "x".to_owned(), agent: "a".to_owned() });
            assert_eq!((model.digest(), model.sequence()), (digest, sequence + 4));
            for agent in ["a", "c", "d"] {
                model.apply(&removal(agent));
                check(&model);
            }
        }
    }

    #[test]
    fn one_who_comes_again_is_as_unknown_as_anybody() {
        let mut model = AgentPerformanceModel::new(Settings::default());
        for number in 0..40 {
            model.update(&outcome("a", number));
            model.update(&outcome("b", number));
        }
        model.apply(&removal("a"));
        let candidates = ["a".to_owned(), "never seen".to_owned()];
        let context = outcome("a", 3).context;
        let question = Question {
            tenant: DEFAULT_TENANT,
            task_type: Some("task0"),
            context: &context,
            candidates: Some(&candidates),
            exclude: &[],
        };
        let expected: Vec<u64> = model
            .standings(&question)
            .iter()
            .map(|standing| standing.expected_success().to_bits())
            .collect();
        assert_eq!(expected[0], expected[1]);
    }

    #[test]
    fn a_missing_outcome_is_one_failure_of_its_agent_on_its_question() {
        let mut model = AgentPerformanceModel::new(Settings::default());
        model.update(&outcome("a", 0));
        let Outcome { context, task_type, .. } = outcome("a", 2);
        let control = Control::DecisionMissing {
            tenant: DEFAULT_TENANT.to_owned(),
            decision_id: "d".to_owned(),
            agent: "a".to_owned(),
            task_type: task_type.clone(),
            context: context.clone(),
        };
        let mut other = model.clone();
        let failure = Outcome { task_type, context, ..Outcome::new("a", Status::Failure) };
        assert_eq!(model.apply(&control), other.foretell(&failure));
        assert_eq!((model.digest(), model.sequence()), (other.digest(), 2));
        let agent = model.tenant(DEFAULT_TENANT).unwrap().agent("a").unwrap();
        assert_eq!(agent.with_status(Status::Failure), 1);
    }
}
