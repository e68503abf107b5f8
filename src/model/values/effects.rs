//! What the context of a task adds to a measure: an effect per text, boolean and numeric key, of the whole
//! tenant and of each agent beside it.
//!
//! Effects are learned from how a value differs from the others *of the same agent on the same task type*,
//! so that they never take the place of these. Each is a Gaussian of its own, moved by its share of the
//! surprise (a Kalman filter without covariances, whose variances have a floor, so that older values
//! fade). A number takes part by the Gaussian quantile of its rank among the last ones: no outlier and no
//! scale matters to it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::window::{ENTRY_BYTES, Entry, Growth, Window};
use crate::model::small_map::SmallMap;
use crate::outcome::Feature;
use crate::stats::normal;

/// Context keys of a tenant that are told apart, and features; then those of an agent.
const KEYS_MAX: usize = 256;
const EFFECTS_MAX: usize = 2_048;
const OWN_EFFECTS_MAX: usize = 64;
/// The last numbers of a key by which a number is ranked.
const NUMBERS_MAX: usize = 128;
/// Deviations to which a rank is clipped.
const CLIP: f64 = 2.5;
/// Values that what is usual of a key goes back.
const USUAL_MEMORY: f64 = 512.0;

/// Prior variance of an effect as a share of that of the noise: of the tenant, of the agent beside it, of
/// the task type, and the least that is left of it.
const TENANT_SHARE: f64 = 0.5;
const OWN_SHARE: f64 = 0.1;
const TASK_SHARE: f64 = 1.0;
const LEAST_SHARE: f64 = 1e-3;

/// Memory of one effect.
pub(super) const EFFECT_BYTES: usize = size_of::<u64>() + size_of::<Effect>();

/// The effect of a feature on each measure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::model) struct Effect {
    mean: [f64; 3],
    /// 0 while nothing was learned of it.
    variance: [f64; 3],
    /// When it was met last, as the tenant counts.
    used: u64,
}

/// Effects by the id of their feature.
pub(in crate::model) type Effects = SmallMap<u64, Effect>;

/// What has been seen of one context key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::model) struct Key {
    /// When it was met first and last, as the tenant counts, and how often.
    since: u64,
    used: u64,
    count: u64,
    /// The last numbers.
    numbers: Window,
    /// Mean effect of what came under it, by measure.
    usual: [f64; 3],
}

/// A feature of an outcome or a question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Active {
    pub(super) key: u64,
    pub(super) id: u64,
    pub(super) x: f64,
}

/// The key under which the task type stands: no key of an event is empty.
const TASK_KEY: u64 = fingerprint(&[]);

/// FNV-1a, 64 bits (draft-eastlake-fnv): part of the saved state, so it must never change.
const fn fingerprint(bytes: &[u8]) -> u64 {
    continued(0xcbf2_9ce4_8422_2325, bytes)
}

const fn continued(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut place = 0;
    while place < bytes.len() {
        hash = (hash ^ bytes[place] as u64).wrapping_mul(0x0100_0000_01b3);
        place += 1;
    }
    hash
}

/// A task type's id, not 0: that of its text, as in the states of before.
pub(super) fn task_id(task_type: &str) -> u64 {
    fingerprint(task_type.as_bytes()).max(1)
}

/// What values of an agent are told by among the tenant's, and those of a task type among the agent's.
#[expect(clippy::cast_possible_truncation, reason = "that is the point")]
pub(super) fn tag(id: u64) -> u32 {
    ((id ^ (id >> 32)) as u32).max(1)
}

/// See [`tag`].
pub(super) fn agent_tag(name: &str) -> u32 {
    tag(fingerprint(name.as_bytes()))
}

fn key_id(name: &str) -> u64 {
    fingerprint(name.as_bytes())
}

pub(super) fn task_feature(id: u64) -> Active {
    Active { key: TASK_KEY, id: continued(TASK_KEY, &id.to_le_bytes()), x: 1.0 }
}

/// The id of a text or boolean; `None` for a number.
fn value_id(key: u64, value: &Feature) -> Option<u64> {
    let key = continued(key, b"\x00");
    match value {
        Feature::Text(text) => Some(continued(continued(key, b"t"), text.as_bytes())),
        Feature::Bool(yes) => Some(continued(key, if *yes { b"1" } else { b"0" })),
        Feature::Number(_) => None,
    }
}

/// How many there may be of what has no more than `max`: where nothing may grow, as many as there are.
fn places(taken: usize, max: usize, may_grow: bool) -> usize {
    if may_grow { max } else { taken.clamp(1, max) }
}

/// Makes room: the eighth of a full map that was not used for longest gives way.
fn give_way<V: Clone>(map: &mut SmallMap<u64, V>, max: usize, used: impl Fn(&V) -> u64) {
    if map.len() < max {
        return;
    }
    let mut oldest: Vec<(u64, u64)> = map.iter().map(|(id, value)| (used(value), *id)).collect();
    let count = (max / 8).max(1);
    oldest.select_nth_unstable(count - 1);
    for (_, id) in &oldest[..count] {
        map.remove(id);
    }
}

impl Key {
    /// The rank of a number as a Gaussian deviation; 0 while all were alike.
    #[expect(clippy::cast_precision_loss, reason = "numbers are few")]
    fn place(&self, number: f64) -> f64 {
        let (mut below, mut up_to) = (0_usize, 0_usize);
        for seen in self.numbers.unordered() {
            below += usize::from(*seen < number);
            up_to += usize::from(*seen <= number);
        }
        if below == 0 && up_to == self.numbers.len() {
            return 0.0;
        }
        let rank = 0.5 * (below + up_to) as f64 + 0.5;
        normal::quantile(rank / (self.numbers.len() + 1) as f64).clamp(-CLIP, CLIP)
    }

    /// Whether most outcomes have come with it.
    fn is_usual(&self, now: u64) -> bool {
        2 * self.count > now.saturating_sub(self.since)
    }
}

/// A tenant's context keys and the effects of what came under them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::model) struct Contexts {
    pub(super) keys: SmallMap<u64, Arc<Key>>,
    pub(super) effects: Effects,
    /// Held by the keys.
    numbers: usize,
}

impl Contexts {
    pub(super) fn restore(keys: SmallMap<u64, Arc<Key>>, effects: Effects) -> Self {
        let numbers = keys.values().map(|key| key.numbers.len()).sum();
        Self { keys, effects, numbers }
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys.len() * size_of::<Key>()
            + self.numbers * ENTRY_BYTES
            + self.effects.len() * EFFECT_BYTES
    }

    /// What is known of the context of an outcome, the `now`-th, and of its task type. One that is new
    /// gets a place of its own only as [`Growth`] allows.
    pub(super) fn observe(
        &mut self,
        own: &Effects,
        context: &[(String, Feature)],
        task: Option<u64>,
        now: u64,
        growth: Growth,
    ) -> Learning {
        let mut slots = Vec::with_capacity(context.len() + 1);
        for (name, value) in context {
            let id = key_id(name);
            let key = self.met(id, now, growth);
            let (x, more) = match value {
                Feature::Number(number) => {
                    let entry = Entry { value: *number, offset: 0.0, tag: 0 };
                    let more = key.numbers.push(entry, NUMBERS_MAX, true) / ENTRY_BYTES;
                    (key.place(*number), more)
                }
                _ => (1.0, 0),
            };
            let active = Active { key: id, id: value_id(id, value).unwrap_or(id), x };
            let mut slot = Slot::new(active, key);
            self.numbers += more;
            slot.tenant = self.effects.get(&active.id).copied().unwrap_or_default();
            slot.own = own.get(&active.id).copied();
            if growth.values {
                slot.own.get_or_insert_default();
            }
            slots.push(slot);
        }
        if let Some(task) = task {
            let active = task_feature(task);
            let mut slot = Slot::new(active, self.met(TASK_KEY, now, growth));
            slot.tenant = self.effects.get(&active.id).copied().unwrap_or_default();
            slots.push(slot);
        }
        Learning { slots }
    }

    /// Keeps what was learned from the `now`-th outcome.
    pub(super) fn keep(&mut self, learned: Learning, own: &mut Effects, now: u64, growth: Growth) {
        for Slot { active, mut tenant, own: beside, usual, is_learned, .. } in learned.slots {
            if !is_learned {
                continue;
            }
            tenant.used = now;
            let max = places(self.effects.len(), EFFECTS_MAX, growth.contexts);
            set(&mut self.effects, max, active.id, tenant);
            if let Some(mut beside) = beside {
                beside.used = now;
                set(own, OWN_EFFECTS_MAX, active.id, beside);
            }
            if let Some(key) = self.keys.get_mut(&active.key) {
                Arc::make_mut(key).usual = usual;
            }
        }
    }

    fn met(&mut self, id: u64, now: u64, growth: Growth) -> &mut Key {
        let max = places(self.keys.len(), KEYS_MAX, growth.contexts);
        if self.keys.len() >= max && !self.keys.contains_key(&id) {
            give_way(&mut self.keys, max, |key| key.used);
            self.numbers = self.keys.values().map(|key| key.numbers.len()).sum();
        }
        let key =
            self.keys.get_or_insert_with(id, || Arc::new(Key { since: now, ..Key::default() }));
        let key = Arc::make_mut(key);
        key.used = now;
        key.count += 1;
        key
    }

    /// The features of a question.
    pub(super) fn active(&self, context: &[(String, Feature)], task: Option<u64>) -> Vec<Active> {
        let context = context.iter().map(|(name, value)| {
            let key = key_id(name);
            let x = match value {
                Feature::Number(number) => {
                    self.keys.get(&key).map_or(0.0, |key| key.place(*number))
                }
                _ => 1.0,
            };
            Active { key, id: value_id(key, value).unwrap_or(key), x }
        });
        context.chain(task.map(task_feature)).collect()
    }

    /// What a question's features are believed to add to a measure, where it says all that outcomes
    /// usually come with and all of that is known; and in any case how much more it is than usual.
    pub(super) fn asked(
        &self,
        active: &[Active],
        own: Option<&Effects>,
        measure: usize,
        now: u64,
        with_task: bool,
    ) -> Asked {
        let mut asked = Asked::default();
        let mut sum = 0.0;
        let mut all_known = true;
        for feature in active.iter().filter(|feature| with_task || feature.key != TASK_KEY) {
            let known =
                self.effects.get(&feature.id).filter(|effect| effect.variance[measure] > 0.0);
            let own = own.and_then(|own| own.get(&feature.id)).map_or(0.0, |own| own.mean[measure]);
            let Some(effect) = known else {
                all_known &= feature.x == 0.0;
                continue;
            };
            let part = (effect.mean[measure] + own) * feature.x;
            let usual = self.keys.get(&feature.key).map_or(0.0, |key| key.usual[measure]);
            sum += part;
            asked.more_than_usual += part - usual;
        }
        let said = |id: &u64| active.iter().any(|feature| feature.key == *id);
        let all_said = self
            .keys
            .iter()
            .filter(|(id, key)| (with_task || **id != TASK_KEY) && key.is_usual(now))
            .all(|(id, _)| said(id));
        asked.exactly = (all_said && all_known).then_some(sum);
        asked
    }
}

/// What a question's context adds, see [`Contexts::asked`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    pub(super) exactly: Option<f64>,
    pub(super) more_than_usual: f64,
}

/// A feature of an outcome while it is learned.
struct Slot {
    active: Active,
    tenant: Effect,
    /// `None` where there is none, and must not be one.
    own: Option<Effect>,
    /// Outcomes under the key, as far back as [`USUAL_MEMORY`].
    count: f64,
    usual: [f64; 3],
    is_learned: bool,
}

impl Slot {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn new(active: Active, key: &Key) -> Self {
        let count = (key.count as f64).min(USUAL_MEMORY);
        let (tenant, usual) = (Effect::default(), key.usual);
        Self { active, tenant, own: None, count, usual, is_learned: false }
    }

    fn learned(&mut self, measure: usize) {
        self.is_learned = true;
        let part = self.tenant.mean[measure] * self.active.x;
        self.usual[measure] += (part - self.usual[measure]) / self.count;
    }
}

/// What is known of the features of an outcome while it is learned.
pub(super) struct Learning {
    slots: Vec<Slot>,
}

impl Learning {
    /// What the context adds to a measure by the tenant's effects, by the agent's own, and what the task
    /// type adds.
    pub(super) fn offsets(&self, measure: usize) -> [f64; 3] {
        let mut offsets = [0.0; 3];
        for Slot { active, tenant, own, .. } in &self.slots {
            let part = tenant.mean[measure] * active.x;
            if active.key == TASK_KEY {
                offsets[2] += part;
            } else {
                offsets[0] += part;
                offsets[1] += own.map_or(0.0, |own| own.mean[measure] * active.x);
            }
        }
        offsets
    }

    /// Learns that the value was more than the others of its agent and task type by `surprise` beside
    /// what was expected, with this variance of the noise.
    pub(super) fn context(&mut self, measure: usize, surprise: f64, noise: f64) {
        let of_context = |slot: &&mut Slot| slot.active.key != TASK_KEY && slot.active.x != 0.0;
        let mut all = noise;
        for Slot { active, tenant, own, .. } in self.slots.iter_mut().filter(of_context) {
            let own = own.as_ref().map_or(0.0, |own| own.spread(measure, OWN_SHARE * noise));
            let tenant = tenant.spread(measure, TENANT_SHARE * noise);
            all += active.x * active.x * (tenant + own);
        }
        for slot in self.slots.iter_mut().filter(of_context) {
            let x = slot.active.x;
            slot.tenant.learn(measure, x, surprise, all, TENANT_SHARE * noise, noise);
            if let Some(own) = &mut slot.own {
                own.learn(measure, x, surprise, all, OWN_SHARE * noise, noise);
            }
            slot.learned(measure);
        }
    }

    /// Learns that the value was more than the agent's others on all task types by `surprise`.
    pub(super) fn task(&mut self, measure: usize, surprise: f64, noise: f64) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.active.key == TASK_KEY) {
            let prior = TASK_SHARE * noise;
            let all = noise + slot.tenant.spread(measure, prior);
            slot.tenant.learn(measure, 1.0, surprise, all, prior, noise);
            slot.learned(measure);
        }
    }
}

/// Sets an effect; where there are `max`, older ones give way to a new one.
fn set(effects: &mut Effects, max: usize, id: u64, effect: Effect) {
    if let Some(known) = effects.get_mut(&id) {
        *known = effect;
        return;
    }
    give_way(effects, max, |effect| effect.used);
    effects.insert(id, effect);
}

impl Effect {
    /// Its variance, where nothing was learned the prior one.
    fn spread(&self, measure: usize, prior: f64) -> f64 {
        let variance = self.variance[measure];
        if variance > 0.0 { variance } else { prior }
    }

    fn learn(&mut self, measure: usize, x: f64, surprise: f64, all: f64, prior: f64, noise: f64) {
        let variance = self.spread(measure, prior);
        self.mean[measure] += variance * x / all * surprise;
        let rest = variance - (variance * x).powi(2) / all;
        self.variance[measure] = rest.max(LEAST_SHARE * noise);
    }

    /// Whether a saved one can be one.
    pub(super) fn is_sound(&self) -> bool {
        self.mean.iter().all(|mean| mean.is_finite())
            && self.variance.iter().all(|variance| variance.is_finite() && *variance >= 0.0)
    }
}
