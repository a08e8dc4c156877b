//! Our own binaries, run as children and watched.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io::Read,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::time::{Instant, sleep};

use crate::Proc;

/// Names the folder that holds the binaries, when it is not the tests' own build folder.
const BIN_DIR: &str = "COFFER_TEST_BIN_DIR";

/// Time between two looks at a child.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a program may take to end after SIGTERM.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A program about to be run: by default with no arguments, and with nothing but `PATH` in
/// its environment.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    /// The command that runs it, if it does not run by itself.
    wrapper: Vec<OsString>,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
}

/// A program that runs, or has run. Killed when dropped, with what it started.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: Pid,
    child: Mutex<Child>,
    stdout: Capture,
    stderr: Capture,
}

impl Program {
    /// The workspace's binary of that name.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), wrapper: Vec::new(), args: Vec::new(), env: BTreeMap::new() }
    }

    /// Has another command run it, such as `unshare --pid --fork`: the process is then that
    /// command's, and this program's own only if the command becomes it.
    pub fn under(mut self, command: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.wrapper = command.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// Where the binary is.
    pub fn path(&self) -> Result<PathBuf> {
        binary(&self.name)
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Sets environment variables.
    pub fn envs(self, variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> Self {
        variables.into_iter().fold(self, |program, (name, value)| program.env(name, value))
    }

    /// Takes an environment variable back.
    pub fn without_env(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.remove(name.as_ref());
        self
    }

    /// Starts it, with an empty standard input.
    pub fn start(self) -> Result<Process> {
        let path = binary(&self.name)?;
        let mut words = self.wrapper.iter().map(OsString::as_os_str).chain([path.as_os_str()]);
        let mut child = Command::new(words.next().expect("at least the program itself"))
            .args(words)
            .args(&self.args)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what it starts can be ended with it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", path.display()))?;
        Ok(Process {
            name: self.name,
            pid: Pid::from_child(&child),
            stdout: Capture::of(child.stdout.take()),
            stderr: Capture::of(child.stderr.take()),
            child: Mutex::new(child),
        })
    }
}

impl Process {
    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// What the kernel tells of it.
    pub fn proc(&self) -> Proc {
        Proc::new(self.pid())
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until `needle` stands in what it writes to standard error.
    ///
    /// # Errors
    /// When the time is up, or as soon as it has ended without writing so.
    pub async fn wait_for_stderr(&self, needle: &str, timeout: Duration) -> Result<()> {
        self.wait_for(&self.stderr, needle, timeout).await
    }

    /// Waits until `needle` stands in what it writes to standard output.
    ///
    /// # Errors
    /// When the time is up, or as soon as it has ended without writing so.
    pub async fn wait_for_stdout(&self, needle: &str, timeout: Duration) -> Result<()> {
        self.wait_for(&self.stdout, needle, timeout).await
    }

    /// Sends it a signal; an error if it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        ensure!(self.status()?.is_none(), "{} has ended", self.name);
        kill_process(self.pid, signal).with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// Kills it at once, as a crash would.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// How it ended; nothing while it runs.
    pub fn status(&self) -> Result<Option<ExitStatus>> {
        Ok(self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `timeout`: with what it has written.
    pub async fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        let status = loop {
            if let Some(status) = self.status()? {
                break status;
            }
            if Instant::now() >= deadline {
                bail!("{} still runs after {timeout:?}\n{}", self.name, self.written());
            }
            sleep(PAUSE).await;
        };
        // Its last words may still be on their way; but a child of its own may hold the pipes.
        let all_read = Instant::now() + Duration::from_secs(1);
        while !(self.stdout.ended() && self.stderr.ended()) && Instant::now() < all_read {
            sleep(PAUSE).await;
        }
        Ok(status)
    }

    /// Asks it to end, by SIGTERM, and waits for that, at most five seconds.
    pub async fn stop(&self) -> Result<ExitStatus> {
        if self.status()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        self.wait(STOP_WITHIN).await
    }

    async fn wait_for(&self, stream: &Capture, needle: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            // Asked before the look, or the last words would be missed.
            let ended = stream.ended();
            if stream.text().contains(needle) {
                return Ok(());
            }
            if ended {
                bail!("{} ended its output without {needle:?}\n{}", self.name, self.written());
            }
            if Instant::now() >= deadline {
                bail!("{} did not write {needle:?} within {timeout:?}\n{}", self.name, self.written());
            }
            sleep(PAUSE).await;
        }
    }

    fn written(&self) -> String {
        format!("--- stdout\n{}\n--- stderr\n{}", self.stdout().trim_end(), self.stderr().trim_end())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // `coffer exec` has its program in a group of its own. Asked before it goes, and not of another's number.
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let started = match child.try_wait() {
            Ok(None) => Proc::new(child.id()).descendants(),
            _ => Vec::new(),
        };
        // Each fails when it is gone, which is as good.
        let _ = kill_process_group(self.pid, Signal::KILL);
        for pid in started.iter().filter_map(|process| Pid::from_raw(process.pid().try_into().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = child.wait();
    }
}

/// One output of a child, read as it comes.
#[derive(Clone, Debug, Default)]
struct Capture(Arc<Mutex<Captured>>);

#[derive(Debug, Default)]
struct Captured {
    bytes: Vec<u8>,
    ended: bool,
}

impl Capture {
    fn of(stream: Option<impl Read + Send + 'static>) -> Self {
        let capture = Self::default();
        let writer = capture.clone();
        thread::spawn(move || {
            let mut buffer = [0; 8192];
            if let Some(mut stream) = stream {
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    writer.with(|captured| captured.bytes.extend_from_slice(&buffer[..count]));
                }
            }
            writer.with(|captured| captured.ended = true);
        });
        capture
    }

    fn text(&self) -> String {
        self.with(|captured| String::from_utf8_lossy(&captured.bytes).into_owned())
    }

    fn ended(&self) -> bool {
        self.with(|captured| captured.ended)
    }

    fn with<T>(&self, look: impl FnOnce(&mut Captured) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where a binary of the workspace is: two folders above the running test, which cargo puts
/// into `PROFILE/deps`, and a program into `PROFILE`.
fn binary(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os(BIN_DIR) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe()?;
            let folder = own.parent().with_context(|| format!("no build folder above {}", own.display()))?;
            if folder.ends_with("deps") { folder.join("..") } else { folder.to_owned() }
        }
    };
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "there is no {}: run `cargo build --workspace` first (with --release if the tests are), or set {BIN_DIR}",
        path.display()
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Process {
        // `join` with an absolute path is that path.
        Program::new("/bin/sh").args(["-c", script]).env("GREETING", "hello").start().unwrap()
    }

    #[tokio::test]
    async fn captures_what_is_written_and_how_it_ends() {
        let process = shell("echo $GREETING; echo oops >&2; exit 3");
        let status = process.wait(SOON).await.unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(process.stdout(), "hello\n");
        assert_eq!(process.stderr(), "oops\n");
        assert!(process.signal(Signal::TERM).is_err());
    }

    #[tokio::test]
    async fn starts_with_a_clean_environment() {
        let process = shell("exec sleep 60");
        crate::eventually(SOON, async || {
            ensure!(process.proc().cmdline()? == ["sleep", "60"]);
            Ok(())
        })
        .await
        .unwrap();
        let environ = process.proc().environ().unwrap();
        let names: Vec<_> = environ.iter().filter_map(|entry| entry.split('=').next()).collect();
        // The shell itself adds PWD.
        assert!(names.iter().all(|name| ["GREETING", "PATH", "PWD"].contains(name)), "{names:?}");
    }

    #[tokio::test]
    async fn what_it_started_in_another_group_ends_with_it() {
        let process = shell("setsid sh -c 'sleep 1000 & echo $!; wait' & wait");
        process.wait_for_stdout("\n", SOON).await.unwrap();
        let started = Proc::new(process.stdout().trim().parse().unwrap());
        assert_eq!(started.cmdline().unwrap(), ["sleep", "1000"]);
        assert_eq!(process.proc().descendants().len(), 2);
        drop(process);
        // One that waits to be buried by its new parent has no command line.
        let gone = async || {
            ensure!(started.cmdline().map_or(true, |line| line.is_empty()));
            Ok(())
        };
        crate::eventually(SOON, gone).await.unwrap();
    }

    #[tokio::test]
    async fn tells_what_was_written_instead() {
        let process = shell("echo ready >&2; sleep 60");
        process.wait_for_stderr("ready", SOON).await.unwrap();
        let error = process.wait_for_stderr("never", Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("did not write \"never\" within 50ms"), "{error}");
        assert!(error.to_string().contains("--- stderr\nready"), "{error}");

        let started = Instant::now();
        let error = shell("echo bye >&2").wait_for_stderr("never", SOON).await.unwrap_err();
        assert!(error.to_string().contains("ended its output without"), "{error}");
        assert!(started.elapsed() < SOON);
    }

    #[tokio::test]
    async fn stops_by_sigterm_and_kills_on_drop() {
        let process = shell("trap 'echo drained; exit 0' TERM; echo up; while :; do sleep 0.01; done");
        process.wait_for_stdout("up", SOON).await.unwrap();
        assert!(process.stop().await.unwrap().success());
        assert_eq!(process.stdout(), "up\ndrained\n");

        let process = shell("sleep 60");
        process.kill().unwrap();
        assert_eq!(process.wait(SOON).await.unwrap().signal(), Some(Signal::KILL.as_raw()));

        let process = shell("sleep 61 & echo $!; wait");
        process.wait_for_stdout("\n", SOON).await.unwrap();
        let grandchild = Proc::new(process.stdout().trim().parse().unwrap());
        drop(process);
        crate::eventually(SOON, async || {
            ensure!(!grandchild.cmdline().is_ok_and(|line| line == ["sleep", "61"]), "it still runs");
            Ok(())
        })
        .await
        .unwrap();
    }

    #[test]
    fn says_how_to_build_what_is_missing() {
        let error = Program::new("no-such-program").start().unwrap_err();
        assert!(error.to_string().contains("run `cargo build --workspace` first"), "{error}");
    }
}
