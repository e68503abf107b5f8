//! What the strategy `thompson` learns: five copies of one Bayesian logistic regression.
//!
//! # The model
//!
//! The log-odds of an agent's success on a task are a sum of effects, each with a Gaussian belief:
//!
//! ```text
//! logit p = [b + u_task + sum of c_k x_k]      shared: how hard the task is, for whichever agent
//!         + [A + sum of AC_k x_k]              the agent's own: overall, and per context feature
//!         + AT_task                            the agent's own on this task type
//!         + W_context                          the agent's own in this whole context, in one copy
//! ```
//!
//! `x_k` stands for the context (see `features`). `A` and the `AC_k` of an agent have one full covariance
//! (`block`); everything else is an independent Gaussian (`effect`). With one task type only, `u` and
//! `AT` would say what `b` and `A` say already, so they exist from the second one on.
//!
//! # What agents have in common
//!
//! `A` is stored under a wide base prior. Where it is used, what the tenant's agents have in common
//! takes the place of that prior (see `hierarchy`): a newcomer is expected to be like the others, as
//! far as these are alike.
//!
//! # Five copies
//!
//! How much agents differ between tasks and contexts, and whether they change, is not known
//! beforehand. So copies with different priors (see `copies`; whether there is a shared block
//! or an effect per whole context) learn side by side, and each has the weight that its predictions
//! earned in the ensemble (see `mixture`).
//!
//! # Learning
//!
//! One outcome changes the sum of the active effects only, so each copy's update is a problem in
//! one number `z`: a Gaussian with the sum's mean and variance times the likelihood of the outcome.
//! A Gaussian with the same moments stands for the product (assumed-density filtering, e.g. Opper, "A
//! Bayesian approach to on-line learning", 1998), and is carried back to the effects as a Kalman filter
//! does it. It is worked out under the base prior: where the tenant's pulled the sum to the others, an
//! outcome would seem to say more than it does. A reward between 0 and 1 is that share of a success.
//!
//! # Forgetting
//!
//! One copy lets every effect drift back to its prior, `mean <- r mean`,
//! `variance <- r^2 variance + (1 - r^2) prior`, once per outcome of the tenant. It is worked out
//! when an effect is next looked at, so what is not used costs nothing.

mod before_format_4;
mod block;
mod combinations;
mod copies;
mod effect;
mod family;
mod hierarchy;
mod opinion;
mod regression;
mod saved;

pub(in crate::model) use copies::Lanes;
pub(in crate::model) use regression::Logistic;

#[cfg(test)]
pub(in crate::model) use {block::Block, copies::COPIES, effect::Effect};
