//! What a tenant's values have taught, as canonical JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::Error as _;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Tenant;
use super::features::{Key, Keys};
use super::state::MapRef;
use super::sums::{ROWS_MAX, Row, Sums};
use super::values::{Group, Own, Pool, Spread, Values};
use crate::error::{Error, Result};

/// What [`ValuesRef`] writes.
#[derive(Deserialize)]
pub(super) struct ValuesState {
    keys: BTreeMap<String, Key>,
    rows: Vec<u8>,
    row_keys: Vec<Arc<str>>,
    pools: [Option<Arc<Pool>>; 3],
    agents: BTreeMap<String, [Option<Arc<Own>>; 3]>,
}

impl ValuesState {
    /// Gives a restored tenant its values back. Returns how many numbers they take.
    pub(super) fn restore(self, tenant: &mut Tenant) -> Result<usize> {
        let rows = self.row_keys.len() + 1;
        let is_row = |row: &u8| usize::from(*row) < rows;
        let mut given: Vec<u8> = self.rows.iter().copied().filter(|row| *row > 0).collect();
        given.sort_unstable();
        let own = || self.agents.values().flatten().flatten();
        let pools = || self.pools.iter().flatten();
        let features = self.rows.len();
        if rows > ROWS_MAX
            || !self.rows.iter().all(is_row)
            || !given.is_sorted_by(|a, b| a < b)
            || !self.keys.values().flat_map(Key::features).all(|id| (id as usize) < features)
            || !pools().map(|pool| &pool.sums).all(|sums| sums.is_sound(rows))
            || !own().all(|own| own.is_sound(rows))
        {
            return Err(Error::Corrupt("the sums of values do not fit together".to_owned()));
        }
        let numbers = pools().map(|pool| pool.sums.numbers()).sum::<usize>()
            + own().map(|own| own.sums.numbers()).sum::<usize>();
        for (name, own) in self.agents {
            let Some(agent) = tenant.agents.get_mut(&*name) else {
                let text = "values are of an agent that is not there".to_owned();
                return Err(Error::Corrupt(text));
            };
            Arc::make_mut(agent).values = own;
        }
        tenant.values = Values {
            keys: Keys::restore(self.keys),
            rows: self.rows,
            row_keys: self.row_keys,
            pools: self.pools,
        };
        Ok(numbers)
    }
}

/// [`Own`], where each group has the values that are held of it.
#[derive(Serialize, Deserialize)]
struct OwnState<S, G> {
    sums: S,
    groups: Vec<GroupState<G>>,
}

#[derive(Serialize, Deserialize)]
struct GroupState<H> {
    row: u8,
    samples: u64,
    weight: f64,
    mean: f64,
    squares: f64,
    spread: Spread,
    held: Vec<(f64, H)>,
}

impl Serialize for Own {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let group = |group: &Group| {
            let Group { row, samples, weight, mean, squares, spread } = *group;
            let held = self.held.of(row).collect();
            GroupState { row, samples, weight, mean, squares, spread, held }
        };
        let groups = self.groups.iter().map(group).collect();
        OwnState { sums: &self.sums, groups }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Own {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let OwnState { sums, groups } = OwnState::<Sums, Vec<Row>>::deserialize(deserializer)?;
        let mut own = Self { sums, ..Self::default() };
        for GroupState { row, samples, weight, mean, squares, spread, held } in groups {
            own.groups.push(Group { row, samples, weight, mean, squares, spread });
            for (y, rows) in held {
                if rows.len() > ROWS_MAX {
                    return Err(D::Error::custom("a value has more rows than there are"));
                }
                own.held.push(row, y, &rows);
            }
        }
        // Older files have them as they came.
        own.groups.sort_unstable_by_key(|group| group.row);
        Ok(own)
    }
}

/// A tenant's values, written without building them.
pub(super) struct ValuesRef<'a>(pub(super) &'a Tenant);

impl Serialize for ValuesRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Values { keys, rows, row_keys, pools } = &self.0.values;
        let agents = || {
            let agents = self.0.agents.iter().map(|(name, agent)| (&**name, &agent.values));
            agents.filter(|(_, own)| own.iter().any(Option::is_some))
        };
        let mut state = serializer.serialize_struct("Values", 5)?;
        state.serialize_field("keys", &MapRef(|| keys.0.iter().map(|(n, key)| (&**n, &**key))))?;
        state.serialize_field("rows", rows)?;
        state.serialize_field("row_keys", row_keys)?;
        state.serialize_field("pools", pools)?;
        state.serialize_field("agents", &MapRef(agents))?;
        state.end()
    }
}
