//! As whom AWS is asked, and who else in the pod has that identity.
//!
//! EKS's own webhook (aws/amazon-eks-pod-identity-webhook, pkg/handler/handler.go) gives every container a token and
//! variables. It leaves the variables of a container alone where any of them is defined, and containers that
//! `eks.amazonaws.com/skip-containers` names altogether.

use coffer_runtime::aws::is_role_arn;
use serde_json::{Value, json};

use crate::webhook::annotations::{Problem, Wish, shown};

use super::draft::{Container, Draft, Object, name_of};
use super::names::{TOKEN, TOKEN_FOLDER, TOKEN_KEY, annotation};
use super::{Settings, Surroundings};

/// The volumes of EKS's webhook.
pub(super) const VOLUMES: [&str; 2] = [POD_IDENTITY.volume, ROLE.volume];
/// What makes an identity in AWS.
pub(super) const VARIABLES: [&str; 4] = [ROLE.of, ROLE.file, POD_IDENTITY.of, POD_IDENTITY.file];
/// What EKS's webhook gives along.
const ALONG: [&str; 3] = [STS, "AWS_DEFAULT_REGION", "AWS_REGION"];
const STS: &str = "AWS_STS_REGIONAL_ENDPOINTS";

/// A form of identity that EKS's webhook gives: two variables, of which one names a token in its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    of: &'static str,
    file: &'static str,
    volume: &'static str,
    why: &'static str,
}

/// IAM roles for service accounts.
const ROLE: Form =
    Form { of: "AWS_ROLE_ARN", file: "AWS_WEB_IDENTITY_TOKEN_FILE", volume: "aws-iam-token", why: "the role" };
/// EKS Pod Identity, which that webhook prefers to a role where a service account has both.
const POD_IDENTITY: Form = Form {
    of: "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    file: "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    volume: "eks-pod-identity-token",
    why: "the EKS Pod Identity",
};

impl Form {
    /// Whether EKS's webhook gave it to a container. Known by the volume's name, never by what a path looks like; and what
    /// names another token was written by the pod's author.
    fn is_given(self, container: &Container) -> bool {
        let file = container.variable(self.file).filter(|_| container.has_variable(self.of));
        let is_below = |folder: &str| {
            let rest = file.and_then(|file| file.strip_prefix(folder.trim_end_matches('/')));
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let mut folders = container.mounts().filter(|mount| name_of(mount) == self.volume);
        folders.any(|mount| mount.get("mountPath").and_then(Value::as_str).is_some_and(is_below))
    }

    fn is_of(self, variable: &str) -> bool {
        variable == self.of || variable == self.file
    }
}

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
        form: Form,
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
        // After isolation, only our own container of before may have it still.
        let all = || former.iter().chain(draft.init.iter()).chain(draft.regular.iter());
        let borrowed =
            |form: Form| all().find(|container| form.is_given(container)).map(|from| Self::borrow(from, form));
        if let Some(identity) = borrowed(POD_IDENTITY) {
            return Ok(identity);
        }
        match &surroundings.role {
            Some(role) if is_role_arn(role) => {
                return Ok(Self::Own { role: role.clone(), is_asked_for: false });
            }
            Some(role) => warnings.push(format!(
                "mend the service account's `eks.amazonaws.com/role-arn`: it is no role's ARN, and not used: `{}`",
                shown(role)
            )),
            None => {}
        }
        Ok(borrowed(ROLE).unwrap_or(Self::Left))
    }

    fn borrow(from: &Container, form: Form) -> Self {
        let is_wanted = |variable: &&Object| form.is_of(name_of(variable)) || ALONG.contains(&name_of(variable));
        Self::Borrowed {
            from: from.name().to_owned(),
            form,
            variables: from.env().filter(is_wanted).cloned().collect(),
            mounts: from.mounts().filter(|mount| name_of(mount) == form.volume).cloned().collect(),
        }
    }

    /// Whether a variable that our container of before has is to go, where it is not wanted any more: what it owed to a
    /// token of its own, and a role beside EKS Pod Identity, which the SDKs would take first.
    pub(super) fn ousts(&self, former: &Container, variable: &str) -> bool {
        owned(former).contains(&variable)
            || matches!(self, Self::Borrowed { form, .. } if *form == POD_IDENTITY && ROLE.is_of(variable))
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
                container.put_variable(variable(ROLE.of, role));
                container.put_variable(variable(ROLE.file, &token_file()));
                container.put_variable(variable(STS, "regional"));
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
            Self::Borrowed { from, form, .. } => {
                format!("{} that EKS gave to the container `{}`", form.why, shown(from))
            }
            Self::Left => "whatever identity in AWS the cluster gives it".to_owned(),
        }
    }
}

/// The variables of a container that [`Identity::Own`] once gave it.
pub(super) fn owned(container: &Container) -> &'static [&'static str] {
    match is_own(container) {
        true => &[ROLE.of, ROLE.file, STS],
        false => &[],
    }
}

/// Takes what EKS's webhook gave from one of the application's containers; says whether there was something.
pub(super) fn take_from(container: &mut Container) -> bool {
    let given: Vec<Form> = [POD_IDENTITY, ROLE].into_iter().filter(|form| form.is_given(container)).collect();
    let had = container.drop_variables(|name| given.iter().any(|form| form.is_of(name)));
    container.drop_mounts(|name| VOLUMES.contains(&name)) || had
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
    container.variable(ROLE.file) == Some(token_file().as_str())
}
