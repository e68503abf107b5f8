//! Learns from outcome events which AI agent to choose for a task, and answers that question.
//!
//! The library behind the program `online-learning`: tests, benchmarks and embedders use the same
//! code. In reading order: what comes in ([`outcome`]), what is learned from it ([`model`]), how it
//! survives ([`store`]), the pipeline ([`learner`]), the API ([`http`]), the threads
//! ([`service`]), and the commands ([`cli`]).

pub mod alerts;
pub mod backup;
pub mod budget;
pub mod cli;
pub mod client;
pub mod config;
pub mod decisions;
pub mod dispatch;
pub mod doctor;
pub mod emit;
pub mod error;
pub mod evaluate;
pub mod fields;
pub mod http;
pub mod import;
pub mod instruments;
pub mod kafka;
pub mod learner;
pub mod logging;
pub mod model;
pub mod monitor;
pub mod notify;
pub mod off_policy;
pub mod outcome;
pub mod plots;
pub mod process;
pub mod replay;
pub mod reporting;
pub mod samples;
pub mod service;
mod shares;
pub mod simulate;
pub mod sources;
pub mod store;
pub mod transfer;
pub mod verify;
pub mod watch;

pub use error::{Error, Result};
