//! The effects of a tenant as canonical JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::Error as _;
use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::features::{Key, Keys};
use super::logistic::{Block, COPIES, Effect, FeatureCell, Lanes, Logistic, TaskEffects};
use super::state::MapRef;
use super::{Tenant, hex_numbers, next_id};
use crate::error::{Error, Result};

fn write_lanes<'a>(lanes: impl IntoIterator<Item = &'a Lanes>) -> String {
    hex_numbers::write(lanes.into_iter().flatten())
}

fn read_lanes(text: &str) -> Result<Vec<Lanes>> {
    let numbers = hex_numbers::read(text)?;
    let (lanes, []) = numbers.as_chunks::<COPIES>() else {
        return Err(Error::Corrupt("an effect has a number of each copy".to_owned()));
    };
    Ok(lanes.to_vec())
}

impl Serialize for Effect {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        (self.at, write_lanes([&self.mean, &self.variance])).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Effect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let (at, lanes) = <(u64, String)>::deserialize(deserializer)?;
        match *read_lanes(&lanes).map_err(D::Error::custom)? {
            [mean, variance] => Ok(Self { mean, variance, at }),
            _ => Err(D::Error::custom("an effect has a mean and a variance")),
        }
    }
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

    fn restore(self, features: usize, now: u64) -> Result<Block> {
        let mean = read_lanes(&self.mean)?;
        let covariance = read_lanes(&self.covariance)?;
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
        Ok(Block {
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
        })
    }
}

/// What [`EffectsRef`] writes.
#[derive(Deserialize)]
pub(super) struct EffectsState {
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
}

/// What the effects of a tenant take of the caps.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Taken {
    pub(super) covariances: usize,
    pub(super) effects: usize,
}

impl EffectsState {
    /// Gives a restored tenant its effects back. Agent ids are places by name.
    pub(super) fn restore(self, tenant: &mut Tenant) -> Result<Taken> {
        let missing =
            |what: &str| Error::Corrupt(format!("an effect names {what} that is not there"));
        let now = self.now;
        let late = |effect: &Effect| effect.at > now;
        let features = self.features.len();
        let of_keys = |key: &Key| key.features().all(|feature| (feature as usize) < features);
        let [weights] = *read_lanes(&self.weights)? else {
            return Err(Error::Corrupt("the copies have one weight each".to_owned()));
        };
        if !self.keys.values().all(of_keys)
            || self.features.iter().chain(self.tasks.values()).chain([&self.base]).any(late)
            || self.own.iter().any(|(.., effect)| late(effect))
        {
            return Err(Error::Corrupt("the effects do not fit together".to_owned()));
        }
        let mut taken = Taken { covariances: 0, effects: features };
        for (name, block) in self.agents {
            let agent = tenant.agents.get_mut(&*name).ok_or_else(|| missing("an agent"))?;
            let block = block.restore(features, now)?;
            taken.covariances += block.covariance.len();
            taken.effects += block.cells.len();
            Arc::make_mut(agent).block = Some(Arc::new(block));
        }
        for (name, effect) in self.tasks {
            let task = tenant.tasks.get_mut(&*name).ok_or_else(|| missing("a task type"))?;
            task.effects.shared = Some(effect);
        }
        let agents = tenant.agents.len();
        let names: Vec<Arc<str>> = tenant.tasks.keys().cloned().collect();
        for (place, agent, effect) in self.own {
            let name = names.get(place as usize);
            let task = name.and_then(|name| tenant.tasks.get_mut(name));
            let task = task.ok_or_else(|| missing("a task type"))?;
            if agent as usize >= agents {
                return Err(missing("an agent"));
            }
            task.effects.own.insert(agent, effect);
        }
        tenant.logistic = Some(Logistic {
            now,
            weights,
            base: self.base,
            keys: Keys::restore(self.keys),
            features: self.features.into_iter().collect(),
            first_task: self.first_task.map(Into::into),
            has_tasks: self.has_tasks,
        });
        Ok(taken)
    }
}

/// A tenant's effects, written without building them.
pub(super) struct EffectsRef<'a>(pub(super) &'a Tenant, pub(super) &'a Logistic);

impl Serialize for EffectsRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self(tenant, logistic) = self;
        let Logistic { now, weights, base, keys, features, first_task, has_tasks } = logistic;
        let shared = |(name, effects): (&'_ Arc<str>, &TaskEffects)| {
            effects.shared.map(|effect| (name.clone(), effect))
        };
        let tasks = || tenant.tasks.iter().map(|(name, task)| (name, &task.effects));
        let blocks = || {
            let agents = tenant.agents.iter();
            agents.filter_map(|(name, agent)| Some((&**name, agent.block.as_deref()?)))
        };
        let mut state = serializer.serialize_struct("Effects", 10)?;
        state.serialize_field("now", now)?;
        state.serialize_field("weights", &write_lanes([weights]))?;
        state.serialize_field("base", base)?;
        state.serialize_field("keys", &MapRef(|| keys.0.iter().map(|(n, key)| (&**n, &**key))))?;
        state.serialize_field("features", &Sequence(|| features.iter()))?;
        state.serialize_field("first_task", &first_task.as_deref())?;
        state.serialize_field("has_tasks", has_tasks)?;
        state.serialize_field("tasks", &MapRef(|| tasks().filter_map(shared)))?;
        state.serialize_field("own", &OwnRef(tenant))?;
        state.serialize_field(
            "agents",
            &MapRef(|| blocks().map(|(name, block)| (name, BlockState::of(block)))),
        )?;
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

struct OwnRef<'a>(&'a Tenant);

impl Serialize for OwnRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let tenant = self.0;
        // Ids follow the order of arrival; places follow the names.
        let mut agent_id_to_place = vec![0; tenant.agents.len()];
        for (place, agent) in tenant.agents.values().enumerate() {
            agent_id_to_place[agent.id as usize] = next_id(place);
        }
        let count = tenant.tasks.values().map(|task| task.effects.own.len()).sum();
        let mut rows = serializer.serialize_seq(Some(count))?;
        for (place, task) in tenant.tasks.values().enumerate() {
            let own = task.effects.own.iter();
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
