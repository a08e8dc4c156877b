//! Where a server listens.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::inherited::Handle;

/// What the kernel keeps of a socket's path: `sun_path` without the NUL at its end, see unix(7). An
/// abstract name has the same room, for it begins with a NUL in place of `@`.
const LENGTH_MAX: usize = 107;

/// Where a server listens: a path, a name in the abstract namespace, or a socket that the service manager
/// hands on.
///
/// Parsed from `/path`, `unix:///path`, `unix:/path`, `@name`, `unix:@name`, `unix:///@name` (as Kubernetes
/// writes abstract names), `fd:NAME` and `fd:NUMBER`.
///
/// ```
/// use coffer_unix_grpc::Address;
///
/// assert_eq!("unix:///run/kms.sock".parse::<Address>()?, "/run/kms.sock".parse()?);
/// assert_eq!("unix:///@kms".parse::<Address>()?.to_string(), "@kms");
/// # Ok::<(), coffer_unix_grpc::AddressError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An absolute path.
    Path(PathBuf),
    /// A name in the abstract namespace, without the `@`. It has no file, so no mode guards it.
    Abstract(String),
    /// A socket that is handed on by systemd.
    Inherited(Handle),
}

/// Why text is no address. `given` is the whole text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no text, or nothing behind the scheme.
    #[error("\"{given}\" names no socket: give an absolute path, such as /run/coffer/kms.sock")]
    Empty {
        /// As it was given.
        given: String,
    },
    /// A path does not begin at the root.
    #[error("\"{given}\" is a relative path, which depends on where the process is started: give an absolute one")]
    Relative {
        /// As it was given.
        given: String,
    },
    /// A path ends with a slash or a dot, or leads upwards.
    #[error("\"{given}\" is not the path of a socket: it must end with the socket's name, and hold no \"..\"")]
    NoName {
        /// As it was given.
        given: String,
    },
    /// The kernel has no room for it.
    #[error(
        "\"{given}\" is {length} bytes long, and the kernel takes no more than {LENGTH_MAX} for a socket: choose a \
         shorter one"
    )]
    TooLong {
        /// As it was given.
        given: String,
        /// Of the path or name alone.
        length: usize,
    },
    /// A NUL or another control character, which is a mistake in whatever wrote it.
    #[error("{given:?} holds a control character")]
    Control {
        /// As it was given.
        given: String,
    },
    /// Another scheme, or a host.
    #[error(
        "\"{given}\" is not a unix socket, and nothing else is served: give a path, unix:///path, @name for an abstract \
         socket, or fd:NAME for one of systemd's"
    )]
    NotUnix {
        /// As it was given.
        given: String,
    },
    /// `unix://host/path`, which is mostly `unix:///path` with a slash too few.
    #[error(
        "\"{given}\" names the host \"{host}\", and a unix socket has none: write unix:///{host}… with three slashes"
    )]
    Host {
        /// As it was given.
        given: String,
        /// What stands where a host would.
        host: String,
    },
    /// Descriptors 0 to 2 are never handed on.
    #[error("\"{given}\" is none of systemd's sockets: their numbers begin with 3")]
    Descriptor {
        /// As it was given.
        given: String,
    },
}

impl Address {
    /// The path, where there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Abstract(_) | Self::Inherited(_) => None,
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let given = || text.to_owned();
        if text.chars().any(char::is_control) {
            return Err(AddressError::Control { given: given() });
        }
        if let Some(handle) = text.strip_prefix("fd:") {
            return inherited(text, handle);
        }
        let place = match text.strip_prefix("unix:") {
            None => text,
            Some(rest) => {
                // Behind two slashes a host would stand, which is empty, as in file:///.
                let local = match rest.strip_prefix("//") {
                    Some(local) if local.starts_with(['/', '@']) || local.is_empty() => local,
                    Some(host) => {
                        let host = host.split('/').next().unwrap_or(host).to_owned();
                        return Err(AddressError::Host { given: given(), host });
                    }
                    None => rest,
                };
                // An abstract name as Kubernetes has it.
                if local.starts_with("/@") { &local[1..] } else { local }
            }
        };
        if let Some(name) = place.strip_prefix('@') {
            return match name.len() {
                0 => Err(AddressError::Empty { given: given() }),
                length if length > LENGTH_MAX => Err(AddressError::TooLong { given: given(), length }),
                _ => Ok(Self::Abstract(name.to_owned())),
            };
        }
        match place {
            "" => Err(AddressError::Empty { given: given() }),
            _ if place.starts_with('/') => path(text, place),
            _ if place.contains("://") || is_scheme_of_grpc(place) => Err(AddressError::NotUnix { given: given() }),
            _ => Err(AddressError::Relative { given: given() }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(formatter),
            Self::Abstract(name) => write!(formatter, "@{name}"),
            Self::Inherited(handle) => write!(formatter, "fd:{handle}"),
        }
    }
}

fn path(given: &str, place: &str) -> Result<Address, AddressError> {
    let no_name = || AddressError::NoName { given: given.to_owned() };
    if place.ends_with('/') || place.ends_with("/.") {
        return Err(no_name());
    }
    // Without doubled slashes and dots, so that one socket has one spelling.
    let path: PathBuf = Path::new(place).components().collect();
    if path.file_name().is_none() || path.components().any(|component| component == Component::ParentDir) {
        return Err(no_name());
    }
    match path.as_os_str().len() {
        length if length > LENGTH_MAX => Err(AddressError::TooLong { given: given.to_owned(), length }),
        _ => Ok(Address::Path(path)),
    }
}

fn inherited(given: &str, handle: &str) -> Result<Address, AddressError> {
    if handle.is_empty() {
        return Err(AddressError::Empty { given: given.to_owned() });
    }
    if !handle.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Address::Inherited(Handle::Name(handle.to_owned())));
    }
    match handle.parse() {
        Ok(number) if number >= 3 => Ok(Address::Inherited(Handle::Number(number))),
        _ => Err(AddressError::Descriptor { given: given.to_owned() }),
    }
}

/// `tcp:`, `dns:` and the like, `localhost:8080`, `1.2.3.4:80`: none of it is a path with its slash forgotten.
fn is_scheme_of_grpc(place: &str) -> bool {
    !place.contains('/') && place.contains(':')
        || ["tcp:", "dns:", "ipv4:", "ipv6:", "vsock:", "unix-abstract:"].iter().any(|scheme| place.starts_with(scheme))
}

/// What is bound or dialled: not more than the kernel has room for.
pub(crate) fn fits(path: &Path) -> bool {
    OsStr::as_bytes(path.as_os_str()).len() <= LENGTH_MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Address, AddressError> {
        text.parse()
    }

    fn refused(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn all_spellings_of_a_path_are_one() {
        let path = Address::Path("/run/kms/kms.sock".into());
        for spelling in [
            "/run/kms/kms.sock",
            "unix:/run/kms/kms.sock",
            "unix:///run/kms/kms.sock",
            "//run/./kms//kms.sock",
            "unix:////run/kms/kms.sock",
        ] {
            assert_eq!(parse(spelling).as_ref(), Ok(&path), "{spelling}");
        }
        assert_eq!(path.to_string(), "/run/kms/kms.sock");
    }

    #[test]
    fn all_spellings_of_an_abstract_name_are_one() {
        for spelling in ["@kms", "unix:@kms", "unix:///@kms", "unix://@kms", "unix:/@kms"] {
            assert_eq!(parse(spelling), Ok(Address::Abstract("kms".into())), "{spelling}");
        }
        assert_eq!(parse("@a/b").unwrap().to_string(), "@a/b");
        assert_eq!(parse("/@kms"), Ok(Address::Path("/@kms".into())));
    }

    #[test]
    fn sockets_of_systemd_have_names_or_numbers() {
        assert_eq!(parse("fd:kms.socket"), Ok(Address::Inherited(Handle::Name("kms.socket".into()))));
        assert_eq!(parse("fd:3"), Ok(Address::Inherited(Handle::Number(3))));
        assert_eq!(parse("fd:3").unwrap().to_string(), "fd:3");
    }

    #[test]
    fn what_is_wrong_is_told_with_the_fix() {
        assert_eq!(
            refused("run/kms.sock"),
            "\"run/kms.sock\" is a relative path, which depends on where the process is started: give an absolute one"
        );
        assert!(refused("kms.sock").contains("relative"));
        assert!(refused("unix:kms.sock").contains("relative"));
        assert_eq!(
            refused("unix://run/kms.sock"),
            "\"unix://run/kms.sock\" names the host \"run\", and a unix socket has none: write unix:///run… with three \
             slashes"
        );
        for other in ["http://localhost:8080", "tcp://1.2.3.4:80", "tcp:80", ":8080", "localhost:8080", "dns:///a"] {
            assert!(refused(other).contains("is not a unix socket"), "{other}: {}", refused(other));
        }
        for empty in ["", "@", "unix:", "unix://", "unix:///@", "fd:"] {
            assert!(refused(empty).contains("names no socket"), "{empty}: {}", refused(empty));
        }
        for nameless in ["/", "/run/", "unix:///", "/run/..", "/run/../kms.sock", "/run/.", "/run/kms.sock/."] {
            assert!(refused(nameless).contains("must end with the socket's name"), "{nameless}: {}", refused(nameless));
        }
        assert!(refused("fd:2").contains("begin with 3"));
        assert!(refused("fd:99999999999").contains("begin with 3"));
        assert_eq!(refused("/run/a\n"), "\"/run/a\\n\" holds a control character");
    }

    #[test]
    fn length_is_bounded_by_the_kernel() {
        let of = |length: usize| format!("/{}", "x".repeat(length - 1));
        assert!(parse(&of(107)).is_ok());
        assert!(parse(&format!("unix://{}", of(107))).is_ok());
        assert!(refused(&of(108)).contains("is 108 bytes long, and the kernel takes no more than 107"));
        assert!(parse(&format!("@{}", "x".repeat(107))).is_ok());
        assert!(refused(&format!("@{}", "x".repeat(108))).contains("108 bytes"));
    }

    proptest! {
        #[test]
        fn an_address_reads_back_from_its_text(text in "(unix:)?/{0,3}@?[a-z./@:]{0,12}|fd:[a-z0-9.]{0,4}|\\PC{0,40}") {
            if let Ok(address) = parse(&text) {
                prop_assert_eq!(parse(&address.to_string()), Ok(address));
            }
        }
    }
}
