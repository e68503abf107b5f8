//! Numbers as the hexadecimal digits of their bits: exact, and quick to read back. For serde's `with`.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

use crate::error::{Error, Result};

const DIGITS: [char; 16] =
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];

pub(in crate::model) fn write<'a>(numbers: impl IntoIterator<Item = &'a f64>) -> String {
    let mut text = String::new();
    for number in numbers {
        let bits = number.to_bits();
        text.extend((0..16).rev().map(|place| DIGITS[(bits >> (4 * place) & 15) as usize]));
    }
    text
}

pub(in crate::model) fn read(text: &str) -> Result<Vec<f64>> {
    let wrong = || Error::Corrupt("these are no finite numbers in hexadecimal".to_owned());
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(16) {
        return Err(wrong());
    }
    let number = |digits: &[u8]| {
        let text = std::str::from_utf8(digits).ok()?;
        let value = f64::from_bits(u64::from_str_radix(text, 16).ok()?);
        value.is_finite().then_some(value)
    };
    digits.chunks_exact(16).map(|digits| number(digits).ok_or_else(wrong)).collect()
}

pub(in crate::model) fn serialize<S: Serializer>(
    numbers: &[f64],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&write(numbers))
}

pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<f64>, D::Error> {
    read(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}
