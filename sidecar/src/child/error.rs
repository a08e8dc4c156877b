//! Why a program could not be run.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// Why a program could not be run, or not be waited for.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// No program was named.
    #[error("no program is named; write it and its arguments after `--`")]
    NoProgram,
    /// The program does not exist, or what its first line names does not.
    #[error("cannot run `{program}`: {reason}")]
    NotFound {
        /// As it was named.
        program: String,
        /// What does not exist.
        reason: String,
    },
    /// The program exists and cannot be executed.
    #[error("cannot run `{program}`: {reason}")]
    NotExecutable {
        /// As it was named.
        program: String,
        /// Why, and the way out.
        reason: &'static str,
    },
    /// The system refused to start it for a reason of its own, such as a limit.
    #[error("cannot run `{program}`: {source}")]
    Start {
        /// As it was named.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The system has no means left to listen for signals.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// The program's end cannot be known: something else in this process has waited for it.
    #[error("cannot wait for the program: {0}")]
    Wait(#[source] io::Error),
}

impl ChildError {
    /// The exit code that tells it, as shells and env(1) have it: 127 for a program that is not found,
    /// 126 for one that cannot be executed; 1 for a failure of our own, 2 for wrong use.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => 127,
            Self::NotExecutable { .. } | Self::Start { .. } => 126,
            Self::NoProgram => 2,
            Self::Signals(_) | Self::Wait(_) => 1,
        }
    }

    pub(super) fn start(program: &OsStr, source: io::Error) -> Self {
        let shown = program.to_string_lossy().escape_debug().to_string();
        let not_executable = |reason| Self::NotExecutable { program: shown.clone(), reason };
        match Errno::from_io_error(&source) {
            Some(Errno::NOENT | Errno::NOTDIR) => Self::NotFound { reason: missing(program), program: shown },
            Some(Errno::ACCESS | Errno::PERM) if Path::new(program).is_dir() => {
                not_executable("it is a directory; name a program")
            }
            Some(Errno::ACCESS | Errno::PERM) => {
                not_executable("it may not be executed; check its mode (`chmod +x`) and that its mount allows it")
            }
            Some(Errno::NOEXEC) => not_executable(
                "it is no program of this system; a script needs a first line such as `#!/bin/sh`, a binary the right architecture",
            ),
            Some(Errno::TOOBIG) => not_executable(
                "its arguments and its environment are more than Linux hands on; publish large values as files",
            ),
            _ => Self::Start { program: shown, source },
        }
    }
}

/// What of `program` does not exist.
fn missing(program: &OsStr) -> String {
    let path = Path::new(program);
    let found = if path.components().count() > 1 || path.is_absolute() {
        path.exists()
    } else {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&folders).any(|folder| folder.join(path).exists()) {
            return "it is in no directory of PATH".to_owned();
        }
        true
    };
    match found {
        true => {
            "its interpreter (the first line of a script, or the loader of a binary) does not exist here".to_owned()
        }
        false => "there is no such file".to_owned(),
    }
}
