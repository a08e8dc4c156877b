//! Sockets that systemd opened and hands on to the process it starts: sd_listen_fds(3).

use std::env;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, sockopt};

/// The first number that is handed on.
const FIRST: u32 = 3;
/// More than systemd hands on to anyone; a higher number is a mistake.
const COUNT_MAX: u32 = 1024;

/// Which of the sockets is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Handle {
    /// As in `FileDescriptorName=` of the socket's unit; without that, the unit's own name.
    Name(String),
    /// The descriptor: 3 for the first.
    Number(u32),
}

impl fmt::Display for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(formatter),
            Self::Number(number) => number.fmt(formatter),
        }
    }
}

/// The sockets that were handed on to this process and are not taken yet.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    number: u32,
    name: Option<String>,
    descriptor: OwnedFd,
}

/// Why a socket of systemd's cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// LISTEN_FDS or LISTEN_PID is no number, or is too high.
    #[error("{variable}={value:?} is not what systemd sets: it must be a number, no higher than {most}")]
    Malformed {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// The highest number it may be.
        most: u32,
    },
    /// LISTEN_FDS counts a descriptor that is not there, or is no socket.
    #[error("LISTEN_FDS={count} promises descriptor {number}, and that is not an open socket")]
    Absent {
        /// The descriptor.
        number: u32,
        /// The value of LISTEN_FDS.
        count: u32,
    },
    /// There is none of that name or number.
    #[error("there is no socket fd:{handle} from systemd; there is {present}")]
    Unknown {
        /// What was asked for.
        handle: Handle,
        /// What there is, in words.
        present: String,
    },
    /// Several carry one name.
    #[error(
        "systemd hands on {count} sockets named \"{name}\": choose by number ({numbers}), or name each with FileDescriptorName="
    )]
    Ambiguous {
        /// The name.
        name: String,
        /// How many carry it.
        count: usize,
        /// Their numbers, as they would be given.
        numbers: String,
    },
    /// It is not a listening stream socket of the unix family.
    #[error(
        "fd:{handle} is not a listening unix stream socket: its unit needs ListenStream= with a path or @name, and no \
         Accept=yes"
    )]
    Unfit {
        /// What was asked for.
        handle: Handle,
    },
    /// The kernel refuses to prepare it.
    #[error("cannot take over fd:{handle}: {source}")]
    Take {
        /// What was asked for.
        handle: Handle,
        /// What the system says.
        source: io::Error,
    },
}

impl Inherited {
    /// The sockets that LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES tell of; none where they are not set, or
    /// are meant for another process. To be called early in `main`, once: a second call finds none.
    pub fn from_environment() -> Result<Self, InheritedError> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        let Some(pid) = number("LISTEN_PID", u32::MAX)? else { return Ok(Self::default()) };
        let Some(count) = number("LISTEN_FDS", COUNT_MAX)? else { return Ok(Self::default()) };
        if pid != std::process::id() || TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(Self::default());
        }
        // Before they are owned: to close what was never open would be worse than an error.
        for number in FIRST..FIRST + count {
            let target = rustix::fs::readlink(format!("/proc/self/fd/{number}"), Vec::new());
            if !target.is_ok_and(|target| target.as_bytes().starts_with(b"socket:")) {
                return Err(InheritedError::Absent { number, count });
            }
        }
        // Its only error is a number that is none, which was looked at above.
        let handed_on = sd_listen_fds::get().unwrap_or_default();
        let sockets = (FIRST..).zip(handed_on).map(|(number, (name, descriptor))| {
            let descriptor = descriptor.into_std();
            // systemd leaves it open for children, for it does not know whom it is meant for.
            let _ = fcntl_setfd(&descriptor, FdFlags::CLOEXEC);
            Entry { number, name: name.filter(|name| !name.is_empty()), descriptor }
        });
        Ok(Self { sockets: sockets.collect() })
    }

    /// The sockets that nobody took, as they would be asked for: worth a warning, since their clients wait
    /// in vain.
    pub fn left(&self) -> impl Iterator<Item = String> {
        self.sockets
            .iter()
            .map(|entry| entry.name.clone().unwrap_or(entry.number.to_string()))
            .map(|it| format!("fd:{it}"))
    }

    /// Takes one, ready to accept without blocking.
    pub(crate) fn take(&mut self, handle: &Handle) -> Result<UnixListener, InheritedError> {
        let matching = |entry: &&Entry| match handle {
            Handle::Name(name) => entry.name.as_ref() == Some(name),
            Handle::Number(number) => entry.number == *number,
        };
        let found: Vec<u32> = self.sockets.iter().filter(matching).map(|entry| entry.number).collect();
        let number = match (found.as_slice(), handle) {
            ([number], _) => *number,
            ([], _) | (_, Handle::Number(_)) => {
                return Err(InheritedError::Unknown { handle: handle.clone(), present: self.present() });
            }
            (numbers, Handle::Name(name)) => {
                let spelled: Vec<String> = numbers.iter().map(|number| format!("fd:{number}")).collect();
                let (name, count) = (name.clone(), numbers.len());
                return Err(InheritedError::Ambiguous { name, count, numbers: spelled.join(", ") });
            }
        };
        let index = self.sockets.iter().position(|entry| entry.number == number);
        // It was found a moment ago.
        let Some(Entry { descriptor, .. }) = index.map(|index| self.sockets.remove(index)) else {
            return Err(InheritedError::Unknown { handle: handle.clone(), present: self.present() });
        };
        if !is_listening(&descriptor) {
            return Err(InheritedError::Unfit { handle: handle.clone() });
        }
        let take = |source| InheritedError::Take { handle: handle.clone(), source };
        let listener = UnixListener::from(descriptor);
        listener.set_nonblocking(true).map_err(take)?;
        Ok(listener)
    }

    fn present(&self) -> String {
        let all: Vec<String> = self.left().collect();
        if all.is_empty() { "none: start the program through its socket unit".to_owned() } else { all.join(", ") }
    }
}

fn is_listening(descriptor: &OwnedFd) -> bool {
    sockopt::socket_domain(descriptor) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(descriptor) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(descriptor) == Ok(true)
}

fn number(variable: &'static str, most: u32) -> Result<Option<u32>, InheritedError> {
    let Some(value) = env::var_os(variable).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = value.to_string_lossy().into_owned();
    match value.parse() {
        Ok(number) if number <= most => Ok(Some(number)),
        _ => Err(InheritedError::Malformed { variable, value, most }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::process::{Command, Stdio};

    use tempfile::TempDir;

    use super::*;

    fn inherited(sockets: impl IntoIterator<Item = (&'static str, OwnedFd)>) -> Inherited {
        let sockets = (FIRST..).zip(sockets).map(|(number, (name, descriptor))| Entry {
            number,
            name: Some(name.to_owned()).filter(|name| !name.is_empty()),
            descriptor,
        });
        Inherited { sockets: sockets.collect() }
    }

    fn listener(folder: &TempDir, name: &str) -> OwnedFd {
        UnixListener::bind(folder.path().join(name)).unwrap().into()
    }

    fn name(name: &str) -> Handle {
        Handle::Name(name.to_owned())
    }

    #[test]
    fn each_is_taken_once_by_name_or_number() {
        let folder = TempDir::new().unwrap();
        let mut inherited = inherited([("kms", listener(&folder, "a")), ("", listener(&folder, "b"))]);
        assert_eq!(inherited.left().collect::<Vec<_>>(), ["fd:kms", "fd:4"]);
        let taken = inherited.take(&name("kms")).unwrap();
        assert_eq!(taken.local_addr().unwrap().as_pathname(), Some(folder.path().join("a").as_path()));
        assert_eq!(taken.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let error = inherited.take(&name("kms")).unwrap_err().to_string();
        assert_eq!(error, "there is no socket fd:kms from systemd; there is fd:4");
        inherited.take(&Handle::Number(4)).unwrap();
        let error = inherited.take(&Handle::Number(4)).unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no socket fd:4 from systemd; there is none: start the program through its socket unit"
        );
        // It is systemd's, and stays.
        drop(taken);
        assert!(folder.path().join("a").exists());
    }

    #[test]
    fn one_name_for_two_is_not_guessed_about() {
        let folder = TempDir::new().unwrap();
        let mut inherited = inherited([("kms", listener(&folder, "a")), ("kms", listener(&folder, "b"))]);
        let error = inherited.take(&name("kms")).unwrap_err().to_string();
        assert_eq!(
            error,
            "systemd hands on 2 sockets named \"kms\": choose by number (fd:3, fd:4), or name each with FileDescriptorName="
        );
    }

    #[test]
    fn only_listening_stream_sockets_of_the_unix_family_will_do() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        let unfit = [("a", tcp.into()), ("b", stream.into()), ("c", UnixDatagram::unbound().unwrap().into())];
        let mut inherited = inherited(unfit);
        for handle in ["a", "b", "c"] {
            let error = inherited.take(&name(handle)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("fd:{handle} is not a listening unix stream socket")), "{error}");
        }
    }

    /// Runs the test below in a process of its own, whose descriptor 3 is `socket`.
    fn in_a_process(socket: Stdio, environment: &str) -> String {
        let program = env::current_exe().unwrap();
        let script =
            format!("{environment} exec \"$0\" --exact --nocapture --ignored inherited::tests::what_is_there 3<&0");
        let output = Command::new("sh").args(["-c", &script]).arg(program).stdin(socket).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        output.lines().find_map(|line| line.split_once("found ")).unwrap().1.to_owned()
    }

    #[test]
    #[ignore = "is run by the test below, in the environment that systemd would make"]
    #[expect(clippy::print_stdout, reason = "its answer")]
    fn what_is_there() {
        let found = match Inherited::from_environment() {
            Ok(mut found) => {
                let names: Vec<String> = found.left().collect();
                let again = Inherited::from_environment().unwrap().left().count();
                let closed = found
                    .sockets
                    .iter()
                    .all(|entry| rustix::io::fcntl_getfd(&entry.descriptor).unwrap().contains(FdFlags::CLOEXEC));
                let taken = found.take(&Handle::Number(3)).is_ok();
                format!("{names:?} again {again} closed {closed} taken {taken}")
            }
            Err(error) => error.to_string(),
        };
        println!("found {found}");
    }

    #[test]
    fn the_environment_tells_what_was_handed_on() {
        let folder = TempDir::new().unwrap();
        let socket = || Stdio::from(listener(&folder, &fresh_name()));
        let found = in_a_process(socket(), "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=kms");
        assert_eq!(found, "[\"fd:kms\"] again 0 closed true taken true");
        let found = in_a_process(socket(), "LISTEN_PID=$$ LISTEN_FDS=1");
        assert_eq!(found, "[\"fd:3\"] again 0 closed true taken true");
        let nothing = "[] again 0 closed true taken false";
        assert_eq!(in_a_process(socket(), "LISTEN_PID=1 LISTEN_FDS=1"), nothing);
        assert_eq!(in_a_process(socket(), "LISTEN_FDS=1"), nothing);
        assert_eq!(in_a_process(socket(), "LISTEN_PID=$$"), nothing);
        assert_eq!(
            in_a_process(Stdio::null(), "LISTEN_PID=$$ LISTEN_FDS=1"),
            "LISTEN_FDS=1 promises descriptor 3, and that is not an open socket"
        );
        assert_eq!(
            in_a_process(socket(), "LISTEN_PID=$$ LISTEN_FDS=many"),
            "LISTEN_FDS=\"many\" is not what systemd sets: it must be a number, no higher than 1024"
        );
    }

    fn fresh_name() -> String {
        use std::sync::atomic::AtomicU32;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed).to_string()
    }
}
