//! Whom to tell that a set has been replaced, and how.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::nearest;

/// What happens after a volume's set was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnChange {
    /// What is done, in this order; may be empty.
    pub actions: Vec<Action>,
    /// Swaps that follow one another within this time are told as one.
    pub debounce: Duration,
}

impl OnChange {
    /// How long to wait for a further swap where nothing else is said: two secrets of one rotation
    /// come in two looks a moment apart, and an application should not be reloaded twice.
    pub const DEFAULT_DEBOUNCE: Duration = Duration::from_millis(200);

    /// The files whose time is set.
    pub fn touched(&self) -> impl Iterator<Item = &Path> {
        self.actions.iter().filter_map(|action| match &action.means {
            Means::Touch { path } => Some(path.as_path()),
            _ => None,
        })
    }
}

impl Default for OnChange {
    fn default() -> Self {
        Self { actions: Vec::new(), debounce: Self::DEFAULT_DEBOUNCE }
    }
}

/// One way to tell the application. Its [`Display`](fmt::Display) is short and names it in logs, the
/// status and metrics; it shows neither a query string nor a command's arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// How.
    pub means: Means,
    /// Whether the very first set of an empty volume is told too. Nobody has read anything before
    /// it, so by default nobody is told.
    pub first: bool,
}

/// How an application is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    /// A POST to a server of this pod.
    Http {
        /// Where.
        hook: Hook,
        /// How long it may take from connecting to the answer.
        timeout: Duration,
    },
    /// A signal.
    Signal {
        /// Which.
        signal: Signal,
        /// To whom.
        to: Recipient,
    },
    /// A command, without a shell.
    Exec {
        /// The program's absolute path.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<String>,
        /// How long it may run before it is killed.
        timeout: Duration,
    },
    /// A file's modification time is set to now.
    Touch {
        /// The file; absolute.
        path: PathBuf,
    },
}

/// Who gets a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// The process whose number is in this file.
    PidFile(PathBuf),
    /// Every process of this name, but Coffer itself and those that started it. A program's workers
    /// often have its name too; where the signal would end them, its pid file is the better address.
    Process(ProcessName),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.means.fmt(f)
    }
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { hook, .. } => write!(f, "http {hook}"),
            Self::Signal { signal, to: Recipient::PidFile(path) } => write!(f, "signal {signal} to {}", path.display()),
            Self::Signal { signal, to: Recipient::Process(name) } => write!(f, "signal {signal} to {name}"),
            Self::Exec { program, .. } => write!(f, "exec {}", program.display()),
            Self::Touch { path } => write!(f, "touch {}", path.display()),
        }
    }
}

/// A plain HTTP address on this host's own loopback: what is told there leaves neither the pod nor
/// the host, and needs no TLS.
///
/// Shown without its query string, which may hold a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Hook {
    host: Host,
    port: u16,
    /// Path and query, as sent.
    target: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    Localhost,
    V4(Ipv4Addr),
    V6,
}

/// Why a text is not a [`Hook`]. No message repeats more of the text than its host or port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// TLS was asked for.
    #[error("this is told on loopback only, where TLS protects nothing; write `http://`")]
    Tls,
    /// It does not start with a scheme.
    #[error("this is no address; write one such as `http://127.0.0.1:8080/-/reload`")]
    NoUrl,
    /// A user name or password stands before the host.
    #[error("a user name or password in an address ends up in logs of others; remove all up to the `@`")]
    UserInfo,
    /// The host is another, or a name that could be any.
    #[error("`{0}` is not this host's loopback; use 127.0.0.1, [::1] or localhost: what listens there is in this pod")]
    NotLoopback(String),
    /// The port is no number from 1 to 65535.
    #[error("`{0}` is no port; write a number from 1 to 65535, as in `http://127.0.0.1:8080/`")]
    Port(String),
    /// A `#` and what follows it is never sent.
    #[error("a server never sees what follows a `#`; remove it")]
    Fragment,
    /// A character that may not stand in an address.
    #[error("{0:?} may not stand in an address; write it as `%` and two hexadecimal digits")]
    Character(char),
    /// A `%` without two hexadecimal digits.
    #[error("`%` in an address stands before two hexadecimal digits; write `%25` for the sign itself")]
    Percent,
}

impl Hook {
    /// Where to connect, one after the other. `localhost` is never looked up: no resolver can send
    /// the message elsewhere.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let hosts: &[IpAddr] = match self.host {
            Host::Localhost => &[IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
            Host::V4(address) => &[IpAddr::V4(address)],
            Host::V6 => &[IpAddr::V6(Ipv6Addr::LOCALHOST)],
        };
        hosts.iter().map(|host| SocketAddr::new(*host, self.port)).collect()
    }

    /// Host and port, as in the `host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        match self.host {
            Host::Localhost => format!("localhost:{}", self.port),
            Host::V4(address) => format!("{address}:{}", self.port),
            Host::V6 => format!("[::1]:{}", self.port),
        }
    }

    /// Path and query, as sent. May hold a token.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }
}

impl FromStr for Hook {
    type Err = HookError;

    fn from_str(text: &str) -> Result<Self, HookError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => return Err(HookError::Tls),
            _ => return Err(HookError::NoUrl),
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(HookError::UserInfo);
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let host = match host {
            "[::1]" => Host::V6,
            name if name.eq_ignore_ascii_case("localhost") => Host::Localhost,
            other => match other.parse::<Ipv4Addr>() {
                Ok(address) if address.is_loopback() => Host::V4(address),
                _ => return Err(HookError::NotLoopback(other.to_owned())),
            },
        };
        let port = match port {
            None => 80,
            // `parse` would take a sign too.
            Some(port) => Some(port)
                .filter(|port| port.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|port| port.parse().ok().filter(|port| *port != 0))
                .ok_or_else(|| HookError::Port(port.to_owned()))?,
        };
        check_target(target)?;
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { host, port, target: format!("{slash}{target}") })
    }
}

/// RFC 3986, 3.3 and 3.4: what a path and a query are written with.
fn check_target(target: &str) -> Result<(), HookError> {
    let mut rest = target;
    while let Some(char) = rest.chars().next() {
        rest = &rest[char.len_utf8()..];
        match char {
            '%' => {
                let digits = rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count();
                if digits < 2 {
                    return Err(HookError::Percent);
                }
            }
            '#' => return Err(HookError::Fragment),
            char if char.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/?".contains(char) => {}
            char => return Err(HookError::Character(char)),
        }
    }
    Ok(())
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "{}{path}", self.authority())
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hook({self})")
    }
}

/// A signal that an application can be told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    name: &'static str,
    number: rustix::process::Signal,
}

impl Signal {
    const ALL: [Self; 10] = {
        use rustix::process::Signal as Number;
        [
            Self { name: "HUP", number: Number::HUP },
            Self { name: "INT", number: Number::INT },
            Self { name: "QUIT", number: Number::QUIT },
            Self { name: "KILL", number: Number::KILL },
            Self { name: "USR1", number: Number::USR1 },
            Self { name: "USR2", number: Number::USR2 },
            Self { name: "ALRM", number: Number::ALARM },
            Self { name: "TERM", number: Number::TERM },
            Self { name: "CONT", number: Number::CONT },
            Self { name: "WINCH", number: Number::WINCH },
        ]
    };

    /// The names of all, without `SIG`.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.into_iter().map(|signal| signal.name)
    }

    /// Its number, as the kernel takes it.
    #[must_use]
    pub fn number(self) -> rustix::process::Signal {
        self.number
    }
}

/// A text names no signal that is sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no signal to tell an application by; {hint}")]
pub struct SignalError {
    text: String,
    hint: String,
}

impl FromStr for Signal {
    type Err = SignalError;

    /// With or without `SIG`.
    fn from_str(text: &str) -> Result<Self, SignalError> {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        Self::ALL.into_iter().find(|signal| signal.name == name).ok_or_else(|| {
            let known = Self::ALL.map(|signal| signal.name.to_lowercase());
            let word = text.to_lowercase();
            let near = nearest(word.strip_prefix("sig").unwrap_or(&word), known.iter().map(String::as_str));
            let hint = match near {
                Some(near) => format!("did you mean `{}`?", near.to_uppercase()),
                None => format!("known are {}", Self::ALL.map(|signal| signal.name).join(", ")),
            };
            SignalError { text: text.to_owned(), hint }
        })
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The name of a process: that of its program's file, or the one that the kernel keeps
/// (`/proc/PID/comm`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessName(String);

/// Why a text is not a [`ProcessName`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProcessNameError {
    /// There is nothing to look for.
    #[error("a process has a name; write that of its program, such as `nginx`")]
    Empty,
    /// A path was written.
    #[error("a process is found by the name of its program, without the path; write `{0}`")]
    Path(String),
    /// Control characters.
    #[error("a process name may not hold control characters")]
    Control,
}

impl ProcessName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProcessName {
    type Err = ProcessNameError;

    fn from_str(text: &str) -> Result<Self, ProcessNameError> {
        if text.chars().any(char::is_control) {
            return Err(ProcessNameError::Control);
        }
        match text.trim_end_matches('/').rsplit_once('/') {
            Some((_, last)) if !last.is_empty() => Err(ProcessNameError::Path(last.to_owned())),
            _ if text.trim_matches(['/', ' ']).is_empty() => Err(ProcessNameError::Empty),
            _ if text.ends_with('/') => Err(ProcessNameError::Path(text.trim_end_matches('/').to_owned())),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for ProcessName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hook(text: &str) -> Result<Hook, String> {
        text.parse::<Hook>().map_err(|error| error.to_string())
    }

    #[test]
    fn a_hook_is_on_loopback_and_nowhere_else() {
        for (text, shown, addresses) in [
            ("http://127.0.0.1:8080/-/reload", "127.0.0.1:8080/-/reload", vec!["127.0.0.1:8080"]),
            ("HTTP://127.9.9.9", "127.9.9.9:80/", vec!["127.9.9.9:80"]),
            ("http://[::1]:1/", "[::1]:1/", vec!["[::1]:1"]),
            ("http://[::1]/a", "[::1]:80/a", vec!["[::1]:80"]),
            ("http://LocalHost:65535?x", "localhost:65535/", vec!["127.0.0.1:65535", "[::1]:65535"]),
        ] {
            let hook = hook(text).unwrap();
            assert_eq!(hook.to_string(), shown);
            let expected: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(hook.addresses(), expected);
        }
        for host in
            ["10.0.0.1", "example.org", "localhost.evil.org", "0.0.0.0", "[::]", "127.1", "[::ffff:127.0.0.1]", ""]
        {
            assert_eq!(
                hook(&format!("http://{host}:8080/")).unwrap_err(),
                format!(
                    "`{host}` is not this host's loopback; use 127.0.0.1, [::1] or localhost: what listens there is in \
                     this pod"
                )
            );
        }
    }

    #[test]
    fn a_mistake_in_a_hook_names_its_fix_and_no_password() {
        for (text, expected) in [
            ("https://127.0.0.1/", "this is told on loopback only, where TLS protects nothing; write `http://`"),
            ("127.0.0.1:8080/", "this is no address; write one such as `http://127.0.0.1:8080/-/reload`"),
            (
                "http://me:hunter2@127.0.0.1/",
                "a user name or password in an address ends up in logs of others; remove all up to the `@`",
            ),
            ("http://127.0.0.1:0/", "`0` is no port; write a number from 1 to 65535, as in `http://127.0.0.1:8080/`"),
            (
                "http://127.0.0.1:+80/",
                "`+80` is no port; write a number from 1 to 65535, as in `http://127.0.0.1:8080/`",
            ),
            ("http://127.0.0.1:/", "`` is no port; write a number from 1 to 65535, as in `http://127.0.0.1:8080/`"),
            ("http://127.0.0.1/#a", "a server never sees what follows a `#`; remove it"),
            ("http://127.0.0.1/a b", "' ' may not stand in an address; write it as `%` and two hexadecimal digits"),
            (
                "http://127.0.0.1/a\r\nx",
                "'\\r' may not stand in an address; write it as `%` and two hexadecimal digits",
            ),
            (
                "http://127.0.0.1/a%2",
                "`%` in an address stands before two hexadecimal digits; write `%25` for the sign itself",
            ),
        ] {
            assert_eq!(hook(text).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn a_query_is_sent_and_not_shown() {
        let hook = hook("http://127.0.0.1/reload?token=hunter2").unwrap();
        assert_eq!(hook.target(), "/reload?token=hunter2");
        assert_eq!(format!("{hook} {hook:?}"), "127.0.0.1:80/reload Hook(127.0.0.1:80/reload)");
    }

    #[test]
    fn a_signal_is_named_with_or_without_its_prefix() {
        let signal = |text: &str| text.parse::<Signal>().map_err(|error| error.to_string());
        assert_eq!(signal("HUP"), signal("SIGHUP"));
        assert_eq!(signal("USR2").unwrap().number(), rustix::process::Signal::USR2);
        for (text, hint) in [
            ("hup", "did you mean `HUP`?"),
            ("sigusr1", "did you mean `USR1`?"),
            ("SIGTREM", "did you mean `TERM`?"),
            ("1", "known are HUP, INT, QUIT, KILL, USR1, USR2, ALRM, TERM, CONT, WINCH"),
            ("RELOAD", "known are HUP, INT, QUIT, KILL, USR1, USR2, ALRM, TERM, CONT, WINCH"),
        ] {
            let expected = format!("`{text}` is no signal to tell an application by; {hint}");
            assert_eq!(signal(text).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_process_name_has_no_path() {
        let name = |text: &str| text.parse::<ProcessName>().map_err(|error| error.to_string());
        assert_eq!(name("nginx").unwrap().to_string(), "nginx");
        for text in ["", "/", "//", " "] {
            assert_eq!(name(text).unwrap_err(), "a process has a name; write that of its program, such as `nginx`");
        }
        for text in ["/usr/sbin/nginx", "nginx/", "/nginx", "sbin/nginx//"] {
            let expected = "a process is found by the name of its program, without the path; write `nginx`";
            assert_eq!(name(text).unwrap_err(), expected, "{text}");
        }
        assert_eq!(name("a\nb").unwrap_err(), "a process name may not hold control characters");
    }

    proptest! {
        #[test]
        fn what_is_taken_can_be_sent(text in "http://(localhost|127\\.0\\.0\\.1|\\[::1\\])(:[0-9]{1,6})?[ -~é]{0,16}") {
            if let Ok(hook) = text.parse::<Hook>() {
                prop_assert!(hook.target().parse::<hyper::Uri>().is_ok(), "{}", hook.target());
                prop_assert!(hook.addresses().iter().all(|address| address.ip().is_loopback()));
                prop_assert!(!hook.to_string().contains('?'));
            }
        }

        #[test]
        fn never_panics_on_any_text(text in any::<String>()) {
            let _ = (text.parse::<Hook>(), text.parse::<Signal>(), text.parse::<ProcessName>());
        }
    }
}
