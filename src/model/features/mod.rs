//! A context as the regression sees it: numbered features with a value each, and one number for all of
//! it together. `x` is 1 for a text or boolean that is there; a number has a line and two of its hats
//! (see `ranks`).

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

mod ranks;

use self::ranks::{HATS, HATS_U32, Rank, Ranks};
use crate::model::hashing::fingerprint;
use crate::model::settings::Caps;
use crate::outcome::Feature;

/// Texts per key up to which they are part of a combination; one that has more is an identifier.
const COMBINED_VALUES_MAX: usize = 32;

/// The features of one context key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::model) struct Key {
    /// (fingerprint, feature) of the texts and booleans, sorted.
    values: Vec<(u64, u32)>,
    /// The feature of all values past the cap.
    other: Option<u32>,
    number: Option<Number>,
}

impl Key {
    /// All of its features.
    pub(in crate::model) fn features(&self) -> impl Iterator<Item = u32> {
        let values = self.values.iter().map(|(_, feature)| *feature).chain(self.other);
        let number = self.number.iter();
        values.chain(number.flat_map(|number| [number.line].into_iter().chain(number.hats())))
    }

    /// Whether its parts fit together.
    pub(in crate::model) fn is_sound(&self) -> bool {
        self.values.is_sorted_by(|a, b| a.0 < b.0)
            && self.number.as_ref().is_none_or(|number| number.ranks.is_sound())
    }
}

/// A number's features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "NumberState")]
struct Number {
    line: u32,
    /// The first of [`HATS`] features that follow each other; `None` where there was no room, or not
    /// yet.
    first_hat: Option<u32>,
    ranks: Arc<Ranks>,
}

/// A number as it is or was saved.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberState {
    Ranks {
        line: u32,
        first_hat: Option<u32>,
        ranks: Arc<Ranks>,
    },
    /// Up to format 3: running moments.
    Moments {
        feature: u32,
        count: u64,
        mean: f64,
        squares: f64,
    },
}

impl From<NumberState> for Number {
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn from(state: NumberState) -> Self {
        match state {
            NumberState::Ranks { line, first_hat, ranks } => Self { line, first_hat, ranks },
            NumberState::Moments { feature, count, mean, squares } => {
                let deviation = (squares / count.max(1) as f64).sqrt();
                let new = Ranks::new(0, u64::from(feature));
                let ranks = Arc::new(Ranks::of_moments(count, mean, deviation, new));
                Self { line: feature, first_hat: None, ranks }
            }
        }
    }
}

impl Number {
    fn hats(&self) -> impl Iterator<Item = u32> + use<> {
        self.first_hat.into_iter().flat_map(|first| first..first.saturating_add(HATS_U32))
    }

    fn add_to(&self, rank: Rank, active: &mut Active) {
        let line = rank.line();
        if line != 0.0 {
            active.features.push(ActiveFeature { feature: self.line, x: line, is_joint: true });
        }
        let Some(first_hat) = self.first_hat else { return };
        let (first, second) = rank.hats();
        for (hat, x) in [(first, 1.0 - second), (first + 1, second)] {
            if x != 0.0 {
                let feature = first_hat + u32::try_from(hat).expect("hats are few");
                active.features.push(ActiveFeature { feature, x, is_joint: false });
            }
        }
    }
}

/// A feature of a context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::model) struct ActiveFeature {
    pub(in crate::model) feature: u32,
    /// Not 0.
    pub(in crate::model) x: f64,
    /// Whether its effect is learned together with others; hats are many, and learned on their own.
    pub(in crate::model) is_joint: bool,
}

/// A context as the regression sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::model) struct Active {
    /// Sorted by feature.
    pub(in crate::model) features: Vec<ActiveFeature>,
    /// Sum of `x^2` over features never learned.
    pub(in crate::model) unknown_squares: f64,
    /// Tells all of the context from others; `None` when there is nothing in it to combine.
    pub(in crate::model) combination: Option<u64>,
}

impl Active {
    /// Takes a key and a code of its value into the combination.
    fn combine(&mut self, name: &str, code: u64) {
        // FNV-1a of the name, then the finaliser of `SplitMix64`: part of the saved state.
        let name = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut z = self.combination.unwrap_or(0) ^ name.rotate_left(32) ^ code;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.combination = Some(z ^ (z >> 31));
    }

    fn combine_rank(&mut self, name: &str, rank: Option<Rank>) {
        // Numbers that are all equal have a code of their own.
        let code = rank.map_or(HATS, Rank::eighth);
        self.combine(name, code as u64);
    }
}

/// How many names get features.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct NamesMax {
    pub(in crate::model) keys: usize,
    /// Texts and booleans per key that have a feature of their own.
    pub(in crate::model) values: usize,
}

impl NamesMax {
    pub(in crate::model) fn of(caps: &Caps) -> Self {
        Self { keys: caps.context_keys_per_tenant, values: caps.context_values_per_key }
    }
}

/// Every context key that has been learned.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::model) struct Keys {
    pub(in crate::model) by_name: OrdMap<Arc<str>, Arc<Key>>,
    /// Those with numbers.
    numeric: usize,
}

impl Keys {
    pub(in crate::model) fn restore(names: BTreeMap<String, Key>) -> Self {
        let numeric = names.values().filter(|key| key.number.is_some()).count();
        let by_name = names.into_iter().map(|(name, key)| (Arc::from(name), Arc::new(key)));
        Self { by_name: by_name.collect(), numeric }
    }

    /// The features of a context, met for the first time or again. `add` numbers so many more that
    /// follow each other and returns the first, where there is room for them.
    pub(in crate::model) fn observe(
        &mut self,
        context: &[(String, Feature)],
        max: NamesMax,
        mut add: impl FnMut(usize) -> Option<u32>,
    ) -> Active {
        let mut active = Active::default();
        for (name, value) in context {
            let keys = self.by_name.len();
            let key = match self.by_name.get_mut(&**name) {
                Some(key) => key,
                None if keys >= max.keys => continue,
                None => self.by_name.entry(name.as_str().into()).or_default(),
            };
            match (fingerprint(value), value) {
                (Some(print), _) => {
                    let feature = match key.values.binary_search_by_key(&print, |(print, _)| *print)
                    {
                        Ok(index) => Some(key.values[index].1),
                        Err(_) if key.values.len() >= max.values => {
                            if key.other.is_none() {
                                Arc::make_mut(key).other = add(1);
                            }
                            key.other
                        }
                        Err(index) => {
                            let feature = add(1);
                            if let Some(feature) = feature {
                                Arc::make_mut(key).values.insert(index, (print, feature));
                            }
                            feature
                        }
                    };
                    if key.values.len() <= COMBINED_VALUES_MAX {
                        active.combine(name, print);
                    }
                    let whole = |feature| ActiveFeature { feature, x: 1.0, is_joint: true };
                    active.features.extend(feature.map(whole));
                }
                (None, Feature::Number(value)) => {
                    let key = Arc::make_mut(key);
                    if key.number.is_none() {
                        key.number = add(1).map(|line| {
                            let ranks = Arc::new(Ranks::new(self.numeric, u64::from(line)));
                            Number { line, first_hat: None, ranks }
                        });
                        self.numeric += usize::from(key.number.is_some());
                    }
                    let Some(number) = &mut key.number else { continue };
                    if number.first_hat.is_none() {
                        number.first_hat = add(HATS);
                    }
                    Arc::make_mut(&mut number.ranks).observe(*value);
                    let rank = number.ranks.rank(*value);
                    active.combine_rank(name, rank);
                    if let Some(rank) = rank {
                        number.add_to(rank, &mut active);
                    }
                }
                (None, _) => {}
            }
        }
        active.features.sort_unstable_by_key(|active| active.feature);
        active
    }

    /// The features of a context in a question.
    pub(in crate::model) fn active(&self, context: &[(String, Feature)], max: NamesMax) -> Active {
        let mut active = Active::default();
        for (name, value) in context {
            let key = self.by_name.get(&**name);
            if key.is_none() && self.by_name.len() >= max.keys {
                // It will never be learned.
                continue;
            }
            match (fingerprint(value), value) {
                (Some(print), _) => {
                    let known = key.and_then(|key| {
                        match key.values.binary_search_by_key(&print, |(print, _)| *print) {
                            Ok(index) => Some(key.values[index].1),
                            Err(_) if key.values.len() >= max.values => key.other,
                            Err(_) => None,
                        }
                    });
                    if key.is_none_or(|key| key.values.len() <= COMBINED_VALUES_MAX) {
                        active.combine(name, print);
                    }
                    match known {
                        Some(feature) => {
                            active.features.push(ActiveFeature { feature, x: 1.0, is_joint: true });
                        }
                        None => active.unknown_squares += 1.0,
                    }
                }
                (None, Feature::Number(value)) => {
                    let number = key.and_then(|key| key.number.as_ref());
                    let rank = number.and_then(|number| number.ranks.rank(*value));
                    active.combine_rank(name, rank);
                    if let Some((number, rank)) = number.zip(rank) {
                        number.add_to(rank, &mut active);
                    }
                }
                (None, _) => {}
            }
        }
        active.features.sort_unstable_by_key(|active| active.feature);
        active
    }
}
