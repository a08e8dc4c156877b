//! The providers of an entry.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coffer_unix_grpc::Address;
use zeroize::Zeroizing;

use super::fields::Fields;
use super::yaml::{Kind, Node};
use super::{Finding, Place, duration, endpoint};
use crate::etcd::KmsApi;

/// An API server's own default.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Two calls of KMS within a region take less than this; retries of one that failed do not fit.
const SHORT: Duration = Duration::from_secs(1);
/// An API server's own probes wait for the plugin as long as this.
const LONG: Duration = Duration::from_secs(10);

pub(super) struct Provider {
    pub(super) place: Place,
    pub(super) encryption: Encryption,
}

pub(super) enum Encryption {
    Identity,
    /// One with keys in the file: `aescbc`, `aesgcm`, `secretbox`.
    Keys(&'static str),
    Kms(Kms),
}

pub(super) struct Kms {
    pub(super) name: String,
    pub(super) api: KmsApi,
    pub(super) socket: Option<Address>,
    pub(super) timeout: Duration,
}

/// The names of all kms providers so far.
pub(super) struct Names {
    automatic_reload: bool,
    seen: Vec<(String, Place)>,
}

impl Names {
    pub(super) fn new(automatic_reload: bool) -> Self {
        Self { automatic_reload, seen: Vec::new() }
    }
}

const PROVIDERS: [&str; 5] = ["kms", "aescbc", "aesgcm", "secretbox", "identity"];

/// The providers of one entry, those that can be told.
pub(super) fn read(entry: &Fields<'_>, names: &mut Names, findings: &mut Vec<Finding>) -> Vec<Provider> {
    let nodes = entry.list("providers", "an entry of `resources`", findings);
    nodes.iter().filter_map(|node| provider(node, names, findings)).collect()
}

fn provider(node: &Node, names: &mut Names, findings: &mut Vec<Finding>) -> Option<Provider> {
    let fields = Fields::of(node, "a provider", &PROVIDERS, findings)?;
    let found = fields.names();
    let &[name] = found.as_slice() else {
        let finding = match (found.is_empty(), &node.kind) {
            (false, _) => {
                let what = format!("one provider is {}, and an API server does not start with it", found.join(" and "));
                Finding::fail(what, "start each of them with `- `")
            }
            // `- identity:` alone is the null of YAML, which is none of Go's pointers.
            (true, Kind::Map(entries)) if entries.iter().any(|(key, _)| key.name == "identity") => {
                Finding::fail("`identity:` has nothing after it, and is no provider then", "write `- identity: {}`")
            }
            (true, Kind::Map(entries)) if entries.iter().any(|(key, _)| PROVIDERS.contains(&key.name.as_str())) => {
                let fix = "indent its fields deeper than its name";
                Finding::fail(format!("`{}:` has nothing in it", entries[0].0.name), fix)
            }
            (true, _) => Finding::fail("a provider is empty", "write one of kms, aescbc, aesgcm, secretbox, identity"),
        };
        findings.push(finding.at(node.place));
        return None;
    };
    let place = fields.place_of(name);
    let node = fields.node(name)?;
    let encryption = match name {
        "kms" => Encryption::Kms(kms(node, place, names, findings)?),
        "aescbc" => keys(node, "aescbc", &[16, 24, 32], findings),
        "aesgcm" => keys(node, "aesgcm", &[16, 24, 32], findings),
        "secretbox" => keys(node, "secretbox", &[32], findings),
        _ => {
            Fields::of(node, "`identity`", &[], findings)?;
            Encryption::Identity
        }
    };
    Some(Provider { place, encryption })
}

fn keys(node: &Node, provider: &'static str, lengths: &[usize], findings: &mut Vec<Finding>) -> Encryption {
    let Some(fields) = Fields::of(node, &format!("`{provider}`"), &["keys"], findings) else {
        return Encryption::Keys(provider);
    };
    for node in fields.list("keys", &format!("`{provider}`"), findings) {
        let Some(key) = Fields::of(node, &format!("a key of `{provider}`"), &["name", "secret"], findings) else {
            continue;
        };
        let name = key.text("name", findings);
        if key.node("name").is_none() {
            let what = format!("a key of `{provider}` has no name");
            findings.push(Finding::fail(what, "give it the name that the stored values have").at(key.place()));
        }
        let name = name.unwrap_or_default();
        let Some(secret) = key.text("secret", findings) else {
            if key.node("secret").is_none() {
                let what = format!("the key `{name}` of `{provider}` has no secret");
                findings.push(Finding::fail(what, "give it random bytes in base64").at(key.place()));
            }
            continue;
        };
        // Not a word of it may be shown.
        let finding = match STANDARD.decode(secret).map(Zeroizing::new) {
            Err(_) => Finding::fail(
                format!("the secret of the key `{name}` is not base64"),
                "make one with `head -c 32 /dev/urandom | base64`",
            ),
            Ok(bytes) if !lengths.contains(&bytes.len()) => Finding::fail(
                format!("the secret of the key `{name}` has {} bytes, and `{provider}` takes {lengths:?}", bytes.len()),
                "make one with `head -c 32 /dev/urandom | base64`",
            ),
            Ok(_) => continue,
        };
        findings.push(finding.at(key.place_of("secret")));
    }
    Encryption::Keys(provider)
}

fn kms(node: &Node, place: Place, names: &mut Names, findings: &mut Vec<Finding>) -> Option<Kms> {
    let fields = Fields::of(node, "`kms`", &["apiVersion", "name", "endpoint", "timeout", "cachesize"], findings)?;
    let api = api(&fields, findings);
    let kms = Kms {
        name: name(&fields, api, place, names, findings),
        api,
        socket: socket(&fields, findings),
        timeout: timeout(&fields, findings),
    };
    cache_size(&fields, api, findings);
    Some(kms)
}

fn api(fields: &Fields<'_>, findings: &mut Vec<Finding>) -> KmsApi {
    let place = fields.place_of("apiVersion");
    let deprecated = "KMS v1 is deprecated since Kubernetes 1.28, and since 1.29 an API server does not start with it \
                      unless it has --feature-gates=KMSv1=true";
    if fields.node("apiVersion").is_none() {
        let what = format!("`kms` has no `apiVersion`, which means v1; {deprecated}");
        findings.push(Finding::warn(what, "write `apiVersion: v2`, or `apiVersion: v1` if that is meant").at(place));
        return KmsApi::V1;
    }
    match fields.text("apiVersion", findings) {
        Some("v2") => KmsApi::V2,
        Some("v1") => {
            let fix = "let a provider with `apiVersion: v2` and another name write, above this one, and keep this one \
                       until everything has been written anew";
            findings.push(Finding::warn(deprecated, fix).at(place));
            KmsApi::V1
        }
        Some(other) => {
            let what = format!("`apiVersion` is `{other}`, and a kms provider has v1 or v2");
            findings.push(Finding::fail(what, "write `apiVersion: v2`").at(place));
            KmsApi::V2
        }
        None => KmsApi::V2,
    }
}

/// Names are compared over the whole file (`validateKMSConfigName`).
fn name(fields: &Fields<'_>, api: KmsApi, place: Place, names: &mut Names, findings: &mut Vec<Finding>) -> String {
    let name = fields.text("name", findings).unwrap_or_default();
    let at = fields.place_of("name");
    if name.is_empty() {
        let fix = "give it one and never change it: it stands in front of every value in etcd";
        findings.push(Finding::fail("a kms provider has no name", fix).at(at));
        return String::new();
    }
    if api == KmsApi::V2 && name.contains(':') {
        let what = format!("the name `{name}` has a `:`, and an API server takes none in v2");
        findings.push(Finding::fail(what, "take another character").at(at));
    }
    if let Some((_, first)) = names.seen.iter().find(|(seen, _)| seen == name) {
        let what = format!("the name `{name}` is that of the kms provider in line {}", first.line);
        if api == KmsApi::V2 || names.automatic_reload {
            let what = format!("{what}, and an API server does not start with it");
            findings.push(Finding::fail(what, "give each kms provider a name of its own").at(at));
        } else {
            let what = format!("{what}: not to be had with --encryption-provider-config-automatic-reload");
            findings
                .push(Finding::warn(what, "keep it if values in etcd have this name, and reload by restart").at(at));
        }
    }
    names.seen.push((name.to_owned(), place));
    name.to_owned()
}

fn socket(fields: &Fields<'_>, findings: &mut Vec<Finding>) -> Option<Address> {
    let at = fields.place_of("endpoint");
    let text = fields.text("endpoint", findings).unwrap_or_default();
    if text.is_empty() {
        let fix = "write `endpoint: unix:///var/run/kmsplugin/socket.sock`, with the path that the plugin listens on";
        findings.push(Finding::fail("a kms provider has no endpoint", fix).at(at));
        return None;
    }
    match endpoint::parse(text) {
        Ok(socket) => Some(socket),
        Err((what, fix)) => {
            findings.push(Finding::fail(what, fix).at(at));
            None
        }
    }
}

fn timeout(fields: &Fields<'_>, findings: &mut Vec<Finding>) -> Duration {
    let at = fields.place_of("timeout");
    let finding = match fields.node("timeout").map(|node| &node.kind) {
        None => return TIMEOUT,
        Some(Kind::Integer(number)) => {
            let what = format!("`timeout: {number}` has no unit, and an API server does not start with it");
            Finding::fail(what, format!("write `timeout: {number}s`"))
        }
        Some(Kind::Text(text)) => match duration::parse(text) {
            None => Finding::fail(
                format!("the timeout `{}` is no duration of Go", text.as_str()),
                "write a number with its unit (ms, s, m), such as `3s`",
            ),
            Some(None) => Finding::fail(
                format!("the timeout `{}` is not above zero", text.as_str()),
                "take it out: the default is 3s",
            ),
            Some(Some(timeout)) => {
                if timeout < SHORT {
                    let what = format!("the timeout `{}` leaves no time for a second try at KMS", text.as_str());
                    findings.push(Finding::warn(what, "take it out: the default is 3s").at(at));
                } else if timeout > LONG {
                    let what = format!(
                        "for `{}` a plugin that hangs holds up every request and the health checks of the API server",
                        text.as_str()
                    );
                    findings.push(Finding::warn(what, "take it out: the default is 3s").at(at));
                }
                return timeout;
            }
        },
        Some(kind) => Finding::fail(format!("`timeout` is {}", kind.noun()), "write a text such as `3s`"),
    };
    findings.push(finding.at(at));
    TIMEOUT
}

fn cache_size(fields: &Fields<'_>, api: KmsApi, findings: &mut Vec<Finding>) {
    let Some(node) = fields.node("cachesize") else { return };
    let finding = match (&node.kind, api) {
        (_, KmsApi::V2) => {
            Finding::fail("`cachesize` is only for v1, and an API server takes none in v2", "take it out")
        }
        (Kind::Integer(0), _) => Finding::fail(
            "`cachesize: 0` is no size",
            "take it out: the default is 1000; a negative one means no cache",
        ),
        (Kind::Integer(size), _) if i32::try_from(*size).is_err() => {
            Finding::fail(format!("`cachesize: {size}` does not fit in 32 bits"), "take it out: the default is 1000")
        }
        (Kind::Integer(size), _) if *size < 0 => Finding::warn(
            format!("`cachesize: {size}` means no cache: every read of every Secret asks the plugin"),
            "take it out: the default is 1000",
        ),
        (Kind::Integer(_), _) => return,
        (kind, _) => Finding::fail(format!("`cachesize` is {}", kind.noun()), "write a whole number"),
    };
    findings.push(finding.at(fields.place_of("cachesize")));
}
