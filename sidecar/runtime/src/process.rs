//! The life of a process: what it gives up at its start, how it is asked to end, what it answers.

use std::panic::PanicHookInfo;
use std::process::ExitCode;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Did what it was asked to.
    Done,
    /// Failed at run time; the same command may work later.
    Failed,
    /// Wrong use or configuration; the same command will fail again.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::from(1),
            Exit::Usage => Self::from(2),
        }
    }
}

/// Keeps secret values out of core dumps, out of other processes' reach through ptrace and
/// `/proc/PID/mem`, and out of panic messages. Call it first in `main`.
///
/// Each step is tried on its own: a sandbox may refuse one of them.
pub fn harden() {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    std::panic::set_hook(Box::new(report_panic));
}

/// A formatted panic message may quote data; only messages fixed in the source are shown.
fn report_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("message withheld");
    tracing::error!("panicked at {place}: {message}");
}

/// Requests to end: SIGTERM and SIGINT. Once made, neither ends the process by itself, also not as
/// PID 1.
#[derive(Debug)]
pub struct Termination {
    term: Signal,
    interrupt: Signal,
}

impl Termination {
    /// Starts listening. Fails only outside a tokio runtime with I/O.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next request and tells its name.
    pub async fn requested(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
