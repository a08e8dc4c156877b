//! Templates: one file made of several values, with text around them.
//!
//! The language is that of Jinja2 as minijinja has it (<https://docs.rs/minijinja/latest/minijinja/syntax/>),
//! with less of it and with stricter rules:
//!
//! - `{{ db }}` is a whole value as stored. `{{ db.username }}`, `{{ db["user-name"] }}`, `{{ db.hosts[0].name }}`
//!   and `{% for host in db.hosts %}` look into a value that is a JSON object or array. Keys keep their
//!   order and numbers their digits.
//! - A field or value that is not there is an error wherever it is used, and so is JSON's null. `{% if db.x
//!   is defined %}` and `{{ db.x | default("…") }}` are the ways to allow for it.
//! - Binary values have one use: `{{ key | base64 }}`.
//! - There is no include, import, macro or namespace, no clock, environment or file. There is no `*`,
//!   and lists that hold values are written where they are used, not named with `{% set %}`.
//!
//! Besides minijinja's own filters there are `base64` (or `b64encode`), `b64decode`, `json`, `yaml`,
//! `properties`, `shell` and `urlencode`, which quote a value for where it is to stand.
//!
//! Three things differ from what a reader may expect. Where `~` or a filter of minijinja's own makes
//! a text, a boolean is `True` or `False`, and a list that the template made is written as Python
//! would, while `{{ db.tls }}` and our filters write `true` and JSON. A number whose digits
//! neither a 128-bit integer nor a 64-bit float keeps, such as `1.50`, is written as stored but has
//! no arithmetic and equals no literal; `| float` makes it a number. And a whole value that is
//! a JSON object or array is one: its length is how many entries it has.
//!
//! The work of one rendering is bounded: 400000 steps, where a step is an operation or 64 bytes of
//! text. So are the sizes of template and result, 1 MiB each. A template that nests beyond reason,
//! or that could make lists of lists without end, is refused before it runs.
//!
//! The result is held in wiped memory, as are the parsed values and what the filters named above
//! build up. minijinja's own strings are not: those that `{{ db.username }}` looks up, what its own
//! filters and operators return, and `{% set %}` blocks leave copies in freed memory.

mod data;
mod explain;
mod filter;
mod lint;
mod sink;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use coffer_runtime::Secret;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use sha2::{Digest, Sha256};

use self::data::Data;
pub use self::explain::TemplateFault;
use self::sink::Sink;
use super::{RenderError, Value};

/// Longest template, and longest result, in bytes: 1 MiB, which is the most a Kubernetes Secret holds.
pub(super) const SIZE_MAX: usize = 1 << 20;

/// The work one rendering may do. An operation costs 1, and so do 64 bytes of text that is made or
/// passed through, or 4 of an array or object that is written: tens of milliseconds, and not much
/// more than 25 MB.
const FUEL: u64 = 400_000;

/// How deep loops and conditions may nest at run time.
const DEPTH_MAX: usize = 100;

/// The name of the one template of each environment.
const NAME: &str = "template";

/// A template, parsed and checked. Cheap to clone. Equal templates are those of equal text.
#[derive(Clone)]
pub struct Template(Arc<Parsed>);

struct Parsed {
    environment: Environment<'static>,
    text: String,
    names: BTreeSet<String>,
    fingerprint: String,
}

/// Why a text is no [`Template`]. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The text is longer than 1 MiB.
    #[error("a template may have at most 1048576 bytes, and this has {0}")]
    TooLong(usize),
    /// The text does not follow the grammar.
    #[error(
        "the template's line {line}{}: {problem}{}",
        column.map(|column| format!(", column {column}")).unwrap_or_default(),
        hint.map(|hint| format!("; {hint}")).unwrap_or_default()
    )]
    Syntax {
        /// Where.
        line: usize,
        /// Where in the line, when known.
        column: Option<usize>,
        /// What could not be understood. Made from the template alone.
        problem: String,
        /// What was probably meant.
        hint: Option<&'static str>,
    },
    /// A filter, test or function is used that does not exist.
    #[error(
        "the template's line {line}: there is no {kind} `{name}`{}",
        nearest.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
    )]
    Unknown {
        /// Where.
        line: usize,
        /// `filter`, `test`, `function` or `method`.
        kind: &'static str,
        /// The name that was used.
        name: String,
        /// One that exists, with a similar name.
        nearest: Option<&'static str>,
    },
    /// What is written there is understood, but could take work or memory without bound.
    #[error("the template's line {line}: {problem}")]
    Unbounded {
        /// Where.
        line: usize,
        /// What the bound is, and the way out.
        problem: &'static str,
    },
}

impl Template {
    /// Parses and checks `text`. All that can be known without the values is checked here.
    pub fn new(text: &str) -> Result<Self, TemplateError> {
        if text.len() > SIZE_MAX {
            return Err(TemplateError::TooLong(text.len()));
        }
        // First of all the bounds: the parser's recursion has none for some of them.
        lint::check_bounds(text)?;
        let mut environment = environment();
        environment.add_template_owned(NAME, text.to_owned()).map_err(|error| explain::syntax(&error, text))?;
        lint::check_names(text)?;
        let mut names: BTreeSet<String> = environment
            .get_template(NAME)
            .map_err(|error| explain::syntax(&error, text))?
            .undeclared_variables(false)
            .into_iter()
            .collect();
        for function in lint::FUNCTIONS {
            names.remove(function);
        }
        Ok(Self(Arc::new(Parsed { environment, text: text.to_owned(), names, fingerprint: fingerprint(text) })))
    }

    /// The names of the values that the template refers to.
    #[must_use]
    pub fn names(&self) -> &BTreeSet<String> {
        &self.0.names
    }

    /// 16 hexadecimal digits that stand for the text: templates with equal fingerprints render
    /// equal values to equal bytes. Not secret, as the text is not.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// Renders the template with `values` by name. Those it does not refer to are not looked at.
    ///
    /// No error shows any part of a value, though names of keys may show.
    pub fn render(&self, values: &BTreeMap<&str, &Value>) -> Result<Secret, RenderError> {
        let Parsed { environment, text, names, .. } = &*self.0;
        let data = Data::new(names, values)?;
        let mut sink = Sink::new(SIZE_MAX);
        let done = environment.get_template(NAME).and_then(|template| {
            let done = template.render_captured_to(data.root(), &mut sink);
            done.map(drop)
        });
        if let Some(fault) = data.fault() {
            return Err(fault.into());
        }
        match done {
            Ok(()) => Ok(sink.into_secret()),
            Err(_) if sink.is_full() => Err(TemplateFault::TooLarge.into()),
            Err(error) => Err(explain::failure(&error, text, names, &data)),
        }
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Template {}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Template").field(&self.0.fingerprint).finish()
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    environment.set_syntax(syntax.expect("no delimiter is changed"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH_MAX);
    // For the range of the expression that failed, in release builds as in debug builds.
    environment.set_debug(true);
    filter::install(&mut environment);
    environment
}

fn fingerprint(text: &str) -> String {
    Sha256::digest(text).iter().take(8).fold(String::new(), |mut hex, byte| {
        // Writing to a String does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
