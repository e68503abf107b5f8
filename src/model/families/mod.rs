//! Families of models of the chance of success.

pub(in crate::model) mod logistic;
