//! Why a Kubernetes Secret was not made.

use kube::core::Status;

use super::MANAGED;
use crate::kubernetes::{KubernetesError, ObjectName};

/// Why one Kubernetes Secret of a SecretProviderClass was not made or updated. Holds no value: names of files and
/// keys may show.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// An entry of `secretObjects` lacks what it needs.
    #[error("secretObjects[{position}] of SecretProviderClass {class} has no {field}: add it")]
    Incomplete {
        /// Namespace and name of the class.
        class: String,
        /// Which entry, from 0.
        position: usize,
        /// What is missing.
        field: &'static str,
    },
    /// A Secret is listed twice.
    #[error("{secret} is listed twice in the secretObjects of its class: put all keys into one entry")]
    Repeated {
        /// The Secret.
        secret: ObjectName,
    },
    /// A key is listed twice.
    #[error("{secret} gets its key `{key}` twice: remove one")]
    RepeatedKey {
        /// The Secret.
        secret: ObjectName,
        /// The key.
        key: String,
    },
    /// A key is none.
    #[error("{secret} cannot have the key `{key}`: a key has letters, digits, `-`, `_` and `.`, at most 253 of them")]
    BadKey {
        /// The Secret.
        secret: ObjectName,
        /// The key.
        key: String,
    },
    /// There is no file of that name.
    #[error(
        "{secret} cannot be made: its key `{key}` is to have the file `{file}`, and the volume has no such file{}; objectName is the file's path in the volume, such as its objectAlias",
        nearest.as_ref().map(|nearest| format!(" (did you mean `{nearest}`?)")).unwrap_or_default()
    )]
    NoSuchFile {
        /// The Secret.
        secret: ObjectName,
        /// The key.
        key: String,
        /// The file.
        file: String,
        /// A file much like it.
        nearest: Option<String>,
    },
    /// A type needs keys that are not listed.
    #[error("{secret} of the type {kind} needs {keys}: add it to its data")]
    MissingKeys {
        /// The Secret.
        secret: ObjectName,
        /// The type.
        kind: String,
        /// Which.
        keys: &'static str,
    },
    /// A type that nobody may make of a file.
    #[error(
        "{secret} cannot be of the type kubernetes.io/service-account-token, whose content Kubernetes itself makes: use Opaque"
    )]
    TokenType {
        /// The Secret.
        secret: ObjectName,
    },
    /// A file that is no TLS identity.
    #[error("{secret} of the type kubernetes.io/tls cannot be made of {files}: {problem}")]
    Tls {
        /// The Secret.
        secret: ObjectName,
        /// The file or files.
        files: String,
        /// What is wrong, without any part of it.
        problem: String,
    },
    /// A file that is no Docker config.
    #[error("{secret} cannot be made of the file `{file}`: {kind} needs a JSON object")]
    NotJson {
        /// The Secret.
        secret: ObjectName,
        /// The file.
        file: String,
        /// The type.
        kind: &'static str,
    },
    /// More than Kubernetes takes.
    #[error("{secret} would hold {size} bytes, and Kubernetes takes 1048576 at most: leave out some of its keys")]
    TooLarge {
        /// The Secret.
        secret: ObjectName,
        /// The sum of its values.
        size: usize,
    },
    /// A Secret that is someone else's.
    #[error(
        "{secret} exists and is not touched, for it lacks the label {MANAGED}=true and so belongs to someone else: choose another secretName, or delete it"
    )]
    NotOurs {
        /// The Secret.
        secret: ObjectName,
    },
    /// A type cannot change.
    #[error(
        "{secret} has the type {found} and is to have {wanted}, which cannot change: delete it, and it is made anew"
    )]
    TypeDiffers {
        /// The Secret.
        secret: ObjectName,
        /// Its type.
        found: String,
        /// The type of the class.
        wanted: String,
    },
    /// A Secret that cannot be changed.
    #[error("{secret} is immutable and cannot be updated: delete it, and it is made anew")]
    Immutable {
        /// The Secret.
        secret: ObjectName,
    },
    /// The name of the Secret is none.
    #[error(transparent)]
    Name(KubernetesError),
    /// The API does not give or take it.
    #[error("{secret} is not up to date: {source}")]
    Api {
        /// The Secret.
        secret: ObjectName,
        /// Why.
        source: KubernetesError,
    },
}

/// An API server's no without what may hold a part of a value: it quotes what it finds invalid, and an admission
/// webhook says what it likes.
pub(super) fn without_values(mut status: Status) -> Status {
    let message = std::mem::take(&mut status.message);
    status.message = match status.code {
        // Who may not do what; or in which state the other is.
        401 | 404 | 409 => message,
        403 if message.contains(" cannot ") && message.contains(" resource ") => message,
        403 if message.contains("exceeded quota: ") || message.contains(" is being terminated") => message,
        422 => {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            let fields: Vec<_> = causes.map(|cause| cause.field.as_str()).filter(|field| !field.is_empty()).collect();
            format!(
                "not valid: {}",
                if fields.is_empty() { "the API server's words are left out".into() } else { fields.join(", ") }
            )
        }
        _ => match message.split_once("denied the request") {
            Some((who, _)) if who.len() < 300 && who.starts_with("admission webhook") => {
                format!("{who}denied the request")
            }
            _ => status.reason.clone(),
        },
    };
    status.details.iter_mut().for_each(|details| details.causes.clear());
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_part_of_a_value_comes_back_from_the_api_server() {
        let quoted = json!({
            "status": "Failure", "code": 422, "reason": "Invalid", "message": "data[a]: Invalid value: \"hunter2\"",
            "details": {"causes": [{"field": "data[a]", "message": "Invalid value: \"hunter2\"", "reason": "x"}]},
        });
        let said = json!({
            "status": "Failure", "code": 400, "reason": "BadRequest",
            "message": "admission webhook \"strict.example.com\" denied the request: hunter2 is weak",
        });
        let other = json!({"status": "Failure", "code": 403, "reason": "Forbidden", "message": "policy: hunter2"});
        let texts = [quoted, said, other].map(|status| {
            let status = without_values(serde_json::from_value(status).unwrap());
            assert!(!format!("{status:?}").contains("hunter2"), "{status:?}");
            status.message
        });
        assert_eq!(
            texts,
            ["not valid: data[a]", "admission webhook \"strict.example.com\" denied the request", "Forbidden"]
        );
    }
}
