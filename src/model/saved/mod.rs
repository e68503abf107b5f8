//! The learned state as it is saved: canonical JSON, whose SHA-256 is the digest.

pub(in crate::model) mod hex_numbers;
mod state;
pub(in crate::model) mod writing;
