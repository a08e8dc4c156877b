//! The files that annotations list: all of them in `files`, or one in each `file.NAME`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use coffer::file::FileName;
use coffer::render::Selector;
use coffer::spec::{Reference, VolumeSpec};
use serde_json::{Map, Value};

use super::known::FILE;
use super::yaml::{self, tree};
use super::{Faults, PREFIX, shown};

/// Most bytes of `files` and of all `file.NAME` together.
const FILES_MAX: usize = 64 * 1024;
/// Longest name of an annotation without its prefix (apimachinery/pkg/util/validation, `IsQualifiedName`).
const ANNOTATION_NAME_MAX: usize = 63;

/// Files, each from one annotation.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// The other keys of a volume that `files` has as a mapping.
    pub(super) settings: Map<String, Value>,
    /// The files, and the annotation that each is from.
    pub(super) files: Vec<(String, Value)>,
    /// Known names, and the annotation that each is from.
    names: Vec<(FileName, String)>,
}

impl Listed {
    /// Reads all of them. What is wrong with each is told by its annotation's name.
    pub(super) fn read(annotations: &BTreeMap<String, String>) -> Result<Self, Vec<(String, Faults)>> {
        let mut read = Self::default();
        let mut wrong = Vec::new();
        let files = format!("{PREFIX}files");
        let mut room = FILES_MAX;
        if let Some(text) = annotations.get(&files) {
            room = room.saturating_sub(text.len());
            if let Err(faults) = read.list(&files, text) {
                wrong.push((files, faults));
            }
        }
        let start = format!("{PREFIX}{FILE}");
        let each = annotations.range(start.clone()..).take_while(|(key, _)| key.starts_with(&start));
        for (key, value) in each {
            let size = key.len() + value.len();
            if size > room {
                let text =
                    format!("the files listed in annotations take more than {FILES_MAX} bytes; {IN_A_CONFIG_MAP}");
                wrong.push((key.clone(), Faults::of(text)));
                break;
            }
            room -= size;
            if let Err(faults) = read.one(key, &key[start.len()..], value.trim()) {
                wrong.push((key.clone(), faults));
            }
        }
        if wrong.is_empty() { Ok(read) } else { Err(wrong) }
    }

    /// `files`: a list, or a mapping as a volume of the config file.
    fn list(&mut self, annotation: &str, text: &str) -> Result<(), Faults> {
        if text.trim().is_empty() {
            return Err(Faults::empty("files"));
        }
        if text.len() > FILES_MAX {
            return Err(Faults::of(format!("holds {} bytes, and may hold {FILES_MAX}; {IN_A_CONFIG_MAP}", text.len())));
        }
        // First, for it bounds what aliases may repeat.
        let tree = match tree(text) {
            Err(yaml::Fault::TooLarge) => {
                return Err(Faults::of(format!("has too many parts, or aliases that repeat them; {IN_A_CONFIG_MAP}")));
            }
            tree => tree,
        };
        let spec = VolumeSpec::parse(annotation, text, Path::new(super::mount_path::DEFAULT), Duration::from_secs(60));
        let spec = spec.map_err(|error| {
            let mut faults = Faults::default();
            for problem in error.problems {
                let place = (problem.place.line, problem.place.column);
                faults.at(place, format!("{}{}", problem.text, elsewhere(&problem.text)));
            }
            faults
        });
        let spec = spec.map_err(|faults| tree.as_ref().ok().and_then(misshapen).unwrap_or(faults))?;
        let known = spec.files.iter().flat_map(|file| file.naming.known(&file.content));
        self.names.extend(known.map(|name| (name, annotation.to_owned())));
        let files = match tree {
            Ok(Value::Array(files)) => files,
            Ok(Value::Object(mut settings)) => {
                let files = settings.shift_remove("files");
                settings.retain(|_, value| !value.is_null());
                self.settings = settings;
                files.and_then(|files| files.as_array().cloned()).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        // What the sidecar's parser takes and a tree cannot hold, such as a number of forty digits as a name.
        if files.len() != spec.files.len() {
            return Err(Faults::of("cannot be carried over; write texts in quotes"));
        }
        self.files.extend(files.into_iter().map(|file| (annotation.to_owned(), file)));
        Ok(())
    }

    /// `file.NAME`: a reference, and perhaps what is to be selected.
    fn one(&mut self, annotation: &str, name: &str, value: &str) -> Result<(), Faults> {
        let mut faults = Faults::default();
        let name = file_name(name).map_err(|why| faults.add(why)).ok();
        let (reference, select) = match value.split_once('#') {
            Some((reference, select)) => (reference, Some(select)),
            None => (value, None),
        };
        match reference.parse() {
            _ if value.is_empty() => faults.0.extend(Faults::empty(FILE).0),
            Ok(Reference::Path(_)) => faults.add(format!(
                "`{}` gives many files, and this is one; name one parameter, or list the path in `{PREFIX}files`",
                shown(reference)
            )),
            Ok(Reference::Secret(_) | Reference::Parameter(_)) => {}
            Err(error) => faults.add(error.to_string()),
        }
        match select.map(Selector::new) {
            Some(Err(_)) if select == Some("") => {
                faults.add("nothing stands after the `#`; write the name of a field, or remove the `#`");
            }
            Some(Err(error)) => faults.add(format!("after the `#`: {error}")),
            Some(Ok(_)) | None => {}
        }
        if let Some(name) = &name
            && let Some((other, at)) = self.names.iter().find(|(other, _)| other.collides_with(name))
        {
            faults.add(match other == name {
                true => format!("the file `{name}` is listed in `{at}` too; keep one of them"),
                false => format!("`{name}` and `{other}` of `{at}` cannot both be: one is a folder of the other"),
            });
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let Some(name) = name else { return Ok(()) };
        let mut file = Map::new();
        file.insert("name".to_owned(), name.as_str().into());
        file.insert("from".to_owned(), reference.into());
        file.extend(select.map(|select| ("select".to_owned(), select.into())));
        self.files.push((annotation.to_owned(), Value::Object(file)));
        self.names.push((name, annotation.to_owned()));
        Ok(())
    }
}

const IN_A_CONFIG_MAP: &str = "put them into a ConfigMap and name it in `coffer.dev/config`";

/// The name of a file as the end of an annotation's name.
fn file_name(text: &str) -> Result<FileName, String> {
    let fix = format!("write it as `{PREFIX}{FILE}NAME`");
    if text.is_empty() {
        return Err(format!("there is no name after `{FILE}`; {fix}"));
    }
    let name = FileName::new(text).map_err(|error| format!("{error}; {fix}"))?;
    // The API server would refuse it in words of its own, and later.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let ends_well = text.ends_with(|c: char| c.is_ascii_alphanumeric());
    if !text.bytes().all(plain) || !ends_well || FILE.len() + text.len() > ANNOTATION_NAME_MAX {
        return Err(format!(
            "Kubernetes takes no annotation of that name: letters, digits, `-`, `_` and `.`, a letter or digit last, and \
             {} in all; list the file in `{PREFIX}files`",
            ANNOTATION_NAME_MAX - FILE.len()
        ));
    }
    Ok(name)
}

/// What is said of a tree of another shape than a volume's, where it can be told what was meant.
fn misshapen(tree: &Value) -> Option<Faults> {
    let entries = match tree {
        Value::Object(entries) => entries,
        Value::Array(list) => match list.as_slice() {
            [Value::Object(entry)] => entry,
            _ => return None,
        },
        _ => return None,
    };
    if tree.is_object() && entries.contains_key("volumes") {
        let fix = "write only what stands under one volume, without its `path`, or use `coffer.dev/config`";
        return Some(Faults::of(format!("is a whole config file, and takes one volume; {fix}")));
    }
    let (name, reference) = entries.iter().next()?;
    // Keys that a file does have are told of by the sidecar's own parser.
    let is_key = entries.keys().any(|key| ["name", "from", "template", "select"].contains(&key.as_str()));
    let of_a_file = |value: &Value| value.as_str().is_some_and(|text| text.parse::<Reference>().is_ok());
    let is_reference = !is_key && entries.values().all(of_a_file);
    is_reference.then(|| {
        let (name, reference) = (shown(name), shown(reference.as_str().unwrap_or_default()));
        let fix = format!("write `- {{name: {name}, from: \"{reference}\"}}`, or `{PREFIX}{FILE}{name}: {reference}`");
        Faults::of(format!("`{name}` is no key of a file or volume; {fix}"))
    })
}

/// Where to write what stands beside the files in a config file, and not here.
fn elsewhere(problem: &str) -> String {
    let keys = [("path", "path"), ("on_change", "on-change")];
    let found = keys.iter().find(|(key, _)| problem.starts_with(&format!("unknown key `{key}` in a volume")));
    found.map(|(_, name)| format!("; write it as the annotation `{PREFIX}{name}`")).unwrap_or_default()
}
