//! Evaluation of a parsed selector.
//!
//! The grammar is the jmespath crate's; its interpreter is not used, because it sorts keys, passes
//! numbers through floats (two long account numbers can compare equal there), overflows on a large
//! slice step, and puts no bound on work, which a selector of 1 KiB can make exponential.

use std::cell::Cell;
use std::cmp::Ordering;
use std::sync::Arc;

use jmespath::Variable;
use jmespath::ast::{Ast, Comparator};

use super::function::{Body, Failure, Function};
use super::{literal, nearest, quoted};
use crate::render::RenderError;
use crate::render::json::{Json, compare_numbers, is_name, label};

/// How much work a selector may do: values visited, and bytes where whole values are compared,
/// given to a function or written. 64 times the longest secret AWS stores.
const WORK_MAX: usize = 4 << 20;

/// What `ast`, parsed from `text`, finds in `json`; never null.
pub(super) fn find(ast: &Ast, text: &str, json: &Arc<Json>) -> Result<Arc<Json>, RenderError> {
    let evaluation = Evaluation { text, work_left: Cell::new(WORK_MAX) };
    let found = evaluation.of(ast, json, true)?;
    if matches!(*found, Json::Null) {
        return Err(evaluation.missing(ast, json, None));
    }
    evaluation.spend_on(&found)?;
    Ok(found)
}

struct Evaluation<'s> {
    text: &'s str,
    work_left: Cell<usize>,
}

impl Evaluation<'_> {
    /// The value of `node` at `here`. `strict` holds where a multi-select is (part of) the result.
    fn of(&self, node: &Ast, here: &Arc<Json>, strict: bool) -> Result<Arc<Json>, RenderError> {
        self.spend(1)?;
        match node {
            Ast::Identity { .. } => Ok(here.clone()),
            Ast::Field { name, .. } => {
                if let Json::Object(entries) = &**here {
                    self.spend(entries.len())?;
                }
                Ok(here.field(name).cloned().unwrap_or_else(null))
            }
            Ast::Index { idx, .. } => Ok(index(here, *idx).cloned().unwrap_or_else(null)),
            Ast::Subexpr { lhs, rhs, .. } => self.of(rhs, &self.of(lhs, here, false)?, strict),
            Ast::Or { lhs, rhs, .. } => {
                let left = self.of(lhs, here, strict)?;
                if is_true(&left) { Ok(left) } else { self.of(rhs, here, strict) }
            }
            Ast::And { lhs, rhs, .. } => {
                let left = self.of(lhs, here, false)?;
                if is_true(&left) { self.of(rhs, here, strict) } else { Ok(left) }
            }
            Ast::Not { node, .. } => Ok(boolean(!is_true(&*self.of(node, here, false)?))),
            Ast::Comparison { comparator, lhs, rhs, .. } => self.comparison(comparator, lhs, rhs, here),
            Ast::Condition { predicate, then, .. } => {
                if is_true(&*self.of(predicate, here, false)?) {
                    self.of(then, here, false)
                } else {
                    Ok(null())
                }
            }
            Ast::Projection { lhs, rhs, .. } => self.projection(lhs, rhs, here),
            Ast::ObjectValues { node, .. } => self.values(node, here),
            Ast::Flatten { node, .. } => self.flatten(node, here),
            Ast::Slice { start, stop, step, .. } => self.slice(here, *start, *stop, *step),
            Ast::MultiList { elements, .. } => self.list(elements, here, strict),
            Ast::MultiHash { .. } => self.hash(node, here, strict),
            Ast::Literal { offset, value } => self.literal(*offset, value),
            Ast::Function { name, args, .. } => self.function(name, args, here),
            // `Selector::new` lets it stand as a function's argument only, where it is not evaluated.
            Ast::Expref { .. } => Ok(null()),
        }
    }

    fn comparison(&self, by: &Comparator, lhs: &Ast, rhs: &Ast, here: &Arc<Json>) -> Result<Arc<Json>, RenderError> {
        let (left, right) = (self.of(lhs, here, false)?, self.of(rhs, here, false)?);
        self.spend_on(&left)?;
        self.spend_on(&right)?;
        let order = match (&*left, &*right) {
            (Json::Number(a), Json::Number(b)) => Some(compare_numbers(a, b)),
            _ => None,
        };
        Ok(match by {
            Comparator::Equal => boolean(left == right),
            Comparator::NotEqual => boolean(left != right),
            // Only numbers have an order in JMESPath.
            Comparator::LessThan => order.map_or_else(null, |order| boolean(order == Ordering::Less)),
            Comparator::LessThanEqual => order.map_or_else(null, |order| boolean(order != Ordering::Greater)),
            Comparator::GreaterThan => order.map_or_else(null, |order| boolean(order == Ordering::Greater)),
            Comparator::GreaterThanEqual => order.map_or_else(null, |order| boolean(order != Ordering::Less)),
        })
    }

    fn projection(&self, lhs: &Ast, rhs: &Ast, here: &Arc<Json>) -> Result<Arc<Json>, RenderError> {
        // `[1:2]` comes as a projection over a slice of the current value.
        let Json::Array(items) = &*self.of(lhs, here, false)? else { return Ok(null()) };
        let mut found = Vec::with_capacity(items.len());
        for item in items {
            let item = self.of(rhs, item, false)?;
            if !matches!(*item, Json::Null) {
                found.push(item);
            }
        }
        Ok(Arc::new(Json::Array(found)))
    }

    fn values(&self, node: &Ast, here: &Arc<Json>) -> Result<Arc<Json>, RenderError> {
        let Json::Object(entries) = &*self.of(node, here, false)? else { return Ok(null()) };
        self.spend(entries.len())?;
        Ok(Arc::new(Json::Array(entries.iter().map(|(_, value)| value.clone()).collect())))
    }

    fn flatten(&self, node: &Ast, here: &Arc<Json>) -> Result<Arc<Json>, RenderError> {
        let Json::Array(items) = &*self.of(node, here, false)? else { return Ok(null()) };
        let mut flat = Vec::with_capacity(items.len());
        for item in items {
            let inner = match &**item {
                Json::Array(inner) => inner.as_slice(),
                _ => std::slice::from_ref(item),
            };
            self.spend(inner.len())?;
            flat.extend_from_slice(inner);
        }
        Ok(Arc::new(Json::Array(flat)))
    }

    /// As Python slices, which is where JMESPath has it from.
    fn slice(&self, here: &Json, start: Option<i32>, stop: Option<i32>, step: i32) -> Result<Arc<Json>, RenderError> {
        let Json::Array(items) = here else { return Ok(null()) };
        self.spend(items.len())?;
        let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
        let (first, last) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let bound = |given: Option<i32>, default: i64| {
            given.map_or(default, |given| {
                let given = i64::from(given);
                (if given < 0 { given + length } else { given }).clamp(first, last)
            })
        };
        let (mut at, stop) =
            if step > 0 { (bound(start, first), bound(stop, last)) } else { (bound(start, last), bound(stop, first)) };
        let mut found = Vec::new();
        while if step > 0 { at < stop } else { at > stop } {
            found.extend(usize::try_from(at).ok().and_then(|at| items.get(at)).cloned());
            at += i64::from(step);
        }
        Ok(Arc::new(Json::Array(found)))
    }

    fn list(&self, elements: &[Ast], here: &Arc<Json>, strict: bool) -> Result<Arc<Json>, RenderError> {
        if matches!(**here, Json::Null) {
            return Ok(null());
        }
        let mut items = Vec::with_capacity(elements.len());
        for (position, element) in elements.iter().enumerate() {
            let item = self.of(element, here, strict)?;
            if strict && matches!(*item, Json::Null) {
                return Err(self.missing(element, here, Some(label("", position))));
            }
            items.push(item);
        }
        Ok(Arc::new(Json::Array(items)))
    }

    fn hash(&self, node: &Ast, here: &Arc<Json>, strict: bool) -> Result<Arc<Json>, RenderError> {
        let Ast::MultiHash { elements, .. } = node else { return Ok(null()) };
        if matches!(**here, Json::Null) {
            return Ok(null());
        }
        let mut entries = Vec::with_capacity(elements.len());
        for (position, pair) in elements.iter().enumerate() {
            let value = self.of(&pair.value, here, strict)?;
            if strict && matches!(*value, Json::Null) {
                return Err(self.missing(&pair.value, here, Some(label(&pair.key, position))));
            }
            entries.push((pair.key.clone().into(), value));
        }
        Ok(Arc::new(Json::Object(entries)))
    }

    fn literal(&self, offset: usize, value: &Variable) -> Result<Arc<Json>, RenderError> {
        self.spend(self.text.len())?;
        literal(self.text, offset, value)
    }

    fn function(&self, name: &str, args: &[Ast], here: &Arc<Json>) -> Result<Arc<Json>, RenderError> {
        // `Selector::new` has checked the name and the arguments' number and kinds.
        let Some(function) = Function::named(name) else { return Ok(null()) };
        let outcome = match function.body {
            Body::Values(call) => {
                let mut values = Vec::with_capacity(args.len());
                for arg in args {
                    let value = self.of(arg, here, false)?;
                    self.spend_on(&value)?;
                    values.push(value);
                }
                call(&values, &mut |work| self.spend(work).is_ok())
            }
            Body::Each { items, call } => {
                let Some((list, Ast::Expref { ast, .. })) = args.get(items).zip(args.get(1 - items)) else {
                    return Ok(null());
                };
                let list = self.of(list, here, false)?;
                match &*list {
                    Json::Array(items) => {
                        let each = items.iter().map(|item| self.of(ast, item, false));
                        let each = each.collect::<Result<Vec<_>, _>>()?;
                        call(items, &each)
                    }
                    other => Err(Failure::argument(items, "an array", other)),
                }
            }
        };
        outcome.map_err(|failure| match failure {
            Failure::Problem(problem) => {
                RenderError::Function { selector: self.text.to_owned(), function: function.name, problem }
            }
            Failure::TooMuch => self.too_much(),
        })
    }

    /// That `node` found nothing at `here`, with the key that was probably meant.
    fn missing(&self, node: &Ast, here: &Arc<Json>, part: Option<String>) -> RenderError {
        // `tls.crt` is a path; that the dot belongs to the key is easily overlooked.
        let dotted = dotted(node).filter(|path| path.contains('.') && here.field(path).is_some());
        let nearest = dotted.as_deref().map(quoted).or_else(|| self.nearest_key(node, here));
        RenderError::Missing { selector: self.text.to_owned(), part, nearest }
    }

    /// The key, spelled as a selector wants it, that is most like the first one missing on the
    /// path `node`. None when `node` is more than a path.
    fn nearest_key(&self, node: &Ast, here: &Arc<Json>) -> Option<String> {
        match (node, &**here) {
            (Ast::Subexpr { lhs, rhs, .. }, _) => {
                let left = self.of(lhs, here, false).ok()?;
                if matches!(*left, Json::Null) { self.nearest_key(lhs, here) } else { self.nearest_key(rhs, &left) }
            }
            (Ast::Field { name, .. }, Json::Object(entries)) if here.field(name).is_none() => {
                let keys = entries.iter().map(|(key, _)| key.as_str()).filter(|key| is_name(key));
                nearest(name, keys).map(quoted)
            }
            _ => None,
        }
    }

    fn spend_on(&self, json: &Json) -> Result<(), RenderError> {
        self.spend(json.weight(self.work_left.get()))
    }

    fn spend(&self, work: usize) -> Result<(), RenderError> {
        let left = self.work_left.get().checked_sub(work).ok_or_else(|| self.too_much())?;
        self.work_left.set(left);
        Ok(())
    }

    fn too_much(&self) -> RenderError {
        RenderError::TooMuch { selector: self.text.to_owned() }
    }
}

fn null() -> Arc<Json> {
    Arc::new(Json::Null)
}

fn boolean(value: bool) -> Arc<Json> {
    Arc::new(Json::Bool(value))
}

/// Truth as JMESPath has it: whatever is not false, null or empty.
fn is_true(json: &Json) -> bool {
    match json {
        Json::Null => false,
        Json::Bool(value) => *value,
        Json::Number(_) => true,
        Json::String(text) => !text.is_empty(),
        Json::Array(items) => !items.is_empty(),
        Json::Object(entries) => !entries.is_empty(),
    }
}

/// A path of keys alone, written as one text.
fn dotted(node: &Ast) -> Option<String> {
    match node {
        Ast::Field { name, .. } => Some(name.clone()),
        Ast::Subexpr { lhs, rhs, .. } => Some(format!("{}.{}", dotted(lhs)?, dotted(rhs)?)),
        _ => None,
    }
}

/// The item at `at`, counted from the end when negative.
fn index(json: &Json, at: i32) -> Option<&Arc<Json>> {
    let Json::Array(items) = json else { return None };
    let distance = usize::try_from(at.unsigned_abs()).ok()?;
    items.get(if at < 0 { items.len().checked_sub(distance)? } else { distance })
}
