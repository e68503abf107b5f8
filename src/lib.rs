//! Learns from outcome events which AI agent to choose for a task, and answers that question.
//!
//! The library behind the program `online-learning`: tests, benchmarks and embedders use the same
//! code. In the order of a record: what comes in ([`outcome`]) and from where ([`sources`]), what is
//! learned from it ([`model`]), how it survives ([`store`]), the pipeline ([`learner`]), the API
//! ([`http`]), the threads ([`service`]), and the commands ([`commands`]).
//!
#![doc = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/README.md"))]

pub mod commands;
pub mod config;
pub mod error;
pub mod evaluate;
pub mod http;
pub mod learner;
pub mod logging;
pub mod model;
pub mod outcome;
pub mod plots;
pub mod service;
pub mod sources;
pub mod stats;
pub mod store;
pub mod watch;

pub use error::{Error, Result};
