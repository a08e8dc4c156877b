//! A Secret as the API has it, and what it lacks.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Deserialize;
use serde_json::json;

use super::body::{self, Wiped};
use super::plan::Wanted;
use super::{KubernetesError, MANAGED, SyncError};
use crate::kubernetes::ObjectName;

/// A Secret; its values stay where the answer is.
#[derive(Deserialize)]
pub(super) struct Stored<'a> {
    metadata: ObjectMeta,
    #[serde(borrow)]
    data: Option<BTreeMap<&'a str, &'a str>>,
    r#type: Option<String>,
    immutable: Option<bool>,
}

/// What is to be sent.
pub(super) struct Change {
    pub(super) body: Wiped,
    /// The uids of its owners from then on.
    pub(super) owners: BTreeSet<String>,
}

impl<'a> Stored<'a> {
    pub(super) fn read(object: &ObjectName, answer: &'a Wiped) -> Result<Self, SyncError> {
        serde_json::from_slice(answer.as_ref()).map_err(|_| SyncError::Api {
            secret: object.clone(),
            // What it could not read may be a value.
            source: KubernetesError::Malformed {
                object: object.clone(),
                problem: "the API server's answer is not a Secret".to_owned(),
            },
        })
    }

    /// The uids of its owners.
    pub(super) fn owners(&self) -> BTreeSet<String> {
        self.metadata.owner_references.iter().flatten().map(|owner| owner.uid.clone()).collect()
    }

    /// What makes it as it should be; nothing if it is.
    ///
    /// What others added to it stays: labels, annotations, owners. Its data are all its class's.
    pub(super) fn change(&self, wanted: &Wanted, owners: &[OwnerReference]) -> Result<Option<Change>, SyncError> {
        let secret = || wanted.object.clone();
        let labels = self.metadata.labels.as_ref();
        if labels.and_then(|labels| labels.get(MANAGED)).map(String::as_str) != Some("true") {
            return Err(SyncError::NotOurs { secret: secret() });
        }
        let found = self.r#type.as_deref().unwrap_or("Opaque");
        if found != wanted.kind {
            let (found, wanted) = (found.to_owned(), wanted.kind.clone());
            return Err(SyncError::TypeDiffers { secret: secret(), found, wanted });
        }
        let data = self.data.iter().flatten().map(|(key, value)| (*key, *value));
        let same_data = data.eq(wanted.data.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        if !same_data && self.immutable == Some(true) {
            return Err(SyncError::Immutable { secret: secret() });
        }
        let uids = self.owners();
        let new_owners: Vec<_> = owners.iter().filter(|owner| !uids.contains(&owner.uid)).collect();
        if same_data
            && new_owners.is_empty()
            && holds(labels, &wanted.labels)
            && holds(self.metadata.annotations.as_ref(), &wanted.annotations)
        {
            return Ok(None);
        }
        let all_owners: Vec<_> = self.metadata.owner_references.iter().flatten().chain(new_owners).collect();
        // The version makes it fail if another writes in between.
        let metadata = json!({
            "resourceVersion": self.metadata.resource_version,
            "labels": wanted.labels,
            "annotations": wanted.annotations,
            "ownerReferences": all_owners,
        });
        let keys = self.data.iter().flatten().map(|(key, _)| *key);
        let gone: Vec<_> = keys.filter(|key| !wanted.data.contains_key(*key)).collect();
        let owners = all_owners.iter().map(|owner| owner.uid.clone()).collect();
        Ok(Some(Change { body: body::change(&metadata, wanted, &gone), owners }))
    }
}

fn holds(found: Option<&BTreeMap<String, String>>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| found.and_then(|found| found.get(key)) == Some(value))
}
