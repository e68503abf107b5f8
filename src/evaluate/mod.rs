//! What would have been chosen, and what would have come of it: on streams whose outcomes are all known
//! ([`Stream`]), and on recorded decisions ([`log`]) by estimators of their own ([`off_policy`]).
//!
#![doc = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/evaluate/README.md"))]

pub mod log;
pub mod off_policy;
mod stream;

pub use stream::{Calibration, Known, LaterHalf, Played, Round, Stream, later_half};
