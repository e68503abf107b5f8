//! The last values of somebody, as they came, and what is said of them without assuming a shape.
//!
//! Beside each value stands its *offset*: what the context (and the task type) was believed to add to it
//! when it came, on the scale of [`Measure::scaled`](super::Measure). Under another context it would have
//! been the value with that part exchanged.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Error;
use crate::model::canonical::hex_numbers;

/// Values that a window holds.
pub(in crate::model) const WINDOW: usize = 512;
/// Values that it may hold however little memory there is.
pub(super) const WINDOW_MIN: usize = 16;
/// Memory of one value with its offset and tag.
pub(super) const ENTRY_BYTES: usize = size_of::<f64>() + size_of::<f32>() + size_of::<u32>();

/// The last values, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::model) struct Window {
    /// Below 0: at least the amount of it (a censored value).
    values: Vec<f64>,
    /// Of each value; none as long as all are 0.
    offsets: Vec<f32>,
    /// Of each value, what it belongs to; none as long as all are 0.
    tags: Vec<u32>,
    /// Where the oldest stands once the window is full.
    start: usize,
}

/// What may take more memory than it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) struct Growth {
    /// Windows, and what the context adds to an agent.
    pub(in crate::model) values: bool,
    /// What is known of a tenant's context keys.
    pub(in crate::model) contexts: bool,
}

/// One value of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Entry {
    pub(super) value: f64,
    pub(super) offset: f32,
    pub(super) tag: u32,
}

/// Puts `number` at `place` of a list that is empty while all `len` numbers of it are 0.
fn set<T: Copy + Default + PartialEq>(list: &mut Vec<T>, place: usize, len: usize, number: T) {
    if list.is_empty() && number == T::default() {
        return;
    }
    if list.len() < len {
        list.reserve_exact(len.next_power_of_two().max(4) - list.len());
        list.resize(len, T::default());
    }
    list[place] = number;
}

impl Window {
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    /// Takes one more, in place of the oldest where there are `max` or there is no room to grow. Returns
    /// by how many bytes it has grown.
    pub(super) fn push(&mut self, entry: Entry, max: usize, may_grow: bool) -> usize {
        let len = self.values.len();
        let grows = len < max && (may_grow || len < WINDOW_MIN);
        if grows {
            self.unroll();
            if len == self.values.capacity() {
                // Most of very many hold few: no room for more than comes.
                self.values.reserve_exact(len.max(4).min(max - len));
            }
            self.values.push(entry.value);
        } else {
            self.values[self.start] = entry.value;
        }
        let (place, len) = if grows { (len, len + 1) } else { (self.start, len) };
        set(&mut self.offsets, place, len, entry.offset);
        set(&mut self.tags, place, len, entry.tag);
        if grows {
            return ENTRY_BYTES;
        }
        self.start = (self.start + 1) % len;
        0
    }

    /// Puts the oldest first.
    fn unroll(&mut self) {
        self.values.rotate_left(self.start);
        if !self.offsets.is_empty() {
            self.offsets.rotate_left(self.start);
        }
        if !self.tags.is_empty() {
            self.tags.rotate_left(self.start);
        }
        self.start = 0;
    }

    /// Keeps the newest half, and at least [`WINDOW_MIN`]. Returns by how many bytes it has shrunk.
    pub(super) fn halve(&mut self) -> usize {
        let len = self.values.len();
        let gone = len - (len / 2).max(WINDOW_MIN).min(len);
        self.unroll();
        self.values.drain(..gone);
        self.values.shrink_to_fit();
        if !self.offsets.is_empty() {
            self.offsets.drain(..gone);
            self.offsets.shrink_to_fit();
        }
        if !self.tags.is_empty() {
            self.tags.drain(..gone);
            self.tags.shrink_to_fit();
        }
        gone * ENTRY_BYTES
    }

    pub(super) fn bytes(&self) -> usize {
        self.values.len() * ENTRY_BYTES
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        let len = self.values.len();
        (self.start..len).chain(0..self.start).map(|place| Entry {
            value: self.values[place],
            offset: self.offsets.get(place).copied().unwrap_or_default(),
            tag: self.tags.get(place).copied().unwrap_or_default(),
        })
    }

    /// Whether a value has this tag.
    pub(super) fn has(&self, tag: u32) -> bool {
        self.tags.contains(&tag)
    }

    /// The values in no order.
    pub(super) fn unordered(&self) -> &[f64] {
        &self.values
    }

    /// The same values under offsets and tags of their own.
    pub(super) fn from_entries(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut window = Self::default();
        for entry in entries {
            window.push(entry, WINDOW, true);
        }
        window
    }
}

/// A window in a saved state: values, offsets and tags, oldest first, as hexadecimal digits.
#[derive(Serialize, Deserialize)]
struct WindowState(#[serde(with = "hex_numbers")] Vec<f64>, String, String);

/// The digits of numbers of 32 bits.
fn hex_words(words: impl ExactSizeIterator<Item = u32>) -> String {
    let mut text = String::with_capacity(8 * words.len());
    for word in words {
        let digit = |place: u32| char::from_digit(word >> (4 * place) & 15, 16).unwrap_or('0');
        text.extend((0..8).rev().map(digit));
    }
    text
}

fn words(text: &str) -> Option<Vec<u32>> {
    let digits = text.as_bytes();
    let word = |digits: &[u8]| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    digits.len().is_multiple_of(8).then(|| digits.chunks_exact(8).map(word).collect())?
}

impl Serialize for Window {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = self.iter().map(|entry| entry.value).collect();
        let all = |is_empty: bool, word: fn(Entry) -> u32| -> Vec<u32> {
            if is_empty { Vec::new() } else { self.iter().map(word).collect() }
        };
        let offsets = all(self.offsets.is_empty(), |entry| entry.offset.to_bits());
        let tags = all(self.tags.is_empty(), |entry| entry.tag);
        let [offsets, tags] = [offsets, tags].map(|words| hex_words(words.into_iter()));
        WindowState(values, offsets, tags).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let WindowState(values, offsets, tags) = WindowState::deserialize(deserializer)?;
        let read = || {
            let offsets: Vec<f32> = words(&offsets)?.into_iter().map(f32::from_bits).collect();
            let tags = words(&tags)?;
            let fits = |len: usize| len == 0 || len == values.len();
            let is_sound = values.len() <= WINDOW
                && fits(offsets.len())
                && fits(tags.len())
                && offsets.iter().all(|offset| offset.is_finite());
            is_sound.then_some((offsets, tags))
        };
        let Some((offsets, tags)) = read() else {
            let wrong = Error::Corrupt("the parts of a window do not fit together".to_owned());
            return Err(serde::de::Error::custom(wrong));
        };
        Ok(Self { values, offsets, tags, start: 0 })
    }
}
