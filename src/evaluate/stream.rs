//! Plays full-information streams through the model: what would it have chosen, and what would
//! have come of it?
//!
//! Pure but for the reading of the stream: no clock, no thread; the seed is passed in.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::model::{AgentPerformanceModel, Question, Settings, Terms};
use crate::outcome::cells::{Cells, decimals};
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
    /// Who may be chosen, sorted; all of [`Stream::agents`] when `None`.
    pub candidates: Option<Vec<String>>,
    /// By candidate, in their order.
    pub known: Vec<Known>,
}

impl Round {
    fn value(&self, place: usize) -> f64 {
        self.known[place].value
    }

    /// Mean value of a random choice.
    #[expect(clippy::cast_precision_loss, reason = "agents are few")]
    fn mean_value(&self) -> f64 {
        self.known.iter().map(|known| known.value).sum::<f64>() / self.known.len() as f64
    }
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
    /// Every agent that is ever a candidate, sorted.
    pub agents: Vec<String>,
    /// In order.
    pub rounds: Vec<Round>,
}

/// What playing a stream brought.
#[derive(Debug, Clone)]
pub struct Played {
    /// Mean value over all rounds.
    pub reward: f64,
    /// Mean value of a random choice.
    pub random: f64,
    /// Mean value of the best single agent that is a candidate in every round, known afterwards;
    /// that of a random choice when there is none.
    pub best_single: f64,
    /// Sum over all rounds of the best candidate's value minus the chosen one's.
    pub regret: f64,
    /// Mean value over the last quarter.
    pub last_quarter: f64,
    /// Mean cost over all rounds; `None` where one is not known.
    pub cost: Option<f64>,
    /// Mean squared error of the expected success of all agents in the second half.
    pub brier: f64,
    /// Their mean logarithmic loss.
    pub log_loss: f64,
    /// The Brier score of `Beta(1 + successes, 1 + failures)` per agent and task type, for the same
    /// choices.
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
    /// Reads NDJSON: a line `{"meta": {"stream", "seed", "batch", "agents"}}`, then a round a line:
    /// `{"task_type", "context", "outcomes"}`, and `"candidates"` where not every agent may be chosen.
    /// A round has outcomes of all candidates and of nobody else.
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
        let candidates = self.candidates(line, number)?;
        let outcomes = line["outcomes"].as_object();
        let among = candidates.as_deref().unwrap_or(&self.agents);
        let known = among.iter().map(|agent| {
            let wrong = |what: &str| {
                Error::invalid("", format!("line {number}: {what} of agent {agent:?}"))
            };
            let given = outcomes.and_then(|outcomes| outcomes.get(agent));
            let given = given.ok_or_else(|| wrong("there is no outcome"))?;
            let value = given["value"].as_f64();
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
        let known: Vec<Known> = known.collect::<Result<_>>()?;
        if let Some(outcomes) = outcomes
            && outcomes.len() > known.len()
            && let Some(other) = outcomes.keys().find(|agent| !among.contains(*agent))
        {
            return Err(Error::invalid(
                "",
                format!("line {number}: there is an outcome of {other:?}, which is no candidate"),
            ));
        }
        Ok(Round { task_type, context, candidates, known })
    }

    /// The names under `"candidates"`, sorted; `None` where there is no such key.
    fn candidates(&self, line: &Value, number: usize) -> Result<Option<Vec<String>>> {
        let given = match &line["candidates"] {
            Value::Null => return Ok(None),
            given => given.as_array(),
        };
        let name = |name: &Value| {
            let name = name.as_str().filter(|name| {
                let known = |agent: &String| agent.as_str().cmp(name);
                self.agents.binary_search_by(known).is_ok()
            });
            name.map(str::to_owned)
        };
        let names: Option<Vec<String>> = given.and_then(|given| given.iter().map(name).collect());
        let Some(mut names) = names.filter(|names| !names.is_empty()) else {
            return Err(Error::invalid(
                "",
                format!(
                    "line {number}: candidates is {}, not a list of names of meta.agents",
                    line["candidates"]
                ),
            ));
        };
        names.sort_unstable();
        names.dedup();
        Ok(Some(names))
    }

    /// Reads a CSV table, a round a row: `task_type`, `ctx_*` (each of one type), and a column of 0s and 1s per agent. Other columns are left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no agent, or the table can't be read.
    pub fn from_table(name: &str, input: impl Read) -> Result<Self> {
        let wrong = |error: csv::Error| Error::invalid("", error.to_string());
        let mut reader = csv::Reader::from_reader(input);
        let header = reader.headers().map_err(wrong)?.clone();
        let rows: Vec<csv::StringRecord> =
            reader.records().collect::<std::result::Result<_, _>>().map_err(wrong)?;
        let all =
            |column: usize, holds: fn(&str) -> bool| rows.iter().all(|row| holds(&row[column]));
        let cells_of = |column: usize| {
            let mut cells = Cells::default();
            (1..).zip(&rows).for_each(|(number, row)| cells.look(&row[column], number));
            cells
        };
        let mut agents: Vec<(String, usize)> = Vec::new();
        let mut context = Vec::new();
        let mut task_type = None;
        for (column, title) in header.iter().enumerate() {
            if title == "task_type" {
                task_type = Some(column);
            } else if let Some(key) = title.strip_prefix("ctx_") {
                context.push((key, column, cells_of(column)));
            } else if all(column, |text| text == "0" || text == "1") {
                agents.push((title.to_owned(), column));
            }
        }
        let decimals = decimals(context.iter().map(|(_, _, cells)| cells), b',');
        let context =
            context.iter().map(|(key, column, cells)| (key, *column, cells.kind(decimals)));
        let context: Vec<_> = context.collect();
        agents.sort_unstable();
        if agents.is_empty() || rows.is_empty() {
            return Err(Error::invalid(
                "",
                "the table has no row, or no agent: a column of 0 and 1",
            ));
        }
        let mut stream = Self {
            name: name.to_owned(),
            seed: 0,
            batch: 1,
            agents: agents.iter().map(|(agent, _)| agent.clone()).collect(),
            rounds: Vec::with_capacity(rows.len()),
        };
        for (index, row) in rows.iter().enumerate() {
            let features: Map<String, Value> = context
                .iter()
                .filter_map(|(key, column, kind)| {
                    Some(((**key).to_owned(), kind.value(&row[*column])?))
                })
                .collect();
            let outcomes: Map<String, Value> = agents
                .iter()
                .map(|(agent, column)| {
                    let status = if &row[*column] == "1" { "success" } else { "failure" };
                    (agent.clone(), json!({"status": status}))
                })
                .collect();
            let task_type = task_type.map(|column| &row[column]).filter(|name| !name.is_empty());
            let line = json!({"task_type": task_type, "context": features, "outcomes": outcomes});
            // The header is line 1.
            stream.rounds.push(stream.round(&line, index + 2)?);
        }
        Ok(stream)
    }

    /// Gives each agent's executions a cost, where they have none.
    pub fn set_costs(&mut self, costs: &BTreeMap<String, f64>) {
        for Known { outcome, .. } in self.rounds.iter_mut().flat_map(|round| &mut round.known) {
            outcome.cost = outcome.cost.or_else(|| costs.get(&outcome.agent).copied());
        }
    }

    /// Puts the rounds into a random order, which becomes the stream's seed.
    pub fn shuffle(&mut self, seed: u64) {
        self.rounds.shuffle(&mut Xoshiro256PlusPlus::seed_from_u64(seed));
        self.seed = seed;
    }

    /// Mean value of the best agent that is a candidate in every round.
    #[expect(clippy::cast_precision_loss, reason = "streams are far shorter than 2^53")]
    fn best_single(&self) -> Option<f64> {
        let mut sums: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for known in self.rounds.iter().flat_map(|round| &round.known) {
            let (rounds, sum) = sums.entry(&known.outcome.agent).or_default();
            *rounds += 1;
            *sum += known.value;
        }
        let rounds = self.rounds.len();
        let throughout = sums.values().filter(|(of, _)| *of == rounds && rounds > 0);
        throughout.map(|(_, sum)| sum / rounds as f64).reduce(f64::max)
    }

    /// Plays the stream: in every round the best candidate of one draw each is chosen by these terms, and its outcomes are learned `batch` at a time. `each_round` is called for
    /// every round.
    #[expect(clippy::cast_precision_loss, reason = "streams are far shorter than 2^53")]
    pub fn play(
        &self,
        settings: Settings,
        terms: &Terms,
        seed: u64,
        mut each_round: impl FnMut(),
    ) -> Played {
        let mut model = AgentPerformanceModel::new(settings);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let rounds = self.rounds.len();
        let (half, last) = (rounds / 2, rounds - rounds / 4);
        let (mut reward, mut random, mut regret, mut last_quarter) = (0.0, 0.0, 0.0, 0.0);
        let (mut brier, mut log_loss, mut brier_of_counts, mut predictions) = (0.0, 0.0, 0.0, 0.0);
        let mut calibration = Calibration::default();
        let mut cost = Some(0.0);
        let mut batch = Vec::with_capacity(self.batch.min(rounds));
        for (number, round) in self.rounds.iter().enumerate() {
            let candidates = round.candidates.as_deref().unwrap_or(&self.agents);
            let question = Question {
                tenant: DEFAULT_TENANT,
                task_type: round.task_type.as_deref(),
                context: &round.context,
                candidates: Some(candidates),
                exclude: &[],
            };
            let contest = model.contest(&question, terms);
            let first = &contest.rank(true, &mut rng)[0];
            // Limits may leave some out; else it is in the order of the agents' names, as they are.
            let place = |agent: &str| candidates.partition_point(|name| name.as_str() < agent);
            let chosen = place(&first.agent);
            let best = round.known.iter().map(|known| known.value).fold(f64::MIN, f64::max);
            let value = round.value(chosen);
            reward += value;
            random += round.mean_value();
            regret += best - value;
            if number >= last {
                last_quarter += value;
            }
            cost = cost.zip(round.known[chosen].outcome.cost).map(|(sum, cost)| sum + cost);
            if number >= half {
                for standing in &contest.standings {
                    let known = &round.known[place(&standing.agent)];
                    let Some(reward_seen) = known.outcome.reward() else { continue };
                    let expected = standing.expected_success();
                    let counts = counts_say(&model, &question, &standing.agent);
                    brier += (expected - reward_seen).powi(2);
                    brier_of_counts += (counts - reward_seen).powi(2);
                    let bounded = expected.clamp(1e-15, 1.0 - 1e-15);
                    log_loss -=
                        reward_seen * bounded.ln() + (1.0 - reward_seen) * (-bounded).ln_1p();
                    calibration.add(expected, reward_seen);
                    predictions += 1.0;
                }
            }
            batch.push(&round.known[chosen].outcome);
            if batch.len() == self.batch {
                batch.drain(..).for_each(|outcome| model.update(outcome));
            }
            each_round();
        }
        let mean = |sum: f64, count: f64| if count > 0.0 { sum / count } else { 0.0 };
        let random = mean(random, rounds as f64);
        Played {
            random,
            best_single: self.best_single().unwrap_or(random),
            reward: mean(reward, rounds as f64),
            regret,
            cost: cost.map(|sum| mean(sum, rounds as f64)),
            last_quarter: mean(last_quarter, (rounds - last) as f64),
            brier: mean(brier, predictions),
            log_loss: mean(log_loss, predictions),
            brier_of_counts: mean(brier_of_counts, predictions),
            calibration,
        }
    }
}

/// How well the later half of recorded outcomes was foreseen, each before it was learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LaterHalf {
    /// Outcomes with a reward in the later half.
    pub samples: u64,
    /// Mean squared distance between expected and seen reward; 0 with no samples.
    pub brier: f64,
    /// The same of the mean reward of these outcomes, which no forecast knows.
    pub brier_of_mean: f64,
    /// As [`Calibration::error`].
    pub calibration_error: f64,
}

/// Learns outcomes in their order with a new model, and scores what it expects of the later half.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub fn later_half(outcomes: &[Outcome], settings: Settings) -> LaterHalf {
    let mut model = AgentPerformanceModel::new(settings);
    let mut calibration = Calibration::default();
    let (mut samples, mut brier, mut sum, mut squares) = (0_u64, 0.0, 0.0, 0.0);
    for (number, outcome) in outcomes.iter().enumerate() {
        if number >= outcomes.len() / 2
            && let Some(seen) = outcome.reward()
        {
            let question = Question {
                tenant: &outcome.tenant,
                task_type: outcome.task_type.as_deref(),
                context: &outcome.context,
                candidates: Some(std::slice::from_ref(&outcome.agent)),
                exclude: &[],
            };
            if let Some(standing) = model.standings(&question).first() {
                let expected = standing.expected_success();
                brier += (expected - seen).powi(2);
                calibration.add(expected, seen);
                (samples, sum, squares) = (samples + 1, sum + seen, squares + seen * seen);
            }
        }
        model.update(outcome);
    }
    let mean = |sum: f64| if samples > 0 { sum / samples as f64 } else { 0.0 };
    LaterHalf {
        samples,
        brier: mean(brier),
        brier_of_mean: mean(squares) - mean(sum).powi(2),
        calibration_error: calibration.error(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Strategy;
    use crate::outcome::Status;

    const TABLE: &str = "id,task_type,ctx_size,ctx_lang,a,b\n\
                         x,s,1,go,0,1\ny,s,2.5,,0,1\nz,t,3,3,1,1\n";

    #[test]
    fn a_table_is_a_stream() {
        let stream = Stream::from_table("t", TABLE.as_bytes()).unwrap();
        assert_eq!(stream.agents, ["a", "b"]);
        let first = &stream.rounds[0];
        assert_eq!(first.task_type.as_deref(), Some("s"));
        assert_eq!(
            format!("{:?}", first.context),
            r#"[("lang", Text("go")), ("size", Number(1.0))]"#
        );
        assert_eq!(stream.rounds[1].context.len(), 1, "an empty field is no feature");
        assert_eq!(format!("{:?}", stream.rounds[2].context[0].1), r#"Text("3")"#);
        let typed = "ctx_code,ctx_yes,a\n007,True,1\n12,false,0\n";
        let stream = Stream::from_table("t", typed.as_bytes()).unwrap();
        assert_eq!(
            format!("{:?}", stream.rounds[0].context),
            r#"[("code", Text("007")), ("yes", Bool(true))]"#
        );
        let values: Vec<f64> = first.known.iter().map(|known| known.value).collect();
        assert_eq!(values, [0.0, 1.0]);
        for wrong in ["", "id,task_type\nx,s\n", "a,b\n"] {
            assert!(Stream::from_table("t", wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_stream_is_read_and_played() {
        let text = r#"{"meta": {"stream": "s", "seed": 3, "batch": 2, "agents": ["b", "a"]}}
{"task_type": "t", "context": {"k": "v"}, "outcomes": {"a": {"status": "failure", "value": 0.25}, "b": {"status": "success"}}}
{"outcomes": {"a": {"status": "failure"}, "b": {"status": "partial", "quality": 0.5}}}"#;
        let stream = Stream::from_ndjson(text.as_bytes()).unwrap();
        assert_eq!((&*stream.name, stream.seed, stream.batch), ("s", 3, 2));
        assert_eq!(stream.agents, ["a", "b"]);
        let values: Vec<f64> = stream.rounds[0].known.iter().map(|known| known.value).collect();
        assert_eq!(values, [0.25, 1.0]);
        for strategy in Strategy::ALL {
            let settings = Settings { strategy, ..Settings::default() };
            let mut shown = 0;
            let played = stream.play(settings, &Terms::default(), 1, || shown += 1);
            assert_eq!(shown, 2);
            assert!((2.0 * played.reward + played.regret - 1.5).abs() < 1e-12);
            let again = stream.play(settings, &Terms::default(), 1, || ());
            assert_eq!(played.brier.to_bits(), again.brier.to_bits());
        }
        for (wrong, line) in [("", "empty"), ("{}", "line 1"), (&text[..text.len() - 9], "line 3")]
        {
            let Err(error) = Stream::from_ndjson(wrong.as_bytes()) else { panic!("{wrong}") };
            assert!(error.to_string().contains(line), "{error}");
        }
    }

    #[test]
    fn candidates_may_change_from_round_to_round() {
        let text = r#"{"meta": {"stream": "s", "seed": 3, "agents": ["a", "b", "c"]}}
{"candidates": ["b", "a"], "outcomes": {"a": {"status": "failure"}, "b": {"status": "success"}}}
{"outcomes": {"a": {"status": "success"}, "b": {"status": "failure"}, "c": {"status": "success"}}}
{"candidates": ["c"], "outcomes": {"c": {"status": "success", "value": 0.5}}}"#;
        let stream = Stream::from_ndjson(text.as_bytes()).unwrap();
        assert_eq!(stream.rounds[0].candidates.as_deref(), Some(&["a".into(), "b".into()][..]));
        let played = stream.play(Settings::default(), &Terms::default(), 1, || ());
        // By hand: (1/2 + 2/3 + 1/2) / 3. Nobody is there throughout.
        assert!((played.random - 5.0 / 9.0).abs() < 1e-12, "{played:?}");
        assert!((played.best_single - played.random).abs() < 1e-12);
        assert!((3.0 * played.reward + played.regret - 2.5).abs() < 1e-12);

        let wrong = |from: &str, to: &str, says: &str| {
            let Err(error) = Stream::from_ndjson(text.replace(from, to).as_bytes()) else {
                panic!("{to}")
            };
            assert!(error.to_string().contains(says), "{error}");
        };
        let names = "not a list of names of meta.agents";
        wrong(r#"["b", "a"]"#, r#"["b", "d"]"#, names);
        wrong(r#"["b", "a"]"#, "[]", names);
        wrong(r#"["b", "a"]"#, r#""a""#, names);
        wrong(r#"["b", "a"]"#, r#"["a"]"#, "line 2: there is an outcome of \"b\"");
        wrong(r#"["b", "a"]"#, r#"["a", "b", "c"]"#, "line 2: there is no outcome of agent \"c\"");
    }

    #[test]
    fn the_calibration_error_is_the_mean_distance_in_ten_bins() {
        let mut calibration = Calibration::default();
        assert!(calibration.error().abs() < 1e-12);
        for bin in 0..10_u32 {
            let expected = 0.05 + 0.1 * f64::from(bin);
            for seen in 0..100_u32 {
                // A tenth more than expected comes true.
                let come_true = 100.0 * (expected + 0.1).min(1.0);
                calibration.add(expected, f64::from(u8::from(f64::from(seen) < come_true - 0.5)));
            }
        }
        // In the last bin 0.05 is all there is room for.
        let error = calibration.error();
        assert!((error - 0.095).abs() < 1e-9, "{error}");
    }

    #[test]
    fn foresight_scores_what_was_expected_before_it_was_learned() {
        // Every second outcome is a success, whoever the agent: nothing is to be known but the mean.
        let outcome = |number: usize| {
            let status = if number.is_multiple_of(2) { Status::Success } else { Status::Failure };
            Outcome::new("a", status).on_task("t")
        };
        let outcomes: Vec<Outcome> = (0..400).map(outcome).collect();
        let seen = later_half(&outcomes, Settings::default());
        assert_eq!((seen.samples, seen.brier_of_mean), (200, 0.25));
        // A mean of n alternating outcomes is within 1/n of a half, and forgetting adds little.
        assert!((0.2..0.27).contains(&seen.brier), "{seen:?}");
        // An agent that turns from success to failure is not foreseen at first.
        let turned: Vec<Outcome> = (0..40)
            .map(|n| Outcome::new("a", if n < 20 { Status::Success } else { Status::Failure }))
            .collect();
        let seen = later_half(&turned, Settings::default());
        assert!(seen.brier > 0.2 && seen.brier_of_mean == 0.0 && seen.calibration_error > 0.3);
        let nothing = later_half(&[], Settings::default());
        assert_eq!((nothing.samples, nothing.brier, nothing.calibration_error), (0, 0.0, 0.0));
    }
}
