//! Where records come from. Each source reads them, and hands them to the learner.

pub mod file;
pub mod formats;
pub mod kafka;
pub mod otlp;
