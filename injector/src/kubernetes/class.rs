//! The SecretProviderClass of the Secrets Store CSI driver, as the API has it.

use std::collections::BTreeMap;

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde::Deserialize;

use super::{KubernetesError, ObjectName};

/// The API group of the Secrets Store CSI driver's kinds.
pub(super) const GROUP: &str = "secrets-store.csi.x-k8s.io";
const KIND: &str = "SecretProviderClass";
const RESOURCE: &str = "secretproviderclasses";

/// A SecretProviderClass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who is to read `parameters`; `aws` for ours.
    pub provider: String,
    /// Whatever that provider wants.
    pub parameters: BTreeMap<String, String>,
    /// The Kubernetes Secrets to make of its files.
    pub secret_objects: Vec<SecretObject>,
}

/// A Kubernetes Secret to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretObject {
    /// Its name.
    pub secret_name: String,
    /// Its type.
    pub kind: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its entries.
    pub data: Vec<SecretKey>,
}

/// One entry of a Kubernetes Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretKey {
    /// The file whose content it gets: the path within the volume.
    pub object_name: String,
    /// The key.
    pub key: String,
}

impl Class {
    /// The name of one in an error.
    pub(super) fn object(namespace: &str, name: &str) -> Result<ObjectName, KubernetesError> {
        ObjectName::of_secrets_store(KIND, RESOURCE, namespace, name)
    }

    /// Where to read one.
    pub(super) fn resource() -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, "v1", KIND), RESOURCE)
    }

    /// Reads one as the API gives it. Fields that are not known are left out: a newer driver may have them.
    pub(super) fn read(object: &ObjectName, found: DynamicObject) -> Result<Self, KubernetesError> {
        let Wire { spec } = serde_json::from_value(found.data)
            .map_err(|error| KubernetesError::Malformed { object: object.clone(), problem: error.to_string() })?;
        let (namespace, name) = (object.namespace.clone(), object.name.clone());
        let WireSpec { provider, parameters, secret_objects } = spec.unwrap_or_default();
        let secret_objects = secret_objects.into_iter().flatten().map(SecretObject::from).collect();
        let (provider, parameters) = (provider.unwrap_or_default(), parameters.unwrap_or_default());
        Ok(Self { namespace, name, provider, parameters, secret_objects })
    }
}

#[derive(Deserialize)]
struct Wire {
    spec: Option<WireSpec>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSpec {
    provider: Option<String>,
    parameters: Option<BTreeMap<String, String>>,
    secret_objects: Option<Vec<WireSecret>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireSecret {
    secret_name: Option<String>,
    r#type: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    data: Option<Vec<WireKey>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireKey {
    object_name: Option<String>,
    key: Option<String>,
}

impl From<WireSecret> for SecretObject {
    fn from(wire: WireSecret) -> Self {
        // The Secrets Store driver takes names and types without the spaces around them.
        let trimmed = |text: Option<String>| text.unwrap_or_default().trim().to_owned();
        let key = |WireKey { object_name, key }| SecretKey { object_name: trimmed(object_name), key: trimmed(key) };
        Self {
            secret_name: trimmed(wire.secret_name),
            kind: trimmed(wire.r#type),
            labels: wire.labels.unwrap_or_default(),
            annotations: wire.annotations.unwrap_or_default(),
            data: wire.data.into_iter().flatten().map(key).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(spec: &serde_json::Value) -> Result<Class, KubernetesError> {
        let object = Class::object("shop", "app").unwrap();
        let mut found = DynamicObject::new("app", &Class::resource());
        found.data = json!({"spec": spec, "status": {"byPod": []}});
        Class::read(&object, found)
    }

    #[test]
    fn reads_what_is_known_and_leaves_the_rest() {
        let class = read(&json!({
            "provider": "aws",
            "parameters": {"objects": "- objectName: a\n", "region": "eu-west-1"},
            "secretObjects": [{
                "secretName": " app ", "type": "Opaque", "labels": {"a": "b"}, "syncEverything": true,
                "data": [{"objectName": "db/password", "key": "password", "since": 2}],
            }, {"secretName": "bare", "labels": null}],
            "somethingNew": {"x": 1},
        }));
        let class = class.unwrap();
        assert_eq!((class.provider.as_str(), class.parameters.len()), ("aws", 2));
        assert_eq!(class.secret_objects[0].secret_name, "app");
        assert_eq!(class.secret_objects[0].data[0].object_name, "db/password");
        assert_eq!(class.secret_objects[1], SecretObject { secret_name: "bare".to_owned(), ..SecretObject::default() });
    }

    #[test]
    fn an_empty_one_is_one_and_a_wrong_type_is_named() {
        assert_eq!(read(&json!(null)).unwrap().parameters.len(), 0);
        let error = read(&json!({"parameters": {"objects": ["a"]}})).unwrap_err().to_string();
        assert!(error.starts_with("SecretProviderClass shop/app cannot be used: invalid type"), "{error}");
    }
}
