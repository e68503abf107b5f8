//! A map that takes little memory while it is small, and is cheap to clone when it is not.
//!
//! Most agents have been seen on few task types and with few context values, and there may be very many of
//! them: a node of a persistent tree has places for 16 entries and would be nearly empty.

use std::{fmt, mem};

use imbl::OrdMap;

/// Entries up to which they stand in one sorted list.
const FEW: usize = 4;

/// A sorted map.
#[derive(Clone)]
pub(in crate::model) enum SmallMap<K, V> {
    /// At most [`FEW`], sorted.
    Few(Vec<(K, V)>),
    /// More, or as many as have been left of more.
    Many(OrdMap<K, V>),
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl<K: Ord + Copy + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for SmallMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord + Copy, V: Clone> SmallMap<K, V> {
    pub(in crate::model) fn len(&self) -> usize {
        match self {
            Self::Few(entries) => entries.len(),
            Self::Many(map) => map.len(),
        }
    }

    pub(in crate::model) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(in crate::model) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Self::Few(entries) => entries.iter().find(|(k, _)| k == key).map(|(_, value)| value),
            Self::Many(map) => map.get(key),
        }
    }

    pub(in crate::model) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self {
            Self::Few(entries) => {
                entries.iter_mut().find(|(k, _)| k == key).map(|(_, value)| value)
            }
            Self::Many(map) => map.get_mut(key),
        }
    }

    pub(in crate::model) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The value of a key, which is made if there is none.
    pub(in crate::model) fn get_or_insert_with(
        &mut self,
        key: K,
        make: impl FnOnce() -> V,
    ) -> &mut V {
        if let Self::Few(entries) = self
            && entries.len() == FEW
            && entries.iter().all(|(k, _)| *k != key)
        {
            *self = Self::Many(mem::take(entries).into_iter().collect());
        }
        match self {
            Self::Few(entries) => {
                let place = entries.binary_search_by(|(k, _)| k.cmp(&key));
                let place = place.unwrap_or_else(|place| {
                    // Most stay as they are: no room for more than there is.
                    entries.reserve_exact(1);
                    entries.insert(place, (key, make()));
                    place
                });
                &mut entries[place].1
            }
            Self::Many(map) => map.entry(key).or_insert_with(make),
        }
    }

    /// Sets the value of a key.
    pub(in crate::model) fn insert(&mut self, key: K, value: V) {
        if let Some(known) = self.get_mut(&key) {
            *known = value;
        } else {
            self.get_or_insert_with(key, || value);
        }
    }

    pub(in crate::model) fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Self::Few(entries) => {
                let place = entries.iter().position(|(k, _)| k == key)?;
                Some(entries.remove(place).1)
            }
            Self::Many(map) => map.remove(key),
        }
    }

    pub(in crate::model) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Every entry in the order of the keys.
    pub(in crate::model) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (few, many) = match self {
            Self::Few(entries) => (Some(entries), None),
            Self::Many(map) => (None, Some(map)),
        };
        let few = few.into_iter().flatten().map(|(key, value)| (key, value));
        few.chain(many.into_iter().flatten())
    }

    /// Every value in the order of the keys.
    pub(in crate::model) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

/// Equal where the entries are.
impl<K: Ord + Copy, V: Clone + PartialEq> PartialEq for SmallMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Copy, V: Clone> FromIterator<(K, V)> for SmallMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_any_sorted_map_holds(
            steps in prop::collection::vec((0..4_u8, 0..12_u32, any::<u16>()), 0..80),
        ) {
            let mut map = SmallMap::default();
            let mut plain = BTreeMap::new();
            for (step, key, value) in steps {
                match step {
                    0 => {
                        map.insert(key, value);
                        plain.insert(key, value);
                    }
                    1 => prop_assert_eq!(map.remove(&key), plain.remove(&key)),
                    2 => {
                        let had = *map.get_or_insert_with(key, || value);
                        prop_assert_eq!(had, *plain.entry(key).or_insert(value));
                    }
                    _ => {
                        if let Some(known) = map.get_mut(&key) {
                            *known = value;
                        }
                        plain.entry(key).and_modify(|known| *known = value);
                    }
                }
                prop_assert_eq!(map.get(&key), plain.get(&key));
                prop_assert_eq!(map.contains_key(&key), plain.contains_key(&key));
                prop_assert!(map.iter().eq(plain.iter()) && map.values().eq(plain.values()));
                prop_assert_eq!((map.len(), map.is_empty()), (plain.len(), plain.is_empty()));
                prop_assert_eq!(&map, &plain.clone().into_iter().collect());
            }
            map.clear();
            prop_assert!(map.is_empty() && map.iter().next().is_none());
        }
    }
}
