//! The objects of a class, field by field, as a Go program fills its struct from the YAML.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::error::{ClassError, Object};
use super::lint::{Lints, nearest};
use super::shown;
use crate::yaml::{self, Fault, Kind, Node, Place, Scalar};

/// The entries of `objects`, `None` for an empty one, and what is odd about how they are written.
pub(super) struct Objects {
    pub(super) entries: Vec<Option<ClassObject>>,
    pub(super) lints: Lints,
}

/// An object; a text that is absent is empty, as in Go.
#[derive(Debug, Default)]
pub(super) struct ClassObject {
    /// Its place in the list, from 1.
    pub(super) number: usize,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) alias: String,
    pub(super) version: String,
    pub(super) label: String,
    pub(super) permission: Permission,
    pub(super) paths: Vec<PathEntry>,
    pub(super) failover: FailoverObject,
}

/// An entry of `jmesPath`.
#[derive(Debug, Default)]
pub(super) struct PathEntry {
    pub(super) path: String,
    pub(super) alias: String,
    pub(super) permission: Permission,
}

/// What stands in for an object in the other region.
#[derive(Debug, Default)]
pub(super) struct FailoverObject {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) label: String,
}

/// A `filePermission`.
#[derive(Debug, Default)]
pub(super) struct Permission {
    pub(super) read: String,
    /// As it stands in the YAML, where that is something else.
    pub(super) written: Option<String>,
}

const OBJECT_KEYS: [&str; 8] = [
    "objectName",
    "objectType",
    "objectAlias",
    "objectVersion",
    "objectVersionLabel",
    "filePermission",
    "jmesPath",
    "failoverObject",
];
const PATH_KEYS: [&str; 3] = ["path", "objectAlias", "filePermission"];
const FAILOVER_KEYS: [&str; 3] = ["objectName", "objectVersion", "objectVersionLabel"];

impl Objects {
    pub(super) fn read(text: &str) -> Result<Self, ClassError> {
        let (root, more) = yaml::first(text).map_err(ClassError::Yaml)?;
        let mut lints = Lints::default();
        if let Some(place) = more {
            let text = format!("what starts at {place} is a second YAML document, which is not read: remove the `---`");
            lints.add("objects", text);
        }
        let mut entries = Vec::new();
        if let Some(root) = root.filter(|root| !root.is_null()) {
            let nodes = list(&root, "`objects`", "objects, each with `objectName`").map_err(ClassError::Yaml)?;
            for (at, node) in nodes.iter().enumerate() {
                let mut reader = Reader { number: at + 1, name: String::new(), lints: &mut lints };
                let object = if node.is_null() { None } else { Some(reader.object(node).map_err(ClassError::Yaml)?) };
                entries.push(object);
            }
        }
        Ok(Self { entries, lints })
    }

    /// The region of the first ARN.
    pub(super) fn region_of_arns(&self) -> Option<String> {
        let arns = self.entries.iter().flatten().filter(|object| object.name.starts_with("arn:"));
        arns.filter_map(|object| object.name.split(':').nth(3)).find(|region| !region.is_empty()).map(str::to_owned)
    }
}

impl ClassObject {
    /// How a message names it.
    pub(super) fn shown(&self) -> Object {
        Object { number: self.number, name: shown(&self.name) }
    }
}

/// Reads one object.
struct Reader<'l> {
    number: usize,
    name: String,
    lints: &'l mut Lints,
}

impl Reader<'_> {
    fn object(&mut self, node: &Node) -> Result<ClassObject, Fault> {
        let fields = self.fields(node, "an object", &OBJECT_KEYS)?;
        self.name = fields.name("objectName");
        self.tell(&fields, "", &OBJECT_KEYS);
        let mut paths = Vec::new();
        if let Some(node) = fields.get("jmesPath") {
            let nodes = list(node, "`jmesPath`", "entries with `path` and `objectAlias`")?;
            for (at, node) in nodes.iter().enumerate() {
                paths.push(self.path(node, at + 1)?);
            }
        }
        let failover = match fields.get("failoverObject") {
            Some(node) => self.failover(node)?,
            None => FailoverObject::default(),
        };
        Ok(ClassObject {
            number: self.number,
            name: fields.text("objectName")?,
            kind: fields.text("objectType")?,
            alias: fields.text("objectAlias")?,
            version: fields.text("objectVersion")?,
            label: fields.text("objectVersionLabel")?,
            permission: fields.permission()?,
            paths,
            failover,
        })
    }

    fn path(&mut self, node: &Node, entry: usize) -> Result<PathEntry, Fault> {
        if node.is_null() {
            return Ok(PathEntry::default());
        }
        let fields = self.fields(node, "an entry of `jmesPath`", &PATH_KEYS)?;
        self.tell(&fields, &format!(" in entry {entry} of its `jmesPath`"), &PATH_KEYS);
        Ok(PathEntry {
            path: fields.text("path")?,
            alias: fields.text("objectAlias")?,
            permission: fields.permission()?,
        })
    }

    fn failover(&mut self, node: &Node) -> Result<FailoverObject, Fault> {
        let fields = self.fields(node, "`failoverObject`", &FAILOVER_KEYS)?;
        self.tell(&fields, " in its `failoverObject`", &FAILOVER_KEYS);
        Ok(FailoverObject {
            name: fields.text("objectName")?,
            version: fields.text("objectVersion")?,
            label: fields.text("objectVersionLabel")?,
        })
    }

    fn fields<'n>(&self, node: &'n Node, what: &str, known: &[&'static str]) -> Result<Fields<'n>, Fault> {
        let Kind::Map(entries) = &node.kind else {
            let text = format!("{what} is a mapping with {}, and this is {}", known.join(", "), node.noun());
            return Err(Fault { place: node.place, text });
        };
        // The last of equal keys counts, and keys are taken in the order of their bytes: the JSON in between sorts them.
        let mut sorted: BTreeMap<&str, (Place, &Rc<Node>)> = BTreeMap::new();
        let mut repeated = Vec::new();
        for (key, value) in entries {
            // What a merge brought stands elsewhere, and is meant to be replaced.
            if sorted.insert(&key.name, (key.place, value)).is_some_and(|(before, _)| before >= node.place) {
                repeated.push(&*key.name);
            }
        }
        let mut fields = Fields { known: BTreeMap::new(), odd: Vec::new(), repeated };
        for (name, (_, value)) in sorted {
            let field = known.iter().find(|field| field.eq_ignore_ascii_case(name));
            if field.is_none_or(|field| *field != name) {
                fields.odd.push((name, field.copied()));
            }
            // JSON's null leaves a field as it is.
            if let Some(field) = field.filter(|_| !value.is_null()) {
                fields.known.insert(field, value);
            }
        }
        Ok(fields)
    }

    /// Notes what is odd about the keys and texts of a mapping, which stands `within` the object.
    fn tell(&mut self, fields: &Fields<'_>, within: &str, known: &[&str]) {
        let place = Object { number: self.number, name: shown(&self.name) };
        for (name, field) in &fields.odd {
            self.lints.add_with(&place, || match field {
                Some(field) => format!("`{}`{within} is spelled `{field}`: write it so", shown(name)),
                None => {
                    let fix = match nearest(name, known) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("remove it; known are {}", known.join(", ")),
                    };
                    format!("`{}`{within} is no key of this provider and does nothing: {fix}", shown(name))
                }
            });
        }
        for name in &fields.repeated {
            self.lints.add_with(&place, || {
                format!("`{}`{within} stands there twice, and the last one counts: keep one", shown(name))
            });
        }
        for (field, node) in &fields.known {
            if let Some((written, read)) = changed(node) {
                let (written, read) = (shown(&written), shown(&read));
                let text = format!("`{field}: {written}`{within} is read as `{read}`, for that is YAML 1.1");
                self.lints.add(&place, format!("{text}: write \"{written}\" in quotes"));
            }
        }
    }
}

/// The keys of a mapping.
struct Fields<'n> {
    known: BTreeMap<&'static str, &'n Rc<Node>>,
    /// Keys that are not known, or in another case.
    odd: Vec<(&'n str, Option<&'static str>)>,
    repeated: Vec<&'n str>,
}

impl Fields<'_> {
    fn get(&self, key: &str) -> Option<&Node> {
        self.known.get(key).map(|node| node.as_ref())
    }

    /// A text for messages.
    fn name(&self, key: &str) -> String {
        self.get(key).and_then(Node::text).unwrap_or_default()
    }

    fn text(&self, key: &str) -> Result<String, Fault> {
        let Some(node) = self.get(key) else { return Ok(String::new()) };
        node.text().ok_or_else(|| Fault {
            place: node.place,
            text: format!("`{key}` takes a text, and this is {}", node.noun()),
        })
    }

    fn permission(&self) -> Result<Permission, Fault> {
        let written = self.get("filePermission").and_then(changed).map(|(written, _)| shown(&written));
        Ok(Permission { read: self.text("filePermission")?, written })
    }
}

/// A scalar that is read as another text than the one that stands there: both.
fn changed(node: &Node) -> Option<(String, String)> {
    let Kind::Scalar(scalar @ Scalar { text, .. }) = &node.kind else { return None };
    scalar.as_string().filter(|read| read != text).map(|read| (text.clone(), read))
}

fn list<'n>(node: &'n Node, what: &str, of: &str) -> Result<&'n [Rc<Node>], Fault> {
    match &node.kind {
        Kind::List(nodes) => Ok(nodes),
        _ => {
            let text = format!("{what} takes a list of {of}, and this is {}: start each with `- `", node.noun());
            Err(Fault { place: node.place, text })
        }
    }
}
