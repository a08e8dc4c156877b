//! Where a plugin listens, as an API server's config, a plugin's flags and the kernel name it.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{Finding, Stanza};

/// The longest path of a socket, in bytes (unix(7): `sun_path` with its zero byte).
const LONGEST: usize = 107;

/// A unix socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Socket {
    /// In the file system.
    Path(PathBuf),
    /// In the network namespace, under this name.
    Abstract(String),
}

/// Why a text names none: what is wrong, and what to do.
pub(super) type Refusal = (String, String);

impl Socket {
    /// Reads the `endpoint` of an encryption config (k8s.io/kms, `pkg/util/util.go`, and Go's `url.Parse`).
    pub(super) fn of_endpoint(endpoint: &str) -> Result<Self, Refusal> {
        let refuse = |what: &str, fix: String| Err((format!("the endpoint `{endpoint}` {what}"), fix));
        let Some(rest) = endpoint.strip_prefix("unix:") else {
            return match endpoint.split_once(':') {
                Some((scheme, _)) if !scheme.contains('/') => {
                    refuse("is no unix socket, and an API server takes no other", "write `unix:///path`".to_owned())
                }
                _ => refuse("has no scheme", format!("write `unix://{}{endpoint}`", slash(endpoint))),
            };
        };
        let path = match rest.strip_prefix("//") {
            Some(rest) if !rest.starts_with('/') => {
                let what = if rest.starts_with('@') {
                    "has two slashes, and an API server takes what follows for a host"
                } else {
                    "has two slashes, and an API server takes what follows for a host and drops it"
                };
                return refuse(what, format!("write `unix:///{rest}`"));
            }
            Some(rest) => rest,
            None if rest.starts_with('/') => rest,
            None => return refuse("has no path", format!("write `unix://{}{rest}`", slash(rest))),
        };
        if let Some(special) = path.chars().find(|c| matches!(c, '?' | '#' | '%') || c.is_whitespace()) {
            let fix = "listen on a path without such characters".to_owned();
            return refuse(&format!("has `{special}` in it, which means something else in a URL"), fix);
        }
        if let Some(name) = path.strip_prefix("/@") {
            return Ok(Self::Abstract(name.to_owned()));
        }
        if path.len() > LONGEST {
            let what = format!("has a path of {} bytes, and a socket has at most {LONGEST}", path.len());
            return refuse(&what, "listen on a shorter path".to_owned());
        }
        if path.len() < 2 {
            return refuse("has no path", "write `unix:///var/run/kmsplugin/socket.sock`".to_owned());
        }
        Ok(Self::Path(path.into()))
    }

    /// Reads a `--listen`; nothing for a socket that systemd hands over, whose path is not told.
    fn of_listen(flag: &str) -> Option<Self> {
        if flag.starts_with("fd:") {
            return None;
        }
        let path = flag.strip_prefix("unix://").unwrap_or(flag);
        Some(match path.strip_prefix("/@").or_else(|| path.strip_prefix('@')) {
            Some(name) => Self::Abstract(name.to_owned()),
            None => Self::Path(path.into()),
        })
    }

    /// The same for two names of one socket: `/var/run` is a link to `/run` on every system that matters here.
    fn canonical(&self) -> Self {
        match self {
            Self::Path(path) => {
                let path: PathBuf = path.components().collect();
                Self::Path(path.strip_prefix("/var/run").map_or(path.clone(), |rest| Path::new("/run").join(rest)))
            }
            Self::Abstract(_) => self.clone(),
        }
    }

    /// Whether both name one socket, as far as names tell.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

/// As an encryption config names it.
impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "unix://{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:///@{name}"),
        }
    }
}

fn slash(path: &str) -> &'static str {
    if path.starts_with('/') { "" } else { "/" }
}

/// Whether each end of the plugin's flags and of the config finds the other.
pub(super) fn check_listen(stanzas: &[Stanza], listen: &[String], findings: &mut Vec<Finding>) {
    if listen.is_empty() {
        return;
    }
    let handed_over = listen.iter().any(|flag| flag.starts_with("fd:"));
    let sockets: Vec<Socket> = listen.iter().filter_map(|flag| Socket::of_listen(flag)).collect();
    for stanza in stanzas {
        if sockets.iter().any(|socket| socket.is_same(&stanza.socket)) || handed_over {
            continue;
        }
        let what = format!("no --listen of the plugin is {}, the endpoint of `{}`", stanza.socket, stanza.name);
        let fix = format!("give the plugin --listen {}, or the endpoint that it has", stanza.socket);
        findings.push(Finding::fail(what, fix).at(stanza.place));
    }
    for socket in sockets.iter().filter(|socket| !stanzas.iter().any(|stanza| stanza.socket.is_same(socket))) {
        let what = format!("the plugin listens on {socket}, and no kms provider of the config has this endpoint");
        findings.push(Finding::warn(what, "take the --listen away, or use it"));
    }
}
