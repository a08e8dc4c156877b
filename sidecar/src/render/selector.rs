//! Which part of a JSON value is wanted.

mod evaluate;
mod function;
mod strings;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use jmespath::Variable;
use jmespath::ast::Ast;

use self::function::Function;
use self::strings::StringsOnly;
use super::json::{Json, write_string};
use super::{RenderError, Value};

/// Longest selector, in bytes.
const LENGTH_MAX: usize = 1024;

/// Most operators one inside the other; see [`nesting`]. The parser's recursion has no bound of
/// its own, and in a debug build it takes up to 8 KiB of stack for each.
const NESTING_MAX: usize = 40;

/// An expression of JMESPath (<https://jmespath.org/specification.html>), known to be one.
///
/// Values are selected strictly: what finds nothing, or null, is an error, and so is such a part
/// of a multi-select (`{user: username, pass: password}`) that makes the result. In projections,
/// filters and functions JMESPath's own rules hold.
///
/// Objects keep the order of their keys, and `*`, `keys` and `values` follow it. Numbers keep
/// their digits, and are compared and sorted by them, to the last; only arithmetic takes them as
/// 64-bit floats, and refuses what would lose digits there.
///
/// Equal selectors are those of equal text that select for the same purpose.
#[derive(Clone)]
pub struct Selector {
    text: Box<str>,
    ast: Arc<Ast>,
    /// Whether it is an entry of a class, which takes strings only.
    strings: Option<Arc<StringsOnly>>,
}

/// Why a text is no [`Selector`]. Columns count characters from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text is empty or blank.
    #[error("a selector may not be empty: leave `select` out to take the whole value")]
    Empty,
    /// The text is longer than 1 KiB.
    #[error("a selector may have at most 1024 bytes, and this has {0}")]
    TooLong(usize),
    /// Brackets, dots and operators nest more than 40 deep.
    #[error("a selector may nest at most 40 operators, and this goes deeper at column {column}")]
    TooDeep {
        /// Where the bound is passed.
        column: usize,
    },
    /// The text is not JMESPath.
    #[error("`{}` is not JMESPath: {at}{}", one_line(text), hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default())]
    Syntax {
        /// The selector.
        text: String,
        /// What it could not go on with, and the column.
        at: String,
        /// What was probably meant.
        hint: Option<String>,
    },
    /// A function is called that JMESPath does not have.
    #[error(
        "`{name}` at column {column} is not a function of JMESPath{}",
        nearest.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
    )]
    UnknownFunction {
        /// The name that was called.
        name: String,
        /// Where.
        column: usize,
        /// The function with the most similar name.
        nearest: Option<&'static str>,
    },
    /// A function is called with too few or too many arguments, or with `&` in the wrong place.
    #[error("{function}() at column {column} takes {takes}")]
    Arguments {
        /// The function.
        function: &'static str,
        /// Where.
        column: usize,
        /// The arguments it takes.
        takes: &'static str,
    },
    /// `&` stands where no function takes an expression.
    #[error("`&` at column {column} makes an expression for `map`, `sort_by`, `min_by` or `max_by` only")]
    Reference {
        /// Where.
        column: usize,
    },
    /// A slice has the step 0.
    #[error("the slice that ends at column {column} has the step 0, which goes nowhere")]
    ZeroStep {
        /// Where its `]` is.
        column: usize,
    },
    /// A multi-select names a key twice.
    #[error("`{}` names the key `{}` twice: remove one", one_line(text), one_line(key))]
    RepeatedKey {
        /// The selector.
        text: String,
        /// The key.
        key: String,
    },
    /// The selector is a constant and would never look at the value. In JMESPath `'password'` is
    /// the word itself, `"password"` and `password` are the key.
    #[error("`{}` is a constant, not a key: write the key bare, or in double quotes", one_line(text))]
    Constant {
        /// The selector.
        text: String,
    },
}

impl Selector {
    /// Checks `expression` and takes it as a selector.
    pub fn new(expression: &str) -> Result<Self, SelectorError> {
        if expression.trim().is_empty() {
            return Err(SelectorError::Empty);
        }
        if expression.len() > LENGTH_MAX {
            return Err(SelectorError::TooLong(expression.len()));
        }
        if let Err(offset) = nesting(expression) {
            return Err(SelectorError::TooDeep { column: column(expression, offset) });
        }
        let ast = jmespath::parse(expression).map_err(|error| syntax(expression, error.offset))?;
        if matches!(ast, Ast::Literal { .. }) {
            return Err(SelectorError::Constant { text: expression.to_owned() });
        }
        check(&ast, expression)?;
        Ok(Self { text: expression.into(), ast: Arc::new(ast), strings: None })
    }

    /// Takes `path` as the selector of a SecretProviderClass: an entry of the `jmesPath` of `object`
    /// with the file name `alias`. It finds strings only, and what is wrong with a value it says in
    /// the words of AWS's provider first.
    pub fn strings_only(path: &str, object: &str, alias: &str) -> Result<Self, SelectorError> {
        let strings = StringsOnly { object: object.to_owned(), alias: alias.to_owned() };
        Ok(Self { strings: Some(Arc::new(strings)), ..Self::new(path)? })
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the selector finds in `value`, which is the text of a JSON; never null.
    pub(super) fn find_in(&self, value: &Value) -> Result<Arc<Json>, RenderError> {
        match &self.strings {
            None => self.find(&Json::parse(value.as_text()?)?),
            Some(strings) => strings.find_in(self, value),
        }
    }

    /// What the selector finds in `json`; never null.
    pub(super) fn find(&self, json: &Arc<Json>) -> Result<Arc<Json>, RenderError> {
        evaluate::find(&self.ast, &self.text, json)
    }
}

impl fmt::Display for Selector {
    /// What tells it from every other selector. No expression ends in ` as string`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if self.strings.is_some() { f.write_str(" as string") } else { Ok(()) }
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.strings == other.strings
    }
}

impl Eq for Selector {}

impl Hash for Selector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Selector").field(&self.to_string()).finish()
    }
}

/// The one of `names` that `wanted` was probably meant to be: at most a third of its letters
/// differ, their case aside.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let most = (wanted.chars().count() / 3).max(1);
    names
        .map(|name| (strsim::damerau_levenshtein(&wanted, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Follows how deep operators nest, and gives the offset at which the bound is passed.
///
/// Counted before parsing, and never too low: each operator inside a bracket is taken to nest in
/// all those before it in the same bracket, up to a comma.
fn nesting(expression: &str) -> Result<(), usize> {
    // Operators of each open bracket, the outermost first, since its last comma.
    let mut open = vec![0];
    let mut depth = 0;
    let mut characters = expression.char_indices();
    while let Some((offset, character)) = characters.next() {
        let mut deeper = 0;
        match character {
            '"' | '\'' | '`' => {
                while let Some((_, inside)) = characters.next() {
                    match inside {
                        '\\' => drop(characters.next()),
                        // The nesting of a JSON literal. What closes there is not counted: it may
                        // stand in a string.
                        '[' | '{' if character == '`' => deeper += 1,
                        end if end == character => break,
                        _ => {}
                    }
                }
            }
            '(' | '[' | '{' | '.' | '|' | '&' | '!' | '*' | '=' | '<' | '>' => deeper = 1,
            ')' | ']' | '}' if open.len() > 1 => depth -= open.pop().unwrap_or_default(),
            ',' => depth -= open.last_mut().map(std::mem::take).unwrap_or_default(),
            _ => {}
        }
        depth += deeper;
        if let Some(level) = open.last_mut() {
            *level += deeper;
        }
        if depth > NESTING_MAX {
            return Err(offset);
        }
        if matches!(character, '(' | '[' | '{') {
            open.push(0);
        }
    }
    Ok(())
}

/// Checks what the grammar leaves open: names and arguments of functions, places of `&`, steps of
/// slices, keys given twice.
fn check(node: &Ast, text: &str) -> Result<(), SelectorError> {
    match node {
        Ast::Identity { .. } | Ast::Field { .. } | Ast::Index { .. } => Ok(()),
        Ast::Literal { offset, value } => literal(text, *offset, value).map(drop).map_err(|_| syntax(text, *offset)),
        Ast::Slice { offset, step: 0, .. } => Err(SelectorError::ZeroStep { column: column(text, *offset) }),
        Ast::Slice { .. } => Ok(()),
        Ast::Expref { offset, .. } => Err(SelectorError::Reference { column: column(text, *offset) }),
        Ast::Not { node, .. } | Ast::Flatten { node, .. } | Ast::ObjectValues { node, .. } => check(node, text),
        Ast::Comparison { lhs, rhs, .. }
        | Ast::And { lhs, rhs, .. }
        | Ast::Or { lhs, rhs, .. }
        | Ast::Projection { lhs, rhs, .. }
        | Ast::Subexpr { lhs, rhs, .. }
        | Ast::Condition { predicate: lhs, then: rhs, .. } => check(lhs, text).and_then(|()| check(rhs, text)),
        Ast::MultiList { elements, .. } => elements.iter().try_for_each(|element| check(element, text)),
        Ast::MultiHash { elements, .. } => {
            let mut seen = HashSet::with_capacity(elements.len());
            elements.iter().try_for_each(|pair| {
                if !seen.insert(&pair.key) {
                    return Err(SelectorError::RepeatedKey { text: text.to_owned(), key: pair.key.clone() });
                }
                check(&pair.value, text)
            })
        }
        Ast::Function { offset, name, args } => {
            // The parser's place is the opening bracket.
            let before = text.get(..*offset).unwrap_or_default().trim_end();
            let column = column(text, before.len().saturating_sub(name.len()));
            let function = Function::named(name).ok_or_else(|| SelectorError::UnknownFunction {
                name: name.clone(),
                column,
                nearest: nearest(name, Function::ALL.iter().map(|function| function.name))
                    .and_then(Function::named)
                    .map(|function| function.name),
            })?;
            if !function.accepts(args) {
                return Err(SelectorError::Arguments { function: function.name, column, takes: function.takes });
            }
            args.iter().try_for_each(|arg| check(if let Ast::Expref { ast, .. } = arg { ast } else { arg }, text))
        }
    }
}

/// A selector as it may stand in a message: what would break its line, or cannot be seen, is escaped; quotes and `\`,
/// which it is full of, are not.
pub(super) fn one_line(text: &str) -> String {
    let shown = |c: char| if matches!(c, '"' | '\'' | '\\') { c.to_string() } else { c.escape_debug().to_string() };
    text.chars().map(shown).collect()
}

/// The character after the first `offset` bytes, counted from 1.
fn column(text: &str, offset: usize) -> usize {
    text.char_indices().take_while(|(at, _)| *at < offset).count() + 1
}

/// What is wrong at `offset`, in words of our own: the parser's speak of its tokens.
fn syntax(text: &str, offset: usize) -> SelectorError {
    let rest = text.get(offset..).unwrap_or_default();
    let at = match rest.chars().next() {
        None => "it ends too early".to_owned(),
        Some(quote @ ('"' | '\'' | '`')) if !rest[1..].contains(quote) => {
            format!("the {quote} at column {} is not closed", column(text, offset))
        }
        Some(found) => format!("it cannot go on with {found:?} at column {}", column(text, offset)),
    };
    SelectorError::Syntax { text: text.to_owned(), at, hint: hint(text, offset) }
}

/// What was probably meant by a text that fails to parse at `offset`.
fn hint(text: &str, offset: usize) -> Option<String> {
    if text.starts_with('$') {
        return Some("JMESPath has no `$` for the whole value: start with the key".to_owned());
    }
    if text.starts_with(['.', '/']) {
        return Some("a selector starts with the key, and `.` joins keys: `db.password`".to_owned());
    }
    // A space or colon can be part of a key only where it is not part of the grammar.
    let loose = if text.contains(['{', '[']) { "" } else { " :" };
    let in_name = |c: char| c.is_alphanumeric() || "_-/$+~#%".contains(c) || loose.contains(c);
    let (before, rest) = text.split_at_checked(offset)?;
    let start = before.trim_end_matches(in_name).len();
    let end = text.len() - rest.trim_start_matches(in_name).len();
    let name = text[start..end].trim();
    if name.contains(char::is_alphanumeric) && !is_bare(name) {
        return Some(format!("a key of more than letters, digits and `_` needs double quotes: `{}`", quoted(name)));
    }
    rest.starts_with('=').then(|| "comparing is `==`".to_owned())
}

/// Whether a selector can name `key` without quotes.
fn is_bare(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `key` as a selector names it.
fn quoted(key: &str) -> String {
    if is_bare(key) {
        return key.to_owned();
    }
    let mut text = String::new();
    write_string(key, &mut |piece| text.push_str(piece));
    text
}

/// The value of the literal at `offset`. Read anew from the selector's text, because the parser's
/// `value` has been through a float; a raw string, in single quotes, it has right.
fn literal(text: &str, offset: usize, value: &Variable) -> Result<Arc<Json>, RenderError> {
    match (value, text.get(offset..).and_then(|rest| rest.strip_prefix('`'))) {
        (_, Some(rest)) => {
            let mut escaped = false;
            let end = rest.find(|c| {
                let ends = c == '`' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            Json::parse(&rest[..end.unwrap_or(rest.len())].replace("\\`", "`"))
        }
        (Variable::String(text), None) => Ok(Arc::new(Json::String(text.clone().into()))),
        // A literal is one or the other.
        (_, None) => Ok(Arc::new(Json::Null)),
    }
}
