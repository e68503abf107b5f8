//! `predict`: asks a running service for agents. The arguments that describe a task are here; `dispatch`
//! has them too.

use std::io::Write;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::commands::client::{Question, ServiceArgs};
use crate::error::{Error, Result};
use crate::model::{OnUnknown, Preset};

/// What to ask for.
#[derive(Debug, Args)]
pub struct Predict {
    /// The service.
    #[command(flatten)]
    service: ServiceArgs,
    /// The task.
    #[command(flatten)]
    task: TaskArgs,
    /// How many agents
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    top_k: u64,
    /// Makes the draw reproducible
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Rank by expected success instead of a draw
    #[arg(long)]
    no_explore: bool,
    /// Say what each score is made of
    #[arg(long)]
    explain: bool,
    /// How to print the answer
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[value(help = None::<&str>)]
    Table,
    /// For programs.
    #[value(help = None::<&str>)]
    Json,
}

/// A task that wants an agent.
#[derive(Debug, Args)]
pub struct TaskArgs {
    /// Task type of the task
    #[arg(long, value_name = "TASK_TYPE")]
    pub task_type: Option<String>,
    /// What is known of the task: a number or boolean where the service knows KEY as one, else a text;
    /// KEY:=JSON says it itself; repeat for more
    #[arg(long, value_name = "KEY=VALUE")]
    context: Vec<String>,
    /// Agents that may be chosen; all that are known unless given
    #[arg(long, value_name = "AGENT,AGENT", value_delimiter = ',')]
    candidates: Option<Vec<String>>,
    /// Tenant whose agents are asked for
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// What to choose by, instead of success alone
    #[arg(long, value_name = "OBJECTIVE", value_parser = one_of(Preset::ALL, Preset::as_str))]
    objective: Option<Preset>,
    /// Only agents whose executions take at most this
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    max_latency_ms: Option<f64>,
    /// Only agents whose executions cost at most this
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    max_cost: Option<f64>,
    /// Only agents with at least this chance of success
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    min_success: Option<f64>,
    /// Only agents with at least this mean quality
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    min_quality: Option<f64>,
    /// What becomes of agents too little known to judge by these
    #[arg(long, value_name = "WHAT", value_parser = one_of(OnUnknown::ALL, OnUnknown::as_str))]
    on_unknown: Option<OnUnknown>,
}

/// Reads one of a model's own names.
pub fn one_of<T: Copy + Send + Sync + 'static, const N: usize>(
    all: [T; N],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.map(name))
        .try_map(move |given| all.into_iter().find(|one| name(*one) == given).ok_or("is unknown"))
}

impl TaskArgs {
    /// The request for agents that they make.
    ///
    /// # Errors
    /// [`Error::Config`] when an element of the context is not of its form.
    pub fn question(&self) -> Result<Question> {
        let mut context = Map::new();
        let mut words = Vec::new();
        for pair in &self.context {
            let Some((key, value)) = pair.split_once('=') else {
                let allowed = "allowed is KEY=VALUE or KEY:=JSON";
                return Err(Error::Config(format!("--context is {pair:?}, {allowed}")));
            };
            words.retain(|word| word != key.trim_end_matches(':'));
            if let Some(key) = key.strip_suffix(':') {
                let value = serde_json::from_str(value).map_err(|error| {
                    Error::Config(format!("--context is {pair:?}, after := is no JSON: {error}"))
                })?;
                context.insert(key.to_owned(), value);
            } else {
                words.push(key.to_owned());
                context.insert(key.to_owned(), value.into());
            }
        }
        let mut request = json!({"context": context});
        for (field, value) in [
            ("task_type", self.task_type.as_deref()),
            ("tenant_id", self.tenant.as_deref()),
            ("objective", self.objective.map(Preset::as_str)),
            ("on_unknown", self.on_unknown.map(OnUnknown::as_str)),
        ] {
            if let Some(value) = value {
                request[field] = value.into();
            }
        }
        if let Some(candidates) = &self.candidates {
            request["candidates"] = candidates.clone().into();
        }
        for (limit, value) in [
            ("max_latency_ms", self.max_latency_ms),
            ("max_cost", self.max_cost),
            ("min_success", self.min_success),
            ("min_quality", self.min_quality),
        ] {
            if let Some(value) = value {
                request["constraints"][limit] = value.into();
            }
        }
        Ok(Question { body: request, words })
    }
}

impl Predict {
    /// Asks, and prints the answer.
    ///
    /// # Errors
    /// As [`TaskArgs::question`], and what the service answers, or nobody reads.
    pub fn run(&self, out: &mut impl Write) -> Result<()> {
        let client = self.service.client()?;
        let request = self.question()?.body(&client)?;
        let answer = client.post("/api/learning/predict/agent-selection", &request)?;
        match self.format {
            Format::Json => writeln!(out, "{answer}"),
            Format::Table => print_table(&answer, out),
        }
        .map_err(Error::unprinted)
    }

    fn question(&self) -> Result<Question> {
        let mut question = self.task.question()?;
        let request = &mut question.body;
        request["explore"] = (!self.no_explore).into();
        request["explain"] = self.explain.into();
        request["top_k"] = self.top_k.into();
        if let Some(seed) = self.seed {
            request["seed"] = seed.into();
        }
        Ok(question)
    }
}

fn print_table(answer: &Value, out: &mut impl Write) -> std::io::Result<()> {
    let list = |name: &str| answer[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = list("recommendations");
    if rows.is_empty() {
        return writeln!(out, "no agent is known yet: report outcomes, or name candidates");
    }
    let name =
        |row: &Value| row["agent_name"].as_str().unwrap_or_default().escape_debug().to_string();
    let width = rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max(5);
    writeln!(
        out,
        "{:>4}  {:width$}  {:>5}  {:>8}  {:>13}  {:>10}  {:>7}  evidence",
        "rank", "agent", "score", "expected", "90 % interval", "propensity", "samples"
    )?;
    for row in rows {
        let number = |field: &str| row[field].as_f64().unwrap_or(0.0);
        let count = |field: &str| row[field].as_u64().unwrap_or(0);
        let interval = match (row["interval"][0].as_f64(), row["interval"][1].as_f64()) {
            (Some(low), Some(high)) => format!("{low:.3} - {high:.3}"),
            _ => "-".to_owned(),
        };
        writeln!(
            out,
            "{:>4}  {:width$}  {:>5.3}  {:>8.3}  {interval:>13}  {:>10.3}  {:>7}  {}",
            count("rank"),
            name(row),
            number("score"),
            number("expected_success"),
            number("propensity"),
            count("samples"),
            row["evidence"].as_str().unwrap_or_default(),
        )?;
        if let Some(text) = row["explanation"]["text"].as_str() {
            writeln!(out, "      {text}")?;
        }
        if let Some(violation) = row["violation"].as_str() {
            writeln!(out, "      does not meet {violation}")?;
        }
    }
    for row in list("excluded") {
        let reason = row["reason"].as_str().unwrap_or_default();
        writeln!(out, "left out {}: {reason}", name(row))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        predict: Predict,
    }

    fn question(arguments: &[&str]) -> Result<Question> {
        Line::try_parse_from([&["predict"], arguments].concat()).unwrap().predict.question()
    }

    #[test]
    fn the_arguments_make_a_request() {
        let arguments = [
            "--task-type",
            "t",
            "--context",
            "size=3",
            "--context",
            "domain=law=uk",
            "--context",
            "deep:={\"er\": true}",
            "--candidates",
            "a,b",
            "--seed",
            "7",
            "--no-explore",
            "--objective",
            "cheap",
            "--max-cost",
            "0.5",
        ];
        let expected = json!({
            "task_type": "t", "context": {"size": "3", "domain": "law=uk", "deep": {"er": true}},
            "candidates": ["a", "b"], "seed": 7, "explore": false, "explain": false, "top_k": 3,
            "objective": "cheap", "constraints": {"max_cost": 0.5},
        });
        let made = question(&arguments).unwrap();
        assert_eq!(made.body, expected);
        assert_eq!(made.words, ["size", "domain"]);
        let wrong = question(&["--context", "k:=x"]).unwrap_err();
        assert!(wrong.to_string().contains("after := is no JSON"), "{wrong}");
        let wrong = question(&["--context", "k"]).unwrap_err();
        assert_eq!(wrong.to_string(), "--context is \"k\", allowed is KEY=VALUE or KEY:=JSON");
    }
}
