//! The program. So far it has no commands.

fn main() {}
