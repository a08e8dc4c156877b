//! What our containers ask of the node, and how large the volume may grow.

use serde_json::{Value, json};

use crate::webhook::annotations::{Content, Resources, Wish};

use super::draft::{Container, Draft, Object};
use super::names::annotation;
use super::quantity::{amount, bytes, canonical};

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
    if let Some(limit) = wish.size_limit {
        return (limit, "as `coffer.dev/size-limit` says".to_owned());
    }
    let known = if let Content::Inline(inline) = &wish.content { inline.most_bytes() } else { None };
    match known {
        // The old set and the new one are there at once; tmpfs keeps whole pages.
        Some(most) => {
            let most = most.saturating_mul(2).saturating_add(most / 8).saturating_add(HEADROOM);
            (most.div_ceil(MIB).saturating_mul(MIB), "two sets of these files at their largest".to_owned())
        }
        None => (
            UNKNOWN_MIB * MIB,
            "how large the files may be is not known here; `coffer.dev/size-limit` can say it".to_owned(),
        ),
    }
}

/// Requests and limits of a container of ours that writes to a volume of this size.
pub(super) fn of_container(wish: &Resources, volume: u64, warnings: &mut Vec<String>) -> Value {
    let all = |written: &Object| -> Object {
        written.iter().map(|(resource, amount)| (resource.clone(), canonical(amount))).collect()
    };
    let (mut requests, mut limits) = (all(&wish.requests), all(&wish.limits));
    // As Kubernetes does with a limit alone: whoever wants the class Guaranteed writes no more than that.
    for (resource, limit) in &limits {
        requests.entry(resource.clone()).or_insert_with(|| limit.clone());
    }
    let least = (MEMORY_LEAST_MIB * MIB).saturating_add(volume);
    match limits.get("memory").and_then(amount) {
        Some(limit) => {
            if volume > 0 && limit.bytes().is_some_and(|limit| limit < least) {
                warnings.push(format!(
                    "{}: raise `limits.memory` to {}, or Coffer may be killed: its files, up to {}, count to its memory",
                    annotation("resources"),
                    bytes(least),
                    bytes(volume),
                ));
            }
        }
        None => {
            // More than that is no quantity.
            let ours = (MEMORY_MIB * MIB).saturating_add(volume).min(i64::MAX.unsigned_abs());
            // Never under what is asked for.
            let asked = requests.get("memory");
            let asked =
                asked.filter(|asked| amount(asked).and_then(|asked| asked.bytes()).is_some_and(|asked| asked > ours));
            let limit = asked.cloned().unwrap_or_else(|| json!(bytes(ours)));
            limits.insert("memory".to_owned(), limit);
        }
    }
    for (resource, default) in REQUESTS {
        requests.entry(resource).or_insert_with(|| json!(default));
    }
    json!({ "requests": requests, "limits": limits })
}

/// What is to be said where our container changes the pod's class, or may not fit.
pub(super) fn tell_of_pod(draft: &Draft, ours: &[&Container], warnings: &mut Vec<String>) {
    let annotation = annotation("resources");
    // Those of the pod as a whole (Kubernetes 1.34) say its class, and those of its containers have to fit into them.
    if let Some(whole) = draft.spec.get("resources").filter(|whole| whole.is_object()) {
        let of = |resources: &Value, kind: &str, resource: &str| resources.get(kind)?.get(resource).and_then(amount);
        let is_over = |container: &&&Container, resource: &str| {
            let limit = container.0.get("resources").and_then(|ours| of(ours, "limits", resource));
            limit.zip(of(whole, "limits", resource)).is_some_and(|(limit, most)| limit > most)
        };
        let over = ["cpu", "memory"].into_iter().find(|resource| ours.iter().any(|one| is_over(&one, resource)));
        if let Some(resource) = over {
            warnings.push(format!(
                "{annotation}: raise the pod's own `resources.limits.{resource}`, or lower Coffer's: Kubernetes takes no \
                 container with more than its pod"
            ));
        }
        if whole.get("requests").is_some() {
            warnings.push(format!(
                "{annotation}: leave room for Coffer's container in the pod's own `resources.requests`: Kubernetes takes \
                 none under the sum of its containers"
            ));
        }
        return;
    }
    let mut theirs = draft.init.iter().chain(draft.regular.iter());
    if !ours.is_empty() && theirs.all(is_guaranteed) && !ours.iter().copied().all(is_guaranteed) {
        warnings.push(format!(
            "{annotation}: write equal requests and limits of cpu and memory, or Coffer's container makes this pod, whose \
             quality of service was Guaranteed, Burstable"
        ));
    }
}

/// Whether a container asks for just what it may use at most, so that the pod is of the class Guaranteed.
fn is_guaranteed(container: &Container) -> bool {
    ["cpu", "memory"].into_iter().all(|resource| {
        let of = |kind: &str| container.0.get("resources")?.get(kind)?.get(resource).and_then(amount);
        let (request, limit) = (of("requests"), of("limits"));
        limit.is_some_and(|limit| limit.milli() > 0 && request.is_none_or(|request| request == limit))
    })
}
