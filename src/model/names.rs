//! Which names are learned where there is room for a bounded number of them.
//!
//! Once all places are taken, a new name waits, and what it brings counts as "other". It comes in when a
//! place is given to it:
//!
//! - by a name with under [`ESTABLISHED`] outcomes that had none in the tenant's last [`STALE_AFTER`]:
//!   at once;
//! - at its own [`ESTABLISHED`]th outcome by the one of under [`ESTABLISHED`] outcomes that had none for
//!   longest, or else by an established one that had none in the last [`STALE_AFTER`].
//!
//! So names that come once, however many, never take the place of one that is used, and one that is used
//! comes in however many of them came before. Which name gives way depends on outcomes and their
//! order alone.

use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::hashing::hash;

/// Outcomes with which a name is established.
pub(super) const ESTABLISHED: u64 = 5;
/// Outcomes of the tenant after which a name that had none of them is stale.
pub(super) const STALE_AFTER: u64 = 100_000;
/// Names of a tenant that wait, of those that were seen last.
const WAITING_MAX: usize = 4_096;

/// A name that has a place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed<'a> {
    pub(super) name: &'a Arc<str>,
    pub(super) outcomes: u64,
    /// The tenant's outcomes when it had its last one, that one included.
    pub(super) seen: u64,
}

/// Names that wait, by their hashes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64, u64)>", into = "Vec<(u64, u64, u64)>")]
pub(super) struct Waiting {
    /// Outcomes, and the tenant's outcomes at the last of them.
    by_name: OrdMap<u64, (u64, u64)>,
    /// The same, by the second.
    by_age: OrdMap<u64, u64>,
    /// Spares a search, as long as no name was given a place since the last one.
    searched: Option<Searched>,
}

/// Names that have a place were last seen at this or later.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Searched {
    /// Those with under [`ESTABLISHED`] outcomes; `None` when there are none.
    loose_since: Option<u64>,
    all_since: u64,
}

impl Waiting {
    /// Counts an outcome of a name without a place, the tenant's `now`th, and says who gives it one.
    /// `placed` are those that have one.
    pub(super) fn place_for<'a>(
        &mut self,
        name: &str,
        now: u64,
        placed: impl Iterator<Item = Placed<'a>>,
    ) -> Option<Arc<str>> {
        let name = hash(name.as_bytes());
        let outcomes = match self.by_name.get(&name) {
            Some((outcomes, seen)) => {
                let outcomes = outcomes.saturating_add(1);
                self.by_age.remove(seen);
                outcomes
            }
            None => 1,
        };
        let is_stale = |seen: u64| now.saturating_sub(seen) > STALE_AFTER;
        let is_established = outcomes >= ESTABLISHED;
        let is_hopeless = self.searched.is_some_and(|searched| {
            let loose = searched.loose_since;
            !(loose.is_some_and(|since| is_established || is_stale(since))
                || is_established && is_stale(searched.all_since))
        });
        let mut gives_way = None;
        if !is_hopeless {
            let mut searched = Searched { loose_since: None, all_since: now };
            let mut oldest = None;
            for Placed { name, outcomes, seen } in placed {
                let is_loose = outcomes < ESTABLISHED;
                if is_loose {
                    let since = searched.loose_since.unwrap_or(seen);
                    searched.loose_since = Some(since.min(seen));
                }
                searched.all_since = searched.all_since.min(seen);
                let may = if is_loose {
                    is_established || is_stale(seen)
                } else {
                    is_established && is_stale(seen)
                };
                // Of equals, which only an older state has, the first by name.
                if may && oldest.is_none_or(|oldest| (!is_loose, seen) < oldest) {
                    oldest = Some((!is_loose, seen));
                    gives_way = Some(name);
                }
            }
            self.searched = Some(searched);
        }
        if gives_way.is_some() {
            self.by_name.remove(&name);
            self.searched = None;
            return gives_way.cloned();
        }
        self.by_name.insert(name, (outcomes, now));
        self.by_age.insert(now, name);
        if self.by_name.len() > WAITING_MAX
            && let Some((age, oldest)) = self.by_age.get_min().copied()
        {
            self.by_age.remove(&age);
            self.by_name.remove(&oldest);
        }
        None
    }
}

impl Waiting {
    /// A name is given a place that is free.
    pub(super) fn placed(&mut self, name: &str) {
        self.searched = None;
        if let Some((_, seen)) = self.by_name.remove(&hash(name.as_bytes())) {
            self.by_age.remove(&seen);
        }
    }
}

impl From<Vec<(u64, u64, u64)>> for Waiting {
    fn from(rows: Vec<(u64, u64, u64)>) -> Self {
        Self {
            by_age: rows.iter().map(|(name, _, seen)| (*seen, *name)).collect(),
            by_name: rows.into_iter().map(|(name, count, seen)| (name, (count, seen))).collect(),
            searched: None,
        }
    }
}

impl From<Waiting> for Vec<(u64, u64, u64)> {
    fn from(waiting: Waiting) -> Self {
        waiting.by_name.iter().map(|(name, (count, seen))| (*name, *count, *seen)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AgentPerformanceModel, Caps, Settings, Strategy};
    use crate::outcome::{DEFAULT_TENANT, Outcome, Status};

    fn settings(names_max: usize) -> Settings {
        let caps = Caps {
            agents_per_tenant: names_max,
            task_types_per_tenant: names_max,
            ..Caps::default()
        };
        Settings { caps, ..Settings::default() }
    }

    fn quick(names_max: usize) -> Settings {
        Settings { strategy: Strategy::Beta, ..settings(names_max) }
    }

    /// Some outcomes of one name, which is that of an agent and of a task type.
    fn learn(model: &mut AgentPerformanceModel, name: &str, outcomes: usize) {
        for _ in 0..outcomes {
            model.update(&Outcome::new(name, Status::Success).on_task(name));
        }
    }

    /// Outcomes of a name as an agent, which are as many as it has as a task type; `None` without a place.
    #[track_caller]
    fn outcomes_of(model: &AgentPerformanceModel, name: &str) -> Option<u64> {
        let tenant = model.tenant(DEFAULT_TENANT).unwrap();
        let agent = tenant.agent(name).map(|agent| agent.tally.executions);
        let mut tasks = tenant.task_types().filter(|(task, _)| *task == name);
        assert_eq!(tasks.next().map(|(_, tally)| tally.executions), agent, "{name}");
        agent
    }

    #[test]
    fn one_that_is_used_comes_in_after_however_many_that_came_once() {
        let mut model = AgentPerformanceModel::new(settings(1_000));
        for number in 0..1_000 {
            learn(&mut model, &format!("once{number}"), 1);
        }
        learn(&mut model, "real", 50);
        // Its first four came before it had a place.
        assert_eq!(outcomes_of(&model, "real"), Some(46));
        assert_eq!(outcomes_of(&model, "once0"), None, "it had none for longest");
        let tenant = model.tenant(DEFAULT_TENANT).unwrap();
        assert_eq!((tenant.agents().len(), tenant.task_types().len()), (1_000, 1_000));
        assert_eq!(tenant.other().agent.tally.executions, 4);
        assert_eq!(tenant.total().executions, 1_050);
    }

    #[test]
    fn a_flood_of_made_up_names_takes_nobodys_place() {
        let mut model = AgentPerformanceModel::new(quick(10));
        learn(&mut model, "used", 100);
        for number in 0..9 {
            learn(&mut model, &format!("seldom{number}"), 1);
        }
        for number in 0..STALE_AFTER / 2 {
            learn(&mut model, &format!("made up {number}"), 1);
        }
        assert_eq!(outcomes_of(&model, "used"), Some(100));
        assert!((0..9).all(|number| outcomes_of(&model, &format!("seldom{number}")) == Some(1)));
        // Also where each comes five times it takes only from those who came less.
        for number in 0..1_000 {
            learn(&mut model, &format!("made up again {number}"), 5);
        }
        assert_eq!(outcomes_of(&model, "used"), Some(100));
        assert_eq!(outcomes_of(&model, "seldom8"), None);
        // Nor after so many that everybody is stale: these come in once they are used.
        for number in 0..2 * STALE_AFTER {
            learn(&mut model, &format!("at last {number}"), 1);
        }
        assert_eq!(outcomes_of(&model, "used"), Some(100));
        learn(&mut model, "newcomer", 5);
        assert!(outcomes_of(&model, "newcomer").is_some());
        assert_eq!(outcomes_of(&model, "used"), Some(100), "of those who came less one leaves");
    }

    #[test]
    fn one_that_came_often_but_long_ago_gives_way_to_one_that_comes_often() {
        let mut model = AgentPerformanceModel::new(quick(2));
        learn(&mut model, "long ago", 5);
        let after = usize::try_from(STALE_AFTER).unwrap();
        learn(&mut model, "always", after - 4);
        learn(&mut model, "new", 4);
        assert_eq!(outcomes_of(&model, "new"), None);
        // It is the first whose last 100,000 before it hold none.
        learn(&mut model, "new", 1);
        assert_eq!((outcomes_of(&model, "new"), outcomes_of(&model, "long ago")), (Some(1), None));
        // The other one is used.
        learn(&mut model, "newer", 100);
        assert_eq!((outcomes_of(&model, "newer"), outcomes_of(&model, "new")), (Some(96), None));
        learn(&mut model, "newest", 100);
        assert_eq!(outcomes_of(&model, "newest"), None, "both that have a place are used");
    }

    #[test]
    fn one_that_came_seldom_and_long_ago_gives_way_at_once() {
        let mut model = AgentPerformanceModel::new(quick(3));
        learn(&mut model, "long ago", 4);
        learn(&mut model, "seldom", 4);
        let after = usize::try_from(STALE_AFTER).unwrap();
        learn(&mut model, "always", after - 5);
        learn(&mut model, "new", 1);
        assert_eq!(outcomes_of(&model, "new"), None, "its last 100,000 hold one of each");
        learn(&mut model, "new", 1);
        assert_eq!((outcomes_of(&model, "new"), outcomes_of(&model, "long ago")), (Some(1), None));
        assert_eq!(outcomes_of(&model, "seldom"), Some(4));
    }

    #[test]
    fn one_that_comes_again_among_the_last_that_wait_is_remembered() {
        let mut model = AgentPerformanceModel::new(quick(1));
        let names = |model: &mut AgentPerformanceModel, prefix: &str, count: usize| {
            (0..count).for_each(|number| learn(model, &format!("{prefix}{number}"), 1));
        };
        learn(&mut model, "once", 1);
        for round in 0..4 {
            learn(&mut model, "real", 1);
            names(&mut model, &format!("{round}-"), WAITING_MAX - 1);
        }
        learn(&mut model, "real", 1);
        assert_eq!(outcomes_of(&model, "real"), Some(1));
        learn(&mut model, "real", 9);

        learn(&mut model, "forgotten", 4);
        names(&mut model, "more", WAITING_MAX);
        learn(&mut model, "forgotten", 1);
        assert_eq!(outcomes_of(&model, "forgotten"), None);
    }

    /// A saved model goes on as the one that it was saved from, whatever waits.
    #[test]
    fn who_gives_way_is_the_same_after_a_restart() {
        let settings = settings(20);
        let mut model = AgentPerformanceModel::new(settings);
        let mut restored: Option<AgentPerformanceModel> = None;
        let mut state = 1_u64;
        for step in 0..6_000 {
            // Knuth's multiplier: few names come often, many seldom.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let name = (state >> 40) % (1 + (state >> 20) % 400);
            let outcome = Outcome::new(format!("n{name}"), Status::ALL[(state >> 60) as usize % 6])
                .on_task(format!("n{}", name / 2));
            model.update(&outcome);
            if let Some(restored) = &mut restored {
                restored.update(&outcome);
            }
            if step % 500 == 250 {
                if let Some(restored) = &restored {
                    assert_eq!(model.digest(), restored.digest(), "after {step}");
                }
                let json = serde_json::to_vec(&model.state()).unwrap();
                let again =
                    AgentPerformanceModel::from_state(&*json, model.sequence(), settings).unwrap();
                assert_eq!(model.digest(), again.digest(), "after {step}");
                assert_eq!(
                    [model.cells(), model.effects(), model.covariance_bytes(), model.value_bytes()],
                    [again.cells(), again.effects(), again.covariance_bytes(), again.value_bytes()]
                );
                restored = Some(again);
            }
        }
    }

    /// A file of before this was known: nobody in it is stale, and scores go on.
    #[test]
    fn an_older_state_begins_with_everybody_seen_last() {
        let settings = quick(2);
        let mut model = AgentPerformanceModel::new(settings);
        learn(&mut model, "a", 1);
        let after = usize::try_from(STALE_AFTER).unwrap();
        learn(&mut model, "b", after);
        let mut state = serde_json::to_value(model.state()).unwrap();
        let tenant = state["tenants"][DEFAULT_TENANT].as_object_mut().unwrap();
        for field in ["rewards", "tasks_seen", "waiting_agents", "waiting_tasks"] {
            assert!(tenant.remove(field).is_some(), "{field}");
        }
        let agents = tenant["agents"].as_object_mut().unwrap();
        agents.values_mut().for_each(|agent| drop(agent.as_object_mut().unwrap().remove("seen")));
        let json = serde_json::to_vec(&state).unwrap();
        let mut old =
            AgentPerformanceModel::from_state(&*json, model.sequence(), settings).unwrap();
        assert_eq!(old.tenant(DEFAULT_TENANT).unwrap().score(), model.score());
        for model in [&mut old, &mut model] {
            learn(model, "new", 1);
        }
        assert_eq!((outcomes_of(&old, "new"), outcomes_of(&model, "new")), (None, Some(1)));
        learn(&mut old, "new", 4);
        assert_eq!((outcomes_of(&old, "new"), outcomes_of(&old, "a")), (Some(1), None));
    }
}
