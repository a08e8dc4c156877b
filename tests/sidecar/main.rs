//! Tests of the `coffer` command, as its user and its application meet it.

mod endpoints;
