//! The pod as it is to be: pure, and the same for the same pod, byte for byte.
//!
//! ```text
//! asked: annotations ──► draft: the pod in parts ──► order: where ours stands, targets: who gets the files ─┐
//!                         ▲                         access, permissions: as which user, who can read       ├─► writing ─► the pod
//!                         │                         identity, isolation: as whom AWS is asked              │
//!                         └ names: what is ours     paths, resources, volume, container, exec: what is added
//! ```
//!
//! What is ours from an earlier pass is known by its shape and made anew, see `again`.

mod access;
mod again;
mod asked;
mod container;
mod draft;
mod exec;
mod identity;
mod isolation;
mod mesh;
mod names;
mod order;
mod paths;
mod permissions;
mod quantity;
mod resources;
mod targets;
#[cfg(test)]
mod tests;
mod volume;
mod writing;

use std::collections::BTreeSet;

use serde_json::Value;

use super::annotations::{Content, Mode, Problem, Wish, shown};

use self::access::Access;
pub use self::asked::{Asked, mutate};
use self::draft::{At, Container, Draft, name_of};
use self::identity::Identity;
use self::order::Place;
use self::writing::Writing;

/// What holds for all pods of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The image with `/coffer` in it, where a pod does not name one.
    pub image: String,
    /// `imagePullPolicy` of our containers; `None` for Kubernetes' own rule.
    pub pull_policy: Option<String>,
    /// The user that our containers run as where nothing else is needed; `None` leaves it to the namespace, as OpenShift has it.
    pub run_as_user: Option<u32>,
    /// The seccomp profile of our containers, a file in the kubelet's folder of them; `None` for the runtime's own.
    pub seccomp_profile: Option<String>,
    /// Variables of every container of ours, such as `AWS_USE_FIPS_ENDPOINT`.
    pub env: Vec<(String, String)>,
    /// The audience of tokens that are shown to STS.
    pub token_audience: String,
}

/// What is around a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether the cluster knows init containers that go on running (`restartPolicy: Always`).
    pub native_sidecars: bool,
    /// The role that the pod's service account names in `eks.amazonaws.com/role-arn`.
    pub role: Option<String>,
}

/// A pod as it is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Mutation {
    /// It, whole.
    pub pod: Value,
    /// How the secrets come to it.
    pub mode: Mode,
    /// What is doubtful, for its author.
    pub warnings: Vec<String>,
    /// Why each thing is there, in the order of the pod.
    pub reasons: Vec<Reason>,
}

/// Why something was added or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What, such as `spec.volumes[coffer-secrets]`.
    pub what: String,
    /// Why.
    pub why: String,
}

/// A pod that cannot be changed, whatever it asks for.
fn untouched(pod: &Value) -> Mutation {
    let warning = "remove Coffer's annotations from this static pod: Kubernetes does not let what a kubelet runs of its own \
                   be changed, and it gets nothing";
    Mutation { pod: pod.clone(), mode: Mode::Sidecar, warnings: vec![warning.to_owned()], reasons: Vec::new() }
}

fn apply(
    mut draft: Draft,
    wish: &Wish,
    settings: &Settings,
    surroundings: &Surroundings,
) -> Result<Mutation, Vec<Problem>> {
    let taken = names::taken(&draft);
    if !taken.is_empty() {
        return Err(taken);
    }
    if is_windows(&draft) {
        let text = "this is a pod for Windows, and Coffer runs on Linux only; remove its annotations".to_owned();
        return Err(vec![Problem { annotation: names::annotation("inject"), text }]);
    }
    let (former, served) = take_former(&mut draft);
    let mut warnings = wish.warnings.clone();
    let mut problems = Vec::new();
    let place = Place::choose(&draft, wish, &mut warnings);
    // Who gets the files can be told only of a place that there is.
    let (place, targets) = match place {
        Ok(place) => {
            let targets = targets::choose(&draft, wish, &place, &served, &mut warnings);
            let targets = targets.unwrap_or_else(|wrong| {
                problems.extend(wrong);
                Vec::new()
            });
            (place, targets)
        }
        Err(problem) => {
            problems.push(problem);
            (Place { index: 0, why: String::new() }, Vec::new())
        }
    };
    if matches!(wish.mode, Mode::Exec { .. }) {
        problems.extend(exec::check(&draft, wish, &targets));
    }
    let access = match Access::choose(&draft, wish, &targets, settings, &mut warnings) {
        Ok(access) => Some(access),
        // Without targets, what is wrong with them is said already.
        Err(wrong) if !targets.is_empty() => {
            problems.extend(wrong);
            None
        }
        Err(_) => None,
    };
    let identity = match Identity::choose(&draft, &former, wish, surroundings, &mut warnings) {
        Ok(identity) => Some(identity),
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    if let Some(identity) = &identity {
        problems.extend(paths::taken(&draft, wish, identity, &targets));
    }
    problems.extend(wish.metrics.and_then(|address| port_taken(&draft, address.port())));
    if draft.is_set("hostNetwork") && wish.mode == Mode::Sidecar && wish.listen.is_none() {
        warnings.push(
            "give this pod a port of its own with coffer.dev/listen: \"127.0.0.1:PORT\": it has the network of its node, \
             where one process at a time can have Coffer's port 9465"
                .to_owned(),
        );
    }
    if let Some(access) = &access {
        problems.extend(too_long(&draft, wish, access));
        problems.extend(permissions::check(&draft, wish, &targets, access, &mut warnings));
    }
    let (Some(access), Some(identity), true) = (access, identity, problems.is_empty()) else { return Err(problems) };
    let targets = targets.into_iter().collect();
    let writing = Writing { wish, settings, surroundings, place, targets, access, identity, former };
    Ok(writing.write(draft, warnings))
}

/// Whether a container of the application has the port that metrics are wanted on.
fn port_taken(draft: &Draft, port: u16) -> Option<Problem> {
    let is_it = |written: &Value| {
        written["containerPort"] == port && written["protocol"].as_str().is_none_or(|protocol| protocol == "TCP")
    };
    let has_it = |container: &&Container| {
        container.0.get("ports").and_then(Value::as_array).is_some_and(|ports| ports.iter().any(is_it))
    };
    let (_, holder) = draft.containers().find(|(_, container)| has_it(container))?;
    let text = format!(
        "the container `{}` has port {port}, and the containers of a pod share their ports; write another",
        shown(holder.name())
    );
    Some(Problem { annotation: names::annotation("metrics"), text })
}

/// Whether the config file has no room among the annotations.
fn too_long(draft: &Draft, wish: &Wish, access: &Access) -> Option<Problem> {
    /// Bytes of all annotations (apimachinery, pkg/api/validation, `TotalAnnotationSizeLimitB`).
    const MOST: usize = 256 * 1024;
    /// What the status and the names take, and a list of containers.
    const RESERVE: usize = 4096;
    let Content::Inline(inline) = &wish.content else { return None };
    let others = draft.annotations.iter().filter(|(name, _)| *name != names::INJECTED_CONFIG);
    let others: usize = others.map(|(name, value)| name.len() + value.as_str().unwrap_or_default().len()).sum();
    let all = others + inline.text(access.mode).len() + RESERVE;
    (all > MOST).then(|| Problem {
        annotation: names::annotation("files"),
        text: format!(
            "with the config file that is made of it, the pod's annotations would hold {all} bytes, and Kubernetes takes \
             {MOST}; put the list of files into a ConfigMap and name it in `coffer.dev/config`"
        ),
    })
}

fn is_windows(draft: &Draft) -> bool {
    let os = draft.spec.get("os").and_then(|os| os.get("name"));
    let selected = draft.spec.get("nodeSelector").and_then(|selector| selector.get("kubernetes.io/os"));
    os.or(selected).and_then(Value::as_str) == Some("windows")
}

/// Takes our containers of an earlier pass out, and tells whom they served.
fn take_former(draft: &mut Draft) -> (Vec<Container>, BTreeSet<At>) {
    let mut former = Vec::new();
    for list in [&mut draft.init, &mut draft.regular] {
        for container in std::mem::take(&mut list.items) {
            match names::is_ours(&container) {
                true => former.push(container),
                false => list.items.push(container),
            }
        }
    }
    let has_files = |container: &Container| container.mounts().any(|mount| name_of(mount) == names::SECRETS);
    let is_served = |(_, container): &(At, &Container)| has_files(container) || exec::is_wrapped(container);
    let served = draft.containers().filter(|_| !former.is_empty()).filter(is_served).map(|(at, _)| at).collect();
    (former, served)
}
