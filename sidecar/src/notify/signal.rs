//! Telling by a signal.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, geteuid, kill_process, pidfd_open, pidfd_send_signal};

use super::processes::{COMM_MAX, Process, Processes, uid_of};
use crate::spec::{ProcessName, Recipient, Signal, nearest};

/// A process number and a line end have fewer bytes than this.
const PID_FILE_MAX: u64 = 32;

/// Why a signal was not sent. Never holds what a pid file holds, unless it is a number.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeliveryError {
    /// The pid file is missing.
    #[error(
        "there is no pid file {path}: the application has not written it, or it is not in a volume that coffer's \
         container mounts too"
    )]
    NoPidFile { path: PathBuf },
    /// The pid file cannot be read.
    #[error("cannot read the pid file {path}: {source}")]
    PidFile { path: PathBuf, source: io::Error },
    /// The pid file holds something else.
    #[error("the pid file {path} does not hold a process number and nothing else; name the file that holds one")]
    NotANumber { path: PathBuf },
    /// The pid file is of another PID namespace.
    #[error(
        "the pid file {path} says {id}, which here is coffer or what started it: it was written in a container that does \
         not share its processes; set `shareProcessNamespace: true` on the pod"
    )]
    Ourselves { path: PathBuf, id: u32 },
    /// There is no such process.
    #[error("the pid file {path} says {id}, and there is no such process: {}", why_gone(*.alone))]
    Gone { path: PathBuf, id: u32, alone: bool },
    /// Nobody has that name.
    #[error("no process is called `{name}`: {}", why_nobody(name, *.seen, near.as_deref()))]
    Nobody {
        name: ProcessName,
        /// How many can be seen; `None` when coffer is alone.
        seen: Option<usize>,
        near: Option<String>,
    },
    /// The kernel does not let us.
    #[error("not permitted to signal process {id} ({comm}): {}", why_forbidden(*.own, *.its))]
    Forbidden { id: u32, comm: String, own: u32, its: Option<u32> },
    /// The kernel refused otherwise.
    #[error("cannot signal process {id}: {source}")]
    Io { id: u32, source: io::Error },
}

const SHARE: &str = "coffer sees no process but its own; is `shareProcessNamespace: true` set on the pod?";

fn why_gone(alone: bool) -> &'static str {
    if alone { SHARE } else { "the application has ended and left the file, or has yet to write it anew" }
}

fn why_nobody(name: &ProcessName, seen: Option<usize>, near: Option<&str>) -> String {
    match (seen, near) {
        (None, _) => SHARE.to_owned(),
        (Some(seen), Some(near)) => format!("none of the {seen} that coffer sees; did you mean `{near}`?"),
        (Some(seen), None) => {
            let cut = if name.as_str().len() > COMM_MAX { " (15 bytes)" } else { "" };
            format!("none of the {seen} that coffer sees; write the file name of its program, or /proc/PID/comm{cut}")
        }
    }
}

fn why_forbidden(own: u32, its: Option<u32>) -> String {
    match its {
        Some(its) if its == own => {
            format!(
                "both run as uid {own}, so a seccomp profile or a security module forbids it, or it runs in another user namespace"
            )
        }
        its => {
            let its = its.map_or("another uid".to_owned(), |uid| format!("uid {uid}"));
            format!(
                "coffer runs as uid {own} and it runs as {its}; give both containers the same `runAsUser`, or coffer the \
                 capability KILL"
            )
        }
    }
}

/// Sends the signal.
pub(super) fn deliver(signal: Signal, to: &Recipient) -> Result<(), DeliveryError> {
    match to {
        Recipient::PidFile(path) => to_pid_file(signal, path),
        Recipient::Process(name) => to_name(signal, name),
    }
}

fn to_pid_file(signal: Signal, path: &Path) -> Result<(), DeliveryError> {
    let id = read_pid_file(path)?;
    let raw = id.as_raw_pid().cast_unsigned();
    let processes = Processes::read();
    if processes.is_ours(raw) {
        return Err(DeliveryError::Ourselves { path: path.to_owned(), id: raw });
    }
    let still = || read_pid_file(path).is_ok_and(|now| now == id) && !has_ended(raw);
    send(signal, id, still).map_err(|errno| match errno {
        Errno::SRCH => DeliveryError::Gone { path: path.to_owned(), id: raw, alone: processes.alone() },
        errno => refused(raw, errno),
    })
}

/// Whether a process has ended and nobody has waited for it: it takes any signal and does nothing.
/// What /proc hides is not known to have ended.
fn has_ended(id: u32) -> bool {
    Process::read(id).is_none() && Path::new(&format!("/proc/{id}/stat")).exists()
}

fn to_name(signal: Signal, name: &ProcessName) -> Result<(), DeliveryError> {
    let processes = Processes::read();
    let mut result = Ok(());
    let mut told = 0;
    for process in processes.called(name) {
        let Some(id) = Pid::from_raw(process.id.cast_signed()) else { continue };
        let still = || Process::read(process.id).is_some_and(|process| process.is_called(name));
        match send(signal, id, still) {
            Ok(()) => told += 1,
            // It has ended since it was found.
            Err(Errno::SRCH) => {}
            // The others are told all the same.
            Err(errno) => result = result.and(Err(refused(process.id, errno))),
        }
    }
    if told == 0 && result.is_ok() {
        let near = nearest(name.as_str(), processes.names()).map(str::to_owned);
        let seen = (!processes.alone()).then(|| processes.len());
        return Err(DeliveryError::Nobody { name: name.clone(), seen, near });
    }
    result
}

fn read_pid_file(path: &Path) -> Result<Pid, DeliveryError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => DeliveryError::NoPidFile { path: path.to_owned() },
        _ => DeliveryError::PidFile { path: path.to_owned(), source },
    };
    let not_a_number = || DeliveryError::NotANumber { path: path.to_owned() };
    // A FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(CWD, path, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let kind = FileType::from_raw_mode(fstat(&file).map_err(|errno| failed(errno.into()))?.st_mode);
    if kind != FileType::RegularFile {
        return Err(not_a_number());
    }
    let mut text = String::new();
    match File::from(file).take(PID_FILE_MAX).read_to_string(&mut text) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(not_a_number()),
        read => read.map_err(failed)?,
    };
    // What is longer was read in part.
    let whole = text.len() < PID_FILE_MAX as usize;
    pid(&text).filter(|_| whole).ok_or_else(not_a_number)
}

/// A number of decimal digits, over 0: 0 and less mean groups of processes to kill(2).
fn pid(text: &str) -> Option<Pid> {
    let digits = text.trim_ascii();
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok().and_then(Pid::from_raw)).flatten()
}

/// Signals the process that has the number when `still` says that it is the one that is meant.
/// Between that and the signal its number cannot pass to another.
fn send(signal: Signal, id: Pid, still: impl Fn() -> bool) -> rustix::io::Result<()> {
    match pidfd_open(id, PidfdFlags::empty()) {
        Ok(_) | Err(Errno::NOSYS | Errno::PERM) if !still() => Err(Errno::SRCH),
        Ok(process) => pidfd_send_signal(process, signal.number()),
        // Before Linux 5.3; and sandboxes that know fewer calls than the kernel.
        Err(Errno::NOSYS | Errno::PERM) => kill_process(id, signal.number()),
        // The number of a thread, not of a process.
        Err(Errno::INVAL | Errno::NOENT) => Err(Errno::SRCH),
        Err(errno) => Err(errno),
    }
}

fn refused(id: u32, errno: Errno) -> DeliveryError {
    if errno != Errno::PERM {
        return DeliveryError::Io { id, source: errno.into() };
    }
    let comm = Process::read(id).map_or_else(|| "unknown".to_owned(), |process| process.comm);
    DeliveryError::Forbidden { id, comm, own: geteuid().as_raw(), its: uid_of(id) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command};

    use super::*;

    /// A name that no other run of these tests signals.
    fn name(of: &str) -> String {
        format!("coffer-{}-{of}", std::process::id())
    }

    /// A process of that name that sleeps until it is signalled.
    fn sleeper(of: &str) -> Child {
        let name = name(of);
        let child = Command::new("/bin/sleep").arg0(format!("/opt/bin/{name}")).arg("1000").spawn().unwrap();
        // Between fork and exec it still has our name.
        while !Process::read(child.id()).is_some_and(|process| process.is_called(&name.parse().unwrap())) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child
    }

    fn tell(signal: &str, to: &Recipient) -> Result<(), String> {
        deliver(signal.parse().unwrap(), to).map_err(|error| error.to_string())
    }

    fn ended_by(child: &mut Child) -> Option<i32> {
        child.wait().unwrap().signal()
    }

    #[test]
    fn every_process_of_the_name_is_signalled_and_no_other() {
        let mut children = ["a", "a", "b"].map(sleeper);
        let called = |of: &str| Recipient::Process(name(of).parse().unwrap());
        tell("HUP", &called("a")).unwrap();
        assert_eq!((ended_by(&mut children[0]), ended_by(&mut children[1])), (Some(1), Some(1)));
        assert_eq!(children[2].try_wait().unwrap(), None);
        tell("USR1", &called("b")).unwrap();
        assert_eq!(ended_by(&mut children[2]), Some(10));
    }

    #[test]
    fn nobody_of_that_name_is_an_error_that_tells_what_to_check() {
        let error = tell("HUP", &Recipient::Process("no-such-program-here".parse().unwrap())).unwrap_err();
        assert!(error.starts_with("no process is called `no-such-program-here`: "), "{error}");
        let text = |seen, near: Option<&str>| {
            let near = near.map(str::to_owned);
            DeliveryError::Nobody { name: "nginx".parse().unwrap(), seen, near }.to_string()
        };
        assert_eq!(
            text(None, None),
            "no process is called `nginx`: coffer sees no process but its own; is `shareProcessNamespace: true` set on \
             the pod?"
        );
        assert_eq!(
            text(Some(7), None),
            "no process is called `nginx`: none of the 7 that coffer sees; write the file name of its program, or \
             /proc/PID/comm"
        );
        assert_eq!(
            text(Some(7), Some("nginy")),
            "no process is called `nginx`: none of the 7 that coffer sees; did you mean `nginy`?"
        );
    }

    #[test]
    fn the_process_of_a_pid_file_is_signalled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let mut child = sleeper("c");
        fs::write(&path, format!(" {}\n", child.id())).unwrap();
        let to = Recipient::PidFile(path);
        tell("TERM", &to).unwrap();
        // Nobody has waited for it yet: it takes signals and does nothing.
        while Process::read(child.id()).is_some() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let gone = "and there is no such process: ";
        let error = tell("TERM", &to).unwrap_err();
        assert!(error.contains(gone), "{error}");
        assert_eq!(ended_by(&mut child), Some(15));
        let error = tell("TERM", &to).unwrap_err();
        assert!(error.contains(gone), "{error}");
    }

    #[test]
    fn what_a_pid_file_may_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let shown = path.display();
        let to = Recipient::PidFile(path.clone());
        let tell = || tell("CONT", &to).unwrap_err();
        assert_eq!(
            tell(),
            format!(
                "there is no pid file {shown}: the application has not written it, or it is not in a volume that coffer's \
                 container mounts too"
            )
        );
        let wrong = format!(
            "the pid file {shown} does not hold a process number and nothing else; name the file that holds one"
        );
        for text in [
            "",
            "0",
            "-1",
            "+7",
            "1 2",
            "hunter2",
            "99999999999",
            "7\n8",
            "0x7",
            &"1".repeat(100),
            &format!("7{:90}8", ""),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(tell(), wrong, "{text:?}");
        }
        fs::write(&path, b"\xff\xfe").unwrap();
        assert_eq!(tell(), wrong);
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(tell(), wrong);
        fs::remove_file(&path).unwrap();
        for id in [std::process::id(), std::os::unix::process::parent_id()] {
            fs::write(&path, id.to_string()).unwrap();
            assert_eq!(
                tell(),
                format!(
                    "the pid file {shown} says {id}, which here is coffer or what started it: it was written in a container \
                     that does not share its processes; set `shareProcessNamespace: true` on the pod"
                )
            );
        }
    }

    #[test]
    fn a_refusal_names_both_users_and_the_fix() {
        let text = |its| DeliveryError::Forbidden { id: 42, comm: "nginx".into(), own: 1000, its }.to_string();
        assert_eq!(
            text(Some(101)),
            "not permitted to signal process 42 (nginx): coffer runs as uid 1000 and it runs as uid 101; give both \
             containers the same `runAsUser`, or coffer the capability KILL"
        );
        assert_eq!(
            text(Some(1000)),
            "not permitted to signal process 42 (nginx): both run as uid 1000, so a seccomp profile or a security module \
             forbids it, or it runs in another user namespace"
        );
        assert!(text(None).contains("it runs as another uid"));
        assert!(matches!(refused(std::process::id(), Errno::PERM), DeliveryError::Forbidden { its: Some(_), .. }));
    }
}
