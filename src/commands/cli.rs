//! The command line: a variant for each command, whose arguments stand in the command's own file.

use std::io::Write;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::commands::client::ServiceArgs;
use crate::commands::configuration::Configuration;
use crate::commands::settings::Settings;
use crate::commands::{
    backup, dispatch, doctor, emit, evaluate, help, import, mcp, predict, replay, simulate,
    transfer, verify,
};
use crate::error::{Error, Result};
use crate::http::client::CLIENTS;
use crate::service;

const EXIT_STATUS: &str = "Exit status: 0 after success, 1 after a failure, 2 when the \
                           configuration or the arguments are wrong.";
const DOCTOR_EXIT_STATUS: &str = "Exit status: 0 when nothing fails, 4 when something does; \
                                  warnings change nothing in it.";
const DISPATCH_EXIT_STATUS: &str = "Exit status: the command's own; 128 and the signal's number \
                                    when a signal killed it, 124 when it was stopped by \
                                    --timeout, 127 when it was not found, 126 when it can't be \
                                    run. 1 when the service gave no agent and nothing was run, 2 \
                                    when the arguments are wrong. An outcome that can't be \
                                    reported is said on standard error and changes nothing in it.";

/// Learns from outcome events which AI agent to choose for a task
#[derive(Debug, Parser)]
#[command(name = "online-learning", version, after_help = EXIT_STATUS)]
#[command(args_conflicts_with_subcommands = true)]
// Ours knows the topics of the documentation, too.
#[command(disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

impl Cli {
    /// The command that is asked for: to serve, unless another one is named.
    pub fn command(self) -> Command {
        self.command.unwrap_or(Command::Serve {
            import: None,
            start_empty: false,
            settings: self.settings,
        })
    }
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service (the default)
    Serve {
        /// First feed these recorded outcomes; known ones are skipped
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        import: Option<PathBuf>,
        /// Move a state that is refused aside, where it is kept, and start empty
        #[arg(long)]
        start_empty: bool,
        /// The settings of the service.
        #[command(flatten)]
        settings: Settings,
    },
    /// Feed recorded outcomes (JSON Lines, CSV, other tools' files) through the path of live ones
    Import(import::Import),
    /// Write recorded outcomes (JSON Lines or CSV) to the Kafka topic
    Emit(emit::Emit),
    /// Ask a running service for agents
    Predict(predict::Predict),
    /// Run a command with the agent that a running service chooses, report the outcome
    #[command(after_help = DISPATCH_EXIT_STATUS)]
    Dispatch(dispatch::Dispatch),
    /// Play streams whose outcomes are all known: what would have been chosen?
    Replay(replay::Replay),
    /// What would another policy have earned on the logged decisions?
    Evaluate(evaluate::Evaluate),
    /// Speak the Model Context Protocol on standard input and output, for a running service
    Mcp(ServiceArgs),
    /// Play a stream of tasks against a running service and watch it learn
    Simulate(simulate::Simulate),
    /// Look for what is wrong, and say what to do; also beside a running service
    #[command(after_help = DOCTOR_EXIT_STATUS)]
    Doctor(doctor::Doctor),
    /// Write the whole state to one file, also beside a running service, and check it
    Backup(backup::BackUp),
    /// Fill an empty state directory from a backup
    Restore(backup::Restore),
    /// Print the model of a saved version, as JSON with its digest
    Export(transfer::Export),
    /// Make an exported model the active version
    ImportModel(transfer::ImportModel),
    /// Learn the journal again and compare the model with it, also beside a service
    Verify {
        /// The settings of the service.
        #[command(flatten)]
        settings: Settings,
    },
    /// Write a manual page per command into a directory
    #[command(hide = true)]
    Man {
        /// Directory to write to
        #[arg(value_name = "FILE", value_hint = ValueHint::DirPath)]
        directory: PathBuf,
    },
    /// Check or print the configuration
    #[command(subcommand)]
    Config(Configuration),
    /// Print a client in one file, for programs that ask for agents
    Client {
        /// The language of those programs
        #[arg(value_parser = CLIENTS.map(|client| client.language))]
        language: String,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the documentation on a topic, or the help of a command; both are listed
    Help {
        /// Topic, or command; without one, all are listed
        #[arg(value_name = "TOPIC")]
        words: Vec<String>,
    },
}

impl Command {
    /// The settings of the commands that have them.
    pub fn settings(&self) -> Option<&Settings> {
        match self {
            Self::Serve { settings, .. } | Self::Verify { settings } => Some(settings),
            Self::Import(plan) => Some(&plan.state.settings),
            Self::Emit(plan) => Some(&plan.settings),
            Self::Evaluate(plan) => Some(&plan.state.settings),
            Self::Doctor(plan) => Some(&plan.settings),
            Self::Backup(plan) => Some(&plan.settings),
            Self::Restore(plan) => Some(&plan.settings),
            Self::Export(plan) => Some(&plan.settings),
            Self::ImportModel(plan) => Some(&plan.state.settings),
            Self::Config(what) => Some(what.settings()),
            Self::Predict(_)
            | Self::Dispatch(_)
            | Self::Replay(_)
            | Self::Mcp(_)
            | Self::Simulate(_)
            | Self::Man { .. }
            | Self::Client { .. }
            | Self::Completions { .. }
            | Self::Help { .. } => None,
        }
    }

    /// Runs the command; what it has to say goes to `out`. Returns the exit code: 0, unless it
    /// passes that of another program through.
    ///
    /// # Errors
    /// Whatever keeps it from doing what it should.
    pub fn run(self, out: &mut impl Write) -> Result<u8> {
        match self {
            Self::Serve { import, start_empty, settings } => {
                service::serve(&settings.config()?, service::Plan { import, start_empty })?;
            }
            Self::Import(plan) => plan.run(out)?,
            Self::Emit(plan) => plan.run(out)?,
            Self::Predict(plan) => plan.run(out)?,
            Self::Dispatch(plan) => return dispatch::run(&plan),
            Self::Replay(plan) => replay::play(&plan, out)?,
            Self::Evaluate(plan) => plan.run(out)?,
            Self::Mcp(service) => mcp::serve(&service.client()?, std::io::stdin().lock(), out)?,
            Self::Simulate(plan) => simulate::play(&plan, out)?,
            Self::Doctor(plan) => return doctor::run(&plan, out),
            Self::Backup(plan) => backup::back_up(&plan, out)?,
            Self::Restore(plan) => backup::restore(&plan, out)?,
            Self::Export(plan) => plan.run(out)?,
            Self::ImportModel(plan) => plan.run(out)?,
            Self::Verify { settings } => verify::verify(&settings.config()?, out)?,
            Self::Man { directory } => {
                clap_mangen::generate_to(<Cli as CommandFactory>::command(), &directory).map_err(
                    |error| {
                        Error::Fatal(format!("can't write to {}: {error}", directory.display()))
                    },
                )?;
            }
            Self::Config(what) => what.run(out)?,
            Self::Client { language } => {
                let client = CLIENTS.iter().find(|client| client.language == language);
                let text = client.map_or("", |client| client.text);
                out.write_all(text.as_bytes()).map_err(Error::unprinted)?;
            }
            Self::Completions { shell } => {
                // Into memory, because clap_complete panics when nobody reads.
                let mut script = Vec::new();
                let mut program = <Cli as CommandFactory>::command();
                clap_complete::generate(shell, &mut program, "online-learning", &mut script);
                out.write_all(&script).map_err(Error::unprinted)?;
            }
            Self::Help { words } => {
                help::print(&words, <Cli as CommandFactory>::command(), out)?;
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as CommandFactory>::command().debug_assert();
    }
}
