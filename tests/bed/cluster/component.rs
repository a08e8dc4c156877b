//! One component of Kubernetes as a process, its output in a log file.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::room::Room;

/// An API server lets open requests end first.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// Time between two looks at a process that is to end.
const PAUSE: Duration = Duration::from_millis(5);

/// How much of a log stands in an error.
const LAST_LINES: usize = 20;

/// A component about to be started.
#[derive(Debug)]
pub(super) struct Plan {
    name: &'static str,
    log: PathBuf,
    command: Command,
    /// Before these come the flags of the program, after them those of the component.
    args: Vec<OsString>,
}

/// A component that runs, or has run. Killed when dropped.
#[derive(Debug)]
pub(super) struct Component {
    name: &'static str,
    log: PathBuf,
    /// Its standard input, held open here, closes with this process, however that ends; and then the
    /// component ends.
    child: Child,
}

impl Component {
    /// The component of that name, as the program knows it; its log goes into `folder`.
    pub(super) fn plan(program: &Path, name: &'static str, folder: &Path) -> Plan {
        Plan::new(Command::new(program), name, folder).args([name])
    }

    /// The same on a node.
    pub(super) fn plan_on_node(room: &Room, program: &Path, name: &'static str) -> Plan {
        Self::plan_foreign(room, program, name).args([name])
    }

    /// A program on a node that is that component, and no other.
    pub(super) fn plan_foreign(room: &Room, program: &Path, name: &'static str) -> Plan {
        let [shell, enter] = room.enter();
        let mut command = Command::new(shell);
        command.arg(enter).arg(program);
        Plan::new(command, name, room.folder())
    }

    /// Ends it, by SIGKILL, and waits for that.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// How it has ended; nothing while it runs.
    pub(super) fn ended(&mut self) -> Result<Option<Error>> {
        Ok(self.child.try_wait()?.map(|status| anyhow!("{} ended ({status})\n{}", self.name, self.last_words())))
    }

    /// Asks it to end, by SIGTERM, and waits for that.
    pub(super) async fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        }
        let deadline = Instant::now() + STOP_WITHIN;
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                bail!("{} still runs {STOP_WITHIN:?} after SIGTERM\n{}", self.name, self.last_words());
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let text = match std::fs::read(&self.log) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("(the log of {} cannot be read: {error})", self.name),
        };
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        format!("--- the end of {}\n{last}", self.log.display())
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        // Fails when it is gone, which is as good.
        let _ = self.child.kill();
        let _: std::io::Result<ExitStatus> = self.child.wait();
    }
}

impl Plan {
    fn new(mut command: Command, name: &'static str, folder: &Path) -> Self {
        command.env_clear().env("HOME", folder).current_dir(folder);
        Self { name, log: folder.join(format!("{name}.log")), command, args: Vec::new() }
    }

    /// Where it finds other programs, before the places where everyone looks.
    pub(super) fn programs(mut self, folder: &Path) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = [folder.to_owned()].into_iter().chain(std::env::split_paths(&path));
        // Only a colon in the name of a folder would be wrong, and cargo makes none.
        self.command.env("PATH", std::env::join_paths(paths).unwrap_or(path));
        self
    }

    /// Has it end with this process. A parent's death signal would come with the end of the thread
    /// that starts it, and in tests that is too early.
    pub(super) fn until_stdin_closes(mut self) -> Self {
        self.command.arg("--until-stdin-closes");
        self
    }

    /// The same, and if it ends so, it takes a folder along.
    pub(super) fn until_stdin_closes_then_remove(self, folder: &Path) -> Self {
        let mut plan = self.until_stdin_closes();
        plan.command.arg("--then-remove").arg(folder);
        plan
    }

    /// How often an API server looks for a changed encryption config.
    pub(super) fn config_poll(mut self, pause: Duration) -> Self {
        self.command.arg(format!("--config-poll={}ms", pause.as_millis()));
        self
    }

    /// Adds flags of its own.
    pub(super) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Starts it. Its log goes on where an earlier one of the same name left off.
    pub(super) fn start(self) -> Result<Component> {
        let Self { name, log, mut command, args } = self;
        let output = File::options().create(true).append(true).open(&log)?;
        let child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run {name}"))?;
        Ok(Component { name, log, child })
    }
}
