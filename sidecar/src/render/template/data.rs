//! Secret values as the template engine sees them.

use std::cmp;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use coffer_runtime::Secret;
use minijinja::Value as Any;
use minijinja::value::{DynObject, Enumerator, Object, ObjectExt as _, ObjectRepr};
use zeroize::Zeroizing;

use super::TemplateFault;
use crate::render::json::{Entry, Json, compare_numbers, is_name};
use crate::render::selector::nearest;
use crate::render::{RenderError, Value};

/// How many lookups that found nothing are remembered: the one an error is about is among the last.
const MISSES_MAX: usize = 64;

/// The work that one rendering may do on its values outside of the engine, which cannot count it:
/// keys and bytes that are compared, copied or written. A tenth of a second, or thereabouts.
const WORK_MAX: usize = 64 << 20;

/// The values of one rendering.
pub(super) struct Data {
    values: BTreeMap<String, Any>,
    /// The names of all values, also of those that the template does not use.
    names: Vec<String>,
    /// Why a value could not be read as JSON and is mere text.
    not_json: BTreeMap<String, RenderError>,
    journal: Arc<Journal>,
}

/// What happened during one rendering that the engine's own errors cannot tell, or may not.
pub(super) struct Journal {
    misses: Mutex<VecDeque<Miss>>,
    fault: Mutex<Option<TemplateFault>>,
    work: AtomicUsize,
}

/// A lookup that found nothing.
#[derive(Clone)]
pub(super) struct Miss {
    /// The key, which is a secret if the template has computed it.
    pub(super) key: Zeroizing<String>,
    /// Where it was looked for.
    json: Arc<Json>,
}

impl Miss {
    /// An existing key much like the one that is not.
    pub(super) fn nearest(&self) -> Option<String> {
        let existing: &[Entry] = if let Json::Object(entries) = &*self.json { entries } else { &[] };
        let names = existing.iter().map(|(key, _)| key.as_str()).filter(|key| *key != *self.key && is_name(key));
        nearest(&self.key, names).map(str::to_owned)
    }
}

impl Data {
    /// Takes in those of `values` that a template has a use for: the ones in `used`.
    pub(super) fn new(used: &BTreeSet<String>, values: &BTreeMap<&str, &Value>) -> Result<Self, RenderError> {
        let journal =
            Arc::new(Journal { misses: Mutex::default(), fault: Mutex::default(), work: AtomicUsize::new(WORK_MAX) });
        let names = values.keys().map(|name| (*name).to_owned()).collect();
        let mut data = Self { values: BTreeMap::new(), names, not_json: BTreeMap::new(), journal };
        let values = values.iter().filter(|(name, _)| used.contains(**name));
        for (&name, value) in values {
            let value = match *value {
                Value::Binary(bytes) => Any::from_object(Binary {
                    name: name.to_owned(),
                    bytes: Secret::copy_of(bytes.expose()),
                    journal: data.journal.clone(),
                }),
                Value::Text(text) => {
                    let text = str::from_utf8(text.expose()).map_err(|_| RenderError::Binary)?;
                    data.text(name, text)
                }
            };
            data.values.insert(name.to_owned(), value);
        }
        Ok(data)
    }

    fn text(&mut self, name: &str, text: &str) -> Any {
        match Json::parse(text) {
            Ok(json) if matches!(*json, Json::Array(_) | Json::Object(_)) => Any::from_object(Node {
                json,
                text: Some(Zeroizing::new(text.to_owned())),
                journal: self.journal.clone(),
            }),
            Ok(_) => Any::from(text),
            Err(error) => {
                self.not_json.insert(name.to_owned(), error);
                Any::from(text)
            }
        }
    }

    /// The values under their names, for the engine.
    pub(super) fn root(&self) -> Any {
        Any::from_object(Root(self.values.clone()))
    }

    /// What makes the result wrong although the engine has no error.
    pub(super) fn fault(&self) -> Option<TemplateFault> {
        self.journal.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The lookups that found nothing, the last one first.
    pub(super) fn misses(&self) -> Vec<Miss> {
        let misses = self.journal.misses.lock().unwrap_or_else(PoisonError::into_inner);
        misses.iter().rev().cloned().collect()
    }

    /// Whether there is a value of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The names of the values.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The values that are texts or bytes, without fields, and why they could not be read as JSON.
    pub(super) fn plain(&self) -> impl Iterator<Item = (&str, Option<&RenderError>)> {
        self.values
            .iter()
            .filter(|(_, value)| value.downcast_object_ref::<Node>().is_none())
            .map(|(name, _)| (name.as_str(), self.not_json.get(name)))
    }
}

impl Journal {
    fn missed(&self, key: &str, json: &Arc<Json>) {
        let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        if misses.len() == MISSES_MAX {
            misses.pop_front();
        }
        misses.push_back(Miss { key: Zeroizing::new(key.to_owned()), json: json.clone() });
    }

    /// Whether there is work left for so much more. When there is not, the rendering has failed,
    /// and what it goes on with is of no account.
    fn spend(&self, work: usize) -> bool {
        let left = self.work.load(Ordering::Relaxed).saturating_sub(work);
        self.work.store(left, Ordering::Relaxed);
        if left == 0 {
            self.spoil(TemplateFault::TooMuch);
        }
        left > 0
    }

    fn spoil(&self, fault: TemplateFault) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }
}

/// The value a template sees for `json`. Null is as good as missing.
fn seen(json: &Arc<Json>, journal: &Arc<Journal>) -> Option<Any> {
    Some(match &**json {
        Json::Null => return None,
        Json::Bool(value) => Any::from(*value),
        Json::Number(digits) => number(digits).unwrap_or_else(|| Any::from_object(Number(digits.clone()))),
        Json::String(text) => {
            journal.spend(text.len()).then_some(())?;
            Any::from(text.as_str())
        }
        Json::Array(_) | Json::Object(_) => {
            Any::from_object(Node { json: json.clone(), text: None, journal: journal.clone() })
        }
    })
}

/// A number to reckon with, when it is written with the very digits of `text`.
fn number(text: &str) -> Option<Any> {
    let integer = text.parse::<i64>().map(Any::from);
    let integer = integer.or_else(|_| text.parse::<i128>().map(Any::from)).ok();
    let number = integer.or_else(|| text.parse::<f64>().ok().map(Any::from))?;
    (*Zeroizing::new(number.to_string()) == *text).then_some(number)
}

/// An order of JSON values in which those are equal that JMESPath has for equal. It must be an order
/// through and through: sorting by one that is none may panic.
fn compare(a: &Json, b: &Json) -> cmp::Ordering {
    match (a, b) {
        (Json::Bool(a), Json::Bool(b)) => a.cmp(b),
        (Json::Number(a), Json::Number(b)) => compare_numbers(a, b),
        (Json::String(a), Json::String(b)) => a.cmp(b),
        (Json::Array(a), Json::Array(b)) => {
            let unequal = a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|order| order.is_ne());
            unequal.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Json::Object(a), Json::Object(b)) => {
            let sorted = |entries: &[Entry]| {
                let mut sorted: Vec<_> = entries.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
                sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
                sorted
            };
            let (a, b) = (sorted(a), sorted(b));
            let unequal = a.iter().zip(&b).map(|((a_key, a), (b_key, b))| a_key.cmp(b_key).then_with(|| compare(a, b)));
            unequal.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (a, b) => a.kind().cmp(b.kind()),
    }
}

struct Root(BTreeMap<String, Any>);

impl Object for Root {
    fn get_value(self: &Arc<Self>, key: &Any) -> Option<Any> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Any> {
        self.0.get(key).cloned()
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Root(…)")
    }
}

/// A JSON array or object.
pub(super) struct Node {
    pub(super) json: Arc<Json>,
    /// The text it was read from, when it is a whole value.
    text: Option<Zeroizing<String>>,
    journal: Arc<Journal>,
}

impl Node {
    /// Roughly the length of the text.
    pub(super) fn weight(&self) -> usize {
        self.text.as_ref().map_or_else(|| self.json.weight(WORK_MAX), |text| text.len())
    }

    /// What the node is written as: as stored when it is a whole value, or else as compact JSON.
    pub(super) fn to_text(&self) -> Zeroizing<String> {
        self.text.clone().unwrap_or_else(|| self.json.to_plain())
    }
}

impl Object for Node {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        if matches!(*self.json, Json::Array(_)) { ObjectRepr::Seq } else { ObjectRepr::Map }
    }

    fn get_value(self: &Arc<Self>, key: &Any) -> Option<Any> {
        match &*self.json {
            Json::Array(items) => items.get(key.as_usize()?).and_then(|item| seen(item, &self.journal)),
            _ => self.get_value_by_str(key.as_str()?),
        }
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Any> {
        if let Json::Object(entries) = &*self.json {
            self.journal.spend(entries.len()).then_some(())?;
        }
        let found = self.json.field(key).and_then(|found| seen(found, &self.journal));
        if found.is_none() {
            self.journal.missed(key, &self.json);
        }
        found
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match &*self.json {
            Json::Array(items) => Enumerator::Seq(items.len()),
            Json::Object(entries) if self.journal.spend(entries.len()) => self.mapped_key_value_enumerator(|node| {
                let entries: &[Entry] = if let Json::Object(entries) = &*node.json { entries } else { &[] };
                let seen = |value| seen(value, &node.journal).unwrap_or_default();
                Box::new(entries.iter().map(move |(key, value)| (Any::from(key.as_str()), seen(value))))
            }),
            _ => Enumerator::Empty,
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        match &*self.json {
            Json::Array(items) => Some(items.len()),
            Json::Object(entries) => Some(entries.len()),
            _ => None,
        }
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<cmp::Ordering> {
        let other = other.downcast_ref::<Self>()?;
        // Comparing copies keys, to sort them.
        if !self.journal.spend(4 * (self.json.weight(WORK_MAX) + other.json.weight(WORK_MAX))) {
            return Some(cmp::Ordering::Equal);
        }
        Some(compare(&self.json, &other.json))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.journal.spend(self.weight()) { f.write_str(&self.to_text()) } else { Ok(()) }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Node(…)")
    }
}

/// A number whose digits no type of the engine keeps.
pub(super) struct Number(pub(super) Zeroizing<String>);

impl Object for Number {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        compare_numbers(&self.0, "0").is_ne()
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<cmp::Ordering> {
        other.downcast_ref::<Self>().map(|other| compare_numbers(&self.0, &other.0))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Number(…)")
    }
}

/// A value of bytes. Only a filter that knows it takes anything from it.
pub(super) struct Binary {
    name: String,
    pub(super) bytes: Secret,
    journal: Arc<Journal>,
}

impl Binary {
    /// Takes note that the value was used as a text.
    pub(super) fn misused(&self) {
        self.journal.spoil(TemplateFault::Binary { name: self.name.clone() });
    }
}

impl Object for Binary {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        !self.bytes.is_empty()
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<cmp::Ordering> {
        other.downcast_ref::<Self>().map(|other| self.bytes.expose().cmp(other.bytes.expose()))
    }

    fn render(self: &Arc<Self>, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An error here would be a panic in the engine.
        self.misused();
        Ok(())
    }
}

impl fmt::Debug for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.misused();
        f.write_str("Binary(…)")
    }
}
