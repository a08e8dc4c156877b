//! A volume of the config file, and its files.

use std::path::PathBuf;
use std::time::Duration;

use super::super::yaml::{Kind, Node};
use super::super::{Access, Content, FileSpec, Naming, Place, Reference, VolumeSpec, Wanted};
use super::REFRESH;
use super::fields::{Fields, Problems, absolute_path, boolean, duration, list, text};
use super::inherited::{Inherited, inherited};
use crate::file::{FileName, Mode, Owner};
use crate::render::{Format, Selector};

const VOLUME_KEYS: &[&str] = &["path", "files", "region", "role_arn", "external_id", "mode", "refresh", "uid", "gid"];
const FILE_KEYS: &[&str] = &[
    "name",
    "from",
    "select",
    "format",
    "mode",
    "optional",
    "recursive",
    "separator",
    "region",
    "role_arn",
    "external_id",
];

pub(super) fn read_volume(
    node: Node,
    above: &Inherited,
    refresh: Duration,
    problems: &mut Problems,
) -> Option<VolumeSpec> {
    let place = node.place;
    let mut fields = Fields::of(node, "a volume", VOLUME_KEYS, problems)?;
    let inherited = inherited(&mut fields, above, problems);
    let refresh =
        fields.take("refresh").and_then(|node| duration(&node, "refresh", REFRESH, problems)).unwrap_or(refresh);
    let owner = Owner {
        uid: fields.take("uid").and_then(|node| id(&node, "uid", problems)),
        gid: fields.take("gid").and_then(|node| id(&node, "gid", problems)),
    };
    let path = match fields.take("path") {
        Some(node) => volume_path(&node, problems),
        None => {
            problems.add(place, "this volume has no `path`; add the absolute path of its directory");
            None
        }
    };
    let Some(files) = fields.take("files") else {
        problems.add(place, "this volume has no `files`; add at least one");
        return None;
    };
    let files_place = files.place;
    let files = list(files, "files", problems)?;
    if files.is_empty() {
        problems.add(files_place, "this volume has no files; add at least one");
    }
    let mut read: Vec<(Place, FileSpec)> = Vec::new();
    for node in files {
        let place = node.place;
        let Some(file) = read_file(node, &inherited, problems) else { continue };
        if let Naming::File(name) = &file.naming
            && let Some((other_place, other)) = read.iter().find_map(|(place, other)| match &other.naming {
                Naming::File(other) if other.collides_with(name) => Some((place, other)),
                _ => None,
            })
        {
            let text = if name == other {
                format!("the file `{name}` stands already in line {}; rename one of them", other_place.line)
            } else {
                format!(
                    "`{name}` and `{other}` of line {} cannot both be: one is a folder of the other",
                    other_place.line
                )
            };
            problems.add(place, text);
        }
        read.push((place, file));
    }
    Some(VolumeSpec { path: path?, owner, refresh, files: read.into_iter().map(|(_, file)| file).collect() })
}

fn read_file(node: Node, above: &Inherited, problems: &mut Problems) -> Option<FileSpec> {
    let place = node.place;
    let mut fields = Fields::of(node, "a file", FILE_KEYS, problems)?;
    let region_here = fields.place_of("region");
    let inherited = inherited(&mut fields, above, problems);
    let select = fields.take("select").and_then(|node| {
        let text = text(&node, "select", problems)?;
        problems.parsed(node.place, "select", Selector::new(&text))
    });
    let format = fields.take("format").and_then(|node| {
        let text = text(&node, "format", problems)?;
        problems.parsed(node.place, "format", text.parse::<Format>())
    });
    let optional = fields.take("optional").and_then(|node| boolean(&node, "optional", problems)).unwrap_or(false);
    let recursive = fields.take("recursive").map(|node| (node.place, boolean(&node, "recursive", problems)));
    let separator = fields.take("separator");
    let name = fields.take("name");

    let Some(from) = fields.take("from") else {
        problems.add(place, "this file has no `from`; add a reference such as `secretsmanager:prod/db`");
        return None;
    };
    let from_text = text(&from, "from", problems)?;
    let reference = problems.parsed(from.place, "from", from_text.parse::<Reference>())?;

    let (reference, naming) = match reference {
        Reference::Path(mut path) => {
            path.recursive = recursive.and_then(|(_, value)| value).unwrap_or(false);
            let separator = separator.and_then(|node| separator_text(&node, problems));
            let folder = match name {
                None => None,
                Some(node) => {
                    let text = text(&node, "name", problems)?;
                    let Some(folder) = text.strip_suffix('/') else {
                        let fix = format!("remove `name`, or write `name: {text}/` to put them in a folder");
                        problems.add(
                            node.place,
                            format!("`{from_text}` gives many files, each named by its parameter; {fix}"),
                        );
                        return None;
                    };
                    Some(problems.parsed(node.place, "name", FileName::new(folder))?)
                }
            };
            (Reference::Path(path), Naming::Tree { folder, separator })
        }
        single => {
            for (key, at) in
                [("recursive", recursive.map(|(place, _)| place)), ("separator", separator.map(|node| node.place))]
            {
                if let Some(at) = at {
                    let fix = format!("end `from` with a slash to mean a path of Parameter Store, or remove `{key}`");
                    problems.add(
                        at,
                        format!("`{key}` is for all parameters under a path, and `{from_text}` names one value; {fix}"),
                    );
                }
            }
            let Some(node) = name else {
                problems.add(place, "this file has no `name`; add the name that it shall have in the volume");
                return None;
            };
            let text = text(&node, "name", problems)?;
            let name = problems.parsed(node.place, "name", FileName::new(&text))?;
            (single, Naming::File(name))
        }
    };

    let region = match reference.region() {
        None => inherited.region,
        Some(of_arn) => {
            if let (Some(at), Some(region)) = (region_here, &inherited.region)
                && region != of_arn
            {
                problems.add(
                    at,
                    format!("`region: {region}` contradicts the ARN in `from`, which is of {of_arn}; remove `region`"),
                );
            }
            Some(of_arn.to_owned())
        }
    };
    Some(FileSpec {
        naming,
        content: Content::Value {
            wanted: Wanted { reference, access: Access { region, role: inherited.role } },
            select,
            format: format.unwrap_or_default(),
        },
        mode: inherited.mode.unwrap_or(Mode::DEFAULT),
        optional,
    })
}

fn volume_path(node: &Node, problems: &mut Problems) -> Option<PathBuf> {
    let path = absolute_path(node, "path", "the volume's directory", problems)?;
    if path.parent().is_none() {
        problems.add(node.place, "the root directory cannot be a volume; write the path of a directory of its own");
        return None;
    }
    Some(path)
}

fn separator_text(node: &Node, problems: &mut Problems) -> Option<String> {
    let separator = text(node, "separator", problems)?;
    if separator.is_empty() || separator.contains('/') || FileName::new(&format!("a{separator}b")).is_err() {
        let fix = "write what shall stand for the slashes in a parameter's name, such as `_`";
        problems.add(node.place, format!("`separator: {separator}` cannot be part of a file name; {fix}"));
        return None;
    }
    Some(separator)
}

fn id(node: &Node, key: &str, problems: &mut Problems) -> Option<u32> {
    let number = match node.kind {
        // The highest value means "unchanged" to chown(2).
        Kind::Integer(number) => u32::try_from(number).ok().filter(|id| *id != u32::MAX),
        _ => None,
    };
    if number.is_none() {
        problems.add(node.place, format!("`{key}` takes a number; names of users and groups differ between images"));
    }
    number
}
