//! The bits of what is learned and answered: a change that should change neither is held to it.
//!
//! Every case learns a stream and hashes, on the way, what the model foretells, its digest, and its
//! answers (expectations, intervals, propensities, draws by a seed, explanations, contests). Where a
//! change is meant to alter the bits, `GOLDEN_PRINT=1` prints the constants that stand below.
//!
//! Rounding of `exp` and `ln` is the C library's own. Where it rounds otherwise than on the machine the
//! constants are from, nothing is compared, and the test says `skipped`.

#![expect(clippy::print_stdout, reason = "a test says what it skips, and prints bits on request")]
#![expect(clippy::unwrap_used, reason = "a test fails where it can go no further")]

use std::fmt::Write;

use online_learning::model::{
    AgentPerformanceModel, Caps, Contest, Control, Limits, Measure, OnUnknown, Preset, Question,
    Recommendation, Settings, Strategy, Terms, best_probabilities, propensities, rank,
};
use online_learning::outcome::{Context, Feature, Outcome, Status};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Of [`rounding`], where the constants are from.
const ROUNDING: &str = "8a82e40395b89f354713edc20f4ab47a4b5b2f42c2cad97e713a4f0f9400107f";

const CASES: [(&str, &str); 13] = [
    ("sample, thompson", "99afc7600ca36c1bec0951818d55abd881288687c1972ccd7c1362bc61473cc0"),
    ("sample, beta", "4cce3b8906a3563fd9c7e60ac0bacc568ce06fa76eef2f645b6f7a1a251005b4"),
    ("sample, moving_average", "5705bdf0b847c2ac4b8f9ed32494730f861a4e7f31f9d7e921e3bb8ed74206d2"),
    ("sample, exponential", "0fd9e81c1a3265fb9304a8f71046503fdbcc3c140982d829b57c7bdb37463459"),
    ("made up, thompson", "0e5e7f8107f5c3206e453735d5e31ee60d58cdf3367887f9c83855a317937fe3"),
    ("made up, beta", "ecdb843f26b5afd595c9fd7fde5d9c0f79e84aa7ab8fca3e7a803c58e96b9669"),
    ("made up, little room", "ccfb1bc881ae1eaf2c04db45616b5c80525586d55b754fcedbe0f8c31558dbb3"),
    (
        "made up, operator's prior",
        "fe5fb98fa3c18d055a4df2f8be564c5696fc798451a9be36ec75ba03e80e54cf",
    ),
    ("format 2", "a7ca632705404fec50ca30681f4b870bc151c6d8679444a5cd8f076d8d9849a6"),
    ("format 3", "59ab34c70969b8afad733b89692e9507608bf71747c4b82e1454df90593fa61f"),
    ("format 3, values", "1d02a08069a30ce13e98b7ccd72a613f6630f621857cbe8a8fe106a5d64af8b8"),
    ("saved, learned again", "f1f1432bcae19b00a85b2aaddbef3ccf12b57e349c1ca586a4b3ccf1888fd19b"),
    ("saved, another strategy", "dca0c245bc131234809c2342692a88b0613bdf996f4ecd449c1f425b9636678e"),
];

/// A hash of what is seen, bit by bit.
struct Seen(Sha256);

impl Seen {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn number(&mut self, number: f64) {
        self.0.update(number.to_bits().to_be_bytes());
    }

    fn numbers(&mut self, numbers: impl IntoIterator<Item = f64>) {
        for number in numbers {
            self.number(number);
        }
    }

    fn text(&mut self, text: &str) {
        self.0.update(text.as_bytes());
        self.0.update([0xff]);
    }

    fn ranked(&mut self, ranked: &[Recommendation]) {
        for one in ranked {
            self.text(&one.agent);
            self.number(one.score);
            let parts = &one.parts;
            self.number(parts.success);
            self.numbers([parts.quality, parts.latency, parts.cost].into_iter().flatten());
        }
    }

    fn contest(&mut self, contest: &Contest, seed: u64) {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        self.numbers(contest.propensities());
        self.ranked(&contest.rank(true, &mut rng));
        self.ranked(&contest.rank(false, &mut rng));
        self.text(&format!("{:?} {:?}", contest.verdicts, contest.excluded));
    }

    /// Everything that is answered to a question.
    fn answers(&mut self, model: &AgentPerformanceModel, question: &Question<'_>) {
        let seed = model.sequence();
        let standings = model.standings(question);
        for standing in &standings {
            self.text(&standing.agent);
            self.number(standing.expected_success());
            self.numbers(standing.interval().into_iter().flatten());
            self.numbers([0.02, 0.5, 0.99].map(|p| standing.success_quantile(p)));
            self.numbers([0.1, 0.7].into_iter().filter_map(|p| standing.density(p)));
            self.text(&format!("{} {}", standing.samples, standing.evidence));
            let explanation = model.explain(question, &standing.agent);
            self.text(&serde_json::to_string(&explanation).unwrap());
        }
        self.numbers(propensities(&standings));
        self.numbers(best_probabilities(&standings));
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        self.ranked(&rank(&standings, true, &mut rng));
        self.ranked(&rank(&standings, false, &mut rng));
        for (index, preset) in Preset::ALL.into_iter().enumerate() {
            let limits = Limits {
                max_latency_ms: (index == 1).then_some(900.0),
                min_success: (index == 2).then_some(0.4),
                ..Limits::default()
            };
            let terms = Terms {
                weights: preset.weights(),
                limits,
                on_unknown: OnUnknown::ALL[index % 3],
                explore_min: if index == 3 { 0.05 } else { 0.0 },
                ..Terms::default()
            };
            self.contest(&model.contest(question, &terms), seed);
        }
        for measure in Measure::ALL {
            for one in model.predictions(question, measure, &[0.5, 0.9]) {
                self.numbers(one.value.map(|value| value.mean()));
                self.numbers(one.quantiles);
            }
        }
    }

    fn hex(self) -> String {
        self.0.finalize().iter().fold(String::new(), |mut text, byte| {
            // Writing to a String can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// How this machine rounds what the model computes with.
fn rounding() -> String {
    let mut seen = Seen::new();
    for step in 1..4_000 {
        let x = f64::from(step) / 97.0;
        seen.numbers([(-x).exp(), x.ln(), x.ln_1p(), (-x).exp_m1(), x.powf(0.3), (x / 9.0).sinh()]);
    }
    seen.hex()
}

/// Learns the outcomes, and asks each one's question (of another agent's outcome as well: what nobody
/// knows) at every `every`th.
fn learn(model: &mut AgentPerformanceModel, outcomes: &[Outcome], every: usize, seen: &mut Seen) {
    for (number, outcome) in outcomes.iter().enumerate() {
        seen.numbers(model.foretell(outcome));
        if number % every == every - 1 {
            let candidates: Vec<String> =
                ["agent-1", "agent-2", "agent-5", "nobody"].map(str::to_owned).to_vec();
            let question = Question {
                tenant: &outcome.tenant,
                task_type: outcome.task_type.as_deref(),
                context: &outcome.context,
                candidates: None,
                exclude: &[],
            };
            seen.answers(model, &question);
            let unknown: Context = vec![
                ("color".to_owned(), Feature::Text("never seen".to_owned())),
                ("pages".to_owned(), Feature::Number(17.0)),
            ];
            let candidates = Some(&*candidates);
            seen.answers(model, &Question { candidates, context: &unknown, ..question });
            let task_type = Some("never seen");
            seen.answers(model, &Question { candidates, task_type, ..question });
            seen.text(&model.digest());
        }
    }
    seen.text(&model.digest());
}

fn sample() -> Vec<Outcome> {
    let lines = include_str!("../data/sample_outcomes.jsonl").lines();
    lines.map(|line| Outcome::parse(line.as_bytes(), 0, String::new).unwrap()).collect()
}

/// Three tenants, agents and task types that come and go, every kind of context value.
fn made_up(count: u32) -> Vec<Outcome> {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(11);
    let mut outcome = |number: u32| {
        let agent = rng.random_range(0..6 + number / 60);
        let task = rng.random_range(0..3 + number / 150);
        let color = ["red", "green", "blue"][rng.random_range(0..3)];
        let pages = f64::from(rng.random_range(1..40)).powi(2);
        let chance = 0.25 + 0.06 * f64::from((agent * 5 + task * 3) % 9)
            - if color == "red" && agent % 2 == 0 { 0.2 } else { 0.0 };
        let status = match rng.random_range(0.0..1.0) {
            drawn if drawn < 0.04 => Status::Cancelled,
            drawn if drawn < 0.1 => Status::Timeout,
            drawn if drawn < 0.18 => Status::Partial,
            _ if rng.random_bool(chance) => Status::Success,
            _ => Status::Failure,
        };
        let mut context = vec![("color".to_owned(), Feature::Text(color.to_owned()))];
        if rng.random_bool(0.7) {
            context.push(("pages".to_owned(), Feature::Number(pages)));
        }
        if rng.random_bool(0.5) {
            context.push(("scanned".to_owned(), Feature::Bool(rng.random_bool(0.5))));
        }
        if rng.random_bool(0.2) {
            let id = rng.random_range(0..500);
            context.push(("user".to_owned(), Feature::Text(format!("user-{id}"))));
        }
        context.sort_by(|a, b| a.0.cmp(&b.0));
        Outcome {
            tenant: ["default", "north", "south"][rng.random_range(0..8_usize).min(2)].to_owned(),
            context,
            latency_ms: rng.random_bool(0.9).then(|| 200.0 + 3.0 * pages + f64::from(agent * 90)),
            quality: rng.random_bool(0.5).then(|| rng.random_range(0.0..1.0)),
            cost: rng.random_bool(0.6).then(|| 0.002 * f64::from(1 + agent % 4)),
            ..Outcome::new(format!("agent-{agent}"), status).on_task(format!("task-{task}"))
        }
    };
    (0..count).map(&mut outcome).collect()
}

fn by(strategy: Strategy) -> Settings {
    Settings { strategy, ..Settings::default() }
}

fn little_room() -> Settings {
    let caps = Caps {
        tenants: 3,
        agents_per_tenant: 9,
        task_types_per_tenant: 4,
        context_keys_per_tenant: 3,
        context_values_per_key: 20,
        cells: 120,
        recent_values: 400,
        joint_values_per_agent: 3,
        effects: 220,
        ..Caps::default()
    };
    Settings { caps, ..Settings::default() }
}

/// A stream with control entries, and with a restart in the middle.
fn with_controls(settings: Settings, seen: &mut Seen) {
    let outcomes = made_up(900);
    let mut model = AgentPerformanceModel::new(settings);
    for (number, part) in outcomes.chunks(300).enumerate() {
        learn(&mut model, part, 75, seen);
        let control = match number {
            0 => Control::RemoveAgent { tenant: "default".to_owned(), agent: "agent-2".to_owned() },
            1 => Control::CloseRoom,
            _ => Control::OpenRoom,
        };
        seen.numbers(model.apply(&control));
        let json = serde_json::to_vec(&model.state()).unwrap();
        model = AgentPerformanceModel::from_state(&*json, model.sequence(), settings).unwrap();
        seen.text(&model.digest());
    }
}

/// A saved file of an older format: what it says, and what comes after it.
fn restored(file: &str, seen: &mut Seen) {
    let file: Value = serde_json::from_str(file).unwrap();
    let state = serde_json::to_vec(&file["state"]).unwrap();
    let mut model = AgentPerformanceModel::from_state(&*state, 90, Settings::default()).unwrap();
    seen.text(&model.digest());
    learn(&mut model, &sample()[..120], 30, seen);
}

/// A state that was saved under one strategy and is read under another.
fn other_strategy(from: Strategy, to: Strategy, seen: &mut Seen) {
    let outcomes = made_up(300);
    let mut before = AgentPerformanceModel::new(by(from));
    for outcome in &outcomes {
        before.update(outcome);
    }
    let json = serde_json::to_vec(&before.state()).unwrap();
    let mut model = AgentPerformanceModel::from_state(&*json, 300, by(to)).unwrap();
    seen.text(&format!("{} {}", model.digest(), model.lacks_effects()));
    if model.lacks_effects() {
        model.forget_effects();
        for outcome in &outcomes {
            model.relearn(outcome);
        }
        model.relearn_control(&Control::RemoveAgent {
            tenant: "default".to_owned(),
            agent: "agent-3".to_owned(),
        });
    }
    learn(&mut model, &outcomes[..100], 50, seen);
}

fn play(case: &str) -> String {
    let mut seen = Seen::new();
    match case {
        "made up, thompson" => with_controls(Settings::default(), &mut seen),
        "made up, beta" => with_controls(by(Strategy::Beta), &mut seen),
        "made up, little room" => with_controls(little_room(), &mut seen),
        "made up, operator's prior" => {
            let (prior_alpha, prior_beta) = (Some(4.0), Some(1.5));
            let settings = Settings { prior_alpha, prior_beta, ..Settings::default() };
            with_controls(settings, &mut seen);
        }
        "format 2" => restored(include_str!("fixtures/model_format_2.json"), &mut seen),
        "format 3" => restored(include_str!("fixtures/model_format_3.json"), &mut seen),
        "format 3, values" => {
            restored(include_str!("fixtures/model_format_3_values.json"), &mut seen);
        }
        "saved, learned again" => {
            other_strategy(Strategy::Beta, Strategy::Thompson, &mut seen);
        }
        "saved, another strategy" => {
            other_strategy(Strategy::Thompson, Strategy::Exponential, &mut seen);
        }
        sample_by => {
            let name = sample_by.strip_prefix("sample, ").expect("all others are above");
            let strategy = Strategy::ALL.into_iter().find(|strategy| strategy.as_str() == name);
            let strategy = strategy.expect("the case names a strategy");
            learn(&mut AgentPerformanceModel::new(by(strategy)), &sample(), 100, &mut seen);
        }
    }
    seen.hex()
}

#[test]
fn bits_are_what_they_were() {
    let here = rounding();
    let played: Vec<String> = CASES.iter().map(|(case, _)| play(case)).collect();
    if std::env::var_os("GOLDEN_PRINT").is_some() {
        let lines =
            CASES.iter().zip(&played).fold(String::new(), |mut lines, ((case, _), bits)| {
                // Writing to a String can't fail.
                let _ = writeln!(lines, "    ({case:?}, {bits:?}),");
                lines
            });
        panic!("rounding {here:?}\n{lines}");
    }
    if here != ROUNDING {
        println!("skipped: exp and ln round otherwise here than where the constants are from");
        return;
    }
    for ((case, expected), bits) in CASES.iter().zip(&played) {
        assert_eq!(bits, expected, "{case}");
    }
}
