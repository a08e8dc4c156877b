//! An `EncryptionConfiguration`, read as an API server reads it, and told what it will do.
//!
//! The rules that make an API server refuse one are those of k8s.io/apiserver
//! (`pkg/apis/apiserver/validation/validation_encryption.go` and
//! `pkg/server/options/encryptionconfig/config.go`, read at v0.36.3); the warnings are ours.

mod duration;
pub(super) mod endpoint;
mod fields;
mod order;
mod provider;
mod resource;
#[cfg(test)]
mod tests;
mod yaml;

use std::time::Duration;

use coffer_unix_grpc::Address;

use self::fields::Fields;
use self::provider::{Encryption, Names, Provider};
use self::resource::Resource;
use super::{Finding, Place};
use crate::etcd::KmsApi;

/// What is known beside the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Whether the API server has `--encryption-provider-config-automatic-reload=true`.
    pub automatic_reload: bool,
    /// Every `--listen` of the plugin; none if they are not known.
    pub listen: &'a [Address],
}

/// A `kms` entry that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stanza {
    /// Where its `kms:` stands.
    pub place: Place,
    /// Its name; empty if it has none.
    pub name: String,
    /// Over which API the API server asks it.
    pub api: KmsApi,
    /// Where it listens.
    pub socket: Address,
    /// How long the API server waits for an answer.
    pub timeout: Duration,
    /// Which of the lists of providers it stands in, from 0.
    pub group: usize,
}

/// A config that was looked at.
#[derive(Debug)]
pub struct Checked {
    /// What was found, from top to bottom.
    pub findings: Vec<Finding>,
    /// The entries that can be asked over their sockets.
    pub stanzas: Vec<Stanza>,
}

/// Resources, and the providers that encrypt them.
struct Group {
    place: Place,
    resources: Vec<Resource>,
    providers: Vec<Provider>,
}

/// Looks at the text of a config.
#[must_use]
pub fn check(text: &str, options: Options<'_>) -> Checked {
    let mut findings = Vec::new();
    let groups = groups(text, options, &mut findings);
    resource::check_groups(&groups, &mut findings);
    order::check_groups(&groups, &mut findings);
    let stanzas: Vec<Stanza> = groups.iter().enumerate().flat_map(|(nth, group)| stanzas(nth, group)).collect();
    endpoint::check_listen(&stanzas, options.listen, &mut findings);
    Checked { findings, stanzas }
}

fn groups(text: &str, options: Options<'_>, findings: &mut Vec<Finding>) -> Vec<Group> {
    if text.trim().is_empty() {
        let fix = "write an EncryptionConfiguration into it";
        findings.push(Finding::fail("the file is empty, and an API server does not start with it", fix));
        return Vec::new();
    }
    let root = match yaml::parse(text) {
        Ok(root) => root,
        Err(finding) => {
            findings.push(finding);
            return Vec::new();
        }
    };
    let Some(fields) = Fields::of(&root, "an EncryptionConfiguration", &["apiVersion", "kind", "resources"], findings)
    else {
        return Vec::new();
    };
    for (name, expected) in [("apiVersion", "apiserver.config.k8s.io/v1"), ("kind", "EncryptionConfiguration")] {
        let fix = format!("write `{name}: {expected}`");
        if fields.node(name).is_none() {
            findings.push(Finding::fail(format!("`{name}` is missing"), fix).at(fields.place()));
        } else if let Some(found) = fields.text(name, findings)
            && found != expected
        {
            findings.push(Finding::fail(format!("`{name}` is `{found}`"), fix).at(fields.place_of(name)));
        }
    }
    let mut names = Names::new(options.automatic_reload);
    let nodes = fields.list("resources", "the EncryptionConfiguration", findings);
    nodes
        .iter()
        .filter_map(|node| {
            let entry = Fields::of(node, "an entry of `resources`", &["resources", "providers"], findings)?;
            Some(Group {
                place: entry.place(),
                resources: resource::read(&entry, findings),
                providers: provider::read(&entry, &mut names, findings),
            })
        })
        .collect()
}

fn stanzas(nth: usize, group: &Group) -> impl Iterator<Item = Stanza> {
    group.providers.iter().filter_map(move |provider| match &provider.encryption {
        Encryption::Kms(kms) => Some(Stanza {
            place: provider.place,
            name: kms.name.clone(),
            api: kms.api,
            socket: kms.socket.clone()?,
            timeout: kms.timeout,
            group: nth,
        }),
        _ => None,
    })
}
