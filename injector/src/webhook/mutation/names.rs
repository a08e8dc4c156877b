//! What is ours in a pod, by name.

use crate::webhook::annotations::{PREFIX, Problem};

use super::draft::{Draft, mount_name, name_of};

/// The sidecar.
pub(super) const SIDECAR: &str = "coffer";
/// The init container that publishes once.
pub(super) const ONCE: &str = "coffer-init";
/// The init container that brings the program for `coffer exec`.
pub(super) const INSTALL: &str = "coffer-install";
/// All containers of ours.
pub(super) const CONTAINERS: [&str; 3] = [SIDECAR, ONCE, INSTALL];

/// The volume of the secrets.
pub(super) const SECRETS: &str = "coffer-secrets";
/// The volume of the sidecar's config file.
pub(super) const CONFIG: &str = "coffer-config";
/// The volume of the token that is shown to AWS.
pub(super) const TOKEN: &str = "coffer-token";
/// The volume of the program.
pub(super) const PROGRAM: &str = "coffer-program";
/// All volumes of ours.
pub(super) const VOLUMES: [&str; 4] = [SECRETS, CONFIG, TOKEN, PROGRAM];

/// Says that all things of these names are the webhook's, and may be made anew.
pub(super) const STATUS: &str = "coffer.dev/status";
/// The config file of the sidecar, which the kubelet writes into the volume [`CONFIG`].
pub(super) const INJECTED_CONFIG: &str = "coffer.dev/injected-config";

/// Where the folder of the config file is mounted, and the file in it.
pub(super) const CONFIG_FOLDER: &str = "/etc/coffer";
pub(super) const CONFIG_KEY: &str = "coffer.yaml";
/// Where our token is mounted, and the file in it.
pub(super) const TOKEN_FOLDER: &str = "/var/run/secrets/coffer.dev/aws";
pub(super) const TOKEN_KEY: &str = "token";
/// Where the program is mounted for those that it runs.
pub(super) const PROGRAM_FOLDER: &str = "/run/coffer";

/// The name of one of our annotations.
pub(super) fn annotation(short: &str) -> String {
    format!("{PREFIX}{short}")
}

/// Names of ours that somebody else has taken. With our status in the annotations they are our own of before.
pub(super) fn taken(draft: &Draft) -> Vec<Problem> {
    if draft.annotations.contains_key(STATUS) {
        return Vec::new();
    }
    let mut problems = Vec::new();
    let mut tell = |kind: &str, name: &str, fix: &str| {
        let text = format!("the pod has {kind} `{name}` already, and this webhook adds one of that name; {fix}");
        problems.push(Problem { annotation: String::new(), text });
    };
    for container in draft.init.iter().chain(&draft.regular) {
        if CONTAINERS.contains(&container.name()) {
            tell("a container", container.name(), "give it another");
        }
        for mount in container.mounts().filter(|mount| VOLUMES.contains(&mount_name(mount))) {
            let kind = format!("in the container `{}` a mount of", container.name());
            tell(&kind, mount_name(mount), "remove it, and say with `coffer.dev/path` where the files are to be");
        }
    }
    for name in draft.volumes.iter().map(name_of).filter(|name| VOLUMES.contains(name)) {
        tell("a volume", name, "give it another");
    }
    problems
}
