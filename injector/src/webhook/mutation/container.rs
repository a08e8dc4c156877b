//! Our containers, by hand in deploy/kubernetes/sidecar.yaml.

use coffer::spec::DEFAULT_LISTEN;
use serde_json::{Value, json};

use crate::webhook::annotations::{Content, Wish};

use super::Settings;
use super::access::Access;
use super::draft::{Container, Object};
use super::identity::{Identity, mount, variable};
use super::names::{
    CONFIG, CONFIG_FOLDER, CONFIG_KEY, INSTALL, METRICS_PORT, ONCE, PROGRAM, PROGRAM_FOLDER, SECRETS, SIDECAR,
};

/// Where the program is installed by [`INSTALL`].
const INSTALL_FOLDER: &str = "/coffer-bin";

/// What our containers of a pod share.
pub(super) struct Frame<'a> {
    pub(super) wish: &'a Wish,
    pub(super) settings: &'a Settings,
    pub(super) access: &'a Access,
    pub(super) identity: &'a Identity,
    pub(super) resources: &'a Value,
    /// Whether the pod has the network of its node.
    pub(super) host_network: bool,
}

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// An init container that goes on running.
    NativeSidecar,
    /// A container beside the application's.
    Sidecar,
    /// An init container that publishes once.
    Once,
    /// An init container that brings the program.
    Install,
}

impl Role {
    /// The container's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NativeSidecar | Self::Sidecar => SIDECAR,
            Self::Once => ONCE,
            Self::Install => INSTALL,
        }
    }

    /// Why it is there.
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::NativeSidecar => {
                "fetches the secrets before the application starts, keeps them fresh, and ends after it, so that a Job can end"
            }
            Self::Sidecar => "keeps the secrets fresh, in a container as this cluster has no native sidecars",
            Self::Once => "fetches the secrets once, before the application starts",
            Self::Install => "brings the program `coffer`, which runs the application with its secrets",
        }
    }
}

/// The flag that names the config file.
pub(super) fn config_flag() -> String {
    format!("--config={CONFIG_FOLDER}/{CONFIG_KEY}")
}

/// The mount of the config file.
pub(super) fn config_mount() -> Object {
    mount(CONFIG, CONFIG_FOLDER, true)
}

impl Frame<'_> {
    /// One of our containers.
    pub(super) fn container(&self, role: Role) -> Container {
        let mut container = Object::new();
        let mut put = |key: &str, value: Value| container.insert(key.to_owned(), value);
        put("name", json!(role.name()));
        put("image", json!(self.wish.image.as_ref().unwrap_or(&self.settings.image)));
        if let Some(policy) = &self.settings.pull_policy {
            put("imagePullPolicy", json!(policy));
        }
        if role == Role::NativeSidecar {
            put("restartPolicy", json!("Always"));
        }
        put("command", self.command(role));
        if role != Role::Install {
            // Here among the fields, as a person would write it.
            put("env", Value::Null);
        }
        if role == Role::NativeSidecar {
            // By exec, as it listens on loopback only, where the kubelet's httpGet does not reach. Longer than
            // --startup-timeout (2m), so that its own last word on what is missing is in the log first.
            let probe = json!({ "command": ["/coffer", "status", "--probe"] });
            put(
                "startupProbe",
                json!({ "exec": probe, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 180 }),
            );
        }
        if let (Role::NativeSidecar | Role::Sidecar, Some(address)) = (role, self.wish.metrics) {
            put("ports", json!([self.metrics_port(address.port())]));
        }
        put("securityContext", self.security());
        put("resources", self.resources.clone());
        let mut container = Container(container);
        match role {
            Role::Install => container.put_mount(mount(PROGRAM, INSTALL_FOLDER, false)),
            _ => {
                self.put_environment(role, &mut container);
                container.put_mount(mount(SECRETS, &self.wish.path, false));
                container.put_mount(config_mount());
                self.identity.give(&mut container);
            }
        }
        container
    }

    /// What a PodMonitor finds by its name. With all that the API server would fill in, so that a second pass finds
    /// nothing to change.
    fn metrics_port(&self, port: u16) -> Value {
        let mut written = json!({ "name": METRICS_PORT, "containerPort": port, "protocol": "TCP" });
        if self.host_network {
            written["hostPort"] = json!(port);
        }
        written
    }

    fn command(&self, role: Role) -> Value {
        match role {
            Role::NativeSidecar | Role::Sidecar => json!(["/coffer", "run", config_flag()]),
            Role::Once => json!(["/coffer", "run", "--once", config_flag()]),
            Role::Install => json!(["/coffer", "install", INSTALL_FOLDER]),
        }
    }

    /// The variables that are no identity.
    fn put_environment(&self, role: Role, container: &mut Container) {
        // They name the session in CloudTrail after the pod, and spread the looks of many pods in time.
        for (name, path) in [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace")] {
            let from = json!({ "fieldRef": { "fieldPath": path } });
            container
                .put_variable(Object::from_iter([("name".to_owned(), json!(name)), ("valueFrom".to_owned(), from)]));
        }
        // Before what the file says, which is not known here, so that the probe asks where it listens.
        if matches!(self.wish.content, Content::ConfigMap { .. }) && role != Role::Once {
            container.put_variable(variable("COFFER_LISTEN", &DEFAULT_LISTEN.to_string()));
        }
        for variable in self.own_variables() {
            container.put_variable(variable);
        }
    }

    /// What the settings and annotations say, last wins.
    pub(super) fn own_variables(&self) -> Vec<Object> {
        let listen = self.wish.listen.map(|address| ("COFFER_LISTEN".to_owned(), address.to_string()));
        let region = self.wish.region.clone().map(|region| ("AWS_REGION".to_owned(), region));
        let mut variables: Vec<(String, String)> = Vec::new();
        for (name, value) in self.settings.env.iter().cloned().chain(region).chain(listen) {
            match variables.iter_mut().find(|(known, _)| *known == name) {
                Some(known) => known.1 = value,
                None => variables.push((name, value)),
            }
        }
        variables.iter().map(|(name, value)| variable(name, value)).collect()
    }

    /// The restricted Pod Security Standard, whatever the pod's own says.
    fn security(&self) -> Value {
        let mut security = Object::new();
        security.insert("runAsNonRoot".to_owned(), json!(true));
        if let Some((user, group)) = self.access.user {
            security.insert("runAsUser".to_owned(), json!(user));
            security.insert("runAsGroup".to_owned(), json!(group));
        }
        security.insert("allowPrivilegeEscalation".to_owned(), json!(false));
        security.insert("readOnlyRootFilesystem".to_owned(), json!(true));
        security.insert("capabilities".to_owned(), json!({ "drop": ["ALL"] }));
        let profile = match &self.settings.seccomp_profile {
            Some(file) => json!({ "type": "Localhost", "localhostProfile": file }),
            None => json!({ "type": "RuntimeDefault" }),
        };
        security.insert("seccompProfile".to_owned(), profile);
        Value::Object(security)
    }

    /// Whether the config file is there.
    pub(super) fn has_config(&self) -> bool {
        self.wish.content != Content::Nothing
    }
}

/// Where the program is for those that it runs.
pub(super) fn program() -> String {
    format!("{PROGRAM_FOLDER}/coffer")
}
