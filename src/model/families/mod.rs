//! Families of models of the chance of success, all behind the seam of [`Family`].

mod family;
pub(in crate::model) mod logistic;
mod member;

pub(in crate::model) use family::{Agents, CopyPrior, Family, Lesson, Room, Taken};
pub(in crate::model) use member::Member;
