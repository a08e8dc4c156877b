//! `isolate-identity`: what is told to EKS's webhook, and what of an identity the application has all the same.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::webhook::annotations::shown;

use super::Settings;
use super::draft::{Container, Draft, Object, name_of};
use super::identity::{VARIABLES, VOLUMES};
use super::names::{self, CONTAINERS, annotation};
use super::targets::and_more;

/// Containers that EKS's webhook passes by: CSV.
pub(super) const SKIP: &str = "eks.amazonaws.com/skip-containers";
/// More variables that give an identity, which no webhook of EKS writes (SDKs and Tools Reference Guide, "Settings").
const BY_HAND: [&str; 4] =
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"];
/// What audiences for STS begin with, in whichever partition.
const AUDIENCE: &str = "sts.amazonaws.com";
/// Where the kubelet keeps the tokens of all pods of a node.
const KUBELET: &str = "/var/lib/kubelet";

/// The containers that EKS's webhook is to pass by: those that the pod names already, and all but ours.
pub(super) fn skipped(draft: &Draft) -> String {
    let written = draft.annotation(SKIP).unwrap_or_default();
    let written = written.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty());
    let others = draft.containers().map(|(_, container)| container.name());
    let mut known = BTreeSet::new();
    // Left out, ours would have no identity.
    let names: Vec<&str> =
        written.chain(others).filter(|name| !CONTAINERS.contains(name) && known.insert(*name)).collect();
    names.join(",")
}

/// What is to be taken from a container, by the name that it has there.
type Found<'f> = &'f dyn Fn(&Container) -> Option<String>;

/// What leaves the application an identity in AWS, or a way to ours: once for each kind. For a pod whose containers have
/// lost what EKS's webhook gave them.
pub(super) fn doubts(draft: &Draft, settings: &Settings) -> Vec<String> {
    let variables = |container: &Container| {
        let mut names = container.env().map(name_of).filter(|name| VARIABLES.contains(name) || BY_HAND.contains(name));
        names.next().map(str::to_owned)
    };
    let volumes = |is_meant: &dyn Fn(&Object) -> bool| -> BTreeSet<&str> {
        let is_free = |name: &&str| !VOLUMES.contains(name) && !names::VOLUMES.contains(name);
        draft.volumes.iter().filter(|volume| is_meant(volume)).map(name_of).filter(is_free).collect()
    };
    let (tokens, folders) = (volumes(&|volume| has_token(volume, settings)), volumes(&leads_to_tokens));
    let mounted = |container: &Container, volumes: &BTreeSet<&str>| {
        container.mounts().map(name_of).find(|name| volumes.contains(name)).map(str::to_owned)
    };
    let is_privileged = |container: &Container| {
        container.security("privileged").is_some_and(|value| value == true).then(|| "privileged".to_owned())
    };
    let kinds: [(Found<'_>, &str); 4] = [
        (&variables, "written by hand, it stays, and gives an identity in AWS"),
        (&|container| mounted(container, &tokens), "AWS takes its token"),
        (&|container| mounted(container, &folders), "the tokens of its node's pods lie there"),
        (&is_privileged, "it can read the tokens of its node's pods"),
    ];
    kinds
        .into_iter()
        .filter_map(|(found, why)| {
            let mut all = draft.containers().filter_map(|(_, container)| Some((container.name(), found(container)?)));
            let (name, what) = all.next()?;
            let (name, what, more) = (shown(name), shown(&what), and_more(all.count()));
            Some(format!("{}: take `{what}` from the container `{name}`{more}: {why}", annotation("isolate-identity")))
        })
        .collect()
}

/// Whether a volume has a token of the pod's service account that AWS takes.
fn has_token(volume: &Object, settings: &Settings) -> bool {
    let sources = volume.get("projected").and_then(|projected| projected.get("sources")?.as_array());
    sources.into_iter().flatten().any(|source| {
        let audience = source.get("serviceAccountToken").and_then(|token| token.get("audience")?.as_str());
        audience.is_some_and(|audience| audience == settings.token_audience || audience.starts_with(AUDIENCE))
    })
}

/// Whether a volume is a folder of the node from which the tokens of pods can be reached.
fn leads_to_tokens(volume: &Object) -> bool {
    let path = volume.get("hostPath").and_then(|host| host.get("path").and_then(Value::as_str));
    path.is_some_and(|path| {
        let folders: Vec<&str> = path.split('/').filter(|folder| !folder.is_empty() && *folder != ".").collect();
        let kubelet: Vec<&str> = KUBELET.split('/').filter(|folder| !folder.is_empty()).collect();
        kubelet.starts_with(&folders) || folders.starts_with(&kubelet) || folders.first() == Some(&"proc")
    })
}
