//! What a pod asks for, read once: before the answer, the service account may have to be looked up.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::webhook::annotations::{PREFIX, Problem, Wish};

use super::draft::Draft;
use super::{Mutation, Settings, Surroundings, apply, untouched};

/// The annotation of a pod that stands for one which a kubelet runs of its own: it cannot be changed.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The most problems that are told of a pod: nobody mends more at once.
const PROBLEMS_MAX: usize = 40;

/// What a pod's annotations ask for.
#[derive(Clone, Debug)]
pub struct Asked {
    wish: Result<Option<Wish>, Vec<Problem>>,
    /// Whether the annotations are texts, whatever these say.
    is_read: bool,
}

impl Asked {
    /// Reads a pod's annotations.
    #[must_use]
    pub fn of(pod: &Value) -> Self {
        let read = ours(pod);
        let is_read = read.is_ok();
        let wish = read.and_then(|annotations| match annotations.is_empty() {
            true => Ok(None),
            false => Wish::read(&annotations),
        });
        Self { wish, is_read }
    }

    /// The service account whose role makes a difference, in the namespace of the pod, which is the one that was read.
    #[must_use]
    pub fn service_account<'p>(&self, pod: &'p Value) -> Option<&'p str> {
        let wish = self.wish.as_ref().ok()?.as_ref()?;
        if wish.role.is_some() {
            return None;
        }
        let spec = pod.get("spec")?;
        let named = |key: &str| spec.get(key).and_then(Value::as_str).filter(|name| !name.is_empty());
        // The second is the old name of the first; without either, the API server writes `default`.
        Some(named("serviceAccountName").or_else(|| named("serviceAccount")).unwrap_or("default"))
    }

    /// The pod as it is asked for; `None` where nothing is. It is the one that was read.
    ///
    /// # Errors
    /// Every mistake, not just the first, as far as a person can read them.
    pub fn mutate(
        self,
        pod: &Value,
        settings: &Settings,
        surroundings: &Surroundings,
    ) -> Result<Option<Mutation>, Vec<Problem>> {
        if matches!(self.wish, Ok(None)) {
            return Ok(None);
        }
        // Denied or changed, the kubelet could not show what it runs.
        if is_mirror(pod) {
            return Ok(Some(untouched(pod)));
        }
        let mutated = match (self.wish, Draft::read(pod)) {
            (Ok(None), _) => return Ok(None),
            (Err(problems), _) if !self.is_read => Err(problems),
            (Ok(Some(wish)), Ok(draft)) => apply(draft, &wish, settings, surroundings),
            (Ok(Some(_)), Err(problems)) | (Err(problems), Ok(_)) => Err(problems),
            (Err(mut problems), Err(others)) => {
                problems.extend(others);
                Err(problems)
            }
        };
        mutated.map(Some).map_err(cut)
    }
}

/// A pod as its annotations ask for; `None` where they ask for nothing.
///
/// # Errors
/// As [`Asked::mutate`].
pub fn mutate(pod: &Value, settings: &Settings, surroundings: &Surroundings) -> Result<Option<Mutation>, Vec<Problem>> {
    Asked::of(pod).mutate(pod, settings, surroundings)
}

fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations").is_some_and(|annotations| annotations.get(MIRROR).is_some())
}

fn cut(mut problems: Vec<Problem>) -> Vec<Problem> {
    if problems.len() > PROBLEMS_MAX {
        let more = problems.len() - (PROBLEMS_MAX - 1);
        problems.truncate(PROBLEMS_MAX - 1);
        problems.push(Problem { annotation: String::new(), text: format!("and {more} more; mend these first") });
    }
    problems
}

/// The annotations of ours.
fn ours(pod: &Value) -> Result<BTreeMap<String, String>, Vec<Problem>> {
    let problem = |text: &str| vec![Problem { annotation: String::new(), text: text.to_owned() }];
    let Some(pod) = pod.as_object() else { return Err(problem("this is no pod: it is no mapping")) };
    let Some(metadata) = pod.get("metadata").filter(|metadata| !metadata.is_null()) else { return Ok(BTreeMap::new()) };
    let Some(metadata) = metadata.as_object() else { return Err(problem("`metadata` is no mapping")) };
    let Some(all) = metadata.get("annotations").filter(|all| !all.is_null()) else { return Ok(BTreeMap::new()) };
    let Some(all) = all.as_object() else { return Err(problem("`metadata.annotations` is no mapping")) };
    let mut ours = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, value) in all.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
        match value {
            Value::String(text) => {
                ours.insert(name.clone(), text.clone());
            }
            other => {
                let fix = match other {
                    Value::Bool(_) | Value::Number(_) => format!("write it in quotes: \"{other}\""),
                    _ => "write it as a text, after `|`".to_owned(),
                };
                let text = format!("Kubernetes takes only texts as annotations; {fix}");
                problems.push(Problem { annotation: name.clone(), text });
            }
        }
    }
    if problems.is_empty() { Ok(ours) } else { Err(problems) }
}
