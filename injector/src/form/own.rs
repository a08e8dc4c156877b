//! Coffer's own form: the sidecar's syntax in an attribute, or in a ConfigMap that an attribute names.

use std::collections::BTreeMap;
use std::time::Duration;

use coffer_runtime::aws::{check_region, is_role_arn};

use super::{interval, name};

const KNOWN: [&str; 7] = ["spec", "configMap", "configMapKey", "region", "role-arn", "refresh", "identity"];
/// Taken as the Secrets Store form has it, so that a pod may change its form one line at a time.
const USE_POD_IDENTITY: &str = "usePodIdentity";

/// The attributes of a volume, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Where its files are listed.
    pub source: OwnSource,
    /// Where AWS is asked; `None` leaves it to the driver.
    pub region: Option<String>,
    /// How often to look for changes, where the list does not say.
    pub refresh: Option<Duration>,
    /// As whom AWS is asked.
    pub identity: IdentityForm,
}

/// Where the files of a volume are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnSource {
    /// In the attribute itself: YAML.
    Inline(String),
    /// In a ConfigMap of the pod's namespace.
    ConfigMap(ConfigMapRef),
}

/// A ConfigMap of the pod's namespace, and a key in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMapRef {
    /// Its name.
    pub name: String,
    /// The key; `None` for `spec.yaml`, or the only one there is.
    pub key: Option<String>,
}

/// As whom AWS is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityForm {
    /// As a role that takes the service account's token (IRSA); `None` for the one that the service
    /// account's annotation names.
    WebIdentity(Option<String>),
    /// As EKS Pod Identity has it for the service account.
    PodIdentity,
}

/// What is wrong with the attributes, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnError {
    /// An attribute that is none of Coffer's.
    #[error("unknown attribute `{}`; {hint}", name.escape_debug())]
    Unknown {
        /// The attribute, cut.
        name: String,
        /// The nearest, or all there are.
        hint: String,
    },
    /// Nothing says what the volume is to hold.
    #[error(
        "nothing says what this volume holds; add `spec:` with a list of files, `configMap:` with the name of one that \
         holds it, or `secretProviderClass:`"
    )]
    Nothing,
    /// Two attributes say what the volume is to hold.
    #[error("`spec` and `configMap` both say what this volume holds; keep one")]
    Both,
    /// An attribute whose value cannot be.
    #[error("`{key}`: {why}")]
    Value {
        /// The attribute.
        key: &'static str,
        /// What is wrong with it, and the fix.
        why: String,
    },
}

impl Own {
    pub(super) fn read(attributes: &BTreeMap<String, String>) -> Result<Self, OwnError> {
        let known = |key: &String| KNOWN.contains(&key.as_str()) || key == USE_POD_IDENTITY;
        if let Some(key) = attributes.keys().find(|key| !known(key)) {
            let near = KNOWN
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, &key.chars().take(32).collect::<String>()), known))
                .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
                .min();
            let hint = near.map_or_else(
                || format!("known are {}", KNOWN.join(", ")),
                |(_, near)| format!("did you mean `{near}`?"),
            );
            return Err(OwnError::Unknown { name: key.chars().take(64).collect(), hint });
        }
        let get = |key: &str| attributes.get(key).filter(|value| !value.is_empty());
        let value = |key, why: &str| OwnError::Value { key, why: why.to_owned() };
        let source = match (get("spec"), get("configMap")) {
            (Some(_), Some(_)) => return Err(OwnError::Both),
            (None, None) => return Err(OwnError::Nothing),
            (Some(spec), None) => OwnSource::Inline(spec.clone()),
            (None, Some(map)) => {
                let map = name("configMap", map).map_err(|error| value("configMap", &error.to_string()))?;
                OwnSource::ConfigMap(ConfigMapRef { name: map.to_owned(), key: get("configMapKey").cloned() })
            }
        };
        if matches!(source, OwnSource::Inline(_)) && get("configMapKey").is_some() {
            return Err(value("configMapKey", "there is no `configMap` beside it; remove it, or name one"));
        }
        let region = get("region").map(|region| match check_region(region) {
            Ok(()) => Ok(region.clone()),
            Err(error) => Err(value("region", &format!("this {error}"))),
        });
        let role = get("role-arn").map(|role| match is_role_arn(role) {
            true => Ok(role.clone()),
            false => Err(value("role-arn", "this is no role's ARN; write it as `arn:aws:iam::123456789012:role/NAME`")),
        });
        let refresh = get("refresh").map(|text| interval(text).map_err(|why| value("refresh", &why)));
        let pod_identity = match (get("identity").map(String::as_str), get(USE_POD_IDENTITY).map(String::as_str)) {
            (None, None) | (Some("irsa"), None) | (None, Some("false")) => false,
            (Some("pod-identity"), None) | (None, Some("true")) => true,
            (Some(_), None) => return Err(value("identity", "takes `irsa` or `pod-identity`")),
            (None, Some(_)) => return Err(value(USE_POD_IDENTITY, "takes `true` or `false`")),
            (Some(_), Some(_)) => return Err(value(USE_POD_IDENTITY, "`identity` says it already; keep one")),
        };
        let identity = match (pod_identity, role.transpose()?) {
            (false, role) => IdentityForm::WebIdentity(role),
            (true, None) => IdentityForm::PodIdentity,
            (true, Some(_)) => {
                let fix = "write it as `role_arn` in the list of files, to have it assumed from there";
                return Err(value("role-arn", &format!("EKS Pod Identity gives the service account its role; {fix}")));
            }
        };
        Ok(Self { source, region: region.transpose()?, refresh: refresh.transpose()?, identity })
    }
}

impl ConfigMapRef {
    /// The text of the list in the ConfigMap's data, and the key it is under.
    ///
    /// # Errors
    /// Which key is missing, and which there are.
    pub fn pick<'a>(&self, data: &'a BTreeMap<String, String>) -> Result<(&'a str, &'a str), String> {
        let keys = || data.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let only = || data.iter().next().filter(|_| data.len() == 1);
        let found = match &self.key {
            Some(key) => data.get_key_value(key),
            None => data.get_key_value(DEFAULT_KEY).or_else(only),
        };
        let wanted = self.key.as_deref().unwrap_or(DEFAULT_KEY);
        found.map(|(key, text)| (key.as_str(), text.as_str())).ok_or_else(|| match data.is_empty() {
            true => format!("the ConfigMap `{}` is empty; put the list of files under the key `{wanted}`", self.name),
            false => format!(
                "the ConfigMap `{}` has no key `{wanted}`; it has {}: name one with `configMapKey`",
                self.name,
                keys()
            ),
        })
    }
}

/// The key of a ConfigMap where no other is named.
const DEFAULT_KEY: &str = "spec.yaml";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(attributes: &[(&str, &str)]) -> Result<Own, String> {
        let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Own::read(&attributes).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_all_attributes() {
        let role = "arn:aws:iam::123456789012:role/app";
        let own = read(&[
            ("configMap", "app"),
            ("configMapKey", "k"),
            ("region", "eu-west-1"),
            ("role-arn", role),
            ("refresh", "5m"),
        ])
        .unwrap();
        assert_eq!(
            own.source,
            OwnSource::ConfigMap(ConfigMapRef { name: "app".to_owned(), key: Some("k".to_owned()) })
        );
        assert_eq!(own.identity, IdentityForm::WebIdentity(Some(role.to_owned())));
        assert_eq!((own.region.as_deref(), own.refresh), (Some("eu-west-1"), Some(Duration::from_secs(300))));
        assert_eq!(read(&[("spec", "x"), ("identity", "pod-identity")]).unwrap().identity, IdentityForm::PodIdentity);
        assert_eq!(read(&[("spec", "x"), ("usePodIdentity", "true")]).unwrap().identity, IdentityForm::PodIdentity);
    }

    #[test]
    fn says_what_is_wrong_and_the_fix() {
        for (attributes, want) in [
            (&[("specc", "x")][..], "did you mean `spec`?"),
            (&[("roleArn", "x"), ("spec", "x")], "did you mean `role-arn`?"),
            (&[("nonsense-of-some-kind", "x")], "known are spec,"),
            (&[], "add `spec:`"),
            (&[("spec", "x"), ("configMap", "y")], "keep one"),
            (&[("spec", "x"), ("configMapKey", "y")], "no `configMap` beside it"),
            (&[("spec", "x"), ("region", "EU")], "no AWS region"),
            (&[("spec", "x"), ("region", "eu-west-1a")], "this is an availability zone; did you mean `eu-west-1`?"),
            (&[("spec", "x"), ("role-arn", "app")], "no role's ARN"),
            (&[("spec", "x"), ("refresh", "60")], "`refresh`: `60` is no time"),
            (&[("spec", "x"), ("identity", "none")], "takes `irsa` or `pod-identity`"),
            (&[("configMap", "../x")], "no name of an object"),
            (
                &[("spec", "x"), ("identity", "pod-identity"), ("role-arn", "arn:aws:iam::123456789012:role/a")],
                "Pod Identity gives",
            ),
        ] {
            let error = read(attributes).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn a_key_of_a_config_map_is_found_or_told() {
        let data = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let any = ConfigMapRef { name: "app".to_owned(), key: None };
        assert_eq!(any.pick(&data(&[("only", "1")])), Ok(("only", "1")));
        assert_eq!(any.pick(&data(&[("a", "0"), ("spec.yaml", "1")])), Ok(("spec.yaml", "1")));
        assert!(any.pick(&data(&[("a", "0"), ("b", "1")])).unwrap_err().contains("it has a, b"));
        assert!(any.pick(&data(&[])).unwrap_err().contains("is empty"));
    }
}
