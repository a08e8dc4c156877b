//! Who we run as, and how the application can read what we write.

use serde_json::Value;

use crate::webhook::annotations::{Content, Mode, Problem, Wish, shown};

use super::Settings;
use super::draft::{At, Container, Draft, Object};
use super::names::annotation;

/// The group of the files, where the pod has none: as in deploy/kubernetes/sidecar.yaml.
pub(super) const GROUP: u32 = 10001;
/// The user of ours where one has to be said, as `--run-as-user` has it by default.
const USER: u32 = 10002;
/// The mode of files that everyone with the mount may read.
const FOR_ALL: &str = "0444";
/// Volumes whose files the kubelet does not give to `fsGroup`, or makes itself for this pod alone: with any other,
/// it would change the owners of files that outlive the pod (pkg/volume/*, `SetVolumeOwnership`).
const UNCHANGED: [&str; 7] = ["configMap", "downwardAPI", "emptyDir", "hostPath", "image", "projected", "secret"];

/// How.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// User and group of our containers; `None` leaves them to the cluster.
    pub(super) user: Option<(u32, u32)>,
    pub(super) why_user: &'static str,
    /// Whether the pod gets [`GROUP`].
    pub(super) gives_group: bool,
    /// The mode of files that say nothing of it.
    pub(super) mode: Option<&'static str>,
    pub(super) why_mode: String,
}

impl Access {
    pub(super) fn choose(
        draft: &Draft,
        wish: &Wish,
        targets: &[At],
        settings: &Settings,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Vec<Problem>> {
        let mut access = Self {
            user: settings.run_as_user.map(|user| (user, GROUP)),
            why_user: match settings.run_as_user {
                Some(_) => "a user of its own, so that the application cannot reach into it",
                None => "its user is left to the cluster (--run-as-user none)",
            },
            gives_group: false,
            mode: None,
            why_mode: String::new(),
        };
        // With the pod's own, root, the kubelet would never start a container that is to be none (`runAsNonRoot`).
        if access.user.is_none() && draft.security("runAsUser").and_then(Value::as_u64) == Some(0) {
            access.user = Some((USER, GROUP));
            access.why_user = "a user of its own, as the pod's is root";
        }
        // There the application's own user writes the files.
        if matches!(wish.mode, Mode::Exec { .. }) {
            return Ok(access);
        }
        if signals(wish) {
            access.user = Some(user_of_all(draft, targets)?);
            access.why_user = "the application's user: no other may send it a signal (kill(2))";
        }
        if draft.security("fsGroup").is_some() {
            access.why_mode = "the files are 0440 and of the pod's fsGroup".to_owned();
            return Ok(access);
        }
        let Err(obstacle) = may_give_group(draft, settings) else {
            access.gives_group = true;
            access.why_mode =
                "the files are 0440 and of this group, so that every container with the mount can read them".to_owned();
            return Ok(access);
        };
        access.mode = Some(FOR_ALL);
        access.why_mode = format!(
            "the files are {FOR_ALL}, which only containers with the mount can see: the pod has no fsGroup, and {obstacle}"
        );
        if matches!(wish.content, Content::ConfigMap { .. }) {
            warnings.push(format!(
                "{}: give the pod an fsGroup, or write `mode: \"{FOR_ALL}\"` in the ConfigMap: none is added, as {obstacle}",
                annotation("config")
            ));
        }
        Ok(access)
    }
}

fn signals(wish: &Wish) -> bool {
    wish.mode == Mode::Sidecar && matches!(&wish.content, Content::Inline(inline) if inline.signals())
}

fn may_give_group(draft: &Draft, settings: &Settings) -> Result<(), String> {
    if settings.run_as_user.is_none() {
        return Err("the cluster gives out users and groups itself".to_owned());
    }
    if let Some(volume) = draft.volumes.iter().find(|volume| keeps_group_out(volume)) {
        // The kubelet gives the group the right to read what it gives to it (kubernetes/kubernetes#57923), and ssh, for
        // one, refuses such a key.
        return Err(format!("one would open the files of the volume `{}` to it", shown(super::draft::name_of(volume))));
    }
    // A volume that names no kind at all is an emptyDir to Kubernetes.
    let kinds = draft.volumes.iter().map(|volume| {
        let kind = volume.keys().find(|key| key.as_str() != "name" && !UNCHANGED.contains(&key.as_str()));
        (super::draft::name_of(volume), kind)
    });
    match kinds.into_iter().find_map(|(name, kind)| kind.map(|kind| (name, kind))) {
        Some((name, kind)) => {
            Err(format!("one would change the owners of files in the volume `{}` ({})", shown(name), shown(kind)))
        }
        None => Ok(()),
    }
}

/// Whether a volume that the kubelet writes has a file which the group is not to read.
fn keeps_group_out(volume: &Object) -> bool {
    let is_closed = |mode: Option<&Value>| mode.and_then(Value::as_u64).is_some_and(|mode| mode & 0o040 == 0);
    let list = |of: &Value, key: &str| of.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let has_closed = |source: &Value| {
        is_closed(source.get("defaultMode")) || list(source, "items").iter().any(|item| is_closed(item.get("mode")))
    };
    let kinds = |of: &dyn Fn(&str) -> Option<Value>| {
        ["configMap", "downwardAPI", "secret"].into_iter().filter_map(of).any(|source| has_closed(&source))
    };
    kinds(&|kind| volume.get(kind).cloned())
        || volume.get("projected").is_some_and(|projected| {
            is_closed(projected.get("defaultMode"))
                || list(projected, "sources").iter().any(|source| kinds(&|kind| source.get(kind).cloned()))
        })
}

/// The user that all these containers run as.
fn user_of_all(draft: &Draft, targets: &[At]) -> Result<(u32, u32), Vec<Problem>> {
    let problem = |text: &str| Problem { annotation: annotation("on-change"), text: text.to_owned() };
    let mut problems = Vec::new();
    if !draft.is_set("shareProcessNamespace") {
        problems.push(problem(
            "a signal reaches the application only with `shareProcessNamespace: true` in the pod's spec; set it, or use `http`",
        ));
    }
    let id = |container: &Container, key: &str| {
        let id = container.security(key).or_else(|| draft.security(key)).and_then(Value::as_u64);
        id.and_then(|id| u32::try_from(id).ok())
    };
    // An init container that ends is sent nothing.
    let stay = |at: &&At| matches!(at, At::Regular(_)) || draft.at(**at).is_some_and(Container::stays);
    let mut users = targets
        .iter()
        .filter(stay)
        .filter_map(|at| draft.at(*at))
        .map(|container| (id(container, "runAsUser"), id(container, "runAsGroup")));
    let first = users.next().unwrap_or_default();
    let user = match first {
        (Some(user), group) if users.all(|(other, _)| other == Some(user)) => (user, group.unwrap_or(GROUP)),
        _ => {
            problems.push(problem(
                "a signal may be sent only by the application's own user (kill(2)), and the pod does not say it: set the \
                 same `runAsUser` for all containers with the files, name one of them with `coffer.dev/containers`, or \
                 use `http`",
            ));
            (0, 0)
        }
    };
    if problems.is_empty() && user.0 == 0 {
        problems.push(problem(
            "the application runs as root, and Coffer does not: give it a user of its own, or use `http`",
        ));
    }
    if problems.is_empty() { Ok(user) } else { Err(problems) }
}
