//! The difference of two objects as a JSON Patch (RFC 6902) that a person can read.
//!
//! Lists of things with names, such as containers, are compared by name, as Kubernetes itself does: a container
//! before all others is one step, and not a change of each. Other lists are compared from both ends.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use serde_json::{Map, Value};

/// One step of a patch.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Step {
    /// Puts a value where there is none, or before an element of a list.
    Add {
        /// Where: a JSON Pointer (RFC 6901).
        path: String,
        /// What.
        value: Value,
    },
    /// Takes away what is there.
    Remove {
        /// Where.
        path: String,
    },
    /// Puts a value in the place of another.
    Replace {
        /// Where.
        path: String,
        /// What.
        value: Value,
    },
}

/// The steps that make `after` of `before`: none if they are the same.
#[must_use]
pub fn between(before: &Value, after: &Value) -> Vec<Step> {
    let mut patch = Patch::default();
    patch.value(before, after);
    patch.steps
}

#[derive(Default)]
struct Patch {
    /// Where the comparison is: a JSON Pointer.
    path: String,
    steps: Vec<Step>,
}

impl Patch {
    fn value(&mut self, before: &Value, after: &Value) {
        match (before, after) {
            _ if before == after => {}
            (Value::Object(before), Value::Object(after)) => self.object(before, after),
            (Value::Array(before), Value::Array(after)) => match (names(before), names(after)) {
                (Some(old), Some(new)) => self.named(before, &old, after, &new),
                _ => self.list(before, after),
            },
            _ => self.steps.push(Step::Replace { path: self.path.clone(), value: after.clone() }),
        }
    }

    fn object(&mut self, before: &Map<String, Value>, after: &Map<String, Value>) {
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            self.under(key, Self::remove);
        }
        for (key, value) in after {
            self.under(key, |patch| match before.get(key) {
                Some(former) => patch.value(former, value),
                None => patch.add(value),
            });
        }
    }

    /// Takes away what is no more, from the end, puts in what is new, from the front, then changes what stayed.
    fn named(&mut self, before: &[Value], old: &[&str], after: &[Value], new: &[&str]) {
        let places: HashMap<&str, usize> = old.iter().enumerate().map(|(place, name)| (*name, place)).collect();
        let known: Vec<usize> = new.iter().filter_map(|name| places.get(name).copied()).collect();
        // Those that keep their order stay; what has moved is taken away and put in elsewhere.
        let stay: HashSet<usize> = longest_rising(&known).into_iter().collect();
        for place in (0..old.len()).rev().filter(|place| !stay.contains(place)) {
            self.under(&place.to_string(), Self::remove);
        }
        let former = |name: &str| places.get(name).filter(|place| stay.contains(place)).map(|place| &before[*place]);
        for (place, value) in after.iter().enumerate().filter(|(place, _)| former(new[*place]).is_none()) {
            self.under(&place.to_string(), |patch| patch.add(value));
        }
        for (place, value) in after.iter().enumerate() {
            if let Some(former) = former(new[place]) {
                self.under(&place.to_string(), |patch| patch.value(former, value));
            }
        }
    }

    fn list(&mut self, before: &[Value], after: &[Value]) {
        let same = |pair: &(&Value, &Value)| pair.0 == pair.1;
        let head = before.iter().zip(after).take_while(same).count();
        let (before, after) = (&before[head..], &after[head..]);
        let tail = before.iter().rev().zip(after.iter().rev()).take_while(same).count();
        let (before, after) = (&before[..before.len() - tail], &after[..after.len() - tail]);
        for (place, (former, value)) in before.iter().zip(after).enumerate() {
            self.under(&(head + place).to_string(), |patch| patch.value(former, value));
        }
        for place in (after.len()..before.len()).rev() {
            self.under(&(head + place).to_string(), Self::remove);
        }
        for (place, value) in after.iter().enumerate().skip(before.len()) {
            self.under(&(head + place).to_string(), |patch| patch.add(value));
        }
    }

    fn under(&mut self, key: &str, step: impl FnOnce(&mut Self)) {
        let outside = self.path.len();
        self.path.push('/');
        // RFC 6901, section 3.
        self.path.push_str(&key.replace('~', "~0").replace('/', "~1"));
        step(self);
        self.path.truncate(outside);
    }

    fn add(&mut self, value: &Value) {
        self.steps.push(Step::Add { path: self.path.clone(), value: value.clone() });
    }

    fn remove(&mut self) {
        self.steps.push(Step::Remove { path: self.path.clone() });
    }
}

/// The names of a list's elements, if each has one of its own.
fn names(list: &[Value]) -> Option<Vec<&str>> {
    let names: Vec<&str> = list.iter().map(|item| item.get("name")?.as_str()).collect::<Option<_>>()?;
    let distinct: HashSet<&str> = names.iter().copied().collect();
    (distinct.len() == names.len()).then_some(names)
}

/// The longest rising part of distinct numbers, not needing to be together (patience sorting).
fn longest_rising(numbers: &[usize]) -> Vec<usize> {
    // For each length, where the part of that length with the lowest end ends.
    let mut ends: Vec<usize> = Vec::new();
    let mut previous: Vec<Option<usize>> = Vec::with_capacity(numbers.len());
    for (at, number) in numbers.iter().enumerate() {
        let length = ends.partition_point(|end| numbers[*end] < *number);
        previous.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut rising = Vec::new();
    let mut at = ends.last().copied();
    while let Some(place) = at {
        rising.push(numbers[place]);
        at = previous[place];
    }
    rising.reverse();
    rising
}
