//! How parts of a state are written, so that the same state has the same bytes.

pub(in crate::model) mod hex_numbers;
mod writing;

pub(in crate::model) use writing::MapRef;
