//! Plays full-information streams through the model: what would it have chosen, and what would
//! have come of it?
//!
//! Pure but for the reading of the stream: no clock, no thread; the seed is passed in.

use std::io::BufRead;

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::{AgentPerformanceModel, Question, Settings, rank};
use crate::outcome::{Context, DEFAULT_TENANT, Outcome, context_of};

/// One agent's outcome in a round, whether it was chosen or not.
#[derive(Debug, Clone)]
pub struct Known {
    /// What the learner is told when it chooses the agent.
    pub outcome: Outcome,
    /// What the score is made of.
    pub value: f64,
}

/// One task, and what every agent would have made of it.
#[derive(Debug, Clone)]
pub struct Round {
    /// Kind of the task, if known.
    pub task_type: Option<String>,
    /// What was known before the choice.
    pub context: Context,
    /// By agent, in the order of [`Stream::agents`].
    pub known: Vec<Known>,
}

/// A stream of rounds.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Its name.
    pub name: String,
    /// Which of the streams of this name.
    pub seed: u64,
    /// Outcomes that are learned at a time, at least 1.
    pub batch: usize,
    /// All agents, candidates from the first round on; sorted.
    pub agents: Vec<String>,
    /// In order.
    pub rounds: Vec<Round>,
}

/// What playing a stream brought.
#[derive(Debug, Clone)]
pub struct Played {
    /// Mean value over all rounds.
    pub reward: f64,
    /// Sum over all rounds of the best agent's value minus the chosen one's.
    pub regret: f64,
    /// Mean value over the last quarter.
    pub last_quarter: f64,
    /// Mean squared error of the expected success of all agents in the second half.
    pub brier: f64,
    /// Their mean logarithmic loss.
    pub log_loss: f64,
    /// The Brier score of `Beta(1 + successes, 1 + failures)` per agent and task type.
    pub brier_of_counts: f64,
    /// Expected and seen success.
    pub calibration: Calibration,
}

/// Cells of a [`Calibration`].
const CALIBRATION_CELLS: usize = 1_000;

/// How often what was expected came true, by what was expected.
#[derive(Debug, Clone)]
pub struct Calibration {
    /// (predictions, sum of expected, sum of seen) per cell of expected success.
    cells: Vec<(f64, f64, f64)>,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { cells: vec![(0.0, 0.0, 0.0); CALIBRATION_CELLS] }
    }
}

impl Calibration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0..=1 by contract"
    )]
    #[expect(clippy::cast_precision_loss, reason = "a thousand cells")]
    fn add(&mut self, expected: f64, seen: f64) {
        let index = (expected * CALIBRATION_CELLS as f64) as usize;
        let cell = &mut self.cells[index.min(CALIBRATION_CELLS - 1)];
        *cell = (cell.0 + 1.0, cell.1 + expected, cell.2 + seen);
    }

    /// Adds another run's.
    pub fn merge(&mut self, other: &Self) {
        for (cell, other) in self.cells.iter_mut().zip(&other.cells) {
            *cell = (cell.0 + other.0, cell.1 + other.1, cell.2 + other.2);
        }
    }

    /// Expected calibration error over ten bins of (nearly) equal count: the mean distance between
    /// what was expected and what was seen, weighted by count; 0 with no predictions.
    pub fn error(&self) -> f64 {
        let total: f64 = self.cells.iter().map(|cell| cell.0).sum();
        let (mut error, mut bin, mut before) = (0.0, (0.0, 0.0, 0.0), 0.0);
        let mut bins = 0.0;
        for cell in &self.cells {
            bin = (bin.0 + cell.0, bin.1 + cell.1, bin.2 + cell.2);
            before += cell.0;
            if bin.0 > 0.0 && before >= total * (bins + 1.0) / 10.0 {
                bins = (before / total * 10.0).floor();
                error += f64::abs(bin.1 - bin.2);
                bin = (0.0, 0.0, 0.0);
            }
        }
        if total > 0.0 { error / total } else { 0.0 }
    }
}

impl Stream {
    /// Reads NDJSON: a line `{"meta": {"stream", "seed", "batch", "agents"}}`, then a round a line.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the line that is wrong.
    pub fn from_ndjson(input: impl BufRead) -> Result<Self> {
        let mut lines = input.lines().enumerate().map(|(index, line)| {
            let number = index + 1;
            let wrong =
                |what: &dyn std::fmt::Display| Error::invalid("", format!("line {number}: {what}"));
            let line = line.map_err(|error| wrong(&error))?;
            let value: Value = serde_json::from_str(&line).map_err(|error| wrong(&error))?;
            Ok((number, value))
        });
        let (_, first) =
            lines.next().unwrap_or_else(|| Err(Error::invalid("", "the stream is empty")))?;
        let meta = &first["meta"];
        let mut agents: Vec<String> = meta["agents"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect();
        agents.sort_unstable();
        agents.dedup();
        if agents.is_empty() {
            return Err(Error::invalid("", "line 1: meta.agents names no agent"));
        }
        let batch = meta["batch"].as_u64().unwrap_or(1).max(1);
        let mut stream = Self {
            name: meta["stream"].as_str().unwrap_or("stream").to_owned(),
            seed: meta["seed"].as_u64().unwrap_or(0),
            batch: usize::try_from(batch).unwrap_or(usize::MAX),
            agents,
            rounds: Vec::new(),
        };
        for line in lines {
            let (number, line) = line?;
            stream.rounds.push(stream.round(&line, number)?);
        }
        Ok(stream)
    }

    fn round(&self, line: &Value, number: usize) -> Result<Round> {
        let task_type = line["task_type"].as_str().map(str::to_owned);
        let context = context_of(&line["context"]);
        let known = self.agents.iter().map(|agent| {
            let given = &line["outcomes"][agent];
            let value = given["value"].as_f64();
            let wrong = |what: &str| {
                Error::invalid("", format!("line {number}: {what} of agent {agent:?}"))
            };
            let mut event = given.clone();
            let fields = event.as_object_mut().ok_or_else(|| wrong("there is no outcome"))?;
            fields.insert("agent_name".to_owned(), agent.as_str().into());
            let outcome = Outcome::parse(event.to_string().as_bytes(), 0, String::new)
                .map_err(|refusal| wrong(&refusal.detail))?;
            let outcome =
                Outcome { task_type: task_type.clone(), context: context.clone(), ..outcome };
            let value = value.or(outcome.reward()).unwrap_or(0.0);
            Ok(Known { outcome, value })
        });
        Ok(Round { known: known.collect::<Result<_>>()?, task_type, context })
    }

    /// Plays the stream: every agent is a candidate in every round, the best of one draw each is
    /// chosen, and its outcomes are learned `batch` at a time. `shown` is called for every round.
    #[expect(clippy::cast_precision_loss, reason = "streams are far shorter than 2^53")]
    pub fn play(&self, settings: Settings, seed: u64, mut shown: impl FnMut()) -> Played {
        let mut model = AgentPerformanceModel::new(settings);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let rounds = self.rounds.len();
        let (half, last) = (rounds / 2, rounds - rounds / 4);
        let (mut reward, mut regret, mut last_quarter) = (0.0, 0.0, 0.0);
        let (mut brier, mut log_loss, mut brier_of_counts, mut predictions) = (0.0, 0.0, 0.0, 0.0);
        let mut calibration = Calibration::default();
        let mut batch = Vec::with_capacity(self.batch.min(rounds));
        for (number, round) in self.rounds.iter().enumerate() {
            let question = Question {
                tenant: DEFAULT_TENANT,
                task_type: round.task_type.as_deref(),
                context: &round.context,
                candidates: Some(&self.agents),
                exclude: &[],
            };
            // In the order of the agents' names, as the agents are.
            let standings = model.standings(&question);
            let chosen = rank(&standings, true, &mut rng)[0].standing;
            let best = round.known.iter().map(|known| known.value).fold(f64::MIN, f64::max);
            let value = round.known[chosen].value;
            reward += value;
            regret += best - value;
            if number >= last {
                last_quarter += value;
            }
            if number >= half {
                for (standing, known) in standings.iter().zip(&round.known) {
                    let Some(seen) = known.outcome.reward() else { continue };
                    let expected = standing.expected_success();
                    let counts = counts_say(&model, &question, &standing.agent);
                    brier += (expected - seen).powi(2);
                    brier_of_counts += (counts - seen).powi(2);
                    let bounded = expected.clamp(1e-15, 1.0 - 1e-15);
                    log_loss -= seen * bounded.ln() + (1.0 - seen) * (-bounded).ln_1p();
                    calibration.add(expected, seen);
                    predictions += 1.0;
                }
            }
            batch.push(&round.known[chosen].outcome);
            if batch.len() == self.batch {
                batch.drain(..).for_each(|outcome| model.update(outcome));
            }
            shown();
        }
        let mean = |sum: f64, count: f64| if count > 0.0 { sum / count } else { 0.0 };
        Played {
            reward: mean(reward, rounds as f64),
            regret,
            last_quarter: mean(last_quarter, (rounds - last) as f64),
            brier: mean(brier, predictions),
            log_loss: mean(log_loss, predictions),
            brier_of_counts: mean(brier_of_counts, predictions),
            calibration,
        }
    }
}

/// The mean of `Beta(1 + successes, 1 + failures)` of the agent on this task type.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
fn counts_say(model: &AgentPerformanceModel, question: &Question<'_>, agent: &str) -> f64 {
    let tally = model.tenant(question.tenant).and_then(|tenant| {
        let agent = tenant.agent(agent)?;
        Some(match question.task_type {
            Some(task_type) => tenant.cell(agent, task_type).tally,
            None => agent.tally,
        })
    });
    let tally = tally.unwrap_or_default();
    (1.0 + tally.reward) / (2.0 + tally.learned as f64)
}
