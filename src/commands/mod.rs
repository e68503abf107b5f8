//! What the program does when it is called: the command line, and a file for each subcommand. Only
//! here are arguments read and answers printed.
//!
#![doc = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/commands/README.md"))]

pub mod backup;
pub mod cli;
pub mod client;
pub mod configuration;
pub mod dispatch;
pub mod doctor;
pub mod emit;
pub mod evaluate;
pub mod help;
pub mod import;
pub mod mcp;
pub mod predict;
pub mod replay;
pub mod settings;
pub mod simulate;
pub mod state;
pub mod transfer;
pub mod verify;
