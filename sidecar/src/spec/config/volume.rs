//! A volume of the config file, and its files.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::yaml::{Key, Kind, Node};
use super::super::{
    Access, Content, FileSpec, Naming, OnChange, Place, Reference, TLS_FILES, VolumeSpec, Wanted, nearest,
};
use super::fields::{Fields, Problems, absolute_path, boolean, duration, list, text};
use super::inherited::{EXTERNAL_ID_KEY, Inherited, inherited, mode_key, region_key, role_arn_key};
use super::on_change::{ACTION, DEBOUNCE, on_change};
use super::table::{Demands, Mapping, REFERENCE, Setting, Takes, Without};
use super::{REFRESH, Reader};
use crate::file::{FileName, Mode, Owner};
use crate::render::{Format, PEM, Selector, Template};

pub(super) static VOLUME: Mapping = Mapping {
    id: "volume",
    what: "a volume",
    meaning: "A directory of files that are published together: all of a set at once, or none",
    keys: &[
        Setting {
            name: "path",
            takes: Takes::Path("the volume's directory"),
            without: Without::Refused,
            meaning: "Where it is; on a tmpfs, or with --allow-disk",
        },
        Setting {
            name: "files",
            takes: Takes::List(&FILE),
            without: Without::Refused,
            meaning: "What it holds; one file at the least",
        },
        region_key("that of the top"),
        role_arn_key("that of the top"),
        EXTERNAL_ID_KEY,
        mode_key(Without::Says("that of the top")),
        Setting {
            name: "refresh",
            takes: Takes::Time(REFRESH),
            without: Without::Says("that of the top"),
            meaning: "How often to look for changes, at the least",
        },
        Setting {
            name: "uid",
            takes: Takes::Count(IDS),
            without: Without::Says("the user that Coffer runs as"),
            meaning: "Whose the files are; takes the capability CHOWN",
        },
        Setting {
            name: "gid",
            takes: Takes::Count(IDS),
            without: Without::Says("the group that the kernel gives a new file: with fsGroup in a pod, that"),
            meaning: "Whose group the files have",
        },
        Setting {
            name: "values",
            takes: Takes::Named(&VALUE),
            without: Without::Nothing,
            meaning: "What the templates of this volume name",
        },
        Setting {
            name: "on_change",
            takes: Takes::List(&ACTION),
            without: Without::Says("nobody is told"),
            meaning: "Whom to tell of a new set, once for each and in this order, again while it fails",
        },
        Setting {
            name: "debounce",
            takes: Takes::Time(DEBOUNCE),
            without: Without::Time(OnChange::DEFAULT_DEBOUNCE),
            meaning: "Sets that follow one another within this time are told as one",
        },
    ],
    demands: Demands::Nothing,
};
/// Those that belong to a directory that a process of the pod keeps itself.
const OF_A_PLACE: &[&str] = &["path", "on_change", "debounce"];
/// The highest value means "unchanged" to chown(2).
const IDS: RangeInclusive<u64> = 0..=u32::MAX as u64 - 1;

pub(super) static FILE: Mapping = Mapping {
    id: "file",
    what: "a file",
    meaning: "A file of a volume, or one for each parameter under a path",
    keys: &[
        Setting {
            name: "name",
            takes: Takes::Text("a path within the volume; with a slash at its end the folder of several files"),
            without: Without::Says("needed, but for a path of parameters and `format: pem`"),
            meaning: "What the file is called",
        },
        Setting {
            name: "from",
            takes: REFERENCE,
            without: Without::Nothing,
            meaning: "The secret or the parameter; with a slash at its end all parameters under that path",
        },
        SELECT_KEY,
        Setting {
            name: "format",
            takes: Takes::Word(|| {
                let all = Format::ALL.iter().map(ToString::to_string);
                all.chain([PEM.to_owned()]).collect()
            }),
            without: Without::Text("raw"),
            meaning: "How the file is written; `pem` makes tls.crt, tls.key and ca.crt of one value",
        },
        Setting {
            name: "template",
            takes: Takes::Text("a template of Jinja2, strict about what is missing"),
            without: Without::Nothing,
            meaning: "The file's text, with names of the volume's `values`",
        },
        Setting {
            name: "template_file",
            takes: Takes::Text("the path of a file, from the config file's folder on"),
            without: Without::Nothing,
            meaning: "The file that holds the template",
        },
        mode_key(Without::Says("that of the volume")),
        Setting {
            name: "optional",
            takes: Takes::Boolean,
            without: Without::No,
            meaning: "Whether the set is whole without it when AWS says that it does not exist",
        },
        Setting {
            name: "recursive",
            takes: Takes::Boolean,
            without: Without::No,
            meaning: "Whether parameters in deeper levels of the path are meant too",
        },
        Setting {
            name: "separator",
            takes: Takes::Text("a text that can be part of a file's name"),
            without: Without::Says("the slashes make folders"),
            meaning: "What stands for the slashes in the names of parameters under a path",
        },
        region_key("that of the volume"),
        role_arn_key("that of the volume"),
        EXTERNAL_ID_KEY,
    ],
    demands: Demands::One(&["from", "template", "template_file"]),
};

pub(super) const SELECT_KEY: Setting = Setting {
    name: "select",
    takes: Takes::Text("an expression of JMESPath"),
    without: Without::Says("the whole value"),
    meaning: "Which part of a value that is JSON",
};

pub(super) static VALUE: Mapping = Mapping {
    id: "value",
    what: "a value",
    meaning: "What a name in a template stands for: a reference, or this mapping",
    keys: &[
        Setting { name: "from", takes: REFERENCE, without: Without::Refused, meaning: "The secret or the parameter" },
        region_key("that of the volume"),
        role_arn_key("that of the volume"),
        EXTERNAL_ID_KEY,
    ],
    demands: Demands::Nothing,
};

/// The volume, and where its `on_change` stands.
pub(super) fn read_volume(
    node: Node,
    above: &Inherited,
    refresh: Duration,
    reader: Reader<'_>,
    problems: &mut Problems,
) -> Option<(Place, VolumeSpec)> {
    let place = node.place;
    let mut fields = Fields::of(node, &VOLUME, problems)?;
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
    let known: Vec<&str> = VOLUME.names().into_iter().filter(|key| !OF_A_PLACE.contains(key)).collect();
    let mut fields = Fields::among(node, "a volume without a place of its own", &known, problems)?;
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
            let mut fields = Fields::among(node, &format!("the value `{name}`"), &VALUE.names(), problems)?;
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
    let mut fields = Fields::of(node, &FILE, problems)?;
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
        Kind::Integer(number) => u32::try_from(number).ok().filter(|id| IDS.contains(&u64::from(*id))),
        _ => None,
    };
    if number.is_none() {
        problems.add(node.place, format!("`{key}` takes a number; names of users and groups differ between images"));
    }
    number
}
