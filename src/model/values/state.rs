//! What a tenant's values have taught, as canonical JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::effects::{Contexts, Effect, Effects, Key, agent_tag, tag};
use super::measure::{LATENCY_MIN_MS, Measure};
use super::records::{Cell, Own, Pool, Record, Values};
use super::window::{Entry, WINDOW, Window};
use crate::error::{Error, Result};
use crate::model::canonical::MapRef;
use crate::model::small_map::SmallMap;
use crate::stats::normal;

fn wrong() -> Error {
    Error::Corrupt("the values of agents do not fit together".to_owned())
}

/// A tenant's values, and those of its agents by name.
pub(in crate::model) type Restored = (Values, Vec<(String, Arc<Own>)>);

/// What [`RecordsRef`] writes.
#[derive(Deserialize)]
pub(in crate::model) struct RecordsState {
    now: u64,
    evicted: u64,
    keys: BTreeMap<u64, Key>,
    effects: BTreeMap<u64, Effect>,
    pools: [Option<Arc<Pool>>; 3],
    agents: BTreeMap<String, OwnState>,
}

#[derive(Deserialize)]
struct OwnState {
    records: [Record; 3],
    cells: BTreeMap<u64, Cell>,
    effects: BTreeMap<u64, Effect>,
}

impl RecordsState {
    /// The values of a tenant, and of its agents by name.
    pub(in crate::model) fn restore(self) -> Result<Restored> {
        let effects = |effects: BTreeMap<u64, Effect>| {
            let sound = effects.values().all(Effect::is_sound);
            if sound { Ok(effects.into_iter().collect::<Effects>()) } else { Err(wrong()) }
        };
        let keys: SmallMap<u64, Arc<Key>> =
            self.keys.into_iter().map(|(id, key)| (id, Arc::new(key))).collect();
        let mut values = Values {
            now: self.now,
            evicted: self.evicted,
            contexts: Contexts::restore(keys, effects(self.effects)?),
            pools: self.pools,
            own_bytes: 0,
            cells: 0,
        };
        let mut owns = Vec::with_capacity(self.agents.len());
        for (name, OwnState { records, cells, effects: beside }) in self.agents {
            let cells: SmallMap<u64, Arc<Cell>> =
                cells.into_iter().map(|(task, cell)| (task, Arc::new(cell))).collect();
            let cell_bytes = cells.values().map(|cell| cell.bytes()).sum();
            values.cells += cells.len();
            let own = Own { records, cells, effects: effects(beside)?, cell_bytes };
            values.own_bytes += own.bytes();
            owns.push((name, Arc::new(own)));
        }
        Ok((values, owns))
    }
}

impl Serialize for Own {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self { records, cells, effects, cell_bytes: _ } = self;
        let mut state = serializer.serialize_struct("Own", 3)?;
        state.serialize_field("records", records)?;
        state.serialize_field("cells", &MapRef(|| cells.iter().map(|(id, cell)| (id, &**cell))))?;
        state.serialize_field("effects", &MapRef(|| effects.iter()))?;
        state.end()
    }
}

/// A tenant's values and those of its agents by name, written without building them.
pub(in crate::model) struct RecordsRef<'a, F>(
    pub(in crate::model) &'a Values,
    pub(in crate::model) F,
);

impl<'a, I, F> Serialize for RecordsRef<'_, F>
where
    I: Iterator<Item = (&'a str, &'a Own)>,
    F: Fn() -> I,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self(values, agents) = self;
        let Values { now, contexts, pools, own_bytes: _, cells: _, evicted } = values;
        let keys = || contexts.keys.iter().map(|(id, key)| (id, &**key));
        let mut state = serializer.serialize_struct("Values", 6)?;
        state.serialize_field("now", now)?;
        state.serialize_field("evicted", evicted)?;
        state.serialize_field("keys", &MapRef(keys))?;
        state.serialize_field("effects", &MapRef(|| contexts.effects.iter()))?;
        state.serialize_field("pools", pools)?;
        state.serialize_field("agents", &MapRef(agents))?;
        state.end()
    }
}

/// The sums of regressions by which values were predicted before: what of them windows can be begun with.
#[derive(Deserialize)]
pub(in crate::model) struct SumsState {
    keys: BTreeMap<String, OldKey>,
    /// By feature.
    rows: Vec<u8>,
    agents: BTreeMap<String, [Option<OldOwn>; 3]>,
}

#[derive(Deserialize)]
struct OldKey {
    /// (fingerprint, feature)
    values: Vec<(u64, u32)>,
}

#[derive(Deserialize)]
struct OldOwn {
    groups: Vec<OldGroup>,
}

/// Values of an agent on one task type, latencies as logarithms.
#[derive(Deserialize)]
struct OldGroup {
    row: u8,
    samples: u64,
    weight: f64,
    mean: f64,
    squares: f64,
    /// The first of them.
    held: Vec<(f64, serde::de::IgnoredAny)>,
}

/// Values that stand for moments.
const STAND_INS: u32 = 31;

impl OldGroup {
    /// Values with these moments, as many as there were and at most [`STAND_INS`].
    fn values(&self, measure: Measure) -> Vec<f64> {
        let scaled: Vec<f64> = if self.weight > 0.0 {
            let deviation = (self.squares / self.weight).max(0.0).sqrt();
            let count = self.samples.clamp(1, STAND_INS.into());
            let count = u32::try_from(count).unwrap_or(STAND_INS);
            let place = |index: u32| (f64::from(index) + 0.5) / f64::from(count);
            (0..count).map(|i| self.mean + deviation * normal::quantile(place(i))).collect()
        } else {
            self.held.iter().map(|(y, _)| *y).collect()
        };
        let unscaled = |y: f64| match measure {
            Measure::Quality => y.clamp(0.0, 1.0),
            Measure::Latency => y.exp().clamp(LATENCY_MIN_MS, 1e12),
            Measure::Cost => y.clamp(0.0, 1e12),
        };
        scaled.into_iter().filter(|y| y.is_finite()).map(unscaled).collect()
    }
}

impl SumsState {
    /// Windows with the moments that the values had; effects of the context are learned anew.
    pub(in crate::model) fn restore(self) -> Result<Restored> {
        // The row of a task type's feature tells its fingerprint.
        let mut row_to_task = BTreeMap::new();
        for (print, feature) in self.keys.get("").into_iter().flat_map(|key| &key.values) {
            let row = self.rows.get(*feature as usize).copied().ok_or_else(wrong)?;
            row_to_task.insert(row, (*print).max(1));
        }
        row_to_task.remove(&0);
        let mut values = Values::default();
        let mut owns = Vec::with_capacity(self.agents.len());
        for (name, measures) in self.agents {
            let mut own = Own::default();
            for (measure, old) in Measure::ALL.into_iter().zip(measures) {
                let Some(old) = old else { continue };
                let at = measure as usize;
                let pool = Arc::make_mut(values.pools[at].get_or_insert_default());
                for group in &old.groups {
                    let seen = group.values(measure);
                    let task = row_to_task.get(&group.row).copied();
                    if let (Some(task), false) = (task, seen.is_empty()) {
                        let entry = |value| Entry { value, offset: 0.0, tag: 0 };
                        let window = Window::from_entries(seen.iter().copied().map(entry));
                        let record = Record { count: group.samples, window, ..Record::default() };
                        values.now += 1;
                        let cell = Arc::make_mut(own.cells.get_or_insert_with(task, Arc::default));
                        cell.used = values.now;
                        cell.records[at] = Some(Box::new(record));
                    }
                    let record = &mut own.records[at];
                    record.count += group.samples;
                    for value in seen {
                        let tag = task.map_or(0, tag);
                        record.window.push(Entry { value, offset: 0.0, tag }, WINDOW, true);
                        let tag = agent_tag(&name);
                        pool.record.window.push(Entry { value, offset: 0.0, tag }, WINDOW, true);
                        pool.record.count += 1;
                    }
                }
            }
            values.cells += own.cells.len();
            own.cell_bytes = own.cells.values().map(|cell| cell.bytes()).sum();
            values.own_bytes += own.bytes();
            owns.push((name, Arc::new(own)));
        }
        Ok((values, owns))
    }
}
