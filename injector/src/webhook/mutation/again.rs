//! What is ours and was there before, made anew.
//!
//! Between two passes the API server fills in defaults, LimitRanger its own, and other webhooks give every container
//! something. That stays, field by field, and everything else is as it is wanted: so a second pass of nothing new
//! changes nothing, and nobody loosens what is ours.

use serde_json::{Map, Value};

use super::draft::{Container, Object, name_of};
use super::identity::Identity;
use super::names::VOLUMES;
use super::quantity;

/// Variables that are ours in our containers. Those of AWS may be another webhook's, see [`Identity::ousts`].
const VARIABLES: [&str; 3] = ["COFFER_LISTEN", "POD_NAME", "POD_NAMESPACE"];
/// What a container may have that we do not ask for.
const OTHERS: [&str; 4] = ["imagePullPolicy", "resizePolicy", "terminationMessagePath", "terminationMessagePolicy"];
/// What is merged by the names in it.
const LISTS: [&str; 2] = ["env", "volumeMounts"];
/// What the API server fills in elsewhere in what is ours.
const DEFAULTS: [&str; 3] = ["apiVersion", "defaultMode", "successThreshold"];
/// What holds quantities.
const QUANTITIES: [&str; 4] = ["cpu", "ephemeral-storage", "memory", "sizeLimit"];

/// A volume of ours.
pub(super) fn volume(former: &Object, wanted: &Object) -> Object {
    settled(former, wanted, &DEFAULTS)
}

/// A variable or a mount, as it was if it says the same.
pub(super) fn item(former: &Value, wanted: Value) -> Value {
    match (former, &wanted) {
        (Value::Object(former), Value::Object(wanted)) => Value::Object(settled(former, wanted, &DEFAULTS)),
        _ => wanted,
    }
}

/// A container of ours, with what others gave it.
pub(super) fn container(former: &Container, wanted: &Container, identity: &Identity) -> Container {
    let mut merged = Object::new();
    for (key, value) in &former.0 {
        match wanted.0.get(key) {
            Some(wanted) => {
                merged.insert(key.clone(), field(key, value, wanted));
            }
            None if OTHERS.contains(&key.as_str()) || LISTS.contains(&key.as_str()) => {
                merged.insert(key.clone(), value.clone());
            }
            None => {}
        }
    }
    for (key, value) in &wanted.0 {
        merged.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let is_others = |name: &str| !VARIABLES.contains(&name) && !identity.ousts(former, name);
    list(former, wanted, &mut merged, "env", is_others);
    list(former, wanted, &mut merged, "volumeMounts", |name| !VOLUMES.contains(&name));
    Container(merged)
}

/// A field that both have.
fn field(key: &str, former: &Value, wanted: &Value) -> Value {
    match (key, former, wanted) {
        // A mirror of images, and AlwaysPullImages, write their own.
        ("image" | "imagePullPolicy", Value::String(text), _) if !text.is_empty() => former.clone(),
        ("resources", Value::Object(former), Value::Object(wanted)) => Value::Object(resources(former, wanted)),
        ("securityContext", Value::Object(former), Value::Object(wanted)) => Value::Object(security(former, wanted)),
        _ => settled_value(key, former, wanted, &DEFAULTS),
    }
}

/// Quantities of ours, and those that LimitRanger gave of other resources.
fn resources(former: &Object, wanted: &Object) -> Object {
    let any = |_: &str, value: &Value| quantity::amount(value).is_some();
    let mut merged = Object::new();
    for kind in former.keys().chain(wanted.keys()).filter(|kind| matches!(kind.as_str(), "requests" | "limits")) {
        let of = |all: &Object| all.get(kind).and_then(Value::as_object).cloned().unwrap_or_default();
        merged.insert(kind.clone(), Value::Object(settled_if(&of(former), &of(wanted), any)));
    }
    merged
}

/// Ours, with what a cluster gives that has its own users and labels (OpenShift), and what says no more than the default.
fn security(former: &Object, wanted: &Object) -> Object {
    let is_harmless = |key: &str, value: &Value| match key {
        "runAsUser" => value.as_u64().is_some_and(|user| user > 0),
        "runAsGroup" => value.is_u64(),
        // `type` may be one that confines nothing.
        "seLinuxOptions" => value.as_object().is_some_and(|options| options.keys().all(|key| key == "level")),
        "procMount" => value == "Default",
        "privileged" => value == false,
        "appArmorProfile" => value.get("type").is_some_and(|kind| kind == "RuntimeDefault"),
        _ => false,
    };
    settled_if(former, wanted, is_harmless)
}

fn settled(former: &Object, wanted: &Object, kept: &[&str]) -> Object {
    settled_if(former, wanted, |key, _| kept.contains(&key))
}

/// `wanted` in the order of `former`, with what else of it `is_kept`.
fn settled_if(former: &Object, wanted: &Object, is_kept: impl Fn(&str, &Value) -> bool) -> Object {
    let mut settled = Map::new();
    for (key, value) in former {
        match wanted.get(key) {
            Some(wanted) => {
                settled.insert(key.clone(), settled_value(key, value, wanted, &DEFAULTS));
            }
            None if is_kept(key, value) => {
                settled.insert(key.clone(), value.clone());
            }
            None => {}
        }
    }
    for (key, value) in wanted {
        settled.entry(key.clone()).or_insert_with(|| value.clone());
    }
    settled
}

fn settled_value(key: &str, former: &Value, wanted: &Value, kept: &[&str]) -> Value {
    match (former, wanted) {
        (Value::Object(former), Value::Object(wanted)) => Value::Object(settled(former, wanted, kept)),
        (Value::Array(former), Value::Array(wanted)) if former.len() == wanted.len() => {
            former.iter().zip(wanted).map(|(former, wanted)| settled_value(key, former, wanted, kept)).collect()
        }
        (former, wanted) if QUANTITIES.contains(&key) && quantity::same(former, wanted) => former.clone(),
        (_, wanted) => wanted.clone(),
    }
}

/// Variables or mounts, in the order in which they stood.
fn list(former: &Container, wanted: &Container, into: &mut Object, key: &str, is_others: impl Fn(&str) -> bool) {
    let name = |item: &Value| item.as_object().map(name_of).unwrap_or_default().to_owned();
    let mut left = wanted.words(key);
    let mut merged = Vec::new();
    for former in former.words(key) {
        let its_name = name(&former);
        if let Some(at) = left.iter().position(|wanted| name(wanted) == its_name) {
            merged.push(item(&former, left.remove(at)));
        } else if is_others(&its_name) {
            merged.push(former);
        }
    }
    merged.extend(left);
    if merged.is_empty() {
        into.shift_remove(key);
    } else {
        into.insert(key.to_owned(), Value::Array(merged));
    }
}
