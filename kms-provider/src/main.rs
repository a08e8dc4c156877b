//! The `coffer-kms` command.

fn main() {}
