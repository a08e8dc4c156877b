//! What is ours in a pod, by name.

use crate::webhook::annotations::{PREFIX, Problem, shown};

use super::draft::{Container, Draft, Object, name_of};

/// The sidecar.
pub(super) const SIDECAR: &str = "coffer";
/// The init container that publishes once.
pub(super) const ONCE: &str = "coffer-init";
/// The init container that brings the program for `coffer exec`.
pub(super) const INSTALL: &str = "coffer-install";
/// The port of the sidecar's metrics, as the chart's PodMonitor knows it.
pub(super) const METRICS_PORT: &str = "coffer-metrics";
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

/// What our containers run, wherever another webhook's wrapper has put it.
const COMMAND: &str = "/coffer";

/// Whether a container is ours: by its name and by what it runs, as anybody can write a name and a status.
pub(super) fn is_ours(container: &Container) -> bool {
    let runs = |key: &str| container.0.get(key).and_then(|words| words.get(0)).is_some_and(|word| word == COMMAND);
    CONTAINERS.contains(&container.name()) && (runs("command") || runs("args"))
}

/// Whether a volume is of the kind that ours of that name are.
fn is_of_kind(volume: &Object) -> bool {
    let kinds: &[&str] = match name_of(volume) {
        CONFIG => &["configMap", "downwardAPI"],
        TOKEN => &["projected"],
        _ => &["emptyDir"],
    };
    kinds.iter().any(|kind| volume.contains_key(*kind))
}

/// Names of ours that somebody else has taken. With our status in the annotations, what also looks like ours is our own of
/// before.
pub(super) fn taken(draft: &Draft) -> Vec<Problem> {
    let has_status = draft.annotations.contains_key(STATUS);
    let mut problems = Vec::new();
    let mut tell = |kind: &str, name: &str, fix: &str| {
        let text = format!("the pod has {kind} `{name}` already, and this webhook adds one of that name; {fix}");
        problems.push(Problem { annotation: String::new(), text });
    };
    for container in draft.init.iter().chain(&draft.regular) {
        if CONTAINERS.contains(&container.name()) && !(has_status && is_ours(container)) {
            tell("a container", container.name(), "give it another");
        }
        for mount in container.mounts().filter(|mount| !has_status && VOLUMES.contains(&name_of(mount))) {
            let kind = format!("in the container `{}` a mount of", shown(container.name()));
            tell(&kind, name_of(mount), "remove it, and say with `coffer.dev/path` where the files are to be");
        }
    }
    for volume in draft.volumes.iter().filter(|volume| VOLUMES.contains(&name_of(volume))) {
        if !(has_status && is_of_kind(volume)) {
            tell("a volume", name_of(volume), "give it another");
        }
    }
    problems
}
