//! A listening socket, and the file at which clients find it.
//!
//! For a path the rules are: what is at the path is replaced only if it is a socket at which nobody
//! listens; whoever starts there at the same moment waits; and no client gets in before owner, group and
//! mode are as asked for.
//!
//! - A lock file beside the path is held from the look at the path until the socket is there. A kernel
//!   lock (flock(2)) works for all processes of the machine, whatever containers they are in, and ends with
//!   its process. Afterwards the socket itself is the lock: it answers to connect(2).
//! - The socket is bound under another name, is given owner, group and mode, begins to listen, and is then
//!   renamed. The rename never replaces what was not looked at: a path that was free must still be free,
//!   and an old socket is exchanged for the new one and looked at once more, for the sake of programs that
//!   do not know of the lock.
//! - At the end the file is removed, if it still is ours, and only then the socket closed.

mod file;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

pub(crate) use self::file::File;
use crate::account::{Group, User};
use crate::address::Address;
use crate::inherited::{Inherited, InheritedError};
use crate::peers::Peers;

/// Connections that wait to be accepted; the kernel makes it less where net.core.somaxconn is.
const BACKLOG: i32 = 4096;

/// A socket that listens, and has not accepted anything yet. When dropped, its file is removed.
#[derive(Debug)]
pub struct Socket {
    address: Address,
    peers: Peers,
    // Before the listener: fields are dropped in this order, and while the socket listens, nobody takes
    // its path for free.
    file: Option<File>,
    listener: UnixListener,
}

/// Who may connect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Mode of the socket's file: to connect takes the right to write.
    pub mode: Mode,
    /// Owner of the file; this process's user if `None`.
    pub owner: Option<User>,
    /// Group of the file; this process's group, or that of a set-group-ID folder, if `None`.
    pub group: Option<Group>,
    /// Who is let in of those who can connect. If `None`: at a path, anybody; by an abstract name, which no
    /// mode guards, root and this process's own user.
    pub peers: Option<Peers>,
}

/// Mode of a socket's file: parsed from octal digits, 0600 unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(u32);

/// Why text is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{given}\" is not the mode of a socket: give three octal digits, such as 0660, that let somebody write")]
pub struct ModeError {
    /// As it was given.
    given: String,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The folder is missing and cannot be made, or is no folder.
    #[error("cannot use the folder {} for a socket: {source}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The lock file cannot be had.
    #[error("cannot lock {}, so as to be the only one who starts there: {source}; if another user's process left it, remove it", lock.display())]
    Lock {
        /// The lock file.
        lock: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process starts at the same path and does not get done.
    #[error("another process has held {} for {waited:?}; if it hangs, end it", lock.display())]
    Busy {
        /// The lock file.
        lock: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// Something answers at the path.
    #[error("another instance serves at {}: end that one first, or listen elsewhere", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The abstract name is taken.
    #[error("another process has the name @{name}: end that one first, or choose another name")]
    NameInUse {
        /// The name.
        name: String,
    },
    /// There is something at the path that is not a socket.
    #[error("{} is a {kind}, not a socket, and is left alone: remove it, or listen elsewhere", path.display())]
    NotASocket {
        /// What is there.
        path: PathBuf,
        /// In words.
        kind: &'static str,
    },
    /// The socket that is there can't be asked whether it is in use.
    #[error("cannot tell whether the socket {} is in use, so it is left alone: {source}; remove it if it is not", path.display())]
    Unclear {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The folder changed each time it was looked at.
    #[error("other programs keep replacing {}: find out which, or listen elsewhere", path.display())]
    Contended {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Where.
        address: Address,
        /// What the system says.
        source: io::Error,
    },
    /// The file can't be given to owner and group.
    #[error("cannot give {} to {}: {source}; this takes root (CAP_CHOWN), or for a group, to be in it", path.display(), whom(*owner, *group))]
    Own {
        /// The socket, or the folder that was made for it.
        path: PathBuf,
        /// Whom it was to belong to.
        owner: Option<u32>,
        /// Which group it was to belong to.
        group: Option<u32>,
        /// What the system says.
        source: io::Error,
    },
    /// A socket of systemd's is not to be had.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
}

impl Socket {
    /// Listens at `address`. Takes a socket of systemd's out of `inherited`; who may connect to its file is
    /// for its unit to say, so of `access` only the peers count.
    ///
    /// Blocks for as long as another process starts at the same path, 5 s at most.
    pub fn open(address: &Address, access: &Access, inherited: &mut Inherited) -> Result<Self, BindError> {
        let (listener, file, guarded) = match address {
            Address::Path(path) => {
                let (listener, file) = File::bind(path, access)?;
                (listener, Some(file), true)
            }
            Address::Abstract(name) => (abstract_socket(address, name)?, None, false),
            Address::Inherited(handle) => {
                let listener = inherited.take(handle)?;
                let has_path = listener.local_addr().is_ok_and(|at| at.as_pathname().is_some());
                (listener, None, has_path)
            }
        };
        let peers = access.peers.clone().unwrap_or_else(|| if guarded { Peers::any() } else { Peers::root_and_own() });
        Ok(Self { address: address.clone(), peers, file, listener })
    }

    /// Where it listens, as it was asked for.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// While `File` is kept, so is the path; it must go before the listener.
    pub(crate) fn into_parts(self) -> (Address, Peers, UnixListener, Option<File>) {
        (self.address, self.peers, self.listener, self.file)
    }
}

impl Mode {
    /// The permission bits.
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl Default for Mode {
    fn default() -> Self {
        Self(0o600)
    }
}

impl FromStr for Mode {
    type Err = ModeError;

    fn from_str(text: &str) -> Result<Self, ModeError> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let is_octal = (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| is_octal && *mode <= 0o777 && mode & 0o222 != 0);
        mode.map(Self).ok_or_else(|| ModeError { given: text.to_owned() })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04o}", self.0)
    }
}

fn abstract_socket(address: &Address, name: &str) -> Result<UnixListener, BindError> {
    let open = || {
        let socket = stream_socket()?;
        bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        listen(&socket, BACKLOG)?;
        Ok(UnixListener::from(socket))
    };
    open().map_err(|error| match error {
        Errno::ADDRINUSE => BindError::NameInUse { name: name.to_owned() },
        other => BindError::Bind { address: address.clone(), source: other.into() },
    })
}

fn stream_socket() -> Result<std::os::fd::OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

fn whom(owner: Option<u32>, group: Option<u32>) -> String {
    match (owner, group) {
        (Some(owner), Some(group)) => format!("user {owner} and group {group}"),
        (Some(owner), None) => format!("user {owner}"),
        (None, Some(group)) => format!("group {group}"),
        (None, None) => "nobody".to_owned(),
    }
}
