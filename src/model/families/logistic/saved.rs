//! The effects of a tenant as canonical JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, Vector};
use serde::de::Error as _;
use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::before_format_4::{COPIES_THEN, LIKE_THE_FIFTH, OVERALL, OWN_TASK as OWN_TASK_THEN};
use super::block::{Block, FeatureCell};
use super::combinations::{Combinations, SavedCombination};
use super::copies::{COPIES, Lanes, OWN_TASK, PRIORS};
use super::effect::Effect;
use super::hierarchy::{Hierarchy, MeanPrior, SPREADS, Term};
use super::regression::{Logistic, TaskEffects, effects_of};
use crate::error::{Error, Result};
use crate::model::canonical::{MapRef, hex_numbers};
use crate::model::families::family::Learned;
use crate::model::features::{Key, Keys};
use crate::model::records::{Names, next_id};

fn write_lanes<'a>(lanes: impl IntoIterator<Item = &'a Lanes>) -> String {
    hex_numbers::write(lanes.into_iter().flatten())
}

/// Numbers of each copy. Those of the first formats, which had four copies, gain a fifth, which begins as
/// the copy does that it is most like.
fn read_lanes(text: &str, copies: usize) -> Result<Vec<Lanes>> {
    let numbers = hex_numbers::read(text)?;
    let wrong = || Error::Corrupt("an effect has a number of each copy".to_owned());
    if copies == COPIES {
        let (lanes, []) = numbers.as_chunks::<COPIES>() else { return Err(wrong()) };
        return Ok(lanes.to_vec());
    }
    let (lanes, []) = numbers.as_chunks::<COPIES_THEN>() else { return Err(wrong()) };
    let more = |lanes: &[f64; COPIES_THEN]| {
        let [a, b, c, d] = *lanes;
        [a, b, c, d, lanes[LIKE_THE_FIFTH]]
    };
    Ok(lanes.iter().map(more).collect())
}

fn write_terms(terms: &[[Term; SPREADS]; COPIES]) -> String {
    hex_numbers::write(terms.as_flattened().iter().flat_map(Term::numbers))
}

fn read_terms(text: &str) -> Result<[[Term; SPREADS]; COPIES]> {
    let numbers = hex_numbers::read(text)?;
    let (terms, rest) = numbers.as_chunks::<3>();
    let (by_copy, uneven) = terms.as_chunks::<SPREADS>();
    let by_copy: Option<&[[[f64; 3]; SPREADS]; COPIES]> = by_copy.try_into().ok();
    match by_copy.filter(|_| rest.is_empty() && uneven.is_empty()) {
        Some(by_copy) => Ok(by_copy.map(|terms| terms.map(Term::of_numbers))),
        None => Err(Error::Corrupt("there is a sum per copy and spread".to_owned())),
    }
}

impl Serialize for Effect {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        (self.at, write_lanes([&self.mean, &self.variance])).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Effect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let (at, lanes) = <(u64, String)>::deserialize(deserializer)?;
        let copies = copies_of(&lanes, 2);
        match *read_lanes(&lanes, copies).map_err(D::Error::custom)? {
            [mean, variance] => Ok(Self { mean, variance, at }),
            _ => Err(D::Error::custom("an effect has a mean and a variance")),
        }
    }
}

/// How many copies there are in a text of so many numbers per copy.
fn copies_of(text: &str, numbers: usize) -> usize {
    if text.len() == 16 * COPIES_THEN * numbers { COPIES_THEN } else { COPIES }
}

#[derive(Serialize, Deserialize)]
struct BlockState {
    features: Vec<u32>,
    outcomes: Vec<u32>,
    mean: String,
    covariance: String,
    /// (feature, outcomes, effect)
    cells: Vec<(u32, u32, Effect)>,
    at: u64,
}

impl BlockState {
    fn of(block: &Block) -> Self {
        let cells = block.cells.iter();
        Self {
            features: block.features.clone(),
            outcomes: block.outcomes.clone(),
            mean: write_lanes(&block.mean),
            covariance: write_lanes(&block.covariance),
            cells: cells.map(|(feature, cell)| (*feature, cell.outcomes, cell.effect)).collect(),
            at: block.at,
        }
    }

    fn restore(self, features: usize, now: u64, copies: usize) -> Result<Block> {
        let mean = read_lanes(&self.mean, copies)?;
        let covariance = read_lanes(&self.covariance, copies)?;
        let rows = mean.len();
        let known = |feature: &u32| (*feature as usize) < features;
        if rows == 0
            || rows != self.features.len() + 1
            || rows != self.outcomes.len()
            || covariance.len() != rows * (rows + 1) / 2
            || self.at > now
            || !self.features.iter().all(known)
            || !self.cells.iter().all(|(feature, _, effect)| known(feature) && effect.at <= now)
        {
            return Err(Error::Corrupt("an agent's effects do not fit together".to_owned()));
        }
        let mut sorted: Vec<(u32, u32)> = self.features.iter().copied().zip(1..).collect();
        sorted.sort_unstable();
        let mut block = Block {
            features: self.features,
            rows: sorted,
            outcomes: self.outcomes,
            mean,
            covariance,
            cells: self
                .cells
                .into_iter()
                .map(|(feature, outcomes, effect)| (feature, FeatureCell { effect, outcomes }))
                .collect(),
            at: self.at,
        };
        if copies == COPIES_THEN {
            let (overall_mean, overall_variance) = OVERALL;
            // Up to then it was kept relative to the mean of its prior.
            for (mean, prior) in block.mean[0].iter_mut().zip(overall_mean) {
                *mean += prior;
            }
            block.rebase(overall_mean, overall_variance);
        }
        Ok(block)
    }
}

/// The effect of an agent on a task type as it would have been learned under today's prior: what its
/// outcomes say stays.
fn with_prior_of_today(effect: &Effect) -> Effect {
    let mut today = *effect;
    for copy in 0..COPIES {
        let precision =
            1.0 / effect.variance[copy] - 1.0 / OWN_TASK_THEN[copy] + 1.0 / OWN_TASK[copy];
        today.variance[copy] = 1.0 / precision.max(1.0 / OWN_TASK[copy]);
        today.mean[copy] = effect.mean[copy] / effect.variance[copy] * today.variance[copy];
    }
    today
}

/// What [`EffectsRef`] writes.
#[derive(Deserialize)]
pub(in crate::model) struct EffectsState {
    now: u64,
    weights: String,
    base: Effect,
    keys: BTreeMap<String, Key>,
    features: Vec<Effect>,
    first_task: Option<String>,
    has_tasks: bool,
    tasks: BTreeMap<String, Effect>,
    /// (place of the task type, place of the agent, effect), places by name.
    own: Vec<(u32, u32, Effect)>,
    agents: BTreeMap<String, BlockState>,
    /// From format 4 on.
    hierarchy: Option<HierarchyState>,
    combinations: Option<CombinationsState>,
}

#[derive(Serialize, Deserialize)]
struct HierarchyState {
    terms: String,
    renewed_at: u64,
}

#[derive(Serialize, Deserialize)]
struct CombinationsState {
    /// (hash, last met at, effects by place of the agent by name: (mean, variance)), in the order of the
    /// hashes.
    known: Vec<SavedCombination>,
    met_once: Vec<u32>,
}

impl Learned for Logistic {
    type State = EffectsState;

    fn save<'a>(&'a self, names: Names<'a>, weights: &'a [f64]) -> impl Serialize + 'a {
        EffectsRef { names, logistic: self, weights }
    }

    fn restore(state: EffectsState, names: Names<'_>) -> Result<(Self, Vec<f64>)> {
        let missing =
            |what: &str| Error::Corrupt(format!("an effect names {what} that is not there"));
        let now = state.now;
        let late = |effect: &Effect| effect.at > now;
        let features = state.features.len();
        let of_keys = |key: &Key| {
            key.is_sound() && key.features().all(|feature| (feature as usize) < features)
        };
        let copies = copies_of(&state.weights, 1);
        let mut weights = hex_numbers::read(&state.weights)?;
        if copies == COPIES_THEN {
            let fifth = PRIORS[COPIES - 1].weight;
            for weight in &mut weights {
                *weight *= 1.0 - fifth;
            }
            weights.push(fifth);
        }
        if !state.keys.values().all(of_keys)
            || state.features.iter().chain(state.tasks.values()).chain([&state.base]).any(late)
            || state.own.iter().any(|(.., effect)| late(effect))
        {
            return Err(Error::Corrupt("the effects do not fit together".to_owned()));
        }
        let agents = names.agents.len();
        let mut blocks: Vector<Option<Arc<Block>>> = std::iter::repeat_n(None, agents).collect();
        for (name, block) in state.agents {
            let agent = names.agents.get(&*name).ok_or_else(|| missing("an agent"))?;
            let block = block.restore(features, now, copies)?;
            blocks.set(agent.id as usize, Some(Arc::new(block)));
        }
        let mut tasks = OrdMap::new();
        for (name, effect) in state.tasks {
            if !names.tasks.contains_key(&*name) {
                return Err(missing("a task type"));
            }
            effects_of(&mut tasks, &name).shared = Some(effect);
        }
        let tasks_by_place: Vec<&str> = names.tasks.keys().map(|name| &**name).collect();
        for (place, agent, effect) in state.own {
            let name = tasks_by_place.get(place as usize).ok_or_else(|| missing("a task type"))?;
            if agent as usize >= agents {
                return Err(missing("an agent"));
            }
            let effect = if copies == COPIES_THEN { with_prior_of_today(&effect) } else { effect };
            effects_of(&mut tasks, name).own.insert(agent, effect);
        }
        let mut combinations = Combinations::default();
        if let Some(CombinationsState { known, met_once }) = state.combinations {
            let is_known = |(_, met_at, effects): &SavedCombination| {
                *met_at <= now && effects.iter().all(|(agent, ..)| (*agent as usize) < agents)
            };
            if !known.iter().all(is_known) || !combinations.restore(known, met_once) {
                return Err(Error::Corrupt(
                    "effects of whole contexts do not fit together".to_owned(),
                ));
            }
        }
        // Settled when the operator's prior is known.
        let prior = MeanPrior::new(None);
        let hierarchy = match &state.hierarchy {
            Some(HierarchyState { renewed_at, .. }) if *renewed_at > now => {
                let text = "what the agents have in common was worked out after the last outcome";
                return Err(Error::Corrupt(text.to_owned()));
            }
            Some(HierarchyState { terms, renewed_at }) => {
                Hierarchy::restore(&read_terms(terms)?, *renewed_at, prior)
            }
            None => Hierarchy::new(prior),
        };
        let is_old = state.hierarchy.is_none();
        let mut logistic = Logistic {
            now,
            base: state.base,
            keys: Keys::restore(state.keys),
            features: state.features.into_iter().collect(),
            blocks,
            tasks,
            combinations,
            hierarchy,
            first_task: state.first_task.map(Into::into),
            has_tasks: state.has_tasks,
        };
        if is_old {
            logistic.renew(names.agents);
        }
        Ok((logistic, weights))
    }
}

/// A tenant's effects, written without building them.
struct EffectsRef<'a> {
    names: Names<'a>,
    logistic: &'a Logistic,
    weights: &'a [f64],
}

impl Serialize for EffectsRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self { names, logistic, weights } = self;
        let Logistic {
            now,
            base,
            keys,
            features,
            blocks: _,
            tasks,
            combinations,
            hierarchy,
            first_task,
            has_tasks,
        } = logistic;
        let shared = || tasks.iter().filter_map(|(name, task)| Some((&**name, task.shared?)));
        let blocks = || {
            let agents = names.agents.iter();
            agents.filter_map(|(name, agent)| Some((&**name, logistic.block(agent.id)?)))
        };
        let mut state = serializer.serialize_struct("Effects", 12)?;
        state.serialize_field("now", now)?;
        state.serialize_field("weights", &hex_numbers::write(*weights))?;
        state.serialize_field("base", base)?;
        state.serialize_field(
            "keys",
            &MapRef(|| keys.by_name.iter().map(|(n, key)| (&**n, &**key))),
        )?;
        state.serialize_field("features", &Sequence(|| features.iter()))?;
        state.serialize_field("first_task", &first_task.as_deref())?;
        state.serialize_field("has_tasks", has_tasks)?;
        state.serialize_field("tasks", &MapRef(shared))?;
        state.serialize_field("own", &OwnRef(*names, tasks))?;
        state.serialize_field(
            "agents",
            &MapRef(|| blocks().map(|(name, block)| (name, BlockState::of(block)))),
        )?;
        let terms = write_terms(&hierarchy.terms);
        let renewed_at = hierarchy.renewed_at;
        state.serialize_field("hierarchy", &HierarchyState { terms, renewed_at })?;
        let places = names.agent_id_to_place();
        let (known, met_once) = combinations.save(|agent_id| places[agent_id as usize]);
        state.serialize_field("combinations", &CombinationsState { known, met_once })?;
        state.end()
    }
}

/// A list written from an iterator.
struct Sequence<F>(F);

impl<V: Serialize, I: Iterator<Item = V>, F: Fn() -> I> Serialize for Sequence<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

struct OwnRef<'a>(Names<'a>, &'a OrdMap<Arc<str>, TaskEffects>);

impl Serialize for OwnRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self(names, tasks) = self;
        let agent_id_to_place = names.agent_id_to_place();
        let count = tasks.values().map(|task| task.own.len()).sum();
        let mut rows = serializer.serialize_seq(Some(count))?;
        for (place, name) in names.tasks.keys().enumerate() {
            let Some(task) = tasks.get(name) else { continue };
            let own = task.own.iter();
            let mut row: Vec<(u32, &Effect)> =
                own.map(|(agent, effect)| (agent_id_to_place[*agent as usize], effect)).collect();
            row.sort_unstable_by_key(|(agent, _)| *agent);
            for (agent, effect) in row {
                rows.serialize_element(&(next_id(place), agent, effect))?;
            }
        }
        rows.end()
    }
}
