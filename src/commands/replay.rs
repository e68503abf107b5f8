//! `replay`: what would the service have chosen? Plays full-information streams through the model
//! in this process, several at a time, and says what came of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::{Args, ValueHint, value_parser};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::commands::predict::one_of;
use crate::error::{Error, Result};
use crate::evaluate::{Calibration, Played, Stream};
use crate::model::{Preset, Settings, Strategy, Terms};

/// Rounds between two steps of the progress bar.
const ROUNDS_PER_STEP: u64 = 1_000;

/// Largest cost of an execution.
const COST_MAX: f64 = 1e12;

/// What to play.
#[derive(Debug, Args)]
pub struct Replay {
    /// Streams as JSON Lines, or tables (.csv: task_type, ctx_*, a 0/1 column per agent)
    #[arg(value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,
    /// Strategies that play
    #[arg(
        long = "strategy",
        value_name = "STRATEGY,STRATEGY",
        default_value = Strategy::Thompson.as_str(),
        value_delimiter = ',',
        value_parser = one_of(Strategy::ALL, Strategy::as_str)
    )]
    strategies: Vec<Strategy>,
    /// Objectives that each strategy plays for
    #[arg(
        long = "objective",
        value_name = "OBJECTIVE,OBJECTIVE",
        default_value = Preset::Success.as_str(),
        value_delimiter = ',',
        value_parser = one_of(Preset::ALL, Preset::as_str)
    )]
    objectives: Vec<Preset>,
    /// A CSV table of what an execution costs: agent, cost
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    costs: Option<PathBuf>,
    /// Play each file in N random orders; 0: as it is
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        value_parser = value_parser!(u64).range(0..=1_000_000)
    )]
    permutations: u64,
    // A stream adds its own, so that no two have the same draws.
    /// Seed of the draws
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Write a CSV row per run
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
}

/// One stream played by one strategy.
struct Run {
    stream: String,
    seed: u64,
    policy: Policy,
    played: Played,
}

/// By what agents are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Policy {
    strategy: Strategy,
    objective: Preset,
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.objective {
            Preset::Success => f.pad(self.strategy.as_str()),
            objective => f.pad(&format!("{} {}", self.strategy.as_str(), objective.as_str())),
        }
    }
}

/// Plays the plan, prints a line per stream and strategy to `out`.
///
/// # Errors
/// When a file can't be read or written, or nobody reads.
pub fn play(plan: &Replay, out: &mut impl Write) -> Result<()> {
    let costs = plan.costs.as_deref().map(read_costs).transpose()?.unwrap_or_default();
    let orders = plan.permutations.max(1);
    let jobs: Vec<(&Path, u64)> = plan
        .files
        .iter()
        .flat_map(|file| (0..orders).map(move |order| (file.as_path(), order)))
        .collect();
    let bar = progress_bar(jobs.len());
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, Result<Vec<Run>>)>> = Mutex::default();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((file, order)) = jobs.get(index) else { break };
            let runs = play_one(plan, &costs, file, *order, &bar);
            let failed = runs.is_err();
            done.lock().push((index, runs));
            if failed {
                // Nobody begins another one.
                next.store(jobs.len(), Ordering::Relaxed);
            }
            bar.inc(1);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    bar.finish_and_clear();
    let mut done = done.into_inner();
    done.sort_by_key(|(index, _)| *index);
    let mut runs = Vec::new();
    for (_, result) in done {
        runs.extend(result?);
    }
    if let Some(path) = &plan.out {
        write_rows(path, &runs)?;
    }
    print(&runs, out).map_err(Error::unprinted)
}

fn read_costs(path: &Path) -> Result<BTreeMap<String, f64>> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::Fatal(format!("can't read the costs in {}: {error}", path.display()))
    };
    let mut reader = csv::Reader::from_path(path).map_err(|error| failed(&error))?;
    let mut costs = BTreeMap::new();
    for row in reader.deserialize::<(String, f64)>() {
        let (agent, cost) = row.map_err(|error| failed(&error))?;
        if !(0.0..=COST_MAX).contains(&cost) {
            let allowed = format!("allowed is a number from 0 to {COST_MAX}");
            return Err(failed(&format!("{agent:?} costs {cost}, {allowed}")));
        }
        costs.insert(agent, cost);
    }
    Ok(costs)
}

fn play_one(
    plan: &Replay,
    costs: &BTreeMap<String, f64>,
    file: &Path,
    order: u64,
    bar: &ProgressBar,
) -> Result<Vec<Run>> {
    let in_file = |error: &dyn std::fmt::Display| {
        Error::Fatal(format!("can't replay {}: {error}", file.display()))
    };
    let input = BufReader::new(File::open(file).map_err(|error| in_file(&error))?);
    let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let is_table = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let stream = if is_table {
        Stream::from_table(&name.unwrap_or_default(), input)
    } else {
        Stream::from_ndjson(input)
    };
    let mut stream = stream.map_err(|error| in_file(&error))?;
    if let Some(unknown) = costs.keys().find(|agent| !stream.agents.contains(agent)) {
        return Err(in_file(&format!("it has no agent {unknown:?}, of which a cost is given")));
    }
    stream.set_costs(costs);
    if plan.permutations > 0 {
        stream.shuffle(order);
    }
    let policies = plan.strategies.iter().flat_map(|&strategy| {
        plan.objectives.iter().map(move |&objective| Policy { strategy, objective })
    });
    let runs = policies.map(|policy| {
        let Policy { strategy, objective } = policy;
        let terms = Terms { weights: objective.weights(), ..Terms::default() };
        let settings = Settings { strategy, ..Settings::default() };
        let mut rounds = 0;
        let played = stream.play(settings, &terms, plan.seed.wrapping_add(stream.seed), || {
            rounds += 1;
            if rounds % ROUNDS_PER_STEP == 0 {
                bar.tick();
            }
        });
        Run { stream: stream.name.clone(), seed: stream.seed, policy, played }
    });
    Ok(runs.collect())
}

fn progress_bar(jobs: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(jobs as u64);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_bar} {pos}/{len} eta {eta}") {
        bar.set_style(style);
    }
    bar
}

fn write_rows(path: &Path, runs: &[Run]) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::Fatal(format!("can't write {}: {error}", path.display()))
    };
    let mut writer = csv::Writer::from_path(path).map_err(|error| failed(&error))?;
    let header =
        ["dataset", "policy", "seed", "reward", "last25", "regret", "brier", "log_loss", "cost"];
    writer.write_record(header).map_err(|error| failed(&error))?;
    for Run { stream, seed, policy, played } in runs {
        let numbers =
            [played.reward, played.last_quarter, played.regret, played.brier, played.log_loss];
        let row = [stream.clone(), policy.to_string(), seed.to_string()];
        let cost = played.cost.map(|cost| cost.to_string()).unwrap_or_default();
        let row = row.into_iter().chain(numbers.map(|number| number.to_string())).chain([cost]);
        writer.write_record(row).map_err(|error| failed(&error))?;
    }
    writer.flush().map_err(|error| failed(&error))
}

/// Mean and standard error.
#[expect(clippy::cast_precision_loss, reason = "runs are few")]
fn mean(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let error = if values.len() > 1 { (squares / (count - 1.0) / count).sqrt() } else { 0.0 };
    (mean, error)
}

fn print(runs: &[Run], out: &mut impl Write) -> std::io::Result<()> {
    // In the order in which they came.
    let mut groups: Vec<(&str, Policy)> = Vec::new();
    for run in runs {
        if !groups.contains(&(&run.stream, run.policy)) {
            groups.push((&run.stream, run.policy));
        }
    }
    let policies = groups.iter().map(|(_, policy)| policy.to_string().len());
    let policy_width = policies.max().unwrap_or(0).max(6);
    let width = groups.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(6);
    writeln!(
        out,
        "{:width$}  {:policy_width$}  {:>4}  {:>15}  {:>6}  {:>6}  {:>9}  {:>12}  {:>6}  {:>8}  {:>11}  {:>8}",
        "stream",
        "policy",
        "runs",
        "reward",
        "random",
        "single",
        "regret",
        "last quarter",
        "Brier",
        "log loss",
        "calibration",
        "cost"
    )?;
    for (name, policy) in groups {
        let of_group: Vec<&Played> = runs
            .iter()
            .filter(|run| run.stream == name && run.policy == policy)
            .map(|run| &run.played)
            .collect();
        let of = |value: fn(&Played) -> f64| {
            mean(&of_group.iter().map(|played| value(played)).collect::<Vec<_>>())
        };
        let (reward, error) = of(|played| played.reward);
        let costs: Option<Vec<f64>> = of_group.iter().map(|played| played.cost).collect();
        let cost = costs.map(|costs| mean(&costs).0);
        let mut calibration = Calibration::default();
        for played in &of_group {
            calibration.merge(&played.calibration);
        }
        writeln!(
            out,
            "{name:width$}  {policy:policy_width$}  {:>4}  {:>15}  {:>6.4}  {:>6.4}  {:>9.1}  {:>12.4}  {:>6.4}  \
             {:>8.4}  {:>11.4}  {:>8}",
            of_group.len(),
            format!("{reward:.4} +- {error:.4}"),
            of(|played| played.random).0,
            of(|played| played.best_single).0,
            of(|played| played.regret).0,
            of(|played| played.last_quarter).0,
            of(|played| played.brier).0,
            of(|played| played.log_loss).0,
            calibration.error(),
            cost.map_or_else(|| "unknown".to_owned(), |cost| format!("{cost:.4}")),
        )?;
    }
    writeln!(
        out,
        "reward: mean per round; random: of a random choice; single: of the best single agent, known \
         afterwards;\nregret: sum of what the best agent of every round had more; Brier, log loss, \
         calibration error: of the expected\nsuccess of all agents in the second half; cost: mean per round"
    )
}
