//! Tests of the built program from outside: over HTTP, signals, files and exit codes.

mod access;
mod alerts;
mod api;
mod broker;
mod browser;
mod budgets;
mod cli;
mod crash;
mod dashboard;
mod day2;
mod decisions;
mod dispatch;
mod doctor;
mod evaluate;
mod faults;
mod harness;
mod kafka;
mod kafka_live;
mod lifecycle;
mod metrics;
mod objectives;
mod openapi;
mod pareto;
mod readme;
mod silent;
mod values;
