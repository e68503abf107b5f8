//! A context as numbered features with a value each, as regressions take it: `x` is 1 for a text or
//! boolean that is there, and a running z-score, clipped to +-3, for a number.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::fingerprint;
pub(super) use super::logistic::NamesMax;
use crate::outcome::Feature;

/// Standard deviations to which a number is clipped.
const CLIP: f64 = 3.0;
/// Largest magnitude that counts of a number, so that squares stay finite.
const NUMBER_MAX: f64 = 1e100;

/// The features of one context key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Key {
    /// (fingerprint, feature) of the texts and booleans, sorted.
    values: Vec<(u64, u32)>,
    /// The feature of all values past the cap.
    other: Option<u32>,
    number: Option<Number>,
}

impl Key {
    /// All of its features.
    pub(super) fn features(&self) -> impl Iterator<Item = u32> {
        let values = self.values.iter().map(|(_, feature)| *feature);
        values.chain(self.other).chain(self.number.map(|number| number.feature))
    }
}

/// A numeric feature and its running moments (Welford, Technometrics 4(3), 1962).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Number {
    feature: u32,
    count: u64,
    mean: f64,
    /// Sum of squared deviations.
    squares: f64,
}

impl Number {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn observe(&mut self, value: f64) {
        self.count += 1;
        let deviation = value - self.mean;
        self.mean += deviation / self.count as f64;
        self.squares += deviation * (value - self.mean);
    }

    /// 0 as long as the numbers seen do not differ.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn z_score(&self, value: f64) -> f64 {
        let spread = (self.squares / self.count.max(1) as f64).sqrt();
        if spread > 1e-12 * self.mean.abs() {
            ((value - self.mean) / spread).clamp(-CLIP, CLIP)
        } else {
            0.0
        }
    }
}

/// A context as a regression sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Active {
    /// Features, sorted, and their `x`, which is not 0.
    pub(super) features: Vec<(u32, f64)>,
    /// Sum of `x^2` over features never learned.
    pub(super) unknown_squares: f64,
}

/// Every context key that has been learned.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Keys(pub(super) OrdMap<Arc<str>, Arc<Key>>);

impl Keys {
    pub(super) fn restore(names: BTreeMap<String, Key>) -> Self {
        Self(names.into_iter().map(|(name, key)| (Arc::from(name), Arc::new(key))).collect())
    }

    /// The features of a context, met for the first time or again. `add` numbers one more, where
    /// there is room for it.
    pub(super) fn observe(
        &mut self,
        context: &[(String, Feature)],
        max: NamesMax,
        mut add: impl FnMut() -> Option<u32>,
    ) -> Active {
        let mut active = Active::default();
        for (name, value) in context {
            let keys = self.0.len();
            let key = match self.0.get_mut(&**name) {
                Some(key) => key,
                None if keys >= max.keys => continue,
                None => self.0.entry(name.as_str().into()).or_default(),
            };
            let found = match (fingerprint(value), value) {
                (Some(print), _) => {
                    match key.values.binary_search_by_key(&print, |(print, _)| *print) {
                        Ok(index) => Some((key.values[index].1, 1.0)),
                        Err(_) if key.values.len() >= max.values => {
                            if key.other.is_none() {
                                Arc::make_mut(key).other = add();
                            }
                            key.other.map(|feature| (feature, 1.0))
                        }
                        Err(index) => add().map(|feature| {
                            Arc::make_mut(key).values.insert(index, (print, feature));
                            (feature, 1.0)
                        }),
                    }
                }
                (None, Feature::Number(number)) => {
                    let number = number.clamp(-NUMBER_MAX, NUMBER_MAX);
                    let key = Arc::make_mut(key);
                    if key.number.is_none() {
                        let moments =
                            |feature| Number { feature, count: 0, mean: 0.0, squares: 0.0 };
                        key.number = add().map(moments);
                    }
                    key.number.as_mut().map(|moments| {
                        moments.observe(number);
                        (moments.feature, moments.z_score(number))
                    })
                }
                (None, _) => None,
            };
            active.features.extend(found.filter(|(_, x)| *x != 0.0));
        }
        active.features.sort_unstable_by_key(|(feature, _)| *feature);
        active
    }

    /// The features of a context in a question.
    pub(super) fn active(&self, context: &[(String, Feature)], max: NamesMax) -> Active {
        let mut active = Active::default();
        for (name, value) in context {
            let key = self.0.get(&**name);
            if key.is_none() && self.0.len() >= max.keys {
                // It will never be learned.
                continue;
            }
            let found = match (fingerprint(value), value) {
                (Some(print), _) => {
                    let known = key.and_then(|key| {
                        match key.values.binary_search_by_key(&print, |(print, _)| *print) {
                            Ok(index) => Some(key.values[index].1),
                            Err(_) if key.values.len() >= max.values => key.other,
                            Err(_) => None,
                        }
                    });
                    if known.is_none() {
                        active.unknown_squares += 1.0;
                    }
                    known.map(|feature| (feature, 1.0))
                }
                (None, Feature::Number(number)) => key.and_then(|key| key.number).map(|moments| {
                    let number = number.clamp(-NUMBER_MAX, NUMBER_MAX);
                    (moments.feature, moments.z_score(number))
                }),
                (None, _) => None,
            };
            active.features.extend(found.filter(|(_, x)| *x != 0.0));
        }
        active.features.sort_unstable_by_key(|(feature, _)| *feature);
        active
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn z_scores_are_finite_and_clipped(numbers in prop::collection::vec(any::<f64>(), 1..50)) {
            let mut moments = Number { feature: 0, count: 0, mean: 0.0, squares: 0.0 };
            for number in numbers.into_iter().filter(|number| number.is_finite()) {
                let number = number.clamp(-NUMBER_MAX, NUMBER_MAX);
                moments.observe(number);
                prop_assert!(moments.z_score(number).abs() <= CLIP);
            }
        }
    }

    #[test]
    fn a_number_is_standardised_by_what_came_so_far() {
        let mut moments = Number { feature: 0, count: 0, mean: 0.0, squares: 0.0 };
        for number in [5.0, 5.0, 5.0] {
            moments.observe(number);
            assert!(moments.z_score(number).abs() < 1e-12, "equal numbers say nothing");
        }
        moments.observe(9.0);
        let z = moments.z_score(9.0);
        assert!((z - 3.0 / 3.0_f64.sqrt()).abs() < 1e-12, "{z}");
        assert!((moments.z_score(1e9) - CLIP).abs() < 1e-12);
    }
}
