//! The model: what is believed about every agent, and which one to choose.
//!
//! # The idea
//!
//! An agent's chance of success on a task is unknown. What is known of it is a distribution (the
//! posterior). *Thompson sampling* draws one number from each agent's and ranks by the draws: an agent
//! that is probably best is mostly chosen, one that is little known is tried as often as it may yet be
//! best (Thompson 1933; Chapelle and Li, NIPS 2011).
//!
//! Few agents have a long record on every task type and in every context, so the log-odds of success are
//! a sum of effects that are shared between tasks and agents: a mixture of five Bayesian logistic
//! regressions (`logistic`), whose beliefs are what is stated, and from which agents are drawn
//! optimistically (`mixture`). How often a draw puts each first is worked out (`propensity`). Quality,
//! latency and cost are predicted by the last values (`values`), and compete or limit where a question
//! asks for it (`contest`). Other strategies have a Beta posterior or a mean per agent.
//!
//! # Invariants
//!
//! - No clock, no I/O, no thread, no global state; the random number generator is passed in.
//! - The model is a function of the outcomes and their order. How the stream is cut into
//!   micro-batches changes nothing, not even the last bit.
//! - A clone shares all of its parts with the original and copies a part only when one of them
//!   changes it: publishing a snapshot never copies the model.
//! - Everything that grows with names from outside is capped ([`Caps`]).
//!
#![doc = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/model/README.md"))]

mod belief;
mod canonical;
mod caps;
mod contest;
mod control;
mod ensemble;
mod explanation;
mod families;
mod features;
mod hashing;
mod holding;
mod learning;
mod log_odds;
mod mixture;
mod names;
mod pareto;
mod performance;
mod posterior;
mod predictions;
mod propensity;
mod question;
mod ranking;
mod records;
mod saved;
mod score;
mod settings;
mod shares;
mod small_map;
mod tenant;
mod values;

pub use belief::{Belief, Standing};
pub use caps::Used;
pub use contest::{
    Contest, EVIDENCE_MIN, Excluded, Limits, OnUnknown, Preset, Scales, Terms, Verdict, Verdicts,
    Violation, Weights,
};
pub use control::Control;
pub use explanation::{CopyWeight, Explanation, Part};
pub use mixture::Mixture;
pub use pareto::{Merits, dominators};
pub use performance::AgentPerformanceModel;
pub use posterior::{Posterior, probabilities_best};
pub use predictions::best_first;
pub use question::{Parts, Question};
pub use ranking::{Recommendation, best_expected, best_probabilities, propensities, rank};
pub use records::{
    Agent, Cell, ContextKey, Other, RECENT_VALUES, Recent, SCORE_WINDOW, Score, Tally, ValueKind,
};
pub use settings::{Caps, Settings, Strategy};
pub use tenant::Tenant;
pub use values::{Measure, Predicted, Value};

#[cfg(test)]
mod tests;

#[cfg(test)]
mod belief_tests;
#[cfg(test)]
mod contest_tests;
#[cfg(test)]
mod robustness_tests;

#[cfg(test)]
mod value_tests;
