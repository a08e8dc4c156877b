//! What the engine would notice only while it renders, or not before it has run out of stack or
//! time, is found before.

use super::TemplateError;
use crate::render::selector::nearest;

/// Most names and operators in one tag. The engine's compiler recurses over them, and in a debug
/// build needs up to 2 KiB of stack for each.
const TAG_MAX: usize = 256;

/// Most `elif`s in a template; the engine takes each for an `if` in the `else` of the one before.
const ELIF_MAX: usize = 100;

/// Most `+` in one tag. The engine makes lists longer at no cost, and then writes them at any.
const PLUS_MAX: usize = 16;

/// Most `+` in the tags that name values, where each can double a list.
const GROWTH_MAX: usize = 4;

/// The functions a template may call.
pub(super) const FUNCTIONS: [&str; 1] = ["range"];

/// The filters a template may use.
pub(super) const FILTERS: [&str; 48] = [
    "abs",
    "attr",
    "b64decode",
    "b64encode",
    "base64",
    "bool",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "indent",
    "int",
    "items",
    "join",
    "json",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "properties",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "select",
    "selectattr",
    "shell",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "urlencode",
    "yaml",
];

/// The tests a template may use.
pub(super) const TESTS: [&str; 36] = [
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "int",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "safe",
    "sameas",
    "sequence",
    "startingwith",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

/// Words of the grammar before which a name is not called, and which name no value.
const KEYWORDS: [&str; 16] = [
    "and",
    "elif",
    "else",
    "false",
    "False",
    "for",
    "if",
    "in",
    "is",
    "none",
    "None",
    "not",
    "or",
    "recursive",
    "true",
    "True",
];

/// Refuses what could take stack, time or memory without bound.
pub(super) fn check_bounds(text: &str) -> Result<(), TemplateError> {
    let (mut elifs, mut growth) = (0, 0);
    for tag in Tags::of(text) {
        let refuse = |problem| Err(TemplateError::Unbounded { line: tag.line, problem });
        let weight = tag.tokens.iter().filter(|token| token.nests()).count();
        if weight > TAG_MAX {
            return refuse("one tag may have at most 256 names and operators: take it apart with `{% set %}`");
        }
        if tag.tokens.contains(&Token::Mark('*')) {
            return refuse("a template has no `*`: it could repeat a list without end");
        }
        let plus = tag.tokens.iter().filter(|token| **token == Token::Mark('+')).count();
        if plus > PLUS_MAX {
            return refuse("one tag may have at most 16 `+`: join texts with `~`");
        }
        if maps_to_value(&tag) {
            return refuse("`map` takes one filter's name, or `attribute=`, and nothing else: use a loop");
        }
        let Some(Token::Name(keyword @ ("elif" | "for" | "set" | "with"))) = tag.tokens.first() else { continue };
        if *keyword == "elif" {
            elifs += 1;
            if elifs > ELIF_MAX {
                return refuse("a template may have at most 100 `elif`: look the answer up in a mapping");
            }
            continue;
        }
        growth += plus;
        if growth > GROWTH_MAX {
            return refuse(
                "the `set`, `with` and `for` of a template may have at most 4 `+` between them: join texts with `~`",
            );
        }
        if collects(&tag, keyword) {
            return refuse(
                "`set`, `with` and `for` may not put values into lists of lists: write the list where it is used, or one level deep in `for`",
            );
        }
    }
    Ok(())
}

/// Refuses filters, tests and functions that do not exist. For a text known to follow the grammar.
pub(super) fn check_names(text: &str) -> Result<(), TemplateError> {
    for tag in Tags::of(text) {
        let at = |index: Option<usize>| index.and_then(|index| tag.tokens.get(index));
        for (index, token) in tag.tokens.iter().enumerate() {
            let Token::Name(name) = token else { continue };
            let before = at(index.checked_sub(1));
            let earlier = at(index.checked_sub(2));
            let is_called = at(index.checked_add(1)) == Some(&Token::Mark('('));
            let after_is = match before {
                Some(Token::Name("is")) => earlier != Some(&Token::Mark('.')),
                Some(Token::Name("not")) => earlier == Some(&Token::Name("is")),
                _ => false,
            };
            let block_filter = tag.is_statement && index == 1 && before == Some(&Token::Name("filter"));
            let (kind, known): (_, &[&'static str]) = match before {
                Some(Token::Mark('|')) => ("filter", &FILTERS),
                _ if block_filter => ("filter", &FILTERS),
                _ if after_is && *name != "not" => ("test", &TESTS),
                // What a loop offers is known to the engine.
                Some(Token::Mark('.')) if is_called && earlier != Some(&Token::Name("loop")) => ("method", &[]),
                Some(Token::Mark('.')) => continue,
                _ if is_called && *name != "loop" && !KEYWORDS.contains(name) => ("function", &FUNCTIONS),
                _ => continue,
            };
            if !known.contains(name) {
                let nearest = nearest(name, known.iter().copied());
                return Err(TemplateError::Unknown { line: tag.line, kind, name: (*name).to_owned(), nearest });
            }
        }
    }
    Ok(())
}

/// Whether the tag, which begins with `keyword`, may name a list that holds a value twice. Done again
/// and again, that makes of a short template a list without end: `{% set a = [a, a] %}`.
fn collects(tag: &Tag<'_>, keyword: &str) -> bool {
    #[derive(PartialEq)]
    enum Open {
        List,
        Group,
        Call,
    }
    let is_loop = keyword == "for";
    let mut open = Vec::new();
    let mut before: Option<&Token<'_>> = None;
    // A loop's targets are names of values to come.
    let start = if is_loop { tag.tokens.iter().position(|token| *token == Token::Name("in")).unwrap_or(0) } else { 0 };
    for token in &tag.tokens[start + 1..] {
        match token {
            Token::Mark(mark @ ('[' | '{' | '(')) => open.push(match before {
                Some(Token::Name(name)) if !KEYWORDS.contains(name) => Open::Call,
                Some(Token::Text | Token::Mark(']' | '}' | ')')) => Open::Call,
                _ if *mark == '(' => Open::Group,
                _ => Open::List,
            }),
            Token::Mark(']' | '}' | ')') => drop(open.pop()),
            // A list in round brackets or in none.
            Token::Mark(',') if open.last() == Some(&Open::Group) => return true,
            Token::Mark(',') if open.is_empty() && keyword == "set" => return true,
            Token::Name(name)
                if !KEYWORDS.contains(name)
                    && before != Some(&Token::Mark('.'))
                    && open.contains(&Open::List)
                    && !(is_loop && open.len() == 1) =>
            {
                return true;
            }
            _ => {}
        }
        before = Some(token);
    }
    false
}

/// Whether a `map` has more than one argument: `text | list | map("int", default=text)` is the text
/// times its length.
fn maps_to_value(tag: &Tag<'_>) -> bool {
    tag.tokens.windows(2).enumerate().any(|(at, pair)| {
        let mut open = 0;
        pair == [Token::Mark('|'), Token::Name("map")]
            && tag.tokens[at + 2..]
                .iter()
                .take_while(|token| {
                    match token {
                        Token::Mark('(') => open += 1,
                        Token::Mark(')') => open -= 1,
                        _ => {}
                    }
                    open > 0
                })
                .any(|token| *token == Token::Mark(','))
    })
}

/// `{{ … }}` or `{% … %}`.
struct Tag<'a> {
    /// The line it begins on, from 1.
    line: usize,
    is_statement: bool,
    tokens: Vec<Token<'a>>,
}

#[derive(PartialEq)]
enum Token<'a> {
    Name(&'a str),
    /// A string.
    Text,
    /// A number.
    Number,
    Mark(char),
}

impl Token<'_> {
    /// Whether the engine may recurse for it.
    fn nests(&self) -> bool {
        !matches!(self, Token::Text | Token::Number | Token::Mark(',' | ':' | ')' | ']' | '}' | '='))
    }
}

/// The tags of a template, whatever is wrong with it: comments and `raw` blocks have none.
struct Tags<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Tags<'a> {
    fn of(text: &'a str) -> Self {
        Self { rest: text, line: 1 }
    }

    /// Goes on by `length` bytes.
    fn pass(&mut self, length: usize) {
        let (passed, rest) = self.rest.split_at(length);
        self.line += passed.matches('\n').count();
        self.rest = rest;
    }

    /// The tokens up to the tag's end, which is passed as well.
    fn tokens(&mut self, end: &str) -> Vec<Token<'a>> {
        let mut tokens = Vec::new();
        let mut braces = 0_usize;
        let text = self.rest;
        let mut at = 0;
        while let Some(first) = text[at..].chars().next() {
            if text[at..].starts_with(end) && (end != "}}" || braces == 0) {
                at += end.len();
                break;
            }
            let rest = &text[at..];
            let length = match first {
                '"' | '\'' => {
                    tokens.push(Token::Text);
                    string_length(rest)
                }
                _ if first.is_alphabetic() || first == '_' => {
                    let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                    tokens.push(Token::Name(&rest[..length]));
                    length
                }
                '0'..='9' => {
                    tokens.push(Token::Number);
                    rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
                }
                _ => {
                    match first {
                        '{' => braces += 1,
                        '}' => braces = braces.saturating_sub(1),
                        _ => {}
                    }
                    if !first.is_whitespace() {
                        tokens.push(Token::Mark(first));
                    }
                    first.len_utf8()
                }
            };
            at += length;
        }
        self.pass(at);
        tokens
    }

    /// Passes a `raw` block, whose first tag has been passed.
    fn pass_raw(&mut self) {
        let end = self.rest.match_indices("{%").find(|(at, _)| {
            let inside = self.rest[at + 2..].trim_start_matches(['-', '+']).trim_start();
            inside.starts_with("endraw")
        });
        self.pass(end.map_or(self.rest.len(), |(at, _)| at));
    }
}

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        loop {
            let start = self
                .rest
                .match_indices('{')
                .map(|(at, _)| at)
                .find(|at| matches!(self.rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')))?;
            self.pass(start);
            let line = self.line;
            let kind = self.rest.as_bytes()[1];
            self.pass(2);
            if kind == b'#' {
                self.pass(self.rest.find("#}").map_or(self.rest.len(), |end| end + 2));
                continue;
            }
            // What controls whitespace is no operator.
            if self.rest.starts_with(['-', '+']) {
                self.pass(1);
            }
            let mut tokens = self.tokens(if kind == b'{' { "}}" } else { "%}" });
            if kind == b'%' && tokens.first() == Some(&Token::Name("raw")) {
                self.pass_raw();
                continue;
            }
            if matches!(tokens.last(), Some(Token::Mark('-' | '+'))) {
                tokens.pop();
            }
            return Some(Tag { line, is_statement: kind == b'%', tokens });
        }
    }
}

/// The length of the string that `text` begins with, quotes included.
fn string_length(text: &str) -> usize {
    let quote = text.chars().next();
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if !escaped && Some(character) == quote {
            return at + 1;
        }
        escaped = character == '\\' && !escaped;
    }
    text.len()
}
