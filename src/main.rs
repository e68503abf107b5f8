//! The program: runs the command, prints the error, decides the exit code.

use std::process::ExitCode;

use clap::Parser;
use online_learning::Error;
use online_learning::commands::cli::{Cli, Command};
use online_learning::error::complain;
use online_learning::logging::{self, Format};

const FAILURE: u8 = 1;
const WRONG_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    // Wrong arguments and --help end here.
    let command = Cli::parse().command();
    start_log(&command);
    // Not locked: other threads may have something to say too.
    let error = match command.run(&mut std::io::stdout()) {
        Ok(code) => return ExitCode::from(code),
        Err(error) => error,
    };
    complain(&error.to_string());
    match error {
        Error::Config(_) => ExitCode::from(WRONG_CONFIGURATION),
        _ => ExitCode::from(FAILURE),
    }
}

/// What is not said by a setting: the service tells what it does, commands only what goes wrong.
fn start_log(command: &Command) {
    let setting = |env: &str| command.settings().and_then(|settings| settings.get(env));
    let default = if matches!(command, Command::Serve { .. }) { "info" } else { "warn" };
    let filters = setting("RUST_LOG").unwrap_or_else(|| default.to_owned());
    let format = Format::of(&setting("LOG_FORMAT").unwrap_or_default());
    logging::start(&filters, &setting("LOG_STYLE").unwrap_or_default(), format);
}
