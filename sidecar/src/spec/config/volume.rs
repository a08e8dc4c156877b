//! A volume of the config file, and its files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::yaml::{Key, Kind, Node};
use super::super::{
    Access, Content, FileSpec, Naming, OnChange, Place, Reference, TLS_FILES, VolumeSpec, Wanted, nearest,
};
use super::fields::{Fields, Problems, absolute_path, boolean, duration, list, text};
use super::inherited::{Inherited, inherited};
use super::on_change::{DEBOUNCE, on_change};
use super::{REFRESH, Reader};
use crate::file::{FileName, Mode, Owner};
use crate::render::{Format, PEM, Selector, Template};

const VOLUME_KEYS: &[&str] = &[
    "path",
    "files",
    "region",
    "role_arn",
    "external_id",
    "mode",
    "refresh",
    "uid",
    "gid",
    "values",
    "on_change",
    "debounce",
];
/// Those that belong to a directory that a process of the pod keeps itself.
const OF_A_PLACE: &[&str] = &["path", "on_change", "debounce"];
const FILE_KEYS: &[&str] = &[
    "name",
    "from",
    "select",
    "format",
    "template",
    "template_file",
    "mode",
    "optional",
    "recursive",
    "separator",
    "region",
    "role_arn",
    "external_id",
];

/// The volume, and where its `on_change` stands.
pub(super) fn read_volume(
    node: Node,
    above: &Inherited,
    refresh: Duration,
    reader: Reader<'_>,
    problems: &mut Problems,
) -> Option<(Place, VolumeSpec)> {
    let place = node.place;
    let mut fields = Fields::of(node, "a volume", VOLUME_KEYS, problems)?;
    let path = match fields.take("path") {
        Some(node) => volume_path(&node, problems),
        None => {
            problems.add(place, "this volume has no `path`; add the absolute path of its directory");
            None
        }
    };
    let mut notifies = OnChange::default();
    let actions = fields.take("on_change");
    let on_change_place = actions.as_ref().map(|node| node.place).unwrap_or_default();
    if let Some(read) = actions.and_then(|node| on_change(node, problems)) {
        notifies.actions = read.actions;
    }
    if let Some(node) = fields.take("debounce") {
        notifies.debounce = duration(&node, "debounce", DEBOUNCE, problems).unwrap_or(notifies.debounce);
    }
    let Body { owner, refresh, files } = read_body(place, &mut fields, above, refresh, reader, problems)?;
    Some((on_change_place, VolumeSpec { path: path?, owner, refresh, files, on_change: notifies }))
}

/// What a volume holds, wherever it is and whomever it tells.
pub(super) struct Body {
    pub(super) owner: Owner,
    pub(super) refresh: Duration,
    pub(super) files: Vec<FileSpec>,
}

/// A volume without a path of its own: a mapping with what it holds, or the list of its files.
pub(super) fn read_contents(
    node: Node,
    refresh: Duration,
    reader: Reader<'_>,
    problems: &mut Problems,
) -> Option<Body> {
    let place = node.place;
    let node = match node.kind {
        Kind::List(_) => Node { place, kind: Kind::Map(vec![(Key { place, name: "files".to_owned() }, node)]) },
        _ => node,
    };
    let known: Vec<&str> = VOLUME_KEYS.iter().copied().filter(|key| !OF_A_PLACE.contains(key)).collect();
    let mut fields = Fields::of(node, "a volume without a place of its own", &known, problems)?;
    read_body(place, &mut fields, &Inherited::default(), refresh, reader, problems)
}

fn read_body(
    place: Place,
    fields: &mut Fields,
    above: &Inherited,
    refresh: Duration,
    reader: Reader<'_>,
    problems: &mut Problems,
) -> Option<Body> {
    let inherited = inherited(fields, above, problems);
    let refresh =
        fields.take("refresh").and_then(|node| duration(&node, "refresh", REFRESH, problems)).unwrap_or(refresh);
    let owner = Owner {
        uid: fields.take("uid").and_then(|node| id(&node, "uid", problems)),
        gid: fields.take("gid").and_then(|node| id(&node, "gid", problems)),
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
    let values = values(fields, &inherited, problems);
    let mut read: Vec<(Place, FileSpec)> = Vec::new();
    for node in files {
        let place = node.place;
        let Some(file) = read_file(node, &inherited, &values, reader, problems) else { continue };
        check_names(place, &file, &read, problems);
        read.push((place, file));
    }
    Some(Body { owner, refresh, files: read.into_iter().map(|(_, file)| file).collect() })
}

/// Notes the first name of `file` that one of the files before it has.
fn check_names(place: Place, file: &FileSpec, before: &[(Place, FileSpec)], problems: &mut Problems) {
    let mine = file.naming.known(&file.content);
    let taken =
        before.iter().flat_map(|(at, file)| file.naming.known(&file.content).into_iter().map(move |name| (at, name)));
    for (at, other) in taken {
        let Some(name) = mine.iter().find(|name| other.collides_with(name)) else { continue };
        let text = if *name == other {
            format!("the file `{name}` stands already in line {}; rename one of them", at.line)
        } else {
            format!("`{name}` and `{other}` of line {} cannot both be: one is a folder of the other", at.line)
        };
        return problems.add(place, text);
    }
}

/// The values of a volume that templates may name; `None` for one with a mistake, which is noted.
type Values = BTreeMap<String, Option<Wanted>>;

fn values(fields: &mut Fields, above: &Inherited, problems: &mut Problems) -> Values {
    let mut values = Values::new();
    let Some(node) = fields.take("values") else { return values };
    let place = node.place;
    let Kind::Map(entries) = node.kind else {
        let example = "`values` maps names to references, such as `{db: \"secretsmanager:prod/db\"}`";
        problems.add(place, format!("{example}, and this is {}", node.kind.noun()));
        return values;
    };
    for (key, node) in entries {
        let is_name = key.name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && key.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            let fix = "use letters, digits and `_`, a digit not first, as a template can write it";
            problems.add(key.place, format!("`{}` cannot be the name of a value; {fix}", key.name));
        }
        let wanted = value(node, &key.name, above, problems);
        if is_name {
            values.insert(key.name, wanted);
        }
    }
    values
}

/// A reference, or a mapping with `from` and what else says as whom and where.
fn value(node: Node, name: &str, above: &Inherited, problems: &mut Problems) -> Option<Wanted> {
    let place = node.place;
    let (from, inherited, region_here) = match node.kind {
        Kind::Map(_) => {
            let known = ["from", "region", "role_arn", "external_id"];
            let mut fields = Fields::of(node, &format!("the value `{name}`"), &known, problems)?;
            let region_here = fields.place_of("region");
            let inherited = inherited(&mut fields, above, problems);
            let Some(from) = fields.take("from") else {
                problems.add(place, format!("the value `{name}` has no `from`; add a reference"));
                return None;
            };
            (from, inherited, region_here)
        }
        _ => (node, above.clone(), None),
    };
    let text = text(&from, name, problems)?;
    let reference = problems.parsed(from.place, name, text.parse::<Reference>())?;
    if matches!(reference, Reference::Path(_)) {
        let fix = "name one secret or parameter, without the slash at the end";
        problems.add(from.place, format!("`{text}` gives many values, and `{name}` is one; {fix}"));
        return None;
    }
    Some(wanted(reference, inherited, region_here, problems))
}

/// As whom and where a reference is asked for; an ARN names its own region.
pub(super) fn wanted(
    reference: Reference,
    inherited: Inherited,
    region_here: Option<Place>,
    problems: &mut Problems,
) -> Wanted {
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
    Wanted { reference, access: Access { region, role: inherited.role }, failover: None }
}

fn read_file(
    node: Node,
    above: &Inherited,
    values: &Values,
    reader: Reader<'_>,
    problems: &mut Problems,
) -> Option<FileSpec> {
    let place = node.place;
    let mut fields = Fields::of(node, "a file", FILE_KEYS, problems)?;
    let region_here = fields.place_of("region");
    let inherited_here = inherited(&mut fields, above, problems);
    let mode = inherited_here.mode.unwrap_or(Mode::DEFAULT);
    let optional = fields.take("optional").and_then(|node| boolean(&node, "optional", problems)).unwrap_or(false);
    let (naming, content) = if fields.has("template") || fields.has("template_file") {
        read_template(place, &mut fields, values, reader, problems)?
    } else {
        read_value(place, &mut fields, inherited_here, region_here, problems)?
    };
    Some(FileSpec { naming, content, mode, optional })
}

/// A file that is a template.
fn read_template(
    place: Place,
    fields: &mut Fields,
    values: &Values,
    reader: Reader<'_>,
    problems: &mut Problems,
) -> Option<(Naming, Content)> {
    for key in ["from", "select", "format", "recursive", "separator"] {
        if let Some(at) = fields.place_of(key) {
            let fix = "a template takes its values from the volume's `values`";
            problems.add(at, format!("`{key}` and a template cannot stand in one file; {fix}"));
        }
    }
    let (at, what, text) = match (fields.take("template"), fields.take("template_file")) {
        (Some(inline), None) => (inline.place, "template", text(&inline, "template", problems)?),
        (None, Some(node)) => {
            let path = text(&node, "template_file", problems)?;
            let text = reader(Path::new(&path));
            let text = problems.parsed(node.place, "template_file", text)?;
            (node.place, "template_file", text)
        }
        (Some(_), Some(file)) => {
            problems.add(file.place, "`template` and `template_file` both stand here; keep one");
            return None;
        }
        (None, None) => {
            problems.add(place, "this file's template is empty; write one, or remove the key");
            return None;
        }
    };
    let template = problems.parsed(at, what, Template::new(&text));
    let name = fields.take("name");
    let Some(node) = name else {
        problems.add(place, NO_NAME);
        return None;
    };
    let name = text_of_name(&node, problems);
    let template = template?;
    let mut used = BTreeMap::new();
    for name in template.names() {
        match values.get(name) {
            Some(wanted) => used.extend(wanted.clone().map(|wanted| (name.clone(), wanted))),
            None => {
                let hint = match nearest(name, values.keys().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => {
                        format!("add it to the volume's `values`, such as `{name}: \"secretsmanager:prod/{name}\"`")
                    }
                };
                problems.add(at, format!("`{what}` names `{name}`, which is no value of this volume; {hint}"));
            }
        }
    }
    if template.names().is_empty() {
        problems.add(at, format!("`{what}` names no value of the volume; a file without a secret is none of Coffer's"));
    }
    Some((Naming::File(name?), Content::Template { template, values: used }))
}

const NO_NAME: &str = "this file has no `name`; add the name that it shall have in the volume";

fn text_of_name(node: &Node, problems: &mut Problems) -> Option<FileName> {
    let text = text(node, "name", problems)?;
    problems.parsed(node.place, "name", FileName::new(&text))
}

/// A file that is a value, or files that are values.
fn read_value(
    place: Place,
    fields: &mut Fields,
    inherited: Inherited,
    region_here: Option<Place>,
    problems: &mut Problems,
) -> Option<(Naming, Content)> {
    let select = fields.take("select").and_then(|node| {
        let text = text(&node, "select", problems)?;
        problems.parsed(node.place, "select", Selector::new(&text))
    });
    let format = fields.take("format").and_then(|node| {
        let text = text(&node, "format", problems)?;
        if text == PEM {
            Some(Written::Pem)
        } else {
            problems.parsed(node.place, "format", text.parse()).map(Written::As)
        }
    });
    let recursive = fields.take("recursive").map(|node| (node.place, boolean(&node, "recursive", problems)));
    let separator = fields.take("separator");
    let name = fields.take("name");

    let Some(from) = fields.take("from") else {
        let fix = "add a reference such as `secretsmanager:prod/db`, or a `template`";
        problems.add(place, format!("this file has no `from`; {fix}"));
        return None;
    };
    let from_text = text(&from, "from", problems)?;
    let reference = problems.parsed(from.place, "from", from_text.parse::<Reference>())?;

    if let Reference::Path(mut path) = reference {
        path.recursive = recursive.and_then(|(_, value)| value).unwrap_or(false);
        let separator = separator.and_then(|node| separator_text(&node, problems));
        let why = |text: &str| {
            let fix = format!("remove `name`, or write `name: {text}/` to put them in a folder");
            format!("`{from_text}` gives many files, each named by its parameter; {fix}")
        };
        let folder = folder(name, why, problems)?;
        let Some(Written::As(format)) = format.or(Some(Written::As(Format::Raw))) else {
            problems.add(place, "`format: pem` splits one value into files; name one secret or parameter in `from`");
            return None;
        };
        let wanted = wanted(Reference::Path(path), inherited, region_here, problems);
        return Some((Naming::Tree { folder, separator }, Content::Value { wanted, select, format }));
    }
    for (key, at) in [("recursive", recursive.map(|(place, _)| place)), ("separator", separator.map(|node| node.place))]
    {
        if let Some(at) = at {
            let fix = format!("end `from` with a slash to mean a path of Parameter Store, or remove `{key}`");
            problems.add(
                at,
                format!("`{key}` is for all parameters under a path, and `{from_text}` names one value; {fix}"),
            );
        }
    }
    let wanted = wanted(reference, inherited, region_here, problems);
    match format.unwrap_or(Written::As(Format::Raw)) {
        Written::Pem => {
            let why = |text: &str| {
                let fix = format!("remove `name`, or write `name: {text}/` to put them in a folder");
                format!("`format: pem` makes the files {}; {fix}", TLS_FILES.join(", "))
            };
            let folder = folder(name, why, problems)?;
            Some((Naming::Tree { folder, separator: None }, Content::Tls { wanted, select }))
        }
        Written::As(format) => {
            let Some(node) = name else {
                problems.add(place, NO_NAME);
                return None;
            };
            let name = text_of_name(&node, problems)?;
            Some((Naming::File(name), Content::Value { wanted, select, format }))
        }
    }
}

/// What `format` says: a way to write one file, or to split a value into several.
enum Written {
    As(Format),
    Pem,
}

/// The folder for several files; `why` a name without a slash at its end is none.
fn folder(name: Option<Node>, why: impl Fn(&str) -> String, problems: &mut Problems) -> Option<Option<FileName>> {
    let Some(node) = name else { return Some(None) };
    let text = text(&node, "name", problems)?;
    let Some(folder) = text.strip_suffix('/') else {
        problems.add(node.place, why(&text));
        return None;
    };
    Some(Some(problems.parsed(node.place, "name", FileName::new(folder))?))
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
