//! The processes that can be seen in /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;

use crate::spec::ProcessName;

/// What the kernel keeps of a process's name, in bytes (`TASK_COMM_LEN` less the final NUL).
pub(super) const COMM_MAX: usize = 15;
/// What is read of a command line: its first word.
const CMDLINE_MAX: u64 = 4096;

/// A process that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) id: u32,
    parent: u32,
    /// As the kernel keeps it, cut to [`COMM_MAX`]; a process can change it.
    pub(super) comm: String,
    /// File name of the first word of its command line; a process can change it.
    program: String,
}

impl Process {
    /// The process of this number. `None` when there is none, when it has ended and nobody has waited
    /// for it, or when /proc hides it.
    pub(super) fn read(id: u32) -> Option<Self> {
        let stat = fs::read(format!("/proc/{id}/stat")).ok()?;
        // proc_pid_stat(5): number, (name), state, parent's number. The name may hold anything.
        let (open, close) = (stat.iter().position(|b| *b == b'(')?, stat.iter().rposition(|b| *b == b')')?);
        let comm = String::from_utf8_lossy(stat.get(open + 1..close)?).into_owned();
        let mut rest = std::str::from_utf8(&stat[close + 1..]).ok()?.split_ascii_whitespace();
        if matches!(rest.next()?, "Z" | "X" | "x") {
            return None;
        }
        let parent = rest.next()?.parse().ok()?;
        let mut cmdline = Vec::new();
        if let Ok(file) = File::open(format!("/proc/{id}/cmdline")) {
            // What cannot be read has no program's name, and may be known by the kernel's.
            let _ = file.take(CMDLINE_MAX).read_to_end(&mut cmdline);
        }
        let first = cmdline.split(|b| *b == 0).next().unwrap_or_default();
        let program = first.rsplit(|b| *b == b'/').next().unwrap_or_default();
        Some(Self { id, parent, comm, program: String::from_utf8_lossy(program).into_owned() })
    }

    /// Whether it goes by this name.
    pub(super) fn is_called(&self, name: &ProcessName) -> bool {
        let name = name.as_str();
        // A long name is cut by the kernel; where the command line has it whole, that decides.
        let cut = name.len() > COMM_MAX && name.as_bytes().starts_with(self.comm.as_bytes());
        let cut = cut && self.comm.len() == COMM_MAX && !self.program.starts_with(&self.comm);
        self.comm == name || self.program == name || cut
    }
}

/// The real user id of a process.
pub(super) fn uid_of(id: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_ascii_whitespace().next()?.parse().ok()
}

/// All processes that can be seen, and which of them is this one.
#[derive(Debug)]
pub(super) struct Processes {
    all: BTreeMap<u32, Process>,
    own: u32,
}

impl Processes {
    pub(super) fn read() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let all = ids.filter_map(|id| Some((id, Process::read(id)?))).collect();
        Self { all, own: std::process::id() }
    }

    /// Those of this name that are neither this process nor above it.
    pub(super) fn called(&self, name: &ProcessName) -> Vec<&Process> {
        let ours = self.ancestry(self.own);
        self.all.values().filter(|process| !ours.contains(&process.id) && process.is_called(name)).collect()
    }

    /// Whether this process, or one above it, has the number.
    pub(super) fn is_ours(&self, id: u32) -> bool {
        self.ancestry(self.own).contains(&id)
    }

    /// Whether nothing can be seen but this process, what it has started, and what started it: so it
    /// looks to a container that shares its processes with no other.
    pub(super) fn alone(&self) -> bool {
        let ours = self.ancestry(self.own);
        self.own == 1 || self.all.keys().all(|id| ours.contains(id) || self.ancestry(*id).contains(&self.own))
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let ours = self.ancestry(self.own);
        self.all.values().filter(move |process| !ours.contains(&process.id)).map(|process| process.comm.as_str())
    }

    /// A process and all above it.
    fn ancestry(&self, id: u32) -> BTreeSet<u32> {
        let mut line = BTreeSet::from([id]);
        let mut here = id;
        while let Some(parent) = self.all.get(&here).map(|process| process.parent).filter(|parent| *parent != 0) {
            // Processes come and go while they are read: a number may have been given anew.
            if !line.insert(parent) {
                break;
            }
            here = parent;
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: u32, parent: u32, comm: &str, program: &str) -> Process {
        Process { id, parent, comm: comm.into(), program: program.into() }
    }

    fn processes(own: u32, all: impl IntoIterator<Item = Process>) -> Processes {
        Processes { all: all.into_iter().map(|process| (process.id, process)).collect(), own }
    }

    fn name(text: &str) -> ProcessName {
        text.parse().unwrap()
    }

    #[test]
    fn a_process_goes_by_the_kernels_name_and_its_programs() {
        let nginx = process(7, 1, "nginx", "nginx: master process nginx");
        assert!(nginx.is_called(&name("nginx")) && !nginx.is_called(&name("nginx:")));
        let script = process(7, 1, "python3", "main.py");
        assert!(script.is_called(&name("main.py")) && script.is_called(&name("python3")));
        assert!(!script.is_called(&name("python")) && !script.is_called(&name("main")));
        let long = process(7, 1, "a-name-of-sixte", "a-name-of-sixteen");
        assert!(long.is_called(&name("a-name-of-sixteen")) && long.is_called(&name("a-name-of-sixte")));
        assert!(!long.is_called(&name("a-name-of-sixteeners")));
        assert!(process(7, 1, "a-name-of-sixte", "title").is_called(&name("a-name-of-sixteeners")));
        assert!(!process(7, 1, "a-name", "title").is_called(&name("a-name-of-sixteeners")));
    }

    #[test]
    fn neither_this_process_nor_those_above_it_are_found() {
        let all = [(1, 0, "coffer"), (5, 1, "sh"), (6, 5, "coffer"), (7, 6, "coffer"), (8, 1, "coffer"), (9, 8, "sh")];
        let processes = processes(6, all.map(|(id, parent, comm)| process(id, parent, comm, comm)));
        let found = |text| processes.called(&name(text)).iter().map(|process| process.id).collect::<Vec<_>>();
        assert_eq!((found("coffer"), found("sh")), (vec![7, 8], vec![9]));
        assert!(processes.is_ours(1) && processes.is_ours(6) && !processes.is_ours(7));
    }

    #[test]
    fn a_container_of_its_own_is_told_from_a_shared_one() {
        let of =
            |own, all: &[(u32, u32)]| processes(own, all.iter().map(|(id, up)| process(*id, *up, "x", "x"))).alone();
        assert!(of(1, &[(1, 0)]));
        assert!(of(1, &[(1, 0), (9, 0), (10, 9)]), "somebody looked in with kubectl exec");
        assert!(of(7, &[(1, 0), (7, 1), (8, 7), (9, 8)]), "an init above, a command below");
        assert!(!of(7, &[(1, 0), (7, 0), (8, 0)]), "a pause container and the application");
        assert!(!of(7, &[(1, 0), (7, 1), (8, 1)]));
    }

    #[test]
    fn this_process_is_read_as_it_is() {
        let own = Process::read(std::process::id()).unwrap();
        assert_eq!(own.parent, rustix::process::getppid().map_or(0, |pid| pid.as_raw_pid().cast_unsigned()));
        assert!(!own.program.is_empty() && !own.program.contains('/'), "{own:?}");
        assert_eq!(uid_of(own.id), Some(rustix::process::getuid().as_raw()));
        assert!(Processes::read().is_ours(own.id));
        assert_eq!(Process::read(u32::MAX), None);
    }

    #[test]
    fn a_line_that_bites_its_tail_ends() {
        assert!(!processes(3, [process(3, 4, "x", "x"), process(4, 3, "x", "x")]).is_ours(5));
    }
}
