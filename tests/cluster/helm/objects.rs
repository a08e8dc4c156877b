//! Everything that an API server has, by what it says of itself.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use bed::{cluster::Api, eventually};
use serde_json::Value;

use crate::fixture::SOON;

/// A kind of object, or something below one, such as `pods/log`.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub(super) group: String,
    pub(super) name: String,
    pub(super) namespaced: bool,
    version: String,
    verbs: Vec<String>,
}

/// The objects of a cluster, each by its resource, its namespace and its name.
pub(super) type Objects = BTreeMap<String, Value>;

impl Resource {
    /// All that the API server serves, each in one of its versions.
    pub(super) async fn all(api: &Api) -> Result<Vec<Self>> {
        let mut versions = vec![(String::new(), "v1".to_owned())];
        let groups = api.get("/apis").await?;
        for group in groups["groups"].as_array().context("no groups")? {
            let name = group["name"].as_str().context("a group without a name")?;
            // The preferred one comes first.
            for version in group["versions"].as_array().into_iter().flatten() {
                versions.push((name.to_owned(), version["version"].as_str().unwrap_or_default().to_owned()));
            }
        }
        let (mut known, mut found) = (BTreeSet::new(), Vec::new());
        for (group, version) in versions {
            let served = api.get(&root(&group, &version)).await?;
            for resource in served["resources"].as_array().into_iter().flatten() {
                let name = resource["name"].as_str().context("a resource without a name")?.to_owned();
                if known.insert((group.clone(), name.clone())) {
                    let verbs = resource["verbs"].as_array().into_iter().flatten();
                    let verbs = verbs.filter_map(Value::as_str).map(str::to_owned).collect();
                    let namespaced = resource["namespaced"] == true;
                    found.push(Self { group: group.clone(), name, namespaced, version: version.clone(), verbs });
                }
            }
        }
        Ok(found)
    }

    /// As RBAC's own tools write it: `deployments.apps`, `pods/log`.
    pub(super) fn full_name(&self) -> String {
        full_name(&self.group, &self.name)
    }

    /// Its objects, in all namespaces.
    async fn objects(&self, api: &Api) -> Result<Vec<Value>> {
        let path = format!("{}/{}", root(&self.group, &self.version), self.name);
        // Of a kind that was defined a moment ago there is no list yet.
        let mut list = eventually(SOON, async || api.get(&path).await).await?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }
}

/// `deployments.apps`, `pods/log`.
pub(super) fn full_name(group: &str, name: &str) -> String {
    let (name, below) = name.split_once('/').map_or((name, String::new()), |(name, below)| (name, format!("/{below}")));
    if group.is_empty() { format!("{name}{below}") } else { format!("{name}.{group}{below}") }
}

fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// What the cluster has now, but for what is there to be gone by itself: events.
pub(super) async fn objects(api: &Api) -> Result<Objects> {
    let mut found = Objects::new();
    for resource in Resource::all(api).await? {
        // A deprecated list of the API server's own, which it makes up.
        let made_up = resource.name == "componentstatuses";
        if made_up || resource.name == "events" || !resource.verbs.iter().any(|verb| verb == "list") {
            continue;
        }
        for object in resource.objects(api).await? {
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
            found.insert(format!("{} {}/{}", resource.full_name(), text("namespace"), text("name")), object);
        }
    }
    Ok(found)
}
