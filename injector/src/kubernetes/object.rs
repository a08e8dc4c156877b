//! The names of objects.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use kube::core::Resource;

use super::KubernetesError;
use super::class::GROUP;

/// An object of the API, as an error names it. A clone costs nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectName(Arc<NameParts>);

/// What an object is named by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NameParts {
    /// Its kind, such as `ConfigMap`.
    pub kind: String,
    /// Its API group; empty for the core one.
    pub group: String,
    /// What its kind is called in paths and in RBAC, such as `configmaps`.
    pub resource: String,
    /// Its namespace; empty for one that has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectName {
    /// An object of a kind that the crate k8s-openapi knows. `namespace` is empty for one that has none.
    ///
    /// # Errors
    /// When one of the names cannot be one. It would go into a path as it is, and lead elsewhere.
    pub fn of<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> Result<Self, KubernetesError> {
        let (kind, group, resource) = (K::kind(&()).into(), K::group(&()).into(), K::plural(&()).into());
        Self::checked(NameParts { kind, group, resource, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// An object of the Secrets Store CSI driver.
    ///
    /// # Errors
    /// As [`ObjectName::of`].
    pub(super) fn of_secrets_store(
        kind: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Self, KubernetesError> {
        let [kind, resource, group] = [kind, resource, GROUP].map(str::to_owned);
        Self::checked(NameParts { kind, group, resource, namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// An object whose names come from the program itself.
    pub(super) fn trusted(parts: NameParts) -> Self {
        Self(Arc::new(parts))
    }

    fn checked(parts: NameParts) -> Result<Self, KubernetesError> {
        let good = is_name(&parts.name) && (parts.namespace.is_empty() || is_name(&parts.namespace));
        let object = Self::trusted(parts);
        if good { Ok(object) } else { Err(KubernetesError::BadName { object }) }
    }
}

impl Deref for ObjectName {
    type Target = NameParts;

    fn deref(&self) -> &NameParts {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    /// `KIND NAMESPACE/NAME`, or `KIND NAME`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NameParts { kind, namespace, name, .. } = &**self;
        // Who gets it wrong may get it very wrong.
        let short = |text: &str| text.chars().take(NAME_MAX).collect::<String>().escape_debug().to_string();
        let (namespace, name) = (short(namespace), short(name));
        if namespace.is_empty() { write!(f, "{kind} {name}") } else { write!(f, "{kind} {namespace}/{name}") }
    }
}

/// Longest name of an object, in bytes.
pub(super) const NAME_MAX: usize = 253;

/// Whether an object can have this name: a DNS subdomain (RFC 1123), as Kubernetes has it.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= NAME_MAX
        && name.split('.').all(|label| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
        })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    #[test]
    fn what_would_lead_elsewhere_is_no_name() {
        for name in ["app", "a.b-c.0", &"a".repeat(253)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", "../secrets/x", "a/b", "a?x=1", "a#b", "A", "-a", "a-", "a..b", "a%2fb", "ä", "a b"]
        {
            assert!(!is_name(name), "{name}");
        }
        assert!(!is_name(&"a".repeat(254)));
        let error = ObjectName::of::<ConfigMap>("shop", "../../kube-system/configmaps/x").unwrap_err();
        assert_eq!(
            error.to_string(),
            "ConfigMap shop/../../kube-system/configmaps/x cannot exist: a name has lower-case letters, digits, `-` and `.`, at most 253 of them, and begins and ends with a letter or digit"
        );
    }
}
