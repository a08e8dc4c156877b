//! Annotations of one word or a few: each is read, or told what it takes.

use std::net::{Ipv4Addr, SocketAddr};

use coffer::spec::DEFAULT_LISTEN;

use super::known::nearest;
use super::{Mode, PREFIX, Position, shown};
use crate::form::is_object_name;

/// The key of a ConfigMap where no other is named.
const CONFIG_KEY: &str = "coffer.yaml";
/// Longest key of a ConfigMap (apimachinery/pkg/util/validation, `IsConfigMapKey`).
const CONFIG_KEY_MAX: usize = 253;
/// Lowest port that a container without privileges may take on the host's network.
const PORT_MIN: u16 = 1024;

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("takes `true` or `false`, not `{}`", shown(text))),
    }
}

pub(super) fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "sidecar" => Ok(Mode::Sidecar),
        "init" => Ok(Mode::Init),
        "exec" => Ok(Mode::Exec { restart: false }),
        _ => Err(match nearest(text, ["sidecar", "init", "exec"]) {
            Some(near) => format!("`{}` is no mode; did you mean `{near}`?", shown(text)),
            None => format!("`{}` is no mode; write `sidecar`, `init` or `exec`", shown(text)),
        }),
    }
}

/// Names with commas between; blanks around them do not matter.
pub(super) fn containers(text: &str) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim) {
        if name.is_empty() {
            return Err("there is no name between two commas, or after the last; remove the comma".to_owned());
        }
        if !is_label(name) {
            let fix = "write names as they stand in the pod, with commas between";
            return Err(format!("`{}` is no name of a container; {fix}", shown(name)));
        }
        if names.iter().any(|other| other == name) {
            return Err(format!("`{name}` stands twice; remove one of them"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// A ConfigMap's name and key.
pub(super) fn config(text: &str) -> Result<(String, String), String> {
    let (name, key) = text.split_once('/').unwrap_or((text, CONFIG_KEY));
    if !is_object_name(name) {
        let fix = "write the name of a ConfigMap in the pod's namespace, or NAME/KEY";
        return Err(format!("`{}` is no name of a ConfigMap; {fix}", shown(name)));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_key = !key.is_empty() && key.len() <= CONFIG_KEY_MAX && key.bytes().all(plain);
    if !is_key || key == "." || key.starts_with("..") {
        let fix = format!("write one of its keys after the slash, such as `{name}/{CONFIG_KEY}`");
        return Err(format!("`{}` is no key of a ConfigMap; {fix}", shown(key)));
    }
    Ok((name.to_owned(), key.to_owned()))
}

pub(super) fn position(text: &str) -> Result<Position, String> {
    if let Some(name) = text.strip_prefix("after:") {
        if name.trim() != name && is_label(name.trim()) {
            return Err(format!("there is a blank after the colon; write `after:{}`", name.trim()));
        }
        return match is_label(name) {
            true => Ok(Position::After(name.to_owned())),
            false => {
                let fix = "write the name of an init container of the pod, such as `after:migrate`";
                Err(format!("`{}` is no name of a container; {fix}", shown(name)))
            }
        };
    }
    match text {
        "first" => Ok(Position::First),
        "last" => Ok(Position::Last),
        _ => Err(match nearest(text, ["first", "last"]) {
            Some(near) => format!("`{}` is no position; did you mean `{near}`?", shown(text)),
            None => format!("`{}` is no position; write `first`, `last` or `after:NAME`", shown(text)),
        }),
    }
}

/// An address on loopback: what is served there names secrets and their state.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    const EXAMPLE: &str = "write one such as `127.0.0.1:9466`";
    let address: SocketAddr =
        text.parse().map_err(|_| format!("`{}` is no address with a port; {EXAMPLE}", shown(text)))?;
    if !address.ip().is_loopback() {
        let why = "it would tell the network which secrets the pod has";
        return Err(format!("`{address}` is not on loopback, and {why}; {EXAMPLE}"));
    }
    if address.port() < PORT_MIN {
        return Err(format!("`{address}`: a port from {PORT_MIN} is needed, as Coffer is not root; {EXAMPLE}"));
    }
    Ok(address)
}

/// An address that a Prometheus can reach, by its port or whole.
pub(super) fn metrics(text: &str) -> Result<SocketAddr, String> {
    const EXAMPLE: &str = "write one such as `9467`";
    let port = || Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, text.parse::<u16>().ok()?)));
    let address = port().or_else(|| text.parse().ok());
    let address = address.ok_or_else(|| format!("`{}` is no port and no address with one; {EXAMPLE}", shown(text)))?;
    if address.ip().is_loopback() {
        return Err(format!("`{address}` is on loopback, where no Prometheus can ask; {EXAMPLE}"));
    }
    if address.port() < PORT_MIN {
        return Err(format!("`{}`: a port from {PORT_MIN} is needed, as Coffer is not root; {EXAMPLE}", shown(text)));
    }
    Ok(address)
}

/// Why metrics cannot be served there beside what is served on loopback.
pub(super) fn meets(metrics: SocketAddr, listen: Option<SocketAddr>) -> Option<String> {
    let port = metrics.port();
    let what = match listen {
        Some(listen) if listen.port() == port => format!("that of `{PREFIX}listen` too"),
        _ if DEFAULT_LISTEN.port() == port => "where Coffer's container serves health and status by itself".to_owned(),
        _ => return None,
    };
    Some(format!("the port {port} is {what}; write another, such as `9467`"))
}

/// An image's reference, by the grammar of distribution/reference; and what is doubtful about it.
pub(super) fn image(text: &str) -> Result<(String, Option<String>), String> {
    let wrong = |why: &str| {
        let fix = "write one such as `registry.example.com/coffer:1.0`";
        Err(format!("`{}` is no reference of an image: {why}; {fix}", shown(text)))
    };
    if let Some((scheme @ ("https" | "http" | "docker" | "oci"), rest)) = text.split_once("://") {
        return Err(format!(
            "`{}` is no reference of an image: write it without `{scheme}://`, as `{}`",
            shown(text),
            shown(rest)
        ));
    }
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (text, None),
    };
    let (repository, tag) = match named.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (named, None),
    };
    let (host, path) = match repository.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
        _ => (None, repository),
    };
    if text.len() > 512 || !host.is_none_or(is_host) {
        return wrong("there is no such registry");
    }
    if !path.split('/').all(is_path_part) {
        return wrong("its name has small letters, digits, `.`, `_` and `-`, with slashes between");
    }
    if !tag.is_none_or(is_tag) {
        return wrong("a tag has letters, digits, `.`, `_` and `-`, 128 at the most");
    }
    if !digest.is_none_or(is_digest) {
        return wrong("a digest is `sha256:` and 64 hexadecimal digits");
    }
    let doubt = (digest.is_none() && tag.is_none_or(|tag| tag == "latest"))
        .then(|| format!("`{text}` is another image tomorrow; write a version or a digest"));
    Ok((text.to_owned(), doubt))
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let part = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !part.is_empty() && part.bytes().all(plain) && !part.starts_with('-') && !part.ends_with('-')
    };
    name.split('.').all(part) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_path_part(part: &str) -> bool {
    let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_well = bytes.first().is_some_and(word) && bytes.last().is_some_and(word);
    let between = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let separator = |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    ends_well && between.into_iter().all(separator)
}

fn is_tag(tag: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=128).contains(&tag.len()) && tag.bytes().all(plain) && !tag.starts_with(['.', '-'])
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

/// A DNS label (RFC 1123), as containers are called.
fn is_label(text: &str) -> bool {
    text.len() <= 63 && !text.contains('.') && is_object_name(text)
}
