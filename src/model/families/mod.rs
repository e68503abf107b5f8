//! Families of models of the chance of success, all behind the seam of [`family::Family`].

mod beta;
mod family;
mod logistic;
mod means;
mod member;

pub(in crate::model) use family::{Candidate, CopyPrior, Lesson, Opinion, Room, Taken};
pub(in crate::model) use member::{COVARIANCE_ENTRY_BYTES, LogisticState, Member};

#[cfg(test)]
pub(in crate::model) use logistic::{Block, COPIES, Effect, Logistic};
