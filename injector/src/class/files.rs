//! The files of the objects.

use std::collections::HashMap;

use coffer::file::{FileName, Mode};
use coffer::render::{Format, Selector};
use coffer::spec::{Access, Content, Failover, FileSpec, Naming, Wanted};

use super::error::{ClassError, Object};
use super::lint::Lint;
use super::object::{ClassObject, Permission};
use super::reference::{Store, reference};
use super::rules::{Checked, Regions};
use super::shown;

/// Most parameters of one call, which is as far as the provider confuses them (its `batchSize`).
const BATCH: usize = 10;

/// What stands for a `/` in the name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Translation {
    /// A character.
    To(char),
    /// The slash itself: files lie in folders.
    Off,
}

impl Translation {
    /// Reads `pathTranslation`.
    pub(super) fn read(text: &str) -> Result<Self, ClassError> {
        match *text.as_bytes() {
            [] => Ok(Self::To('_')),
            [one] => Ok(Self::To(one.into())),
            _ if text.to_lowercase() == "false" => Ok(Self::Off),
            _ => Err(ClassError::Translation { value: shown(text), bytes: text.len() }),
        }
    }

    /// The name of an object's file.
    pub(super) fn file_of(self, object: &ClassObject) -> String {
        self.apply(if object.alias.is_empty() { &object.name } else { &object.alias })
    }

    fn apply(self, name: &str) -> String {
        match self {
            Self::To(other) => name.replace('/', other.encode_utf8(&mut [0; 4])),
            Self::Off => name.trim_start_matches('/').to_owned(),
        }
    }
}

pub(super) fn make(
    objects: &[Checked],
    translation: Translation,
    regions: Regions<'_>,
    default_mode: Mode,
    lints: &mut Vec<Lint>,
) -> Result<Vec<FileSpec>, ClassError> {
    let mut making = Making { files: Vec::new(), owners: Vec::new(), taken: HashMap::new(), lints };
    for Checked { object, store } in objects {
        let wanted = making.wanted(object, *store, regions)?;
        let mode = making.mode(object, &object.permission, default_mode);
        let whole = Content::Value { wanted: wanted.clone(), select: None, format: Format::Raw };
        making.add(object, &translation.file_of(object), whole, mode)?;
        for path in &object.paths {
            let select = Selector::strings_only(&path.path, &shown(&object.name), &shown(&path.alias))
                .map_err(|cause| ClassError::JmesPath { path: shown(&path.path), object: object.shown(), cause })?;
            let mode = making.mode(object, &path.permission, mode);
            let part = Content::Value { wanted: wanted.clone(), select: Some(select), format: Format::Raw };
            making.add(object, &translation.apply(&path.alias), part, mode)?;
        }
    }
    making.tell_of_lost_parameters(objects);
    Ok(making.files)
}

struct Making<'l> {
    files: Vec<FileSpec>,
    /// Whose each file is.
    owners: Vec<Object>,
    /// Names that are taken, and the folders that they lie in: the file each stands for.
    taken: HashMap<String, Taken>,
    lints: &'l mut Vec<Lint>,
}

enum Taken {
    File(usize),
    Folder(usize),
}

impl Making<'_> {
    /// What an object asks for, and what stands in for it in the other region.
    fn wanted(&mut self, object: &ClassObject, store: Store, regions: Regions<'_>) -> Result<Wanted, ClassError> {
        let ClassObject { name, version, label, failover, .. } = object;
        let refused = |why| ClassError::Reference { object: object.shown(), why };
        let primary = reference(store, name, version, label).map_err(refused)?;
        if store == Store::Secrets && !version.is_empty() && !label.is_empty() {
            let text =
                "`objectVersionLabel` does nothing beside `objectVersion`, which says the version already: keep one";
            self.lints.push(Lint::new(object.shown(), text));
        }
        let other = match regions.failover {
            Some(_) if failover.name.is_empty() && name.starts_with("arn:") => {
                let text = "an ARN is of one region, and `failoverRegion` does nothing for it: add a `failoverObject` with the ARN \
                            of the other";
                self.lints.push(Lint::new(object.shown(), text));
                None
            }
            Some(region) => {
                let or = |own: &str, else_: &str| if own.is_empty() { else_.to_owned() } else { own.to_owned() };
                let (name, version) = (or(&failover.name, name), or(&failover.version, version));
                let reference = reference(store, &name, &version, &or(&failover.label, label))
                    .map_err(|why| refused(format!("in its `failoverObject`, {why}")))?;
                Some(Box::new(Failover { reference, region: region.to_owned() }))
            }
            None => {
                if !failover.version.is_empty() || !failover.label.is_empty() {
                    let text =
                        "`failoverObject` does nothing without the parameter `failoverRegion`: add it, or remove both";
                    self.lints.push(Lint::new(object.shown(), text));
                }
                None
            }
        };
        let access = Access { region: Some(regions.primary.to_owned()), role: None };
        Ok(Wanted { reference: primary, access, failover: other })
    }

    fn mode(&mut self, object: &ClassObject, permission: &Permission, default: Mode) -> Mode {
        // Four octal digits, or none.
        let Ok(bits) = u32::from_str_radix(&permission.read, 8) else { return default };
        if bits > 0o777 {
            let text = format!(
                "`filePermission: {}` sets more than permissions, and only its last three digits count: write \"0{:03o}\"",
                permission.read,
                bits & 0o777
            );
            self.lints.push(Lint::new(object.shown(), text));
        }
        Mode::new(bits & 0o777).unwrap_or(default)
    }

    fn add(&mut self, object: &ClassObject, name: &str, content: Content, mode: Mode) -> Result<(), ClassError> {
        let file = FileName::new(name).map_err(|cause| ClassError::FileName {
            object: object.shown(),
            file: shown(name),
            cause,
        })?;
        let spec = FileSpec { naming: Naming::File(file), content, mode, optional: false };
        let shown_name = shown(name);
        match self.taken.get(name) {
            Some(Taken::File(other)) if self.files[*other] == spec => {
                let text = format!("it is the file `{shown_name}` of {} once more: remove one", self.owners[*other]);
                self.lints.push(Lint::new(object.shown(), text));
                return Ok(());
            }
            Some(Taken::File(other)) => {
                let other = self.owners[*other].clone();
                return Err(ClassError::OneFile { object: object.shown(), other, file: shown_name });
            }
            Some(Taken::Folder(below)) => return Err(self.folder(object, &shown_name, *below)),
            None => {}
        }
        let folders: Vec<&str> = name.match_indices('/').map(|(at, _)| &name[..at]).collect();
        for folder in &folders {
            if let Some(Taken::File(above)) = self.taken.get(*folder) {
                return Err(self.folder(object, &shown_name, *above));
            }
        }
        if name.contains('"') {
            let text =
                format!("the quotes are part of the file's name, `{shown_name}`: remove them from `objectAlias`");
            self.lints.push(Lint::new(object.shown(), text));
        }
        let at = self.files.len();
        for folder in folders {
            self.taken.entry(folder.to_owned()).or_insert(Taken::Folder(at));
        }
        self.taken.insert(name.to_owned(), Taken::File(at));
        self.files.push(spec);
        self.owners.push(object.shown());
        Ok(())
    }

    fn folder(&self, object: &ClassObject, file: &str, other: usize) -> ClassError {
        let taken = shown(&self.files[other].naming.to_string());
        ClassError::Folder { object: object.shown(), file: file.to_owned(), other: self.owners[other].clone(), taken }
    }

    /// The provider keys what it asks for by the bare name, and writes one file for several versions of a parameter
    /// in one call.
    fn tell_of_lost_parameters(&mut self, objects: &[Checked]) {
        let parameters: Vec<&ClassObject> = objects
            .iter()
            .filter(|checked| checked.store == Store::Parameters)
            .map(|checked| &checked.object)
            .collect();
        for call in parameters.chunks(BATCH) {
            for (at, object) in call.iter().enumerate() {
                if let Some(later) = call[at + 1..].iter().find(|later| later.name == object.name) {
                    let text = format!(
                        "its file is written here, and missing with AWS's own provider, which takes object {} for the same: do not go \
                         back with both",
                        later.number
                    );
                    self.lints.push(Lint::new(object.shown(), text));
                }
            }
        }
    }
}
