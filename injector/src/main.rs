//! The `coffer-injector` command: reads its arguments and wires the parts; the work is in the library.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use coffer_runtime::process::{Exit, forbid_core_dumps, harden};

fn main() -> ExitCode {
    harden();
    forbid_core_dumps();
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
