//! The copies of the regression, and under which priors each learns.

use crate::model::families::family::CopyPrior;

/// Copies of the model.
pub(in crate::model) const COPIES: usize = 5;
/// One number of each copy.
pub(in crate::model) type Lanes = [f64; COPIES];

/// How far an agent's effects may differ between contexts: the factor on their priors.
pub(super) const SCALES: Lanes = [0.15, 1.0, 4.0, 6.0, 1.0];
/// What the copies assume. Most weight has the copy that is right where little is to be had.
pub(super) const PRIORS: [CopyPrior; COPIES] = [
    CopyPrior { assumes: "agents differ little between tasks and contexts", weight: 0.4 },
    CopyPrior { assumes: "agents change, and differ between tasks and contexts", weight: 0.2 },
    CopyPrior { assumes: "agents differ much between tasks and contexts", weight: 0.2 },
    CopyPrior { assumes: "agents have no difficulty in common", weight: 0.1 },
    CopyPrior { assumes: "combinations of context values matter", weight: 0.1 },
];
/// The copy that forgets.
pub(super) const FORGETFUL: usize = 1;
/// What it keeps of every effect at an outcome of the tenant.
pub(super) const KEPT: f64 = 0.9999;
/// The copy with an effect per whole context.
pub(super) const COMBINING: usize = 4;
/// The copies with a shared block have 1 here.
pub(super) const SHARES: Lanes = [1.0, 1.0, 1.0, 0.0, 1.0];

/// Prior variances; that of `A` is the tenant's.
pub(super) const OWN_TASK: Lanes = [0.1, 0.5, 2.0, 3.0, 0.5];
pub(super) const OWN_FEATURE: Lanes = scaled(0.1, SCALES);
pub(super) const SHARED_BASE: Lanes = scaled(0.2, SHARES);
pub(super) const SHARED_TASK: Lanes = scaled(0.2, SHARES);
pub(super) const SHARED_FEATURE: Lanes = scaled(0.1, SHARES);

/// A variance times a factor of each copy.
pub(super) const fn scaled(variance: f64, factors: Lanes) -> Lanes {
    let mut scaled = factors;
    let mut copy = 0;
    while copy < COPIES {
        scaled[copy] *= variance;
        copy += 1;
    }
    scaled
}

/// A number of each copy.
pub(super) fn lanes(of: impl FnMut(usize) -> f64) -> Lanes {
    std::array::from_fn(of)
}
