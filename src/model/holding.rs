//! What is taken of the caps that hold over all tenants.

use serde::{Deserialize, Serialize};

/// What is taken of the caps over all tenants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holding {
    /// (agent, task type) records and distinct context values.
    pub(super) cells: usize,
    /// Held in the buffers of agents.
    pub(super) recent_values: usize,
    /// Entries of covariances.
    pub(super) covariances: usize,
    /// Context values with an effect, and independent effects of agents.
    pub(super) effects: usize,
    /// Bytes of the values by which quality, latency and cost are predicted.
    pub(super) value_bytes: usize,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Cells,
    RecentValues,
    Covariances,
    Effects,
    ValueBytes,
}

impl Held {
    /// Every kind.
    pub(super) const ALL: [Self; 5] =
        [Self::Cells, Self::RecentValues, Self::Covariances, Self::Effects, Self::ValueBytes];
}

impl Holding {
    pub(super) fn get(&self, held: Held) -> usize {
        match held {
            Held::Cells => self.cells,
            Held::RecentValues => self.recent_values,
            Held::Covariances => self.covariances,
            Held::Effects => self.effects,
            Held::ValueBytes => self.value_bytes,
        }
    }

    pub(super) fn get_mut(&mut self, held: Held) -> &mut usize {
        match held {
            Held::Cells => &mut self.cells,
            Held::RecentValues => &mut self.recent_values,
            Held::Covariances => &mut self.covariances,
            Held::Effects => &mut self.effects,
            Held::ValueBytes => &mut self.value_bytes,
        }
    }

    pub(super) fn add(&mut self, more: &Self) {
        for held in Held::ALL {
            *self.get_mut(held) += more.get(held);
        }
    }

    /// As much of each as both have.
    pub(super) fn min(&self, other: &Self) -> Self {
        let mut least = *self;
        for held in Held::ALL {
            *least.get_mut(held) = self.get(held).min(other.get(held));
        }
        least
    }

    /// What all hold, after one of them went from `before` to `self`.
    pub(super) fn change(&self, before: &Self, all: &mut Self) {
        for held in Held::ALL {
            let all = all.get_mut(held);
            *all = *all - before.get(held) + self.get(held);
        }
    }
}
