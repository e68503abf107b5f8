//! Learns from outcome events which AI agent to choose for a task, and answers that question.

pub mod decisions;
pub mod error;
pub mod learner;
pub mod model;
pub mod outcome;
pub mod store;

pub use error::{Error, Result};
