//! What an execution brings beside success: quality, latency and cost, each predicted by the same
//! mechanism, without assuming a shape: executions that hang, time-outs and price lists have none.
//!
//! # What is kept
//!
//! The last [`window::WINDOW`] values of each measure ([`window::Window`]): of every agent on every task type (a
//! [`records::Cell`]), of every agent, and of the tenant. Older ones are forgotten, so that a change is followed
//! and what was wrong is gone. What the context adds is learned beside them ([`effects`]).
//!
//! # What is predicted
//!
//! The mean of an agent on a task type is that of its cell, held back by what its other task types and the
//! tenant's other agents say (two levels of shrinkage, whose spreads are estimated: [`predict`]); what one
//! execution stays below is the quantile of its values, which in a small cell are joined by as many as are
//! worth [`predict::PRIOR_VALUES`] from there. From [`predict::ENOUGH`] values on a cell speaks for itself.
//! No agent's value moves what is believed of another by more than its share in that.
//!
//! # Absurd values
//!
//! A latency or cost far above the others counts as one at the edge of what is near, unless such values
//! recur: see [`predict`]. What was paid is counted elsewhere, exactly.
//!
//! # Memory
//!
//! All tenants together have so many bytes. When they are used up, the tenant that holds most gives some
//! back: its cells that have learned nothing for longest go first (their last values are still among the
//! agent's), then windows of its agents are halved. Who gives way follows from outcomes and their order
//! alone.

mod effects;
mod measure;
mod predict;
mod records;
mod state;
mod window;

pub use measure::Measure;
pub(super) use predict::Asking;
pub use predict::{Predicted, Value};
pub(super) use records::{GivenBack, Own, Values};
pub(super) use state::{RecordsRef, RecordsState, Restored, SumsState};
pub(super) use window::Growth;
