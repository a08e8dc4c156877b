//! Which resources are encrypted.

use super::fields::Fields;
use super::yaml::Kind;
use super::{Finding, Group, Place};

/// The name of a resource with its group, such as `secrets`, `*.` or `pandas.example.com`.
pub(super) struct Resource {
    pub(super) place: Place,
    pub(super) name: String,
}

impl Resource {
    /// The resource and its group; the core group has no name (`schema.ParseGroupResource`).
    fn parts(&self) -> (&str, &str) {
        self.name.split_once('.').unwrap_or((&self.name, ""))
    }

    /// Whether Secrets are among it.
    pub(super) fn covers_secrets(&self) -> bool {
        matches!(self.parts(), ("secrets" | "*", "") | ("*", "*")) && self.name != "*"
    }

    /// Whether all of `other` is among it.
    fn covers(&self, other: &Self) -> bool {
        let (resource, group) = self.parts();
        self.name == "*.*" || (resource == "*" && self.name != "*" && group == other.parts().1)
    }
}

/// The resources of one entry, each looked at by itself and beside the others.
pub(super) fn read(entry: &Fields<'_>, findings: &mut Vec<Finding>) -> Vec<Resource> {
    let mut resources: Vec<Resource> = Vec::new();
    for node in entry.list("resources", "an entry of `resources`", findings) {
        let Kind::Text(name) = &node.kind else {
            let what = format!("a resource is {}", node.kind.noun());
            findings.push(Finding::fail(what, "write its name, such as `secrets`").at(node.place));
            continue;
        };
        let resource = Resource { place: node.place, name: name.to_string() };
        findings.extend(check(&resource).map(|finding| finding.at(resource.place)));
        findings.extend(check_beside(&resource, &resources).map(|finding| finding.at(resource.place)));
        resources.push(resource);
    }
    resources
}

fn check(resource: &Resource) -> Option<Finding> {
    let name = &resource.name;
    let refused = |why: &str, fix: String| {
        Some(Finding::fail(format!("resource `{name}`: {why}, and an API server does not start with it"), fix))
    };
    let ineffective =
        |fix: String| Some(Finding::warn(format!("there is no resource `{name}`: nothing is encrypted for it"), fix));
    if name.chars().any(char::is_uppercase) {
        return refused(
            "it has capital letters",
            format!("write the plural in small letters, such as `{}s`", name.to_lowercase()),
        );
    }
    match (name.as_str(), resource.parts()) {
        ("*", _) => {
            refused("the group is missing", "write `*.` for all of the core group, `*.*` for everything".to_owned())
        }
        ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", _) => {
            refused("it is no part of the API", "take it out".to_owned())
        }
        (_, (_, "events.k8s.io")) => refused("events are stored in the core group", "write `events`".to_owned()),
        (_, (_, "extensions")) => {
            refused("there is no such group any more", "write the group that the resource is in today".to_owned())
        }
        (_, (resource, "*")) if resource != "*" => {
            refused("one resource of every group cannot be told", "write its group out".to_owned())
        }
        // The mistakes that an API server takes without a word.
        ("secret" | "configmap", _) => ineffective(format!("write `{name}s`")),
        (_, (resource @ ("secrets" | "configmaps"), group)) if !group.is_empty() => {
            ineffective(format!("write `{resource}`: the core group has no name"))
        }
        _ => None,
    }
}

fn check_beside(resource: &Resource, earlier: &[Resource]) -> Option<Finding> {
    let name = &resource.name;
    let no_start = "an API server does not start with it";
    if earlier.iter().any(|other| other.parts() == resource.parts()) {
        return Some(Finding::fail(
            format!("resource `{name}` stands here for the second time, and {no_start}"),
            "keep one",
        ));
    }
    let other = earlier.iter().find(|other| resource.covers(other) || other.covers(resource))?;
    let what = format!("the resources `{}` and `{name}` overlap in one list, and {no_start}", other.name);
    Some(Finding::fail(what, "give the narrower one an entry of its own, above the other"))
}

/// Looks at all entries together: who hides whom, and whether Secrets are encrypted at all.
pub(super) fn check_groups(groups: &[Group], findings: &mut Vec<Finding>) {
    for (nth, group) in groups.iter().enumerate() {
        for resource in &group.resources {
            let earlier = groups[..nth].iter().flat_map(|group| &group.resources);
            for other in earlier {
                let (name, line) = (&resource.name, other.place.line);
                if other.covers(resource) {
                    let what = format!(
                        "`{}` in line {line} hides `{name}`, and an API server does not start with it",
                        other.name
                    );
                    findings.push(Finding::fail(what, "put this entry above that one").at(resource.place));
                } else if other.parts() == resource.parts() {
                    let what = format!("`{name}` stands in line {line} too: the providers there come first");
                    findings.push(Finding::warn(what, "keep all its providers in one entry").at(resource.place));
                }
            }
        }
    }
    let has_resources = groups.iter().any(|group| !group.resources.is_empty());
    if has_resources && !groups.iter().flat_map(|group| &group.resources).any(Resource::covers_secrets) {
        let fix = "add `secrets` to the resources of an entry";
        findings.push(Finding::warn("Secrets are not among the resources: they are stored in the clear", fix));
    }
}
