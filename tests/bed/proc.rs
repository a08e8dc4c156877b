//! What the kernel tells of a running process.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

/// The `/proc/PID` of a process.
#[derive(Clone, Debug)]
pub struct Proc {
    folder: PathBuf,
}

/// The memory a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All pages in memory, in KiB; those of its own program file count too.
    pub rss_kib: u64,
    /// Pages that no file backs, in KiB: heap and stacks, what the process itself has asked for.
    pub anonymous_kib: u64,
}

impl Proc {
    /// The process with this number.
    pub fn new(pid: u32) -> Self {
        Self { folder: PathBuf::from(format!("/proc/{pid}")) }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        // It was made of one.
        self.folder.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or_default()
    }

    /// Its command line.
    pub fn cmdline(&self) -> Result<Vec<String>> {
        Ok(strings(&self.read("cmdline")?))
    }

    /// The environment it was started with, as `NAME=value`.
    pub fn environ(&self) -> Result<Vec<String>> {
        Ok(strings(&self.read("environ")?))
    }

    /// A line of what the kernel says of it in `status`, such as `Seccomp`: what follows the name.
    pub fn status(&self, name: &str) -> Result<String> {
        let status = self.text("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("{} tells no {name}", self.folder.display()))?.trim().to_owned())
    }

    /// The memory it holds now, from `smaps_rollup`.
    pub fn memory(&self) -> Result<Memory> {
        let rollup = self.text("smaps_rollup")?;
        let kib = |field: &str| {
            rollup
                .lines()
                .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB")?.parse().ok())
                .with_context(|| format!("{}/smaps_rollup tells no {field}", self.folder.display()))
        };
        Ok(Memory { rss_kib: kib("Rss:")?, anonymous_kib: kib("Anonymous:")? })
    }

    /// Processor time used so far, user and system, in hundredths of a second.
    pub fn cpu_ticks(&self) -> Result<u64> {
        let stat = self.text("stat")?;
        // The second field is the program's name in brackets and may hold blanks itself.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut ticks = after_name.split_whitespace().skip(11).take(2);
        let mut next = || ticks.next().and_then(|field| field.parse::<u64>().ok());
        let (user, system) = next().zip(next()).with_context(|| format!("not a stat line: {stat}"))?;
        Ok(user + system)
    }

    /// A field of `status`, such as `Seccomp`, as the kernel writes it.
    pub fn status_field(&self, name: &str) -> Result<String> {
        let text = self.text("status")?;
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(found.with_context(|| format!("no {name} in {text}"))?.trim().to_owned())
    }

    /// What it started and what that started: those that run now. Empty once it has ended itself, for then they are
    /// somebody else's.
    pub fn descendants(&self) -> Vec<Self> {
        let mut found = Vec::new();
        let tasks = fs::read_dir(self.folder.join("task")).into_iter().flatten().flatten();
        // A thread that has ended meanwhile has no children.
        let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        for child in children.flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()) {
            let child = Self { folder: PathBuf::from("/proc").join(child) };
            found.extend(child.descendants());
            found.push(child);
        }
        found
    }

    fn read(&self, file: &str) -> Result<Vec<u8>> {
        let path = self.folder.join(file);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn text(&self, file: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read(file)?).into_owned())
    }
}

fn strings(bytes: &[u8]) -> Vec<String> {
    let parts = bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_this_very_process() {
        let this = Proc::new(std::process::id());
        let program = std::env::args().next().unwrap();
        assert_eq!(this.cmdline().unwrap()[0], program);
        assert!(this.environ().unwrap().iter().any(|entry| entry.starts_with("PATH=")));

        let memory = this.memory().unwrap();
        assert!(memory.anonymous_kib > 0 && memory.anonymous_kib <= memory.rss_kib, "{memory:?}");
        assert!(this.cpu_ticks().unwrap() < 100_000);
        assert_eq!(this.status("Tgid").unwrap(), std::process::id().to_string());
        assert!(this.status("Tgi").is_err());
    }
}
