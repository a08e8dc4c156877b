//! What is ours and was there before, made anew.
//!
//! Between two passes the API server fills in defaults and other webhooks add their own: what says all that is
//! wanted stays as it is, so that a second pass of nothing new changes nothing.

use serde_json::Value;

use super::draft::{Container, Object, name_of};
use super::identity;
use super::names::VOLUMES;

/// Variables that are ours in our containers. Those of AWS may be another webhook's, see [`identity::is_ours`].
const VARIABLES: [&str; 3] = ["COFFER_LISTEN", "POD_NAME", "POD_NAMESPACE"];

/// Whether `former` says all that `wanted` says; it may say more.
pub(super) fn covers_object(former: &Object, wanted: &Object) -> bool {
    wanted.iter().all(|(key, wanted)| former.get(key).is_some_and(|former| covers(former, wanted)))
}

fn covers(former: &Value, wanted: &Value) -> bool {
    match (former, wanted) {
        (Value::Object(former), Value::Object(wanted)) => covers_object(former, wanted),
        (Value::Array(former), Value::Array(wanted)) => {
            former.len() == wanted.len() && former.iter().zip(wanted).all(|(former, wanted)| covers(former, wanted))
        }
        (former, wanted) => former == wanted,
    }
}

/// A volume of ours.
pub(super) fn volume(former: &Object, wanted: Object) -> Object {
    if covers_object(former, &wanted) { former.clone() } else { wanted }
}

/// A container of ours, with the variables and mounts that others gave it.
pub(super) fn container(former: &Container, wanted: Container) -> Container {
    let mut wanted = wanted;
    let owned = identity::owned(former);
    let is_others_variable = |name: &str| !VARIABLES.contains(&name) && !owned.contains(&name);
    merge(former, &mut wanted, "env", is_others_variable);
    merge(former, &mut wanted, "volumeMounts", |name| !VOLUMES.contains(&name));
    if covers_object(&former.0, &wanted.0) { former.clone() } else { wanted }
}

/// In the order in which they stood.
fn merge(former: &Container, wanted: &mut Container, key: &str, is_others: impl Fn(&str) -> bool) {
    let list = |container: &Container| container.words(key);
    let name = |item: &Value| item.as_object().map(name_of).unwrap_or_default().to_owned();
    let mut left = list(wanted);
    let mut merged = Vec::new();
    for item in list(former) {
        let its_name = name(&item);
        if let Some(at) = left.iter().position(|wanted| name(wanted) == its_name) {
            let wanted = left.remove(at);
            merged.push(if covers(&item, &wanted) { item } else { wanted });
        } else if is_others(&its_name) {
            merged.push(item);
        }
    }
    merged.extend(left);
    if !merged.is_empty() {
        wanted.0.insert(key.to_owned(), Value::Array(merged));
    }
}
