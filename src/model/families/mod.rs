//! Families of models of the chance of success.

pub(in crate::model) mod beta;
pub(in crate::model) mod logistic;
