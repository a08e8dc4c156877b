//! `api:` of the config file: the loopback API that is compatible with AWS's Secrets Manager Agent.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::super::Access;
use super::super::yaml::{Kind, Node};
use super::fields::{Fields, Problems, absolute_path, address, duration, text};
use super::inherited::Inherited;
use super::listeners::{Listener, Listeners, Serves};
use super::table::{Demands, Mapping, Setting, Takes, Without};

/// The port of AWS's agent, which its clients have built in.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 2773);
/// As AWS's agent has it.
const DEFAULT_TTL: Duration = Duration::from_secs(300);
/// As AWS's agent has it: 0 keeps nothing.
const TTL: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const DEFAULT_PATH_PREFIX: &str = "/v1/";
const DEFAULT_MAX_ENTRIES: usize = 1000;
/// A secret has up to 64 KiB: ten thousand of them are 640 MiB already.
const MAX_ENTRIES: RangeInclusive<usize> = 1..=10_000;
/// Twice what AWS's agent takes at most: a thousand clients that ask together are all answered.
const DEFAULT_MAX_CONNECTIONS: usize = 2000;
const MAX_CONNECTIONS: RangeInclusive<usize> = 1..=10_000;

pub(super) static API: Mapping = Mapping {
    id: "api",
    what: "`api`",
    meaning: "The loopback API that is compatible with AWS's Secrets Manager Agent and its extension for Lambda",
    keys: &[
        Setting {
            name: "listen",
            takes: Takes::Address,
            without: Without::Text("127.0.0.1:2773"),
            meaning: "Where it is served; on loopback only",
        },
        Setting {
            name: "token_file",
            takes: Takes::Path("the file that holds the token"),
            without: Without::Says(
                "AWS_TOKEN, AWS_SESSION_TOKEN or AWS_CONTAINER_AUTHORIZATION_TOKEN of the environment",
            ),
            meaning: "The token that clients have to show",
        },
        Setting {
            name: "ttl",
            takes: Takes::Time(TTL),
            without: Without::Time(DEFAULT_TTL),
            meaning: "How long an answer of AWS is given again; 0s keeps no value in memory",
        },
        Setting {
            name: "path_prefix",
            takes: Takes::Form("a path that starts and ends with a slash", "^/([A-Za-z0-9/._~-]*/)?$", "/v1/"),
            without: Without::Text(DEFAULT_PATH_PREFIX),
            meaning: "What stands before a secret's name in a URL",
        },
        Setting {
            name: "max_entries",
            takes: Takes::Count(whole(MAX_ENTRIES)),
            without: Without::Count(DEFAULT_MAX_ENTRIES),
            meaning: "The most answers that are kept",
        },
        Setting {
            name: "max_connections",
            takes: Takes::Count(whole(MAX_CONNECTIONS)),
            without: Without::Count(DEFAULT_MAX_CONNECTIONS),
            meaning: "The most requests that are answered at a time",
        },
    ],
    demands: Demands::Nothing,
};

const fn whole(range: RangeInclusive<usize>) -> RangeInclusive<u64> {
    *range.start() as u64..=*range.end() as u64
}

/// The loopback API, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSpec {
    /// Where it is served; a loopback address.
    pub listen: SocketAddr,
    /// The file that holds the token; `None` for the environment, as AWS's agent reads it.
    pub token_file: Option<PathBuf>,
    /// How long an answer of AWS is given again, from zero to an hour. Zero keeps no value.
    pub ttl: Duration,
    /// What stands before a secret's name in a path; starts and ends with a slash.
    pub path_prefix: String,
    /// The most answers that are kept; at least one.
    pub max_entries: usize,
    /// The most requests that are answered at a time; at least one.
    pub max_connections: usize,
    /// As whom and where to ask, for requests that name no role: what the top of the config says.
    pub access: Access,
}

/// Reads `api:`; `above` is what the top of the config hands down, and `listeners` are the addresses that are taken.
pub(super) fn api(
    node: Node,
    above: &Inherited,
    listeners: &mut Listeners,
    problems: &mut Problems,
) -> Option<ApiSpec> {
    let place = node.place;
    let mut fields = Fields::of(node, &API, problems)?;
    let listen = match fields.take("listen") {
        Some(node) => listen(&node, problems).map(|address| (node.place, address, true)),
        None => Some((place, DEFAULT_LISTEN, false)),
    };
    if let Some((place, address, written)) = listen {
        listeners.add(Listener { of: Serves::Api, address, place, written }, problems);
    }
    let listen = listen.map_or(DEFAULT_LISTEN, |(_, address, _)| address);
    let token_file = fields
        .take("token_file")
        .and_then(|node| absolute_path(&node, "token_file", "the file that holds the token", problems));
    let ttl = fields.take("ttl").and_then(|node| duration(&node, "ttl", TTL, problems)).unwrap_or(DEFAULT_TTL);
    let path_prefix = fields
        .take("path_prefix")
        .and_then(|node| path_prefix(&node, problems))
        .unwrap_or_else(|| DEFAULT_PATH_PREFIX.to_owned());
    let mut count =
        |key, range, default| fields.take(key).and_then(|node| count(&node, key, range, problems)).unwrap_or(default);
    let max_entries = count("max_entries", MAX_ENTRIES, DEFAULT_MAX_ENTRIES);
    let max_connections = count("max_connections", MAX_CONNECTIONS, DEFAULT_MAX_CONNECTIONS);
    let access = Access { region: above.region.clone(), role: above.role.clone() };
    Some(ApiSpec { listen, token_file, ttl, path_prefix, max_entries, max_connections, access })
}

fn listen(node: &Node, problems: &mut Problems) -> Option<SocketAddr> {
    let address = address(node, "listen", problems)?;
    if !address.ip().is_loopback() {
        let fix = format!("write one such as `127.0.0.1:{}`", address.port());
        problems.add(
            node.place,
            format!("`listen: {address}` of `api` is no loopback address, and secrets are served on no other; {fix}"),
        );
        return None;
    }
    Some(address)
}

fn path_prefix(node: &Node, problems: &mut Problems) -> Option<String> {
    let prefix = text(node, "path_prefix", problems)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    if !prefix.starts_with('/') || !prefix.ends_with('/') || !prefix.bytes().all(plain) {
        let fix = "write one that starts and ends with a slash, such as `/v1/`";
        problems
            .add(node.place, format!("`path_prefix: {prefix}` cannot stand before a secret's name in a URL; {fix}"));
        return None;
    }
    Some(prefix)
}

fn count(node: &Node, key: &str, range: RangeInclusive<usize>, problems: &mut Problems) -> Option<usize> {
    let number = match node.kind {
        Kind::Integer(number) => usize::try_from(number).ok().filter(|number| range.contains(number)),
        _ => None,
    };
    if number.is_none() {
        problems.add(node.place, format!("`{key}` takes a number from {} to {}", range.start(), range.end()));
    }
    number
}

#[cfg(test)]
mod tests {
    use super::super::super::{Config, RoleStep};
    use super::*;

    fn parse(top: &str) -> Result<Option<ApiSpec>, String> {
        let volumes = "volumes: [{path: /v, files: [{name: a, from: 'secretsmanager:a'}]}]";
        let config = Config::parse("c.yaml", &format!("{top}\n{volumes}\n"), &|_| unreachable!());
        config.map(|config| config.api).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_off_unless_it_is_written() {
        assert_eq!(parse("region: eu-west-1"), Ok(None));
    }

    #[test]
    fn an_empty_one_is_as_the_agent_is_by_default() {
        let expected = ApiSpec {
            listen: "127.0.0.1:2773".parse().unwrap(),
            token_file: None,
            ttl: Duration::from_secs(300),
            path_prefix: "/v1/".into(),
            max_entries: 1000,
            max_connections: 2000,
            access: Access::default(),
        };
        assert_eq!(parse("api: {}"), Ok(Some(expected)));
    }

    #[test]
    fn reads_every_key_and_asks_as_the_top_says() {
        let text = "
region: eu-west-1
role_arn: arn:aws:iam::123456789012:role/top
api:
  listen: '[::1]:9999'
  token_file: /run/coffer/token
  ttl: 0s
  path_prefix: /secrets/
  max_entries: 5
  max_connections: 7
";
        let role = RoleStep { role_arn: "arn:aws:iam::123456789012:role/top".into(), external_id: None };
        let expected = ApiSpec {
            listen: "[::1]:9999".parse().unwrap(),
            token_file: Some("/run/coffer/token".into()),
            ttl: Duration::ZERO,
            path_prefix: "/secrets/".into(),
            max_entries: 5,
            max_connections: 7,
            access: Access { region: Some("eu-west-1".into()), role: Some(role) },
        };
        assert_eq!(parse(text), Ok(Some(expected)));
    }

    #[test]
    fn names_place_and_fix_of_every_mistake() {
        for (text, expected) in [
            (
                "api: {listen: '0.0.0.0:2773'}",
                "c.yaml:1:15: `listen: 0.0.0.0:2773` of `api` is no loopback address, and secrets are served on no other; write one such as `127.0.0.1:2773`",
            ),
            (
                "api: {listen: '127.0.0.1:9465'}",
                "c.yaml:1:15: `listen: 127.0.0.1:9465` of `api` is the address of health and metrics already; give one of them another port",
            ),
            (
                "api: {listen: localhost}",
                "c.yaml:1:15: `listen: localhost` is no address; write one such as `127.0.0.1:9465`",
            ),
            ("api: {ttl: 2h}", "c.yaml:1:12: `ttl` takes a time from 0s to 1h"),
            (
                "api: {ttl: 300}",
                "c.yaml:1:12: `ttl: 300` has no unit; write a number with a unit, such as `60s`, `5m` or `1h30m`",
            ),
            ("api: {tokenfile: /a}", "c.yaml:1:7: unknown key `tokenfile` in `api`; did you mean `token_file`?"),
            (
                "api: {token_file: a}",
                "c.yaml:1:19: `token_file: a` is relative; write the absolute path of the file that holds the token",
            ),
            (
                "api: {path_prefix: /v1}",
                "c.yaml:1:20: `path_prefix: /v1` cannot stand before a secret's name in a URL; write one that starts and ends with a slash, such as `/v1/`",
            ),
            ("api: {max_entries: 0}", "c.yaml:1:20: `max_entries` takes a number from 1 to 10000"),
            ("api: {max_connections: many}", "c.yaml:1:24: `max_connections` takes a number from 1 to 10000"),
            (
                "api: true",
                "c.yaml:1:6: `api` is a mapping of keys to values, not true or false; write `key: value` lines; known are listen, token_file, ttl, path_prefix, max_entries, max_connections",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected, "{text}");
        }
    }
}
