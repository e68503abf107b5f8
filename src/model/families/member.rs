//! Every family there is, as one type.

use serde::ser::SerializeStruct;

use super::beta::Beta;
use super::family::{Family, Learned};
use super::logistic::{Lanes, Logistic};
use super::means::{Mean, Means};
use crate::error::Result;
use crate::model::records::Names;
use crate::model::settings::{Settings, Strategy};

/// Bytes of an entry of a covariance, which has a number of each copy of the logistic regression.
pub(in crate::model) const COVARIANCE_ENTRY_BYTES: usize = size_of::<Lanes>();

/// What the logistic regression is read back from.
pub(in crate::model) type LogisticState = <Logistic as Learned>::State;

/// A family in an ensemble.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "by default every member is the large one")]
pub(in crate::model) enum Member {
    Logistic(Logistic),
    Beta(Beta),
    Means(Means),
}

impl Member {
    /// What a strategy consists of, before any outcome.
    pub(in crate::model) fn all_of(settings: &Settings) -> Vec<Self> {
        match settings.strategy {
            Strategy::Thompson => vec![Self::Logistic(Logistic::new(settings))],
            Strategy::Beta => vec![Self::Beta(Beta::new(settings))],
            Strategy::MovingAverage => vec![Self::Means(Means::new(Mean::Moving, settings))],
            Strategy::Exponential => vec![Self::Means(Means::new(Mean::Exponential, settings))],
        }
    }

    pub(in crate::model) fn family(&self) -> &dyn Family {
        match self {
            Self::Logistic(family) => family,
            Self::Beta(family) => family,
            Self::Means(family) => family,
        }
    }

    pub(in crate::model) fn family_mut(&mut self) -> &mut dyn Family {
        match self {
            Self::Logistic(family) => family,
            Self::Beta(family) => family,
            Self::Means(family) => family,
        }
    }

    /// Writes what it has learned, with the weights of its copies, in a field of a tenant's state.
    pub(in crate::model) fn save<S: SerializeStruct>(
        &self,
        state: &mut S,
        names: Names<'_>,
        weights: &[f64],
    ) -> std::result::Result<(), S::Error> {
        match self {
            Self::Logistic(family) => {
                state.serialize_field("effects", &family.save(names, weights))
            }
            Self::Beta(_) | Self::Means(_) => Ok(()),
        }
    }

    /// One that was saved, if it was, and the weights of its copies.
    pub(in crate::model) fn restore<F: Learned>(
        state: Option<F::State>,
        names: Names<'_>,
        member: impl Fn(F) -> Self,
    ) -> Result<Option<(Self, Vec<f64>)>> {
        let Some(state) = state else { return Ok(None) };
        let (family, weights) = F::restore(state, names)?;
        Ok(Some((member(family), weights)))
    }
}
