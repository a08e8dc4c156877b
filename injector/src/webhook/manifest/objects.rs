//! Pods, templates for pods and service accounts among the objects of manifests.

use serde_json::Value;

use super::super::annotations::PREFIX;

/// The annotation of a service account that names its role.
const ROLE: &str = "eks.amazonaws.com/role-arn";
/// As deep as lists may hold lists: nobody writes one in another.
const DEPTH: usize = 4;

/// A pod or a template of an object.
pub(super) struct Found {
    /// What it is of.
    pub(super) name: String,
    /// Where it stands in the object: a JSON Pointer.
    pub(super) pointer: String,
    pub(super) namespace: Option<String>,
    /// The names of the volumes that a controller adds to each pod, as claims.
    pub(super) claims: Vec<String>,
}

/// All pods and templates of an object.
pub(super) fn pods(object: &Value) -> Vec<Found> {
    let mut found = Vec::new();
    each(object, &mut |object, pointer| {
        let kind = text(object, "/kind").unwrap_or_default();
        let place = match kind {
            "Pod" => "",
            "CronJob" => "/spec/jobTemplate/spec/template",
            "PodTemplate" => "/template",
            "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" | "ReplicationController" => {
                "/spec/template"
            }
            // Of kinds that Kubernetes itself does not have, such as a Rollout: what looks like a template is one.
            _ if object.pointer("/spec/template/spec/containers").is_some() => "/spec/template",
            _ => return,
        };
        if object.pointer(place).is_some() {
            let namespace = text(object, "/metadata/namespace").map(str::to_owned);
            let claims = object.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array);
            let claims = claims.into_iter().flatten().filter_map(|claim| text(claim, "/metadata/name"));
            let claims = claims.map(str::to_owned).collect();
            found.push(Found { name: name(object, kind), pointer: format!("{pointer}{place}"), namespace, claims });
        }
    });
    found
}

/// Annotations of ours where nobody reads them: in the metadata of an object that holds a template, or among labels. One
/// sentence each, with the object's name.
pub fn misplaced(object: &Value) -> Vec<String> {
    let mut told = Vec::new();
    each(object, &mut |object, _| {
        let kind = text(object, "/kind").unwrap_or_default();
        let template = pods(object).into_iter().next().map(|found| found.pointer);
        let Some(template) = template else { return };
        let place = format!("{template}/metadata/annotations");
        let right = place[1..].replace('/', ".");
        let mut look = |pointer: &str, stands: &str| {
            let entries = object.pointer(pointer).and_then(Value::as_object);
            let ours = entries.into_iter().flat_map(|entries| entries.keys()).find(|key| key.starts_with(PREFIX));
            if let Some(ours) = ours {
                let ours: String = ours.chars().take(100).collect::<String>().escape_debug().collect();
                let name = name(object, kind);
                told.push(format!("{name}: `{ours}` stands {stands}, where nobody reads it; write it in {right}"));
            }
        };
        if !template.is_empty() {
            look("/metadata/annotations", &format!("in the {kind}'s own metadata"));
            look("/metadata/labels", &format!("among the {kind}'s own labels"));
            look(&format!("{template}/metadata/labels"), "among the labels of its pods");
        } else {
            look("/metadata/labels", "among the pod's labels");
        }
    });
    told
}

/// Calls `visit` with an object, or with each object of a list, and where it stands.
fn each<'v>(object: &'v Value, visit: &mut impl FnMut(&'v Value, &str)) {
    fn go<'v>(object: &'v Value, pointer: &str, depth: usize, visit: &mut impl FnMut(&'v Value, &str)) {
        let is_list = text(object, "/kind").is_some_and(|kind| kind.ends_with("List"));
        match object.get("items").and_then(Value::as_array).filter(|_| is_list && depth < DEPTH) {
            Some(items) => {
                for (at, item) in items.iter().enumerate() {
                    go(item, &format!("{pointer}/items/{at}"), depth + 1, visit);
                }
            }
            None => visit(object, pointer),
        }
    }
    go(object, "", 0, visit);
}

fn text<'v>(object: &'v Value, pointer: &str) -> Option<&'v str> {
    object.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
}

fn name(object: &Value, kind: &str) -> String {
    let generated = || text(object, "/metadata/generateName").map(|start| format!("{start}…"));
    let name = text(object, "/metadata/name").map(str::to_owned).or_else(generated);
    let name = name.unwrap_or_else(|| "(without a name)".to_owned());
    let name = match text(object, "/metadata/namespace") {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    };
    name.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// The service accounts of manifests, and their roles.
pub(super) struct Accounts(Vec<Account>);

struct Account {
    namespace: Option<String>,
    name: String,
    role: String,
}

impl Accounts {
    pub(super) fn of<'v>(objects: impl Iterator<Item = &'v Value>) -> Self {
        let mut accounts = Vec::new();
        for object in objects {
            each(object, &mut |object, _| {
                let role =
                    object.pointer("/metadata/annotations").and_then(|annotations| annotations.get(ROLE)?.as_str());
                if let (Some("ServiceAccount"), Some(name), Some(role)) =
                    (text(object, "/kind"), text(object, "/metadata/name"), role)
                {
                    let namespace = text(object, "/metadata/namespace").map(str::to_owned);
                    accounts.push(Account { namespace, name: name.to_owned(), role: role.to_owned() });
                }
            });
        }
        Self(accounts)
    }

    /// The role of an account. Where one of both leaves its namespace open, it is taken to be the same.
    pub(super) fn role(&self, wanted: &str, namespace: Option<&str>) -> Option<&str> {
        let fits = |account: &&Account| {
            account.name == wanted
                && (account.namespace.is_none() || namespace.is_none() || account.namespace.as_deref() == namespace)
        };
        let exact = self.0.iter().filter(fits).find(|account| account.namespace.as_deref() == namespace);
        exact.or_else(|| self.0.iter().find(fits)).map(|account| account.role.as_str())
    }
}
