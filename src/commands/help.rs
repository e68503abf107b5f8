//! `help`: the documentation, which the program carries, for machines without a browser.

use std::io::Write;

use crate::error::{Error, Result};

/// A file of the documentation.
pub struct Topic {
    /// What it is asked by.
    pub name: &'static str,
    /// What it tells, in a line.
    pub about: &'static str,
    /// All of it, Markdown.
    pub text: &'static str,
}

macro_rules! topics {
    ($(($name:literal, $about:literal, $file:literal),)*) => {
        [$(Topic {
            name: $name,
            about: $about,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $file)),
        }),*]
    };
}

/// Every topic, in the order in which a newcomer would read them.
pub const TOPICS: [Topic; 15] = topics![
    ("overview", "What it is, and how to begin", "README.md"),
    ("events", "What an outcome event means", "src/outcome/README.md"),
    ("api", "Every call, its answers, tokens, budgets, plots, dashboard", "src/http/README.md"),
    (
        "clients",
        "Python and TypeScript in one file each: choose, report",
        "src/http/client/README.md"
    ),
    ("commands", "Commands, files, dispatch, doctor", "src/commands/README.md"),
    ("operations", "systemd, backup, metrics, alerts, troubles, all settings", "systemd/README.md"),
    ("kafka", "The topic, gaps, replicas, dead letters, security", "src/sources/kafka/README.md"),
    ("otlp", "Telemetry of agents: what counts, what becomes of it", "src/sources/otlp/README.md"),
    ("formats", "Files of other tools; a map of your own", "src/sources/formats/README.md"),
    ("model", "What is learned, and how agents are ranked", "src/model/README.md"),
    ("evaluation", "What another policy would have earned; replay", "src/evaluate/README.md"),
    ("architecture", "The parts, the threads, what must stay true", "src/README.md"),
    ("benchmarks", "How fast it is, and how to measure it", "benches/README.md"),
    ("tests", "How it is tested", "tests/README.md"),
    ("data", "The example data, and where they are from", "data/README.md"),
];

/// Prints a topic, the help of a command, or, asked for nothing, what can be asked for.
///
/// # Errors
/// [`Error::Config`] when `words` name neither; [`Error::Fatal`] when nobody reads.
pub fn print(words: &[String], mut program: clap::Command, out: &mut impl Write) -> Result<()> {
    let topic = TOPICS.iter().find(|topic| words == [topic.name]);
    let text = match (topic, words) {
        (Some(topic), _) => topic.text.to_owned(),
        (None, []) => format!("{}\n{}", program.render_help(), listed()),
        (None, names) => {
            program.build();
            let mut command = &mut program;
            for name in names {
                let known = command.find_subcommand_mut(name);
                command = known.ok_or_else(|| Error::Config(unknown(&names.join(" "))))?;
            }
            command.render_long_help().to_string()
        }
    };
    let text = text.trim_end();
    writeln!(out, "{text}").map_err(Error::unprinted)
}

/// The topics, a line each.
fn listed() -> String {
    let row = |topic: &Topic| format!("  {:<14}{}\n", topic.name, topic.about);
    let rows: String = TOPICS.iter().map(row).collect();
    format!("Topics, each printed by `online-learning help TOPIC`:\n{rows}")
}

fn unknown(name: &str) -> String {
    let topics: Vec<&str> = TOPICS.iter().map(|topic| topic.name).collect();
    format!("help: {name:?} is unknown, allowed are a command or one of {}", topics.join(", "))
}
