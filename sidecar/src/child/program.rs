//! The program while it runs.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Child;

use coffer_runtime::process::with_core_limit;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, kill_process_group, test_kill_process_group, waitid,
};

use super::supervisor::Forward;
use super::{ChildError, Command, Environment};

/// A program that was started and not yet buried: until then its numbers are its own, and a signal
/// cannot meet a stranger.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    pid: Pid,
    group: Pid,
}

/// What became of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It runs.
    None,
    /// It was stopped by this signal.
    Stopped(Signal),
    /// It ended, with the exit code that a shell would tell: 128 and the signal's number for a
    /// death by signal.
    Ended(u8),
}

impl Program {
    /// Starts `command` in a process group of its own, or in `group`.
    pub(super) fn start(command: &Command, environment: &Environment, group: Option<Pid>) -> Result<Self, ChildError> {
        let mut builder = command.builder(environment);
        builder.process_group(group.map_or(0, |group| group.as_raw_nonzero().get()));
        let child = with_core_limit(|| builder.spawn()).map_err(|error| ChildError::start(command.program(), error))?;
        let pid = Pid::from_child(&child);
        Ok(Self { child, pid, group: group.unwrap_or(pid) })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn group(&self) -> Pid {
        self.group
    }

    /// What became of it since it was last asked. One that ended stays, for [`Program::bury`].
    pub(super) fn change(&self) -> Result<Change, ChildError> {
        let ask = |options| {
            waitid(WaitId::Pid(self.pid), options | WaitIdOptions::NOHANG)
                .map_err(|error| ChildError::Wait(error.into()))
        };
        if let Some(status) = ask(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)? {
            let code = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
            return Ok(Change::Ended(code.and_then(|code| u8::try_from(code & 0xff).ok()).unwrap_or(u8::MAX)));
        }
        let stopped = ask(WaitIdOptions::STOPPED)?.and_then(|status| status.stopping_signal());
        Ok(stopped.and_then(Signal::from_named_raw).map_or(Change::None, Change::Stopped))
    }

    /// Sends a signal. That nobody is left to take it is no failure.
    pub(super) fn signal(&self, signal: Signal, to: Forward) {
        let _ = match to {
            Forward::Group => kill_process_group(self.group, signal),
            Forward::Child => kill_process(self.pid, signal),
        };
    }

    /// Lets one go that has ended.
    pub(super) fn bury(mut self) {
        let _ = self.child.wait();
    }
}

/// Whether anyone is left in `group` who runs. The dead whom nobody has buried yet do not count, where
/// `/proc` can tell: in a container without an init they stay for ever.
pub(super) fn lives(group: Pid) -> bool {
    // EPERM tells of one that has become another user.
    test_kill_process_group(group) != Err(Errno::SRCH) && !only_dead(group)
}

/// Whether `/proc` shows all of `group` to be dead; false where it is another namespace's.
fn only_dead(group: Pid) -> bool {
    let ours = fs::read_link("/proc/self").is_ok_and(|own| own.to_str() == Some(&getpid().to_string()));
    let Some(processes) = fs::read_dir("/proc").ok().filter(|_| ours) else { return false };
    let mut stats = processes.flatten().filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    !stats.any(|stat| runs_in(&stat, group))
}

/// Whether a line of `/proc/PID/stat` is of a process in `group` that is not dead.
fn runs_in(stat: &str, group: Pid) -> bool {
    // The second field, the program's name in brackets, may hold anything.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let (state, _parent, of) = (fields.next(), fields.next(), fields.next());
    !matches!(state, Some("Z" | "X")) && of.and_then(|of| of.parse().ok()) == Some(group.as_raw_nonzero().get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_living_from_the_dead() {
        let group = Pid::from_raw(42).unwrap();
        for (stat, runs) in [
            ("7 (sleep) S 1 42 42 0 -1", true),
            ("7 (a) Z 1 9) S 1 42 42 0 -1", true),
            ("7 (sleep) Z 1 42 42 0 -1", false),
            ("7 (sleep) S 42 9 42 0 -1", false),
            ("7 (sleep", false),
            ("", false),
        ] {
            assert_eq!(runs_in(stat, group), runs, "{stat}");
        }
    }
}
