//! The pod as it is to be: pure, and the same for the same pod, byte for byte.
//!
//! ```text
//! draft: the pod in parts ──► order: where ours stands ──► targets: who gets the files ─┐
//!   ▲                         access: as which user, who can read                       ├──► writing ──► the pod
//!   │                         identity: as whom AWS is asked                            │
//!   └ names: what is ours     resources, volume, container, exec: what is added ────────┘
//! ```
//!
//! What is ours from an earlier pass is taken out first and made anew, see [`again`].

mod access;
mod again;
mod container;
mod draft;
mod exec;
mod identity;
mod mesh;
mod names;
mod order;
mod resources;
mod targets;
#[cfg(test)]
mod tests;
mod volume;
mod writing;

use std::collections::BTreeMap;

use serde_json::Value;

use super::annotations::{Content, Mode, PREFIX, Problem, Wish};

use self::access::Access;
use self::draft::{At, Container, Draft, mount_name};
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

/// A pod as its annotations ask for; `None` where they ask for nothing.
///
/// # Errors
/// Every mistake, not just the first.
pub fn mutate(pod: &Value, settings: &Settings, surroundings: &Surroundings) -> Result<Option<Mutation>, Vec<Problem>> {
    let annotations = ours(pod)?;
    if annotations.is_empty() {
        return Ok(None);
    }
    let (wish, draft) = match (Wish::read(&annotations), Draft::read(pod)) {
        (Ok(None), _) => return Ok(None),
        (Ok(Some(wish)), Ok(draft)) => (wish, draft),
        (Ok(Some(_)), Err(problems)) | (Err(problems), Ok(_)) => return Err(problems),
        (Err(mut problems), Err(others)) => {
            problems.extend(others);
            return Err(problems);
        }
    };
    apply(draft, &wish, settings, surroundings).map(Some)
}

/// The service account whose role [`mutate`] would want to know, in the pod's namespace; `None` where it makes no
/// difference.
#[must_use]
pub fn service_account(pod: &Value) -> Option<&str> {
    let annotations = ours(pod).ok().filter(|annotations| !annotations.is_empty())?;
    let wish = Wish::read(&annotations).ok()??;
    if wish.role.is_some() {
        return None;
    }
    let spec = pod.get("spec")?;
    let named = |key: &str| spec.get(key).and_then(Value::as_str).filter(|name| !name.is_empty());
    // The second is the old name of the first; without either, the API server writes `default`.
    Some(named("serviceAccountName").or_else(|| named("serviceAccount")).unwrap_or("default"))
}

/// The annotations of ours.
fn ours(pod: &Value) -> Result<BTreeMap<String, String>, Vec<Problem>> {
    let problem = |text: &str| vec![Problem { annotation: String::new(), text: text.to_owned() }];
    let Some(pod) = pod.as_object() else { return Err(problem("this is no pod: it is no mapping")) };
    let Some(metadata) = pod.get("metadata").filter(|metadata| !metadata.is_null()) else { return Ok(BTreeMap::new()) };
    let Some(metadata) = metadata.as_object() else { return Err(problem("`metadata` is no mapping")) };
    let Some(all) = metadata.get("annotations").filter(|all| !all.is_null()) else { return Ok(BTreeMap::new()) };
    let Some(all) = all.as_object() else { return Err(problem("`metadata.annotations` is no mapping")) };
    let mut ours = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, value) in all.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        match value {
            Value::String(text) => {
                ours.insert(name.clone(), text.clone());
            }
            other => {
                let fix = match other {
                    Value::Bool(_) | Value::Number(_) => format!("write it in quotes: \"{other}\""),
                    _ => "write it as a text, after `|`".to_owned(),
                };
                let text = format!("Kubernetes takes only texts as annotations; {fix}");
                problems.push(Problem { annotation: name.clone(), text });
            }
        }
    }
    if problems.is_empty() { Ok(ours) } else { Err(problems) }
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
    let former = take_former(&mut draft);
    let mut warnings = wish.warnings.clone();
    let mut problems = Vec::new();
    let place = Place::choose(&draft, wish, &mut warnings);
    // Who gets the files can be told only of a place that there is.
    let (place, targets) = match place {
        Ok(place) => {
            let targets = targets::choose(&draft, wish, &place, &mut warnings);
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
        problems.extend(taken_paths(&draft, wish, identity, &targets));
    }
    if draft.is_set("hostNetwork") && wish.mode == Mode::Sidecar && wish.listen.is_none() {
        warnings.push(
            "the pod has the network of its node, where one process at a time can have Coffer's port 9465; give this pod \
             another with coffer.dev/listen: \"127.0.0.1:PORT\""
                .to_owned(),
        );
    }
    problems.extend(access.as_ref().and_then(|access| too_long(&draft, wish, access)));
    let (Some(access), Some(identity), true) = (access, identity, problems.is_empty()) else { return Err(problems) };
    let writing = Writing { wish, settings, surroundings, place, targets, access, identity, former };
    Ok(writing.write(draft, warnings))
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

/// Takes our containers of an earlier pass out, and ours out of the others' commands.
fn take_former(draft: &mut Draft) -> Vec<Container> {
    let mut former = Vec::new();
    for list in [&mut draft.init, &mut draft.regular] {
        for container in std::mem::take(&mut list.items) {
            match names::CONTAINERS.contains(&container.name()) {
                true => former.push(container),
                false => list.items.push(container),
            }
        }
    }
    for (_, container) in draft.containers_mut() {
        exec::unwrap(container);
    }
    former
}

/// Where something else is mounted at a place that we need.
fn taken_paths(draft: &Draft, wish: &Wish, identity: &Identity, targets: &[At]) -> Vec<Problem> {
    let mut paths = Vec::new();
    if wish.content != Content::Nothing {
        paths.push((wish.path.as_str(), "path", "say with this annotation where the files are to be instead"));
    }
    if matches!(wish.mode, Mode::Exec { .. }) {
        paths.push((names::PROGRAM_FOLDER, "mode", "mount it elsewhere"));
        if wish.content != Content::Nothing {
            paths.push((names::CONFIG_FOLDER, "mode", "mount it elsewhere"));
        }
        if matches!(identity, Identity::Own { .. }) {
            paths.push((names::TOKEN_FOLDER, "mode", "mount it elsewhere"));
        }
    }
    let mut problems = Vec::new();
    for container in targets.iter().filter_map(|at| draft.at(*at)) {
        for mount in container.mounts().filter(|mount| !names::VOLUMES.contains(&mount_name(mount))) {
            let mounted = mount.get("mountPath").and_then(Value::as_str).unwrap_or_default();
            for (_, annotation, fix) in paths.iter().filter(|(path, ..)| same_path(path, mounted)) {
                let text = format!(
                    "the container `{}` has the volume `{}` at {mounted} already; {fix}",
                    container.name(),
                    mount_name(mount)
                );
                problems.push(Problem { annotation: names::annotation(annotation), text });
            }
        }
    }
    problems
}

/// `/var/run` is a link to `/run` in most images.
fn same_path(one: &str, other: &str) -> bool {
    let plain = |path: &str| {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let parts = if parts.starts_with(&["var", "run"]) { parts[1..].to_vec() } else { parts };
        parts.join("/")
    };
    plain(one) == plain(other)
}
