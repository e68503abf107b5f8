//! What a whole context does to an agent: an effect per (agent, combination of context values), for
//! patterns that no sum of features shows (success exactly where one of two things holds).
//!
//! Only one copy of the model has it. A combination gets its place when it is met for the second time,
//! so that contexts that never come again take none, and the one that was not met for longest gives way
//! when there are too many.

use std::sync::Arc;

use imbl::OrdMap;

use super::copies::COMBINING;
use super::effect::{Step, Sum};
use crate::model::families::family::Room;
use crate::model::features::Active;

/// Prior variance of an effect; its mean is 0.
pub(super) const PRIOR: f64 = 1.0;
/// Combinations kept per tenant.
const COMBINATIONS_MAX: usize = 4_096;
/// Places of the filter that knows what was met once.
const MET_ONCE: usize = 1_024;

/// An independent Gaussian effect of one copy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CellEffect {
    pub(super) mean: f64,
    pub(super) variance: f64,
}

impl CellEffect {
    pub(super) const UNKNOWN: Self = Self { mean: 0.0, variance: PRIOR };
}

/// The effects of one combination.
#[derive(Debug, Clone, Default, PartialEq)]
struct Combination {
    /// Outcomes the tenant had learned when it was last met.
    met_at: u64,
    /// By agent id.
    effects: OrdMap<u32, CellEffect>,
}

/// A combination as it is saved: hash, when it was last met, and by place of the agent mean and variance.
pub(super) type SavedCombination = (u64, u64, Vec<(u32, f64, f64)>);

/// Every combination of a tenant that has a place.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Combinations {
    by_hash: OrdMap<u64, Combination>,
    /// By when they were last met: an outcome meets one at most.
    oldest_first: OrdMap<u64, u64>,
    /// The high bits of the last hash that was met for the first time, by its low bits.
    met_once: Arc<Vec<u32>>,
}

impl Combinations {
    /// The effect of a combination on an agent, if it has one.
    fn known(&self, hash: u64, agent_id: u32) -> Option<CellEffect> {
        self.by_hash.get(&hash)?.effects.get(&agent_id).copied()
    }

    /// Every combination in the order of its hash, with the place of each agent, and the filter.
    pub(super) fn save(&self, place: impl Fn(u32) -> u32) -> (Vec<SavedCombination>, Vec<u32>) {
        let saved = self.by_hash.iter().map(|(hash, combination)| {
            let effects = combination.effects.iter();
            let mut effects: Vec<(u32, f64, f64)> =
                effects.map(|(id, effect)| (place(*id), effect.mean, effect.variance)).collect();
            effects.sort_unstable_by_key(|(place, ..)| *place);
            (*hash, combination.met_at, effects)
        });
        (saved.collect(), self.met_once.to_vec())
    }

    /// The other way round, where agent ids are places. Returns whether the parts fit together.
    pub(super) fn restore(&mut self, saved: Vec<SavedCombination>, met_once: Vec<u32>) -> bool {
        let is_sound = saved.len() <= COMBINATIONS_MAX
            && [0, MET_ONCE].contains(&met_once.len())
            && saved.iter().flat_map(|(.., effects)| effects).all(|(_, mean, variance)| {
                mean.is_finite() && variance.is_finite() && *variance > 0.0
            });
        let count = saved.len();
        for (hash, met_at, effects) in saved {
            let effect = |(id, mean, variance)| (id, CellEffect { mean, variance });
            let effects = effects.into_iter().map(effect).collect();
            self.by_hash.insert(hash, Combination { met_at, effects });
            self.oldest_first.insert(met_at, hash);
        }
        self.met_once = Arc::new(met_once);
        is_sound && self.by_hash.len() == count && self.oldest_first.len() == count
    }

    /// Effects of all agents together.
    pub(super) fn effects(&self) -> usize {
        self.by_hash.values().map(|combination| combination.effects.len()).sum()
    }

    /// A combination is met. Returns whether it has a place, and how many effects gave way to it.
    fn meet(&mut self, hash: u64, now: u64) -> (bool, usize) {
        let mut gone = 0;
        if let Some(known) = self.by_hash.get_mut(&hash) {
            self.oldest_first.remove(&known.met_at);
            known.met_at = now;
        } else if self.is_met_again(hash) {
            if self.by_hash.len() >= COMBINATIONS_MAX
                && let Some((_, oldest)) = self.oldest_first.remove_with_key(&self.oldest())
            {
                gone = self.by_hash.remove(&oldest).map_or(0, |gone| gone.effects.len());
            }
            self.by_hash.insert(hash, Combination { met_at: now, effects: OrdMap::new() });
        } else {
            return (false, 0);
        }
        self.oldest_first.insert(now, hash);
        (true, gone)
    }

    fn oldest(&self) -> u64 {
        self.oldest_first.get_min().map_or(0, |(met_at, _)| *met_at)
    }

    /// Whether the hash was met before; remembers it.
    fn is_met_again(&mut self, hash: u64) -> bool {
        let met_once = Arc::make_mut(&mut self.met_once);
        if met_once.is_empty() {
            met_once.resize(MET_ONCE, 0);
        }
        #[expect(clippy::cast_possible_truncation, reason = "low and high bits are meant")]
        let (place, print) = (hash as usize % MET_ONCE, (hash >> 32) as u32);
        std::mem::replace(&mut met_once[place], print) == print
    }

    /// Whether there are effects on an agent.
    pub(super) fn has(&self, agent_id: u32) -> bool {
        self.by_hash.values().any(|combination| combination.effects.contains_key(&agent_id))
    }

    /// Forgets the effects on an agent. Returns how many that were.
    pub(super) fn forget(&mut self, agent_id: u32) -> usize {
        let with: Vec<u64> = self
            .by_hash
            .iter()
            .filter(|(_, combination)| combination.effects.contains_key(&agent_id))
            .map(|(hash, _)| *hash)
            .collect();
        for hash in &with {
            let combination = self.by_hash.get_mut(hash);
            combination.map(|combination| combination.effects.remove(&agent_id));
        }
        with.len()
    }

    /// Adds what is believed of an agent's effect to a sum of effects.
    pub(super) fn add_to(&self, sum: &mut Sum, hash: u64, agent_id: Option<u32>) {
        let known = agent_id.and_then(|agent_id| self.known(hash, agent_id));
        let CellEffect { mean, variance } = known.unwrap_or(CellEffect::UNKNOWN);
        sum.mean[COMBINING] += mean;
        sum.variance[COMBINING] += variance;
    }

    /// The hash of the combination of an outcome if it has a place, and so an effect.
    pub(super) fn place_of(&mut self, active: &Active, now: u64, room: &mut Room) -> Option<u64> {
        let hash = active.combination?;
        let (has_place, gone) = self.meet(hash, now);
        room.effects -= gone;
        has_place.then_some(hash)
    }

    /// Learns an agent's effect of a combination that has a place.
    pub(super) fn learn(&mut self, hash: u64, agent_id: u32, step: &Step, room: &mut Room) {
        let known = self.known(hash, agent_id);
        if known.is_none() {
            if room.effects >= room.effects_max {
                room.refused += 1;
                return;
            }
            room.effects += 1;
        }
        let mut effect = known.unwrap_or(CellEffect::UNKNOWN);
        let gain = effect.variance;
        effect.mean += gain * step.error[COMBINING];
        effect.variance -= step.shrink[COMBINING] * gain * gain;
        self.set(hash, agent_id, effect);
    }

    /// Sets an agent's effect of a combination that has a place.
    fn set(&mut self, hash: u64, agent_id: u32, effect: CellEffect) {
        if let Some(combination) = self.by_hash.get_mut(&hash) {
            combination.effects.insert(agent_id, effect);
        }
    }
}
