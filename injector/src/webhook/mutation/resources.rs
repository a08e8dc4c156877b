//! What our containers ask of the node, and how large the volume may grow.

use serde_json::{Value, json};

use crate::webhook::annotations::{Content, Quantity, Resources, Wish};

use super::draft::{Container, Draft, Object};
use super::names::annotation;

const MIB: u64 = 1024 * 1024;
/// Of measured use (tests/size): some 9 MiB and next to no time.
const REQUESTS: [(&str, &str); 2] = [("cpu", "5m"), ("memory", "16Mi")];
/// Memory of a container beside what it writes to the volume, which counts for the one that writes.
const MEMORY_MIB: u64 = 32;
/// The least that a memory limit leaves beside the volume.
const MEMORY_LEAST_MIB: u64 = 16;
/// The volume's, where nobody can tell how much there will be.
const UNKNOWN_MIB: u64 = 16;
/// Room in the volume for folders, links and the rest of a page.
const HEADROOM: u64 = 64 * 1024;

/// The most that the volume may hold, in bytes, and why.
pub(super) fn size_limit(wish: &Wish) -> (u64, String) {
    if let Some(bytes) = wish.size_limit {
        return (bytes, "as `coffer.dev/size-limit` says".to_owned());
    }
    let known = if let Content::Inline(inline) = &wish.content { inline.most_bytes() } else { None };
    match known {
        // The old set and the new one are there at once; tmpfs keeps whole pages.
        Some(bytes) => {
            let bytes = bytes.saturating_mul(2).saturating_add(bytes / 8).saturating_add(HEADROOM);
            let bytes = bytes.div_ceil(MIB).saturating_mul(MIB);
            (bytes, "two sets of these files at their largest".to_owned())
        }
        None => (
            UNKNOWN_MIB * MIB,
            "how large the files may be is not known here; `coffer.dev/size-limit` can say it".to_owned(),
        ),
    }
}

/// Bytes as Kubernetes writes them.
pub(super) fn quantity(bytes: u64) -> String {
    for (size, suffix) in [(MIB * 1024, "Gi"), (MIB, "Mi"), (1024, "Ki")] {
        if bytes > 0 && bytes.is_multiple_of(size) {
            return format!("{}{suffix}", bytes / size);
        }
    }
    bytes.to_string()
}

/// Requests and limits of a container of ours that writes to a volume of this size.
pub(super) fn of_container(wish: &Resources, volume: u64, warnings: &mut Vec<String>) -> Value {
    let mut requests = wish.requests.clone();
    let mut limits = wish.limits.clone();
    let least = MEMORY_LEAST_MIB * MIB + volume;
    match limits.get("memory").and_then(amount) {
        Some(limit) => {
            if volume > 0 && limit.bytes().is_some_and(|limit| limit < least) {
                warnings.push(format!(
                    "{}: the files count to the memory of the container that writes them, up to {}; with a limit under {} it \
                     may be killed",
                    annotation("resources"),
                    quantity(volume),
                    quantity(least),
                ));
            }
        }
        None => {
            let ours = MEMORY_MIB * MIB + volume;
            // Never under what is asked for.
            let asked = requests.get("memory");
            let asked =
                asked.filter(|asked| amount(asked).and_then(|asked| asked.bytes()).is_some_and(|asked| asked > ours));
            let limit = asked.cloned().unwrap_or_else(|| json!(quantity(ours)));
            limits.insert("memory".to_owned(), limit);
        }
    }
    for (resource, default) in REQUESTS {
        if requests.contains_key(resource) {
            continue;
        }
        let limit = limits.get(resource).filter(|limit| amount(limit) < amount(&json!(default)));
        let request = limit.cloned().unwrap_or_else(|| json!(default));
        requests.insert(resource.to_owned(), request);
    }
    json!({ "requests": requests, "limits": limits })
}

/// Whether all containers ask for just what they may use at most, so that the pod is of the class Guaranteed.
fn is_guaranteed<'c>(mut containers: impl Iterator<Item = &'c Container>) -> bool {
    containers.all(|container| is_guaranteed_alone(&container.0))
}

/// What is to be said where our container changes the pod's class, or may not fit.
pub(super) fn tell_of_pod(draft: &Draft, ours: &[&Container], warnings: &mut Vec<String>) {
    // Those of the pod as a whole (Kubernetes 1.34) have to be no less than those of its containers together.
    if draft.spec.get("resources").is_some_and(|resources| resources.get("requests").is_some()) {
        warnings.push(format!(
            "{}: this pod has `resources` of its own, whose requests must have room for Coffer's container",
            annotation("resources")
        ));
    }
    let theirs = draft.init.iter().chain(draft.regular.iter());
    if !ours.is_empty() && is_guaranteed(theirs) && !is_guaranteed(ours.iter().copied()) {
        warnings.push(format!(
            "{}: this pod's quality of service was Guaranteed, and Coffer's container makes it Burstable; to keep it, \
             write equal requests and limits of cpu and memory",
            annotation("resources")
        ));
    }
}

fn is_guaranteed_alone(container: &Object) -> bool {
    ["cpu", "memory"].into_iter().all(|resource| {
        let of = |kind: &str| container.get("resources")?.get(kind)?.get(resource).and_then(amount);
        let (request, limit) = (of("requests"), of("limits"));
        limit.is_some_and(|limit| limit.milli() > 0 && request.is_none_or(|request| request == limit))
    })
}

/// A quantity of a manifest.
fn amount(quantity: &Value) -> Option<Quantity> {
    match quantity {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}
