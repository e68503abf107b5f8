//! Families of models of the chance of success, all behind the seam of [`Family`].

mod beta;
mod family;
pub(in crate::model) mod logistic;
mod means;
mod member;

pub(in crate::model) use family::{Candidate, CopyPrior, Learned, Lesson, Opinion, Room, Taken};
pub(in crate::model) use member::Member;
