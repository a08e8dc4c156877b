//! All that was decided, written into the pod.

use std::collections::BTreeSet;

use coffer_runtime::VERSION;
use serde_json::{Value, json};

use crate::webhook::annotations::{Content, Mode, Wish};

use super::access::{Access, GROUP};
use super::container::{Frame, Role, config_mount};
use super::draft::{At, Container, Draft, Object, name_of};
use super::identity::{self, Identity, mount};
use super::isolation;
use super::names::{self, CONFIG, INJECTED_CONFIG, PROGRAM, PROGRAM_FOLDER, SECRETS, STATUS, TOKEN, VOLUMES};
use super::order::Place;
use super::{Mutation, Reason, Settings, Surroundings, again, exec, resources, volume};

/// What was decided.
pub(super) struct Writing<'a> {
    pub(super) wish: &'a Wish,
    pub(super) settings: &'a Settings,
    pub(super) surroundings: &'a Surroundings,
    pub(super) place: Place,
    pub(super) targets: BTreeSet<At>,
    pub(super) access: Access,
    pub(super) identity: Identity,
    pub(super) former: Vec<Container>,
}

/// The reasons so far.
#[derive(Default)]
struct Reasons(Vec<Reason>);

impl Reasons {
    fn add(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.0.push(Reason { what: what.into(), why: why.into() });
    }

    /// In the order of the pod; what was added first of a part stays first.
    fn in_order(mut self) -> Vec<Reason> {
        const ORDER: [&str; 5] =
            ["metadata", "spec.securityContext", "spec.initContainers", "spec.containers", "spec.volumes"];
        self.0.sort_by_key(|reason| ORDER.iter().position(|part| reason.what.starts_with(part)));
        self.0
    }
}

impl Writing<'_> {
    /// The pod as it is to be.
    pub(super) fn write(self, mut draft: Draft, mut warnings: Vec<String>) -> Mutation {
        let mut reasons = Reasons::default();
        let is_exec = matches!(self.wish.mode, Mode::Exec { .. });
        let has_files = self.wish.content != Content::Nothing;
        let size = if has_files { resources::size_limit(self.wish) } else { (0, String::new()) };
        // In mode `exec` the application's container writes to the volume, and ours only brings the program.
        let written = if is_exec { 0 } else { size.0 };
        let demands = resources::of_container(&self.wish.resources, written, &mut warnings);
        let frame = Frame {
            wish: self.wish,
            settings: self.settings,
            access: &self.access,
            identity: &self.identity,
            resources: &demands,
            host_network: draft.is_set("hostNetwork"),
        };

        self.annotate(&mut draft, &mut reasons);
        self.give_group(&mut draft, &mut reasons);
        let needs_token = self.write_targets(&mut draft, &frame, &mut reasons);
        if self.wish.isolate_identity {
            warnings.extend(isolation::doubts(&draft, self.settings));
        }
        let roles = self.roles(&draft, &mut warnings);
        let ours: Vec<(Role, Container)> = roles.iter().map(|role| (*role, self.anew(&frame, *role))).collect();
        resources::tell_of_pod(&draft, &ours.iter().map(|(_, container)| container).collect::<Vec<_>>(), &mut warnings);
        self.write_volumes(&mut draft, needs_token || !is_exec, &size, &mut reasons);
        for (role, container) in ours {
            self.explain(role, &mut reasons);
            match role {
                Role::Sidecar => draft.regular.push(container),
                _ => draft.init.insert(self.place.index, container),
            }
        }
        Mutation { pod: draft.put_together(), mode: self.wish.mode, warnings, reasons: reasons.in_order() }
    }

    fn annotate(&self, draft: &mut Draft, reasons: &mut Reasons) {
        let place = |name: &str| format!("metadata.annotations[{name}]");
        if self.wish.isolate_identity {
            let skipped = isolation::skipped(draft);
            draft.annotations.insert(isolation::SKIP.to_owned(), json!(skipped));
            reasons
                .add(place(isolation::SKIP), "`coffer.dev/isolate-identity`: EKS gives its identity to none of these");
        }
        match &self.wish.content {
            Content::Inline(inline) => {
                draft.annotations.insert(INJECTED_CONFIG.to_owned(), json!(inline.text(self.access.mode)));
                reasons.add(
                    place(INJECTED_CONFIG),
                    "the config file, made of the annotations; the kubelet brings it to Coffer",
                );
            }
            Content::ConfigMap { .. } | Content::Nothing => {
                draft.annotations.shift_remove(INJECTED_CONFIG);
            }
        }
        draft.annotations.insert(STATUS.to_owned(), json!(format!("injected by coffer-injector {VERSION}")));
        reasons.add(place(STATUS), "tells a later pass that all this is Coffer's, and may be made anew");
    }

    fn give_group(&self, draft: &mut Draft, reasons: &mut Reasons) {
        if !self.access.gives_group {
            return;
        }
        let security = draft.spec.entry("securityContext").or_insert(Value::Null);
        if !security.is_object() {
            *security = Value::Object(Object::new());
        }
        if let Some(security) = security.as_object_mut() {
            security.insert("fsGroup".to_owned(), json!(GROUP));
            security.entry("fsGroupChangePolicy").or_insert_with(|| json!("OnRootMismatch"));
        }
        reasons.add("spec.securityContext.fsGroup", self.access.why_mode.as_str());
    }

    /// Gives the application's containers what they need, and takes away what they are not to have (any more). Says
    /// whether one of them needs our token.
    fn write_targets(&self, draft: &mut Draft, frame: &Frame<'_>, reasons: &mut Reasons) -> bool {
        let mut needs_token = false;
        for (at, container) in draft.containers_mut() {
            let place = format!("spec.{}[{}]", at.list(), container.name());
            let mut wanted: Vec<(Object, &str)> = Vec::new();
            if self.wish.isolate_identity && identity::take_from(container) {
                reasons
                    .add(&place, "the identity in AWS that EKS gave it is taken away: `coffer.dev/isolate-identity`");
            }
            match (self.targets.contains(&at), self.wish.mode) {
                (true, Mode::Exec { .. }) => {
                    needs_token |= self.wrap(container, frame, &place, &mut wanted, reasons);
                }
                (is_target, _) => {
                    exec::unwrap(container);
                    wanted.extend(is_target.then(|| {
                        let why = "the files, read-only: what the application cannot write, it cannot spoil";
                        (mount(SECRETS, &self.wish.path, true), why)
                    }));
                }
            }
            let is_wanted = |name: &str| wanted.iter().any(|(mount, _)| name_of(mount) == name);
            if container.mounts().any(|mount| name_of(mount) == TOKEN) && !is_wanted(TOKEN) {
                let theirs = identity::owned(container);
                container.drop_variables(|name| theirs.contains(&name));
            }
            container.drop_mounts(|name| VOLUMES.contains(&name) && !is_wanted(name));
            for (mount, why) in wanted {
                reasons.add(format!("{place}.volumeMounts[{}]", name_of(&mount)), why);
                container.put_mount(mount);
            }
        }
        needs_token
    }

    /// Lets `coffer exec` run a container's command. Says whether it needs our token.
    fn wrap(
        &self,
        container: &mut Container,
        frame: &Frame<'_>,
        place: &str,
        wanted: &mut Vec<(Object, &'static str)>,
        reasons: &mut Reasons,
    ) -> bool {
        exec::wrap(frame, container);
        reasons.add(format!("{place}.command"), "`coffer exec` puts the secrets in place and runs the command");
        for variable in frame.own_variables() {
            let name = name_of(&variable).to_owned();
            let is_asked_for = matches!(name.as_str(), "AWS_REGION" | "COFFER_LISTEN")
                && !self.settings.env.iter().any(|(known, _)| *known == name);
            if is_asked_for || !container.has_variable(&name) {
                reasons.add(format!("{place}.env[{name}]"), "for `coffer exec`; the application sees it too");
                container.put_variable(variable);
            }
        }
        let gives = self.identity.is_for_wrapped(container);
        if gives {
            reasons.add(format!("{place}.env[AWS_ROLE_ARN]"), self.identity.why());
            self.identity.give_variables(container);
            wanted.push((mount(TOKEN, names::TOKEN_FOLDER, true), "the token for AWS"));
        }
        wanted.push((mount(PROGRAM, PROGRAM_FOLDER, true), "the program"));
        if frame.has_config() {
            wanted.push((mount(SECRETS, &self.wish.path, false), "the files, which `coffer exec` writes here"));
            wanted.push((config_mount(), "the config file"));
        }
        gives
    }

    /// Our containers, the last of those at one place first.
    fn roles(&self, draft: &Draft, warnings: &mut Vec<String>) -> Vec<Role> {
        match self.wish.mode {
            Mode::Exec { .. } => vec![Role::Install],
            Mode::Init => vec![Role::Once],
            Mode::Sidecar if self.surroundings.native_sidecars => vec![Role::NativeSidecar],
            Mode::Sidecar => {
                let restarts = draft.spec.get("restartPolicy").and_then(Value::as_str);
                match restarts {
                    Some(policy @ ("Never" | "OnFailure")) => {
                        warnings.push(format!(
                            "have a cluster with native sidecars (Kubernetes 1.29) to keep the files fresh: here they are \
                             fetched once, as with `restartPolicy: {policy}` a second container would keep the pod from \
                             ending"
                        ));
                        vec![Role::Once]
                    }
                    _ => vec![Role::Once, Role::Sidecar],
                }
            }
        }
    }

    fn anew(&self, frame: &Frame<'_>, role: Role) -> Container {
        let wanted = frame.container(role);
        // One of our name in the other list is another kind of container.
        let is_same = |former: &&Container| former.name() == role.name() && former.stays() == wanted.stays();
        match self.former.iter().find(is_same) {
            Some(former) => again::container(former, &wanted, &self.identity),
            None => wanted,
        }
    }

    fn write_volumes(&self, draft: &mut Draft, needs_token: bool, size: &(u64, String), reasons: &mut Reasons) {
        let wanted = volume::wanted(self.wish, &self.identity, needs_token, size, self.settings);
        let is_wanted = |name: &str| wanted.iter().any(|wanted| wanted.volume["name"] == name);
        draft.volumes.retain(|volume| !VOLUMES.contains(&name_of(volume)) || is_wanted(name_of(volume)));
        for volume::Wanted { volume, why } in wanted {
            let Value::Object(volume) = volume else { continue };
            let name = name_of(&volume).to_owned();
            let mut why = why;
            if name == SECRETS && !self.access.gives_group && !self.access.why_mode.is_empty() {
                why = format!("{why}; {}", self.access.why_mode);
            }
            reasons.add(format!("spec.volumes[{name}]"), why);
            match draft.volumes.iter_mut().find(|volume| name_of(volume) == name) {
                Some(former) => *former = again::volume(former, &volume),
                None => draft.volumes.push(volume),
            }
        }
    }

    fn explain(&self, role: Role, reasons: &mut Reasons) {
        let list = if role == Role::Sidecar { "containers" } else { "initContainers" };
        let place = format!("spec.{list}[{}]", role.name());
        match role {
            Role::Sidecar => reasons.add(&place, role.why()),
            _ => reasons.add(&place, format!("{}; {}", role.why(), self.place.why)),
        }
        if role == Role::NativeSidecar {
            reasons.add(format!("{place}.startupProbe"), "the application starts once every file is in place");
        }
        if matches!(role, Role::NativeSidecar | Role::Sidecar) && self.wish.metrics.is_some() {
            reasons.add(format!("{place}.ports"), "`coffer.dev/metrics`: by its name a PodMonitor finds the metrics");
        }
        let security = format!("nothing that the restricted Pod Security Standard forbids; {}", self.access.why_user);
        reasons.add(format!("{place}.securityContext"), security);
        reasons.add(
            format!("{place}.resources"),
            "requests of measured use; what is written to the volume counts to this container's memory",
        );
        if role != Role::Install {
            reasons.add(format!("{place}.env"), self.identity.why());
            reasons.add(format!("{place}.volumeMounts[{SECRETS}]"), "where it writes the files");
            reasons
                .add(format!("{place}.volumeMounts[{CONFIG}]"), "its config file, a folder, so that changes are seen");
        }
    }
}
