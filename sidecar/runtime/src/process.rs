//! The life of a process: what it gives up at its start, how it is asked to end, what it answers.

use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::sync::OnceLock;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
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
/// Each step is tried on its own: a sandbox may refuse one of them. Programs that this process
/// starts are to have their core dumps as before: see [`with_core_limit`].
pub fn harden() {
    lower_core_limit();
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    std::panic::set_hook(Box::new(report_panic));
}

/// The limit of core dumps that this process was started with, once it has been lowered.
static CORE_LIMIT: OnceLock<Rlimit> = OnceLock::new();

/// Only the soft limit is lowered: a hard one could not be raised again for those we start.
fn lower_core_limit() {
    let inherited = CORE_LIMIT.get_or_init(|| getrlimit(Resource::Core));
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), ..*inherited });
}

/// Lowers the hard limit too, for a process that starts nobody whose core dumps are its own affair.
pub fn forbid_core_dumps() {
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Runs `start`, which starts another program, under the limit of core dumps that this process
/// was itself started with. Meanwhile this process still leaves none: it is not dumpable.
pub fn with_core_limit<T>(start: impl FnOnce() -> T) -> T {
    let Some(inherited) = CORE_LIMIT.get() else { return start() };
    let _ = setrlimit(Resource::Core, *inherited);
    let result = start();
    lower_core_limit();
    result
}

/// Whether this process was started to ignore a signal, as long as it does not listen for it: nohup(1)
/// does that with SIGHUP. What it ignores, those that it starts ignore too.
#[must_use]
pub fn ignores(signal: rustix::process::Signal) -> bool {
    // Nobody can ask for the set otherwise without unsafe code; proc(5), `SigIgn`.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.unwrap_or(0) & (1 << (signal.as_raw() - 1)) != 0
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_started_has_the_core_limit_of_before() {
        let before = getrlimit(Resource::Core);
        // Not zero where that may be, so that the test can tell.
        let inherited = Rlimit { current: before.maximum, ..before };
        setrlimit(Resource::Core, inherited).unwrap();
        lower_core_limit();
        let lowered = Rlimit { current: Some(0), ..before };
        assert_eq!(getrlimit(Resource::Core), lowered);
        assert_eq!(with_core_limit(|| getrlimit(Resource::Core)), inherited);
        assert_eq!(getrlimit(Resource::Core), lowered);
    }
}
