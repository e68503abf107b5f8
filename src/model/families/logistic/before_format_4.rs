//! What states of format 3 and before were learned under: four copies, whose effects had these priors.

use super::copies::{COPIES, Lanes, SCALES, scaled};

/// Copies then.
pub(super) const COPIES_THEN: usize = 4;
/// The copy whose beliefs the fifth begins with.
pub(super) const LIKE_THE_FIFTH: usize = 1;
/// Mean and variance of `A`.
pub(super) const OVERALL: (Lanes, Lanes) = ([0.7; COPIES], [0.5; COPIES]);
/// Variance of `AT`.
pub(super) const OWN_TASK: Lanes = scaled(0.2, SCALES);
