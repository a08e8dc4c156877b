//! What the order of an entry's providers does: the first one writes, and those whose prefix fits are tried
//! in turn to read.

use super::endpoint::is_same;
use super::provider::{Encryption, Kms, Provider};
use super::resource::Resource;
use super::{Finding, Group};
use crate::etcd::KmsApi;

pub(super) fn check_groups(groups: &[Group], findings: &mut Vec<Finding>) {
    let providers: Vec<&Provider> = groups.iter().flat_map(|group| &group.providers).collect();
    if !providers.is_empty() && !providers.iter().any(|provider| matches!(provider.encryption, Encryption::Kms(_))) {
        let what = "there is no kms provider: an API server with this config never asks the plugin";
        let fix = "add `- kms: {apiVersion: v2, name: aws, endpoint: \"unix:///var/run/kmsplugin/socket.sock\"}`, and put it first";
        findings.push(Finding::fail(what, fix));
        return;
    }
    for group in groups {
        writer(group, findings);
        same_names(&group.providers, findings);
        same_sockets(&group.providers, findings);
    }
}

fn writer(group: &Group, findings: &mut Vec<Finding>) {
    let Some(first) = group.providers.first() else { return };
    let names = group.resources.iter().map(|resource| resource.name.as_str()).collect::<Vec<_>>().join(", ");
    let rewritten = "once everything has been written anew (`kubectl get secrets -A -o json | kubectl replace -f -`)";
    let kms = group.providers.iter().find(|provider| matches!(provider.encryption, Encryption::Kms(_)));
    match (&first.encryption, kms) {
        (Encryption::Identity, Some(kms)) => {
            let what = format!("`identity` comes first: whatever is written of {names} is not encrypted");
            let fix = format!(
                "put the kms provider of line {} first; this order is only for taking encryption away",
                kms.place.line
            );
            findings.push(Finding::fail(what, fix).at(first.place));
        }
        (Encryption::Keys(provider), Some(kms)) => {
            let what = format!("`{provider}` comes first and writes {names}: the kms provider only reads");
            let fix = format!("put the kms provider of line {} first", kms.place.line);
            findings.push(Finding::warn(what, fix).at(first.place));
        }
        (Encryption::Kms(writer), _) => {
            let v2 = group.providers.iter().find_map(|provider| match &provider.encryption {
                Encryption::Kms(kms) if kms.api == KmsApi::V2 => Some((provider, kms)),
                _ => None,
            });
            if let (KmsApi::V1, Some((provider, kms))) = (writer.api, v2) {
                let what = format!("`{}` comes first and writes over KMS v1: `{}` only reads", writer.name, kms.name);
                let fix = format!("put the v2 provider of line {} first", provider.place.line);
                findings.push(Finding::warn(what, fix).at(first.place));
            }
            let name = &writer.name;
            findings.push(
                Finding::ok(format!("{names}: written over KMS {} by `{name}`", writer.api.as_str())).at(first.place),
            );
            if !group.providers.iter().any(|provider| matches!(provider.encryption, Encryption::Identity)) {
                let what = format!("without `identity`, what was stored of {names} before encryption cannot be read");
                let fix = format!("add `- identity: {{}}` as the last provider; leave it out {rewritten}");
                findings.push(Finding::warn(what, fix).at(group.place));
            }
        }
        (Encryption::Identity | Encryption::Keys(_), None) => no_kms(group, &first.encryption, &names, findings),
    }
}

/// An entry without kms is a choice, except where Secrets are.
fn no_kms(group: &Group, first: &Encryption, names: &str, findings: &mut Vec<Finding>) {
    if !group.resources.iter().any(Resource::covers_secrets) {
        return;
    }
    let fix = "add a `kms` provider, and put it first";
    findings.push(
        match first {
            Encryption::Keys(provider) => Finding::warn(
                format!("`{provider}` writes {names} with keys that stand in this file: no kms provider"),
                fix,
            ),
            _ => Finding::fail(format!("{names} are not encrypted: no kms provider"), fix),
        }
        .at(group.place),
    );
}

fn kms(providers: &[Provider]) -> impl Iterator<Item = (&Provider, &Kms)> {
    providers.iter().filter_map(|provider| match &provider.encryption {
        Encryption::Kms(kms) => Some((provider, kms)),
        _ => None,
    })
}

/// A v1 value says `k8s:enc:kms:v1:NAME:`, so that a name is also the start of every name that goes on with a
/// colon. Every provider whose prefix fits is tried in turn until one can read (`value.prefixTransformers`).
fn same_names(providers: &[Provider], findings: &mut Vec<Finding>) {
    let v1: Vec<_> = kms(providers).filter(|(_, kms)| kms.api == KmsApi::V1 && !kms.name.is_empty()).collect();
    for (nth, (provider, later)) in v1.iter().enumerate() {
        let prefix = format!("{}:", later.name);
        let Some((_, earlier)) = v1[..nth].iter().find(|(_, kms)| prefix.starts_with(&format!("{}:", kms.name))) else {
            continue;
        };
        let which = if earlier.name == later.name { "of the same name" } else { "whose name its own starts with" };
        let what = format!(
            "what `{}` wrote is tried with `{}` above first, {which}: a failed call for each read",
            later.name, earlier.name
        );
        let fix = "write everything anew with the first provider, then take the others away";
        findings.push(Finding::warn(what, fix).at(provider.place));
    }
}

fn same_sockets(providers: &[Provider], findings: &mut Vec<Finding>) {
    let all: Vec<_> = kms(providers).collect();
    for (nth, (provider, later)) in all.iter().enumerate() {
        // A v1 and a v2 provider on one socket are the way from v1 to v2.
        let same = all[..nth].iter().find(|(_, earlier)| {
            earlier.api == later.api
                && earlier.socket.as_ref().zip(later.socket.as_ref()).is_some_and(|(one, other)| is_same(one, other))
        });
        if let Some((first, earlier)) = same {
            let what = format!(
                "`{}` and `{}` have one endpoint: one key is behind both, and to write with the one what the other wrote \
                 rotates nothing",
                earlier.name, later.name
            );
            let fix =
                format!("give one of them another --listen and --key (the first is in line {})", first.place.line);
            findings.push(Finding::warn(what, fix).at(provider.place));
        }
    }
}
