//! Volumes that a pod has and its template does not: those of a StatefulSet's `volumeClaimTemplates`.

use serde_json::{Value, json};

/// Claims that the controller adds to each pod, in the place of a volume of that name (pkg/controller/statefulset,
/// `updateStorage`).
pub(super) struct Claims<'c> {
    /// Those that no volume of the template stands for.
    names: Vec<&'c str>,
    /// Whether the template has a list of volumes.
    has_list: bool,
}

impl<'c> Claims<'c> {
    /// Of a template.
    pub(super) fn of(names: &'c [String], template: &Value) -> Self {
        let volumes = template.pointer("/spec/volumes").and_then(Value::as_array);
        let is_there =
            |name: &&str| volumes.is_some_and(|volumes| volumes.iter().any(|volume| volume["name"] == **name));
        let names = names.iter().map(String::as_str).filter(|name| !is_there(name)).collect();
        Self { names, has_list: volumes.is_some() }
    }

    /// The template with them, as a pod comes to the webhook.
    pub(super) fn added(&self, template: &Value) -> Value {
        let mut pod = template.clone();
        let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut).filter(|_| !self.names.is_empty()) else {
            return pod;
        };
        let volumes = spec.entry("volumes").or_insert(Value::Null);
        if volumes.is_null() {
            *volumes = json!([]);
        }
        // Anything else than a list is told of as it is.
        if let Some(volumes) = volumes.as_array_mut() {
            let claim = |name: &&str| json!({ "name": name, "persistentVolumeClaim": { "claimName": name } });
            volumes.extend(self.names.iter().map(claim));
        }
        pod
    }

    /// Takes them out again.
    pub(super) fn remove(&self, pod: &mut Value) {
        let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut).filter(|_| !self.names.is_empty()) else {
            return;
        };
        let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) else { return };
        let is_claim = |volume: &Value| self.names.iter().any(|name| volume["name"] == **name);
        volumes.retain(|volume| !is_claim(volume));
        if volumes.is_empty() && !self.has_list {
            spec.shift_remove("volumes");
        }
    }
}
