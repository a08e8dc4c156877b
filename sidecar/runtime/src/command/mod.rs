//! How a command speaks and how it fails, the same for every program.

mod list;

use std::io::Write;

pub use self::list::{List, Output};
use crate::process::Exit;

/// A command that failed: the exit code, and what to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed(pub Exit, pub String);

#[expect(clippy::needless_pass_by_value, reason = "`map_err` passes by value")]
impl Failed {
    /// By wrong use or configuration: the same command will fail again.
    pub fn usage(error: impl ToString) -> Self {
        Self(Exit::Usage, error.to_string())
    }

    /// At run time: the same command may work later.
    pub fn at_run_time(error: impl ToString) -> Self {
        Self(Exit::Failed, error.to_string())
    }

    /// Says why, on standard error.
    #[must_use]
    pub fn exit(self) -> Exit {
        complain(&self.1);
        self.0
    }
}

/// Prints what was asked for, on standard output.
pub fn answer(text: &str) {
    // A reader that has gone away (`| head`) is no failure of ours.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints why a command failed, on standard error.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "error: {text}");
}
