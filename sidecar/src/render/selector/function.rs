//! JMESPath's functions (<https://jmespath.org/specification.html#built-in-functions>).

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jmespath::ast::Ast;
use zeroize::Zeroizing;

use crate::render::json::{Entry, Json, compare_numbers};

/// Below this every whole number is exact in a 64-bit float.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// One function.
pub(super) struct Function {
    pub(super) name: &'static str,
    /// Its arguments, for an error.
    pub(super) takes: &'static str,
    /// Fewest and most arguments.
    count: (usize, usize),
    pub(super) body: Body,
}

/// What a function does.
#[derive(Clone, Copy)]
pub(super) enum Body {
    /// Works on values alone. Asks before work that its arguments' size does not bound.
    Values(fn(&[Arc<Json>], Allowed<'_>) -> Outcome),
    /// Works on the items of the array that is argument number `items` (of two), and on what the
    /// expression that is the other argument gives for each of them.
    Each { items: usize, call: EachCall },
}

type EachCall = fn(&[Arc<Json>], &[Arc<Json>]) -> Outcome;

/// Whether so much more work may be done.
pub(super) type Allowed<'a> = &'a mut dyn FnMut(usize) -> bool;

pub(super) type Outcome = Result<Arc<Json>, Failure>;

/// Why a function gives nothing.
pub(super) enum Failure {
    /// An argument of a wrong type, named by its type alone; or a sum out of bounds.
    Problem(String),
    /// More work than is allowed.
    TooMuch,
}

impl Failure {
    /// The argument at `position` (from 0) is not what the function `wants`.
    pub(super) fn argument(position: usize, wants: &str, given: &Json) -> Self {
        Self::Problem(format!("wants {wants} as argument {}, which is: {}", position + 1, given.kind()))
    }
}

impl Function {
    /// Every function, by name.
    pub(super) const ALL: &[Self] = &[
        Self::values("abs", "a number", 1, abs),
        Self::values("avg", "an array of numbers", 1, avg),
        Self::values("ceil", "a number", 1, ceil),
        Self::values("contains", "a string or an array, and what to look for", 2, contains),
        Self::values("ends_with", "two strings", 2, ends_with),
        Self::values("floor", "a number", 1, floor),
        Self::values("join", "a string to put between, and an array of strings", 2, join),
        Self::values("keys", "an object", 1, keys),
        Self::values("length", "a string, an array or an object", 1, length),
        Self::each("map", "an expression such as `&name`, and an array", 1, |_, each| Ok(array(each.to_vec()))),
        Self::values("max", "an array of numbers or of strings", 1, max),
        Self::each("max_by", "an array, and an expression such as `&name`", 0, max_by),
        Self { count: (1, usize::MAX), ..Self::values("merge", "one object or more", 1, merge) },
        Self::values("min", "an array of numbers or of strings", 1, min),
        Self::each("min_by", "an array, and an expression such as `&name`", 0, min_by),
        Self { count: (1, usize::MAX), ..Self::values("not_null", "one value or more", 1, not_null) },
        Self::values("reverse", "a string or an array", 1, reverse),
        Self::values("sort", "an array of numbers or of strings", 1, sort),
        Self::each("sort_by", "an array, and an expression such as `&name`", 0, sort_by),
        Self::values("starts_with", "two strings", 2, starts_with),
        Self::values("sum", "an array of numbers", 1, sum),
        Self::values("to_array", "a value", 1, to_array),
        Self::values("to_number", "a value", 1, to_number),
        Self::values("to_string", "a value", 1, to_string),
        Self::values("type", "a value", 1, type_of),
        Self::values("values", "an object", 1, values),
    ];

    /// The function of that name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|function| function.name == name)
    }

    /// Whether there are as many arguments as it takes, and expressions (`&…`) where it takes them.
    pub(super) fn accepts(&self, args: &[Ast]) -> bool {
        let (least, most) = self.count;
        (least..=most).contains(&args.len())
            && args.iter().enumerate().all(|(position, arg)| {
                let expression = matches!(self.body, Body::Each { items, .. } if items != position);
                matches!(arg, Ast::Expref { .. }) == expression
            })
    }

    const fn values(
        name: &'static str,
        takes: &'static str,
        count: usize,
        call: fn(&[Arc<Json>], Allowed<'_>) -> Outcome,
    ) -> Self {
        Self { name, takes, count: (count, count), body: Body::Values(call) }
    }

    const fn each(name: &'static str, takes: &'static str, items: usize, call: EachCall) -> Self {
        Self { name, takes, count: (2, 2), body: Body::Each { items, call } }
    }
}

fn abs(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    let text = number_argument(args, 0)?;
    Ok(number_text(text.strip_prefix('-').unwrap_or(text)))
}

fn avg(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    let items = array_argument(args, 0)?;
    if items.is_empty() {
        return Ok(Arc::new(Json::Null));
    }
    number(total(args)? / items.len() as f64)
}

fn ceil(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    rounded(args, f64::ceil)
}

fn contains(args: &[Arc<Json>], allowed: Allowed<'_>) -> Outcome {
    let found = match (&*args[0], &*args[1]) {
        (Json::Array(items), wanted) => {
            if !allowed(items.len().saturating_mul(wanted.weight(usize::MAX))) {
                return Err(Failure::TooMuch);
            }
            items.iter().any(|item| **item == *wanted)
        }
        (Json::String(text), Json::String(wanted)) => text.contains(wanted.as_str()),
        (Json::String(_), _) => false,
        (other, _) => return Err(Failure::argument(0, "a string or an array", other)),
    };
    Ok(Arc::new(Json::Bool(found)))
}

fn ends_with(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    Ok(Arc::new(Json::Bool(string_argument(args, 0)?.ends_with(string_argument(args, 1)?))))
}

fn floor(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    rounded(args, f64::floor)
}

fn join(args: &[Arc<Json>], allowed: Allowed<'_>) -> Outcome {
    let between = string_argument(args, 0)?;
    let items = array_argument(args, 1)?;
    let mut length = between.len().saturating_mul(items.len());
    if !allowed(length) {
        return Err(Failure::TooMuch);
    }
    let mut texts = Vec::with_capacity(items.len());
    for item in items {
        let Json::String(text) = &**item else { return Err(Failure::argument(1, "an array of strings", &args[1])) };
        length += text.len();
        texts.push(text.as_str());
    }
    let mut joined = Zeroizing::new(String::with_capacity(length));
    for (position, text) in texts.into_iter().enumerate() {
        joined.push_str(if position == 0 { "" } else { between });
        joined.push_str(text);
    }
    Ok(Arc::new(Json::String(joined)))
}

fn keys(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    Ok(array(object_argument(args, 0)?.iter().map(|(key, _)| Arc::new(Json::String(key.clone()))).collect()))
}

fn length(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    let length = match &*args[0] {
        Json::String(text) => text.chars().count(),
        Json::Array(items) => items.len(),
        Json::Object(entries) => entries.len(),
        other => return Err(Failure::argument(0, "a string, an array or an object", other)),
    };
    Ok(number_text(&length.to_string()))
}

fn max(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    let items = ordered_argument(args)?;
    Ok(items
        .iter()
        .reduce(|best, item| if order(item, best).is_gt() { item } else { best })
        .map_or_else(null, Arc::clone))
}

fn max_by(items: &[Arc<Json>], by: &[Arc<Json>]) -> Outcome {
    best_by(items, by, Ordering::Greater)
}

fn merge(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    let mut merged: Vec<Entry> = Vec::new();
    let mut places = HashMap::new();
    for position in 0..args.len() {
        for (key, value) in object_argument(args, position)? {
            match places.get(key.as_str()) {
                Some(place) => {
                    let entry: &mut Entry = &mut merged[*place];
                    entry.1 = value.clone();
                }
                None => {
                    places.insert(key.as_str(), merged.len());
                    merged.push((key.clone(), value.clone()));
                }
            }
        }
    }
    Ok(Arc::new(Json::Object(merged)))
}

fn min(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    let items = ordered_argument(args)?;
    Ok(items
        .iter()
        .reduce(|best, item| if order(item, best).is_lt() { item } else { best })
        .map_or_else(null, Arc::clone))
}

fn min_by(items: &[Arc<Json>], by: &[Arc<Json>]) -> Outcome {
    best_by(items, by, Ordering::Less)
}

fn not_null(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    Ok(args.iter().find(|arg| !matches!(***arg, Json::Null)).map_or_else(null, Arc::clone))
}

fn reverse(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    match &*args[0] {
        Json::Array(items) => Ok(array(items.iter().rev().cloned().collect())),
        Json::String(text) => {
            let mut reversed = Zeroizing::new(String::with_capacity(text.len()));
            reversed.extend(text.chars().rev());
            Ok(Arc::new(Json::String(reversed)))
        }
        other => Err(Failure::argument(0, "a string or an array", other)),
    }
}

fn sort(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    let mut items = ordered_argument(args)?.to_vec();
    items.sort_by(|a, b| order(a, b));
    Ok(array(items))
}

fn sort_by(items: &[Arc<Json>], by: &[Arc<Json>]) -> Outcome {
    check_ordered_by(by)?;
    let mut pairs: Vec<_> = items.iter().zip(by).collect();
    pairs.sort_by(|(_, a), (_, b)| order(a, b));
    Ok(array(pairs.into_iter().map(|(item, _)| item.clone()).collect()))
}

fn starts_with(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    Ok(Arc::new(Json::Bool(string_argument(args, 0)?.starts_with(string_argument(args, 1)?))))
}

fn sum(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    number(total(args)?)
}

fn to_array(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    Ok(match &*args[0] {
        Json::Array(_) => args[0].clone(),
        _ => array(vec![args[0].clone()]),
    })
}

fn to_number(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    Ok(match &*args[0] {
        Json::Number(_) => args[0].clone(),
        Json::String(text) => {
            let json =
                if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) { Json::parse(text).ok() } else { None };
            json.filter(|json| matches!(**json, Json::Number(_))).unwrap_or_else(null)
        }
        _ => null(),
    })
}

fn to_string(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    Ok(Arc::new(Json::String(args[0].to_plain())))
}

fn type_of(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    Ok(Arc::new(Json::String(args[0].kind().to_owned().into())))
}

fn values(args: &[Arc<Json>], _: Allowed<'_>) -> Outcome {
    Ok(array(object_argument(args, 0)?.iter().map(|(_, value)| value.clone()).collect()))
}

fn best_by(items: &[Arc<Json>], by: &[Arc<Json>], better: Ordering) -> Outcome {
    check_ordered_by(by)?;
    let best = items.iter().zip(by).reduce(|best, next| if order(next.1, best.1) == better { next } else { best });
    Ok(best.map_or_else(null, |(item, _)| item.clone()))
}

fn rounded(args: &[Arc<Json>], round: fn(f64) -> f64) -> Outcome {
    let text = number_argument(args, 0)?;
    if text.contains(['.', 'e', 'E']) { number(round(float(text))) } else { Ok(args[0].clone()) }
}

fn total(args: &[Arc<Json>]) -> Result<f64, Failure> {
    let mut total = 0.0;
    for item in array_argument(args, 0)? {
        let Json::Number(text) = &**item else { return Err(Failure::argument(0, "an array of numbers", &args[0])) };
        let value = float(text);
        if value.abs() >= EXACT_MAX {
            return number(value).map(|_| total);
        }
        total += value;
    }
    Ok(total)
}

/// A JSON number is a number to Rust as well; one beyond all bounds is infinite.
fn float(text: &str) -> f64 {
    text.parse().unwrap_or(f64::NAN)
}

fn number(value: f64) -> Outcome {
    if value.is_nan() || value.abs() >= EXACT_MAX {
        return Err(Failure::Problem("goes beyond 2^53, above which digits would be lost".to_owned()));
    }
    // Adding zero turns -0 into 0.
    let value = value + 0.0;
    Ok(number_text(&if value.fract() == 0.0 { format!("{value:.0}") } else { serde_json::json!(value).to_string() }))
}

fn number_text(text: &str) -> Arc<Json> {
    Arc::new(Json::Number(text.to_owned().into()))
}

fn array(items: Vec<Arc<Json>>) -> Arc<Json> {
    Arc::new(Json::Array(items))
}

fn null() -> Arc<Json> {
    Arc::new(Json::Null)
}

fn number_argument(args: &[Arc<Json>], position: usize) -> Result<&str, Failure> {
    match &*args[position] {
        Json::Number(text) => Ok(text),
        other => Err(Failure::argument(position, "a number", other)),
    }
}

fn string_argument(args: &[Arc<Json>], position: usize) -> Result<&str, Failure> {
    match &*args[position] {
        Json::String(text) => Ok(text),
        other => Err(Failure::argument(position, "a string", other)),
    }
}

fn array_argument(args: &[Arc<Json>], position: usize) -> Result<&[Arc<Json>], Failure> {
    match &*args[position] {
        Json::Array(items) => Ok(items),
        other => Err(Failure::argument(position, "an array", other)),
    }
}

fn object_argument(args: &[Arc<Json>], position: usize) -> Result<&[Entry], Failure> {
    match &*args[position] {
        Json::Object(entries) => Ok(entries),
        other => Err(Failure::argument(position, "an object", other)),
    }
}

/// The first argument, when it is an array of numbers or one of strings.
fn ordered_argument(args: &[Arc<Json>]) -> Result<&[Arc<Json>], Failure> {
    let items = array_argument(args, 0)?;
    if !are_ordered(items) {
        return Err(Failure::argument(0, "an array of numbers or of strings", &args[0]));
    }
    Ok(items)
}

fn check_ordered_by(by: &[Arc<Json>]) -> Result<(), Failure> {
    if are_ordered(by) {
        return Ok(());
    }
    Err(Failure::Problem("wants its expression to give a number for each item, or a string for each".to_owned()))
}

fn are_ordered(items: &[Arc<Json>]) -> bool {
    items.iter().all(|item| matches!(**item, Json::Number(_)))
        || items.iter().all(|item| matches!(**item, Json::String(_)))
}

/// The order of two numbers, or of two strings by code point.
fn order(a: &Json, b: &Json) -> Ordering {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => compare_numbers(a, b),
        (Json::String(a), Json::String(b)) => a.as_str().cmp(b),
        _ => Ordering::Equal,
    }
}
