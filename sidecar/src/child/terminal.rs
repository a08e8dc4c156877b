//! The terminal: which process group may read from it and is told of Ctrl-C.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, getpgid, setpgid};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};

use super::own_status;

/// The terminal that controls this process's session.
#[derive(Debug)]
pub(super) struct Terminal {
    tty: OwnedFd,
    /// The process group we were started in.
    home: Pid,
    /// The session; its number is that of its leader.
    session: Pid,
    /// Whether the program's group has it from us.
    lent: bool,
}

impl Terminal {
    /// The terminal, where there is one, and where our group and session have numbers: PID 1 of a new
    /// namespace may be in those of its parent, which it cannot name.
    pub(super) fn open() -> Option<Self> {
        let number = |field| own_status(field)?.split_whitespace().last()?.parse().ok().and_then(Pid::from_raw);
        let (home, session) = (number("NSpgid")?, number("NSsid")?);
        let tty = open("/dev/tty", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()).ok()?;
        Some(Self { tty, home, session, lent: false })
    }

    /// Whether the program will be talked to through it. In a pipeline the other programs may need
    /// it first: there it is lent when the program asks, by stopping for want of it.
    pub(super) fn is_for_talk(&self) -> bool {
        isatty(io::stdin()) && isatty(io::stdout())
    }

    pub(super) fn is_lent(&self) -> bool {
        self.lent
    }

    /// Whether `group` is in the foreground.
    pub(super) fn is_with(&self, group: Pid) -> bool {
        tcgetpgrp(&self.tty) == Ok(group)
    }

    /// Puts `group` in the foreground if that is ours to give. Tells whether it was.
    ///
    /// Only the parent can do this without unsafe code, so the program runs for a moment before it has
    /// the terminal. One that asks for it meanwhile is stopped, and goes on when it has it.
    pub(super) fn lend(&mut self, group: Pid) -> bool {
        // In the background, asking would stop us: the kernel answers with SIGTTOU.
        let lent = self.is_with(self.home) && tcsetpgrp(&self.tty, group).is_ok();
        self.lent |= lent;
        lent
    }

    /// Puts our own group back in the foreground, as far as the program has it from us. To be called
    /// before the program is waited for, so that its group still exists.
    pub(super) fn take_back(&mut self) {
        if !self.lent {
            return;
        }
        self.lent = false;
        let Ok(foreground) = tcgetpgrp(&self.tty) else { return };
        // Only the foreground may ask, unless SIGTTOU is ignored, which takes unsafe code. So we join it
        // for the moment. The leader of a session cannot; when it ends, the terminal is given up anyway.
        if foreground != self.home && setpgid(None, Some(foreground)).is_ok() {
            let _ = tcsetpgrp(&self.tty, self.home);
            let _ = setpgid(None, Some(self.home));
        }
    }

    /// Whether a shell looks after our group, and would let it go on if it were stopped. A shell with
    /// jobs leads the session, and has a group of its own.
    pub(super) fn has_shell(&self) -> bool {
        self.session != self.home && getpgid(Some(self.session)).is_ok()
    }
}
