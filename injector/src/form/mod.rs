//! What a volume of a pod is to hold, read from what the kubelet passes on: the pod's attributes for it, and
//! what the kubelet adds about the pod.
//!
//! Two forms: Coffer's own, whose attributes hold the sidecar's syntax or name a ConfigMap that does; and
//! that of the Secrets Store CSI driver, whose attribute names a SecretProviderClass.

mod own;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

pub use self::own::{ConfigMapRef, IdentityForm, Own, OwnSource};
use crate::pod::Pod;

/// What the kubelet's own keys begin with; a pod cannot set those that it does
/// (pkg/volume/csi/csi_mounter.go, `mergeMap`).
const KUBELET: &str = "csi.storage.k8s.io/";
/// Names the class of the Secrets Store CSI driver's form.
pub const CLASS: &str = "secretProviderClass";
/// More bytes of attributes are nobody's: an object of Kubernetes has at most 1.5 MiB.
const ATTRIBUTES_MAX: usize = 2 * 1024 * 1024;

/// A volume that a pod asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Who.
    pub pod: Pod,
    /// What.
    pub form: Form,
}

/// What a volume is to hold, in one of two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Coffer's own.
    Own(Own),
    /// A SecretProviderClass by name, with the attributes that come over its parameters.
    Class {
        /// Its name, in the pod's namespace.
        name: String,
        /// The pod's own attributes.
        attributes: BTreeMap<String, String>,
    },
}

/// What is wrong with a pod's attributes, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// The kubelet did not say which pod it is for.
    #[error(
        "the kubelet passed no `{0}`: the CSIDriver object needs `podInfoOnMount: true` (deploy/csi/csidriver.yaml)"
    )]
    NoPod(&'static str),
    /// A name that could not be one.
    #[error("`{key}` is `{}`, which is no name of an object in Kubernetes", value.escape_debug())]
    Name {
        /// The attribute.
        key: &'static str,
        /// What it says, cut.
        value: String,
    },
    /// Not asked for by a pod itself.
    #[error("this driver mounts volumes that stand in a pod (`csi:` under `volumes:`), no persistent ones")]
    Persistent,
    /// Two forms at once.
    #[error("`secretProviderClass` and `spec` or `configMap` both say what this volume holds; keep one")]
    Both,
    /// The attributes are too large.
    #[error("the attributes hold {0} bytes, more than an object of Kubernetes can")]
    TooLarge(usize),
    /// The attributes of Coffer's own form.
    #[error(transparent)]
    Own(#[from] own::OwnError),
}

impl Ask {
    /// Reads the attributes of a volume.
    ///
    /// # Errors
    /// The first mistake, with its fix.
    pub fn read(context: &HashMap<String, String>) -> Result<Self, FormError> {
        let bytes: usize = context.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > ATTRIBUTES_MAX {
            return Err(FormError::TooLarge(bytes));
        }
        if context.get("csi.storage.k8s.io/ephemeral").is_some_and(|ephemeral| ephemeral != "true") {
            return Err(FormError::Persistent);
        }
        let pod = pod_of(context)?;
        let attributes: BTreeMap<String, String> = context
            .iter()
            .filter(|(key, _)| !is_kubelets(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let form = match attributes.get(CLASS) {
            Some(_) if attributes.contains_key("spec") || attributes.contains_key("configMap") => {
                return Err(FormError::Both);
            }
            Some(class) => Form::Class { name: name(CLASS, class)?.to_owned(), attributes },
            None => Form::Own(Own::read(&attributes)?),
        };
        Ok(Self { pod, form })
    }
}

/// Whether a key is one of the kubelet's.
pub(crate) fn is_kubelets(key: &str) -> bool {
    key.starts_with(KUBELET)
}

/// Which pod it is for.
///
/// # Errors
/// When the kubelet did not say, or no pod has such a name.
pub(crate) fn pod_of(context: &HashMap<String, String>) -> Result<Pod, FormError> {
    let told = |key: &'static str| match context.get(key) {
        Some(value) if !value.is_empty() => name(key, value).map(str::to_owned),
        _ => Err(FormError::NoPod(key)),
    };
    Ok(Pod {
        namespace: told("csi.storage.k8s.io/pod.namespace")?,
        name: told("csi.storage.k8s.io/pod.name")?,
        uid: told("csi.storage.k8s.io/pod.uid")?,
        service_account: told("csi.storage.k8s.io/serviceAccount.name")?,
    })
}

/// A name that may stand in a request to the API server: as a DNS subdomain (RFC 1123), and as a uid.
fn name<'a>(key: &'static str, value: &'a str) -> Result<&'a str, FormError> {
    match is_object_name(value) {
        true => Ok(value),
        false => Err(FormError::Name { key, value: value.chars().take(64).collect() }),
    }
}

/// Whether a text can be the name of an object: a DNS subdomain (RFC 1123).
pub(crate) fn is_object_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_well = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    ends_well && bytes.len() <= 253 && text.bytes().all(plain)
}

/// An interval between looks, as the attribute `refresh` and the flag have it.
///
/// # Errors
/// What to write instead.
pub fn interval(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text).ok();
    let within = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
    parsed.filter(|time| within.contains(time)).ok_or_else(|| {
        format!("`{}` is no time from 1s to 30days; write one such as `60s` or `5m`", text.escape_debug())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context(attributes: &[(&str, &str)]) -> HashMap<String, String> {
        let pod = [
            ("csi.storage.k8s.io/pod.name", "app-1"),
            ("csi.storage.k8s.io/pod.namespace", "shop"),
            ("csi.storage.k8s.io/pod.uid", "8a3f"),
            ("csi.storage.k8s.io/serviceAccount.name", "app"),
            ("csi.storage.k8s.io/ephemeral", "true"),
        ];
        pod.iter().chain(attributes).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn tells_the_two_forms_apart() {
        let own =
            Ask::read(&context(&[("spec", "- {name: a, from: 'secretsmanager:x'}"), ("region", "eu-west-1")])).unwrap();
        assert_eq!(own.pod.to_string(), "shop/app-1");
        assert!(matches!(own.form, Form::Own(Own { source: OwnSource::Inline(_), .. })));
        let class = Ask::read(&context(&[("secretProviderClass", "db"), ("region", "eu-west-1")])).unwrap();
        let Form::Class { name, attributes } = class.form else { panic!("a class") };
        assert_eq!((name.as_str(), attributes["region"].as_str()), ("db", "eu-west-1"));
        assert!(!attributes.keys().any(|key| key.starts_with(KUBELET)));
    }

    #[test]
    fn says_what_the_kubelet_left_out() {
        let mut without = context(&[("spec", "[]")]);
        without.remove("csi.storage.k8s.io/pod.name");
        assert!(Ask::read(&without).unwrap_err().to_string().contains("podInfoOnMount: true"));
        let mut persistent = context(&[("spec", "[]")]);
        persistent.insert("csi.storage.k8s.io/ephemeral".to_owned(), "false".to_owned());
        assert_eq!(Ask::read(&persistent), Err(FormError::Persistent));
    }

    #[test]
    fn names_cannot_lead_elsewhere() {
        for bad in ["../secrets/other", "a/b", "", "A", ".hidden", "a?b", "-a"] {
            assert!(Ask::read(&context(&[("secretProviderClass", bad)])).is_err(), "{bad}");
        }
    }

    #[test]
    fn intervals_have_units_and_bounds() {
        assert_eq!(interval("5m"), Ok(Duration::from_secs(300)));
        for bad in ["5", "0s", "500ms", "31days", "soon"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(attributes in proptest::collection::hash_map(".{0,20}", ".{0,60}", 0..6)) {
            let mut all = context(&[]);
            all.extend(attributes);
            let _ = Ask::read(&all);
        }
    }
}
