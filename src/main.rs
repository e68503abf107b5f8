//! The program: runs the command, prints the error, decides the exit code.

use std::io::Write;
use std::process::ExitCode;

use online_learning::Error;
use online_learning::cli::{self, Command};
use online_learning::error::complain;

const FAILURE: u8 = 1;
const WRONG_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    // Wrong arguments and --help end here.
    let matches = cli::command().get_matches();
    let result = Command::of(&matches).and_then(|command| {
        start_log(&command);
        // Not locked: other threads may have something to say too.
        command.run(&mut std::io::stdout())
    });
    let error = match result {
        Ok(code) => return ExitCode::from(code),
        Err(error) => error,
    };
    complain(&error.to_string());
    match error {
        Error::Config(_) => ExitCode::from(WRONG_CONFIGURATION),
        _ => ExitCode::from(FAILURE),
    }
}

/// Logs to standard error. journald knows the time and reads the priority from the line.
fn start_log(command: &Command) {
    let setting = |env: &str| command.settings().and_then(|settings| settings.get(env));
    let default = if matches!(command, Command::Serve(..)) { "info" } else { "warn" };
    let filters = setting("RUST_LOG").unwrap_or_else(|| default.to_owned());
    let mut logger = env_logger::Builder::new();
    logger.parse_filters(&filters);
    logger.parse_write_style(&setting("LOG_STYLE").unwrap_or_default());
    let under_journald = std::env::var_os("JOURNAL_STREAM").is_some();
    logger.format(move |out, record| {
        // Names come from outside: a line stays a line.
        let text = record.args().to_string().replace(|character: char| character.is_control(), " ");
        let level = record.level();
        if under_journald {
            let priority = match level {
                log::Level::Error => 3,
                log::Level::Warn => 4,
                log::Level::Info => 6,
                log::Level::Debug | log::Level::Trace => 7,
            };
            writeln!(out, "<{priority}>{text}")
        } else {
            let style = out.default_level_style(level);
            writeln!(out, "{} {style}{level:<5}{style:#} {text}", out.timestamp_millis())
        }
    });
    logger.init();
}
