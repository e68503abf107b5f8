//! What is watched while the service learns: how good its forecasts were, whether agents changed, what
//! is spent, who reports, which alerts fire, how the process does. Pure and bounded but for
//! [`process`], which reads what the kernel says.

pub mod alerts;
pub mod budget;
mod drift;
mod foresight;
pub mod instruments;
pub mod process;
pub mod reporting;
pub mod samples;

pub use drift::{Bin, Change, Forecast, Forecasts, PageHinkley, Watch, Watched};
pub use foresight::{BINS, Bin as ForesightBin, Foresight};
