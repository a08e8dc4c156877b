//! What the provider refuses, in its order: the first mistake is the one that is told.

use std::collections::HashMap;

use super::error::{ClassError, Object};
use super::files::Translation;
use super::lint::nearest;
use super::object::{ClassObject, Permission};
use super::reference::Store;
use super::shown;

/// Where a class looks.
#[derive(Clone, Copy)]
pub(super) struct Regions<'r> {
    pub(super) primary: &'r str,
    pub(super) failover: Option<&'r str>,
}

/// An object that the provider takes.
pub(super) struct Checked {
    pub(super) object: ClassObject,
    pub(super) store: Store,
}

pub(super) fn check(
    entries: Vec<Option<ClassObject>>,
    translation: Translation,
    regions: Regions<'_>,
) -> Result<Vec<Checked>, ClassError> {
    if entries.is_empty() {
        return Err(ClassError::Nothing);
    }
    let mut seen = Seen::default();
    let mut checked = Vec::with_capacity(entries.len());
    for (at, entry) in entries.into_iter().enumerate() {
        let object = entry.ok_or(ClassError::EmptyEntry { number: at + 1 })?;
        let store = check_object(&object, translation, regions)?;
        seen.add(&object)?;
        checked.push(Checked { object, store });
    }
    Ok(checked)
}

fn check_object(object: &ClassObject, translation: Translation, regions: Regions<'_>) -> Result<Store, ClassError> {
    let (name, shown_object) = (shown(&object.name), object.shown());
    if object.name.is_empty() {
        return Err(ClassError::NoName { object: shown_object });
    }
    let store = check_name(object, &object.name, regions.primary, "region")?;
    if store == Store::Parameters && !object.version.is_empty() && !object.label.is_empty() {
        return Err(ClassError::TwoVersions { name, object: shown_object, failover: false });
    }
    let file = translation.file_of(object);
    if file.contains("/../") || file.starts_with("../") || file.ends_with("/..") {
        return Err(ClassError::Climbs { name, object: shown_object, file: shown(&file) });
    }
    check_permission(object, &object.permission)?;
    for (at, path) in object.paths.iter().enumerate() {
        if path.path.is_empty() {
            return Err(ClassError::NoPath { object: shown_object, entry: at + 1 });
        }
        if path.alias.is_empty() {
            return Err(ClassError::NoAlias { object: shown_object, entry: at + 1 });
        }
        check_permission(object, &path.permission)?;
    }
    let failover = &object.failover;
    if failover.name.is_empty() {
        return Ok(store);
    }
    if object.alias.is_empty() {
        return Err(ClassError::FailoverAlias { name, object: shown_object });
    }
    let Some(region) = regions.failover else {
        return Err(ClassError::FailoverRegion { name, object: shown_object });
    };
    check_name(object, &failover.name, region, "failoverRegion")?;
    if store == Store::Parameters && !failover.version.is_empty() && !failover.label.is_empty() {
        return Err(ClassError::TwoVersions { name, object: shown_object, failover: true });
    }
    if failover.version != object.version {
        return Err(ClassError::FailoverVersion { name, object: shown_object });
    }
    Ok(store)
}

/// Where `name`, the object's own or the one of the other region, is to be found; `key` is the parameter that says
/// that it is in `region`.
fn check_name(object: &ClassObject, name: &str, region: &str, key: &'static str) -> Result<Store, ClassError> {
    let shown_object = object.shown();
    let mut service = "";
    let is_arn = name.starts_with("arn:");
    if is_arn {
        let parts: Vec<&str> = name.splitn(6, ':').collect();
        let [_, _, of_service, of_region, _, _] = parts[..] else {
            return Err(ClassError::Arn { name: shown(name), object: shown_object });
        };
        if of_region != region {
            let region = region.to_owned();
            return Err(ClassError::ArnRegion { region, name: shown(name), object: shown_object, key });
        }
        service = of_service;
    }
    let of_arn = match service {
        "secretsmanager" => Some(Store::Secrets),
        // `ssmparameter` is no service, but taken for one.
        "ssm" | "ssmparameter" => Some(Store::Parameters),
        _ => None,
    };
    let of_type = match object.kind.as_str() {
        "" if !is_arn => return Err(ClassError::NoType { name: shown(name), object: shown_object }),
        "" => {
            let service = shown(service);
            return of_arn.ok_or(ClassError::Service { service, name: shown(name), object: shown_object });
        }
        "secretsmanager" => Store::Secrets,
        "ssmparameter" => Store::Parameters,
        kind => {
            let known = ["secretsmanager", "ssmparameter"];
            let fix = match kind.to_ascii_lowercase().as_str() {
                "ssm" | "parameter" | "parameterstore" => "ssmparameter",
                other => nearest(other, &known).unwrap_or("secretsmanager` or `ssmparameter"),
            };
            return Err(ClassError::Type { kind: shown(kind), object: shown_object, fix });
        }
    };
    // Whatever is no service of theirs counts as a parameter there, and AWS refuses it; here it is no reference.
    if is_arn && of_type != of_arn.unwrap_or(Store::Parameters) {
        return Err(ClassError::TypeMismatch { name: shown(name), object: shown_object });
    }
    Ok(of_type)
}

fn check_permission(object: &ClassObject, permission: &Permission) -> Result<(), ClassError> {
    let text = permission.read.as_bytes();
    if text.is_empty() || (text.len() == 4 && text.iter().all(|digit| (b'0'..=b'7').contains(digit))) {
        return Ok(());
    }
    let (read, written) = (shown(&permission.read), permission.written.clone());
    Err(ClassError::Permission { read, written, object: object.shown() })
}

/// Names and aliases that came before.
#[derive(Default)]
struct Seen {
    /// By name, the last object of it only: what this misses is found where files are made.
    names: HashMap<String, (String, String, Object)>,
    aliases: HashMap<String, Object>,
}

impl Seen {
    fn add(&mut self, object: &ClassObject) -> Result<(), ClassError> {
        let ClassObject { name, alias, label, .. } = object;
        let last = self.names.insert(name.clone(), (alias.clone(), label.clone(), object.shown()));
        if let Some((last_alias, last_label, other)) = last
            && (last_alias, last_label) == (alias.clone(), label.clone())
        {
            let some = |text: &str| Some(shown(text)).filter(|text| !text.is_empty());
            let (name, alias, label) = (shown(name), some(alias), some(label));
            return Err(ClassError::Twice { name, alias, label, object: object.shown(), other });
        }
        if let Some(other) = self.aliases.get(alias) {
            let (alias, other) = (shown(alias), other.clone());
            return Err(ClassError::SameAlias { alias, object: object.shown(), other });
        }
        if !alias.is_empty() {
            self.aliases.insert(alias.clone(), object.shown());
        }
        for path in &object.paths {
            if let Some(other) = self.aliases.insert(path.alias.clone(), object.shown()) {
                let (alias, path) = (shown(&path.alias), shown(&path.path));
                return Err(ClassError::SamePathAlias { alias, path, object: object.shown(), other });
            }
        }
        Ok(())
    }
}
