//! As whom AWS is asked, and who else in the pod has that identity.
//!
//! EKS's own webhook (aws/amazon-eks-pod-identity-webhook, pkg/handler/handler.go) gives every container a token and
//! variables. It leaves the variables of a container alone where any of them is defined, and containers that
//! `eks.amazonaws.com/skip-containers` names altogether.

use coffer_runtime::aws::is_role_arn;
use serde_json::{Value, json};

use crate::webhook::annotations::{Problem, Wish};

use super::draft::{Container, Draft, Object, mount_name, name_of};
use super::names::{CONTAINERS, TOKEN, TOKEN_FOLDER, TOKEN_KEY, annotation};
use super::{Settings, Surroundings};

/// Containers that EKS's webhook passes by: CSV.
pub(super) const SKIP: &str = "eks.amazonaws.com/skip-containers";
/// The volumes of EKS's webhook: of IAM roles for service accounts, and of EKS Pod Identity.
const VOLUMES: [&str; 2] = ["aws-iam-token", "eks-pod-identity-token"];
/// What makes an identity in AWS, in the order in which it is given.
const VARIABLES: [&str; 4] = [
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];
/// What EKS's webhook gives along.
const ALONG: [&str; 3] = ["AWS_STS_REGIONAL_ENDPOINTS", "AWS_DEFAULT_REGION", "AWS_REGION"];
/// How long a token is good for, in seconds, as EKS's own webhook has it; the kubelet renews it at 80 %.
const TOKEN_SECONDS: u32 = 86400;

/// Where our containers have theirs from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Identity {
    /// A token of our own, shown for a role.
    Own {
        role: String,
        /// Whether the pod itself names the role, and not its service account.
        is_asked_for: bool,
    },
    /// What EKS's webhook gave to a container of the pod.
    Borrowed {
        /// Which.
        from: String,
        variables: Vec<Object>,
        mounts: Vec<Object>,
    },
    /// What the cluster gives, later or not at all.
    Left,
}

impl Identity {
    pub(super) fn choose(
        draft: &Draft,
        former: &[Container],
        wish: &Wish,
        surroundings: &Surroundings,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Problem> {
        if wish.isolate_identity {
            for (field, what) in [("shareProcessNamespace", "the pod"), ("hostPID", "the node")] {
                if draft.is_set(field) {
                    let text = format!(
                        "`{field}: true` lets processes of {what} reach into Coffer's container (/proc/PID/root); remove \
                         that field, or this annotation"
                    );
                    return Err(Problem { annotation: annotation("isolate-identity"), text });
                }
            }
        }
        if let Some(role) = &wish.role {
            return Ok(Self::Own { role: role.clone(), is_asked_for: true });
        }
        match &surroundings.role {
            Some(role) if is_role_arn(role) => {
                return Ok(Self::Own { role: role.clone(), is_asked_for: false });
            }
            Some(role) => warnings.push(format!(
                "the service account's annotation `eks.amazonaws.com/role-arn` is no role's ARN, and not used: `{}`",
                role.chars().take(200).collect::<String>().escape_debug()
            )),
            None => {}
        }
        // After isolation, only our own container of before may have it still.
        let mut all = former.iter().chain(draft.init.iter()).chain(draft.regular.iter());
        let Some(container) = all.find(|container| is_given(container)) else { return Ok(Self::Left) };
        let is_wanted = |variable: &&Object| {
            let name = name_of(variable);
            VARIABLES.contains(&name) || ALONG.contains(&name)
        };
        Ok(Self::Borrowed {
            from: container.name().to_owned(),
            variables: container.env().filter(is_wanted).cloned().collect(),
            mounts: container.mounts().filter(|mount| VOLUMES.contains(&mount_name(mount))).cloned().collect(),
        })
    }

    /// Gives it to a container of ours.
    pub(super) fn give(&self, container: &mut Container) {
        self.give_variables(container);
        match self {
            Self::Own { .. } => container.put_mount(mount(TOKEN, TOKEN_FOLDER, true)),
            Self::Borrowed { mounts, .. } => mounts.iter().for_each(|mount| container.put_mount(mount.clone())),
            Self::Left => {}
        }
    }

    /// Gives its variables to a container that has or gets the mount, too.
    pub(super) fn give_variables(&self, container: &mut Container) {
        match self {
            Self::Own { role, .. } => {
                container.put_variable(variable("AWS_ROLE_ARN", role));
                container.put_variable(variable("AWS_WEB_IDENTITY_TOKEN_FILE", &token_file()));
                container.put_variable(variable("AWS_STS_REGIONAL_ENDPOINTS", "regional"));
            }
            Self::Borrowed { variables, .. } => {
                for item in variables {
                    // What an annotation says, the region, goes before what came along.
                    if !container.has_variable(name_of(item)) {
                        container.put_variable(item.clone());
                    }
                }
            }
            Self::Left => {}
        }
    }

    /// Whether a wrapped container is to get it: one that has another already keeps it, unless the pod asks for ours.
    pub(super) fn is_for_wrapped(&self, container: &Container) -> bool {
        match self {
            Self::Own { is_asked_for, .. } => {
                *is_asked_for || !VARIABLES.iter().any(|name| container.has_variable(name)) || is_own(container)
            }
            Self::Borrowed { .. } | Self::Left => false,
        }
    }

    /// The volume of our token.
    pub(super) fn volume(&self, settings: &Settings) -> Option<Value> {
        matches!(self, Self::Own { .. }).then(|| {
            let token = json!({
                "audience": settings.token_audience, "expirationSeconds": TOKEN_SECONDS, "path": TOKEN_KEY,
            });
            json!({ "name": TOKEN, "projected": { "sources": [{ "serviceAccountToken": token }] } })
        })
    }

    /// Why it is as it is.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Own { role, is_asked_for: true } => {
                format!("a token of its own for the role `{role}` of `coffer.dev/role-arn`")
            }
            Self::Own { role, is_asked_for: false } => {
                format!("a token of its own for the service account's role `{role}`")
            }
            Self::Borrowed { from, .. } => format!("the identity that EKS gave to the container `{from}`"),
            Self::Left => "whatever identity in AWS the cluster gives it".to_owned(),
        }
    }
}

/// The variables of a container that [`Identity::Own`] once gave it.
pub(super) fn owned(container: &Container) -> &'static [&'static str] {
    match is_own(container) {
        true => &["AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_STS_REGIONAL_ENDPOINTS"],
        false => &[],
    }
}

/// Takes the pod's identity in AWS from one of the application's containers; says whether there was one.
pub(super) fn take_from(container: &mut Container) -> bool {
    let had = container.drop_variables(|name| VARIABLES.contains(&name));
    container.drop_mounts(|name| VOLUMES.contains(&name)) || had
}

/// The containers that EKS's webhook is to pass by: those that the pod names already, and all but ours.
pub(super) fn skipped(draft: &Draft) -> String {
    let written = draft.annotation(SKIP).unwrap_or_default();
    let mut names: Vec<&str> = Vec::new();
    let written = written.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty());
    let others = draft.containers().map(|(_, container)| container.name());
    for name in written.chain(others) {
        // Left out, ours would have no identity.
        if !names.contains(&name) && !CONTAINERS.contains(&name) {
            names.push(name);
        }
    }
    names.join(",")
}

/// A variable.
pub(super) fn variable(name: &str, value: &str) -> Object {
    Object::from_iter([("name".to_owned(), json!(name)), ("value".to_owned(), json!(value))])
}

/// A mount.
pub(super) fn mount(volume: &str, path: &str, read_only: bool) -> Object {
    let mut mount = Object::from_iter([("name".to_owned(), json!(volume)), ("mountPath".to_owned(), json!(path))]);
    if read_only {
        mount.insert("readOnly".to_owned(), json!(true));
    }
    mount
}

fn token_file() -> String {
    format!("{TOKEN_FOLDER}/{TOKEN_KEY}")
}

fn is_own(container: &Container) -> bool {
    container.variable("AWS_WEB_IDENTITY_TOKEN_FILE") == Some(token_file().as_str())
}

/// Whether EKS's webhook gave it an identity: both variables of a pair, and the token in a volume of that webhook.
/// Known by the volume's name, never by what a path looks like.
fn is_given(container: &Container) -> bool {
    let pairs = [(VARIABLES[0], VARIABLES[1]), (VARIABLES[2], VARIABLES[3])];
    pairs.into_iter().any(|(of, file)| {
        let file = container.variable(file).filter(|_| container.variable(of).is_some());
        file.is_some_and(|file| {
            let folders = container.mounts().filter(|mount| VOLUMES.contains(&mount_name(mount)));
            let mut folders = folders.filter_map(|mount| mount.get("mountPath")?.as_str());
            folders
                .any(|folder| file.strip_prefix(folder.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/')))
        })
    })
}
