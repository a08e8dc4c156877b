//! A pod taken apart, to be changed, and put together again with every field that it had.
//!
//! The API server sends nothing but pods of the right types; whoever renders a manifest may have written anything.

use serde_json::{Map, Value};

use crate::webhook::annotations::Problem;

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// Nobody has more containers in a pod, and each costs: the kubelet runs 110 pods a node by default, and the API server
/// takes what fits into 3 MiB.
const CONTAINERS_MAX: usize = 500;

/// A pod in parts.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    root: Object,
    metadata: Object,
    pub(super) annotations: Object,
    pub(super) spec: Object,
    pub(super) init: List<Container>,
    pub(super) regular: List<Container>,
    pub(super) volumes: List<Object>,
}

/// A list that may not be there.
#[derive(Clone, Debug)]
pub(super) struct List<T> {
    pub(super) items: Vec<T>,
    written: bool,
}

impl<T> std::ops::Deref for List<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.items
    }
}

impl<T> std::ops::DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.items
    }
}

impl<'l, T> IntoIterator for &'l List<T> {
    type Item = &'l T;
    type IntoIter = std::slice::Iter<'l, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

/// A container.
#[derive(Clone, Debug)]
pub(super) struct Container(pub(super) Object);

/// Which of a pod's containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At {
    /// An init container, by its place among those that are not ours.
    Init(usize),
    /// A container, likewise.
    Regular(usize),
}

impl Draft {
    /// Takes a pod apart.
    ///
    /// # Errors
    /// Each part that is of a type which no pod has there.
    pub(super) fn read(pod: &Value) -> Result<Self, Vec<Problem>> {
        let count = |key: &str| pod.get("spec")?.get(key)?.as_array().map(Vec::len);
        let containers = ["initContainers", "containers"].into_iter().filter_map(count).sum::<usize>();
        if containers > CONTAINERS_MAX {
            let text = format!(
                "the pod has {containers} containers, and Coffer takes no more than {CONTAINERS_MAX}; split it"
            );
            return Err(vec![Problem { annotation: String::new(), text }]);
        }
        let mut read = Reader::default();
        let mut root = read.object(Some(pod), "the pod").unwrap_or_default();
        let mut metadata = read.part(&mut root, "metadata", "metadata");
        let annotations = read.part(&mut metadata, "annotations", "metadata.annotations");
        for (name, value) in annotations.iter().filter(|(_, value)| !value.is_string()) {
            read.wrong(&format!("metadata.annotations.{name}"), "a text", value);
        }
        let mut spec = read.part(&mut root, "spec", "spec");
        read.optional(&spec, "securityContext", "spec.", Value::is_object, "a mapping");
        read.optional(&spec, "nodeSelector", "spec.", Value::is_object, "a mapping");
        let init = read.containers(&mut spec, "initContainers");
        let regular = read.containers(&mut spec, "containers");
        if regular.is_empty() && read.0.is_empty() {
            read.0.push("`spec.containers` is empty; a pod has at least one container".to_owned());
        }
        let volumes = read.named(&mut spec, "volumes", "spec.volumes");
        let problem = |text| Problem { annotation: String::new(), text };
        match read.0.is_empty() {
            true => Ok(Self { root, metadata, annotations, spec, init, regular, volumes }),
            false => Err(read.0.into_iter().map(problem).collect()),
        }
    }

    /// The pod again.
    pub(super) fn put_together(mut self) -> Value {
        let objects = |list: List<Container>| List {
            items: list.items.into_iter().map(|Container(object)| object).collect(),
            written: list.written,
        };
        put_list(&mut self.spec, "initContainers", objects(self.init));
        put_list(&mut self.spec, "containers", objects(self.regular));
        put_list(&mut self.spec, "volumes", self.volumes);
        self.metadata.insert("annotations".to_owned(), Value::Object(self.annotations));
        self.root.insert("metadata".to_owned(), Value::Object(self.metadata));
        self.root.insert("spec".to_owned(), Value::Object(self.spec));
        Value::Object(self.root)
    }

    /// An annotation.
    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name)?.as_str()
    }

    /// The pod's own security context.
    pub(super) fn security(&self, key: &str) -> Option<&Value> {
        self.spec.get("securityContext")?.get(key).filter(|value| !value.is_null())
    }

    /// Whether a field of the spec is `true`.
    pub(super) fn is_set(&self, key: &str) -> bool {
        self.spec.get(key).and_then(Value::as_bool).unwrap_or_default()
    }

    /// A container by its place.
    pub(super) fn at(&self, at: At) -> Option<&Container> {
        match at {
            At::Init(index) => self.init.get(index),
            At::Regular(index) => self.regular.get(index),
        }
    }

    /// All containers, with their places.
    pub(super) fn containers(&self) -> impl Iterator<Item = (At, &Container)> {
        let init = self.init.iter().enumerate().map(|(index, container)| (At::Init(index), container));
        let regular = self.regular.iter().enumerate().map(|(index, container)| (At::Regular(index), container));
        init.chain(regular)
    }

    /// All containers, with their places, to be changed.
    pub(super) fn containers_mut(&mut self) -> impl Iterator<Item = (At, &mut Container)> {
        let init = self.init.items.iter_mut().enumerate().map(|(index, container)| (At::Init(index), container));
        let regular = self.regular.items.iter_mut().enumerate().map(|(index, c)| (At::Regular(index), c));
        init.chain(regular)
    }
}

impl At {
    /// The list that it is in.
    pub(super) fn list(self) -> &'static str {
        match self {
            Self::Init(_) => "initContainers",
            Self::Regular(_) => "containers",
        }
    }
}

impl Container {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        name_of(&self.0)
    }

    /// Its variables that have a name.
    pub(super) fn env(&self) -> impl Iterator<Item = &Object> {
        self.list("env")
    }

    /// Its mounts.
    pub(super) fn mounts(&self) -> impl Iterator<Item = &Object> {
        self.list("volumeMounts")
    }

    /// The value of a variable that is written out.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.env().find(|variable| name_of(variable) == name)?.get("value")?.as_str()
    }

    /// Whether it has such a variable, wherever its value comes from.
    pub(super) fn has_variable(&self, name: &str) -> bool {
        self.env().any(|variable| name_of(variable) == name)
    }

    /// Whether it is an init container that goes on running.
    pub(super) fn stays(&self) -> bool {
        self.0.get("restartPolicy").and_then(Value::as_str) == Some("Always")
    }

    /// A list of texts, such as `command`.
    pub(super) fn words(&self, key: &str) -> Vec<Value> {
        self.0.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
    }

    /// A field of its security context.
    pub(super) fn security(&self, key: &str) -> Option<&Value> {
        self.0.get("securityContext")?.get(key).filter(|value| !value.is_null())
    }

    /// Puts a variable in the place of one of that name, or after all others.
    pub(super) fn put_variable(&mut self, variable: Object) {
        put_named(&mut self.0, "env", variable);
    }

    /// Puts a mount in the place of one of that volume, or after all others.
    pub(super) fn put_mount(&mut self, mount: Object) {
        put_named(&mut self.0, "volumeMounts", mount);
    }

    /// Takes away variables by name.
    pub(super) fn drop_variables(&mut self, is_unwanted: impl Fn(&str) -> bool) -> bool {
        drop_named(&mut self.0, "env", is_unwanted)
    }

    /// Takes away mounts by the names of their volumes.
    pub(super) fn drop_mounts(&mut self, is_unwanted: impl Fn(&str) -> bool) -> bool {
        drop_named(&mut self.0, "volumeMounts", is_unwanted)
    }

    fn list(&self, key: &str) -> impl Iterator<Item = &Object> {
        self.0.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object)
    }
}

/// The name of a container, volume or variable, or of the volume that is mounted.
pub(super) fn name_of(object: &Object) -> &str {
    object.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn put_list(spec: &mut Object, key: &str, list: List<Object>) {
    if list.written || !list.items.is_empty() {
        spec.insert(key.to_owned(), Value::Array(list.items.into_iter().map(Value::Object).collect()));
    }
}

fn put_named(container: &mut Object, key: &str, item: Object) {
    let list = container.entry(key).or_insert(Value::Null);
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    let Some(items) = list.as_array_mut() else { return };
    let same = |other: &&mut Value| other.as_object().is_some_and(|other| name_of(other) == name_of(&item));
    match items.iter_mut().find(same) {
        Some(place) => *place = super::again::item(place, Value::Object(item)),
        None => items.push(Value::Object(item)),
    }
}

fn drop_named(container: &mut Object, key: &str, is_unwanted: impl Fn(&str) -> bool) -> bool {
    let Some(items) = container.get_mut(key).and_then(Value::as_array_mut) else { return false };
    let before = items.len();
    items.retain(|item| !item.as_object().is_some_and(|item| is_unwanted(name_of(item))));
    let dropped = items.len() < before;
    // A list that is empty says no more than none.
    if dropped && items.is_empty() {
        container.shift_remove(key);
    }
    dropped
}

/// What is wrong so far.
#[derive(Default)]
struct Reader(Vec<String>);

impl Reader {
    fn wrong(&mut self, place: &str, wanted: &str, found: &Value) {
        let found = match found {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a mapping",
        };
        self.0.push(format!("`{}` is {found}, and Kubernetes takes {wanted} there", place.escape_debug()));
    }

    fn object(&mut self, value: Option<&Value>, place: &str) -> Option<Object> {
        match value {
            Some(Value::Object(object)) => Some(object.clone()),
            other => {
                self.wrong(place, "a mapping", other.unwrap_or(&Value::Null));
                None
            }
        }
    }

    /// Takes a mapping out; what stays keeps its place among the keys.
    fn part(&mut self, object: &mut Object, key: &str, place: &str) -> Object {
        match object.get_mut(key).map(Value::take) {
            Some(Value::Object(part)) => part,
            // Said once, of the whole.
            None if !self.0.is_empty() => Object::new(),
            other => {
                self.wrong(place, "a mapping", &other.unwrap_or(Value::Null));
                Object::new()
            }
        }
    }

    fn optional(&mut self, object: &Object, key: &str, place: &str, is_right: fn(&Value) -> bool, wanted: &str) {
        if let Some(value) = object.get(key).filter(|value| !value.is_null() && !is_right(value)) {
            self.wrong(&format!("{place}{key}"), wanted, value);
        }
    }

    fn containers(&mut self, spec: &mut Object, key: &str) -> List<Container> {
        let list = self.named(spec, key, &format!("spec.{key}"));
        for (index, container) in list.items.iter().enumerate() {
            let place = format!("spec.{key}[{index}].");
            self.optional(container, "securityContext", &place, Value::is_object, "a mapping");
            self.optional(container, "resources", &place, Value::is_object, "a mapping");
            for words in ["command", "args"] {
                let is_texts = |value: &Value| value.as_array().is_some_and(|l| l.iter().all(Value::is_string));
                self.optional(container, words, &place, is_texts, "a list of texts");
            }
            for (list, key) in [("env", "name"), ("volumeMounts", "name"), ("volumeMounts", "mountPath")] {
                self.each_has(container.get(list), &format!("{place}{list}"), key);
            }
        }
        List { items: list.items.into_iter().map(Container).collect(), written: list.written }
    }

    /// Takes a list of things with names out.
    fn named(&mut self, spec: &mut Object, key: &str, place: &str) -> List<Object> {
        let before = self.0.len();
        self.each_has(spec.get(key), place, "name");
        if self.0.len() > before {
            return List { items: Vec::new(), written: false };
        }
        let Some(Value::Array(items)) = spec.get_mut(key).map(Value::take) else {
            return List { items: Vec::new(), written: false };
        };
        let object = |item| if let Value::Object(object) = item { Some(object) } else { None };
        List { items: items.into_iter().filter_map(object).collect(), written: true }
    }

    /// Whether each element of a list has a text under `key`.
    fn each_has(&mut self, list: Option<&Value>, place: &str, key: &str) {
        let Some(list) = list.filter(|list| !list.is_null()) else { return };
        let Some(items) = list.as_array() else { return self.wrong(place, "a list", list) };
        for (index, item) in items.iter().enumerate() {
            let place = format!("{place}[{index}]");
            match item.as_object().map(|item| item.get(key).unwrap_or(&Value::Null)) {
                Some(Value::String(_)) => {}
                Some(other) => self.wrong(&format!("{place}.{key}"), "a text", other),
                None => self.wrong(&place, "a mapping", item),
            }
        }
    }
}
