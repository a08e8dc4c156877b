//! YAML as the programs of Kubernetes read it: `sigs.k8s.io/yaml` over go-yaml v2, which is YAML 1.1.
//!
//! A scalar keeps its text and whether it was quoted, so that what a Go program makes of it can be told, and
//! explained. The tree shares what aliases repeat, and its size is bounded as if it did not.

mod json;
mod scalar;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

pub(crate) use self::json::write;
pub(crate) use self::scalar::Meaning;

/// Deepest nesting that is read; a class needs five levels, a list of manifests eight, and the schema of a
/// CustomResourceDefinition, which may stand beside them, some fifty.
const DEPTH_MAX: usize = 100;
/// What a node counts for beside its text, in bytes.
const NODE_WEIGHT: usize = 64;
/// How much longer the whole tree may be than its text: enough for a text of empty nodes without aliases.
const EXPANSION_MAX: usize = 32;

/// A node and where it stands.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
    /// Its size with all that is below it, aliases written out.
    weight: usize,
}

/// A place in a text; line and column count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Kind {
    Scalar(Scalar),
    List(Vec<Rc<Node>>),
    /// Keys in their order, merged ones (`<<`) in the place of their merge; a key may repeat.
    Map(Vec<(Key, Rc<Node>)>),
}

/// A scalar as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    /// Whether it stands without quotes, and its text may mean something else than itself.
    pub(crate) plain: bool,
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) name: Rc<str>,
}

/// Why a text is not read, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {text}")]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What is wrong, and the fix where one is clear.
    pub text: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

impl Node {
    /// What to call it in a message.
    pub(crate) fn noun(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar(scalar) => match scalar.meaning() {
                Meaning::Null => "nothing",
                Meaning::Bool(_) => "true or false",
                Meaning::Number(_) => "a number",
                Meaning::Text(_) => "a text",
            },
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// Whether it is there in name only.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(scalar) if scalar.meaning() == Meaning::Null)
    }

    /// The value of a key, the last one where it stands twice.
    pub(crate) fn get(&self, key: &str) -> Option<&Rc<Self>> {
        let Kind::Map(entries) = &self.kind else { return None };
        entries.iter().rev().find(|(known, _)| &*known.name == key).map(|(_, node)| node)
    }

    /// The text of a scalar that is there.
    pub(crate) fn text(&self) -> Option<String> {
        match &self.kind {
            Kind::Scalar(scalar) => scalar.as_string(),
            _ => None,
        }
    }
}

/// The first document of a text, `None` where the text is empty; and where a second one begins, which Go programs
/// do not read.
pub(crate) fn first(text: &str) -> Result<(Option<Rc<Node>>, Option<Place>), Fault> {
    let mut reader = Reader::new(text);
    let document = reader.document()?;
    let more = match reader.next() {
        Ok(Some((Event::DocumentStart(..), span))) => Some(place(&span)),
        Err(fault) => Some(fault.place),
        Ok(_) => None,
    };
    Ok((document, more))
}

/// All documents of a text.
pub(crate) fn all(text: &str) -> Result<Vec<Rc<Node>>, Fault> {
    let mut reader = Reader::new(text);
    let mut documents = Vec::new();
    while let Some(document) = reader.document()? {
        documents.push(document);
    }
    Ok(documents)
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    /// `None` while the node is being read: it would hold itself.
    anchors: HashMap<usize, Option<Rc<Node>>>,
    weight_left: usize,
}

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Self {
        let mut options = Options::default();
        options.flow_nesting_limit = DEPTH_MAX;
        options.block_nesting_limit = DEPTH_MAX;
        Self {
            parser: Parser::new_from_str_with_options(text, options),
            anchors: HashMap::new(),
            weight_left: text.len().saturating_mul(EXPANSION_MAX).max(1 << 20),
        }
    }

    fn document(&mut self) -> Result<Option<Rc<Node>>, Fault> {
        match self.next()? {
            None | Some((Event::StreamEnd, _)) => return Ok(None),
            Some(_start) => {}
        }
        self.anchors.clear();
        let (event, span) = self.expect()?;
        let root = self.node(event, &span, 0)?;
        // The end of the document.
        self.next()?;
        Ok(Some(root))
    }

    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Rc<Node>, Fault> {
        let place = place(span);
        if depth > DEPTH_MAX {
            return Err(Fault { place, text: format!("this nests more than {DEPTH_MAX} levels deep") });
        }
        let (kind, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                (Kind::Scalar(scalar(text.into_owned(), plain, tag.as_deref(), place)?), anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.anchors.insert(anchor, None);
                (Kind::List(self.list(depth)?), anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                self.anchors.insert(anchor, None);
                (Kind::Map(self.map(depth)?), anchor)
            }
            Event::Alias(anchor) => {
                let Some(Some(node)) = self.anchors.get(&anchor).cloned() else {
                    return Err(Fault { place, text: "this alias stands in what it repeats".to_owned() });
                };
                self.spend(node.weight, place)?;
                return Ok(node);
            }
            _ => return Err(Fault { place, text: "a value is missing here".to_owned() }),
        };
        let own = NODE_WEIGHT + if let Kind::Scalar(scalar) = &kind { scalar.text.len() } else { 0 };
        self.spend(own, place)?;
        let below: usize = match &kind {
            Kind::Scalar(_) => 0,
            Kind::List(nodes) => nodes.iter().map(|node| node.weight).sum(),
            Kind::Map(entries) => entries.iter().map(|(key, node)| key.name.len() + node.weight).sum(),
        };
        let node = Rc::new(Node { place, kind, weight: own + below });
        self.anchors.insert(anchor, Some(node.clone()));
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Rc<Node>>, Fault> {
        let mut nodes = Vec::new();
        loop {
            match self.expect()? {
                (Event::SequenceEnd, _) => return Ok(nodes),
                (event, span) => nodes.push(self.node(event, &span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Rc<Node>)>, Fault> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.expect()?;
            if event == Event::MappingEnd {
                return Ok(entries);
            }
            let key = self.node(event, &span, depth + 1)?;
            let (event, span) = self.expect()?;
            let value = self.node(event, &span, depth + 1)?;
            let Kind::Scalar(scalar) = &key.kind else {
                let text = format!("a key of a mapping is a text, and this is {}", key.noun());
                return Err(Fault { place: key.place, text });
            };
            if scalar.plain && scalar.text == "<<" {
                self.merge(&value, &mut entries)?;
                continue;
            }
            let Some(name) = scalar.as_string() else {
                return Err(Fault { place: key.place, text: "a key is missing before this `:`".to_owned() });
            };
            entries.push((Key { place: key.place, name: name.into() }, value));
        }
    }

    /// Adds what `<<` stands for. As in go-yaml, it counts where it stands: keys after it win over it.
    fn merge(&mut self, value: &Node, entries: &mut Vec<(Key, Rc<Node>)>) -> Result<(), Fault> {
        let sources: Vec<&Node> = match &value.kind {
            Kind::Map(_) => vec![value],
            // Of several mappings the first has the last word.
            Kind::List(nodes) => nodes.iter().rev().map(Rc::as_ref).collect(),
            Kind::Scalar(_) => Vec::new(),
        };
        let maps: Vec<&Vec<_>> =
            sources.iter().filter_map(|node| if let Kind::Map(map) = &node.kind { Some(map) } else { None }).collect();
        if maps.len() < sources.len() || maps.is_empty() {
            let text = "`<<` merges a mapping, or a list of mappings".to_owned();
            return Err(Fault { place: value.place, text });
        }
        for map in maps {
            self.spend(map.len() * NODE_WEIGHT, value.place)?;
            entries.extend(map.iter().cloned());
        }
        Ok(())
    }

    fn spend(&mut self, weight: usize, place: Place) -> Result<(), Fault> {
        self.weight_left = self.weight_left.checked_sub(weight).ok_or_else(|| Fault {
            place,
            text: "with its aliases written out this is far too long: write out only what is needed".to_owned(),
        })?;
        Ok(())
    }

    fn expect(&mut self) -> Result<(Event<'t>, Span), Fault> {
        self.next()?.ok_or_else(|| Fault { place: Place::default(), text: "the text ends too early".to_owned() })
    }

    /// The next event that says something. Comments come too where another crate has turned them on.
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, Fault> {
        loop {
            let event = self.parser.next_event().transpose().map_err(|error| fault(&error))?;
            let is_structure = |event: &Event<'_>| {
                event.is_node()
                    || matches!(event, Event::DocumentStart(..) | Event::DocumentEnd | Event::StreamEnd)
                    || matches!(event, Event::SequenceEnd | Event::MappingEnd)
            };
            if event.as_ref().is_none_or(|(event, _)| is_structure(event)) {
                return Ok(event);
            }
        }
    }
}

/// A scalar under its tag: `!!str` makes a text of it as quotes do, and `!!int` undoes them.
fn scalar(text: String, plain: bool, tag: Option<&Tag>, place: Place) -> Result<Scalar, Fault> {
    let name = tag.map(|tag| tag.suffix_in_namespace("tag:yaml.org,2002:").unwrap_or_default());
    let plain = match name.as_deref() {
        None => plain,
        Some("bool" | "int" | "float" | "null" | "timestamp") => true,
        Some("binary") => {
            return Err(Fault { place, text: "`!!binary` is not read: write the text itself".to_owned() });
        }
        Some(_) => false,
    };
    Ok(Scalar { text, plain })
}

fn place(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

fn place_of(error: &ScanError) -> Place {
    Place { line: error.marker().line(), column: error.marker().col() + 1 }
}

/// The parser's message, with the fix where it is clear.
fn fault(error: &ScanError) -> Fault {
    let message = error.info();
    let fix = match message.as_str() {
        _ if message.starts_with("tabs disallowed") => "; indent with spaces",
        _ if message.starts_with("mapping values are not allowed") => {
            "; a text with `: ` in it needs quotes, and keys of one mapping the same indentation"
        }
        _ => "",
    };
    Fault { place: place_of(error), text: format!("{message}{fix}") }
}
