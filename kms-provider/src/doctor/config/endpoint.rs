//! Where a plugin listens, as an API server's config and a plugin's flags name it.

use std::path::{Path, PathBuf};

use coffer_unix_grpc::Address;

use super::{Finding, Stanza};

/// The longest path of a socket, in bytes (unix(7): `sun_path` with its zero byte).
const LONGEST: usize = 107;

/// Why a text names no socket: what is wrong, and what to do.
pub(super) type Refusal = (String, String);

/// Reads the `endpoint` of an encryption config, as k8s.io/kms (`pkg/util/util.go`) does with Go's `url.Parse`: it
/// takes less than our own flags do, and drops what our flags refuse.
pub(super) fn parse(endpoint: &str) -> Result<Address, Refusal> {
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
        return Ok(Address::Abstract(name.to_owned()));
    }
    if path.len() > LONGEST {
        let what = format!("has a path of {} bytes, and a socket has at most {LONGEST}", path.len());
        return refuse(&what, "listen on a shorter path".to_owned());
    }
    if path.len() < 2 {
        return refuse("has no path", "write `unix:///var/run/kmsplugin/socket.sock`".to_owned());
    }
    Ok(Address::Path(path.into()))
}

/// Whether both name one socket, as far as names tell.
pub(in crate::doctor) fn is_same(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Path(one), Address::Path(other)) => canonical(one) == canonical(other),
        (one, other) => one == other,
    }
}

/// `/var/run` is a link to `/run` on every system that matters here.
fn canonical(path: &Path) -> PathBuf {
    let path: PathBuf = path.components().collect();
    path.strip_prefix("/var/run").map_or(path.clone(), |rest| Path::new("/run").join(rest))
}

fn slash(path: &str) -> &'static str {
    if path.starts_with('/') { "" } else { "/" }
}

/// Whether the plugin listens where the config looks for it. Another provider may be another plugin's, so that only
/// what this one listens on has to be in the config.
pub(super) fn check_listen(stanzas: &[Stanza], listen: &[Address], findings: &mut Vec<Finding>) {
    let used = |address: &Address| stanzas.iter().any(|stanza| is_same(&stanza.socket, address));
    // Only systemd knows which path is behind a name of its own.
    let (unknown, listen): (Vec<&Address>, Vec<&Address>) =
        listen.iter().partition(|address| matches!(address, Address::Inherited(_)));
    let found = !unknown.is_empty() || listen.iter().any(|address| used(address));
    for address in listen.into_iter().filter(|address| !used(address)) {
        let what = format!("the plugin listens on {address}, and no kms provider of the config has this endpoint");
        findings.push(if found {
            Finding::warn(what, format!("take this --listen away, or write `endpoint: {}`", endpoint_of(address)))
        } else {
            Finding::fail(
                what,
                format!("write `endpoint: {}`, or give the plugin another --listen", endpoint_of(address)),
            )
        });
    }
}

fn endpoint_of(address: &Address) -> String {
    match address {
        Address::Path(path) => format!("unix://{}", path.display()),
        other => format!("unix:///{other}"),
    }
}
