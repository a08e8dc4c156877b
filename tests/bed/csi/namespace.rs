//! Mounts that nobody else sees and that end by themselves.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::mounts::{Mount, parse};

/// Between two looks at a process that is to change its namespace.
const PAUSE: Duration = Duration::from_millis(2);

/// It takes a few milliseconds.
const MADE_WITHIN: Duration = Duration::from_secs(10);

/// A mount namespace, which lives as long as this value or a process in it.
#[derive(Debug)]
pub struct MountNamespace {
    /// A `cat` whose standard input closes with this process, however that ends.
    keeper: Child,
}

impl MountNamespace {
    /// A new one, a private copy of this process's.
    pub fn new() -> Result<Self> {
        let keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot run unshare (package util-linux)")?;
        let mut namespace = Self { keeper };
        let own = fs::read_link("/proc/self/ns/mnt")?;
        let deadline = Instant::now() + MADE_WITHIN;
        while fs::read_link(namespace.proc("ns/mnt")).is_ok_and(|theirs| theirs == own) {
            ensure!(
                namespace.keeper.try_wait()?.is_none(),
                "cannot make a mount namespace: these tests have to be root"
            );
            ensure!(Instant::now() < deadline, "unshare made no mount namespace within {MADE_WITHIN:?}");
            sleep(PAUSE);
        }
        Ok(namespace)
    }

    /// The command that has another run in it; the process becomes that other's own.
    pub fn enter(&self) -> [OsString; 4] {
        let target = format!("--target={}", self.keeper.id());
        ["nsenter".into(), target.into(), "--mount".into(), "--".into()]
    }

    /// Where a path in it is found from outside.
    pub fn outside(&self, path: &Path) -> PathBuf {
        self.proc("root").join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What is mounted in it, in the order of mounting.
    pub fn mounts(&self) -> Result<Vec<Mount>> {
        parse(&fs::read_to_string(self.proc("mountinfo"))?)
    }

    /// Mounts an empty tmpfs at a folder in it.
    pub fn mount_tmpfs(&self, folder: &Path) -> Result<()> {
        self.run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(folder))
    }

    /// Takes the uppermost mount off a folder in it, even if it is in use.
    pub fn unmount(&self, folder: &Path) -> Result<()> {
        self.run(Command::new("umount").arg("--lazy").arg(folder))
    }

    fn run(&self, command: &Command) -> Result<()> {
        let [nsenter, arguments @ ..] = self.enter();
        let mut inside = Command::new(nsenter);
        inside.args(arguments).arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        let done = inside.output().with_context(|| format!("cannot run {inside:?}"))?;
        ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(())
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.keeper.id()))
    }
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        // Fails when it is gone, which is as good.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_in_it_are_seen_only_through_it() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let namespace = MountNamespace::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        namespace.mount_tmpfs(path).unwrap();
        namespace.mount_tmpfs(path).unwrap();
        fs::write(namespace.outside(path).join("a"), "inside").unwrap();
        assert_eq!(fs::read_dir(path).unwrap().count(), 0);
        let here = |namespace: &MountNamespace| {
            let mounts = namespace.mounts().unwrap();
            mounts.into_iter().filter(|mount| mount.point == path).collect::<Vec<_>>()
        };
        let [lower, upper] = &here(&namespace)[..] else { panic!("not two mounts") };
        assert_eq!(upper.kind, "tmpfs");
        assert_ne!(lower.id, upper.id);

        namespace.unmount(path).unwrap();
        assert_eq!(here(&namespace).len(), 1);
        assert!(!namespace.outside(path).join("a").exists());
        let [nsenter, arguments @ ..] = namespace.enter();
        let done = Command::new(nsenter).args(arguments).args(["stat", "-fc", "%T"]).arg(path).output().unwrap();
        assert_eq!(done.stdout, b"tmpfs\n");
    }
}
