//! The SecretProviderClass of AWS's provider for the Secrets Store CSI driver (ASCP), turned into files of the
//! sidecar's spec. Pure: text in, [`ClassFiles`] out.
//!
//! What that provider takes is taken, and what it refuses is refused in its words, to the letter and in its order,
//! with what helps after them. Its defects are not copied: where it loses a file, or two objects have one path, both
//! are served or the class is refused. Its rules are those of version 3.1.1, provider/secret_descriptor.go.
//!
//! ```text
//! parameters ──► yaml ──► object ──► rules ──► files
//!   a map        a tree   its fields  refused?  the spec
//! ```

mod error;
mod files;
mod lint;
pub mod manifest;
mod object;
mod reference;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use coffer::file::Mode;
use coffer::spec::FileSpec;
use coffer_runtime::aws::AddressType;

pub use self::error::{ClassError, Object};
pub use self::lint::Lint;
use self::lint::{Lints, nearest};
use self::object::Objects;
pub use crate::yaml::{Fault, Place};

/// The mode of files that the class gives none: the provider's own default (its README, `filePermission`).
pub const DEFAULT_MODE: u32 = 0o644;
/// Longest `objects` that is read, in bytes; Kubernetes stores no object longer than that.
const OBJECTS_MAX: usize = 1 << 20;
/// What the parameters of a class may be called.
const PARAMETERS: [&str; 6] =
    ["objects", "region", "failoverRegion", "pathTranslation", "usePodIdentity", "preferredAddressType"];

/// The parameters of a class, read as far as that goes without knowing the region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    objects: String,
    region: Option<String>,
    failover_region: Option<String>,
    translation: String,
    pod_identity: bool,
    address_type: AddressType,
    unknown: Vec<String>,
}

/// The files of a class, and what its author should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassFiles {
    /// The files, in the order of the class; the one of an object comes before those of its `jmesPath`.
    pub files: Vec<FileSpec>,
    /// Warnings; the files are right without mending any.
    pub lints: Vec<Lint>,
}

impl Parameters {
    /// Reads `attributes`: the parameters of the class, overlaid by the attributes of the pod's volume. Keys that the
    /// provider does not know are no error.
    pub fn read(attributes: &BTreeMap<String, String>) -> Result<Self, ClassError> {
        // Empty is absent, as in Go.
        let text = |key: &str| attributes.get(key).filter(|text| !text.is_empty());
        let named = |key| text(key).map(|name| region(key, name)).transpose();
        let (region, failover_region) = (named("region")?, named("failoverRegion")?);
        if let Some(region) = &region {
            refuse_same(region, failover_region.as_deref())?;
        }
        let pod_identity = text("usePodIdentity").map_or(Ok(false), |text| boolean(text))?;
        let objects = text("objects").cloned().unwrap_or_default();
        if objects.len() > OBJECTS_MAX {
            return Err(ClassError::TooLong { bytes: objects.len(), most: OBJECTS_MAX });
        }
        // A volume's own attributes stand among them, and what the kubelet adds.
        let is_foreign = |key: &str| key == "secretProviderClass" || key.contains('/') || PARAMETERS.contains(&key);
        Ok(Self {
            objects,
            region,
            failover_region,
            translation: text("pathTranslation").cloned().unwrap_or_default(),
            pod_identity,
            address_type: text("preferredAddressType")
                .and_then(|text| text.to_ascii_lowercase().parse().ok())
                .unwrap_or_default(),
            unknown: attributes.keys().filter(|key| !is_foreign(key)).cloned().collect(),
        })
    }

    /// The region that the class names.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// Whether the pod's identity comes from EKS Pod Identity, and not from a role of its service account.
    #[must_use]
    pub fn pod_identity(&self) -> bool {
        self.pod_identity
    }

    /// Which address of the Pod Identity agent is asked.
    #[must_use]
    pub fn address_type(&self) -> AddressType {
        self.address_type
    }

    /// The files of the class in `region`, which is [`Self::region`] or else the node's. `default_mode` is that of
    /// files without `filePermission`: see [`DEFAULT_MODE`].
    pub fn files(&self, region: &str, default_mode: Mode) -> Result<ClassFiles, ClassError> {
        refuse_same(region, self.failover_region.as_deref())?;
        let translation = files::Translation::read(&self.translation)?;
        let Objects { entries, mut lints } = Objects::read(&self.objects)?;
        self.tell_of_parameters(&mut lints);
        let regions = rules::Regions { primary: region, failover: self.failover_region.as_deref() };
        let objects = rules::check(entries, translation, regions)?;
        let files = files::make(&objects, translation, regions, default_mode, &mut lints)?;
        Ok(ClassFiles { files, lints: lints.into_told() })
    }

    /// [`Self::files`] without a node: where the class names no region, it is that of its first ARN.
    fn files_anywhere(&self) -> Result<ClassFiles, ClassError> {
        let region = match &self.region {
            Some(region) => region.clone(),
            None => {
                Objects::read(&self.objects)?.region_of_arns().unwrap_or_else(|| "the-region-of-the-node".to_owned())
            }
        };
        // The bits of the default are no more than permissions.
        self.files(&region, Mode::new(DEFAULT_MODE).unwrap_or(Mode::DEFAULT))
    }

    fn tell_of_parameters(&self, lints: &mut Lints) {
        for key in &self.unknown {
            let fix = match nearest(key, &PARAMETERS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("remove it; known are {}", PARAMETERS.join(", ")),
            };
            let key = shown(key);
            lints.add("parameters", format!("`{key}` is no parameter of this provider and does nothing: {fix}"));
        }
    }
}

fn region(key: &'static str, name: &str) -> Result<String, ClassError> {
    if name.len() <= 64 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Ok(name.to_owned());
    }
    Err(ClassError::Region { key, name: shown(name) })
}

fn refuse_same(region: &str, failover: Option<&str>) -> Result<(), ClassError> {
    match failover == Some(region) {
        true => Err(ClassError::SameRegion { region: region.to_owned() }),
        false => Ok(()),
    }
}

/// Go's strconv.ParseBool.
fn boolean(text: &str) -> Result<bool, ClassError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(ClassError::PodIdentity { value: shown(text) }),
    }
}

/// A text of the class as a message quotes it: what is very long is cut, for messages go into headers and events.
fn shown(text: &str) -> String {
    const MOST: usize = 200;
    let mut shown: String = text
        .chars()
        .take(MOST)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}
