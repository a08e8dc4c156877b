//! The program `coffer-injector`.

fn main() {}
