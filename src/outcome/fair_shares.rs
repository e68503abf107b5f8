//! Fair shares of what is bounded: what is full takes from the tenant that holds most.
//!
//! So a tenant that holds less than an even share never loses anything to another one, and one that
//! is alone has it all. Pure bookkeeping: what is held is elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How much there is of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// How many.
    pub(crate) count: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// What each tenant holds of something that is bounded by count and by bytes.
#[derive(Debug)]
pub(crate) struct Shares {
    max: Held,
    total: Held,
    tenant_to_held: BTreeMap<Arc<str>, Held>,
    /// By the part of both bounds together.
    ranked: BTreeSet<(u128, Arc<str>)>,
}

impl Shares {
    /// Nothing is held yet.
    pub(crate) fn new(max: Held) -> Self {
        Self {
            max,
            total: Held::default(),
            tenant_to_held: BTreeMap::new(),
            ranked: BTreeSet::new(),
        }
    }

    /// What all hold.
    pub(crate) fn total(&self) -> Held {
        self.total
    }

    /// What one holds.
    pub(crate) fn of(&self, tenant: &str) -> Held {
        self.tenant_to_held.get(tenant).copied().unwrap_or_default()
    }

    /// How many hold something.
    pub(crate) fn len(&self) -> usize {
        self.tenant_to_held.len()
    }

    /// More is held than may be.
    pub(crate) fn is_over(&self) -> bool {
        self.total.count > self.max.count || self.total.bytes > self.max.bytes
    }

    /// Who holds most; of equals one by name. `None` when nothing is held.
    pub(crate) fn most(&self) -> Option<&Arc<str>> {
        self.ranked.last().map(|(_, tenant)| tenant)
    }

    /// Whether this one would still hold at least as much as any other, with `taken` less.
    pub(crate) fn is_most_without(&self, tenant: &str, taken: Held) -> bool {
        let held = self.of(tenant);
        let left = Held {
            count: held.count.saturating_sub(taken.count),
            bytes: held.bytes.saturating_sub(taken.bytes),
        };
        let others = self.ranked.iter().rev().find(|(_, other)| **other != *tenant);
        others.is_none_or(|(weight, _)| self.weight(left) >= *weight)
    }

    /// Whether more is held than may be, also with `taken` less.
    pub(crate) fn is_over_without(&self, taken: Held) -> bool {
        self.total.count > self.max.count.saturating_add(taken.count)
            || self.total.bytes > self.max.bytes.saturating_add(taken.bytes)
    }

    /// A tenant holds more.
    pub(crate) fn add(&mut self, tenant: &str, more: Held) {
        self.total.count += more.count;
        self.total.bytes += more.bytes;
        self.change(tenant, |held| {
            held.count += more.count;
            held.bytes += more.bytes;
        });
    }

    /// A tenant holds less.
    pub(crate) fn remove(&mut self, tenant: &str, less: Held) {
        self.total.count = self.total.count.saturating_sub(less.count);
        self.total.bytes = self.total.bytes.saturating_sub(less.bytes);
        self.change(tenant, |held| {
            held.count = held.count.saturating_sub(less.count);
            held.bytes = held.bytes.saturating_sub(less.bytes);
        });
    }

    fn change(&mut self, tenant: &str, change: impl FnOnce(&mut Held)) {
        let (name, before) = match self.tenant_to_held.get_key_value(tenant) {
            Some((name, held)) => (name.clone(), *held),
            None => (tenant.into(), Held::default()),
        };
        let mut after = before;
        change(&mut after);
        self.ranked.remove(&(self.weight(before), name.clone()));
        if after.count == 0 {
            self.tenant_to_held.remove(tenant);
        } else {
            self.ranked.insert((self.weight(after), name.clone()));
            self.tenant_to_held.insert(name, after);
        }
    }

    /// `count / count_max + bytes / bytes_max`, times both bounds, so that nothing is rounded.
    fn weight(&self, held: Held) -> u128 {
        let part = |held: u64, other_max: u64| u128::from(held) * u128::from(other_max.max(1));
        part(held.count, self.max.bytes).saturating_add(part(held.bytes, self.max.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn held(count: u64, bytes: u64) -> Held {
        Held { count, bytes }
    }

    #[test]
    fn who_holds_most_is_told_by_both_bounds_together() {
        let mut shares = Shares::new(held(10, 1_000));
        assert_eq!(shares.most(), None);
        shares.add("many", held(5, 50));
        shares.add("large", held(1, 500));
        // .5 + .05 against .1 + .5
        assert_eq!(shares.most().map(|tenant| &**tenant), Some("large"));
        assert!(!shares.is_over());
        shares.add("large", held(1, 500));
        assert!(shares.is_over() && !shares.is_over_without(held(1, 500)));
        assert!(shares.is_most_without("large", held(1, 500)));
        assert!(!shares.is_most_without("large", held(2, 1_000)));
        shares.remove("large", held(2, 1_000));
        assert_eq!(shares.most().map(|tenant| &**tenant), Some("many"));
        assert_eq!((shares.of("large"), shares.total()), (held(0, 0), held(5, 50)));
    }

    proptest! {
        /// Taking from who holds most until it fits leaves everybody an even share of the bound, as far
        /// as they had that much; whatever else the others do.
        #[test]
        fn an_even_share_is_never_taken(
            added in prop::collection::vec((0..6_usize, 1..40_u64), 1..400), max in 6..60_u64,
        ) {
            let mut shares = Shares::new(held(max, u64::MAX));
            let mut given = [0_u64; 6];
            for (tenant, count) in added {
                let tenants = ["a", "b", "c", "d", "e", "f"];
                shares.add(tenants[tenant], held(count, 0));
                given[tenant] += count;
                while shares.is_over() {
                    let most = shares.most().unwrap().clone();
                    shares.remove(&most, held(1, 0));
                }
                for (name, given) in tenants.iter().zip(given) {
                    prop_assert!(shares.of(name).count >= given.min(max / 6));
                }
                prop_assert!(shares.total().count <= max);
                let sum: u64 = tenants.iter().map(|name| shares.of(name).count).sum();
                prop_assert_eq!(sum, shares.total().count);
            }
        }
    }
}
