//! Telling by a command: no shell, a clean environment, and an end in time.

use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpgid};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::message::Message;

/// What is kept of a command's output, in bytes: its end, where the reason of a failure stands.
const TAIL: usize = 4096;
/// How long output is read on after the command has ended: what it left running in the background
/// may hold the pipe for ever.
const LATE_OUTPUT: Duration = Duration::from_millis(100);

/// How long a killed group may take to be gone.
const BURIAL: Duration = Duration::from_secs(1);

/// Why a command did not tell the application. Never holds its output, which may quote anything.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExecError {
    /// There is no such program.
    #[error(
        "cannot run {program}: there is no such program, or the interpreter of its first line is missing; it has to be \
         in the image that coffer runs in"
    )]
    Missing { program: PathBuf },
    /// It may not be run.
    #[error("cannot run {program}: {source}; make it executable for uid {}", uid())]
    Forbidden { program: PathBuf, source: io::Error },
    /// It could not be started otherwise.
    #[error("cannot run {program}: {source}")]
    Start { program: PathBuf, source: io::Error },
    /// It said that it failed.
    #[error("{program} ended with exit code {code}; its output is logged at the level debug")]
    Code { program: PathBuf, code: i32 },
    /// A signal ended it.
    #[error("{program} was ended by signal {signal}")]
    Signalled { program: PathBuf, signal: i32 },
    /// It did not end in time.
    #[error("{program} was still running after {} and was killed; raise `timeout`", shown(*.after))]
    Timeout { program: PathBuf, after: Duration },
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn shown(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(time)
}

/// Runs `program` to its end; exit code 0 is success.
///
/// With `listen`, what it writes is logged at the level debug, its last 4 KiB. A command that prints
/// what it reads puts secrets into that log. Otherwise nobody reads it.
pub(super) async fn run(
    program: &Path,
    arguments: &[String],
    limit: Duration,
    message: &Message<'_>,
    listen: bool,
) -> Result<(), ExecError> {
    let mut output = Output::new(listen);
    // What was made for the child's side goes with the command, or the pipe would never end.
    let mut child = {
        let mut command = command(program, arguments, message);
        output.connect(&mut command);
        Group::new(command.spawn().map_err(|source| start_error(program, source))?)
    };
    let ended = timeout(limit, output.read_until(child.process.wait())).await;
    let result = match ended {
        Ok(Ok(status)) => {
            child.has_ended();
            let _ = timeout(LATE_OUTPUT, output.read_until(std::future::pending::<()>())).await;
            outcome(program, status)
        }
        Ok(Err(source)) => Err(ExecError::Start { program: program.to_owned(), source }),
        Err(_) => {
            child.kill().await;
            Err(ExecError::Timeout { program: program.to_owned(), after: limit })
        }
    };
    output.log(message.volume(), program);
    result
}

fn command(program: &Path, arguments: &[String], message: &Message<'_>) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        // Credentials and settings of ours are none of the command's.
        .env_clear()
        .envs(["PATH", "HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("COFFER_VOLUME", message.volume())
        .env("COFFER_CHANGED", message.changed())
        .env("COFFER_SWAPS", message.swaps().to_string())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    command
}

fn start_error(program: &Path, source: io::Error) -> ExecError {
    let program = program.to_owned();
    match source.kind() {
        ErrorKind::NotFound => ExecError::Missing { program },
        ErrorKind::PermissionDenied => ExecError::Forbidden { program, source },
        _ => ExecError::Start { program, source },
    }
}

fn outcome(program: &Path, status: ExitStatus) -> Result<(), ExecError> {
    let program = program.to_owned();
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(ExecError::Code { program, code }),
        (None, signal) => Err(ExecError::Signalled { program, signal: signal.unwrap_or_default() }),
    }
}

/// A child that leads a process group of its own. While it runs, dropping it kills the whole group.
struct Group {
    process: Child,
    /// Until the child was waited for, its number cannot be another's.
    group: Option<Pid>,
}

impl Group {
    fn new(process: Child) -> Self {
        let group = process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Self { process, group }
    }

    /// What it left in the background stays: a daemon that was told to restart is meant to.
    fn has_ended(&mut self) {
        self.group = None;
    }

    /// Kills the whole group, and leaves no zombie.
    async fn kill(&mut self) {
        self.signal();
        let _ = self.process.wait().await;
        if let Some(group) = self.group.take() {
            let _ = timeout(BURIAL, bury(group)).await;
        }
    }

    fn signal(&self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Waits for what is left of a group. As PID 1 of a container this process is given the children of
/// a killed one; elsewhere init is, and there is nothing to wait for.
async fn bury(group: Pid) {
    while let Ok(buried) = waitpgid(group, WaitOptions::NOHANG) {
        if buried.is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The runtime waits for children that nobody else waits for.
        self.signal();
    }
}

/// The end of what a command writes.
struct Output {
    listen: bool,
    pipe: Option<Receiver>,
    tail: Vec<u8>,
    cut: bool,
}

impl Output {
    fn new(listen: bool) -> Self {
        Self { listen, pipe: None, tail: Vec::new(), cut: false }
    }

    /// Both streams of the command, in the order it writes them.
    fn connect(&mut self, command: &mut Command) {
        if !self.listen {
            return;
        }
        // Without a pipe the command runs all the same, unheard.
        let pipe = io::pipe().and_then(|(reader, writer)| {
            let pair = (Receiver::from_owned_fd(reader.into())?, writer.try_clone()?, writer);
            Ok(pair)
        });
        if let Ok((reader, out, error)) = pipe {
            command.stdout(out).stderr(error);
            self.pipe = Some(reader);
        }
    }

    /// Reads until `end` comes.
    async fn read_until<T>(&mut self, end: impl Future<Output = T>) -> T {
        let mut end = std::pin::pin!(end);
        let mut buffer = [0; 1024];
        loop {
            let Some(pipe) = &mut self.pipe else { return end.await };
            tokio::select! {
                ended = &mut end => return ended,
                read = pipe.read(&mut buffer) => match read {
                    Ok(length) if length > 0 => self.keep(&buffer[..length]),
                    _ => self.pipe = None,
                },
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        if let Some(over) = self.tail.len().checked_sub(TAIL).filter(|over| *over > 0) {
            self.tail.drain(..over);
            self.cut = true;
        }
    }

    fn log(&self, volume: &Path, program: &Path) {
        if self.tail.is_empty() {
            return;
        }
        let output = String::from_utf8_lossy(&self.tail);
        let (volume, program) = (volume.display(), program.display());
        tracing::debug!(%volume, %program, cut = self.cut, ?output, "a command wrote; secrets are here if it prints any");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::super::Swap;
    use super::super::agenda::Batch;
    use super::*;
    use crate::file::FileName;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn sh(script: &str, limit: Duration, listen: bool) -> Result<(), String> {
        run_program(Path::new("/bin/sh"), &["-c".to_owned(), script.to_owned()], limit, listen).await
    }

    async fn run_program(program: &Path, arguments: &[String], limit: Duration, listen: bool) -> Result<(), String> {
        let swap = Swap { first: false, files: Vec::new(), changed: Default::default() };
        let changed = ["a", "b c"].map(|name| FileName::new(name).unwrap()).into();
        let batch = Batch { swaps: 2, changed };
        let message = Message::new(Path::new("/v"), &swap, &batch);
        run(program, arguments, limit, &message, listen).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_command_gets_its_environment_and_nothing_else_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("env").display().to_string();
        let script =
            format!("/usr/bin/env -0 > {to}.new; pwd > {to}.pwd; ls -l /proc/self/fd/ > {to}.fd; mv {to}.new {to}");
        assert_eq!(sh(&script, LIMIT, false).await, Ok(()));
        let env = fs::read_to_string(&to).unwrap();
        let env: Vec<&str> = env.split_terminator('\0').collect();
        for expected in ["COFFER_VOLUME=/v", "COFFER_CHANGED=a\nb c", "COFFER_SWAPS=2"] {
            assert!(env.contains(&expected), "{expected:?} in {env:?}");
        }
        // The last three are the shell's own.
        let known = ["COFFER_VOLUME", "COFFER_CHANGED", "COFFER_SWAPS", "PATH", "HOME", "PWD", "OLDPWD", "SHLVL", "_"];
        for entry in env {
            let (name, _) = entry.split_once('=').unwrap();
            assert!(known.contains(&name), "{name}");
        }
        assert_eq!(fs::read_to_string(format!("{to}.pwd")).unwrap(), "/\n");
        let fds = fs::read_to_string(format!("{to}.fd")).unwrap();
        assert!(fds.contains("0 -> /dev/null") && fds.contains("2 -> /dev/null"), "{fds}");
    }

    #[tokio::test]
    async fn a_failure_tells_the_code_and_not_the_output() {
        for listen in [false, true] {
            assert_eq!(
                sh("echo hunter2; echo hunter2 >&2; exit 3", LIMIT, listen).await.unwrap_err(),
                "/bin/sh ended with exit code 3; its output is logged at the level debug"
            );
            assert_eq!(sh("kill -9 $$", LIMIT, listen).await.unwrap_err(), "/bin/sh was ended by signal 9");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_run_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        let missing = run_program(&script, &[], LIMIT, false).await.unwrap_err();
        let shown = script.display();
        assert_eq!(
            missing,
            format!(
                "cannot run {shown}: there is no such program, or the interpreter of its first line is missing; it has \
                 to be in the image that coffer runs in"
            )
        );
        fs::write(&script, "no program").unwrap();
        assert_eq!(
            run_program(&script, &[], LIMIT, false).await.unwrap_err(),
            format!("cannot run {shown}: Permission denied (os error 13); make it executable for uid {}", uid())
        );
    }

    /// A command that hangs, and writes its own number and that of its child into the file.
    fn hanging(pids: &Path) -> String {
        format!("sleep 1000 & echo $$ $! > {0}.new; mv {0}.new {0}; wait", pids.display())
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_all_its_children() {
        // As PID 1 would, this process is given the children that lose their parent.
        rustix::process::set_child_subreaper(Pid::from_raw(1)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let mut limit = Duration::from_millis(300);
        // On a busy machine it may take longer to come to its `wait`.
        while !pids.exists() {
            let started = Instant::now();
            assert_eq!(
                sh(&hanging(&pids), limit, true).await.unwrap_err(),
                format!("/bin/sh was still running after {} and was killed; raise `timeout`", shown(limit))
            );
            assert!(started.elapsed() < limit + Duration::from_secs(5), "{:?}", started.elapsed());
            limit *= 3;
        }
        assert_gone(&pids, true).await;
    }

    #[tokio::test]
    async fn a_command_that_is_given_up_is_killed_and_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let begun = async {
            while !pids.exists() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let script = hanging(&pids);
        tokio::select! {
            _ = sh(&script, Duration::from_secs(1000), false) => panic!("it hangs"),
            () = begun => {}
        }
        assert_gone(&pids, false).await;
    }

    /// Nothing is left of the two processes but zombies that others have to wait for; of the first,
    /// and of both if they were `buried`, not even that.
    async fn assert_gone(pids: &Path, buried: bool) {
        let text = fs::read_to_string(pids).unwrap();
        let [leader, child] = text.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{text}") };
        let stat = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let gone = || stat(leader).is_empty() && (stat(child).is_empty() || (!buried && stat(child).contains(" Z ")));
        let until = Instant::now() + Duration::from_secs(5);
        while !gone() {
            assert!(Instant::now() < until, "{} {}", stat(leader), stat(child));
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn what_a_command_leaves_running_does_not_hold_it_up() {
        let started = Instant::now();
        assert_eq!(sh("sleep 3 & exit 0", LIMIT, true).await, Ok(()));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn much_output_neither_stops_the_command_nor_fills_memory() {
        assert_eq!(sh("head -c 1000000 /dev/zero; echo end", LIMIT, true).await, Ok(()));
        let mut output = Output::new(true);
        output.keep(&[b'x'; 3000]);
        assert!(!output.cut);
        output.keep(&[b'y'; 3000]);
        assert!(output.cut && output.tail.len() == TAIL && output.tail.ends_with(b"yyy"));
    }
}
