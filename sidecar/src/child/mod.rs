//! A program run under Coffer: with secrets in its environment, and with Coffer standing in for it
//! towards whoever started them both.
//!
//! [`replace`] becomes the program. A [`Supervisor`] stays its parent: it hands signals on, keeps the
//! exit code, and starts the program anew after a rotation if it is to. As PID 1 of a container it
//! needs [`bury_orphans_during`] around it.

mod environment;
mod error;
mod orphans;
mod program;
mod restart;
mod secrets;
mod signals;
mod supervisor;
mod terminal;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;

use coffer_runtime::process::with_core_limit;

pub use self::environment::{Environment, EnvironmentErrors, VariableError};
pub use self::error::ChildError;
pub use self::orphans::bury_orphans_during;
pub use self::secrets::{FirstError, Rotation, Secrets};
pub use self::signals::{StopSignal, StopSignalError};
pub use self::supervisor::{Forward, Policy, Restart, Start, Supervisor};

/// A program and its arguments. Secrets have no place here: everyone on the machine can read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    program: OsString,
    arguments: Vec<OsString>,
}

impl Command {
    /// The program comes first, as a path or as a name to look for in `PATH`.
    pub fn new(argv: impl IntoIterator<Item = OsString>) -> Result<Self, ChildError> {
        let mut argv = argv.into_iter();
        match argv.next() {
            Some(program) if !program.is_empty() => Ok(Self { program, arguments: argv.collect() }),
            _ => Err(ChildError::NoProgram),
        }
    }

    /// The program, as it was named.
    #[must_use]
    pub fn program(&self) -> &OsStr {
        &self.program
    }

    fn builder(&self, environment: &Environment) -> std::process::Command {
        let mut builder = std::process::Command::new(&self.program);
        builder.args(&self.arguments);
        environment.set(&mut builder);
        builder
    }
}

/// Becomes `command`, with `environment` on top of the one this process has. Returns only on failure.
///
/// The program has the pid, the limits and the open standard streams of this process, and signals
/// act on it as they did on this one at its start. Nothing of this process's memory is left.
pub fn replace(command: &Command, environment: Environment) -> ChildError {
    let mut builder = command.builder(&environment);
    drop(environment);
    let error = with_core_limit(|| builder.exec());
    ChildError::start(command.program(), error)
}

/// A field of what proc(5) tells of this process.
fn own_status(field: &str) -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::to_owned)
}
