//! The signals that are handed on to the program.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::str::FromStr;
use std::task::Poll;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use coffer_runtime::process::ignores;

use crate::spec::nearest;

/// Every signal that is handed on, those that ask to end first: of several that wait, they count.
///
/// Left out are KILL and STOP, which cannot be caught; CHLD, which is about our own children; TTIN
/// and TTOU, which the terminal sends to whom it concerns; PIPE, which a log that nobody reads sends
/// to us; and ILL, TRAP, BUS, FPE, SEGV and SYS, which tell of a fault of our own. Real-time signals
/// cannot be sent without unsafe code.
const FORWARDED: [(Signal, &str); 19] = [
    (Signal::TERM, "SIGTERM"),
    (Signal::INT, "SIGINT"),
    (Signal::QUIT, "SIGQUIT"),
    (Signal::HUP, "SIGHUP"),
    (Signal::USR1, "SIGUSR1"),
    (Signal::USR2, "SIGUSR2"),
    (Signal::ALARM, "SIGALRM"),
    (Signal::CONT, "SIGCONT"),
    (Signal::TSTP, "SIGTSTP"),
    (Signal::WINCH, "SIGWINCH"),
    (Signal::URG, "SIGURG"),
    (Signal::IO, "SIGIO"),
    (Signal::POWER, "SIGPWR"),
    (Signal::VTALARM, "SIGVTALRM"),
    (Signal::PROF, "SIGPROF"),
    (Signal::XCPU, "SIGXCPU"),
    (Signal::XFSZ, "SIGXFSZ"),
    // For the program's own abort: ours ends us all the same, for abort(3) tries again.
    (Signal::ABORT, "SIGABRT"),
    (Signal::STKFLT, "SIGSTKFLT"),
];

/// The name of a signal that is handed on.
pub(super) fn name(signal: Signal) -> &'static str {
    FORWARDED.iter().find(|(known, _)| *known == signal).map_or("a signal", |(_, name)| name)
}

/// Whether a signal ends a program that does nothing about it (signal(7), "Standard signals").
pub(super) fn is_deadly(signal: Signal) -> bool {
    !matches!(signal, Signal::CONT | Signal::TSTP | Signal::WINCH | Signal::URG)
}

/// The signal that asks a program to end: `SIGTERM`, or what an image declares as its STOPSIGNAL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StopSignal(pub(super) Signal);

impl StopSignal {
    /// What programs end on unless they say otherwise.
    pub const TERM: Self = Self(Signal::TERM);
}

/// A text that names no signal to stop a program with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no signal to stop a program with; {hint}")]
pub struct StopSignalError {
    text: String,
    hint: String,
}

impl FromStr for StopSignal {
    type Err = StopSignalError;

    /// Takes a name with or without `SIG`, in any case, or a number.
    fn from_str(text: &str) -> Result<Self, StopSignalError> {
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        if bare == "KILL" || bare == "9" {
            return Ok(Self(Signal::KILL));
        }
        let found = FORWARDED
            .iter()
            .find(|(signal, name)| name.strip_prefix("SIG") == Some(bare) || bare.parse() == Ok(signal.as_raw()));
        found.map(|(signal, _)| Self(*signal)).ok_or_else(|| {
            let names = FORWARDED.iter().filter_map(|(_, name)| name.strip_prefix("SIG"));
            // The nearest is found among words in lower case.
            let lower: Vec<String> = names.map(str::to_lowercase).collect();
            let hint = match nearest(bare, lower.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `SIG{}`?", near.to_uppercase()),
                None => "write one such as `SIGTERM`, `SIGINT` or `SIGQUIT`".to_owned(),
            };
            StopSignalError { text: text.to_owned(), hint }
        })
    }
}

impl fmt::Display for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 == Signal::KILL { "SIGKILL" } else { name(self.0) })
    }
}

impl fmt::Debug for StopSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// A signal to hand on.
    Signal(Signal),
    /// A child of this process ended, stopped or went on.
    Child,
}

/// Listens for signals. From its making on, none ends this process, nor is lost: each waits until
/// it is asked for, once however often it came.
#[derive(Debug)]
pub(super) struct Signals {
    child: tokio::signal::unix::Signal,
    forwarded: Vec<(Signal, tokio::signal::unix::Signal)>,
}

impl Signals {
    /// Starts listening. Fails only where the system has no pipe or file descriptor left.
    ///
    /// What this process was started to ignore, as under `nohup`, it goes on ignoring: the program
    /// inherits that, and would not if we listened.
    pub(super) fn listen() -> io::Result<Self> {
        let mut forwarded = Vec::with_capacity(FORWARDED.len());
        for (kind, _) in FORWARDED.iter().filter(|(kind, _)| !ignores(*kind)) {
            forwarded.push((*kind, signal(SignalKind::from_raw(kind.as_raw()))?));
        }
        Ok(Self { child: signal(SignalKind::child())?, forwarded })
    }

    /// The next arrival. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Arrival {
        self.next_of(|_| true).await
    }

    /// The next arrival, where signals other than the wanted go on waiting.
    pub(super) async fn next_of(&mut self, wanted: impl Fn(Signal) -> bool) -> Arrival {
        poll_fn(|context| {
            for (kind, listener) in self.forwarded.iter_mut().filter(|(kind, _)| wanted(*kind)) {
                if listener.poll_recv(context).is_ready() {
                    return Poll::Ready(Arrival::Signal(*kind));
                }
            }
            self.child.poll_recv(context).map(|_| Arrival::Child)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_names_of_signals() {
        for (text, expected) in
            [("SIGTERM", "SIGTERM"), ("quit", "SIGQUIT"), ("SigUsr1", "SIGUSR1"), ("28", "SIGWINCH"), ("9", "SIGKILL")]
        {
            assert_eq!(text.parse::<StopSignal>().unwrap().to_string(), expected, "{text}");
        }
        for (text, expected) in [
            ("SIGTREM", "`SIGTREM` is no signal to stop a program with; did you mean `SIGTERM`?"),
            ("17", "`17` is no signal to stop a program with; write one such as `SIGTERM`, `SIGINT` or `SIGQUIT`"),
            ("", "`` is no signal to stop a program with; write one such as `SIGTERM`, `SIGINT` or `SIGQUIT`"),
        ] {
            assert_eq!(text.parse::<StopSignal>().unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn knows_what_is_ignored_signals() {
        // Rust's runtime ignores SIGPIPE at the start of every program.
        assert!(ignores(Signal::PIPE));
        assert!(!ignores(Signal::TERM));
    }
}
