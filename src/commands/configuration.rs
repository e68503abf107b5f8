//! `config`: checks and prints the settings.

use std::io::Write;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use crate::commands::doctor;
use crate::commands::settings::Settings;
use crate::error::{Error, Result};
use crate::logging::one_line;

/// The commands of `config`.
#[derive(Debug, Subcommand)]
pub enum Configuration {
    /// Say whether the service would start with it
    Check {
        /// What is checked.
        #[command(flatten)]
        settings: Settings,
    },
    /// Print what is set, and where each value comes from
    Print {
        /// Every setting, defaults included
        #[arg(long)]
        effective: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// What is printed.
        #[command(flatten)]
        settings: Settings,
    },
}

impl Configuration {
    /// The settings that they are about.
    pub fn settings(&self) -> &Settings {
        match self {
            Self::Check { settings } | Self::Print { settings, .. } => settings,
        }
    }

    /// Checks or prints the settings.
    ///
    /// # Errors
    /// As [`Settings::config`], and when nobody reads.
    pub fn run(&self, out: &mut impl Write) -> Result<()> {
        match self {
            Self::Check { settings } => {
                doctor::check_configuration(&settings.config()?)?;
                writeln!(out, "the configuration is good")
            }
            Self::Print { effective, json: true, settings } => {
                let row = |(env, value, origin)| (env, json!({"value": value, "from": origin}));
                let rows = settings.shown(*effective).map(row);
                let rows: Map<String, Value> =
                    rows.map(|(env, row): (&str, Value)| (env.to_owned(), row)).collect();
                writeln!(out, "{:#}", Value::Object(rows))
            }
            Self::Print { effective, json: false, settings } => {
                settings.shown(*effective).try_for_each(|(env, value, origin)| {
                    writeln!(out, "{env:<26} {:<24} {origin}", one_line(&value))
                })
            }
        }
        .map_err(Error::unprinted)
    }
}
