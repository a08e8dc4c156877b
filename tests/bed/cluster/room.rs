//! Where a node is: a folder, a cgroup and a mount namespace, all of which end with it.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

/// The script that makes the room, and before that fetches what a node needs.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/node");

/// Room for one node. All that runs in it ends when it is dropped, and all that is mounted; and with
/// this process, however that ends.
#[derive(Debug)]
pub(super) struct Room {
    /// Its standard input, held open here, closes with this process; and then it clears the room.
    holder: Child,
    programs: PathBuf,
    folder: TempDir,
}

impl Room {
    /// Makes one.
    pub(super) async fn make() -> Result<Self> {
        spawn_blocking(|| {
            // A first time takes a while, and so its words go to the terminal.
            let mut install = Command::new(SCRIPT);
            install.arg("install").stdin(Stdio::null()).stderr(Stdio::inherit());
            let installed = install.output().with_context(|| format!("cannot run {SCRIPT}"))?;
            ensure!(installed.status.success(), "{SCRIPT} install failed, see above");
            let programs = String::from_utf8(installed.stdout)?.trim_end().into();

            // Not where TMPDIR says: there are sockets below, whose paths may have 107 bytes.
            let folder = tempfile::Builder::new().prefix("coffer-node-").tempdir_in("/tmp")?;
            let mut hold = Command::new(SCRIPT);
            hold.arg("hold").arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
            let holder = hold.spawn().with_context(|| format!("cannot run {SCRIPT}"))?;
            let mut room = Self { holder, programs, folder };
            let mut line = String::new();
            if let Some(answer) = room.holder.stdout.take() {
                BufReader::new(answer).read_line(&mut line)?;
            }
            ensure!(line == "ready\n", "{SCRIPT} hold failed, see above");
            Ok(room)
        })
        .await?
    }

    /// Its folder, seen from inside and outside alike but for what is [mounted](Self::inside) there.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the programs of a node are.
    pub(super) fn programs(&self) -> &Path {
        &self.programs
    }

    /// The words before a command that have it run in here. What they run becomes that command.
    pub(super) fn enter(&self) -> [OsString; 2] {
        // Not by itself: nothing may be executed in the /tmp of a careful machine.
        ["/bin/sh".into(), self.folder().join("enter").into()]
    }

    /// Its name, which is its cgroup's too.
    pub(super) fn name(&self) -> &str {
        self.folder().file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// How a path of in here is reached from outside.
    pub(super) fn inside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// What is mounted in here, as `/proc/PID/mountinfo` tells it.
    pub(super) fn mountinfo(&self) -> Result<String> {
        fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).context("the node's room is gone")
    }

    /// The processes in here.
    pub(super) fn processes(&self) -> Result<Vec<u32>> {
        let root = Path::new("/sys/fs/cgroup");
        // By version 1 any hierarchy will do, and each has all of them.
        let group = [root, &root.join("pids"), &root.join("memory")].map(|place| place.join(self.name()));
        let Some(group) = group.into_iter().find(|group| group.exists()) else {
            bail!("{} has no cgroup", self.name())
        };
        let mut found = Vec::new();
        let mut places = vec![group];
        while let Some(place) = places.pop() {
            // Cgroups come and go meanwhile.
            let listed = fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
            found.extend(listed.lines().filter_map(|line| line.parse::<u32>().ok()));
            for entry in fs::read_dir(&place).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    places.push(entry.path());
                }
            }
        }
        Ok(found)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // This closes its standard input, and then it takes no longer than it takes to clear the room.
        let _ = self.holder.wait();
    }
}
