//! Tests of the built program from outside: over HTTP, signals, files and exit codes.

mod api;
mod cli;
mod crash;
mod dispatch;
mod faults;
mod harness;
mod kafka;
mod lifecycle;
mod readme;
