//! The `coffer` command: reads its arguments and wires the engine; the work is in the library.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use coffer_runtime::process::{Exit, harden};

fn main() -> ExitCode {
    harden();
    let arguments = match cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        // clap prints help and version to standard output, and mistakes to standard error.
        Err(answer) => {
            let exit = if answer.use_stderr() { Exit::Usage } else { Exit::Done };
            let _ = answer.print();
            return exit.into();
        }
    };
    arguments.run()
}
